//! Data connections: where they come from or go to, their protection, and what flows over them
//! while the control connection is heard. Knows files only as what is sent or received.

use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use socket2::{Domain, Socket, Type};

use super::control::Beside;
use super::session::{After, Session};
use crate::proto::{Protection, Reply};
use crate::tls::Stream;

/// Read from a file, or gathered of a listing, before it is sent.
const CHUNK: usize = 128 << 10;
/// How long a transfer may stand still: long, for readers pause for minutes (a player, a
/// stopped pipe).
const STALL: Duration = Duration::from_secs(15 * 60);
/// How long the client may take to close its end once everything was sent.
const LINGER: Duration = Duration::from_secs(2);

/// Where the next data connection comes about.
pub(super) enum Endpoint {
    Passive(TcpListener),
    Active(SocketAddr),
}

/// Why a transfer failed, by the reply it gets.
pub(super) enum Failure {
    /// 425: there is no data connection.
    Connect(io::Error),
    /// 522: a TLS session of the control connection was due (vsftpd's code for it).
    NotResumed,
    /// 426: the data connection broke, or the client ended it.
    Broken(io::Error),
    /// 451, 452, 552: this side's file or folder.
    File(io::Error),
    /// 426: ABOR; it has a reply of its own after that.
    Aborted,
    /// The control connection went; nobody is there for a reply.
    Gone,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::File(errno.into())
    }
}

impl Session<'_> {
    /// Listens for a data connection; the port.
    pub(super) fn listen(&mut self) -> io::Result<u16> {
        let listener = TcpListener::bind(SocketAddr::new(self.local.ip(), 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        self.state.endpoint = Some(Endpoint::Passive(listener));
        Ok(port)
    }

    /// Runs one transfer: 150, the data connection, `work` on it in a thread of its own, and the
    /// reply. `work` ends the connection before it returns.
    pub(super) fn transfer(
        &mut self,
        opening: &str,
        work: impl FnOnce(Stream) -> Result<(), Failure> + Send,
    ) -> io::Result<After> {
        let Some(endpoint) = self.state.endpoint.take() else {
            return self.reply(425, "EPSV or PASV comes first");
        };
        let tls = match (self.state.protection, &self.state.tls) {
            (Some(Protection::Private), Some(tls)) => Some(Arc::clone(tls)),
            (Some(Protection::Clear), _) => None,
            _ => return self.reply(522, "Data connections need PROT P"),
        };
        self.reply(150, opening)?;
        let done = self
            .connect(endpoint)
            .and_then(|tcp| self.run_beside_control(tcp, tls, work));
        let failure = match done {
            Ok(()) => return self.reply(226, "Transfer complete"),
            Err(failure) => failure,
        };
        match failure {
            Failure::Connect(e) => self.reply(425, format!("No data connection: {e}")),
            Failure::NotResumed => {
                let text = "Data connections must resume the control connection's TLS session";
                self.reply(522, text)
            }
            Failure::Broken(e) => self.reply(426, format!("Data connection broken: {e}")),
            Failure::File(e) => self.answer(file_refusal(&e)),
            Failure::Aborted => {
                self.reply(426, "Transfer aborted")?;
                self.reply(226, "ABOR done")
            }
            Failure::Gone => Ok(After::Close),
        }
    }

    fn connect(&mut self, endpoint: Endpoint) -> Result<TcpStream, Failure> {
        let deadline = Instant::now() + self.server.config.data_wait;
        match endpoint {
            Endpoint::Passive(listener) => self.accept(&listener, deadline),
            Endpoint::Active(address) => self.connect_to(address, deadline),
        }
    }

    /// Takes connections from the client's own address only: whoever else found the port is
    /// sent away, and waiting goes on.
    fn accept(&mut self, listener: &TcpListener, deadline: Instant) -> Result<TcpStream, Failure> {
        loop {
            self.wait_beside_control(listener.as_fd(), PollFlags::POLLIN, deadline)?;
            match listener.accept() {
                Ok((tcp, from)) if from.ip().to_canonical() == self.peer => return Ok(tcp),
                Ok((_, from)) => log::warn!("{}: data connection from {from} refused", self.peer),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(Failure::Connect(e)),
            }
        }
    }

    /// From the control port minus one ([MS-FTPS] 1.9: 989 for 990; RFC 959 3.2), or where that
    /// is not permitted or in use, from any port.
    fn connect_to(&mut self, address: SocketAddr, deadline: Instant) -> Result<TcpStream, Failure> {
        let from = SocketAddr::new(self.local.ip(), self.local.port().saturating_sub(1));
        let any = SocketAddr::new(self.local.ip(), 0);
        let begun = begin_connect(from, address).or_else(|_| begin_connect(any, address));
        let socket = begun.map_err(Failure::Connect)?;
        self.wait_beside_control(socket.as_fd(), PollFlags::POLLOUT, deadline)?;
        match socket.take_error() {
            Ok(None) => Ok(socket.into()),
            Ok(Some(e)) | Err(e) => Err(Failure::Connect(e)),
        }
    }

    fn wait_beside_control(
        &mut self,
        fd: BorrowedFd<'_>,
        events: PollFlags,
        deadline: Instant,
    ) -> Result<(), Failure> {
        match self.control.beside(fd, events, deadline) {
            Ok(Beside::Ready) => Ok(()),
            Ok(Beside::Abort) => Err(Failure::Aborted),
            Ok(Beside::Gone) => Err(Failure::Gone),
            Ok(Beside::Late) => Err(Failure::Connect(io::ErrorKind::TimedOut.into())),
            Err(e) => Err(Failure::Connect(e)),
        }
    }

    /// Lets `work` have the data connection in another thread, so that ABOR and the end of the
    /// control connection are heard however the data stands; both shut the data connection down,
    /// and `work` fails by that.
    fn run_beside_control(
        &mut self,
        tcp: TcpStream,
        tls: Option<Arc<ServerConfig>>,
        work: impl FnOnce(Stream) -> Result<(), Failure> + Send,
    ) -> Result<(), Failure> {
        let config = &self.server.config;
        let wait = config.data_wait;
        let require_reuse = config.require_reuse;
        let socket = tcp.try_clone().map_err(Failure::Connect)?;
        let (ended, end) = io::pipe().map_err(Failure::Connect)?;
        thread::scope(|scope| {
            let work = move || {
                let _end = End(end);
                let mut data = Stream::new(tcp).map_err(Failure::Connect)?;
                if let Some(tls) = tls {
                    protect(&mut data, tls, require_reuse, Instant::now() + wait)?;
                }
                work(data)
            };
            let worker = thread::Builder::new()
                .name("ftps-data".into())
                .spawn_scoped(scope, work)
                .map_err(Failure::Connect)?;
            let end_of_time = Instant::now() + Duration::from_secs(365 * 24 * 60 * 60);
            let waited = self.wait_beside_control(ended.as_fd(), PollFlags::POLLIN, end_of_time);
            if waited.is_err() {
                // Already gone, if this fails.
                let _ = socket.shutdown(Shutdown::Both);
            }
            let worked = worker
                .join()
                .unwrap_or_else(|_| Err(Failure::File(io::Error::other("the transfer panicked"))));
            waited.and(worked)
        })
    }
}

/// Tells by a byte that the work is over: another process may have inherited the pipe, so that
/// its end alone would not be seen.
struct End(PipeWriter);

impl Drop for End {
    fn drop(&mut self) {
        // Nobody listens any more, if this fails.
        let _ = self.0.write(&[0]);
    }
}

/// The server is TLS server on data connections too, passive or active (RFC 4217 section 7).
fn protect(
    data: &mut Stream,
    tls: Arc<ServerConfig>,
    require_reuse: bool,
    deadline: Instant,
) -> Result<(), Failure> {
    let server = ServerConnection::new(tls).map_err(|e| Failure::Connect(io::Error::other(e)))?;
    data.start_tls(server, deadline).map_err(Failure::Connect)?;
    let kind = data.tls().and_then(|tls| tls.handshake_kind());
    if require_reuse && kind != Some(HandshakeKind::Resumed) {
        return Err(Failure::NotResumed);
    }
    Ok(())
}

/// Sends a file from where it stands.
pub(super) fn send_file(mut data: Stream, mut file: File) -> Result<(), Failure> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return finish_sending(data),
            Ok(n) => send(&mut data, &chunk[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Failure::File(e)),
        }
    }
}

/// Sends lines, as `produce` gives them to the function it is handed.
pub(super) fn send_lines(
    mut data: Stream,
    produce: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut text = Vec::with_capacity(CHUNK);
    produce(&mut |line| {
        text.extend_from_slice(line);
        text.extend_from_slice(b"\r\n");
        if text.len() < CHUNK - (8 << 10) {
            return Ok(());
        }
        send(&mut data, &text)?;
        text.clear();
        Ok(())
    })?;
    send(&mut data, &text)?;
    finish_sending(data)
}

/// Receives a file to where it stands. What came before a failure stays in it, as with every
/// FTP server; the client is told by 426 or 45x. Success means that the file was closed without
/// an error.
pub(super) fn receive_file(mut data: Stream, mut file: File) -> Result<(), Failure> {
    let mut chunk = vec![0; CHUNK];
    loop {
        // Under TLS the end is the client's close_notify; a bare FIN is an error here.
        match data.read(&mut chunk, Instant::now() + STALL) {
            Ok(0) => break,
            Ok(n) => file.write_all(&chunk[..n]).map_err(Failure::File)?,
            Err(e) => return Err(Failure::Broken(e)),
        }
    }
    nix::unistd::close(file)?;
    // The file is safe; a client that is gone already takes nothing from that.
    let _ = data.close_notify(Instant::now() + LINGER);
    Ok(())
}

fn send(data: &mut Stream, bytes: &[u8]) -> Result<(), Failure> {
    data.write_all(bytes, Instant::now() + STALL)
        .map_err(Failure::Broken)
}

/// close_notify, FIN, and then the client's end, for a while: closing at once could reset what
/// is still under way. A client that resets instead did not want the rest.
fn finish_sending(mut data: Stream) -> Result<(), Failure> {
    let broken = Failure::Broken;
    data.close_notify(Instant::now() + STALL).map_err(broken)?;
    data.tcp().shutdown(Shutdown::Write).map_err(broken)?;
    match data.read(&mut [0; 1024], Instant::now() + LINGER) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Err(Failure::Broken(e)),
        _ => Ok(()),
    }
}

fn begin_connect(from: SocketAddr, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&from.into())?;
    match socket.connect(&to.into()) {
        Err(e) if e.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Ok(socket),
        Err(e) => Err(e),
        Ok(()) => Ok(socket),
    }
}

/// Whether a client at `peer` may have a data connection made to `address`: only to itself, and
/// not to a well-known port (RFC 2577 section 3, the bounce attack).
pub(super) fn is_bounce(address: SocketAddr, peer: IpAddr) -> bool {
    address.ip().to_canonical() != peer || address.port() < 1024
}

/// The reply to a failed operation on a file (RFC 959 5.4).
pub(super) fn file_refusal(error: &io::Error) -> Reply {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let code = match errno {
        Some(Errno::ENOSPC) => 452,
        Some(Errno::EDQUOT | Errno::EFBIG) => 552,
        Some(Errno::ENAMETOOLONG) => 553,
        Some(Errno::EBUSY | Errno::ETXTBSY) => 450,
        Some(Errno::EIO | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN) => 451,
        Some(_) => 550,
        None => 451,
    };
    let text = errno.map_or_else(|| error.to_string(), |errno| errno.desc().to_owned());
    Reply::new(code, text)
}
