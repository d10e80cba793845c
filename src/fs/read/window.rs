//! The window of one stream: the bytes that are there, and how far ahead to fetch.
//!
//! Pure decisions over offsets: no thread, no clock, no server.

use std::collections::VecDeque;
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::memory::{BUFFER, Buffer};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// A random read fetches whole units of this.
const UNIT: u64 = 128 * KIB;
/// A sequential stream from the beginning of a file is at least so far ahead of its reader, and any
/// at most so far.
const AHEAD: Range<u64> = 256 * KIB..8 * MIB;
/// A read so far ahead of what is fetched or asked for is waited for, rather than served by a
/// stream of its own: about what comes in during the round trips that this would cost.
const REACH: u64 = 2 * MIB;
/// The same for a stream that may never be continued.
const RANDOM_REACH: u64 = 256 * KIB;
/// Where no more than this is left of the file, it is fetched to the end: cheaper than to
/// break off the transfer.
const REST: u64 = MIB;
/// What was read stays so long: the kernel asks for so much at a time, and its requests come out of
/// order, the more so on a busy machine.
const TAIL: u64 = 8 * MIB;

/// See the module.
pub(super) struct Window {
    /// Where the stream began.
    origin: u64,
    /// The size that the file had then.
    size: u64,
    /// Where the first byte kept is.
    start: u64,
    /// Contiguous from `start` to `end`.
    pieces: VecDeque<Arc<Piece>>,
    end: u64,
    /// The furthest end of a read asked for.
    asked: u64,
    /// The furthest end of a read answered.
    served: u64,
    sequential: bool,
    /// Whether no second read has gone on where the first was.
    single: bool,
    /// Where another stream goes on; `u64::MAX` where none does.
    limit: u64,
    /// Whether what was not asked for yet is fetched, too.
    eager: bool,
    /// The reads that wait: offset and end.
    waiting: Vec<Range<u64>>,
    /// The end of the file, once the stream has come to it.
    end_of_file: bool,
}

/// Some bytes of a file, as they were fetched.
pub(super) struct Piece {
    buffer: Buffer,
    filled: usize,
}

/// The bytes of one read, contiguous, without a copy where they lie in one piece.
pub struct Data(Parts);

enum Parts {
    Nothing,
    One(Arc<Piece>, Range<usize>),
    Joined(Vec<u8>),
}

/// What a read finds, to be joined when no lock is held.
pub(super) struct Cut(Vec<(Arc<Piece>, Range<usize>)>);

impl Window {
    /// For a stream that begins at `origin` of a file of `size` bytes, with nothing fetched yet. From
    /// the beginning of the file the reading is taken to be sequential.
    pub fn new(origin: u64, size: u64) -> Self {
        Self {
            origin,
            size,
            start: origin,
            pieces: VecDeque::new(),
            end: origin,
            asked: origin,
            served: origin,
            sequential: origin == 0,
            single: true,
            limit: u64::MAX,
            eager: false,
            waiting: Vec::new(),
            end_of_file: false,
        }
    }

    /// Leaves what is at `limit` and beyond to other streams. `false` where it has come too far already.
    pub fn stop_at(&mut self, limit: u64) -> bool {
        let early = self.end.max(self.asked) < limit && limit <= self.limit;
        if early {
            self.limit = limit;
        }
        early
    }

    /// The same, and fetches what is before it whether it was asked for yet or not.
    pub fn end_at(&mut self, limit: u64) -> bool {
        let early = self.stop_at(limit);
        if early {
            self.fetch_all();
        }
        early
    }

    /// Goes on beyond its limit, as far ahead of its reader as where there are no others. `false` where
    /// nothing is fetched any more.
    pub fn go_on(&mut self) -> bool {
        let early = !self.is_complete();
        if early {
            self.limit = u64::MAX;
            self.eager = false;
        }
        early
    }

    /// Fetches everything, whether it was asked for yet or not.
    pub fn fetch_all(&mut self) {
        self.continue_reading();
        self.eager = true;
    }

    pub fn is_eager(&self) -> bool {
        self.eager
    }

    /// Where another stream goes on; `u64::MAX` where none does.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether everything is there that it was to fetch: nothing is asked of the server any more.
    pub fn is_complete(&self) -> bool {
        self.end_of_file || self.end >= self.limit
    }

    /// How much it has still to fetch.
    pub fn left(&self) -> u64 {
        match self.end_of_file {
            true => 0,
            false => self.limit.min(self.size).saturating_sub(self.end),
        }
    }

    /// Whether nobody has read from it yet.
    pub fn is_unread(&self) -> bool {
        self.asked == self.origin
    }

    /// Is read in order: goes as far ahead of its reader as a stream that has been for long.
    pub fn continue_reading(&mut self) {
        (self.sequential, self.single) = (true, false);
    }

    /// Whether a read is best served here; `size` is the file's size as it is now known.
    pub fn reaches(&self, read: &Range<u64>, size: u64) -> bool {
        if read.start < self.start || read.start >= self.limit {
            return false;
        }
        if self.end_of_file {
            // What has grown beyond the end needs another stream.
            return read.end.min(size) <= self.end;
        }
        let reach = match self.sequential {
            true => REACH,
            false => RANDOM_REACH,
        };
        read.start <= self.end.max(self.asked) + reach
    }

    /// Whether all of a read's bytes are there.
    pub fn holds(&self, read: &Range<u64>) -> bool {
        self.start <= read.start && read.end <= self.end
    }

    /// Where the next byte will be.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Makes the stream go as far as this read needs. The second read that goes on where another
    /// was makes it sequential. Asking twice for the same changes nothing.
    pub fn ask(&mut self, read: &Range<u64>) {
        if read.end > self.asked {
            if self.asked > self.origin {
                self.continue_reading();
            }
            self.asked = read.end;
        }
    }

    /// The bytes of a read, fewer at the end of the file; `None` while they are not there.
    pub fn cut(&mut self, read: &Range<u64>) -> Option<Cut> {
        let end = match self.end_of_file {
            true => read.end.min(self.end),
            false => read.end,
        };
        if read.start < self.start || end > self.end {
            return None;
        }
        self.served = self.served.max(end);
        let mut parts = Vec::new();
        let mut at = self.start;
        for piece in &self.pieces {
            let next = at + piece.filled as u64;
            let from = read.start.max(at);
            let to = end.min(next);
            if from < to {
                let range = (from - at) as usize..(to - at) as usize;
                parts.push((piece.clone(), range));
            }
            if next >= end {
                break;
            }
            at = next;
        }
        Some(Cut(parts))
    }

    /// What lies before the end of a read that will not come counts as read.
    pub fn skip(&mut self, read: &Range<u64>) {
        self.served = self.served.max(read.end.min(self.end));
    }

    /// Whether the read's first bytes are gone for good.
    pub fn has_passed(&self, read: &Range<u64>) -> bool {
        read.start < self.start
    }

    /// Counts a read as waiting until [`Window::unwait`]: nothing it needs is dropped.
    pub fn wait(&mut self, read: &Range<u64>) {
        self.waiting.push(read.clone());
    }

    pub fn unwait(&mut self, read: &Range<u64>) {
        if let Some(at) = self.waiting.iter().position(|w| w == read) {
            self.waiting.swap_remove(at);
        }
    }

    pub fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The nearest end of a waiting read that is not there yet; `u64::MAX` where none is.
    pub fn wanted(&self) -> u64 {
        let ends = self.waiting.iter().map(|r| r.end);
        ends.filter(|end| *end > self.end).min().unwrap_or(u64::MAX)
    }

    /// How many bytes to fetch now.
    pub fn missing(&self) -> u64 {
        if self.is_complete() {
            return 0;
        }
        let goal = self.goal();
        let missing = goal.saturating_sub(self.end);
        // Ahead of the reader in whole buffers only: half-filled ones waste memory.
        let is_last = goal == self.size || goal == self.limit;
        if missing >= BUFFER as u64 || missing > 0 && (is_last || self.end < self.asked) {
            return missing;
        }
        // All is there: see the end too, so that the session is free for others at once.
        u64::from(self.end == self.size)
    }

    /// Whether it only serves single reads so far.
    pub fn is_random(&self) -> bool {
        !self.sequential
    }

    /// The same of one from the beginning of the file, which was taken for one that is read in order.
    pub fn is_single(&self) -> bool {
        self.single
    }

    /// Adds what was fetched at `end`.
    pub fn push(&mut self, buffer: Buffer, filled: usize) {
        if filled > 0 {
            self.end += filled as u64;
            self.pieces.push_back(Arc::new(Piece { buffer, filled }));
        }
    }

    /// The stream has come to the end of the file.
    pub fn finish(&mut self) {
        self.end_of_file = true;
    }

    /// Drops what was read and lies more than a tail behind. The tail is no more than a quarter of
    /// `share` buffers, however little is in each.
    pub fn trim(&mut self, share: usize) {
        let waiting = self.waiting.iter().map(|r| r.start).min();
        let needed = self.served.min(waiting.unwrap_or(u64::MAX));
        let keep = needed.min(self.served.saturating_sub(TAIL));
        let mut end = self.start;
        let ends = self.pieces.iter().map(|piece| {
            end += piece.filled as u64;
            end
        });
        let mut behind = ends.take_while(|end| *end <= needed).count();
        while let Some(piece) = self.pieces.front() {
            let end = self.start + piece.filled as u64;
            let crowded = behind > (share / 4).max(1);
            if end > keep && !(crowded && end <= needed) {
                break;
            }
            self.start = end;
            self.pieces.pop_front();
            behind = behind.saturating_sub(1);
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.start = self.end;
    }

    fn goal(&self) -> u64 {
        if self.eager {
            return self.limit.min(self.size);
        }
        let (goal, rest) = if self.sequential {
            // In proportion to what was read so far: a reader that looks at the beginning only,
            // or reads a large block here and there, does not cause megabytes to be fetched.
            let read = self.asked - self.origin;
            let ahead = match self.origin {
                0 => (2 * read).clamp(AHEAD.start, AHEAD.end),
                _ => read.min(AHEAD.end),
            };
            ((self.asked + ahead).min(self.limit), REST)
        } else {
            (self.asked.next_multiple_of(UNIT), UNIT)
        };
        match self.size.checked_sub(goal) {
            Some(left) if left <= rest => self.size,
            _ => goal,
        }
    }
}

impl Cut {
    /// The bytes, contiguous.
    pub fn join(mut self) -> Data {
        let parts = match self.0.len() {
            0 => Parts::Nothing,
            1 => match self.0.pop() {
                Some((piece, range)) => Parts::One(piece, range),
                None => Parts::Nothing,
            },
            _ => {
                let slices = self.0.iter().map(|(p, r)| &p.buffer[r.clone()]);
                Parts::Joined(slices.collect::<Vec<_>>().concat())
            }
        };
        Data(parts)
    }
}

impl Data {
    pub fn of(bytes: Vec<u8>) -> Self {
        Self(Parts::Joined(bytes))
    }

    pub(super) fn nothing() -> Self {
        Self(Parts::Nothing)
    }

    /// What follows on `self` in the file.
    pub(super) fn and(self, next: Self) -> Self {
        match (&self.0, &next.0) {
            (Parts::Nothing, _) => next,
            (_, Parts::Nothing) => self,
            _ => Self(Parts::Joined([&*self, &*next].concat())),
        }
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Parts::Joined(bytes))
    }
}

impl Deref for Data {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Parts::Nothing => &[],
            Parts::One(piece, range) => &piece.buffer[range.clone()],
            Parts::Joined(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests;
