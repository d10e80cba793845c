//! Servers that take `Readme.txt` and `README.TXT` for one file. [`Fs`] knows each file by the
//! spelling that its directory lists, so that nothing here is ever known twice. Another spelling
//! leads to the same file by an inode number of its own, an alias: the kernel takes two names of one
//! inode for hard links, and a rename from one to the other for nothing at all, while here it
//! changes the spelling.
//!
//! The kernel, which compares names by their bytes, must believe none of them for a while.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use parking_lot::Mutex;

use super::inodes::{Ino, Inodes, hash};
use super::{Error, Fs, Patience};
use crate::proto::Name;

/// The other numbers of files. One leaf mutex.
#[derive(Default)]
pub(super) struct Aliases(Mutex<HashMap<Ino, Alias>>);

struct Alias {
    of: Ino,
    /// How often the kernel was told of it; each is a lookup of the file as well.
    lookups: u64,
}

impl Aliases {
    /// The number of a file under another spelling. Counts as a lookup.
    fn enter(&self, of: Ino, name: &Name, inodes: &Inodes) -> Ino {
        let mut aliases = self.0.lock();
        let seed = [&of.0.to_ne_bytes(), name.as_bytes()].concat();
        let mut number = Ino(hash(&seed).max(Ino::ROOT.0 + 1));
        loop {
            match aliases.entry(number) {
                Entry::Occupied(mut alias) if alias.get().of == of => {
                    alias.get_mut().lookups += 1;
                    return number;
                }
                Entry::Vacant(vacant) if inodes.kind(number).is_none() => {
                    vacant.insert(Alias { of, lookups: 1 });
                    return number;
                }
                _ => number = Ino(number.0.wrapping_add(1).max(Ino::ROOT.0 + 1)),
            }
        }
    }

    fn actual(&self, ino: Ino) -> Ino {
        self.0.lock().get(&ino).map_or(ino, |alias| alias.of)
    }

    fn forget(&self, ino: Ino, count: u64) -> Ino {
        let mut aliases = self.0.lock();
        let Entry::Occupied(mut alias) = aliases.entry(ino) else {
            return ino;
        };
        let of = alias.get().of;
        alias.get_mut().lookups = alias.get().lookups.saturating_sub(count);
        if alias.get().lookups == 0 {
            alias.remove();
        }
        of
    }
}

impl Fs {
    /// The file that a number stands for: itself, or an alias.
    pub fn actual(&self, ino: Ino) -> Ino {
        match &self.aliases {
            Some(aliases) => aliases.actual(ino),
            None => ino,
        }
    }

    /// The same, when `count` lookups of it are taken back.
    pub(super) fn forgotten(&self, ino: Ino, count: u64) -> Ino {
        match &self.aliases {
            Some(aliases) => aliases.forget(ino, count),
            None => ino,
        }
    }

    /// The number under which the kernel knows `ino`, looked up as `asked` and called `name`.
    pub(super) fn known_as(&self, ino: Ino, asked: &Name, name: &Name) -> Ino {
        match &self.aliases {
            Some(aliases) if asked != name => aliases.enter(ino, asked, &self.inodes),
            _ => ino,
        }
    }

    /// How long the kernel may believe what it is told.
    pub(super) fn kernel_may_believe(&self, ttl: Duration) -> Duration {
        match self.aliases {
            Some(_) => Duration::ZERO,
            None => ttl,
        }
    }

    /// The name as its directory spells it; the same where there is none such.
    pub(super) fn spelling(
        &self,
        parent: Ino,
        name: Name,
        patience: Patience,
    ) -> Result<Name, Error> {
        if self.aliases.is_none() {
            return Ok(name);
        }
        let path = self.live_path(parent)?;
        let directory = match self.directory(parent, &path, patience) {
            Ok(directory) => directory,
            Err(Error::Remote { cause, .. }) if !cause.is_open() => return Ok(name),
            Err(error) => return Err(error),
        };
        let entries = directory.entries();
        if entries.binary_search_by(|(n, _)| n.cmp(&name)).is_ok() {
            return Ok(name);
        }
        let wanted = name.folded();
        let found = entries.iter().find(|(n, _)| n.folded() == wanted);
        Ok(found.map_or(name, |(found, _)| found.clone()))
    }
}
