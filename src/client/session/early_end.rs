//! Transfers that are given up, and the four kinds of servers that find an end to them.

use std::time::{Duration, Instant};

use super::Session;
use crate::client::Error;
use crate::client::data::reset;
use crate::proto::Command;
use crate::tls::Stream;

/// How much longer than its NOOP's a server's last word on a transfer may take.
const LATE: Duration = Duration::from_secs(1);

impl Session {
    /// Ends a transfer early: resets the data connection, and finds the control connection's
    /// place again, whatever the server says to it (426, 551, 150, 226 or nothing).
    pub(in crate::client) fn abandon_transfer(
        &mut self,
        mut data: Stream,
        deadline: Instant,
    ) -> Result<(), Error> {
        if !self.tls.can_resume() {
            // Under TLS 1.3 each connection brings the ticket of the next: it is on its way.
            let soon = Instant::now() + (2 * self.round_trip).max(Duration::from_millis(20));
            let _ = data.read(&mut [0; 1], soon);
        }
        reset(data);
        let result = self.resynchronize(deadline);
        self.in_transfer &= result.is_err();
        self.note(result)
    }

    pub(super) fn resynchronize(&mut self, deadline: Instant) -> Result<(), Error> {
        if self.final_reply.take().is_some() {
            return Ok(());
        }
        let speaks = self.profile().speaks_after_reset;
        let grace = match speaks {
            Some(true) => LATE,
            // Its answer to NOOP waits for the transfer's end by itself.
            Some(false) => Duration::ZERO,
            None => (3 * self.round_trip).max(Duration::from_millis(250)),
        };
        if self.last_word(deadline.min(Instant::now() + grace))? {
            return Ok(());
        }
        if self.has_asked_ahead() {
            return Err(Error::lost("RETR", "no last word on the transfer"));
        }
        // Some say nothing more about the transfer: ask for a reply that is ours.
        self.control.send(&[Command::Noop], deadline)?;
        let mut spoke = false;
        for _ in 0..4 {
            let code = self.control.reply("NOOP", deadline)?.code;
            if code.as_u16() == 500 {
                // Pure-FTPd's answer while the transfer is still ending: there will be no other.
                self.last_word(deadline.min(Instant::now() + LATE))?;
                self.control.send(&[Command::Noop], deadline)?;
                continue;
            }
            if !code.is_completion() || matches!(code.as_u16(), 225 | 226 | 250) {
                spoke = true;
                continue;
            }
            // pyftpdlib answers NOOP while the transfer is still ending: once it is worth
            // waiting to learn which kind of server this is.
            let late = !spoke
                && speaks != Some(false)
                && self.last_word(deadline.min(Instant::now() + LATE))?;
            if !spoke && !late {
                self.learn(|p| p.speaks_after_reset = Some(false));
            }
            return Ok(());
        }
        Err(Error::Protocol(
            "no reply to NOOP after a transfer that was given up".to_owned(),
        ))
    }

    /// Whether the server's last word on a transfer that was reset comes until then: 426 or the
    /// like, 226 where it was over already, on Pure-FTPd a second 150.
    fn last_word(&mut self, until: Instant) -> Result<bool, Error> {
        match self.control.reply("RETR", until) {
            Ok(reply) => {
                if reply.code.is_transient() || reply.code.is_permanent() {
                    self.learn(|p| p.speaks_after_reset = Some(true));
                }
                Ok(true)
            }
            Err(Error::TimedOut { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
