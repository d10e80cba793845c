//! What a listing tells roughly is asked file by file.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::client::{self, Pool, Session};
use crate::proto::{Command, Entry, Kind, Modify, Name, Precision, RemotePath};

use super::super::{Listing, clock, fits, number};
use super::parse::finished;
use super::{Raw, in_step};

/// [`exact`] for one listing.
pub(super) fn exact_one(
    session: &mut Session,
    helpers: Option<&Arc<Pool>>,
    path: &RemotePath,
    raw: Raw,
    deadline: Instant,
) -> Result<Listing, client::Error> {
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
) -> Result<Vec<Listing>, client::Error> {
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
        for ((&(list, place), command), reply) in asked() {
            let listed = raws.get_mut(list);
            let Some(Entry { facts, .. }) = listed.and_then(|(_, raw)| raw.entries.get_mut(place))
            else {
                continue;
            };
            match is_mdtm(command) {
                false => facts.size = number(reply),
                true => {
                    facts.modify = clock::told(reply, &profile).map(exactly).or(facts.modify);
                }
            }
        }
    }
    let offset = session.profile().listings_to_utc();
    let finish = |(_, raw)| finished(raw, offset.unwrap_or(0));
    Ok(raws.into_iter().map(finish).collect())
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
