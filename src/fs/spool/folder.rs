//! [`Folder`]: a spool's place on the local disk, private to its owner.
//!
//! `lock` (held as long as the spool is open), `journal`, `data/ID` for each record, `source` (what
//! is mounted), and `lost+found/` for what no journal explains. Every name is resolved below an open folder, and no
//! symbolic link is followed. Knows nothing of what the files say.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::SpoolError;
use super::record::RecordId;

pub(super) const LOCK: &str = "lock";
pub(super) const JOURNAL: &str = "journal";
const NEW_JOURNAL: &str = "journal.new";
pub(super) const DATA: &str = "data";
pub(super) const LOST: &str = "lost+found";
pub(super) const SOURCE: &str = "source";
const PRIVATE_DIR: Mode = Mode::S_IRWXU;
const PRIVATE_FILE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
/// A larger journal is not read into memory.
const MAX_JOURNAL: u64 = 1 << 30;
/// How often a lock that another holds is tried.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// An open, locked folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    dir: File,
    data: File,
    /// Locked until it is closed.
    _lock: File,
}

impl Folder {
    /// Opens and locks it; makes it where it is missing. Waits for another's lock at most
    /// `patience`.
    pub(super) fn open(path: &Path, patience: Duration) -> Result<Self, SpoolError> {
        let (dir, lock) = open_locked(path, patience)?;
        let data = make_private_dir(&dir, path, DATA)?;
        Ok(Self {
            path: path.to_owned(),
            dir,
            data,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes what the spool belongs to, for people to read.
    pub(super) fn note_source(&self, source: &[u8]) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
        open_file(&self.dir, SOURCE, flags)?.write_all(source)
    }

    /// The journal as it is, open for writing, if there is one.
    pub(super) fn journal(&self) -> Result<Option<(File, Vec<u8>)>, SpoolError> {
        let opened = open_file(&self.dir, JOURNAL, OFlag::O_RDWR);
        let Some(file) = absent_as_none(opened).map_err(SpoolError::opening("the journal"))? else {
            return Ok(None);
        };
        let bytes = read_journal(&file)?;
        Ok(Some((file, bytes)))
    }

    /// A file that becomes the journal by [`Folder::adopt_journal`].
    pub(super) fn new_journal(&self) -> io::Result<File> {
        self.drop_new_journal()?;
        open_file(
            &self.dir,
            NEW_JOURNAL,
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL,
        )
    }

    pub(super) fn adopt_journal(&self) -> io::Result<()> {
        Ok(renameat(&self.dir, NEW_JOURNAL, &self.dir, JOURNAL)?)
    }

    pub(super) fn drop_new_journal(&self) -> io::Result<()> {
        absent_as_none(remove(&self.dir, NEW_JOURNAL)).map(drop)
    }

    /// Makes the names in it durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    /// Makes the names of data files durable.
    pub(super) fn sync_data_names(&self) -> io::Result<()> {
        self.data.sync_all()
    }

    pub(super) fn create_data(&self, id: RecordId) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        open_file(&self.data, &id.to_string(), flags)
    }

    pub(super) fn open_data(&self, id: RecordId) -> io::Result<File> {
        open_file(&self.data, &id.to_string(), OFlag::O_RDWR)
    }

    pub(super) fn remove_data(&self, id: RecordId) -> io::Result<()> {
        absent_as_none(remove(&self.data, &id.to_string())).map(drop)
    }

    /// The records that have a data file.
    pub(super) fn data_ids(&self) -> io::Result<Vec<RecordId>> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(&self.data, ".", flags, Mode::empty())?;
        let mut ids = Vec::new();
        for entry in dir.iter() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            ids.extend(RecordId::parse(&name));
        }
        Ok(ids)
    }

    /// Moves a data file to lost+found, and says where it is now. An empty one is removed.
    pub(super) fn rescue_data(&self, id: RecordId, stamp: u64) -> io::Result<Option<PathBuf>> {
        if self.open_data(id)?.metadata()?.len() == 0 {
            self.remove_data(id)?;
            return Ok(None);
        }
        let lost = self.lost_and_found()?;
        let name = format!("data-{}-{stamp}", id);
        renameat(&self.data, id.to_string().as_str(), &lost, name.as_str())?;
        Ok(Some(self.path.join(LOST).join(name)))
    }

    /// Keeps a copy of a damaged journal in lost+found, and says where.
    pub(super) fn rescue_journal(&self, bytes: &[u8], stamp: u64) -> io::Result<PathBuf> {
        let lost = self.lost_and_found()?;
        let name = format!("journal-{stamp}");
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
        let mut copy = open_file(&lost, &name, flags)?;
        copy.write_all(bytes)?;
        copy.sync_all()?;
        Ok(self.path.join(LOST).join(name))
    }

    fn lost_and_found(&self) -> io::Result<File> {
        make_private_dir(&self.dir, &self.path, LOST).map_err(io::Error::other)
    }
}

/// A folder that is private to us, made where it is missing, and its lock. Waits for another's at most
/// `patience`.
pub(in crate::fs) fn open_locked(
    path: &Path,
    patience: Duration,
) -> Result<(File, File), SpoolError> {
    make_dirs(path).map_err(|error| SpoolError::io("making the folder", error))?;
    refuse_open_house(&path.join(".."))?;
    let dir = open_private_dir(path)?;
    let lock = take_lock(&dir, patience)?;
    Ok((dir, lock))
}

/// Makes a folder and those above it where they are missing, each one's name durable.
fn make_dirs(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().unwrap_or(Path::new("/"));
    let above = match above.as_os_str().is_empty() {
        true => Path::new("."),
        false => above,
    };
    make_dirs(above)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        // Another process may do the same; or it is something else, as whoever opens it finds out.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(above)?.sync_all()
}

/// The journal of a spool that another process may be using. Takes no lock and changes nothing.
pub(super) fn peek(dir: &File) -> Result<Option<Vec<u8>>, SpoolError> {
    let opened = open_file(dir, JOURNAL, OFlag::O_RDONLY);
    match absent_as_none(opened).map_err(SpoolError::opening("the journal"))? {
        Some(file) => Ok(Some(read_journal(&file)?)),
        None => Ok(None),
    }
}

fn read_journal(file: &File) -> Result<Vec<u8>, SpoolError> {
    let mut bytes = Vec::new();
    let read = file.take(MAX_JOURNAL + 1).read_to_end(&mut bytes);
    read.map_err(|error| SpoolError::io("reading the journal", error))?;
    if bytes.len() as u64 > MAX_JOURNAL {
        let error = io::Error::from(io::ErrorKind::FileTooLarge);
        return Err(SpoolError::io("reading the journal", error));
    }
    Ok(bytes)
}

/// Takes the lock, and leaves our pid in the file for others to see.
fn take_lock(dir: &File, patience: Duration) -> Result<File, SpoolError> {
    let lock = open_file(dir, LOCK, OFlag::O_RDWR | OFlag::O_CREAT)
        .map_err(SpoolError::opening("its lock"))?;
    let deadline = Instant::now() + patience;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_POLL.min(patience));
            }
            Err(TryLockError::WouldBlock) => {
                let pid = pid_in(&lock);
                return Err(SpoolError::AlreadyLocked { pid });
            }
            Err(TryLockError::Error(error)) => {
                return Err(SpoolError::io("taking its lock", error));
            }
        }
    }
    // The lock holds without the pid: a full disk is no reason to refuse.
    let pid = format!("{}\n", std::process::id());
    if let Err(error) = lock
        .set_len(0)
        .and_then(|()| lock.write_all_at(pid.as_bytes(), 0))
    {
        log::debug!("the spool's lock names no holder: {error}");
    }
    Ok(lock)
}

/// Who has the lock, by what its holder wrote into it.
pub(super) fn pid_in(lock: &File) -> Option<u32> {
    let mut holder = [0; 16];
    let len = lock.read_at(&mut holder, 0).ok()?;
    str::from_utf8(&holder[..len]).ok()?.trim().parse().ok()
}

/// Opens a folder that must be ours, and makes it private if it is not.
pub(super) fn open_private_dir(path: &Path) -> Result<File, SpoolError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = match nix::fcntl::open(path, flags, Mode::empty()) {
        Ok(dir) => File::from(dir),
        // What O_DIRECTORY makes of a symbolic link differs between kernels.
        Err(Errno::ELOOP | Errno::ENOTDIR) => {
            return Err(SpoolError::insecure(
                path,
                "is a symbolic link, or no folder",
            ));
        }
        Err(errno) => return Err(SpoolError::opening("its folder")(errno.into())),
    };
    make_private(dir, path)
}

fn make_private_dir(parent: &File, path: &Path, name: &str) -> Result<File, SpoolError> {
    match mkdirat(parent, name, PRIVATE_DIR) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(SpoolError::io("making a folder", errno.into())),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(dir) => make_private(dir.into(), &path.join(name)),
        Err(_) => Err(SpoolError::insecure(&path.join(name), "is not a folder")),
    }
}

/// Refuses a folder that others own or may write to; closes one that they may look into.
fn make_private(dir: File, path: &Path) -> Result<File, SpoolError> {
    let found = dir.metadata();
    let found = found.map_err(SpoolError::opening("its folder"))?;
    if found.uid() != geteuid().as_raw() {
        return Err(SpoolError::insecure(path, "belongs to another user"));
    }
    if found.mode() & 0o022 != 0 {
        return Err(SpoolError::insecure(path, "can be written to by others"));
    }
    if found.mode() & 0o077 != 0 {
        let private = fs::Permissions::from_mode(0o700);
        let closed = dir.set_permissions(private);
        closed.map_err(|error| SpoolError::io("making its folder private", error))?;
    }
    Ok(dir)
}

/// Refuses a parent folder whose other users could take our folder away. It may be reached
/// through links.
fn refuse_open_house(parent: &Path) -> Result<(), SpoolError> {
    let found = fs::metadata(parent).map_err(SpoolError::opening("the folder above it"))?;
    let is_sticky = found.mode() & 0o1000 != 0;
    if ![0, geteuid().as_raw()].contains(&found.uid()) {
        return Err(SpoolError::insecure(parent, "belongs to another user"));
    }
    if found.mode() & 0o022 != 0 && !is_sticky {
        return Err(SpoolError::insecure(parent, "can be written to by others"));
    }
    Ok(())
}

/// A folder of ours, where there is one.
pub(super) fn open_dir_in(dir: &File, name: &str) -> io::Result<Option<File>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = openat(dir, name, flags, Mode::empty());
    absent_as_none(opened.map(File::from).map_err(io::Error::from))
}

pub(in crate::fs) fn open_file(dir: &File, name: &str, flags: OFlag) -> io::Result<File> {
    // O_NONBLOCK: a FIFO in a file's place must not stop us.
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let fd: OwnedFd = openat(dir, name, flags, PRIVATE_FILE)?;
    let file = File::from(fd);
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != geteuid().as_raw() {
        return Err(io::Error::other("it is not a regular file of ours"));
    }
    Ok(file)
}

pub(in crate::fs) fn remove(dir: &File, name: &str) -> io::Result<()> {
    Ok(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?)
}

pub(in crate::fs) fn absent_as_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}
