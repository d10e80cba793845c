//! [`Stream`]: one TCP connection, clear or under TLS, read record by record so that what
//! follows a close_notify (the next greeting, the next ClientHello) is never swallowed.

use std::io;
use std::net::TcpStream;
use std::time::Instant;

/// A TCP stream that is clear or under TLS. Every wait has a deadline; past it the error is
/// [`io::ErrorKind::TimedOut`]. The socket is in non-blocking mode; do not change that.
pub struct Stream {
    tcp: TcpStream,
}

impl Stream {
    /// Takes a connected socket; clear until [`Stream::start_tls`].
    pub fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        Ok(Self { tcp })
    }
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
    pub fn is_tls(&self) -> bool {
        todo!()
    }
    /// The TLS connection, while there is one.
    pub fn tls(&self) -> Option<&rustls::Connection> {
        todo!()
    }
    /// Whether received bytes wait unread (clear bytes; under TLS: undecrypted or decrypted ones).
    pub fn has_unread(&self) -> bool {
        todo!()
    }
    /// Handshakes as client or server (`rustls::ClientConnection` or `ServerConnection`).
    /// Bytes already received are the first of the handshake. A TLS alert is an error of kind
    /// `InvalidData` whose source is the [`rustls::Error`].
    pub fn start_tls(
        &mut self,
        _tls: impl Into<rustls::Connection>,
        _deadline: Instant,
    ) -> io::Result<()> {
        todo!()
    }
    /// Sends close_notify and waits for the peer's; the stream is clear afterwards, and what the
    /// peer sent behind its close_notify is read next. Data that arrives before the peer's close_notify is an
    /// error.
    pub fn stop_tls(&mut self, _deadline: Instant) -> io::Result<()> {
        todo!()
    }
    /// Sends close_notify only; reading goes on until the peer's. No more writes under TLS.
    pub fn close_notify(&mut self, _deadline: Instant) -> io::Result<()> {
        todo!()
    }
    /// Reads some bytes. `Ok(0)`: the peer ended it, in TLS by close_notify, in the clear by
    /// FIN. A FIN without close_notify under TLS is `UnexpectedEof`.
    pub fn read(&mut self, _buf: &mut [u8], _deadline: Instant) -> io::Result<usize> {
        todo!()
    }
    /// Writes everything, and sends it.
    pub fn write_all(&mut self, _buf: &[u8], _deadline: Instant) -> io::Result<()> {
        todo!()
    }
}
