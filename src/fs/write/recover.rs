//! What an earlier mount left in the spool: it is sent now, unless that would overwrite what others
//! have made of the file since, or nobody ever asked for it to be sent.
//!
//! Must not know the kernel.

use std::time::{Instant, SystemTime};

use super::super::spool::{Method, Record, SpoolFile};
use super::super::{Error, Fs, Ino};
use super::{Draft, version_of};
use crate::cache::Answer;
use crate::fs::Patience;
use crate::proto::{Name, RemotePath};
use crate::remote::{Attributes, FileKind};

impl Fs {
    /// Sends what an earlier run left, one after the other; what cannot be sent is named in the log
    /// and stays.
    pub fn take_over(&self, records: Vec<Record>) {
        for record in records {
            self.leftovers.begin();
            if let Err(why) = self.resend(&record, false) {
                log::warn!(
                    "{}: written by an earlier mount and not uploaded ({why}); kept as {}: see \
                     `ftpsfs recover`",
                    record.path,
                    record.id
                );
            }
            self.leftovers.end();
        }
    }

    /// Sends one record, `anyhow` even where others changed the file since or it was never
    /// closed. Gives why it stays, if it does.
    pub fn resend(&self, record: &Record, anyhow: bool) -> Result<(), String> {
        let spool = self.drafts.spool().map_err(|error| error.to_string())?;
        let is_done = record.unlinked || !record.changed && !record.is_owed();
        if is_done {
            return spool.discard(record.id).map_err(|error| error.to_string());
        }
        if record.doubtful && !anyhow {
            return Err("the machine went down before it was safe on the disk".into());
        }
        if !record.is_owed() && !anyhow {
            return Err("it was never closed".into());
        }
        let found = self.stat(&record.path, Patience::Until(self.soon()));
        let found = match found.map_err(|error| error.to_string())? {
            Answer::Present(attributes, _) => Some(attributes),
            Answer::Absent(_) | Answer::Unknown => None,
        };
        if !anyhow && !is_as_left(record, found.as_ref()) {
            return Err("the file changed on the server since".into());
        }
        self.forget_temporary(record);
        let file = spool.adopt(record.id).map_err(|error| error.to_string())?;
        let sent = self.send_adopted(record, file, found.as_ref());
        sent.map_err(|error| error.to_string())?;
        log::info!("{}: uploaded what an earlier mount left", record.path);
        Ok(())
    }

    fn send_adopted(
        &self,
        record: &Record,
        file: SpoolFile,
        found: Option<&Attributes>,
    ) -> Result<(), Error> {
        let (ino, held) = self.walk(&record.path)?;
        let shown = found.cloned().unwrap_or_else(|| blank(record));
        let draft = Draft::adopted(ino, file, shown, found.is_some());
        let sent = match self.drafts.adopt(ino, draft) {
            // The draft's own hold.
            true => self.hold(ino).and_then(|()| self.upload_now(ino)),
            false => Err(Error::Busy),
        };
        for ino in held {
            self.forget(ino, 1);
        }
        sent
    }

    /// The node of a path, made with all its directories, and what has to be forgotten again.
    fn walk(&self, path: &RemotePath) -> Result<(Ino, Vec<Ino>), Error> {
        let mut names = Vec::new();
        let mut at = path.clone();
        while at != self.config.root {
            let (parent, name) = at.parent().zip(at.name()).ok_or(Error::Stale)?;
            names.push(name);
            at = parent;
        }
        let mut held = Vec::new();
        let mut ino = Ino::ROOT;
        while let Some(name) = names.pop() {
            let kind = match names.is_empty() {
                true => FileKind::File,
                false => FileKind::Directory,
            };
            ino = self.enter_blank(ino, &name, kind)?;
            held.push(ino);
        }
        held.reverse();
        Ok((ino, held))
    }

    fn enter_blank(&self, parent: Ino, name: &Name, kind: FileKind) -> Result<Ino, Error> {
        let attributes = Attributes {
            kind,
            ..super::blank(SystemTime::UNIX_EPOCH)
        };
        let ino = self.inodes.enter(parent, name, &attributes);
        ino.ok_or(Error::Stale)
    }

    /// Removes what a broken upload left on the server.
    fn forget_temporary(&self, record: &Record) {
        if let Some(upload) = &record.upload
            && let Method::Temporary(temporary) = &upload.method
            && let Err(error) = self.remote.unlink(temporary, self.soon())
        {
            log::debug!("{temporary}: {error}");
        }
    }

    fn soon(&self) -> Instant {
        Instant::now() + self.config.timeout
    }
}

/// Whether the file on the server is what the record was begun upon, or what a broken upload of it
/// may have left.
fn is_as_left(record: &Record, found: Option<&Attributes>) -> bool {
    let method = record.upload.as_ref().map(|upload| &upload.method);
    match (record.base, found) {
        (None, None) => true,
        (Some(base), Some(found)) => {
            let unchanged = version_of(base) == found.version();
            unchanged
                || match method {
                    Some(Method::Direct) => true,
                    Some(Method::InPlace) => found.size == base.size,
                    Some(Method::Append(_)) => (base.size..=record.size).contains(&found.size),
                    Some(Method::Temporary(_)) => found.size == record.size,
                    None => false,
                }
        }
        // It was new, and the broken upload brought it there.
        (None, Some(found)) => method.is_some() && found.size <= record.size,
        (Some(_), None) => matches!(method, Some(Method::Direct)),
    }
}

fn blank(record: &Record) -> Attributes {
    Attributes {
        mode: record.wanted.mode.map(|mode| (mode & 0o7777) as u16),
        ..super::blank(record.wanted.mtime.unwrap_or_else(SystemTime::now))
    }
}
