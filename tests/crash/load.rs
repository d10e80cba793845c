//! The load: a thread that changes files through a mount until that breaks under it.

use crate::common::tree;
use crate::ledger::{Ledger, Outcome, Part};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// From this size on few changes are made in place on the server.
const LARGE: usize = 1 << 20;
/// So many files one thread has at a time.
const FILES: usize = 10;

/// Chance that can be repeated.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        // splitmix64's step.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self) -> Vec<u8> {
        let size = match self.below(10) {
            0..7 => 1 + self.below(30_000),
            7..9 => 30_000 + self.below(270_000),
            // This large it is on its way before it is closed.
            _ => 600_000 + self.below(600_000),
        };
        tree::bytes(self.next(), size as usize)
    }

    fn pick<'a, T>(&mut self, among: &'a [T]) -> Option<&'a T> {
        let at = self.below(among.len().max(1) as u64);
        among.get(at as usize)
    }
}

/// What one thread is about to do.
enum Change {
    Create(Vec<u8>),
    Overwrite(Vec<u8>),
    Append(Vec<u8>),
    Patch(Vec<(usize, Vec<u8>)>),
    Rename(String),
    RenameFolder(String),
}

/// Works in `dir` until `killed` and something fails, and counts what is done. Fails itself where
/// something fails before.
pub fn work(
    dir: &Path,
    ledger: &mut Ledger,
    dice: &mut Dice,
    killed: &AtomicBool,
    done: &AtomicU64,
) -> Result<(), String> {
    loop {
        let (name, change) = choose(ledger, dice);
        let outcomes = outcomes(ledger, &name, &change);
        let is_synced = dice.below(5) == 0;
        let what = format!("{} {name}", change.name());
        match perform(dir, &name, &change, is_synced) {
            Ok(()) => {
                ledger.acknowledge(&outcomes);
                done.fetch_add(1, Ordering::SeqCst);
            }
            Err(_) if killed.load(Ordering::SeqCst) => {
                let part = match change {
                    Change::Patch(_) => Some(Part::AnyByte),
                    Change::Append(_) => Some(Part::Beginning),
                    _ => None,
                };
                ledger.doubt(what, outcomes, part);
                return Ok(());
            }
            Err(error) => return Err(format!("{what}: {error}")),
        }
        if killed.load(Ordering::SeqCst) {
            return Ok(());
        }
    }
}

fn choose(ledger: &mut Ledger, dice: &mut Dice) -> (String, Change) {
    let names: Vec<String> = ledger.files.keys().cloned().collect();
    let is_large = |name: &&String| ledger.files[*name].len() >= LARGE;
    let large: Vec<String> = names.iter().filter(is_large).cloned().collect();
    let wish = dice.below(12);
    if wish < 3 && names.len() < FILES {
        return (ledger.new_name(dice), Change::Create(dice.bytes()));
    }
    if wish == 11 && ledger.has_folder() {
        let new = ledger.new_folder();
        return (ledger.folder.clone(), Change::RenameFolder(new));
    }
    if wish < 6
        && let Some(name) = dice.pick(&large)
    {
        return (
            name.clone(),
            Change::Patch(patches(ledger.files[name].len(), dice)),
        );
    }
    let Some(name) = dice.pick(&names) else {
        return (ledger.new_name(dice), Change::Create(dice.bytes()));
    };
    let change = match wish {
        6..8 => Change::Append(dice.bytes()),
        8..10 => match dice.pick(&names) {
            Some(other) if other != name && names.len() > 4 => Change::Rename(other.clone()),
            _ => Change::Rename(ledger.new_name(dice)),
        },
        // Large ones are kept so.
        _ if large.contains(name) => Change::Append(dice.bytes()),
        _ => Change::Overwrite(dice.bytes()),
    };
    (name.clone(), change)
}

/// Up to three ranges of a file, far from each other.
fn patches(size: usize, dice: &mut Dice) -> Vec<(usize, Vec<u8>)> {
    let count = 1 + dice.below(3) as usize;
    let space = size / count;
    let range = |index: usize| {
        let length = 100 + dice.below(20_000) as usize;
        let room = (space - length - 1) as u64;
        let start = index * space + 1 + dice.below(room) as usize;
        (start, tree::bytes(dice.next(), length))
    };
    (0..count).map(range).collect()
}

/// What may be there afterwards: nothing of it done first, all of it done last.
fn outcomes(ledger: &Ledger, name: &str, change: &Change) -> Vec<Outcome> {
    let old = ledger.files.get(name);
    let only = |bytes: Option<Vec<u8>>| Outcome::from([(name.to_owned(), bytes)]);
    let before = only(old.cloned());
    let old = old.cloned().unwrap_or_default();
    match change {
        Change::Create(new) | Change::Overwrite(new) => vec![before, only(Some(new.clone()))],
        Change::Append(more) => vec![before, only(Some([&old[..], more].concat()))],
        Change::Patch(ranges) => {
            // Each range by itself is the one or the other.
            let some = |chosen: usize| {
                let mut bytes = old.clone();
                for (index, (start, new)) in ranges.iter().enumerate() {
                    if chosen & (1 << index) != 0 {
                        bytes[*start..start + new.len()].copy_from_slice(new);
                    }
                }
                only(Some(bytes))
            };
            (0..1 << ranges.len()).map(some).collect()
        }
        Change::Rename(to) => {
            let pair = |from: Option<Vec<u8>>, there: Option<Vec<u8>>| {
                Outcome::from([(name.to_owned(), from), (to.clone(), there)])
            };
            let there = ledger.files.get(to).cloned();
            vec![pair(Some(old.clone()), there), pair(None, Some(old))]
        }
        Change::RenameFolder(to) => {
            let (mut before, mut after) = (Outcome::new(), Outcome::new());
            for (file, bytes) in &ledger.files {
                if let Some(rest) = file.strip_prefix(&format!("{name}/")) {
                    let moved = format!("{to}/{rest}");
                    before.insert(file.clone(), Some(bytes.clone()));
                    before.insert(moved.clone(), None);
                    after.insert(file.clone(), None);
                    after.insert(moved, Some(bytes.clone()));
                }
            }
            vec![before, after]
        }
    }
}

fn perform(dir: &Path, name: &str, change: &Change, is_synced: bool) -> io::Result<()> {
    let path = dir.join(name);
    let file = match change {
        Change::Rename(to) | Change::RenameFolder(to) => return fs::rename(path, dir.join(to)),
        Change::Create(bytes) => pour(File::create_new(path)?, bytes)?,
        Change::Overwrite(bytes) => pour(File::create(path)?, bytes)?,
        Change::Append(bytes) => pour(File::options().append(true).open(path)?, bytes)?,
        Change::Patch(ranges) => {
            let file = File::options().write(true).open(path)?;
            for (start, bytes) in ranges {
                file.write_all_at(bytes, *start as u64)?;
            }
            file
        }
    };
    if is_synced {
        file.sync_all()?;
    }
    // Dropped, it would not say what came of it.
    Ok(nix::unistd::close(file)?)
}

fn pour(mut file: File, bytes: &[u8]) -> io::Result<File> {
    for chunk in bytes.chunks(100_000) {
        file.write_all(chunk)?;
    }
    Ok(file)
}

impl Change {
    fn name(&self) -> String {
        match self {
            Self::Create(bytes) => format!("create {} bytes", bytes.len()),
            Self::Overwrite(bytes) => format!("overwrite {} bytes", bytes.len()),
            Self::Append(bytes) => format!("append {} bytes", bytes.len()),
            Self::Patch(ranges) => format!("change {} ranges of", ranges.len()),
            Self::Rename(to) => format!("rename to {to}"),
            Self::RenameFolder(to) => format!("rename to {to} the folder"),
        }
    }
}
