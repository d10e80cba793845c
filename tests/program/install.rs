//! What packaging/install.sh installs, and with it every package.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::bench::succeed;

const INSTALLED: &[&str] = &[
    "etc/ftpsfs/example.cred",
    "usr/bin/ftpsfs",
    "usr/sbin/mount.ftps",
    "usr/sbin/mount.fuse.ftps",
    "usr/sbin/umount.fuse.ftps",
    "usr/share/applications/ftpsfs.desktop",
    "usr/share/bash-completion/completions/ftpsfs",
    "usr/share/doc/ftpsfs/README.md",
    "usr/share/doc/ftpsfs/examples/ftpsfs-example.service",
    "usr/share/doc/ftpsfs/examples/mnt-example.automount",
    "usr/share/doc/ftpsfs/examples/mnt-example.mount",
    "usr/share/fish/vendor_completions.d/ftpsfs.fish",
    "usr/share/man/man1/ftpsfs.1.gz",
    "usr/share/man/man8/mount.ftps.8.gz",
    "usr/share/man/man8/mount.fuse.ftps.8.gz",
    "usr/share/man/man8/umount.fuse.ftps.8.gz",
    "usr/share/zsh/site-functions/_ftpsfs",
    "usr/share/zsh/vendor-completions/_ftpsfs",
];

fn install(destination: &Path, more: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/install.sh");
    let mut command = Command::new(script);
    command.args(["--binary", env!("CARGO_BIN_EXE_ftpsfs"), "--destdir"]);
    command.arg(destination).args(more);
    command
}

fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => {
                    let path = entry.path();
                    let path = path.strip_prefix(root).unwrap();
                    found.insert(path.to_str().unwrap().to_owned());
                }
            }
        }
    }
    found
}

#[test]
fn everything_is_installed_and_taken_away_again() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let all: BTreeSet<String> = INSTALLED.iter().map(|file| file.to_string()).collect();
    succeed(&mut install(root, &[]));
    assert_eq!(files(root), all);
    let credentials = root.join("etc/ftpsfs/example.cred");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&credentials), 0o600);
    assert_eq!(mode(credentials.parent().unwrap()), 0o755);
    let target = fs::read_link(root.join("usr/sbin/mount.ftps")).unwrap();
    assert_eq!(target, Path::new("/usr/bin/ftpsfs"));
    let mut run = Command::new(root.join("usr/bin/ftpsfs"));
    assert!(succeed(run.arg("--version")).stdout.starts_with(b"ftpsfs "));

    // What the administrator wrote stays, whoever installs over it.
    fs::write(&credentials, "username=me\n").unwrap();
    fs::write(credentials.with_file_name("mine.cred"), "password=x\n").unwrap();
    succeed(&mut install(root, &[]));
    assert_eq!(fs::read_to_string(&credentials).unwrap(), "username=me\n");
    succeed(&mut install(root, &["--uninstall"]));
    assert_eq!(
        files(root),
        BTreeSet::from(["etc/ftpsfs/mine.cred".to_owned()])
    );
}

/// pacman refuses a package with a folder where the system has a link: `usr/sbin exists in filesystem`.
#[test]
fn the_arch_package_has_no_folder_usr_sbin() {
    let folder = tempfile::tempdir().unwrap();
    let built = folder.path().join("src/target/release");
    fs::create_dir_all(&built).unwrap();
    symlink(env!("CARGO_BIN_EXE_ftpsfs"), built.join("ftpsfs")).unwrap();
    let mut package = Command::new("bash");
    package.args([
        "-euc",
        "startdir=$1/packaging/arch srcdir=$2/src pkgdir=$2/pkg; . $startdir/PKGBUILD; package",
        "bash",
        env!("CARGO_MANIFEST_DIR"),
    ]);
    succeed(package.arg(folder.path()));
    let files = files(&folder.path().join("pkg"));
    for name in [
        "ftpsfs",
        "mount.ftps",
        "mount.fuse.ftps",
        "umount.fuse.ftps",
    ] {
        assert!(files.contains(&format!("usr/bin/{name}")), "{files:?}");
    }
    assert!(!folder.path().join("pkg/usr/sbin").exists());
    assert!(files.contains("usr/share/licenses/ftpsfs/LICENSE-MIT"));
}

#[test]
fn the_pages_of_the_manual_are_well_formed() {
    let folder = tempfile::tempdir().unwrap();
    succeed(&mut install(folder.path(), &[]));
    for page in ["man1/ftpsfs.1.gz", "man8/umount.fuse.ftps.8.gz"] {
        let page = folder.path().join("usr/share/man").join(page);
        let text = succeed(Command::new("gzip").arg("-dc").arg(page)).stdout;
        assert!(String::from_utf8_lossy(&text).contains(".TH "));
    }
}

#[test]
fn every_package_has_the_same_version() {
    let version = env!("CARGO_PKG_VERSION");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let arch = fs::read_to_string(root.join("packaging/arch/PKGBUILD")).unwrap();
    assert!(arch.contains(&format!("\npkgver={version}\n")));
    let changes = fs::read_to_string(root.join("CHANGELOG.md")).unwrap();
    assert!(changes.contains(&format!("\n## {version}\n")));
}

#[test]
fn the_packages_name_the_maintainers_whom_cargo_names() {
    let authors = env!("CARGO_PKG_AUTHORS");
    assert!(
        authors.ends_with('>') && !authors.contains(':'),
        "{authors}"
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cargo = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(cargo.contains(&format!("\nmaintainer = \"{authors}\"\n")));
    let debian = fs::read_to_string(root.join("packaging/debian/changelog")).unwrap();
    let signed: Vec<_> = debian
        .lines()
        .filter(|line| line.starts_with(" -- "))
        .collect();
    assert!(!signed.is_empty());
    for line in signed {
        assert!(line.starts_with(&format!(" -- {authors}  ")), "{line}");
    }
}
