use super::*;

#[test]
fn unix_columns() {
    for (line, expected_name, kind, size, mode) in [
        (
            "-rw-r--r--   1 me  staff    1234 Jan  2 03:04 file",
            "file",
            Kind::File,
            1234,
            0o644,
        ),
        (
            "-rw-r--r--    1 0        0            12 Jan 02 03:04 v",
            "v",
            Kind::File,
            12,
            0o644,
        ),
        (
            "drwxr-xr-x  12 me  staff    4096 Jan  2 03:04 dir",
            "dir",
            Kind::Directory,
            4096,
            0o755,
        ),
        // No group; no link count; neither.
        (
            "-rw-r--r--   1 me    1234 Jan  2 03:04 file",
            "file",
            Kind::File,
            1234,
            0o644,
        ),
        (
            "-rw-r--r--  me  staff  1234 Jan  2 03:04 file",
            "file",
            Kind::File,
            1234,
            0o644,
        ),
        (
            "-rw-r--r-- 1234 Jan  2 03:04 file",
            "file",
            Kind::File,
            1234,
            0o644,
        ),
        // Owners and groups with spaces and digits.
        (
            "-rw-r--r-- 1 Jan 7 domain users 1234 Feb 2 2023 f",
            "f",
            Kind::File,
            1234,
            0o644,
        ),
        (
            "-rw-r--r-- 1 DOM\\me May May 7 Jan  2 03:04 f",
            "f",
            Kind::File,
            7,
            0o644,
        ),
        // Over 4 GiB.
        (
            "-rw-r--r-- 1 0 0 5000000000 Jan  2 03:04 big",
            "big",
            Kind::File,
            5_000_000_000,
            0o644,
        ),
        // Access lists, contexts, attributes.
        (
            "-rw-rw-r--+ 1 me staff 7 Jan  2 03:04 acl",
            "acl",
            Kind::File,
            7,
            0o664,
        ),
        (
            "-rw-r--r--. 1 me staff 7 Jan  2 03:04 ctx",
            "ctx",
            Kind::File,
            7,
            0o644,
        ),
        (
            "drwx------@ 1 me staff 7 Jan  2 03:04 attr",
            "attr",
            Kind::Directory,
            7,
            0o700,
        ),
        // Special bits.
        (
            "-rwsr-xr-x 1 0 0 7 Jan  2 03:04 su",
            "su",
            Kind::File,
            7,
            0o4755,
        ),
        (
            "-rwSr-Sr-T 1 0 0 7 Jan  2 03:04 sgt",
            "sgt",
            Kind::File,
            7,
            0o7644,
        ),
        (
            "drwxrwsrwt 1 0 0 7 Jan  2 03:04 tmp",
            "tmp",
            Kind::Directory,
            7,
            0o3777,
        ),
        (
            "-rw-r-lr-- 1 0 0 7 Jan  2 03:04 lock",
            "lock",
            Kind::File,
            7,
            0o2644,
        ),
        (
            "prw-r--r-- 1 0 0 0 Jan  2 03:04 pipe",
            "pipe",
            Kind::Other,
            0,
            0o644,
        ),
        (
            "srw-r--r-- 1 0 0 0 Jan  2 03:04 sock",
            "sock",
            Kind::Other,
            0,
            0o644,
        ),
        // As a STAT reply may indent it.
        (
            "   -rw-r--r-- 1 0 0 7 Jan  2 03:04 in",
            "in",
            Kind::File,
            7,
            0o644,
        ),
    ] {
        let entry = list(line);
        assert_eq!(name(&entry), expected_name, "{line}");
        assert_eq!(entry.facts.kind, Some(kind), "{line}");
        assert_eq!(entry.facts.size, Some(size), "{line}");
        assert_eq!(entry.facts.mode, Some(mode), "{line}");
        assert!(entry.facts.modify.is_some(), "{line}");
    }
}

#[test]
fn unix_owners_where_they_are_numbers() {
    let ids = |line: &str| {
        let facts = list(line).facts;
        (facts.uid, facts.gid)
    };
    assert_eq!(
        ids("-rw-r--r-- 1 1000 100 7 Jan  2 03:04 f"),
        (Some(1000), Some(100))
    );
    assert_eq!(
        ids("-rw-r--r-- 1 me 100 7 Jan  2 03:04 f"),
        (None, Some(100))
    );
    assert_eq!(ids("-rw-r--r-- 1 me staff 7 Jan  2 03:04 f"), (None, None));
    // Which of the columns is missing is not known.
    assert_eq!(ids("-rw-r--r-- 1 1000 7 Jan  2 03:04 f"), (None, None));
}

#[test]
fn unix_devices_have_no_size() {
    for line in [
        "brw-rw---- 1 root disk 8, 0 Jan  2 03:04 sda",
        "brw-rw---- 1 root disk   8,   0 Jan  2 03:04 sda",
        "crw-rw---- 1 root disk 8,0 Jan  2 03:04 sda",
        "brw-rw---- 1 root disk 8 Jan  2 03:04 sda",
    ] {
        let entry = list(line);
        assert_eq!(name(&entry), "sda");
        assert_eq!(
            (entry.facts.kind, entry.facts.size),
            (Some(Kind::Other), None),
            "{line}"
        );
    }
}

#[test]
fn unix_dates() {
    for (date, expected, precision) in [
        ("Jan  2 03:04", "20240102030400", Precision::Minute),
        ("Jan 02 03:04", "20240102030400", Precision::Minute),
        ("jul  2 11:59", "20240702115900", Precision::Minute),
        // More than a day ahead: last year's.
        ("Jul  2 12:01", "20230702120100", Precision::Minute),
        ("Dec 31 23:59", "20231231235900", Precision::Minute),
        ("Feb 29 00:00", "20240229000000", Precision::Minute),
        ("Jan  2  2021", "20210102000000", Precision::Day),
        ("Jan 02 2021", "20210102000000", Precision::Day),
        ("Feb 29  2020", "20200229000000", Precision::Day),
        ("2 Jan 03:04", "20240102030400", Precision::Minute),
        ("02 Jan  2021", "20210102000000", Precision::Day),
        ("2021-01-02 03:04", "20210102030400", Precision::Minute),
        ("2021-01-02 03:04:05", "20210102030405", Precision::Minute),
    ] {
        let entry = list(&format!("-rw-r--r--   1 me  staff    1234 {date} file"));
        assert_eq!(name(&entry), "file", "{date}");
        assert_eq!(entry.facts.modify, modified(expected, precision), "{date}");
    }
    // In early January, a date of late December is last year's; tomorrow's may be next year's.
    let in_january = |line: &str, now: &str| {
        let entry = parse_list_line(line.as_bytes(), time(now)).expect("an entry");
        format_time(entry.facts.modify.expect("a date").time)
    };
    let december = "-rw-r--r-- 1 me staff 7 Dec 31 20:00 f";
    assert_eq!(in_january(december, "20240101003000"), "20231231200000");
    let january = "-rw-r--r-- 1 me staff 7 Jan  1 09:00 f";
    assert_eq!(in_january(january, "20231231223000"), "20240101090000");
    // The last 29th of February there was.
    let leap = "-rw-r--r-- 1 me staff 7 Feb 29 09:00 f";
    assert_eq!(in_january(leap, "20270601000000"), "20240229090000");
}

#[test]
fn unix_names_keep_their_spaces() {
    for odd in [
        " leading",
        "   three",
        "trailing ",
        "dou  ble",
        "-",
        "total 12",
        "Jan  2 03:04 x",
        "a -> b",
        "\u{e4}\t",
        "[x]*?#%'\"\\",
        "1234 Jan  2 03:04 x",
    ] {
        for date in ["Jan  2 03:04", "Jan  2  2021", "2021-01-02 03:04"] {
            let entry = list(&format!("-rw-r--r--   1 me  staff    1234 {date} {odd}"));
            assert_eq!(name(&entry), odd);
            assert_eq!(entry.facts.size, Some(1234));
            assert_eq!(entry.facts.link_target, None);
        }
    }
    let raw = parse_list_line(b"-rw-r--r-- 1 0 0 7 Jan  2 03:04 \xff\xfe\xe4", now());
    assert_eq!(raw.expect("an entry").name, b"\xff\xfe\xe4");
}

#[test]
fn unix_links() {
    for (size, rest, link, target) in [
        (9, "link -> to/target", "link", Some("to/target")),
        (0, "link -> to/target", "link", Some("to/target")),
        // The size tells which arrow counts.
        (4, "a -> b -> goal", "a -> b", Some("goal")),
        (9, "a -> b -> goal", "a", Some("b -> goal")),
        (99, "a -> b -> goal", "a", Some("b -> goal")),
        (3, "link", "link", None),
        (3, "link -> ", "link", None),
        (3, " -> x", " -> x", None),
    ] {
        let entry = list(&format!("lrwxrwxrwx 1 me staff {size} Jan  2 03:04 {rest}"));
        assert_eq!(name(&entry), link, "{rest}");
        assert_eq!(
            entry.facts.link_target.as_deref(),
            target.map(str::as_bytes),
            "{rest}"
        );
        assert_eq!(entry.facts.kind, Some(Kind::Symlink));
        assert_eq!(entry.facts.mode, Some(0o777));
    }
}

#[test]
fn unix_permissions_that_the_server_itself_does_not_know() {
    let entry = list("d????????? 1 me staff 0 Jan  2 03:04 hidden");
    assert_eq!(
        (entry.facts.kind, entry.facts.mode),
        (Some(Kind::Directory), None)
    );
}

proptest! {
    #[test]
    fn any_unix_line_comes_back(
        name in any_name(), size: u64, links in 1u32..5000, owner in "[a-z][a-z0-9 ]{0,8}[a-z]",
        group in "([a-z][a-z0-9]{0,8})?", days in 0u64..20_000, spaces in 0usize..4,
    ) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        let text = format_time(at);
        let month = text[4..6].parse::<usize>().expect("a month") - 1;
        let month = &"JanFebMarAprMayJunJulAugSepOctNovDec"[3 * month..3 * month + 3];
        let name = [&b"   "[..spaces.min(3)], &name].concat();
        let line = format!(
            "-rw-r--r-- {links:4} {owner:8} {group:8} {size:8} {month} {:>2} {:>5} ",
            text[6..8].trim_start_matches('0'), &text[..4],
        );
        let entry = parse_list_line(&[line.as_bytes(), &name].concat(), now()).expect("an entry");
        prop_assert_eq!(entry.name, name);
        prop_assert_eq!(entry.facts.size, Some(size));
        let day = Some(Modify { time: at, precision: Precision::Day });
        prop_assert_eq!(entry.facts.modify, day);
    }

    /// A date without a year is never more than a day ahead, and the latest such.
    #[test]
    fn years_are_inferred(now in 0u64..10_000_000_000, back in 0u64..31_000_000) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
        let at = now + Duration::from_secs(86_400) - Duration::from_secs(back);
        let text = format_time(at);
        prop_assume!(&text[4..8] != "0229");
        let month = text[4..6].parse::<usize>().expect("a month") - 1;
        let month = &"JanFebMarAprMayJunJulAugSepOctNovDec"[3 * month..3 * month + 3];
        let (day, hour, minute) = (&text[6..8], &text[8..10], &text[10..12]);
        let line = format!("-rw-r--r-- 1 me staff 7 {month} {day} {hour}:{minute} f");
        let entry = parse_list_line(line.as_bytes(), now).expect("an entry");
        let expected = time(&format!("{}00", &text[..12]));
        prop_assert_eq!(entry.facts.modify.expect("a date").time, expected);
    }
}
