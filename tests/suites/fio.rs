//! fio: a file written in random order, each block with a checksum of its own; then read back in the server's own
//! folder, and on a mount that knows nothing.

use crate::common::command::run;
use crate::common::full;
use crate::common::mount::Mount;
use crate::common::server::{Kind, RealServer};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

crate::on_each_server!(random_writes);

fn random_writes(kind: Kind) {
    let server = RealServer::of(kind);
    let mount = Mount::new(&server, "");
    fio(&mount.dir, &["--rw=randwrite", "--end_fsync=1"]);
    assert!(server.root.join("file").exists());
    fio(&server.root, &["--rw=read"]);
    let mount = Mount::at(mount.unmount(), &server, "");
    fio(&mount.dir, &["--rw=read"]);
}

/// Writes a file in a folder, or verifies what was written.
fn fio(folder: &Path, how: &[&str]) {
    let mut fio = Command::new("fio");
    fio.args(["--name=verify", "--ioengine=psync", "--fallocate=none"]);
    fio.args(["--bs=4k", if full() { "--size=256m" } else { "--size=16m" }]);
    fio.args(["--verify=crc32c", "--verify_fatal=1"]);
    fio.args(["--do_verify=0", "--verify_state_save=0"]);
    fio.arg(format!("--filename={}", folder.join("file").display()));
    let finished = run(fio.args(how), Duration::from_secs(300));
    assert!(
        finished.status.success() && finished.stderr.is_empty(),
        "{fio:?}: {}\n{}",
        finished.stderr,
        String::from_utf8_lossy(&finished.stdout)
    );
}
