//! Mounts made by the real binary, as mount(8) calls it, and what is left of them.

use super::command::{Finished, run_soon};
use super::server::{PASSWORD, RealServer, USER, certificate};
use super::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The variable by which a mount's processes are found again: they inherit it.
const MARK: &str = "FTPSFS_TEST_MARK";

/// A folder to mount on, with what the command line needs beside it.
#[derive(Debug)]
pub struct Place {
    folder: tempfile::TempDir,
    /// The mount point.
    pub dir: PathBuf,
    mark: String,
}

/// A mounted server. Dropped, it is unmounted, and none of its processes may be left.
#[derive(Debug)]
pub struct Mount {
    place: Option<Place>,
    /// The mount point.
    pub dir: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::Builder::new()
            .prefix("ftpsfs-mount-")
            .tempdir()
            .expect("make a folder");
        let dir = folder.path().join("dir");
        fs::create_dir(&dir).expect("make the mount point");
        symlink(
            env!("CARGO_BIN_EXE_ftpsfs"),
            folder.path().join("mount.ftps"),
        )
        .expect("make the link");
        let mark = format!(
            "{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let place = Self { folder, dir, mark };
        place.write_private(
            "credentials",
            &format!("username={USER}\npassword={PASSWORD}\n"),
        );
        place
    }

    /// A path beside the mount point.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that only its owner can read, beside the mount point.
    pub fn write_private(&self, name: &str, text: &str) -> PathBuf {
        let path = self.beside(name);
        fs::write(&path, text).expect("write a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("make it private");
        path
    }

    /// `mount.ftps`, in an environment that has nothing of the caller's.
    pub fn helper(&self) -> Command {
        self.marked(Command::new(self.beside("mount.ftps")))
    }

    /// `ftpsfs`, likewise.
    pub fn binary(&self) -> Command {
        self.marked(Command::new(env!("CARGO_BIN_EXE_ftpsfs")))
    }

    /// That command, in such an environment.
    pub fn marked(&self, mut command: Command) -> Command {
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.folder.path());
        command.env("RUST_BACKTRACE", "1").env(MARK, &self.mark);
        command
    }

    /// The options that log in and trust the test's authority; `extra` follows them.
    pub fn options(&self, server: &RealServer, extra: &str) -> OsString {
        let mut options = OsString::from("credentials=");
        options.push(self.beside("credentials"));
        options.push(",cafile=");
        options.push(certificate("ca.pem"));
        options.push(",state_dir=");
        options.push(self.beside("state"));
        if !server.kind.is_implicit() {
            options.push(format!(",port={}", server.port()));
        }
        if !extra.is_empty() {
            options.push(format!(",{extra}"));
        }
        options
    }

    /// Calls `mount.ftps` for `server`, and returns what came of it.
    pub fn try_mount(&self, server: &RealServer, extra: &str) -> Finished {
        let options = self.options(server, extra);
        run_soon(
            self.helper()
                .arg(server.source())
                .arg(&self.dir)
                .arg("-o")
                .arg(options),
        )
    }

    /// Starts a mount in the foreground, with its log beside the mount point, and waits until it says
    /// that it is mounted: a dead mount may be there before.
    pub fn start_logged(&self, mut command: Command) -> PathBuf {
        let path = self.beside("log");
        let log = fs::File::options().create(true).append(true).open(&path);
        let log = log.expect("make a log");
        let said = || fs::read_to_string(&path).unwrap_or_default();
        let before = said().len();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut daemon = command.stderr(log).spawn().expect("start ftpsfs");
        let mounted = wait_until(Duration::from_secs(60), || {
            said()[before..].contains("info: mounted ")
        });
        // It ends with the mount.
        std::thread::spawn(move || daemon.wait());
        assert!(mounted, "{}", said());
        path
    }

    /// Every process of this place's mounts.
    pub fn processes(&self) -> Vec<Pid> {
        let wanted = format!("{MARK}={}", self.mark);
        let is_ours = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|&byte| byte == 0)
                .any(|entry| entry == wanted.as_bytes())
        };
        let entries = fs::read_dir("/proc").expect("read /proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).map(Pid::from_raw).collect()
    }

    /// The one process that serves the mount.
    pub fn daemon(&self) -> Pid {
        let processes = self.processes();
        assert_eq!(processes.len(), 1, "one process serves a mount");
        processes[0]
    }

    /// True when every process has ended before long.
    pub fn is_deserted(&self) -> bool {
        wait_until(Duration::from_secs(20), || self.processes().is_empty())
    }

    /// The mount point's lines in mountinfo: empty when nothing is mounted there.
    pub fn mountinfo(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
        let dir = self.dir.display().to_string();
        table
            .lines()
            .filter(|line| line.split(' ').nth(4) == Some(&dir))
            .map(str::to_owned)
            .collect()
    }

    /// `umount`. Panics when that fails, or leaves a mount or a process.
    pub fn unmount(&self) {
        let unmounted = run_soon(Command::new("umount").arg(&self.dir));
        assert!(unmounted.status.success(), "umount: {}", unmounted.stderr);
        assert!(self.is_deserted(), "left behind: {:?}", self.processes());
        assert_eq!(self.mountinfo(), Vec::<String>::new());
    }

    /// What the processes left behind wait for, and who else still sees the mount.
    fn remains(&self) -> String {
        let mut text = String::new();
        for pid in self.processes() {
            let threads = fs::read_dir(format!("/proc/{pid}/task"));
            for thread in threads.into_iter().flatten().flatten() {
                let about = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
                text += &format!("{pid} {}: {}\n", about("comm").trim(), about("wchan"));
            }
        }
        let dir = self.dir.display().to_string();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let about = |file| fs::read_to_string(process.path().join(file)).unwrap_or_default();
            if about("mountinfo").contains(&dir) {
                text += &format!(
                    "still mounted for {}\n",
                    about("cmdline").replace('\0', " ")
                );
            }
        }
        text
    }

    /// Takes away what a failed test leaves: it must not disturb the next.
    fn clear(&self) {
        for pid in self.processes() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        for _ in self.mountinfo() {
            let _ = Command::new("umount").arg("-l").arg(&self.dir).output();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Mount {
    /// Mounts `server` with `extra` options. Panics with the message when that fails.
    pub fn new(server: &RealServer, extra: &str) -> Self {
        Self::at(Place::new(), server, extra)
    }

    /// The same at a prepared place.
    pub fn at(place: Place, server: &RealServer, extra: &str) -> Self {
        let mounted = place.try_mount(server, extra);
        let said = &mounted.stderr;
        assert!(
            mounted.status.success(),
            "mount: {} {said}\nserver:\n{}",
            mounted.status,
            server.end_of_log()
        );
        assert_eq!(place.mountinfo().len(), 1, "mounted exactly once: {said}");
        Self {
            dir: place.dir.clone(),
            place: Some(place),
        }
    }

    /// The same in the foreground, with its log beside the mount point.
    pub fn logged(server: &RealServer, extra: &str) -> (Self, PathBuf) {
        Self::logged_at(Place::new(), server, extra)
    }

    /// The same at a prepared place.
    pub fn logged_at(place: Place, server: &RealServer, extra: &str) -> (Self, PathBuf) {
        let mut command = place.binary();
        command.args(["mount", "-f"]);
        command.arg(server.source()).arg(&place.dir);
        command.arg("-o").arg(place.options(server, extra));
        let log = place.start_logged(command);
        let mount = Self {
            dir: place.dir.clone(),
            place: Some(place),
        };
        (mount, log)
    }

    /// A path in the mount.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// A handle on what is beside the mount, and on its processes.
    pub fn place(&self) -> &Place {
        self.place.as_ref().expect("only dropping takes the place")
    }

    /// Unmounts, as dropping does, and keeps the place for the next mount.
    pub fn unmount(mut self) -> Place {
        let place = self.place.take().expect("only dropping takes the place");
        place.unmount();
        place
    }

    /// Keeps the place and unmounts nothing: for tests that end a mount in ways of their own.
    pub fn into_place(mut self) -> Place {
        self.place.take().expect("only dropping takes the place")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(place) = self.place.take()
            && !std::thread::panicking()
        {
            place.unmount();
        }
    }
}
