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

const MIB: usize = 1 << 20;

fn content(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8)
        .collect()
}

fn faults(rules: &str) -> Faults {
    Faults::new(rules.parse::<Rules>().unwrap())
}

#[test]
fn several_streams_give_the_same_bytes_in_order() {
    reads_on_several_streams(100 * MIB + 777, FAR);
}

/// It says 350 and sends from the start.
#[test]
fn several_streams_give_the_same_bytes_where_rest_is_forgotten() {
    reads_on_several_streams(60 * MIB, &format!("{FAR}; REST always: ignore-rest"));
}

const FAR: &str = "connect always: stall 20ms; command always: stall 20ms";

fn reads_on_several_streams(length: usize, rules: &str) {
    let content = content(length);
    let (_served, reads, target) = serve(&content, 64 * BUFFER, &faults(rules));
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
        let fetching = reads.alive().iter().filter(|s| s.left() > 0).count();
        widest = widest.max(fetching);
        assert!(reads.memory.out() <= 64 + 8, "{}", reads.memory.out());
        // A link that gives each stream so much.
        let streams = fetching.max(1) as u32;
        thread::sleep(Duration::from_millis(60) / streams);
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

#[test]
fn whether_rest_is_kept_is_known_before_a_second_stream_wants_to_begin() {
    let content = content(40 * MIB);
    let counted = faults("RETR always: stall 1ms");
    let (_served, reads, target) = serve(&content, 64 * BUFFER, &counted);
    let reader = Reader::new(&reads);
    let read = |at: usize| {
        let data = reader.read(&target, at as u64, 4096, 1, Some(soon()));
        assert!(content[at..].starts_with(&data.unwrap()), "at {at}");
    };
    // The session that it goes on is opened meanwhile.
    let patience = soon();
    let mut at = 0;
    while counted.counts().hits < 2 {
        assert!(Instant::now() < patience, "nothing was tried");
        read(at);
        at += 4096;
        thread::sleep(Duration::from_millis(5));
    }
    while reads.remote.keeps_rest().is_none() {
        assert!(Instant::now() < patience, "nothing was learned");
        thread::sleep(Duration::from_millis(5));
    }
    read(30 * MIB);
    assert_eq!(counted.counts().hits, 3, "the other stream began at once");
}

#[test]
fn whether_rest_is_kept_is_tried_once_by_those_who_come_at_a_time() {
    let content = content(MIB);
    let counted = faults("RETR always: stall 100ms");
    let (_served, reads, target) = serve(&content, 64 * BUFFER, &counted);
    thread::scope(|scope| {
        for at in [100_000, 500_000] {
            let (reads, target, content) = (&reads, &target, &content);
            scope.spawn(move || {
                let reader = Reader::new(reads);
                let data = reader.read(target, at as u64, 4096, 1, Some(soon()));
                assert!(content[at..].starts_with(&data.unwrap()), "at {at}");
            });
        }
    });
    assert_eq!(counted.counts().hits, 3);
}

/// It could be that of a program which reads on, and was found to be none.
#[test]
fn a_random_readers_first_stream_does_not_keep_its_session() {
    let content = content(40 * MIB);
    let (_served, reads, target) = serve(&content, 64 * BUFFER, &Faults::default());
    let reader = Reader::new(&reads);
    for (at, streams) in [(0, 1), (20, 2), (10, 2), (30, 2)] {
        let data = reader.read(&target, (at * MIB) as u64, 4096, 1, Some(soon()));
        assert!(content[at * MIB..].starts_with(&data.unwrap()));
        assert_eq!(reader.streams.lock().list.len(), streams, "at {at} MiB");
    }
    // Of one that was read on from it is kept.
    for (at, streams) in [(0, 2), (1, 2), (15, 3), (25, 3)] {
        let data = reader.read(&target, (at * MIB) as u64, MIB, 1, Some(soon()));
        assert!(content[at * MIB..].starts_with(&data.unwrap()));
        assert_eq!(reader.streams.lock().list.len(), streams, "at {at} MiB");
    }
}

/// The kernel asks for a mebibyte at a time, and two threads take its requests.
#[test]
fn a_first_read_that_the_second_overtakes_finds_its_stream() {
    let content = content(8 * MIB);
    let (_served, reads, target) = serve(&content, 64 * BUFFER, &Faults::default());
    let reader = Reader::new(&reads);
    let second = reader.read(&target, MIB as u64, MIB, 1, None);
    assert!(matches!(second, Err(Failure::WouldWait)));
    for at in [0, MIB] {
        let data = reader.read(&target, at as u64, MIB, 1, Some(soon()));
        assert!(*data.unwrap() == content[at..at + MIB]);
    }
    assert_eq!(reads.alive().len(), 1);
    // A few bytes there are read alone.
    let other = Reader::new(&reads);
    let read = (MIB as u64)..(MIB as u64 + 4096);
    let data = other.read(&target, read.start, 4096, 1, Some(soon()));
    assert!(content[MIB..].starts_with(&data.unwrap()));
    assert!(other.holds(&target, &read) && !other.holds(&target, &(0..4096)));
}
