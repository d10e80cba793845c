//! What holds on every server, by every kind of FTPS, over TLS 1.2 and 1.3.
//!
//! Where a server cannot show something (a link's target, an exact time), the test says which server and what
//! then holds instead. Tests of one server's ways, and of failing to mount, are elsewhere.

use crate::common::command::{run_soon, soon, within};
use crate::common::mount::{Mount, Place};
use crate::common::server::{Kind, Options, RealServer};
use crate::common::{full, tree, wait_until};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// One server and one version of TLS.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    tls: &'static str,
}

impl Case {
    fn server(self) -> RealServer {
        RealServer::of(self.kind)
    }

    fn mount(self, server: &RealServer, extra: &str) -> Mount {
        Mount::new(server, &self.with_tls(extra))
    }

    fn with_tls(self, extra: &str) -> String {
        format!("tls={},{extra}", self.tls)
            .trim_end_matches(',')
            .to_owned()
    }
}

/// Makes a test of each function, for each server and version of TLS: `vsftpd_implicit::tls12::odd_names`.
macro_rules! on_every_server {
    ($($test:ident),* $(,)?) => {
        on_every_server!(@servers [$($test)*]
            vsftpd VsftpdExplicit, vsftpd_implicit VsftpdImplicit, proftpd ProftpdExplicit,
            proftpd_implicit ProftpdImplicit, pure_ftpd PureFtpd, pyftpdlib Pyftpdlib,
            pyftpdlib_implicit PyftpdlibImplicit);
    };
    (@servers $tests:tt $($module:ident $kind:ident),*) => {
        $(mod $module {
            on_every_server!(@tests tls12 "1.2" $kind $tests);
            on_every_server!(@tests tls13 "1.3" $kind $tests);
        })*
    };
    (@tests $module:ident $tls:literal $kind:ident [$($test:ident)*]) => {
        mod $module {
            use crate::common::server::Kind;
            use crate::every_server::Case;
            $(#[test]
            fn $test() {
                crate::every_server::$test(Case { kind: Kind::$kind, tls: $tls });
            })*
        }
    };
}

on_every_server! {
    odd_names, symbolic_links, line_feeds_in_names, times, inode_numbers, large_file, beyond_four_gibibytes,
    small_and_empty_files, eight_readers, readers_of_one_file, appended_data, replaced_file,
    ten_thousand_entries, stopped_server, killed_server, read_only, free_space, ipv6, active_mode, one_session,
    connection_cap,
}

fn odd_names(case: Case) {
    let server = case.server();
    tree::odd(&server.root, case.kind);
    // In a mount everything belongs to who mounts.
    std::os::unix::fs::chown(&server.root, Some(0), Some(0)).expect("take the root folder over");
    let mount = case.mount(&server, "");
    let difference = run_soon(
        Command::new("diff")
            .arg("-r")
            .arg(&server.root)
            .arg(&mount.dir),
    );
    assert_eq!(difference.text(), "");
    // vsftpd tells a folder's time by LIST alone, to the minute.
    let times = if case.kind.is_vsftpd() {
        "-nacO"
    } else {
        "-nac"
    };
    let mut rsync = Command::new("rsync");
    rsync.args([times, "--delete", "--itemize-changes"]);
    rsync.arg(server.root.join("")).arg(mount.dir.join(""));
    assert_eq!(run_soon(&mut rsync).text(), "");
}

fn symbolic_links(case: Case) {
    let server = case.server();
    tree::put(
        &server.root.join("folder/inside"),
        b"inside",
        Duration::ZERO,
    );
    tree::put(
        &server.root.join("file"),
        b"content",
        Duration::from_secs(7200),
    );
    for (target, link) in [
        ("file", "to file"),
        ("folder", "to folder"),
        ("nothing here", "dangling"),
        ("folder/../folder/inside", "to inside"),
        ("/file", "absolute"),
        (".", "to itself"),
    ] {
        symlink(target, server.root.join(link)).expect("make a link");
    }
    let mount = case.mount(&server, "");
    let dir = mount.dir.clone();
    let is_link = move |name: &'static str| {
        let path = dir.join(name);
        soon(move || {
            path.symlink_metadata()
                .map(|metadata| metadata.is_symlink())
        })
    };
    let text = |name: &str| {
        let path = mount.path(name);
        soon(move || fs::read_to_string(path)).expect("read through a link")
    };
    if case.kind.is_vsftpd() || case.kind == Kind::PureFtpd {
        // They show links as links; the target stands in LIST alone.
        for link in ["to file", "to folder", "dangling", "to inside", "absolute"] {
            assert!(is_link(link).expect("stat a link"), "{link}");
            let (through, here) = (mount.path(link), server.root.join(link));
            let target = soon(move || fs::read_link(through)).expect("read a link");
            assert_eq!(target, fs::read_link(here).expect("read the server's link"));
        }
        let dangling = mount.path("dangling");
        assert!(
            soon(move || fs::metadata(dangling))
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        );
    } else {
        // ProFTPD and pyftpdlib show what a link points to in its place.
        for link in ["to file", "to folder", "to inside"] {
            assert!(
                !is_link(link).expect("stat what a link points to"),
                "{link}"
            );
        }
    }
    for (link, content) in [
        ("to file", "content"),
        ("to folder/inside", "inside"),
        ("to inside", "inside"),
    ] {
        assert_eq!(text(link), content);
    }
}

/// FTP ends its lines with CR LF, and has no way to write a name that has either.
fn line_feeds_in_names(case: Case) {
    let server = case.server();
    tree::put(&server.root.join("first"), b"1", Duration::ZERO);
    tree::put(&server.root.join("line\nfeed"), b"2", Duration::ZERO);
    tree::put(&server.root.join("last"), b"3", Duration::ZERO);
    let mount = case.mount(&server, "");
    let mut listed = names(&mount.dir);
    if case.kind.is_pyftpdlib() || case.kind == Kind::PureFtpd {
        // They write something else in place of the line feed, which cannot be told from a name.
        listed.retain(|name| name != "line?feed" && name != "line_feed");
    }
    assert_eq!(listed, ["first", "last"].map(OsString::from).into());
    let path = mount.path("line\nfeed");
    let error = soon(move || fs::metadata(path)).expect_err("no such name can be asked for");
    assert!(
        matches!(errno(&error), Errno::EINVAL | Errno::ENOENT),
        "{error}"
    );
}

fn times(case: Case) {
    let server = case.server();
    const DAY: u64 = 24 * 3600;
    let ages = [
        ("now", 1),
        ("minutes", 119),
        ("season", 91 * DAY + 7),
        ("years", 3 * 365 * DAY + 13),
        ("old", 15_000 * DAY),
    ];
    for (name, age) in ages {
        tree::put(
            &server.root.join(name),
            name.as_bytes(),
            Duration::from_secs(age),
        );
        tree::put(
            &server.root.join("folder").join(name),
            b"",
            Duration::from_secs(age + 59),
        );
    }
    let expected = |name: &str| {
        server
            .root
            .join(name)
            .metadata()
            .expect("stat on the server")
            .mtime()
    };
    // Whether stat or ls comes first must make no difference.
    let mut place = Place::new();
    for stat_first in [true, false] {
        let mount = Mount::at(place, &server, &case.with_tls(""));
        let stat = |mount: &Mount| {
            for (name, _) in ages {
                for name in [name.to_owned(), format!("folder/{name}")] {
                    let path = mount.path(&name);
                    let time = soon(move || path.metadata()).expect("stat").mtime();
                    assert_eq!(
                        time,
                        expected(&name),
                        "stat {name}, stat first: {stat_first}"
                    );
                }
            }
        };
        let list = |mount: &Mount| {
            let mut ls = Command::new("ls");
            ls.args(["-l", "--time-style=+%s", "-R", "."])
                .current_dir(&mount.dir);
            let mut host = Command::new("ls");
            host.args(["-l", "--time-style=+%s", "-R", "."])
                .current_dir(&server.root);
            let (through, there) = (run_soon(&mut ls).text(), run_soon(&mut host).text());
            for (name, _) in ages {
                let time = |listing: &str| -> Vec<String> {
                    let ours = listing
                        .lines()
                        .filter(|line| line.ends_with(&format!(" {name}")));
                    ours.filter_map(|line| line.split_whitespace().nth(5).map(str::to_owned))
                        .collect()
                };
                assert_eq!(
                    time(&through),
                    time(&there),
                    "ls {name}, stat first: {stat_first}"
                );
                assert_eq!(time(&through).len(), 2, "{through}");
            }
        };
        if stat_first {
            stat(&mount);
            list(&mount);
        } else {
            list(&mount);
            stat(&mount);
        }
        place = mount.unmount();
    }
}

fn inode_numbers(case: Case) {
    let server = case.server();
    for name in ["a", "b", "c/d", "c/e/f"] {
        tree::put(&server.root.join(name), name.as_bytes(), Duration::ZERO);
    }
    let inodes = |mount: &Mount| {
        let listing = run_soon(
            Command::new("find")
                .args([".", "-printf", "%i %P\n"])
                .current_dir(&mount.dir),
        )
        .text();
        let mut lines: Vec<String> = listing.lines().map(str::to_owned).collect();
        lines.sort();
        let distinct: BTreeSet<_> = lines
            .iter()
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(
            distinct.len(),
            lines.len(),
            "each file has its own number: {lines:?}"
        );
        lines
    };
    let mount = case.mount(&server, "attr_timeout=0,dir_timeout=0");
    let first = inodes(&mount);
    assert_eq!(first.len(), 7);
    fs::write("/proc/sys/vm/drop_caches", "2").expect("make the kernel forget inodes");
    assert_eq!(inodes(&mount), first, "after the kernel forgot them");
    let mount = Mount::at(mount.unmount(), &server, &case.with_tls(""));
    assert_eq!(inodes(&mount), first, "after a remount");
}

fn large_file(case: Case) {
    let server = case.server();
    let large = tree::large();
    let origin = File::open(large.link_into(&server.root)).expect("open the original");
    let mount = case.mount(&server, "");
    let path = mount.path("large");
    let digest =
        within(Duration::from_secs(600), move || tree::digest(&path)).expect("read the large file");
    assert_eq!(digest, large.digest);

    // In a mount that has none of it in memory: 200 reads anywhere, and across the end.
    let mount = Mount::at(mount.unmount(), &server, &case.with_tls(""));
    let path = mount.path("large");
    let length = large.length;
    within(Duration::from_secs(300), move || {
        let file = File::open(path).expect("open the large file");
        let mut state = 42_u64;
        for _ in 0..200 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let offset = (state >> 16) % length;
            let wanted = 1 + (state >> 8) % 70_000;
            assert_same(&file, &origin, offset, wanted as usize);
        }
        assert_same(&file, &origin, length - 10, 100);
        assert_same(&file, &origin, length, 100);
        assert_same(&file, &origin, length + (1 << 40), 100);
    });
}

/// Both files give the same bytes there, and as many.
fn assert_same(file: &File, origin: &File, offset: u64, length: usize) {
    let read = |file: &File| {
        let mut buffer = vec![0; length];
        let mut done = 0;
        while done < length {
            match file
                .read_at(&mut buffer[done..], offset + done as u64)
                .expect("read at an offset")
            {
                0 => break,
                count => done += count,
            }
        }
        buffer.truncate(done);
        buffer
    };
    let (got, expected) = (read(file), read(origin));
    assert_eq!(got.len(), expected.len(), "{length} bytes at {offset}");
    assert!(got == expected, "wrong bytes among {length} at {offset}");
}

fn beyond_four_gibibytes(case: Case) {
    let server = case.server();
    let length = (5 << 30) + 12_345;
    tree::sparse(&server.root.join("sparse"), length);
    let origin = File::open(server.root.join("sparse")).expect("open the original");
    let mount = case.mount(&server, "");
    let path = mount.path("sparse");
    soon(move || {
        assert_eq!(path.metadata().expect("stat").len(), length);
        let file = File::open(path).expect("open");
        assert_same(&file, &origin, length - (1 << 20), (1 << 20) + 1);
        assert_same(&file, &origin, (4 << 30) - 5, 10);
        assert_same(&file, &origin, length - 1, 1);
        assert_same(&file, &origin, length, 1);
    });
}

fn small_and_empty_files(case: Case) {
    let server = case.server();
    // Around the sizes of pages, of TLS records and of the kernel's requests.
    let sizes = [
        0, 1, 4095, 4096, 4097, 16_383, 16_384, 16_385, 131_071, 131_072, 131_073, 1_048_577,
    ];
    for size in sizes {
        tree::fill(&server.root.join(size.to_string()), size, size);
    }
    let mount = case.mount(&server, "");
    for size in sizes {
        let path = mount.path(size.to_string());
        let content = soon(move || fs::read(path)).expect("read");
        assert!(
            content == tree::bytes(size, size as usize),
            "the file of {size} bytes"
        );
    }
}

fn eight_readers(case: Case) {
    let server = case.server();
    let length = 6 << 20;
    for reader in 0..8 {
        tree::fill(&server.root.join(format!("file{reader}")), reader, length);
    }
    tree::put(&server.root.join("other/file"), b"", Duration::ZERO);
    let mount = case.mount(&server, "max_sessions=4");
    let dir = mount.dir.clone();
    soon(move || {
        std::thread::scope(|scope| {
            for reader in 0..8 {
                let path = dir.join(format!("file{reader}"));
                scope.spawn(move || {
                    let mut file = File::open(path).expect("open");
                    let expected = tree::bytes(reader, length as usize);
                    // All eight are in the middle of their files together.
                    for chunk in expected.chunks(64 << 10) {
                        let mut got = vec![0; chunk.len()];
                        file.read_exact(&mut got).expect("read");
                        assert!(got == chunk, "reader {reader}");
                    }
                });
            }
            // Metadata is answered meanwhile.
            assert_eq!(fs::read_dir(dir.join("other")).expect("list").count(), 1);
        });
    });
}

fn readers_of_one_file(case: Case) {
    let server = case.server();
    let length = 24 << 20;
    tree::fill(&server.root.join("file"), 7, length);
    let mount = case.mount(&server, "");
    let path = mount.path("file");
    let expected = tree::bytes(7, length as usize);
    soon(move || {
        std::thread::scope(|scope| {
            for reader in 0..4 {
                let (path, expected) = (&path, &expected);
                scope.spawn(move || {
                    let file = File::open(path).expect("open");
                    let from = reader * 5 << 20;
                    let mut got = vec![0; expected.len() - from];
                    file.read_exact_at(&mut got, from as u64).expect("read");
                    assert!(got == expected[from..], "reader {reader}");
                });
            }
        });
    });
}

fn appended_data(case: Case) {
    let server = case.server();
    let log = server.root.join("log");
    tree::put(&log, b"first\n", Duration::from_secs(60));
    let mount = case.mount(&server, "attr_timeout=1,dir_timeout=1");
    let output = mount.place().beside("tail");
    let sink = File::create(&output).expect("make a file");
    let mut tail = Command::new("tail");
    tail.args(["-n", "+1", "-s", "0.2", "-f"])
        .arg(mount.path("log"))
        .stdout(sink)
        .stderr(Stdio::null());
    let mut tail = tail.spawn().expect("start tail");
    let shows = |text: &str| {
        wait_until(Duration::from_secs(20), || {
            fs::read_to_string(&output).is_ok_and(|shown| shown == text)
        })
    };
    let first = shows("first\n");
    let append = |text: &str| {
        let mut file = File::options()
            .append(true)
            .open(&log)
            .expect("open the server's file");
        file.write_all(text.as_bytes()).expect("append");
    };
    append("second\n");
    let second = shows("first\nsecond\n");
    append("third\n");
    let third = shows("first\nsecond\nthird\n");
    let _ = tail.kill();
    let _ = tail.wait();
    assert!(
        first && second && third,
        "tail shows {:?}",
        fs::read_to_string(&output)
    );
}

/// A reader who is in the middle of a file when another takes its name gets the old content or EIO, never some
/// of each; whoever opens it then gets the new.
fn replaced_file(case: Case) {
    let server = case.server();
    let length = 40 << 20;
    let path = server.root.join("file");
    tree::fill(&path, 1, length);
    tree::set_age(&path, Duration::from_secs(5000));
    let new = server.root.join("new");
    tree::fill(&new, 2, length + 1);
    let mount = case.mount(&server, "attr_timeout=1,dir_timeout=1,window=4M");
    let through = mount.path("file");
    let old = tree::bytes(1, length as usize);
    let mut reader = soon(move || {
        let mut file = File::open(through).expect("open");
        let mut start = vec![0; 1 << 20];
        file.read_exact(&mut start).expect("read the start");
        assert!(start == old[..1 << 20], "the start");
        (file, old)
    });
    fs::rename(&new, &path).expect("replace the file");
    std::thread::sleep(Duration::from_millis(2500));
    // Another process looks at it meanwhile, so the new size and time become known.
    let looked = mount.path("file");
    assert_eq!(
        soon(move || looked.metadata()).expect("stat").len(),
        length + 1
    );
    soon(move || {
        let (file, old) = &mut reader;
        let mut offset = 1 << 20;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer) {
                Err(error) => break assert_eq!(errno(&error), Errno::EIO),
                Ok(0) => break assert_eq!(offset, old.len(), "an end that is none"),
                Ok(count) => {
                    let expected = old.get(offset..offset + count);
                    assert!(
                        expected == Some(&buffer[..count]),
                        "bytes of another file at {offset}"
                    );
                    offset += count;
                }
            }
        }
    });
    let fresh = mount.path("file");
    let content = soon(move || fs::read(fresh)).expect("open it again");
    assert!(
        content == tree::bytes(2, length as usize + 1),
        "the new content, whole"
    );
}

fn ten_thousand_entries(case: Case) {
    let server = case.server();
    let folder = server.root.join("many");
    fs::create_dir(&folder).expect("make a folder");
    for index in 0..10_000 {
        File::create(folder.join(format!("entry number {index:05}"))).expect("make a file");
    }
    let mount = case.mount(&server, "");
    let started = Instant::now();
    let found = run_soon(
        Command::new("find")
            .arg(mount.path("many"))
            .args(["-type", "f", "-size", "0"]),
    )
    .text();
    assert_eq!(found.lines().count(), 10_000);
    let patience = Duration::from_secs(if case.kind.is_vsftpd() { 30 } else { 15 });
    assert!(
        started.elapsed() < patience,
        "find took {:?}",
        started.elapsed()
    );
    assert_eq!(names(&mount.path("many")), names(&folder));
}

/// A server that is alive but silent: every call ends, and nothing needs a remount when it speaks again.
fn stopped_server(case: Case) {
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
        Box::new(|dir| fs::read(dir.join("absent")).map(drop)),
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
    let content = soon(move || fs::read(long)).expect("read the long file");
    assert!(content == tree::bytes(3, length as usize), "the long file");
}

/// The server dies and comes back while a file is being read: the reader notices nothing but the time.
fn killed_server(case: Case) {
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

fn read_only(case: Case) {
    let server = case.server();
    tree::put(&server.root.join("file"), b"content", Duration::ZERO);
    let mount = case.mount(&server, "ro");
    let (file, new) = (mount.path("file"), mount.path("new"));
    let refused: Vec<(&str, io::Result<()>)> = soon(move || {
        vec![
            ("write", fs::write(&file, "other")),
            ("append", File::options().append(true).open(&file).map(drop)),
            ("create", File::create(&new).map(drop)),
            ("mkdir", fs::create_dir(&new)),
            ("symlink", symlink("file", &new)),
            ("rename", fs::rename(&file, &new)),
            ("unlink", fs::remove_file(&file)),
            (
                "chmod",
                fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)),
            ),
            ("utimens", nix_touch(&file)),
        ]
    });
    for (call, result) in refused {
        let error = result.expect_err(call);
        assert_eq!(errno(&error), Errno::EROFS, "{call}");
    }
    assert_eq!(
        fs::read(server.root.join("file")).expect("read the original"),
        b"content"
    );
}

fn nix_touch(path: &Path) -> io::Result<()> {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    let now = TimeSpec::from(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    );
    Ok(utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &now,
        &now,
        UtimensatFlags::FollowSymlink,
    )?)
}

fn free_space(case: Case) {
    let server = case.server();
    let mount = case.mount(&server, "");
    let shown = run_soon(
        Command::new("df")
            .args(["--output=size,avail,fstype"])
            .arg(&mount.dir),
    )
    .text();
    let fields: Vec<&str> = shown
        .lines()
        .nth(1)
        .expect("a line of df")
        .split_whitespace()
        .collect();
    assert!(
        fields[0].parse::<u64>().is_ok_and(|size| size > 0),
        "{shown}"
    );
    assert!(
        fields[1]
            .parse::<u64>()
            .is_ok_and(|available| available > 0),
        "{shown}"
    );
    assert_eq!(fields[2], "fuse.ftps");
}

fn ipv6(case: Case) {
    let server = RealServer::start(
        case.kind,
        Options {
            ipv6: true,
            ..Options::default()
        },
    );
    assert_reads(&server, &case.with_tls(""));
}

fn active_mode(case: Case) {
    assert_reads(&case.server(), &case.with_tls("active"));
}

fn one_session(case: Case) {
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

fn connection_cap(case: Case) {
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

fn names(dir: &Path) -> BTreeSet<OsString> {
    let dir = dir.to_owned();
    soon(move || {
        let entries = fs::read_dir(dir).expect("list");
        let entries: Vec<OsString> = entries
            .map(|entry| entry.expect("read an entry").file_name())
            .collect();
        let distinct: BTreeSet<OsString> = entries.iter().cloned().collect();
        assert_eq!(distinct.len(), entries.len(), "no name comes twice");
        distinct
    })
}

fn errno(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}
