//! The control connection as a server has it: lines in, replies out, TLS up and down, and ABOR
//! heard while a transfer runs. Knows what a line is, not what it means.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::fault::{Manner, What, Wire};
use crate::tls::{self, Stream};

/// The longest command line: a path of PATH_MAX bytes with room to spare.
const MAX_LINE: usize = 8 << 10;
/// Commands kept while a transfer runs; more stay in the socket.
const MAX_PENDING: usize = 64 << 10;
const READ: usize = 4 << 10;
/// How long a reply may take to leave.
const REPLY_WAIT: Duration = Duration::from_secs(30);
/// How long to wait for the peer to end the connection first, so that the last reply arrives.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

pub(super) struct Control {
    stream: Stream,
    /// Where fault rules act on it.
    wire: Option<Arc<Wire>>,
    /// Replies that leave with the next one.
    held: Vec<u8>,
    /// Received and not yet taken as lines; plain text, also under TLS.
    pending: Vec<u8>,
    /// The line in front lost its beginning: it was too long.
    overlong: bool,
}

/// What came in.
pub(super) enum Input {
    /// A command line without its line end.
    Line(Vec<u8>),
    /// A line over the limit; it was dropped.
    TooLong,
    /// The peer ended the connection.
    Ended,
}

/// What ended [`Control::beside`].
pub(super) enum Beside {
    /// The other descriptor is ready.
    Ready,
    /// ABOR came.
    Abort,
    /// The control connection is gone.
    Gone,
    /// The deadline passed.
    Late,
}

impl Control {
    pub(super) fn new(stream: Stream, wire: Option<Arc<Wire>>) -> Self {
        Self {
            stream,
            wire,
            held: Vec::new(),
            pending: Vec::new(),
            overlong: false,
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        self.stream.is_tls()
    }

    /// The next command line.
    pub(super) fn next(&mut self, deadline: Instant) -> io::Result<Input> {
        loop {
            if let Some(input) = self.take_line() {
                return Ok(input);
            }
            self.send(&[], Manner::AtOnce)?;
            let mut bytes = [0; READ];
            match self.stream.read(&mut bytes, deadline)? {
                0 => return Ok(Input::Ended),
                n => self.pending.extend_from_slice(&bytes[..n]),
            }
        }
    }

    /// Sends replies, those that were held before them.
    pub(super) fn send(&mut self, bytes: &[u8], manner: Manner) -> io::Result<()> {
        self.held.extend_from_slice(bytes);
        let pace = match manner {
            Manner::Held => return Ok(()),
            Manner::AtOnce => None,
            Manner::Pieces(pace) => Some(pace),
        };
        let bytes = std::mem::take(&mut self.held);
        let Some(wire) = &self.wire else {
            return self.stream.write_all(&bytes, Instant::now() + REPLY_WAIT);
        };
        let socket = self.stream.tcp().try_clone()?;
        wire.reply(&socket, &bytes, pace, |piece| {
            self.stream.write_all(piece, Instant::now() + REPLY_WAIT)
        })
    }

    /// Does to the connection what a fault rule says.
    pub(super) fn act(&self, what: &What) -> io::Result<()> {
        match &self.wire {
            Some(wire) => wire.act(self.stream.tcp(), what),
            None => Ok(()),
        }
    }

    /// Starts TLS as server. Commands that wait are refused: they came in the clear, and would
    /// be taken as protected ones.
    pub(super) fn start_tls(
        &mut self,
        tls: rustls::ServerConnection,
        deadline: Instant,
    ) -> io::Result<()> {
        self.refuse_pending()?;
        self.send(&[], Manner::AtOnce)?;
        self.stream.start_tls(tls, deadline)
    }

    /// Takes TLS down, and leaves the connection clear. Commands that wait are refused: they
    /// came protected, and nobody can tell for which side of the change they were meant.
    pub(super) fn stop_tls(&mut self, deadline: Instant) -> io::Result<()> {
        self.refuse_pending()?;
        self.send(&[], Manner::AtOnce)?;
        self.stream.stop_tls(deadline)
    }

    /// Waits for another descriptor, and takes in commands meanwhile: they wait for their turn,
    /// but ABOR ends this.
    pub(super) fn beside(
        &mut self,
        fd: BorrowedFd<'_>,
        events: PollFlags,
        deadline: Instant,
    ) -> io::Result<Beside> {
        loop {
            if !self.take_in() {
                return Ok(Beside::Gone);
            }
            if self.take_abort() {
                return Ok(Beside::Abort);
            }
            let mut fds = vec![PollFd::new(fd, events)];
            if self.pending.len() < MAX_PENDING {
                fds.push(PollFd::new(self.stream.as_fd(), PollFlags::POLLIN));
            }
            match tls::wait_any(&mut fds, deadline) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(Beside::Late),
                Err(e) => return Err(e),
            }
            if fds[0].any().unwrap_or(true) {
                return Ok(Beside::Ready);
            }
        }
    }

    /// Ends the connection so that what was sent arrives: close_notify, FIN, and no reset
    /// because of bytes left unread.
    pub(super) fn close(mut self, close_notify: bool) -> io::Result<()> {
        self.send(&[], Manner::AtOnce)?;
        let deadline = Instant::now() + CLOSE_WAIT;
        if close_notify {
            self.stream.close_notify(deadline)?;
        }
        self.stream.tcp().shutdown(Shutdown::Write)?;
        let mut bytes = [0; READ];
        while Instant::now() < deadline && self.stream.read(&mut bytes, deadline).unwrap_or(0) > 0 {
        }
        Ok(())
    }

    fn refuse_pending(&self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "commands were sent behind one that changes the protection",
        ))
    }

    fn take_line(&mut self) -> Option<Input> {
        let Some(end) = self.pending.iter().position(|&b| b == b'\n') else {
            if self.pending.len() > MAX_LINE {
                self.pending.clear();
                self.overlong = true;
            }
            return None;
        };
        let line: Vec<u8> = self.pending.drain(..=end).collect();
        let overlong = std::mem::take(&mut self.overlong);
        let line = bare(&line);
        if overlong || line.len() > MAX_LINE {
            return Some(Input::TooLong);
        }
        Some(Input::Line(line.to_vec()))
    }

    /// Takes what the socket has without waiting; false where the connection is gone.
    fn take_in(&mut self) -> bool {
        let mut bytes = [0; READ];
        while self.pending.len() < MAX_PENDING {
            match self.stream.read_now(&mut bytes) {
                Ok(None) => break,
                Ok(Some(0)) | Err(_) => return false,
                Ok(Some(n)) => self.pending.extend_from_slice(&bytes[..n]),
            }
        }
        true
    }

    /// Takes an ABOR out of the lines that wait.
    fn take_abort(&mut self) -> bool {
        let mut start = 0;
        for line in self.pending.split_inclusive(|&b| b == b'\n') {
            let end = start + line.len();
            if line.ends_with(b"\n") && bare(line).eq_ignore_ascii_case(b"ABOR") {
                self.pending.drain(start..end);
                return true;
            }
            start = end;
        }
        false
    }
}

/// A line without its end, and without the Telnet signals (IAC IP, IAC DM) that RFC 959 4.1.3
/// puts before ABOR: no command begins with such bytes.
fn bare(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let signals = line.iter().take_while(|&&b| b >= 0xf0).count();
    &line[signals..]
}
