//! Why a file system operation failed. Knows no errno: that is the kernel door's table.

use super::spool::SpoolError;
use crate::proto::RemotePath;
use crate::remote;

/// A failed operation, with the path and the server's words where it has them.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The server was asked and this came of it.
    #[error("{path}: {cause}")]
    Remote {
        path: RemotePath,
        cause: remote::Error,
    },
    /// Memory does not hold the answer and the caller would not wait. Never seen by the kernel.
    #[error("the answer is not in memory")]
    WouldWait,
    #[error("mounted read-only")]
    ReadOnly,
    #[error("the name is longer than 255 bytes")]
    NameTooLong,
    /// NUL, CR or LF.
    #[error("FTP cannot carry this name")]
    InvalidName,
    /// The kernel named an inode or a handle that does not exist (any more).
    #[error("no such inode or handle")]
    Stale,
    #[error("the file exists")]
    AlreadyExists,
    /// What FTP, this server or `attrs=strict` does not allow.
    #[error("not permitted: {0}")]
    NotPermitted(String),
    #[error("{0}")]
    Invalid(&'static str),
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The local disk, or `spool_size=`.
    #[error("{0}")]
    NoSpace(String),
    #[error("no file can be that large")]
    TooLarge,
    /// The spool failed.
    #[error("spool: {0}")]
    Spool(String),
    #[error("not a symbolic link")]
    NotALink,
    /// A device, socket or pipe on the server.
    #[error("not a regular file")]
    NotAFile,
    /// Only so many requests may wait at a time.
    #[error("too many requests are waiting")]
    Busy,
    /// The deadline passed before the server could be asked.
    #[error("no answer within the deadline")]
    TimedOut,
}

impl Error {
    pub(super) fn remote(path: &RemotePath, cause: remote::Error) -> Self {
        Self::Remote {
            path: path.clone(),
            cause,
        }
    }

    /// Whether what was asked for by its number has gone.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale) || self.is_not_found()
    }

    /// Whether it says no more than that there is no such file.
    pub fn is_not_found(&self) -> bool {
        let cause = match self {
            Self::Remote { cause, .. } => cause,
            _ => return false,
        };
        matches!(cause, remote::Error::NotFound)
    }
}

impl From<SpoolError> for Error {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::NoSpace(_) => Self::NoSpace(error.to_string()),
            SpoolError::TooLarge => Self::TooLarge,
            SpoolError::PathTooLong => Self::NameTooLong,
            SpoolError::Gone => Self::Stale,
            error => Self::Spool(error.to_string()),
        }
    }
}
