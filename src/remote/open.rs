//! Changes of which the server did not say whether they took place. Who asks for the same once more
//! is told that it is done, where an earlier attempt has done it. That is right only where nobody was
//! told that it failed: `hard` asks again and again before it answers.
//!
//! One leaf mutex.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use crate::proto::RemotePath;

/// So many are remembered, and for so long: a server may be down for hours.
const MOST: NonZeroUsize = NonZeroUsize::new(256).unwrap();
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What was asked for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Change {
    Mkdir(RemotePath),
    Rmdir(RemotePath),
    Unlink(RemotePath),
    Rename(RemotePath, RemotePath),
    Symlink(RemotePath),
}

/// See the module.
pub(super) struct Open {
    /// Whether anybody asks again.
    wanted: AtomicBool,
    changes: Mutex<LruCache<Change, Instant>>,
}

impl Open {
    pub fn new() -> Self {
        Self {
            wanted: AtomicBool::new(false),
            changes: Mutex::new(LruCache::new(MOST)),
        }
    }

    pub fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    pub fn contains(&self, change: &Change) -> bool {
        let changes = self.changes.lock();
        changes
            .peek(change)
            .is_some_and(|at| at.elapsed() < LIFETIME)
    }

    /// It is asked for again: whether it may have been done already.
    pub fn take(&self, change: &Change) -> bool {
        let at = self.changes.lock().pop(change);
        at.is_some_and(|at| at.elapsed() < LIFETIME)
    }

    pub fn keep(&self, change: Change) {
        if self.wanted.load(Ordering::Relaxed) {
            self.changes.lock().put(change, Instant::now());
        }
    }
}
