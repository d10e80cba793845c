//! What holds on every server, by every kind of FTPS, over TLS 1.2 and 1.3.
//!
//! Where a server cannot show something (a link's target, an exact time), the test says which server and what
//! then holds instead. Tests of one server's ways, and of failing to mount, are elsewhere.

mod connections;
mod contents;
mod metadata;

use crate::common::command::soon;
use crate::common::mount::Mount;
use crate::common::server::{Kind, RealServer};
use connections::*;
use contents::*;
use metadata::*;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self};
use std::io::{self};
use std::path::Path;

/// One server and one version of TLS.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    kind: Kind,
    tls: &'static str,
}

impl Case {
    fn server(self) -> RealServer {
        RealServer::of(self.kind)
    }

    fn mount(self, server: &RealServer, extra: &str) -> Mount {
        Mount::new(server, &self.with_tls(extra))
    }

    fn with_tls(self, extra: &str) -> String {
        format!("tls={},{extra}", self.tls)
            .trim_end_matches(',')
            .to_owned()
    }
}

/// Makes a test of each function, for each server and version of TLS: `vsftpd_implicit::tls12::odd_names`.
macro_rules! on_every_server {
    ($($test:ident),* $(,)?) => {
        on_every_server!(@servers [$($test)*]
            vsftpd VsftpdExplicit, vsftpd_implicit VsftpdImplicit, proftpd ProftpdExplicit,
            proftpd_implicit ProftpdImplicit, pure_ftpd PureFtpd, pyftpdlib Pyftpdlib,
            pyftpdlib_implicit PyftpdlibImplicit);
    };
    (@servers $tests:tt $($module:ident $kind:ident),*) => {
        $(mod $module {
            on_every_server!(@tests tls12 "1.2" $kind $tests);
            on_every_server!(@tests tls13 "1.3" $kind $tests);
        })*
    };
    (@tests $module:ident $tls:literal $kind:ident [$($test:ident)*]) => {
        mod $module {
            use crate::common::server::Kind;
            use crate::every_server::Case;
            $(#[test]
            fn $test() {
                crate::every_server::$test(Case { kind: Kind::$kind, tls: $tls });
            })*
        }
    };
}

on_every_server! {
    odd_names, symbolic_links, line_feeds_in_names, times, inode_numbers, large_file, beyond_four_gibibytes,
    small_and_empty_files, eight_readers, readers_of_one_file, appended_data, replaced_file,
    ten_thousand_entries, stopped_server, killed_server, read_only, free_space, ipv6, active_mode, one_session,
    connection_cap,
}

/// The names that a folder lists, each of them once.
fn names(dir: &Path) -> BTreeSet<OsString> {
    let dir = dir.to_owned();
    soon(move || {
        let entries = fs::read_dir(dir).expect("list");
        let entries: Vec<OsString> = entries
            .map(|entry| entry.expect("read an entry").file_name())
            .collect();
        let distinct: BTreeSet<OsString> = entries.iter().cloned().collect();
        assert_eq!(distinct.len(), entries.len(), "no name comes twice");
        distinct
    })
}

fn errno(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}
