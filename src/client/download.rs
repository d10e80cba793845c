//! [`Download`]: a RETR under way. It owns its session until its end, or until it is given up.

use std::io;
use std::time::{Duration, Instant};

use crate::proto::{Command, RemotePath, Reply};
use crate::tls::Stream;

use super::{Error, Lease, Transfer};

/// How long giving up a transfer may take.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);
/// So much a server has sent before it could be disturbed by our close_notify.
const SMALL: u64 = 64 << 10;
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
    received: u64,
    /// All that is left of a small file: we have said close_notify already.
    small: Option<u64>,
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
    /// The server took no REST, or is known to forget it: the stream begins at 0.
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
        let forgets = lease.profile().keeps_rest == Some(false);
        let offset = if forgets { 0 } else { offset };
        // REST stays in force until a transfer: always said, 0 too.
        commands.push(Command::Rest(offset));
        let mut begun = lease.begin(&commands, Command::Retr(path.into()), deadline)?;
        let rest = begun.prelude.pop();
        let from_start = forgets || !rest.is_some_and(|reply| reply.code.is_intermediate());
        let download = match begun.transfer {
            Transfer::Refused(reply) => Err(reply),
            Transfer::Started(data) => {
                let rate = Rate::new(lease.server().config.min_rate);
                let mut download = Self {
                    lease,
                    data: Some(*data),
                    since: Instant::now(),
                    rate,
                    received: 0,
                    small: None,
                };
                let size = size_told(prelude, &begun.prelude);
                let skipped = if from_start { 0 } else { offset };
                download.lease.activity.transfers(skipped, size);
                download.close_early(size.map(|size| size.saturating_sub(skipped)), deadline);
                Ok(download)
            }
        };
        Ok(Started {
            prelude: begun.prelude,
            from_start,
            download,
        })
    }

    /// vsftpd and ProFTPD await our close_notify before they say 226: where all that is wanted is on
    /// its way it can be said at once.
    fn close_early(&mut self, left: Option<u64>, deadline: Instant) {
        let refused = self.lease.profile().early_close == Some(false);
        self.small = left.filter(|&left| !refused && (1..=SMALL).contains(&left));
        if let (Some(_), Some(data)) = (self.small, &mut self.data) {
            // A connection that is broken shows when it is read.
            let _ = data.close_notify(deadline);
            self.lease.prepare_behind_transfer();
        }
    }

    /// What came of an early close_notify; where it may have done harm, it is not said again.
    fn judge_early_close(&self, whole: bool) {
        if let Some(left) = self.small {
            let whole = whole && self.received == left;
            self.lease.learn(|p| match (whole, p.early_close) {
                (true, None) => p.early_close = Some(true),
                (false, None) => p.early_close = Some(false),
                // Connections break for other reasons too: it is tried once more.
                (false, Some(true)) => p.early_close = None,
                (_, Some(_)) => {}
            });
        }
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
            Ok(n) => {
                self.received += n as u64;
                self.lease.activity.received(n);
                Ok(Progress::Bytes(n))
            }
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
        let ended = self.lease.finish_download(data, "RETR", deadline);
        let complete = ended.as_ref().is_ok_and(|reply| reply.code.is_completion());
        self.judge_early_close(clean && complete);
        let reply = ended?;
        if reply.code.is_completion() {
            return Ok(Progress::End { clean });
        }
        // 426, 451: the file was not sent whole.
        Err(Error::lost("RETR", reply))
    }

    fn lose(&mut self) {
        self.judge_early_close(false);
        self.data = None;
        self.lease.mark_broken();
    }

    /// Whether others wait for a session while this stream has had its share of time.
    pub fn should_yield(&self) -> bool {
        self.lease.is_wanted() && self.since.elapsed() > SLICE
    }

    pub(super) fn park(&self, parked: bool) {
        self.lease.activity.park(parked);
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

/// What SIZE told, where it was asked.
fn size_told(asked: &[Command], replies: &[Reply]) -> Option<u64> {
    let at = asked.iter().position(|c| matches!(c, Command::Size(_)))?;
    let reply = replies.get(at).filter(|reply| reply.code.as_u16() == 213)?;
    reply.text().trim().parse().ok()
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
