//! Data ports, transfers and files.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use ftpsfs::proto::Security::{Explicit, Implicit};
use socket2::SockRef;

use super::{STALLED, faulty, settled};
use crate::client::{read_to_end, soon, text};

#[test]
fn data_ports_refuse_or_hang() {
    let faulty = faulty(Implicit, "EPSV: closed-port; EPSV 2: silent-port");
    let mut client = faulty.served.implicit();
    let refused = TcpStream::connect(client.passive_address()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    client.ask("RETR hello", 150);
    client.expect(425);
    let silent = client.passive_address();
    let late = TcpStream::connect_timeout(&silent, STALLED).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::TimedOut);
    client.ask("RETR hello", 150);
    client.expect(425);
    assert_eq!(client.download("RETR hello"), b"0123456789");
}

#[test]
fn pasv_names_another_address_or_nonsense() {
    let faulty = faulty(
        Implicit,
        "PASV: address 10.9.8.7
         PASV 2: reply \"227 Entering Passive Mode (127,0,0,1,4)\"
         EPSV: reply \"229 Entering Extended Passive Mode (|||99999|)\"",
    );
    let mut client = faulty.served.implicit();
    let bounce = client.pasv_address();
    assert_eq!(bounce.ip(), Ipv4Addr::new(10, 9, 8, 7));
    // The port is the true one: a client that knows better than the address gets through.
    let tcp = TcpStream::connect(("127.0.0.1", bounce.port())).unwrap();
    client.ask("RETR hello", 150);
    assert_eq!(read_to_end(client.protect(tcp)), b"0123456789");
    client.expect(226);
    assert!(client.ask("PASV", 227).lines[0].ends_with("(127,0,0,1,4)"));
    assert!(client.ask("EPSV", 229).lines[0].ends_with("(|||99999|)"));
    assert_eq!(client.pasv_address().ip(), Ipv4Addr::LOCALHOST);
    assert_eq!(client.download("RETR hello"), b"0123456789");
}

#[test]
fn resumption_is_not_offered_or_refused() {
    use rustls::HandshakeKind::{Full, Resumed};
    let faulty = faulty(
        Implicit,
        "RETR 2: no-resumption; RETR 3: no-resumption 425; STOR: no-resumption 522",
    );
    let mut client = faulty.served.implicit();
    for (kind, code) in [(Resumed, 226), (Full, 226), (Full, 425), (Resumed, 226)] {
        let tcp = client.passive();
        client.ask("RETR hello", 150);
        let data = client.protect(tcp);
        assert_eq!(data.tls().unwrap().handshake_kind(), Some(kind));
        if code == 226 {
            assert_eq!(read_to_end(data), b"0123456789");
        }
        client.expect(code);
    }
    let tcp = client.passive();
    client.ask("STOR hello", 150);
    let _data = client.protect(tcp);
    client.expect(522);
    // As on vsftpd and ProFTPD.
    assert!(faulty.served.content("hello").is_empty());
    client.upload("STOR hello", b"again");
    assert_eq!(faulty.served.content("hello"), b"again");
}

#[test]
fn data_is_cut_cleanly_and_called_complete() {
    let faulty = faulty(Implicit, "RETR: cut 4; NLST: cut 3; RETR 2: cut 11");
    let mut client = faulty.served.implicit();
    assert_eq!(client.download("RETR hello"), b"012");
    assert_eq!(client.download("NLST").len(), 2);
    assert_eq!(client.download("RETR hello"), b"0123456789");
    assert_eq!(faulty.hits(), 3);
}

#[test]
fn close_notify_is_left_out() {
    let faulty = faulty(
        Explicit,
        "RETR: no-close-notify; STOR: no-close-notify; QUIT: no-close-notify; REIN: no-close-notify; CCC: no-close-notify",
    );
    let mut client = faulty.served.explicit();
    let tcp = client.passive();
    client.ask("RETR hello", 150);
    let mut data = client.protect(tcp);
    let mut bytes = [0; 100];
    assert_eq!(data.read(&mut bytes, soon()).unwrap(), 10);
    let error = data.read(&mut bytes, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    drop(data);
    client.expect(226);
    let tcp = client.passive();
    client.ask("STOR up", 150);
    let mut data = client.protect(tcp);
    data.write_all(b"content", soon()).unwrap();
    data.close_notify(soon()).unwrap();
    let error = data.read(&mut bytes, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    client.expect(226);
    for (command, code) in [("QUIT", 221), ("REIN", 220), ("CCC", 200)] {
        let mut client = faulty.served.explicit();
        client.ask(command, code);
        let error = client.control.read(&mut bytes, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{command}");
    }
    assert_eq!(faulty.hits(), 5);
    faulty.assert_healthy(Explicit);
}

#[test]
fn listings_have_hostile_lines() {
    let names = ["..", "../evil", "/etc/passwd", "a\\0b", "a\\rb", "."];
    let line = |name: &str| format!("MLSD: line \"type=file;size=1; {name}\"");
    let rules: Vec<String> = names.iter().map(|name| line(name)).collect();
    let faulty = faulty(Implicit, &rules.join("\n"));
    let mut client = faulty.served.implicit();
    let listing = client.download("MLSD");
    for name in ["..", "../evil", "/etc/passwd", "a\0b", "a\rb", "."] {
        let line = format!("type=file;size=1; {name}\r\n");
        assert!(text(&listing).contains(&line), "{name:?}");
    }
    assert!(!text(&client.download("MLSD")).contains("evil"));
}

#[test]
fn listings_without_end_go_on_until_the_client_leaves() {
    let faulty = faulty(
        Implicit,
        "LIST: endless-listing; MLSD: endless-listing; NLST: endless-listing-line",
    );
    let mut client = faulty.served.implicit();
    for (command, newlines) in [("LIST", true), ("MLSD", true), ("NLST", false)] {
        let tcp = client.passive();
        client.ask(command, 150);
        let mut data = client.protect(tcp);
        let mut bytes = vec![0; 64 << 10];
        let (mut total, mut lines) = (0, 0);
        while total < 4 << 20 {
            let n = data.read(&mut bytes, soon()).unwrap();
            lines += bytes[..n].iter().filter(|&&b| b == b'\n').count();
            total += n;
        }
        assert_eq!(lines > 1000, newlines, "{command}: {lines}");
        SockRef::from(data.tcp())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(data);
        client.expect(426);
    }
    assert_eq!(
        client.download("NLST"),
        b"hello\r\nsub\r\n".to_vec().as_slice()
    );
}

#[test]
fn the_disk_is_full_at_a_byte() {
    let faulty = faulty(
        Implicit,
        "STOR: full 40001; STOR 2: full 40001 552; STOR 3: full 40001 226; APPE: full 3",
    );
    let mut client = faulty.served.implicit();
    for (command, code, kept) in [
        ("STOR up", 452, 40_000),
        ("STOR up", 552, 40_000),
        ("STOR up", 226, 40_000),
        ("APPE up", 452, 40_002),
        ("STOR up", 226, 100_000),
    ] {
        let tcp = client.passive();
        client.ask(command, 150);
        let mut data = client.protect(tcp);
        // The server may have ended it by then.
        let written = data
            .write_all(&[b'x'; 100_000], soon())
            .and_then(|()| data.close_notify(soon()));
        assert!(code != 226 || written.is_ok(), "{command}: {written:?}");
        client.expect(code);
        assert_eq!(faulty.served.content("up").len(), kept, "{command}");
    }
}

#[test]
fn size_lies_and_rest_is_forgotten() {
    let faulty = faulty(
        Implicit,
        "SIZE: size +5; SIZE 2: size -20; REST: ignore-rest",
    );
    let mut client = faulty.served.implicit();
    for size in ["213 15", "213 0", "213 10"] {
        assert_eq!(client.ask("SIZE hello", 213).lines, [size]);
    }
    client.ask("REST 4", 350);
    assert_eq!(client.download("RETR hello"), b"0123456789");
    client.ask("REST 4", 350);
    assert_eq!(client.download("RETR hello"), b"456789");
}

#[test]
fn a_file_changes_between_two_reads() {
    let faulty = faulty(Implicit, "RETR 2: change");
    let mut client = faulty.served.implicit();
    let before = client.ask("MDTM hello", 213).lines;
    assert_eq!(client.download("RETR hello"), b"0123456789");
    let inverted = b"0123456789".map(|b| !b);
    assert_eq!(client.download("RETR hello"), inverted);
    assert_eq!(client.download("RETR hello"), inverted);
    assert_ne!(client.ask("MDTM hello", 213).lines, before);
    assert_eq!(client.ask("SIZE hello", 213).lines, ["213 10"]);
}

#[test]
fn a_silent_port_goes_with_its_session() {
    let faulty = faulty(Implicit, "EPSV: silent-port");
    let mut client = faulty.served.implicit();
    let silent = client.passive_address();
    client.ask("QUIT", 221);
    assert!(client.is_ended());
    settled(&faulty);
    let refused = TcpStream::connect_timeout(&silent, STALLED).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}
