//! `ftpsfs demo`: the whole thing on one machine. A folder is served by the embedded server over
//! implicit TLS, mounted from there, listed and read; then it is there to be tried out, until
//! Ctrl-C or umount.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::proto::{Secret, Security};
use crate::server::{self, Server, Users};
use crate::tls;

use super::cli::{DemoArguments, MountArguments};
use super::credentials::Credentials;
use super::daemon;
use super::failure::Failure;
use super::mountpoint::{self, Manner};

const USER: &str = "demo";

/// How long the mount may take; all of it is on this machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the mount's process may take to end.
const END_WAIT: Duration = Duration::from_secs(15);

/// Runs the demonstration.
pub fn run(arguments: &DemoArguments) -> Result<(), Failure> {
    // Before anything is made that a signal would leave behind.
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| Failure::System(format!("cannot take signals: {error}")))?;
    let base = Base::make()?;
    let served = match &arguments.directory {
        Some(directory) => directory.clone(),
        None => base.make_sample()?,
    };
    let password = made_up_password()?;
    let users = Users::Listed(vec![(USER.into(), password.clone())]);
    let server = Server::start(server::Config::new(&served, Security::Implicit, users))
        .map_err(|error| Failure::System(error.to_string()))?;
    tell(&format!(
        "Serving {} by FTPS (implicit TLS) at {}",
        served.display(),
        server.local_addr()
    ));
    tell(&format!("Its certificate: {}", server.fingerprint()));

    let mut mounted = Mounted::make(&server, password, base.mount_point.clone())?;
    tell(&format!("Mounted at {}\n", base.mount_point.display()));
    let checked = show(&base.mount_point);
    if checked.is_ok() && !arguments.once {
        tell(&advice(&base.mount_point));
        wait_for_end(signals, &mut mounted);
    }
    // In this order: the mount ends while its server still answers.
    mounted.end()?;
    server.stop();
    checked
}

/// Where the demo's own mount keeps what is being written.
const STATE: &str = "state";

/// A folder of our own, with the mount point and the sample in it. Dropped last.
struct Base {
    directory: PathBuf,
    mount_point: PathBuf,
    sample: PathBuf,
}

impl Base {
    fn make() -> Result<Self, Failure> {
        let cannot = |error: io::Error| Failure::System(format!("cannot make a folder: {error}"));
        let template = std::env::temp_dir().join("ftpsfs-demo.XXXXXX");
        let directory = nix::unistd::mkdtemp(&template).map_err(|error| cannot(error.into()))?;
        let base = Self {
            mount_point: directory.join("mount"),
            sample: directory.join("served"),
            directory,
        };
        fs::create_dir(&base.mount_point).map_err(cannot)?;
        Ok(base)
    }

    fn make_sample(&self) -> Result<PathBuf, Failure> {
        let write = || -> io::Result<()> {
            fs::create_dir_all(self.sample.join("notes/2024"))?;
            for (name, text) in SAMPLE {
                fs::write(self.sample.join(name), text)?;
            }
            fs::write(self.sample.join("8 MiB.bin"), pattern(8 << 20))
        };
        write().map_err(|error| Failure::System(format!("cannot make a sample: {error}")))?;
        Ok(self.sample.clone())
    }
}

impl Drop for Base {
    /// Only what is our own goes with all that is in it: what may still be mounted must not be
    /// emptied.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.sample);
        let _ = fs::remove_dir_all(self.directory.join(STATE));
        let _ = fs::remove_dir(&self.mount_point);
        let _ = fs::remove_dir(&self.directory);
    }
}

const SAMPLE: [(&str, &str); 4] = [
    (
        "README.txt",
        "This file came over FTPS, and you read it as if it lay on your disk.\n",
    ),
    ("notes/shopping list.txt", "bread\nbutter\ncoffee\n"),
    (
        "notes/2024/grüße.txt",
        "File names are bytes: any will do.\n",
    ),
    (".hidden", "Hidden files are there as well.\n"),
];

/// Bytes that compress badly and are the same each time.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The mount and its process.
struct Mounted {
    point: PathBuf,
    process: Child,
}

impl Mounted {
    fn make(server: &Server, password: Secret, point: PathBuf) -> Result<Self, Failure> {
        let source = format!("ftps://{USER}@{}/", server.local_addr());
        let arguments = MountArguments {
            source: OsString::from(&source),
            directory: point.clone(),
            options: vec![OsString::from(format!(
                "fingerprint={},state_dir=\"{}\"",
                server.fingerprint(),
                point.with_file_name(STATE).display()
            ))],
            ..MountArguments::default()
        };
        let credentials = Credentials {
            user: USER.into(),
            password,
            account: None,
            proxy: None,
        };
        let process = daemon::start(&arguments, source.as_bytes(), &credentials, PATIENCE)?;
        Ok(Self { point, process })
    }

    fn is_over(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Unmounts, where nobody else has, and waits for the process.
    fn end(mut self) -> Result<(), Failure> {
        if !self.is_over() {
            mountpoint::unmount(&self.point, Manner::Lazy)?;
        }
        let deadline = Instant::now() + END_WAIT;
        while !self.is_over() {
            if Instant::now() > deadline {
                let _ = self.process.kill();
                let _ = self.process.wait();
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Lists the mount and reads its first files, as any program would.
fn show(point: &Path) -> Result<(), Failure> {
    let mut total = Total::default();
    let began = Instant::now();
    read_tree(point, point, &mut total)
        .map_err(|error| Failure::Mount(format!("reading through the mount: {error}")))?;
    let milliseconds = began.elapsed().as_millis();
    let Total {
        files,
        bytes,
        left_out,
    } = total;
    if left_out > 0 {
        tell(&format!("  ... and {left_out} more"));
    }
    tell(&format!(
        "\nRead {files} files, {bytes} bytes, in {milliseconds} ms.\n"
    ));
    Ok(())
}

#[derive(Default)]
struct Total {
    files: u64,
    bytes: u64,
    /// Files neither shown nor read, because a given folder may be large.
    left_out: u64,
}

/// Most files that are shown and read.
const SHOWN: u64 = 20;

/// Most bytes that are read of each.
const READ_LIMIT: u64 = 64 << 20;

fn read_tree(root: &Path, directory: &Path, total: &mut Total) -> io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type()?);
        if total.files >= SHOWN {
            total.left_out += 1;
        } else if kind.is_dir() {
            read_tree(root, &path, total)?;
        } else if kind.is_file() {
            let file = fs::File::open(&path)?;
            let bytes = io::copy(&mut file.take(READ_LIMIT), &mut io::sink())?;
            let name = path.strip_prefix(root).unwrap_or(&path);
            tell(&format!("  {bytes:>9}  {}", name.display()));
            total.files += 1;
            total.bytes += bytes;
        }
    }
    Ok(())
}

fn advice(point: &Path) -> String {
    let point = point.display();
    format!(
        "Try it in another terminal:\n\n  \
         ls -la {point}\n  \
         cp -r {point}/. copy\n  \
         df -h {point}\n  \
         findmnt {point}\n\n\
         Ctrl-C here (or `ftpsfs umount {point}`) ends it and cleans up."
    )
}

/// Comes back on a signal, or when somebody unmounts it.
fn wait_for_end(mut signals: Signals, mounted: &mut Mounted) {
    while !mounted.is_over() && signals.pending().next().is_none() {
        thread::sleep(Duration::from_millis(100));
    }
    tell("\nUnmounting and cleaning up.");
}

/// 128 random bits, as text.
fn made_up_password() -> Result<Secret, Failure> {
    let mut bytes = [0; 16];
    let filled = tls::provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| Failure::System("no random numbers for a password".to_string()))?;
    Ok(Secret::new(
        bytes.map(|byte| format!("{byte:02x}")).concat(),
    ))
}

/// A line for the user. Whoever closes our output still gets the rest done.
fn tell(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
