//! Processes that end, journals that are cut: what was done before is there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

/// Cut at every byte, the journal leaves each record as it was at some moment, the last whole one
/// before the cut; no byte that a record claims then is wrong, and data that no record claims is
/// kept.
#[test]
fn a_cut_journal_is_an_earlier_moment() {
    let home = tempfile::tempdir().expect("make a folder");
    let dir = home.path().join("s");
    let (spool, _) = open(&dir);
    let journal = dir.join("journal");
    let length = || fs::metadata(&journal).expect("stat").len();
    // Each moment: how long the journal was, the records, and what the files held. Nothing is
    // written over, so what a file held at a moment is still there.
    let mut moments = Vec::new();
    let mut note = |files: &[&SpoolFile]| {
        let held = files.iter().map(|file| content(file)).collect::<Vec<_>>();
        moments.push((length(), spool.records(), held));
    };
    note(&[]);
    let a = spool.create(&path("/a"), None, now()).expect("create");
    note(&[&a]);
    a.write_at(b"first", 0).expect("write");
    note(&[&a]);
    a.commit().expect("commit");
    note(&[&a]);
    let b = spool
        .create(&path("/dir/b"), Some(base(0)), now())
        .expect("create");
    note(&[&a, &b]);
    b.write_at(b"second", 100).expect("write");
    note(&[&a, &b]);
    a.write_at(b"more", 5).expect("write");
    note(&[&a, &b]);
    spool
        .rename(&path("/dir"), &path("/other"), None)
        .expect("rename");
    note(&[&a, &b]);
    b.want(Wanted {
        mode: Some(0o600),
        mtime: Some(now()),
    })
    .expect("want");
    note(&[&a, &b]);
    let version = b.commit().expect("commit");
    note(&[&a, &b]);
    b.begin_upload(version, Method::Append(100)).expect("begin");
    note(&[&a, &b]);
    b.fail("550 no", now()).expect("fail");
    // Two events: between them lies a moment of its own.
    let whole = length();
    drop((spool, a, b));
    let bytes = fs::read(&journal).expect("read");
    assert_eq!(bytes.len() as u64, whole);
    let end = moments.last().expect("moments").0;
    for cut in 0..=end {
        let copied = home.path().join("copy");
        copy(&dir, &copied);
        fs::write(copied.join("journal"), &bytes[..cut as usize]).expect("cut");
        let (spool, found) = open(&copied);
        let past = moments.iter().rev().find(|(length, ..)| *length <= cut);
        let (records, held) = match past {
            Some((_, records, held)) => (&records[..], &held[..]),
            None => (&[][..], &[][..]),
        };
        assert_eq!(found.leftovers, records, "cut at {cut}");
        for (record, held) in records.iter().zip(held) {
            let file = spool.adopt(record.id).expect("adopt");
            assert_eq!(&content(&file), held, "cut at {cut}");
        }
        let damage = found.damage.map_or(vec![], |damage| damage.rescued);
        let kept: Vec<_> = damage
            .iter()
            .map(|kept| fs::read(kept).expect("read"))
            .collect();
        // Both files' data are somewhere: what the journal does not know any more is kept.
        assert_eq!(records.len() + kept.len(), 2, "cut at {cut}");
        assert!(
            kept.iter()
                .all(|kept| kept.starts_with(b"first") || kept.ends_with(b"second"))
        );
        // It goes on from there.
        let more = spool.create(&path("/more"), None, now()).expect("create");
        more.write_at(b"more", 0).expect("write");
        drop((spool, more));
        let (_, found) = open(&copied);
        assert_eq!(found.leftovers.len(), records.len() + 1);
        assert!(found.damage.is_none(), "cut at {cut}");
        fs::remove_dir_all(copied).expect("remove the copy");
    }
}

/// More than an unfinished frame is gone: then even the journal is kept for those who can read it.
#[test]
fn a_damaged_journal_is_kept() {
    let home = tempfile::tempdir().expect("make a folder");
    let dir = home.path().join("s");
    let (spool, _) = open(&dir);
    let file = spool.create(&path("/f"), None, now()).expect("create");
    for at in 0..4000 {
        file.write_at(b"x", at).expect("write");
    }
    drop((spool, file));
    let mut bytes = fs::read(dir.join("journal")).expect("read");
    let middle = bytes.len() / 4;
    bytes[middle] ^= 1;
    fs::write(dir.join("journal"), &bytes).expect("damage");
    let (_, found) = open(&dir);
    assert_eq!(found.leftovers.len(), 1);
    assert!(
        (500..1500).contains(&found.leftovers[0].size),
        "{}",
        found.leftovers[0].size
    );
    let damage = found.damage.expect("noticed");
    assert!(damage.cut > 65_536, "{}", damage.cut);
    assert_eq!(fs::read(&damage.rescued[0]).expect("read"), bytes);
}

#[test]
fn lost_data_are_noticed() {
    let home = tempfile::tempdir().expect("make a folder");
    let (spool, _) = open(home.path());
    let ids: Vec<_> = (0..2)
        .map(|_| {
            let file = spool.create(&path("/f"), None, now()).expect("create");
            file.write_at(b"0123456789", 0).expect("write");
            file.id()
        })
        .collect();
    drop(spool);
    let data = |id: RecordId| home.path().join("data").join(id.to_string());
    fs::remove_file(data(ids[0])).expect("remove");
    fs::File::options()
        .write(true)
        .open(data(ids[1]))
        .and_then(|file| file.set_len(4))
        .expect("cut");
    let (spool, found) = open(home.path());
    assert!(found.leftovers.iter().all(|record| record.doubtful));
    assert!(matches!(spool.adopt(ids[0]), Err(SpoolError::Damaged(_))));
    let file = spool.adopt(ids[1]).expect("adopt");
    let mut all = [0; 10];
    assert!(matches!(
        file.read_at(&mut all, 0),
        Err(SpoolError::Damaged(_))
    ));
    assert_eq!(file.read_at(&mut all[..4], 0).expect("read"), 4);
    spool.discard(ids[0]).expect("discard");
    assert_eq!(spool.records().len(), 1);
}

/// Discarded data that were not removed in time go at the next opening, and a rewrite that was not
/// finished. What the journal never heard of is kept.
#[test]
fn leavings_are_cleared_away() {
    let home = tempfile::tempdir().expect("make a folder");
    let (spool, _) = open(home.path());
    let create = || spool.create(&path("/f"), None, now()).expect("create");
    let (gone, kept) = (create(), create());
    let data = home.path().join("data");
    let at = |id: RecordId| data.join(id.to_string());
    let (gone_id, kept_id) = (gone.id(), kept.id());
    gone.discard().expect("discard");
    drop((spool, kept));
    fs::write(at(gone_id), "discarded").expect("write");
    fs::write(at(RecordId(kept_id.0 + 1)), "unheard of").expect("write");
    fs::write(at(RecordId(kept_id.0 + 2)), "").expect("write");
    fs::write(data.join("README"), "not ours").expect("write");
    fs::write(home.path().join("journal.new"), "unfinished").expect("write");
    let (spool, found) = open(home.path());
    let damage = found.damage.expect("noticed");
    assert_eq!((damage.cut, damage.rescued.len()), (0, 1));
    assert_eq!(fs::read(&damage.rescued[0]).expect("read"), b"unheard of");
    let names = fs::read_dir(&data).expect("list");
    let mut names: Vec<_> = names
        .map(|entry| entry.expect("list").file_name())
        .collect();
    names.sort();
    assert_eq!(names, [kept_id.to_string().as_str(), "README"]);
    spool
        .0
        .rewrite(&mut spool.0.log.lock())
        .expect("rewrite the journal");
    assert!(!home.path().join("journal.new").exists());
}

const INSIDE: &str = "FTPSFS_TEST_SPOOL";
const FILES: u64 = 4;
const SPACE: u64 = 40_000;

/// What the child does in each step follows from its number alone.
#[derive(Debug)]
enum Step {
    Write(u64, u64, Vec<u8>),
    Truncate(u64, u64),
    Commit(u64),
    Rename(u64),
    Replace(u64),
}

fn step(number: u64) -> Step {
    let mut state = number;
    let mut random = |below: u64| {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % below
    };
    let file = random(FILES);
    match random(20) {
        0 => Step::Truncate(file, random(SPACE)),
        1 | 2 => Step::Commit(file),
        3 => Step::Rename(file),
        4 => Step::Replace(file),
        _ => {
            let (at, len, byte) = (random(SPACE), 1 + random(9000), random(255) as u8 + 1);
            Step::Write(file, at, vec![byte; len as usize])
        }
    }
}

/// What the records must be after some steps: by their path's last part, number and content.
#[derive(Clone, Default)]
struct Expected(BTreeMap<u64, (String, u64, Vec<u8>)>);

impl Expected {
    fn new() -> Self {
        let file = |number| (number, (format!("/dir/{number}"), 0, Vec::new()));
        Self((0..FILES).map(file).collect())
    }

    fn apply(&mut self, number: u64, step: &Step) {
        match step {
            Step::Write(file, at, bytes) => {
                let content = &mut self.of(*file).2;
                let end = *at as usize + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*at as usize..end].copy_from_slice(bytes);
            }
            Step::Truncate(file, len) => self.of(*file).2.resize(*len as usize, 0),
            Step::Commit(file) => self.of(*file).1 += 1,
            Step::Rename(file) => self.of(*file).0 = format!("/dir/{file}-{number}"),
            Step::Replace(file) => *self.of(*file) = (format!("/dir/{file}"), 0, Vec::new()),
        }
    }

    fn of(&mut self, file: u64) -> &mut (String, u64, Vec<u8>) {
        self.0.get_mut(&file).expect("one of the files")
    }
}

fn run_steps(dir: &Path) {
    let (spool, _) = open(dir);
    let create = |number: u64| {
        let at = path(&format!("/dir/{number}"));
        spool.create(&at, None, now()).expect("create")
    };
    let mut files: Vec<_> = (0..FILES).map(create).collect();
    let mut out = std::io::stdout();
    for number in 0.. {
        match step(number) {
            Step::Write(file, at, bytes) => {
                files[file as usize].write_at(&bytes, at).expect("write");
            }
            Step::Truncate(file, len) => files[file as usize].truncate(len).expect("truncate"),
            Step::Commit(file) => {
                // Commits without changes are none; make each one count.
                let size = files[file as usize].size().expect("its size");
                files[file as usize].truncate(size + 1).expect("truncate");
                files[file as usize].truncate(size).expect("truncate");
                files[file as usize].commit().expect("commit");
            }
            Step::Rename(file) => {
                let from = files[file as usize].with(|record| record.path.clone());
                let to = path(&format!("/dir/{file}-{number}"));
                let from = from.expect("its path");
                spool.rename(&from, &to, None).expect("rename");
            }
            Step::Replace(file) => {
                let new = create(file);
                std::mem::replace(&mut files[file as usize], new)
                    .discard()
                    .expect("discard");
            }
        }
        writeln!(out, "step {number}").expect("tell the parent");
        out.flush().expect("tell the parent");
    }
}

/// A process is killed at some moment, again and again: what it had said to be done is there.
#[test]
fn nothing_done_is_lost_by_a_kill() {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return run_steps(Path::new(&dir));
    }
    let mut reached = Vec::new();
    for round in 0..25u64 {
        let home = tempfile::tempdir().expect("make a folder");
        let dir = home.path().join("s");
        let mut child = Command::new(std::env::current_exe().expect("our own path"))
            .args([
                "--exact",
                "fs::spool::tests::crash::nothing_done_is_lost_by_a_kill",
                "--nocapture",
            ])
            .env(INSIDE, &dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("run ourselves");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let steps = output.lines().map_while(Result::ok);
        let mut steps = steps.filter_map(|line| line.strip_prefix("step ")?.parse::<u64>().ok());
        let some = steps.find(|&number| number >= round * round * 60);
        assert!(some.is_some(), "the child ended by itself");
        // Within a step: each takes some microseconds.
        thread::sleep(Duration::from_micros(round * 37));
        child.kill().expect("kill");
        let last = steps.last().or(some).expect("a step");
        let status = child.wait().expect("wait");
        assert_eq!(status.signal(), Some(9), "the kill came too late");
        check(&dir, last + 1);
        reached.push(last);
    }
    // Far enough for the journal to be rewritten on the way.
    assert!(reached.last() > Some(&30_000), "{reached:?}");
}

/// `done` steps were; the next one may have been, or part of it.
fn check(dir: &Path, done: u64) {
    let mut before = Expected::new();
    for number in 0..done {
        before.apply(number, &step(number));
    }
    let next = step(done);
    let mut after = before.clone();
    after.apply(done, &next);
    let (spool, found) = open(dir);
    let context = format!("after {done} steps, in {next:?}")
        .chars()
        .take(80)
        .collect::<String>();
    if let Some(damage) = found.damage {
        assert!(
            damage.rescued.is_empty() && damage.cut < 100,
            "{context}: {damage:?}"
        );
    }
    for number in 0..FILES {
        let (name, version, old) = &before.0[&number];
        let (new_name, _, new) = &after.0[&number];
        let is_it = |record: &&Record| {
            let at = record.path.to_string();
            at == *name || at == *new_name
        };
        // While one is replaced, there are both for a moment.
        let records: Vec<_> = found.leftovers.iter().filter(is_it).collect();
        let touched = matches!(next, Step::Write(f, ..) | Step::Truncate(f, _) | Step::Commit(f)
            | Step::Rename(f) | Step::Replace(f) if f == number);
        let replaced = touched && matches!(next, Step::Replace(_));
        assert!(
            records.len() == 1 || replaced && records.len() == 2,
            "{context}: {records:?}"
        );
        if replaced {
            continue;
        }
        let record = records[0];
        assert!(record.version.0 == *version || touched && record.version.0 == version + 1);
        let content = content(&spool.adopt(record.id).expect("adopt"));
        if !touched {
            assert!(content == *old, "{context}: file {number}");
            continue;
        }
        // A commit's step makes it longer for a moment.
        let commit = usize::from(matches!(next, Step::Commit(_)) && content.len() == old.len() + 1);
        assert!(
            [old.len() + commit, new.len()].contains(&content.len()),
            "{context}"
        );
        for (at, byte) in content.iter().enumerate() {
            let known = [old.get(at), new.get(at)];
            assert!(
                known.contains(&Some(byte)) || commit == 1 && *byte == 0,
                "{context}: {at}"
            );
        }
    }
}

/// An upload of what was promised ends while a program throws the content away: what the server has now is what
/// the new version replaces. Else it would be taken for a change of another's.
#[test]
fn an_upload_that_ends_while_the_file_is_emptied_is_not_forgotten() {
    let home = tempfile::tempdir().expect("make a folder");
    let (spool, _) = open_durable(&home.path().join("s"));
    let file = spool.create(&path("/f"), None, now()).expect("create");
    for round in 1..200 {
        file.write_at(b"content", 0).expect("write");
        file.promise().expect("promise");
        let version = file.with(|record| record.version).expect("its record");
        thread::scope(|scope| {
            scope.spawn(|| file.truncate(0).expect("empty it"));
            // At any moment of that.
            thread::sleep(Duration::from_micros(round % 100));
            let there = base(round as usize);
            file.mark_uploaded(version, there).expect("note an upload");
        });
        let known = file.with(|record| record.base).expect("its record");
        assert_eq!(known, Some(base(round as usize)), "round {round}");
    }
}

/// What was promised before is given up: who asks at that moment is told of what has come in its place.
#[test]
fn a_file_that_is_emptied_and_promised_again_is_there_all_the_time() {
    let home = tempfile::tempdir().expect("make a folder");
    let (spool, _) = open_durable(&home.path().join("s"));
    let file = spool.create(&path("/f"), None, now()).expect("create");
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    file.with(|_| ()).expect("its record");
                }
            });
        }
        for _ in 0..200 {
            file.truncate(0).expect("empty it");
            file.write_at(b"content", 0).expect("write");
            file.promise().expect("promise");
        }
        is_done.store(true, Ordering::Relaxed);
    });
}
