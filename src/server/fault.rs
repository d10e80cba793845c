//! A server that fails on command: rules as data, what they have counted, and which of them an
//! event hits. Knows events and places by name only; [`wire`] acts on sockets, the session on
//! commands.
//!
//! A rule counts through all connections, so that after its one hit a client that comes back
//! finds a healthy server. Counts and rules are one leaf lock, taken for each record that passes.

mod parse;
mod plan;
mod rule;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

pub use parse::{RuleError, Rules};
pub(super) use plan::{Manner, Plan, line};
pub use rule::{Direction, Event, Place, Rule, Unit, What, When};
pub(super) use wire::Wire;

/// The rules of a server, shared with whoever sets them: clones are the same rules.
#[derive(Clone, Default, Debug)]
pub struct Faults(Arc<Mutex<State>>);

/// What has happened since the rules were last set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Control connections accepted.
    pub connections: u64,
    /// Commands received; an ABOR that ends a transfer is not among them.
    pub commands: u64,
    /// Bytes of replies, before TLS wraps them.
    pub reply_bytes: u64,
    pub control: Traffic,
    pub data: Traffic,
    /// Hits of rules.
    pub hits: u64,
}

/// As the server sees it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    pub sent: Passed,
    pub received: Passed,
}

/// What passed on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Passed {
    pub bytes: u64,
    /// TLS records begun.
    pub records: u64,
}

#[derive(Default, Debug)]
struct State {
    rules: Vec<Armed>,
    counts: Counts,
    /// Control connections ever accepted: names them.
    accepted: u64,
    /// Grows whenever the rules change: what waits by an old rule goes on.
    epoch: u64,
}

#[derive(Debug)]
struct Armed {
    rule: Rule,
    /// Connections accepted before it was set.
    before: u64,
    all: Tally,
    /// Where each connection is counted by itself.
    each: HashMap<u64, Tally>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    seen: u64,
    hits: u64,
}

/// One control connection, and its data connections, as the rules see them.
pub(super) struct Watched {
    faults: Faults,
    id: u64,
    /// Control connections that were open when it came, itself included.
    rank: usize,
}

/// Where bytes are about to pass.
struct Passage {
    place: Place,
    during: Option<&'static str>,
    /// How many, to the end of the record or line at most.
    reach: usize,
    /// They begin a record.
    record: bool,
    /// The rules for the first of them have acted.
    judged: bool,
}

/// What the rules say of a passage: all of `hit`, or where there is none, `free` bytes pass.
struct Verdict {
    free: usize,
    hit: Vec<What>,
}

impl Faults {
    pub fn new(rules: Rules) -> Self {
        let faults = Self::default();
        faults.set(rules);
        faults
    }

    /// Replaces all rules. What waits by the old ones goes on, and all counts begin anew.
    pub fn set(&self, rules: Rules) {
        let mut state = self.0.lock();
        let before = state.accepted;
        let arm = |rule| Armed {
            rule,
            before,
            all: Tally::default(),
            each: HashMap::new(),
        };
        state.rules = rules.0.into_iter().map(arm).collect();
        state.counts = Counts::default();
        state.epoch += 1;
    }

    /// Drops all rules: the server is healthy. The counts stay.
    pub fn clear(&self) {
        let mut state = self.0.lock();
        state.rules.clear();
        state.epoch += 1;
    }

    pub fn counts(&self) -> Counts {
        self.0.lock().counts
    }

    /// A control connection was accepted, the `rank`th of those open now.
    pub(super) fn accepted(&self, rank: usize) -> Arc<Watched> {
        let mut state = self.0.lock();
        state.accepted += 1;
        state.counts.connections += 1;
        Arc::new(Watched {
            faults: self.clone(),
            id: state.accepted,
            rank,
        })
    }

    fn epoch(&self) -> u64 {
        self.0.lock().epoch
    }
}

impl Watched {
    /// What the rules want at its greeting.
    pub(super) fn connect(&self) -> Plan {
        self.event(|event| matches!(event, Event::Connect))
    }

    /// What the rules want of a command that arrived.
    pub(super) fn command(&self, verb: &str) -> Plan {
        self.faults.0.lock().counts.commands += 1;
        self.event(|event| match event {
            Event::Command(wanted) => wanted.as_ref().is_none_or(|wanted| wanted == verb),
            _ => false,
        })
    }

    fn event(&self, wanted: impl Fn(&Event) -> bool) -> Plan {
        let mut state = self.faults.0.lock();
        let mut hit = Vec::new();
        for armed in &mut state.rules {
            if !wanted(&armed.rule.when.event) {
                continue;
            }
            let Some((rule, tally)) = armed.of(self, None) else {
                continue;
            };
            if tally.next_hit(&rule.when, false) == Some(0) {
                tally.hits += 1;
                hit.push(rule.what.clone());
                log::info!("connection {}: {rule}", self.id);
            }
            tally.seen += 1;
        }
        state.counts.hits += hit.len() as u64;
        Plan::new(hit)
    }

    fn judge(&self, passage: &Passage) -> Verdict {
        let mut state = self.faults.0.lock();
        let mut free = passage.reach;
        let mut hit = Vec::new();
        for (rule, tally) in self.watching(&mut state.rules, passage) {
            let next = tally.next_hit(&rule.when, passage.judged);
            match (unit(rule), next) {
                (Unit::Byte, Some(offset @ 1..)) => {
                    free = free.min(usize::try_from(offset).unwrap_or(usize::MAX));
                }
                (Unit::Record, _) if !passage.record || passage.judged => {}
                (_, Some(0)) => {
                    tally.hits += 1;
                    hit.push(rule.what.clone());
                    log::info!("connection {}: {rule}", self.id);
                }
                _ => {}
            }
        }
        state.counts.hits += hit.len() as u64;
        Verdict { free, hit }
    }

    /// Lets bytes of a passage pass by `pass`, which does not wait, and counts them. Under the
    /// lock, so that whoever has seen them finds them counted.
    fn passing(
        &self,
        passage: &Passage,
        pass: impl FnOnce() -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut state = self.faults.0.lock();
        let passed = pass()?;
        let bytes = passed as u64;
        let records = u64::from(passage.record && passed > 0);
        for (rule, tally) in self.watching(&mut state.rules, passage) {
            tally.seen += match unit(rule) {
                Unit::Byte => bytes,
                Unit::Record => records,
            };
        }
        let counts = &mut state.counts;
        let units = match passage.place {
            Place::Reply => {
                counts.reply_bytes += bytes;
                return Ok(passed);
            }
            Place::Control(Direction::Sent) => &mut counts.control.sent,
            Place::Control(Direction::Received) => &mut counts.control.received,
            Place::Data(Direction::Sent) => &mut counts.data.sent,
            Place::Data(Direction::Received) => &mut counts.data.received,
        };
        units.bytes += bytes;
        units.records += records;
        Ok(passed)
    }

    fn watching<'a>(
        &self,
        rules: &'a mut [Armed],
        passage: &Passage,
    ) -> impl Iterator<Item = (&'a Rule, &'a mut Tally)> {
        rules
            .iter_mut()
            .filter(|armed| match armed.rule.when.event {
                Event::Wire(place, _) => place == passage.place,
                _ => false,
            })
            .filter_map(|armed| armed.of(self, passage.during))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        for armed in &mut self.faults.0.lock().rules {
            armed.each.remove(&self.id);
        }
    }
}

impl Armed {
    /// The tally in which this connection counts; `None` where the rule is not for it.
    fn of(&mut self, watched: &Watched, during: Option<&str>) -> Option<(&Rule, &mut Tally)> {
        let when = &self.rule.when;
        let this = watched.id.checked_sub(self.before);
        let meant = when.connection.is_none_or(|nth| this == Some(nth))
            && when.over.is_none_or(|most| watched.rank > most)
            && when
                .during
                .as_deref()
                .is_none_or(|verb| during == Some(verb));
        if !meant {
            return None;
        }
        let tally = if when.each {
            self.each.entry(watched.id).or_default()
        } else {
            &mut self.all
        };
        Some((&self.rule, tally))
    }
}

impl Tally {
    /// How many pass before the next hit; not the one that is next where it was `judged`.
    fn next_hit(&self, when: &When, judged: bool) -> Option<u64> {
        let left = when.times.is_none_or(|times| self.hits < times);
        let until_first = (when.first - 1).saturating_sub(self.seen);
        left.then(|| until_first.max(u64::from(judged)))
    }
}

fn unit(rule: &Rule) -> Unit {
    match rule.when.event {
        Event::Wire(_, unit) => unit,
        Event::Connect | Event::Command(_) => Unit::Byte,
    }
}
