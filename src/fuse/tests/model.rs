//! Random operations, by several handles, on the mount and on a local folder: the same results, the
//! same errnos, the same bytes in the end.

use std::os::unix::fs::OpenOptionsExt;

use super::*;

/// How many runs.
const SEEDS: u64 = 60;

/// Pseudo-random numbers, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// The same file, open in both places.
struct Pair(File, File);

pub fn run(seed: u64, operations: usize, change: impl FnOnce(&mut Config)) {
    let mount = Mount::writable_with(4, |config| {
        // Nobody else changes anything, and every second counts.
        for timeout in [
            &mut config.attr_timeout,
            &mut config.dir_timeout,
            &mut config.negative_timeout,
        ] {
            *timeout = Duration::from_secs(60);
        }
        config.fmask = 0;
        change(config);
    });
    let local = tempfile::tempdir().unwrap();
    let mut dice = Dice(seed | 1);
    let mut open: Vec<Pair> = Vec::new();
    let mut log = Vec::new();
    for step in 0..operations {
        let told = operate(&mount, &local, &mut dice, &mut open);
        let (what, here, there) = told;
        log.push(format!("{what}: {:?}", there.as_ref().map(Vec::len)));
        assert!(
            here == there,
            "seed {seed}, step {step}: {:?}\n{}",
            here.as_ref().map(Vec::len),
            log.join("\n")
        );
    }
    drop(open);
    // What is done after the last close is done when the mount is gone.
    let served = mount.end();
    let differ = std::process::Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([local.path(), served.path()])
        .output()
        .unwrap();
    assert!(
        differ.status.success(),
        "seed {seed}: {}",
        String::from_utf8_lossy(&differ.stdout)
    );
}

type Told = Result<Vec<u8>, i32>;

fn told<T>(result: io::Result<T>, bytes: impl FnOnce(T) -> Vec<u8>) -> Told {
    result
        .map(bytes)
        .map_err(|error| error.raw_os_error().unwrap_or(0))
}

fn operate(
    mount: &Mount,
    local: &TempDir,
    dice: &mut Dice,
    open: &mut Vec<Pair>,
) -> (String, Told, Told) {
    let places = ["a", "b", "c", "d/a", "d/b", "e/a", "d", "e", "d/f"];
    let mut place = || places[dice.next(places.len() as u64) as usize];
    let (name, other) = (place(), place());
    let both = |name: &str| (mount.here(name), local.path().join(name));
    let (here, there) = both(name);
    let nothing = |()| Vec::new();
    if !open.is_empty() && dice.next(3) > 0 {
        let at = dice.next(open.len() as u64) as usize;
        return on_handles(dice, open, at);
    }
    match dice.next(11) {
        0..=3 => {
            let flags = [
                libc::O_CREAT,
                libc::O_CREAT | libc::O_TRUNC,
                libc::O_CREAT | libc::O_EXCL,
                libc::O_APPEND,
                0,
            ][dice.next(5) as usize];
            let one = |path: &PathBuf| {
                let mut options = File::options();
                options.read(true).write(true).mode(0o644);
                options.custom_flags(flags).open(path)
            };
            let what = format!("open {name} {flags:o}");
            let (here, there) = (one(&here), one(&there));
            let told_both = (
                told(here.as_ref().map(drop).map_err(copy), nothing),
                told(there.as_ref().map(drop).map_err(copy), nothing),
            );
            if let (Ok(here), Ok(there)) = (here, there)
                && there.metadata().unwrap().is_file()
            {
                open.push(Pair(here, there));
            }
            (what, told_both.0, told_both.1)
        }
        4 => {
            let what = format!("mkdir {name}");
            let (one, two) = (fs::create_dir(here), fs::create_dir(there));
            (what, told(one, nothing), told(two, nothing))
        }
        5 => {
            let what = format!("unlink {name}");
            let (one, two) = (fs::remove_file(here), fs::remove_file(there));
            (what, told(one, nothing), told(two, nothing))
        }
        6 => {
            let what = format!("rmdir {name}");
            let (one, two) = (fs::remove_dir(here), fs::remove_dir(there));
            (what, told(one, nothing), told(two, nothing))
        }
        7 | 8 => {
            let what = format!("rename {name} to {other}");
            let (to_here, to_there) = both(other);
            let (one, two) = (fs::rename(here, to_here), fs::rename(there, to_there));
            (what, told(one, nothing), told(two, nothing))
        }
        9 => {
            let what = format!("read {name}");
            let (one, two) = (fs::read(here), fs::read(there));
            (what, told(one, |b| b), told(two, |b| b))
        }
        _ => {
            let list = |path: PathBuf| {
                let mut names = Vec::new();
                for entry in fs::read_dir(path)? {
                    names.push(entry?.file_name());
                }
                names.sort();
                Ok(names.join(std::ffi::OsStr::new("/")).into_encoded_bytes())
            };
            let what = format!("list {name}");
            (what, told(list(here), |b| b), told(list(there), |b| b))
        }
    }
}

fn copy(error: &io::Error) -> io::Error {
    io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(0))
}

fn on_handles(dice: &mut Dice, open: &mut Vec<Pair>, at: usize) -> (String, Told, Told) {
    let Pair(here, there) = &open[at];
    let nothing = |()| Vec::new();
    let offset = dice.next(200_000);
    let len = (1 << dice.next(17)) + dice.next(100) as usize;
    match dice.next(8) {
        0..=2 => {
            let bytes: Vec<u8> = (0..len).map(|_| dice.next(256) as u8).collect();
            let what = format!("write {len} at {offset} by {at}");
            let write = |file: &File| file.write_all_at(&bytes, offset);
            (
                what,
                told(write(here), nothing),
                told(write(there), nothing),
            )
        }
        3 | 4 => {
            let read = |file: &File| {
                let mut bytes = vec![0; len];
                let read = file.read_at(&mut bytes, offset)?;
                bytes.truncate(read);
                Ok(bytes)
            };
            let what = format!("read {len} at {offset} by {at}");
            (what, told(read(here), |b| b), told(read(there), |b| b))
        }
        5 => {
            let what = format!("cut to {offset} by {at}");
            let cut = |file: &File| file.set_len(offset);
            (what, told(cut(here), nothing), told(cut(there), nothing))
        }
        6 => {
            let what = format!("sync and stat by {at}");
            let stat = |file: &File| {
                file.sync_all()?;
                let found = file.metadata()?;
                Ok(format!("{} {}", found.len(), found.nlink()).into_bytes())
            };
            (what, told(stat(here), |b| b), told(stat(there), |b| b))
        }
        _ => {
            let what = format!("close {at}");
            drop(open.swap_remove(at));
            (what, Ok(Vec::new()), Ok(Vec::new()))
        }
    }
}

#[test]
fn random_operations_do_what_a_local_disk_does() {
    for seed in 0..SEEDS {
        run(seed * 7919, 400, |_| {});
    }
}

#[test]
fn random_operations_with_direct_uploads() {
    run(4711, 300, |config| config.direct = true);
}
