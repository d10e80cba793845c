//! A file system in memory that forgets what was not synced when the plug is pulled, as a disk does.
//!
//! What POSIX lets a disk do, it does. A file's bytes and size are safe by an fsync of the file, and by nothing
//! else; a name by an fsync of its folder. What is not safe yet is lost, or some of it is not: any page of
//! a file, and of the changes to names those up to some moment.

use crate::load::Dice;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::mount::{MntFlags, umount2};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PAGE: usize = 4096;
/// Nothing is remembered by the kernel: after the plug was pulled it would be wrong.
const TTL: Duration = Duration::ZERO;
const PUNCH_HOLE: i32 = 2;
const KEEP_SIZE: i32 = 1;

/// A mounted disk.
pub struct Disk {
    folder: tempfile::TempDir,
    state: Arc<Mutex<State>>,
}

/// What becomes of that which was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    Everything,
    /// By the dice of this seed.
    Some(u64),
}

/// What a pulled plug has cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    pub pages: usize,
    pub names: usize,
}

struct State {
    nodes: HashMap<u64, Node>,
    last: u64,
    /// Changes to names that are not safe yet, the oldest first.
    edits: Vec<Edit>,
}

struct Node {
    mode: u16,
    handles: usize,
    body: Body,
}

enum Body {
    File { now: Vec<u8>, safe: Vec<u8> },
    Folder { now: Names, safe: Names },
}

type Names = BTreeMap<OsString, u64>;

/// One operation on names: each is as said afterwards. It is done whole, or not at all.
struct Edit(Vec<(u64, OsString, Option<u64>)>);

struct Door(Arc<Mutex<State>>);

impl Disk {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("ftpsfs-disk-")
            .tempdir()
            .expect("make a folder");
        let root = Node::folder(0o700);
        let state = Arc::new(Mutex::new(State {
            nodes: HashMap::from([(1, root)]),
            last: 1,
            edits: Vec::new(),
        }));
        let door = Door(state.clone());
        let mounted = fuser::spawn_mount(door, folder.path(), &fuser::Config::default());
        // Servers that start meanwhile see the mount as well, so its thread may outlive it.
        let _ = ManuallyDrop::new(mounted.expect("mount a disk"));
        Self { folder, state }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Everything is as it is found when the machine starts again. Whoever used it is dead by now.
    pub fn pull_the_plug(&self, loss: Loss) -> Lost {
        lock(&self.state).forget(loss)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

impl State {
    fn forget(&mut self, loss: Loss) -> Lost {
        let mut dice = match loss {
            Loss::Everything => None,
            Loss::Some(seed) => Some(Dice::new(seed)),
        };
        let mut lost = Lost::default();
        let edits = std::mem::take(&mut self.edits);
        let kept = dice
            .as_mut()
            .map_or(0, |dice| dice.below(edits.len() as u64 + 1) as usize);
        lost.names = edits.len() - kept;
        for Edit(names) in edits.into_iter().take(kept) {
            for (folder, name, node) in names {
                self.settle(folder, name, node);
            }
        }
        // By number, so that the same seed does the same.
        let mut numbers: Vec<_> = self.nodes.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            match &mut self.nodes.get_mut(&number).expect("it is there").body {
                Body::Folder { now, safe } => *now = safe.clone(),
                Body::File { now, safe } => {
                    lost.pages += forget_pages(now, safe, dice.as_mut());
                    *safe = now.clone();
                }
            }
        }
        for node in self.nodes.values_mut() {
            node.handles = 0;
        }
        self.clear();
        lost
    }

    fn settle(&mut self, folder: u64, name: OsString, node: Option<u64>) {
        if let Some(Node {
            body: Body::Folder { safe, .. },
            ..
        }) = self.nodes.get_mut(&folder)
        {
            change(safe, name, node);
        }
    }

    /// Changes names, for now.
    fn edit(&mut self, edit: Edit) {
        for (folder, name, node) in &edit.0 {
            if let Ok(now) = self.names(*folder) {
                change(now, name.clone(), *node);
            }
        }
        self.edits.push(edit);
    }

    /// What was done to a folder's names is safe.
    fn sync_folder(&mut self, folder: u64) {
        let touches = |edit: &Edit| edit.0.iter().any(|(at, ..)| *at == folder);
        let (done, waiting) = std::mem::take(&mut self.edits)
            .into_iter()
            .partition(touches);
        self.edits = waiting;
        let done: Vec<Edit> = done;
        for (folder, name, node) in done.into_iter().flat_map(|edit| edit.0) {
            self.settle(folder, name, node);
        }
        self.clear();
    }

    /// Gives up what nothing leads to any more.
    fn clear(&mut self) {
        let mut needed = HashSet::from([1]);
        for node in self.nodes.values() {
            if let Body::Folder { now, safe } = &node.body {
                needed.extend(now.values().chain(safe.values()));
            }
        }
        for Edit(names) in &self.edits {
            needed.extend(names.iter().filter_map(|(.., node)| *node));
        }
        self.nodes
            .retain(|number, node| node.handles > 0 || needed.contains(number));
    }

    fn node(&mut self, number: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&number).ok_or(Errno::ENOENT)
    }

    fn names(&mut self, number: u64) -> Result<&mut Names, Errno> {
        match &mut self.node(number)?.body {
            Body::Folder { now, .. } => Ok(now),
            Body::File { .. } => Err(Errno::ENOTDIR),
        }
    }

    fn bytes(&mut self, number: u64) -> Result<&mut Vec<u8>, Errno> {
        match &mut self.node(number)?.body {
            Body::File { now, .. } => Ok(now),
            Body::Folder { .. } => Err(Errno::EISDIR),
        }
    }

    fn find(&mut self, folder: u64, name: &OsStr) -> Result<u64, Errno> {
        self.names(folder)?.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn make(&mut self, folder: u64, name: &OsStr, node: Node) -> Result<FileAttr, Errno> {
        if self.find(folder, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.last += 1;
        let number = self.last;
        self.nodes.insert(number, node);
        self.edit(Edit(vec![(folder, name.to_owned(), Some(number))]));
        self.attr(number)
    }

    fn attr(&mut self, number: u64) -> Result<FileAttr, Errno> {
        let node = self.node(number)?;
        let (kind, size) = match &node.body {
            Body::File { now, .. } => (FileType::RegularFile, now.len() as u64),
            Body::Folder { .. } => (FileType::Directory, 0),
        };
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: node.mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        })
    }
}

impl Node {
    fn folder(mode: u32) -> Self {
        let body = Body::Folder {
            now: Names::new(),
            safe: Names::new(),
        };
        Self::of(mode, body)
    }

    fn file(mode: u32) -> Self {
        let body = Body::File {
            now: Vec::new(),
            safe: Vec::new(),
        };
        Self::of(mode, body)
    }

    fn of(mode: u32, body: Body) -> Self {
        Self {
            mode: (mode & 0o7777) as u16,
            handles: 0,
            body,
        }
    }
}

fn change(names: &mut Names, name: OsString, node: Option<u64>) {
    match node {
        Some(node) => names.insert(name, node),
        None => names.remove(&name),
    };
}

/// Makes of a file what is left of it; how many pages were lost.
fn forget_pages(now: &mut Vec<u8>, safe: &[u8], mut dice: Option<&mut Dice>) -> usize {
    let mut is_lost = || dice.as_mut().is_none_or(|dice| dice.below(2) == 0);
    let mut left = now.clone();
    let size = match now.len() != safe.len() && is_lost() {
        true => safe.len(),
        false => now.len(),
    };
    let mut lost = 0;
    for start in (0..now.len()).step_by(PAGE) {
        let page = start..(start + PAGE).min(now.len());
        let mut before = vec![0; page.len()];
        let held = safe.get(start..).unwrap_or(&[]);
        let held = &held[..held.len().min(page.len())];
        before[..held.len()].copy_from_slice(held);
        if left[page.clone()] != before && is_lost() {
            left[page].copy_from_slice(&before);
            lost += 1;
        }
    }
    // What was cut off and is there again has its bytes again.
    left.extend_from_slice(safe.get(left.len()..).unwrap_or(&[]));
    left.resize(size, 0);
    *now = left;
    lost
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! answer {
    ($reply:ident, $outcome:expr, |$value:pat_param| $answer:expr) => {
        match $outcome {
            Ok($value) => $answer,
            Err(error) => $reply.error(error),
        }
    };
}

impl Filesystem for Door {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = lock(&self.0);
        let found = state.find(parent.0, name);
        let found = found.and_then(|number| state.attr(number));
        answer!(reply, found, |attr| reply.entry(&TTL, &attr, Generation(0)))
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, lock(&self.0).attr(ino.0), |attr| reply
            .attr(&TTL, &attr))
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = lock(&self.0);
        let changed = (|| {
            if let Some(mode) = mode {
                state.node(ino.0)?.mode = (mode & 0o7777) as u16;
            }
            if let Some(size) = size {
                state.bytes(ino.0)?.resize(size as usize, 0);
            }
            state.attr(ino.0)
        })();
        answer!(reply, changed, |attr| reply.attr(&TTL, &attr))
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = lock(&self.0).make(parent.0, name, Node::folder(mode));
        answer!(reply, made, |attr| reply.entry(&TTL, &attr, Generation(0)))
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = lock(&self.0);
        let gone = state.find(parent.0, name).map(|_| {
            let edit = Edit(vec![(parent.0, name.to_owned(), None)]);
            state.edit(edit)
        });
        answer!(reply, gone, |()| reply.ok())
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(req, parent, name, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = lock(&self.0);
        let moved = state.find(parent.0, name).map(|node| {
            let gone = (parent.0, name.to_owned(), None);
            let there = (newparent.0, newname.to_owned(), Some(node));
            state.edit(Edit(vec![gone, there]))
        });
        answer!(reply, moved, |()| reply.ok())
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let mut state = lock(&self.0);
        let opened = state.node(ino.0).map(|node| node.handles += 1);
        answer!(reply, opened, |()| reply
            .opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO))
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut node = Node::file(mode);
        node.handles = 1;
        let made = lock(&self.0).make(parent.0, name, node);
        answer!(reply, made, |attr| reply.created(
            &TTL,
            &attr,
            Generation(0),
            FileHandle(0),
            FopenFlags::FOPEN_DIRECT_IO
        ))
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = lock(&self.0);
        answer!(reply, state.bytes(ino.0), |bytes| {
            let start = bytes.len().min(offset as usize);
            let end = bytes.len().min(start + size as usize);
            reply.data(&bytes[start..end])
        })
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = lock(&self.0);
        answer!(reply, state.bytes(ino.0), |bytes| {
            let end = offset as usize + data.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[offset as usize..end].copy_from_slice(data);
            reply.written(data.len() as u32)
        })
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // The plug may have been pulled meanwhile.
        if let Ok(node) = lock(&self.0).node(ino.0) {
            node.handles = node.handles.saturating_sub(1);
        }
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let mut state = lock(&self.0);
        let synced = state.node(ino.0).map(|node| {
            if let Body::File { now, safe } = &mut node.body {
                safe.clone_from(now);
            }
        });
        answer!(reply, synced, |()| reply.ok())
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.0).sync_folder(ino.0);
        reply.ok();
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut state = lock(&self.0);
        let names = match state.names(ino.0) {
            Ok(names) => names.clone(),
            Err(error) => return reply.error(error),
        };
        for (index, (name, number)) in names.iter().enumerate().skip(offset as usize) {
            let kind = state
                .attr(*number)
                .map_or(FileType::RegularFile, |attr| attr.kind);
            if reply.add(INodeNo(*number), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mut state = lock(&self.0);
        answer!(reply, state.bytes(ino.0), |bytes| {
            let end = offset as usize + length as usize;
            if mode & PUNCH_HOLE != 0 {
                let end = end.min(bytes.len());
                bytes[(offset as usize).min(end)..end].fill(0);
            } else if mode & KEEP_SIZE == 0 {
                bytes.resize(bytes.len().max(end), 0);
            }
            reply.ok()
        })
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}

#[test]
fn a_disk_keeps_what_was_synced_and_nothing_else() {
    use std::fs::{self, File};
    use std::io::Write;
    let disk = Disk::new();
    let at = |name: &str| disk.path().join(name);
    let folder = File::open(disk.path()).expect("open the folder");
    let mut kept = File::create(at("kept")).expect("make a file");
    kept.write_all(b"synced").expect("write");
    kept.sync_data().expect("sync");
    folder.sync_all().expect("sync the folder");
    kept.write_all(b", and not").expect("write");
    fs::write(at("nameless"), "synced, but not its name").expect("write");
    File::open(at("nameless"))
        .and_then(|file| file.sync_all())
        .expect("sync");
    drop((kept, folder));
    let lost = disk.pull_the_plug(Loss::Everything);
    assert_eq!((lost.pages, lost.names), (1, 1));
    assert_eq!(fs::read(at("kept")).expect("read"), b"synced");
    let names = fs::read_dir(disk.path()).expect("list").count();
    assert_eq!(names, 1);
    // Of several changes, those up to some moment; of a file, some pages.
    let old = vec![b'o'; 64 * PAGE];
    fs::write(at("pages"), &old).expect("write");
    for file in [at("pages"), disk.path()] {
        File::open(file)
            .and_then(|file| file.sync_all())
            .expect("sync");
    }
    fs::write(at("pages"), vec![b'n'; 64 * PAGE]).expect("write");
    for name in ["a", "b", "c", "d"] {
        File::create(at(name)).expect("make a file");
    }
    fs::rename(at("a"), at("z")).expect("rename");
    disk.pull_the_plug(Loss::Some(5));
    let pages = fs::read(at("pages")).expect("read");
    let new = pages.iter().filter(|byte| **byte == b'n').count() / PAGE;
    assert!((1..64).contains(&new), "{new} of 64 pages");
    let is_there = |name| at(name).exists();
    assert!(!(is_there("a") && is_there("z")), "a rename is whole");
    assert!(is_there("a") || is_there("z") || !is_there("b"), "in order");
}
