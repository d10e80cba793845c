//! A small session (connect, list, read, write, append, rename, delete) through the whole client,
//! from the file system down, against the embedded server that fails once: at each command, each
//! reply byte and each TLS record, in both directions. Each operation succeeds, or fails for want
//! of the server and in time; what was acknowledged is on the server; and the file system is
//! healthy right after. The same with `hard`, where nothing fails, with write-back, and by several
//! at once on one session.

#[path = "../common/mod.rs"]
mod common;
mod dice;
mod script;
mod soak;
mod weather;
mod worker;
mod worlds;

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::full;
use common::report::Row;
use ftpsfs::proto::Security;
use script::{Manner, Rig, Run};

/// Positions of one event that are tried side by side: a run mostly waits, for what is stalled.
const LANES: u64 = 4;
const AT_A_TIME: usize = 16;

/// What goes wrong at each position of an event, or every `step`th from `start` on.
#[derive(Clone, Copy)]
struct Sweep {
    manner: Manner,
    event: &'static str,
    what: &'static str,
    start: u64,
    step: u64,
}

/// Positions tried, and what came of them.
#[derive(Default)]
struct Tally {
    positions: u64,
    /// There are as many, by the counts of a run without faults.
    counted: u64,
    requests: u64,
    failed_operations: u64,
    longest: Duration,
    losses: Vec<String>,
    hangs: Vec<String>,
}

/// Every position with `tests/run --full`, else every `step`th.
fn sweep(manner: Manner, event: &'static str, what: &'static str, step: u64) -> Sweep {
    Sweep {
        manner,
        event,
        what,
        start: 1,
        step: if full() { 1 } else { step },
    }
}

#[test]
fn each_command() {
    sweeps(
        "each command",
        &["fin", "rst", "stall", "reply \"421 Going down\"", "mute"]
            .map(|what| sweep(Manner::Soft, "command", what, 1)),
    );
}

#[test]
fn each_record_of_control_connections() {
    let whats = ["fin", "rst", "stall"];
    let sent = whats.map(|what| sweep(Manner::Soft, "control sent record", what, 1));
    let received = whats.map(|what| sweep(Manner::Soft, "control received record", what, 1));
    sweeps("each control record", &[sent, received].concat());
}

#[test]
fn each_record_of_data_connections() {
    let whats = ["fin", "rst", "stall", "forged-close-notify"];
    let sent = whats.map(|what| sweep(Manner::Soft, "data sent record", what, 1));
    let received = whats.map(|what| sweep(Manner::Soft, "data received record", what, 1));
    sweeps("each data record", &[sent, received].concat());
}

/// All of them with `tests/run --full`.
#[test]
fn each_reply_byte() {
    sweeps(
        "each reply byte",
        &["fin", "rst"].map(|what| sweep(Manner::Soft, "reply byte", what, 23)),
    );
}

/// A fault that passes, and a server that is gone for longer than a request may wait.
#[test]
fn hard_waits_and_nothing_fails() {
    const GONE: &str = "fin; connect 2 x10: fin";
    let hard = |event, what, step| sweep(Manner::Hard, event, what, step);
    sweeps(
        "hard",
        &[
            hard("command", "rst", 3),
            hard("command", "stall", 3),
            hard("command", "reply \"421 Going down\"", 3),
            hard("command", "mute", 3),
            hard("command", GONE, 5),
            hard("control sent record", "rst", 7),
            hard("control received record", "stall", 7),
            hard("data sent record", "fin", 3),
            hard("data sent record", GONE, 5),
            hard("data received record", "rst", 3),
            hard("reply byte", "fin", 211),
            hard("control sent record", "send \"clear\"", 7),
            hard("control sent record", "forged-close-notify", 7),
            hard("data sent record", "forged-close-notify", 3),
        ],
    );
}

/// The server does what it is told, and is gone before it says so, for longer than an attempt.
#[test]
fn hard_does_not_fail_what_was_done_without_an_answer() {
    let rig = Rig::new(Security::Implicit, Manner::Hard);
    for command in ["DELE", "RNTO 1", "RNTO 2", "STOR", "APPE"] {
        let run = rig.run(&format!("{command}: mute; connect 2 x10: fin"));
        assert_eq!(run.wrong, [""; 0], "{command}");
        assert!(run.counts.hits > 1, "{command}");
    }
}

/// The control connection is well all the time.
#[test]
fn hard_waits_out_data_connections_that_fail_again_and_again() {
    let rig = Rig::new(Security::Explicit, Manner::Hard);
    for command in ["MLSD", "RETR", "STOR", "APPE"] {
        let run = rig.run(&format!("{command} 1 x8: reply \"426 Broken\""));
        assert_eq!(run.wrong, [""; 0], "{command}");
        assert!(run.counts.hits > 3, "{command}");
    }
}

#[test]
fn write_back_keeps_what_it_promised() {
    const GONE: &str = "fin; connect 2 x10: fin";
    let late = |event, what, step| sweep(Manner::WriteBack, event, what, step);
    sweeps(
        "write-back",
        &[
            late("command", "rst", 1),
            late("command", "stall", 2),
            late("command", "reply \"421 Going down\"", 2),
            late("command", "mute", 1),
            late("command", GONE, 4),
            late("control sent record", "rst", 5),
            late("control received record", "fin", 5),
            late("data sent record", "stall", 3),
            late("data received record", "rst", 1),
            late("data received record", "stall", 2),
            late("reply byte", "rst", 97),
        ],
    );
}

#[test]
fn at_once_on_one_session_nobody_waits_for_good() {
    let both = |event, what, step| sweep(Manner::AtOnce, event, what, step);
    sweeps(
        "at once",
        &[
            both("command", "rst", 1),
            both("command", "stall", 2),
            both("command", "reply \"421 Going down\"", 2),
            both("control sent record", "stall", 5),
            both("control received record", "fin", 5),
            both("data sent record", "rst", 2),
            both("data sent record", "stall", 3),
            both("data received record", "fin", 2),
            both("data received record", "stall", 3),
        ],
    );
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
        (
            "MLSD",
            &["cut 1", "cut 90", "no-close-notify", "endless-listing"],
        ),
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
    let done = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                let rig = Rig::new(Security::Implicit, Manner::Soft);
                while let Some(rule) = rules.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = rig.run(rule);
                    let mut done = done.lock().unwrap();
                    done.positions += run.counts.hits;
                    done.add(rule, run);
                }
            });
        }
    });
    let done = done.into_inner().unwrap();
    println!("{} hits of {} rules", done.positions, rules.len());
    let kinds = faults.iter().map(|(_, whats)| whats.len()).sum();
    conclude("each other fault", kinds, &[done], 150);
}

/// What is asserted can fail: a server that says what is not true is found out.
#[test]
fn a_loss_is_seen() {
    let rig = Rig::new(Security::Implicit, Manner::Soft);
    let run = rig.run("DELE: reply \"250 OK\"");
    assert_eq!(run.wrong, ["old is still there"]);
    let run = rig.run("command 9999: rst");
    assert_eq!((run.counts.hits, run.failed, run.wrong.len()), (0, 0, 0));
}

/// Runs them, each with a server of its own.
#[track_caller]
fn sweeps(title: &'static str, sweeps: &[Sweep]) {
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
    conclude(title, sweeps.len(), &done, 1);
}

/// Reports what came of them, and fails where something was lost or late.
#[track_caller]
fn conclude(title: &'static str, faults: usize, done: &[Tally], least: u64) {
    let sum = |of: fn(&Tally) -> u64| done.iter().map(of).sum();
    let losses: Vec<_> = done.iter().flat_map(|tally| &tally.losses).collect();
    let hangs: Vec<_> = done.iter().flat_map(|tally| &tally.hangs).collect();
    let row = Row {
        title: title.to_owned(),
        faults: faults as u64,
        positions: sum(|tally| tally.positions),
        operations: sum(|tally| tally.requests),
        failed: sum(|tally| tally.failed_operations),
        losses: losses.len() as u64,
        hangs: hangs.len() as u64,
        longest: done
            .iter()
            .map(|tally| tally.longest)
            .max()
            .unwrap_or_default(),
        deadline: script::DEADLINE,
    };
    row.report();
    assert!(losses.is_empty(), "{} losses: {losses:#?}", losses.len());
    assert!(hangs.is_empty(), "{} hangs: {hangs:#?}", hangs.len());
    assert!(row.positions >= least, "{} positions", row.positions);
}

impl Sweep {
    fn run(&self, security: Security) -> Tally {
        let rig = Rig::new(security, self.manner);
        let healthy = rig.run("");
        let mut tally = Tally {
            counted: self.positions(self.count(&healthy.counts)),
            losses: healthy.wrong,
            hangs: healthy.late,
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
            tally.add(&rule, run);
        }
        match self.manner {
            // Who is served first is not the same each time.
            Manner::AtOnce => assert!(2 * tally.positions >= tally.counted, "{self}: {tally}"),
            Manner::Soft | Manner::Hard | Manner::WriteBack => {
                assert!(self.is_all(&rig, &tally), "{self}: {tally}");
            }
        }
        tally
    }

    /// Whether there were as many positions as there are. On a busy machine commands fall into
    /// records otherwise now and then, so a few more runs without faults may tell.
    fn is_all(&self, rig: &Rig, tally: &Tally) -> bool {
        let mut counts = vec![tally.counted];
        while !counts.contains(&tally.positions) && counts.len() < 6 {
            counts.push(self.positions(self.count(&rig.run("").counts)));
        }
        let (least, most) = (counts.iter().min(), counts.iter().max());
        // The last one may have been too late to be counted.
        least <= Some(&(tally.positions + 1)) && Some(&tally.positions.saturating_sub(1)) <= most
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

impl Tally {
    fn add(&mut self, rule: &str, run: Run) {
        self.requests += run.requests;
        self.failed_operations += run.failed;
        self.longest = self.longest.max(run.longest);
        let told = |what: String| format!("{rule}: {what}");
        self.losses.extend(run.wrong.into_iter().map(told));
        self.hangs.extend(run.late.into_iter().map(told));
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} {}, {}, ...: {}",
            self.manner,
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
            "{} positions of {} counted, {} operations failed, {} losses, {} hangs",
            self.positions,
            self.counted,
            self.failed_operations,
            self.losses.len(),
            self.hangs.len()
        )
    }
}
