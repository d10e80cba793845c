use std::sync::Arc;

use proptest::prelude::*;

use super::{Direction, Faults, Passage, Place, Plan, Rules, Watched, What};

const CONTROL_SENT: Place = Place::Control(Direction::Sent);

fn rules(text: &str) -> Rules {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn every_rule_of_the_manual_is_read() {
    let manual = include_str!("../../../man/ftpsfs.1");
    let (_, table) = manual.split_once(".SH FAULT RULES").unwrap();
    let table = table.split("\n.SH ").next().unwrap();
    let examples: Vec<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix(".B \"")?.strip_suffix('"'))
        .map(|line| line.replace("\"\"", "\""))
        .map(|line| line.replace("\\-", "-").replace("\\e", "\\"))
        .collect();
    let mut named = std::collections::BTreeSet::new();
    for example in &examples {
        named.extend(rules(example).0.iter().map(|rule| rule.what.name()));
    }
    // Each word for what happens has an example.
    assert_eq!(named.len(), 28, "{named:?}");
}

#[test]
fn rules_stand_on_lines_or_between_semicolons_and_comments_are_none() {
    let text = " # nothing\n;; STOR 2 : rst ;RETR:send \"a;b # \\\" : \\x00\\\\\" # rest; fin\n";
    let parsed = rules(text);
    let shown: Vec<String> = parsed.0.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["STOR 2: rst", "RETR: send \"a;b # \\\" : \\x00\\\\\""]
    );
    assert_eq!(parsed.0[1].what, What::Send(b"a;b # \" : \0\\".to_vec()));
}

#[test]
fn wrong_rules_are_one_line_that_says_which_and_why() {
    for (text, message) in [
        (
            "RETR",
            "rule 1 (RETR): it is WHEN: WHAT, and there is no colon",
        ),
        (
            "RETR: rst; STOR: explode",
            "rule 2 (STOR: explode): nothing is called explode",
        ),
        ("retr: rst", "no event retr"),
        (": rst", "an event is missing"),
        ("RETR:", "what happens is missing"),
        ("RETR: rst now", "now is too much"),
        ("RETR: rst: fin", "a second colon is too much"),
        ("RETR 0: rst", "numbers begin at 1"),
        ("RETR 2 twice: rst", "no condition twice"),
        ("RETR x0: rst", "numbers begin at 1"),
        ("RETR xy: rst", "y is no number"),
        ("RETR 99999999999999999999: rst", "is no number"),
        ("RETR \"x\": rst", "a text is too much"),
        ("control record: rst", "sent or received, not record"),
        ("control sent line: rst", "byte or record, not line"),
        ("reply record: rst", "reply is counted by byte"),
        ("STOR in RETR: rst", "in VERB is for data"),
        ("data sent byte in retr: rst", "retr is no verb"),
        ("RETR: stall 5", "5 is no time"),
        ("RETR: drip", "a time is missing"),
        ("RETR: stall 99999999999999999999s", "is no time"),
        ("RETR: reply 550", "a text in quotes is missing"),
        ("RETR: reply \"550", "no closing quote"),
        ("RETR: reply \"\\q\"", "a text knows"),
        ("RETR: reply \"\\x+1\"", "two hexadecimal digits"),
        ("RETR: cut 0", "numbers begin at 1"),
        ("STOR: cut 5", "cut is for RETR, LIST, NLST, MLSD"),
        ("command: cut 5", "cut is for RETR"),
        ("connect: change", "change is for RETR"),
        (
            "data sent record: reply \"x\"",
            "reply is for a command or connect",
        ),
        ("STOR: full 5 200", "full answers 452, 552, or 226"),
        ("RETR: no-resumption 99", "99 is no reply code"),
        ("PASV: address ::1", "an IPv4 address is missing"),
        ("PASV: address 1.2.3", "1.2.3 is no IPv4 address"),
        ("SIZE: size many", "many is no number"),
        ("RETR:\u{1b}[1m", "nothing is called ?[1m"),
    ] {
        let error = text.parse::<Rules>().expect_err(text).to_string();
        assert!(error.contains(message), "{text}: {error}");
        assert!(!error.contains(char::is_control), "{text}: {error}");
    }
}

fn connection(faults: &Faults) -> Arc<Watched> {
    faults.accepted(1)
}

fn hits(plan: &Plan) -> usize {
    plan.all().len()
}

#[test]
fn a_rule_counts_through_all_connections_and_hits_once() {
    let faults = Faults::new(rules("STOR 2: rst"));
    let (first, second) = (connection(&faults), connection(&faults));
    assert_eq!(hits(&first.command("STOR")), 0);
    assert_eq!(hits(&second.command("RETR")), 0);
    assert_eq!(hits(&second.command("STOR")), 1);
    assert_eq!(hits(&second.command("STOR")), 0);
    assert_eq!(faults.counts().hits, 1);
    assert_eq!(faults.counts().commands, 4);
}

#[test]
fn repetition_and_conditions_choose_among_events() {
    let table = [
        ("NOOP x2: rst", [1, 1, 0, 0], [0, 0, 0, 0]),
        ("NOOP 3 x4: rst", [0, 0, 1, 1], [1, 1, 0, 0]),
        ("NOOP 4 always: rst", [0, 0, 0, 1], [1, 1, 1, 1]),
        ("NOOP 2 each: rst", [0, 1, 0, 0], [0, 1, 0, 0]),
        ("NOOP connection 2: rst", [0, 0, 0, 0], [1, 0, 0, 0]),
        ("NOOP over 1 always: rst", [0, 0, 0, 0], [1, 1, 1, 1]),
        ("command 6: rst; NOOP 6: fin", [0, 0, 0, 0], [0, 2, 0, 0]),
    ];
    for (text, on_first, on_second) in table {
        let faults = Faults::default();
        // Connections from before do not count.
        let _before = connection(&faults);
        faults.set(rules(text));
        let (first, second) = (faults.accepted(1), faults.accepted(2));
        let on = |watched: &Watched| [(); 4].map(|()| hits(&watched.command("NOOP")));
        assert_eq!(on(&first), on_first, "{text}");
        assert_eq!(on(&second), on_second, "{text}");
    }
}

#[test]
fn cleared_rules_hit_nothing_and_counts_stay_until_rules_are_set() {
    let faults = Faults::new(rules("NOOP always: rst"));
    let watched = connection(&faults);
    assert_eq!(hits(&watched.command("NOOP")), 1);
    faults.clear();
    assert_eq!(hits(&watched.command("NOOP")), 0);
    assert_eq!(faults.counts().commands, 2);
    faults.set(rules("NOOP 2: rst"));
    assert_eq!(faults.counts().commands, 0);
    assert_eq!(hits(&watched.command("NOOP")), 0);
    assert_eq!(hits(&watched.command("NOOP")), 1);
}

fn passage(reach: usize, record: bool, judged: bool) -> Passage {
    Passage {
        place: CONTROL_SENT,
        during: None,
        reach,
        record,
        judged,
    }
}

#[test]
fn bytes_pass_up_to_the_one_that_is_hit() {
    let faults = Faults::new(rules(
        "control sent byte 11 x2: stall; control received byte: rst",
    ));
    let watched = connection(&faults);
    let first = watched.judge(&passage(8, true, false));
    assert_eq!((first.free, first.hit.len()), (8, 0));
    watched.passing(&passage(8, true, false), || Ok(8)).unwrap();
    let up_to = watched.judge(&passage(8, false, false));
    assert_eq!((up_to.free, up_to.hit.len()), (2, 0));
    watched
        .passing(&passage(8, false, false), || Ok(2))
        .unwrap();
    assert_eq!(
        watched.judge(&passage(6, false, false)).hit,
        [What::Stall(None)]
    );
    // The second hit is the next byte, not the same one again.
    let judged = watched.judge(&passage(6, false, true));
    assert_eq!((judged.free, judged.hit.len()), (1, 0));
    watched.passing(&passage(6, false, true), || Ok(1)).unwrap();
    assert_eq!(
        watched.judge(&passage(5, false, false)).hit,
        [What::Stall(None)]
    );
    let rest = watched.judge(&passage(5, false, true));
    assert_eq!((rest.free, rest.hit.len()), (5, 0));
    let sent = faults.counts().control.sent;
    assert_eq!((sent.bytes, sent.records), (11, 1));
}

#[test]
fn records_are_hit_where_they_begin() {
    let faults = Faults::new(rules("control sent record 2: fin"));
    let watched = connection(&faults);
    assert!(watched.judge(&passage(8, true, false)).hit.is_empty());
    watched.passing(&passage(8, true, false), || Ok(3)).unwrap();
    assert!(watched.judge(&passage(5, false, false)).hit.is_empty());
    watched
        .passing(&passage(5, false, false), || Ok(5))
        .unwrap();
    assert!(watched.judge(&passage(9, false, false)).hit.is_empty());
    assert_eq!(watched.judge(&passage(9, true, false)).hit, [What::Fin]);
    assert!(watched.judge(&passage(9, true, true)).hit.is_empty());
    assert_eq!(faults.counts().hits, 1);
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "\\PC*|[A-Za-z0-9 :;\"\\\\#\n]*") {
        match text.parse::<Rules>() {
            Ok(parsed) => assert_eq!(again(&parsed), parsed),
            Err(error) => assert!(!error.to_string().contains('\n')),
        }
    }

    #[test]
    fn what_is_shown_is_read_as_the_same(
        when in prop::sample::select(vec![
            "connect", "command", "RETR", "SITE CHMOD", "reply byte", "control sent record",
            "control received byte", "data sent byte",
        ]),
        first in 1_u64..,
        times in prop::option::of(1_u64..),
        each: bool,
        over in prop::option::of(0_usize..),
        text: Vec<u8>,
    ) {
        let times = times.map_or("always".to_owned(), |times| format!("x{times}"));
        let each = if each { "each" } else { "" };
        let over = over.map_or(String::new(), |over| format!("over {over}"));
        let mut parsed = rules(&format!("{when} {first} {times} {each} {over}: send \"\""));
        parsed.0[0].what = What::Send(text);
        prop_assert_eq!(again(&parsed), parsed);
    }
}

fn again(parsed: &Rules) -> Rules {
    let shown: Vec<String> = parsed.0.iter().map(ToString::to_string).collect();
    rules(&shown.join(";"))
}
