//! [`Log`]: the journal's file. It appends events, keeps room for those that must never fail, and
//! rewrites itself when most of it is history.
//!
//! What the events mean is [`Table`]'s business; when to sync is the spool's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::event::{Change, Event};
use super::folder::Folder;
use super::journal::{Journal, MAX_FRAME, Rewritten, append_frame};

/// Space kept on the disk for events that complete or give up what is under way.
const RESERVE: u64 = 256 * 1024;
/// How much is allocated at a time.
const CHUNK: u64 = 1024 * 1024;
/// A journal below this size is not worth a rewrite.
const SMALL: u64 = 1024 * 1024;
/// Beyond this size nothing is appended but what completes or gives up.
const MAX_LEN: u64 = 512 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Log {
    file: Arc<File>,
    id: u64,
    len: u64,
    chain: u32,
    /// Up to where its blocks are known to be allocated.
    allocated: u64,
    /// How long it was when it was last rewritten, or could not be.
    rewritten: u64,
    /// How many events went into it since it was opened.
    appended: u64,
    /// A sync failed: what the file says is not to be trusted on disk before a rewrite.
    doubted: bool,
    /// A new journal's name is not yet durable.
    renamed: bool,
    /// A new data file's name is not.
    created: bool,
}

impl Log {
    /// Goes on after the sound part of a journal.
    pub(super) fn resume(file: File, journal: &Journal) -> io::Result<Self> {
        if file.metadata()?.len() > journal.len {
            file.set_len(journal.len)?;
        }
        Ok(Self {
            file: Arc::new(file),
            id: journal.id,
            len: journal.len,
            chain: journal.chain,
            allocated: 0,
            rewritten: 0,
            appended: 0,
            doubted: false,
            // The process before may have ended before it made sure.
            renamed: true,
            created: true,
        })
    }

    /// Puts a journal in the place of the old one, if any, durably.
    pub(super) fn create(folder: &Folder, content: Rewritten) -> io::Result<Self> {
        let len = content.bytes.len() as u64;
        let written = folder.new_journal().and_then(|file| {
            file.write_all_at(&content.bytes, 0)?;
            let allocated = allocate(&file, len, RESERVE)?;
            file.sync_all()?;
            folder.adopt_journal()?;
            Ok((file, allocated))
        });
        let (file, allocated) = match written {
            Ok(written) => written,
            Err(error) => {
                // It would only take space; the next attempt removes it otherwise.
                let _ = folder.drop_new_journal();
                return Err(error);
            }
        };
        Ok(Self {
            file: Arc::new(file),
            id: content.id,
            len,
            chain: content.chain,
            allocated,
            rewritten: len,
            appended: 0,
            doubted: false,
            renamed: folder.sync().is_err(),
            created: false,
        })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// How many events went into it since it was opened.
    pub(super) fn appended(&self) -> u64 {
        self.appended
    }

    /// Makes sure that an event can be appended without touching the reserve.
    pub(super) fn make_room(&mut self) -> io::Result<()> {
        if self.len > MAX_LEN {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.len + MAX_FRAME as u64 + RESERVE > self.allocated {
            self.allocated = allocate(&self.file, self.len, RESERVE + CHUNK)?;
        }
        Ok(())
    }

    /// Writes an event; it is all there when this returns, or will never have been.
    pub(super) fn append(&mut self, event: &Event) -> io::Result<()> {
        let mut frame = Vec::new();
        let chain = append_frame(&mut frame, self.chain, event);
        // What a failure leaves behind is no frame, and the next one is written over it.
        self.file.write_all_at(&frame, self.len)?;
        self.len += frame.len() as u64;
        self.chain = chain;
        self.appended += 1;
        self.created |= matches!(
            event,
            Event::Changed(_, Change::Created { .. }) | Event::Split(..)
        );
        Ok(())
    }

    /// Whether most of it is history.
    pub(super) fn is_due(&self) -> bool {
        self.len > SMALL && self.len / 2 > self.rewritten
    }

    /// Replaces it by what it adds up to. After a failure it goes on as it was, and is due again
    /// when it has grown.
    pub(super) fn rewrite(&mut self, folder: &Folder, content: Rewritten) -> io::Result<()> {
        match Self::create(folder, content) {
            Ok(new) => {
                let (appended, created) = (self.appended, self.created);
                *self = Self {
                    appended,
                    created,
                    ..new
                };
                Ok(())
            }
            Err(error) => {
                self.rewritten = self.len;
                Err(error)
            }
        }
    }

    /// What must be synced to make durable all that was appended. That is done without holding
    /// the log, so that others go on meanwhile.
    pub(super) fn unsynced(&mut self) -> Unsynced {
        Unsynced {
            file: self.file.clone(),
            appended: self.appended,
            renamed: std::mem::take(&mut self.renamed),
            created: std::mem::take(&mut self.created),
        }
    }

    /// A sync failed. The kernel says so once and forgets it; we do not.
    pub(super) fn doubt(&mut self, unsynced: &Unsynced) {
        self.doubted = true;
        self.renamed |= unsynced.renamed;
        self.created |= unsynced.created;
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted
    }
}

/// A moment of the log.
pub(super) struct Unsynced {
    file: Arc<File>,
    /// How many events had been appended.
    pub(super) appended: u64,
    renamed: bool,
    created: bool,
}

impl Unsynced {
    pub(super) fn sync(&self, folder: &Folder) -> io::Result<()> {
        if self.created {
            folder.sync_data_names()?;
        }
        self.file.sync_data()?;
        if self.renamed {
            folder.sync()?;
        }
        Ok(())
    }
}

/// Allocates `ahead` bytes of disk beyond `len` without changing the file's length; gives up to
/// where that reaches. File systems that cannot do it are believed to have the space.
fn allocate(file: &File, len: u64, ahead: u64) -> io::Result<u64> {
    // Both are bounded by the journal's size, far below an off_t.
    let (from, count) = (len as libc::off_t, ahead as libc::off_t);
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, count) {
        Ok(()) => Ok(len + ahead),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(u64::MAX),
        Err(errno) => Err(errno.into()),
    }
}
