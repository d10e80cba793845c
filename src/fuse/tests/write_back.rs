//! Write-back: close(2) waits for the local disk alone, and nothing is lost by that.

use super::*;

/// A mount with write-back.
fn mounted() -> Mount {
    Mount::writable_with(4, |config| config.write_back = true)
}

/// What the server's folder holds in the end.
fn expect(mount: &Mount, expected: &[(&str, &[u8])]) {
    let found = || {
        let entries = fs::read_dir(mount.served.path()).unwrap().flatten();
        let mut found: Vec<_> = entries
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read(entry.path()).unwrap_or_default())
            })
            .collect();
        found.sort();
        found
    };
    let is_there = |found: &[(String, Vec<u8>)]| {
        let found = found.iter().map(|(name, bytes)| (&name[..], &bytes[..]));
        found.eq(expected.iter().copied())
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_there(&found()) {
        let names: Vec<_> = found().into_iter().map(|(n, b)| (n, b.len())).collect();
        assert!(Instant::now() < deadline, "{names:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn close_waits_for_no_server_and_what_was_written_is_seen_and_sent() {
    let mount = mounted();
    let all = content(3_000_000);
    // The names have to be known: to make one, the server is asked what there is.
    fs::write(mount.here("old"), "old").unwrap();
    expect(&mount, &[("old", b"old")]);
    let mut files: Vec<_> = ["a", "b", "c"]
        .map(|name| File::create(mount.here(name)).unwrap())
        .into();
    let mut old = File::options()
        .append(true)
        .open(mount.here("old"))
        .unwrap();
    mount.proxy.hold();
    let begun = Instant::now();
    for file in &mut files {
        file.write_all(&all).unwrap();
    }
    old.write_all(b" and new").unwrap();
    drop((files, old));
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert!(fs::read(mount.here("b")).unwrap() == all);
    assert_eq!(fs::metadata(mount.here("old")).unwrap().len(), 11);
    mount.proxy.go_on();
    expect(
        &mount,
        &[
            ("a", &all),
            ("b", &all),
            ("c", &all),
            ("old", b"old and new"),
        ],
    );
    assert_eq!(fs::read(mount.here("old")).unwrap(), b"old and new");
}

#[test]
fn fsync_waits_for_the_server_all_the_same() {
    let mount = mounted();
    for round in 0..5 {
        let mut file = File::create(mount.here("file")).unwrap();
        let bytes = content(100_000 + round);
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        assert!(fs::read(mount.there("file")).unwrap() == bytes);
    }
}

#[test]
fn the_end_of_the_mount_waits_for_what_was_promised() {
    let mount = mounted();
    for name in 0..40 {
        fs::write(mount.here(&format!("f{name}")), content(name * 1000)).unwrap();
    }
    let served = mount.end();
    for name in 0..40 {
        let there = fs::read(served.path().join(format!("f{name}"))).unwrap();
        assert!(there == content(name * 1000));
    }
    assert_eq!(fs::read_dir(served.path()).unwrap().count(), 40);
}

#[test]
fn what_is_uploaded_while_its_directory_is_listed_is_shown() {
    let mount = Mount::writable_with(4, |config| {
        config.write_back = true;
        config.dir_timeout = Duration::ZERO;
    });
    for round in 0..150 {
        let name = format!("f{round}");
        fs::write(mount.here(&name), "new").unwrap();
        for _ in 0..3 {
            let listed = fs::read_dir(mount.point.path()).unwrap();
            let mut names = listed.map(|entry| entry.unwrap().file_name());
            assert!(names.any(|shown| *shown == *name), "{name}");
        }
    }
}

/// The server renamed it and could not say so: what was known of the file before is not shown again.
#[test]
fn what_was_uploaded_unheard_is_read_as_it_is() {
    let (mount, faults) = Mount::failing(
        |_| {},
        |config| {
            config.write_back = true;
            config.attr_timeout = Duration::from_secs(60);
        },
    );
    let file = File::create(mount.here("file")).unwrap();
    file.write_all_at(b"old", 0).unwrap();
    file.sync_all().unwrap();
    faults.set("MFMT 1 x3: fin".parse().unwrap());
    file.set_len(0).unwrap();
    file.write_all_at(b"new content", 0).unwrap();
    drop(file);
    expect(&mount, &[("file", b"new content")]);
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        let read = fs::read(mount.here("file")).unwrap();
        assert_eq!(read, b"new content");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(faults.counts().hits, 3);
}

/// What the server appends after we gave that up is no change by others.
#[test]
fn an_append_that_arrives_late_makes_no_conflict() {
    let (mount, faults) = Mount::failing(|_| {}, |config| config.write_back = true);
    let hit = || {
        let deadline = Instant::now() + PATIENCE;
        while faults.counts().hits == 0 {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(10));
        }
    };
    fs::write(mount.here("file"), "0123").unwrap();
    expect(&mount, &[("file", b"0123")]);
    let mut log = File::options()
        .append(true)
        .open(mount.here("file"))
        .unwrap();
    log.write_all(b"45678").unwrap();
    faults.set("APPE 1 x100: reply \"425 No\"".parse().unwrap());
    drop(log);
    hit();
    fs::write(mount.here("file"), "new").unwrap();
    faults.set("STOR 1: stall 2s".parse().unwrap());
    hit();
    let late = File::options().append(true).open(mount.there("file"));
    late.unwrap().write_all(b"45678").unwrap();
    expect(&mount, &[("file", b"new")]);
}

#[test]
fn renames_and_removals_of_what_waits_are_folded_in() {
    let mount = mounted();
    fs::write(mount.here("target"), "old").unwrap();
    fs::write(mount.here("gone"), "old").unwrap();
    expect(&mount, &[("gone", b"old"), ("target", b"old")]);
    for round in 0..20 {
        let text = format!("new {round}");
        fs::write(mount.here("temporary"), &text).unwrap();
        fs::rename(mount.here("temporary"), mount.here("target")).unwrap();
        assert_eq!(fs::read(mount.here("target")).unwrap(), text.as_bytes());
        fs::write(mount.here("gone"), &text).unwrap();
        fs::remove_file(mount.here("gone")).unwrap();
        assert!(!mount.here("gone").exists());
        fs::write(mount.here("first"), &text).unwrap();
        fs::rename(mount.here("first"), mount.here("second")).unwrap();
    }
    expect(&mount, &[("second", b"new 19"), ("target", b"new 19")]);
}

#[test]
fn modes_and_times_given_after_close_arrive() {
    let mount = mounted();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_111_111_111);
    for name in 0..30 {
        let path = mount.here(&format!("f{name}"));
        fs::write(&path, content(name)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
    let served = mount.end();
    for name in 0..30 {
        let there = fs::metadata(served.path().join(format!("f{name}"))).unwrap();
        assert_eq!(there.permissions().mode() & 0o777, 0o640, "f{name}");
        assert_eq!(there.modified().unwrap(), time, "f{name}");
    }
}

#[test]
fn what_others_changed_meanwhile_is_kept_beside_ours() {
    let mount = mounted();
    fs::write(mount.here("file"), "old").unwrap();
    expect(&mount, &[("file", b"old")]);
    thread::sleep(2 * BELIEF);
    let mut file = File::create(mount.here("file")).unwrap();
    let mut new = File::create(mount.here("new")).unwrap();
    mount.proxy.hold();
    file.write_all(b"ours").unwrap();
    new.write_all(b"ours as well").unwrap();
    drop((file, new));
    fs::write(mount.there("file"), "theirs").unwrap();
    fs::write(mount.there("new"), "theirs as well").unwrap();
    mount.proxy.go_on();
    let deadline = Instant::now() + Duration::from_secs(30);
    let copies = || {
        let entries = fs::read_dir(mount.served.path()).unwrap().flatten();
        let paths = entries.map(|entry| entry.path());
        let mut copies: Vec<_> = paths
            .filter(|path| path.to_string_lossy().contains(".conflict-"))
            .map(|path| fs::read(path).unwrap())
            .collect();
        copies.sort();
        copies
    };
    while copies() != [b"ours".to_vec(), b"ours as well".to_vec()] {
        assert!(Instant::now() < deadline, "{:?}", copies());
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(fs::read(mount.there("file")).unwrap(), b"theirs");
    assert_eq!(fs::read(mount.there("new")).unwrap(), b"theirs as well");
    thread::sleep(2 * BELIEF);
    assert_eq!(fs::read(mount.here("file")).unwrap(), b"theirs");
}

#[test]
fn random_operations_with_write_back() {
    for seed in 0..6 {
        model::run(seed * 104_729, 300, |config| config.write_back = true);
    }
}
