//! Open files and open directories: the handles that the kernel holds, and the state that all
//! handles of one file share.
//!
//! A file that is replaced on the server while it is open goes on for its old handles as the old
//! content or not at all; new handles get a state of their own. What a file is written through
//! belongs into [`OpenFile`] too: there is one for each inode.
//!
//! Must not know the kernel or the cache. The table's lock is a leaf.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Ino;
use super::read::Reader;
use crate::cache::Directory;
use crate::remote::{Attributes, Version};

/// All handles.
pub(super) struct Files {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    files: HashMap<u64, Arc<OpenFile>>,
    directories: HashMap<u64, Arc<OpenDirectory>>,
    /// The state that the next handle of an inode shares.
    by_inode: HashMap<Ino, Arc<OpenFile>>,
    last: u64,
}

/// What the handles of one file share.
pub(super) struct OpenFile {
    pub ino: Ino,
    pub reader: Reader,
    /// The content that is being read. A leaf lock.
    content: Mutex<Content>,
    /// Whether the server holds another content by now.
    replaced: AtomicBool,
    /// Whether a reader, or the kernel's cache, may have seen some of the content.
    seen: AtomicBool,
    handles: AtomicUsize,
}

/// One open directory: what it held when it was opened or rewound, so that offsets stay true
/// whatever happens meanwhile.
pub(super) struct OpenDirectory {
    pub ino: Ino,
    /// A leaf lock.
    snapshot: Mutex<Snapshot>,
}

/// What identifies a file's content.
#[derive(Clone, Copy, Debug)]
struct Content {
    version: Version,
    unique: Option<u64>,
}

struct Snapshot {
    directory: Arc<Directory>,
    /// Whether it was read from.
    begun: bool,
}

impl Files {
    pub fn new() -> Self {
        Self {
            table: Mutex::new(Table::default()),
        }
    }

    /// A new handle of a file.
    pub fn open(&self, ino: Ino, attributes: &Attributes, reader: impl FnOnce() -> Reader) -> u64 {
        let content = Content::of(attributes);
        let table = &mut *self.table.lock();
        let shared = table.by_inode.get(&ino);
        let file = match shared.filter(|file| file.observe(content)) {
            Some(file) => file.clone(),
            None => {
                let file = Arc::new(OpenFile {
                    ino,
                    reader: reader(),
                    content: Mutex::new(content),
                    replaced: AtomicBool::new(false),
                    seen: AtomicBool::new(false),
                    handles: AtomicUsize::new(0),
                });
                table.by_inode.insert(ino, file.clone());
                file
            }
        };
        file.handles.fetch_add(1, Ordering::Relaxed);
        table.last += 1;
        table.files.insert(table.last, file);
        table.last
    }

    pub fn file(&self, handle: u64) -> Option<Arc<OpenFile>> {
        self.table.lock().files.get(&handle).cloned()
    }

    /// Takes note of what the server now says of a file that may be open.
    pub fn observe(&self, ino: Ino, attributes: &Attributes) {
        let file = self.table.lock().by_inode.get(&ino).cloned();
        if let Some(file) = file {
            file.observe(Content::of(attributes));
        }
    }

    /// Ends a handle; the inode that it held.
    pub fn close(&self, handle: u64) -> Option<Ino> {
        let table = &mut *self.table.lock();
        let file = table.files.remove(&handle)?;
        if file.handles.fetch_sub(1, Ordering::Relaxed) == 1 {
            let current = table.by_inode.get(&file.ino);
            if current.is_some_and(|f| Arc::ptr_eq(f, &file)) {
                table.by_inode.remove(&file.ino);
            }
            // At once, even if a read still holds the file.
            file.reader.close();
        }
        Some(file.ino)
    }

    pub fn open_directory(&self, ino: Ino, directory: Arc<Directory>) -> u64 {
        let table = &mut *self.table.lock();
        table.last += 1;
        let open = OpenDirectory {
            ino,
            snapshot: Mutex::new(Snapshot {
                directory,
                begun: false,
            }),
        };
        table.directories.insert(table.last, Arc::new(open));
        table.last
    }

    pub fn directory(&self, handle: u64) -> Option<Arc<OpenDirectory>> {
        self.table.lock().directories.get(&handle).cloned()
    }

    /// Ends a handle; the inode that it held.
    pub fn close_directory(&self, handle: u64) -> Option<Ino> {
        Some(self.table.lock().directories.remove(&handle)?.ino)
    }

    /// Ends all reading.
    pub fn close_all(&self) {
        let table = std::mem::take(&mut *self.table.lock());
        for file in table.files.values() {
            file.reader.close();
        }
    }
}

impl OpenFile {
    /// The content to read; `None` where it is no longer to be had.
    pub fn version(&self) -> Option<Version> {
        let replaced = self.replaced.load(Ordering::Relaxed);
        (!replaced).then(|| self.content.lock().version)
    }

    pub fn handles(&self) -> usize {
        self.handles.load(Ordering::Relaxed)
    }

    /// Some of the content is shown from now on: no other may follow.
    pub fn show(&self) {
        self.seen.store(true, Ordering::Relaxed);
    }

    /// Goes over to what the server holds now, if nobody has seen anything of what it held
    /// before: then what was known of the file when it was opened was merely old.
    pub fn adopt(&self, attributes: &Attributes) -> bool {
        if self.seen.load(Ordering::Relaxed) {
            return false;
        }
        self.reader.close();
        *self.content.lock() = Content::of(attributes);
        self.replaced.store(false, Ordering::Relaxed);
        true
    }

    /// The server holds another content: what is left of the old one must not be mixed with it.
    pub fn give_up(&self) {
        self.replaced.store(true, Ordering::Relaxed);
        self.reader.close();
    }

    /// Compares with what the server now says; whether it is the same content, possibly grown.
    fn observe(&self, now: Content) -> bool {
        if self.replaced.load(Ordering::Relaxed) {
            return false;
        }
        let mut content = self.content.lock();
        let same = content.continues_as(&now);
        if same {
            *content = now;
        }
        drop(content);
        if !same {
            self.give_up();
        }
        same
    }
}

impl OpenDirectory {
    /// The snapshot to go on reading from `offset`; `None` where the directory is being read from its
    /// beginning once more, and the snapshot should be a new one.
    pub fn snapshot(&self, offset: u64) -> Option<Arc<Directory>> {
        let mut snapshot = self.snapshot.lock();
        if offset == 0 && std::mem::replace(&mut snapshot.begun, true) {
            return None;
        }
        Some(snapshot.directory.clone())
    }

    pub fn rewind(&self, directory: Arc<Directory>) {
        self.snapshot.lock().directory = directory;
    }
}

impl Content {
    fn of(attributes: &Attributes) -> Self {
        Self {
            version: Version {
                size: attributes.size,
                mtime: attributes.mtime,
            },
            unique: attributes.unique,
        }
    }

    /// Whether `now` is the same content, or has grown from it. A file that only grew was also
    /// written later.
    fn continues_as(&self, now: &Self) -> bool {
        let same_file = match (self.unique, now.unique) {
            (Some(then), Some(now)) => then == now,
            _ => true,
        };
        let (then, now) = (self.version, now.version);
        let same_content = match now.size == then.size {
            true => now.mtime == then.mtime,
            false => now.size > then.size && now.mtime >= then.mtime,
        };
        same_file && same_content
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn content(size: u64, seconds: u64, unique: Option<u64>) -> Content {
        let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Content {
            version: Version { size, mtime },
            unique,
        }
    }

    #[test]
    fn growth_is_no_change() {
        let then = content(10, 100, Some(1));
        assert!(then.continues_as(&then));
        assert!(then.continues_as(&content(11, 100, Some(1))));
        assert!(then.continues_as(&content(11, 101, Some(1))));
        assert!(then.continues_as(&content(11, 101, None)));
        assert!(!then.continues_as(&content(10, 101, Some(1))));
        assert!(!then.continues_as(&content(9, 101, Some(1))));
        assert!(!then.continues_as(&content(11, 99, Some(1))));
        assert!(!then.continues_as(&content(11, 101, Some(2))));
    }
}
