//! The session that is swept, and what must hold of it whatever goes wrong once.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ftpsfs::client;
use ftpsfs::fs::{self, Access, Error, Fs, Ino, Lookup, Patience, spool};
use ftpsfs::proto::{RemotePath, Secret, Security};
use ftpsfs::remote::{self, Remote};
use ftpsfs::server::{self, Counts, Faults, Rules, Server, Users};
use ftpsfs::tls::TrustOptions;

/// What an operation may take, by its options.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a file system remembers of a path that the server did not answer.
const SILENCE: Duration = Duration::from_secs(1);
/// And beyond it, on a machine that is busy with other things.
const SLACK: Duration = Duration::from_secs(3);
/// Attributes and listings are asked for each time.
const NO_TIME: Duration = Duration::ZERO;

/// A server that can fail.
pub struct Rig {
    server: Server,
    faults: Faults,
    folder: tempfile::TempDir,
    security: Security,
}

/// What came of a session.
pub struct Run {
    pub counts: Counts,
    /// Operations that failed as they may.
    pub failed: u64,
    /// What must not be.
    pub wrong: Vec<String>,
}

/// One session under way.
struct Session<'a> {
    rig: &'a Rig,
    rule: &'a str,
    failed: u64,
    wrong: Vec<String>,
}

impl Rig {
    pub fn new(security: Security) -> Self {
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
            wrong: Vec::new(),
        };
        let counts = session.play();
        Run {
            counts,
            failed: session.failed,
            wrong: session.wrong,
        }
    }

    fn client(&self) -> client::Config {
        let address = self.server.local_addr();
        client::Config {
            host: address.ip().to_string(),
            port: address.port(),
            security: self.security,
            user: b"me".to_vec(),
            password: Secret::new("secret"),
            account: None,
            trust: TrustOptions {
                fingerprints: vec![self.server.fingerprint()],
                ..TrustOptions::default()
            },
            // So that commands come in the same order each time.
            max_sessions: 1,
            active: false,
            trust_pasv_address: false,
            connect_timeout: TIMEOUT,
            keepalive: Duration::from_secs(60),
            idle_close: Duration::from_secs(60),
            min_rate: 0,
            addresses: Vec::new(),
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
    /// The counts of the faulty part.
    fn play(&mut self) -> Counts {
        let connect = |deadline| Remote::connect(self.rig.client(), deadline);
        let begun = Instant::now();
        let remote = match connect(begun + TIMEOUT) {
            Ok(remote) => remote,
            Err(error) => {
                self.failed += 1;
                self.in_time("connect", begun);
                match connect(Instant::now() + TIMEOUT) {
                    Ok(remote) => remote,
                    Err(again) => {
                        self.wrong(format!("no second connection: {error}, then {again}"));
                        return self.rig.faults.counts();
                    }
                }
            }
        };
        let place = tempfile::tempdir().unwrap();
        let options = spool::Options {
            limit: 1 << 30,
            durability: spool::Durability::Process,
            patience: Duration::ZERO,
        };
        let spool = spool::Spool::open(&place.path().join("s"), options, SystemTime::now());
        let fs = Fs::new(
            Arc::new(remote),
            fs::Config {
                root: RemotePath::root(),
                uid: 0,
                gid: 0,
                fmask: 0,
                dmask: 0,
                timeout: TIMEOUT,
                attr_timeout: NO_TIME,
                dir_timeout: NO_TIME,
                negative_timeout: NO_TIME,
                cache_entries: 1000,
                window_bytes: 1 << 20,
                spool: Some(spool.unwrap().0),
                strict: false,
                direct: false,
                write_back: false,
                hard: false,
                temp_dir: None,
                temp_name: None,
                uploads: 1,
                min_rate: 0,
            },
        );
        let listed = self.operation("list", || names(&fs));
        self.expect("list", listed, &vec!["log".to_owned(), "old".to_owned()]);
        let read = self.operation("read", || read(&fs, "old"));
        self.expect("read", read, &old());

        let (mut made, mut appended) = (Stored::default(), Stored::default());
        let write = || store(&fs, "new", &new(), false, &mut made);
        if self.operation("write", write).is_some() {
            self.on_server("new", &new());
        }
        let append = || store(&fs, "log", b"second\n", true, &mut appended);
        if self.operation("append", append).is_some() {
            self.on_server("log", b"first\nsecond\n");
        }
        let renamed = self.operation("rename", || {
            fs.rename((Ino::ROOT, b"log"), (Ino::ROOT, b"moved"), false, soon())
        });
        if renamed.is_some() {
            self.absent("log");
        }
        let deleted = self.operation("delete", || fs.unlink(Ino::ROOT, b"old", soon()));
        if deleted.is_some() {
            self.absent("old");
        }
        let counts = self.rig.faults.counts();

        // The fault is gone: what could not be uploaded is, and nothing is amiss.
        self.rig.faults.clear();
        if self.failed > 0 {
            thread::sleep(SILENCE);
        }
        for leftover in [made.leftover, appended.leftover].into_iter().flatten() {
            fs.finish(leftover);
        }
        let moved = renamed.is_some() || !self.exists("log");
        let log = if moved { "moved" } else { "log" };
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
        self.healthy(&fs);
        fs.close();
        counts
    }

    /// Everything works, and shows what there is.
    fn healthy(&mut self, fs: &Arc<Fs>) {
        let stored = store(fs, "healthy", b"again", false, &mut Stored::default());
        self.must("a write after the fault", stored);
        self.on_server("healthy", b"again");
        let there = contents(self.rig.folder.path());
        let shown = names(fs);
        let shown = self.must("a listing after the fault", shown);
        let visible = there.keys().filter(|name| !is_temporary(name));
        let visible: Vec<String> = visible.cloned().collect();
        if shown.is_some_and(|shown| shown != visible) {
            self.wrong(format!("a listing does not show {visible:?}"));
        }
        for name in &visible {
            let content = read(fs, name);
            if let Some(content) = self.must("a read after the fault", content)
                && content != there[name]
            {
                self.wrong(format!("{name} is read as something else"));
            }
        }
    }

    /// An operation while the fault may hit: it succeeds, or the server is to blame, in time.
    fn operation<T>(
        &mut self,
        name: &str,
        operation: impl FnOnce() -> Result<T, Error>,
    ) -> Option<T> {
        let begun = Instant::now();
        let outcome = operation();
        self.in_time(name, begun);
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                self.failed += 1;
                if !self.excuses(&error) {
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
            remote::Error::TimedOut(_) | remote::Error::Failed(_) => true,
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

    fn in_time(&mut self, name: &str, begun: Instant) {
        let took = begun.elapsed();
        if took > TIMEOUT + SLACK {
            self.wrong(format!("{name} took {took:?}"));
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

fn soon() -> Patience {
    Patience::Until(Instant::now() + TIMEOUT)
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

/// The names in the root, in order.
fn names(fs: &Arc<Fs>) -> Result<Vec<String>, Error> {
    let handle = fs.opendir(Ino::ROOT, soon())?;
    let listed = fs.readdir(handle, 0, soon());
    fs.releasedir(handle);
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

fn lookup(fs: &Fs, name: &str) -> Result<Option<Ino>, Error> {
    match fs.lookup(Ino::ROOT, name.as_bytes(), soon())? {
        Lookup::Found(entry) => Ok(Some(entry.attr.ino)),
        Lookup::Absent(_) => Ok(None),
    }
}

fn read(fs: &Fs, name: &str) -> Result<Vec<u8>, Error> {
    let Some(ino) = lookup(fs, name)? else {
        return Ok(b"absent".to_vec());
    };
    let opened = fs.open(ino, Access::default(), soon())?;
    let deadline = soon();
    let mut content = Vec::new();
    let outcome = loop {
        match fs.read(opened.handle, content.len() as u64, 64 << 10, deadline) {
            Ok(data) if data.is_empty() => break Ok(content),
            Ok(data) => content.extend_from_slice(&data),
            Err(error) => break Err(error),
        }
    };
    fs.release(opened.handle);
    fs.forget(ino, 1);
    outcome
}

/// Writes, or appends, and closes: the result is close(2)'s.
fn store(
    fs: &Fs,
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
    let (entry, opened) = fs.create(Ino::ROOT, name.as_bytes(), 0o644, access, soon())?;
    let written = fs.write(opened.handle, bytes, 0, append);
    stored.taken = written.is_ok();
    let outcome = written.and_then(|_| fs.flush(opened.handle, soon()));
    stored.leftover = fs.release(opened.handle);
    fs.forget(entry.attr.ino, 1);
    outcome
}
