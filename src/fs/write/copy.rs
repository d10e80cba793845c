//! Copying a whole file on the server, without its bytes coming here: under a temporary name, then
//! published as an upload is.
//!
//! Must not know the kernel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Error, Fs, Ino, Patience};
use super::Draft;
use super::send::Sent;
use super::upload::{Clock, Stop, Task};
use crate::proto::RemotePath;
use crate::remote::Attributes;

/// What a server is trusted to copy at the least, bytes per second.
const COPY_RATE: u64 = 10 << 20;

impl Fs {
    /// Whether the server offers to copy files at all.
    pub fn copies_files(&self) -> bool {
        self.remote.copies_files() && !self.config.direct
    }

    /// Makes the empty file of handle `to` a copy of all `len` bytes of the file of handle `from`,
    /// on the server. False where that cannot be: the bytes have to be read and written then.
    pub fn copy_whole(
        &self,
        from: u64,
        to: u64,
        len: u64,
        patience: Patience,
    ) -> Result<bool, Error> {
        let from = self.files.file(from).ok_or(Error::Stale)?;
        let to = self.files.file(to).ok_or(Error::Stale)?;
        let Some((source, draft)) = self.copyable(from.ino, to.ino, len) else {
            return Ok(false);
        };
        patience.deadline()?;
        match self.copy_there(&source, &draft, len) {
            Ok((server, _place)) => {
                self.copied(&draft, &server)?;
                Ok(true)
            }
            Err(stop) => {
                log::debug!("{source}: not copied on the server: {stop:?}");
                Ok(false)
            }
        }
    }

    /// The path to copy and the draft to fill, where the server has all of the one and nothing of
    /// the other is owed yet.
    fn copyable(&self, from: Ino, to: Ino, len: u64) -> Option<(RemotePath, Arc<Draft>)> {
        let is_clean = self.drafts.of(from).is_none_or(|draft| draft.is_clean());
        let size = self.files.of(from)?.attributes().size;
        let draft = self.drafts.of(to).filter(|draft| draft.is_untouched())?;
        let whole = len > 0 && size == len && from != to;
        (whole && is_clean && !self.inodes.is_unlinked(from))
            .then_some((self.inodes.path(from)?, draft))
    }

    fn copy_there<'a>(
        &self,
        source: &RemotePath,
        draft: &'a Draft,
        len: u64,
    ) -> Result<Sent<'a>, Stop> {
        let _upload = draft.upload.lock();
        let beside = self.beside(draft)?;
        let temporary = self.whereabouts(&beside)?;
        let patience = self.config.timeout + Duration::from_secs(len / COPY_RATE);
        let copied = self
            .remote
            .copy(source, &temporary, Instant::now() + patience);
        let published = copied.map_err(Stop::Remote).and_then(|()| {
            let mut clock = Clock::new(self.config.timeout, self.config.min_rate);
            let task = Task::copied(draft, len);
            self.publish(draft, &task, &beside, &mut clock)
        });
        if let Err(stop) = &published {
            self.clean_up(&beside, stop);
        }
        published
    }

    /// The server has the copy under its name: the draft has nothing to add, and what is written
    /// from now on is a change of what is there.
    fn copied(&self, draft: &Arc<Draft>, server: &Attributes) -> Result<(), Error> {
        if !self.drafts.supersede(draft) {
            // Cut or written meanwhile, by somebody who did not wait for the copy.
            return Ok(draft.replace(server)?);
        }
        if let Some(path) = self.inodes.path(draft.ino) {
            self.made(draft.ino, &path, server);
        }
        // The draft's own hold; the handle has another.
        self.inodes.forget(draft.ino, 1);
        Ok(())
    }
}
