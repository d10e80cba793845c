//! pjdfstest: what POSIX says of each call on files and folders. `pjdfstest.list` has the tests that cannot pass,
//! each under its reason; it is exact, so that it can only get shorter.

use crate::common::command::run;
use crate::common::mount::Mount;
use crate::common::server::{Kind, RealServer};
use crate::tool;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// All tests of pjdfstest 0.2.2.
const TESTS: usize = 398;

/// Times over FTP are in whole seconds, so much has to pass between two that shall differ. The users are those
/// that every Debian has.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 1.1

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Most of their time the tests sleep: these groups run side by side. The first remounts, which fails (EBUSY)
/// where tests before it have left an unlinked file open.
const GROUPS: [&[&str]; 3] = [
    &["erofs"],
    &["chmod", "ftruncate", "open", "posix_fallocate", "truncate"],
    &[
        "chown",
        "link",
        "mkdir",
        "mkfifo",
        "mknod",
        "rename",
        "rmdir",
        "symlink",
        "unlink",
        "utimensat",
    ],
];

crate::on_each_server!(calls);

fn calls(kind: Kind) {
    let server = RealServer::of(kind);
    let mut passed = BTreeMap::new();
    std::thread::scope(|scope| {
        let groups = GROUPS.map(|group| scope.spawn(|| run_group(&server, group)));
        // Remounting needs to be allowed: elsewhere its tests are skipped, and the word of the first group stands.
        for group in groups.into_iter().rev() {
            passed.extend(group.join().expect("a group of tests"));
        }
    });
    assert_eq!(passed.len(), TESTS);
    report(kind, &passed);
}

/// Each test's name, and what it said where it did not pass.
fn run_group(server: &RealServer, group: &[&str]) -> BTreeMap<String, Option<String>> {
    let mount = Mount::new(server, "allow_other,default_permissions");
    let place = mount.place();
    let remounts = group == GROUPS[0];
    let configuration = CONFIGURATION.replace(
        "[settings]",
        &format!("[settings]\nallow_remount = {remounts}"),
    );
    let configuration = place.write_private("pjdfstest.toml", &configuration);
    // A remount is the kernel's own affair here; the helper of this type would refuse it.
    let programs = place.beside("programs");
    fs::create_dir(&programs).expect("make a folder");
    let path = programs.join("mount");
    fs::write(&path, "#!/bin/sh\nexec /bin/mount -i \"$@\"\n").expect("write a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    let mut suite = Command::new(tool("pjdfstest"));
    suite.arg("-c").arg(configuration).arg("-p").arg(&mount.dir);
    suite.arg("-s").arg(programs).env("NO_COLOR", "1");
    let path = format!(
        "{}:/usr/sbin:/usr/bin:/sbin:/bin",
        path.parent().expect("a folder").display()
    );
    suite.env("PATH", path).env_remove("RUST_BACKTRACE");
    match remounts {
        true => suite.args(group),
        false => suite.args(group.iter().map(|call| format!("tests::{call}::"))),
    };
    let finished = run(&mut suite, Duration::from_secs(300));
    let output = String::from_utf8_lossy(&finished.stdout).into_owned();
    assert!(
        output.contains("\nSummary: "),
        "{}{output}",
        finished.stderr
    );
    outcomes(&output)
}

/// Reads `NAME ok`, `NAME FAILED` and `NAME skipped`, behind which the reason follows.
fn outcomes(output: &str) -> BTreeMap<String, Option<String>> {
    let mut outcomes = BTreeMap::new();
    let mut lines = output.lines().peekable();
    while let Some(line) = lines.next() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(outcome), None) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let why = match outcome {
            "ok" => None,
            "FAILED" | "skipped" => {
                Some(format!("{outcome}: {}", lines.peek().unwrap_or(&"").trim()))
            }
            _ => continue,
        };
        outcomes.insert(name.to_owned(), why);
    }
    outcomes
}

/// A line of `pjdfstest.list`.
#[derive(Debug)]
struct Excluded {
    reason: String,
    /// It passes now and then.
    sometimes: bool,
}

/// The tests that are not expected to pass on a server.
fn excluded(kind: Kind) -> BTreeMap<String, Excluded> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suites/pjdfstest.list");
    let list = fs::read_to_string(list).expect("read the list");
    let mut reason = None;
    let mut excluded = BTreeMap::new();
    for line in list
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(next) = line.strip_prefix("== ") {
            reason = Some(next.to_owned());
            continue;
        }
        let mut words = line.split_whitespace();
        let tests = words.next().expect("a line has a word");
        let (mut sometimes, mut here) = (false, true);
        for word in words {
            match word {
                "sometimes" => sometimes = true,
                "vsftpd" => here = kind.is_vsftpd(),
                other => panic!("{line}: {other}"),
            }
        }
        if !here {
            continue;
        }
        for test in spelled_out(tests) {
            let reason = reason.clone().expect("a reason stands above the tests");
            let twice = excluded.insert(test, Excluded { reason, sometimes });
            assert!(twice.is_none(), "listed twice: {line}");
        }
    }
    excluded
}

/// `call::{a,b}` is `call::a` and `call::b`.
fn spelled_out(tests: &str) -> Vec<String> {
    match tests
        .strip_suffix('}')
        .and_then(|tests| tests.split_once('{'))
    {
        Some((call, kinds)) => kinds
            .split(',')
            .map(|kind| format!("{call}{kind}"))
            .collect(),
        None => vec![tests.to_owned()],
    }
}

/// Says how many passed, and for which reasons the others did not. Panics where the list is wrong.
fn report(kind: Kind, outcomes: &BTreeMap<String, Option<String>>) {
    let mut excluded = excluded(kind);
    let (mut passed, mut reasons, mut wrong) = (0, BTreeMap::new(), Vec::new());
    for (test, failure) in outcomes {
        match (failure, excluded.remove(test)) {
            (None, None) => passed += 1,
            (
                None,
                Some(Excluded {
                    sometimes: true, ..
                }),
            ) => passed += 1,
            (None, Some(_)) => wrong.push(format!("passes, take it off the list: {test}")),
            (Some(_), Some(known)) => *reasons.entry(known.reason).or_insert(0) += 1,
            (Some(why), None) => wrong.push(format!("{test} {why}")),
        }
    }
    wrong.extend(excluded.keys().map(|test| format!("no such test: {test}")));
    let mut text = format!(
        "pjdfstest on {kind:?}: {passed} of {} passed",
        outcomes.len()
    );
    for (reason, count) in reasons {
        text += &format!("; {count}: {reason}");
    }
    // Not through println!, which shows nothing of a test that passes.
    writeln!(std::io::stderr(), "{text}").expect("write to standard error");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
