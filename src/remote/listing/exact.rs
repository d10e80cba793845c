//! What a listing tells roughly is asked file by file.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::client::{self, Pool, Session};
use crate::proto::{Command, Entry, Kind, Modify, Name, Precision, RemotePath};

use super::super::{Listing, Temporary, clock, fits, number};
use super::parse::finished;
use super::{Raw, in_step};

/// A listing with exact times.
pub(super) struct Exact {
    pub listing: Listing,
    /// Whether every file was there when its time was asked: one that was not was just renamed or
    /// removed, and has the time that the server's line has. Not so with temporary files, which always go.
    pub steady: bool,
}

/// [`exact`] for one listing.
pub(super) fn exact_one(
    session: &mut Session,
    helpers: Option<&Arc<Pool>>,
    path: &RemotePath,
    raw: Raw,
    deadline: Instant,
) -> Result<Exact, client::Error> {
    let made = exact(session, helpers, vec![(path, raw)], deadline)?;
    let empty = || session.out_of_step("a listing");
    made.into_iter().next().ok_or_else(empty)
}

/// Asks MDTM for every file whose time a listing gives to the minute or the day only, and SIZE
/// for every file without one. Other kinds keep the listing's time, moved to UTC by what the
/// files show. Where there are very many, other sessions of the pool may help.
pub(super) fn exact(
    session: &mut Session,
    helpers: Option<&Arc<Pool>>,
    mut raws: Vec<(&RemotePath, Raw)>,
    deadline: Instant,
) -> Result<Vec<Exact>, client::Error> {
    let mut steady = vec![true; raws.len()];
    let mut places = Vec::new();
    let mut commands = Vec::new();
    for (list, (path, raw)) in raws.iter().enumerate() {
        for (place, entry) in raw.entries.iter().enumerate() {
            if !matches!(entry.facts.kind, Some(Kind::File) | None) {
                continue;
            }
            let Ok(name) = Name::parse(&entry.name).map(|name| path.join(&name)) else {
                continue;
            };
            if !fits(&name) {
                continue;
            }
            let inexact = |m: Modify| m.precision != Precision::Second;
            if entry.facts.modify.is_some_and(inexact) {
                places.push((list, place));
                commands.push(Command::Mdtm((&name).into()));
            }
            if entry.facts.size.is_none() {
                places.push((list, place));
                commands.push(Command::Size((&name).into()));
            }
        }
    }
    if commands.is_empty() {
        if !session.is_in_step() {
            return Err(session.out_of_step("a listing"));
        }
    } else {
        // The last is no file's: where a name in a STAT listing forged replies, it gets a wrong one.
        commands.push(Command::Noop);
        let replies = match helpers {
            Some(pool) => pool.pipeline(session, &commands, deadline)?,
            None => session.pipeline(&commands, deadline)?,
        };
        if let Some(noop) = replies.last() {
            in_step(session, noop)?;
        }
        let asked = || places.iter().zip(&commands).zip(&replies);
        let profile = session.profile();
        let pairs = asked().filter_map(|((&(list, place), command), reply)| {
            let entry = raws.get(list)?.1.entries.get(place)?;
            let listed = entry.facts.modify.filter(|_| is_mdtm(command))?;
            Some((listed, clock::told(reply, &profile)?))
        });
        let pairs: Vec<_> = pairs.collect();
        session.learn(|p| clock::learn(p, &pairs, SystemTime::now()));
        let profile = session.profile();
        let learned = profile.listing_offset.or(profile.mdtm_offset);
        let tells = !pairs.is_empty() || learned.is_some();
        for ((&(list, place), command), reply) in asked() {
            let listed = raws.get_mut(list);
            let entry = listed.and_then(|(_, raw)| raw.entries.get_mut(place));
            let Some(Entry { name, facts }) = entry else {
                continue;
            };
            if !is_mdtm(command) {
                facts.size = number(reply);
            } else if let Some(time) = clock::told(reply, &profile) {
                facts.modify = Some(exactly(time));
            } else if tells && reply.code.as_u16() == 550 && !is_temporary(name) {
                steady[list] = false;
            }
        }
    }
    let offset = session.profile().listings_to_utc();
    let finish = |((_, raw), steady)| Exact {
        listing: finished(raw, offset.unwrap_or(0)),
        steady,
    };
    Ok(raws.into_iter().zip(steady).map(finish).collect())
}

fn is_temporary(name: &[u8]) -> bool {
    Name::parse(name).is_ok_and(|name| Temporary::parse(&name).is_some())
}

fn is_mdtm(command: &Command) -> bool {
    matches!(command, Command::Mdtm(_))
}

pub(super) fn exactly(time: SystemTime) -> Modify {
    Modify {
        time,
        precision: Precision::Second,
    }
}
