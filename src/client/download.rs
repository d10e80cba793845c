//! [`Download`]: a RETR under way. It owns its session until its end, or until it is given up.

use std::io;
use std::time::{Duration, Instant};

use crate::proto::{Command, RemotePath, Reply};
use crate::tls::Stream;

use super::{Error, Lease, Transfer};

/// How long giving up a transfer may take.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);
/// A stream that others wait for is held this long at the least.
const SLICE: Duration = Duration::from_millis(500);
/// Over which time the minimum average rate is measured.
const RATE_WINDOW: Duration = Duration::from_secs(20);

/// A file's bytes from some offset on, in order. End it by [`Download::give_up`]: merely dropped
/// before its end, it costs the session.
pub struct Download {
    lease: Lease,
    /// Gone once the end was reached, or the connection lost.
    data: Option<Stream>,
    since: Instant,
    rate: Rate,
}

/// What a read came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    Bytes(usize),
    /// The server's 226. Without a close_notify before it (`clean` false) only the exact size
    /// proves the end.
    End {
        clean: bool,
    },
}

/// How a download began: the replies to SIZE, MDTM or what else was asked along with it, and
/// the stream, or the server's refusal.
pub struct Started {
    pub prelude: Vec<Reply>,
    /// The server took no REST: the stream begins at 0.
    pub from_start: bool,
    pub download: Result<Download, Reply>,
}

impl Download {
    /// `prelude`, `REST offset` and `RETR path` in one write.
    pub fn start(
        mut lease: Lease,
        prelude: &[Command],
        path: &RemotePath,
        offset: u64,
        deadline: Instant,
    ) -> Result<Started, Error> {
        let mut commands = prelude.to_vec();
        // REST stays in force until a transfer: always said, 0 too.
        commands.push(Command::Rest(offset));
        let mut begun = lease.begin(&commands, Command::Retr(path.into()), deadline)?;
        let rest = begun.prelude.pop();
        let from_start = !rest.is_some_and(|reply| reply.code.is_intermediate());
        let download = match begun.transfer {
            Transfer::Refused(reply) => Err(reply),
            Transfer::Started(data) => {
                let rate = Rate::new(lease.server().config.min_rate);
                Ok(Self {
                    lease,
                    data: Some(*data),
                    since: Instant::now(),
                    rate,
                })
            }
        };
        Ok(Started {
            prelude: begun.prelude,
            from_start,
            download,
        })
    }

    /// Reads some bytes. After [`Error::TimedOut`] the stream is still whole, and may be read on.
    pub fn read(&mut self, buf: &mut [u8], deadline: Instant) -> Result<Progress, Error> {
        let Some(data) = &mut self.data else {
            return Ok(Progress::End { clean: true });
        };
        let started = Instant::now();
        let result = data.read(buf, deadline);
        self.rate
            .note(started.elapsed(), *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => self.finish(true, deadline),
            Ok(n) if self.rate.is_too_low() => {
                let why = format!("slower than {} bytes a second", self.rate.minimum);
                self.lose();
                log::debug!("a transfer of {n} bytes at a time was given up: {why}");
                Err(Error::lost("RETR", why))
            }
            Ok(n) => Ok(Progress::Bytes(n)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Error::io("RETR", &error)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.finish(false, deadline)
            }
            Err(error) => {
                self.lose();
                Err(Error::io("RETR", &error))
            }
        }
    }

    fn finish(&mut self, clean: bool, deadline: Instant) -> Result<Progress, Error> {
        let Some(data) = self.data.take() else {
            return Ok(Progress::End { clean });
        };
        let reply = self.lease.finish_download(data, "RETR", deadline)?;
        if reply.code.is_completion() {
            return Ok(Progress::End { clean });
        }
        // 426, 451: the file was not sent whole.
        Err(Error::lost("RETR", reply))
    }

    fn lose(&mut self) {
        self.data = None;
        self.lease.mark_broken();
    }

    /// Whether others wait for a session while this stream has had its share of time.
    pub fn should_yield(&self) -> bool {
        self.lease.is_wanted() && self.since.elapsed() > SLICE
    }

    /// Ends it, wherever it stands, and hands out its session where that is still good.
    pub fn give_up(self) -> Option<Lease> {
        self.give_up_by(Instant::now() + ABANDON_TIMEOUT)
    }

    /// The same, in no more time than a request has that waits for the session.
    pub(super) fn give_up_by(mut self, deadline: Instant) -> Option<Lease> {
        if let Some(data) = self.data.take() {
            let deadline = deadline.min(Instant::now() + ABANDON_TIMEOUT);
            if let Err(error) = self.lease.abandon_transfer(data, deadline) {
                log::debug!("a session was lost while giving up a transfer: {error}");
            }
        }
        (!self.lease.is_broken()).then_some(self.lease)
    }
}

/// The average over time spent waiting for the server, not for a slow reader.
struct Rate {
    minimum: u64,
    waited: Duration,
    bytes: u64,
}

impl Rate {
    fn new(minimum: u64) -> Self {
        Self {
            minimum,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    fn note(&mut self, waited: Duration, bytes: usize) {
        if self.waited >= RATE_WINDOW && !self.is_too_low() {
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        self.waited += waited;
        self.bytes += bytes as u64;
    }

    fn is_too_low(&self) -> bool {
        self.waited >= RATE_WINDOW && self.bytes < self.minimum * self.waited.as_secs()
    }
}
