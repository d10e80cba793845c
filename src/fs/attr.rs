//! What the kernel shows of a file, made from what the server told of it. Knows no cache and no
//! inode table.

use std::time::SystemTime;

use super::{Config, Ino};
use crate::remote::{Attributes, FileKind};

/// What stat(2) shows. One time stands for all three: FTP knows no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: Ino,
    pub kind: FileKind,
    /// Bytes; of a symbolic link the length of its target.
    pub size: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
    pub time: SystemTime,
    /// Permission bits, 0o7777.
    pub mode: u16,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Attr {
    /// A number and a type, of which nothing else is said.
    pub fn bare(ino: Ino, kind: FileKind) -> Self {
        Self {
            ino,
            kind,
            size: 0,
            blocks: 0,
            time: SystemTime::UNIX_EPOCH,
            mode: 0,
            links: 0,
            uid: 0,
            gid: 0,
        }
    }
}

/// The preferred unit of I/O, bytes.
pub const BLOCK_SIZE: u32 = 4096;

/// How files are shown: owner and permission bits by the user's options, the rest as it is.
pub(super) fn show(config: &Config, ino: Ino, attributes: &Attributes) -> Attr {
    let directory = attributes.kind == FileKind::Directory;
    let size = match &attributes.link_target {
        Some(target) if attributes.kind == FileKind::Symlink => target.len() as u64,
        _ if directory => u64::from(BLOCK_SIZE),
        _ => attributes.size,
    };
    Attr {
        ino,
        kind: attributes.kind,
        size,
        blocks: size.div_ceil(512),
        time: attributes.mtime,
        mode: mode(config, attributes),
        links: if directory { 2 } else { 1 },
        uid: config.uid,
        gid: config.gid,
    }
}

fn mode(config: &Config, attributes: &Attributes) -> u16 {
    let (default, mask) = match attributes.kind {
        FileKind::Directory => (0o755, config.dmask),
        // Nobody looks at the permission bits of a link.
        FileKind::Symlink => return 0o777,
        FileKind::File | FileKind::Other => (0o644, config.fmask),
    };
    attributes.mode.unwrap_or(default) & 0o7777 & !mask
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, file};
    use super::*;

    fn shown(kind: FileKind, mode: Option<u16>, config: &Config) -> Attr {
        let attributes = Attributes {
            kind,
            mode,
            ..file(1025)
        };
        show(config, Ino(7), &attributes)
    }

    #[test]
    fn modes_are_the_servers_or_usual_ones_under_the_masks() {
        let plain = config();
        assert_eq!(shown(FileKind::File, None, &plain).mode, 0o644);
        assert_eq!(shown(FileKind::Directory, None, &plain).mode, 0o755);
        assert_eq!(shown(FileKind::Symlink, Some(0o644), &plain).mode, 0o777);
        assert_eq!(shown(FileKind::File, Some(0o4711), &plain).mode, 0o4711);
        let masked = Config {
            fmask: 0o133,
            dmask: 0o022,
            ..config()
        };
        assert_eq!(shown(FileKind::File, Some(0o777), &masked).mode, 0o644);
        assert_eq!(shown(FileKind::Directory, Some(0o777), &masked).mode, 0o755);
    }

    #[test]
    fn sizes_and_links() {
        let attr = shown(FileKind::File, None, &config());
        assert_eq!((attr.size, attr.blocks, attr.links), (1025, 3, 1));
        assert_eq!(shown(FileKind::Directory, None, &config()).links, 2);
        let link = Attributes {
            kind: FileKind::Symlink,
            link_target: Some(b"../target"[..].into()),
            ..file(0)
        };
        assert_eq!(show(&config(), Ino(7), &link).size, 9);
    }
}
