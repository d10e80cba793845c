//! Lets killed programs die. fuser knows no interrupts, so a program that waits for a reply could
//! not be killed. One thread looks at the callers of all slow requests, and answers for those
//! that have been killed; their work goes on, and its result is dropped.
//!
//! Must not know what the requests are.

use std::fs;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use parking_lot::{Condvar, Mutex};

/// How often to look, and how long a request may take before it is looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// A request that waits for its answer.
pub(super) trait Waiting: Send + Sync {
    /// Answers that it was interrupted, unless it has been answered.
    fn interrupt(&self);
}

/// See the module. Its thread comes with the first request and ends when it is dropped.
pub(super) struct Watch(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Rung when the list is no longer empty, and at the end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    running: bool,
    closed: bool,
}

struct Request {
    /// The calling thread.
    tid: i32,
    since: Instant,
    waiting: Weak<dyn Waiting>,
}

impl Watch {
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }))
    }

    /// Watches the thread `tid` while `waiting` lives. The kernel's own requests, and those from
    /// where we cannot look, come with 0: they are not watched.
    pub fn add(&self, tid: u32, waiting: Weak<dyn Waiting>) {
        let Some(tid) = i32::try_from(tid).ok().filter(|tid| *tid > 0) else {
            return;
        };
        let mut state = self.0.state.lock();
        state.requests.push(Request {
            tid,
            since: Instant::now(),
            waiting,
        });
        if !state.running {
            let shared = self.0.clone();
            let thread = thread::Builder::new().name("watch".to_owned());
            match thread.spawn(move || shared.run()) {
                Ok(_) => state.running = true,
                Err(error) => log::warn!("killed programs may hang: {error}"),
            }
        }
        self.0.changed.notify_one();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut state = self.state.lock();
            while state.requests.is_empty() && !state.closed {
                self.changed.wait(&mut state);
            }
            if state.closed {
                return;
            }
            let slow = state.slow();
            drop(state);
            for (tid, waiting) in slow {
                if is_dying(tid) {
                    waiting.interrupt();
                }
            }
            thread::sleep(PERIOD);
        }
    }
}

impl State {
    /// The requests that wait for long, without those that are over.
    fn slow(&mut self) -> Vec<(i32, Arc<dyn Waiting>)> {
        self.requests.retain(|r| r.waiting.strong_count() > 0);
        let slow = self.requests.iter().filter(|r| r.since.elapsed() >= PERIOD);
        slow.filter_map(|r| Some((r.tid, r.waiting.upgrade()?)))
            .collect()
    }
}

/// Whether a thread has been killed or is gone.
fn is_dying(tid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{tid}/status")) {
        Ok(status) => has_sigkill(&status),
        // It may only be hidden from us (hidepid=): ask in another way.
        Err(_) => kill(Pid::from_raw(tid), None) == Err(Errno::ESRCH),
    }
}

/// Whether SIGKILL is pending, for the thread or for its process. Signals that end a process are
/// turned into SIGKILL by the kernel, so this sees Ctrl-C too.
fn has_sigkill(status: &str) -> bool {
    const SIGKILL: u64 = 1 << (libc::SIGKILL - 1);
    status.lines().any(|line| {
        let pending = line
            .strip_prefix("SigPnd:")
            .or_else(|| line.strip_prefix("ShdPnd:"));
        let bits = pending.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        bits.is_some_and(|bits| bits & SIGKILL != 0)
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;

    use super::*;

    struct Request(Mutex<mpsc::Sender<()>>);

    impl Waiting for Request {
        fn interrupt(&self) {
            let _ = self.0.lock().send(());
        }
    }

    #[test]
    fn pending_signals_are_read() {
        let status = "Name:\tcat\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n";
        assert!(has_sigkill(status));
        let status = "Name:\tcat\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000102\n";
        assert!(has_sigkill(status));
        let status = "Name:\tcat\nSigPnd:\t0000000000004002\nSigBlk:\t0000000000000100\n";
        assert!(!has_sigkill(status));
    }

    #[test]
    fn a_caller_that_is_gone_is_answered_for_and_a_living_one_is_not() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let watch = Watch::new();
        let (told, interrupted) = mpsc::channel();
        let request: Arc<dyn Waiting> = Arc::new(Request(Mutex::new(told)));
        watch.add(child.id(), Arc::downgrade(&request));
        let quiet = interrupted.recv_timeout(3 * PERIOD);
        assert_eq!(quiet, Err(mpsc::RecvTimeoutError::Timeout));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(interrupted.recv_timeout(20 * PERIOD), Ok(()));
    }

    #[test]
    fn requests_that_are_over_are_forgotten() {
        let watch = Watch::new();
        let (told, interrupted) = mpsc::channel();
        let request: Arc<dyn Waiting> = Arc::new(Request(Mutex::new(told)));
        // No thread has this number: it would be answered for.
        watch.add(i32::MAX as u32, Arc::downgrade(&request));
        watch.add(0, Arc::downgrade(&request));
        drop(request);
        thread::sleep(5 * PERIOD);
        assert_eq!(
            interrupted.try_recv(),
            Err(mpsc::TryRecvError::Disconnected)
        );
        assert!(watch.0.state.lock().requests.is_empty());
    }
}
