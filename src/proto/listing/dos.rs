//! `dir` as IIS and other Windows servers send it: `01-02-24  03:04PM       <DIR>          name`.

use super::super::time::{Civil, number};
use super::super::{Entry, Facts, Kind, Modify, Precision};
use super::{clock, iso_date, size, three, words};

/// The width of a tag such as `<DIR>` with the padding behind it; a name may itself begin with
/// spaces.
const TAG_WIDTH: usize = 15;

/// `None` when the line is in another dialect.
pub(super) fn parse(line: &[u8]) -> Option<Entry> {
    let words = words(line, 4);
    let (date, time) = (words.first()?.text, words.get(1)?.text);
    // The half of the day may be a word of its own.
    let (clock_word, half, next) = match words.get(2).and_then(|word| half_of_day(word.text)) {
        Some(half) => (time, Some(half), 3),
        None => match time.split_last_chunk::<2>() {
            Some((clock, letters)) if half_of_day(letters).is_some() => {
                (clock, half_of_day(letters), 2)
            }
            _ => (time, None, 2),
        },
    };
    let (year, month, day) = calendar(date)?;
    let (hour, minute, second) = clock(clock_word)?;
    // Some say 15:04PM: then the hour is right as it is.
    let hour = half
        .filter(|_| hour <= 12)
        .map_or(hour, |half| hour % 12 + half);
    let time = Civil {
        year,
        month,
        day,
        hour,
        minute,
        second,
    }
    .to_time()?;
    let mut facts = Facts {
        modify: Some(Modify {
            time,
            precision: Precision::Minute,
        }),
        ..Facts::default()
    };
    let column = words.get(next)?;
    let padding = match column.text {
        b"<DIR>" | b"<JUNCTION>" | b"<SYMLINKD>" => {
            // A link's target is a path of the server's own system and leads nowhere from here;
            // what counts is that one can enter.
            facts.kind = Some(Kind::Directory);
            TAG_WIDTH.saturating_sub(column.text.len())
        }
        b"<SYMLINK>" => {
            facts.kind = Some(Kind::File);
            TAG_WIDTH.saturating_sub(column.text.len())
        }
        digits => {
            facts.kind = Some(Kind::File);
            let plain: Vec<u8> = digits.iter().copied().filter(|&b| b != b',').collect();
            facts.size = Some(size(&plain)?);
            1
        }
    };
    let rest = &line[column.end..];
    let blank = rest
        .iter()
        .take(padding)
        .take_while(|&&b| b == b' ')
        .count();
    let mut name = &rest[blank..];
    if column.text.starts_with(b"<") && column.text != b"<DIR>" {
        name = without_target(name);
    }
    (blank > 0 && !name.is_empty()).then(|| Entry {
        name: name.to_vec(),
        facts,
    })
}

/// `01-02-24`, `01-02-2024` (month first), or `2024-01-02`; slashes as well.
fn calendar(date: &[u8]) -> Option<(i64, i64, i64)> {
    if let Some(iso) = iso_date(date) {
        return Some(iso);
    }
    let [month, day, year] = three(date, b'-').or_else(|| three(date, b'/'))?;
    let year = match (year.len(), number(year)?) {
        (2, short @ 70..) => 1900 + short,
        (2, short) => 2000 + short,
        (4, year) => year,
        _ => return None,
    };
    Some((year, number(month)?, number(day)?))
}

/// The hours that AM or PM adds.
fn half_of_day(letters: &[u8]) -> Option<i64> {
    if letters.eq_ignore_ascii_case(b"AM") {
        return Some(0);
    }
    letters.eq_ignore_ascii_case(b"PM").then_some(12)
}

/// A junction's or symbolic link's name, where `name [C:\target]` tells the target too.
fn without_target(name: &[u8]) -> &[u8] {
    let open = name
        .windows(2)
        .position(|pair| pair == b" [")
        .filter(|&at| at > 0);
    match open {
        Some(open) if name.ends_with(b"]") && name[open..].contains(&b'\\') => &name[..open],
        _ => name,
    }
}
