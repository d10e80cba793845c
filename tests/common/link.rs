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
use parking_lot::Mutex;

/// Both ends are taken to be done when nothing came for so many milliseconds, at first.
const QUIET_MS: u16 = 12;
/// So many quiet spells in a row, with nothing under way, and the link is at rest.
const RESTFUL: u64 = 8;

/// A running link.
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    quiet_ms: AtomicU16,
    /// Half-trips so far.
    clock: AtomicU64,
    /// Quiet spells in a row with nothing under way.
    quiet: AtomicU64,
    connections: AtomicU64,
    /// [`Link::forget_unused`].
    forget: Mutex<Option<Forgotten>>,
    stop: AtomicBool,
}

/// Who hears of the end of a connection that was forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forgotten {
    ByServer,
    ByBoth,
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
        let shared = Arc::new(Shared {
            quiet_ms: AtomicU16::new(QUIET_MS),
            clock: AtomicU64::default(),
            quiet: AtomicU64::default(),
            connections: AtomicU64::default(),
            forget: Mutex::default(),
            stop: AtomicBool::default(),
        });
        let relay = Relay {
            shared: shared.clone(),
            data,
            listeners: vec![(control, server)],
            known: HashSet::from([address.port()]),
            pipes: Vec::new(),
            lag: (0, 0),
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

    /// Waits longer for both ends to be done, the more often `tries` says that it was in vain: on a
    /// busy machine whoever has something to say may not have had the time to.
    pub fn be_patient(&self, tries: u32) {
        let quiet = QUIET_MS << tries.min(4);
        self.shared.quiet_ms.store(quiet, Ordering::SeqCst);
    }

    /// The round trips that `operation` takes, begun on a link at rest.
    pub fn count<T>(&self, operation: impl FnOnce() -> T) -> (u64, T) {
        self.rest();
        let before = self.shared.clock.load(Ordering::SeqCst);
        let value = operation();
        let after = self.shared.clock.load(Ordering::SeqCst);
        ((after - before) / 2, value)
    }

    /// Ends every data connection that nothing was sent on yet, as a server or a router may.
    pub fn forget_unused(&self, whose: Forgotten) {
        self.rest();
        *self.shared.forget.lock() = Some(whose);
        self.rest();
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
    /// At which time what the client says is said so much later: connect(2) is back at once here, and
    /// would have waited for a round trip.
    lag: (u64, u64),
}

/// One direction of a connection.
struct Pipe {
    from: TcpStream,
    to: End,
    from_client: bool,
    is_data: bool,
    unused: bool,
    /// When the client connected.
    opened: u64,
    /// Under way, with the time of arrival.
    held: VecDeque<(u64, Sent)>,
    /// Arrived, and not taken: nobody reads. Nothing more is received meanwhile.
    stuck: Vec<u8>,
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
            let forgotten = self.shared.forget.lock().take();
            if let Some(whose) = forgotten {
                self.forget(whose);
            }
            let mut busy = self.wait() && self.receive();
            for pipe in &mut self.pipes {
                busy |= pipe.unstick();
            }
            if busy {
                self.shared.quiet.store(0, Ordering::SeqCst);
            } else if !self.deliver() {
                self.shared.quiet.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn forget(&mut self, whose: Forgotten) {
        for pipe in &mut self.pipes {
            if let (true, true, End::There(there)) = (pipe.unused, pipe.is_data, &pipe.to) {
                if !pipe.from_client {
                    continue;
                }
                let _ = there.shutdown(Shutdown::Both);
                if whose == Forgotten::ByBoth {
                    let _ = pipe.from.shutdown(Shutdown::Both);
                }
            }
        }
    }

    /// Whether anything came before it was quiet for long enough.
    fn wait(&self) -> bool {
        let receiving = |pipe: &&Pipe| !pipe.ended && pipe.stuck.is_empty();
        let open = self.pipes.iter().filter(receiving);
        let fds = open.map(|pipe| pipe.from.as_fd());
        let listening = self.listeners.iter().map(|(listener, _)| listener.as_fd());
        let mut fds: Vec<_> = fds
            .chain(listening)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let quiet = self.shared.quiet_ms.load(Ordering::SeqCst);
        poll(&mut fds, PollTimeout::from(quiet)).is_ok_and(|ready| ready > 0)
    }

    fn receive(&mut self) -> bool {
        let came: Vec<_> = self.pipes.iter_mut().map(Pipe::receive).collect();
        let now = self.shared.clock.load(Ordering::SeqCst);
        let mut busy = false;
        for at in 0..self.listeners.len() {
            let (listener, server) = &self.listeners[at];
            let server = *server;
            while let Ok((client, _)) = listener.accept() {
                busy = true;
                self.shared.connections.fetch_add(1, Ordering::SeqCst);
                client.set_nodelay(true).expect("a socket option");
                client.set_nonblocking(true).expect("a socket option");
                self.pipes.push(Pipe {
                    from: client,
                    to: End::ToDial(server),
                    from_client: true,
                    is_data: at > 0,
                    unused: true,
                    opened: now,
                    held: VecDeque::from([(now + 3, Sent::Connect)]),
                    stuck: Vec::new(),
                    ended: false,
                });
            }
        }
        for (pipe, came) in self.pipes.iter_mut().zip(came) {
            if came.is_empty() {
                continue;
            }
            busy = true;
            if pipe.from_client && pipe.is_data {
                self.lag.1 = match self.lag {
                    (at, lag) if at == now => lag.max((pipe.opened + 2).saturating_sub(now)),
                    _ => (pipe.opened + 2).saturating_sub(now),
                };
                self.lag.0 = now;
            }
            let arrives = (now + 1).max(pipe.opened + if pipe.from_client { 3 } else { 0 });
            pipe.held
                .extend(came.into_iter().map(|sent| (arrives, sent)));
        }
        // Whoever sends on a connection just made has waited for it with all that goes along.
        if let (at, lag @ 1..) = self.lag
            && at == now
        {
            for (arrives, _) in self
                .pipes
                .iter_mut()
                .filter(|p| p.from_client)
                .flat_map(|p| &mut p.held)
            {
                *arrives = (*arrives).max(now + 1 + lag);
            }
        }
        busy
    }

    /// Moves the clock on to the next arrival; false where nothing is under way.
    fn deliver(&mut self) -> bool {
        let moving = self.pipes.iter().filter(|pipe| pipe.stuck.is_empty());
        let next = moving.filter_map(|pipe| pipe.held.front());
        let Some(now) = next.map(|(arrives, _)| *arrives).min() else {
            return false;
        };
        self.open_data_ports();
        self.shared.clock.store(now, Ordering::SeqCst);
        let mut dialled = Vec::new();
        for pipe in &mut self.pipes {
            while pipe.stuck.is_empty()
                && pipe
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
            .retain(|pipe| !(pipe.ended && pipe.held.is_empty() && pipe.stuck.is_empty()));
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
        while !self.ended && self.stuck.is_empty() && came.len() < 4 {
            match self.from.read(&mut chunk) {
                Ok(0) => came.push(Sent::Fin),
                Ok(n) => came.push(Sent::Bytes(chunk[..n].to_vec())),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => came.push(Sent::Reset),
            }
            self.ended = !matches!(came.last(), Some(Sent::Bytes(_)));
        }
        if !came.is_empty() {
            self.unused = false;
            // A sender that waits for the acknowledgement would seem to be done.
            let _ = socket2::SockRef::from(&self.from).set_tcp_quickack(true);
        }
        came
    }

    /// Hands on what has arrived, as far as it is taken; whether some was.
    fn unstick(&mut self) -> bool {
        let End::There(to) = &mut self.to else {
            return false;
        };
        let mut sent = 0;
        while sent < self.stuck.len() {
            match to.write(&self.stuck[sent..]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // Closed meanwhile.
                Err(_) => sent = self.stuck.len(),
            }
        }
        self.stuck.drain(..sent);
        sent > 0
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
                    is_data: self.is_data,
                    unused: true,
                    opened: self.opened,
                    held: VecDeque::new(),
                    stuck: Vec::new(),
                    ended: false,
                };
                self.to = End::There(there);
                return Some(back);
            }
            (End::There(_), Sent::Bytes(bytes)) => {
                self.stuck = bytes;
                self.unstick();
            }
            // Whoever closed both ways already does not hear it.
            (End::There(to), Sent::Fin) => drop(to.shutdown(Shutdown::Write)),
            (End::There(to), Sent::Reset) => reset(to),
            (End::ToDial(_), _) | (End::There(_), Sent::Connect) => {}
        }
        None
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
