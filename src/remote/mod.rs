//! Does one thing to one path: picks the verbs by what the server can do, and turns a refusal
//! into a meaning. Knows no handles and no kernel.

use std::time::{Instant, SystemTime};

use crate::client;
use crate::proto::{Name, RemotePath};

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    /// A device, socket or pipe: shown, never opened.
    Other,
}

/// What is known of one file; times are exact (MLSx or MDTM).
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
    /// A hash of the `unique` fact, never 0.
    pub unique: Option<u64>,
    /// Where the listing told it.
    pub link_target: Option<Box<[u8]>>,
}

/// One listing of a directory.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Without `.` and `..`, each name once.
    pub entries: Vec<(Name, Attributes)>,
    /// False where the server cut the listing short: then nothing is concluded from a name's absence.
    pub complete: bool,
}

/// What identifies the content of a file while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub size: u64,
    pub mtime: SystemTime,
    pub unique: Option<u64>,
}

/// Free space, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub available: u64,
}

/// What an operation on a path came to, with the server's words where it spoke.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("no such file or directory")]
    NotFound,
    #[error("file exists")]
    Exists,
    #[error("directory not empty")]
    NotEmpty,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("denied by the server: {0}")]
    Denied(String),
    #[error("no space on the server: {0}")]
    NoSpace(String),
    #[error("quota exceeded on the server: {0}")]
    Quota(String),
    #[error("the file name cannot be carried by FTP")]
    InvalidName,
    #[error("the server cannot do this: {0}")]
    Unsupported(String),
    /// The file was replaced while it was read.
    #[error("the file changed on the server while it was read")]
    Changed,
    #[error("no answer within the deadline: {0}")]
    TimedOut(String),
    /// Anything else: connection lost, protocol violated, refused for an unknown reason.
    #[error("{0}")]
    Failed(String),
}

/// A server, addressed by path. Shared by all threads; every call may block until `deadline`.
pub struct Remote {}

impl Remote {
    /// Connects the first session, so that a wrong password, certificate or host shows now.
    pub fn connect(_config: client::Config, _deadline: Instant) -> Result<Self, client::Error> {
        todo!()
    }
    /// One file's attributes.
    pub fn stat(&self, _path: &RemotePath, _deadline: Instant) -> Result<Attributes, Error> {
        todo!()
    }
    /// A directory's entries with exact times. `NotDirectory`, `NotFound`.
    pub fn list(&self, _path: &RemotePath, _deadline: Instant) -> Result<Listing, Error> {
        todo!()
    }
    /// A symbolic link's target where the server tells it, else `Unsupported`.
    pub fn read_link(&self, _path: &RemotePath, _deadline: Instant) -> Result<Box<[u8]>, Error> {
        todo!()
    }
    /// Starts reading at `offset`. Where the file is no longer `expected` (but for growth):
    /// `Changed`.
    pub fn download(
        &self,
        _path: &RemotePath,
        _offset: u64,
        _expected: Version,
        _deadline: Instant,
    ) -> Result<Download, Error> {
        todo!()
    }
    /// Free space where the server tells it (AVBL).
    pub fn space(&self, _path: &RemotePath, _deadline: Instant) -> Result<Option<Space>, Error> {
        todo!()
    }
    /// Closes all sessions politely, within the deadline.
    pub fn shutdown(&self, _deadline: Instant) {
        todo!()
    }
}

/// A file being read, in order. Owns its session; dropping it gives the session back to the pool.
/// A lost connection is replaced and the reading goes on at the same offset, unnoticed, unless
/// the file was replaced meanwhile (`Changed`).
pub struct Download {}

impl Download {
    /// Reads some bytes; `Ok(0)` is the verified end of the file (226, close_notify, and the size).
    pub fn read(&mut self, _buf: &mut [u8], _deadline: Instant) -> Result<usize, Error> {
        todo!()
    }
    /// Where the next byte comes from.
    pub fn offset(&self) -> u64 {
        todo!()
    }
    /// Keeps the half-read stream for later without holding up others: the pool may take its
    /// session when it needs one; a later `read` then opens it again at the offset.
    pub fn park(&mut self) {
        todo!()
    }
}
