//! From an authenticated TLS connection to "ready": HOST, USER, PASS, ACCT, PBSZ, PROT, FEAT,
//! OPTS, TYPE. Keeps what is still to be asked and what is in flight, so that a server may
//! answer a pipelined command in any way without confusing the next one's reply with it.

use std::collections::VecDeque;

use super::super::{Command, Features, Protection, Reply};
use super::{Login, NegotiationError, Security};

/// What one write may hold, in bytes: ProFTPD and Pure-FTPd stall on a TLS record with more than
/// 4096 bytes of commands.
const MOST_AT_ONCE: usize = 1024;

/// Facts worth asking for where the server has them (RFC 3659 7.9).
const WANTED_FACTS: [&str; 10] = [
    "type",
    "size",
    "modify",
    "perm",
    "unique",
    "UNIX.mode",
    "UNIX.uid",
    "UNIX.gid",
    "UNIX.owner",
    "UNIX.group",
];

/// What is asked of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ask {
    Host,
    User,
    Pass,
    Acct,
    Pbsz,
    Prot,
    Feat,
    Type,
    /// CLNT, OPTS UTF8, OPTS MLST: whatever the answer, things go on.
    Option(Command),
}

#[derive(Debug)]
pub(super) struct LoggingIn {
    to_ask: VecDeque<Ask>,
    /// Written, and not yet answered.
    in_flight: VecDeque<Ask>,
    logged_in: bool,
    /// The 332 that wants an account.
    account_wanted: Option<Reply>,
    /// Refused while the account was wanted: asked again after it.
    again: VecDeque<Ask>,
    pbsz_refused: Option<Reply>,
    /// What FEAT is likely to list.
    expected: Option<Features>,
    utf8: bool,
    pub features: Features,
}

impl LoggingIn {
    pub fn new(login: &Login) -> Self {
        let host = login.host.is_some().then_some(Ask::Host);
        // On implicit TLS both are taken as done and must not be sent ([MS-FTPS] 3.1.5.1), but to
        // a server that has shown that it needs them.
        let protect = login.security == Security::Explicit || login.implicit_needs_prot;
        let protection = [Ask::Pbsz, Ask::Prot].into_iter().filter(|_| protect);
        Self {
            to_ask: host
                .into_iter()
                .chain([Ask::User, Ask::Pass])
                .chain(protection)
                .chain([Ask::Feat, Ask::Type])
                .chain(login.features.iter().flat_map(|f| options(f, login.utf8)))
                .collect(),
            in_flight: VecDeque::new(),
            logged_in: false,
            account_wanted: None,
            again: VecDeque::new(),
            pbsz_refused: None,
            expected: login.features.clone(),
            utf8: login.utf8,
            features: Features::default(),
        }
    }

    pub fn awaits_replies(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The commands to write next; none when all is asked.
    pub fn write(&mut self, login: &Login) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut size = 0;
        while let Some(ask) = self.to_ask.pop_front() {
            if ask == Ask::Pass && self.logged_in {
                continue;
            }
            let command = command(&ask, login);
            size += command.encode().len();
            if size > MOST_AT_ONCE && !commands.is_empty() {
                self.to_ask.push_front(ask);
                break;
            }
            // The password goes to the virtual host that was asked for, or nowhere.
            let alone = !login.pipeline || ask == Ask::Host;
            self.in_flight.push_back(ask);
            commands.push(command);
            if alone {
                break;
            }
        }
        commands
    }

    /// Called with nothing in flight: has the account sent next where it is wanted.
    pub fn supply_account(&mut self, login: &Login) -> Result<(), NegotiationError> {
        if self.logged_in {
            return Ok(());
        }
        let Some(wanted) = self.account_wanted.take() else {
            return Ok(());
        };
        if login.account.is_none() {
            return Err(NegotiationError::Login(wanted));
        }
        while let Some(ask) = self.again.pop_back() {
            self.to_ask.push_front(ask);
        }
        self.to_ask.retain(|ask| *ask != Ask::Pass);
        self.to_ask.push_front(Ask::Acct);
        Ok(())
    }

    /// The reply to the oldest command in flight.
    pub fn on_reply(&mut self, reply: Reply) -> Result<(), NegotiationError> {
        let Some(ask) = self.in_flight.pop_front() else {
            return Err(NegotiationError::Unexpected(reply));
        };
        if reply.code.is_preliminary() {
            return Err(NegotiationError::Unexpected(reply));
        }
        let refused = reply.code.is_transient() || reply.code.is_permanent();
        if refused && self.account_wanted.is_some() && !self.logged_in {
            if ask != Ask::Pass {
                self.again.push_back(ask);
            }
            return Ok(());
        }
        match ask {
            Ask::Host => on_host(reply),
            Ask::User => self.on_user(reply),
            Ask::Pass => self.on_pass(reply),
            Ask::Acct => self.on_acct(reply),
            Ask::Pbsz => {
                self.pbsz_refused = refused.then_some(reply);
                Ok(())
            }
            Ask::Prot => self.on_prot(reply),
            Ask::Feat => {
                self.features = Features::parse(&reply);
                // Asked for already, if it is what was expected.
                if self.expected.take().as_ref() != Some(&self.features) {
                    self.to_ask.retain(|ask| !matches!(ask, Ask::Option(_)));
                    self.to_ask.extend(options(&self.features, self.utf8));
                }
                Ok(())
            }
            Ask::Type => on_type(reply),
            Ask::Option(_) => Ok(()),
        }
    }

    fn on_user(&mut self, reply: Reply) -> Result<(), NegotiationError> {
        match reply.code.as_u16() {
            // 232: the client's certificate was enough (RFC 2228 5).
            230 | 232 => self.logged_in = true,
            331 => {}
            332 => self.account_wanted = Some(reply),
            400.. => return Err(NegotiationError::Login(reply)),
            _ => return Err(NegotiationError::Unexpected(reply)),
        }
        Ok(())
    }

    fn on_pass(&mut self, reply: Reply) -> Result<(), NegotiationError> {
        match reply.code.as_u16() {
            202 | 230 | 232 => self.logged_in = true,
            // USER was enough, and PASS already written: whatever it is answered.
            _ if self.logged_in => {}
            332 => self.account_wanted = Some(reply),
            400.. => return Err(NegotiationError::Login(reply)),
            _ => return Err(NegotiationError::Unexpected(reply)),
        }
        Ok(())
    }

    fn on_acct(&mut self, reply: Reply) -> Result<(), NegotiationError> {
        match reply.code.as_u16() {
            202 | 230 | 232 => self.logged_in = true,
            400.. => return Err(NegotiationError::Login(reply)),
            _ => return Err(NegotiationError::Unexpected(reply)),
        }
        Ok(())
    }

    /// PBSZ means nothing under TLS (RFC 4217 9): its refusal counts only where PROT fails.
    fn on_prot(&mut self, reply: Reply) -> Result<(), NegotiationError> {
        match reply.code.as_u16() {
            200..300 => Ok(()),
            530 => Err(NegotiationError::Login(reply)),
            400.. => Err(NegotiationError::NoProtection(
                self.pbsz_refused.take().unwrap_or(reply),
            )),
            _ => Err(NegotiationError::Unexpected(reply)),
        }
    }
}

/// A server that does not know HOST has one host only (RFC 7151 3.2); one that knows it and not
/// the name refuses.
fn on_host(reply: Reply) -> Result<(), NegotiationError> {
    match reply.code.as_u16() {
        200..300 | 500 | 502 => Ok(()),
        400.. => Err(NegotiationError::Login(reply)),
        _ => Err(NegotiationError::Unexpected(reply)),
    }
}

/// Without TYPE I line ends would be rewritten: there is no going on.
fn on_type(reply: Reply) -> Result<(), NegotiationError> {
    match reply.code.as_u16() {
        200..300 => Ok(()),
        530 => Err(NegotiationError::Login(reply)),
        _ => Err(NegotiationError::Unexpected(reply)),
    }
}

fn command(ask: &Ask, login: &Login) -> Command {
    match ask {
        Ask::Host => Command::Host(login.host.clone().unwrap_or_default()),
        Ask::User => Command::User(login.user.clone()),
        Ask::Pass => Command::Pass(login.password.clone()),
        Ask::Acct => Command::Acct(
            login
                .account
                .clone()
                .unwrap_or_else(|| super::Secret::new([])),
        ),
        Ask::Pbsz => Command::Pbsz(0),
        Ask::Prot => Command::Prot(Protection::Private),
        Ask::Feat => Command::Feat,
        Ask::Type => Command::Type { image: true },
        Ask::Option(command) => command.clone(),
    }
}

/// What to switch on of what FEAT lists.
fn options(features: &Features, utf8: bool) -> impl Iterator<Item = Ask> + use<> {
    // Servers that list CLNT may want to hear it before OPTS UTF8.
    let client = features
        .has("CLNT")
        .then(|| Command::Clnt("ftpsfs".to_owned()));
    let utf8 = (utf8 && features.has("UTF8")).then(|| Command::Opts("UTF8 ON".to_owned()));
    let facts = wanted_facts(features).map(Command::Opts);
    [client, utf8, facts].into_iter().flatten().map(Ask::Option)
}

/// OPTS MLST with the wanted facts as the server spells them, when some are off. Each ends in a
/// semicolon: without the last one ProFTPD turns all facts off.
fn wanted_facts(features: &Features) -> Option<String> {
    let listed = features.mlst_facts();
    let find = |wanted| {
        listed
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
    };
    let facts: Vec<_> = WANTED_FACTS.into_iter().filter_map(find).collect();
    if facts.iter().all(|(_, on)| *on) {
        return None;
    }
    let list: String = facts.iter().map(|(name, _)| format!("{name};")).collect();
    Some(format!("MLST {list}"))
}
