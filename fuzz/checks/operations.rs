//! Operations on a server that behaves as the input says: the whole client, from connect on. What
//! is told to be done is done, whatever connections break meanwhile; nothing takes longer than its
//! deadline; and once the server is well, so is the client. A server that lies may be believed, but
//! nothing more comes of that.
//!
//! The first byte chooses the connection. Then come up to six faults of two bytes, and operations of
//! one byte each.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ftpsfs::client;
use ftpsfs::proto::{RemotePath, Security};
use ftpsfs::remote::{Error, FileKind, Listing, Remote};
use ftpsfs::server::{Config, Faults, Rules, Server, Users};
use ftpsfs::tls::TrustOptions;

/// For each operation, and what it may take beyond that on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(7);
/// Operations on one input.
const MOST: usize = 12;

/// What breaks, and is seen to be broken.
const BREAKS: [&str; 12] = [
    "fin",
    "rst",
    "reply \"421 Bye\"",
    "split",
    "join",
    "before \"120 Soon\"",
    "drip 1ms",
    "send \"clear\"",
    "endless-line",
    "endless-reply",
    "no-close-notify",
    "forged-close-notify",
];

/// What no client can see through, as a server's reply to a command that it does not carry out, or
/// after it has.
const LIES: [&str; 14] = [
    "reply \"200 OK\"",
    "reply \"226 Done\"",
    "reply \"250 OK\"",
    "reply \"350 Go on\"",
    "reply \"450 No\"",
    "reply \"500 What?\"",
    "reply \"530 Who?\"",
    "reply \"550 No\"",
    "lie \"425 No\"",
    "lie \"550 No\"",
    "lie \"213 7\"",
    "before \"200 Surplus\"",
    "after \"226 Surplus\"",
    "cut 3",
];

/// Where: a command by its number, or a record of a data connection.
fn rule(place: u8, what: u8) -> (String, bool) {
    let lies = what >= 0x80;
    let what = usize::from(what & 0x7f);
    let number = 1 + place % 64;
    match place / 64 {
        // Faults of transfers are for the verbs that begin them.
        3 if lies => (format!("RETR {}: cut {number}", 1 + number % 3), true),
        _ if lies => {
            let what = LIES[what % (LIES.len() - 1)];
            (format!("command {number}: {what}"), true)
        }
        0 | 1 => {
            let what = BREAKS[what % (BREAKS.len() - 2)];
            (format!("command {number}: {what}"), false)
        }
        2 => {
            let what = ["fin", "rst", "forged-close-notify"][what % 3];
            (format!("data sent record {number}: {what}"), false)
        }
        _ => {
            let what = ["fin", "rst", "forged-close-notify"][what % 3];
            (format!("data received record {number}: {what}"), false)
        }
    }
}

/// A server for all inputs of this process.
struct Rig {
    server: Server,
    faults: Faults,
    folder: tempfile::TempDir,
    security: Security,
}

impl Rig {
    fn of(security: Security) -> &'static Self {
        static RIGS: [OnceLock<Rig>; 2] = [OnceLock::new(), OnceLock::new()];
        let index = usize::from(security == Security::Explicit);
        RIGS[index].get_or_init(|| {
            let folder = tempfile::tempdir().expect("a folder");
            let faults = Faults::default();
            let mut config = Config::new(folder.path(), security, Users::Anyone);
            config.faults = Some(faults.clone());
            Rig {
                server: Server::start(config).expect("a server"),
                faults,
                folder,
                security,
            }
        })
    }

    fn fill(&self) {
        let root = self.folder.path();
        for entry in fs::read_dir(root).expect("list").flatten() {
            match entry.path().is_dir() {
                true => fs::remove_dir_all(entry.path()).expect("remove"),
                false => fs::remove_file(entry.path()).expect("remove"),
            }
        }
        fs::create_dir(root.join("d")).expect("make");
        fs::write(root.join("a"), content(20_000)).expect("write");
        fs::write(root.join("b"), content(3)).expect("write");
    }

    fn connect(&self, max_sessions: usize) -> Option<Remote> {
        let address = self.server.local_addr();
        let config = client::Config {
            trust: TrustOptions {
                fingerprints: vec![self.server.fingerprint()],
                ..TrustOptions::default()
            },
            max_sessions,
            connect_timeout: TIMEOUT,
            min_rate: 0,
            ..client::Config::new(
                address.ip().to_string(),
                address.port(),
                self.security,
                "me",
                "secret",
            )
        };
        Remote::connect(config, Instant::now() + TIMEOUT).ok()
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 3) as u8).collect()
}

pub fn check(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let security = match first & 1 {
        0 => Security::Implicit,
        _ => Security::Explicit,
    };
    let rig = Rig::of(security);
    rig.fill();
    let count = usize::from(first >> 1) % 7;
    let (pairs, operations) = rest.split_at((2 * count).min(rest.len()));
    let rules: Vec<_> = pairs
        .chunks_exact(2)
        .map(|pair| rule(pair[0], pair[1]))
        .collect();
    let lies = rules.iter().any(|(_, lies)| *lies);
    let text: Vec<_> = rules.into_iter().map(|(text, _)| text).collect();
    let text = text.join("; ");
    rig.faults.set(text.parse::<Rules>().expect("rules"));
    let max_sessions = 1 + usize::from(first >> 4) % 3;
    let begun = Instant::now();
    let remote = rig.connect(max_sessions);
    assert!(begun.elapsed() < TIMEOUT + SLACK, "connecting: {text}");
    let Some(remote) = remote else {
        rig.faults.clear();
        assert!(rig.connect(1).is_some(), "{text}");
        return;
    };
    for &byte in operations.iter().take(MOST) {
        let begun = Instant::now();
        let held = operate(&remote, rig.folder.path(), byte, begun + TIMEOUT);
        assert!(begun.elapsed() < TIMEOUT + SLACK, "{byte}: {text}");
        if let Err(what) = held {
            assert!(lies, "{text}: {what}");
        }
    }
    rig.faults.clear();
    recovers(&remote, rig.folder.path(), lies, &text);
    remote.shutdown();
}

/// One operation; `Err` where what it says is not so.
fn operate(remote: &Remote, root: &Path, byte: u8, deadline: Instant) -> Result<(), String> {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let name = NAMES[usize::from(byte >> 3) % 4];
    let other = NAMES[usize::from(byte >> 5) % 4];
    let (path, to) = (named(name), named(other));
    let there = root.join(name);
    let must = |is_so: bool, what: &str| match is_so {
        true => Ok(()),
        false => Err(format!("{what} {name} {other}")),
    };
    match byte % 8 {
        0 => match remote.stat(&path, None, deadline) {
            Ok(found) => {
                let is_there = fs::metadata(&there);
                must(
                    is_there.is_ok_and(|there| {
                        there.is_dir() == (found.kind == FileKind::Directory)
                            && (there.is_dir() || there.len() == found.size)
                    }),
                    "stat",
                )
            }
            Err(Error::NotFound) => must(!there.exists(), "stat finds no"),
            Err(_) => Ok(()),
        },
        1 => match remote.list(&RemotePath::root(), deadline) {
            Ok(listing) if listing.complete => must(names(&listing) == present(root), "list"),
            _ => Ok(()),
        },
        2 => match remote.mkdir(&path, 0o755, deadline) {
            Ok(_) => must(there.is_dir(), "mkdir"),
            Err(_) => Ok(()),
        },
        3 => match remote.unlink(&path, deadline) {
            Ok(()) => must(!there.exists(), "unlink"),
            Err(_) => Ok(()),
        },
        4 => match remote.rmdir(&path, deadline) {
            Ok(()) => must(!there.exists(), "rmdir"),
            Err(_) => Ok(()),
        },
        // Kinds must agree, says its caller.
        5 if name != other && there.is_file() && !root.join(other).is_dir() => {
            match remote.rename(&path, &to, deadline) {
                Ok(()) => must(!there.exists() && root.join(other).is_file(), "rename"),
                Err(_) => Ok(()),
            }
        }
        5 | 6 => match read(remote, &path, deadline) {
            Ok(bytes) => must(fs::read(&there).is_ok_and(|there| there == bytes), "read"),
            Err(_) => Ok(()),
        },
        _ => {
            let bytes = content(usize::from(byte) * 300);
            let stored = remote.store(&path, deadline).and_then(|mut upload| {
                upload.write(&bytes, deadline)?;
                upload.finish(deadline)
            });
            match stored {
                Ok(()) => must(fs::read(&there).is_ok_and(|there| there == bytes), "store"),
                Err(_) => Ok(()),
            }
        }
    }
}

fn read(remote: &Remote, path: &RemotePath, deadline: Instant) -> Result<Vec<u8>, Error> {
    let mut download = remote.download(path, 0, None, None, deadline)?;
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 8 << 10]);
    loop {
        match download.read(&mut chunk, deadline)? {
            0 => return Ok(bytes),
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    }
}

/// The server is well again: the first request that needs a connection finds that out, the next
/// succeeds. After lies some more may be needed.
fn recovers(remote: &Remote, root: &Path, lies: bool, text: &str) {
    let attempts = if lies { 5 } else { 2 };
    let mut last = None;
    for _ in 0..attempts {
        match remote.list(&RemotePath::root(), Instant::now() + TIMEOUT) {
            Ok(listing) => {
                let shown = names(&listing);
                if shown == present(root) {
                    return;
                }
                last = Some(format!("{shown:?}"));
            }
            Err(error) => last = Some(error.to_string()),
        }
    }
    panic!("not well after {text}: {last:?}");
}

fn named(name: &str) -> RemotePath {
    RemotePath::parse(format!("/{name}").as_bytes()).expect("a path")
}

fn names(listing: &Listing) -> Vec<Vec<u8>> {
    let names = listing.entries.iter();
    let mut names: Vec<_> = names.map(|(name, _)| name.as_bytes().to_vec()).collect();
    names.sort();
    names
}

fn present(root: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(root).expect("list").flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().as_bytes().to_vec())
        .collect();
    names.sort();
    names
}
