//! Temporary names on the server: content goes there first, and is renamed when it is whole.
//!
//! `.ftpsfs-MOUNT-TIME-NUMBER`: the mount's id, the time in hexadecimal seconds, and a counter. A
//! name tells whose it is and how old.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::proto::{Name, RemotePath};

const PREFIX: &str = ".ftpsfs-";

/// Makes the temporary names of one mount.
#[derive(Debug)]
pub struct Temporaries {
    mount: u32,
    next: AtomicU32,
}

/// What a temporary name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Temporary {
    /// The id of the mount that made it.
    pub mount: u32,
    pub made: SystemTime,
}

impl Temporaries {
    /// `mount`: an id that no other mount of the server is likely to have.
    pub fn new(mount: u32) -> Self {
        Self {
            mount,
            next: AtomicU32::new(0),
        }
    }

    /// A new name in the directory of `path`.
    pub fn beside(&self, path: &RemotePath) -> RemotePath {
        let directory = path.parent().unwrap_or_else(RemotePath::root);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{:08x}-{now:x}-{number:x}", self.mount);
        match Name::parse(name.as_bytes()) {
            Ok(name) => directory.join(&name),
            // Cannot be: the name is plain.
            Err(_) => directory,
        }
    }

    /// Whether this mount made it.
    pub fn made(&self, temporary: Temporary) -> bool {
        temporary.mount == self.mount
    }
}

impl Temporary {
    /// `None` for names that are none of ours.
    pub fn parse(name: &Name) -> Option<Self> {
        let rest = std::str::from_utf8(name.as_bytes())
            .ok()?
            .strip_prefix(PREFIX)?;
        let mut parts = rest.split('-');
        let (mount, made, number) = (parts.next()?, parts.next()?, parts.next()?);
        if mount.len() != 8 || parts.next().is_some() {
            return None;
        }
        u32::from_str_radix(number, 16).ok()?;
        let seconds = Duration::from_secs(u64::from_str_radix(made, 16).ok()?);
        Some(Self {
            mount: u32::from_str_radix(mount, 16).ok()?,
            made: UNIX_EPOCH.checked_add(seconds)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whose_it_is_and_how_old() {
        let ours = Temporaries::new(0xab);
        let path = ours.beside(&RemotePath::parse(b"/dir/file").expect("a path"));
        assert_eq!(path.parent(), RemotePath::parse(b"/dir").ok());
        let name = path.name().expect("a name");
        let told = Temporary::parse(&name).expect("one of ours");
        assert!(ours.made(told) && !Temporaries::new(0xac).made(told));
        assert!(told.made.elapsed().expect("the past") < Duration::from_secs(5));
        assert_ne!(ours.beside(&path), path);
    }

    #[test]
    fn other_names_are_not_taken_for_temporary_ones() {
        for name in [
            ".ftpsfs-",
            ".ftpsfs",
            ".ftpsfs-1-2-3",
            ".ftpsfs-000000ab-x-1",
            ".ftpsfs-000000ab-1",
            "ftpsfs-000000ab-1-1",
            ".ftpsfs-000000ab-1-1-1",
            ".ftpsfs-000000ab-1-1.txt",
        ] {
            let name = Name::parse(name.as_bytes()).expect("a name");
            assert_eq!(Temporary::parse(&name), None, "{name}");
        }
    }
}
