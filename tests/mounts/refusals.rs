//! Mounts that cannot be: each ends soon, with one line that says why, and with mount(8)'s exit code.

use crate::common::command::{Finished, run_soon};
use crate::common::enclosure::apart;
use crate::common::mount::{Mount, Place};
use crate::common::ports::PortBlock;
use crate::common::server::{Kind, Options, RealServer, USER, certificate};
use crate::common::tree;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const USAGE: i32 = 1;
const SYSTEM: i32 = 2;
const FAILED: i32 = 32;

/// The one line of a failed mount, after asserting that it is one, and that nothing is left.
fn refusal(place: &Place, finished: &Finished, code: i32) -> String {
    let line = finished.stderr.trim_end().to_owned();
    assert_eq!(finished.code(), code, "{line}");
    assert_eq!(line.lines().count(), 1, "one line: {line}");
    assert!(
        line.starts_with("mount.ftps: "),
        "it says who speaks: {line}"
    );
    assert!(finished.stdout.is_empty(), "errors go to standard error");
    assert!(place.is_deserted(), "left behind: {:?}", place.processes());
    assert_eq!(
        place.mountinfo(),
        Vec::<String>::new(),
        "nothing is mounted"
    );
    line
}

/// That each of `parts` stands in the line, whatever the case of letters.
fn assert_says(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(
            line.to_lowercase().contains(&part.to_lowercase()),
            "`{part}` is missing: {line}"
        );
    }
}

fn every_kind() -> [Kind; 7] {
    use Kind::*;
    [
        VsftpdExplicit,
        VsftpdImplicit,
        ProftpdExplicit,
        ProftpdImplicit,
        PureFtpd,
        Pyftpdlib,
        PyftpdlibImplicit,
    ]
}

#[test]
fn wrong_password() {
    for kind in every_kind() {
        let server = RealServer::of(kind);
        let place = Place::new();
        place.write_private("credentials", &format!("username={USER}\npassword=wrong\n"));
        let line = refusal(&place, &place.try_mount(&server, ""), FAILED);
        assert_says(&line, &["530"]);
        assert!(!line.contains("wrong"), "the password is not shown: {line}");
        assert!(!server.log().contains("ftpsfs: wrong"), "{kind:?}");
    }
}

fn with_certificate(name: &'static str) -> RealServer {
    let server = RealServer::start(
        Kind::ProftpdExplicit,
        Options {
            certificate: name,
            ..Options::default()
        },
    );
    tree::put(&server.root.join("file"), b"content", Duration::ZERO);
    server
}

/// Refuses it with everything that a user needs to decide, and takes it by the option in the message.
fn assert_pinnable(server: &RealServer, options: &str, says: &[&str]) {
    let place = Place::new();
    let line = refusal(&place, &place.try_mount(server, options), FAILED);
    assert_says(&line, says);
    let (_, pin) = line
        .split_once("fingerprint=sha256:")
        .unwrap_or_else(|| panic!("no pin: {line}"));
    let pin = pin.split_whitespace().next().unwrap_or_default();
    let pem = certificate(&format!("{}.pem", server.options.certificate));
    let shown = run_soon(
        Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(pem),
    );
    let true_one = shown
        .text()
        .trim()
        .split_once('=')
        .expect("openssl shows it")
        .1
        .replace(':', "")
        .to_lowercase();
    assert_eq!(pin.replace(':', "").to_lowercase(), true_one);
    let mount = Mount::new(server, &format!("{options},fingerprint=sha256:{pin}"));
    assert_eq!(fs::read(mount.path("file")).expect("read"), b"content");
}

#[test]
fn untrusted_certificate() {
    // The test's authority is unknown to the system.
    let server = with_certificate("server");
    let place = Place::new();
    let empty = place.beside("none.pem");
    fs::copy(certificate("wrong-name.pem"), &empty).expect("write another authority");
    let options = format!("cafile={}", empty.display());
    assert_pinnable(
        &server,
        &options,
        &["CN=localhost", "2020", "2044", "issuer"],
    );
}

#[test]
fn self_signed_authority_certificate() {
    assert_pinnable(
        &with_certificate("self-signed"),
        "",
        &["CN=appliance.example.org"],
    );
}

#[test]
fn certificate_for_another_name() {
    let server = with_certificate("wrong-name");
    assert_pinnable(&server, "", &["localhost", "files.example.org"]);
    // That name can be expected as well.
    let mount = Mount::new(&server, "tls_name=files.example.org");
    assert_eq!(fs::read(mount.path("file")).expect("read"), b"content");
}

#[test]
fn expired_certificate() {
    assert_pinnable(
        &with_certificate("expired"),
        "",
        &["expired", "2019", "2020", "CN=localhost"],
    );
}

#[test]
fn wrong_pin() {
    let server = with_certificate("server");
    let place = Place::new();
    let options = format!("fingerprint=sha256:{}", "ab".repeat(32));
    let line = refusal(&place, &place.try_mount(&server, &options), FAILED);
    assert_says(&line, &["fingerprint", "CN=localhost"]);
}

#[test]
fn client_certificate() {
    let options = Options {
        verify_client: true,
        ..Options::default()
    };
    let server = RealServer::start(Kind::ProftpdExplicit, options);
    tree::put(&server.root.join("file"), b"content", Duration::ZERO);
    let place = Place::new();
    refusal(&place, &place.try_mount(&server, ""), FAILED);
    let (cert, key) = (certificate("client.pem"), certificate("client.key"));
    for tls in ["1.2", "1.3"] {
        let mount = Mount::new(
            &server,
            &format!("tls={tls},cert={},key={}", cert.display(), key.display()),
        );
        assert_eq!(fs::read(mount.path("file")).expect("read"), b"content");
    }
}

/// Calls `mount.ftps` with these arguments alone.
fn helper(place: &Place, source: &str, dir: &Path, options: &str) -> Finished {
    run_soon(place.helper().arg(source).arg(dir).args(["-o", options]))
}

fn login(place: &Place) -> String {
    format!("credentials={}", place.beside("credentials").display())
}

#[test]
fn unknown_host() {
    let place = Place::new();
    let finished = helper(&place, "no-such-host.invalid:/", &place.dir, &login(&place));
    assert_says(
        &refusal(&place, &finished, FAILED),
        &["no-such-host.invalid"],
    );
}

#[test]
fn closed_port() {
    let place = Place::new();
    let port = PortBlock::claim().control();
    let finished = helper(
        &place,
        "localhost:/",
        &place.dir,
        &format!("{},port={port}", login(&place)),
    );
    assert_says(
        &refusal(&place, &finished, FAILED),
        &["refused", &port.to_string()],
    );
}

#[test]
fn server_without_tls() {
    for kind in [Kind::VsftpdExplicit, Kind::Pyftpdlib] {
        let server = RealServer::start(
            kind,
            Options {
                tls: false,
                ..Options::default()
            },
        );
        let place = Place::new();
        let line = refusal(&place, &place.try_mount(&server, ""), FAILED);
        assert_says(&line, &["TLS"]);
        let log = server.log();
        assert!(log.contains("AUTH"), "TLS was asked for: {log}");
        assert!(
            !log.contains(&format!("USER {USER}")),
            "nothing that is secret was sent: {log}"
        );
        // An implicit client sees a greeting where TLS should begin.
        let options = format!("{},port={}", login(&place), server.port());
        let source = format!("ftps://localhost:{}/", server.port());
        let line = refusal(
            &place,
            &helper(&place, &source, &place.dir, &options),
            FAILED,
        );
        assert_says(&line, &["TLS"]);
        assert!(
            !server.log().contains(&format!("USER {USER}")),
            "nothing that is secret was sent"
        );
    }
}

#[test]
fn explicit_client_of_an_implicit_server() {
    let server = RealServer::of(Kind::ProftpdImplicit);
    let place = Place::new();
    let options = format!(
        "explicit,timeout=5,port={},{}",
        server.port(),
        login(&place)
    );
    refusal(
        &place,
        &helper(&place, "localhost:/", &place.dir, &options),
        FAILED,
    );
}

#[test]
fn silent_server() {
    let server = RealServer::of(Kind::PureFtpd);
    server.pause();
    let place = Place::new();
    let started = std::time::Instant::now();
    refusal(&place, &place.try_mount(&server, "timeout=3"), FAILED);
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "it took {:?}",
        started.elapsed()
    );
}

#[test]
fn missing_remote_folder() {
    for kind in every_kind() {
        let server = RealServer::of(kind);
        fs::create_dir(server.root.join("there")).expect("make a folder");
        tree::put(&server.root.join("there/file"), b"content", Duration::ZERO);
        let place = Place::new();
        let options = place.options(&server, "");
        let source = |path: &str| format!("{}{path}", server.source());
        let call = |path: &str| {
            run_soon(
                place
                    .helper()
                    .arg(source(path))
                    .arg(&place.dir)
                    .arg("-o")
                    .arg(&options),
            )
        };
        let line = refusal(&place, &call("not there"), FAILED);
        assert_says(&line, &["not there"]);
        refusal(&place, &call("there/file"), FAILED);
        assert_eq!(call("there").code(), 0);
        assert_eq!(fs::read(place.dir.join("file")).expect("read"), b"content");
        place.unmount();
    }
}

#[test]
fn missing_mount_point() {
    let server = RealServer::of(Kind::PureFtpd);
    let place = Place::new();
    let options = place.options(&server, "");
    let call = |dir: &Path| {
        run_soon(
            place
                .helper()
                .arg(server.source())
                .arg(dir)
                .arg("-o")
                .arg(&options),
        )
    };
    let missing = place.beside("missing");
    assert_says(
        &refusal(&place, &call(&missing), FAILED),
        &["missing", "not exist"],
    );
    let file = place.write_private("file", "");
    assert_says(&refusal(&place, &call(&file), FAILED), &["not a directory"]);
}

#[test]
fn already_mounted() {
    let server = RealServer::of(Kind::PureFtpd);
    let mount = Mount::new(&server, "");
    let again = mount.place().try_mount(&server, "");
    assert_eq!(again.code(), FAILED);
    assert_says(again.stderr.trim_end(), &["already mounted"]);
    assert_eq!(mount.place().mountinfo().len(), 1);
}

#[test]
fn wrong_usage() {
    let place = Place::new();
    let dir = &place.dir;
    for (options, says) in [
        ("nonsense", "nonsense"),
        ("chache_entries=5", "cache_entries"),
        ("port=0", "port"),
        ("timeout=soon", "timeout"),
        ("tls=1.1", "tls"),
        ("fingerprint=sha256:abc", "fingerprint"),
        ("username", "username"),
        ("uid=no such user", "uid"),
        ("credentials=/no/such/file", "/no/such/file"),
        ("cafile=/no/such/file", "/no/such/file"),
    ] {
        let finished = helper(&place, "localhost:/", dir, options);
        assert_says(&refusal(&place, &finished, USAGE), &[says]);
    }
    for source in ["localhost", "ftp://localhost/", "", "localhost:relative"] {
        refusal(&place, &helper(&place, source, dir, &login(&place)), USAGE);
    }
    for arguments in [
        &["localhost:/"][..],
        &[],
        &["-x", "localhost:/", "/"],
        &["localhost:/", "/", "third"],
    ] {
        refusal(&place, &run_soon(place.helper().args(arguments)), USAGE);
    }
    // With -s an unknown option is passed over: what is refused then is the mount.
    let port = PortBlock::claim().control();
    let options = format!("nonsense,{},port={port}", login(&place));
    let finished = run_soon(
        place
            .helper()
            .arg("-s")
            .arg("localhost:/")
            .arg(dir)
            .args(["-o", &options]),
    );
    assert_says(finished.stderr.trim_end(), &["refused"]);
    assert_eq!(finished.code(), FAILED);
}

#[test]
fn credentials_that_others_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let file = place.beside("credentials");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("open it to all");
    let finished = helper(&place, "localhost:/", &place.dir, &login(&place));
    assert_says(&refusal(&place, &finished, USAGE), &["credentials", "read"]);
}

#[test]
fn no_password_and_no_terminal() {
    let place = Place::new();
    let finished = helper(&place, "somebody@localhost:/", &place.dir, "timeout=3");
    assert_says(
        &refusal(&place, &finished, USAGE),
        &["password", "somebody"],
    );
}

/// Runs `mount.ftps` where /dev has only what `script` puts there.
fn with_dev(place: &Place, server: &RealServer, script: &str) -> Finished {
    let mut command = apart("sh");
    command.args(["-ec"]);
    command.arg(format!(
        "mount -t tmpfs none /dev
        mknod -m 666 /dev/null c 1 3
        mknod -m 666 /dev/urandom c 1 9
        {script}
        exec \"$@\""
    ));
    command
        .arg("sh")
        .arg(place.beside("mount.ftps"))
        .arg(server.source())
        .arg(&place.dir);
    command
        .arg("-o")
        .arg(place.options(server, ""))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    run_soon(&mut command)
}

#[test]
fn missing_fuse_device() {
    let server = RealServer::of(Kind::PureFtpd);
    let place = Place::new();
    let line = refusal(&place, &with_dev(&place, &server, ""), SYSTEM);
    assert_says(&line, &["/dev/fuse"]);
}
