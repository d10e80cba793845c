//! The content cache in front of real servers.

use crate::common::command::soon;
use crate::common::mount::{Mount, Place};
use crate::common::server::{Kind, RealServer};
use crate::common::tree;
use std::fs;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn vsftpd() {
    a_remount_reads_from_the_local_disk(Kind::VsftpdExplicit);
}

#[test]
fn pyftpdlib() {
    a_remount_reads_from_the_local_disk(Kind::PyftpdlibImplicit);
}

#[test]
fn proftpd() {
    a_remount_reads_from_the_local_disk(Kind::ProftpdImplicit);
}

fn a_remount_reads_from_the_local_disk(kind: Kind) {
    let server = RealServer::of(kind);
    let (old, new) = (tree::bytes(1, 1_500_001), tree::bytes(2, 1_500_001));
    tree::put(&server.root.join("file"), &old, 3 * DAY);
    let downloads = || server.log().matches("RETR").count();
    let mut place = Some(Place::new());
    let mut expect = |content: &[u8]| {
        let there = place.take().expect("a place");
        let options = format!("cache_dir={}", there.beside("cache").display());
        let mount = Mount::at(there, &server, &options);
        let path = mount.path("file");
        let read = soon(move || fs::read(path)).expect("read");
        assert!(read == content, "{kind:?}");
        place = Some(mount.unmount());
        downloads()
    };
    let first = expect(&old);
    assert!(first > 0, "the log shows downloads");
    assert_eq!(expect(&old), first, "none was needed");
    tree::put(&server.root.join("file"), &new, 2 * DAY);
    let second = expect(&new);
    assert!(second > first, "it was fetched anew");
    assert_eq!(expect(&new), second);
}
