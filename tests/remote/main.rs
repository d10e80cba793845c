//! The remote layer against real servers, without the kernel in between: what a mount cannot show
//! or would hide behind its caches.

#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::{Duration, Instant, SystemTime};

use common::server::{Kind, PASSWORD, RealServer, USER, certificate};
use common::tree;
use ftpsfs::client::Config;
use ftpsfs::proto::{Name, RemotePath, Security};
use ftpsfs::remote::{Error, FileKind, Publication, Remote};
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
        trust: TrustOptions {
            cafile: Some(certificate("ca.pem")),
            ..TrustOptions::default()
        },
        ..Config::new("localhost", server.port(), security, USER, PASSWORD)
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

fn read_all(remote: &Remote, path: &RemotePath, offset: u64) -> Result<Vec<u8>, Error> {
    let mut download = remote.download(path, offset, None, None, soon())?;
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
            .list(&path("/"), soon())
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
        let name = path("/").join(&Name::parse(b"file").unwrap());
        assert_eq!(remote.stat(&name, None, soon()).unwrap(), known);
        assert_eq!(remote.stat(&name, Some(&known), soon()).unwrap(), known);
        let link = path("/").join(&Name::parse(b"link").unwrap());
        assert_eq!(
            remote.stat(&link, None, soon()).unwrap().kind,
            FileKind::Symlink
        );
        assert_eq!(&*remote.read_link(&link, soon()).unwrap(), b"file");
    }
    let missing = path("/").join(&Name::parse(b"missing").unwrap());
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
    let file = path("/").join(&Name::parse(b"file").unwrap());
    let error = remote.list(&file, soon()).unwrap_err();
    assert!(matches!(error, Error::NotDirectory), "{error:?}");
    let own = fs::metadata(server.root.join("dir")).unwrap().mode() & 0o777;
    let dir = path("/").join(&Name::parse(b"dir").unwrap());
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
    let data = path("/").join(&Name::parse(b"data").unwrap());
    assert!(read_all(&remote, &data, 0).unwrap() == content);
    for offset in [1, 4096, 777_777, content.len() as u64 - 1] {
        assert!(read_all(&remote, &data, offset).unwrap() == content[offset as usize..]);
    }
    let empty = path("/").join(&Name::parse(b"empty").unwrap());
    assert_eq!(read_all(&remote, &empty, 0).unwrap(), b"");
    // Given up before a byte was read: the ticket for the next connection is not lost with it.
    for round in 0..6 {
        drop(remote.download(&data, round, None, None, soon()).unwrap());
    }
    // Given up early, many times: sessions survive it, or are replaced.
    for round in 0..6 {
        let mut download = remote
            .download(&data, round * 1000, None, None, soon())
            .unwrap();
        let mut bytes = [0; 1000];
        let n = download.read(&mut bytes, soon()).unwrap();
        assert!(bytes[..n] == content[round as usize * 1000..][..n]);
    }
    assert!(read_all(&remote, &data, 5).unwrap() == content[5..]);
    remote.shutdown();
}

/// The server has sent it all by then, and is about to say so: Pure-FTPd, from which nothing came after a large one,
/// takes NOOP for an unknown command there.
fn a_small_file_given_up_costs_no_time(server: &RealServer) {
    fs::write(server.root.join("small"), &content()[..23_456]).unwrap();
    tree::fill(&server.root.join("large"), 1, 32 << 20);
    let remote = connect(server, |_| {});
    for round in 0..40 {
        for name in ["/large", "/small"] {
            let started = Instant::now();
            let mut download = remote
                .download(&path(name), round, None, None, soon())
                .unwrap();
            download
                .read(&mut vec![0; (round as usize % 24 + 1) * 1000], soon())
                .unwrap();
            drop(download);
            let took = started.elapsed();
            assert!(took < Duration::from_secs(4), "{name} {round}: {took:?}");
        }
    }
    remote.shutdown();
}

fn a_killed_server_costs_time_only(server: &mut RealServer, change: fn(&mut Config)) {
    let content = content().repeat(16);
    fs::write(server.root.join("data"), &content).unwrap();
    let remote = connect(server, change);
    let data = path("/").join(&Name::parse(b"data").unwrap());
    let mut download = remote.download(&data, 0, None, None, soon()).unwrap();
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

fn changes_names_times_and_modes(server: &RealServer, change: fn(&mut Config)) {
    let remote = connect(server, change);
    let dir = path("/new-dir");
    remote.mkdir(&dir, 0o755, soon()).unwrap();
    assert!(matches!(
        remote.mkdir(&dir, 0o755, soon()),
        Err(Error::Exists)
    ));
    let error = remote.mkdir(&path("/none/dir"), 0o755, soon()).unwrap_err();
    assert!(matches!(error, Error::NotFound), "{error:?}");
    put(server, &remote, &path("/new-dir/a"), b"one", false);
    assert!(matches!(remote.rmdir(&dir, soon()), Err(Error::NotEmpty)));
    assert!(matches!(
        remote.rmdir(&path("/new-dir/a"), soon()),
        Err(Error::NotDirectory)
    ));
    assert!(matches!(
        remote.unlink(&dir, soon()),
        Err(Error::IsDirectory)
    ));
    assert!(matches!(
        remote.unlink(&path("/new-dir/b"), soon()),
        Err(Error::NotFound)
    ));
    put(server, &remote, &path("/new-dir/b"), b"two", false);
    remote
        .rename(&path("/new-dir/a"), &path("/new-dir/b"), soon())
        .unwrap();
    assert_eq!(fs::read(server.root.join("new-dir/b")).unwrap(), b"one");
    assert!(matches!(
        remote.rename(&path("/new-dir/a"), &path("/c"), soon()),
        Err(Error::NotFound)
    ));
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_111_111_111);
    remote
        .set_modified(&path("/new-dir/b"), then, soon())
        .unwrap();
    assert_eq!(
        fs::metadata(server.root.join("new-dir/b"))
            .unwrap()
            .modified()
            .unwrap(),
        then
    );
    remote.set_mode(&path("/new-dir/b"), 0o640, soon()).unwrap();
    assert_eq!(
        fs::metadata(server.root.join("new-dir/b")).unwrap().mode() & 0o7777,
        0o640
    );
    // ProFTPD makes every target a path from its root.
    let link = path("/new-dir/link");
    let linked = remote.symlink(b"b", &link, soon());
    assert!(matches!(linked, Err(Error::Unsupported(_))), "{linked:?}");
    let linked = remote.symlink(b"/new-dir/b", &link, soon());
    if server.kind.is_proftpd() {
        linked.unwrap();
        let target = fs::read_link(server.root.join("new-dir/link")).unwrap();
        assert!(target.ends_with("new-dir/b"), "{target:?}");
        remote.unlink(&link, soon()).unwrap();
    } else {
        assert!(matches!(linked, Err(Error::Unsupported(_))), "{linked:?}");
    }
    assert!(!server.root.join("new-dir/link").is_symlink());
    remote.unlink(&path("/new-dir/b"), soon()).unwrap();
    remote.rmdir(&dir, soon()).unwrap();
    assert!(matches!(remote.rmdir(&dir, soon()), Err(Error::NotFound)));
}

/// Uploads to a temporary name and publishes it.
fn put(server: &RealServer, remote: &Remote, to: &RemotePath, content: &[u8], replaces: bool) {
    let temporary = remote.temporaries().beside(to);
    let mut upload = remote.store(temporary.path(), soon()).unwrap();
    for chunk in content.chunks(100_000) {
        upload.write(chunk, soon()).unwrap();
    }
    upload.finish(soon()).unwrap();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_222_222_222);
    let publication = Publication {
        size: content.len() as u64,
        modified: Some(modified),
        mode: Some(0o600),
        replaces,
        expects: None,
    };
    let published = remote
        .publish(temporary.path(), to, publication, soon())
        .unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
    assert!(published.modified && published.mode, "{published:?}");
}

fn uploads_appends_and_patches(server: &RealServer, change: fn(&mut Config)) {
    let content = content();
    let remote = connect(server, change);
    let (file, local) = (path("/file"), server.root.join("file"));
    for round in 0..4 {
        put(server, &remote, &file, &content[round * 1000..], round > 0);
        assert!(fs::read(&local).unwrap() == content[round * 1000..]);
        assert_eq!(fs::metadata(&local).unwrap().mode() & 0o777, 0o600);
    }
    put(server, &remote, &path("/empty"), b"", false);
    assert_eq!(fs::read(server.root.join("empty")).unwrap(), b"");
    let size = fs::metadata(&local).unwrap().len();
    for seen in [false, true] {
        let refused = remote.append(&file, size - 1, seen, soon()).err();
        assert!(matches!(refused, Some(Error::Changed)), "{refused:?}");
    }
    // The command alone makes a file that others have removed.
    let gone = path("/gone");
    assert!(matches!(
        remote.append(&gone, 5, false, soon()).err(),
        Some(Error::Changed)
    ));
    assert!(!server.root.join("gone").exists());
    for _ in 0..3 {
        let size = fs::metadata(&local).unwrap().len();
        let mut upload = remote.append(&file, size, true, soon()).unwrap();
        upload.write(b"more", soon()).unwrap();
        upload.finish(soon()).unwrap();
        assert_eq!(fs::metadata(&local).unwrap().len(), size + 4);
    }
    let expected = [&content[3000..], b"moremoremore"].concat();
    assert!(fs::read(&local).unwrap() == expected);
    let in_place = remote.patches_in_place(&file, soon()).unwrap();
    assert_eq!(in_place, server.kind != Kind::PureFtpd);
    if in_place {
        let size = fs::metadata(&local).unwrap().len();
        let mut upload = remote.patch(&file, 5000, size, soon()).unwrap();
        upload.write(b"patched", soon()).unwrap();
        upload.finish(soon()).unwrap();
        let mut expected = expected;
        expected[5000..5007].copy_from_slice(b"patched");
        assert!(fs::read(&local).unwrap() == expected);
        for other in [size + 1, 5001] {
            let refused = remote.patch(&file, 5000, other, soon()).err();
            assert!(matches!(refused, Some(Error::Changed)), "{refused:?}");
        }
        assert!(fs::read(&local).unwrap() == expected);
    }
    // Uploads under TLS 1.3 may leave a session nothing to resume: many in a row go through.
    for round in 0..12_u8 {
        put(server, &remote, &path("/many"), &[round; 10], round > 0);
    }
    assert_eq!(fs::read(server.root.join("many")).unwrap(), [11; 10]);
    // A rename would replace a link, of which a server may show only what it points to.
    symlink("many", server.root.join("link")).unwrap();
    let temporary = remote.temporaries().beside(&path("/link"));
    let upload = remote.store(temporary.path(), soon()).unwrap();
    upload.finish(soon()).unwrap();
    let publication = Publication {
        size: 0,
        modified: None,
        mode: None,
        replaces: true,
        expects: None,
    };
    let refused = remote.publish(temporary.path(), &path("/link"), publication, soon());
    assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
    remote.unlink(temporary.path(), soon()).unwrap();
    fs::remove_file(server.root.join("link")).unwrap();
    let error = remote.store(&path("/none/file"), soon()).err();
    assert!(matches!(error, Some(Error::NotFound)), "{error:?}");
    let left: Vec<_> = fs::read_dir(&server.root)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 3, "{left:?}");
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
        fn a_small_file_given_up_costs_no_time() {
            super::a_small_file_given_up_costs_no_time(&RealServer::of(Kind::$kind));
        }

        #[test]
        fn changes_names_times_and_modes() {
            super::changes_names_times_and_modes(&RealServer::of(Kind::$kind), |_| {});
        }

        #[test]
        fn uploads_appends_and_patches() {
            super::uploads_appends_and_patches(&RealServer::of(Kind::$kind), |_| {});
        }

        #[test]
        fn uploads_appends_and_patches_under_tls12() {
            super::uploads_appends_and_patches(&RealServer::of(Kind::$kind), |config| {
                config.trust.only_tls12 = true;
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

/// It came just as its socket was closed here, one of 25 times, and vsftpd waits until it is acknowledged: 200 ms
/// until it is sent once more.
#[test]
fn an_upload_does_not_lose_the_servers_fin() {
    let server = RealServer::of(Kind::VsftpdExplicit);
    let remote = connect(&server, |_| {});
    let slow = (0..600).filter(|_| {
        let mut upload = remote.store(&path("/file"), soon()).unwrap();
        upload.write(&content()[..4096], soon()).unwrap();
        let started = Instant::now();
        upload.finish(soon()).unwrap();
        started.elapsed() > Duration::from_millis(195)
    });
    let slow = slow.count();
    assert!(slow <= 5, "{slow} of 600");
    remote.shutdown();
}

/// vsftpd sends names raw, so a name can look like the end of a STAT listing and like replies.
#[test]
fn a_name_with_line_ends_forges_no_listing() {
    for (name, kind) in [
        ("x\n213 End\n200 forged", Kind::VsftpdExplicit),
        ("x\r\n213 End\r\n213-q", Kind::VsftpdExplicit),
        ("x\r\n213 End\r\n200 forged", Kind::VsftpdExplicit),
        ("x\r\n212 End\r\n200 forged", Kind::ProftpdExplicit),
    ] {
        let server = RealServer::of(kind);
        for at in 0..20_u64 {
            let file = server.root.join(format!("file{at}"));
            fs::write(&file, format!("{at}")).unwrap();
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + at * 1000);
            fs::File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_modified(then)
                .unwrap();
        }
        let remote = connect(&server, |_| {});
        remote.list(&path("/"), soon()).unwrap();
        fs::write(server.root.join(name), "").unwrap();
        for _ in 0..3 {
            let listing = remote.list(&path("/"), soon()).unwrap();
            for at in 0..20_u64 {
                let name = Name::parse(format!("file{at}").as_bytes()).unwrap();
                let found = listing.entries.iter().find(|(n, _)| *n == name);
                let (_, attributes) =
                    found.unwrap_or_else(|| panic!("{kind:?}: {name} is missing"));
                let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + at * 1000);
                assert_eq!(attributes.mtime, then, "{kind:?}: {name}");
            }
        }
    }
}
