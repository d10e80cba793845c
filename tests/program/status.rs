//! `ftpsfs status`, SIGUSR1, and the log of failures.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use ftpsfs::server::Faults;
use serde_json::Value;

use super::bench::{Bench, refusal, said, signal, succeed, wait_until};

fn status(bench: &Bench, more: &[&str]) -> Command {
    let mut command = bench.program(&["status"]);
    command.arg(bench.mount_point()).args(more);
    command
}

fn json(bench: &Bench) -> Value {
    serde_json::from_str(&said(&mut status(bench, &["--json"]))).unwrap()
}

/// A server with these faults.
fn faulty(rules: &str) -> Bench {
    let faults = Faults::new(rules.parse().unwrap());
    Bench::with(|config| config.faults = Some(faults))
}

#[test]
fn a_mount_tells_what_it_does() {
    let bench = Bench::new();
    let refused = refusal(&mut status(&bench, &[]), 32);
    assert!(
        refused.contains("no FTPS server is mounted there"),
        "{refused}"
    );
    bench.mount();
    let told = json(&bench);
    assert_eq!(told["source"], "127.0.0.1:/");
    assert_eq!(told["directory"], bench.mount_point().to_str().unwrap());
    assert_eq!(told["pid"], bench.processes()[0]);
    assert_eq!(told["writable"], true);
    assert_eq!(told["pending"], Value::Array(vec![]));
    assert_eq!(told["server"]["limit"], 4);
    assert_eq!(told["server"]["profile"]["listing"], "MLSD");
    assert!(
        told["server"]["traffic"]["bytes_received"].as_u64() >= Some(16),
        "{told:#}"
    );
    assert!(
        told["server"]["traffic"]["round_trips"].as_u64() >= Some(3),
        "{told:#}"
    );
    let number = |told: &Value| told["requests"]["from_memory"].as_u64().unwrap();
    let before = number(&told);
    for _ in 0..3 {
        fs::read_dir(bench.mount_point()).unwrap().for_each(drop);
    }
    assert!(number(&json(&bench)) > before);
    let text = said(&mut status(&bench, &[]));
    assert!(text.starts_with("127.0.0.1:/ on "), "{text}");
    for part in [
        "writable",
        "sessions: ",
        "pending uploads: none",
        "lists by MLSD",
        "last errors: none",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let all: Value =
        serde_json::from_str(&said(&mut bench.program(&["status", "--json"]))).unwrap();
    let all = all.as_array().unwrap();
    assert!(all.iter().any(|one| one["pid"] == told["pid"]), "{all:#?}");
}

#[test]
fn a_transfer_has_progress_and_a_rate() {
    let bench = faulty("data sent record 40 in RETR: stall 4s");
    let size = 3 << 20;
    fs::write(bench.path("served/big"), vec![7; size]).unwrap();
    bench.mount();
    let mut reader = Command::new("cat");
    reader
        .arg(bench.mount_point().join("big"))
        .stdout(Stdio::null());
    let mut reader = reader.spawn().unwrap();
    let mut transfer = Value::Null;
    wait_until("the transfer to be seen", || {
        let told = json(&bench);
        let sessions = told["server"]["sessions"].as_array().unwrap();
        let found = sessions
            .iter()
            .find(|session| session["doing"] == "RETR /big");
        transfer = found.map_or(Value::Null, |session| session["transfer"].clone());
        transfer["bytes"].as_u64() > Some(0)
    });
    assert_eq!(transfer["size"], size);
    assert!(transfer["bytes"].as_u64() < Some(size as u64), "{transfer}");
    assert!(transfer["rate"].is_number(), "{transfer}");
    let text = said(&mut status(&bench, &[]));
    assert!(
        text.contains("RETR /big  ") && text.contains("% of 3.1 MB"),
        "{text}"
    );
    assert!(reader.wait().unwrap().success());
}

#[test]
fn a_file_that_cannot_be_uploaded_is_pending_with_the_reason() {
    let bench = faulty("STOR always: reply \"552 The quota is used up\"");
    bench.mount();
    let target = bench.mount_point().join("new");
    fs::write(bench.path("local"), "12345").unwrap();
    let mut copy = Command::new("cp");
    let written = copy.arg(bench.path("local")).arg(target).output().unwrap();
    assert!(!written.status.success());
    let mut told = Value::Null;
    wait_until("the last attempt to be over", || {
        told = json(&bench);
        told["pending"][0]["state"] == "failed"
    });
    let pending = &told["pending"][0];
    assert_eq!(
        (&pending["path"], &pending["size"]),
        (&"/new".into(), &5.into()),
        "{told:#}"
    );
    assert!(
        pending["failure"]
            .as_str()
            .unwrap()
            .contains("552 The quota is used up")
    );
    let failures = told["requests"]["failures"].as_array().unwrap();
    let close = failures
        .iter()
        .find(|f| f["what"].as_str().unwrap().starts_with("close: /new"));
    assert_eq!(close.unwrap()["errno"], libc::EDQUOT, "{failures:#?}");
}

/// A mount in the foreground, and its log.
fn in_the_foreground(bench: &Bench) -> (Child, PathBuf) {
    let log = bench.path("log");
    let mut command = bench.program(&["mount", "-f", "127.0.0.1:/"]);
    command
        .arg(bench.mount_point())
        .args(["-o", &bench.options()]);
    command.stderr(fs::File::create(&log).unwrap());
    let child = command.spawn().unwrap();
    wait_until("the mount", || bench.is_mounted());
    (child, log)
}

#[test]
fn repeated_failures_are_logged_once_and_counted() {
    let bench = faulty("RETR always: reply \"550 Not today\"");
    let (mut child, log) = in_the_foreground(&bench);
    for _ in 0..5 {
        let read = Command::new("cat")
            .arg(bench.mount_point().join("hello"))
            .output()
            .unwrap();
        assert!(!read.status.success());
    }
    let text = said(&mut status(&bench, &[]));
    assert!(text.contains("read: /hello: "), "{text}");
    assert!(
        text.contains("550 Not today") && text.contains(" times)"),
        "{text}"
    );
    succeed(Command::new("umount").arg(bench.mount_point()));
    assert!(child.wait().unwrap().success());
    let log = fs::read_to_string(log).unwrap();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("read: /hello: "))
        .collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(
        lines
            .iter()
            .all(|line| line.contains("warn") && line.contains("550 Not today"))
    );
    assert!(
        !lines[0].contains("times") && lines[1].ends_with(" times)"),
        "{log}"
    );
}

#[test]
fn sigusr1_logs_the_status_and_the_mount_goes_on() {
    let bench = Bench::new();
    let (mut child, log) = in_the_foreground(&bench);
    signal(child.id() as i32, libc::SIGUSR1);
    let logged = || fs::read_to_string(&log).unwrap();
    wait_until("the status in the log", || {
        logged().contains("last errors: none")
    });
    assert!(logged().contains("info: sessions: "), "{}", logged());
    bench.expect_mounted();
    signal(child.id() as i32, libc::SIGTERM);
    assert!(child.wait().unwrap().success());
}

#[test]
fn watching_ends_with_the_mount() {
    let bench = Bench::new();
    bench.mount();
    let mut command = status(&bench, &["--json", "--watch"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next().unwrap().unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(told["source"], "127.0.0.1:/");
    }
    succeed(Command::new("umount").arg(bench.mount_point()));
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
}

#[test]
fn only_the_owner_and_root_may_ask() {
    let bench = Bench::new();
    bench.mount();
    let device = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = bench.mount_point();
    let line = device
        .lines()
        .find(|line| line.contains(point.to_str().unwrap()))
        .unwrap();
    let socket = PathBuf::from("/run/ftpsfs").join(line.split(' ').nth(2).unwrap());
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(&PathBuf::from("/run/ftpsfs")), 0o700);
    let mut other = Command::new("setpriv");
    other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    other.arg(bench.path("mount.ftps").canonicalize().unwrap());
    other.args(["status", "--json"]);
    let output = other.stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "[]\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("only who has mounted it"));
    succeed(Command::new("umount").arg(&point));
    wait_until("the socket to vanish", || !socket.exists());
}

#[test]
fn what_is_no_question_gets_no_answer() {
    let bench = Bench::new();
    bench.mount();
    let socket = format!("/run/ftpsfs/{}", bench.processes()[0]);
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.write_all(&[b'x'; 4096]).unwrap();
    let mut answer = Vec::new();
    // It may end by a reset: what was written is not all read.
    let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    assert_eq!(answer, b"");
    bench.expect_mounted();
}

/// What getfattr(1) would print, or the errno: `python3` has the system calls.
fn attributes(bench: &Bench, of: &str) -> Result<Value, String> {
    const SCRIPT: &str = r#"
import errno, json, os, sys
try:
    names = os.listxattr(sys.argv[1])
    print(json.dumps({name: os.getxattr(sys.argv[1], name).decode() for name in names}))
except OSError as error:
    print(json.dumps(errno.errorcode[error.errno]))
"#;
    let mut python = Command::new("python3");
    python
        .args(["-c", SCRIPT])
        .arg(bench.mount_point().join(of));
    let told: Value = serde_json::from_str(&said(&mut python)).unwrap();
    match told {
        Value::String(errno) => Err(errno),
        told => Ok(told),
    }
}

#[test]
fn the_mount_point_shows_the_status_where_that_is_asked_for() {
    let bench = Bench::new();
    bench.mount();
    assert_eq!(attributes(&bench, "."), Err("ENOTSUP".to_owned()));
    bench.unmount();
    bench.expect_gone();
    succeed(&mut bench.helper("/", &(bench.options() + ",xattr")));
    bench.expect_mounted();
    let shown = attributes(&bench, ".").unwrap();
    let told = json(&bench);
    let number = |name: &str| -> u64 { shown[name].as_str().unwrap().parse().unwrap() };
    assert_eq!(shown["user.ftps.source"], "127.0.0.1:/");
    assert_eq!(shown["user.ftps.writable"], "true");
    assert_eq!(number("user.ftps.pid"), told["pid"].as_u64().unwrap());
    assert_eq!(number("user.ftps.server.limit"), 4);
    assert_eq!(number("user.ftps.pending"), 0);
    let sent = number("user.ftps.server.traffic.bytes_sent");
    assert_eq!(told["server"]["traffic"]["bytes_sent"], sent);
    assert_eq!(shown["user.ftps.server.profile.listing"], "MLSD");
    // What is not known has no attribute, and files have none.
    assert_eq!(shown.get("user.ftps.server.outage"), None);
    assert_eq!(attributes(&bench, "hello").unwrap(), serde_json::json!({}));
    let ask = |path: PathBuf, call: &str| {
        let script = format!(
            "import os, sys\ntry: os.{call}\nexcept OSError as e: print(os.strerror(e.errno))"
        );
        said(Command::new("python3").args(["-c", &script]).arg(path))
    };
    let point = || bench.mount_point();
    let missing = "getxattr(sys.argv[1], 'user.ftps.nothing')";
    assert_eq!(ask(point(), missing), "No data available\n");
    assert_eq!(ask(point().join("hello"), missing), "No data available\n");
    let set = "setxattr(sys.argv[1], 'user.ftps.pid', b'1')";
    assert_eq!(ask(point(), set), "Operation not supported\n");
    // It is what it is at the time.
    let mut write = Command::new("sh");
    write.args(["-c", "printf 12345 > \"$1\"", "-"]);
    succeed(write.arg(point().join("new")));
    let shown = attributes(&bench, ".").unwrap();
    let now = shown["user.ftps.server.traffic.bytes_sent"]
        .as_str()
        .unwrap();
    assert_eq!(now.parse::<u64>().unwrap(), sent + 5);
}

#[test]
fn what_is_kept_for_the_next_mount_is_told() {
    let bench = Bench::new();
    bench.mount();
    fs::read_dir(bench.mount_point()).unwrap().for_each(drop);
    let told = json(&bench);
    let file = bench.path("state/servers");
    let kept = &told["server"]["kept"];
    assert!(
        kept["file"]
            .as_str()
            .unwrap()
            .starts_with(file.to_str().unwrap()),
        "{kept}"
    );
    bench.unmount();
    bench.expect_gone();
    bench.mount();
    let told = json(&bench);
    let kept = &told["server"]["kept"];
    let lessons = kept["lessons"].as_array().unwrap();
    assert!(
        lessons.contains(&Value::from("mlsd_shows_itself=yes")),
        "{kept}"
    );
    let since = kept["since"].as_u64().unwrap();
    let since = std::time::UNIX_EPOCH + std::time::Duration::from_secs(since);
    assert!(since.elapsed().unwrap() < std::time::Duration::from_secs(600));
    let text = said(&mut status(&bench, &[]));
    let line = text
        .lines()
        .find(|line| line.starts_with("kept for the next mount: "));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(
        line.contains("mlsd_shows_itself=yes") && line.contains(" ago, in "),
        "{line}"
    );
    assert!(!line.contains("identity"), "{line}");
}
