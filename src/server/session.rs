//! One control connection: its state, what may come when, login and security (RFC 959, 2228,
//! 4217, [MS-FTPS] 3.2). What touches files is in `files` and `data`.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection};

use super::control::{Control, Input};
use super::data::Endpoint;
use super::fault::{Manner, Plan, Watched, What, Wire, line};
use super::listing::Selected;
use super::{Account, Shared, Users};
use crate::proto::{
    AuthMechanism, Command, CommandError, Features, Protection, RemotePath, Reply, Secret, Security,
};
use crate::tls::Stream;

/// How long a handshake on the control connection, or taking TLS down, may take.
const TLS_WAIT: Duration = Duration::from_secs(30);
/// Wrong passwords on one connection before it is closed, and the pause after each.
const MAX_FAILURES: u32 = 3;
const FAILURE_PAUSE: Duration = Duration::from_millis(300);

pub(super) struct Session<'a> {
    pub(super) server: &'a Shared,
    pub(super) control: Control,
    /// Both without IPv4-mapped IPv6 addresses.
    pub(super) local: SocketAddr,
    pub(super) peer: IpAddr,
    failures: u32,
    pub(super) watched: Option<Arc<Watched>>,
    /// What the fault rules want of the command in hand.
    pub(super) plan: Plan,
    pub(super) state: State,
}

/// All that REIN (RFC 959 4.1.1) and AUTH (RFC 2228 section 3) set back.
pub(super) struct State {
    /// TLS of this control connection and its data connections; there since the handshake, and
    /// still after CCC.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// CCC was accepted: commands come in the clear.
    cleared: bool,
    pbsz: bool,
    /// The data protection level; `None` until it is chosen, and then no data flows.
    pub(super) protection: Option<Protection>,
    login: Login,
    pub(super) folder: RemotePath,
    /// REST: where the next transfer begins.
    pub(super) restart: u64,
    pub(super) rename_from: Option<RemotePath>,
    pub(super) endpoint: Option<Endpoint>,
    /// The port that a fault rule named instead of the endpoint's.
    pub(super) decoy: Vec<socket2::Socket>,
    /// EPSV ALL (RFC 2428 section 4).
    pub(super) only_epsv: bool,
    /// PRET came.
    pub(super) announced: bool,
    pub(super) facts: Selected,
    /// CLNT came, and OPTS UTF8 after it.
    client_told: bool,
    pub(super) utf8: bool,
}

enum Login {
    Nobody,
    /// USER came, PASS is due.
    Named(Vec<u8>),
    /// ACCT is due.
    Unaccounted,
    Complete,
}

/// What follows a command, its reply sent.
pub(super) enum After {
    Next,
    /// AUTH was accepted.
    StartTls,
    /// CCC was accepted.
    StopTls,
    /// REIN.
    Reinitialize,
    Close,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        server: &'a Shared,
        tcp: TcpStream,
        peer: SocketAddr,
        watched: Option<Arc<Watched>>,
    ) -> io::Result<Self> {
        let local = tcp.local_addr()?;
        let wire = watched
            .clone()
            .map(|watched| Arc::new(Wire::control(watched)));
        let stream = match &wire {
            Some(wire) => Stream::tapped(tcp, Arc::clone(wire) as _)?,
            None => Stream::new(tcp)?,
        };
        Ok(Self {
            server,
            local: SocketAddr::new(local.ip().to_canonical(), local.port()),
            peer: peer.ip().to_canonical(),
            control: Control::new(stream, wire),
            failures: 0,
            plan: watched.as_ref().map(|it| it.connect()).unwrap_or_default(),
            watched,
            state: State::initial(),
        })
    }

    /// Serves the connection to its end.
    pub(super) fn run(mut self) -> io::Result<()> {
        self.act()?;
        let mut after = self.greet()?;
        loop {
            match after {
                After::Next => {}
                After::StartTls => self.start_tls()?,
                After::StopTls => {
                    self.control.stop_tls(Instant::now() + TLS_WAIT)?;
                    self.state.cleared = true;
                }
                After::Reinitialize => self.reinitialize()?,
                After::Close => {
                    let close_notify = !self.plan.has(&What::NoCloseNotify);
                    return self.control.close(close_notify);
                }
            }
            self.plan = Plan::default();
            let idle_end = Instant::now() + self.server.config.idle;
            after = match self.control.next(idle_end) {
                Ok(Input::Line(line)) => self.receive(&line)?,
                Ok(Input::TooLong) => self.reply(500, "Line too long")?,
                Ok(Input::Ended) => After::Close,
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    self.reply(421, "Idle for too long, closing the connection")?;
                    After::Close
                }
                Err(e) => return Err(e),
            };
        }
    }

    /// Answers 421 instead: too many sessions.
    pub(super) fn refuse(mut self) -> io::Result<()> {
        if self.is_implicit() {
            self.start_tls()?;
        }
        self.reply(421, "Too many sessions, try again later")?;
        self.control.close(true)
    }

    /// From TCP connect to the greeting ([MS-FTPS] 3.2.5.1: implicit TLS comes first, and PBSZ 0
    /// and PROT P are taken as received).
    fn greet(&mut self) -> io::Result<After> {
        if self.is_implicit() {
            self.start_tls()?;
            if !self.server.config.require_prot {
                self.state.pbsz = true;
                self.state.protection = Some(Protection::Private);
            }
        }
        match self.instead()? {
            Some(after) => Ok(after),
            None => self.reply(220, "ftpsfs ready"),
        }
    }

    fn start_tls(&mut self) -> io::Result<()> {
        let config = self.server.identity.for_session();
        let tls = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        self.control.start_tls(tls, Instant::now() + TLS_WAIT)?;
        // RFC 2228 section 3: AUTH takes the login and earlier security exchanges back.
        self.state = State::initial();
        self.state.tls = Some(config);
        Ok(())
    }

    /// REIN was answered. TLS goes down, and then it is as after TCP connect: implicit TLS and a
    /// greeting ([MS-FTPS] 3.2.5.3), or clear and waiting for AUTH, for which REIN's own 220 was
    /// the greeting.
    fn reinitialize(&mut self) -> io::Result<()> {
        if self.control.is_tls() {
            self.control.stop_tls(Instant::now() + TLS_WAIT)?;
        }
        self.state = State::initial();
        if self.is_implicit() {
            self.greet()?;
        }
        Ok(())
    }

    /// Does what the fault rules want to be done to the connection at once.
    fn act(&mut self) -> io::Result<()> {
        for what in self.plan.all() {
            self.control.act(what)?;
        }
        Ok(())
    }

    /// Sends what a fault rule wants to be sent instead of an answer, where one does.
    fn instead(&mut self) -> io::Result<Option<After>> {
        let text = self.plan.find(|what| match what {
            What::Reply(text) => Some(line(text)),
            _ => None,
        });
        if let Some(text) = text {
            return self.send(&text, Manner::AtOnce).map(Some);
        }
        // A client that does not read ends these two in time.
        if self.plan.has(&What::EndlessReply) {
            loop {
                self.control
                    .send(b"211-There is more\r\n", Manner::AtOnce)?;
            }
        }
        if self.plan.has(&What::EndlessLine) {
            self.control.send(b"211-", Manner::AtOnce)?;
            loop {
                self.control.send(&[b'x'; 1000], Manner::AtOnce)?;
            }
        }
        Ok(None)
    }

    fn receive(&mut self, line: &[u8]) -> io::Result<After> {
        let command = Command::decode(line);
        if let Some(watched) = &self.watched {
            self.plan = match &command {
                Ok(command) => watched.command(command.verb()),
                Err(_) => watched.command(&first_word(line)),
            };
            self.act()?;
            if let Some(after) = self.instead()? {
                return Ok(after);
            }
        }
        let command = match command {
            Ok(command) => command,
            Err(e @ CommandError::Unknown(_)) => return self.reply(500, e.to_string()),
            Err(e @ CommandError::Arguments(_)) => return self.reply(501, e.to_string()),
        };
        log::debug!("{}: {command}", self.peer);
        if let Some(refusal) = self.refusal(&command) {
            return self.answer(refusal);
        }
        // RNFR counts for the command right behind it only (RFC 959 4.1.3).
        let rename_from = self.state.rename_from.take();
        self.perform(command, rename_from)
    }

    pub(super) fn reply(&mut self, code: u16, text: impl AsRef<[u8]>) -> io::Result<After> {
        self.answer(Reply::new(code, text))
    }

    pub(super) fn answer(&mut self, reply: Reply) -> io::Result<After> {
        log::debug!("{}: {reply}", self.peer);
        let (bytes, manner) = self.plan.reply(&reply);
        self.send(&bytes, manner)
    }

    fn send(&mut self, bytes: &[u8], manner: Manner) -> io::Result<After> {
        self.control.send(bytes, manner)?;
        // RFC 959 5.4: 421 closes the connection.
        Ok(if bytes.starts_with(b"421") {
            After::Close
        } else {
            After::Next
        })
    }

    fn is_implicit(&self) -> bool {
        self.server.config.security == Security::Implicit
    }

    /// What this server, this protection or this login does not permit.
    fn refusal(&self, command: &Command) -> Option<Reply> {
        use Command as C;
        let without = &self.server.config.without;
        if without.iter().any(|verb| verb == command.verb()) {
            return Some(Reply::new(502, "Command not implemented"));
        }
        let always = matches!(
            command,
            C::Auth(_)
                | C::Pbsz(_)
                | C::Prot(_)
                | C::ProtUnknown(_)
                | C::Ccc
                | C::Rein
                | C::Quit
                | C::Noop
                | C::Feat
                | C::Syst
                | C::Help
                | C::Opts(_)
                | C::Lang(_)
                | C::Host(_)
                | C::Clnt(_)
        );
        let login = matches!(command, C::User(_) | C::Pass(_) | C::Acct(_));
        let logged_in = matches!(self.state.login, Login::Complete);
        // After CCC commands may be clear, but never a password.
        let protected = self.control.is_tls() || (self.state.cleared && !login);
        if always {
            None
        } else if !protected {
            Some(Reply::new(533, "This needs TLS: send AUTH TLS first"))
        } else if login || logged_in {
            None
        } else {
            Some(Reply::new(530, "Log in with USER and PASS first"))
        }
    }

    fn perform(&mut self, command: Command, rename_from: Option<RemotePath>) -> io::Result<After> {
        use Command as C;
        match command {
            C::Auth(mechanism) => self.auth(&mechanism),
            C::Pbsz(_) => self.pbsz(),
            C::Prot(level) => self.prot(level),
            C::ProtUnknown(_) if self.state.pbsz => self.reply(504, "Unknown protection level"),
            C::ProtUnknown(_) => self.reply(503, "PBSZ 0 comes first"),
            C::Ccc => self.ccc(),
            C::Rein => {
                self.reply(220, "Ready for a new user")?;
                Ok(self.unless_silent(After::Reinitialize))
            }
            C::Quit => {
                self.reply(221, "Goodbye")?;
                Ok(After::Close)
            }
            C::User(name) => {
                if let Some(Account {
                    instead_of_password: true,
                    ..
                }) = self.server.config.account
                {
                    self.state.login = Login::Unaccounted;
                    return self.reply(332, "Account, please");
                }
                self.state.login = Login::Named(name);
                self.reply(331, "Password, please")
            }
            C::Pass(password) => self.pass(&password),
            C::Acct(account) => self.account(&account),
            C::Host(_) => self.host(),
            C::Feat => self.answer(self.features()),
            C::Opts(options) => self.opts(&options),
            // RFC 2640 4.1: the replies' language; no argument means the default again.
            C::Lang(None) => self.reply(200, "English"),
            C::Lang(Some(language)) if is_english(&language) => self.reply(200, "English"),
            C::Lang(Some(_)) => self.reply(504, "English only"),
            C::Clnt(_) => {
                self.state.client_told = true;
                self.reply(200, "OK")
            }
            C::Noop => self.reply(200, "OK"),
            C::Pret(_) if !self.server.config.wants_pret => {
                self.reply(502, "Command not implemented")
            }
            C::Pret(line) => match Command::decode(&line) {
                Ok(_) => {
                    self.state.announced = true;
                    self.reply(200, "OK, a port for that next")
                }
                Err(error) => self.reply(501, error.to_string()),
            },
            C::Syst if self.server.config.windows => self.reply(215, "Windows_NT"),
            C::Syst => self.reply(215, "UNIX Type: L8"),
            C::Help => self.reply(214, "See RFC 959, 4217, 3659, 2428, and FEAT"),
            command => self.perform_on_files(command, rename_from),
        }
    }

    /// RFC 4217 section 4; AUTH SSL means the same ([MS-FTPS] 3.2.5.4).
    fn auth(&mut self, mechanism: &AuthMechanism) -> io::Result<After> {
        if self.control.is_tls() {
            return self.reply(503, "TLS is up already");
        }
        match mechanism {
            AuthMechanism::Tls | AuthMechanism::Ssl => {
                self.reply(234, "Start TLS now")?;
                Ok(After::StartTls)
            }
            AuthMechanism::Other(_) => self.reply(504, "TLS or SSL only"),
        }
    }

    /// TLS needs no buffer of its own: any size becomes 0 (RFC 4217 section 8).
    fn pbsz(&mut self) -> io::Result<After> {
        if self.state.tls.is_none() {
            return self.reply(503, "AUTH TLS comes first");
        }
        self.state.pbsz = true;
        self.reply(200, "PBSZ=0")
    }

    /// RFC 4217 section 9.
    fn prot(&mut self, level: Protection) -> io::Result<After> {
        if !self.state.pbsz {
            return self.reply(503, "PBSZ 0 comes first");
        }
        match level {
            Protection::Safe | Protection::Confidential => {
                self.reply(536, "TLS has no such level: PROT P or PROT C")
            }
            Protection::Clear if self.server.config.require_prot => {
                self.reply(534, "Policy demands PROT P")
            }
            Protection::Clear | Protection::Private => {
                self.state.protection = Some(level);
                self.reply(200, "Protection level set")
            }
        }
    }

    /// RFC 4217 section 6, [MS-FTPS] 3.2.5.2.
    fn ccc(&mut self) -> io::Result<After> {
        if !self.control.is_tls() {
            return self.reply(533, "The control connection is clear already");
        }
        if self.is_implicit() {
            return self.reply(534, "An implicit session stays under TLS");
        }
        self.reply(200, "Taking TLS down")?;
        Ok(self.unless_silent(After::StopTls))
    }

    /// TLS goes down only with a close_notify; where a fault rule forbids it, TCP does.
    fn unless_silent(&self, after: After) -> After {
        if self.plan.has(&What::NoCloseNotify) {
            After::Close
        } else {
            after
        }
    }

    /// RFC 7151: there is one folder to serve, whatever name the client knows this server by.
    fn host(&mut self) -> io::Result<After> {
        match self.state.login {
            Login::Nobody => self.reply(220, "Host accepted"),
            _ => self.reply(503, "HOST comes before USER"),
        }
    }

    fn pass(&mut self, password: &Secret) -> io::Result<After> {
        let name = match std::mem::replace(&mut self.state.login, Login::Nobody) {
            Login::Named(name) => name,
            other => {
                self.state.login = other;
                return self.reply(503, "USER comes first");
            }
        };
        let welcome = match &self.server.config.users {
            Users::Anyone => true,
            Users::Listed(users) => users
                .iter()
                .any(|(user, secret)| *user == name && same(secret, password)),
        };
        if welcome && self.server.config.account.is_some() {
            self.state.login = Login::Unaccounted;
            return self.reply(332, "Account, please");
        }
        if welcome {
            self.state.login = Login::Complete;
            return self.reply(230, "Logged in");
        }
        log::warn!("{}: login of {} refused", self.peer, name.escape_ascii());
        self.failures += 1;
        thread::sleep(FAILURE_PAUSE);
        if self.failures < MAX_FAILURES {
            return self.reply(530, "Login incorrect");
        }
        self.reply(421, "Login incorrect, too often")?;
        Ok(After::Close)
    }

    /// RFC 959 4.1.1.
    fn account(&mut self, told: &Secret) -> io::Result<After> {
        let Some(Account { name, .. }) = &self.server.config.account else {
            return self.reply(202, "No account is needed");
        };
        match self.state.login {
            Login::Complete => self.reply(202, "It is known already"),
            Login::Unaccounted if same(name, told) => {
                self.state.login = Login::Complete;
                self.reply(230, "Logged in")
            }
            Login::Unaccounted => self.reply(530, "No such account"),
            Login::Nobody | Login::Named(_) => self.reply(503, "USER and PASS come first"),
        }
    }

    /// [MS-FTPS] 3.2.5.5: its lines in its order, then this server's own.
    fn features(&self) -> Reply {
        let facts = format!("MLST {}", self.state.facts.marked());
        let mut lines = vec![
            "LANG EN*",
            "UTF8",
            "AUTH TLS;SSL;",
            "PBSZ",
            "PROT C;P;",
            "CCC",
            "HOST",
            "SIZE",
            "MDTM",
            "REST STREAM",
            &facts,
            "MFMT",
            "MFF modify;UNIX.mode;",
            "EPSV",
            "EPRT",
            "TVFS",
            "AVBL",
            "SITE CHMOD",
            "SITE UTIME",
            "SITE SYMLINK",
        ];
        if self.server.config.wants_pret {
            lines.push("PRET");
        }
        if self.server.config.wants_clnt {
            lines.push("CLNT");
        }
        let without = &self.server.config.without;
        lines.retain(|line| {
            let known = |verb: &String| line.strip_prefix(verb.as_str());
            !without
                .iter()
                .filter_map(known)
                .any(|rest| rest.is_empty() || rest.starts_with(' '))
        });
        Features::reply(&lines)
    }

    fn opts(&mut self, options: &str) -> io::Result<After> {
        let (what, value) = options.split_once(' ').unwrap_or((options, ""));
        match what.to_ascii_uppercase().as_str() {
            // RFC 3659 7.9.
            "MLST" => {
                self.state.facts = Selected::parse(value);
                let names = self.state.facts.names();
                self.reply(200, format!("MLST OPTS {names}").trim_end())
            }
            "UTF8" if self.server.config.wants_clnt && !self.state.client_told => {
                self.reply(503, "CLNT comes first")
            }
            "UTF8" if self.server.config.wants_clnt => {
                self.state.utf8 = true;
                self.reply(200, "UTF8 is on")
            }
            // Names are bytes here, so UTF-8 is neither switched on nor off.
            "UTF8" if !value.eq_ignore_ascii_case("OFF") => self.reply(200, "UTF8 is on"),
            "UTF8" => self.reply(504, "UTF8 stays on"),
            _ => self.reply(501, "No such option"),
        }
    }
}

impl State {
    fn initial() -> Self {
        Self {
            tls: None,
            cleared: false,
            pbsz: false,
            protection: None,
            login: Login::Nobody,
            folder: RemotePath::root(),
            restart: 0,
            rename_from: None,
            endpoint: None,
            decoy: Vec::new(),
            only_epsv: false,
            announced: false,
            facts: Selected::ALL,
            client_told: false,
            utf8: false,
        }
    }
}

/// The verb of what is no known command.
fn first_word(line: &[u8]) -> String {
    let word = line.split(|&b| b == b' ').next().unwrap_or_default();
    String::from_utf8_lossy(word).to_ascii_uppercase()
}

/// RFC 2640 4.1: a language tag, perhaps with a region.
fn is_english(language: &str) -> bool {
    let primary = language.split('-').next().unwrap_or_default();
    primary.eq_ignore_ascii_case("en")
}

/// Takes as long for a near miss as for a far one.
fn same(a: &Secret, b: &Secret) -> bool {
    let (a, b) = (a.expose(), b.expose());
    let differences = a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y));
    a.len() == b.len() && differences == 0
}
