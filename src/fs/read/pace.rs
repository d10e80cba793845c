//! How many streams a sequential reader of one file deserves: one more where the reader waits for
//! the server most of the time, kept only if it made the reading faster.
//!
//! Pure decisions over offsets and times: no stream, no server.

use std::time::{Duration, Instant};

/// Streams for one reader at most. (The pool has fewer places by default.)
const MOST: usize = 4;
/// What another stream must gain to be kept.
pub(in crate::fs) const GAIN: f64 = 1.2;
/// Where it gained nothing it is not tried again for so long.
const PAUSE: Duration = Duration::from_secs(30);
/// Where one stream has no more than this under way at a time, bytes, no window holds it up: it has
/// all that the link, the server or this machine can give.
const UNDER_WAY: f64 = 128.0 * 1024.0;
/// No window holds a stream up over so short a link, and what is measured there is the machines' own time.
const SHORT_TRIP: Duration = Duration::from_millis(1);
/// Round trips until the first bytes of a stripe are there.
const BEGIN: f64 = 3.0;
/// What TCP has under way when a connection begins, bytes; each round trip doubles it.
const INITIAL: f64 = 14_600.0;
/// What comes in before TCP has opened its window says nothing about a rate, bytes.
const RAMP: u64 = 8 << 20;
/// Nor does less time.
const SHORTEST: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Pace {
    width: usize,
    /// The width that has proven itself, and its rate, bytes per second.
    proven: (usize, f64),
    /// What is measured now.
    lap: Lap,
    /// Before that nothing is tried.
    not_before: Option<Instant>,
    held_up: Option<HeldUp>,
}

/// One stream that is held up where several that take turns would be slower still.
#[derive(Clone, Copy, Debug)]
pub(in crate::fs) struct HeldUp {
    /// Bytes per second.
    pub rate: f64,
    /// What comes in at this rate before another stream has it, bytes.
    pub opening: u64,
}

struct Lap {
    /// It begins when the reader comes there.
    from: u64,
    begun: Instant,
    reads: u64,
    /// Those that had to wait for the server.
    waits: u64,
}

impl Pace {
    /// A reader that has come to `position`, with one stream.
    pub fn new(position: u64, now: Instant) -> Self {
        Self {
            width: 1,
            proven: (1, 0.0),
            lap: Lap::new(position + RAMP, now),
            not_before: None,
            held_up: None,
        }
    }

    /// How many streams to use.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether the one stream is held up; once for each time that is found.
    pub fn take_held_up(&mut self) -> Option<HeldUp> {
        self.held_up.take()
    }

    /// Another stream gained nothing.
    pub fn rest(&mut self, now: Instant) {
        self.not_before = Some(now + PAUSE);
    }

    /// What is measured begins at `position` only: what is before it was fetched by fewer streams.
    pub fn measure_from(&mut self, position: u64) {
        self.lap.from = position;
    }

    /// A read was answered up to `position`. `stripe`: how much each of several streams fetches in
    /// a row; `room`: where there could be another stream, how long a round trip to the server takes.
    pub fn note(
        &mut self,
        position: u64,
        waited: bool,
        stripe: u64,
        room: impl FnOnce() -> Option<Duration>,
        now: Instant,
    ) {
        let lap = &mut self.lap;
        if position <= lap.from {
            lap.begun = now;
            return;
        }
        lap.reads += 1;
        lap.waits += u64::from(waited);
        let length = position.saturating_sub(lap.from);
        let time = now.saturating_duration_since(lap.begun);
        // Each stream has had its turn.
        if length < stripe * self.width as u64 || time < SHORTEST {
            return;
        }
        let rate = length as f64 / time.as_secs_f64();
        let starved = lap.waits * 2 > lap.reads;
        let each = rate / self.width as f64;
        let is_held_up =
            |trip: &Duration| *trip > SHORT_TRIP && each * trip.as_secs_f64() > UNDER_WAY;
        let mut may_try = self.not_before.is_none_or(|then| then <= now);
        if self.width == self.proven.0 || rate >= GAIN * self.proven.1 {
            self.proven = (self.width, rate);
        } else {
            self.width = self.proven.0;
            self.rest(now);
            may_try = false;
        }
        if may_try
            && starved
            && self.width < MOST
            && let Some(trip) = room().filter(is_held_up)
        {
            match self.width > 1 || two_streams(each, stripe, trip) >= GAIN * rate {
                true => self.width += 1,
                false => {
                    let opening = (rate * opening(rate, trip)) as u64;
                    self.held_up = Some(HeldUp { rate, opening });
                }
            }
        }
        self.lap = Lap::new(position, now);
    }
}

/// The rate of two streams, bytes per second, where one has `rate`: each stripe begins with a small window.
fn two_streams(rate: f64, stripe: u64, trip: Duration) -> f64 {
    2.0 * stripe as f64 / (opening(rate, trip) + stripe as f64 / rate)
}

/// Until a stream has come to `rate`, seconds.
fn opening(rate: f64, trip: Duration) -> f64 {
    let trip = trip.as_secs_f64();
    (BEGIN + (rate * trip / INITIAL).max(1.0).log2()) * trip
}

impl Lap {
    fn new(from: u64, begun: Instant) -> Self {
        Self {
            from,
            begun,
            reads: 0,
            waits: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const STRIPE: u64 = 16 * MIB;

    /// A round trip.
    const LONG: Option<Duration> = Some(Duration::from_millis(20));

    /// Reads `length` bytes at what `rate` says of the width, MiB per second; the width after that.
    fn read(
        pace: &mut Pace,
        at: &mut (u64, Instant),
        length: u64,
        waits: bool,
        room: Option<Duration>,
        rate: impl Fn(usize) -> u64,
    ) -> usize {
        let end = at.0 + length;
        while at.0 < end {
            at.0 += MIB;
            at.1 += Duration::from_secs(1) / rate(pace.width()) as u32;
            pace.note(at.0, waits, STRIPE, || room, at.1);
        }
        pace.width()
    }

    fn begin() -> (Pace, (u64, Instant)) {
        let now = Instant::now();
        (Pace::new(0, now), (RAMP, now))
    }

    #[test]
    fn streams_are_added_while_each_makes_it_faster() {
        let (mut pace, mut at) = begin();
        let link = |width| [0, 30, 60, 66, 66][width];
        // The third is tried, and does not pay.
        assert_eq!(read(&mut pace, &mut at, 3 * STRIPE, true, LONG, link), 3);
        assert_eq!(read(&mut pace, &mut at, 3 * STRIPE, true, LONG, link), 2);
        assert_eq!(read(&mut pace, &mut at, 30 * STRIPE, true, LONG, link), 2);
        // Half a minute later it is tried again; the lap with the pause in it says nothing.
        at.1 += PAUSE;
        assert_eq!(read(&mut pace, &mut at, 4 * STRIPE, true, LONG, link), 3);
    }

    #[test]
    fn a_link_that_one_stream_fills_has_a_second_once_in_a_while_only() {
        let (mut pace, mut at) = begin();
        assert_eq!(read(&mut pace, &mut at, STRIPE, true, LONG, |_| 10), 2);
        assert_eq!(read(&mut pace, &mut at, 2 * STRIPE, true, LONG, |_| 10), 1);
        assert_eq!(read(&mut pace, &mut at, 10 * STRIPE, true, LONG, |_| 10), 1);
    }

    #[test]
    fn a_slow_beginning_makes_no_other_stream_look_fast() {
        let now = Instant::now();
        let (mut pace, mut at) = (Pace::new(0, now), (0, now));
        assert_eq!(read(&mut pace, &mut at, RAMP, true, LONG, |_| 10), 1);
        assert_eq!(read(&mut pace, &mut at, STRIPE, true, LONG, |_| 50), 2);
        // Its own beginning is no measure of it, either.
        let first = at.0 + STRIPE;
        pace.measure_from(first);
        assert_eq!(read(&mut pace, &mut at, STRIPE, true, LONG, |_| 10), 2);
        assert_eq!(read(&mut pace, &mut at, 2 * STRIPE, true, LONG, |_| 59), 1);
    }

    #[test]
    fn a_reader_that_does_not_wait_has_one_stream() {
        let (mut pace, mut at) = begin();
        assert_eq!(read(&mut pace, &mut at, 9 * STRIPE, false, LONG, |_| 50), 1);
        assert_eq!(read(&mut pace, &mut at, 9 * STRIPE, true, None, |_| 50), 1);
    }

    #[test]
    fn a_stream_that_is_faster_than_a_second_one_could_begin_stays_alone() {
        let (mut pace, mut at) = begin();
        assert_eq!(read(&mut pace, &mut at, 9 * STRIPE, true, LONG, |_| 200), 1);
        // What it is behind before both have opened their windows would not be made up for.
        let trip = LONG.unwrap_or_default();
        let mib = |rate: f64| rate * MIB as f64;
        assert!(two_streams(mib(200.0), STRIPE, trip) < mib(130.0));
        assert!(two_streams(mib(20.0), STRIPE, trip) > mib(30.0));
    }

    #[test]
    fn on_a_short_or_slow_link_no_window_holds_a_stream_up() {
        let (mut pace, mut at) = begin();
        let short = Some(Duration::from_micros(900));
        assert_eq!(
            read(&mut pace, &mut at, 9 * STRIPE, true, short, |_| 500),
            1
        );
        assert_eq!(read(&mut pace, &mut at, 9 * STRIPE, true, LONG, |_| 2), 1);
    }
}
