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
use super::session::Readiness;
use super::{Config, Error, Profile, Server, Session};

/// The pause between attempts to reach a server that is down.
const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// The housekeeper's round.
const ROUND: Duration = Duration::from_secs(1);
/// A server that leaves a NOOP unanswered for this long is not there.
const NOOP_TIMEOUT: Duration = Duration::from_secs(10);

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
}

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
        });
        let weak = Arc::downgrade(&pool);
        let bell = pool.bell.clone();
        thread::Builder::new()
            .name("housekeeper".to_owned())
            .spawn(move || keep_house(&weak, &bell))
            .map_err(|e| Error::lost("starting the housekeeper thread", e))?;
        Ok(pool)
    }

    /// Runs `work` on a session; where that is lost, once more on another. `work` must be
    /// harmless to repeat. In the first attempt the server may be silent for half of the time
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
        let lease = self.acquire(lane, deadline)?;
        let mut transfers = lane == Lane::Transfer;
        let half = deadline.saturating_duration_since(Instant::now()) / 2;
        match work(lease, Instant::now() + half) {
            Err(error) if error.is_transient() => {
                log::debug!("{}: {error}; trying once more", self.server.name());
                transfers |= matches!(error, Error::NoResumption(_));
            }
            Err(error @ Error::Busy(_)) => {
                log::debug!("{}: {error}; trying with less", self.server.name());
                self.keep_to_open(&mut self.state.lock());
            }
            result => return result,
        }
        work(self.wait_for(lane, transfers, deadline)?, deadline)
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

    /// `transfers`: one that was in use before and has no TLS session left for data connections is
    /// replaced.
    fn wait_for(
        self: &Arc<Self>,
        lane: Lane,
        transfers: bool,
        deadline: Instant,
    ) -> Result<Lease, Error> {
        let _waiting = Waiting::new(&self.waiting);
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
            if admitted && state.open < limit {
                if let Some(outage) = state.outage.as_ref().filter(|o| o.is_fresh()) {
                    self.await_server(outage.error.clone(), &mut state, deadline)?;
                    continue;
                }
                state.open += 1;
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
                        self.changed.notify_all();
                        self.refused(error, &mut state, deadline)?;
                        continue;
                    }
                }
            }
            if let Some((_, download)) = state.parked.pop_front() {
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

    /// What a failed attempt to connect means: a limit to keep to, an outage to wait out (then
    /// `Ok`, try again), or an error to report.
    fn refused(
        &self,
        error: Error,
        state: &mut MutexGuard<'_, State>,
        deadline: Instant,
    ) -> Result<(), Error> {
        match error {
            Error::Busy(_) | Error::Connect { .. } if state.open > 0 => {
                log::debug!("{}: {error}", self.server.name());
                self.keep_to_open(state);
                Ok(())
            }
            Error::Busy(_)
            | Error::Connect { .. }
            | Error::Lost { .. }
            | Error::TimedOut { .. } => {
                let now = Instant::now();
                let since = state.outage.as_ref().map_or(now, |o| o.since);
                if state.outage.is_none() {
                    log::warn!("{}: {error}", self.server.name());
                }
                state.outage = Some(Outage {
                    since,
                    last_attempt: now,
                    error: error.clone(),
                });
                self.await_server(error, state, deadline)
            }
            other => Err(other),
        }
    }

    /// Waits a little for a server that is down; gives up at once where it has been down for
    /// long, so that callers do not queue up behind one timeout each.
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

    pub(super) fn make(&self, deadline: Instant) -> Result<Session, Error> {
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
        state.parked.remove(at).map(|(_, download)| download)
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
        drop(parked);
        idle.into_iter().for_each(Session::quit);
    }

    fn give_back(self: &Arc<Self>, mut session: Session, lane: Lane) {
        let transferred = session.readiness() <= Readiness::Bare;
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

impl State {
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
