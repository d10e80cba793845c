//! What was acknowledged to one thread, and what it does not know of: the operation that the crash
//! interrupted was done whole, or not at all.

use crate::load::Dice;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The files that an operation touches, as they are after it; `None`: not there.
pub type Outcome = BTreeMap<String, Option<Vec<u8>>>;

#[derive(Default)]
pub struct Ledger {
    /// Everything is below this folder.
    home: String,
    /// A folder in it that is renamed now and then.
    pub folder: String,
    pub files: BTreeMap<String, Vec<u8>>,
    pub doubts: Vec<Doubt>,
    next: u64,
    /// What may be there in part.
    part: Option<Part>,
    /// Operations that returned success.
    pub acknowledged: usize,
}

/// An operation that did not come back.
pub struct Doubt {
    pub what: String,
    outcomes: Vec<Outcome>,
    part: Option<Part>,
}

/// What an operation may have done of what it was to do, where it need not be all or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Each byte is the old or the new one.
    AnyByte,
    /// The old content stands, and behind it the beginning of what was appended.
    Beginning,
}

impl Ledger {
    pub fn new(home: &str, part: Option<Part>) -> Self {
        Self {
            part,
            home: home.to_owned(),
            folder: format!("{home}/folder0"),
            ..Self::default()
        }
    }

    /// A name that was never used.
    pub fn new_name(&mut self, dice: &mut Dice) -> String {
        self.next += 1;
        match dice.below(3) {
            0 if !self.is_in_doubt(&self.folder) => format!("{}/{}", self.folder, self.next),
            _ => format!("{}/{}", self.home, self.next),
        }
    }

    pub fn new_folder(&mut self) -> String {
        self.next += 1;
        format!("{}/folder{}", self.home, self.next)
    }

    /// Whether the folder can be renamed: that must show in a file, and none in it be in doubt.
    pub fn has_folder(&self) -> bool {
        let below = format!("{}/", self.folder);
        self.files.keys().any(|name| name.starts_with(&below)) && !self.is_in_doubt(&self.folder)
    }

    fn is_in_doubt(&self, folder: &str) -> bool {
        let below = format!("{folder}/");
        let mut names = self.doubts.iter().flat_map(Doubt::names);
        names.any(|name| name.starts_with(&below))
    }

    /// The last of the outcomes is what there is now.
    pub fn acknowledge(&mut self, outcomes: &[Outcome]) {
        self.acknowledged += 1;
        self.take(outcomes.last().cloned().unwrap_or_default());
    }

    pub fn doubt(&mut self, what: String, outcomes: Vec<Outcome>, part: Option<Part>) {
        let part = part.filter(|_| part == self.part);
        let doubt = Doubt {
            what,
            outcomes,
            part,
        };
        for name in doubt.names() {
            self.files.remove(name);
        }
        self.doubts.push(doubt);
    }

    fn take(&mut self, outcome: Outcome) {
        for (name, bytes) in outcome {
            // The folder goes along with what is in it.
            if let Some((folder, _)) = name.rsplit_once('/')
                && folder != self.home
                && bytes.is_some()
            {
                self.folder = folder.to_owned();
            }
            match bytes {
                Some(bytes) => self.files.insert(name, bytes),
                None => self.files.remove(&name),
            };
        }
    }

    /// What is not as it must be on the server.
    pub fn differences(&self, root: &Path) -> Vec<String> {
        let found = self.found(root);
        let mut wrong = Vec::new();
        for (name, bytes) in &self.files {
            if found.get(name) != Some(bytes) {
                wrong.push(told(
                    name,
                    &[("acknowledged", Some(bytes))],
                    found.get(name),
                ));
            }
        }
        for doubt in &self.doubts {
            if doubt.outcome(&found).is_none() {
                wrong.push(doubt.told(&found));
            }
        }
        let is_known = |name: &&String| {
            let mut doubtful = self.doubts.iter().flat_map(Doubt::names);
            self.files.contains_key(*name) || doubtful.any(|known| known == *name)
        };
        let others = found.keys().filter(|name| !is_known(name));
        wrong.extend(others.map(|name| format!("{name}: nobody made it")));
        wrong
    }

    /// What was in doubt is what it is found to be.
    pub fn resolve(&mut self, root: &Path) {
        let found = self.found(root);
        for doubt in std::mem::take(&mut self.doubts) {
            if let Some(outcome) = doubt.outcome(&found) {
                self.take(outcome);
            }
        }
    }

    fn found(&self, root: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.home.clone()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(root.join(&folder)).into_iter().flatten();
            for entry in entries.flatten() {
                let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
                match entry.path().is_dir() {
                    true => folders.push(name),
                    // It may be gone by now.
                    false => {
                        found.extend(fs::read(entry.path()).ok().map(|bytes| (name, bytes)));
                    }
                }
            }
        }
        found
    }
}

impl Doubt {
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.outcomes
            .first()
            .into_iter()
            .flat_map(|outcome| outcome.keys())
    }

    /// The outcome, if it is one that may be.
    fn outcome(&self, found: &BTreeMap<String, Vec<u8>>) -> Option<Outcome> {
        let now = self
            .names()
            .map(|name| (name.clone(), found.get(name).cloned()));
        let now: Outcome = now.collect();
        let may_be = self.outcomes.contains(&now) || self.is_in_part(&now);
        may_be.then_some(now)
    }

    fn is_in_part(&self, now: &Outcome) -> bool {
        let (Some(before), Some(after)) = (self.outcomes.first(), self.outcomes.last()) else {
            return false;
        };
        now.iter().all(|(name, now)| {
            let (Some(before), Some(now), Some(after)) = (&before[name], now, &after[name]) else {
                return false;
            };
            match self.part {
                None => false,
                Some(Part::AnyByte) => {
                    let same_size = before.len() == now.len() && now.len() == after.len();
                    let mut bytes = now.iter().zip(before.iter().zip(after));
                    same_size && bytes.all(|(now, (before, after))| now == before || now == after)
                }
                Some(Part::Beginning) => after.starts_with(now) && now.starts_with(before),
            }
        })
    }

    fn told(&self, found: &BTreeMap<String, Vec<u8>>) -> String {
        let of = |name: &String| {
            let at = |outcome: Option<&Outcome>| outcome.and_then(|o| o[name].clone());
            let (before, after) = (at(self.outcomes.first()), at(self.outcomes.last()));
            let may = [("before", before.as_ref()), ("after", after.as_ref())];
            told(name, &may, found.get(name))
        };
        let files: Vec<_> = self.names().map(of).collect();
        format!("interrupted: {}: {}", self.what, files.join("; "))
    }
}

/// Says of a file how what is there differs from what may be there.
fn told(name: &str, may: &[(&str, Option<&Vec<u8>>)], found: Option<&Vec<u8>>) -> String {
    let mut text = match found {
        Some(found) => format!(
            "{name} has {} bytes, {} of them zeros",
            found.len(),
            found.iter().filter(|byte| **byte == 0).count()
        ),
        None => format!("{name} is not there"),
    };
    for (when, bytes) in may {
        let Some(bytes) = bytes else {
            text += &format!(", {when}: none");
            continue;
        };
        text += &format!(", {when}: {}", bytes.len());
        let same = found.map(|found| found.iter().zip(*bytes).take_while(|(a, b)| a == b).count());
        text += &same.map_or(String::new(), |same| {
            format!(" (the first {same} are the same)")
        });
    }
    text
}
