//! How fast mounts of an FTPS server are over a link of a chosen length, beside other clients of the same server in
//! the same run. `benches/run --help` tells how to call it.

#[path = "../../tests/common/mod.rs"]
mod common;
mod memory;
mod network;
mod peers;
mod report;
mod rows;

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

use common::server::{Kind, Options, RealServer, UID};
use common::wait_until;
use network::{Network, SERVER, Side};
use peers::{Mounted, Peer, Surroundings};
use report::Result as Measured;
use rows::{ROWS, Row, Scene};

/// Measures ftpsfs, and the other clients that are installed, over a link between two network namespaces.
#[derive(Parser)]
#[command(name = "benches/run")]
struct Arguments {
    /// Only these rows; all where none is named
    rows: Vec<String>,
    /// Round trips to measure at, milliseconds
    #[arg(long, value_delimiter = ',', default_value = "0,20,100")]
    rtt: Vec<u32>,
    /// Rate of the link in each direction, Mbit/s
    #[arg(long)]
    rate: Option<u64>,
    /// vsftpd, proftpd, pure-ftpd or pyftpdlib
    #[arg(long, default_value = "vsftpd")]
    server: String,
    /// Only these clients, of ftpsfs, writeback, rclone, sshfs, curl, lftp and memory
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Size of the large file, MiB
    #[arg(long, default_value_t = 512)]
    size: u64,
    /// How often each row is measured: the median counts
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    /// A row that takes longer is given up, seconds
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// Keeps the results in this file
    #[arg(long)]
    save: Option<PathBuf>,
    /// Shows results kept before beside the new ones
    #[arg(long)]
    compare: Option<PathBuf>,
    /// Keeps what the last mount logged, with all that went over the wire, in this file
    #[arg(long)]
    log: Option<PathBuf>,
    /// Said by `cargo bench`; without it nothing is measured
    #[arg(long, hide = true)]
    bench: bool,
    /// Serves the file system in memory on a folder, with a file of so many bytes
    #[arg(long, hide = true, num_args = 2)]
    serve_memory: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    if let [size, dir] = &arguments.serve_memory[..] {
        return Ok(memory::serve(dir.as_ref(), size.parse()?)?);
    }
    if !arguments.bench {
        return Ok(());
    }
    let rows = select(ROWS, &arguments.rows, |row| row.name)?;
    let wanted = select(&Peer::ALL, &arguments.peers, |peer| peer.name())?;
    let (peers, missing): (Vec<Peer>, Vec<Peer>) = wanted
        .into_iter()
        .copied()
        .partition(|peer| peer.is_installed());
    for peer in missing {
        eprintln!("{} is not installed and left out", peer.name());
    }
    let before = match &arguments.compare {
        Some(path) => report::load(path)?,
        None => Vec::new(),
    };
    let mut results = Vec::new();
    for &round_trip in &arguments.rtt {
        let bench = Bench::new(&arguments, round_trip)?;
        for row in rows.iter().filter(|row| round_trip == 0 || !row.local) {
            for &peer in peers.iter().filter(|peer| peer.takes_part(row.name)) {
                let result = bench.median(row, peer, arguments.repeat);
                eprintln!("{round_trip} ms: {}: {}", row.title, result.line());
                results.push(result);
            }
        }
        println!("{}", report::table(&results, round_trip, &peers, &before));
        let fsync = local_fsync()?.as_secs_f64() * 1e3;
        println!("A new file of 4 KiB and its fsync take {fsync:.1} ms on the local disk.\n");
    }
    if let Some(path) = &arguments.save {
        report::save(&results, path)?;
    }
    Ok(())
}

/// What write-back waits for: the median of a few.
fn local_fsync() -> std::io::Result<Duration> {
    let folder = tempfile::tempdir()?;
    let mut times = Vec::new();
    for n in 0..15 {
        let begun = Instant::now();
        let mut file = std::fs::File::create(folder.path().join(n.to_string()))?;
        file.write_all(&[7; 4096])?;
        file.sync_all()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// Those with the names, or all.
fn select<'a, T>(
    all: &'a [T],
    names: &[String],
    name: impl Fn(&T) -> &'static str,
) -> Result<Vec<&'a T>, String> {
    let known: Vec<_> = all.iter().map(&name).collect();
    match names
        .iter()
        .find(|wanted| !known.contains(&wanted.as_str()))
    {
        Some(unknown) => Err(format!("{unknown} is none of {}", known.join(", "))),
        None => Ok(all
            .iter()
            .filter(|one| names.is_empty() || names.iter().any(|wanted| wanted == name(one)))
            .collect()),
    }
}

/// A server behind a link.
struct Bench {
    network: Network,
    server: RealServer,
    around: Surroundings,
    scene: Scene,
    round_trip: u32,
    patience: Duration,
    /// Removed at the end.
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(arguments: &Arguments, round_trip: u32) -> Result<Self, Box<dyn Error>> {
        let kind = match arguments.server.as_str() {
            "vsftpd" => Kind::VsftpdExplicit,
            "proftpd" => Kind::ProftpdExplicit,
            "pure-ftpd" => Kind::PureFtpd,
            "pyftpdlib" => Kind::Pyftpdlib,
            other => return Err(format!("{other} is none of the servers").into()),
        };
        let rate = arguments.rate.map(|mbit| mbit * 1_000_000 / 8);
        let network = Network::new(Duration::from_millis(round_trip.into()), rate)?;
        let folder = tempfile::Builder::new().prefix("ftpsfs-bench-").tempdir()?;
        network.enter(Side::Server)?;
        let size = arguments.size << 20;
        let options = Options {
            address: Some(SERVER),
            // In memory: no disk is measured.
            disk: Some(2 * size + (512 << 20)),
            talk: false,
            ..Options::default()
        };
        let server = RealServer::start(kind, options);
        let around = Surroundings::new(folder.path(), arguments.log.clone())?;
        network.enter(Side::Client)?;
        let root = server.root.clone();
        Ok(Self {
            network,
            server,
            around,
            scene: Scene { root, size },
            round_trip,
            patience: Duration::from_secs(arguments.patience),
            _folder: folder,
        })
    }

    fn median(&self, row: &'static Row, peer: Peer, times: usize) -> Measured {
        let mut results: Vec<_> = (0..times.max(1)).map(|_| self.measure(row, peer)).collect();
        let value = |result: &Measured| *result.value.as_ref().unwrap_or(&f64::INFINITY);
        results.sort_by(|a, b| value(a).total_cmp(&value(b)));
        results.swap_remove((results.len() - 1) / 2)
    }

    fn measure(&self, row: &'static Row, peer: Peer) -> Measured {
        let mut measured = Measured {
            round_trip: self.round_trip,
            row: row.name.to_owned(),
            peer: peer.name().to_owned(),
            value: Err("fails".into()),
            trips: None,
            received: 0,
            sent: 0,
            peak_memory: None,
        };
        if let Err(error) = self.try_measure(row, peer, &mut measured) {
            measured.value = Err(error.to_string());
        }
        measured
    }

    fn try_measure(
        &self,
        row: &'static Row,
        peer: Peer,
        measured: &mut Measured,
    ) -> Result<(), Box<dyn Error>> {
        (row.prepare)(&self.scene)?;
        run(
            Command::new("chown")
                .args(["-R", &UID.to_string()])
                .arg(&self.scene.root),
            self.patience,
        )?;
        let (server, around) = (&self.server, &self.around);
        let command = peer.command(row.name, server, around, self.scene.size);
        let mut mounted = match command {
            Some(_) => None,
            None => Some(peer.mount(row.name, server, around, &self.scene)?),
        };
        if let Some(mounted) = &mut mounted {
            self.within_patience(mounted, row.warm)?;
        }
        // What was begun ahead of need is not this row's.
        thread::sleep(Duration::from_millis(300 + 4 * u64::from(self.round_trip)));
        let before = self.network.traffic()?;
        let begun = Instant::now();
        match (&mut mounted, command) {
            (Some(mounted), _) => self.within_patience(mounted, row.work)?,
            (None, Some(mut command)) => run(&mut command, self.patience)?,
            (None, None) => unreachable!("one of both"),
        }
        let worked = begun.elapsed();
        let seconds = match (row.done)(&self.scene) || peer == Peer::WriteBack {
            true => worked,
            false if wait_until(self.patience, || (row.done)(&self.scene)) => begun.elapsed(),
            false => return Err("the server has not got it".into()),
        };
        let after = self.network.traffic()?;
        let count = row.unit.count();
        measured.value = Ok(row.unit.value(seconds.as_secs_f64(), &self.scene));
        measured.received = (after.received - before.received) / count;
        measured.sent = (after.sent - before.sent) / count;
        let half_trips = after.half_trips.zip(before.half_trips);
        measured.trips =
            half_trips.map(|(after, before)| (after - before) as f64 / 2.0 / count as f64);
        if let Some(mounted) = mounted {
            measured.peak_memory = mounted.peak_memory();
            // The end of the mount waits for what is still to be sent, which is not measured.
            wait_until(self.patience, || (row.done)(&self.scene));
        }
        Ok(())
    }

    /// Works in the mount, which is ended where that takes too long.
    fn within_patience(
        &self,
        mounted: &mut Mounted,
        work: fn(&std::path::Path, &Scene) -> std::io::Result<()>,
    ) -> Result<(), Box<dyn Error>> {
        let (sender, done) = mpsc::channel();
        let (dir, scene) = (mounted.dir().to_owned(), self.scene.clone());
        thread::spawn(move || sender.send(work(&dir, &scene)));
        match done.recv_timeout(self.patience) {
            Ok(result) => Ok(result?),
            Err(_) => {
                mounted.kill();
                let _ = done.recv_timeout(self.patience);
                Err(format!("> {} s", self.patience.as_secs()).into())
            }
        }
    }
}

fn run(command: &mut Command, patience: Duration) -> Result<(), Box<dyn Error>> {
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut status = None;
    let mut ended = || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    };
    let begun = Instant::now();
    while !ended() {
        if begun.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Err(format!("> {} s", patience.as_secs()).into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    match status {
        Some(status) if status.success() => Ok(()),
        _ => Err("fails".into()),
    }
}
