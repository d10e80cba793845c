//! How much work is under way that nobody waits for but the end of the mount. Must not know what
//! it is.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// See the module.
#[derive(Default)]
pub(super) struct Leftovers {
    count: Mutex<usize>,
    none: Condvar,
}

impl Leftovers {
    pub fn begin(&self) {
        *self.count.lock() += 1;
    }

    pub fn end(&self) {
        let mut count = self.count.lock();
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.none.notify_all();
        }
    }

    /// Waits until nothing is under way; `false` at the deadline.
    pub fn wait(&self, deadline: Instant) -> bool {
        let mut count = self.count.lock();
        while *count > 0 {
            if self.none.wait_until(&mut count, deadline).timed_out() {
                return *count == 0;
            }
        }
        true
    }
}
