//! An independent peer (tests/peer, Python on `ssl.MemoryBIO`) plays MS-FTPS against the server
//! and against the client: these two share `proto`, so they could agree on an error; the peer
//! shares nothing.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftpsfs::client::{self, Error, Lane, Pool};
use ftpsfs::proto::{self, Security};
use ftpsfs::server::{Config, Server, Users};
use ftpsfs::tls::{Fingerprint, TrustOptions};

fn peer() -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer/ftps_peer.py");
    let mut command = Command::new("python3");
    command.arg("-B").arg(script);
    command
}

fn play_client(port: u16, security: Security, fingerprint: Fingerprint, names: &[&str]) -> Output {
    let security = match security {
        Security::Implicit => "implicit",
        Security::Explicit => "explicit",
    };
    peer()
        .args(["client", "--port", &port.to_string()])
        .args(["--security", security])
        .args(["--fingerprint", &fingerprint.to_string()])
        .arg("--expect")
        .args(names)
        .output()
        .expect("python3 runs")
}

fn serve(security: Security) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hello"), "0123456789").unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    let config = Config::new(folder.path(), security, Users::Anyone);
    (Server::start(config).unwrap(), folder)
}

#[track_caller]
fn assert_passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert_eq!(
        text.lines().filter(|line| line.starts_with("ok ")).count(),
        7,
        "{text}"
    );
}

#[test]
fn the_server_keeps_ms_ftps_implicit() {
    let (server, _folder) = serve(Security::Implicit);
    let port = server.local_addr().port();
    let names = ["hello", "sub"];
    assert_passed(&play_client(
        port,
        Security::Implicit,
        server.fingerprint(),
        &names,
    ));
}

#[test]
fn the_server_keeps_ms_ftps_explicit() {
    let (server, _folder) = serve(Security::Explicit);
    let port = server.local_addr().port();
    let names = ["hello", "sub"];
    assert_passed(&play_client(
        port,
        Security::Explicit,
        server.fingerprint(),
        &names,
    ));
}

/// The peer itself: it tells a mismatch, by its exit status and in words.
#[test]
fn the_peer_sees_what_differs() {
    let (server, _folder) = serve(Security::Implicit);
    let port = server.local_addr().port();
    for (security, fingerprint, name, words) in [
        (
            Security::Explicit,
            server.fingerprint(),
            "hello",
            "MISMATCH",
        ),
        (
            Security::Implicit,
            Fingerprint([0; 32]),
            "hello",
            "the certificate is",
        ),
        (
            Security::Implicit,
            server.fingerprint(),
            "absent",
            "the listing lacks ['absent']",
        ),
    ] {
        let output = play_client(port, security, fingerprint, &[name, "--patience", "0.5"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(words), "{text}");
    }
}

/// The peer's two roles, written apart from each other, agree on the contract, and the server
/// role's rules are broken by a client that breaks them.
#[test]
fn the_peer_plays_both_roles() {
    let identity = Identity::new();
    for (security, name) in [
        (Security::Implicit, "contract-implicit"),
        (Security::Explicit, "contract-explicit"),
    ] {
        let (client, verdict) = play_both(&identity, security, name);
        assert_passed(&client);
        assert!(verdict.contains("VERDICT ok"), "{verdict}");
    }
    // The checking client sends PROT to an implicit server, on purpose; a client must not.
    let (_, verdict) = play_both(&identity, Security::Implicit, "implicit");
    assert!(verdict.contains("MISMATCH"), "{verdict}");
}

fn play_both(identity: &Identity, security: Security, scenario: &str) -> (Output, String) {
    let peer = PeerServer::start(identity, scenario);
    let names = ["hello", "sub"];
    let client = play_client(peer.port, security, identity.fingerprint, &names);
    (client, peer.verdict())
}

/// The client against every scenario: what it says of it, and what the peer says of the client.
#[test]
fn the_client_keeps_ms_ftps() {
    let identity = Identity::new();
    let list = peer().args(["server", "--list"]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let scenarios: Vec<_> = list
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    assert!(scenarios.len() >= 20, "{scenarios:?}");
    std::thread::scope(|scope| {
        for (name, security) in scenarios {
            let identity = &identity;
            let security = match security {
                "implicit" => Security::Implicit,
                "explicit" => Security::Explicit,
                other => panic!("{name} is {other}"),
            };
            scope.spawn(move || play_scenario(identity, name, security));
        }
    });
}

fn play_scenario(identity: &Identity, name: &str, security: Security) {
    let peer = PeerServer::start(identity, name);
    let outcome = use_client(peer.port, security, identity, name.starts_with("rein"));
    let refused = [
        "greeting-421",
        "greeting-421-explicit",
        "auth-refused",
        "auth-534",
        "auth-injection",
        "prot-refused",
    ];
    assert_eq!(
        outcome.is_err(),
        refused.contains(&name),
        "{name}: {outcome:?}"
    );
    let verdict = peer.verdict();
    assert!(
        verdict.contains("VERDICT ok"),
        "{name}: {outcome:?}\n{verdict}"
    );
}

/// Lists and reads, and where asked to reinitializes in between.
fn use_client(port: u16, security: Security, identity: &Identity, rein: bool) -> Result<(), Error> {
    let config = client::Config {
        trust: TrustOptions {
            fingerprints: vec![identity.fingerprint],
            ..TrustOptions::default()
        },
        max_sessions: 2,
        ..client::Config::new("127.0.0.1", port, security, "me", "any")
    };
    let soon = || Instant::now() + Duration::from_secs(10);
    let pool = Pool::connect(config, soon())?;
    list(&pool, soon())?;
    if rein {
        let mut lease = pool.acquire(Lane::Metadata, soon())?;
        let reinitialized = lease.reinitialize(soon());
        drop(lease);
        log::info!("REIN: {reinitialized:?}");
        list(&pool, soon())?;
    }
    Ok(())
}

fn list(pool: &Arc<Pool>, deadline: Instant) -> Result<(), Error> {
    let listing = pool
        .run(Lane::Metadata, deadline, |session, deadline| {
            session.list(&[], proto::Command::Mlsd(None), deadline)
        })?
        .1
        .unwrap();
    assert!(
        listing.bytes.windows(7).any(|part| part == b" hello\r"),
        "{listing:?}"
    );
    Ok(())
}

/// The peer in its server role.
struct PeerServer {
    process: Child,
    stdout: BufReader<ChildStdout>,
    port: u16,
}

impl PeerServer {
    fn start(identity: &Identity, scenario: &str) -> Self {
        let mut process = peer()
            .args(["server", "--scenario", scenario])
            .arg("--cert")
            .arg(&identity.cert)
            .arg("--key")
            .arg(&identity.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("port ").unwrap().parse().unwrap();
        Self {
            process,
            stdout,
            port,
        }
    }

    /// The transcript, and the verdict in its last line.
    fn verdict(mut self) -> String {
        drop(self.process.stdin.take());
        let mut verdict = String::new();
        self.stdout.read_to_string(&mut verdict).unwrap();
        verdict
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A certificate in files.
struct Identity {
    _folder: tempfile::TempDir,
    cert: PathBuf,
    key: PathBuf,
    fingerprint: Fingerprint,
}

impl Identity {
    fn new() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self {
            _folder: folder,
            cert,
            key,
            fingerprint: Fingerprint::of(made.cert.der()),
        }
    }
}
