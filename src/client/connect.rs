//! TCP: names to addresses, and every address tried in turn, all within one deadline.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Socket, TcpKeepalive, Type};

use super::{Config, Error, Reached, Server};

/// TCP's own probes notice a peer that vanished while nobody sends.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Connects to the first address of the server that answers.
pub(super) fn connect(server: &Server, deadline: Instant) -> Result<TcpStream, Error> {
    let addresses = addresses(&server.config, deadline).map_err(|e| Error::Connect {
        target: server.name(),
        why: e.to_string(),
    })?;
    let mut last = None;
    for (tried, address) in addresses.iter().enumerate() {
        // A share of the time for each that is left, so that dead ones do not use it all up.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let timeout = share.min(server.config.connect_timeout);
        match connect_one(*address, None, timeout, deadline) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = Some(error),
        }
    }
    let why = last.map_or("the name has no address".to_owned(), |e| e.to_string());
    Err(Error::Connect {
        target: server.name(),
        why,
    })
}

/// Connects to each address of the server, and closes again.
pub(super) fn reach(config: &Config, deadline: Instant) -> io::Result<Vec<Reached>> {
    let addresses = addresses(config, deadline)?;
    let try_one = |address: SocketAddr| {
        let began = Instant::now();
        let tried = connect_one(address, None, config.connect_timeout, deadline);
        (address, tried.map(|_| began.elapsed()))
    };
    Ok(addresses.into_iter().map(try_one).collect())
}

/// Connects to one address within the shorter of both bounds. `window`: how many bytes the peer
/// may send before they are read; `None` leaves that to the kernel.
pub(super) fn connect_one(
    address: SocketAddr,
    window: Option<usize>,
    timeout: Duration,
    deadline: Instant,
) -> io::Result<TcpStream> {
    let left = deadline
        .saturating_duration_since(Instant::now())
        .min(timeout);
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(window) = window {
        // Only before it connects: a window that the peer has been offered stays.
        socket.set_recv_buffer_size(window)?;
    }
    socket.connect_timeout(&address.into(), left)?;
    probed(socket)
}

/// Begins to connect, and waits for nothing; the socket is in non-blocking mode.
pub(super) fn begin(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(e) if e.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(e),
        _ => probed(socket),
    }
}

fn probed(socket: Socket) -> io::Result<TcpStream> {
    let probes = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_INTERVAL);
    socket.set_tcp_keepalive(&probes)?;
    Ok(socket.into())
}

/// An IPv4 address in IPv6 dress as the IPv4 address that it is; any other as it stands, a
/// link-local one with the interface it is on.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// getaddrinfo(3) knows no deadline, so it runs in a thread that may outlive the wait for it.
fn addresses(config: &Config, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    if !config.addresses.is_empty() {
        return Ok(config.addresses.clone());
    }
    let (host, port) = (config.host.clone(), config.port);
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("resolve".to_owned())
        .spawn(move || {
            let found = (host.as_str(), port)
                .to_socket_addrs()
                .map(|list| list.collect());
            let _ = sender.send(found);
        })?;
    let left = deadline.saturating_duration_since(Instant::now());
    receiver.recv_timeout(left).unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the name was not resolved in time",
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use super::*;

    #[test]
    fn a_link_local_peer_keeps_its_interface() {
        let link_local = SocketAddrV6::new("fe80::1".parse().expect("an address"), 21, 0, 3);
        assert_eq!(canonical(link_local.into()), link_local.into());
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:21".parse().expect("an address");
        let plain: SocketAddr = "192.0.2.1:21".parse().expect("an address");
        assert_eq!(canonical(mapped), plain);
    }
}
