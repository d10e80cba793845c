//! [`SpoolFile`]: one file being written. Its bytes lie in a sparse local file; its record says
//! which of them count, so whatever else that file holds is never seen.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use nix::fcntl::{FallocateFlags, fallocate};
use parking_lot::RwLock;

use super::event::{Change, MAX_PATH, MAX_SIZE, clip_reason};
use super::journal::BLOCK;
use super::record::{Base, Failure, Method, Record, RecordId, Upload, Version, Wanted};
use super::{Durability, Shared, SpoolError};
use crate::proto::RemotePath;

/// A file in the spool. Clones are the same file. Dropping them all keeps it: only
/// [`SpoolFile::discard`] ends a record.
#[derive(Clone, Debug)]
pub struct SpoolFile {
    shared: Arc<Shared>,
    open: Arc<Open>,
}

#[derive(Debug)]
pub(super) struct Open {
    /// Another's from a split on.
    id: AtomicU64,
    /// Its data. Shared while bytes are read; exclusive from before they change until the record
    /// says so.
    io: RwLock<Arc<File>>,
    /// How often its bytes were changed.
    writes: AtomicU64,
    /// A sync failed, and the kernel may have dropped bytes since: no later one makes up for it.
    lost: AtomicBool,
}

/// Bytes that only the server has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    pub ranges: Vec<Range<u64>>,
    /// To be given back with the bytes: they are those of the file as this version left it.
    pub as_of: Version,
}

impl Open {
    pub(super) fn id(&self) -> RecordId {
        RecordId(self.id.load(Ordering::Acquire))
    }

    pub(super) fn become_another(&self, id: RecordId) {
        self.id.store(id.0, Ordering::Release);
    }
}

impl SpoolFile {
    pub(super) fn new(
        shared: &Arc<Shared>,
        id: RecordId,
        data: File,
        live: &mut HashMap<RecordId, Weak<Open>>,
    ) -> Self {
        let open = Arc::new(Open {
            id: AtomicU64::new(id.0),
            io: RwLock::new(Arc::new(data)),
            writes: AtomicU64::new(0),
            lost: AtomicBool::new(false),
        });
        live.insert(id, Arc::downgrade(&open));
        Self::share(shared, open)
    }

    pub(super) fn share(shared: &Arc<Shared>, open: Arc<Open>) -> Self {
        let shared = shared.clone();
        Self { shared, open }
    }

    /// Another one once the content was thrown away of a version that is promised.
    pub fn id(&self) -> RecordId {
        self.open.id()
    }

    /// All that is known of it, as of now. Copies its range sets: for single values use
    /// [`SpoolFile::with`].
    pub fn record(&self) -> Result<Record, SpoolError> {
        self.with(Record::clone)
    }

    /// Asks its record. Nothing else of the spool may be called meanwhile.
    pub fn with<T>(&self, ask: impl FnOnce(&Record) -> T) -> Result<T, SpoolError> {
        self.shared.with(|| self.id(), ask)
    }

    /// Bytes.
    pub fn size(&self) -> Result<u64, SpoolError> {
        self.with(|record| record.size)
    }

    /// Writes `bytes`, and gives how many: fewer than all only if the disk filled up meanwhile.
    /// After an error each byte of the range is as it was or as it should be.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, SpoolError> {
        let range = reach(offset, bytes.len())?;
        if range.is_empty() {
            return Ok(0);
        }
        let data = self.open.io.write();
        let _pledge = self.pledge(&[range])?;
        self.shared.make_room()?;
        self.open.writes.fetch_add(1, Ordering::AcqRel);
        let (written, error) = put(&data, bytes, offset);
        match error {
            Some(error) if written == 0 => return Err(SpoolError::io("writing", error)),
            _ => {}
        }
        let end = offset + written as u64;
        self.change(Change::Wrote(offset..end))?;
        Ok(written)
    }

    /// Reads what lies at `offset`: fewer bytes than `buf` holds only at the file's end.
    /// [`SpoolError::Missing`] if only the server has some of them.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, SpoolError> {
        let data = self.open.io.read();
        let (len, stored) = self.with(|record| {
            let end = record.size.min(offset.saturating_add(buf.len() as u64));
            let stored: Vec<_> = record.stored.within(offset..end).collect();
            match record.missing(offset..end).next() {
                Some(missing) => Err(SpoolError::Missing(missing)),
                None => Ok((end.saturating_sub(offset), stored)),
            }
        })??;
        // At most `buf`'s length.
        let buf = &mut buf[..len as usize];
        let held: u64 = stored.iter().map(|part| part.end - part.start).sum();
        if held < len {
            buf.fill(0);
        }
        for part in stored {
            let into = (part.start - offset) as usize..(part.end - offset) as usize;
            match data.read_exact_at(&mut buf[into], part.start) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(SpoolError::Damaged(part));
                }
                read => read.map_err(|error| SpoolError::io("reading", error))?,
            }
        }
        Ok(buf.len())
    }

    /// What must be fetched before all of `range` can be read.
    pub fn missing(&self, range: Range<u64>) -> Result<Missing, SpoolError> {
        self.with(|record| Missing {
            ranges: record.missing(range).collect(),
            as_of: record.uploaded,
        })
    }

    /// Takes the server's bytes at `offset` for those of them that are still missing; what was
    /// written meanwhile stays. `as_of` is what [`SpoolFile::missing`] said: bytes of an older
    /// file are ignored. [`SpoolError::NoSpace`] loses nothing: they can be fetched again.
    pub fn store_fetched(
        &self,
        as_of: Version,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), SpoolError> {
        let range = reach(offset, bytes.len())?;
        let data = self.open.io.write();
        let gaps = self.with(|record| match record.uploaded == as_of {
            true => record.missing(range).collect(),
            false => Vec::new(),
        })?;
        if gaps.is_empty() {
            return Ok(());
        }
        let _pledge = self.pledge(&gaps)?;
        self.shared.make_room()?;
        let mut end = offset;
        let mut failure = None;
        for gap in gaps {
            let part = &bytes[(gap.start - offset) as usize..(gap.end - offset) as usize];
            let (written, error) = put(&data, part, gap.start);
            end = gap.start + written as u64;
            failure = error;
            if failure.is_some() {
                break;
            }
        }
        // All gaps up to `end` are filled.
        self.change(Change::Fetched(offset..end))?;
        match failure {
            Some(error) => Err(SpoolError::io("storing what was fetched", error)),
            None => Ok(()),
        }
    }

    /// Makes it `len` bytes long. What it grows by is zeros. Made empty, it leaves what was promised
    /// to a record of its own.
    pub fn truncate(&self, len: u64) -> Result<(), SpoolError> {
        if len > MAX_SIZE {
            return Err(SpoolError::TooLarge);
        }
        let mut data = self.open.io.write();
        if len == 0 && self.with(|record| record.is_promised() && record.size > 0)? {
            let empty = self.shared.split(&self.open)?;
            *data = Arc::new(empty);
            return Ok(());
        }
        if len > self.size()? {
            self.shared.make_room()?;
        }
        let said = self.change(Change::Truncated(len))?;
        // The record does not count what lies beyond; this only gives back the space.
        let held = data.metadata().map_or(0, |data| data.len());
        if held <= len {
            return Ok(());
        }
        self.shared.settle(said)?;
        if let Err(error) = data.set_len(len) {
            log::debug!("space of a truncated spool file is not given back: {error}");
        }
        Ok(())
    }

    /// Gives up what the server has as well, to make space; it becomes missing. Gives how many
    /// bytes that were.
    pub fn release_clean(&self) -> Result<u64, SpoolError> {
        let data = self.open.io.write();
        let clean = self.with(Record::clean)?;
        let said = self.change(Change::Released)?;
        self.shared.settle(said)?;
        for range in clean.iter() {
            let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // Within the file, so both fit an off_t.
            let (start, len) = (range.start as i64, (range.end - range.start) as i64);
            if let Err(error) = fallocate(&**data, mode, start, len) {
                log::debug!("space of a spool file is not given back: {error}");
                break;
            }
        }
        Ok(clean.covered())
    }

    /// What it holds now is a version that the server is to have. The same as before if nothing
    /// was changed since.
    pub fn commit(&self) -> Result<Version, SpoolError> {
        self.change(Change::Committed)?;
        self.with(|record| record.version)
    }

    /// Commits what it holds, and protects it as the spool's [`Durability`] has it: both at once, for
    /// no loss of power may leave a commit whose bytes are lost in the place of one that was safe.
    pub fn promise(&self) -> Result<(), SpoolError> {
        if self.shared.options.durability == Durability::Process {
            return self.commit().map(drop);
        }
        let writes = self.open.writes.load(Ordering::Acquire);
        let data = self.open.io.read().clone();
        self.sync_bytes(&data)?;
        // Nobody writes while this is held.
        let data = self.open.io.read();
        if self.open.writes.load(Ordering::Acquire) != writes {
            self.sync_bytes(&data)?;
        }
        let said = self.change(Change::Promised)?;
        drop(data);
        self.shared.sync_log(said)?;
        self.let_go()
    }

    /// Protects all that was written so far as the spool's [`Durability`] has it.
    pub fn sync(&self) -> Result<(), SpoolError> {
        match self.shared.options.durability {
            Durability::Process => Ok(()),
            Durability::Power => self.force(),
        }
    }

    /// An upload of `version` is about to begin. One in place is made durable before this
    /// returns: should it break, its ranges must be written again, or the server's file stays
    /// neither old nor new. Another under the file's own name is protected as [`Durability`] has
    /// it: what it leaves there must be known for ours.
    pub fn begin_upload(&self, version: Version, method: Method) -> Result<(), SpoolError> {
        if let Method::Temporary(path) = &method {
            refuse_long(path)?;
        }
        let began = Change::Began(Upload {
            version,
            method: method.clone(),
            whole: None,
        });
        self.change(began)?;
        match method {
            Method::InPlace => self.force(),
            Method::Append(_) | Method::Direct => self.sync(),
            Method::Temporary(_) => Ok(()),
        }
    }

    /// All `size` bytes of `version` are under the name `temporary`, which is about to be renamed:
    /// what stands under the file's own name after a crash may be that. Where it was written again
    /// since, that is made durable as [`Durability`] has it: else the next version, promised already,
    /// would be taken for a change of another's. (Of this version the bytes themselves tell.)
    pub fn begin_renaming(
        &self,
        version: Version,
        temporary: &RemotePath,
        size: u64,
    ) -> Result<(), SpoolError> {
        refuse_long(temporary)?;
        let began = Change::Began(Upload {
            version,
            method: Method::Temporary(temporary.clone()),
            whole: Some(size),
        });
        self.change(began)?;
        match self.with(|record| record.version != version)? {
            true => self.sync(),
            false => Ok(()),
        }
    }

    /// `version` is on the server, verified, as `base`. The end of an upload in place is made
    /// durable: else its ranges would be written once more, over what became of the file since.
    pub fn mark_uploaded(&self, version: Version, base: Base) -> Result<(), SpoolError> {
        if base.size > MAX_SIZE {
            return Err(SpoolError::TooLarge);
        }
        let in_place = self.with(|record| record.torn == Some(Method::InPlace))?;
        let said = self.change(Change::Uploaded(version, base))?;
        match in_place {
            true => self.shared.sync_log(said),
            false => Ok(()),
        }
    }

    /// It cannot be uploaded, and stays. That is made durable, for it may stay long.
    pub fn fail(&self, reason: &str, now: SystemTime) -> Result<(), SpoolError> {
        let reason = clip_reason(reason.to_owned());
        self.change(Change::Failed(Failure { reason, since: now }))?;
        self.force()
    }

    /// Attributes that the server is to be given, in place of those wanted before.
    pub fn want(&self, wanted: Wanted) -> Result<(), SpoolError> {
        self.change(Change::Wanted(wanted)).map(drop)
    }

    /// The server has been given `wanted`: what is still wanted is what was changed since.
    pub fn mark_applied(&self, given: Wanted) -> Result<(), SpoolError> {
        let wanted = self.with(|record| record.wanted)?;
        self.want(Wanted {
            mode: wanted.mode.filter(|_| wanted.mode != given.mode),
            mtime: wanted.mtime.filter(|_| wanted.mtime != given.mtime),
        })
    }

    /// It belongs elsewhere on the server now. For what was renamed there see [`super::Spool::rename`].
    pub fn set_path(&self, path: &RemotePath) -> Result<(), SpoolError> {
        refuse_long(path)?;
        self.change(Change::Renamed(path.clone())).map(drop)
    }

    /// It has no name any more, and is to vanish.
    pub fn unlink(&self) -> Result<(), SpoolError> {
        self.change(Change::Unlinked)?;
        self.let_go()
    }

    /// Ends the record: nothing of it is needed any more.
    pub fn discard(self) -> Result<(), SpoolError> {
        self.shared.discard(self.id())
    }

    /// Bytes, then journal, to the disk.
    fn force(&self) -> Result<(), SpoolError> {
        let version = self.with(|record| record.version)?;
        let data = self.open.io.read().clone();
        self.sync_bytes(&data)?;
        let said = self.change(Change::Synced(version))?;
        self.shared.sync_log(said)?;
        match self.with(Record::is_promised)? {
            true => self.let_go(),
            false => Ok(()),
        }
    }

    fn sync_bytes(&self, data: &File) -> Result<(), SpoolError> {
        let failed = |error| SpoolError::io("syncing", error);
        if self.open.lost.load(Ordering::Acquire) {
            return Err(failed(io::Error::other("an earlier attempt failed")));
        }
        data.sync_data().map_err(|error| {
            self.open.lost.store(true, Ordering::Release);
            failed(error)
        })
    }

    /// What was promised before is not needed any more.
    fn let_go(&self) -> Result<(), SpoolError> {
        match self.with(|record| record.keeps)? {
            Some(kept) => self.shared.discard_if_there(kept),
            None => Ok(()),
        }
    }

    fn change(&self, change: Change) -> Result<u64, SpoolError> {
        self.shared.change(|| self.id(), change)
    }

    /// Sets space aside for what the spool does not hold of `ranges` yet.
    fn pledge(&self, ranges: &[Range<u64>]) -> Result<super::Pledge<'_>, SpoolError> {
        let mut ledger = self.shared.table.lock();
        let record = ledger.table.records.get(&self.id());
        let stored = &record.ok_or(SpoolError::Gone)?.stored;
        let gaps = ranges.iter().flat_map(|range| stored.gaps(range.clone()));
        let more = gaps.map(|gap| gap.end - gap.start + BLOCK).sum();
        self.shared.pledge(&mut ledger, more)
    }
}

/// Writes as much as goes: how many bytes, and why not all.
fn put(data: &File, bytes: &[u8], offset: u64) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while written < bytes.len() {
        match data.write_at(&bytes[written..], offset + written as u64) {
            Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

/// The range of `len` bytes at `offset`.
fn reach(offset: u64, len: usize) -> Result<Range<u64>, SpoolError> {
    let end = offset.checked_add(len as u64);
    let end = end.filter(|&end| end <= MAX_SIZE);
    Ok(offset..end.ok_or(SpoolError::TooLarge)?)
}

fn refuse_long(path: &RemotePath) -> Result<(), SpoolError> {
    match path.as_bytes().len() {
        0..=MAX_PATH => Ok(()),
        _ => Err(SpoolError::PathTooLong),
    }
}
