//! The file system: what each operation means, over a server addressed by path and a cache of what
//! it said. Inodes, open files and directories, reading.
//!
//! Must not know fuser's types, errno or reply codes. Every operation may be tried from memory
//! alone ([`Patience::MemoryOnly`]) before it is given time to ask the server.
//!
//! Locks, none of them held while the server is asked: an open file's list of streams, then one
//! stream; all others (inode table, handles, cache, flights) are leaves.

mod arrivals;
mod attr;
mod attributes;
mod backing;
mod change;
mod error;
mod far;
mod files;
mod flights;
mod inodes;
mod leftovers;
mod moves;
mod names;
mod neighbours;
mod overlay;
mod read;
mod renew;
mod report;
pub mod shelf;
mod spelling;
pub mod spool;
mod tidy;
mod walk;
mod write;

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use crate::cache::{Answer, Cache, Directory, Limits, Ticket};
use crate::proto::{Name, PathError, RemotePath};
pub use crate::remote::NAME_MAX;
use crate::remote::{self, Attributes, FileKind, Listing, Remote, Space, Temporary, Version};
use arrivals::Arrivals;
pub use attr::{Attr, BLOCK_SIZE};
pub use attributes::Changes;
pub use backing::Backing;
use backing::Backings;
pub use error::Error;
use files::{Asked, Files, OpenFile};
use flights::Flights;
pub use inodes::Ino;
use inodes::Inodes;
use leftovers::Leftovers;
pub use names::{DirEntry, Names};
use neighbours::Neighbours;
use overlay::Overlay;
pub use read::Data;
use read::{Failure, Reads, Target};
use renew::Renewals;
pub use report::{Pending, PendingState, Report};
use shelf::{Edition, Shelf};
use spelling::Aliases;
use spool::Spool;
use tidy::Tidying;
use walk::Walks;
use write::Drafts;
pub use write::{Access, Leftover, TempName};

/// What the user's options say about the file system.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory on the server that is the mount's root.
    pub root: RemotePath,
    /// `uid=`, `gid=`: whose all files are.
    pub uid: u32,
    pub gid: u32,
    /// `fmask=`, `dmask=`, or `umask=` for both: permission bits that are never shown, of files
    /// and of directories.
    pub fmask: u16,
    pub dmask: u16,
    /// `timeout=`: how long a request may take, retries included.
    pub timeout: Duration,
    /// `retries=`: how often an upload that lost its connection is begun again, or goes on.
    pub retries: u32,
    /// `attr_timeout=`: how long attributes are believed.
    pub attr_timeout: Duration,
    /// `dir_timeout=`: how long a listing is believed to be complete.
    pub dir_timeout: Duration,
    /// `negative_timeout=`: how long an absence is believed.
    pub negative_timeout: Duration,
    /// `cache_entries=`: how many names the metadata cache holds.
    pub cache_entries: usize,
    /// How many bytes all read-ahead together may hold.
    pub window_bytes: usize,
    /// Whether what was not asked for yet is fetched ahead (not with `noprefetch`).
    pub prefetch: bool,
    /// Where files lie that are being written; `None`: nothing is ever written.
    pub spool: Option<Spool>,
    /// `cache_dir=`: where content that was read is kept.
    pub shelf: Option<Shelf>,
    /// Whether the kernel may read that by itself, where nothing can be written (not with `nopassthrough`).
    pub passthrough: bool,
    /// `attrs=strict`: what the server cannot store is refused.
    pub strict: bool,
    /// `upload=direct`: files are uploaded under their own names at once.
    pub direct: bool,
    /// `temp_dir=`: where on the server temporary names are; `None`: beside the file.
    pub temp_dir: Option<RemotePath>,
    /// `temp_name=`: what temporary names look like.
    pub temp_name: Option<TempName>,
    /// How many uploads may be under way at a time.
    pub uploads: usize,
    /// `writeback`: close(2) waits for the local disk alone.
    pub write_back: bool,
    /// `hard`: a server that is down is waited for, however long that takes.
    pub hard: bool,
    /// `min_rate=`: what a transfer must keep on average, bytes per second.
    pub min_rate: u64,
}

/// How long the caller waits for an operation.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// Not at all: what memory does not hold is [`Error::WouldWait`].
    MemoryOnly,
    Until(Instant),
}

/// What a lookup found; it counts as one lookup of the inode until it is forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub attr: Attr,
    /// How long the kernel may believe it.
    pub ttl: Duration,
}

#[derive(Clone, Copy, Debug)]
pub enum Lookup {
    Found(Entry),
    /// There is no such file; how long the kernel may believe that.
    Absent(Duration),
}

/// An open file.
#[derive(Clone, Debug)]
pub struct Opened {
    pub handle: u64,
    /// Whether what the kernel has of the content is still good.
    pub keep_cache: bool,
    /// What the kernel may read by itself; to be held as long as it does.
    pub backing: Option<Arc<Backing>>,
}

/// What is shown as free where the server does not tell.
const PLENTY: u64 = 1 << 50;
/// How long free space is believed, and how long df waits for it.
const SPACE_TTL: Duration = Duration::from_secs(30);
const SPACE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the end of a mount waits for uploads.
const FAREWELL: Duration = Duration::from_secs(60);
/// How long a caller waits for news of the root, where it is known from before.
const ROOT_PATIENCE: Duration = Duration::from_secs(1);

/// How often one read follows a file that is replaced again and again.
const CHANGES: usize = 3;

/// How long, and of how many paths, it is remembered that the server did not answer. A program
/// that names a path would otherwise wait twice: where the kernel fails to confirm what it knew
/// of a name, it looks the name up once more.
const SILENCE: Duration = Duration::from_secs(1);
const UNANSWERED: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Of how many directories it is remembered that something in them was asked for.
const VISITED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// What the kernel is told without being asked.
pub trait Kernel: Send + Sync {
    /// What it was told of an inode's attributes is not to be believed any more.
    fn outdate(&self, ino: Ino);
    /// Some of a file's content, to be kept in its cache; `false` where it was not taken.
    fn store(&self, ino: Ino, offset: u64, bytes: &[u8]) -> bool;
    /// It is not to be kept any more.
    fn take_back(&self, ino: Ino, range: Range<u64>);
}

/// A mounted server. Shared by all threads; an operation blocks no longer than its patience.
pub struct Fs {
    /// Itself, for what runs on when its caller has gone.
    this: Weak<Self>,
    config: Config,
    remote: Arc<Remote>,
    cache: Cache,
    inodes: Inodes,
    /// Where the server ignores case.
    aliases: Option<Aliases>,
    files: Files,
    arrivals: Arrivals,
    backings: Backings,
    reads: Arc<Reads>,
    stats: Flights<Attributes>,
    lists: Flights<Arc<Directory>>,
    walks: Walks,
    renewals: Renewals,
    neighbours: Neighbours,
    /// What was last known of the root. A leaf lock.
    root: Mutex<Option<Attributes>>,
    drafts: Drafts,
    overlay: Overlay,
    leftovers: Leftovers,
    tidying: Tidying,
    /// What kinds of attributes the log says are shown although the server does not have them. A
    /// leaf lock.
    told: Mutex<HashSet<&'static str>>,
    roots: Arc<Flights<Answer>>,
    /// What the server lately left without an answer. A leaf lock.
    unanswered: Mutex<LruCache<RemotePath, (remote::Error, Instant)>>,
    /// Directories of which something was asked for, and when. A leaf lock.
    visited: Mutex<LruCache<RemotePath, Instant>>,
    /// See [`Fs::tell`].
    kernel: OnceLock<Box<dyn Kernel>>,
    /// Whether the mount is gone.
    closed: AtomicBool,
    /// What the server last said, and when. A leaf lock.
    space: Mutex<Option<(Space, Instant)>>,
}

impl Fs {
    pub fn new(remote: Arc<Remote>, mut config: Config) -> Arc<Self> {
        // So far away a deadline can still be reckoned with.
        config.timeout = config.timeout.min(Duration::from_secs(365 * 24 * 3600));
        let limits = Limits {
            entries: config.cache_entries,
            attributes: config.attr_timeout,
            listings: config.dir_timeout,
            absences: config.negative_timeout,
        };
        if let Some(spool) = &config.spool {
            remote.temporaries().belong_to(spool.id());
        }
        if config.hard {
            remote.expect_repeats();
        }
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            cache: Cache::new(limits),
            inodes: Inodes::new(config.root.clone()),
            aliases: remote.ignores_case().then(Aliases::default),
            files: Files::new(),
            arrivals: Arrivals::new(),
            backings: Backings::default(),
            reads: Reads::new(
                remote.clone(),
                config.window_bytes,
                config.timeout,
                config.shelf.clone(),
            ),
            stats: Flights::new(),
            lists: Flights::new(),
            // What is not believed for a while need not be fetched ahead.
            renewals: Renewals::default(),
            walks: Walks::new(config.prefetch && !config.dir_timeout.is_zero()),
            neighbours: Neighbours::new(config.prefetch && !config.attr_timeout.is_zero()),
            roots: Arc::new(Flights::new()),
            unanswered: Mutex::new(LruCache::new(UNANSWERED)),
            visited: Mutex::new(LruCache::new(VISITED)),
            space: Mutex::new(None),
            root: Mutex::new(None),
            drafts: Drafts::new(config.spool.clone(), config.uploads),
            overlay: Overlay::new(config.cache_entries),
            leftovers: Leftovers::default(),
            tidying: Tidying::new(),
            told: Mutex::default(),
            kernel: OnceLock::new(),
            closed: AtomicBool::new(false),
            remote,
            config,
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Has `kernel` told what it does not ask for.
    pub fn tell(&self, kernel: impl Kernel + 'static) {
        let _ = self.kernel.set(Box::new(kernel));
    }

    /// What was told of an inode's attributes is not to be believed any more.
    pub fn outdate(&self, ino: Ino) {
        if let Some(kernel) = self.kernel.get() {
            kernel.outdate(ino);
        }
    }

    /// An inode has `size` bytes: the kernel would cut them off where it believes them to end. (Where they end
    /// earlier a short read tells it, unless it has just been told of a change.)
    fn grown(&self, ino: Ino, size: u64) {
        if self.inodes.was_told_less(ino, size) {
            self.outdate(ino);
        }
    }

    /// Refuses where nothing is ever written.
    pub fn check_writable(&self) -> Result<(), Error> {
        self.drafts.spool().map(drop)
    }

    /// Whether a request that failed so is to wait until the server is back (`hard`).
    pub fn waits_out(&self, error: &Error) -> bool {
        let is_lost = match error {
            Error::TimedOut => true,
            Error::Remote { cause, .. } => {
                matches!(cause, remote::Error::TimedOut(_) | remote::Error::Lost(_))
            }
            _ => false,
        };
        self.config.hard && is_lost && !self.is_closed()
    }

    /// The path of a live inode, for messages.
    pub fn path(&self, ino: Ino) -> Option<RemotePath> {
        self.inodes.path(self.actual(ino))
    }

    /// Finds `name` in a directory.
    pub fn lookup(&self, parent: Ino, name: &[u8], patience: Patience) -> Result<Lookup, Error> {
        let asked = parse_name(name)?;
        let name = self.spelling(parent, asked.clone(), patience)?;
        let mut found = self.find_spelt(parent, &name, patience)?;
        if let Lookup::Found(entry) = &mut found {
            entry.attr.ino = self.known_as(entry.attr.ino, &asked, &name);
        }
        Ok(found)
    }

    /// The same for `who`: where a name led him to a file before that had gone when he came for it
    /// ([`Fs::miss`]), this one is kept for him until he has come ([`Fs::meet`]), or for a moment.
    pub fn lookup_for(
        &self,
        who: u32,
        parent: Ino,
        name: &[u8],
        patience: Patience,
    ) -> Result<Lookup, Error> {
        loop {
            let found = self.lookup(parent, name, patience)?;
            let Lookup::Found(entry) = &found else {
                return Ok(found);
            };
            let ino = self.actual(entry.attr.ino);
            let is_kept = self.arrivals.expect(who, ino, patience);
            if matches!(is_kept, Ok(true)) && !self.inodes.is_unlinked(ino) {
                return Ok(found);
            }
            self.forget(entry.attr.ino, 1);
            is_kept?;
        }
    }

    /// Takes note of what `who` met with when he came for a file by the number that its name had led to: it may
    /// have gone.
    pub fn miss(&self, who: u32, error: &Error) {
        if error.is_stale() {
            self.arrivals.miss(who);
        }
    }

    /// `who` has what he came for, or has gone on to something else.
    pub fn meet(&self, who: u32) {
        self.arrivals.meet(who);
    }

    /// The same for a name that is spelt as the directory has it.
    fn find_spelt(&self, parent: Ino, name: &Name, patience: Patience) -> Result<Lookup, Error> {
        let moment = self.inodes.moment();
        let path = self.live_path(parent)?.join(name);
        let asked = self.files.ask();
        let draft = self.inodes.child(parent, name);
        let draft = draft.and_then(|ino| self.drafts.of(ino));
        if let Some(attributes) = draft.and_then(|draft| draft.attributes().ok()) {
            let ttl = self.config.attr_timeout;
            let entry = self.enter(parent, name, &attributes, ttl, asked)?;
            return Ok(Lookup::Found(entry));
        }
        let answer = self.stat(&path, patience)?;
        if self.is_moving(parent, moment, patience)? {
            return self.find_spelt(parent, name, patience);
        }
        let (attributes, until) = match answer {
            Answer::Present(attributes, until) => (attributes, until),
            Answer::Absent(until) => {
                if let Some(directory) = path.parent() {
                    self.renew(&directory, until);
                }
                let ttl = self.kernel_may_believe(remaining(until));
                return Ok(Lookup::Absent(ttl));
            }
            Answer::Unknown => return Err(Error::WouldWait),
        };
        let entry = self.enter(parent, name, &attributes, remaining(until), asked)?;
        Ok(Lookup::Found(entry))
    }

    /// Takes back `count` lookups of an inode.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.inodes.forget(self.forgotten(ino, count), count);
    }

    /// An inode's attributes, and how long they may be believed.
    pub fn getattr(&self, ino: Ino, patience: Patience) -> Result<(Attr, Duration), Error> {
        let asked = self.files.ask();
        let (attributes, until) = self.attributes(ino, patience)?;
        if self.drafts.of(ino).is_none() {
            self.files.observe(ino, &attributes, asked);
        }
        let ttl = self.kernel_may_believe(remaining(until));
        self.inodes.tell(ino, attributes.size);
        Ok((self.show(ino, &attributes), ttl))
    }

    /// A symbolic link's target.
    pub fn readlink(&self, ino: Ino, patience: Patience) -> Result<Box<[u8]>, Error> {
        let (attributes, _) = self.attributes(ino, patience)?;
        if attributes.kind != FileKind::Symlink {
            return Err(Error::NotALink);
        }
        if let Some(target) = attributes.link_target {
            return Ok(target);
        }
        let deadline = patience.deadline()?;
        let path = self.live_path(ino)?;
        let target = self.remote.read_link(&path, deadline);
        target.map_err(|cause| Error::remote(&path, cause))
    }

    /// Opens a directory: a handle on what it holds now.
    pub fn opendir(&self, ino: Ino, patience: Patience) -> Result<u64, Error> {
        let path = self.live_path(ino)?;
        let directory = self.directory(ino, &path, patience)?;
        self.hold(ino)?;
        self.walk_on(&path, &directory);
        Ok(self.files.open_directory(ino, directory))
    }

    /// The names in an open directory from `offset` on: 0, or what an entry said comes next. From
    /// 0 for the second time it is listed anew.
    pub fn readdir(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        patience: Patience,
    ) -> Result<Names, Error> {
        let open = self.files.directory(handle).ok_or(Error::Stale)?;
        let path = self.live_path(open.ino)?;
        let directory = match open.snapshot(offset) {
            Some(directory) => directory,
            None => {
                let directory = self.directory(open.ino, &path, patience)?;
                open.rewind(directory.clone());
                directory
            }
        };
        Ok(Names {
            fs: self.clone(),
            ino: open.ino,
            path,
            directory,
            next: offset,
        })
    }

    pub fn releasedir(&self, handle: u64) {
        if let Some(ino) = self.files.close_directory(handle) {
            self.inodes.forget(ino, 1);
        }
    }

    /// Reads up to `len` bytes at `offset`, fewer only at the end of the file.
    pub fn read(
        &self,
        handle: u64,
        offset: u64,
        len: usize,
        patience: Patience,
    ) -> Result<Data, Error> {
        let file = self.files.file(handle).ok_or(Error::Stale)?;
        // What others are writing now is not what a handle of the content before is to see.
        let draft = || self.drafts.of(file.ino).filter(|_| !file.is_replaced());
        let mut changes = 0;
        loop {
            if let Some(draft) = draft() {
                match self.read_draft(&file, &draft, offset, len, patience) {
                    // It is on the server now, and no longer here.
                    Err(Error::Stale) if !self.drafts.is(&draft) => continue,
                    read => return read,
                }
            }
            let epoch = file.epoch();
            let path = self.live_path(file.ino)?;
            let target = file.target(&path);
            let version = target.as_ref().map(|target| target.version);
            let read = match &target {
                None => Err(Failure::Remote(remote::Error::Changed)),
                Some(target) => self
                    .read_kept(&file, target, offset, len, patience)
                    .or_else(|| self.read_ahead(target, offset, len, patience))
                    .unwrap_or_else(|| {
                        let deadline = patience.deadline().ok();
                        let reader = &file.reader;
                        reader.read(target, offset, len, file.handles(), deadline)
                    }),
            };
            match read {
                // It was uploaded, renamed or begun to be written while we waited.
                Ok(_) | Err(Failure::Remote(_)) if file.epoch() != epoch || draft().is_some() => {}
                // It may have been replaced while we waited.
                Ok(data) if !file.is_replaced() => {
                    if file.show()
                        && let Some(size) = file.reader.told_size()
                        && Some(size) != version.map(|version| version.size)
                    {
                        // By now it has another than what it was opened by.
                        self.cache.changed(&path);
                        self.grown(file.ino, size);
                    }
                    file.remember(offset, &data);
                    if let Some(target) = &target {
                        self.fetch_far(&file, target, offset + data.len() as u64);
                    }
                    if let (0, Some(version)) = (offset, version) {
                        self.read_on(&path, version.size);
                    }
                    return Ok(data);
                }
                Ok(_) | Err(Failure::Remote(remote::Error::Changed)) => {
                    if self.was_changed(&file, epoch, patience)? {
                        continue;
                    }
                    changes += 1;
                    if changes > CHANGES {
                        return Err(Error::remote(&path, remote::Error::Changed));
                    }
                    self.go_over(&file, version, &path, patience)?;
                }
                Err(Failure::WouldWait) => return Err(Error::WouldWait),
                Err(Failure::TimedOut) => return Err(Error::TimedOut),
                Err(Failure::Remote(remote::Error::NotFound | remote::Error::Denied(_)))
                    if self.was_changed(&file, epoch, patience)? => {}
                Err(Failure::Remote(cause)) => return Err(Error::remote(&path, cause)),
            }
        }
    }

    /// A read from the content cache, if it is all there and the server says that the file is what it was;
    /// `None` where it has to be asked for.
    fn read_kept(
        &self,
        file: &OpenFile,
        target: &Target,
        offset: u64,
        len: usize,
        patience: Patience,
    ) -> Option<Result<Data, Failure>> {
        let (shelf, edition) = self.config.shelf.as_ref().zip(target.edition)?;
        let end = target.version.size.min(offset.saturating_add(len as u64));
        let range = offset..end;
        if range.is_empty()
            || file.reader.holds(target, &range)
            || !shelf.may_hold(&target.path, &edition, &range)
        {
            return None;
        }
        if let Patience::MemoryOnly = patience {
            return Some(Err(Failure::WouldWait));
        }
        let asked = self.files.ask();
        // Any other word leaves it to a download to find out.
        let Ok(Answer::Present(now, _)) = self.stat(&target.path, patience) else {
            return None;
        };
        if now.kind != FileKind::File || Edition::of(&now) != Some(edition) {
            if self.drafts.of(file.ino).is_none() {
                self.files.observe(file.ino, &now, asked);
            }
            return None;
        }
        let kept = shelf.read(&target.path, &edition, &range)?;
        file.reader.skip(target, &range);
        Some(Ok(kept.into()))
    }

    /// We ourselves have made something of `path`: `None`, that it is gone.
    fn note(&self, path: &RemotePath, made: Option<&Attributes>) {
        self.forget_kept(path);
        self.cache.note(path, made, Instant::now());
        self.files.tick();
    }

    /// We ourselves have changed what is at `path`, or may have.
    fn altered(&self, path: &RemotePath) {
        self.forget_kept(path);
        self.cache.changed(path);
    }

    /// What was kept of `path`, and of what lies below, must not come back with the same size and time.
    fn forget_kept(&self, path: &RemotePath) {
        if let Some(shelf) = &self.config.shelf {
            shelf.forget(path);
        }
    }

    /// Whether a read that failed met what we ourselves were making of the file on the server, or of its
    /// name. `epoch`: when it began.
    fn was_changed(&self, file: &OpenFile, epoch: u64, patience: Patience) -> Result<bool, Error> {
        self.await_changes(file.ino, patience.deadline()?);
        Ok(file.epoch() != epoch)
    }

    /// The server holds another content than was known when the file was opened: what is known
    /// of it is learned anew, and the handle goes over to it if nobody has seen the old content.
    /// `failed`: the version that is not there.
    fn go_over(
        &self,
        file: &OpenFile,
        failed: Option<Version>,
        path: &RemotePath,
        patience: Patience,
    ) -> Result<(), Error> {
        patience.deadline()?;
        let went_over = || file.version().is_some_and(|now| Some(now) != failed);
        if went_over() {
            return Ok(()); // By another read.
        }
        self.cache.changed(path);
        if let Answer::Present(now, _) = self.stat(path, patience)?
            && now.kind == FileKind::File
            && file.adopt(&now)
        {
            self.grown(file.ino, now.size);
            return Ok(());
        }
        if went_over() {
            return Ok(());
        }
        file.give_up();
        Err(Error::remote(path, remote::Error::Changed))
    }

    /// Free space: the server's word where it has one, else plenty. A server that does not answer
    /// is no reason for df to fail.
    pub fn statfs(&self, patience: Patience) -> Result<Space, Error> {
        let now = Instant::now();
        let known = *self.space.lock();
        if let Some((space, at)) = known
            && now < at + SPACE_TTL
        {
            return Ok(space);
        }
        let deadline = patience.deadline()?.min(now + SPACE_PATIENCE);
        let space = match self.remote.space(&self.config.root, deadline) {
            Ok(Some(space)) => space,
            Ok(None) => Space { available: PLENTY },
            Err(error) => {
                log::debug!("free space of {}: {error}", self.config.root);
                known.map_or(Space { available: PLENTY }, |(space, _)| space)
            }
        };
        *self.space.lock() = Some((space, now));
        Ok(space)
    }

    /// The mount is gone: closes what is still open, for the kernel does not always say so. Waits
    /// for what is still to be uploaded, up to a bound; what is not done then stays in the spool.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(shelf) = &self.config.shelf {
            shelf.close();
        }
        let handles = self.files.handles().into_iter();
        let leftovers: Vec<_> = handles.filter_map(|handle| self.release(handle)).collect();
        if let Some(fs) = self.this.upgrade() {
            thread::spawn(move || leftovers.into_iter().for_each(|left| fs.finish(left)));
        }
        self.settle();
    }

    /// Whether the mount is gone.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// How many files, and bytes of them, are still to be uploaded.
    pub fn owed(&self) -> (usize, u64) {
        let drafts = self.drafts.all().into_iter();
        let owed = drafts.filter(|draft| !draft.is_over());
        let bytes = owed.map(|draft| draft.file.with(|record| record.dirty().covered()));
        bytes.fold((0, 0), |(files, sum), bytes| {
            (files + 1, sum + bytes.unwrap_or(0))
        })
    }

    /// Waits for the uploads that are under way, up to a bound; with write-back, for all that were
    /// promised, however long that takes.
    pub fn settle(&self) {
        if !self.leftovers.wait(Instant::now() + FAREWELL) {
            log::warn!("unmounted before everything was uploaded: the rest is kept in the spool");
        }
        self.drafts.backlog.drain();
    }

    fn attributes(&self, ino: Ino, patience: Patience) -> Result<(Attributes, Instant), Error> {
        let ours = match self.drafts.of(ino).map(|draft| draft.attributes()) {
            Some(Ok(attributes)) => Some(attributes),
            // What it was when it lost its name is all there will ever be.
            _ if self.inodes.is_unlinked(ino) => {
                let passed = self.passed(ino);
                passed.or_else(|| Some(self.files.of(ino)?.attributes()))
            }
            _ => None,
        };
        if let Some(attributes) = ours {
            return Ok((attributes, Instant::now() + self.config.attr_timeout));
        }
        let moment = self.inodes.moment();
        let path = self.live_path(ino)?;
        let known = match ino {
            Ino::ROOT => self.root.lock().clone(),
            _ => None,
        };
        let answer = match (patience, known) {
            (Patience::Until(deadline), Some(known)) => {
                self.stat_known_root(&path, known, deadline)
            }
            _ => self.stat(&path, patience)?,
        };
        // Not the file itself: who asks may be changing that.
        if !self.is_still(moment)
            && let Some(above) = self.inodes.parent(ino)
            && self.is_moving(above, moment, patience)?
        {
            return self.attributes(ino, patience);
        }
        match answer {
            Answer::Present(attributes, _)
                if ino == Ino::ROOT && attributes.kind != FileKind::Directory =>
            {
                Err(Error::remote(&path, remote::Error::NotDirectory))
            }
            // Another kind of file has taken the name: the kernel has to look it up once more.
            Answer::Present(attributes, _) if self.inodes.kind(ino) != Some(attributes.kind) => {
                Err(Error::Stale)
            }
            Answer::Present(attributes, _) if self.parts(ino, &attributes) => {
                self.attributes(ino, patience)
            }
            Answer::Present(attributes, until) => {
                if ino == Ino::ROOT {
                    *self.root.lock() = Some(attributes.clone());
                }
                Ok((attributes, until))
            }
            Answer::Absent(_) if self.inodes.has_moved(ino, moment) => {
                self.attributes(ino, patience)
            }
            Answer::Absent(_) => Err(Error::remote(&path, remote::Error::NotFound)),
            Answer::Unknown => Err(Error::WouldWait),
        }
    }

    /// umount(8), findmnt and file managers look at the mount's root: a server that is silent must
    /// not hold them up, and the root stays what it is. The question itself is given all the time:
    /// over a slow link it would otherwise be asked, and cut off, again and again.
    fn stat_known_root(&self, path: &RemotePath, known: Attributes, deadline: Instant) -> Answer {
        let soon = deadline.min(Instant::now() + ROOT_PATIENCE);
        let tick = self.cache.begin(Instant::now()).tick();
        let (fs, root) = (self.this.clone(), path.clone());
        let fetch = move || {
            let failed = |error: String| Err(remote::Error::Failed(error));
            let Some(fs) = fs.upgrade() else {
                return failed("unmounted".to_owned());
            };
            let answer = fs.stat(&root, Patience::Until(deadline));
            answer.or_else(|error| failed(error.to_string()))
        };
        let answer = self.roots.launch(path, tick, soon, fetch);
        answer.unwrap_or_else(|error| {
            log::debug!("{path}: {error}");
            Answer::Present(known, Instant::now())
        })
    }

    /// What there is at `path`. Never [`Answer::Unknown`] for those who wait.
    fn stat(&self, path: &RemotePath, patience: Patience) -> Result<Answer, Error> {
        let known = self.cache.attributes(path, Instant::now());
        if known != Answer::Unknown {
            return Ok(known);
        }
        if let Some((cause, at)) = self.unanswered.lock().get(path)
            && at.elapsed() < SILENCE
        {
            return Err(Error::remote(path, cause.clone()));
        }
        let deadline = patience.deadline()?;
        let before = self.cache.last_known(path);
        if self.remote.stats_by_listing(path, before.as_ref()) && !self.is_first_in(path) {
            let listed = self.stat_by_listing(path, deadline);
            if listed != Answer::Unknown {
                return Ok(listed);
            }
        }
        let ticket = self.cache.begin(Instant::now());
        let fetched = self.stats.join(path, ticket.tick(), deadline, || {
            let fetched = self.remote.stat(path, before.as_ref(), deadline);
            match &fetched {
                Ok(attributes) => self.cache.insert(ticket, path, Some(attributes)),
                Err(remote::Error::NotFound) => self.cache.insert(ticket, path, None),
                Err(_) => false,
            };
            fetched
        });
        match fetched {
            Ok(attributes) => Ok(Answer::Present(attributes, self.cache.expiry(ticket, true))),
            Err(remote::Error::NotFound) => Ok(Answer::Absent(self.cache.expiry(ticket, false))),
            Err(cause) => {
                if let remote::Error::TimedOut(_) = cause {
                    let silence = (cause.clone(), Instant::now());
                    self.unanswered.lock().put(path.clone(), silence);
                }
                Err(Error::remote(path, cause))
            }
        }
    }

    /// Whether nothing else in its directory was asked for lately. The whole directory takes a round
    /// trip more than the one file does, on a server without MLST; the second question is worth it.
    fn is_first_in(&self, path: &RemotePath) -> bool {
        let Some(parent) = path.parent() else {
            return false;
        };
        let now = Instant::now();
        let before = self.visited.lock().put(parent, now);
        before.is_none_or(|then| then + self.config.dir_timeout < now)
    }

    /// What the listing of the directory says of `path`: it costs no more than asking for the one
    /// file where the server has no good way to do so, and answers for its neighbours too.
    fn stat_by_listing(&self, path: &RemotePath, deadline: Instant) -> Answer {
        let Some((parent, name)) = path.parent().zip(path.name()) else {
            return self.stat_root(path, deadline);
        };
        let cut = self.cache.listing(&parent, Instant::now());
        if let Some(cut) = cut.filter(|listing| !listing.is_complete())
            && self.cache.told_in(&cut, &parent, &name) == Answer::Unknown
        {
            // The next listing would be cut short too.
            return Answer::Unknown;
        }
        // The directory may be closed to listings only.
        let Ok(directory) = self.fetch_listing(&parent, deadline) else {
            return Answer::Unknown;
        };
        let told = self.cache.told_in(&directory, &parent, &name);
        if directory.entries().len() >= self.config.cache_entries {
            // Too many to be kept: at least what was asked for is.
            let found = match &told {
                Answer::Present(attributes, _) => Some(attributes),
                Answer::Absent(_) => None,
                Answer::Unknown => return told,
            };
            self.cache.insert(directory.ticket(), path, found);
        }
        told
    }

    /// The server's root, where only its own listing tells of it.
    fn stat_root(&self, path: &RemotePath, deadline: Instant) -> Answer {
        let Ok(directory) = self.fetch_listing(path, deadline) else {
            return Answer::Unknown;
        };
        let until = self.cache.expiry(directory.ticket(), true);
        let own = self.cache.last_known(path);
        own.map_or(Answer::Unknown, |own| Answer::Present(own, until))
    }

    fn list(&self, path: &RemotePath, patience: Patience) -> Result<Arc<Directory>, Error> {
        if let Some(directory) = self.cache.listing(path, Instant::now()) {
            return Ok(directory);
        }
        self.fetch_listing(path, patience.deadline()?)
    }

    fn fetch_listing(&self, path: &RemotePath, deadline: Instant) -> Result<Arc<Directory>, Error> {
        let ticket = self.cache.begin(Instant::now());
        let fetched = self.lists.join(path, ticket.tick(), deadline, || {
            let fetched = self.remote.list(path, deadline);
            if let Err(remote::Error::NotFound) = &fetched {
                self.cache.insert(ticket, path, None);
            }
            Ok(self.keep_listing(path, ticket, fetched?))
        });
        fetched.map_err(|cause| Error::remote(path, cause))
    }

    /// What a listing is to us: it is remembered, and leftovers in it are seen to.
    fn keep_listing(
        &self,
        path: &RemotePath,
        ticket: Ticket,
        mut listing: Listing,
    ) -> Arc<Directory> {
        if let Some(own) = &listing.own {
            self.cache.insert(ticket, path, Some(own));
        }
        self.tidy_up(path, &listing);
        listing.entries.retain(|(name, _)| {
            Temporary::parse(name).is_none() && !self.drafts.hides(&path.join(name))
        });
        let directory = Arc::new(Directory::new(listing, ticket));
        if !directory.is_complete() {
            log::warn!("{path}: the server cut the listing short");
        }
        let kept = self.cache.insert_listing(path, directory.clone());
        kept.unwrap_or(directory)
    }

    fn enter(
        &self,
        parent: Ino,
        name: &Name,
        attributes: &Attributes,
        ttl: Duration,
        asked: Asked,
    ) -> Result<Entry, Error> {
        let enter = || self.inodes.enter(parent, name, attributes);
        let mut ino = enter().ok_or(Error::Stale)?;
        if self.parts(ino, attributes) {
            self.inodes.forget(ino, 1);
            ino = enter().ok_or(Error::Stale)?;
        }
        if self.drafts.of(ino).is_none() {
            self.files.observe(ino, attributes, asked);
        }
        Ok(self.entry(ino, attributes, ttl))
    }

    fn entry(&self, ino: Ino, attributes: &Attributes, ttl: Duration) -> Entry {
        let draft = self.drafts.of(ino);
        let ours = draft.and_then(|draft| draft.attributes().ok());
        let attributes = ours.as_ref().unwrap_or(attributes);
        self.inodes.tell(ino, attributes.size);
        Entry {
            attr: self.show(ino, attributes),
            ttl: self.kernel_may_believe(ttl),
        }
    }

    fn live_path(&self, ino: Ino) -> Result<RemotePath, Error> {
        self.inodes.path(ino).ok_or(Error::Stale)
    }

    fn hold(&self, ino: Ino) -> Result<(), Error> {
        self.inodes.hold(ino).then_some(()).ok_or(Error::Stale)
    }
}

impl Patience {
    /// When to give up; [`Error::WouldWait`] where there is no waiting at all.
    fn deadline(self) -> Result<Instant, Error> {
        match self {
            Self::MemoryOnly => Err(Error::WouldWait),
            Self::Until(deadline) => Ok(deadline),
        }
    }

    /// No more than `bound` from now on.
    fn within(self, bound: Duration) -> Self {
        match self {
            Self::MemoryOnly => Self::MemoryOnly,
            Self::Until(deadline) => Self::Until(deadline.min(Instant::now() + bound)),
        }
    }
}

fn parse_name(name: &[u8]) -> Result<Name, Error> {
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
    Name::parse(name).map_err(|error| match error {
        PathError::Unrepresentable | PathError::NotAbsolute | PathError::NotAComponent => {
            Error::InvalidName
        }
    })
}

fn remaining(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests;
