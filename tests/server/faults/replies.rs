//! What the server says is not what it should say.

use std::net::Shutdown;

use ftpsfs::proto::Security::{Explicit, Implicit};

use super::{assert_fin, faulty, settled};
use crate::client::{read_to_end, soon};

/// vsftpd over its limit: 421 in the clear, on the implicit port too.
#[test]
fn rules_of_one_event_act_in_their_order() {
    let faulty = faulty(Implicit, "connect: send \"421 Full\\r\\n\"; connect: fin");
    let client = faulty.served.connect();
    assert_eq!(assert_fin(client.control.tcp()), b"421 Full\r\n");
    assert_eq!(faulty.hits(), 2);
    faulty.assert_healthy(Implicit);
}

#[test]
fn any_reply_comes_instead_before_behind_or_not_at_all() {
    let faulty = faulty(
        Implicit,
        "MKD: reply \"550 Not now\"
         MKD 2: lie \"450-Perhaps\\r\\n450 later\"
         MKD 3: mute
         MKD 4: before \"120 Wait\"; MKD 4: after \"200 Surplus\"
         NOOP 2: reply \"421 Going down\"",
    );
    let mut client = faulty.served.implicit();
    let made = |name: &str| faulty.served.path().join(name).exists();
    client.ask("MKD a", 550);
    assert!(!made("a"));
    assert_eq!(client.ask("MKD b", 450).lines.len(), 2);
    assert!(made("b"));
    client.send("MKD c\r\n");
    assert!(client.is_silent());
    assert!(made("c"));
    client.send("MKD d\r\n");
    client.expect(120);
    client.expect(257);
    client.expect(200);
    client.ask("NOOP", 200);
    client.ask("NOOP", 421);
    assert!(client.is_ended());
    faulty.assert_healthy(Implicit);
}

/// The last reply of a transfer is meant, not its 150.
#[test]
fn a_transfer_is_lied_about_at_its_end() {
    let faulty = faulty(Implicit, "STOR: lie \"426 Lost\"; STOR 2: mute");
    let mut client = faulty.served.implicit();
    for (name, lie) in [("a", Some(426)), ("b", None)] {
        let tcp = client.passive();
        client.ask(format!("STOR {name}"), 150);
        let mut data = client.protect(tcp);
        data.write_all(b"content", soon()).unwrap();
        data.close_notify(soon()).unwrap();
        data.tcp().shutdown(Shutdown::Write).unwrap();
        assert_eq!(data.read(&mut [0; 1], soon()).unwrap(), 0);
        match lie {
            Some(code) => drop(client.expect(code)),
            None => assert!(client.is_silent()),
        }
        assert_eq!(faulty.served.content(name), b"content");
    }
}

/// MS-FTPS 3.1.5.1: the greeting is 220, 120 and 220, or 421; explicit and implicit.
#[test]
fn greetings_of_every_kind() {
    for security in [Implicit, Explicit] {
        let faulty = faulty(
            security,
            "connect: before \"120 Soon\"; connect 2: reply \"421 Busy\"",
        );
        let mut client = faulty.served.connect();
        if security == Implicit {
            client.start_tls();
        }
        client.expect(120);
        client.expect(220);
        let mut client = faulty.served.connect();
        if security == Implicit {
            client.start_tls();
        }
        client.expect(421);
        assert!(client.is_ended());
        faulty.assert_healthy(security);
    }
}

/// MS-FTPS 3.1.5.3, 3.1.5.4, RFC 4217: what a client may hear to REIN and AUTH.
#[test]
fn rein_and_auth_are_answered_in_every_way() {
    let faulty = faulty(
        Explicit,
        "AUTH: reply \"500 What\"; AUTH 2: reply \"431 No resources\"
         AUTH 3: reply \"421 Bye\"
         REIN: reply \"502 No\"; REIN 2: before \"120 Wait\"; REIN 3: reply \"421 Bye\"",
    );
    let mut client = faulty.served.connect();
    client.expect(220);
    client.ask("AUTH TLS", 500);
    client.ask("AUTH SSL", 431);
    client.ask("AUTH SSL", 421);
    assert!(client.is_ended());
    let mut client = faulty.served.explicit();
    client.ask("REIN", 502);
    client.ask("PWD", 257);
    client.ask("REIN", 120);
    client.expect(220);
    client.stop_tls();
    client.ask("AUTH TLS", 234);
    client.start_tls();
    client.ask("REIN", 421);
    assert!(client.is_ended());
}

#[test]
fn replies_are_split_and_joined() {
    let faulty = faulty(Implicit, "");
    let mut client = faulty.served.implicit();
    faulty.set("PWD: split; RETR: join; NOOP x2: join");
    let reply = client.ask("PWD", 257).lines[0].len() + 2;
    assert_eq!(faulty.faults.counts().control.sent.records, reply as u64);
    // 150 and 226 in one record.
    let tcp = client.passive();
    let before = faulty.faults.counts().control.sent.records;
    client.send("RETR hello\r\n");
    assert_eq!(read_to_end(client.protect(tcp)), b"0123456789");
    client.expect(150);
    client.expect(226);
    assert_eq!(faulty.faults.counts().control.sent.records, before + 1);
    // Commands that were written together are answered together; one alone is answered too.
    client.send("NOOP\r\nPWD\r\n");
    client.expect(200);
    client.expect(257);
    assert_eq!(faulty.faults.counts().control.sent.records, before + 2);
    client.ask("NOOP", 200);
    assert_eq!(faulty.hits(), 4);
}

#[test]
fn replies_without_end_go_on_until_the_client_leaves() {
    let faulty = faulty(Implicit, "STAT: endless-reply; PWD: endless-line");
    for (command, newlines) in [("STAT", true), ("PWD", false)] {
        let mut client = faulty.served.implicit();
        client.send(format!("{command}\r\n"));
        let mut bytes = vec![0; 64 << 10];
        let (mut total, mut lines) = (0, 0);
        while total < 4 << 20 {
            let n = client.control.read(&mut bytes, soon()).unwrap();
            lines += bytes[..n].iter().filter(|&&b| b == b'\n').count();
            total += n;
        }
        assert_eq!(lines > 0, newlines, "{command}");
    }
    settled(&faulty);
    faulty.assert_healthy(Implicit);
}

#[test]
fn caps_are_421_at_the_greeting_or_530_at_login() {
    for security in [Implicit, Explicit] {
        let faulty = faulty(security, "connect over 2 always: reply \"421 Too many\"");
        let _both = [faulty.served.ready(security), faulty.served.ready(security)];
        for _ in 0..2 {
            let mut third = faulty.served.connect();
            if security == Implicit {
                third.start_tls();
            }
            third.expect(421);
            assert!(third.is_ended());
        }
        faulty.set("PASS over 2 always: reply \"530 Too many\"");
        let mut third = faulty.served.secured(security);
        third.ask("USER me", 331);
        third.ask("PASS any", 530);
        faulty.faults.clear();
        third.log_in();
    }
}

#[test]
fn other_clients_are_not_hit_by_a_rule_for_one_connection() {
    let faulty = faulty(Implicit, "NOOP connection 2 always: reply \"500 You\"");
    let mut first = faulty.served.implicit();
    let mut second = faulty.served.implicit();
    let mut third = faulty.served.implicit();
    for _ in 0..2 {
        first.ask("NOOP", 200);
        second.ask("NOOP", 500);
        third.ask("NOOP", 200);
    }
}
