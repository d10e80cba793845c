//! [`Control`]: commands out, replies in, over one control connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::proto::{Command, Reply, ReplyParser};
use crate::tls::{Stream, in_time};
use zeroize::Zeroizing;

use super::activity::Ledger;
use super::charset::Decoding;
use super::data::acknowledge_quickly;
use super::{Charset, Error, Server};

/// More commands than this in one TLS record stall ProFTPD and Pure-FTPd (at 4096 bytes).
const RECORD: usize = 1 << 10;
/// Received at once.
const CHUNK: usize = 16 << 10;
/// How long a connection that broke while sending may take to tell why (a 421 on its way).
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long many replies may gather.
const GATHERING: Duration = Duration::from_millis(1);

pub(super) struct Control {
    pub(super) stream: Stream,
    pub(super) parser: ReplyParser,
    ledger: Arc<Ledger>,
    /// Where the server's character set is not ours.
    charset: Option<(Charset, Decoding)>,
}

impl Control {
    pub(super) fn new(stream: Stream, server: &Server) -> Self {
        Self {
            stream,
            parser: ReplyParser::new(),
            ledger: server.ledger.clone(),
            charset: (server.config.special.charset).map(|charset| (charset, charset.decoder())),
        }
    }

    /// Writes the commands, as many to a TLS record as servers bear.
    pub(super) fn send(&mut self, commands: &[Command], deadline: Instant) -> Result<(), Error> {
        // Before anything is written: what cannot be said must not leave half of it on its way.
        if let Some(command) = commands.iter().find(|c| self.encode(c).is_none()) {
            return Err(Error::Unspeakable(command.verb()));
        }
        self.ledger.wrote(commands.len());
        // One of them may be the password: wiped.
        let mut record = Zeroizing::new(Vec::with_capacity(RECORD));
        for (i, command) in commands.iter().enumerate() {
            log::trace!("> {command}");
            let line = Zeroizing::new(self.encode(command).unwrap_or_default());
            if !record.is_empty() && record.len() + line.len() > RECORD {
                self.write(&record, &commands[i - 1], deadline)?;
                record.clear();
            }
            record.reserve_exact(line.len());
            record.extend_from_slice(&line);
        }
        match commands.last() {
            Some(last) => self.write(&record, last, deadline),
            None => Ok(()),
        }
    }

    /// As it goes over the wire; `None` where the server's character set cannot carry it.
    fn encode(&self, command: &Command) -> Option<Vec<u8>> {
        let line = command.encode();
        match &self.charset {
            Some((charset, _)) => charset.encode(&line).map(|line| line.into_owned()),
            None => Some(line),
        }
    }

    fn write(&mut self, record: &[u8], last: &Command, deadline: Instant) -> Result<(), Error> {
        self.stream.write_all(record, deadline).map_err(|error| {
            let soon = deadline.min(Instant::now() + LAST_WORDS);
            match self.reply(last.verb(), soon) {
                Err(said @ Error::Lost { .. }) => said,
                _ => Error::io(last.verb(), &error),
            }
        })
    }

    /// The next reply; a 421 is the connection's end.
    pub(super) fn reply(&mut self, during: &str, deadline: Instant) -> Result<Reply, Error> {
        let reply = self.raw_reply(during, deadline)?;
        not_421(during, reply)
    }

    /// The next of many replies: where it is not here yet they gather for a moment. One by one each costs a
    /// packet that acknowledges it, and a wake-up, on both sides more than the reply itself.
    pub(super) fn reply_of_many(
        &mut self,
        during: &str,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        if let Some(reply) = self.reply_now(during)? {
            return Ok(reply);
        }
        thread::sleep(GATHERING);
        self.reply(during, deadline)
    }

    /// The next reply, whatever it is.
    pub(super) fn raw_reply(&mut self, during: &str, deadline: Instant) -> Result<Reply, Error> {
        let mut dripping = false;
        loop {
            if let Some(reply) = self.parse()? {
                return Ok(reply);
            }
            if dripping {
                in_time(deadline).map_err(|e| Error::io(during, &e))?;
            }
            let mut chunk = [0; CHUNK];
            let n = self.stream.read(&mut chunk, deadline);
            self.received(during, &chunk, n)?;
            dripping = true;
        }
    }

    /// The next reply if it is here already.
    pub(super) fn reply_now(&mut self, during: &str) -> Result<Option<Reply>, Error> {
        loop {
            if let Some(reply) = self.parse()? {
                return not_421(during, reply).map(Some);
            }
            let mut chunk = [0; CHUNK];
            match self.stream.read_now(&mut chunk).transpose() {
                None => return Ok(None),
                Some(n) => self.received(during, &chunk, n)?,
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Reply>, Error> {
        let reply = self.parser.next()?;
        if let Some(reply) = &reply {
            log::trace!("< {reply}");
        }
        Ok(reply)
    }

    fn received(&mut self, during: &str, chunk: &[u8], n: io::Result<usize>) -> Result<(), Error> {
        match n {
            Ok(0) => Err(Error::lost(during, "the server closed the connection")),
            Ok(n) => {
                acknowledge_quickly(&self.stream);
                match &mut self.charset {
                    Some((_, decoding)) => self.parser.push(&decoding.decode(&chunk[..n])),
                    None => self.parser.push(&chunk[..n]),
                }
                Ok(())
            }
            Err(error) => Err(match self.clear_words() {
                Some(words) => {
                    Error::lost(during, format!("the server said in the clear: {words}"))
                }
                None => Error::io(during, &error),
            }),
        }
    }

    /// What the server said where TLS was due (vsftpd: `421`, `500 OOPS`), one line of it.
    pub(super) fn clear_words(&self) -> Option<String> {
        let line = self
            .stream
            .unread()
            .split(|&b| b == b'\r' || b == b'\n')
            .next()?;
        let text = line.len() > 3 && line[..3].iter().all(u8::is_ascii_digit);
        text.then(|| line[..line.len().min(200)].escape_ascii().to_string())
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn not_421(during: &str, reply: Reply) -> Result<Reply, Error> {
    if reply.code.as_u16() == 421 {
        return Err(Error::lost(during, reply));
    }
    Ok(reply)
}
