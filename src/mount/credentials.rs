//! Finds out who logs in, and with which password. Knows nothing of the protocol, and puts no
//! password into a message.
//!
//! The first that has a password wins: `password=`, `password_stdin` or the source's URL;
//! `credentials=`; systemd's credentials directory; ~/.netrc; a prompt on the terminal. The user
//! is told by `username=` or the source, else by where the password is found. Nobody told: the
//! login is anonymous.

mod netrc;

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::client::ProxyLogin;
use crate::proto::Secret;

use super::failure::shown;
use super::options::Options;
use super::source::Source;

/// Who logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub user: Vec<u8>,
    pub password: Secret,
    /// For servers that ask for one (ACCT).
    pub account: Option<Secret>,
    /// For a proxy that asks for one.
    pub proxy: Option<ProxyLogin>,
}

impl Credentials {
    fn without_account(user: Vec<u8>, password: Secret) -> Self {
        Self {
            user,
            password,
            account: None,
            proxy: None,
        }
    }
}

/// Why nobody can log in.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("the source is for user {0}, but username= says {1}")]
    TwoUsers(String, String),
    #[error("{0}: the password is for user {1}, not {2}")]
    OtherUser(String, String, String),
    #[error("cannot read {0}: {1}")]
    Unreadable(String, io::Error),
    #[error("{0}: others may read it; chmod 600 it first")]
    NotPrivate(String),
    #[error("{0}: it belongs to somebody else")]
    NotOwned(String),
    #[error("{0}: no regular file, or larger than 64 KiB")]
    NotAFile(String),
    #[error("{0}: line {1}: expected username=, password= or domain=")]
    Line(String, usize),
    #[error("{0}: a proxy's login is both proxy_username= and proxy_password=")]
    HalfALogin(String),
    #[error("{0}: it has no password")]
    NoPasswordIn(String),
    #[error("FTP cannot carry a user name or password with a line end or NUL")]
    Unrepresentable,
    #[error("no password for {0}: use credentials=FILE, ~/.netrc, or mount from a terminal")]
    NoPassword(String),
    #[error("the password on standard input has more than {PASSWORD_LIMIT} bytes")]
    TooLong,
    #[error("cannot read the password: {0}")]
    Input(io::Error),
}

/// Where credentials may be besides the command line.
#[derive(Clone, Debug)]
pub struct Places {
    /// `$CREDENTIALS_DIRECTORY`, which systemd keeps private.
    pub systemd: Option<PathBuf>,
    pub netrc: Option<PathBuf>,
    /// Whether a person may be asked.
    pub terminal: bool,
}

impl Places {
    /// Those of this process.
    pub fn of_process() -> Self {
        let home = || {
            let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??;
            Some(user.dir)
        };
        Self {
            systemd: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            netrc: std::env::home_dir()
                .or_else(home)
                .map(|home| home.join(".netrc")),
            terminal: io::stdin().is_terminal(),
        }
    }
}

/// Looks in every place, in order.
pub fn find(
    source: &Source,
    options: &Options,
    places: &Places,
) -> Result<Credentials, CredentialsError> {
    let user = told_user(source, options)?;
    if options.password_stdin {
        let user = user.unwrap_or_else(anonymous);
        return from_stdin(user);
    }
    if let Some(password) = options.password.as_ref().or(source.password.as_ref()) {
        let user = user.unwrap_or_else(anonymous);
        return Ok(Credentials::without_account(user, password.clone()));
    }
    if let Some(path) = &options.credentials {
        let found = parse_file(path, &read_private(path)?)?;
        return found.for_user(path, user);
    }
    if let Some(found) = find_in_systemd(source, places, &user)? {
        return Ok(found);
    }
    if let Some(found) = find_in_netrc(source, places, &user)? {
        return Ok(found);
    }
    let user = user.unwrap_or_else(anonymous);
    if is_anonymous(&user) {
        return Ok(Credentials::without_account(
            user,
            Secret::new("anonymous@"),
        ));
    }
    let who = format!("{}@{}", shown(&user), source.host);
    if !places.terminal {
        return Err(CredentialsError::NoPassword(who));
    }
    let password = rpassword::prompt_password(format!("Password for {who}: "))
        .map_err(CredentialsError::Input)?;
    let password = checked(Zeroizing::new(password.into_bytes()))?;
    Ok(Credentials::without_account(user, password))
}

fn told_user(source: &Source, options: &Options) -> Result<Option<Vec<u8>>, CredentialsError> {
    match (&source.user, &options.username) {
        (Some(a), Some(b)) if a != b => Err(CredentialsError::TwoUsers(shown(a), shown(b))),
        (a, b) => Ok(b.clone().or_else(|| a.clone())),
    }
}

/// `ftpsfs.HOST`, else `ftpsfs`, in the format of `credentials=`.
fn find_in_systemd(
    source: &Source,
    places: &Places,
    user: &Option<Vec<u8>>,
) -> Result<Option<Credentials>, CredentialsError> {
    let Some(directory) = &places.systemd else {
        return Ok(None);
    };
    for name in [format!("ftpsfs.{}", source.host), "ftpsfs".to_string()] {
        let path = directory.join(name);
        // The directory is private to the unit; the files in it may show an ACL as group bits.
        let text = match open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => read_bounded(&path, file)?,
        };
        return parse_file(&path, &text)?
            .for_user(&path, user.clone())
            .map(Some);
    }
    Ok(None)
}

/// An entry with a password; the file must be private then, as ftp(1) demands.
fn find_in_netrc(
    source: &Source,
    places: &Places,
    user: &Option<Vec<u8>>,
) -> Result<Option<Credentials>, CredentialsError> {
    let Some(path) = &places.netrc else {
        return Ok(None);
    };
    let Ok(file) = open(path) else {
        return Ok(None);
    };
    let refusal = refuse_if_shared(path, &file);
    let text = read_bounded(path, Ok(file))?;
    let Some(entry) = netrc::find(&text, &source.host, user.as_deref()) else {
        return Ok(None);
    };
    let (Some(user), Some(password)) = (user.clone().or(entry.login), entry.password) else {
        return Ok(None);
    };
    if !is_anonymous(&user) {
        refusal?;
    }
    Ok(Some(Credentials {
        user: checked_user(user)?,
        password: checked(password)?,
        account: entry.account.map(checked).transpose()?,
        proxy: None,
    }))
}

/// What a credentials file says.
#[derive(Default)]
struct FileContent {
    user: Option<Vec<u8>>,
    password: Option<Zeroizing<Vec<u8>>>,
    account: Option<Zeroizing<Vec<u8>>>,
    proxy_user: Option<Vec<u8>>,
    proxy_password: Option<Zeroizing<Vec<u8>>>,
}

impl FileContent {
    /// Its password belongs to its user: it is not tried for another.
    fn for_user(self, path: &Path, told: Option<Vec<u8>>) -> Result<Credentials, CredentialsError> {
        let user = match (self.user, told) {
            (Some(own), Some(told)) if own != told => {
                return Err(CredentialsError::OtherUser(
                    named(path),
                    shown(&own),
                    shown(&told),
                ));
            }
            (own, told) => told.or(own).unwrap_or_else(anonymous),
        };
        let password = self
            .password
            .ok_or_else(|| CredentialsError::NoPasswordIn(named(path)))?;
        let proxy = match (self.proxy_user, self.proxy_password) {
            (Some(user), Some(password)) => Some(ProxyLogin {
                user: checked_user(user)?,
                password: checked(password)?,
            }),
            (None, None) => None,
            _ => return Err(CredentialsError::HalfALogin(named(path))),
        };
        Ok(Credentials {
            user: checked_user(user)?,
            password: checked(password)?,
            account: self.account.map(checked).transpose()?,
            proxy,
        })
    }
}

/// `username=`, `password=` (or `user=`, `pass=`) and perhaps `account=`, `proxy_username=` and
/// `proxy_password=`, one to a line, each value up to the end of its line. Empty lines and lines that begin with `#` are passed over, and so is `domain=`,
/// which files shared with mount.cifs carry.
fn parse_file(path: &Path, text: &[u8]) -> Result<FileContent, CredentialsError> {
    let mut content = FileContent::default();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let broken = || CredentialsError::Line(named(path), number + 1);
        let equals = line
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(broken)?;
        let value = &line[equals + 1..];
        match line[..equals].trim_ascii_end() {
            b"username" | b"user" => content.user = Some(value.to_vec()),
            b"password" | b"pass" => content.password = Some(Zeroizing::new(value.to_vec())),
            b"account" => content.account = Some(Zeroizing::new(value.to_vec())),
            b"proxy_username" => content.proxy_user = Some(value.to_vec()),
            b"proxy_password" => content.proxy_password = Some(Zeroizing::new(value.to_vec())),
            b"domain" | b"dom" => {}
            _ => return Err(broken()),
        }
    }
    Ok(content)
}

/// Most that a file with credentials may hold.
const FILE_LIMIT: u64 = 64 << 10;

fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    let file = open(path).map_err(|error| CredentialsError::Unreadable(named(path), error))?;
    refuse_if_shared(path, &file)?;
    read_bounded(path, Ok(file))
}

/// Non-blocking, lest a pipe of that name holds up the mount.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Looks at the file that was opened, not at whatever has its name by now.
fn refuse_if_shared(path: &Path, file: &File) -> Result<(), CredentialsError> {
    let unreadable = |error| CredentialsError::Unreadable(named(path), error);
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(CredentialsError::NotPrivate(named(path)));
    }
    let me = nix::unistd::geteuid().as_raw();
    match metadata.uid() == me || metadata.uid() == 0 {
        true => Ok(()),
        false => Err(CredentialsError::NotOwned(named(path))),
    }
}

fn read_bounded(
    path: &Path,
    file: io::Result<File>,
) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    let unreadable = |error| CredentialsError::Unreadable(named(path), error);
    let file = file.map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > FILE_LIMIT {
        return Err(CredentialsError::NotAFile(named(path)));
    }
    // Reserved at once: a growing vector would leave copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_LIMIT as usize + 1));
    file.take(FILE_LIMIT)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    Ok(text)
}

/// Most bytes in a password; it must fit into a line that servers accept.
const PASSWORD_LIMIT: usize = 1024;

/// The password in the first line of standard input; lines that come along are the account, and user and
/// password for a proxy. Read without the buffer of [`io::stdin`], which would keep them.
fn from_stdin(user: Vec<u8>) -> Result<Credentials, CredentialsError> {
    let input = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(CredentialsError::Input)?;
    from_lines(user, File::from(input))
}

fn from_lines(user: Vec<u8>, input: impl Read) -> Result<Credentials, CredentialsError> {
    let [password, account, proxy_user, proxy_password] = first_lines(input)?;
    let given = |secret: &Secret| !secret.expose().is_empty();
    Ok(Credentials {
        user,
        password,
        account: Some(account).filter(given),
        proxy: Some(proxy_user).filter(given).map(|user| ProxyLogin {
            user: user.expose().to_vec(),
            password: proxy_password,
        }),
    })
}

fn first_lines(mut input: impl Read) -> Result<[Secret; 4], CredentialsError> {
    let mut text = Zeroizing::new(vec![0; 4 * PASSWORD_LIMIT]);
    let mut length = 0;
    loop {
        let free = &mut text[length..];
        if free.is_empty() {
            return Err(CredentialsError::TooLong);
        }
        let read = match input.read(free) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result.map_err(CredentialsError::Input)?,
        };
        length += read;
        if read == 0 || text[..length].contains(&b'\n') {
            break;
        }
    }
    let mut lines = text[..length].split(|byte| *byte == b'\n');
    let mut next = || {
        let line = lines.next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > PASSWORD_LIMIT {
            return Err(CredentialsError::TooLong);
        }
        checked(Zeroizing::new(line.to_vec()))
    };
    Ok([next()?, next()?, next()?, next()?])
}

fn checked(password: Zeroizing<Vec<u8>>) -> Result<Secret, CredentialsError> {
    match password
        .iter()
        .any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
    {
        true => Err(CredentialsError::Unrepresentable),
        false => Ok(Secret::new(password.to_vec())),
    }
}

fn checked_user(user: Vec<u8>) -> Result<Vec<u8>, CredentialsError> {
    match user.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
        true => Err(CredentialsError::Unrepresentable),
        false => Ok(user),
    }
}

fn anonymous() -> Vec<u8> {
    b"anonymous".to_vec()
}

pub fn is_anonymous(user: &[u8]) -> bool {
    matches!(user, b"anonymous" | b"ftp")
}

fn named(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;
