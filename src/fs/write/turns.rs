//! Whose turn it is to upload: so many at a time, first come, first served. To wait here costs
//! nobody a session. Must not know what is uploaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

/// See the module.
pub(in crate::fs) struct Turns {
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct State {
    under_way: usize,
    /// The number of the next to come, and of the next to be let in.
    next: u64,
    admitted: u64,
}

/// A turn, given back when dropped.
pub(in crate::fs) struct Turn(Arc<Turns>);

impl Turns {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            state: Mutex::default(),
            changed: Condvar::new(),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Waits for a turn: as long as those before it take, and each of them has a deadline.
    pub fn take(self: &Arc<Self>) -> Turn {
        let mut state = self.state.lock();
        let mine = state.next;
        state.next += 1;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        while state.under_way >= self.most || state.admitted != mine {
            self.changed.wait(&mut state);
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        state.admitted += 1;
        state.under_way += 1;
        // The next may find room as well.
        self.changed.notify_all();
        Turn(self.clone())
    }

    /// A turn, where there is one to be had at once and nobody waits.
    pub fn try_take(self: &Arc<Self>) -> Option<Turn> {
        let mut state = self.state.lock();
        if state.under_way >= self.most || state.admitted != state.next {
            return None;
        }
        state.next += 1;
        state.admitted += 1;
        state.under_way += 1;
        Some(Turn(self.clone()))
    }

    /// Whether somebody waits.
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.state.lock().under_way -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_so_many_at_a_time() {
        let turns = Turns::new(2);
        let (now, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _turn = turns.take();
                    let running = now.fetch_add(1, Ordering::SeqCst) + 1;
                    peak.fetch_max(running, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(20));
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(peak.load(Ordering::SeqCst), 2);
        let held = [turns.try_take(), turns.try_take()];
        assert!(held.iter().all(Option::is_some) && turns.try_take().is_none());
        drop(held);
        assert!(turns.try_take().is_some() && !turns.is_wanted());
    }
}
