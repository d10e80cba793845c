//! Numbers that stay, nodes that go.

use proptest::prelude::*;

use super::super::tests::file;
use super::*;
use crate::remote::Temporaries;

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn table() -> Inodes {
    Inodes::new(RemotePath::parse(b"/base").unwrap())
}

fn directory() -> Attributes {
    Attributes {
        kind: FileKind::Directory,
        ..file(0)
    }
}

fn unique(unique: u64) -> Attributes {
    Attributes {
        unique: Some(unique),
        ..file(0)
    }
}

fn shown(table: &Inodes, ino: Ino) -> Option<String> {
    Some(table.path(ino)?.to_string())
}

#[test]
fn paths_are_built_from_names() {
    let table = table();
    assert_eq!(shown(&table, Ino::ROOT).unwrap(), "/base");
    let a = table.enter(Ino::ROOT, &name("a"), &directory()).unwrap();
    let b = table.enter(a, &name("b"), &file(1)).unwrap();
    assert_eq!(shown(&table, b).unwrap(), "/base/a/b");
    assert_eq!(table.parent(b), Some(a));
    assert_eq!(table.parent(Ino::ROOT), Some(Ino::ROOT));
    assert_eq!(table.enter(a, &name("b"), &file(1)), Some(b));
}

/// There and back again is a move as well: what was asked for in between was asked for elsewhere.
#[test]
fn a_file_moves_with_the_directories_above_it() {
    let table = table();
    let enter = |parent, text| table.enter(parent, &name(text), &directory()).unwrap();
    let a = enter(Ino::ROOT, "a");
    let (inner, other) = (enter(a, "inner"), enter(Ino::ROOT, "other"));
    let moved = table.enter(inner, &name("f"), &file(1)).unwrap();
    assert_eq!(table.way(moved), [moved, inner, a, Ino::ROOT]);
    let before = table.moment();
    table.rename(Ino::ROOT, &name("a"), Ino::ROOT, &name("b"));
    table.rename(Ino::ROOT, &name("b"), Ino::ROOT, &name("a"));
    assert_eq!(shown(&table, moved).unwrap(), "/base/a/inner/f");
    assert!(table.has_moved(moved, before) && !table.has_moved(other, before));
    assert!(!table.has_moved(moved, table.moment()));
    table.unlink(inner, &name("f"), None);
    assert!(table.has_moved(moved, before) && table.has_moved(inner, before));
    let before = table.moment();
    table.rename(Ino::ROOT, &name("a"), Ino::ROOT, &name("other"));
    assert!(table.has_moved(other, before), "it was replaced");
}

#[test]
fn numbers_survive_forgetting_and_remounting() {
    let first = table();
    let a = first.enter(Ino::ROOT, &name("a"), &directory()).unwrap();
    let b = first.enter(a, &name("b"), &file(1)).unwrap();
    first.forget(b, 1);
    first.forget(a, 1);
    let second = table();
    for table in [first, second] {
        assert_eq!(table.enter(Ino::ROOT, &name("a"), &directory()), Some(a));
        assert_eq!(table.numbers(a)(&name("b"), &file(1)), Some(b));
        assert_eq!(table.enter(a, &name("b"), &file(1)), Some(b));
    }
}

#[test]
fn the_servers_unique_numbers_files_but_no_directories() {
    let table = table();
    let a = table.enter(Ino::ROOT, &name("a"), &unique(77)).unwrap();
    assert_eq!(a, Ino(77));
    // The same file by another path (a link shown as its target) has a number of its own.
    let b = table.enter(Ino::ROOT, &name("b"), &unique(77)).unwrap();
    assert_ne!(b, a);
    assert_eq!(shown(&table, a).unwrap(), "/base/a");
    assert_eq!(shown(&table, b).unwrap(), "/base/b");
    let d = Attributes {
        unique: Some(78),
        ..directory()
    };
    assert_ne!(table.enter(Ino::ROOT, &name("d"), &d), Some(Ino(78)));
    // 1 is the root's.
    assert_ne!(table.enter(Ino::ROOT, &name("e"), &unique(1)), Some(Ino(1)));
}

#[test]
fn colliding_hashes_probe_on() {
    let table = table();
    let wanted = table.numbers(Ino::ROOT)(&name("a"), &file(1)).unwrap();
    // Another file already has that number.
    let other = unique(wanted.0);
    assert_eq!(table.enter(Ino::ROOT, &name("x"), &other), Some(wanted));
    let a = table.enter(Ino::ROOT, &name("a"), &file(1)).unwrap();
    assert_eq!(a.0, wanted.0 + 1);
}

#[test]
fn a_file_that_became_a_directory_is_another_inode() {
    let table = table();
    let old = table.enter(Ino::ROOT, &name("a"), &file(1)).unwrap();
    let new = table.enter(Ino::ROOT, &name("a"), &directory()).unwrap();
    assert_ne!(old, new);
    assert_eq!(table.enter(Ino::ROOT, &name("a"), &directory()), Some(new));
    // Forgetting the old one does not take the name from the new.
    table.forget(old, 1);
    assert_eq!(table.path(old), None);
    assert_eq!(table.enter(Ino::ROOT, &name("a"), &directory()), Some(new));
}

#[test]
fn a_file_that_became_a_link_is_another_inode() {
    let table = table();
    let link = Attributes {
        kind: FileKind::Symlink,
        ..file(1)
    };
    let old = table.enter(Ino::ROOT, &name("a"), &unique(77)).unwrap();
    let new = table.enter(Ino::ROOT, &name("a"), &link).unwrap();
    assert_ne!(old, new);
    assert_eq!(table.kind(old), Some(FileKind::File));
    assert_eq!(table.kind(new), Some(FileKind::Symlink));
    // And back again.
    let third = table.enter(Ino::ROOT, &name("a"), &unique(77)).unwrap();
    assert!(third != old && third != new);
}

#[test]
fn children_keep_their_parents() {
    let table = table();
    let a = table.enter(Ino::ROOT, &name("a"), &directory()).unwrap();
    let b = table.enter(a, &name("b"), &directory()).unwrap();
    let c = table.enter(b, &name("c"), &file(1)).unwrap();
    table.forget(a, 1);
    table.forget(b, 1);
    assert_eq!(shown(&table, c).unwrap(), "/base/a/b/c");
    assert!(table.hold(c));
    table.forget(c, 1);
    assert!(table.path(c).is_some());
    table.forget(c, 1);
    assert_eq!(table.nodes.lock().len(), 1);
    assert!(!table.hold(c));
    // The kernel may not count as we do; the root stays all the same.
    table.forget(Ino::ROOT, u64::MAX);
    assert!(table.path(Ino::ROOT).is_some());
}

#[test]
fn the_page_cache_is_kept_for_the_same_content_only() {
    let table = table();
    let a = table.enter(Ino::ROOT, &name("a"), &file(1)).unwrap();
    let epoch = SystemTime::UNIX_EPOCH;
    assert!(!table.caches(a, (1, epoch)));
    assert!(table.caches(a, (1, epoch)));
    assert!(!table.caches(a, (2, epoch)));
    table.forget(a, 1);
    assert!(!table.caches(a, (2, epoch)));
}

proptest! {
    /// Whatever is entered and forgotten: numbers are never shared, names resolve to themselves,
    /// and when all is forgotten, nothing is left.
    #[test]
    fn entering_and_forgetting_balance(
        steps in prop::collection::vec((0..6usize, 0..3u8, 0..3u64, any::<bool>()), 1..60)
    ) {
        let table = table();
        let mut live = vec![Ino::ROOT];
        let mut counts: HashMap<Ino, u64> = HashMap::new();
        for (at, letter, unique_of, is_directory) in steps {
            let parent = live[at % live.len()];
            let name = name(&letter.to_string());
            let attributes = match (is_directory, unique_of) {
                (true, _) => directory(),
                (false, 0) => file(1),
                (false, n) => unique(n + 1),
            };
            let foreseen = table.numbers(parent)(&name, &attributes);
            let entered = table.enter(parent, &name, &attributes);
            prop_assert_eq!(foreseen, entered);
            match entered {
                None => prop_assert!(table.path(parent).is_none()),
                Some(ino) => {
                    prop_assert!(ino.0 > 1);
                    let expected = table.path(parent).unwrap().join(&name);
                    prop_assert_eq!(table.path(ino), Some(expected));
                    *counts.entry(ino).or_default() += 1;
                    live.push(ino);
                }
            }
            if at == 5 && let Some((&ino, _)) = counts.iter().next() {
                let count = counts.remove(&ino).unwrap();
                table.forget(ino, count);
            }
        }
        for (ino, count) in counts {
            table.forget(ino, count);
        }
        prop_assert_eq!(table.nodes.lock().len(), 1);
    }
}

#[test]
fn a_renamed_node_keeps_its_number_and_takes_all_below_along() {
    let table = table();
    let a = table.enter(Ino::ROOT, &name("a"), &directory()).unwrap();
    let b = table.enter(Ino::ROOT, &name("b"), &directory()).unwrap();
    let file_ = table.enter(a, &name("f"), &file(1)).unwrap();
    let target = table.enter(b, &name("g"), &file(1)).unwrap();
    table.rename(a, &name("f"), b, &name("g"));
    assert_eq!(shown(&table, file_).unwrap(), "/base/b/g");
    assert_eq!(table.child(b, &name("g")), Some(file_));
    assert_eq!(table.child(a, &name("f")), None);
    assert!(table.is_unlinked(target) && !table.is_unlinked(file_));
    assert_eq!(shown(&table, target), None);
    table.rename(Ino::ROOT, &name("b"), a, &name("c"));
    assert_eq!(shown(&table, file_).unwrap(), "/base/a/c/g");
    for ino in [target, file_, b, a] {
        table.forget(ino, 1);
    }
    assert_eq!(table.nodes.lock().len(), 1);
}

#[test]
fn an_unlinked_node_lives_on_without_its_name() {
    let table = table();
    let one = table.enter(Ino::ROOT, &name("one"), &file(1)).unwrap();
    let two = table.enter(Ino::ROOT, &name("two"), &file(1)).unwrap();
    table.unlink(Ino::ROOT, &name("one"), None);
    let hidden = Temporaries::new().beside(&table.path(two).expect("a path"));
    let (path, base) = (hidden.path().clone(), hidden.name().clone());
    table.unlink(Ino::ROOT, &name("two"), Some(hidden));
    assert_eq!((shown(&table, one), table.aside(one)), (None, None));
    assert_eq!(
        (table.path(two), table.aside(two)),
        (Some(path.clone()), Some(path))
    );
    let again = table.enter(Ino::ROOT, &name("one"), &file(1)).unwrap();
    assert_ne!(again, one);
    assert_eq!(table.child(Ino::ROOT, &base), None);
    table.vanish(two);
    assert_eq!(table.path(two), None);
    for ino in [one, two, again] {
        table.forget(ino, 1);
    }
    assert_eq!(table.nodes.lock().len(), 1);
}
