//! [`Session`]: one control connection, from TCP connect through login to its end, and at most
//! one data connection beside it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use rustls::HandshakeKind;

use crate::proto::{
    Command, Features, Negotiation, NegotiationError, Protection, Ready, Reply, ReplyParser,
    Security, Step, wants_one_by_one,
};
use crate::tls::{SessionTls, Stream, in_time, wait_any};

use super::ahead::{Ahead, Readiness};
use super::control::Control;
use super::data::{DataOpening, Endpoint, acknowledge_quickly, reset};
use super::opening::{Driver, Opening};
use super::profile::{Profile, Resumption};
use super::{Error, Server, connect};

/// Commands in flight at once: measured safe with every server.
const WINDOW: usize = 100;
/// A listing, at most.
const MAX_LISTING: usize = ReplyParser::MAX_LISTING;
/// TLS 1.2 sessions expire at the server an hour after the control connection's handshake at the
/// earliest (Pure-FTPd), and resuming does not renew them.
const LIFETIME: Duration = Duration::from_secs(50 * 60);
/// How much longer than its NOOP's a server's last word on a transfer may take.
const LATE: Duration = Duration::from_secs(1);
/// What a transfer's refusal may take once its TLS handshake failed.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What proves that data connections work: any folder's listing does.
const LIST: Command = Command::List {
    all: false,
    path: None,
};

/// A control connection that is logged in, with PROT P and TYPE I in force.
pub struct Session {
    server: Arc<Server>,
    control: Control,
    negotiation: Negotiation,
    tls: SessionTls,
    ready: Ready,
    peer: SocketAddr,
    born: Instant,
    /// The last request's end.
    last_used: Instant,
    /// That, or the last keepalive's.
    last_spoke: Instant,
    /// How long a server may be silent.
    patience: Option<Duration>,
    /// The shortest round trip seen.
    round_trip: Duration,
    /// The next transfer's data connection.
    pub(super) ahead: Option<Ahead>,
    /// A transfer's final reply that came before its data was read to the end.
    final_reply: Option<Reply>,
    /// See [`Session::limit_window`].
    window: Option<usize>,
    /// A data connection is open: until it ends, the control connection is out of step.
    in_transfer: bool,
    /// An error left it in an unknown state: close it.
    broken: bool,
}

/// How a transfer began.
pub struct Begun {
    /// The replies to the commands written before the transfer's.
    pub prelude: Vec<Reply>,
    pub transfer: Transfer,
}

/// A listing as the server sent it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub bytes: Vec<u8>,
    /// Its 226.
    pub reply: Reply,
    /// It ended with a close_notify. Without one it may have been cut short.
    pub clean: bool,
}

/// What came of a transfer command.
pub enum Transfer {
    Started(Box<Stream>),
    Refused(Reply),
}

impl Session {
    /// Connects, starts TLS and logs in, in as few round trips as the server bears.
    pub(super) fn connect(server: &Arc<Server>, deadline: Instant) -> Result<Self, Error> {
        let deadline = deadline.min(Instant::now() + 2 * server.config.connect_timeout);
        let mut stumbled = false;
        let at_once = !server.profile.current().one_by_one;
        match Self::open(server, at_once, &mut stumbled, deadline) {
            Err(error) if stumbled => {
                log::debug!("{}: {error}; one by one", server.name());
                let session = Self::open(server, false, &mut stumbled, deadline)?;
                server.profile.learn(|p| p.one_by_one = true);
                Ok(session)
            }
            result => result,
        }
    }

    fn open(
        server: &Arc<Server>,
        at_once: bool,
        stumbled: &mut bool,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let tcp = connect::connect(server, deadline)?;
        let failed = |e: io::Error| Error::io("connecting", &e);
        let peer = tcp.peer_addr().map_err(failed)?;
        let mut opening = Opening {
            control: Control::new(Stream::new(tcp).map_err(failed)?),
            negotiation: Negotiation::new(server.login(at_once)),
            tls: server.trust.session(server.prefers_tls12())?,
            explicit_silence: server.config.security == Security::Explicit,
            stumbled: false,
        };
        let started = Instant::now();
        let step = opening.negotiation.start();
        let ready = opening.negotiate(step, deadline);
        *stumbled = opening.stumbled;
        let ready = ready.map_err(|e| server.explain(e))?;
        server.profile.learn(|p| {
            p.one_by_one |= wants_one_by_one(&ready.greeting);
            p.mlst_missing |= !ready.features.has("MLST");
            p.tells_space = ready.features.has("AVBL");
            p.features = Some(Arc::new(ready.features.clone()));
        });
        let Opening {
            control,
            negotiation,
            tls,
            ..
        } = opening;
        let now = Instant::now();
        Ok(Self {
            server: server.clone(),
            control,
            negotiation,
            tls,
            ready,
            peer: connect::canonical(peer),
            born: now,
            last_used: now,
            last_spoke: now,
            patience: None,
            round_trip: now - started,
            ahead: None,
            final_reply: None,
            window: None,
            in_transfer: false,
            broken: false,
        })
    }

    /// Sends one command and awaits its reply, whatever the code. 421 is a loss.
    pub fn execute(&mut self, command: &Command, deadline: Instant) -> Result<Reply, Error> {
        let mut replies = self.pipeline(std::slice::from_ref(command), deadline)?;
        replies
            .pop()
            .ok_or_else(|| Error::Protocol("no reply".to_owned()))
    }

    /// Sends many commands, as many at a time as every server bears, and gives their replies in
    /// order, refusals among them.
    pub fn pipeline(
        &mut self,
        commands: &[Command],
        deadline: Instant,
    ) -> Result<Vec<Reply>, Error> {
        let result = self.try_pipeline(commands, deadline);
        self.note(result)
    }

    fn try_pipeline(
        &mut self,
        commands: &[Command],
        deadline: Instant,
    ) -> Result<Vec<Reply>, Error> {
        self.limit_replies(commands);
        let mut replies = Vec::with_capacity(commands.len());
        let mut sent = 0;
        let started = Instant::now();
        let mut window = WINDOW;
        if self.profile().one_by_one {
            window = 1;
            self.settle_ahead(deadline)?;
        }
        while replies.len() < commands.len() {
            if sent < commands.len() && sent - replies.len() <= window / 2 {
                let until = commands.len().min(replies.len() + window);
                self.control.send(&commands[sent..until], deadline)?;
                sent = until;
                self.settle_ahead(deadline)?;
            }
            replies.push(
                self.control
                    .reply(commands[replies.len()].verb(), deadline)?,
            );
            if replies.len() == 1 {
                self.round_trip = self.round_trip.min(started.elapsed());
            }
        }
        Ok(replies)
    }

    /// Keeps the server from sending more than about so many bytes of the next transfer before
    /// they are read: for those who will not read much.
    pub fn limit_window(&mut self, bytes: usize) {
        self.window = Some(bytes);
    }

    fn limit_replies(&mut self, commands: &[Command]) {
        let listing = commands
            .iter()
            .any(|c| matches!(c, Command::Stat { path: Some(_), .. }));
        let limit = if listing {
            MAX_LISTING
        } else {
            ReplyParser::MAX_REPLY
        };
        self.control.parser.set_limit(limit);
    }

    /// Begins a transfer: `prelude` (commands whose replies are wanted, RETR's REST among them)
    /// and `command` in one write, with the TLS handshake of the data connection beside them.
    pub fn begin(
        &mut self,
        prelude: &[Command],
        command: Command,
        deadline: Instant,
    ) -> Result<Begun, Error> {
        let window = self.window.take();
        let result = self.begin_proven(prelude, &command, window, deadline);
        self.note(result)
    }

    fn begin_proven(
        &mut self,
        prelude: &[Command],
        command: &Command,
        window: Option<usize>,
        deadline: Instant,
    ) -> Result<Begun, Error> {
        loop {
            self.prove_data(command, deadline)?;
            let endpoint = Endpoint::open(self, window, deadline)?;
            if let Some(begun) = self.begin_on(endpoint, prelude, command, deadline)? {
                return Ok(begun);
            }
        }
    }

    /// `None` where the endpoint was opened ahead, and the server has forgotten it: another will do.
    fn begin_on(
        &mut self,
        endpoint: Endpoint,
        prelude: &[Command],
        command: &Command,
        deadline: Instant,
    ) -> Result<Option<Begun>, Error> {
        let ahead = endpoint.ahead();
        let begun = self.try_begin(endpoint, prelude, command, deadline);
        match (ahead, &begun) {
            (None, _) => {}
            (Some(age), Ok(None)) => self.ahead_died(age),
            (Some(age), Ok(Some(begun))) => {
                if matches!(begun.transfer, Transfer::Started(_)) {
                    self.ahead_worked(age);
                }
            }
            // It may have been the age that it had.
            (Some(_), Err(_)) => self.learn(|p| p.ahead_lifetime = None),
        }
        begun
    }

    fn try_begin(
        &mut self,
        endpoint: Endpoint,
        prelude: &[Command],
        command: &Command,
        deadline: Instant,
    ) -> Result<Option<Begun>, Error> {
        // Refused, a STOR would leave its target truncated; anything else may as well try.
        let demanded = self.profile().resumption == Resumption::Demanded;
        if demanded && is_store(command) && !self.tls.can_resume() {
            return Err(Error::NoResumption(
                "it gave none for this connection".to_owned(),
            ));
        }
        let verb = command.verb();
        let mut replies = Vec::with_capacity(prelude.len());
        let mut commands = Vec::with_capacity(prelude.len() + 1);
        if self.profile().one_by_one {
            replies = self.try_pipeline(prelude, deadline)?;
        } else {
            commands.extend_from_slice(prelude);
        }
        commands.push(command.clone());
        self.limit_replies(&commands);
        self.control.send(&commands, deadline)?;

        let ahead = endpoint.ahead().is_some();
        let mut opening = DataOpening::Endpoint(endpoint);
        let mut started = false;
        let mut deadline = deadline;
        loop {
            if let Err(error) = opening.advance(&self.tls) {
                // Most likely the server refuses, and says so on the control connection.
                opening = DataOpening::Failed(error);
                deadline = deadline.min(Instant::now() + REFUSAL_TIMEOUT);
            }
            while let Some(reply) = self.control.reply_now(verb)? {
                if replies.len() < prelude.len() {
                    replies.push(reply);
                } else if reply.code.is_preliminary() {
                    started = true;
                    break;
                } else if reply.code.is_completion() {
                    // A short transfer is over before its data was read.
                    (started, self.final_reply) = (true, Some(reply));
                    break;
                } else {
                    // The handshake's end may have come just before the refusal.
                    let handshake = match opening.advance(&self.tls) {
                        Ok(()) => opening.handshake_kind(),
                        Err(_) => None,
                    };
                    opening.reset();
                    // "Use EPSV first", or "cannot build the data connection".
                    if ahead && handshake.is_none() && matches!(reply.code.as_u16(), 425 | 503) {
                        return Ok(None);
                    }
                    self.check_resumption(handshake, &reply)?;
                    let transfer = Transfer::Refused(reply);
                    return Ok(Some(Begun {
                        prelude: replies,
                        transfer,
                    }));
                }
            }
            if started && let DataOpening::Open(data) = opening {
                self.in_transfer = true;
                acknowledge_quickly(&data);
                return Ok(Some(Begun {
                    prelude: replies,
                    transfer: Transfer::Started(Box::new(data)),
                }));
            }
            let mut waiting = Vec::with_capacity(2);
            if self.final_reply.is_none() {
                waiting.push(PollFd::new(self.control.as_fd(), PollFlags::POLLIN));
            }
            opening.wait_for(&mut waiting);
            let until = self.control.stream.patient_until(deadline);
            if let Err(error) = wait_any(&mut waiting, until) {
                return Err(match opening {
                    DataOpening::Failed(error) => Error::io("the data connection", &error),
                    _ => Error::io(verb, &error),
                });
            }
        }
    }

    /// Ends a download whose data ended with close_notify: answers it, closes, and only then
    /// awaits the final reply (vsftpd and ProFTPD wait for the client).
    pub(super) fn finish_download(
        &mut self,
        mut data: Stream,
        verb: &'static str,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        let handshake = data.tls().and_then(|t| t.handshake_kind());
        // The server may have closed already: only the 226 counts.
        let _ = data.close_notify(deadline);
        drop(data);
        self.end_transfer(verb, handshake, deadline)
    }

    /// The final reply of an upload whose data connection ended in order.
    pub(super) fn finish_upload(
        &mut self,
        verb: &'static str,
        handshake: Option<HandshakeKind>,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        let reply = self.end_transfer(verb, handshake, deadline)?;
        if reply.code.is_completion() && !self.tls.can_resume() {
            // ProFTPD gives no TLS 1.3 ticket on an upload: under TLS 1.2 none is needed.
            self.learn(|p| p.uploads_bring_no_ticket = true);
        }
        Ok(reply)
    }

    fn end_transfer(
        &mut self,
        verb: &str,
        handshake: Option<HandshakeKind>,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        let reply = self.final_reply(verb, deadline)?;
        let result = self.check_resumption(handshake, &reply);
        self.note(result)?;
        if reply.code.is_completion() {
            self.learn_from_success(handshake);
        }
        Ok(reply)
    }

    /// The reply that ends a transfer, whatever its code.
    pub(super) fn final_reply(&mut self, verb: &str, deadline: Instant) -> Result<Reply, Error> {
        let result = match self.final_reply.take() {
            Some(reply) => Ok(reply),
            None => self.control.reply(verb, deadline),
        };
        self.in_transfer &= result.is_err();
        self.note(result)
    }

    /// Ends a transfer early: resets the data connection, and finds the control connection's
    /// place again, whatever the server says to it (426, 551, 150, 226 or nothing).
    pub(super) fn abandon_transfer(
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

    fn resynchronize(&mut self, deadline: Instant) -> Result<(), Error> {
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

    /// A listing by `LIST` or `MLSD`, or the server's refusal; with the replies to `prelude`.
    pub fn list(
        &mut self,
        prelude: &[Command],
        command: Command,
        deadline: Instant,
    ) -> Result<(Vec<Reply>, Result<Listed, Reply>), Error> {
        let verb = command.verb();
        let begun = self.begin(prelude, command, deadline)?;
        let mut data = match begun.transfer {
            Transfer::Started(data) => data,
            Transfer::Refused(reply) => return Ok((begun.prelude, Err(reply))),
        };
        data.set_patience(self.patience);
        if self.profile().early_close == Some(true) {
            // Its 226 comes along with the data then. What is broken shows when it is read.
            let _ = data.close_notify(deadline);
        }
        let read = read_to_end(&mut data, deadline);
        let (bytes, clean) = self.note(read)?;
        let reply = self.finish_download(*data, verb, deadline)?;
        let outcome = if reply.code.is_completion() {
            Ok(Listed {
                bytes,
                reply,
                clean,
            })
        } else {
            Err(reply)
        };
        Ok((begun.prelude, outcome))
    }

    /// Makes sure that `command` cannot fail for want of PROT P or of a TLS session to resume
    /// where a LIST would show that first: a refused STOR truncates its target.
    fn prove_data(&mut self, command: &Command, deadline: Instant) -> Result<(), Error> {
        let profile = self.profile();
        if profile.implicit_needs_prot && !self.negotiation.sends_prot() {
            self.protect(deadline)?;
        }
        if self.server.config.security == Security::Implicit && !profile.data_proven {
            return self.prove_implicit(command, deadline);
        }
        if is_store(command) && profile.resumption != Resumption::Optional && !self.tls.can_resume()
        {
            let endpoint = Endpoint::open(self, None, deadline)?;
            self.list_proof(endpoint, deadline)?;
        }
        Ok(())
    }

    /// On an implicit server that is not yet proven the first data transfer is a LIST, never a
    /// STOR or RETR; where it shows that the server wants PBSZ 0 and PROT P nonetheless, they
    /// are sent, now and on every later connection.
    fn prove_implicit(&mut self, command: &Command, deadline: Instant) -> Result<(), Error> {
        // A data port that cannot be reached shows nothing.
        let endpoint = Endpoint::open(self, None, deadline)?;
        let mut result = self.list_proof(endpoint, deadline);
        let lacks_prot = match &result {
            _ if self.negotiation.sends_prot() => false,
            Ok(reply) => matches!(reply.code.as_u16(), 425 | 426 | 520..530),
            Err(Error::Tls(_) | Error::Lost { .. }) => true,
            Err(_) => false,
        };
        if lacks_prot {
            log::debug!(
                "{}: implicit, but wants PBSZ 0 and PROT P",
                self.server.name()
            );
            self.learn(|p| p.implicit_needs_prot = true);
            if result.is_err() {
                // The LIST's final reply is still to come, or came unread.
                self.resynchronize(deadline)?;
            }
            self.protect(deadline)?;
            let endpoint = Endpoint::open(self, None, deadline)?;
            result = self.list_proof(endpoint, deadline);
        }
        let reply = result?;
        // A refused LIST (no permission here, say) proves nothing: what cannot harm goes on.
        if reply.code.is_completion() || !(lacks_prot || is_store(command)) {
            return Ok(());
        }
        Err(Error::refused(&LIST, reply))
    }

    /// PBSZ 0 and PROT P, on an implicit server that needs them after all.
    fn protect(&mut self, deadline: Instant) -> Result<(), Error> {
        let protect = [Command::Pbsz(0), Command::Prot(Protection::Private)];
        for reply in self.try_pipeline(&protect, deadline)? {
            if !reply.code.is_completion() {
                return Err(NegotiationError::NoProtection(reply).into());
            }
        }
        self.negotiation.send_prot();
        Ok(())
    }

    /// One LIST of the current folder, to its final reply. What it lists does not matter.
    fn list_proof(&mut self, endpoint: Endpoint, deadline: Instant) -> Result<Reply, Error> {
        let begun = match self.begin_on(endpoint, &[], &LIST, deadline)? {
            Some(begun) => begun,
            None => {
                let another = Endpoint::open(self, None, deadline)?;
                self.begin_on(another, &[], &LIST, deadline)?
                    .ok_or_else(|| Error::lost("LIST", "no data connection"))?
            }
        };
        match begun.transfer {
            Transfer::Refused(reply) => Ok(reply),
            Transfer::Started(mut data) => {
                data.set_patience(self.patience);
                read_to_end(&mut data, deadline)?;
                self.finish_download(*data, LIST.verb(), deadline)
            }
        }
    }

    fn learn_from_success(&self, handshake: Option<HandshakeKind>) {
        self.learn(|p| {
            p.data_proven = true;
            if handshake.is_some_and(|kind| kind != HandshakeKind::Resumed) {
                p.resumption = Resumption::Optional;
            }
        });
    }

    /// 522 or 425 where no session was resumed. After a full handshake, on a server that never
    /// took one, it means that the server demands resumption (vsftpd, ProFTPD), and another
    /// connection has a session to resume. Else it may pass: the data port was taken, or
    /// firewalled. On an implicit server that may want PROT P first, it says nothing of this.
    fn check_resumption(
        &self,
        handshake: Option<HandshakeKind>,
        reply: &Reply,
    ) -> Result<(), Error> {
        let profile = self.profile();
        let may_lack_prot =
            !self.negotiation.sends_prot() && (profile.implicit_needs_prot || !profile.data_proven);
        let resumed = handshake == Some(HandshakeKind::Resumed);
        if resumed || may_lack_prot || !matches!(reply.code.as_u16(), 425 | 522) {
            return Ok(());
        }
        if handshake.is_none() || profile.resumption == Resumption::Optional {
            return Err(Error::lost("opening a data connection", reply));
        }
        self.learn(|p| p.resumption = Resumption::Demanded);
        Err(Error::NoResumption(reply.to_string()))
    }

    /// REIN: the state of a connection just made, over the same TCP connection. An error means
    /// that the server would not (or no longer answers): replace the session.
    pub fn reinitialize(&mut self, deadline: Instant) -> Result<(), Error> {
        if self.profile().implicit_needs_prot {
            self.negotiation.send_prot();
        }
        let result = self.settle_ahead(deadline).and_then(|()| {
            self.ahead = None;
            let step = self.negotiation.reinitialize();
            self.renegotiate(step, deadline)
        });
        if matches!(
            result,
            Err(Error::Negotiation(NegotiationError::ReinRefused(_)))
        ) {
            self.learn(|p| p.rein_refused = true);
        }
        self.note(result)
    }

    fn renegotiate(&mut self, step: Step, deadline: Instant) -> Result<(), Error> {
        let mut driver = Driver {
            control: &mut self.control,
            negotiation: &mut self.negotiation,
            tls: &self.tls,
            at_once: 0,
        };
        self.ready = driver.run(step, deadline)?;
        self.born = Instant::now();
        Ok(())
    }

    /// What FEAT listed.
    pub fn features(&self) -> &Features {
        &self.ready.features
    }

    /// The greeting's text (RFC 959 5.4).
    pub fn greeting(&self) -> &Reply {
        &self.ready.greeting
    }

    pub fn profile(&self) -> Profile {
        self.server.profile.current()
    }

    pub fn learn(&self, lesson: impl FnOnce(&mut Profile)) {
        self.server.profile.learn(lesson);
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The control connection's peer.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The control connection's own address.
    pub(super) fn local(&self) -> io::Result<SocketAddr> {
        let address = self.control.stream.tcp().local_addr()?;
        Ok(connect::canonical(address))
    }

    /// Whether it may serve another request: nothing broke it, and nothing came unasked.
    pub(super) fn is_usable(&mut self) -> bool {
        let pending = self.advance_ahead();
        if self.is_broken() {
            return false;
        }
        if pending && self.readiness() == Readiness::Asked {
            // The next reply is that to EPSV.
            return true;
        }
        match self.control.reply_now("idleness") {
            Ok(None) => true,
            Ok(Some(late)) => {
                log::debug!("{}: a surplus reply: {late}", self.server.name());
                if late.code.is_transient() || late.code.is_permanent() {
                    // The last word on a transfer that was reset, after all.
                    self.learn(|p| p.speaks_after_reset = Some(true));
                }
                false
            }
            Err(_) => false,
        }
    }

    /// Whether every reply that came belongs to a command.
    pub fn is_in_step(&mut self) -> bool {
        matches!(self.control.reply_now("a listing"), Ok(None)) && self.control.parser.is_empty()
    }

    /// Gives the session up: its replies are not those of its commands.
    pub fn out_of_step(&mut self, during: &str) -> Error {
        self.broken = true;
        Error::lost(during, "replies and commands are out of step")
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken || self.in_transfer
    }

    /// Nothing is left for its data connections to resume, where that is demanded.
    pub(super) fn is_spent(&self) -> bool {
        let profile = self.profile();
        let demanded = match profile.resumption {
            Resumption::Demanded => true,
            Resumption::Unknown => profile.uploads_bring_no_ticket,
            Resumption::Optional => false,
        };
        demanded && !self.tls.can_resume()
    }

    /// The shortest round trip that was seen.
    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Writes a command whose reply is read before those of later ones.
    pub(super) fn write_ahead(&mut self, command: Command, deadline: Instant) -> Result<(), Error> {
        self.limit_replies(&[]);
        self.last_spoke = Instant::now();
        self.control.send(&[command], deadline)
    }

    /// The reply to that, if it is here.
    pub(super) fn reply_ahead(&mut self, command: &Command) -> Result<Option<Reply>, Error> {
        self.control.reply_now(command.verb())
    }

    /// The reply to that.
    pub(super) fn await_ahead(
        &mut self,
        command: &Command,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        self.control.reply(command.verb(), deadline)
    }

    /// Too old for its TLS sessions to be resumed with certainty.
    pub(super) fn is_aged(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.born) > LIFETIME
    }

    /// Gives up on a server that is silent for so long, be the deadline as it may.
    pub(super) fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience = patience;
        self.control.stream.set_patience(patience);
    }

    /// How long nobody had a use for it.
    pub(super) fn idle_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_used)
    }

    /// How long the server heard nothing.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_spoke)
    }

    pub(super) fn last_used(&self) -> Instant {
        self.last_used
    }

    /// NOOP, which is no use of the session: it stays as idle as it was.
    pub(super) fn keep_alive(&mut self, deadline: Instant) -> Result<(), Error> {
        let last_used = self.last_used;
        let result = self.execute(&Command::Noop, deadline).map(drop);
        self.last_used = last_used;
        result
    }

    /// QUIT, politely but without waiting for the answer.
    pub(super) fn quit(mut self) {
        if !self.is_broken() {
            let soon = Instant::now() + Duration::from_millis(200);
            let _ = self.control.send(&[Command::Quit], soon);
            let _ = self.control.stream.close_notify(soon);
        }
    }

    pub(super) fn mark_broken(&mut self) {
        self.broken = true;
    }

    fn note<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.last_used = Instant::now();
        self.last_spoke = self.last_used;
        if let Err(error) = &result {
            self.broken |= !error.keeps_session();
        }
        result
    }
}

/// Whether it empties or changes its target as soon as it starts.
fn is_store(command: &Command) -> bool {
    matches!(command, Command::Stor(_) | Command::Appe(_))
}

/// The bytes, and whether a close_notify ended them: where a FIN did, the server's final reply
/// tells whether it thinks that it sent all.
fn read_to_end(data: &mut Stream, deadline: Instant) -> Result<(Vec<u8>, bool), Error> {
    let mut listing = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match data.read(&mut chunk, deadline) {
            Ok(0) => return Ok((listing, true)),
            Ok(n) => listing.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok((listing, false)),
            Err(error) => return Err(Error::io("a listing", &error)),
        }
        if listing.len() > MAX_LISTING {
            return Err(Error::Protocol(format!(
                "a listing of over {MAX_LISTING} bytes"
            )));
        }
        in_time(deadline).map_err(|e| Error::io("a listing", &e))?;
    }
}
