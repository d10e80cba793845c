//! FTPS client sessions: one control connection each, at most one data connection, and the
//! bounded pool of them. Knows no inodes, caches or errno.

mod activity;
mod charset;
mod connect;
mod control;
mod data;
mod download;
mod error;
mod foresight;
mod kept;
mod opening;
mod pool;
mod profile;
mod proxy;
mod session;
mod spread;
mod upload;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::proto::{Login, Secret, Security};
use crate::tls::{CertificateFacts, Trust, TrustError, TrustOptions};

use kept::Kept;

pub use activity::{KeptReport, ProfileReport, Report, SessionReport, Traffic, TransferReport};
pub use charset::Charset;
pub use download::{Download, Progress, Started};
pub use error::Error;
pub use pool::{Lane, Lease, Parked, Pool};
pub use profile::{Profile, Resumption};
pub use proxy::{Proxy, ProxyLogin};
pub use session::{Begun, Listed, Session, Transfer};
pub use upload::{StartedUpload, Upload};

/// Everything a client needs to know to reach a server; made by `mount` from the options.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name or address as the user wrote it (no brackets).
    pub host: String,
    pub port: u16,
    pub security: Security,
    pub user: Vec<u8>,
    pub password: Secret,
    /// For servers that answer PASS with 332.
    pub account: Option<Secret>,
    pub trust: TrustOptions,
    /// `max_sessions=`, at least 1.
    pub max_sessions: usize,
    /// `active`: EPRT/PORT instead of EPSV/PASV.
    pub active: bool,
    /// `pasv_address=trust`: believe the address in a 227 reply.
    pub trust_pasv_address: bool,
    /// `retries=`: how often what a connection was lost under is asked for again.
    pub retries: u32,
    /// Bound of one TCP connect attempt, and of the steps up to the login's end.
    pub connect_timeout: Duration,
    /// NOOP after that much idleness.
    pub keepalive: Duration,
    /// Surplus sessions are closed after that much idleness.
    pub idle_close: Duration,
    /// Bytes per second that a transfer must keep on average.
    pub min_rate: u64,
    /// The file in which what is learned about the server is kept from one mount to the next.
    pub kept: Option<PathBuf>,
    /// Addresses instead of a lookup of `host` (tests).
    pub addresses: Vec<SocketAddr>,
    pub special: Special,
}

impl Config {
    /// With the usual bounds, and nothing special.
    pub fn new(
        host: impl Into<String>,
        port: u16,
        security: Security,
        user: impl Into<Vec<u8>>,
        password: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            host: host.into(),
            port,
            security,
            user: user.into(),
            password: Secret::new(password),
            account: None,
            trust: TrustOptions::default(),
            max_sessions: 4,
            active: false,
            trust_pasv_address: false,
            retries: 2,
            connect_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(60),
            idle_close: Duration::from_secs(60),
            min_rate: 1024,
            kept: None,
            addresses: Vec::new(),
            special: Special::default(),
        }
    }
}

/// What only some servers and networks need.
#[derive(Clone, Debug, Default)]
pub struct Special {
    /// `proxy=`: all connections go through it.
    pub proxy: Option<Proxy>,
    /// `bind=`: our own address.
    pub bind: Option<IpAddr>,
    /// `host=`: which of the server's virtual hosts is meant (HOST).
    pub virtual_host: Option<String>,
    /// `charset=`: what names are written in there, if not UTF-8.
    pub charset: Option<Charset>,
    /// `case=`: whether names that differ in case only are one there; `None`: the server says.
    pub ignores_case: Option<bool>,
    /// `time_offset=`: how far the server's own time is ahead of UTC, seconds.
    pub time_offset: Option<i64>,
}

/// How a session came about.
#[derive(Clone, Debug)]
pub struct Introduction {
    pub peer: SocketAddr,
    pub greeting: String,
    /// `TLSv1.3`, and the cipher suite.
    pub version: String,
    pub suite: String,
    pub certificate: Option<CertificateFacts>,
    /// What FEAT listed.
    pub features: Vec<String>,
}

/// Every address of the server, and how long a TCP connection to it took, or why there is none.
pub fn reach(config: &Config, deadline: Instant) -> io::Result<Vec<Reached>> {
    connect::reach(config, deadline)
}

/// What came of connecting to an address.
pub type Reached = (SocketAddr, io::Result<Duration>);

/// What all sessions with one server share.
pub(crate) struct Server {
    config: Config,
    trust: Trust,
    profile: profile::Learned,
    /// A leaf lock, but for its file.
    kept: Mutex<Option<Kept>>,
    ledger: Arc<activity::Ledger>,
}

impl Server {
    fn new(config: Config) -> Result<Arc<Self>, TrustError> {
        let trust = Trust::new(&config.trust, &config.host)?;
        let kept = config.kept.as_deref();
        let kept = kept.map(|path| Kept::open(path, SystemTime::now()));
        let (kept, mut profile) = kept.map_or((None, Profile::default()), |(k, p)| (Some(k), p));
        profile.time_offset = config.special.time_offset;
        Ok(Arc::new(Self {
            config,
            trust,
            profile: profile::Learned::from(profile),
            ledger: Arc::default(),
            kept: Mutex::new(kept),
        }))
    }

    /// Writes down what was learned.
    fn keep_lessons(&self) {
        let profile = self.profile.current();
        if let Some(kept) = &mut *self.kept.lock() {
            kept.save(&profile);
        }
    }

    /// "host:port", for messages.
    fn name(&self) -> String {
        let Config { host, port, .. } = &self.config;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }

    /// The peer of a connection, for messages.
    fn whereabouts(&self, peer: SocketAddr) -> String {
        match &self.config.special.proxy {
            None => peer.to_string(),
            Some(proxy) => format!("{} by {proxy}", self.name()),
        }
    }

    /// TLS 1.2 sessions can be resumed again and again.
    fn prefers_tls12(&self) -> bool {
        let profile = self.profile.current();
        profile.uploads_bring_no_ticket && profile.resumption != Resumption::Optional
    }

    fn login(&self, pipeline: bool) -> Login {
        let profile = self.profile.current();
        Login {
            security: self.config.security,
            user: self.config.user.clone(),
            password: self.config.password.clone(),
            account: self.config.account.clone(),
            host: self.config.special.virtual_host.clone(),
            utf8: self.config.special.charset.is_none(),
            implicit_needs_prot: profile.implicit_needs_prot,
            pipeline,
            features: profile.features.as_deref().cloned(),
        }
    }
}
