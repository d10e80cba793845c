//! What programs do to write: the mount, and the server's own folder beside it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use super::*;

/// The content on the server.
fn stored(mount: &Mount, name: &str) -> Vec<u8> {
    fs::read(mount.there(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What the server's folder holds, hidden files as well.
pub(super) fn names(mount: &Mount) -> Vec<String> {
    let entries = fs::read_dir(mount.served.path()).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn append(path: PathBuf) -> File {
    File::options().append(true).open(path).unwrap()
}

fn read_write(path: PathBuf) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn what_was_written_is_on_the_server_after_close() {
    let mount = Mount::writable();
    for len in [0, 1, 4096, 1_000_003, 9 << 20] {
        let name = format!("f{len}");
        fs::write(mount.here(&name), content(len)).unwrap();
        assert!(stored(&mount, &name) == content(len), "{len}");
        assert!(
            fs::read(mount.here(&name)).unwrap() == content(len),
            "{len}"
        );
        assert_eq!(fs::metadata(mount.here(&name)).unwrap().len(), len as u64);
    }
    assert_eq!(names(&mount), ["f0", "f1", "f1000003", "f4096", "f9437184"]);
}

#[test]
fn a_file_is_overwritten_in_part_where_mdtm_and_listings_differ_by_a_zone() {
    for hidden in [&[][..], &["MLST", "MLSD"]] {
        let served = tempfile::tempdir().unwrap();
        let mut config = server::Config::new(served.path(), Security::Implicit, Users::Anyone);
        config.mdtm_slip = Duration::from_secs(5 * 3600);
        config.without = hidden.iter().map(|&verb| verb.to_owned()).collect();
        let mount = Mount::writable_serving(served, config, 4, |_| {});
        let mut all = content(3 << 20);
        fs::write(mount.there("file"), &all).unwrap();
        // Nothing of it has been read before: the rest has to be fetched from there.
        let file = File::options()
            .write(true)
            .open(mount.here("file"))
            .unwrap();
        file.write_all_at(b"overwritten", 1_000_000).unwrap();
        drop(file);
        all[1_000_000..1_000_011].copy_from_slice(b"overwritten");
        assert!(stored(&mount, "file") == all, "{hidden:?}");
        append(mount.here("file")).write_all(b"more").unwrap();
        all.extend(b"more");
        assert!(stored(&mount, "file") == all, "{hidden:?}");
        assert!(fs::read(mount.here("file")).unwrap() == all, "{hidden:?}");
    }
}

/// The server was slow to write what it had got of an append before that was broken off.
#[test]
fn a_broken_append_goes_on_behind_what_the_server_writes_late() {
    let (mount, faults) = Mount::failing(|_| {}, |_| {});
    let all = content(900_000);
    let there = mount.there("file");
    fs::write(&there, &all[..100_000]).unwrap();
    let broken = "data received byte 300000 in APPE: rst";
    faults.set(broken.parse().unwrap());
    let hit = || {
        while faults.counts().hits == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    };
    thread::scope(|scope| {
        let appended = scope.spawn(|| {
            let mut file = append(mount.here("file"));
            file.write_all(&all[100_000..])?;
            file.sync_all()
        });
        hit();
        // The next SIZE is that of the next APPE.
        faults.set("SIZE 1: stall 1s".parse().unwrap());
        hit();
        let mut late = append(there.clone());
        let begun = late.metadata().unwrap().len() as usize;
        assert!((100_000..600_000).contains(&begun), "{begun}");
        late.write_all(&all[begun..600_000]).unwrap();
        appended.join().unwrap().unwrap();
    });
    assert!(fs::read(there).unwrap() == all);
}

/// Another client renames a file away between its listing and its MDTM, and back: what the line of the
/// listing says to the minute was taken for its time, and the file for another version of itself.
#[test]
fn a_file_that_is_gone_for_a_moment_keeps_the_seconds_of_its_time() {
    let hide = |config: &mut server::Config| {
        config.without = ["MLST", "MLSD"].map(str::to_owned).to_vec();
    };
    let (mount, faults) = Mount::failing(hide, |_| {});
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let minute =
        SystemTime::UNIX_EPOCH + Duration::from_secs((now.unwrap().as_secs() / 60 - 60) * 60);
    let time = minute + Duration::from_secs(31);
    for folder in ["first", "1", "2", "3", "denied"] {
        fs::create_dir(mount.there(folder)).unwrap();
        for name in ["a", "b", "c"] {
            let file = File::create(mount.there(folder).join(name)).unwrap();
            file.set_modified(time).unwrap();
        }
    }
    let shown = |folder: &str| -> Vec<_> {
        let entries = fs::read_dir(mount.here(folder)).unwrap();
        let times = entries.map(|entry| entry.unwrap().metadata().unwrap().modified().unwrap());
        times.collect()
    };
    assert_eq!(shown("first"), [time; 3]);
    for nth in 1..=3 {
        let rule = format!("MDTM {nth}: reply \"550 No such file\"");
        faults.set(rule.parse().unwrap());
        assert_eq!(shown(&nth.to_string()), [time; 3], "{rule}");
        assert_eq!(faults.counts().hits, 1, "{rule}");
    }
    // Of a file that is never told of, what the listing says is all there is.
    faults.set("MDTM always: reply \"550 Denied\"".parse().unwrap());
    assert_eq!(shown("denied"), [minute; 3]);
}

#[test]
fn existing_files_are_overwritten_and_cut() {
    let mount = Mount::writable();
    fs::write(mount.there("file"), content(300_000)).unwrap();
    fs::write(mount.here("file"), "short").unwrap();
    assert_eq!(stored(&mount, "file"), b"short");
    fs::write(mount.here("file"), content(400_000)).unwrap();
    assert!(stored(&mount, "file") == content(400_000));
    read_write(mount.here("file")).set_len(1000).unwrap();
    assert!(stored(&mount, "file") == content(1000));
    // By path, nobody has it open.
    nix::unistd::truncate(&mount.here("file"), 2000).unwrap();
    assert_eq!(
        stored(&mount, "file"),
        [content(1000), vec![0; 1000]].concat()
    );
    nix::unistd::truncate(&mount.here("file"), 0).unwrap();
    assert_eq!(stored(&mount, "file"), b"");
}

#[test]
fn a_file_is_read_back_while_it_is_written() {
    let mount = Mount::writable();
    let mut all = content(3 << 20);
    fs::write(mount.there("file"), &all).unwrap();
    let file = read_write(mount.here("file"));
    let other = File::open(mount.here("file")).unwrap();
    for (at, len) in [
        (1_000_000, 100),
        (0, 5),
        (2_000_000, 300_000),
        (3 << 20, 10),
        (4 << 20, 7),
    ] {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + at) as u8).collect();
        file.write_all_at(&bytes, at as u64).unwrap();
        all.resize(all.len().max(at + len), 0);
        all[at..at + len].copy_from_slice(&bytes);
        for reader in [&file, &other] {
            let mut read = vec![0; all.len()];
            reader.read_exact_at(&mut read, 0).unwrap();
            assert!(read == all, "{len} bytes at {at}");
        }
        assert_eq!(other.metadata().unwrap().len(), all.len() as u64);
        assert_eq!(
            fs::metadata(mount.here("file")).unwrap().len(),
            all.len() as u64
        );
    }
    file.sync_all().unwrap();
    assert!(stored(&mount, "file") == all);
    file.write_all_at(b"again", 77).unwrap();
    all[77..82].copy_from_slice(b"again");
    drop(file);
    assert!(stored(&mount, "file") == all);
    let mut read = vec![0; all.len()];
    other.read_exact_at(&mut read, 0).unwrap();
    assert!(read == all);
}

#[test]
fn appends_move_only_what_is_new() {
    let mount = Mount::writable();
    let all = content(2 << 20);
    fs::write(mount.there("log"), &all).unwrap();
    let mut expected = all.clone();
    for round in 0..3 {
        let mut file = append(mount.here("log"));
        for line in 0..2 {
            let line = format!("line {round} {line}\n");
            file.write_all(line.as_bytes()).unwrap();
            expected.extend_from_slice(line.as_bytes());
        }
        drop(file);
        assert!(stored(&mount, "log") == expected, "{round}");
    }
    // Several closes of one file: `{ a; b; } > f`.
    let mut file = File::create(mount.here("many")).unwrap();
    let mut expected = Vec::new();
    for round in 0..5 {
        let bytes = content(10_000 + round);
        file.write_all(&bytes).unwrap();
        expected.extend_from_slice(&bytes);
        drop(file.try_clone().unwrap());
        assert!(stored(&mount, "many") == expected, "{round}");
    }
    // Two that append to one file at the same time.
    let (mut one, mut two) = (append(mount.here("many")), append(mount.here("many")));
    for _ in 0..10 {
        one.write_all(b"one\n").unwrap();
        two.write_all(b"two\n").unwrap();
        expected.extend_from_slice(b"one\ntwo\n");
    }
    drop((one, two));
    assert!(stored(&mount, "many") == expected);
}

#[test]
fn small_changes_of_large_files() {
    let mount = Mount::writable();
    let mut all = content(5 << 20);
    fs::write(mount.there("file"), &all).unwrap();
    let before = fs::metadata(mount.there("file")).unwrap().ino();
    let file = read_write(mount.here("file"));
    for at in [5_000, 2_000_000, 4_999_999] {
        file.write_all_at(b"changed", at).unwrap();
        all[at as usize..][..7].copy_from_slice(b"changed");
    }
    drop(file);
    assert!(stored(&mount, "file") == all);
    let after = fs::metadata(mount.there("file")).unwrap().ino();
    assert_eq!(before, after, "in place");
    // At the very beginning it cannot be done in place.
    read_write(mount.here("file"))
        .write_all_at(b"changed", 0)
        .unwrap();
    all[..7].copy_from_slice(b"changed");
    assert!(stored(&mount, "file") == all);
    assert!(fs::read(mount.here("file")).unwrap() == all);
    assert_eq!(names(&mount), ["file"]);
}

/// What only the server has can be read while something else in the file is being sent there.
#[test]
fn a_file_is_read_while_it_is_changed_in_place_or_appended_to() {
    let (mount, faults) = Mount::failing(|_| {}, |_| {});
    let mut all = content(5 << 20);
    fs::write(mount.there("file"), &all).unwrap();
    let minute_ago = SystemTime::now() - Duration::from_secs(60);
    let times = fs::FileTimes::new().set_modified(minute_ago);
    let there = File::options().write(true).open(mount.there("file"));
    there.unwrap().set_times(times).unwrap();
    for at in [2_000_000, all.len()] {
        let file = read_write(mount.here("file"));
        file.write_all_at(b"changed", at as u64).unwrap();
        all.resize(all.len().max(at + 7), 0);
        all[at..][..7].copy_from_slice(b"changed");
        faults.set("MFMT 1: stall 2s".parse().unwrap());
        thread::scope(|scope| {
            let sent = scope.spawn(|| file.sync_all());
            let begun = Instant::now();
            while fs::read(mount.there("file")).unwrap() != all {
                assert!(begun.elapsed() < PATIENCE);
                thread::sleep(Duration::from_millis(10));
            }
            let mut read = vec![0; 100_000];
            file.read_exact_at(&mut read, 4_000_000).unwrap();
            assert!(read == all[4_000_000..][..100_000]);
            sent.join().unwrap().unwrap();
        });
        faults.clear();
        drop(file);
        assert!(fs::read(mount.here("file")).unwrap() == all);
    }
}

/// close(2) failed, though the server had done what it could not say: a rename takes that along.
#[test]
fn a_file_that_was_uploaded_unheard_leaves_no_copy_under_its_old_name() {
    let (mount, faults) = Mount::failing(|_| {}, |_| {});
    let file = File::create(mount.here("old")).unwrap();
    file.write_all_at(b"content", 0).unwrap();
    faults.set("MFMT 1 x100: fin".parse().unwrap());
    assert_eq!(errno(file.sync_all()), libc::EIO);
    drop(file);
    faults.clear();
    fs::rename(mount.here("old"), mount.here("new")).unwrap();
    assert_eq!(stored(&mount, "new"), b"content");
    assert_eq!(names(&mount), ["new"]);
    let there: Vec<_> = fs::read_dir(mount.served.path()).unwrap().collect();
    assert_eq!(there.len(), 1, "{there:?}");
}

/// Such a read went round in circles, in the threads that serve the kernel: the mount hung.
#[test]
fn a_file_that_others_replaced_and_we_write_to_keeps_no_old_reader_waiting() {
    let mount = Mount::writable();
    fs::write(mount.there("file"), content(3 << 20)).unwrap();
    let before = File::open(mount.here("file")).unwrap();
    let mut part = vec![0; 4096];
    before.read_exact_at(&mut part, 0).unwrap();
    fs::write(mount.there("new"), content(2 << 20)).unwrap();
    fs::rename(mount.there("new"), mount.there("file")).unwrap();
    thread::sleep(2 * BELIEF);
    let mut now = append(mount.here("file"));
    now.write_all(b"more").unwrap();
    let (told, hears) = mpsc::channel();
    thread::spawn(move || {
        let read = before.read_at(&mut part, 1 << 20);
        told.send(read.map_err(|error| error.raw_os_error()))
    });
    let read = hears.recv_timeout(Duration::from_secs(20));
    assert_eq!(read, Ok(Err(Some(libc::EIO))));
    drop(now);
    assert_eq!(stored(&mount, "file").len(), (2 << 20) + 4);
}

/// What a reader had learned before the file was given a time, or written, was taken for others' work
/// where it came late: all who had the file open got EIO.
#[test]
fn readers_bear_that_a_file_is_dated_and_written_meanwhile() {
    let mount = Mount::writable_with(4, |config| config.attr_timeout = Duration::from_millis(5));
    fs::write(mount.here("file"), content(50_000)).unwrap();
    let until = Instant::now() + Duration::from_secs(4);
    let path = mount.here("file");
    let mut reads = 0;
    thread::scope(|scope| {
        let readers: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let mut reads = 0;
                    while Instant::now() < until {
                        let mut read = Vec::new();
                        let mut file = File::open(&path).unwrap();
                        file.read_to_end(&mut read).unwrap();
                        assert!(read.len() >= 50_000 && read[..50_000] == content(50_000));
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let mut seconds = 1_500_000_000;
        while Instant::now() < until {
            let mut file = append(path.clone());
            file.write_all(b"x").unwrap();
            nix::unistd::close(file).unwrap();
            for _ in 0..3 {
                seconds += 10;
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
                let file = File::open(&path).unwrap();
                file.set_modified(time).unwrap();
            }
        }
        for reader in readers {
            reads += reader.join().unwrap();
        }
    });
    assert!(reads > 50, "{reads}");
}

/// A server without room says 226 all the same, and then the connection is lost: before the size was
/// asked, or after half a file had got its name.
#[test]
fn half_a_file_is_not_taken_for_whole_where_a_reply_was_lost() {
    for write_back in [false, true] {
        for lost in ["SIZE", "RNFR", "MFMT"] {
            let (mount, faults) = Mount::failing(
                |_| {},
                |config| {
                    config.write_back = write_back;
                },
            );
            // So that the next one asks nothing of the server's ways.
            let first = File::create(mount.here("first")).unwrap();
            first.sync_all().unwrap();
            let content = content(9000);
            let rules = format!("STOR 1: full 5000 226; {lost} 1: rst");
            faults.set(rules.parse().unwrap());
            let file = File::create(mount.here("file")).unwrap();
            file.write_all_at(&content, 0).unwrap();
            file.sync_all().unwrap();
            assert_eq!(faults.counts().hits, 2, "{lost}");
            drop(file);
            assert!(stored(&mount, "file") == content, "{lost}");
            assert_eq!(names(&mount), ["file", "first"], "{lost}");
            let there = fs::read_dir(mount.served.path()).unwrap();
            assert_eq!(there.count(), 2, "{lost}, write-back: {write_back}");
        }
    }
}

#[test]
fn under_hard_broken_data_connections_are_waited_out() {
    let (mount, faults) = Mount::failing(|_| {}, |config| config.hard = true);
    fs::write(mount.here("file"), "old").unwrap();
    let rules = "STOR 1 x10: reply \"425 None\"; APPE 1 x10: reply \"426 Broken\"";
    faults.set(rules.parse().unwrap());
    for (name, bytes) in [("new", &b"new"[..]), ("file", b" and more")] {
        let file = File::options()
            .append(true)
            .create(true)
            .open(mount.here(name));
        let mut file = file.unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    }
    assert_eq!(faults.counts().hits, 20);
    assert_eq!(stored(&mount, "new"), b"new");
    assert_eq!(stored(&mount, "file"), b"old and more");
}

/// A directory that was opened before a file was replaced tells nothing of what is read now.
#[test]
fn an_old_listing_disturbs_no_reader() {
    let mount = Mount::writable_with(4, |config| {
        config.attr_timeout = Duration::ZERO;
        config.dir_timeout = Duration::ZERO;
    });
    fs::write(mount.here("file"), "old").unwrap();
    let listing = fs::read_dir(mount.point.path()).unwrap();
    let sizes = fs::read_dir(mount.point.path()).unwrap();
    let all = content(3 << 20);
    fs::write(mount.here("file"), &all).unwrap();
    let file = File::open(mount.here("file")).unwrap();
    let mut part = vec![0; 4096];
    file.read_exact_at(&mut part, 0).unwrap();
    assert_eq!(listing.count(), 1);
    file.read_exact_at(&mut part, 2_500_000).unwrap();
    assert!(part == all[2_500_000..][..4096]);
    let size = |entry: io::Result<fs::DirEntry>| entry.unwrap().metadata().unwrap().len();
    assert_eq!(sizes.map(size).collect::<Vec<_>>(), [3 << 20]);
    assert_eq!(fs::read(mount.here("file")).unwrap().len(), 3 << 20);
}

/// What could not be sent is kept and shown: also by the kernel, which knew the size before.
#[test]
fn a_file_whose_truncation_failed_has_one_size() {
    let (mount, faults) = Mount::failing(
        |_| {},
        |config| {
            config.attr_timeout = Duration::from_secs(60);
        },
    );
    fs::write(mount.there("file"), "content").unwrap();
    // Without fstat(2), which would ask for more.
    let read = || {
        let mut read = vec![0; 100];
        let file = File::open(mount.here("file")).unwrap();
        let len = file.read_at(&mut read, 0).unwrap();
        read.truncate(len);
        read
    };
    assert_eq!(read(), b"content");
    let down = "STOR 1 x100: reply \"421 Going down\"; APPE 1 x100: reply \"421 Going down\"";
    for size in [3, 10] {
        faults.set(down.parse().unwrap());
        let cut = nix::unistd::truncate(&mount.here("file"), size);
        assert_eq!(cut, Err(nix::Error::EIO));
        faults.clear();
        assert_eq!(read(), &b"con\0\0\0\0\0\0\0"[..size as usize]);
    }
}

/// The kernel still believes in a file that others have removed.
#[test]
fn a_file_is_made_where_others_have_removed_one_just_now() {
    let belief = Duration::from_secs(60);
    let mount = Mount::writable_with(4, |config| config.attr_timeout = belief);
    let path = mount.here("file");
    fs::write(&path, "old").unwrap();
    assert_eq!(stored(&mount, "file"), b"old");
    fs::remove_file(mount.there("file")).unwrap();
    // This looks at the server.
    let found = File::options().append(true).open(&path);
    assert_eq!(errno(found), libc::ENOENT);
    fs::write(&path, "new").unwrap();
    assert_eq!(stored(&mount, "file"), b"new");
}

#[test]
fn sparse_files_read_as_zeros() {
    let mount = Mount::writable();
    let file = File::create(mount.here("sparse")).unwrap();
    file.write_all_at(b"end", 1_000_000).unwrap();
    file.set_len(2_000_000).unwrap();
    nix::fcntl::posix_fallocate(&file, 0, 2_000_001).unwrap();
    let held = nix::fcntl::fallocate(
        &file,
        nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE,
        0,
        1,
    );
    assert_eq!(held, Err(nix::errno::Errno::EOPNOTSUPP));
    drop(file);
    let mut expected = vec![0; 2_000_001];
    expected[1_000_000..1_000_003].copy_from_slice(b"end");
    assert!(stored(&mount, "sparse") == expected);
    assert!(fs::read(mount.here("sparse")).unwrap() == expected);
}

#[test]
fn directories_come_and_go() {
    let mount = Mount::writable();
    fs::create_dir_all(mount.here("a/b/c")).unwrap();
    assert!(mount.there("a/b/c").is_dir());
    assert_eq!(errno(fs::create_dir(mount.here("a"))), libc::EEXIST);
    assert_eq!(errno(fs::remove_dir(mount.here("a"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(mount.here("x"))), libc::ENOENT);
    fs::write(mount.here("a/file"), "x").unwrap();
    assert_eq!(errno(fs::remove_dir(mount.here("a/file"))), libc::ENOTDIR);
    assert_eq!(errno(nix_unlink(mount.here("a/b"))), libc::EISDIR);
    assert_eq!(fs::read_dir(mount.here("a")).unwrap().count(), 2);
    fs::remove_file(mount.here("a/file")).unwrap();
    fs::remove_dir_all(mount.here("a")).unwrap();
    assert_eq!(names(&mount), [""; 0]);
    assert_eq!(fs::read_dir(mount.point.path()).unwrap().count(), 0);
}

fn nix_unlink(path: PathBuf) -> io::Result<()> {
    nix::unistd::unlink(&path).map_err(io::Error::from)
}

#[test]
fn names_of_new_files_are_listed_at_once() {
    let mount = Mount::writable();
    fs::write(mount.there("old"), "").unwrap();
    let listed = || {
        let names = fs::read_dir(mount.point.path()).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(listed(), ["old"]);
    let mut file = File::create(mount.here("new")).unwrap();
    file.write_all(b"12345").unwrap();
    assert_eq!(listed(), ["new", "old"]);
    thread::sleep(2 * BELIEF);
    assert_eq!(listed(), ["new", "old"]);
    assert_eq!(fs::metadata(mount.here("new")).unwrap().len(), 5);
    drop(file);
    assert_eq!(names(&mount), ["new", "old"]);
    fs::remove_file(mount.here("old")).unwrap();
    assert_eq!(listed(), ["new"]);
    assert_eq!(errno(fs::metadata(mount.here("old"))), libc::ENOENT);
}

#[test]
fn exclusive_creation() {
    let mount = Mount::writable();
    fs::write(mount.there("old"), "x").unwrap();
    assert_eq!(errno(File::create_new(mount.here("old"))), libc::EEXIST);
    drop(File::create_new(mount.here("new")).unwrap());
    assert_eq!(errno(File::create_new(mount.here("new"))), libc::EEXIST);
    assert_eq!(stored(&mount, "old"), b"x");
    assert_eq!(errno(File::create(mount.here("none/new"))), libc::ENOENT);
}

#[test]
fn renames() {
    let mount = Mount::writable();
    fs::write(mount.here("a"), "a").unwrap();
    fs::write(mount.here("b"), "b").unwrap();
    fs::create_dir_all(mount.here("dir/sub")).unwrap();
    fs::create_dir(mount.here("empty")).unwrap();
    fs::write(mount.here("dir/sub/f"), "f").unwrap();
    let before = fs::metadata(mount.here("a")).unwrap().ino();
    fs::rename(mount.here("a"), mount.here("b")).unwrap();
    assert_eq!(stored(&mount, "b"), b"a");
    assert_eq!(fs::metadata(mount.here("b")).unwrap().ino(), before);
    assert_eq!(errno(fs::metadata(mount.here("a"))), libc::ENOENT);
    let rename = |from: &str, to: &str| errno(fs::rename(mount.here(from), mount.here(to)));
    assert_eq!(rename("dir", "dir/sub/x"), libc::EINVAL);
    assert_eq!(rename("empty", "b"), libc::ENOTDIR);
    assert_eq!(rename("b", "empty"), libc::EISDIR);
    assert_eq!(rename("empty", "dir"), libc::ENOTEMPTY);
    assert_eq!(rename("gone", "b"), libc::ENOENT);
    fs::rename(mount.here("dir"), mount.here("empty")).unwrap();
    assert_eq!(fs::read_to_string(mount.here("empty/sub/f")).unwrap(), "f");
    assert_eq!(names(&mount), ["b", "empty"]);
    fs::write(mount.here("c"), "c").unwrap();
    let keep = |from: &str, to: &str| {
        let flags = nix::fcntl::RenameFlags::RENAME_NOREPLACE;
        let (from, to) = (mount.here(from), mount.here(to));
        nix::fcntl::renameat2(
            nix::fcntl::AT_FDCWD,
            &from,
            nix::fcntl::AT_FDCWD,
            &to,
            flags,
        )
    };
    assert_eq!(keep("b", "c"), Err(nix::errno::Errno::EEXIST));
    keep("b", "d").unwrap();
    assert_eq!(names(&mount), ["c", "d", "empty"]);
}

#[test]
fn an_open_file_follows_its_renames() {
    let mount = Mount::writable();
    let mut new = File::create(mount.here("new")).unwrap();
    new.write_all(b"first ").unwrap();
    fs::create_dir(mount.here("dir")).unwrap();
    fs::write(mount.there("dir/old"), content(700_000)).unwrap();
    let old = read_write(mount.here("dir/old"));
    old.write_all_at(b"changed", 5).unwrap();
    fs::write(mount.here("target"), "to be replaced").unwrap();
    fs::rename(mount.here("new"), mount.here("target")).unwrap();
    assert_eq!(fs::read_to_string(mount.here("target")).unwrap(), "first ");
    new.write_all(b"second").unwrap();
    fs::rename(mount.here("dir"), mount.here("moved")).unwrap();
    let mut expected = content(700_000);
    expected[5..12].copy_from_slice(b"changed");
    let mut read = vec![0; 700_000];
    old.read_exact_at(&mut read, 0).unwrap();
    assert!(read == expected);
    drop((new, old));
    assert_eq!(stored(&mount, "target"), b"first second");
    assert!(stored(&mount, "moved/old") == expected);
    assert_eq!(names(&mount), ["moved", "target"]);
}

#[test]
fn a_replaced_file_stays_for_those_who_have_it_open() {
    let mount = Mount::writable();
    fs::write(mount.there("old"), content(500_000)).unwrap();
    let old = File::open(mount.here("old")).unwrap();
    fs::write(mount.here("new"), "new").unwrap();
    fs::rename(mount.here("new"), mount.here("old")).unwrap();
    let mut read = vec![0; 500_000];
    old.read_exact_at(&mut read, 0).unwrap();
    assert!(read == content(500_000));
    assert_eq!(old.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read_to_string(mount.here("old")).unwrap(), "new");
    drop(old);
    vanish(&mount, &["old"]);
}

/// Waits until the server's folder holds just these: what was set aside goes after the last close.
fn vanish(mount: &Mount, left: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while names(mount) != left {
        assert!(Instant::now() < deadline, "{:?}", names(mount));
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_unlinked_file_stays_for_those_who_have_it_open() {
    let mount = Mount::writable();
    fs::write(mount.there("old"), content(500_000)).unwrap();
    fs::write(mount.there("read"), content(400_000)).unwrap();
    let old = read_write(mount.here("old"));
    let mut new = read_write_new(mount.here("new"));
    new.write_all(b"never uploaded").unwrap();
    let reader = File::open(mount.here("read")).unwrap();
    for name in ["old", "new", "read"] {
        fs::remove_file(mount.here(name)).unwrap();
        assert_eq!(errno(fs::metadata(mount.here(name))), libc::ENOENT);
    }
    assert_eq!(fs::read_dir(mount.point.path()).unwrap().count(), 0);
    old.write_all_at(b"changed", 100_000).unwrap();
    let mut expected = content(500_000);
    expected[100_000..100_007].copy_from_slice(b"changed");
    let mut read = vec![0; 500_000];
    old.read_exact_at(&mut read, 0).unwrap();
    assert!(read == expected);
    new.write_all(b", still").unwrap();
    let mut text = [0; 21];
    new.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"never uploaded, still");
    let mut read = vec![0; 400_000];
    reader.read_exact_at(&mut read, 0).unwrap();
    assert!(read == content(400_000));
    for file in [&old, &new, &reader] {
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    }
    old.sync_all().unwrap();
    // The name is free for another.
    fs::write(mount.here("old"), "another").unwrap();
    drop((old, new, reader));
    vanish(&mount, &["old"]);
    assert_eq!(stored(&mount, "old"), b"another");
}

fn read_write_new(path: PathBuf) -> File {
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    options.open(path).unwrap()
}

#[test]
fn times_and_modes() {
    let mount = Mount::writable();
    let time = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(mount.here("file"))
        .unwrap();
    file.write_all(b"x").unwrap();
    let written = file.metadata().unwrap().modified().unwrap();
    file.set_modified(time(1_111_111_111) + Duration::from_millis(500))
        .unwrap();
    assert_eq!(
        file.metadata().unwrap().modified().unwrap(),
        time(1_111_111_111)
    );
    drop(file);
    let there = fs::metadata(mount.there("file")).unwrap();
    assert_eq!(
        (there.modified().unwrap(), there.mode() & 0o7777),
        (time(1_111_111_111), 0o640)
    );
    assert!(written > time(1_600_000_000));
    // Written after the time was set: it is new again, and stays what it was shown as.
    let mut file = append(mount.here("file"));
    file.set_modified(time(1_222_222_222)).unwrap();
    file.write_all(b"y").unwrap();
    let shown = file.metadata().unwrap().modified().unwrap();
    assert!(shown > time(1_600_000_000));
    drop(file);
    thread::sleep(2 * BELIEF);
    assert_eq!(
        fs::metadata(mount.here("file"))
            .unwrap()
            .modified()
            .unwrap(),
        shown
    );
    assert_eq!(
        fs::metadata(mount.there("file"))
            .unwrap()
            .modified()
            .unwrap(),
        shown
    );
    // Nobody has it open.
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(mount.here("file"), mode).unwrap();
    File::open(mount.here("file"))
        .unwrap()
        .set_modified(time(1_333_333_333))
        .unwrap();
    for path in [mount.there("file"), mount.here("file")] {
        let found = fs::metadata(path).unwrap();
        assert_eq!(found.modified().unwrap(), time(1_333_333_333));
    }
    assert_eq!(
        fs::metadata(mount.there("file")).unwrap().mode() & 0o7777,
        0o700
    );
    fs::create_dir(mount.here("dir")).unwrap();
    fs::set_permissions(mount.here("dir"), fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(
        fs::metadata(mount.there("dir")).unwrap().mode() & 0o7777,
        0o711
    );
}

#[test]
fn owners_are_shown_but_not_kept() {
    let mount = Mount::writable();
    fs::write(mount.here("file"), "x").unwrap();
    let chown = |mount: &Mount| std::os::unix::fs::chown(mount.here("file"), Some(12), Some(13));
    chown(&mount).unwrap();
    thread::sleep(2 * BELIEF);
    let found = fs::metadata(mount.here("file")).unwrap();
    assert_eq!((found.uid(), found.gid()), (12, 13));
    fs::remove_file(mount.here("file")).unwrap();
    fs::write(mount.here("file"), "x").unwrap();
    assert_eq!(fs::metadata(mount.here("file")).unwrap().uid(), 4711);
    let strict = Mount::writable_with(4, |config| config.strict = true);
    fs::write(strict.here("file"), "x").unwrap();
    assert_eq!(errno(chown(&strict)), libc::EPERM);
    std::os::unix::fs::chown(strict.here("file"), Some(4711), None).unwrap();
}

#[test]
fn what_ftp_has_not_is_refused() {
    let mount = Mount::writable();
    fs::write(mount.here("file"), "x").unwrap();
    assert_eq!(
        errno(fs::hard_link(mount.here("file"), mount.here("b"))),
        libc::EPERM
    );
    let fifo = nix::unistd::mkfifo(&mount.here("fifo"), nix::sys::stat::Mode::S_IRWXU);
    assert_eq!(fifo, Err(nix::errno::Errno::EPERM));
    assert_eq!(errno(fs::write(mount.here("new\nline"), "")), libc::EINVAL);
    assert_eq!(
        errno(fs::write(mount.here(&"x".repeat(256)), "")),
        libc::ENAMETOOLONG
    );
}

#[test]
fn links_are_made() {
    let mount = Mount::writable();
    fs::write(mount.here("file"), "content").unwrap();
    symlink("file", mount.here("link")).unwrap();
    assert_eq!(
        fs::read_link(mount.there("link")).unwrap(),
        PathBuf::from("file")
    );
    assert_eq!(
        fs::read_link(mount.here("link")).unwrap(),
        PathBuf::from("file")
    );
    assert_eq!(fs::read_to_string(mount.here("link")).unwrap(), "content");
    assert_eq!(errno(symlink("x", mount.here("link"))), libc::EEXIST);
    fs::remove_file(mount.here("link")).unwrap();
    assert_eq!(names(&mount), ["file"]);
}

#[test]
fn many_writers_share_few_sessions() {
    for sessions in [1, 2, 4] {
        let mount = Mount::writable_with(sessions, |_| {});
        thread::scope(|scope| {
            for i in 0..8 {
                let mount = &mount;
                scope.spawn(move || {
                    let name = format!("f{i}");
                    let bytes = content((3 << 20) + i);
                    fs::write(mount.here(&name), &bytes).unwrap();
                    assert!(stored(mount, &name) == bytes);
                    assert!(fs::read(mount.here(&name)).unwrap() == bytes);
                });
            }
        });
    }
}

#[test]
fn programs_write() {
    let mount = Mount::writable_with(4, |config| config.uid = nix::unistd::geteuid().as_raw());
    let script = r#"
        set -eux
        cd "$0"
        git init -q repo && cd repo
        git config user.email a@b && git config user.name me
        for i in $(seq 20); do echo "file $i" > "f$i"; done
        git add . && git commit -qm one
        echo more >> f1 && git commit -qam two
        git gc -q && git fsck --full --strict
        test -z "$(git status --porcelain)"
        cd .. && git clone -q repo clone && diff -r -x .git repo clone
        sed -i 's/file/File/' repo/f2 && grep -q File repo/f2
        mkdir src && for i in $(seq 30); do head -c $((i * 3000)) /dev/urandom > src/$i; done
        cp -a src copy && diff -r src copy
        tar cf all.tar src && mkdir out && tar xf all.tar -C out && diff -r src out/src
        dd if=/dev/zero of=copy/30 conv=notrunc bs=1 seek=5000 count=10 status=none
        cmp src/30 copy/30 && exit 1
        (for i in $(seq 20); do echo a >> log; done) & (for i in $(seq 20); do echo b >> log; done)
        wait; test "$(wc -l < log)" = 40
        { echo a; echo b; } > two; test "$(cat two)" = "a
b"
        mv copy moved && rm -r moved
    "#;
    let output = Command::new("bash")
        .args(["-c", script])
        .arg(mount.point.path())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn memory_maps_are_uploaded() {
    let mount = Mount::writable();
    let script = r#"
import mmap, os, sys
path = sys.argv[1]
f = os.open(path, os.O_RDWR | os.O_CREAT)
os.ftruncate(f, 300000)
m = mmap.mmap(f, 300000)
os.close(f)
m[0:5] = b'first'
m[299995:300000] = b'last.'
m.close()
"#;
    let done = Command::new("python3")
        .args(["-c", script])
        .arg(mount.here("mapped"))
        .status();
    assert!(done.unwrap().success());
    let mut expected = vec![0; 300_000];
    expected[..5].copy_from_slice(b"first");
    expected[299_995..].copy_from_slice(b"last.");
    // After the last close: nobody can wait for that.
    let deadline = Instant::now() + Duration::from_secs(10);
    while stored(&mount, "mapped") != expected {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(20));
    }
    assert!(fs::read(mount.here("mapped")).unwrap() == expected);
}
