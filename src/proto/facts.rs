//! What is known of a file, from MLSx facts (RFC 3659 section 7) or a LIST line.

use std::time::SystemTime;

/// A name with what the server said of it. The name is as sent: the caller decides whether it is
/// a valid [`super::Name`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub facts: Facts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    #[default]
    File,
    Directory,
    /// `type=cdir`: the listed directory itself.
    Current,
    /// `type=pdir`: its parent.
    Parent,
    Symlink,
    /// A device, socket, pipe, or what the server does not name.
    Other,
}

/// How exact a time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// UTC, to the second or better (MLSx, MDTM, EPLF).
    Second,
    /// To the minute, in a zone that the server did not name (LIST within six months, DOS).
    Minute,
    /// To the day, in a zone that the server did not name (LIST, older).
    Day,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modify {
    pub time: SystemTime,
    pub precision: Precision,
}

bitflags::bitflags! {
    /// The `perm` fact (RFC 3659 7.5.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Perm: u16 {
        const APPEND = 1;
        const CREATE = 1 << 1;
        const DELETE = 1 << 2;
        const ENTER = 1 << 3;
        const RENAME = 1 << 4;
        const LIST = 1 << 5;
        const MKDIR = 1 << 6;
        const PURGE = 1 << 7;
        const RETRIEVE = 1 << 8;
        const WRITE = 1 << 9;
    }
}

/// Facts; `None` where the server did not say. Unparsable values count as not said.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    pub kind: Option<Kind>,
    /// Bytes (`size`; for directories `sizd` is ignored).
    pub size: Option<u64>,
    pub modify: Option<Modify>,
    pub perm: Option<Perm>,
    /// The `unique` fact, opaque bytes.
    pub unique: Option<Box<[u8]>>,
    /// Permission bits 0o7777: UNIX.mode (`0644`, `0o644`, `644`), or a LIST line's letters.
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// A symbolic link's target where the server tells it: `OS.unix=slink:/target` or LIST's
    /// ` -> `.
    pub link_target: Option<Box<[u8]>>,
}
