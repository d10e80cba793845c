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

/// True when everything was asked for (`tests/run --full`), false in the slice that CI runs.
pub fn full() -> bool {
    std::env::var_os("FTPSFS_FULL").is_some_and(|value| value == "1")
}
