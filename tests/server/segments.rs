//! What follows TLS in the same TCP segment as its close_notify is not lost: the client is driven
//! by hand here, record by record, because a TLS library would swallow it (MS-FTPS 3.2.5.3).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ftpsfs::proto::Security::{Explicit, Implicit};
use rustls::ClientConnection;

use crate::client::{Client, Served, serve, text};

/// A client whose bytes leave only when it is told so.
struct Wire {
    tcp: TcpStream,
    client: Client,
    tls: ClientConnection,
}

impl Wire {
    fn connect(served: &Served) -> Self {
        let tcp = TcpStream::connect(served.server.local_addr()).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // For its TLS only; its connection is another one.
        let client = served.connect();
        let tls = client.tls.connection().unwrap();
        Self { tcp, client, tls }
    }

    /// What TLS has to send.
    fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn protected(&mut self, line: &str) -> Vec<u8> {
        self.tls.writer().write_all(line.as_bytes()).unwrap();
        self.outgoing()
    }

    fn close_notify(&mut self) -> Vec<u8> {
        self.tls.send_close_notify();
        self.outgoing()
    }

    /// Begins a new TLS connection; the one before.
    fn begin_tls(&mut self) -> ClientConnection {
        self.client.tls.forget();
        let fresh = self.client.tls.connection().unwrap();
        std::mem::replace(&mut self.tls, fresh)
    }

    fn send(&mut self, segment: &[u8]) {
        self.tcp.write_all(segment).unwrap();
    }

    fn handshake(&mut self) {
        while self.tls.is_handshaking() {
            self.record();
            let answer = self.outgoing();
            self.send(&answer);
        }
    }

    /// The next protected line.
    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0; 1];
            match self.tls.reader().read(&mut byte) {
                Ok(n) => {
                    assert_eq!(n, 1, "close_notify where a reply is due");
                    line.push(byte[0]);
                }
                Err(_) => self.record(),
            }
        }
        String::from_utf8(line).unwrap()
    }

    fn await_close_notify(&mut self) {
        loop {
            match self.tls.reader().read(&mut [0; 1]) {
                Ok(0) => return,
                Ok(_) => panic!("data where close_notify is due"),
                Err(_) => self.record(),
            }
        }
    }

    /// Takes exactly one record in.
    fn record(&mut self) {
        let mut record = vec![0; 5];
        self.tcp.read_exact(&mut record).unwrap();
        record.resize(
            5 + usize::from(u16::from_be_bytes([record[3], record[4]])),
            0,
        );
        self.tcp.read_exact(&mut record[5..]).unwrap();
        let mut unread = &record[..];
        while !unread.is_empty() {
            self.tls.read_tls(&mut unread).unwrap();
        }
        self.tls.process_new_packets().unwrap();
    }

    fn clear_line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0; 1];
            self.tcp.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    /// Whether nothing at all comes for a while.
    fn is_silent(&mut self) -> bool {
        let wait = |time| self.tcp.set_read_timeout(Some(time)).unwrap();
        wait(Duration::from_millis(100));
        let silent = self.tcp.peek(&mut [0; 1]).is_err();
        wait(Duration::from_secs(10));
        silent
    }
}

/// REIN, close_notify and the next ClientHello in one segment; or the last two, before or after
/// the server's close_notify came.
#[test]
fn implicit_rein_finds_the_client_hello_behind_close_notify() {
    let served = serve(Implicit);
    let mut wire = Wire::connect(&served);
    let hello = wire.outgoing();
    wire.send(&hello);
    wire.handshake();
    assert_eq!(wire.line(), "220 ftpsfs ready\r\n");
    for (rein_too, patient) in [(false, true), (false, false), (true, false)] {
        let rein = wire.protected("REIN\r\n");
        let mut segment = Vec::new();
        if rein_too {
            segment = rein;
        } else {
            wire.send(&rein);
        }
        if patient {
            assert!(wire.line().starts_with("220 "));
            wire.await_close_notify();
            // Not a byte before TLS is asked for again.
            assert!(wire.is_silent());
        }
        segment.extend(wire.close_notify());
        let old = wire.begin_tls();
        segment.extend(wire.outgoing());
        wire.send(&segment);
        if !patient {
            // The old connection still has a reply to give.
            let fresh = std::mem::replace(&mut wire.tls, old);
            assert!(wire.line().starts_with("220 "));
            wire.await_close_notify();
            wire.tls = fresh;
        }
        wire.handshake();
        assert_eq!(wire.line(), "220 ftpsfs ready\r\n");
        let user = wire.protected("PWD\r\n");
        wire.send(&user);
        assert!(wire.line().starts_with("530 "));
    }
}

/// RFC 4217 section 11: clear again until AUTH, which may be right behind close_notify.
#[test]
fn explicit_rein_finds_auth_behind_close_notify() {
    let served = serve(Explicit);
    let mut wire = Wire::connect(&served);
    assert!(wire.clear_line().starts_with("220 "));
    for auth in ["AUTH TLS\r\n", "AUTH SSL\r\n"] {
        wire.send(auth.as_bytes());
        assert!(wire.clear_line().starts_with("234 "));
        wire.begin_tls();
        let hello = wire.outgoing();
        wire.send(&hello);
        wire.handshake();
        let rein = wire.protected("REIN\r\n");
        let segment = [rein, wire.close_notify(), b"NOOP\r\n".to_vec()].concat();
        wire.send(&segment);
        assert!(wire.line().starts_with("220 "));
        wire.await_close_notify();
        // In the clear, and no second greeting before it.
        assert!(wire.clear_line().starts_with("200 "));
    }
}

/// RFC 4217 section 6.
#[test]
fn ccc_finds_the_clear_command_behind_close_notify() {
    let served = serve(Explicit);
    let mut wire = Wire::connect(&served);
    assert!(wire.clear_line().starts_with("220 "));
    wire.send(b"AUTH TLS\r\n");
    assert!(wire.clear_line().starts_with("234 "));
    wire.begin_tls();
    let hello = wire.outgoing();
    wire.send(&hello);
    wire.handshake();
    let ccc = wire.protected("CCC\r\n");
    let segment = [ccc, wire.close_notify(), b"NOOP\r\nCCC\r\n".to_vec()].concat();
    wire.send(&segment);
    assert!(wire.line().starts_with("200 "));
    wire.await_close_notify();
    assert!(wire.clear_line().starts_with("200 "));
    assert!(wire.clear_line().starts_with("533 "));
}

/// [MS-FTPS] 3.2.5.5, 3.2.5.1: an implicit server has no word for who speaks in the clear.
#[test]
fn implicit_answers_nothing_in_the_clear() {
    let served = serve(Implicit);
    for command in ["FEAT\r\n", "AUTH TLS\r\n", "CCC\r\n", "REIN\r\n"] {
        let mut tcp = TcpStream::connect(served.server.local_addr()).unwrap();
        tcp.write_all(command.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        // Ended by FIN or reset.
        let _ = tcp.read_to_end(&mut bytes);
        assert!(bytes.is_empty(), "{command}: {:?}", text(&bytes));
    }
}
