//! [`Stream`]: one TCP connection, clear or under TLS, read record by record so that what
//! follows a close_notify (the next greeting, the next ClientHello) is never swallowed.
//!
//! rustls is handed one whole record at a time out of a buffer of our own; what lies behind the
//! record that ends TLS stays in that buffer and is read next, clear or as the next handshake.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A TLS record's header: type, version, length.
const RECORD_HEADER: usize = 5;
/// The longest record on the wire (RFC 5246 6.2.3: 2^14 + 2048 and the header).
const MAX_RECORD: usize = RECORD_HEADER + (16 << 10) + 2048;
/// Received at once: several records a system call.
const RECEIVE_BUFFER: usize = 128 << 10;
/// Records in a row that may bring no data (tickets, key updates, empty ones): a server sends a
/// handful. rustls bounds those of a handshake by itself.
const MAX_SILENT_RECORDS: usize = 64;
/// Encrypted per round of a long write.
const WRITE_CHUNK: usize = 64 << 10;

/// A TCP stream that is clear or under TLS. Every wait has a deadline; past it the error is
/// [`io::ErrorKind::TimedOut`]. The socket is in non-blocking mode; do not change that.
pub struct Stream {
    tcp: TcpStream,
    tap: Option<Arc<dyn Tap>>,
    tls: Option<rustls::Connection>,
    received: Received,
    /// Bounds each single wait.
    patience: Option<Duration>,
}

/// What stands between a [`Stream`] and its socket where somebody meddles with the bytes on the
/// wire: a server that fails on command. Both do as [`Write::write`] and [`Read::read`] on the
/// non-blocking socket would; one that waits holds the stream up.
pub trait Tap: Send + Sync {
    fn send(&self, tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize>;
    fn receive(&self, tcp: &TcpStream, buf: &mut [u8]) -> io::Result<usize>;
}

/// The socket, through the tap where there is one.
struct Wire<'a> {
    tcp: &'a TcpStream,
    tap: Option<&'a dyn Tap>,
}

/// Bytes from the socket that nobody took yet. Allocated at first use, grown to the long size
/// only where a connection proves to carry bulk data.
#[derive(Default)]
struct Received {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    fin: bool,
}

/// What a handshake waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handshake {
    Complete,
    /// Call again when the socket is readable, or writable where the flag says so.
    Pending {
        wants_write: bool,
    },
}

impl Stream {
    /// Takes a connected socket; clear until [`Stream::start_tls`].
    pub fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        tcp.set_nodelay(true)?;
        Ok(Self {
            tcp,
            tap: None,
            tls: None,
            received: Received::default(),
            patience: None,
        })
    }

    /// [`Stream::new`], with all bytes going through `tap`.
    pub fn tapped(tcp: TcpStream, tap: Arc<dyn Tap>) -> io::Result<Self> {
        let mut stream = Self::new(tcp)?;
        stream.tap = Some(tap);
        Ok(stream)
    }

    /// From now on each single wait ends (`TimedOut`) after that much silence, whatever the
    /// deadline; `None` leaves it to the deadline alone.
    pub fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience = patience;
    }

    /// When a wait that begins now ends at the latest.
    pub fn patient_until(&self, deadline: Instant) -> Instant {
        self.patience
            .and_then(|patience| Instant::now().checked_add(patience))
            .map_or(deadline, |silence| silence.min(deadline))
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The TLS connection, while there is one.
    pub fn tls(&self) -> Option<&rustls::Connection> {
        self.tls.as_ref()
    }

    /// What was received and not given out yet: clear bytes, or under TLS records not yet
    /// decrypted. After an error it is what the peer said instead of TLS.
    pub fn unread(&self) -> &[u8] {
        &self.received.buf[self.received.start..self.received.end]
    }

    /// Handshakes as client or server (`rustls::ClientConnection` or `ServerConnection`).
    /// Bytes already received are the first of the handshake. A TLS alert is an error of kind
    /// `InvalidData` whose source is the [`rustls::Error`].
    pub fn start_tls(
        &mut self,
        tls: impl Into<rustls::Connection>,
        deadline: Instant,
    ) -> io::Result<()> {
        self.begin_tls(tls);
        loop {
            in_time(deadline)?;
            match self.handshake()? {
                Handshake::Complete => return Ok(()),
                Handshake::Pending { wants_write: true } => self.await_writable(deadline)?,
                Handshake::Pending { wants_write: false } => self.await_readable(deadline)?,
            }
        }
    }

    /// Sets TLS up without any I/O; drive it by [`Stream::handshake`].
    pub fn begin_tls(&mut self, tls: impl Into<rustls::Connection>) {
        self.tls = Some(tls.into());
    }

    /// Takes the handshake as far as it goes without waiting.
    pub fn handshake(&mut self) -> io::Result<Handshake> {
        loop {
            if !self.flush_now()? {
                return Ok(Handshake::Pending { wants_write: true });
            }
            match &self.tls {
                Some(tls) if tls.is_handshaking() => {}
                _ => return Ok(Handshake::Complete),
            }
            if self.received.record()?.is_none() {
                if self.received.fin {
                    return Err(closed(
                        "the peer closed the connection during the TLS handshake",
                    ));
                }
                if !self.receive_now()? {
                    return Ok(Handshake::Pending { wants_write: false });
                }
                continue;
            }
            self.feed_record()?;
        }
    }

    /// Sends close_notify and waits for the peer's; the stream is clear afterwards, and what the
    /// peer sent behind its close_notify is read next. Data that arrives before the peer's
    /// close_notify is an error.
    pub fn stop_tls(&mut self, deadline: Instant) -> io::Result<()> {
        self.close_notify(deadline)?;
        match self.read(&mut [0; 1], deadline)? {
            0 => {
                self.tls = None;
                Ok(())
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the peer sent data where its close_notify was due",
            )),
        }
    }

    /// Sends close_notify only; reading goes on until the peer's. No more writes under TLS.
    pub fn close_notify(&mut self, deadline: Instant) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.flush(deadline)
    }

    /// Reads some bytes. `Ok(0)`: the peer ended it, in TLS by close_notify, in the clear by
    /// FIN. A FIN without close_notify under TLS is `UnexpectedEof`.
    pub fn read(&mut self, buf: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            if let Some(n) = self.read_now(buf)? {
                return Ok(n);
            }
            self.await_readable(deadline)?;
        }
    }

    /// [`Stream::read`] without waiting: `None` where it would. Gives all that was received, as
    /// far as `buf` takes it, not one record only.
    pub fn read_now(&mut self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        if buf.is_empty() {
            return Ok(Some(0));
        }
        let mut filled = 0;
        let mut silent = 0;
        loop {
            let Some(tls) = &mut self.tls else {
                if self.received.is_empty() && !self.received.fin && !self.receive_now()? {
                    return Ok(None);
                }
                return Ok(Some(self.received.take(buf)));
            };
            match tls.reader().read(&mut buf[filled..]) {
                // The peer's close_notify; what follows it stays in `received`.
                Ok(0) => return Ok(Some(filled)),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            if filled == buf.len() {
                return Ok(Some(filled));
            }
            if self.received.record()?.is_some() {
                silent += 1;
                if filled == 0 && silent > MAX_SILENT_RECORDS {
                    return Err(not_tls(
                        "the peer sends TLS records without data, on and on",
                    ));
                }
                self.feed_record()?;
            } else if filled > 0 {
                return Ok(Some(filled));
            } else if self.received.fin {
                return Err(closed(
                    "the peer closed the connection without close_notify",
                ));
            } else if !self.receive_now()? {
                return Ok(None);
            }
        }
    }

    /// Writes everything, and sends it.
    pub fn write_all(&mut self, buf: &[u8], deadline: Instant) -> io::Result<()> {
        if self.tls.is_some() {
            for chunk in buf.chunks(WRITE_CHUNK) {
                let mut rest = chunk;
                while !rest.is_empty() {
                    let Some(tls) = &mut self.tls else { break };
                    let n = tls.writer().write(rest)?;
                    rest = &rest[n..];
                    self.flush(deadline)?;
                }
            }
            return Ok(());
        }
        let mut rest = buf;
        while !rest.is_empty() {
            match Wire::of(&self.tcp, &self.tap).write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.await_writable(deadline)?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn flush(&mut self, deadline: Instant) -> io::Result<()> {
        while !self.flush_now()? {
            self.await_writable(deadline)?;
        }
        Ok(())
    }

    /// Sends what TLS has to send; false where the socket takes no more now.
    fn flush_now(&mut self) -> io::Result<bool> {
        let mut wire = Wire::of(&self.tcp, &self.tap);
        let Some(tls) = &mut self.tls else {
            return Ok(true);
        };
        while tls.wants_write() {
            match tls.write_tls(&mut wire) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Receives what the socket has; false where it has nothing now.
    fn receive_now(&mut self) -> io::Result<bool> {
        self.received.make_room();
        loop {
            let end = self.received.end;
            let mut wire = Wire::of(&self.tcp, &self.tap);
            match wire.read(&mut self.received.buf[end..]) {
                Ok(0) => self.received.fin = true,
                Ok(n) => self.received.end += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
            return Ok(true);
        }
    }

    /// Hands rustls exactly one record, which must be there.
    fn feed_record(&mut self) -> io::Result<()> {
        let (Some(length), Some(tls)) = (self.received.record()?, &mut self.tls) else {
            return Ok(());
        };
        let mut record = &self.received.buf[self.received.start..][..length];
        while !record.is_empty() {
            if tls.read_tls(&mut record)? == 0 {
                break;
            }
        }
        self.received.start += length;
        if let Err(error) = tls.process_new_packets() {
            // The alert that says why; the connection is over either way.
            let _ = tls.write_tls(&mut Wire::of(&self.tcp, &self.tap));
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        self.flush_now().map(drop)
    }

    fn await_readable(&self, deadline: Instant) -> io::Result<()> {
        let until = self.patient_until(deadline);
        wait(self.tcp.as_fd(), PollFlags::POLLIN, until)
    }

    fn await_writable(&self, deadline: Instant) -> io::Result<()> {
        let until = self.patient_until(deadline);
        wait(self.tcp.as_fd(), PollFlags::POLLOUT, until)
    }
}

impl<'a> Wire<'a> {
    fn of(tcp: &'a TcpStream, tap: &'a Option<Arc<dyn Tap>>) -> Self {
        Self {
            tcp,
            tap: tap.as_deref(),
        }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.tap {
            Some(tap) => tap.send(self.tcp, bytes),
            None => self.tcp.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.tap {
            Some(tap) => {
                let first = slices.iter().find(|slice| !slice.is_empty());
                tap.send(self.tcp, first.map_or(&[], |slice| slice))
            }
            None => self.tcp.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.tap {
            Some(tap) => tap.receive(self.tcp, buf),
            None => self.tcp.read(buf),
        }
    }
}

impl Received {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The length of the record in front, once it is whole. What is no record stays unread: a
    /// server that answers in the clear (vsftpd's `421` on the implicit port, its `500 OOPS`
    /// within TLS) is quoted from there.
    fn record(&self) -> io::Result<Option<usize>> {
        let bytes = &self.buf[self.start..self.end];
        // change_cipher_spec to heartbeat (RFC 8446 5.1, RFC 6520).
        if bytes
            .first()
            .is_some_and(|content_type| !(20..=24).contains(content_type))
        {
            return Err(not_tls("the peer does not speak TLS"));
        }
        let Some(header) = bytes.get(..RECORD_HEADER) else {
            return Ok(None);
        };
        let length = RECORD_HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length > MAX_RECORD {
            return Err(not_tls(
                "the peer sent a TLS record over the permitted length",
            ));
        }
        Ok((bytes.len() >= length).then_some(length))
    }

    fn take(&mut self, buf: &mut [u8]) -> usize {
        let n = buf.len().min(self.end - self.start);
        buf[..n].copy_from_slice(&self.buf[self.start..][..n]);
        self.start += n;
        n
    }

    fn make_room(&mut self) {
        if self.is_empty() {
            // A read that filled the short buffer: this is bulk data.
            let full = self.end > 0 && self.end == self.buf.len();
            (self.start, self.end) = (0, 0);
            if self.buf.is_empty() {
                self.buf.resize(MAX_RECORD, 0);
            } else if full && self.buf.len() < RECEIVE_BUFFER {
                self.buf.resize(RECEIVE_BUFFER, 0);
            }
        } else if self.end == self.buf.len() {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.end + MAX_RECORD > self.buf.len() {
                self.buf.resize(RECEIVE_BUFFER, 0);
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

/// An error once the deadline is past: for loops that a peer which keeps sending could hold up.
pub(crate) fn in_time(deadline: Instant) -> io::Result<()> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "no answer within the deadline",
    ))
}

/// Waits until one of `events` (or an error or hang-up) is there.
pub(crate) fn wait(fd: BorrowedFd<'_>, events: PollFlags, deadline: Instant) -> io::Result<()> {
    wait_any(&mut [PollFd::new(fd, events)], deadline)
}

/// Waits until something is there for one of several descriptors.
pub(crate) fn wait_any(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<()> {
    loop {
        in_time(deadline)?;
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that the last fraction of a millisecond does not spin.
        let millis = left.as_millis().saturating_add(1);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        match poll(fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn not_tls(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn closed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, what)
}
