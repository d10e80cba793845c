//! Names, links, times, inode numbers, and what a read-only mount refuses.

use super::{Case, errno, names};
use crate::common::command::{run_soon, soon};
use crate::common::mount::{Mount, Place};
use crate::common::server::{Kind, Options, RealServer, UID};
use crate::common::tree;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

pub fn odd_names(case: Case) {
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

/// A server of which nothing tells that its times are 5:30 ahead of UTC, but the user.
#[test]
fn a_server_that_tells_its_own_time() {
    let options = Options {
        local_time: true,
        ..Options::default()
    };
    let server = RealServer::start(Kind::VsftpdExplicit, options);
    let old = Duration::from_secs(2 * 86_400);
    tree::put(&server.root.join("file"), b"0123456789", old);
    tree::put(&server.root.join("dir/inside"), b"inside", old);
    let mount = Mount::new(&server, "time_offset=+05:30");
    let mut compare = Command::new("rsync");
    // In a mount everything belongs to who mounts.
    compare.args(["-nacO", "--no-owner", "--no-group", "--delete"]);
    compare.arg("--itemize-changes");
    compare.arg(server.root.join("")).arg(mount.dir.join(""));
    assert_eq!(run_soon(&mut compare).text(), "");
    std::os::unix::fs::chown(server.root.join("file"), Some(UID), Some(UID)).expect("give it");
    let mut touch = Command::new("touch");
    touch
        .args(["-d", "2020-02-02 02:02:02 UTC"])
        .arg(mount.path("file"));
    assert_eq!(run_soon(&mut touch).code(), 0);
    let (here, there) = (mount.path("file"), server.root.join("file"));
    let shown = soon(move || fs::metadata(here).map(|found| found.mtime()));
    assert_eq!(shown.expect("stat"), 1_580_608_922);
    assert_eq!(fs::metadata(there).expect("stat").mtime(), 1_580_608_922);
    // The rest of a file is fetched, and the new version sent, with its time.
    let mut overwrite = Command::new("sh");
    overwrite.args([
        "-c",
        "printf XY | dd of=\"$1\" bs=1 seek=3 conv=notrunc",
        "-",
    ]);
    assert_eq!(run_soon(overwrite.arg(mount.path("file"))).code(), 0);
    let now = SystemTime::now();
    assert_eq!(
        fs::read(server.root.join("file")).expect("read"),
        b"012XY56789"
    );
    let written = fs::metadata(server.root.join("file")).and_then(|found| found.modified());
    let age = now
        .duration_since(written.expect("stat"))
        .unwrap_or_default();
    assert!(age < Duration::from_secs(60), "{age:?}");
    // Without the word, its times are taken for UTC.
    drop(mount);
    let mount = Mount::new(&server, "");
    let here = mount.path("dir/inside");
    let shown = soon(move || fs::metadata(here).map(|found| found.mtime())).expect("stat");
    let true_time = fs::metadata(server.root.join("dir/inside"))
        .expect("stat")
        .mtime();
    assert_eq!(shown - true_time, 19_800);
}

pub fn symbolic_links(case: Case) {
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
    // ProFTPD's and pyftpdlib's MLSD show what a link points to in its place, Pure-FTPd's has no targets: they stand
    // in LIST.
    let mut links = vec!["to file", "to folder", "to inside", "absolute"];
    // ProFTPD lists no link that points nowhere, and LIST has none to the folder itself.
    if !case.kind.is_proftpd() {
        links.extend(["dangling", "to itself"]);
    }
    for link in links {
        assert!(is_link(link).expect("stat a link"), "{link}");
        let (through, here) = (mount.path(link), server.root.join(link));
        let target = soon(move || fs::read_link(through));
        let target = target.unwrap_or_else(|error| panic!("read the link {link}: {error}"));
        assert_eq!(target, fs::read_link(here).expect("read the server's link"));
    }
    let dangling = mount.path("dangling");
    let error = soon(move || fs::metadata(dangling)).expect_err("it points nowhere");
    assert_eq!(errno(&error), Errno::ENOENT);
    for (link, content) in [
        ("to file", "content"),
        ("to folder/inside", "inside"),
        ("to inside", "inside"),
    ] {
        assert_eq!(text(link), content);
    }
}

/// FTP ends its lines with CR LF, and has no way to write a name that has either.
pub fn line_feeds_in_names(case: Case) {
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

pub fn times(case: Case) {
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

pub fn inode_numbers(case: Case) {
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

pub fn ten_thousand_entries(case: Case) {
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

pub fn read_only(case: Case) {
    let server = case.server();
    tree::put(&server.root.join("file"), b"content", Duration::ZERO);
    fs::create_dir(server.root.join("folder")).expect("make a folder");
    let mount = case.mount(&server, "ro");
    let (file, new) = (mount.path("file"), mount.path("new"));
    let folder = mount.path("folder");
    let refused: Vec<(&str, io::Result<()>)> = soon(move || {
        vec![
            ("write", fs::write(&file, "other")),
            ("append", File::options().append(true).open(&file).map(drop)),
            ("create", File::create(&new).map(drop)),
            ("mkdir", fs::create_dir(&new)),
            ("symlink", symlink("file", &new)),
            ("rename", fs::rename(&file, &new)),
            ("unlink", fs::remove_file(&file)),
            ("rmdir", fs::remove_dir(&folder)),
            ("link", fs::hard_link(&file, &new)),
            (
                "mknod",
                nix::unistd::mkfifo(&new, nix::sys::stat::Mode::S_IRWXU).map_err(io::Error::from),
            ),
            (
                "truncate",
                nix::unistd::truncate(&file, 3).map_err(io::Error::from),
            ),
            ("chown", std::os::unix::fs::chown(&file, Some(1), Some(1))),
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

pub fn free_space(case: Case) {
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
