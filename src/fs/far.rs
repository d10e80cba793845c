//! Far ahead: of what is left of a large file its second half is fetched beside the first, straight into the
//! kernel's cache.
//!
//! On a long link TCP's window holds one stream up, and stripes that fit into memory here are too short for
//! several streams that take turns ([`super::read`]): each would begin again and again. This one begins once.
//! It goes no further than the reader does in its half, so that no more is fetched in vain than was read, and
//! ends where it gains nothing. Whoever makes something else of the content stops it first.

use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::files::OpenFile;
use super::read::{GAIN, HeldUp, Target};
use super::{Fs, Ino};

/// A half is at least so many times what comes in before another stream has the rate of the first.
const LEAST: u64 = 2;
/// And at most so long, however much memory there is, bytes.
const MOST: u64 = 1 << 30;
/// So much of the machine's memory may be used, as a divisor.
const OF_MEMORY: u64 = 4;
/// How far it may be ahead of what the reader has read of its own half, bytes.
const LEAD: u64 = 32 << 20;
/// The kernel takes so much at a time, bytes.
const PIECE: usize = 1 << 20;
/// How long to wait for the reader, and how often to look where it is.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(4);
/// How long whoever stops it waits for what the kernel is taking just then. It takes no longer, unless it waits
/// for a read of the same bytes, which must not have to wait for this.
const BRIEF: Duration = Duration::from_millis(50);

/// The second half of the rest of a file, on its way into the kernel's cache.
pub(super) struct Far {
    half: Range<u64>,
    /// Where the reader was at the beginning.
    from: u64,
    /// Where it is now.
    reader: AtomicU64,
    stopped: AtomicBool,
    /// Held while the kernel takes something.
    taking: Mutex<()>,
}

impl Far {
    /// For a reader at `position` in a file of `size` bytes; `None` where the rest, or the machine's memory, is
    /// too small.
    fn plan(position: u64, size: u64, held_up: HeldUp) -> Option<Self> {
        let most = MOST.min(memory_available()? / OF_MEMORY);
        Self::within(position, size, LEAST * held_up.opening..most)
    }

    fn within(position: u64, size: u64, lengths: Range<u64>) -> Option<Self> {
        let long = (size.checked_sub(position)? / 2).min(lengths.end);
        let start = (position + long).next_multiple_of(1 << 20);
        let end = (start + long).min(size);
        (long >= lengths.start).then(|| Self {
            half: start..end,
            from: position,
            reader: AtomicU64::new(position),
            stopped: AtomicBool::new(false),
            taking: Mutex::new(()),
        })
    }

    /// Where it begins, and the reader's stream ends.
    pub fn start(&self) -> u64 {
        self.half.start
    }

    /// The reader has come to `position`.
    pub fn follow(&self, position: u64) {
        self.reader.fetch_max(position, Ordering::Relaxed);
    }

    /// The kernel is given nothing any more once this returns.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(self.taking.try_lock_for(BRIEF));
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// How much the reader has read of its half, bytes.
    fn read(&self) -> u64 {
        let reader = self.reader.load(Ordering::Relaxed);
        reader.min(self.half.start) - self.from
    }

    /// Waits until it may go on at `at`; `false` where it is to end.
    fn may_go_on(&self, at: u64) -> bool {
        let begun = Instant::now();
        while at - self.half.start > self.read() + LEAD {
            if self.is_stopped() || begun.elapsed() > PATIENCE {
                return false;
            }
            thread::sleep(LOOK);
        }
        !self.is_stopped()
    }

    /// Has `give` give something to the kernel, which `take_back` undoes should it have been stopped meanwhile.
    /// `false` where it is to end.
    fn hand_over(&self, give: impl FnOnce() -> bool, take_back: impl FnOnce()) -> bool {
        let taking = self.taking.lock();
        if self.is_stopped() || !give() {
            return false;
        }
        drop(taking);
        if self.is_stopped() {
            take_back();
        }
        !self.is_stopped()
    }
}

/// Whether both halves together come in fast enough.
struct Lap {
    held_up: HeldUp,
    /// When it began, and what had come in of both then. What comes in before the second has its rate tells nothing.
    begun: Option<(Instant, u64)>,
}

impl Lap {
    fn new(held_up: HeldUp) -> Self {
        Self {
            held_up,
            begun: None,
        }
    }

    /// `false` where the second half, of which so much has come in, gains nothing beside the `first`.
    fn goes_on(&mut self, second: u64, first: u64, now: Instant) -> bool {
        let HeldUp { rate, opening } = self.held_up;
        if second < opening {
            return true;
        }
        let both = first + second;
        let (begun, before) = *self.begun.get_or_insert((now, both));
        let length = both - before;
        if length < LEAST * opening {
            return true;
        }
        self.begun = None;
        length as f64 >= GAIN * rate * (now - begun).as_secs_f64()
    }
}

impl Fs {
    /// A read was answered up to `position`: what comes far behind it is fetched where that pays.
    pub(super) fn fetch_far(&self, file: &Arc<OpenFile>, target: &Target, position: u64) {
        let Some(held_up) = file.reader.held_up() else {
            return;
        };
        let is_possible =
            self.config.prefetch && self.aliases.is_none() && self.kernel.get().is_some();
        if !is_possible || self.is_written(file.ino) {
            return;
        }
        let Some(far) = Far::plan(position, target.version.size, held_up) else {
            return;
        };
        let far = Arc::new(far);
        // Who begins to write stops it: that nobody does is seen once more when it can be stopped.
        if !file.reader.divide(target, &far) {
            return;
        }
        let (Some(fs), false) = (self.this.upgrade(), self.is_written(file.ino)) else {
            return far.stop();
        };
        let (file, target, flown) = (file.clone(), target.clone(), far.clone());
        let thread = thread::Builder::new().name("read-far".to_owned());
        let fly = move || {
            fs.bring(&file, &target, &flown, held_up);
            flown.stop();
        };
        if let Err(error) = thread.spawn(fly) {
            log::error!("starting a thread that reads ahead: {error}");
            far.stop();
        }
    }

    fn is_written(&self, ino: Ino) -> bool {
        self.drafts.of(ino).is_some() || self.files.has_writer(ino)
    }

    /// Brings the half into the kernel's cache.
    fn bring(&self, file: &OpenFile, target: &Target, far: &Far, held_up: HeldUp) {
        let Some(kernel) = self.kernel.get() else {
            return;
        };
        let mut at = far.half.start;
        let mut lap = Lap::new(held_up);
        log::debug!(
            "{}: from {at} to {} beside the rest",
            target.path,
            far.half.end
        );
        while at < far.half.end && far.may_go_on(at) {
            let length = PIECE.min((far.half.end - at) as usize);
            let deadline = Some(Instant::now() + self.config.timeout);
            let handles = file.handles() + 1;
            let read = file.reader.read(target, at, length, handles, deadline);
            let Some(data) = read.ok().filter(|data| !data.is_empty()) else {
                break; // Whoever reads there will see why.
            };
            let end = at + data.len() as u64;
            let give = || kernel.store(file.ino, at, &data);
            if !far.hand_over(give, || kernel.take_back(file.ino, at..end)) {
                break;
            }
            at = end;
            if !lap.goes_on(at - far.half.start, far.read(), Instant::now()) {
                file.reader.gains_nothing();
                break;
            }
        }
        log::debug!("{}: came to {at} beside the rest", target.path);
    }
}

/// What memory the machine could spare, bytes; `None` where it does not tell.
fn memory_available() -> Option<u64> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let line = table
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn plan(position: u64) -> Far {
        Far::within(position, 512 * MIB, 0..1024 * MIB).unwrap()
    }

    #[test]
    fn half_of_what_is_left_unless_that_is_little() {
        let half = |position, size, most| {
            let far = Far::within(position * MIB, size * MIB, 64 * MIB..most * MIB)?;
            Some((far.half.start / MIB, far.half.end / MIB))
        };
        assert_eq!(half(32, 512, 1024), Some((272, 512)));
        assert_eq!(half(32, 159, 1024), None);
        assert_eq!(half(32, 160, 1024), Some((96, 160)));
        assert_eq!(half(0, 100_000, 1024), Some((1024, 2048)));
        assert_eq!(half(0, 100_000, 100), Some((100, 200)));
        assert_eq!(half(0, 100_000, 50), None);
        assert_eq!(half(10, 5, 1024), None);
        let odd = Far::within(12_345, 300 * MIB + 5, 0..1024 * MIB).unwrap();
        assert_eq!(odd.half.start % MIB, 0);
        assert!(odd.half.end <= 300 * MIB + 5 && odd.half.end >= 300 * MIB);
    }

    #[test]
    fn it_comes_no_further_than_the_reader() {
        let far = Arc::new(plan(32 * MIB));
        assert!(far.may_go_on(272 * MIB) && far.may_go_on((272 + 32) * MIB));
        far.follow(42 * MIB);
        assert!(far.may_go_on((272 + 42) * MIB));
        let (waiting, at) = (far.clone(), (272 + 60) * MIB);
        let waiting = thread::spawn(move || waiting.may_go_on(at));
        thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        far.follow(60 * MIB);
        assert!(waiting.join().unwrap());
        // Who reads elsewhere does not count.
        far.follow(500 * MIB);
        assert_eq!(far.read(), 240 * MIB);
    }

    #[test]
    fn who_stops_it_waits_for_what_is_being_taken_but_not_for_ever() {
        let far = Arc::new(plan(0));
        assert!(far.hand_over(|| true, || panic!("taken back")));
        assert!(!far.hand_over(|| false, || panic!("taken back")));
        for takes in [20, 500] {
            let far = Arc::new(plan(0));
            let (taking, taken) = (far.clone(), Arc::new(AtomicBool::new(false)));
            let back = taken.clone();
            let slow = move || {
                let give = || {
                    thread::sleep(Duration::from_millis(takes));
                    true
                };
                taking.hand_over(give, || back.store(true, Ordering::SeqCst))
            };
            let taking = thread::spawn(slow);
            thread::sleep(Duration::from_millis(5));
            let begun = Instant::now();
            far.stop();
            let waited = begun.elapsed().as_millis();
            assert!((10..300).contains(&waited), "{waited} ms for {takes}");
            assert!(!taking.join().unwrap());
            // What came after that is not kept.
            assert!(taken.load(Ordering::SeqCst));
            assert!(!far.hand_over(|| panic!("given"), || {}));
        }
    }

    #[test]
    fn what_gains_nothing_ends() {
        let held_up = HeldUp {
            rate: 100e6,
            opening: 10 * MIB,
        };
        for (each, pays) in [(3, true), (2, false)] {
            let (mut lap, mut now) = (Lap::new(held_up), Instant::now());
            let mut goes_on = true;
            for at in (0..60 * MIB).step_by(each << 18) {
                goes_on &= lap.goes_on(at, at, now);
                now += Duration::from_millis(10);
            }
            assert_eq!(goes_on, pays, "{each} times 512 KiB in 10 ms");
        }
    }
}
