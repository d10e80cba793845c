//! A full disk on the server: programs hear of it at write, fsync or close, and never of success.

use super::stored;
use crate::common::command::within;
use crate::common::mount::Mount;
use crate::common::server::{Kind, Options, RealServer};
use crate::common::{tree, wait_until};
use nix::errno::Errno;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

const DISK: u64 = 4 << 20;

/// Writes by `write`, and makes what close(2) would say part of the result.
fn through(mut file: File, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    write(&mut file)?;
    nix::unistd::close(file).map_err(io::Error::from)
}

pub fn full_disk(kind: Kind) {
    let options = Options {
        disk: Some(DISK),
        ..Options::default()
    };
    let server = RealServer::start(kind, options);
    // A server that says nothing any more is not to hold the test up.
    let mount = Mount::new(&server, "timeout=5s");
    let (dir, root) = (mount.dir.clone(), server.root.clone());
    let no_space = move |what: &str, result: io::Result<()>| {
        let error = result.expect_err(what);
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        // pyftpdlib closes the data connection and says nothing ever after.
        let silent = kind.is_pyftpdlib() && errno == Errno::EIO;
        assert!(
            silent || matches!(errno, Errno::ENOSPC | Errno::EDQUOT),
            "{what}: {error}"
        );
    };
    within(Duration::from_secs(300), move || {
        let at = |name: &str| dir.join(name);
        let small = tree::bytes(30, 1 << 20);
        fs::write(at("small"), &small).expect("this fits");
        fs::write(at("ballast"), tree::bytes(31, 2 << 20)).expect("this fits, too");

        // New, and closed or synced; longer; replaced: each is too much.
        let much = tree::bytes(32, 3 << 20);
        let new = File::create(at("new")).expect("create");
        no_space(
            "close of a new file",
            through(new, |file| file.write_all(&much)),
        );
        // pyftpdlib says nothing about it, and each attempt waits for that.
        if !kind.is_pyftpdlib() {
            let new = File::create(at("synced")).expect("create");
            no_space(
                "fsync of a new file",
                through(new, |file| {
                    file.write_all(&much)?;
                    file.sync_all()
                }),
            );
        }
        let open = || File::options().write(true).open(at("small")).expect("open");
        no_space(
            "growth",
            through(open(), |file| file.write_all_at(&much, 1 << 20)),
        );
        let truncate = File::create(at("small")).expect("truncate");
        no_space(
            "replacement",
            through(truncate, |file| file.write_all(&much)),
        );

        // Nothing temporary takes up the space, and what is not to be replaced by less than the whole still stands.
        // What was left to do after the last close may still be tried.
        let tidy = || {
            stored(&root)
                .iter()
                .all(|name| !name.starts_with(".ftpsfs-"))
        };
        assert!(
            wait_until(Duration::from_secs(60), tidy),
            "{:?}",
            stored(&root)
        );
        let there = fs::read(root.join("small")).expect("read there");
        assert!(
            there.starts_with(&small),
            "the old content stands until the new is whole"
        );

        // With space again, the next writer has no trouble.
        fs::remove_file(root.join("ballast")).expect("remove it there");
        fs::write(at("small"), &much[..2 << 20]).expect("there is space");
        assert!(fs::read(root.join("small")).expect("read there") == much[..2 << 20]);
        fs::write(at("again"), &small).expect("there is space");
        assert!(fs::read(root.join("again")).expect("read there") == small);
    });
}
