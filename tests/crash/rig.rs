//! A server, a place to mount it, and the threads that work there until the daemon dies.

use crate::common::command::{run, soon, within};
use crate::common::mount::{Mount, Place};
use crate::common::report::Row;
use crate::common::server::{Kind, RealServer, UID};
use crate::common::{own_files, tree, wait_until};
use crate::ledger::{Ledger, Part};
use crate::load::{self, Dice};
use ftpsfs::fs::spool::{Inspection, What};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const WORKERS: usize = 4;
/// How long everything may take to be on the server.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The two promises: what close(2) waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Synchronous,
    WriteBack,
}

pub struct Rig {
    pub server: RealServer,
    pub mode: Mode,
    pub dice: Dice,
    /// What this is a run of, for messages.
    pub title: String,
    ledgers: Vec<Ledger>,
    pub tally: Tally,
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub crashes: usize,
    /// Operations that the daemon's death interrupted.
    pub interrupted: usize,
    pub acknowledged: usize,
    /// The longest that everything took to be on the server after a crash.
    pub longest: Duration,
}

/// The seed of this run: `FTPSFS_SEED`, or by the clock.
pub fn seed() -> u64 {
    let wished = std::env::var("FTPSFS_SEED").ok();
    let wished = wished.map(|text| text.parse().expect("FTPSFS_SEED is a number"));
    let now = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("a clock past 1970").as_nanos() as u64 % 1_000_000
    };
    wished.unwrap_or_else(now)
}

impl Rig {
    /// `what` happens to the daemon; `part`: what may be there in part then.
    pub fn new(what: &str, kind: Kind, mode: Mode, part: Option<Part>, seed: u64) -> Self {
        let server = RealServer::of(kind);
        let mut dice = Dice::new(seed);
        let mut ledgers = Vec::new();
        for worker in 0..WORKERS {
            let home = format!("w{worker}");
            let mut ledger = Ledger::new(&home, part);
            let folders = [server.root.join(&home), server.root.join(&ledger.folder)];
            for index in 0..2 {
                let name = format!("{home}/large{index}");
                let bytes = tree::bytes(dice.next(), 2 << 20);
                tree::put(&server.root.join(&name), &bytes, Duration::from_secs(3600));
                chown(server.root.join(&name), Some(UID), Some(UID)).expect("chown");
                ledger.files.insert(name, bytes);
            }
            for folder in folders {
                fs::create_dir_all(&folder).expect("make a folder");
                chown(&folder, Some(UID), Some(UID)).expect("chown");
            }
            ledgers.push(ledger);
        }
        Self {
            server,
            mode,
            dice,
            title: format!("{what}, {kind:?}, {mode:?}, FTPSFS_SEED={seed}"),
            ledgers,
            tally: Tally::default(),
        }
    }

    /// Nothing of a directory is believed for long, so that each listing shows what is there.
    pub fn options(&self) -> &'static str {
        match self.mode {
            Mode::Synchronous => "dir_timeout=0,log_level=debug",
            Mode::WriteBack => "dir_timeout=0,log_level=debug,writeback",
        }
    }

    pub fn mount(&self, place: Place) -> Mount {
        Mount::logged_at(place, &self.server, self.options()).0
    }

    /// Works in `dir` for a moment; then the daemon of `place` dies under it. Gives how many operations that
    /// interrupted.
    pub fn work_and_kill(&mut self, dir: &Path, place: &Place) -> usize {
        let (daemon, log) = (place.daemon(), place.beside("log"));
        let (killed, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let ledgers = std::mem::take(&mut self.ledgers);
        let before = count(&ledgers);
        let workers: Vec<_> = ledgers
            .into_iter()
            .map(|mut ledger| {
                let (dir, killed, done) = (dir.to_owned(), killed.clone(), done.clone());
                let mut dice = Dice::new(self.dice.next());
                thread::spawn(move || {
                    own_files();
                    let worked = load::work(&dir, &mut ledger, &mut dice, &killed, &done);
                    (ledger, worked)
                })
            })
            .collect();
        // By operations, so that a busy machine does not make it a different test; and then some.
        let goal = self.dice.below(40);
        wait_until(Duration::from_secs(20), || {
            done.load(Ordering::SeqCst) >= goal
        });
        thread::sleep(Duration::from_micros(self.dice.below(150_000)));
        killed.store(true, Ordering::SeqCst);
        kill(daemon, Signal::SIGKILL).expect("kill the daemon");
        let ended = within(Duration::from_secs(30), move || {
            let ended = workers.into_iter().map(|worker| worker.join());
            ended
                .map(|worker| worker.expect("no panic"))
                .collect::<Vec<_>>()
        });
        let (ledgers, worked): (Vec<_>, Vec<_>) = ended.into_iter().unzip();
        self.ledgers = ledgers;
        for worked in worked {
            let title = &self.title;
            worked.unwrap_or_else(|why| panic!("{title}: before the kill: {why}\n{}", end(&log)));
        }
        let after = count(&self.ledgers);
        let interrupted = after.0 - before.0;
        self.tally.crashes += usize::from(interrupted > 0);
        self.tally.interrupted += interrupted;
        self.tally.acknowledged += after.1 - before.1;
        interrupted
    }

    /// Mounts until everything is on the server and tidy, and makes sure that it is what it must be.
    pub fn check(&mut self, mut place: Place) -> Place {
        let state = place.beside("state");
        for _ in 0..3 {
            let mount = self.mount(place);
            let dir = mount.dir.clone();
            let calm = self.is_calm(&dir);
            place = mount.into_place();
            // A process that another test has just started holds our folders until it runs.
            let unmounted = wait_until(Duration::from_secs(10), || {
                let umount = run(place.binary().arg("umount").arg(&place.dir), PATIENCE);
                umount.status.success()
            });
            assert!(unmounted, "{}: it cannot be unmounted", self.title);
            assert!(place.is_deserted(), "{}: the daemon stays", self.title);
            if !calm || kept(&state).is_empty() {
                break;
            }
        }
        let kept = kept(&state);
        assert!(kept.is_empty(), "{}: kept: {kept:?}", self.title);
        self.conclude(&state);
        place
    }

    /// Waits until everything is on the server, and looks at it in `dir` meanwhile; whether it is.
    pub fn is_calm(&mut self, dir: &Path) -> bool {
        let begun = Instant::now();
        let calm = wait_until(PATIENCE, || {
            self.look_at_all(dir);
            self.differences().is_empty()
        });
        self.tally.longest = self.tally.longest.max(begun.elapsed());
        calm
    }

    /// Lists every folder: that is when what a crash left is tidied away.
    pub fn look_at_all(&self, dir: &Path) {
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            folders.extend(soon(move || {
                let found = fs::read_dir(folder).into_iter().flatten().flatten();
                let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|t| t.is_dir());
                let found = found.filter(is_folder).map(|entry| entry.path());
                found.collect::<Vec<_>>()
            }));
        }
    }

    pub fn differences(&self) -> Vec<String> {
        let of = |ledger: &Ledger| ledger.differences(&self.server.root);
        self.ledgers.iter().flat_map(of).collect()
    }

    /// Nothing may differ now, and nothing be left to send.
    pub fn conclude(&mut self, state: &Path) {
        let wrong = self.differences().join("\n");
        let owed = kept(state).into_iter();
        let owed: Vec<_> = owed.filter(|what| matches!(what, What::File(_))).collect();
        assert!(
            wrong.is_empty() && owed.is_empty(),
            "{}:\n{wrong}\nkept: {owed:?}\n{}",
            self.title,
            end(&state.with_file_name("log"))
        );
        for ledger in &mut self.ledgers {
            ledger.resolve(&self.server.root);
        }
    }
}

/// Doubts, and operations acknowledged.
fn count(ledgers: &[Ledger]) -> (usize, usize) {
    ledgers
        .iter()
        .fold((0, 0), |(doubts, acknowledged), ledger| {
            (
                doubts + ledger.doubts.len(),
                acknowledged + ledger.acknowledged,
            )
        })
}

/// The last lines of a daemon's log.
fn end(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

fn inspect(state: &Path) -> Vec<Inspection> {
    let all = Inspection::all(state).expect("look at the state folder");
    all.into_iter()
        .map(|(path, found)| found.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect()
}

/// What the spools keep although it was closed, and data that no record claims. What was never
/// closed, or not safe before power was lost, stays there too: nobody was told that it is anywhere.
fn kept(state: &Path) -> Vec<What> {
    let kept = inspect(state).into_iter().flat_map(|spool| spool.kept);
    let is_more = |what: &What| match what {
        What::File(record) => record.is_owed() && !record.doubtful,
        What::Lost(_) => true,
    };
    kept.map(|kept| kept.what).filter(is_more).collect()
}

/// Tells what was tried. A test that fails has found a loss, whatever else it was.
impl Drop for Rig {
    fn drop(&mut self) {
        let Tally {
            crashes,
            interrupted,
            acknowledged,
            longest,
        } = self.tally;
        let row = Row {
            title: self.title.clone(),
            faults: 1,
            positions: crashes as u64,
            operations: (acknowledged + interrupted) as u64,
            failed: interrupted as u64,
            losses: u64::from(thread::panicking()),
            hangs: u64::from(longest >= PATIENCE),
            longest,
            deadline: PATIENCE,
        };
        row.report();
    }
}

/// A path for those who want the daemon's own view of its mount.
pub fn inside(daemon: Pid, dir: &Path) -> PathBuf {
    let dir = dir.strip_prefix("/").expect("an absolute path");
    Path::new(&format!("/proc/{daemon}/root")).join(dir)
}
