//! Both ends in memory: the machine against scripted servers. A server is a function from what it
//! meets (a connection, a TLS handshake, a command) to the replies it sends then.

mod login;

use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::ReplyParser;
use super::*;

/// What a server meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met<'a> {
    Connection,
    TlsStarted,
    TlsStopped,
    Command(&'a str),
}

fn login(security: Security) -> Login {
    Login {
        security,
        user: b"me".to_vec(),
        password: Secret::new("secret"),
        account: None,
        host: None,
        utf8: true,
        implicit_needs_prot: false,
        pipeline: true,
        features: None,
    }
}

fn replies(wire: &str) -> Vec<Reply> {
    let mut parser = ReplyParser::new();
    parser.push(wire.as_bytes());
    let mut replies = Vec::new();
    while let Some(reply) = parser.next().expect("a script of replies") {
        replies.push(reply);
    }
    assert!(parser.is_empty(), "unfinished: {wire:?}");
    replies
}

/// A connection between the machine and a server, and what went over it: a line for each write,
/// `(tls)` and `(clear)`.
struct Wire {
    machine: Negotiation,
    inbox: VecDeque<Reply>,
    tls: bool,
    trace: Vec<String>,
}

impl Wire {
    fn new(login: Login) -> Self {
        let machine = Negotiation::new(login);
        Self {
            machine,
            inbox: VecDeque::new(),
            tls: false,
            trace: Vec::new(),
        }
    }

    fn connect(
        &mut self,
        mut server: impl FnMut(Met) -> &'static str,
    ) -> Result<Ready, NegotiationError> {
        self.inbox.extend(replies(server(Met::Connection)));
        let first = self.machine.start();
        self.run(first, server)
    }

    fn reinitialize(
        &mut self,
        server: impl FnMut(Met) -> &'static str,
    ) -> Result<Ready, NegotiationError> {
        let first = self.machine.reinitialize();
        self.run(first, server)
    }

    fn run(
        &mut self,
        first: Step,
        mut server: impl FnMut(Met) -> &'static str,
    ) -> Result<Ready, NegotiationError> {
        let mut step = first;
        loop {
            step = match step {
                Step::StartTls => {
                    assert!(!self.tls && self.inbox.is_empty());
                    self.tls = true;
                    self.trace.push("(tls)".into());
                    self.inbox.extend(replies(server(Met::TlsStarted)));
                    self.machine.on_tls_started()
                }
                Step::StopTls => {
                    assert!(self.tls && self.inbox.is_empty());
                    self.tls = false;
                    self.trace.push("(clear)".into());
                    self.inbox.extend(replies(server(Met::TlsStopped)));
                    self.machine.on_tls_stopped()
                }
                Step::Send(commands) => {
                    let lines: Vec<_> = commands.iter().map(Command::to_string).collect();
                    check_write(&commands, self.tls);
                    self.trace.push(lines.join(" | "));
                    for line in &lines {
                        self.inbox.extend(replies(server(Met::Command(line))));
                    }
                    self.reply()?
                }
                Step::Await => self.reply()?,
                Step::Ready(ready) => {
                    assert!(self.tls && self.inbox.is_empty());
                    return Ok(*ready);
                }
            }
        }
    }

    fn reply(&mut self) -> Result<Step, NegotiationError> {
        let reply = self
            .inbox
            .pop_front()
            .expect("the machine waits for what never comes");
        self.machine.on_reply(reply)
    }
}

/// What must hold of every write.
fn check_write(commands: &[Command], tls: bool) {
    assert!(!commands.is_empty());
    let size: usize = commands.iter().map(|command| command.encode().len()).sum();
    assert!(
        commands.len() == 1 || size <= 1024,
        "{size} bytes in one write"
    );
    for command in commands {
        let needs_tls = !matches!(command, Command::Auth(_));
        assert_eq!(tls, needs_tls, "{command} with TLS {tls}");
        assert_ne!(*command, Command::Ccc);
    }
}

/// A server that takes whatever comes and greets as its kind does.
fn agreeable(security: Security) -> impl FnMut(Met) -> &'static str {
    move |met| match (met, security) {
        (Met::Connection, Security::Explicit) => "220 Hello\r\n",
        (Met::TlsStarted, Security::Implicit) => "220 Hello\r\n",
        (Met::Connection | Met::TlsStarted | Met::TlsStopped, _) => "",
        (Met::Command(line), _) => match line.split(' ').next().unwrap_or_default() {
            "AUTH" => "234 TLS\r\n",
            "USER" => "331 Password\r\n",
            "PASS" => "230 In\r\n",
            "FEAT" => "211-Features:\r\n MLST type*;size*;modify*;\r\n SIZE\r\n211 End\r\n",
            "REIN" => "220 Again\r\n",
            _ => "200 OK\r\n",
        },
    }
}

/// The same, but that it answers `special` its own way.
fn answering(
    security: Security,
    special: &'static [(&'static str, &'static str)],
) -> impl FnMut(Met) -> &'static str {
    let mut other = agreeable(security);
    move |met| {
        let known = |&&(line, _): &&(&str, &str)| met == Met::Command(line);
        special
            .iter()
            .find(known)
            .map_or_else(|| other(met), |(_, reply)| reply)
    }
}

const LOGIN: &str = "USER me | PASS **** | PBSZ 0 | PROT P | FEAT | TYPE I";
const IMPLICIT_LOGIN: &str = "USER me | PASS **** | FEAT | TYPE I";

#[test]
fn explicit() {
    let mut wire = Wire::new(login(Security::Explicit));
    let ready = wire.connect(agreeable(Security::Explicit)).expect("ready");
    assert_eq!(wire.trace, ["AUTH TLS", "(tls)", LOGIN]);
    assert_eq!(ready.greeting, Reply::new(220, "Hello"));
    assert!(ready.features.has("SIZE") && !ready.utf8);
}

#[test]
fn implicit_neither_waits_for_a_greeting_nor_sends_auth_pbsz_prot() {
    let mut wire = Wire::new(login(Security::Implicit));
    let ready = wire.connect(agreeable(Security::Implicit)).expect("ready");
    assert_eq!(wire.trace, ["(tls)", IMPLICIT_LOGIN]);
    assert_eq!(ready.greeting, Reply::new(220, "Hello"));
}

#[test]
fn implicit_server_that_needs_prot() {
    let mut wire = Wire::new(Login {
        implicit_needs_prot: true,
        ..login(Security::Implicit)
    });
    wire.connect(agreeable(Security::Implicit)).expect("ready");
    assert_eq!(wire.trace, ["(tls)", LOGIN]);
}

#[test]
fn one_at_a_time() {
    for (security, protection) in [
        (Security::Explicit, &["PBSZ 0", "PROT P"][..]),
        (Security::Implicit, &[]),
    ] {
        let mut wire = Wire::new(Login {
            pipeline: false,
            ..login(security)
        });
        wire.connect(agreeable(security)).expect("ready");
        let start = wire
            .trace
            .iter()
            .position(|line| line == "USER me")
            .expect("a login");
        let expected = [&["USER me", "PASS ****"], protection, &["FEAT", "TYPE I"]].concat();
        assert_eq!(wire.trace[start..], expected);
    }
}

#[test]
fn greetings() {
    for security in [Security::Explicit, Security::Implicit] {
        let greeted = |greeting: &'static str| {
            let mut other = agreeable(security);
            let result = Wire::new(login(security)).connect(move |met| match other(met) {
                "220 Hello\r\n" => greeting,
                reply => reply,
            });
            result.map(|ready| ready.greeting.code.as_u16())
        };
        assert_eq!(greeted("220-Welcome\r\n220 to us\r\n"), Ok(220));
        assert_eq!(greeted("120 In five minutes\r\n220 Now\r\n"), Ok(220));
        let forever = "120 1\r\n120 2\r\n120 3\r\n120 4\r\n120 5\r\n120 6\r\n";
        assert_eq!(
            greeted(forever),
            Err(NegotiationError::Unavailable(Reply::new(120, "5")))
        );
        for refusal in ["421 Too many\r\n", "530 Banned\r\n", "500 OOPS\r\n"] {
            let expected = replies(refusal).remove(0);
            assert_eq!(
                greeted(refusal),
                Err(NegotiationError::Unavailable(expected))
            );
        }
        let odd = Reply::new(331, "What?");
        assert_eq!(
            greeted("331 What?\r\n"),
            Err(NegotiationError::Unexpected(odd))
        );
    }
}

#[test]
fn auth_ssl_where_auth_tls_is_unknown() {
    for refusal in [
        "500 ?\r\n",
        "501 ?\r\n",
        "502 ?\r\n",
        "503 ?\r\n",
        "504 ?\r\n",
    ] {
        let mut wire = Wire::new(login(Security::Explicit));
        let mut other = agreeable(Security::Explicit);
        let result = wire.connect(|met| match met {
            Met::Command("AUTH TLS") => refusal,
            met => other(met),
        });
        result.expect("ready");
        assert_eq!(wire.trace, ["AUTH TLS", "AUTH SSL", "(tls)", LOGIN]);
    }
}

#[test]
fn refused_auth_ends_it_with_the_servers_words() {
    for refusal in [
        "431 No\r\n",
        "522 No\r\n",
        "530 No\r\n",
        "533 No\r\n",
        "534 No\r\n",
        "536 No\r\n",
    ] {
        let mut wire = Wire::new(login(Security::Explicit));
        let mut other = agreeable(Security::Explicit);
        let result = wire.connect(|met| match met {
            Met::Command("AUTH TLS") => refusal,
            met => other(met),
        });
        let words = replies(refusal).remove(0);
        assert_eq!(result, Err(NegotiationError::NoTls(words)));
        assert_eq!(
            wire.trace,
            ["AUTH TLS"],
            "nothing in the clear after {refusal}"
        );
    }
}

#[test]
fn a_plain_ftp_server() {
    let mut wire = Wire::new(login(Security::Explicit));
    let result = wire.connect(answering(
        Security::Explicit,
        &[
            ("AUTH TLS", "500 Unknown\r\n"),
            ("AUTH SSL", "500 Still unknown\r\n"),
        ],
    ));
    assert_eq!(
        result,
        Err(NegotiationError::NoTls(Reply::new(500, "Still unknown")))
    );
    assert_eq!(wire.trace, ["AUTH TLS", "AUTH SSL"]);
}

#[test]
fn a_421_at_any_point_is_unavailable() {
    let lines = [
        "AUTH TLS",
        "USER me",
        "PASS ****",
        "PBSZ 0",
        "PROT P",
        "FEAT",
        "TYPE I",
        "OPTS UTF8 ON",
    ];
    for pipeline in [true, false] {
        for line in lines {
            let mut other = answering(
                Security::Explicit,
                &[("FEAT", "211-F\r\n UTF8\r\n211 E\r\n")],
            );
            let mut wire = Wire::new(Login {
                pipeline,
                ..login(Security::Explicit)
            });
            let result = wire.connect(|met| match met {
                met if met == Met::Command(line) => "421 Going down\r\n",
                met => other(met),
            });
            let words = Reply::new(421, "Going down");
            assert_eq!(result, Err(NegotiationError::Unavailable(words)), "{line}");
        }
    }
}

#[test]
fn rein_on_implicit_negotiates_tls_and_is_greeted_again() {
    for rein in ["220 Again\r\n", "120 Soon\r\n220 Again\r\n"] {
        let mut wire = Wire::new(login(Security::Implicit));
        wire.connect(agreeable(Security::Implicit)).expect("ready");
        let before = wire.trace.clone();
        let mut other = agreeable(Security::Implicit);
        let ready = wire.reinitialize(|met| match met {
            Met::Command("REIN") => rein,
            met => other(met),
        });
        ready.expect("ready again");
        let again = &wire.trace[before.len()..];
        assert_eq!(
            again,
            [&["REIN".to_owned(), "(clear)".to_owned()], &before[..]].concat()
        );
    }
}

#[test]
fn rein_on_implicit_keeps_to_prot_once_it_was_needed() {
    let mut wire = Wire::new(login(Security::Implicit));
    wire.connect(agreeable(Security::Implicit)).expect("ready");
    assert!(!wire.machine.sends_prot());
    wire.machine.send_prot();
    let before = wire.trace.len();
    wire.reinitialize(agreeable(Security::Implicit))
        .expect("ready again");
    let again = wire.trace[before..].join(" | ");
    assert!(again.contains("PBSZ 0 | PROT P"), "{again}");
}

#[test]
fn rein_on_explicit_is_clear_until_auth_and_brings_no_greeting() {
    let mut wire = Wire::new(login(Security::Explicit));
    let first = wire.connect(agreeable(Security::Explicit)).expect("ready");
    for _ in 0..2 {
        let again = wire
            .reinitialize(agreeable(Security::Explicit))
            .expect("ready again");
        assert_eq!(again, first);
    }
    let once = ["REIN", "(clear)", "AUTH TLS", "(tls)", LOGIN];
    assert_eq!(wire.trace[3..], [once, once].concat());
}

#[test]
fn rein_refused() {
    for security in [Security::Explicit, Security::Implicit] {
        for refusal in [
            "500 ?\r\n",
            "502 ?\r\n",
            "230 Ready for new user\r\n",
            "331 ?\r\n",
        ] {
            let mut wire = Wire::new(login(security));
            wire.connect(agreeable(security)).expect("ready");
            let result = wire.reinitialize(|_| refusal);
            let words = replies(refusal).remove(0);
            assert_eq!(result, Err(NegotiationError::ReinRefused(words)));
        }
        let mut wire = Wire::new(login(security));
        wire.connect(agreeable(security)).expect("ready");
        let result = wire.reinitialize(|_| "421 Bye\r\n");
        assert_eq!(
            result,
            Err(NegotiationError::Unavailable(Reply::new(421, "Bye")))
        );
    }
}

#[test]
fn replies_that_nobody_asked_for() {
    let mut wire = Wire::new(login(Security::Implicit));
    assert_eq!(wire.machine.start(), Step::StartTls);
    let injected = Reply::new(220, "Before TLS");
    let result = wire.machine.on_reply(injected.clone());
    assert_eq!(result, Err(NegotiationError::Unexpected(injected)));

    let mut wire = Wire::new(login(Security::Explicit));
    wire.connect(agreeable(Security::Explicit)).expect("ready");
    let surplus = Reply::new(200, "Surplus");
    let result = wire.machine.on_reply(surplus.clone());
    assert_eq!(result, Err(NegotiationError::Unexpected(surplus)));
}

#[test]
fn passwords_stay_out_of_debug_output() {
    let mut wire = Wire::new(login(Security::Implicit));
    wire.machine.start();
    let step = wire.machine.on_tls_started();
    let shown = format!("{:?} {step:?}", wire.machine);
    assert!(
        !shown.contains("secret") && !shown.contains("115, 101"),
        "{shown}"
    );
}

fn any_reply() -> impl Strategy<Value = Reply> {
    let likely = prop::sample::select(vec![
        120, 150, 200, 202, 211, 220, 230, 232, 234, 331, 332, 334, 431, 500, 503, 504, 530, 534,
    ]);
    let code = prop_oneof![9 => likely, 1 => 100u16..600];
    (code, "( (UTF8|CLNT|MLST type;size\\*;))?", any::<bool>()).prop_map(|(code, text, list)| {
        let mut reply = Reply::new(code, &text);
        if list {
            reply.lines = vec![b"F".to_vec(), text.into_bytes(), b"E".to_vec()];
        }
        reply
    })
}

/// What moves the machine on: a greeting, or the agreeable answer to the oldest command.
fn expected_reply(in_flight: &mut VecDeque<Command>) -> Reply {
    let Some(command) = in_flight.pop_front() else {
        return Reply::new(220, "");
    };
    let mut server = agreeable(Security::Explicit);
    replies(server(Met::Command(&command.to_string()))).remove(0)
}

/// Whatever a server says, in whatever order: no panic, no credentials in the clear, no overlong
/// write, and "ready" only under TLS. `None` stands for what is expected.
fn converse(login: Login, said: Vec<Option<Reply>>) -> Result<(), TestCaseError> {
    let mut machine = Negotiation::new(login);
    let mut said = said.into_iter();
    let mut in_flight = VecDeque::new();
    let mut tls = false;
    let mut step = machine.start();
    loop {
        step = match step {
            Step::StartTls => {
                prop_assert!(!tls && in_flight.is_empty());
                tls = true;
                machine.on_tls_started()
            }
            Step::StopTls => {
                prop_assert!(tls && in_flight.is_empty());
                tls = false;
                machine.on_tls_stopped()
            }
            Step::Ready(_) => {
                prop_assert!(tls && in_flight.is_empty());
                machine.reinitialize()
            }
            Step::Await | Step::Send(_) => {
                if let Step::Send(commands) = step {
                    check_write(&commands, tls);
                    in_flight.extend(commands);
                }
                let reply = match said.next() {
                    None => return Ok(()),
                    Some(None) => expected_reply(&mut in_flight),
                    Some(Some(reply)) => {
                        // 120 leaves the command, or the greeting, still to be answered.
                        if reply.code.as_u16() != 120 {
                            in_flight.pop_front();
                        }
                        reply
                    }
                };
                let gone = reply.code.as_u16() == 421;
                let Ok(next) = machine.on_reply(reply) else {
                    return Ok(());
                };
                prop_assert!(!gone, "421 was taken for something else");
                next
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_conversation(
        implicit: bool,
        implicit_needs_prot: bool,
        pipeline: bool,
        account in prop::option::of("[a-z]{0,5}"),
        host in prop::option::of("[a-z]{1,5}"),
        said in prop::collection::vec(prop::option::weighted(0.15, any_reply()), 0..60),
    ) {
        let security = if implicit { Security::Implicit } else { Security::Explicit };
        let account = account.map(Secret::new);
        let login = Login { account, host, implicit_needs_prot, pipeline, ..login(security) };
        converse(login, said)?;
    }
}
