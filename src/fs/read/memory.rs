//! The memory that all read-ahead shares: equal buffers, counted while anyone holds one, and a few
//! kept for the next. Must not know what is in them.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// How many parts share the memory.
    parts: usize,
}

/// [`BUFFER`] bytes on loan.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    part: Arc<Part>,
}

/// Why there is no buffer to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The share is used up.
    Share,
    /// Others hold more than theirs.
    Exhausted,
}

/// The memory of one stream, or of several that read the same file together.
pub(super) struct Part {
    memory: Arc<Memory>,
    /// Buffers out.
    held: AtomicUsize,
}

impl Memory {
    /// At most `limit` bytes are out at a time, but for buffers that a waiting read needs.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: (limit / BUFFER).max(1),
            state: Mutex::new(State {
                out: 0,
                spare: Vec::new(),
                parts: 0,
            }),
        })
    }

    /// How many buffers are out.
    #[cfg(test)]
    pub fn out(&self) -> usize {
        self.state.lock().out
    }

    pub fn join(self: &Arc<Self>) -> Arc<Part> {
        self.state.lock().parts += 1;
        Arc::new(Part {
            memory: self.clone(),
            held: AtomicUsize::new(0),
        })
    }
}

impl Part {
    /// A buffer, if more than `reserve` are left of the share. Where a read waits for it (`urgent`),
    /// there always is one: it goes out with the reply.
    pub fn lease(self: &Arc<Self>, reserve: usize, urgent: bool) -> Result<Buffer, Refused> {
        let memory = &self.memory;
        let mut state = memory.state.lock();
        if !urgent {
            if self.held.load(Ordering::Relaxed) + reserve >= memory.share(&state) {
                return Err(Refused::Share);
            }
            if state.out >= memory.limit {
                return Err(Refused::Exhausted);
            }
        }
        state.out += 1;
        self.held.fetch_add(1, Ordering::Relaxed);
        let spare = state.spare.pop();
        drop(state);
        Ok(Buffer {
            bytes: spare.unwrap_or_else(|| vec![0; BUFFER].into()),
            part: self.clone(),
        })
    }

    /// How many buffers the part may hold now.
    pub fn share(&self) -> usize {
        self.memory.share(&self.memory.state.lock())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.memory.state.lock().parts -= 1;
    }
}

impl Memory {
    fn share(&self, state: &State) -> usize {
        (self.limit / state.parts.max(1)).max(1)
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
        self.part.held.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.part.memory.state.lock();
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
        let mut held: Vec<Buffer> = (0..3).map(|_| part.lease(0, false).ok().unwrap()).collect();
        assert_eq!(part.lease(0, false).err(), Some(Refused::Share));
        held.pop();
        assert_eq!(part.lease(1, false).err(), Some(Refused::Share));
        let buffer = part.lease(0, false).ok().unwrap();
        assert_eq!(buffer.len(), BUFFER);
        drop((buffer, held));
        assert_eq!(memory.out(), 0);
    }

    #[test]
    fn memory_is_shared_fairly_and_never_refused_to_a_waiting_read() {
        let memory = Memory::new(4 * BUFFER);
        let [one, two] = [memory.join(), memory.join()];
        assert_eq!(one.share(), 2);
        let held = [one.lease(0, false).ok(), one.lease(0, false).ok()];
        assert_eq!(one.lease(0, false).err(), Some(Refused::Share));
        let urgent = one.lease(0, true).ok().unwrap();
        let other = two.lease(0, false).ok().unwrap();
        assert_eq!(two.lease(0, false).err(), Some(Refused::Exhausted));
        drop((held, urgent, other, two));
        assert_eq!(one.share(), 4);
    }
}
