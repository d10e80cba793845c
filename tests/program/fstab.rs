//! The real mount(8), umount(8) and findmnt(8) on lines of /etc/fstab, and the units for systemd.
//!
//! Each test has a namespace of mounts to itself, with an fstab and a /sbin of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ftpsfs::proto::Security;

use super::bench::{Bench, PASSWORD, signal, succeed, wait_until};

/// Runs a script where `lines` are the fstab; `@DIR` and `@PORT` in both are the bench's.
fn with_fstab(bench: &Bench, lines: &str, script: &str) -> Output {
    let sbin = bench.path("sbin");
    if !sbin.exists() {
        fs::create_dir(&sbin).unwrap();
        for name in ["mount.ftps", "mount.fuse.ftps", "umount.fuse.ftps"] {
            // Where ordinary users may go too.
            symlink(bench.path("ftpsfs"), sbin.join(name)).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_ftpsfs"), bench.path("ftpsfs")).unwrap();
    }
    let port = bench.server.local_addr().port().to_string();
    let dir = bench.folder.path().to_str().unwrap();
    let fill = |text: &str| text.replace("@PORT", &port).replace("@DIR", dir);
    fs::write(bench.path("fstab"), fill(lines)).unwrap();
    let whole = format!(
        "mount --bind @DIR/sbin \"$(realpath /sbin)\"\nmount --bind @DIR/fstab /etc/fstab\n{script}"
    );
    let mut command = Command::new("timeout");
    command.args(["60", "unshare", "-m", "sh", "-euc", &fill(&whole)]);
    command.stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {text}{errors}", output.status);
    text
}

/// Options that reach the bench's server and log in, but for its port.
fn reaching(bench: &Bench) -> String {
    format!(
        "implicit,fingerprint={},state_dir=@DIR/state,credentials=@DIR/credentials",
        bench.server.fingerprint()
    )
}

#[test]
fn each_form_of_source_and_blanks_in_names() {
    let bench = Bench::new();
    fs::create_dir(bench.path("served/with blank")).unwrap();
    fs::write(bench.path("served/with blank/inside"), "inside\n").unwrap();
    fs::create_dir(bench.path("mount point")).unwrap();
    let o = reaching(&bench);
    let lines = [
        ("127.0.0.1:/", "mnt", format!("port=@PORT,{o}"), "hello"),
        ("me@127.0.0.1:/", "mnt", format!("port=@PORT,{o}"), "hello"),
        (
            "127.0.0.1:/with\\040blank",
            "mount\\040point",
            format!("port=@PORT,{o}"),
            "inside",
        ),
        ("ftps://127.0.0.1:@PORT/", "mnt", o.clone(), "hello"),
        (
            "ftps://me@127.0.0.1:@PORT/with%20blank",
            "mount\\040point",
            o.clone(),
            "inside",
        ),
        ("ftps://me@127.0.0.1:@PORT", "mnt", o.clone(), "hello"),
    ];
    for (source, point, options, file) in lines {
        let line = format!("{source} @DIR/{point} ftps _netdev,nofail,{options} 0 0\n");
        let script = format!(
            "at='@DIR/{}'\nmount \"$at\"\ncat \"$at/{file}\"\nfindmnt -n -o FSTYPE,SOURCE \"$at\"\n\
             umount \"$at\"\nfindmnt \"$at\" || echo gone",
            point.replace("\\040", " ")
        );
        let text = said(&with_fstab(&bench, &line, &script));
        let lines: Vec<_> = text.lines().collect();
        let content = if file == "hello" {
            "hello over FTPS"
        } else {
            "inside"
        };
        assert_eq!(lines[0], content, "{source}: {text}");
        assert!(lines[1].starts_with("fuse.ftps "), "{text}");
        assert!(lines[1].contains("127.0.0.1"), "{text}");
        assert_eq!(lines[2], "gone", "{text}");
    }
    bench.expect_gone();
}

#[test]
fn explicit_tls_and_ipv6_addresses() {
    let bench = Bench::with(|config| {
        config.security = Security::Explicit;
        config.listen = "[::1]:0".parse().unwrap();
    });
    let o = reaching(&bench).replace("implicit,", "");
    for (source, port) in [
        ("[::1]:/", "port=@PORT,"),
        ("me@[::1]:/", "explicit,port=@PORT,"),
        ("ftpes://[::1]:@PORT/", ""),
        ("ftpes://me@[::1]:@PORT", ""),
    ] {
        let line = format!("{source} @DIR/mnt ftps _netdev,{port}{o} 0 0\n");
        let script = "
            mount @DIR/mnt
            cat @DIR/mnt/hello
            findmnt -n -o SOURCE @DIR/mnt
            umount @DIR/mnt";
        let text = said(&with_fstab(&bench, &line, script));
        let port = bench.server.local_addr().port().to_string();
        let shown = source.replace("@PORT", &port);
        assert_eq!(text, format!("hello over FTPS\n{shown}\n"));
    }
    bench.expect_gone();
}

/// In the background the log goes to the system log: here to a socket in its place.
#[test]
fn the_log_goes_to_the_system_log_as_far_as_log_level_says() {
    for (level, expected) in [
        ("info", [true, true]),
        ("warn", [false, true]),
        ("off", [false; 2]),
    ] {
        let rules = "RETR 2 always: reply \"550 Not for you\"".parse().unwrap();
        let faults = ftpsfs::server::Faults::new(rules);
        let bench = Bench::with(|config| config.faults = Some(faults));
        fs::write(bench.path("served/other"), "other").unwrap();
        let socket = UnixDatagram::bind(bench.path("log")).unwrap();
        socket.set_nonblocking(true).unwrap();
        let o = reaching(&bench);
        let line =
            format!("127.0.0.1:/ @DIR/mnt ftps log_level={level},noprefetch,port=@PORT,{o} 0 0\n");
        let script = "
            mount -t tmpfs none /dev
            mknod -m 666 /dev/null c 1 3
            mknod -m 666 /dev/urandom c 1 9
            mknod -m 666 /dev/fuse c 10 229
            ln -s @DIR/log /dev/log
            mount @DIR/mnt
            cat @DIR/mnt/hello
            cat @DIR/mnt/other 2>/dev/null || echo refused
            umount @DIR/mnt";
        let text = said(&with_fstab(&bench, &line, script));
        assert_eq!(text, "hello over FTPS\nrefused\n");
        bench.expect_gone();
        let mut log = String::new();
        let mut line = [0; 4096];
        while let Ok(length) = socket.recv(&mut line) {
            log += &String::from_utf8_lossy(&line[..length]);
            log.push('\n');
        }
        let mounted = format!("mounted 127.0.0.1:/ on {}", bench.mount_point().display());
        let has = |priority: &str, words: &[&str]| {
            log.lines().any(|line| {
                line.starts_with(&format!("{priority}ftpsfs["))
                    && words.iter().all(|word| line.contains(word))
            })
        };
        // Operation, path, the server's words, and what the program was told.
        let failure = ["read: ", "/other", "550 Not for you", "(os error "];
        let found = [has("<30>", &[&mounted]), has("<28>", &failure)];
        assert_eq!(found, expected, "{level}: {log}");
    }
}

#[test]
fn mount_all_twice_mounts_once_and_a_dead_server_holds_nobody_up() {
    let bench = Bench::new();
    fs::create_dir(bench.path("other")).unwrap();
    fs::create_dir(bench.path("third")).unwrap();
    let o = reaching(&bench);
    let lines = format!(
        "127.0.0.1:/ @DIR/mnt ftps _netdev,port=@PORT,{o} 0 0\n\
         127.0.0.1:/ @DIR/other ftps _netdev,nofail,timeout=2,port=1,{o} 0 0\n\
         127.0.0.1:/ @DIR/third ftps noauto,port=@PORT,{o} 0 0\n"
    );
    let script = "
        mount -a -t ftps 2>/dev/null || true
        mount -a -t ftps 2>@DIR/said || true
        findmnt -n -o TARGET -t fuse.ftps | grep '^@DIR/'
        ! grep -i already @DIR/said
        cat @DIR/mnt/hello
        umount @DIR/mnt";
    let text = said(&with_fstab(&bench, &lines, script));
    let mounted = format!("{}\nhello over FTPS\n", bench.mount_point().display());
    assert_eq!(text, mounted);
    bench.expect_gone();
}

#[test]
fn remount_makes_it_read_only_and_writable_again() {
    let bench = Bench::new();
    let o = reaching(&bench);
    let line = format!("127.0.0.1:/ @DIR/mnt ftps port=@PORT,{o} 0 0\n");
    let script = "
        mount @DIR/mnt
        echo one > @DIR/mnt/one
        mount -o remount,ro @DIR/mnt
        findmnt -n -o OPTIONS @DIR/mnt | cut -d, -f1
        echo two > @DIR/mnt/two || echo refused
        mount -o remount,rw @DIR/mnt
        findmnt -n -o OPTIONS @DIR/mnt | cut -d, -f1
        echo three > @DIR/mnt/three
        umount @DIR/mnt";
    let text = said(&with_fstab(&bench, &line, script));
    assert_eq!(text, "ro\nrefused\nrw\n");
    assert_eq!(
        fs::read_to_string(bench.path("served/three")).unwrap(),
        "three\n"
    );
    assert!(!bench.path("served/two").exists());

    let line = format!("127.0.0.1:/ @DIR/mnt ftps ro,port=@PORT,{o} 0 0\n");
    let script = "
        mount @DIR/mnt
        mount -o remount,rw @DIR/mnt || echo \"code $?\"
        umount @DIR/mnt";
    let output = with_fstab(&bench, &line, script);
    assert_eq!(said(&output), "code 32\n");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("was mounted with ro"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    bench.expect_gone();
}

/// What file managers look for: tests/desktop/run has them look.
#[test]
fn mount_keeps_what_file_managers_want_to_know() {
    let bench = Bench::new();
    let o = reaching(&bench);
    let own = "x-gvfs-show,x-gvfs-name=My%20Files,x-gvfs-icon=folder-remote";
    let line = format!("127.0.0.1:/ @DIR/mnt ftps _netdev,port=@PORT,{own},{o} 0 0\n");
    let script = "
        mount @DIR/mnt
        cat @DIR/mnt/hello
        grep TARGET=@DIR/mnt /run/mount/utab | grep -o x-gvfs.*
        umount @DIR/mnt
        grep TARGET=@DIR/mnt /run/mount/utab || echo gone";
    let text = said(&with_fstab(&bench, &line, script));
    assert_eq!(text, format!("hello over FTPS\n{own}\ngone\n"));
    bench.expect_gone();
}

/// It took the mount for some FUSE file system, and did not ask our helper.
#[test]
fn umount_waits_for_what_was_promised() {
    let faults = ftpsfs::server::Faults::default();
    let bench = Bench::with(|config| config.faults = Some(faults.clone()));
    let o = reaching(&bench) + ",writeback";
    let line = format!("127.0.0.1:/ @DIR/mnt ftps noauto,port=@PORT,{o} 0 0\n");
    fs::write(bench.path("local"), vec![5; 400_000]).unwrap();
    // mount(8) has ended when the table gets its line.
    let wait =
        "for n in $(seq 100); do grep -q TARGET=@DIR/mnt /run/mount/utab && break; sleep 0.1; done";
    let direct = format!("@DIR/ftpsfs mount 127.0.0.1:/ @DIR/mnt -o port=@PORT,{o}");
    for mount in ["mount @DIR/mnt", &direct] {
        faults.set("data received record 20 in STOR: stall 2s".parse().unwrap());
        let script = format!(
            "
            {mount}
            {wait}
            cp @DIR/local @DIR/mnt/new
            umount @DIR/mnt
            cmp @DIR/local @DIR/served/new
            grep TARGET=@DIR/mnt /run/mount/utab || echo gone"
        );
        assert_eq!(said(&with_fstab(&bench, &line, &script)), "gone\n");
        bench.expect_gone();
        fs::remove_file(bench.path("served/new")).unwrap();
    }
    // However it ends.
    let script = format!(
        "
        {direct}
        grep -c TARGET=@DIR/mnt /run/mount/utab
        fusermount3 -u @DIR/mnt
        for n in $(seq 100); do grep -q TARGET=@DIR/mnt /run/mount/utab || break; sleep 0.1; done
        grep TARGET=@DIR/mnt /run/mount/utab || echo gone"
    );
    assert_eq!(said(&with_fstab(&bench, &line, &script)), "1\ngone\n");
    bench.expect_gone();
}

#[test]
fn a_systemd_credential_logs_in() {
    let bench = Bench::new();
    fs::create_dir(bench.path("secrets")).unwrap();
    let secret = bench.path("secrets/ftpsfs.127.0.0.1");
    fs::write(&secret, format!("username=me\npassword={PASSWORD}\n")).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o400)).unwrap();
    let pin = bench.server.fingerprint();
    let line = format!(
        "ftps://127.0.0.1:@PORT/ @DIR/mnt ftps fingerprint={pin},state_dir=@DIR/state 0 0\n"
    );
    let script = "
        CREDENTIALS_DIRECTORY=@DIR/secrets mount @DIR/mnt
        cat @DIR/mnt/hello
        umount @DIR/mnt";
    assert_eq!(
        said(&with_fstab(&bench, &line, script)),
        "hello over FTPS\n"
    );
    bench.expect_gone();
}

/// An ordinary user mounts what fstab lets everybody mount, and unmounts it.
#[test]
fn an_ordinary_user_mounts_what_fstab_allows() {
    const UID: u32 = 4321;
    for word in ["user", "users"] {
        let bench = Bench::new();
        fs::set_permissions(bench.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for path in ["mnt", "credentials"] {
            chown(bench.path(path), Some(UID), Some(UID)).unwrap();
        }
        fs::create_dir(bench.path("home")).unwrap();
        chown(bench.path("home"), Some(UID), Some(UID)).unwrap();
        let o = reaching(&bench).replace("@DIR/state,", "@DIR/home/state,");
        let line = format!("127.0.0.1:/ @DIR/mnt ftps {word},noauto,port=@PORT,{o} 0 0\n");
        let script = format!(
            "cp /etc/passwd @DIR/passwd
            echo 'guest:x:{UID}:{UID}::@DIR/home:/bin/sh' >> @DIR/passwd
            mount --bind @DIR/passwd /etc/passwd
            mknod -m 666 @DIR/fuse c 10 229
            mount --bind @DIR/fuse /dev/fuse
            HOME=@DIR/home setpriv --reuid {UID} --regid {UID} --clear-groups sh -euc '
                mount @DIR/mnt
                cat @DIR/mnt/hello
                findmnt -n -o OPTIONS @DIR/mnt | tr , \"\\n\" | grep -E \"user_id|nosuid|nodev|noexec\" | sort
                umount @DIR/mnt
                findmnt @DIR/mnt || echo gone
            '"
        );
        let text = said(&with_fstab(&bench, &line, &script));
        let expected = format!("hello over FTPS\nnodev\nnoexec\nnosuid\nuser_id={UID}\ngone\n");
        assert_eq!(text, expected, "{word}");
        bench.expect_gone();
    }
}

/// The example units, with our binary in them.
#[test]
fn systemd_takes_the_example_units() {
    let analyze = Path::new("/usr/bin/systemd-analyze");
    assert!(analyze.exists(), "tests/servers/install installs it");
    let folder = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    let mut units: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(examples).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap();
        let text = text.replace("/usr/bin/ftpsfs", env!("CARGO_BIN_EXE_ftpsfs"));
        let unit = folder.path().join(entry.file_name());
        fs::write(&unit, text).unwrap();
        units.push(unit);
    }
    assert_eq!(units.len(), 3);
    let verify = |units: &[PathBuf]| {
        let mut command = Command::new(analyze);
        let output = command
            .args(["verify", "--man=no"])
            .args(units)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let ours = |text: &str| text.lines().filter(|l| l.contains("example")).count();
    let text = verify(&units);
    assert_eq!(ours(&text), 0, "{text}");
    let broken = folder.path().join("broken-example.service");
    fs::write(&broken, "[Service]\nExecStart=/proc/nowhere\nTypo=yes\n").unwrap();
    assert_ne!(ours(&verify(&[broken])), 0, "a broken unit is noticed");
}

#[test]
fn a_service_of_type_notify_is_told_when_it_is_mounted() {
    let bench = Bench::new();
    let socket = UnixDatagram::bind(bench.path("notify")).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut command = bench.program(&["mount", "--foreground", "127.0.0.1:/"]);
    command
        .arg(bench.mount_point())
        .args(["-o", &bench.options()]);
    command
        .env("NOTIFY_SOCKET", bench.path("notify"))
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let heard = || {
        let mut text = [0; 512];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let ready = heard();
    assert!(
        ready.starts_with("READY=1\nSTATUS=127.0.0.1:/ on "),
        "{ready}"
    );
    bench.expect_mounted();
    signal(child.id() as i32, 15);
    assert_eq!(heard(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
    wait_until("the mount to be gone", || !bench.is_mounted());
}

/// A progress bar on a terminal, while what was promised goes to the server.
#[test]
fn umount_shows_how_far_the_uploads_are() {
    let rules = "data received record 20 in STOR: stall 2s".parse().unwrap();
    let faults = ftpsfs::server::Faults::new(rules);
    let bench = Bench::with(|config| config.faults = Some(faults));
    let options = bench.options() + ",writeback";
    succeed(&mut bench.helper("/", &options));
    fs::write(bench.path("local"), vec![5; 400_000]).unwrap();
    succeed(
        Command::new("cp")
            .arg(bench.path("local"))
            .arg(bench.mount_point().join("new")),
    );
    let line = format!(
        "{} umount {}",
        env!("CARGO_BIN_EXE_ftpsfs"),
        bench.mount_point().display()
    );
    let mut command = Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::null());
    let output = succeed(command.env("TERM", "xterm").env("COLUMNS", "120"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("uploading 1 file ["), "{text}");
    assert!(text.contains("/400.00 kB"), "{text}");
    assert!(text.contains("done"), "{text}");
    assert_eq!(fs::read(bench.path("served/new")).unwrap().len(), 400_000);
    bench.expect_gone();
}
