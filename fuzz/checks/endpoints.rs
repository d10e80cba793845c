//! PASV, EPSV, PORT, EPRT: never port 0, and what was read can be written.

use std::net::{SocketAddr, SocketAddrV4};

use ftpsfs::proto::{Command, Reply, parse_epsv, parse_pasv};

fn trip(command: Command) {
    let wire = command.encode();
    let line = wire.strip_suffix(b"\r\n").expect("a line end");
    assert_eq!(Command::decode(line), Ok(command));
}

pub fn check(text: &[u8]) {
    let mut found: Vec<SocketAddr> = Vec::new();
    if let Ok(address) = parse_pasv(&Reply::new(227, text)) {
        trip(Command::Port(address));
        found.push(address.into());
    }
    if let Ok(port) = parse_epsv(&Reply::new(229, text)) {
        found.push(SocketAddrV4::new([127, 0, 0, 1].into(), port).into());
    }
    for verb in [&b"PORT "[..], b"EPRT "] {
        match Command::decode(&[verb, text].concat()) {
            Ok(Command::Port(address)) => found.push(address.into()),
            Ok(Command::Eprt(address)) => found.push(address),
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
    }
    for address in found {
        assert_ne!(address.port(), 0);
        trip(Command::Eprt(address));
    }
}
