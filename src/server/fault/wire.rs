//! Rules that act beneath TLS: what passes on a socket is counted by byte and record, and held
//! up, cut off or mixed with other bytes where a rule says so. Knows no FTP.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use socket2::SockRef;

use super::{Direction, Passage, Place, Watched, What};
use crate::tls::{self, Tap};

/// How often one that waits looks whether its rule still stands.
const LOOK: Duration = Duration::from_millis(20);
/// How long bytes of a rule may take to leave.
const SEND_WAIT: Duration = Duration::from_secs(30);
/// How long after its FIN a connection takes in what the client still sends: closing with unread
/// bytes would be a reset.
const FIN_LINGER: Duration = Duration::from_secs(2);
/// The alert close_notify in the clear (RFC 5246 7.2.1).
const CLEAR_CLOSE_NOTIFY: [u8; 7] = [21, 3, 3, 0, 2, 1, 0];
/// A TLS record's header: type, version, length.
const HEADER: usize = 5;

/// One socket under rules.
pub(in crate::server) struct Wire {
    watched: Arc<Watched>,
    /// The verb whose data connection it is; `None` for a control connection.
    during: Option<&'static str>,
    sent: Mutex<Side>,
    received: Mutex<Side>,
    replies: Mutex<Side>,
    /// A rule ended the connection.
    ended: AtomicBool,
}

/// One direction. Locked for memory work only.
struct Side {
    framing: Framing,
    /// The rules for the next byte have acted.
    judged: bool,
    /// Byte by byte, that long apart, until the rules of that epoch go.
    pace: Option<(Duration, u64)>,
}

/// Where in a line or record the next byte stands.
enum Framing {
    /// Clear data: neither lines nor records.
    None,
    /// The next byte begins a line or a record.
    Between,
    Line,
    /// A record's header as far as it is known, and what is left of the record once it is.
    Header(Vec<u8>),
    Body(usize),
}

impl Wire {
    pub(in crate::server) fn control(watched: Arc<Watched>) -> Self {
        Self::new(watched, None, true)
    }

    pub(in crate::server) fn data(watched: Arc<Watched>, verb: &'static str, tls: bool) -> Self {
        Self::new(watched, Some(verb), tls)
    }

    fn new(watched: Arc<Watched>, during: Option<&'static str>, framed: bool) -> Self {
        let side = |framed| {
            Mutex::new(Side {
                framing: if framed {
                    Framing::Between
                } else {
                    Framing::None
                },
                judged: false,
                pace: None,
            })
        };
        Self {
            watched,
            during,
            sent: side(framed),
            received: side(framed),
            replies: side(false),
            ended: AtomicBool::new(false),
        }
    }

    /// Sends bytes of a reply by `send`, which is given them in pieces where rules want that.
    pub(in crate::server) fn reply(
        &self,
        tcp: &TcpStream,
        mut bytes: &[u8],
        pace: Option<Duration>,
        mut send: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut passage = self.passage(tcp, Place::Reply, bytes)?;
            if let Some(pace) = pace {
                self.pause(tcp, Some(pace))?;
                passage.reach = 1;
            }
            let (now, later) = bytes.split_at(passage.reach);
            // Counted first: whoever has the reply finds it counted.
            self.watched.passing(&passage, || Ok(now.len()))?;
            self.passed(Place::Reply, now);
            send(now)?;
            bytes = later;
        }
        Ok(())
    }

    /// Does to the connection what a rule says; an error ends it.
    pub(in crate::server) fn act(&self, tcp: &TcpStream, what: &What) -> io::Result<()> {
        match what {
            What::Fin => self.fin(tcp),
            What::Rst => {
                // Takes effect when the socket is closed, which the error brings about.
                SockRef::from(tcp).set_linger(Some(Duration::ZERO))?;
                Err(self.end())
            }
            What::Stall(time) => self.pause(tcp, *time),
            What::Send(bytes) => send_now(tcp, bytes),
            What::ForgedCloseNotify => {
                send_now(tcp, &CLEAR_CLOSE_NOTIFY)?;
                self.fin(tcp)
            }
            _ => Ok(()),
        }
    }

    /// How many of `bytes`, which are next, pass now. Waits, or fails, where a rule says so.
    fn passage(&self, tcp: &TcpStream, place: Place, bytes: &[u8]) -> io::Result<Passage> {
        loop {
            if self.ended.load(Ordering::Relaxed) {
                return Err(self.end());
            }
            let mut passage = {
                let side = self.side(place).lock();
                Passage {
                    place,
                    during: self.during,
                    reach: side.framing.reach(bytes),
                    record: side.framing.begins_record(bytes),
                    judged: side.judged,
                }
            };
            let verdict = self.watched.judge(&passage);
            if verdict.hit.is_empty() {
                let pace = self.side(place).lock().pace;
                passage.reach = match pace {
                    Some((pace, epoch)) if epoch == self.watched.faults.epoch() => {
                        self.pause(tcp, Some(pace))?;
                        1
                    }
                    _ => verdict.free,
                };
                return Ok(passage);
            }
            self.side(place).lock().judged = true;
            for what in &verdict.hit {
                match what {
                    What::Drip(pace) => {
                        let epoch = self.watched.faults.epoch();
                        self.side(place).lock().pace = Some((*pace, epoch));
                    }
                    what => self.act(tcp, what)?,
                }
            }
        }
    }

    /// These bytes passed.
    fn passed(&self, place: Place, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut side = self.side(place).lock();
        side.judged = false;
        side.framing.advance(bytes);
    }

    fn side(&self, place: Place) -> &Mutex<Side> {
        match place {
            Place::Reply => &self.replies,
            Place::Control(Direction::Sent) | Place::Data(Direction::Sent) => &self.sent,
            Place::Control(Direction::Received) | Place::Data(Direction::Received) => {
                &self.received
            }
        }
    }

    fn place(&self, direction: Direction) -> Place {
        match self.during {
            None => Place::Control(direction),
            Some(_) => Place::Data(direction),
        }
    }

    /// Nothing for that long, or until the rules change or the client is gone.
    fn pause(&self, tcp: &TcpStream, time: Option<Duration>) -> io::Result<()> {
        let end = time.and_then(|time| Instant::now().checked_add(time));
        let epoch = self.watched.faults.epoch();
        // A client that closes its half of a data connection still waits for the reply.
        let gone = match self.during {
            None => PollFlags::from_bits_retain(libc::POLLRDHUP),
            Some(_) => PollFlags::empty(),
        };
        loop {
            let left = end.map_or(LOOK, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() || self.watched.faults.epoch() != epoch {
                return Ok(());
            }
            let timeout = PollTimeout::try_from(left.min(LOOK)).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(tcp.as_fd(), gone)];
            if poll(&mut fds, timeout).unwrap_or(0) > 0 {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the client left while a fault rule held the connection up",
                ));
            }
            if left < Duration::from_millis(1) {
                thread::sleep(left);
            }
        }
    }

    fn fin(&self, tcp: &TcpStream) -> io::Result<()> {
        tcp.shutdown(Shutdown::Write)?;
        let mut socket = tcp.try_clone()?;
        thread::Builder::new()
            .name("ftps-fin".into())
            .spawn(move || {
                let end = Instant::now() + FIN_LINGER;
                while tls::wait(socket.as_fd(), PollFlags::POLLIN, end).is_ok() {
                    if matches!(socket.read(&mut [0; 4096]), Ok(0) | Err(_)) {
                        break;
                    }
                }
            })?;
        Err(self.end())
    }

    fn end(&self) -> io::Error {
        self.ended.store(true, Ordering::Relaxed);
        io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "a fault rule ended the connection",
        )
    }
}

impl Tap for Wire {
    fn send(&self, mut tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let passage = self.passage(tcp, self.place(Direction::Sent), bytes)?;
        let write = || tcp.write(&bytes[..passage.reach]);
        let sent = self.watched.passing(&passage, write)?;
        self.passed(passage.place, &bytes[..sent]);
        Ok(sent)
    }

    fn receive(&self, mut tcp: &TcpStream, buf: &mut [u8]) -> io::Result<usize> {
        // Only looked at, so that bytes for which a rule waits stay where the client sees them
        // unread.
        let there = tcp.peek(buf)?;
        if there == 0 {
            return Ok(0);
        }
        let passage = self.passage(tcp, self.place(Direction::Received), &buf[..there])?;
        let read = || tcp.read(&mut buf[..passage.reach]);
        let received = self.watched.passing(&passage, read)?;
        self.passed(passage.place, &buf[..received]);
        Ok(received)
    }
}

impl Framing {
    /// How many of these bytes lie within the line or record in hand.
    fn reach(&self, bytes: &[u8]) -> usize {
        let known = match self {
            Self::None => return bytes.len(),
            Self::Body(left) => return bytes.len().min(*left),
            Self::Between if !self.begins_record(bytes) => return lines(bytes),
            Self::Line => return lines(bytes),
            Self::Between => &[],
            Self::Header(known) => &known[..],
        };
        let header: Vec<u8> = known.iter().chain(bytes).copied().take(HEADER).collect();
        match body(&header) {
            Some(body) => bytes.len().min(HEADER - known.len() + body),
            None => bytes.len(),
        }
    }

    /// A record's first byte is its content type (20 to 24); no command and no reply begins so.
    fn begins_record(&self, bytes: &[u8]) -> bool {
        matches!(self, Self::Between) && matches!(bytes.first(), Some(20..=24))
    }

    /// Past bytes that [`Framing::reach`] covers.
    fn advance(&mut self, bytes: &[u8]) {
        *self = match std::mem::replace(self, Self::Between) {
            Self::None => Self::None,
            Self::Body(left) if bytes.len() < left => Self::Body(left - bytes.len()),
            Self::Body(_) => Self::Between,
            Self::Header(known) => Self::in_record([&known, bytes].concat()),
            Self::Between if matches!(bytes.first(), Some(20..=24)) => {
                Self::in_record(bytes.to_vec())
            }
            Self::Between | Self::Line if bytes.ends_with(b"\n") => Self::Between,
            Self::Between | Self::Line => Self::Line,
        };
    }

    /// With a record's bytes from its beginning on.
    fn in_record(record: Vec<u8>) -> Self {
        match body(&record).map(|body| (HEADER + body).saturating_sub(record.len())) {
            None => Self::Header(record),
            Some(0) => Self::Between,
            Some(left) => Self::Body(left),
        }
    }
}

/// The length of a record's body, by its header.
fn body(record: &[u8]) -> Option<usize> {
    match record {
        [_, _, _, high, low, ..] => Some(usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

/// How many bytes there are before a record begins.
fn lines(bytes: &[u8]) -> usize {
    let begins = |pair: &[u8]| pair[0] == b'\n' && matches!(pair[1], 20..=24);
    let last = bytes.windows(2).position(begins);
    last.map_or(bytes.len(), |last| last + 1)
}

fn send_now(mut tcp: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + SEND_WAIT;
    while !bytes.is_empty() {
        match tcp.write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                tls::wait(tcp.as_fd(), PollFlags::POLLOUT, deadline)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Framing;

    /// Where records begin, between lines too, however the bytes come in pieces.
    #[test]
    fn framing_finds_each_record_in_pieces_of_any_size() {
        let record = |body: usize| [&[23, 3, 3, 0, body as u8][..], &vec![b'\n'; body]].concat();
        let stream = [
            b"220 hello\r\n".to_vec(),
            record(20),
            record(0),
            record(7),
            b"AUTH\r\n".to_vec(),
            record(1),
        ]
        .concat();
        for piece in 1..stream.len() {
            let mut framing = Framing::Between;
            let (mut at, mut records) = (0, Vec::new());
            while at < stream.len() {
                let there = &stream[at..(at + piece).min(stream.len())];
                if framing.begins_record(there) {
                    records.push(at);
                }
                let reach = framing.reach(there);
                assert!((1..=there.len()).contains(&reach));
                framing.advance(&there[..reach]);
                at += reach;
            }
            assert!(matches!(framing, Framing::Between), "pieces of {piece}");
            assert_eq!(records, [11, 36, 41, 59], "pieces of {piece}");
        }
    }
}
