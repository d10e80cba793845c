//! [`Bench`]: a server of our own and a directory to mount it on.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ftpsfs::proto::{Secret, Security};
use ftpsfs::server::{Config, Server, Users};

pub const PASSWORD: &str = "correct-horse-battery";

/// A server, a folder that it serves, and a directory to mount it on.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub server: Server,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// A server that is configured otherwise.
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let served = folder.path().join("served");
        fs::create_dir(&served).unwrap();
        fs::write(served.join("hello"), "hello over FTPS\n").unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        symlink(
            env!("CARGO_BIN_EXE_ftpsfs"),
            folder.path().join("mount.ftps"),
        )
        .unwrap();
        let credentials = folder.path().join("credentials");
        fs::write(&credentials, format!("username=me\npassword={PASSWORD}\n")).unwrap();
        fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600)).unwrap();
        let users = Users::Listed(vec![(b"me".to_vec(), Secret::new(PASSWORD))]);
        let mut config = Config::new(served, Security::Implicit, users);
        change(&mut config);
        let server = Server::start(config).unwrap();
        Self { folder, server }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn mount_point(&self) -> PathBuf {
        self.path("mnt")
    }

    /// Options that reach the server, but for the login.
    pub fn reaching(&self) -> String {
        let port = self.server.local_addr().port();
        format!(
            "implicit,port={port},fingerprint={},state_dir={}",
            self.server.fingerprint(),
            self.path("state").display()
        )
    }

    pub fn options(&self) -> String {
        format!(
            "{},credentials={}",
            self.reaching(),
            self.path("credentials").display()
        )
    }

    /// `mount.ftps 127.0.0.1:PATH DIR -o OPTIONS`.
    pub fn helper(&self, path: &str, options: &str) -> Command {
        let mut command = Command::new(self.path("mount.ftps"));
        command
            .arg(format!("127.0.0.1:{path}"))
            .arg(self.mount_point())
            .args(["-o", options]);
        command.stdin(Stdio::null());
        command
    }

    /// `ftpsfs ARGUMENTS`.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftpsfs"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    pub fn mount(&self) {
        succeed(&mut self.helper("/", &self.options()));
        self.expect_mounted();
    }

    /// `umount`; a program that another test is just starting may hold our files for a moment.
    pub fn unmount(&self) {
        wait_until("umount", || {
            let mut umount = Command::new("umount");
            umount.arg(self.mount_point()).stderr(Stdio::null());
            umount.status().unwrap().success()
        });
    }

    pub fn expect_mounted(&self) {
        let hello = fs::read_to_string(self.mount_point().join("hello")).unwrap();
        assert_eq!(hello, "hello over FTPS\n");
    }

    pub fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        table.contains(self.mount_point().to_str().unwrap())
    }

    /// The processes that serve, or are about to serve, this mount.
    pub fn processes(&self) -> Vec<i32> {
        processes_with(self.mount_point().to_str().unwrap())
    }

    pub fn expect_gone(&self) {
        wait_until("the mount to be gone", || !self.is_mounted());
        wait_until("the process to end", || self.processes().is_empty());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        while self.is_mounted() {
            let unmounted = Command::new("umount")
                .arg("-l")
                .arg(self.mount_point())
                .status();
            if !unmounted.is_ok_and(|status| status.success()) {
                break;
            }
        }
    }
}

pub fn processes_with(text: &str) -> Vec<i32> {
    let holds = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(holds).collect()
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(20));
    }
}

pub fn signal(pid: i32, signal: i32) {
    let number = format!("-{signal}");
    assert!(
        Command::new("kill")
            .args([&number, &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}: {errors}",
        output.status
    );
    output
}

/// Runs a command that must fail with that exit code, and gives its one line.
pub fn refusal(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{command:?}: {errors}");
    assert!(output.stdout.is_empty(), "{command:?}");
    errors.trim_end().to_string()
}

pub fn said(command: &mut Command) -> String {
    String::from_utf8(succeed(command).stdout).unwrap()
}
