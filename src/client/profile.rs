//! What was learned about a server, shared by all sessions with it. A wrong entry corrects
//! itself at the next refusal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use sha2::{Digest, Sha256};

use crate::proto::{Features, Reply};

/// Whether data connections must resume a TLS session of their control connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Resumption {
    #[default]
    Unknown,
    /// A transfer went through after a full handshake.
    Optional,
    /// A full handshake was refused (522, 425), and none was taken before or since.
    Demanded,
}

/// The lessons. All false or unknown at first.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// A hash of the greeting and of what FEAT listed: whose lessons these are.
    pub identity: Option<String>,
    /// What FEAT listed.
    pub features: Option<Arc<Features>>,
    /// It loses commands that come before its reply to the last.
    pub one_by_one: bool,
    /// It reads no command before a transfer is over: what is written meanwhile is answered then.
    pub queues_commands: bool,
    /// This implicit server wants PBSZ 0 and PROT P nonetheless (vsftpd: 522).
    pub implicit_needs_prot: bool,
    /// A data transfer succeeded.
    pub data_proven: bool,
    pub resumption: Resumption,
    /// After an upload under TLS 1.3 there is no session left to resume (ProFTPD).
    pub uploads_bring_no_ticket: bool,
    /// After a download that we reset, a final reply comes (not always so on Pure-FTPd).
    pub speaks_after_reset: Option<bool>,
    /// A small download is whole although we said close_notify before the server did: its final
    /// reply comes along with the data then. False where it was not, or nobody knows why.
    pub early_close: Option<bool>,
    /// EPSV was refused; PASV is used.
    pub epsv_refused: bool,
    /// Without PRET it refuses EPSV and PASV (DrFTPD). Pure-FTPd lists PRET, and needs none.
    pub wants_pret: Option<bool>,
    /// EPRT was refused; PORT is used.
    pub eprt_refused: bool,
    /// How long a data connection that was opened ahead of its transfer stays good, where the
    /// server has shown that.
    pub ahead_lifetime: Option<Duration>,
    /// None is opened ahead until then.
    pub ahead_paused: Option<Instant>,
    /// REIN was refused, or left TLS up.
    pub rein_refused: bool,
    /// FEAT lists MLST, but MLSD does not work (Serv-U).
    pub mlsd_refused: bool,
    /// MLSD shows the directory itself as well.
    pub mlsd_shows_itself: bool,
    /// FEAT does not list MLST, or MLST does not work.
    pub mlst_missing: bool,
    /// FEAT lists AVBL.
    pub tells_space: bool,
    /// FEAT lists SITE COPY: CPFR and CPTO (ProFTPD).
    pub copies_files: bool,
    /// `LIST -a` was refused (pyftpdlib).
    pub list_all_refused: bool,
    /// STAT of a directory was compared with LIST.
    pub stat_faithful: Option<bool>,
    /// MLSD shows symbolic links as what they point to (pyftpdlib). Not known before a link was
    /// seen.
    pub mlsd_hides_links: Option<bool>,
    /// MLST does (ProFTPD, pyftpdlib).
    pub mlst_hides_links: Option<bool>,
    /// A name may end with a space (Pure-FTPd makes an underscore of that): tried on a directory.
    pub keeps_last_space: Option<bool>,
    /// A RETR begins where the REST before it said: tried on the last byte of a file. Else a 350 is
    /// not believed.
    pub keeps_rest: Option<bool>,
    /// REST and STOR in the middle of a file keep its tail: tried on a scratch file.
    pub patches_in_place: Option<bool>,
    /// RNTO replaces what stands under the new name (not on IIS and FileZilla).
    pub renames_over: Option<bool>,
    /// Names that differ in case only are one (Windows): by SYST.
    pub ignores_case: Option<bool>,
    /// Verbs that set no time here.
    pub time_ways_refused: Vec<&'static str>,
    /// How far the server's zone is ahead of UTC, where the user says so, seconds.
    pub time_offset: Option<i64>,
    /// What LIST's and STAT's times must be moved by to be UTC, seconds, as files have shown it.
    pub listing_offset: Option<i64>,
    /// What MDTM's times must be moved by, likewise; `None` counts as 0.
    pub mdtm_offset: Option<i64>,
}

impl Profile {
    /// A connection is ready. Where the server is not the one that taught these lessons, or another
    /// version of it, everything is learned anew.
    pub(super) fn recognize(&mut self, greeting: &Reply, features: &Features) {
        let identity = identity(greeting, features);
        if self
            .identity
            .as_ref()
            .is_some_and(|known| *known != identity)
        {
            log::info!(
                "the server's greeting or features have changed: what it can do is learned anew"
            );
            *self = Self {
                one_by_one: self.one_by_one,
                time_offset: self.time_offset,
                ..Self::default()
            };
        }
        self.identity = Some(identity);
    }

    /// What LIST's and STAT's times must be moved by to be UTC, seconds.
    pub fn listings_to_utc(&self) -> Option<i64> {
        self.time_offset.map(|ahead| -ahead).or(self.listing_offset)
    }
}

/// Greetings tell the time and the number of users: digits do not count.
fn identity(greeting: &Reply, features: &Features) -> String {
    let mut hash = Sha256::new();
    let greeting = greeting
        .lines
        .iter()
        .map(|line| String::from_utf8_lossy(line).into_owned());
    for line in greeting.chain(features.lines()) {
        hash.update(line.replace(|c: char| c.is_ascii_digit(), "") + "\n");
    }
    hash.finalize()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The profile behind its lock: a leaf, held for memory work only.
#[derive(Default)]
pub(crate) struct Learned(Mutex<Profile>);

impl Learned {
    pub(super) fn from(profile: Profile) -> Self {
        Self(Mutex::new(profile))
    }

    pub(crate) fn current(&self) -> Profile {
        self.0.lock().clone()
    }

    pub(crate) fn learn(&self, lesson: impl FnOnce(&mut Profile)) {
        lesson(&mut self.0.lock());
    }
}
