//! `writeback` and `hard` on real servers: what was promised arrives, whatever ends the mount, and who
//! waits for a dead server can be killed.

use crate::common::command::{run, run_soon, soon, within};
use crate::common::mount::Mount;
use crate::common::server::{Kind, RealServer};
use crate::common::{tree, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

macro_rules! on_each_server {
    ($($test:ident),* $(,)?) => {
        on_each_server!(@servers [$($test)*]
            vsftpd VsftpdExplicit, proftpd ProftpdExplicit, pure_ftpd PureFtpd, pyftpdlib PyftpdlibImplicit);
    };
    (@servers $tests:tt $($module:ident $kind:ident),*) => {
        $(mod $module { on_each_server!(@tests $kind $tests); })*
    };
    (@tests $kind:ident [$($test:ident)*]) => {
        $(#[test]
        fn $test() {
            crate::write_back::$test(crate::common::server::Kind::$kind);
        })*
    };
}

on_each_server! {
    umount_waits, a_killed_daemon_loses_nothing, a_new_mount_takes_over, an_outage_is_waited_out, hard,
}

fn mounted(kind: Kind, options: &str) -> (RealServer, Mount) {
    let server = RealServer::of(kind);
    let mount = Mount::new(&server, options);
    (server, mount)
}

/// Files of many sizes, some of them overwritten, renamed and removed: what is to be there in the end.
fn work(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let dir = dir.to_owned();
    soon(move || {
        let mut expected = Vec::new();
        fs::create_dir(dir.join("d")).expect("make a folder");
        for index in 0..24_u64 {
            let name = format!("d/f{index}");
            let bytes = tree::bytes(index, index as usize * 20_000);
            fs::write(dir.join(&name), &bytes).expect("write");
            expected.push((name, bytes));
        }
        for index in 0..8 {
            let (name, bytes) = &mut expected[index * 3];
            let mut file = File::options().append(true).open(dir.join(&name));
            let more = file.as_mut().map(|file| file.write_all(b"more"));
            more.expect("open").expect("append");
            bytes.extend_from_slice(b"more");
        }
        for index in [1, 4] {
            let renamed = format!("d/r{index}");
            fs::rename(dir.join(&expected[index].0), dir.join(&renamed)).expect("rename");
            expected[index].0 = renamed;
        }
        let (name, _) = expected.remove(7);
        fs::remove_file(dir.join(name)).expect("remove");
        fs::write(dir.join("d/f2"), "new").expect("write anew");
        expected[2].1 = b"new".to_vec();
        expected
    })
}

/// What is there and what is not: every file, and no other but ours in the making.
fn differences(root: &Path, expected: &[(String, Vec<u8>)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, bytes) in expected {
        if fs::read(root.join(name)).ok().as_ref() != Some(bytes) {
            wrong.push(name.clone());
        }
    }
    let entries = fs::read_dir(root.join("d")).into_iter().flatten().flatten();
    for entry in entries {
        let name = format!("d/{}", entry.file_name().to_string_lossy());
        if !expected.iter().any(|(known, _)| *known == name) {
            wrong.push(format!("+{name}"));
        }
    }
    wrong
}

/// Waits until the server has all.
fn expect(server: &RealServer, expected: &[(String, Vec<u8>)]) {
    let is_there = || differences(&server.root, expected).is_empty();
    assert!(
        wait_until(Duration::from_secs(60), is_there),
        "{:?}\n{}",
        differences(&server.root, expected),
        server.end_of_log()
    );
}

/// `ftpsfs umount`, which is what umount(8) calls: then everything is there.
fn umount_waits(kind: Kind) {
    let (server, mount) = mounted(kind, "writeback");
    let expected = work(&mount.dir);
    let place = mount.into_place();
    let unmounted = run(
        place.binary().arg("umount").arg(&place.dir),
        Duration::from_secs(60),
    );
    assert!(unmounted.status.success(), "umount: {}", unmounted.stderr);
    assert_eq!(differences(&server.root, &expected), [""; 0]);
    assert!(place.is_deserted());
}

/// SIGKILL, again and again, a moment after close(2) came back.
fn a_killed_daemon_loses_nothing(kind: Kind) {
    let (server, mount) = mounted(kind, "writeback");
    let mut expected = work(&mount.dir);
    let mut place = mount.into_place();
    for round in 0..4_u64 {
        kill(place.daemon(), Signal::SIGKILL).expect("kill the daemon");
        assert!(place.is_deserted());
        let mount = Mount::at(place, &server, "writeback");
        let (path, bytes) = (mount.path("d/last"), tree::bytes(round, 300_000));
        let content = bytes.clone();
        soon(move || fs::write(path, content)).expect("write");
        // What was promised before is seen at once, though the server may not have it yet.
        let (path, first) = (
            mount.path("d/f5"),
            expected.iter().position(|(n, _)| n == "d/f5"),
        );
        let read = soon(move || fs::read(path)).expect("read");
        assert!(read == expected[first.expect("it is expected")].1);
        expected.retain(|(name, _)| name != "d/last");
        expected.push(("d/last".to_owned(), bytes));
        place = mount.into_place();
    }
    kill(place.daemon(), Signal::SIGKILL).expect("kill the daemon");
    assert!(place.is_deserted());
    let mount = Mount::at(place, &server, "writeback");
    expect(&server, &expected);
    drop(mount);
    assert_eq!(differences(&server.root, &expected), [""; 0]);
}

/// Out of sight, the daemon goes on; the next mount takes over from it.
fn a_new_mount_takes_over(kind: Kind) {
    let (server, mount) = mounted(kind, "writeback");
    server.pause();
    let (path, bytes) = (mount.path("file"), tree::bytes(3, 2_000_000));
    let content = bytes.clone();
    // To look for the name it has to be asked.
    let writer = std::thread::spawn(move || fs::write(path, content));
    std::thread::sleep(Duration::from_millis(200));
    server.resume();
    within(Duration::from_secs(30), move || writer.join())
        .expect("the writer returns")
        .expect("write");
    server.pause();
    let place = mount.into_place();
    let lazily = run_soon(Command::new("umount").arg("-l").arg(&place.dir));
    assert!(lazily.status.success(), "{}", lazily.stderr);
    let before = place.daemon();
    server.resume();
    let mount = Mount::at(place, &server, "writeback");
    let path = mount.path("file");
    assert!(soon(move || fs::read(path)).expect("read") == bytes);
    assert_ne!(mount.place().daemon(), before);
    drop(mount);
    assert!(fs::read(server.root.join("file")).expect("read there") == bytes);
}

/// The server is gone while files are closed, and comes back.
fn an_outage_is_waited_out(kind: Kind) {
    let (mut server, mount) = mounted(kind, "writeback,timeout=5");
    let expected = work(&mount.dir);
    expect(&server, &expected);
    let mut files: Vec<File> = (0..4)
        .map(|index| {
            let path = mount.path(format!("d/f{}", index * 3));
            soon(move || File::options().append(true).open(path)).expect("open")
        })
        .collect();
    server.kill();
    let begun = Instant::now();
    let files = within(Duration::from_secs(20), move || {
        for file in &mut files {
            file.write_all(b"late").expect("append");
        }
        files
    });
    within(Duration::from_secs(20), move || drop(files));
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    server.restart();
    let mut expected = expected;
    for (name, bytes) in &mut expected {
        if ["d/f0", "d/f3", "d/f6", "d/f9"].contains(&&name[..]) {
            bytes.extend_from_slice(b"late");
        }
    }
    expect(&server, &expected);
}

/// Who waits for a dead server can be killed, and goes on when it is back.
fn hard(kind: Kind) {
    let mut server = RealServer::of(kind);
    tree::put(&server.root.join("file"), b"content", Duration::ZERO);
    let mount = Mount::new(&server, "hard,timeout=2");
    server.kill();
    let cat = || {
        let mut cat = Command::new("cat");
        cat.arg(mount.path("file"));
        cat.stdout(std::process::Stdio::piped());
        cat.spawn().expect("start cat")
    };
    let (mut killed, patient) = (cat(), cat());
    std::thread::sleep(Duration::from_secs(6));
    assert!(killed.try_wait().expect("look").is_none(), "it waits");
    let begun = Instant::now();
    kill(Pid::from_raw(killed.id() as i32), Signal::SIGKILL).expect("kill it");
    within(Duration::from_secs(10), move || killed.wait()).expect("it dies");
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    server.restart();
    let output = within(Duration::from_secs(30), move || patient.wait_with_output());
    let output = output.expect("it ends");
    assert!(output.status.success());
    assert_eq!(output.stdout, b"content");
}
