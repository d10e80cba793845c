use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::SystemTime;

use proptest::prelude::*;

use super::super::parse_time;
use super::*;

fn path(bytes: &[u8]) -> Pathname {
    Pathname::new(bytes).expect("a pathname")
}

fn time(text: &str) -> SystemTime {
    parse_time(text.as_bytes()).expect("a time")
}

/// Each line is what the command encodes to.
#[test]
fn lines_both_ways() {
    let x = || path(b"/x");
    let at = || time("20240102030405");
    for (line, command) in [
        ("USER me", Command::User(b"me".to_vec())),
        ("PASS  a b ", Command::Pass(Secret::new(" a b "))),
        ("PASS ", Command::Pass(Secret::new(""))),
        ("ACCT sales", Command::Acct(Secret::new("sales"))),
        ("AUTH TLS", Command::Auth(AuthMechanism::Tls)),
        ("AUTH SSL", Command::Auth(AuthMechanism::Ssl)),
        (
            "AUTH GSSAPI",
            Command::Auth(AuthMechanism::Other("GSSAPI".into())),
        ),
        ("PBSZ 0", Command::Pbsz(0)),
        ("PROT P", Command::Prot(Protection::Private)),
        ("PROT C", Command::Prot(Protection::Clear)),
        ("PROT X", Command::ProtUnknown("X".into())),
        ("CCC", Command::Ccc),
        ("REIN", Command::Rein),
        ("FEAT", Command::Feat),
        ("ALLO 5000000000", Command::Allo(5_000_000_000)),
        (
            "OPTS MLST type;size;",
            Command::Opts("MLST type;size;".into()),
        ),
        ("LANG", Command::Lang(None)),
        ("LANG EN-us", Command::Lang(Some("EN-us".into()))),
        ("PRET RETR /a b", Command::Pret(b"RETR /a b".to_vec())),
        ("HOST ftp.example", Command::Host("ftp.example".into())),
        ("HOST [2001:db8::1]", Command::Host("2001:db8::1".into())),
        ("TYPE I", Command::Type { image: true }),
        ("TYPE A", Command::Type { image: false }),
        ("MODE S", Command::Mode(b'S')),
        ("EPSV", Command::Epsv),
        ("EPSV ALL", Command::EpsvAll),
        ("EPSV 2", Command::EpsvFamily(2)),
        (
            "PORT 127,0,0,1,4,1",
            Command::Port("127.0.0.1:1025".parse().expect("an address")),
        ),
        (
            "EPRT |1|127.0.0.1|1025|",
            Command::Eprt("127.0.0.1:1025".parse().expect("one")),
        ),
        (
            "EPRT |2|::1|1025|",
            Command::Eprt("[::1]:1025".parse().expect("an address")),
        ),
        ("REST 5000000000", Command::Rest(5_000_000_000)),
        ("RETR /x", Command::Retr(x())),
        (
            "RETR  leading, double  and trailing ",
            Command::Retr(path(b" leading, double  and trailing ")),
        ),
        ("CWD ..", Command::Cwd(path(b".."))),
        (
            "LIST",
            Command::List {
                all: false,
                path: None,
            },
        ),
        (
            "LIST -a",
            Command::List {
                all: true,
                path: None,
            },
        ),
        (
            "LIST -a /x",
            Command::List {
                all: true,
                path: Some(x()),
            },
        ),
        (
            "LIST /-x",
            Command::List {
                all: false,
                path: Some(path(b"/-x")),
            },
        ),
        (
            "LIST -a  x",
            Command::List {
                all: true,
                path: Some(path(b" x")),
            },
        ),
        (
            "STAT -- -x",
            Command::Stat {
                all: false,
                path: Some(path(b"-x")),
            },
        ),
        (
            "STAT -a -- -x y",
            Command::Stat {
                all: true,
                path: Some(path(b"-x y")),
            },
        ),
        ("NLST /x", Command::Nlst(Some(x()))),
        ("MLSD", Command::Mlsd(None)),
        ("MLST /x", Command::Mlst(Some(x()))),
        ("MDTM /x", Command::Mdtm(x())),
        (
            "MDTM 20240102030405 /x",
            Command::MdtmSet {
                time: at(),
                path: x(),
            },
        ),
        (
            "MFMT 20240102030405 /x",
            Command::Mfmt {
                time: at(),
                path: x(),
            },
        ),
        (
            "MFF modify=20240102030405;UNIX.mode=644; /x",
            Command::Mff {
                facts: "modify=20240102030405;UNIX.mode=644;".into(),
                path: x(),
            },
        ),
        ("AVBL", Command::Avbl(None)),
        (
            "SITE CHMOD 644 /x",
            Command::Site(Site::Chmod {
                mode: 0o644,
                path: x(),
            }),
        ),
        (
            "SITE CHMOD 4755 /a b",
            Command::Site(Site::Chmod {
                mode: 0o4755,
                path: path(b"/a b"),
            }),
        ),
        (
            "SITE CHMOD 000 /x",
            Command::Site(Site::Chmod { mode: 0, path: x() }),
        ),
        (
            "SITE UTIME /a b 20240102030405 20240102030405 20240102030405 UTC",
            Command::Site(Site::Utime {
                time: at(),
                path: path(b"/a b"),
            }),
        ),
        (
            "SITE SYMLINK ../t /x",
            Command::Site(Site::Symlink {
                target: path(b"../t"),
                link: x(),
            }),
        ),
        (
            r#"SITE SYMLINK "a \"b\" \\" "/x y""#,
            Command::Site(Site::Symlink {
                target: path(br#"a "b" \"#),
                link: path(b"/x y"),
            }),
        ),
        ("SITE CPFR /x", Command::Site(Site::Cpfr(x()))),
        ("SITE CPTO /x", Command::Site(Site::Cpto(x()))),
        (
            "SITE HELP me",
            Command::Site(Site::Other(b"HELP me".to_vec())),
        ),
    ] {
        let wire = command.encode();
        assert_eq!(
            wire.escape_ascii().to_string(),
            format!("{}\\r\\n", line.as_bytes().escape_ascii())
        );
        assert_eq!(Command::decode(line.as_bytes()), Ok(command), "{line}");
        let verb = Command::decode(line.as_bytes()).map(|command| command.verb());
        assert!(line.starts_with(verb.expect("a command")), "{line}");
    }
}

#[test]
fn lines_of_other_clients() {
    for (line, command) in [
        ("user me", Command::User(b"me".to_vec())),
        ("PASS", Command::Pass(Secret::new(""))),
        ("auth tls", Command::Auth(AuthMechanism::Tls)),
        ("AUTH TLS-C", Command::Auth(AuthMechanism::Tls)),
        ("AUTH ssl", Command::Auth(AuthMechanism::Ssl)),
        ("PROT p", Command::Prot(Protection::Private)),
        ("NOOP ", Command::Noop),
        ("noop still here", Command::Noop),
        ("PWD ", Command::Pwd),
        ("XPWD", Command::Pwd),
        ("XMKD a", Command::Mkd(path(b"a"))),
        ("TYPE L 8", Command::Type { image: true }),
        ("TYPE a n", Command::Type { image: false }),
        ("stru f", Command::Stru(b'F')),
        ("HOST ::1", Command::Host("::1".into())),
        (
            "LIST -la",
            Command::List {
                all: true,
                path: None,
            },
        ),
        (
            "LIST -l",
            Command::List {
                all: false,
                path: None,
            },
        ),
        (
            "LIST -l -a a b",
            Command::List {
                all: true,
                path: Some(path(b"a b")),
            },
        ),
        (
            "LIST -al /x",
            Command::List {
                all: true,
                path: Some(path(b"/x")),
            },
        ),
        (
            "LIST -",
            Command::List {
                all: false,
                path: Some(path(b"-")),
            },
        ),
        (
            "LIST - x",
            Command::List {
                all: false,
                path: Some(path(b"- x")),
            },
        ),
        (
            "LIST ",
            Command::List {
                all: false,
                path: None,
            },
        ),
        ("NLST -la x", Command::Nlst(Some(path(b"x")))),
        ("EPSV all", Command::EpsvAll),
        (
            "EPRT !1!127.0.0.1!1025!",
            Command::Eprt("127.0.0.1:1025".parse().expect("one")),
        ),
        ("ALLO 10 R 5", Command::Allo(10)),
        (
            "MDTM 20241302030405 x",
            Command::Mdtm(path(b"20241302030405 x")),
        ),
        (
            "MDTM 20240102030405",
            Command::Mdtm(path(b"20240102030405")),
        ),
        (
            "SITE utime 202401020304 /x",
            Command::Site(Site::Utime {
                time: time("20240102030400"),
                path: path(b"/x"),
            }),
        ),
        (
            "SITE SYMLINK a b c",
            Command::Site(Site::Symlink {
                target: path(b"a"),
                link: path(b"b c"),
            }),
        ),
        (
            "SITE chmod 0644 x",
            Command::Site(Site::Chmod {
                mode: 0o644,
                path: path(b"x"),
            }),
        ),
    ] {
        assert_eq!(Command::decode(line.as_bytes()), Ok(command), "{line}");
    }
    // A user's Interrupt and Synch (RFC 959 4.1.3), and the urgent byte apart from them.
    for line in [
        &b"\xff\xf4\xff\xf2ABOR"[..],
        b"\xff\xf4\xf2ABOR",
        b"\xf2abor",
        b"\xff\xfb\x01ABOR",
    ] {
        assert_eq!(Command::decode(line), Ok(Command::Abor));
    }
}

#[test]
fn bad_arguments() {
    for (line, verb) in [
        ("USER", "USER"),
        ("USER ", "USER"),
        ("AUTH", "AUTH"),
        ("PBSZ", "PBSZ"),
        ("PBSZ x", "PBSZ"),
        ("PBSZ -1", "PBSZ"),
        ("PBSZ +1", "PBSZ"),
        ("PBSZ 4294967296", "PBSZ"),
        ("PROT", "PROT"),
        ("QUIT now", "QUIT"),
        ("TYPE E", "TYPE"),
        ("TYPE", "TYPE"),
        ("MODE SS", "MODE"),
        ("HOST", "HOST"),
        ("HOST a b", "HOST"),
        ("HOST [::1", "HOST"),
        ("HOST [a]", "HOST"),
        ("PORT 1,2,3,4,5", "PORT"),
        ("PORT 1,2,3,4,5,6,7", "PORT"),
        ("PORT 1,2,3,256,5,6", "PORT"),
        ("EPRT |1|::1|1025|", "EPRT"),
        ("EPSV x", "EPSV"),
        ("REST", "REST"),
        ("REST 1x", "REST"),
        ("REST 18446744073709551616", "REST"),
        ("RETR", "RETR"),
        ("RETR ", "RETR"),
        ("xcwd", "CWD"),
        ("RETR a\0b", "RETR"),
        ("PASS a\rb", "PASS"),
        ("SITE \0SYMLINK a b", "SITE"),
        ("MFMT x /x", "MFMT"),
        ("MFMT 20240102030405", "MFMT"),
        ("MFMT 20240102030405 ", "MFMT"),
        ("MFF modify=1;", "MFF"),
        ("SITE", "SITE"),
        ("SITE CHMOD", "SITE CHMOD"),
        ("SITE CHMOD 888 x", "SITE CHMOD"),
        ("SITE CHMOD 10000 x", "SITE CHMOD"),
        ("SITE CHMOD 644", "SITE CHMOD"),
        ("SITE UTIME x", "SITE UTIME"),
        ("SITE SYMLINK x", "SITE SYMLINK"),
        ("SITE SYMLINK \"x y", "SITE SYMLINK"),
        ("SITE CPFR", "SITE CPFR"),
    ] {
        assert_eq!(
            Command::decode(line.as_bytes()),
            Err(CommandError::Arguments(verb)),
            "{line}"
        );
    }
}

#[test]
fn unknown_commands() {
    for line in ["", " ", "USERme", "PWDX", "GET / HTTP/1.1", "XRETR x"] {
        let verb = line.split(' ').next().unwrap_or_default();
        let expected = CommandError::Unknown(verb.to_owned());
        assert_eq!(Command::decode(line.as_bytes()), Err(expected), "{line}");
    }
    // What goes into a log or a reply is short and printable.
    match Command::decode(&[b"\x16\x03\x01".as_slice(), &[0xff; 5000]].concat()) {
        Err(CommandError::Unknown(verb)) => assert!(verb.is_ascii() && verb.len() <= 128, "{verb}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn logs_show_no_secrets() {
    for (command, shown) in [
        (Command::Pass(Secret::new("hush")), "PASS ****"),
        (Command::Acct(Secret::new("hush")), "ACCT ****"),
        (Command::Noop, "NOOP"),
        (Command::Retr(path(b"/a\x1b\xff b")), "RETR /a\\x1b\\xff b"),
    ] {
        assert_eq!(command.to_string(), shown);
        assert!(!format!("{command:?}").contains("hush"));
    }
}

#[test]
fn no_argument_can_smuggle_a_second_command_in() {
    for command in [
        Command::User(b"me\r\nDELE x".to_vec()),
        Command::Pass(Secret::new("p\nDELE x")),
        Command::Opts("UTF8\r\nDELE x".into()),
        Command::Host("h\r\nDELE x".into()),
        Command::Site(Site::Other(b"a\r\n\0DELE x".to_vec())),
    ] {
        let wire = command.encode();
        assert_eq!(
            wire.iter()
                .filter(|b| matches!(b, b'\r' | b'\n' | 0))
                .count(),
            2
        );
        assert!(wire.ends_with(b"\r\n"));
    }
}

#[test]
fn pathnames() {
    for bad in [&b""[..], b"a\0", b"a\rb", b"a\nb"] {
        assert_eq!(Pathname::new(bad), None);
    }
}

fn any_path() -> impl Strategy<Value = Pathname> {
    let bytes = prop::collection::vec(any::<u8>(), 1..30);
    let nasty = "[-/ \"\\\\a0]{1,8}".prop_map(String::into_bytes);
    prop_oneof![bytes, nasty].prop_filter_map("a pathname", |bytes| Pathname::new(&bytes))
}

fn any_command() -> impl Strategy<Value = Command> {
    let p = any_path;
    let o = || prop::option::of(any_path());
    let text = || "[!-~]([ -~]{0,20}[!-~])?";
    let time = || {
        (-11_644_473_600i64..253_402_300_800).prop_map(|seconds| {
            let distance = std::time::Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 {
                SystemTime::UNIX_EPOCH - distance
            } else {
                SystemTime::UNIX_EPOCH + distance
            }
        })
    };
    let v4 =
        || (any::<[u8; 4]>(), 1u16..).prop_map(|(ip, port)| SocketAddrV4::new(ip.into(), port));
    let v6 =
        (any::<[u8; 16]>(), 1u16..).prop_map(|(ip, port)| SocketAddrV6::new(ip.into(), port, 0, 0));
    let bytes = || {
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|mut bytes| {
            bytes.retain(|b| !matches!(b, 0 | b'\r' | b'\n'));
            bytes
        })
    };
    let plain = prop::sample::select(vec![
        Command::Ccc,
        Command::Rein,
        Command::Quit,
        Command::Noop,
        Command::Abor,
        Command::Feat,
        Command::Syst,
        Command::Help,
        Command::Pwd,
        Command::Cdup,
        Command::Pasv,
        Command::Epsv,
        Command::EpsvAll,
        Command::Stou,
        Command::Lang(None),
        Command::Auth(AuthMechanism::Tls),
        Command::Auth(AuthMechanism::Ssl),
        Command::Prot(Protection::Clear),
        Command::Prot(Protection::Safe),
        Command::Prot(Protection::Confidential),
        Command::Prot(Protection::Private),
        Command::Type { image: true },
        Command::Type { image: false },
    ]);
    let words = prop_oneof![
        bytes().prop_filter_map("a name", |b| (!b.is_empty()).then_some(Command::User(b))),
        bytes().prop_map(|b| Command::Pass(Secret::new(b))),
        bytes().prop_map(|b| Command::Acct(Secret::new(b))),
        "[G-K]{1,8}".prop_map(|name| Command::Auth(AuthMechanism::Other(name))),
        "[XYZ]{1,3}".prop_map(Command::ProtUnknown),
        any::<u32>().prop_map(Command::Pbsz),
        any::<u64>().prop_map(Command::Allo),
        any::<u64>().prop_map(Command::Rest),
        any::<u8>().prop_map(Command::EpsvFamily),
        text().prop_map(Command::Opts),
        text().prop_map(Command::Clnt),
        p().prop_map(|path| Command::Retr(path).announced()),
        text().prop_map(|tag| Command::Lang(Some(tag))),
        "[a-zA-Z0-9.-]{1,20}".prop_map(Command::Host),
        any::<[u8; 16]>().prop_map(|ip| Command::Host(std::net::Ipv6Addr::from(ip).to_string())),
        (b'A'..=b'Z').prop_map(Command::Mode),
        (b'A'..=b'Z').prop_map(Command::Stru),
        v4().prop_map(Command::Port),
        v4().prop_map(|address| Command::Eprt(SocketAddr::V4(address))),
        v6.prop_map(|address| Command::Eprt(SocketAddr::V6(address))),
    ];
    let paths = prop_oneof![
        (0usize..10, p()).prop_map(|(which, path)| [
            Command::Cwd,
            Command::Retr,
            Command::Stor,
            Command::Appe,
            Command::Size,
            Command::Rnfr,
            Command::Rnto,
            Command::Dele,
            Command::Mkd,
            Command::Rmd,
        ][which](path)),
        (0usize..4, o()).prop_map(|(which, path)| {
            [Command::Nlst, Command::Mlsd, Command::Mlst, Command::Avbl][which](path)
        }),
        (any::<bool>(), o()).prop_map(|(all, path)| Command::List { all, path }),
        (any::<bool>(), o()).prop_map(|(all, path)| Command::Stat { all, path }),
        // A file whose name begins with a time and a space cannot be asked for by a relative path.
        p().prop_filter("no time", |path| parse_time(
            path.as_bytes()
                .split(|&b| b == b' ')
                .next()
                .unwrap_or_default()
        )
        .is_none())
            .prop_map(Command::Mdtm),
        (time(), p()).prop_map(|(time, path)| Command::MdtmSet { time, path }),
        (time(), p()).prop_map(|(time, path)| Command::Mfmt { time, path }),
        ("[!-~]{1,20}", p()).prop_map(|(facts, path)| Command::Mff { facts, path }),
    ];
    let site = prop_oneof![
        (0u16..=0o7777, p()).prop_map(|(mode, path)| Site::Chmod { mode, path }),
        (time(), p()).prop_map(|(time, path)| Site::Utime { time, path }),
        (p(), p()).prop_map(|(target, link)| Site::Symlink { target, link }),
        p().prop_map(Site::Cpfr),
        p().prop_map(Site::Cpto),
        "[QX][ -~]{0,20}".prop_map(|line| Site::Other(line.into_bytes())),
    ];
    prop_oneof![plain, words, paths, site.prop_map(Command::Site)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn encode_and_decode_are_inverses(command in any_command()) {
        let wire = command.encode();
        let line = wire.strip_suffix(b"\r\n").expect("a line end");
        prop_assert!(!line.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')));
        prop_assert!(line.starts_with(command.verb().as_bytes()));
        prop_assert_eq!(Command::decode(line), Ok(command));
    }

    /// Whatever is understood is understood alike after a trip over the wire.
    #[test]
    fn arbitrary_lines(verb in "[A-Za-z]{3,4}|SITE [A-Z]{4,7}", rest: Vec<u8>) {
        for line in [[verb.as_bytes(), b" ", &rest].concat(), rest] {
            let Ok(first) = Command::decode(&line) else { continue };
            let wire = first.encode();
            let second = Command::decode(wire.strip_suffix(b"\r\n").expect("a line end"));
            prop_assert_eq!(second, Ok(first));
        }
    }
}
