//! The content cache on the local disk ([`Shelf`], `cache_dir=`): blocks of files that were read before, one
//! [`Book`] for each path, of one edition of the file.
//!
//! Bounded by what it takes of the disk; the book that was not used for the longest time goes first. It
//! never fails its caller: where the local disk does, the cache is off from then on, and says so once.
//! Must not know the server or the kernel.
//!
//! Blocks go through a bounded queue to one thread that writes them: who reads never waits for that. The
//! state's lock is a leaf, held over no I/O.

mod book;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;
use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::spool::{SpoolError, folder};
use crate::proto::RemotePath;
use crate::remote::{Attributes, Version};
use book::{BLOCK, Book, DATA, LONGEST_PATH, SUMS, Title};

/// Bytes that may wait to be written; what comes on top of them is not kept.
const QUEUE: usize = 8 << 20;
/// Books at most, so that what memory and the folder hold of them stays small.
const BOOKS: usize = 65_536;
/// Books whose files are open.
const OPEN: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// What a book takes beside its blocks, bytes: its title, and pages that are not filled.
const SLACK: u64 = 3 * BLOCK;
/// A larger file is not kept: not every local disk can have one.
const LARGEST: u64 = 1 << 43;
/// How long the end of a mount waits for what is still to be written.
const FAREWELL: Duration = Duration::from_secs(5);

/// What identifies a file's content from one mount to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edition {
    pub version: Version,
    pub unique: Option<u64>,
}

/// See the module. Clones are the same.
#[derive(Clone)]
pub struct Shelf(Arc<Shared>);

/// How the cache is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Not since the local disk has failed.
    pub enabled: bool,
    /// Of the local disk, now and at most.
    pub bytes: u64,
    pub limit: u64,
    pub files: usize,
    /// Reads that it answered, how many bytes they got, and reads that it could not answer.
    pub hits: u64,
    pub hit_bytes: u64,
    pub misses: u64,
    /// Times that a file was opened whose content the kernel reads without us.
    #[serde(default)]
    pub passed: u64,
}

struct Shared {
    path: PathBuf,
    dir: File,
    limit: u64,
    state: Mutex<State>,
    /// Rung when there is something to write, or it is to end.
    work: Condvar,
    /// Rung when everything is written.
    done: Condvar,
}

struct State {
    /// The most recently used first.
    books: LruCache<RemotePath, Entry>,
    /// The same paths in order.
    paths: BTreeSet<RemotePath>,
    /// The open ones, by their entry's number.
    open: LruCache<u64, Arc<Book>>,
    last: u64,
    /// What all books take of the disk.
    bytes: u64,
    queue: VecDeque<Job>,
    queued: usize,
    /// Whether the thread is writing.
    busy: bool,
    orders: Vec<Weak<Order>>,
    off: bool,
    ending: bool,
    hits: u64,
    hit_bytes: u64,
    misses: u64,
    passed: u64,
    /// Locked until it is closed.
    lock: Option<File>,
}

struct Entry {
    edition: Edition,
    bytes: u64,
    number: u64,
    /// This mount has seen that all of it is kept, and whole.
    proven: bool,
}

/// What somebody wants to have kept.
struct Order {
    title: Title,
    /// We ourselves have changed the file since.
    void: AtomicBool,
}

/// Bytes for the thread to write.
struct Job {
    order: Arc<Order>,
    offset: u64,
    bytes: Vec<u8>,
}

/// Takes what is fetched of a file, piece by piece.
pub(super) struct Keeping {
    shelf: Shelf,
    order: Arc<Order>,
    /// The beginning of a block whose end is not there yet.
    begun: Vec<u8>,
    /// Where the next piece goes on.
    next: u64,
}

impl Edition {
    /// `None` where nothing tells one content of the file from another.
    pub fn of(attributes: &Attributes) -> Option<Self> {
        let tells = attributes.mtime != SystemTime::UNIX_EPOCH;
        tells.then(|| Self {
            version: attributes.version(),
            unique: attributes.unique,
        })
    }

    /// Whether a later change of the content must show in its time: one within the same second would
    /// not. Times on a whole minute or quarter of an hour may come from a listing that tells no more.
    fn is_settled(&self, now: SystemTime) -> bool {
        let grain = match book::seconds(self.version.mtime) {
            days if days % 900 == 0 => 24 * 3600,
            minutes if minutes % 60 == 0 => 60,
            _ => 1,
        };
        let age = now.duration_since(self.version.mtime);
        age.is_ok_and(|age| age >= Duration::from_secs(grain + 2))
    }
}

impl Shelf {
    /// Opens the cache in a folder of its own, made where it is missing; at most `limit` bytes of the disk
    /// are used. Refused where the folder is not private to us, or another process uses it.
    pub fn open(path: &Path, limit: u64, patience: Duration) -> Result<Self, SpoolError> {
        let failed = |cause| SpoolError::Io {
            during: "opening the content cache",
            cause,
        };
        let (dir, lock) = folder::open_locked(path, patience)?;
        let mut state = State {
            books: LruCache::unbounded(),
            paths: BTreeSet::new(),
            open: LruCache::new(OPEN),
            last: 0,
            bytes: 0,
            queue: VecDeque::new(),
            queued: 0,
            busy: false,
            orders: Vec::new(),
            off: false,
            ending: false,
            hits: 0,
            hit_bytes: 0,
            misses: 0,
            passed: 0,
            lock: Some(lock),
        };
        let found = look_through(&dir);
        for (title, bytes) in found.map_err(failed)? {
            state.add(title, bytes);
        }
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            dir,
            limit,
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        // It may be larger than it is to be from now on.
        let fits = shared.make_room(0, None);
        fits.map_err(failed)?;
        let writer = Arc::clone(&shared);
        let thread = thread::Builder::new().name("shelf".to_owned());
        let started = thread.spawn(move || writer.write_on());
        started.map_err(failed)?;
        Ok(Self(shared))
    }

    /// Whether a read within the file can be answered, as far as memory tells: to know for certain may take a
    /// look at the local disk.
    pub(super) fn may_hold(
        &self,
        path: &RemotePath,
        edition: &Edition,
        range: &Range<u64>,
    ) -> bool {
        let state = &mut *self.0.state.lock();
        let holds = match state.find(path, edition) {
            Some(Ok(book)) => book.holds(range.clone()),
            Some(Err(_)) => true,
            None => false,
        };
        state.misses += u64::from(!holds && !state.off);
        holds
    }

    /// The bytes of a range that lies within the file, if all of them are kept.
    pub(super) fn read(
        &self,
        path: &RemotePath,
        edition: &Edition,
        range: &Range<u64>,
    ) -> Option<Vec<u8>> {
        let book = self.0.book(path, edition);
        let read = book.and_then(|book| {
            let Some(book) = book else { return Ok(None) };
            let bytes = book.read(range)?;
            if let Some(entry) = self.0.state.lock().entry_of(path, &book) {
                // A book that was closed meanwhile does not know any more.
                entry.proven = bytes.is_some() && (entry.proven || book.is_proven());
            }
            Ok(bytes)
        });
        let bytes = read.unwrap_or_else(|error| {
            self.0.fail(&error);
            None
        });
        let state = &mut *self.0.state.lock();
        match &bytes {
            Some(bytes) => {
                state.hits += 1;
                state.hit_bytes += bytes.len() as u64;
            }
            None => state.misses += 1,
        }
        bytes
    }

    /// Whether a whole file is kept. May read the local disk.
    pub(super) fn has_all(&self, path: &RemotePath, edition: &Edition) -> bool {
        let book = self.0.book(path, edition).ok().flatten();
        book.is_some_and(|book| book.holds(0..edition.version.size))
    }

    /// The local file that has all of the content, where this mount has seen that it is whole: it is not
    /// changed any more. Opens it, and reads nothing.
    pub(super) fn proven(&self, path: &RemotePath, edition: &Edition) -> Option<File> {
        let proven = |state: &mut State| {
            let entry = state.books.get(path)?;
            let usable = entry.edition == *edition && entry.proven && !state.off && !state.ending;
            usable.then_some(entry.number)
        };
        let number = proven(&mut self.0.state.lock())?;
        let opened = book::content(&self.0.dir, &book::name(path), edition.version.size);
        let data = opened.unwrap_or_else(|error| {
            self.0.fail(&error);
            None
        })?;
        // Else it may have been removed meanwhile, and this be another's.
        (proven(&mut self.0.state.lock()) == Some(number)).then_some(data)
    }

    /// A file was opened whose content the kernel reads without us.
    pub(super) fn count_passed(&self) {
        self.0.state.lock().passed += 1;
    }

    /// To be asked before the file's bytes are fetched: what takes them, if they are to be kept.
    pub(super) fn keep(&self, path: &RemotePath, edition: Edition) -> Option<Keeping> {
        let size = edition.version.size;
        let fits = (1..=LARGEST).contains(&size) && path.as_bytes().len() <= LONGEST_PATH;
        if !fits || !edition.is_settled(SystemTime::now()) {
            return None;
        }
        let path = path.clone();
        let order = Arc::new(Order {
            title: Title { path, edition },
            void: AtomicBool::new(false),
        });
        let mut state = self.0.state.lock();
        if state.off || state.ending {
            return None;
        }
        state.orders.retain(|order| order.strong_count() > 0);
        state.orders.push(Arc::downgrade(&order));
        drop(state);
        Some(Keeping {
            shelf: self.clone(),
            order,
            begun: Vec::new(),
            next: 0,
        })
    }

    /// We ourselves change what is at a path, and so what lies below: nothing of it is kept any more.
    pub(super) fn forget(&self, path: &RemotePath) {
        let mut state = self.0.state.lock();
        for order in state.orders.iter().filter_map(Weak::upgrade) {
            if order.title.path.starts_with(path) {
                order.void.store(true, Ordering::Relaxed);
            }
        }
        let from = state.paths.range(path.clone()..);
        let near = from.take_while(|found| found.as_bytes().starts_with(path.as_bytes()));
        let gone: Vec<_> = near
            .filter(|found| found.starts_with(path))
            .cloned()
            .collect();
        gone.iter().for_each(|path| state.remove(path));
        drop(state);
        // At once: after a crash the next mount would believe it.
        for path in gone {
            if let Err(error) = book::discard(&self.0.dir, &book::name(&path)) {
                self.0.fail(&error);
            }
        }
    }

    /// Writes what was to be kept, within a bound, and lets others have the folder.
    pub(super) fn close(&self) {
        let deadline = Instant::now() + FAREWELL;
        let mut state = self.0.state.lock();
        while state.busy || !state.queue.is_empty() {
            if self.0.done.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.ending = true;
        state.queue.clear();
        // Nothing is written by us once others may: else it is the thread's to let go.
        if !state.busy {
            state.lock = None;
        }
        self.0.work.notify_all();
    }

    pub(super) fn in_use(&self) -> Use {
        let state = self.0.state.lock();
        Use {
            enabled: !state.off,
            bytes: state.bytes,
            limit: self.0.limit,
            files: state.books.len(),
            hits: state.hits,
            hit_bytes: state.hit_bytes,
            misses: state.misses,
            passed: state.passed,
        }
    }
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Shelf").field(&self.0.path).finish()
    }
}

impl Keeping {
    /// Takes bytes that were fetched at `offset`. Waits for nothing.
    pub fn push(&mut self, offset: u64, bytes: &[u8]) {
        if offset != self.next {
            self.begun.clear();
        }
        let (mut at, mut bytes) = (offset, bytes);
        let size = self.order.title.edition.version.size;
        let end = at.saturating_add(bytes.len() as u64);
        self.next = end;
        if end > size {
            // None of the file that was meant.
            self.order.void.store(true, Ordering::Relaxed);
        }
        if self.order.void.load(Ordering::Relaxed) {
            return;
        }
        if self.begun.is_empty() {
            let skip = (at.next_multiple_of(BLOCK) - at).min(end - at);
            at += skip;
            bytes = &bytes[skip as usize..];
        }
        let start = at - self.begun.len() as u64;
        let whole = match end == size {
            true => end,
            false => end - end % BLOCK,
        };
        if whole <= start {
            self.begun.extend(bytes);
            return;
        }
        let (now, later) = bytes.split_at((whole - at) as usize);
        let mut blocks = std::mem::take(&mut self.begun);
        blocks.extend(now);
        self.begun.extend(later);
        self.shelf.0.take(&self.order, start, blocks);
    }
}

impl State {
    /// A book of this edition: open, or the number of its entry.
    fn find(&mut self, path: &RemotePath, edition: &Edition) -> Option<Result<Arc<Book>, u64>> {
        if self.off || self.ending {
            return None;
        }
        let number = self
            .books
            .get(path)
            .filter(|e| e.edition == *edition)?
            .number;
        Some(self.open.get(&number).cloned().ok_or(number))
    }

    /// The entry of an open book, unless another has taken its place.
    fn entry_of(&mut self, path: &RemotePath, book: &Arc<Book>) -> Option<&mut Entry> {
        let entry = self.books.peek_mut(path)?;
        let open = self.open.peek(&entry.number)?;
        Arc::ptr_eq(open, book).then_some(entry)
    }

    /// Adds a book; its number.
    fn add(&mut self, title: Title, bytes: u64) -> u64 {
        self.remove(&title.path);
        self.last += 1;
        self.bytes += bytes;
        let entry = Entry {
            edition: title.edition,
            bytes,
            number: self.last,
            proven: false,
        };
        self.paths.insert(title.path.clone());
        self.books.put(title.path, entry);
        self.last
    }

    fn remove(&mut self, path: &RemotePath) {
        if let Some(entry) = self.books.pop(path) {
            self.paths.remove(path);
            self.bytes -= entry.bytes;
            self.open.pop(&entry.number);
        }
    }
}

impl Shared {
    /// Opens a book, if there is one.
    fn book(&self, path: &RemotePath, edition: &Edition) -> io::Result<Option<Arc<Book>>> {
        let number = match self.state.lock().find(path, edition) {
            None => return Ok(None),
            Some(Ok(book)) => return Ok(Some(book)),
            Some(Err(number)) => number,
        };
        let title = Title {
            path: path.clone(),
            edition: *edition,
        };
        let opened = Book::open(&self.dir, &title)?.map(Arc::new);
        let mut state = self.state.lock();
        if state
            .books
            .peek(path)
            .is_none_or(|entry| entry.number != number)
        {
            return Ok(None);
        }
        match &opened {
            Some(book) => {
                // Another may have opened it meanwhile: of the two only one is to be written to.
                if let Some(first) = state.open.get(&number) {
                    return Ok(Some(first.clone()));
                }
                state.open.put(number, book.clone());
                drop(state);
                book.touch();
            }
            None => state.remove(path),
        }
        Ok(opened)
    }

    /// Has the thread write some blocks, if they are not there yet and it does not lag behind.
    fn take(&self, order: &Arc<Order>, offset: u64, bytes: Vec<u8>) {
        let title = &order.title;
        let mut state = self.state.lock();
        if state.off || state.ending || state.queued + bytes.len() > QUEUE {
            return;
        }
        if let Some(Ok(book)) = state.find(&title.path, &title.edition)
            && book.holds(offset..offset + bytes.len() as u64)
        {
            return;
        }
        state.queued += bytes.len();
        state.queue.push_back(Job {
            order: order.clone(),
            offset,
            bytes,
        });
        self.work.notify_one();
    }

    /// The thread: writes what comes until it is closed.
    fn write_on(&self) {
        loop {
            let mut state = self.state.lock();
            let job = loop {
                if state.ending {
                    state.lock = None;
                    return;
                }
                if let Some(job) = state.queue.pop_front() {
                    break job;
                }
                self.done.notify_all();
                self.work.wait(&mut state);
            };
            state.queued -= job.bytes.len();
            state.busy = true;
            let off = state.off;
            drop(state);
            if !off && let Err(error) = self.write(&job) {
                self.fail(&error);
            }
            self.state.lock().busy = false;
            self.done.notify_all();
        }
    }

    fn write(&self, job: &Job) -> io::Result<()> {
        let title = &job.order.title;
        let is_void = || job.order.void.load(Ordering::Relaxed);
        if is_void() || !self.make_room(job.bytes.len() as u64 + SLACK, Some(&title.path))? {
            return Ok(());
        }
        let book = match self.book(&title.path, &title.edition)? {
            Some(book) => book,
            None => {
                let book = match Book::create(&self.dir, title) {
                    Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                        return book::discard(&self.dir, &book::name(&title.path));
                    }
                    book => Arc::new(book?),
                };
                let mut state = self.state.lock();
                // Who voids it holds the lock, and has removed what was there before.
                if is_void() {
                    drop(state);
                    return book::discard(&self.dir, &book::name(&title.path));
                }
                let number = state.add(title.clone(), 0);
                state.open.put(number, book.clone());
                book
            }
        };
        book.write(job.offset, &job.bytes)?;
        let bytes = book.allocated()?;
        let state = &mut *self.state.lock();
        if let Some(entry) = state.entry_of(&title.path, &book) {
            entry.proven |= book.is_proven();
            let before = std::mem::replace(&mut entry.bytes, bytes);
            state.bytes = state.bytes - before + bytes;
        }
        Ok(())
    }

    /// Removes books until there is room for so many bytes more, the least recently used first, but never
    /// that of `wanted`. Whether there is room then.
    fn make_room(&self, more: u64, wanted: Option<&RemotePath>) -> io::Result<bool> {
        loop {
            let mut state = self.state.lock();
            if state.bytes + more <= self.limit && state.books.len() < BOOKS {
                return Ok(true);
            }
            let mut oldest = state.books.iter().rev().map(|(path, _)| path);
            let Some(path) = oldest.find(|path| Some(*path) != wanted).cloned() else {
                return Ok(state.bytes + more <= self.limit);
            };
            state.remove(&path);
            drop(state);
            book::discard(&self.dir, &book::name(&path))?;
        }
    }

    /// The local disk has failed: from here on there is no cache.
    fn fail(&self, error: &io::Error) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.off, true) {
            return;
        }
        state.queue.clear();
        state.queued = 0;
        state.open.clear();
        drop(state);
        let path = self.path.display();
        log::warn!("{path}: {error}: goes on without the content cache");
    }
}

/// The books in a folder, the least recently used first. What is none is removed.
fn look_through(dir: &File) -> io::Result<Vec<(Title, u64)>> {
    let mut names = HashSet::new();
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    for entry in Dir::openat(dir, ".", flags, Mode::empty())?.iter() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let stem = name.strip_suffix(DATA).or_else(|| name.strip_suffix(SUMS));
        names.extend(stem.map(str::to_owned));
    }
    let mut found = Vec::new();
    for name in names {
        match book::look(dir, &name) {
            Ok(Some((title, bytes, used))) => found.push((used, title, bytes)),
            Ok(None) => book::discard(dir, &name)?,
            Err(error) => {
                log::debug!("content cache: {name}: {error}");
                book::discard(dir, &name)?;
            }
        }
    }
    found.sort_by_key(|(used, ..)| *used);
    Ok(found
        .into_iter()
        .map(|(_, title, bytes)| (title, bytes))
        .collect())
}

#[cfg(test)]
mod tests;
