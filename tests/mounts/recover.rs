//! What a crash or a refusal leaves: it is on the server after the next mount, or `ftpsfs recover`
//! brings every byte back.

use crate::common::command::{Finished, run_soon, soon, wait, within};
use crate::common::mount::{Mount, Place};
use crate::common::server::{Kind, RealServer, UID};
use crate::common::{tree, wait_until};
use ftpsfs::fs::spool::Inspection;
use nix::sys::signal::{Signal, kill};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

macro_rules! on_every_server {
    ($($test:ident),* $(,)?) => {
        on_every_server!(@servers [$($test)*]
            vsftpd VsftpdExplicit, vsftpd_implicit VsftpdImplicit, proftpd ProftpdExplicit,
            proftpd_implicit ProftpdImplicit, pure_ftpd PureFtpd, pyftpdlib Pyftpdlib,
            pyftpdlib_implicit PyftpdlibImplicit);
    };
    (@servers $tests:tt $($module:ident $kind:ident),*) => {
        $(mod $module { on_every_server!(@tests $kind $tests); })*
    };
    (@tests $kind:ident [$($test:ident)*]) => {
        $(#[test]
        fn $test() {
            crate::recover::$test(crate::common::server::Kind::$kind);
        })*
    };
}

on_every_server! {
    every_byte_comes_back, a_crash_while_uploading, a_crash_while_appending, leftovers,
}

/// `ftpsfs recover ARGUMENTS` on the spools of a place.
fn recover(place: &Place, arguments: &[&str]) -> Finished {
    let mut command = place.binary();
    command
        .arg("recover")
        .arg("--state-dir")
        .arg(place.beside("state"));
    run_soon(command.args(arguments))
}

/// `ftpsfs recover send -o OPTIONS SOURCE ARGUMENTS`.
fn send(place: &Place, server: &RealServer, arguments: &[&str]) -> Finished {
    let mut command = place.binary();
    command.args(["recover", "send", "-o"]);
    command.arg(place.options(server, "timeout=10"));
    command.arg(server.source()).args(arguments);
    run_soon(&mut command)
}

/// What a command says that fails with this exit code.
fn refusal(finished: Finished, code: i32) -> String {
    assert_eq!(finished.code(), code, "{}", finished.stderr);
    finished.stderr
}

/// The ID in the line of the list that holds `text`.
fn id_of(place: &Place, text: &str) -> String {
    let list = recover(place, &[]).text();
    let line = list.lines().find(|line| line.contains(text));
    let line = line.unwrap_or_else(|| panic!("{text} is not in:\n{list}"));
    line.split_whitespace().next().expect("an ID").to_owned()
}

/// Ends the daemon as a crash would.
fn crash(mount: Mount) -> Place {
    let place = mount.into_place();
    kill(place.daemon(), Signal::SIGKILL).expect("kill the daemon");
    assert!(place.is_deserted());
    place
}

/// A file of the server's user.
fn put(path: &Path, bytes: &[u8]) {
    tree::put(path, bytes, Duration::from_secs(86_400));
    for path in [path, path.parent().expect("a folder")] {
        chown(path, Some(UID), Some(UID)).expect("the tests run as root");
    }
}

fn every_byte_comes_back(kind: Kind) {
    let mut server = RealServer::of(kind);
    let (new, old, end) = (
        tree::bytes(1, 3_000_000),
        tree::bytes(2, 200_000),
        tree::bytes(3, 70_000),
    );
    for name in ["log", "changed", "rewritten", "closed/file"] {
        put(&server.root.join(name), &old);
    }
    let mount = Mount::new(&server, "timeout=3");
    let (dir, root) = (mount.dir.clone(), server.root.clone());
    // The server lets nobody write there any more.
    soon({
        let (dir, old) = (dir.clone(), old.clone());
        move || {
            let file = File::options()
                .read(true)
                .write(true)
                .open(dir.join("closed/file"));
            let file = file.expect("open");
            file.write_all_at(b"refused", 100).expect("write");
            let closed = |path: &Path, mode| {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
            };
            closed(&root.join("closed/file"), 0o444);
            closed(&root.join("closed"), 0o555);
            assert!(file.sync_all().is_err(), "nobody may write there");
            drop(file);
            assert_eq!(fs::read(root.join("closed/file")).expect("read there"), old);
        }
    });
    let holder = mount.place().daemon();
    let list = recover(mount.place(), &["list"]).text();
    assert!(
        list.contains(&format!("in use by process {holder}")),
        "{list}"
    );
    assert!(
        list.contains("/closed/file") && list.contains("200000"),
        "{list}"
    );
    assert!(
        list.contains("550") || list.contains("553"),
        "the server's words: {list}"
    );
    let refused = refusal(send(mount.place(), &server, &[]), 32);
    assert!(
        refused.contains(&format!("in use by process {holder}")),
        "{refused}"
    );
    // The server dies under files that are being written.
    let names = ["new", "log", "changed", "rewritten"];
    let files: Vec<_> = names.iter().map(|name| dir.join(name)).collect();
    let (bytes, new_bytes, end_bytes) = (new.clone(), new.clone(), end.clone());
    let mut files = soon(move || {
        let open = |path| File::options().append(true).create(true).open(path);
        let mut files: Vec<_> = files
            .into_iter()
            .map(|path| open(path).expect("open"))
            .collect();
        files[0].write_all(&bytes[..1_000_000]).expect("write");
        files[3].set_len(0).expect("cut");
        files
    });
    server.kill();
    within(Duration::from_secs(120), move || {
        files[0].write_all(&new_bytes[1_000_000..]).expect("write");
        files[1].write_all(&end_bytes).expect("write");
        files[2].write_all(&end_bytes).expect("write");
        files[3].write_all(&end_bytes).expect("write");
        for file in &files {
            assert!(file.sync_all().is_err(), "the server is dead");
        }
    });
    let place = crash(mount);
    let target = |name: &str| place.beside(name).display().to_string();
    let ids = ["/new:", "/log:", "/changed:", "/rewritten:"].map(|name| id_of(&place, name));
    // All of it is here, or the rest is not.
    recover(&place, &["save", &ids[0], &target("new")]).text();
    assert!(fs::read(place.beside("new")).expect("read") == new);
    let again = refusal(recover(&place, &["save", "/new", &target("new")]), 1);
    assert!(again.contains("exists already"), "{again}");
    let lacking = refusal(recover(&place, &["save", "/log", &target("sparse")]), 32);
    assert!(
        lacking.contains("only the server has bytes 0 to 200000"),
        "{lacking}"
    );
    let sparse = fs::read(place.beside("sparse")).expect("read");
    assert!(sparse == [vec![0; old.len()], end.clone()].concat());
    server.restart();
    let options = place.options(&server, "");
    let mut whole = place.binary();
    whole
        .args(["recover", "save", "--source", &server.source(), "-o"])
        .arg(options);
    run_soon(whole.args(["/log", &target("log")])).text();
    assert!(fs::read(place.beside("log")).expect("read") == [old.clone(), end.clone()].concat());
    // What others changed meanwhile is not overwritten; everything else goes.
    let theirs = tree::bytes(4, 250_000);
    for name in ["changed", "rewritten"] {
        fs::write(server.root.join(name), &theirs).expect("write there");
    }
    let mode = |path: &str, mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(server.root.join(path), permissions).expect("chmod");
    };
    mode("closed", 0o755);
    mode("closed/file", 0o644);
    let sent = send(&place, &server, &[]);
    assert_eq!(sent.code(), 32, "{}", sent.stderr);
    for name in ["/changed", "/rewritten"] {
        assert!(
            sent.stderr.contains(&format!("{name} stays")),
            "{}",
            sent.stderr
        );
    }
    assert!(
        sent.stderr.contains("changed on the server since"),
        "{}",
        sent.stderr
    );
    let there = |name: &str| fs::read(server.root.join(name)).expect("read there");
    assert!(there("new") == new);
    assert!(there("log") == [old.clone(), end.clone()].concat());
    let mut refused = old.clone();
    refused[100..107].copy_from_slice(b"refused");
    assert!(there("closed/file") == refused);
    assert!(there("changed") == theirs && there("rewritten") == theirs);
    send(&place, &server, &["--force", &ids[3]]).text();
    assert!(there("rewritten") == end);
    let forced = refusal(send(&place, &server, &["--force", &ids[2]]), 32);
    assert!(
        forced.contains("/changed stays"),
        "its beginning is gone: {forced}"
    );
    assert!(there("changed") == theirs, "never a mix of two files");
    let asked = refusal(recover(&place, &["discard", &ids[2]]), 1);
    assert!(asked.contains("--yes"), "{asked}");
    recover(&place, &["discard", "--yes", &ids[2]]).text();
    assert!(recover(&place, &[]).text().contains("nothing is kept"));
    let unknown = refusal(recover(&place, &["save", &ids[2], &target("x")]), 1);
    assert!(
        unknown.contains("nothing of that name is kept"),
        "{unknown}"
    );
    // What broken uploads left there goes when the next mount sees it.
    let mount = Mount::at(place, &server, "");
    let path = mount.dir.clone();
    assert_eq!(soon(move || fs::read_dir(path).expect("list").count()), 5);
    let left = || fs::read_dir(&server.root).expect("list").count() - 5;
    assert!(wait_until(Duration::from_secs(20), || left() == 0));
}

/// Has a shell command write `$1`, which holds `bytes`, to `file` in the mount, and ends the daemon
/// once `begun` says that the upload is under way. In a process of its own: where ours forks, the
/// kernel flushes what it has open.
fn crash_amid(mount: Mount, bytes: &[u8], command: &str, begun: impl Fn() -> bool) -> Place {
    let local = tempfile::NamedTempFile::new().expect("make a file");
    fs::write(local.path(), bytes).expect("write it");
    let mut writer = Command::new("sh");
    writer.args(["-c", command, "sh"]).arg(local.path());
    writer.current_dir(&mount.dir).stderr(Stdio::null());
    let daemon = mount.place().daemon();
    let started = Instant::now();
    let mut writer = writer.spawn().expect("start a shell");
    while !begun() {
        assert!(started.elapsed() < Duration::from_secs(60), "it begins");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(daemon, Signal::SIGKILL).expect("kill the daemon");
    let place = mount.into_place();
    // A process that waits for the disk takes its time to die.
    assert!(wait_until(Duration::from_secs(60), || place
        .processes()
        .is_empty()));
    wait(&mut writer, Duration::from_secs(60)).expect("it ends with the mount");
    place
}

/// Whether that was in the middle of it: if not, the test tries again.
const ATTEMPTS: usize = 12;

fn a_crash_while_uploading(kind: Kind) {
    let server = RealServer::of(kind);
    let bytes = tree::bytes(11, 48 << 20);
    // Not from front to back: such a file is not sent before it is closed.
    let write = "python3 -c \"import os, sys
b = open(sys.argv[1], 'rb').read()
f = os.open('file', os.O_WRONLY | os.O_CREAT)
os.pwrite(f, b[1 << 20:], 1 << 20)
os.pwrite(f, b[:1 << 20], 0)\" $1";
    let mut place = Place::new();
    for _ in 0..ATTEMPTS {
        let mount = Mount::at(place, &server, "");
        place = crash_amid(mount, &bytes, write, || {
            let entries = fs::read_dir(&server.root).expect("list").flatten();
            let mut lengths = entries.map(|e| e.metadata().map_or(0, |m| m.len()));
            lengths.any(|length| length > 0)
        });
        let hit = !server.root.join("file").exists();
        let mount = Mount::at(place, &server, "");
        let done = || fs::read(server.root.join("file")).is_ok_and(|found| found == bytes);
        let came = wait_until(Duration::from_secs(120), done);
        place = mount.unmount();
        let (list, log) = (recover(&place, &[]).text(), server.end_of_log());
        assert!(came, "in time: {list}{log}");
        assert!(list.contains("nothing is kept"), "{list}");
        assert_eq!(fs::read_dir(&server.root).expect("list").count(), 1);
        fs::remove_file(server.root.join("file")).expect("remove");
        if hit {
            return;
        }
    }
    panic!("no crash came before the upload was done");
}

fn a_crash_while_appending(kind: Kind) {
    let server = RealServer::of(kind);
    let all = tree::bytes(12, 64 << 20);
    let (old, end) = all.split_at(1 << 20);
    let length = || fs::metadata(server.root.join("file")).map_or(0, |found| found.len());
    let mut place = Place::new();
    for _ in 0..ATTEMPTS {
        put(&server.root.join("file"), old);
        let mount = Mount::at(place, &server, "");
        place = crash_amid(mount, end, "cat $1 >> file", || length() > 1 << 20);
        let hit = length();
        let mount = Mount::at(place, &server, "");
        let came = wait_until(Duration::from_secs(60), || length() >= all.len() as u64);
        place = mount.unmount();
        let (list, log) = (recover(&place, &[]).text(), server.end_of_log());
        assert!(came, "in time ({hit}, {}): {list}{log}", length());
        let found = fs::read(server.root.join("file")).expect("read there");
        assert!(found == all, "hit at {hit}, now {}", length());
        assert!(list.contains("nothing is kept"), "{list}");
        if hit < all.len() as u64 {
            return;
        }
    }
    panic!("no crash came before the upload was done");
}

/// Temporary files that nobody needs any more; those of other mounts only after a day.
fn leftovers(kind: Kind) {
    const DAY: Duration = Duration::from_secs(86_400);
    let server = RealServer::of(kind);
    let mount = Mount::new(&server, "dir_timeout=0,attr_timeout=0");
    let spools = Inspection::all(&mount.place().beside("state")).expect("look");
    let id = spools[0].1.as_ref().expect("a spool").id;
    let name = |id: u64, age: Duration| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock");
        format!(".ftpsfs-{id:016x}-{:x}-1", (now - age).as_secs())
    };
    let leave = |folder: &str, name: &str, age: Duration| {
        let path = server.root.join(folder).join(name);
        put(&path, b"left");
        tree::set_age(&path, age);
    };
    let kept = [name(id ^ 1, Duration::ZERO), name(id ^ 2, DAY * 2)];
    for folder in ["a", "b"] {
        leave(folder, &name(id, Duration::ZERO), Duration::ZERO);
        leave(folder, &name(id ^ 3, DAY * 2), DAY * 2);
    }
    leave("a", &kept[0], DAY * 2);
    leave("a", &kept[1], DAY / 2);
    let list = |name: &'static str| {
        let path = mount.path(name);
        soon(move || fs::read_dir(path).expect("list").count())
    };
    let there = |folder: &str| {
        let entries = fs::read_dir(server.root.join(folder)).expect("list there");
        let mut names: Vec<_> = entries
            .map(|e| {
                e.expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        names.sort();
        names
    };
    assert_eq!(list("a"), 0, "never shown");
    let mut expected = kept.to_vec();
    expected.sort();
    assert!(
        wait_until(Duration::from_secs(10), || there("a") == expected),
        "{:?}",
        there("a")
    );
    let path = mount.path("a");
    let removed = soon(move || fs::remove_dir(path)).map_err(|error| error.raw_os_error());
    assert_eq!(removed, Err(Some(libc::ENOTEMPTY)));
    let path = mount.path("b");
    soon(move || fs::remove_dir(path)).expect("remove it with all that is left there");
    // What is open outlives its name, and its directory.
    let bytes = tree::bytes(7, 2 << 20);
    put(&server.root.join("c/open"), &bytes);
    let path = mount.path("c");
    soon(move || {
        let open = File::open(path.join("open")).expect("open");
        fs::remove_file(path.join("open")).expect("unlink");
        for _ in 0..3 {
            assert_eq!(fs::read_dir(&path).expect("list").count(), 0);
            std::thread::sleep(Duration::from_millis(100));
        }
        fs::remove_dir(&path).expect("remove the directory");
        let mut read = vec![0; bytes.len()];
        open.read_exact_at(&mut read, 0).expect("read");
        assert!(read == bytes);
    });
    // Where another test starts a program just now, that holds what is open here for a while.
    assert!(
        wait_until(Duration::from_secs(60), || there("") == ["a"]),
        "{:?}\n{}",
        there(""),
        server.end_of_log()
    );
    // A mount that dies leaves such a file; the next one knows it for its own.
    put(&server.root.join("open"), &tree::bytes(8, 2 << 20));
    let path = mount.path("open");
    let _open = soon(move || {
        let open = File::open(&path).expect("open");
        fs::remove_file(&path).expect("unlink");
        open
    });
    assert_eq!(there("").len(), 2);
    let mount = Mount::at(crash(mount), &server, "");
    let path = mount.dir.clone();
    assert_eq!(soon(move || fs::read_dir(path).expect("list").count()), 1);
    assert!(
        wait_until(Duration::from_secs(60), || there("") == ["a"]),
        "{:?}\n{}",
        there(""),
        server.end_of_log()
    );
}
