//! Changes to names and attributes: one path, one thing. Each may be repeated after a lost
//! connection: what the first attempt did already is found out, and counts as done.

use std::time::{Instant, SystemTime};

use crate::client::{self, Lane, Pool, Session};
use crate::proto::{Command, Pathname, RemotePath, Reply, Site, format_time};

use super::meaning::{self, Error};
use super::{Attributes, FileKind, Reserved, clock, listing, number, stat, text_of_213};

type Outcome<T> = Result<Result<T, Error>, client::Error>;

/// Runs a change; `work` learns whether an attempt was lost before it, and what it wanted may
/// have been done by that. `again`: whether that is so before this call, and after it.
pub(super) fn run<T>(
    pool: &std::sync::Arc<Pool>,
    again: &mut bool,
    deadline: Instant,
    mut work: impl FnMut(&mut Session, bool, Instant) -> Outcome<T>,
) -> Result<T, Error> {
    pool.run(Lane::Metadata, deadline, |session, deadline| {
        let again = std::mem::replace(again, true);
        work(session, again, deadline)
    })?
}

/// MKD, and in the same write the question which permission bits the new directory has: where they
/// are others than `mode`, they are changed. (Not at once: where MKD is refused because another client
/// was first, that would open up what it has made.)
pub(super) fn mkdir(
    session: &mut Session,
    path: &RemotePath,
    temporary: &RemotePath,
    mode: u16,
    again: bool,
    deadline: Instant,
) -> Outcome<bool> {
    let mut commands = vec![Command::Mkd(path.into())];
    let asks = !session.profile().mlst_missing;
    if asks {
        commands.push(Command::Mlst(Some(path.into())));
    } else {
        commands.extend(listing::ask_within(path));
    }
    let replies = session.pipeline(&commands, deadline)?;
    let [reply, told @ ..] = &replies[..] else {
        return Ok(Err(Error::Failed("MKD: no reply".to_owned())));
    };
    let own = match told {
        [mlst] => listing::parse_mlst(mlst),
        within => listing::told_within(session, within)?,
    };
    if reply.code.is_completion() {
        // A bit that it inherited (set-group-ID) is nothing that mkdir(2) takes away.
        let has = own.and_then(|own| own.mode);
        return match has.is_some_and(|has| has & 0o777 == mode & 0o777 && has | mode == has) {
            true => Ok(Ok(true)),
            false => give_mode(session, path, mode, deadline),
        };
    }
    let there = look(session, path, deadline)?;
    match there {
        Ok(found) if again && found.kind == FileKind::Directory => {
            give_mode(session, path, mode, deadline)
        }
        Ok(_) => Ok(Err(Error::Exists)),
        // ProFTPD makes no directory of such a name, but it renames one to it.
        Err(Error::NotFound) if path.as_bytes().contains(&b'*') => {
            match mkdir_elsewhere(session, path, temporary, reply, deadline)? {
                Ok(()) => give_mode(session, path, mode, deadline),
                Err(error) => Ok(Err(error)),
            }
        }
        Err(Error::NotFound) => refused_in_parent(session, path, "MKD", reply, deadline),
        Err(error) => Ok(Err(error)),
    }
}

/// The mode of a new directory, where the server can set one: it is made in any case.
fn give_mode(
    session: &mut Session,
    path: &RemotePath,
    mode: u16,
    deadline: Instant,
) -> Outcome<bool> {
    let set = set_mode(session, path, mode, deadline)?;
    if let Err(error) = &set {
        log::debug!("{path}: permission bits of a new directory: {error}");
    }
    Ok(Ok(set.is_ok()))
}

/// Makes a directory under another name and renames it.
fn mkdir_elsewhere(
    session: &mut Session,
    path: &RemotePath,
    temporary: &RemotePath,
    refusal: &Reply,
    deadline: Instant,
) -> Outcome<()> {
    let made = session.execute(&Command::Mkd(temporary.into()), deadline)?;
    if made.code.is_completion() {
        let [_, rnto] = rename_now(session, temporary.into(), path.into(), deadline)?;
        if rnto.code.is_completion() {
            return Ok(Ok(()));
        }
        session.execute(&Command::Rmd(temporary.into()), deadline)?;
    }
    refused_in_parent(session, path, "MKD", refusal, deadline)
}

/// Makes a directory whose name ends with a space, and sees whether that is its name then. `None`
/// where none can be made here.
pub(super) fn keeps_last_space(
    session: &mut Session,
    scratch: &RemotePath,
    deadline: Instant,
) -> Result<Option<bool>, client::Error> {
    let named = |last: u8| RemotePath::parse(&[scratch.as_bytes(), &[last]].concat());
    let (Ok(spaced), Ok(changed)) = (named(b' '), named(b'_')) else {
        return Ok(None);
    };
    let made = session.execute(&Command::Mkd((&spaced).into()), deadline)?;
    if !made.code.is_completion() {
        return Ok(None);
    }
    let removed = session.execute(&Command::Rmd((&spaced).into()), deadline)?;
    if !removed.code.is_completion() {
        session.execute(&Command::Rmd((&changed).into()), deadline)?;
    }
    Ok(Some(removed.code.is_completion()))
}

pub(super) fn rmdir(
    session: &mut Session,
    path: &RemotePath,
    again: bool,
    deadline: Instant,
) -> Outcome<()> {
    let reply = session.execute(&Command::Rmd(path.into()), deadline)?;
    if reply.code.is_completion() {
        return Ok(Ok(()));
    }
    match look(session, path, deadline)? {
        Err(Error::NotFound) if again => Ok(Ok(())),
        Err(error) => Ok(Err(error)),
        Ok(found) if found.kind != FileKind::Directory => Ok(Err(Error::NotDirectory)),
        Ok(_) => {
            let listing = listing::list(session, None, path, deadline)?;
            let empty = listing.is_ok_and(|l| l.entries.is_empty() && l.complete);
            if !empty {
                return Ok(Err(Error::NotEmpty));
            }
            // It may have been emptied meanwhile, by ourselves even.
            let reply = session.execute(&Command::Rmd(path.into()), deadline)?;
            Ok(match reply.code.is_completion() {
                true => Ok(()),
                false => Err(Error::Denied(format!("RMD: {reply}"))),
            })
        }
    }
}

pub(super) fn unlink(
    session: &mut Session,
    path: &RemotePath,
    again: bool,
    deadline: Instant,
) -> Outcome<()> {
    let reply = session.execute(&Command::Dele(path.into()), deadline)?;
    if reply.code.is_completion() {
        return Ok(Ok(()));
    }
    match look(session, path, deadline)? {
        Err(Error::NotFound) if again => Ok(Ok(())),
        Err(error) => Ok(Err(error)),
        Ok(found) if found.kind == FileKind::Directory => Ok(Err(Error::IsDirectory)),
        Ok(_) => Ok(Err(Error::Denied(format!("DELE: {reply}")))),
    }
}

/// RNFR and RNTO in one write (ProFTPD accepts nothing between them). Whether `to` may be
/// replaced is the caller's decision; where a server never replaces, the old one is set `aside`.
pub(super) fn rename(
    session: &mut Session,
    from: &RemotePath,
    to: &RemotePath,
    aside: &Reserved,
    again: bool,
    deadline: Instant,
) -> Outcome<()> {
    let [rnfr, rnto] = rename_now(session, from.into(), to.into(), deadline)?;
    if rnto.code.is_completion() {
        return Ok(Ok(()));
    }
    if !rnfr.code.is_intermediate() {
        return match (look(session, from, deadline)?, again) {
            (Err(Error::NotFound), true) => {
                // The first attempt may have set the old one aside.
                Ok(look(session, to, deadline)?.map(|_| aside.settle()))
            }
            (Err(error), _) => Ok(Err(error)),
            (Ok(_), _) => Ok(Err(Error::Denied(format!("RNFR: {rnfr}")))),
        };
    }
    match look(session, to, deadline)? {
        Err(Error::NotFound) => refused_in_parent(session, to, "RNTO", &rnto, deadline),
        Err(error) => Ok(Err(error)),
        Ok(found) if found.kind == FileKind::Directory => {
            let listing = listing::list(session, None, to, deadline)?;
            if !listing.is_ok_and(|l| l.entries.is_empty() && l.complete) {
                return Ok(Err(Error::NotEmpty));
            }
            replace_by_setting_aside(session, from, to, aside, &rnto, deadline)
        }
        Ok(_) => replace_by_setting_aside(session, from, to, aside, &rnto, deadline),
    }
}

/// A rename of which the server may think that it replaces the file itself: then it goes by a name
/// in between.
pub(super) fn respell(
    session: &mut Session,
    from: &RemotePath,
    to: &RemotePath,
    between: &RemotePath,
    again: bool,
    deadline: Instant,
) -> Outcome<()> {
    let [rnfr, rnto] = rename_now(session, from.into(), to.into(), deadline)?;
    if rnto.code.is_completion() {
        return Ok(Ok(()));
    }
    if !rnfr.code.is_intermediate() {
        return match look(session, from, deadline)? {
            // The first attempt may have left it in between.
            Err(Error::NotFound) if again => {
                let [_, back] = rename_now(session, between.into(), to.into(), deadline)?;
                let there = back.code.is_completion() || look(session, to, deadline)?.is_ok();
                Ok(there.then_some(()).ok_or(Error::NotFound))
            }
            Err(error) => Ok(Err(error)),
            Ok(_) => Ok(Err(Error::Denied(format!("RNFR: {rnfr}")))),
        };
    }
    let [_, away] = rename_now(session, from.into(), between.into(), deadline)?;
    if !away.code.is_completion() {
        return Ok(Err(Error::Denied(format!("RNTO: {rnto}"))));
    }
    let [_, back] = rename_now(session, between.into(), to.into(), deadline)?;
    if back.code.is_completion() {
        return Ok(Ok(()));
    }
    let [_, undone] = rename_now(session, between.into(), from.into(), deadline)?;
    if !undone.code.is_completion() {
        log::error!("{from} could not be put back, it is now {between}: {undone}");
    }
    Ok(Err(Error::Denied(format!("RNTO: {back}"))))
}

/// IIS and FileZilla refuse RNTO onto an existing name: the old one is renamed, and renamed back
/// where the rename fails.
fn replace_by_setting_aside(
    session: &mut Session,
    from: &RemotePath,
    to: &RemotePath,
    reserved: &Reserved,
    refusal: &Reply,
    deadline: Instant,
) -> Outcome<()> {
    let aside = reserved.path();
    let [_, set_aside] = rename_now(session, to.into(), aside.into(), deadline)?;
    if !set_aside.code.is_completion() {
        return Ok(Err(Error::Denied(format!("RNTO: {refusal}"))));
    }
    let [_, renamed] = rename_now(session, from.into(), to.into(), deadline)?;
    if !renamed.code.is_completion() {
        let [_, back] = rename_now(session, aside.into(), to.into(), deadline)?;
        if !back.code.is_completion() {
            log::error!("{to} could not be put back, it is now {aside}: {back}");
        }
        return Ok(Err(Error::Denied(format!("RNTO: {renamed}"))));
    }
    reserved.settle();
    let gone = session.execute(&Command::Dele(aside.into()), deadline)?;
    if !gone.code.is_completion() {
        let gone = session.execute(&Command::Rmd(aside.into()), deadline)?;
        if !gone.code.is_completion() {
            log::warn!("{aside}, replaced by {to}, could not be removed: {gone}");
        }
    }
    Ok(Ok(()))
}

fn rename_now(
    session: &mut Session,
    from: Pathname,
    to: Pathname,
    deadline: Instant,
) -> Result<[Reply; 2], client::Error> {
    let replies = session.pipeline(&[Command::Rnfr(from), Command::Rnto(to)], deadline)?;
    replies
        .try_into()
        .map_err(|_| client::Error::Protocol("RNFR and RNTO: replies are missing".to_owned()))
}

/// One way to set a time.
pub(super) struct TimeWay {
    name: &'static str,
    /// As MDTM shows it.
    when: SystemTime,
    /// In one write.
    pub(super) commands: Vec<Command>,
}

/// MFMT; where that is missing MDTM with a time (vsftpd), else SITE UTIME. Whole seconds. The ways
/// that this server is not known to lack.
pub(super) fn time_ways(
    session: &Session,
    path: &RemotePath,
    time: SystemTime,
) -> impl Iterator<Item = TimeWay> + use<> {
    let name = Pathname::from(path);
    let profile = session.profile();
    let has_mfmt = session.features().has("MFMT");
    let (path, when) = (name.clone(), clock::as_mfmt(time, &profile));
    let mfmt = Command::Mfmt { time: when, path };
    let path = name.clone();
    let utime = Command::Site(Site::Utime { time: when, path });
    let (path, when) = (name.clone(), clock::as_mdtm(time, &profile));
    let mdtm = Command::MdtmSet { time: when, path };
    let refused = profile.time_ways_refused;
    let ways = [
        ("MFMT", vec![mfmt]),
        // Without mdtm_write vsftpd takes it for a question about a file of that odd name.
        ("MDTM", vec![mdtm, Command::Mdtm(name)]),
        ("SITE UTIME", vec![utime]),
    ];
    ways.into_iter()
        .filter(move |(way, _)| !refused.contains(way) && (*way != "MFMT" || has_mfmt))
        .map(move |(name, commands)| TimeWay {
            name,
            when,
            commands,
        })
}

impl TimeWay {
    /// Whether the replies to its commands say that the time is set now.
    pub(super) fn is_done(&self, replies: &[Reply]) -> bool {
        let set = replies.first().is_some_and(|r| r.code.is_completion());
        let told = replies.get(1).and_then(text_of_213);
        let same = told.and_then(|told| told.get(..14)) == Some(&format_time(self.when));
        set && (same || self.commands.len() == 1)
    }
}

/// Sets the modification time in the first way that works.
pub(super) fn set_modified(
    session: &mut Session,
    path: &RemotePath,
    when: SystemTime,
    deadline: Instant,
) -> Outcome<()> {
    let mut words = "no way to set a time".to_owned();
    for way in time_ways(session, path, when) {
        let replies = session.pipeline(&way.commands, deadline)?;
        if way.is_done(&replies) {
            return Ok(Ok(()));
        }
        let name = way.name;
        let Some(reply) = replies.into_iter().next() else {
            return Ok(Err(Error::Failed(format!("{name}: no reply"))));
        };
        if !reply.code.is_completion() && !matches!(reply.code.as_u16(), 500..=504) {
            return meaning::of_refusal(session, path, name, &reply, deadline).map(Err);
        }
        words = format!("{name}: {reply}");
        session.learn(|p| p.time_ways_refused.push(name));
    }
    Ok(Err(Error::Unsupported(words)))
}

/// Sets a known file's modification time, and asks what it is then, in one write; whether it was set.
pub(super) fn date(
    session: &mut Session,
    path: &RemotePath,
    when: SystemTime,
    known: &Attributes,
    deadline: Instant,
) -> Outcome<(Attributes, bool)> {
    let way = time_ways(session, path, when).next();
    let mut commands = way.as_ref().map_or(Vec::new(), |way| way.commands.clone());
    let setting = commands.len();
    let name = Pathname::from(path);
    match session.profile().mlst_missing {
        true => commands.extend([Command::Size(name.clone()), Command::Mdtm(name)]),
        false => commands.push(Command::Mlst(Some(name))),
    }
    let mut replies = session.pipeline(&commands, deadline)?;
    let told = replies.split_off(setting);
    let found = match &told[..] {
        [mlst] => listing::parse_mlst(mlst),
        [size, mdtm] => {
            number(size)
                .zip(clock::told(mdtm, &session.profile()))
                .map(|(size, mtime)| Attributes {
                    size,
                    mtime,
                    ..known.clone()
                })
        }
        _ => None,
    };
    let set = way.is_some_and(|way| way.is_done(&replies));
    if let (true, Some(found)) = (set, found) {
        return Ok(Ok((found, true)));
    }
    let set = set || set_modified(session, path, when, deadline)?.is_ok();
    let found = stat(session, path, Some(known), deadline)?;
    Ok(found.map(|found| (found, set)))
}

/// MFF where the server gives files modes by it, else SITE CHMOD.
pub(super) fn set_mode(
    session: &mut Session,
    path: &RemotePath,
    mode: u16,
    deadline: Instant,
) -> Outcome<()> {
    let command = chmod(session, path, mode);
    let verb = command.verb();
    let reply = session.execute(&command, deadline)?;
    match reply.code.as_u16() {
        _ if reply.code.is_completion() => Ok(Ok(())),
        500..=504 => Ok(Err(Error::Unsupported(format!("{verb}: {reply}")))),
        _ => meaning::of_refusal(session, path, verb, &reply, deadline).map(Err),
    }
}

/// The command that gives a file its mode. ProFTPD's SITE CHMOD loses tabs and double spaces of
/// a name, its MFF does not.
pub(super) fn chmod(session: &Session, path: &RemotePath, mode: u16) -> Command {
    let path = Pathname::from(path);
    let facts = session.features().feature("MFF").unwrap_or_default();
    match facts
        .to_ascii_lowercase()
        .split(|&b| b == b';')
        .any(|fact| fact == b"unix.mode")
    {
        true => Command::Mff {
            facts: format!("UNIX.mode=0{mode:o};"),
            path,
        },
        false => Command::Site(Site::Chmod { mode, path }),
    }
}

/// SITE CPFR and SITE CPTO (ProFTPD's mod_copy), in one write.
pub(super) fn copy(
    session: &mut Session,
    from: &RemotePath,
    to: &RemotePath,
    deadline: Instant,
) -> Outcome<()> {
    let commands = [
        Command::Site(Site::Cpfr(from.into())),
        Command::Site(Site::Cpto(to.into())),
    ];
    let replies = session.pipeline(&commands, deadline)?;
    Ok(match &replies[..] {
        [_, cpto] if cpto.code.is_completion() => Ok(()),
        [cpfr, _] if !cpfr.code.is_intermediate() => {
            Err(Error::Denied(format!("SITE CPFR: {cpfr}")))
        }
        [_, cpto] => Err(Error::Denied(format!("SITE CPTO: {cpto}"))),
        _ => Err(Error::Failed("SITE CPFR: no reply".to_owned())),
    })
}

/// SITE SYMLINK (ProFTPD, which stores the target as a path from its root: where that is not what
/// was asked for, there will be no link).
pub(super) fn symlink(
    session: &mut Session,
    target: &Pathname,
    link: &RemotePath,
    again: bool,
    deadline: Instant,
) -> Outcome<()> {
    // ProFTPD takes the target from the current directory, and splits the line at spaces.
    let plain = |name: &Pathname| !name.as_bytes().iter().any(|b| b" \t\"\\".contains(b));
    let (Some(parent), link_name) = (link.parent(), Pathname::from(link)) else {
        return Ok(Err(Error::Exists));
    };
    if !plain(target) || !plain(&link_name) {
        return Ok(Err(Error::Unsupported(
            "SITE SYMLINK of a name with spaces".to_owned(),
        )));
    }
    let make = Command::Site(Site::Symlink {
        target: target.clone(),
        link: link_name,
    });
    let mut replies = session.pipeline(&[Command::Cwd((&parent).into()), make], deadline)?;
    let Some(reply) = replies.pop() else {
        return Ok(Err(Error::Failed("SITE SYMLINK: no reply".to_owned())));
    };
    if reply.code.is_completion() {
        return points_to(session, link, target, deadline);
    }
    if matches!(reply.code.as_u16(), 500..=504) {
        return Ok(Err(Error::Unsupported(format!("SITE SYMLINK: {reply}"))));
    }
    match look(session, link, deadline)? {
        Ok(found) if again && found.kind == FileKind::Symlink => {
            points_to(session, link, target, deadline)
        }
        Ok(_) => Ok(Err(Error::Exists)),
        Err(Error::NotFound) => refused_in_parent(session, link, "SITE SYMLINK", &reply, deadline),
        Err(error) => Ok(Err(error)),
    }
}

/// Makes sure that a new link is what was asked for, else removes it. A server that shows no
/// targets is believed.
fn points_to(
    session: &mut Session,
    link: &RemotePath,
    target: &Pathname,
    deadline: Instant,
) -> Outcome<()> {
    let stored = match listing::link_target(session, link, deadline)? {
        Ok(stored) if *stored == *target.as_bytes() => return Ok(Ok(())),
        Ok(stored) => stored,
        Err(Error::Unsupported(_)) => return Ok(Ok(())),
        Err(error) => return Ok(Err(error)),
    };
    let stored = String::from_utf8_lossy(&stored);
    let gone = session.execute(&Command::Dele(link.into()), deadline)?;
    if !gone.code.is_completion() {
        log::warn!("{link} points to {stored} and could not be removed: {gone}");
    }
    Ok(Err(Error::Unsupported(format!(
        "SITE SYMLINK made it point to {stored}"
    ))))
}

/// What is at a path, asked afresh and exactly.
pub(super) fn look(
    session: &mut Session,
    path: &RemotePath,
    deadline: Instant,
) -> Outcome<Attributes> {
    stat(session, path, None, deadline)
}

/// A name could not be made although nothing is there: its directory is missing, is none, or is
/// not to be written; or the server is full.
pub(super) fn refused_in_parent<T>(
    session: &mut Session,
    path: &RemotePath,
    verb: &str,
    reply: &Reply,
    deadline: Instant,
) -> Outcome<T> {
    let words = format!("{verb}: {reply}");
    match reply.code.as_u16() {
        452 => return Ok(Err(Error::NoSpace(words))),
        552 => return Ok(Err(Error::Quota(words))),
        _ => {}
    }
    let Some(parent) = path.parent() else {
        return Ok(Err(Error::Denied(words)));
    };
    Ok(Err(match look(session, &parent, deadline)? {
        Ok(found) if found.kind == FileKind::Directory => Error::Denied(words),
        Ok(_) => Error::NotDirectory,
        Err(error) => error,
    }))
}
