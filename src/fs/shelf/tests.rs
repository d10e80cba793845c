//! The cache over real folders.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use super::*;

const MIB: u64 = 1 << 20;

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text.as_bytes()).unwrap()
}

/// Of a file that was last changed long ago, at a second of no round number.
fn edition(size: u64, second: u64) -> Edition {
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + 900 * second + 1);
    Edition {
        version: Version::new(size, mtime),
        unique: None,
    }
}

/// Bytes that differ from file to file and from block to block.
fn content(seed: u64, size: u64) -> Vec<u8> {
    let word = |i: u64| (i + seed * 1_000_003).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes: Vec<u8> = (0..size.div_ceil(8))
        .flat_map(|i| word(i).to_le_bytes())
        .collect();
    bytes.truncate(size as usize);
    bytes
}

fn open(folder: &Path) -> Shelf {
    open_within(folder, 64 * MIB)
}

fn open_within(folder: &Path, limit: u64) -> Shelf {
    Shelf::open(folder, limit, Duration::ZERO).unwrap()
}

impl Shelf {
    /// Waits until everything is written.
    fn settle(&self) {
        let mut state = self.0.state.lock();
        while state.busy || !state.queue.is_empty() {
            self.0.done.wait(&mut state);
        }
    }

    fn put(&self, path: &RemotePath, edition: Edition, bytes: &[u8]) {
        self.keep(path, edition).unwrap().push(0, bytes);
        self.settle();
    }

    /// All of a file.
    fn whole(&self, path: &RemotePath, edition: Edition) -> Option<Vec<u8>> {
        let all = 0..edition.version.size;
        let may = self.may_hold(path, &edition, &all);
        let read = self.read(path, &edition, &all);
        assert!(may || read.is_none());
        read
    }
}

/// What the folder takes of the disk.
fn taken(folder: &Path) -> u64 {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap());
    files.map(|found| found.blocks() * 512).sum()
}

fn file(folder: &Path, path: &RemotePath, ending: &str) -> PathBuf {
    folder.join(format!("{}{ending}", book::name(path)))
}

#[test]
fn what_was_read_is_there_after_a_remount() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("c");
    let (file, edition) = (path("/a/b"), edition(300_001, 1));
    let bytes = content(1, 300_001);
    let shelf = open(&folder);
    let mut keeping = shelf.keep(&file, edition).unwrap();
    // In pieces of any length, as they come from the network.
    let mut at = 0;
    for length in [1, 4095, 4096, 5000, 16_384, 100_000].into_iter().cycle() {
        let piece = &bytes[at..(at + length).min(bytes.len())];
        keeping.push(at as u64, piece);
        at += piece.len();
        if at == bytes.len() {
            break;
        }
    }
    shelf.close();
    assert!(!shelf.may_hold(&file, &edition, &(0..1)), "closed");
    let shelf = open(&folder);
    assert_eq!(shelf.whole(&file, edition), Some(bytes.clone()));
    for range in [0..1, 4095..4097, 7..300_000, 299_999..300_001, 8192..12_288] {
        let part = shelf.read(&file, &edition, &range);
        assert_eq!(
            part.as_deref(),
            Some(&bytes[range.start as usize..range.end as usize])
        );
    }
    let told = shelf.in_use();
    assert_eq!((told.files, told.hits, told.misses), (1, 6, 0));
    assert!(told.enabled && told.bytes == taken(&folder) - taken_by_lock(&folder));
    shelf.close();
}

fn taken_by_lock(folder: &Path) -> u64 {
    fs::metadata(folder.join("lock")).unwrap().blocks() * 512
}

#[test]
fn only_whole_blocks_are_kept_and_only_those_fetched() {
    let place = tempfile::tempdir().unwrap();
    let shelf = open(&place.path().join("c"));
    let (file, edition) = (path("/f"), edition(5 * MIB, 1));
    let bytes = content(1, 5 * MIB);
    let mut keeping = shelf.keep(&file, edition).unwrap();
    keeping.push(4096 + 10, &bytes[4106..20_000]);
    // Elsewhere: what was begun does not go on here.
    keeping.push(MIB, &bytes[MIB as usize..MIB as usize + 4096]);
    shelf.settle();
    let read = |range: Range<u64>| shelf.read(&file, &edition, &range);
    assert_eq!(read(8192..16_384).as_deref(), Some(&bytes[8192..16_384]));
    assert_eq!(
        read(MIB..MIB + 4096).as_deref(),
        Some(&bytes[MIB as usize..][..4096])
    );
    assert_eq!(read(4096..8192), None, "its beginning was not fetched");
    assert_eq!(read(16_384..16_385), None, "its end was not fetched");
    assert_eq!(read(0..8192), None);
    shelf.close();
}

#[test]
fn another_version_is_never_served() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("c");
    let shelf = open(&folder);
    let file = path("/f");
    let old = edition(10_000, 1);
    shelf.put(&file, old, &content(1, 10_000));
    let others = [
        edition(10_000, 2),
        edition(9_999, 1),
        edition(10_001, 1),
        Edition {
            unique: Some(1),
            ..old
        },
    ];
    for other in others {
        assert!(!shelf.may_hold(&file, &other, &(0..1)));
        assert_eq!(shelf.read(&file, &other, &(0..1)), None);
    }
    assert!(shelf.whole(&file, old).is_some());
    // The new one takes the place of the old one, also after a remount.
    shelf.put(&file, others[0], &content(2, 10_000));
    assert_eq!(shelf.whole(&file, old), None);
    shelf.close();
    let shelf = open(&folder);
    assert_eq!(shelf.whole(&file, old), None);
    assert_eq!(shelf.whole(&file, others[0]), Some(content(2, 10_000)));
    assert_eq!(shelf.in_use().files, 1);
    shelf.close();
}

#[test]
fn a_torn_block_costs_only_itself() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("c");
    let (name, edition) = (path("/f"), edition(40_000, 1));
    let bytes = content(1, 40_000);
    let shelf = open(&folder);
    shelf.put(&name, edition, &bytes);
    shelf.close();
    let data = File::options()
        .write(true)
        .open(file(&folder, &name, DATA))
        .unwrap();
    data.write_all_at(&[0; 50], 4096 + 4000).unwrap();
    let shelf = open(&folder);
    assert_eq!(shelf.read(&name, &edition, &(4000..9000)), None);
    assert_eq!(
        shelf.read(&name, &edition, &(0..4096)).as_deref(),
        Some(&bytes[..4096])
    );
    assert_eq!(
        shelf.read(&name, &edition, &(8192..40_000)).as_deref(),
        Some(&bytes[8192..])
    );
    // Fetched again it is whole.
    shelf.put(&name, edition, &bytes);
    assert_eq!(shelf.whole(&name, edition), Some(bytes.clone()));
    shelf.close();
    // Cut short, or its checksum lost.
    data.set_len(39_000).unwrap();
    let sums = File::options()
        .write(true)
        .open(file(&folder, &name, SUMS))
        .unwrap();
    let table = sums.metadata().unwrap().len() - 8 * 10;
    sums.write_all_at(&[0; 8], table).unwrap();
    let shelf = open(&folder);
    assert_eq!(shelf.read(&name, &edition, &(36_864..40_000)), None);
    assert_eq!(shelf.read(&name, &edition, &(0..4096)), None);
    assert_eq!(
        shelf.read(&name, &edition, &(4096..36_864)).as_deref(),
        Some(&bytes[4096..36_864])
    );
    assert!(shelf.in_use().enabled);
    shelf.close();
}

#[test]
fn what_is_no_book_is_removed() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("c");
    let names = [
        path("/torn"),
        path("/lone"),
        path("/swapped"),
        path("/whole"),
    ];
    let shelf = open(&folder);
    for name in &names {
        shelf.put(name, edition(5000, 1), &content(1, 5000));
    }
    shelf.close();
    let sums = File::options()
        .write(true)
        .open(file(&folder, &names[0], SUMS))
        .unwrap();
    sums.write_all_at(b"?", 20).unwrap();
    fs::remove_file(file(&folder, &names[1], DATA)).unwrap();
    fs::copy(
        file(&folder, &names[3], SUMS),
        file(&folder, &names[2], SUMS),
    )
    .unwrap();
    fs::write(folder.join("0.data"), "").unwrap();
    let shelf = open(&folder);
    for name in &names[..3] {
        assert_eq!(shelf.whole(name, edition(5000, 1)), None, "{name}");
    }
    assert!(shelf.whole(&names[3], edition(5000, 1)).is_some());
    shelf.close();
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        3,
        "one book and the lock"
    );
}

#[test]
fn the_least_recently_used_goes_first_and_the_bound_holds() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("c");
    let shelf = open_within(&folder, MIB);
    let name = |n: u64| path(&format!("/{n}"));
    let size = 200_000;
    let edition = edition(size, 1);
    for n in 0..4 {
        shelf.put(&name(n), edition, &content(n, size));
    }
    assert_eq!(shelf.in_use().files, 4);
    assert!(shelf.whole(&name(0), edition).is_some());
    for n in 4..6 {
        shelf.put(&name(n), edition, &content(n, size));
        assert!(taken(&folder) <= MIB, "{}", taken(&folder));
        assert!(shelf.in_use().bytes <= MIB);
    }
    let there = |shelf: &Shelf, n| shelf.whole(&name(n), edition).is_some();
    assert!(there(&shelf, 0) && there(&shelf, 4) && there(&shelf, 5));
    assert!(!there(&shelf, 1), "it was used least recently");
    // A file larger than the whole cache takes no more than that.
    let huge = Edition {
        version: Version::new(8 * MIB, edition.version.mtime),
        ..edition
    };
    let bytes = content(9, 8 * MIB);
    let mut keeping = shelf.keep(&name(9), huge).unwrap();
    for (at, piece) in bytes.chunks(100_000).enumerate() {
        keeping.push(at as u64 * 100_000, piece);
        shelf.settle();
        assert!(taken(&folder) <= MIB, "{}", taken(&folder));
    }
    assert!(shelf.read(&name(9), &huge, &(0..500_000)).is_some());
    assert_eq!(shelf.whole(&name(9), huge), None);
    shelf.close();
    // Opened with less room it shrinks.
    let shelf = open_within(&folder, MIB / 4);
    assert!(shelf.in_use().bytes <= MIB / 4);
    shelf.close();
}

#[test]
fn use_counts_across_mounts() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("c");
    let shelf = open(&folder);
    let names = [path("/old"), path("/new")];
    for name in &names {
        shelf.put(name, edition(5000, 1), &content(1, 5000));
    }
    shelf.close();
    let sums = |name| {
        File::options()
            .write(true)
            .open(file(&folder, name, SUMS))
            .unwrap()
    };
    let then = |ago| SystemTime::now() - Duration::from_secs(ago);
    sums(&names[0]).set_modified(then(1000)).unwrap();
    sums(&names[1]).set_modified(then(100)).unwrap();
    let shelf = open(&folder);
    assert!(
        shelf.whole(&names[0], edition(5000, 1)).is_some(),
        "it is used again"
    );
    shelf.close();
    let shelf = open_within(&folder, 20_000);
    assert!(shelf.whole(&names[0], edition(5000, 1)).is_some());
    assert_eq!(shelf.in_use().files, 1);
    shelf.close();
}

#[test]
fn files_changed_just_now_are_not_kept() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_041);
    let settled = |ago: u64| {
        let version = Version::new(1, now - Duration::from_secs(ago));
        Edition {
            version,
            unique: None,
        }
        .is_settled(now)
    };
    assert!(!settled(0) && !settled(2) && settled(3));
    // 22:14:00, and 22:00:00 the day before: perhaps from a listing.
    assert!(!settled(1));
    let at = |second: u64, now: u64| {
        let time = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let version = Version::new(1, time(second));
        Edition {
            version,
            unique: None,
        }
        .is_settled(time(now))
    };
    assert!(!at(6000, 6061) && at(6060, 6123), "minutes");
    assert!(!at(900, 80_000) && at(900, 90_000), "days");
    assert!(!at(2000, 1000), "its clock is ahead");
    let shelf_free = Edition::of(&crate::fs::tests::file(7));
    assert_eq!(shelf_free, None, "a server that tells no time");
}

#[test]
fn what_we_change_ourselves_is_forgotten_at_once() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("c");
    let shelf = open(&folder);
    let names = [path("/d/a"), path("/d/e/b"), path("/dd"), path("/x")];
    let edition = edition(5000, 1);
    for name in &names {
        shelf.put(name, edition, &content(1, 5000));
    }
    // Fetched before the change, and to be written after it.
    let mut late = shelf.keep(&names[0], edition).unwrap();
    shelf.forget(&path("/d"));
    late.push(0, &content(2, 5000));
    shelf.settle();
    let there = |shelf: &Shelf| {
        names
            .each_ref()
            .map(|name| shelf.whole(name, edition).is_some())
    };
    assert_eq!(there(&shelf), [false, false, true, true]);
    assert!(!file(&folder, &names[0], DATA).exists());
    shelf.close();
    let shelf = open(&folder);
    assert_eq!(there(&shelf), [false, false, true, true]);
    // From then on it is kept anew.
    shelf.put(&names[0], edition, &content(2, 5000));
    assert_eq!(shelf.whole(&names[0], edition), Some(content(2, 5000)));
    shelf.close();
}

#[test]
fn one_owner_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("c");
    let shelf = open(&folder);
    let second = Shelf::open(&folder, MIB, Duration::ZERO);
    assert!(
        matches!(second, Err(SpoolError::AlreadyLocked { .. })),
        "{second:?}"
    );
    shelf.close();
    open(&folder).close();
}

#[test]
fn a_folder_that_is_not_ours_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let refused = |folder: &Path| match Shelf::open(folder, MIB, Duration::ZERO) {
        Err(SpoolError::Insecure { .. }) => true,
        other => panic!("{other:?}"),
    };
    let writable = place.path().join("writable");
    fs::create_dir(&writable).unwrap();
    fs::set_permissions(&writable, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refused(&writable));
    let open_house = place.path().join("house");
    fs::create_dir(&open_house).unwrap();
    fs::set_permissions(&open_house, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refused(&open_house.join("c")));
    let real = place.path().join("real");
    open(&real).close();
    assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o700);
    symlink(&real, place.path().join("link")).unwrap();
    assert!(refused(&place.path().join("link")));
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&real, Some(1234), None).unwrap();
        assert!(refused(&real));
    }
}

#[test]
fn a_failing_disk_turns_it_off_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("c");
    let shelf = open(&folder);
    let edition = edition(5000, 1);
    shelf.put(&path("/a"), edition, &content(1, 5000));
    // A folder in its place is as good as a disk that fails.
    fs::create_dir(file(&folder, &path("/b"), SUMS)).unwrap();
    shelf.put(&path("/b"), edition, &content(1, 5000));
    assert!(!shelf.in_use().enabled);
    assert_eq!(shelf.whole(&path("/a"), edition), None);
    assert!(shelf.keep(&path("/a"), edition).is_none());
    shelf.forget(&path("/a"));
    shelf.close();
}

#[test]
fn a_queue_that_is_full_keeps_nobody_waiting() {
    let place = tempfile::tempdir().unwrap();
    let shelf = open_within(&place.path().join("c"), 256 * MIB);
    let size = 64 * MIB;
    let edition = edition(size, 1);
    let file = path("/f");
    let mut keeping = shelf.keep(&file, edition).unwrap();
    let bytes = content(1, MIB);
    for at in 0..64 {
        keeping.push(at * MIB, &bytes);
        assert!(shelf.0.state.lock().queued <= QUEUE);
    }
    shelf.settle();
    assert!(shelf.in_use().bytes >= MIB, "as much as came through");
    for at in 0..64 {
        let read = shelf.read(&file, &edition, &(at * MIB..(at + 1) * MIB));
        assert!(read.is_none_or(|read| read == bytes));
    }
    shelf.close();
}

#[test]
fn a_file_is_proven_once_this_mount_has_seen_all_of_it() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("c");
    let (file_path, size) = (path("/f"), 5 * BLOCK + 77);
    let (edition, other) = (edition(size, 1), edition(size, 2));
    let bytes = content(1, size);
    let shelf = open(&folder);
    let proven = |shelf: &Shelf| {
        let data = shelf.proven(&file_path, &edition)?;
        let mut read = vec![0; size as usize];
        data.read_exact_at(&mut read, 0).unwrap();
        Some(read)
    };
    let mut keeping = shelf.keep(&file_path, edition).unwrap();
    keeping.push(0, &bytes[..(5 * BLOCK) as usize]);
    shelf.settle();
    assert_eq!(proven(&shelf), None, "a part");
    keeping.push(5 * BLOCK, &bytes[(5 * BLOCK) as usize..]);
    shelf.settle();
    assert!(
        proven(&shelf).as_ref() == Some(&bytes),
        "it was written by us"
    );
    assert!(shelf.proven(&file_path, &other).is_none());
    shelf.close();
    assert_eq!(proven(&shelf), None);
    drop(keeping);

    // What another mount has left is read once, with its checksums.
    let shelf = open(&folder);
    assert_eq!(proven(&shelf), None);
    assert!(shelf.read(&file_path, &edition, &(0..3 * BLOCK)).is_some());
    assert_eq!(proven(&shelf), None);
    assert!(
        shelf
            .read(&file_path, &edition, &(3 * BLOCK - 1..size))
            .is_some()
    );
    assert!(proven(&shelf).as_ref() == Some(&bytes));
    // A file that somebody has cut is none.
    let data = File::options()
        .write(true)
        .open(file(&folder, &file_path, DATA));
    let data = data.unwrap();
    data.set_len(size - 1).unwrap();
    assert_eq!(proven(&shelf), None);
    data.set_len(size).unwrap();
    // Nor what turns out to be damaged.
    data.write_all_at(b"?", 9).unwrap();
    assert_eq!(shelf.read(&file_path, &edition, &(0..size)), None);
    assert_eq!(proven(&shelf), None);
    shelf.put(&file_path, edition, &bytes);
    assert!(proven(&shelf).as_ref() == Some(&bytes));
    // What was handed out is not touched by what comes after.
    let held = shelf.proven(&file_path, &edition).unwrap();
    shelf.forget(&file_path);
    assert_eq!(proven(&shelf), None);
    shelf.put(&file_path, other, &content(2, size));
    assert_eq!(proven(&shelf), None);
    let mut read = vec![0; size as usize];
    held.read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes);
    shelf.close();
}
