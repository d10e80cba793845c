//! The state machine that takes a fresh connection to "ready" (RFC 4217, [MS-FTPS] 3.1.5), and
//! back through it after REIN.
//!
//! The driver performs each [`Step`] and reports what came of it. One command list is in flight
//! at a time; its replies come back one by one, in order.

use super::{Command, Features, Reply, Secret};

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
    /// This implicit server has shown that it needs PBSZ 0 and PROT P (522).
    pub implicit_needs_prot: bool,
    /// Write USER, PASS, PBSZ, PROT, FEAT, TYPE I... in one go; else one at a time.
    pub pipeline: bool,
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
    /// OPTS UTF8 ON was accepted, or FEAT lists UTF8.
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
}

impl Negotiation {
    /// For a connection just made.
    pub fn new(login: Login) -> Self {
        Self { login }
    }
    /// The first step, and after [`Negotiation::reinitialize`] the first step of that.
    pub fn start(&mut self) -> Step {
        let _ = &self.login;
        todo!()
    }
    /// A reply came.
    pub fn on_reply(&mut self, _reply: Reply) -> Result<Step, NegotiationError> {
        todo!()
    }
    /// The TLS handshake is complete and verified.
    pub fn on_tls_started(&mut self) -> Step {
        todo!()
    }
    /// The connection is clear again (after REIN).
    pub fn on_tls_stopped(&mut self) -> Step {
        todo!()
    }
    /// From ready: REIN, TLS down, and the whole way again on the same TCP connection.
    pub fn reinitialize(&mut self) -> Step {
        todo!()
    }
}
