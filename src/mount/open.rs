//! `ftpsfs open URL`: what the desktop does with a link. Mounts the server under the user's
//! runtime folder, once, and shows the folder.
//!
//! It goes to the server itself before it mounts: what is wrong then is known as what it is, and
//! can be asked about. [`desk`] asks, [`keyring`] remembers passwords.

mod desk;
mod keyring;

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::client;
use crate::proto::{NegotiationError, Security};
use crate::remote::Remote;
use crate::tls::{KnownHosts, RefusedCertificate};

use super::cli::{MountArguments, OpenArguments};
use super::credentials::{self, Credentials, CredentialsError, Places};
use super::failure::{Failure, shown};
use super::options::Options;
use super::source::{self, Source};
use super::{channel, daemon, live, mountpoint, plan};

use desk::Desk;
use keyring::Keyring;

/// So often a password is asked for: some servers lock out who guesses on.
const ATTEMPTS: u32 = 3;

/// What xdg-open has called is there after so long.
const HANDED_OVER: Duration = Duration::from_secs(10);

/// What stands in a user's name as it is; everything else is percent-encoded.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// Why nothing was opened.
enum Stop {
    /// The user does not want to; nothing need be said.
    Cancelled,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

/// Mounts, unless that is done already, and shows the folder.
pub fn run(arguments: &OpenArguments) -> Result<(), Failure> {
    let usage = |error: &dyn std::error::Error| Failure::Usage(error.to_string());
    let parse = || {
        let source = source::parse(arguments.source.as_bytes()).map_err(|e| usage(&e))?;
        let options = Options::parse(&arguments.options, false).map_err(|e| usage(&e))?;
        let (port, security) = plan::endpoint(&source, &options)?;
        Ok((source, options, port, security))
    };
    let desk = Desk::find();
    let opened = parse().map_err(Stop::Failed).and_then(|parsed| {
        let (source, options, port, security) = parsed;
        if let Some(password) = options.password.as_ref().or(source.password.as_ref()) {
            // Others may see the command line.
            let failure =
                daemon::replace_without_password(&arguments.options, password, |options| {
                    command_line(&source.label, options)
                });
            return Err(failure.into());
        }
        if let Desk::Emulator(terminal) = &desk
            && !options.password_stdin
        {
            let options = arguments.options.join(OsStr::new(","));
            return Err(desk::replace_by(terminal, &command_line(&source.label, &options)).into());
        }
        let opening = Opening {
            source: &source,
            user: source.user.clone().or(options.username.clone()),
            options,
            arguments: &arguments.options,
            endpoint: (port, security),
            desk: &desk,
        };
        opening.open()
    });
    match opened {
        Ok(()) => Ok(()),
        Err(Stop::Cancelled) => Err(Failure::Mount("cancelled".to_string())),
        Err(Stop::Failed(failure)) => {
            desk.tell(&shown(failure.to_string().as_bytes()));
            Err(failure)
        }
    }
}

/// Arguments of `ftpsfs` that open the same, as others may see them.
fn command_line(label: &[u8], options: &OsStr) -> Vec<OsString> {
    let mut line = vec![OsString::from("open")];
    if !options.is_empty() {
        line.extend([OsStr::new("-o"), options].map(OsString::from));
    }
    line.extend([OsStr::new("--"), OsStr::from_bytes(label)].map(OsString::from));
    line
}

struct Opening<'a> {
    source: &'a Source,
    options: Options,
    /// All `-o`, for the mount.
    arguments: &'a [OsString],
    endpoint: (u16, Security),
    /// Whom the link names, or an option.
    user: Option<Vec<u8>>,
    desk: &'a Desk,
}

impl Opening<'_> {
    fn open(mut self) -> Result<(), Stop> {
        let folder = runtime_folder()?;
        if let Some(point) = self.mounted(&folder)? {
            return self.show(&point, &mut || {});
        }
        // Whoever is asked twice at the same moment asks once.
        let lock = folder.join(format!(".{}.lock", self.name(self.user.as_deref())));
        let lock = File::create(&lock).map_err(|error| cannot_use(&lock, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(cannot_use(&folder, &error).into()),
            Err(TryLockError::WouldBlock) => {
                lock.lock().map_err(|error| cannot_use(&folder, &error))?;
                return match self.mounted(&folder)? {
                    Some(point) => self.show(&point, &mut || {}),
                    // The other one has said why.
                    None => Err(Stop::Cancelled),
                };
            }
        }
        let login = self.log_in()?;
        let point = folder.join(self.name(Some(&login.credentials.user)));
        self.mount(&point, &login.credentials)?;
        drop(lock);
        let shown = self.show(&point, &mut || self.offer_to_keep(&login));
        if shown.is_err() {
            let _ = mountpoint::unmount(&point, mountpoint::Manner::Lazy);
            let _ = fs::remove_dir(&point);
        }
        shown
    }

    /// The folder's name, which tells one server and user from another, and which file managers
    /// show.
    fn name(&self, user: Option<&[u8]>) -> String {
        let (port, security) = self.endpoint;
        let usual = (port, security) == (990, Security::Implicit);
        let port = if usual {
            String::new()
        } else {
            format!(":{port}")
        };
        let name = format!("{}{}{port}", with_at(user), self.source.host);
        match name.strip_prefix('.') {
            Some(rest) => format!("_{rest}"),
            None => name,
        }
    }

    /// Where the server is mounted already: for that user, or where the link names none for
    /// anybody.
    fn mounted(&self, folder: &Path) -> Result<Option<PathBuf>, Failure> {
        let name = self.name(self.user.as_deref());
        let behind_at = format!("@{name}");
        let mounts = mountpoint::all().map_err(|error| cannot_use(folder, &error))?;
        let found = mounts.into_iter().find(|mounted| {
            let its = mounted.point.file_name().unwrap_or_default();
            let its = its.to_string_lossy();
            let fits = *its == name || (self.user.is_none() && its.ends_with(&behind_at));
            fits && mounted.is_ours() && mounted.point.parent() == Some(folder)
        });
        Ok(found
            .map(|mounted| mounted.point)
            .filter(|point| !mountpoint::is_dead(point)))
    }

    /// Finds out who logs in, asking for what is not known, until the server is content.
    fn log_in(&mut self) -> Result<Login, Stop> {
        let known = plan::known_hosts(self.source, &self.options)?;
        let is_told = self.options.tofu
            || !self.options.trust.fingerprints.is_empty()
            || self.options.trust.cafile.is_some();
        self.options.tofu |= !is_told && known.find().is_ok_and(|known| known.is_some());
        let mut login = self.first_login()?;
        let mut attempts = 0;
        loop {
            let config = plan::client(self.source, &self.options, login.credentials.clone())?;
            let refusal = match try_login(config, self.options.timeout) {
                Ok(()) => return Ok(login),
                Err(client::Error::Certificate(refused)) if !is_told && !self.options.tofu => {
                    self.trust(&refused, &known)?;
                    self.options.tofu = true;
                    continue;
                }
                Err(client::Error::Negotiation(NegotiationError::Login(reply)))
                    if attempts < ATTEMPTS =>
                {
                    reply.to_string()
                }
                Err(error) => {
                    let label = shown(&self.source.label);
                    return Err(live::cannot_connect(&label, &error).into());
                }
            };
            attempts += 1;
            login = match login.named() {
                Some(user) => self.ask(user.to_vec(), Some(&refusal))?,
                None => {
                    let question = format!(
                        "{} lets nobody in without a name: {refusal}\nUser name:",
                        self.source.host
                    );
                    let user = self.desk.ask(&question)?.ok_or(Stop::Cancelled)?;
                    self.kept_or_asked(user)?
                }
            };
        }
    }

    /// What is known of the login without the server.
    fn first_login(&self) -> Result<Login, Stop> {
        let places = Places {
            terminal: false,
            ..Places::of_process()
        };
        match credentials::find(self.source, &self.options, &places) {
            Ok(credentials) => Ok(Login {
                credentials,
                asked: false,
            }),
            Err(CredentialsError::NoPassword(_)) => {
                self.kept_or_asked(self.user.clone().unwrap_or_default())
            }
            Err(error) => Err(Failure::Usage(error.to_string()).into()),
        }
    }

    fn kept_or_asked(&self, user: Vec<u8>) -> Result<Login, Stop> {
        match self.keyring(&user).find() {
            Some(kept) => Ok(Login::kept(user, kept)),
            None => self.ask(user, None),
        }
    }

    fn ask(&self, user: Vec<u8>, refusal: Option<&str>) -> Result<Login, Stop> {
        let who = format!("{}@{}", shown(&user), self.source.host);
        let question = match refusal {
            Some(refusal) => format!("The server refuses: {refusal}\nPassword for {who}:"),
            None => format!("Password for {who}:"),
        };
        let password = self.desk.ask_secret(&question)?.ok_or(Stop::Cancelled)?;
        Ok(Login {
            asked: true,
            ..Login::kept(user, password)
        })
    }

    fn keyring(&self, user: &[u8]) -> Keyring {
        let (port, security) = self.endpoint;
        Keyring::of(&self.source.host, port, security, user)
    }

    fn offer_to_keep(&self, login: &Login) {
        let Credentials { user, password, .. } = &login.credentials;
        let keyring = self.keyring(user);
        if !login.asked || !keyring.is_there() {
            return;
        }
        let who = format!("{}@{}", shown(user), self.source.host);
        let question = format!("Keep the password for {who} in the keyring?");
        // What is not kept is asked for next time.
        if let Ok(true) = self.desk.confirm(&question, "Keep", "Do not keep")
            && let Err(line) = keyring.store(password)
        {
            self.desk.tell(&line);
        }
    }

    /// Whether a certificate that nobody vouches for is trusted from now on: exactly the one that
    /// is shown.
    fn trust(&self, refused: &RefusedCertificate, known: &KnownHosts) -> Result<(), Stop> {
        let certificate = &refused.certificate;
        let question = format!(
            "It is not certain that this is {host}: {reason}.\n\n\
             Certificate for: {subject}\nIssued by: {issuer}\nValid: {from} to {until}\n{print}\n\n\
             Somebody between you and the server could read your password and your files. Trust this \
             certificate, now and later, only if you know its fingerprint or the network is your own.",
            host = self.source.host,
            reason = refused.reason,
            subject = certificate.subject,
            issuer = certificate.issuer,
            from = certificate.not_before,
            until = certificate.not_after,
            print = certificate.fingerprint,
        );
        if !self.desk.confirm(&question, "Trust it", "Cancel")? {
            return Err(Stop::Cancelled);
        }
        let file = known.file().display();
        let remembered = known.remember(certificate.fingerprint);
        remembered.map_err(|error| Failure::System(format!("{file}: {error}")))?;
        Ok(())
    }

    fn mount(&self, point: &Path, credentials: &Credentials) -> Result<(), Failure> {
        let made = DirBuilder::new().mode(0o700).create(point);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(cannot_use(point, &error));
            }
            _ => {}
        }
        let (port, security) = self.endpoint;
        let scheme = keyring::scheme(security);
        let host = match self.source.host.contains(':') {
            true => format!("[{}]", self.source.host),
            false => self.source.host.clone(),
        };
        let user = with_at(Some(&credentials.user));
        let label = format!("{scheme}://{user}{host}:{port}/");
        let mut options = self.arguments.to_vec();
        options.extend(self.options.tofu.then(|| OsString::from("tofu")));
        let arguments = MountArguments {
            source: OsString::from(&label),
            directory: point.to_path_buf(),
            options,
            ..MountArguments::default()
        };
        let patience = self.options.timeout * 2 + Duration::from_secs(30);
        let started = daemon::start(&arguments, label.as_bytes(), credentials, patience);
        if started.is_err() {
            let _ = fs::remove_dir(point);
        }
        started.map(|_| ())
    }

    /// Shows the folder that the link names, or the one that its file is in: nothing that comes
    /// from a server is run. Meanwhile `aside` is done.
    fn show(&self, point: &Path, aside: &mut dyn FnMut()) -> Result<(), Stop> {
        let mut path = point.to_path_buf();
        let names = self.source.path.as_bytes().split(|byte| *byte == b'/');
        path.extend(names.map(OsStr::from_bytes).filter(|name| !name.is_empty()));
        let found = fs::metadata(&path);
        let found = found.map_err(|error| {
            let (label, why) = (shown(&self.source.label), plain(&error));
            Failure::Mount(format!("{label}: {why}"))
        })?;
        if !found.is_dir() {
            path.pop();
        }
        let _ = writeln!(io::stdout(), "{}", path.display());
        let mut child = show_folder(&path)?;
        aside();
        let began = Instant::now();
        match child.wait() {
            // On some desktops it is the file manager's end that it waits for.
            Ok(status) if status.success() || began.elapsed() > HANDED_OVER => Ok(()),
            Ok(_) => Err(Failure::System(format!(
                "xdg-open has found no program that shows {}",
                path.display()
            ))
            .into()),
            Err(error) => Err(cannot_use(&path, &error).into()),
        }
    }
}

/// Logs in and out again.
fn try_login(config: client::Config, timeout: Duration) -> Result<(), client::Error> {
    let remote = Remote::connect(config, Instant::now() + timeout)?;
    live::shut_down(Arc::new(remote));
    Ok(())
}

/// Who logs in, and whether the password was asked for.
struct Login {
    credentials: Credentials,
    asked: bool,
}

impl Login {
    fn kept(user: Vec<u8>, password: crate::proto::Secret) -> Self {
        Self {
            credentials: Credentials {
                user,
                password,
                account: None,
                proxy: None,
            },
            asked: false,
        }
    }

    /// The user, unless anybody may be that.
    fn named(&self) -> Option<&[u8]> {
        let user = &*self.credentials.user;
        Some(user).filter(|user| !credentials::is_anonymous(user))
    }
}

/// `user@`, percent-encoded, unless anybody may be that.
fn with_at(user: Option<&[u8]>) -> String {
    let user = user.filter(|user| !credentials::is_anonymous(user));
    user.map_or(String::new(), |user| {
        format!("{}@", percent_encode(user, PLAIN))
    })
}

/// The folder of our mounts, by its canonical name.
fn runtime_folder() -> Result<PathBuf, Failure> {
    let told = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let told = told.filter(|told| told.is_absolute());
    let folder = channel::private_folder(told.map(|told| told.join("ftpsfs")));
    let folder = folder.and_then(|folder| folder.canonicalize());
    folder.map_err(|error| {
        Failure::System(format!("no folder to mount in ($XDG_RUNTIME_DIR): {error}"))
    })
}

fn show_folder(path: &Path) -> Result<Child, Failure> {
    let mut command = Command::new("xdg-open");
    command.arg(path).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null());
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::System("xdg-open is missing: install the package xdg-utils".to_string())
        }
        _ => Failure::System(format!("cannot run xdg-open: {error}")),
    })
}

fn cannot_use(path: &Path, error: &io::Error) -> Failure {
    Failure::System(format!("{}: {error}", path.display()))
}

/// An error without its number.
fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}
