//! [`Record`]: what is known of one file being written, and how each [`Change`] moves it on. The
//! one place where that is decided: a living spool and one read back from its journal go through
//! the same steps.
//!
//! Knows neither local files nor locks nor clocks.

use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

use super::RangeSet;
use super::event::{Change, Set};
use crate::proto::RemotePath;

/// Names a record for the life of its spool folder; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecordId(pub(super) u64);

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl RecordId {
    /// Takes what [`RecordId`] displays as.
    pub fn parse(text: &str) -> Option<Self> {
        let id = Self(u64::from_str_radix(text, 16).ok()?);
        (id.to_string() == text).then_some(id)
    }
}

/// Counts the commits of a record: version n is the content at the nth.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Version(pub(super) u64);

/// A file on the server as it was last seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base {
    /// Bytes.
    pub size: u64,
    /// `None` where the server does not tell.
    pub mtime: Option<SystemTime>,
}

/// Attributes that the server is still to be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Permission bits.
    pub mode: Option<u32>,
    pub mtime: Option<SystemTime>,
}

/// How a version goes to the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Method {
    /// Whole, under this name, and renamed over the file in the end.
    Temporary(RemotePath),
    /// Whole, under its own name.
    Direct,
    /// What lies at and beyond this offset, appended.
    Append(u64),
    /// Each range that it owes, written over the file in place.
    InPlace,
}

/// An upload that began, and of which no end was recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upload {
    pub version: Version,
    pub method: Method,
    /// Bytes, once all of them are under the temporary name, and it is about to be renamed.
    pub whole: Option<u64>,
}

/// Why a version could not be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub reason: String,
    pub since: SystemTime,
}

/// A file being written.
///
/// Its bytes are, offset by offset: those in `stored`, which the spool holds; below `base_valid`
/// the server's (see [`Record::missing`]); zeros all others up to `size`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub id: RecordId,
    /// Where it belongs on the server.
    pub path: RemotePath,
    /// What is there under that name, as far as we know; `None`: nothing.
    pub base: Option<Base>,
    /// Up to where the server's bytes are this file's bytes, where the spool has none: the base's
    /// size, or the shortest that the file has been since. 0 if the old content is replaced.
    pub base_valid: u64,
    pub size: u64,
    /// What the spool holds, written or fetched.
    pub stored: RangeSet,
    /// What was changed since the last commit.
    pub fresh: RangeSet,
    /// What was changed before it, and is not on the server yet.
    pub committed: RangeSet,
    /// The content, its length or its existence was changed since the last commit.
    pub changed: bool,
    /// The last commit.
    pub version: Version,
    /// The newest version that is on the server.
    pub uploaded: Version,
    /// The newest version that would survive a loss of power.
    pub synced: Version,
    /// The content was written strictly in order, from nothing on, and no byte of it was changed
    /// later: what was sent of it so far is still right.
    pub sequential: bool,
    pub wanted: Wanted,
    pub upload: Option<Upload>,
    /// How the last upload went about that was begun under the file's own name, where no upload has
    /// ended since: the server's file may be neither the base nor a version of ours.
    pub torn: Option<Method>,
    pub failure: Option<Failure>,
    /// The file has no name any more, and is to vanish from the server.
    pub unlinked: bool,
    /// The machine went down before the newest bytes were known to be on the disk, or the disk
    /// lost some: what the spool has may not be what was written.
    pub doubtful: bool,
    pub created: SystemTime,
    /// The record of what was promised before the content was thrown away: needed until this one is
    /// promised as well.
    pub(super) keeps: Option<RecordId>,
    /// The shortest that the file has been since the last commit.
    pub(super) low: u64,
    /// Bytes were written since the last sync.
    pub(super) unsynced: bool,
}

/// Beyond so many ranges a set of changes is coarsened where that costs no fetching: 2.5 MiB.
const MAX_FRAGMENTS: usize = 65_536;

impl Record {
    pub(super) fn new(
        id: RecordId,
        path: RemotePath,
        base: Option<Base>,
        created: SystemTime,
    ) -> Self {
        let size = base.map_or(0, |base| base.size);
        Self {
            id,
            path,
            base,
            base_valid: size,
            size,
            stored: RangeSet::new(),
            fresh: RangeSet::new(),
            committed: RangeSet::new(),
            // A new file is owed even when it stays empty.
            changed: base.is_none(),
            version: Version(0),
            uploaded: Version(0),
            synced: Version(0),
            sequential: size == 0,
            wanted: Wanted::default(),
            upload: None,
            torn: None,
            failure: None,
            unlinked: false,
            doubtful: false,
            created,
            keeps: None,
            low: size,
            unsynced: false,
        }
    }

    /// What the server's content lacks: zeros that grew beyond the old end included.
    pub fn dirty(&self) -> RangeSet {
        let mut dirty = self.committed.clone();
        dirty.extend(&self.fresh);
        dirty
    }

    /// The parts of `range` whose bytes only the server has.
    pub fn missing(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        self.stored
            .gaps(range.start..range.end.min(self.base_valid))
    }

    /// Whether a committed version is not on the server yet.
    pub fn is_owed(&self) -> bool {
        self.uploaded < self.version
    }

    /// What the spool holds and the server has as well.
    pub(super) fn clean(&self) -> RangeSet {
        let mut clean = self.stored.clone();
        clean.subtract(&self.fresh);
        clean.subtract(&self.committed);
        clean
    }

    /// Whether `change` would leave everything as it is.
    pub(super) fn is_unmoved_by(&self, change: &Change) -> bool {
        match change {
            // The file reaches beyond `fresh`, so its size stays as well.
            Change::Wrote(range) => {
                !self.sequential
                    && self.unsynced
                    && self.fresh.contains(range.clone())
                    && self.stored.contains(range.clone())
            }
            Change::Fetched(range) => self.missing(range.clone()).next().is_none(),
            Change::Truncated(len) => *len == self.size,
            Change::Released => self.clean().is_empty(),
            Change::Committed => !self.changed,
            Change::Renamed(path) => *path == self.path,
            Change::Wanted(wanted) => *wanted == self.wanted,
            Change::Unlinked => self.unlinked,
            Change::Synced(version) => *version <= self.synced && !self.unsynced,
            Change::Promised => !self.changed && self.synced == self.version && !self.unsynced,
            Change::Created { .. }
            | Change::Began(_)
            | Change::Uploaded(..)
            | Change::Failed(_)
            | Change::Discarded
            | Change::Restored(_)
            | Change::Holds(..) => false,
        }
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            // They begin and end a record: its table's business.
            Change::Created { .. } | Change::Restored(_) | Change::Discarded => {}
            Change::Wrote(range) => self.write(range),
            Change::Fetched(range) => {
                let gaps: Vec<_> = self.missing(range.clone()).collect();
                gaps.into_iter().for_each(|gap| self.stored.insert(gap));
            }
            Change::Truncated(len) => self.truncate(*len),
            Change::Released => {
                let clean = self.clean();
                self.stored.subtract(&clean);
            }
            Change::Committed => self.commit(),
            Change::Synced(version) => {
                self.synced = self.synced.max(self.version.min(*version));
                if self.synced == self.version && !self.changed {
                    self.unsynced = false;
                }
            }
            Change::Promised => {
                self.commit();
                self.synced = self.version;
                self.unsynced = false;
            }
            Change::Began(upload) => {
                self.upload = Some(upload.clone());
                if !matches!(upload.method, Method::Temporary(_)) {
                    self.torn = Some(upload.method.clone());
                }
            }
            Change::Uploaded(version, base) => self.settle(*version, *base),
            Change::Failed(failure) => self.failure = Some(failure.clone()),
            Change::Renamed(path) => self.path = path.clone(),
            Change::Wanted(wanted) => self.wanted = *wanted,
            Change::Unlinked => self.unlinked = true,
            Change::Holds(which, ranges) => {
                let size = self.size;
                let set = match which {
                    Set::Stored => &mut self.stored,
                    Set::Fresh => &mut self.fresh,
                    Set::Committed => &mut self.committed,
                };
                for range in ranges {
                    set.insert(range.start..range.end.min(size));
                }
            }
        }
    }

    /// The content is thrown away, but this version is promised: another record begins in its place,
    /// which owes nothing until it is closed.
    pub(super) fn split(&self, id: RecordId) -> Self {
        let mut new = Self {
            id,
            uploaded: self.version,
            stored: RangeSet::new(),
            fresh: RangeSet::new(),
            committed: RangeSet::new(),
            keeps: Some(self.id),
            ..self.clone()
        };
        new.truncate(0);
        // What was sent of the old content is no part of the new.
        new.sequential = false;
        new
    }

    /// Whether the last version would survive a loss of power, and waits for nothing but the server.
    pub(super) fn is_promised(&self) -> bool {
        self.is_owed() && self.synced == self.version && self.failure.is_none()
    }

    /// The record that this one keeps, where it is not needed any more.
    pub(super) fn supersedes(&self) -> Option<RecordId> {
        self.keeps
            .filter(|_| self.unlinked || self.is_owed() && !self.doubtful)
    }

    /// The process ended. A promise is kept: what was written after it, and not closed, is taken back.
    /// Where that went over bytes of the promise itself, they are the old or the new ones.
    pub(super) fn resume(&mut self) {
        if !self.changed || !self.is_promised() {
            return;
        }
        self.truncate(self.low);
        let mut undone = std::mem::take(&mut self.fresh);
        undone.subtract(&self.committed);
        self.stored.subtract(&undone);
        (self.changed, self.unsynced) = (false, false);
    }

    /// The machine, not only the process, was started anew since the last change. What the server
    /// has as well is never synced, so it is forgotten.
    pub(super) fn reboot(&mut self) {
        self.doubtful |= self.unsynced;
        self.apply(&Change::Released);
    }

    fn write(&mut self, range: &Range<u64>) {
        self.sequential &= range.start == self.size;
        // Zeros between the old end and the write are a change, too.
        self.fresh.insert(range.start.min(self.size)..range.end);
        self.stored.insert(range.clone());
        self.size = self.size.max(range.end);
        self.changed = true;
        self.unsynced = true;
        if is_too_fine(&self.fresh, &self.stored) {
            self.fresh.bridge(&self.stored);
        }
    }

    fn truncate(&mut self, len: u64) {
        // An O_TRUNC before the first write is where a sequential file begins.
        self.sequential = self.sequential && len == self.size
            || len == 0
                && self.stored.is_empty()
                && self.fresh.is_empty()
                && self.committed.is_empty();
        if len > self.size {
            self.fresh.insert(self.size..len);
        } else {
            self.stored.truncate(len);
            self.fresh.truncate(len);
            self.committed.truncate(len);
            self.base_valid = self.base_valid.min(len);
            self.low = self.low.min(len);
        }
        self.size = len;
        self.changed = true;
    }

    fn commit(&mut self) {
        if !self.changed {
            return;
        }
        let fresh = std::mem::take(&mut self.fresh);
        self.committed.extend(&fresh);
        if is_too_fine(&self.committed, &self.stored) {
            self.committed.bridge(&self.stored);
        }
        self.low = self.size;
        self.changed = false;
        self.version.0 = self.version.0.saturating_add(1);
        self.failure = None;
    }

    /// `version` is on the server, which has made it `base`.
    fn settle(&mut self, version: Version, base: Base) {
        if version > self.version {
            return;
        }
        self.uploaded = self.uploaded.max(version);
        self.base = Some(base);
        self.torn = None;
        self.failure = None;
        if self
            .upload
            .as_ref()
            .is_some_and(|upload| upload.version <= version)
        {
            self.upload = None;
        }
        // An older version's arrival says nothing of what was committed after it.
        if version == self.version {
            self.committed = RangeSet::new();
            self.base_valid = self.low.min(base.size);
        }
    }
}

/// Bridging leaves at most a range more than `stored` has, so it pays only beyond twice that.
fn is_too_fine(changes: &RangeSet, stored: &RangeSet) -> bool {
    changes.fragments() > MAX_FRAGMENTS && changes.fragments() > 2 * stored.fragments() + 2
}
