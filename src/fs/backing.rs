//! What the kernel reads by itself: the local file that has all of a file's content ([`Backing`]). It comes
//! from the content cache, and lives as long as a handle that is read so is open.
//!
//! Such reads never come to us. So what we change of the file meanwhile is changed in the local file too,
//! which the cache has forgotten by then; what others change on the server those handles do not see.
//!
//! Must not know the kernel.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use lru::LruCache;
use parking_lot::Mutex;

use super::Ino;
use super::shelf::{Edition, Shelf};
use super::spool::SpoolError;
use crate::proto::RemotePath;
use crate::remote::Attributes;

/// How many files are spared at most.
const SPARED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// See the module.
#[derive(Debug)]
pub struct Backing {
    data: File,
    /// What the server has of the same content; `None` while we change what it says of it. A leaf lock.
    edition: Mutex<Option<Edition>>,
    /// The local file could not follow a change.
    astray: AtomicBool,
    /// Held over a change of the draft and of the local file, so that both are changed in one order.
    order: Mutex<()>,
    shelf: Option<Shelf>,
}

/// One for each inode at most. A leaf lock.
#[derive(Default)]
pub(super) struct Backings(Mutex<Table>);

struct Table {
    by_inode: HashMap<Ino, Entry>,
    /// See [`Backings::leave_to`].
    heirs: HashMap<RemotePath, Weak<Backing>>,
    /// Files that somebody could not open for that reason.
    spared: LruCache<RemotePath, ()>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            by_inode: HashMap::new(),
            heirs: HashMap::new(),
            spared: LruCache::new(SPARED),
        }
    }
}

struct Entry {
    backing: Weak<Backing>,
    /// Else it only follows.
    is_read: bool,
}

impl Backing {
    /// One of a file that is open for reading and writing. Counted with `shelf`.
    pub(crate) fn new(data: File, edition: Edition, shelf: Option<Shelf>) -> Self {
        Self {
            data,
            edition: Mutex::new(Some(edition)),
            astray: AtomicBool::new(false),
            order: Mutex::new(()),
            shelf,
        }
    }

    /// The local file.
    pub fn file(&self) -> &File {
        &self.data
    }

    /// Whether it is still the file's content.
    pub fn is_true(&self) -> bool {
        !self.astray.load(Ordering::Relaxed)
    }

    /// The kernel reads it for one more handle.
    pub fn count(&self) {
        if let Some(shelf) = &self.shelf {
            shelf.count_passed();
        }
    }

    /// Whether the server's content is the same.
    pub(super) fn is_of(&self, attributes: &Attributes) -> bool {
        self.edition.lock().is_none_or(|edition| {
            let is_same_file = edition.unique.is_none() || edition.unique == attributes.unique;
            is_same_file && edition.version == attributes.version()
        })
    }

    /// What is known of a file that has lost its name, with what is read of it.
    pub(super) fn shown(&self, known: &Attributes) -> Attributes {
        let size = self.data.metadata().map_or(known.size, |data| data.len());
        Attributes {
            size,
            mtime: self
                .edition
                .lock()
                .map_or(known.mtime, |edition| edition.version.mtime),
            ..known.clone()
        }
    }

    /// We are about to change what the server says of it, until [`Backing::became`].
    pub(super) fn unsettle(&self) {
        *self.edition.lock() = None;
    }

    /// We ourselves gave the server what it is now. Whether that is another file there, time will tell.
    pub(super) fn became(&self, attributes: &Attributes) {
        *self.edition.lock() = Some(Edition {
            version: attributes.version(),
            unique: None,
        });
    }

    /// Changes the draft, and then the local file.
    pub(super) fn follow<T>(
        &self,
        change: impl FnOnce() -> Result<T, SpoolError>,
        same: impl FnOnce(&File, &T) -> io::Result<()>,
    ) -> Result<T, SpoolError> {
        let _order = self.order.lock();
        let changed = change()?;
        if let Err(error) = same(&self.data, &changed)
            && !self.astray.swap(true, Ordering::Relaxed)
        {
            log::warn!(
                "content cache: {error}: who has the file open does not see what was written"
            );
        }
        Ok(changed)
    }
}

impl Backings {
    /// What the kernel reads of an inode, where it does.
    pub fn of(&self, ino: Ino) -> Option<Arc<Backing>> {
        let table = self.0.lock();
        let entry = table.by_inode.get(&ino).filter(|entry| entry.is_read)?;
        entry.backing.upgrade()
    }

    /// What follows the changes of an inode: the same, or what is read by its name's former inode.
    pub fn following(&self, ino: Ino) -> Option<Arc<Backing>> {
        self.0.lock().by_inode.get(&ino)?.backing.upgrade()
    }

    /// What follows the changes of an inode, else `backing` from now on; `None` where others follow.
    pub fn share(&self, ino: Ino, backing: Backing) -> Option<Arc<Backing>> {
        let table = &mut *self.0.lock();
        if let Some(entry) = table.by_inode.get(&ino)
            && let Some(there) = entry.backing.upgrade()
        {
            return entry.is_read.then_some(there);
        }
        let is_live = |backing: &Weak<Backing>| backing.strong_count() > 0;
        table.by_inode.retain(|_, entry| is_live(&entry.backing));
        table.heirs.retain(|_, backing| is_live(backing));
        let backing = Arc::new(backing);
        let entry = Entry {
            backing: Arc::downgrade(&backing),
            is_read: true,
        };
        table.by_inode.insert(ino, entry);
        Some(backing)
    }

    /// What is next found at `path` is the same file by another number: its changes are followed as well.
    pub fn leave_to(&self, path: &RemotePath, backing: &Arc<Backing>) {
        let heirs = &mut self.0.lock().heirs;
        heirs.insert(path.clone(), Arc::downgrade(backing));
    }

    /// From now on the kernel is not to read the file at a path by itself.
    pub fn spare(&self, path: &RemotePath) {
        self.0.lock().spared.put(path.clone(), ());
    }

    pub fn spares(&self, path: &RemotePath) -> bool {
        self.0.lock().spared.contains(path)
    }

    /// An inode was found at a path.
    pub fn found(&self, ino: Ino, path: impl FnOnce() -> Option<RemotePath>) {
        let table = &mut *self.0.lock();
        if table.heirs.is_empty() || table.by_inode.contains_key(&ino) {
            return;
        }
        if let Some(backing) = path().and_then(|path| table.heirs.remove(&path)) {
            let is_read = false;
            table.by_inode.insert(ino, Entry { backing, is_read });
        }
    }

    /// An inode has another content now.
    pub fn stop(&self, ino: Ino) {
        self.0.lock().by_inode.remove(&ino);
    }
}
