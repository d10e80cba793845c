//! Directory listings: MLSx lines (RFC 3659 7.2) and LIST's dialects (Unix `ls -l`, DOS/IIS,
//! EPLF). A line at a time: whether a listing is whole, and whether a name in it is acceptable,
//! is not known here.

mod dos;
mod eplf;
mod mlsx;
mod unix;

#[cfg(test)]
mod tests;

use std::time::SystemTime;

use super::Entry;

pub use mlsx::parse_mlsx_line;

/// Why a line is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// A line that listings carry beside entries: `total 12`, an empty line.
    #[error("not an entry")]
    NotAnEntry,
    #[error("a listing line in no known dialect")]
    Unknown,
}

/// Splits a listing at CRLF only (a name may hold a lone LF or CR); where the listing has no
/// CRLF at all, at LF. No trailing empty line.
pub fn split_lines(listing: &[u8]) -> impl Iterator<Item = &[u8]> {
    let next_crlf = |bytes: &[u8]| bytes.windows(2).position(|pair| pair == b"\r\n");
    let crlf = next_crlf(listing).is_some();
    let mut rest = listing;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (end, width) = if crlf {
            (next_crlf(rest), 2)
        } else {
            (rest.iter().position(|&b| b == b'\n'), 1)
        };
        let line;
        (line, rest) = match end {
            Some(end) => (&rest[..end], &rest[end + width..]),
            None => (rest, &rest[rest.len()..]),
        };
        Some(line)
    })
}

/// A LIST or STAT line in any dialect. `now` completes dates without a year: the date is the
/// latest that is not more than a day after `now`.
pub fn parse_list_line(line: &[u8], now: SystemTime) -> Result<Entry, ListError> {
    // Servers indent the lines of a STAT reply (RFC 959 4.2) as they like.
    let line = line.trim_ascii_start();
    match line.first() {
        None => Err(ListError::NotAnEntry),
        Some(b'+') => eplf::parse(line).ok_or(ListError::Unknown),
        Some(b'0'..=b'9') => dos::parse(line).ok_or(ListError::Unknown),
        Some(_) if is_total(line) => Err(ListError::NotAnEntry),
        Some(_) => unix::parse(line, now).ok_or(ListError::Unknown),
    }
}

/// `total 12`, in any language.
fn is_total(line: &[u8]) -> bool {
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let (word, number, end) = (words.next(), words.next(), words.next());
    let numeric = |n: &[u8]| {
        n.iter()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b','))
    };
    // Every entry has more words than that.
    word.is_some() && number.is_some_and(numeric) && end.is_none()
}

/// A word of a line, and where it lies.
#[derive(Clone, Copy)]
struct Word<'a> {
    text: &'a [u8],
    end: usize,
}

/// The words of a line, at most `most` of them, spaces and tabs between them.
fn words(line: &[u8], most: usize) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut at = 0;
    while words.len() < most {
        let blank = |b: &u8| matches!(b, b' ' | b'\t');
        let Some(skip) = line[at..].iter().position(|b| !blank(b)) else {
            break;
        };
        let start = at + skip;
        at = line[start..]
            .iter()
            .position(blank)
            .map_or(line.len(), |length| start + length);
        words.push(Word {
            text: &line[start..at],
            end: at,
        });
    }
    words
}

/// `HH:MM` or `HH:MM:SS`.
fn clock(word: &[u8]) -> Option<(i64, i64, i64)> {
    use super::time::number;
    let mut parts = word.split(|&b| b == b':');
    let (hour, minute) = (number(parts.next()?)?, number(parts.next()?)?);
    let second = parts.next().map_or(Some(0), number)?;
    parts.next().is_none().then_some((hour, minute, second))
}

/// `YYYY-MM-DD`.
fn iso_date(word: &[u8]) -> Option<(i64, i64, i64)> {
    use super::time::number;
    let [year, month, day] = three(word, b'-')?;
    (year.len() == 4).then_some((number(year)?, number(month)?, number(day)?))
}

/// A word in three parts.
fn three(word: &[u8], separator: u8) -> Option<[&[u8]; 3]> {
    let mut parts = word.split(|&b| b == separator);
    let all = [parts.next()?, parts.next()?, parts.next()?];
    parts.next().is_none().then_some(all)
}

/// Decimal digits as a size in bytes.
fn size(word: &[u8]) -> Option<u64> {
    if !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(word).ok()?.parse().ok()
}
