//! Open files and open directories: the handles that the kernel holds, and the state that all
//! handles of one file share.
//!
//! A file that is replaced on the server while it is open goes on for its old handles as the old
//! content or not at all; new handles get a state of their own. What a file is written through
//! belongs into [`OpenFile`] too: there is one for each inode.
//!
//! Must not know the kernel or the cache. The table's lock is a leaf.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::Ino;
use super::read::{Reader, Target};
use super::shelf::Edition;
use crate::cache::Directory;
use crate::proto::RemotePath;
use crate::remote::{Attributes, Proof, Version};

/// Bytes kept of what was read last.
const PROOF: usize = 4 << 10;

/// All handles.
pub(super) struct Files {
    table: Mutex<Table>,
    /// Rung when a change of ours is done.
    changed: Condvar,
    /// How many changes are under way.
    changes: AtomicUsize,
    /// Counts what we ourselves made of files.
    clock: Arc<AtomicU64>,
}

/// When it was asked what the server holds, or what is known of that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked(u64);

#[derive(Default)]
struct Table {
    files: HashMap<u64, Handle>,
    directories: HashMap<u64, Arc<OpenDirectory>>,
    /// The state that the next handle of an inode shares.
    by_inode: HashMap<Ino, Arc<OpenFile>>,
    /// Those that we ourselves are changing on the server just now, and how often at a time.
    changing: HashMap<Ino, usize>,
    last: u64,
}

/// We ourselves are changing a file on the server, until this is dropped: what the server says of it meanwhile
/// may be that.
pub(super) struct Changing<'a> {
    files: &'a Files,
    ino: Ino,
}

struct Handle {
    file: Arc<OpenFile>,
    writer: bool,
}

/// A handle that was closed.
pub(super) struct Closed {
    /// What it held.
    pub ino: Ino,
    /// It could write.
    pub writer: bool,
    /// The file has no other.
    pub last: bool,
}

/// What the handles of one file share.
pub(super) struct OpenFile {
    pub ino: Ino,
    pub reader: Reader,
    /// The content that is being read. A leaf lock.
    content: Mutex<Content>,
    /// What was read of it last. A leaf lock.
    proof: Mutex<Option<Proof>>,
    /// Whether the server holds another content by now.
    replaced: AtomicBool,
    /// Whether a reader, or the kernel's cache, may have seen some of the content.
    seen: AtomicBool,
    handles: AtomicUsize,
    clock: Arc<AtomicU64>,
}

/// One open directory: what it held when it was opened or rewound, so that offsets stay true
/// whatever happens meanwhile.
pub(super) struct OpenDirectory {
    pub ino: Ino,
    /// A leaf lock.
    snapshot: Mutex<Snapshot>,
}

/// A file's content, by what identifies it.
#[derive(Clone, Debug)]
struct Content {
    attributes: Attributes,
    /// See [`Target`]. What was asked for before tells nothing of it.
    epoch: u64,
}

/// What a look at the server showed of a file that is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Observed {
    /// The same content for certain, or what was added to it.
    Same,
    /// Grown, or replaced by a longer file: what comes from here on has to be proven.
    Grown,
    Replaced,
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
            changed: Condvar::new(),
            changes: AtomicUsize::new(0),
            clock: Arc::default(),
        }
    }

    /// To be called before it is asked what [`Files::observe`] and [`Files::open`] are told.
    pub fn ask(&self) -> Asked {
        Asked(self.clock.load(Ordering::SeqCst))
    }

    /// A new handle of a file. `asked`: `None` where what is known of it comes from what we write
    /// ourselves, and tells nothing of what the server holds.
    pub fn open(
        &self,
        ino: Ino,
        attributes: &Attributes,
        writer: bool,
        asked: Option<Asked>,
        reader: impl FnOnce() -> Reader,
    ) -> u64 {
        let mut table = self.table.lock();
        let shared = table.by_inode.get(&ino).cloned();
        let asked = asked.filter(|_| !table.changing.contains_key(&ino));
        let is_same = |file: &Arc<OpenFile>| {
            asked.is_none_or(|asked| file.observe(attributes, asked) == Observed::Same)
        };
        let (file, other) = match shared {
            Some(file) if is_same(&file) => (file, None),
            other => {
                let file = Arc::new(OpenFile {
                    ino,
                    reader: reader(),
                    content: Mutex::new(Content {
                        attributes: attributes.clone(),
                        epoch: asked.unwrap_or_else(|| self.ask()).0,
                    }),
                    proof: Mutex::new(None),
                    replaced: AtomicBool::new(false),
                    seen: AtomicBool::new(false),
                    handles: AtomicUsize::new(0),
                    clock: self.clock.clone(),
                });
                table.by_inode.insert(ino, file.clone());
                (file, other)
            }
        };
        file.handles.fetch_add(1, Ordering::Relaxed);
        table.last += 1;
        let handle = table.last;
        table.files.insert(
            handle,
            Handle {
                file: file.clone(),
                writer,
            },
        );
        drop(table);
        if writer {
            file.reader.stop_far();
        }
        if let Some(other) = other {
            other.reader.close();
        }
        handle
    }

    pub fn file(&self, handle: u64) -> Option<Arc<OpenFile>> {
        let table = self.table.lock();
        Some(table.files.get(&handle)?.file.clone())
    }

    /// Takes note of what the server now says of a file that may be open.
    pub fn observe(&self, ino: Ino, attributes: &Attributes, asked: Asked) {
        let table = self.table.lock();
        let file = table.by_inode.get(&ino).cloned();
        let Some(file) = file.filter(|_| !table.changing.contains_key(&ino)) else {
            return;
        };
        let observed = file.observe(attributes, asked);
        drop(table);
        if observed != Observed::Same {
            file.reader.close();
        }
    }

    /// We ourselves have made something of a file, open or not.
    pub fn tick(&self) {
        self.clock.fetch_add(1, Ordering::SeqCst);
    }

    /// To be called before a file is changed on the server, and dropped once [`OpenFile::renew`] was.
    pub fn change(&self, ino: Ino) -> Changing<'_> {
        *self.table.lock().changing.entry(ino).or_default() += 1;
        self.changes.fetch_add(1, Ordering::SeqCst);
        Changing { files: self, ino }
    }

    /// Whether we ourselves are changing anything on the server just now.
    pub fn is_any_changing(&self) -> bool {
        self.changes.load(Ordering::SeqCst) > 0
    }

    /// Whether we ourselves are changing one of these on the server just now.
    pub fn are_changing(&self, inos: &[Ino]) -> bool {
        self.table.lock().is_changing(inos)
    }

    /// Waits until nothing that we ourselves are making of these on the server is under way.
    pub fn await_changes(&self, inos: &[Ino], deadline: Instant) {
        let mut table = self.table.lock();
        while table.is_changing(inos) {
            if self.changed.wait_until(&mut table, deadline).timed_out() {
                return;
            }
        }
    }

    /// What the handles of an open file share; of handles whose content was replaced, it is
    /// another.
    pub fn of(&self, ino: Ino) -> Option<Arc<OpenFile>> {
        self.table.lock().by_inode.get(&ino).cloned()
    }

    /// Whether a handle of it can write.
    pub fn has_writer(&self, ino: Ino) -> bool {
        let table = self.table.lock();
        let mut handles = table.files.values();
        handles.any(|handle| handle.writer && handle.file.ino == ino)
    }

    /// All files that are open.
    pub fn all(&self) -> Vec<Arc<OpenFile>> {
        self.table.lock().by_inode.values().cloned().collect()
    }

    /// Ends a handle.
    pub fn close(&self, handle: u64) -> Option<Closed> {
        let mut table = self.table.lock();
        let Handle { file, writer } = table.files.remove(&handle)?;
        let last = file.handles.fetch_sub(1, Ordering::Relaxed) == 1;
        let current = table.by_inode.get(&file.ino);
        if last && current.is_some_and(|f| Arc::ptr_eq(f, &file)) {
            table.by_inode.remove(&file.ino);
        }
        drop(table);
        if last {
            // At once, even if a read still holds the file.
            file.reader.end();
        }
        Some(Closed {
            ino: file.ino,
            writer,
            last,
        })
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

    /// Every handle of a file.
    pub fn handles(&self) -> Vec<u64> {
        self.table.lock().files.keys().copied().collect()
    }
}

impl Table {
    fn is_changing(&self, inos: &[Ino]) -> bool {
        inos.iter().any(|ino| self.changing.contains_key(ino))
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let mut table = self.files.table.lock();
        if let Entry::Occupied(mut times) = table.changing.entry(self.ino) {
            *times.get_mut() -= 1;
            self.files.changes.fetch_sub(1, Ordering::SeqCst);
            if *times.get() == 0 {
                times.remove();
                self.files.changed.notify_all();
            }
        }
    }
}

impl OpenFile {
    /// The content to read, which is at `path`; `None` where it is no longer to be had.
    pub fn target(&self, path: &RemotePath) -> Option<Target> {
        let replaced = self.replaced.load(Ordering::Relaxed);
        (!replaced).then(|| {
            let version = self.attributes().version();
            let content = self.content.lock();
            let proof = self.proof.lock().clone();
            // Where the clocks differ, or only what was seen tells growth from replacement, it is not
            // certain what the server will say of it.
            let is_certain = content.attributes.version() == version
                && proof.as_ref().is_none_or(|proof| proof.version == version);
            let edition = Edition::of(&content.attributes).filter(|_| is_certain);
            Target {
                path: path.clone(),
                version,
                epoch: content.epoch,
                proof: proof.filter(|_| content.attributes.unique.is_none()),
                edition,
            }
        })
    }

    /// The version to read; `None` where it is no longer to be had.
    pub fn version(&self) -> Option<Version> {
        (!self.is_replaced()).then(|| self.attributes().version())
    }

    /// Takes note of bytes that were read, the last of them.
    pub fn remember(&self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let from = bytes.len().saturating_sub(PROOF);
        let (offset, bytes) = (offset + from as u64, bytes[from..].to_vec());
        let now = self.attributes().version();
        let mut proof = self.proof.lock();
        // What the reader sees is the version that the file had when reading began: what it grew
        // to has to be proven each time.
        let version = proof.as_ref().map_or(now, |proof| proof.version);
        *proof = Some(Proof {
            version,
            offset,
            bytes,
        });
    }

    /// Whether the content that it was opened with is no longer to be had.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Reads of an older epoch may have found what is no more.
    pub fn epoch(&self) -> u64 {
        self.content.lock().epoch
    }

    /// What was last known of it.
    pub fn attributes(&self) -> Attributes {
        self.content.lock().attributes.clone()
    }

    /// We ourselves made it what it is now on the server, or renamed it (`None`): every byte that is
    /// read from now on is fetched anew.
    pub fn renew(&self, attributes: Option<&Attributes>) {
        let mut content = self.content.lock();
        content.epoch = 1 + self.clock.fetch_add(1, Ordering::SeqCst);
        if let Some(attributes) = attributes {
            content.attributes = attributes.clone();
            self.replaced.store(false, Ordering::Relaxed);
        }
        drop(content);
        *self.proof.lock() = None;
        self.reader.close();
    }

    pub fn handles(&self) -> usize {
        self.handles.load(Ordering::Relaxed)
    }

    /// Some of the content is shown from now on: no other may follow. Whether it is the first.
    pub fn show(&self) -> bool {
        !self.seen.swap(true, Ordering::Relaxed)
    }

    /// Goes over to what the server holds now, if nobody has seen anything of what it held
    /// before: then what was known of the file when it was opened was merely old.
    pub fn adopt(&self, attributes: &Attributes) -> bool {
        if self.seen.load(Ordering::Relaxed) {
            return false;
        }
        self.reader.close();
        self.content.lock().attributes = attributes.clone();
        *self.proof.lock() = None;
        self.replaced.store(false, Ordering::Relaxed);
        true
    }

    /// The server holds another content: what is left of the old one must not be mixed with it.
    pub fn give_up(&self) {
        self.replaced.store(true, Ordering::Relaxed);
        self.reader.close();
    }

    /// Compares with what the server says. Unless it is the same, the reader is to be closed.
    fn observe(&self, now: &Attributes, asked: Asked) -> Observed {
        if self.replaced.load(Ordering::Relaxed) {
            return Observed::Replaced;
        }
        let mut content = self.content.lock();
        if content.epoch > asked.0 {
            return Observed::Same;
        }
        let before = std::mem::replace(&mut content.attributes, now.clone());
        if !continues_as(&before, now) {
            self.replaced.store(true, Ordering::Relaxed);
            return Observed::Replaced;
        }
        if before.version() != now.version() && now.unique.is_none() {
            return Observed::Grown;
        }
        Observed::Same
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

/// Whether `now` is the same content as `then`, or has grown from it. A file that only grew was
/// also written later.
fn continues_as(then: &Attributes, now: &Attributes) -> bool {
    let same_file = match (then.unique, now.unique) {
        (Some(then), Some(now)) => then == now,
        _ => true,
    };
    let same_content = match now.size == then.size {
        true => now.mtime == then.mtime,
        false => now.size > then.size && now.mtime >= then.mtime,
    };
    same_file && same_content
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn content(size: u64, seconds: u64, unique: Option<u64>) -> Attributes {
        let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Attributes {
            mtime,
            unique,
            ..super::super::tests::file(size)
        }
    }

    #[test]
    fn growth_is_no_change() {
        let then = content(10, 100, Some(1));
        assert!(continues_as(&then, &then));
        assert!(continues_as(&then, &content(11, 100, Some(1))));
        assert!(continues_as(&then, &content(11, 101, Some(1))));
        assert!(continues_as(&then, &content(11, 101, None)));
        assert!(!continues_as(&then, &content(10, 101, Some(1))));
        assert!(!continues_as(&then, &content(9, 101, Some(1))));
        assert!(!continues_as(&then, &content(11, 99, Some(1))));
        assert!(!continues_as(&then, &content(11, 101, Some(2))));
    }
}
