use super::*;
use crate::cache::{Cache, Limits};
use crate::proto::Name;
use crate::remote::{Attributes, Listing};
use std::time::UNIX_EPOCH;

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text.as_bytes()).expect("a path")
}

/// A directory of directories, and a file.
fn directory(names: &[&str]) -> Arc<Directory> {
    let attributes = |kind| Attributes {
        kind,
        ..Attributes::file(0, UNIX_EPOCH)
    };
    let entry = |(name, kind): (&str, _)| {
        let name = Name::parse(name.as_bytes()).expect("a name");
        (name, attributes(kind))
    };
    let directories = names.iter().map(|name| (*name, FileKind::Directory));
    let others = [("file", FileKind::File), ("link", FileKind::Symlink)];
    let listing = Listing {
        entries: directories.chain(others).map(entry).collect(),
        own: None,
        complete: true,
    };
    let limits = Limits {
        entries: 10,
        attributes: PAUSE,
        listings: PAUSE,
        absences: PAUSE,
    };
    Arc::new(Directory::new(
        listing,
        Cache::new(limits).begin(Instant::now()),
    ))
}

fn take(walks: &Walks, most: usize) -> Vec<String> {
    let taken = walks.take(most, |_| false).into_iter();
    taken.map(|path| path.to_string()).collect()
}

fn enter(walks: &Walks, at: &str, names: &[&str], beside: &[&str], now: Instant) -> bool {
    let beside = directory(beside);
    walks.entered(&path(at), &directory(names), |_| Some(beside), now)
}

#[test]
fn what_a_walk_comes_to_next_is_listed_first() {
    let walks = Walks::new(true);
    let now = Instant::now();
    assert!(!enter(&walks, "/", &["a", "b", "c"], &[], now));
    assert!(enter(&walks, "/a", &["x", "y"], &["a", "b", "c"], now));
    // Those who fetch look themselves at what is known already: /a is.
    assert_eq!(take(&walks, 3), ["/a/x", "/a/y", "/a"]);
    assert!(walks.listed([(&path("/a/y"), &directory(&["z"]))].into_iter()));
    assert_eq!(take(&walks, 9), ["/a/y/z", "/b", "/c"]);
    assert_eq!(take(&walks, 9), [""; 0]);
    assert!(!walks.go_on());
}

#[test]
fn what_lies_in_the_first_of_several_is_listed_first() {
    let walks = Walks::new(true);
    let now = Instant::now();
    enter(&walks, "/", &["a", "b", "c"], &[], now);
    enter(&walks, "/a", &[], &["a", "b", "c"], now);
    assert_eq!(take(&walks, 3), ["/a", "/b", "/c"]);
    let (b, c) = (path("/b"), path("/c"));
    let (below_b, below_c) = (directory(&["1", "2"]), directory(&["3"]));
    assert!(walks.listed([(&b, &below_b), (&c, &below_c)].into_iter()));
    assert_eq!(take(&walks, 9), ["/b/1", "/b/2", "/c/3"]);
}

#[test]
fn one_directory_alone_is_no_walk_and_a_pause_ends_one() {
    let walks = Walks::new(true);
    let now = Instant::now();
    assert!(!enter(&walks, "/d/a", &["x"], &[], now));
    assert!(!enter(&walks, "/e", &["y"], &[], now));
    assert!(!enter(&walks, "/d", &["a", "b"], &[], now));
    // A person who looks into a directory, and then into one in it.
    assert!(!enter(&walks, "/e/y", &["z"], &["y"], now + PAUSE));
    assert_eq!(walks.state.lock().queue, [""; 0].map(path));
    assert!(enter(&walks, "/e/y/z", &["q"], &["z"], now + PAUSE));
    assert!(!enter(&walks, "/", &[], &[], now + 2 * PAUSE));
    assert!(walks.state.lock().queue.is_empty());
}

#[test]
fn listings_that_nobody_asks_for_use_up_the_credit() {
    let walks = Walks::new(true);
    let now = Instant::now();
    let names: Vec<_> = (0..100).map(|n| format!("d{n:02}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    enter(&walks, "/", &["a"], &[], now);
    assert!(enter(&walks, "/a", &names, &["a"], now));
    assert_eq!(take(&walks, 100).len(), FIRST_CREDIT);
    assert_eq!(take(&walks, 100).len(), 0);
    assert!(enter(&walks, "/a/d00", &[], &[], now));
    assert_eq!(take(&walks, 100).len(), 1 + EARNED);
    assert_eq!(take(&walks, 100).len(), 0);
}

#[test]
fn nothing_is_listed_ahead_where_that_is_off() {
    let walks = Walks::new(false);
    let now = Instant::now();
    assert!(!enter(&walks, "/", &["a"], &[], now));
    assert!(!enter(&walks, "/a", &["b"], &["a"], now));
}
