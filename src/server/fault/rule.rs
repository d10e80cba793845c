//! A fault rule as a value: when it hits, and what happens then; and its text. Knows no server.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// One rule. [`fmt::Display`] gives text that parses to the same rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pub when: When,
    pub what: What,
}

/// Which events a rule counts, and which of them it hits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct When {
    pub event: Event,
    /// The first that is hit, from 1.
    pub first: u64,
    /// How many are hit from there on; `None` is all.
    pub times: Option<u64>,
    /// Each connection is counted by itself; else one count runs through all of them.
    pub each: bool,
    /// Only on the Nth control connection since the rule was set, and its data connections.
    pub connection: Option<u64>,
    /// Only on connections that came while that many others were open.
    pub over: Option<usize>,
    /// Only on data connections of this verb.
    pub during: Option<String>,
}

/// What is counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A control connection was accepted; its reply is the greeting.
    Connect,
    /// A command arrived: any, or those with this verb ("STOR", "SITE CHMOD").
    Command(Option<String>),
    Wire(Place, Unit),
}

/// Where bytes pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Replies as they are before TLS wraps them.
    Reply,
    Control(Direction),
    Data(Direction),
}

/// As the server sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Sent,
    Received,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Byte,
    /// A TLS record, those of the handshake included.
    Record,
}

/// What happens. Byte numbers are from 1: the first that is hit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    // To the connection, beneath TLS.
    Fin,
    Rst,
    /// Nothing more for that long, or for good.
    Stall(Option<Duration>),
    /// A byte at a time, that long apart.
    Drip(Duration),
    /// These bytes in between, in the clear.
    Send(Vec<u8>),
    /// A close_notify in the clear, as one who sits on the wire would make it, and FIN.
    ForgedCloseNotify,
    // To replies. Texts are without the last CRLF.
    /// This reply; the command is not carried out.
    Reply(Vec<u8>),
    /// The command is carried out, and answered so.
    Lie(Vec<u8>),
    /// The command is carried out, and not answered.
    Mute,
    Before(Vec<u8>),
    /// In the same write as the last reply.
    After(Vec<u8>),
    /// Each byte in a record of its own.
    Split,
    /// Held back until the next reply, or until the server waits for a command.
    Join,
    /// Line after line, without end.
    EndlessReply,
    /// One line without end.
    EndlessLine,
    // To transfers and data ports.
    /// The port that is named refuses connections.
    ClosedPort,
    /// The port that is named answers nothing.
    SilentPort,
    /// PASV names this address.
    Address(Ipv4Addr),
    /// The data connection does not resume, and with a code is refused for that.
    NoResumption(Option<u16>),
    /// The data ends before this byte, as if it were complete.
    Cut(u64),
    NoCloseNotify,
    /// The listing has this line too.
    Line(Vec<u8>),
    EndlessListing,
    EndlessListingLine,
    /// The disk has no room for this byte of the upload; 226 keeps a short file and says so.
    Full(u64, u16),
    // To files.
    /// SIZE is off by that much.
    Size(i64),
    IgnoreRest,
    /// The file's bytes are inverted before it is sent.
    Change,
}

/// Verbs whose data goes to the client, and those that list.
const SENDING: [&str; 4] = ["RETR", "LIST", "NLST", "MLSD"];
const LISTING: [&str; 3] = ["LIST", "NLST", "MLSD"];
const STORING: [&str; 2] = ["STOR", "APPE"];
const TRANSFERS: [&str; 6] = ["RETR", "LIST", "NLST", "MLSD", "STOR", "APPE"];
const CLOSING: [&str; 9] = [
    "RETR", "LIST", "NLST", "MLSD", "STOR", "APPE", "QUIT", "REIN", "CCC",
];

impl What {
    /// Whether it can happen at such an event, else where it can.
    pub(super) fn fits(&self, event: &Event) -> Result<(), String> {
        let verbs: &[&str] = match self {
            Self::Fin | Self::Rst | Self::Stall(_) | Self::Drip(_) | Self::Send(_) => return Ok(()),
            Self::ForgedCloseNotify => return Ok(()),
            Self::Reply(_) | Self::Lie(_) | Self::Mute | Self::Before(_) | Self::After(_) => &[],
            Self::Split | Self::Join | Self::EndlessReply | Self::EndlessLine => &[],
            Self::ClosedPort | Self::SilentPort => &["PASV", "EPSV"],
            Self::Address(_) => &["PASV"],
            Self::NoResumption(_) => &TRANSFERS,
            Self::Cut(_) => &SENDING,
            Self::NoCloseNotify => &CLOSING,
            Self::Line(_) | Self::EndlessListing | Self::EndlessListingLine => &LISTING,
            Self::Full(..) => &STORING,
            Self::Size(_) => &["SIZE"],
            Self::IgnoreRest => &["REST"],
            Self::Change => &["RETR"],
        };
        match event {
            Event::Wire(..) if verbs.is_empty() => Err("a command or connect".to_owned()),
            _ if verbs.is_empty() => Ok(()),
            Event::Command(Some(verb)) if verbs.contains(&verb.as_str()) => Ok(()),
            _ => Err(verbs.join(", ")),
        }
    }

    /// The word that names it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Rst => "rst",
            Self::Stall(_) => "stall",
            Self::Drip(_) => "drip",
            Self::Send(_) => "send",
            Self::ForgedCloseNotify => "forged-close-notify",
            Self::Reply(_) => "reply",
            Self::Lie(_) => "lie",
            Self::Mute => "mute",
            Self::Before(_) => "before",
            Self::After(_) => "after",
            Self::Split => "split",
            Self::Join => "join",
            Self::EndlessReply => "endless-reply",
            Self::EndlessLine => "endless-line",
            Self::ClosedPort => "closed-port",
            Self::SilentPort => "silent-port",
            Self::Address(_) => "address",
            Self::NoResumption(_) => "no-resumption",
            Self::Cut(_) => "cut",
            Self::NoCloseNotify => "no-close-notify",
            Self::Line(_) => "line",
            Self::EndlessListing => "endless-listing",
            Self::EndlessListingLine => "endless-listing-line",
            Self::Full(..) => "full",
            Self::Size(_) => "size",
            Self::IgnoreRest => "ignore-rest",
            Self::Change => "change",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.when, self.what)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.event {
            Event::Connect => f.write_str("connect")?,
            Event::Command(None) => f.write_str("command")?,
            Event::Command(Some(verb)) => f.write_str(verb)?,
            Event::Wire(place, unit) => {
                let place = match place {
                    Place::Reply => "reply",
                    Place::Control(Direction::Sent) => "control sent",
                    Place::Control(Direction::Received) => "control received",
                    Place::Data(Direction::Sent) => "data sent",
                    Place::Data(Direction::Received) => "data received",
                };
                let unit = match unit {
                    Unit::Byte => "byte",
                    Unit::Record => "record",
                };
                write!(f, "{place} {unit}")?;
            }
        }
        if self.first != 1 {
            write!(f, " {}", self.first)?;
        }
        match self.times {
            Some(1) => {}
            Some(times) => write!(f, " x{times}")?,
            None => f.write_str(" always")?,
        }
        if self.each {
            f.write_str(" each")?;
        }
        if let Some(connection) = self.connection {
            write!(f, " connection {connection}")?;
        }
        if let Some(over) = self.over {
            write!(f, " over {over}")?;
        }
        if let Some(verb) = &self.during {
            write!(f, " in {verb}")?;
        }
        Ok(())
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Stall(Some(time)) | Self::Drip(time) => write!(f, " {}ms", time.as_millis()),
            Self::Send(text)
            | Self::Reply(text)
            | Self::Lie(text)
            | Self::Before(text)
            | Self::After(text)
            | Self::Line(text) => write!(f, " {}", quoted(text)),
            Self::Address(address) => write!(f, " {address}"),
            Self::NoResumption(Some(code)) => write!(f, " {code}"),
            Self::Cut(byte) => write!(f, " {byte}"),
            Self::Full(byte, code) => write!(f, " {byte} {code}"),
            Self::Size(by) => write!(f, " {by:+}"),
            _ => Ok(()),
        }
    }
}

fn quoted(text: &[u8]) -> String {
    let escape = |&b: &u8| match b {
        b'\r' => "\\r".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'"' | b'\\' => format!("\\{}", char::from(b)),
        b' '..=b'~' => char::from(b).to_string(),
        _ => format!("\\x{b:02x}"),
    };
    format!("\"{}\"", text.iter().map(escape).collect::<String>())
}
