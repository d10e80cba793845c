//! LIST in all its dialects: a name is never empty, and always a part of its line. The first four
//! bytes are the time.

use std::time::{Duration, SystemTime};

use ftpsfs::proto::{parse_list_line, split_lines};

pub fn check(data: &[u8]) {
    let Some((seconds, listing)) = data.split_first_chunk::<4>() else {
        return;
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u32::from_be_bytes(*seconds).into());
    let crlf = listing.windows(2).any(|pair| pair == b"\r\n");
    for line in split_lines(listing) {
        assert!(!line.windows(2).any(|pair| pair == b"\r\n"));
        assert!(crlf || !line.contains(&b'\n'));
        let Ok(entry) = parse_list_line(line, now) else {
            continue;
        };
        assert!(!entry.name.is_empty());
        assert!(
            line.windows(entry.name.len())
                .any(|part| part == entry.name)
        );
        assert!(entry.facts.mode.is_none_or(|mode| mode <= 0o7777));
        if let Some(target) = entry.facts.link_target {
            assert!(!target.is_empty() && line.ends_with(&target));
        }
    }
}
