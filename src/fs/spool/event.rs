//! [`Event`]: one line of the journal's story, and its bytes.
//!
//! Encoding: a tag, then the fields; integers little-endian, byte strings behind their length
//! (u32), times as seconds (i64) and nanoseconds (u32) since 1970. Decoding takes any bytes
//! whatsoever, and only values that [`Record`] can bear come out.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::record::{Base, Failure, Method, Record, RecordId, Upload, Version, Wanted};
use crate::proto::RemotePath;

/// The largest file: what an off_t can address.
pub(super) const MAX_SIZE: u64 = i64::MAX as u64;
/// The longest path and the longest reason that fit an event, bytes. Two paths do as well.
pub(super) const MAX_PATH: usize = 16 * 1024;
pub(super) const MAX_REASON: usize = 1024;
/// How many ranges one [`Change::Holds`] carries at most.
pub(super) const MAX_RANGES: usize = 2048;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// The spool was opened, or its journal rewritten, on the machine's start `boot`; ids below
    /// `next_id` have been used.
    Opened {
        boot: String,
        next_id: u64,
    },
    /// A file or folder is about to be renamed on the server.
    Moving {
        from: RemotePath,
        to: RemotePath,
    },
    /// It was, and with it every record at or below `from`: what was at `to` has no name any more,
    /// and a record at `from` is to replace what the server has there. Where both are the same, it
    /// was not.
    Moved {
        from: RemotePath,
        to: RemotePath,
        replaces: Option<Base>,
    },
    Changed(RecordId, Change),
    /// The content of a record is thrown away, and another, see [`Record::split`], takes its place.
    Split(RecordId, RecordId),
}

/// What happened to one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Created {
        path: RemotePath,
        base: Option<Base>,
        now: SystemTime,
    },
    Wrote(Range<u64>),
    /// What was missing of this range was fetched.
    Fetched(Range<u64>),
    Truncated(u64),
    /// What the server has as well was given up.
    Released,
    Committed,
    Synced(Version),
    /// Committed, and synced before.
    Promised,
    Began(Upload),
    Uploaded(Version, Base),
    Failed(Failure),
    Renamed(RemotePath),
    Wanted(Wanted),
    Unlinked,
    Discarded,
    /// The record as it was when the journal was rewritten, but for its sets ...
    Restored(Box<Record>),
    /// ... which follow.
    Holds(Set, Vec<Range<u64>>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Set {
    Stored,
    Fresh,
    Committed,
}

impl Event {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(64));
        match self {
            Self::Opened { boot, next_id } => {
                out.u8(1);
                out.bytes(boot.as_bytes());
                out.u64(*next_id);
            }
            Self::Moved { from, to, replaces } => {
                out.u8(2);
                out.path(from);
                out.path(to);
                out.option(replaces, Writer::base);
            }
            Self::Changed(id, change) => {
                out.u8(3);
                out.u64(id.0);
                change.encode(&mut out);
            }
            Self::Moving { from, to } => {
                out.u8(4);
                out.path(from);
                out.path(to);
            }
            Self::Split(old, new) => {
                out.u8(5);
                out.u64(old.0);
                out.u64(new.0);
            }
        }
        out.0
    }

    /// `None` unless `bytes` are exactly one event.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader(bytes);
        let event = match input.u8()? {
            1 => Self::Opened {
                boot: input.text()?,
                next_id: input.u64()?,
            },
            2 => Self::Moved {
                from: input.path()?,
                to: input.path()?,
                replaces: input.option(Reader::base)?,
            },
            3 => {
                let id = RecordId(input.u64()?);
                Self::Changed(id, Change::decode(&mut input, id)?)
            }
            4 => Self::Moving {
                from: input.path()?,
                to: input.path()?,
            },
            5 => Self::Split(RecordId(input.u64()?), RecordId(input.u64()?)),
            _ => return None,
        };
        input.0.is_empty().then_some(event)
    }
}

impl Change {
    fn encode(&self, out: &mut Writer) {
        match self {
            Self::Created { path, base, now } => {
                out.u8(1);
                out.path(path);
                out.option(base, Writer::base);
                out.time(*now);
            }
            Self::Wrote(range) => {
                out.u8(2);
                out.range(range);
            }
            Self::Fetched(range) => {
                out.u8(3);
                out.range(range);
            }
            Self::Truncated(len) => {
                out.u8(4);
                out.u64(*len);
            }
            Self::Released => out.u8(5),
            Self::Committed => out.u8(6),
            Self::Synced(version) => {
                out.u8(7);
                out.u64(version.0);
            }
            Self::Began(upload) => {
                out.u8(8);
                out.upload(upload);
            }
            Self::Uploaded(version, base) => {
                out.u8(9);
                out.u64(version.0);
                out.base(base);
            }
            Self::Failed(failure) => {
                out.u8(10);
                out.failure(failure);
            }
            Self::Renamed(path) => {
                out.u8(11);
                out.path(path);
            }
            Self::Wanted(wanted) => {
                out.u8(12);
                out.wanted(wanted);
            }
            Self::Unlinked => out.u8(13),
            Self::Discarded => out.u8(14),
            Self::Restored(record) => {
                out.u8(15);
                out.record(record);
            }
            Self::Holds(set, ranges) => {
                out.u8(16);
                out.u8(match set {
                    Set::Stored => 1,
                    Set::Fresh => 2,
                    Set::Committed => 3,
                });
                ranges.iter().for_each(|range| out.range(range));
            }
            Self::Promised => out.u8(17),
        }
    }

    fn decode(input: &mut Reader, id: RecordId) -> Option<Self> {
        Some(match input.u8()? {
            1 => Self::Created {
                path: input.path()?,
                base: input.option(Reader::base)?,
                now: input.time()?,
            },
            2 => Self::Wrote(input.range()?),
            3 => Self::Fetched(input.range()?),
            4 => Self::Truncated(input.size()?),
            5 => Self::Released,
            6 => Self::Committed,
            7 => Self::Synced(Version(input.u64()?)),
            8 => Self::Began(input.upload()?),
            9 => Self::Uploaded(Version(input.u64()?), input.base()?),
            10 => Self::Failed(input.failure()?),
            11 => Self::Renamed(input.path()?),
            12 => Self::Wanted(input.wanted()?),
            13 => Self::Unlinked,
            14 => Self::Discarded,
            15 => Self::Restored(Box::new(input.record(id)?)),
            16 => {
                let set = match input.u8()? {
                    1 => Set::Stored,
                    2 => Set::Fresh,
                    3 => Set::Committed,
                    _ => return None,
                };
                let mut ranges = Vec::new();
                while !input.0.is_empty() {
                    ranges.push(input.range()?);
                }
                Self::Holds(set, ranges)
            }
            17 => Self::Promised,
            _ => return None,
        })
    }
}

/// `reason`, cut to what an event carries.
pub(super) fn clip_reason(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    reason
}

struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        // What goes in is bounded by MAX_PATH, so its length fits.
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }

    fn path(&mut self, path: &RemotePath) {
        self.bytes(path.as_bytes());
    }

    fn range(&mut self, range: &Range<u64>) {
        self.u64(range.start);
        self.u64(range.end);
    }

    fn time(&mut self, time: SystemTime) {
        let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
            // Nanoseconds always count forward.
            Err(error) => {
                let before = error.duration();
                let up = u32::from(before.subsec_nanos() > 0);
                let seconds = -(before.as_secs() as i64) - i64::from(up);
                (seconds, (1_000_000_000 - before.subsec_nanos()) * up)
            }
        };
        self.u64(seconds as u64);
        self.u32(nanoseconds);
    }

    fn option<T>(&mut self, value: &Option<T>, write: impl FnOnce(&mut Self, &T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn base(&mut self, base: &Base) {
        self.u64(base.size);
        self.option(&base.mtime, |out, &time| out.time(time));
    }

    fn upload(&mut self, upload: &Upload) {
        self.u64(upload.version.0);
        self.method(&upload.method);
        self.option(&upload.whole, |out, &size| out.u64(size));
    }

    fn method(&mut self, method: &Method) {
        match method {
            Method::Temporary(path) => {
                self.u8(1);
                self.path(path);
            }
            Method::Direct => self.u8(2),
            Method::Append(offset) => {
                self.u8(3);
                self.u64(*offset);
            }
            Method::InPlace => self.u8(4),
        }
    }

    fn failure(&mut self, failure: &Failure) {
        self.bytes(failure.reason.as_bytes());
        self.time(failure.since);
    }

    fn wanted(&mut self, wanted: &Wanted) {
        self.option(&wanted.mode, |out, &mode| out.u32(mode));
        self.option(&wanted.mtime, |out, &time| out.time(time));
    }

    /// All but the id, which goes before, and the sets, which follow.
    fn record(&mut self, record: &Record) {
        self.path(&record.path);
        self.option(&record.base, Self::base);
        for number in [
            record.base_valid,
            record.size,
            record.low,
            record.version.0,
            record.uploaded.0,
            record.synced.0,
        ] {
            self.u64(number);
        }
        self.wanted(&record.wanted);
        self.option(&record.upload, Self::upload);
        self.option(&record.torn, Self::method);
        self.option(&record.failure, Self::failure);
        for flag in [
            record.changed,
            record.sequential,
            record.unlinked,
            record.doubtful,
            record.unsynced,
        ] {
            self.u8(u8::from(flag));
        }
        self.time(record.created);
        self.option(&record.keeps, |out, kept| out.u64(kept.0));
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn size(&mut self) -> Option<u64> {
        self.u64().filter(|&size| size <= MAX_SIZE)
    }

    fn bytes(&mut self, most: usize) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        if len > most {
            return None;
        }
        self.take(len)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes(MAX_REASON)?.to_vec()).ok()
    }

    fn path(&mut self) -> Option<RemotePath> {
        RemotePath::parse(self.bytes(MAX_PATH)?).ok()
    }

    fn range(&mut self) -> Option<Range<u64>> {
        let (start, end) = (self.u64()?, self.size()?);
        (start <= end).then_some(start..end)
    }

    fn time(&mut self) -> Option<SystemTime> {
        let (seconds, nanoseconds) = (self.u64()? as i64, self.u32()?);
        if nanoseconds >= 1_000_000_000 {
            return None;
        }
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let second = match seconds {
            0.. => UNIX_EPOCH.checked_add(whole)?,
            _ => UNIX_EPOCH.checked_sub(whole)?,
        };
        second.checked_add(Duration::from_nanos(nanoseconds.into()))
    }

    /// The outer `None` is malformed, the inner one a value.
    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? {
            Some(Some(read(self)?))
        } else {
            Some(None)
        }
    }

    fn base(&mut self) -> Option<Base> {
        Some(Base {
            size: self.size()?,
            mtime: self.option(Self::time)?,
        })
    }

    fn upload(&mut self) -> Option<Upload> {
        Some(Upload {
            version: Version(self.u64()?),
            method: self.method()?,
            whole: self.option(Self::size)?,
        })
    }

    fn method(&mut self) -> Option<Method> {
        Some(match self.u8()? {
            1 => Method::Temporary(self.path()?),
            2 => Method::Direct,
            3 => Method::Append(self.size()?),
            4 => Method::InPlace,
            _ => return None,
        })
    }

    fn failure(&mut self) -> Option<Failure> {
        Some(Failure {
            reason: self.text()?,
            since: self.time()?,
        })
    }

    fn wanted(&mut self) -> Option<Wanted> {
        Some(Wanted {
            mode: self.option(Self::u32)?,
            mtime: self.option(Self::time)?,
        })
    }

    fn record(&mut self, id: RecordId) -> Option<Record> {
        let path = self.path()?;
        let base = self.option(Self::base)?;
        let mut record = Record::new(id, path, base, UNIX_EPOCH);
        record.base_valid = self.size()?;
        record.size = self.size()?;
        record.low = self.size()?;
        record.version = Version(self.u64()?);
        record.uploaded = Version(self.u64()?);
        record.synced = Version(self.u64()?);
        record.wanted = self.wanted()?;
        record.upload = self.option(Self::upload)?;
        record.torn = self.option(Self::method)?;
        record.failure = self.option(Self::failure)?;
        record.changed = self.flag()?;
        record.sequential = self.flag()?;
        record.unlinked = self.flag()?;
        record.doubtful = self.flag()?;
        record.unsynced = self.flag()?;
        record.created = self.time()?;
        record.keeps = self.option(|input| Some(RecordId(input.u64()?)))?;
        // Zeros begin where the server's bytes end, and no version is ahead of the last commit.
        let sound = record.base_valid <= record.low
            && record.low <= record.size
            && record.uploaded.max(record.synced) <= record.version;
        sound.then_some(record)
    }
}
