//! What is known of a file on the server.

use std::time::SystemTime;

use crate::proto::{Facts, Kind, Name, Precision};

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

/// What identifies the content of a file while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Bytes.
    pub size: u64,
    /// The epoch where the server has no MDTM.
    pub mtime: SystemTime,
}

impl Attributes {
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
        Version {
            size: self.size,
            mtime: self.mtime,
        }
    }
}

fn shifted(time: SystemTime, seconds: i64) -> SystemTime {
    let by = std::time::Duration::from_secs(seconds.unsigned_abs());
    let moved = if seconds < 0 {
        time.checked_sub(by)
    } else {
        time.checked_add(by)
    };
    moved.unwrap_or(time)
}

/// FNV-1a: the same on every machine and in every version, as inode numbers must be.
fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}
