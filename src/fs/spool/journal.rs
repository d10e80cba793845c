//! The journal as bytes: a header, then one frame for each [`Event`], and what it all adds up to,
//! the [`Table`]. Pure functions over bytes of any kind; knows neither files nor locks.
//!
//! Header: magic (8 bytes), format version (u32), the spool's id (u64), CRC-32 of these.
//! Frame: payload length (u32), CRC-32 (u32), payload. The CRC covers the CRC before it, the length
//! and the payload: so what is left of an older, longer tail never passes for a frame.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::RangeSet;
use super::event::{Change, Event, MAX_PATH, MAX_RANGES, Set};
use super::record::{Base, Record, RecordId};
use crate::proto::RemotePath;

const MAGIC: [u8; 8] = *b"ftpsfsJ\n";
const FORMAT: u32 = 1;
const HEADER: usize = 24;
const FRAME: usize = 8;
/// The longest payload, bytes: two paths, or the ranges of a [`Change::Holds`], fit.
const MAX_PAYLOAD: usize = 64 * 1024;
/// The longest frame, bytes.
pub(super) const MAX_FRAME: usize = FRAME + MAX_PAYLOAD;
/// What each record and each range in the spool is charged beside its bytes: a disk block.
pub(super) const BLOCK: u64 = 4096;

/// Why bytes are no journal of ours. Such a file is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("it is not a spool's journal")]
    NotAJournal,
    #[error("its format is version {0}; this program knows version {FORMAT}")]
    UnknownVersion(u32),
    #[error("a newer program wrote what is at byte {0}")]
    UnknownEvent(u64),
}

/// A journal read.
#[derive(Debug)]
pub(super) struct Journal {
    /// Made up when the spool was.
    pub(super) id: u64,
    pub(super) table: Table,
    /// Where the sound part ends, and the next frame goes.
    pub(super) len: u64,
    pub(super) chain: u32,
    pub(super) tail: Tail,
}

/// What follows the sound part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tail {
    Nothing,
    /// No more than a frame that was not written to its end.
    Torn,
    /// More than that: the disk lost something.
    Damaged,
}

/// All records, and what was said beside them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Table {
    pub(super) records: BTreeMap<RecordId, Record>,
    /// Renames on the server that began, and of which no end was recorded.
    pub(super) moving: Vec<(RemotePath, RemotePath)>,
    pub(super) boot: String,
    pub(super) next_id: u64,
    /// What the records are charged, bytes.
    pub(super) used: u128,
}

/// Reads a journal. A torn tail is not part of it; a format or an event from the future is an
/// error.
pub(super) fn parse(bytes: &[u8]) -> Result<Journal, JournalError> {
    let mut journal = Journal {
        id: 0,
        table: Table::default(),
        len: 0,
        chain: 0,
        tail: Tail::Nothing,
    };
    let Some((head, mut rest)) = bytes.split_at_checked(HEADER) else {
        // It was cut while it was made: nothing can have been in it.
        let known = MAGIC.len().min(bytes.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(JournalError::NotAJournal);
        }
        if !bytes.is_empty() {
            journal.tail = Tail::Torn;
        }
        return Ok(journal);
    };
    if head[..8] != MAGIC {
        return Err(JournalError::NotAJournal);
    }
    let format = u32_at(head, 8);
    if format != FORMAT {
        return Err(JournalError::UnknownVersion(format));
    }
    if u32_at(head, 20) != crc32(0, &head[..20]) {
        return Err(JournalError::NotAJournal);
    }
    journal.id = u64::from(u32_at(head, 12)) | u64::from(u32_at(head, 16)) << 32;
    journal.chain = u32_at(head, 20);
    journal.len = HEADER as u64;
    while let Some((payload, chain)) = first_frame(rest, journal.chain) {
        let unknown = JournalError::UnknownEvent(journal.len);
        journal.table.apply(Event::decode(payload).ok_or(unknown)?);
        journal.len += (FRAME + payload.len()) as u64;
        journal.chain = chain;
        rest = &rest[FRAME + payload.len()..];
    }
    journal.tail = match rest.len() {
        0 => Tail::Nothing,
        1..=MAX_FRAME => Tail::Torn,
        _ => Tail::Damaged,
    };
    Ok(journal)
}

/// A journal that says no more than what a table holds.
pub(super) struct Rewritten {
    pub(super) id: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) chain: u32,
}

/// Writes a journal with as few frames as `table` allows.
pub(super) fn rewrite(id: u64, table: &Table) -> Rewritten {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    let mut chain = crc32(0, &bytes);
    bytes.extend_from_slice(&chain.to_le_bytes());
    let mut tell = |event: Event| chain = append_frame(&mut bytes, chain, &event);
    tell(Event::Opened {
        boot: table.boot.clone(),
        next_id: table.next_id,
    });
    for (from, to) in table.moving.iter().cloned() {
        tell(Event::Moving { from, to });
    }
    for record in table.records.values() {
        let mut tell = |change| tell(Event::Changed(record.id, change));
        tell(Change::Restored(Box::new(Record {
            stored: RangeSet::new(),
            fresh: RangeSet::new(),
            committed: RangeSet::new(),
            ..record.clone()
        })));
        for (which, set) in [
            (Set::Stored, &record.stored),
            (Set::Fresh, &record.fresh),
            (Set::Committed, &record.committed),
        ] {
            let ranges: Vec<_> = set.iter().collect();
            for part in ranges.chunks(MAX_RANGES) {
                tell(Change::Holds(which, part.to_vec()));
            }
        }
    }
    Rewritten { id, bytes, chain }
}

/// Appends `event`'s frame to `out`; gives the CRC that the next one continues.
pub(super) fn append_frame(out: &mut Vec<u8>, chain: u32, event: &Event) -> u32 {
    let payload = event.encode();
    debug_assert!((1..=MAX_PAYLOAD).contains(&payload.len()));
    // At most MAX_PAYLOAD.
    let len = (payload.len() as u32).to_le_bytes();
    let chain = chained(chain, len, &payload);
    out.extend_from_slice(&len);
    out.extend_from_slice(&chain.to_le_bytes());
    out.extend_from_slice(&payload);
    chain
}

impl Table {
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Opened { boot, next_id } => {
                self.each(Record::resume);
                // An unknown start is nobody's: rather one doubt too many.
                if boot != self.boot || boot.is_empty() {
                    self.each(Record::reboot);
                }
                self.boot = boot;
                self.next_id = self.next_id.max(next_id);
            }
            Event::Moving { from, to } => {
                self.moving.retain(|(moving, _)| *moving != from);
                self.moving.push((from, to));
            }
            Event::Moved { from, to, replaces } => {
                self.moving.retain(|(moving, _)| *moving != from);
                if from != to {
                    self.each(|record| record.follow(&from, &to, replaces));
                }
            }
            Event::Split(old, new) => {
                if let Some(old) = self.records.get(&old).filter(|_| old != new) {
                    self.insert(old.split(new));
                }
            }
            Event::Changed(id, Change::Created { path, base, now }) => {
                self.insert(Record::new(id, path, base, now));
            }
            Event::Changed(_, Change::Restored(record)) => self.insert(*record),
            Event::Changed(id, Change::Discarded) => {
                if let Some(record) = self.records.remove(&id) {
                    self.used -= charge(&record);
                }
            }
            Event::Changed(id, change) => {
                if let Some(record) = self.records.get_mut(&id) {
                    self.used -= charge(record);
                    record.apply(&change);
                    self.used += charge(record);
                }
            }
        }
    }

    fn insert(&mut self, record: Record) {
        self.next_id = self.next_id.max(record.id.0.saturating_add(1));
        self.used += charge(&record);
        if let Some(old) = self.records.insert(record.id, record) {
            self.used -= charge(&old);
        }
    }

    fn each(&mut self, mut change: impl FnMut(&mut Record)) {
        for record in self.records.values_mut() {
            self.used -= charge(record);
            change(record);
            self.used += charge(record);
        }
    }
}

/// What a record takes of the local disk, at most: its bytes, and a block for what each range
/// wastes at its ends. So the number of ranges is bounded as well.
fn charge(record: &Record) -> u128 {
    let blocks = 1 + record.stored.fragments() as u128;
    u128::from(record.stored.covered()) + u128::from(BLOCK) * blocks
}

impl Record {
    fn follow(&mut self, from: &RemotePath, to: &RemotePath, replaces: Option<Base>) {
        if self.unlinked {
            return;
        }
        self.unlinked = self.path == *to;
        if let Some(base) = replaces.filter(|_| self.path == *from) {
            self.apply(&Change::Uploaded(self.uploaded, base));
        }
        if let Some(path) = rebased(&self.path, from, to) {
            self.path = path;
        }
    }
}

/// Where `path` is once `from` has become `to`; `None` if that does not touch it, or if the
/// journal could not tell the new path.
pub(super) fn rebased(path: &RemotePath, from: &RemotePath, to: &RemotePath) -> Option<RemotePath> {
    if from.is_root() || !path.starts_with(from) {
        return None;
    }
    let below = &path.as_bytes()[from.as_bytes().len()..];
    let moved = RemotePath::parse(&[to.as_bytes(), below].concat()).ok()?;
    (moved.as_bytes().len() <= MAX_PATH).then_some(moved)
}

/// The first frame's payload and CRC, if it is whole.
fn first_frame(bytes: &[u8], chain: u32) -> Option<(&[u8], u32)> {
    let (head, rest) = bytes.split_at_checked(FRAME)?;
    let len = u32_at(head, 0) as usize;
    if !(1..=MAX_PAYLOAD).contains(&len) {
        return None;
    }
    let payload = rest.get(..len)?;
    let crc = chained(chain, [head[0], head[1], head[2], head[3]], payload);
    (crc == u32_at(head, 4)).then_some((payload, crc))
}

fn chained(chain: u32, len: [u8; 4], payload: &[u8]) -> u32 {
    let crc = crc32(0, &chain.to_le_bytes());
    crc32(crc32(crc, &len), payload)
}

/// `bytes` must reach that far.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The CRC-32 of Ethernet and zlib, going on from that of what came before (0 at first).
fn crc32(before: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 {
                    crc >> 1 ^ 0xEDB8_8320
                } else {
                    crc >> 1
                };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    let step = |crc: u32, &byte: &u8| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)];
    !bytes.iter().fold(!before, step)
}
