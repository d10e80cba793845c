//! Does one thing to one path: picks the verbs by what the server can do, and turns a refusal
//! into a meaning. Knows no handles and no kernel.

mod attributes;
mod change;
mod clock;
mod download;
mod listing;
mod meaning;
mod open;
mod temporary;
mod upload;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::client::{self, Lane, Lease, Pool, Session};
use crate::proto::{Command, Pathname, RemotePath, Reply};

pub use attributes::{Attributes, FileKind, Listing, Version};
pub use download::{Download, Proof};
pub use listing::NAME_MAX;
pub use meaning::Error;
use open::{Change, Open};
pub use temporary::{Holds, Reserved, Temporaries, Temporary};
pub use upload::{Expected, Publication, Published, Upload};

/// A server, addressed by path. Shared by all threads; every call may block until `deadline`.
pub struct Remote {
    pool: Arc<Pool>,
    temporaries: Temporaries,
    open: Open,
    ignores_case: bool,
}

/// So many listings are asked for in one write: what they hold is in memory at once.
const LISTINGS_AT_ONCE: usize = 12;

/// Free space, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub available: u64,
}

impl Remote {
    /// Connects the first session, so that a wrong password, certificate or host shows now.
    pub fn connect(config: client::Config, deadline: Instant) -> Result<Self, client::Error> {
        let told = config.special.ignores_case;
        let pool = Pool::connect(config, deadline)?;
        let ignores_case = match told {
            Some(told) => told,
            None => ignores_case(&pool, deadline),
        };
        Ok(Self {
            pool,
            temporaries: Temporaries::new(),
            open: Open::new(),
            ignores_case,
        })
    }

    /// Whether names that differ in case only are one to the server.
    pub fn ignores_case(&self) -> bool {
        self.ignores_case
    }

    /// Whether [`Remote::stat`] would fetch a whole listing to tell of `path`: this server has no
    /// MLST, or its MLST is not known to show symbolic links as such. The caller may have better
    /// use for that listing.
    pub fn stats_by_listing(&self, path: &RemotePath, known: Option<&Attributes>) -> bool {
        let profile = self.pool.profile();
        let is_file = known.is_some_and(|k| k.kind == FileKind::File);
        let by_mlst = path.is_root() || profile.mlst_hides_links == Some(false);
        !is_file && (profile.mlst_missing || !by_mlst)
    }

    /// What the sessions with the server do, and what was learned about it.
    pub fn report(&self) -> client::Report {
        self.pool.report()
    }

    /// How a session with the server comes about.
    pub fn introduction(&self, deadline: Instant) -> Result<client::Introduction, client::Error> {
        Ok(self.pool.acquire(Lane::Metadata, deadline)?.introduction())
    }

    /// Tries a data connection, by a listing of whatever directory the session is in.
    pub fn try_data(&self, deadline: Instant) -> Result<(), client::Error> {
        let list = Command::List {
            all: false,
            path: None,
        };
        let listed = self
            .pool
            .run(Lane::Transfer, deadline, |session, deadline| {
                session.list(&[], list.clone(), deadline)
            })?;
        listed.1.map(drop).map_err(|reply| client::Error::Refused {
            command: list.to_string(),
            reply,
        })
    }

    /// One file's attributes, exactly as a listing would show them. `known`: what was known of it
    /// before, which may save a listing.
    pub fn stat(
        &self,
        path: &RemotePath,
        known: Option<&Attributes>,
        deadline: Instant,
    ) -> Result<Attributes, Error> {
        check(path)?;
        self.metadata(deadline, |session, deadline| {
            stat(session, path, known, deadline)
        })
    }

    /// A directory's entries with exact times. `NotDirectory`, `NotFound`.
    pub fn list(&self, path: &RemotePath, deadline: Instant) -> Result<Listing, Error> {
        check(path)?;
        self.metadata(deadline, |session, deadline| {
            listing::list(session, Some(&self.pool), path, deadline)
        })
    }

    /// A session for what nobody waits for; `None` while every one is needed for those who wait.
    pub fn spare(&self) -> Option<Spare> {
        self.pool.spare().map(Spare)
    }

    /// A symbolic link's target where the server tells it, else `Unsupported`.
    pub fn read_link(&self, path: &RemotePath, deadline: Instant) -> Result<Box<[u8]>, Error> {
        self.metadata(deadline, |session, deadline| {
            listing::link_target(session, path, deadline)
        })
    }

    /// Starts reading at `offset`. With `expected`: `Changed` where the file is no longer that
    /// version; growth alone is no change. With a proof: neither where the file is another
    /// version by now and its bytes are not the same.
    pub fn download(
        &self,
        path: &RemotePath,
        offset: u64,
        expected: Option<Version>,
        proof: Option<Proof>,
        deadline: Instant,
    ) -> Result<Download, Error> {
        check(path)?;
        Download::open(&self.pool, path, offset, expected, proof, deadline)
    }

    /// Where another download could begin without anybody having to wait for it: how long a round
    /// trip to the server takes.
    pub fn room(&self) -> Option<Duration> {
        self.pool.room()
    }

    /// Makes sure, beside the reading of this file, that a download may begin in the middle of it: the first
    /// one for which that is not known has to wait until it is.
    pub fn prove_rest(&self, path: &RemotePath, size: u64, deadline: Instant) {
        download::prove_rest_aside(&self.pool, path, size, deadline);
    }

    /// Whether the server keeps REST, where that is known.
    #[cfg(test)]
    pub fn keeps_rest(&self) -> Option<bool> {
        self.pool.profile().keeps_rest
    }

    /// Starts reading a range of a file, whatever version that is; beyond it nothing will be read.
    pub fn download_range(
        &self,
        path: &RemotePath,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Download, Error> {
        check(path)?;
        Download::open_range(&self.pool, path, range, deadline)
    }

    /// Free space where the server tells it (AVBL); that it does not is known without asking.
    pub fn space(&self, path: &RemotePath, deadline: Instant) -> Result<Option<Space>, Error> {
        if !self.pool.profile().tells_space {
            return Ok(None);
        }
        self.metadata(deadline, |session, deadline| {
            let reply = session.execute(&Command::Avbl(Some(path.into())), deadline)?;
            Ok(Ok(number(&reply).map(|available| Space { available })))
        })
    }

    /// Makes a directory; whether it has these permission bits. `Exists`, `NotFound` (its parent),
    /// `Denied`.
    pub fn mkdir(&self, path: &RemotePath, mode: u16, deadline: Instant) -> Result<bool, Error> {
        check(path)?;
        self.check_new(path, deadline)?;
        let temporary = self.temporaries.beside(path);
        let change = Change::Mkdir(path.clone());
        self.change(change, deadline, |session, again, deadline| {
            change::mkdir(session, path, temporary.path(), mode, again, deadline)
        })
    }

    /// Removes an empty directory. `NotFound`, `NotDirectory`, `NotEmpty`, `Denied`.
    pub fn rmdir(&self, path: &RemotePath, deadline: Instant) -> Result<(), Error> {
        check(path)?;
        let change = Change::Rmdir(path.clone());
        self.change(change, deadline, |session, again, deadline| {
            change::rmdir(session, path, again, deadline)
        })
    }

    /// Removes a file or a symbolic link. `NotFound`, `IsDirectory`, `Denied`.
    pub fn unlink(&self, path: &RemotePath, deadline: Instant) -> Result<(), Error> {
        check(path)?;
        let change = Change::Unlink(path.clone());
        self.change(change, deadline, |session, again, deadline| {
            change::unlink(session, path, again, deadline)
        })
    }

    /// Renames a file or directory; what stands under the new name is replaced, where it is a
    /// file or an empty directory. The caller has made sure that the kinds agree.
    pub fn rename(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        deadline: Instant,
    ) -> Result<(), Error> {
        check(from)?;
        check(to)?;
        self.check_new(to, deadline)?;
        let aside = self.temporaries.in_place_of(to);
        let change = Change::Rename(from.clone(), to.clone());
        self.change(change, deadline, |session, again, deadline| {
            change::rename(session, from, to, &aside, again, deadline)
        })
    }

    /// Gives a file or directory another spelling of its own name, where the server ignores case.
    pub fn respell(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        deadline: Instant,
    ) -> Result<(), Error> {
        check(to)?;
        // Should it be left there, it is put back by that name.
        let between = self.temporaries.in_place_of(to);
        let change = Change::Rename(from.clone(), to.clone());
        self.change(change, deadline, |session, again, deadline| {
            change::respell(session, from, to, between.path(), again, deadline)
        })
    }

    /// Whoever asks for a change that the server did not answer asks for it again (`hard`), and wants
    /// to hear that it is done where the first attempt has done it.
    pub fn expect_repeats(&self) {
        self.open.want();
    }

    /// Whether an attempt to rename this so may have done it, though the server did not say so.
    pub fn may_have_renamed(&self, from: &RemotePath, to: &RemotePath) -> bool {
        let change = Change::Rename(from.clone(), to.clone());
        self.open.contains(&change)
    }

    /// Sets the modification time, whole seconds. `Unsupported` where the server has no way.
    pub fn set_modified(
        &self,
        path: &RemotePath,
        time: SystemTime,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.metadata(deadline, |session, deadline| {
            change::set_modified(session, path, time, deadline)
        })
    }

    /// Sets a known file's modification time where the server can, and gives its attributes then, in one
    /// round trip; whether the time was set.
    pub fn date(
        &self,
        path: &RemotePath,
        time: SystemTime,
        known: &Attributes,
        deadline: Instant,
    ) -> Result<(Attributes, bool), Error> {
        self.metadata(deadline, |session, deadline| {
            change::date(session, path, time, known, deadline)
        })
    }

    /// Sets permission bits. `Unsupported` where the server has no way.
    pub fn set_mode(&self, path: &RemotePath, mode: u16, deadline: Instant) -> Result<(), Error> {
        self.metadata(deadline, |session, deadline| {
            change::set_mode(session, path, mode, deadline)
        })
    }

    /// Makes a symbolic link. `Unsupported` where the server has no way.
    pub fn symlink(
        &self,
        target: &[u8],
        link: &RemotePath,
        deadline: Instant,
    ) -> Result<(), Error> {
        let target = Pathname::new(target).ok_or(Error::InvalidName)?;
        let change = Change::Symlink(link.clone());
        self.change(change, deadline, |session, again, deadline| {
            change::symlink(session, &target, link, again, deadline)
        })
    }

    /// Whether the server says that it copies files itself.
    pub fn copies_files(&self) -> bool {
        self.pool.profile().copies_files
    }

    /// Copies a file on the server to a name that nothing stands under.
    pub fn copy(&self, from: &RemotePath, to: &RemotePath, deadline: Instant) -> Result<(), Error> {
        check(to)?;
        self.pool
            .run(Lane::Transfer, deadline, |session, deadline| {
                change::copy(session, from, to, deadline)
            })?
    }

    /// The temporary names of this mount.
    pub fn temporaries(&self) -> &Temporaries {
        &self.temporaries
    }

    /// Begins to send a file's whole content to `path`, which is created or emptied.
    pub fn store(&self, path: &RemotePath, deadline: Instant) -> Result<Upload, Error> {
        check(path)?;
        self.check_new(path, deadline)?;
        Upload::store(&self.pool, path, deadline)
    }

    /// Begins to append to a file of exactly `size` bytes; else `Changed`. One that was `seen` a moment
    /// ago takes a round trip less, and is there again, empty, where it is gone by now.
    pub fn append(
        &self,
        path: &RemotePath,
        size: u64,
        seen: bool,
        deadline: Instant,
    ) -> Result<Upload, Error> {
        Upload::append(&self.pool, path, size, seen, deadline)
    }

    /// Begins to overwrite a file of exactly `size` bytes in place, from `offset` (not 0) on;
    /// what lies behind the bytes sent stays. Only for files seen a moment ago, where [`Remote::patches_in_place`].
    pub fn patch(
        &self,
        path: &RemotePath,
        offset: u64,
        size: u64,
        deadline: Instant,
    ) -> Result<Upload, Error> {
        Upload::patch(&self.pool, path, offset, size, deadline)
    }

    /// Whether writing in the middle of a file keeps its tail on this server (Pure-FTPd cuts it
    /// off): tried once on a scratch file in the directory of `path`.
    pub fn patches_in_place(&self, path: &RemotePath, deadline: Instant) -> Result<bool, Error> {
        if let Some(known) = self.pool.profile().patches_in_place {
            return Ok(known);
        }
        let scratch = self.temporaries.beside(path);
        let proven = upload::try_patch(&self.pool, scratch.path(), deadline);
        // Whatever came of it, the scratch file goes.
        let gone = self.unlink(scratch.path(), deadline);
        let proven = proven?;
        gone?;
        self.pool.learn(|p| p.patches_in_place = Some(proven));
        Ok(proven)
    }

    /// Renames a whole file from its temporary name to its own.
    pub fn publish(
        &self,
        temporary: &RemotePath,
        path: &RemotePath,
        publication: Publication,
        deadline: Instant,
    ) -> Result<Published, Error> {
        self.check_new(path, deadline)?;
        let aside = self.temporaries.in_place_of(path);
        upload::publish(&self.pool, temporary, path, &aside, publication, deadline)
    }

    /// Refuses a name that the server would change: what it then makes, or replaces, is another
    /// file.
    fn check_new(&self, path: &RemotePath, deadline: Instant) -> Result<(), Error> {
        if !path.as_bytes().ends_with(b" ") {
            return Ok(());
        }
        let keeps = match self.pool.profile().keeps_last_space {
            Some(known) => Some(known),
            None => {
                let scratch = self.temporaries.beside(path);
                self.metadata(deadline, |session, deadline| {
                    change::keeps_last_space(session, scratch.path(), deadline).map(Ok)
                })?
            }
        };
        self.pool.learn(|p| p.keeps_last_space = keeps);
        match keeps {
            Some(false) => Err(Error::InvalidName),
            Some(true) | None => Ok(()),
        }
    }

    /// Whether some request waits for a session.
    pub fn is_busy(&self) -> bool {
        self.pool.is_busy()
    }

    /// Closes all sessions politely.
    pub fn shutdown(&self) {
        self.pool.close();
    }

    /// A change, which an earlier call may have done.
    fn change<T>(
        &self,
        change: Change,
        deadline: Instant,
        work: impl FnMut(&mut Session, bool, Instant) -> Result<Result<T, Error>, client::Error>,
    ) -> Result<T, Error> {
        let mut again = self.open.take(&change);
        let outcome = change::run(&self.pool, &mut again, deadline, work);
        if again && outcome.as_ref().is_err_and(Error::is_open) {
            self.open.keep(change);
        }
        outcome
    }

    fn metadata<T>(
        &self,
        deadline: Instant,
        mut work: impl FnMut(&mut Session, Instant) -> Result<Result<T, Error>, client::Error>,
    ) -> Result<T, Error> {
        self.pool.run(Lane::Metadata, deadline, &mut work)?
    }
}

/// A session that is not needed just now. What it is used for is not tried again.
pub struct Spare(Lease);

impl Spare {
    /// How many directories it lists in the round trips of one.
    pub fn lists_at_once(&self) -> usize {
        match listing::lists_many(&self.0.profile()) {
            true => LISTINGS_AT_ONCE,
            false => 1,
        }
    }

    /// Lists directories; `None` for what cannot be told, or not at this price.
    pub fn list(mut self, paths: &[RemotePath], deadline: Instant) -> Vec<Option<Listing>> {
        let listed = match paths {
            _ if !paths.iter().all(fits) => Ok(vec![None; paths.len()]),
            [path] if self.lists_at_once() == 1 => {
                let listed = listing::list(&mut self.0, None, path, deadline);
                listed.map(|listing| vec![listing.ok()])
            }
            _ => listing::list_many(&mut self.0, paths, deadline),
        };
        listed.unwrap_or_else(|error| {
            log::debug!("listings ahead of need: {error}");
            vec![None; paths.len()]
        })
    }

    /// The content of a file, if it is this version.
    pub fn content(
        self,
        path: &RemotePath,
        version: Version,
        deadline: Instant,
    ) -> Option<Vec<u8>> {
        if !fits(path) {
            return None;
        }
        download::whole(self.0, path, version, deadline).unwrap_or_else(|error| {
            log::debug!("{path}, ahead of need: {error}");
            None
        })
    }
}

/// What SYST says of it, which is asked once: Windows ignores the case of names.
fn ignores_case(pool: &Arc<Pool>, deadline: Instant) -> bool {
    if let Some(known) = pool.profile().ignores_case {
        return known;
    }
    let told = pool.run(Lane::Metadata, deadline, |session, deadline| {
        session.execute(&Command::Syst, deadline)
    });
    match told {
        Ok(reply) => {
            let ignores = reply.code.as_u16() == 215 && meaning::says(&reply, &["windows"]);
            pool.learn(|p| p.ignores_case = Some(ignores));
            ignores
        }
        Err(error) => {
            log::debug!("SYST: {error}");
            false
        }
    }
}

/// By MLST; without it, a known file by SIZE and MDTM, and anything else by its directory.
fn stat(
    session: &mut Session,
    path: &RemotePath,
    known: Option<&Attributes>,
    deadline: Instant,
) -> Result<Result<Attributes, Error>, client::Error> {
    let is_file = known.is_some_and(|k| k.kind == FileKind::File);
    let tells_links = session.profile().mlst_hides_links == Some(false);
    if (tells_links || is_file || path.is_root())
        && let Some(told) = by_mlst(session, path, deadline)?
    {
        return Ok(told);
    }
    let profile = session.profile();
    if let Some(known) = known.filter(|_| is_file && !clock::is_uncertain(&profile)) {
        let name = Pathname::from(path);
        let ask = [Command::Size(name.clone()), Command::Mdtm(name)];
        let replies = session.pipeline(&ask, deadline)?;
        if let [size, mtime] = &replies[..]
            && let (Some(size), Some(mtime)) = (number(size), clock::told(mtime, &profile))
        {
            return Ok(Ok(Attributes {
                size,
                mtime,
                ..known.clone()
            }));
        }
    }
    let found = match listing::find_at_once(session, path, deadline)? {
        Ok(Some(found)) => Ok(found),
        Ok(None) => listing::find(session, path, deadline)?,
        Err(error) => Err(error),
    };
    // A listing that was cut short, or that is not permitted, leaves the question to MLST.
    if matches!(found, Err(Error::Failed(_) | Error::Denied(_)))
        && let Some(told) = by_mlst(session, path, deadline)?
    {
        return Ok(told);
    }
    Ok(found)
}

/// `None` where the server has no working MLST.
fn by_mlst(
    session: &mut Session,
    path: &RemotePath,
    deadline: Instant,
) -> Result<Option<Result<Attributes, Error>>, client::Error> {
    if session.profile().mlst_missing {
        return Ok(None);
    }
    // One file may lose the name while it is looked at, and another take it.
    for _ in 1..LOOKS {
        match try_mlst(session, path, deadline)? {
            Some(Err(Error::Denied(_))) => {}
            told => return Ok(told),
        }
    }
    try_mlst(session, path, deadline)
}

fn try_mlst(
    session: &mut Session,
    path: &RemotePath,
    deadline: Instant,
) -> Result<Option<Result<Attributes, Error>>, client::Error> {
    let reply = session.execute(&Command::Mlst(Some(path.into())), deadline)?;
    if let Some(attributes) = listing::parse_mlst(&reply) {
        return Ok(Some(Ok(attributes)));
    }
    if matches!(reply.code.as_u16(), 500 | 502 | 504) || reply.code.is_completion() {
        session.learn(|p| p.mlst_missing = true);
        return Ok(None);
    }
    let error = meaning::of_refusal(session, path, "MLST", &reply, deadline)?;
    Ok(Some(Err(error)))
}

/// How often MLST is asked that is denied.
const LOOKS: usize = 3;

/// The longest path that goes into a command: lines over 2000 bytes are dropped, answered twice,
/// or end the connection, depending on the server.
const PATH_MAX: usize = 1900;

fn check(path: &RemotePath) -> Result<(), Error> {
    if fits(path) {
        Ok(())
    } else {
        Err(Error::PathTooLong)
    }
}

/// Whether a path fits into a command.
fn fits(path: &RemotePath) -> bool {
    path.as_bytes().len() <= PATH_MAX
}

/// The number of a 213 reply (SIZE, AVBL).
fn number(reply: &Reply) -> Option<u64> {
    text_of_213(reply)?.parse().ok()
}

/// What a 213 reply tells.
fn text_of_213(reply: &Reply) -> Option<&str> {
    let line = (reply.code.as_u16() == 213).then(|| reply.lines.last())??;
    std::str::from_utf8(line).ok().map(str::trim)
}
