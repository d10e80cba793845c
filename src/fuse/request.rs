//! One request's way: tried from memory at once, else by a worker, answered by whoever comes
//! first, and logged where it failed. Must not know what the operations do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::Errno;
use parking_lot::Mutex;

use super::errno::errno;
use super::killed::{Waiting, Watch};
use super::workers::{Queue, Turn, Workers};
use crate::fs::{Error, Fs, Ino, Patience};

/// How long a transfer may take, with the wait for its turn.
const TRANSFER: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a request that waits for a server that is down (`hard`) rests between attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// A reply that can say that it did not work out.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

/// A request: what is asked, by whom, and what to do about it.
pub(super) struct Request<R, T> {
    pub what: What,
    /// The calling thread.
    pub tid: u32,
    /// Does it; called once from memory alone, and once more where that does not do.
    pub run: Run<T>,
    /// Puts the result into the reply.
    pub answer: fn(R, T),
    /// Takes back what was done for a caller who no longer wants it.
    pub undo: fn(&Fs, T),
    /// It may take as long as a transfer goes on, and sees to its own deadlines.
    pub is_transfer: bool,
}

/// An operation, with as much patience as it is given.
pub(super) type Run<T> = Box<dyn Fn(&Arc<Fs>, Patience) -> Result<T, Error> + Send>;

/// What a request is about, for the log.
#[derive(Clone, Debug)]
pub(super) struct What {
    pub operation: &'static str,
    pub ino: Ino,
    pub name: Option<Box<[u8]>>,
}

impl<R: Refuse, T: 'static> Request<R, T> {
    /// Answers from memory, or has it done by `workers`.
    pub fn serve(self, fs: &Arc<Fs>, workers: &Workers, watch: &Watch, reply: R) {
        // A panic here would end the thread that reads from the kernel; the reply that it drops
        // says EIO.
        let tried = catch_unwind(AssertUnwindSafe(|| {
            match (self.run)(fs, Patience::MemoryOnly) {
                Err(Error::WouldWait) => self.hand_over(fs.clone(), workers, watch, reply),
                outcome => self.finish(fs, outcome, reply),
            }
        }));
        if tried.is_err() {
            log::error!("a request panicked: this is a defect of ftpsfs");
        }
    }

    fn hand_over(self, fs: Arc<Fs>, workers: &Workers, watch: &Watch, reply: R) {
        let slot = Arc::new(Slot(Mutex::new(Some(reply))));
        let waiting: Arc<dyn Waiting> = slot.clone();
        watch.add(self.tid, Arc::downgrade(&waiting));
        drop(waiting);
        let pending = Pending {
            request: self,
            fs,
            queue: workers.queue().clone(),
            slot,
        };
        pending.submit();
    }

    fn finish(&self, fs: &Fs, outcome: Result<T, Error>, reply: R) {
        match outcome {
            Ok(done) => (self.answer)(reply, done),
            Err(error) => {
                let errno = errno(&error);
                self.what.log(fs, &error, errno);
                reply.refuse(errno);
            }
        }
    }
}

/// A request that waits for the server.
struct Pending<R, T> {
    request: Request<R, T>,
    fs: Arc<Fs>,
    queue: Queue,
    slot: Arc<Slot<R>>,
}

impl<R: Refuse, T: 'static> Pending<R, T> {
    fn submit(self) {
        let (queue, slot, deadline) = (self.queue.clone(), self.slot.clone(), self.deadline());
        let job = Box::new(move |turn| self.attempt(turn, deadline));
        if queue.submit(deadline, job).is_err()
            && let Some(reply) = slot.take()
        {
            reply.refuse(errno(&Error::Busy));
        }
    }

    fn deadline(&self) -> Instant {
        let bound = match self.request.is_transfer {
            true => TRANSFER,
            false => self.fs.config().timeout,
        };
        Instant::now() + bound
    }

    fn attempt(self, turn: Turn, deadline: Instant) {
        if self.slot.is_taken() {
            return;
        }
        let outcome = match turn {
            Turn::InTime => (self.request.run)(&self.fs, Patience::Until(deadline)),
            Turn::TooLate => Err(Error::TimedOut),
        };
        if let Err(error) = &outcome
            && self.fs.waits_out(error)
        {
            self.request.what.log_wait(&self.fs, error);
            return self.try_again();
        }
        match self.slot.take() {
            Some(reply) => self.request.finish(&self.fs, outcome, reply),
            None => {
                if let Ok(done) = outcome {
                    (self.request.undo)(&self.fs, done);
                }
            }
        }
    }

    /// The server is waited for, but by no thread.
    fn try_again(self) {
        let from = Instant::now() + PAUSE;
        let (queue, deadline) = (
            self.queue.clone(),
            from + (self.deadline() - Instant::now()),
        );
        let job = Box::new(move |turn| self.attempt(turn, deadline));
        queue.submit_later(from, deadline, job);
    }
}

/// A reply that several may want to give: the first has it.
struct Slot<R>(Mutex<Option<R>>);

impl<R> Slot<R> {
    fn take(&self) -> Option<R> {
        self.0.lock().take()
    }

    fn is_taken(&self) -> bool {
        self.0.lock().is_none()
    }
}

impl<R: Refuse> Waiting for Slot<R> {
    fn interrupt(&self) {
        if let Some(reply) = self.take() {
            reply.refuse(Errno::EINTR);
        }
    }
}

impl What {
    /// Programs look for files that are not there, and try to write, all the time.
    pub fn log(&self, fs: &Fs, error: &Error, errno: Errno) {
        let expected = error.is_not_found()
            || matches!(
                error,
                Error::ReadOnly | Error::NotPermitted(_) | Error::AlreadyExists
            );
        let level = match expected {
            true => log::Level::Debug,
            false => log::Level::Warn,
        };
        if log::log_enabled!(level) {
            let path = match error {
                // The error names it.
                Error::Remote { .. } => String::new(),
                _ => self.path(fs),
            };
            let code = std::io::Error::from_raw_os_error(i32::from(errno));
            log::log!(level, "{}: {path}{error} ({code})", self.operation);
        }
    }

    /// It is not answered yet.
    fn log_wait(&self, fs: &Fs, error: &Error) {
        log::debug!("{}: {}{error}; waiting", self.operation, self.path(fs));
    }

    fn path(&self, fs: &Fs) -> String {
        let directory = match fs.path(self.ino) {
            Some(path) => path.to_string(),
            None => format!("inode {}", self.ino.0),
        };
        match &self.name {
            Some(name) => format!("{directory}: {}: ", name.escape_ascii()),
            None => format!("{directory}: "),
        }
    }
}
