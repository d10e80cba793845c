//! Temporary names on the server: content goes there first, and is renamed when it is whole.
//!
//! `.ftpsfs-MOUNT-TIME-NUMBER`: the mount's id, the time in hexadecimal seconds, and a number. A name
//! tells whose it is and how old, so that what a crash left can be removed. Where a file makes way
//! for another one its own name follows, for it to be put back under should that never come.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lru::LruCache;
use parking_lot::Mutex;

use super::NAME_MAX;
use crate::proto::{Name, RemotePath};

const PREFIX: &[u8] = b".ftpsfs-";
/// Of so many replaced files it is remembered that they are; all but a few are removed at once.
const SETTLED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Makes the temporary names of one mount, and knows which of them are in use.
#[derive(Debug)]
pub struct Temporaries {
    mount: AtomicU64,
    next: AtomicU32,
    names: Arc<Names>,
}

/// Leaf locks.
#[derive(Debug)]
struct Names {
    in_use: Mutex<HashSet<Name>>,
    /// Of what was replaced, and need not be put back.
    settled: Mutex<LruCache<Name, ()>>,
}

/// A temporary name in use: as long as this or a clone of it is there, its file is no leftover.
#[derive(Clone, Debug)]
pub struct Reserved {
    path: RemotePath,
    name: Name,
    claim: Arc<Claim>,
}

#[derive(Debug)]
struct Claim {
    name: Name,
    all: Arc<Names>,
}

/// What a temporary name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Temporary {
    /// The id of the mount that made it.
    pub mount: u64,
    pub made: SystemTime,
    pub holds: Holds,
}

/// What is under a temporary name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Nothing that is needed once its mount is gone: an upload, or a file that was unlinked.
    Spare,
    /// What made way for another file, and belongs back under this name until that is there;
    /// `None` where the name was too long to be told.
    Replaced(Option<Name>),
}

impl Temporaries {
    /// For a mount that no other is likely to have the id of, until it is told its own.
    pub fn new() -> Self {
        let random = RandomState::new();
        Self {
            mount: AtomicU64::new(random.hash_one(std::process::id())),
            // No name is used twice, though a mount begin twice within a second.
            next: AtomicU32::new(random.hash_one(SystemTime::now()) as u32),
            names: Arc::new(Names {
                in_use: Mutex::default(),
                settled: Mutex::new(LruCache::new(SETTLED)),
            }),
        }
    }

    /// The names are those of the mount `id` from now on: one that lasts longer than this process.
    pub fn belong_to(&self, id: u64) {
        self.mount.store(id, Ordering::Relaxed);
    }

    /// A new name in the directory of `path`, for what is not needed after a crash.
    pub fn beside(&self, path: &RemotePath) -> Reserved {
        self.claim(path, b"")
    }

    /// A new name in the directory of `path`, for what is there now and is about to be replaced.
    pub fn in_place_of(&self, path: &RemotePath) -> Reserved {
        let name = path.name();
        let mut ending = b"-".to_vec();
        ending.extend_from_slice(name.as_ref().map_or(b"", |name| name.as_bytes()));
        self.claim(path, &ending)
    }

    fn claim(&self, path: &RemotePath, ending: &[u8]) -> Reserved {
        let directory = path.parent().unwrap_or_else(RemotePath::root);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mount = self.mount.load(Ordering::Relaxed);
        let plain = [
            PREFIX,
            format!("{mount:016x}-{now:x}-{number:x}").as_bytes(),
        ]
        .concat();
        let fits = plain.len() + ending.len() <= NAME_MAX;
        let ending = if fits { ending } else { b"-" };
        let name = Name::parse(&[&plain, ending].concat());
        let name = name.expect("digits and the end of a path make a name");
        self.names.in_use.lock().insert(name.clone());
        Reserved {
            path: directory.join(&name),
            name: name.clone(),
            claim: Arc::new(Claim {
                name,
                all: self.names.clone(),
            }),
        }
    }

    /// Whether this mount made it, now or in an earlier life.
    pub fn made(&self, temporary: &Temporary) -> bool {
        temporary.mount == self.mount.load(Ordering::Relaxed)
    }

    /// Whether it is ours and needed.
    pub fn is_in_use(&self, name: &Name) -> bool {
        self.names.in_use.lock().contains(name)
    }

    /// Whether what is under a name of ours has been replaced for good.
    pub fn is_settled(&self, name: &Name) -> bool {
        self.names.settled.lock().contains(name)
    }
}

impl Default for Temporaries {
    fn default() -> Self {
        Self::new()
    }
}

impl Reserved {
    pub fn path(&self) -> &RemotePath {
        &self.path
    }

    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What replaces its file has come: it is not to be put back any more.
    pub fn settle(&self) {
        self.claim.all.settled.lock().put(self.name.clone(), ());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.all.in_use.lock().remove(&self.name);
    }
}

impl Temporary {
    /// `None` for names that are none of ours.
    pub fn parse(name: &Name) -> Option<Self> {
        let rest = name.as_bytes().strip_prefix(PREFIX)?;
        let mut parts = rest.splitn(4, |byte| *byte == b'-');
        let mut number = || {
            let digits = std::str::from_utf8(parts.next()?).ok()?;
            let number = u64::from_str_radix(digits, 16).ok()?;
            Some((digits.len(), number))
        };
        let (digits, mount) = number()?;
        let (_, made) = number()?;
        number()?;
        let holds = match parts.next() {
            None => Holds::Spare,
            Some(replaced) => Holds::Replaced(Name::parse(replaced).ok()),
        };
        (digits == 16).then_some(Self {
            mount,
            made: UNIX_EPOCH.checked_add(Duration::from_secs(made))?,
            holds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RemotePath {
        RemotePath::parse(text.as_bytes()).expect("a path")
    }

    #[test]
    fn a_name_tells_whose_it_is_and_how_old() {
        let (ours, theirs) = (Temporaries::new(), Temporaries::new());
        ours.belong_to(0xab);
        theirs.belong_to(0xac);
        let one = ours.beside(&path("/dir/file"));
        assert_eq!(one.path().parent(), Some(path("/dir")));
        let told = Temporary::parse(one.name()).expect("one of ours");
        assert!(ours.made(&told) && !theirs.made(&told));
        assert!(told.made.elapsed().expect("the past") < Duration::from_secs(5));
        assert_eq!(told.holds, Holds::Spare);
        assert_ne!(ours.beside(one.path()).name(), one.name());
    }

    #[test]
    fn what_is_replaced_keeps_its_name_where_that_fits() {
        let ours = Temporaries::new();
        let replaced = |name: &[u8]| {
            let name = Name::parse(name).expect("a name");
            let aside = ours.in_place_of(&path("/dir").join(&name));
            assert!(aside.name().as_bytes().len() <= NAME_MAX);
            Temporary::parse(aside.name()).expect("one of ours").holds
        };
        for name in [&b"plain"[..], b"-a-b-", b"\xff", b".ftpsfs-0"] {
            let name = Name::parse(name).expect("a name");
            assert_eq!(replaced(name.as_bytes()), Holds::Replaced(Some(name)));
        }
        assert_eq!(replaced(&[b'x'; 250]), Holds::Replaced(None));
    }

    #[test]
    fn a_name_is_in_use_until_its_last_holder_is_gone() {
        let ours = Temporaries::new();
        let one = ours.beside(&path("/file"));
        let name = one.name().clone();
        let other = one.clone();
        drop(one);
        assert!(ours.is_in_use(&name));
        drop(other);
        assert!(!ours.is_in_use(&name));
    }

    #[test]
    fn other_names_are_not_taken_for_temporary_ones() {
        for name in [
            ".ftpsfs-",
            ".ftpsfs",
            ".ftpsfs-1-2-3",
            ".ftpsfs-000000ab-1-1",
            ".ftpsfs-00000000000000ab-x-1",
            ".ftpsfs-00000000000000ab-1",
            "ftpsfs-00000000000000ab-1-1",
            ".ftpsfs-00000000000000ab-1-1.txt",
            ".ftpsfs-00000000000000ab-fffffffffffffffff-1",
            ".ftpsfs-00000000000000ab-ffffffffffffffff-1",
        ] {
            let name = Name::parse(name.as_bytes()).expect("a name");
            assert_eq!(Temporary::parse(&name), None, "{name}");
        }
    }
}
