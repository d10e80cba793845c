//! What the server cannot keep of a file's attributes, shown for the life of the mount: an owner,
//! permission bits, a time. By path, for inode numbers may change when a file is written or renamed.
//!
//! Must not know the server or the kernel. One leaf mutex, held for memory work only.

use std::collections::BTreeMap;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::Attr;
use crate::proto::RemotePath;

/// See the module.
pub(super) struct Overlay {
    most: usize,
    files: Mutex<BTreeMap<Vec<u8>, Worn>>,
}

/// What one file is shown with.
#[derive(Clone, Copy, Debug, Default)]
struct Worn {
    mode: Option<u16>,
    uid: Option<u32>,
    gid: Option<u32>,
    time: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Time {
    shown: SystemTime,
    /// In place of this one of the server's: once that changes, the file was written.
    instead: SystemTime,
    /// `instead` is not the server's word yet: it may change once.
    guessed: bool,
}

impl Overlay {
    /// For so many files at most.
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            files: Mutex::default(),
        }
    }

    /// Where it is, finding out a file's path is worth nothing.
    pub fn is_empty(&self) -> bool {
        self.files.lock().is_empty()
    }

    pub fn set_mode(&self, path: &RemotePath, mode: u16) {
        self.wear(path, |worn| worn.mode = Some(mode));
    }

    /// The server has taken the mode after all.
    pub fn drop_mode(&self, path: &RemotePath) {
        if let Some(worn) = self.files.lock().get_mut(path.as_bytes()) {
            worn.mode = None;
        }
    }

    pub fn set_owner(&self, path: &RemotePath, uid: Option<u32>, gid: Option<u32>) {
        self.wear(path, |worn| {
            worn.uid = uid.or(worn.uid);
            worn.gid = gid.or(worn.gid);
        });
    }

    /// Shows a time as long as the server says `instead`; `guessed`: what it says is not known.
    pub fn set_time(
        &self,
        path: &RemotePath,
        shown: SystemTime,
        instead: SystemTime,
        guessed: bool,
    ) {
        let time = Time {
            shown,
            instead,
            guessed,
        };
        self.wear(path, |worn| worn.time = Some(time));
    }

    /// Another file is called so from now on, or none.
    pub fn forget(&self, path: &RemotePath) {
        self.files.lock().remove(path.as_bytes());
    }

    /// A file was renamed, or a directory with all that is in it.
    pub fn rename(&self, from: &RemotePath, to: &RemotePath) {
        let mut files = self.files.lock();
        files.remove(to.as_bytes());
        let below = |end: u8| [from.as_bytes(), &[end]].concat();
        let inside = files.range(below(b'/')..below(b'/' + 1));
        let mut moved: Vec<_> = inside.map(|(path, _)| path.clone()).collect();
        moved.push(from.as_bytes().to_vec());
        for path in moved {
            if let Some(worn) = files.remove(&path) {
                let rest = &path[from.as_bytes().len()..];
                files.insert([to.as_bytes(), rest].concat(), worn);
            }
        }
    }

    pub fn apply(&self, path: &RemotePath, attr: &mut Attr) {
        let mut files = self.files.lock();
        let Some(worn) = files.get_mut(path.as_bytes()) else {
            return;
        };
        attr.mode = worn.mode.unwrap_or(attr.mode);
        attr.uid = worn.uid.unwrap_or(attr.uid);
        attr.gid = worn.gid.unwrap_or(attr.gid);
        if let Some(time) = &mut worn.time {
            if attr.time != time.instead && std::mem::take(&mut time.guessed) {
                time.instead = attr.time;
            }
            if attr.time == time.instead {
                attr.time = time.shown;
            }
        }
    }

    fn wear(&self, path: &RemotePath, change: impl FnOnce(&mut Worn)) {
        let mut files = self.files.lock();
        if files.len() >= self.most && !files.contains_key(path.as_bytes()) {
            files.pop_first();
        }
        change(files.entry(path.as_bytes().to_vec()).or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::fs::Ino;
    use crate::remote::FileKind;

    fn path(text: &str) -> RemotePath {
        RemotePath::parse(text.as_bytes()).expect("a path")
    }

    fn shown(overlay: &Overlay, at: &str, time: u64) -> (u16, u32, u64) {
        let mut attr = Attr::bare(Ino(7), FileKind::File);
        attr.time = UNIX_EPOCH + Duration::from_secs(time);
        overlay.apply(&path(at), &mut attr);
        let time = attr.time.duration_since(UNIX_EPOCH).expect("a time");
        (attr.mode, attr.uid, time.as_secs())
    }

    #[test]
    fn it_follows_a_rename() {
        let overlay = Overlay::new(10);
        for at in ["/a", "/a/b", "/a/b/c", "/a!", "/a0"] {
            overlay.set_mode(&path(at), 0o600);
        }
        overlay.set_owner(&path("/a/b"), Some(5), None);
        overlay.rename(&path("/a"), &path("/z"));
        for (at, mode) in [("/a", 0), ("/a/b/c", 0), ("/z", 0o600), ("/z/b/c", 0o600)] {
            assert_eq!(shown(&overlay, at, 1), (mode, 0, 1), "{at}");
        }
        assert_eq!(shown(&overlay, "/z/b", 1), (0o600, 5, 1));
        assert_eq!(shown(&overlay, "/a!", 1).0, 0o600);
        assert_eq!(shown(&overlay, "/a0", 1).0, 0o600);
    }

    #[test]
    fn a_time_ends_when_the_server_tells_another() {
        let overlay = Overlay::new(10);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        overlay.set_time(&path("/f"), at(5), at(100), false);
        overlay.set_time(&path("/d"), at(5), at(100), true);
        let times = |file| [100, 60, 100, 60, 200].map(|time| shown(&overlay, file, time).2);
        assert_eq!(times("/f"), [5, 60, 5, 60, 200]);
        assert_eq!(times("/d"), [5, 5, 100, 5, 200]);
    }

    #[test]
    fn it_is_bounded() {
        let overlay = Overlay::new(2);
        for at in ["/a", "/b", "/b", "/c"] {
            overlay.set_mode(&path(at), 0o600);
        }
        assert_eq!(overlay.files.lock().len(), 2);
        overlay.forget(&path("/c"));
        assert_eq!(shown(&overlay, "/c", 1), (0, 0, 1));
    }
}
