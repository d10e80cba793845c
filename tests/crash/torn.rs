//! A state folder that is damaged: what is not touched by that goes on, and the rest is told of.

use crate::common::command::{run_soon, within};
use crate::common::mount::{Mount, Place};
use crate::common::server::{Kind, RealServer};
use crate::common::{own_files, tree, wait_until};
use ftpsfs::fs::spool::{Inspection, What};
use nix::sys::signal::{Signal, kill};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const NAMES: [&str; 3] = ["first", "second", "third"];

fn content(index: usize) -> Vec<u8> {
    tree::bytes(index as u64 + 1, 200_000)
}

/// Files were closed, and the daemon died before the server had any of them.
fn promised(server: &mut RealServer) -> Place {
    let mount = Mount::new(server, "writeback");
    let paths = NAMES.map(|name| mount.path(name));
    let (wrote, has_written) = mpsc::channel();
    let (paused, is_paused) = mpsc::channel();
    let writer = thread::spawn(move || {
        own_files();
        let write = |(index, path): (usize, PathBuf)| {
            let mut file = File::create(path).expect("make a file");
            file.write_all(&content(index)).expect("write");
            file
        };
        let files: Vec<_> = paths.into_iter().enumerate().map(write).collect();
        wrote.send(()).expect("tell");
        is_paused.recv().expect("hear");
        for file in files {
            nix::unistd::close(file).expect("close");
        }
    });
    let patience = Duration::from_secs(30);
    has_written.recv_timeout(patience).expect("files written");
    server.pause();
    paused.send(()).expect("tell");
    within(patience, move || writer.join().expect("files closed"));
    let place = mount.into_place();
    kill(place.daemon(), Signal::SIGKILL).expect("kill the daemon");
    assert!(place.is_deserted());
    // Whatever lies in its sockets must not be obeyed after all.
    server.restart();
    for name in NAMES {
        assert!(!server.root.join(name).exists(), "it was not sent yet");
    }
    place
}

fn spool(place: &Place) -> PathBuf {
    let spools = Inspection::all(&place.beside("state")).expect("look at the state folder");
    assert_eq!(spools.len(), 1);
    spools[0].0.clone()
}

/// The data file of a promised one.
fn data(spool: &Path, name: &str) -> PathBuf {
    let looked = Inspection::open(spool).expect("look at the spool");
    let is_it = |what: &What| matches!(what, What::File(record) if record.path.to_string() == format!("/{name}"));
    let kept = looked.kept.iter().find(|kept| is_it(&kept.what));
    match &kept.expect("it is kept").what {
        What::File(record) => spool.join("data").join(record.id.to_string()),
        What::Lost(name) => panic!("{name} is not lost"),
    }
}

/// Mounts; everything but `lost` must arrive. Gives what the log and `ftpsfs recover` say.
fn remount(server: &RealServer, place: Place, lost: Option<&str>) -> (String, String) {
    let (mount, log) = Mount::logged_at(place, server, "writeback");
    let is_there = |(index, name): (usize, &&str)| {
        Some(*name) == lost
            || fs::read(server.root.join(name)).is_ok_and(|bytes| bytes == content(index))
    };
    let all = wait_until(Duration::from_secs(60), || {
        NAMES.iter().enumerate().all(is_there)
    });
    let said = || fs::read_to_string(&log).unwrap_or_default();
    assert!(all, "{}", said());
    if let Some(lost) = lost {
        let told = wait_until(Duration::from_secs(20), || said().contains(lost));
        assert!(told, "{}", said());
        assert!(!server.root.join(lost).exists(), "half of it is nothing");
    }
    let place = mount.unmount();
    let mut recover = place.binary();
    recover.arg("recover").arg("--state-dir");
    let list = run_soon(recover.arg(place.beside("state"))).text();
    (said(), list)
}

#[test]
fn a_torn_tail_of_the_journal_costs_nothing() {
    let mut server = RealServer::of(Kind::VsftpdExplicit);
    let place = promised(&mut server);
    let journal = spool(&place).join("journal");
    let mut journal = File::options().append(true).open(journal).expect("open");
    // A frame that says it is longer than what there is of it.
    journal
        .write_all(&[40, 0, 0, 0, 1, 2, 3, 4, 3, 0, 0])
        .expect("write");
    let (log, list) = remount(&server, place, None);
    assert!(log.contains("damaged"), "{log}");
    assert!(!NAMES.iter().any(|name| list.contains(name)), "{list}");
}

#[test]
fn a_missing_data_file_costs_its_own_file_only() {
    let mut server = RealServer::of(Kind::ProftpdExplicit);
    let place = promised(&mut server);
    fs::remove_file(data(&spool(&place), "second")).expect("remove");
    let (_, list) = remount(&server, place, Some("second"));
    assert!(list.contains("/second"), "{list}");
}

#[test]
fn a_short_data_file_costs_its_own_file_only() {
    let mut server = RealServer::of(Kind::PureFtpd);
    let place = promised(&mut server);
    let file = File::options()
        .write(true)
        .open(data(&spool(&place), "first"));
    file.and_then(|file| file.set_len(100_000)).expect("cut");
    let (_, list) = remount(&server, place, Some("first"));
    assert!(list.contains("/first"), "{list}");
}
