//! Folders, locks, and who may have them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::thread;

use super::*;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn refusal(path: &Path) -> String {
    match Spool::open(path, OPTIONS, now()) {
        Err(error @ SpoolError::Insecure { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_is_private() {
    let home = tempfile::tempdir().expect("make a folder");
    let dir = home.path().join("state/ftpsfs/source");
    let (spool, _) = open(&dir);
    spool.create(&path("/f"), None, now()).expect("create");
    let mut seen = 0;
    let mut todo = vec![home.path().join("state")];
    while let Some(at) = todo.pop() {
        let found = fs::symlink_metadata(&at).expect("stat");
        assert_eq!(found.mode() & 0o077, 0, "{}", at.display());
        seen += 1;
        if found.is_dir() {
            let entries = fs::read_dir(&at).expect("list");
            todo.extend(entries.map(|entry| entry.expect("list").path()));
        }
    }
    // state, ftpsfs, source, lock, journal, data, and the file.
    assert_eq!(seen, 7);
}

#[test]
fn a_folder_that_others_can_read_is_closed() {
    let home = tempfile::tempdir().expect("make a folder");
    let dir = home.path().join("s");
    fs::create_dir(&dir).expect("make a folder");
    chmod(&dir, 0o755);
    open(&dir);
    assert_eq!(fs::metadata(&dir).expect("stat").mode() & 0o777, 0o700);
}

#[test]
fn a_folder_that_others_can_write_to_is_refused() {
    let home = tempfile::tempdir().expect("make a folder");
    let dir = home.path().join("s");
    fs::create_dir(&dir).expect("make a folder");
    chmod(&dir, 0o770);
    assert!(refusal(&dir).ends_with("can be written to by others"));
    chmod(&dir, 0o700);
    chmod(home.path(), 0o777);
    assert!(refusal(&dir).ends_with("can be written to by others"));
}

#[test]
fn a_folder_of_someone_else_is_refused() {
    let home = tempfile::tempdir().expect("make a folder");
    let dir = home.path().join("s");
    fs::create_dir(&dir).expect("make a folder");
    let foreign = if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&dir, Some(1), None).expect("chown");
        &dir
    } else {
        Path::new("/usr")
    };
    assert!(refusal(foreign).ends_with("belongs to another user"));
}

#[test]
fn links_are_not_followed() {
    let home = tempfile::tempdir().expect("make a folder");
    let real = home.path().join("real");
    open(&real);
    let link = home.path().join("link");
    symlink(&real, &link).expect("link");
    assert!(refusal(&link).contains("symbolic link"));
    for name in ["journal", "lock", "data"] {
        let dir = home.path().join(format!("with {name}"));
        fs::create_dir(&dir).expect("make a folder");
        chmod(&dir, 0o700);
        symlink(real.join(name), dir.join(name)).expect("link");
        let opened = Spool::open(&dir, OPTIONS, now());
        assert!(opened.is_err(), "{name}");
    }
}

#[test]
fn a_spool_is_open_once() {
    let home = tempfile::tempdir().expect("make a folder");
    let dir = home.path().join("s");
    let (spool, _) = open(&dir);
    let file = spool.create(&path("/f"), None, now()).expect("create");
    let patience = Duration::ZERO;
    let at_once = Options {
        patience,
        ..OPTIONS
    };
    match Spool::open(&dir, at_once, now()) {
        Err(SpoolError::AlreadyLocked { pid }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    // Looking is allowed meanwhile.
    let looked = Inspection::open(&dir).expect("inspect");
    let pid = Some(std::process::id());
    assert_eq!(looked.holder, Some(Holder { pid }));
    let kept: Vec<_> = looked.kept.into_iter().map(|kept| kept.id).collect();
    assert_eq!(kept, [spool.kept_as(file.id())]);
    // A file in use keeps it locked.
    drop(spool);
    assert!(Spool::open(&dir, at_once, now()).is_err());
    drop(file);
    open(&dir);
}

#[test]
fn a_lock_is_waited_for() {
    let home = tempfile::tempdir().expect("make a folder");
    let dir = home.path().join("s");
    let (spool, _) = open(&dir);
    let patience = Duration::from_millis(150);
    let before = std::time::Instant::now();
    let impatient = Spool::open(
        &dir,
        Options {
            patience,
            ..OPTIONS
        },
        now(),
    );
    assert!(matches!(impatient, Err(SpoolError::AlreadyLocked { .. })));
    assert!(before.elapsed() >= patience);
    let holder = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        drop(spool);
    });
    let patience = Duration::from_secs(60);
    Spool::open(
        &dir,
        Options {
            patience,
            ..OPTIONS
        },
        now(),
    )
    .expect("the lock, in the end");
    holder.join().expect("the holder");
}

#[test]
fn a_journal_from_the_future_is_left_alone() {
    let home = tempfile::tempdir().expect("make a folder");
    let dir = home.path().join("s");
    let (spool, _) = open(&dir);
    let file = spool.create(&path("/f"), None, now()).expect("create");
    file.write_at(b"precious", 0).expect("write");
    let data = dir.join("data").join(file.id().to_string());
    drop((spool, file));
    let mut journal = fs::read(dir.join("journal")).expect("read");
    journal[8] = 2;
    fs::write(dir.join("journal"), &journal).expect("write");
    match Spool::open(&dir, OPTIONS, now()) {
        Err(error @ SpoolError::Journal(JournalError::UnknownVersion(2))) => {
            assert!(error.to_string().contains("version 2"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(dir.join("journal")).expect("read"), journal);
    assert_eq!(fs::read(data).expect("read"), b"precious");
}

#[test]
fn an_id_is_never_used_twice() {
    let home = tempfile::tempdir().expect("make a folder");
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (spool, found) = open(&home.path().join("s"));
        assert!(found.leftovers.is_empty());
        let file = spool.create(&path("/f"), None, now()).expect("create");
        ids.push(file.id());
        assert_eq!(RecordId::parse(&file.id().to_string()), Some(file.id()));
        file.discard().expect("discard");
    }
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
}
