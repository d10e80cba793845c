//! What broken mounts leave on the server, and what becomes of it.

use std::time::UNIX_EPOCH;

use super::writes::names;
use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A mount, and its id in temporary names.
fn writable() -> (Mount, u64) {
    let mut id = 0;
    let mount = Mount::writable_with(4, |config| {
        id = config.spool.as_ref().unwrap().id();
    });
    (mount, id)
}

/// A temporary name of the mount `id`, made so long ago.
fn temporary(id: u64, age: Duration, ending: &str) -> String {
    let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - age;
    format!(".ftpsfs-{id:016x}-{:x}-1{ending}", made.as_secs())
}

/// Makes a file on the server, last changed so long ago.
fn leave(mount: &Mount, name: &str, age: Duration) {
    fs::write(mount.there(name), name).unwrap();
    let file = File::options().write(true).open(mount.there(name)).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

fn listed(mount: &Mount, name: &str) -> Vec<String> {
    let entries = fs::read_dir(mount.here(name)).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Waits until the server's folder holds exactly these.
fn expect(mount: &Mount, expected: &[String]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut expected = expected.to_vec();
    expected.sort();
    while names(mount) != expected && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    // What is to stay has had its time to go, too.
    thread::sleep(Duration::from_millis(200));
    assert_eq!(names(mount), expected);
}

#[test]
fn leftovers_go_when_they_are_seen() {
    let (mount, id) = writable();
    let gone = [
        temporary(id, Duration::ZERO, ""),
        temporary(id, 2 * DAY, ""),
        temporary(id ^ 1, 2 * DAY, ""),
    ];
    let stays = [
        temporary(id ^ 2, Duration::ZERO, ""),
        temporary(id ^ 3, 2 * DAY, ""),
        temporary(id ^ 4, DAY / 2, ""),
    ];
    leave(&mount, &gone[0], Duration::ZERO);
    leave(&mount, &gone[1], 3 * DAY);
    leave(&mount, &gone[2], 2 * DAY);
    leave(&mount, &stays[0], 2 * DAY);
    leave(&mount, &stays[1], DAY / 2);
    leave(&mount, &stays[2], 2 * DAY);
    assert_eq!(listed(&mount, ""), [""; 0], "never shown");
    expect(&mount, &stays);
}

#[test]
fn a_read_only_mount_removes_nothing() {
    let mount = Mount::new();
    let old = temporary(7, 2 * DAY, "");
    leave(&mount, &old, 2 * DAY);
    assert_eq!(listed(&mount, ""), [""; 0]);
    expect(&mount, &[old]);
}

#[test]
fn what_made_way_for_a_file_that_never_came_is_put_back() {
    let (mount, id) = writable();
    let alone = temporary(id, Duration::ZERO, "-alone");
    let replaced = temporary(id, Duration::ZERO, "-replaced");
    let nameless = temporary(id, Duration::ZERO, "-");
    for name in [&alone, &replaced, &nameless, "replaced"] {
        leave(&mount, name, Duration::ZERO);
    }
    assert_eq!(listed(&mount, ""), ["replaced"]);
    let expected = ["alone".to_owned(), "replaced".to_owned(), nameless];
    expect(&mount, &expected);
    assert_eq!(fs::read_to_string(mount.there("alone")).unwrap(), alone);
    assert_eq!(
        fs::read_to_string(mount.there("replaced")).unwrap(),
        "replaced"
    );
    thread::sleep(BELIEF);
    assert_eq!(listed(&mount, ""), ["alone", "replaced"]);
}

#[test]
fn a_directory_with_leftovers_can_be_removed() {
    let (mount, id) = writable();
    fs::create_dir(mount.there("dir")).unwrap();
    let inside = |name: String| format!("dir/{name}");
    let fresh = inside(temporary(id ^ 1, Duration::ZERO, ""));
    leave(
        &mount,
        &inside(temporary(id, Duration::ZERO, "")),
        Duration::ZERO,
    );
    leave(&mount, &inside(temporary(id ^ 2, 2 * DAY, "")), 2 * DAY);
    leave(&mount, &fresh, Duration::ZERO);
    assert_eq!(errno(fs::remove_dir(mount.here("dir"))), libc::ENOTEMPTY);
    assert!(mount.there(&fresh).exists());
    fs::remove_file(mount.there(&fresh)).unwrap();
    fs::remove_dir(mount.here("dir")).unwrap();
    expect(&mount, &[]);
    // Something of the user's that waits to be put back is no leftover.
    fs::create_dir(mount.there("other")).unwrap();
    let aside = format!("other/{}", temporary(id, Duration::ZERO, "-kept"));
    leave(&mount, &aside, Duration::ZERO);
    assert_eq!(errno(fs::remove_dir(mount.here("other"))), libc::ENOTEMPTY);
}

#[test]
fn what_was_unlinked_outlives_its_directory_while_it_is_open() {
    let (mount, _) = writable();
    fs::create_dir_all(mount.there("a/dir")).unwrap();
    let all = content(3 << 20);
    fs::write(mount.there("a/dir/file"), &all).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .open(mount.here("a/dir/file"))
        .unwrap();
    fs::remove_file(mount.here("a/dir/file")).unwrap();
    for _ in 0..3 {
        assert_eq!(listed(&mount, "a/dir"), [""; 0]);
        thread::sleep(BELIEF);
    }
    fs::remove_dir(mount.here("a/dir")).unwrap();
    fs::remove_dir(mount.here("a")).unwrap();
    file.write_all_at(b"changed", 1_000_000).unwrap();
    let mut expected = all;
    expected[1_000_000..1_000_007].copy_from_slice(b"changed");
    let mut read = vec![0; expected.len()];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == expected);
    drop(file);
    expect(&mount, &[]);
}

/// The upload's temporary file is in the directory, though the file itself has moved on.
#[test]
fn rmdir_waits_for_an_upload_that_began_there() {
    let (mount, _) = writable();
    fs::create_dir(mount.here("dir")).unwrap();
    let all = content(48 << 20);
    let (path, bytes) = (mount.here("dir/file"), all.clone());
    let writer = thread::spawn(move || fs::write(path, bytes));
    let dir = mount.there("dir");
    let begun = || fs::read_dir(&dir).unwrap().next().is_some();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !begun() && Instant::now() < deadline {
        thread::yield_now();
    }
    fs::rename(mount.here("dir/file"), mount.here("file")).unwrap();
    fs::remove_dir(mount.here("dir")).unwrap();
    writer.join().unwrap().unwrap();
    assert!(fs::read(mount.there("file")).unwrap() == all);
    expect(&mount, &["file".to_owned()]);
}

#[test]
fn nobody_makes_names_like_ours() {
    let (mount, id) = writable();
    let name = temporary(id, Duration::ZERO, "");
    fs::write(mount.here("file"), "x").unwrap();
    for error in [
        errno(fs::write(mount.here(&name), "x")),
        errno(fs::create_dir(mount.here(&name))),
        errno(fs::rename(mount.here("file"), mount.here(&name))),
    ] {
        assert_eq!(error, libc::EINVAL);
    }
    expect(&mount, &["file".to_owned()]);
}
