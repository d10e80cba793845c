//! The session that is swept, and what must hold of it whatever goes wrong once.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ftpsfs::client;
use ftpsfs::fs::{self, Access, Error, Fs, Ino, Lookup, Patience, spool};
use ftpsfs::proto::{RemotePath, Security};
use ftpsfs::remote::{self, Remote};
use ftpsfs::server::{self, Counts, Faults, Rules, Server, Users};
use ftpsfs::tls::TrustOptions;

/// What an operation may take, by its options.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a file system remembers of a path that the server did not answer.
const SILENCE: Duration = Duration::from_secs(1);
/// And beyond it, on a machine that is busy with other things.
const SLACK: Duration = Duration::from_secs(3);
/// When nothing arrives at the server for so long, nothing is on its way.
const CALM: Duration = Duration::from_millis(20);
/// Attributes and listings are asked for each time.
const NO_TIME: Duration = Duration::ZERO;
/// How long a server that is down is waited for, by `hard` and by what was promised.
const OUTAGE: Duration = Duration::from_secs(30);
/// How long `hard` rests between attempts.
const REST: Duration = Duration::from_millis(100);

/// A session that has not ended by then never will.
const HANG: Duration = Duration::from_secs(300);

/// What one request may take.
pub const DEADLINE: Duration = Duration::from_secs(TIMEOUT.as_secs() + SLACK.as_secs());

/// How the session is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// As by default: close(2) waits for the server, and what fails is told.
    Soft,
    /// Who asks waits until the server is back, so nothing fails.
    Hard,
    /// What was closed is sent in the background.
    WriteBack,
    /// Listing, reading, writing and appending at once, on the one session there is.
    AtOnce,
}

/// A server that can fail.
pub struct Rig {
    server: Server,
    faults: Faults,
    folder: tempfile::TempDir,
    security: Security,
    manner: Manner,
}

/// What came of a session.
pub struct Run {
    pub counts: Counts,
    /// Requests made.
    pub requests: u64,
    /// Operations that failed as they may.
    pub failed: u64,
    /// What the slowest request took.
    pub longest: Duration,
    /// What was answered too late.
    pub late: Vec<String>,
    /// What must not be.
    pub wrong: Vec<String>,
}

/// What the session wrote, for what is to be there in the end.
#[derive(Default)]
struct Files {
    made: Stored,
    appended: Stored,
    /// `log` is `moved` by now.
    is_renamed: bool,
}

/// One session under way.
struct Session<'a> {
    rig: &'a Rig,
    rule: &'a str,
    failed: u64,
    late: Vec<String>,
    wrong: Vec<String>,
}

/// Who asks the file system, as the kernel's door does, and takes the time.
struct Caller {
    fs: Arc<Fs>,
    requests: AtomicU64,
    /// Milliseconds of the slowest.
    longest: AtomicU64,
}

impl Rig {
    pub fn new(security: Security, manner: Manner) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        let mut config = server::Config::new(folder.path(), security, Users::Anyone);
        config.faults = Some(faults.clone());
        let server = Server::start(config).unwrap();
        Self {
            server,
            faults,
            folder,
            security,
            manner,
        }
    }

    /// The session, with that one rule in force.
    pub fn run(&self, rule: &str) -> Run {
        let root = self.folder.path();
        for entry in std::fs::read_dir(root).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        std::fs::write(root.join("old"), old()).unwrap();
        std::fs::write(root.join("log"), "first\n").unwrap();
        self.faults.set(rule.parse::<Rules>().unwrap());
        let mut session = Session {
            rig: self,
            rule,
            failed: 0,
            late: Vec::new(),
            wrong: Vec::new(),
        };
        let (over, is_over) = mpsc::channel::<()>();
        let watched = rule.to_owned();
        thread::spawn(move || {
            if is_over.recv_timeout(HANG) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{watched}: it hangs");
                std::process::abort();
            }
        });
        let (counts, requests, longest) = session.play();
        drop(over);
        Run {
            counts,
            requests,
            failed: session.failed,
            longest,
            late: session.late,
            wrong: session.wrong,
        }
    }

    fn client(&self) -> client::Config {
        let address = self.server.local_addr();
        client::Config {
            trust: TrustOptions {
                fingerprints: vec![self.server.fingerprint()],
                ..TrustOptions::default()
            },
            // So that commands come in the same order each time.
            max_sessions: 1,
            connect_timeout: TIMEOUT,
            min_rate: 0,
            ..client::Config::new(
                address.ip().to_string(),
                address.port(),
                self.security,
                "me",
                "secret",
            )
        }
    }
}

/// A file on its way to the server.
#[derive(Default)]
struct Stored {
    /// write(2) took the bytes: they are not lost whatever close(2) said.
    taken: bool,
    leftover: Option<fs::Leftover>,
}

impl Session<'_> {
    /// The counts of the faulty part, the requests of all, and what the slowest of them took.
    fn play(&mut self) -> (Counts, u64, Duration) {
        let begun = Instant::now();
        let remote = self.connect();
        let connecting = begun.elapsed();
        let Some(remote) = remote else {
            return (self.rig.faults.counts(), 1, connecting);
        };
        let place = tempfile::tempdir().unwrap();
        let caller = Caller::new(Fs::new(Arc::new(remote), self.config(place.path())));
        let moved = match self.rig.manner {
            Manner::AtOnce => self.at_once(&caller),
            Manner::Soft | Manner::Hard | Manner::WriteBack => self.one_by_one(&caller),
        };
        let (counts, files) = moved;
        self.afterwards(&caller, files);
        let longest = caller.longest();
        if longest > DEADLINE && self.rig.manner != Manner::Hard {
            self.late.push(format!("a request took {longest:?}"));
        }
        (counts, caller.requests.load(Ordering::Relaxed), longest)
    }

    /// A mount that fails is tried again: once, or as long as an outage lasts.
    fn connect(&mut self) -> Option<Remote> {
        let begun = Instant::now();
        loop {
            let tried = Instant::now();
            let error = match Remote::connect(self.rig.client(), tried + TIMEOUT) {
                Ok(remote) => return Some(remote),
                Err(error) => error,
            };
            if tried.elapsed() > DEADLINE {
                let took = tried.elapsed();
                self.late.push(format!("connecting took {took:?}"));
            }
            if begun.elapsed() > OUTAGE {
                self.wrong(format!("no connection any more: {error}"));
                return None;
            }
        }
    }

    fn config(&self, place: &Path) -> fs::Config {
        let options = spool::Options {
            limit: 1 << 30,
            durability: spool::Durability::Process,
            patience: Duration::ZERO,
        };
        let spool = spool::Spool::open(&place.join("s"), options, SystemTime::now());
        fs::Config {
            root: RemotePath::root(),
            uid: 0,
            gid: 0,
            shelf: None,
            fmask: 0,
            dmask: 0,
            retries: 2,
            timeout: TIMEOUT,
            attr_timeout: NO_TIME,
            dir_timeout: NO_TIME,
            negative_timeout: NO_TIME,
            cache_entries: 1000,
            window_bytes: 1 << 20,
            passthrough: false,
            prefetch: false,
            spool: Some(spool.unwrap().0),
            strict: false,
            direct: false,
            write_back: self.rig.manner == Manner::WriteBack,
            hard: self.rig.manner == Manner::Hard,
            temp_dir: None,
            temp_name: None,
            uploads: 1,
            min_rate: 0,
        }
    }

    /// The session's operations in their order, while the fault may hit.
    fn one_by_one(&mut self, caller: &Caller) -> (Counts, Files) {
        let mut files = Files::default();
        let listed = self.judge("list", caller.names());
        // What is cut at a line end shows no sign of it.
        if !(self.rule.contains("MLSD") && self.rule.contains("cut")) {
            self.expect("list", listed, &vec!["log".to_owned(), "old".to_owned()]);
        }
        let read = self.judge("read", caller.read("old"));
        self.expect("read", read, &old());
        let written = caller.store("new", &new(), false, &mut files.made);
        self.sent(caller);
        if self.judge("write", written).is_some() {
            self.promised(caller, "new", &new());
        }
        let appended = caller.store("log", b"second\n", true, &mut files.appended);
        self.sent(caller);
        if self.judge("append", appended).is_some() {
            self.promised(caller, "log", b"first\nsecond\n");
        }
        let renamed = self.judge("rename", caller.rename("log", "moved"));
        if renamed.is_some() {
            self.absent("log");
        }
        let deleted = self.judge("delete", caller.delete("old"));
        if deleted.is_some() {
            self.absent("old");
        }
        files.is_renamed = renamed.is_some();
        (self.counts(), files)
    }

    /// The same at once: each needs the session that the others hold.
    fn at_once(&mut self, caller: &Caller) -> (Counts, Files) {
        let mut files = Files::default();
        let Files { made, appended, .. } = &mut files;
        let (read, written, log, listed) = thread::scope(|scope| {
            let read = scope.spawn(|| caller.read("old"));
            let written = scope.spawn(|| caller.store("new", &new(), false, made));
            let log = scope.spawn(|| {
                let appended = caller.store("log", b"second\n", true, appended);
                (appended, caller.rename("log", "moved"))
            });
            let listed = scope.spawn(|| {
                let listings = (0..3).map(|_| caller.names());
                listings.collect::<Vec<_>>()
            });
            (
                read.join().unwrap(),
                written.join().unwrap(),
                log.join().unwrap(),
                listed.join().unwrap(),
            )
        });
        let read = self.judge("read", read);
        self.expect("read", read, &old());
        if self.judge("write", written).is_some() {
            self.promised(caller, "new", &new());
        }
        let (appended, renamed) = log;
        let appended = self.judge("append", appended);
        let renamed = self.judge("rename", renamed);
        if renamed.is_some() {
            self.absent("log");
        }
        if appended.is_some() && renamed.is_some() {
            self.promised(caller, "moved", b"first\nsecond\n");
        }
        for listed in listed {
            let listed = self.judge("list", listed);
            if listed.is_some_and(|listed| !listed.contains(&"old".to_owned())) {
                self.wrong("a listing without old");
            }
        }
        let deleted = self.judge("delete", caller.delete("old"));
        if deleted.is_some() {
            self.absent("old");
        }
        files.is_renamed = renamed.is_some();
        (self.counts(), files)
    }

    /// The fault is gone: what could not be uploaded is, and nothing is amiss.
    fn afterwards(&mut self, caller: &Caller, files: Files) {
        self.rig.faults.clear();
        if self.failed > 0 {
            thread::sleep(SILENCE);
        }
        let Files {
            made,
            appended,
            is_renamed,
        } = files;
        for leftover in [made.leftover, appended.leftover].into_iter().flatten() {
            caller.fs.finish(leftover);
        }
        self.drain(caller);
        let is_moved = is_renamed || !self.exists("log");
        let log = if is_moved { "moved" } else { "log" };
        if made.taken {
            self.on_server("new", &new());
        } else {
            self.absent("new");
        }
        let lines: &[u8] = if appended.taken {
            b"first\nsecond\n"
        } else {
            b"first\n"
        };
        self.on_server(log, lines);
        self.healthy(caller);
        self.drain(caller);
        self.on_server("healthy", b"again");
        caller.fs.close();
    }

    /// What was counted, once what is written ahead of need has arrived.
    fn counts(&self) -> Counts {
        let mut counts = self.rig.faults.counts();
        for _ in 0..20 {
            thread::sleep(CALM);
            let before = std::mem::replace(&mut counts, self.rig.faults.counts());
            if before == counts {
                break;
            }
        }
        counts
    }

    /// With write-back it is sent meanwhile: what comes next waits, so that a position is the same
    /// each time.
    fn sent(&mut self, caller: &Caller) {
        if self.rig.manner == Manner::WriteBack {
            self.drain(caller);
        }
    }

    /// Waits until everything is sent.
    fn drain(&mut self, caller: &Caller) {
        let (done, drained) = mpsc::channel();
        let fs = caller.fs.clone();
        thread::spawn(move || {
            fs.settle();
            let _ = done.send(());
        });
        if drained.recv_timeout(OUTAGE).is_err() {
            self.wrong("what was written is not sent though the server is back");
        }
    }

    /// Everything works, and shows what there is.
    fn healthy(&mut self, caller: &Caller) {
        let mut stored = Stored::default();
        let outcome = caller.store("healthy", b"again", false, &mut stored);
        stored
            .leftover
            .into_iter()
            .for_each(|left| caller.fs.finish(left));
        self.must("a write after the fault", outcome);
        self.promised(caller, "healthy", b"again");
        let there = contents(self.rig.folder.path());
        let shown = self.must("a listing after the fault", caller.names());
        let mut visible: Vec<&str> = there.keys().map(String::as_str).collect();
        visible.retain(|name| !is_temporary(name));
        if self.rig.manner == Manner::WriteBack && !visible.contains(&"healthy") {
            visible.insert(0, "healthy");
        }
        if shown.is_some_and(|shown| shown != visible) {
            self.wrong(format!("a listing does not show {visible:?}"));
        }
        let known = ["healthy", "log", "moved", "new", "old"];
        if visible.iter().any(|name| !known.contains(name)) {
            self.wrong(format!("nobody made all of {visible:?}"));
        }
        for name in visible {
            let content = self.must("a read after the fault", caller.read(name));
            let expected = there.get(name).map_or(&b"again"[..], Vec::as_slice);
            if content.is_some_and(|content| content != expected) {
                self.wrong(format!("{name} is read as something else"));
            }
        }
    }

    /// close(2) said that it is written: the server has it or, with write-back, who reads sees it.
    fn promised(&mut self, caller: &Caller, name: &str, expected: &[u8]) {
        if self.rig.manner != Manner::WriteBack {
            return self.on_server(name, expected);
        }
        let read = self.judge("read back", caller.read(name));
        self.expect(&format!("read back of {name}"), read, &expected.to_vec());
    }

    /// What came of an operation while the fault may hit: it succeeds, or the server is to blame.
    fn judge<T>(&mut self, name: &str, outcome: Result<T, Error>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                self.failed += 1;
                if self.rig.manner == Manner::Hard || !self.excuses(&error) {
                    self.wrong(format!("{name} failed with {error:?}"));
                }
                None
            }
        }
    }

    /// Whether the server is to blame, for being gone or silent or for what the rule made it say.
    fn excuses(&self, error: &Error) -> bool {
        let cause = match error {
            Error::TimedOut => return true,
            Error::Remote { cause, .. } => cause,
            _ => return false,
        };
        match cause {
            remote::Error::TimedOut(_) | remote::Error::Lost(_) | remote::Error::Failed(_) => true,
            remote::Error::NoSpace(_) => self.rule.contains("full"),
            remote::Error::Quota(_) => self.rule.contains("552"),
            remote::Error::Changed => self.rule.contains("SIZE"),
            _ => false,
        }
    }

    fn must<T>(&mut self, name: &str, outcome: Result<T, Error>) -> Option<T> {
        outcome
            .inspect_err(|error| self.wrong(format!("{name}: {error}")))
            .ok()
    }

    fn expect<T: PartialEq>(&mut self, name: &str, value: Option<T>, expected: &T) {
        if value.is_some_and(|value| value != *expected) {
            self.wrong(format!("{name} brought something else"));
        }
    }

    fn on_server(&mut self, name: &str, expected: &[u8]) {
        match std::fs::read(self.rig.folder.path().join(name)) {
            Ok(content) if content == expected => {}
            Ok(content) => self.wrong(format!(
                "{name} has {} bytes instead of {}",
                content.len(),
                expected.len()
            )),
            Err(error) => self.wrong(format!("{name} is not on the server: {error}")),
        }
    }

    fn exists(&self, name: &str) -> bool {
        self.rig.folder.path().join(name).exists()
    }

    fn absent(&mut self, name: &str) {
        if self.exists(name) {
            self.wrong(format!("{name} is still there"));
        }
    }

    fn wrong(&mut self, what: impl Display) {
        self.wrong.push(what.to_string());
    }
}

fn old() -> Vec<u8> {
    (0..30_000_u32).map(|n| (n / 7) as u8).collect()
}

fn new() -> Vec<u8> {
    (0..40_000_u32).map(|n| (n / 11) as u8).collect()
}

fn is_temporary(name: &str) -> bool {
    name.starts_with('.')
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

impl Caller {
    fn new(fs: Arc<Fs>) -> Self {
        Self {
            fs,
            requests: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        }
    }

    fn longest(&self) -> Duration {
        Duration::from_millis(self.longest.load(Ordering::Relaxed))
    }

    /// One request; with `hard` again and again while the server is down.
    fn ask<T>(&self, request: impl Fn(Patience) -> Result<T, Error>) -> Result<T, Error> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let outcome = loop {
            match request(Patience::Until(Instant::now() + TIMEOUT)) {
                Err(error) if self.fs.waits_out(&error) && begun.elapsed() < OUTAGE => {
                    thread::sleep(REST);
                }
                outcome => break outcome,
            }
        };
        let took = begun.elapsed().as_millis() as u64;
        self.longest.fetch_max(took, Ordering::Relaxed);
        outcome
    }

    /// The names in the root, in order.
    fn names(&self) -> Result<Vec<String>, Error> {
        let handle = self.ask(|patience| self.fs.opendir(Ino::ROOT, patience))?;
        let listed = self.ask(|patience| self.fs.readdir(handle, 0, patience));
        self.fs.releasedir(handle);
        let mut names = Vec::new();
        listed?.each(|entry| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            false
        });
        // `.`, `..` and temporary names.
        names.retain(|name| !is_temporary(name));
        names.sort();
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let lookup = |patience| self.fs.lookup(Ino::ROOT, name.as_bytes(), patience);
        let Lookup::Found(entry) = self.ask(lookup)? else {
            return Ok(b"absent".to_vec());
        };
        let ino = entry.attr.ino;
        let opened = self.ask(|patience| self.fs.open(ino, Access::default(), patience))?;
        let mut content = Vec::new();
        let outcome = loop {
            let at = content.len() as u64;
            let more = self.ask(|patience| self.fs.read(opened.handle, at, 64 << 10, patience));
            match more {
                Ok(data) if data.is_empty() => break Ok(content),
                Ok(data) => content.extend_from_slice(&data),
                Err(error) => break Err(error),
            }
        };
        self.fs.release(opened.handle);
        self.fs.forget(ino, 1);
        outcome
    }

    /// Writes, or appends, and closes: the result is close(2)'s.
    fn store(
        &self,
        name: &str,
        bytes: &[u8],
        append: bool,
        stored: &mut Stored,
    ) -> Result<(), Error> {
        let access = Access {
            write: true,
            append,
            ..Access::default()
        };
        let (entry, opened) = self.ask(|patience| {
            let name = name.as_bytes();
            self.fs.create(Ino::ROOT, name, 0o644, access, patience)
        })?;
        let written = self.fs.write(opened.handle, bytes, 0, append);
        stored.taken = written.is_ok();
        let outcome =
            written.and_then(|_| self.ask(|patience| self.fs.flush(opened.handle, patience)));
        stored.leftover = self.fs.release(opened.handle);
        self.fs.forget(entry.attr.ino, 1);
        if self.fs.config().write_back {
            let leftover = stored.leftover.take();
            leftover.into_iter().for_each(|left| self.fs.finish(left));
        }
        outcome
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from, to) = ((Ino::ROOT, from.as_bytes()), (Ino::ROOT, to.as_bytes()));
        self.ask(|patience| self.fs.rename(from, to, false, patience))
    }

    fn delete(&self, name: &str) -> Result<(), Error> {
        self.ask(|patience| self.fs.unlink(Ino::ROOT, name.as_bytes(), patience))
    }
}

impl Display for Manner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Soft => "soft",
            Self::Hard => "hard",
            Self::WriteBack => "write-back",
            Self::AtOnce => "at once",
        })
    }
}
