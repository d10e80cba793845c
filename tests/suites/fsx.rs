//! fsx: one file written, mapped, cut and read in every way and order, by one program that knows what must be in
//! it. Every so many operations it closes the file, and what the server holds then is compared with what the same
//! program, from the same seed, makes on the local disk. It goes on from a mount that knows nothing.

use crate::common::command::{run, within};
use crate::common::full;
use crate::common::mount::Mount;
use crate::common::server::{Kind, RealServer};
use crate::tool;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Operations between two comparisons. Each time they are of another seed: fsx cannot go on where it copies ranges.
const SLICE: u64 = 1000;

/// Everything but holes, which FTP has no way to punch.
const CONFIGURATION: &str = "
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 3
fsync = 1
fdatasync = 1
posix_fallocate = 1
sendfile = 2
posix_fadvise = 1
copy_file_range = 2
";

crate::on_each_server!(one_file);

fn one_file(kind: Kind) {
    let server = RealServer::of(kind);
    let local = tempfile::tempdir().expect("make a folder");
    fs::write(local.path().join("fsx.toml"), CONFIGURATION).expect("write fsx's configuration");
    let mut mount = Mount::new(&server, "");
    for _ in 0..if full() { 200 } else { 3 } {
        let seed = RandomState::new().hash_one(0);
        let what = format!("{kind:?}, seed {seed}");
        exercise(local.path(), &mount.path("file"), seed, &what);
        exercise(local.path(), &local.path().join("file"), seed, &what);
        let mut expected = fs::read(local.path().join("file")).expect("read the local file");
        let there = || fs::read(server.root.join("file")).expect("read the server's file");
        assert_same(&there(), &expected, &what);
        mount = Mount::at(mount.unmount(), &server, "");
        let cold = mount.path("file");
        let read = within(Duration::from_secs(60), || fs::read(cold).expect("read"));
        assert_same(&read, &expected, &what);
        // fsx begins by emptying the file. This changes one of which nothing is known here.
        let at = (seed % (expected.len() as u64 + 1)) as usize;
        expected.resize(expected.len().max(at + 5), 0);
        expected[at..at + 5].copy_from_slice(b"amid ");
        let cold = File::options().write(true).open(mount.path("file"));
        cold.and_then(|file| file.write_all_at(b"amid ", at as u64))
            .expect("write amid");
        assert_same(&there(), &expected, &what);
    }
}

/// Runs the operations that come of a seed.
fn exercise(local: &Path, file: &Path, seed: u64, what: &str) {
    let mut fsx = Command::new(tool("fsx"));
    fsx.arg("-f").arg(local.join("fsx.toml"));
    fsx.arg("-P").arg(local);
    fsx.args(["-S", &seed.to_string(), "-N", &SLICE.to_string()]);
    let finished = run(fsx.arg(file), Duration::from_secs(300));
    assert!(
        finished.status.success(),
        "{what}: {}\n{}{}",
        file.display(),
        String::from_utf8_lossy(&finished.stdout),
        finished.stderr
    );
}

fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{what}: the first byte that differs");
}
