//! Random operations by several threads on a mount by the real binary, while the server fails at
//! random. After each healing everything that was acknowledged must be there, and in the end on the
//! server; nothing may have hung, and memory stays bounded.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ftpsfs::proto::Security;
use ftpsfs::server::{self, Faults, Rules, Server, Users};
use nix::mount::{MntFlags, umount2};

use super::common::command::{run, within};
use super::common::mount::Place;
use super::common::report::Row;
use super::common::{full, own_files, wait_until};
use super::dice::Dice;
use super::weather::{self, Weather};
use super::worker::{self, Worker};

/// Rounds that run side by side: they mostly wait.
const LANES: usize = 2;
const WORKERS: u64 = 3;
/// How often faults come and go in a round, and how long they stay.
const PHASES: u64 = 3;
const PHASE: Duration = Duration::from_secs(4);
/// Between the operations of a thread: the machine has only so many ports.
const REST: Duration = Duration::from_millis(8);
/// `timeout=` of the mounts.
const TIMEOUT: Duration = Duration::from_secs(3);
/// What a call may take: it looks names up before it does anything, each within the timeout; a close
/// waits for its turn behind those of the other threads, whose last step may be the slow one. And
/// the machine may be busy with other things.
const DEADLINE: Duration = Duration::from_secs(3 * TIMEOUT.as_secs() + 6);
/// What has not ended by then hangs.
const HANG: Duration = Duration::from_secs(90);
/// How long what is known to be silent is not asked again.
const SILENCE: Duration = Duration::from_millis(1200);
/// How long what was written may take to be sent once the server is well.
const SENDING: Duration = Duration::from_secs(60);
/// Memory of the daemon, bytes.
const MEMORY: u64 = 384 << 20;
/// How a round is mounted, by its seed.
struct Setting {
    seed: u64,
    security: Security,
    write_back: bool,
    hard: bool,
    sessions: u64,
    attr_timeout: u64,
}

/// What came of rounds.
#[derive(Default)]
struct Tally {
    kinds: Vec<&'static str>,
    hits: u64,
    operations: u64,
    failed: u64,
    hangs: u64,
    longest: Duration,
    memory: u64,
    losses: Vec<String>,
}

/// A server, its mount, and what threads share.
pub struct Round {
    setting: Setting,
    faults: Faults,
    server: Server,
    pub served: tempfile::TempDir,
    pub place: Place,
    /// The rules in force, for messages and for what they excuse.
    rules: Mutex<String>,
    operations: AtomicU64,
    failed: AtomicU64,
    /// Milliseconds.
    longest: AtomicU64,
    losses: Mutex<Vec<String>>,
}

/// For FTPSFS_SOAK seconds, from FTPSFS_SEED on: without it the same worlds each time, but with
/// `tests/run --full` others.
#[test]
fn random_operations_under_random_faults_lose_nothing() {
    let number = |name| {
        let value = std::env::var(name).ok()?;
        value.parse::<u64>().ok()
    };
    let seconds = number("FTPSFS_SOAK").unwrap_or(if full() { 600 } else { 90 });
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let first = number("FTPSFS_SEED").unwrap_or_else(|| match full() {
        true => now.unwrap().as_secs() * 100,
        false => 1,
    });
    let until = Instant::now() + Duration::from_secs(seconds);
    let next = AtomicU64::new(first);
    let total = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while Instant::now() < until {
                    let setting = Setting::of(next.fetch_add(1, Ordering::Relaxed));
                    println!("{setting}");
                    let seed = setting.seed;
                    let tally = Round::new(setting).run();
                    println!("seed {seed}: {tally}");
                    total.lock().unwrap().add(tally);
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap();
    total.kinds.sort_unstable();
    total.kinds.dedup();
    println!("{total}");
    let row = Row {
        title: format!("soak, seeds {first} to {}", next.into_inner() - 1),
        faults: total.kinds.len() as u64,
        positions: total.hits,
        operations: total.operations,
        failed: total.failed,
        losses: total.losses.len() as u64,
        hangs: total.hangs,
        longest: total.longest,
        deadline: DEADLINE,
    };
    row.report();
    assert!(total.losses.is_empty(), "{:#?}", total.losses);
    assert_eq!(total.hangs, 0);
    assert!(total.hits > 0 && total.operations > 0, "nothing was tried");
}

impl Setting {
    fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        Self {
            seed,
            security: dice.one_of(&[Security::Implicit, Security::Explicit]),
            write_back: dice.below(2) == 0,
            hard: dice.below(3) == 0,
            sessions: dice.one_of(&[1, 2, 4]),
            attr_timeout: dice.one_of(&[0, 10]),
        }
    }
}

impl Round {
    fn new(setting: Setting) -> Self {
        let served = tempfile::tempdir().unwrap();
        fs::create_dir(served.path().join("d")).unwrap();
        let faults = Faults::default();
        let mut config = server::Config::new(served.path(), setting.security, Users::Anyone);
        config.faults = Some(faults.clone());
        Self {
            setting,
            faults,
            server: Server::start(config).unwrap(),
            served,
            place: Place::new(),
            rules: Mutex::default(),
            operations: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            losses: Mutex::default(),
        }
    }

    fn run(self) -> Tally {
        let mut tally = Tally::default();
        let mut dice = Dice::new(self.setting.seed + 1);
        let mut workers: Vec<_> = (0..WORKERS)
            .map(|number| Worker::new(number, self.setting.seed * WORKERS + number))
            .collect();
        let daemon = self.mount();
        let watchdog = Watchdog::new(self.place.dir.clone());
        for _ in 0..PHASES {
            let weather = weather::random(&mut dice, self.setting.hard);
            self.storm(&weather, &mut workers);
            tally.hits += self.faults.counts().hits;
            tally.kinds.extend(weather.kinds);
            self.heal(&mut workers);
            watchdog.still_alive();
            tally.memory = tally.memory.max(memory(&daemon));
        }
        self.unmount(daemon);
        watchdog.still_alive();
        self.compare(&mut workers);
        tally.hangs = u64::from(watchdog.has_bitten());
        if tally.memory > MEMORY {
            self.wrong(format!("the daemon took {} MiB", tally.memory >> 20));
        }
        let losses = self.losses.into_inner().unwrap();
        if !losses.is_empty() {
            let log = fs::read_to_string(self.place.beside("log")).unwrap_or_default();
            let kept = std::env::temp_dir().join(format!("ftpsfs-soak-{}.log", self.setting.seed));
            fs::write(&kept, log).unwrap();
            println!("the log of {} is {}", self.setting.seed, kept.display());
        }
        Tally {
            operations: self.operations.into_inner(),
            failed: self.failed.into_inner(),
            longest: Duration::from_millis(self.longest.into_inner()),
            losses,
            ..tally
        }
    }
}

impl Round {
    /// Mounts, in the foreground, with the log beside the mount point.
    fn mount(&self) -> Child {
        let Setting {
            security,
            write_back,
            hard,
            sessions,
            attr_timeout,
            ..
        } = self.setting;
        let address = self.server.local_addr();
        let scheme = match security {
            Security::Implicit => "ftps",
            Security::Explicit => "ftpes",
        };
        let mut options = format!(
            "credentials={},fingerprint={},state_dir={},timeout={},attr_timeout={attr_timeout},\
             dir_timeout={attr_timeout},negative_timeout=0,max_sessions={sessions},window=8M,\
             log_level=debug",
            self.place.beside("credentials").display(),
            self.server.fingerprint(),
            self.place.beside("state").display(),
            TIMEOUT.as_secs(),
        );
        for (is_on, option) in [(write_back, ",writeback"), (hard, ",hard")] {
            options += if is_on { option } else { "" };
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.place.beside("log"));
        let mut command = self.place.binary();
        command.args(["mount", "-f"]);
        command.arg(format!("{scheme}://{address}/"));
        command.arg(&self.place.dir).arg("-o").arg(options);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut daemon = command.stderr(log.unwrap()).spawn().unwrap();
        let mounted = wait_until(Duration::from_secs(30), || {
            !self.place.mountinfo().is_empty() || !matches!(daemon.try_wait(), Ok(None))
        });
        let log = || fs::read_to_string(self.place.beside("log")).unwrap_or_default();
        assert!(
            mounted && !self.place.mountinfo().is_empty(),
            "{}: {}",
            self.setting,
            log()
        );
        daemon
    }

    /// Everybody works while the server fails.
    fn storm(&self, weather: &Weather, workers: &mut [Worker]) {
        self.rules.lock().unwrap().clone_from(&weather.rules);
        self.faults.set(weather.rules.parse::<Rules>().unwrap());
        let until = Instant::now() + PHASE;
        thread::scope(|scope| {
            for worker in workers {
                scope.spawn(move || {
                    own_files();
                    while Instant::now() < until {
                        worker.operate(self);
                        thread::sleep(REST);
                    }
                });
            }
            // Who waits on a hard mount waits for this.
            thread::sleep(PHASE);
            self.faults.clear();
        });
    }

    /// The server is well again: everything works, and shows what was acknowledged.
    fn heal(&self, workers: &mut [Worker]) {
        thread::sleep(SILENCE);
        self.rules.lock().unwrap().clear();
        thread::scope(|scope| {
            for worker in workers {
                scope.spawn(move || {
                    own_files();
                    worker.look(self);
                    worker.write(self);
                    worker.look(self);
                });
            }
        });
    }

    fn unmount(&self, mut daemon: Child) {
        let mut umount = self.place.binary();
        umount.arg("umount").arg(&self.place.dir);
        let unmounted = run(&mut umount, SENDING);
        if !unmounted.status.success() {
            self.wrong(format!("umount: {}", unmounted.stderr));
        }
        let ended = within(SENDING, move || daemon.wait());
        if !ended.is_ok_and(|status| status.success()) {
            self.wrong("the daemon failed");
        }
        if !self.place.is_deserted() {
            self.wrong("a process is left");
        }
    }

    /// What could not be sent is sent by the next mount; then the server has what the threads were
    /// told, and nothing else.
    fn compare(&self, workers: &mut [Worker]) {
        let daemon = self.mount();
        let is_there = || {
            let found = self.found();
            workers.iter().all(|worker| worker.fits(&found)) && self.strangers(&found).is_empty()
        };
        // Leftovers are removed when a listing shows them.
        wait_until(SENDING, || {
            for dir in ["", "d"] {
                let _ = fs::read_dir(self.place.dir.join(dir)).map(Iterator::count);
            }
            thread::sleep(Duration::from_millis(200));
            is_there()
        });
        for worker in &mut *workers {
            worker.look(self);
        }
        self.unmount(daemon);
        let found = self.found();
        for worker in workers {
            worker.compare(self, &found);
        }
        let strangers = self.strangers(&found);
        if !strangers.is_empty() {
            self.wrong(format!("nobody made {strangers:?}"));
        }
    }

    /// What the server holds, by path.
    fn found(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for dir in ["", "d"] {
            let entries = fs::read_dir(self.served.path().join(dir))
                .unwrap()
                .flatten();
            for entry in entries {
                // A temporary file may just be removed.
                let Ok(content) = fs::read(entry.path()) else {
                    continue;
                };
                found.push((Path::new(dir).join(entry.file_name()), content));
            }
        }
        found
    }

    /// Paths that are nobody's.
    fn strangers(&self, found: &[(PathBuf, Vec<u8>)]) -> Vec<PathBuf> {
        let paths = found.iter().map(|(path, _)| path);
        let strange = paths.filter(|path| !(0..WORKERS).any(|number| worker::owns(number, path)));
        strange.cloned().collect()
    }

    /// One call: it ends in time, and fails only as the faults in force excuse.
    pub fn call<T>(&self, what: &str, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let begun = Instant::now();
        let outcome = call();
        let took = begun.elapsed();
        self.operations.fetch_add(1, Ordering::Relaxed);
        let patience = match self.setting.hard {
            true => DEADLINE + PHASE,
            false => DEADLINE,
        };
        if took > patience {
            self.wrong(format!("{what} took {took:?}"));
        }
        if !self.setting.hard {
            let took = took.as_millis() as u64;
            self.longest.fetch_max(took, Ordering::Relaxed);
        }
        if let Err(error) = &outcome
            && error.kind() != io::ErrorKind::NotFound
        {
            self.failed.fetch_add(1, Ordering::Relaxed);
            if !self.excuses(error) {
                self.wrong(format!("{what} failed: {error}"));
            }
        }
        outcome
    }

    fn excuses(&self, error: &io::Error) -> bool {
        let rules = self.rules.lock().unwrap();
        match error.raw_os_error() {
            _ if rules.is_empty() || self.setting.hard => false,
            Some(libc::EIO | libc::ETIMEDOUT) => true,
            Some(libc::ENOSPC) => rules.contains("full"),
            Some(libc::EDQUOT) => rules.contains("552"),
            _ => false,
        }
    }

    /// Whether close(2) waits for the server.
    pub fn is_synchronous(&self) -> bool {
        !self.setting.write_back
    }

    /// Whether a rename that nobody knows the outcome of makes a conflict copy of what waits to be sent
    /// to either name.
    pub fn may_part(&self) -> bool {
        self.setting.write_back && !self.setting.hard
    }

    pub fn wrong(&self, what: impl fmt::Display) {
        let rules = self.rules.lock().unwrap().clone();
        let wrong = format!("{} [{rules}] {what}", self.setting);
        println!("{wrong}");
        self.losses.lock().unwrap().push(wrong);
    }
}

/// Cuts the mount off where it hangs: who waits for it could not even be killed.
struct Watchdog {
    alive: mpsc::Sender<()>,
    has_bitten: Arc<AtomicBool>,
}

impl Watchdog {
    fn new(point: PathBuf) -> Self {
        let (alive, ended) = mpsc::channel();
        let has_bitten = Arc::new(AtomicBool::new(false));
        let bites = has_bitten.clone();
        thread::spawn(move || {
            loop {
                match ended.recv_timeout(HANG) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        println!("{} hangs", point.display());
                        bites.store(true, Ordering::Relaxed);
                        let _ = umount2(&point, MntFlags::MNT_FORCE);
                    }
                }
            }
        });
        Self { alive, has_bitten }
    }

    fn still_alive(&self) {
        let _ = self.alive.send(());
    }

    fn has_bitten(&self) -> bool {
        self.has_bitten.load(Ordering::Relaxed)
    }
}

/// The most that a process ever had in memory, bytes.
fn memory(process: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id()));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(u64::MAX >> 10) << 10
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.kinds.extend(other.kinds);
        self.hits += other.hits;
        self.operations += other.operations;
        self.failed += other.failed;
        self.hangs += other.hangs;
        self.longest = self.longest.max(other.longest);
        self.memory = self.memory.max(other.memory);
        self.losses.extend(other.losses);
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let manner = if self.hard { "hard" } else { "soft" };
        let waits = if self.write_back { ", write-back" } else { "" };
        write!(
            f,
            "seed {}: {:?}, {manner}{waits}, {} sessions, attr_timeout={}",
            self.seed, self.security, self.sessions, self.attr_timeout
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} hits, {} calls, {} failed, {} losses, {} hangs, at most {:?} and {} MiB",
            self.hits,
            self.operations,
            self.failed,
            self.losses.len(),
            self.hangs,
            self.longest,
            self.memory >> 20
        )
    }
}
