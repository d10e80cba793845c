//! Write-back: what programs were promised is on the local disk; it goes to the server behind
//! their backs, the oldest first, several at a time, as often as it takes.
//!
//! Must not know the kernel. One leaf mutex.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::super::spool::SpoolError;
use super::super::{Error, Fs, Ino};
use super::Draft;
use super::upload::{Extent, Stop};

/// The pauses after failures in a row, while the server is not to be had: doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// See the module.
pub(in crate::fs) struct Backlog {
    /// Threads, at most.
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// In the order in which they were promised.
    queue: VecDeque<Ino>,
    /// Those in the queue and those being sent.
    known: HashSet<Ino>,
    /// Being sent, and changed meanwhile.
    again: HashSet<Ino>,
    threads: usize,
    failures: u32,
    /// Nothing is tried before.
    pause: Option<Instant>,
}

/// What came of sending one.
enum Sent {
    Done,
    /// The server was not to be had.
    Later,
}

impl Backlog {
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Waits until all is sent, or cannot be, however long that takes.
    pub fn drain(&self) {
        let mut state = self.state.lock();
        while !state.known.is_empty() {
            self.changed.wait(&mut state);
        }
    }

    /// Whether a thread has to be started for it.
    fn add(&self, ino: Ino) -> bool {
        let mut state = self.state.lock();
        if !state.known.insert(ino) {
            if !state.queue.contains(&ino) {
                state.again.insert(ino);
            }
            return false;
        }
        state.queue.push_back(ino);
        self.changed.notify_all();
        // Those that send may do so for long.
        let sending = state.known.len() - state.queue.len();
        let free = state.threads.saturating_sub(sending);
        let starts = state.threads < self.most && state.queue.len() > free;
        state.threads += usize::from(starts);
        starts
    }

    /// The next to send, when it is time; `None` where none is left.
    fn next(&self) -> Option<Ino> {
        let mut state = self.state.lock();
        loop {
            match state.pause {
                Some(pause) if Instant::now() < pause => {
                    self.changed.wait_until(&mut state, pause);
                }
                _ => {
                    let next = state.queue.pop_front();
                    state.threads -= usize::from(next.is_none());
                    return next;
                }
            }
        }
    }

    fn done(&self, ino: Ino, sent: Sent) {
        let mut state = self.state.lock();
        match sent {
            Sent::Done => {
                (state.failures, state.pause) = (0, None);
                match state.again.remove(&ino) {
                    true => state.queue.push_back(ino),
                    false => _ = state.known.remove(&ino),
                }
            }
            Sent::Later => {
                let doubled = PAUSE.saturating_mul(1 << state.failures.min(5));
                state.failures += 1;
                state.pause = Some(Instant::now() + doubled.min(LONGEST_PAUSE));
                state.again.remove(&ino);
                state.queue.push_front(ino);
            }
        }
        self.changed.notify_all();
    }
}

impl Fs {
    /// Makes what was written to a draft outlast this machine's end, and has it sent.
    pub(in crate::fs) fn promise(&self, draft: &Draft) -> Result<(), Error> {
        match draft.file.promise() {
            // It is on the server, or nobody wants it any more.
            Err(SpoolError::Gone) => return Ok(()),
            promised => promised?,
        };
        self.send_later(draft.ino);
        Ok(())
    }

    /// Has a draft sent in the background.
    pub(in crate::fs) fn send_later(&self, ino: Ino) {
        let backlog = self.drafts.backlog.clone();
        if !backlog.add(ino) {
            return;
        }
        let Some(fs) = self.this.upgrade() else {
            return;
        };
        let run = move || {
            while let Some(ino) = backlog.next() {
                let sent = fs.send_promised(ino);
                backlog.done(ino, sent);
            }
            // Else a loss of power would have it sent again, long after.
            if let Err(error) = fs.drafts.spool().and_then(|spool| Ok(spool.sync()?)) {
                log::debug!("{error}");
            }
        };
        let thread = thread::Builder::new().name("write-back".to_owned());
        if let Err(error) = thread.spawn(run) {
            self.drafts.backlog.state.lock().threads -= 1;
            log::error!("no thread to upload with ({error}): what was written is kept");
        }
    }

    fn send_promised(self: &Arc<Self>, ino: Ino) -> Sent {
        let Some(draft) = self.drafts.of(ino) else {
            return Sent::Done;
        };
        let sent = match self.try_upload(&draft, Extent::Closed) {
            Err(Stop::Remote(why)) if why.is_open() => {
                log::info!("{}: uploaded later: {why}", self.named(&draft));
                return Sent::Later;
            }
            sent => self.settle_upload(&draft, sent),
        };
        if let Err(error) = sent {
            log::debug!("not uploaded: {error}");
        }
        self.retire(ino);
        Sent::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_does_not_wait_for_the_only_thread_which_hangs() {
        let backlog = Backlog::new(3);
        assert!(backlog.add(Ino(1)));
        assert!(backlog.add(Ino(2)));
        assert_eq!(backlog.next(), Some(Ino(1)));
        assert_eq!(backlog.next(), Some(Ino(2)));
        backlog.done(Ino(2), Sent::Done);
        assert_eq!(backlog.next(), None, "the second thread ends");
        assert!(backlog.add(Ino(3)), "the first one hangs");
        assert!(backlog.add(Ino(4)), "one thread takes one");
        assert!(!backlog.add(Ino(5)), "there are enough threads");
    }

    #[test]
    fn each_file_waits_once_and_what_changed_meanwhile_is_sent_again() {
        let backlog = Backlog::new(2);
        assert!(backlog.add(Ino(1)), "the first starts a thread");
        assert!(!backlog.add(Ino(1)), "it waits already");
        assert!(backlog.add(Ino(2)));
        assert!(!backlog.add(Ino(3)), "there are enough threads");
        assert_eq!(backlog.next(), Some(Ino(1)));
        assert!(!backlog.add(Ino(1)), "it is being sent");
        backlog.done(Ino(1), Sent::Done);
        assert_eq!(backlog.state.lock().known.len(), 3);
        assert_eq!(backlog.next(), Some(Ino(2)));
        backlog.done(Ino(2), Sent::Later);
        let paused = Instant::now();
        assert_eq!(backlog.next(), Some(Ino(2)), "in order");
        assert!(paused.elapsed() >= PAUSE / 2);
        backlog.done(Ino(2), Sent::Done);
        for ino in [3, 1] {
            assert_eq!(backlog.next(), Some(Ino(ino)));
            backlog.done(Ino(ino), Sent::Done);
        }
        assert_eq!(backlog.next(), None);
        backlog.drain();
    }
}
