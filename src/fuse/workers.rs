//! Threads for what has to wait. They come when there is work and go when there is none, and
//! there are only so many of them. Must not know what the work is.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A thread without work goes after that.
const IDLE: Duration = Duration::from_secs(10);
/// How much work may queue.
const QUEUE: usize = 4096;

/// See the module. Dropping it ends the threads once the queue is empty.
pub(super) struct Workers(Queue);

/// Where work is handed in.
#[derive(Clone)]
pub(super) struct Queue(Arc<Shared>);

struct Shared {
    name: &'static str,
    most: usize,
    state: Mutex<State>,
    /// Rung when there is work, or the end.
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Instant, Job)>,
    /// Work that is not to be done before a time, with its deadline.
    later: Vec<(Instant, Instant, Job)>,
    threads: usize,
    idle: usize,
    closed: bool,
}

/// A piece of work; it is told whether its turn came in time.
pub(super) type Job = Box<dyn FnOnce(Turn) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    InTime,
    /// The deadline passed in the queue: nothing is to be done any more but to say so.
    TooLate,
}

impl Workers {
    /// At most `most` threads of that name.
    pub fn new(name: &'static str, most: usize) -> Self {
        Self(Queue(Arc::new(Shared {
            name,
            most: most.max(1),
            state: Mutex::new(State::default()),
            work: Condvar::new(),
        })))
    }

    pub fn queue(&self) -> &Queue {
        &self.0
    }

    /// See [`Queue::submit`].
    #[cfg(test)]
    fn submit(&self, deadline: Instant, job: Job) -> Result<(), Job> {
        self.0.submit(deadline, job)
    }
}

impl Queue {
    /// Has the job done some time from now, by one of the threads; to be called by one of them. What
    /// waits here counts for nobody's bound.
    pub fn submit_later(&self, from: Instant, deadline: Instant, job: Job) {
        self.0.state.lock().later.push((from, deadline, job));
        self.0.work.notify_one();
    }

    /// Has the job done by a thread as soon as one is free. Comes back with the job where too much is
    /// queued, or no thread can be had.
    pub fn submit(&self, deadline: Instant, job: Job) -> Result<(), Job> {
        let shared = &self.0;
        let mut state = shared.state.lock();
        if state.queue.len() >= QUEUE {
            return Err(job);
        }
        if state.queue.len() >= state.idle && state.threads < shared.most {
            let worker = shared.clone();
            let thread = thread::Builder::new().name(shared.name.to_owned());
            match thread.spawn(move || worker.run()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    log::error!("cannot start a thread: {error}");
                    return Err(job);
                }
                // Those that there are will come to it.
                Err(error) => log::warn!("cannot start another thread: {error}"),
            }
        }
        state.queue.push_back((deadline, job));
        shared.work.notify_one();
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let Queue(shared) = &self.0;
        let later = {
            let mut state = shared.state.lock();
            state.closed = true;
            std::mem::take(&mut state.later)
        };
        drop(later);
        shared.work.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        while let Some((deadline, job)) = self.next() {
            let turn = match Instant::now() < deadline {
                true => Turn::InTime,
                false => Turn::TooLate,
            };
            // One request that goes wrong must not take the thread with it.
            if catch_unwind(AssertUnwindSafe(|| job(turn))).is_err() {
                log::error!("a request panicked: this is a defect of ftpsfs");
            }
        }
    }

    fn next(&self) -> Option<(Instant, Job)> {
        let mut state = self.state.lock();
        loop {
            state.admit(Instant::now());
            if let Some(next) = state.queue.pop_front() {
                return Some(next);
            }
            if state.closed {
                state.threads -= 1;
                return None;
            }
            let next = state.later.iter().map(|(from, ..)| *from).min();
            let until = next.unwrap_or_else(|| Instant::now() + IDLE);
            state.idle += 1;
            let waited = self.work.wait_until(&mut state, until);
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() && state.later.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

impl State {
    /// Queues what is due.
    fn admit(&mut self, now: Instant) {
        let is_due = |(from, ..): &mut (Instant, Instant, Job)| *from <= now;
        let due: Vec<_> = self.later.extract_if(.., is_due).collect();
        self.queue
            .extend(due.into_iter().map(|(_, deadline, job)| (deadline, job)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn work_is_done_side_by_side_up_to_the_bound() {
        let workers = Workers::new("test", 3);
        let (now, peak) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
        let (done, all_done) = mpsc::channel();
        for _ in 0..12 {
            let (now, peak, done) = (now.clone(), peak.clone(), done.clone());
            let job = Box::new(move |turn| {
                assert_eq!(turn, Turn::InTime);
                *now.lock() += 1;
                let running = *now.lock();
                let mut peak = peak.lock();
                *peak = running.max(*peak);
                drop(peak);
                thread::sleep(Duration::from_millis(30));
                *now.lock() -= 1;
                done.send(()).unwrap();
            });
            assert!(workers.submit(soon(), job).is_ok());
        }
        for _ in 0..12 {
            all_done.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        assert_eq!(*peak.lock(), 3);
    }

    #[test]
    fn work_whose_deadline_passed_in_the_queue_is_told() {
        let workers = Workers::new("test", 1);
        let (done, turns) = mpsc::channel();
        let first = done.clone();
        let slow = Box::new(move |turn| {
            thread::sleep(Duration::from_millis(100));
            first.send(turn).unwrap();
        });
        assert!(workers.submit(soon(), slow).is_ok());
        let deadline = Instant::now() + Duration::from_millis(50);
        let late = Box::new(move |turn| done.send(turn).unwrap());
        assert!(workers.submit(deadline, late).is_ok());
        assert_eq!(turns.recv(), Ok(Turn::InTime));
        assert_eq!(turns.recv(), Ok(Turn::TooLate));
    }

    #[test]
    fn work_for_later_is_done_then_and_holds_up_nobody() {
        let workers = Workers::new("test", 1);
        let (done, turns) = mpsc::channel();
        let queue = workers.queue().clone();
        let (first, second) = (done.clone(), done);
        let begun = Instant::now();
        let again = Box::new(move |_| {
            let from = Instant::now() + Duration::from_millis(200);
            let job = Box::new(move |_| first.send("later").unwrap());
            queue.submit_later(from, soon(), job);
        });
        assert!(workers.submit(soon(), again).is_ok());
        let other = Box::new(move |_| second.send("now").unwrap());
        assert!(workers.submit(soon(), other).is_ok());
        assert_eq!(turns.recv(), Ok("now"));
        assert_eq!(turns.recv(), Ok("later"));
        assert!(begun.elapsed() >= Duration::from_millis(200));
    }

    #[test]
    fn a_panic_does_not_stop_the_others() {
        let workers = Workers::new("test", 1);
        let (done, turns) = mpsc::channel();
        let wrong = Box::new(|_| panic!("on purpose"));
        assert!(workers.submit(soon(), wrong).is_ok());
        let right = Box::new(move |turn| done.send(turn).unwrap());
        assert!(workers.submit(soon(), right).is_ok());
        assert_eq!(turns.recv(), Ok(Turn::InTime));
    }

    #[test]
    fn the_queue_is_bounded() {
        let workers = Workers::new("test", 1);
        let (go, gate) = mpsc::channel::<()>();
        let block = Box::new(move |_| assert!(gate.recv().is_err()));
        assert!(workers.submit(soon(), block).is_ok());
        let mut queued = 0;
        while workers.submit(soon(), Box::new(|_| {})).is_ok() {
            queued += 1;
            assert!(queued <= QUEUE + 1);
        }
        // The first may not have left the queue when the second came.
        assert!(queued >= QUEUE - 1);
        drop(go);
    }
}
