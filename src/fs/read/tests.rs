//! Reading the embedded server's files.

use super::memory::BUFFER;
use super::*;
use crate::client;
use crate::proto::Security;
use crate::server::{self, Faults, Rules, Server, Users};
use crate::tls::TrustOptions;

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn connect(server: &Server) -> Remote {
    let config = client::Config {
        trust: TrustOptions {
            fingerprints: vec![server.fingerprint()],
            ..TrustOptions::default()
        },
        min_rate: 0,
        ..client::Config::new(
            "127.0.0.1",
            server.local_addr().port(),
            Security::Implicit,
            "user",
            "password",
        )
    };
    Remote::connect(config, soon()).unwrap()
}

/// A server of one file, and how to read it within so much memory.
pub(super) fn serve(
    content: &[u8],
    memory: usize,
    faults: &Faults,
) -> (Served, Arc<Reads>, Target) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), content).unwrap();
    let mut config = server::Config::new(folder.path(), Security::Implicit, Users::Anyone);
    config.faults = Some(faults.clone());
    let server = Server::start(config).unwrap();
    let remote = connect(&server);
    let path = RemotePath::parse(b"/file").unwrap();
    let version = remote.stat(&path, None, soon()).unwrap().version();
    let reads = Reads::new(Arc::new(remote), memory, Duration::from_secs(10), None);
    let target = Target {
        path,
        version,
        proof: None,
        epoch: 0,
        edition: None,
    };
    (Served(server, folder), reads, target)
}

/// Kept running, and there.
pub(super) struct Served(
    #[allow(dead_code)] Server,
    #[allow(dead_code)] tempfile::TempDir,
);

#[test]
fn several_streams_give_the_same_bytes_in_order() {
    const MIB: usize = 1 << 20;
    let content: Vec<u8> = (0..(150 * MIB + 777) as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8)
        .collect();
    let far: Rules = "connect always: stall 20ms; command always: stall 20ms"
        .parse()
        .unwrap();
    let (_served, reads, target) = serve(&content, 64 * BUFFER, &Faults::new(far));
    let reader = Reader::new(&reads);
    let mut widest = 0;
    let mut at = 0;
    // Reads that lie across the places where one stream ends and the next begins.
    let length = MIB - 4096;
    while at < content.len() {
        let data = reader
            .read(&target, at as u64, length, 1, Some(soon()))
            .unwrap();
        assert!(content[at..].starts_with(&data), "at {at}");
        assert_eq!(data.len(), length.min(content.len() - at));
        at += data.len();
        let fetching = reads.alive().iter().filter(|s| s.is_fetching()).count();
        widest = widest.max(fetching);
        assert!(reads.memory.out() <= 64 + 8, "{}", reads.memory.out());
        // A link that gives each stream so much.
        let streams = fetching.max(1) as u32;
        thread::sleep(Duration::from_millis(20) / streams);
    }
    assert!(widest > 1, "a second stream was earned");
}

#[test]
fn a_read_of_what_the_file_was_before_does_not_end_the_streams_of_others() {
    let (_served, reads, now) = serve(&[7; 100_000], 8 * BUFFER, &Faults::default());
    let then = now.clone();
    let now = Target { epoch: 1, ..now };
    let reader = Reader::new(&reads);
    let read = |target, at| reader.read(target, at, 1000, 2, Some(soon()));
    assert!(read(&then, 0).is_ok());
    assert_eq!(*read(&now, 0).unwrap(), [7; 1000]);
    let outdated = read(&then, 0);
    assert!(matches!(
        outdated,
        Err(Failure::Remote(remote::Error::Changed))
    ));
    assert_eq!(*read(&now, 50_000).unwrap(), [7; 1000]);
}
