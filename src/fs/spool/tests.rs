//! The spool on a real folder: against a model, through crashes, and at its limits.

mod crash;
mod limits;
mod model;
mod places;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;

const OPTIONS: Options = Options {
    limit: 1 << 30,
    durability: Durability::Process,
    // Between fork and exec of another test's child the lock is held twice.
    patience: Duration::from_secs(10),
};

fn open(dir: &Path) -> (Spool, Found) {
    Spool::open(dir, OPTIONS, now()).expect("open the spool")
}

/// What it says survives a loss of power.
fn open_durable(dir: &Path) -> (Spool, Found) {
    let options = Options {
        durability: Durability::Power,
        ..OPTIONS
    };
    Spool::open(dir, options, now()).expect("open the spool")
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text.as_bytes()).expect("a path")
}

fn base(size: usize) -> Base {
    let size = size as u64;
    Base { size, mtime: None }
}

/// All of a file, of which nothing may be missing.
fn content(file: &SpoolFile) -> Vec<u8> {
    let size = file.size().expect("its size") as usize;
    let mut bytes = vec![0xAA; size + 1];
    let read = file.read_at(&mut bytes, 0).expect("read the spool file");
    bytes.truncate(read);
    assert_eq!(read, size);
    bytes
}

/// Copies a folder and what is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("make a folder");
    for entry in std::fs::read_dir(from).expect("read a folder") {
        let entry = entry.expect("read a folder");
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target);
        } else {
            std::fs::copy(&source, &target).expect("copy a file");
        }
    }
}
