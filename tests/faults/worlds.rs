//! What some files may be by now: as long as everything succeeds there is one world; what failed may
//! have happened or not, and what is seen rules worlds out. Where none is left, something was lost or
//! was a lie.

use std::collections::BTreeMap;

/// Contents by the number of the name.
pub type World = BTreeMap<usize, Vec<u8>>;

pub struct Worlds(Vec<World>);

impl Worlds {
    /// There is nothing.
    pub fn new() -> Self {
        Self(vec![World::new()])
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// It was done; `None` of a world where that cannot be. Whether it can be at all.
    #[must_use]
    pub fn done(&mut self, change: impl Fn(&World) -> Option<World>) -> bool {
        let then: Vec<_> = self.0.iter().filter_map(change).collect();
        self.replace(then)
    }

    /// It was or was not done.
    pub fn may_be(&mut self, change: impl Fn(&World) -> Option<World>) {
        let mut then: Vec<_> = self.0.iter().filter_map(change).collect();
        then.append(&mut self.0);
        self.replace(then);
    }

    /// Only worlds where this is so. Whether it can be.
    #[must_use]
    pub fn seen(&mut self, is_so: impl Fn(&World) -> bool) -> bool {
        let then = self.0.iter().filter(|world| is_so(world)).cloned();
        let then = then.collect();
        self.replace(then)
    }

    /// Whether this is so in one of them.
    pub fn fits(&self, is_so: impl Fn(&World) -> bool) -> bool {
        self.0.iter().any(is_so)
    }

    /// What a file may be, for messages: its lengths.
    pub fn lengths(&self, name: usize) -> Vec<Option<usize>> {
        let mut lengths: Vec<_> = self.0.iter().map(|w| w.get(&name).map(Vec::len)).collect();
        lengths.sort_unstable();
        lengths.dedup();
        lengths
    }

    /// Where none would be left, all are kept, so that one loss is told once.
    fn replace(&mut self, then: Vec<World>) -> bool {
        let is_possible = !then.is_empty();
        if is_possible {
            self.0.clear();
            for world in then {
                if !self.0.contains(&world) {
                    self.0.push(world);
                }
            }
        }
        is_possible
    }
}

/// A file has that content now.
pub fn set(name: usize, content: &[u8]) -> impl Fn(&World) -> Option<World> {
    move |world| {
        let mut world = world.clone();
        world.insert(name, content.to_vec());
        Some(world)
    }
}

/// It has more at its end, and was made where there was none.
pub fn append(name: usize, bytes: &[u8]) -> impl Fn(&World) -> Option<World> {
    move |world| {
        let mut world = world.clone();
        world.entry(name).or_default().extend_from_slice(bytes);
        Some(world)
    }
}

/// Bytes of it were written over.
pub fn patch(name: usize, at: usize, bytes: &[u8]) -> impl Fn(&World) -> Option<World> {
    move |world| {
        let mut world = world.clone();
        let content = world.get_mut(&name)?;
        if !bytes.is_empty() && content.len() < at + bytes.len() {
            content.resize(at + bytes.len(), 0);
        }
        if let Some(place) = content.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        Some(world)
    }
}

/// It was cut, or made longer.
pub fn cut(name: usize, len: usize) -> impl Fn(&World) -> Option<World> {
    move |world| {
        let mut world = world.clone();
        world.get_mut(&name)?.resize(len, 0);
        Some(world)
    }
}

pub fn rename(from: usize, to: usize) -> impl Fn(&World) -> Option<World> {
    move |world| {
        let mut world = world.clone();
        let content = world.remove(&from)?;
        world.insert(to, content);
        Some(world)
    }
}

pub fn remove(name: usize) -> impl Fn(&World) -> Option<World> {
    move |world| {
        let mut world = world.clone();
        world.remove(&name)?;
        Some(world)
    }
}

#[test]
fn what_failed_may_be_until_it_is_seen() {
    let mut worlds = Worlds::new();
    assert!(worlds.done(set(1, b"old")));
    worlds.may_be(set(1, b"new"));
    worlds.may_be(rename(1, 2));
    assert_eq!(worlds.count(), 4);
    assert!(!worlds.done(remove(3)), "it never was");
    assert!(worlds.done(append(2, b"er")));
    assert!(!worlds.seen(|world| world.get(&2).is_some_and(|content| content == b"old")));
    assert!(worlds.seen(|world| world.get(&2).is_some_and(|content| content == b"newer")));
    assert_eq!((worlds.count(), worlds.lengths(1)), (1, vec![None]));
}
