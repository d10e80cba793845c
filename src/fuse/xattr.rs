//! Extended attributes: none, or with `xattr` what [`Door::show`] gives, on the mount's root alone.
//!
//! Off by default: the kernel believes ENOSYS and never asks again, but once anything has
//! attributes it asks for `security.capability` before each write.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{Errno, INodeNo, ReplyXattr};

use super::{Door, Ino};

/// Names and values.
pub type Attributes = BTreeMap<Box<[u8]>, Vec<u8>>;

/// Who tells them, at once and from memory.
pub(super) type Shown = Box<dyn Fn() -> Attributes + Send + Sync>;

impl Door {
    /// Has the root of the mount show these attributes.
    pub fn show(&mut self, attributes: impl Fn() -> Attributes + Send + Sync + 'static) {
        self.shown = Some(Box::new(attributes));
    }

    pub(super) fn answer_getxattr(&self, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let Some(shown) = &self.shown else {
            return reply.error(Errno::ENOSYS);
        };
        let value = match Ino(ino.0) {
            Ino::ROOT => shown().remove(name.as_bytes()),
            _ => None,
        };
        match value {
            Some(value) => answer(&value, size, reply),
            None => reply.error(Errno::ENODATA),
        }
    }

    pub(super) fn answer_listxattr(&self, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let Some(shown) = &self.shown else {
            return reply.error(Errno::ENOSYS);
        };
        let mut names = Vec::new();
        if Ino(ino.0) == Ino::ROOT {
            for name in shown().keys() {
                names.extend_from_slice(name);
                names.push(0);
            }
        }
        answer(&names, size, reply);
    }
}

/// The bytes, or how many they are where no room was offered.
fn answer(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(bytes.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}
