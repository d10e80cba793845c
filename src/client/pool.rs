//! [`Pool`]: the bounded set of sessions with one server, and who may have one next.
//!
//! From two sessions up one is kept for metadata. Streams that nobody reads just now are parked
//! here, and the session of the oldest is taken when one is needed. The pool learns the server's
//! own limit and keeps to it for a while.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::download::Download;
use super::foresight::Bell;
use super::kept::Kept;
use super::session::Readiness;
use super::{Config, Error, Profile, ProfileReport, Report, Server, Session};

/// The pause between attempts to reach a server that is down.
const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// How long a server that has been down for long may take to show that it is back.
const GLANCE: Duration = Duration::from_millis(500);
/// The housekeeper's round.
const ROUND: Duration = Duration::from_secs(1);
/// A server that leaves a NOOP unanswered for this long is not there.
const NOOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an aged session may take to start over.
const SPARE_PATIENCE: Duration = Duration::from_secs(5);

/// What a session is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    Metadata,
    Transfer,
}

/// The sessions. Lock: `state` is a leaf, never held over anything that waits.
pub struct Pool {
    pub(super) server: Arc<Server>,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
    /// Rung when a data connection is on its way.
    bell: Arc<Bell>,
    /// Requests that wait for a session.
    waiting: AtomicUsize,
    /// Whose turn it is to find out whether the server keeps REST. Not a leaf: it is held over that, but nobody
    /// waits for it without a deadline, or with a session.
    pub rest_trial: Mutex<()>,
}

#[derive(Default)]
pub(super) struct State {
    /// The most recently used last.
    pub(super) idle: Vec<Session>,
    /// Sessions in being or being made: idle, leased or parked.
    pub(super) open: usize,
    /// Leases of the transfer lane, parked ones among them.
    pub(super) transfers: usize,
    /// The oldest first.
    pub(super) parked: VecDeque<(Ticket, Download)>,
    next_ticket: Ticket,
    /// The server's own limit, and until when it is believed.
    pub(super) cap: Option<(usize, Instant)>,
    pub(super) outage: Option<Outage>,
    /// Something is being done ahead of need.
    pub(super) foreseeing: bool,
    /// Nothing is until then.
    pub(super) foresight_paused: Option<Instant>,
    pub(super) closed: bool,
}

type Ticket = u64;

/// A parked download's claim ticket.
#[derive(Debug)]
pub struct Parked(Ticket);

/// The server cannot be reached.
pub(super) struct Outage {
    since: Instant,
    last_attempt: Instant,
    error: Error,
    /// When the attempt that is under way beside those who wait was begun.
    probe: Option<Instant>,
}

/// Another session that is being opened, for whoever wants one then; and what came of it.
type Opening = Arc<Mutex<Option<Result<(), Error>>>>;

/// A session on loan; dropped, it goes back.
pub struct Lease {
    pool: Arc<Pool>,
    session: Option<Session>,
    lane: Lane,
}

impl Pool {
    /// Connects the first session, so that whatever is wrong shows now.
    pub fn connect(config: Config, deadline: Instant) -> Result<Arc<Self>, Error> {
        let server = Server::new(config)?;
        let mut first = Session::connect(&server, deadline)?;
        first.prepare();
        let state = State {
            idle: vec![first],
            open: 1,
            ..State::default()
        };
        let pool = Arc::new(Self {
            server,
            state: Mutex::new(state),
            changed: Condvar::new(),
            bell: Arc::default(),
            waiting: AtomicUsize::new(0),
            rest_trial: Mutex::default(),
        });
        let weak = Arc::downgrade(&pool);
        let bell = pool.bell.clone();
        thread::Builder::new()
            .name("housekeeper".to_owned())
            .spawn(move || keep_house(&weak, &bell))
            .map_err(|e| Error::lost("starting the housekeeper thread", e))?;
        Ok(pool)
    }

    /// Runs `work` on a session; where that is lost, again on another, as often as `retries=` says.
    /// `work` must be harmless to repeat. In the first attempt the server may be silent for half of the time
    /// only, so that a connection that silently died does not use it all up.
    pub fn run<T>(
        self: &Arc<Self>,
        lane: Lane,
        deadline: Instant,
        mut work: impl FnMut(&mut Session, Instant) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.start(lane, deadline, |mut lease, bound| {
            lease.set_patience(Some(bound.saturating_duration_since(Instant::now())));
            let result = work(&mut lease, deadline);
            lease.set_patience(None);
            result
        })
    }

    /// [`Pool::run`] for work that keeps the session: a transfer. The first attempt is to end in
    /// half of the time that is left once there is a session.
    pub fn start<T>(
        self: &Arc<Self>,
        lane: Lane,
        deadline: Instant,
        mut work: impl FnMut(Lease, Instant) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut lease = self.acquire(lane, deadline)?;
        let mut transfers = lane == Lane::Transfer;
        let mut retries = self.server.config.retries;
        // A limit, or a TLS session too few, is nobody's loss.
        let mut is_adapted = false;
        let now = Instant::now();
        let mut bound = match retries {
            0 => deadline,
            _ => now + deadline.saturating_duration_since(now) / 2,
        };
        loop {
            match work(lease, bound) {
                Err(error @ Error::Busy(_)) if !is_adapted => {
                    log::debug!("{}: {error}; trying with less", self.server.name());
                    self.keep_to_open(&mut self.state.lock());
                    is_adapted = true;
                }
                Err(error @ Error::NoResumption(_)) if !is_adapted => {
                    log::debug!("{}: {error}; trying another", self.server.name());
                    transfers = true;
                    is_adapted = true;
                }
                Err(error) if error.is_transient() && retries > 0 => {
                    log::debug!("{}: {error}; trying once more", self.server.name());
                    transfers |= matches!(error, Error::NoResumption(_));
                    retries -= 1;
                }
                result => return result,
            }
            lease = self.wait_for(lane, transfers, deadline)?;
            bound = deadline;
        }
    }

    /// `retries=`, for those who have to go about it themselves.
    pub fn retries(&self) -> u32 {
        self.server.config.retries
    }

    /// A session for the lane, by the deadline.
    pub fn acquire(self: &Arc<Self>, lane: Lane, deadline: Instant) -> Result<Lease, Error> {
        let transfers = lane == Lane::Transfer;
        let lease = self.wait_for(lane, transfers, deadline)?;
        if transfers {
            self.foresee();
        }
        Ok(lease)
    }

    /// A session for what nobody waits for: an idle one, while others are left for those who do.
    /// More are opened where there may be.
    pub fn spare(self: &Arc<Self>) -> Option<Lease> {
        let lease = {
            let mut state = self.state.lock();
            let limit = self.limit(&mut state);
            let is_free = !state.closed && state.outage.is_none() && !self.is_busy();
            let left = limit - state.open.min(limit) + state.idle.len();
            // Those in transfers may be held for long.
            (is_free && left > 1 && state.transfers < places(limit))
                .then(|| state.take_idle())
                .flatten()
                .map(|session| {
                    state.count(Lane::Transfer, 1);
                    self.lease(session, Lane::Transfer)
                })
        };
        self.foresee();
        lease?.refreshed(false, Instant::now() + SPARE_PATIENCE)
    }

    /// `transfers`: one that was in use before and has no TLS session left for data connections is
    /// replaced.
    fn wait_for(
        self: &Arc<Self>,
        lane: Lane,
        transfers: bool,
        deadline: Instant,
    ) -> Result<Lease, Error> {
        let _waiting = Waiting::new(&self.waiting);
        let mut opening: Option<Opening> = None;
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(Error::lost(
                    "waiting for a session",
                    "the file system is unmounted",
                ));
            }
            if Instant::now() >= deadline {
                let why = state
                    .outage
                    .as_ref()
                    .map_or(String::new(), |o| format!(" ({})", o.error));
                return Err(Error::TimedOut {
                    during: format!("waiting for a free session{why}"),
                });
            }
            if let Some(error) = self.known_outage(&mut state, deadline) {
                return Err(error);
            }
            let limit = self.limit(&mut state);
            let admitted = lane == Lane::Metadata || state.transfers < places(limit);
            if admitted && let Some(session) = state.take_idle() {
                state.count(lane, 1);
                let lease = self.lease(session, lane);
                let refresh = || lease.refreshed(transfers, deadline);
                match MutexGuard::unlocked(&mut state, refresh) {
                    Some(lease) => return Ok(lease),
                    None => continue,
                }
            }
            let ended = opening.as_ref().and_then(|opening| opening.lock().take());
            if let Some(ended) = ended {
                opening = None;
                if let Err(error) = ended {
                    self.refused(error, &mut state, deadline)?;
                    continue;
                }
            }
            if admitted && state.open < limit && opening.is_none() {
                if let Some(outage) = state.outage.as_ref().filter(|o| o.is_fresh()) {
                    self.await_server(outage.error.clone(), &mut state, deadline)?;
                    continue;
                }
                state.open += 1;
                if state.open > 1 {
                    // One of the others may come free sooner.
                    opening = Some(self.open_beside(&mut state, deadline));
                    continue;
                }
                state.count(lane, 1);
                let made = MutexGuard::unlocked(&mut state, || self.make(deadline));
                match made {
                    Ok(session) => {
                        state.outage = None;
                        return Ok(self.lease(session, lane));
                    }
                    Err(error) => {
                        state.open -= 1;
                        state.count(lane, -1);
                        self.note_failure(&mut state, &error);
                        self.changed.notify_all();
                        self.refused(error, &mut state, deadline)?;
                        continue;
                    }
                }
            }
            if opening.is_none()
                && let Some((_, download)) = state.parked.pop_front()
            {
                let lease = MutexGuard::unlocked(&mut state, || {
                    download
                        .give_up_by(deadline)?
                        .refreshed(transfers, deadline)
                });
                if let Some(mut lease) = lease {
                    state.count(lease.lane, -1);
                    lease.lane = lane;
                    state.count(lane, 1);
                    return Ok(lease);
                }
                continue;
            }
            self.changed.wait_until(&mut state, deadline);
        }
    }

    /// Opens another session, which is booked already, in a thread of its own.
    fn open_beside(self: &Arc<Self>, state: &mut State, deadline: Instant) -> Opening {
        let opening = Opening::default();
        let (pool, outcome) = (self.clone(), opening.clone());
        let open = move || {
            pool.open(deadline, |state, ended| {
                if let Err(error) = &ended {
                    pool.note_failure(state, error);
                }
                *outcome.lock() = Some(ended);
            });
        };
        let thread = thread::Builder::new().name("opening".to_owned());
        if let Err(error) = thread.spawn(open) {
            state.open -= 1;
            *opening.lock() = Some(Err(Error::lost("starting a thread", error)));
        }
        opening
    }

    /// Opens a session that is booked already, for whoever wants one then.
    pub(super) fn open(
        &self,
        deadline: Instant,
        ended: impl FnOnce(&mut State, Result<(), Error>),
    ) {
        let made = self.make(deadline);
        let mut state = self.state.lock();
        match made {
            Ok(mut session) => {
                state.outage = None;
                ended(&mut state, Ok(()));
                drop(state);
                session.prepare();
                self.take_in(session);
            }
            Err(error) => {
                state.open -= 1;
                ended(&mut state, Err(error));
                self.changed.notify_all();
            }
        }
    }

    /// What a failed attempt to connect tells of the server: a limit to keep to, or an outage.
    fn note_failure(&self, state: &mut State, error: &Error) {
        if state.is_limited_by(error) {
            log::debug!("{}: {error}", self.server.name());
            self.keep_to_open(state);
        } else if is_outage(error) {
            if state.outage.is_none() {
                log::warn!("{}: {error}", self.server.name());
            }
            let now = Instant::now();
            let before = state.outage.as_ref();
            state.outage = Some(Outage {
                since: before.map_or(now, |o| o.since),
                last_attempt: now,
                error: error.clone(),
                probe: before.and_then(|o| o.probe),
            });
        }
    }

    /// What a failed attempt means to the one who waits: a session of the others (`Ok`), an outage to wait
    /// out (then `Ok`, try again), or an error to report.
    fn refused(
        &self,
        error: Error,
        state: &mut MutexGuard<'_, State>,
        deadline: Instant,
    ) -> Result<(), Error> {
        match &error {
            limit if state.is_limited_by(limit) => Ok(()),
            outage if is_outage(outage) => self.await_server(error, state, deadline),
            _ => Err(error),
        }
    }

    /// Where the server has been down for long, callers do not queue up behind one timeout each: an
    /// attempt to reach it is made beside them, and they are told that it is down unless that succeeds
    /// in a moment. `None` where it may be had.
    fn known_outage(
        self: &Arc<Self>,
        state: &mut MutexGuard<'_, State>,
        deadline: Instant,
    ) -> Option<Error> {
        loop {
            let probing = usize::from(state.outage.as_ref()?.probe.is_some());
            if !state.idle.is_empty() || state.open > probing || state.closed {
                return None;
            }
            let patience = 2 * self.server.config.connect_timeout;
            let outage = state
                .outage
                .as_mut()
                .filter(|o| o.since.elapsed() > patience)?;
            let begun = match outage.probe {
                Some(begun) => begun,
                None if outage.is_fresh() => return Some(outage.error.clone()),
                None => {
                    let now = Instant::now();
                    outage.probe = Some(now);
                    if let Err(error) = self.probe() {
                        log::error!("starting a thread to reach the server: {error}");
                        outage.probe = None;
                        return Some(outage.error.clone());
                    }
                    state.open += 1;
                    now
                }
            };
            if self
                .changed
                .wait_until(state, deadline.min(begun + GLANCE))
                .timed_out()
            {
                return state.outage.as_ref().map(|outage| outage.error.clone());
            }
        }
    }

    /// Tries to reach a server that is down, in a thread of its own.
    fn probe(self: &Arc<Self>) -> std::io::Result<()> {
        let pool = self.clone();
        let attempt = move || {
            let made = pool.make(Instant::now() + pool.server.config.connect_timeout);
            let mut state = pool.state.lock();
            match made {
                Ok(session) => {
                    state.outage = None;
                    drop(state);
                    pool.take_in(session);
                }
                Err(error) => {
                    state.open -= 1;
                    if let Some(outage) = &mut state.outage {
                        (outage.last_attempt, outage.probe) = (Instant::now(), None);
                        outage.error = error;
                    }
                    pool.changed.notify_all();
                }
            }
        };
        thread::Builder::new()
            .name("probe".to_owned())
            .spawn(attempt)?;
        Ok(())
    }

    /// Waits a little for a server that is down, unless it has been so for long.
    fn await_server(
        &self,
        error: Error,
        state: &mut MutexGuard<'_, State>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let patience = 2 * self.server.config.connect_timeout;
        let long = state
            .outage
            .as_ref()
            .is_some_and(|o| o.since.elapsed() > patience);
        let pause = Instant::now() + RETRY_PAUSE;
        if long || pause >= deadline {
            return Err(error);
        }
        self.changed.wait_until(state, pause);
        Ok(())
    }

    fn make(&self, deadline: Instant) -> Result<Session, Error> {
        let session = Session::connect(&self.server, deadline)?;
        log::debug!("{}: session opened", self.server.name());
        Ok(session)
    }

    fn lease(self: &Arc<Self>, session: Session, lane: Lane) -> Lease {
        Lease {
            pool: self.clone(),
            session: Some(session),
            lane,
        }
    }

    /// The smaller of `max_sessions` and the server's own limit, at least one.
    pub(super) fn limit(&self, state: &mut State) -> usize {
        let max = self.server.config.max_sessions.max(1);
        match state.cap {
            Some((cap, until)) if Instant::now() < until => cap.clamp(1, max),
            _ => {
                state.cap = None;
                max
            }
        }
    }

    /// Keeps a half-read stream until it is asked for, or its session is needed.
    pub fn park(self: &Arc<Self>, download: Download) -> Parked {
        let mut state = self.state.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        download.park(true);
        state.parked.push_back((ticket, download));
        // All: the first woken may have no time left.
        self.changed.notify_all();
        drop(state);
        self.foresee();
        Parked(ticket)
    }

    /// The parked stream, unless its session was needed meanwhile.
    pub fn unpark(&self, parked: &Parked) -> Option<Download> {
        let mut state = self.state.lock();
        let at = state
            .parked
            .iter()
            .position(|(ticket, _)| *ticket == parked.0)?;
        let (_, download) = state.parked.remove(at)?;
        download.park(false);
        Some(download)
    }

    /// Whether some request waits for a session.
    pub fn is_busy(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Where another transfer could begin at once, and nobody waits for a session: how long a round
    /// trip takes.
    pub fn room(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        let places = places(self.limit(&mut state));
        let room = !self.is_busy() && state.outage.is_none() && state.transfers < places;
        let trips = state.idle.iter().map(Session::round_trip);
        trips.min().filter(|_| room)
    }

    /// What was learned about the server.
    pub fn profile(&self) -> Profile {
        self.server.profile.current()
    }

    pub fn learn(&self, lesson: impl FnOnce(&mut Profile)) {
        self.server.profile.learn(lesson);
    }

    /// What its sessions do, and what was learned about the server.
    pub fn report(&self) -> Report {
        let (limit, outage) = {
            let mut state = self.state.lock();
            let outage = state.outage.as_ref().map(|outage| outage.error.to_string());
            (self.limit(&mut state), outage)
        };
        Report {
            sessions: self.server.ledger.sessions(),
            limit,
            waiting: self.waiting.load(Ordering::Relaxed),
            outage,
            traffic: self.server.ledger.traffic(),
            profile: ProfileReport::of(&self.server.profile.current()),
            kept: self.server.kept.lock().as_ref().map(Kept::report),
        }
    }

    /// Ends all idle sessions with QUIT, and every other when it comes back.
    pub fn close(&self) {
        let (idle, parked) = {
            let mut state = self.state.lock();
            state.closed = true;
            (
                std::mem::take(&mut state.idle),
                std::mem::take(&mut state.parked),
            )
        };
        self.changed.notify_all();
        self.server.keep_lessons();
        drop(parked);
        idle.into_iter().for_each(Session::quit);
    }

    fn give_back(self: &Arc<Self>, mut session: Session, lane: Lane) {
        let transferred = lane == Lane::Transfer || session.readiness() <= Readiness::Bare;
        // One that was only kept alive needs nothing.
        if session.idle_for(Instant::now()) < ROUND {
            session.prepare();
        }
        self.state.lock().count(lane, -1);
        self.take_in(session);
        if transferred {
            self.foresee();
        }
    }

    /// Keeps a session for those who want one, unless it is one too many.
    pub(super) fn take_in(&self, session: Session) {
        let mut state = self.state.lock();
        session.activity.turn_to(String::new());
        let keep = !session.is_broken() && !state.closed && state.open <= self.limit(&mut state);
        let surplus = if keep {
            // In its place: one that was only kept alive is not the most recently used.
            let at = state
                .idle
                .partition_point(|idle| idle.last_used() <= session.last_used());
            state.idle.insert(at, session);
            None
        } else {
            state.open -= 1;
            Some(session)
        };
        // All: the first woken may wait for another lane.
        self.changed.notify_all();
        drop(state);
        match surplus {
            Some(session) => session.quit(),
            None => self.bell.ring(),
        }
    }
}

/// How many sessions may be in transfers at a time: from two up one is kept for metadata.
pub(super) fn places(limit: usize) -> usize {
    limit.saturating_sub(1).max(1)
}

/// Whether an attempt to connect failed because the server is not to be had.
fn is_outage(error: &Error) -> bool {
    matches!(
        error,
        Error::Busy(_)
            | Error::Connect { .. }
            | Error::Lost { .. }
            | Error::Tls(_)
            | Error::TimedOut { .. }
    )
}

impl State {
    /// Whether it failed because the server bears no more sessions than there are.
    fn is_limited_by(&self, error: &Error) -> bool {
        self.open > 0 && matches!(error, Error::Busy(_) | Error::Connect { .. })
    }

    /// The session that could begin a transfer the soonest; of those the most recently used.
    fn take_idle(&mut self) -> Option<Session> {
        let ready = |&at: &usize| (self.idle[at].readiness(), at);
        let best = (0..self.idle.len()).max_by_key(ready)?;
        Some(self.idle.remove(best))
    }

    fn count(&mut self, lane: Lane, by: isize) {
        if lane == Lane::Transfer {
            self.transfers = self.transfers.saturating_add_signed(by);
        }
    }
}

impl Outage {
    fn is_fresh(&self) -> bool {
        self.last_attempt.elapsed() < RETRY_PAUSE
    }
}

impl Lease {
    /// This lease, if its session may be used: alive, and young enough for its TLS sessions;
    /// an aged one starts over by REIN where the server knows it, else it is replaced.
    fn refreshed(mut self, transfers: bool, deadline: Instant) -> Option<Self> {
        if !self.is_usable() || (transfers && self.is_spent()) {
            self.mark_broken();
            return None;
        }
        if self.is_aged(Instant::now()) {
            let renewed = !self.profile().rein_refused && self.reinitialize(deadline).is_ok();
            if !renewed {
                self.mark_broken();
                return None;
            }
        }
        Some(self)
    }

    /// Whether some request waits for a session.
    pub(super) fn is_wanted(&self) -> bool {
        self.pool.is_busy()
    }
}

impl Deref for Lease {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session
            .as_ref()
            .expect("a lease holds its session until it is dropped")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Session {
        self.session
            .as_mut()
            .expect("a lease holds its session until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.pool.give_back(session, self.lane);
        }
    }
}

/// Counts a waiting request for as long as it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Data connections ahead of need, keepalive and idle close, until the pool is gone.
fn keep_house(pool: &Weak<Pool>, bell: &Bell) {
    let mut round = Instant::now() + ROUND;
    let mut pace = ROUND;
    loop {
        bell.wait(pace.min(round.saturating_duration_since(Instant::now())));
        let Some(pool) = pool.upgrade() else { return };
        if pool.state.lock().closed {
            return;
        }
        pace = pool.advance_ahead().unwrap_or(ROUND);
        if Instant::now() < round {
            continue;
        }
        round = Instant::now() + ROUND;
        pool.server.keep_lessons();
        while let Some(session) = pool.take_surplus() {
            session.quit();
        }
        while let Some(mut lease) = pool.take_quiet() {
            let deadline = Instant::now() + NOOP_TIMEOUT;
            if let Err(error) = lease.keep_alive(deadline) {
                log::debug!("{}: keepalive: {error}", pool.server.name());
            }
        }
    }
}

impl Pool {
    /// A session that idled for long, while there are others.
    fn take_surplus(&self) -> Option<Session> {
        let mut state = self.state.lock();
        let first = state.idle.first()?;
        let idle = first.idle_for(Instant::now());
        if state.open < 2 || idle < self.server.config.idle_close {
            return None;
        }
        state.open -= 1;
        Some(state.idle.remove(0))
    }

    /// A session that is due for a NOOP.
    fn take_quiet(self: &Arc<Self>) -> Option<Lease> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let due = |s: &Session| s.silent_for(now) >= self.server.config.keepalive;
        let at = state.idle.iter().position(due)?;
        let session = state.idle.remove(at);
        Some(self.lease(session, Lane::Metadata))
    }
}
