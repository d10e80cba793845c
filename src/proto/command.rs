//! Commands (RFC 959, 2228, 2389, 2428, 3659, 4217, 7151 and drafts), in both directions: what a
//! client writes, a server reads. Which of them make sense, and when, is not known here.

mod decode;
mod encode;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::SystemTime;

use super::RemotePath;

/// A path argument as it stands in a command: bytes, not empty, free of NUL, CR and LF; absolute
/// where the client made it (from a [`RemotePath`]), perhaps relative where a server decodes it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pathname(Box<[u8]>);

impl Pathname {
    /// `None` when empty or with NUL, CR or LF.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let clean = !bytes.is_empty() && !bytes.iter().any(|b| matches!(b, 0 | b'\r' | b'\n'));
        clean.then(|| Self(bytes.into()))
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&RemotePath> for Pathname {
    fn from(path: &RemotePath) -> Self {
        Self(path.as_bytes().into())
    }
}

/// Bytes that Debug and Display never show and that are wiped on drop: passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(zeroize::Zeroizing<Vec<u8>>);

impl Secret {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(zeroize::Zeroizing::new(bytes.into()))
    }
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// AUTH's argument (RFC 4217 4; [MS-FTPS] for SSL).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AuthMechanism {
    Tls,
    Ssl,
    /// Anything else, as a server meets it.
    Other(String),
}

/// Data channel protection level (RFC 2228 section 3, PROT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    Clear,
    Safe,
    Confidential,
    Private,
}

/// One command. [`fmt::Display`] gives the line without CRLF for logs, secrets masked, control
/// bytes escaped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    User(Vec<u8>),
    Pass(Secret),
    Acct(Secret),
    Auth(AuthMechanism),
    Pbsz(u32),
    Prot(Protection),
    /// PROT with a level that RFC 2228 does not know (server side: 504).
    ProtUnknown(String),
    Ccc,
    Rein,
    Quit,
    Noop,
    Abor,
    Feat,
    Syst,
    Help,
    Allo(u64),
    Opts(String),
    Lang(Option<String>),
    Host(String),
    Clnt(String),
    /// PRET (distributed servers, such as DrFTPD): the transfer command that a data connection will
    /// be for, as its line without the end.
    Pret(Vec<u8>),
    /// TYPE I (true) or TYPE A.
    Type {
        image: bool,
    },
    /// MODE and STRU with their one-letter argument.
    Mode(u8),
    Stru(u8),
    Pwd,
    Cwd(Pathname),
    Cdup,
    Pasv,
    Epsv,
    EpsvAll,
    /// EPSV with a network protocol (1 IPv4, 2 IPv6).
    EpsvFamily(u8),
    Port(SocketAddrV4),
    Eprt(SocketAddr),
    Rest(u64),
    Retr(Pathname),
    Stor(Pathname),
    Appe(Pathname),
    Stou,
    /// LIST; `all` adds `-a`. A server ignores other flags.
    List {
        all: bool,
        path: Option<Pathname>,
    },
    Nlst(Option<Pathname>),
    Mlsd(Option<Pathname>),
    Mlst(Option<Pathname>),
    /// STAT; `all` adds `-a`.
    Stat {
        all: bool,
        path: Option<Pathname>,
    },
    Size(Pathname),
    Mdtm(Pathname),
    /// `MDTM YYYYMMDDHHMMSS path`: sets the time (vsftpd's mdtm_write).
    MdtmSet {
        time: SystemTime,
        path: Pathname,
    },
    Mfmt {
        time: SystemTime,
        path: Pathname,
    },
    /// MFF with the facts given, e.g. `modify=...;UNIX.mode=...;`.
    Mff {
        facts: String,
        path: Pathname,
    },
    Rnfr(Pathname),
    Rnto(Pathname),
    Dele(Pathname),
    Mkd(Pathname),
    Rmd(Pathname),
    Avbl(Option<Pathname>),
    Site(Site),
}

/// SITE commands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Site {
    Chmod {
        mode: u16,
        path: Pathname,
    },
    /// `SITE UTIME path atime mtime ctime UTC` (Pure-FTPd, ProFTPD's long form).
    Utime {
        time: SystemTime,
        path: Pathname,
    },
    Symlink {
        target: Pathname,
        link: Pathname,
    },
    Cpfr(Pathname),
    Cpto(Pathname),
    /// Anything else, as a server meets it.
    Other(Vec<u8>),
}

/// Why a line is no command, and what a server answers.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    /// 500.
    #[error("unknown command {0}")]
    Unknown(String),
    /// 501.
    #[error("{0}: bad arguments")]
    Arguments(&'static str),
}
