//! Changes of which the server did not say whether they took place. Who asks for the same once more
//! (`hard` does) is told that it is done, where an earlier attempt has done it.
//!
//! One leaf mutex.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use crate::proto::RemotePath;

/// So many, and for so long, are remembered: longer than anybody waits before asking again.
const MOST: NonZeroUsize = NonZeroUsize::new(256).unwrap();
const LIFETIME: Duration = Duration::from_secs(60);

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
pub(super) struct Open(Mutex<LruCache<Change, Instant>>);

impl Open {
    pub fn new() -> Self {
        Self(Mutex::new(LruCache::new(MOST)))
    }

    pub fn contains(&self, change: &Change) -> bool {
        let open = self.0.lock();
        open.peek(change).is_some_and(|at| at.elapsed() < LIFETIME)
    }

    /// It is asked for again: whether it may have been done already.
    pub fn take(&self, change: &Change) -> bool {
        let at = self.0.lock().pop(change);
        at.is_some_and(|at| at.elapsed() < LIFETIME)
    }

    pub fn keep(&self, change: Change) {
        self.0.lock().put(change, Instant::now());
    }
}
