//! Changes to names: make, remove, rename. What is open, what is being written and what is known
//! follows.
//!
//! Must not know the kernel.

use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use super::write::{Draft, Drafts, base_of, blank, now};
use super::{Entry, Error, Fs, Ino, Patience, parse_name};
use crate::cache::Answer;
use crate::proto::{Name, RemotePath};
use crate::remote::{self, Attributes, FileKind, Reserved, Temporary};

impl Fs {
    /// Makes a directory.
    pub fn mkdir(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u16,
        patience: Patience,
    ) -> Result<Entry, Error> {
        self.drafts.spool()?;
        let (name, path) = self.new_path(parent, name, patience)?;
        let deadline = patience.deadline()?;
        let mode = mode & 0o7777;
        let made = self.remote.mkdir(&path, mode, deadline);
        let has_mode = made.map_err(|cause| self.failed(&path, cause))?;
        self.overlay.forget(&path);
        if !has_mode {
            self.overlay_mode(&path, mode);
        }
        let attributes = Attributes {
            kind: FileKind::Directory,
            mode: Some(mode),
            ..blank(now())
        };
        self.appeared(parent, &name, &path, &attributes)
    }

    /// Makes a symbolic link, where the server can.
    pub fn symlink(
        &self,
        parent: Ino,
        name: &[u8],
        target: &[u8],
        patience: Patience,
    ) -> Result<Entry, Error> {
        self.drafts.spool()?;
        let (name, path) = self.new_path(parent, name, patience)?;
        let deadline = patience.deadline()?;
        match self.remote.symlink(target, &path, deadline) {
            Ok(()) => {}
            Err(remote::Error::Unsupported(why)) => return Err(Error::NotPermitted(why)),
            Err(cause) => return Err(self.failed(&path, cause)),
        }
        let attributes = Attributes {
            kind: FileKind::Symlink,
            size: target.len() as u64,
            link_target: Some(target.into()),
            ..blank(now())
        };
        self.appeared(parent, &name, &path, &attributes)
    }

    /// Removes a directory that is empty, but for temporary files that nobody needs.
    pub fn rmdir(&self, parent: Ino, name: &[u8], patience: Patience) -> Result<(), Error> {
        self.drafts.spool()?;
        let (name, path) = self.child_path(parent, name, patience)?;
        let deadline = patience.deadline()?;
        if self.drafts_below([&path]).iter().any(|d| !d.is_unlinked()) {
            return Err(Error::remote(&path, remote::Error::NotEmpty));
        }
        let removed = match self.remote.rmdir(&path, deadline) {
            Err(remote::Error::NotEmpty) if self.sweep(parent, &name, &path, deadline)? => {
                self.remote.rmdir(&path, deadline)
            }
            removed => removed,
        };
        removed.map_err(|cause| self.failed(&path, cause))?;
        self.disappeared(parent, &name, &path, None);
        Ok(())
    }

    /// Removes a file's name. Whoever has it open keeps it.
    pub fn unlink(&self, parent: Ino, name: &[u8], patience: Patience) -> Result<(), Error> {
        self.drafts.spool()?;
        let (name, path) = self.child_path(parent, name, patience)?;
        let deadline = patience.deadline()?;
        let ino = self.inodes.child(parent, &name);
        let draft = ino.and_then(|ino| self.drafts.of(ino));
        let involved: Vec<_> = draft.iter().cloned().collect();
        let places = Drafts::lock_places(&involved, deadline)?;
        self.resolve_doubts(&involved, deadline)?;
        let _leaving = self.arrivals.leave(ino.into_iter(), deadline);
        let _changing = ino.map(|ino| self.files.change(ino));
        let aside = match &draft {
            Some(draft) if !draft.occupies() => None,
            draft => {
                let needed = ino.filter(|ino| {
                    self.files.of(*ino).is_some() && !draft.as_ref().is_some_and(|d| d.keeps_all())
                });
                let aside = needed.map(|_| self.remote.temporaries().beside(&path));
                self.take_away(&path, aside, deadline)?
            }
        };
        self.disappeared(parent, &name, &path, aside);
        // Also one that was begun meanwhile.
        if let Some(draft) = ino.and_then(|ino| self.drafts.of(ino)) {
            draft.unlink()?;
        }
        drop(places);
        if let Some(ino) = ino {
            self.retire(ino);
            self.remove_aside(ino);
        }
        // Else a loss of power would bring back what an earlier upload had made.
        Ok(self.drafts.spool()?.sync()?)
    }

    /// Removes a file from its name on the server; to the name `aside`, where it is still needed
    /// and the server lets us.
    fn take_away(
        &self,
        path: &RemotePath,
        aside: Option<Reserved>,
        deadline: Instant,
    ) -> Result<Option<Reserved>, Error> {
        if let Some(aside) = aside {
            match self.remote.rename(path, aside.path(), deadline) {
                Ok(()) => return Ok(Some(aside)),
                Err(remote::Error::Denied(why)) => log::debug!("{path}: not set aside: {why}"),
                Err(cause) => return Err(self.failed(path, cause)),
            }
        }
        let removed = self.remote.unlink(path, deadline);
        removed.map_err(|cause| self.failed(path, cause))?;
        Ok(None)
    }

    /// Renames; what stands under the new name is replaced, unless `keep`.
    pub fn rename(
        &self,
        (parent, name): (Ino, &[u8]),
        (to_parent, to_name): (Ino, &[u8]),
        keep: bool,
        patience: Patience,
    ) -> Result<(), Error> {
        self.drafts.spool()?;
        let (name, from) = self.child_path(parent, name, patience)?;
        let asked = parse_name(to_name)?;
        let given = to_name;
        let (mut to_name, mut to) = self.new_path(to_parent, to_name, patience)?;
        let respells = from == to && asked != to_name;
        if respells {
            to = self.live_path(to_parent)?.join(&asked);
            to_name = asked;
        }
        let deadline = patience.deadline()?;
        let ticket = self.cache.begin(Instant::now());
        let moved = self.present(parent, &name, &from, patience)?;
        let replaced = match respells {
            true => None,
            false => self.present(to_parent, &to_name, &to, patience)?,
        };
        // An earlier attempt may have done it.
        let is_done = moved.is_none() && self.remote.may_have_renamed(&from, &to);
        let moved = moved.or(replaced.clone().filter(|_| is_done));
        let moved = moved.ok_or_else(|| Error::remote(&from, remote::Error::NotFound))?;
        if keep && replaced.is_some() {
            return Err(Error::AlreadyExists);
        }
        if from == to {
            return Ok(());
        }
        if to.starts_with(&from) {
            return Err(Error::Invalid("a directory cannot go into itself"));
        }
        if let Some(replaced) = &replaced {
            let is_directory = |a: &Attributes| a.kind == FileKind::Directory;
            match (is_directory(&moved), is_directory(replaced)) {
                (true, false) => return Err(Error::remote(&to, remote::Error::NotDirectory)),
                (false, true) => return Err(Error::remote(&to, remote::Error::IsDirectory)),
                _ => {}
            }
        }
        let victim = self.inodes.child(to_parent, &to_name);
        let involved = self.drafts_below([&from, &to]);
        let is_in_the_way = |draft: &Arc<Draft>| {
            let at = self.inodes.path(draft.ino);
            Some(draft.ino) != victim
                && !draft.is_unlinked()
                && at.is_some_and(|at| at.starts_with(&to))
        };
        if involved.iter().any(is_in_the_way) {
            return Err(Error::remote(&to, remote::Error::NotEmpty));
        }
        let places = Drafts::lock_places(&involved, deadline)?;
        // What began to be written while we waited may be on its way to either name.
        let is_new = |draft: &Arc<Draft>| !involved.iter().any(|one| Arc::ptr_eq(one, draft));
        let now = self.drafts_below([&from, &to]);
        if now.iter().any(is_new) {
            drop(places);
            return self.rename(
                (parent, name.as_bytes()),
                (to_parent, given),
                keep,
                patience,
            );
        }
        self.resolve_doubts(&involved, deadline)?;
        let source = self.inodes.child(parent, &name);
        let files = [source, victim].into_iter().flatten();
        let _leaving = self.arrivals.leave(files.clone(), deadline);
        let _changing: Vec<_> = files.map(|ino| self.files.change(ino)).collect();
        let pending = source.and_then(|ino| self.drafts.of(ino));
        let pending = pending.filter(|draft| !draft.occupies());
        let victim_draft = victim.and_then(|ino| self.drafts.of(ino));
        // They may have been uploaded while we waited.
        let moved = match self.cache.is_unchanged_since(ticket, &from) {
            true => moved,
            false => self
                .present(parent, &name, &from, patience)?
                .unwrap_or(moved),
        };
        let replaced = match &victim_draft {
            // A broken upload has made it what nobody knows.
            Some(draft) if draft.is_torn() => Some(blank(UNIX_EPOCH)),
            Some(draft) => Some(draft.server()),
            // Not what has begun to be written of it at this moment.
            None if replaced.is_some() => self.there(&to, patience)?,
            None => None,
        };
        let stands = match &victim_draft {
            Some(draft) => draft.occupies(),
            None => replaced.is_some(),
        };
        let open = victim.filter(|ino| {
            let keeps_all = victim_draft.as_ref().is_some_and(|d| d.keeps_all());
            stands && !is_done && self.files.of(*ino).is_some() && !keeps_all
        });
        let spool = self.drafts.spool()?;
        let (mut replaces, mut set_aside) = (None, None);
        match (&pending, open) {
            // The server has nothing of it yet: it goes there under its new name.
            (Some(_), Some(_)) => {
                let aside = self.remote.temporaries().in_place_of(&to);
                set_aside = self.take_away(&to, Some(aside), deadline)?;
            }
            (Some(draft), None) if stands => {
                // Written under that name, it would go to where the link points.
                let is_link = |found: &Attributes| found.kind == FileKind::Symlink;
                if replaced.as_ref().is_some_and(is_link) {
                    self.take_away(&to, None, deadline)?;
                } else if let Some(replaced) = replaced {
                    replaces = Some(replaced);
                }
            }
            (Some(_), None) => {}
            (None, open) => {
                spool.begin_rename(&from, &to)?;
                self.forget_kept(&from);
                self.forget_kept(&to);
                let renamed = match respells {
                    true => {
                        let respelt = self.remote.respell(&from, &to, deadline);
                        let respelt = respelt.map_err(|cause| self.failed(&to, cause));
                        respelt.map(|()| None)
                    }
                    false => self.rename_there(&from, &to, open.is_some(), deadline),
                };
                match renamed {
                    Ok(aside) => set_aside = aside,
                    Err(error) => {
                        // It may have been done all the same.
                        self.altered(&from);
                        spool.cancel_rename(&from)?;
                        return Err(error);
                    }
                }
            }
        }
        // At once with the name: a crash in between would leave it no file's newer version.
        spool.rename(&from, &to, replaces.as_ref().map(base_of))?;
        if let Some((draft, replaced)) = pending.as_ref().zip(replaces.as_ref()) {
            draft.shows_over(replaced);
        }
        if let Some(aside) = set_aside {
            aside.settle();
            self.inodes.unlink(to_parent, &to_name, Some(aside));
        }
        self.inodes.rename(parent, &name, to_parent, &to_name);
        // Also one that was begun meanwhile.
        if let Some(draft) = victim.and_then(|ino| self.drafts.of(ino)) {
            draft.unlink()?;
        }
        // Before anything of it is sent: what that makes of it is the newer word.
        self.moved(&from, &to, &moved, victim);
        drop(places);
        if let Some(victim) = victim {
            self.remove_aside(victim);
        }
        Ok(spool.sync()?)
    }

    /// Renames on the server. What is open under the new name is set aside before, and where to is told.
    fn rename_there(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        is_open: bool,
        deadline: Instant,
    ) -> Result<Option<Reserved>, Error> {
        if !is_open {
            let renamed = self.remote.rename(from, to, deadline);
            renamed.map_err(|cause| self.failed(to, cause))?;
            return Ok(None);
        }
        let aside = self.remote.temporaries().in_place_of(to);
        let aside = self.take_away(to, Some(aside), deadline)?;
        if let Err(cause) = self.remote.rename(from, to, deadline) {
            if let Some(aside) = &aside
                && let Err(error) = self.remote.rename(aside.path(), to, deadline)
            {
                let aside = aside.path();
                log::error!("{to} could not be put back, it is now {aside}: {error}");
            }
            return Err(self.failed(to, cause));
        }
        Ok(aside)
    }

    /// What is known follows a rename.
    fn moved(&self, from: &RemotePath, to: &RemotePath, moved: &Attributes, victim: Option<Ino>) {
        self.note(from, None);
        self.note(to, Some(moved));
        self.overlay.rename(from, to);
        for file in self.files.all() {
            let path = self.inodes.path(file.ino);
            if Some(file.ino) == victim {
                match path.is_some() || self.drafts.of(file.ino).is_some() {
                    true => file.renew(None),
                    false => file.give_up(),
                }
            } else if path.is_some_and(|path| path.starts_with(to)) {
                file.renew(None);
            }
        }
        if let Some(victim) = victim {
            self.retire(victim);
        }
    }

    /// What there is under a name, as we see it.
    fn present(
        &self,
        parent: Ino,
        name: &Name,
        path: &RemotePath,
        patience: Patience,
    ) -> Result<Option<Attributes>, Error> {
        let draft = self.inodes.child(parent, name);
        let draft = draft.and_then(|ino| self.drafts.of(ino));
        if let Some(attributes) = draft.and_then(|draft| draft.attributes().ok()) {
            return Ok(Some(attributes));
        }
        self.there(path, patience)
    }

    /// What there is under a name on the server.
    fn there(&self, path: &RemotePath, patience: Patience) -> Result<Option<Attributes>, Error> {
        match self.stat(path, patience)? {
            Answer::Present(attributes, _) => Ok(Some(attributes)),
            Answer::Absent(_) => Ok(None),
            Answer::Unknown => Err(Error::WouldWait),
        }
    }

    /// The drafts of files at or below these paths.
    fn drafts_below<const N: usize>(&self, paths: [&RemotePath; N]) -> Vec<Arc<Draft>> {
        let mut drafts = self.drafts.all();
        drafts.retain(|draft| {
            let at = self.inodes.path(draft.ino);
            at.is_some_and(|at| paths.iter().any(|path| at.starts_with(path)))
        });
        drafts
    }

    /// The same for a name that is to be given: one of our own temporary names would not be seen.
    fn new_path(
        &self,
        parent: Ino,
        name: &[u8],
        patience: Patience,
    ) -> Result<(Name, RemotePath), Error> {
        let (name, path) = self.child_path(parent, name, patience)?;
        match Temporary::parse(&name) {
            Some(_) => Err(Error::InvalidName),
            None => Ok((name, path)),
        }
    }

    /// A name as its directory spells it, and its path.
    fn child_path(
        &self,
        parent: Ino,
        name: &[u8],
        patience: Patience,
    ) -> Result<(Name, RemotePath), Error> {
        let name = self.spelling(parent, parse_name(name)?, patience)?;
        let path = self.live_path(parent)?.join(&name);
        Ok((name, path))
    }

    /// We have made something under a name. Counts as a lookup.
    fn appeared(
        &self,
        parent: Ino,
        name: &Name,
        path: &RemotePath,
        attributes: &Attributes,
    ) -> Result<Entry, Error> {
        self.note(path, Some(attributes));
        let asked = self.files.ask();
        self.enter(parent, name, attributes, self.config.attr_timeout, asked)
    }

    /// We have removed a name.
    fn disappeared(&self, parent: Ino, name: &Name, path: &RemotePath, aside: Option<Reserved>) {
        let ino = self.inodes.child(parent, name);
        self.inodes.unlink(parent, name, aside);
        self.note(path, None);
        self.overlay.forget(path);
        if let Some(file) = ino.and_then(|ino| self.files.of(ino)) {
            file.renew(None);
        }
    }

    /// A change failed: what was known of the path may have been wrong.
    fn failed(&self, path: &RemotePath, cause: remote::Error) -> Error {
        self.altered(path);
        Error::remote(path, cause)
    }
}
