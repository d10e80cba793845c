//! What the sessions do, kept up for whoever asks: [`Activity`] of one session, [`Ledger`] of them
//! all, and [`Report`] as it is handed out. Knows no pool and no protocol.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use rustls::HandshakeKind;
use serde::{Deserialize, Serialize};

use super::profile::{Profile, Resumption};

/// The sessions of one server, and what passed in all of them since the mount. `sessions` is a
/// leaf lock.
#[derive(Default)]
pub(crate) struct Ledger {
    sessions: Mutex<Vec<Weak<Activity>>>,
    opened: AtomicU64,
    commands: AtomicU64,
    round_trips: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    resumed: AtomicU64,
    unresumed: AtomicU64,
}

/// What one session does. `now` is a leaf lock.
pub(super) struct Activity {
    ledger: Arc<Ledger>,
    number: u64,
    peer: String,
    born: Instant,
    now: Mutex<Now>,
    /// Bytes of the transfer under way.
    moved: AtomicU64,
}

struct Now {
    /// A command, as it may be shown; empty when idle.
    doing: String,
    since: Instant,
    transfer: Option<Extent>,
    parked: bool,
}

#[derive(Clone, Copy)]
struct Extent {
    offset: u64,
    /// Where it will end, if that is known.
    size: Option<u64>,
}

impl Ledger {
    /// Commands left in one write: whoever waits for them waits for one round trip.
    pub(super) fn wrote(&self, commands: usize) {
        self.commands.fetch_add(commands as u64, Relaxed);
        self.round_trips.fetch_add(1, Relaxed);
    }

    /// Bytes of data connections.
    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    /// A transfer is over, whose data connection began so.
    pub(super) fn handshake(&self, kind: HandshakeKind) {
        let counter = match kind {
            HandshakeKind::Resumed => &self.resumed,
            _ => &self.unresumed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// All sessions in being, the oldest first.
    pub(super) fn sessions(&self) -> Vec<SessionReport> {
        let mut sessions = self.sessions.lock();
        sessions.retain(|session| session.strong_count() > 0);
        let live: Vec<_> = sessions.iter().filter_map(Weak::upgrade).collect();
        drop(sessions);
        live.iter().map(|activity| activity.report()).collect()
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            sessions_opened: self.opened.load(Relaxed),
            commands: self.commands.load(Relaxed),
            round_trips: self.round_trips.load(Relaxed),
            bytes_received: self.received.load(Relaxed),
            bytes_sent: self.sent.load(Relaxed),
            data_resumed: self.resumed.load(Relaxed),
            data_unresumed: self.unresumed.load(Relaxed),
        }
    }
}

impl Activity {
    /// A session that was just made.
    pub(super) fn begin(ledger: &Arc<Ledger>, peer: String) -> Arc<Self> {
        let now = Instant::now();
        let activity = Arc::new(Self {
            ledger: ledger.clone(),
            number: ledger.opened.fetch_add(1, Relaxed) + 1,
            peer,
            born: now,
            now: Mutex::new(Now {
                doing: String::new(),
                since: now,
                transfer: None,
                parked: false,
            }),
            moved: AtomicU64::new(0),
        });
        ledger.sessions.lock().push(Arc::downgrade(&activity));
        activity
    }

    /// It begins to carry out a command; nothing: it is idle.
    pub(super) fn turn_to(&self, doing: String) {
        self.moved.store(0, Relaxed);
        *self.now.lock() = Now {
            doing,
            since: Instant::now(),
            transfer: None,
            parked: false,
        };
    }

    /// The command has turned out to be a transfer.
    pub(super) fn transfers(&self, offset: u64, size: Option<u64>) {
        self.now.lock().transfer = Some(Extent { offset, size });
    }

    pub(super) fn received(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Relaxed);
        self.ledger.received(bytes);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Relaxed);
        self.ledger.sent.fetch_add(bytes as u64, Relaxed);
    }

    /// Nobody reads the transfer just now, or somebody does again.
    pub(super) fn park(&self, parked: bool) {
        self.now.lock().parked = parked;
    }

    fn report(&self) -> SessionReport {
        let now = self.now.lock();
        let moved = self.moved.load(Relaxed);
        SessionReport {
            number: self.number,
            peer: self.peer.clone(),
            age: self.born.elapsed().as_secs_f64(),
            doing: now.doing.clone(),
            seconds: now.since.elapsed().as_secs_f64(),
            parked: now.parked,
            transfer: now.transfer.map(|extent| TransferReport {
                offset: extent.offset,
                bytes: moved,
                size: extent.size,
                rate: 0.0,
            }),
        }
    }
}

/// What the sessions with a server do, and what was learned about it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub sessions: Vec<SessionReport>,
    /// How many there may be: `max_sessions=`, or the server's own limit where that is less.
    pub limit: usize,
    /// Requests that wait for a session.
    pub waiting: usize,
    /// Why the server cannot be reached, while it cannot.
    pub outage: Option<String>,
    pub traffic: Traffic,
    pub profile: ProfileReport,
    /// What the next mount will know from the start.
    #[serde(default)]
    pub kept: Option<KeptReport>,
}

/// What is kept of what was learned, from one mount to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptReport {
    pub file: String,
    /// Since when the lessons in it are gathered, seconds since 1970.
    pub since: u64,
    /// `name=value` each; none while nothing has been written.
    pub lessons: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionReport {
    /// Sessions are counted since the mount.
    pub number: u64,
    pub peer: String,
    /// Seconds since it was opened.
    pub age: f64,
    /// The command that it carries out, secrets masked; empty when it is idle.
    pub doing: String,
    /// How long it has done so, seconds.
    pub seconds: f64,
    /// A download that nobody reads just now; its session is taken when another needs one.
    pub parked: bool,
    pub transfer: Option<TransferReport>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransferReport {
    /// Where in the file it began.
    pub offset: u64,
    /// What went over the wire since.
    pub bytes: u64,
    /// Where in the file it ends, if that is known.
    pub size: Option<u64>,
    /// Bytes per second just now; filled in by who looks twice.
    pub rate: f64,
}

/// Sums since the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub sessions_opened: u64,
    pub commands: u64,
    /// Writes of commands: those that leave together are waited for together.
    pub round_trips: u64,
    /// File contents and listings.
    pub bytes_received: u64,
    /// File contents.
    pub bytes_sent: u64,
    /// Data connections that resumed a TLS session, and that did not.
    pub data_resumed: u64,
    pub data_unresumed: u64,
}

/// What was learned about the server; `None`: nothing as yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileReport {
    /// What FEAT listed.
    pub features: Vec<String>,
    /// Whether data connections must resume a TLS session.
    pub resumption: Option<String>,
    /// How directories are listed.
    pub listing: String,
    pub one_by_one: bool,
    pub epsv: bool,
    pub renames_over: Option<bool>,
    pub patches_in_place: Option<bool>,
    pub stat_faithful: Option<bool>,
    pub shows_links: Option<bool>,
    pub copies_files: bool,
    pub tells_space: bool,
    #[serde(default)]
    pub ignores_case: Option<bool>,
    /// What listings' times must be moved by to be UTC, seconds.
    pub listing_offset: Option<i64>,
    /// What MDTM's must be moved by, likewise.
    #[serde(default)]
    pub mdtm_offset: Option<i64>,
}

impl ProfileReport {
    pub(super) fn of(profile: &Profile) -> Self {
        let told = |features: &crate::proto::Features| features.lines().collect();
        let listing = match (
            profile.mlst_missing || profile.mlsd_refused,
            profile.stat_faithful,
        ) {
            (false, _) => "MLSD",
            (true, Some(true)) => "STAT",
            (true, _) => "LIST",
        };
        Self {
            features: profile.features.as_deref().map(told).unwrap_or_default(),
            resumption: match profile.resumption {
                Resumption::Unknown => None,
                Resumption::Optional => Some("optional".to_owned()),
                Resumption::Demanded => Some("demanded".to_owned()),
            },
            listing: listing.to_owned(),
            one_by_one: profile.one_by_one,
            epsv: !profile.epsv_refused,
            renames_over: profile.renames_over,
            patches_in_place: profile.patches_in_place,
            stat_faithful: profile.stat_faithful,
            shows_links: profile.mlst_hides_links.map(|hides| !hides),
            copies_files: profile.copies_files,
            tells_space: profile.tells_space,
            ignores_case: profile.ignores_case,
            listing_offset: profile.listings_to_utc(),
            mdtm_offset: profile.mdtm_offset,
        }
    }
}
