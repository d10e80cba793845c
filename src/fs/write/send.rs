//! The ways to send a draft: whole under a temporary name, whole under its own, appended, in place.
//! Each comes back with the file's attributes as the server has them then.
//!
//! Must not know handles or the kernel.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::MutexGuard;

use super::super::spool::{Method, SpoolFile};
use super::super::{Error, Fs, Ino, NAME_MAX, Patience};
use super::names::InUse;
use super::upload::{Clock, Stop, Task};
use super::{Doubt, Draft};
use crate::cache::Answer;
use crate::proto::{Name, RemotePath};
use crate::remote::{self, Attributes, Expected, Publication, Reserved, Upload};

/// Bytes read and sent at once.
pub(super) const CHUNK: usize = 256 << 10;
/// Gaps up to this size are fetched along with what lies around them: cheaper than another
/// transfer.
const BRIDGE: u64 = 512 << 10;
/// A file that did not grow for so long is not being written any more.
const SETTLING: Duration = Duration::from_millis(500);
/// So many bytes that are the same at the same place are no chance.
const BLOCK: u64 = 512;
/// Whether a file is still there that was there so long ago need not be asked.
const MOMENT: Duration = Duration::from_secs(1);
/// How long the removal of what a failed upload left may take.
const CLEANING: Duration = Duration::from_secs(3);

/// What an upload has made of a file on the server. Its name stays what it is until that is noted.
pub(super) type Sent<'a> = (Attributes, MutexGuard<'a, ()>);

/// A temporary file beside its target: the directory may be renamed while it is written.
#[derive(Debug)]
pub(super) struct Beside {
    directory: Ino,
    name: Name,
    fixed: Option<RemotePath>,
    /// Keeps a name of the user's making out of sight.
    _in_use: Option<InUse>,
    /// Keeps one of our own from being tidied away.
    _reserved: Option<Reserved>,
}

impl Beside {
    pub fn name(&self) -> &Name {
        &self.name
    }
}

impl Fs {
    /// Whole: under a temporary name, then renamed; where the server does not let us, directly.
    pub(super) fn send_whole<'a>(
        &self,
        draft: &'a Draft,
        task: &Task,
        clock: &mut Clock,
    ) -> Result<Sent<'a>, Stop> {
        self.fetch_missing(draft, task, clock)?;
        if self.config.direct {
            return self.send_direct(draft, task, clock);
        }
        match self.send_by_temporary(draft, task, clock) {
            Err(Stop::Remote(remote::Error::Denied(why) | remote::Error::Unsupported(why))) => {
                log::debug!("inode {}: no temporary name: {why}", draft.ino.0);
                self.send_direct(draft, task, clock)
            }
            sent => sent,
        }
    }

    fn send_by_temporary<'a>(
        &self,
        draft: &'a Draft,
        task: &Task,
        clock: &mut Clock,
    ) -> Result<Sent<'a>, Stop> {
        let ahead = self.send_beside(draft, task.size, clock)?;
        let published = self.publish(draft, task, &ahead.beside, clock);
        // Whether the temporary file is there will tell whether it was renamed.
        if let Err(stop) = &published
            && draft.doubt().is_none()
        {
            self.clean_up(&ahead.beside, stop);
        }
        published
    }

    /// Renames a temporary file that is whole.
    pub(super) fn publish<'a>(
        &self,
        draft: &'a Draft,
        task: &Task,
        beside: &Beside,
        clock: &mut Clock,
    ) -> Result<Sent<'a>, Stop> {
        let place = self.place(draft, clock)?;
        let path = self.target(draft)?;
        if !task.is_of(draft) {
            return Err(Stop::Again);
        }
        // Its directory may have been renamed meanwhile.
        let temporary = self.whereabouts(beside)?;
        // As of now: it may have been renamed over another while it was sent.
        let (base, torn) = draft
            .file
            .with(|record| (record.base, record.torn.is_some()))?;
        let publication = Publication {
            size: task.size,
            modified: Some(task.dress.modified),
            mode: task.dress.mode.or(draft.server().mode),
            replaces: draft.occupies(),
            // Whoever waits for the server has seen what is there; later it may be another's.
            expects: match base {
                // A broken upload of ours has changed it already.
                _ if torn => None,
                None if self.config.write_back => Some(Expected::Nothing),
                Some(base) if self.config.write_back && base.mtime.is_some() => {
                    Some(Expected::Version(super::version_of(base)))
                }
                _ => None,
            },
        };
        draft
            .file
            .begin_renaming(task.version, &temporary, task.size)?;
        let deadline = clock.deadline();
        let published = match self
            .remote
            .publish(&temporary, &path, publication, deadline)
        {
            Err(remote::Error::Changed) => {
                let theirs = self.part(draft, task, &temporary, publication, clock)?;
                return Ok((theirs, place));
            }
            Err(error) => {
                if error.is_open() {
                    *draft.doubt.lock() = Some(Doubt {
                        version: task.version,
                        size: task.size,
                        temporary,
                    });
                }
                return Err(error.into());
            }
            Ok(published) => published,
        };
        let known = Attributes {
            size: task.size,
            mtime: task.dress.modified,
            mode: publication.mode.filter(|_| published.mode),
            unique: None,
            ..draft.server()
        };
        if let Some(mode) = task.dress.mode
            && !published.mode
        {
            self.overlay_mode(&path, mode);
        }
        if published.modified {
            return Ok((known, place));
        }
        let server = self.remote.stat(&path, Some(&known), deadline)?;
        if task.dress.given {
            self.overlay_time(&path, task.dress.modified, server.mtime);
        }
        Ok((server, place))
    }

    /// Another has changed the file while ours waited: both are kept, ours under another name. Gives
    /// what stands under the file's own.
    fn part(
        &self,
        draft: &Draft,
        task: &Task,
        temporary: &RemotePath,
        publication: Publication,
        clock: &mut Clock,
    ) -> Result<Attributes, Stop> {
        let path = self.target(draft)?;
        let theirs = self
            .remote
            .stat(&path, Some(&draft.server()), clock.deadline())?;
        let (base, uploaded) = draft.file.with(|record| (record.base, record.uploaded))?;
        let reach = draft.reach.load(Ordering::Relaxed);
        if base.is_some_and(|base| base.size < theirs.size && theirs.size <= reach) {
            // A server that was slow has appended just now what we had given up to send.
            self.settled(draft, uploaded, &theirs, None)?;
            return Err(Stop::Again);
        }
        // It may be ours, if only the server's word was lost.
        let is_as_long = theirs.size == task.size;
        if is_as_long
            && (task.size == 0 || self.is_there(&draft.file, &path, 0..task.size, clock)?)
        {
            match self.remote.unlink(temporary, clock.deadline()) {
                // A server that was slow has renamed it just now.
                Ok(()) | Err(remote::Error::NotFound) => return Ok(theirs),
                Err(error) => return Err(error.into()),
            }
        }
        let copy = conflict_copy(&path, SystemTime::now()).ok_or(Stop::Unwanted)?;
        let publication = Publication {
            replaces: false,
            expects: Some(Expected::Nothing),
            ..publication
        };
        let deadline = clock.deadline();
        self.remote
            .publish(temporary, &copy, publication, deadline)?;
        self.altered(&copy);
        self.altered(&path);
        log::error!("{path} was changed by others meanwhile: what was written here is now {copy}");
        Ok(theirs)
    }

    /// Whole, under its own name.
    fn send_direct<'a>(
        &self,
        draft: &'a Draft,
        task: &Task,
        clock: &mut Clock,
    ) -> Result<Sent<'a>, Stop> {
        let place = self.place(draft, clock)?;
        let path = self.target(draft)?;
        draft.file.begin_upload(task.version, Method::Direct)?;
        self.store(draft, task, &path, clock)?;
        Ok((self.verify(draft, task, &path, clock)?, place))
    }

    /// The tail of a file whose beginning the server has.
    pub(super) fn send_append<'a>(
        &self,
        draft: &'a Draft,
        task: &Task,
        offset: u64,
        clock: &mut Clock,
    ) -> Result<Sent<'a>, Stop> {
        let _turn = self.drafts.turns.take();
        clock.restart();
        let place = self.place(draft, clock)?;
        let path = self.target(draft)?;
        let resumes = task.interrupted == Some(Method::Append(offset));
        let resume = |clock: &mut Clock| match resumes {
            true => self.resume_append(draft, task, &path, offset, clock),
            false => Ok(offset),
        };
        let mut begin = resume(clock)?;
        // The same offset again: what a further attempt finds behind it is ours as well.
        draft
            .file
            .begin_upload(task.version, Method::Append(offset))?;
        draft.reach.fetch_max(task.size, Ordering::Relaxed);
        let upload = loop {
            if begin == task.size {
                return Ok((self.verify(draft, task, &path, clock)?, place));
            }
            let seen = self.was_seen(&path);
            let append = || self.remote.append(&path, begin, seen, clock.deadline());
            let refused = match self.unread(draft, append) {
                Ok(upload) => break upload,
                Err(refused) => refused,
            };
            // The server may have gone on writing what it had got of the broken one.
            let before = begin;
            if matches!(refused, remote::Error::Changed) {
                begin = resume(clock)?;
            }
            if begin == before {
                return Err(Stop::Remote(match refused {
                    // Another has changed it. What we have whole replaces that; else it would be a mix.
                    remote::Error::Changed | remote::Error::NotFound if draft.is_whole() => {
                        remote::Error::Unsupported("it changed on the server".to_owned())
                    }
                    refused => refused,
                }));
            }
        };
        self.pour(draft, task, upload, begin..task.size, clock)?;
        Ok((self.verify(draft, task, &path, clock)?, place))
    }

    /// Whether the server has told of a file a moment ago.
    fn was_seen(&self, path: &RemotePath) -> bool {
        let now = Instant::now();
        match self.cache.attributes(path, now) {
            Answer::Present(_, until) => until + MOMENT > now + self.config.attr_timeout,
            Answer::Absent(_) | Answer::Unknown => false,
        }
    }

    /// Where a broken append is to be continued: behind what arrived of it, if that is ours. Where it
    /// is, but was changed here since, the file is taken for what we begin upon: [`Stop::Again`].
    fn resume_append(
        &self,
        draft: &Draft,
        task: &Task,
        path: &RemotePath,
        offset: u64,
        clock: &mut Clock,
    ) -> Result<u64, Stop> {
        let look = |clock: &Clock| {
            let server = draft.server();
            self.remote.stat(path, Some(&server), clock.deadline())
        };
        let mut found = look(clock)?;
        // The server may not have written yet all that it got on a connection now lost.
        loop {
            std::thread::sleep(SETTLING);
            let before = std::mem::replace(&mut found, look(clock)?);
            if before.size == found.size || Instant::now() + SETTLING > clock.deadline() {
                break;
            }
        }
        if found.size <= offset || found.size > task.size {
            return Ok(offset);
        }
        let arrived = offset..found.size;
        if self.is_there(&draft.file, path, arrived.clone(), clock)? {
            return Ok(found.size);
        }
        if self.is_there(&draft.file, path, end_of(arrived), clock)? {
            let uploaded = draft.file.with(|record| record.uploaded)?;
            self.settled(draft, uploaded, &found, None)?;
            return Err(Stop::Again);
        }
        Ok(offset)
    }

    /// Some ranges in place. Broken, it leaves the file neither old nor new: the spool has the
    /// ranges on the disk by then, and the next attempt writes them again.
    pub(super) fn send_patches<'a>(
        &self,
        draft: &'a Draft,
        task: &Task,
        ranges: &[Range<u64>],
        clock: &mut Clock,
    ) -> Result<Sent<'a>, Stop> {
        let unfit = |why: &str| Stop::Remote(remote::Error::Unsupported(why.to_owned()));
        let _turn = self.drafts.turns.take();
        clock.restart();
        let place = self.place(draft, clock)?;
        let path = self.target(draft)?;
        let again = task.interrupted == Some(Method::InPlace);
        if !self.remote.patches_in_place(&path, clock.deadline())? {
            return Err(unfit("no writing in place"));
        }
        let found = self
            .remote
            .stat(&path, Some(&draft.server()), clock.deadline())?;
        let same = task.base.is_some_and(|base| match again {
            true => base.size == found.size,
            false => super::version_of(base) == found.version(),
        });
        if !same {
            return Err(unfit("it changed on the server"));
        }
        draft.file.begin_upload(task.version, Method::InPlace)?;
        for range in ranges {
            let deadline = clock.deadline();
            let begin = || self.remote.patch(&path, range.start, task.size, deadline);
            let upload = self.unread(draft, begin)?;
            self.pour(draft, task, upload, range.clone(), clock)?;
        }
        for range in ranges {
            if !self.is_there(&draft.file, &path, range.clone(), clock)? {
                let why = "what was written in place reads back otherwise".to_owned();
                return Err(Stop::Remote(remote::Error::Failed(why)));
            }
        }
        Ok((self.verify(draft, task, &path, clock)?, place))
    }

    /// Whether the server's bytes in a range are the spool's.
    pub(super) fn is_there(
        &self,
        file: &SpoolFile,
        path: &RemotePath,
        range: Range<u64>,
        clock: &mut Clock,
    ) -> Result<bool, Stop> {
        let mut download = self
            .remote
            .download_range(path, range.clone(), clock.deadline())?;
        let mut theirs = vec![0; CHUNK];
        let mut ours = vec![0; CHUNK];
        let mut at = range.start;
        while at < range.end {
            let most = CHUNK.min(usize::try_from(range.end - at).unwrap_or(CHUNK));
            let read = download.read(&mut theirs[..most], clock.deadline())?;
            clock.moved(read as u64);
            if read == 0 || file.read_at(&mut ours[..read], at)? < read {
                return Ok(false);
            }
            if theirs[..read] != ours[..read] {
                return Ok(false);
            }
            at += read as u64;
        }
        download.end_aside();
        Ok(true)
    }

    /// The content is on the server as it should be, whatever was done meanwhile: only its time and
    /// mode are new.
    pub(super) fn send_nothing<'a>(
        &self,
        draft: &'a Draft,
        task: &Task,
        clock: &mut Clock,
    ) -> Result<Sent<'a>, Stop> {
        let place = self.place(draft, clock)?;
        let path = self.target(draft)?;
        Ok((self.verify(draft, task, &path, clock)?, place))
    }

    /// Gives a file that was written under its own name its mode and time, and makes sure of its
    /// size.
    fn verify(
        &self,
        draft: &Draft,
        task: &Task,
        path: &RemotePath,
        clock: &Clock,
    ) -> Result<Attributes, Stop> {
        let deadline = clock.deadline();
        let mut known = draft.server();
        if let Some(mode) = task.dress.mode {
            match self.remote.set_mode(path, mode, deadline) {
                Ok(()) => known.mode = Some(mode),
                Err(_) => self.overlay_mode(path, mode),
            }
        }
        let (server, dated) = self
            .remote
            .date(path, task.dress.modified, &known, deadline)?;
        if server.size != task.size {
            let (has, size) = (server.size, task.size);
            let why = format!("the server has {has} bytes of {size}");
            return Err(Stop::Remote(remote::Error::Failed(why)));
        }
        if !dated && task.dress.given {
            self.overlay_time(path, task.dress.modified, server.mtime);
        }
        Ok(server)
    }

    /// Fetches what of the first `size` bytes only the server has.
    fn fetch_missing(&self, draft: &Draft, task: &Task, clock: &mut Clock) -> Result<(), Stop> {
        let missing = draft.file.missing(0..task.size)?;
        let Some((first, last)) = missing.ranges.first().zip(missing.ranges.last()) else {
            return Ok(());
        };
        let (mut at, end) = (first.start, last.end);
        let _turn = self.drafts.turns.take();
        clock.restart();
        let (_, mut version) = draft.missing(0..0)?;
        let path = self.target(draft)?;
        if task.interrupted == Some(Method::InPlace) {
            // Ours may be in it already, but what is missing here is still the same there.
            let found = self
                .remote
                .stat(&path, Some(&draft.server()), clock.deadline())?;
            if found.size == version.size {
                version = found.version();
            }
        }
        let mut chunk = vec![0; CHUNK];
        while at < end {
            let open = |at, clock: &Clock| {
                self.remote
                    .download(&path, at, Some(version), None, clock.deadline())
            };
            let mut download = open(at, clock)?;
            while at < end {
                let gap = draft.file.missing(at..end)?.ranges.into_iter().next();
                let Some(gap) = gap else { return Ok(()) };
                if gap.start > at + BRIDGE {
                    at = gap.start;
                    break;
                }
                let read = download.read(&mut chunk, clock.deadline())?;
                if read == 0 {
                    return Err(Stop::Remote(remote::Error::Changed));
                }
                clock.moved(read as u64);
                draft
                    .file
                    .store_fetched(missing.as_of, at, &chunk[..read])?;
                at += read as u64;
            }
        }
        Ok(())
    }

    /// Sends everything to `path`.
    fn store(
        &self,
        draft: &Draft,
        task: &Task,
        path: &RemotePath,
        clock: &mut Clock,
    ) -> Result<(), Stop> {
        let _turn = self.drafts.turns.take();
        clock.restart();
        let upload = self.unread(draft, || self.remote.store(path, clock.deadline()))?;
        self.pour(draft, task, upload, 0..task.size, clock)
    }

    /// Begins an upload to a file's own name while we ourselves do not read it: vsftpd locks files, and would wait
    /// for our own half-read download.
    fn unread<T>(&self, draft: &Draft, begin: impl FnOnce() -> T) -> T {
        let file = self.files.of(draft.ino);
        let _pause = file.as_ref().map(|file| file.reader.pause());
        begin()
    }

    /// Sends a range, and awaits the server's word that it has everything.
    fn pour(
        &self,
        draft: &Draft,
        task: &Task,
        mut upload: Upload,
        range: Range<u64>,
        clock: &mut Clock,
    ) -> Result<(), Stop> {
        let most = |left: u64| CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
        upload.expects(range.clone());
        let mut chunk = vec![0; most(range.end - range.start)];
        let mut at = range.start;
        while at < range.end {
            let wanted = most(range.end - at);
            match draft.file.read_at(&mut chunk[..wanted], at) {
                Ok(read) if read == wanted && task.is_of(draft) => {}
                // Cut or thrown away meanwhile, or not wanted any more.
                Ok(_) => {
                    upload.give_up();
                    return Err(Stop::Again);
                }
                Err(error) => {
                    upload.give_up();
                    return Err(error.into());
                }
            }
            upload.write(&chunk[..wanted], clock.deadline())?;
            clock.moved(wanted as u64);
            at += wanted as u64;
        }
        Ok(upload.finish(clock.deadline())?)
    }

    /// The draft's name on the server stays what it is while this is held. What else we are making of the file, and
    /// of the directories on the way to it, is waited for: a time that it is being given would look like others' work.
    pub(super) fn place<'a>(
        &self,
        draft: &'a Draft,
        clock: &Clock,
    ) -> Result<MutexGuard<'a, ()>, Stop> {
        let place = draft.place.try_lock_until(clock.deadline());
        let timed_out = || Stop::Remote(remote::Error::TimedOut("waiting for a rename".into()));
        let place = place.ok_or_else(timed_out)?;
        self.await_changes(draft.ino, clock.deadline());
        Ok(place)
    }

    fn target(&self, draft: &Draft) -> Result<RemotePath, Stop> {
        if draft.is_unlinked() {
            return Err(Stop::Unwanted);
        }
        self.inodes.path(draft.ino).ok_or(Stop::Unwanted)
    }

    /// A temporary name for a draft.
    pub(super) fn beside(&self, draft: &Draft) -> Result<Beside, Stop> {
        let path = self.target(draft)?;
        let at = |name: &Name| match &self.config.temp_dir {
            Some(directory) => Some(directory.join(name)),
            None => Some(path.parent()?.join(name)),
        };
        let pattern = self.config.temp_name.as_ref().zip(path.name());
        let wished = pattern.and_then(|(pattern, name)| {
            let name = pattern.fill(&name)?;
            Some((self.drafts.active.take(&at(&name)?)?, name))
        });
        let (in_use, reserved, name) = match wished {
            Some((in_use, name)) => (Some(in_use), None, name),
            None => {
                let unique = self.remote.temporaries().beside(&path);
                let name = unique.name().clone();
                (None, Some(unique), name)
            }
        };
        Ok(Beside {
            directory: self.inodes.parent(draft.ino).unwrap_or(Ino::ROOT),
            fixed: self.config.temp_dir.as_ref().map(|dir| dir.join(&name)),
            name,
            _in_use: in_use,
            _reserved: reserved,
        })
    }

    /// Where a temporary file is now.
    pub(super) fn whereabouts(&self, beside: &Beside) -> Result<RemotePath, Stop> {
        if let Some(path) = &beside.fixed {
            return Ok(path.clone());
        }
        let directory = self.inodes.path(beside.directory).ok_or(Stop::Unwanted)?;
        Ok(directory.join(&beside.name))
    }

    /// Removes what is left of a failed upload, unless the server is not to be had.
    pub(super) fn clean_up(&self, beside: &Beside, stop: &Stop) {
        if matches!(stop, Stop::Remote(remote::Error::TimedOut(_))) {
            return;
        }
        let end = Instant::now() + CLEANING;
        let cleaned = self.steadily(beside.directory, Patience::Until(end), || {
            let temporary = self.whereabouts(beside).map_err(|_| Error::Stale)?;
            let removed = self.remote.unlink(&temporary, end);
            removed.map_err(|cause| Error::remote(&temporary, cause))
        });
        if let Err(error) = cleaned {
            log::debug!("what was sent may stay on the server: {error}");
        }
    }
}

/// Where a version of a file is kept that must not replace another's: `NAME.conflict-SECONDS`.
/// The end of what arrived of an append: what others have appended since would be there.
pub(super) fn end_of(arrived: Range<u64>) -> Range<u64> {
    arrived.end.saturating_sub(BLOCK).max(arrived.start)..arrived.end
}

fn conflict_copy(path: &RemotePath, now: SystemTime) -> Option<RemotePath> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let ending = format!(".conflict-{seconds}");
    let name = path.name()?;
    let kept = name.as_bytes().len().min(NAME_MAX - ending.len());
    let name = [&name.as_bytes()[..kept], ending.as_bytes()].concat();
    Some(path.parent()?.join(&Name::parse(&name).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflict_copies_have_names_of_their_own() {
        let at = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let copy = |path: &str| {
            let path = RemotePath::parse(path.as_bytes()).expect("a path");
            conflict_copy(&path, at).map(|copy| copy.to_string())
        };
        assert_eq!(
            copy("/d/report.txt").as_deref(),
            Some("/d/report.txt.conflict-1800000000")
        );
        let long = copy(&format!("/{}", "x".repeat(NAME_MAX))).expect("a name");
        assert_eq!(long.len(), NAME_MAX + 1);
        assert!(long.ends_with("x.conflict-1800000000"));
        assert_eq!(copy("/"), None);
    }
}
