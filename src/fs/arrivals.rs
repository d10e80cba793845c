//! Who is about to open a file by the number that its name led to, and who is about to take that name away. One
//! waits for the other: what was found can be opened, and what is being opened is not lost.
//!
//! The kernel looks a name up and opens the file in two requests. Where the file lost its name in between it tries
//! once more, and what that second lookup finds is kept for it.
//!
//! Must not know the server or the kernel. One leaf mutex, held for memory work only.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::{Condvar, Mutex};

use super::{Error, Ino, Patience};

/// How long a name is kept for those who may have missed its file, once the first of them has come too; and for
/// how long they come back, of so many directories.
const KEPT: Duration = Duration::from_millis(500);
const MORE: Duration = Duration::from_millis(100);
const BACK: Duration = Duration::from_secs(1);
const MISSED: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Who takes a name away waits no longer than this for those who open its file.
const COURTESY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Arrivals {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    files: HashMap<Ino, Traffic>,
    /// Directories of files that had gone when they were to be opened, and when that was.
    missed: LruCache<Ino, Instant>,
}

#[derive(Default)]
struct Traffic {
    arriving: usize,
    leaving: usize,
    /// Those who found it for the second time, and until when it is kept for them.
    expected: usize,
    until: Option<Instant>,
}

/// A file is being opened, until this is dropped.
pub(super) struct Arrival<'a> {
    arrivals: &'a Arrivals,
    ino: Ino,
}

/// Files lose their names, until this is dropped.
pub(super) struct Leaving<'a> {
    arrivals: &'a Arrivals,
    files: Vec<Ino>,
}

impl Arrivals {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State {
                files: HashMap::new(),
                missed: LruCache::new(MISSED),
            }),
            changed: Condvar::new(),
        }
    }

    /// To be called before it is looked what a file is that is to be opened.
    pub fn arrive(&self, ino: Ino, patience: Patience) -> Result<Arrival<'_>, Error> {
        let mut state = self.state.lock();
        while state.files.get(&ino).is_some_and(|file| file.leaving > 0) {
            if self
                .changed
                .wait_until(&mut state, patience.deadline()?)
                .timed_out()
            {
                return Err(Error::TimedOut);
            }
        }
        let file = state.files.entry(ino).or_default();
        file.arriving += 1;
        file.expected = file.expected.saturating_sub(1);
        // One that comes again looks the name up once or twice.
        file.until = file.until.map(|until| until.min(Instant::now() + MORE));
        Ok(Arrival {
            arrivals: self,
            ino,
        })
    }

    /// A file of `directory` had lost its name when it was to be opened.
    pub fn miss(&self, directory: Ino) {
        self.state.lock().missed.put(directory, Instant::now());
    }

    /// To be called when a name in `directory` has led to a file: where one was missed there, this one is kept
    /// for a moment.
    /// Not where it is losing its name already: false once it has.
    pub fn expect(&self, directory: Ino, ino: Ino, patience: Patience) -> Result<bool, Error> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let missed = state.missed.peek(&directory);
        if missed.is_none_or(|at| *at + BACK < now) {
            return Ok(true);
        }
        let mut is_still_there = true;
        while state.files.get(&ino).is_some_and(|file| file.leaving > 0) {
            is_still_there = false;
            if self
                .changed
                .wait_until(&mut state, patience.deadline()?)
                .timed_out()
            {
                return Err(Error::TimedOut);
            }
        }
        if is_still_there {
            state.files.retain(|_, file| !file.is_over());
            let file = state.files.entry(ino).or_default();
            file.expected += 1;
            file.until = Some(now + KEPT);
        }
        Ok(is_still_there)
    }

    /// To be called before names are taken from files: waits a little for those who are opening them.
    pub fn leave(&self, files: impl Iterator<Item = Ino>) -> Leaving<'_> {
        let files: Vec<_> = files.collect();
        let end = Instant::now() + COURTESY;
        let mut state = self.state.lock();
        for ino in &files {
            state.files.entry(*ino).or_default().leaving += 1;
        }
        loop {
            let busy = files
                .iter()
                .filter_map(|ino| state.files.get(ino)?.is_busy_until(end));
            match busy.max().filter(|until| *until > Instant::now()) {
                Some(until) => self.changed.wait_until(&mut state, until),
                None => break,
            };
        }
        drop(state);
        Leaving {
            arrivals: self,
            files,
        }
    }

    fn done(&self, ino: Ino, change: impl FnOnce(&mut Traffic)) {
        let mut state = self.state.lock();
        if let Entry::Occupied(mut file) = state.files.entry(ino) {
            change(file.get_mut());
            if file.get().is_over() {
                file.remove();
            }
        }
        drop(state);
        self.changed.notify_all();
    }
}

impl Traffic {
    /// Until when its name is not to be taken, if those who are opening it may have all the time to `end`.
    fn is_busy_until(&self, end: Instant) -> Option<Instant> {
        match (self.arriving, self.expected) {
            (0, 0) => None,
            (0, _) => self.until.map(|until| until.min(end)),
            _ => Some(end),
        }
    }

    fn is_over(&self) -> bool {
        let is_awaited =
            self.expected > 0 && self.until.is_some_and(|until| until > Instant::now());
        self.arriving == 0 && self.leaving == 0 && !is_awaited
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.arrivals.done(self.ino, |file| file.arriving -= 1);
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        for ino in &self.files {
            self.arrivals.done(*ino, |file| file.leaving -= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const FILE: Ino = Ino(7);

    fn soon() -> Patience {
        Patience::Until(Instant::now() + Duration::from_secs(10))
    }

    /// What another thread does meanwhile, and whether it is done after a moment.
    fn meanwhile<T>(other: impl FnOnce() + Send, test: impl FnOnce(&mpsc::Receiver<()>) -> T) -> T {
        let (done, is_done) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                other();
                done.send(())
            });
            test(&is_done)
        })
    }

    #[test]
    fn one_waits_for_the_other() {
        let arrivals = Arrivals::new();
        let arrival = arrivals.arrive(FILE, soon()).expect("nobody leaves");
        meanwhile(
            || drop(arrivals.leave([FILE].into_iter())),
            |left| {
                assert!(left.recv_timeout(Duration::from_millis(50)).is_err());
                assert!(matches!(
                    arrivals.arrive(FILE, Patience::MemoryOnly),
                    Err(Error::WouldWait)
                ));
                drop(arrival);
                left.recv().expect("it goes on");
            },
        );
        let leaving = arrivals.leave([FILE].into_iter());
        meanwhile(
            || drop(arrivals.arrive(FILE, soon())),
            |arrived| {
                assert!(arrived.recv_timeout(Duration::from_millis(50)).is_err());
                drop(leaving);
                arrived.recv().expect("it goes on");
            },
        );
        assert!(arrivals.state.lock().files.is_empty());
    }

    #[test]
    fn what_was_missed_once_is_kept_for_who_comes_again() {
        let arrivals = Arrivals::new();
        let expect = || arrivals.expect(Ino::ROOT, FILE, soon()).expect("no wait");
        assert!(expect());
        let began = Instant::now();
        drop(arrivals.leave([FILE].into_iter()));
        assert!(began.elapsed() < KEPT, "nobody was missed yet");
        arrivals.miss(Ino::ROOT);
        assert!(expect() && expect());
        meanwhile(
            || drop(arrivals.leave([FILE].into_iter())),
            |left| {
                drop(arrivals.arrive(Ino(8), soon()));
                assert!(left.recv_timeout(KEPT / 4).is_err(), "two are expected");
                left.recv().expect("but not for ever");
            },
        );
        assert!(began.elapsed() >= KEPT);
        assert!(expect());
        drop(arrivals.arrive(FILE, soon()));
        let began = Instant::now();
        drop(arrivals.leave([FILE].into_iter()));
        assert!(began.elapsed() < KEPT, "who was expected has come");
        assert!(arrivals.state.lock().files.is_empty());
    }

    #[test]
    fn what_is_losing_its_name_is_looked_up_again() {
        let arrivals = Arrivals::new();
        arrivals.miss(Ino::ROOT);
        let leaving = arrivals.leave([FILE].into_iter());
        let expect = |patience| arrivals.expect(Ino::ROOT, FILE, patience);
        assert!(matches!(
            expect(Patience::MemoryOnly),
            Err(Error::WouldWait)
        ));
        meanwhile(
            || assert!(matches!(expect(soon()), Ok(false))),
            |done| {
                assert!(done.recv_timeout(Duration::from_millis(50)).is_err());
                drop(leaving);
                done.recv().expect("it goes on");
            },
        );
    }
}
