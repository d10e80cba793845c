//! Mount points of this machine: what is mounted where, and how to take it away. Knows nothing of
//! servers.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

use super::failure::{Failure, shown};
use super::options::KernelFlags;

/// The type under which our mounts stand in /proc/mounts.
pub const FS_TYPE: &str = "fuse.ftps";

/// One line of /proc/self/mountinfo (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// `major:minor`, which identifies the file system.
    pub device: String,
    pub point: PathBuf,
    pub fs_type: String,
    pub source: Vec<u8>,
    /// Who mounted it.
    pub owner: Option<u32>,
}

impl Mounted {
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// What is mounted at that canonical path; of several, the one that is seen.
pub fn at(point: &Path) -> io::Result<Option<Mounted>> {
    Ok(all()?.into_iter().rfind(|it| it.point == point))
}

/// What is mounted at that canonical path, if it is ours; `name` is how the user calls it.
pub fn ours_at(point: &Path, name: &Path) -> Result<Mounted, Failure> {
    let mounted = at(point).map_err(|error| Failure::System(error.to_string()))?;
    mounted.filter(Mounted::is_ours).ok_or_else(|| {
        let name = name.display();
        Failure::Mount(format!("{name}: no FTPS server is mounted there"))
    })
}

/// Everything that is mounted.
pub fn all() -> io::Result<Vec<Mounted>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let lines = table.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(parse_line).collect())
}

/// Makes sure that `source` can be mounted on the directory, and gives its canonical name. What a
/// dead process of ours left mounted there is cleared away first.
pub fn prepare(directory: &Path, source: &[u8]) -> Result<PathBuf, Failure> {
    let name = directory.display();
    let point = resolve(directory)?;
    // Several dead mounts may lie on one another.
    for _ in 0..16 {
        match at(&point)
            .map_err(|error| Failure::System(format!("/proc/self/mountinfo: {error}")))?
        {
            Some(mounted) if mounted.is_ours() && is_dead(&point) => {
                log::info!(
                    "clearing the dead mount of {} at {name}",
                    shown(&mounted.source)
                );
                unmount(&point, Manner::Lazy)?;
            }
            Some(mounted) if mounted.is_ours() && mounted.source == source => {
                let source = shown(source);
                return Err(Failure::Mount(format!(
                    "{source} is already mounted on {name}"
                )));
            }
            _ => break,
        }
    }
    match fs::metadata(&point) {
        Ok(metadata) if metadata.is_dir() => Ok(point),
        Ok(_) => Err(Failure::Mount(format!(
            "mount point {name} is not a directory"
        ))),
        Err(error) => Err(Failure::Mount(format!("mount point {name}: {error}"))),
    }
}

/// The canonical name of a mount point, or why it is none.
pub fn resolve(directory: &Path) -> Result<PathBuf, Failure> {
    let name = directory.display();
    canonical(directory).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Mount(format!("mount point {name} does not exist")),
        _ => Failure::Mount(format!("mount point {name}: {error}")),
    })
}

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Not while it is in use.
    Plain,
    /// Out of sight at once; gone when nobody uses it any more.
    Lazy,
    /// Requests that wait for the server fail.
    Force,
}

impl Manner {
    pub fn of(lazy: bool, force: bool) -> Self {
        match (lazy, force) {
            (true, _) => Manner::Lazy,
            (false, true) => Manner::Force,
            (false, false) => Manner::Plain,
        }
    }
}

/// Unmounts what is seen at that path, by the kernel where permitted, else by fusermount3.
pub fn unmount(point: &Path, manner: Manner) -> Result<(), Failure> {
    let flags = match manner {
        Manner::Plain => MntFlags::empty(),
        Manner::Lazy => MntFlags::MNT_DETACH,
        Manner::Force => MntFlags::MNT_FORCE,
    };
    let unmounted = nix::mount::umount2(point, flags | MntFlags::UMOUNT_NOFOLLOW);
    match unmounted {
        Ok(()) => Ok(()),
        // Nobody can use it any more, even who has not noticed yet.
        Err(Errno::EBUSY) if manner == Manner::Force => unmount(point, Manner::Lazy),
        Err(Errno::EPERM) => fusermount(point, manner),
        Err(error) => Err(Failure::Mount(format!(
            "{}: {}",
            point.display(),
            error.desc()
        ))),
    }
}

/// Has every request of a file system fail from now on, those that wait for the server among them.
pub fn abort(device: &str) {
    let connection = device.rsplit(':').next().unwrap_or(device);
    let path = format!("/sys/fs/fuse/connections/{connection}/abort");
    if let Err(error) = fs::write(&path, "1") {
        log::debug!("{path}: {error}");
    }
}

/// The program that mounts and unmounts for ordinary users, if this machine has it.
pub fn find_fusermount() -> Option<PathBuf> {
    let usual = ["/usr/bin", "/bin"];
    let mut candidates = ["fusermount3", "fusermount"].into_iter();
    candidates
        .find_map(|name| find_program(name).or_else(|| find_in(usual.map(PathBuf::from), name)))
}

/// Where that program is, if this machine has it.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_in(std::env::split_paths(&path), name)
}

fn find_in(directories: impl IntoIterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    let mut candidates = directories
        .into_iter()
        .map(|directory| directory.join(name));
    candidates.find(|candidate| candidate.is_file())
}

/// What to say where [`find_fusermount`] finds nothing.
pub fn no_fusermount() -> Failure {
    Failure::System("fusermount3 is missing: install the package fuse3".to_string())
}

fn fusermount(point: &Path, manner: Manner) -> Result<(), Failure> {
    let program = find_fusermount().ok_or_else(no_fusermount)?;
    let mut command = Command::new(program);
    command.arg("-u");
    if manner != Manner::Plain {
        command.arg("-z");
    }
    let output = command.arg("--").arg(point).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Failure::Mount(first_line(&output.stderr))),
        Err(error) => Err(Failure::System(format!("cannot run fusermount3: {error}"))),
    }
}

/// Gives a mount other flags.
pub fn remount(point: &Path, flags: KernelFlags) -> Result<(), Failure> {
    let all = [
        (flags.read_only, MsFlags::MS_RDONLY),
        (!flags.suid, MsFlags::MS_NOSUID),
        (!flags.dev, MsFlags::MS_NODEV),
        (!flags.exec, MsFlags::MS_NOEXEC),
        (!flags.atime, MsFlags::MS_NOATIME),
        (flags.sync, MsFlags::MS_SYNCHRONOUS),
        (flags.dirsync, MsFlags::MS_DIRSYNC),
    ];
    let chosen = all.into_iter().filter(|(chosen, _)| *chosen);
    let flags = chosen.fold(MsFlags::MS_REMOUNT, |all, (_, flag)| all | flag);
    let none = None::<&Path>;
    nix::mount::mount(none, point, none, flags, none).map_err(|errno| {
        let line = format!(
            "cannot remount {}: {}",
            point.display(),
            io::Error::from(errno)
        );
        match errno {
            Errno::EPERM => Failure::Usage(format!("{line}; only root may")),
            Errno::EBUSY => Failure::Mount(format!("{line}: files are open for writing")),
            _ => Failure::Mount(line),
        }
    })
}

/// The first line of what another program said.
pub fn first_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.trim()
        .lines()
        .next()
        .unwrap_or("unknown reason")
        .to_string()
}

/// A dead FUSE mount cannot be resolved, but its parent can.
fn canonical(directory: &Path) -> io::Result<PathBuf> {
    let error = match directory.canonicalize() {
        Err(error) if is_disconnected(&error) => error,
        result => return result,
    };
    let absolute = std::path::absolute(directory)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Err(error),
    }
}

/// Whether nobody serves that FUSE mount any more. Its free space the kernel never remembers: while
/// the process is still about to end, who asks for that waits for the end.
pub fn is_dead(point: &Path) -> bool {
    let is_gone = |errno| matches!(errno, Errno::ENOTCONN | Errno::ECONNABORTED);
    fs::metadata(point).is_err_and(|error| is_disconnected(&error))
        || nix::sys::statvfs::statvfs(point).is_err_and(is_gone)
}

fn is_disconnected(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOTCONN)
}

/// `36 35 98:0 /root /point rw,noatime master:1 - type source options`: six fields, optional ones
/// up to a lone `-`, and three more.
fn parse_line(line: &[u8]) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = 6 + fields.get(6..)?.iter().position(|field| *field == b"-")?;
    Some(Mounted {
        device: String::from_utf8(fields[2].to_vec()).ok()?,
        point: PathBuf::from(OsString::from_vec(unescape(fields[4]))),
        fs_type: String::from_utf8(fields.get(dash + 1)?.to_vec()).ok()?,
        source: unescape(fields.get(dash + 2)?),
        owner: fields.get(dash + 3).and_then(|options| {
            let options = std::str::from_utf8(options).ok()?.split(',');
            let mut owners = options.filter_map(|option| option.strip_prefix("user_id="));
            owners.next()?.parse().ok()
        }),
    })
}

/// The kernel writes blanks, line ends, `#` and backslashes as `\040`.
pub(super) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) if byte == b'\\' => {
                bytes.push(escaped);
                rest = &after[3..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mountinfo_lines() {
        let line = br"98 29 0:52 / /mnt/a\040b\134c rw,nosuid shared:5 master:2 - fuse.ftps me@h:/a\040b rw,user_id=4711,group_id=0";
        let mounted = parse_line(line).unwrap();
        assert_eq!(mounted.device, "0:52");
        assert_eq!(mounted.point, Path::new(r"/mnt/a b\c"));
        assert_eq!(mounted.source, b"me@h:/a b");
        assert!(mounted.is_ours());
        assert_eq!(mounted.owner, Some(4711));
        let plain = parse_line(b"1 0 8:1 / / rw - ext4 /dev/sda1 rw").unwrap();
        assert!(!plain.is_ours());
        for broken in [
            "",
            "1 0 8:1 / /",
            "1 0 8:1 / / rw",
            "1 0 8:1 / / rw -",
            "1 0 8:1 / / rw - a",
        ] {
            assert_eq!(parse_line(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn what_is_mounted_here() {
        assert_eq!(at(Path::new("/proc")).unwrap().unwrap().fs_type, "proc");
        assert_eq!(at(Path::new("/proc/self")).unwrap(), None);
    }

    #[test]
    fn mount_points_must_be_directories() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(path.join("file"), "").unwrap();
        fs::create_dir(path.join("not empty")).unwrap();
        fs::write(path.join("not empty/file"), "").unwrap();
        let refusal = |name: &str| prepare(&path.join(name), b"h:/").unwrap_err().to_string();
        assert_eq!(
            refusal("gone"),
            format!("mount point {}/gone does not exist", path.display())
        );
        assert_eq!(
            refusal("file"),
            format!("mount point {}/file is not a directory", path.display())
        );
        assert!(refusal("file/x").contains("Not a directory"));
        assert_eq!(
            prepare(&path.join("not empty"), b"h:/").unwrap(),
            path.join("not empty")
        );
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(
            prop::sample::select(b"1 0:/a- \\0479\xff".to_vec()), 0..60)) {
            let _ = parse_line(&line);
            prop_assert!(unescape(&line).len() <= line.len());
        }
    }
}
