//! The end of a mount that still has something to upload. The process that serves it tells those who
//! ask, over sockets without a file, how much that is: whoever unmounts waits for its end, and a
//! new mount of the same source takes over from one that is leaving.
//!
//! Knows neither the protocol nor the spool.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, Uid, geteuid};

use crate::fs::Fs;

/// How often those who ask are told.
const PERIOD: Duration = Duration::from_millis(250);
/// A process that is silent for so long is waited for no more.
const SILENCE: Duration = Duration::from_secs(10);
/// So many are told at a time.
const LISTENERS: usize = 16;

/// What a mount's process says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    /// It is no longer mounted.
    leaving: bool,
    /// Still to be uploaded.
    files: usize,
    bytes: u64,
}

/// Where a process is asked: by the device that it has mounted, or by its number.
fn address(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("ftpsfs/{name}"))
}

/// Tells whoever asks, from now until the process ends.
pub fn announce(fs: &Arc<Fs>, device: Option<&str>) {
    let own = std::process::id().to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    for name in [Some(own.as_str()), device].into_iter().flatten() {
        let listener = match address(name).and_then(|at| UnixListener::bind_addr(&at)) {
            Ok(listener) => listener,
            Err(error) => {
                log::debug!("nobody will hear when {name} is done: {error}");
                continue;
            }
        };
        let (fs, asked) = (fs.clone(), asked.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if asked.fetch_add(1, Ordering::Relaxed) >= LISTENERS {
                    asked.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let (fs, asked) = (fs.clone(), asked.clone());
                thread::spawn(move || {
                    tell(&fs, stream);
                    asked.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
    }
}

/// Ends when nobody listens any more.
fn tell(fs: &Fs, mut stream: UnixStream) {
    loop {
        let (files, bytes) = fs.owed();
        let word = Word {
            leaving: fs.is_closed(),
            files,
            bytes,
        };
        if writeln!(stream, "{word}").is_err() {
            return;
        }
        thread::sleep(PERIOD);
    }
}

/// A mount's process, to be listened to until it ends.
pub struct Process {
    words: BufReader<UnixStream>,
    pid: i32,
}

impl Process {
    /// The one that has mounted `device`; it must be root's, ours, or `owner`'s.
    pub fn serving(device: &str, owner: Option<u32>) -> Option<Self> {
        Self::at(device, owner)
    }

    /// The one with that number.
    pub fn numbered(pid: u32) -> Option<Self> {
        Self::at(&pid.to_string(), None).filter(|process| process.pid.unsigned_abs() == pid)
    }

    fn at(name: &str, owner: Option<u32>) -> Option<Self> {
        let stream = UnixStream::connect_addr(&address(name).ok()?).ok()?;
        let peer = getsockopt(&stream, PeerCredentials).ok()?;
        let uid = Uid::from_raw(peer.uid());
        let is_trusted = uid.is_root() || uid == geteuid() || owner == Some(peer.uid());
        stream.set_read_timeout(Some(SILENCE)).ok()?;
        is_trusted.then(|| Self {
            words: BufReader::new(stream),
            pid: peer.pid(),
        })
    }

    /// Waits for its end, which is when everything is uploaded. Shows on a terminal how far it is.
    pub fn wait(mut self) {
        let is_shown = io::stderr().is_terminal();
        let mut shown = false;
        while let Some(word) = self.next() {
            if is_shown && word.files > 0 {
                shown = true;
                let _ = write!(io::stderr(), "\r\x1b[Kuploading: {}", word.rest());
            }
        }
        if shown {
            let _ = writeln!(io::stderr(), "\r\x1b[Kuploaded");
        }
    }

    /// Has it end, if it is leaving: what it has not uploaded is then ours to do.
    pub fn take_over(mut self) -> bool {
        let leaves = self.next().is_some_and(|word| word.leaving);
        if leaves {
            // It may end by itself at this moment.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGTERM);
        }
        leaves
    }

    fn next(&mut self) -> Option<Word> {
        let mut line = String::new();
        match self.words.read_line(&mut line) {
            Ok(1..) => Word::parse(line.trim_end()),
            Ok(0) | Err(_) => None,
        }
    }
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

    /// What is left to do, for people.
    fn rest(self) -> String {
        let files = match self.files {
            1 => "1 file".to_owned(),
            files => format!("{files} files"),
        };
        let (unit, size) = match self.bytes {
            0..1_000_000 => ("kB", 1e3),
            1_000_000..1_000_000_000 => ("MB", 1e6),
            _ => ("GB", 1e9),
        };
        format!("{files}, {:.1} {unit} left", self.bytes as f64 / size)
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
            assert_eq!(word.rest(), "3 files, 12.3 MB left");
        }
        for nonsense in ["", "mounted", "mounted 1", "gone 1 2", "leaving x 2"] {
            assert_eq!(Word::parse(nonsense), None, "{nonsense}");
        }
    }
}
