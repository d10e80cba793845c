//! The inode table: which numbers the kernel knows, and what path each stands for now.
//!
//! A node knows its parent and its own name only, so a directory is renamed at no cost, and a
//! node keeps its parent alive. Numbers survive forgetting and remounting: they come from what
//! the server calls `unique`, or from the path, by a hash with fixed keys.
//!
//! Must not know attributes' ages, caches or the server. One leaf mutex, held for memory work only.

use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use foldhash::{HashMap, HashMapExt as _};
use parking_lot::Mutex;

use crate::proto::{Name, RemotePath};
use crate::remote::{Attributes, FileKind, Reserved};

/// An inode number, as stat(2) shows it and as the kernel addresses the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    pub const ROOT: Ino = Ino(1);
}

/// What identifies a content in the kernel's page cache: size and time.
pub(super) type Stamp = (u64, SystemTime);

/// See the module.
pub(super) struct Inodes {
    root: RemotePath,
    nodes: Mutex<HashMap<Ino, Node>>,
    /// Counts the names that were given or taken away.
    moves: AtomicU64,
}

/// A moment, by the names that were given and taken away until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

struct Node {
    /// Itself for the root.
    parent: Ino,
    name: Option<Name>,
    kind: FileKind,
    /// How often the kernel was told of it, and how often it is open.
    lookups: u64,
    /// The nodes that are called by a name in it.
    children: HashMap<Name, Child>,
    /// How many nodes have it as their parent: those in `children`, and those whose name there
    /// has gone to another file.
    dependents: usize,
    /// The content that the kernel's page cache may hold.
    cached: Option<Stamp>,
    /// The size that the kernel was told last; what programs wrote since it knows by itself.
    told: Option<u64>,
    /// What becomes of its path.
    standing: Standing,
    /// When its name was last given or taken away.
    moved: Moment,
}

/// What a listing of many names tells of each without a look at its node.
#[derive(Clone, Copy)]
struct Child {
    ino: Ino,
    kind: FileKind,
}

/// Whether a node still has a name in its directory.
#[derive(Debug)]
enum Standing {
    Named,
    /// Unlinked, but still on the server under a name that nobody else knows.
    Aside(Reserved),
    /// Unlinked, and nowhere on the server.
    Gone,
}

impl Inodes {
    /// A table with the root alone, which stands for `root` on the server.
    pub fn new(root: RemotePath) -> Self {
        let node = Node::new(Ino::ROOT, None, FileKind::Directory);
        Self {
            root,
            nodes: Mutex::new(HashMap::from_iter([(Ino::ROOT, node)])),
            moves: AtomicU64::new(0),
        }
    }

    /// To be called before a path is asked for that is to be used.
    pub fn moment(&self) -> Moment {
        Moment(self.moves.load(Ordering::SeqCst))
    }

    /// Whether the path of a node is another since, or was in between: its own name or that of a directory on
    /// the way to it was given or taken away.
    pub fn has_moved(&self, ino: Ino, since: Moment) -> bool {
        let nodes = self.nodes.lock();
        way(&nodes, ino).any(|(_, node)| node.moved > since)
    }

    /// A node, and the directories on the way to it.
    pub fn way(&self, ino: Ino) -> Vec<Ino> {
        way(&self.nodes.lock(), ino).map(|(ino, _)| ino).collect()
    }

    /// Notes in a node that its name was given or taken away.
    fn moves(&self, node: &mut Node) {
        node.moved = Moment(self.moves.fetch_add(1, Ordering::SeqCst) + 1);
    }

    /// The path of a live node.
    pub fn path(&self, ino: Ino) -> Option<RemotePath> {
        path(&self.nodes.lock(), &self.root, ino)
    }

    /// The directory that holds a live node; the root holds itself.
    pub fn parent(&self, ino: Ino) -> Option<Ino> {
        Some(self.nodes.lock().get(&ino)?.parent)
    }

    /// What a live node is, and remains.
    pub fn kind(&self, ino: Ino) -> Option<FileKind> {
        Some(self.nodes.lock().get(&ino)?.kind)
    }

    /// Finds or makes the node of `name` in `parent`, and counts one lookup of it. `None` where
    /// the parent is not live.
    pub fn enter(&self, parent: Ino, name: &Name, attributes: &Attributes) -> Option<Ino> {
        let nodes = &mut *self.nodes.lock();
        let path = || path(nodes, &self.root, parent);
        let ino = number(nodes, parent, name, attributes, &mut None, path)?;
        match nodes.entry(ino) {
            Entry::Occupied(mut node) => node.get_mut().lookups += 1,
            Entry::Vacant(vacant) => {
                let mut node = Node::new(parent, Some(name.clone()), attributes.kind);
                node.lookups = 1;
                vacant.insert(node);
                let parent = nodes.get_mut(&parent)?;
                // What bore the name before is another file: it stays for those who hold it.
                let kind = attributes.kind;
                parent.children.insert(name.clone(), Child { ino, kind });
                parent.dependents += 1;
            }
        }
        Some(ino)
    }

    /// The numbers that [`Inodes::enter`] would give to what is in `parent`; the table is locked
    /// meanwhile.
    pub fn numbers(&self, parent: Ino) -> impl FnMut(&Name, &Attributes) -> Option<Ino> {
        let nodes = self.nodes.lock();
        let mut directory = None;
        move |name, attributes| {
            let path = || path(&nodes, &self.root, parent);
            number(&nodes, parent, name, attributes, &mut directory, path)
        }
    }

    /// The node that is called `name` in `parent`, where it is live.
    pub fn child(&self, parent: Ino, name: &Name) -> Option<Ino> {
        Some(self.nodes.lock().get(&parent)?.children.get(name)?.ino)
    }

    /// Whether a live node has lost its name.
    pub fn is_unlinked(&self, ino: Ino) -> bool {
        let nodes = self.nodes.lock();
        nodes
            .get(&ino)
            .is_some_and(|n| !matches!(n.standing, Standing::Named))
    }

    /// Where an unlinked file was set aside on the server.
    pub fn aside(&self, ino: Ino) -> Option<RemotePath> {
        let nodes = self.nodes.lock();
        match nodes.get(&ino)?.standing {
            Standing::Aside(_) => path(&nodes, &self.root, ino),
            Standing::Named | Standing::Gone => None,
        }
    }

    /// A name was removed: whoever holds its node keeps it. With `aside` the file is still on the
    /// server, in the same directory under that name.
    pub fn unlink(&self, parent: Ino, name: &Name, aside: Option<Reserved>) {
        let nodes = &mut *self.nodes.lock();
        let Some(parent) = nodes.get_mut(&parent) else {
            return;
        };
        if let Some(child) = parent.children.remove(name)
            && let Some(node) = nodes.get_mut(&child.ino)
        {
            node.standing = aside.map_or(Standing::Gone, Standing::Aside);
            self.moves(node);
        }
    }

    /// The files of a directory that were set aside there, and where they are.
    pub fn asides(&self, directory: Ino) -> Vec<(Ino, RemotePath)> {
        let nodes = self.nodes.lock();
        let aside = |(ino, node): (&Ino, &Node)| match node.standing {
            Standing::Aside(_) if node.parent == directory => {
                Some((*ino, path(&nodes, &self.root, *ino)?))
            }
            _ => None,
        };
        nodes.iter().filter_map(aside).collect()
    }

    /// A file that was set aside is now in the directory `to`, for its own is about to go.
    pub fn move_aside(&self, ino: Ino, to: Ino, aside: Reserved) {
        let nodes = &mut *self.nodes.lock();
        let Some(target) = nodes.get_mut(&to) else {
            return;
        };
        target.dependents += 1;
        let from = match nodes.get_mut(&ino) {
            Some(node) if matches!(node.standing, Standing::Aside(_)) => {
                node.standing = Standing::Aside(aside);
                self.moves(node);
                std::mem::replace(&mut node.parent, to)
            }
            _ => to,
        };
        if let Some(node) = nodes.get_mut(&from) {
            node.dependents -= 1;
        }
        reap(nodes, from);
    }

    /// A file that was set aside was removed for good, or its name is another's.
    pub fn vanish(&self, ino: Ino) {
        let nodes = &mut *self.nodes.lock();
        let Some(node) = nodes.get_mut(&ino) else {
            return;
        };
        node.standing = Standing::Gone;
        self.moves(node);
        disown(nodes, ino);
    }

    /// `name` in `parent` is now `to_name` in `to`: its node goes along, and with it all below. What
    /// was called so before has no name any more.
    pub fn rename(&self, parent: Ino, name: &Name, to: Ino, to_name: &Name) {
        let nodes = &mut *self.nodes.lock();
        let moved = match nodes.get_mut(&parent) {
            Some(node) => node.children.remove(name),
            None => None,
        };
        let replaced = match nodes.get_mut(&to) {
            Some(node) => node.children.remove(to_name),
            None => None,
        };
        if let Some(replaced) = replaced.and_then(|child| nodes.get_mut(&child.ino)) {
            replaced.standing = Standing::Gone;
            self.moves(replaced);
        }
        let Some(moved) = moved else { return };
        if !nodes.contains_key(&to) {
            // The kernel holds the directory that it names: this cannot be.
            return;
        }
        if let Some(node) = nodes.get_mut(&moved.ino) {
            node.parent = to;
            node.name = Some(to_name.clone());
            self.moves(node);
        }
        if let Some(node) = nodes.get_mut(&to) {
            node.children.insert(to_name.clone(), moved);
            node.dependents += 1;
        }
        if let Some(node) = nodes.get_mut(&parent) {
            node.dependents -= 1;
        }
        reap(nodes, parent);
    }

    /// Counts one more lookup of a live node.
    pub fn hold(&self, ino: Ino) -> bool {
        match self.nodes.lock().get_mut(&ino) {
            Some(node) => {
                node.lookups += 1;
                true
            }
            None => false,
        }
    }

    /// Takes back `count` lookups. A node without lookups that is nobody's parent goes, and its
    /// parent with it where that was kept by it alone.
    pub fn forget(&self, ino: Ino, count: u64) {
        let nodes = &mut *self.nodes.lock();
        if let Some(node) = nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
        }
        reap(nodes, ino);
    }

    /// The kernel is told the size of a node.
    pub fn tell(&self, ino: Ino, size: u64) {
        if let Some(node) = self.nodes.lock().get_mut(&ino) {
            node.told = Some(size);
        }
    }

    /// Whether the kernel may believe that a node is shorter than that.
    pub fn was_told_less(&self, ino: Ino, size: u64) -> bool {
        let nodes = self.nodes.lock();
        let told = nodes.get(&ino).and_then(|node| node.told);
        told.is_some_and(|told| told < size)
    }

    /// Notes the content about to be read through the kernel's page cache; whether that may keep
    /// what it has, being of the same content.
    pub fn caches(&self, ino: Ino, stamp: Stamp) -> bool {
        match self.nodes.lock().get_mut(&ino) {
            Some(node) => node.cached.replace(stamp) == Some(stamp),
            None => false,
        }
    }
}

impl Node {
    fn new(parent: Ino, name: Option<Name>, kind: FileKind) -> Self {
        Self {
            parent,
            name,
            kind,
            lookups: 0,
            children: HashMap::new(),
            dependents: 0,
            cached: None,
            told: None,
            standing: Standing::Named,
            moved: Moment(0),
        }
    }
}

/// Removes a node that nobody needs any more, and its parent where that was kept by it alone.
fn reap(nodes: &mut HashMap<Ino, Node>, mut ino: Ino) {
    while ino != Ino::ROOT
        && let Some(node) = nodes.get(&ino)
        && node.lookups == 0
        && node.dependents == 0
    {
        disown(nodes, ino);
        let Some(node) = nodes.remove(&ino) else {
            return;
        };
        if let Some(parent) = nodes.get_mut(&node.parent) {
            parent.dependents -= 1;
        }
        ino = node.parent;
    }
}

/// Takes the name from a node in its parent, unless another bears it by now.
fn disown(nodes: &mut HashMap<Ino, Node>, ino: Ino) {
    if let Some(node) = nodes.get(&ino)
        && let (parent, Some(name)) = (node.parent, node.name.clone())
        && let Some(parent) = nodes.get_mut(&parent)
        && parent
            .children
            .get(&name)
            .is_some_and(|child| child.ino == ino)
    {
        parent.children.remove(&name);
    }
}

/// From a node up to the root.
fn way(nodes: &HashMap<Ino, Node>, ino: Ino) -> impl Iterator<Item = (Ino, &Node)> {
    let node = |ino| Some((ino, nodes.get(&ino)?));
    std::iter::successors(node(ino), move |(ino, below)| match *ino {
        Ino::ROOT => None,
        _ => node(below.parent),
    })
}

fn path(nodes: &HashMap<Ino, Node>, root: &RemotePath, ino: Ino) -> Option<RemotePath> {
    let mut names = Vec::new();
    let mut node = nodes.get(&ino)?;
    while let Some(name) = &node.name {
        names.push(match &node.standing {
            Standing::Named => name,
            Standing::Aside(aside) => aside.name(),
            Standing::Gone => return None,
        });
        node = nodes.get(&node.parent)?;
    }
    let join = |path: RemotePath, name: &&Name| path.join(name);
    Some(names.iter().rev().fold(root.clone(), join))
}

/// `directory`: the parent's path, once it was needed.
fn number(
    nodes: &HashMap<Ino, Node>,
    parent: Ino,
    name: &Name,
    attributes: &Attributes,
    directory: &mut Option<RemotePath>,
    path: impl FnOnce() -> Option<RemotePath>,
) -> Option<Ino> {
    // A live name keeps its number, but not when its file has become a directory or a link: the kernel
    // never forgives an inode that changes its type.
    if let Some(child) = nodes.get(&parent)?.children.get(name)
        && child.kind == attributes.kind
    {
        return Some(child.ino);
    }
    // Not for directories: ProFTPD shows a link as its target, so two paths may carry the same
    // `unique`, and one directory must not be in two places.
    if attributes.kind == FileKind::File
        && let Some(unique) = attributes.unique
        && unique > Ino::ROOT.0
        && !nodes.contains_key(&Ino(unique))
    {
        return Some(Ino(unique));
    }
    if directory.is_none() {
        *directory = path();
    }
    let mut ino = hash(directory.as_ref()?.join(name).as_bytes());
    while ino <= Ino::ROOT.0 || nodes.contains_key(&Ino(ino)) {
        ino = ino.wrapping_add(1);
    }
    Some(Ino(ino))
}

/// FNV-1a, with its bits mixed once more: the same number on every mount.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

#[cfg(test)]
mod tests;
