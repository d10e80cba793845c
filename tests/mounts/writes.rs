//! Writing, on every server: what programs do, and what the server's own folder holds afterwards.

mod attrs;
mod full_disk;
mod programs;
mod wire;

use crate::common::command::{run, soon};
use crate::common::mount::Mount;
use crate::common::server::{Kind, RealServer};
use crate::common::{full, tree, wait_until};
use attrs::*;
use full_disk::*;
use programs::*;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};
use wire::*;

macro_rules! on_every_server {
    ($($test:ident),* $(,)?) => {
        on_every_server!(@servers [$($test)*]
            vsftpd VsftpdExplicit, vsftpd_implicit VsftpdImplicit, proftpd ProftpdExplicit,
            proftpd_implicit ProftpdImplicit, pure_ftpd PureFtpd, pyftpdlib Pyftpdlib,
            pyftpdlib_implicit PyftpdlibImplicit);
    };
    (@servers $tests:tt $($module:ident $kind:ident),*) => {
        $(mod $module { on_every_server!(@tests $kind $tests); })*
    };
    (@tests $kind:ident [$($test:ident)*]) => {
        $(#[test]
        fn $test() {
            crate::writes::$test(crate::common::server::Kind::$kind);
        })*
    };
}

on_every_server! {
    content, names, links, unlinked_and_replaced, times_and_modes, large_file, memory_maps, one_session, direct,
    killed_server, random_operations, rsync, copies, odd_names, small_tools, git, editors, sqlite, make,
    libreoffice, appending_shells, small_changes_of_large_files, full_disk, attributes,
}

fn mounted(kind: Kind, extra: &str) -> (RealServer, Mount) {
    let server = RealServer::of(kind);
    let mount = Mount::new(&server, extra);
    (server, mount)
}

/// Runs a bash script in the mount. What is to fail there is called by `fails`: a bare `!` passes either way.
fn script(mount: &Mount, text: &str) -> String {
    let mut bash = Command::new("bash");
    bash.args([
        "-c",
        &format!("set -euxo pipefail\nfails() {{ ! \"$@\"; }}\n{text}"),
    ]);
    bash.current_dir(&mount.dir).env("HOME", "/nonexistent");
    bash.env("GIT_CONFIG_GLOBAL", "/dev/null");
    run(&mut bash, Duration::from_secs(120)).text()
}

/// Names in the server's folder, hidden ones as well.
fn stored(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).expect("list the server's folder");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

fn content(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    let (dir, root) = (mount.dir.clone(), server.root.clone());
    soon(move || {
        for length in [0, 1, 5000, 1_000_003] {
            let (file, there) = (dir.join(length.to_string()), root.join(length.to_string()));
            let mut bytes = tree::bytes(3, length);
            fs::write(&file, &bytes).expect("write");
            assert!(
                fs::read(&there).expect("read there") == bytes,
                "new: {length}"
            );
            File::options()
                .append(true)
                .open(&file)
                .and_then(|mut file| file.write_all(b"appended"))
                .expect("append");
            bytes.extend_from_slice(b"appended");
            assert!(
                fs::read(&there).expect("read there") == bytes,
                "appended: {length}"
            );
            let open = File::options().read(true).write(true).open(&file);
            let open = open.expect("open");
            open.write_all_at(b"middle", 3).expect("overwrite");
            let end = bytes.len().max(9);
            bytes.resize(end, 0);
            bytes[3..9].copy_from_slice(b"middle");
            let mut read = Vec::new();
            File::open(&file)
                .and_then(|mut file| file.read_to_end(&mut read))
                .expect("read");
            assert!(read == bytes, "read back: {length}");
            open.sync_all().expect("sync");
            assert!(
                fs::read(&there).expect("read there") == bytes,
                "overwritten: {length}"
            );
            open.set_len(4).expect("cut");
            drop(open);
            assert!(
                fs::read(&there).expect("read there") == bytes[..4],
                "cut: {length}"
            );
            fs::write(&file, "new").expect("replace");
            assert_eq!(fs::read(&there).expect("read there"), b"new");
            assert_eq!(fs::read(&file).expect("read"), b"new");
        }
        let large = tree::bytes(4, 3 << 20);
        fs::write(dir.join("large"), &large).expect("write");
        let open = File::options().write(true).open(dir.join("large"));
        open.and_then(|file| file.write_all_at(b"patched", 1_500_000))
            .expect("patch");
        let mut expected = large;
        expected[1_500_000..1_500_007].copy_from_slice(b"patched");
        assert!(fs::read(root.join("large")).expect("read there") == expected);
        assert!(fs::read(dir.join("large")).expect("read") == expected);
        assert_eq!(stored(&root), ["0", "1", "1000003", "5000", "large"]);
    });
}

fn names(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    // Pure-FTPd would make an underscore of the last space.
    let spaced = match kind {
        Kind::PureFtpd => "with  spaces",
        _ => "with  spaces ",
    };
    script(
        &mount,
        &r#"
        mkdir -p a/b/c; echo x > a/b/c/f; echo y > g
        mv g a/b; mv a/b z; test "$(cat z/g z/c/f)" = "y
x"
        echo new > n; mv n z/g; test "$(cat z/g)" = new
        mkdir empty; mv -T a empty; fails test -e a
        fails rmdir z 2> /dev/null; rm -r z; rmdir empty
        touch -- "SPACED" -dash '[glob]*?' '#hash%20'
        mv -- -dash "SPACED"
        test "$(ls | wc -l)" = 3
        "#
        .replace("SPACED", spaced),
    );
    assert_eq!(stored(&server.root), ["#hash%20", "[glob]*?", spaced]);
}

/// A symbolic link says what it was made to say, or is not made: ProFTPD would turn `file` into `/file`, and
/// other servers have no links at all.
fn links(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    tree::put(&server.root.join("file"), b"content", Duration::ZERO);
    let (dir, root) = (mount.dir.clone(), server.root.clone());
    soon(move || {
        for target in ["file", "./file", "missing", "/file"] {
            match symlink(target, dir.join("link")) {
                Ok(()) => {
                    assert!(kind.is_proftpd() && target == "/file", "{target}");
                    for there in [&dir, &root] {
                        let read = fs::read_link(there.join("link")).expect("read the link");
                        assert_eq!(read, Path::new(target));
                    }
                }
                Err(error) => {
                    assert!(!kind.is_proftpd() || target != "/file", "{error}");
                    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{target}");
                    assert_eq!(stored(&root), ["file"], "{target}");
                }
            }
        }
    });
}

fn unlinked_and_replaced(kind: Kind) {
    let server = RealServer::of(kind);
    let root = server.root.clone();
    tree::put(&root.join("old"), &tree::bytes(5, 300_000), Duration::ZERO);
    tree::put(
        &root.join("target"),
        &tree::bytes(6, 300_000),
        Duration::ZERO,
    );
    let mount = Mount::new(&server, "");
    let dir = mount.dir.clone();
    soon(move || {
        let open = |name: &str| {
            let mut options = File::options();
            options.read(true).write(true).create(true);
            options.open(dir.join(name)).expect("open")
        };
        let (old, new, target) = (open("old"), open("new"), open("target"));
        new.write_all_at(b"never there", 0).expect("write");
        fs::remove_file(dir.join("old")).expect("unlink");
        fs::remove_file(dir.join("new")).expect("unlink");
        fs::write(dir.join("other"), "other").expect("write");
        fs::rename(dir.join("other"), dir.join("target")).expect("rename");
        for (file, seed) in [(&old, 5), (&target, 6)] {
            file.write_all_at(b"still", 100).expect("write");
            let mut expected = tree::bytes(seed, 300_000);
            expected[100..105].copy_from_slice(b"still");
            let mut read = vec![0; 300_000];
            file.read_exact_at(&mut read, 0).expect("read");
            assert!(read == expected);
            assert_eq!(file.metadata().expect("stat").nlink(), 0);
        }
        let mut read = [0; 11];
        new.read_exact_at(&mut read, 0).expect("read");
        assert_eq!(&read, b"never there");
        assert_eq!(fs::read(dir.join("target")).expect("read"), b"other");
    });
    assert!(wait_until(Duration::from_secs(10), || stored(&server.root)
        == ["target"]));
    assert_eq!(
        fs::read(server.root.join("target")).expect("read there"),
        b"other"
    );
}

fn times_and_modes(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    script(
        &mount,
        "umask 022
         echo x > f; touch -d @1111111111 f; chmod 640 f
         echo y > g; cp -p f h; install -m 600 g i; mkdir d; touch -d @1222222222 d f",
    );
    let there = |name: &str| fs::metadata(server.root.join(name)).expect("stat there");
    let path = mount.dir.clone();
    let here = move |name: &'static str| {
        let path = path.join(name);
        soon(move || fs::metadata(path)).expect("stat")
    };
    let seconds = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    for (name, mode, time) in [("f", 0o640, 1_222_222_222), ("h", 0o640, 1_111_111_111)] {
        assert_eq!(there(name).mode() & 0o7777, mode, "{name}");
        assert_eq!(
            there(name).modified().expect("a time"),
            seconds(time),
            "{name}"
        );
        assert_eq!(
            here(name).modified().expect("a time"),
            seconds(time),
            "{name}"
        );
    }
    assert_eq!(there("i").permissions().mode() & 0o777, 0o600);
    assert_eq!(
        here("d").modified().expect("a time"),
        seconds(1_222_222_222)
    );
    // What is shown right after writing is shown for ever.
    let shown = here("g").modified().expect("a time");
    assert_eq!(there("g").modified().expect("a time"), shown);
    std::thread::sleep(Duration::from_secs(1));
    let mount = Mount::at(mount.unmount(), &server, "");
    let later = mount.path("g");
    let later = soon(move || fs::metadata(later)).expect("stat");
    assert_eq!(later.modified().expect("a time"), shown);
}

fn large_file(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    let length = if full() { 1 << 30 } else { 64 << 20 };
    let local = tempfile::tempdir().expect("make a folder");
    let path = local.path().join("large");
    tree::fill(&path, 9, length);
    let digest = tree::digest(&path).expect("read it");
    let mut copy = Command::new("cp");
    copy.arg(&path).arg(mount.path("large"));
    assert!(run(&mut copy, Duration::from_secs(300)).status.success());
    assert_eq!(
        tree::digest(&server.root.join("large")).expect("read it there"),
        digest
    );
    let back = mount.path("large");
    let read =
        crate::common::command::within(Duration::from_secs(300), move || tree::digest(&back));
    assert_eq!(read.expect("read it back"), digest);
    assert_eq!(stored(&server.root), ["large"]);
}

fn memory_maps(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    script(
        &mount,
        r#"
        python3 - <<'END'
import mmap, os
f = os.open('mapped', os.O_RDWR | os.O_CREAT)
os.ftruncate(f, 100000)
m = mmap.mmap(f, 100000)
os.close(f)
m[0:5] = b'first'
m[99995:100000] = b'last.'
m.close()
END
        "#,
    );
    let mut expected = vec![0; 100_000];
    expected[..5].copy_from_slice(b"first");
    expected[99_995..].copy_from_slice(b"last.");
    let path = server.root.join("mapped");
    let done = || fs::read(&path).is_ok_and(|found| found == expected);
    assert!(wait_until(Duration::from_secs(10), done));
}

fn one_session(kind: Kind) {
    let (server, mount) = mounted(kind, "max_sessions=1");
    script(
        &mount,
        r#"
        for i in 1 2 3 4; do head -c 2000000 /dev/urandom > f$i & done; wait
        cp -r . ../nonexistent 2> /dev/null || true
        mkdir d; cp f1 f2 d; cmp f1 d/f1; cat f3 | tee d/f3 > d/f4; cmp d/f3 d/f4
        "#,
    );
    assert_eq!(stored(&server.root), ["d", "f1", "f2", "f3", "f4"]);
}

fn direct(kind: Kind) {
    let (server, mount) = mounted(kind, "upload=direct");
    script(
        &mount,
        "umask 027; echo x > f; echo y >> f; touch -d @1111111111 f; echo z > f; chmod 600 f",
    );
    assert_eq!(fs::read(server.root.join("f")).expect("read there"), b"z\n");
    let found = fs::metadata(server.root.join("f")).expect("stat there");
    assert_eq!(found.mode() & 0o777, 0o600);
}

/// The server dies while a file is being uploaded, and comes back.
fn killed_server(kind: Kind) {
    let (mut server, mount) = mounted(kind, "");
    let local = tempfile::tempdir().expect("make a folder");
    let source = local.path().join("source");
    tree::fill(&source, 11, 24 << 20);
    // Another process: whatever this one starts would close the file as well, and wait for that.
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", source.display()));
    dd.arg(format!("of={}", mount.path("file").display()));
    dd.args(["bs=1M", "conv=fsync", "status=none"]);
    let writer = std::thread::spawn(move || run(&mut dd, Duration::from_secs(90)));
    let begun = || {
        stored(&server.root)
            .iter()
            .any(|name| name.starts_with(".ftpsfs-") || name == "file")
    };
    assert!(wait_until(Duration::from_secs(20), begun));
    server.restart();
    let written = writer.join().expect("the writer returns");
    assert!(written.status.success(), "dd: {}", written.stderr);
    let digest = |path: &Path| tree::digest(path).expect("read it");
    assert_eq!(digest(&server.root.join("file")), digest(&source));
}

/// Random operations on the mount and on a local folder: the same in the end.
fn random_operations(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    let local = tempfile::tempdir().expect("make a folder");
    let rounds = if full() { 600 } else { 120 };
    let mut state = 0x2545_F491_4F6C_DD1D_u64 ^ kind as u64;
    let mut dice = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let (here, there) = (mount.dir.clone(), local.path().to_owned());
    let names = ["a", "b", "d/a", "d/b"];
    for root in [&here, &there] {
        fs::create_dir(root.join("d")).expect("make a folder");
    }
    crate::common::command::within(Duration::from_secs(300), move || {
        for round in 0..rounds {
            let (name, other) = (names[dice(4) as usize], names[dice(4) as usize]);
            let (kind, at, length) = (dice(8), dice(100_000), dice(40_000) as usize);
            let seed = dice(1000);
            let apply = |root: &Path| -> Result<Vec<u8>, Option<i32>> {
                let path = root.join(name);
                let open = || File::options().read(true).write(true).open(&path);
                let done = match kind {
                    0 => fs::write(&path, tree::bytes(seed, length)),
                    1 => open().and_then(|f| f.write_all_at(&tree::bytes(seed, length), at)),
                    2 => open().and_then(|f| f.set_len(at)),
                    3 => File::options()
                        .append(true)
                        .create(true)
                        .open(&path)
                        .and_then(|mut f| f.write_all(&tree::bytes(seed, length))),
                    4 => fs::remove_file(&path),
                    5 => fs::rename(&path, root.join(other)),
                    6 => open().and_then(|f| {
                        f.write_all_at(b"one", at)?;
                        f.sync_all()?;
                        f.write_all_at(b"two", at / 2)
                    }),
                    _ => return fs::read(&path).map_err(|error| error.raw_os_error()),
                };
                done.map(|()| Vec::new())
                    .map_err(|error| error.raw_os_error())
            };
            let (one, two) = (apply(&here), apply(&there));
            assert!(
                one == two,
                "round {round}: {kind} {name} {other} {at} {length}"
            );
        }
    });
    mount.unmount();
    let mut diff = Command::new("diff");
    diff.arg("-r").arg(local.path()).arg(&server.root);
    assert_eq!(run(&mut diff, Duration::from_secs(60)).text(), "");
}
