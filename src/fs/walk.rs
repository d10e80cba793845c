//! Walks: where a program goes through a tree, the directories that it is about to enter are listed
//! ahead, on sessions that nobody else needs.
//!
//! A walk is known by a directory that is entered right after its parent. What lies below and beside
//! it is listed in the order in which a walk comes there, up to a credit of listings that were not
//! asked for yet. Each that is asked for earns more; a pause ends the walk.
//!
//! One leaf lock, held for memory work only.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use super::Fs;
use crate::cache::Directory;
use crate::proto::RemotePath;
use crate::remote::FileKind;

/// Who enters no directory for so long walks no more.
const PAUSE: Duration = Duration::from_secs(2);
/// Directories that are remembered as entered.
const ENTERED: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// How many directories are listed ahead: at first, at most, and how many more for each that was
/// asked for then.
const FIRST_CREDIT: usize = 24;
const MOST_CREDIT: usize = 512;
const EARNED: usize = 4;
/// Directories that are still to be listed.
const QUEUE: usize = 8192;
/// Threads that list.
const WORKERS: usize = 4;
/// How long a listing that nobody waits for may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for a session that nobody needs.
const LOOK: Duration = Duration::from_millis(4);

/// See the module.
pub(super) struct Walks {
    enabled: bool,
    state: Mutex<State>,
}

struct State {
    /// Whether what they hold was queued. The most recently entered first.
    entered: LruCache<RemotePath, bool>,
    last_entered: Option<Instant>,
    /// In the order in which they are to be listed.
    queue: VecDeque<RemotePath>,
    /// Listed ahead and not entered yet.
    ahead: LruCache<RemotePath, ()>,
    credit: usize,
    workers: usize,
}

impl Walks {
    pub fn new(enabled: bool) -> Self {
        Self {
            enabled,
            state: Mutex::new(State {
                entered: LruCache::new(ENTERED),
                last_entered: None,
                queue: VecDeque::new(),
                ahead: LruCache::unbounded(),
                credit: FIRST_CREDIT,
                workers: 0,
            }),
        }
    }

    /// Says that a directory was entered. `parent`: what is known to lie beside it. Whether another
    /// worker has something to do.
    fn entered(
        &self,
        path: &RemotePath,
        directory: &Directory,
        parent: impl FnOnce(&RemotePath) -> Option<Arc<Directory>>,
        now: Instant,
    ) -> bool {
        if !self.enabled {
            return false;
        }
        let above = path.parent();
        let state = &mut *self.state.lock();
        if !state.is_going_on(now) {
            state.queue.clear();
            state.ahead.clear();
            state.entered.clear();
            state.credit = FIRST_CREDIT;
        }
        state.last_entered = Some(now);
        if state.ahead.pop(path).is_some() {
            state.credit = (state.credit + EARNED).min(MOST_CREDIT);
        }
        let beside = above
            .as_ref()
            .and_then(|above| state.entered.get_mut(above));
        let walks = beside.is_some();
        if let (Some(queued @ false), Some(above)) = (beside, &above) {
            *queued = true;
            if let Some(beside) = parent(above) {
                state.put_up(above, &beside);
            }
        }
        let queued = state.entered.get_or_insert_mut_ref(path, || false);
        if walks && !std::mem::replace(queued, true) {
            state.put_up(path, directory);
        }
        state.wants_worker()
    }

    /// Says that directories were listed ahead. Whether another worker has something to do.
    fn listed<'a>(
        &self,
        told: impl DoubleEndedIterator<Item = (&'a RemotePath, &'a Arc<Directory>)>,
    ) -> bool {
        let state = &mut *self.state.lock();
        // What lies in the first is entered first: it is put up last.
        for (path, directory) in told.rev() {
            if state.ahead.contains(path) {
                let queued = state.entered.get_or_insert_mut_ref(path, || false);
                if !std::mem::replace(queued, true) {
                    state.put_up(path, directory);
                }
            }
        }
        state.wants_worker()
    }

    /// Whether a worker still has something to do; where not, its work is done.
    fn go_on(&self) -> bool {
        let state = &mut *self.state.lock();
        let goes_on = state.is_going_on(Instant::now()) && state.has_work();
        state.workers -= usize::from(!goes_on);
        goes_on
    }

    /// The next directories to list.
    fn take(&self, most: usize, is_known: impl Fn(&RemotePath) -> bool) -> Vec<RemotePath> {
        let state = &mut *self.state.lock();
        let mut taken = Vec::new();
        while taken.len() < most && state.has_work() {
            let Some(path) = state.queue.pop_front() else {
                break;
            };
            if !is_known(&path) {
                state.ahead.put(path.clone(), ());
                taken.push(path);
            }
        }
        taken
    }
}

impl State {
    fn is_going_on(&self, now: Instant) -> bool {
        self.last_entered
            .is_some_and(|last| now.saturating_duration_since(last) < PAUSE)
    }

    /// What lies in a directory is entered next.
    fn put_up(&mut self, path: &RemotePath, directory: &Directory) {
        let entries = directory.entries().iter().rev();
        for (name, attributes) in entries {
            if attributes.kind == FileKind::Directory && self.queue.len() < QUEUE {
                self.queue.push_front(path.join(name));
            }
        }
    }

    fn has_work(&self) -> bool {
        !self.queue.is_empty() && self.ahead.len() < self.credit
    }

    fn wants_worker(&mut self) -> bool {
        let wants = self.has_work() && self.workers < WORKERS;
        self.workers += usize::from(wants);
        wants
    }
}

impl Fs {
    /// A program has entered a directory.
    pub(super) fn walk_on(&self, path: &RemotePath, directory: &Directory) {
        let parent = |above: &RemotePath| self.cache.listing(above, Instant::now());
        if self.walks.entered(path, directory, parent, Instant::now()) {
            self.start_walker();
        }
    }

    fn start_walker(&self) {
        let Some(fs) = self.this.upgrade() else {
            return;
        };
        let thread = thread::Builder::new().name("walk".to_owned());
        if let Err(error) = thread.spawn(move || fs.list_ahead()) {
            log::error!("starting the walk thread: {error}");
            self.walks.state.lock().workers -= 1;
        }
    }

    fn list_ahead(&self) {
        while self.walks.go_on() && !self.is_closed() {
            let Some(spare) = self.remote.spare() else {
                thread::sleep(LOOK);
                continue;
            };
            let now = Instant::now();
            let is_known = |path: &RemotePath| self.cache.listing(path, now).is_some();
            let paths = self.walks.take(spare.lists_at_once(), is_known);
            let ticket = self.cache.begin(now);
            let lead = |path: RemotePath| Some((self.lists.lead(&path, ticket.tick())?, path));
            let (flights, paths): (Vec<_>, Vec<_>) = paths.into_iter().filter_map(lead).unzip();
            if paths.is_empty() {
                continue;
            }
            let listings = spare.list(&paths, now + PATIENCE.min(self.config.timeout));
            let places = flights.into_iter().zip(paths).zip(listings);
            let told = places.filter_map(|((flight, path), listing)| {
                let directory = self.keep_listing(&path, ticket, listing?);
                Some((flight, path, directory))
            });
            let told: Vec<_> = told.collect();
            if self
                .walks
                .listed(told.iter().map(|(_, path, listed)| (path, listed)))
            {
                self.start_walker();
            }
            for (flight, _, directory) in told {
                let _landed = flight.with(Ok(directory));
            }
        }
    }
}

#[cfg(test)]
mod tests;
