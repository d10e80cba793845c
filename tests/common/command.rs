//! Programs and calls that must end in time: a hanging file system must fail a test, not stop all of them.

use super::wait_until;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    /// The exit code; panics when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| {
            panic!(
                "ended by signal {:?}: {}",
                self.status.signal(),
                self.stderr
            )
        })
    }

    /// The standard output as text. Panics, with what it said, unless the program succeeded.
    pub fn text(&self) -> String {
        assert!(
            self.status.success(),
            "{}: {}\n{}",
            self.status,
            self.stderr,
            String::from_utf8_lossy(&self.stdout)
        );
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a program to its end. Its output goes to files, so a daemon that it leaves behind may keep them open.
/// Panics when it does not end within `patience`.
pub fn run(command: &mut Command, patience: Duration) -> Finished {
    let mut stdout = tempfile::tempfile().expect("make a file for output");
    let mut stderr = tempfile::tempfile().expect("make a file for output");
    let duplicate = |file: &File| Stdio::from(file.try_clone().expect("duplicate a file"));
    command
        .stdin(Stdio::null())
        .stdout(duplicate(&stdout))
        .stderr(duplicate(&stderr));
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = wait(&mut child, patience);
    let read = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .expect("read output");
        bytes
    };
    let (stdout, stderr) = (
        read(&mut stdout),
        String::from_utf8_lossy(&read(&mut stderr)).into_owned(),
    );
    match status {
        Some(status) => Finished {
            status,
            stdout,
            stderr,
        },
        None => {
            let _ = child.kill();
            panic!("{command:?} still runs after {patience:?}; it said:\n{stderr}")
        }
    }
}

/// `run`, with enough patience for anything that should take seconds.
pub fn run_soon(command: &mut Command) -> Finished {
    run(command, Duration::from_secs(60))
}

/// Waits for a child; `None` when it still runs after `patience`.
pub fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let mut status = None;
    wait_until(patience, || {
        status = child.try_wait().expect("wait for a child");
        status.is_some()
    });
    status
}

/// Calls `work` on another thread. Panics when it panics, or has not returned within `patience`.
pub fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || sender.send(work()));
    match receiver.recv_timeout(patience) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("no answer within {patience:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => panic!("the thread ended without an answer"),
        },
    }
}

/// `within` a minute.
pub fn soon<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    within(Duration::from_secs(60), work)
}
