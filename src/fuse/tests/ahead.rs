//! New files go to the server while they are still being written.

use super::*;

const MIB: usize = 1 << 20;

/// What lies under temporary names on the server, bytes.
fn under_way(mount: &Mount) -> u64 {
    let entries = fs::read_dir(mount.served.path()).unwrap().flatten();
    let temporary = entries.filter(|e| e.file_name().to_string_lossy().starts_with(".ftpsfs-"));
    temporary.map(|e| e.metadata().map_or(0, |m| m.len())).sum()
}

/// Waits until so much went ahead.
fn await_under_way(mount: &Mount, at_least: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while under_way(mount) < at_least {
        assert!(Instant::now() < deadline, "only {}", under_way(mount));
        thread::sleep(Duration::from_millis(10));
    }
}

/// Begins a file with 6 MiB that are on the server already.
fn begin(mount: &Mount, all: &[u8]) -> File {
    let mut file = File::create(mount.here("file")).unwrap();
    file.write_all(&all[..6 * MIB]).unwrap();
    await_under_way(mount, 5 * MIB as u64);
    file
}

fn expect(mount: &Mount, all: &[u8]) {
    assert!(fs::read(mount.there("file")).unwrap() == all);
    let names: Vec<_> = fs::read_dir(mount.served.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["file"]);
    assert!(fs::read(mount.here("file")).unwrap() == all);
}

#[test]
fn a_copy_is_on_the_server_before_it_is_closed_and_shows_then() {
    let mount = Mount::writable();
    let all = content(10 * MIB + 77);
    let mut file = begin(&mount, &all);
    assert!(!mount.there("file").exists());
    file.write_all(&all[6 * MIB..]).unwrap();
    drop(file);
    expect(&mount, &all);
    // Its whole content is written anew, likewise.
    let other: Vec<u8> = all.iter().map(|byte| byte ^ 0x55).collect();
    let mut file = begin(&mount, &other);
    assert!(fs::read(mount.there("file")).unwrap() == all);
    file.write_all(&other[6 * MIB..]).unwrap();
    drop(file);
    expect(&mount, &other);
}

#[test]
fn bytes_changed_after_they_went_ahead_arrive_all_the_same() {
    let mount = Mount::writable();
    let mut all = content(9 * MIB);
    let mut file = begin(&mount, &all);
    file.write_all_at(b"changed", 1000).unwrap();
    all[1000..1007].copy_from_slice(b"changed");
    file.write_all(&all[6 * MIB..]).unwrap();
    drop(file);
    expect(&mount, &all);
    // Cut, and grown again.
    let file = begin(&mount, &all);
    file.set_len(10).unwrap();
    file.set_len(7 * MIB as u64).unwrap();
    drop(file);
    expect(&mount, &[&all[..10], &vec![0; 7 * MIB - 10]].concat());
}

#[test]
fn an_unlinked_file_that_went_ahead_leaves_nothing() {
    let mount = Mount::writable();
    let all = content(6 * MIB);
    let file = begin(&mount, &all);
    let reader = File::open(mount.here("file")).unwrap();
    fs::remove_file(mount.here("file")).unwrap();
    let mut read = vec![0; 6 * MIB];
    reader.read_exact_at(&mut read, 0).unwrap();
    assert!(read == all);
    drop((file, reader));
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::read_dir(mount.served.path()).unwrap().count() > 0 {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_arrived_before_a_break_is_not_sent_again() {
    let mount = Mount::writable();
    let all = content(12 * MIB);
    let mut file = begin(&mount, &all);
    let temporary = || {
        let mut entries = fs::read_dir(mount.served.path()).unwrap();
        entries.next().unwrap().unwrap().metadata().unwrap().ino()
    };
    let before = temporary();
    mount.proxy.cut();
    file.write_all(&all[6 * MIB..]).unwrap();
    drop(file);
    expect(&mount, &all);
    assert_eq!(fs::metadata(mount.there("file")).unwrap().ino(), before);
}

#[test]
fn a_writer_that_pauses_holds_up_nobody() {
    let mount = Mount::writable_with(1, |_| {});
    fs::write(mount.there("other"), "other").unwrap();
    let all = content(12 * MIB);
    let mut file = begin(&mount, &all);
    let begun = Instant::now();
    assert_eq!(fs::read(mount.here("other")).unwrap(), b"other");
    assert!(begun.elapsed() < Duration::from_secs(3));
    file.write_all(&all[6 * MIB..]).unwrap();
    drop(file);
    fs::remove_file(mount.here("other")).unwrap();
    expect(&mount, &all);
}
