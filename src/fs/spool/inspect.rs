//! [`Inspection`]: a look at a spool that another process may have open, and at what is kept there
//! because it could not be sent. Changes no record.
//!
//! What is kept of all spools has names of one kind, [`KeptId`].

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::folder::{self, DATA, JOURNAL, LOCK, LOST, SOURCE};
use super::journal;
use super::record::{Record, RecordId};
use super::{RangeSet, SpoolError};

/// Names something that is kept: `SPOOL-RECORD`, or `SPOOL-` and a name in lost+found. The same for
/// as long as it is there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeptId(String);

/// A spool as it was when it was looked at.
#[derive(Debug)]
pub struct Inspection {
    pub path: PathBuf,
    /// The spool's own number, see `Spool::id`.
    pub id: u64,
    /// What it was mounted as last, where that was noted.
    pub source: Option<Vec<u8>>,
    pub holder: Option<Holder>,
    /// Oldest first; what is in lost+found at the end.
    pub kept: Vec<Kept>,
    dir: File,
}

/// The process that has a spool open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    pub pid: Option<u32>,
}

/// Something that the server does not have.
#[derive(Clone, Debug)]
pub struct Kept {
    pub id: KeptId,
    /// Bytes.
    pub size: u64,
    pub since: SystemTime,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    File(Box<Record>),
    /// Data that no record claims, or a damaged journal, by its name in lost+found.
    Lost(String),
}

/// What of a file could not be copied.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lacking {
    /// Only the server has it.
    pub missing: Vec<Range<u64>>,
    /// The local disk has lost it.
    pub damaged: Vec<Range<u64>>,
}

/// Bytes copied at once.
const CHUNK: usize = 1 << 20;
/// A longer note of the source is none of ours.
const MAX_SOURCE: u64 = 64 << 10;

impl Inspection {
    /// Looks at every spool in a state folder; what cannot be looked at says why.
    pub fn all(state_dir: &Path) -> io::Result<Vec<(PathBuf, Result<Self, SpoolError>)>> {
        let entries = match std::fs::read_dir(state_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.join(JOURNAL).symlink_metadata().is_ok() {
                paths.push(path);
            }
        }
        paths.sort();
        let look = |path: PathBuf| (path.clone(), Self::open(&path));
        Ok(paths.into_iter().map(look).collect())
    }

    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        let dir = folder::open_private_dir(path)?;
        let holder = holder(&dir)?;
        let bytes = folder::peek(&dir)?.unwrap_or_default();
        let journal = journal::parse(&bytes)?;
        let records = journal.table.records.into_values();
        let mut kept: Vec<_> = records
            .filter(|record| !record.unlinked && (record.changed || record.is_owed()))
            .map(|record| Kept {
                id: KeptId::of_record(journal.id, record.id),
                size: record.size,
                since: record
                    .failure
                    .as_ref()
                    .map_or(record.created, |failure| failure.since),
                what: What::File(Box::new(record)),
            })
            .collect();
        kept.extend(lost(&dir, journal.id).map_err(SpoolError::opening("lost+found"))?);
        Ok(Self {
            path: path.to_owned(),
            id: journal.id,
            source: source(&dir),
            holder,
            kept,
            dir,
        })
    }

    /// Copies to `out` what the spool has of it; the rest is left to be zeros, and told.
    pub fn copy(&self, kept: &Kept, out: &File) -> Result<Lacking, SpoolError> {
        let (subfolder, name, stored, missing) = match &kept.what {
            What::File(record) => {
                let missing = record.missing(0..record.size).collect();
                (DATA, record.id.to_string(), record.stored.clone(), missing)
            }
            What::Lost(name) => (LOST, name.clone(), RangeSet::from(0..kept.size), Vec::new()),
        };
        out.set_len(kept.size)
            .map_err(|error| SpoolError::io("writing", error))?;
        let mut lacking = Lacking {
            missing,
            damaged: Vec::new(),
        };
        let opened = match folder::open_dir_in(&self.dir, subfolder) {
            Ok(Some(dir)) => folder::open_file(&dir, &name, OFlag::O_RDONLY),
            Ok(None) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error),
        };
        let data = match opened {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                lacking.damaged = stored.iter().collect();
                return Ok(lacking);
            }
            Err(error) => return Err(SpoolError::io("opening a spool file", error)),
        };
        for range in stored.iter() {
            let copied = copy_range(&data, out, range.clone())?;
            if copied < range.end {
                lacking.damaged.push(copied..range.end);
            }
        }
        Ok(lacking)
    }

    /// Removes something from lost+found.
    pub fn remove_lost(&self, name: &str) -> Result<(), SpoolError> {
        let removed = match folder::open_dir_in(&self.dir, LOST) {
            Ok(Some(dir)) => folder::remove(&dir, name),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|error| SpoolError::io("removing from lost+found", error))
    }
}

impl KeptId {
    pub(super) fn of_record(spool: u64, record: RecordId) -> Self {
        Self(format!("{}-{:x}", prefix(spool), record.0))
    }
}

impl fmt::Display for KeptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Tells spools apart.
fn prefix(spool: u64) -> String {
    format!("{:08x}", spool >> 32)
}

/// The bytes of a range, up to where `data` has them; that is returned.
fn copy_range(data: &File, out: &File, range: Range<u64>) -> Result<u64, SpoolError> {
    let mut chunk = vec![0; CHUNK];
    let mut at = range.start;
    while at < range.end {
        let most = CHUNK.min(usize::try_from(range.end - at).unwrap_or(CHUNK));
        let read = match data.read_at(&mut chunk[..most], at) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(SpoolError::io("reading", error)),
        };
        out.write_all_at(&chunk[..read], at)
            .map_err(|error| SpoolError::io("writing", error))?;
        at += read as u64;
    }
    Ok(at)
}

fn holder(dir: &File) -> Result<Option<Holder>, SpoolError> {
    let lock = folder::open_file(dir, LOCK, OFlag::O_RDONLY);
    let Some(lock) = folder::absent_as_none(lock).map_err(SpoolError::opening("the lock"))? else {
        return Ok(None);
    };
    // Who opens the spool just now has patience enough for this moment.
    match lock.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(Holder {
            pid: folder::pid_in(&lock),
        })),
        Err(TryLockError::Error(error)) => Err(SpoolError::io("looking at the lock", error)),
    }
}

fn source(dir: &File) -> Option<Vec<u8>> {
    let file = folder::open_file(dir, SOURCE, OFlag::O_RDONLY).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_SOURCE).read_to_end(&mut bytes).ok()?;
    Some(bytes).filter(|bytes| !bytes.is_empty())
}

fn lost(dir: &File, spool: u64) -> io::Result<Vec<Kept>> {
    let Some(lost) = folder::open_dir_in(dir, LOST)? else {
        return Ok(Vec::new());
    };
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listing = Dir::openat(&lost, ".", flags, Mode::empty())?;
    let mut kept = Vec::new();
    for entry in listing.iter() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // What is no file of ours was not put there by us.
        let Ok(mut file) = folder::open_file(&lost, &name, OFlag::O_RDONLY) else {
            continue;
        };
        kept.push(Kept {
            id: KeptId(format!("{}-{name}", prefix(spool))),
            size: file.seek(SeekFrom::End(0))?,
            since: file.metadata()?.modified().unwrap_or(UNIX_EPOCH),
            what: What::Lost(name),
        });
    }
    kept.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(kept)
}
