//! What is known of a file on the server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::proto::{Facts, Kind, Name, Precision};

use super::clock::shifted;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    /// A device, socket or pipe: shown, never opened.
    Other,
}

/// What is known of one file; times are exact (MLSx or MDTM) wherever the server can tell them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub kind: FileKind,
    /// Bytes; 0 for directories.
    pub size: u64,
    /// The epoch where the server cannot tell.
    pub mtime: SystemTime,
    /// Permission bits 0o7777 where the server tells them.
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// A hash of a regular file's `unique` fact, never 0. (ProFTPD gives a link its target's.)
    pub unique: Option<u64>,
    /// Where the listing told it.
    pub link_target: Option<Box<[u8]>>,
}

/// One listing of a directory.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Without `.` and `..`, each name once.
    pub entries: Vec<(Name, Attributes)>,
    /// The directory itself, where the listing shows it.
    pub own: Option<Attributes>,
    /// False where the server cut the listing short: then nothing is concluded from a name's
    /// absence.
    pub complete: bool,
}

/// What identifies the content of a file while it is read. Its time has no fraction: servers tell
/// one in listings, but not by MDTM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Bytes.
    pub size: u64,
    /// The epoch where the server has no MDTM.
    pub mtime: SystemTime,
}

impl Attributes {
    /// A file of so many bytes, of which nothing else is known but its time.
    pub const fn file(size: u64, mtime: SystemTime) -> Self {
        Self {
            kind: FileKind::File,
            size,
            mtime,
            mode: None,
            uid: None,
            gid: None,
            unique: None,
            link_target: None,
        }
    }

    /// From facts, with the listing's time where it is the only one. `offset`: what listing
    /// times must be moved by to be UTC, seconds.
    pub(super) fn new(facts: &Facts, offset: i64) -> Self {
        let kind = match facts.kind {
            Some(Kind::Directory | Kind::Current | Kind::Parent) => FileKind::Directory,
            Some(Kind::Symlink) => FileKind::Symlink,
            Some(Kind::Other) => FileKind::Other,
            Some(Kind::File) | None => FileKind::File,
        };
        let size = match kind {
            FileKind::Directory => 0,
            FileKind::Symlink => match &facts.link_target {
                Some(target) => target.len() as u64,
                None => facts.size.unwrap_or(0),
            },
            FileKind::File | FileKind::Other => facts.size.unwrap_or(0),
        };
        let mtime = facts
            .modify
            .map_or(SystemTime::UNIX_EPOCH, |modify| match modify.precision {
                Precision::Second => modify.time,
                Precision::Minute | Precision::Day => shifted(modify.time, offset),
            });
        Self {
            kind,
            size,
            mtime,
            mode: facts.mode,
            uid: facts.uid,
            gid: facts.gid,
            unique: facts
                .unique
                .as_deref()
                .filter(|_| kind == FileKind::File)
                .map(hash),
            link_target: facts.link_target.clone(),
        }
    }

    pub fn version(&self) -> Version {
        Version::new(self.size, self.mtime)
    }
}

impl Version {
    /// Of the whole seconds of `mtime`.
    pub fn new(size: u64, mtime: SystemTime) -> Self {
        let fraction = match mtime.duration_since(UNIX_EPOCH) {
            Ok(after) => after.subsec_nanos(),
            Err(before) => (1_000_000_000 - before.duration().subsec_nanos()) % 1_000_000_000,
        };
        let whole = mtime.checked_sub(Duration::from_nanos(fraction.into()));
        Self {
            size,
            mtime: whole.unwrap_or(mtime),
        }
    }
}

/// FNV-1a: the same on every machine and in every version, as inode numbers must be.
fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_a_second_is_no_other_version() {
        for second in [1_234_567_890, 0, -5] {
            let whole = Version::new(7, shifted(UNIX_EPOCH, second));
            assert_eq!(whole.mtime, shifted(UNIX_EPOCH, second));
            let exact = whole.mtime + Duration::from_nanos(123_456_789);
            assert_eq!(Version::new(7, exact), whole);
        }
    }
}
