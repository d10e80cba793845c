//! The session machine against any server: no credentials in the clear, TLS up and down in turn,
//! short writes, and "ready" only under TLS with nothing in flight. The first byte chooses the
//! options; each further one is a reply: from the table, or (from 0x80) what is hoped for.

use std::collections::VecDeque;

use ftpsfs::proto::{Command, Login, Negotiation, Reply, ReplyParser, Secret, Security, Step};

const REPLIES: [&str; 32] = [
    "120 Soon\r\n",
    "150 ?\r\n",
    "200 OK\r\n",
    "202 Superfluous\r\n",
    "220 Hello\r\n",
    "230 In\r\n",
    "232 In\r\n",
    "234 TLS\r\n",
    "257 \"/\"\r\n",
    "331 Password\r\n",
    "332 Account\r\n",
    "334 Data\r\n",
    "336 Challenge\r\n",
    "350 Go on\r\n",
    "421 Bye\r\n",
    "430 No\r\n",
    "431 No\r\n",
    "450 No\r\n",
    "500 No\r\n",
    "501 No\r\n",
    "502 No\r\n",
    "503 No\r\n",
    "504 No\r\n",
    "522 No\r\n",
    "530 No\r\n",
    "532 No\r\n",
    "533 No\r\n",
    "534 No\r\n",
    "536 No\r\n",
    "211 No features\r\n",
    "211-F\r\n CLNT\r\n UTF8\r\n MLST type*;size;UNIX.mode;\r\n211 E\r\n",
    "211-F\r\n MLST type*;;size;size;UNIX.mode*;x\r\n211 E\r\n",
];

fn reply(wire: &str) -> Reply {
    let mut parser = ReplyParser::new();
    parser.push(wire.as_bytes());
    parser.next().expect("a reply").expect("a whole one")
}

fn hoped_for(in_flight: &mut VecDeque<Command>) -> Reply {
    reply(match in_flight.pop_front().map(|command| command.verb()) {
        None | Some("REIN" | "HOST") => "220 Hello\r\n",
        Some("AUTH") => "234 TLS\r\n",
        Some("USER") => "331 Password\r\n",
        Some("PASS" | "ACCT") => "230 In\r\n",
        Some("FEAT") => REPLIES[30],
        Some(_) => "200 OK\r\n",
    })
}

pub fn check(data: &[u8]) {
    let Some((&options, said)) = data.split_first() else {
        return;
    };
    let option = |bit: u8| options & (1 << bit) != 0;
    let mut machine = Negotiation::new(Login {
        security: if option(0) {
            Security::Implicit
        } else {
            Security::Explicit
        },
        user: b"me".to_vec(),
        password: Secret::new("secret"),
        account: option(1).then(|| Secret::new("sales")),
        host: option(2).then(|| "ftp.example".to_owned()),
        utf8: true,
        implicit_needs_prot: option(3),
        pipeline: option(4),
        features: None,
    });
    let mut in_flight: VecDeque<Command> = VecDeque::new();
    let mut tls = false;
    let mut step = machine.start();
    let mut said = said.iter();
    loop {
        step = match step {
            Step::StartTls => {
                assert!(!tls && in_flight.is_empty());
                tls = true;
                machine.on_tls_started()
            }
            Step::StopTls => {
                assert!(tls && in_flight.is_empty());
                tls = false;
                machine.on_tls_stopped()
            }
            Step::Ready(ready) => {
                assert!(tls && in_flight.is_empty());
                assert_eq!(ready.greeting.code.as_u16(), 220);
                machine.reinitialize()
            }
            Step::Send(_) | Step::Await => {
                if let Step::Send(commands) = step {
                    let size: usize = commands.iter().map(|command| command.encode().len()).sum();
                    assert!((1..=1024).contains(&size));
                    assert!(
                        commands
                            .iter()
                            .all(|command| tls != matches!(command, Command::Auth(_)))
                    );
                    in_flight.extend(commands);
                }
                let Some(&byte) = said.next() else { return };
                let reply = if byte >= 0x80 {
                    hoped_for(&mut in_flight)
                } else {
                    // 120 leaves the command still to be answered.
                    if byte % 32 != 0 {
                        in_flight.pop_front();
                    }
                    reply(REPLIES[usize::from(byte % 32)])
                };
                let gone = reply.code.as_u16() == 421;
                let Ok(next) = machine.on_reply(reply) else {
                    return;
                };
                assert!(!gone);
                next
            }
        };
    }
}
