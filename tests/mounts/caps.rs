//! Servers that allow fewer connections than are wanted: everything goes on, only slower.

use crate::common::command::within;
use crate::common::mount::Mount;
use crate::common::server::{Kind, Options, RealServer};
use crate::common::tree;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// What each copy, reader and writer moves.
const LONG: usize = 6 << 20;
const SHORT: usize = 500_000;

macro_rules! on_each_server {
    ($($module:ident $kind:ident $one:literal $two:literal),* $(,)?) => {
        $(mod $module {
            use crate::caps::{Pool, at_once};
            use crate::common::server::Kind;

            #[test]
            fn one_connection() {
                at_once(Kind::$kind, $one, Pool::Large);
            }

            #[test]
            fn two_connections() {
                at_once(Kind::$kind, $two, Pool::Large);
            }

            #[test]
            fn a_pool_of_one() {
                at_once(Kind::$kind, 50, Pool::Of(1));
            }
        })*
    };
}

// pyftpdlib counts its own listener and data connections among the clients.
on_each_server! {
    vsftpd VsftpdExplicit 1 2, vsftpd_implicit VsftpdImplicit 1 2, proftpd ProftpdExplicit 1 2,
    pure_ftpd PureFtpd 1 2, pyftpdlib PyftpdlibImplicit 4 5,
}

/// `max_sessions=`.
#[derive(Clone, Copy)]
enum Pool {
    /// The default: more than the server allows.
    Large,
    Of(usize),
}

/// Copies from the mount to the mount, other readers and writers, and `ls` meanwhile.
fn at_once(kind: Kind, max_clients: u32, pool: Pool) {
    let options = Options {
        max_clients,
        ..Options::default()
    };
    let server = RealServer::start(kind, options);
    for long in 0..2 {
        tree::fill(&server.root.join(format!("long{long}")), long, LONG as u64);
    }
    for short in 0..3 {
        tree::fill(
            &server.root.join(format!("short{short}")),
            10 + short,
            SHORT as u64,
        );
    }
    // Little is read ahead, and nothing is remembered: who reads has to come back again and again.
    let sessions = match pool {
        Pool::Large => 4,
        Pool::Of(sessions) => sessions,
    };
    let options = format!("max_sessions={sessions},window=1M,attr_timeout=0,dir_timeout=0");
    let mount = Mount::new(&server, &options);
    let dir = mount.dir.clone();
    within(Duration::from_secs(100), move || work(&dir));
    for long in 0..2 {
        expect(&server, &format!("copy{long}"), long, LONG);
    }
    for written in 0..2 {
        expect(&server, &format!("written{written}"), 20 + written, SHORT);
    }
}

fn work(dir: &Path) {
    std::thread::scope(|scope| {
        for long in 0..2 {
            scope.spawn(move || {
                copy(
                    &dir.join(format!("long{long}")),
                    &dir.join(format!("copy{long}")),
                )
            });
        }
        for short in 0..3_u64 {
            scope.spawn(move || {
                for _ in 0..2 {
                    let content = fs::read(dir.join(format!("short{short}"))).expect("read");
                    assert!(content == tree::bytes(10 + short, SHORT), "short{short}");
                }
            });
        }
        for written in 0..2 {
            scope.spawn(move || {
                let path = dir.join(format!("written{written}"));
                fs::write(path, tree::bytes(20 + written, SHORT)).expect("write");
            });
        }
        scope.spawn(move || {
            for _ in 0..5 {
                let names = fs::read_dir(dir).expect("list").count();
                assert!((5..=9).contains(&names), "{names} names");
            }
        });
    });
}

/// As cp does where the kernel cannot: a file is read while another is written.
fn copy(from: &Path, to: &Path) {
    let (mut from, mut to) = (
        File::open(from).expect("open"),
        File::create(to).expect("create"),
    );
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer).expect("read") {
            0 => break,
            read => to.write_all(&buffer[..read]).expect("write"),
        }
    }
    to.sync_all().expect("sync");
}

fn expect(server: &RealServer, name: &str, seed: u64, length: usize) {
    let content = fs::read(server.root.join(name)).expect("read on the server");
    assert!(
        content == tree::bytes(seed, length),
        "{name}: {} bytes",
        content.len()
    );
}
