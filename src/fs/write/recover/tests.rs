//! Crashes at every point of an upload: the spool and the server's folder as they are then, and what
//! the next mount makes of them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;

use super::*;
use crate::client;
use crate::fs::spool::{self, Base, Durability, Spool, Wanted};
use crate::fs::tests::config;
use crate::fs::{Access, Patience};
use crate::proto::Security;
use crate::remote::Remote;
use crate::server::{self, Faults, Server, Users};
use crate::tls::TrustOptions;

struct Rig {
    served: TempDir,
    state: TempDir,
    server: Server,
    spool: Option<Spool>,
    write_back: bool,
    hard: bool,
    faults: Faults,
}

impl Rig {
    fn new() -> Self {
        let (served, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut config = server::Config::new(served.path(), Security::Implicit, Users::Anyone);
        let faults = Faults::default();
        config.faults = Some(faults.clone());
        let server = Server::start(config).unwrap();
        let mut rig = Self {
            served,
            state,
            server,
            spool: None,
            write_back: false,
            hard: false,
            faults,
        };
        rig.spool = Some(rig.open());
        rig
    }

    fn open(&self) -> Spool {
        let options = spool::Options {
            limit: 1 << 40,
            durability: Durability::Process,
            patience: Duration::from_secs(10),
        };
        let opened = Spool::open(&self.state.path().join("s"), options, SystemTime::now());
        opened.unwrap().0
    }

    fn spool(&self) -> &Spool {
        self.spool.as_ref().unwrap()
    }

    fn there(&self, name: &str) -> PathBuf {
        self.served.path().join(name)
    }

    /// A temporary name of this mount.
    fn temporary(&self, ending: &str) -> String {
        format!(".ftpsfs-{:016x}-1-1{ending}", self.spool().id())
    }

    /// A file that lies on the server since long.
    fn put(&self, name: &str, bytes: &[u8]) -> Base {
        fs::write(self.there(name), bytes).unwrap();
        let mtime = UNIX_EPOCH + Duration::from_secs(1_500_000_000);
        let file = File::options().write(true).open(self.there(name)).unwrap();
        file.set_modified(mtime).unwrap();
        Base {
            size: bytes.len() as u64,
            mtime: Some(mtime),
        }
    }

    /// A file written upon `base`, and closed; its upload began by `method`.
    fn written(
        &self,
        name: &str,
        base: Option<Base>,
        writes: &[(u64, &[u8])],
        method: Option<Method>,
    ) -> SpoolFile {
        let file = self
            .spool()
            .create(&path(name), base, SystemTime::now())
            .unwrap();
        for (at, bytes) in writes {
            file.write_at(bytes, *at).unwrap();
        }
        let version = file.commit().unwrap();
        if let Some(method) = method {
            file.begin_upload(version, method).unwrap();
        }
        file
    }

    /// The mount died; the next one sees to what it left.
    fn remount(&mut self) -> Arc<Fs> {
        self.spool = None;
        let spool = self.open();
        self.spool = Some(spool.clone());
        let client = client::Config {
            trust: TrustOptions {
                fingerprints: vec![self.server.fingerprint()],
                ..TrustOptions::default()
            },
            max_sessions: 2,
            min_rate: 0,
            ..client::Config::new(
                "127.0.0.1",
                self.server.local_addr().port(),
                Security::Implicit,
                "user",
                "password",
            )
        };
        let remote = Remote::connect(client, Instant::now() + Duration::from_secs(10)).unwrap();
        Fs::new(
            Arc::new(remote),
            crate::fs::Config {
                spool: Some(spool),
                write_back: self.write_back,
                hard: self.hard,
                timeout: Duration::from_secs(if self.hard { 2 } else { 10 }),
                ..config()
            },
        )
    }

    /// A new file `f` in a mount, of which the server has the first word; it is still open, by the handle.
    fn begun(fs: &Fs) -> (Arc<Draft>, u64) {
        let access = Access {
            write: true,
            ..Access::default()
        };
        let made = fs.create(Ino::ROOT, b"f", 0o644, access, soon());
        let (entry, opened) = made.unwrap();
        fs.write(opened.handle, b"first", 0, false).unwrap();
        fs.fsync(opened.handle, soon()).unwrap();
        (fs.drafts.of(entry.attr.ino).unwrap(), opened.handle)
    }

    /// What a remount makes of it: everything is sent, and nothing else is left there.
    fn sends(&mut self, name: &str, expected: &[u8]) {
        let fs = self.remount();
        fs.take_over(self.spool().records());
        assert_eq!(self.spool().records(), [], "{name}: nothing stays");
        let found = fs::read(self.there(name)).unwrap();
        let (has, owed) = (found.len(), expected.len());
        assert!(found == expected, "{name}: {has} bytes of {owed}");
        let names = fs::read_dir(self.served.path()).unwrap();
        let hidden = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with('.');
        assert_eq!(names.flatten().filter(hidden).count(), 0, "{name}");
        fs::remove_file(self.there(name)).unwrap();
    }

    /// A remount leaves it alone, for this reason; `anyhow` it is sent.
    fn stays(&mut self, id: RecordId, name: &str, why: &str, expected: &[u8]) {
        let before = fs::read(self.there(name)).ok();
        let fs = self.remount();
        assert_eq!(fs.resend(id, false), Err(why.to_owned()), "{name}");
        assert_eq!(self.spool().records().len(), 1, "{name}: stays");
        assert!(
            fs::read(self.there(name)).ok() == before,
            "{name}: untouched"
        );
        assert_eq!(fs.resend(id, true), Ok(()), "{name}");
        assert!(fs::read(self.there(name)).unwrap() == expected, "{name}");
        assert_eq!(self.spool().records(), []);
        fs::remove_file(self.there(name)).unwrap();
    }
}

fn soon() -> Patience {
    Patience::Until(Instant::now() + Duration::from_secs(10))
}

const CHANGED: &str = "the file changed on the server since";

fn path(name: &str) -> RemotePath {
    RemotePath::parse(format!("/{name}").as_bytes()).unwrap()
}

/// Bytes that do not repeat.
fn content(seed: u32, len: usize) -> Vec<u8> {
    let words = (seed..).map(|i| i.wrapping_mul(2_654_435_761));
    words
        .take(len.div_ceil(4))
        .flat_map(u32::to_le_bytes)
        .take(len)
        .collect()
}

/// Holds what only the server had as well, as it does when it is to be sent whole.
fn fetch(file: &SpoolFile, base: &[u8]) {
    let missing = file.missing(0..base.len() as u64).unwrap();
    file.store_fetched(missing.as_of, 0, base).unwrap();
}

fn ino(rig: &Rig, name: &str) -> u64 {
    fs::metadata(rig.there(name)).unwrap().ino()
}

#[test]
fn before_and_after_stor() {
    let mut rig = Rig::new();
    let (old, new) = (content(1, 300_000), content(2, 400_000));
    for arrived in [None, Some(0), Some(100_000), Some(400_000)] {
        for replaces in [false, true] {
            let temporary = rig.temporary("");
            let base = replaces.then(|| rig.put("f", &old));
            let method = Some(Method::Temporary(path(&temporary)));
            drop(rig.written("f", base, &[(0, &new)], method));
            if let Some(arrived) = arrived {
                fs::write(rig.there(&temporary), &new[..arrived]).unwrap();
            }
            rig.sends("f", &new);
        }
    }
}

#[test]
fn between_rnto_and_the_journal() {
    let mut rig = Rig::new();
    let (old, new) = (content(1, 300_000), content(2, 400_000));
    for replaces in [false, true] {
        let base = replaces.then(|| rig.put("f", &old));
        let method = Some(Method::Temporary(path(&rig.temporary(""))));
        let file = rig.written("f", base, &[(0, &new)], method);
        let mtime = UNIX_EPOCH + Duration::from_secs(1_111_111_111);
        file.want(Wanted {
            mode: Some(0o600),
            mtime: Some(mtime),
        })
        .unwrap();
        drop(file);
        fs::write(rig.there("f"), &new).unwrap();
        let before = ino(&rig, "f");
        let fs = rig.remount();
        fs.take_over(rig.spool().records());
        drop(fs);
        assert_eq!(rig.spool().records(), []);
        assert_eq!(ino(&rig, "f"), before, "not sent again");
        let found = fs::metadata(rig.there("f")).unwrap();
        assert_eq!(found.modified().unwrap(), mtime);
        assert_eq!(found.mode() & 0o777, 0o600);
        rig.sends("f", &new);
    }
}

/// The program wrote on after the close whose upload arrived and was not recorded.
#[test]
fn an_earlier_version_arrived_and_was_not_recorded() {
    let mut rig = Rig::new();
    let new = content(2, 400_000);
    let method = Method::Temporary(path(&rig.temporary("")));
    let file = rig.written("f", None, &[(0, &new[..250_000])], Some(method));
    file.write_at(&new[250_000..], 250_000).unwrap();
    file.commit().unwrap();
    drop(file);
    fs::write(rig.there("f"), &new[..250_000]).unwrap();
    rig.sends("f", &new);
}

#[test]
fn while_appending() {
    let mut rig = Rig::new();
    let all = content(1, 500_000);
    let (old, tail) = all.split_at(300_000);
    for arrived in [0, 1, 100_000, 200_000] {
        let base = rig.put("f", old);
        drop(rig.written(
            "f",
            Some(base),
            &[(300_000, tail)],
            Some(Method::Append(300_000)),
        ));
        if arrived > 0 {
            fs::write(rig.there("f"), &all[..300_000 + arrived]).unwrap();
        }
        let before = ino(&rig, "f");
        let fs = rig.remount();
        fs.take_over(rig.spool().records());
        drop(fs);
        assert_eq!(ino(&rig, "f"), before, "{arrived}: appended, not replaced");
        rig.sends("f", &all);
    }
}

/// The file was taken for one that others had changed.
#[test]
fn what_arrived_of_an_append_may_be_changed_before_the_next_attempt() {
    let old = content(1, 300_000);
    let tail = content(2, 200_000);
    let mut all = [&old[..], &tail].concat();
    all[340_000..360_000].fill(b'x');
    for write_back in [false, true] {
        let mut rig = Rig::new();
        rig.write_back = write_back;
        for arrived in [100_000, 200_000] {
            let base = rig.put("f", &old);
            let method = Some(Method::Append(300_000));
            let file = rig.written("f", Some(base), &[(300_000, &tail)], method);
            file.write_at(&all[340_000..360_000], 340_000).unwrap();
            file.commit().unwrap();
            drop(file);
            fs::write(rig.there("f"), [&old, &tail[..arrived]].concat()).unwrap();
            rig.sends("f", &all);
        }
    }
    // What somebody else has appended behind it stays.
    let mut rig = Rig::new();
    let base = rig.put("f", &old);
    let method = Some(Method::Append(300_000));
    let id = rig
        .written("f", Some(base), &[(300_000, &tail)], method)
        .id();
    let theirs = [&old, &tail[..100_000], b"theirs"].concat();
    fs::write(rig.there("f"), &theirs).unwrap();
    let fs = rig.remount();
    assert_eq!(fs.resend(id, false), Err(CHANGED.to_owned()));
    assert!(fs::read(rig.there("f")).unwrap() == theirs);
}

/// fsync failed, where the server was too slow to show what it had of a broken append.
#[test]
fn hard_waits_for_a_server_that_does_not_show_what_it_has() {
    let mut rig = Rig::new();
    (rig.write_back, rig.hard) = (true, true);
    let all = content(1, 500_000);
    let base = rig.put("f", &all[..300_000]);
    let method = Some(Method::Append(300_000));
    drop(rig.written("f", Some(base), &[(300_000, &all[300_000..])], method));
    fs::write(rig.there("f"), &all[..400_000]).unwrap();
    let fs = rig.remount();
    let record = rig.spool().records().remove(0);
    let file = rig.spool().adopt(record.id).unwrap();
    let found = fs.find(&record).unwrap();
    rig.faults.set("RETR always: stall 30s".parse().unwrap());
    let failed = fs.send_adopted(&record, file, found.as_ref());
    let error = failed.unwrap_err();
    assert!(fs.waits_out(&error), "{error}");
    rig.faults.clear();
    drop(fs);
    rig.sends("f", &all);
}

/// The second of two broken attempts must know where the first began.
#[test]
fn an_append_that_breaks_again_is_continued_once_more() {
    let mut rig = Rig::new();
    let all = content(1, 500_000);
    let (old, tail) = all.split_at(300_000);
    let base = rig.put("f", old);
    drop(rig.written(
        "f",
        Some(base),
        &[(300_000, tail)],
        Some(Method::Append(300_000)),
    ));
    fs::write(rig.there("f"), &all[..350_000]).unwrap();
    // The next attempt gets no further than its beginning.
    let record = rig.spool().records().remove(0);
    let file = rig.spool().adopt(record.id).unwrap();
    file.begin_upload(record.version, Method::Append(300_000))
        .unwrap();
    drop(file);
    fs::write(rig.there("f"), &all[..420_000]).unwrap();
    rig.sends("f", &all);
}

#[test]
fn while_changing_in_place() {
    let mut rig = Rig::new();
    let old = content(1, 3 << 20);
    let changes: [(u64, &[u8]); 2] = [(1_000_000, b"first change"), (2_000_000, b"second change")];
    let mut all = old.clone();
    for (at, bytes) in changes {
        all[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    // Neither, the first, half of the second, both.
    for arrived in [0, 1_500_000, 2_000_005, 3 << 20] {
        let base = rig.put("f", &old);
        drop(rig.written("f", Some(base), &changes, Some(Method::InPlace)));
        let torn = [&all[..arrived], &old[arrived..]].concat();
        fs::write(rig.there("f"), &torn).unwrap();
        let before = ino(&rig, "f");
        let fs = rig.remount();
        fs.take_over(rig.spool().records());
        drop(fs);
        assert_eq!(ino(&rig, "f"), before, "{arrived}: in place");
        rig.sends("f", &all);
    }
}

/// What was begun in place and broke is later sent whole; that breaks as well. The file on the
/// server is neither old nor new, and by nobody else's work.
#[test]
fn a_torn_file_is_known_as_ours_whatever_was_begun_since() {
    let mut rig = Rig::new();
    let old = content(1, 3 << 20);
    let mut all = old.clone();
    all[1_000_000..1_000_005].copy_from_slice(b"first");
    let base = rig.put("f", &old);
    let file = rig.written(
        "f",
        Some(base),
        &[(1_000_000, b"first")],
        Some(Method::InPlace),
    );
    fs::write(
        rig.there("f"),
        [&all[..1_000_002], &old[1_000_002..]].concat(),
    )
    .unwrap();
    fetch(&file, &old);
    let version = file.commit().unwrap();
    file.begin_upload(version, Method::Temporary(path(&rig.temporary(""))))
        .unwrap();
    drop(file);
    rig.sends("f", &all);
}

#[test]
fn while_writing_directly() {
    let mut rig = Rig::new();
    let (old, new) = (content(1, 300_000), content(2, 400_000));
    for arrived in [None, Some(0), Some(100_000), Some(400_000)] {
        for replaces in [false, true] {
            let base = replaces.then(|| rig.put("f", &old));
            let file = rig.written("f", base, &[(0, &new)], Some(Method::Direct));
            fetch(&file, &old);
            drop(file);
            match arrived {
                Some(arrived) => fs::write(rig.there("f"), &new[..arrived]).unwrap(),
                // A server that removes what a broken STOR has left.
                None if replaces => fs::remove_file(rig.there("f")).unwrap(),
                None => {}
            }
            rig.sends("f", &new);
        }
    }
}

/// IIS and FileZilla do not rename onto an existing name: the old one is set aside before.
#[test]
fn while_the_old_file_was_set_aside() {
    let mut rig = Rig::new();
    let (old, new) = (content(1, 300_000), content(2, 400_000));
    let base = rig.put("f", &old);
    let temporary = rig.temporary("");
    let method = Some(Method::Temporary(path(&temporary)));
    let file = rig.written("f", Some(base), &[(0, &new)], method);
    fetch(&file, &old);
    drop(file);
    fs::rename(rig.there("f"), rig.there(&rig.temporary("-f"))).unwrap();
    fs::write(rig.there(&temporary), &new).unwrap();
    rig.sends("f", &new);
}

#[test]
fn what_others_changed_is_not_overwritten() {
    let mut rig = Rig::new();
    let (old, new, theirs) = (
        content(1, 300_000),
        content(2, 400_000),
        content(3, 400_000),
    );
    let methods = |rig: &Rig| {
        [
            None,
            Some(Method::Temporary(path(&rig.temporary("")))),
            Some(Method::Direct),
        ]
    };
    for method in methods(&rig) {
        for replaces in [false, true] {
            let base = replaces.then(|| rig.put("f", &old));
            let file = rig.written("f", base, &[(0, &new)], method.clone());
            fetch(&file, &old);
            // As long as ours would be: only the bytes tell.
            fs::write(rig.there("f"), &theirs).unwrap();
            let id = file.id();
            drop(file);
            rig.stays(id, "f", CHANGED, &new);
        }
        let base = rig.put("f", &old);
        let file = rig.written("f", Some(base), &[(0, &new)], method.clone());
        fs::write(rig.there("f"), content(3, 5)).unwrap();
        let id = file.id();
        drop(file);
        rig.stays(id, "f", CHANGED, &new);
    }
    // Appended by others where we were about to, or changed in length under an in-place upload.
    let base = rig.put("f", &old);
    for method in [Method::Append(300_000), Method::InPlace] {
        let file = rig.written("f", Some(base), &[(300_000, b"our end")], Some(method));
        fetch(&file, &old);
        fs::write(rig.there("f"), [&old[..], b"their end"].concat()).unwrap();
        let id = file.id();
        drop(file);
        rig.stays(id, "f", CHANGED, &[&old[..], b"our end"].concat());
        rig.put("f", &old);
    }
    fs::remove_file(rig.there("f")).unwrap();
    // Removed by others.
    let file = rig.written("f", Some(base), &[(0, &new)], None);
    let id = file.id();
    drop(file);
    rig.stays(id, "f", CHANGED, &new);
}

/// With write-back what others made stays, and ours goes beside it.
#[test]
fn with_write_back_both_are_kept() {
    let mut rig = Rig::new();
    rig.write_back = true;
    let (old, new, theirs) = (
        content(1, 300_000),
        content(2, 400_000),
        content(3, 400_000),
    );
    for replaces in [false, true] {
        let base = replaces.then(|| rig.put("f", &old));
        let method = Some(Method::Temporary(path(&rig.temporary(""))));
        let file = rig.written("f", base, &[(0, &new)], method);
        drop(file);
        fs::write(rig.there("f"), &theirs).unwrap();
        let fs = rig.remount();
        fs.take_over(rig.spool().records());
        drop(fs);
        assert_eq!(rig.spool().records(), []);
        assert!(fs::read(rig.there("f")).unwrap() == theirs);
        let names = fs::read_dir(rig.served.path()).unwrap().flatten();
        let copy = names.map(|e| e.path()).find(|path| *path != rig.there("f"));
        assert!(fs::read(copy.as_ref().unwrap()).unwrap() == new);
        fs::remove_file(copy.unwrap()).unwrap();
        fs::remove_file(rig.there("f")).unwrap();
    }
    // What is half ours is nobody's to be kept.
    let base = rig.put("f", &old);
    let file = rig.written("f", Some(base), &[(0, &new)], Some(Method::Direct));
    drop(file);
    fs::write(rig.there("f"), &new[..100_000]).unwrap();
    rig.sends("f", &new);
    // An earlier version of ours is no other's.
    let method = Method::Temporary(path(&rig.temporary("")));
    drop(rig.written("f", None, &[(0, &new)], Some(method)));
    fs::write(rig.there("f"), &new[..250_000]).unwrap();
    rig.sends("f", &new);
}

/// A whole upload of a few changes arrived, and was not recorded: of the rest the spool has nothing to
/// compare.
#[test]
fn few_changes_that_arrived_are_not_taken_for_others() {
    // A loss of power forgets that it was begun.
    for is_known in [true, false] {
        let mut rig = Rig::new();
        let mut bytes = content(1, 300_000);
        let base = rig.put("f", &bytes);
        let method = Method::Temporary(path(&rig.temporary("")));
        let method = Some(method).filter(|_| is_known);
        drop(rig.written("f", Some(base), &[(1000, b"ours")], method.clone()));
        bytes[1000..1004].copy_from_slice(b"ours");
        fs::write(rig.there("f"), &bytes).unwrap();
        rig.sends("f", &bytes);
        // Nothing of ours is in this one.
        let base = rig.put("f", &bytes);
        let id = rig
            .written("f", Some(base), &[(1000, b"more")], method)
            .id();
        fs::write(rig.there("f"), content(3, 300_000)).unwrap();
        let fs = rig.remount();
        assert_eq!(fs.resend(id, false), Err(CHANGED.to_owned()));
    }
}

/// The mount died between the renaming of one version and its record, and the file was overwritten
/// since: what the server has is what that replaces.
#[test]
fn an_earlier_version_that_arrived_is_not_taken_for_others() {
    let mut rig = Rig::new();
    rig.write_back = true;
    let (first, second) = (content(1, 300_000), content(2, 200_000));
    for arrived in [true, false] {
        let file = rig.written("f", None, &[(0, &first)], None);
        let version = file.record().unwrap().version;
        let temporary = path(&rig.temporary(""));
        file.begin_renaming(version, &temporary, first.len() as u64)
            .unwrap();
        file.truncate(0).unwrap();
        file.write_at(&second, 0).unwrap();
        file.commit().unwrap();
        drop(file);
        let name = match arrived {
            true => "f".to_owned(),
            false => rig.temporary(""),
        };
        fs::write(rig.there(&name), &first).unwrap();
        let fs = rig.remount();
        assert!(fs.adopt(rig.spool().records()).is_empty());
        fs.settle();
        assert_eq!(rig.spool().records(), []);
        assert!(fs::read(rig.there("f")).unwrap() == second);
        assert_eq!(fs::read_dir(rig.served.path()).unwrap().count(), 1);
        fs::remove_file(rig.there("f")).unwrap();
    }
}

/// What was promised for a file goes where the file is, whatever became of the rename that the crash
/// interrupted.
#[test]
fn a_rename_that_was_interrupted_takes_what_is_pending_along() {
    let mut rig = Rig::new();
    rig.write_back = true;
    let (old, end) = (content(1, 300_000), content(2, 1_000));
    for is_renamed in [false, true] {
        let base = rig.put("from", &old);
        drop(rig.written("from", Some(base), &[(300_000, &end)], None));
        let (from, to) = (path("from"), path("to"));
        rig.spool().begin_rename(&from, &to).unwrap();
        let name = match is_renamed {
            true => "to",
            false => "from",
        };
        fs::rename(rig.there("from"), rig.there(name)).unwrap();
        let fs = rig.remount();
        assert!(fs.adopt(rig.spool().records()).is_empty());
        fs.settle();
        assert_eq!(
            (rig.spool().records(), rig.spool().renames()),
            (vec![], vec![])
        );
        let found = fs::read(rig.there(name)).unwrap();
        assert!(found == [&old[..], &end].concat(), "{name}");
        assert_eq!(fs::read_dir(rig.served.path()).unwrap().count(), 1);
        fs::remove_file(rig.there(name)).unwrap();
    }
}

#[test]
fn a_directory_in_its_place_is_left_alone() {
    let mut rig = Rig::new();
    let id = rig.written("f", None, &[(0, b"x")], None).id();
    fs::create_dir(rig.there("f")).unwrap();
    let fs = rig.remount();
    assert_eq!(fs.resend(id, false), Err(CHANGED.to_owned()));
    let why = "it is no file on the server any more".to_owned();
    assert_eq!(fs.resend(id, true), Err(why));
    assert_eq!(rig.spool().records().len(), 1);
    assert!(rig.there("f").is_dir());
}

/// What only the server had is gone with the old file: half of ours must not be made of it.
#[test]
fn what_is_not_whole_is_not_mixed_with_another_file() {
    let mut rig = Rig::new();
    let old = content(1, 300_000);
    let base = rig.put("f", &old);
    let id = rig.written("f", Some(base), &[(1000, b"ours")], None).id();
    fs::write(rig.there("f"), content(3, 300_000)).unwrap();
    let fs = rig.remount();
    assert_eq!(fs.resend(id, false), Err(CHANGED.to_owned()));
    assert!(fs.resend(id, true).is_err());
    assert_eq!(fs::read(rig.there("f")).unwrap(), content(3, 300_000));
    assert_eq!(rig.spool().records().len(), 1);
}

#[test]
fn what_was_never_closed_waits_to_be_asked_for() {
    let mut rig = Rig::new();
    let file = rig
        .spool()
        .create(&path("f"), None, SystemTime::now())
        .unwrap();
    file.write_at(b"half", 0).unwrap();
    let id = file.id();
    drop(file);
    rig.stays(id, "f", "it was never closed", b"half");
}

#[test]
fn what_nobody_wants_goes_with_what_was_sent_of_it() {
    let mut rig = Rig::new();
    let temporary = rig.temporary("");
    let method = Some(Method::Temporary(path(&temporary)));
    let file = rig.written("f", None, &[(0, b"x")], method);
    fs::write(rig.there(&temporary), "x").unwrap();
    file.unlink().unwrap();
    drop(file);
    let fs = rig.remount();
    fs.take_over(rig.spool().records());
    assert_eq!(rig.spool().records(), []);
    assert_eq!(fs::read_dir(rig.served.path()).unwrap().count(), 0);
}

#[test]
fn the_way_back_is_a_whole_command() {
    let mut rig = Rig::new();
    let id = rig.written("f", None, &[(0, b"x")], None).id();
    let (fs, state) = (rig.remount(), rig.state.path().display().to_string());
    let kept = rig.spool().kept_as(id);
    let command = format!("ftpsfs recover --state-dir {state} save {kept} FILE");
    assert_eq!(fs.way_back(id), command);
}

/// The record of what was sent is brought up to date before the cache is: whoever lets go of the
/// file in between must not uncover what the cache had from before.
#[test]
fn a_file_sent_just_now_is_not_shown_as_it_was_before() {
    let mut rig = Rig::new();
    rig.write_back = true;
    let fs = rig.remount();
    let (draft, handle) = Rig::begun(&fs);
    fs.write(handle, b", second", 5, false).unwrap();
    let sending = draft.upload.lock();
    fs.flush(handle, soon()).unwrap();
    let version = draft.file.with(|record| record.version).unwrap();
    let base = Base {
        size: 13,
        mtime: None,
    };
    draft.file.mark_uploaded(version, base).unwrap();
    fs.release(handle);
    let (shown, _) = fs.getattr(draft.ino, soon()).unwrap();
    assert_eq!(shown.size, 13);
    drop(sending);
}

/// The file was written and closed between the server's word on its time and ours that it has it: the
/// version closed then was taken for sent, and was lost.
#[test]
fn what_is_closed_while_a_file_is_given_a_time_is_sent() {
    let mut rig = Rig::new();
    let fs = rig.remount();
    let (draft, handle) = Rig::begun(&fs);
    let before = draft.server();
    fs.write(handle, b", second", 5, false).unwrap();
    draft.file.commit().unwrap();
    let date = |attributes: &mut Attributes| attributes.mtime = UNIX_EPOCH;
    fs.changed_there(draft.ino, date, &before);
    fs.flush(handle, soon()).unwrap();
    fs.release(handle);
    assert_eq!(fs::read(rig.there("f")).unwrap(), b"first, second");
}
