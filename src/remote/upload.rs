//! [`Upload`]: content on its way to the server; and its publication under its own name.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::client::{self, Lane, Lease, Pool, Session};
use crate::proto::{Command, RemotePath, Reply};

use super::change::TimeWay;
use super::{
    Attributes, Download, Error, FileKind, Reserved, Version, change, listing, meaning, number,
};

/// Content being sent, in order. What was lost is sent again by the caller, who has it all: an
/// upload knows no second attempt but at its start.
pub struct Upload {
    pool: Arc<Pool>,
    path: RemotePath,
    verb: &'static str,
    stream: client::Upload,
}

/// How a whole file replaces what stands under its name.
#[derive(Clone, Copy, Debug)]
pub struct Publication {
    /// Bytes; the server's SIZE must agree.
    pub size: u64,
    pub modified: Option<SystemTime>,
    /// Permission bits to give it.
    pub mode: Option<u16>,
    /// Something stands under the name: the size is verified before it is replaced.
    pub replaces: bool,
    /// What may be replaced; anything, where nothing is said.
    pub expects: Option<Expected>,
}

/// What stands under a name that is to be replaced, unless it is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    Nothing,
    Version(Version),
}

/// Which of a publication's wishes came true.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    pub modified: bool,
    pub mode: bool,
}

impl Upload {
    /// STOR: the file is created, or emptied first.
    pub(super) fn store(
        pool: &Arc<Pool>,
        path: &RemotePath,
        deadline: Instant,
    ) -> Result<Self, Error> {
        Self::start(
            pool,
            path,
            &[],
            || Command::Stor(path.into()),
            None,
            false,
            deadline,
        )
    }

    /// APPE, where the file has `size` bytes now; else [`Error::Changed`]. `seen`: it was there a moment ago.
    pub(super) fn append(
        pool: &Arc<Pool>,
        path: &RemotePath,
        size: u64,
        seen: bool,
        deadline: Instant,
    ) -> Result<Self, Error> {
        Self::start(
            pool,
            path,
            &[],
            || Command::Appe(path.into()),
            Some(size),
            seen,
            deadline,
        )
    }

    /// REST and STOR: overwrites from `offset` on, and keeps what lies behind; only for servers
    /// that do so, where the file has `size` bytes now and was seen a moment ago, and from 1 on (REST 0
    /// is a plain STOR).
    pub(super) fn patch(
        pool: &Arc<Pool>,
        path: &RemotePath,
        offset: u64,
        size: u64,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let rest = [Command::Rest(offset)];
        Self::start(
            pool,
            path,
            &rest,
            || Command::Stor(path.into()),
            Some(size),
            true,
            deadline,
        )
    }

    /// `size`: what the file must have. Where it was `seen` a moment ago that is asked in the same write,
    /// for its answer is there before the first byte has to go; else before it, for the command alone
    /// makes a file that is gone.
    fn start(
        pool: &Arc<Pool>,
        path: &RemotePath,
        prelude: &[Command],
        command: impl Fn() -> Command,
        size: Option<u64>,
        seen: bool,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let ask = Command::Size(path.into());
        let along = seen.then_some(&ask).into_iter();
        let prelude: Vec<_> = along.chain(prelude).cloned().collect();
        pool.start(Lane::Transfer, deadline, |mut lease, bound| {
            if size.is_some() && !seen && number(&lease.execute(&ask, bound)?) != size {
                return Ok(Err(Error::Changed));
            }
            let verb = command().verb();
            let started = client::Upload::start(lease, &prelude, command(), bound)?;
            let mut replies = started.prelude.iter();
            let changed = seen && replies.next().and_then(number) != size;
            match (started.upload, replies.next()) {
                // A plain STOR would have emptied the file: it is broken off at once.
                (Ok(stream), Some(rest)) if !rest.code.is_intermediate() => {
                    stream.give_up();
                    Ok(Err(Error::Unsupported(format!("REST: {rest}"))))
                }
                // In good order: some servers delete what an upload was broken off of.
                (Ok(stream), _) if changed => {
                    stream.finish(bound)?;
                    Ok(Err(Error::Changed))
                }
                (Err(_), _) if changed => Ok(Err(Error::Changed)),
                (Ok(stream), _) => Ok(Ok(Self {
                    pool: pool.clone(),
                    path: path.clone(),
                    verb,
                    stream,
                })),
                (Err(reply), _) => {
                    let error = refusal(pool, path, verb, &reply, deadline)?;
                    Ok(Err(error))
                }
            }
        })?
    }

    /// Whether somebody waits for a session while this one has it.
    pub fn is_wanted(&self) -> bool {
        self.stream.is_wanted()
    }

    /// Which part of the file it will be.
    pub fn expects(&self, part: Range<u64>) {
        self.stream.expects(part);
    }

    pub fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), Error> {
        let result = self.stream.write(bytes, deadline);
        result.map_err(|error| self.explain(error, deadline))
    }

    /// Awaits the server's word that it has everything.
    pub fn finish(self, deadline: Instant) -> Result<(), Error> {
        let Self {
            pool,
            path,
            verb,
            stream,
        } = self;
        match stream.finish(deadline) {
            Ok(lease) => {
                drop::<Lease>(lease);
                Ok(())
            }
            Err(client::Error::Refused { reply, .. }) => {
                Err(refusal(&pool, &path, verb, &reply, deadline)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Breaks it off; what the server has of it by then stays there.
    pub fn give_up(self) {
        self.stream.give_up();
    }

    fn explain(&self, error: client::Error, deadline: Instant) -> Error {
        match error {
            client::Error::Refused { reply, .. } => {
                match refusal(&self.pool, &self.path, self.verb, &reply, deadline) {
                    Ok(error) => error,
                    Err(error) => error.into(),
                }
            }
            other => other.into(),
        }
    }
}

/// Writes ten bytes, overwrites three in the middle, and reads all back.
pub(super) fn try_patch(
    pool: &Arc<Pool>,
    scratch: &RemotePath,
    deadline: Instant,
) -> Result<bool, Error> {
    let mut upload = Upload::store(pool, scratch, deadline)?;
    upload.write(b"0123456789", deadline)?;
    upload.finish(deadline)?;
    let mut upload = match Upload::patch(pool, scratch, 3, 10, deadline) {
        Ok(upload) => upload,
        Err(Error::Unsupported(_) | Error::Denied(_)) => return Ok(false),
        Err(error) => return Err(error),
    };
    upload.write(b"abc", deadline)?;
    upload.finish(deadline)?;
    let mut download = Download::open(pool, scratch, 0, None, None, deadline)?;
    let mut content = Vec::new();
    let mut chunk = [0; 64];
    while content.len() < chunk.len() {
        match download.read(&mut chunk, deadline)? {
            0 => break,
            n => content.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(content == b"012abc6789")
}

/// What servers say of a full disk where they have no 452 for it. vsftpd and Pure-FTPd say only
/// that they could not write the file, which hardly ever has another reason.
const FULL: &[&str] = &[
    "space",
    "disk full",
    "writing to local file",
    "write to file",
];

/// What a refused upload means: no space, a directory under that name, a missing parent, or no
/// permission.
fn refusal(
    pool: &Arc<Pool>,
    path: &RemotePath,
    verb: &str,
    reply: &Reply,
    deadline: Instant,
) -> Result<Error, client::Error> {
    let words = format!("{verb}: {reply}");
    let code = reply.code.as_u16();
    if matches!(code, 426 | 451) && meaning::says(reply, FULL) {
        return Ok(Error::NoSpace(words));
    }
    if let Some(error) = meaning::of_code(reply, &words) {
        return Ok(error);
    }
    if matches!(code, 451 | 521 | 522) {
        return Ok(Error::Failed(words));
    }
    pool.run(Lane::Metadata, deadline, |session, deadline| {
        Ok(match change::look(session, path, deadline)? {
            Ok(found) if found.kind == FileKind::Directory => Error::IsDirectory,
            Ok(_) => Error::Denied(words.clone()),
            Err(Error::NotFound) => {
                match change::refused_in_parent::<()>(session, path, verb, reply, deadline)? {
                    Ok(()) => Error::Denied(words.clone()),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        })
    })
}

/// Renames a whole file from its temporary name to its own, with its time and mode: SIZE, RNFR,
/// RNTO, MFMT and CHMOD in one write where nothing stands under the name yet, else all but SIZE
/// after that was verified. Where a symbolic link stands there: [`Error::Unsupported`]; where
/// something else than expected: [`Error::Changed`].
pub(super) fn publish(
    pool: &Arc<Pool>,
    temporary: &RemotePath,
    path: &RemotePath,
    aside: &Reserved,
    publication: Publication,
    deadline: Instant,
) -> Result<Published, Error> {
    change::run(pool, &mut false, deadline, |session, again, deadline| {
        let size = Command::Size(temporary.into());
        let wrong = |reply: &Reply| {
            let size = publication.size;
            Error::Failed(format!(
                "{path}: the server has not all of its {size} bytes: {reply}"
            ))
        };
        // A lost attempt may have renamed it already, and no size verified.
        if again && number(&session.execute(&size, deadline)?).is_none() {
            match super::stat(session, path, Some(&FILE), deadline)? {
                Ok(found) if found.size == publication.size => {
                    aside.settle();
                    return Dress::new(session, path, publication).put_on(session, deadline);
                }
                Ok(found) => {
                    let (has, size) = (found.size, publication.size);
                    let why = format!("{path}: the server has {has} bytes of {size}");
                    return Ok(Err(Error::Lost(why)));
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        // Asked with the file known: that is cheap on every server.
        if let Some(expected) = publication.expects {
            match super::stat(session, path, Some(&FILE), deadline)? {
                Ok(found) if expected == Expected::Version(found.version()) => {}
                Ok(found) => {
                    let found = found.version();
                    log::debug!("{path}: expected {expected:?}, found {found:?}");
                    return Ok(Err(Error::Changed));
                }
                Err(Error::NotFound) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        let replaces = publication.replaces || again;
        if replaces {
            let link = Command::Stat {
                all: false,
                path: Some(path.into()),
            };
            let ask = [size.clone(), link, Command::Noop];
            let replies = session.pipeline(&ask, deadline)?;
            if let Some(noop) = replies.get(2) {
                listing::in_step(session, noop)?;
            }
            if is_link(session, replies.get(1), path, deadline)? {
                let why = format!("{path} is a symbolic link, or may be one");
                return Ok(Err(Error::Unsupported(why)));
            }
            if let Some(reply) = replies.first()
                && number(reply) != Some(publication.size)
            {
                return Ok(Err(wrong(reply)));
            }
        }
        let dress = Dress::new(session, path, publication);
        let mut commands = Vec::from([Command::Rnfr(temporary.into()), Command::Rnto(path.into())]);
        // Where RNTO may be refused, it would be the old file that is dressed.
        let along = !replaces || session.profile().renames_over == Some(true);
        if along {
            commands.extend(dress.commands());
        }
        if !replaces {
            commands.insert(0, size);
        }
        let mut replies = session.pipeline(&commands, deadline)?.into_iter();
        if !replaces {
            match replies.next() {
                Some(size) if number(&size) == Some(publication.size) => {}
                Some(size) => {
                    // Half a file must not keep the name: nobody knows of it.
                    if replies.nth(1).is_some_and(|rnto| rnto.code.is_completion()) {
                        let back = [Command::Rnfr(path.into()), Command::Rnto(temporary.into())];
                        session.pipeline(&back, deadline)?;
                    }
                    return Ok(Err(wrong(&size)));
                }
                None => return Ok(Err(Error::Failed("SIZE: no reply".to_owned()))),
            }
        }
        if replies.nth(1).is_some_and(|rnto| rnto.code.is_completion()) {
            if publication.replaces && !again {
                session.learn(|p| p.renames_over = Some(true));
            }
            if along {
                return dress.outcome(session, replies.as_slice(), deadline).map(Ok);
            }
        } else if let Err(error) = change::rename(session, temporary, path, aside, again, deadline)?
        {
            return Ok(Err(error));
        }
        dress.put_on(session, deadline)
    })
}

/// A file's time and mode, as the server can give them.
struct Dress<'a> {
    path: &'a RemotePath,
    modified: Option<SystemTime>,
    time: Option<TimeWay>,
    mode: Option<Command>,
}

impl<'a> Dress<'a> {
    fn new(session: &Session, path: &'a RemotePath, publication: Publication) -> Self {
        let Publication { modified, mode, .. } = publication;
        Self {
            path,
            modified,
            time: modified.and_then(|time| change::time_ways(session, path, time).next()),
            mode: mode.map(|mode| change::chmod(session, path, mode)),
        }
    }

    fn commands(&self) -> impl Iterator<Item = Command> {
        let time = self.time.iter().flat_map(|way| &way.commands);
        time.chain(&self.mode).cloned()
    }

    fn put_on(
        self,
        session: &mut Session,
        deadline: Instant,
    ) -> Result<Result<Published, Error>, client::Error> {
        let commands: Vec<_> = self.commands().collect();
        let replies = session.pipeline(&commands, deadline)?;
        self.outcome(session, &replies, deadline).map(Ok)
    }

    /// What the replies to its commands say. Where the first way to set a time does not work, others
    /// are tried.
    fn outcome(
        self,
        session: &mut Session,
        replies: &[Reply],
        deadline: Instant,
    ) -> Result<Published, client::Error> {
        let (time, mode) = replies
            .split_at_checked(self.time.as_ref().map_or(0, |way| way.commands.len()))
            .unwrap_or((replies, &[]));
        let set = self.time.is_some_and(|way| way.is_done(time));
        let modified = match self.modified {
            Some(when) if !set => change::set_modified(session, self.path, when, deadline)?.is_ok(),
            _ => set,
        };
        let mode = self.mode.is_some() && mode.first().is_some_and(|r| r.code.is_completion());
        Ok(Published { modified, mode })
    }
}

/// A file of which nothing else is known.
const FILE: Attributes = Attributes::file(0, SystemTime::UNIX_EPOCH);

/// Whether a rename onto `path` would, or might, replace a symbolic link. `stat`: the reply to
/// STAT of it.
fn is_link(
    session: &mut client::Session,
    stat: Option<&Reply>,
    path: &RemotePath,
    deadline: Instant,
) -> Result<bool, client::Error> {
    if let Some(told) = stat.and_then(|stat| listing::shows_link(stat, path)) {
        return Ok(told);
    }
    Ok(match listing::find(session, path, deadline)? {
        Ok(found) => found.kind == FileKind::Symlink,
        Err(Error::NotFound) => false,
        Err(_) => true,
    })
}
