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
        let _ = (code, text.as_ref());
        todo!()
    }
    /// The bytes on the wire, CRLF included (RFC 959 4.2 for several lines).
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }
    /// The last line's text, lossily as UTF-8: what a log shows of it.
    pub fn text(&self) -> String {
        todo!()
    }
}

/// "550 No such file": for messages, control characters escaped, at most 300 characters.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text())
    }
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
/// [`ReplyParser::MAX_LINE`] bytes, a reply at most the limit in force.
#[derive(Debug)]
pub struct ReplyParser {
    limit: usize,
}

impl ReplyParser {
    pub const MAX_LINE: usize = 8 << 10;
    /// The limit of one reply but for listings.
    pub const MAX_REPLY: usize = 1 << 20;
    /// The limit of a STAT listing.
    pub const MAX_LISTING: usize = 64 << 20;

    pub fn new() -> Self {
        Self {
            limit: Self::MAX_REPLY,
        }
    }
    /// Sets the size limit, in bytes, of the replies that follow.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }
    /// Takes bytes as received.
    pub fn push(&mut self, _bytes: &[u8]) {
        todo!()
    }
    /// The next complete reply, if there is one. After an error the connection is unusable.
    /// Telnet IAC sequences are not interpreted; a bare LF ends a line as CRLF does.
    pub fn next(&mut self) -> Result<Option<Reply>, ReplyError> {
        todo!()
    }
    /// Whether no byte waits: must hold when TLS is about to start (RFC 4217; else clear text
    /// was injected).
    pub fn is_empty(&self) -> bool {
        todo!()
    }
}

impl Default for ReplyParser {
    fn default() -> Self {
        Self::new()
    }
}

/// The path in a 257 reply (RFC 959 Appendix II): quotes doubled, or (Pure-FTPd) not doubled.
pub fn parse_257(_reply: &Reply) -> Option<Vec<u8>> {
    todo!()
}
