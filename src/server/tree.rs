//! The served folder. Every path is resolved by the kernel within it (openat2 with
//! RESOLVE_IN_ROOT), and every change is made relative to a folder so found: no symbolic link and
//! no race leads outside. Knows no FTP beyond [`RemotePath`] and [`Name`].

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::Result;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat, renameat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, mkdirat,
    utimensat,
};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, getegid, geteuid, getgroups, symlinkat, unlinkat};

use crate::proto::{Name, RemotePath};

/// openat2 answers EAGAIN when a rename elsewhere might have moved a `..` out of the root.
const ATTEMPTS: usize = 64;

/// The folder that is `/` to clients.
pub(super) struct Tree {
    root: OwnedFd,
    read_only: bool,
    rights: Rights,
}

/// One file as listings show it: symbolic links are themselves, not what they point to.
pub(super) struct Item {
    pub(super) name: Vec<u8>,
    pub(super) stat: FileStat,
    /// A symbolic link's target, as it stands.
    pub(super) target: Option<Vec<u8>>,
}

/// Whose rights the server has.
pub(super) struct Rights {
    user: u32,
    groups: Vec<u32>,
}

impl Tree {
    /// Fails where the folder is none, or the kernel lacks openat2 (before Linux 5.6).
    pub(super) fn open(folder: &Path, read_only: bool) -> io::Result<Self> {
        let root = OwnedFd::from(File::open(folder)?);
        let tree = Self {
            root,
            read_only,
            rights: Rights::own()?,
        };
        match tree.folder(&RemotePath::root()) {
            Ok(_) => Ok(tree),
            Err(Errno::ENOSYS | Errno::EPERM) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel lacks openat2, which keeps clients inside the folder",
            )),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn rights(&self) -> &Rights {
        &self.rights
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Follows symbolic links, within the folder.
    pub(super) fn stat(&self, path: &RemotePath) -> Result<FileStat> {
        fstat(self.resolve(path, OFlag::O_PATH, Mode::empty())?)
    }

    /// A file as its listing shows it, under the name `shown`.
    pub(super) fn item(&self, path: &RemotePath, shown: &[u8]) -> Result<Item> {
        let Some((parent, name)) = self.parent(path)? else {
            return Ok(Item::plain(shown, self.stat(path)?));
        };
        let mut item = item_at(&parent, name.as_bytes())?;
        item.name = shown.to_vec();
        Ok(item)
    }

    /// A path in a folder whose names ignore case: by the name as it stands there, if any does.
    pub(super) fn spelt(&self, folder: &RemotePath, name: &Name) -> RemotePath {
        let exact = folder.join(name);
        if self.item(&exact, b"").is_ok() {
            return exact;
        }
        let mut found = None;
        let wanted = name.folded();
        let listed = self.list::<Errno>(folder, |item| {
            let named = Name::parse(&item.name).ok();
            found = found
                .take()
                .or(named.filter(|name| name.folded() == wanted));
            Ok(())
        });
        match found.filter(|_| listed.is_ok()) {
            Some(found) => folder.join(&found),
            None => exact,
        }
    }

    /// Fails where the path is no folder.
    pub(super) fn folder(&self, path: &RemotePath) -> Result<OwnedFd> {
        self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
    }

    /// Fails where the folder cannot be listed.
    pub(super) fn readable(&self, folder: &RemotePath) -> Result<()> {
        self.resolve(folder, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
            .map(drop)
    }

    /// Gives `each` every entry but `.` and `..`, in the folder's order. Names that FTP cannot
    /// carry (CR, LF) are left out.
    pub(super) fn list<E: From<Errno>>(
        &self,
        path: &RemotePath,
        mut each: impl FnMut(&Item) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let folder = self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        let entries = folder.try_clone().map_err(|_| Errno::EMFILE)?;
        for entry in Dir::from_fd(entries)?.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if Name::parse(name).is_err() {
                continue;
            }
            match item_at(&folder, name) {
                Ok(item) => each(&item)?,
                // Removed meanwhile.
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Opens a regular file for reading.
    pub(super) fn read(&self, path: &RemotePath) -> Result<File> {
        // Non-blocking, or a FIFO without a writer would hold the session.
        regular(self.resolve(
            path,
            OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY,
            Mode::empty(),
        )?)
    }

    /// Opens a regular file for writing; `how` may be O_CREAT and O_APPEND. Its content stays.
    pub(super) fn write(&self, path: &RemotePath, how: OFlag) -> Result<File> {
        self.writable()?;
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | how;
        let mode = if how.contains(OFlag::O_CREAT) {
            Mode::from_bits_truncate(0o666)
        } else {
            Mode::empty()
        };
        regular(self.resolve(path, flags, mode)?)
    }

    pub(super) fn make_folder(&self, path: &RemotePath) -> Result<()> {
        self.writable()?;
        let (parent, name) = self.parent(path)?.ok_or(Errno::EEXIST)?;
        mkdirat(parent, name.as_bytes(), Mode::from_bits_truncate(0o777))
    }

    pub(super) fn remove_folder(&self, path: &RemotePath) -> Result<()> {
        self.remove(path, UnlinkatFlags::RemoveDir)
    }

    /// Removes anything but a folder.
    pub(super) fn remove_file(&self, path: &RemotePath) -> Result<()> {
        self.remove(path, UnlinkatFlags::NoRemoveDir)
    }

    /// Replaces an existing target, as rename(2) does.
    pub(super) fn rename(&self, from: &RemotePath, to: &RemotePath) -> Result<()> {
        self.writable()?;
        let (from, old) = self.parent(from)?.ok_or(Errno::EBUSY)?;
        let (to, new) = self.parent(to)?.ok_or(Errno::EBUSY)?;
        renameat(from, old.as_bytes(), to, new.as_bytes())
    }

    pub(super) fn link(&self, target: &[u8], link: &RemotePath) -> Result<()> {
        self.writable()?;
        let (parent, name) = self.parent(link)?.ok_or(Errno::EEXIST)?;
        symlinkat(target, parent, name.as_bytes())
    }

    /// Sets the permission bits (0o7777).
    pub(super) fn set_mode(&self, path: &RemotePath, mode: u16) -> Result<()> {
        self.writable()?;
        let file = self.resolve(path, OFlag::O_PATH, Mode::empty())?;
        let mode = Mode::from_bits_truncate(u32::from(mode) & 0o7777);
        fchmodat(
            AT_FDCWD,
            itself(&file).as_str(),
            mode,
            FchmodatFlags::FollowSymlink,
        )
    }

    /// Sets the modification time.
    pub(super) fn set_time(&self, path: &RemotePath, time: SystemTime) -> Result<()> {
        self.writable()?;
        let file = self.resolve(path, OFlag::O_PATH, Mode::empty())?;
        utimensat(
            AT_FDCWD,
            itself(&file).as_str(),
            &TimeSpec::UTIME_OMIT,
            &timespec(time),
            UtimensatFlags::FollowSymlink,
        )
    }

    /// Inverts a file's bytes, and moves its time on by a second at least: what a fault rule does
    /// where a client has read it before.
    pub(super) fn invert(&self, path: &RemotePath) -> io::Result<()> {
        let mut from = self.read(path)?;
        let mut to = self.write(path, OFlag::empty())?;
        let before = from.metadata()?.modified()?;
        let mut chunk = vec![0; 64 << 10];
        loop {
            let n = from.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            chunk[..n].iter_mut().for_each(|byte| *byte = !*byte);
            to.write_all(&chunk[..n])?;
        }
        to.set_modified(SystemTime::now().max(before + Duration::from_secs(1)))
    }

    /// Bytes that may still be written there.
    pub(super) fn space(&self, path: &RemotePath) -> Result<u64> {
        let space = fstatvfs(self.resolve(path, OFlag::O_PATH, Mode::empty())?)?;
        Ok(space
            .blocks_available()
            .saturating_mul(space.fragment_size()))
    }

    fn remove(&self, path: &RemotePath, flags: UnlinkatFlags) -> Result<()> {
        self.writable()?;
        let (parent, name) = self.parent(path)?.ok_or(Errno::EBUSY)?;
        unlinkat(parent, name.as_bytes(), flags)
    }

    fn writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        Ok(())
    }

    /// The folder that holds it, and its name there; `None` for the root.
    fn parent(&self, path: &RemotePath) -> Result<Option<(OwnedFd, Name)>> {
        match (path.parent(), path.name()) {
            (Some(parent), Some(name)) => Ok(Some((self.folder(&parent)?, name))),
            _ => Ok(None),
        }
    }

    fn resolve(&self, path: &RemotePath, flags: OFlag, mode: Mode) -> Result<OwnedFd> {
        let relative = match &path.as_bytes()[1..] {
            b"" => b".",
            relative => relative,
        };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(mode)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        for _ in 1..ATTEMPTS {
            match openat2(&self.root, relative, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return result,
            }
        }
        openat2(&self.root, relative, how)
    }
}

impl Item {
    /// What is no symbolic link.
    pub(super) fn plain(name: &[u8], stat: FileStat) -> Self {
        Self {
            name: name.to_vec(),
            stat,
            target: None,
        }
    }

    pub(super) fn is(&self, kind: SFlag) -> bool {
        is(&self.stat, kind)
    }

    /// Whole seconds count; times before 1970 are kept.
    pub(super) fn modified(&self) -> SystemTime {
        modified(&self.stat)
    }
}

impl Rights {
    fn own() -> Result<Self> {
        let mut groups: Vec<u32> = getgroups()?.iter().map(|group| group.as_raw()).collect();
        groups.push(getegid().as_raw());
        Ok(Self {
            user: geteuid().as_raw(),
            groups,
        })
    }

    /// Whether the mode bits give the server `right` (0o4 read, 0o2 write, 0o1 enter).
    pub(super) fn permit(&self, stat: &FileStat, right: u32) -> bool {
        let shift = if self.user == 0 {
            return true;
        } else if self.user == stat.st_uid {
            6
        } else if self.groups.contains(&stat.st_gid) {
            3
        } else {
            0
        };
        (stat.st_mode >> shift) & right == right
    }
}

pub(super) fn is(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

pub(super) fn modified(stat: &FileStat) -> SystemTime {
    let seconds = Duration::from_secs(stat.st_mtime.unsigned_abs());
    let time = if stat.st_mtime < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    time.unwrap_or(UNIX_EPOCH)
}

fn item_at(folder: &OwnedFd, name: &[u8]) -> Result<Item> {
    let stat = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let target = if is(&stat, SFlag::S_IFLNK) {
        readlinkat(folder, name).ok().map(OsString::into_vec)
    } else {
        None
    };
    Ok(Item {
        name: name.to_vec(),
        stat,
        target,
    })
}

fn regular(file: OwnedFd) -> Result<File> {
    let stat = fstat(file.as_fd())?;
    if is(&stat, SFlag::S_IFDIR) {
        return Err(Errno::EISDIR);
    }
    if !is(&stat, SFlag::S_IFREG) {
        return Err(Errno::EINVAL);
    }
    Ok(File::from(file))
}

/// The way to name an O_PATH descriptor to calls that want a path; it leads to the file itself,
/// whatever its name points to by now.
fn itself(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn timespec(time: SystemTime) -> TimeSpec {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => TimeSpec::from_duration(after),
        Err(before) => {
            let before = before.duration();
            // Rounded down to the second.
            let seconds = before.as_secs() + u64::from(before.subsec_nanos() > 0);
            TimeSpec::new(-i64::try_from(seconds).unwrap_or(0), 0)
        }
    }
}
