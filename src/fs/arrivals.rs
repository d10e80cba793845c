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
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Error, Ino, Patience};

/// Who missed a file comes back within this time, or not at all; of so many it is remembered.
const BACK: Duration = Duration::from_secs(30);
const MISSED: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// How long a file's name is kept for who comes back.
const KEPT: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Arrivals {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    files: HashMap<Ino, Traffic>,
    /// By whom: any number that tells the callers apart.
    missed: LruCache<u32, Missed>,
}

/// How many are opening a file, and how many take its name away.
#[derive(Default)]
struct Traffic {
    arriving: usize,
    leaving: usize,
}

/// Somebody's file had lost its name when it was to be opened.
struct Missed {
    at: Instant,
    /// What the name has led to since, and until when that is kept.
    found: Option<(Ino, Instant)>,
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
        self.await_leaving(&mut state, ino, patience)?;
        state.files.entry(ino).or_default().arriving += 1;
        Ok(Arrival {
            arrivals: self,
            ino,
        })
    }

    /// What `who` was to open had lost its name.
    pub fn miss(&self, who: u32) {
        let (at, found) = (Instant::now(), None);
        self.state.lock().missed.put(who, Missed { at, found });
    }

    /// A name has led `who` to a file: for one who missed his it is kept a moment. Not where it is losing its
    /// name already: false once it has.
    pub fn expect(&self, who: u32, ino: Ino, patience: Patience) -> Result<bool, Error> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let has_missed = |missed: &Missed| missed.at + BACK > now;
        if !state.missed.peek(&who).is_some_and(has_missed) {
            return Ok(true);
        }
        if self.await_leaving(&mut state, ino, patience)? {
            return Ok(false);
        }
        if let Some(missed) = state.missed.get_mut(&who) {
            missed.found = Some((ino, now + KEPT));
        }
        Ok(true)
    }

    /// `who` has what he came for, or has gone on to something else.
    pub fn meet(&self, who: u32) {
        if self.state.lock().missed.pop(&who).is_some() {
            self.changed.notify_all();
        }
    }

    /// Whether there was anything to wait for.
    fn await_leaving(
        &self,
        state: &mut MutexGuard<'_, State>,
        ino: Ino,
        patience: Patience,
    ) -> Result<bool, Error> {
        let mut has_waited = false;
        while state.files.get(&ino).is_some_and(|file| file.leaving > 0) {
            has_waited = true;
            let waited = self.changed.wait_until(state, patience.deadline()?);
            if waited.timed_out() {
                return Err(Error::TimedOut);
            }
        }
        Ok(has_waited)
    }

    /// To be called before names are taken from files: waits for those who are opening them, until `end`.
    pub fn leave(&self, files: impl Iterator<Item = Ino>, end: Instant) -> Leaving<'_> {
        let files: Vec<_> = files.collect();
        let mut state = self.state.lock();
        // Those for whom a file is kept have still to arrive: nobody may wait for this one until then.
        while let Some(until) = state.kept_until(&files)
            && Instant::now() < until.min(end)
        {
            self.changed.wait_until(&mut state, until.min(end));
        }
        for ino in &files {
            state.files.entry(*ino).or_default().leaving += 1;
        }
        while state.is_arriving(&files) && Instant::now() < end {
            self.changed.wait_until(&mut state, end);
        }
        drop(state);
        Leaving {
            arrivals: self,
            files,
        }
    }

    fn done(&self, ino: Ino, change: impl FnOnce(&mut Traffic)) {
        if let Entry::Occupied(mut file) = self.state.lock().files.entry(ino) {
            change(file.get_mut());
            if file.get().arriving == 0 && file.get().leaving == 0 {
                file.remove();
            }
        }
        self.changed.notify_all();
    }
}

impl State {
    fn is_arriving(&self, files: &[Ino]) -> bool {
        let mut traffic = files.iter().filter_map(|ino| self.files.get(ino));
        traffic.any(|file| file.arriving > 0)
    }

    /// Until when one of the files is kept for somebody.
    fn kept_until(&self, files: &[Ino]) -> Option<Instant> {
        let found = self.missed.iter().filter_map(|(_, missed)| missed.found);
        let kept = found.filter(|(ino, _)| files.contains(ino));
        kept.map(|(_, until)| until).max()
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
        Patience::Until(end())
    }

    fn end() -> Instant {
        Instant::now() + Duration::from_secs(30)
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
            || drop(arrivals.leave([FILE].into_iter(), end())),
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
        let leaving = arrivals.leave([FILE].into_iter(), end());
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
        let expect = |who| arrivals.expect(who, FILE, soon()).expect("no wait");
        let leave = || {
            let began = Instant::now();
            drop(arrivals.leave([FILE].into_iter(), end()));
            began.elapsed()
        };
        assert!(expect(1));
        assert!(leave() < KEPT, "nobody was missed yet");
        arrivals.miss(1);
        assert!(expect(1) && expect(1) && expect(2));
        assert!(leave() >= KEPT / 2, "but not for ever");
        assert!(expect(1));
        meanwhile(
            || assert!(leave() < KEPT),
            |left| {
                arrivals.meet(2);
                assert!(left.recv_timeout(Duration::from_millis(50)).is_err());
                arrivals.meet(1);
                left.recv().expect("it goes on");
            },
        );
        assert!(expect(1));
        assert!(leave() < KEPT, "who was missed has come");
        assert!(arrivals.state.lock().files.is_empty());
    }

    #[test]
    fn what_is_losing_its_name_is_looked_up_again() {
        let arrivals = Arrivals::new();
        arrivals.miss(1);
        let leaving = arrivals.leave([FILE].into_iter(), end());
        let expect = |patience| arrivals.expect(1, FILE, patience);
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
