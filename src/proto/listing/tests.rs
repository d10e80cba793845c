mod mlsx;
mod unix;

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::super::{Facts, Kind, Modify, Perm, Precision, format_time, parse_time};
use super::*;

fn time(text: &str) -> SystemTime {
    parse_time(text.as_bytes()).expect("a time")
}

/// 2024-07-01 12:00.
fn now() -> SystemTime {
    time("20240701120000")
}

fn list(line: &str) -> Entry {
    parse_list_line(line.as_bytes(), now()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn mlsx(line: &str) -> Entry {
    parse_mlsx_line(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn name(entry: &Entry) -> &str {
    std::str::from_utf8(&entry.name).expect("text")
}

fn modified(at: &str, precision: Precision) -> Option<Modify> {
    Some(Modify {
        time: time(at),
        precision,
    })
}

#[test]
fn listings_are_split_at_crlf_alone_where_there_is_any() {
    for (listing, lines) in [
        ("", &[][..]),
        ("a\r\nb\r\n", &["a", "b"]),
        ("a\r\nb", &["a", "b"]),
        ("a\nb\rc\r\nd\r\n", &["a\nb\rc", "d"]),
        ("a\r\r\nb\r\n", &["a\r", "b"]),
        ("a\n\nb\n", &["a", "", "b"]),
        ("\r\n", &[""]),
        ("\n", &[""]),
    ] {
        let split: Vec<_> = split_lines(listing.as_bytes()).collect();
        let expected: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        assert_eq!(split, expected, "{listing:?}");
    }
}

#[test]
fn dos() {
    let file = |size| (Some(Kind::File), Some(size));
    let directory = (Some(Kind::Directory), None);
    let minute = |at| modified(at, Precision::Minute);
    for (line, expected, (kind, size), modify) in [
        (
            "01-02-24  03:04PM                 1234 file",
            "file",
            file(1234),
            minute("20240102150400"),
        ),
        (
            "01-02-99  03:04AM                 1234 file",
            "file",
            file(1234),
            minute("19990102030400"),
        ),
        (
            "01-02-2024  12:04AM               1234 file",
            "file",
            file(1234),
            minute("20240102000400"),
        ),
        (
            "01-02-2024  12:04pm               1234 file",
            "file",
            file(1234),
            minute("20240102120400"),
        ),
        (
            "01-02-2024  15:04                 1234 file",
            "file",
            file(1234),
            minute("20240102150400"),
        ),
        (
            "01-02-24  15:04PM                 1234 file",
            "file",
            file(1234),
            minute("20240102150400"),
        ),
        (
            "01/02/2024  03:04 PM             1,234 file",
            "file",
            file(1234),
            minute("20240102150400"),
        ),
        (
            "2024-01-02  15:04           5000000000 file",
            "file",
            file(5_000_000_000),
            minute("20240102150400"),
        ),
        (
            "01-02-24  03:04PM       <DIR>          dir",
            "dir",
            directory,
            minute("20240102150400"),
        ),
        (
            "01-02-24  03:04PM       <DIR>           led",
            " led",
            directory,
            minute("20240102150400"),
        ),
        (
            "01-02-24  03:04PM       <DIR>  dir",
            "dir",
            directory,
            minute("20240102150400"),
        ),
        (
            "01-02-24  03:04PM       <JUNCTION>     j [C:\\x]",
            "j",
            directory,
            minute("20240102150400"),
        ),
        (
            "01-02-24  03:04PM       <SYMLINKD>     d [v]",
            "d [v]",
            directory,
            minute("20240102150400"),
        ),
        (
            "01-02-24  03:04PM       <SYMLINK>      l [C:\\x]",
            "l",
            (Some(Kind::File), None),
            minute("20240102150400"),
        ),
        (
            "01-02-24  03:04PM                    0  two  spaces ",
            " two  spaces ",
            file(0),
            minute("20240102150400"),
        ),
        (
            "01-02-24  03:04PM                    7 12:30 x",
            "12:30 x",
            file(7),
            minute("20240102150400"),
        ),
    ] {
        let entry = list(line);
        assert_eq!(name(&entry), expected, "{line}");
        assert_eq!((entry.facts.kind, entry.facts.size), (kind, size), "{line}");
        assert_eq!(entry.facts.modify, modify, "{line}");
    }
}

#[test]
fn eplf() {
    let entry = list("+i8388621.48594,m825718503,r,s280,\tdjb.html");
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(825_718_503);
    assert_eq!(name(&entry), "djb.html");
    assert_eq!(
        entry.facts,
        Facts {
            kind: Some(Kind::File),
            size: Some(280),
            modify: Some(Modify {
                time: at,
                precision: Precision::Second
            }),
            unique: Some(b"8388621.48594"[..].into()),
            ..Facts::default()
        }
    );
    let entry = list("+/,up755,\t a dir ");
    assert_eq!(name(&entry), " a dir ");
    assert_eq!(
        (entry.facts.kind, entry.facts.mode),
        (Some(Kind::Directory), Some(0o755))
    );
}

#[test]
fn lines_beside_the_entries() {
    for line in [
        "",
        "   ",
        "total 12",
        "total 1,234",
        "insgesamt 0",
        "total 12 ",
    ] {
        assert_eq!(
            parse_list_line(line.as_bytes(), now()),
            Err(ListError::NotAnEntry),
            "{line}"
        );
    }
    for line in [
        "file",
        "ls: cannot open directory",
        "-rw-r--r--",
        "-rw-r--r-- 1 me staff 1234 Jan  2 03:04",
        "-rw-r--r-- 1 me staff 1234 Jan  2 03:04 ",
        "-rw-r--r-- 1 me staff 1234 Jan 32 03:04 f",
        "-rw-r--r-- 1 me staff 1234 Jan  2 25:04 f",
        "-rw-r--r-- 1 me staff 1234 Foo  2 03:04 f",
        "-rw-r--r-- 1 me staff x1234 Jan  2 03:04 f",
        "-rw-r--r-- Jan  2 03:04 f",
        "-rw-r--r-- 1 me staff 99999999999999999999 Jan  2 03:04 f",
        "-rw-r--r 1 me staff 1234 Jan  2 03:04 f",
        "-rw-r--r--x 1 me staff 1234 Jan  2 03:04 f",
        "-rz-r--r-- 1 me staff 1234 Jan  2 03:04 f",
        "-rw-r--r-s 1 me staff 1234 Jan  2 03:04 f",
        "drwxr-xr-x 1 me staff 1234 Feb 30  2021 f",
        "01-02-24  03:04PM",
        "01-02-24  03:04PM 1234",
        "01-02-24  03:04PM 1234 ",
        "13-02-24  03:04PM 1234 f",
        "01-02-24  25:04 1234 f",
        "01-02-024  03:04PM 1234 f",
        "01-02-24  03:04PM <FOO> f",
        "+i1,m2",
        "+i1,m2,\t",
    ] {
        assert_eq!(
            parse_list_line(line.as_bytes(), now()),
            Err(ListError::Unknown),
            "{line}"
        );
    }
}

/// Names as a listing line can carry them.
fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 1..20);
    let nasty = "[ ;=>a0:-]{1,12}".prop_map(String::into_bytes);
    prop_oneof![bytes, nasty].prop_map(|mut name| {
        name.retain(|b| !matches!(b, 0 | b'\r' | b'\n' | b'/'));
        name.insert(0, b'n');
        name
    })
}

proptest! {
    #[test]
    fn any_dos_line_comes_back(name in any_name(), size: Option<u64>, minutes in 0u64..40_000_000) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(minutes * 60);
        let t = format_time(at);
        let (hour, minute) = (t[8..10].parse::<u8>().expect("an hour"), &t[10..12]);
        let half = if hour < 12 { "AM" } else { "PM" };
        let hour = if hour % 12 == 0 { 12 } else { hour % 12 };
        let column = match size {
            Some(size) => format!("{size:>20}"),
            None => "      <DIR>         ".to_owned(),
        };
        let head = format!("{}-{}-{}  {hour:02}:{minute}{half} {column} ", &t[4..6], &t[6..8], &t[..4]);
        let entry = parse_list_line(&[head.as_bytes(), &name].concat(), now()).expect("an entry");
        prop_assert_eq!(entry.name, name);
        prop_assert_eq!(entry.facts.size, size);
        let minute = Some(Modify { time: at, precision: Precision::Minute });
        prop_assert_eq!(entry.facts.modify, minute);
    }

    #[test]
    fn split_lines_lose_nothing(lines in prop::collection::vec("[a\r]{0,3}[b\n]{0,2}c", 0..6)) {
        let listing: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let split: Vec<_> = split_lines(listing.as_bytes()).collect();
        let whole = if lines.iter().any(|line| line.contains("\r\n")) {
            lines.join("\r\n").split("\r\n").map(|line| line.as_bytes().to_vec()).collect()
        } else {
            lines.iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>()
        };
        prop_assert_eq!(split, whole);
    }

    #[test]
    fn arbitrary_lines_never_panic(line: Vec<u8>, seconds: u32) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
        for start in ["", "+", "-rw-r--r-- 1 ", "01-02-24 ", " ", "type="] {
            let line = [start.as_bytes(), &line].concat();
            let _ = parse_list_line(&line, now);
            let _ = parse_mlsx_line(&line);
            let _ = split_lines(&line).count();
        }
    }
}
