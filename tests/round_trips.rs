//! Round trips, counted at the wire: how many times an operation waits for the link. Seconds depend on
//! the machine, these numbers do not; they are what README and the issue tracker promise, and a change that
//! costs one more fails here.

mod common;

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use common::link::{self, Forgotten, Link};
use common::server::{Kind, PASSWORD, RealServer, USER, certificate};
use ftpsfs::client::{Config, Lane, Pool};
use ftpsfs::fs::{self as file_system, Ino, Lookup, Patience};
use ftpsfs::proto::{Command, RemotePath, Reply, Secret, Security};
use ftpsfs::remote::{Attributes, Download, FileKind, Publication, Remote};
use ftpsfs::server::{self, Server, Users};
use ftpsfs::tls::TrustOptions;

/// Where the kernel puts listeners that asked for no port.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;
/// A machine that is busy may count one too many: the fewest of so many tries are believed.
const TRIES: u32 = 5;

/// A server at the other end of a link.
struct Rig {
    name: String,
    link: Link,
    config: Config,
    root: PathBuf,
    /// Kept running.
    _server: Peer,
}

enum Peer {
    Real {
        _server: RealServer,
    },
    Own {
        _server: Server,
        _folder: tempfile::TempDir,
    },
}

impl Rig {
    fn real(kind: Kind) -> Self {
        let server = RealServer::of(kind);
        let link = Link::to(link::local(server.port()), server.passive_ports());
        let trust = TrustOptions {
            cafile: Some(certificate("ca.pem")),
            ..TrustOptions::default()
        };
        let security = match kind.is_implicit() {
            true => Security::Implicit,
            false => Security::Explicit,
        };
        Self {
            name: format!("{kind:?}"),
            config: config(&link, security, trust),
            link,
            root: server.root.clone(),
            _server: Peer::Real { _server: server },
        }
    }

    fn own(security: Security) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let users = Users::Listed(vec![(USER.into(), Secret::new(PASSWORD))]);
        let server = server::Config::new(folder.path(), security, users);
        let server = Server::start(server).expect("a server");
        let link = Link::to(server.local_addr(), EPHEMERAL);
        let trust = TrustOptions {
            fingerprints: vec![server.fingerprint()],
            ..TrustOptions::default()
        };
        Self {
            name: format!("ftpsfs serve, {security:?}"),
            config: config(&link, security, trust),
            link,
            root: folder.path().to_owned(),
            _server: Peer::Own {
                _server: server,
                _folder: folder,
            },
        }
    }

    fn connect(&self) -> Remote {
        let _ = env_logger::Builder::from_default_env()
            .is_test(true)
            .try_init();
        Remote::connect(self.config.clone(), soon()).expect("a connection")
    }

    /// Asserts that an operation takes `expected` round trips.
    #[track_caller]
    fn takes<T>(&self, expected: u64, what: &str, operation: impl FnMut() -> T) -> T {
        let (trips, value) = self.takes_at_most(expected, what, operation);
        assert_eq!(
            trips, expected,
            "{}: {what}: the table is out of date",
            self.name
        );
        value
    }

    #[track_caller]
    fn takes_at_most<T>(
        &self,
        expected: u64,
        what: &str,
        mut operation: impl FnMut() -> T,
    ) -> (u64, T) {
        let mut fewest = u64::MAX;
        for tries in 0..TRIES {
            self.link.be_patient(tries);
            let (trips, value) = self.link.count(&mut operation);
            fewest = fewest.min(trips);
            if fewest <= expected {
                return (fewest, value);
            }
        }
        panic!(
            "{}: {what}: {fewest} round trips, not {expected}",
            self.name
        )
    }
}

fn config(link: &Link, security: Security, trust: TrustOptions) -> Config {
    Config {
        trust,
        // Nothing that nobody asked for may be counted.
        keepalive: Duration::from_secs(600),
        idle_close: Duration::from_secs(600),
        addresses: vec![link.address()],
        ..Config::new("localhost", link.address().port(), security, USER, PASSWORD)
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text.as_bytes()).expect("a path")
}

fn read_whole(remote: &Remote, path: &RemotePath) -> Vec<u8> {
    let mut download = remote
        .download(path, 0, None, None, soon())
        .expect("a download");
    let mut all = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match download.read(&mut chunk, soon()).expect("data") {
            0 => return all,
            n => all.extend_from_slice(&chunk[..n]),
        }
    }
}

/// Some bytes, and the stream to be dropped, which takes a trip of its own.
fn read_some(remote: &Remote, path: &RemotePath, offset: u64) -> Download {
    let mut download = remote
        .download(path, offset, None, None, soon())
        .expect("a download");
    assert!(download.read(&mut [0; 4096], soon()).expect("data") > 0);
    download.park();
    download
}

/// Content under a temporary name, and then under its own.
fn write_whole(remote: &Remote, path: &RemotePath, content: &[u8], replaces: bool) {
    let temporary = remote.temporaries().beside(path);
    let mut upload = remote.store(temporary.path(), soon()).expect("an upload");
    upload.write(content, soon()).expect("sent");
    upload.finish(soon()).expect("received");
    let publication = Publication {
        size: content.len() as u64,
        modified: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_222_222_222)),
        mode: Some(0o644),
        replaces,
        expects: None,
    };
    let published = remote.publish(temporary.path(), path, publication, soon());
    assert!(published.expect("published").modified);
}

fn append(remote: &Remote, path: &RemotePath, known: &Attributes, more: &[u8]) -> Attributes {
    let mut upload = remote
        .append(path, known.size, true, soon())
        .expect("an append");
    upload.write(more, soon()).expect("sent");
    upload.finish(soon()).expect("received");
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_333_333_333);
    let (found, dated) = remote.date(path, now, known, soon()).expect("dated");
    assert!(dated);
    found
}

/// Some bytes in place, read back as the file system does.
fn patch(remote: &Remote, path: &RemotePath, known: &Attributes, offset: u64, bytes: &[u8]) {
    let found = remote.stat(path, Some(known), soon()).expect("attributes");
    let begun = remote.patch(path, offset, found.size, soon());
    let mut upload = begun.expect("an upload in place");
    upload.write(bytes, soon()).expect("sent");
    upload.finish(soon()).expect("received");
    let end = offset + bytes.len() as u64;
    let range = remote.download_range(path, offset..end, soon());
    let mut there = vec![0; bytes.len()];
    let read = range.expect("a range").read(&mut there, soon());
    assert_eq!(&there[..read.expect("data")], bytes);
}

/// What is not the same on every server.
struct Differs {
    /// An MLST for one path, where its word on links is good; a STAT of its directory where that is
    /// faithful, with the path's exact time; else its directory's listing.
    cold_stat: u64,
}

fn costs_what_the_table_says(rig: &Rig, differs: &Differs) {
    let content = vec![7; 4096];
    fs::write(rig.root.join("small"), &content).expect("a file");
    fs::write(rig.root.join("large"), vec![8; 4 << 20]).expect("a file");
    fs::create_dir(rig.root.join("dir")).expect("a directory");
    for n in 0..5 {
        fs::write(rig.root.join(format!("dir/file{n}")), "content").expect("a file");
    }
    std::os::unix::fs::symlink("small", rig.root.join("link")).expect("a link");
    // A file that was changed just now teaches nothing of the server's zone.
    let old = SystemTime::now() - Duration::from_secs(3600);
    let small = fs::File::open(rig.root.join("small")).expect("a file");
    small.set_modified(old).expect("an older time");
    // The server's account must be allowed to change them.
    for name in ["", "small", "large", "dir"] {
        let about = fs::metadata(&rig.root).expect("the root");
        use std::os::unix::fs::MetadataExt;
        std::os::unix::fs::chown(rig.root.join(name), Some(about.uid()), Some(about.gid()))
            .expect("the tests run as root");
    }
    let remote = rig.connect();
    let (small, large, dir) = (path("/small"), path("/large"), path("/dir"));
    // What is learned once.
    for _ in 0..2 {
        remote.list(&path("/"), soon()).expect("a listing");
        remote.list(&dir, soon()).expect("a listing");
        assert_eq!(read_whole(&remote, &small), content);
        rig.link.rest();
    }
    write_whole(&remote, &path("/learned"), b"x", false);
    write_whole(&remote, &path("/learned"), b"y", true);

    let known = remote.stat(&small, None, soon()).expect("attributes");
    rig.takes(1, "stat of a known file", || {
        remote
            .stat(&small, Some(&known), soon())
            .expect("attributes")
    });
    rig.takes(differs.cold_stat, "stat of a path", || {
        remote.stat(&dir, None, soon()).expect("attributes")
    });
    rig.takes(2, "listing with exact times", || {
        assert_eq!(
            remote.list(&dir, soon()).expect("a listing").entries.len(),
            5
        );
    });
    // Streams that nobody reads pile up until they have every place but one.
    let open = RefCell::new(Vec::new());
    for n in 0..6 {
        rig.takes(2, "first byte, random read", || {
            let stream = read_some(&remote, &large, n * 500_000);
            open.borrow_mut().push(stream);
        });
    }
    drop(open);
    rig.takes(2, "small file", || {
        assert_eq!(read_whole(&remote, &small), content);
    });

    // Sessions take turns, so that each has its next data connection by then.
    rig.takes_at_most(13, "six small files, one right after the other", || {
        for _ in 0..6 {
            assert_eq!(read_whole(&remote, &small), content);
        }
    });

    let count = Cell::new(0);
    let fresh = |what: &str| {
        count.set(count.get() + 1);
        path(&format!("/{what}{}", count.get()))
    };
    rig.takes(3, "create", || {
        write_whole(&remote, &fresh("new"), &content, false);
    });
    rig.takes(4, "replace", || {
        write_whole(&remote, &small, &content, true)
    });
    let known = Cell::new(Some(remote.stat(&small, None, soon()).expect("attributes")));
    rig.takes(3, "append", || {
        let before = known.take().expect("known");
        let after = append(&remote, &small, &before, b"more");
        assert_eq!(after.size, before.size + 4);
        known.set(Some(after));
    });
    if remote.patches_in_place(&large, soon()).expect("an answer") {
        let known = remote.stat(&large, None, soon()).expect("attributes");
        rig.takes_at_most(6, "change in place", || {
            patch(&remote, &large, &known, 1 << 20, &content);
        });
    }
    rig.takes(1, "mkdir", || {
        remote.mkdir(&fresh("dir"), 0o755, soon()).expect("made");
    });
    rig.takes(1, "chmod", || {
        remote.set_mode(&small, 0o640, soon()).expect("set")
    });
    rig.takes(1, "utimens", || {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_111_111_111);
        remote.set_modified(&small, then, soon()).expect("set");
    });
    let name = Cell::new(path("/learned"));
    rig.takes(1, "rename", || {
        let to = fresh("renamed");
        remote
            .rename(&name.replace(to.clone()), &to, soon())
            .expect("renamed");
    });
    let emptied = RefCell::new(Vec::new());
    for _ in 0..TRIES {
        let dir = fresh("emptied");
        remote.mkdir(&dir, 0o755, soon()).expect("made");
        emptied.borrow_mut().push(dir);
    }
    rig.takes(1, "rmdir", || {
        let dir = emptied.borrow_mut().pop().expect("another");
        remote.rmdir(&dir, soon()).expect("removed");
    });
    let doomed: Vec<_> = (0..TRIES).map(|_| fresh("doomed")).collect();
    for (n, path) in doomed.iter().enumerate() {
        remote
            .mkdir(&fresh("doomed-dir"), 0o755, soon())
            .expect("made");
        write_whole(&remote, path, &[n as u8], false);
    }
    let mut doomed = doomed.iter();
    rig.takes(1, "unlink", || {
        let path = doomed.next().expect("another");
        remote.unlink(path, soon()).expect("removed");
    });
    remote.shutdown();
}

/// Thousands of questions fill the link, whatever its length, and each gets its own answer.
fn many_questions_take_few_trips(rig: &Rig) {
    const MANY: usize = 3000;
    fs::create_dir(rig.root.join("a-directory-with-a-name")).expect("a directory");
    for n in 0..MANY {
        let file = format!("a-directory-with-a-name/a-file-with-a-longer-name-{n}");
        fs::write(rig.root.join(file), vec![0; n % 7]).expect("a file");
    }
    let asked: Vec<_> = (0..MANY)
        .map(|n| format!("/a-directory-with-a-name/a-file-with-a-longer-name-{n}"))
        .map(|name| Command::Size((&path(&name)).into()))
        .collect();
    let pool = Pool::connect(rig.config.clone(), soon()).expect("a pool");
    let mut session = pool.acquire(Lane::Metadata, soon()).expect("the session");
    let check = |replies: Vec<Reply>| {
        for (n, reply) in replies.iter().enumerate() {
            assert_eq!(reply.code.as_u16(), 213, "{}: {n}", rig.name);
            assert_eq!(
                reply.text().trim(),
                (n % 7).to_string(),
                "{}: {n}",
                rig.name
            );
        }
        assert_eq!(replies.len(), MANY);
    };
    let (trips, replies) = rig.link.count(|| session.pipeline(&asked, soon()));
    check(replies.expect("replies"));
    let lanes = MANY as u64 / 500;
    assert!(trips <= 4 * lanes, "{}: {trips} round trips", rig.name);
    // With another session's help in less.
    drop(pool.acquire(Lane::Metadata, soon()).expect("another"));
    let (trips, replies) = (rig.link).count(|| pool.pipeline(&mut session, &asked, soon()));
    check(replies.expect("replies"));
    assert!(trips <= 3 * lanes, "{}: {trips} with help", rig.name);
}

/// The first connection, which knows nothing of the server, and one after it.
fn logs_in_within(rig: &Rig, first: u64, next: u64) {
    let pool = rig.takes(first, "the first login", || {
        Pool::connect(rig.config.clone(), soon()).expect("a pool")
    });
    let pool: Arc<Pool> = pool;
    let held = RefCell::new(Vec::new());
    held.borrow_mut()
        .push(pool.acquire(Lane::Metadata, soon()).expect("the session"));
    let (trips, another) = rig.link.count(|| pool.acquire(Lane::Metadata, soon()));
    held.borrow_mut().push(another.expect("another session"));
    assert!(
        trips <= next,
        "{}: the next login: {trips} round trips",
        rig.name
    );
}

/// As `find` with stat: every directory is opened, and everything in it looked up. Directories.
fn walk(fs: &Arc<file_system::Fs>, ino: Ino) -> usize {
    let patience = || Patience::Until(soon());
    let handle = fs.opendir(ino, patience()).expect("opened");
    let names = fs.readdir(handle, 0, patience()).expect("names");
    let mut found = Vec::new();
    names.each(|entry| {
        if ![&b"."[..], b".."].contains(&entry.name) {
            found.push(entry.name.to_owned());
        }
        false
    });
    fs.releasedir(handle);
    let look = |name: Vec<u8>| match fs.lookup(ino, &name, patience()).expect("looked up") {
        Lookup::Found(entry) => entry.attr,
        Lookup::Absent(_) => panic!("what was listed is there"),
    };
    let mut found: Vec<_> = found.into_iter().map(look).collect();
    found.retain(|attr| attr.kind == FileKind::Directory);
    1 + found.iter().map(|attr| walk(fs, attr.ino)).sum::<usize>()
}

/// 111 directories, with five files each. A quiet machine counts 25 on vsftpd and 200 where each listing takes a
/// data connection; without what is listed ahead there are 225 and 338. Busy threads come too late for some.
fn a_walk_is_listed_ahead(rig: &Rig, most: u64) {
    fs::create_dir(rig.root.join("tree")).expect("a directory");
    let mut above = vec!["tree".to_owned()];
    for _ in 0..3 {
        for dir in &above {
            for n in 0..5 {
                fs::write(rig.root.join(format!("{dir}/file{n}")), "content").expect("a file");
            }
        }
        let below = above
            .iter()
            .flat_map(|dir| (0..10).map(move |n| format!("{dir}/dir{n}")));
        above = below.collect();
        if above.len() <= 100 {
            for dir in &above {
                fs::create_dir(rig.root.join(dir)).expect("a directory");
            }
        }
    }
    let directories = || within_a_mount(rig, "/tree", |fs| walk(fs, Ino::ROOT));
    let (trips, directories) = takes_at_most(rig, most, "find in 111 directories", directories);
    assert_eq!(directories, 111);
    eprintln!("{}: {trips} round trips", rig.name);
}

/// A file that was changed just now teaches nothing of the server's zone, and its own time needs none: one
/// question each, where the directories' times take a listing, once.
#[test]
fn new_files_in_many_directories_take_one_round_trip_each() {
    const DIRECTORIES: u64 = 12;
    let rig = Rig::real(Kind::VsftpdExplicit);
    for n in 0..DIRECTORIES {
        let dir = rig.root.join(format!("scattered/dir{n}"));
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("file"), "content").expect("a file");
    }
    let find = |fs: &Arc<file_system::Fs>, dir: Ino, name: &str| {
        let found = fs.lookup(dir, name.as_bytes(), Patience::Until(soon()));
        match found.expect("looked up") {
            Lookup::Found(entry) => entry.attr.ino,
            Lookup::Absent(_) => panic!("{name} is there"),
        }
    };
    let look = |fs: &Arc<file_system::Fs>| {
        for n in 0..DIRECTORIES {
            let dir = find(fs, Ino::ROOT, &format!("dir{n}"));
            find(fs, dir, "file");
        }
    };
    takes_at_most(&rig, DIRECTORIES + 6, "a stat in each directory", || {
        within_a_mount(&rig, "/scattered", look)
    });
}

/// Each waits for the one before, as a shell's loop does.
fn small_files_are_fetched_ahead(rig: &Rig, most: u64) {
    const FILES: usize = 40;
    fs::create_dir(rig.root.join("many")).expect("a directory");
    let content = |n: usize| vec![n as u8; 4096];
    for n in 0..FILES {
        fs::write(rig.root.join(format!("many/file{n:03}")), content(n)).expect("a file");
    }
    let patience = || Patience::Until(soon());
    let read = |fs: &Arc<file_system::Fs>| {
        for n in 0..FILES {
            let name = format!("file{n:03}");
            let found = fs.lookup(Ino::ROOT, name.as_bytes(), patience());
            let Lookup::Found(entry) = found.expect("looked up") else {
                panic!("{name} is there");
            };
            let access = file_system::Access::default();
            let open = fs.open(entry.attr.ino, access, patience()).expect("opened");
            let data = fs.read(open.handle, 0, 1 << 17, patience()).expect("read");
            assert_eq!(&data[..], content(n), "{name}");
            if let Some(left) = fs.release(open.handle) {
                fs.finish(left);
            }
        }
    };
    let what = "40 files of 4 KiB, one after another";
    let (trips, ()) = takes_at_most(rig, most, what, || within_a_mount(rig, "/many", read));
    eprintln!("{}: {trips} round trips", rig.name);
}

/// What only happens once in a mount: each try has one of its own, and its login does not count.
fn takes_at_most<T>(
    rig: &Rig,
    expected: u64,
    what: &str,
    mut operation: impl FnMut() -> (u64, T),
) -> (u64, T) {
    let mut fewest = u64::MAX;
    for tries in 0..TRIES {
        rig.link.be_patient(tries);
        let (trips, value) = operation();
        fewest = fewest.min(trips);
        if fewest <= expected {
            return (fewest, value);
        }
    }
    panic!("{}: {what}: {fewest} round trips, not {expected}", rig.name)
}

fn within_a_mount<T>(
    rig: &Rig,
    root: &str,
    work: impl FnOnce(&Arc<file_system::Fs>) -> T,
) -> (u64, T) {
    let remote = Arc::new(rig.connect());
    let root = path(root);
    let config = file_system::Config {
        root,
        ..config_of_files()
    };
    let fs = file_system::Fs::new(remote.clone(), config);
    let counted = rig.link.count(|| work(&fs));
    fs.close();
    remote.shutdown();
    counted
}

fn config_of_files() -> file_system::Config {
    let lifetime = Duration::from_secs(60);
    file_system::Config {
        shelf: None,
        root: RemotePath::root(),
        uid: 0,
        gid: 0,
        fmask: 0,
        dmask: 0,
        timeout: Duration::from_secs(30),
        attr_timeout: lifetime,
        dir_timeout: lifetime,
        negative_timeout: lifetime,
        cache_entries: 100_000,
        window_bytes: 64 << 20,
        passthrough: false,
        prefetch: true,
        spool: None,
        strict: false,
        direct: false,
        write_back: false,
        hard: false,
        temp_dir: None,
        temp_name: None,
        uploads: 1,
        min_rate: 0,
        retries: 2,
    }
}

/// A data connection that was opened ahead and is gone is another one's affair, not the request's.
fn forgotten_data_connections_cost_time_only(rig: &Rig) {
    let content = vec![9; 5000];
    fs::write(rig.root.join("file"), &content).expect("a file");
    let remote = rig.connect();
    let file = path("/file");
    for whose in [Forgotten::ByBoth, Forgotten::ByServer] {
        for round in 0..2 {
            assert_eq!(read_whole(&remote, &file), content);
            rig.link.forget_unused(whose);
            assert_eq!(
                read_whole(&remote, &file),
                content,
                "{whose:?}, round {round}"
            );
            rig.link.forget_unused(whose);
            let new = path(&format!("/{whose:?}{round}"));
            write_whole(&remote, &new, &content, false);
            rig.link.forget_unused(whose);
            remote.list(&path("/"), soon()).expect("a listing");
        }
    }
    if common::full() {
        // Dropped before a server may have forgotten it.
        std::thread::sleep(Duration::from_secs(25));
        assert_eq!(read_whole(&remote, &file), content);
    }
}

macro_rules! on_servers {
    ($($module:ident: $rig:expr, $first:literal, $next:literal, $cold_stat:literal, $walk:literal;)*) => { $(mod $module {
        use super::*;

        #[test]
        fn costs_what_the_table_says() {
            let differs = Differs { cold_stat: $cold_stat };
            super::costs_what_the_table_says(&$rig, &differs);
        }

        #[test]
        fn logs_in_within() {
            super::logs_in_within(&$rig, $first, $next);
        }

        #[test]
        fn a_walk_is_listed_ahead() {
            super::a_walk_is_listed_ahead(&$rig, $walk);
        }

        #[test]
        fn small_files_are_fetched_ahead() {
            super::small_files_are_fetched_ahead(&$rig, 79);
        }

        #[test]
        fn many_questions_take_few_trips() {
            super::many_questions_take_few_trips(&$rig);
        }

        #[test]
        fn forgotten_data_connections_cost_time_only() {
            super::forgotten_data_connections_cost_time_only(&$rig);
        }
    })* };
}

// Pure-FTPd wants another key exchange than is offered first: one more, once.
on_servers! {
    own: Rig::own(Security::Explicit), 6, 5, 1, 300;
    own_implicit: Rig::own(Security::Implicit), 5, 4, 1, 300;
    vsftpd: Rig::real(Kind::VsftpdExplicit), 6, 5, 1, 110;
    proftpd: Rig::real(Kind::ProftpdExplicit), 6, 5, 2, 300;
    pure_ftpd: Rig::real(Kind::PureFtpd), 7, 5, 1, 300;
    pyftpdlib: Rig::real(Kind::Pyftpdlib), 6, 5, 2, 235;
}
