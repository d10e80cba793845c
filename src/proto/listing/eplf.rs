//! Easily Parsed LIST Format: `+i8388621.48594,m825718503,r,s280,<TAB>name`.

use super::super::time::at;
use super::super::{Entry, Facts, Kind, Modify, Precision};
use super::size;

/// `None` when the line is not EPLF.
pub(super) fn parse(line: &[u8]) -> Option<Entry> {
    let line = line.strip_prefix(b"+")?;
    let tab = line.iter().position(|&b| b == b'\t')?;
    let name = line[tab + 1..].to_vec();
    if name.is_empty() {
        return None;
    }
    let mut facts = Facts::default();
    for fact in line[..tab].split(|&b| b == b',') {
        match fact {
            b"/" => facts.kind = Some(Kind::Directory),
            b"r" => facts.kind = Some(Kind::File),
            [b's', digits @ ..] => facts.size = size(digits),
            [b'm', seconds @ ..] => {
                let time = size(seconds).and_then(|s| at(i64::try_from(s).ok()?));
                facts.modify = time.map(|time| Modify {
                    time,
                    precision: Precision::Second,
                });
            }
            [b'i', unique @ ..] if !unique.is_empty() => facts.unique = Some(unique.into()),
            [b'u', b'p', octal @ ..] => facts.mode = super::mlsx::mode(octal),
            _ => {}
        }
    }
    Some(Entry { name, facts })
}
