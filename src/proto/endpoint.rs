//! Data connection endpoints in replies: PASV (RFC 959), EPSV (RFC 2428); and the arguments of
//! PORT and EPRT, which have the same forms. Whether an address is to be trusted is not known
//! here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::Reply;
use super::time::number;

/// Why a reply names no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server's reply names no usable data endpoint")]
pub struct EndpointError;

/// `227 Entering Passive Mode (h1,h2,h3,h4,p1,p2)`; parentheses are optional (RFC 1123
/// 4.1.2.6). Port 0 is refused.
pub fn parse_pasv(reply: &Reply) -> Result<SocketAddrV4, EndpointError> {
    if reply.code.as_u16() != 227 {
        return Err(EndpointError);
    }
    let in_line = |line: &Vec<u8>| {
        let mut starts = (0..line.len()).filter(|&at| at == 0 || !line[at - 1].is_ascii_digit());
        starts.find_map(|at| Some(leading_host_port(&line[at..])?.0))
    };
    reply.lines.iter().find_map(in_line).ok_or(EndpointError)
}

/// The port of `229 Entering Extended Passive Mode (|||port|)` (RFC 2428 3), any delimiter. Port 0
/// is refused; a protocol and an address, which must not be there, are ignored.
pub fn parse_epsv(reply: &Reply) -> Result<u16, EndpointError> {
    if reply.code.as_u16() != 229 {
        return Err(EndpointError);
    }
    let in_line = |line: &Vec<u8>| {
        let parenthesis = line.iter().position(|&b| b == b'(').map(|at| at + 1);
        let bar = line.iter().position(|&b| b == b'|');
        let mut starts = [parenthesis, bar].into_iter().flatten();
        starts.find_map(|at| {
            let ([_, _, port], _) = leading_fields(&line[at..])?;
            parse_port(port)
        })
    };
    reply.lines.iter().find_map(in_line).ok_or(EndpointError)
}

/// PORT's argument, `h1,h2,h3,h4,p1,p2`.
pub(super) fn parse_host_port(argument: &[u8]) -> Option<SocketAddrV4> {
    let (address, rest) = leading_host_port(argument)?;
    rest.is_empty().then_some(address)
}

/// The inverse of [`parse_host_port`].
pub(super) fn format_host_port(address: SocketAddrV4) -> String {
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    format!("{a},{b},{c},{d},{high},{low}")
}

/// EPRT's argument, `|1|192.0.2.1|1234|` or `|2|2001:db8::1|1234|`, any delimiter.
pub(super) fn parse_eprt(argument: &[u8]) -> Option<SocketAddr> {
    let ([family, address, port], rest) = leading_fields(argument)?;
    let address: IpAddr = std::str::from_utf8(address).ok()?.parse().ok()?;
    let agrees = match family {
        b"1" => address.is_ipv4(),
        b"2" => address.is_ipv6(),
        _ => false,
    };
    (agrees && rest.is_empty()).then_some(SocketAddr::new(address, parse_port(port)?))
}

/// The inverse of [`parse_eprt`]. Flow label and scope of IPv6 have no place in it.
pub(super) fn format_eprt(address: SocketAddr) -> String {
    let family = if address.is_ipv4() { 1 } else { 2 };
    format!("|{family}|{}|{}|", address.ip(), address.port())
}

/// Six numbers with commas between them, a space after a comma tolerated; and what follows.
fn leading_host_port(bytes: &[u8]) -> Option<(SocketAddrV4, &[u8])> {
    let mut rest = bytes;
    let mut numbers = [0u8; 6];
    for (index, slot) in numbers.iter_mut().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix(b",")?;
            rest = rest.strip_prefix(b" ").unwrap_or(rest);
        }
        let digits = rest
            .iter()
            .take(4)
            .take_while(|b| b.is_ascii_digit())
            .count();
        *slot = u8::try_from(number(&rest[..digits])?).ok()?;
        rest = &rest[digits..];
    }
    let [a, b, c, d, high, low] = numbers;
    let port = u16::from_be_bytes([high, low]);
    (port != 0).then_some((SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port), rest))
}

/// `dAdBdCd` as A, B, C, and what follows. The delimiter d is the first byte: printable ASCII
/// (RFC 2428 2), and nothing that a field may hold.
fn leading_fields(bytes: &[u8]) -> Option<([&[u8]; 3], &[u8])> {
    let (&delimiter, rest) = bytes.split_first()?;
    if !delimiter.is_ascii_graphic() || delimiter.is_ascii_alphanumeric() {
        return None;
    }
    let mut parts = rest.splitn(4, |&b| b == delimiter);
    let fields = [parts.next()?, parts.next()?, parts.next()?];
    Some((fields, parts.next()?))
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    u16::try_from(number(digits)?)
        .ok()
        .filter(|&port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pasv_replies() {
        for (text, address) in [
            ("Entering Passive Mode (127,0,0,1,4,1)", "127.0.0.1:1025"),
            ("Entering Passive Mode (127,0,0,1,4,1).", "127.0.0.1:1025"),
            ("Entering Passive Mode. 10,1,2,3,255,255", "10.1.2.3:65535"),
            ("Entering Passive Mode 10,1,2,3,0,21", "10.1.2.3:21"),
            ("=10,1,2,3,0,21", "10.1.2.3:21"),
            ("(10, 1, 2, 3, 0, 21)", "10.1.2.3:21"),
            ("data 42 at (0,0,0,0,1,0)", "0.0.0.0:256"),
            ("server 1,2 at 10,1,2,3,0,21", "10.1.2.3:21"),
        ] {
            let expected = address.parse().expect("an address");
            assert_eq!(parse_pasv(&Reply::new(227, text)), Ok(expected), "{text}");
        }
        for text in [
            "",
            "Entering Passive Mode",
            "(1,2,3,4,5)",
            "(256,2,3,4,5,6)",
            "(1,2,3,4,5,256)",
            "(1,2,3,4,0,0)",
            "(1,2,3,-4,5,6)",
            "(1.2.3.4,5,6)",
            "(1,2,3,4,5,1000)",
        ] {
            assert_eq!(
                parse_pasv(&Reply::new(227, text)),
                Err(EndpointError),
                "{text}"
            );
        }
        assert_eq!(
            parse_pasv(&Reply::new(500, "(127,0,0,1,4,1)")),
            Err(EndpointError)
        );
    }

    #[test]
    fn epsv_replies() {
        for (text, port) in [
            ("Entering Extended Passive Mode (|||6446|)", 6446),
            ("Entering Extended Passive Mode (|||6446|).", 6446),
            ("Entering Extended Passive Mode (!!!1!)", 1),
            ("Extended Passive Mode OK (###65535#)", 65535),
            (
                "Entering Extended Passive Mode (|1|192.0.2.1|40000|)",
                40000,
            ),
            ("Entering Extended Passive Mode |||6446|", 6446),
            ("OK (see below) (|||6446|)", 6446),
        ] {
            assert_eq!(parse_epsv(&Reply::new(229, text)), Ok(port), "{text}");
        }
        for text in [
            "",
            "(|||0|)",
            "(|||65536|)",
            "(|||12)",
            "(||12|)",
            "(|||x|)",
            "(111121)",
            "(    )",
        ] {
            assert_eq!(
                parse_epsv(&Reply::new(229, text)),
                Err(EndpointError),
                "{text}"
            );
        }
        assert_eq!(
            parse_epsv(&Reply::new(227, "(|||6446|)")),
            Err(EndpointError)
        );
    }

    #[test]
    fn eprt_arguments() {
        for (argument, address) in [
            ("|1|132.235.1.2|6275|", "132.235.1.2:6275"),
            (
                "|2|1080::8:800:200C:417A|5282|",
                "[1080::8:800:200C:417A]:5282",
            ),
            ("$2$::1$1$", "[::1]:1"),
        ] {
            let expected = address.parse().expect("an address");
            assert_eq!(
                parse_eprt(argument.as_bytes()),
                Some(expected),
                "{argument}"
            );
        }
        for argument in [
            "",
            "|",
            "|1|::1|80|",
            "|2|127.0.0.1|80|",
            "|3|127.0.0.1|80|",
            "|1|127.0.0.1|80",
            "|1|127.0.0.1|80|x",
            "|1|127.0.0.1|0|",
            "|1|localhost|80|",
        ] {
            assert_eq!(parse_eprt(argument.as_bytes()), None, "{argument}");
        }
    }

    proptest! {
        #[test]
        fn any_endpoint_comes_back(ip: [u8; 4], port in 1u16.., before in "[a-zA-Z (]{0,20}") {
            let address = SocketAddrV4::new(ip.into(), port);
            let text = format!("{before}{})", format_host_port(address));
            prop_assert_eq!(parse_pasv(&Reply::new(227, text)), Ok(address));
            prop_assert_eq!(parse_host_port(format_host_port(address).as_bytes()), Some(address));
        }

        #[test]
        fn any_port_comes_back(port in 1u16.., delimiter in "[!-/:-@\\[-`{-~]") {
            let d = &delimiter;
            let text = format!("Entering Extended Passive Mode ({d}{d}{d}{port}{d})");
            prop_assert_eq!(parse_epsv(&Reply::new(229, text)), Ok(port));
        }

        #[test]
        fn arbitrary_replies_never_panic(text: Vec<u8>) {
            let _ = parse_pasv(&Reply::new(227, &text));
            let _ = parse_epsv(&Reply::new(229, &text));
            let _ = parse_host_port(&text);
            let _ = parse_eprt(&text);
        }
    }
}
