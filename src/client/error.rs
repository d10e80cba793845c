//! Why a client operation failed, with the server's words where it spoke.

use std::io;

use crate::proto::{Command, NegotiationError, Reply, ReplyError};
use crate::tls::{RefusedCertificate, TrustError};

/// Every variant but [`Error::Refused`] leaves the session unusable.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The server answered, and the answer is no. The session goes on.
    #[error("{command}: {reply}")]
    Refused { command: String, reply: Reply },
    /// The connection broke, or the server ended it.
    #[error("connection lost during {during}: {why}")]
    Lost { during: String, why: String },
    #[error("no answer in time during {during}")]
    TimedOut { during: String },
    /// The server is at its limit of connections, ours perhaps among them.
    #[error("the server takes no further connection: {0}")]
    Busy(String),
    /// `charset=` has no way to write it.
    #[error("{0}: the server's character set lacks a character of the name")]
    Unspeakable(&'static str),
    #[error("cannot connect to {target}: {why}")]
    Connect { target: String, why: String },
    #[error("{0}")]
    Certificate(Box<RefusedCertificate>),
    /// Broken, or the two ends agree on none: no question of trust.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server wants a certificate of ours, or another one.
    #[error("TLS: {0}")]
    Distrusted(String),
    #[error(transparent)]
    Negotiation(#[from] NegotiationError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The server broke the protocol.
    #[error("protocol violated by the server: {0}")]
    Protocol(String),
    /// This server demands that data connections resume a TLS session, and this control
    /// connection has none left: another one has.
    #[error("the server demands that data connections resume a TLS session: {0}")]
    NoResumption(String),
}

impl Error {
    pub(super) fn refused(command: &Command, reply: Reply) -> Self {
        Self::Refused {
            command: command.to_string(),
            reply,
        }
    }

    pub(super) fn lost(during: impl Into<String>, why: impl ToString) -> Self {
        Self::Lost {
            during: during.into(),
            why: why.to_string(),
        }
    }

    /// An I/O error on a connection: a timeout, a TLS failure, or a loss.
    pub(super) fn io(during: impl Into<String>, error: &io::Error) -> Self {
        let during = during.into();
        if error.kind() == io::ErrorKind::TimedOut {
            return Self::TimedOut { during };
        }
        let tls = error
            .get_ref()
            .and_then(|e| e.downcast_ref::<rustls::Error>());
        match tls.map(|e| (e, RefusedCertificate::from_error(e))) {
            Some((_, Some(refused))) => Self::Certificate(Box::new(refused.clone())),
            Some((tls, None)) => {
                let words = format!("{tls} (during {during})");
                match is_distrust(tls) {
                    true => Self::Distrusted(words),
                    false => Self::Tls(words),
                }
            }
            None => Self::Lost {
                during,
                why: error.to_string(),
            },
        }
    }

    /// Whether the session can still be used.
    pub fn keeps_session(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Unspeakable(_))
    }

    /// Whether another session may succeed where this one failed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::TimedOut { .. } | Self::NoResumption(_) => true,
            // A record that cannot be read ends a connection like any other loss.
            Self::Tls(_) => true,
            Self::Refused { reply, .. } => reply.code.is_of_data(),
            _ => false,
        }
    }
}

/// Whether the server says so of our certificate, or of its absence.
fn is_distrust(error: &rustls::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let rustls::Error::AlertReceived(alert) = error else {
        return false;
    };
    matches!(
        alert,
        Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired
    )
}

impl From<ReplyError> for Error {
    fn from(error: ReplyError) -> Self {
        Self::Protocol(error.to_string())
    }
}
