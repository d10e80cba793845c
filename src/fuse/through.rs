//! Files that the kernel reads by itself, from a local file (FUSE passthrough): how each handle of an inode is
//! opened ([`Through`]). Only on mounts that nothing is written to.
//!
//! The kernel refuses (EIO) to have an inode's pages of its own and to pass reads on at a time, and allows one
//! local file for an inode. So the first open handle decides for those that come while any is open. A handle
//! is counted here before the kernel hears of it, until its RELEASE, before which the kernel has ended its own
//! count.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use fuser::BackingId;
use parking_lot::Mutex;

use crate::fs::{Backing, Ino};

/// See the module. `B` names a local file to the kernel.
pub(super) struct Through<B = BackingId>(Mutex<HashMap<Ino, Mode<B>>>);

/// How the open handles of an inode are read.
struct Mode<B> {
    handles: usize,
    /// `None`: through the kernel's pages.
    passed: Option<(Arc<Backing>, Arc<B>)>,
}

/// Those who have the file open read another content of it, without us.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Other;

impl<B> Through<B> {
    pub fn new() -> Self {
        Self(Mutex::default())
    }

    /// Counts a handle. What the kernel is to read for it: of `backing`, which `register` names to the kernel;
    /// `None`: its own pages.
    pub fn open(
        &self,
        ino: Ino,
        backing: Option<&Arc<Backing>>,
        register: impl FnOnce(&File) -> io::Result<B>,
    ) -> Result<Option<Arc<B>>, Other> {
        let mut modes = self.0.lock();
        let mode = modes.entry(ino).or_insert_with(|| Mode {
            handles: 0,
            passed: backing.and_then(|backing| {
                let id = backing.hand_over(register)?;
                Some((backing.clone(), Arc::new(id)))
            }),
        });
        let id = match &mode.passed {
            None => None,
            Some((passed, id)) if backing.is_some_and(|b| Arc::ptr_eq(b, passed)) => Some(id),
            Some(_) => return Err(Other),
        };
        mode.handles += 1;
        Ok(id.cloned())
    }

    /// A handle's RELEASE has come.
    pub fn release(&self, ino: Ino) {
        let mut modes = self.0.lock();
        if let Some(mode) = modes.get_mut(&ino) {
            mode.handles -= 1;
            if mode.handles == 0 {
                modes.remove(&ino);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::remote::Attributes;

    const INO: Ino = Ino(7);

    fn backing() -> Arc<Backing> {
        let attributes = Attributes::file(0, SystemTime::UNIX_EPOCH);
        Arc::new(Backing::new(tempfile::tempfile().unwrap(), attributes))
    }

    fn never(_: &File) -> io::Result<u32> {
        panic!("the kernel is not asked")
    }

    #[test]
    fn the_first_handle_decides_until_the_last_is_released() {
        let (through, backing) = (Through::new(), backing());
        let open = |backing| through.open(INO, backing, never);
        assert_eq!(open(None), Ok(None));
        assert_eq!(open(Some(&backing)), Ok(None));
        through.release(INO);
        assert_eq!(open(Some(&backing)), Ok(None));
        through.release(INO);
        through.release(INO);
        let first = through.open(INO, Some(&backing), |_| Ok(5));
        assert_eq!(first, Ok(Some(Arc::new(5))));
        assert_eq!(open(Some(&backing)), first);
        let other = self::backing();
        assert_eq!(open(Some(&other)), Err(Other));
        assert_eq!(open(None), Err(Other));
        through.release(INO);
        through.release(INO);
        // Nothing is held for those who are done.
        assert!(through.0.lock().is_empty());
        assert_eq!(Arc::strong_count(&backing), 1);
    }

    #[test]
    fn where_the_kernel_refuses_its_pages_are_read() {
        let (through, refused) = (Through::<u32>::new(), backing());
        let refuse = |_: &File| Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(through.open(INO, Some(&refused), refuse), Ok(None));
        assert_eq!(through.open(INO, Some(&refused), never), Ok(None));
        assert_eq!(through.open(INO, Some(&backing()), never), Ok(None));
    }
}
