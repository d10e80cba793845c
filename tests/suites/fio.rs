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
    fio(&mount.dir, &["--do_verify=0", "--end_fsync=1"]);
    assert!(server.root.join("file").exists());
    fio(&server.root, &["--verify_only"]);
    let mount = Mount::at(mount.unmount(), &server, "");
    fio(&mount.dir, &["--verify_only"]);
}

/// Runs the same job, by the same seed, in a folder.
fn fio(folder: &Path, how: &[&str]) {
    let mut fio = Command::new("fio");
    fio.args(["--name=verify", "--rw=randwrite"]);
    fio.args(["--ioengine=psync", "--randseed=8", "--verify=crc32c"]);
    fio.args(["--verify_fatal=1", "--verify_state_save=0"]);
    fio.args(["--fallocate=none", "--output-format=terse"]);
    fio.args(match full() {
        true => ["--size=256m", "--bs=4k"],
        false => ["--size=16m", "--bs=4k"],
    });
    fio.arg(format!("--filename={}", folder.join("file").display()));
    fio.args(how);
    let finished = run(
        &mut fio,
        Duration::from_secs(if full() { 1200 } else { 300 }),
    );
    assert!(
        finished.status.success() && finished.stderr.is_empty(),
        "{fio:?}: {}\n{}",
        finished.stderr,
        String::from_utf8_lossy(&finished.stdout)
    );
}
