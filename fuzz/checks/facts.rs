//! MLSx: the name is the end of the line, and facts that we write down again say the same.

use ftpsfs::proto::{Entry, Facts, Kind, format_time, parse_mlsx_line, parse_time};

pub fn check(line: &[u8]) {
    if let Some(time) = parse_time(line) {
        let whole = parse_time(format_time(time).as_bytes()).expect("a time");
        assert!(
            time.duration_since(whole)
                .is_ok_and(|rest| rest.as_secs() == 0)
        );
    }
    let Ok(Entry { name, facts }) = parse_mlsx_line(line) else {
        return;
    };
    assert!(!name.is_empty() && line.ends_with(&name));
    assert!(facts.mode.is_none_or(|mode| mode <= 0o7777));
    assert!(facts.link_target.is_none() || facts.kind == Some(Kind::Symlink));

    let mut again = Vec::new();
    let mut fact = |name: &str, value: Option<&[u8]>| {
        if let Some(value) = value {
            again.extend_from_slice(&[name.as_bytes(), b"=", value, b";"].concat());
        }
    };
    let link = [
        &b"OS.unix=slink:"[..],
        facts.link_target.as_deref().unwrap_or_default(),
    ]
    .concat();
    fact(
        "type",
        facts.kind.map(|kind| match kind {
            Kind::File => &b"file"[..],
            Kind::Directory => b"dir",
            Kind::Current => b"cdir",
            Kind::Parent => b"pdir",
            Kind::Symlink => &link,
            Kind::Other => b"OS.unix=blkdev",
        }),
    );
    let text = |value: Option<String>| value.map(String::into_bytes);
    fact(
        "SIZE",
        text(facts.size.map(|size| size.to_string())).as_deref(),
    );
    fact(
        "unix.mode",
        text(facts.mode.map(|mode| format!("{mode:04o}"))).as_deref(),
    );
    fact(
        "UNIX.uid",
        text(facts.uid.map(|uid| uid.to_string())).as_deref(),
    );
    fact(
        "UNIX.gid",
        text(facts.gid.map(|gid| gid.to_string())).as_deref(),
    );
    fact("unique", facts.unique.as_deref());
    // A line without any fact, or with "; " within a value, reads otherwise.
    if again.is_empty() || again.windows(2).any(|pair| pair == b"; ") {
        return;
    }
    let line = [&again[..], b" ", &name].concat();
    let expected = Facts {
        modify: None,
        perm: None,
        ..facts
    };
    assert_eq!(
        parse_mlsx_line(&line),
        Ok(Entry {
            name,
            facts: expected
        })
    );
}
