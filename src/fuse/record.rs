//! [`Record`]: what became of requests, and the log of those that failed. A failure that comes
//! again and again is counted, not repeated. Must not know what the operations do.

use std::collections::VecDeque;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// How long a failure that comes again is only counted.
const QUIET: Duration = Duration::from_secs(60);
/// So many are remembered.
const REMEMBERED: usize = 32;

/// See the module. `failures` is a leaf lock.
#[derive(Default)]
pub struct Record {
    from_memory: AtomicU64,
    waited: AtomicU64,
    /// The latest last.
    failures: Mutex<VecDeque<Known>>,
}

struct Known {
    line: String,
    errno: i32,
    count: u64,
    last: SystemTime,
    logged: Instant,
    /// Not in the log yet.
    untold: u64,
}

/// How requests were answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// From memory and the local disk alone.
    pub from_memory: u64,
    /// After asking the server.
    pub waited: u64,
    /// The latest last.
    pub failures: Vec<Failure>,
}

/// A failed operation, however often it failed so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Operation, path, the server's words and the error that the program was told.
    pub what: String,
    pub errno: i32,
    pub count: u64,
    /// The last time, seconds since 1970.
    pub last: u64,
}

impl Record {
    pub(super) fn answered(&self, from_memory: bool) {
        let counter = if from_memory {
            &self.from_memory
        } else {
            &self.waited
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Logs a failure, unless it is one that was logged just now: that is counted. `whole` hears
    /// of the count later, for as long as it is there.
    pub(super) fn failed(&self, line: String, errno: i32, whole: impl FnOnce() -> Weak<Self>) {
        let now = Instant::now();
        let mut failures = self.failures.lock();
        let known = failures.iter().position(|known| known.line == line);
        let known = known.and_then(|at| failures.remove(at));
        let mut known = known.unwrap_or(Known {
            line,
            errno,
            count: 0,
            last: UNIX_EPOCH,
            logged: now,
            untold: 0,
        });
        known.count += 1;
        known.last = SystemTime::now();
        let is_repeated = known.count > 1 && now < known.logged + QUIET;
        known.untold += 1;
        let (told, starts) = match is_repeated {
            false => (Some(known.tell(now)), false),
            true => (None, known.untold == 1),
        };
        failures.push_back(known);
        let forgotten = match failures.len() > REMEMBERED {
            true => failures.pop_front().filter(|known| known.untold > 0),
            false => None,
        };
        drop(failures);
        for line in told
            .into_iter()
            .chain(forgotten.map(|mut known| known.tell(now)))
        {
            log::warn!("{line}");
        }
        if starts {
            tell_later(whole());
        }
    }

    /// Logs what was only counted until now; of the last minute too, where `all` is said.
    pub fn tell(&self, all: bool) {
        let now = Instant::now();
        let mut lines = Vec::new();
        for known in self.failures.lock().iter_mut() {
            if known.untold > 0 && (all || now >= known.logged + QUIET) {
                lines.push(known.tell(now));
            }
        }
        for line in lines {
            log::warn!("{line}");
        }
    }

    pub fn report(&self) -> Report {
        let failures = self.failures.lock();
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let told = failures.iter().map(|known| Failure {
            what: known.line.clone(),
            errno: known.errno,
            count: known.count,
            last: seconds(known.last),
        });
        Report {
            from_memory: self.from_memory.load(Relaxed),
            waited: self.waited.load(Relaxed),
            failures: told.collect(),
        }
    }
}

impl Known {
    fn tell(&mut self, now: Instant) -> String {
        self.logged = now;
        match std::mem::take(&mut self.untold) {
            0 | 1 => self.line.clone(),
            times => format!("{} ({times} times)", self.line),
        }
    }
}

/// A count must not wait for the next failure.
fn tell_later(record: Weak<Record>) {
    let thread = thread::Builder::new().name("failures".to_owned());
    let tell = move || {
        thread::sleep(QUIET);
        if let Some(record) = record.upgrade() {
            record.tell(false);
        }
    };
    if let Err(error) = thread.spawn(tell) {
        log::debug!("failures are counted later: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_failures_are_counted_and_the_oldest_forgotten() {
        let record = Record::default();
        let fail = |line: &str| record.failed(line.to_owned(), 5, Weak::new);
        for _ in 0..3 {
            fail("read: /a: 550 no");
        }
        fail("read: /b: 550 no");
        fail("read: /a: 550 no");
        let told: Vec<_> = record.report().failures.into_iter().collect();
        let counts: Vec<_> = told.iter().map(|f| (&*f.what, f.count)).collect();
        assert_eq!(counts, [("read: /b: 550 no", 1), ("read: /a: 550 no", 4)]);
        let untold = |line: &str| {
            let failures = record.failures.lock();
            failures
                .iter()
                .find(|known| known.line == line)
                .map(|known| known.untold)
        };
        assert_eq!(untold("read: /a: 550 no"), Some(3));
        record.tell(false);
        assert_eq!(untold("read: /a: 550 no"), Some(3), "a minute is not over");
        record.tell(true);
        assert_eq!(untold("read: /a: 550 no"), Some(0));
        for n in 0..100 {
            fail(&format!("stat: /{n}: 550 no"));
        }
        assert_eq!(record.report().failures.len(), REMEMBERED);
    }

    #[test]
    fn a_count_is_told_in_one_line() {
        let now = Instant::now();
        let mut known = Known {
            line: "close: /x: 552 full (EDQUOT)".to_owned(),
            errno: 122,
            count: 9,
            last: SystemTime::now(),
            logged: now,
            untold: 8,
        };
        assert_eq!(known.tell(now), "close: /x: 552 full (EDQUOT) (8 times)");
        known.untold = 1;
        assert_eq!(known.tell(now), "close: /x: 552 full (EDQUOT)");
    }
}
