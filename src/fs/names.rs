//! The names of an open directory, as readdir and readdirplus hand them out: `.`, `..`, then the
//! snapshot's entries in their order. Must not know where the snapshot comes from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Entry, Error, Fs, Ino, Patience, remaining};
use crate::cache::{Answer, Directory};
use crate::proto::{Name, RemotePath};
use crate::remote::{Attributes, FileKind};

/// The names of an open directory, from an offset on.
pub struct Names {
    pub(super) fs: Arc<Fs>,
    pub(super) ino: Ino,
    pub(super) path: RemotePath,
    pub(super) directory: Arc<Directory>,
    pub(super) next: u64,
}

/// One of [`Names`].
pub struct DirEntry<'a> {
    pub name: &'a [u8],
    pub ino: Ino,
    pub kind: FileKind,
    /// Where to go on after it.
    pub next: u64,
}

impl Names {
    /// Hands out the names without their attributes, until `add` says that it is full.
    pub fn each(&self, mut add: impl FnMut(DirEntry<'_>) -> bool) {
        if self.dots(&mut add) {
            return;
        }
        let mut numbers = self.fs.inodes.numbers(self.ino);
        for (next, (name, attributes)) in self.rest() {
            let Some(ino) = numbers(name, attributes) else {
                return;
            };
            let entry = DirEntry {
                name: name.as_bytes(),
                ino,
                kind: attributes.kind,
                next,
            };
            if add(entry) {
                return;
            }
        }
    }

    /// Hands out the names with their attributes, until `add` says that it is full. Each but `.`
    /// and `..`, which come without, counts as looked up.
    pub fn each_plus(&self, mut add: impl FnMut(DirEntry<'_>, Option<Entry>) -> bool) {
        if self.dots(&mut |entry| add(entry, None)) {
            return;
        }
        let now = Instant::now();
        for (next, (name, listed)) in self.rest() {
            let (fs, directory) = (&self.fs, &self.directory);
            let asked = fs.files.ask();
            let fresh = fs.cache.attributes_in(directory, &self.path, name, now);
            let (attributes, entry) = match fresh {
                Answer::Present(attributes, until) => {
                    let entry = fs.enter(self.ino, name, &attributes, remaining(until), asked);
                    (attributes, entry.ok())
                }
                // Removed since: a name that does not exist any more need not be shown.
                Answer::Absent(_) => continue,
                // Old news, of which nobody who reads the file is to hear.
                Answer::Unknown => {
                    let attributes = match fs.cache.told_in(directory, &self.path, name) {
                        Answer::Present(attributes, _) => attributes,
                        Answer::Absent(_) => continue,
                        Answer::Unknown => listed.clone(),
                    };
                    let ino = fs.inodes.enter(self.ino, name, &attributes);
                    let entry = ino.map(|ino| fs.entry(ino, &attributes, Duration::ZERO));
                    (attributes, entry)
                }
            };
            let Some(entry) = entry else { return };
            let ino = entry.attr.ino;
            let listed = DirEntry {
                name: name.as_bytes(),
                ino,
                kind: attributes.kind,
                next,
            };
            if add(listed, Some(entry)) {
                self.fs.forget(ino, 1);
                return;
            }
        }
    }

    /// `.` and `..`; whether that filled it.
    fn dots(&self, add: &mut impl FnMut(DirEntry<'_>) -> bool) -> bool {
        let parent = self.fs.inodes.parent(self.ino).unwrap_or(Ino::ROOT);
        let dots = [(&b"."[..], self.ino), (b"..", parent)];
        let from = usize::try_from(self.next).unwrap_or(usize::MAX);
        let mut dots = dots.into_iter().enumerate().skip(from);
        dots.any(|(index, (name, ino))| {
            add(DirEntry {
                name,
                ino,
                kind: FileKind::Directory,
                next: index as u64 + 1,
            })
        })
    }

    /// The entries beside `.` and `..`, each with the offset after it.
    fn rest(&self) -> impl Iterator<Item = (u64, &(Name, Attributes))> {
        let from = usize::try_from(self.next.saturating_sub(2)).unwrap_or(usize::MAX);
        let entries = self.directory.entries().iter().enumerate().skip(from);
        entries.map(|(index, entry)| (index as u64 + 3, entry))
    }
}

impl Fs {
    /// A directory as it is now: what the server tells of it, with files that it does not have yet
    /// and the sizes of those that it has.
    pub(super) fn directory(
        &self,
        ino: Ino,
        path: &RemotePath,
        patience: Patience,
    ) -> Result<Arc<Directory>, Error> {
        let before = self.drafts_in(ino);
        let directory = self.list(path, patience)?;
        let mut shown = self.drafts_in(ino);
        // What was uploaded meanwhile may be too new for the listing.
        for name in before.into_keys() {
            if let Answer::Present(attributes, _) = self.cache.told_in(&directory, path, &name) {
                shown.entry(name).or_insert(attributes);
            }
        }
        Ok(match shown.is_empty() {
            true => directory,
            false => Arc::new(directory.overlaid(shown)),
        })
    }

    /// The files of a directory that are being written.
    fn drafts_in(&self, ino: Ino) -> BTreeMap<Name, Attributes> {
        let mut found = BTreeMap::new();
        for draft in self.drafts.all() {
            if self.inodes.parent(draft.ino) == Some(ino)
                && let Some(name) = self.inodes.path(draft.ino).and_then(|path| path.name())
                // Else that is where it was set aside.
                && !self.inodes.is_unlinked(draft.ino)
                && let Ok(attributes) = draft.attributes()
            {
                found.insert(name, attributes);
            }
        }
        found
    }
}
