//! A client that shows every byte: it parses replies by itself, shares with the server nothing
//! but TLS, and does only what it is told.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use ftpsfs::proto::Security;
use ftpsfs::server::{Config, Server, Users};
use ftpsfs::tls::{SessionTls, Stream, Trust, TrustOptions};

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A server on a folder of its own, with these files in it.
pub struct Served {
    pub server: Server,
    pub folder: tempfile::TempDir,
}

pub fn serve(security: Security) -> Served {
    serve_with(security, |_| {})
}

pub fn serve_with(security: Security, adapt: impl FnOnce(&mut Config)) -> Served {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("hello"), b"0123456789").unwrap();
    std::fs::write(folder.path().join("sub/inner"), b"inner").unwrap();
    let mut config = Config::new(folder.path(), security, Users::Anyone);
    adapt(&mut config);
    let server = Server::start(config).unwrap();
    Served { server, folder }
}

impl Served {
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn content(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap()
    }

    /// Connected, and nothing more.
    pub fn connect(&self) -> Client {
        Client::new(
            &self.server,
            TcpStream::connect(self.server.local_addr()).unwrap(),
        )
    }

    /// Under TLS, greeted: implicitly or by AUTH TLS.
    pub fn secured(&self, security: Security) -> Client {
        let mut client = self.connect();
        if security == Security::Explicit {
            client.expect(220);
            client.ask("AUTH TLS", 234);
        }
        client.start_tls();
        if security == Security::Implicit {
            client.expect(220);
        }
        client
    }

    /// Logged in, data connections under TLS.
    pub fn ready(&self, security: Security) -> Client {
        let mut client = self.secured(security);
        client.log_in();
        if security == Security::Explicit {
            client.ask("PBSZ 0", 200);
            client.ask("PROT P", 200);
        }
        client
    }

    pub fn implicit(&self) -> Client {
        self.ready(Security::Implicit)
    }

    pub fn explicit(&self) -> Client {
        self.ready(Security::Explicit)
    }
}

pub struct Client {
    pub control: Stream,
    pub tls: SessionTls,
    trust: Trust,
    received: Vec<u8>,
}

#[derive(Debug)]
pub struct Reply {
    pub code: u16,
    /// As sent, without line ends.
    pub lines: Vec<String>,
}

impl Client {
    pub fn new(server: &Server, tcp: TcpStream) -> Self {
        let options = TrustOptions {
            fingerprints: vec![server.fingerprint()],
            ..TrustOptions::default()
        };
        let trust = Trust::new(&options, "127.0.0.1").unwrap();
        Self {
            control: Stream::new(tcp).unwrap(),
            tls: trust.session(false).unwrap(),
            trust,
            received: Vec::new(),
        }
    }

    pub fn start_tls(&mut self) {
        assert!(self.received.is_empty(), "clear bytes before TLS");
        self.tls.forget();
        let tls = self.tls.connection().unwrap();
        self.control.start_tls(tls, soon()).unwrap();
    }

    /// The server's close_notify is due, and nothing else.
    pub fn stop_tls(&mut self) {
        assert!(
            self.received.is_empty(),
            "more than a reply before close_notify"
        );
        assert_eq!(self.control.read(&mut [0; 1], soon()).unwrap(), 0);
        self.control.stop_tls(soon()).unwrap();
    }

    pub fn log_in(&mut self) {
        self.ask("USER me", 331);
        self.ask("PASS any", 230);
    }

    pub fn send(&mut self, text: impl AsRef<[u8]>) {
        self.control.write_all(text.as_ref(), soon()).unwrap();
    }

    /// Sends a command, wants this code, gives the reply.
    #[track_caller]
    pub fn ask(&mut self, line: impl AsRef<[u8]>, code: u16) -> Reply {
        let line = line.as_ref();
        self.send([line, b"\r\n"].concat());
        let reply = self.reply();
        assert_eq!(reply.code, code, "{}: {reply:?}", line.escape_ascii());
        reply
    }

    #[track_caller]
    pub fn expect(&mut self, code: u16) -> Reply {
        let reply = self.reply();
        assert_eq!(reply.code, code, "{reply:?}");
        reply
    }

    pub fn reply(&mut self) -> Reply {
        let first = self.line();
        let code = first[..3].parse().unwrap();
        let end = format!("{code} ");
        let several = first.as_bytes()[3] == b'-';
        let mut lines = vec![first];
        while several && !lines.last().unwrap().starts_with(&end) {
            lines.push(self.line());
        }
        Reply { code, lines }
    }

    /// Whether the control connection says nothing for a while.
    pub fn is_silent(&mut self) -> bool {
        let wait = Instant::now() + Duration::from_millis(100);
        match self.control.read(&mut [0; 1], wait) {
            Err(e) => e.kind() == ErrorKind::TimedOut,
            Ok(_) => false,
        }
    }

    /// Whether the server ends the connection, by close_notify, FIN or reset.
    pub fn is_ended(&mut self) -> bool {
        match self.control.read(&mut [0; 1024], soon()) {
            Ok(n) => n == 0,
            Err(e) => e.kind() != ErrorKind::TimedOut,
        }
    }

    /// A new data connection by EPSV, still clear.
    pub fn passive(&mut self) -> TcpStream {
        TcpStream::connect(self.passive_address()).unwrap()
    }

    pub fn passive_address(&mut self) -> SocketAddr {
        let reply = self.ask("EPSV", 229);
        let port = reply.lines[0].split('|').nth(3).unwrap().parse().unwrap();
        SocketAddr::new(self.control.tcp().peer_addr().unwrap().ip(), port)
    }

    /// What PASV names.
    pub fn pasv_address(&mut self) -> SocketAddr {
        let reply = self.ask("PASV", 227).lines.remove(0);
        let list = reply.split(['(', ')']).nth(1).unwrap();
        let n: Vec<u8> = list.split(',').map(|n| n.parse().unwrap()).collect();
        SocketAddr::from(([n[0], n[1], n[2], n[3]], u16::from_be_bytes([n[4], n[5]])))
    }

    pub fn protect(&self, tcp: TcpStream) -> Stream {
        let mut data = Stream::new(tcp).unwrap();
        data.start_tls(self.tls.connection().unwrap(), soon())
            .unwrap();
        data
    }

    /// A handshake with no session to resume.
    pub fn protect_afresh(&self, tcp: TcpStream) -> Stream {
        let mut data = Stream::new(tcp).unwrap();
        let fresh = self.trust.session(false).unwrap();
        data.start_tls(fresh.connection().unwrap(), soon()).unwrap();
        data
    }

    /// RETR or a listing over a protected passive connection.
    pub fn download(&mut self, command: impl AsRef<[u8]>) -> Vec<u8> {
        let tcp = self.passive();
        self.ask(command, 150);
        let content = read_to_end(self.protect(tcp));
        self.expect(226);
        content
    }

    pub fn download_clear(&mut self, command: &str) -> Vec<u8> {
        let tcp = self.passive();
        self.ask(command, 150);
        let content = read_to_end(Stream::new(tcp).unwrap());
        self.expect(226);
        content
    }

    /// STOR or APPE over a protected passive connection.
    pub fn upload(&mut self, command: &str, content: &[u8]) {
        let tcp = self.passive();
        self.ask(command, 150);
        let mut data = self.protect(tcp);
        data.write_all(content, soon()).unwrap();
        data.close_notify(soon()).unwrap();
        data.tcp().shutdown(Shutdown::Write).unwrap();
        assert_eq!(data.read(&mut [0; 1], soon()).unwrap(), 0);
        self.expect(226);
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..end + 2).collect();
                return String::from_utf8_lossy(&line[..end]).into_owned();
            }
            let mut bytes = [0; 4096];
            let n = self.control.read(&mut bytes, soon()).unwrap();
            assert!(n > 0, "the server ended the connection instead of a reply");
            self.received.extend_from_slice(&bytes[..n]);
        }
    }
}

/// To the peer's close_notify, or in the clear to its FIN; then ends it likewise.
pub fn read_to_end(mut data: Stream) -> Vec<u8> {
    let mut content = Vec::new();
    let mut bytes = vec![0; 64 << 10];
    loop {
        match data.read(&mut bytes, soon()).unwrap() {
            0 => break,
            n => content.extend_from_slice(&bytes[..n]),
        }
    }
    data.close_notify(soon()).unwrap();
    content
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Writes garbage where TLS is due.
pub fn talk_nonsense(mut tcp: TcpStream) -> TcpStream {
    tcp.write_all(b"this is not TLS\r\n").unwrap();
    tcp
}
