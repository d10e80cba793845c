//! `ftpsfs recover`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use ftpsfs::fs::spool;
use ftpsfs::proto::RemotePath;

use super::bench::{Bench, refusal, said, succeed};

/// `ftpsfs recover --state-dir DIR ARGUMENTS`.
fn recover(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftpsfs"));
    command.arg("recover").arg("--state-dir").arg(state);
    command.args(arguments).stdin(Stdio::null());
    command
}

#[test]
fn recover_shows_what_a_damaged_disk_left() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    assert!(said(&mut recover(&state, &[])).contains("nothing is kept"));
    let open = || {
        let options = spool::Options {
            limit: 1 << 30,
            durability: spool::Durability::Process,
            patience: Duration::from_secs(10),
        };
        let opened = spool::Spool::open(&state.join("s"), options, SystemTime::now());
        opened.unwrap().0
    };
    let spool = open();
    let path = RemotePath::parse(b"/dir/odd\x1b name").unwrap();
    let file = spool.create(&path, None, SystemTime::now()).unwrap();
    file.write_at(b"the only copy", 0).unwrap();
    let id = spool.kept_as(file.id()).to_string();
    spool.note_source(b"me@host:/");
    let list = said(&mut recover(&state, &["list"]));
    let holder = format!("me@host:/, in use by process {}", std::process::id());
    assert!(list.starts_with(&holder), "{list}");
    assert!(list.contains(&format!("  {id}  13  ")), "{list}");
    assert!(
        list.contains("/dir/odd\\u{1b} name: being written"),
        "{list}"
    );
    let mut discard = recover(&state, &["discard", "--yes", &id]);
    let in_use = format!("in use by process {}", std::process::id());
    assert!(refusal(&mut discard, 32).contains(&in_use));
    let copy = home.path().join("copy");
    let said_saved = said(&mut recover(&state, &["save", &id, copy.to_str().unwrap()]));
    assert!(
        said_saved.contains("a mount has it in hand"),
        "{said_saved}"
    );
    assert_eq!(fs::read(&copy).unwrap(), b"the only copy");
    let mode = fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else's to read");
    drop((file, spool));
    let list = said(&mut recover(&state, &[]));
    assert!(list.contains("never closed"), "{list}");
    // The disk loses the journal's end, and with it the record.
    let journal = state.join("s/journal");
    let whole = fs::read(&journal).unwrap();
    let named = whole.windows(4).position(|part| part == b"/dir").unwrap();
    fs::write(&journal, &whole[..named]).unwrap();
    drop(open());
    let list = said(&mut recover(&state, &[]));
    let line = list
        .lines()
        .find(|line| line.contains("lost+found/data-"))
        .unwrap();
    let id = line.split_whitespace().next().unwrap();
    let saved = home.path().join("dir");
    fs::create_dir(&saved).unwrap();
    succeed(&mut recover(&state, &["save", id, saved.to_str().unwrap()]));
    let copy = fs::read_dir(&saved).unwrap().next().unwrap().unwrap();
    assert_eq!(fs::read(copy.path()).unwrap(), b"the only copy");
    let mut discard = recover(&state, &["discard", id]);
    assert!(refusal(&mut discard, 1).contains("--yes"));
    succeed(&mut recover(&state, &["discard", "-y", id]));
    assert!(said(&mut recover(&state, &[])).contains("nothing is kept"));
}

#[test]
fn recover_says_in_one_line_what_is_wrong() {
    let bench = Bench::new();
    let state = bench.path("state");
    let refused = |arguments: &[&str], code| refusal(&mut recover(&state, arguments), code);
    assert!(refused(&["save", "1-2", "x"], 1).contains("nothing of that name is kept"));
    assert!(refused(&["discard", "/nothing"], 1).contains("nothing of that name is kept"));
    assert!(refused(&["send", "-o", "prot=1", "h:/"], 1).contains("unknown mount option"));
    assert!(refused(&["send", "no source"], 1).contains("the source must be"));
    let options = bench.options();
    let nothing = said(&mut recover(
        &state,
        &["send", "-o", &options, "127.0.0.1:/"],
    ));
    assert!(nothing.contains("nothing is kept"));
    // A spool of somebody else hides no other.
    fs::create_dir_all(state.join("theirs")).unwrap();
    fs::write(
        state.join("theirs/journal"),
        "not a journal, whatever it may be",
    )
    .unwrap();
    let output = recover(&state, &[]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("it is not a spool's journal"));
}
