//! Test suites of others, each on mounts of each real server: POSIX calls (pjdfstest), one file written in every
//! way (fsx), and random writing that is verified (fio).

#[path = "../common/mod.rs"]
mod common;
mod fio;
mod fsx;
mod pjdfstest;

use std::path::{Path, PathBuf};

/// A test for each server.
#[macro_export]
macro_rules! on_each_server {
    ($test:ident) => {
        #[test]
        fn vsftpd() {
            $test($crate::common::server::Kind::VsftpdExplicit);
        }

        #[test]
        fn proftpd() {
            $test($crate::common::server::Kind::ProftpdExplicit);
        }

        #[test]
        fn pure_ftpd() {
            $test($crate::common::server::Kind::PureFtpd);
        }

        #[test]
        fn pyftpdlib() {
            $test($crate::common::server::Kind::Pyftpdlib);
        }
    };
}

/// A program that tests/servers/install builds.
fn tool(name: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin");
    let path = tools.join(name);
    assert!(
        path.exists(),
        "{} is missing: tests/servers/install makes it",
        path.display()
    );
    path
}
