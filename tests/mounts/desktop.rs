//! Real file managers on a real screen that nobody sees, on a mount that an ordinary user made: tests/desktop has the scripts.
//! Only `tests/run --full` has them, and installs what they need (tests/desktop/install).

use crate::common::command::run;
use crate::common::full;
use crate::common::server::{Kind, Options, PASSWORD, RealServer, UID, USER, certificate};
use crate::common::tree;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The user at the screen, and the bytes per second that the server sends and takes at most.
const GUEST: u32 = 4321;
const RATE: u32 = 12 << 20;

/// Runs a script of tests/desktop at a screen, and gives what it says. `PLACE` is where it mounts
/// `SOURCE` with `OPTIONS`; `SERVED` is what the server has.
fn at_a_screen(kind: Kind, script: &str, arguments: &[&str]) -> String {
    let server = RealServer::start(
        kind,
        Options {
            rate: RATE,
            ..Options::default()
        },
    );
    fill(&server.root);
    let folder = tempfile::tempdir().expect("make a folder");
    let dir = folder.path();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("open the folder");
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/desktop");
    fs::create_dir(dir.join("programs")).expect("make a folder");
    for entry in fs::read_dir(&scripts)
        .expect("read tests/desktop")
        .flatten()
    {
        fs::copy(entry.path(), dir.join("programs").join(entry.file_name())).expect("copy");
    }
    fs::copy(env!("CARGO_BIN_EXE_ftpsfs"), dir.join("programs/ftpsfs")).expect("copy ftpsfs");
    let entry = scripts.join("../../packaging/desktop/ftpsfs.desktop");
    fs::copy(entry, dir.join("programs/ftpsfs.desktop")).expect("copy the entry");
    let authority = dir.join("programs/ca.pem");
    fs::copy(certificate("ca.pem"), &authority).expect("copy the certificate");
    let login = dir.join("programs/credentials");
    fs::write(&login, format!("username={USER}\npassword={PASSWORD}\n")).expect("write");
    fs::set_permissions(&login, fs::Permissions::from_mode(0o600)).expect("make it private");
    chown(&login, Some(GUEST), Some(GUEST)).expect("give it away");
    let options = format!(
        "credentials={},cafile={},port={}",
        login.display(),
        authority.display(),
        server.port()
    );
    if script == "places.py" {
        chown(&login, Some(0), Some(0)).expect("root mounts");
        fs::create_dir(dir.join("etc")).expect("make a folder");
        let line = format!(
            "{} /mnt/company ftps allow_other,uid={GUEST},gid={GUEST},x-gvfs-show,x-gvfs-name=Company%20Files,state_dir={},{options} 0 0\n",
            server.source(),
            dir.join("etc/state").display()
        );
        fs::write(dir.join("etc/fstab"), line).expect("write fstab");
    }
    let mut command = Command::new(scripts.join("session"));
    command
        .arg(dir)
        .args(["env", &format!("OPTIONS={options}")]);
    command.arg(format!("SOURCE={}", server.source()));
    command.arg(format!("PORT={}", server.port()));
    command.arg(format!("PASSWORD={PASSWORD}"));
    command.arg(format!("SERVED={}", server.root.display()));
    command.arg(format!("PLACE={}", dir.join("run/Server").display()));
    command
        .arg("/usr/bin/python3")
        .arg(dir.join("programs").join(script));
    let finished = run(command.args(arguments), Duration::from_secs(240));
    keep_pictures(&dir.join("home"), script, arguments);
    let log = fs::read_to_string(dir.join("etc/log")).unwrap_or_default();
    assert!(
        finished.status.success(),
        "{}\n{}\n{log}\n{}",
        String::from_utf8_lossy(&finished.stdout),
        finished.stderr,
        server.end_of_log()
    );
    finished.text()
}

/// What lies on the server.
fn fill(root: &Path) {
    let day = Duration::from_secs(86_400);
    let put = |name: &str, bytes: &[u8], age: u32| tree::put(&root.join(name), bytes, day * age);
    put("readme.txt", b"This file came over FTPS.\n", 3);
    put("documents/letter.txt", b"Dear reader,\n", 10);
    put("documents/2024/notes.txt", &tree::bytes(1, 20_000), 400);
    for index in 0..20 {
        let name = format!("documents/report {index}.bin");
        put(&name, &tree::bytes(index, 40_000), 20);
    }
    put("letter.txt", b"Dear reader,\n", 4);
    put("photo.jpg", &photo(), 2);
    put("archive.tar", &tree::bytes(2, 60 << 20), 5);
    put("recording", &tree::bytes(3, 40 << 20), 6);
    for entry in ["readme.txt", "letter.txt", "documents", "documents/2024"] {
        chown(root.join(entry), Some(UID), Some(UID)).expect("give it away");
    }
}

/// A photograph as cameras write it: large, with a small copy of itself in front (Exif).
fn photo() -> Vec<u8> {
    let convert = |arguments: &[&str]| {
        let mut command = Command::new("convert");
        let output = command.args(arguments).output().expect("run convert");
        assert!(output.status.success(), "convert: {:?}", output.stderr);
        output.stdout
    };
    let small = convert(&["-size", "160x120", "gradient:orange-blue", "jpg:-"]);
    let large = convert(&[
        "-size",
        "3000x2250",
        "gradient:orange-blue",
        "-quality",
        "98",
        "jpg:-",
    ]);
    // No entries of its own, and the small copy: JPEG, where it begins, how long it is.
    let mut tiff = b"II*\0\x08\0\0\0\0\0\x0e\0\0\0\x03\0".to_vec();
    for (tag, kind, value) in [
        (0x103_u16, 3_u16, 6),
        (0x201, 4, 56),
        (0x202, 4, small.len()),
    ] {
        tiff.extend(tag.to_le_bytes());
        tiff.extend(kind.to_le_bytes());
        tiff.extend(1_u32.to_le_bytes());
        tiff.extend(u32::try_from(value).expect("small").to_le_bytes());
    }
    tiff.extend([0; 4]);
    assert_eq!(tiff.len(), 56);
    let exif = [b"Exif\0\0", &*tiff, &small].concat();
    let length = u16::try_from(exif.len() + 2).expect("it is small");
    let head = [&b"\xff\xd8\xff\xe1"[..], &length.to_be_bytes(), &exif].concat();
    // What cameras put behind the picture is not looked at.
    [head, large[2..].to_vec(), tree::bytes(4, 30 << 20)].concat()
}

/// Whoever works on this looks at them.
fn keep_pictures(home: &Path, script: &str, arguments: &[&str]) {
    let name = format!("{script} {}", arguments.join(" "));
    let kept = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/desktop")
        .join(name.trim());
    let _ = fs::create_dir_all(&kept);
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        if entry
            .path()
            .extension()
            .is_some_and(|ending| ending == "png")
        {
            let _ = fs::copy(entry.path(), kept.join(entry.file_name()));
        }
    }
}

#[test]
fn thunar_at_a_screen() {
    if full() {
        at_a_screen(Kind::VsftpdExplicit, "manager.py", &["thunar"]);
    }
}

#[test]
fn nautilus_at_a_screen() {
    if full() {
        at_a_screen(Kind::VsftpdExplicit, "manager.py", &["nautilus"]);
    }
}

#[test]
fn a_link_with_real_dialogs() {
    if full() {
        at_a_screen(Kind::VsftpdImplicit, "link.py", &[]);
    }
}

#[test]
fn a_line_of_fstab_is_among_the_places() {
    if full() {
        at_a_screen(Kind::VsftpdExplicit, "places.py", &[]);
    }
}
