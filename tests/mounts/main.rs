//! The whole product against real servers.

#[path = "../common/mod.rs"]
mod common;

use common::server::*;
use std::process::Command;

#[test]
fn servers_start() {
    for kind in [
        Kind::VsftpdExplicit,
        Kind::VsftpdImplicit,
        Kind::ProftpdExplicit,
        Kind::ProftpdImplicit,
        Kind::PureFtpd,
        Kind::Pyftpdlib,
        Kind::PyftpdlibImplicit,
    ] {
        for ipv6 in [false, true] {
            let mut server = RealServer::start(kind, Options { ipv6, ..Options::default() });
            std::fs::write(server.root.join("hello"), "hello").unwrap();
            for round in 0..2 {
                let host = if ipv6 { "[::1]" } else { "127.0.0.1" };
                let scheme = if kind.is_implicit() { "ftps" } else { "ftp" };
                let url = format!("{scheme}://{host}:{}/", server.port());
                let output = Command::new("curl")
                    .args(["-sS", "--ssl-reqd", "--cacert"])
                    .arg(certificate("ca.pem"))
                    .args(["-u", &format!("{USER}:{PASSWORD}"), &url, &format!("{url}hello")])
                    .output()
                    .unwrap();
                println!("{kind:?} {ipv6} {round}: {}", String::from_utf8_lossy(&output.stdout));
                if !output.status.success() {
                    println!("{}\n{}", String::from_utf8_lossy(&output.stderr), server.log());
                }
                server.restart();
            }
        }
    }
}
