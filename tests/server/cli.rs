//! `ftpsfs serve` as a program: what it prints is true, and it ends when told to.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use ftpsfs::tls::{Fingerprint, Stream, Trust, TrustOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::soon;

fn serve() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftpsfs"));
    command
        .arg("serve")
        .env_remove("FTPSFS_PASSWORD")
        .stdin(Stdio::null());
    command
}

#[test]
fn what_serve_prints_is_what_a_client_needs() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, scheme, signal) in [
        (&["--implicit"][..], "ftps", Signal::SIGINT),
        (&[], "ftpes", Signal::SIGTERM),
    ] {
        let mut process = serve()
            .arg(folder.path())
            .args(["--listen", "127.0.0.1:0", "--user", "me"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let lines: Vec<String> = stdout.lines().take(5).map(Result::unwrap).collect();
        let value = |name: &str| {
            let found = lines.iter().find_map(|line| line.strip_prefix(name));
            found.unwrap_or_else(|| panic!("{name} in {lines:?}"))
        };
        let address = lines[0].rsplit(' ').next().unwrap();
        let fingerprint = value("fingerprint=");
        assert_eq!(value("user="), "me");
        assert_eq!(value("password=").len(), 20);
        let mount = value("mount it by: ftpsfs mount ");
        let source = format!("{scheme}://me@{address}/ ");
        assert!(mount.starts_with(&source), "{mount}");
        assert!(
            mount.ends_with(&format!("-o fingerprint={fingerprint}")),
            "{mount}"
        );

        let trust = TrustOptions {
            fingerprints: vec![Fingerprint::parse(fingerprint).unwrap()],
            ..TrustOptions::default()
        };
        let tls = Trust::new(&trust, "127.0.0.1")
            .unwrap()
            .session(false)
            .unwrap();
        let mut control = Stream::new(TcpStream::connect(address).unwrap()).unwrap();
        if scheme == "ftps" {
            control
                .start_tls(tls.connection().unwrap(), soon())
                .unwrap();
        }
        let mut greeting = [0; 4];
        assert_eq!(control.read(&mut greeting, soon()).unwrap(), 4);
        assert_eq!(&greeting, b"220 ");

        let pid = Pid::from_raw(process.id().cast_signed());
        kill(pid, signal).unwrap();
        assert!(process.wait().unwrap().success());
    }
}

#[test]
fn fault_rules_act_and_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = serve()
        .arg(folder.path())
        .args(["--listen", "127.0.0.1:0", "--user", "me"])
        .args([
            "--fault",
            "NOOP: reply \"421 Bye\"",
            "--fault",
            "connect 2: rst",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(process.stdout.take().unwrap());
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    let address = first.trim_end().rsplit(' ').next().unwrap();
    let mut control = TcpStream::connect(address).unwrap();
    control.write_all(b"NOOP\r\n").unwrap();
    let mut replies = String::new();
    control.read_to_string(&mut replies).unwrap();
    assert_eq!(replies, "220 ftpsfs ready\r\n421 Bye\r\n");
    let mut control = TcpStream::connect(address).unwrap();
    let reset = control.read(&mut [0; 1]).unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM).unwrap();
    let told = String::from_utf8(process.wait_with_output().unwrap().stderr).unwrap();
    for hit in [
        "connection 1: NOOP: reply \"421 Bye\"",
        "connection 2: connect 2: rst",
    ] {
        assert!(told.contains(hit), "{told}");
    }
}

#[test]
fn what_cannot_be_served_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let missing = folder.path().join("missing");
    let missing = missing.to_str().unwrap();
    for (arguments, words) in [
        (vec![missing], "No such file or directory"),
        (vec![path, "--listen", &taken], "Address already in use"),
        (vec![path, "--listen", "nowhere"], "--listen nowhere"),
        (
            vec![path, "--fault", "RETR: rst", "--fault", "STOR: explode"],
            "--fault: rule 2 (STOR: explode): nothing is called explode",
        ),
        (
            vec![path, "--cert", missing, "--key", missing],
            "No such file or directory",
        ),
    ] {
        let output = serve().args(&arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.starts_with("ftpsfs: ") && text.contains(words),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
