//! The content cache: `cache_dir=`.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use ftpsfs::server::Faults;
use serde_json::Value;

use super::bench::{Bench, refusal, said, succeed, wait_until};

/// A server that counts downloads, and a mount of it that keeps what it reads.
pub struct Kept {
    pub bench: Bench,
    faults: Faults,
}

impl Kept {
    pub fn new() -> Self {
        // A fault that is none, but is counted.
        let faults = Faults::new("RETR always: stall 1ms".parse().unwrap());
        let bench = Bench::with(|config| config.faults = Some(faults.clone()));
        Self { bench, faults }
    }

    pub fn downloads(&self) -> u64 {
        self.faults.counts().hits
    }

    fn options(&self, more: &str) -> String {
        let cache = self.bench.path("cache");
        format!(
            "{},cache_dir={}{more}",
            self.bench.options(),
            cache.display()
        )
    }

    pub fn mount(&self, more: &str) {
        succeed(&mut self.bench.helper("/", &self.options(more)));
    }

    pub fn unmount(&self) {
        self.bench.unmount();
        self.bench.expect_gone();
    }

    /// Puts a file on the server that was changed at that second.
    pub fn put(&self, name: &str, content: &[u8], second: u64) {
        let path = self.bench.path("served").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.bench.mount_point().join(name)).unwrap()
    }
}

pub fn content(seed: u32, length: usize) -> Vec<u8> {
    let word = |i: u32| (i ^ seed.rotate_left(16)).wrapping_mul(2_654_435_761);
    let mut bytes: Vec<u8> = (0..length.div_ceil(4) as u32)
        .flat_map(|i| word(i).to_le_bytes())
        .collect();
    bytes.truncate(length);
    bytes
}

pub const THEN: u64 = 1_600_000_001;

#[test]
fn a_second_mount_reads_without_downloads() {
    let kept = Kept::new();
    let mut files = vec![("large".to_string(), content(1, (3 << 20) + 7))];
    files.extend((0..8).map(|n| (format!("folder/{n}"), content(n, 3000 + n as usize))));
    for (name, content) in &files {
        kept.put(name, content, THEN);
    }
    kept.mount("");
    for (name, content) in &files {
        assert!(kept.read(name) == *content, "{name}");
    }
    let first = kept.downloads();
    assert!(first > 0, "the server counts");
    kept.unmount();
    kept.put("new", b"new", THEN);
    kept.mount("");
    for (name, content) in &files {
        assert!(kept.read(name) == *content, "{name}");
    }
    assert_eq!(kept.downloads(), first);
    let status = |more: &[&str]| {
        let mut command = kept.bench.program(&["status"]);
        said(command.arg(kept.bench.mount_point()).args(more))
    };
    let told: Value = serde_json::from_str(&status(&["--json"])).unwrap();
    let told = &told["content_cache"];
    assert_eq!(told["enabled"], true);
    assert_eq!(told["files"], files.len());
    assert!(told["hits"].as_u64() >= Some(files.len() as u64), "{told}");
    assert!(told["bytes"].as_u64() > Some(3 << 20), "{told}");
    let text = status(&[]);
    assert!(
        text.contains("content cache: ") && text.contains("9 files, 100 % hits"),
        "{text}"
    );
    // What is not kept is fetched as ever.
    assert_eq!(kept.read("new"), b"new");
    assert!(kept.downloads() > first);
    kept.unmount();
}

#[test]
fn a_first_read_of_a_large_file_is_not_slowed_down() {
    let kept = Kept::new();
    let large = content(3, 150 << 20);
    kept.put("large", &large, THEN);
    kept.mount(",timeout=5");
    let begun = Instant::now();
    assert!(kept.read("large") == large);
    // It once read what it had just kept, while its streams held the memory for nobody.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    let mut status = kept.bench.program(&["status", "--json"]);
    let told: Value = serde_json::from_str(&said(status.arg(kept.bench.mount_point()))).unwrap();
    let hits = told["content_cache"]["hit_bytes"].as_u64().unwrap();
    assert!(hits < 40 << 20, "{hits}");
    kept.unmount();
}

#[test]
fn a_file_changed_on_the_server_is_fetched_anew() {
    let kept = Kept::new();
    let (old, new) = (content(1, 300_000), content(2, 300_000));
    kept.put("file", &old, THEN);
    kept.mount(",attr_timeout=1");
    assert!(kept.read("file") == old);
    kept.unmount();
    kept.put("file", &new, THEN + 1);
    kept.mount(",attr_timeout=1");
    assert!(kept.read("file") == new, "another time");
    kept.unmount();
    kept.mount(",attr_timeout=1");
    let before = kept.downloads();
    assert!(kept.read("file") == new);
    assert_eq!(kept.downloads(), before, "the new one is kept");
    // Also within a mount, as soon as the server is asked again.
    kept.put("file", &old, THEN + 2);
    std::thread::sleep(Duration::from_millis(1200));
    assert!(kept.read("file") == old);
    kept.unmount();
}

#[test]
fn what_we_replace_ourselves_does_not_come_back_with_its_old_time() {
    let kept = Kept::new();
    for name in ["rewritten", "replaced", "folder/moved"] {
        kept.put(name, &content(1, 5000), THEN);
    }
    for name in ["other", "folder2/moved"] {
        kept.put(name, &content(2, 5000), THEN);
    }
    let new = kept.bench.path("new");
    fs::write(&new, content(2, 5000)).unwrap();
    kept.mount("");
    for name in ["rewritten", "replaced", "folder/moved"] {
        assert!(kept.read(name) == content(1, 5000));
    }
    // From another process: a file open here could be closed by a fork of another test.
    let script = format!(
        "cat '{}' >rewritten && touch -d @{THEN} rewritten && mv other replaced &&
        mv folder away && mv folder2 folder",
        new.display()
    );
    succeed(
        Command::new("sh")
            .args(["-ec", &script])
            .current_dir(kept.bench.mount_point()),
    );
    for _ in 0..2 {
        for name in ["rewritten", "replaced", "folder/moved"] {
            let there = fs::metadata(kept.bench.path("served").join(name)).unwrap();
            let time = there
                .modified()
                .unwrap()
                .duration_since(SystemTime::UNIX_EPOCH);
            assert_eq!(
                (there.len(), time.unwrap().as_secs()),
                (5000, THEN),
                "{name}"
            );
            assert!(kept.read(name) == content(2, 5000), "{name}");
        }
        kept.unmount();
        kept.mount("");
    }
    kept.unmount();
}

#[test]
fn of_two_mounts_of_a_source_one_goes_without() {
    let kept = Kept::new();
    kept.put("file", b"content", THEN);
    kept.mount("");
    assert_eq!(kept.read("file"), b"content");
    let second = kept.bench.path("second");
    fs::create_dir(&second).unwrap();
    let log = kept.bench.path("log");
    let mut command = kept.bench.program(&["mount", "-f", "127.0.0.1:/"]);
    command.arg(&second).args(["-o", &kept.options("")]);
    command
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap());
    let mut daemon = command.spawn().unwrap();
    let said = || fs::read_to_string(&log).unwrap();
    wait_until("the second mount", || said().contains("mounted "));
    assert_eq!(fs::read(second.join("file")).unwrap(), b"content");
    wait_until("umount", || {
        Command::new("umount")
            .arg(&second)
            .status()
            .unwrap()
            .success()
    });
    assert!(daemon.wait().unwrap().success());
    assert!(
        said().contains("this one goes without a content cache"),
        "{}",
        said()
    );
    let downloads = kept.downloads();
    kept.unmount();
    kept.mount("");
    assert_eq!(kept.read("file"), b"content");
    assert_eq!(
        kept.downloads(),
        downloads,
        "the first one's cache is whole"
    );
    kept.unmount();
}

#[test]
fn a_cache_that_others_can_write_to_is_refused() {
    let kept = Kept::new();
    let cache = kept.bench.path("cache");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    let refused = refusal(&mut kept.bench.helper("/", &kept.options("")), 2);
    assert!(
        refused.contains("can be written to by others (cache_dir= says where)"),
        "{refused}"
    );
}
