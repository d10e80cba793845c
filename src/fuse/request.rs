//! One request's way: tried from memory at once, else by a worker, answered by whoever comes
//! first, and logged where it failed. Must not know what the operations do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::Errno;
use parking_lot::Mutex;

use super::Office;
use super::errno::errno;
use super::killed::Waiting;
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
    /// Called before it is answered that it failed.
    pub failed: fn(&Office, Ino),
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
    /// The inode was found by its name just before: should it be gone, the kernel looks that up once more.
    pub by_name: bool,
}

impl<R: Refuse, T: 'static> Request<R, T> {
    /// Answers from memory, or has it done by `workers`.
    pub fn serve(self, office: &Office, workers: &Workers, reply: R) {
        // A panic here would end the thread that reads from the kernel; the reply that it drops
        // says EIO.
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let outcome = (self.run)(&office.fs, Patience::MemoryOnly);
            // What was remembered of a server that is down is no answer where it is waited for.
            let waits = outcome.as_ref().err().is_some_and(|error| {
                matches!(error, Error::WouldWait) || office.fs.waits_out(error)
            });
            office.record.answered(!waits);
            match waits {
                true => self.hand_over(office.clone(), workers, reply),
                false => self.finish(office, outcome, reply),
            }
        }));
        if tried.is_err() {
            log::error!("a request panicked: this is a defect of ftpsfs");
        }
    }

    fn hand_over(self, office: Office, workers: &Workers, reply: R) {
        let slot = Arc::new(Slot(Mutex::new(Some(reply))));
        let waiting: Arc<dyn Waiting> = slot.clone();
        office.watch.add(self.tid, Arc::downgrade(&waiting));
        drop(waiting);
        let pending = Pending {
            request: self,
            office,
            queue: workers.queue().clone(),
            slot,
        };
        pending.submit();
    }

    fn finish(&self, office: &Office, outcome: Result<T, Error>, reply: R) {
        match outcome {
            Ok(done) => (self.answer)(reply, done),
            Err(error) => {
                let errno = self.what.errno(&error);
                self.what.log(office, &error, errno);
                (self.failed)(office, self.what.ino);
                reply.refuse(errno);
            }
        }
    }
}

/// A request that waits for the server.
struct Pending<R, T> {
    request: Request<R, T>,
    office: Office,
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
            false => self.office.fs.config().timeout,
        };
        Instant::now() + bound
    }

    fn attempt(self, turn: Turn, deadline: Instant) {
        if self.slot.is_taken() {
            return;
        }
        let outcome = match turn {
            Turn::InTime => (self.request.run)(&self.office.fs, Patience::Until(deadline)),
            Turn::TooLate => Err(Error::TimedOut),
        };
        if let Err(error) = &outcome
            && self.office.fs.waits_out(error)
        {
            self.request.what.log_wait(&self.office.fs, error);
            return self.try_again();
        }
        match self.slot.take() {
            Some(reply) => self.request.finish(&self.office, outcome, reply),
            None => {
                if let Ok(done) = outcome {
                    (self.request.undo)(&self.office.fs, done);
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
    /// What the kernel is told of a failure.
    pub fn errno(&self, error: &Error) -> Errno {
        match self.by_name && error.is_stale() {
            true => Errno::ESTALE,
            false => errno(error),
        }
    }

    /// Programs look for files that are not there, and try to write, all the time.
    pub fn log(&self, office: &Office, error: &Error, errno: Errno) {
        let expected = error.is_not_found()
            || self.by_name && error.is_stale()
            || matches!(
                error,
                Error::ReadOnly | Error::NotPermitted(_) | Error::AlreadyExists
            );
        if expected && !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let path = match error {
            // The error names it.
            Error::Remote { .. } => String::new(),
            _ => self.path(&office.fs),
        };
        let errno = i32::from(errno);
        let code = std::io::Error::from_raw_os_error(errno);
        let line = format!("{}: {path}{error} ({code})", self.operation);
        match expected {
            true => log::debug!("{line}"),
            false => {
                let record = || Arc::downgrade(&office.record);
                office.record.failed(line, errno, record);
            }
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
