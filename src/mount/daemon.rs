//! Processes of this program: the one that goes into the background and reports when it has
//! mounted, and the one that takes over when a password stands in the command line.
//!
//! Both run this same program again, with `password_stdin` and a pipe: so no fork is needed after
//! anything else has happened, and no password is in a command line or an environment for longer
//! than it takes to start.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zeroize::Zeroizing;

use crate::proto::Secret;

use super::cli::MountArguments;
use super::credentials::Credentials;
use super::failure::{Failure, shown};
use super::options;

/// Puts a process in the place of this one that has no password in its command line: `line` makes
/// that of the options that are fit to be seen. Comes back only where that fails.
pub fn replace_without_password(
    options: &[OsString],
    password: &Secret,
    line: impl FnOnce(&OsStr) -> Vec<OsString>,
) -> Failure {
    let replace = || {
        let options = options::without_password(options, None)
            .map_err(|error| Failure::Usage(error.to_string()))?;
        let input = pipe_of(&[password.expose()])?;
        let mut program = own_program();
        Err(cannot_start(
            program.args(line(&options)).stdin(input).exec(),
        ))
    };
    match replace() {
        Ok(never) => never,
        Err(failure) => failure,
    }
}

/// Mounts in a background process. Comes back when it has mounted, or with the reason why not.
/// `patience` bounds the wait.
pub fn start(
    arguments: &MountArguments,
    label: &[u8],
    credentials: &Credentials,
    patience: Duration,
) -> Result<Child, Failure> {
    let options = options::without_password(&arguments.all_options(), Some(&credentials.user))
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let reporting = MountArguments {
        foreground: false,
        report: true,
        ..arguments.clone()
    };
    let line = reporting.command_line(OsStr::from_bytes(label), &options);
    let input = pipe_with(credentials)?;
    let (report, its_end) = io::pipe().map_err(cannot_start)?;
    let spawned = own_program()
        .args(line)
        .stdin(input)
        .stdout(its_end)
        .spawn();
    let mut child = spawned.map_err(cannot_start)?;
    match read_report(report, Instant::now() + patience) {
        Ok(text) => match parse_report(&text) {
            Some(Ok(())) => Ok(child),
            Some(Err(failure)) => {
                let _ = child.wait();
                Err(failure)
            }
            None => Err(Failure::Mount(format!(
                "the mounting process died: {}",
                end_of(&mut child)
            ))),
        },
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(Failure::Mount(format!(
                "the mounting process does not report: {error}"
            )))
        }
    }
}

/// The reporting end, in the background process: its standard output.
#[derive(Debug)]
pub struct Report(());

impl Report {
    /// Leaves the caller's session, so that its terminal and its signals are not ours, and closes
    /// files that it left open: somebody may wait for their end. To be called first.
    pub fn begin() -> Self {
        close_inherited();
        // Fails only for the leader of a process group, which a child is not.
        let _ = nix::unistd::setsid();
        Self(())
    }

    /// Says that it is mounted, and lets go of the caller's files and directory. Fails where
    /// nobody listens any more: the caller was interrupted, and wants no mount.
    pub fn mounted(self) -> io::Result<()> {
        write_report(0, "")?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        nix::unistd::dup2_stdin(&null)?;
        nix::unistd::dup2_stdout(&null)?;
        nix::unistd::dup2_stderr(&null)?;
        std::env::set_current_dir("/")
    }
}

/// Closes everything but standard input, output and error.
fn close_inherited() {
    let Ok(directory) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    // Collected first: one of them is the directory itself, which is closed by then.
    let open: Vec<RawFd> = directory.filter_map(number).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        let _ = nix::unistd::close(fd);
    }
}

/// Reports a failure to the process that waits for the mount.
pub fn report_failure(failure: &Failure) {
    // If nobody listens, nobody wants to know.
    let _ = write_report(failure.code(), &shown(failure.to_string().as_bytes()));
}

/// Longest report.
const REPORT_LIMIT: u64 = 64 << 10;

fn write_report(code: u8, line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{code} {line}")?;
    stdout.flush()
}

fn parse_report(text: &str) -> Option<Result<(), Failure>> {
    let (code, line) = text.strip_suffix('\n')?.split_once(' ')?;
    match code.parse().ok()? {
        0 => Some(Ok(())),
        code => Some(Err(Failure::of_code(code, line.to_string()))),
    }
}

/// Everything up to the end, which comes when the process lets go of its standard output.
fn read_report(mut report: PipeReader, deadline: Instant) -> io::Result<String> {
    let mut text = Vec::new();
    loop {
        wait_readable(&report, deadline)?;
        let mut part = [0; 4096];
        let read = report.read(&mut part)?;
        if read == 0 {
            break;
        }
        text.extend_from_slice(&part[..read]);
        if text.len() as u64 > REPORT_LIMIT {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn wait_readable(report: &PipeReader, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(report.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// How a process ended that said nothing.
fn end_of(child: &mut Child) -> String {
    let soon = Instant::now() + Duration::from_secs(1);
    while Instant::now() < soon {
        match child.try_wait() {
            Ok(Some(status)) => return status.to_string(),
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return error.to_string(),
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    "it said nothing".to_string()
}

/// A pipe from which the password can be read, and behind it what else is secret.
fn pipe_with(credentials: &Credentials) -> Result<PipeReader, Failure> {
    let Credentials {
        password,
        account,
        proxy,
        ..
    } = credentials;
    let account = account.as_ref().map_or(&b""[..], Secret::expose);
    match proxy {
        Some(proxy) => pipe_of(&[
            password.expose(),
            account,
            &proxy.user,
            proxy.password.expose(),
        ]),
        None => pipe_of(&[password.expose(), account]),
    }
}

/// A pipe from which these lines can be read.
fn pipe_of(secrets: &[&[u8]]) -> Result<PipeReader, Failure> {
    let write = || {
        let (reader, mut writer) = io::pipe()?;
        // At once: who reads takes what is there. A pipe holds 64 KiB, nothing waits here for a reader
        // that is not there yet.
        let length = secrets.iter().map(|secret| secret.len() + 1).sum();
        let mut lines = Zeroizing::new(Vec::with_capacity(length));
        for secret in secrets {
            lines.extend_from_slice(secret);
            lines.push(b'\n');
        }
        writer.write_all(&lines)?;
        Ok(reader)
    };
    write().map_err(cannot_start)
}

/// This program, by its name where it still has one.
pub fn own_path() -> PathBuf {
    let path = std::env::current_exe().ok().filter(|path| path.exists());
    path.unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

/// Called so that it is `ftpsfs` in process lists.
fn own_program() -> Command {
    let mut command = Command::new(own_path());
    command.arg0(OsString::from("ftpsfs"));
    command
}

fn cannot_start(error: io::Error) -> Failure {
    Failure::System(format!("cannot start the mounting process: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ProxyLogin;

    #[test]
    fn reports_carry_code_and_line() {
        assert_eq!(parse_report("0 \n"), Some(Ok(())));
        assert_eq!(
            parse_report("32 no route to host\n"),
            Some(Err(Failure::Mount("no route to host".into())))
        );
        assert_eq!(
            parse_report("1 a b\n"),
            Some(Err(Failure::Usage("a b".into())))
        );
        for broken in ["", "0", "0 ", "x y\n", "999 x\n", "32\n"] {
            assert_eq!(parse_report(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_report_is_not_waited_for_forever() {
        let (reader, writer) = io::pipe().unwrap();
        let error = read_report(reader, Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(writer);
    }

    #[test]
    fn secrets_go_through_the_pipe() {
        let credentials = |account: Option<&str>, proxy| Credentials {
            user: b"me".to_vec(),
            password: Secret::new("p w"),
            account: account.map(Secret::new),
            proxy,
        };
        let sent = |credentials| {
            let mut text = String::new();
            let mut pipe = pipe_with(&credentials).unwrap();
            pipe.read_to_string(&mut text).unwrap();
            text
        };
        let proxy = ProxyLogin {
            user: b"you".to_vec(),
            password: Secret::new("too"),
        };
        assert_eq!(sent(credentials(None, None)), "p w\n\n");
        assert_eq!(sent(credentials(Some("acct"), None)), "p w\nacct\n");
        assert_eq!(sent(credentials(None, Some(proxy))), "p w\n\nyou\ntoo\n");
    }
}
