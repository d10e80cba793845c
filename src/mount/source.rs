//! What is mounted: `[user@]host:/path`, `ftps://...` or `ftpes://...`. Pure parsing; knows no
//! options, files or network.

use std::net::{IpAddr, Ipv6Addr};

use percent_encoding::percent_decode;

use super::failure::shown;
use crate::proto::{PathError, RemotePath, Secret, Security};

/// A source, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// A name or an address, without brackets.
    pub host: String,
    pub port: Option<u16>,
    /// What the scheme says: `ftps` is implicit, `ftpes` explicit.
    pub security: Option<Security>,
    pub user: Option<Vec<u8>>,
    /// From a URL. Others may have seen it.
    pub password: Option<Secret>,
    pub path: RemotePath,
    /// The source as given, but for a password: what /proc/mounts shows.
    pub label: Vec<u8>,
}

/// Why this is no source. Never shows a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("the source must be host:/path, ftps://host/path or ftpes://host/path")]
    NoSeparator,
    #[error("the path must be absolute: host:/path (a port is given by port=)")]
    RelativePath,
    #[error("plain FTP is never spoken; ftpes:// is FTP with explicit TLS, ftps:// with implicit")]
    PlainFtp,
    #[error("an IPv6 address stands in brackets: [::1]:/path")]
    BareIpv6,
    #[error("`{0}` is no host name or address")]
    Host(String),
    #[error("`{0}` is no port")]
    Port(String),
    #[error("the user name is empty")]
    EmptyUser,
    #[error("FTP cannot carry a user name or password with a line end or NUL")]
    Login,
    #[error("the path: {0}")]
    Path(#[from] PathError),
}

/// Takes a source apart.
pub fn parse(text: &[u8]) -> Result<Source, SourceError> {
    let Some((scheme, rest)) = scheme(text) else {
        return parse_short(text);
    };
    match &*scheme {
        b"ftps" => parse_url(text, rest, Security::Implicit),
        b"ftpes" => parse_url(text, rest, Security::Explicit),
        b"ftp" => Err(SourceError::PlainFtp),
        _ => Err(SourceError::NoSeparator),
    }
}

/// A URL's scheme in lower case, and what follows `://`.
fn scheme(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let at = text.windows(3).position(|window| window == b"://")?;
    let scheme = text[..at].to_ascii_lowercase();
    scheme
        .iter()
        .all(u8::is_ascii_alphanumeric)
        .then_some((scheme, &text[at + 3..]))
}

/// `[user[:password]@]host[:port][/path]`, percent-encoded. `?` and `#` have no meaning of their
/// own: they are common in file names, and FTP URLs have neither query nor fragment (RFC 1738).
fn parse_url(text: &[u8], rest: &[u8], security: Security) -> Result<Source, SourceError> {
    let slash = position(rest, b'/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(slash);
    let (login, host_port) = split_login(authority);
    let mut label = text.to_vec();
    let (mut user, mut password) = (login, None);
    if let Some((before, colon)) = login.and_then(|login| Some((login, position(login, b':')?))) {
        user = Some(&before[..colon]);
        password = Some(decoded_login(&before[colon + 1..])?);
        let start = text.len() - rest.len();
        label.drain(start + colon..start + before.len());
    }
    let (host, port) = split_port(host_port)?;
    Ok(Source {
        host,
        port,
        security: Some(security),
        user: user
            .map(decoded_login)
            .transpose()?
            .map(non_empty)
            .transpose()?,
        password: password.map(Secret::new),
        path: if path.is_empty() {
            RemotePath::root()
        } else {
            RemotePath::parse(&decoded(path))?
        },
        label,
    })
}

/// `[user@]host:[/path]`. The user may hold `@`, the path anything.
fn parse_short(text: &[u8]) -> Result<Source, SourceError> {
    let colon = text.windows(2).position(|window| window == b":/");
    let (left, path) = match colon {
        Some(colon) => (&text[..colon], &text[colon + 1..]),
        None => match text.strip_suffix(b":") {
            Some(left) => (left, &b"/"[..]),
            None if text.contains(&b':') => return Err(SourceError::RelativePath),
            None => return Err(SourceError::NoSeparator),
        },
    };
    let (user, host) = split_login(left);
    if host.contains(&b':') && !host.starts_with(b"[") {
        let bare = std::str::from_utf8(host).is_ok_and(|host| host.parse::<Ipv6Addr>().is_ok());
        return Err(if bare {
            SourceError::BareIpv6
        } else {
            SourceError::RelativePath
        });
    }
    Ok(Source {
        host: parse_host(host)?,
        port: None,
        security: None,
        user: user
            .map(|user| checked_login(user.to_vec()))
            .transpose()?
            .map(non_empty)
            .transpose()?,
        password: None,
        path: RemotePath::parse(path)?,
        label: text.to_vec(),
    })
}

/// What stands before the last `@`, and what behind.
fn split_login(text: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match text.iter().rposition(|byte| *byte == b'@') {
        Some(at) => (Some(&text[..at]), &text[at + 1..]),
        None => (None, text),
    }
}

/// `host[:port]`, where the host may be an IPv6 address in brackets.
fn split_port(text: &[u8]) -> Result<(String, Option<u16>), SourceError> {
    let behind_bracket = position(text, b']').map_or(0, |bracket| bracket + 1);
    let Some(colon) = position(&text[behind_bracket..], b':') else {
        return Ok((parse_host(text)?, None));
    };
    let (host, port) = text.split_at(behind_bracket + colon);
    let digits = std::str::from_utf8(&port[1..])
        .ok()
        .filter(|port| !port.starts_with('+'));
    let number = digits
        .and_then(|port| port.parse().ok())
        .filter(|port| *port != 0);
    let number = number.ok_or_else(|| SourceError::Port(shown(&port[1..])))?;
    Ok((parse_host(host)?, Some(number)))
}

/// A name, an IPv4 address, or an IPv6 address in brackets (perhaps with `%zone`).
fn parse_host(text: &[u8]) -> Result<String, SourceError> {
    let refused = || SourceError::Host(shown(text));
    let host = std::str::from_utf8(text).map_err(|_| refused())?;
    if let Some(bracketed) = host.strip_prefix('[') {
        let inner = bracketed.strip_suffix(']').ok_or_else(refused)?;
        let (address, zone) = inner.split_once('%').unwrap_or((inner, "0"));
        let is_address = address.parse::<Ipv6Addr>().is_ok();
        return match is_address && is_name(zone) {
            true => Ok(inner.to_string()),
            false => Err(refused()),
        };
    }
    match host.parse::<IpAddr>().is_ok() || is_name(host) {
        true => Ok(host.to_string()),
        false => Err(refused()),
    }
}

/// What could be the name of a host: the resolver has the last word.
fn is_name(host: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    !host.is_empty() && host.len() <= 255 && !host.starts_with('-') && host.chars().all(is_part)
}

fn decoded(text: &[u8]) -> Vec<u8> {
    percent_decode(text).collect()
}

fn decoded_login(text: &[u8]) -> Result<Vec<u8>, SourceError> {
    checked_login(decoded(text))
}

fn checked_login(bytes: Vec<u8>) -> Result<Vec<u8>, SourceError> {
    match bytes.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
        true => Err(SourceError::Login),
        false => Ok(bytes),
    }
}

fn non_empty(user: Vec<u8>) -> Result<Vec<u8>, SourceError> {
    if user.is_empty() {
        Err(SourceError::EmptyUser)
    } else {
        Ok(user)
    }
}

fn position(text: &[u8], byte: u8) -> Option<usize> {
    text.iter().position(|b| *b == byte)
}

#[cfg(test)]
mod tests {
    use super::{Secret, Security, parse};
    use proptest::prelude::*;

    /// user, password, host, port, path of a source, in one line.
    fn shown(text: &str) -> String {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match parse(text.as_bytes()) {
            Err(error) => error.to_string(),
            Ok(source) => format!(
                "{}|{}|{}|{}|{}",
                source.user.map_or("-".to_string(), |user| lossy(&user)),
                source
                    .password
                    .map_or("-".to_string(), |password| lossy(password.expose())),
                source.host,
                source.port.map_or("-".to_string(), |port| port.to_string()),
                lossy(source.path.as_bytes()),
            ),
        }
    }

    #[test]
    fn short_form() {
        let table = [
            ("host:/", "-|-|host|-|/"),
            ("host:", "-|-|host|-|/"),
            ("host:/a/b c/", "-|-|host|-|/a/b c"),
            ("me@host:/a", "me|-|host|-|/a"),
            (
                "me@corp.example@host:/a@b:/c",
                "me@corp.example|-|host|-|/a@b:/c",
            ),
            (
                r"CORP\me@ftp.example.org:/",
                r"CORP\me|-|ftp.example.org|-|/",
            ),
            ("127.0.0.1:/x", "-|-|127.0.0.1|-|/x"),
            ("[::1]:/x", "-|-|::1|-|/x"),
            ("me@[fe80::1%eth0]:", "me|-|fe80::1%eth0|-|/"),
            ("bücher.example:/ä", "-|-|bücher.example|-|/ä"),
            ("my_host:/a?b#c%20d", "-|-|my_host|-|/a?b#c%20d"),
            ("ftps:/x", "-|-|ftps|-|/x"),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text), expected, "{text}");
            assert_eq!(parse(text.as_bytes()).unwrap().label, text.as_bytes());
            assert_eq!(parse(text.as_bytes()).unwrap().security, None);
        }
    }

    #[test]
    fn urls() {
        let table = [
            ("ftps://host", "-|-|host|-|/"),
            ("ftps://host/", "-|-|host|-|/"),
            ("FTPES://me@host:2121/a%20b", "me|-|host|2121|/a b"),
            ("ftps://me:pa%3Ass@host/x:/y@z", "me|pa:ss|host|-|/x:/y@z"),
            ("ftps://me:a:b@c@host/", "me|a:b@c|host|-|/"),
            ("ftps://CORP%5Cme@[::1]:990/", r"CORP\me|-|::1|990|/"),
            ("ftpes://host//etc/./x", "-|-|host|-|/etc/x"),
            ("ftpes://host/a?b#c;type=i", "-|-|host|-|/a?b#c;type=i"),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text), expected, "{text}");
        }
        let security = |text: &str| parse(text.as_bytes()).unwrap().security;
        assert_eq!(security("ftps://h"), Some(Security::Implicit));
        assert_eq!(security("ftpes://h"), Some(Security::Explicit));
    }

    #[test]
    fn labels_hide_passwords() {
        let label = |text: &str| String::from_utf8(parse(text.as_bytes()).unwrap().label).unwrap();
        assert_eq!(label("ftps://me:secret@host/x"), "ftps://me@host/x");
        assert_eq!(label("ftpes://me:@host:21"), "ftpes://me@host:21");
        assert_eq!(label("ftps://me@host/x"), "ftps://me@host/x");
    }

    #[test]
    fn refusals_say_why() {
        let table = [
            ("", "the source must be"),
            ("host", "the source must be"),
            ("/dev/sda1", "the source must be"),
            ("host:relative", "the path must be absolute"),
            ("host:2121/path", "the path must be absolute"),
            ("host:2121:/path", "the path must be absolute"),
            ("ftp://host/", "plain FTP is never spoken"),
            ("::1:/x", "an IPv6 address stands in brackets"),
            ("[::1:/x", "`[::1` is no host"),
            ("[host]:/x", "`[host]` is no host"),
            (":/x", "`` is no host"),
            ("-oProxy:/x", "`-oProxy` is no host"),
            ("a b:/x", "`a b` is no host"),
            ("@host:/x", "the user name is empty"),
            ("ftps:///x", "`` is no host"),
            ("ftps://host:0/", "`0` is no port"),
            ("ftps://host:+1/", "`+1` is no port"),
            ("ftps://host:/", "`` is no port"),
            ("ftps://:secret@host/", "the user name is empty"),
            ("ftps://u%0d%0aDELE%20x@host/", "FTP cannot carry"),
            ("ftps://u:a%00@host/", "FTP cannot carry"),
            ("ftps://host/a%0Ab", "the path: FTP cannot carry"),
            ("host:/a/../b", "the path: not a single"),
            ("smb://host/x", "the source must be"),
        ];
        for (text, expected) in table {
            let refusal = shown(text);
            assert!(refusal.starts_with(expected), "{text}: {refusal}");
            assert!(!refusal.contains("secret"), "{text}: {refusal}");
        }
    }

    proptest! {
        #[test]
        fn a_label_means_the_same_source(text in prop::collection::vec(
            prop::sample::select(b"aftpes1:/@[]%2F.0\\ \xc3\xa4".to_vec()), 0..40),
            url in any::<bool>()) {
            let text = if url { [b"ftps://".to_vec(), text].concat() } else { text };
            if let Ok(source) = parse(&text) {
                let again = parse(&source.label).unwrap();
                prop_assert_eq!(again.password, None);
                prop_assert_eq!((again.host, again.port), (source.host, source.port));
                prop_assert_eq!((again.user, again.path), (source.user, source.path));
                prop_assert_eq!(again.label, source.label);
            }
        }

        #[test]
        fn encoded_logins_come_back(user in prop::collection::vec(14u8..=255, 1..12),
            password in prop::collection::vec(14u8..=255, 0..12)) {
            let encode = |bytes: &[u8]| bytes.iter().map(|b| format!("%{b:02X}")).collect::<String>();
            let url = format!("ftps://{}:{}@host/", encode(&user), encode(&password));
            let source = parse(url.as_bytes()).unwrap();
            prop_assert_eq!(source.user, Some(user));
            prop_assert_eq!(source.password, Some(Secret::new(password)));
        }
    }
}
