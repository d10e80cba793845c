//! A server process with all its children, in mount and process namespaces of their own.
//!
//! Servers fork, change their process group and rewrite their environment; the process namespace still tells
//! which processes are theirs, and none of them outlives it. Knows nothing of FTP.

use super::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running server.
#[derive(Debug)]
pub struct Enclosure {
    /// `unshare`, which waits for the namespace's first process.
    outer: Child,
    /// Its process namespace. Held open, so that no later namespace gets the same number.
    _namespace: File,
    number: u64,
}

impl Enclosure {
    /// Starts `command` with `accounts` (`passwd`, `group`, `shadow`, `pam.d`) in place of those in /etc, and its
    /// output appended to `log`.
    pub fn start(accounts: &Path, command: &Command, log: &Path) -> Self {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("open the server's log");
        let script = |name| {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/servers")
                .join(name)
        };
        let mut outer = Command::new("setpriv");
        // The kernel ends the server when the test's thread ends, however it ends.
        outer.args(["--pdeathsig", "KILL"]).arg(script("apart"));
        outer
            .args(["unshare", "--pid", "--fork", "--kill-child"])
            .arg(script("enclose"));
        outer
            .arg(accounts)
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                outer.env(name, value);
            }
        }
        outer.current_dir("/").stdin(Stdio::null());
        outer
            .stdout(output.try_clone().expect("duplicate the log"))
            .stderr(output);
        let mut outer = outer.spawn().expect("start setpriv and unshare");
        let link = format!("/proc/{}/ns/pid_for_children", outer.id());
        let own = namespace("/proc/self/ns/pid")
            .expect("see our own namespace")
            .1;
        let mut entered = None;
        wait_until(Duration::from_secs(20), || {
            // Unreadable for the moment between unshare(2) and the first fork.
            entered = namespace(&link).ok().filter(|(_, number)| *number != own);
            entered.is_some() || !matches!(outer.try_wait(), Ok(None))
        });
        // Only what is in a namespace of its own may ever be signalled: ours has the whole machine in it.
        let Some((held, number)) = entered else {
            let _ = outer.kill();
            let _ = outer.wait();
            let said = fs::read_to_string(log).unwrap_or_default();
            panic!("unshare does not work here: {said}");
        };
        Self {
            outer,
            _namespace: held,
            number,
        }
    }

    /// Every process of the server, whatever it has forked.
    pub fn members(&self) -> Vec<Pid> {
        let inside = |pid: &i32| {
            fs::metadata(format!("/proc/{pid}/ns/pid"))
                .is_ok_and(|about| about.ino() == self.number)
        };
        let processes = fs::read_dir("/proc").expect("read /proc").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(inside).map(Pid::from_raw).collect()
    }

    /// Sends `signal` to every process of the server, also to those that another has begun meanwhile.
    pub fn signal_all(&self, signal: Signal) {
        let mut told = BTreeSet::new();
        loop {
            let mut members = self.members();
            members.retain(|pid| told.insert(*pid));
            if members.is_empty() {
                return;
            }
            for pid in members {
                // One that has just ended needs no signal.
                let _ = kill(pid, signal);
            }
        }
    }

    /// True while the first process lives.
    pub fn is_running(&mut self) -> bool {
        matches!(self.outer.try_wait(), Ok(None))
    }
}

impl Drop for Enclosure {
    fn drop(&mut self) {
        self.signal_all(Signal::SIGKILL);
        // unshare reaps the first process and follows it.
        let gone = wait_until(Duration::from_secs(10), || {
            !self.is_running() && self.members().is_empty()
        });
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        assert!(
            gone || std::thread::panicking(),
            "server processes outlive SIGKILL: {:?}",
            self.members()
        );
    }
}

/// A process namespace, held open, and its number.
fn namespace(link: &str) -> io::Result<(File, u64)> {
    let held = File::open(link)?;
    let number = held.metadata()?.ino();
    Ok((held, number))
}

/// A command that runs a program in a mount namespace of its own.
pub fn apart(program: &str) -> Command {
    let mut command =
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/apart"));
    command.arg(program);
    command
}
