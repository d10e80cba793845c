//! One thread of the soak: it works on files of its own, knows what they may be by now, and says so
//! where what it sees or what the server holds is something else.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::common::tree;
use super::dice::Dice;
use super::soak::Round;
use super::worlds::{self, World, Worlds};

/// The names of one thread, with its number behind them.
const NAMES: [&str; 5] = ["a", "b", "d/c", "d/d", "d/e"];
/// So much of what was done is told where something is wrong.
const HISTORY: usize = 20;
/// So many possibilities are kept apart; then it is looked what is so.
const WORLDS: usize = 32;

pub struct Worker {
    number: u64,
    dice: Dice,
    worlds: Worlds,
    /// No two contents are the same.
    stamp: u64,
    /// What it did, for messages.
    history: VecDeque<String>,
}

/// Whether a path below the mount is that worker's.
pub fn owns(number: u64, path: &Path) -> bool {
    NAMES.iter().any(|name| path == relative(number, name))
}

fn relative(number: u64, name: &str) -> PathBuf {
    format!("{name}{number}").into()
}

impl Worker {
    pub fn new(number: u64, seed: u64) -> Self {
        Self {
            number,
            dice: Dice::new(seed),
            worlds: Worlds::new(),
            stamp: number << 32,
            history: VecDeque::new(),
        }
    }

    /// Anything.
    pub fn operate(&mut self, round: &Round) {
        let name = self.name();
        if self.worlds.count() > WORLDS {
            return self.read(round, name);
        }
        match self.dice.below(14) {
            0..=3 => self.write(round),
            4 | 5 => self.append(round, name),
            6 => self.patch(round, name),
            7 => self.cut(round, name),
            8 | 9 => self.rename(round, name),
            10 => self.remove(round, name),
            11 | 12 => self.read(round, name),
            _ => {
                let dir = self.dice.one_of(&["", "d"]);
                self.list(round, dir);
            }
        }
    }

    /// Looks at all there is.
    pub fn look(&mut self, round: &Round) {
        for name in 0..NAMES.len() {
            self.read(round, name);
        }
        for dir in ["", "d"] {
            self.list(round, dir);
        }
    }

    /// Replaces a file's content, or makes one.
    pub fn write(&mut self, round: &Round) {
        let (name, bytes) = (self.name(), self.bytes());
        let path = self.path(round, name);
        let Some(mut file) = self.opened(round, "create", || File::create(&path)) else {
            return;
        };
        let parts = 1 + self.dice.below(3) as usize;
        let syncs = self.dice.below(4) == 0;
        let mut at = 0;
        for part in bytes.chunks(bytes.len() / parts + 1) {
            if round.call("write", || file.write_all(part)).is_err() {
                // How much of it was taken is not told.
                self.worlds
                    .may_be(worlds::set(name, &bytes[..at + part.len()]));
                break;
            }
            at += part.len();
            if syncs && at < bytes.len() {
                let synced = round.call("fsync", || file.sync_all());
                let is_synced = synced.is_ok();
                self.settle(
                    round,
                    &format!("fsync {} with {at}", NAMES[name]),
                    synced,
                    worlds::set(name, &bytes[..at]),
                );
                if is_synced {
                    self.on_server(round, name, &bytes[..at]);
                }
            }
        }
        let closed = round.call("close", || close(file));
        let is_closed = closed.is_ok();
        self.settle(
            round,
            &format!("close {} with {at}", NAMES[name]),
            closed,
            worlds::set(name, &bytes[..at]),
        );
        if is_closed && round.is_synchronous() {
            self.on_server(round, name, &bytes[..at]);
        }
    }

    fn append(&mut self, round: &Round, name: usize) {
        let (path, bytes) = (self.path(round, name), self.bytes());
        let open = || File::options().append(true).create(true).open(&path);
        let Some(mut file) = self.opened(round, "open to append", open) else {
            return;
        };
        let written = round.call("append", || file.write_all(&bytes));
        if written.is_err() {
            self.worlds.may_be(worlds::append(name, b""));
        }
        let closed = written.and(round.call("close", || close(file)));
        self.settle(
            round,
            &format!("append {} to {}", bytes.len(), NAMES[name]),
            closed,
            worlds::append(name, &bytes),
        );
    }

    fn patch(&mut self, round: &Round, name: usize) {
        let (path, bytes) = (self.path(round, name), self.bytes());
        let at = self.dice.below(100_000) as usize;
        let open = || File::options().write(true).open(&path);
        let file = match round.call("open to write", open) {
            Ok(file) => file,
            Err(error) => return self.missed(round, "open to write", name, &error),
        };
        let written = round.call("write in place", || file.write_all_at(&bytes, at as u64));
        let closed = written.and(round.call("close", || close(file)));
        let change = worlds::patch(name, at, &bytes);
        self.settle(
            round,
            &format!("write {} at {at} of {}", bytes.len(), NAMES[name]),
            closed,
            change,
        );
    }

    fn cut(&mut self, round: &Round, name: usize) {
        let path = self.path(round, name);
        let len = self.dice.below(50_000);
        let cut = round.call("truncate", || Ok(nix::unistd::truncate(&path, len as i64)?));
        match cut {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.missed(round, "truncate", name, &error);
            }
            cut => self.settle(
                round,
                &format!("truncate {} to {len}", NAMES[name]),
                cut,
                worlds::cut(name, len as usize),
            ),
        }
    }

    fn rename(&mut self, round: &Round, from: usize) {
        let to = (from + 1 + self.dice.below(NAMES.len() as u64 - 1) as usize) % NAMES.len();
        let (source, target) = (self.path(round, from), self.path(round, to));
        if round.may_part() && ![&source, &target].into_iter().all(|path| sent(path)) {
            return;
        }
        match round.call("rename", || fs::rename(&source, &target)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.missed(round, "rename", from, &error);
            }
            renamed => self.settle(
                round,
                &format!("rename {} to {}", NAMES[from], NAMES[to]),
                renamed,
                worlds::rename(from, to),
            ),
        }
    }

    fn remove(&mut self, round: &Round, name: usize) {
        let path = self.path(round, name);
        match round.call("unlink", || fs::remove_file(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.missed(round, "unlink", name, &error);
            }
            removed => self.settle(
                round,
                &format!("unlink {}", NAMES[name]),
                removed,
                worlds::remove(name),
            ),
        }
    }

    fn read(&mut self, round: &Round, name: usize) {
        let path = self.path(round, name);
        let mut file = match round.call("open", || File::open(&path)) {
            Ok(file) => file,
            Err(error) => return self.missed(round, "open", name, &error),
        };
        let mut content = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match round.call("read", || file.read(&mut buffer)) {
                Ok(0) => break,
                Ok(read) => content.extend_from_slice(&buffer[..read]),
                Err(_) => return,
            }
        }
        if !self.worlds.seen(|world| world.get(&name) == Some(&content)) {
            let (len, known) = (content.len(), self.worlds.lengths(name));
            let name = relative(self.number, NAMES[name]);
            self.wrong(
                round,
                format!("{} is read as {len} bytes, not {known:?}", name.display()),
            );
        }
    }

    fn list(&mut self, round: &Round, dir: &str) {
        let path = round.place.dir.join(dir);
        let list = || {
            let entries = fs::read_dir(&path)?;
            let paths = entries.map(|entry| Ok(Path::new(dir).join(entry?.file_name())));
            paths.collect::<io::Result<Vec<_>>>()
        };
        let Ok(listed) = round.call("list", list) else {
            return;
        };
        let here = |name: &&str| Path::new(name).parent() == Some(Path::new(dir));
        let is_shown = |name: &str| listed.contains(&relative(self.number, name));
        let is_so = |world: &World| {
            let names = NAMES.iter().enumerate().filter(|(_, name)| here(name));
            names
                .into_iter()
                .all(|(index, name)| world.contains_key(&index) == is_shown(name))
        };
        if !self.worlds.seen(is_so) {
            let known: Vec<_> = (0..NAMES.len())
                .map(|name| self.worlds.lengths(name))
                .collect();
            let number = self.number;
            self.wrong(
                round,
                format!("{number}: {dir:?} is listed as {listed:?}, not as {known:?}"),
            );
        }
    }

    /// Whether what was found on the server can be.
    pub fn fits(&self, found: &[(PathBuf, Vec<u8>)]) -> bool {
        let found = self.own(found);
        self.worlds.fits(|world| *world == found)
    }

    /// That it must be.
    pub fn compare(&mut self, round: &Round, found: &[(PathBuf, Vec<u8>)]) {
        let found = self.own(found);
        if self.worlds.seen(|world| *world == found) {
            return;
        }
        for (name, text) in NAMES.iter().enumerate() {
            let has = found.get(&name);
            if !self.worlds.fits(|world| world.get(&name) == has) {
                let (has, known) = (has.map(Vec::len), self.worlds.lengths(name));
                let name = relative(self.number, text);
                self.wrong(
                    round,
                    format!(
                        "the server has {} as {has:?}, not {known:?}",
                        name.display()
                    ),
                );
            }
        }
        self.wrong(
            round,
            format!("the server has not what worker {} did", self.number),
        );
    }

    fn own(&self, found: &[(PathBuf, Vec<u8>)]) -> World {
        let names = NAMES.iter().enumerate().filter_map(|(index, name)| {
            let path = relative(self.number, name);
            let (_, content) = found.iter().find(|(found, _)| *found == path)?;
            Some((index, content.clone()))
        });
        names.collect()
    }

    /// Opens a file that need not be there.
    fn opened(
        &self,
        round: &Round,
        what: &str,
        open: impl FnOnce() -> io::Result<File>,
    ) -> Option<File> {
        let opened = round.call(what, open);
        if let Err(error) = &opened
            && error.kind() == io::ErrorKind::NotFound
        {
            self.wrong(round, format!("{what}: {error}"));
        }
        opened.ok()
    }

    /// What a call said settles what there is, or leaves it open.
    fn settle(
        &mut self,
        round: &Round,
        what: &str,
        outcome: io::Result<()>,
        change: impl Fn(&World) -> Option<World>,
    ) {
        let failed = outcome.as_ref().err().and_then(io::Error::raw_os_error);
        self.note(failed.map_or(what.to_owned(), |errno| format!("{what} ({errno})")));
        if outcome.is_err() {
            self.worlds.may_be(change);
        } else if !self.worlds.done(change) {
            self.wrong(round, format!("{what} worked on what was not there"));
        }
    }

    /// A call failed that needs the file; it may have said that there is none.
    fn missed(&mut self, round: &Round, what: &str, name: usize, error: &io::Error) {
        if error.kind() == io::ErrorKind::NotFound
            && !self.worlds.seen(|world| !world.contains_key(&name))
        {
            let known = self.worlds.lengths(name);
            let name = relative(self.number, NAMES[name]);
            self.wrong(
                round,
                format!("{what}: {} is gone, which has {known:?}", name.display()),
            );
        }
    }

    /// What a program was told to be on the server is there.
    fn on_server(&self, round: &Round, name: usize, expected: &[u8]) {
        let path = relative(self.number, NAMES[name]);
        let found = fs::read(round.served.path().join(&path));
        if !found.as_ref().is_ok_and(|found| found == expected) {
            let found = found.map(|found| found.len());
            let (path, len) = (path.display(), expected.len());
            self.wrong(
                round,
                format!("{path} was written with {len} bytes, and is {found:?}"),
            );
        }
    }

    fn note(&mut self, what: String) {
        self.history.truncate(HISTORY - 1);
        self.history.push_front(what);
    }

    fn wrong(&self, round: &Round, what: String) {
        let history: Vec<_> = self.history.iter().rev().map(String::as_str).collect();
        round.wrong(format!("{what}; after {}", history.join(", ")));
    }

    fn name(&mut self) -> usize {
        self.dice.below(NAMES.len() as u64) as usize
    }

    fn path(&self, round: &Round, name: usize) -> PathBuf {
        round.place.dir.join(relative(self.number, NAMES[name]))
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.stamp += 1;
        let most = self.dice.one_of(&[100, 5000, 60_000, 400_000]);
        tree::bytes(self.stamp, self.dice.below(most) as usize)
    }
}

/// Whether the server has all that was written to a file, if there is one.
fn sent(path: &Path) -> bool {
    match File::options().write(true).open(path) {
        Ok(file) => file.sync_all().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// close(2), with what it says.
fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file)?)
}
