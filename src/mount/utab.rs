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
        match mount_that_waits() {
            _ if !geteuid().is_root() => {}
            None => write(label, point),
            // It has a line of its own to write, perhaps, and does not where there is one.
            Some(pid) => {
                let (label, point) = (label.to_owned(), point.to_owned());
                thread::spawn(move || {
                    let deadline = Instant::now() + PATIENCE;
                    while is_alive(pid) && Instant::now() < deadline {
                        thread::sleep(LOOK);
                    }
                    write(&label, &point);
                });
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
    let is_ours = lines_of(point).any(|options| options.split(',').any(|option| option == OPTION));
    if is_ours && !is_mounted(point) {
        let mut command = Command::new("umount");
        command.args(["--fake", "--internal-only", "--no-canonicalize"]);
        run(command.arg(point));
    }
}

fn write(label: &str, point: &Path) {
    if lines_of(point).next().is_none() && is_mounted(point) {
        let mut command = Command::new("mount");
        command.args(["--fake", "--internal-only", "--no-canonicalize"]);
        command.args(["-t", FS_TYPE, "-o", OPTION]);
        run(command.arg(label).arg(point));
    }
}

fn is_mounted(point: &Path) -> bool {
    mountpoint::at(point).is_ok_and(|mounted| mounted.is_some_and(|it| it.is_ours()))
}

fn run(command: &mut Command) {
    let why = match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => return,
        Ok(output) => mountpoint::first_line(&output.stderr),
        Err(error) => error.to_string(),
    };
    log::debug!("{TABLE}: {why}");
}

/// The options in the lines of a mount point.
fn lines_of(point: &Path) -> impl Iterator<Item = String> {
    let table = fs::read(TABLE).unwrap_or_default();
    options_of(&table, point).into_iter()
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
