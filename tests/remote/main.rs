//! The remote layer against real servers, without the kernel in between: what a mount cannot show
//! or would hide behind its caches.

#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant, SystemTime};

use common::server::{Kind, PASSWORD, RealServer, USER, certificate};
use ftpsfs::client::Config;
use ftpsfs::proto::{Name, RemotePath, Secret, Security};
use ftpsfs::remote::{Error, FileKind, Remote};
use ftpsfs::tls::TrustOptions;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn config(server: &RealServer) -> Config {
    let security = if server.kind.is_implicit() {
        Security::Implicit
    } else {
        Security::Explicit
    };
    Config {
        host: "localhost".to_owned(),
        port: server.port(),
        security,
        user: USER.into(),
        password: Secret::new(PASSWORD),
        account: None,
        trust: TrustOptions {
            cafile: Some(certificate("ca.pem")),
            ..TrustOptions::default()
        },
        max_sessions: 4,
        active: false,
        trust_pasv_address: false,
        connect_timeout: Duration::from_secs(10),
        keepalive: Duration::from_secs(60),
        idle_close: Duration::from_secs(60),
        min_rate: 1024,
        addresses: Vec::new(),
    }
}

fn connect(server: &RealServer, change: impl FnOnce(&mut Config)) -> Remote {
    let _ = env_logger::Builder::from_default_env()
        .is_test(true)
        .try_init();
    let mut config = config(server);
    change(&mut config);
    Remote::connect(config, soon()).unwrap_or_else(|e| panic!("{e}\n{}", server.log()))
}

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text.as_bytes()).expect("a valid path")
}

/// Where the account's folder is in the server's name space.
fn base(server: &RealServer) -> RemotePath {
    if server.kind.is_vsftpd() || server.kind.is_proftpd() {
        path("/")
    } else {
        path("/")
    }
}

fn read_all(remote: &Remote, path: &RemotePath, offset: u64) -> Result<Vec<u8>, Error> {
    let mut download = remote.download(path, offset, None, soon())?;
    let mut all = Vec::new();
    let mut chunk = vec![0; 100_000];
    loop {
        match download.read(&mut chunk, soon())? {
            0 => return Ok(all),
            n => all.extend_from_slice(&chunk[..n]),
        }
    }
}

/// 1 MiB of bytes that do not repeat where a mix-up of offsets would show.
fn content() -> Vec<u8> {
    (0..1_u32 << 18)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

fn lists_exact_times_and_hidden_files(server: &RealServer, change: fn(&mut Config)) {
    fs::write(server.root.join("file"), "hello").unwrap();
    fs::write(server.root.join(".hidden"), "").unwrap();
    fs::create_dir(server.root.join("dir")).unwrap();
    std::os::unix::fs::symlink("file", server.root.join("link")).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_234_567_890);
    fs::File::options()
        .write(true)
        .open(server.root.join("file"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    let remote = connect(server, change);
    for round in 0..2 {
        let listing = remote
            .list(&base(server), soon())
            .unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
        assert!(listing.complete);
        let mut names: Vec<_> = listing
            .entries
            .iter()
            .map(|(n, _)| n.as_bytes().to_vec())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [&b".hidden"[..], b"dir", b"file", b"link"],
            "round {round}"
        );
        let of = |name: &str| {
            let name = Name::parse(name.as_bytes()).unwrap();
            listing
                .entries
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, a)| a.clone())
                .unwrap()
        };
        assert_eq!((of("file").size, of("file").mtime), (5, old));
        assert_eq!(of("dir").kind, FileKind::Directory);
        assert_eq!(of("link").kind, FileKind::Symlink);
        let known = of("file");
        let name = base(server).join(&Name::parse(b"file").unwrap());
        assert_eq!(remote.stat(&name, None, soon()).unwrap(), known);
        assert_eq!(remote.stat(&name, Some(&known), soon()).unwrap(), known);
        let link = base(server).join(&Name::parse(b"link").unwrap());
        assert_eq!(
            remote.stat(&link, None, soon()).unwrap().kind,
            FileKind::Symlink
        );
        assert_eq!(&*remote.read_link(&link, soon()).unwrap(), b"file");
    }
    let missing = base(server).join(&Name::parse(b"missing").unwrap());
    assert!(matches!(
        remote.stat(&missing, None, soon()),
        Err(Error::NotFound)
    ));
    assert!(matches!(
        remote.list(&missing, soon()),
        Err(Error::NotFound)
    ));
    assert!(matches!(
        read_all(&remote, &missing, 0),
        Err(Error::NotFound)
    ));
    let file = base(server).join(&Name::parse(b"file").unwrap());
    let error = remote.list(&file, soon()).unwrap_err();
    assert!(matches!(error, Error::NotDirectory), "{error:?}");
    let own = fs::metadata(server.root.join("dir")).unwrap().mode() & 0o777;
    let dir = base(server).join(&Name::parse(b"dir").unwrap());
    assert_eq!(
        remote.stat(&dir, None, soon()).unwrap().mode,
        Some(own as u16)
    );
    remote.shutdown();
}

fn reads_whole_and_from_any_offset(server: &RealServer, change: fn(&mut Config)) {
    let content = content();
    fs::write(server.root.join("data"), &content).unwrap();
    fs::write(server.root.join("empty"), "").unwrap();
    let remote = connect(server, change);
    let data = base(server).join(&Name::parse(b"data").unwrap());
    assert!(read_all(&remote, &data, 0).unwrap() == content);
    for offset in [1, 4096, 777_777, content.len() as u64 - 1] {
        assert!(read_all(&remote, &data, offset).unwrap() == content[offset as usize..]);
    }
    let empty = base(server).join(&Name::parse(b"empty").unwrap());
    assert_eq!(read_all(&remote, &empty, 0).unwrap(), b"");
    // Given up early, many times: sessions survive it, or are replaced.
    for round in 0..6 {
        let mut download = remote.download(&data, round * 1000, None, soon()).unwrap();
        let mut bytes = [0; 1000];
        let n = download.read(&mut bytes, soon()).unwrap();
        assert!(bytes[..n] == content[round as usize * 1000..][..n]);
    }
    assert!(read_all(&remote, &data, 5).unwrap() == content[5..]);
    remote.shutdown();
}

fn a_killed_server_costs_time_only(server: &mut RealServer, change: fn(&mut Config)) {
    let content = content().repeat(16);
    fs::write(server.root.join("data"), &content).unwrap();
    let remote = connect(server, change);
    let data = base(server).join(&Name::parse(b"data").unwrap());
    let mut download = remote.download(&data, 0, None, soon()).unwrap();
    let mut all = vec![0; 300_000];
    let n = download.read(&mut all, soon()).unwrap();
    all.truncate(n);
    server.restart();
    let mut chunk = vec![0; 100_000];
    loop {
        match download
            .read(&mut chunk, soon())
            .unwrap_or_else(|e| panic!("{e}\n{}", server.log()))
        {
            0 => break,
            n => all.extend_from_slice(&chunk[..n]),
        }
    }
    assert!(all == content);
}

macro_rules! on_servers {
    ($($module:ident: $kind:ident),*) => { $(mod $module {
        use super::*;

        #[test]
        fn lists_exact_times_and_hidden_files() {
            super::lists_exact_times_and_hidden_files(&RealServer::of(Kind::$kind), |_| {});
        }

        #[test]
        fn lists_in_active_mode_under_tls12() {
            super::lists_exact_times_and_hidden_files(&RealServer::of(Kind::$kind), |config| {
                config.active = true;
                config.trust.only_tls12 = true;
            });
        }

        #[test]
        fn reads_whole_and_from_any_offset() {
            super::reads_whole_and_from_any_offset(&RealServer::of(Kind::$kind), |_| {});
        }

        #[test]
        fn reads_whole_and_from_any_offset_under_tls12_on_one_session() {
            super::reads_whole_and_from_any_offset(&RealServer::of(Kind::$kind), |config| {
                config.trust.only_tls12 = true;
                config.max_sessions = 1;
            });
        }

        #[test]
        fn a_killed_server_costs_time_only() {
            super::a_killed_server_costs_time_only(&mut RealServer::of(Kind::$kind), |_| {});
        }
    })* };
}

on_servers! {
    vsftpd: VsftpdExplicit, vsftpd_implicit: VsftpdImplicit, proftpd: ProftpdExplicit,
    proftpd_implicit: ProftpdImplicit, pure_ftpd: PureFtpd, pyftpdlib: Pyftpdlib,
    pyftpdlib_implicit: PyftpdlibImplicit
}
