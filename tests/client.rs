//! Sessions and the pool against the embedded server over real TLS on loopback: what real servers
//! do rarely, or not on demand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftpsfs::client::{Config, Error, Lane, Pool, Resumption};
use ftpsfs::proto::{Command, RemotePath, Secret, Security};
use ftpsfs::remote::{self, Publication, Remote};
use ftpsfs::server::{self, Server, Users};
use ftpsfs::tls::{Fingerprint, TrustOptions};

const BOTH: [Security; 2] = [Security::Implicit, Security::Explicit];

struct Rig {
    server: Server,
    folder: tempfile::TempDir,
    security: Security,
}

impl Rig {
    fn new(security: Security, change: impl FnOnce(&mut server::Config)) -> Self {
        let _ = env_logger::Builder::from_default_env()
            .is_test(true)
            .try_init();
        let folder = tempfile::tempdir().expect("a folder");
        let users = Users::Listed(vec![(b"me".to_vec(), Secret::new("secret"))]);
        let mut config = server::Config::new(folder.path(), security, users);
        change(&mut config);
        let server = Server::start(config).expect("a server");
        Self {
            server,
            folder,
            security,
        }
    }

    fn config(&self) -> Config {
        let address = self.server.local_addr();
        Config {
            trust: TrustOptions {
                fingerprints: vec![self.server.fingerprint()],
                ..TrustOptions::default()
            },
            connect_timeout: Duration::from_secs(5),
            ..Config::new(
                address.ip().to_string(),
                address.port(),
                self.security,
                "me",
                "secret",
            )
        }
    }

    fn pool(&self, change: impl FnOnce(&mut Config)) -> Result<Arc<Pool>, Error> {
        let mut config = self.config();
        change(&mut config);
        Pool::connect(config, soon())
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn root() -> RemotePath {
    RemotePath::root()
}

#[test]
fn rein_restores_a_fresh_connection_on_the_same_tcp_connection() {
    for security in BOTH {
        let rig = Rig::new(security, |_| {});
        let pool = rig.pool(|_| {}).expect("a pool");
        let mut session = pool.acquire(Lane::Metadata, soon()).expect("a session");
        for _ in 0..3 {
            session
                .reinitialize(soon())
                .unwrap_or_else(|e| panic!("{security:?}: {e}"));
            let pwd = session
                .execute(&Command::Pwd, soon())
                .expect("logged in again");
            assert_eq!(pwd.code.as_u16(), 257, "{security:?}");
            let list = Command::List {
                all: true,
                path: None,
            };
            let (_, listed) = session
                .list(&[], list, soon())
                .expect("protected data again");
            listed.expect("a listing");
        }
        assert_eq!(
            rig.server.sessions(),
            1,
            "{security:?}: the TCP connection was kept"
        );
    }
}

#[test]
fn a_session_whose_server_refuses_rein_is_replaced() {
    let rig = Rig::new(Security::Explicit, |config| {
        config.without = vec!["REIN".to_owned()]
    });
    let pool = rig.pool(|_| {}).expect("a pool");
    let mut session = pool.acquire(Lane::Metadata, soon()).expect("a session");
    assert!(session.reinitialize(soon()).is_err());
    drop(session);
    assert!(pool.profile().rein_refused);
    let mut session = pool
        .acquire(Lane::Metadata, soon())
        .expect("another session");
    assert_eq!(
        session
            .execute(&Command::Noop, soon())
            .expect("alive")
            .code
            .as_u16(),
        200
    );
}

#[test]
fn an_implicit_server_that_wants_prot_gets_it_after_it_said_so() {
    let rig = Rig::new(Security::Implicit, |config| config.require_prot = true);
    let remote = Remote::connect(rig.config(), soon()).expect("a login without PBSZ and PROT");
    std::fs::write(rig.folder.path().join("file"), "content").expect("a file");
    let file = RemotePath::parse(b"/file").expect("a path");
    let mut download = remote
        .download(&file, 0, None, None, soon())
        .expect("a download");
    let mut bytes = [0; 100];
    assert_eq!(download.read(&mut bytes, soon()).expect("data"), 7);
    assert_eq!(download.read(&mut bytes, soon()).expect("the end"), 0);
}

#[test]
fn the_next_mount_knows_what_this_one_learned_unless_the_server_has_changed() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("servers/here-21");
    let rig = Rig::new(Security::Explicit, |_| {});
    let mounted = || {
        let mut config = rig.config();
        config.kept = Some(file.clone());
        Remote::connect(config, soon()).expect("a connection")
    };
    let patched = |remote: &Remote| {
        remote.patches_in_place(&RemotePath::parse(b"/any").expect("a path"), soon())
    };
    let remote = mounted();
    assert!(patched(&remote).expect("tried on a scratch file"));
    remote.shutdown();
    let kept = std::fs::read_to_string(&file).expect("kept");
    assert!(kept.contains("\npatches_in_place=yes\n"), "{kept}");

    // A wrong entry of this server is taken for true, one of another is not.
    let wrong = kept.replace("patches_in_place=yes", "patches_in_place=no");
    std::fs::write(&file, &wrong).expect("written");
    let remote = mounted();
    assert!(!patched(&remote).expect("known"));
    remote.shutdown();
    let identity = wrong.lines().find(|line| line.starts_with("identity="));
    let other = wrong.replace(identity.expect("whose it is"), "identity=another");
    std::fs::write(&file, other).expect("written");
    let remote = mounted();
    assert!(patched(&remote).expect("tried again"));
    remote.shutdown();
}

#[test]
fn transfers_resume_the_control_connections_tls_session_where_that_is_demanded() {
    for security in BOTH {
        for only_tls12 in [false, true] {
            let rig = Rig::new(security, |config| config.require_reuse = true);
            let pool = rig
                .pool(|config| config.trust.only_tls12 = only_tls12)
                .expect("a pool");
            let mut session = pool.acquire(Lane::Metadata, soon()).expect("a session");
            for round in 0..20 {
                let list = Command::List {
                    all: true,
                    path: None,
                };
                let (_, listed) = session.list(&[], list, soon()).expect("a transfer");
                listed.unwrap_or_else(|reply| panic!("{security:?}, round {round}: {reply}"));
            }
            assert_ne!(pool.profile().resumption, Resumption::Demanded);
        }
    }
}

#[test]
fn the_pool_keeps_to_a_limit_of_the_server() {
    for limit in 1..=3 {
        let rig = Rig::new(Security::Explicit, |config| config.max_sessions = limit);
        let remote = Arc::new(Remote::connect(rig.config(), soon()).expect("a connection"));
        std::fs::write(rig.folder.path().join("file"), vec![7; 3 << 20]).expect("a file");
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let file = RemotePath::parse(b"/file").expect("a path");
                    let mut download = remote
                        .download(&file, 0, None, None, soon())
                        .expect("a turn");
                    let mut bytes = vec![0; 1 << 20];
                    let mut total = 0;
                    loop {
                        match download.read(&mut bytes, soon()).expect("data") {
                            0 => break,
                            n => total += n,
                        }
                        if total % (1 << 20) < (64 << 10) {
                            // Whoever waits, parks: no operation needs two sessions at once.
                            download.park();
                            remote.list(&root(), soon()).expect("metadata meanwhile");
                        }
                    }
                    assert_eq!(total, 3 << 20);
                });
            }
        });
        assert!(started.elapsed() < Duration::from_secs(9), "limit {limit}");
        assert!(rig.server.sessions() <= limit);
    }
}

#[test]
fn a_parked_stream_gives_way_and_goes_on_later() {
    let rig = Rig::new(Security::Implicit, |_| {});
    let content: Vec<u8> = (0..8_u32 << 18).flat_map(u32::to_le_bytes).collect();
    std::fs::write(rig.folder.path().join("file"), &content).expect("a file");
    let mut config = rig.config();
    config.max_sessions = 1;
    let remote = Remote::connect(config, soon()).expect("a connection");
    let file = RemotePath::parse(b"/file").expect("a path");
    let mut download = remote
        .download(&file, 0, None, None, soon())
        .expect("a download");
    let mut all = Vec::new();
    let mut bytes = vec![0; 300_000];
    loop {
        match download.read(&mut bytes, soon()).expect("data") {
            0 => break,
            n => all.extend_from_slice(&bytes[..n]),
        }
        download.park();
        if all.len() < 2 << 20 {
            remote.list(&root(), soon()).expect("the one session");
        }
    }
    assert!(all == content);
}

#[test]
fn a_replaced_file_is_never_mixed_with_the_old_one() {
    let rig = Rig::new(Security::Explicit, |_| {});
    let path = rig.folder.path().join("file");
    let file = RemotePath::parse(b"/file").expect("a path");
    let old = vec![b'a'; 6 << 20];
    for (new, replaced) in [
        (vec![b'b'; 6 << 20], true),
        (vec![b'b'; 7 << 20], true),
        (vec![b'b'; 5 << 20], true),
        ([old.clone(), vec![b'a'; 1 << 20]].concat(), false),
    ] {
        std::fs::write(&path, &old).expect("the old");
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(1000);
        let handle = std::fs::File::options()
            .write(true)
            .open(&path)
            .expect("the file");
        handle.set_modified(long_ago).expect("a time");
        let mut config = rig.config();
        config.max_sessions = 1;
        let remote = Remote::connect(config, soon()).expect("a connection");
        let mut download = remote
            .download(&file, 0, None, None, soon())
            .expect("a download");
        let mut bytes = vec![0; 100_000];
        let mut total = download.read(&mut bytes, soon()).expect("data");
        std::fs::write(&path, &new).expect("the new");
        // Whatever is on its way is the old or lost; the rest needs a new stream.
        download.park();
        remote
            .list(&root(), soon())
            .expect("takes the stream's session");
        let end = loop {
            match download.read(&mut bytes, soon()) {
                Ok(0) => break Ok(()),
                Ok(n) => {
                    assert!(
                        bytes[..n].iter().all(|&b| b == b'a'),
                        "the new content showed"
                    );
                    total += n;
                }
                Err(error) => break Err(error),
            }
        };
        assert_eq!(end.is_err(), replaced, "{} bytes: {end:?}", new.len());
        if !replaced {
            assert_eq!(total, new.len());
        }
    }
}

#[test]
fn refusals_are_told_apart_and_name_the_servers_words() {
    let rig = Rig::new(Security::Explicit, |_| {});
    let error = rig
        .pool(|c| c.password = Secret::new("wrong"))
        .err()
        .expect("refused")
        .to_string();
    assert!(error.starts_with("login refused: 530"), "{error}");

    let error = rig.pool(|c| c.trust.fingerprints = vec![Fingerprint([7; 32])]);
    let error = error.err().expect("refused").to_string();
    let pin = rig.server.fingerprint().to_string();
    assert!(
        error.contains("not the pinned one") && error.contains(&pin),
        "{error}"
    );

    let error = rig
        .pool(|c| c.trust.fingerprints = Vec::new())
        .err()
        .expect("refused")
        .to_string();
    assert!(
        error.contains("certificate is refused") && error.contains(&pin),
        "{error}"
    );

    let error = rig
        .pool(|c| c.security = Security::Implicit)
        .err()
        .expect("refused")
        .to_string();
    assert!(
        error.contains("does not speak TLS here") && error.contains("220"),
        "{error}"
    );

    let implicit = Rig::new(Security::Implicit, |_| {});
    let error = implicit.pool(|c| {
        c.security = Security::Explicit;
        c.connect_timeout = Duration::from_secs(1);
    });
    let error = error.err().expect("silence").to_string();
    assert!(error.contains("implicit"), "{error}");
}

#[test]
fn a_surplus_session_is_closed_although_it_is_kept_alive() {
    let rig = Rig::new(Security::Explicit, |_| {});
    let pool = rig
        .pool(|config| {
            config.keepalive = Duration::from_millis(500);
            config.idle_close = Duration::from_secs(3);
        })
        .expect("a pool");
    let one = pool.acquire(Lane::Metadata, soon()).expect("a session");
    let two = pool.acquire(Lane::Metadata, soon()).expect("another");
    drop((one, two));
    assert_eq!(rig.server.sessions(), 2);
    let patience = soon();
    while rig.server.sessions() > 1 {
        assert!(Instant::now() < patience, "both are still there");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_session_is_open_before_the_last_free_one_is_missed() {
    let rig = Rig::new(Security::Explicit, |_| {});
    let pool = rig.pool(|_| {}).expect("a pool");
    let mut held = Vec::new();
    for others in [2, 3, 4] {
        held.push(pool.acquire(Lane::Transfer, soon()).expect("a session"));
        let patience = soon();
        while rig.server.sessions() < others {
            assert!(Instant::now() < patience, "{others} sessions");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // One is kept for metadata, and max_sessions are all there are.
    let found = pool.acquire(Lane::Metadata, Instant::now() + Duration::from_millis(100));
    assert!(found.is_ok());
    assert_eq!(rig.server.sessions(), 4);
}

#[test]
fn who_waits_for_another_session_takes_one_that_comes_free_sooner() {
    let faults = server::Faults::default();
    let rig = Rig::new(Security::Explicit, |config| {
        config.faults = Some(faults.clone())
    });
    let pool = rig.pool(|_| {}).expect("a pool");
    let first = pool.acquire(Lane::Metadata, soon()).expect("a session");
    faults.set("connect always: stall 3s".parse().expect("a rule"));
    let started = Instant::now();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| pool.acquire(Lane::Metadata, soon()).map(drop));
        while faults.counts().hits == 0 {
            assert!(started.elapsed() < Duration::from_secs(2), "none is opened");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(first);
        second.join().expect("a thread").expect("the first session");
    });
    assert!(started.elapsed() < Duration::from_millis(2500));
    // The other comes all the same.
    while rig.server.sessions() < 2 {
        assert!(started.elapsed() < Duration::from_secs(9), "none came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_limit_of_the_server_is_learned_although_nobody_waits_for_the_refused_session() {
    let faults = server::Faults::default();
    let rig = Rig::new(Security::Explicit, |config| {
        config.faults = Some(faults.clone())
    });
    let pool = rig.pool(|_| {}).expect("a pool");
    let rules =
        r#"connect over 1 always: stall 200ms; connect over 1 always: reply "421 Too many""#;
    faults.set(rules.parse().expect("rules"));
    let round = || {
        let only = pool.acquire(Lane::Metadata, soon()).expect("the session");
        let before = faults.counts().hits;
        std::thread::scope(|scope| {
            scope.spawn(|| pool.acquire(Lane::Metadata, soon()).expect("the same"));
            let patience = Instant::now() + Duration::from_millis(100);
            while faults.counts().hits == before && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(5));
            }
            drop(only);
        });
        std::thread::sleep(Duration::from_millis(300));
        faults.counts().hits
    };
    // Data connections that are open ahead of need are given up first, and what works ahead of need tries, too.
    let learned = (0..4).fold(0, |_, _| round());
    let asked = (0..6).fold(0, |_, _| round());
    assert!(learned > 0 && asked == learned, "{learned}, {asked}");
}

#[test]
fn dead_addresses_leave_time_for_a_live_one() {
    let rig = Rig::new(Security::Explicit, |_| {});
    // A full backlog: its SYNs are dropped, as a dead host's are.
    let deaf =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    deaf.bind(&any.into()).expect("a port");
    deaf.listen(0).expect("a listener");
    let dead = deaf
        .local_addr()
        .expect("bound")
        .as_socket()
        .expect("an address");
    let _full = std::net::TcpStream::connect(dead).expect("the backlog's place");
    let pool = rig.pool(|config| {
        config.connect_timeout = Duration::from_secs(1);
        config.addresses = vec![dead, dead, rig.server.local_addr()];
    });
    pool.expect("the third address answers");
}

#[test]
fn a_request_whose_answers_keep_coming_is_not_cut_at_half_of_its_time() {
    let rig = Rig::new(Security::Explicit, |_| {});
    let pool = rig.pool(|_| {}).expect("a pool");
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut attempts = 0;
    let result = pool.run(Lane::Metadata, deadline, |session, deadline| {
        attempts += 1;
        let busy = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < busy {
            session.execute(&Command::Noop, deadline)?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    });
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(attempts, 1);
}

#[test]
fn waiting_for_a_session_takes_nothing_of_its_first_attempts_time() {
    let rig = Rig::new(Security::Explicit, |_| {});
    let pool = rig.pool(|config| config.max_sessions = 1).expect("a pool");
    let held = pool.acquire(Lane::Metadata, soon()).expect("the session");
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut attempts = 0;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(1300));
            drop(held);
        });
        let result = pool.start(Lane::Transfer, deadline, |mut lease, bound| {
            attempts += 1;
            lease.execute(&Command::Noop, bound)
        });
        assert!(result.is_ok(), "{result:?}");
    });
    assert_eq!(attempts, 1);
}

/// `retries=`: so often a connection may be lost under one request.
#[test]
fn a_request_is_sent_again_as_often_as_it_may_be() {
    for (retries, losses, survives) in [(0, 1, false), (1, 1, true), (3, 3, true), (3, 4, false)] {
        let faults = server::Faults::default();
        let rig = Rig::new(Security::Implicit, |config| {
            config.faults = Some(faults.clone())
        });
        let pool = rig.pool(|config| config.retries = retries).expect("a pool");
        let rules = format!("PWD 1 x{losses}: rst");
        faults.set(rules.parse::<server::Rules>().expect("rules"));
        let begun = Instant::now();
        let asked = pool.run(Lane::Metadata, soon(), |session, deadline| {
            session.execute(&Command::Pwd, deadline)
        });
        assert_eq!(asked.is_ok(), survives, "{retries} of {losses}: {asked:?}");
        let sent = losses.min(u64::from(retries) + 1);
        assert_eq!(faults.counts().hits, sent);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_file_of_which_the_server_has_half_does_not_keep_its_name() {
    let faults = server::Faults::default();
    let rig = Rig::new(Security::Explicit, |config| {
        config.faults = Some(faults.clone())
    });
    let remote = Remote::connect(rig.config(), soon()).expect("a connection");
    // It says 226 all the same.
    let rule = "STOR 1: full 5000 226".parse::<server::Rules>();
    faults.set(rule.expect("a rule"));
    let path = RemotePath::parse(b"/new").expect("a path");
    let temporary = remote.temporaries().beside(&path);
    let mut upload = remote.store(temporary.path(), soon()).expect("an upload");
    upload.write(&[1; 9000], soon()).expect("sent");
    upload.finish(soon()).expect("a 226");
    let publication = Publication {
        size: 9000,
        modified: None,
        mode: None,
        replaces: false,
        expects: None,
    };
    let published = remote.publish(temporary.path(), &path, publication, soon());
    assert!(matches!(published, Err(remote::Error::Failed(_))));
    assert_eq!(faults.counts().hits, 1);
    assert!(!rig.folder.path().join("new").exists());
}

/// What pyftpdlib does when it is told early that we are done: now and then it bears that, and then it
/// breaks every listing.
#[test]
fn a_listing_that_an_early_close_broke_is_asked_for_without_one() {
    let faults = server::Faults::default();
    let rig = Rig::new(Security::Implicit, |config| {
        config.faults = Some(faults.clone())
    });
    for n in 0..1500 {
        let name = format!("{}{n}", "x".repeat(60));
        std::fs::write(rig.folder.path().join(name), "").expect("write");
    }
    let pool = rig.pool(|_| {}).expect("a pool");
    pool.learn(|profile| profile.early_close = Some(true));
    let rule = "data sent record 8 in MLSD: rst".parse::<server::Rules>();
    faults.set(rule.expect("a rule"));
    let listed = pool.run(Lane::Metadata, soon(), |session, deadline| {
        session.list(&[], Command::Mlsd(None), deadline)
    });
    let (_, listing) = listed.expect("a listing");
    let bytes = listing.expect("no refusal").bytes;
    // And the directory itself.
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1501);
    assert_eq!(faults.counts().hits, 1);
    assert_eq!(pool.profile().early_close, None);
}

/// The length of the link decides whether a file is worth several streams.
#[test]
fn a_login_that_takes_long_is_not_taken_for_a_long_link() {
    let faults = server::Faults::default();
    let rig = Rig::new(Security::Implicit, |config| {
        config.faults = Some(faults.clone())
    });
    let rule = "PASS: stall 400ms".parse::<server::Rules>();
    faults.set(rule.expect("a rule"));
    let pool = rig.pool(|_| {}).expect("a pool");
    assert_eq!(faults.counts().hits, 1);
    let trip = pool.room().expect("an idle session");
    assert!(trip < Duration::from_millis(300), "{trip:?}");
}

/// Bytes in the clear, from a broken device or from somebody on the wire, cost a connection and no more.
#[test]
fn a_connection_that_brings_rubbish_is_replaced() {
    let faults = server::Faults::default();
    let rig = Rig::new(Security::Implicit, |config| {
        config.faults = Some(faults.clone())
    });
    let pool = rig.pool(|_| {}).expect("a pool");
    let rule = "PWD: send \"clear\"".parse::<server::Rules>();
    faults.set(rule.expect("a rule"));
    let asked = pool.run(Lane::Metadata, soon(), |session, deadline| {
        session.execute(&Command::Pwd, deadline)
    });
    assert_eq!(asked.expect("an answer").code.as_u16(), 257);
    assert_eq!(faults.counts().hits, 1);
}

/// The answers to very many questions are the same, and in order, where other sessions help, whatever becomes
/// of those.
#[test]
fn many_questions_go_on_the_sessions_that_can_be_spared() {
    let faults = server::Faults::default();
    let rig = Rig::new(Security::Explicit, |config| {
        config.faults = Some(faults.clone())
    });
    for n in 0..10 {
        std::fs::write(rig.folder.path().join(n.to_string()), vec![0; n]).expect("a file");
    }
    let size = |n: usize| RemotePath::parse(format!("/{}", n % 10).as_bytes()).expect("a path");
    let asked: Vec<_> = (0..5000)
        .map(|n| Command::Size((&size(n)).into()))
        .collect();
    let right = |replies: Vec<ftpsfs::proto::Reply>| {
        assert_eq!(replies.len(), asked.len());
        for (n, reply) in replies.iter().enumerate() {
            assert_eq!(reply.to_string(), format!("213 {}", n % 10), "{n}");
        }
    };
    // The first is kept from helping, the others are counted.
    let helped = |most: usize, when: &str, what: &str| {
        faults.set(server::Rules::default());
        let pool = rig
            .pool(|config| config.max_sessions = most)
            .expect("a pool");
        let mut session = pool.acquire(Lane::Metadata, soon()).expect("a session");
        let rule = |n| format!("SIZE {when} connection {n}: {what};");
        let rules = rule(1) + &rule(2);
        faults.set(rules.parse().expect("rules"));
        if most > 1 {
            drop(pool.acquire(Lane::Metadata, soon()).expect("another"));
        }
        let deadline = Instant::now() + Duration::from_secs(6);
        right(
            pool.pipeline(&mut session, &asked, deadline)
                .expect("answers"),
        );
        faults.counts().hits
    };
    assert_eq!(helped(1, "always", "stall 0ms"), 0, "alone");
    // The one, and maybe a third that was opened ahead of need.
    let theirs = helped(4, "always", "stall 0ms");
    assert!((500..=4500).contains(&theirs), "{theirs}");
    // One that is slow is not waited for: it has a few under way in the end.
    let theirs = helped(4, "always", "stall 2ms");
    assert!((1..=1200).contains(&theirs), "{theirs}");
    // Lost in the middle, and silent.
    assert!([1, 2].contains(&helped(4, "300", "rst")));
    assert!([1, 2].contains(&helped(4, "300", "stall")));
}
