//! Changing a file's attributes: size, permission bits, owner, time. What the server cannot keep
//! is shown for the life of the mount, or refused (`attrs=strict`).
//!
//! Must not know the kernel.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::files::Changing;
use super::spool::SpoolError;
use super::write::{Draft, whole};
use super::{Attr, Error, Fs, Ino, Patience, attr};
use crate::cache::Ticket;
use crate::proto::RemotePath;
use crate::remote::{self, Attributes, FileKind};

/// What to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Bytes.
    pub size: Option<u64>,
    /// Permission bits, 0o7777.
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub modified: Option<SystemTime>,
    /// A handle is open for writing: what is cut through it is uploaded when that is closed.
    pub through_handle: bool,
}

impl Fs {
    /// Changes attributes, and gives what they are then.
    pub fn setattr(
        &self,
        ino: Ino,
        changes: Changes,
        patience: Patience,
    ) -> Result<(Attr, Duration), Error> {
        self.drafts.spool()?;
        // Where bytes are to be sent the caller has all the time in the world, but not for a reply.
        let soon = || patience.within(self.config.timeout);
        let arrival = self.arrivals.arrive(ino, soon())?;
        let ticket = self.cache.begin(Instant::now());
        let (before, _) = self.attributes(ino, soon())?;
        // Whoever takes its name may be waited for by an upload.
        let _arrival = (changes.size.is_none() && !self.config.strict).then_some(arrival);
        let draft = self.drafts.of(ino).filter(|draft| !draft.is_over());
        let local = match changes.size {
            Some(_) => changes.through_handle,
            None => draft.is_some() && !self.config.strict,
        };
        let is_owner_only = changes.size.is_none() && changes.mode.is_none();
        // What was promised is promised with its attributes.
        let is_promised = self.config.write_back
            && (changes.mode.is_some() || changes.modified.is_some())
            && draft.is_some_and(|draft| draft.is_owed());
        let is_local = local || is_owner_only && changes.modified.is_none();
        if is_promised || !is_local {
            patience.deadline()?;
        }
        self.change_owner(ino, &before, changes)?;
        if let Some(size) = changes.size {
            self.resize(ino, size, &before, (ticket, soon()), changes.through_handle)?;
        }
        if let Some(mode) = changes.mode {
            self.change_mode(ino, mode, soon())?;
        }
        if let Some(modified) = changes.modified {
            self.change_time(ino, modified, soon())?;
        }
        if is_promised {
            self.drafts.spool()?.sync()?;
        }
        self.getattr(ino, soon())
    }

    fn resize(
        &self,
        ino: Ino,
        size: u64,
        before: &Attributes,
        (ticket, patience): (Ticket, Patience),
        through_handle: bool,
    ) -> Result<(), Error> {
        match before.kind {
            FileKind::File => {}
            FileKind::Directory => {
                let path = self.live_path(ino)?;
                return Err(Error::remote(&path, remote::Error::IsDirectory));
            }
            FileKind::Symlink | FileKind::Other => return Err(Error::NotAFile),
        }
        let cut = || {
            let path = self.inodes.path(ino);
            let is_old = path.is_some_and(|path| !self.cache.is_unchanged_since(ticket, &path));
            match is_old {
                true => self.cut(ino, size, &self.attributes(ino, patience)?.0),
                false => self.cut(ino, size, before),
            }
        };
        if through_handle {
            return cut();
        }
        // Nobody will close it: it is uploaded at once. Counted as a writer meanwhile, it stays.
        self.drafts.join(ino);
        let cut = cut();
        let sent = match self.drafts.of(ino) {
            Some(draft) if cut.is_ok() => self.deliver(&draft),
            _ => Ok(()),
        };
        self.drafts.leave(ino);
        self.retire(ino);
        cut.and(sent)
    }

    fn change_mode(&self, ino: Ino, mode: u16, patience: Patience) -> Result<(), Error> {
        let mode = mode & 0o7777;
        let Some(_changing) = self.take_along(ino, |draft| draft.set_mode(mode))? else {
            if let Some(path) = self.inodes.path(ino) {
                self.overlay.drop_mode(&path);
            }
            return Ok(());
        };
        let (before, _) = self.attributes(ino, patience)?;
        if before.kind == FileKind::Symlink {
            return Ok(());
        }
        let path = self.live_path(ino)?;
        match self.remote.set_mode(&path, mode, patience.deadline()?) {
            Ok(()) => {
                self.overlay.drop_mode(&path);
                self.changed_there(ino, |attributes| attributes.mode = Some(mode), &before);
                Ok(())
            }
            Err(cause) => {
                self.accept(&path, cause)?;
                self.overlay_mode(&path, mode);
                Ok(())
            }
        }
    }

    fn change_time(&self, ino: Ino, modified: SystemTime, patience: Patience) -> Result<(), Error> {
        let modified = whole(modified);
        let Some(_changing) = self.take_along(ino, |draft| draft.set_modified(modified))? else {
            return Ok(());
        };
        let (before, _) = self.attributes(ino, patience)?;
        let path = self.live_path(ino)?;
        // A link's own time cannot be named: the command would change what it points to.
        let set = match before.kind {
            FileKind::Symlink => Err(remote::Error::Unsupported("the time of a link".into())),
            _ => self
                .remote
                .set_modified(&path, modified, patience.deadline()?),
        };
        match set {
            Ok(()) => {
                self.changed_there(ino, |attributes| attributes.mtime = modified, &before);
                Ok(())
            }
            Err(cause) => {
                self.accept(&path, cause)?;
                self.tell_once("times");
                // Of a directory that we made, the server's time is not known.
                let guessed = before.kind == FileKind::Directory;
                self.overlay
                    .set_time(&path, modified, before.mtime, guessed);
                Ok(())
            }
        }
    }

    fn change_owner(&self, ino: Ino, before: &Attributes, changes: Changes) -> Result<(), Error> {
        let shown = self.show(ino, before);
        let uid = changes.uid.filter(|uid| *uid != shown.uid);
        let gid = changes.gid.filter(|gid| *gid != shown.gid);
        if uid.is_none() && gid.is_none() {
            return Ok(());
        }
        if self.config.strict {
            return Err(Error::NotPermitted("FTP has no owners to change".into()));
        }
        self.tell_once("owners");
        if let Some(path) = self.inodes.path(ino) {
            self.overlay.set_owner(&path, uid, gid);
        }
        Ok(())
    }

    /// Has a change go to the server along with what was written; `None` where it will. Else the server is to be
    /// told: what was written is there, and nothing is sent while this is held.
    fn take_along(
        &self,
        ino: Ino,
        set: impl Fn(&Draft) -> Result<(), SpoolError>,
    ) -> Result<Option<Changing<'_>>, Error> {
        loop {
            if let Some(draft) = self.pending(ino)? {
                match set(&draft) {
                    // It was uploaded at this moment.
                    Err(SpoolError::Gone) => {}
                    set => return Ok(set.map(|()| None)?),
                }
            }
            let changing = self.files.change(ino);
            if self.drafts.of(ino).is_none_or(|draft| draft.is_clean()) {
                return Ok(Some(changing));
            }
        }
    }

    /// The draft that is to take the change along. Under `attrs=strict` it is uploaded first, so
    /// that the server's word is heard now.
    fn pending(&self, ino: Ino) -> Result<Option<Arc<Draft>>, Error> {
        let Some(draft) = self
            .drafts
            .of(ino)
            .filter(|draft| !draft.is_clean() || draft.is_unlinked())
        else {
            return Ok(None);
        };
        if self.config.strict && !draft.is_unlinked() {
            self.upload(&draft)?;
            return Ok(None);
        }
        Ok(Some(draft))
    }

    /// The server has taken a change: what is known of the file follows.
    pub(super) fn changed_there(
        &self,
        ino: Ino,
        change: impl FnOnce(&mut Attributes),
        before: &Attributes,
    ) {
        let draft = self.drafts.of(ino);
        let mut attributes = draft.map_or_else(|| before.clone(), |draft| draft.server());
        change(&mut attributes);
        if let Some(path) = self.inodes.path(ino) {
            match attributes.kind {
                FileKind::File => self.made(ino, &path, &attributes),
                _ => self.note(&path, Some(&attributes)),
            }
        }
        // One that began meanwhile is based on what was known before. What was closed since is owed still.
        if let Some(draft) = self.drafts.of(ino) {
            let base = super::write::base_of(&attributes);
            let uploaded = draft.file.with(|record| record.uploaded);
            let told = uploaded.and_then(|version| draft.file.mark_uploaded(version, base));
            if let Err(error) = told {
                log::debug!("inode {}: {error}", ino.0);
            }
            draft.settle(&attributes, None);
        }
    }

    /// Whether to go on although the server cannot keep an attribute.
    fn accept(&self, path: &RemotePath, cause: remote::Error) -> Result<(), Error> {
        match cause {
            remote::Error::Unsupported(why) | remote::Error::Denied(why) => {
                if self.config.strict {
                    return Err(Error::NotPermitted(why));
                }
                log::debug!("{path}: {why}");
                Ok(())
            }
            cause => Err(Error::remote(path, cause)),
        }
    }

    /// The server did not take the mode that a file was made with or wanted since. Too late to
    /// refuse it: `attrs=strict` shows what the server has.
    pub(super) fn overlay_mode(&self, path: &RemotePath, mode: u16) {
        if !self.config.strict {
            self.tell_once("permission bits");
            self.overlay.set_mode(path, mode);
        }
    }

    /// The same of a time, in place of which the server has another.
    pub(super) fn overlay_time(&self, path: &RemotePath, time: SystemTime, instead: SystemTime) {
        if !self.config.strict {
            self.tell_once("times");
            self.overlay.set_time(path, time, instead, false);
        }
    }

    /// What stat shows.
    pub(super) fn show(&self, ino: Ino, attributes: &Attributes) -> Attr {
        let mut attr = attr::show(&self.config, ino, attributes);
        if self.inodes.is_unlinked(ino) {
            attr.links = 0;
        }
        if !self.overlay.is_empty()
            && let Some(path) = self.inodes.path(ino)
        {
            self.overlay.apply(&path, &mut attr);
        }
        attr
    }

    fn tell_once(&self, what: &'static str) {
        if self.told.lock().insert(what) {
            log::warn!(
                "the server cannot keep some {what} that programs set: shown as wished until \
                 unmounted (attrs=strict refuses them)"
            );
        }
    }
}
