//! A link between two network namespaces, with a delay and a rate of choice, that counts what passes.
//!
//! With a delay or a rate a TUN device in each namespace is one end, and threads here carry packets from one to
//! the other; without either a veth pair does, so that the relay's own work is not measured. Knows nothing of FTP.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;

pub const SERVER: &str = "10.209.0.2";
const CLIENT: &str = "10.209.0.1";
/// The device's name in either namespace.
const DEVICE: &str = "wire";
/// What a link of limited rate holds before it drops packets.
const QUEUE: Duration = Duration::from_millis(50);
/// `struct virtio_net_hdr`, in front of each packet where the kernel may hand over several segments at once.
const OFFLOAD_HEADER: usize = 10;
const LARGEST: usize = OFFLOAD_HEADER + 65536;
/// How often a round trip is measured.
const TRIES: usize = 15;
/// How often it is seen that the link is to end, milliseconds.
const LOOK: u16 = 100;

/// Two namespaces and the link between them.
pub struct Network {
    client: File,
    server: File,
    /// Of a link that is relayed here.
    counts: Option<Arc<Counts>>,
    /// What a packet waits in the relay, microseconds.
    delay: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// What went over the link so far.
#[derive(Clone, Copy, Default)]
pub struct Traffic {
    /// To the client, bytes.
    pub received: u64,
    /// To the server.
    pub sent: u64,
    /// The longest chain of messages, each of which was sent after the one before it had arrived, in half trips.
    /// Packets that only acknowledge do not count. `None` where the link is not relayed.
    pub half_trips: Option<u64>,
}

/// The longest chain that ended at the client, and at the server.
#[derive(Default)]
struct Counts([AtomicU64; 2]);

impl Network {
    /// `rate`: bytes per second in each direction. What the relay itself takes for a round trip is part of it.
    pub fn new(round_trip: Duration, rate: Option<u64>) -> io::Result<Self> {
        let mut network = Self {
            client: namespace()?,
            server: namespace()?,
            counts: None,
            delay: Arc::new(AtomicU64::new(micros(round_trip / 2))),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        if round_trip.is_zero() && rate.is_none() {
            let there = format!(
                "/proc/{}/fd/{}",
                std::process::id(),
                network.server.as_raw_fd()
            );
            let pair = [
                "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns",
            ];
            within(&network.client, || ip(&[&pair[..], &[&there]].concat()))?;
        } else {
            network.relay(rate)?;
        }
        for (side, address) in [(&network.client, CLIENT), (&network.server, SERVER)] {
            within(side, || {
                ip(&["link", "set", "lo", "up"])?;
                ip(&["address", "add", &format!("{address}/24"), "dev", DEVICE])?;
                ip(&["link", "set", "dev", DEVICE, "txqueuelen", "10000", "up"])
            })?;
        }
        if !round_trip.is_zero() {
            let surplus = within(&network.client, measure)?.saturating_sub(round_trip);
            let less = micros(surplus / 2).min(network.delay.load(Ordering::Relaxed));
            network.delay.fetch_sub(less, Ordering::Relaxed);
        }
        Ok(network)
    }

    /// Puts the calling thread, and what it starts from now on, at that end of the link.
    pub fn enter(&self, side: Side) -> io::Result<()> {
        let namespace = match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        };
        Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
    }

    pub fn traffic(&self) -> io::Result<Traffic> {
        let table = within(&self.client, || {
            fs::read_to_string("/proc/thread-self/net/dev")
        })?;
        let line = table
            .lines()
            .find_map(|line| line.trim().strip_prefix("wire:"));
        let numbers: Vec<u64> = line
            .into_iter()
            .flat_map(str::split_whitespace)
            .filter_map(|number| number.parse().ok())
            .collect();
        let counts = self.counts.as_ref();
        Ok(Traffic {
            received: numbers.first().copied().unwrap_or(0),
            sent: numbers.get(8).copied().unwrap_or(0),
            half_trips: counts.map(|counts| counts.longest()),
        })
    }

    fn relay(&mut self, rate: Option<u64>) -> io::Result<()> {
        let counts = Arc::new(Counts::default());
        // Whole segments are counted and dropped where the rate is limited.
        let offload = rate.is_none();
        let client = within(&self.client, || tun(offload))?;
        let server = within(&self.server, || tun(offload))?;
        for (from, to, receiver) in [(&client, &server, 1), (&server, &client, 0)] {
            let (sender, arrivals) = mpsc::channel();
            let leaving = Leaving {
                tun: from.try_clone()?,
                header: if offload { OFFLOAD_HEADER } else { 0 },
                delay: self.delay.clone(),
                rate,
                counts: counts.clone(),
                receiver,
                stop: self.stop.clone(),
            };
            let (to, counts) = (to.try_clone()?, counts.clone());
            self.threads
                .push(thread::spawn(move || leaving.run(&sender)));
            self.threads.push(thread::spawn(move || {
                arrive(to, &arrivals, &counts, receiver)
            }));
        }
        self.counts = Some(counts);
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Counts {
    fn longest(&self) -> u64 {
        let [client, server] = &self.0;
        client
            .load(Ordering::Relaxed)
            .max(server.load(Ordering::Relaxed))
    }
}

/// A packet under way.
struct Packet {
    bytes: Vec<u8>,
    arrives: Instant,
    /// The chain of messages that it ends, where it is a message.
    chain: Option<u64>,
}

/// Takes what one end sends.
struct Leaving {
    tun: File,
    header: usize,
    delay: Arc<AtomicU64>,
    rate: Option<u64>,
    counts: Arc<Counts>,
    /// Index of the other end in [`Counts`].
    receiver: usize,
    stop: Arc<AtomicBool>,
}

impl Leaving {
    fn run(mut self, sender: &Sender<Packet>) {
        let mut buffer = vec![0; LARGEST];
        let mut free = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let length = match self.tun.read(&mut buffer) {
                Ok(length) => length,
                Err(_) => {
                    let mut fds = [PollFd::new(self.tun.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut fds, PollTimeout::from(LOOK));
                    continue;
                }
            };
            let now = Instant::now();
            if let Some(rate) = self.rate {
                free = free.max(now);
                if free - now > QUEUE {
                    continue;
                }
                free += Duration::from_secs_f64(length as f64 / rate as f64);
            }
            let sent = if self.rate.is_some() { free } else { now };
            let is_message = is_message(&buffer[self.header.min(length)..length]);
            let heard = &self.counts.0[1 - self.receiver];
            let packet = Packet {
                bytes: buffer[..length].to_vec(),
                arrives: sent + Duration::from_micros(self.delay.load(Ordering::Relaxed)),
                chain: is_message.then(|| heard.load(Ordering::Relaxed) + 1),
            };
            if sender.send(packet).is_err() {
                return;
            }
        }
    }
}

/// Hands packets over when they arrive.
fn arrive(mut tun: File, packets: &Receiver<Packet>, counts: &Counts, receiver: usize) {
    // Else the kernel wakes it up to 50 us late.
    let _ = prctl::set_timerslack(1);
    for packet in packets {
        thread::sleep(packet.arrives.saturating_duration_since(Instant::now()));
        if let Some(chain) = packet.chain {
            counts.0[receiver].fetch_max(chain, Ordering::Relaxed);
        }
        // What the other end does not take is lost, as on any link.
        let _ = tun.write(&packet.bytes);
    }
}

/// How long a round trip takes, by connections that are refused: the median.
fn measure() -> io::Result<Duration> {
    let mut trips: Vec<_> = (0..TRIES)
        .map(|_| {
            let begun = Instant::now();
            let refused = TcpStream::connect((SERVER, 9));
            match refused.err().map(|error| error.kind()) {
                Some(io::ErrorKind::ConnectionRefused) => Ok(begun.elapsed()),
                _ => Err(io::Error::other("the link does not work")),
            }
        })
        .collect::<io::Result<_>>()?;
    trips.sort_unstable();
    Ok(trips[trips.len() / 2])
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Whether an IPv4 packet has TCP data in it, or opens a connection.
fn is_message(packet: &[u8]) -> bool {
    const SYN: u8 = 2;
    let Some(&first) = packet.first() else {
        return false;
    };
    let header = usize::from(first & 15) * 4;
    let is_tcp = first >> 4 == 4 && packet.get(9) == Some(&6);
    let Some(tcp) = packet.get(header..header + 14).filter(|_| is_tcp) else {
        return false;
    };
    let data = header + usize::from(tcp[12] >> 4) * 4;
    packet.len() > data || tcp[13] & SYN != 0
}

fn namespace() -> io::Result<File> {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net")
    });
    made.join().expect("a thread that makes a namespace")
}

/// Runs `work` in a namespace, on a thread of its own.
fn within<T: Send>(namespace: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let inside = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    };
    thread::scope(|scope| scope.spawn(inside).join().expect("a thread in a namespace"))
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// A TUN device in the thread's namespace. `offload`: TCP's segments come and go up to 64 KiB at once.
#[allow(unsafe_code)]
fn tun(offload: bool) -> io::Result<File> {
    let tun = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
    if offload {
        flags |= libc::IFF_VNET_HDR;
    }
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(DEVICE.bytes()) {
        *to = from.cast_signed();
    }
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: flags as libc::c_short,
        },
    };
    let check = |result: libc::c_int| match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the request is a whole `ifreq`, which outlives the call; the second takes an integer.
    unsafe {
        check(libc::ioctl(
            tun.as_raw_fd(),
            libc::TUNSETIFF,
            &raw const request,
        ))?;
        if offload {
            let features = libc::TUN_F_CSUM | libc::TUN_F_TSO4;
            check(libc::ioctl(
                tun.as_raw_fd(),
                libc::TUNSETOFFLOAD,
                libc::c_ulong::from(features),
            ))?;
        }
    }
    Ok(tun)
}
