//! Listings: by MLSD; where that is missing by STAT on the control connection if it proves
//! faithful, else by LIST. Every listing is made from within the directory (`CWD` in the same
//! write): it proves that the directory is there, and keeps names out of the way of servers that
//! expand patterns (`[`, `*`) or read options (`-`) in arguments.

mod exact;
mod parse;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::client::{self, Listed, Pool, Profile, Session};
use crate::proto::{
    Command, Entry, Facts, Kind, Name, Pathname, RemotePath, Reply, parse_list_line,
    parse_mlsx_line,
};

use super::meaning::{self, Error, says};
use super::{Attributes, FileKind, Listing, clock};
use exact::{Exact, exact, exact_one, exactly};
use parse::{finished, parse, parse_lines};

/// What came of a request: the server's meaning, or a failure of the session.
type Outcome<T> = Result<Result<T, Error>, client::Error>;

/// The longest name that is shown, bytes: one of more than 1024 makes the kernel refuse the whole
/// directory, and any over 255 could not be looked up.
pub const NAME_MAX: usize = 255;

/// A directory as the server lists it, before times are made exact.
struct Raw {
    entries: Vec<Entry>,
    complete: bool,
}

/// Lists a directory. `helpers`: where there are sessions that may help with very many files.
pub(super) fn list(
    session: &mut Session,
    helpers: Option<&Arc<Pool>>,
    path: &RemotePath,
    deadline: Instant,
) -> Outcome<Listing> {
    let profile = session.profile();
    if !profile.mlst_missing
        && !profile.mlsd_refused
        && let Some(outcome) = by_mlsd(session, path, deadline)?
    {
        return Ok(outcome);
    }
    let once = |session: &mut Session| -> Outcome<Exact> {
        match by_stat_or_list(session, path, deadline)? {
            Ok(raw) => exact_one(session, helpers, path, raw, deadline).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    };
    let mut listed = once(session)?;
    // What is not there when its time is asked would be shown with a time to the minute: for another
    // version of it, where it comes back. Refused again, it may be a file of which this server tells nobody.
    if matches!(&listed, Ok(exact) if !exact.steady) {
        listed = once(session)?;
    }
    Ok(listed.map(|exact| exact.listing))
}

/// Lists several directories in the round trips of one, by STAT; `None` for those that it does not
/// tell of, or in which a file just went. Only where STAT is faithful ([`lists_many`]).
pub(super) fn list_many(
    session: &mut Session,
    paths: &[RemotePath],
    deadline: Instant,
) -> Result<Vec<Option<Listing>>, client::Error> {
    let commands: Vec<_> = paths.iter().flat_map(ask_within).collect();
    let replies = session.pipeline(&commands, deadline)?;
    let mut told = Vec::new();
    let mut raws = Vec::new();
    for (place, replies) in replies.chunks(3).enumerate() {
        let [cwd, stat, noop] = replies else { continue };
        if noop.code.as_u16() != 200 {
            return Err(not_in_step(session));
        }
        let raw = parse_stat(stat);
        // An empty answer proves nothing.
        if cwd.code.is_completion() && is_listing(stat) && !raw.entries.is_empty() {
            told.push(place);
            raws.push((&paths[place], raw));
        }
    }
    if !session.is_in_step() {
        return Err(not_in_step(session));
    }
    let mut listings = vec![None; paths.len()];
    for (place, exact) in told.into_iter().zip(exact(session, None, raws, deadline)?) {
        listings[place] = Some(exact.listing).filter(|_| exact.steady);
    }
    Ok(listings)
}

/// Whether [`list_many`] is of use here.
pub(super) fn lists_many(profile: &Profile) -> bool {
    (profile.mlst_missing || profile.mlsd_refused)
        && profile.stat_faithful == Some(true)
        && !profile.one_by_one
}

/// One file's attributes out of its directory's listing.
pub(super) fn find(
    session: &mut Session,
    path: &RemotePath,
    deadline: Instant,
) -> Outcome<Attributes> {
    let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
        return Ok(
            list(session, None, path, deadline)?.map(|root| root.own.unwrap_or_else(unknown_root))
        );
    };
    Ok(list(session, None, &parent, deadline)?.and_then(|listing| {
        let complete = listing.complete;
        let found = listing.entries.into_iter().find(|(n, _)| *n == name);
        found.map(|(_, attributes)| attributes).ok_or(if complete {
            Error::NotFound
        } else {
            Error::Failed("the server cut the directory's listing short".to_owned())
        })
    }))
}

/// The same in one round trip, with nothing told of its neighbours: the exact time of the one file
/// is asked along with the listing. `None` where the server's STAT is not known to be good for that.
pub(super) fn find_at_once(
    session: &mut Session,
    path: &RemotePath,
    deadline: Instant,
) -> Outcome<Option<Attributes>> {
    let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
        return Ok(Ok(None));
    };
    if session.profile().stat_faithful != Some(true) {
        return Ok(Ok(None));
    }
    let ask = [
        Command::Cwd((&parent).into()),
        here(false),
        Command::Mdtm(path.into()),
        Command::Noop,
    ];
    let replies = session.pipeline(&ask, deadline)?;
    let [cwd, stat, mdtm, noop] = &replies[..] else {
        return Ok(Ok(None));
    };
    if !cwd.code.is_completion() || !is_listing(stat) {
        return Ok(Ok(None));
    }
    in_step(session, noop)?;
    let raw = parse_stat(stat);
    if !raw.complete || raw.entries.is_empty() {
        return Ok(Ok(None));
    }
    let mut found = raw
        .entries
        .into_iter()
        .filter(|e| e.name == name.as_bytes());
    let Some(mut entry) = found.next() else {
        return Ok(Err(Error::NotFound));
    };
    if entry.facts.kind == Some(Kind::File)
        && let Some(listed) = entry.facts.modify
    {
        let Some(told) = clock::told(mdtm, &session.profile()) else {
            return Ok(Ok(None));
        };
        session.learn(|p| clock::learn(p, &[(listed, told)], SystemTime::now()));
        let profile = session.profile();
        if clock::is_uncertain(&profile) {
            return Ok(Ok(None));
        }
        entry.facts.modify = clock::told(mdtm, &profile).map(exactly);
    }
    let is_file = entry.facts.kind == Some(Kind::File);
    let whole = entry.facts.kind.is_some() && (!is_file || entry.facts.size.is_some());
    // What is not a file's has a time in the server's zone, which a file must have shown.
    let offset = match is_file {
        true => Some(0),
        false => session.profile().listings_to_utc(),
    };
    Ok(Ok(offset
        .filter(|_| whole)
        .map(|offset| Attributes::new(&entry.facts, offset))))
}

/// The root of a server that says nothing of it.
fn unknown_root() -> Attributes {
    let facts = Facts {
        kind: Some(Kind::Directory),
        ..Facts::default()
    };
    Attributes::new(&facts, 0)
}

/// A link's target, from a listing in `ls -l` style.
pub(super) fn link_target(
    session: &mut Session,
    path: &RemotePath,
    deadline: Instant,
) -> Outcome<Box<[u8]>> {
    let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
        return Ok(Err(Error::Unsupported("the root is no link".to_owned())));
    };
    let found = by_list(session, &parent, deadline)?.map(|raw| {
        let entry = raw
            .entries
            .into_iter()
            .find(|entry| entry.name == name.as_bytes());
        entry.and_then(|entry| entry.facts.link_target)
    });
    let silent = || Error::Unsupported("the server does not tell where the link points".to_owned());
    Ok(found.and_then(|target| target.ok_or_else(silent)))
}

/// The one entry of an MLST reply: 250, and a line that begins with a space.
pub(super) fn parse_mlst(reply: &Reply) -> Option<Attributes> {
    if reply.code.as_u16() != 250 {
        return None;
    }
    let line = reply
        .lines
        .iter()
        .find(|line| line.first() == Some(&b' '))
        .or(reply.lines.get(1))?;
    let entry = parse_mlsx_line(line).ok()?;
    Some(Attributes::new(&entry.facts, 0))
}

/// `None` where the server has no working MLSD after all.
fn by_mlsd(
    session: &mut Session,
    path: &RemotePath,
    deadline: Instant,
) -> Result<Option<Result<Listing, Error>>, client::Error> {
    // pyftpdlib shows links as what they point to, and leaves dangling ones out; its STAT shows
    // the links. It costs no round trip: it goes along.
    let mut prelude = vec![Command::Cwd(path.into())];
    if session.profile().mlsd_hides_links != Some(false) {
        prelude.extend([here(false), Command::Noop]);
    }
    let (replies, outcome) = session.list(&prelude, Command::Mlsd(None), deadline)?;
    if let Some(cwd) = replies.first().filter(|reply| !reply.code.is_completion()) {
        return Ok(Some(Err(meaning::of_refusal(
            session, path, "CWD", cwd, deadline,
        )?)));
    }
    if let Some(noop) = replies.get(2) {
        in_step(session, noop)?;
    }
    let listed = match outcome {
        Ok(listed) => listed,
        Err(reply) if matches!(reply.code.as_u16(), 500 | 502 | 504) => {
            session.learn(|p| p.mlsd_refused = true);
            return Ok(None);
        }
        Err(reply) => {
            return Ok(Some(Err(meaning::of_refusal(
                session, path, "MLSD", &reply, deadline,
            )?)));
        }
    };
    let mut raw = parse(&listed.bytes, parse_mlsx_line);
    raw.complete &= is_whole(&listed);
    // A listing that was cut before its first line looks like that of an empty directory.
    let mut kinds = raw.entries.iter().map(|entry| entry.facts.kind);
    if kinds.any(|kind| kind == Some(Kind::Current)) {
        session.learn(|p| p.mlsd_shows_itself = true);
    } else if session.profile().mlsd_shows_itself {
        raw.complete = false;
    }
    show_links(session, &mut raw, replies.get(1));
    let link = raw
        .entries
        .iter()
        .find(|entry| entry.facts.kind == Some(Kind::Symlink));
    if session.profile().mlst_hides_links.is_none()
        && let Some(name) = link.and_then(|link| Name::parse(&link.name).ok())
    {
        let ask = Command::Mlst(Some((&path.join(&name)).into()));
        let told = parse_mlst(&session.execute(&ask, deadline)?);
        let hides = told.is_none_or(|attributes| attributes.kind != FileKind::Symlink);
        session.learn(|p| p.mlst_hides_links = Some(hides));
    }
    let exact = exact_one(session, None, path, raw, deadline)?;
    Ok(Some(Ok(exact.listing)))
}

/// Puts the links that STAT shows in place of what MLSD shows for them, and learns whether
/// that is needed.
fn show_links(session: &Session, raw: &mut Raw, stat: Option<&Reply>) {
    let Some(stat) = stat else { return };
    let shown = raw
        .entries
        .iter()
        .any(|entry| entry.facts.kind == Some(Kind::Symlink));
    if shown || !is_listing(stat) {
        session.learn(|p| p.mlsd_hides_links = Some(false));
        return;
    }
    let mut links = parse_stat(stat).entries;
    links.retain(|entry| entry.facts.kind == Some(Kind::Symlink));
    if links.is_empty() {
        return;
    }
    session.learn(|p| p.mlsd_hides_links = Some(true));
    let places: HashMap<Vec<u8>, usize> = raw
        .entries
        .iter()
        .enumerate()
        .map(|(at, entry)| (entry.name.clone(), at))
        .collect();
    for link in links {
        match places
            .get(&link.name)
            .and_then(|&place| raw.entries.get_mut(place))
        {
            // The target's time is exact and the link's own is not.
            Some(shown) => {
                shown.facts = Facts {
                    modify: shown.facts.modify,
                    ..link.facts
                };
            }
            None => raw.entries.push(link),
        }
    }
}

/// `STAT .`, with `-a` where only that shows hidden files.
fn here(all: bool) -> Command {
    Command::Stat {
        all,
        path: Pathname::new(b"."),
    }
}

/// STAT where it is known or found to be faithful, else LIST.
fn by_stat_or_list(session: &mut Session, path: &RemotePath, deadline: Instant) -> Outcome<Raw> {
    let faithful = session.profile().stat_faithful;
    if faithful == Some(false) {
        return by_list(session, path, deadline);
    }
    let stat = match by_stat(session, path, deadline)? {
        Ok(Some(raw)) => raw,
        Ok(None) => return by_list(session, path, deadline),
        Err(error) => return Ok(Err(error)),
    };
    // An empty answer proves nothing (vsftpd gives it for a directory that it cannot read):
    // LIST says why.
    if faithful == Some(true) && !stat.entries.is_empty() {
        return Ok(Ok(stat));
    }
    let listed = match by_list(session, path, deadline)? {
        Ok(raw) => raw,
        Err(error) => return Ok(Err(error)),
    };
    if faithful.is_none() && names(&listed).len() > 2 {
        let is_faithful = names(&stat) == names(&listed);
        // What was made or removed between the two proves nothing.
        let is_proven = is_faithful
            || matches!(by_stat(session, path, deadline)?, Ok(Some(again)) if names(&again) == names(&stat));
        if is_proven {
            session.learn(|p| p.stat_faithful = Some(is_faithful));
        }
    }
    Ok(Ok(listed))
}

fn names(raw: &Raw) -> Vec<&[u8]> {
    let mut names: Vec<_> = raw.entries.iter().map(|entry| &entry.name[..]).collect();
    names.sort_unstable();
    names
}

/// `None` where the server has no STAT for directories.
fn by_stat(session: &mut Session, path: &RemotePath, deadline: Instant) -> Outcome<Option<Raw>> {
    let replies = session.pipeline(&ask_within(path), deadline)?;
    let [cwd, stat, noop] = &replies[..] else {
        return Ok(Ok(None));
    };
    if !cwd.code.is_completion() {
        return meaning::of_refusal(session, path, "CWD", cwd, deadline).map(Err);
    }
    if !is_listing(stat) {
        session.learn(|p| p.stat_faithful = Some(false));
        return Ok(Ok(None));
    }
    in_step(session, noop)?;
    Ok(Ok(Some(parse_stat(stat))))
}

/// What lists a directory on the control connection.
pub(super) fn ask_within(path: &RemotePath) -> [Command; 3] {
    [Command::Cwd(path.into()), here(true), Command::Noop]
}

/// What the replies to that tell of the directory itself.
pub(super) fn told_within(
    session: &mut Session,
    replies: &[Reply],
) -> Result<Option<Attributes>, client::Error> {
    let [cwd, stat, noop] = replies else {
        return Ok(None);
    };
    in_step(session, noop)?;
    if !cwd.code.is_completion() || !is_listing(stat) {
        return Ok(None);
    }
    Ok(finished(parse_stat(stat), 0).own)
}

/// After a STAT listing, the reply to NOOP must be that, and nothing may be left over: a name
/// with CRLF in it can look like the end of the listing, and like replies.
pub(super) fn in_step(session: &mut Session, noop: &Reply) -> Result<(), client::Error> {
    if noop.code.as_u16() == 200 && session.is_in_step() {
        return Ok(());
    }
    Err(not_in_step(session))
}

fn not_in_step(session: &mut Session) -> client::Error {
    session.learn(|p| {
        p.stat_faithful = Some(false);
        p.mlsd_hides_links = Some(false);
    });
    session.out_of_step("STAT")
}

/// 211, 212 and 213 carry listings; 211 is also the answer to a bare STAT.
fn is_listing(reply: &Reply) -> bool {
    matches!(reply.code.as_u16(), 211..=213) && reply.lines.len() > 1
}

/// Whether there is a symbolic link under a name, by the reply to `STAT path`: asked of a file,
/// vsftpd, ProFTPD and pyftpdlib show it, or the link itself, in one line. `None` where the reply
/// does not tell: a directory, patterns in the name, a server without STAT.
pub(super) fn shows_link(stat: &Reply, path: &RemotePath) -> Option<bool> {
    let [entry] = &parse_stat(stat).entries[..] else {
        return None;
    };
    let name = path.name()?;
    let is_named = entry.name == name.as_bytes() || entry.name == path.as_bytes();
    match entry.facts.kind {
        Some(Kind::Symlink) if is_named => Some(true),
        Some(Kind::File) if is_named => Some(false),
        _ => None,
    }
}

/// The lines between the first and the last. ProFTPD puts a space before each, so that none can
/// be taken for the last (RFC 959 4.2).
fn parse_stat(reply: &Reply) -> Raw {
    let between = reply.lines.len().saturating_sub(1);
    let lines = || reply.lines[..between].iter().skip(1).map(Vec::as_slice);
    let pad = usize::from(lines().all(|line| line.first().is_none_or(|&b| b == b' ')));
    let now = SystemTime::now();
    parse_lines(lines(), |line| {
        parse_list_line(line.get(pad..).unwrap_or_default(), now)
    })
}

fn by_list(session: &mut Session, path: &RemotePath, deadline: Instant) -> Outcome<Raw> {
    if session.profile().list_all_refused {
        return list_with(session, path, false, deadline);
    }
    let refused = match list_with(session, path, true, deadline)? {
        Err(error @ (Error::Denied(_) | Error::Unsupported(_) | Error::Failed(_))) => error,
        done => return Ok(done),
    };
    // pyftpdlib takes `-a` for a name. It may also be the directory that is refused.
    let listed = list_with(session, path, false, deadline)?;
    if listed.is_err() {
        return Ok(Err(refused));
    }
    session.learn(|p| p.list_all_refused = true);
    Ok(listed)
}

fn list_with(
    session: &mut Session,
    path: &RemotePath,
    all: bool,
    deadline: Instant,
) -> Outcome<Raw> {
    let cwd = [Command::Cwd(path.into())];
    let (replies, outcome) = session.list(&cwd, Command::List { all, path: None }, deadline)?;
    if let Some(cwd) = replies.first().filter(|reply| !reply.code.is_completion()) {
        return meaning::of_refusal(session, path, "CWD", cwd, deadline).map(Err);
    }
    match outcome {
        // vsftpd: "226 Transfer done (but failed to open directory)."
        Ok(listed) if says(&listed.reply, &["failed to open directory"]) => {
            Ok(Err(Error::Denied(format!("LIST: {}", listed.reply))))
        }
        Ok(listed) => {
            let now = SystemTime::now();
            let mut raw = parse(&listed.bytes, |line| parse_list_line(line, now));
            raw.complete &= is_whole(&listed);
            Ok(Ok(raw))
        }
        // 450 for an empty directory, on some.
        Err(reply) if reply.code.as_u16() == 450 && says(&reply, &["no files"]) => Ok(Ok(Raw {
            entries: Vec::new(),
            complete: true,
        })),
        Err(reply) if reply.code.is_transient() => Ok(Err(Error::Failed(format!("LIST: {reply}")))),
        // Not `of_refusal`: that may list this directory to find out.
        Err(reply) => Ok(Err(Error::Denied(format!("LIST: {reply}")))),
    }
}

/// Pure-FTPd says so where it left names out; and what no close_notify ends may lack its tail.
fn is_whole(listed: &Listed) -> bool {
    listed.clean && !says(&listed.reply, &["truncated"])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;
    use std::time::Duration;

    use super::super::Remote;
    use super::*;
    use crate::client::Config;
    use crate::proto::Security;
    use crate::server::{self, Faults, Server, Users};
    use crate::tls::TrustOptions;

    #[test]
    fn a_link_is_told_from_a_file_by_stat() {
        let told = |line: &str, path: &str| {
            let text = format!("213-Status follows:\r\n{line}\r\n213 End of status\r\n");
            let mut parser = crate::proto::ReplyParser::default();
            parser.push(text.as_bytes());
            let reply = parser.next().expect("a reply").expect("the whole reply");
            shows_link(&reply, &RemotePath::parse(path.as_bytes()).expect("a path"))
        };
        let file = "-rw-r--r--    1 0        0               3 Nov 26 12:59";
        let link = "lrwxrwxrwx    1 0        0               4 Nov 26 12:59";
        assert_eq!(told(&format!("{file} f"), "/d/f"), Some(false));
        assert_eq!(told(&format!(" {file} /d/f"), "/d/f"), Some(false));
        assert_eq!(told(&format!("{link} f -> x"), "/d/f"), Some(true));
        assert_eq!(told(&format!("{link} /d/f -> x"), "/d/f"), Some(true));
        // A pattern found another, or the target is a directory.
        assert_eq!(told(&format!("{file} g"), "/d/[fg]"), None);
        assert_eq!(told(&format!("{file} a\r\n{file} b"), "/d/f"), None);
        assert_eq!(told("", "/d/f"), None);
    }

    /// It was called unfaithful, for good.
    #[test]
    fn a_file_made_between_two_listings_does_not_make_stat_unfaithful() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let faults = Faults::default();
        faults.set("LIST 1: stall 300ms".parse().unwrap());
        let mut config = server::Config::new(folder.path(), Security::Implicit, Users::Anyone);
        config.without = ["MLST", "MLSD"].map(str::to_owned).to_vec();
        config.faults = Some(faults.clone());
        let server = Server::start(config).unwrap();
        let port = server.local_addr().port();
        let config = Config {
            trust: TrustOptions {
                fingerprints: vec![server.fingerprint()],
                ..TrustOptions::default()
            },
            ..Config::new("127.0.0.1", port, Security::Implicit, "user", "password")
        };
        let soon = || Instant::now() + Duration::from_secs(10);
        let remote = Remote::connect(config, soon()).unwrap();
        let root = RemotePath::root();
        let path = folder.path().to_owned();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(150));
            fs::write(path.join("d"), "").unwrap();
        });
        let listed = remote.list(&root, soon()).unwrap();
        other.join().unwrap();
        assert_eq!(listed.entries.len(), 4);
        assert_eq!(remote.pool.profile().stat_faithful, None);
        assert_eq!(remote.list(&root, soon()).unwrap().entries.len(), 4);
        assert_eq!(remote.pool.profile().stat_faithful, Some(true));
    }
}
