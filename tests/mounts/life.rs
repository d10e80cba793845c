//! A mount's life: how it begins in the background, what it keeps secret, and all the ways in which it ends.

use crate::common::command::{run_soon, soon, wait};
use crate::common::enclosure::apart;
use crate::common::mount::{Mount, Place};
use crate::common::server::{Kind, Options, PASSWORD, RealServer, UID, USER, certificate};
use crate::common::{tree, wait_until};
use nix::sys::signal::{Signal, kill};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn server_with_file(kind: Kind) -> RealServer {
    let server = RealServer::of(kind);
    tree::put(
        &server.root.join("file"),
        b"content",
        Duration::from_secs(3600),
    );
    server
}

fn assert_reads(dir: &Path) {
    let path = dir.join("file");
    assert_eq!(soon(move || fs::read(path)).expect("read"), b"content");
}

#[test]
fn the_daemon_lets_go_of_its_caller() {
    let server = server_with_file(Kind::PureFtpd);
    let mount = Mount::new(&server, "");
    let daemon = mount.place().daemon();
    let link = |name: &str| {
        fs::read_link(format!("/proc/{daemon}/{name}")).expect("read a link of the daemon")
    };
    for descriptor in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(descriptor), Path::new("/dev/null"));
    }
    assert_eq!(link("cwd"), Path::new("/"));
    assert_eq!(
        nix::unistd::getsid(Some(daemon)),
        Ok(daemon),
        "a session of its own"
    );
    assert_reads(&mount.dir);
}

#[test]
fn mount_table_names_source_and_type() {
    let server = server_with_file(Kind::PyftpdlibImplicit);
    let mount = Mount::new(&server, "");
    let lines = mount.place().mountinfo();
    let fields: Vec<&str> = lines[0]
        .split(" - ")
        .nth(1)
        .expect("a separator")
        .split(' ')
        .collect();
    assert_eq!(fields[..2], ["fuse.ftps", &server.source()]);
}

#[test]
fn sigterm_and_sigint_unmount() {
    let server = server_with_file(Kind::PureFtpd);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let place = Mount::new(&server, "").into_place();
        kill(place.daemon(), signal).expect("send a signal");
        assert!(place.is_deserted(), "{signal} ends it");
        assert_eq!(place.mountinfo(), Vec::<String>::new(), "{signal} unmounts");
    }
}

#[test]
fn sigterm_unmounts_while_the_server_is_silent() {
    let server = server_with_file(Kind::ProftpdExplicit);
    let place = Mount::new(&server, "attr_timeout=0,dir_timeout=0").into_place();
    server.pause();
    let dir = place.dir.clone();
    let waiting = std::thread::spawn(move || fs::read(dir.join("file")));
    std::thread::sleep(Duration::from_millis(500));
    kill(place.daemon(), Signal::SIGTERM).expect("send a signal");
    assert!(place.is_deserted(), "SIGTERM ends it");
    assert_eq!(place.mountinfo(), Vec::<String>::new());
    assert!(
        wait_until(Duration::from_secs(5), || waiting.is_finished()),
        "the reader is let go"
    );
}

#[test]
fn umount_while_the_server_is_silent_or_gone() {
    let mut server = server_with_file(Kind::ProftpdExplicit);
    let mount = Mount::new(&server, "");
    server.pause();
    let started = Instant::now();
    drop(mount);
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        started.elapsed()
    );
    server.resume();
    let mount = Mount::new(&server, "");
    server.kill();
    drop(mount);
}

#[test]
fn a_dead_mount_gives_way_to_a_new_one() {
    let server = server_with_file(Kind::PureFtpd);
    let place = Mount::new(&server, "").into_place();
    kill(place.daemon(), Signal::SIGKILL).expect("kill the daemon");
    assert!(place.is_deserted());
    assert_eq!(place.mountinfo().len(), 1, "the dead mount stays");
    let mount = Mount::at(place, &server, "");
    assert_reads(&mount.dir);
}

#[test]
fn what_lies_beneath_stays_mounted() {
    let server = server_with_file(Kind::PureFtpd);
    let place = Place::new();
    let tmpfs = run_soon(
        Command::new("mount")
            .args(["-t", "tmpfs", "beneath"])
            .arg(&place.dir),
    );
    assert!(tmpfs.status.success(), "{}", tmpfs.stderr);
    let mounted = place.try_mount(&server, "");
    assert!(mounted.status.success(), "{}", mounted.stderr);
    assert_eq!(place.mountinfo().len(), 2);
    run_soon(Command::new("umount").arg(&place.dir)).text();
    assert!(place.is_deserted());
    assert_eq!(
        place.mountinfo().len(),
        1,
        "only our own was unmounted: {:?}",
        place.mountinfo()
    );
}

#[test]
fn mount_and_umount_by_name() {
    // mount(8) finds helpers in /sbin alone: a private copy of the tree of mounts gives it one there.
    let server = server_with_file(Kind::PureFtpd);
    let place = Place::new();
    let fstab = format!(
        "{} {} ftps _netdev,nofail,x-systemd.automount,noauto,{} 0 0\n",
        server.source(),
        place.dir.display(),
        place.options(&server, "").to_string_lossy()
    );
    let (fstab, sbin) = (place.write_private("fstab", &fstab), place.beside("sbin"));
    fs::create_dir(&sbin).expect("make a folder");
    let script = "
        cp -a /usr/sbin/. \"$2\"
        ln -s \"$4\" \"$2/mount.ftps\"
        mount --bind \"$2\" /usr/sbin
        mount --bind \"$1\" /etc/fstab
        mount \"$3\"
        cat \"$3/file\"
        umount \"$3\"";
    let mut command = place.marked(apart("sh"));
    command
        .args(["-ec", script, "sh"])
        .arg(fstab)
        .arg(sbin)
        .arg(&place.dir);
    command.arg(env!("CARGO_BIN_EXE_ftpsfs"));
    assert_eq!(run_soon(&mut command).text(), "content");
    assert!(place.is_deserted(), "left behind: {:?}", place.processes());
}

#[test]
fn arguments_in_any_order() {
    let server = server_with_file(Kind::Pyftpdlib);
    let place = Place::new();
    let (source, options) = (server.source(), place.options(&server, ""));
    let dir = place.dir.clone();
    let (source, dir, options) = (OsStr::new(&source), dir.as_os_str(), options.as_os_str());
    let o = |text: &'static str| OsStr::new(text);
    for order in [
        vec![source, dir, o("-o"), options],
        vec![o("-o"), options, source, dir],
        vec![o("-nv"), source, o("-o"), options, dir, o("-r")],
        vec![
            o("-t"),
            o("ftps"),
            source,
            dir,
            o("-o"),
            options,
            o("-o"),
            o("_netdev,nofail,x-gvfs-hide,rw,nosuid"),
        ],
    ] {
        let mounted = run_soon(place.helper().args(&order));
        assert_eq!(mounted.code(), 0, "{order:?}: {}", mounted.stderr);
        assert_reads(&place.dir);
        place.unmount();
    }
    let fake = run_soon(
        place
            .helper()
            .args([source, dir, o("-f"), o("-o"), options]),
    );
    assert_eq!(fake.code(), 0, "{}", fake.stderr);
    assert_eq!(place.mountinfo(), Vec::<String>::new(), "-f mounts nothing");
}

#[test]
fn the_mount_point_may_have_an_odd_name() {
    let server = server_with_file(Kind::PureFtpd);
    let place = Place::new();
    for name in [
        &b"with space"[..],
        b"comma,comma",
        b"back\\slash",
        b"not utf-8 \xff",
        b"-o",
        b"tab\there",
    ] {
        let dir = place.dir.join(OsStr::from_bytes(name));
        fs::create_dir(&dir).expect("make a mount point");
        let options = place.options(&server, "");
        let mut command = place.helper();
        command
            .arg("-o")
            .arg(options)
            .arg("--")
            .arg(server.source())
            .arg(&dir);
        let mounted = run_soon(&mut command);
        assert_eq!(mounted.code(), 0, "{}", mounted.stderr);
        assert_reads(&dir);
        run_soon(Command::new("umount").arg(&dir)).text();
        assert!(place.is_deserted());
    }
}

/// A part of the password that no option string, log or command line may show.
const SECRET: &str = "s3cret";

#[test]
fn passwords_stay_secret() {
    let server = server_with_file(Kind::PureFtpd);
    let place = Place::new();
    let port = server.port();
    let given = format!(
        "username={USER},password=\"{PASSWORD}\",port={port},cafile={}",
        certificate("ca.pem").display()
    );
    let mounted = run_soon(
        place
            .helper()
            .arg(server.source())
            .arg(&place.dir)
            .args(["-o", &given]),
    );
    assert_eq!(mounted.code(), 0, "{}", mounted.stderr);
    assert!(
        mounted.stderr.contains("password"),
        "it warns: {}",
        mounted.stderr
    );
    assert!(!mounted.stderr.contains(SECRET));
    for pid in place.processes() {
        for file in ["cmdline", "environ"] {
            let text = fs::read(format!("/proc/{pid}/{file}")).expect("read about the daemon");
            assert!(
                !String::from_utf8_lossy(&text).contains(SECRET),
                "{file} of the daemon"
            );
        }
    }
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    assert!(!table.contains(SECRET));
    assert_reads(&place.dir);
    place.unmount();

    // In the foreground, logging all it can, with the login and its refusal.
    for password in [PASSWORD, "s3cret but wrong"] {
        place.write_private(
            "credentials",
            &format!("username={USER}\npassword={password}\n"),
        );
        let log = place.beside("log");
        let mut command = place.binary();
        command
            .args(["mount", "--foreground", "--verbose"])
            .arg(server.source())
            .arg(&place.dir);
        command
            .arg("-o")
            .arg(place.options(&server, "log_level=trace"));
        command
            .stdin(Stdio::null())
            .stderr(File::create(&log).expect("make a log"));
        let mut foreground = command.spawn().expect("start ftpsfs");
        if password == PASSWORD {
            assert!(wait_until(Duration::from_secs(20), || !place
                .mountinfo()
                .is_empty()));
            assert_reads(&place.dir);
            kill(
                nix::unistd::Pid::from_raw(foreground.id() as i32),
                Signal::SIGINT,
            )
            .expect("interrupt it");
        }
        let status = wait(&mut foreground, Duration::from_secs(20)).expect("it ends");
        let text = fs::read_to_string(log).expect("read the log");
        assert_eq!(status.success(), password == PASSWORD, "{text}");
        assert!(text.contains("USER"), "the log shows the login: {text}");
        assert!(!text.contains(SECRET), "{text}");
    }
}

/// A process that reads from a dead server can be killed.
#[test]
fn a_killed_reader_dies() {
    let server = server_with_file(Kind::VsftpdExplicit);
    tree::fill(&server.root.join("long"), 1, 80 << 20);
    tree::put(&server.root.join("other"), b"", Duration::ZERO);
    let mount = Mount::new(&server, "timeout=20,window=2M,attr_timeout=0,dir_timeout=0");
    let long = mount.path("long");
    let mut half_read = soon(move || {
        let mut file = File::open(long).expect("open");
        file.read_exact(&mut [0; 4096]).expect("read the start");
        file
    });
    server.pause();
    let start = |program: &str, argument: &Path| {
        let mut command = Command::new(program);
        command
            .arg(argument)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().expect("start a program")
    };
    let mut programs = [
        start("cat", &mount.path("file")),
        start("cat", &mount.path("long")),
        // Two that look one name up wait for each other in the kernel.
        start("stat", &mount.path("other")),
        start("ls", &mount.dir),
    ];
    std::thread::sleep(Duration::from_secs(1));
    for (index, program) in programs.iter_mut().enumerate() {
        assert_eq!(
            program.try_wait().expect("ask"),
            None,
            "program {index} waits for the server"
        );
        program.kill().expect("kill it");
        let ended = wait(program, Duration::from_secs(2));
        assert!(
            ended.is_some(),
            "program {index} outlives SIGKILL by two seconds"
        );
    }
    server.resume();
    soon(move || {
        let mut rest = Vec::new();
        half_read.read_to_end(&mut rest).expect("read the rest");
        assert_eq!(rest.len(), (80 << 20) - 4096);
    });
}

/// Owners and modes as the options have them.
#[test]
fn owner_and_mode_options() {
    let server = server_with_file(Kind::ProftpdExplicit);
    tree::put(&server.root.join("folder/script"), b"", Duration::ZERO);
    let script = server.root.join("folder/script");
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).expect("make it executable");
    let look = |mount: &Mount, name: &str| {
        let path = mount.path(name);
        let metadata = soon(move || path.metadata()).expect("stat");
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
    };
    let mount = Mount::new(&server, "");
    assert_eq!(look(&mount, "file"), (0, 0, 0o644));
    assert_eq!(look(&mount, "folder"), (0, 0, 0o755));
    assert_eq!(look(&mount, "folder/script"), (0, 0, 0o755));
    drop(mount);
    let mount = Mount::new(&server, "uid=4000,gid=65534,umask=027");
    assert_eq!(look(&mount, "file"), (4000, 65534, 0o640));
    assert_eq!(look(&mount, "folder"), (4000, 65534, 0o750));
    drop(mount);
    let mount = Mount::new(&server, "fmask=0137,dmask=0077");
    assert_eq!(look(&mount, "folder/script").2, 0o640);
    assert_eq!(look(&mount, "folder").2, 0o700);
}

/// Somebody who is not root mounts through fusermount3, as nobody else sees.
#[test]
fn an_ordinary_user_mounts() {
    let server = server_with_file(Kind::VsftpdImplicit);
    let place = Place::new();
    let home = place.beside("");
    // The build folder may lie where only its owner can go.
    fs::copy(env!("CARGO_BIN_EXE_ftpsfs"), place.beside("ftpsfs")).expect("copy the program");
    fs::copy(certificate("ca.pem"), place.beside("ca.pem")).expect("copy the authority");
    for path in [home.as_path(), &place.dir, &place.beside("credentials")] {
        chown(path, Some(UID), Some(UID)).expect("give it away");
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("read the accounts");
    let passwd = format!(
        "{}\nftpsfs:x:{UID}:{UID}::{}:/bin/sh\n",
        passwd.trim_end(),
        home.display()
    );
    fs::write(place.beside("passwd"), passwd).expect("write the accounts");
    fs::set_permissions(place.beside("passwd"), fs::Permissions::from_mode(0o644))
        .expect("open it");
    // On many machines /dev/fuse is everybody's; here it may be root's alone.
    let script = "
        cd \"$1\"
        mount --bind passwd /etc/passwd
        mknod -m 666 fuse c 10 229
        mount --bind fuse /dev/fuse
        exec setpriv --reuid \"$2\" --regid \"$2\" --clear-groups sh -ec '
            ./ftpsfs mount \"$1\" dir -o \"$2\"
            cat dir/file
            stat -c \" %u %g %a\" dir/file
            echo changed > dir/file
            cat dir/file
            ./ftpsfs umount dir
            mountpoint -q dir && echo still mounted
            exit 0
        ' sh \"$3\" \"$4\"";
    let options = "credentials=credentials,cafile=ca.pem";
    let mut command = place.marked(apart("sh"));
    command
        .args(["-ec", script, "sh"])
        .arg(&home)
        .arg(UID.to_string());
    command.args([&server.source(), options]);
    assert_eq!(
        run_soon(&mut command).text(),
        format!("content {UID} {UID} 644\nchanged\n")
    );
    assert!(place.is_deserted(), "left behind: {:?}", place.processes());
}

/// MS-FTPS implicit means no PBSZ and no PROT. vsftpd demands them on its implicit port none the less.
#[test]
fn vsftpd_implicit_gets_pbsz_and_prot_after_it_demanded_them() {
    let server = server_with_file(Kind::VsftpdImplicit);
    let mount = Mount::new(&server, "max_sessions=2");
    assert_reads(&mount.dir);
    drop(mount);
    let log = server.log();
    let at = |text: &str| {
        log.find(text)
            .unwrap_or_else(|| panic!("no {text} in {log}"))
    };
    let demand = at("522");
    assert!(
        at("\"PBSZ 0\"") > demand && at("\"PROT P\"") > demand,
        "not before the demand: {log}"
    );
    assert_eq!(
        log.matches("522").count(),
        1,
        "it is remembered for the server: {log}"
    );
    for transfer in ["\"RETR", "\"STOR", "\"APPE"] {
        assert!(
            !log[..demand].contains(transfer),
            "the trial is a listing: {log}"
        );
    }
}

#[test]
fn other_implicit_servers_get_no_pbsz_nor_prot() {
    for kind in [Kind::ProftpdImplicit, Kind::PyftpdlibImplicit] {
        let server = server_with_file(kind);
        let mount = Mount::new(&server, "");
        assert_reads(&mount.dir);
        drop(mount);
        let log = server.log();
        assert!(log.contains("RETR"), "the log shows commands: {log}");
        for command in ["PBSZ", "PROT", "AUTH", "CCC"] {
            assert!(!log.contains(command), "{kind:?} got {command}: {log}");
        }
    }
}

/// A listing that the server cut short proves nothing about names that it lacks.
#[test]
fn pure_ftpd_cuts_listings() {
    let options = Options {
        listing_limit: 100,
        ..Options::default()
    };
    let server = RealServer::start(Kind::PureFtpd, options);
    for index in 0..300 {
        tree::put(
            &server.root.join(format!("file{index}")),
            index.to_string().as_bytes(),
            Duration::ZERO,
        );
    }
    let mount = Mount::new(&server, "");
    let dir = mount.dir.clone();
    soon(move || {
        // Whatever listing says, and whether or not it fails, every file can be read.
        let _ = fs::read_dir(&dir).map(Iterator::count);
        for index in 0..300 {
            let content = fs::read_to_string(dir.join(format!("file{index}"))).expect("read");
            assert_eq!(content, index.to_string());
        }
    });
}

/// vsftpd can be told to refuse passive connections; the message names the way out.
#[test]
fn active_mode_where_passive_is_refused() {
    let options = Options {
        passive: false,
        ..Options::default()
    };
    let server = RealServer::start(Kind::VsftpdExplicit, options);
    tree::put(&server.root.join("file"), b"content", Duration::ZERO);
    let mount = Mount::new(&server, "active");
    assert_reads(&mount.dir);
}
