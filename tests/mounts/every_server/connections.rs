//! Servers that fall silent, die, allow few connections, or are reached in other ways.

use super::{Case, errno, names};
use crate::common::command::{soon, within};
use crate::common::mount::Mount;
use crate::common::server::{Options, RealServer};
use crate::common::{full, tree, wait_until};
use nix::errno::Errno;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A server that is alive but silent: every call ends, and nothing needs a remount when it speaks again.
pub fn stopped_server(case: Case) {
    let server = case.server();
    tree::put(&server.root.join("cached"), b"cached", Duration::ZERO);
    tree::put(&server.root.join("folder/file"), b"file", Duration::ZERO);
    let length = 40 << 20;
    tree::fill(&server.root.join("long"), 3, length);
    let (option, patience) = if full() { ("", 60) } else { ("timeout=5,", 20) };
    let mount = case.mount(
        &server,
        &format!("{option}window=4M,attr_timeout=600,dir_timeout=600"),
    );
    let cached = mount.path("cached");
    soon(move || cached.metadata()).expect("stat");
    let long = mount.path("long");
    let mut half_read = soon(move || {
        let mut file = File::open(long).expect("open");
        file.read_exact(&mut vec![0; 1 << 20])
            .expect("read the start");
        file
    });

    server.pause();
    let calls: [Box<dyn FnOnce(PathBuf) -> io::Result<()> + Send>; 5] = [
        Box::new(|dir| dir.join("folder/file").metadata().map(drop)),
        Box::new(|dir| {
            fs::read_dir(dir.join("folder"))
                .and_then(|mut entries| entries.next().transpose())
                .map(drop)
        }),
        Box::new(|dir| fs::read(dir.join("cached")).map(drop)),
        Box::new(|dir| fs::read(dir.join("folder/absent")).map(drop)),
        Box::new(move |_| io::copy(&mut half_read, &mut io::sink()).map(drop)),
    ];
    let started = Instant::now();
    let waiting = calls.map(|call| {
        let dir = mount.dir.clone();
        std::thread::spawn(move || (call(dir), started.elapsed()))
    });
    // What is known needs no server.
    let (cached, dir) = (mount.path("cached"), mount.dir.clone());
    within(Duration::from_secs(2), move || {
        assert_eq!(cached.metadata().expect("stat what is known").len(), 6);
        nix::sys::statvfs::statvfs(&dir).expect("statvfs");
    });
    for (index, thread) in waiting.into_iter().enumerate() {
        let answered = wait_until(
            Duration::from_secs(patience).saturating_sub(started.elapsed()),
            || thread.is_finished(),
        );
        assert!(answered, "call {index} still waits after {patience} s");
        let (result, elapsed) = thread.join().expect("the call returns");
        let error = result.expect_err("a silent server answers nothing");
        assert!(
            matches!(errno(&error), Errno::EIO | Errno::ETIMEDOUT),
            "call {index}: {error} after {elapsed:?}"
        );
    }

    server.resume();
    let file = mount.path("folder/file");
    let works = wait_until(Duration::from_secs(30), || {
        let file = file.clone();
        within(Duration::from_secs(60), move || fs::read(file))
            .is_ok_and(|content| content == b"file")
    });
    assert!(works, "the mount works again");
    let long = mount.path("long");
    // What was sent to the silent server may still be timing out.
    let read = wait_until(Duration::from_secs(30), || {
        let long = long.clone();
        soon(move || fs::read(long)).is_ok_and(|content| content == tree::bytes(3, length as usize))
    });
    assert!(read, "the long file");
}

/// The server dies and comes back while a file is being read: the reader notices nothing but the time.
pub fn killed_server(case: Case) {
    let mut server = case.server();
    let large = tree::large();
    large.link_into(&server.root);
    let mount = case.mount(&server, "window=4M");
    let path = mount.path("large");
    static READ: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];
    let progress = &READ[case.kind as usize * 2 + usize::from(case.tls == "1.3")];
    let reader = std::thread::spawn(move || -> io::Result<String> {
        use sha2::Digest;
        let mut file = File::open(path)?;
        let mut hash = sha2::Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(format!("{:x}", hash.finalize())),
                count => {
                    hash.update(&buffer[..count]);
                    progress.fetch_add(count as u64, Ordering::Relaxed);
                }
            }
        }
    });
    for quarter in 1..=2 {
        let reached = || {
            progress.load(Ordering::Relaxed) >= quarter * large.length / 4 || reader.is_finished()
        };
        assert!(
            wait_until(Duration::from_secs(120), reached),
            "the reader goes on"
        );
        assert!(
            !reader.is_finished(),
            "the reader is in the middle of the file: {:?}",
            reader.join()
        );
        server.kill();
        std::thread::sleep(Duration::from_millis(500));
        server.restart();
    }
    assert!(
        wait_until(Duration::from_secs(300), || reader.is_finished()),
        "the reader ends"
    );
    let digest = reader
        .join()
        .expect("the reader returns")
        .expect("the reader sees no error");
    assert_eq!(digest, large.digest);
}

pub fn ipv6(case: Case) {
    let server = RealServer::start(
        case.kind,
        Options {
            ipv6: true,
            ..Options::default()
        },
    );
    assert_reads(&server, &case.with_tls(""));
}

pub fn active_mode(case: Case) {
    assert_reads(&case.server(), &case.with_tls("active"));
}

pub fn one_session(case: Case) {
    let server = case.server();
    tree::fill(&server.root.join("long"), 9, 20 << 20);
    let mount = case.mount(
        &server,
        "max_sessions=1,attr_timeout=0,dir_timeout=0,window=2M",
    );
    let (long, dir) = (mount.path("long"), mount.dir.clone());
    soon(move || {
        // A half-read file must give the only connection up to whoever needs it.
        let mut file = File::open(long).expect("open");
        let mut content = vec![0; 5 << 20];
        file.read_exact(&mut content).expect("read the start");
        assert_eq!(fs::read_dir(&dir).expect("list").count(), 1);
        assert_eq!(
            fs::metadata(dir.join("long")).expect("stat").len(),
            20 << 20
        );
        file.read_to_end(&mut content).expect("read the rest");
        assert!(content == tree::bytes(9, 20 << 20));
    });
}

pub fn connection_cap(case: Case) {
    // pyftpdlib counts its own listener and data connections among the clients.
    let max_clients = if case.kind.is_pyftpdlib() { 5 } else { 2 };
    let server = RealServer::start(
        case.kind,
        Options {
            max_clients,
            ..Options::default()
        },
    );
    for reader in 0..6 {
        tree::fill(&server.root.join(format!("file{reader}")), reader, 3 << 20);
    }
    let mount = case.mount(&server, "max_sessions=8");
    let dir = mount.dir.clone();
    soon(move || {
        std::thread::scope(|scope| {
            for reader in 0..6 {
                let path = dir.join(format!("file{reader}"));
                scope.spawn(move || {
                    let content = fs::read(path).expect("read");
                    assert!(content == tree::bytes(reader, 3 << 20), "reader {reader}");
                });
            }
        });
        assert_eq!(fs::read_dir(&dir).expect("list").count(), 6);
    });
}

/// A file and a listing come through.
fn assert_reads(server: &RealServer, options: &str) {
    tree::fill(&server.root.join("folder/file"), 4, 300_000);
    let mount = Mount::new(server, options);
    let path = mount.path("folder/file");
    let content = soon(move || fs::read(path)).expect("read");
    assert!(content == tree::bytes(4, 300_000));
    assert_eq!(names(&mount.dir), [OsString::from("folder")].into());
}
