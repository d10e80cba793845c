//! What programs do to an open file's content: create, open, write, read back, cut, flush, release.
//!
//! Must not know the kernel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::files::OpenFile;
use super::super::read::{Data, Failure, Reader, Target};
use super::super::spool::{Method, SpoolError};
use super::super::{Entry, Error, Fs, Ino, Opened, Patience, parse_name};
use super::upload::Extent;
use super::{Draft, blank, now};
use crate::remote::{self, Attributes, FileKind, Temporary, Version};

/// How often, and after which pause, a read looks again where the server has another file than the
/// one that the draft is based on.
const LOOKS: usize = 20;
const LOOK: Duration = Duration::from_millis(50);

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    pub write: bool,
    /// Its content is thrown away.
    pub truncate: bool,
    /// Every write goes behind the last byte.
    pub append: bool,
    /// It must not exist yet; only where a file is created.
    pub exclusive: bool,
}

/// What is left to do after a release, by somebody who can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftover {
    ino: Ino,
    upload: Option<Extent>,
}

/// What came of opening a file.
enum Tried {
    Opened(Opened),
    /// We changed the file ourselves while it was being opened: what was known of it then is old.
    Again(u64),
}

impl Fs {
    /// Makes a file and opens it for writing; where there is one already it is opened.
    pub fn create(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u16,
        access: Access,
        patience: Patience,
    ) -> Result<(Entry, Opened), Error> {
        self.drafts.spool()?;
        let access = Access {
            write: true,
            ..access
        };
        loop {
            let entry = match self.find_child(parent, name, patience)? {
                Some(found) if access.exclusive => {
                    self.forget(found.attr.ino, 1);
                    return Err(Error::AlreadyExists);
                }
                Some(found) => found,
                None => self.begin_new(parent, name, mode)?,
            };
            let ino = entry.attr.ino;
            let undo = |error| {
                self.forget(ino, 1);
                error
            };
            match self.open(ino, access, patience).map_err(undo) {
                // Removed since it was found.
                Err(error) if error.is_stale() && Instant::now() < patience.deadline()? => {}
                opened => {
                    let opened = opened?;
                    let (attr, ttl) = self.getattr(ino, patience).map_err(undo)?;
                    return Ok((Entry { attr, ttl }, opened));
                }
            }
        }
    }

    /// Makes an empty file on the server.
    pub fn mknod(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u16,
        patience: Patience,
    ) -> Result<Entry, Error> {
        self.drafts.spool()?;
        patience.deadline()?;
        if let Some(found) = self.find_child(parent, name, patience)? {
            self.forget(found.attr.ino, 1);
            return Err(Error::AlreadyExists);
        }
        let entry = self.begin_new(parent, name, mode)?;
        let ino = entry.attr.ino;
        let made = self.deliver_now(ino);
        match made.and_then(|()| self.getattr(ino, patience)) {
            Ok((attr, ttl)) => Ok(Entry { attr, ttl }),
            Err(error) => {
                self.unmake(parent, name, ino);
                Err(error)
            }
        }
    }

    /// A file that is not on the server yet. Counts as one lookup.
    fn begin_new(&self, parent: Ino, name: &[u8], mode: u16) -> Result<Entry, Error> {
        let name = parse_name(name)?;
        if Temporary::parse(&name).is_some() {
            return Err(Error::InvalidName);
        }
        let path = self.live_path(parent)?.join(&name);
        let attributes = Attributes {
            mode: Some(mode & 0o7777),
            ..blank(now())
        };
        let ino = self.inodes.enter(parent, &name, &attributes);
        let ino = ino.ok_or(Error::Stale)?;
        self.overlay.forget(&path);
        let undo = |error| {
            self.forget(ino, 1);
            error
        };
        let (_, begun) = self
            .drafts
            .begin(ino, &path, true, || attributes.clone())
            .map_err(undo)?;
        if begun {
            self.hold(ino)?;
        }
        self.note(&path, Some(&attributes));
        let (attr, ttl) = self.getattr(ino, Patience::MemoryOnly).map_err(undo)?;
        Ok(Entry { attr, ttl })
    }

    /// Takes back a file that could not be made.
    fn unmake(&self, parent: Ino, name: &[u8], ino: Ino) {
        if let Some(draft) = self.drafts.of(ino)
            && draft.unlink().is_ok()
            && self.drafts.retire(ino, || false)
        {
            self.forget(ino, 1);
        }
        if let Ok(name) = parse_name(name) {
            if let Some(directory) = self.inodes.path(parent) {
                self.altered(&directory.join(&name));
            }
            self.inodes.unlink(parent, &name, None);
        }
        self.forget(ino, 1);
    }

    /// Opens a file.
    pub fn open(&self, ino: Ino, access: Access, patience: Patience) -> Result<Opened, Error> {
        if access.write || access.truncate {
            self.drafts.spool()?;
        }
        let mut before = None;
        loop {
            let opened = match self.try_open(ino, access, patience) {
                // Until the next is open, that one keeps the file.
                Ok(Tried::Again(handle)) => Err(handle),
                Ok(Tried::Opened(opened)) => Ok(Ok(opened)),
                Err(error) => Ok(Err(error)),
            };
            if let Some(handle) = before.take() {
                self.close_at_once(handle);
            }
            match opened {
                Ok(opened) => return opened,
                Err(handle) => before = Some(handle),
            }
        }
    }

    fn try_open(&self, ino: Ino, access: Access, patience: Patience) -> Result<Tried, Error> {
        let arrival = self.arrivals.arrive(ino, patience)?;
        let draft = self.drafts.of(ino);
        let asked = self.files.ask();
        if access.append && draft.is_none() {
            // What others have appended meanwhile must be known.
            patience.deadline()?;
            self.cache.changed(&self.live_path(ino)?);
        }
        let ticket = self.cache.begin(Instant::now());
        let may_part = self.passes() && !self.inodes.is_unlinked(ino);
        let (attributes, _) = self.attributes(ino, patience)?;
        if may_part && self.inodes.is_unlinked(ino) {
            // Its name is another's (`Fs::parts`).
            return Err(Error::Stale);
        }
        match attributes.kind {
            FileKind::File => {}
            FileKind::Directory => {
                let path = self.live_path(ino)?;
                return Err(Error::remote(&path, remote::Error::IsDirectory));
            }
            FileKind::Symlink | FileKind::Other => return Err(Error::NotAFile),
        }
        self.hold(ino)?;
        let reader = || Reader::new(&self.reads);
        // Of a file being written it is the draft that tells, not the server.
        let is_server = draft.is_none() && self.drafts.of(ino).is_none();
        let asked = is_server.then_some(asked);
        let handle = self
            .files
            .open(ino, &attributes, access.write, asked, reader);
        drop(arrival);
        if self.is_gone(ino) {
            self.close_at_once(handle);
            return Err(Error::Stale);
        }
        if access.write {
            // From here on no draft of it ends.
            self.drafts.join(ino);
        }
        if let Some(path) = self.inodes.path(ino)
            && !self.cache.is_unchanged_since(ticket, &path)
        {
            return Ok(Tried::Again(handle));
        }
        if access.truncate
            && let Err(error) = self.cut(ino, 0, &attributes)
        {
            self.close_at_once(handle);
            return Err(error);
        }
        let stamp = match access.truncate {
            true => (0, now()),
            false => (attributes.size, attributes.mtime),
        };
        if !access.truncate {
            self.grown(ino, attributes.size);
        }
        let keep_cache = self.inodes.caches(ino, stamp);
        if keep_cache && let Some(file) = self.files.file(handle) {
            file.show();
        }
        Ok(Tried::Opened(Opened {
            handle,
            keep_cache,
            backing: self.backing(ino, &attributes),
        }))
    }

    /// Whether a file lost its name and what is left of it, if anything, is not all of it.
    fn is_gone(&self, ino: Ino) -> bool {
        let is_kept = self.drafts.of(ino).is_some_and(|draft| draft.is_whole());
        !is_kept && self.inodes.path(ino).is_none() && self.passed(ino).is_none()
    }

    /// Closes a handle that its caller will not see.
    pub fn close_at_once(&self, handle: u64) {
        if let Some(leftover) = self.release(handle) {
            self.finish(leftover);
        }
    }

    /// Writes to an open file: into the spool, so it never waits for the server.
    pub fn write(
        &self,
        handle: u64,
        bytes: &[u8],
        offset: u64,
        append: bool,
    ) -> Result<usize, Error> {
        let file = self.files.file(handle).ok_or(Error::Stale)?;
        let draft = self.draft(file.ino, || file.attributes())?;
        let written = match append {
            true => draft.append(bytes),
            false => draft.write(bytes, offset),
        }?;
        self.send_ahead(&draft)?;
        Ok(written)
    }

    /// Makes sure that an open file is at least `size` bytes long.
    pub fn allocate(&self, handle: u64, size: u64) -> Result<(), Error> {
        let file = self.files.file(handle).ok_or(Error::Stale)?;
        let draft = self.draft(file.ino, || file.attributes())?;
        if draft.file.size()? < size {
            draft.truncate(size)?;
        }
        Ok(())
    }

    /// Makes a file `size` bytes long, in the spool; `found` is what is known of it, unless it is open.
    pub(in crate::fs) fn cut(&self, ino: Ino, size: u64, found: &Attributes) -> Result<(), Error> {
        let draft = self.draft(ino, || match self.files.of(ino) {
            Some(file) => file.attributes(),
            None => found.clone(),
        })?;
        Ok(draft.truncate(size)?)
    }

    /// The draft of a file that is open, or about to be cut; begun where there is none, upon what
    /// was found on the server.
    fn draft(&self, ino: Ino, found: impl FnOnce() -> Attributes) -> Result<Arc<Draft>, Error> {
        if let Some(draft) = self.drafts.of(ino) {
            return Ok(draft);
        }
        let path = self.live_path(ino)?;
        let begun = self.drafts.begin(ino, &path, false, found)?;
        let (draft, is_new) = begun;
        if is_new {
            if let Some(file) = self.files.of(ino) {
                file.reader.stop_far();
            }
            self.forget_kept(&path);
            self.hold(ino)?;
            if self.inodes.is_unlinked(ino) {
                draft.unlink()?;
            }
        }
        Ok(draft)
    }

    /// Reads from a draft: what was written, and beside it what the server has.
    pub(in crate::fs) fn read_draft(
        &self,
        file: &OpenFile,
        draft: &Draft,
        offset: u64,
        len: usize,
        patience: Patience,
    ) -> Result<Data, Error> {
        let (mut there, mut looks) = (None, 0);
        loop {
            let mut bytes = vec![0; len];
            match draft.file.read_at(&mut bytes, offset) {
                Ok(read) => {
                    bytes.truncate(read);
                    return Ok(bytes.into());
                }
                Err(SpoolError::Missing(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let epoch = file.epoch();
            match self.read_around(file, draft, offset, len, (epoch, there), patience) {
                Err(Failure::WouldWait) => return Err(Error::WouldWait),
                Err(Failure::TimedOut) => return Err(Error::TimedOut),
                // It was uploaded or renamed meanwhile.
                Err(Failure::Remote(_)) if file.epoch() != epoch => {}
                Err(Failure::Remote(remote::Error::NotFound | remote::Error::Denied(_)))
                    if self.was_changed(file, epoch, patience)? => {}
                Err(Failure::Remote(remote::Error::Changed)) if looks < LOOKS => {
                    looks += 1;
                    there = self.halfway(file, draft, patience)?;
                }
                Err(Failure::Remote(cause)) => {
                    let path = self.live_path(file.ino)?;
                    return Err(Error::remote(&path, cause));
                }
                Ok(Some(bytes)) => return Ok(bytes.into()),
                Ok(None) => {}
            }
        }
    }

    /// What the server has is not what the draft is based on: perhaps because the draft is being
    /// sent just now, or was. The version that the server has halfway, in which what only it has is
    /// still as it was.
    fn halfway(
        &self,
        file: &OpenFile,
        draft: &Draft,
        patience: Patience,
    ) -> Result<Option<Version>, Error> {
        let deadline = patience.deadline()?;
        std::thread::sleep(LOOK);
        file.reader.close();
        let (base, torn) = draft
            .file
            .with(|record| (record.base, record.torn.clone()))?;
        let Some(base) = base else { return Ok(None) };
        let path = self.live_path(file.ino)?;
        let look = || self.remote.stat(&path, Some(&draft.server()), deadline);
        let found = match torn {
            Some(Method::InPlace) => look().ok().filter(|found| found.size == base.size),
            Some(Method::Append(_)) => look().ok().filter(|found| found.size >= base.size),
            _ => None,
        };
        Ok(found.map(|found| found.version()))
    }

    /// A read of which the spool has only a part; `None` where that changed meanwhile. `there`: the
    /// version that the server has, where that is not the one that the draft is based on.
    fn read_around(
        &self,
        file: &OpenFile,
        draft: &Draft,
        offset: u64,
        len: usize,
        (epoch, there): (u64, Option<Version>),
        patience: Patience,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let lost = |error: SpoolError| match error {
            // The draft has ended meanwhile, which the caller finds out.
            SpoolError::Gone => Failure::Remote(remote::Error::Changed),
            error => Failure::Remote(remote::Error::Failed(error.to_string())),
        };
        let gone = || Failure::Remote(remote::Error::NotFound);
        let size = draft.file.size().map_err(lost)?;
        let end = size.min(offset.saturating_add(len as u64));
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap_or(0)];
        let (missing, base) = draft.missing(offset..end).map_err(lost)?;
        let target = Target {
            path: self.inodes.path(file.ino).ok_or_else(gone)?,
            version: there.unwrap_or(base),
            epoch,
            proof: None,
            edition: None,
        };
        let at = |place: u64| usize::try_from(place - offset).unwrap_or(usize::MAX);
        let mut here = offset;
        for gap in missing.iter().cloned().chain(std::iter::once(end..end)) {
            let part = &mut bytes[at(here)..at(gap.start)];
            if !part.is_empty() {
                match draft.file.read_at(part, here) {
                    Ok(read) if read == part.len() => {}
                    Ok(_) | Err(SpoolError::Missing(_)) => return Ok(None),
                    Err(error) => return Err(lost(error)),
                }
            }
            here = gap.start;
            while here < gap.end {
                let wanted = at(gap.end) - at(here);
                let deadline = patience.deadline().ok();
                let data = file
                    .reader
                    .read(&target, here, wanted, file.handles(), deadline)?;
                if data.is_empty() {
                    return Err(Failure::Remote(remote::Error::Changed));
                }
                bytes[at(here)..][..data.len()].copy_from_slice(&data);
                here += data.len() as u64;
            }
        }
        Ok((file.epoch() == epoch).then_some(bytes))
    }

    /// close(2): has everything that was written to an open file on the server when it comes back,
    /// or safe on the local disk where later is soon enough.
    pub fn flush(&self, handle: u64, patience: Patience) -> Result<(), Error> {
        match self.unsent(handle)? {
            Some(draft) => {
                patience.deadline()?;
                self.deliver(&draft)
            }
            None => Ok(()),
        }
    }

    /// fsync(2): has everything on the server when it comes back.
    pub fn fsync(&self, handle: u64, patience: Patience) -> Result<(), Error> {
        match self.unsent(handle)? {
            Some(draft) => {
                patience.deadline()?;
                self.upload(&draft)
            }
            None => Ok(()),
        }
    }

    /// The draft of an open file that the server lacks something of.
    fn unsent(&self, handle: u64) -> Result<Option<Arc<Draft>>, Error> {
        let file = self.files.file(handle).ok_or(Error::Stale)?;
        Ok(self.drafts.of(file.ino).filter(|draft| !draft.is_over()))
    }

    /// Uploads a draft, or promises to.
    pub(in crate::fs) fn deliver(&self, draft: &Draft) -> Result<(), Error> {
        match self.config.write_back {
            true => self.promise(draft),
            false => self.upload(draft),
        }
    }

    /// Delivers a file that is not open for writing, and ends its draft.
    fn deliver_now(&self, ino: Ino) -> Result<(), Error> {
        let outcome = match self.drafts.of(ino) {
            Some(draft) => self.deliver(&draft),
            None => Ok(()),
        };
        self.retire(ino);
        outcome
    }

    /// Uploads a file that is not open for writing, and ends its draft.
    pub(in crate::fs) fn upload_now(&self, ino: Ino) -> Result<(), Error> {
        let outcome = match self.drafts.of(ino) {
            Some(draft) => self.upload(&draft),
            None => Ok(()),
        };
        self.retire(ino);
        outcome
    }

    /// Ends a handle. What is left to do may have to wait for the server.
    pub fn release(&self, handle: u64) -> Option<Leftover> {
        let closed = self.files.close(handle)?;
        let ino = closed.ino;
        let mut upload = None;
        if closed.writer
            && let Some(draft) = self.drafts.leave(ino)
            && !draft.is_over()
        {
            let is_closed = draft.file.with(|record| !record.changed).unwrap_or(false);
            upload = Some(match self.config.write_back && is_closed {
                true => Extent::Closed,
                false => Extent::Everything,
            });
        }
        if upload.is_none() {
            self.retire(ino);
        }
        let aside = closed.last && self.inodes.aside(ino).is_some();
        if upload.is_some() || aside {
            self.leftovers.begin();
            return Some(Leftover { ino, upload });
        }
        self.inodes.forget(ino, 1);
        None
    }

    /// Does what a release left to do.
    pub fn finish(&self, leftover: Leftover) {
        let Leftover { ino, upload } = leftover;
        // Who has opened it since uploads it when done: what it holds meanwhile may be half of that.
        // It may be opened at this moment as well, so what is closed already is not closed again.
        let delivered = match upload {
            Some(Extent::Closed) => {
                self.send_later(ino);
                Ok(())
            }
            Some(Extent::Everything) if !self.drafts.is_open(ino) => self.deliver_now(ino),
            Some(Extent::Everything) | None => Ok(()),
        };
        if let Err(error) = delivered {
            log::warn!("upload after the last close: {error}");
        }
        self.remove_aside(ino);
        self.drop_leftover(leftover);
    }

    /// Removes a file that was set aside for those who had it open, once nobody has.
    pub(in crate::fs) fn remove_aside(&self, ino: Ino) {
        if self.inodes.aside(ino).is_none() {
            return;
        }
        let end = Instant::now() + self.config.timeout;
        let _leaving = self.arrivals.leave([ino].into_iter(), end);
        if let Some(aside) = self.inodes.aside(ino)
            && self.files.of(ino).is_none()
        {
            match self
                .remote
                .unlink(&aside, Instant::now() + self.config.timeout)
            {
                Ok(()) | Err(remote::Error::NotFound) => self.inodes.vanish(ino),
                Err(error) => log::warn!("{aside} stays on the server: {error}"),
            }
        }
    }

    /// Nobody can do it: what was written stays in the spool.
    pub fn drop_leftover(&self, leftover: Leftover) {
        self.inodes.forget(leftover.ino, 1);
        self.leftovers.end();
    }

    /// Ends a draft, where it is over; what has no name is kept for those who read it.
    pub(in crate::fs) fn retire(&self, ino: Ino) {
        let is_read = || self.inodes.is_unlinked(ino) && self.files.of(ino).is_some();
        if self.drafts.retire(ino, is_read) {
            // The draft's own hold.
            self.inodes.forget(ino, 1);
        }
    }

    /// Looks for a child, and counts a lookup of it.
    fn find_child(
        &self,
        parent: Ino,
        name: &[u8],
        patience: Patience,
    ) -> Result<Option<Entry>, Error> {
        let name = self.spelling(parent, parse_name(name)?, patience)?;
        match self.find_spelt(parent, &name, patience)? {
            super::super::Lookup::Found(entry) => Ok(Some(entry)),
            super::super::Lookup::Absent(_) => Ok(None),
        }
    }
}
