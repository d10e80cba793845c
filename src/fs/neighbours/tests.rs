use super::*;
use crate::cache::{Cache, Limits};
use crate::remote::Listing;
use std::time::UNIX_EPOCH;

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text.as_bytes()).expect("a path")
}

fn listing(sizes: &[(&str, u64)]) -> Arc<Directory> {
    let entry = |&(name, size): &(&str, u64)| {
        let attributes = Attributes {
            kind: FileKind::File,
            size,
            mtime: UNIX_EPOCH,
            mode: None,
            uid: None,
            gid: None,
            unique: None,
            link_target: None,
        };
        (Name::parse(name.as_bytes()).expect("a name"), attributes)
    };
    let listing = Listing {
        entries: sizes.iter().map(entry).collect(),
        own: None,
        complete: true,
    };
    Arc::new(Directory::new(listing, ticket()))
}

fn ticket() -> Ticket {
    let limits = Limits {
        entries: 10,
        attributes: PAUSE,
        listings: PAUSE,
        absences: PAUSE,
    };
    Cache::new(limits).begin(Instant::now())
}

fn taken(neighbours: &Neighbours, listing: &Arc<Directory>) -> Option<String> {
    match neighbours.take(|_| Some(listing.clone())) {
        Step::Fetch(path, _) => Some(path.to_string()),
        Step::List(_) | Step::Nothing => None,
    }
}

#[test]
fn the_next_small_files_are_fetched_once_two_were_read() {
    let neighbours = Neighbours::new(true);
    let now = Instant::now();
    let names = [
        ("a", 5),
        ("b", 5),
        ("c", SMALL + 1),
        ("d", SMALL),
        ("e", 0),
        ("f", 1),
    ];
    let listing = listing(&names);
    assert!(!neighbours.was_read(&path("/d/a"), now));
    assert!(neighbours.was_read(&path("/d/b"), now));
    assert_eq!(taken(&neighbours, &listing).as_deref(), Some("/d/d"));
    assert_eq!(taken(&neighbours, &listing).as_deref(), Some("/d/f"));
    assert_eq!(taken(&neighbours, &listing), None);
    assert!(!neighbours.go_on(|_| Some(listing.clone())));
    // One that was fetched ahead is no way back.
    neighbours.was_read(&path("/d/d"), now);
    assert_eq!(neighbours.course.lock().run, 3);
    neighbours.was_read(&path("/d/b"), now);
    assert_eq!(neighbours.course.lock().run, 1);
}

#[test]
fn other_directories_and_pauses_begin_anew() {
    let neighbours = Neighbours::new(true);
    let now = Instant::now();
    assert!(!neighbours.was_read(&path("/d/a"), now));
    assert!(!neighbours.was_read(&path("/e/b"), now));
    assert!(!neighbours.was_read(&path("/e/c"), now + PAUSE));
    assert!(neighbours.was_read(&path("/e/d"), now + PAUSE));
}

#[test]
fn a_directory_that_is_not_known_is_listed_once() {
    let neighbours = Neighbours::new(true);
    let now = Instant::now();
    neighbours.was_read(&path("/d/a"), now);
    assert!(neighbours.was_read(&path("/d/b"), now));
    assert_eq!(neighbours.take(|_| None), Step::List(path("/d")));
    assert_eq!(neighbours.take(|_| None), Step::Nothing);
}

#[test]
fn files_that_nobody_reads_use_up_the_credit() {
    let neighbours = Neighbours::new(true);
    let now = Instant::now();
    let names: Vec<_> = (0..50).map(|n| format!("f{n:02}")).collect();
    let sizes: Vec<_> = names.iter().map(|name| (name.as_str(), 9)).collect();
    let listing = listing(&sizes);
    neighbours.was_read(&path("/f00"), now);
    neighbours.was_read(&path("/f01"), now);
    let first = std::iter::from_fn(|| taken(&neighbours, &listing)).count();
    assert_eq!(first, FIRST_CREDIT);
    neighbours.was_read(&path("/f02"), now);
    let more = std::iter::from_fn(|| taken(&neighbours, &listing)).count();
    assert_eq!(more, 1 + EARNED);
}

#[test]
fn the_store_is_bounded_and_tells_versions_apart() {
    let neighbours = Neighbours::new(true);
    let version = |size| Version::new(size, UNIX_EPOCH);
    let each = ROOM / 4;
    for n in 0..6 {
        let fetched = Fetched {
            version: version(n),
            ticket: ticket(),
            content: vec![n as u8; each].into(),
        };
        neighbours.keep(path(&format!("/{n}")), fetched);
    }
    let target = |n: u64, size| Target {
        path: path(&format!("/{n}")),
        version: version(size),
        epoch: 0,
        proof: None,
        edition: None,
    };
    let stored = |n, size, holds: bool| neighbours.stored(&target(n, size), |_| holds).is_some();
    assert!(!stored(0, 0, true) && !stored(1, 1, true) && stored(2, 2, true));
    assert!(
        !stored(3, 7, true) && !stored(3, 3, true),
        "another version"
    );
    assert!(!stored(4, 4, false) && !stored(4, 4, true), "too old");
    let store = neighbours.store.lock();
    assert_eq!(store.bytes, 2 * each);
    assert_eq!(store.files.len(), 2);
}
