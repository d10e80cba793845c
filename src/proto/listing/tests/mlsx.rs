use super::*;

#[test]
fn facts_as_servers_send_them() {
    let second = |at| modified(at, Precision::Second);
    // ProFTPD.
    let entry = mlsx(
        "modify=20240102030405;perm=adfrw;size=1234;type=file;unique=801U2A;UNIX.group=100;\
         UNIX.groupname=domain users;UNIX.mode=0644;UNIX.owner=1000;UNIX.ownername=me; a; b ",
    );
    assert_eq!(name(&entry), "a; b ");
    assert_eq!(
        entry.facts,
        Facts {
            kind: Some(Kind::File),
            size: Some(1234),
            modify: second("20240102030405"),
            perm: Some(Perm::APPEND | Perm::DELETE | Perm::RENAME | Perm::RETRIEVE | Perm::WRITE),
            unique: Some(b"801U2A"[..].into()),
            mode: Some(0o644),
            uid: Some(1000),
            gid: Some(100),
            link_target: None,
        }
    );
    // pyftpdlib.
    let entry = mlsx(
        "modify=20240102030405;perm=elcmp;type=dir;unique=fd01;unix.gid=0;unix.mode=0o755;\
         unix.uid=0; dir",
    );
    assert_eq!(entry.facts.kind, Some(Kind::Directory));
    assert_eq!(entry.facts.mode, Some(0o755));
    assert_eq!((entry.facts.uid, entry.facts.gid), (Some(0), Some(0)));
    assert_eq!(entry.facts.size, None);
    // Pure-FTPd.
    let entry = mlsx("type=OS.unix=slink:;size=4;modify=20240102030405.5;UNIX.mode=0777; link");
    assert_eq!(
        (entry.facts.kind, entry.facts.link_target),
        (Some(Kind::Symlink), None)
    );
    assert_eq!(
        entry.facts.modify.map(|modify| modify.time),
        Some(time("20240102030405") + Duration::from_millis(500))
    );
    let entry = mlsx("type=dir;sizd=4096;modify=20240102030405;UNIX.mode=0755; d");
    assert_eq!(entry.facts.size, None);
}

#[test]
fn types() {
    for (value, kind, target) in [
        ("file", Kind::File, None),
        ("FILE", Kind::File, None),
        ("dir", Kind::Directory, None),
        ("cdir", Kind::Current, None),
        ("pdir", Kind::Parent, None),
        ("OS.unix=slink", Kind::Symlink, None),
        ("OS.UNIX=symlink", Kind::Symlink, None),
        ("OS.unix=slink:/a/B=c", Kind::Symlink, Some("/a/B=c")),
        ("OS.unix=slink:../a b", Kind::Symlink, Some("../a b")),
        ("OS.unix=chr-1/2", Kind::Other, None),
        ("OS.unix=slinky", Kind::Other, None),
        ("", Kind::Other, None),
    ] {
        let entry = mlsx(&format!("Type={value};Size=1; x"));
        assert_eq!(entry.facts.kind, Some(kind), "{value}");
        assert_eq!(
            entry.facts.link_target.as_deref(),
            target.map(str::as_bytes),
            "{value}"
        );
        assert_eq!((name(&entry), entry.facts.size), ("x", Some(1)), "{value}");
    }
}

#[test]
fn of_a_fact_given_twice_the_last_counts() {
    let entry = mlsx("type=OS.unix=slink:/a;size=1;type=file;size=2; x");
    let (kind, size) = (Some(Kind::File), Some(2));
    assert_eq!(
        entry.facts,
        Facts {
            kind,
            size,
            ..Facts::default()
        }
    );
}

#[test]
fn modes() {
    let mode = |value: &str| mlsx(&format!("unix.mode={value}; x")).facts.mode;
    for value in ["0644", "644", "0o644", "00644", "0100644"] {
        assert_eq!(mode(value), Some(0o644), "{value}");
    }
    assert_eq!(mode("4755"), Some(0o4755));
    for value in [
        "",
        "0o",
        "rw-r--r--",
        "0x1ff",
        "888",
        "-644",
        "99999999999999",
    ] {
        assert_eq!(mode(value), None, "{value}");
    }
}

#[test]
fn values_that_make_no_sense_count_as_not_said() {
    let entry = mlsx("size=-1;modify=yesterday;unique=;UNIX.uid=root;foo;=;bar=;perm=; x");
    assert_eq!(
        entry.facts,
        Facts {
            perm: Some(Perm::empty()),
            ..Facts::default()
        }
    );
}

#[test]
fn names_stay_as_they_are() {
    for odd in [
        " leading",
        "trailing ",
        "dou  ble",
        "; ",
        "a=b; c",
        "type=dir; x",
        "\u{e4}",
        " ",
    ] {
        assert_eq!(name(&mlsx(&format!("type=file;size=1; {odd}"))), odd);
        // MLST's indent.
        assert_eq!(name(&mlsx(&format!(" type=file;size=1; {odd}"))), odd);
    }
    let raw = parse_mlsx_line(b"type=file; \xff\n\xe4").expect("an entry");
    assert_eq!(raw.name, b"\xff\n\xe4");
    // No facts at all; no final semicolon.
    assert_eq!(mlsx(" x y").facts, Facts::default());
    assert_eq!(name(&mlsx(" x y")), "x y");
    assert_eq!(name(&mlsx("type=file;size=1 x y")), "x y");
}

#[test]
fn lines_that_are_no_facts() {
    assert_eq!(parse_mlsx_line(b""), Err(ListError::NotAnEntry));
    for line in [
        "x",
        "type=file;",
        "type=file; ",
        "-rw-r--r-- 1 0 0 7 Jan  2 03:04 f",
        " ",
    ] {
        assert_eq!(
            parse_mlsx_line(line.as_bytes()),
            Err(ListError::Unknown),
            "{line}"
        );
    }
}

proptest! {
    #[test]
    fn any_facts_come_back(
        name in any_name(), size: u64, mode in 0u16..=0o7777, uid: u32,
        seconds in 0u64..253_402_300_800, directory: bool, indent in "( )?",
    ) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let kind = if directory { "dir" } else { "file" };
        let facts = format!(
            "{indent}type={kind};size={size};modify={};UNIX.mode={mode:04o};UNIX.uid={uid}; ",
            format_time(at),
        );
        let entry = parse_mlsx_line(&[facts.as_bytes(), &name].concat()).expect("an entry");
        prop_assert_eq!(entry, Entry {
            name,
            facts: Facts {
                kind: Some(if directory { Kind::Directory } else { Kind::File }),
                size: Some(size),
                modify: Some(Modify { time: at, precision: Precision::Second }),
                mode: Some(mode),
                uid: Some(uid),
                ..Facts::default()
            },
        });
    }
}
