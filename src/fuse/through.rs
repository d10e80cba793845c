//! Files that the kernel reads by itself, from a local file (FUSE passthrough): how each handle of an inode
//! may be opened ([`Through`]).
//!
//! The kernel refuses (EIO) to have an inode's pages of its own and to pass reads on at a time, and allows one
//! local file for an inode. So the first open handle decides for those that come while any is open. Who writes
//! while reads are passed on does so past the pages (direct I/O) and has to name the local file all the same;
//! mapped into memory such a handle would be the local file, so nobody gets one who may write through that:
//! writing needs a handle that reads as well.
//!
//! A handle is counted here before the kernel hears of it, until its RELEASE, before which the kernel has
//! ended its own count. Must not know what the files hold.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::BackingId;
use parking_lot::Mutex;

use crate::fs::{Backing, Ino};

/// See the module. `B` names a local file to the kernel.
pub(super) struct Through<B = BackingId> {
    modes: Mutex<HashMap<Ino, Mode<B>>>,
    /// Whether the kernel passes reads on, as far as we know.
    works: AtomicBool,
}

/// How the open handles of an inode are read.
struct Mode<B> {
    handles: usize,
    /// `None`: through the kernel's pages.
    passed: Option<Passed<B>>,
}

struct Passed<B> {
    /// What is written follows into this while we hold it.
    backing: Arc<Backing>,
    id: Arc<B>,
}

/// A handle that is counted, until it is dropped or its RELEASE has come.
pub(super) struct Place<B = BackingId> {
    through: Arc<Through<B>>,
    ino: Ino,
    how: How<B>,
    kept: bool,
}

/// How a handle is opened.
pub(super) enum How<B = BackingId> {
    /// Through the kernel's pages, as ever.
    Cached,
    /// Read by the kernel from the local file.
    Passed(Arc<B>),
    /// Read and written by us, past the pages, while others are passed on.
    Direct(Arc<B>),
}

/// Why a handle cannot be opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// Others read another content of it.
    Other,
    /// Others read it, and this one could write through memory.
    Busy,
}

impl<B> Through<B> {
    pub fn new() -> Self {
        Self {
            modes: Mutex::default(),
            works: AtomicBool::new(false),
        }
    }

    /// The kernel has said that it passes reads on.
    pub fn begin(&self) {
        self.works.store(true, Ordering::Relaxed);
    }

    /// Counts a handle that can write; `reads`: it can read as well.
    pub fn write(self: &Arc<Self>, ino: Ino, reads: bool) -> Result<Place<B>, Conflict> {
        let mut modes = self.modes.lock();
        let mode = modes.entry(ino).or_insert_with(Mode::cached);
        let how = match &mode.passed {
            None => How::Cached,
            Some(_) if reads => return Err(Conflict::Busy),
            Some(passed) => How::Direct(passed.id.clone()),
        };
        mode.handles += 1;
        Ok(self.place(ino, how))
    }

    /// Counts a handle that can only read. `backing`: what the kernel may read for it. `register` names that
    /// to the kernel.
    pub fn read(
        self: &Arc<Self>,
        ino: Ino,
        backing: Option<&Arc<Backing>>,
        register: impl FnOnce(&File) -> io::Result<B>,
    ) -> Result<Place<B>, Conflict> {
        let mut modes = self.modes.lock();
        let mode = match modes.entry(ino) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(none) => {
                let passed = backing.and_then(|backing| self.pass(backing, register));
                none.insert(Mode { handles: 0, passed })
            }
        };
        let how = match &mode.passed {
            None => How::Cached,
            Some(passed) if !backing.is_some_and(|b| Arc::ptr_eq(b, &passed.backing)) => {
                return Err(Conflict::Other);
            }
            Some(passed) if passed.backing.is_true() => How::Passed(passed.id.clone()),
            Some(passed) => How::Direct(passed.id.clone()),
        };
        mode.handles += 1;
        Ok(self.place(ino, how))
    }

    fn pass(
        &self,
        backing: &Arc<Backing>,
        register: impl FnOnce(&File) -> io::Result<B>,
    ) -> Option<Passed<B>> {
        if !self.works.load(Ordering::Relaxed) {
            return None;
        }
        match register(backing.file()) {
            Ok(id) => Some(Passed {
                backing: backing.clone(),
                id: Arc::new(id),
            }),
            Err(error) => {
                log::debug!(
                    "the kernel does not read files of the content cache by itself: {error}"
                );
                self.works.store(false, Ordering::Relaxed);
                None
            }
        }
    }

    /// A handle's RELEASE has come.
    pub fn leave(&self, ino: Ino) {
        let mut modes = self.modes.lock();
        let Entry::Occupied(mut mode) = modes.entry(ino) else {
            return;
        };
        mode.get_mut().handles -= 1;
        let over = (mode.get().handles == 0).then(|| mode.remove());
        drop(modes);
        drop(over);
    }

    fn place(self: &Arc<Self>, ino: Ino, how: How<B>) -> Place<B> {
        Place {
            through: self.clone(),
            ino,
            how,
            kept: false,
        }
    }
}

impl<B> Mode<B> {
    fn cached() -> Self {
        Self {
            handles: 0,
            passed: None,
        }
    }
}

impl<B> Place<B> {
    /// The kernel hears of the handle: its RELEASE will come.
    pub fn keep(mut self) -> How<B> {
        self.kept = true;
        std::mem::replace(&mut self.how, How::Cached)
    }
}

impl<B> Drop for Place<B> {
    fn drop(&mut self) {
        if !self.kept {
            self.through.leave(self.ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::fs::shelf::Edition;
    use crate::remote::Version;

    const INO: Ino = Ino(7);

    fn backing() -> Arc<Backing> {
        let edition = Edition {
            version: Version::new(0, SystemTime::UNIX_EPOCH + Duration::from_secs(1)),
            unique: None,
        };
        Arc::new(Backing::new(tempfile::tempfile().unwrap(), edition, None))
    }

    fn through() -> Arc<Through<u32>> {
        let through = Arc::new(Through::new());
        through.begin();
        through
    }

    fn how(place: Result<Place<u32>, Conflict>) -> Result<(char, Option<u32>), Conflict> {
        place.map(|place| match place.keep() {
            How::Cached => ('c', None),
            How::Passed(id) => ('p', Some(*id)),
            How::Direct(id) => ('d', Some(*id)),
        })
    }

    fn never(_: &File) -> io::Result<u32> {
        panic!("the kernel is not asked")
    }

    #[test]
    fn the_first_handle_decides_until_the_last_is_released() {
        let (through, backing) = (through(), backing());
        assert_eq!(how(through.write(INO, true)), Ok(('c', None)));
        assert_eq!(
            how(through.read(INO, Some(&backing), never)),
            Ok(('c', None))
        );
        through.leave(INO);
        assert_eq!(
            how(through.read(INO, Some(&backing), never)),
            Ok(('c', None))
        );
        through.leave(INO);
        through.leave(INO);
        let passed = Ok(('p', Some(5)));
        assert_eq!(how(through.read(INO, Some(&backing), |_| Ok(5))), passed);
        assert_eq!(how(through.read(INO, Some(&backing), never)), passed);
        assert_eq!(how(through.write(INO, false)), Ok(('d', Some(5))));
        assert_eq!(how(through.write(INO, true)), Err(Conflict::Busy));
        let other = self::backing();
        assert_eq!(
            how(through.read(INO, Some(&other), never)),
            Err(Conflict::Other)
        );
        assert_eq!(how(through.read(INO, None, never)), Err(Conflict::Other));
        for _ in 0..3 {
            through.leave(INO);
        }
        assert!(through.modes.lock().is_empty());
        // Nothing is held for those who are done.
        assert_eq!(Arc::strong_count(&backing), 1);
    }

    #[test]
    fn a_handle_that_was_not_opened_does_not_count() {
        let (through, backing) = (through(), backing());
        drop(through.write(INO, true));
        drop(through.read(INO, Some(&backing), |_| Ok(1)));
        assert_eq!(
            how(through.read(INO, Some(&backing), |_| Ok(2))),
            Ok(('p', Some(2)))
        );
        through.leave(INO);
        assert!(through.modes.lock().is_empty());
    }

    #[test]
    fn a_kernel_that_refuses_is_not_asked_again() {
        let (through, backing) = (through(), backing());
        let refuses = |_: &File| Err(io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(
            how(through.read(INO, Some(&backing), refuses)),
            Ok(('c', None))
        );
        through.leave(INO);
        assert_eq!(
            how(through.read(INO, Some(&backing), never)),
            Ok(('c', None))
        );
    }
}
