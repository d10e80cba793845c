//! Temporary files on the server that nobody needs any more, because the mount that made them ended
//! before it was done. They are removed when a listing shows them, by a thread of its own, and
//! when their directory is to go.
//!
//! Ours go at once, unless they are in use. Another mount's go after a day without change: by the
//! time in its name, and by its own time on the server's clock, for ours may be wrong. What made
//! way for a file that never came is put back.
//!
//! Must not know the kernel.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Weak;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lru::LruCache;
use parking_lot::Mutex;

use super::write::blank;
use super::{Error, Fs, Ino};
use crate::proto::{Name, RemotePath};
use crate::remote::{self, Attributes, FileKind, Holds, Listing, Temporary};

/// Another mount's files are left alone so long.
const OLD: Duration = Duration::from_secs(24 * 3600);
/// How long the removal of one file may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many wait to be removed at most: the next listing shows the others again.
const QUEUE: usize = 1000;
/// What could not be removed, or was not old enough, is left alone for a while; so many of them
/// are remembered.
const AGAIN: Duration = Duration::from_secs(3600);
const TRIED: NonZeroUsize = NonZeroUsize::new(1000).unwrap();
/// How long the server's clock is believed to go as ours does.
const CLOCK_LIFETIME: Duration = Duration::from_secs(600);
/// How often it is looked whether uploads in a directory have ended that is to go.
const POLL: Duration = Duration::from_millis(50);

/// What is to be removed. A leaf lock.
pub(super) struct Tidying(Mutex<State>);

struct State {
    queue: VecDeque<RemotePath>,
    is_running: bool,
    tried: LruCache<RemotePath, Instant>,
    /// What the server's clock said, and when.
    clock: Option<(SystemTime, Instant)>,
}

impl Tidying {
    pub fn new() -> Self {
        Self(Mutex::new(State {
            queue: VecDeque::new(),
            is_running: false,
            tried: LruCache::new(TRIED),
            clock: None,
        }))
    }

    /// Whether somebody has to begin with them.
    fn enqueue(&self, paths: impl Iterator<Item = RemotePath>) -> bool {
        let mut state = self.0.lock();
        for path in paths {
            let is_recent = |at: &Instant| at.elapsed() < AGAIN;
            if state.queue.len() < QUEUE && !state.tried.get(&path).is_some_and(is_recent) {
                state.tried.put(path.clone(), Instant::now());
                state.queue.push_back(path);
            }
        }
        let begins = !state.queue.is_empty() && !state.is_running;
        state.is_running |= begins;
        begins
    }

    fn next(&self) -> Option<RemotePath> {
        let mut state = self.0.lock();
        let next = state.queue.pop_front();
        state.is_running = next.is_some();
        next
    }

    /// The server cannot be asked: later, then.
    fn give_up(&self) {
        let mut state = self.0.lock();
        state.queue.clear();
        state.tried.clear();
        state.is_running = false;
    }
}

impl Fs {
    /// Has the leftovers among a directory's files removed.
    pub(super) fn tidy_up(&self, directory: &RemotePath, listing: &Listing) {
        if self.drafts.spool().is_err() {
            return;
        }
        let is_left = |(name, attributes): &&(Name, Attributes)| {
            Temporary::parse(name).is_some_and(|told| self.seems_left(name, &told, attributes))
        };
        let left = listing.entries.iter().filter(is_left);
        if self
            .tidying
            .enqueue(left.map(|(name, _)| directory.join(name)))
        {
            let this = self.this.clone();
            let thread = thread::Builder::new().name("tidy".to_owned());
            if let Err(error) = thread.spawn(move || Self::tidy(&this)) {
                self.tidying.give_up();
                log::debug!("no thread to tidy up: {error}");
            }
        }
    }

    fn tidy(this: &Weak<Self>) {
        while let Some(fs) = this.upgrade()
            && let Some(path) = fs.tidying.next()
        {
            match fs.clear(&path, Instant::now() + PATIENCE) {
                Ok(()) | Err(remote::Error::NotFound) => {}
                Err(error) => {
                    log::debug!("{path} stays on the server: {error}");
                    if matches!(error, remote::Error::TimedOut(_)) {
                        fs.tidying.give_up();
                    }
                }
            }
        }
    }

    /// Removes one leftover, or puts it back.
    fn clear(&self, path: &RemotePath, deadline: Instant) -> Result<(), remote::Error> {
        let Some((name, directory)) = path.name().zip(path.parent()) else {
            return Ok(());
        };
        let Some(told) = Temporary::parse(&name) else {
            return Ok(());
        };
        if !self.is_left(path, &name, &told, deadline)? {
            return Ok(());
        }
        let target = match &told.holds {
            Holds::Spare => None,
            Holds::Replaced(_) if self.remote.temporaries().is_settled(&name) => None,
            Holds::Replaced(Some(target)) => Some(directory.join(target)),
            Holds::Replaced(None) => {
                log::warn!("{path} holds what a rename was about to replace; it is left alone");
                return Ok(());
            }
        };
        let there = target.map(|target| (self.remote.stat(&target, None, deadline), target));
        match there {
            Some((Err(remote::Error::NotFound), target)) if !self.is_awaited(&target) => {
                self.remote.rename(path, &target, deadline)?;
                self.altered(&target);
                log::warn!("{target}: put back, for what was to replace it never came");
            }
            // What is to come in its place is in the spool.
            Some((Err(remote::Error::NotFound), _)) => {}
            Some((Err(error), _)) => return Err(error),
            Some((Ok(_), _)) | None => {
                match self.remote.unlink(path, deadline) {
                    Err(remote::Error::IsDirectory) => self.remote.rmdir(path, deadline)?,
                    removed => removed?,
                }
                log::info!("removed {path}, which nobody needed any more");
            }
        }
        Ok(())
    }

    /// Puts back what was set aside to be replaced by `target`, where a crash came in between;
    /// whether there was any such file.
    pub(super) fn put_back(
        &self,
        target: &RemotePath,
        deadline: Instant,
    ) -> Result<bool, remote::Error> {
        let Some((name, directory)) = target.name().zip(target.parent()) else {
            return Ok(false);
        };
        let is_it = |found: &Name| {
            let told = Temporary::parse(found);
            told.is_some_and(|told| {
                told.holds == Holds::Replaced(Some(name.clone()))
                    && self.remote.temporaries().made(&told)
                    && !self.remote.temporaries().is_in_use(found)
            })
        };
        let listing = self.remote.list(&directory, deadline)?;
        match listing.entries.iter().find(|(found, _)| is_it(found)) {
            None => Ok(false),
            Some((aside, _)) => {
                self.remote
                    .rename(&directory.join(aside), target, deadline)?;
                self.altered(target);
                Ok(true)
            }
        }
    }

    /// Removes temporary files from a directory that holds nothing else; whether it did. What was
    /// unlinked there and is still open moves to the directory above.
    pub(super) fn sweep(
        &self,
        parent: Ino,
        name: &Name,
        path: &RemotePath,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let failed = |cause| Error::remote(path, cause);
        loop {
            let listing = self.remote.list(path, deadline).map_err(failed)?;
            if !listing.complete {
                return Ok(false);
            }
            let mut left = Vec::new();
            let mut is_busy = false;
            for (name, attributes) in &listing.entries {
                let Some(told) = Temporary::parse(name) else {
                    return Ok(false);
                };
                let at = path.join(name);
                if self.remote.temporaries().is_in_use(name) {
                    is_busy = true;
                } else if told.holds == Holds::Spare
                    && self.seems_left(name, &told, attributes)
                    && match self.is_left(&at, name, &told, deadline) {
                        // Removed meanwhile, by the thread that tidies up.
                        Err(remote::Error::NotFound) => true,
                        is_left => is_left.map_err(failed)?,
                    }
                {
                    left.push(at);
                } else {
                    self.tidy_up(path, &listing);
                    return Ok(false);
                }
            }
            for at in &left {
                match self.remote.unlink(at, deadline) {
                    Ok(()) | Err(remote::Error::NotFound) => {}
                    Err(cause) => return Err(Error::remote(at, cause)),
                }
            }
            if !is_busy {
                return Ok(true);
            }
            if let Some(ino) = self.inodes.child(parent, name) {
                self.move_asides(parent, ino, path, deadline)
                    .map_err(failed)?;
            }
            // An upload that nobody wants any more ends soon; another one takes its file away.
            if Instant::now() + POLL > deadline {
                return Ok(false);
            }
            thread::sleep(POLL);
        }
    }

    /// Files of a directory that were unlinked and are still open go to the directory above.
    fn move_asides(
        &self,
        parent: Ino,
        ino: Ino,
        path: &RemotePath,
        deadline: Instant,
    ) -> Result<(), remote::Error> {
        for (file, aside) in self.inodes.asides(ino) {
            let above = self.remote.temporaries().beside(path);
            self.remote.rename(&aside, above.path(), deadline)?;
            self.inodes.move_aside(file, parent, above);
            if let Some(open) = self.files.of(file) {
                open.renew(None);
            }
        }
        Ok(())
    }

    /// What is known without asking the server.
    fn seems_left(&self, name: &Name, told: &Temporary, attributes: &Attributes) -> bool {
        if attributes.kind != FileKind::File && told.holds == Holds::Spare {
            return false;
        }
        if self.remote.temporaries().made(told) {
            return !self.remote.temporaries().is_in_use(name);
        }
        let now = SystemTime::now();
        is_old(told.made, now) && is_old(attributes.mtime, now)
    }

    /// What the server says, where it has to be asked.
    fn is_left(
        &self,
        path: &RemotePath,
        name: &Name,
        told: &Temporary,
        deadline: Instant,
    ) -> Result<bool, remote::Error> {
        if self.remote.temporaries().made(told) {
            return Ok(!self.remote.temporaries().is_in_use(name));
        }
        let now = self.server_clock(path, deadline)?;
        let found = self.remote.stat(path, Some(&blank(UNIX_EPOCH)), deadline)?;
        Ok(is_old(told.made, now) && is_old(found.mtime, now))
    }

    /// What the server's clock says, as its files' times do: learned from one made for it in the
    /// directory of `path`.
    fn server_clock(
        &self,
        path: &RemotePath,
        deadline: Instant,
    ) -> Result<SystemTime, remote::Error> {
        let known = self.tidying.0.lock().clock;
        if let Some((told, at)) = known
            && at.elapsed() < CLOCK_LIFETIME
        {
            return Ok(told + at.elapsed());
        }
        let scratch = self.remote.temporaries().beside(path);
        let scratch = scratch.path();
        let made = self.remote.store(scratch, deadline);
        let told = made
            .and_then(|upload| upload.finish(deadline))
            .and_then(|()| {
                self.remote
                    .stat(scratch, Some(&blank(UNIX_EPOCH)), deadline)
            });
        let gone = self.remote.unlink(scratch, deadline);
        let told = told?.mtime;
        gone?;
        self.tidying.0.lock().clock = Some((told, Instant::now()));
        Ok(told)
    }

    /// Whether the spool has a file that is to go there.
    fn is_awaited(&self, path: &RemotePath) -> bool {
        let records = self.drafts.spool().map(|spool| spool.records());
        let mut records = records.unwrap_or_default().into_iter();
        records.any(|record| !record.unlinked && record.path == *path)
    }
}

/// Whether a time was long ago; one that the server does not tell never was.
fn is_old(time: SystemTime, now: SystemTime) -> bool {
    time > UNIX_EPOCH && now.duration_since(time).is_ok_and(|age| age >= OLD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_is_a_day_or_more_and_never_unknown() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert!(is_old(now - OLD, now));
        assert!(!is_old(now - OLD + Duration::from_secs(1), now));
        assert!(!is_old(now + OLD, now));
        assert!(!is_old(UNIX_EPOCH, now));
    }

    #[test]
    fn what_was_tried_lately_is_left_alone() {
        let tidying = Tidying::new();
        let path = || RemotePath::parse(b"/a").into_iter();
        assert!(tidying.enqueue(path()));
        assert!(!tidying.enqueue(path()), "somebody is at it");
        assert!(tidying.next().is_some() && tidying.next().is_none());
        assert!(!tidying.enqueue(path()), "tried");
        tidying.give_up();
        assert!(tidying.enqueue(path()), "not really tried");
    }
}
