//! The spool: the local store of every file being written, which is the journal at the same time.
//!
//! Each file has a [`Record`] from its first byte: a sparse file with what was written and what
//! was fetched from the server, and lines in the journal that say what those bytes are. Whatever
//! ends the process, the next [`Spool::open`] finds each record as it was after the last operation
//! that returned. Nothing goes away but by [`SpoolFile::discard`].
//!
//! Knows remote paths, local files and bytes; must not know FTP, sessions, inodes or the kernel.
//!
//! Memory: about 40 bytes for each range of bytes (see [`RangeSet`]). The spool's limit bounds their
//! number, for each is charged a disk block beside its bytes.
//!
//! Lock order: a file's `io`; then `live`; then `synced`; then `log`; then `table` or `graves`, leaves
//! held for memory work only: so asking about a file never waits for the disk.

mod event;
mod file;
pub(in crate::fs) mod folder;
mod inspect;
mod journal;
mod log;
mod place;
mod ranges;
mod record;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use self::event::{Change, Event, MAX_PATH};
use self::folder::Folder;
use self::journal::{BLOCK, Journal, Table, Tail, rebased};
use self::log::Log;
use crate::proto::RemotePath;
pub use file::{Missing, SpoolFile};
pub use inspect::{Holder, Inspection, Kept, KeptId, Lacking, What};
pub use journal::JournalError;
pub use place::{Source, default_state_dir};
pub use ranges::RangeSet;
pub use record::{Base, Failure, Method, Record, RecordId, Upload, Version, Wanted};

/// What [`SpoolFile::sync`] protects from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// The end of the process: the kernel has every byte already, so it costs nothing.
    Process,
    /// The end of the machine: bytes and journal are forced to the disk.
    Power,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `spool_size=`: what all files together may take of the local disk, bytes.
    pub limit: u64,
    pub durability: Durability,
    /// How long to wait for another process's lock on the spool. Zero: not at all.
    pub patience: Duration,
}

/// Why the spool refuses.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the spool is in use by {}", pid.map_or("another process".into(), |pid| format!("process {pid}")))]
    AlreadyLocked { pid: Option<u32> },
    #[error("{} {why}", path.display())]
    Insecure { path: PathBuf, why: &'static str },
    #[error("the spool's journal is left alone: {0}")]
    Journal(#[from] JournalError),
    /// `spool_size=` is used up, or the local disk.
    #[error("no space: {0}")]
    NoSpace(&'static str),
    #[error("no file can be that large")]
    TooLarge,
    #[error("the path is too long")]
    PathTooLong,
    /// Only the server has these bytes.
    #[error("bytes {} to {} are not here yet", .0.start, .0.end)]
    Missing(Range<u64>),
    /// The local disk lost bytes that the journal says were written.
    #[error("the local disk has lost bytes {} to {} of the file", .0.start, .0.end)]
    Damaged(Range<u64>),
    /// The record was discarded.
    #[error("the file is no longer in the spool")]
    Gone,
    #[error("{during}: {cause}")]
    Io {
        during: &'static str,
        cause: io::Error,
    },
}

/// What opening a spool brought to light.
#[derive(Debug)]
pub struct Found {
    /// What an earlier run left, oldest first. Each stays until it is adopted and discarded.
    pub leftovers: Vec<Record>,
    pub damage: Option<Damage>,
}

/// The journal had lost its end. What it no longer explains is kept.
#[derive(Debug)]
pub struct Damage {
    /// How many bytes of it made no sense.
    pub cut: u64,
    /// Files in lost+found: data that no record claims, and the journal if it lost more than what
    /// was being written.
    pub rescued: Vec<PathBuf>,
}

/// An open spool. Clones are the same spool; its folder is locked until the last of them, and of
/// its files, is dropped.
#[derive(Clone, Debug)]
pub struct Spool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: Options,
    folder: Folder,
    /// How many of the log's events are durable. Held while syncing: so those who come meanwhile
    /// find theirs done by the next one's sync.
    synced: Mutex<u64>,
    log: Mutex<Log>,
    table: Mutex<Ledger>,
    live: Mutex<HashMap<RecordId, Weak<file::Open>>>,
    /// Data files of discarded records, each with the number of the event that says so.
    graves: Mutex<Vec<(u64, RecordId)>>,
    #[cfg(test)]
    syncs: std::sync::atomic::AtomicU64,
}

/// The table, and what is about to be added to it.
#[derive(Debug)]
struct Ledger {
    table: Table,
    /// Bytes promised to writes under way.
    pledged: u64,
}

/// So many graves are waited with before they are worth a sync.
const MAX_GRAVES: usize = 256;

impl Spool {
    /// Opens the spool in `path` (see [`Source::folder_name`]), made where it is missing.
    pub fn open(
        path: &Path,
        options: Options,
        now: SystemTime,
    ) -> Result<(Self, Found), SpoolError> {
        Self::open_on(boot_id(), path, options, now)
    }

    /// The same, on the machine's start `boot`.
    fn open_on(
        boot: String,
        path: &Path,
        options: Options,
        now: SystemTime,
    ) -> Result<(Self, Found), SpoolError> {
        let folder = Folder::open(path, options.patience)?;
        let (file, bytes) = match folder.journal()? {
            Some((file, bytes)) => (Some(file), bytes),
            None => (None, Vec::new()),
        };
        let mut journal = journal::parse(&bytes)?;
        let damage = tidy(&folder, &journal, &bytes, now)?;
        if journal.id == 0 {
            // Any number does that no other spool is likely to have.
            journal.id = RandomState::new().hash_one(now).max(1);
        }
        let log = match file {
            Some(file) if journal.len > 0 => Log::resume(file, &journal),
            _ => Log::create(&folder, journal::rewrite(journal.id, &journal.table)),
        };
        let mut log = log.map_err(|error| SpoolError::io("opening the journal", error))?;
        let next_id = journal.table.next_id;
        let opened = Event::Opened { boot, next_id };
        log.append(&opened)
            .map_err(|error| SpoolError::io("writing the journal", error))?;
        let mut table = journal.table;
        table.apply(opened);
        for record in table.records.values_mut() {
            let data = folder.open_data(record.id).and_then(|data| data.metadata());
            record.doubtful |= data.map_or(true, |data| data.len() < record.stored.end());
        }
        let superseded: Vec<_> = table
            .records
            .values()
            .filter_map(Record::supersedes)
            .collect();
        let shared = Shared {
            options,
            folder,
            synced: Mutex::new(0),
            log: Mutex::new(log),
            table: Mutex::new(Ledger { table, pledged: 0 }),
            live: Mutex::default(),
            graves: Mutex::default(),
            #[cfg(test)]
            syncs: Default::default(),
        };
        let spool = Self(Arc::new(shared));
        for kept in superseded {
            spool.0.discard_if_there(kept)?;
        }
        let leftovers = spool.records();
        Ok((spool, Found { leftovers, damage }))
    }

    /// This spool's own number, for names on the server that other mounts must not mistake for
    /// theirs. It never changes.
    pub fn id(&self) -> u64 {
        self.0.log.lock().id()
    }

    /// The folder that it is in.
    pub fn path(&self) -> &Path {
        self.0.folder.path()
    }

    /// Notes what is mounted, for `Inspection` to show.
    pub fn note_source(&self, source: &[u8]) {
        if let Err(error) = self.0.folder.note_source(source) {
            ::log::debug!("the spool does not tell its source: {error}");
        }
    }

    /// What a record is called among those of all spools.
    pub fn kept_as(&self, id: RecordId) -> KeptId {
        KeptId::of_record(self.id(), id)
    }

    /// Begins the record of a file: of a new one, or of one that the server has as `base`.
    pub fn create(
        &self,
        path: &RemotePath,
        base: Option<Base>,
        now: SystemTime,
    ) -> Result<SpoolFile, SpoolError> {
        if path.as_bytes().len() > MAX_PATH {
            return Err(SpoolError::PathTooLong);
        }
        if base.is_some_and(|base| base.size > event::MAX_SIZE) {
            return Err(SpoolError::TooLarge);
        }
        let path = path.clone();
        let created = |id| Event::Changed(id, Change::Created { path, base, now });
        let (id, data) = self.0.begin(created, |_| {})?;
        Ok(SpoolFile::new(&self.0, id, data, &mut self.0.live.lock()))
    }

    /// What is in the spool now, oldest first.
    pub fn records(&self) -> Vec<Record> {
        let ledger = self.0.table.lock();
        ledger.table.records.values().cloned().collect()
    }

    /// The file of a record, left by an earlier run or in use already.
    pub fn adopt(&self, id: RecordId) -> Result<SpoolFile, SpoolError> {
        let shared = &self.0;
        let mut live = shared.live.lock();
        if let Some(open) = live.get(&id).and_then(Weak::upgrade) {
            return Ok(SpoolFile::share(shared, open));
        }
        let held = shared.with(|| id, |record| record.stored.end())?;
        let data = match shared.folder.open_data(id) {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SpoolError::Damaged(0..held));
            }
            Err(error) => return Err(SpoolError::io("opening a spool file", error)),
        };
        Ok(SpoolFile::new(shared, id, data, &mut live))
    }

    /// Removes a record and its bytes, whether they can be read or not.
    pub fn discard(&self, id: RecordId) -> Result<(), SpoolError> {
        self.0.discard(id)
    }

    /// A file or folder is about to be renamed on the server. Whatever happens then, it is known
    /// that the records at and below `from` may be found at `to`.
    pub fn begin_rename(&self, from: &RemotePath, to: &RemotePath) -> Result<(), SpoolError> {
        let (from, to) = (from.clone(), to.clone());
        if self.concerns(&from, &to)? {
            self.0.tell(Event::Moving { from, to })?;
        }
        self.sync()
    }

    /// It was not renamed.
    pub fn cancel_rename(&self, from: &RemotePath) -> Result<(), SpoolError> {
        self.rename(from, from, None)
    }

    /// It was: every record at or below `from` goes along, and what was at `to` has no name any
    /// more. The record at `from` itself is to replace what the server has there.
    pub fn rename(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        replaces: Option<Base>,
    ) -> Result<(), SpoolError> {
        let (from, to) = (from.clone(), to.clone());
        let is_moving = |table: &Table| table.moving.iter().any(|(moving, _)| *moving == from);
        if is_moving(&self.0.table.lock().table) || self.concerns(&from, &to)? {
            self.0.tell(Event::Moved { from, to, replaces })?;
        }
        Ok(())
    }

    /// Renames of which an earlier run did not tell what became of them.
    pub fn renames(&self) -> Vec<(RemotePath, RemotePath)> {
        self.0.table.lock().table.moving.clone()
    }

    /// Whether a rename touches any record.
    fn concerns(&self, from: &RemotePath, to: &RemotePath) -> Result<bool, SpoolError> {
        let mut touched = false;
        for record in self.0.table.lock().table.records.values() {
            let below = !record.unlinked && record.path.starts_with(from);
            if below && from != to && rebased(&record.path, from, to).is_none() {
                return Err(SpoolError::PathTooLong);
            }
            touched |= below || record.path == *to;
        }
        Ok(touched)
    }

    /// Protects all that was said so far of names, attributes and ends, as the spool's
    /// [`Durability`] has it.
    pub fn sync(&self) -> Result<(), SpoolError> {
        let said = self.0.log.lock().appended();
        self.0.settle(said)
    }

    /// What all files take of the limit, bytes.
    pub fn used(&self) -> u64 {
        u64::try_from(self.0.table.lock().table.used).unwrap_or(u64::MAX)
    }
}

/// The records that a journal adds up to. Takes any bytes.
pub fn parse_journal(bytes: &[u8]) -> Result<Vec<Record>, JournalError> {
    let journal = journal::parse(bytes)?;
    Ok(journal.table.records.into_values().collect())
}

impl Shared {
    /// Begins a record with a file of its own. `begun` is called before any other change is made.
    fn begin(
        &self,
        event: impl FnOnce(RecordId) -> Event,
        begun: impl FnOnce(RecordId),
    ) -> Result<(RecordId, File), SpoolError> {
        let _pledge = self.pledge(&mut self.table.lock(), BLOCK)?;
        self.make_room()?;
        let id = {
            let table = &mut self.table.lock().table;
            table.next_id += 1;
            RecordId(table.next_id - 1)
        };
        let data = self.folder.create_data(id);
        let data = data.map_err(|error| SpoolError::io("making a spool file", error))?;
        let mut log = self.log.lock();
        if let Err(error) = self.append(&mut log, event(id)) {
            // No record claims it; at the latest the next opening removes it.
            let _ = self.folder.remove_data(id);
            return Err(error);
        }
        begun(id);
        Ok((id, data))
    }

    /// Begins the record that takes the place of a file's own, without its content. What an upload tells
    /// meanwhile goes to the one or to the other before it is copied.
    fn split(&self, open: &Arc<file::Open>) -> Result<File, SpoolError> {
        let old = open.id();
        let (id, data) =
            self.begin(|new| Event::Split(old, new), |new| open.become_another(new))?;
        let mut live = self.live.lock();
        live.remove(&old);
        live.insert(id, Arc::downgrade(open));
        Ok(data)
    }

    /// What is asked of a record. Memory work only. It is told which when nothing can end any more: a split
    /// leaves the one before behind.
    fn with<T>(
        &self,
        id: impl FnOnce() -> RecordId,
        ask: impl FnOnce(&Record) -> T,
    ) -> Result<T, SpoolError> {
        let ledger = self.table.lock();
        let record = ledger.table.records.get(&id());
        record.map(ask).ok_or(SpoolError::Gone)
    }

    /// Makes a change to a record, in the journal first. Gives the number of the event after
    /// whose sync it is durable.
    fn change(&self, id: impl FnOnce() -> RecordId, change: Change) -> Result<u64, SpoolError> {
        let mut log = self.log.lock();
        let id = id();
        if self.with(|| id, |record| record.is_unmoved_by(&change))? {
            return Ok(log.appended());
        }
        self.append(&mut log, Event::Changed(id, change))
    }

    fn tell(&self, event: Event) -> Result<u64, SpoolError> {
        self.append(&mut self.log.lock(), event)
    }

    fn append(&self, log: &mut Log, event: Event) -> Result<u64, SpoolError> {
        let appended = log.append(&event);
        appended.map_err(|error| SpoolError::io("writing the journal", error))?;
        self.table.lock().table.apply(event);
        if log.is_due()
            && let Err(error) = self.rewrite(log)
        {
            // It goes on growing, within bounds, and is tried again.
            ::log::debug!("the spool's journal stays long: {error}");
        }
        Ok(log.appended())
    }

    fn rewrite(&self, log: &mut Log) -> io::Result<()> {
        let content = journal::rewrite(log.id(), &self.table.lock().table);
        log.rewrite(&self.folder, content)
    }

    /// Makes sure that what is about to be written can be journalled, before it is written.
    fn make_room(&self) -> Result<(), SpoolError> {
        let made = self.log.lock().make_room();
        made.map_err(|error| SpoolError::io("making room in the journal", error))
    }

    /// Sets bytes of the limit aside.
    fn pledge(&self, ledger: &mut Ledger, bytes: u64) -> Result<Pledge<'_>, SpoolError> {
        let taken = ledger.table.used + u128::from(ledger.pledged) + u128::from(bytes);
        if bytes > 0 && taken > u128::from(self.options.limit) {
            return Err(SpoolError::NoSpace("the spool has reached spool_size="));
        }
        ledger.pledged += bytes;
        Ok(Pledge {
            shared: self,
            bytes,
        })
    }

    /// Makes the log's first `upto` events durable.
    fn sync_log(&self, upto: u64) -> Result<(), SpoolError> {
        let failed = |error| SpoolError::io("syncing the journal", error);
        let mut synced = self.synced.lock();
        if *synced >= upto {
            return Ok(());
        }
        let unsynced = {
            let mut log = self.log.lock();
            if log.is_doubted() {
                self.rewrite(&mut log).map_err(failed)?;
            }
            log.unsynced()
        };
        #[cfg(test)]
        self.syncs
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if let Err(error) = unsynced.sync(&self.folder) {
            self.log.lock().doubt(&unsynced);
            return Err(failed(error));
        }
        *synced = unsynced.appended;
        self.bury(*synced);
        Ok(())
    }

    fn discard_if_there(&self, id: RecordId) -> Result<(), SpoolError> {
        match self.end(id) {
            Err(SpoolError::Gone) => Ok(()),
            ended => ended,
        }
    }

    fn discard(&self, id: RecordId) -> Result<(), SpoolError> {
        if let Some(kept) = self.with(|| id, |record| record.keeps)? {
            self.discard_if_there(kept)?;
        }
        self.end(id)
    }

    fn end(&self, id: RecordId) -> Result<(), SpoolError> {
        let said = self.change(|| id, Change::Discarded)?;
        self.live.lock().remove(&id);
        if self.options.durability == Durability::Process {
            self.remove_data(id);
            return Ok(());
        }
        // After a loss of power the journal must not claim a file whose data are gone.
        let waiting = {
            let mut graves = self.graves.lock();
            graves.push((said, id));
            graves.len()
        };
        if waiting >= MAX_GRAVES {
            self.sync_log(said)
        } else {
            Ok(())
        }
    }

    /// To be called before anything is done that relies on the event `said`. Before bytes are thrown
    /// away that the record gave up by it: after a loss of power the journal must not claim them still.
    fn settle(&self, said: u64) -> Result<(), SpoolError> {
        match self.options.durability {
            Durability::Process => Ok(()),
            Durability::Power => self.sync_log(said),
        }
    }

    /// Removes the data of records whose end is durable.
    fn bury(&self, synced: u64) {
        let mut due = Vec::new();
        self.graves.lock().retain(|&(said, id)| {
            let is_due = said <= synced;
            if is_due {
                due.push(id);
            }
            !is_due
        });
        due.into_iter().for_each(|id| self.remove_data(id));
    }

    fn remove_data(&self, id: RecordId) {
        if let Err(error) = self.folder.remove_data(id) {
            // The next opening removes it.
            ::log::debug!("a discarded spool file stays for now: {error}");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let last = self.graves.lock().last().copied();
        if let Some((said, _)) = last
            && let Err(error) = self.sync_log(said)
        {
            ::log::debug!("discarded spool files stay for now: {error}");
        }
    }
}

/// Bytes of the limit, set aside until what they are for is in the table, or has failed.
struct Pledge<'a> {
    shared: &'a Shared,
    bytes: u64,
}

impl Drop for Pledge<'_> {
    fn drop(&mut self) {
        self.shared.table.lock().pledged -= self.bytes;
    }
}

/// Sees to data files that no record claims. Where the journal knew the id, the record was
/// discarded; where it did not, it lost its end, and what was written is kept in lost+found.
fn tidy(
    folder: &Folder,
    journal: &Journal,
    bytes: &[u8],
    now: SystemTime,
) -> Result<Option<Damage>, SpoolError> {
    let failed = |error| SpoolError::io("tidying up the spool", error);
    let stamp = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let mut rescued = Vec::new();
    if journal.tail == Tail::Damaged {
        rescued.push(folder.rescue_journal(bytes, stamp).map_err(failed)?);
    }
    for id in folder.data_ids().map_err(failed)? {
        if journal.table.records.contains_key(&id) {
            continue;
        }
        if id.0 < journal.table.next_id {
            folder.remove_data(id).map_err(failed)?;
        } else if let Some(kept) = folder.rescue_data(id, stamp).map_err(failed)? {
            rescued.push(kept);
        }
    }
    let cut = bytes.len() as u64 - journal.len;
    let found = cut > 0 || !rescued.is_empty();
    Ok(found.then_some(Damage { cut, rescued }))
}

/// Tells one start of the machine from another; empty where the kernel does not.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    event::clip_reason(id.unwrap_or_default().trim().to_owned())
}

impl SpoolError {
    /// Whether space is what it takes: the answer to the writer is ENOSPC.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace(_))
    }

    fn io(during: &'static str, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace("the local disk is full")
            }
            io::ErrorKind::FileTooLarge => Self::TooLarge,
            _ => Self::Io { during, cause },
        }
    }

    fn opening(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io {
            during: what,
            cause,
        }
    }

    fn insecure(path: &Path, why: &'static str) -> Self {
        let path = path.to_owned();
        Self::Insecure { path, why }
    }
}
