//! One stream: a pump thread that owns a [`Download`] and fills a [`Window`] ahead of the reads that
//! come for it.
//!
//! Reads wait for the pump, never for the server: closing a stream waits for nothing. Must not
//! know the kernel, handles or inodes. The stream's lock is held for memory work only.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::memory::{BUFFER, Buffer, Part, Refused};
use super::window::{Data, Window};
use super::{Reads, Target};
use crate::remote::{self, Download};

/// A reader that pauses so long lets others have the session, should they need it.
const PAUSE: Duration = Duration::from_millis(20);
/// A stream that nobody reads ends after that.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// How long to wait before asking again for memory.
const SHORTAGE: Duration = Duration::from_millis(50);
/// What was fetched is handed over after that, even if nobody waits for it yet.
const HANDOVER: Duration = Duration::from_millis(200);
/// Buffers that a stream leaves to the one before it in the file.
const RESERVE: usize = (4 << 20) / BUFFER;
/// How long a failure answers reads, also those that come after it: what failed to be read ahead
/// the kernel asks for once more, and would wait twice. Later reads try again.
const NEWS: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Stream {
    state: Mutex<State>,
    /// Rung when bytes, the end or an error arrived.
    arrived: Condvar,
    /// Rung when there is something to fetch, or the stream was closed.
    room: Condvar,
    /// [`Window::wanted`], for the pump to see while it reads.
    wanted: AtomicU64,
    part: Arc<Part>,
    /// [`Target::epoch`].
    epoch: u64,
}

struct State {
    window: Window,
    failed: Option<(remote::Error, Instant)>,
    closed: bool,
    /// Whether its pump is still there.
    pumped: bool,
    /// When it was last read from.
    used: Instant,
    /// What the server said of the file's size when it began, bytes.
    told: Option<u64>,
}

/// Why a stream does not answer a read.
#[derive(Debug)]
pub(super) enum Stop {
    /// The bytes are not there, and the caller would not wait.
    WouldWait,
    /// The stream ended or has passed the place: look for another.
    Gone,
    TimedOut,
    Failed(remote::Error),
}

impl Stream {
    /// Starts to fetch `target` where the window begins, within that part of the memory.
    pub fn start(
        reads: &Arc<Reads>,
        target: &Target,
        window: Window,
        part: Arc<Part>,
    ) -> Arc<Self> {
        let offset = window.end();
        let stream = Arc::new(Self {
            state: Mutex::new(State {
                window,
                failed: None,
                told: None,
                closed: false,
                pumped: true,
                used: Instant::now(),
            }),
            arrived: Condvar::new(),
            room: Condvar::new(),
            wanted: AtomicU64::new(u64::MAX),
            part,
            epoch: target.epoch,
        });
        let pump = Pump {
            stream: stream.clone(),
            reads: reads.clone(),
        };
        let target = target.clone();
        let name = "read-ahead".to_owned();
        let spawned = thread::Builder::new()
            .name(name)
            .spawn(move || pump.run(&target, offset));
        if let Err(error) = spawned {
            stream.fail(remote::Error::Failed(format!("cannot read ahead: {error}")));
        }
        stream
    }

    /// Answers a read, waiting for its bytes until `deadline` where there is one.
    pub fn read(&self, read: &Range<u64>, deadline: Option<Instant>) -> Result<Data, Stop> {
        let mut state = self.state.lock();
        state.used = Instant::now();
        state.window.ask(read);
        let mut waiting = false;
        let answer = loop {
            if let Some(cut) = state.window.cut(read) {
                state.window.trim(self.part.share());
                break Ok(cut);
            }
            if let Some((error, _)) = &state.failed {
                break Err(Stop::Failed(error.clone()));
            }
            let passed = state.window.has_passed(read) || state.window.limit() < read.end;
            if state.closed || passed {
                break Err(Stop::Gone);
            }
            let Some(deadline) = deadline else {
                break Err(Stop::WouldWait);
            };
            if !waiting {
                waiting = true;
                state.window.wait(read);
                self.want(&state);
            }
            self.room.notify_one();
            if self.arrived.wait_until(&mut state, deadline).timed_out() {
                break Err(Stop::TimedOut);
            }
        };
        if waiting {
            state.window.unwait(read);
            self.want(&state);
        }
        if state.window.missing() > 0 {
            self.room.notify_one();
        }
        drop(state);
        answer.map(|cut| cut.join())
    }

    /// Whether a read is best served here, and how far it is from what comes next.
    pub fn distance(&self, read: &Range<u64>, size: u64) -> Option<u64> {
        let state = self.state.lock();
        let news = |(_, at): &(_, Instant)| at.elapsed() < NEWS;
        let alive = !state.closed && state.failed.as_ref().is_none_or(news);
        let reaches = alive && state.window.reaches(read, size);
        reaches.then(|| state.window.end().abs_diff(read.start))
    }

    /// How many bytes the file had when it began, by the server's word.
    pub fn told_size(&self) -> Option<u64> {
        self.state.lock().told
    }

    /// Whether all of a read's bytes are there.
    pub fn holds(&self, read: &Range<u64>) -> bool {
        let state = self.state.lock();
        !state.closed && state.window.holds(read)
    }

    /// A read that could have come was answered from elsewhere.
    pub fn skip(&self, read: &Range<u64>) {
        let mut state = self.state.lock();
        state.window.skip(read);
        state.window.trim(self.part.share());
        self.room.notify_one();
    }

    /// Leaves what is beyond `limit` to others; `false` where it has come too far for that.
    pub fn stop_at(&self, limit: u64) -> bool {
        self.state.lock().window.stop_at(limit)
    }

    /// The same for one of several streams, which fetches all that is before it.
    pub fn end_at(&self, limit: u64) -> bool {
        let early = self.state.lock().window.end_at(limit);
        self.room.notify_one();
        early
    }

    /// Takes over what was left to others; `false` where it is about to end.
    pub fn go_on(&self) -> bool {
        let mut state = self.state.lock();
        let alive = !state.closed && state.failed.is_none() && state.window.go_on();
        self.room.notify_one();
        alive
    }

    fn is_one_of_several(&self) -> bool {
        self.state.lock().window.is_eager()
    }

    /// Where another stream goes on; `u64::MAX` where none does.
    pub fn limit(&self) -> u64 {
        self.state.lock().window.limit()
    }

    /// How far it has come.
    pub fn end(&self) -> u64 {
        self.state.lock().window.end()
    }

    /// Whether it is read in order; `false` for one that only serves single reads.
    pub fn is_sequential(&self) -> bool {
        !self.state.lock().window.is_random()
    }

    /// Whether nobody has gone on reading where the first read was.
    pub fn is_single(&self) -> bool {
        self.state.lock().window.is_single()
    }

    /// How much it has still to fetch.
    pub fn left(&self) -> u64 {
        let state = self.state.lock();
        match state.closed || state.failed.is_some() {
            true => 0,
            false => state.window.left(),
        }
    }

    /// The part of the memory that it shares with those that read the same file beside it.
    pub fn part(&self) -> &Arc<Part> {
        &self.part
    }

    /// Which of the file's contents it reads.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether it will answer no more reads.
    pub fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.closed || state.failed.is_some()
    }

    /// Whether it was closed while its pump waits for the server.
    pub fn is_abandoned(&self) -> bool {
        let state = self.state.lock();
        state.closed && state.pumped
    }

    /// Since when nobody reads it; `None` while a read waits.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        (!state.window.is_waited_for()).then_some(state.used)
    }

    /// Ends it and frees its memory. Waits for nothing: the pump follows when it can.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.window.clear();
        self.arrived.notify_all();
        self.room.notify_all();
    }

    fn fail(&self, error: remote::Error) {
        self.state.lock().failed = Some((error, Instant::now()));
        self.arrived.notify_all();
    }

    fn want(&self, state: &State) {
        self.wanted.store(state.window.wanted(), Ordering::Relaxed);
    }
}

/// The thread behind a stream.
struct Pump {
    stream: Arc<Stream>,
    reads: Arc<Reads>,
}

impl Pump {
    fn run(self, target: &Target, offset: u64) {
        match self.pump(target, offset) {
            Ok(true) => {
                // Its session is free by now.
                let leftovers = self.reads.leftovers.clone();
                let stream = Arc::downgrade(&self.stream);
                drop(self);
                leftovers.keep(stream);
            }
            Ok(false) => {}
            // Perhaps the server bears one transfer only: one that stands alone has to fail, too.
            Err(error) if self.stream.is_one_of_several() => {
                log::debug!("{}: {error}", target.path);
                self.stream.close();
            }
            Err(error) => self.stream.fail(error),
        }
    }

    /// Whether it came to the end of what it was to fetch.
    fn pump(&self, target: &Target, offset: u64) -> Result<bool, remote::Error> {
        let Reads { remote, shelf, .. } = &*self.reads;
        if self.stream.state.lock().closed {
            return Ok(false);
        }
        let mut keeping = target
            .edition
            .zip(shelf.as_ref())
            .and_then(|(edition, shelf)| shelf.keep(&target.path, edition));
        let deadline = self.deadline();
        let mut download = remote.download(
            &target.path,
            offset,
            Some(target.version),
            target.proof.clone(),
            deadline,
        )?;
        self.stream.state.lock().told = Some(download.version().size);
        while let Some((mut buffer, limit)) = self.next_buffer(&mut download) {
            let offset = download.offset();
            let (filled, end) = self.fill(&mut download, &mut buffer[..limit])?;
            // It may have grown by the time it was begun, or where it went on after a lost connection.
            keeping = keeping.filter(|_| download.version() == target.version);
            if let Some(keeping) = &mut keeping {
                keeping.push(offset, &buffer[..filled]);
            }
            let mut state = self.stream.state.lock();
            state.window.push(buffer, filled);
            if end {
                state.window.finish();
            }
            self.stream.want(&state);
            self.stream.arrived.notify_all();
            drop(state);
            if end {
                return Ok(true);
            }
        }
        let state = self.stream.state.lock();
        Ok(state.window.is_complete() && !state.closed)
    }

    /// Waits until there is something to fetch: a buffer, and how much to put into it. `None` ends
    /// the stream.
    fn next_buffer(&self, download: &mut Download) -> Option<(Buffer, usize)> {
        let stream = &*self.stream;
        let begun = Instant::now();
        let mut parked = false;
        let mut state = stream.state.lock();
        loop {
            if state.closed || state.window.is_complete() {
                return None;
            }
            let missing = state.window.missing();
            let mut shortage = false;
            if missing > 0 {
                let urgent = state.window.wanted() < u64::MAX;
                // Room for the stream that is being read, where this one is ahead of it.
                let reserve = match state.window.is_unread() {
                    true => RESERVE.min(stream.part.share() / 4),
                    false => 0,
                };
                match stream.part.lease(reserve, urgent) {
                    Ok(buffer) => {
                        let limit = buffer
                            .len()
                            .min(usize::try_from(missing).unwrap_or(usize::MAX));
                        return Some((buffer, limit));
                    }
                    Err(Refused::Share) => {}
                    Err(Refused::Exhausted) => {
                        shortage = true;
                        MutexGuard::unlocked(&mut state, || self.reads.reclaim());
                    }
                }
            }
            let idle = begun.elapsed();
            if idle >= IDLE {
                drop(state);
                stream.close();
                return None;
            }
            if !parked && (idle >= PAUSE || state.window.is_random()) {
                parked = true;
                MutexGuard::unlocked(&mut state, || download.park());
                continue;
            }
            let patience = match (shortage, parked) {
                (true, _) => SHORTAGE,
                (false, false) => PAUSE - idle,
                (false, true) => IDLE - idle,
            };
            stream.room.wait_for(&mut state, patience);
        }
    }

    /// Reads until `space` is full, a waiting read can be answered, or the file ends (`true`).
    fn fill(
        &self,
        download: &mut Download,
        space: &mut [u8],
    ) -> Result<(usize, bool), remote::Error> {
        let base = download.offset();
        let begun = Instant::now();
        let mut filled = 0;
        while filled < space.len() {
            match download.read(&mut space[filled..], self.deadline())? {
                0 => return Ok((filled, true)),
                more => filled += more,
            }
            let wanted = self.stream.wanted.load(Ordering::Relaxed);
            if base + filled as u64 >= wanted || begun.elapsed() > HANDOVER {
                break;
            }
        }
        Ok((filled, false))
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.reads.timeout
    }
}

impl Drop for Pump {
    /// Also after a panic nobody waits for a pump that is no more.
    fn drop(&mut self) {
        self.stream.state.lock().pumped = false;
        if thread::panicking() {
            let error = remote::Error::Failed("reading ahead went wrong".into());
            self.stream.fail(error);
        }
    }
}
