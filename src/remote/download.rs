//! [`Download`]: a file's content in order, unbothered by lost connections.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::client::{self, Lane, Lease, Parked, Pool, Profile, Progress, Started};
use crate::proto::{Command, Pathname, RemotePath, Reply};

use super::{Error, Version, clock, meaning, number, stat};

/// Bytes kept of what was read last, to be compared where a file has grown before a stream is
/// opened again.
const TAIL: usize = 4 << 10;
/// So few bytes are read through a small window: the server has no more of them under way than
/// that when the transfer is broken off.
const FEW: u64 = 256 << 10;
/// A TLS record has 16 KiB.
const WINDOW: usize = 16 << 10;
/// How often a file may have changed under the proof of REST, or the proof have failed.
const PROOFS: usize = 4;
/// Read at a time of what is not wanted.
const SINK: usize = 64 << 10;

/// A file being read, in order. A lost connection is replaced and the reading goes on at the same
/// offset, unnoticed, unless the file was replaced meanwhile ([`Error::Changed`]).
pub struct Download {
    pool: Arc<Pool>,
    path: RemotePath,
    offset: u64,
    version: Version,
    stream: Stream,
    /// The last bytes read.
    tail: Vec<u8>,
    /// How far it will be read, where that is known.
    end: Option<u64>,
}

/// Bytes that were read of a file, and its version then. Growth looks like replacement by a longer
/// file where a server tells no `unique` fact (vsftpd): these bytes must still be there.
#[derive(Clone, Debug)]
pub struct Proof {
    pub version: Version,
    /// Where the bytes are in the file.
    pub offset: u64,
    /// Few: at most 4 KiB are of use.
    pub bytes: Vec<u8>,
}

enum Stream {
    Open(Box<client::Download>),
    Parked(Parked),
    Closed,
    /// The end was reached and verified.
    Ended,
}

/// What came of opening a stream.
enum Opened {
    Expected,
    /// By SIZE and MDTM it is another version than the expected one.
    Other(Version),
}

impl Download {
    pub(super) fn open(
        pool: &Arc<Pool>,
        path: &RemotePath,
        offset: u64,
        expected: Option<Version>,
        proof: Option<Proof>,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let mut download = Self::closed(pool, path, offset);
        let Some(proof) = proof else {
            download.begin(expected, deadline)?;
            return Ok(download);
        };
        if proof.offset + proof.bytes.len() as u64 == offset {
            download.tail = proof.bytes;
            download.begin(expected, deadline)?;
            return Ok(download);
        }
        download.begin(expected, deadline)?;
        if download.version == proof.version {
            return Ok(download);
        }
        let version = download.version;
        drop(download);
        // A stream of its own for the proof, then the one that is wanted, of the same version.
        let end = proof.offset + proof.bytes.len() as u64;
        let proven = Some(Proof { version, ..proof });
        drop(Self::open(
            pool,
            path,
            end,
            Some(version),
            proven,
            deadline,
        )?);
        Self::open(pool, path, offset, Some(version), None, deadline)
    }

    /// For bytes that are read up to `range`'s end and no further: the server sends little more.
    pub(super) fn open_range(
        pool: &Arc<Pool>,
        path: &RemotePath,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let mut download = Self::closed(pool, path, range.start);
        download.end = Some(range.end);
        download.begin(None, deadline)?;
        Ok(download)
    }

    fn closed(pool: &Arc<Pool>, path: &RemotePath, offset: u64) -> Self {
        Self {
            pool: pool.clone(),
            path: path.clone(),
            offset,
            version: Version {
                size: 0,
                mtime: SystemTime::UNIX_EPOCH,
            },
            stream: Stream::Closed,
            tail: Vec::new(),
            end: None,
        }
    }

    /// The version that is read: what SIZE and MDTM said when the stream was opened last.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where the next byte comes from.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads some bytes; `Ok(0)` is the verified end of the file: 226, and close_notify or the
    /// exact size.
    pub fn read(&mut self, buf: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        // Without a byte of progress.
        let mut losses = 0;
        let most = self.pool.retries();
        loop {
            let open = match std::mem::replace(&mut self.stream, Stream::Closed) {
                Stream::Ended => {
                    self.stream = Stream::Ended;
                    return Ok(0);
                }
                Stream::Open(open) if open.should_yield() => {
                    self.stream = Stream::Parked(self.pool.park(*open));
                    // Whoever waits takes it now; then it is our turn to wait.
                    std::thread::yield_now();
                    continue;
                }
                Stream::Open(open) => Some(open),
                Stream::Parked(parked) => self.pool.unpark(&parked).map(Box::new),
                Stream::Closed => None,
            };
            let Some(mut open) = open else {
                match self.reopen(Some(self.version), deadline) {
                    Ok(()) => continue,
                    Err(why) if why.is_passing() && losses < most && Instant::now() < deadline => {
                        losses += 1;
                        log::debug!("{}: {why}; reading on at {}", self.path, self.offset);
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            };
            // Half of the time for this connection, the rest for the next, should it be dead.
            let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
            match open.read(buf, half) {
                Ok(Progress::Bytes(n)) => {
                    self.offset += n as u64;
                    self.remember(&buf[..n]);
                    self.stream = Stream::Open(open);
                    return Ok(n);
                }
                Ok(Progress::End { clean }) => {
                    let whole = self.offset == self.version.size
                        || (clean && self.offset > self.version.size);
                    if whole || (clean && self.version.size == 0) {
                        self.stream = Stream::Ended;
                        return Ok(0);
                    }
                    if losses >= most {
                        return Err(Error::Failed(format!(
                            "the server ended the transfer at byte {} of {}",
                            self.offset, self.version.size
                        )));
                    }
                    losses += 1;
                }
                Err(error) if error.is_transient() && losses < most => {
                    losses += 1;
                    log::debug!("{}: {error}; reading on at {}", self.path, self.offset);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Keeps the half-read stream for later without holding up others: the pool may take its
    /// session when it needs one; a later `read` then opens it again at the offset.
    pub fn park(&mut self) {
        self.stream = match std::mem::replace(&mut self.stream, Stream::Closed) {
            Stream::Open(open) => Stream::Parked(self.pool.park(*open)),
            other => other,
        };
    }

    /// Ends it without holding up the caller: the server's last word on it takes a round trip.
    pub fn end_aside(self) {
        let thread = std::thread::Builder::new().name("leftover".to_owned());
        if let Err(error) = thread.spawn(move || drop(self)) {
            // It was dropped here and now.
            log::debug!("starting a thread to end a download: {error}");
        }
    }

    /// Opens it for the first time; what is lost while doing so is tried once more.
    fn begin(&mut self, expected: Option<Version>, deadline: Instant) -> Result<(), Error> {
        match self.reopen(expected, deadline) {
            Err(why) if why.is_passing() && Instant::now() < deadline => {
                log::debug!("{}: {why}; trying once more", self.path);
                self.reopen(expected, deadline)
            }
            result => result,
        }
    }

    /// Where it seems to be another version, that may be a clock's fault.
    fn reopen(&mut self, expected: Option<Version>, deadline: Instant) -> Result<(), Error> {
        match (self.open_once(expected, deadline)?, expected) {
            (Opened::Expected, _) => Ok(()),
            (Opened::Other(told), Some(expected))
                if told.size == expected.size
                    && self.tells_other_time(told, expected, deadline)? =>
            {
                match self.open_once(Some(expected), deadline)? {
                    Opened::Expected => Ok(()),
                    Opened::Other(_) => Err(Error::Changed),
                }
            }
            (Opened::Other(_), _) => Err(Error::Changed),
        }
    }

    /// Whether the file is the expected version all the same, and MDTM has a clock of its own: what
    /// is no MDTM still tells the expected time. Then the difference is learned.
    fn tells_other_time(
        &self,
        told: Version,
        expected: Version,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let found = self
            .pool
            .run(Lane::Metadata, deadline, |session, deadline| {
                stat(session, &self.path, None, deadline)
            })?;
        let is_same = found.is_ok_and(|found| found.version() == expected);
        let mut learned = false;
        if is_same {
            self.pool
                .learn(|p| learned = clock::learn_slip(p, told.mtime, expected.mtime));
        }
        Ok(learned)
    }

    /// SIZE, MDTM, REST and RETR in one write, on a session of the transfer lane.
    fn open_once(&mut self, expected: Option<Version>, deadline: Instant) -> Result<Opened, Error> {
        let ask = ask_version(&self.path);
        // Bytes read already are read again where growth has to be told from replacement.
        let back = self.tail.len() as u64;
        let begin = self.offset - back;
        if begin > 0 && self.pool.profile().keeps_rest.is_none() {
            let size = expected.map_or(begin + 1, |expected| expected.size);
            self.make_sure_of_rest(size, deadline)?;
        }
        let started = self.start(&ask, begin, deadline)?;
        let mut open = match started.download {
            Ok(open) => open,
            Err(reply) => {
                let path = self.path.clone();
                let error = self
                    .pool
                    .run(Lane::Metadata, deadline, |session, deadline| {
                        meaning::of_refusal(session, &path, "RETR", &reply, deadline)
                    })?;
                return Err(error);
            }
        };
        let version = told_version(&started.prelude, expected, &self.pool.profile());
        let unchanged = expected.is_none_or(|expected| expected == version);
        let grown = expected.is_some_and(|e| version.size > e.size && version.mtime >= e.mtime);
        if !unchanged && !grown {
            open.give_up();
            return Ok(Opened::Other(version));
        }
        let skip = if started.from_start { begin } else { 0 };
        if let Err(error) = agree(&mut open, skip, &self.tail, deadline) {
            open.give_up();
            return Err(error);
        }
        self.version = version;
        self.stream = Stream::Open(Box::new(open));
        Ok(Opened::Expected)
    }

    /// One at a time: who comes second has the first one's answer sooner than its own, and a session more.
    fn make_sure_of_rest(&self, size: u64, deadline: Instant) -> Result<(), Error> {
        let _turn = self.pool.rest_trial.try_lock_until(deadline);
        match self.pool.profile().keeps_rest {
            None => self.prove_rest(size, deadline),
            Some(_) => Ok(()),
        }
    }

    /// Some servers say 350 to REST and send from the start all the same, which nothing would show in
    /// the middle of a file: of its last byte there must come one byte, and an end. `size` is what
    /// the file may have; the server tells.
    fn prove_rest(&self, mut size: u64, deadline: Instant) -> Result<(), Error> {
        let mut failed = false;
        for _ in 0..PROOFS {
            if size < 2 {
                return Ok(());
            }
            let started = self.start(&ask_version(&self.path), size - 1, deadline)?;
            // What is refused here is refused when it counts, too.
            let Ok(mut open) = started.download else {
                return Ok(());
            };
            let told = started.prelude.first().and_then(number);
            let sent = match told == Some(size) && !started.from_start {
                true => fill(&mut open, &mut [0; 2], deadline),
                false => Ok(0),
            };
            open.give_up();
            match (told, sent?) {
                (Some(told), 0) if told != size => size = told,
                (_, 0) => return Ok(()),
                (_, 1) => {
                    self.pool.learn(|p| p.keeps_rest = Some(true));
                    return Ok(());
                }
                // Once it may be that the file has just grown.
                _ if failed => {
                    log::info!("the server forgets REST: files are read from their start");
                    self.pool.learn(|p| p.keeps_rest = Some(false));
                    return Ok(());
                }
                _ => failed = true,
            }
        }
        Ok(())
    }

    fn start(
        &self,
        ask: &[Command],
        offset: u64,
        deadline: Instant,
    ) -> Result<Started, client::Error> {
        let few = self.end.map(|end| end.saturating_sub(offset));
        let few = few.filter(|few| *few <= FEW);
        self.pool
            .start(Lane::Transfer, deadline, |mut lease, bound| {
                if few.is_some() {
                    lease.limit_window(WINDOW);
                }
                client::Download::start(lease, ask, &self.path, offset, bound)
            })
    }

    fn remember(&mut self, bytes: &[u8]) {
        if bytes.len() >= TAIL {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - TAIL..]);
        } else {
            let surplus = (self.tail.len() + bytes.len()).saturating_sub(TAIL);
            self.tail.drain(..surplus);
            self.tail.extend_from_slice(bytes);
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let open = match std::mem::replace(&mut self.stream, Stream::Ended) {
            Stream::Open(open) => Some(open),
            Stream::Parked(parked) => self.pool.unpark(&parked).map(Box::new),
            Stream::Closed | Stream::Ended => None,
        };
        if let Some(open) = open {
            open.give_up();
        }
    }
}

/// Finds out whether the server keeps REST, where that is not known, and holds up nobody with it. `size` is
/// what the file is thought to have.
pub(super) fn prove_rest_aside(pool: &Arc<Pool>, path: &RemotePath, size: u64, deadline: Instant) {
    if pool.profile().keeps_rest.is_some() {
        return;
    }
    let download = Download::closed(pool, path, 0);
    let prove = move || {
        if let Err(error) = download.make_sure_of_rest(size, deadline) {
            log::debug!("whether the server keeps REST: {error}");
        }
    };
    let thread = std::thread::Builder::new().name("rest".to_owned());
    if let Err(error) = thread.spawn(prove) {
        log::debug!("starting a thread to try REST: {error}");
    }
}

/// All of a file that is this version, in one attempt; else `None`.
pub(super) fn whole(
    lease: Lease,
    path: &RemotePath,
    version: Version,
    deadline: Instant,
) -> Result<Option<Vec<u8>>, Error> {
    let profile = lease.profile();
    let started = client::Download::start(lease, &ask_version(path), path, 0, deadline)?;
    let Ok(mut open) = started.download else {
        return Ok(None);
    };
    if told_version(&started.prelude, Some(version), &profile) != version {
        open.give_up();
        return Ok(None);
    }
    // With room for a byte that should not be there.
    let mut bytes = vec![
        0;
        usize::try_from(version.size)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
    ];
    let filled = fill(&mut open, &mut bytes, deadline);
    open.give_up();
    bytes.pop();
    Ok((filled? as u64 == version.size).then_some(bytes))
}

/// What tells the version of the file that is about to be read.
fn ask_version(path: &RemotePath) -> [Command; 2] {
    let name = Pathname::from(path);
    [Command::Size(name.clone()), Command::Mdtm(name)]
}

/// The answer; `known` stands in for what the server cannot tell.
fn told_version(replies: &[Reply], known: Option<Version>, profile: &Profile) -> Version {
    let size = replies.first().and_then(number);
    let mtime = replies.get(1).and_then(|told| clock::told(told, profile));
    Version::new(
        size.or(known.map(|k| k.size)).unwrap_or(0),
        mtime
            .or(known.map(|k| k.mtime))
            .unwrap_or(SystemTime::UNIX_EPOCH),
    )
}

/// Reads past what is not wanted, for a server without REST sends from the start; then the same bytes as
/// before must come, else the file is another.
fn agree(
    open: &mut client::Download,
    mut skip: u64,
    known: &[u8],
    deadline: Instant,
) -> Result<(), Error> {
    let mut sink = vec![0; SINK];
    while skip > 0 {
        let most = SINK.min(usize::try_from(skip).unwrap_or(usize::MAX));
        match fill(open, &mut sink[..most], deadline)? {
            0 => return Err(Error::Changed),
            n => skip -= n as u64,
        }
    }
    let mut again = vec![0; known.len()];
    match fill(open, &mut again, deadline)? == known.len() && again == known {
        true => Ok(()),
        false => Err(Error::Changed),
    }
}

/// Reads until the space is full or the file ends; how much that was.
fn fill(
    open: &mut client::Download,
    space: &mut [u8],
    deadline: Instant,
) -> Result<usize, client::Error> {
    let mut filled = 0;
    while filled < space.len() {
        match open.read(&mut space[filled..], deadline)? {
            Progress::Bytes(n) => filled += n,
            Progress::End { .. } => break,
        }
    }
    Ok(filled)
}
