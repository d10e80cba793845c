//! What the tests of the file system's parts share.

use std::time::SystemTime;

use super::*;

pub(super) fn config() -> Config {
    Config {
        root: RemotePath::root(),
        uid: 1000,
        gid: 1000,
        fmask: 0,
        dmask: 0,
        timeout: Duration::from_secs(10),
        retries: 2,
        attr_timeout: Duration::from_secs(10),
        dir_timeout: Duration::from_secs(10),
        negative_timeout: Duration::from_secs(10),
        cache_entries: 1000,
        window_bytes: 16 << 20,
        prefetch: true,
        spool: None,
        shelf: None,
        passthrough: false,
        strict: false,
        direct: false,
        temp_dir: None,
        temp_name: None,
        uploads: 3,
        write_back: false,
        hard: false,
        min_rate: 0,
    }
}

pub(super) fn file(size: u64) -> Attributes {
    Attributes::file(size, SystemTime::UNIX_EPOCH)
}
