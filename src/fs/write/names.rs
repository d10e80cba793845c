//! The names under which files are uploaded before they have their own.
//!
//! Must not know the server or the kernel.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::fs::NAME_MAX;
use crate::proto::{Name, RemotePath};

/// What the user wants temporary names to look like: `%` stands for the file's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TempName {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl TempName {
    /// Takes a name with exactly one `%` and something beside it.
    pub fn parse(pattern: &[u8]) -> Option<Self> {
        Name::parse(pattern).ok()?;
        let mut parts = pattern.split(|byte| *byte == b'%');
        let (before, after) = (parts.next()?.to_vec(), parts.next()?.to_vec());
        let is_sound = parts.next().is_none() && !(before.is_empty() && after.is_empty());
        is_sound.then_some(Self { before, after })
    }

    /// For a file of that name; `None` where it becomes too long.
    pub fn fill(&self, name: &Name) -> Option<Name> {
        let filled = [&self.before, name.as_bytes(), &self.after].concat();
        Name::parse(&filled)
            .ok()
            .filter(|_| filled.len() <= NAME_MAX)
    }
}

/// Temporary names in use now. A leaf lock.
#[derive(Default)]
pub(super) struct Active(Arc<Mutex<HashSet<RemotePath>>>);

/// A name in use, until it is dropped.
#[derive(Debug)]
pub(super) struct InUse {
    path: RemotePath,
    all: Arc<Mutex<HashSet<RemotePath>>>,
}

impl Active {
    pub fn contains(&self, path: &RemotePath) -> bool {
        self.0.lock().contains(path)
    }

    /// Takes a name; `None` where it is taken.
    pub fn take(&self, path: &RemotePath) -> Option<InUse> {
        let is_free = self.0.lock().insert(path.clone());
        is_free.then(|| InUse {
            path: path.clone(),
            all: self.0.clone(),
        })
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.all.lock().remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let fill = |pattern: &str, name: &str| {
            let name = Name::parse(name.as_bytes()).expect("a name");
            let filled = TempName::parse(pattern.as_bytes())?.fill(&name)?;
            Some(filled.to_string())
        };
        assert_eq!(fill(".%.part", "a b").as_deref(), Some(".a b.part"));
        assert_eq!(fill("%.tmp", "x").as_deref(), Some("x.tmp"));
        for wrong in ["%", "plain", "%%", "a/%", ""] {
            assert_eq!(fill(wrong, "x"), None, "{wrong}");
        }
        assert_eq!(fill("%.part", &"x".repeat(253)), None);
    }

    #[test]
    fn a_name_is_used_once_at_a_time() {
        let active = Active::default();
        let path = RemotePath::parse(b"/a").expect("a path");
        let held = active.take(&path);
        assert!(held.is_some() && active.contains(&path) && active.take(&path).is_none());
        drop(held);
        assert!(!active.contains(&path));
    }
}
