//! TCP: names to addresses, and every address tried in turn, all within one deadline.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Socket, TcpKeepalive, Type};

use super::{Config, Error, Proxy, Reached, Server};

/// TCP's own probes notice a peer that vanished while nobody sends.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Connects to the first address of the server that answers.
pub(super) fn connect(server: &Server, deadline: Instant) -> Result<TcpStream, Error> {
    let config = &server.config;
    let connected = match &config.special.proxy {
        None => connect_any(config, None, deadline),
        Some(proxy) => through(proxy, config, (&config.host, config.port), None, deadline),
    };
    connected.map_err(|error| Error::Connect {
        target: server.name(),
        why: error.to_string(),
    })
}

/// Connects for data, to an address that the server told. Behind a proxy an address that is not
/// specified is the server's own.
pub(super) fn connect_data(
    config: &Config,
    address: SocketAddr,
    window: Option<usize>,
    deadline: Instant,
) -> io::Result<TcpStream> {
    let Some(proxy) = &config.special.proxy else {
        return connect_one(config, address, window, config.connect_timeout, deadline);
    };
    let told = address.ip().to_string();
    let host = if address.ip().is_unspecified() {
        &config.host
    } else {
        &told
    };
    through(proxy, config, (host, address.port()), window, deadline)
}

fn through(
    proxy: &Proxy,
    config: &Config,
    (host, port): (&str, u16),
    window: Option<usize>,
    deadline: Instant,
) -> io::Result<TcpStream> {
    let deadline = deadline.min(Instant::now() + config.connect_timeout);
    let tcp = connect_any(config, window, deadline)?;
    proxy.pass(&tcp, host, port, deadline)?;
    Ok(tcp)
}

/// Connects to the first address that answers: of the proxy, where there is one.
fn connect_any(config: &Config, window: Option<usize>, deadline: Instant) -> io::Result<TcpStream> {
    let addresses = addresses(config, deadline)?;
    let mut last = io::Error::other("the name has no address");
    for (tried, address) in addresses.iter().enumerate() {
        // A share of the time for each that is left, so that dead ones do not use it all up.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let timeout = share.min(config.connect_timeout);
        match connect_one(config, *address, window, timeout, deadline) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to each address of the server, and closes again.
pub(super) fn reach(config: &Config, deadline: Instant) -> io::Result<Vec<Reached>> {
    let addresses = addresses(config, deadline)?;
    let try_one = |address: SocketAddr| {
        let began = Instant::now();
        let tried = connect_one(config, address, None, config.connect_timeout, deadline);
        (address, tried.map(|_| began.elapsed()))
    };
    Ok(addresses.into_iter().map(try_one).collect())
}

/// Connects to one address within the shorter of both bounds. `window`: how many bytes the peer
/// may send before they are read; `None` leaves that to the kernel.
fn connect_one(
    config: &Config,
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
    let socket = socket(config, address)?;
    if let Some(window) = window {
        // Only before it connects: a window that the peer has been offered stays.
        socket.set_recv_buffer_size(window)?;
    }
    socket.connect_timeout(&address.into(), left)?;
    probed(socket)
}

/// Begins to connect, and waits for nothing; the socket is in non-blocking mode.
pub(super) fn begin(config: &Config, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(config, address)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(e) if e.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(e),
        _ => probed(socket),
    }
}

/// From our own address that the user wishes.
fn socket(config: &Config, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(own) = config.special.bind {
        if own.is_ipv4() != to.is_ipv4() {
            let why = format!("bind={own} does not go with {}", to.ip());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let bound = socket.bind(&SocketAddr::new(own, 0).into());
        bound.map_err(|error| io::Error::new(error.kind(), format!("bind={own}: {error}")))?;
    }
    Ok(socket)
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
    if !config.addresses.is_empty() && config.special.proxy.is_none() {
        return Ok(config.addresses.clone());
    }
    let (host, port) = match &config.special.proxy {
        Some(proxy) => (proxy.host.clone(), proxy.port),
        None => (config.host.clone(), config.port),
    };
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
