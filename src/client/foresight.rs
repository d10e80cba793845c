//! What the pool does ahead of need, beside those who wait: sessions are opened before the last free
//! one is taken, data connections before their transfer, and where streams that nobody reads hold
//! every place for a transfer, the oldest gives way. Must not hold up anyone.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::download::Download;
use super::pool::{Pool, State, places};
use super::session::{Readiness, pause_ahead};
use super::{Error, Session};

/// After a failure nothing is tried for this long.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a server's limit is believed.
const CAP_LIFETIME: Duration = Duration::from_secs(60);
/// How long a session that is opened ahead of need may take.
const OPENING: Duration = Duration::from_secs(60);
/// How long the oldest parked stream may take to give way.
const YIELDING: Duration = Duration::from_secs(5);
/// How often it is looked whether a data connection is there.
const SHORT_PACE: Duration = Duration::from_millis(1);
const LONG_PACE: Duration = Duration::from_millis(20);

/// Wakes the housekeeper.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.rung.lock() = true;
        self.heard.notify_all();
    }

    pub(super) fn wait(&self, most: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.heard.wait_for(&mut rung, most);
        }
        *rung = false;
    }
}

/// What is done for the next transfer.
enum Step {
    Open,
    /// In place of this one, which has no TLS session left.
    Replace(Box<Session>),
    /// Streams that nobody reads have every place.
    GiveUp(Box<Download>),
}

impl Pool {
    /// Sees to it that the next transfer finds a session.
    pub(super) fn foresee(self: &Arc<Self>) {
        let step = {
            let mut state = self.state.lock();
            let step = self.foreseen(&mut state);
            state.foreseeing |= step.is_some();
            step
        };
        let Some(step) = step else { return };
        let opens = !matches!(step, Step::GiveUp(_));
        let pool = self.clone();
        let work = move || {
            match step {
                Step::Open => pool.open_another(),
                Step::Replace(spent) => {
                    spent.quit();
                    pool.open_another();
                }
                // Given back, it is prepared for the next transfer.
                Step::GiveUp(oldest) => drop(oldest.give_up_by(Instant::now() + YIELDING)),
            }
            pool.state.lock().foreseeing = false;
        };
        let name = "foresight".to_owned();
        if let Err(error) = thread::Builder::new().name(name).spawn(work) {
            log::error!("starting the foresight thread: {error}");
            let mut state = self.state.lock();
            state.open -= usize::from(opens);
            state.foreseeing = false;
        }
    }

    /// What to do next, already booked in `state`.
    fn foreseen(&self, state: &mut State) -> Option<Step> {
        let now = Instant::now();
        let paused = state.foresight_paused.is_some_and(|until| now < until);
        if state.closed || state.foreseeing || paused || state.outage.is_some() {
            return None;
        }
        let limit = self.limit(state);
        let places = places(limit);
        // What is on its way, a request that comes now would have to wait for.
        let usable = |s: &Session| matches!(s.readiness(), Readiness::Bare | Readiness::Open);
        if state.transfers < places && state.idle.iter().any(usable) {
            return None;
        }
        if state.open < limit {
            state.open += 1;
            return Some(Step::Open);
        }
        let is_spent = |s: &Session| s.readiness() == Readiness::Spent;
        if state.open > 1
            && let Some(spent) = state.idle.iter().position(is_spent)
        {
            return Some(Step::Replace(Box::new(state.idle.remove(spent))));
        }
        if places > 1 && state.parked.len() >= places {
            return state
                .parked
                .pop_front()
                .map(|(_, oldest)| Step::GiveUp(Box::new(oldest)));
        }
        None
    }

    fn open_another(&self) {
        self.open(Instant::now() + OPENING, |state, ended| {
            let Err(error) = ended else { return };
            log::debug!("no session ahead of need: {error}");
            state.foresight_paused = Some(Instant::now() + PAUSE);
            if matches!(error, Error::Busy(_) | Error::Connect { .. }) {
                self.keep_to_open(state);
            }
        });
    }

    /// Takes each data connection that is on its way as far as it goes; when to look again.
    pub(super) fn advance_ahead(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        let pending = state.idle.iter_mut().filter_map(|session| {
            let pending = session.advance_ahead();
            pending.then(|| session.round_trip() / 8)
        });
        let pace = pending.min();
        pace.map(|pace| pace.clamp(SHORT_PACE, LONG_PACE))
    }

    /// The server takes no more connections. What is held ahead of need may be too many for it, and
    /// is dropped; where nothing is, it bears no more sessions than are open now.
    pub(super) fn keep_to_open(&self, state: &mut State) {
        self.server.profile.learn(pause_ahead);
        let mut held = false;
        for session in &mut state.idle {
            held |= session.drop_ahead();
        }
        if !held {
            log::debug!("{}: keeping to {} sessions", self.server.name(), state.open);
            state.cap = Some((state.open.max(1), Instant::now() + CAP_LIFETIME));
        }
    }
}
