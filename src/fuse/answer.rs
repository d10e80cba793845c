//! What [`crate::fs`] says, in fuser's types. Must not know how it came about.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{Errno, FileAttr, FileType, Generation, INodeNo, ReplyDirectoryPlus, ReplyEntry};

use crate::fs::{Attr, BLOCK_SIZE, Ino, Lookup, Names};
use crate::remote::FileKind;

pub(super) fn answer_lookup(reply: ReplyEntry, lookup: Lookup) {
    match lookup {
        Lookup::Found(entry) => {
            reply.entry(&entry.ttl, &file_attr(&entry.attr), Generation(0));
        }
        Lookup::Absent(Duration::ZERO) => reply.error(Errno::ENOENT),
        Lookup::Absent(ttl) => {
            // An entry with inode number 0 is an absence that the kernel may remember.
            let nothing = file_attr(&Attr::bare(Ino(0), FileKind::File));
            reply.entry(&ttl, &nothing, Generation(0));
        }
    }
}

pub(super) fn answer_readdirplus(mut reply: ReplyDirectoryPlus, names: Names) {
    names.each_plus(|listed, entry| {
        let (attr, ttl) = match entry {
            Some(entry) => (entry.attr, entry.ttl),
            // The kernel takes only the number and the type of `.` and `..`.
            None => (Attr::bare(listed.ino, listed.kind), Duration::ZERO),
        };
        let (ino, name) = (INodeNo(listed.ino.0), OsStr::from_bytes(listed.name));
        let attr = file_attr(&attr);
        reply.add(ino, listed.next, name, &ttl, &attr, Generation(0))
    });
    reply.ok();
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.time,
        mtime: attr.time,
        ctime: attr.time,
        crtime: attr.time,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        // Of the special files the one that nothing here mistakes for its own: opening it is ENXIO.
        FileKind::Other => FileType::Socket,
    }
}
