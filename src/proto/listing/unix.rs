//! `ls -l` as Unix servers, and others in their manner, send it:
//! `-rw-r--r--   1 owner    group        1234 Jan  2 03:04 name`.
//!
//! Columns in front of the date vary (no link count, no group, names with spaces), so the date is
//! looked for first, and all else is found from there.

use std::time::{Duration, SystemTime};

use super::super::time::{Civil, number};
use super::super::{Entry, Facts, Kind, Modify, Precision};
use super::{Word, clock, iso_date, size, words};

/// No date comes later than after so many words: the permissions, a link count, and an owner and
/// a group of several words each.
const MOST_WORDS: usize = 24;

/// `None` when the line is in another dialect.
pub(super) fn parse(line: &[u8], now: SystemTime) -> Option<Entry> {
    let words = words(line, MOST_WORDS);
    let (kind, mode) = permissions(words.first()?.text)?;
    // What stands before a date is a size or, for devices, a minor number.
    let (at, date) = (2..words.len()).find_map(|at| {
        let numeric = |w: &Word| w.text.last().is_some_and(u8::is_ascii_digit);
        let date = find_date(&words[at..], now)?;
        numeric(&words[at - 1]).then_some((at, date))
    })?;
    let device = words[0].text.starts_with(b"b") || words[0].text.starts_with(b"c");
    let size = if device {
        None
    } else {
        Some(size(words[at - 1].text)?)
    };
    // Exactly one space follows the date: further ones belong to the name.
    let name = line[date.end..]
        .strip_prefix(b" ")
        .filter(|name| !name.is_empty())?;
    let (name, link_target) = match kind {
        Kind::Symlink => split_link(name, size),
        _ => (name, None),
    };
    let (uid, gid) = match &words[1..at - 1] {
        [_, owner, group] if !device => (id(owner), id(group)),
        _ => (None, None),
    };
    let modify = Some(date.modify);
    let link_target = link_target.map(Into::into);
    let facts = Facts {
        kind: Some(kind),
        size,
        modify,
        mode,
        uid,
        gid,
        link_target,
        ..Facts::default()
    };
    Some(Entry {
        name: name.to_vec(),
        facts,
    })
}

/// `drwxr-xr-x`, perhaps with a mark for an access control list (`+`), a security context (`.`)
/// or extended attributes (`@`).
fn permissions(word: &[u8]) -> Option<(Kind, Option<u16>)> {
    let (&kind, rest) = word.split_first()?;
    let kind = match kind {
        b'-' => Kind::File,
        b'd' => Kind::Directory,
        b'l' => Kind::Symlink,
        b'b' | b'c' | b'p' | b's' | b'D' => Kind::Other,
        _ => return None,
    };
    let (letters, mark) = rest.split_at_checked(9)?;
    if !matches!(mark, b"" | b"+" | b"." | b"@") {
        return None;
    }
    if letters.contains(&b'?') {
        return letters.iter().all(|&b| b == b'?').then_some((kind, None));
    }
    let mut mode = 0;
    for (index, triple) in letters.chunks_exact(3).enumerate() {
        let class = 2 - index;
        let bit = |on: u16| on << (3 * class);
        // Set-user-id, set-group-id, sticky.
        let special = 0o1000 << class;
        mode |= match triple[0] {
            b'r' => bit(4),
            b'-' => 0,
            _ => return None,
        };
        mode |= match triple[1] {
            b'w' => bit(2),
            b'-' => 0,
            _ => return None,
        };
        mode |= match triple[2] {
            b'x' => bit(1),
            b's' if class > 0 => bit(1) | special,
            b't' if class == 0 => bit(1) | special,
            b'S' | b'L' | b'l' if class > 0 => special,
            b'T' if class == 0 => special,
            b'-' => 0,
            _ => return None,
        };
    }
    Some((kind, Some(mode)))
}

/// A date, and where in the line it ends.
struct Date {
    modify: Modify,
    end: usize,
}

/// Whether a date stands at the beginning of these words.
fn find_date(words: &[Word], now: SystemTime) -> Option<Date> {
    if let [date, time, ..] = words
        && let (Some((year, month, day)), Some((hour, minute, second))) =
            (iso_date(date.text), clock(time.text))
    {
        let time_of = Civil {
            year,
            month,
            day,
            hour,
            minute,
            second,
        }
        .to_time()?;
        let modify = Modify {
            time: time_of,
            precision: Precision::Minute,
        };
        return Some(Date {
            modify,
            end: time.end,
        });
    }
    let [first, second, last, ..] = words else {
        return None;
    };
    // "Jan 2", or "2 Jan" in the manner of other languages.
    let (month, day) = match month(first.text) {
        Some(month) => (month, day_of_month(second.text)?),
        None => (month(second.text)?, day_of_month(first.text)?),
    };
    let (time, precision) = match clock(last.text) {
        Some((hour, minute, second)) => {
            let on = |year| Civil {
                year,
                month,
                day,
                hour,
                minute,
                second,
            };
            (latest(on, now)?, Precision::Minute)
        }
        None => {
            let year = number(last.text).filter(|_| last.text.len() == 4)?;
            let midnight = Civil {
                year,
                month,
                day,
                hour: 0,
                minute: 0,
                second: 0,
            };
            (midnight.to_time()?, Precision::Day)
        }
    };
    Some(Date {
        modify: Modify { time, precision },
        end: last.end,
    })
}

/// The latest date without a year that is not more than a day after `now`: the server's zone may
/// be ahead of UTC. Eight years back there was a 29th of February in any case.
fn latest(on: impl Fn(i64) -> Civil, now: SystemTime) -> Option<SystemTime> {
    let this_year = Civil::from_time(now).year;
    let limit = now.checked_add(Duration::from_secs(24 * 60 * 60))?;
    let years = (this_year.saturating_sub(8)..=this_year.saturating_add(1)).rev();
    years
        .filter_map(|year| on(year).to_time())
        .find(|&time| time <= limit)
}

fn month(word: &[u8]) -> Option<i64> {
    const MONTHS: [&[u8; 3]; 12] = [
        b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov",
        b"dec",
    ];
    let index = MONTHS
        .iter()
        .position(|month| word.eq_ignore_ascii_case(&month[..]))?;
    i64::try_from(index + 1).ok()
}

fn day_of_month(word: &[u8]) -> Option<i64> {
    number(word).filter(|day| word.len() <= 2 && (1..=31).contains(day))
}

/// `name -> target`. The size of a link is the length of its target, which tells an arrow within
/// a name from the one that counts; else the first counts.
fn split_link(name: &[u8], size: Option<u64>) -> (&[u8], Option<&[u8]>) {
    const ARROW: &[u8] = b" -> ";
    let by_size = || {
        let target = usize::try_from(size?).ok().filter(|&length| length > 0)?;
        let at = name
            .len()
            .checked_sub(target + ARROW.len())
            .filter(|&at| at > 0)?;
        name[at..].starts_with(ARROW).then_some(at)
    };
    let first = || {
        name.windows(ARROW.len())
            .position(|part| part == ARROW)
            .filter(|&at| at > 0)
    };
    match by_size().or_else(first) {
        Some(at) => {
            let target = &name[at + ARROW.len()..];
            (
                &name[..at],
                Some(target).filter(|target| !target.is_empty()),
            )
        }
        None => (name, None),
    }
}

fn id(word: &Word) -> Option<u32> {
    u32::try_from(size(word.text)?).ok()
}
