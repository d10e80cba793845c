//! Proxies: how a TCP connection to one becomes a connection to a server behind it. SOCKS5 (RFC
//! 1928, with a login by RFC 1929) and HTTP CONNECT (RFC 9110 9.3.6, Basic by RFC 7617). The proxy
//! looks names up.
//!
//! Must not know what the connection is for.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::proto::Secret;
use crate::tls::in_time;

/// The longest head of a reply that is read.
const HEAD: usize = 8 << 10;

/// `proxy=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    kind: Kind,
    /// Name or address, without brackets.
    pub host: String,
    pub port: u16,
    /// For proxies that ask for one.
    pub login: Option<ProxyLogin>,
}

/// Who we are to a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyLogin {
    pub user: Vec<u8>,
    pub password: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Socks5,
    Http,
}

impl Proxy {
    /// `socks5://HOST:PORT` or `http://HOST:PORT`; the port may be missing (1080, 8080).
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = match text.split_once("://")? {
            ("socks5" | "socks5h", rest) => (Kind::Socks5, rest),
            ("http", rest) => (Kind::Http, rest),
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let usual = match kind {
            Kind::Socks5 => 1080,
            Kind::Http => 8080,
        };
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (
                    host,
                    after.strip_prefix(':').or(after.is_empty().then_some("")),
                )
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, Some("")),
            },
        };
        let port = match port? {
            "" => usual,
            port => port.parse().ok().filter(|port| *port > 0)?,
        };
        let is_odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '/' | '@');
        let fits = !host.is_empty() && host.len() < 256 && !host.contains(is_odd);
        fits.then(|| Self {
            kind,
            host: host.to_owned(),
            port,
            login: None,
        })
    }

    /// Has the proxy connect to a server; the stream is in blocking mode.
    pub(super) fn pass(
        &self,
        tcp: &TcpStream,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> io::Result<()> {
        let mut wire = Wire { tcp, deadline };
        let login = self.login.as_ref();
        let passed = match self.kind {
            Kind::Socks5 => socks5(&mut wire, login, host, port),
            Kind::Http => http(&mut wire, login, host, port),
        };
        passed.map_err(|error| io::Error::new(error.kind(), format!("the proxy {self}: {error}")))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Socks5 => "socks5",
            Kind::Http => "http",
        };
        write!(f, "{scheme}://{}", authority(&self.host, self.port))
    }
}

/// `host:port`, with the brackets of an IPv6 address.
fn authority(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Both ways, by the deadline, and never a byte more than was asked for: what follows is the
/// server's.
struct Wire<'a> {
    tcp: &'a TcpStream,
    deadline: Instant,
}

impl Wire<'_> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tcp.set_write_timeout(Some(self.left()?))?;
        timely(self.tcp.write_all(bytes))
    }

    fn receive<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            self.tcp.set_read_timeout(Some(self.left()?))?;
            match timely(self.tcp.read(&mut bytes[filled..]))? {
                0 => return Err(io::Error::other("it closed the connection")),
                n => filled += n,
            }
        }
        Ok(bytes)
    }

    fn left(&self) -> io::Result<Duration> {
        in_time(self.deadline)?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        Ok(left.max(Duration::from_millis(1)))
    }
}

/// A timeout of a blocking socket calls itself "would block".
fn timely<T>(result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    })
}

/// What a proxy says that wants a login, where there is none.
const WANTS_LOGIN: &str =
    "it wants a login: proxy_username= and proxy_password= in the credentials file";

fn socks5(wire: &mut Wire, login: Option<&ProxyLogin>, host: &str, port: u16) -> io::Result<()> {
    const VERSION: u8 = 5;
    const NO_AUTHENTICATION: u8 = 0;
    const BY_PASSWORD: u8 = 2;
    match login {
        None => wire.send(&[VERSION, 1, NO_AUTHENTICATION])?,
        Some(_) => wire.send(&[VERSION, 2, NO_AUTHENTICATION, BY_PASSWORD])?,
    }
    match (wire.receive()?, login) {
        ([VERSION, NO_AUTHENTICATION], _) => {}
        ([VERSION, BY_PASSWORD], Some(login)) => log_in(wire, login)?,
        ([VERSION, 0xff], None) => return Err(io::Error::other(WANTS_LOGIN)),
        ([VERSION, 0xff], Some(_)) => {
            return Err(io::Error::other("it takes no login by name and password"));
        }
        _ => return Err(io::Error::other("it does not speak SOCKS5")),
    }
    let mut ask = vec![VERSION, 1, 0];
    match host.parse() {
        Ok(IpAddr::V4(ip)) => {
            ask.push(1);
            ask.extend(ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            ask.push(4);
            ask.extend(ip.octets());
        }
        Err(_) => {
            let length = u8::try_from(host.len());
            let length = length.map_err(|_| io::Error::other("the host's name is too long"))?;
            ask.extend([3, length]);
            ask.extend(host.as_bytes());
        }
    }
    ask.extend(port.to_be_bytes());
    wire.send(&ask)?;
    let [version, code, _, kind] = wire.receive()?;
    if version != VERSION {
        return Err(io::Error::other("it does not speak SOCKS5"));
    }
    match kind {
        1 => drop(wire.receive::<6>()?),
        4 => drop(wire.receive::<18>()?),
        3 => {
            let [length] = wire.receive()?;
            for _ in 0..usize::from(length) + 2 {
                wire.receive::<1>()?;
            }
        }
        _ => return Err(io::Error::other("it does not speak SOCKS5")),
    }
    let why = match code {
        0 => return Ok(()),
        2 => "not allowed",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "timed out",
        _ => "failed",
    };
    let to = authority(host, port);
    Err(io::Error::other(format!("cannot connect to {to}: {why}")))
}

/// RFC 1929.
fn log_in(wire: &mut Wire, login: &ProxyLogin) -> io::Result<()> {
    let mut ask = Zeroizing::new(Vec::with_capacity(2 * 256));
    ask.push(1);
    for text in [&login.user[..], login.password.expose()] {
        let length = u8::try_from(text.len());
        let length = length.map_err(|_| io::Error::other("the login for it is too long"))?;
        ask.push(length);
        ask.extend_from_slice(text);
    }
    wire.send(&ask)?;
    match wire.receive()? {
        [_, 0] => Ok(()),
        [_, _] => Err(io::Error::other("it refuses the login")),
    }
}

/// RFC 4648.
fn base64(bytes: &[u8], text: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for three in bytes.chunks(3) {
        let at = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= three.len() { digit } else { b'=' });
        }
    }
}

fn http(wire: &mut Wire, login: Option<&ProxyLogin>, host: &str, port: u16) -> io::Result<()> {
    let to = authority(host, port);
    // Reserved at once: a growing vector would leave copies of the password behind.
    let mut ask = Zeroizing::new(Vec::with_capacity(HEAD));
    ask.extend_from_slice(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").as_bytes());
    if let Some(login) = login {
        let plain = [&login.user[..], login.password.expose()].join(&b':');
        ask.extend_from_slice(b"Proxy-Authorization: Basic ");
        base64(&Zeroizing::new(plain), &mut ask);
        ask.extend_from_slice(b"\r\n");
    }
    ask.extend_from_slice(b"\r\n");
    wire.send(&ask)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD {
            return Err(io::Error::other("its reply is too long"));
        }
        head.extend(wire.receive::<1>()?);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let is_http = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
    match words.next() {
        Some(code) if is_http && code.len() == 3 && code.starts_with('2') => Ok(()),
        Some("407") if is_http && login.is_none() => Err(io::Error::other(WANTS_LOGIN)),
        _ => Err(io::Error::other(format!("cannot connect to {to}: {line}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn forms_of_a_proxy() {
        let table = [
            ("socks5://p", Some("socks5://p:1080")),
            ("socks5h://p:9/", Some("socks5://p:9")),
            ("http://10.0.0.1:3128", Some("http://10.0.0.1:3128")),
            ("http://[::1]", Some("http://[::1]:8080")),
            ("http://[::1]:1", Some("http://[::1]:1")),
            ("p:1080", None),
            ("socks4://p", None),
            ("http://", None),
            ("http://u:p@h", None),
            ("http://h:0", None),
            ("http://[::1]x", None),
            ("http://a b", None),
        ];
        for (text, expected) in table {
            let parsed = Proxy::parse(text).map(|proxy| proxy.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
    }

    /// What comes of a proxy that answers so.
    fn passed(text: &str, replies: &'static [&'static [u8]]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let proxy = thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            for reply in replies {
                let _ = peer.read(&mut [0; 512]);
                let _ = peer.write_all(reply);
            }
        });
        let deadline = Instant::now() + Duration::from_secs(5);
        let passed = Proxy::parse(text)
            .unwrap()
            .pass(&tcp, "files.example", 21, deadline);
        drop(tcp);
        proxy.join().unwrap();
        passed.map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_proxy_says() {
        let socks = "socks5://p";
        assert_eq!(
            passed(
                socks,
                &[b"\x05\x00", b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"]
            ),
            Ok(())
        );
        assert_eq!(
            passed(socks, &[b"\x05\x00", b"\x05\x00\x00\x03\x01x\x00\x00"]),
            Ok(())
        );
        let refused = passed(
            socks,
            &[b"\x05\x00", b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"],
        );
        let line =
            "the proxy socks5://p:1080: cannot connect to files.example:21: connection refused";
        assert_eq!(refused, Err(line.to_owned()));
        assert!(
            passed(socks, &[b"\x05\xff"])
                .unwrap_err()
                .contains("proxy_password=")
        );
        assert!(
            passed(socks, &[b"HT"])
                .unwrap_err()
                .contains("does not speak SOCKS5")
        );
        assert!(
            passed(socks, &[b"\x05"])
                .unwrap_err()
                .contains("closed the connection")
        );
        let http = "http://p";
        assert_eq!(
            passed(http, &[b"HTTP/1.1 200 Fine\r\nVia: x\r\n\r\n"]),
            Ok(())
        );
        let refused = passed(http, &[b"HTTP/1.1 403 Not to there\r\n\r\n"]);
        assert!(
            refused
                .unwrap_err()
                .ends_with("files.example:21: HTTP/1.1 403 Not to there")
        );
        assert!(
            passed(http, &[b"220 Welcome\r\n\r\n"])
                .unwrap_err()
                .contains("220 Welcome")
        );
    }

    #[test]
    fn base64_of_logins() {
        for (bytes, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("Aladdin:open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ] {
            let mut text = Vec::new();
            base64(bytes.as_bytes(), &mut text);
            assert_eq!(String::from_utf8_lossy(&text), expected);
        }
    }

    #[test]
    fn a_silent_proxy_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let passed = Proxy::parse("http://p")
            .unwrap()
            .pass(&tcp, "h", 21, deadline);
        assert_eq!(passed.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
