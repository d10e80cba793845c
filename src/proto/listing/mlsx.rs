//! `fact=value;fact=value; name` (RFC 3659 section 7).

use super::super::{Entry, Facts, Kind, Modify, Perm, Precision, parse_time};
use super::{ListError, size};

/// `fact=value;fact=value; name`. A leading space (MLST) is tolerated.
pub fn parse_mlsx_line(line: &[u8]) -> Result<Entry, ListError> {
    if line.is_empty() {
        return Err(ListError::NotAnEntry);
    }
    let (listed, name) = match line.strip_prefix(b" ") {
        // Either an MLST line, or an entry of which no fact is told.
        Some(rest) => split(rest).unwrap_or((b"", rest)),
        None => split(line).ok_or(ListError::Unknown)?,
    };
    if name.is_empty() {
        return Err(ListError::Unknown);
    }
    let mut facts = Facts::default();
    for fact in listed.split(|&b| b == b';') {
        if let Some(equals) = fact.iter().position(|&b| b == b'=') {
            take(&mut facts, &fact[..equals], &fact[equals + 1..]);
        }
    }
    Ok(Entry {
        name: name.to_vec(),
        facts,
    })
}

/// The facts and the name. They part at the first `; `, for ProFTPD's UNIX.groupname may hold
/// spaces ("domain users"); where there is none, at the first space.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let semicolon = line
        .windows(2)
        .position(|pair| pair == b"; ")
        .map(|at| at + 1);
    let space = line.iter().position(|&b| b == b' ');
    let has_fact = |&at: &usize| line[..at].contains(&b'=');
    let at = semicolon.filter(has_fact).or(space.filter(has_fact))?;
    Some((&line[..at], &line[at + 1..]))
}

/// Fact names are case-insensitive.
fn take(facts: &mut Facts, name: &[u8], value: &[u8]) {
    match name.to_ascii_lowercase().as_slice() {
        b"type" => take_type(facts, value),
        b"size" => facts.size = size(value),
        b"modify" => {
            let time = parse_time(value);
            facts.modify = time.map(|time| Modify {
                time,
                precision: Precision::Second,
            });
        }
        b"perm" => facts.perm = Some(value.iter().map(permission).collect()),
        b"unique" if !value.is_empty() => facts.unique = Some(value.into()),
        b"unix.mode" => facts.mode = mode(value),
        // ProFTPD and Pure-FTPd call it UNIX.owner and UNIX.uid; numbers in both.
        b"unix.uid" | b"unix.owner" => facts.uid = id(value).or(facts.uid),
        b"unix.gid" | b"unix.group" => facts.gid = id(value).or(facts.gid),
        _ => {}
    }
}

fn take_type(facts: &mut Facts, value: &[u8]) {
    let lower = value.to_ascii_lowercase();
    let symlink = ["os.unix=slink", "os.unix=symlink"];
    let link = symlink
        .iter()
        .find_map(|kind| lower.strip_prefix(kind.as_bytes()));
    // Should the fact be given twice, the last one counts.
    facts.link_target = None;
    facts.kind = Some(match (lower.as_slice(), link) {
        (b"file", _) => Kind::File,
        (b"dir", _) => Kind::Directory,
        (b"cdir", _) => Kind::Current,
        (b"pdir", _) => Kind::Parent,
        (_, Some([])) => Kind::Symlink,
        (_, Some([b':', target @ ..])) => {
            let target = &value[value.len() - target.len()..];
            facts.link_target = (!target.is_empty()).then(|| target.into());
            Kind::Symlink
        }
        _ => Kind::Other,
    });
}

fn permission(letter: &u8) -> Perm {
    match letter.to_ascii_lowercase() {
        b'a' => Perm::APPEND,
        b'c' => Perm::CREATE,
        b'd' => Perm::DELETE,
        b'e' => Perm::ENTER,
        b'f' => Perm::RENAME,
        b'l' => Perm::LIST,
        b'm' => Perm::MKDIR,
        b'p' => Perm::PURGE,
        b'r' => Perm::RETRIEVE,
        b'w' => Perm::WRITE,
        _ => Perm::empty(),
    }
}

/// Octal permissions: `0644`, pyftpdlib's `0o644`, `644`; the bits of the type in front of them
/// (`100644`) are dropped.
pub(super) fn mode(value: &[u8]) -> Option<u16> {
    let digits = value.strip_prefix(b"0o").unwrap_or(value);
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let bits = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?;
    u16::try_from(bits & 0o7777).ok()
}

fn id(value: &[u8]) -> Option<u32> {
    u32::try_from(size(value)?).ok()
}
