//! Servers that lie and networks that meddle, as programs on a mount see them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ftpsfs::server::Faults;

use super::bench::{Bench, said, succeed, wait_until};

const SIZE: usize = 3 << 20;

/// A bench whose server fails as these say.
fn faulty() -> (Bench, Faults) {
    let faults = Faults::default();
    let given = faults.clone();
    (Bench::with(|config| config.faults = Some(given)), faults)
}

fn mount(bench: &Bench, more: &str) {
    let options = bench.options() + ",timeout=5,attr_timeout=0,dir_timeout=0" + more;
    succeed(&mut bench.helper("/", &options));
}

/// No two places of it are alike.
fn content() -> Vec<u8> {
    (0..SIZE as u32 / 4).flat_map(u32::to_le_bytes).collect()
}

/// Bytes of a file, by a program that reads nothing else of it.
fn some(path: &Path, block: usize) -> Vec<u8> {
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", path.display()));
    dd.args(["bs=4096", "count=1", "status=none"]);
    succeed(dd.arg(format!("skip={block}"))).stdout
}

/// It says 350 and sends from the start.
#[test]
fn a_server_that_ignores_rest_is_read_right() {
    let (bench, faults) = faulty();
    fs::write(bench.path("served/big"), content()).unwrap();
    faults.set("REST always: ignore-rest".parse().unwrap());
    mount(&bench, "");
    let big = bench.mount_point().join("big");
    for block in [500, 100, 767, 300] {
        let wanted = &content()[block * 4096..][..4096];
        assert!(some(&big, block) == wanted, "block {block}");
    }
    assert!(fs::read(bench.path("served/big")).unwrap() == content());
    assert!(faults.counts().hits > 0);
}

/// The data connection goes where the control connection does, whatever PASV names.
#[test]
fn a_redirected_data_connection_is_refused() {
    let (bench, faults) = faulty();
    let elsewhere = "EPSV always: reply \"500 No\"; PASV always: address 127.0.0.2";
    faults.set(elsewhere.parse().unwrap());
    mount(&bench, "");
    assert_eq!(
        said(Command::new("cat").arg(bench.mount_point().join("hello"))),
        "hello over FTPS\n"
    );
    assert!(faults.counts().hits > 1);
    bench.unmount();
    bench.expect_gone();
    // Who wants it otherwise goes there, and finds nobody.
    let (bench, faults) = faulty();
    faults.set(elsewhere.parse().unwrap());
    let options = bench.options() + ",timeout=2,pasv_address=trust";
    let refused = bench.helper("/", &options).output().unwrap();
    let read = refused.status.success().then(|| {
        let hello = bench.mount_point().join("hello");
        Command::new("cat").arg(hello).output().unwrap().status
    });
    assert!(!read.is_some_and(|read| read.success()));
}

/// What is no address is an error in time, and harms nothing.
#[test]
fn an_address_that_is_none_fails_in_time() {
    let (bench, faults) = faulty();
    mount(&bench, "");
    for reply in [
        "227 Entering Passive Mode (127,0,0,1,4)",
        "227 Entering Passive Mode (256,0,0,1,4,4)",
        "227 Entering Passive Mode (0,0,0,0,0,0)",
        "227 ",
    ] {
        let rules = format!("EPSV always: reply \"500 No\"; PASV always: reply \"{reply}\"");
        faults.set(rules.parse().unwrap());
        let begun = Instant::now();
        let hello = bench.mount_point().join("hello");
        let read = Command::new("cat").arg(&hello).output().unwrap();
        assert!(!read.status.success(), "{reply}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{reply}");
    }
    faults.clear();
    bench.expect_mounted();
}

/// An alert, or bytes that are no record of this connection: somebody on the wire, or a server on
/// its way down or up. That is no question of trust, so `hard` waits as for any other loss.
#[test]
fn under_hard_what_will_pass_is_waited_out() {
    const ALERT: &str = "\\x15\\x03\\x03\\x00\\x02\\x02\\x50";
    const GARBLED: &str = "\\x17\\x03\\x03\\x00\\x05abcde";
    for rules in [
        format!("command 1: fin; connect 1 x12: send \"{ALERT}\""),
        format!("control sent record 1 x25: send \"{GARBLED}\""),
        format!("data sent record 1 x12: send \"{GARBLED}\""),
        // Not now, says the server (RFC 959 4.2): its directory of users is away.
        "command 1: fin; PASS 1 x12: reply \"451 Local error\"".to_owned(),
    ] {
        let (bench, faults) = faulty();
        mount(&bench, ",hard,max_sessions=1");
        bench.expect_mounted();
        faults.set(rules.parse().unwrap());
        let mut cat = Command::new("cat");
        cat.arg(bench.mount_point().join("hello"));
        let read = succeed(cat.stdin(Stdio::null()));
        assert_eq!(read.stdout, b"hello over FTPS\n", "{rules}");
        let mut copy = Command::new("cp");
        copy.arg(bench.path("credentials"));
        succeed(copy.arg(bench.mount_point().join("new")));
        let hits = faults.counts().hits;
        assert!(hits > 10, "{rules}: {hits}");
        sleep(Duration::from_millis(100));
    }
}

/// Numbers, times and names that no server in its right mind tells: errors at the most, nothing from
/// elsewhere is shown, and the mount lives on.
#[test]
fn absurd_numbers_and_names_hurt_nobody() {
    const NAMES: [&str; 9] = [
        "../../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a\\0b",
        "a\\rb",
        "\\x1b[2J",
        "odd/odd",
    ];
    const WORK: &str =
        "ls -la . odd; stat -f .; stat odd old; cat odd old; cat hello; tail -c 5 big
        echo more >> hello; dd if=hello of=big bs=100 seek=20000 count=1 conv=notrunc
        truncate -s 100 hello; echo new > new; mv new other; cat hello";
    let (bench, faults) = faulty();
    fs::write(bench.path("served/big"), content()).unwrap();
    let log = bench.path("log");
    let mut daemon = bench.program(&["mount", "-f", "127.0.0.1:/"]);
    daemon.arg(bench.mount_point());
    daemon.stderr(fs::File::create(&log).unwrap());
    let options = ",timeout=2,attr_timeout=0,dir_timeout=0,negative_timeout=0";
    daemon.args(["-o", &(bench.options() + options)]);
    let mut daemon = daemon.spawn().unwrap();
    wait_until("the mount", || bench.is_mounted());

    let mut all = Vec::new();
    for number in [
        u64::MAX.to_string(),
        i64::MAX.to_string(),
        "-1".to_owned(),
        "9".repeat(40),
    ] {
        let facts = format!("type=file;size={number};modify=20200101000000;");
        let old = format!("type=file;size=1;modify={number};unix.mode={number};unix.uid={number};");
        all.push(format!(
            "SIZE 1 x6: reply \"213 {number}\"; MDTM 1 x6: reply \"213 {number}\"
             AVBL always: reply \"213 {number}\"; EPSV 3 x2: reply \"229 (|||{number}|)\"
             MLSD always: line \"{facts} odd\"; MLSD always: line \"{old} old\"
             MLST 2 x4: reply \"250-x\\r\\n {facts} /odd\\r\\n250 x\""
        ));
    }
    let line = |facts: &str, name: &str| format!("MLSD always: line \"{facts} {name}\"\n");
    all.push(NAMES.map(|name| line("type=file;size=1;", name)).concat());
    all.push(NAMES.map(|name| line("type=dir;", name)).concat());
    all.push(
        line("type=OS.unix=slink:/etc/passwd;", "odd") + &line("type=file;", &"x".repeat(5000)),
    );
    for rules in all {
        faults.set(rules.parse().unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", WORK]).current_dir(bench.mount_point());
        let begun = Instant::now();
        let done = shell.output().unwrap();
        let shown = String::from_utf8_lossy(&done.stdout);
        // By the server's word odd may lead there: the local file that program reads is not ours.
        let is_link = rules.contains("slink");
        assert!(is_link || !shown.contains("root:"), "{rules}: {shown}");
        let listed = shown.lines().find(|line| line.contains("etc"));
        assert!(is_link || listed.is_none(), "{rules}: {listed:?}");
        assert!(
            begun.elapsed() < Duration::from_secs(40),
            "{rules}: {:?}",
            begun.elapsed()
        );
        assert!(faults.counts().hits > 3, "{rules}");
        said(bench.program(&["status"]).arg(bench.mount_point()));
    }
    faults.clear();
    let same = || {
        let read = |path: &Path| fs::read(path.join("big")).ok();
        read(&bench.mount_point()) == read(&bench.path("served"))
    };
    wait_until("it to be well again", same);
    bench.unmount();
    assert!(daemon.wait().unwrap().success());
    let told = fs::read_to_string(log).unwrap();
    assert!(
        !told.contains("panicked") && !told.contains("defect"),
        "{told}"
    );
}

/// What never ends is given up: in time, and before it fills this machine's memory.
#[test]
fn what_has_no_end_is_given_up() {
    let endless = [
        "MLSD always: endless-listing",
        "MLSD always: endless-listing-line",
        "STAT always: endless-reply; MLST always: endless-reply; SIZE always: endless-reply",
        "STAT always: endless-line; MLST always: endless-line; SIZE always: endless-line",
        "command always: before \"200 Surplus\"",
        "command always: before \"150 Soon\"",
        "command always: drip 300ms",
    ];
    std::thread::scope(|scope| {
        for rules in endless {
            scope.spawn(move || give_up(rules));
        }
    });
}

fn give_up(rules: &str) {
    const MEMORY: u64 = 300 << 20;
    let (bench, faults) = faulty();
    mount(&bench, "");
    let process = bench.processes()[0];
    faults.set(rules.parse().unwrap());
    for command in ["ls -l .", "cat hello", "stat missing", "stat -f ."] {
        let begun = Instant::now();
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(bench.mount_point());
        shell.output().unwrap();
        // A name is looked up before it is opened, each by its deadline.
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(14),
            "{rules}: {command}: {took:?}"
        );
    }
    assert!(faults.counts().hits > 0, "{rules}");
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = most.and_then(|most| most.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let most = most.unwrap() << 10;
    assert!(most < MEMORY, "{rules}: {} MiB", most >> 20);
    faults.clear();
    wait_until("it to be well again", || {
        fs::read(bench.mount_point().join("hello")).is_ok_and(|read| read.len() == 16)
    });
    bench.unmount();
}
