//! The kernel's door: fuser's types, flags and errno on one side, [`Fs`] on the other. The one
//! place that logs a failed operation.
//!
//! fuser's threads never wait for the network here: what memory cannot answer goes to workers,
//! metadata and reads apart, so that stalled reads never hold up a stat. Must not know FTP.

mod answer;
mod errno;
mod killed;
mod record;
mod request;
mod through;
mod workers;
mod xattr;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, Notifier, OpenAccMode,
    OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow, WriteFlags,
};

use crate::fs::{
    Access, Attr, BLOCK_SIZE, Changes, Data, Entry, Error, Fs, Ino, Kernel, Leftover, Lookup,
    NAME_MAX, Names, Opened, Patience,
};
use crate::remote::Space;
use answer::{answer_lookup, answer_readdirplus, file_attr, file_type};
use killed::Watch;
pub use record::{Failure, Record, Report};
use request::{Refuse, Request, What};
use through::{Other, Through};
use workers::Workers;
pub use xattr::Attributes;
use xattr::Shown;

/// Threads that wait for metadata, for reads, and for uploads, at most.
const METADATA_THREADS: usize = 16;
const READ_THREADS: usize = 64;
const UPLOAD_THREADS: usize = 64;
/// How long what is left to do after a close may wait for a thread.
const LEFTOVER: Duration = Duration::from_secs(7 * 24 * 3600);

/// The largest write the kernel sends at once, bytes. Read requests grow with it.
const MAX_WRITE: u32 = 1 << 20;
/// Read-ahead and other requests that nobody waits for, at a time.
const MAX_BACKGROUND: u16 = 64;

/// How a request is answered, and taken back.
type How<R, T> = (fn(R, T), fn(&Fs, T));

/// Has what was written to a handle where it is to be.
type Delivery = fn(&Fs, u64, Patience) -> Result<(), Error>;

/// See the module.
pub struct Door {
    fs: Arc<Fs>,
    metadata: Workers,
    reads: Workers,
    uploads: Workers,
    office: Office,
    /// Once there is one.
    notifier: Arc<OnceLock<Notifier>>,
    /// Where the kernel may read files by itself.
    through: Option<Arc<Through>>,
    /// What the root has of extended attributes; `None`: nothing has any.
    shown: Option<Shown>,
}

/// What all requests need.
#[derive(Clone)]
struct Office {
    fs: Arc<Fs>,
    watch: Arc<Watch>,
    record: Arc<Record>,
}

impl Door {
    /// Starts no thread until the first request.
    pub fn new(fs: Arc<Fs>) -> Self {
        let office = Office {
            fs: fs.clone(),
            watch: Arc::new(Watch::new()),
            record: Arc::default(),
        };
        let notifier = Arc::new(OnceLock::new());
        fs.tell(Told(notifier.clone()));
        Self {
            fs,
            metadata: Workers::new("metadata", METADATA_THREADS),
            reads: Workers::new("read", READ_THREADS),
            uploads: Workers::new("upload", UPLOAD_THREADS),
            office,
            notifier,
            through: None,
            shown: None,
        }
    }

    /// What becomes of its requests.
    pub fn record(&self) -> Arc<Record> {
        self.office.record.clone()
    }

    /// For its session's notifier, once there is one.
    pub fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        self.notifier.clone()
    }

    fn serve<R: Refuse, T: 'static>(&self, request: Request<R, T>, reply: R) {
        request.serve(&self.office, &self.metadata, reply);
    }

    /// A change of what a name in a directory stands for: who asks for it has gone on to something else.
    fn change<R: Refuse, T: 'static>(
        &self,
        (operation, req): (&'static str, &fuser::Request),
        child: (INodeNo, &OsStr),
        run: impl Fn(&Arc<Fs>, Ino, &[u8], Patience) -> Result<T, Error> + Send + 'static,
        how: How<R, T>,
        reply: R,
    ) {
        self.fs.meet(req.pid());
        self.serve(on_child(operation, req, child, run, how), reply);
    }

    /// A request that waits for an upload.
    fn serve_upload(
        &self,
        (operation, run): (&'static str, Delivery),
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        reply: ReplyEmpty,
    ) {
        let run = move |fs: &Arc<Fs>, _, patience| run(fs, fh.0, patience);
        let answer = |reply: ReplyEmpty, ()| reply.ok();
        let request = Request {
            is_transfer: true,
            ..on_inode(operation, req, ino, run, answer)
        };
        request.serve(&self.office, &self.uploads, reply);
    }

    /// Answers a write that is done once the server has caught up with it a little.
    fn brake(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        written: u32,
        reply: ReplyWrite,
    ) {
        let run = move |fs: &Arc<Fs>, _, patience| {
            fs.catch_up(fh.0, patience)?;
            Ok(written)
        };
        let answer = |reply: ReplyWrite, written| reply.written(written);
        let request = on_inode("write", req, ino, run, answer);
        request.serve(&self.office, &self.uploads, reply);
    }

    /// Has done what a release left to do.
    fn see_to(&self, leftover: Leftover) {
        let fs = self.fs.clone();
        let job = Box::new(move |_| fs.finish(leftover));
        let queue = self.uploads.queue();
        if queue.submit(Instant::now() + LEFTOVER, job).is_err() {
            log::error!("no thread for an upload: what was written is kept in the spool");
            self.fs.drop_leftover(leftover);
        }
    }

    /// Answers what needs nothing but memory and the local disk.
    fn answer<R: Refuse, T>(
        &self,
        (operation, ino): (&'static str, INodeNo),
        run: impl FnOnce(&Fs) -> Result<T, Error>,
        answer: impl FnOnce(R, T),
        reply: R,
    ) {
        let what = What {
            operation,
            ino: Ino(ino.0),
            name: None,
            by_name: false,
        };
        let answered = catch_unwind(AssertUnwindSafe(|| match run(&self.fs) {
            Ok(done) => answer(reply, done),
            Err(error) => {
                let errno = errno::errno(&error);
                what.log(&self.office, &error, errno);
                reply.refuse(errno);
            }
        }));
        if answered.is_err() {
            log::error!("a request panicked: this is a defect of ftpsfs");
        }
    }
}

/// The kernel, once it can be told something.
struct Told(Arc<OnceLock<Notifier>>);

impl Told {
    fn tell(&self, notify: impl FnOnce(&Notifier) -> io::Result<()>) -> bool {
        let told = self.0.get().map(notify);
        if let Some(Err(error)) = &told {
            log::debug!("the kernel could not be told: {error}");
        }
        matches!(told, Some(Ok(())))
    }
}

impl Kernel for Told {
    fn outdate(&self, ino: Ino) {
        self.tell(|notifier| notifier.inval_inode(INodeNo(ino.0), -1, 0));
    }

    fn store(&self, ino: Ino, offset: u64, bytes: &[u8]) -> bool {
        self.tell(|notifier| notifier.store(INodeNo(ino.0), offset, bytes))
    }

    fn take_back(&self, ino: Ino, range: Range<u64>) {
        let (offset, length) = (
            range.start.cast_signed(),
            (range.end - range.start).cast_signed(),
        );
        self.tell(|notifier| notifier.inval_inode(INodeNo(ino.0), offset, length));
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
        let passthrough = InitFlags::FUSE_PASSTHROUGH;
        if self.fs.passes() && config.add_capabilities(passthrough).is_ok() {
            // So that a file system may be stacked upon this one, as on any.
            let _ = config.set_max_stack_depth(1);
            self.through = Some(Arc::new(Through::new()));
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
        self.office.record.tell(true);
    }

    fn lookup(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let undo = |fs: &Fs, lookup| {
            if let Lookup::Found(entry) = lookup {
                fs.forget(entry.attr.ino, 1);
            }
        };
        let who = req.pid();
        let run = move |fs: &Arc<Fs>, parent, name: &[u8], patience| {
            fs.lookup_for(who, parent, name, patience)
        };
        let how = (answer_lookup as fn(_, _), undo as fn(&Fs, _));
        // Who looks a name up may be about to come for its file.
        self.serve(on_child("lookup", req, (parent, name), run, how), reply);
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
        let asked = Ino(ino.0);
        let run = move |fs: &Arc<Fs>, ino, patience| {
            let (attr, ttl) = fs.getattr(ino, patience)?;
            Ok((Attr { ino: asked, ..attr }, ttl))
        };
        self.serve(by_name("stat", req, ino, run, answer), reply);
    }

    fn readlink(&self, req: &fuser::Request, ino: INodeNo, reply: ReplyData) {
        let answer = |reply: ReplyData, target: Box<[u8]>| reply.data(&target);
        let run = |fs: &Arc<Fs>, ino, patience| fs.readlink(ino, patience);
        self.serve(by_name("readlink", req, ino, run, answer), reply);
    }

    fn open(&self, req: &fuser::Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let access = access_of(flags.0, flags.acc_mode());
        let (asked, who, through) = (Ino(ino.0), req.pid(), self.through.clone());
        let run = move |fs: &Arc<Fs>, ino, patience| {
            let opened = fs.open(ino, access, patience)?;
            fs.meet(who);
            let mut flags = open_flags(&opened, access);
            // The kernel must not have its pages twice.
            flags.set(FopenFlags::FOPEN_DIRECT_IO, ino != asked);
            let through = through.clone().filter(|_| ino == asked);
            let through = through.map(|through| (through, ino, fs.clone()));
            Ok(Opening {
                opened,
                flags,
                through,
            })
        };
        let request = Request {
            undo: |fs, opening: Opening| fs.close_at_once(opening.opened.handle),
            ..by_name("open", req, ino, run, Opening::answer)
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
        request.serve(&self.office, &self.reads, reply);
    }

    fn flush(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.serve_upload(("close", Fs::flush), req, ino, fh, reply);
    }

    fn release(
        &self,
        _req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(leftover) = self.fs.release(fh.0) {
            self.see_to(leftover);
        }
        if let Some(through) = &self.through {
            through.release(Ino(ino.0));
        }
        reply.ok();
    }

    fn fsync(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.serve_upload(("fsync", Fs::fsync), req, ino, fh, reply);
    }

    fn opendir(&self, req: &fuser::Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let answer = |reply: ReplyOpen, handle: u64| {
            reply.opened(FileHandle(handle), FopenFlags::empty());
        };
        let run = |fs: &Arc<Fs>, ino, patience| fs.opendir(ino, patience);
        let request = Request {
            undo: |fs, handle: u64| fs.releasedir(handle),
            ..by_name("opendir", req, ino, run, answer)
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
        req: &fuser::Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes {
            size,
            mode: mode.map(permissions),
            uid,
            gid,
            modified: mtime.map(|time| match time {
                TimeOrNow::SpecificTime(time) => time,
                TimeOrNow::Now => SystemTime::now(),
            }),
            through_handle: fh.is_some(),
        };
        let answer = |reply: ReplyAttr, (attr, ttl): (Attr, Duration)| {
            reply.attr(&ttl, &file_attr(&attr));
        };
        let (asked, who) = (Ino(ino.0), req.pid());
        let run = move |fs: &Arc<Fs>, ino, patience| {
            let (attr, ttl) = fs.setattr(ino, changes, patience)?;
            fs.meet(who);
            Ok((Attr { ino: asked, ..attr }, ttl))
        };
        let request = Request {
            is_transfer: size.is_some(),
            failed: |office, ino| office.fs.outdate(ino),
            ..by_name("setattr", req, ino, run, answer)
        };
        match size {
            Some(_) => request.serve(&self.office, &self.uploads, reply),
            None => self.serve(request, reply),
        }
    }

    fn mknod(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if !matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG) {
            let run = |fs: &Fs| -> Result<(), Error> {
                fs.check_writable()?;
                Err(Error::NotPermitted("FTP has no special files".to_owned()))
            };
            return self.answer(("mknod", parent), run, |_: ReplyEntry, ()| {}, reply);
        }
        let mode = permissions(mode);
        let run = move |fs: &Arc<Fs>, parent, name: &[u8], patience| {
            fs.mknod(parent, name, mode, patience)
        };
        self.change(("mknod", req), (parent, name), run, MADE, reply);
    }

    fn mkdir(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let mode = permissions(mode);
        let run = move |fs: &Arc<Fs>, parent, name: &[u8], patience| {
            fs.mkdir(parent, name, mode, patience)
        };
        self.change(("mkdir", req), (parent, name), run, MADE, reply);
    }

    fn unlink(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let run = |fs: &Arc<Fs>, parent, name: &[u8], patience| fs.unlink(parent, name, patience);
        self.change(("unlink", req), (parent, name), run, DONE, reply);
    }

    fn rmdir(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let run = |fs: &Arc<Fs>, parent, name: &[u8], patience| fs.rmdir(parent, name, patience);
        self.change(("rmdir", req), (parent, name), run, DONE, reply);
    }

    fn symlink(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes().to_vec();
        let run = move |fs: &Arc<Fs>, parent, name: &[u8], patience| {
            fs.symlink(parent, name, &target, patience)
        };
        self.change(("symlink", req), (parent, link_name), run, MADE, reply);
    }

    fn rename(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let keep = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let (to, to_name) = (Ino(newparent.0), newname.as_bytes().to_vec());
        let run = move |fs: &Arc<Fs>, parent, name: &[u8], patience| {
            let to = fs.actual(to);
            fs.steadily(to, patience, || {
                fs.rename((parent, name), (to, &to_name), keep, patience)
            })
        };
        self.change(("rename", req), (parent, name), run, DONE, reply);
    }

    fn link(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let run = |fs: &Fs| -> Result<(), Error> {
            fs.check_writable()?;
            Err(Error::NotPermitted("FTP has no hard links".to_owned()))
        };
        self.answer(("link", newparent), run, |_: ReplyEntry, ()| {}, reply);
    }

    fn create(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let mode = permissions(mode);
        let access = access_of(flags, OpenFlags(flags).acc_mode());
        let run = move |fs: &Arc<Fs>, parent, name: &[u8], patience| {
            fs.create(parent, name, mode, access, patience)
        };
        let answer = |reply: ReplyCreate, (entry, opened): (Entry, Opened)| {
            let access = Access {
                write: true,
                ..Access::default()
            };
            let (attr, handle) = (file_attr(&entry.attr), FileHandle(opened.handle));
            let flags = open_flags(&opened, access);
            reply.created(&entry.ttl, &attr, Generation(0), handle, flags);
        };
        let undo = |fs: &Fs, (entry, opened): (Entry, Opened)| {
            fs.close_at_once(opened.handle);
            fs.forget(entry.attr.ino, 1);
        };
        let how = (answer as fn(_, _), undo as fn(&Fs, _));
        self.change(("create", req), (parent, name), run, how, reply);
    }

    fn write(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Pages written through mmap stay where they are.
        let append =
            flags.0 & libc::O_APPEND != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let run = |fs: &Fs| fs.write(fh.0, data, offset, append);
        let answer = |reply: ReplyWrite, written: usize| {
            // No request is larger than MAX_WRITE.
            let written = written as u32;
            match self.fs.is_far_ahead(fh.0) {
                true => self.brake(req, ino, fh, written, reply),
                false => reply.written(written),
            }
        };
        self.answer(("write", ino), run, answer, reply);
    }

    fn fallocate(
        &self,
        _req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let run = |fs: &Fs| {
            let size = offset.checked_add(length).ok_or(Error::TooLarge)?;
            fs.allocate(fh.0, size)
        };
        self.answer(
            ("fallocate", ino),
            run,
            |reply: ReplyEmpty, ()| reply.ok(),
            reply,
        );
    }

    fn copy_file_range(
        &self,
        req: &fuser::Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if !self.fs.copies_files() {
            return reply.error(Errno::ENOSYS);
        }
        // The answer has 32 bits; the kernel asks for no more at a time.
        let (0, 0, Ok(whole)) = (offset_in, offset_out, u32::try_from(len)) else {
            return reply.error(Errno::EXDEV);
        };
        let run = move |fs: &Arc<Fs>, _, patience| {
            let copied = fs.copy_whole(fh_in.0, fh_out.0, len, patience)?;
            Ok(copied.then_some(whole))
        };
        let answer = |reply: ReplyWrite, copied: Option<u32>| match copied {
            Some(bytes) => reply.written(bytes),
            // The kernel, or the program, then reads and writes.
            None => reply.error(Errno::EXDEV),
        };
        let request = Request {
            is_transfer: true,
            ..on_inode("copy", req, ino_out, run, answer)
        };
        request.serve(&self.office, &self.uploads, reply);
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
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        self.answer_getxattr(ino, name, size, reply);
    }

    fn listxattr(&self, _req: &fuser::Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer_listxattr(ino, size, reply);
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
            by_name: false,
        },
        tid: req.pid(),
        run: Box::new(move |fs, patience| {
            let ino = fs.actual(ino);
            fs.steadily(ino, patience, || run(fs, ino, patience))
        }),
        answer,
        undo: |_, _| {},
        failed: |_, _| {},
        is_transfer: false,
    }
}

/// A request about a name in a directory.
fn on_child<R, T>(
    operation: &'static str,
    req: &fuser::Request,
    (parent, name): (INodeNo, &OsStr),
    run: impl Fn(&Arc<Fs>, Ino, &[u8], Patience) -> Result<T, Error> + Send + 'static,
    (answer, undo): How<R, T>,
) -> Request<R, T> {
    let name = name.as_bytes().to_vec();
    let shown = name.clone().into();
    let run = move |fs: &Arc<Fs>, parent, patience| run(fs, parent, &name, patience);
    let mut request = on_inode(operation, req, parent, run, answer);
    request.what.name = Some(shown);
    Request { undo, ..request }
}

/// A request by an inode that was found by its name: should it be gone, the kernel is to look the
/// name up once more, and what it finds then is kept.
fn by_name<R, T>(
    operation: &'static str,
    req: &fuser::Request,
    ino: INodeNo,
    run: impl Fn(&Arc<Fs>, Ino, Patience) -> Result<T, Error> + Send + 'static,
    answer: fn(R, T),
) -> Request<R, T> {
    let who = req.pid();
    let run = move |fs: &Arc<Fs>, ino, patience| {
        run(fs, ino, patience).inspect_err(|error| fs.miss(who, error))
    };
    let mut request = on_inode(operation, req, ino, run, answer);
    request.what.by_name = true;
    request
}

/// How a request that gives back nothing is answered, and taken back.
const DONE: How<ReplyEmpty, ()> = (|reply, ()| reply.ok(), |_, ()| {});

/// How a request that makes a name is answered, and taken back: the name stays, as it does for
/// whoever is killed a moment later.
const MADE: How<ReplyEntry, Entry> = (
    |reply, entry| reply.entry(&entry.ttl, &file_attr(&entry.attr), Generation(0)),
    |fs, entry| fs.forget(entry.attr.ino, 1),
);

fn access_of(flags: i32, mode: OpenAccMode) -> Access {
    let has = |flag: i32| flags & flag != 0;
    Access {
        write: mode != OpenAccMode::O_RDONLY || has(libc::O_TRUNC),
        truncate: has(libc::O_TRUNC),
        append: has(libc::O_APPEND),
        exclusive: has(libc::O_EXCL),
    }
}

fn open_flags(opened: &Opened, access: Access) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    // Where nothing is written, there is nothing to flush.
    flags.set(FopenFlags::FOPEN_NOFLUSH, !access.write);
    flags
}

/// A file that was opened, to be told to the kernel.
struct Opening {
    opened: Opened,
    flags: FopenFlags,
    /// Where the kernel may read it by itself, by this number.
    through: Option<(Arc<Through>, Ino, Arc<Fs>)>,
}

impl Opening {
    fn answer(reply: ReplyOpen, opening: Self) {
        let Self { opened, flags, .. } = opening;
        let handle = FileHandle(opened.handle);
        let Some((through, ino, fs)) = opening.through else {
            return reply.opened(handle, flags);
        };
        let register = |file: &File| reply.open_backing(file);
        match through.open(ino, opened.backing.as_ref(), register) {
            Ok(None) => reply.opened(handle, flags),
            Ok(Some(id)) => {
                fs.count_passed();
                // The kernel takes no other flag along with that.
                reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, &id);
            }
            // It looks the name up once more.
            Err(Other) => {
                fs.close_at_once(opened.handle);
                reply.error(Errno::ESTALE);
            }
        }
    }
}

/// Permission bits alone.
fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
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
