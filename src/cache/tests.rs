//! The cache's promises, one by one, and against a model that remembers everything.

use std::time::SystemTime;

use proptest::prelude::*;

use super::*;

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text.as_bytes()).unwrap()
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn attributes(size: u64) -> Attributes {
    Attributes::file(size, SystemTime::UNIX_EPOCH)
}

fn listing(names: &[&str], size: u64, complete: bool) -> Listing {
    Listing {
        entries: names.iter().map(|n| (name(n), attributes(size))).collect(),
        own: None,
        complete,
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn cache(entries: usize) -> Cache {
    Cache::new(Limits {
        entries,
        attributes: 10 * SECOND,
        listings: 20 * SECOND,
        absences: 5 * SECOND,
    })
}

#[test]
fn attributes_expire_counted_from_the_start_of_the_fetch() {
    let cache = cache(10);
    let start = Instant::now();
    let ticket = cache.begin(start);
    assert!(cache.insert(ticket, &path("/a"), Some(&attributes(1))));
    let until = start + 10 * SECOND;
    assert_eq!(
        cache.attributes(&path("/a"), start + 9 * SECOND),
        Answer::Present(attributes(1), until)
    );
    assert_eq!(cache.attributes(&path("/a"), until), Answer::Unknown);
}

#[test]
fn complete_listing_answers_its_names_and_absences() {
    let cache = cache(10);
    let start = Instant::now();
    let directory = Directory::new(listing(&["b", "a"], 7, true), cache.begin(start));
    assert!(
        cache
            .insert_listing(&path("/d"), Arc::new(directory))
            .is_some()
    );
    let now = start + SECOND;
    assert_eq!(
        cache.attributes(&path("/d/a"), now),
        Answer::Present(attributes(7), start + 10 * SECOND)
    );
    assert_eq!(
        cache.attributes(&path("/d/zz"), now),
        Answer::Absent(start + 5 * SECOND)
    );
    assert_eq!(cache.attributes(&path("/d"), now), Answer::Unknown);
    let names: Vec<_> = cache.listing(&path("/d"), now).unwrap().entries()[..]
        .iter()
        .map(|(n, _)| n.clone())
        .collect();
    assert_eq!(names, [name("a"), name("b")]);
    // The names live longer than the attributes.
    assert!(cache.listing(&path("/d"), start + 19 * SECOND).is_some());
    assert!(cache.listing(&path("/d"), start + 20 * SECOND).is_none());
}

#[test]
fn cut_listing_proves_no_absence() {
    let cache = cache(10);
    let now = Instant::now();
    let directory = Directory::new(listing(&["a"], 7, false), cache.begin(now));
    assert!(
        cache
            .insert_listing(&path("/"), Arc::new(directory))
            .is_some()
    );
    assert_eq!(cache.attributes(&path("/b"), now), Answer::Unknown);
    assert!(matches!(
        cache.attributes(&path("/a"), now),
        Answer::Present(..)
    ));
}

#[test]
fn the_newer_word_wins_and_an_expired_one_is_not_replaced_by_an_older() {
    let cache = cache(10);
    let start = Instant::now();
    let directory = Directory::new(listing(&["a"], 7, true), cache.begin(start));
    assert!(
        cache
            .insert_listing(&path("/"), Arc::new(directory))
            .is_some()
    );
    let later = start + SECOND;
    assert!(cache.insert(cache.begin(later), &path("/a"), None));
    assert_eq!(
        cache.attributes(&path("/a"), later),
        Answer::Absent(later + 5 * SECOND)
    );
    // The absence has expired; the listing that it contradicted must not come back.
    assert_eq!(
        cache.attributes(&path("/a"), later + 6 * SECOND),
        Answer::Unknown
    );
}

#[test]
fn a_slow_fetch_does_not_overwrite_what_a_later_one_told() {
    let cache = cache(10);
    let start = Instant::now();
    let slow = cache.begin(start);
    let quick = cache.begin(start + SECOND);
    assert!(cache.insert(quick, &path("/a"), Some(&attributes(2))));
    assert!(cache.insert(slow, &path("/a"), Some(&attributes(1))));
    assert_eq!(
        cache.attributes(&path("/a"), start + 2 * SECOND),
        Answer::Present(attributes(2), start + 11 * SECOND)
    );
}

#[test]
fn a_fetch_that_raced_with_a_change_is_refused() {
    let cache = cache(100);
    let now = Instant::now();
    let ticket = cache.begin(now);
    cache.changed(&path("/d/a"));
    assert!(!cache.insert(ticket, &path("/d/a"), Some(&attributes(1))));
    assert!(!cache.insert(ticket, &path("/d/a/below"), None));
    // The directory's time and names changed with it.
    assert!(!cache.insert(ticket, &path("/d"), Some(&attributes(1))));
    let directory = Arc::new(Directory::new(listing(&["a"], 7, true), ticket));
    assert!(cache.insert_listing(&path("/d"), directory).is_none());
    // A sibling and what is above did not change.
    assert!(cache.insert(ticket, &path("/d/b"), Some(&attributes(1))));
    assert!(cache.insert(ticket, &path("/d-b"), Some(&attributes(1))));
    assert!(cache.insert(ticket, &path("/"), Some(&attributes(1))));
    // What begins now is welcome again.
    assert!(cache.insert(cache.begin(now), &path("/d/a"), Some(&attributes(2))));
}

#[test]
fn a_change_outdates_what_was_cached() {
    let cache = cache(100);
    let now = Instant::now();
    let below = path("/d/sub/x");
    assert!(cache.insert(cache.begin(now), &below, Some(&attributes(1))));
    let directory = Directory::new(listing(&["sub", "y"], 7, true), cache.begin(now));
    assert!(
        cache
            .insert_listing(&path("/d"), Arc::new(directory))
            .is_some()
    );
    cache.changed(&path("/d/sub"));
    assert_eq!(cache.attributes(&below, now), Answer::Unknown);
    assert_eq!(cache.attributes(&path("/d/sub"), now), Answer::Unknown);
    assert!(cache.listing(&path("/d"), now).is_none());
    // Its neighbour is still known, but absences are not.
    assert!(matches!(
        cache.attributes(&path("/d/y"), now),
        Answer::Present(..)
    ));
    assert_eq!(cache.attributes(&path("/d/z"), now), Answer::Unknown);
}

#[test]
fn the_bound_counts_the_entries_of_listings() {
    let cache = cache(10);
    let now = Instant::now();
    for i in 0..5 {
        let at = path(&format!("/file{i}"));
        assert!(cache.insert(cache.begin(now), &at, Some(&attributes(i))));
    }
    let names: Vec<String> = (0..8).map(|i| format!("n{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let directory = Directory::new(listing(&names, 7, true), cache.begin(now));
    assert!(
        cache
            .insert_listing(&path("/d"), Arc::new(directory))
            .is_some()
    );
    // 9 of 10 are the listing's: of the files, only the last is left.
    assert_eq!(cache.attributes(&path("/file3"), now), Answer::Unknown);
    assert!(matches!(
        cache.attributes(&path("/file4"), now),
        Answer::Present(..)
    ));
    let names: Vec<String> = (0..10).map(|i| format!("n{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let too_large = Directory::new(listing(&names, 7, true), cache.begin(now));
    assert!(
        cache
            .insert_listing(&path("/e"), Arc::new(too_large))
            .is_none()
    );
}

#[test]
fn forgotten_changes_make_old_tickets_worthless() {
    let cache = cache(1);
    let now = Instant::now();
    let ticket = cache.begin(now);
    cache.changed(&path("/first/file"));
    for i in 0..2000 {
        cache.changed(&path(&format!("/other{i}/file")));
    }
    assert!(!cache.insert(ticket, &path("/first/file"), Some(&attributes(1))));
}

#[test]
fn a_listing_that_raced_with_what_we_made_ourselves_has_it() {
    let cache = cache(100);
    let now = Instant::now();
    let before = cache.begin(now);
    cache.note(&path("/d/c"), Some(&attributes(3)), now);
    cache.note(&path("/d/a"), None, now);
    let late = || Arc::new(Directory::new(listing(&["a", "b"], 7, true), before));
    let told = cache
        .insert_listing(&path("/d"), late())
        .expect("all that changed is known");
    let names: Vec<_> = told.entries().iter().map(|(n, _)| n.clone()).collect();
    assert_eq!(names, [name("b"), name("c")]);
    let absent = Answer::Absent(now + 5 * SECOND);
    assert_eq!(cache.attributes(&path("/d/new"), now), absent);
    assert_eq!(cache.told_in(&told, &path("/d"), &name("new")), absent);
    // Of what others made nothing is known, nor of a directory that is another by now.
    cache.changed(&path("/d/x"));
    assert!(cache.insert_listing(&path("/d"), late()).is_none());
    let known = cache.begin(now);
    assert!(cache.insert(known, &path("/d/x"), None));
    assert!(cache.insert_listing(&path("/d"), late()).is_some());
    cache.note(&path("/d"), Some(&attributes(0)), now);
    assert!(cache.insert_listing(&path("/d"), late()).is_none());
}

#[test]
fn a_listing_outdated_by_a_file_in_a_subdirectory_keeps_the_name_alone() {
    let cache = cache(100);
    let now = Instant::now();
    let directory = Directory::new(listing(&["sub"], 7, true), cache.begin(now));
    assert!(
        cache
            .insert_listing(&path("/d"), Arc::new(directory))
            .is_some()
    );
    cache.note(&path("/d/sub/x"), Some(&attributes(1)), now);
    cache.note(&path("/d/c"), Some(&attributes(3)), now);
    // Its time is another than listed.
    assert_eq!(cache.attributes(&path("/d/sub"), now), Answer::Unknown);
    let listed = cache.listing(&path("/d"), now).expect("it is still known");
    assert_eq!(listed.entries().len(), 2);
    assert_eq!(cache.attributes(&path("/d/sub"), now), Answer::Unknown);
}

/// What the model remembers: every change and every accepted fetch, for ever.
#[derive(Default)]
struct Model {
    changes: Vec<RemotePath>,
    /// What stands: one word of each kind for a path.
    current: Vec<(RemotePath, Word)>,
    /// All that was ever told: a cache that had to drop the newest may know an older one.
    history: Vec<(RemotePath, Word)>,
}

#[derive(Clone)]
enum Word {
    Own(Option<u64>, usize, Instant),
    Listing(Told, bool, Since, Instant),
}

/// The names of a listing; those that it told itself with their sizes.
type Told = Vec<(Name, u64)>;

/// How many changes there were when it was fetched, and when its names were put right.
#[derive(Clone, Copy)]
struct Since {
    fetched: usize,
    names: usize,
}

impl Word {
    fn begun(&self) -> Instant {
        match self {
            Word::Own(_, _, begun) | Word::Listing(.., begun) => *begun,
        }
    }
}

impl Model {
    /// One word of each kind stands for a path: the one whose fetch began last.
    fn learn(&mut self, path: RemotePath, word: Word) {
        let same = |w: &Word| matches!(w, Word::Own(..)) == matches!(word, Word::Own(..));
        let newer = |w: &Word| w.begun() > word.begun();
        self.history.push((path.clone(), word.clone()));
        if !self
            .current
            .iter()
            .any(|(p, w)| *p == path && same(w) && newer(w))
        {
            self.current.retain(|(p, w)| *p != path || !same(w));
            self.current.push((path, word));
        }
    }

    /// Whether a change since the first `since` touches `path`.
    fn touched(&self, path: &RemotePath, since: usize) -> bool {
        self.changes[since..]
            .iter()
            .any(|c| path.starts_with(c) || c.parent().as_ref() == Some(path))
    }

    /// Every word about `path` that no change contradicts: when its fetch began, whether it is
    /// the path's own, and what it says.
    fn words(
        &self,
        told: &[(RemotePath, Word)],
        path: &RemotePath,
    ) -> Vec<(Instant, bool, Answer)> {
        let parent = path.parent();
        let mut words = Vec::new();
        for (at, word) in told {
            match word {
                Word::Own(found, since, begun) if at == path && !self.touched(path, *since) => {
                    let answer = match found {
                        Some(size) => Answer::Present(attributes(*size), *begun + 10 * SECOND),
                        None => Answer::Absent(*begun + 5 * SECOND),
                    };
                    words.push((*begun, true, answer));
                }
                Word::Listing(names, complete, since, begun)
                    if Some(at) == parent.as_ref() && !self.touched(path, since.fetched) =>
                {
                    let name = path.name().unwrap();
                    if let Some((_, size)) = names.iter().find(|(n, _)| *n == name) {
                        let until = *begun + 10 * SECOND;
                        words.push((*begun, false, Answer::Present(attributes(*size), until)));
                    } else if *complete && !self.touched(at, since.names) {
                        words.push((*begun, false, Answer::Absent(*begun + 5 * SECOND)));
                    }
                }
                _ => {}
            }
        }
        words
    }

    /// What a listing of `at` that was fetched after `since` changes is now, with what is known of all
    /// that changed in it.
    fn put_right(&self, at: &RemotePath, mut names: Told, since: usize) -> Option<Told> {
        for change in &self.changes[since..] {
            if at.starts_with(change) {
                return None;
            }
            if change.parent().as_ref() == Some(at) {
                let mut own = self.current.iter().filter_map(|(path, word)| match word {
                    Word::Own(found, since, _) if path == change && !self.touched(path, *since) => {
                        Some(*found)
                    }
                    _ => None,
                });
                let found = own.next()?;
                let name = change.name().unwrap();
                names.retain(|(n, _)| *n != name);
                names.extend(found.map(|size| (name, size)));
            }
        }
        Some(names)
    }

    /// We ourselves made something of `path`.
    fn note(&mut self, path: RemotePath, made: Option<u64>, now: Instant) {
        let before = self.changes.len();
        self.changes.push(path.clone());
        if let Some((parent, name)) = path.parent().zip(path.name()) {
            let touched: Vec<_> = {
                let changes = &self.changes[..before];
                let touched = |since: usize| {
                    let outdates = |c: &RemotePath| {
                        parent.starts_with(c) || c.parent().as_ref() == Some(&parent)
                    };
                    changes[since..].iter().any(outdates)
                };
                (0..=before).map(touched).collect()
            };
            let right = |(at, word): &(RemotePath, Word)| match word {
                Word::Listing(names, complete, since, begun)
                    if *at == parent && !touched[since.names] =>
                {
                    let others = names.iter().filter(|(n, _)| *n != name).cloned();
                    let names = others
                        .chain(made.map(|size| (name.clone(), size)))
                        .collect();
                    let since = Since {
                        names: before + 1,
                        ..*since
                    };
                    Some((at.clone(), Word::Listing(names, *complete, since, *begun)))
                }
                _ => None,
            };
            let told: Vec<_> = self.history.iter().filter_map(right).collect();
            self.history.extend(told);
            for kept in &mut self.current {
                if let Some(now) = right(kept) {
                    *kept = now;
                }
            }
        }
        self.learn(path, Word::Own(made, before + 1, now));
    }

    fn attributes(&self, path: &RemotePath, now: Instant) -> Answer {
        let newest = self
            .words(&self.current, path)
            .into_iter()
            .max_by_key(|w| (w.0, w.1));
        match newest {
            Some((_, _, answer)) if fresh(&answer, now) => answer,
            _ => Answer::Unknown,
        }
    }
}

fn fresh(answer: &Answer, now: Instant) -> bool {
    match answer {
        Answer::Present(_, until) | Answer::Absent(until) => *until > now,
        Answer::Unknown => false,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Begin,
    Wait(u64),
    Change(RemotePath),
    Note(RemotePath, Option<u64>),
    Insert(usize, RemotePath, Option<u64>),
    List(usize, RemotePath, Vec<Name>, bool),
}

fn any_path() -> impl Strategy<Value = RemotePath> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 0..4)
        .prop_map(|parts| path(&format!("/{}", parts.join("/"))))
}

fn any_step() -> impl Strategy<Value = Step> {
    let names = prop::collection::btree_set(prop::sample::select(vec!["a", "b", "ab"]), 0..3)
        .prop_map(|set| set.into_iter().map(name).collect());
    prop_oneof![
        3 => Just(Step::Begin),
        2 => (0..6u64).prop_map(Step::Wait),
        1 => any_path().prop_map(Step::Change),
        3 => (any_path(), prop::option::of(0..100u64)).prop_map(|(p, s)| Step::Note(p, s)),
        4 => (0..4usize, any_path(), prop::option::of(0..100u64))
            .prop_map(|(back, p, s)| Step::Insert(back, p, s)),
        4 => (0..4usize, any_path(), names, any::<bool>())
            .prop_map(|(back, p, n, c)| Step::List(back, p, n, c)),
    ]
}

fn all_paths() -> Vec<RemotePath> {
    let names = ["a", "b", "ab"];
    let mut paths = vec![RemotePath::root()];
    for from in 0..13 {
        let base: RemotePath = paths[from].clone();
        paths.extend(names.iter().map(|n| base.join(&name(n))));
    }
    paths
}

proptest! {
    /// With room for everything the cache says what the newest word says; with room for little
    /// it says what some word says, or nothing.
    #[test]
    fn agrees_with_the_model(steps in prop::collection::vec(any_step(), 1..60)) {
        let start = Instant::now();
        let (large, small) = (cache(100_000), cache(6));
        let mut model = Model::default();
        let mut now = start;
        let mut size = 0;
        let mut tickets = vec![(large.begin(now), small.begin(now), 0)];
        for step in steps {
            // Two fetches never begin at the very same moment.
            now += Duration::from_millis(1);
            match step {
                Step::Begin => {
                    tickets.push((large.begin(now), small.begin(now), model.changes.len()));
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Change(at) => {
                    large.changed(&at);
                    small.changed(&at);
                    model.changes.push(at);
                }
                Step::Note(at, made) => {
                    let attributes = made.map(attributes);
                    large.note(&at, attributes.as_ref(), now);
                    small.note(&at, attributes.as_ref(), now);
                    model.note(at, made, now);
                }
                Step::Insert(back, at, found) => {
                    let (ticket, small_ticket, since) = tickets[tickets.len().saturating_sub(back + 1)];
                    let attributes = found.map(attributes);
                    let accepted = large.insert(ticket, &at, attributes.as_ref());
                    prop_assert_eq!(accepted, !model.touched(&at, since));
                    small.insert(small_ticket, &at, attributes.as_ref());
                    if accepted {
                        model.learn(at, Word::Own(found, since, ticket.at()));
                    }
                }
                Step::List(back, at, names, complete) => {
                    let (ticket, small_ticket, since) = tickets[tickets.len().saturating_sub(back + 1)];
                    size += 1;
                    let listing = Listing {
                        entries: names.iter().map(|n| (n.clone(), attributes(size))).collect(),
                        own: None,
                        complete,
                    };
                    let told = names.into_iter().map(|name| (name, size)).collect();
                    let right = model.put_right(&at, told, since);
                    let accepted = large
                        .insert_listing(&at, Arc::new(Directory::new(listing.clone(), ticket)));
                    prop_assert_eq!(accepted.is_some(), right.is_some());
                    small.insert_listing(&at, Arc::new(Directory::new(listing, small_ticket)));
                    if let Some(names) = right {
                        let since = Since { fetched: since, names: model.changes.len() };
                        model.learn(at, Word::Listing(names, complete, since, ticket.at()));
                    }
                }
            }
            for at in all_paths() {
                let expected = model.attributes(&at, now);
                prop_assert_eq!(&large.attributes(&at, now), &expected);
                let answer = small.attributes(&at, now);
                prop_assert!(small.inner.lock().weight <= 6);
                if answer != Answer::Unknown {
                    prop_assert!(fresh(&answer, now));
                    prop_assert!(model.words(&model.history, &at).iter().any(|w| w.2 == answer));
                }
            }
        }
    }
}

#[test]
fn what_we_made_ourselves_is_known_and_the_listing_goes_on() {
    let cache = cache(100);
    let now = Instant::now();
    let before = cache.begin(now);
    let directory = Directory::new(listing(&["a", "b"], 7, true), before);
    assert!(
        cache
            .insert_listing(&path("/d"), Arc::new(directory))
            .is_some()
    );
    cache.note(&path("/d/c"), Some(&attributes(3)), now);
    cache.note(&path("/d/a"), None, now);
    assert!(
        matches!(cache.attributes(&path("/d/c"), now), Answer::Present(a, _) if a == attributes(3))
    );
    assert!(matches!(
        cache.attributes(&path("/d/a"), now),
        Answer::Absent(_)
    ));
    assert!(matches!(
        cache.attributes(&path("/d/b"), now),
        Answer::Present(..)
    ));
    assert!(matches!(
        cache.attributes(&path("/d/new"), now),
        Answer::Absent(_)
    ));
    let names = |directory: Arc<Directory>| {
        let names = directory.entries().iter().map(|(n, _)| n.clone());
        names.collect::<Vec<_>>()
    };
    let listed = cache.listing(&path("/d"), now).expect("it is still known");
    assert_eq!(names(listed), [name("b"), name("c")]);
    cache.note(&path("/d/a"), Some(&attributes(9)), now);
    let listed = cache.listing(&path("/d"), now).expect("it is still known");
    assert_eq!(names(listed), [name("a"), name("b"), name("c")]);
    // A change by others ends the listing.
    cache.changed(&path("/d/b"));
    assert!(cache.listing(&path("/d"), now).is_none());
    cache.note(&path("/d/b"), None, now);
    assert!(cache.listing(&path("/d"), now).is_none());
    assert_eq!(cache.attributes(&path("/d/new"), now), Answer::Unknown);
}
