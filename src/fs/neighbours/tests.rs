use super::*;
use crate::cache::{Cache, Limits};
use crate::remote::Listing;
use std::time::UNIX_EPOCH;

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text.as_bytes()).expect("a path")
}

fn listing(sizes: &[(&str, u64)]) -> Arc<Directory> {
    let entry = |&(name, size): &(&str, u64)| {
        let attributes = Attributes::file(size, UNIX_EPOCH);
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
        Step::Fetch(path, ..) => Some(path.to_string()),
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
fn who_counts_is_followed_by_number_and_who_stops_counting_by_name() {
    let neighbours = Neighbours::new(true);
    let now = Instant::now();
    let mut names: Vec<_> = (0..30).map(|n| format!("f{n}.7z")).collect();
    names.sort_unstable();
    let sizes: Vec<_> = names.iter().map(|name| (name.as_str(), 9)).collect();
    let listing = listing(&sizes);
    neighbours.was_read(&path("/f0.7z"), now);
    neighbours.was_read(&path("/f1.7z"), now);
    assert_eq!(taken(&neighbours, &listing).as_deref(), Some("/f10.7z"));
    assert!(neighbours.was_read(&path("/f2.7z"), now));
    for n in 3..3 + FIRST_CREDIT {
        let next = format!("/f{n}.7z");
        assert_eq!(taken(&neighbours, &listing), Some(next));
    }
    assert_eq!(taken(&neighbours, &listing), None);
    neighbours.was_read(&path("/f3.7z"), now);
    assert_eq!(taken(&neighbours, &listing).as_deref(), Some("/f9.7z"));
    assert_eq!(taken(&neighbours, &listing).as_deref(), Some("/f10.7z"));
    neighbours.was_read(&path("/f20.7z"), now);
    assert!(neighbours.was_read(&path("/f21.7z"), now));
    assert_eq!(taken(&neighbours, &listing).as_deref(), Some("/f22.7z"));
    assert_eq!(taken(&neighbours, &listing).as_deref(), Some("/f23.7z"));
    assert_eq!(taken(&neighbours, &listing).as_deref(), Some("/f24.7z"));
    assert_eq!(taken(&neighbours, &listing).as_deref(), Some("/f25.7z"));
}

#[test]
fn while_it_is_not_known_whether_a_program_counts_both_orders_are_followed() {
    let mut names: Vec<_> = (0..30).map(|n| format!("f{n}")).collect();
    names.sort_unstable();
    let sizes: Vec<_> = names.iter().map(|name| (name.as_str(), 9)).collect();
    let listing = listing(&sizes);
    let now = Instant::now();
    for (read, next) in [
        ("/f2", ["/f4", "/f5", "/f6"]),
        ("/f10", ["/f12", "/f13", "/f14"]),
    ] {
        let neighbours = Neighbours::new(true);
        neighbours.was_read(&path("/f0"), now);
        neighbours.was_read(&path("/f1"), now);
        for expected in ["/f10", "/f2", "/f11", "/f3"] {
            assert_eq!(taken(&neighbours, &listing).as_deref(), Some(expected));
        }
        neighbours.was_read(&path(read), now);
        for expected in next {
            assert_eq!(taken(&neighbours, &listing).as_deref(), Some(expected));
        }
    }
    // Who waits for one tells, too.
    for (asked, next) in [("/f2", ["/f3", "/f4"]), ("/f10", ["/f11", "/f12"])] {
        let neighbours = Neighbours::new(true);
        neighbours.was_read(&path("/f0"), now);
        neighbours.was_read(&path("/f1"), now);
        neighbours.was_asked(&path(asked), |_| Some(listing.clone()));
        assert!(!neighbours.is_in_doubt());
        for expected in next {
            assert_eq!(taken(&neighbours, &listing).as_deref(), Some(expected));
        }
        neighbours.was_read(&path(asked), now);
        let run = neighbours.course.lock().run;
        assert_eq!(run, 3, "it goes on");
    }
    // Where both come to the same, nothing is said of either.
    let neighbours = Neighbours::new(true);
    neighbours.was_read(&path("/f10"), now);
    neighbours.was_read(&path("/f11"), now);
    for expected in (12..18).map(|n| format!("/f{n}")) {
        assert_eq!(taken(&neighbours, &listing), Some(expected));
    }
    neighbours.was_read(&path("/f12"), now);
    for expected in ["/f18", "/f19", "/f2"] {
        assert_eq!(taken(&neighbours, &listing).as_deref(), Some(expected));
    }
    neighbours.was_read(&path("/f13"), now);
    assert_eq!(taken(&neighbours, &listing).as_deref(), Some("/f20"));
}

#[test]
fn numbers_in_names_are_counted_up() {
    let up = |name: &str, number| {
        counted_up(name.as_bytes(), number).map(|next| String::from_utf8(next).expect("a name"))
    };
    assert_eq!(up("img-2024-09.jpg", 1).as_deref(), Some("img-2024-10.jpg"));
    assert_eq!(up("img-2024-09.jpg", 0).as_deref(), Some("img-2025-09.jpg"));
    assert_eq!(up("99", 0).as_deref(), Some("100"));
    assert_eq!(up("img", 0), None);
    assert_eq!(up(&format!("x{}", u64::MAX), 0), None);
    assert_eq!(counted(b"a1b9", b"a1b10"), Some(1));
    assert_eq!(counted(b"a1b9", b"a2b9"), Some(0));
    assert_eq!(counted(b"a1b9", b"a2b10"), None);
    assert_eq!(counted(b"", b""), None);
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
