//! One fetch for all who want the same thing at the same time: whoever comes while it is under
//! way waits for its result instead of asking the server again.
//!
//! Must not know what is fetched.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::proto::RemotePath;
use crate::remote;

/// Fetches under way, by path and by the mutation clock's tick: after a change nobody joins a
/// fetch that began before it.
pub(super) struct Flights<T> {
    under_way: Mutex<HashMap<Key, Arc<Flight<T>>>>,
}

type Key = (RemotePath, u64);

struct Flight<T> {
    state: Mutex<State<T>>,
    landed: Condvar,
}

enum State<T> {
    UnderWay,
    Landed(Result<T, remote::Error>),
    /// Its fetch panicked.
    Lost,
}

impl<T: Clone> Flights<T> {
    pub fn new() -> Self {
        Self {
            under_way: Mutex::new(HashMap::new()),
        }
    }

    /// Fetches, or waits until `deadline` for the fetch of the same thing that is under way.
    pub fn join(
        &self,
        path: &RemotePath,
        tick: u64,
        deadline: Instant,
        fetch: impl Fn() -> Result<T, remote::Error>,
    ) -> Result<T, remote::Error> {
        let key = (path.clone(), tick);
        loop {
            let (flight, mine) = self.board(&key);
            if mine {
                return self.landing(key, flight).with(fetch());
            }
            match flight.wait(deadline) {
                // The other's patience may have ended before ours.
                Some(Err(remote::Error::TimedOut(_))) | None if Instant::now() < deadline => {}
                Some(result) => return result,
                None => {
                    return Err(remote::Error::TimedOut(
                        "waiting for the same answer".into(),
                    ));
                }
            }
        }
    }

    /// The same, but the fetch has a thread of its own, and runs on when nobody waits for it any
    /// more: `deadline` is the caller's, not the fetch's.
    pub fn launch(
        self: &Arc<Self>,
        path: &RemotePath,
        tick: u64,
        deadline: Instant,
        fetch: impl FnOnce() -> Result<T, remote::Error> + Send + 'static,
    ) -> Result<T, remote::Error>
    where
        T: Send + 'static,
    {
        let key = (path.clone(), tick);
        let (flight, mine) = self.board(&key);
        if mine {
            let (flights, flown, at) = (self.clone(), flight.clone(), key.clone());
            let fly = move || {
                let _landed = flights.landing(at, flown).with(fetch());
            };
            let thread = thread::Builder::new().name("fetch".to_owned());
            if let Err(error) = thread.spawn(fly) {
                drop(self.landing(key, flight));
                let why = format!("cannot start a fetch: {error}");
                return Err(remote::Error::Failed(why));
            }
        }
        let late = || remote::Error::TimedOut("waiting for an answer".into());
        flight.wait(deadline).unwrap_or_else(|| Err(late()))
    }

    /// For who fetches several things at once: the fetch of this one is the caller's to make, unless
    /// it is under way already.
    pub fn lead(&self, path: &RemotePath, tick: u64) -> Option<Landing<'_, T>> {
        let key = (path.clone(), tick);
        let (flight, mine) = self.board(&key);
        mine.then(|| self.landing(key, flight))
    }

    pub fn is_under_way(&self, path: &RemotePath, tick: u64) -> bool {
        self.under_way.lock().contains_key(&(path.clone(), tick))
    }

    /// Waits for a fetch that is under way. `None` where none is, or no result comes of it.
    pub fn wait_for(
        &self,
        path: &RemotePath,
        tick: u64,
        deadline: Instant,
    ) -> Option<Result<T, remote::Error>> {
        let key = (path.clone(), tick);
        let flight = self.under_way.lock().get(&key).cloned()?;
        flight.wait(deadline)
    }

    fn landing(&self, key: Key, flight: Arc<Flight<T>>) -> Landing<'_, T> {
        Landing {
            flights: self,
            key,
            flight,
        }
    }

    /// The flight of that key, and whether the caller has to fly it.
    fn board(&self, key: &Key) -> (Arc<Flight<T>>, bool) {
        let mut under_way = self.under_way.lock();
        if let Some(flight) = under_way.get(key) {
            return (flight.clone(), false);
        }
        let flight = Arc::new(Flight {
            state: Mutex::new(State::UnderWay),
            landed: Condvar::new(),
        });
        under_way.insert(key.clone(), flight.clone());
        (flight, true)
    }
}

impl<T: Clone> Flight<T> {
    /// The result; `None` at the deadline or where there will be none.
    fn wait(&self, deadline: Instant) -> Option<Result<T, remote::Error>> {
        let mut state = self.state.lock();
        loop {
            match &*state {
                State::Landed(result) => return Some(result.clone()),
                State::Lost => return None,
                State::UnderWay => {
                    if self.landed.wait_until(&mut state, deadline).timed_out() {
                        return None;
                    }
                }
            }
        }
    }
}

/// Ends a flight, also when its fetch panics or is given up: nobody must wait for it then.
pub(super) struct Landing<'a, T: Clone> {
    flights: &'a Flights<T>,
    key: Key,
    flight: Arc<Flight<T>>,
}

impl<T: Clone> Landing<'_, T> {
    /// Hands the result to all who wait for it.
    pub fn with(self, result: Result<T, remote::Error>) -> Result<T, remote::Error> {
        *self.flight.state.lock() = State::Landed(result.clone());
        result
    }
}

impl<T: Clone> Drop for Landing<'_, T> {
    fn drop(&mut self) {
        self.flights.under_way.lock().remove(&self.key);
        let mut state = self.flight.state.lock();
        if matches!(*state, State::UnderWay) {
            *state = State::Lost;
        }
        self.flight.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn those_who_come_meanwhile_share_one_fetch() {
        let flights = Flights::new();
        let fetches = AtomicUsize::new(0);
        let path = RemotePath::root();
        let fetch = || {
            fetches.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(200));
            Ok(42)
        };
        let run = || flights.join(&path, 0, soon(), fetch);
        thread::scope(|scope| {
            let runs: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
            for run in runs {
                assert_eq!(run.join().unwrap().unwrap(), 42);
            }
        });
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        assert!(flights.under_way.lock().is_empty());
    }

    #[test]
    fn nobody_joins_a_fetch_from_before_a_change() {
        let flights = Flights::new();
        let path = RemotePath::root();
        let old = flights.join(&path, 0, soon(), || {
            assert_eq!(flights.join(&path, 1, soon(), || Ok(2)).unwrap(), 2);
            Ok(1)
        });
        assert_eq!(old.unwrap(), 1);
    }

    #[test]
    fn who_has_more_patience_than_the_fetcher_tries_again() {
        let flights = Flights::new();
        let path = RemotePath::root();
        thread::scope(|scope| {
            scope.spawn(|| {
                let hasty = flights.join(&path, 0, soon(), || {
                    thread::sleep(Duration::from_millis(200));
                    Err(remote::Error::TimedOut("too slow".into()))
                });
                assert!(hasty.is_err());
            });
            thread::sleep(Duration::from_millis(50));
            assert_eq!(flights.join(&path, 0, soon(), || Ok(3)).unwrap(), 3);
        });
    }

    #[test]
    fn a_waiter_gives_up_at_its_deadline() {
        let flights = Flights::new();
        let path = RemotePath::root();
        thread::scope(|scope| {
            scope.spawn(|| {
                flights.join(&path, 0, soon(), || {
                    thread::sleep(Duration::from_millis(400));
                    Ok(1)
                })
            });
            thread::sleep(Duration::from_millis(50));
            let deadline = Instant::now() + Duration::from_millis(50);
            let late = flights.join(&path, 0, deadline, || Ok(2));
            assert!(matches!(late, Err(remote::Error::TimedOut(_))));
            assert!(Instant::now() < deadline + Duration::from_millis(200));
        });
    }

    #[test]
    fn a_launched_fetch_runs_on_when_its_waiter_has_given_up() {
        let flights = Arc::new(Flights::new());
        let path = RemotePath::root();
        let slow = || {
            thread::sleep(Duration::from_millis(300));
            Ok(6)
        };
        let hasty = Instant::now() + Duration::from_millis(50);
        let late = flights.launch(&path, 0, hasty, slow);
        assert!(matches!(late, Err(remote::Error::TimedOut(_))));
        let again = || panic!("the first is still under way");
        assert_eq!(flights.launch(&path, 0, soon(), again).unwrap(), 6);
        assert_eq!(flights.launch(&path, 0, soon(), || Ok(7)).unwrap(), 7);
    }

    #[test]
    fn a_panic_leaves_nobody_waiting() {
        let flights = Flights::new();
        let path = RemotePath::root();
        thread::scope(|scope| {
            let lost = scope.spawn(|| {
                flights.join(&path, 0, soon(), || {
                    thread::sleep(Duration::from_millis(100));
                    panic!("on purpose")
                })
            });
            thread::sleep(Duration::from_millis(50));
            assert_eq!(flights.join(&path, 0, soon(), || Ok(5)).unwrap(), 5);
            assert!(lost.join().is_err());
        });
    }
}
