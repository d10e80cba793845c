//! What only some servers and networks need: proxies, an address of our own, virtual hosts, names
//! that are not UTF-8.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ftpsfs::proto::Security;
use ftpsfs::server::Faults;

use super::bench::{Bench, refusal, said, succeed};

/// Plays the proxy's part until the server's begins; whom the client asked for.
type Speak = fn(&mut TcpStream) -> String;

/// A proxy that knows where `files.invalid` is. It notes whom it was asked for.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn new(speak: Speak) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let notes = asked.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let notes = notes.clone();
                thread::spawn(move || pass(client, speak, &notes));
            }
        });
        Self { address, asked }
    }
}

fn pass(mut client: TcpStream, speak: Speak, notes: &Mutex<Vec<String>>) {
    let asked = speak(&mut client);
    let port = asked.rsplit(':').next().unwrap().parse().unwrap();
    notes.lock().unwrap().push(asked);
    let server = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    let (mut from_server, mut to_client) =
        (server.try_clone().unwrap(), client.try_clone().unwrap());
    let back = thread::spawn(move || {
        let _ = std::io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Write);
    });
    let mut to_server = server;
    let _ = std::io::copy(&mut client, &mut to_server);
    let _ = to_server.shutdown(Shutdown::Write);
    let _ = back.join();
}

fn speak_http(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
    let head = String::from_utf8(head).unwrap();
    let mut words = head.split(' ');
    assert_eq!(words.next(), Some("CONNECT"));
    words.next().unwrap().to_owned()
}

fn speak_socks5(client: &mut TcpStream) -> String {
    let mut greeting = [0; 3];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting, [5, 1, 0]);
    client.write_all(&[5, 0]).unwrap();
    let mut ask = [0; 5];
    client.read_exact(&mut ask).unwrap();
    assert_eq!(ask[..4], [5, 1, 0, 3], "by name");
    let mut rest = vec![0; usize::from(ask[4]) + 2];
    client.read_exact(&mut rest).unwrap();
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    let (host, port) = rest.split_at(rest.len() - 2);
    let port = u16::from_be_bytes([port[0], port[1]]);
    format!("{}:{port}", String::from_utf8_lossy(host))
}

#[test]
fn every_connection_goes_through_the_proxy() {
    let kinds: [(&str, Speak); 2] = [("http", speak_http), ("socks5", speak_socks5)];
    for (scheme, speak) in kinds {
        let proxy = Proxy::new(speak);
        let bench = Bench::new();
        let options = format!("{},proxy={scheme}://{}", bench.options(), proxy.address);
        let mut mount = Command::new(bench.path("mount.ftps"));
        mount
            .arg("files.invalid:/")
            .arg(bench.mount_point())
            .args(["-o", &options]);
        succeed(&mut mount);
        bench.expect_mounted();
        fs::write(bench.path("local"), "written").unwrap();
        let mut copy = Command::new("cp");
        succeed(
            copy.arg(bench.path("local"))
                .arg(bench.mount_point().join("new")),
        );
        assert_eq!(fs::read(bench.path("served/new")).unwrap(), b"written");
        let told = said(bench.program(&["status"]).arg(bench.mount_point()));
        assert!(told.contains(&format!(" by {scheme}://")), "{told}");
        bench.unmount();
        bench.expect_gone();
        let asked = proxy.asked.lock().unwrap();
        let control = format!("files.invalid:{}", bench.server.local_addr().port());
        assert!(asked.contains(&control), "{asked:?}");
        let data = asked.iter().filter(|asked| **asked != control).count();
        assert!(data >= 2, "data connections too: {asked:?}");
        assert!(
            asked
                .iter()
                .all(|asked| asked.starts_with("files.invalid:")),
            "{asked:?}"
        );
    }
}

#[test]
fn a_proxy_that_refuses_is_quoted() {
    let bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.read(&mut [0; 512]);
            let _ = client.write_all(b"HTTP/1.1 403 Not to there\r\n\r\n");
        }
    });
    let options = format!("{},proxy=http://{address}", bench.options());
    let line = refusal(&mut bench.helper("/", &options), 32);
    assert!(
        line.contains("403 Not to there") && line.contains(&address.to_string()),
        "{line}"
    );
    let both = format!("{options},active");
    assert!(refusal(&mut bench.helper("/", &both), 1).contains("do not go together"));
    let nonsense = bench.options() + ",proxy=ftp://x";
    assert!(refusal(&mut bench.helper("/", &nonsense), 1).contains("socks5://HOST:PORT"));
}

#[test]
fn bind_is_where_we_come_from() {
    let bench = Bench::new();
    succeed(&mut bench.helper("/", &(bench.options() + ",bind=127.0.0.77")));
    bench.expect_mounted();
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    // Local and remote addresses in hexadecimal, the bytes of the first reversed.
    let server = format!("0100007F:{:04X}", bench.server.local_addr().port());
    let from = |line: &&str| line.contains(" 4D00007F:") && line.contains(&server);
    assert!(table.lines().any(|line| from(&line)), "{table}");
    bench.unmount();
    bench.expect_gone();
    let wrong = bench.options() + ",bind=::1";
    let line = refusal(&mut bench.helper("/", &wrong), 32);
    assert!(
        line.contains("bind=::1 does not go with 127.0.0.1"),
        "{line}"
    );
    let foreign = bench.options() + ",bind=192.0.2.1";
    assert!(refusal(&mut bench.helper("/", &foreign), 32).contains("bind=192.0.2.1"));
}

#[test]
fn the_virtual_host_is_named_before_the_login() {
    let rules = "HOST always: reply \"504 No such host here\"";
    let faults = Faults::new(rules.parse().unwrap());
    let bench = Bench::with(|config| config.faults = Some(faults));
    let options = bench.options() + ",host=files.example.org";
    let line = refusal(&mut bench.helper("/", &options), 32);
    assert!(line.contains("504 No such host here"), "{line}");
    let bench = Bench::new();
    let options = bench.options() + ",host=files.example.org";
    let log = fs::File::create(bench.path("log")).unwrap();
    let mut command = bench.program(&["mount", "-d", "127.0.0.1:/"]);
    command
        .arg(bench.mount_point())
        .args(["-o", &options])
        .stderr(log);
    let mut child = command.spawn().unwrap();
    super::bench::wait_until("the mount", || bench.is_mounted());
    bench.expect_mounted();
    bench.unmount();
    assert!(child.wait().unwrap().success());
    let log = fs::read_to_string(bench.path("log")).unwrap();
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("{what}: {log}"));
    assert!(at("> HOST files.example.org") < at("> USER me"), "{log}");
    assert!(at("> USER me") < at("> PASS ****"), "{log}");
    assert!(!log.contains(super::bench::PASSWORD), "{log}");
}

#[test]
fn names_that_are_not_utf_8_are_shown_and_written_as_such() {
    let bench = Bench::with(|config| {
        config.security = Security::Explicit;
        config.without = vec!["MLST".to_owned(), "MLSD".to_owned()];
    });
    let latin = |name: &[u8]| bench.path("served").join(OsStr::from_bytes(name));
    fs::write(latin(b"gr\xfc\xdfe"), "greetings").unwrap();
    fs::create_dir(latin(b"stra\xdfe")).unwrap();
    let port = bench.server.local_addr().port();
    let options = format!(
        "explicit,port={port},fingerprint={},state_dir={},credentials={},charset=latin1",
        bench.server.fingerprint(),
        bench.path("state").display(),
        bench.path("credentials").display()
    );
    succeed(&mut bench.helper("/", &options));
    let at = |name: &str| bench.mount_point().join(name);
    assert_eq!(fs::read_to_string(at("grüße")).unwrap(), "greetings");
    let listed = fs::read_dir(bench.mount_point()).unwrap();
    let mut names: Vec<_> = listed.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["grüße", "hello", "straße"]);
    fs::write(bench.path("local"), "fine").unwrap();
    let mut copy = Command::new("cp");
    succeed(copy.arg(bench.path("local")).arg(at("straße/à la carte")));
    assert_eq!(
        fs::read(latin(b"stra\xdfe").join(OsStr::from_bytes(b"\xe0 la carte"))).unwrap(),
        b"fine"
    );
    fs::rename(at("grüße"), at("Grüße")).unwrap();
    assert!(latin(b"Gr\xfc\xdfe").exists());
    let unknown = fs::create_dir(at("файл")).unwrap_err();
    assert_eq!(unknown.raw_os_error(), Some(libc::EINVAL), "{unknown}");
    // The session goes on.
    assert_eq!(fs::read_to_string(at("Grüße")).unwrap(), "greetings");
    bench.unmount();
    bench.expect_gone();
    let nonsense = bench.options() + ",charset=utf-16";
    assert!(refusal(&mut bench.helper("/", &nonsense), 1).contains("no character set"));
}

/// Mounts a server whose LIST is 5:30 ahead of UTC, and MDTM where `local`; how many seconds
/// times shown, set and shown then are off.
fn times_shown(local: bool, hidden: &[&str], option: &str) -> Vec<String> {
    const AHEAD: i64 = 19_800;
    let bench = Bench::with(|config| {
        config.without = hidden.iter().map(|&verb| verb.to_owned()).collect();
        config.zone = AHEAD;
        if local {
            config.mdtm_slip = Duration::from_secs(AHEAD as u64);
        }
    });
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    // LIST tells no seconds.
    let minute = (seconds(SystemTime::now()) - 2 * 86_400) / 60 * 60;
    let old = UNIX_EPOCH + Duration::from_secs(minute);
    fs::create_dir(bench.path("served/dir")).unwrap();
    for name in ["dir", "hello"] {
        let file = fs::File::open(bench.path("served").join(name)).unwrap();
        file.set_modified(old).unwrap();
    }
    succeed(&mut bench.helper("/", &(bench.options() + option)));
    let difference = |name: &str| {
        let shown = fs::metadata(bench.mount_point().join(name))
            .unwrap()
            .modified();
        format!("{name} {}", seconds(shown.unwrap()).abs_diff(minute))
    };
    fs::read_dir(bench.mount_point()).unwrap().for_each(drop);
    let mut shown = vec![difference("dir"), difference("hello")];
    // What is given a time has it on the server as well.
    if !hidden.contains(&"MFMT") || !hidden.contains(&"SITE UTIME") {
        let given = bench.mount_point().join("hello");
        let mut touch = Command::new("touch");
        succeed(touch.args(["-d", "2020-02-02 02:02:02 UTC"]).arg(&given));
        let there = fs::metadata(bench.path("served/hello")).unwrap().modified();
        let wanted = 1_580_608_922_u64;
        shown.push(format!("set {}", seconds(there.unwrap()).abs_diff(wanted)));
        let here = fs::metadata(given).unwrap().modified().unwrap();
        shown.push(format!("told {}", seconds(here).abs_diff(wanted)));
    }
    bench.unmount();
    bench.expect_gone();
    shown
}

#[test]
fn times_are_right_wherever_the_server_is() {
    let mlsx = ["MLST", "MLSD"];
    let right = ["dir 0", "hello 0", "set 0", "told 0"];
    // Listings in the server's zone, MDTM in UTC: found out.
    assert_eq!(times_shown(false, &mlsx, ""), right);
    assert_eq!(times_shown(false, &mlsx, ",time_offset=auto"), right);
    assert_eq!(times_shown(false, &mlsx, ",time_offset=+05:30"), right);
    // Facts are in UTC, whatever else is said.
    assert_eq!(times_shown(true, &[], ""), right);
    assert_eq!(times_shown(true, &[], ",time_offset=+05:30"), right);
    // MDTM in the server's zone as well: nobody can tell but the user. (MFMT of this server is UTC.)
    let local = ["MLST", "MLSD", "MFMT"];
    let fooled = times_shown(true, &local, "");
    assert_eq!(fooled[..2], ["dir 19800", "hello 19800"]);
    assert_eq!(times_shown(true, &local, ",time_offset=19800"), right);
    // No MDTM at all.
    let none = ["MLST", "MLSD", "MDTM", "MFMT", "SITE UTIME"];
    assert_eq!(times_shown(false, &none, ""), ["dir 19800", "hello 19800"]);
    assert_eq!(
        times_shown(false, &none, ",time_offset=+05:30"),
        ["dir 0", "hello 0"]
    );
    let bench = Bench::new();
    let nonsense = bench.options() + ",time_offset=CET";
    assert!(refusal(&mut bench.helper("/", &nonsense), 1).contains("such as +02:00"));
}

#[test]
fn a_server_that_must_be_told_what_a_port_is_for() {
    let bench = Bench::with(|config| config.wants_pret = true);
    bench.mount();
    fs::write(bench.path("local"), "written").unwrap();
    let mut copy = Command::new("cp");
    succeed(
        copy.arg(bench.path("local"))
            .arg(bench.mount_point().join("new")),
    );
    assert_eq!(fs::read(bench.path("served/new")).unwrap(), b"written");
    assert_eq!(fs::read_dir(bench.mount_point()).unwrap().count(), 2);
    bench.unmount();
    bench.expect_gone();
}
