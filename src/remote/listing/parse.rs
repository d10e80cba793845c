//! What a server's lines say: entries, and of them a listing.

use std::collections::HashSet;

use crate::proto::{Entry, Kind, ListError, Name, split_lines};

use super::super::{Attributes, FileKind, Listing};
use super::{NAME_MAX, Raw};

/// Entries of one listing: 64 MiB of the shortest lines would be nine million, in gigabytes.
const ENTRIES: usize = 2_000_000;

/// What the last line end cuts off is half a line, whatever the server says.
pub(super) fn parse(bytes: &[u8], parse: impl Fn(&[u8]) -> Result<Entry, ListError>) -> Raw {
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    let (whole, rest) = bytes.split_at(end.map_or(0, |end| end + 1));
    let mut raw = parse_lines(split_lines(whole), parse);
    raw.complete &= rest.is_empty();
    raw
}

pub(super) fn parse_lines<'a>(
    lines: impl Iterator<Item = &'a [u8]>,
    parse: impl Fn(&[u8]) -> Result<Entry, ListError>,
) -> Raw {
    let mut raw = Raw {
        entries: Vec::new(),
        complete: true,
    };
    let mut unknown = Dropped::default();
    for line in lines {
        match parse(line) {
            Ok(_) if raw.entries.len() >= ENTRIES => {
                log::warn!("a listing is cut short after {ENTRIES} entries");
                raw.complete = false;
                break;
            }
            Ok(entry) => raw.entries.push(entry),
            Err(ListError::NotAnEntry) => {}
            Err(ListError::Unknown) => {
                unknown.add(line);
                raw.complete = false;
            }
        }
    }
    unknown.log("lines that were not understood");
    raw
}

/// Sorts out `.` and `..`, names that are no names, and names that came twice.
pub(super) fn finished(raw: Raw, offset: i64) -> Listing {
    let mut listing = Listing {
        entries: Vec::new(),
        own: None,
        complete: raw.complete,
    };
    let mut seen: HashSet<Name> = HashSet::with_capacity(raw.entries.len());
    let mut dropped = Dropped::default();
    for entry in raw.entries {
        let attributes = Attributes::new(&entry.facts, offset);
        match (entry.facts.kind, &entry.name[..]) {
            (Some(Kind::Current), _) | (_, b".") => {
                if attributes.kind == FileKind::Directory {
                    listing.own = Some(attributes);
                }
            }
            (Some(Kind::Parent), _) | (_, b"..") => {}
            (_, bytes) => match Name::parse(bytes) {
                Ok(name) if bytes.len() <= NAME_MAX => {
                    if seen.insert(name.clone()) {
                        listing.entries.push((name, attributes));
                    }
                }
                Ok(_) | Err(_) => dropped.add(bytes),
            },
        }
    }
    dropped.log("names that cannot be shown");
    listing
}

/// What is left out of one listing: counted, and logged in one line, however much a server sends.
#[derive(Default)]
struct Dropped {
    count: usize,
    first: Vec<u8>,
}

impl Dropped {
    fn add(&mut self, bytes: &[u8]) {
        if self.count == 0 {
            self.first = bytes[..bytes.len().min(NAME_MAX)].to_vec();
        }
        self.count += 1;
    }

    fn log(&self, what: &str) {
        if self.count > 0 {
            let Self { count, first } = self;
            log::warn!(
                "a listing has {what}: {count}, the first is {}",
                first.escape_ascii()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::proto::parse_mlsx_line;

    use super::*;

    fn mlsx(text: &str) -> Listing {
        finished(parse(text.as_bytes(), parse_mlsx_line), 0)
    }

    #[test]
    fn names_too_long_for_the_kernel_are_left_out_and_their_neighbours_shown() {
        let (fits, long) = ("f".repeat(NAME_MAX), "l".repeat(NAME_MAX + 1));
        let listing = mlsx(&format!(
            "type=file; {long}\r\ntype=file; {fits}\r\ntype=file; a/b\r\n"
        ));
        assert!(listing.complete);
        let names: Vec<_> = listing.entries.iter().map(|(n, _)| n.as_bytes()).collect();
        assert_eq!(names, [fits.as_bytes()]);
    }

    #[test]
    fn a_listing_cut_in_the_middle_of_a_line_is_not_complete() {
        let listing = mlsx("type=file; whole\r\ntype=file; ha");
        assert!(!listing.complete);
        let names: Vec<_> = listing.entries.iter().map(|(n, _)| n.as_bytes()).collect();
        assert_eq!(names, [b"whole"]);
        assert!(mlsx("").complete && mlsx("type=file; whole\r\n").complete);
    }

    #[test]
    fn a_listing_of_many_short_lines_is_cut_and_said_to_be() {
        let lines = std::iter::repeat_n(&b"a=; x"[..], ENTRIES + 1);
        let cut = parse_lines(lines, parse_mlsx_line);
        assert!(!cut.complete);
        assert_eq!(cut.entries.len(), ENTRIES);
    }
}
