//! Full limits, full disks, many at once.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use super::*;

#[test]
fn the_limit_stops_the_writer_only() {
    let home = tempfile::tempdir().expect("make a folder");
    let limit = 1 << 20;
    let (spool, _) = Spool::open(home.path(), Options { limit, ..OPTIONS }, now()).expect("open");
    let first = spool.create(&path("/first"), None, now()).expect("create");
    first.write_at(&[1; 300_000], 0).expect("write");
    let second = spool.create(&path("/second"), None, now()).expect("create");
    let mut size = 0;
    let refused = loop {
        match second.write_at(&[2; 10_000], size) {
            Ok(written) => size += written as u64,
            Err(error) => break error,
        }
    };
    assert!(refused.is_no_space(), "{refused}");
    assert!((650_000..750_000).contains(&size), "{size}");
    assert!(spool.used() <= limit);
    assert_eq!(second.size().expect("its size"), size);
    // Neither apparent size nor what is written over counts.
    second.truncate(1 << 40).expect("truncate");
    second.truncate(size).expect("truncate");
    first.write_at(&[3; 300_000], 0).expect("write over");
    assert!(
        spool
            .create(&path("/third"), None, now())
            .is_ok_and(|file| file.discard().is_ok())
    );
    // What the server has can make way.
    let version = first.commit().expect("commit");
    assert_eq!(first.release_clean().expect("release"), 0);
    first.mark_uploaded(version, base(300_000)).expect("mark");
    assert_eq!(first.release_clean().expect("release"), 300_000);
    assert_eq!(second.write_at(&[2; 10_000], size).expect("write"), 10_000);
    assert_eq!(content(&second), vec![2; size as usize + 10_000]);
}

#[test]
fn many_small_ranges_count_as_blocks() {
    let home = tempfile::tempdir().expect("make a folder");
    let limit = 100 * BLOCK;
    let (spool, _) = Spool::open(home.path(), Options { limit, ..OPTIONS }, now()).expect("open");
    let file = spool.create(&path("/f"), None, now()).expect("create");
    let fits = (0..200)
        .filter(|at| file.write_at(b"x", at * 2).is_ok())
        .count();
    assert!((90..=99).contains(&fits), "{fits}");
}

#[test]
fn a_file_cannot_be_larger_than_an_offset() {
    let home = tempfile::tempdir().expect("make a folder");
    let (spool, _) = open(home.path());
    let file = spool.create(&path("/f"), None, now()).expect("create");
    for end in [u64::MAX, 1 << 63, (1 << 63) - 1] {
        assert!(
            matches!(file.write_at(b"x", end), Err(SpoolError::TooLarge)),
            "{end}"
        );
    }
    assert!(matches!(file.truncate(1 << 63), Err(SpoolError::TooLarge)));
    assert_eq!(file.size().expect("its size"), 0);
    file.truncate((1 << 63) - 1).expect("truncate");
    let mut end = [1; 10];
    assert_eq!(file.read_at(&mut end, (1 << 63) - 6).expect("read"), 5);
    assert_eq!(end, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
}

/// Closes that come together share one sync of the journal.
#[test]
fn syncs_are_shared() {
    const CLOSERS: u64 = 8;
    let home = tempfile::tempdir().expect("make a folder");
    let (spool, _) = open_durable(home.path());
    let before = spool.0.log.lock().appended();
    let held = spool.0.synced.lock();
    thread::scope(|scope| {
        for closer in 0..CLOSERS {
            let spool = &spool;
            scope.spawn(move || {
                let file = spool.create(&path(&format!("/{closer}")), None, now());
                let file = file.expect("create");
                file.write_at(b"x", 0).expect("write");
                file.promise().expect("promise");
            });
        }
        // Each says three things, then waits: created, wrote, promised.
        let deadline = Instant::now() + Duration::from_secs(60);
        while spool.0.log.lock().appended() < before + 3 * CLOSERS {
            assert!(Instant::now() < deadline, "the closers do not get there");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(spool.0.syncs.load(Ordering::Relaxed), 0);
        drop(held);
    });
    assert_eq!(spool.0.syncs.load(Ordering::Relaxed), 1);
    for record in spool.records() {
        assert_eq!((record.synced, record.unsynced), (Version(1), false));
    }
}

/// After a loss of power only what was synced is certain.
#[test]
fn a_reboot_casts_doubt_on_what_was_not_synced() {
    for (durability, doubtful) in [(Durability::Process, true), (Durability::Power, false)] {
        let home = tempfile::tempdir().expect("make a folder");
        let options = Options {
            durability,
            ..OPTIONS
        };
        let start = |boot: &str| Spool::open_on(boot.into(), home.path(), options, now());
        let (spool, _) = start("one").expect("open");
        let file = spool
            .create(&path("/f"), Some(base(9)), now())
            .expect("create");
        file.write_at(b"x", 0).expect("write");
        file.store_fetched(Version(0), 1, b"12345678")
            .expect("store");
        file.commit().expect("commit");
        file.sync().expect("sync");
        drop((spool, file));
        let (_, found) = start("one").expect("open");
        assert!(!found.leftovers[0].doubtful);
        assert_eq!(found.leftovers[0].missing(0..9).next(), None);
        let (_, found) = start("two").expect("open");
        assert_eq!(found.leftovers[0].doubtful, doubtful);
        // Fetched bytes are never synced: they are fetched again.
        assert_eq!(found.leftovers[0].missing(0..9).next(), Some(1..9));
        let (spool, found) = start("two").expect("open");
        assert_eq!(found.leftovers[0].doubtful, doubtful, "it is not forgotten");
        let file = spool.adopt(found.leftovers[0].id).expect("adopt");
        file.write_at(b"y", 1).expect("write");
        drop((spool, file));
        let (_, found) = start("three").expect("open");
        // What was written after the sync and not closed is not part of what was promised.
        assert_eq!(found.leftovers[0].doubtful, doubtful);
        let is_there = found.leftovers[0].stored.contains(1..2);
        assert_eq!(is_there, doubtful);
    }
}

/// A file that was closed is not made half by what somebody was doing to it when the process ended.
#[test]
fn a_promise_outlives_what_was_begun_after_it() {
    let home = tempfile::tempdir().expect("make a folder");
    let start = || open_durable(home.path());
    let promised = |name: &str, spool: &Spool| {
        let file = spool.create(&path(name), None, now()).expect("create");
        file.write_at(b"first", 0).expect("write");
        file.promise().expect("promise");
        file
    };
    let held = |spool: &Spool, record: &Record| content(&spool.adopt(record.id).expect("adopt"));
    let (spool, _) = start();
    let (longer, empty) = (promised("/longer", &spool), promised("/empty", &spool));
    longer.write_at(b" and half of it", 5).expect("write");
    empty.truncate(0).expect("truncate");
    empty.write_at(b"ha", 0).expect("write");
    assert_eq!(content(&empty), b"ha");
    drop((spool, longer, empty));
    let (spool, found) = start();
    let owed: Vec<_> = found.leftovers.iter().filter(|r| r.is_owed()).collect();
    let paths: Vec<_> = owed.iter().map(|r| r.path.to_string()).collect();
    assert_eq!(paths, ["/longer", "/empty"]);
    assert!(owed.iter().all(|record| held(&spool, record) == b"first"));
    // What was never closed is kept for those who ask for it.
    let half: Vec<_> = found.leftovers.iter().filter(|r| !r.is_owed()).collect();
    assert_eq!(half.len(), 1);
    assert_eq!(held(&spool, half[0]), b"ha");
    // Once the new content is promised, or the file unlinked, the old one is over.
    let file = promised("/again", &spool);
    for round in 0..3 {
        let others = found.leftovers.len();
        file.truncate(0).expect("truncate");
        assert_eq!(spool.records().len(), others + 2, "round {round}");
        file.write_at(b"second", 0).expect("write");
        match round {
            2 => file.unlink().expect("unlink"),
            _ => file.promise().expect("promise"),
        }
        assert_eq!(spool.records().len(), others + 1, "round {round}");
    }
    assert_eq!(content(&file), b"second");
    drop((spool, file));
    assert_eq!(start().1.leftovers.len(), 4);
}

/// What was written in place once must not be written again, over what became of the file since.
#[test]
fn an_upload_in_place_is_not_repeated_after_a_loss_of_power() {
    let home = tempfile::tempdir().expect("make a folder");
    let (spool, _) = open(home.path());
    let file = spool
        .create(&path("/f"), Some(base(9)), now())
        .expect("create");
    file.write_at(b"x", 3).expect("write");
    let version = file.commit().expect("commit");
    file.begin_upload(version, Method::InPlace).expect("begin");
    let before = spool.0.syncs.load(Ordering::Relaxed);
    file.mark_uploaded(version, base(9)).expect("mark");
    assert_eq!(spool.0.syncs.load(Ordering::Relaxed), before + 1);
}

/// What a broken append leaves on the server must be known for ours after a loss of power, and
/// names and attributes are what was acknowledged.
#[test]
fn with_write_back_appends_names_and_attributes_are_synced() {
    let home = tempfile::tempdir().expect("make a folder");
    let (spool, _) = open_durable(home.path());
    let syncs = || spool.0.syncs.load(Ordering::Relaxed);
    let file = spool
        .create(&path("/f"), Some(base(9)), now())
        .expect("create");
    file.write_at(b"x", 9).expect("write");
    let version = file.commit().expect("commit");
    file.begin_upload(version, Method::Append(9))
        .expect("begin");
    assert_eq!(syncs(), 1);
    spool.sync().expect("sync");
    assert_eq!(syncs(), 1, "nothing is new");
    spool
        .rename(&path("/f"), &path("/g"), None)
        .expect("rename");
    spool.sync().expect("sync");
    assert_eq!(syncs(), 2);
}

/// Of a version that was written again since, nothing but the journal tells that the server has it.
#[test]
fn an_earlier_version_is_known_to_be_sent_after_a_loss_of_power() {
    let home = tempfile::tempdir().expect("make a folder");
    let (spool, _) = open_durable(home.path());
    let syncs = || spool.0.syncs.load(Ordering::Relaxed);
    let file = spool.create(&path("/f"), None, now()).expect("create");
    file.write_at(b"one", 0).expect("write");
    file.promise().expect("promise");
    let version = file.record().expect("its record").version;
    let before = syncs();
    file.begin_renaming(version, &path("/t"), 3).expect("begin");
    assert_eq!(syncs(), before, "its bytes tell");
    file.write_at(b"more", 3).expect("write");
    file.promise().expect("promise");
    let before = syncs();
    file.begin_renaming(version, &path("/t"), 3).expect("begin");
    assert_eq!(syncs(), before + 1);
}

/// The ranges of an upload in place, and why one failed, outlive even a loss of power.
#[test]
fn what_must_not_be_forgotten_is_synced_at_once() {
    let home = tempfile::tempdir().expect("make a folder");
    let (spool, _) = open(home.path());
    let file = spool
        .create(&path("/f"), Some(base(9)), now())
        .expect("create");
    file.write_at(b"x", 3).expect("write");
    let version = file.commit().expect("commit");
    file.begin_upload(version, Method::Temporary(path("/t")))
        .expect("begin");
    assert_eq!(spool.0.syncs.load(Ordering::Relaxed), 0);
    file.begin_upload(version, Method::InPlace).expect("begin");
    assert_eq!(spool.0.syncs.load(Ordering::Relaxed), 1);
    assert!(!file.record().expect("its record").unsynced);
    file.fail("552 quota", now()).expect("fail");
    assert_eq!(spool.0.syncs.load(Ordering::Relaxed), 2);
    drop((spool, file));
    let (_, found) = Spool::open_on("later".into(), home.path(), OPTIONS, now()).expect("open");
    let left = &found.leftovers[0];
    assert!(!left.doubtful && left.is_owed());
    assert_eq!(left.dirty(), RangeSet::from(3..4));
    assert_eq!(
        left.upload,
        Some(Upload {
            whole: None,
            version,
            method: Method::InPlace
        })
    );
    let failure = left.failure.as_ref().expect("why it failed");
    assert_eq!(
        (failure.reason.as_str(), failure.since),
        ("552 quota", now())
    );
}

/// Many operations do not make a long journal, and nothing is lost when it is rewritten.
#[test]
fn the_journal_is_rewritten_when_most_of_it_is_history() {
    let home = tempfile::tempdir().expect("make a folder");
    let (spool, _) = open(home.path());
    let kept = spool.create(&path("/kept"), None, now()).expect("create");
    kept.write_at(b"kept", 1000).expect("write");
    let busy = spool.create(&path("/busy"), None, now()).expect("create");
    let mut longest = 0;
    for turn in 0..40_000u64 {
        busy.write_at(&[turn as u8], turn % 3 * 2).expect("write");
        busy.commit().expect("commit");
        if turn % 100 == 0 {
            let journal = std::fs::metadata(home.path().join("journal")).expect("stat");
            longest = longest.max(journal.len());
        }
    }
    assert!((500_000..1_100_000).contains(&longest), "{longest}");
    let before = spool.records();
    drop((spool, kept, busy));
    let (spool, found) = open(home.path());
    assert_eq!(found.leftovers, before);
    let kept = spool.adopt(found.leftovers[0].id).expect("adopt");
    assert_eq!(content(&kept), [&[0; 1000][..], b"kept"].concat());
    assert_eq!(
        content(&spool.adopt(found.leftovers[1].id).expect("adopt"))[4],
        39_998u64 as u8
    );
}

/// Several threads on the same files, while the journal is rewritten under them.
#[test]
fn writers_and_readers_do_not_disturb_each_other() {
    let home = tempfile::tempdir().expect("make a folder");
    let (spool, _) = open_durable(home.path());
    let shared = spool.create(&path("/shared"), None, now()).expect("create");
    shared.truncate(4 * 64).expect("truncate");
    thread::scope(|scope| {
        for writer in 0..4u64 {
            let (spool, shared) = (&spool, &shared);
            scope.spawn(move || {
                for turn in 0..200u8 {
                    shared.write_at(&[turn; 64], writer * 64).expect("write");
                    let mut all = [0; 256];
                    shared.read_at(&mut all, 0).expect("read");
                    for part in all.chunks(64) {
                        // No write is ever seen half done.
                        assert!(part.iter().all(|byte| *byte == part[0]));
                    }
                    let own = spool.create(&path("/own"), None, now()).expect("create");
                    own.write_at(&[turn; 5000], 0).expect("write");
                    let version = own.commit().expect("commit");
                    if turn % 50 == 0 {
                        own.sync().expect("sync");
                    }
                    own.mark_uploaded(version, base(5000)).expect("mark");
                    own.discard().expect("discard");
                }
            });
        }
    });
    assert_eq!(content(&shared), [199; 256]);
    assert_eq!(spool.records().len(), 1);
    drop((spool, shared));
    let (_, found) = open(home.path());
    assert!(found.damage.is_none() && found.leftovers.len() == 1);
    let left = std::fs::read_dir(home.path().join("data"))
        .expect("list")
        .count();
    assert_eq!(left, 1, "discarded data are gone");
}

/// Runs again in a namespace of its own, where the disk is small.
#[test]
fn a_full_disk_stops_the_writer_only() {
    const INSIDE: &str = "FTPSFS_TEST_SMALL_DISK";
    if let Some(disk) = std::env::var_os(INSIDE) {
        return fill_disk(Path::new(&disk));
    }
    let disk = tempfile::tempdir().expect("make a folder");
    let this = "fs::spool::tests::limits::a_full_disk_stops_the_writer_only";
    let run = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-euc"])
        .arg("mount -t tmpfs -o size=8m,mode=700 none \"$0\" && exec \"$@\"")
        .arg(disk.path())
        .arg(std::env::current_exe().expect("our own path"))
        .args(["--exact", this, "--nocapture"])
        .env(INSIDE, disk.path())
        .output()
        .expect("run unshare");
    let said = String::from_utf8_lossy(&run.stdout);
    let complained = String::from_utf8_lossy(&run.stderr);
    assert!(
        run.status.success() && said.contains("1 passed"),
        "{said}{complained}"
    );
}

fn fill_disk(disk: &Path) {
    let dir = disk.join("s");
    let (spool, _) = open(&dir);
    let done = spool.create(&path("/done"), None, now()).expect("create");
    done.write_at(&[1; 1_000_000], 0).expect("write");
    let full = spool.create(&path("/full"), None, now()).expect("create");
    let mut size = 0;
    let refused = loop {
        match full.write_at(&[2; 100_000], size) {
            Ok(written) => size += written as u64,
            Err(error) => break error,
        }
    };
    assert!(refused.is_no_space(), "{refused}");
    assert!(size > 4_000_000, "{size}");
    let tight = std::fs::write(disk.join("ballast"), vec![0; 1 << 20]);
    assert!(tight.is_err(), "the disk is not full");
    // A file may still begin, but not get any longer.
    let more = spool.create(&path("/more"), None, now());
    let more = more.and_then(|more| more.write_at(&[3; 100_000], 0).and(Ok(more)));
    assert!(more.is_err_and(|error| error.is_no_space()));
    assert_eq!(content(&full), vec![2; size as usize]);
    // Thousands of completions still have room.
    for round in 0..1000 {
        let version = done.commit().expect("commit");
        done.begin_upload(version, Method::Temporary(path("/temporary")))
            .expect("begin");
        done.want(Wanted {
            mode: Some(round),
            mtime: None,
        })
        .expect("want");
    }
    let before = spool.records();
    drop((spool, done, full));
    let (spool, found) = open(&dir);
    assert!(found.damage.is_none());
    assert_eq!(found.leftovers, before);
    let done = spool.adopt(before[0].id).expect("adopt");
    assert_eq!(content(&done), vec![1; 1_000_000]);
    done.mark_uploaded(Version(1), base(1_000_000))
        .expect("mark");
    done.discard().expect("discard");
    let full = spool.adopt(before[1].id).expect("adopt");
    std::fs::remove_file(disk.join("ballast")).expect("remove the ballast");
    assert_eq!(full.write_at(&[2; 500_000], size).expect("write"), 500_000);
    assert_eq!(content(&full), vec![2; size as usize + 500_000]);
}
