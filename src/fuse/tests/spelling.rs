//! A server to which `Readme.txt` and `README.TXT` are one file (IIS).

use std::io::Write;

use super::writes::names;
use super::*;

/// A writable mount of such a server, which has MLSD or lists as `dir` does.
fn windows(mlsd: bool, faults: &str) -> Mount {
    let served = tempfile::tempdir().unwrap();
    let mut config = server::Config::new(served.path(), Security::Implicit, Users::Anyone);
    config.windows = true;
    config.faults = Some(Faults::new(faults.parse().unwrap()));
    if !mlsd {
        config.without = ["MLST", "MLSD"].map(str::to_owned).into();
    }
    Mount::writable_serving(served, config, 4, |_| {})
}

/// What the mount lists.
fn listed(mount: &Mount, name: &str) -> Vec<String> {
    let entries = fs::read_dir(mount.here(name)).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_spelling_finds_the_file() {
    for mlsd in [true, false] {
        let mount = windows(mlsd, "");
        fs::create_dir(mount.there("Folder")).unwrap();
        fs::write(mount.there("Folder/Readme.txt"), "read me").unwrap();
        fs::write(mount.there("Folder/\u{dc}bung"), "drill").unwrap();
        for name in [
            "Folder/Readme.txt",
            "folder/README.TXT",
            "FOLDER/readme.txt",
        ] {
            assert_eq!(text(mount.here(name)), "read me", "{name}");
            assert_eq!(fs::metadata(mount.here(name)).unwrap().len(), 7);
        }
        assert_eq!(text(mount.here("FoLdEr/\u{fc}BUNG")), "drill");
        assert_eq!(listed(&mount, "FOLDER"), ["Readme.txt", "\u{dc}bung"]);
        let missing = fs::metadata(mount.here("folder/Readme")).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        // In between it has been made.
        fs::write(mount.here("folder/README"), "new").unwrap();
        assert_eq!(text(mount.here("FOLDER/readme")), "new");
        assert_eq!(text(mount.there("Folder/README")), "new");
    }
}

#[test]
fn what_is_written_by_one_spelling_is_read_by_the_other() {
    for mlsd in [true, false] {
        let mount = windows(mlsd, "");
        fs::write(mount.there("Data"), "0123456789").unwrap();
        let old = File::open(mount.here("Data")).unwrap();
        let mut part = [0; 10];
        old.read_exact_at(&mut part, 0).unwrap();
        let mut other = File::options()
            .read(true)
            .append(true)
            .open(mount.here("DATA"))
            .unwrap();
        other.write_all(b"abc").unwrap();
        // Before it is closed, too.
        assert_eq!(text(mount.here("Data")), "0123456789abc");
        assert_eq!(fs::metadata(mount.here("dATA")).unwrap().len(), 13);
        let first = File::options()
            .write(true)
            .open(mount.here("Data"))
            .unwrap();
        first.write_all_at(b"X", 0).unwrap();
        let mut seen = [0; 13];
        other.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(&seen, b"X123456789abc");
        drop((first, other, old));
        assert_eq!(text(mount.there("Data")), "X123456789abc");
        assert_eq!(text(mount.here("DATA")), "X123456789abc");
        assert_eq!(names(&mount), ["Data"]);
    }
}

#[test]
fn a_name_in_another_spelling_is_no_new_file() {
    for mlsd in [true, false] {
        let mount = windows(mlsd, "");
        fs::write(mount.there("Name"), "old").unwrap();
        fs::create_dir(mount.there("Folder")).unwrap();
        let exists = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EEXIST));
        };
        exists(File::create_new(mount.here("NAME")).map(drop));
        exists(fs::create_dir(mount.here("FOLDER")));
        assert_eq!(text(mount.there("Name")), "old");
        fs::write(mount.here("NAME"), "new").unwrap();
        assert_eq!(names(&mount), ["Folder", "Name"]);
        assert_eq!(text(mount.there("Name")), "new");
        // A file that the server does not have yet, likewise.
        let begun = File::create_new(mount.here("Begun")).unwrap();
        exists(File::create_new(mount.here("BEGUN")).map(drop));
        fs::write(mount.here("begun"), "by the other").unwrap();
        drop(begun);
        assert_eq!(text(mount.here("Begun")), "by the other");
        assert_eq!(names(&mount), ["Begun", "Folder", "Name"]);
        // What is gone by one is gone by all.
        fs::remove_file(mount.here("BEGUN")).unwrap();
        for name in ["Begun", "BEGUN", "begun"] {
            assert!(!mount.here(name).exists(), "{name}");
        }
        fs::remove_dir(mount.here("folder")).unwrap();
        assert!(!mount.here("Folder").exists());
        assert_eq!(names(&mount), ["Name"]);
    }
}

#[test]
fn a_rename_may_change_nothing_but_the_case() {
    // Also where the server says that there is such a file already.
    let refusing = "RNTO: reply \"550 Cannot create a file when that file already exists.\"";
    for (mlsd, faults) in [(true, ""), (false, ""), (true, refusing), (false, refusing)] {
        let mount = windows(mlsd, faults);
        fs::write(mount.there("a"), "content").unwrap();
        fs::create_dir(mount.there("dir")).unwrap();
        fs::write(mount.there("dir/inside"), "inside").unwrap();
        let open = File::open(mount.here("a")).unwrap();
        fs::rename(mount.here("a"), mount.here("A")).unwrap();
        assert_eq!(names(&mount), ["A", "dir"]);
        assert_eq!(listed(&mount, ""), ["A", "dir"]);
        assert_eq!(text(mount.here("A")), "content");
        assert_eq!(text(mount.here("a")), "content");
        let mut part = [0; 7];
        open.read_exact_at(&mut part, 0).unwrap();
        assert_eq!(&part, b"content");
        fs::rename(mount.here("dir"), mount.here("Dir")).unwrap();
        assert_eq!(listed(&mount, ""), ["A", "Dir"]);
        assert_eq!(text(mount.here("dir/INSIDE")), "inside");
        // To the spelling that it has.
        fs::rename(mount.here("a"), mount.here("A")).unwrap();
        assert_eq!(names(&mount), ["A", "Dir"]);
    }
}

#[test]
fn a_rename_replaces_a_file_whatever_its_spelling() {
    for mlsd in [true, false] {
        let mount = windows(mlsd, "");
        fs::write(mount.there("Old"), "old").unwrap();
        fs::write(mount.here("new"), "new").unwrap();
        let held = File::open(mount.here("Old")).unwrap();
        fs::rename(mount.here("NEW"), mount.here("OLD")).unwrap();
        assert_eq!(
            names(&mount).iter().filter(|n| !n.starts_with('.')).count(),
            1
        );
        for name in ["Old", "OLD", "old"] {
            assert_eq!(text(mount.here(name)), "new", "{name}");
        }
        assert!(!mount.here("new").exists() && !mount.here("NEW").exists());
        let mut before = [0; 3];
        held.read_exact_at(&mut before, 0).unwrap();
        assert_eq!(&before, b"old");
    }
}

#[test]
fn names_are_compared_letter_by_letter() {
    let folded = |name: &[u8]| crate::proto::Name::parse(name).unwrap().folded();
    let same = |a: &str, b: &str| folded(a.as_bytes()) == folded(b.as_bytes());
    assert!(
        same("Readme", "README")
            && same("\u{e4}\u{f6}", "\u{c4}\u{d6}")
            && same("\u{436}", "\u{416}")
    );
    assert!(!same("stra\u{df}e", "STRASSE") && !same("a", "b"));
    assert_eq!(folded(b"caf\xe9"), b"CAF\xe9");
}
