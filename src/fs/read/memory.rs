//! The memory that all read-ahead shares: equal buffers, counted while anyone holds one, and a few
//! kept for the next. Must not know what is in them.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::MmapMut;
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
    spare: Vec<MmapMut>,
    /// How many parts share the memory.
    parts: usize,
}

/// [`BUFFER`] bytes on loan. They are the system's own pages and go back there: given back to the
/// allocator, buffers that one thread fills and others drop would stay in the arena of each.
pub(super) struct Buffer {
    bytes: Option<MmapMut>,
    part: Arc<Part>,
}

/// Why there is no buffer to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The share is used up.
    Share,
    /// Others hold more than theirs, or the machine has no more.
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
        let spare = state.spare.pop().map(Ok);
        let Ok(bytes) = spare.unwrap_or_else(|| MmapMut::map_anon(BUFFER)) else {
            return Err(Refused::Exhausted);
        };
        state.out += 1;
        self.held.fetch_add(1, Ordering::Relaxed);
        drop(state);
        Ok(Buffer {
            bytes: Some(bytes),
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
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.part.held.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.part.memory.state.lock();
        state.out -= 1;
        if state.spare.len() < SPARE {
            state.spare.extend(self.bytes.take());
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

    /// In the allocator's hands they made 200 MiB out of 40, thread by thread.
    #[test]
    fn what_readers_gave_back_is_the_systems_again() {
        let memory = Memory::new(1 << 30);
        let part = memory.join();
        let mut places = Vec::new();
        for _ in 0..2 {
            let lease = |_| {
                let mut buffer = part.lease(0, false).ok().unwrap();
                buffer.fill(1);
                buffer
            };
            let held: Vec<Buffer> = (0..8 * SPARE).map(lease).collect();
            places = held.iter().map(|buffer| buffer.as_ptr() as usize).collect();
            std::thread::spawn(move || drop(held)).join().unwrap();
        }
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let is_mapped = |place: &&usize| {
            maps.lines().any(|line| {
                let ends = line.split([' ', '-']).take(2);
                let ends: Vec<_> = ends.map(|end| usize::from_str_radix(end, 16)).collect();
                matches!(&ends[..], [Ok(from), Ok(to)] if (*from..*to).contains(place))
            })
        };
        // Other tests may have got some of them meanwhile.
        let left = places.iter().filter(is_mapped).count();
        assert!(left <= 4 * SPARE, "{left} of {}", places.len());
    }
}
