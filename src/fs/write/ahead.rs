//! Content on its way to a temporary name. New files that are written in order go there while they
//! are still being written: a copy's progress is true, and close(2) has little left to wait for.
//!
//! What arrived stays there when the connection breaks, or when others need the session: the
//! rest is appended later, at the size that the server then tells. Must not know handles or the
//! kernel.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::super::spool::{Method, SpoolFile};
use super::super::{Error, Fs, Patience};
use super::send::{Beside, CHUNK};
use super::turns::Turn;
use super::upload::{Clock, PAUSE, Stop};
use super::{Draft, blank, now};
use crate::remote::{self, Upload};

/// A file goes ahead once so much of it was written: smaller ones go when they are closed.
const START: u64 = 512 << 10;
/// A writer may be so far ahead of the server, bytes.
const LEAD: u64 = 16 << 20;
/// How long one write waits for the server at most.
const BRAKE: Duration = Duration::from_secs(2);
/// An upload gives its session to those who wait after so long.
const SLICE: Duration = Duration::from_secs(2);
/// How long they have to take it.
const COURTESY: Duration = Duration::from_secs(1);
/// A writer that pauses so long lets others have the session, and so long ends the transfer.
const BREATH: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(5);
/// How often it looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);
/// Less than that is sent again from the beginning.
const RESUMABLE: u64 = 1 << 20;

/// A temporary file in the making: what its upload and those who wait for it share.
pub(super) struct Ahead {
    pub beside: Beside,
    /// The content must not change behind the upload.
    live: bool,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Bytes on their way.
    sent: u64,
    /// Where it ends, once that is known.
    goal: Option<u64>,
    unwanted: bool,
    end: Option<End>,
}

/// What came of it.
enum End {
    Whole,
    /// The server has no room.
    Full(remote::Error),
    Broken,
}

/// What to do next.
enum Step {
    Send(usize),
    /// Nothing, as yet.
    Wait,
    Finish,
}

impl Ahead {
    fn new(beside: Beside, goal: Option<u64>) -> Self {
        Self {
            beside,
            live: goal.is_none(),
            state: Mutex::new(State {
                sent: 0,
                goal,
                unwanted: false,
                end: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits until `size` bytes have arrived; `false` where they will not.
    fn complete(&self, size: u64) -> bool {
        let mut state = self.state.lock();
        state.goal = Some(size);
        self.changed.notify_all();
        // The upload has deadlines of its own.
        while state.end.is_none() {
            self.changed.wait(&mut state);
        }
        matches!(state.end, Some(End::Whole))
    }

    fn end(&self, end: End) {
        self.state.lock().end.get_or_insert(end);
        self.changed.notify_all();
    }

    /// Nobody waits for it any more.
    pub fn abandon(&self) {
        self.state.lock().unwanted = true;
        self.changed.notify_all();
    }

    fn next(&self, file: &SpoolFile, at: u64) -> Result<Step, Stop> {
        let (size, fits) = file.with(|record| {
            let fits = !record.unlinked && (record.sequential || !self.live);
            (record.size, fits)
        })?;
        let mut state = self.state.lock();
        if state.unwanted {
            return Err(Stop::Unwanted);
        }
        let end = state.goal.unwrap_or(size);
        if !fits || size < end || at > end {
            return Err(Stop::Again);
        }
        state.sent = at;
        self.changed.notify_all();
        let left = usize::try_from(end - at).unwrap_or(CHUNK);
        Ok(match (left, state.goal) {
            (0, Some(_)) => Step::Finish,
            (0, None) => Step::Wait,
            _ => Step::Send(CHUNK.min(left)),
        })
    }

    /// Whether a writer that has come to `size` should wait a while.
    fn is_behind(&self, size: u64) -> bool {
        let state = self.state.lock();
        state.end.is_none() && state.sent + LEAD < size
    }

    fn pause(&self) {
        self.changed.wait_for(&mut self.state.lock(), LOOK);
    }
}

/// Tells those who wait, however the thread ends.
struct Ended<'a>(&'a Ahead);

impl Ended<'_> {
    fn with(self, outcome: &Result<(), Stop>) {
        self.0.end(match outcome {
            Ok(()) => End::Whole,
            Err(Stop::Remote(full @ (remote::Error::NoSpace(_) | remote::Error::Quota(_)))) => {
                End::Full(full.clone())
            }
            Err(_) => End::Broken,
        });
    }
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.end(End::Broken);
    }
}

impl Fs {
    /// A draft was written to: it may go ahead.
    pub(super) fn send_ahead(&self, draft: &Arc<Draft>) -> Result<(), Error> {
        if let Some(ahead) = draft.ahead() {
            let state = ahead.state.lock();
            ahead.changed.notify_all();
            return match &state.end {
                Some(End::Full(full)) => Err(Error::Remote {
                    path: self.inodes.path(draft.ino).ok_or(Error::Stale)?,
                    cause: full.clone(),
                }),
                _ => Ok(()),
            };
        }
        let fits = draft.file.with(|record| {
            let is_new = record.base.is_none() || record.base_valid == 0;
            is_new && record.sequential && record.size >= START && !record.unlinked
        })?;
        if fits
            && !self.config.direct
            && let Some(turn) = self.drafts.turns.try_take()
            && let Err(stop) = self.set_out(draft, turn)
        {
            log::debug!("inode {}: it is sent when closed: {stop:?}", draft.ino.0);
        }
        Ok(())
    }

    fn set_out(&self, draft: &Draft, turn: Turn) -> Result<(), Stop> {
        let fs = self.this.upgrade().ok_or(Stop::Unwanted)?;
        let beside = self.beside(draft)?;
        let version = draft.file.with(|record| record.version)?;
        let method = Method::Temporary(self.whereabouts(&beside)?);
        draft.file.begin_upload(version, method)?;
        let ahead = Arc::new(Ahead::new(beside, None));
        draft.set_ahead(Some(ahead.clone()));
        let file = draft.file.clone();
        let run = move || {
            let ended = Ended(&ahead);
            let mut clock = Clock::new(fs.config.timeout, fs.config.min_rate);
            let outcome = fs.pump(&file, &ahead, Some(turn), &mut clock);
            if let Err(stop) = &outcome {
                log::debug!("{}: sent ahead in vain: {stop:?}", ahead.beside.name());
                fs.clean_up(&ahead.beside, stop);
            }
            ended.with(&outcome);
        };
        let spawned = thread::Builder::new().name("ahead".to_owned()).spawn(run);
        spawned.map(drop).map_err(|error| {
            draft.set_ahead(None);
            Stop::Remote(remote::Error::Failed(format!("no thread: {error}")))
        })
    }

    /// Whether the writer of an open file should wait for the server a while.
    pub fn is_far_ahead(&self, handle: u64) -> bool {
        self.ahead_of(handle)
            .is_some_and(|(ahead, size)| ahead.is_behind(size))
    }

    /// Lets the server catch up with a writer.
    pub fn catch_up(&self, handle: u64, patience: Patience) -> Result<(), Error> {
        let until = patience.deadline()?.min(Instant::now() + BRAKE);
        let Some((ahead, size)) = self.ahead_of(handle) else {
            return Ok(());
        };
        while ahead.is_behind(size) {
            let timed_out = ahead
                .changed
                .wait_until(&mut ahead.state.lock(), until)
                .timed_out();
            if timed_out {
                break;
            }
        }
        Ok(())
    }

    fn ahead_of(&self, handle: u64) -> Option<(Arc<Ahead>, u64)> {
        let file = self.files.file(handle)?;
        let draft = self.drafts.of(file.ino)?;
        Some((draft.ahead()?, draft.file.size().ok()?))
    }

    /// Has the first `size` bytes of a draft under a temporary name, sent ahead or now.
    pub(super) fn send_beside(
        &self,
        draft: &Draft,
        size: u64,
        clock: &mut Clock,
    ) -> Result<Arc<Ahead>, Stop> {
        if let Some(ahead) = draft.set_ahead(None)
            && ahead.complete(size)
        {
            clock.restart();
            return Ok(ahead);
        }
        let version = draft.file.with(|record| record.version)?;
        let ahead = Ahead::new(self.beside(draft)?, Some(size));
        let method = Method::Temporary(self.whereabouts(&ahead.beside)?);
        draft.file.begin_upload(version, method)?;
        if let Err(stop) = self.pump(&draft.file, &ahead, None, clock) {
            self.clean_up(&ahead.beside, &stop);
            return Err(stop);
        }
        Ok(Arc::new(ahead))
    }

    /// Sends bytes as they come, until all have arrived.
    fn pump(
        &self,
        file: &SpoolFile,
        ahead: &Ahead,
        turn: Option<Turn>,
        clock: &mut Clock,
    ) -> Result<(), Stop> {
        let mut course = Course {
            fs: self,
            beside: &ahead.beside,
            at: 0,
            turn,
            upload: None,
            confirmed: false,
        };
        let mut failures = 0;
        let mut farthest = 0;
        loop {
            match course.advance(file, ahead, clock) {
                Err(Stop::Remote(why)) if why.is_passing() => {
                    if course.at > farthest {
                        (failures, farthest) = (0, course.at);
                    }
                    failures += 1;
                    log::debug!("{}: {why}", ahead.beside.name());
                    if failures > self.config.retries || Instant::now() + PAUSE >= clock.deadline()
                    {
                        return Err(Stop::Remote(why));
                    }
                    thread::sleep(PAUSE);
                    course.resume(clock)?;
                }
                done => return done,
            }
        }
    }
}

/// One upload of one temporary file, in as many transfers as it takes.
struct Course<'a> {
    fs: &'a Fs,
    beside: &'a Beside,
    /// Bytes that went to the server.
    at: u64,
    turn: Option<Turn>,
    upload: Option<(Upload, Instant)>,
    /// The server said that it has everything up to here.
    confirmed: bool,
}

impl Course<'_> {
    fn advance(&mut self, file: &SpoolFile, ahead: &Ahead, clock: &mut Clock) -> Result<(), Stop> {
        let mut chunk = Vec::new();
        let mut waiting = None;
        loop {
            match ahead.next(file, self.at) {
                Ok(Step::Send(most)) => {
                    if waiting.take().is_some() {
                        clock.restart();
                    }
                    chunk.resize(most, 0);
                    let read = file.read_at(&mut chunk, self.at);
                    if !matches!(read, Ok(read) if read == most) {
                        self.give_up();
                        return Err(read.map_or_else(Stop::from, |_| Stop::Again));
                    }
                    self.transfer(clock)?.write(&chunk, clock.deadline())?;
                    self.at += most as u64;
                    clock.moved(most as u64);
                    self.yield_after(SLICE, clock)?;
                }
                Ok(Step::Wait) => {
                    let since: &mut Instant = waiting.get_or_insert_with(Instant::now);
                    let idle = since.elapsed();
                    if idle > IDLE {
                        self.settle(clock)?;
                    } else if idle > BREATH {
                        clock.restart();
                        self.yield_after(BREATH, clock)?;
                    }
                    ahead.pause();
                }
                Ok(Step::Finish) => {
                    if !self.confirmed {
                        self.transfer(clock)?;
                        self.settle(clock)?;
                    }
                    // Was it still the same to the end?
                    return ahead.next(file, self.at).map(drop);
                }
                Err(stop) => {
                    self.give_up();
                    return Err(stop);
                }
            }
        }
    }

    /// The transfer under way, or a new one that goes on from here.
    fn transfer(&mut self, clock: &mut Clock) -> Result<&mut Upload, Stop> {
        if self.upload.is_none() {
            if self.turn.is_none() {
                self.turn = Some(self.fs.drafts.turns.take());
                clock.restart();
            }
            let path = self.fs.whereabouts(self.beside)?;
            let deadline = clock.deadline();
            let upload = match self.at {
                0 => self.fs.remote.store(&path, deadline),
                at => self.fs.remote.append(&path, at, true, deadline),
            };
            self.upload = Some((upload?, Instant::now()));
            self.confirmed = false;
        }
        match &mut self.upload {
            Some((upload, _)) => Ok(upload),
            None => Err(Stop::Again), // Cannot be: it was made above.
        }
    }

    /// Ends a transfer that is that old where others wait for its session, and lets them have it.
    fn yield_after(&mut self, age: Duration, clock: &mut Clock) -> Result<(), Stop> {
        let is_due = |(upload, since): &(Upload, Instant)| {
            since.elapsed() > age && (upload.is_wanted() || self.fs.drafts.turns.is_wanted())
        };
        if self.upload.as_ref().is_some_and(is_due) {
            self.settle(clock)?;
            let until = Instant::now() + COURTESY;
            while self.fs.remote.is_busy() && Instant::now() < until {
                thread::sleep(LOOK);
            }
            clock.restart();
        }
        Ok(())
    }

    /// Ends the transfer: the server has everything up to here.
    fn settle(&mut self, clock: &Clock) -> Result<(), Stop> {
        if let Some((upload, _)) = self.upload.take() {
            upload.finish(clock.deadline())?;
            self.confirmed = true;
        }
        self.turn = None;
        Ok(())
    }

    fn give_up(&mut self) {
        if let Some((upload, _)) = self.upload.take() {
            upload.give_up();
        }
        self.turn = None;
    }

    /// The connection broke: goes on behind what arrived of it, if that is worth it.
    fn resume(&mut self, clock: &mut Clock) -> Result<(), Stop> {
        self.upload = None;
        self.confirmed = false;
        if self.at < RESUMABLE {
            self.at = 0;
            return Ok(());
        }
        let path = self.fs.whereabouts(self.beside)?;
        let known = blank(now());
        self.at = match self.fs.remote.stat(&path, Some(&known), clock.deadline()) {
            // What it has of the chunk that broke is ours as well.
            Ok(found) if (RESUMABLE..=self.at + CHUNK as u64).contains(&found.size) => found.size,
            Ok(_) | Err(remote::Error::NotFound) => 0,
            Err(cause) => return Err(cause.into()),
        };
        Ok(())
    }
}
