//! A link between a client and a server on which time is counted, not measured: whatever is sent
//! arrives one half-trip later, and the clock of half-trips moves on only when both ends have
//! nothing more to say. What it shows is the number of round trips on the critical path, over the
//! control connection and all data connections together, however slow the machine is.
//!
//! It knows nothing of FTP: ports that the server opens are found among the kernel's listening
//! sockets, and opened on the link's own address as well.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Both ends are taken to be done when nothing came for this long.
const QUIET_MS: u8 = 12;
/// So many quiet spells in a row, with nothing under way, and the link is at rest.
const RESTFUL: u64 = 12;

/// A running link.
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Half-trips so far.
    clock: AtomicU64,
    /// Quiet spells in a row with nothing under way.
    quiet: AtomicU64,
    connections: AtomicU64,
    stop: AtomicBool,
}

impl Link {
    /// To the server's control connection. Its data connections are those that it listens for on
    /// ports of `data`.
    pub fn to(server: SocketAddr, data: RangeInclusive<u16>) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let process = std::process::id().to_le_bytes();
        let number = NEXT.fetch_add(1, Ordering::Relaxed) as u8;
        let own = Ipv4Addr::new(127, 2 + process[1] % 250, process[0], number);
        let control = listen(SocketAddr::from((own, 0))).expect("listen on the link");
        let address = control.local_addr().expect("listening");
        let shared = Arc::new(Shared::default());
        let relay = Relay {
            shared: shared.clone(),
            data,
            listeners: vec![(control, server)],
            known: HashSet::from([address.port()]),
            pipes: Vec::new(),
            connected_at: None,
        };
        let thread = std::thread::spawn(move || relay.run());
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    /// Where the client connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections made through it so far, control and data.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The round trips that `operation` takes, begun on a link at rest.
    pub fn count<T>(&self, operation: impl FnOnce() -> T) -> (u64, T) {
        self.rest();
        let before = self.shared.clock.load(Ordering::SeqCst);
        let value = operation();
        let after = self.shared.clock.load(Ordering::SeqCst);
        ((after - before) / 2, value)
    }

    /// Waits until nothing is under way, nor will be without another request.
    pub fn rest(&self) {
        self.shared.quiet.store(0, Ordering::SeqCst);
        let rests = super::wait_until(Duration::from_secs(30), || {
            self.shared.quiet.load(Ordering::SeqCst) >= RESTFUL
        });
        assert!(rests, "the link does not come to rest");
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the link's thread panicked");
        }
    }
}

struct Relay {
    shared: Arc<Shared>,
    data: RangeInclusive<u16>,
    listeners: Vec<(TcpListener, SocketAddr)>,
    /// Ports that are listened on already.
    known: HashSet<u16>,
    pipes: Vec<Pipe>,
    /// When a connection was made last: connect(2) would have waited for a round trip, so what
    /// the client says at the same time is said after it.
    connected_at: Option<u64>,
}

/// One direction of a connection.
struct Pipe {
    from: TcpStream,
    to: End,
    from_client: bool,
    /// Under way, with the time of arrival.
    held: VecDeque<(u64, Sent)>,
    ended: bool,
}

/// Where a pipe leads.
enum End {
    There(TcpStream),
    /// The server, which has not heard of the connection yet.
    ToDial(SocketAddr),
}

enum Sent {
    Connect,
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

impl Relay {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            let busy = self.wait() && self.receive();
            if busy {
                self.shared.quiet.store(0, Ordering::SeqCst);
            } else if !self.deliver() {
                self.shared.quiet.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Whether anything came before it was quiet for long enough.
    fn wait(&self) -> bool {
        let open = self.pipes.iter().filter(|pipe| !pipe.ended);
        let fds = open.map(|pipe| pipe.from.as_fd());
        let listening = self.listeners.iter().map(|(listener, _)| listener.as_fd());
        let mut fds: Vec<_> = fds
            .chain(listening)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        poll(&mut fds, PollTimeout::from(QUIET_MS)).is_ok_and(|ready| ready > 0)
    }

    fn receive(&mut self) -> bool {
        let came: Vec<_> = self.pipes.iter_mut().map(Pipe::receive).collect();
        let now = self.shared.clock.load(Ordering::SeqCst);
        // After the bytes: who writes once connect(2) is back is not to be seen before it.
        let mut busy = false;
        for at in 0..self.listeners.len() {
            let (listener, server) = &self.listeners[at];
            let server = *server;
            while let Ok((client, _)) = listener.accept() {
                busy = true;
                self.connected_at = Some(now);
                self.shared.connections.fetch_add(1, Ordering::SeqCst);
                client.set_nodelay(true).expect("a socket option");
                client.set_nonblocking(true).expect("a socket option");
                self.pipes.push(Pipe {
                    from: client,
                    to: End::ToDial(server),
                    from_client: true,
                    held: VecDeque::from([(now + 3, Sent::Connect)]),
                    ended: false,
                });
            }
        }
        for (pipe, came) in self.pipes.iter_mut().zip(came) {
            let waits = pipe.from_client && self.connected_at == Some(now);
            let arrives = now + if waits { 3 } else { 1 };
            busy |= !came.is_empty();
            pipe.held
                .extend(came.into_iter().map(|sent| (arrives, sent)));
        }
        busy
    }

    /// Moves the clock on to the next arrival; false where nothing is under way.
    fn deliver(&mut self) -> bool {
        let next = self.pipes.iter().filter_map(|pipe| pipe.held.front());
        let Some(now) = next.map(|(arrives, _)| *arrives).min() else {
            return false;
        };
        self.open_data_ports();
        self.shared.clock.store(now, Ordering::SeqCst);
        let mut dialled = Vec::new();
        for pipe in &mut self.pipes {
            while pipe
                .held
                .front()
                .is_some_and(|(arrives, _)| *arrives <= now)
            {
                let (_, sent) = pipe.held.pop_front().expect("there is one");
                dialled.extend(pipe.deliver(sent));
            }
        }
        self.pipes.extend(dialled);
        self.pipes
            .retain(|pipe| !pipe.ended || !pipe.held.is_empty());
        true
    }

    /// Listens where the server does: what tells the client of a port is still under way.
    fn open_data_ports(&mut self) {
        let (control, server) = &self.listeners[0];
        let own = control.local_addr().expect("listening").ip();
        let server = server.ip();
        for port in listening_ports() {
            if self.data.contains(&port)
                && self.known.insert(port)
                && let Some(listener) = listen(SocketAddr::new(own, port))
            {
                let there = SocketAddr::new(server, port);
                self.listeners.push((listener, there));
            }
        }
    }
}

impl Pipe {
    fn receive(&mut self) -> Vec<Sent> {
        let mut came = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        while !self.ended {
            match self.from.read(&mut chunk) {
                Ok(0) => came.push(Sent::Fin),
                Ok(n) => came.push(Sent::Bytes(chunk[..n].to_vec())),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => came.push(Sent::Reset),
            }
            self.ended = !matches!(came.last(), Some(Sent::Bytes(_)));
        }
        if !came.is_empty() {
            // A sender that waits for the acknowledgement would seem to be done.
            let _ = socket2::SockRef::from(&self.from).set_tcp_quickack(true);
        }
        came
    }

    /// The way back, where this connected.
    fn deliver(&mut self, sent: Sent) -> Option<Pipe> {
        match (&mut self.to, sent) {
            (End::ToDial(server), Sent::Connect) => {
                let Ok(there) = TcpStream::connect(*server) else {
                    reset(&self.from);
                    self.ended = true;
                    return None;
                };
                there.set_nodelay(true).expect("a socket option");
                there.set_nonblocking(true).expect("a socket option");
                let back = Pipe {
                    from: there.try_clone().expect("duplicate a socket"),
                    to: End::There(self.from.try_clone().expect("duplicate a socket")),
                    from_client: false,
                    held: VecDeque::new(),
                    ended: false,
                };
                self.to = End::There(there);
                return Some(back);
            }
            (End::There(to), Sent::Bytes(bytes)) => write(to, &bytes),
            // Whoever closed both ways already does not hear it.
            (End::There(to), Sent::Fin) => drop(to.shutdown(Shutdown::Write)),
            (End::There(to), Sent::Reset) => reset(to),
            (End::ToDial(_), _) | (End::There(_), Sent::Connect) => {}
        }
        None
    }
}

/// Tests send little: what the socket does not take at once it takes soon.
fn write(mut to: &TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                let ready = poll(&mut fds, PollTimeout::from(10_000_u16));
                assert!(
                    ready.is_ok_and(|ready| ready > 0),
                    "nobody reads on the link"
                );
            }
            // Closed meanwhile.
            Err(_) => return,
        }
    }
}

fn reset(to: &TcpStream) {
    let _ = socket2::SockRef::from(to).set_linger(Some(Duration::ZERO));
    let _ = to.shutdown(Shutdown::Both);
}

/// `None` where another has the port on this address.
fn listen(address: SocketAddr) -> Option<TcpListener> {
    let listener = TcpListener::bind(address).ok()?;
    listener.set_nonblocking(true).expect("a socket option");
    Some(listener)
}

/// Every port that some process of this machine listens on.
fn listening_ports() -> Vec<u16> {
    const LISTEN: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|table| fs::read_to_string(table).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let port = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let (_, port) = local.rsplit_once(':')?;
        (state == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    };
    lines.filter_map(port).collect()
}

/// The address of a server on this machine.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
