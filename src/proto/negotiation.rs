//! The state machine that takes a fresh connection to "ready" (RFC 4217, [MS-FTPS] 3.1.5), and
//! back through it after REIN.
//!
//! The driver performs each [`Step`] and reports what came of it. One command list is in flight
//! at a time; its replies come back one by one, in order.

mod login;

use self::login::LoggingIn;
use super::{AuthMechanism, Command, Features, Reply, Secret};

/// How TLS starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    /// TLS right after TCP connect ([MS-FTPS] 3.1.5.1).
    Implicit,
    /// AUTH TLS, or AUTH SSL where that is refused with 500-504 ([MS-FTPS] 3.1.5.4).
    Explicit,
}

/// What the machine needs to know beforehand.
#[derive(Clone, Debug)]
pub struct Login {
    pub security: Security,
    pub user: Vec<u8>,
    pub password: Secret,
    /// For a 332 reply.
    pub account: Option<Secret>,
    /// HOST (RFC 7151), sent before USER where set.
    pub host: Option<String>,
    /// Names are to be UTF-8 (RFC 2640), where the server lists that.
    pub utf8: bool,
    /// This implicit server has shown that it needs PBSZ 0 and PROT P (522).
    pub implicit_needs_prot: bool,
    /// Write USER, PASS, PBSZ, PROT, FEAT, TYPE I... in one go; else one at a time, as to servers
    /// whose greeting [`wants_one_by_one`].
    pub pipeline: bool,
    /// What FEAT listed on another connection: most likely it will again, and the options that
    /// follow from it go along.
    pub features: Option<Features>,
}

/// Whether the greeting is that of a server known to lose commands that come before its reply to the
/// last (IIS, MadGoat, MikroTik).
pub fn wants_one_by_one(greeting: &Reply) -> bool {
    is_of(greeting, &["microsoft ftp service", "madgoat", "mikrotik"])
}

/// Whether it is that of a server known to read no command before a transfer is over (vsftpd). Others
/// answer it in the middle of the transfer (ProFTPD, Pure-FTPd), or end that (pyftpdlib).
pub fn queues_commands(greeting: &Reply) -> bool {
    is_of(greeting, &["(vsftpd "])
}

fn is_of(greeting: &Reply, known: &[&str]) -> bool {
    let says = |line: &Vec<u8>| {
        let line = String::from_utf8_lossy(line).to_ascii_lowercase();
        known.iter().any(|name| line.contains(name))
    };
    greeting.lines.iter().any(says)
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start TLS (refuse if clear bytes wait), then call [`Negotiation::on_tls_started`].
    StartTls,
    /// Wait for the server's close_notify, send ours, continue in the clear, then call
    /// [`Negotiation::on_tls_stopped`].
    StopTls,
    /// Write these in one go, then deliver each reply to [`Negotiation::on_reply`].
    Send(Vec<Command>),
    /// Read a reply and deliver it to [`Negotiation::on_reply`].
    Await,
    Ready(Box<Ready>),
}

/// What is known when the connection is ready: logged in, PROT P in force, TYPE I.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    pub greeting: Reply,
    pub features: Features,
    /// FEAT lists UTF8 (RFC 2640), and OPTS UTF8 ON was sent: names are UTF-8.
    pub utf8: bool,
}

/// Why a connection does not become ready. Each carries the server's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// 421, or a greeting that is a refusal.
    #[error("the server refused the connection: {0}")]
    Unavailable(Reply),
    /// AUTH TLS and AUTH SSL refused: a plain-FTP server, or one whose policy forbids it.
    #[error("the server offers no TLS: {0}")]
    NoTls(Reply),
    #[error("login refused: {0}")]
    Login(Reply),
    /// PBSZ or PROT refused.
    #[error("the server refused to protect data connections: {0}")]
    NoProtection(Reply),
    /// REIN answered 500 or 502, or TLS kept up: use a new connection.
    #[error("REIN refused: {0}")]
    ReinRefused(Reply),
    #[error("unexpected reply in this state: {0}")]
    Unexpected(Reply),
}

/// The machine.
#[derive(Debug)]
pub struct Negotiation {
    login: Login,
    state: State,
    /// The first one: after REIN, an explicit server sends none.
    greeting: Option<Reply>,
    /// 120 replies in a row so far.
    delays: u8,
}

/// 120 replies in a row, at most: a server that only ever says "wait" is not there.
const MAX_DELAYS: u8 = 4;

/// What is awaited.
#[derive(Debug)]
enum State {
    /// [`Negotiation::start`].
    New,
    Greeting,
    /// The reply to AUTH TLS, or after that to AUTH SSL.
    Auth(AuthMechanism),
    TlsStarted,
    LoggingIn(LoggingIn),
    Ready,
    /// The reply to REIN.
    Rein,
    TlsStopped,
    /// Nothing: an error was returned.
    Failed,
}

impl Negotiation {
    /// For a connection just made.
    pub fn new(login: Login) -> Self {
        Self {
            login,
            state: State::New,
            greeting: None,
            delays: 0,
        }
    }

    /// The first step on a connection just made.
    pub fn start(&mut self) -> Step {
        match self.login.security {
            Security::Implicit => self.start_tls(),
            Security::Explicit => self.await_greeting(),
        }
    }

    /// A reply came. After an error the connection is of no use.
    pub fn on_reply(&mut self, reply: Reply) -> Result<Step, NegotiationError> {
        let result = self.next_step(reply);
        if result.is_err() {
            self.state = State::Failed;
        }
        result
    }

    /// The TLS handshake is complete and verified.
    pub fn on_tls_started(&mut self) -> Step {
        match self.login.security {
            Security::Implicit => self.await_greeting(),
            Security::Explicit => self.log_in(),
        }
    }

    /// The connection is clear again (after REIN): as if it had just been made, but that no
    /// greeting precedes AUTH (RFC 959 5.4 has REIN's 220 in its place).
    pub fn on_tls_stopped(&mut self) -> Step {
        match self.login.security {
            Security::Implicit => self.start_tls(),
            Security::Explicit => self.authenticate(AuthMechanism::Tls),
        }
    }

    /// From ready: REIN, TLS down, and the whole way again on the same TCP connection. This is the
    /// first step of it; [`Negotiation::start`] is not called again.
    pub fn reinitialize(&mut self) -> Step {
        self.state = State::Rein;
        Step::Send(vec![Command::Rein])
    }

    /// This implicit server has shown that it needs PBSZ 0 and PROT P: after REIN too.
    pub fn send_prot(&mut self) {
        self.login.implicit_needs_prot = true;
    }

    /// Whether PBSZ 0 and PROT P are part of the login.
    pub fn sends_prot(&self) -> bool {
        self.login.security == Security::Explicit || self.login.implicit_needs_prot
    }

    fn next_step(&mut self, reply: Reply) -> Result<Step, NegotiationError> {
        let code = reply.code.as_u16();
        self.delays = if code == 120 {
            self.delays.saturating_add(1)
        } else {
            0
        };
        if code == 421 || self.delays > MAX_DELAYS {
            return Err(NegotiationError::Unavailable(reply));
        }
        match &mut self.state {
            State::Greeting => match code {
                120 => Ok(Step::Await),
                220 => {
                    self.login.pipeline &= !wants_one_by_one(&reply);
                    self.greeting.get_or_insert(reply);
                    Ok(match self.login.security {
                        Security::Implicit => self.log_in(),
                        Security::Explicit => self.authenticate(AuthMechanism::Tls),
                    })
                }
                400.. => Err(NegotiationError::Unavailable(reply)),
                _ => Err(NegotiationError::Unexpected(reply)),
            },
            State::Auth(mechanism) => match code {
                // 334 is RFC 2228's "security data follow": old servers, and the data is TLS's.
                234 | 334 => Ok(self.start_tls()),
                500..=504 if *mechanism == AuthMechanism::Tls => {
                    Ok(self.authenticate(AuthMechanism::Ssl))
                }
                400.. => Err(NegotiationError::NoTls(reply)),
                _ => Err(NegotiationError::Unexpected(reply)),
            },
            State::LoggingIn(progress) => {
                progress.on_reply(reply)?;
                self.continue_login()
            }
            State::Rein => match code {
                120 => Ok(Step::Await),
                220 => {
                    self.state = State::TlsStopped;
                    Ok(Step::StopTls)
                }
                // 500, 502; pyftpdlib's 230 means that TLS stays.
                _ => Err(NegotiationError::ReinRefused(reply)),
            },
            State::New | State::TlsStarted | State::TlsStopped | State::Ready | State::Failed => {
                Err(NegotiationError::Unexpected(reply))
            }
        }
    }

    fn start_tls(&mut self) -> Step {
        self.state = State::TlsStarted;
        Step::StartTls
    }

    fn await_greeting(&mut self) -> Step {
        self.state = State::Greeting;
        Step::Await
    }

    fn authenticate(&mut self, mechanism: AuthMechanism) -> Step {
        self.state = State::Auth(mechanism.clone());
        Step::Send(vec![Command::Auth(mechanism)])
    }

    fn log_in(&mut self) -> Step {
        let mut progress = LoggingIn::new(&self.login);
        let first = progress.write(&self.login);
        self.state = State::LoggingIn(progress);
        Step::Send(first)
    }

    fn continue_login(&mut self) -> Result<Step, NegotiationError> {
        let State::LoggingIn(progress) = &mut self.state else {
            return Ok(Step::Await);
        };
        if progress.awaits_replies() {
            return Ok(Step::Await);
        }
        progress.supply_account(&self.login)?;
        let commands = progress.write(&self.login);
        if !commands.is_empty() {
            return Ok(Step::Send(commands));
        }
        let features = std::mem::take(&mut progress.features);
        self.state = State::Ready;
        let greeting = self.greeting.clone().unwrap_or_else(|| Reply::new(220, ""));
        let utf8 = features.has("UTF8");
        Ok(Step::Ready(Box::new(Ready {
            greeting,
            features,
            utf8,
        })))
    }
}

#[cfg(test)]
mod tests;
