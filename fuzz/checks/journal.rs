//! A spool's journal: bytes as they come, and, since their checksums stop nearly all of those,
//! events as they come in sound frames (each behind its length, one byte). What is read makes
//! sense, and a cut tail takes away whole records or nothing.

use ftpsfs::fs::spool::{JournalError, Record, parse_journal};

/// The CRC-32 of Ethernet and zlib, bit by bit.
fn crc32(parts: &[&[u8]]) -> u32 {
    let mut crc = !0;
    for &byte in parts.iter().copied().flatten() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// A journal, and where it would end without its last frame.
fn journal(mut events: &[u8]) -> (Vec<u8>, usize) {
    let mut bytes = [b"ftpsfsJ\n", &1u32.to_le_bytes()[..], &7u64.to_le_bytes()].concat();
    let mut chain = crc32(&[&bytes]);
    bytes.extend_from_slice(&chain.to_le_bytes());
    let mut before = bytes.len();
    while let Some((&len, rest)) = events.split_first() {
        let (payload, rest) = rest.split_at(usize::from(len).min(rest.len()));
        if payload.is_empty() {
            break;
        }
        before = bytes.len();
        let len = (payload.len() as u32).to_le_bytes();
        chain = crc32(&[&chain.to_le_bytes(), &len, payload]);
        bytes.extend_from_slice(&len);
        bytes.extend_from_slice(&chain.to_le_bytes());
        bytes.extend_from_slice(payload);
        events = rest;
    }
    (bytes, before)
}

fn make_sense(record: &Record) {
    assert!(record.base_valid <= record.size);
    for set in [&record.stored, &record.fresh, &record.committed] {
        assert!(set.end() <= record.size);
    }
    assert!(record.uploaded <= record.version && record.synced <= record.version);
    assert!(
        record
            .missing(0..u64::MAX)
            .all(|gap| gap.end <= record.base_valid)
    );
}

pub fn check(data: &[u8]) {
    if let Ok(records) = parse_journal(data) {
        records.iter().for_each(make_sense);
    }
    let (bytes, before) = journal(data);
    match parse_journal(&bytes) {
        Ok(records) => {
            records.iter().for_each(make_sense);
            let earlier = parse_journal(&bytes[..before]);
            assert_eq!(earlier, parse_journal(&bytes[..bytes.len() - 1]));
            assert!(earlier.is_ok());
        }
        Err(JournalError::UnknownEvent(at)) => assert!(at < bytes.len() as u64),
        Err(error) => panic!("{error}"),
    }
}
