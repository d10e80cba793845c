//! Lines as commands: the server's side. The inverse of encoding, and tolerant beyond it of what
//! other clients write.

use std::net::Ipv6Addr;
use std::str::FromStr;

use super::super::endpoint::{parse_eprt, parse_host_port};
use super::super::parse_time;
use super::{AuthMechanism, Command, CommandError, Pathname, Protection, Secret, Site};

const VERBS: [&str; 51] = [
    "USER", "PASS", "ACCT", "AUTH", "PBSZ", "PROT", "CCC", "REIN", "QUIT", "NOOP", "ABOR", "FEAT",
    "SYST", "HELP", "ALLO", "OPTS", "LANG", "HOST", "CLNT", "TYPE", "MODE", "STRU", "PWD", "CWD",
    "CDUP", "PASV", "EPSV", "PORT", "PRET", "EPRT", "REST", "RETR", "STOR", "APPE", "STOU", "LIST",
    "NLST", "MLSD", "MLST", "STAT", "SIZE", "MDTM", "MFMT", "MFF", "RNFR", "RNTO", "DELE", "MKD",
    "RMD", "AVBL", "SITE",
];

/// RFC 1123 4.1.3.1 asks for these.
const ALIASES: [(&str, &str); 5] = [
    ("XPWD", "PWD"),
    ("XCWD", "CWD"),
    ("XCUP", "CDUP"),
    ("XMKD", "MKD"),
    ("XRMD", "RMD"),
];

const SITE_VERBS: [&str; 5] = [
    "SITE CHMOD",
    "SITE UTIME",
    "SITE SYMLINK",
    "SITE CPFR",
    "SITE CPTO",
];

impl Command {
    /// Server side: a line without its line end. One space parts the verb from its argument;
    /// further ones, and those at the end, belong to a path.
    pub fn decode(line: &[u8]) -> Result<Self, CommandError> {
        let line = without_telnet_signals(line);
        let (word, argument) = match split_word(line) {
            (word, Some(argument)) => (word, argument),
            (word, None) => (word, &b""[..]),
        };
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let alias = ALIASES
            .iter()
            .find(|(name, _)| is(name))
            .map(|(_, verb)| *verb);
        let Some(verb) = alias.or_else(|| VERBS.into_iter().find(|verb| is(verb))) else {
            let shown = &word[..word.len().min(32)];
            return Err(CommandError::Unknown(shown.escape_ascii().to_string()));
        };
        if argument.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')) {
            return Err(CommandError::Arguments(verb));
        }
        if verb == "SITE" {
            return decode_site(argument).map(Self::Site);
        }
        decode_argument(verb, argument).ok_or(CommandError::Arguments(verb))
    }
}

fn decode_argument(verb: &str, argument: &[u8]) -> Option<Command> {
    let path = || Pathname::new(argument);
    Some(match verb {
        "USER" => Command::User(non_empty(argument)?.to_vec()),
        "PASS" => Command::Pass(Secret::new(argument)),
        "ACCT" => Command::Acct(Secret::new(argument)),
        "AUTH" => Command::Auth(mechanism(argument)?),
        "PBSZ" => Command::Pbsz(number(argument)?),
        "PROT" => protection(argument)?,
        "CCC" => bare(Command::Ccc, argument)?,
        "REIN" => bare(Command::Rein, argument)?,
        "QUIT" => bare(Command::Quit, argument)?,
        "NOOP" => Command::Noop,
        "ABOR" => bare(Command::Abor, argument)?,
        "FEAT" => bare(Command::Feat, argument)?,
        "SYST" => bare(Command::Syst, argument)?,
        "HELP" => Command::Help,
        // `ALLO size R record-size`
        "ALLO" => Command::Allo(number(split_word(argument.trim_ascii()).0)?),
        "OPTS" => Command::Opts(string(argument)?),
        "LANG" if argument.is_empty() => Command::Lang(None),
        "LANG" => Command::Lang(Some(string(argument)?)),
        "HOST" => Command::Host(host(argument)?),
        "CLNT" => Command::Clnt(string(argument)?),
        "PRET" => Command::Pret(non_empty(argument)?.to_vec()),
        "TYPE" => representation(argument)?,
        "MODE" => Command::Mode(letter(argument)?),
        "STRU" => Command::Stru(letter(argument)?),
        "PWD" => bare(Command::Pwd, argument)?,
        "CWD" => Command::Cwd(path()?),
        "CDUP" => bare(Command::Cdup, argument)?,
        "PASV" => bare(Command::Pasv, argument)?,
        "EPSV" if argument.trim_ascii().is_empty() => Command::Epsv,
        "EPSV" if argument.trim_ascii().eq_ignore_ascii_case(b"ALL") => Command::EpsvAll,
        "EPSV" => Command::EpsvFamily(number(argument)?),
        "PORT" => Command::Port(parse_host_port(argument.trim_ascii())?),
        "EPRT" => Command::Eprt(parse_eprt(argument.trim_ascii())?),
        "REST" => Command::Rest(number(argument)?),
        "RETR" => Command::Retr(path()?),
        "STOR" => Command::Stor(path()?),
        "APPE" => Command::Appe(path()?),
        "STOU" => bare(Command::Stou, argument)?,
        "LIST" => {
            let (all, path) = flags_and_path(argument)?;
            Command::List { all, path }
        }
        "NLST" => Command::Nlst(flags_and_path(argument)?.1),
        "MLSD" => Command::Mlsd(optional_path(argument)?),
        "MLST" => Command::Mlst(optional_path(argument)?),
        "STAT" => {
            let (all, path) = flags_and_path(argument)?;
            Command::Stat { all, path }
        }
        "SIZE" => Command::Size(path()?),
        "MDTM" => match time_and_path(argument) {
            Some((time, path)) => Command::MdtmSet { time, path },
            None => Command::Mdtm(path()?),
        },
        "MFMT" => {
            let (time, path) = time_and_path(argument)?;
            Command::Mfmt { time, path }
        }
        "MFF" => {
            let (facts, path) = split_word(argument);
            Command::Mff {
                facts: string(facts)?,
                path: Pathname::new(path?)?,
            }
        }
        "RNFR" => Command::Rnfr(path()?),
        "RNTO" => Command::Rnto(path()?),
        "DELE" => Command::Dele(path()?),
        "MKD" => Command::Mkd(path()?),
        "RMD" => Command::Rmd(path()?),
        "AVBL" => Command::Avbl(optional_path(argument)?),
        _ => return None,
    })
}

fn decode_site(argument: &[u8]) -> Result<Site, CommandError> {
    let (word, rest) = split_word(argument);
    if word.is_empty() {
        return Err(CommandError::Arguments("SITE"));
    }
    let known = SITE_VERBS
        .iter()
        .find(|verb| word.eq_ignore_ascii_case(&verb.as_bytes()[5..]));
    let Some(verb) = known else {
        return Ok(Site::Other(argument.to_vec()));
    };
    let site = rest.and_then(|rest| {
        Some(match *verb {
            "SITE CHMOD" => {
                let (mode, path) = split_word(rest);
                Site::Chmod {
                    mode: octal(mode)?,
                    path: Pathname::new(path?)?,
                }
            }
            "SITE UTIME" => utime(rest)?,
            "SITE SYMLINK" => {
                let (target, rest) = path_word(rest)?;
                let link = rest.strip_prefix(b" ")?;
                let link = match path_word(link)? {
                    (link, []) => link,
                    // Not quoted: spaces are its own.
                    _ => Pathname::new(link)?,
                };
                Site::Symlink { target, link }
            }
            "SITE CPFR" => Site::Cpfr(Pathname::new(rest)?),
            _ => Site::Cpto(Pathname::new(rest)?),
        })
    });
    site.ok_or(CommandError::Arguments(verb))
}

/// A user's Interrupt and the Synch after it may stand before ABOR (RFC 959 4.1.3): Telnet's IAC
/// with a command, of which the urgent byte DM may come alone.
fn without_telnet_signals(line: &[u8]) -> &[u8] {
    const DATA_MARK: u8 = 242;
    match line {
        [255, 240..=249, rest @ ..] | [DATA_MARK, rest @ ..] => without_telnet_signals(rest),
        [255, 251..=254, _, rest @ ..] => without_telnet_signals(rest),
        _ => line,
    }
}

/// What stands before the first space, and what after it.
fn split_word(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|&b| b == b' ') {
        Some(space) => (&bytes[..space], Some(&bytes[space + 1..])),
        None => (bytes, None),
    }
}

fn non_empty(argument: &[u8]) -> Option<&[u8]> {
    (!argument.is_empty()).then_some(argument)
}

fn bare(command: Command, argument: &[u8]) -> Option<Command> {
    argument.trim_ascii().is_empty().then_some(command)
}

fn string(argument: &[u8]) -> Option<String> {
    Some(std::str::from_utf8(non_empty(argument)?).ok()?.to_owned())
}

fn number<N: FromStr>(argument: &[u8]) -> Option<N> {
    let digits = argument.trim_ascii();
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn octal(digits: &[u8]) -> Option<u16> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mode = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?;
    (mode <= 0o7777).then_some(mode)
}

fn letter(argument: &[u8]) -> Option<u8> {
    match argument.trim_ascii() {
        [letter] if letter.is_ascii_alphabetic() => Some(letter.to_ascii_uppercase()),
        _ => None,
    }
}

/// TLS-C was TLS in the drafts of RFC 4217.
fn mechanism(argument: &[u8]) -> Option<AuthMechanism> {
    let name = string(argument.trim_ascii())?;
    Some(match name.to_ascii_uppercase().as_str() {
        "TLS" | "TLS-C" => AuthMechanism::Tls,
        "SSL" => AuthMechanism::Ssl,
        _ => AuthMechanism::Other(name),
    })
}

fn protection(argument: &[u8]) -> Option<Command> {
    let level = string(argument.trim_ascii())?;
    Some(Command::Prot(match level.to_ascii_uppercase().as_str() {
        "C" => Protection::Clear,
        "S" => Protection::Safe,
        "E" => Protection::Confidential,
        "P" => Protection::Private,
        _ => return Some(Command::ProtUnknown(level)),
    }))
}

/// `TYPE L 8` is TYPE I; A may say N(on-print).
fn representation(argument: &[u8]) -> Option<Command> {
    let image = match argument.trim_ascii().to_ascii_uppercase().as_slice() {
        b"I" | b"L 8" => true,
        b"A" | b"A N" => false,
        _ => return None,
    };
    Some(Command::Type { image })
}

/// A name, or an address; IPv6 in brackets (RFC 7151 3.1), which are taken off.
fn host(argument: &[u8]) -> Option<String> {
    let host = string(argument.trim_ascii())?;
    if let Some(bracketed) = host.strip_prefix('[') {
        let address: Ipv6Addr = bracketed.strip_suffix(']')?.parse().ok()?;
        return Some(address.to_string());
    }
    (!host.contains(|c: char| c.is_whitespace() || matches!(c, '[' | ']' | '/'))).then_some(host)
}

fn optional_path(argument: &[u8]) -> Option<Option<Pathname>> {
    if argument.is_empty() {
        Some(None)
    } else {
        Pathname::new(argument).map(Some)
    }
}

/// Flags as of `ls`, of which only `a` means something here; `--` ends them.
fn flags_and_path(argument: &[u8]) -> Option<(bool, Option<Pathname>)> {
    let mut all = false;
    let mut rest = argument;
    while let [b'-', _, ..] = rest {
        if rest.starts_with(b"- ") {
            break;
        }
        let (flags, after) = split_word(rest);
        rest = after.unwrap_or_default();
        if flags == b"--" {
            break;
        }
        all |= flags.contains(&b'a');
    }
    Some((all, optional_path(rest)?))
}

/// `YYYYMMDDHHMMSS path`.
fn time_and_path(argument: &[u8]) -> Option<(std::time::SystemTime, Pathname)> {
    let (time, path) = split_word(argument);
    Some((parse_time(time)?, Pathname::new(path?)?))
}

/// `path atime mtime ctime UTC`, or the older `mtime path`; the seconds may be missing.
fn utime(rest: &[u8]) -> Option<Site> {
    let time_of = |word: &[u8]| match word.len() {
        12 => parse_time(&[word, b"00"].concat()),
        _ => parse_time(word),
    };
    let long = || {
        let mut from_end = rest.rsplitn(5, |&b| b == b' ');
        let zone = from_end.next()?;
        let (_, time, _) = (from_end.next()?, from_end.next()?, from_end.next()?);
        let path = Pathname::new(from_end.next()?)?;
        let time = time_of(time)?;
        zone.eq_ignore_ascii_case(b"UTC")
            .then_some(Site::Utime { time, path })
    };
    let short = || {
        let (time, path) = split_word(rest);
        Some(Site::Utime {
            time: time_of(time)?,
            path: Pathname::new(path?)?,
        })
    };
    long().or_else(short)
}

/// One path of several, in quotes or up to the next space; and what follows.
fn path_word(bytes: &[u8]) -> Option<(Pathname, &[u8])> {
    let Some(quoted) = bytes.strip_prefix(b"\"") else {
        let end = bytes.iter().position(|&b| b == b' ').unwrap_or(bytes.len());
        return Some((Pathname::new(&bytes[..end])?, &bytes[end..]));
    };
    let mut word = Vec::new();
    let mut rest = quoted;
    loop {
        rest = match rest {
            [b'"', after @ ..] => return Some((Pathname::new(&word)?, after)),
            [b'\\', escaped, after @ ..] => {
                word.push(*escaped);
                after
            }
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
            [] => return None,
        };
    }
}
