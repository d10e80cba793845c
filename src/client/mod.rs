//! FTPS client sessions: one control connection each, at most one data connection, and the
//! bounded pool of them. Knows no inodes, caches or errno.

use std::net::SocketAddr;
use std::time::Duration;

use crate::proto::{Secret, Security};
use crate::tls::TrustOptions;

/// Everything a client needs to know to reach a server; made by `mount` from the options.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name or address as the user wrote it (no brackets).
    pub host: String,
    pub port: u16,
    pub security: Security,
    pub user: Vec<u8>,
    pub password: Secret,
    pub trust: TrustOptions,
    /// `max_sessions=`, at least 1.
    pub max_sessions: usize,
    /// `active`: EPRT/PORT instead of EPSV/PASV.
    pub active: bool,
    /// `pasv_address=trust`: believe the address in a 227 reply.
    pub trust_pasv_address: bool,
    /// `connect_timeout`-like bound of one TCP connect attempt.
    pub connect_timeout: Duration,
    /// `keepalive=`: NOOP after that much idleness.
    pub keepalive: Duration,
    /// `idle=`: surplus sessions are closed after that much idleness.
    pub idle_close: Duration,
    /// `min_rate=`: bytes per second that a transfer must keep on average.
    pub min_rate: u64,
    /// Addresses instead of a lookup of `host` (tests).
    pub addresses: Vec<SocketAddr>,
}

/// Why a client operation failed. (More variants follow.)
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Placeholder(String),
}
