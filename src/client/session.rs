//! [`Session`]: one control connection, from TCP connect through login to its end, and at most
//! one data connection beside it.

mod ahead;
mod early_end;
mod proof;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use rustls::HandshakeKind;

use crate::proto::{
    Command, Features, Negotiation, NegotiationError, Ready, Reply, ReplyParser, Security, Step,
    queues_commands, wants_one_by_one,
};
use crate::tls::{CertificateFacts, SessionTls, Stream, in_time, wait_any};

use super::activity::Activity;
use super::control::Control;
use super::data::{DataOpening, Endpoint, acknowledge_quickly};
use super::opening::{Driver, Opening};
use super::profile::{Profile, Resumption};
use super::{Error, Introduction, Server, connect};

use self::ahead::Ahead;
pub(super) use self::ahead::{Readiness, pause_ahead};

/// Commands in flight at once: measured safe with every server. They and their replies stay well
/// within what sockets hold, so that neither end waits for the other to read.
const WINDOW: usize = 1200;
/// Where more replies than that are awaited they are left to gather.
const CROWD: usize = 100;
/// A listing, at most.
const MAX_LISTING: usize = ReplyParser::MAX_LISTING;
/// TLS 1.2 sessions expire at the server an hour after the control connection's handshake at the
/// earliest (Pure-FTPd), and resuming does not renew them.
const LIFETIME: Duration = Duration::from_secs(50 * 60);
/// What a transfer's refusal may take once its TLS handshake failed.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A control connection that is logged in, with PROT P and TYPE I in force.
pub struct Session {
    server: Arc<Server>,
    pub(super) activity: Arc<Activity>,
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
    ahead: Option<Ahead>,
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
        // Behind a proxy the server's address is not known: not specified stands for it.
        let peer = match &server.config.special.proxy {
            None => connect::canonical(tcp.peer_addr().map_err(failed)?),
            Some(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        let mut opening = Opening {
            control: Control::new(Stream::new(tcp).map_err(failed)?, server),
            negotiation: Negotiation::new(server.login(at_once)),
            tls: server.trust.session(server.prefers_tls12())?,
            explicit_silence: server.config.security == Security::Explicit,
            stumbled: false,
            round_trip: Duration::MAX,
        };
        let step = opening.negotiation.start();
        let ready = opening.negotiate(step, deadline);
        *stumbled = opening.stumbled;
        let ready = ready.map_err(|e| server.explain(e))?;
        server.profile.learn(|p| {
            p.recognize(&ready.greeting, &ready.features);
            p.one_by_one |= wants_one_by_one(&ready.greeting);
            p.queues_commands = queues_commands(&ready.greeting);
            p.mlst_missing |= !ready.features.has("MLST");
            p.tells_space = ready.features.has("AVBL");
            p.features = Some(Arc::new(ready.features.clone()));
            let mut site = ready.features.all("SITE");
            p.copies_files = site.any(|word| word.eq_ignore_ascii_case(b"COPY"));
        });
        let Opening {
            control,
            negotiation,
            tls,
            round_trip,
            ..
        } = opening;
        let now = Instant::now();
        Ok(Self {
            server: server.clone(),
            activity: Activity::begin(&server.ledger, server.whereabouts(peer)),
            control,
            negotiation,
            tls,
            ready,
            peer,
            born: now,
            last_used: now,
            last_spoke: now,
            patience: None,
            round_trip: round_trip.min(server.config.connect_timeout),
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
        self.turn_to(commands);
        let result = self.try_pipeline(commands, deadline);
        self.note(result)
    }

    fn try_pipeline(
        &mut self,
        commands: &[Command],
        deadline: Instant,
    ) -> Result<Vec<Reply>, Error> {
        let mut taken = 0;
        let take = |_, room| {
            let from = taken;
            taken = commands.len().min(from + room);
            (from < taken).then_some(from..taken)
        };
        let mut replies = Vec::with_capacity(commands.len());
        self.try_ask(commands, take, |_, reply| replies.push(reply), deadline)?;
        Ok(replies)
    }

    /// Sends those of the commands that `take` says come next; it is told how many are under way, and for how many more
    /// there is room, and says `None` when there are no more. `answer` gets each one's reply, with its place among the
    /// commands.
    pub(super) fn ask(
        &mut self,
        commands: &[Command],
        take: impl FnMut(usize, usize) -> Option<Range<usize>>,
        answer: impl FnMut(usize, Reply),
        deadline: Instant,
    ) -> Result<(), Error> {
        self.turn_to(commands);
        let result = self.try_ask(commands, take, answer, deadline);
        self.note(result)
    }

    fn turn_to(&mut self, commands: &[Command]) {
        if let Some(first) = commands.first() {
            self.activity.turn_to(first.to_string());
        }
    }

    fn try_ask(
        &mut self,
        commands: &[Command],
        mut take: impl FnMut(usize, usize) -> Option<Range<usize>>,
        mut answer: impl FnMut(usize, Reply),
        deadline: Instant,
    ) -> Result<(), Error> {
        self.limit_replies(commands);
        let mut window = WINDOW;
        if self.profile().one_by_one {
            window = 1;
            self.settle_ahead(deadline)?;
        }
        let mut under_way = VecDeque::new();
        let mut started = Some(Instant::now());
        let mut is_over = false;
        loop {
            if !is_over && under_way.len() <= window / 2 {
                let next = take(under_way.len(), window - under_way.len());
                is_over = next.is_none();
                if let Some(next) = next.filter(|next| !next.is_empty()) {
                    self.control.send(&commands[next.clone()], deadline)?;
                    under_way.extend(next);
                    self.settle_ahead(deadline)?;
                }
            }
            let Some(&at) = under_way.front() else {
                return Ok(());
            };
            let verb = commands[at].verb();
            let reply = match under_way.len() > CROWD {
                true => self.control.reply_of_many(verb, deadline)?,
                false => self.control.reply(verb, deadline)?,
            };
            under_way.pop_front();
            answer(at, reply);
            if let Some(started) = started.take() {
                self.round_trip = self.round_trip.min(started.elapsed());
            }
        }
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
            let endpoint = Endpoint::open(self, command, window, deadline)?;
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
        self.activity.turn_to(command.to_string());
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
        if let Some(kind) = handshake {
            self.server.ledger.handshake(kind);
        }
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

    /// A listing by `LIST` or `MLSD`, or the server's refusal; with the replies to `prelude`. That
    /// the data connection failed is no refusal: it may well work the next time.
    pub fn list(
        &mut self,
        prelude: &[Command],
        command: Command,
        deadline: Instant,
    ) -> Result<(Vec<Reply>, Result<Listed, Reply>), Error> {
        let verb = command.verb();
        let refused = |reply: Reply| match reply.code.is_of_data() {
            true => Err(Error::Refused {
                command: verb.to_owned(),
                reply,
            }),
            false => Ok(reply),
        };
        let begun = self.begin(prelude, command, deadline)?;
        let mut data = match begun.transfer {
            Transfer::Started(data) => data,
            Transfer::Refused(reply) => return Ok((begun.prelude, Err(refused(reply)?))),
        };
        data.set_patience(self.patience);
        let early = self.profile().early_close == Some(true);
        if early {
            // Its 226 comes along with the data then. What is broken shows when it is read.
            let _ = data.close_notify(deadline);
        }
        let read = read_to_end(&mut data, deadline);
        if early && read.is_err() {
            // pyftpdlib bears it now and then, and that was when it was tried.
            self.learn(|p| p.early_close = None);
        }
        let (mut bytes, clean) = self.note(read)?;
        self.server.ledger.received(bytes.len());
        if let Some(charset) = &self.server.config.special.charset {
            bytes = charset.decode(&bytes);
        }
        let reply = self.finish_download(*data, verb, deadline)?;
        let outcome = if reply.code.is_completion() {
            Ok(Listed {
                bytes,
                reply,
                clean,
            })
        } else {
            Err(refused(reply)?)
        };
        Ok((begun.prelude, outcome))
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
        let mut driver = Driver::new(&mut self.control, &mut self.negotiation, &self.tls);
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

    /// How it came about, for whoever wants to know.
    pub fn introduction(&self) -> Introduction {
        let tls = self.control.stream.tls();
        let version = tls.and_then(|tls| tls.protocol_version());
        let suite = tls.and_then(|tls| tls.negotiated_cipher_suite());
        let leaf = tls.and_then(|tls| tls.peer_certificates()?.first());
        Introduction {
            peer: self.peer,
            greeting: self.ready.greeting.to_string(),
            version: version.map_or("none".to_owned(), |v| format!("{v:?}").replace('_', ".")),
            suite: suite.map_or("none".to_owned(), |suite| format!("{:?}", suite.suite())),
            certificate: leaf.map(|leaf| CertificateFacts::of(leaf)),
            features: self.ready.features.lines().collect(),
        }
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
        self.advance_ahead();
        if self.is_broken() {
            return false;
        }
        if self.has_asked_ahead() {
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

    /// The shortest round trip that was seen.
    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip
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
