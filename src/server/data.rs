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
use super::fault::{Plan, What, Wire};
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
    /// 522 (vsftpd's code for it) or a fault rule's: a TLS session of the control connection was
    /// due.
    NotResumed(u16),
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
        let any = SocketAddr::new(self.local.ip(), 0);
        let listener = TcpListener::bind(any)?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        self.state.endpoint = Some(Endpoint::Passive(listener));
        self.state.decoy = if self.plan.has(&What::ClosedPort) {
            closed_port(any)?
        } else if self.plan.has(&What::SilentPort) {
            silent_port(any)?
        } else {
            Vec::new()
        };
        match self.state.decoy.first() {
            None => Ok(port),
            Some(decoy) => {
                let address = decoy.local_addr()?.as_socket();
                Ok(address.map_or(port, |address| address.port()))
            }
        }
    }

    /// Runs one transfer: 150, the data connection, `work` on it in a thread of its own, and the
    /// reply. `work` ends the connection before it returns.
    pub(super) fn transfer(
        &mut self,
        verb: &'static str,
        work: impl FnOnce(Stream, &Plan) -> Result<(), Failure> + Send,
    ) -> io::Result<After> {
        let Some(endpoint) = self.state.endpoint.take() else {
            return self.reply(425, "EPSV or PASV comes first");
        };
        let tls = match (self.state.protection, &self.state.tls) {
            (Some(Protection::Private), Some(tls)) => Some(Arc::clone(tls)),
            (Some(Protection::Clear), _) => None,
            _ => return self.reply(522, "Data connections need PROT P"),
        };
        let opening = match verb {
            "RETR" => "Sending the file",
            "STOR" | "APPE" => "Receiving the file",
            _ => "Sending the listing",
        };
        self.reply(150, opening)?;
        let done = self
            .connect(endpoint)
            .and_then(|tcp| self.run_beside_control(verb, tcp, tls, work));
        let failure = match done {
            Ok(()) => return self.reply(226, "Transfer complete"),
            Err(failure) => failure,
        };
        match failure {
            Failure::Connect(e) => self.reply(425, format!("No data connection: {e}")),
            Failure::NotResumed(code) => {
                let text = "Data connections must resume the control connection's TLS session";
                self.reply(code, text)
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
        verb: &'static str,
        tcp: TcpStream,
        tls: Option<Arc<ServerConfig>>,
        work: impl FnOnce(Stream, &Plan) -> Result<(), Failure> + Send,
    ) -> Result<(), Failure> {
        let config = &self.server.config;
        let wait = config.data_wait;
        let plan = self.plan.clone();
        let no_resumption = plan.find(|what| match what {
            What::NoResumption(code) => Some(*code),
            _ => None,
        });
        let tls = match no_resumption {
            Some(_) => tls.map(|_| self.server.identity.without_sessions()),
            None => tls,
        };
        let refusal = match no_resumption {
            Some(code) => code,
            None => config.require_reuse.then_some(522),
        };
        let watched = self.watched.clone();
        let wire = watched.map(|watched| Arc::new(Wire::data(watched, verb, tls.is_some())));
        let socket = tcp.try_clone().map_err(Failure::Connect)?;
        let (ended, end) = io::pipe().map_err(Failure::Connect)?;
        thread::scope(|scope| {
            let work = move || {
                let _end = End(end);
                let data = match wire {
                    Some(wire) => Stream::tapped(tcp, wire),
                    None => Stream::new(tcp),
                };
                let mut data = data.map_err(Failure::Connect)?;
                if let Some(tls) = tls {
                    protect(&mut data, tls, refusal, Instant::now() + wait)?;
                }
                work(data, &plan)
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
    refusal: Option<u16>,
    deadline: Instant,
) -> Result<(), Failure> {
    let server = ServerConnection::new(tls).map_err(|e| Failure::Connect(io::Error::other(e)))?;
    data.start_tls(server, deadline).map_err(Failure::Connect)?;
    let kind = data.tls().and_then(|tls| tls.handshake_kind());
    match refusal {
        Some(code) if kind != Some(HandshakeKind::Resumed) => Err(Failure::NotResumed(code)),
        _ => Ok(()),
    }
}

/// A data connection that sends, and what fault rules want of it.
struct Sender {
    data: Stream,
    /// Bytes after which the data ends as if it were complete.
    left: Option<u64>,
    close_notify: bool,
}

/// Sends a file from where it stands.
pub(super) fn send_file(data: Stream, mut file: File, plan: &Plan) -> Result<(), Failure> {
    let mut sender = Sender::new(data, plan);
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return sender.finish(),
            Ok(n) => sender.send(&chunk[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Failure::File(e)),
        }
    }
}

/// Sends lines, as `produce` gives them to the function it is handed.
pub(super) fn send_lines(
    data: Stream,
    plan: &Plan,
    produce: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut sender = Sender::new(data, plan);
    let mut text = Vec::with_capacity(CHUNK);
    produce(&mut |line| {
        text.extend_from_slice(line);
        text.extend_from_slice(b"\r\n");
        if text.len() < CHUNK - (8 << 10) {
            return Ok(());
        }
        sender.send(&text)?;
        text.clear();
        Ok(())
    })?;
    sender.send(&text)?;
    // Until the client has had enough.
    while plan.has(&What::EndlessListingLine) {
        sender.send(&[b'x'; 1000])?;
    }
    sender.finish()
}

/// Receives a file to where it stands. What came before a failure stays in it, as with every
/// FTP server; the client is told by 426 or 45x. Success means that the file was closed without
/// an error.
pub(super) fn receive_file(mut data: Stream, file: File, plan: &Plan) -> Result<(), Failure> {
    let mut disk = Disk {
        file,
        full: plan.find(|what| match what {
            What::Full(byte, code) => Some((byte - 1, *code)),
            _ => None,
        }),
    };
    let mut chunk = vec![0; CHUNK];
    loop {
        // Under TLS the end is the client's close_notify; a bare FIN is an error here.
        match data.read(&mut chunk, Instant::now() + STALL) {
            Ok(0) => break,
            Ok(n) => disk.write(&chunk[..n]).map_err(Failure::File)?,
            Err(e) => return Err(Failure::Broken(e)),
        }
    }
    nix::unistd::close(disk.file)?;
    if !plan.has(&What::NoCloseNotify) {
        // The file is safe; a client that is gone already takes nothing from that.
        let _ = data.close_notify(Instant::now() + LINGER);
    }
    Ok(())
}

impl Sender {
    fn new(data: Stream, plan: &Plan) -> Self {
        Self {
            data,
            left: plan.find(|what| match what {
                What::Cut(byte) => Some(byte - 1),
                _ => None,
            }),
            close_notify: !plan.has(&What::NoCloseNotify),
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        if let Some(left) = &mut self.left {
            bytes = &bytes[..bytes
                .len()
                .min(usize::try_from(*left).unwrap_or(usize::MAX))];
            *left -= bytes.len() as u64;
        }
        self.data
            .write_all(bytes, Instant::now() + STALL)
            .map_err(Failure::Broken)
    }

    /// close_notify, FIN, and then the client's end, for a while: closing at once could reset
    /// what is still under way. A client that resets instead did not want the rest.
    fn finish(mut self) -> Result<(), Failure> {
        let broken = Failure::Broken;
        if self.close_notify {
            let end = Instant::now() + STALL;
            self.data.close_notify(end).map_err(broken)?;
        }
        self.data.tcp().shutdown(Shutdown::Write).map_err(broken)?;
        match self.data.read(&mut [0; 1024], Instant::now() + LINGER) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Err(Failure::Broken(e)),
            _ => Ok(()),
        }
    }
}

/// A file that a fault rule may let have no more room.
struct Disk {
    file: File,
    /// Bytes that find room, and the reply when there is none.
    full: Option<(u64, u16)>,
}

impl Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some((room, code)) = &mut self.full else {
            return self.file.write_all(bytes);
        };
        let fits = bytes
            .len()
            .min(usize::try_from(*room).unwrap_or(usize::MAX));
        *room -= fits as u64;
        self.file.write_all(&bytes[..fits])?;
        match code {
            _ if fits == bytes.len() => Ok(()),
            // Says nothing of it.
            226 => Ok(()),
            552 => Err(Errno::EDQUOT.into()),
            _ => Err(Errno::ENOSPC.into()),
        }
    }
}

/// Bound, but not listening: it refuses.
fn closed_port(any: SocketAddr) -> io::Result<Vec<Socket>> {
    let socket = Socket::new(Domain::for_address(any), Type::STREAM, None)?;
    socket.bind(&any.into())?;
    Ok(vec![socket])
}

/// Listens, and its queue is full already: the kernel answers no SYN any more.
fn silent_port(any: SocketAddr) -> io::Result<Vec<Socket>> {
    let mut sockets = closed_port(any)?;
    sockets[0].listen(0)?;
    let address = sockets[0].local_addr()?;
    for _ in 0..2 {
        let filler = Socket::new(Domain::for_address(any), Type::STREAM, None)?;
        filler.set_nonblocking(true)?;
        // The one that finds no room stays without an answer, like the client's.
        let _ = filler.connect(&address);
        sockets.push(filler);
    }
    Ok(sockets)
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
