//! The metadata cache: attributes, absences and listings by path, bounded and expiring.
//!
//! An entry counts only while nothing changed it since its fetch *began*: every change moves one
//! mutation clock, every fetch carries the tick at which it began, and both the insertion and
//! each later answer compare the two. So a fetch that raced with a change is never believed, and
//! renaming a directory outdates everything below it without a search. Of a listing that raced
//! with changes to some of its names all others are believed, where of those something newer is
//! known.
//!
//! Must not know how entries are fetched. One leaf mutex, held for memory work only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::proto::{Name, RemotePath};
use crate::remote::{Attributes, Listing};

/// Sizes and lifetimes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many entries are kept; a listing counts one for itself and one for each name.
    pub entries: usize,
    /// How long attributes are believed.
    pub attributes: Duration,
    /// How long a listing is believed to hold all names.
    pub listings: Duration,
    /// How long an absence is believed.
    pub absences: Duration,
}

/// When a fetch began: on the mutation clock and on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    tick: u64,
    at: Instant,
}

/// A listing as it was fetched, sorted by name. Shared by the cache and by open directories.
#[derive(Debug)]
pub struct Directory {
    entries: Box<[(Name, Attributes)]>,
    complete: bool,
    ticket: Ticket,
    /// As of this tick it has the right names: it was fetched at it, or what changed until then has
    /// been put right.
    names: u64,
}

/// What the cache knows of a path, and until when that may be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Present(Attributes, Instant),
    Absent(Instant),
    Unknown,
}

/// See the module.
pub struct Cache {
    limits: Limits,
    inner: Mutex<Inner>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// How much the cache holds, and how often that was of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    pub entries: usize,
    pub hits: u64,
    pub misses: u64,
}

impl Cache {
    pub fn new(limits: Limits) -> Self {
        // A time that far away can be added to any `Instant`.
        let ever = Duration::from_secs(10 * 365 * 24 * 3600);
        let limits = Limits {
            entries: limits.entries,
            attributes: limits.attributes.min(ever),
            listings: limits.listings.min(ever),
            absences: limits.absences.min(ever),
        };
        Self {
            limits,
            inner: Mutex::new(Inner {
                tick: 0,
                items: LruCache::unbounded(),
                weight: 0,
                changes: LruCache::unbounded(),
                changes_limit: limits.entries.max(1024),
                forgotten: 0,
            }),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    pub fn in_use(&self) -> Use {
        Use {
            entries: self.inner.lock().weight,
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
        }
    }

    fn count(&self, hit: bool) {
        let counter = if hit { &self.hits } else { &self.misses };
        counter.fetch_add(1, Relaxed);
    }

    /// To be called before a fetch is sent; its result is inserted with the ticket.
    pub fn begin(&self, now: Instant) -> Ticket {
        Ticket {
            tick: self.inner.lock().tick,
            at: now,
        }
    }

    /// What is known of `path` itself: its own entry, or what its parent's listing says,
    /// whichever was fetched last.
    pub fn attributes(&self, path: &RemotePath, now: Instant) -> Answer {
        let inner = &mut *self.inner.lock();
        let listed = inner.listed_in_parent(path);
        let own = inner.own(path);
        let answer = self.newest(own, listed, Some(now));
        self.count(answer != Answer::Unknown);
        answer
    }

    /// What was last known of `path`, however old, unless it changed since.
    pub fn last_known(&self, path: &RemotePath) -> Option<Attributes> {
        let inner = &mut *self.inner.lock();
        let own = inner.own(path);
        let listed = inner.listed_in_parent(path);
        match (own, listed) {
            (Some(own), Some(listed)) if listed.ticket.at > own.ticket.at => listed.found,
            (own, listed) => own.or(listed)?.found,
        }
    }

    /// What is known of an entry of `directory`, a listing of `path`: the listing's word, unless
    /// something newer is known.
    pub fn attributes_in(
        &self,
        directory: &Directory,
        path: &RemotePath,
        name: &Name,
        now: Instant,
    ) -> Answer {
        let inner = &mut *self.inner.lock();
        let child = path.join(name);
        let listed = inner.listed(directory, directory.names, path, name, &child);
        let own = inner.own(&child);
        self.newest(own, listed, Some(now))
    }

    /// The same for those who waited for the listing: they take its word however old it is by now.
    pub fn told_in(&self, directory: &Directory, path: &RemotePath, name: &Name) -> Answer {
        let inner = &mut *self.inner.lock();
        let child = path.join(name);
        let listed = inner.listed(directory, directory.names, path, name, &child);
        let own = inner.own(&child);
        self.newest(own, listed, None)
    }

    /// The listing of `path`, complete or not, while it is fresh.
    pub fn listing(&self, path: &RemotePath, now: Instant) -> Option<Arc<Directory>> {
        let inner = &mut *self.inner.lock();
        if inner.held_listing(path).is_none() {
            self.count(false);
            return None;
        }
        let item = inner.items.get_mut(path)?;
        let before = item.weight();
        let directory = item.listing.as_mut()?.merged();
        let after = item.weight();
        inner.weight = inner.weight - before + after;
        let fresh = now < directory.ticket.at + self.limits.listings;
        self.count(fresh);
        fresh.then_some(directory)
    }

    /// Whether the names of `path` are known, and some of them from what we made there ourselves.
    pub fn was_made_in(&self, path: &RemotePath) -> bool {
        let inner = self.inner.lock();
        let made = |listed: &Listed| listed.names > listed.directory.ticket.tick;
        inner.held_listing(path).is_some_and(made)
    }

    /// Keeps what a fetch told of `path`; `None` says that there is no such file. Refused
    /// (`false`) where the path or an ancestor changed since the fetch began. What a later fetch
    /// told stays.
    pub fn insert(&self, ticket: Ticket, path: &RemotePath, found: Option<&Attributes>) -> bool {
        let inner = &mut *self.inner.lock();
        if !inner.holds(ticket, path) {
            return false;
        }
        let item = inner.item(path);
        if item.own.as_ref().is_none_or(|o| o.ticket.at <= ticket.at) {
            item.own = Some(Own {
                found: found.cloned(),
                ticket,
            });
        }
        inner.evict(self.limits.entries);
        true
    }

    /// Keeps a listing of `path`, fetched with the ticket that it carries. Where names in it changed
    /// since, with what is known of those now: that is what is returned, and to be believed instead.
    /// Refused (`None`) where that is not known, where the path or an ancestor was changed since, and
    /// where the listing alone is over the bound.
    pub fn insert_listing(
        &self,
        path: &RemotePath,
        directory: Arc<Directory>,
    ) -> Option<Arc<Directory>> {
        let inner = &mut *self.inner.lock();
        let directory = match inner.holds(directory.ticket, path) {
            true => directory,
            false => {
                let edits = inner.changed_in(path, directory.ticket)?;
                Arc::new(directory.edited(edits, inner.tick))
            }
        };
        if directory.entries.len() >= self.limits.entries {
            return None;
        }
        let item = inner.item(path);
        let before = item.weight();
        if item
            .listing
            .as_ref()
            .is_none_or(|l| l.directory.ticket.at <= directory.ticket.at)
        {
            item.listing = Some(Listed {
                names: directory.names,
                directory: directory.clone(),
                edits: BTreeMap::new(),
            });
        }
        let after = item.weight();
        inner.weight = inner.weight - before + after;
        inner.evict(self.limits.entries);
        Some(directory)
    }

    /// Whether nothing changed `path` since the ticket was given.
    pub fn is_unchanged_since(&self, ticket: Ticket, path: &RemotePath) -> bool {
        self.inner.lock().holds(ticket, path)
    }

    /// Until when to believe a fetch that found something, or nothing.
    pub fn expiry(&self, ticket: Ticket, found: bool) -> Instant {
        let lifetime = match found {
            true => self.limits.attributes,
            false => self.limits.absences,
        };
        ticket.at + lifetime
    }

    /// Says that the file at `path` was created, removed, replaced or altered: nothing fetched
    /// before is believed any more of it, of what lies below it, and of its parent.
    pub fn changed(&self, path: &RemotePath) {
        self.change(&mut self.inner.lock(), path);
    }

    fn change(&self, inner: &mut Inner, path: &RemotePath) {
        inner.tick += 1;
        let tick = inner.tick;
        inner.change(path).subtree = tick;
        if let Some(parent) = path.parent() {
            inner.change(&parent).own = tick;
        }
        while inner.changes.len() > inner.changes_limit {
            // Least recently changed, so its ticks are the smallest: what began before the last
            // forgotten change cannot be judged any more, and is not believed.
            if let Some((_, change)) = inner.changes.pop_lru() {
                inner.forgotten = change.own.max(change.subtree);
            }
        }
    }

    /// Says what we ourselves made of `path`: `None`, that it is gone. As [`Cache::changed`], but a
    /// listing of its parent goes on to be believed, with this one name changed in it.
    pub fn note(&self, path: &RemotePath, made: Option<&Attributes>, now: Instant) {
        let inner = &mut *self.inner.lock();
        let place = path.parent().zip(path.name());
        let held = match &place {
            Some((parent, _)) => inner.held_listing(parent).is_some(),
            None => false,
        };
        self.change(inner, path);
        let tick = inner.tick;
        if held
            && let Some((parent, name)) = place
            && let Some(item) = inner.items.get_mut(&parent)
            && let Some(listed) = &mut item.listing
        {
            listed.names = tick;
            if listed.edits.insert(name, made.cloned()).is_none() {
                inner.weight += 1;
            }
        }
        inner.item(path).own = Some(Own {
            found: made.cloned(),
            ticket: Ticket { tick, at: now },
        });
        inner.evict(self.limits.entries);
    }

    /// The newer word of two, if it may still be believed. The older one never stands in for a
    /// newer one that has expired: the newer may contradict it. Without `now` nothing has expired.
    fn newest(&self, own: Option<Own>, listed: Option<Own>, now: Option<Instant>) -> Answer {
        let (word, from_listing) = match (own, listed) {
            (Some(own), Some(listed)) if listed.ticket.at > own.ticket.at => (listed, true),
            (Some(own), _) => (own, false),
            (None, Some(listed)) => (listed, true),
            (None, None) => return Answer::Unknown,
        };
        let mut until = self.expiry(word.ticket, word.found.is_some());
        if word.found.is_none() && from_listing {
            until = until.min(word.ticket.at + self.limits.listings);
        }
        match word.found {
            _ if now.is_some_and(|now| until <= now) => Answer::Unknown,
            Some(attributes) => Answer::Present(attributes, until),
            None => Answer::Absent(until),
        }
    }
}

impl Ticket {
    /// Fetches of one path that began at the same tick may share one answer.
    pub fn tick(&self) -> u64 {
        self.tick
    }

    /// When the fetch began: what it tells ages from here.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// The same with what changed until `tick` put right.
    fn moved(self, tick: u64) -> Self {
        Self { tick, at: self.at }
    }
}

impl Directory {
    pub fn new(listing: Listing, ticket: Ticket) -> Self {
        let mut entries = listing.entries;
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Self {
            entries: entries.into(),
            complete: listing.complete,
            ticket,
            names: ticket.tick,
        }
    }

    /// The same with some names changed (`None`: gone), as of tick `names`.
    fn edited(&self, edits: BTreeMap<Name, Option<Attributes>>, names: u64) -> Self {
        let stays = |(name, _): &&(Name, Attributes)| !edits.contains_key(name);
        let mut entries: Vec<_> = self.entries.iter().filter(stays).cloned().collect();
        let made = edits.into_iter();
        entries.extend(made.filter_map(|(name, made)| Some((name, made?))));
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Self {
            entries: entries.into(),
            complete: self.complete,
            ticket: self.ticket,
            names,
        }
    }

    /// The same with some files shown otherwise, or beside those listed.
    pub fn overlaid(&self, shown: BTreeMap<Name, Attributes>) -> Self {
        let edits = shown
            .into_iter()
            .map(|(name, attributes)| (name, Some(attributes)));
        self.edited(edits.collect(), self.names)
    }

    /// Sorted by name, each name once.
    pub fn entries(&self) -> &[(Name, Attributes)] {
        &self.entries
    }

    /// Whether a name that is not in it is absent.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// When it was fetched.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    fn find(&self, name: &Name) -> Option<&Attributes> {
        let index = self.entries.binary_search_by(|(n, _)| n.cmp(name)).ok()?;
        Some(&self.entries[index].1)
    }
}

struct Inner {
    /// The mutation clock.
    tick: u64,
    items: LruCache<RemotePath, Item>,
    /// The sum of the items' weights.
    weight: usize,
    /// What changed when, the latest change first.
    changes: LruCache<RemotePath, Change>,
    changes_limit: usize,
    /// Changes up to this tick may have been dropped from `changes`.
    forgotten: u64,
}

#[derive(Default)]
struct Item {
    own: Option<Own>,
    listing: Option<Listed>,
}

/// A listing, and what we ourselves have changed in the directory since.
struct Listed {
    directory: Arc<Directory>,
    /// With the edits it has the right names as of this tick.
    names: u64,
    edits: BTreeMap<Name, Option<Attributes>>,
}

impl Listed {
    /// The listing with the edits, which are part of it from now on.
    fn merged(&mut self) -> Arc<Directory> {
        if !self.edits.is_empty() {
            let edits = std::mem::take(&mut self.edits);
            self.directory = Arc::new(self.directory.edited(edits, self.names));
        }
        self.directory.clone()
    }
}

/// One word about a path: what it is, or that it is not there.
#[derive(Clone)]
struct Own {
    found: Option<Attributes>,
    ticket: Ticket,
}

/// Ticks of the last change to a path's own entry and listing, and to everything below it too.
#[derive(Default)]
struct Change {
    own: u64,
    subtree: u64,
}

impl Item {
    fn weight(&self) -> usize {
        let listed = |l: &Listed| l.directory.entries.len() + l.edits.len();
        1 + self.listing.as_ref().map_or(0, listed)
    }
}

impl Inner {
    /// Whether what began with `ticket` still tells the truth about `path`.
    fn holds(&self, ticket: Ticket, path: &RemotePath) -> bool {
        if ticket.tick == self.tick {
            return true; // Nothing changed at all: the only case of a read-only mount.
        }
        if ticket.tick < self.forgotten {
            return false;
        }
        let own = |change: &Change| change.own > ticket.tick;
        !self.changes.peek(path).is_some_and(own) && !self.is_moved_since(ticket, path)
    }

    /// Whether `path` itself, or an ancestor, was changed since.
    fn is_moved_since(&self, ticket: Ticket, path: &RemotePath) -> bool {
        let moved = |path: &RemotePath| {
            let change = self.changes.peek(path);
            change.is_some_and(|change| change.subtree > ticket.tick)
        };
        let mut ancestor = path.parent();
        while let Some(path) = ancestor {
            if moved(&path) {
                return true;
            }
            ancestor = path.parent();
        }
        moved(path)
    }

    fn own(&mut self, path: &RemotePath) -> Option<Own> {
        let own = self.items.get(path)?.own.clone()?;
        self.holds(own.ticket, path).then_some(own)
    }

    /// What the kept listing of its parent says of `path`.
    fn listed_in_parent(&mut self, path: &RemotePath) -> Option<Own> {
        let (parent, name) = (path.parent()?, path.name()?);
        let listed = self.items.get(&parent)?.listing.as_ref()?;
        // What we changed has an entry of its own, unless that had to go; then nothing is known.
        if listed.edits.contains_key(&name) {
            return None;
        }
        let (directory, names) = (listed.directory.clone(), listed.names);
        self.listed(&directory, names, &parent, &name, path)
    }

    /// The kept listing of `path`, if it still tells all its names.
    fn held_listing(&self, path: &RemotePath) -> Option<&Listed> {
        let listed = self.items.peek(path)?.listing.as_ref()?;
        let names = listed.directory.ticket.moved(listed.names);
        self.holds(names, path).then_some(listed)
    }

    /// What a listing of `parent`, which has its names right as of tick `names`, says of `name`, which
    /// is `path`.
    fn listed(
        &self,
        directory: &Directory,
        names: u64,
        parent: &RemotePath,
        name: &Name,
        path: &RemotePath,
    ) -> Option<Own> {
        let found = directory.find(name).cloned();
        let ticket = directory.ticket;
        // Where another name of the directory changed, what is listed of this one still stands,
        // but the names are no longer complete.
        let is_all = || directory.complete && self.holds(ticket.moved(names), parent);
        let stands = self.holds(ticket, path) && (found.is_some() || is_all());
        stands.then_some(Own { found, ticket })
    }

    /// What is known by now of all that changed in directory `path` since `ticket`; `None` where more
    /// than that may have changed there, or of some of it nothing is known.
    fn changed_in(
        &mut self,
        path: &RemotePath,
        ticket: Ticket,
    ) -> Option<BTreeMap<Name, Option<Attributes>>> {
        if ticket.tick < self.forgotten || self.is_moved_since(ticket, path) {
            return None;
        }
        let latest = self.changes.iter();
        let since = latest.take_while(|(_, change)| change.own.max(change.subtree) > ticket.tick);
        let inside = since.filter_map(|(child, change)| {
            let (parent, name) = (child.parent()?, child.name()?);
            (change.subtree > ticket.tick && parent == *path).then_some((child.clone(), name))
        });
        let inside: Vec<_> = inside.collect();
        let known = inside.into_iter();
        known
            .map(|(child, name)| Some((name, self.own(&child)?.found)))
            .collect()
    }

    fn item(&mut self, path: &RemotePath) -> &mut Item {
        if !self.items.contains(path) {
            self.weight += 1;
        }
        self.items.get_or_insert_mut_ref(path, Item::default)
    }

    fn change(&mut self, path: &RemotePath) -> &mut Change {
        self.changes.get_or_insert_mut_ref(path, Change::default)
    }

    fn evict(&mut self, limit: usize) {
        while self.weight > limit {
            match self.items.pop_lru() {
                Some((_, item)) => self.weight -= item.weight(),
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
