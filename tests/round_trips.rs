//! scratch
mod common;
use common::link::{self, Link};
use common::server::{Kind, PASSWORD, RealServer, USER, certificate};
use ftpsfs::client::Config;
use ftpsfs::proto::{RemotePath, Secret, Security};
use ftpsfs::remote::{Publication, Remote};
use ftpsfs::tls::TrustOptions;
use std::fs;
use std::time::{Duration, Instant};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}
fn path(t: &str) -> RemotePath {
    RemotePath::parse(t.as_bytes()).unwrap()
}

fn measure(kind: Kind) {
    let _ = env_logger::Builder::from_default_env()
        .is_test(true)
        .try_init();
    let server = RealServer::of(kind);
    fs::write(server.root.join("small"), vec![7; 4096]).unwrap();
    fs::create_dir(server.root.join("dir")).unwrap();
    fs::write(server.root.join("dir/x"), "x").unwrap();
    let link = Link::to(link::local(server.port()), server.passive_ports());
    let config = Config {
        host: "localhost".to_owned(),
        port: server.port(),
        security: if kind.is_implicit() {
            Security::Implicit
        } else {
            Security::Explicit
        },
        user: USER.into(),
        password: Secret::new(PASSWORD),
        account: None,
        trust: TrustOptions {
            cafile: Some(certificate("ca.pem")),
            ..TrustOptions::default()
        },
        max_sessions: std::env::var("SESSIONS").map_or(1, |s| s.parse().unwrap()),
        active: false,
        trust_pasv_address: false,
        connect_timeout: Duration::from_secs(10),
        keepalive: Duration::from_secs(60),
        idle_close: Duration::from_secs(60),
        min_rate: 1024,
        addresses: vec![link.address()],
    };
    let (n, remote) = link.count(|| Remote::connect(config, soon()).unwrap());
    println!("{kind:?} connect {n}");
    for round in 0..3 {
        let mut row = format!("{kind:?} {round}:");
        macro_rules! c {
            ($name:literal, $e:expr) => {{
                let (n, v) = link.count(|| $e);
                row += &format!(" {} {n}", $name);
                v
            }};
        }
        c!("list", remote.list(&path("/dir"), soon()).unwrap());
        c!("stat", remote.stat(&path("/small"), None, soon()).unwrap());
        let known = remote.stat(&path("/small"), None, soon()).unwrap();
        c!(
            "restat",
            remote.stat(&path("/small"), Some(&known), soon()).unwrap()
        );
        let mut buf = vec![0; 8192];
        let mut d = c!("first", {
            let mut d = remote
                .download(&path("/small"), 0, None, None, soon())
                .unwrap();
            d.read(&mut buf, soon()).unwrap();
            d
        });
        let mut d2 = d;
        c!("end", while d2.read(&mut buf, soon()).unwrap() > 0 {});
        drop(d2);
        c!("whole", {
            let mut d = remote
                .download(&path("/small"), 0, None, None, soon())
                .unwrap();
            while d.read(&mut buf, soon()).unwrap() > 0 {}
        });
        let name = path(&format!("/new{round}"));
        let temp = remote.temporaries().beside(&name);
        c!("store", {
            let mut u = remote.store(&temp, soon()).unwrap();
            u.write(&[1; 4096], soon()).unwrap();
            u.finish(soon()).unwrap()
        });
        c!(
            "publish",
            remote
                .publish(
                    &temp,
                    &name,
                    Publication {
                        size: 4096,
                        modified: Some(std::time::SystemTime::now()),
                        mode: Some(0o644),
                        replaces: false
                    },
                    soon()
                )
                .unwrap()
        );
        c!("append", {
            let mut u = remote.append(&name, 4096, soon()).unwrap();
            u.write(&[1; 4096], soon()).unwrap();
            u.finish(soon()).unwrap()
        });
        let dir = path(&format!("/dir{round}"));
        c!("mkdir", remote.mkdir(&dir, soon()).unwrap());
        let _ = c!("chmod", remote.set_mode(&dir, 0o755, soon()));
        let _ = c!(
            "utimens",
            remote.set_modified(&name, std::time::SystemTime::now(), soon())
        );
        c!(
            "rename",
            remote
                .rename(&dir, &path(&format!("/ren{round}")), soon())
                .unwrap()
        );
        c!("unlink", remote.unlink(&name, soon()).unwrap());
        println!("{row}");
    }
}

#[test]
fn vs() {
    measure(Kind::VsftpdExplicit)
}
#[test]
fn pro() {
    measure(Kind::ProftpdExplicit)
}
#[test]
fn pure() {
    measure(Kind::PureFtpd)
}
#[test]
fn py() {
    measure(Kind::Pyftpdlib)
}
