//! What finished streams keep in memory: one thread, there only while there is any, ends those
//! that nobody has read for a while. Must not know how streams fetch.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::stream::Stream;

/// See the module.
pub(super) struct Leftovers {
    /// How long a finished stream stays after it was last read.
    patience: Duration,
    /// Streams' locks are taken below it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    streams: Vec<Weak<Stream>>,
    /// Whether a thread looks after them.
    watched: bool,
}

impl Leftovers {
    pub fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            patience,
            state: Mutex::default(),
        })
    }

    /// Adds a finished stream. The calling thread, which has nothing else to do any more, looks
    /// after all of them unless another does.
    pub fn keep(&self, stream: Weak<Stream>) {
        let mut state = self.state.lock();
        state.streams.push(stream);
        if std::mem::replace(&mut state.watched, true) {
            return;
        }
        drop(state);
        while let Some(next) = self.sweep() {
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// Ends those whose time has come; when the next one's will. What is added meanwhile has more
    /// time than that. `None` ends the watch.
    fn sweep(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let mut next = None;
        state.streams.retain(|stream| {
            let Some(stream) = stream.upgrade().filter(|stream| !stream.is_over()) else {
                return false;
            };
            let until = stream.idle_since().unwrap_or(now) + self.patience;
            if until <= now {
                stream.close();
                return false;
            }
            next = Some(next.map_or(until, |next: Instant| next.min(until)));
            true
        });
        state.watched = next.is_some();
        next
    }
}

#[cfg(test)]
mod tests;
