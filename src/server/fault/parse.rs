//! The text of fault rules (man ftpsfs, FAULT RULES): pure, and any text is a list of rules or a
//! one-line error.

use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use super::rule::{Direction, Event, Place, Rule, Unit, What, When};

/// Rules in the order in which they act.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Rules(pub Vec<Rule>);

/// Why a text is no list of rules: which one, and what is wrong with it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("rule {number} ({shown}): {wrong}")]
pub struct RuleError {
    /// From 1.
    pub number: usize,
    /// The rule's beginning.
    shown: String,
    wrong: String,
}

/// Of a wrong rule that much is shown.
const SHOWN: usize = 60;

#[derive(Clone, PartialEq, Debug)]
enum Token {
    Word(String),
    Text(Vec<u8>),
    Colon,
}

impl FromStr for Rules {
    type Err = RuleError;

    /// Rules stand on lines of their own or between `;`. What follows `#` is no rule.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let mut rules = Vec::new();
        for rule in separate(text) {
            let rule = rule.trim();
            if rule.is_empty() {
                continue;
            }
            let parsed = tokens(rule).and_then(|tokens| parse(&tokens));
            rules.push(parsed.map_err(|wrong| RuleError {
                number: rules.len() + 1,
                shown: one_line(rule, SHOWN),
                wrong: one_line(&wrong, usize::MAX),
            })?);
        }
        Ok(Self(rules))
    }
}

fn one_line(text: &str, most: usize) -> String {
    let shown = text.chars().take(most);
    shown
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Cuts at `;` and line ends that are not within quotes, and leaves comments out.
fn separate(text: &str) -> Vec<String> {
    let mut rules = vec![String::new()];
    let (mut quoted, mut escaped, mut comment) = (false, false, false);
    for c in text.chars() {
        if c == '\n' {
            (quoted, escaped, comment) = (false, false, false);
            rules.push(String::new());
            continue;
        }
        match c {
            _ if comment => continue,
            '#' if !quoted => {
                comment = true;
                continue;
            }
            ';' if !quoted => {
                rules.push(String::new());
                continue;
            }
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = quoted && c == '\\' && !escaped;
        if let Some(rule) = rules.last_mut() {
            rule.push(c);
        }
    }
    rules
}

fn tokens(rule: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = rule.chars().peekable();
    while let Some(&c) = chars.peek() {
        if c == '"' {
            chars.next();
            tokens.push(Token::Text(text(&mut chars)?));
        } else if c == ':' {
            chars.next();
            tokens.push(Token::Colon);
        } else if c.is_whitespace() {
            chars.next();
        } else {
            let mut word = String::new();
            while let Some(c) = chars.next_if(|&c| !c.is_whitespace() && c != '"' && c != ':') {
                word.push(c);
            }
            tokens.push(Token::Word(word));
        }
    }
    Ok(tokens)
}

/// The rest of a text in quotes.
fn text(chars: &mut impl Iterator<Item = char>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(c) = chars.next() {
        let c = match c {
            '"' => return Ok(bytes),
            '\\' => match chars.next() {
                Some('r') => '\r',
                Some('n') => '\n',
                Some('t') => '\t',
                Some('0') => '\0',
                Some(c @ ('"' | '\\')) => c,
                Some('x') => {
                    let digits: String = chars.take(2).collect();
                    let byte = u8::from_str_radix(&digits, 16);
                    let well = digits.len() == 2 && !digits.starts_with('+');
                    bytes.push(
                        byte.ok()
                            .filter(|_| well)
                            .ok_or("\\x needs two hexadecimal digits")?,
                    );
                    continue;
                }
                _ => return Err("a text knows \\r \\n \\t \\0 \\\" \\\\ and \\xHH only".to_owned()),
            },
            c => c,
        };
        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Err("a text has no closing quote".to_owned())
}

fn parse(tokens: &[Token]) -> Result<Rule, String> {
    let colon = tokens.iter().position(|token| *token == Token::Colon);
    let colon = colon.ok_or("it is WHEN: WHAT, and there is no colon")?;
    let mut when = Words(&tokens[..colon]);
    let mut what = Words(&tokens[colon + 1..]);
    let rule = Rule {
        when: parse_when(&mut when)?,
        what: parse_what(&mut what)?,
    };
    what.end()?;
    let name = rule.what.name();
    match rule.what.fits(&rule.when.event) {
        Ok(()) => Ok(rule),
        Err(events) => Err(format!("{name} is for {events}")),
    }
}

fn parse_when(words: &mut Words<'_>) -> Result<When, String> {
    let event = match words.word("an event")? {
        "connect" => Event::Connect,
        "command" => Event::Command(None),
        "reply" => match words.word("byte")? {
            "byte" => Event::Wire(Place::Reply, Unit::Byte),
            _ => return Err("reply is counted by byte".to_owned()),
        },
        place @ ("control" | "data") => {
            let direction = match words.word("sent or received")? {
                "sent" => Direction::Sent,
                "received" => Direction::Received,
                other => return Err(format!("sent or received, not {other}")),
            };
            let unit = match words.word("byte or record")? {
                "byte" => Unit::Byte,
                "record" => Unit::Record,
                other => return Err(format!("byte or record, not {other}")),
            };
            match place {
                "control" => Event::Wire(Place::Control(direction), unit),
                _ => Event::Wire(Place::Data(direction), unit),
            }
        }
        "SITE" => match words.peek() {
            Some(second) if is_verb(second) => {
                let verb = format!("SITE {second}");
                words.next();
                Event::Command(Some(verb))
            }
            _ => Event::Command(Some("SITE".to_owned())),
        },
        verb if is_verb(verb) => Event::Command(Some(verb.to_owned())),
        other => {
            let known = "connect, command, control, data, reply, or a verb in capitals";
            return Err(format!("no event {other}; there are {known}"));
        }
    };
    let mut when = When {
        event,
        first: 1,
        times: Some(1),
        each: false,
        connection: None,
        over: None,
        during: None,
    };
    if let Some(word) = words.peek()
        && word.starts_with(|c: char| c.is_ascii_digit())
    {
        when.first = ordinal(word)?;
        words.next();
    }
    while words.peek().is_some() {
        match words.word("a condition")? {
            "always" => when.times = None,
            "each" => when.each = true,
            "connection" => when.connection = Some(ordinal(words.word("a number")?)?),
            "over" => when.over = Some(number(words.word("a number")?)?),
            "in" => match (&when.event, words.word("a verb")?) {
                (Event::Wire(Place::Data(_), _), verb) if is_verb(verb) => {
                    when.during = Some(verb.to_owned());
                }
                (Event::Wire(Place::Data(_), _), other) => {
                    return Err(format!("{other} is no verb in capitals"));
                }
                _ => return Err("in VERB is for data".to_owned()),
            },
            word => match word.strip_prefix('x') {
                Some(times) => when.times = Some(ordinal(times)?),
                None => {
                    let known = "a number, xN, always, each, connection N, over N, in VERB";
                    return Err(format!("no condition {word}; there are {known}"));
                }
            },
        }
    }
    words.end()?;
    Ok(when)
}

fn parse_what(words: &mut Words<'_>) -> Result<What, String> {
    Ok(match words.word("what happens")? {
        "fin" => What::Fin,
        "rst" => What::Rst,
        "stall" => What::Stall(words.next().map(time).transpose()?),
        "drip" => What::Drip(time(words.word("a time")?)?),
        "send" => What::Send(words.text()?),
        "forged-close-notify" => What::ForgedCloseNotify,
        "reply" => What::Reply(words.text()?),
        "lie" => What::Lie(words.text()?),
        "mute" => What::Mute,
        "before" => What::Before(words.text()?),
        "after" => What::After(words.text()?),
        "split" => What::Split,
        "join" => What::Join,
        "endless-reply" => What::EndlessReply,
        "endless-line" => What::EndlessLine,
        "closed-port" => What::ClosedPort,
        "silent-port" => What::SilentPort,
        "address" => {
            let address = words.word("an IPv4 address")?;
            let parsed = address.parse::<Ipv4Addr>();
            What::Address(parsed.map_err(|_| format!("{address} is no IPv4 address"))?)
        }
        "no-resumption" => What::NoResumption(words.next().map(code).transpose()?),
        "cut" => What::Cut(ordinal(words.word("a byte's number")?)?),
        "no-close-notify" => What::NoCloseNotify,
        "line" => What::Line(words.text()?),
        "endless-listing" => What::EndlessListing,
        "endless-listing-line" => What::EndlessListingLine,
        "full" => {
            let byte = ordinal(words.word("a byte's number")?)?;
            match words.next().map_or(Ok(452), code)? {
                code @ (226 | 452 | 552) => What::Full(byte, code),
                _ => return Err("full answers 452, 552, or 226".to_owned()),
            }
        }
        "size" => What::Size(number(words.word("a difference, as +1")?)?),
        "ignore-rest" => What::IgnoreRest,
        "change" => What::Change,
        other => {
            return Err(format!(
                "nothing is called {other}; see FAULT RULES in ftpsfs(1)"
            ));
        }
    })
}

/// Tokens yet to be read.
struct Words<'a>(&'a [Token]);

impl<'a> Words<'a> {
    fn peek(&self) -> Option<&'a str> {
        match self.0.first() {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.peek()?;
        self.0 = &self.0[1..];
        Some(word)
    }

    fn word(&mut self, wanted: &str) -> Result<&'a str, String> {
        self.next().ok_or_else(|| format!("{wanted} is missing"))
    }

    fn text(&mut self) -> Result<Vec<u8>, String> {
        match self.0.split_first() {
            Some((Token::Text(text), rest)) => {
                self.0 = rest;
                Ok(text.clone())
            }
            _ => Err("a text in quotes is missing".to_owned()),
        }
    }

    fn end(&self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some(Token::Word(word)) => Err(format!("{word} is too much")),
            Some(Token::Text(_)) => Err("a text is too much".to_owned()),
            Some(Token::Colon) => Err("a second colon is too much".to_owned()),
        }
    }
}

fn is_verb(word: &str) -> bool {
    !word.is_empty() && word.len() <= 16 && word.bytes().all(|b| b.is_ascii_uppercase())
}

/// From 1.
fn ordinal(text: &str) -> Result<u64, String> {
    match number(text)? {
        0 => Err("numbers begin at 1".to_owned()),
        n => Ok(n),
    }
}

fn number<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse()
        .map_err(|_| format!("{text} is no number for this"))
}

fn code(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(code @ 200..=599) => Ok(code),
        _ => Err(format!("{text} is no reply code")),
    }
}

/// `500ms`, `5s`, `2m`.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let millis = unit.and_then(|unit| count.parse::<u64>().ok()?.checked_mul(unit));
    let millis = millis.ok_or_else(|| format!("{text} is no time, as 500ms, 5s or 2m"))?;
    Ok(Duration::from_millis(millis))
}
