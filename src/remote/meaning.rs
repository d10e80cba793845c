//! What a refusal means. FTP has one code, 550, for most of them, so the server is asked; its
//! words are only the last hint.

use std::time::Instant;

use crate::client::{self, Session};
use crate::proto::{RemotePath, Reply};

use super::{FileKind, listing};

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
    /// Longer than servers bear in a command.
    #[error("the path is too long for an FTP command")]
    PathTooLong,
    #[error("the server cannot do this: {0}")]
    Unsupported(String),
    /// The file was replaced while it was read.
    #[error("the file changed on the server while it was read")]
    Changed,
    #[error("{0}")]
    TimedOut(String),
    /// No connection, or none any more.
    #[error("{0}")]
    Lost(String),
    /// Anything else: protocol violated, refused for an unknown reason.
    #[error("{0}")]
    Failed(String),
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::TimedOut { .. } => Self::TimedOut(error.to_string()),
            client::Error::Lost { .. }
            | client::Error::Busy(_)
            | client::Error::Connect { .. }
            | client::Error::Tls(_) => Self::Lost(error.to_string()),
            // 425, 426: the data connection's affair, not the file's.
            client::Error::Refused { ref reply, .. } if reply.code.is_of_data() => {
                Self::Lost(error.to_string())
            }
            client::Error::Unspeakable(_) => Self::InvalidName,
            client::Error::Refused { .. }
            | client::Error::NoResumption(_)
            | client::Error::Certificate(_)
            | client::Error::Distrusted(_)
            | client::Error::Negotiation(_)
            | client::Error::Trust(_)
            | client::Error::Protocol(_) => Self::Failed(error.to_string()),
        }
    }
}

impl Error {
    /// Whether it may be otherwise at the next try.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Failed(_))
    }

    /// Whether the server did not say what has become of what it was asked for.
    pub fn is_open(&self) -> bool {
        self.is_passing() || matches!(self, Self::TimedOut(_))
    }
}

/// What the refusal of `verb` on an existing or missing `path` means.
pub(super) fn of_refusal(
    session: &mut Session,
    path: &RemotePath,
    verb: &str,
    reply: &Reply,
    deadline: Instant,
) -> Result<Error, client::Error> {
    let words = format!("{verb}: {reply}");
    if let Some(error) = of_code(reply, &words) {
        return Ok(error);
    }
    match reply.code.as_u16() {
        500 | 502 | 504 => return Ok(Error::Unsupported(words)),
        450 | 550 | 553 | 501 => {}
        _ => return Ok(Error::Failed(words)),
    }
    if says_of(
        path,
        reply,
        &[
            "no such file",
            "not found",
            "no such directory",
            "does not exist",
        ],
    ) {
        return Ok(Error::NotFound);
    }
    let kind = match kind(session, path, verb, deadline)? {
        Ok(kind) => kind,
        Err(error @ (Error::NotFound | Error::NotDirectory)) => return Ok(error),
        Err(_) => return Ok(Error::Denied(words)),
    };
    Ok(match (verb, kind) {
        ("CWD", FileKind::File | FileKind::Other) => Error::NotDirectory,
        ("RETR", FileKind::Directory) => Error::IsDirectory,
        _ => Error::Denied(words),
    })
}

/// What a reply's code says by itself: no room, or no data connection.
pub(super) fn of_code(reply: &Reply, words: &str) -> Option<Error> {
    match reply.code.as_u16() {
        452 => Some(Error::NoSpace(words.to_owned())),
        552 => Some(Error::Quota(words.to_owned())),
        _ if reply.code.is_of_data() => Some(Error::Lost(words.to_owned())),
        _ => None,
    }
}

/// What is there, asked in another way than by the verb that was refused.
fn kind(
    session: &mut Session,
    path: &RemotePath,
    refused: &str,
    deadline: Instant,
) -> Result<Result<FileKind, Error>, client::Error> {
    if path.is_root() {
        return Ok(Ok(FileKind::Directory));
    }
    if refused != "MLST"
        && let Some(Ok(told)) = super::by_mlst(session, path, deadline)?
    {
        return Ok(Ok(told.kind));
    }
    Ok(listing::find(session, path, deadline)?.map(|found| found.kind))
}

/// The same of a reply that may quote the path: a file's name proves nothing.
fn says_of(path: &RemotePath, reply: &Reply, phrases: &[&str]) -> bool {
    let mut text = reply.text().to_ascii_lowercase();
    let name = path.name().map(|name| name.to_string());
    for quoted in [Some(path.to_string()), name].into_iter().flatten() {
        text = text.replace(&quoted.to_ascii_lowercase(), "");
    }
    phrases.iter().any(|phrase| text.contains(phrase))
}

/// Whether a line of the reply has one of these phrases (lower case).
pub(super) fn says(reply: &Reply, phrases: &[&str]) -> bool {
    let mut lines = reply.lines.iter().map(|line| String::from_utf8_lossy(line));
    lines.any(|line| {
        let line = line.to_ascii_lowercase();
        phrases.iter().any(|phrase| line.contains(phrase))
    })
}
