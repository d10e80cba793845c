//! The work that is measured: each row prepares files on the server's own disk and then works in a mount.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How many files the wide folder has.
pub const WIDE: u64 = 10_000;
const MIB: u64 = 1 << 20;
/// Of the file that is appended to, and changed.
const MEDIUM: u64 = 64 * MIB;
const SMALL: usize = 4096;
/// How often the cached rows do it again.
const ROUNDS: u64 = 20;

/// One line of the table.
pub struct Row {
    /// As it is called on the command line.
    pub name: &'static str,
    pub title: &'static str,
    pub unit: Unit,
    /// What the numbers are to be; a text, for most are another peer's.
    pub goal: &'static str,
    /// Only where the link costs no time.
    pub local: bool,
    pub prepare: fn(&Scene) -> io::Result<()>,
    /// What is done in the mount before the clock starts.
    pub warm: fn(&Path, &Scene) -> io::Result<()>,
    pub work: fn(&Path, &Scene) -> io::Result<()>,
    /// Whether the server has all of it: work is done when it is.
    pub done: fn(&Scene) -> bool,
}

/// How seconds are shown.
#[derive(Clone, Copy)]
pub enum Unit {
    /// MB/s, of so many bytes; 0 stands for the large file's size.
    Rate(u64),
    Seconds,
    /// Milliseconds each, of so many.
    Each(u64),
    /// Thousands a second, of so many.
    Thousands(u64),
}

/// Where the server's files are.
#[derive(Clone)]
pub struct Scene {
    pub root: PathBuf,
    /// Of the large file, bytes.
    pub size: u64,
}

impl Unit {
    pub fn value(self, seconds: f64, scene: &Scene) -> f64 {
        match self {
            Self::Rate(0) => scene.size as f64 / 1e6 / seconds,
            Self::Rate(bytes) => bytes as f64 / 1e6 / seconds,
            Self::Seconds => seconds,
            Self::Each(count) => seconds * 1e3 / count as f64,
            Self::Thousands(count) => count as f64 / 1e3 / seconds,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Rate(_) => "MB/s",
            Self::Seconds => "s",
            Self::Each(_) => "ms each",
            Self::Thousands(_) => "k/s",
        }
    }

    /// What round trips and bytes are divided by.
    pub fn count(self) -> u64 {
        match self {
            Self::Each(count) => count,
            _ => 1,
        }
    }
}

/// In the order of the table.
pub const ROWS: &[Row] = &[
    Row {
        unit: Unit::Rate(0),
        goal: "lftp's",
        prepare: large,
        work: |dir, _| read_through(&dir.join("large")),
        ..row("read", "sequential read")
    },
    Row {
        unit: Unit::Rate(0),
        goal: "curl's",
        prepare: |scene| absent(&scene.root.join("written")),
        work: |dir, scene| write_through(&dir.join("written"), scene.size),
        done: |scene| has_size(&scene.root.join("written"), scene.size),
        ..row("write", "sequential write, acknowledged")
    },
    Row {
        goal: "1.0",
        prepare: tree,
        work: |dir, _| walk(&dir.join("tree")),
        ..row("walk", "find and stat, 111 folders with 5 files")
    },
    Row {
        goal: "0.6",
        prepare: wide,
        work: |dir, _| list(&dir.join("wide"), WIDE),
        ..row("list", "ls -l of 10,000 files")
    },
    Row {
        unit: Unit::Each(30),
        goal: "25",
        prepare: scattered,
        work: |dir, _| (0..30).try_for_each(|n| fs::metadata(scattered_path(dir, n)).map(drop)),
        ..row("stat", "stat of 30 scattered paths")
    },
    Row {
        unit: Unit::Each(100),
        goal: "25",
        prepare: |scene| (0..100).try_for_each(|n| put(&small_path(&scene.root, n), SMALL as u64)),
        work: |dir, _| (0..100).try_for_each(|n| read_through(&small_path(dir, n))),
        ..row("small-reads", "read 100 files of 4 KiB")
    },
    Row {
        unit: Unit::Each(100),
        goal: "85",
        prepare: |scene| (0..100).try_for_each(|n| absent(&new_path(&scene.root, n))),
        work: |dir, _| (0..100).try_for_each(|n| fs::write(new_path(dir, n), [7; SMALL])),
        done: |scene| (0..100).all(|n| has_size(&new_path(&scene.root, n), SMALL as u64)),
        ..row("small-writes", "write 100 files of 4 KiB")
    },
    Row {
        unit: Unit::Each(50),
        goal: "50",
        prepare: large,
        work: random_reads,
        ..row("random", "50 random reads of 4 KiB")
    },
    Row {
        unit: Unit::Each(30),
        goal: "25",
        prepare: |scene| (0..10).try_for_each(|n| absent(&scene.root.join(format!("renamed{n}")))),
        work: |dir, _| (0..10).try_for_each(|n| folder(dir, n)),
        ..row("folders", "mkdir, rename, rmdir")
    },
    Row {
        unit: Unit::Each(1),
        goal: "110",
        prepare: |scene| put(&scene.root.join("medium"), MEDIUM),
        warm: |dir, _| fs::metadata(dir.join("medium")).map(drop),
        work: |dir, _| {
            let mut file = File::options().append(true).open(dir.join("medium"))?;
            file.write_all(&[1; SMALL])
        },
        done: |scene| has_size(&scene.root.join("medium"), MEDIUM + SMALL as u64),
        ..row("append", "append 4 KiB to 64 MiB")
    },
    Row {
        unit: Unit::Each(1),
        goal: "200",
        prepare: |scene| put(&scene.root.join("medium"), MEDIUM),
        // Whether a server takes ranges is found out once.
        warm: |dir, _| change(&dir.join("medium"), MIB),
        work: |dir, _| change(&dir.join("medium"), MEDIUM / 2),
        done: |scene| {
            let mut found = [0; SMALL];
            let file = File::open(scene.root.join("medium"));
            file.and_then(|file| file.read_exact_at(&mut found, MEDIUM / 2))
                .is_ok()
                && found == [1; SMALL]
        },
        ..row("change", "change 4 KiB in 64 MiB")
    },
    Row {
        unit: Unit::Rate(0),
        goal: "in memory",
        local: true,
        prepare: large,
        warm: |dir, _| read_through(&dir.join("large")),
        work: |dir, _| read_through(&dir.join("large")),
        ..row("reread", "warm re-read")
    },
    Row {
        unit: Unit::Thousands(ROUNDS * WIDE),
        goal: "in memory",
        local: true,
        prepare: wide,
        warm: |dir, _| list(&dir.join("wide"), WIDE),
        work: |dir, _| {
            let paths: Vec<_> = (0..WIDE)
                .map(|n| dir.join("wide").join(wide_name(n)))
                .collect();
            (0..ROUNDS).try_for_each(|_| paths.iter().try_for_each(|p| fs::metadata(p).map(drop)))
        },
        ..row("cached-stat", "stat, cached")
    },
    Row {
        unit: Unit::Thousands(ROUNDS * WIDE),
        goal: "in memory",
        local: true,
        prepare: wide,
        warm: |dir, _| list(&dir.join("wide"), WIDE),
        work: |dir, _| (0..ROUNDS).try_for_each(|_| names(&dir.join("wide"))),
        ..row("cached-list", "readdir, cached")
    },
];

const fn row(name: &'static str, title: &'static str) -> Row {
    Row {
        name,
        title,
        unit: Unit::Seconds,
        goal: "",
        local: false,
        prepare: |_| Ok(()),
        warm: |_, _| Ok(()),
        work: |_, _| Ok(()),
        done: |_| true,
    }
}

/// The name of a file in the wide folder, by its number.
pub fn wide_name(number: impl std::fmt::Display) -> String {
    format!("a-file-with-a-name-{number}")
}

fn large(scene: &Scene) -> io::Result<()> {
    put(&scene.root.join("large"), scene.size)
}

fn tree(scene: &Scene) -> io::Result<()> {
    let top = scene.root.join("tree");
    let middle = (0..10).map(|n| top.join(format!("folder{n}")));
    let bottom = (0..100).map(|n| top.join(format!("folder{}/folder{n}", n % 10)));
    let mut folders: Vec<_> = std::iter::once(top.clone()).chain(middle).collect();
    folders.extend(bottom);
    for folder in folders {
        fs::create_dir_all(&folder)?;
        (0..5).try_for_each(|n| put(&folder.join(format!("file{n}")), 100))?;
    }
    Ok(())
}

fn wide(scene: &Scene) -> io::Result<()> {
    let folder = scene.root.join("wide");
    fs::create_dir_all(&folder)?;
    (0..WIDE).try_for_each(|n| put(&folder.join(wide_name(n)), 0))
}

fn scattered(scene: &Scene) -> io::Result<()> {
    (0..30).try_for_each(|n| put(&scattered_path(&scene.root, n), 100))
}

fn scattered_path(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("scattered/folder{n}/file"))
}

fn small_path(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("small/file{n}"))
}

fn new_path(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("new{n}"))
}

/// Makes a file on the server's disk, unless it is there.
fn put(path: &Path, size: u64) -> io::Result<()> {
    if has_size(path, size) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    write_through(path, size)
}

fn absent(path: &Path) -> io::Result<()> {
    let removed = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn has_size(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|about| about.len() == size)
}

fn read_through(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let expected = file.metadata()?.len();
    let mut buffer = vec![0; MIB as usize];
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 if total == expected => return Ok(()),
            0 => return Err(io::Error::other("the file ends early")),
            n => total += n as u64,
        }
    }
}

fn write_through(path: &Path, size: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut left = size;
    let chunk: Vec<u8> = (0..size.min(MIB)).map(|n| ((n * n) >> 7) as u8).collect();
    while left > 0 {
        let some = left.min(MIB) as usize;
        file.write_all(&chunk[..some])?;
        left -= some as u64;
    }
    // File's own close ignores errors.
    close(file)
}

fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file)?)
}

fn walk(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.metadata()?.is_dir() {
            walk(&entry.path())?;
        }
    }
    Ok(())
}

fn list(dir: &Path, expected: u64) -> io::Result<()> {
    let mut found = 0;
    for entry in fs::read_dir(dir)? {
        entry?.metadata()?;
        found += 1;
    }
    match found == expected {
        true => Ok(()),
        false => Err(io::Error::other(format!("{found} names"))),
    }
}

fn names(dir: &Path) -> io::Result<()> {
    fs::read_dir(dir)?.try_for_each(|entry| entry.map(drop))
}

fn random_reads(dir: &Path, scene: &Scene) -> io::Result<()> {
    let mut file = File::open(dir.join("large"))?;
    let blocks = scene.size / SMALL as u64;
    (0..50u64).try_for_each(|n| {
        // Far apart, forwards and backwards.
        let block = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % blocks;
        file.seek(SeekFrom::Start(block * SMALL as u64))?;
        file.read_exact(&mut [0; SMALL])
    })
}

fn folder(dir: &Path, n: u64) -> io::Result<()> {
    let (made, renamed) = (
        dir.join(format!("made{n}")),
        dir.join(format!("renamed{n}")),
    );
    fs::create_dir(&made)?;
    fs::rename(made, &renamed)?;
    fs::remove_dir(renamed)
}

fn change(path: &Path, offset: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.write_all_at(&[1; SMALL], offset)?;
    close(file)
}
