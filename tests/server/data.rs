//! Data connections: how they come about, their TLS, and how transfers end.

use std::io::Read;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ftpsfs::proto::Security::{Explicit, Implicit};
use ftpsfs::tls::Stream;
use socket2::{Domain, Socket, Type};

use crate::client::{Client, Served, read_to_end, serve, serve_with, soon, talk_nonsense};

/// More than the socket buffers of both sides hold.
const LARGE: usize = 16 << 20;

fn large() -> Vec<u8> {
    (0..LARGE / 4)
        .flat_map(|n| (n as u32).to_le_bytes())
        .collect()
}

fn served_large() -> Served {
    let served = serve(Implicit);
    std::fs::write(served.path().join("large"), large()).unwrap();
    served
}

#[test]
fn large_files_travel_both_ways() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    client.upload("STOR large", &large());
    assert!(served.content("large") == large());
    assert!(client.download("RETR large") == large());
}

#[test]
fn pasv_names_the_control_address_and_works() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    let address = client.pasv_address();
    assert_eq!(address.ip(), Ipv4Addr::LOCALHOST);
    let tcp = TcpStream::connect(address).unwrap();
    client.ask("RETR hello", 150);
    assert_eq!(read_to_end(client.protect(tcp)), b"0123456789");
    client.expect(226);
}

/// RFC 2428.
#[test]
fn epsv_knows_its_network_protocol_and_all() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    client.ask("EPSV 1", 229);
    client.ask("EPSV 2", 522);
    client.ask("EPRT |2|::1|5000|", 522);
    client.ask("EPSV ALL", 200);
    client.ask("PASV", 501);
    client.ask("PORT 127,0,0,1,100,100", 501);
    client.ask("EPRT |1|127.0.0.1|25700|", 501);
    assert_eq!(client.download("RETR hello"), b"0123456789");
}

#[test]
fn ipv6_has_epsv_and_eprt() {
    let served = serve_with(Implicit, |config| {
        config.listen = "[::1]:0".parse().unwrap();
    });
    let mut client = served.implicit();
    client.ask("PASV", 425);
    client.ask("EPSV 1", 522);
    assert_eq!(client.download("RETR hello"), b"0123456789");
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    client.ask(format!("EPRT |2|::1|{port}|"), 200);
    active_download(&mut client, &listener);
}

/// [MS-FTPS] 1.9; the client is TLS client in active mode too.
#[test]
fn active_connections_leave_from_the_control_port_minus_one() {
    // Where the port below a free one is taken, the server takes any other: try again.
    for _ in 0..20 {
        let served = serve(Implicit);
        let mut client = served.implicit();
        let below = served.server.local_addr().port() - 1;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, below)).is_err() {
            continue;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let [high, low] = port.to_be_bytes();
        client.ask(format!("PORT 127,0,0,1,{high},{low}"), 200);
        let first = active_download(&mut client, &listener);
        assert_eq!(first.port(), below);
        // That pair of addresses is used up for a minute, and another port serves.
        client.ask(format!("EPRT |1|127.0.0.1|{port}|"), 200);
        active_download(&mut client, &listener);
        return;
    }
    panic!("no two free ports side by side");
}

fn active_download(client: &mut Client, listener: &TcpListener) -> SocketAddr {
    client.ask("RETR hello", 150);
    let (tcp, from) = listener.accept().unwrap();
    assert_eq!(read_to_end(client.protect(tcp)), b"0123456789");
    client.expect(226);
    from
}

/// RFC 2577 section 3.
#[test]
fn active_connections_go_to_the_client_only() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    client.ask("PORT 127,0,0,2,100,100", 504);
    client.ask("EPRT |1|127.0.0.2|25700|", 504);
    client.ask("PORT 127,0,0,1,0,25", 504);
    client.ask("LIST", 425);
}

#[test]
fn passive_ports_are_for_the_clients_address_only() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    let address = client.passive_address();
    let thief = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    thief
        .bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into())
        .unwrap();
    thief.connect(&address.into()).unwrap();
    let mut thief = TcpStream::from(thief);
    client.ask("RETR hello", 150);
    // Sent away with nothing, and the rightful client is still awaited.
    assert_eq!(thief.read(&mut [0; 1]).unwrap_or(0), 0);
    let tcp = TcpStream::connect(address).unwrap();
    assert_eq!(read_to_end(client.protect(tcp)), b"0123456789");
    client.expect(226);
}

#[test]
fn a_data_connection_that_never_comes_is_425() {
    let served = serve_with(Implicit, |config| {
        config.data_wait = Duration::from_millis(100);
    });
    let mut client = served.implicit();
    client.ask("RETR hello", 425);
    client.passive_address();
    client.ask("RETR hello", 150);
    client.expect(425);
    // Connected, but silent where a ClientHello is due.
    let tcp = client.passive();
    client.ask("STOR hello", 150);
    client.expect(425);
    drop(tcp);
    assert_eq!(served.content("hello"), b"0123456789");
}

#[test]
fn a_data_connection_that_does_not_speak_tls_is_425() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    let tcp = client.passive();
    client.ask("STOR hello", 150);
    let _tcp = talk_nonsense(tcp);
    client.expect(425);
    // The old content stands.
    assert_eq!(served.content("hello"), b"0123456789");
    client.ask("NOOP", 200);
}

/// vsftpd's require_ssl_reuse.
#[test]
fn demanded_session_reuse_is_522() {
    for security in [Implicit, Explicit] {
        let served = serve_with(security, |config| config.require_reuse = true);
        let mut client = served.ready(security);
        assert_eq!(client.download("RETR hello"), b"0123456789");
        client.upload("STOR new", b"new");
        let tcp = client.passive();
        client.ask("STOR hello", 150);
        let _data = client.protect_afresh(tcp);
        client.expect(522);
        assert_eq!(served.content("hello"), b"0123456789");
        assert_eq!(served.content("new"), b"new");
        // Another control connection's session is no better than none.
        let other = served.ready(security);
        let tcp = client.passive();
        client.ask("RETR hello", 150);
        let _data = other.protect(tcp);
        client.expect(522);
    }
}

/// Under TLS only close_notify ends a file: anybody can send a FIN.
#[test]
fn an_upload_without_close_notify_is_426_and_stays_partial() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    let tcp = client.passive();
    client.ask("STOR hello", 150);
    let mut data = client.protect(tcp);
    data.write_all(b"part", soon()).unwrap();
    data.tcp().shutdown(Shutdown::Write).unwrap();
    client.expect(426);
    assert_eq!(served.content("hello"), b"part");
}

#[test]
fn a_download_that_the_client_resets_is_426() {
    let served = served_large();
    let mut client = served.implicit();
    let tcp = client.passive();
    client.ask("RETR large", 150);
    let mut data = client.protect(tcp);
    data.read(&mut [0; 1000], soon()).unwrap();
    let socket = socket2::SockRef::from(data.tcp());
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(data);
    client.expect(426);
    client.ask("NOOP", 200);
}

/// RFC 959 4.1.3: 426 for the transfer, 226 for ABOR, though the client reads no data.
#[test]
fn abor_ends_a_transfer_that_stands_still() {
    let served = served_large();
    let mut client = served.implicit();
    let tcp = client.passive();
    client.ask("RETR large", 150);
    let mut data = client.protect(tcp);
    data.read(&mut [0; 1000], soon()).unwrap();
    client.send("NOOP\r\nABOR\r\n");
    client.expect(426);
    client.expect(226);
    client.expect(200);
    // With the Telnet signals that RFC 959 puts before it, and before the data connection.
    let _address = client.passive_address();
    client.ask("RETR hello", 150);
    client.send(b"\xff\xf4\xff\xf2ABOR\r\n");
    client.expect(426);
    client.expect(226);
    client.ask("ABOR", 226);
    assert_eq!(client.download("RETR hello"), b"0123456789");
}

/// Commands sent while a transfer runs wait for its end.
#[test]
fn commands_wait_for_the_transfer_before_them() {
    let served = served_large();
    let mut client = served.implicit();
    let tcp = client.passive();
    client.send("RETR large\r\nSIZE large\r\nNOOP\r\n");
    client.expect(150);
    assert!(read_to_end(client.protect(tcp)) == large());
    client.expect(226);
    assert!(client.expect(213).lines[0].ends_with(&LARGE.to_string()));
    client.expect(200);
}

#[test]
fn a_client_that_leaves_takes_its_transfer_along() {
    let served = served_large();
    let mut client = served.implicit();
    let tcp = client.passive();
    client.ask("RETR large", 150);
    let mut data = client.protect(tcp);
    data.read(&mut [0; 1000], soon()).unwrap();
    drop(client);
    let deadline = soon();
    while served.server.sessions() > 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_server_that_ends_takes_transfers_along() {
    let served = served_large();
    let mut client = served.implicit();
    let tcp = client.passive();
    client.ask("RETR large", 150);
    let mut data = client.protect(tcp);
    data.read(&mut [0; 1000], soon()).unwrap();
    let begun = Instant::now();
    served.server.stop();
    assert!(begun.elapsed() < Duration::from_secs(2));
}

/// A connection opened ahead of time serves whichever transfer comes; a refusal uses it up.
#[test]
fn a_refused_transfer_uses_up_the_data_connection() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    let tcp = client.passive();
    client.ask("RETR missing", 550);
    let mut data = Stream::new(tcp).unwrap();
    assert!(!matches!(data.read(&mut [0; 1], soon()), Ok(1)));
    client.ask("RETR hello", 425);
    assert_eq!(client.download("RETR hello"), b"0123456789");
}
