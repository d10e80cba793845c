//! The server fails on command: each fault really happens, and the next connection is healthy.
//! Here what happens to connections.

mod data;
mod replies;

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use ftpsfs::proto::Security::{self, Explicit, Implicit};
use ftpsfs::server::{Counts, Faults, Rules};
use ftpsfs::tls::Stream;

use crate::client::{Served, read_to_end, serve_with, soon, text};

/// How long what must stall is watched.
const STALLED: Duration = Duration::from_millis(300);

struct Faulty {
    served: Served,
    faults: Faults,
}

fn faulty(security: Security, rules: &str) -> Faulty {
    let faults = Faults::new(rules.parse().unwrap());
    let served = serve_with(security, |config| {
        config.faults = Some(faults.clone());
        config.data_wait = Duration::from_secs(2);
    });
    Faulty { served, faults }
}

impl Faulty {
    fn set(&self, rules: &str) {
        self.faults.set(rules.parse::<Rules>().unwrap());
    }

    fn hits(&self) -> u64 {
        self.faults.counts().hits
    }

    /// Whoever comes now finds nothing wrong.
    #[track_caller]
    fn assert_healthy(&self, security: Security) {
        let mut client = self.served.ready(security);
        assert_eq!(client.download("RETR sub/inner"), b"inner");
        client.ask("QUIT", 221);
        assert!(client.is_ended());
    }
}

/// What the client's kernel says of the connection: the bytes up to its end, and whether that
/// was a FIN or a reset.
fn raw_end(tcp: &TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut tcp = tcp.try_clone().unwrap();
    tcp.set_nonblocking(false).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut bytes = Vec::new();
    let end = tcp.read_to_end(&mut bytes).map(drop);
    (bytes, end)
}

#[track_caller]
fn assert_fin(tcp: &TcpStream) -> Vec<u8> {
    let (bytes, end) = raw_end(tcp);
    end.expect("a FIN");
    bytes
}

#[track_caller]
fn assert_rst(tcp: &TcpStream) -> Vec<u8> {
    let (bytes, end) = raw_end(tcp);
    assert_eq!(end.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    bytes
}

/// Silent, and open.
#[track_caller]
fn assert_stalled(tcp: &TcpStream) {
    let mut tcp = tcp.try_clone().unwrap();
    tcp.set_nonblocking(false).unwrap();
    tcp.set_read_timeout(Some(STALLED)).unwrap();
    let read = tcp.read(&mut [0; 1]);
    let kind = read.expect_err("silence").kind();
    assert_eq!(kind, ErrorKind::WouldBlock);
    tcp.set_nonblocking(true).unwrap();
}

/// TLS records in raw bytes, by content type; the last may be cut.
fn records(mut bytes: &[u8]) -> Vec<(u8, usize)> {
    let mut records = Vec::new();
    while let [kind, _, _, high, low, ..] = *bytes {
        let whole = 5 + usize::from(u16::from_be_bytes([high, low]));
        let there = whole.min(bytes.len());
        records.push((kind, there));
        bytes = &bytes[there..];
    }
    records
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
    )
}

#[test]
fn fin_and_rst_at_a_command_are_a_fin_and_a_reset() {
    for security in [Implicit, Explicit] {
        let faulty = faulty(security, "");
        for (what, reset) in [("fin", false), ("rst", true)] {
            let mut client = faulty.served.ready(security);
            faulty.set(&format!("MKD: {what}"));
            client.ask("NOOP", 200);
            client.send("MKD made\r\n");
            let bytes = if reset {
                assert_rst(client.control.tcp())
            } else {
                assert_fin(client.control.tcp())
            };
            assert!(bytes.is_empty(), "{bytes:?}");
            assert!(!faulty.served.path().join("made").exists());
            assert_eq!(faulty.hits(), 1);
            faulty.assert_healthy(security);
        }
    }
}

#[test]
fn fin_and_rst_at_connect_come_before_any_byte() {
    let faulty = faulty(Explicit, "connect: rst; connect 2: fin");
    assert!(assert_rst(faulty.served.connect().control.tcp()).is_empty());
    assert!(assert_fin(faulty.served.connect().control.tcp()).is_empty());
    faulty.assert_healthy(Explicit);
}

/// A script's records are counted, and each of them can be the one that does not come.
#[test]
fn fin_and_rst_hit_each_record_in_both_directions() {
    let script = |faulty: &Faulty| -> io::Result<()> {
        let mut client = faulty.served.connect();
        let tls = client.tls.connection().unwrap();
        client.control.start_tls(tls, soon())?;
        for command in ["", "NOOP\r\n", "QUIT\r\n"] {
            client.control.write_all(command.as_bytes(), soon())?;
            let mut byte = [0; 1];
            while byte != *b"\n" {
                if client.control.read(&mut byte, soon())? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
        }
        match client.control.read(&mut [0; 1], soon())? {
            0 => Ok(()),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    };
    let faulty = faulty(Implicit, "");
    script(&faulty).unwrap();
    let control = settled(&faulty).control;
    // ClientHello, change_cipher_spec, Finished, NOOP, QUIT; and as many or more the other way.
    assert!(control.received.records >= 5, "{control:?}");
    assert!(control.sent.records >= 5, "{control:?}");
    let mut swept = 0;
    for (direction, records) in [
        ("sent", control.sent.records),
        ("received", control.received.records),
    ] {
        for n in 1..=records {
            for what in ["fin", "rst"] {
                faulty.set(&format!("control {direction} record {n}: {what}"));
                let error = script(&faulty).expect_err("a fault");
                assert!(
                    is_end(&error) || error.kind() == ErrorKind::BrokenPipe,
                    "{error}"
                );
                assert_eq!(faulty.hits(), 1, "{direction} {n} {what}");
                swept += 1;
            }
        }
        script(&faulty).unwrap();
    }
    assert_eq!(swept, 2 * (control.sent.records + control.received.records));
}

/// The counts once the server has seen the end of every session.
fn settled(faulty: &Faulty) -> Counts {
    let deadline = soon();
    while faulty.served.server.sessions() > 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    faulty.faults.counts()
}

#[test]
fn what_is_counted_is_what_passed() {
    let faulty = faulty(Explicit, "");
    let mut client = faulty.served.connect();
    client.expect(220);
    client.ask("AUTH TLS", 234);
    let clear = faulty.faults.counts();
    assert_eq!(clear.connections, 1);
    assert_eq!(clear.commands, 1);
    assert_eq!(clear.control.received.bytes, 10);
    assert_eq!(clear.control.sent.bytes, clear.reply_bytes);
    assert_eq!(
        clear.control.sent.records + clear.control.received.records,
        0
    );
    client.start_tls();
    client.log_in();
    client.ask("PBSZ 0", 200);
    client.ask("PROT P", 200);
    let before = faulty.faults.counts();
    assert!(before.reply_bytes < before.control.sent.bytes);
    client.ask("NOOP", 200);
    let after = faulty.faults.counts();
    assert_eq!(after.control.sent.records, before.control.sent.records + 1);
    assert_eq!(
        after.control.received.records,
        before.control.received.records + 1
    );
    assert_eq!(
        after.reply_bytes,
        before.reply_bytes + "200 OK\r\n".len() as u64
    );
    assert_eq!(after.data, before.data);
    client.download("RETR hello");
    let data = faulty.faults.counts().data;
    assert!(
        data.sent.records >= 3 && data.received.records >= 2,
        "{data:?}"
    );
    // Clear data has bytes, and no records whatever it looks like.
    std::fs::write(faulty.served.path().join("hello"), b"\x17\x03\x03\x00\x01x").unwrap();
    client.ask("PROT C", 200);
    client.download_clear("RETR hello");
    let clear = faulty.faults.counts().data;
    assert_eq!(clear.sent.bytes, data.sent.bytes + 6);
    assert_eq!(clear.sent.records, data.sent.records);
}

#[test]
fn a_record_is_cut_at_the_byte_that_is_hit() {
    let faulty = faulty(Explicit, "");
    for (what, reset) in [("fin", false), ("rst", true)] {
        let mut client = faulty.served.explicit();
        faulty.set(&format!("control sent byte 8: {what}"));
        client.send("NOOP\r\n");
        let bytes = if reset {
            assert_rst(client.control.tcp())
        } else {
            assert_fin(client.control.tcp())
        };
        // A reset may overtake what was sent before it.
        if !reset {
            assert_eq!(records(&bytes), [(23, 7)]);
        }
        assert_eq!(faulty.faults.counts().control.sent.bytes, 7);
    }
    // In the clear, and what the client sends.
    faulty.set("control sent byte 4: fin");
    assert_eq!(assert_fin(faulty.served.connect().control.tcp()), b"220");
    faulty.set("control received byte 3: fin");
    let mut client = faulty.served.connect();
    client.expect(220);
    client.send("NOOP\r\n");
    assert_fin(client.control.tcp());
    assert_eq!(faulty.faults.counts().control.received.bytes, 2);
    faulty.assert_healthy(Explicit);
}

#[test]
fn a_reply_is_cut_at_the_byte_that_is_hit() {
    let faulty = faulty(Implicit, "");
    let mut client = faulty.served.implicit();
    faulty.set("reply byte 5: fin");
    client.send("NOOP\r\n");
    let mut bytes = Vec::new();
    let error = loop {
        let mut byte = [0; 1];
        match client.control.read(&mut byte, soon()) {
            Ok(n) => bytes.extend_from_slice(&byte[..n]),
            Err(e) => break e,
        }
    };
    assert_eq!(bytes, b"200 ");
    assert!(is_end(&error), "{error}");
    assert_eq!(faulty.faults.counts().reply_bytes, 4);
    faulty.assert_healthy(Implicit);
}

#[test]
fn data_connections_end_where_a_rule_says() {
    let faulty = faulty(Implicit, "");
    std::fs::write(faulty.served.path().join("large"), vec![b'x'; 1 << 20]).unwrap();
    for (what, reset) in [("fin", false), ("rst", true)] {
        let mut client = faulty.served.implicit();
        faulty.set(&format!("data sent byte 100000 in RETR: {what}"));
        // Another verb's data is not counted.
        assert!(!client.download("MLSD").is_empty());
        let tcp = client.passive();
        client.ask("RETR large", 150);
        let data = client.protect(tcp);
        let bytes = if reset {
            assert_rst(data.tcp())
        } else {
            assert_fin(data.tcp())
        };
        assert!(bytes.len() < 100_000);
        client.expect(426);
        assert_eq!(faulty.hits(), 1);
        assert_eq!(client.download("RETR large").len(), 1 << 20);
    }
    // What the client sends: the server takes nothing more.
    let mut client = faulty.served.implicit();
    faulty.set("data received record 4 in STOR: rst");
    let tcp = client.passive();
    client.ask("STOR up", 150);
    let mut data = client.protect(tcp);
    data.write_all(&[b'x'; 100_000], soon()).unwrap();
    assert_rst(data.tcp());
    client.expect(426);
    assert_eq!(faulty.faults.counts().data.received.records, 3);
    assert!(faulty.served.content("up").len() < 100_000);
}

#[test]
fn a_stall_keeps_the_connection_open_for_its_time() {
    let faulty = faulty(Implicit, "");
    let mut client = faulty.served.implicit();
    faulty.set("NOOP: stall 600ms");
    let begun = Instant::now();
    client.send("NOOP\r\n");
    assert_stalled(client.control.tcp());
    client.expect(200);
    assert!(begun.elapsed() >= Duration::from_millis(600));
    client.ask("NOOP", 200);
}

#[test]
fn a_stall_for_good_ends_when_the_rules_are_cleared() {
    let faulty = faulty(Implicit, "");
    let mut client = faulty.served.implicit();
    faulty.set("NOOP: stall");
    client.send("NOOP\r\n");
    assert_stalled(client.control.tcp());
    faulty.assert_healthy(Implicit);
    faulty.faults.clear();
    client.expect(200);
}

#[test]
fn a_stall_at_a_record_holds_back_that_record_and_no_other() {
    let faulty = faulty(Implicit, "");
    std::fs::write(faulty.served.path().join("large"), vec![b'x'; 1 << 20]).unwrap();
    let mut client = faulty.served.implicit();
    let tcp = client.passive();
    faulty.set("data sent record 6: stall");
    client.ask("RETR large", 150);
    let mut data = client.protect(tcp);
    let mut content = Vec::new();
    while let Ok(n) = data.read(&mut [0; 1 << 16], Instant::now() + STALLED) {
        content.resize(content.len() + n, 0);
    }
    assert!(!content.is_empty() && content.len() < 1 << 20);
    assert_eq!(faulty.faults.counts().data.sent.records, 5);
    assert!(client.is_silent());
    faulty.faults.clear();
    assert_eq!(content.len() + read_to_end(data).len(), 1 << 20);
    client.expect(226);
}

/// A client that has sent all its data and its FIN still waits for the reply.
#[test]
fn an_upload_that_stalls_stays_unread_until_the_fault_is_gone() {
    let faulty = faulty(Implicit, "");
    let mut client = faulty.served.implicit();
    let tcp = client.passive();
    faulty.set("data received record 3: stall");
    client.ask("STOR up", 150);
    let mut data = client.protect(tcp);
    data.write_all(b"content", soon()).unwrap();
    data.close_notify(soon()).unwrap();
    data.tcp().shutdown(Shutdown::Write).unwrap();
    assert!(client.is_silent());
    assert!(faulty.hits() == 1 && faulty.served.content("up").is_empty());
    faulty.faults.clear();
    client.expect(226);
    assert_eq!(faulty.served.content("up"), b"content");
}

#[test]
fn stalled_sessions_end_with_their_client_and_with_the_server() {
    let faulty = faulty(Implicit, "");
    let mut client = faulty.served.implicit();
    let mut other = faulty.served.implicit();
    faulty.set("NOOP x2: stall");
    client.send("NOOP\r\n");
    other.send("NOOP\r\n");
    assert_stalled(client.control.tcp());
    drop(client);
    let deadline = soon();
    while faulty.served.server.sessions() > 1 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    let begun = Instant::now();
    faulty.served.server.stop();
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(other.is_ended());
}

/// On a data connection nothing comes where the handshake is due.
#[test]
fn a_data_port_that_never_answers_the_handshake() {
    let faulty = faulty(Implicit, "");
    let mut client = faulty.served.implicit();
    let tcp = client.passive();
    faulty.set("data sent byte 1: stall");
    client.ask("RETR hello", 150);
    let mut data = Stream::new(tcp).unwrap();
    let late = Instant::now() + STALLED;
    let error = data.start_tls(client.tls.connection().unwrap(), late);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(faulty.faults.counts().data.sent.bytes, 0);
    assert_eq!(faulty.faults.counts().data.received.records, 1);
}

#[test]
fn replies_drip_byte_by_byte() {
    let faulty = faulty(Implicit, "");
    let mut client = faulty.served.implicit();
    faulty.set("NOOP: drip 30ms");
    let begun = Instant::now();
    client.ask("NOOP", 200);
    assert!(begun.elapsed() >= Duration::from_millis(8 * 30));
    assert_eq!(faulty.faults.counts().control.sent.records, 8);
    // That reply only.
    client.ask("NOOP", 200);
    assert_eq!(faulty.faults.counts().control.sent.records, 9);
    // On the wire: each byte by itself, to the end of the connection or of the fault.
    faulty.set("control sent byte 3: drip 10ms");
    let begun = Instant::now();
    client.ask("NOOP", 200);
    assert!(begun.elapsed() >= Duration::from_millis(20 * 10));
    faulty.faults.clear();
    let begun = Instant::now();
    client.ask("FEAT", 211);
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn downloads_drip_byte_by_byte() {
    let faulty = faulty(Implicit, "");
    let mut client = faulty.served.implicit();
    let tcp = client.passive();
    faulty.set("data sent record 3: drip 5ms");
    client.ask("RETR hello", 150);
    let data = client.protect(tcp);
    let begun = Instant::now();
    assert_eq!(read_to_end(data), b"0123456789");
    assert!(begun.elapsed() >= Duration::from_millis(100));
    client.expect(226);
}

#[test]
fn clear_bytes_come_before_tls() {
    // Behind 234, in the same segment.
    let faulty = faulty(Explicit, "AUTH: after \"230 Injected\"");
    let mut client = faulty.served.connect();
    client.expect(220);
    client.send("AUTH TLS\r\n");
    let mut bytes = [0; 1000];
    let n = client.control.read(&mut bytes, soon()).unwrap();
    assert_eq!(text(&bytes[..n]), "234 Start TLS now\r\n230 Injected\r\n");
    faulty.assert_healthy(Explicit);
    // Before the implicit handshake, and before that of a data connection.
    let faulty = self::faulty(Implicit, "connect: send \"220 Early\\r\\n\"");
    let mut client = faulty.served.connect();
    let n = client.control.read(&mut bytes, soon()).unwrap();
    assert_eq!(text(&bytes[..n]), "220 Early\r\n");
    client.start_tls();
    client.expect(220);
    client.log_in();
    faulty.set("data sent byte: send \"clear\"");
    let tcp = client.passive();
    client.ask("RETR hello", 150);
    let mut data = Stream::new(tcp).unwrap();
    let error = data.start_tls(client.tls.connection().unwrap(), soon());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidData);
    assert!(data.unread().starts_with(b"clear"));
}

#[test]
fn a_forged_close_notify_is_clear_and_no_end() {
    let faulty = faulty(Implicit, "");
    std::fs::write(faulty.served.path().join("large"), vec![b'x'; 1 << 20]).unwrap();
    let mut client = faulty.served.implicit();
    faulty.set("data sent record 8: forged-close-notify");
    let tcp = client.passive();
    client.ask("RETR large", 150);
    let mut data = client.protect(tcp);
    let mut raw = data.tcp().try_clone().unwrap();
    let mut bytes = vec![0; 1 << 20];
    loop {
        // A TLS client that honoured it would take the file for complete.
        match data.read(&mut bytes, soon()) {
            Ok(0) => panic!("the forged close_notify was honoured"),
            Ok(_) => {}
            Err(e) => break assert_ne!(e.kind(), ErrorKind::TimedOut, "{e}"),
        }
    }
    raw.set_nonblocking(false).unwrap();
    assert_eq!(raw.read(&mut bytes).unwrap_or(0), 0);
    client.expect(426);
    // The bytes themselves.
    faulty.set("connect: forged-close-notify");
    let client = faulty.served.connect();
    assert_eq!(assert_fin(client.control.tcp()), [21, 3, 3, 0, 2, 1, 0]);
}

/// Without rules a server that could fail does not.
#[test]
fn a_server_under_no_rule_serves_as_any_other() {
    for security in [Implicit, Explicit] {
        let faulty = faulty(security, "");
        let mut client = faulty.served.ready(security);
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        client.upload("STOR large", &content);
        assert!(client.download("RETR large") == content);
        client.ask("PROT C", 200);
        assert!(client.download_clear("RETR large") == content);
        client.ask("QUIT", 221);
        assert!(client.is_ended());
        assert_eq!(faulty.hits(), 0);
    }
}
