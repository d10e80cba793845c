//! [`Report`]: what the file system is about, for whoever asks.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::write::Draft;
use super::{Fs, shelf, spool};
use crate::{cache, client};

/// What the file system does and holds, from the sessions up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub writable: bool,
    /// It is no longer mounted, and goes on uploading.
    pub leaving: bool,
    pub metadata_cache: cache::Use,
    /// Where `cache_dir=` is given.
    pub content_cache: Option<shelf::Use>,
    /// What was written and is not on the server, the oldest first.
    pub pending: Vec<Pending>,
    pub server: client::Report,
}

/// A file that is written, or waits to be uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Of them, what is still to be uploaded.
    pub owed: u64,
    pub state: PendingState,
    /// Why it could not be uploaded.
    pub failure: Option<String>,
    /// Seconds since 1970 when it was begun, or when that failed.
    pub since: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PendingState {
    /// A program may still write to it.
    Open,
    Uploading,
    Waiting,
    Failed,
}

impl Fs {
    pub fn report(&self) -> Report {
        let mut pending: Vec<_> = self
            .drafts
            .all()
            .iter()
            .filter_map(|d| self.pending_upload(d))
            .collect();
        pending.sort_by_key(|pending| pending.since);
        Report {
            writable: self.check_writable().is_ok(),
            leaving: self.is_closed(),
            metadata_cache: self.cache.in_use(),
            content_cache: self.config.shelf.as_ref().map(|shelf| shelf.in_use()),
            pending,
            server: self.remote.report(),
        }
    }

    fn pending_upload(&self, draft: &Draft) -> Option<Pending> {
        if draft.is_over() {
            return None;
        }
        let facts = |record: &spool::Record| {
            let failure = record.failure.clone();
            let (path, size) = (record.path.to_string(), record.size);
            (
                path,
                size,
                record.dirty().covered(),
                failure,
                record.created,
            )
        };
        // One that is over by now is not pending.
        let (path, size, owed, failure, created) = draft.file.with(facts).ok()?;
        let state = match failure {
            _ if draft.is_on_its_way() => PendingState::Uploading,
            _ if self.drafts.is_open(draft.ino) => PendingState::Open,
            Some(_) => PendingState::Failed,
            None => PendingState::Waiting,
        };
        let since = failure.as_ref().map_or(created, |failure| failure.since);
        Some(Pending {
            path,
            size,
            owed,
            state,
            failure: failure.map(|failure| failure.reason),
            since: seconds(since),
        })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
