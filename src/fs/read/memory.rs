//! The memory that all read-ahead shares: equal buffers, counted while anyone holds one, and a few
//! kept for the next. Must not know what is in them.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

/// The size of a buffer, bytes: two of the kernel's usual requests.
pub(super) const BUFFER: usize = 256 * 1024;

/// Free buffers kept, so that a steady stream need not allocate.
const SPARE: usize = 16;

/// See the module.
pub(super) struct Memory {
    /// How many buffers may be out at a time, for all but the urgent.
    limit: usize,
    state: Mutex<State>,
}

struct State {
    out: usize,
    spare: Vec<Box<[u8]>>,
    /// How many streams share the memory.
    streams: usize,
}

/// [`BUFFER`] bytes on loan.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    memory: Arc<Memory>,
}

/// Why there is no buffer to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The stream holds its fair share.
    Share,
    /// Others hold more than theirs.
    Exhausted,
}

/// A stream's part in the memory, given back when dropped.
pub(super) struct Part(Arc<Memory>);

impl Memory {
    /// At most `limit` bytes are out at a time, but for buffers that a waiting read needs.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: (limit / BUFFER).max(1),
            state: Mutex::new(State {
                out: 0,
                spare: Vec::new(),
                streams: 0,
            }),
        })
    }

    pub fn join(self: &Arc<Self>) -> Part {
        self.state.lock().streams += 1;
        Part(self.clone())
    }
}

impl Part {
    /// A buffer for a stream that already holds `held`. Where a read waits for it (`urgent`),
    /// there always is one: it goes out with the reply.
    pub fn lease(&self, held: usize, urgent: bool) -> Result<Buffer, Refused> {
        let memory = &self.0;
        let mut state = memory.state.lock();
        if !urgent {
            if held >= memory.share(&state) {
                return Err(Refused::Share);
            }
            if state.out >= memory.limit {
                return Err(Refused::Exhausted);
            }
        }
        state.out += 1;
        let spare = state.spare.pop();
        drop(state);
        Ok(Buffer {
            bytes: spare.unwrap_or_else(|| vec![0; BUFFER].into()),
            memory: memory.clone(),
        })
    }

    /// How many buffers each stream may hold now.
    pub fn share(&self) -> usize {
        self.0.share(&self.0.state.lock())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.state.lock().streams -= 1;
    }
}

impl Memory {
    fn share(&self, state: &State) -> usize {
        (self.limit / state.streams.max(1)).max(1)
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut state = self.memory.state.lock();
        state.out -= 1;
        if state.spare.len() < SPARE {
            state.spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_buffers_come_back() {
        let memory = Memory::new(3 * BUFFER);
        let part = memory.join();
        let mut held: Vec<Buffer> = (0..3).map(|n| part.lease(n, false).ok().unwrap()).collect();
        assert_eq!(part.lease(2, false).err(), Some(Refused::Exhausted));
        assert_eq!(part.lease(3, false).err(), Some(Refused::Share));
        held.pop();
        let buffer = part.lease(2, false).ok().unwrap();
        assert_eq!(buffer.len(), BUFFER);
        drop((buffer, held));
        assert_eq!(memory.state.lock().out, 0);
    }

    #[test]
    fn memory_is_shared_fairly_and_never_refused_to_a_waiting_read() {
        let memory = Memory::new(4 * BUFFER);
        let parts = [memory.join(), memory.join()];
        assert_eq!(parts[0].share(), 2);
        let held = [
            parts[0].lease(0, false).ok().unwrap(),
            parts[0].lease(1, false).ok().unwrap(),
        ];
        assert_eq!(parts[0].lease(2, false).err(), Some(Refused::Share));
        let urgent = parts[0].lease(2, true).ok().unwrap();
        drop((held, urgent));
        let [one, two] = parts;
        drop(two);
        assert_eq!(one.share(), 4);
    }
}
