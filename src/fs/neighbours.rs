//! Neighbours: where a program reads small files of one directory one after another, the next ones
//! are fetched ahead, on sessions that nobody else needs.
//!
//! The order is that of the listing, which is what readdir tells and what a shell's `*` comes to; or
//! that of a number in the names, where a program counts. While both may be (`f0`, `f1`, and then `f10`
//! or `f2`?) they are followed in turns.
//! So many are fetched ahead as the credit allows; each that is asked for earns more. What was
//! fetched is believed for as long as attributes are, but never long, and not after we ourselves
//! changed the file.
//!
//! Leaf locks, held for memory work only.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use super::flights::Flights;
use super::read::{Data, Failure, Target};
use super::shelf::Edition;
use super::{Fs, Patience};
use crate::cache::{Directory, Ticket};
use crate::proto::{Name, RemotePath};
use crate::remote::{Attributes, FileKind, Version};

/// The largest file that is fetched ahead, bytes.
const SMALL: u64 = 64 << 10;
/// What all of them may take together, bytes.
const ROOM: usize = 4 << 20;
/// Who reads nothing for so long does not go on.
const PAUSE: Duration = Duration::from_secs(2);
/// How long content is believed, at most.
const LIFETIME: Duration = Duration::from_secs(10);
/// How many files are fetched ahead: at first, at most, and how many more for each that was read.
const FIRST_CREDIT: usize = 6;
const MOST_CREDIT: usize = 48;
const EARNED: usize = 2;
/// Threads that fetch.
const WORKERS: usize = 4;
/// How long a fetch that nobody waits for may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for a session that nobody needs.
const LOOK: Duration = Duration::from_millis(4);

type Content = Arc<[u8]>;

/// See the module.
pub(super) struct Neighbours {
    enabled: bool,
    /// Who waits for one finds it in the store then.
    fetches: Flights<()>,
    course: Mutex<Course>,
    store: Mutex<Store>,
}

/// Where a program is reading.
struct Course {
    directory: Option<RemotePath>,
    last_read: Option<Instant>,
    /// Files that were read one after another.
    run: usize,
    /// The last name that was read or fetched ahead.
    at: Option<Name>,
    /// Where it may be a number that is counted up instead of the order of the listing: which one, and the
    /// last name that was read or fetched ahead so.
    doubt: Option<(usize, Name)>,
    /// The last name that was read.
    read: Option<Name>,
    /// Which of the numbers in the names is counted up; `None` in the order of the listing.
    counts: Option<usize>,
    /// Fetched ahead and not read yet.
    ahead: LruCache<RemotePath, Order>,
    credit: usize,
    workers: usize,
    /// Whether the directory's listing was asked for.
    listed: bool,
}

/// What was fetched, the most recently used first.
struct Store {
    files: LruCache<RemotePath, Fetched>,
    bytes: usize,
}

struct Fetched {
    version: Version,
    ticket: Ticket,
    content: Content,
}

/// Why a file is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Listed,
    Counted,
    Both,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    List(RemotePath),
    Fetch(RemotePath, Attributes, Order),
    /// The caller's work is done.
    Nothing,
}

impl Neighbours {
    pub fn new(enabled: bool) -> Self {
        Self {
            enabled,
            fetches: Flights::new(),
            course: Mutex::new(Course {
                directory: None,
                last_read: None,
                run: 0,
                at: None,
                doubt: None,
                read: None,
                counts: None,
                ahead: LruCache::new(NonZeroUsize::new(2 * MOST_CREDIT).expect("not 0")),
                credit: FIRST_CREDIT,
                workers: 0,
                listed: false,
            }),
            store: Mutex::new(Store {
                files: LruCache::unbounded(),
                bytes: 0,
            }),
        }
    }

    /// Says that a file was read from its beginning. Whether a worker has something to do.
    fn was_read(&self, path: &RemotePath, now: Instant) -> bool {
        let (Some(directory), Some(name)) = (path.parent(), path.name()) else {
            return false;
        };
        let course = &mut *self.course.lock();
        let goes_on = course.is_going_on(now) && course.directory.as_ref() == Some(&directory);
        let order = course.ahead.pop(path);
        let expected = order.is_some();
        let before = course.read.replace(name.clone()).filter(|_| goes_on);
        let counted = before.and_then(|before| counted(before.as_bytes(), name.as_bytes()));
        let is_behind = course.at.as_ref().is_some_and(|at| name < *at);
        // What was fetched for it is not what it wants.
        let is_astray = !expected && (is_behind || course.counts.is_some());
        let skips = !expected && !course.ahead.is_empty();
        if counted.is_some() && (is_astray || skips) {
            course.counts = counted;
            course.at = None;
            course.doubt = None;
            course.ahead.clear();
        } else if !goes_on || is_astray {
            course.run = 0;
            course.at = None;
            course.doubt = None;
            course.counts = None;
            course.credit = FIRST_CREDIT;
            course.ahead.clear();
            course.listed &= goes_on;
        }
        course.directory = Some(directory);
        course.last_read = Some(now);
        course.run += 1;
        if let Some(order) = order {
            course.settle(order);
            course.credit = (course.credit + EARNED).min(MOST_CREDIT);
        }
        let is_further = |at: &Name| course.counts.is_none() && *at < name;
        // Asked once: the longer it goes on in one order, the less it may be the other.
        if let (2, None, Some(number)) = (course.run, course.counts, counted) {
            course.doubt = Some((number, name.clone()));
        }
        if course.at.as_ref().is_none_or(is_further) {
            course.at = Some(name);
        }
        let wants = course.run > 1 && course.has_credit() && course.workers < WORKERS;
        course.workers += usize::from(wants);
        wants
    }

    /// Says that somebody waits for a file that was not fetched ahead: it may tell in which order they go on.
    fn was_asked(
        &self,
        path: &RemotePath,
        listing: impl FnOnce(&RemotePath) -> Option<Arc<Directory>>,
    ) {
        let course = &mut *self.course.lock();
        let (Some(directory), Some(name)) = (path.parent(), path.name()) else {
            return;
        };
        if course.doubt.is_none() || course.directory.as_ref() != Some(&directory) {
            return;
        }
        let Some(listing) = listing(&directory) else {
            return;
        };
        let is_it = |entry: Option<&(Name, Attributes)>| entry.is_some_and(|(n, _)| *n == name);
        let order = match (
            is_it(course.listed_next(&listing)),
            is_it(course.counted_next(&listing)),
        ) {
            (true, false) => Order::Listed,
            (false, true) => Order::Counted,
            _ => return,
        };
        course.settle(order);
        course.at = Some(name);
        course.ahead.put(path.clone(), order);
    }

    fn is_in_doubt(&self) -> bool {
        self.course.lock().doubt.is_some()
    }

    /// Whether a worker still has something to do; where not, its work is done.
    fn go_on(&self, listing: impl FnOnce(&RemotePath) -> Option<Arc<Directory>>) -> bool {
        let course = &mut *self.course.lock();
        let goes_on = course.next(listing) != Step::Nothing;
        course.workers -= usize::from(!goes_on);
        goes_on
    }

    /// What is to be done next; it is the caller's to do.
    fn take(&self, listing: impl FnOnce(&RemotePath) -> Option<Arc<Directory>>) -> Step {
        let course = &mut *self.course.lock();
        let step = course.next(listing);
        match &step {
            Step::List(_) => course.listed = true,
            Step::Fetch(path, _, order) => {
                let Some(name) = path.name() else { return step };
                if *order != Order::Listed
                    && let Some((_, at)) = &mut course.doubt
                {
                    *at = name.clone();
                }
                if *order != Order::Counted || course.counts.is_some() {
                    course.at = Some(name);
                }
                course.ahead.put(path.clone(), *order);
            }
            Step::Nothing => {}
        }
        step
    }

    fn keep(&self, path: RemotePath, fetched: Fetched) {
        let store = &mut *self.store.lock();
        store.bytes += fetched.content.len();
        if let Some((_, old)) = store.files.push(path, fetched) {
            store.bytes -= old.content.len();
        }
        while store.bytes > ROOM {
            let Some((_, old)) = store.files.pop_lru() else {
                return;
            };
            store.bytes -= old.content.len();
        }
    }

    /// The content of a file in this version, unless `holds` says that it is too old.
    fn stored(&self, target: &Target, holds: impl FnOnce(Ticket) -> bool) -> Option<Content> {
        let store = &mut *self.store.lock();
        let fetched = store.files.get(&target.path)?;
        if fetched.version == target.version && holds(fetched.ticket) {
            return Some(fetched.content.clone());
        }
        let old = store.files.pop(&target.path)?;
        store.bytes -= old.content.len();
        None
    }
}

impl Course {
    fn is_going_on(&self, now: Instant) -> bool {
        self.last_read
            .is_some_and(|last| now.saturating_duration_since(last) < PAUSE)
    }

    fn has_credit(&self) -> bool {
        self.ahead.len() < self.credit
    }

    fn next(&self, listing: impl FnOnce(&RemotePath) -> Option<Arc<Directory>>) -> Step {
        let (true, true, Some(directory), Some(_)) = (
            self.is_going_on(Instant::now()),
            self.has_credit(),
            &self.directory,
            &self.at,
        ) else {
            return Step::Nothing;
        };
        let Some(listing) = listing(directory) else {
            // Once: what cannot be kept would be asked for again and again.
            return match self.listed {
                false => Step::List(directory.clone()),
                true => Step::Nothing,
            };
        };
        let counted = self.counted_next(&listing);
        let (next, order) = match (self.counts, &self.doubt) {
            (Some(_), _) => (counted, Order::Counted),
            (None, None) => (self.listed_next(&listing), Order::Listed),
            (None, Some(_)) => {
                let listed = self.listed_next(&listing);
                let so_far = |order| self.ahead.iter().filter(|(_, o)| **o == order).count();
                let is_behind = so_far(Order::Counted) < so_far(Order::Listed);
                match (listed, counted) {
                    (Some(listed), Some(counted)) if listed.0 == counted.0 => {
                        (Some(listed), Order::Both)
                    }
                    (listed, Some(counted)) if listed.is_none() || is_behind => {
                        (Some(counted), Order::Counted)
                    }
                    (listed, _) => (listed, Order::Listed),
                }
            }
        };
        next.map_or(Step::Nothing, |(name, attributes)| {
            Step::Fetch(directory.join(name), attributes.clone(), order)
        })
    }

    /// The next small file in the order of the listing.
    fn listed_next<'a>(&self, listing: &'a Directory) -> Option<&'a (Name, Attributes)> {
        let entries = listing.entries();
        let at = self.at.as_ref()?;
        let after = entries.partition_point(|(name, _)| name <= at);
        entries[after..].iter().find(|entry| is_small(entry))
    }

    /// The next one by number, where it is a small file.
    fn counted_next<'a>(&self, listing: &'a Directory) -> Option<&'a (Name, Attributes)> {
        let (number, at) = match (self.counts, &self.doubt) {
            (Some(number), _) => (number, self.at.as_ref()?),
            (None, Some((number, at))) => (*number, at),
            (None, None) => return None,
        };
        let next = counted_up(at.as_bytes(), number)?;
        let entries = listing.entries();
        let place = entries.binary_search_by(|(name, _)| name.as_bytes().cmp(&next));
        entries.get(place.ok()?).filter(|entry| is_small(entry))
    }

    /// A file was read that was expected because of this order.
    fn settle(&mut self, order: Order) {
        let other = match order {
            Order::Listed => Order::Counted,
            Order::Counted => Order::Listed,
            Order::Both => return,
        };
        let Some((number, at)) = self.doubt.take() else {
            return;
        };
        if order == Order::Counted {
            (self.counts, self.at) = (Some(number), Some(at));
        }
        let astray: Vec<_> = (self.ahead.iter())
            .filter(|(_, expected)| **expected == other)
            .map(|(path, _)| path.clone())
            .collect();
        for path in astray {
            self.ahead.pop(&path);
        }
    }
}

fn is_small((_, attributes): &(Name, Attributes)) -> bool {
    attributes.kind == FileKind::File && (1..=SMALL).contains(&attributes.size)
}

/// A name with one of its numbers (the first is 0) one higher, as long as before where it can be.
fn counted_up(name: &[u8], number: usize) -> Option<Vec<u8>> {
    let (mut numbers, mut start) = (0, 0);
    for run in name.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()) {
        let end = start + run.len();
        if run[0].is_ascii_digit() {
            if numbers == number {
                let value: u64 = std::str::from_utf8(run).ok()?.parse().ok()?;
                let next = format!("{:0width$}", value.checked_add(1)?, width = run.len());
                return Some([&name[..start], next.as_bytes(), &name[end..]].concat());
            }
            numbers += 1;
        }
        start = end;
    }
    None
}

/// Which number of `before` is one higher in `name`, if nothing else differs.
fn counted(before: &[u8], name: &[u8]) -> Option<usize> {
    (0..)
        .map_while(|number| counted_up(before, number))
        .position(|next| next == name)
}

impl Fs {
    /// A read of what was, or is just being, fetched ahead; `None` where it has to be asked for.
    pub(super) fn read_ahead(
        &self,
        target: &Target,
        offset: u64,
        len: usize,
        patience: Patience,
    ) -> Option<Result<Data, Failure>> {
        if !self.neighbours.enabled || target.version.size > SMALL {
            return None;
        }
        let holds = |ticket: Ticket| {
            let age = Instant::now().saturating_duration_since(ticket.at());
            age < LIFETIME.min(self.config.attr_timeout)
                && self.cache.is_unchanged_since(ticket, &target.path)
        };
        let content = match self.neighbours.stored(target, holds) {
            Some(content) => content,
            None => {
                let tick = self.cache.begin(Instant::now()).tick();
                let fetches = &self.neighbours.fetches;
                match patience {
                    Patience::MemoryOnly if fetches.is_under_way(&target.path, tick) => {
                        return Some(Err(Failure::WouldWait));
                    }
                    Patience::MemoryOnly => return None,
                    Patience::Until(deadline) => {
                        let listing = |directory: &_| self.cache.listing(directory, Instant::now());
                        self.neighbours.was_asked(&target.path, listing);
                        fetches.wait_for(&target.path, tick, deadline)?.ok()?;
                        self.neighbours.stored(target, holds)?
                    }
                }
            }
        };
        let from = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(content.len());
        let to = from.saturating_add(len).min(content.len());
        Some(Ok(Data::of(content[from..to].to_vec())))
    }

    /// A program has read a file from its beginning.
    pub(super) fn read_on(&self, path: &RemotePath, size: u64) {
        let neighbours = &self.neighbours;
        if neighbours.enabled && size <= SMALL && neighbours.was_read(path, Instant::now()) {
            let Some(fs) = self.this.upgrade() else {
                return;
            };
            let thread = thread::Builder::new().name("neighbours".to_owned());
            if let Err(error) = thread.spawn(move || fs.fetch_ahead()) {
                log::error!("starting the neighbours thread: {error}");
                neighbours.course.lock().workers -= 1;
            }
        }
    }

    fn fetch_ahead(&self) {
        let listing = |directory: &RemotePath| self.cache.listing(directory, Instant::now());
        if self.neighbours.is_in_doubt() {
            // What the program asks for next may tell.
            thread::sleep(LOOK);
        }
        while self.neighbours.go_on(listing) {
            let Some(spare) = self.remote.spare() else {
                thread::sleep(LOOK);
                continue;
            };
            let now = Instant::now();
            let deadline = now + PATIENCE.min(self.config.timeout);
            match self.neighbours.take(listing) {
                Step::Nothing => {}
                Step::List(directory) => {
                    drop(spare);
                    drop(self.fetch_listing(&directory, deadline));
                }
                Step::Fetch(path, attributes, _) => {
                    let shelf = self.config.shelf.as_ref();
                    let shelf = shelf.zip(Edition::of(&attributes));
                    if shelf.is_some_and(|(shelf, edition)| shelf.has_all(&path, &edition)) {
                        continue;
                    }
                    let keeping = shelf.and_then(|(shelf, edition)| shelf.keep(&path, edition));
                    let version = attributes.version();
                    let ticket = self.cache.begin(now);
                    let fetches = &self.neighbours.fetches;
                    if let Some(flight) = fetches.lead(&path, ticket.tick())
                        && let Some(content) = spare.content(&path, version, deadline)
                    {
                        if let Some(mut keeping) = keeping {
                            keeping.push(0, &content);
                        }
                        let fetched = Fetched {
                            version,
                            ticket,
                            content: content.into(),
                        };
                        self.neighbours.keep(path, fetched);
                        let _landed = flight.with(Ok(()));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
