//! Where mount(8) keeps what the kernel does not know of a mount. umount(8), when root calls it, looks
//! no further than statfs(2) at what has no line there: it takes our mounts for some FUSE file system,
//! and leaves out our helper, which waits for uploads. So what root mounts gets a line.
//!
//! mount(8) itself writes and removes it. Nothing of this is more than a service: a failure is logged.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{geteuid, getppid};

use super::mountpoint::{self, FS_TYPE};

const TABLE: &str = "/run/mount/utab";
/// What our lines say.
const OPTION: &str = "x-ftpsfs";
/// How long mount(8) may take to end once we have mounted.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// The line of a mount. Dropped when that is gone, it goes too.
pub struct Line(PathBuf);

impl Line {
    /// To be written while whoever wanted the mount still waits for it.
    pub fn write(label: &str, point: &Path) -> Self {
        if geteuid().is_root() {
            match mount_that_waits() {
                None => write(label, point),
                Some(pid) => write_after(pid, label.to_owned(), point.to_owned()),
            }
        }
        Self(point.to_owned())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        clear(&self.0);
    }
}

/// Removes a line of ours where nothing is mounted.
pub fn clear(point: &Path) {
    let is_ours = |options: &String| options.split(',').any(|option| option == OPTION);
    if lines_of(point).iter().any(is_ours) && !is_mounted(point) {
        have("umount", |command| command.arg("--").arg(point));
    }
}

fn write(label: &str, point: &Path) {
    if lines_of(point).is_empty() && is_mounted(point) {
        have("mount", |command| {
            let command = command.args(["-t", FS_TYPE, "-o", OPTION, "--"]);
            command.arg(label).arg(point)
        });
    }
}

/// mount(8) may have a line of its own to write, and does not where there is one.
fn write_after(pid: i32, label: String, point: PathBuf) {
    thread::spawn(move || {
        let deadline = Instant::now() + PATIENCE;
        while is_alive(pid) && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
        write(&label, &point);
    });
}

fn is_mounted(point: &Path) -> bool {
    mountpoint::at(point).is_ok_and(|mounted| mounted.is_some_and(|it| it.is_ours()))
}

/// Has a program do no more than what it does to the table.
fn have(program: &str, told: impl FnOnce(&mut Command) -> &mut Command) {
    let mut command = Command::new(program);
    command.args(["--fake", "--internal-only", "--no-canonicalize"]);
    let why = match told(&mut command).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => return,
        Ok(output) => mountpoint::first_line(&output.stderr),
        Err(error) => error.to_string(),
    };
    log::debug!("{TABLE}: {why}");
}

/// The options in the lines of a mount point.
fn lines_of(point: &Path) -> Vec<String> {
    options_of(&fs::read(TABLE).unwrap_or_default(), point)
}

fn options_of(table: &[u8], point: &Path) -> Vec<String> {
    let line = |line: &[u8]| {
        let fields = line.split(|byte| *byte == b' ');
        let field = |name: &[u8]| fields.clone().find_map(|field| field.strip_prefix(name));
        let target = mountpoint::unescape(field(b"TARGET=")?);
        let options = || String::from_utf8_lossy(field(b"OPTS=").unwrap_or_default()).into_owned();
        (OsStr::from_bytes(&target) == point).then(options)
    };
    table
        .split(|byte| *byte == b'\n')
        .filter_map(line)
        .collect()
}

/// mount(8), if it has called us: it waits for our parent, or for us.
fn mount_that_waits() -> Option<i32> {
    let parent = getppid().as_raw();
    let is_mount = |pid: &i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim_end() == "mount")
    };
    [Some(parent), parent_of(parent)]
        .into_iter()
        .flatten()
        .find(is_mount)
}

fn parent_of(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok()
}

fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_their_mount_point() {
        let table = b"SRC=a:/ TARGET=/mnt/with\\040blank ROOT=/ OPTS=x-ftpsfs,x-gvfs-show\n\
            ID=7 SRC=b:/ TARGET=/mnt/b ROOT=/ ATTRS=x\nnonsense\n";
        let of = |point: &str| options_of(table, Path::new(point));
        assert_eq!(of("/mnt/with blank"), ["x-ftpsfs,x-gvfs-show"]);
        assert_eq!(of("/mnt/b"), [""]);
        assert_eq!(of("/mnt"), [""; 0]);
    }

    #[test]
    fn parents_are_known() {
        let own = std::process::id() as i32;
        assert_eq!(parent_of(own), Some(getppid().as_raw()));
        assert!(is_alive(own));
        assert_eq!(parent_of(i32::MAX), None);
    }
}
