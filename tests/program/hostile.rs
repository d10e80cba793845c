//! Servers that lie and networks that meddle, as programs on a mount see them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ftpsfs::server::Faults;

use super::bench::{Bench, said, succeed};

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
fn under_hard_a_broken_tls_connection_is_waited_out() {
    const ALERT: &str = "\\x15\\x03\\x03\\x00\\x02\\x02\\x50";
    const GARBLED: &str = "\\x17\\x03\\x03\\x00\\x05abcde";
    for rules in [
        format!("command 1: fin; connect 1 x12: send \"{ALERT}\""),
        format!("control sent record 1 x25: send \"{GARBLED}\""),
        format!("data sent record 1 x12: send \"{GARBLED}\""),
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
