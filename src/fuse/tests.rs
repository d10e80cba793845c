//! The embedded server, mounted for real: what programs see.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirEntryExt, FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fuser::{BackgroundSession, MountOption};
use nix::mount::{MntFlags, umount2};
use parking_lot::Mutex;
use tempfile::TempDir;

mod ahead;
mod far;
mod leftovers;
mod listings;
mod model;
mod spelling;
mod write_back;
mod writes;

use super::*;
use crate::client;
use crate::fs::{Config, spool};
use crate::proto::{RemotePath, Security};
use crate::remote::Remote;
use crate::server::{self, Faults, Server, Users};
use crate::tls::TrustOptions;

/// How long the mounts of these tests believe anything.
const BELIEF: Duration = Duration::from_millis(300);

/// How long a test may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// A folder, its server, and the mount.
struct Mount {
    spool: Option<TempDir>,
    served: TempDir,
    point: TempDir,
    server: Option<Server>,
    proxy: Proxy,
    session: Option<BackgroundSession>,
    watchdog: Option<Sender<()>>,
}

impl Mount {
    /// One that can be written to.
    fn writable() -> Self {
        Self::writable_with(4, |_| {})
    }

    fn writable_with(max_sessions: usize, change: impl FnOnce(&mut Config)) -> Self {
        let served = tempfile::tempdir().unwrap();
        let config = server::Config::new(served.path(), Security::Implicit, Users::Anyone);
        Self::writable_serving(served, config, max_sessions, change)
    }

    fn writable_serving(
        served: TempDir,
        server: server::Config,
        max_sessions: usize,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let place = tempfile::tempdir().unwrap();
        let options = spool::Options {
            limit: 1 << 40,
            durability: spool::Durability::Process,
            patience: Duration::ZERO,
        };
        let opened = spool::Spool::open(&place.path().join("s"), options, SystemTime::now());
        let mut mount = Self::serving(served, server, max_sessions, |config| {
            config.spool = Some(opened.unwrap().0);
            change(config);
        });
        mount.spool = Some(place);
        mount
    }

    /// Writable, on a server that fails on command.
    fn failing(
        server: impl FnOnce(&mut server::Config),
        mount: impl FnOnce(&mut Config),
    ) -> (Self, Faults) {
        let served = tempfile::tempdir().unwrap();
        let mut config = server::Config::new(served.path(), Security::Implicit, Users::Anyone);
        let faults = Faults::default();
        config.faults = Some(faults.clone());
        server(&mut config);
        (Self::writable_serving(served, config, 4, mount), faults)
    }

    fn new() -> Self {
        Self::with(4, |_| {})
    }

    fn with(max_sessions: usize, change: impl FnOnce(&mut Config)) -> Self {
        Self::of(tempfile::tempdir().unwrap(), max_sessions, change)
    }

    fn of(served: TempDir, max_sessions: usize, change: impl FnOnce(&mut Config)) -> Self {
        let config = server::Config::new(served.path(), Security::Implicit, Users::Anyone);
        Self::serving(served, config, max_sessions, change)
    }

    fn serving(
        served: TempDir,
        config: server::Config,
        max_sessions: usize,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let _ = env_logger::Builder::from_default_env()
            .is_test(true)
            .try_init();
        let server = Server::start(config).unwrap();
        let proxy = Proxy::new(server.local_addr());
        let client = client::Config {
            trust: TrustOptions {
                fingerprints: vec![server.fingerprint()],
                ..TrustOptions::default()
            },
            max_sessions,
            connect_timeout: Duration::from_secs(5),
            min_rate: 0,
            ..client::Config::new(
                "127.0.0.1",
                proxy.port,
                Security::Implicit,
                "user",
                "password",
            )
        };
        let remote = Remote::connect(client, Instant::now() + Duration::from_secs(10)).unwrap();
        let mut config = Config {
            shelf: None,
            passthrough: false,
            root: RemotePath::root(),
            uid: 4711,
            gid: 4712,
            fmask: 0o027,
            dmask: 0,
            retries: 2,
            timeout: Duration::from_secs(20),
            attr_timeout: BELIEF,
            dir_timeout: BELIEF,
            negative_timeout: BELIEF,
            cache_entries: 100_000,
            window_bytes: 64 << 20,
            prefetch: true,
            spool: None,
            strict: false,
            direct: false,
            temp_dir: None,
            temp_name: None,
            uploads: max_sessions.saturating_sub(1).max(1),
            write_back: false,
            hard: false,
            min_rate: 0,
        };
        change(&mut config);
        let door = Door::new(Fs::new(Arc::new(remote), config));
        let point = tempfile::tempdir().unwrap();
        let mut options = fuser::Config::default();
        options.mount_options = vec![MountOption::FSName("test".to_owned())];
        options.n_threads = Some(2);
        let notifier = door.notifier();
        let session = fuser::spawn_mount(door, point.path(), &options).unwrap();
        assert!(notifier.set(session.notifier()).is_ok());
        Self {
            watchdog: Some(watchdog(point.path().to_owned())),
            spool: None,
            served,
            point,
            server: Some(server),
            proxy,
            session: Some(session),
        }
    }

    /// On the server.
    fn there(&self, name: &str) -> PathBuf {
        self.served.path().join(name)
    }

    /// In the mount.
    fn here(&self, name: &str) -> PathBuf {
        self.point.path().join(name)
    }

    /// Unmounts; what was served stays.
    fn end(mut self) -> TempDir {
        self.unmount();
        std::mem::replace(&mut self.served, tempfile::tempdir().unwrap())
    }

    fn unmount(&mut self) {
        if let Some(session) = self.session.take() {
            // By force: a mount namespace made meanwhile by another test would keep it alive.
            // Whatever a test has just started may hold its files until it runs.
            let deadline = Instant::now() + PATIENCE;
            while let Err(error) = umount2(self.point.path(), MntFlags::MNT_FORCE) {
                assert!(Instant::now() < deadline, "{error}");
                thread::sleep(Duration::from_millis(20));
            }
            let ended = session.join();
            // What fuser reads from a connection that was cut.
            let aborted = |e: &io::Error| e.raw_os_error() == Some(libc::ECONNABORTED);
            assert!(ended.as_ref().is_ok() || ended.as_ref().is_err_and(aborted));
        }
        self.watchdog = None;
        self.server = None;
    }
}

/// Cuts the mount off, should it hang: a process that waits for its own mount cannot even be
/// killed. Ends when the sender is dropped.
fn watchdog(point: PathBuf) -> Sender<()> {
    let (alive, ended) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{} hangs", point.display());
            let _ = umount2(&point, MntFlags::MNT_FORCE);
        }
    });
    alive
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Bytes that do not repeat where a mix-up of offsets would show.
fn content(len: usize) -> Vec<u8> {
    let words = (0..len.div_ceil(4) as u32).map(|i| i.wrapping_mul(2_654_435_761));
    let mut bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    bytes.truncate(len);
    bytes
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn files_read_as_they_are_on_the_server() {
    let mount = Mount::new();
    let lengths = [0, 1, 4095, 4096, 262_144, 262_145, 5_000_003, 21 << 20];
    for len in lengths {
        fs::write(mount.there(&format!("f{len}")), content(len)).unwrap();
    }
    for len in lengths {
        let read = fs::read(mount.here(&format!("f{len}"))).unwrap();
        assert!(read == content(len), "{len}");
    }
}

#[test]
fn random_and_backward_reads() {
    let mount = Mount::new();
    let all = content(30 << 20);
    fs::write(mount.there("file"), &all).unwrap();
    let file = File::open(mount.here("file")).unwrap();
    let mut at = 12_345_u64;
    for len in [1_usize, 4096, 100_000, 1_000_000] {
        for _ in 0..12 {
            at = (at * 48_271 + 11) % (all.len() - len) as u64;
            let mut part = vec![0; len];
            file.read_exact_at(&mut part, at).unwrap();
            assert!(part == all[at as usize..][..len], "{len} bytes at {at}");
        }
    }
    let mut part = vec![0; 100_000];
    for at in (0..all.len() as u64 - 100_000).rev().step_by(3_000_000) {
        file.read_exact_at(&mut part, at).unwrap();
        assert!(part == all[at as usize..][..100_000], "{at}");
    }
    assert_eq!(file.read_at(&mut part, all.len() as u64 - 5).unwrap(), 5);
    assert_eq!(file.read_at(&mut part, all.len() as u64).unwrap(), 0);
    assert_eq!(file.read_at(&mut part, 1 << 40).unwrap(), 0);
}

#[test]
fn many_readers_share_few_sessions() {
    for sessions in [1, 2, 4] {
        let mount = Mount::with(sessions, |_| {});
        for i in 0..8 {
            fs::write(mount.there(&format!("f{i}")), content((6 << 20) + i)).unwrap();
        }
        thread::scope(|scope| {
            for i in 0..8 {
                let path = mount.here(&format!("f{i}"));
                scope.spawn(move || assert!(fs::read(path).unwrap() == content((6 << 20) + i)));
            }
        });
    }
}

#[test]
fn several_readers_of_one_file() {
    let mount = Mount::with(2, |_| {});
    let all = content(24 << 20);
    fs::write(mount.there("file"), &all).unwrap();
    thread::scope(|scope| {
        for i in 0..5 {
            let (mount, all) = (&mount, &all);
            scope.spawn(move || {
                let mut file = File::open(mount.here("file")).unwrap();
                let from = i * (4 << 20) + 77 * i;
                file.seek(SeekFrom::Start(from as u64)).unwrap();
                let mut rest = Vec::new();
                file.read_to_end(&mut rest).unwrap();
                assert!(rest == all[from..], "reader {i}");
            });
        }
    });
}

#[test]
fn little_memory_is_enough() {
    let mount = Mount::with(4, |config| config.window_bytes = 1);
    let all = content(3 << 20);
    for i in 0..4 {
        fs::write(mount.there(&format!("f{i}")), &all).unwrap();
    }
    thread::scope(|scope| {
        for i in 0..4 {
            let (mount, all) = (&mount, &all);
            scope.spawn(move || assert!(fs::read(mount.here(&format!("f{i}"))).unwrap() == *all));
        }
    });
}

#[test]
fn attributes_are_the_servers_under_the_mounts_owner_and_masks() {
    let mount = Mount::new();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_234_567_890);
    fs::write(mount.there("file"), content(1025)).unwrap();
    fs::set_permissions(mount.there("file"), fs::Permissions::from_mode(0o4757)).unwrap();
    fs::create_dir(mount.there("dir")).unwrap();
    symlink("../some/where", mount.there("link")).unwrap();
    let file = File::options()
        .write(true)
        .open(mount.there("file"))
        .unwrap();
    file.set_modified(time).unwrap();
    let stat = fs::metadata(mount.here("file")).unwrap();
    assert_eq!((stat.len(), stat.blocks(), stat.nlink()), (1025, 3, 1));
    assert_eq!((stat.uid(), stat.gid()), (4711, 4712));
    assert_eq!(stat.mode() & 0o7777, 0o4750);
    assert_eq!(stat.modified().unwrap(), time);
    assert_eq!((stat.mtime(), stat.mtime()), (stat.ctime(), stat.atime()));
    let stat = fs::metadata(mount.here("dir")).unwrap();
    assert!(stat.is_dir());
    assert_eq!(stat.nlink(), 2);
    let link = fs::symlink_metadata(mount.here("link")).unwrap();
    assert!(link.file_type().is_symlink());
    assert_eq!(link.len(), 13);
    let target = fs::read_link(mount.here("link")).unwrap();
    assert_eq!(target, PathBuf::from("../some/where"));
    assert_eq!(errno(fs::metadata(mount.here("link"))), libc::ENOENT);
}

#[test]
fn special_files_are_shown_and_never_opened() {
    let mount = Mount::new();
    let fifo = mount.there("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let kind = fs::symlink_metadata(mount.here("fifo"))
        .unwrap()
        .file_type();
    assert!(kind.is_socket());
    assert_eq!(errno(File::open(mount.here("fifo"))), libc::ENXIO);
}

#[test]
fn names_are_bytes() {
    let mount = Mount::new();
    let names: [&[u8]; 9] = [
        b".hidden",
        b" two  spaces ",
        b"-la",
        b"a*b?[c]#%41",
        b"back\\slash \"quotes\" 'too'",
        b"latin \xe9\xff",
        "grüße".as_bytes(),
        b"a -> b",
        b"-rw-r--r-- 1 a b 3 Jan 1 2020 c",
    ];
    let names: HashSet<OsString> = names.map(|n| OsString::from_vec(n.to_vec())).into();
    for name in &names {
        fs::write(mount.served.path().join(name), name.as_encoded_bytes()).unwrap();
    }
    let listed = fs::read_dir(mount.point.path()).unwrap();
    let listed: HashSet<OsString> = listed.map(|e| e.unwrap().file_name()).collect();
    assert_eq!(listed, names);
    for name in &names {
        let read = fs::read(mount.point.path().join(name)).unwrap();
        assert_eq!(read, name.as_encoded_bytes());
    }
    assert_eq!(errno(fs::metadata(mount.here("new\nline"))), libc::EINVAL);
    let long = "x".repeat(256);
    assert_eq!(errno(fs::metadata(mount.here(&long))), libc::ENAMETOOLONG);
    let long = "x".repeat(255);
    assert_eq!(errno(fs::metadata(mount.here(&long))), libc::ENOENT);
}

#[test]
fn a_large_directory_is_complete_and_stays_so_while_it_is_read() {
    let mount = Mount::new();
    let name = |i: usize| format!("file number {i:05}");
    for i in 0..5000 {
        File::create(mount.there(&name(i))).unwrap();
    }
    let mut seen = HashSet::new();
    let mut entries = fs::read_dir(mount.point.path()).unwrap();
    for entry in entries.by_ref().take(100) {
        assert!(seen.insert(entry.unwrap().file_name()));
    }
    for i in 0..5000 {
        fs::remove_file(mount.there(&name(i))).unwrap();
    }
    thread::sleep(2 * BELIEF);
    assert_eq!(errno(fs::metadata(mount.here(&name(4999)))), libc::ENOENT);
    for entry in entries {
        assert!(seen.insert(entry.unwrap().file_name()));
    }
    // What was seen to be gone since need not be shown.
    assert!(seen.len() >= 4999, "{}", seen.len());
    assert_eq!(fs::read_dir(mount.point.path()).unwrap().count(), 0);
}

#[test]
fn rewinding_a_directory_lists_it_anew() {
    let mount = Mount::new();
    fs::write(mount.there("first"), "").unwrap();
    let flags = nix::fcntl::OFlag::O_DIRECTORY;
    let mode = nix::sys::stat::Mode::empty();
    let mut dir = nix::dir::Dir::open(mount.point.path(), flags, mode).unwrap();
    let names = |dir: &mut nix::dir::Dir| {
        // Rewinds when it is dropped.
        let entries = dir.iter().map(|e| e.unwrap().file_name().to_owned());
        entries.collect::<HashSet<_>>()
    };
    assert_eq!(
        names(&mut dir),
        [c".".into(), c"..".into(), c"first".into()].into()
    );
    fs::write(mount.there("second"), "").unwrap();
    thread::sleep(2 * BELIEF);
    assert!(names(&mut dir).contains(c"second"));
}

#[test]
fn what_appears_and_disappears_is_seen_in_time() {
    let mount = Mount::new();
    assert_eq!(errno(fs::metadata(mount.here("file"))), libc::ENOENT);
    fs::write(mount.there("file"), "hello").unwrap();
    // Believed for a while: the kernel need not ask for each missing name again and again.
    assert_eq!(errno(fs::metadata(mount.here("file"))), libc::ENOENT);
    thread::sleep(2 * BELIEF);
    assert_eq!(fs::read_to_string(mount.here("file")).unwrap(), "hello");
    fs::remove_file(mount.there("file")).unwrap();
    fs::create_dir(mount.there("file")).unwrap();
    thread::sleep(2 * BELIEF);
    assert!(fs::metadata(mount.here("file")).unwrap().is_dir());
    assert_eq!(fs::read_dir(mount.here("file")).unwrap().count(), 0);
}

#[test]
fn a_file_that_became_a_link_is_shown_as_one() {
    let mount = Mount::new();
    fs::write(mount.there("target"), "hello").unwrap();
    fs::write(mount.there("name"), "old").unwrap();
    let before = fs::symlink_metadata(mount.here("name")).unwrap();
    let open = File::open(mount.here("name")).unwrap();
    fs::remove_file(mount.there("name")).unwrap();
    symlink("target", mount.there("name")).unwrap();
    thread::sleep(2 * BELIEF);
    // By the inode that the kernel still has.
    assert_eq!(errno(open.metadata()), libc::ESTALE);
    let after = fs::symlink_metadata(mount.here("name")).unwrap();
    assert!(after.file_type().is_symlink());
    assert_ne!(after.ino(), before.ino());
    assert_eq!(fs::read_to_string(mount.here("name")).unwrap(), "hello");
    fs::remove_file(mount.there("name")).unwrap();
    fs::write(mount.there("name"), "new").unwrap();
    thread::sleep(2 * BELIEF);
    assert_eq!(fs::read_to_string(mount.here("name")).unwrap(), "new");
}

#[test]
fn a_look_at_many_directories_costs_one_listing() {
    const KNOWN: Duration = Duration::from_secs(2);
    let listed_longer = |config: &mut Config| {
        config.attr_timeout = KNOWN;
        config.dir_timeout = 30 * KNOWN;
    };
    let too_many_to_keep = |config: &mut Config| {
        config.attr_timeout = KNOWN;
        config.cache_entries = 55;
    };
    let changes: [fn(&mut Config); 2] = [listed_longer, too_many_to_keep];
    for (change, allowed) in changes.into_iter().zip([20, 80]) {
        let mount = Mount::with(4, change);
        let names: Vec<_> = (0..60).map(|i| format!("d{i}")).collect();
        for name in &names {
            fs::create_dir(mount.there(name)).unwrap();
        }
        let look = || {
            let before = mount.proxy.requests();
            for name in &names[..15] {
                assert!(fs::metadata(mount.here(name)).unwrap().is_dir());
            }
            mount.proxy.requests() - before
        };
        let cold = look();
        thread::sleep(KNOWN);
        let again = look();
        assert!(
            cold <= allowed && again <= allowed,
            "cold {cold}, again {again}"
        );
        let hot = look();
        assert!(hot <= 3, "{hot}");
    }
}

#[test]
fn nothing_can_be_changed() {
    let mount = Mount::new();
    fs::write(mount.there("file"), "hello").unwrap();
    fs::create_dir(mount.there("dir")).unwrap();
    let (file, new) = (mount.here("file"), mount.here("new"));
    assert_eq!(errno(fs::write(&file, "other")), libc::EROFS);
    assert_eq!(errno(File::options().append(true).open(&file)), libc::EROFS);
    assert_eq!(errno(File::create(&new)), libc::EROFS);
    assert_eq!(errno(fs::create_dir(&new)), libc::EROFS);
    assert_eq!(errno(symlink("file", &new)), libc::EROFS);
    assert_eq!(errno(fs::hard_link(&file, &new)), libc::EROFS);
    assert_eq!(errno(fs::rename(&file, &new)), libc::EROFS);
    assert_eq!(errno(fs::remove_file(&file)), libc::EROFS);
    assert_eq!(errno(fs::remove_dir(mount.here("dir"))), libc::EROFS);
    let mode = fs::Permissions::from_mode(0o600);
    assert_eq!(errno(fs::set_permissions(&file, mode)), libc::EROFS);
    assert_eq!(fs::read_to_string(&file).unwrap(), "hello");
}

#[test]
fn growth_is_read_on() {
    let mount = Mount::new();
    let all = content(700_000);
    fs::write(mount.there("log"), &all[..300_001]).unwrap();
    let mut file = File::open(mount.here("log")).unwrap();
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert_eq!(read.len(), 300_001);
    for end in [300_002, 400_000, 700_000] {
        // The server tells times to the second, and a file grows later than it was.
        let mut grown = File::options()
            .append(true)
            .open(mount.there("log"))
            .unwrap();
        grown.write_all(&all[read.len()..end]).unwrap();
        drop(grown);
        thread::sleep(2 * BELIEF);
        file.read_to_end(&mut read).unwrap();
        assert!(read == all[..end], "{end}: {}", read.len());
    }
}

#[test]
fn contents_are_never_mixed() {
    let mount = Mount::new();
    let old = vec![b'o'; 40 << 20];
    let new = vec![b'n'; 30 << 20];
    fs::write(mount.there("file"), &old).unwrap();
    let before = File::open(mount.here("file")).unwrap();
    let mut part = vec![0; 1 << 20];
    before.read_exact_at(&mut part, 0).unwrap();
    fs::write(mount.there("new"), &new).unwrap();
    fs::rename(mount.there("new"), mount.there("file")).unwrap();
    thread::sleep(2 * BELIEF);
    // Who opens it now reads the new content.
    assert!(fs::read(mount.here("file")).unwrap() == new);
    // Who had it open gets nothing of it through a stream of its own.
    let after = before.read_at(&mut part, 38 << 20);
    assert_eq!(after.unwrap(), 0); // The kernel knows by now that the file is shorter.
    assert!(fs::read(mount.here("file")).unwrap() == new);
}

#[test]
fn a_replaced_file_is_an_error_for_those_who_read_it() {
    let mount = Mount::new();
    let (old, new) = (vec![b'o'; 40 << 20], vec![b'n'; 40 << 20]);
    fs::write(mount.there("file"), &old).unwrap();
    let file = File::open(mount.here("file")).unwrap();
    let mut part = vec![0; 1 << 20];
    file.read_exact_at(&mut part, 0).unwrap();
    thread::sleep(Duration::from_millis(1100));
    fs::write(mount.there("new"), &new).unwrap();
    fs::rename(mount.there("new"), mount.there("file")).unwrap();
    // Far ahead of the stream: another one has to be opened for it.
    let after = file.read_at(&mut part, 30 << 20);
    assert_eq!(errno(after), libc::EIO);
    thread::sleep(2 * BELIEF);
    assert!(fs::read(mount.here("file")).unwrap() == new);
}

#[test]
fn a_file_replaced_unnoticed_opens_with_its_new_content_and_no_error() {
    let mount = Mount::with(4, |config| config.attr_timeout = Duration::from_secs(600));
    fs::write(mount.there("file"), content(300_000)).unwrap();
    assert_eq!(fs::metadata(mount.here("file")).unwrap().len(), 300_000);
    let old = SystemTime::now() - Duration::from_secs(100);
    fs::write(mount.there("file"), "new").unwrap();
    let handle = File::options().write(true).open(mount.there("file"));
    handle.unwrap().set_modified(old).unwrap();
    // What is known of it is old, and believed for long yet.
    let mut found = String::new();
    let mut file = File::open(mount.here("file")).unwrap();
    file.read_to_string(&mut found).unwrap();
    assert_eq!(found, "new");
}

/// The kernel reads no further than the size that it was told.
#[test]
fn a_file_replaced_unnoticed_by_a_longer_one_is_not_cut_off() {
    let mount = Mount::with(4, |config| config.attr_timeout = Duration::from_secs(600));
    let new = content(300_000);
    fs::write(mount.there("file"), "old").unwrap();
    assert_eq!(fs::metadata(mount.here("file")).unwrap().len(), 3);
    fs::write(mount.there("file"), &new).unwrap();
    assert!(fs::read(mount.here("file")).unwrap() == new);
}

/// That a file has grown was heard along with news of its neighbour, which the kernel was not told.
#[test]
fn a_file_that_is_longer_by_a_later_listing_is_not_cut_off() {
    let served = tempfile::tempdir().unwrap();
    let mut config = server::Config::new(served.path(), Security::Implicit, Users::Anyone);
    config.without = ["MLST", "MLSD"].map(str::to_owned).to_vec();
    let mount = Mount::serving(served, config, 4, |config| {
        config.attr_timeout = Duration::from_secs(600);
        config.dir_timeout = Duration::from_secs(1);
    });
    let new = content(300_000);
    fs::write(mount.there("file"), "old").unwrap();
    assert_eq!(fs::metadata(mount.here("file")).unwrap().len(), 3);
    fs::write(mount.there("file"), &new).unwrap();
    thread::sleep(Duration::from_millis(1100));
    // The second question about the folder has it listed.
    for name in ["nothing", "nobody"] {
        assert_eq!(errno(fs::metadata(mount.here(name))), libc::ENOENT);
    }
    assert!(fs::read(mount.here("file")).unwrap() == new);
}

#[test]
fn a_server_whose_mdtm_is_in_another_zone_is_read_all_the_same() {
    let served = tempfile::tempdir().unwrap();
    let mut config = server::Config::new(served.path(), Security::Implicit, Users::Anyone);
    config.mdtm_slip = Duration::from_secs(3600);
    let mount = Mount::serving(served, config, 4, |_| {});
    let all = content(9_000_000);
    fs::write(mount.there("file"), &all[..8_000_000]).unwrap();
    let begun = Instant::now();
    let mut file = File::open(mount.here("file")).unwrap();
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert!(read == all[..8_000_000]);
    // Again, with what the kernel has of it, and elsewhere in it.
    let again = File::open(mount.here("file")).unwrap();
    let mut part = vec![0; 1000];
    again.read_exact_at(&mut part, 3_000_000).unwrap();
    assert!(part == all[3_000_000..][..1000]);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let grown = File::options().append(true).open(mount.there("file"));
    grown.unwrap().write_all(&all[8_000_000..]).unwrap();
    thread::sleep(2 * BELIEF);
    file.read_to_end(&mut read).unwrap();
    assert!(read == all, "{}", read.len());
    // Replaced is replaced.
    thread::sleep(Duration::from_millis(1100));
    fs::write(mount.there("new"), vec![b'n'; 9_000_000]).unwrap();
    fs::rename(mount.there("new"), mount.there("file")).unwrap();
    thread::sleep(2 * BELIEF);
    assert!(fs::read(mount.here("file")).unwrap() == vec![b'n'; 9_000_000]);
}

#[test]
fn the_page_cache_is_dropped_when_a_file_changed() {
    let mount = Mount::new();
    fs::write(mount.there("file"), "one").unwrap();
    assert_eq!(fs::read_to_string(mount.here("file")).unwrap(), "one");
    assert_eq!(fs::read_to_string(mount.here("file")).unwrap(), "one");
    thread::sleep(Duration::from_millis(1100));
    fs::write(mount.there("file"), "two").unwrap();
    thread::sleep(2 * BELIEF);
    assert_eq!(fs::read_to_string(mount.here("file")).unwrap(), "two");
}

#[test]
fn inode_numbers_are_the_same_everywhere_and_after_a_remount() {
    let mount = Mount::new();
    fs::write(mount.there("file"), "").unwrap();
    fs::create_dir_all(mount.there("dir/sub")).unwrap();
    fs::write(mount.there("dir/file"), "").unwrap();
    let names = ["file", "dir", "dir/sub", "dir/file"];
    let stat = |mount: &Mount| names.map(|n| fs::metadata(mount.here(n)).unwrap().ino());
    let numbers = stat(&mount);
    assert_eq!(HashSet::from(numbers).len(), names.len());
    for entry in fs::read_dir(mount.here("dir")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.ino(), entry.metadata().unwrap().ino());
    }
    assert_eq!(fs::metadata(mount.point.path()).unwrap().ino(), 1);
    let again = Mount::of(mount.end(), 4, |_| {});
    // In another order.
    assert_eq!(
        fs::metadata(again.here("dir/file")).unwrap().ino(),
        numbers[3]
    );
    assert_eq!(stat(&again), numbers);
}

#[test]
fn df_answers() {
    let mount = Mount::new();
    let space = nix::sys::statvfs::statvfs(mount.point.path()).unwrap();
    assert!(space.blocks_available() > 0);
    assert_eq!(space.block_size(), 4096);
    assert_eq!(space.name_max(), 255);
}

#[test]
fn without_its_server_a_mount_fails_in_time_and_learns_nothing() {
    let mut mount = Mount::with(4, |config| config.timeout = Duration::from_secs(2));
    fs::write(mount.there("file"), content(1000)).unwrap();
    assert_eq!(fs::read(mount.here("file")).unwrap().len(), 1000);
    thread::sleep(2 * BELIEF);
    mount.server = None;
    let begun = Instant::now();
    let error = fs::metadata(mount.here("file")).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(4), "{error}");
    assert_ne!(error.kind(), ErrorKind::NotFound);
    // A directory is not empty because its server is away.
    assert!(fs::read_dir(mount.point.path()).is_err());
}

#[test]
fn a_silent_server_costs_one_timeout_and_its_recovery_nothing() {
    let timeout = Duration::from_secs(2);
    let mount = Mount::with(4, |config| config.timeout = timeout);
    fs::create_dir(mount.there("dir")).unwrap();
    fs::write(mount.there("dir/file"), "hello").unwrap();
    let path = mount.here("dir/file");
    assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
    thread::sleep(2 * BELIEF);
    mount.proxy.hold();
    let begun = Instant::now();
    assert_eq!(errno(fs::metadata(&path)), libc::ETIMEDOUT);
    // Not twice, though the kernel asks twice.
    assert!(
        begun.elapsed() < timeout + timeout / 2,
        "{:?}",
        begun.elapsed()
    );
    mount.proxy.go_on();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
}

#[test]
fn truncate_on_a_silent_server_fails_in_time() {
    let timeout = Duration::from_secs(2);
    let mount = Mount::writable_with(4, |config| config.timeout = timeout);
    fs::write(mount.there("file"), "hello").unwrap();
    let path = mount.here("file");
    assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
    // By a handle the kernel does not look the name up again.
    let file = File::options().write(true).open(&path).unwrap();
    thread::sleep(2 * BELIEF);
    mount.proxy.hold();
    let begun = Instant::now();
    assert_eq!(errno(file.set_len(2)), libc::ETIMEDOUT);
    let took = begun.elapsed();
    assert!(took < 2 * timeout, "{took:?}");
}

#[test]
fn under_hard_no_call_fails_by_what_another_learned_of_a_silent_server() {
    let mount = Mount::with(4, |config| {
        config.timeout = Duration::from_secs(1);
        config.hard = true;
    });
    fs::create_dir(mount.there("dir")).unwrap();
    fs::write(mount.there("dir/file"), "hello").unwrap();
    let path = mount.here("dir/file");
    assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
    thread::sleep(2 * BELIEF);
    mount.proxy.hold();
    thread::scope(|scope| {
        let look = || fs::metadata(&path).map(|found| found.len());
        let first = scope.spawn(look);
        thread::sleep(Duration::from_millis(1200));
        // The first has had no answer by now, and asks again.
        let others: Vec<_> = (0..8)
            .map(|_| {
                thread::sleep(Duration::from_millis(200));
                scope.spawn(look)
            })
            .collect();
        mount.proxy.go_on();
        for look in others.into_iter().chain([first]) {
            assert_eq!(look.join().unwrap().unwrap(), 5);
        }
    });
}

#[test]
fn a_program_that_waits_for_a_silent_server_can_be_killed() {
    let mount = Mount::new();
    mount.proxy.hold();
    let mut stat = Command::new("stat")
        .arg(mount.here("file"))
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(stat.try_wait().unwrap(), None);
    let begun = Instant::now();
    stat.kill().unwrap();
    stat.wait().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    mount.proxy.go_on();
}

#[test]
fn readers_killed_before_a_silent_server_leave_few_threads_behind() {
    let mount = Mount::with(1, |config| {
        config.attr_timeout = Duration::from_secs(60);
        config.dir_timeout = Duration::from_secs(60);
    });
    for i in 0..150 {
        fs::write(mount.there(&format!("f{i}")), "hello").unwrap();
    }
    for entry in fs::read_dir(mount.point.path()).unwrap() {
        entry.unwrap().metadata().unwrap();
    }
    // Those of other tests too.
    let pumps = || -> HashSet<OsString> {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let is_pump = |task: &fs::DirEntry| {
            fs::read_to_string(task.path().join("comm"))
                .is_ok_and(|name| name.starts_with("read-ahead"))
        };
        tasks.filter(is_pump).map(|task| task.file_name()).collect()
    };
    mount.proxy.hold();
    let before = pumps();
    for round in 0..3 {
        let head = |i| {
            Command::new("head")
                .arg(mount.here(&format!("f{i}")))
                .spawn()
        };
        let mut readers: Vec<_> = (50 * round..50 * (round + 1))
            .map(|i| head(i).unwrap())
            .collect();
        thread::sleep(Duration::from_millis(500));
        for reader in &mut readers {
            reader.kill().unwrap();
        }
        for reader in &mut readers {
            reader.wait().unwrap();
        }
        // It is seen that they are gone.
        thread::sleep(Duration::from_millis(500));
    }
    // Not what is left of all: other tests may have ended some meanwhile.
    let left = pumps().difference(&before).count();
    assert!((50..=135).contains(&left), "{left}");
    mount.proxy.go_on();
    assert_eq!(fs::read_to_string(mount.here("f149")).unwrap(), "hello");
}

#[test]
fn what_is_known_is_told_while_others_wait() {
    let mount = Mount::with(4, |config| {
        config.attr_timeout = Duration::from_secs(60);
        config.dir_timeout = Duration::from_secs(60);
    });
    fs::write(mount.there("known"), "hello").unwrap();
    assert_eq!(fs::read_dir(mount.point.path()).unwrap().count(), 1);
    assert!(fs::metadata(mount.here("known")).is_ok());
    mount.proxy.hold();
    thread::scope(|scope| {
        for i in 0..40 {
            let path = mount.here(&format!("known/or/not{i}"));
            scope.spawn(move || fs::metadata(path));
        }
        for i in 0..40 {
            let path = mount.here(&format!("unknown{i}"));
            scope.spawn(move || fs::metadata(path));
        }
        thread::sleep(Duration::from_millis(500));
        let begun = Instant::now();
        assert_eq!(fs::metadata(mount.here("known")).unwrap().len(), 5);
        assert_eq!(fs::read_dir(mount.point.path()).unwrap().count(), 1);
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
        mount.proxy.go_on();
    });
}

#[test]
fn the_root_is_told_while_a_slow_answer_is_under_way_and_no_session_is_lost() {
    let mount = Mount::new();
    assert!(fs::metadata(mount.point.path()).is_ok());
    fs::write(mount.there("file"), "hello").unwrap();
    assert_eq!(fs::read_dir(mount.point.path()).unwrap().count(), 1);
    thread::sleep(2 * BELIEF);
    let connected = mount.proxy.connections();
    mount.proxy.hold();
    for _ in 0..2 {
        let begun = Instant::now();
        assert!(fs::metadata(mount.point.path()).unwrap().is_dir());
        let waited = begun.elapsed();
        assert!(waited < Duration::from_millis(1900), "{waited:?}");
    }
    mount.proxy.go_on();
    thread::sleep(2 * BELIEF);
    assert!(fs::metadata(mount.point.path()).unwrap().is_dir());
    assert_eq!(fs::read_to_string(mount.here("file")).unwrap(), "hello");
    assert_eq!(mount.proxy.connections(), connected);
}

/// A TCP proxy before the server's control port, which can hold back everything for a while.
struct Proxy {
    port: u16,
    holding: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    /// How often something went to the server.
    requests: Arc<AtomicUsize>,
    /// Both ends of every connection so far.
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn new(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self {
            port,
            holding: Arc::new(AtomicBool::new(false)),
            ended: Arc::new(AtomicBool::new(false)),
            connections: Arc::new(AtomicUsize::new(0)),
            requests: Arc::new(AtomicUsize::new(0)),
            ends: Arc::default(),
        };
        let ends = proxy.ends.clone();
        let (holding, ended) = (proxy.holding.clone(), proxy.ended.clone());
        let (connections, requests) = (proxy.connections.clone(), proxy.requests.clone());
        thread::spawn(move || {
            for inward in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let inward = inward.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let Ok(outward) = TcpStream::connect(server) else {
                    continue;
                };
                // Small answers must not wait for each other.
                for side in [&inward, &outward] {
                    side.set_nodelay(true).unwrap();
                }
                for side in [&inward, &outward] {
                    ends.lock().push(side.try_clone().unwrap());
                }
                let back = (outward.try_clone().unwrap(), inward.try_clone().unwrap());
                let answers = Arc::new(AtomicUsize::new(0));
                let counts = [requests.clone(), answers];
                for ((mut from, mut to), count) in [(inward, outward), back].into_iter().zip(counts)
                {
                    let holding = holding.clone();
                    thread::spawn(move || {
                        let mut bytes = [0; 16 << 10];
                        while let Ok(read @ 1..) = from.read(&mut bytes) {
                            count.fetch_add(1, Ordering::SeqCst);
                            while holding.load(Ordering::SeqCst) {
                                thread::sleep(Duration::from_millis(5));
                            }
                            if to.write_all(&bytes[..read]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        proxy
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Breaks all connections.
    fn cut(&self) {
        for end in self.ends.lock().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn hold(&self) {
        self.holding.store(true, Ordering::SeqCst);
    }

    fn go_on(&self) {
        self.holding.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.go_on();
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
