//! Mounts from their beginning to their end, and what is said when they fail.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::bench::{Bench, PASSWORD, processes_with, refusal, signal, succeed, wait_until};

#[test]
fn wrong_use_is_exit_code_1_and_one_line() {
    let bench = Bench::new();
    let options = bench.options();
    let refused = |options: &str| refusal(&mut bench.helper("/", options), 1);
    assert_eq!(
        refused("usrname=me"),
        "mount.ftps: unknown mount option `usrname`; is `username` meant?"
    );
    assert!(refused("port=none").contains("mount option `port`"));
    assert!(refused("username=me").contains("no password for me@127.0.0.1"));
    assert!(refused("credentials=/proc/nowhere").contains("cannot read /proc/nowhere"));
    let credentials = bench.path("credentials");
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&options).contains("others may read it"));
    let mut alone = Command::new(bench.path("mount.ftps"));
    assert!(refusal(alone.arg("host:/"), 1).contains("usage: mount.ftps SOURCE DIR"));
    let mut plain = Command::new(bench.path("mount.ftps"));
    plain.arg("ftp://host/").arg(bench.mount_point());
    assert!(refusal(&mut plain, 1).contains("plain FTP is never spoken"));
    assert!(bench.processes().is_empty());
}

#[test]
fn a_failed_mount_is_exit_code_32_and_one_line() {
    let bench = Bench::new();
    let refused = |path: &str, options: &str| refusal(&mut bench.helper(path, options), 32);
    let good = bench.options();
    assert!(refused("/nowhere", &good).contains("127.0.0.1:/nowhere: no such file or directory"));
    assert!(refused("/hello", &good).contains("not a directory"));
    let credentials = format!("credentials={}", bench.path("credentials").display());
    let untrusted = format!(
        "{credentials},implicit,port={}",
        bench.server.local_addr().port()
    );
    let line = refused("/", &untrusted);
    assert!(
        line.contains(&format!("fingerprint={}", bench.server.fingerprint())),
        "{line}"
    );
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    assert!(refused("/", &format!("{credentials},port={closed}")).contains("refused"));
    let mut missing = bench.helper("/", &good);
    missing.arg("--");
    fs::remove_dir(bench.mount_point()).unwrap();
    assert!(refusal(&mut missing, 32).ends_with("mnt does not exist"));
    fs::write(bench.mount_point(), "").unwrap();
    assert!(refused("/", &good).ends_with("mnt is not a directory"));
    assert!(bench.processes().is_empty());
}

#[test]
fn a_wrong_password_is_one_line_and_not_shown() {
    let bench = Bench::new();
    let mut command = bench.helper(
        "/",
        &format!("{},password_stdin,username=me", bench.reaching()),
    );
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    use std::io::Write;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"wrong-guess\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(32), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(
        line.contains("530") && !line.contains("wrong-guess"),
        "{line}"
    );
}

#[test]
fn trust_on_first_use_refuses_another_certificate_later() {
    let bench = Bench::new();
    let address = bench.server.local_addr();
    let credentials = bench.path("credentials");
    let state = bench.path("state");
    let options = format!(
        "implicit,port={},tofu,timeout=5,credentials={},state_dir={}",
        address.port(),
        credentials.display(),
        state.display()
    );
    let mount_and_unmount = || {
        succeed(&mut bench.helper("/", &options));
        bench.expect_mounted();
        succeed(Command::new("umount").arg(bench.mount_point()));
        bench.expect_gone();
    };
    mount_and_unmount();
    let known = state.join("known_hosts");
    let print = bench.server.fingerprint().to_string();
    let line = format!("[127.0.0.1]:{} {print}\n", address.port());
    let text = fs::read_to_string(&known).unwrap();
    assert!(text.ends_with(&line), "{text}");
    mount_and_unmount();
    // The certificate that was there at first was another one.
    let other = format!("sha256:{}", "07".repeat(32));
    fs::write(&known, text.replace(&print, &other)).unwrap();
    let refused = refusal(&mut bench.helper("/", &options), 32);
    let delete = format!(
        "delete the line of [127.0.0.1]:{} from {}",
        address.port(),
        known.display()
    );
    for part in ["IT HAS CHANGED", &other, &print, &delete] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    fs::remove_file(&known).unwrap();
    mount_and_unmount();
    let list = succeed(bench.program(&["recover", "--state-dir"]).arg(&state));
    assert!(String::from_utf8_lossy(&list.stdout).contains("nothing is kept"));
    assert!(
        list.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&list.stderr)
    );
    for both in ["cafile=/x", &format!("fingerprint={other}")] {
        let refused = refusal(&mut bench.helper("/", &format!("{options},{both}")), 1);
        assert!(refused.contains("goes with neither"), "{refused}");
    }
}

#[test]
fn unmounting_ends_the_process() {
    let bench = Bench::new();
    bench.mount();
    assert_eq!(bench.processes().len(), 1);
    succeed(Command::new("umount").arg(bench.mount_point()));
    bench.expect_gone();
}

#[test]
fn sigterm_unmounts() {
    let bench = Bench::new();
    bench.mount();
    signal(bench.processes()[0], 15);
    bench.expect_gone();
}

#[test]
fn a_busy_mount_ends_at_the_second_signal() {
    let bench = Bench::new();
    bench.mount();
    let open = fs::File::open(bench.mount_point().join("hello")).unwrap();
    let pid = bench.processes()[0];
    signal(pid, 15);
    wait_until("the mount to be out of sight", || !bench.is_mounted());
    sleep(Duration::from_millis(300));
    assert_eq!(bench.processes(), [pid], "open files have a grace period");
    signal(pid, 15);
    bench.expect_gone();
    drop(open);
}

#[test]
fn a_dead_mount_is_cleared_by_the_next() {
    let bench = Bench::new();
    bench.mount();
    signal(bench.processes()[0], 9);
    wait_until("the mount to die", || {
        fs::metadata(bench.mount_point()).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
    });
    bench.mount();
    succeed(Command::new("umount").arg(bench.mount_point()));
    bench.expect_gone();
}

#[test]
fn the_same_source_is_not_mounted_twice() {
    let bench = Bench::new();
    bench.mount();
    let line = refusal(&mut bench.helper("/", &bench.options()), 32);
    let point = bench.mount_point();
    assert_eq!(
        line,
        format!(
            "mount.ftps: 127.0.0.1:/ is already mounted on {}",
            point.display()
        )
    );
    bench.expect_mounted();
}

#[test]
fn what_proc_mounts_shows() {
    let bench = Bench::new();
    let point = bench.mount_point();
    let address = bench.server.local_addr();
    let url = format!("ftps://me:{PASSWORD}@{address}/");
    let pin = format!("fingerprint={},noexec,rw", bench.server.fingerprint());
    let mut command = Command::new(bench.path("mount.ftps"));
    let output = succeed(command.args(["-o", &pin, "-s", &url]).arg(&point).arg("-n"));
    let warning = String::from_utf8_lossy(&output.stderr);
    assert!(
        warning.contains("warning") && !warning.contains(PASSWORD),
        "{warning}"
    );
    bench.expect_mounted();
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table
        .lines()
        .find(|line| line.contains(point.to_str().unwrap()))
        .unwrap();
    let expected = format!(
        "ftps://me@{address}/ {} fuse.ftps rw,nosuid,nodev,noexec",
        point.display()
    );
    assert!(line.starts_with(&expected), "{line}");
}

#[test]
fn passwords_are_in_no_command_line_and_no_environment() {
    let bench = Bench::new();
    let options = format!("{},username=me,password={PASSWORD}", bench.reaching());
    succeed(&mut bench.helper("/", &options));
    bench.expect_mounted();
    assert!(processes_with(PASSWORD).is_empty());
    let pid = bench.processes()[0];
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains(PASSWORD));
}

#[test]
fn in_the_background_it_holds_nothing_of_the_caller() {
    let bench = Bench::new();
    let helper = bench.helper("/", &bench.options());
    // What the shell duplicates is not closed by exec: who holds it holds up the reader below.
    let mut shell = Command::new("timeout");
    shell.args(["20", "sh", "-c", "exec 7>&1; exec \"$@\"", "sh"]);
    shell.arg(helper.get_program()).args(helper.get_args());
    let mut child = shell
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut everything = String::new();
    let began = Instant::now();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut everything)
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "the daemon kept the caller's pipe"
    );
    bench.expect_mounted();
    let pid = bench.processes()[0];
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        Path::new("/")
    );
    for fd in 0..3 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
        assert_eq!(target, Path::new("/dev/null"));
    }
}

#[test]
fn a_silent_server_is_given_up_in_time() {
    let bench = Bench::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let credentials = bench.path("credentials");
    let port = silent.local_addr().unwrap().port();
    let options = format!(
        "port={port},timeout=2,credentials={}",
        credentials.display()
    );
    let began = Instant::now();
    let line = refusal(&mut bench.helper("/", &options), 32);
    assert!(began.elapsed() < Duration::from_secs(6), "{line}");
    bench.expect_gone();
}

#[test]
fn an_interrupted_caller_leaves_no_mount() {
    let bench = Bench::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let credentials = bench.path("credentials");
    let options = format!(
        "port={port},timeout=2,credentials={}",
        credentials.display()
    );
    let mut caller = bench
        .helper("/", &options)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the background process", || bench.processes().len() == 2);
    caller.kill().unwrap();
    caller.wait().unwrap();
    bench.expect_gone();
}

#[test]
fn the_foreground_logs_and_ends_by_ctrl_c() {
    let bench = Bench::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftpsfs"));
    command
        .args(["mount", "-f", "127.0.0.1:/"])
        .arg(bench.mount_point());
    command
        .args(["-o", &bench.options()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let child: Child = command.spawn().unwrap();
    wait_until("the mount", || bench.is_mounted());
    bench.expect_mounted();
    signal(child.id() as i32, 2);
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(
        log.contains("ftpsfs: info: mounted 127.0.0.1:/ on"),
        "{log}"
    );
    assert!(log.contains("ftpsfs: info: unmounted"), "{log}");
    bench.expect_gone();
}

#[test]
fn umount_is_a_subcommand_too() {
    let bench = Bench::new();
    let umount = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftpsfs"));
        command.arg("umount").arg(bench.mount_point());
        command
    };
    assert!(refusal(&mut umount(), 32).contains("no FTPS server is mounted there"));
    bench.mount();
    let open = fs::File::open(bench.mount_point().join("hello")).unwrap();
    assert!(refusal(&mut umount(), 32).contains("busy"));
    drop(open);
    succeed(&mut umount());
    bench.expect_gone();
}

#[test]
fn fake_checks_and_mounts_nothing() {
    let bench = Bench::new();
    succeed(bench.helper("/", &bench.options()).arg("-fv"));
    assert!(!bench.is_mounted());
    refusal(bench.helper("/", "nonsense").arg("-f"), 1);
    succeed(bench.helper("/", "nonsense").arg("-sf"));
}

#[test]
fn mounting_in_another_namespace() {
    let bench = Bench::new();
    let mut holder = Command::new("unshare")
        .args(["-m", "sleep", "60"])
        .spawn()
        .unwrap();
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let pid = holder.id();
    wait_until("the namespace", || {
        fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap() != own
    });
    succeed(
        bench
            .helper("/", &bench.options())
            .args(["-N", &pid.to_string()]),
    );
    assert!(!bench.is_mounted());
    let inside = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    assert!(inside.contains("fuse.ftps"), "{inside}");
    let mut umount = Command::new(env!("CARGO_BIN_EXE_ftpsfs"));
    succeed(
        umount
            .arg("umount")
            .arg(bench.mount_point())
            .args(["-N", &pid.to_string()]),
    );
    holder.kill().unwrap();
    holder.wait().unwrap();
    bench.expect_gone();
}

#[test]
fn the_demonstration_cleans_up() {
    let folder = tempfile::tempdir().unwrap();
    let demo = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftpsfs"));
        command
            .args(["demo", "--once"])
            .env("TMPDIR", folder.path());
        command
    };
    let output = succeed(&mut demo());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("notes/2024/grüße.txt") && text.contains("Read 5 files"),
        "{text}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(processes_with(folder.path().to_str().unwrap()).is_empty());
    let failed = demo().arg("/proc/nowhere").output().unwrap();
    assert_eq!(failed.status.code(), Some(2));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_demonstration_ends_by_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftpsfs"));
    command
        .arg("demo")
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("Ctrl-C here") {
        let mut part = [0; 512];
        let read = output.read(&mut part).unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&part[..read]);
    }
    signal(child.id() as i32, 2);
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(processes_with(folder.path().to_str().unwrap()).is_empty());
}
