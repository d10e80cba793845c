//! Commands as lines: for the wire, and for logs.
//!
//! A byte 0xFF (Telnet's IAC) goes out as it is. RFC 959 has commands travel as Telnet strings,
//! where RFC 854 wants it doubled; but of the servers only ProFTPD undoes that, while vsftpd,
//! Pure-FTPd and pyftpdlib take both bytes for the name. And ProFTPD takes a single one as it is,
//! too, unless another 0xFF or one of 0xF2, 0xF4 and 0xFB to 0xFE follows it. UTF-8 has no such
//! bytes.

use std::fmt;

use super::super::endpoint::{format_eprt, format_host_port};
use super::super::format_time;
use super::{AuthMechanism, Command, Pathname, Protection, Secret, Site};

impl Command {
    /// The bytes on the wire, CRLF included. They may hold a password: wipe them after use.
    pub fn encode(&self) -> Vec<u8> {
        let mut line = self.line(Secret::expose);
        // Whatever a user name or an option holds, this is one line: what would end it early
        // could smuggle a second command in.
        line.retain(|b| !matches!(b, 0 | b'\r' | b'\n'));
        line.extend_from_slice(b"\r\n");
        line
    }

    /// PRET for this command.
    pub fn announced(&self) -> Self {
        Self::Pret(self.line(Secret::expose))
    }

    /// The verb in capitals, "SITE CHMOD" for a SITE command.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::User(_) => "USER",
            Self::Pass(_) => "PASS",
            Self::Acct(_) => "ACCT",
            Self::Auth(_) => "AUTH",
            Self::Pbsz(_) => "PBSZ",
            Self::Prot(_) | Self::ProtUnknown(_) => "PROT",
            Self::Ccc => "CCC",
            Self::Rein => "REIN",
            Self::Quit => "QUIT",
            Self::Noop => "NOOP",
            Self::Abor => "ABOR",
            Self::Feat => "FEAT",
            Self::Syst => "SYST",
            Self::Help => "HELP",
            Self::Allo(_) => "ALLO",
            Self::Opts(_) => "OPTS",
            Self::Lang(_) => "LANG",
            Self::Host(_) => "HOST",
            Self::Clnt(_) => "CLNT",
            Self::Pret(_) => "PRET",
            Self::Type { .. } => "TYPE",
            Self::Mode(_) => "MODE",
            Self::Stru(_) => "STRU",
            Self::Pwd => "PWD",
            Self::Cwd(_) => "CWD",
            Self::Cdup => "CDUP",
            Self::Pasv => "PASV",
            Self::Epsv | Self::EpsvAll | Self::EpsvFamily(_) => "EPSV",
            Self::Port(_) => "PORT",
            Self::Eprt(_) => "EPRT",
            Self::Rest(_) => "REST",
            Self::Retr(_) => "RETR",
            Self::Stor(_) => "STOR",
            Self::Appe(_) => "APPE",
            Self::Stou => "STOU",
            Self::List { .. } => "LIST",
            Self::Nlst(_) => "NLST",
            Self::Mlsd(_) => "MLSD",
            Self::Mlst(_) => "MLST",
            Self::Stat { .. } => "STAT",
            Self::Size(_) => "SIZE",
            Self::Mdtm(_) | Self::MdtmSet { .. } => "MDTM",
            Self::Mfmt { .. } => "MFMT",
            Self::Mff { .. } => "MFF",
            Self::Rnfr(_) => "RNFR",
            Self::Rnto(_) => "RNTO",
            Self::Dele(_) => "DELE",
            Self::Mkd(_) => "MKD",
            Self::Rmd(_) => "RMD",
            Self::Avbl(_) => "AVBL",
            Self::Site(Site::Chmod { .. }) => "SITE CHMOD",
            Self::Site(Site::Utime { .. }) => "SITE UTIME",
            Self::Site(Site::Symlink { .. }) => "SITE SYMLINK",
            Self::Site(Site::Cpfr(_)) => "SITE CPFR",
            Self::Site(Site::Cpto(_)) => "SITE CPTO",
            Self::Site(Site::Other(_)) => "SITE",
        }
    }

    fn line(&self, show: impl Fn(&Secret) -> &[u8]) -> Vec<u8> {
        let mut line = self.verb().as_bytes().to_vec();
        for word in self.words(&show) {
            line.push(b' ');
            line.extend_from_slice(&word);
        }
        line
    }

    /// What follows the verb, a space before each.
    fn words<'a>(&'a self, show: &impl Fn(&'a Secret) -> &'a [u8]) -> Vec<Vec<u8>> {
        match self {
            Self::Ccc
            | Self::Rein
            | Self::Quit
            | Self::Noop
            | Self::Abor
            | Self::Feat
            | Self::Syst
            | Self::Help
            | Self::Pwd
            | Self::Cdup
            | Self::Pasv
            | Self::Epsv
            | Self::Stou => vec![],
            Self::User(name) => vec![name.clone()],
            Self::Pass(secret) | Self::Acct(secret) => vec![show(secret).to_vec()],
            Self::Auth(AuthMechanism::Tls) => text("TLS"),
            Self::Auth(AuthMechanism::Ssl) => text("SSL"),
            Self::Auth(AuthMechanism::Other(name)) => text(name),
            Self::Pbsz(size) => text(size),
            Self::Prot(level) => text(match level {
                Protection::Clear => "C",
                Protection::Safe => "S",
                Protection::Confidential => "E",
                Protection::Private => "P",
            }),
            Self::ProtUnknown(level) => text(level),
            Self::Allo(size) => text(size),
            Self::Opts(options) => text(options),
            Self::Lang(tag) => tag.iter().flat_map(text).collect(),
            // An IPv6 address stands in brackets (RFC 7151 3.1).
            Self::Host(host) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                text(format_args!("[{host}]"))
            }
            Self::Host(host) => text(host),
            Self::Clnt(client) => text(client),
            Self::Pret(line) => vec![line.clone()],
            Self::Type { image } => text(if *image { "I" } else { "A" }),
            Self::Mode(letter) | Self::Stru(letter) => vec![vec![*letter]],
            Self::EpsvAll => text("ALL"),
            Self::EpsvFamily(family) => text(family),
            Self::Port(address) => text(format_host_port(*address)),
            Self::Eprt(address) => text(format_eprt(*address)),
            Self::Rest(offset) => text(offset),
            Self::Cwd(path)
            | Self::Retr(path)
            | Self::Stor(path)
            | Self::Appe(path)
            | Self::Size(path)
            | Self::Mdtm(path)
            | Self::Rnfr(path)
            | Self::Rnto(path)
            | Self::Dele(path)
            | Self::Mkd(path)
            | Self::Rmd(path)
            | Self::Site(Site::Cpfr(path) | Site::Cpto(path)) => vec![bytes(path)],
            Self::Mlsd(path) | Self::Mlst(path) | Self::Avbl(path) => {
                path.iter().map(bytes).collect()
            }
            Self::List { all, path } | Self::Stat { all, path } => flags_and_path(*all, path),
            Self::Nlst(path) => flags_and_path(false, path),
            Self::MdtmSet { time, path } | Self::Mfmt { time, path } => {
                vec![format_time(*time).into_bytes(), bytes(path)]
            }
            Self::Mff { facts, path } => vec![facts.as_bytes().to_vec(), bytes(path)],
            Self::Site(Site::Chmod { mode, path }) => {
                vec![format!("{mode:03o}").into_bytes(), bytes(path)]
            }
            Self::Site(Site::Utime { time, path }) => {
                let time = format_time(*time).into_bytes();
                vec![
                    bytes(path),
                    time.clone(),
                    time.clone(),
                    time,
                    b"UTC".to_vec(),
                ]
            }
            Self::Site(Site::Symlink { target, link }) => vec![quoted(target), quoted(link)],
            Self::Site(Site::Other(line)) => vec![line.clone()],
        }
    }
}

/// The line without CRLF for logs: secrets masked, control bytes escaped.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.line(|_| b"****").escape_ascii())
    }
}

fn text(value: impl ToString) -> Vec<Vec<u8>> {
    vec![value.to_string().into_bytes()]
}

fn bytes(path: &Pathname) -> Vec<u8> {
    path.as_bytes().to_vec()
}

/// `-a`, and the path; `--` keeps a relative path that begins with `-` from being read as flags.
fn flags_and_path(all: bool, path: &Option<Pathname>) -> Vec<Vec<u8>> {
    let dash = path
        .as_ref()
        .is_some_and(|path| path.as_bytes().starts_with(b"-"));
    let flags = [(all, &b"-a"[..]), (dash, b"--")];
    let flags = flags
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .map(|(_, flag)| flag.to_vec());
    flags.chain(path.iter().map(bytes)).collect()
}

/// One of several paths on a line: quoted as ProFTPD reads it where it would fall apart else.
fn quoted(path: &Pathname) -> Vec<u8> {
    let special = |b: &u8| matches!(b, b' ' | b'\t' | b'"' | b'\\');
    if !path.as_bytes().iter().any(special) {
        return bytes(path);
    }
    let mut word = vec![b'"'];
    for &b in path.as_bytes() {
        if matches!(b, b'"' | b'\\') {
            word.push(b'\\');
        }
        word.push(b);
    }
    word.push(b'"');
    word
}
