//! A FUSE file system that answers from memory at once: how fast one can be on this machine. It has one folder,
//! `wide`, and one file of zeros, `large`.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyOpen, Request,
};

use super::rows::{WIDE, wide_name};

const TTL: Duration = Duration::from_secs(3600);
const ROOT: u64 = 1;
const FOLDER: u64 = 2;
const LARGE: u64 = 3;
/// Of the first file in the folder.
const FIRST: u64 = 10;

struct Memory {
    /// Of `large`, bytes.
    size: u64,
    zeros: Vec<u8>,
}

/// Mounts it and serves it until it is unmounted.
pub fn serve(dir: &Path, size: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("memory".into())];
    config.n_threads = Some(2);
    fuser::mount(Memory { size, zeros }, dir, &config)
}

impl Memory {
    fn attributes(&self, ino: u64) -> FileAttr {
        let is_folder = ino == ROOT || ino == FOLDER;
        let size = if ino == LARGE { self.size } else { 0 };
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_folder {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if is_folder { 0o755 } else { 0o644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Memory {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.add_capabilities(
            InitFlags::FUSE_ASYNC_READ
                | InitFlags::FUSE_PARALLEL_DIROPS
                | InitFlags::FUSE_DO_READDIRPLUS
                | InitFlags::FUSE_READDIRPLUS_AUTO,
        );
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_str().unwrap_or_default();
        let number = || {
            name.strip_prefix(wide_name("").as_str())?
                .parse::<u64>()
                .ok()
        };
        let ino = match (parent.0, name) {
            (ROOT, "wide") => Some(FOLDER),
            (ROOT, "large") => Some(LARGE),
            (FOLDER, _) => number().map(|number| FIRST + number),
            _ => None,
        };
        match ino {
            Some(ino) => reply.entry(&TTL, &self.attributes(ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(ino.0));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.size.saturating_sub(offset).min(u64::from(size));
        reply.data(&self.zeros[..self.zeros.len().min(left as usize)]);
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for number in offset..WIDE {
            let name = wide_name(number);
            let ino = INodeNo(FIRST + number);
            if reply.add(ino, number + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        for number in offset..WIDE {
            let ino = FIRST + number;
            let (name, about) = (wide_name(number), self.attributes(ino));
            if reply.add(INodeNo(ino), number + 1, name, &TTL, &about, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }
}
