//! [`Ahead`]: a data connection opened before its transfer is known, so that the transfer can begin
//! with its own command. Nobody waits for it: EPSV is written when a session is given back, its reply
//! is read when it is there, or in front of the replies to what was written since, and TCP connects by
//! itself. Unused, it is dropped before the server may have forgotten it.
//!
//! TLS on it begins with the transfer's command, never before and never later: vsftpd and Pure-FTPd
//! end the session over a data connection that stays silent then.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;

use crate::proto::{Command, Reply};
use crate::tls::wait;

use super::Session;
use crate::client::data::{passive_command, passive_reply};
use crate::client::profile::Profile;
use crate::client::{Error, connect};

/// How long a server is believed to keep one, before it has shown more.
const LIFETIME: Duration = Duration::from_secs(20);
/// More is not tried: routers on the way forget silent connections too.
const LONGEST: Duration = Duration::from_secs(120);
/// Where they do not live even that long, they are not worth opening.
const SHORTEST: Duration = Duration::from_secs(1);
/// How long nothing is opened ahead where it did harm, or no good.
const PAUSE: Duration = Duration::from_secs(60);
/// Writing a few bytes takes no longer on a connection that works.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// A server that leaves EPSV unanswered for this long is not there.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// One such connection, on its way or there.
pub(super) struct Ahead {
    since: Instant,
    state: State,
}

enum State {
    /// EPSV or PASV was written. Its reply comes before those of all later commands.
    Asked(Command),
    Connecting(TcpStream),
    Open(TcpStream),
}

/// How soon a session could begin a transfer: the greater the sooner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::client) enum Readiness {
    /// Its TLS sessions are used up, on a server that demands them.
    Spent,
    Bare,
    Asked,
    Connecting,
    Open,
}

impl Session {
    /// Asks for a data connection for the next transfer, where that is worth it and none is there.
    pub(in crate::client) fn prepare(&mut self) {
        if !self.is_broken() && !self.is_spent() {
            self.ask_ahead();
        }
    }

    /// The same before a download's end is read, which is on its way: both answers come at once, from a
    /// server that reads no command before that.
    pub(in crate::client) fn prepare_behind_transfer(&mut self) {
        if self.profile().queues_commands {
            self.ask_ahead();
        }
    }

    fn ask_ahead(&mut self) {
        let now = Instant::now();
        let config = &self.server().config;
        let profile = self.profile();
        let alone =
            config.active || config.special.proxy.is_some() || profile.wants_pret == Some(true);
        let worth = !alone && may_open(&profile, now);
        if self.ahead.is_some() || !worth {
            return;
        }
        let command = passive_command(self);
        let state = State::Asked(command.clone());
        self.limit_replies(&[]);
        self.last_spoke = now;
        match self.control.send(&[command], now + WRITE_TIMEOUT) {
            Ok(()) => self.ahead = Some(Ahead { since: now, state }),
            Err(error) => self.ahead_failed(&error),
        }
    }

    pub(in crate::client) fn readiness(&self) -> Readiness {
        match self.ahead.as_ref().map(|ahead| &ahead.state) {
            _ if self.is_spent() => Readiness::Spent,
            None => Readiness::Bare,
            Some(State::Asked(_)) => Readiness::Asked,
            Some(State::Connecting(_)) => Readiness::Connecting,
            Some(State::Open(_)) => Readiness::Open,
        }
    }

    /// Whether the next reply is that to EPSV.
    pub(in crate::client) fn has_asked_ahead(&self) -> bool {
        matches!(
            &self.ahead,
            Some(Ahead {
                state: State::Asked(_),
                ..
            })
        )
    }

    /// Goes as far as it can without waiting; whether there is more to come. Drops what is too old.
    pub(in crate::client) fn advance_ahead(&mut self) -> bool {
        let now = Instant::now();
        let Some(Ahead { since, state }) = self.ahead.take() else {
            return false;
        };
        let age = now.saturating_duration_since(since);
        let state = match state {
            State::Asked(command) => match self.control.reply_now(command.verb()) {
                Ok(Some(reply)) => {
                    if let Err(error) = self.ahead_replied(since, &command, &reply) {
                        self.ahead_failed(&error);
                    }
                    return self.ahead.is_some();
                }
                Ok(None) if age < REPLY_TIMEOUT => State::Asked(command),
                Ok(None) => {
                    self.mark_broken();
                    return false;
                }
                Err(error) => {
                    self.ahead_failed(&error);
                    return false;
                }
            },
            State::Connecting(tcp) => match is_up(&tcp) {
                Ok(true) => State::Open(tcp),
                Ok(false) if age < self.server().config.connect_timeout => State::Connecting(tcp),
                Ok(false) | Err(_) => {
                    self.learn(|p| p.ahead_paused = Some(now + PAUSE));
                    return false;
                }
            },
            State::Open(tcp) => match is_silent(&tcp) {
                true if age < lifetime(&self.profile()) => State::Open(tcp),
                true => return false,
                false => {
                    self.ahead_died(age);
                    return false;
                }
            },
        };
        let pending = !matches!(state, State::Open(_));
        self.ahead = Some(Ahead { since, state });
        pending
    }

    /// Reads the reply that comes before those to commands written since.
    pub(in crate::client) fn settle_ahead(&mut self, deadline: Instant) -> Result<(), Error> {
        match self.ahead.take() {
            Some(Ahead {
                since,
                state: State::Asked(command),
            }) => {
                let reply = self.control.reply(command.verb(), deadline)?;
                self.ahead_replied(since, &command, &reply)
            }
            other => {
                self.ahead = other;
                Ok(())
            }
        }
    }

    /// The data connection, and its age, where one is there that seems alive. Waits for one that
    /// is on its way, which is no longer than a new one would take.
    pub(in crate::client) fn take_ahead(
        &mut self,
        deadline: Instant,
    ) -> Result<Option<(TcpStream, Duration)>, Error> {
        self.settle_ahead(deadline)?;
        if let Some(Ahead {
            since,
            state: State::Connecting(tcp),
        }) = &self.ahead
        {
            let late = *since + self.server().config.connect_timeout;
            // Whatever comes of it is seen below.
            let _ = wait(tcp.as_fd(), PollFlags::POLLOUT, deadline.min(late));
            self.advance_ahead();
        }
        self.advance_ahead();
        let Some(Ahead { since, state }) = self.ahead.take() else {
            return Ok(None);
        };
        Ok(match state {
            State::Open(tcp) => Some((tcp, since.elapsed())),
            State::Asked(_) | State::Connecting(_) => None,
        })
    }

    /// A transfer began on one of that age: the server keeps them for longer still, perhaps.
    pub(in crate::client) fn ahead_worked(&self, age: Duration) {
        let life = lifetime(&self.profile());
        if age * 2 >= life {
            self.learn(|p| p.ahead_lifetime = Some((life * 2).min(LONGEST)));
        }
    }

    /// The server had closed or forgotten one of that age.
    pub(in crate::client) fn ahead_died(&self, age: Duration) {
        log::debug!("a data connection opened ahead did not live for {age:?}");
        self.learn(|p| {
            if age < 2 * SHORTEST {
                p.ahead_paused = Some(Instant::now() + PAUSE);
                p.ahead_lifetime = None;
            } else {
                p.ahead_lifetime = Some(age / 2);
            }
        });
    }

    /// The server is at a limit: what is held ahead counts there perhaps. Whether some was held.
    pub(in crate::client) fn drop_ahead(&mut self) -> bool {
        match self.ahead.take() {
            // Not connected once its reply comes: there is a pause by then.
            asked @ Some(Ahead {
                state: State::Asked(_),
                ..
            }) => {
                self.ahead = asked;
                false
            }
            other => other.is_some(),
        }
    }

    fn ahead_replied(
        &mut self,
        since: Instant,
        command: &Command,
        reply: &Reply,
    ) -> Result<(), Error> {
        let address = match passive_reply(self, command, reply) {
            Ok(Some(address)) => address,
            Ok(None) => return Ok(()),
            Err(error @ (Error::Busy(_) | Error::Refused { .. })) => {
                log::debug!("no data connection ahead of need: {error}");
                self.learn(pause_ahead);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if !may_open(&self.profile(), Instant::now()) {
            return Ok(());
        }
        match connect::begin(&self.server().config, address) {
            Ok(tcp) => {
                let state = State::Connecting(tcp);
                self.ahead = Some(Ahead { since, state });
            }
            Err(_) => self.learn(pause_ahead),
        }
        Ok(())
    }

    fn ahead_failed(&mut self, error: &Error) {
        log::debug!("{error}, on a session that nobody used");
        self.mark_broken();
    }
}

/// Opens nothing ahead for a while.
pub(in crate::client) fn pause_ahead(profile: &mut Profile) {
    profile.ahead_paused = Some(Instant::now() + PAUSE);
}

fn may_open(profile: &Profile, now: Instant) -> bool {
    profile.ahead_paused.is_none_or(|until| until <= now)
}

fn lifetime(profile: &Profile) -> Duration {
    profile.ahead_lifetime.unwrap_or(LIFETIME)
}

/// Whether a connection that was begun is there.
fn is_up(tcp: &TcpStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(tcp.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::ZERO)? == 0 {
        return Ok(false);
    }
    match SockRef::from(tcp).take_error()? {
        None => Ok(true),
        Some(error) => Err(error),
    }
}

/// Whether the server neither closed it nor spoke, which is not its turn.
fn is_silent(tcp: &TcpStream) -> bool {
    matches!(tcp.peek(&mut [0; 1]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
}
