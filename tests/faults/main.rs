//! A small session (connect, list, read, write, append, rename, delete) through the whole client,
//! from the file system down, against the embedded server that fails once: at each command, each
//! reply byte and each TLS record, in both directions. Each operation succeeds, or fails for want
//! of the server and in time; what was acknowledged is on the server; and the file system is
//! healthy right after.

mod script;

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ftpsfs::proto::Security;
use script::Rig;

/// Positions of one event that are tried side by side: a run mostly waits, for what is stalled.
const LANES: u64 = 4;
const AT_A_TIME: usize = 16;

/// What goes wrong at each position of an event, or every `step`th from `start` on.
#[derive(Clone, Copy)]
struct Sweep {
    event: &'static str,
    what: &'static str,
    start: u64,
    step: u64,
}

const fn sweep(event: &'static str, what: &'static str, step: u64) -> Sweep {
    Sweep {
        event,
        what,
        start: 1,
        step,
    }
}

/// Positions tried, and what came of them.
#[derive(Default)]
struct Tally {
    positions: u64,
    /// There are as many, by the counts of a run without faults.
    counted: u64,
    failed_operations: u64,
    losses: Vec<String>,
}

fn full() -> bool {
    std::env::var_os("FTPSFS_FULL").is_some_and(|value| value == "1")
}

#[test]
fn each_command() {
    sweeps(
        &["fin", "rst", "stall", "reply \"421 Going down\"", "mute"]
            .map(|what| sweep("command", what, 1)),
    );
}

#[test]
fn each_record_of_control_connections() {
    let whats = ["fin", "rst", "stall"];
    let sent = whats.map(|what| sweep("control sent record", what, 1));
    let received = whats.map(|what| sweep("control received record", what, 1));
    sweeps(&[sent, received].concat());
}

#[test]
fn each_record_of_data_connections() {
    let whats = ["fin", "rst", "stall", "forged-close-notify"];
    let sent = whats.map(|what| sweep("data sent record", what, 1));
    let received = whats.map(|what| sweep("data received record", what, 1));
    sweeps(&[sent, received].concat());
}

/// All of them with `tests/run --full`.
#[test]
fn each_reply_byte() {
    let step = if full() { 1 } else { 23 };
    sweeps(&["fin", "rst"].map(|what| sweep("reply byte", what, step)));
}

/// Every other fault there is, at the first commands that it is for.
#[test]
fn each_other_fault() {
    let faults = [
        ("RETR", &["cut 1", "cut 20001", "no-close-notify"][..]),
        (
            "RETR",
            &["no-resumption", "no-resumption 425", "no-resumption 522"],
        ),
        (
            "STOR",
            &["no-close-notify", "no-resumption", "no-resumption 522"],
        ),
        (
            "STOR",
            &["full 1", "full 30000", "full 30000 552", "full 30000 226"],
        ),
        ("APPE", &["full 3", "full 3 226", "no-close-notify"]),
        ("MLSD", &["no-close-notify", "endless-listing"]),
        (
            "MLSD",
            &["endless-listing-line", "line \"type=file;size=1; ../evil\""],
        ),
        (
            "MLSD",
            &["line \"type=file;size=1; a\\0b\"", "line \"type=dir; ..\""],
        ),
        ("LIST", &["cut 30", "no-close-notify", "endless-listing"]),
        ("STAT", &["endless-reply", "endless-line", "split", "join"]),
        (
            "EPSV",
            &["closed-port", "silent-port", "reply \"229 (|||99999|)\""],
        ),
        ("EPSV", &["reply \"425 No\"", "lie \"229 Entering\""]),
        (
            "SIZE",
            &["size +1", "size -1", "reply \"213 x\"", "reply \"550 No\""],
        ),
        (
            "PASS",
            &["reply \"530 Too many\"", "reply \"421 Too many\""],
        ),
        (
            "connect",
            &["reply \"421 Too many\"", "before \"120 Soon\"", "stall"],
        ),
        (
            "connect",
            &["send \"220 Early\\r\\n\"", "fin", "rst", "endless-reply"],
        ),
        (
            "command",
            &["endless-reply", "endless-line", "split", "join"],
        ),
        (
            "command",
            &[
                "drip 10ms",
                "before \"200 Surplus\"",
                "after \"200 Surplus\"",
            ],
        ),
        ("data sent byte", &["send \"clear\""]),
        (
            "control sent record",
            &["send \"clear\"", "forged-close-notify"],
        ),
    ];
    let mut rules = Vec::new();
    for (event, whats) in faults {
        for what in whats {
            // As many of each as a session has, or enough.
            rules.extend((1..=8).map(|nth| format!("{event} {nth}: {what}")));
        }
    }
    let next = AtomicUsize::new(0);
    let losses = Mutex::new(Vec::new());
    let hits = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                let rig = Rig::new(Security::Implicit);
                while let Some(rule) = rules.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = rig.run(rule);
                    hits.fetch_add(run.counts.hits as usize, Ordering::Relaxed);
                    let wrong = run.wrong.into_iter();
                    let wrong = wrong.map(|wrong| format!("{rule}: {wrong}"));
                    losses.lock().unwrap().extend(wrong);
                }
            });
        }
    });
    let losses = losses.into_inner().unwrap();
    let hits = hits.into_inner();
    println!("{hits} hits of {} rules", rules.len());
    assert!(hits >= 150, "{hits} hits");
    assert!(losses.is_empty(), "{} losses: {losses:#?}", losses.len());
}

/// What is asserted can fail: a server that says what is not true is found out.
#[test]
fn a_loss_is_seen() {
    let rig = Rig::new(Security::Implicit);
    let run = rig.run("DELE: reply \"250 OK\"");
    assert_eq!(run.wrong, ["old is still there"]);
    let run = rig.run("command 9999: rst");
    assert_eq!((run.counts.hits, run.failed, run.wrong.len()), (0, 0, 0));
}

/// Runs them, each with a server of its own.
#[track_caller]
fn sweeps(sweeps: &[Sweep]) {
    let securities: &[Security] = if full() {
        &[Security::Implicit, Security::Explicit]
    } else {
        &[Security::Implicit]
    };
    let mut jobs = Vec::new();
    for security in securities {
        for sweep in sweeps {
            for lane in 0..LANES {
                let start = sweep.start + lane * sweep.step;
                let step = sweep.step * LANES;
                jobs.push((
                    *security,
                    Sweep {
                        start,
                        step,
                        ..*sweep
                    },
                ));
            }
        }
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(jobs.len()) {
            scope.spawn(|| {
                while let Some((security, sweep)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let tally = sweep.run(*security);
                    println!("{security:?}, {sweep}: {tally}");
                    done.lock().unwrap().push(tally);
                }
            });
        }
    });
    let done = done.into_inner().unwrap();
    assert_eq!(done.len(), jobs.len(), "a sweep did not end");
    let losses: Vec<_> = done.iter().flat_map(|tally| &tally.losses).collect();
    assert!(losses.is_empty(), "{} losses: {losses:#?}", losses.len());
}

impl Sweep {
    fn run(&self, security: Security) -> Tally {
        let rig = Rig::new(security);
        let healthy = rig.run("");
        let mut tally = Tally {
            counted: self.positions(self.count(&healthy.counts)),
            losses: healthy.wrong,
            ..Tally::default()
        };
        assert!(tally.counted > 0 && healthy.failed == 0, "{self}");
        for nth in (self.start..).step_by(self.step as usize) {
            let rule = format!("{} {nth}: {}", self.event, self.what);
            let run = rig.run(&rule);
            // Beyond the last one.
            if run.counts.hits == 0 {
                break;
            }
            tally.positions += 1;
            tally.failed_operations += run.failed;
            let losses = run.wrong.into_iter();
            tally
                .losses
                .extend(losses.map(|wrong| format!("{rule}: {wrong}")));
        }
        // How commands fall into records, and what is done ahead, is not the same each time.
        assert!(
            tally.positions + 2 >= tally.counted * 9 / 10,
            "{self}: {tally}"
        );
        tally
    }

    /// Of so many events.
    fn positions(&self, events: u64) -> u64 {
        (self.start..=events).step_by(self.step as usize).count() as u64
    }

    fn count(&self, counts: &ftpsfs::server::Counts) -> u64 {
        match self.event {
            "command" => counts.commands,
            "reply byte" => counts.reply_bytes,
            "control sent record" => counts.control.sent.records,
            "control received record" => counts.control.received.records,
            "data sent record" => counts.data.sent.records,
            "data received record" => counts.data.received.records,
            other => panic!("{other}"),
        }
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}, {}, ...: {}",
            self.event,
            self.start,
            self.start + self.step,
            self.what
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} positions of {} counted, {} operations failed, {} losses",
            self.positions,
            self.counted,
            self.failed_operations,
            self.losses.len()
        )
    }
}
