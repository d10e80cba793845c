//! Reading: [`Reader`] serves the reads of one open file from a few streams, each ahead of a
//! sequential reader or fetching what a random read asked for. [`Reads`] is what all files share.
//!
//! Must not know the kernel or inodes.

mod leftovers;
mod memory;
mod pace;
mod stream;
mod window;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::far::Far;
use super::shelf::{Edition, Shelf};
use crate::proto::RemotePath;
use crate::remote::{self, Proof, Remote, Version};
use leftovers::Leftovers;
use memory::{BUFFER, Memory, Part};
use pace::Pace;
pub(super) use pace::{GAIN, HeldUp};
use stream::{IDLE, Stop, Stream};
pub use window::Data;
use window::Window;

/// Streams of one file, where no more handles than that are open.
const STREAMS_PER_FILE: usize = 3;
/// Streams of all files.
const STREAMS: usize = 64;
/// Closed streams that still wait for the server: beyond that a read first waits for them.
const ABANDONED: usize = 64;
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);
/// A stream that was read so recently is not taken away.
const RECENT: Duration = Duration::from_secs(1);
/// The first read of a file may be overtaken by the second: so near the beginning, or no further from it
/// than it is long, it is taken for the second.
const OVERTAKEN: u64 = 256 * 1024;

/// Several streams of one sequential reader take turns of at least this length, bytes: breaking a
/// transfer off and beginning another costs several round trips, and the link is slow at first. It is
/// also what their window must have room for.
const STRIPE: u64 = 8 << 20;

/// Reads come out of order by no more than this, bytes: the kernel asks for so much at a time.
const LATE: u64 = 8 << 20;

/// The streams of all files, and the memory that they share.
pub(super) struct Reads {
    remote: Arc<Remote>,
    memory: Arc<Memory>,
    leftovers: Arc<Leftovers>,
    /// How long the server may be silent.
    timeout: Duration,
    /// Where what is fetched is kept.
    shelf: Option<Shelf>,
    /// A leaf lock.
    streams: Mutex<Vec<Weak<Stream>>>,
}

/// What is read: a path, and the content that it must have.
#[derive(Clone)]
pub(super) struct Target {
    pub path: RemotePath,
    pub version: Version,
    /// Moves on when we ourselves replace or rename the file: streams of earlier ones are of no
    /// use then.
    pub epoch: u64,
    /// What was seen of it, where only that tells growth from replacement.
    pub proof: Option<Proof>,
    /// What it is called in the content cache; `None` where the version is not certain.
    pub edition: Option<Edition>,
}

/// The streams of one open file; dropping it ends them.
pub(super) struct Reader {
    reads: Arc<Reads>,
    /// Held over no wait; streams' locks are taken below it.
    streams: Mutex<Streams>,
    /// Whether nobody has the file open any more.
    ended: AtomicBool,
    /// How many [`Pause`]s there are.
    pauses: AtomicUsize,
}

#[derive(Default)]
struct Streams {
    /// The most recently used last.
    list: Vec<Arc<Stream>>,
    /// The newest that was asked for.
    epoch: u64,
    run: Option<Run>,
    far: Option<Arc<Far>>,
}

/// A sequential reader, for whom several streams may fetch the file stripe by stripe.
struct Run {
    pace: Pace,
    /// Whose streams these are: they share it.
    part: Weak<Part>,
    stripe: u64,
    /// Where the next stripe begins. `None`: one stream goes to the end of the file.
    next: Option<u64>,
    /// Whether all is known that another stream has to know of the server.
    prepared: bool,
}

/// While it lasts a file has no streams, and reads that would need one wait.
pub(super) struct Pause<'a>(&'a Reader);

/// Why a read has no bytes.
#[derive(Debug)]
pub(super) enum Failure {
    WouldWait,
    TimedOut,
    Remote(remote::Error),
}

impl Reads {
    /// `memory` bounds what is read ahead, bytes.
    pub fn new(
        remote: Arc<Remote>,
        memory: usize,
        timeout: Duration,
        shelf: Option<Shelf>,
    ) -> Arc<Self> {
        Arc::new(Self {
            remote,
            memory: Memory::new(memory),
            leftovers: Leftovers::new(IDLE),
            timeout,
            shelf,
            streams: Mutex::new(Vec::new()),
        })
    }

    /// Ends the stream that was least recently read, unless that was just now.
    fn reclaim(&self) {
        let mut idle: Vec<_> = self
            .alive()
            .into_iter()
            .filter_map(|s| Some((s.idle_since()?, s)))
            .collect();
        idle.sort_unstable_by_key(|(since, _)| *since);
        if let Some((since, stream)) = idle.first()
            && since.elapsed() > RECENT
        {
            stream.close();
        }
    }

    fn alive(&self) -> Vec<Arc<Stream>> {
        let mut streams = self.all();
        streams.retain(|s| !s.is_over());
        streams
    }

    fn all(&self) -> Vec<Arc<Stream>> {
        let streams = self.streams.lock();
        streams.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether so many pumps are left behind by readers that are gone that the server seems to be
    /// silent: another would only join them.
    fn is_crowded(&self) -> bool {
        self.all().iter().filter(|s| s.is_abandoned()).count() >= ABANDONED
    }

    fn start(self: &Arc<Self>, target: &Target, window: Window, part: Arc<Part>) -> Arc<Stream> {
        if self.alive().len() >= STREAMS {
            self.reclaim();
        }
        let stream = Stream::start(self, target, window, part);
        let mut streams = self.streams.lock();
        streams.retain(|s| s.strong_count() > 0);
        streams.push(Arc::downgrade(&stream));
        stream
    }
}

impl Reader {
    pub fn new(reads: &Arc<Reads>) -> Self {
        Self {
            reads: reads.clone(),
            streams: Mutex::default(),
            ended: AtomicBool::new(false),
            pauses: AtomicUsize::new(0),
        }
    }

    /// Reads up to `len` bytes at `offset`, fewer only at the end of the file. Waits until
    /// `deadline`; without one it answers from memory alone, but what it lacks is on its way
    /// then. `handles` is how many independent readers to expect.
    pub fn read(
        &self,
        target: &Target,
        offset: u64,
        len: usize,
        handles: usize,
        deadline: Option<Instant>,
    ) -> Result<Data, Failure> {
        let Some(end) = offset.checked_add(len as u64) else {
            return Ok(Data::nothing());
        };
        if offset >= target.version.size || len == 0 {
            return Ok(Data::nothing());
        }
        let read = offset..end;
        loop {
            if self.ended.load(Ordering::Relaxed) {
                return Err(Failure::TimedOut); // Whoever asked is gone.
            }
            let Some(stream) = self.choose(target, &read, handles)? else {
                let deadline = deadline.ok_or(Failure::WouldWait)?;
                match deadline.saturating_duration_since(Instant::now()) {
                    Duration::ZERO => return Err(Failure::TimedOut),
                    left => thread::sleep(left.min(LOOK)),
                }
                continue;
            };
            // What is beyond its limit another stream has.
            let here = read.start..read.end.min(stream.limit());
            match stream.read(&here, deadline) {
                Ok(data) => {
                    self.spread(target, &stream, here.end, deadline.is_some());
                    if here.end == read.end {
                        return Ok(data);
                    }
                    let left = (read.end - here.end) as usize;
                    let rest = self.read(target, here.end, left, handles, deadline)?;
                    return Ok(data.and(rest));
                }
                Err(Stop::WouldWait) => return Err(Failure::WouldWait),
                Err(Stop::TimedOut) => return Err(Failure::TimedOut),
                Err(Stop::Failed(error)) => return Err(Failure::Remote(error)),
                Err(Stop::Gone) => match deadline {
                    None => return Err(Failure::WouldWait),
                    Some(deadline) if deadline <= Instant::now() => return Err(Failure::TimedOut),
                    Some(_) => {}
                },
            }
        }
    }

    /// How many bytes the file had, by the server's word when the last stream began.
    pub fn told_size(&self) -> Option<u64> {
        let streams = self.streams.lock();
        streams
            .list
            .iter()
            .rev()
            .find_map(|stream| stream.told_size())
    }

    /// Whether a stream has all of a read's bytes in memory: that it was read is what keeps it going.
    pub fn holds(&self, target: &Target, read: &Range<u64>) -> bool {
        let streams = self.streams.lock();
        let mut current = streams.list.iter().filter(|s| s.epoch() == target.epoch);
        current.any(|stream| stream.holds(read))
    }

    /// A read was answered from elsewhere: a stream that is on its way past it keeps nothing for it, for
    /// others may need the memory.
    pub fn skip(&self, target: &Target, read: &Range<u64>) {
        let streams = self.streams.lock();
        for stream in &streams.list {
            if stream.epoch() == target.epoch
                && stream.distance(read, target.version.size).is_some()
            {
                stream.skip(read);
            }
        }
    }

    /// The stream that will have the read's bytes first, or a new one; `None` while there cannot
    /// be a new one. Fails where others read what became of the file since: one would end the streams of the
    /// other for ever.
    fn choose(
        &self,
        target: &Target,
        read: &Range<u64>,
        handles: usize,
    ) -> Result<Option<Arc<Stream>>, Failure> {
        let mut locked = self.streams.lock();
        if target.epoch < locked.epoch {
            return Err(Failure::Remote(remote::Error::Changed));
        }
        locked.epoch = target.epoch;
        let streams = &mut locked.list;
        streams.retain(|stream| {
            let current = stream.epoch() == target.epoch;
            if !current {
                stream.close();
            }
            current
        });
        let nearest = (0..streams.len())
            .filter_map(|i| Some((streams[i].distance(read, target.version.size)?, i)))
            .min();
        if let Some((_, at)) = nearest {
            let stream = streams.remove(at);
            streams.push(stream.clone());
            return Ok(Some(stream));
        }
        if self.reads.is_crowded() || self.pauses.load(Ordering::Relaxed) > 0 {
            return Ok(None);
        }
        streams.retain(|s| !s.is_over());
        // One for each reader, should it go on there; the others' sessions are needed next.
        let single = |s: &Arc<Stream>| s.is_single() && s.idle_since().is_some();
        let surplus = streams.iter().filter(|s| single(s)).count();
        for _ in handles.max(1)..surplus {
            if let Some(at) = streams.iter().position(single) {
                streams.remove(at).close();
            }
        }
        if streams.len() >= STREAMS_PER_FILE.max(handles)
            && let Some(at) = streams.iter().position(|s| s.idle_since().is_some())
        {
            streams.remove(at).close();
        }
        let offset = match read.start {
            near if streams.is_empty() && near <= OVERTAKEN.max(read.end - near) => 0,
            offset => offset,
        };
        let window = Window::new(offset, target.version.size);
        let part = self.reads.memory.join();
        let stream = self.reads.start(target, window, part);
        streams.push(stream.clone());
        Ok(Some(stream))
    }

    /// A read was answered by `stream` up to `position`: has several streams fetch what comes next
    /// where the reader deserves it, and ends those that it has done with.
    fn spread(&self, target: &Target, stream: &Arc<Stream>, position: u64, waited: bool) {
        if stream.epoch() != target.epoch || !stream.is_sequential() {
            return;
        }
        let (now, size) = (Instant::now(), target.version.size);
        let mut locked = self.streams.lock();
        let Streams { list, run, far, .. } = &mut *locked;
        let far = far.as_ref().filter(|far| !far.is_stopped());
        if !run.as_ref().is_some_and(|run| run.has(stream)) {
            if let Some(run) = run
                && (far.is_some() || list.iter().any(|s| run.has(s) && !run.is_past(s, position)))
            {
                return; // Another reader's, or a stray read.
            }
            *run = Some(Run::new(stream, position, now));
        }
        let Some(run) = run else { return };
        if let Some(far) = far {
            far.follow(position);
        }
        let large = size.saturating_sub(position) > 2 * run.stripe && run.stripe >= STRIPE;
        let room = || self.reads.remote.room();
        if large && !run.prepared && room().is_some() {
            run.prepared = true;
            let deadline = now + self.reads.timeout;
            let remote = &self.reads.remote;
            remote.prove_rest(&target.path, size, deadline);
        }
        run.pace.note(
            position,
            waited,
            run.stripe,
            || room().filter(|_| large && far.is_none()),
            now,
        );
        // What they hold is their part's, which those that come next need.
        list.retain(|stream| {
            let passed = run.has(stream)
                && stream.limit().saturating_add(LATE) <= position
                && stream.idle_since().is_some();
            if passed {
                stream.close();
            }
            !passed
        });
        let width = run.pace.width();
        if width == 1 && run.next.is_some() {
            // The last has its transfer under way; another would have to begin one.
            let last = list
                .iter()
                .find(|s| run.has(s) && run.next == Some(s.limit()));
            if last.is_some_and(|last| last.go_on()) {
                run.next = None;
            }
        }
        if width == 1 && run.next.is_none() {
            return;
        }
        if run.next.is_none() && large {
            let first = (stream.end().max(position) + run.stripe).next_multiple_of(1 << 20);
            run.next = stream.end_at(first).then_some(first);
            if run.next.is_some() {
                run.pace.measure_from(first);
            }
        }
        while let Some(from) = run.next.filter(|next| *next < size) {
            // While one fetches its last bytes the next one begins.
            let fetching = list
                .iter()
                .filter(|s| run.has(s) && s.left() > run.stripe / 3);
            let fetching = fetching.count();
            let near = from <= position + run.stripe * width as u64;
            let may_start = self.pauses.load(Ordering::Relaxed) == 0;
            if fetching >= width || (fetching > 0 && room().is_none()) || !near || !may_start {
                break;
            }
            let mut window = Window::new(from, size);
            let limit = from + run.stripe;
            run.next = if width == 1 {
                window.continue_reading();
                None
            } else if limit + run.stripe / 2 < size {
                window.end_at(limit);
                Some(limit)
            } else {
                window.fetch_all();
                Some(size)
            };
            log::debug!(
                "{}: stream {} of {width} at {from}",
                target.path,
                fetching + 1
            );
            let part = stream.part().clone();
            list.push(self.reads.start(target, window, part));
        }
    }

    /// Whether a sequential reader should be helped from far ahead ([`Pace::take_held_up`]).
    pub fn held_up(&self) -> Option<HeldUp> {
        self.streams.lock().run.as_mut()?.pace.take_held_up()
    }

    /// Leaves what is far ahead of the reader to another; `false` where there is one already, or the stream has
    /// come too far. What becomes of the streams stops it.
    pub fn divide(&self, target: &Target, far: &Arc<Far>) -> bool {
        let mut locked = self.streams.lock();
        let Streams {
            list,
            run,
            far: place,
            epoch,
        } = &mut *locked;
        let is_free = place.as_ref().is_none_or(|far| far.is_stopped());
        let stream = run
            .as_ref()
            .and_then(|run| list.iter().find(|s| run.has(s)));
        let divided = is_free
            && *epoch == target.epoch
            && stream.is_some_and(|stream| stream.stop_at(far.start()));
        if divided {
            *place = Some(far.clone());
        }
        divided
    }

    /// What is far ahead of the reader is fetched for nothing.
    pub fn gains_nothing(&self) {
        if let Some(run) = &mut self.streams.lock().run {
            run.pace.rest(Instant::now());
        }
    }

    /// Nothing is fetched far ahead any more.
    pub fn stop_far(&self) {
        let far = self.streams.lock().far.take();
        if let Some(far) = far {
            far.stop();
        }
    }

    /// Ends all streams, and lets none begin.
    pub fn pause(&self) -> Pause<'_> {
        // Under the lock of those who would begin one.
        let mut streams = self.streams.lock();
        self.pauses.fetch_add(1, Ordering::Relaxed);
        streams.list.drain(..).for_each(|stream| stream.close());
        Pause(self)
    }

    /// Ends all streams for good: what still waits is not started anew.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.close();
    }

    /// Ends all streams.
    pub fn close(&self) {
        // At once: with no stream left nobody divides the file any more.
        let mut streams = self.streams.lock();
        streams.list.drain(..).for_each(|stream| stream.close());
        let far = streams.far.take();
        drop(streams);
        if let Some(far) = far {
            far.stop();
        }
    }
}

impl Run {
    fn new(stream: &Stream, position: u64, now: Instant) -> Self {
        let part = stream.part();
        // While one stripe is read the next ones are fetched: two of them by half each, on average.
        let stripe = (part.share() * BUFFER) as u64 / 4 * 3;
        Self {
            pace: Pace::new(position, now),
            part: Arc::downgrade(part),
            stripe: stripe & !((1 << 20) - 1),
            next: None,
            prepared: false,
        }
    }

    /// Whether a stream of it that goes on alone ends before that: it was the first half, and is read.
    fn is_past(&self, stream: &Stream, position: u64) -> bool {
        self.next.is_none() && stream.limit() <= position
    }

    fn has(&self, stream: &Stream) -> bool {
        std::ptr::eq(self.part.as_ptr(), Arc::as_ptr(stream.part()))
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.pauses.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
