//! The fuzz targets without a fuzzer: each takes the kept corpus, and then what chance makes of it
//! for a few seconds. For longer there is `cargo fuzz run NAME` (see fuzz/), which knows where it
//! has not been yet; both keep what they find in fuzz/corpus.
//!
//! `FTPSFS_FUZZ=SECONDS` says how long, `FTPSFS_SEED=N` repeats a run.

#[path = "../../fuzz/checks/commands.rs"]
mod commands;
#[path = "../common/mod.rs"]
mod common;
#[path = "../../fuzz/checks/credentials.rs"]
mod credentials;
#[path = "../../fuzz/checks/endpoints.rs"]
mod endpoints;
#[path = "../../fuzz/checks/facts.rs"]
mod facts;
#[path = "../../fuzz/checks/fault_rules.rs"]
mod fault_rules;
#[path = "../../fuzz/checks/features.rs"]
mod features;
#[path = "../../fuzz/checks/journal.rs"]
mod journal;
#[path = "../../fuzz/checks/listings.rs"]
mod listings;
mod mutation;
#[path = "../../fuzz/checks/negotiation.rs"]
mod negotiation;
#[path = "../../fuzz/checks/operations.rs"]
mod operations;
#[path = "../../fuzz/checks/options.rs"]
mod options;
#[path = "../../fuzz/checks/replies.rs"]
mod replies;
#[path = "../../fuzz/checks/sources.rs"]
mod sources;

use common::report::Row;
use mutation::Mutations;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For each target: in CI, and with `tests/run --full`.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);
/// No input may take longer.
const DEADLINE: Duration = Duration::from_secs(120);

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name), |input| $name::check(input));
        })*

        /// Nobody forgets one.
        #[test]
        fn all_targets_are_here() {
            let targets = names(&folder().join("fuzz_targets"));
            assert_eq!(targets, [$(concat!(stringify!($name), ".rs")),*]);
            let checks = names(&folder().join("checks"));
            assert_eq!(targets, checks);
        }
    };
}

targets! {
    commands credentials endpoints facts fault_rules features journal listings negotiation operations
    options replies sources
}

fn fuzz(name: &str, check: fn(&[u8])) {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let time = match number("FTPSFS_FUZZ") {
        Some(seconds) => Duration::from_secs(seconds),
        None if common::full() => LONG,
        None => SHORT,
    };
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|now| now.as_nanos() as u64)
    };
    let seed = number("FTPSFS_SEED").unwrap_or_else(|| now().unwrap_or(0) % 1_000_000);
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let mut longest = Duration::ZERO;
    for input in &corpus {
        longest = longest.max(try_one(name, check, input));
    }
    let until = Instant::now() + time;
    let mut mutations = Mutations::new(&corpus, seed);
    let mut inputs = corpus.len() as u64;
    while Instant::now() < until {
        longest = longest.max(try_one(name, check, &mutations.next()));
        inputs += 1;
    }
    let row = Row {
        title: format!("fuzz {name}, FTPSFS_SEED={seed}"),
        faults: corpus.len() as u64,
        positions: inputs,
        operations: inputs,
        failed: 0,
        losses: 0,
        hangs: 0,
        longest,
        deadline: DEADLINE,
    };
    row.report();
    assert!(inputs > corpus.len() as u64);
}

/// An input that is too much is kept, to be put into the corpus.
fn try_one(name: &str, check: fn(&[u8]), input: &[u8]) -> Duration {
    let begun = Instant::now();
    let passed = catch_unwind(|| check(input)).is_ok();
    let took = begun.elapsed();
    if passed && took < DEADLINE {
        return took;
    }
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
    fs::write(&kept, input).expect("keep the input");
    let shown = input.escape_ascii();
    panic!(
        "{name} took {took:?} for what is kept in {}: \"{shown}\"",
        kept.display()
    );
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("list").flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = folder().join("corpus").join(name);
    let read = |file: &String| fs::read(folder.join(file)).expect("read");
    names(&folder).iter().map(read).collect()
}
