//! Renewals: where a program makes one new file after another in a directory, that is listed again
//! before the absence of further names is too old to be believed, on a session that nobody else
//! needs. Else each of them would wait for a listing that comes due.
//!
//! One leaf lock, held for memory work only.

use std::collections::HashSet;
use std::slice;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;

use super::walk::PATIENCE;
use super::{Fs, remaining};
use crate::proto::RemotePath;

/// The directories that are being listed again.
#[derive(Default)]
pub(super) struct Renewals(Mutex<HashSet<RemotePath>>);

impl Fs {
    /// A name is absent from `directory`, and that is believed until then.
    pub(super) fn renew(&self, directory: &RemotePath, until: Instant) {
        let left = remaining(until);
        let is_due = !left.is_zero() && left <= self.config.negative_timeout / 2;
        if !is_due || !self.config.prefetch || !self.cache.was_made_in(directory) {
            return;
        }
        let Some(fs) = self.this.upgrade() else {
            return;
        };
        if !self.renewals.0.lock().insert(directory.clone()) {
            return;
        }
        let renewal = Renewal {
            fs,
            directory: directory.clone(),
        };
        let thread = thread::Builder::new().name("renew".to_owned());
        if let Err(error) = thread.spawn(move || renewal.list()) {
            log::error!("starting the thread that lists {directory} again: {error}");
        }
    }
}

/// One that is under way.
struct Renewal {
    fs: Arc<Fs>,
    directory: RemotePath,
}

impl Renewal {
    /// Who comes when what is known is too old lists for himself.
    fn list(&self) {
        let Some(spare) = self.fs.remote.spare() else {
            return;
        };
        let now = Instant::now();
        let ticket = self.fs.cache.begin(now);
        let deadline = now + PATIENCE.min(self.fs.config.timeout);
        let listed = spare.list(slice::from_ref(&self.directory), deadline);
        if let Some(listing) = listed.into_iter().flatten().next() {
            self.fs.keep_listing(&self.directory, ticket, listing);
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.fs.renewals.0.lock().remove(&self.directory);
    }
}
