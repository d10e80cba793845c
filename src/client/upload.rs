//! [`Upload`]: a STOR or APPE under way. It owns its session until its end.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::proto::{Command, Reply};
use crate::tls::Stream;

use super::data::half_close;
use super::{Error, Lease, Transfer};

/// What the server may take to say why it broke an upload off.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long giving up may take.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

/// A file's bytes on their way to the server, in order. Only [`Upload::finish`] tells that they
/// arrived. Merely dropped, it costs the session, and what the server keeps is not known.
pub struct Upload {
    lease: Lease,
    data: Stream,
    verb: &'static str,
    sent: u64,
}

/// How an upload began: the replies to what was written before its command, and the stream or
/// the server's refusal.
pub struct StartedUpload {
    pub prelude: Vec<Reply>,
    pub upload: Result<Upload, Reply>,
}

impl Upload {
    /// `prelude` (REST last, where there is one) and `command` (STOR or APPE) in one write.
    pub fn start(
        mut lease: Lease,
        prelude: &[Command],
        command: Command,
        deadline: Instant,
    ) -> Result<StartedUpload, Error> {
        let verb = command.verb();
        let begun = lease.begin(prelude, command, deadline)?;
        lease.activity.transfers(0, None);
        let upload = match begun.transfer {
            Transfer::Refused(reply) => Err(reply),
            Transfer::Started(data) => Ok(Self {
                lease,
                data: *data,
                verb,
                sent: 0,
            }),
        };
        Ok(StartedUpload {
            prelude: begun.prelude,
            upload,
        })
    }

    /// Bytes handed to the server so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Which part of the file it will be, for those who ask how far it is.
    pub fn expects(&self, part: Range<u64>) {
        self.lease.activity.transfers(part.start, Some(part.end));
    }

    /// Whether some request waits for a session.
    pub fn is_wanted(&self) -> bool {
        self.lease.is_wanted()
    }

    /// Sends bytes. A server that breaks off (452, 552, 426) is quoted in the error.
    pub fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), Error> {
        if let Err(error) = self.data.write_all(bytes, deadline) {
            return Err(self.reason(&error));
        }
        self.sent += bytes.len() as u64;
        self.lease.activity.sent(bytes.len());
        Ok(())
    }

    /// The server ended the data connection: it most likely says why on the other.
    fn reason(&mut self, error: &io::Error) -> Error {
        if error.kind() == io::ErrorKind::TimedOut {
            return Error::io(self.verb, error);
        }
        let soon = Instant::now() + REFUSAL_TIMEOUT;
        match self.lease.final_reply(self.verb, soon) {
            Ok(reply) if !reply.code.is_completion() => Error::Refused {
                command: self.verb.to_owned(),
                reply,
            },
            _ => Error::io(self.verb, error),
        }
    }

    /// Ends the data and awaits the server's word that it has everything. A server that refuses
    /// at the end is an [`Error::Refused`].
    pub fn finish(mut self, deadline: Instant) -> Result<Lease, Error> {
        let handshake = self.data.tls().and_then(|tls| tls.handshake_kind());
        let closed = self.data.close_notify(deadline).and_then(|()| {
            // The FIN ProFTPD waits for; reading on brings the TLS tickets of this connection.
            half_close(&mut self.data, deadline)
        });
        if let Err(error) = closed {
            return Err(self.reason(&error));
        }
        let Self {
            mut lease,
            data,
            verb,
            ..
        } = self;
        let ended = lease.finish_upload(verb, handshake, deadline);
        // Not before the server's word: the kernel loses a FIN that comes just as its socket is closed, and
        // vsftpd waits until it has sent another, 200 ms later.
        drop(data);
        let reply = ended?;
        if reply.code.is_completion() {
            return Ok(lease);
        }
        Err(Error::Refused {
            command: verb.to_owned(),
            reply,
        })
    }

    /// Breaks it off. What the server keeps of it is to be deleted by the caller.
    pub fn give_up(self) -> Option<Lease> {
        let Self {
            mut lease, data, ..
        } = self;
        let deadline = Instant::now() + ABANDON_TIMEOUT;
        if let Err(error) = lease.abandon_transfer(data, deadline) {
            log::debug!("a session was lost while giving up an upload: {error}");
        }
        (!lease.is_broken()).then_some(lease)
    }
}
