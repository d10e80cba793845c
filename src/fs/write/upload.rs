//! Uploading a draft: what the server lacks of its newest version, in the way that costs least and
//! never leaves a file half written under its name, as far as the server lets us.
//!
//! Must not know handles or the kernel.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::super::Fs;
use super::super::spool::{Base, Method, Record, RecordId, SpoolError, Version, Wanted};
use super::{Draft, Dress, base_of};
use crate::fs::Error;
use crate::proto::RemotePath;
use crate::remote::{self, Attributes};

/// Between the attempts where connections are lost.
pub(super) const PAUSE: Duration = Duration::from_millis(300);
/// Files from this size on are changed in place, where few bytes of them changed.
const PATCHABLE: u64 = 1 << 20;
/// Each costs round trips of its own.
const PATCHES: usize = 16;

/// How much of a draft is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Only what was closed: whoever writes to it now has it sent when that is closed.
    Closed,
    Everything,
}

/// What is to be sent.
pub(super) struct Task {
    /// The draft's, until its content is thrown away.
    pub record: RecordId,
    pub version: Version,
    pub size: u64,
    pub base: Option<Base>,
    /// How a broken attempt went about, if it may have changed the file on the server.
    pub interrupted: Option<Method>,
    pub dress: Dress,
    way: Way,
}

/// How to send it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// The server has it already.
    Nothing,
    /// What lies at and beyond this offset.
    Append(u64),
    /// These ranges, in place.
    Patch(Vec<Range<u64>>),
    Whole,
}

/// Why an upload ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The file was cut or moved meanwhile: begin again.
    Again,
    /// It was unlinked meanwhile: nobody wants it any more.
    Unwanted,
    Remote(remote::Error),
    Local(SpoolError),
}

/// How long an upload may take: each step its time, and a transfer as long as it keeps its rate.
pub(super) struct Clock {
    timeout: Duration,
    /// Bytes per second.
    min_rate: u64,
    deadline: Instant,
    began: Instant,
    moved: u64,
}

impl Fs {
    /// Sends what the server lacks of a draft. When it comes back, the server has everything that
    /// was written before the call.
    pub(in crate::fs) fn upload(&self, draft: &Draft) -> Result<(), Error> {
        let sent = self.try_upload(draft, Extent::Everything);
        self.settle_upload(draft, sent)
    }

    /// The same, with nothing told of a failure.
    pub(super) fn try_upload(&self, draft: &Draft, extent: Extent) -> Result<(), Stop> {
        let _upload = draft.upload.lock();
        let mut clock = Clock::new(self.config.timeout, self.config.min_rate);
        let mut losses = 0;
        loop {
            let moment = self.inodes.moment();
            let mut outcome = self.attempt(draft, extent, &mut clock);
            if let Err(Stop::Remote(_)) = &outcome {
                // It, or a directory on the way to it, may have been renamed meanwhile, or removed.
                let _place = self.place(draft, &clock)?;
                if self.inodes.has_moved(draft.ino, moment) {
                    outcome = Err(Stop::Again);
                }
            }
            let again = match &outcome {
                Err(Stop::Again) => true,
                Err(Stop::Remote(why)) if why.is_passing() => {
                    log::debug!("{}: upload: {why}", self.named(draft));
                    losses += 1;
                    losses <= self.config.retries && Instant::now() + PAUSE < clock.deadline()
                }
                _ => false,
            };
            if !again {
                return outcome;
            }
            if !matches!(outcome, Err(Stop::Again)) {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// What came of an upload: what could not be sent is kept, and told of.
    pub(super) fn settle_upload(&self, draft: &Draft, sent: Result<(), Stop>) -> Result<(), Error> {
        match sent {
            Ok(()) | Err(Stop::Unwanted) => Ok(()),
            Err(Stop::Again) => Err(Error::TimedOut),
            Err(Stop::Remote(cause)) => {
                self.keep(draft, &cause.to_string());
                Err(self.failed_there(draft, cause))
            }
            Err(Stop::Local(SpoolError::Gone)) => Ok(()),
            Err(Stop::Local(cause)) => {
                self.keep(draft, &cause.to_string());
                Err(cause.into())
            }
        }
    }

    pub(super) fn failed_there(&self, draft: &Draft, cause: remote::Error) -> Error {
        let path = self.inodes.path(draft.ino);
        let path = path.unwrap_or_else(|| self.config.root.clone());
        Error::Remote { path, cause }
    }

    fn attempt(&self, draft: &Draft, extent: Extent, clock: &mut Clock) -> Result<(), Stop> {
        if draft.is_unlinked() {
            return Err(Stop::Unwanted);
        }
        if self.config.write_back && draft.is_in_doubt() {
            self.face(draft, clock)?;
            draft.faced();
        } else if draft.doubt().is_some() {
            let _place = self.place(draft, clock)?;
            self.resolve_doubt(draft, clock.deadline())?;
        }
        let Some(task) = self.task(draft, extent)? else {
            return Ok(());
        };
        let sent = match &task.way {
            Way::Nothing => self.send_nothing(draft, &task, clock),
            Way::Append(offset) => self.send_append(draft, &task, *offset, clock),
            Way::Patch(ranges) => self.send_patches(draft, &task, ranges, clock),
            Way::Whole => self.send_whole(draft, &task, clock),
        };
        let sent = match sent {
            Err(Stop::Remote(remote::Error::Denied(why) | remote::Error::Unsupported(why)))
                if task.way != Way::Whole =>
            {
                log::debug!("{}: sent whole instead: {why}", self.named(draft));
                self.send_whole(draft, &task, clock)
            }
            sent => sent,
        };
        let (server, _place) = sent?;
        self.settled(draft, task.version, &server, Some(&task.dress))
    }

    /// What the server lacks, if anything.
    fn task(&self, draft: &Draft, extent: Extent) -> Result<Option<Task>, Stop> {
        if extent == Extent::Everything {
            // With write-back it must not stand, unsafe, in the place of what was promised before.
            draft.file.promise()?;
        }
        let record = draft.file.record()?;
        let is_closed = !record.changed || extent == Extent::Everything;
        if !is_closed || !record.is_owed() && record.wanted == Wanted::default() {
            return Ok(None);
        }
        Ok(Some(Task {
            record: record.id,
            version: record.version,
            size: record.size,
            base: record.base,
            interrupted: record.torn.clone(),
            dress: draft.dress(),
            way: self.way(&record),
        }))
    }

    fn way(&self, record: &Record) -> Way {
        let Some(base) = record.base.filter(|base| base.size > 0) else {
            return Way::Whole;
        };
        if record.base_valid < base.size || record.size < base.size {
            return Way::Whole;
        }
        let dirty = record.dirty();
        let Some(first) = dirty.iter().next() else {
            return match record.size == base.size {
                true => Way::Nothing,
                false => Way::Whole,
            };
        };
        if first.start >= base.size {
            return Way::Append(base.size);
        }
        // At offset 0 a REST is a plain STOR, which empties the file.
        let few = dirty.fragments() <= PATCHES && dirty.covered() <= base.size / 4;
        if record.size == base.size && base.size >= PATCHABLE && few && first.start > 0 {
            return Way::Patch(dirty.iter().collect());
        }
        Way::Whole
    }

    /// The server has this version of a draft, as `server`: by an upload that gave it `dress`, or as was found out.
    pub(super) fn settled(
        &self,
        draft: &Draft,
        version: Version,
        server: &Attributes,
        dress: Option<&Dress>,
    ) -> Result<(), Stop> {
        draft.file.mark_uploaded(version, base_of(server))?;
        if let Some(dress) = dress {
            draft.reach.store(0, Ordering::Relaxed);
            let wanted = draft.file.with(|record| record.wanted)?;
            draft.file.mark_applied(dress.of(wanted))?;
        }
        draft.settle(server, dress);
        if let Some(path) = self.inodes.path(draft.ino) {
            self.made(draft.ino, &path, server);
        }
        Ok(())
    }

    /// We ourselves have made a file on the server what it is: all that is known of it follows.
    pub(in crate::fs) fn made(
        &self,
        ino: super::super::Ino,
        path: &RemotePath,
        server: &Attributes,
    ) {
        // First the cache: who asks from the renewal on is believed.
        match self.inodes.is_unlinked(ino) {
            // Where it was set aside there is nothing to be seen.
            true => self.altered(path),
            false => self.note(path, Some(server)),
        }
        if let Some(file) = self.files.of(ino) {
            file.renew(Some(server));
            self.grown(ino, server.size);
        }
        self.inodes.caches(ino, (server.size, server.mtime));
    }

    /// What cannot be sent stays in the spool; told once.
    fn keep(&self, draft: &Draft, why: &str) {
        let is_news = draft.file.with(|record| record.failure.is_none());
        if let Err(error) = draft.file.fail(why, SystemTime::now())
            && !matches!(error, SpoolError::Gone)
        {
            log::error!("{}: {error}", self.named(draft));
        }
        if is_news.unwrap_or(false) {
            log::error!(
                "{} could not be uploaded ({why}); its content is kept, and given back by: {}",
                self.named(draft),
                self.way_back(draft.id())
            );
        }
    }

    pub(super) fn named(&self, draft: &Draft) -> String {
        match self.inodes.path(draft.ino) {
            Some(path) => path.to_string(),
            None => format!("inode {}", draft.ino.0),
        }
    }
}

impl Task {
    /// Whether it is still wanted, and the draft has its content.
    pub fn is_of(&self, draft: &Draft) -> bool {
        draft.id() == self.record && !draft.is_unlinked()
    }

    /// A draft that became, on the server, a copy of a file of `size` bytes.
    pub fn copied(draft: &Draft, size: u64) -> Self {
        Self {
            record: draft.id(),
            version: Version::default(),
            size,
            base: None,
            interrupted: None,
            dress: draft.dress(),
            way: Way::Whole,
        }
    }
}

impl Clock {
    pub fn new(timeout: Duration, min_rate: u64) -> Self {
        let now = Instant::now();
        Self {
            timeout,
            min_rate,
            deadline: now + timeout,
            began: now,
            moved: 0,
        }
    }

    /// For the next step.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Bytes were transferred: as long as they are enough, there is more time.
    pub fn moved(&mut self, bytes: u64) {
        self.moved += bytes;
        let now = Instant::now();
        let elapsed = now.duration_since(self.began);
        if elapsed < self.timeout || self.moved >= self.min_rate * elapsed.as_secs() {
            self.deadline = now + self.timeout;
        }
    }

    /// The wait for a turn counts for nothing.
    pub fn restart(&mut self) {
        *self = Self::new(self.timeout, self.min_rate);
    }
}

impl From<SpoolError> for Stop {
    fn from(error: SpoolError) -> Self {
        match error {
            // Released by a truncation meanwhile.
            SpoolError::Missing(_) => Self::Again,
            error => Self::Local(error),
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Again => f.write_str("it changed meanwhile"),
            Self::Unwanted => f.write_str("it was removed meanwhile"),
            Self::Remote(error) => error.fmt(f),
            Self::Local(error) => error.fmt(f),
        }
    }
}

impl From<remote::Error> for Stop {
    fn from(error: remote::Error) -> Self {
        Self::Remote(error)
    }
}
