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

use ftpsfs::proto::{Secret, Security};
use ftpsfs::server::{Account, Faults, Users};

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
    if asked.is_empty() {
        return; // Refused.
    }
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

/// The same for proxies that want to know who asks.
fn speak_http_to_friends(client: &mut TcpStream) -> String {
    let head = head_of(client);
    // base64 of you:s3cret, word
    let login = "Proxy-Authorization: Basic eW91OnMzY3JldCwgd29yZA==";
    if !head.lines().any(|line| line == login) {
        let refusal = b"HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n";
        client.write_all(refusal).unwrap();
        return String::new();
    }
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
    head.split(' ').nth(1).unwrap().to_owned()
}

fn speak_socks5_to_friends(client: &mut TcpStream) -> String {
    let mut greeting = [0; 2];
    client.read_exact(&mut greeting).unwrap();
    let mut methods = vec![0; usize::from(greeting[1])];
    client.read_exact(&mut methods).unwrap();
    if !methods.contains(&2) {
        client.write_all(&[5, 0xff]).unwrap();
        return String::new();
    }
    client.write_all(&[5, 2]).unwrap();
    let mut field = |before: usize| {
        let mut length = vec![0; before + 1];
        client.read_exact(&mut length).unwrap();
        let mut text = vec![0; usize::from(length[before])];
        client.read_exact(&mut text).unwrap();
        text
    };
    let (user, password) = (field(1), field(0));
    if user != b"you" || password != b"s3cret, word" {
        client.write_all(&[1, 1]).unwrap();
        return String::new();
    }
    client.write_all(&[1, 0]).unwrap();
    socks5_request(client)
}

fn head_of(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

fn speak_http(client: &mut TcpStream) -> String {
    let head = head_of(client);
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
    let mut words = head.split(' ');
    assert_eq!(words.next(), Some("CONNECT"));
    words.next().unwrap().to_owned()
}

fn speak_socks5(client: &mut TcpStream) -> String {
    let mut greeting = [0; 3];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting, [5, 1, 0]);
    client.write_all(&[5, 0]).unwrap();
    socks5_request(client)
}

fn socks5_request(client: &mut TcpStream) -> String {
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
fn a_proxy_is_told_who_asks_and_nobody_else_is() {
    let kinds: [(&str, Speak); 2] = [
        ("http", speak_http_to_friends),
        ("socks5", speak_socks5_to_friends),
    ];
    for (scheme, speak) in kinds {
        let proxy = Proxy::new(speak);
        let bench = Bench::new();
        let via = format!("{},proxy={scheme}://{}", bench.options(), proxy.address);
        let mount = || {
            let mut mount = Command::new(bench.path("mount.ftps"));
            mount.arg("files.invalid:/").arg(bench.mount_point());
            mount.args(["-o", &via]);
            mount
        };
        let line = refusal(&mut mount(), 32);
        assert!(
            line.contains("proxy_username= and proxy_password="),
            "{line}"
        );
        let login = |password: &str| {
            let own = format!("username=me\npassword={}\n", super::bench::PASSWORD);
            let proxys = format!("proxy_username=you\nproxy_password={password}\n");
            fs::write(bench.path("credentials"), own + &proxys).unwrap();
        };
        login("wrong");
        let line = refusal(&mut mount(), 32);
        assert!(
            line.contains("refuses the login") || line.contains("407 Who"),
            "{line}"
        );
        login("s3cret, word");
        succeed(&mut mount());
        bench.expect_mounted();
        fs::read_dir(bench.mount_point()).unwrap().for_each(drop);
        // Not in process lists, mounts, status or log.
        let lines = bench.processes().into_iter().map(|pid| {
            let about = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&[about("cmdline"), about("environ")].concat()).into_owned()
        });
        let status = said(
            bench
                .program(&["status", "--json"])
                .arg(bench.mount_point()),
        );
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        for text in lines.chain([status, mounts]) {
            assert!(!text.contains("s3cret"), "{text}");
            assert!(!text.contains("eW91OnMzY3JldCwgd29yZA"), "{text}");
        }
        bench.unmount();
        bench.expect_gone();
        let log = fs::File::create(bench.path("log")).unwrap();
        let mut command = bench.program(&["mount", "-d", "files.invalid:/"]);
        command.arg(bench.mount_point()).args(["-o", &via]);
        let mut child = command.stderr(log).spawn().unwrap();
        super::bench::wait_until("the mount", || bench.is_mounted());
        bench.expect_mounted();
        bench.unmount();
        assert!(child.wait().unwrap().success());
        let log = fs::read_to_string(bench.path("log")).unwrap();
        assert!(log.contains("> RETR") && !log.contains("s3cret"), "{log}");
        assert!(
            proxy.asked.lock().unwrap().len() >= 4,
            "data connections too"
        );
    }
    // In options others would see it.
    let bench = Bench::new();
    let shown = bench.options() + ",proxy=socks5://you:s3cret@localhost";
    let line = refusal(&mut bench.helper("/", &shown), 1);
    assert!(
        line.contains("proxy_password=") && !line.contains("s3cret"),
        "{line}"
    );
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
fn a_server_that_asks_for_an_account() {
    for instead_of_password in [false, true] {
        let name = Secret::new("department");
        let account = Account {
            name,
            instead_of_password,
        };
        let bench = Bench::with(|config| config.account = Some(account));
        let line = refusal(&mut bench.helper("/", &bench.options()), 32);
        assert!(line.contains("332 Account, please"), "{line}");
        let login = format!("username=me\npassword={}\n", super::bench::PASSWORD);
        let with = |account: &str| {
            let text = format!("{login}account={account}\n");
            fs::write(bench.path("credentials"), text).unwrap();
        };
        with("another");
        let line = refusal(&mut bench.helper("/", &bench.options()), 32);
        assert!(line.contains("530 No such account"), "{line}");
        with("department");
        bench.mount();
        assert_eq!(fs::read_dir(bench.mount_point()).unwrap().count(), 1);
        bench.unmount();
        bench.expect_gone();
    }
}

#[test]
fn a_server_that_wants_to_know_the_client_before_it_speaks_utf_8() {
    let bench = Bench::with(|config| config.wants_clnt = true);
    fs::write(bench.path("served/grüße"), "greetings").unwrap();
    bench.mount();
    let there = bench.mount_point().join("grüße");
    assert_eq!(fs::read_to_string(there).unwrap(), "greetings");
    fs::create_dir(bench.mount_point().join("straße")).unwrap();
    assert!(bench.path("served/straße").is_dir());
    bench.unmount();
    bench.expect_gone();
    // Not UTF-8: it is not switched on, and such names are refused.
    succeed(&mut bench.helper("/", &(bench.options() + ",charset=latin1")));
    assert!(!bench.mount_point().join("grüße").exists());
    bench.unmount();
    bench.expect_gone();
}

#[test]
fn without_any_user_the_login_is_anonymous() {
    let users = [
        (b"anonymous".to_vec(), Secret::new("anonymous@")),
        (b"ftp".to_vec(), Secret::new("anonymous@")),
    ];
    let bench = Bench::with(|config| config.users = Users::Listed(users.into()));
    for user in ["", ",username=anonymous", ",user=ftp"] {
        let mut mount = bench.helper("/", &(bench.reaching() + user));
        succeed(mount.env("HOME", bench.folder.path()));
        bench.expect_mounted();
        bench.unmount();
        bench.expect_gone();
    }
    let other = bench.reaching() + ",username=me";
    let mut mount = bench.helper("/", &other);
    let line = refusal(mount.env("HOME", bench.folder.path()), 1);
    assert!(line.contains("no password for me@127.0.0.1"), "{line}");
}

#[test]
fn a_server_that_ignores_case_has_each_file_once() {
    let bench = Bench::with(|config| {
        config.windows = true;
        config.without = vec!["MLST".to_owned(), "MLSD".to_owned()];
    });
    let served = || {
        let entries = fs::read_dir(bench.path("served")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    bench.mount();
    let at = |name: &str| bench.mount_point().join(name);
    succeed(Command::new("mv").arg(at("hello")).arg(at("Hello")));
    assert_eq!(served(), ["Hello"]);
    succeed(Command::new("mkdir").arg(at("dir")));
    succeed(Command::new("mv").arg("-T").arg(at("dir")).arg(at("DIR")));
    assert_eq!(served(), ["DIR", "Hello"]);
    succeed(
        Command::new("sh")
            .arg("-c")
            .arg("cd \"$1\"/dir && echo more >> ../HELLO")
            .arg("-")
            .arg(bench.mount_point()),
    );
    assert_eq!(
        fs::read(bench.path("served/Hello")).unwrap(),
        b"hello over FTPS\nmore\n"
    );
    let mut same = Command::new("cmp");
    succeed(same.arg(at("hello")).arg(at("DIR/../hELLO")));
    assert_eq!(served(), ["DIR", "Hello"]);
    bench.unmount();
    bench.expect_gone();
    // Told otherwise, each name is a name.
    succeed(&mut bench.helper("/", &(bench.options() + ",case=sensitive")));
    assert!(!at("HELLO").exists());
    bench.unmount();
    bench.expect_gone();
    // Some do not say that they ignore it: there it has to be told.
    let bench = Bench::new();
    succeed(&mut bench.helper("/", &(bench.options() + ",case=insensitive")));
    assert_eq!(
        fs::read(bench.mount_point().join("HELLO")).unwrap(),
        b"hello over FTPS\n"
    );
    bench.unmount();
    bench.expect_gone();
    let nonsense = bench.options() + ",case=none";
    assert!(
        refusal(&mut bench.helper("/", &nonsense), 1).contains("auto or sensitive or insensitive")
    );
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
