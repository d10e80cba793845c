//! Every failure that a first-time user can hit: one line, the exit status, and its row in the
//! manual's table.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};

use ftpsfs::proto::Security;
use ftpsfs::server::Faults;

use super::bench::{Bench, refusal, succeed};

const MANUAL: &str = include_str!("../../man/mount.ftps.8");

/// The rows of the manual's table for an exit status.
fn rows(code: i32) -> BTreeSet<&'static str> {
    let table = MANUAL.split(".SH DIAGNOSTICS\n").nth(1).unwrap();
    let table = table.split(".SH ").next().unwrap();
    let heading = format!(".SS Exit status {code}\n");
    let section = table
        .split(&*heading)
        .nth(1)
        .unwrap()
        .split(".SS ")
        .next()
        .unwrap();
    let rows = section.split(".TP\n").skip(1);
    rows.map(|row| row.lines().next().unwrap().strip_prefix(".B ").unwrap())
        .collect()
}

/// Failures of one exit status.
struct Failures {
    code: i32,
    seen: BTreeSet<&'static str>,
}

impl Failures {
    fn of(code: i32) -> Self {
        let seen = BTreeSet::new();
        Self { code, seen }
    }

    fn expect(&mut self, phrase: &'static str, command: &mut Command) {
        let line = refusal(command, self.code);
        assert!(line.contains(phrase), "{phrase}: {line}");
        self.seen.insert(phrase);
    }

    /// That the manual has them all, and no other.
    fn are_in_the_manual(self) {
        assert_eq!(self.seen, rows(self.code));
    }
}

fn faulty(security: Security, rules: &str) -> Bench {
    let faults = Faults::new(rules.parse().unwrap());
    Bench::with(|config| {
        config.security = security;
        config.faults = Some(faults);
    })
}

/// A script in a namespace of mounts of its own, where the arguments are the program, the mount
/// point and the options.
fn apart(bench: &Bench, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-euc", script, "sh"]);
    command
        .arg(bench.path("ftpsfs"))
        .arg(bench.mount_point())
        .arg(bench.options());
    command.stdin(Stdio::null());
    command
}

#[test]
fn wrong_use() {
    let bench = Bench::new();
    let mut failures = Failures::of(1);
    let good = bench.options();
    failures.expect("unknown mount option", &mut bench.helper("/", "usrname=me"));
    failures.expect("needs a value", &mut bench.helper("/", "port"));
    let mut sources = |source: &str, phrase| {
        let mut command = Command::new(bench.path("mount.ftps"));
        command.arg(source).arg(bench.mount_point());
        failures.expect(phrase, &mut command);
    };
    sources("host", "the source must be");
    sources("ftp://host/", "plain FTP is never spoken");
    failures.expect("no password for", &mut bench.helper("/", "username=me"));
    failures.expect(
        "cannot read",
        &mut bench.helper("/", "credentials=/proc/nowhere"),
    );
    failures.expect(
        "do not go together",
        &mut bench.helper("/", &format!("{good},active,proxy=http://h")),
    );
    fs::copy(env!("CARGO_BIN_EXE_ftpsfs"), bench.path("ftpsfs")).unwrap();
    fs::set_permissions(bench.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for path in ["mnt", "credentials"] {
        chown(bench.path(path), Some(4321), Some(4321)).unwrap();
    }
    let script = "
        device=$(dirname \"$1\")/fuse
        mknod -m 600 \"$device\" c 10 229
        mount --bind \"$device\" /dev/fuse
        exec setpriv --reuid 4321 --regid 4321 --clear-groups \"$1\" mount 127.0.0.1:/ \"$2\" -o \"$3,ro\"";
    failures.expect(
        "no permission to open /dev/fuse",
        &mut apart(&bench, script),
    );
    chown(bench.path("credentials"), Some(0), Some(0)).unwrap();
    fs::set_permissions(bench.path("credentials"), fs::Permissions::from_mode(0o644)).unwrap();
    failures.expect("others may read it", &mut bench.helper("/", &good));
    failures.are_in_the_manual();
}

#[test]
fn a_machine_that_lacks_something() {
    let bench = Bench::new();
    fs::copy(env!("CARGO_BIN_EXE_ftpsfs"), bench.path("ftpsfs")).unwrap();
    fs::set_permissions(bench.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut failures = Failures::of(2);
    let script = "
        mount -t tmpfs none /dev
        mknod -m 666 /dev/null c 1 3
        exec \"$1\" mount 127.0.0.1:/ \"$2\" -o \"$3\"";
    failures.expect("/dev/fuse is missing", &mut apart(&bench, script));
    for path in ["mnt", "credentials"] {
        chown(bench.path(path), Some(4321), Some(4321)).unwrap();
    }
    // A folder with nothing but what the script needs stands in for /usr/bin.
    let script = "
        device=$(dirname \"$1\")/fuse bin=$(dirname \"$1\")/bin
        mknod -m 666 \"$device\" c 10 229
        mount --bind \"$device\" /dev/fuse
        mkdir \"$bin\"
        cp /usr/bin/setpriv \"$bin/\"
        mount --bind \"$bin\" /usr/bin
        exec setpriv --reuid 4321 --regid 4321 --clear-groups \"$1\" mount 127.0.0.1:/ \"$2\" -o \"$3,ro\"";
    failures.expect("fusermount3 is missing", &mut apart(&bench, script));
    failures.are_in_the_manual();
}

#[test]
fn a_mount_that_failed() {
    let mut failures = Failures::of(32);
    let bench = Bench::new();
    let good = bench.options();
    let port = bench.server.local_addr().port();
    let credentials = format!("credentials={}", bench.path("credentials").display());
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    failures.expect(
        "cannot connect to",
        &mut bench.helper("/", &format!("{credentials},port={closed}")),
    );
    let explicit = format!("{good},explicit,timeout=2");
    failures.expect("may want implicit TLS", &mut bench.helper("/", &explicit));
    let untrusted = format!("{credentials},implicit,port={port}");
    failures.expect(
        "the server's certificate is refused",
        &mut bench.helper("/", &untrusted),
    );
    failures.expect(
        "no such file or directory",
        &mut bench.helper("/nowhere", &good),
    );
    failures.expect("not a directory", &mut bench.helper("/hello", &good));

    fs::create_dir_all(bench.path("state")).unwrap();
    let known = format!("[127.0.0.1]:{port} sha256:{}\n", "07".repeat(32));
    fs::write(bench.path("state/known_hosts"), known).unwrap();
    let tofu = format!(
        "{untrusted},tofu,state_dir={}",
        bench.path("state").display()
    );
    failures.expect("IT HAS CHANGED", &mut bench.helper("/", &tofu));

    bench.mount();
    failures.expect("is already mounted on", &mut bench.helper("/", &good));
    succeed(Command::new("umount").arg(bench.mount_point()));
    bench.expect_gone();
    fs::remove_dir(bench.mount_point()).unwrap();
    failures.expect("does not exist", &mut bench.helper("/", &good));
    fs::write(bench.mount_point(), "").unwrap();
    failures.expect("is not a directory", &mut bench.helper("/", &good));

    let refused = [
        (
            Security::Explicit,
            "",
            ",implicit",
            "does not speak TLS here",
        ),
        (
            Security::Explicit,
            "AUTH always: reply \"502 no\"",
            ",explicit",
            "the server offers no TLS",
        ),
        (
            Security::Implicit,
            "PASS always: reply \"530 no\"",
            "",
            "login refused",
        ),
        (
            Security::Implicit,
            "connect always: reply \"421 Too many\"",
            ",timeout=2",
            "the server takes no further connection",
        ),
    ];
    for (security, rules, more, phrase) in refused {
        let bench = faulty(security, rules);
        let options = bench.options() + more;
        failures.expect(phrase, &mut bench.helper("/", &options));
    }
    failures.are_in_the_manual();
}
