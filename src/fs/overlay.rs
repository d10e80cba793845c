//! What the server cannot keep of a file's attributes, shown for the life of the mount: an owner,
//! permission bits, a time.
//!
//! Must not know the server or the kernel. One leaf mutex, held for memory work only.

use std::time::SystemTime;

use lru::LruCache;
use parking_lot::Mutex;

use super::{Attr, Ino};

/// See the module.
pub(super) struct Overlay {
    most: usize,
    files: Mutex<LruCache<Ino, Worn>>,
}

/// What one file is shown with.
#[derive(Clone, Copy, Debug, Default)]
struct Worn {
    mode: Option<u16>,
    uid: Option<u32>,
    gid: Option<u32>,
    time: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Time {
    shown: SystemTime,
    /// In place of this one of the server's: once that changes, the file was written.
    instead: SystemTime,
    /// `instead` is not the server's word yet: it may change once.
    guessed: bool,
}

impl Overlay {
    /// For so many files at most.
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            files: Mutex::new(LruCache::unbounded()),
        }
    }

    pub fn set_mode(&self, ino: Ino, mode: u16) {
        self.wear(ino, |worn| worn.mode = Some(mode));
    }

    /// The server has taken the mode after all.
    pub fn drop_mode(&self, ino: Ino) {
        if let Some(worn) = self.files.lock().get_mut(&ino) {
            worn.mode = None;
        }
    }

    pub fn set_owner(&self, ino: Ino, uid: Option<u32>, gid: Option<u32>) {
        self.wear(ino, |worn| {
            worn.uid = uid.or(worn.uid);
            worn.gid = gid.or(worn.gid);
        });
    }

    /// Shows a time as long as the server says `instead`; `guessed`: what it says is not known.
    pub fn set_time(&self, ino: Ino, shown: SystemTime, instead: SystemTime, guessed: bool) {
        let time = Time {
            shown,
            instead,
            guessed,
        };
        self.wear(ino, |worn| worn.time = Some(time));
    }

    /// An inode number stands for another file from now on.
    pub fn forget(&self, ino: Ino) {
        self.files.lock().pop(&ino);
    }

    pub fn apply(&self, attr: &mut Attr) {
        let mut files = self.files.lock();
        let Some(worn) = files.get_mut(&attr.ino) else {
            return;
        };
        attr.mode = worn.mode.unwrap_or(attr.mode);
        attr.uid = worn.uid.unwrap_or(attr.uid);
        attr.gid = worn.gid.unwrap_or(attr.gid);
        if let Some(time) = &mut worn.time {
            if attr.time != time.instead && std::mem::take(&mut time.guessed) {
                time.instead = attr.time;
            }
            if attr.time == time.instead {
                attr.time = time.shown;
            }
        }
    }

    fn wear(&self, ino: Ino, change: impl FnOnce(&mut Worn)) {
        let mut files = self.files.lock();
        change(files.get_or_insert_mut(ino, Worn::default));
        if files.len() > self.most {
            files.pop_lru();
        }
    }
}
