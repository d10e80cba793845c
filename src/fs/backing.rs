//! What the kernel reads by itself (FUSE passthrough): the local file that has all of a file's content
//! ([`Backing`]), from the content cache.
//!
//! Only where nothing can be written: such reads never come to us, so a handle that is read so keeps the content
//! that the file had when it was opened. What others have made of the file since is another one, with a number
//! of its own.
//!
//! Must not know the kernel.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::shelf::Edition;
use super::{Fs, Ino};
use crate::remote::Attributes;

/// What is younger may be a log that grows, which its readers would not see.
const AGE: Duration = Duration::from_secs(24 * 3600);

/// See the module. It lives as long as a handle is read so.
#[derive(Debug)]
pub struct Backing {
    /// Until the kernel has it.
    data: Mutex<Option<File>>,
    attributes: Attributes,
}

/// One for each inode at most. A leaf lock.
#[derive(Default)]
pub(super) struct Backings(Mutex<HashMap<Ino, Weak<Backing>>>);

impl Backing {
    pub(crate) fn new(data: File, attributes: Attributes) -> Self {
        Self {
            data: Mutex::new(Some(data)),
            attributes,
        }
    }

    /// Names the local file to the kernel by `register`, and closes it. `None` where that is not to be had.
    pub fn hand_over<T>(&self, register: impl FnOnce(&File) -> io::Result<T>) -> Option<T> {
        let data = self.data.lock().take()?;
        register(&data)
            .inspect_err(|error| log::debug!("the kernel does not read a file itself: {error}"))
            .ok()
    }

    fn is_of(&self, attributes: &Attributes) -> bool {
        Edition::of(attributes) == Edition::of(&self.attributes)
    }
}

impl Backings {
    fn of(&self, ino: Ino) -> Option<Arc<Backing>> {
        self.0.lock().get(&ino)?.upgrade()
    }

    /// The one that is there, else `backing`.
    fn share(&self, ino: Ino, backing: Backing) -> Arc<Backing> {
        let mut table = self.0.lock();
        if let Some(there) = table.get(&ino).and_then(Weak::upgrade) {
            return there;
        }
        if table.len() == table.capacity() {
            table.retain(|_, backing| backing.strong_count() > 0);
        }
        let backing = Arc::new(backing);
        table.insert(ino, Arc::downgrade(&backing));
        backing
    }
}

impl Fs {
    /// Whether the kernel may read files by itself.
    pub fn passes(&self) -> bool {
        let config = &self.config;
        config.passthrough && config.spool.is_none() && config.shelf.is_some()
    }

    /// The kernel reads a file by itself for one more handle.
    pub fn count_passed(&self) {
        if let Some(shelf) = &self.config.shelf {
            shelf.count_passed();
        }
    }

    /// What the kernel may read of a file that is so described.
    pub(super) fn backing(&self, ino: Ino, attributes: &Attributes) -> Option<Arc<Backing>> {
        if !self.passes() {
            return None;
        }
        let backing = self.backings.of(ino).or_else(|| {
            let shelf = self.config.shelf.as_ref()?;
            let age = SystemTime::now().duration_since(attributes.mtime).ok()?;
            let edition = Edition::of(attributes).filter(|_| age >= AGE)?;
            let data = shelf.proven(&self.inodes.path(ino)?, &edition)?;
            let backing = Backing::new(data, attributes.clone());
            Some(self.backings.share(ino, backing))
        })?;
        backing.is_of(attributes).then_some(backing)
    }

    /// What is known of a file that the kernel reads by itself.
    pub(super) fn passed(&self, ino: Ino) -> Option<Attributes> {
        Some(self.backings.of(ino)?.attributes.clone())
    }

    /// Where the kernel reads an inode by itself, and the server has another content under its name by `now`: the
    /// name is taken from it, and gets a new number when it is looked up. Whether it is so.
    pub(super) fn parts(&self, ino: Ino, now: &Attributes) -> bool {
        let backing = self.backings.of(ino);
        let parts = backing.is_some_and(|backing| !backing.is_of(now));
        if parts {
            self.inodes.vanish(ino);
        }
        parts
    }
}
