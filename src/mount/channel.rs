//! The socket of a mount: its process tells those who ask how it is, and how much it still has to
//! upload. Whoever unmounts waits for its end, and a new mount of the same source takes over from
//! one that is leaving.
//!
//! The socket lies in a folder that only its owner, and root, can enter. Knows neither the
//! protocol nor the spool.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, Uid, geteuid};

use super::human;
use super::status::{Mounting, Status};

/// How often those who wait are told.
const PERIOD: Duration = Duration::from_millis(250);
/// A process that is silent for so long is waited for no more.
const SILENCE: Duration = Duration::from_secs(10);
/// So long may a peer take to ask, or to listen.
const PATIENCE: Duration = Duration::from_secs(5);
/// A process that says so often that it is mounted, when it was unmounted here, does not end.
const STAYS: u32 = 20;
/// So many are told at a time.
const LISTENERS: usize = 16;
/// The longest status that is believed.
const STATUS_LIMIT: u64 = 64 << 20;

/// What may be asked, each in one line.
const WAIT: &str = "wait";
const STATUS: &str = "status";

/// What a mount's process says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    /// It is no longer mounted.
    leaving: bool,
    /// Still to be uploaded.
    files: usize,
    bytes: u64,
}

/// Where the sockets of a user's mounts may be. Not where $XDG_RUNTIME_DIR says: root must find
/// them as well.
fn folders(uid: u32) -> Vec<PathBuf> {
    match uid {
        0 => vec![PathBuf::from("/run/ftpsfs")],
        _ => vec![
            PathBuf::from(format!("/run/user/{uid}/ftpsfs")),
            PathBuf::from(format!("/tmp/ftpsfs-{uid}")),
        ],
    }
}

/// A folder of our own, made where it is missing, that nobody else can enter: `preferred`, else
/// that of the sockets.
pub fn private_folder(preferred: Option<PathBuf>) -> io::Result<PathBuf> {
    let uid = geteuid().as_raw();
    let mut refusal = io::Error::from(io::ErrorKind::NotFound);
    for folder in preferred.into_iter().chain(folders(uid)) {
        let made = match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => fs::symlink_metadata(&folder),
        };
        match made {
            Ok(found) if found.is_dir() && found.uid() == uid && found.mode() & 0o077 == 0 => {
                return Ok(folder);
            }
            Ok(_) => refusal = io::ErrorKind::PermissionDenied.into(),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

/// What processes that were killed have left behind.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if is_socket && UnixStream::connect(entry.path()).is_err_and(refused) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The sockets of this process, and what tells them from others of the same name; dropped, they vanish.
pub struct Announced(Vec<(PathBuf, Metadata)>);

impl Drop for Announced {
    fn drop(&mut self) {
        for (path, ours) in &self.0 {
            // Another mount may have been given the number of the device since.
            if fs::metadata(path).is_ok_and(|there| there.ino() == ours.ino()) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Tells whoever asks, from now until the process ends: by the device that it has mounted, and by
/// its number.
pub fn announce(mounting: &Arc<Mounting>, device: Option<&str>) -> Announced {
    let mut announced = Announced(Vec::new());
    let folder = match private_folder(None) {
        Ok(folder) => folder,
        Err(error) => {
            log::debug!("nobody can ask for the status: no folder for a socket: {error}");
            return announced;
        }
    };
    sweep(&folder);
    let own = std::process::id().to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    for name in [Some(own.as_str()), device].into_iter().flatten() {
        let path = folder.join(name);
        match listen(&path).and_then(|listener| Ok((listener, fs::metadata(&path)?))) {
            Ok((listener, ours)) => {
                announced.0.push((path, ours));
                let (mounting, asked) = (mounting.clone(), asked.clone());
                thread::spawn(move || serve(&listener, &mounting, &asked));
            }
            Err(error) => log::debug!("nobody can ask at {}: {error}", path.display()),
        }
    }
    announced
}

fn serve(listener: &UnixListener, mounting: &Arc<Mounting>, asked: &Arc<AtomicUsize>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, perhaps: it passes.
            thread::sleep(PERIOD);
            continue;
        };
        if asked.fetch_add(1, Ordering::Relaxed) >= LISTENERS {
            asked.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (mounting, asked) = (mounting.clone(), asked.clone());
        thread::spawn(move || {
            if let Err(error) = answer(&mounting, stream) {
                log::debug!("nobody listens to what was asked: {error}");
            }
            asked.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn answer(mounting: &Mounting, mut stream: UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut question = String::new();
    BufReader::new((&stream).take(64)).read_line(&mut question)?;
    match question.trim_end() {
        WAIT => tell_how_far(mounting, &mut stream),
        STATUS => Ok(serde_json::to_writer(&stream, &mounting.status())?),
        _ => Ok(()),
    }
}

/// Ends when nobody listens any more.
fn tell_how_far(mounting: &Mounting, stream: &mut UnixStream) -> io::Result<()> {
    loop {
        let (files, bytes) = mounting.fs.owed();
        let word = Word {
            leaving: mounting.fs.is_closed(),
            files,
            bytes,
        };
        writeln!(stream, "{word}")?;
        thread::sleep(PERIOD);
    }
}

/// A mount's process, to be asked.
pub struct Process {
    words: BufReader<UnixStream>,
    pid: i32,
}

impl Process {
    /// The one that has mounted `device`; it must be root's, ours, or `owner`'s.
    pub fn serving(device: &str, owner: Option<u32>) -> io::Result<Self> {
        let own = geteuid().as_raw();
        let uids = [owner, Some(own), Some(0)].into_iter().flatten();
        let mut refusal = io::Error::from(io::ErrorKind::NotFound);
        for folder in uids.flat_map(folders) {
            match Self::at(&folder.join(device), owner) {
                Ok(process) => return Ok(process),
                // That one is there, and says no.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// The one of ours with that number.
    pub fn numbered(pid: u32) -> Option<Self> {
        let own = folders(geteuid().as_raw()).into_iter();
        let mut found = own.filter_map(|folder| Self::at(&folder.join(pid.to_string()), None).ok());
        found.find(|process| process.pid.unsigned_abs() == pid)
    }

    fn at(path: &Path, owner: Option<u32>) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        let peer = getsockopt(&stream, PeerCredentials)?;
        let uid = Uid::from_raw(peer.uid());
        if !uid.is_root() && uid != geteuid() && owner != Some(peer.uid()) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            words: BufReader::new(stream),
            pid: peer.pid(),
        })
    }

    fn ask(&mut self, question: &str) -> io::Result<()> {
        writeln!(self.words.get_mut(), "{question}")
    }

    /// How it is.
    pub fn status(mut self) -> io::Result<Status> {
        self.ask(STATUS)?;
        let mut text = Vec::new();
        self.words.take(STATUS_LIMIT).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Has it tell how far it is from now on, which [`Process::wait`] hears.
    pub fn listen(mut self) -> Option<Self> {
        self.ask(WAIT).ok().map(|()| self)
    }

    /// Waits for its end once it is unmounted, which is when everything is uploaded. Shows on a terminal how far it is.
    pub fn wait(mut self) {
        let mut bar: Option<ProgressBar> = None;
        let (mut most, mut stays) = (0, 0);
        while let Some(word) = self.next() {
            stays += u32::from(!word.leaving);
            if stays > STAYS {
                return; // It is mounted in another namespace as well.
            }
            if word.files == 0 {
                continue;
            }
            most = most.max(word.bytes);
            let bar = bar.get_or_insert_with(progress_bar);
            bar.set_length(most);
            bar.set_position(most - word.bytes);
            bar.set_message(human::count(word.files, "file"));
        }
        if let Some(bar) = bar {
            bar.set_position(most);
            bar.finish_with_message("done");
        }
    }

    /// Has it end, if it is leaving: what it has not uploaded is then ours to do.
    pub fn take_over(self) -> bool {
        let Some(mut process) = self.listen() else {
            return false;
        };
        let leaves = process.next().is_some_and(|word| word.leaving);
        if leaves {
            // It may end by itself at this moment.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGTERM);
        }
        leaves
    }

    fn next(&mut self) -> Option<Word> {
        let mut line = String::new();
        match (&mut self.words).take(128).read_line(&mut line) {
            Ok(1..) => Word::parse(line.trim_end()),
            Ok(0) | Err(_) => None,
        }
    }
}

/// On standard error, where that is a terminal.
fn progress_bar() -> ProgressBar {
    let form = "uploading {msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style.progress_chars("=> "))
}

impl Word {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let leaving = match words.next()? {
            "mounted" => false,
            "leaving" => true,
            _ => return None,
        };
        let (files, bytes) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self {
            leaving,
            files,
            bytes,
        })
    }
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.leaving {
            true => "leaving",
            false => "mounted",
        };
        write!(f, "{state} {} {}", self.files, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_as_they_were_said() {
        for leaving in [false, true] {
            let word = Word {
                leaving,
                files: 3,
                bytes: 12_345_678,
            };
            assert_eq!(Word::parse(&word.to_string()), Some(word));
        }
        for nonsense in ["", "mounted", "mounted 1", "gone 1 2", "leaving x 2"] {
            assert_eq!(Word::parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_mount_that_ends_leaves_the_socket_of_one_that_got_its_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0:58");
        let listen = || {
            let listener = listen(&path).expect("listen");
            let ours = fs::metadata(&path).expect("a socket");
            (listener, Announced(vec![(path.clone(), ours)]))
        };
        let (_first, before) = listen();
        let (_second, after) = listen();
        drop(before);
        assert!(UnixStream::connect(&path).is_ok());
        drop(after);
        assert!(!path.exists());
    }
}
