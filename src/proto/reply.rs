//! Replies of the server (RFC 959 section 4.2): parsing with bounds, and the codes.

use std::fmt;

/// A three-digit reply code, 100 to 599 (RFC 959 section 4.2). Never collapsed into a class.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(u16);

impl Code {
    /// `None` outside 100..=599.
    pub const fn new(code: u16) -> Option<Self> {
        if code >= 100 && code <= 599 {
            Some(Self(code))
        } else {
            None
        }
    }
    pub const fn as_u16(self) -> u16 {
        self.0
    }
    /// 1yz: a further reply follows.
    pub const fn is_preliminary(self) -> bool {
        self.0 / 100 == 1
    }
    /// 2yz: done.
    pub const fn is_completion(self) -> bool {
        self.0 / 100 == 2
    }
    /// 3yz: accepted, the next command of the sequence is awaited.
    pub const fn is_intermediate(self) -> bool {
        self.0 / 100 == 3
    }
    /// 4yz: refused for now.
    pub const fn is_transient(self) -> bool {
        self.0 / 100 == 4
    }
    /// It is the data connection that failed, whatever was asked for.
    pub const fn is_of_data(self) -> bool {
        matches!(self.0, 425 | 426)
    }
    /// 5yz: refused.
    pub const fn is_permanent(self) -> bool {
        self.0 / 100 == 5
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.0)
    }
}
impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.0)
    }
}

/// One complete reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub code: Code,
    /// The text, a line each, without line ends. The first and the last line come without code
    /// and separator; lines between come as sent (a repeated `code-` prefix is removed).
    pub lines: Vec<Vec<u8>>,
}

impl Reply {
    /// A reply of one line, for a server. `code` must be within 100..=599.
    pub fn new(code: u16, text: impl AsRef<[u8]>) -> Self {
        debug_assert!(Code::new(code).is_some(), "{code} is no reply code");
        Self {
            code: Code(code.clamp(100, 599)),
            lines: vec![text.as_ref().to_vec()],
        }
    }

    /// The bytes on the wire, CRLF included (RFC 959 4.2 for several lines). A CR, LF or NUL in a
    /// line would end it early: `_` is sent in its place.
    pub fn encode(&self) -> Vec<u8> {
        let code = self.code.to_string();
        let mut wire = Vec::new();
        let last = self.lines.len().saturating_sub(1);
        for index in 0..=last {
            let line = self.lines.get(index).map_or(&b""[..], Vec::as_slice);
            if index == last {
                wire.extend_from_slice(code.as_bytes());
                wire.push(b' ');
            } else if index == 0 || begins_with_code(line) {
                // Between the first and the last line, "a line that begins with digits must be
                // padded" (RFC 959 4.2): the repeated prefix is what every client understands.
                wire.extend_from_slice(code.as_bytes());
                wire.push(b'-');
            }
            wire.extend(line.iter().map(|&b| {
                if matches!(b, 0 | b'\r' | b'\n') {
                    b'_'
                } else {
                    b
                }
            }));
            wire.extend_from_slice(b"\r\n");
        }
        wire
    }

    /// The text of the last line that is not blank, lossily as UTF-8: what a log shows of it.
    pub fn text(&self) -> String {
        let blank = |line: &&Vec<u8>| line.iter().all(u8::is_ascii_whitespace);
        let line = self.lines.iter().rev().find(|line| !blank(line));
        line.map(|line| String::from_utf8_lossy(line).into_owned())
            .unwrap_or_default()
    }
}

/// "550 No such file": for messages, control characters escaped, at most 300 characters. Of a refusal
/// all lines: Pure-FTPd gives its reason in the first.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 300;
        let text = match self.code.is_transient() || self.code.is_permanent() {
            true => {
                let lines = self.lines.iter().map(|line| line.trim_ascii());
                let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
                String::from_utf8_lossy(&lines.join(&b"; "[..])).into_owned()
            }
            false => self.text(),
        };
        let shown = text.trim().chars().flat_map(|c| {
            let (escaped, plain) = if c.is_control() {
                (Some(c.escape_default()), None)
            } else {
                (None, Some(c))
            };
            escaped.into_iter().flatten().chain(plain)
        });
        let shown: String = shown.take(MOST - 4).collect();
        write!(f, "{} {shown}", self.code)
    }
}

/// Three digits at the start of a line.
fn begins_with_code(line: &[u8]) -> bool {
    line.get(..3)
        .is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
}

/// Why bytes are no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("the server sent a line over {0} bytes")]
    LineTooLong(usize),
    #[error("the server sent a reply over {0} bytes")]
    ReplyTooLong(usize),
    #[error("the server sent something that is no FTP reply")]
    Malformed,
}

/// Turns bytes of a control connection into replies. Bounded: a line is at most
/// [`ReplyParser::MAX_LINE`] bytes, a reply at most the limit in force; what is pushed is held
/// until [`ReplyParser::next`] takes it, so read again only after it gave `None`.
///
/// Each byte is looked at once, however the bytes are cut into pushes.
#[derive(Debug)]
pub struct ReplyParser {
    limit: usize,
    /// Bytes received; those before `consumed` are done with, and no LF lies between `consumed`
    /// and `scanned`.
    buffer: Vec<u8>,
    consumed: usize,
    scanned: usize,
    /// The lines so far of a reply of several lines, and what they count against the limit.
    partial: Option<Reply>,
    size: usize,
    /// The server ends its lines by CRLF: a lone LF is part of a name in a listing (vsftpd and
    /// ProFTPD send names raw), and must not end a line, or a name could forge a reply.
    crlf: bool,
    failed: Option<ReplyError>,
}

impl ReplyParser {
    /// Bytes of one line, without its end.
    pub const MAX_LINE: usize = 8 << 10;
    /// The limit of one reply but for listings, in bytes.
    pub const MAX_REPLY: usize = 1 << 20;
    /// The limit of a STAT listing, in bytes.
    pub const MAX_LISTING: usize = 64 << 20;

    /// What a line counts at least: an empty one occupies memory, too.
    const LINE_COST: usize = 32;

    pub fn new() -> Self {
        Self {
            limit: Self::MAX_REPLY,
            buffer: Vec::new(),
            consumed: 0,
            scanned: 0,
            partial: None,
            size: 0,
            crlf: false,
            failed: None,
        }
    }

    /// Sets the size limit, in bytes, of the replies that follow. A line counts 32 bytes at
    /// least.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes bytes as received.
    pub fn push(&mut self, bytes: &[u8]) {
        // Moving the rest down only when it is the smaller half keeps the whole linear.
        if self.consumed >= self.buffer.len() - self.consumed {
            self.buffer.drain(..self.consumed);
            self.scanned -= self.consumed;
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete reply, if there is one. After an error the connection is unusable, and
    /// the same error comes again.
    /// Telnet IAC sequences are not interpreted; a bare LF ends a line as CRLF does, until the
    /// first CRLF.
    #[expect(clippy::should_implement_trait, reason = "None here means: not yet")]
    pub fn next(&mut self) -> Result<Option<Reply>, ReplyError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.advance();
        if let Err(error) = result {
            self.failed = Some(error);
        }
        result
    }

    /// Whether no byte waits: must hold when TLS is about to start (RFC 4217; else clear text
    /// was injected).
    pub fn is_empty(&self) -> bool {
        self.consumed == self.buffer.len() && self.partial.is_none() && self.failed.is_none()
    }

    fn advance(&mut self) -> Result<Option<Reply>, ReplyError> {
        while let Some(line) = self.next_line()? {
            self.size += line.len().max(Self::LINE_COST);
            if self.size > self.limit {
                return Err(ReplyError::ReplyTooLong(self.limit));
            }
            let complete = match self.partial.take() {
                None => {
                    let (code, separator) = parse_code(&line).ok_or(ReplyError::Malformed)?;
                    let text = line.get(4..).unwrap_or_default().to_vec();
                    let reply = Reply {
                        code,
                        lines: vec![text],
                    };
                    if separator == b'-' {
                        self.partial = Some(reply);
                        continue;
                    }
                    reply
                }
                Some(mut reply) => {
                    let repeated = parse_code(&line).filter(|(code, _)| *code == reply.code);
                    match repeated {
                        Some(_) => reply.lines.push(line.get(4..).unwrap_or_default().to_vec()),
                        None => reply.lines.push(line),
                    }
                    if !matches!(repeated, Some((_, b' '))) {
                        self.partial = Some(reply);
                        continue;
                    }
                    reply
                }
            };
            self.size = 0;
            return Ok(Some(complete));
        }
        Ok(None)
    }

    /// The next whole line without its end.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>, ReplyError> {
        let ends_line = |at: usize| {
            let ends = self.buffer[at] == b'\n';
            ends && (!self.crlf || (at > self.consumed && self.buffer[at - 1] == b'\r'))
        };
        let end = (self.scanned..self.buffer.len()).find(|&at| ends_line(at));
        let line = &self.buffer[self.consumed..end.unwrap_or(self.buffer.len())];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > Self::MAX_LINE {
            return Err(ReplyError::LineTooLong(Self::MAX_LINE));
        }
        let Some(end) = end else {
            self.scanned = self.buffer.len();
            return Ok(None);
        };
        self.crlf |= self.buffer[..end].ends_with(b"\r");
        let line = line.to_vec();
        self.consumed = end + 1;
        self.scanned = end + 1;
        Ok(Some(line))
    }
}

impl Default for ReplyParser {
    fn default() -> Self {
        Self::new()
    }
}

/// A line's code, and the `-` or space after it. A code alone counts as followed by a space:
/// some servers cut trailing spaces off.
fn parse_code(line: &[u8]) -> Option<(Code, u8)> {
    if !begins_with_code(line) {
        return None;
    }
    let code = line[..3]
        .iter()
        .fold(0, |n, &d| n * 10 + u16::from(d - b'0'));
    let separator = line.get(3).copied().unwrap_or(b' ');
    matches!(separator, b'-' | b' ').then_some(())?;
    Some((Code::new(code)?, separator))
}

/// The path in a 257 reply (RFC 959 Appendix II): quotes doubled, or (Pure-FTPd) not doubled.
pub fn parse_257(reply: &Reply) -> Option<Vec<u8>> {
    if reply.code.as_u16() != 257 {
        return None;
    }
    let quoted = reply.lines.iter().find_map(|line| {
        let open = line.iter().position(|&b| b == b'"')?;
        Some(&line[open + 1..])
    })?;
    let path = doubled(quoted).or_else(|| {
        let close = quoted.iter().rposition(|&b| b == b'"')?;
        Some(quoted[..close].to_vec())
    });
    path.filter(|path| !path.is_empty())
}

/// Reads up to the first quote that is not doubled. `None` where that makes no sense: the quotes
/// were not doubled then.
fn doubled(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut path = Vec::new();
    let mut rest = quoted;
    loop {
        let quote = rest.iter().position(|&b| b == b'"')?;
        path.extend_from_slice(&rest[..quote]);
        rest = &rest[quote + 1..];
        match rest.first() {
            Some(b'"') => path.push(b'"'),
            // What follows the path is a comment; where it has quotes they come in pairs.
            None | Some(b' ') if rest.iter().filter(|&&b| b == b'"').count() % 2 == 0 => {
                return Some(path);
            }
            _ => return None,
        }
        rest = &rest[1..];
    }
}

#[cfg(test)]
mod tests;
