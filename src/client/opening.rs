//! [`Opening`] and [`Driver`]: a connection on its way from TCP connect, or from REIN, to ready.

use std::time::{Duration, Instant};

use crate::proto::{Command, Negotiation, NegotiationError, Ready, Step};
use crate::tls::{SessionTls, Stream, in_time};

use super::control::Control;
use super::{Error, Server};

/// A server that promised to take TLS down after REIN has this long.
const REIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Some servers say so of a wrong password, though by its first digit it would pass.
const WRONG_PASSWORD: u16 = 430;

/// A connection on its way to be a session.
pub(super) struct Opening {
    pub(super) control: Control,
    pub(super) negotiation: Negotiation,
    pub(super) tls: SessionTls,
    pub(super) explicit_silence: bool,
    /// It went wrong while replies to several commands were awaited.
    pub(super) stumbled: bool,
    /// The shortest that a first reply was waited for.
    pub(super) round_trip: Duration,
}

impl Opening {
    pub(super) fn negotiate(&mut self, step: Step, deadline: Instant) -> Result<Ready, Error> {
        let Self {
            control,
            negotiation,
            tls,
            stumbled,
            ..
        } = self;
        let mut driver = Driver::new(control, negotiation, tls);
        let result = driver.run(step, deadline);
        self.round_trip = driver.round_trip;
        *stumbled = driver.at_once > 1 && result.as_ref().is_err_and(may_be_stumbling);
        result.map_err(|error| match error {
            Error::TimedOut { .. } if self.explicit_silence && !self.control.stream.is_tls() => {
                Error::TimedOut {
                    during: "the greeting (a server that is silent here may want implicit TLS)"
                        .to_owned(),
                }
            }
            error => error,
        })
    }
}

/// Performs the steps of a [`Negotiation`]: connecting, reconnecting and REIN all come here.
pub(super) struct Driver<'a> {
    pub(super) control: &'a mut Control,
    pub(super) negotiation: &'a mut Negotiation,
    pub(super) tls: &'a SessionTls,
    /// Commands in the last write.
    at_once: usize,
    /// [`Opening::round_trip`].
    round_trip: Duration,
}

/// Servers that lose commands say nothing, or something else than was asked.
fn may_be_stumbling(error: &Error) -> bool {
    matches!(
        error,
        Error::TimedOut { .. }
            | Error::Lost { .. }
            | Error::Protocol(_)
            | Error::Negotiation(NegotiationError::Unexpected(_))
    )
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        control: &'a mut Control,
        negotiation: &'a mut Negotiation,
        tls: &'a SessionTls,
    ) -> Self {
        Self {
            control,
            negotiation,
            tls,
            at_once: 0,
            round_trip: Duration::MAX,
        }
    }

    /// Replies to several commands at once are awaited for half of the time only, so that there is
    /// time to try it one by one.
    pub(super) fn run(&mut self, mut step: Step, mut deadline: Instant) -> Result<Ready, Error> {
        let mut during = "the greeting";
        loop {
            in_time(deadline).map_err(|e| Error::io(during, &e))?;
            step = match step {
                Step::Ready(ready) => return Ok(*ready),
                Step::StartTls => {
                    self.start_tls(deadline)?;
                    self.negotiation.on_tls_started()
                }
                Step::StopTls => {
                    let soon = deadline.min(Instant::now() + REIN_TIMEOUT);
                    self.control
                        .stream
                        .stop_tls(soon)
                        .map_err(|e| Error::io("REIN", &e))?;
                    self.negotiation.on_tls_stopped()
                }
                Step::Send(commands) => {
                    self.at_once = commands.len();
                    if self.at_once > 1 {
                        let left = deadline.saturating_duration_since(Instant::now());
                        deadline -= left / 2;
                    }
                    self.control.send(&commands, deadline)?;
                    during = commands.last().map_or(during, Command::verb);
                    let sent = Instant::now();
                    let next = self.await_reply(during, deadline)?;
                    self.round_trip = self.round_trip.min(sent.elapsed());
                    next
                }
                Step::Await => self.await_reply(during, deadline)?,
            };
        }
    }

    fn await_reply(&mut self, during: &str, deadline: Instant) -> Result<Step, Error> {
        let reply = self.control.raw_reply(during, deadline)?;
        Ok(self.negotiation.on_reply(reply)?)
    }

    fn start_tls(&mut self, deadline: Instant) -> Result<(), Error> {
        if !self.control.parser.is_empty() || !self.control.stream.unread().is_empty() {
            return Err(Error::Protocol(
                "clear text was injected before TLS".to_owned(),
            ));
        }
        self.tls.forget();
        let connection = self
            .tls
            .connection()
            .map_err(|e| Error::Tls(e.to_string()))?;
        let result = self.control.stream.start_tls(connection, deadline);
        let leaf = |stream: &Stream| Some(stream.tls()?.peer_certificates()?.first()?.to_vec());
        if result.is_ok()
            && let Some(leaf) = leaf(&self.control.stream)
        {
            self.tls.settle(&leaf)?;
        }
        result.map_err(|error| match self.control.clear_words() {
            Some(words) if words.starts_with("421") => Error::Busy(words),
            Some(words) => Error::Tls(format!(
                "the server does not speak TLS here, it says: {words}"
            )),
            None => Error::io("the TLS handshake", &error),
        })
    }
}

impl Server {
    /// Tells a server at its limit, and one that cannot just now, from one that refuses us.
    pub(super) fn explain(&self, error: Error) -> Error {
        let Error::Negotiation(refusal) = &error else {
            return error;
        };
        match refusal {
            NegotiationError::Unavailable(reply) => Error::Busy(reply.to_string()),
            // ProFTPD counts its clients at PASS: "530 Sorry, the maximum number of clients".
            NegotiationError::Login(reply)
                if reply.text().to_ascii_lowercase().contains("maximum") =>
            {
                Error::Busy(reply.to_string())
            }
            NegotiationError::NoTls(reply)
            | NegotiationError::Login(reply)
            | NegotiationError::NoProtection(reply)
                if reply.code.is_transient() && reply.code.as_u16() != WRONG_PASSWORD =>
            {
                Error::lost("the login", reply)
            }
            _ => error,
        }
    }
}
