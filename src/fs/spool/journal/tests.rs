//! The journal's bytes: every event survives them, and no bytes survive being wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::record::{Base, Failure, Method, Upload, Version, Wanted};
use super::*;

fn path() -> impl Strategy<Value = RemotePath> {
    vec("[a-c\u{e9} ]{1,3}", 0..3).prop_map(|names| {
        let path = format!("/{}", names.join("/"));
        RemotePath::parse(path.as_bytes()).expect("a path")
    })
}

/// Before 1970 and with nanoseconds as well.
fn time() -> impl Strategy<Value = SystemTime> {
    (-9_000_000_000i64..9_000_000_000, 0u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let second = match seconds {
            0.. => UNIX_EPOCH + whole,
            _ => UNIX_EPOCH - whole,
        };
        second + Duration::from_nanos(nanoseconds.into())
    })
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..10_000u64, 1 => 0..=i64::MAX as u64]
}

fn range() -> impl Strategy<Value = std::ops::Range<u64>> {
    (size(), size()).prop_map(|(one, other)| one.min(other)..one.max(other))
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![4 => 0..4u64, 1 => any::<u64>()].prop_map(Version)
}

fn base() -> impl Strategy<Value = Base> {
    let mtime = prop::option::of(time());
    (size(), mtime).prop_map(|(size, mtime)| Base { size, mtime })
}

fn upload() -> impl Strategy<Value = Upload> {
    let method = prop_oneof![
        path().prop_map(Method::Temporary),
        Just(Method::Direct),
        size().prop_map(Method::Append),
        Just(Method::InPlace),
    ];
    (version(), method, prop::option::of(size())).prop_map(|(version, method, whole)| Upload {
        version,
        method,
        whole,
    })
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let both = (prop::option::of(any::<u32>()), prop::option::of(time()));
    both.prop_map(|(mode, mtime)| Wanted { mode, mtime })
}

fn change() -> impl Strategy<Value = Change> {
    let set = prop_oneof![Just(Set::Stored), Just(Set::Fresh), Just(Set::Committed)];
    prop_oneof![
        (path(), prop::option::of(base()), time()).prop_map(|(path, base, now)| Change::Created {
            path,
            base,
            now
        }),
        range().prop_map(Change::Wrote),
        range().prop_map(Change::Fetched),
        size().prop_map(Change::Truncated),
        Just(Change::Released),
        Just(Change::Committed),
        version().prop_map(Change::Synced),
        Just(Change::Promised),
        upload().prop_map(Change::Began),
        (version(), base()).prop_map(|(version, base)| Change::Uploaded(version, base)),
        ("\\PC{0,9}", time()).prop_map(|(reason, since)| Change::Failed(Failure { reason, since })),
        path().prop_map(Change::Renamed),
        wanted().prop_map(Change::Wanted),
        Just(Change::Unlinked),
        Just(Change::Discarded),
        (set, vec(range(), 0..4)).prop_map(|(set, ranges)| Change::Holds(set, ranges)),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => ("[ab]?", any::<u64>()).prop_map(|(boot, next_id)| Event::Opened { boot, next_id }),
        1 => (path(), path()).prop_map(|(from, to)| Event::Moving { from, to }),
        1 => (path(), path(), prop::option::of(base()))
            .prop_map(|(from, to, replaces)| Event::Moved { from, to, replaces }),
        1 => (0..3u64, 0..3u64).prop_map(|(old, new)| Event::Split(RecordId(old), RecordId(new))),
        // Few records, so that events meet.
        20 => (0..3u64, change()).prop_map(|(id, change)| Event::Changed(RecordId(id), change)),
    ]
}

/// A journal of these events, and where each one's frame ends.
fn written(events: &[Event]) -> (Vec<u8>, Vec<usize>) {
    let Rewritten {
        mut bytes,
        mut chain,
        ..
    } = rewrite(7, &Table::default());
    let mut ends = vec![bytes.len()];
    for event in events {
        chain = append_frame(&mut bytes, chain, event);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn folded(events: &[Event]) -> Table {
    let mut table = Table::default();
    events.iter().cloned().for_each(|event| table.apply(event));
    table
}

proptest! {
    #[test]
    fn every_event_survives_its_bytes(event in event()) {
        prop_assert_eq!(Event::decode(&event.encode()), Some(event));
    }

    #[test]
    fn any_payload_is_an_event_or_refused(payload in vec(any::<u8>(), 0..80)) {
        if let Some(event) = Event::decode(&payload) {
            // Nothing was overlooked in it.
            prop_assert_eq!(event.encode(), payload);
        }
    }

    /// Whatever the events say, what they add up to makes sense, and rewriting it changes nothing.
    #[test]
    fn a_rewritten_journal_says_the_same(events in vec(event(), 0..40)) {
        let table = folded(&events);
        let (bytes, _) = written(&events);
        let journal = parse(&bytes).expect("sound");
        prop_assert_eq!(&journal.table, &table);
        prop_assert_eq!((journal.id, journal.tail, journal.len), (7, Tail::Nothing, bytes.len() as u64));
        let used: u128 = table.records.values().map(charge).sum();
        prop_assert_eq!(table.used, used);
        for record in table.records.values() {
            prop_assert!(record.base_valid <= record.low && record.low <= record.size);
            prop_assert!(record.stored.end() <= record.size && record.fresh.end() <= record.size);
            prop_assert!(record.uploaded <= record.version);
        }
        let again = rewrite(7, &table);
        let mut reread = parse(&again.bytes).expect("sound");
        prop_assert_eq!(reread.chain, again.chain);
        // Rewriting is an opening on the same start of the machine; an unknown one is never the same.
        if !table.boot.is_empty() {
            prop_assert_eq!(&reread.table, &table);
        }
        reread.table.apply(Event::Changed(RecordId(0), Change::Discarded));
    }

    /// Cut anywhere, it says what its whole frames say.
    #[test]
    fn a_cut_journal_keeps_its_whole_frames(events in vec(event(), 0..12), cut in any::<prop::sample::Index>()) {
        let (bytes, ends) = written(&events);
        let cut = cut.index(bytes.len() + 1);
        let journal = parse(&bytes[..cut]).expect("sound");
        let whole = ends.iter().filter(|&&end| end <= cut).count().saturating_sub(1);
        prop_assert_eq!(&journal.table, &folded(&events[..whole]));
        prop_assert_eq!(journal.tail == Tail::Nothing, cut == 0 || ends.contains(&cut) || cut == HEADER);
    }

    /// A damaged byte is never read as something else, and what was before it stays.
    #[test]
    fn a_damaged_journal_is_believed_up_to_the_damage(
        events in vec(event(), 1..12),
        at in any::<prop::sample::Index>(),
        flip in 1..=255u8,
    ) {
        let (mut bytes, ends) = written(&events);
        let at = HEADER + at.index(bytes.len() - HEADER);
        bytes[at] ^= flip;
        let journal = parse(&bytes).expect("the header is sound");
        let whole = ends.iter().filter(|&&end| end <= at).count().saturating_sub(1);
        prop_assert_eq!(&journal.table, &folded(&events[..whole]));
        prop_assert_ne!(journal.tail, Tail::Nothing);
    }

    #[test]
    fn garbage_is_no_journal(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(journal) = parse(&bytes) {
            prop_assert!(journal.table.records.is_empty());
        }
    }

    /// What an earlier, longer tail left behind is not taken for frames.
    #[test]
    fn an_old_tail_is_not_taken_up_again(
        first in event(), second in event(), old in vec(event(), 1..6),
    ) {
        let (mut bytes, ends) = written(&[vec![first.clone()], old].concat());
        let (new, _) = written(&[first.clone(), second.clone()]);
        if new.len() < bytes.len() {
            bytes[ends[1]..new.len()].copy_from_slice(&new[ends[1]..]);
            let journal = parse(&bytes).expect("sound");
            prop_assume!(journal.len == new.len() as u64 || !ends.contains(&new.len()));
            prop_assert_eq!(&journal.table, &folded(&[first, second]));
        }
    }
}

#[test]
fn a_header_tells_what_it_is() {
    let (bytes, _) = written(&[]);
    assert_eq!(
        parse(b"%PDF-1.7 and so on").expect_err("no journal"),
        JournalError::NotAJournal
    );
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert_eq!(
        parse(&newer).expect_err("newer"),
        JournalError::UnknownVersion(2)
    );
    let mut damaged = bytes;
    damaged[13] ^= 1;
    assert_eq!(
        parse(&damaged).expect_err("damaged"),
        JournalError::NotAJournal
    );
}

#[test]
fn a_sound_frame_of_an_unknown_kind_is_refused() {
    let (mut bytes, _) = written(&[]);
    let end = bytes.len();
    let chain = parse(&bytes).expect("sound").chain;
    let len = 2u32.to_le_bytes();
    bytes.extend_from_slice(&len);
    bytes.extend_from_slice(&chained(chain, len, b"\xff!").to_le_bytes());
    bytes.extend_from_slice(b"\xff!");
    let unknown = JournalError::UnknownEvent(end as u64);
    assert_eq!(parse(&bytes).expect_err("unknown"), unknown);
}

#[test]
fn the_checksum_is_crc32() {
    assert_eq!(crc32(0, b"123456789"), 0xCBF4_3926);
    assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xCBF4_3926);
}

#[test]
fn the_longest_events_fit_a_frame() {
    let long = [b"/", &vec![b'x'; MAX_PATH - 1][..]].concat();
    let long = RemotePath::parse(&long).expect("a path");
    let mut record = Record::new(RecordId(1), long.clone(), None, UNIX_EPOCH);
    record.upload = Some(Upload {
        whole: Some(1),
        version: Version(0),
        method: Method::Temporary(long.clone()),
    });
    record.failure = Some(Failure {
        reason: "x".repeat(1024),
        since: UNIX_EPOCH,
    });
    let ranges = (0..MAX_RANGES as u64)
        .map(|at| at * 2..at * 2 + 1)
        .collect();
    for event in [
        Event::Moved {
            from: long.clone(),
            to: long,
            replaces: record.base,
        },
        Event::Changed(RecordId(1), Change::Restored(Box::new(record))),
        Event::Changed(RecordId(1), Change::Holds(Set::Stored, ranges)),
    ] {
        let (bytes, _) = written(std::slice::from_ref(&event));
        assert_eq!(
            parse(&bytes).expect("sound").tail,
            Tail::Nothing,
            "{event:?}"
        );
    }
}

#[test]
fn a_rename_moves_what_lies_below() {
    let path = |text: &str| RemotePath::parse(text.as_bytes()).expect("a path");
    let mut table = Table::default();
    for (id, at) in ["/a/x", "/a/x/y", "/a/xy", "/b"].iter().enumerate() {
        let path = path(at);
        let change = Change::Created {
            path,
            base: None,
            now: UNIX_EPOCH,
        };
        table.apply(Event::Changed(RecordId(id as u64), change));
    }
    table.apply(Event::Moved {
        from: path("/a/x"),
        to: path("/b"),
        replaces: None,
    });
    let now: Vec<_> = table
        .records
        .values()
        .map(|r| (r.path.to_string(), r.unlinked))
        .collect();
    let is = |path: &str, unlinked| (path.to_owned(), unlinked);
    assert_eq!(
        now,
        [
            is("/b", false),
            is("/b/y", false),
            is("/a/xy", false),
            is("/b", true)
        ]
    );
    // The one without a name does not follow its old name.
    table.apply(Event::Moved {
        from: path("/b"),
        to: path("/c"),
        replaces: None,
    });
    let now: Vec<_> = table.records.values().map(|r| r.path.to_string()).collect();
    assert_eq!(now, ["/c", "/c/y", "/a/xy", "/b"]);
}

#[test]
fn changes_too_fine_to_count_are_coarsened_where_the_bytes_are_here() {
    let path = RemotePath::parse(b"/f").expect("a path");
    let base = Base {
        size: 1 << 20,
        mtime: None,
    };
    let mut record = Record::new(RecordId(1), path, Some(base), UNIX_EPOCH);
    // The last quarter stays on the server: its changes must stay apart.
    record.apply(&Change::Fetched(0..3 << 18));
    let mut most = 0;
    for at in (0..1 << 20).step_by(8) {
        record.apply(&Change::Wrote(at..at + 1));
        most = most.max(record.fresh.fragments());
    }
    assert!(most <= 65_537 + 32_768, "{most}");
    assert!(record.fresh.contains(0..1 << 19));
    let missing = record
        .missing(0..1 << 20)
        .map(|gap| gap.end - gap.start)
        .sum::<u64>();
    assert_eq!(missing, (1 << 18) / 8 * 7);
    assert_eq!(record.fresh.end(), (1 << 20) - 7);
    assert!(!record.fresh.contains((1 << 20) - 8..1 << 20));
}
