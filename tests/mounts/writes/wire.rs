//! What a change costs on the wire. Server and mount are in a network namespace that has nothing but a loopback
//! device, and its counter is read: payload, TLS, TCP and IP headers of both directions, and nothing else.

use super::script;
use crate::common::command::within;
use crate::common::mount::Mount;
use crate::common::server::{Kind, RealServer, UID};
use crate::common::{full, tree};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::process::Command;
use std::time::Duration;

/// No small change may cost more, whatever the file's size.
const MOST: u64 = 64 << 10;

/// Prepares a server, mounts it in a network namespace of its own, and calls `work` in there.
fn alone(
    kind: Kind,
    prepare: impl FnOnce(&RealServer) + Send + 'static,
    work: impl FnOnce(RealServer, Mount) + Send + 'static,
) {
    within(Duration::from_secs(300), move || {
        // Only this thread goes there, and what it starts.
        unshare(CloneFlags::CLONE_NEWNET).expect("the tests run as root");
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.expect("run ip").success());
        let server = RealServer::of(kind);
        prepare(&server);
        // A session costs some 9 KiB to open, and how many are opened ahead of need depends on how busy the
        // machine is: it is not what a change costs.
        let mount = Mount::new(&server, "max_sessions=2");
        script(&mount, "echo warm > warm; cat warm; rm warm");
        work(server, mount);
    });
}

/// Bytes that went over the wire while `work` ran.
fn moved(work: impl FnOnce()) -> u64 {
    let received = || -> u64 {
        let table = fs::read_to_string("/proc/thread-self/net/dev").expect("read the counters");
        let line = table
            .lines()
            .find_map(|line| line.trim().strip_prefix("lo:"));
        let first = line.and_then(|line| line.split_whitespace().next());
        first
            .and_then(|bytes| bytes.parse().ok())
            .expect("lo counts")
    };
    let before = received();
    work();
    // Whatever is still under way counts, too.
    std::thread::sleep(Duration::from_millis(300));
    received() - before
}

fn large() -> u64 {
    if full() { 256 << 20 } else { 64 << 20 }
}

pub fn small_changes_of_large_files(kind: Kind) {
    let prepare = |server: &RealServer| {
        let file = server.root.join("large");
        tree::fill(&file, 21, large());
        chown(&file, Some(UID), Some(UID)).expect("give it away");
    };
    alone(kind, prepare, move |server, mount| {
        let there = server.root.join("large");
        let expected = tree::digest(&there).expect("read it");
        script(&mount, "test -s large");
        let appended = moved(|| {
            script(&mount, "head -c 4096 /dev/zero | tr '\\0' x >> large");
        });
        assert!(appended < MOST, "an append moved {appended} bytes");

        let middle = large() / 2 + 1234;
        for (round, byte) in ["y", "z"].iter().enumerate() {
            let text = format!(
                "head -c 4096 /dev/zero | tr '\\0' {byte} |
                dd of=large conv=notrunc bs=4096 seek={middle} oflag=seek_bytes status=none"
            );
            let changed = moved(|| drop(script(&mount, &text)));
            // The server's ways are tried out once. Pure-FTPd cuts what lies behind, so the file is sent whole.
            let most = if round == 0 { 2 * MOST } else { MOST };
            assert!(
                changed < most || kind == Kind::PureFtpd,
                "change {round} in the middle moved {changed} bytes"
            );
        }
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(&there)
            .expect("open");
        let mut read = [0; 4098];
        file.read_exact_at(&mut read, middle - 1).expect("read");
        assert!(
            read[1..4097].iter().all(|byte| *byte == b'z') && read[0] != b'z' && read[4097] != b'z'
        );
        file.read_exact_at(&mut read[..4096], large())
            .expect("read the end");
        assert!(read[..4096].iter().all(|byte| *byte == b'x'));
        // The rest is as it was.
        assert_eq!(file.metadata().expect("stat").len(), large() + 4096);
        file.set_len(large()).expect("cut");
        let first = middle / 64;
        let original: Vec<u8> = (first..first + 66)
            .flat_map(|n| tree::block(21, n))
            .collect();
        let from = (middle - first * 64) as usize;
        file.write_all_at(&original[from..from + 4096], middle)
            .expect("put it back");
        assert!(
            tree::digest(&there).expect("read it") == expected,
            "another byte changed"
        );
    });
}

/// Only ProFTPD has SITE CPFR and SITE CPTO.
#[test]
fn copies_on_the_server() {
    let prepare = |server: &RealServer| {
        let file = server.root.join("large");
        tree::fill(&file, 22, 64 << 20);
        tree::set_age(&file, Duration::from_secs(1_000_000));
        chown(&file, Some(UID), Some(UID)).expect("give it away");
    };
    alone(Kind::ProftpdExplicit, prepare, move |server, mount| {
        let there = |name: &str| server.root.join(name);
        let expected = tree::digest(&there("large")).expect("read it");
        script(
            &mount,
            "echo old > replaced; chmod 640 replaced; stat large",
        );
        for (command, copy) in [
            ("cp large new", "new"),
            ("cp -p large kept", "kept"),
            ("cp large replaced", "replaced"),
            ("mkdir d; cp -a large d/", "d/large"),
        ] {
            let bytes = moved(|| drop(script(&mount, command)));
            assert!(bytes < MOST, "{command} moved {bytes} bytes");
            assert_eq!(
                tree::digest(&there(copy)).expect("read it"),
                expected,
                "{command}"
            );
        }
        let time = |name: &str| {
            fs::metadata(there(name))
                .expect("stat there")
                .modified()
                .expect("a time")
        };
        assert_eq!(time("kept"), time("large"));
        assert_eq!(time("d/large"), time("large"));
        assert!(time("new") > time("large"));
        let mode = fs::metadata(there("replaced"))
            .expect("stat there")
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o640);
        // What is known here is what is there; and a copy can be written like any file.
        script(
            &mount,
            "cmp large new; test \"$(stat -c %s new)\" = 67108864
            cp large more; echo more >> more; test \"$(stat -c %s more)\" = 67108869
            { cat large; echo end; } | cmp - <(head -c 67108864 more; echo end)
            ls -A | grep -c ftpsfs- && exit 1; true",
        );
    });
}
