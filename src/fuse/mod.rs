//! The kernel's door: fuser's types, flags and errno on one side, [`Fs`] on the other. The one
//! place that logs a failed operation.
//!
//! fuser's threads never wait for the network here: what memory cannot answer goes to workers,
//! metadata and reads apart, so that stalled reads never hold up a stat. Must not know FTP.

mod answer;
mod errno;
mod killed;
mod request;
mod workers;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents,
    PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow, WriteFlags,
};

use crate::fs::{
    Attr, BLOCK_SIZE, Data, Error, Fs, Ino, Lookup, NAME_MAX, Names, Opened, Patience,
};
use crate::remote::Space;
use answer::{answer_lookup, answer_readdirplus, file_attr, file_type};
use killed::Watch;
use request::{Refuse, Request, What};
use workers::Workers;

/// Threads that wait for metadata, and for reads, at most.
const METADATA_THREADS: usize = 16;
const READ_THREADS: usize = 64;

/// The largest write the kernel sends at once, bytes. Read requests grow with it.
const MAX_WRITE: u32 = 1 << 20;
/// Read-ahead and other requests that nobody waits for, at a time.
const MAX_BACKGROUND: u16 = 64;

/// See the module.
pub struct Door {
    fs: Arc<Fs>,
    metadata: Workers,
    reads: Workers,
    watch: Watch,
}

impl Door {
    /// Starts no thread until the first request.
    pub fn new(fs: Arc<Fs>) -> Self {
        Self {
            fs,
            metadata: Workers::new("metadata", METADATA_THREADS),
            reads: Workers::new("read", READ_THREADS),
            watch: Watch::new(),
        }
    }

    fn serve<R: Refuse, T: 'static>(&self, request: Request<R, T>, reply: R) {
        request.serve(&self.fs, &self.metadata, &self.watch, reply);
    }

    /// Refuses what would change something.
    fn refuse_change(&self, operation: &'static str, ino: INodeNo, reply: impl Refuse) {
        log::debug!("{operation} in inode {}: {}", ino.0, Error::ReadOnly);
        reply.refuse(errno::errno(&Error::ReadOnly));
    }
}

impl Filesystem for Door {
    fn init(&mut self, _req: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        // Read-ahead is as far as the kernel allows by default. The kernel's own write-back cache is
        // not wanted: it would ignore the server's sizes and times.
        let wanted = [
            InitFlags::FUSE_ASYNC_READ,
            // Else one slow lookup holds up its whole directory.
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ];
        for capability in wanted {
            if config.add_capabilities(capability).is_err() {
                log::debug!("the kernel has no {capability:?}");
            }
        }
        if let Err(nearest) = config.set_max_write(MAX_WRITE) {
            log::debug!("the kernel would write {nearest} bytes at once");
        }
        if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
            log::debug!("the kernel would have {nearest} requests in the background");
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.fs.close();
    }

    fn lookup(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (Ino(parent.0), name.as_bytes().to_vec());
        let request = Request {
            what: What {
                operation: "lookup",
                ino: parent,
                name: Some(name.clone().into()),
            },
            tid: req.pid(),
            run: Box::new(move |fs, patience| fs.lookup(parent, &name, patience)),
            answer: answer_lookup,
            undo: |fs, lookup| {
                if let Lookup::Found(entry) = lookup {
                    fs.forget(entry.attr.ino, 1);
                }
            },
        };
        self.serve(request, reply);
    }

    fn forget(&self, _req: &fuser::Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(Ino(ino.0), nlookup);
    }

    fn getattr(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        _fh: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let answer = |reply: ReplyAttr, (attr, ttl): (Attr, Duration)| {
            reply.attr(&ttl, &file_attr(&attr));
        };
        let run = |fs: &Arc<Fs>, ino, patience| fs.getattr(ino, patience);
        self.serve(on_inode("stat", req, ino, run, answer), reply);
    }

    fn readlink(&self, req: &fuser::Request, ino: INodeNo, reply: ReplyData) {
        let answer = |reply: ReplyData, target: Box<[u8]>| reply.data(&target);
        let run = |fs: &Arc<Fs>, ino, patience| fs.readlink(ino, patience);
        self.serve(on_inode("readlink", req, ino, run, answer), reply);
    }

    fn open(&self, req: &fuser::Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            return self.refuse_change("open for writing", ino, reply);
        }
        let answer = |reply: ReplyOpen, opened: Opened| {
            // There is nothing to flush.
            let mut flags = FopenFlags::FOPEN_NOFLUSH;
            flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
            reply.opened(FileHandle(opened.handle), flags);
        };
        let run = |fs: &Arc<Fs>, ino, patience| fs.open(ino, patience);
        let request = Request {
            undo: |fs, opened: Opened| fs.release(opened.handle),
            ..on_inode("open", req, ino, run, answer)
        };
        self.serve(request, reply);
    }

    fn read(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let run = move |fs: &Arc<Fs>, _, patience| fs.read(fh.0, offset, size as usize, patience);
        let answer = |reply: ReplyData, data: Data| reply.data(&data);
        let request = on_inode("read", req, ino, run, answer);
        request.serve(&self.fs, &self.reads, &self.watch, reply);
    }

    fn flush(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(fh.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, req: &fuser::Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let answer = |reply: ReplyOpen, handle: u64| {
            reply.opened(FileHandle(handle), FopenFlags::empty());
        };
        let run = |fs: &Arc<Fs>, ino, patience| fs.opendir(ino, patience);
        let request = Request {
            undo: |fs, handle: u64| fs.releasedir(handle),
            ..on_inode("opendir", req, ino, run, answer)
        };
        self.serve(request, reply);
    }

    fn readdir(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let run = move |fs: &Arc<Fs>, _, patience| fs.readdir(fh.0, offset, patience);
        let answer = |mut reply: ReplyDirectory, names: Names| {
            names.each(|entry| {
                let (ino, kind) = (INodeNo(entry.ino.0), file_type(entry.kind));
                reply.add(ino, entry.next, kind, OsStr::from_bytes(entry.name))
            });
            reply.ok();
        };
        self.serve(on_inode("readdir", req, ino, run, answer), reply);
    }

    fn readdirplus(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let run = move |fs: &Arc<Fs>, _, patience| fs.readdir(fh.0, offset, patience);
        self.serve(
            on_inode("readdir", req, ino, run, answer_readdirplus),
            reply,
        );
    }

    fn releasedir(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.releasedir(fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn statfs(&self, req: &fuser::Request, ino: INodeNo, reply: ReplyStatfs) {
        let run = |fs: &Arc<Fs>, _, patience| fs.statfs(patience);
        let answer = |reply: ReplyStatfs, space: Space| {
            let blocks = space.available / u64::from(BLOCK_SIZE);
            // How many files fit, nobody knows.
            let files = u64::from(u32::MAX);
            let name_max = NAME_MAX as u32;
            reply.statfs(
                blocks, blocks, blocks, files, files, BLOCK_SIZE, name_max, BLOCK_SIZE,
            );
        };
        self.serve(on_inode("statfs", req, ino, run, answer), reply);
    }

    fn setattr(
        &self,
        _req: &fuser::Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.refuse_change("setattr", ino, reply);
    }

    fn mknod(
        &self,
        _req: &fuser::Request,
        parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        self.refuse_change("mknod", parent, reply);
    }

    fn mkdir(
        &self,
        _req: &fuser::Request,
        parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.refuse_change("mkdir", parent, reply);
    }

    fn unlink(&self, _req: &fuser::Request, parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        self.refuse_change("unlink", parent, reply);
    }

    fn rmdir(&self, _req: &fuser::Request, parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        self.refuse_change("rmdir", parent, reply);
    }

    fn symlink(
        &self,
        _req: &fuser::Request,
        parent: INodeNo,
        _link_name: &OsStr,
        _target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        self.refuse_change("symlink", parent, reply);
    }

    fn rename(
        &self,
        _req: &fuser::Request,
        parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.refuse_change("rename", parent, reply);
    }

    fn link(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.refuse_change("link", newparent, reply);
    }

    fn create(
        &self,
        _req: &fuser::Request,
        parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        self.refuse_change("create", parent, reply);
    }

    fn write(
        &self,
        _req: &fuser::Request,
        ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.refuse_change("write", ino, reply);
    }

    fn fallocate(
        &self,
        _req: &fuser::Request,
        ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        self.refuse_change("fallocate", ino, reply);
    }

    // To the rest the answer is ENOSYS: the kernel then helps itself and asks no more. Spelled out
    // because fuser's own defaults log a warning each time.

    fn setxattr(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &fuser::Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _req: &fuser::Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _req: &fuser::Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _blocksize: u32,
        _idx: u64,
        reply: ReplyBmap,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _req: &fuser::Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }
}

/// A request that names no more than an inode, and leaves nothing to take back.
fn on_inode<R, T>(
    operation: &'static str,
    req: &fuser::Request,
    ino: INodeNo,
    run: impl Fn(&Arc<Fs>, Ino, Patience) -> Result<T, Error> + Send + 'static,
    answer: fn(R, T),
) -> Request<R, T> {
    let ino = Ino(ino.0);
    Request {
        what: What {
            operation,
            ino,
            name: None,
        },
        tid: req.pid(),
        run: Box::new(move |fs, patience| run(fs, ino, patience)),
        answer,
        undo: |_, _| {},
    }
}

macro_rules! refuse {
    ($($reply:ty),* $(,)?) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
);

#[cfg(test)]
mod tests;
