//! What an earlier mount left in the spool: it is sent now, unless that would overwrite what others
//! have made of the file since, or nobody ever asked for it to be sent.
//!
//! Must not know the kernel.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use super::super::spool::{Method, Record, RecordId, Spool, SpoolFile, default_state_dir};
use super::super::{Error, Fs, Ino};
use super::send::end_of;
use super::upload::{Clock, Stop};
use super::{Doubt, Draft, base_of, version_of};
use crate::proto::{Name, RemotePath};
use crate::remote::{self, Attributes, FileKind};

/// What stands on the server under a record's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    /// What the record was begun upon, or what a broken upload of it made of that.
    AsLeft,
    /// The record's own content: an upload arrived, and was not recorded.
    Sent,
    /// What others have made since.
    Others,
}

impl Fs {
    /// Sends what an earlier run left, one after the other; what cannot be sent is named in the log
    /// and stays.
    pub fn take_over(&self, records: Vec<Record>) {
        self.leftovers.begin();
        for record in records {
            match self.resend(record.id, false) {
                Ok(()) => log::info!("{}: what an earlier mount left is uploaded", record.path),
                Err(why) => log::warn!(
                    "{}: written by an earlier mount and not uploaded ({why}); its content is \
                     kept, and given back by: {}",
                    record.path,
                    self.way_back(record.id)
                ),
            }
        }
        // Where users never look, nobody would see what a crash left.
        if let Some(directory) = &self.config.temp_dir
            && let Ok(listing) = self.remote.list(directory, self.soon())
        {
            self.tidy_up(directory, &listing);
        }
        self.leftovers.end();
    }

    /// With write-back: what programs were promised is seen again from the first request on, and goes
    /// on its way. Gives the other records.
    pub fn adopt(&self, records: Vec<Record>) -> Vec<Record> {
        let records = match self.end_renames() {
            true => self.drafts.spool().map_or(records, Spool::records),
            false => records,
        };
        let is_promised = |record: &Record| {
            let is_sound = !record.unlinked && !record.doubtful && record.failure.is_none();
            self.config.write_back && record.is_owed() && is_sound
        };
        let (promised, others): (Vec<_>, Vec<_>) = records.into_iter().partition(is_promised);
        for record in promised {
            if let Err(error) = self.adopt_promised(&record) {
                log::error!("{}: {error}; {}", record.path, self.way_back(record.id));
            }
        }
        others
    }

    /// Finds out whether the renames that a crash interrupted were done; whether there were any.
    fn end_renames(&self) -> bool {
        let Ok(spool) = self.drafts.spool() else {
            return false;
        };
        let renames = spool.renames();
        for (from, to) in &renames {
            let stat = |path| self.remote.stat(path, None, self.soon());
            let told = match (stat(from), stat(to)) {
                (Err(remote::Error::NotFound), Ok(_)) => spool.rename(from, to, None),
                (Ok(_) | Err(remote::Error::NotFound), _) => spool.cancel_rename(from),
                // The next mount asks again.
                (Err(error), _) => {
                    log::warn!("{from}: whether it was renamed to {to} is not known: {error}");
                    continue;
                }
            };
            if let Err(error) = told {
                log::error!("{from}: {error}");
            }
        }
        !renames.is_empty()
    }

    fn adopt_promised(&self, record: &Record) -> Result<(), Error> {
        let file = self.drafts.spool()?.adopt(record.id)?;
        let (ino, held) = self.walk(&record.path)?;
        let version = record.base.map(version_of);
        let shown = Attributes {
            size: version.map_or(0, |version| version.size),
            mtime: version.map_or(record.created, |version| version.mtime),
            ..blank(record)
        };
        let draft = Draft::adopted(ino, file, shown, record.base.is_some());
        let adopted = match self.drafts.adopt(ino, draft) {
            // The draft's own hold.
            true => self.hold(ino),
            false => Err(Error::Busy),
        };
        for ino in held {
            self.forget(ino, 1);
        }
        adopted?;
        self.send_later(ino);
        Ok(())
    }

    /// What an upload that was broken off has made of the file on the server is taken for what
    /// this one begins upon, if it is ours.
    pub(super) fn face(&self, draft: &Draft, clock: &Clock) -> Result<(), Stop> {
        self.resolve_doubt(draft, self.soon())?;
        let moment = self.inodes.moment();
        let record = draft.file.record()?;
        let found = self.find(&record)?;
        let mut there = self.compare(&record, &draft.file, found.as_ref());
        // What of the appended bytes was changed again since cannot be compared any more.
        let reach = draft.reach.load(Ordering::Relaxed);
        if let (Ok(There::Others), Some(Method::Append(offset))) = (&there, &record.torn)
            && let Some(found) = &found
            && found.kind == FileKind::File
            && (*offset..=reach).contains(&found.size)
        {
            there = Ok(There::AsLeft);
        }
        let version = match there? {
            There::Others => return Ok(()),
            There::AsLeft => record.uploaded,
            There::Sent => record.version,
        };
        let Some(found) = found else {
            return Ok(());
        };
        let _place = self.place(draft, clock)?;
        if self.inodes.has_moved(draft.ino, moment) {
            // It was renamed while it was looked at: what was found may be half the truth.
            return Err(Stop::Again);
        }
        self.settled(draft, version, &found, None)
    }

    /// Before names are given away it has to be known what stands under them. The drafts' places are
    /// locked.
    pub(in crate::fs) fn resolve_doubts(
        &self,
        drafts: &[Arc<Draft>],
        deadline: Instant,
    ) -> Result<(), Error> {
        for draft in drafts {
            match self.resolve_doubt(draft, deadline) {
                Ok(()) | Err(Stop::Again | Stop::Unwanted) => {}
                Err(Stop::Remote(cause)) => return Err(self.failed_there(draft, cause)),
                Err(Stop::Local(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The same for one, whose place is locked.
    pub(super) fn resolve_doubt(&self, draft: &Draft, deadline: Instant) -> Result<(), Stop> {
        if let Some(doubt) = draft.doubt() {
            self.resolve(draft, &doubt, deadline)?;
            *draft.doubt.lock() = None;
        }
        Ok(())
    }

    /// A whole version that was to be renamed to its own name has it now if the temporary name is
    /// gone: then it is what the next one replaces. So is what a server without room has kept of it.
    fn resolve(&self, draft: &Draft, doubt: &Doubt, deadline: Instant) -> Result<(), Stop> {
        let look = |path: &RemotePath| match self.remote.stat(path, None, deadline) {
            Ok(found) => Ok(Some(found)),
            Err(remote::Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        };
        if look(&doubt.temporary)?.is_some() {
            match self.remote.unlink(&doubt.temporary, deadline) {
                Ok(()) => return Ok(()),
                // A server that was slow has renamed it just now.
                Err(remote::Error::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let path = self.inodes.path(draft.ino).ok_or(Stop::Unwanted)?;
        let base = draft.file.with(|record| record.base)?;
        let found = look(&path)?.filter(|found| {
            let is_old = base.is_some_and(|base| version_of(base) == found.version());
            found.kind == FileKind::File && found.size <= doubt.size && !is_old
        });
        let Some(found) = found else { return Ok(()) };
        if found.size == doubt.size {
            return self.settled(draft, doubt.version, &found, None);
        }
        let mut clock = Clock::new(self.config.timeout, self.config.min_rate);
        if draft.is_whole() && self.is_there(&draft.file, &path, 0..found.size, &mut clock)? {
            draft.replace(&found)?;
        }
        Ok(())
    }

    /// Sends one record, `anyhow` even where others changed the file since or it was never
    /// closed. Gives why it stays, if it does.
    pub fn resend(&self, id: RecordId, anyhow: bool) -> Result<(), String> {
        let sent = self.try_resend(id, anyhow);
        if let Err(why) = &sent
            && let Ok(spool) = self.drafts.spool()
            && let Ok(file) = spool.adopt(id)
            && let Err(error) = file.fail(why, SystemTime::now())
        {
            log::debug!("the spool does not tell why a file stays: {error}");
        }
        sent
    }

    fn try_resend(&self, id: RecordId, anyhow: bool) -> Result<(), String> {
        let spool = self.drafts.spool().map_err(|error| error.to_string())?;
        let is_it = |record: &Record| record.id == id;
        let Some(record) = spool.records().into_iter().find(is_it) else {
            return Ok(());
        };
        self.forget_temporary(&record);
        let is_done = record.unlinked || !record.changed && !record.is_owed();
        if is_done {
            return spool.discard(id).map_err(|error| error.to_string());
        }
        if record.doubtful && !anyhow {
            return Err("the machine went down before it was safe on the disk".into());
        }
        if !record.is_owed() && !anyhow {
            return Err("it was never closed".into());
        }
        let file = spool.adopt(id).map_err(|error| error.to_string())?;
        let found = self.find(&record).map_err(|error| error.to_string())?;
        let is_file = |found: &Attributes| found.kind == FileKind::File;
        let is_sendable = found.as_ref().is_none_or(is_file);
        if anyhow && !is_sendable {
            return Err("it is no file on the server any more".into());
        }
        let there = match anyhow {
            true => There::AsLeft,
            false => {
                let there = self.compare(&record, &file, found.as_ref());
                there.map_err(|stop| stop.to_string())?
            }
        };
        let sent = match there {
            // With write-back both are kept: the upload finds out once more, and goes beside it.
            There::Others if self.config.write_back && record.torn.is_none() && is_sendable => {
                self.send_adopted(&record, file, found.as_ref())
            }
            There::Others => return Err("the file changed on the server since".into()),
            There::Sent => self.note_sent(&record, file),
            There::AsLeft => self.send_adopted(&record, file, found.as_ref()),
        };
        sent.map_err(|error| error.to_string())
    }

    /// The command that gives a record's content back.
    pub fn way_back(&self, id: RecordId) -> String {
        let Ok(spool) = self.drafts.spool() else {
            return String::new();
        };
        let place = spool.path().parent().map(|dir| dir.to_owned());
        let place = match place.filter(|dir| Some(dir) != default_state_dir().as_ref()) {
            Some(dir) => format!(" --state-dir {}", dir.display()),
            None => String::new(),
        };
        format!("ftpsfs recover{place} save {} FILE", spool.kept_as(id))
    }

    /// Gets parts of a record's file that only the server has, and hands them to `write` with their
    /// offsets. Gives why, if that cannot be.
    pub fn fetch_parts(
        &self,
        record: &Record,
        parts: &[Range<u64>],
        mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> Result<(), String> {
        let found = self.remote.stat(&record.path, None, self.soon());
        let found = found.map_err(|error| error.to_string())?;
        let base = record.base.ok_or("the server never had it")?;
        // A broken upload in place changed its time, but not what is missing here.
        let version = match record.torn == Some(Method::InPlace) && found.size == base.size {
            true => found.version(),
            false => version_of(base),
        };
        let mut clock = Clock::new(self.config.timeout, self.config.min_rate);
        let mut chunk = vec![0; 256 << 10];
        for part in parts {
            let (path, deadline) = (&record.path, clock.deadline());
            let opened = self
                .remote
                .download(path, part.start, Some(version), None, deadline);
            let mut download = opened.map_err(|error| error.to_string())?;
            let mut at = part.start;
            while at < part.end {
                let most = chunk
                    .len()
                    .min(usize::try_from(part.end - at).unwrap_or(usize::MAX));
                let read = download.read(&mut chunk[..most], clock.deadline());
                let read = read.map_err(|error| error.to_string())?;
                if read == 0 {
                    return Err(remote::Error::Changed.to_string());
                }
                clock.moved(read as u64);
                write(&chunk[..read], at).map_err(|error| error.to_string())?;
                at += read as u64;
            }
        }
        Ok(())
    }

    /// What is under a record's name now. What a broken upload had set aside to replace it is put
    /// back first.
    fn find(&self, record: &Record) -> Result<Option<Attributes>, remote::Error> {
        let look = || match self.remote.stat(&record.path, None, self.soon()) {
            Ok(found) => Ok(Some(found)),
            Err(remote::Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        };
        let found = look()?;
        match found.is_none()
            && record.base.is_some()
            && self.put_back(&record.path, self.soon())?
        {
            true => look(),
            false => Ok(found),
        }
    }

    /// Whose work it is. Where a broken upload may have made it what it is, the bytes decide.
    fn compare(
        &self,
        record: &Record,
        file: &SpoolFile,
        found: Option<&Attributes>,
    ) -> Result<There, Stop> {
        let Some(found) = found else {
            // Some servers remove what a broken STOR has left.
            let is_ours = record.base.is_none() || record.torn == Some(Method::Direct);
            return Ok(if is_ours {
                There::AsLeft
            } else {
                There::Others
            });
        };
        if found.kind != FileKind::File {
            return Ok(There::Others);
        }
        if let Some(base) = record.base
            && (version_of(base) == found.version()
                || record.torn == Some(Method::InPlace) && found.size == base.size)
        {
            return Ok(There::AsLeft);
        }
        let method = record.upload.as_ref().map(|upload| &upload.method);
        let is_published = match method {
            // An empty file says nothing of who made it.
            Some(Method::Temporary(_)) => found.size > 0 || record.size == 0,
            // That one was begun may be what a loss of power has made us forget.
            None => found.size > 0 && found.size == record.size,
            Some(_) => false,
        };
        let arrived = |from: u64| {
            let is_ours = (from..=record.size).contains(&found.size);
            is_ours.then_some(from..found.size)
        };
        let ours = [
            is_published.then(|| arrived(0)).flatten(),
            match record.torn {
                // What arrived may have been changed here since.
                Some(Method::Append(offset)) => arrived(offset).map(end_of),
                Some(Method::Direct) => arrived(0),
                _ => None,
            },
        ];
        for range in ours.into_iter().flatten() {
            let is_whole = range == (0..record.size);
            if self.holds(file, &record.path, range)? {
                if is_whole {
                    return Ok(There::Sent);
                }
                if record.torn.is_none() {
                    // An earlier version arrived: what is sent now replaces that.
                    file.mark_uploaded(record.uploaded, base_of(found))?;
                }
                return Ok(There::AsLeft);
            }
        }
        // Of the rest the spool knows nothing; but all that was written here is there.
        let is_part = record.missing(0..record.size).next().is_some();
        if is_published && is_part && found.size == record.size {
            for range in record.dirty().iter() {
                if !self.holds(file, &record.path, range)? {
                    return Ok(There::Others);
                }
            }
            return Ok(There::Sent);
        }
        Ok(There::Others)
    }

    /// Whether the server has the spool's bytes in a range.
    fn holds(&self, file: &SpoolFile, path: &RemotePath, range: Range<u64>) -> Result<bool, Stop> {
        let mut clock = Clock::new(self.config.timeout, self.config.min_rate);
        if range.is_empty() {
            return Ok(true);
        }
        match self.is_there(file, path, range, &mut clock) {
            // The spool has no such bytes, or the file is another one by now.
            Err(Stop::Again | Stop::Unwanted | Stop::Remote(remote::Error::Changed)) => Ok(false),
            looked => looked,
        }
    }

    /// The server has everything: what is left are attributes, as far as it can store them.
    fn note_sent(&self, record: &Record, file: SpoolFile) -> Result<(), Error> {
        let (path, deadline) = (&record.path, self.soon());
        let given = [
            record.wanted.mode.map(|mode| {
                let mode = (mode & 0o7777) as u16;
                self.remote.set_mode(path, mode, deadline)
            }),
            record
                .wanted
                .mtime
                .map(|mtime| self.remote.set_modified(path, mtime, deadline)),
        ];
        for error in given.into_iter().flatten().filter_map(Result::err) {
            log::debug!("{path}: {error}");
        }
        self.altered(path);
        Ok(file.discard()?)
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

fn blank(record: &Record) -> Attributes {
    Attributes {
        mode: record.wanted.mode.map(|mode| (mode & 0o7777) as u16),
        ..super::blank(record.wanted.mtime.unwrap_or_else(SystemTime::now))
    }
}

#[cfg(test)]
mod tests;
