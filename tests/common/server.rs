//! Real FTPS servers, each in a temporary folder on ports of its own, as administrators set them up.
//!
//! What these servers do and how they differ is the servers' affair; nothing here knows the client.

use super::enclosure::Enclosure;
use super::ports::PortBlock;
use super::wait_until;
use nix::sys::signal::Signal;
use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The account on every server. The password has what an option string would trip over.
pub const USER: &str = "ftpsfs";
pub const PASSWORD: &str = "s3cret, pass=word";
/// `PASSWORD`, as `openssl passwd -1 -salt ftpsfs` hashes it.
const HASH: &str = "$1$ftpsfs$c.Kt7f5u4jWXWt1/6irkc/";
/// The account's uid and gid.
pub const UID: u32 = 4000;

/// Which server, and which kind of FTPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    VsftpdExplicit,
    VsftpdImplicit,
    ProftpdExplicit,
    ProftpdImplicit,
    PureFtpd,
    Pyftpdlib,
    PyftpdlibImplicit,
}

impl Kind {
    pub fn is_implicit(self) -> bool {
        matches!(
            self,
            Self::VsftpdImplicit | Self::ProftpdImplicit | Self::PyftpdlibImplicit
        )
    }

    pub fn is_vsftpd(self) -> bool {
        matches!(self, Self::VsftpdExplicit | Self::VsftpdImplicit)
    }

    pub fn is_proftpd(self) -> bool {
        matches!(self, Self::ProftpdExplicit | Self::ProftpdImplicit)
    }

    pub fn is_pyftpdlib(self) -> bool {
        matches!(self, Self::Pyftpdlib | Self::PyftpdlibImplicit)
    }
}

/// How a server is set up; the default is what the shared tests use.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Name of a file that tests/servers/certificates makes.
    pub certificate: &'static str,
    /// Control connections that the server accepts at a time.
    pub max_clients: u32,
    /// Listens on ::1 instead of 127.0.0.1.
    pub ipv6: bool,
    /// Listens on this IPv4 address instead of 127.0.0.1. The certificate does not name it.
    pub address: Option<&'static str>,
    /// False: a server without any TLS (vsftpd and pyftpdlib only).
    pub tls: bool,
    /// False: PASV and EPSV are refused (vsftpd only).
    pub passive: bool,
    /// True: a client certificate is demanded (ProFTPD only).
    pub verify_client: bool,
    /// Entries after which Pure-FTPd cuts a listing off; its own default is 10,000.
    pub listing_limit: u32,
    /// The account's folder is a file system of its own, of so many bytes.
    pub disk: Option<u64>,
    /// False: neither permission bits nor times can be set (vsftpd only).
    pub attributes: bool,
    /// True: all times, MDTM's too, are in the server's zone, which is Asia/Kolkata (vsftpd only).
    pub local_time: bool,
    /// Seconds after which a client that says nothing is sent away (vsftpd only).
    pub idle: u32,
    /// Bytes per second that a transfer may take at most, 0 for as many as there are (vsftpd only).
    pub rate: u32,
    /// False: only transfers are logged, which is its own default; else all that is said (vsftpd only).
    pub talk: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            certificate: "server",
            max_clients: 50,
            ipv6: false,
            address: None,
            tls: true,
            passive: true,
            verify_client: false,
            listing_limit: 200_000,
            disk: None,
            attributes: true,
            local_time: false,
            idle: 300,
            rate: 0,
            talk: true,
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct RealServer {
    pub kind: Kind,
    pub options: Options,
    /// The account's folder: what the mount shows.
    pub root: PathBuf,
    process: Option<Enclosure>,
    ports: PortBlock,
    folder: tempfile::TempDir,
}

/// Where tests/servers/install puts things.
pub fn installed(path: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/servers")
        .join(path);
    assert!(
        target.exists(),
        "{} is missing: tests/servers/install makes it",
        target.display()
    );
    target
}

/// A file of tests/servers/certificates, with its ending.
pub fn certificate(name: &str) -> PathBuf {
    installed("certificates").join(name)
}

impl RealServer {
    /// Starts it and waits until it listens. Panics with the server's log when it does not.
    pub fn start(kind: Kind, options: Options) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("ftpsfs-server-")
            .tempdir()
            .expect("make a folder");
        let all_may_pass = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), all_may_pass).expect("open the folder");
        let root = folder.path().join("root");
        fs::create_dir(&root).expect("make the root");
        if let Some(bytes) = options.disk {
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "disk"]);
            let mounted = mount.arg(&root).status().expect("run mount");
            assert!(mounted.success(), "the tests run as root");
        }
        std::os::unix::fs::chown(&root, Some(UID), Some(UID)).expect("the tests run as root");
        let mut server = Self {
            kind,
            options,
            root,
            process: None,
            ports: PortBlock::claim(),
            folder,
        };
        server.write_accounts();
        server.launch();
        server
    }

    /// The default set-up of `kind`.
    pub fn of(kind: Kind) -> Self {
        Self::start(kind, Options::default())
    }

    /// The control port.
    pub fn port(&self) -> u16 {
        self.ports.control()
    }

    /// Where it opens ports for data connections.
    pub fn passive_ports(&self) -> RangeInclusive<u16> {
        let (first, last) = self.ports.passive();
        first..=last
    }

    /// The host as it stands in a source. The name has an IPv6 address too on most machines, where nothing listens.
    pub fn host(&self) -> &'static str {
        match self.options.address {
            Some(address) => address,
            None if self.options.ipv6 => "[::1]",
            None => "localhost",
        }
    }

    /// What to mount; an explicit server needs `port=` beside it.
    pub fn source(&self) -> String {
        if self.kind.is_implicit() {
            format!("ftps://{}:{}/", self.host(), self.port())
        } else {
            format!("{}:/", self.host())
        }
    }

    /// Kills every process of the server, as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) {
        self.kill();
        self.launch();
    }

    /// Stops every process where it stands: connections stay open, and nothing answers.
    pub fn pause(&self) {
        self.process().signal_all(Signal::SIGSTOP);
    }

    /// Lets the paused processes go on.
    pub fn resume(&self) {
        self.process().signal_all(Signal::SIGCONT);
    }

    /// What the server wrote about itself and, except for Pure-FTPd, each command that it received.
    pub fn log(&self) -> String {
        let read = |name| fs::read(self.folder.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&[read("log"), read("commands")].concat()).into_owned()
    }

    /// The log's last lines, for messages of failed tests.
    pub fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    fn process(&self) -> &Enclosure {
        self.process.as_ref().expect("the server runs")
    }

    fn launch(&mut self) {
        let command = match self.kind {
            Kind::VsftpdExplicit | Kind::VsftpdImplicit => self.vsftpd(),
            Kind::ProftpdExplicit | Kind::ProftpdImplicit => self.proftpd(),
            Kind::PureFtpd => self.pure_ftpd(),
            Kind::Pyftpdlib | Kind::PyftpdlibImplicit => self.pyftpdlib(),
        };
        let accounts = self.folder.path().join("etc");
        let mut process = Enclosure::start(&accounts, &command, &self.folder.path().join("log"));
        let mut running = true;
        let listens = wait_until(Duration::from_secs(20), || {
            running = process.is_running();
            is_listening(self.port()) || !running
        });
        self.process = Some(process);
        assert!(
            listens && running,
            "{:?} does not start:\n{}",
            self.kind,
            self.end_of_log()
        );
    }

    /// The account files that the server sees: the machine's, and one account more.
    fn write_accounts(&self) {
        let etc = self.folder.path().join("etc");
        let append = |name: &str, line: String| {
            let machine =
                fs::read_to_string(Path::new("/etc").join(name)).expect("read an account file");
            fs::write(etc.join(name), format!("{}\n{line}\n", machine.trim_end()))
                .expect("write it");
        };
        fs::create_dir_all(etc.join("pam.d")).expect("make etc");
        append(
            "passwd",
            format!("{USER}:x:{UID}:{UID}::{}:/bin/sh", self.root.display()),
        );
        append("group", format!("{USER}:x:{UID}:"));
        append("shadow", format!("{USER}:{HASH}:19000:0:99999:7:::"));
        let rules = "auth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n";
        fs::write(etc.join("pam.d/ftpsfs"), rules).expect("write PAM's rules");
    }

    fn address(&self) -> &'static str {
        match self.options.address {
            Some(address) => address,
            None if self.options.ipv6 => "::1",
            None => "127.0.0.1",
        }
    }

    fn pem(&self, ending: &str) -> PathBuf {
        certificate(&format!("{}.{ending}", self.options.certificate))
    }

    /// Fills a template of tests/servers in and writes it into the server's folder.
    fn configuration(&self, template: &str, own: &[(&str, String)]) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/servers")
            .join(template);
        let mut text = fs::read_to_string(source).expect("read the template");
        let (first, last) = self.ports.passive();
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let shared = [
            ("PORT", self.port().to_string()),
            ("ADDRESS", self.address().to_owned()),
            ("PASSIVE_FIRST", first.to_string()),
            ("PASSIVE_LAST", last.to_string()),
            ("MAX_CLIENTS", self.options.max_clients.to_string()),
            ("CERTIFICATE", self.pem("pem").display().to_string()),
            ("KEY", self.pem("key").display().to_string()),
            ("ROOT", self.root.display().to_string()),
            ("DIR", self.folder.path().display().to_string()),
            ("LOG", path("log")),
            ("COMMANDS", path("commands")),
        ];
        for (name, value) in shared.iter().chain(own) {
            text = text.replace(&format!("@{name}@"), value);
        }
        assert!(
            !text.contains('@'),
            "{template} has a placeholder that nothing fills in"
        );
        let filled = self.folder.path().join(template);
        fs::write(&filled, text).expect("write the configuration");
        filled
    }

    fn vsftpd(&self) -> Command {
        let yes = |on: bool| if on { "YES" } else { "NO" }.to_owned();
        let empty = self.folder.path().join("empty");
        fs::create_dir_all(&empty).expect("make an empty folder");
        let configuration = self.configuration(
            "vsftpd.conf",
            &[
                ("LISTEN4", yes(!self.options.ipv6)),
                (
                    "ADDRESS4",
                    self.options.address.unwrap_or("127.0.0.1").to_owned(),
                ),
                ("LISTEN6", yes(self.options.ipv6)),
                ("TLS", yes(self.options.tls)),
                ("IMPLICIT", yes(self.kind.is_implicit())),
                ("PASSIVE", yes(self.options.passive)),
                ("EMPTY", empty.display().to_string()),
                ("ATTRIBUTES", yes(self.options.attributes)),
                ("LOCALTIME", yes(self.options.local_time)),
                ("IDLE", self.options.idle.to_string()),
                ("RATE", self.options.rate.to_string()),
                ("TALK", yes(self.options.talk)),
            ],
        );
        let mut command = program("vsftpd", "usr/sbin/vsftpd");
        command.arg(configuration);
        command
    }

    fn proftpd(&self) -> Command {
        let user = format!(
            "{USER}:{HASH}:{UID}:{UID}::{}:/bin/sh\n",
            self.root.display()
        );
        write_private(&self.folder.path().join("proftpd.users"), &user);
        write_private(
            &self.folder.path().join("proftpd.groups"),
            &format!("{USER}:x:{UID}:\n"),
        );
        let tls_options = if self.kind.is_implicit() {
            "UseImplicitSSL"
        } else {
            ""
        };
        let verify = if self.options.verify_client {
            "on"
        } else {
            "off"
        };
        let configuration = self.configuration(
            "proftpd.conf",
            &[
                (
                    "MODULES",
                    installed("proftpd/usr/lib/proftpd").display().to_string(),
                ),
                ("TLS_OPTIONS", tls_options.to_owned()),
                ("VERIFY_CLIENT", verify.to_owned()),
                ("CA", certificate("ca.pem").display().to_string()),
            ],
        );
        let mut command = program("proftpd", "usr/sbin/proftpd");
        command.args(["--nodaemon", "--config"]).arg(configuration);
        command
    }

    fn pure_ftpd(&self) -> Command {
        let path = |name: &str| self.folder.path().join(name);
        // The `/./` is where it roots the session.
        let user = format!(
            "{USER}:{HASH}:{UID}:{UID}::{}/./::::::::::::\n",
            self.root.display()
        );
        write_private(&path("pure.passwd"), &user);
        let made = program("pure-ftpd", "usr/bin/pure-pw")
            .args(["mkdb"])
            .arg(path("pure.pdb"))
            .arg("-f")
            .arg(path("pure.passwd"))
            .status();
        assert!(made.expect("run pure-pw").success(), "pure-pw mkdb");
        let (first, last) = self.ports.passive();
        let mut command = program("pure-ftpd", "usr/sbin/pure-ftpd");
        command
            .arg("-S")
            .arg(format!("{},{}", self.address(), self.port()));
        // -Y 3: neither commands nor data in the clear. -A: rooted sessions. -H: no name look-ups.
        command
            .args(["-Y", "3", "-A", "-H", "-E", "-2"])
            .arg(self.pem("both"));
        command
            .arg("-l")
            .arg(format!("puredb:{}", path("pure.pdb").display()));
        command.arg("-g").arg(path("pure.pid"));
        command.arg("-c").arg(self.options.max_clients.to_string());
        command.arg("-p").arg(format!("{first}:{last}"));
        command
            .arg("-L")
            .arg(format!("{}:20", self.options.listing_limit));
        command
    }

    fn pyftpdlib(&self) -> Command {
        let mut command = Command::new(installed("pyftpdlib/bin/python"));
        command
            .arg("-u")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/pyftpd.py"));
        let (first, last) = self.ports.passive();
        command.arg("--root").arg(&self.root);
        command.args([
            "--user",
            USER,
            "--password",
            PASSWORD,
            "--address",
            self.address(),
        ]);
        command
            .arg("--certificate")
            .arg(self.pem("pem"))
            .arg("--key")
            .arg(self.pem("key"));
        for (name, value) in [
            ("--port", u32::from(self.port())),
            ("--passive-first", first.into()),
            ("--passive-last", last.into()),
            // It counts its own listener and every data connection too.
            ("--max-clients", self.options.max_clients),
            ("--uid", UID),
        ] {
            command.args([name, &value.to_string()]);
        }
        if self.kind.is_implicit() {
            command.arg("--implicit");
        }
        if !self.options.tls {
            command.arg("--plain");
        }
        command
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        self.kill();
        if self.options.disk.is_some() {
            // Lazily: servers that started meanwhile see it, too.
            let _ = Command::new("umount").arg("-l").arg(&self.root).status();
        }
    }
}

/// A program of an unpacked package, which finds its libraries there. Its clock's zone is not the client's: what
/// the client makes of times must not depend on that.
fn program(package: &str, path: &str) -> Command {
    let mut command = Command::new(installed(package).join(path));
    let libraries = ["usr/lib", "lib"].into_iter().flat_map(|lib| {
        let folder = fs::read_dir(installed(package).join(lib));
        folder
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    });
    let found: Vec<_> = libraries
        .filter(|path| path.to_string_lossy().ends_with("-linux-gnu"))
        .collect();
    command.env(
        "LD_LIBRARY_PATH",
        std::env::join_paths(found).expect("join library paths"),
    );
    command.env("TZ", "Asia/Kolkata");
    command
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("write an account file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("make it private");
}

/// Whether anything listens on the port, asked of the kernel: a connection would be a session on the server.
fn is_listening(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|table| {
        // A test may have put its thread into a network namespace of its own.
        let table = format!("/proc/thread-self/net/{table}");
        let table = fs::read_to_string(table).unwrap_or_default();
        table.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next();
            let state = fields.nth(1);
            local.is_some_and(|local| local.ends_with(&suffix)) && state == Some(LISTEN)
        })
    })
}
