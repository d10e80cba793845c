//! Streams of the embedded server's files, and what stays of them.

use super::super::memory::{BUFFER, Memory};
use super::super::{Reader, Reads, Target};
use super::*;
use crate::client;
use crate::proto::{RemotePath, Secret, Security};
use crate::remote::Remote;
use crate::server::{self, Server, Users};
use crate::tls::TrustOptions;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn connect(server: &Server) -> Remote {
    let config = client::Config {
        host: "127.0.0.1".to_owned(),
        port: server.local_addr().port(),
        security: Security::Implicit,
        user: b"user".to_vec(),
        password: Secret::new("password"),
        account: None,
        trust: TrustOptions {
            fingerprints: vec![server.fingerprint()],
            ..TrustOptions::default()
        },
        max_sessions: 2,
        active: false,
        trust_pasv_address: false,
        retries: 2,
        connect_timeout: Duration::from_secs(5),
        keepalive: Duration::from_secs(60),
        idle_close: Duration::from_secs(60),
        min_rate: 0,
        kept: None,
        addresses: Vec::new(),
        special: Default::default(),
    };
    Remote::connect(config, soon()).unwrap()
}

#[test]
fn a_finished_stream_ends_though_its_file_stays_open() {
    let served = tempfile::tempdir().unwrap();
    std::fs::write(served.path().join("file"), "hello").unwrap();
    let config = server::Config::new(served.path(), Security::Implicit, Users::Anyone);
    let server = Server::start(config).unwrap();
    let remote = connect(&server);
    let path = RemotePath::parse(b"/file").unwrap();
    let version = remote.stat(&path, None, soon()).unwrap().version();
    let patience = Duration::from_millis(400);
    let reads = Arc::new(Reads {
        remote: Arc::new(remote),
        memory: Memory::new(16 * BUFFER),
        leftovers: Leftovers::new(patience),
        timeout: Duration::from_secs(10),
        streams: Mutex::default(),
    });
    let target = Target {
        path,
        version,
        proof: None,
        epoch: 0,
    };
    let reader = Reader::new(&reads);
    for _ in 0..2 {
        let read = || reader.read(&target, 0, 10, 1, Some(soon())).unwrap();
        assert_eq!(&*read(), b"hello");
        thread::sleep(patience / 2);
        assert_eq!(reads.alive().len(), 1);
        assert_eq!(&*read(), b"hello");
        thread::sleep(patience * 3);
        assert_eq!(reads.alive().len(), 0);
    }
}
