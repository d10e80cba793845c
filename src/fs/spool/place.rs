//! Where spools are kept: the state folder, and below it one folder for each source.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use sha2::{Digest, Sha256};

use crate::proto::RemotePath;

/// What is mounted: two mounts of the same share a spool, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub user: &'a str,
    /// Host names mean the same in upper and lower case.
    pub host: &'a str,
    /// The control connection's.
    pub port: u16,
    /// The folder on the server that is mounted.
    pub root: &'a RemotePath,
}

/// How much of a source's name stays readable, bytes.
const READABLE: usize = 64;

impl Source<'_> {
    /// The name of this source's folder: readable first, then a hash that tells apart what reads
    /// the same.
    pub fn folder_name(&self) -> String {
        let host = self.host.to_ascii_lowercase();
        let mut hash = Sha256::new();
        for part in [
            self.user.as_bytes(),
            host.as_bytes(),
            &self.port.to_be_bytes(),
        ] {
            // Lengths keep the parts apart.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(self.root.as_bytes());
        let hash: String = hash.finalize()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let root = self.root.as_bytes().escape_ascii();
        let readable = format!("{}@{host}:{}{root}", self.user, self.port);
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || "@.-".contains(c) {
                c
            } else {
                '_'
            }
        };
        let readable: String = readable.chars().map(plain).take(READABLE).collect();
        format!("{}-{hash}", readable.trim_matches(['.', '_', '-']))
    }
}

/// Where spools are kept unless `state_dir=` says otherwise: /var/lib/ftpsfs for root, else
/// $XDG_STATE_HOME/ftpsfs or ~/.local/state/ftpsfs. Never a cache folder: a spool holds the only
/// copy. `None` without a home.
pub fn default_state_dir() -> Option<PathBuf> {
    let root = geteuid().is_root();
    state_dir(root, env::var_os("XDG_STATE_HOME"), env::var_os("HOME"))
}

fn state_dir(root: bool, xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    if root {
        return Some(PathBuf::from("/var/lib/ftpsfs"));
    }
    // The XDG specification: a relative path is to be ignored.
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let state = xdg.and_then(absolute);
    let state = state.or_else(|| Some(home.and_then(absolute)?.join(Path::new(".local/state"))))?;
    Some(state.join("ftpsfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(user: &str, host: &str, port: u16, root: &str) -> String {
        let root = &RemotePath::parse(root.as_bytes()).expect("a path");
        Source {
            user,
            host,
            port,
            root,
        }
        .folder_name()
    }

    #[test]
    fn a_source_has_one_readable_folder() {
        let folder = name("me", "Files.Example.org", 990, "/in/box");
        assert!(
            folder.starts_with("me@files.example.org_990_in_box-"),
            "{folder}"
        );
        assert_eq!(folder, name("me", "files.example.ORG", 990, "/in/box"));
        assert_eq!(folder.rsplit('-').next().map(str::len), Some(16));
    }

    #[test]
    fn what_reads_the_same_is_told_apart() {
        let names = [
            name("a", "b", 21, "/"),
            name("a", "b", 21, "/_"),
            name("a", "b", 21, "/?"),
            name("a", "b", 2, "/1"),
            name("", "a@b", 21, "/"),
            name("a@b", "", 21, "/"),
            name("a", "b", 990, "/"),
        ];
        for (i, one) in names.iter().enumerate() {
            assert!(!names[..i].contains(one), "{one}");
        }
    }

    #[test]
    fn any_source_makes_one_short_component() {
        for folder in [
            name("../..", "..", 1, "/"),
            name("", "", 0, "/"),
            name("ü/\n", "[fe80::1%eth0]", 21, &"/ä b".repeat(2000)),
        ] {
            assert!(folder.len() <= READABLE + 17, "{folder}");
            assert!(
                !folder.contains(['/', '\n']) && !folder.starts_with('.'),
                "{folder}"
            );
        }
    }

    #[test]
    fn the_state_folder_follows_xdg() {
        let os = |text: &str| Some(OsString::from(text));
        let is = |text: &str| Some(PathBuf::from(text));
        assert_eq!(
            state_dir(true, os("/s"), os("/root")),
            is("/var/lib/ftpsfs")
        );
        assert_eq!(state_dir(false, os("/s"), os("/home/me")), is("/s/ftpsfs"));
        let home = is("/home/me/.local/state/ftpsfs");
        assert_eq!(state_dir(false, None, os("/home/me")), home);
        assert_eq!(state_dir(false, os("relative"), os("/home/me")), home);
        assert_eq!(state_dir(false, os(""), None), None);
    }
}
