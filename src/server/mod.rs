//! The server role of MS-FTPS (3.2) over RFC 4217, serving one folder: for `ftpsfs serve`,
//! for `ftpsfs demo`, and as the peer of the client's tests. Must not know the client, `fs` or
//! `fuse`.
//!
//! One thread accepts; each session has a thread of its own, and a second one while data flows.
//! [`session`] holds a connection's state and the order of commands, [`control`] its lines,
//! [`data`] its data connections, [`files`] the commands on files, [`tree`] the folder,
//! [`listing`] the text of listings, [`identity`] the certificate, [`fault`] what goes wrong on
//! command.

mod cli;
mod control;
mod data;
mod fault;
mod files;
mod identity;
mod listing;
mod session;
mod tree;

use std::collections::HashMap;
use std::io::{self, PipeReader, PipeWriter};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use parking_lot::{Condvar, Mutex};

pub use cli::{ServeArgs, serve};
pub use fault::{
    Counts, Direction, Event, Faults, Passed, Place, Rule, RuleError, Rules, Traffic, Unit, What,
    When,
};

use crate::proto::{Secret, Security};
use crate::tls::{self, Fingerprint};
use identity::Identity;
use session::Session;
use tree::Tree;

/// Connections over [`Config::max_sessions`] that are told so (421) at the same time; any more
/// are just closed.
const REFUSALS: usize = 8;
/// How long [`Server`]'s drop waits for its sessions.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// What to serve, to whom, and how. Plain data; start from [`Config::new`].
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder served as `/`. Nothing outside it is reachable, by symbolic links neither.
    pub root: PathBuf,
    /// Address and port of the control connection; port 0 takes any.
    pub listen: SocketAddr,
    pub security: Security,
    pub users: Users,
    /// PEM files of a certificate chain and its key; a certificate is made where there is none.
    pub certificate: Option<CertificateFiles>,
    /// Every change is refused.
    pub read_only: bool,
    /// Control connections at a time; over it new ones get 421.
    pub max_sessions: usize,
    /// A control connection without a command for that long is closed with 421.
    pub idle: Duration,
    /// How long a data connection may take to come about, its handshake included.
    pub data_wait: Duration,
    /// Data connections are refused (522) until the client itself sends PROT P, on implicit
    /// sessions too (vsftpd does so, against \[MS-FTPS\] 3.2.5.1); PROT C is refused (534).
    pub require_prot: bool,
    /// A data connection must resume a TLS session of its own control connection, else 522
    /// (vsftpd's `require_ssl_reuse`).
    pub require_reuse: bool,
    /// PASV and EPSV are refused (503) until PRET has told what they are for.
    pub wants_pret: bool,
    /// After USER and PASS it asks for this account (332, ACCT); after USER alone where no password is
    /// ever wanted.
    pub account: Option<Account>,
    /// Until CLNT has told who the client is, OPTS UTF8 is refused (503); until UTF-8 is on, names
    /// have ASCII letters only.
    pub wants_clnt: bool,
    /// Verbs this server does not know (`"MLSD"`, `"SITE CHMOD"`): 502, and absent from FEAT.
    pub without: Vec<String>,
    /// What goes wrong; keep a clone to change and count it while the server runs.
    pub faults: Option<Faults>,
    /// MDTM tells and takes times so much later than listings do, as servers with their clocks in
    /// two zones have it.
    pub mdtm_slip: Duration,
    /// How far LIST and STAT are ahead of UTC, seconds.
    pub zone: i64,
    /// As IIS does it: names keep their case and ignore it, RNTO replaces nothing, and LIST looks
    /// like `dir`.
    pub windows: bool,
}

/// Who may log in.
#[derive(Clone, Debug)]
pub enum Users {
    /// Every name with every password.
    Anyone,
    /// These names, each with its password.
    Listed(Vec<(Vec<u8>, Secret)>),
}

/// What ACCT has to tell.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: Secret,
    /// USER is answered by 332 at once.
    pub instead_of_password: bool,
}

/// PEM files: the chain, leaf first, and the leaf's private key.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Config {
    /// Serves `root` on a free port of 127.0.0.1 to `users`, writable, with a certificate made
    /// on the spot.
    pub fn new(root: impl Into<PathBuf>, security: Security, users: Users) -> Self {
        Self {
            root: root.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            security,
            users,
            certificate: None,
            read_only: false,
            max_sessions: 64,
            idle: Duration::from_secs(300),
            data_wait: Duration::from_secs(30),
            require_prot: false,
            require_reuse: false,
            wants_pret: false,
            account: None,
            wants_clnt: false,
            without: Vec::new(),
            faults: None,
            mdtm_slip: Duration::ZERO,
            zone: 0,
            windows: false,
        }
    }
}

/// A running server. Dropping it ends its sessions, also in mid-transfer, and frees the port.
pub struct Server {
    shared: Arc<Shared>,
    local: SocketAddr,
    accepting: Option<(PipeWriter, JoinHandle<()>)>,
}

/// What all sessions see.
struct Shared {
    config: Config,
    tree: Tree,
    identity: Identity,
    stopping: AtomicBool,
    /// Sockets of the control connections, to end them. A leaf lock.
    sessions: Mutex<HashMap<u64, TcpStream>>,
    session_ended: Condvar,
}

impl Server {
    /// Binds and serves. Errors name what failed: the folder, the certificate, the address.
    pub fn start(config: Config) -> io::Result<Self> {
        let tree = Tree::open(&config.root, config.read_only)
            .map_err(|e| explain(e, format!("cannot serve {}", config.root.display())))?;
        let identity = Identity::new(config.certificate.as_ref(), config.listen.ip())?;
        let listener = TcpListener::bind(config.listen)
            .map_err(|e| explain(e, format!("cannot listen on {}", config.listen)))?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        let shared = Arc::new(Shared {
            config,
            tree,
            identity,
            stopping: AtomicBool::new(false),
            sessions: Mutex::default(),
            session_ended: Condvar::new(),
        });
        let (stopped, stop) = io::pipe()?;
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("ftps-accept".into())
                .spawn(move || accept_loop(&shared, &listener, &stopped))?
        };
        Ok(Self {
            shared,
            local,
            accepting: Some((stop, acceptor)),
        })
    }

    /// The address and port that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// SHA-256 of the leaf certificate, as `fingerprint=` wants it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.shared.identity.fingerprint()
    }

    /// The leaf certificate, DER. It is its own trust anchor where it was made on the spot.
    pub fn certificate(&self) -> &[u8] {
        self.shared.identity.leaf()
    }

    /// Control connections that are open now.
    pub fn sessions(&self) -> usize {
        self.shared.sessions.lock().len()
    }

    /// Ends all sessions and frees the port, as drop does.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some((stop, acceptor)) = self.accepting.take() {
            drop(stop);
            if acceptor.join().is_err() {
                log::error!("the accepting thread panicked");
            }
        }
        let deadline = Instant::now() + STOP_WAIT;
        let mut sessions = self.shared.sessions.lock();
        for tcp in sessions.values() {
            // Wakes whatever the session waits for; it may have ended by itself already.
            let _ = tcp.shutdown(Shutdown::Both);
        }
        while !sessions.is_empty() {
            let waited = self
                .shared
                .session_ended
                .wait_until(&mut sessions, deadline);
            if waited.timed_out() {
                log::warn!("{} sessions outlive their server", sessions.len());
                break;
            }
        }
    }
}

fn accept_loop(shared: &Arc<Shared>, listener: &TcpListener, stopped: &PipeReader) {
    let mut next_id = 0;
    while !shared.stopping.load(Ordering::SeqCst) {
        let mut fds = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
        ];
        // Its end is the only thing the pipe ever has to say; the time-out is a formality.
        let _ = tls::wait_any(&mut fds, Instant::now() + Duration::from_secs(3600));
        match listener.accept() {
            Ok((tcp, peer)) => {
                next_id += 1;
                if let Err(e) = start_session(shared, tcp, peer, next_id) {
                    log::warn!("{peer}: {e}");
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => {
                // Out of descriptors, most likely: let sessions end before trying again.
                log::warn!("accept: {e}");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn start_session(
    shared: &Arc<Shared>,
    tcp: TcpStream,
    peer: SocketAddr,
    id: u64,
) -> io::Result<()> {
    let max = shared.config.max_sessions;
    let rank = {
        let mut sessions = shared.sessions.lock();
        if sessions.len() >= max.saturating_add(REFUSALS) {
            return Ok(());
        }
        sessions.insert(id, tcp.try_clone()?);
        sessions.len()
    };
    let watched = shared.config.faults.as_ref().map(|it| it.accepted(rank));
    let registered = Registered {
        shared: Arc::clone(shared),
        id,
    };
    thread::Builder::new()
        .name("ftps-session".into())
        .spawn(move || {
            let shared = &registered.shared;
            let ended = Session::new(shared, tcp, peer, watched).and_then(|session| {
                if rank <= max {
                    session.run()
                } else {
                    session.refuse()
                }
            });
            if let Err(e) = ended {
                log::info!("{peer}: {e}");
            }
        })?;
    Ok(())
}

/// A session's entry among [`Shared::sessions`], for as long as its thread lives.
struct Registered {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.sessions.lock().remove(&self.id);
        self.shared.session_ended.notify_all();
    }
}

/// In words alone, without "(os error 13)".
fn explain(error: io::Error, what: String) -> io::Error {
    let why = match error.raw_os_error() {
        Some(errno) => Errno::from_raw(errno).desc().to_owned(),
        None => error.to_string(),
    };
    io::Error::new(error.kind(), format!("{what}: {why}"))
}
