//! Opening data connections: EPSV or PASV, EPRT or PORT, and the TLS handshake on them.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use rustls::HandshakeKind;
use socket2::SockRef;

use crate::proto::{Command, EndpointError, Reply, parse_epsv, parse_pasv};
use crate::tls::{Handshake, SessionTls, Stream, in_time, wait};

use super::connect::connect_data;
use super::{Error, Session};

/// Over longer links TCP's slow start keeps small what a server sends before it is disturbed.
const LONG_TRIP: Duration = Duration::from_millis(5);

/// A way for the next transfer's data, agreed with the server.
pub(super) enum Endpoint {
    /// Passive: connected just now, or ahead of need, so long ago.
    Connected {
        tcp: TcpStream,
        ahead: Option<Duration>,
    },
    /// Active: the server will connect, from `peer` only.
    Listening { listener: TcpListener, peer: IpAddr },
}

impl Endpoint {
    /// Agrees on an endpoint for `command` as the options and the server have it, or takes the one that was
    /// opened ahead. `window`: how many bytes the server may send before they are read, where that
    /// is to be few.
    pub(super) fn open(
        session: &mut Session,
        command: &Command,
        window: Option<usize>,
        deadline: Instant,
    ) -> Result<Self, Error> {
        if session.server().config.active {
            return listen(session, window, deadline);
        }
        // On one that is open the kernel has offered 64 KiB. Over a long link no more than half of that is
        // under way before the server hears that it is enough, and another costs two round trips.
        let fits = window.is_none() || session.round_trip() > LONG_TRIP;
        if let (Some((tcp, age)), true) = (session.take_ahead(deadline)?, fits) {
            let ahead = Some(age);
            return Ok(Self::Connected { tcp, ahead });
        }
        let tcp = connect(session, command, window, deadline)?;
        Ok(Self::Connected { tcp, ahead: None })
    }

    /// How long ago it was opened, if it was ahead of need.
    pub(super) fn ahead(&self) -> Option<Duration> {
        match self {
            Self::Connected { ahead, .. } => *ahead,
            Self::Listening { .. } => None,
        }
    }

    /// The stream, if it is there without waiting; a listener that nobody called on comes back.
    pub(super) fn stream_now(self) -> io::Result<Result<Stream, Self>> {
        match self {
            Self::Connected { tcp, .. } => Stream::new(tcp).map(Ok),
            Self::Listening { listener, peer } => loop {
                match listener.accept() {
                    // Another host's connection is not the server's: an attack, or a stray.
                    Ok((tcp, from)) if from.ip().to_canonical() == peer => {
                        return Stream::new(tcp).map(Ok);
                    }
                    Ok((_, from)) => log::warn!("data connection from {from} refused"),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(Err(Self::Listening { listener, peer }));
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            },
        }
    }

    /// What to wait on until [`Endpoint::stream_now`] has a stream.
    pub(super) fn listener(&self) -> Option<&TcpListener> {
        match self {
            Self::Connected { .. } => None,
            Self::Listening { listener, .. } => Some(listener),
        }
    }
}

fn connect(
    session: &mut Session,
    command: &Command,
    window: Option<usize>,
    deadline: Instant,
) -> Result<TcpStream, Error> {
    let address = passive_address(session, command, deadline)?;
    connect_data(&session.server().config, address, window, deadline).map_err(|e| {
        // A dead data port says nothing about the control connection, but the server may now
        // wait on that port for long: the session is given up.
        Error::lost(format!("the data connection to {address}"), e)
    })
}

fn passive_address(
    session: &mut Session,
    command: &Command,
    deadline: Instant,
) -> Result<SocketAddr, Error> {
    if session.profile().wants_pret == Some(true) {
        session.execute(&command.announced(), deadline)?;
    }
    let first = passive_command(session);
    let mut reply = session.execute(&first, deadline)?;
    if reply.code.is_permanent() && may_want_pret(session) {
        session.execute(&command.announced(), deadline)?;
        reply = session.execute(&first, deadline)?;
        let wants = !reply.code.is_permanent();
        session.learn(|p| p.wants_pret = Some(wants));
    }
    if let Some(address) = passive_reply(session, &first, &reply)? {
        return Ok(address);
    }
    let reply = session.execute(&Command::Pasv, deadline)?;
    passive_reply(session, &Command::Pasv, &reply)?
        .ok_or_else(|| Error::refused(&Command::Pasv, reply))
}

/// Servers whose data lies elsewhere (DrFTPD) must know what a port is for: a refusal may mean that.
fn may_want_pret(session: &Session) -> bool {
    session.profile().wants_pret.is_none() && session.features().has("PRET")
}

/// How to ask for a port to connect to.
pub(super) fn passive_command(session: &Session) -> Command {
    match session.profile().epsv_refused {
        true => Command::Pasv,
        false => Command::Epsv,
    }
}

/// Where to connect: always to the control connection's peer, unless the user trusts the 227.
/// `None` where PASV is to be tried after EPSV.
pub(super) fn passive_reply(
    session: &Session,
    command: &Command,
    reply: &Reply,
) -> Result<Option<SocketAddr>, Error> {
    let peer = session.peer();
    let violated = |e: EndpointError| Error::Protocol(format!("{e}: {reply}"));
    match (command, reply.code.as_u16()) {
        (Command::Epsv, 229) => {
            let port = parse_epsv(reply).map_err(violated)?;
            return Ok(Some(with_port(peer, port)));
        }
        (Command::Pasv, 227) => {
            let named = parse_pasv(reply).map_err(violated)?;
            let trusted = session.server().config.trust_pasv_address;
            return Ok(Some(match trusted {
                true => named.into(),
                false => with_port(peer, named.port()),
            }));
        }
        _ => {}
    }
    if is_limit(reply) {
        return Err(Error::Busy(reply.to_string()));
    }
    if *command == Command::Pasv || (peer.is_ipv6() && reply.code.is_permanent()) {
        return Err(Error::refused(command, reply.clone()));
    }
    if !reply.code.is_permanent() {
        // 426, 226: a late word on an earlier transfer. The connection is out of step.
        return Err(Error::lost("EPSV", reply));
    }
    if matches!(reply.code.as_u16(), 500..=504 | 522) && !may_want_pret(session) {
        session.learn(|p| p.epsv_refused = true);
    }
    Ok(None)
}

/// ProFTPD may count its clients only here: "530 Sorry, the maximum number of clients".
fn is_limit(reply: &Reply) -> bool {
    let refused = reply.code.is_transient() || reply.code.is_permanent();
    let says_so = || reply.text().to_ascii_lowercase().contains("maximum");
    reply.code.as_u16() == 530 || (refused && says_so())
}

/// Another port of the same host; a link-local address keeps the interface it is on.
fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

fn listen(
    session: &mut Session,
    window: Option<usize>,
    deadline: Instant,
) -> Result<Endpoint, Error> {
    let failed = |e: io::Error| Error::lost("opening a port for an active data connection", e);
    let local = session.local().map_err(failed)?;
    let listener = TcpListener::bind(with_port(local, 0)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    if let Some(window) = window {
        // What it accepts inherits that.
        let socket = SockRef::from(&listener);
        socket.set_recv_buffer_size(window).map_err(failed)?;
    }
    let address = listener.local_addr().map_err(failed)?;
    let command = if session.profile().eprt_refused {
        port(address)
    } else {
        None
    }
    .unwrap_or(Command::Eprt(address));
    let mut reply = session.execute(&command, deadline)?;
    if reply.code.is_permanent()
        && matches!(command, Command::Eprt(_))
        && let Some(command) = port(address)
    {
        reply = session.execute(&command, deadline)?;
        session.learn(|p| p.eprt_refused = true);
    }
    if !reply.code.is_completion() {
        return Err(Error::refused(&command, reply));
    }
    Ok(Endpoint::Listening {
        listener,
        peer: session.peer().ip(),
    })
}

fn port(address: SocketAddr) -> Option<Command> {
    match address {
        SocketAddr::V4(v4) => Some(Command::Port(SocketAddrV4::new(*v4.ip(), v4.port()))),
        SocketAddr::V6(_) => None,
    }
}

/// A data connection on its way to be ready.
pub(super) enum DataOpening {
    Endpoint(Endpoint),
    Handshaking(Stream, Handshake),
    Open(Stream),
    Failed(io::Error),
}

impl DataOpening {
    /// Goes as far as it can without waiting. The ClientHello leaves at once.
    pub(super) fn advance(&mut self, tls: &SessionTls) -> io::Result<()> {
        let closed = || DataOpening::Failed(io::ErrorKind::UnexpectedEof.into());
        *self = match std::mem::replace(self, closed()) {
            Self::Endpoint(endpoint) => match endpoint.stream_now()? {
                Err(endpoint) => Self::Endpoint(endpoint),
                Ok(mut data) => {
                    data.begin_tls(tls.connection().map_err(io::Error::other)?);
                    Self::shake(data)?
                }
            },
            Self::Handshaking(data, _) => Self::shake(data)?,
            done @ (Self::Open(_) | Self::Failed(_)) => done,
        };
        Ok(())
    }

    fn shake(mut data: Stream) -> io::Result<Self> {
        Ok(match data.handshake()? {
            Handshake::Complete => Self::Open(data),
            pending => Self::Handshaking(data, pending),
        })
    }

    pub(super) fn wait_for<'a>(&'a self, waiting: &mut Vec<PollFd<'a>>) {
        match self {
            Self::Endpoint(endpoint) => waiting.extend(
                endpoint
                    .listener()
                    .map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)),
            ),
            Self::Handshaking(data, Handshake::Pending { wants_write: true }) => {
                waiting.push(PollFd::new(data.as_fd(), PollFlags::POLLOUT));
            }
            Self::Handshaking(data, _) => {
                waiting.push(PollFd::new(data.as_fd(), PollFlags::POLLIN));
            }
            Self::Open(_) | Self::Failed(_) => {}
        }
    }

    /// Of a handshake that is complete.
    pub(super) fn handshake_kind(&self) -> Option<HandshakeKind> {
        match self {
            Self::Open(data) => data.tls()?.handshake_kind(),
            Self::Endpoint(_) | Self::Handshaking(..) | Self::Failed(_) => None,
        }
    }

    pub(super) fn reset(self) {
        if let Self::Handshaking(data, _) | Self::Open(data) = self {
            reset(data);
        }
    }
}

/// Ends a data connection that is to fail: a reset, never a FIN (which kills ProFTPD's session
/// in the middle of a RETR).
pub(super) fn reset(data: Stream) {
    // The reset goes out when the socket closes: here.
    let _ = SockRef::from(data.tcp()).set_linger(Some(Duration::ZERO));
    drop(data);
}

/// Acknowledge at once what came: Pure-FTPd's short answers, and vsftpd's 226 behind its 150, wait 40 ms
/// for it otherwise (Nagle's algorithm against delayed acknowledgements).
pub(super) fn acknowledge_quickly(stream: &Stream) {
    let _ = SockRef::from(stream.tcp()).set_tcp_quickack(true);
}

/// After close_notify on an upload: no more from us, and the rest of theirs to the end.
pub(super) fn half_close(data: &mut Stream, deadline: Instant) -> io::Result<()> {
    data.tcp().shutdown(std::net::Shutdown::Write)?;
    let mut sink = [0; 4096];
    loop {
        match data.read_now(&mut sink) {
            Ok(Some(0)) => return Ok(()),
            Ok(Some(_)) => in_time(deadline)?,
            Ok(None) => wait(data.as_fd(), PollFlags::POLLIN, deadline)?,
            // Many servers close here without close_notify: the 226 decides.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// RFC 2577 section 3: whoever guesses the port gets nothing, and the server is still awaited.
    #[test]
    fn another_hosts_connection_in_active_mode_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let port = listener.local_addr().expect("its address");
        let call_from = |host: [u8; 4]| {
            let caller = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let from = SocketAddr::from((host, 0));
            caller.bind(&from.into()).expect("an address");
            caller.connect(&port.into()).expect("connected");
            TcpStream::from(caller)
        };
        let peer = IpAddr::from([127, 0, 0, 1]);
        let endpoint = Endpoint::Listening { listener, peer };
        let mut stranger = call_from([127, 0, 0, 2]);
        let Err(endpoint) = endpoint.stream_now().expect("a listener") else {
            panic!("a stranger was taken for the server");
        };
        assert_eq!(stranger.read(&mut [0; 1]).unwrap_or(0), 0);
        let mut server = call_from([127, 0, 0, 1]);
        let stream = endpoint.stream_now().expect("a listener");
        let stream = stream.unwrap_or_else(|_| panic!("the server was refused"));
        reset(stream);
        assert!(server.read(&mut [0; 1]).is_err(), "nothing was awaited");
    }
}
