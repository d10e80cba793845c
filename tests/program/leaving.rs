//! Write-back, and the ways in which a mount ends while files wait to be sent.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ftpsfs::server::Faults;

use super::bench::{Bench, refusal, said, signal, succeed, wait_until};

/// No upload arrives.
const HELD: &str = "STOR always: stall";

/// A mount with write-back, on a server that can fail.
fn mounted() -> (Bench, Faults) {
    let faults = Faults::default();
    let given = faults.clone();
    let bench = Bench::with(|config| config.faults = Some(given));
    mount(&bench);
    (bench, faults)
}

fn mount(bench: &Bench) {
    succeed(&mut bench.helper("/", &(bench.options() + ",writeback,timeout=60")));
    bench.expect_mounted();
}

/// By a program of its own, which has closed it when it ends.
fn write(bench: &Bench, name: &str, text: &str) {
    let script = format!(
        "printf %s '{text}' > '{}'",
        bench.mount_point().join(name).display()
    );
    succeed(Command::new("sh").args(["-c", &script]));
}

fn arrived(bench: &Bench, name: &str) -> Option<String> {
    fs::read_to_string(bench.path("served").join(name)).ok()
}

#[test]
fn one_upload_that_hangs_holds_up_no_other_and_each_file_is_sent_in_order() {
    let (bench, faults) = mounted();
    faults.set("STOR 1: stall".parse().unwrap());
    write(&bench, "first", "first");
    wait_until("the upload to hang", || faults.counts().hits == 1);
    for round in 0..5 {
        for name in ["a", "b", "c"] {
            write(&bench, name, &format!("{name}{round}"));
        }
    }
    for name in ["a", "b", "c"] {
        wait_until(name, || arrived(&bench, name) == Some(format!("{name}4")));
    }
    assert_eq!(arrived(&bench, "first"), None);
    faults.clear();
    wait_until("the first", || {
        arrived(&bench, "first") == Some("first".to_owned())
    });
    for name in ["a", "b", "c"] {
        assert_eq!(
            arrived(&bench, name),
            Some(format!("{name}4")),
            "nothing old comes later"
        );
    }
    bench.unmount();
    bench.expect_gone();
}

/// As file managers and users do it. The process keeps the spool, so that nobody else sends what is in
/// it, until it is done.
#[test]
fn fusermount_returns_at_once_and_the_process_drains() {
    let (bench, faults) = mounted();
    faults.set(HELD.parse().unwrap());
    write(&bench, "new", "promised");
    let begun = Instant::now();
    wait_until("fusermount3", || {
        let mut unmount = Command::new("fusermount3");
        unmount.arg("-u").arg(bench.mount_point());
        unmount.output().unwrap().status.success()
    });
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert!(!bench.is_mounted());
    sleep(Duration::from_millis(500));
    let process = bench.processes();
    assert_eq!(process.len(), 1, "it goes on");
    let mut list = bench.program(&["recover", "list", "--state-dir"]);
    let list = said(list.arg(bench.path("state")));
    assert!(
        list.contains(&format!("in use by process {}", process[0])),
        "{list}"
    );
    assert!(list.contains("/new"), "{list}");
    faults.clear();
    bench.expect_gone();
    assert_eq!(arrived(&bench, "new"), Some("promised".to_owned()));
}

/// As systemd stops it.
#[test]
fn sigterm_drains_and_a_second_one_leaves_the_rest_to_the_next_mount() {
    for signals in [1, 2] {
        let (bench, faults) = mounted();
        faults.set(HELD.parse().unwrap());
        write(&bench, "new", "promised");
        let process = bench.processes()[0];
        signal(process, 15);
        wait_until("the mount to be out of sight", || !bench.is_mounted());
        sleep(Duration::from_secs(4));
        assert_eq!(bench.processes(), [process], "it drains");
        if signals == 1 {
            faults.clear();
            bench.expect_gone();
            assert_eq!(arrived(&bench, "new"), Some("promised".to_owned()));
            continue;
        }
        signal(process, 15);
        bench.expect_gone();
        assert_eq!(arrived(&bench, "new"), None);
        faults.clear();
        mount(&bench);
        wait_until("the next mount to send it", || {
            arrived(&bench, "new") == Some("promised".to_owned())
        });
        bench.unmount();
        bench.expect_gone();
    }
}

/// Denied for good: kept, told in the log and by recover, and no reason to wait when it is unmounted.
#[test]
fn what_is_refused_for_good_is_kept_and_holds_up_nothing() {
    let (bench, faults) = mounted();
    faults.set("STOR always: reply \"553 Not here\"".parse().unwrap());
    write(&bench, "refused", "promised");
    let listed = || {
        let mut list = bench.program(&["recover", "list", "--state-dir"]);
        said(list.arg(bench.path("state")))
    };
    wait_until("it to be told", || listed().contains("553 Not here"));
    write(&bench, "other", "x");
    let umount = bench
        .program(&["umount"])
        .arg(bench.mount_point())
        .output()
        .unwrap();
    assert!(umount.status.success());
    bench.expect_gone();
    assert!(listed().contains("/refused"), "{}", listed());
    let mut save = bench.program(&["recover", "save", "--state-dir"]);
    succeed(
        save.arg(bench.path("state"))
            .arg("/refused")
            .arg(bench.path("saved")),
    );
    assert_eq!(fs::read_to_string(bench.path("saved")).unwrap(), "promised");
    let mut again = bench.program(&["recover", "save", "--state-dir"]);
    again
        .arg(bench.path("state"))
        .arg("/refused")
        .arg(bench.path("saved"));
    refusal(&mut again, 1);
}

/// Many readers of large files hang; what is known, and df, have no part in that.
#[test]
fn while_reads_stall_what_is_known_is_told_and_df_answers() {
    for extra in ["", ",hard"] {
        let faults = Faults::default();
        let given = faults.clone();
        let bench = Bench::with(|config| config.faults = Some(given));
        for number in 0..60 {
            let file = bench.path(&format!("served/f{number}"));
            fs::write(file, vec![7; 300_000]).unwrap();
        }
        let options = bench.options() + ",timeout=4,attr_timeout=300,dir_timeout=300" + extra;
        succeed(&mut bench.helper("/", &options));
        let point = bench.mount_point();
        said(Command::new("ls").arg("-l").arg(&point));
        faults.set(
            "command always: stall; connect always: stall"
                .parse()
                .unwrap(),
        );
        let mut readers: Vec<_> = (0..60)
            .map(|number| {
                let mut cat = Command::new("cat");
                cat.arg(point.join(format!("f{number}")));
                cat.stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null());
                cat.spawn().unwrap()
            })
            .collect();
        sleep(Duration::from_millis(500));
        let waits = readers
            .iter_mut()
            .all(|reader| reader.try_wait().unwrap().is_none());
        assert!(waits, "nothing stalls");
        for _ in 0..3 {
            let begun = Instant::now();
            let listed = said(Command::new("ls").arg("-l").arg(&point));
            assert_eq!(listed.matches("300000").count(), 60);
            assert!(
                begun.elapsed() < Duration::from_secs(1),
                "{extra} {:?}",
                begun.elapsed()
            );
            succeed(Command::new("df").arg(&point));
            assert!(
                begun.elapsed() < Duration::from_secs(6),
                "{extra} {:?}",
                begun.elapsed()
            );
        }
        for reader in &mut readers {
            let _ = reader.kill();
            reader.wait().unwrap();
        }
        faults.clear();
        wait_until("it to work again", || {
            fs::read(point.join("f7")).is_ok_and(|read| read.len() == 300_000)
        });
        bench.unmount();
    }
}
