//! Files being written. Each inode has at most one [`Draft`]: its content lies in the spool from the
//! first byte, and goes to the server when a program waits for that (close, fsync), or at the
//! latest when nobody has it open any more.
//!
//! Must not know the kernel.
//!
//! Locks: a draft's `upload`, held while it is sent; then its `place`, held while its name on the
//! server is used or changed (of several drafts in the order of their numbers); then the leaves:
//! the table, held over local disk work where a draft begins or ends, `shown`, `ahead` and `doubt`.

mod ahead;
mod backlog;
mod content;
mod copy;
mod names;
mod recover;
mod send;
mod turns;
mod upload;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard};

use super::spool::{self, Base, Method, RecordId, Spool, SpoolError, SpoolFile, Wanted};
use super::{Error, Ino};
use crate::proto::RemotePath;
use crate::remote::{Attributes, Version};
use ahead::Ahead;
use backlog::Backlog;
pub use content::{Access, Leftover};
use names::Active;
pub use names::TempName;
pub(super) use turns::Turns;

/// All drafts.
pub(super) struct Drafts {
    /// `None` where the mount is read-only.
    spool: Option<Spool>,
    table: Mutex<HashMap<Ino, Slot>>,
    /// Uploads take turns.
    pub turns: Arc<Turns>,
    /// What goes to the server later (write-back).
    pub backlog: Arc<Backlog>,
    /// Temporary names in use.
    active: Active,
}

#[derive(Default)]
struct Slot {
    draft: Option<Arc<Draft>>,
    /// How many handles may write to it.
    writers: usize,
}

/// One file being written.
pub(super) struct Draft {
    pub ino: Ino,
    pub file: SpoolFile,
    shown: Mutex<Shown>,
    pub upload: Mutex<()>,
    pub place: Mutex<()>,
    /// An earlier run left it: what its last upload came to is not known.
    adopted: AtomicBool,
    /// Its content on its way while it is still written.
    ahead: Mutex<Option<Arc<Ahead>>>,
    /// The server's word on this was lost.
    doubt: Mutex<Option<Doubt>>,
    /// How long a broken append may have made the file.
    reach: AtomicU64,
}

/// A version that was sent whole, and may have its name by now.
#[derive(Clone, Debug)]
struct Doubt {
    version: spool::Version,
    size: u64,
    temporary: RemotePath,
}

impl Doubt {
    /// What an earlier run left open.
    fn left(record: &spool::Record) -> Option<Self> {
        let upload = record.upload.as_ref()?;
        match &upload.method {
            Method::Temporary(temporary) => Some(Self {
                version: upload.version,
                size: upload.whole?,
                temporary: temporary.clone(),
            }),
            _ => None,
        }
    }
}

/// What stat shows of a draft, beside its size.
struct Shown {
    /// As the server has it; of a new file, as it shall have it.
    server: Attributes,
    /// When it was written last, or the time that it was given since; `None` where the server
    /// has that already.
    modified: Option<SystemTime>,
    /// The time was given by a program.
    given: bool,
    mode: Option<u16>,
    /// Something else stands under its name on the server, to be replaced.
    replaces: bool,
}

/// What an upload is to give the server beside the bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dress {
    pub modified: SystemTime,
    /// The time was given by a program.
    pub given: bool,
    pub mode: Option<u16>,
}

impl Dress {
    /// What of the wishes it fulfils.
    fn of(&self, wanted: Wanted) -> Wanted {
        let mode = self.mode.map(u32::from);
        Wanted {
            mtime: wanted
                .mtime
                .filter(|time| self.given && *time == self.modified),
            mode: wanted.mode.filter(|wanted| mode == Some(*wanted)),
        }
    }
}

impl Drafts {
    pub fn new(spool: Option<Spool>, uploads: usize) -> Self {
        Self {
            spool,
            table: Mutex::default(),
            turns: Turns::new(uploads),
            backlog: Arc::new(Backlog::new(uploads)),
            active: Active::default(),
        }
    }

    pub fn spool(&self) -> Result<&Spool, Error> {
        self.spool.as_ref().ok_or(Error::ReadOnly)
    }

    /// The draft of an inode.
    pub fn of(&self, ino: Ino) -> Option<Arc<Draft>> {
        self.table.lock().get(&ino)?.draft.clone()
    }

    /// Whether a name in use for an upload is not to be shown.
    pub fn hides(&self, path: &RemotePath) -> bool {
        self.active.contains(path)
    }

    /// Whether this is still its inode's draft.
    pub fn is(&self, draft: &Arc<Draft>) -> bool {
        let current = self.of(draft.ino);
        current.is_some_and(|current| Arc::ptr_eq(&current, draft))
    }

    pub fn all(&self) -> Vec<Arc<Draft>> {
        let table = self.table.lock();
        table.values().filter_map(|s| s.draft.clone()).collect()
    }

    /// One more handle may write to the file.
    pub fn join(&self, ino: Ino) {
        self.table.lock().entry(ino).or_default().writers += 1;
    }

    /// Whether a handle may write to the file.
    pub fn is_open(&self, ino: Ino) -> bool {
        self.table
            .lock()
            .get(&ino)
            .is_some_and(|slot| slot.writers > 0)
    }

    /// A handle that could write is gone. The draft, where nobody is left to write it.
    pub fn leave(&self, ino: Ino) -> Option<Arc<Draft>> {
        let mut table = self.table.lock();
        let slot = table.get_mut(&ino)?;
        slot.writers = slot.writers.saturating_sub(1);
        if slot.writers > 0 {
            return None;
        }
        if slot.draft.is_none() {
            table.remove(&ino);
            return None;
        }
        slot.draft.clone()
    }

    /// The draft of an inode, begun where there is none: upon what the server has, or as a new file. The second
    /// is whether it was begun now. `found` is asked under the lock: what we make of the file on the server after
    /// that finds the draft.
    pub fn begin(
        &self,
        ino: Ino,
        path: &RemotePath,
        is_new: bool,
        found: impl FnOnce() -> Attributes,
    ) -> Result<(Arc<Draft>, bool), Error> {
        let spool = self.spool()?;
        let mut table = self.table.lock();
        let slot = table.entry(ino).or_default();
        if let Some(draft) = &slot.draft {
            return Ok((draft.clone(), false));
        }
        let found = found();
        let base = (!is_new).then(|| base_of(&found));
        let created = spool.create(path, base, SystemTime::now());
        let draft = created.map(|file| Arc::new(Draft::new(ino, file, found, is_new)));
        match draft {
            Ok(draft) => {
                if let Some(mode) = draft.shown.lock().mode {
                    draft.want(|wanted| wanted.mode = Some(mode.into()))?;
                }
                slot.draft = Some(draft.clone());
                Ok((draft, true))
            }
            Err(error) => {
                if slot.writers == 0 {
                    table.remove(&ino);
                }
                Err(error.into())
            }
        }
    }

    /// Takes a draft in that is already in the spool; not where the file is being written anew.
    fn adopt(&self, ino: Ino, draft: Draft) -> bool {
        let slot = &mut *self.table.lock();
        let slot = slot.entry(ino).or_default();
        let is_free = slot.draft.is_none();
        if is_free {
            slot.draft = Some(Arc::new(draft));
        }
        is_free
    }

    /// Ends a draft that nobody writes and that the server has, or shall not have; whether it did.
    /// Not while it is being sent: what came of that has to be known first. Who sends it tries again. Nor while
    /// it `is_read` and is all there is: asked under the lock, so that whoever begins to finds it or does not.
    pub fn retire(&self, ino: Ino, is_read: impl FnOnce() -> bool) -> bool {
        let mut table = self.table.lock();
        let idle = table.get_mut(&ino).filter(|slot| slot.writers == 0);
        let Some(slot) = idle.filter(|_| !is_read()) else {
            return false;
        };
        let is_over = |draft: &mut Arc<Draft>| !draft.upload.is_locked() && draft.is_over();
        let Some(draft) = slot.draft.take_if(is_over) else {
            return false;
        };
        table.remove(&ino);
        if let Err(error) = draft.file.clone().discard() {
            log::warn!("the spool keeps a file that is uploaded: {error}");
        }
        true
    }

    /// Ends a draft to which nothing was written, for the server has another content under its name
    /// by now; whether it did.
    pub fn supersede(&self, draft: &Arc<Draft>) -> bool {
        let mut table = self.table.lock();
        let current = table.get_mut(&draft.ino).map(|slot| &mut slot.draft);
        let is_current = |current: &&mut Option<Arc<Draft>>| {
            let current = current.as_ref();
            current.is_some_and(|current| Arc::ptr_eq(current, draft) && current.is_untouched())
        };
        let Some(current) = current.filter(is_current) else {
            return false;
        };
        *current = None;
        if let Err(error) = draft.file.clone().discard() {
            log::warn!("the spool keeps an empty file that became a copy: {error}");
        }
        true
    }

    /// The places of drafts, in order, until `deadline`.
    pub fn lock_places(
        drafts: &[Arc<Draft>],
        deadline: Instant,
    ) -> Result<Vec<MutexGuard<'_, ()>>, Error> {
        let mut ordered: Vec<_> = drafts.iter().collect();
        ordered.sort_by_key(|draft| draft.ino);
        ordered.dedup_by_key(|draft| draft.ino);
        let locks = ordered
            .into_iter()
            .map(|draft| draft.place.try_lock_until(deadline));
        locks.collect::<Option<_>>().ok_or(Error::TimedOut)
    }
}

impl Draft {
    fn new(ino: Ino, file: SpoolFile, server: Attributes, is_new: bool) -> Self {
        let modified = is_new.then(now);
        let mode = server.mode.filter(|_| is_new);
        Self {
            ino,
            file,
            shown: Mutex::new(Shown {
                server,
                modified,
                given: false,
                mode,
                replaces: false,
            }),
            upload: Mutex::new(()),
            place: Mutex::new(()),
            adopted: AtomicBool::new(false),
            ahead: Mutex::new(None),
            doubt: Mutex::new(None),
            reach: AtomicU64::new(0),
        }
    }

    /// One that an earlier run left. What it is to be given was kept with it.
    fn adopted(ino: Ino, file: SpoolFile, server: Attributes, replaces: bool) -> Self {
        let wanted = file.with(|record| record.wanted).unwrap_or_default();
        let draft = Self::new(ino, file, server.clone(), false);
        draft.adopted.store(true, Ordering::Relaxed);
        *draft.doubt.lock() = draft.file.with(Doubt::left).unwrap_or_default();
        *draft.shown.lock() = Shown {
            modified: wanted.mtime.or(Some(now())),
            given: wanted.mtime.is_some(),
            mode: wanted.mode.map(|mode| (mode & 0o7777) as u16),
            replaces,
            server,
        };
        draft
    }

    /// What stat shows. Fails where the draft is over.
    pub fn attributes(&self) -> Result<Attributes, SpoolError> {
        let size = self.file.size()?;
        let shown = self.shown.lock();
        Ok(Attributes {
            size,
            mtime: shown.modified.unwrap_or(shown.server.mtime),
            mode: shown.mode.or(shown.server.mode),
            ..shown.server.clone()
        })
    }

    /// What the server has, as far as we know.
    pub fn server(&self) -> Attributes {
        self.shown.lock().server.clone()
    }

    /// Writes to the spool.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<usize, SpoolError> {
        let written = self.file.write_at(bytes, offset)?;
        self.touch()?;
        Ok(written)
    }

    /// Writes behind the last byte.
    pub fn append(&self, bytes: &[u8]) -> Result<usize, SpoolError> {
        let size = self.file.size()?;
        self.write(bytes, size)
    }

    pub fn truncate(&self, len: u64) -> Result<(), SpoolError> {
        self.file.truncate(len)?;
        self.touch()
    }

    /// It was changed just now.
    fn touch(&self) -> Result<(), SpoolError> {
        let mut shown = self.shown.lock();
        shown.modified = Some(now());
        if std::mem::replace(&mut shown.given, false) {
            drop(shown);
            return self.want(|wanted| wanted.mtime = None);
        }
        Ok(())
    }

    /// Gives it a time, for the server to have when the content goes there.
    pub fn set_modified(&self, time: SystemTime) -> Result<(), SpoolError> {
        let time = whole(time);
        {
            let mut shown = self.shown.lock();
            shown.modified = Some(time);
            shown.given = true;
        }
        self.want(|wanted| wanted.mtime = Some(time))
    }

    /// Gives it permission bits, likewise.
    pub fn set_mode(&self, mode: u16) -> Result<(), SpoolError> {
        self.shown.lock().mode = Some(mode);
        self.want(|wanted| wanted.mode = Some(mode.into()))
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) -> Result<(), SpoolError> {
        let mut wanted = self.file.with(|record| record.wanted)?;
        change(&mut wanted);
        self.file.want(wanted)
    }

    /// What the server has under its name, or is given that name with it, is to be replaced by it.
    pub fn replace(&self, replaced: &Attributes) -> Result<(), SpoolError> {
        self.shows_over(replaced);
        let uploaded = self.file.with(|record| record.uploaded)?;
        self.file.mark_uploaded(uploaded, base_of(replaced))
    }

    /// The same, which a rename has recorded already.
    pub fn shows_over(&self, replaced: &Attributes) {
        let mut shown = self.shown.lock();
        shown.replaces = true;
        (shown.server.size, shown.server.mtime) = (replaced.size, replaced.mtime);
    }

    /// What an upload that begins now gives the server.
    pub fn dress(&self) -> Dress {
        let shown = self.shown.lock();
        Dress {
            modified: shown.modified.unwrap_or(shown.server.mtime),
            given: shown.given,
            mode: shown.mode,
        }
    }

    /// The server has it as `server` now, which came of an upload with `dress`, or of a change that
    /// was made there at once (`None`).
    pub fn settle(&self, server: &Attributes, dress: Option<&Dress>) {
        let mut shown = self.shown.lock();
        shown.server = server.clone();
        if let Some(dress) = dress {
            shown.replaces = false;
            if shown.modified == Some(dress.modified) {
                shown.modified = None;
                shown.given = false;
            }
            if shown.mode == dress.mode {
                shown.mode = None;
            }
        }
    }

    /// Whether the server has a file that this is a newer version of.
    pub fn is_on_server(&self) -> bool {
        // One that is over was sent before it ended.
        self.file
            .with(|record| record.base.is_some())
            .unwrap_or(true)
    }

    /// Whether something stands on the server under its name.
    pub fn occupies(&self) -> bool {
        self.shown.lock().replaces || self.is_on_server()
    }

    /// Whether the server has all there is, as far as we know.
    pub fn is_clean(&self) -> bool {
        let clean = |record: &super::spool::Record| {
            !record.changed && !record.is_owed() && record.wanted == Wanted::default()
        };
        self.file.with(clean).unwrap_or(true)
    }

    /// Whether a version of it was closed that the server does not have.
    pub fn is_owed(&self) -> bool {
        self.file.with(|record| record.is_owed()).unwrap_or(false)
    }

    /// Nobody is to have it any more.
    pub fn unlink(&self) -> Result<(), SpoolError> {
        match self.file.unlink() {
            Ok(()) | Err(SpoolError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether it is empty, and not even that was asked to be sent yet.
    pub fn is_untouched(&self) -> bool {
        let untouched = |record: &super::spool::Record| {
            record.size == 0 && record.changed && !record.is_owed() && !record.unlinked
        };
        self.file.with(untouched).unwrap_or(false)
    }

    /// Whether an upload was broken off, and nobody has looked yet what it has done.
    fn is_in_doubt(&self) -> bool {
        let broken = match self.adopted.load(Ordering::Relaxed) {
            true => self.file.with(|record| record.upload.is_some()),
            false => Ok(self.is_torn()),
        };
        broken.unwrap_or(false) || self.doubt().is_some()
    }

    /// Whether an upload under the file's own name was broken off.
    pub fn is_torn(&self) -> bool {
        let torn = self.file.with(|record| record.torn.is_some());
        torn.unwrap_or(false)
    }

    fn faced(&self) {
        self.adopted.store(false, Ordering::Relaxed);
        *self.doubt.lock() = None;
    }

    fn doubt(&self) -> Option<Doubt> {
        self.doubt.lock().clone()
    }

    pub fn is_unlinked(&self) -> bool {
        self.file.with(|record| record.unlinked).unwrap_or(true)
    }

    /// Whether nothing of it is needed but by those who have it open.
    pub fn is_over(&self) -> bool {
        self.is_unlinked() || self.is_clean()
    }

    /// Whether it can be read without the server.
    pub fn is_whole(&self) -> bool {
        let whole = |record: &super::spool::Record| record.missing(0..record.size).next().is_none();
        self.file.with(whole).unwrap_or(false)
    }

    /// Whether it can be read without the server for as long as it is open. While its place is locked: one that
    /// the server has could end.
    pub fn keeps_all(&self) -> bool {
        self.is_whole() && !self.is_clean()
    }

    /// What of a range only the server has, and the content that it has there.
    pub fn missing(&self, range: Range<u64>) -> Result<(Vec<Range<u64>>, Version), SpoolError> {
        self.file.with(|record| {
            let version = record.base.map_or(
                Version {
                    size: 0,
                    mtime: UNIX_EPOCH,
                },
                version_of,
            );
            (record.missing(range).collect(), version)
        })
    }

    pub fn id(&self) -> RecordId {
        self.file.id()
    }

    /// Whether it is being sent right now.
    pub fn is_on_its_way(&self) -> bool {
        self.ahead().is_some() || self.upload.is_locked()
    }

    fn ahead(&self) -> Option<Arc<Ahead>> {
        self.ahead.lock().clone()
    }

    /// Gives what was there before.
    fn set_ahead(&self, ahead: Option<Arc<Ahead>>) -> Option<Arc<Ahead>> {
        std::mem::replace(&mut *self.ahead.lock(), ahead)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(ahead) = self.set_ahead(None) {
            ahead.abandon();
        }
    }
}

/// A file on the server, as the spool names it.
pub(super) fn base_of(attributes: &Attributes) -> Base {
    Base {
        size: attributes.size,
        mtime: (attributes.mtime != UNIX_EPOCH).then_some(attributes.mtime),
    }
}

/// And back.
pub(super) fn version_of(base: Base) -> Version {
    Version {
        size: base.size,
        mtime: base.mtime.unwrap_or(UNIX_EPOCH),
    }
}

/// A file of which nothing is known but its time.
pub(super) fn blank(mtime: SystemTime) -> Attributes {
    Attributes::file(0, mtime)
}

/// The time, as it can be given to a server: in whole seconds, so that it does not change when it
/// comes back from there.
pub(super) fn now() -> SystemTime {
    whole(SystemTime::now())
}

/// Whole seconds, rounded down. FTP's times begin with the year 1, ours with 1970.
pub(super) fn whole(time: SystemTime) -> SystemTime {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => UNIX_EPOCH + Duration::from_secs(since.as_secs()),
        Err(_) => UNIX_EPOCH,
    }
}
