//! What happens to machines and servers over the months: a machine sleeps, a server gets another
//! certificate or address, or hangs while somebody wants to be rid of it.

use crate::common::command::{run, soon, wait, within};
use crate::common::enclosure::apart;
use crate::common::mount::{Mount, Place};
use crate::common::server::{Kind, Options, RealServer, UID};
use crate::common::{tree, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn server_with_file(kind: Kind, options: Options) -> RealServer {
    let server = RealServer::start(kind, options);
    tree::put(&server.root.join("file"), b"content", Duration::ZERO);
    server
}

/// Reads, writes and lists, by programs that have not asked before.
fn assert_works(dir: &Path, round: &str) {
    let (dir, round) = (dir.to_owned(), round.to_owned());
    within(Duration::from_secs(20), move || {
        assert_eq!(fs::read(dir.join("file")).expect("read"), b"content");
        fs::write(dir.join(&round), &round).expect("write");
        assert_eq!(
            fs::read_to_string(dir.join(&round)).expect("read back"),
            round
        );
        let names = fs::read_dir(&dir).expect("list").flatten();
        assert!(
            names
                .map(|entry| entry.file_name())
                .any(|name| *name == *round)
        );
    });
}

/// A machine that sleeps notices nothing of what becomes of its connections.
#[test]
fn the_machine_slept_while_its_connections_were_cut() {
    for kind in [
        Kind::VsftpdImplicit,
        Kind::ProftpdExplicit,
        Kind::PureFtpd,
        Kind::Pyftpdlib,
    ] {
        let mut server = server_with_file(kind, Options::default());
        let mount = Mount::new(&server, "attr_timeout=0,dir_timeout=0");
        assert_works(&mount.dir, "before");
        let daemon = mount.place().daemon();
        kill(daemon, Signal::SIGSTOP).expect("stop the daemon");
        server.restart();
        kill(daemon, Signal::SIGCONT).expect("let it go on");
        assert_works(&mount.dir, "after");
    }
}

#[test]
fn the_machine_slept_for_longer_than_the_server_bears_silence() {
    let options = Options {
        idle: 2,
        ..Options::default()
    };
    let server = server_with_file(Kind::VsftpdExplicit, options);
    let mount = Mount::new(&server, "attr_timeout=0,dir_timeout=0");
    assert_works(&mount.dir, "before");
    let daemon = mount.place().daemon();
    kill(daemon, Signal::SIGSTOP).expect("stop the daemon");
    let gone = wait_until(Duration::from_secs(30), || {
        server.log().contains("Control connection terminated")
    });
    assert!(gone, "{}", server.end_of_log());
    kill(daemon, Signal::SIGCONT).expect("let it go on");
    assert_works(&mount.dir, "after");
}

#[test]
fn a_renewed_certificate_is_taken_and_a_replaced_one_refused() {
    for kind in [Kind::ProftpdExplicit, Kind::VsftpdImplicit, Kind::Pyftpdlib] {
        let mut server = server_with_file(kind, Options::default());
        // To wait for another's server would be no help: it is refused under `hard` as well.
        let hard = match kind {
            Kind::Pyftpdlib => ",hard",
            _ => "",
        };
        let options = format!("timeout=5,attr_timeout=0,dir_timeout=0{hard}");
        let (mount, log) = Mount::logged(&server, &options);
        assert_works(&mount.dir, "before");
        server.options.certificate = "renewed";
        server.restart();
        assert_works(&mount.dir, "renewed");

        server.options.certificate = "foreign";
        server.restart();
        let file = mount.path("file");
        let begun = Instant::now();
        let refused = soon(move || fs::read(file)).expect_err("a server that is another's");
        assert_eq!(refused.raw_os_error(), Some(libc::EIO), "{refused}");
        assert!(
            begun.elapsed() < Duration::from_secs(12),
            "{:?}",
            begun.elapsed()
        );
        let said = fs::read_to_string(&log).expect("read the log");
        assert!(
            said.contains("the server's certificate is refused"),
            "{said}"
        );
        let before = server.log().matches("PASS").count();
        let dir = mount.dir.clone();
        let listed = soon(move || fs::read_dir(dir).map(Iterator::count));
        assert!(listed.is_err(), "{listed:?}");
        let passed = server.log().matches("PASS").count();
        assert_eq!(passed, before, "the password goes to nobody else");

        server.options.certificate = "server";
        server.restart();
        assert_works(&mount.dir, "back");
    }
}

/// The name means another address now, as after a move or on a laptop that changed networks.
#[test]
fn the_servers_address_changed() {
    let mut server = server_with_file(Kind::PureFtpd, Options::default());
    let place = Place::new();
    let hosts = place.write_private("hosts", "127.0.0.1 ftp.test\n");
    let options = place.options(&server, "tls_name=localhost,attr_timeout=0,dir_timeout=0");
    let script = "
        mount --bind \"$1/hosts\" /etc/hosts
        \"$1/mount.ftps\" ftp.test:/ \"$2\" -o \"$3\"
        cat \"$2/file\"
        : > \"$1/mounted\"
        while [ ! -e \"$1/moved\" ]; do sleep 0.1; done
        cat \"$2/file\"
        echo new > \"$2/new\"
        umount \"$2\"";
    let mut command = place.marked(apart("sh"));
    command.args(["-ec", script, "sh"]).arg(place.beside(""));
    command.arg(&place.dir).arg(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let program = command.spawn().expect("start a shell");
    let mounted = place.beside("mounted");
    assert!(wait_until(Duration::from_secs(30), || mounted.exists()));
    // Nobody listens on the old address any more.
    server.options.ipv6 = true;
    server.restart();
    fs::write(hosts, "::1 ftp.test\n").expect("write the hosts");
    fs::write(place.beside("moved"), "").expect("tell the shell");
    let done = within(Duration::from_secs(60), move || program.wait_with_output());
    let done = done.expect("wait for the shell");
    assert!(done.status.success(), "{:?}", done.status);
    assert_eq!(done.stdout, b"contentcontent");
    assert_eq!(fs::read(server.root.join("new")).expect("read"), b"new\n");
    assert!(place.is_deserted(), "left behind: {:?}", place.processes());
}

/// Who wants to be rid of a mount need not wait for a server that hangs.
#[test]
fn umount_by_force_while_requests_hang() {
    for extra in ["", ",writeback", ",hard"] {
        let server = server_with_file(Kind::VsftpdExplicit, Options::default());
        tree::fill(&server.root.join("long"), 1, 20 << 20);
        tree::put(&server.root.join("folder/file"), b"", Duration::ZERO);
        let options = format!("timeout=60,window=2M,attr_timeout=0,dir_timeout=0{extra}");
        let place = Mount::new(&server, &options).into_place();
        server.pause();
        let start = |program: &str, argument: PathBuf| {
            let mut command = Command::new(program);
            command.arg(argument).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("start a program")
        };
        let mut programs = [
            start("cat", place.dir.join("long")),
            start("touch", place.dir.join("new")),
            // Not the mount point: that is there afterwards too.
            start("ls", place.dir.join("folder")),
        ];
        std::thread::sleep(Duration::from_secs(1));
        for program in &mut programs {
            let ended = program.try_wait().expect("ask");
            assert_eq!(ended, None, "it waits for the server");
        }
        let begun = Instant::now();
        let mut umount = place.binary();
        umount.arg("umount").arg("--force").arg(&place.dir);
        let unmounted = run(&mut umount, Duration::from_secs(20));
        assert!(unmounted.status.success(), "{extra}: {}", unmounted.stderr);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3), "{extra}: {took:?}");
        for (index, program) in programs.iter_mut().enumerate() {
            let ended = wait(program, Duration::from_secs(5)).expect("it ends");
            assert!(!ended.success(), "{extra}: program {index} was not told");
        }
        assert_eq!(place.mountinfo(), [""; 0]);
        assert!(
            place.is_deserted(),
            "{extra}: left behind: {:?}",
            place.processes()
        );
    }
}

/// A server that hangs or is gone costs its first callers their timeout, and the others nothing.
#[test]
fn calls_fail_fast_while_the_server_is_known_to_be_down() {
    for hangs in [false, true] {
        let mut server = server_with_file(Kind::PureFtpd, Options::default());
        let options = "timeout=2,attr_timeout=0,dir_timeout=0,negative_timeout=0";
        let mount = Mount::new(&server, options);
        assert_works(&mount.dir, "before");
        match hangs {
            true => server.pause(),
            false => server.kill(),
        }
        let call = |number: u32| {
            let (file, begun) = (mount.path(format!("file{number}")), Instant::now());
            let told = soon(move || fs::metadata(file)).expect_err("the server is down");
            assert_ne!(told.kind(), std::io::ErrorKind::NotFound, "{told}");
            begun.elapsed()
        };
        // It is known to be down once it has been so for twice as long as connecting may take.
        let mut number = 0;
        let is_known = wait_until(Duration::from_secs(20), || {
            number += 1;
            call(number) < Duration::from_millis(800)
        });
        assert!(is_known, "{hangs}");
        let begun = Instant::now();
        for number in 100..120 {
            let took = call(number);
            assert!(took < Duration::from_millis(1500), "{hangs}: {took:?}");
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(8), "{hangs}: {took:?}");
        match hangs {
            true => server.resume(),
            false => server.restart(),
        }
        let file = mount.path("file");
        let works = wait_until(Duration::from_secs(8), || {
            let file = file.clone();
            soon(move || fs::read(file)).is_ok_and(|content| content == b"content")
        });
        assert!(works, "{hangs}: it is back");
    }
}

/// Whoever waits for a dead server dies within two seconds of SIGKILL, wherever it waits. Each in a
/// folder of its own, and on names that are known: who looks for one may be alone in waiting for that.
#[test]
fn everybody_who_waits_can_be_killed() {
    let scripts = [
        "cat file",
        "mkdir new",
        "rmdir sub",
        "rm file",
        "mv file other",
        "chmod 600 file",
        "truncate -s 3 file",
        "touch -d 2001-01-01 file",
        "stat unknown/x",
        "cp file copy",
        "echo new > new",
        "echo more >> file",
        "head -c 64M /dev/zero > new",
        "dd if=/dev/zero of=file conv=notrunc,fsync count=1",
    ];
    for extra in ["", ",hard"] {
        // vsftpd would never again begin a transfer on a session whose processes were stopped.
        let server = RealServer::of(Kind::Pyftpdlib);
        for number in 0..scripts.len() {
            let folder = server.root.join(number.to_string());
            tree::put(&folder.join("file"), b"content", Duration::ZERO);
            fs::create_dir_all(folder.join("sub")).expect("make a folder");
            // What nobody has looked into yet.
            fs::create_dir_all(folder.join("unknown")).expect("make a folder");
            for path in ["", "file", "sub", "unknown"] {
                chown(folder.join(path), Some(UID), Some(UID)).expect("the tests run as root");
            }
        }
        let options = format!("timeout=60,attr_timeout=300,dir_timeout=300{extra}");
        let mount = Mount::new(&server, &options);
        let mut programs: Vec<_> = (scripts.iter().enumerate())
            .map(|(number, script)| {
                let mut command = Command::new("bash");
                let script = format!("ls -l; echo known; read; exec 2>/dev/null; {script}; exit 3");
                command.args(["-c", &script]);
                command.current_dir(mount.path(number.to_string()));
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
                let mut program = command.spawn().expect("start a shell");
                let said = BufReader::new(program.stdout.as_mut().expect("its output"));
                let mut lines = said.lines().map_while(Result::ok);
                assert!(lines.any(|line| line == "known"));
                program
            })
            .collect();
        server.pause();
        for program in &mut programs {
            let mut go = program.stdin.take().expect("its input");
            go.write_all(b"go\n").expect("tell it to go on");
        }
        std::thread::sleep(Duration::from_secs(2));
        // What the shell has begun waits, and not the shell.
        for (program, script) in programs.iter_mut().zip(scripts) {
            let ended = program.try_wait().expect("ask");
            assert_eq!(ended, None, "{script}{extra}: it waits for the server");
            let children = format!("/proc/{0}/task/{0}/children", program.id());
            let children = fs::read_to_string(children).expect("its children");
            let waiting = children
                .split_whitespace()
                .next()
                .map_or(program.id(), |child| child.parse().expect("a number"));
            let begun = Instant::now();
            let waiting = Pid::from_raw(waiting as i32);
            kill(waiting, Signal::SIGKILL).expect("kill it");
            let ended = wait(program, Duration::from_secs(2));
            assert!(
                ended.is_some(),
                "{script}{extra}: {:?} after SIGKILL",
                begun.elapsed()
            );
        }
        server.resume();
        let file = mount.path("0/file");
        assert_eq!(soon(move || fs::read(file)).expect("read"), b"content");
        // What they wrote before they were killed goes there.
        let place = mount.into_place();
        let mut umount = place.binary();
        umount.arg("umount").arg(&place.dir);
        let unmounted = run(&mut umount, Duration::from_secs(60));
        assert!(unmounted.status.success(), "{extra}: {}", unmounted.stderr);
        assert!(place.is_deserted(), "left behind: {:?}", place.processes());
    }
}
