//! What the tests share: real FTPS servers, and mounts of them by the real binary.
//!
//! Everything here panics when something is missing: a test that cannot run has failed.

// Each test binary compiles this module for itself and uses its own part of it.
#![allow(dead_code)]

pub mod command;
pub mod enclosure;
pub mod link;
pub mod mount;
pub mod ports;
pub mod report;
pub mod server;
pub mod tree;

use std::time::{Duration, Instant};

/// Asks every 10 ms until `done` says yes; false when `patience` has passed.
pub fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// From here on this thread's open files are its own. A program that another test starts gets copies
/// of all others, and closes them: to a file system that is a close(2) in the middle of a write.
pub fn own_files() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).expect("a table of open files");
    let entries = std::fs::read_dir("/proc/thread-self/fd").expect("read /proc");
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let others: Vec<_> = numbers.filter(|number| *number > 2).collect();
    for number in others {
        // The list itself was among them.
        let _ = nix::unistd::close(number);
    }
}

/// True when everything was asked for (`tests/run --full`), false in the slice that CI runs.
pub fn full() -> bool {
    std::env::var_os("FTPSFS_FULL").is_some_and(|value| value == "1")
}
