//! Many programs at the same few files of one mount, as editors, build tools and mail stores are: each call comes
//! out as on a local disk. A name may be gone, but nothing fails for what another process does to the file.

use crate::common::command::soon;
use crate::common::mount::Mount;
use crate::common::server::{Kind, RealServer};
use crate::common::{full, own_files};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

const PROGRAMS: u64 = 6;
const NAMES: u64 = 9;
const TIME: Duration = Duration::from_secs(6);

#[test]
fn no_call_fails_for_what_another_process_does_to_the_file() {
    contend(Kind::Pyftpdlib, "");
    if full() {
        contend(Kind::ProftpdExplicit, "attr_timeout=0,dir_timeout=0");
        contend(Kind::VsftpdExplicit, "max_sessions=1");
        contend(Kind::PureFtpd, "hard");
    }
}

#[test]
fn no_call_fails_for_what_another_process_does_to_the_file_with_write_back() {
    contend(Kind::VsftpdImplicit, "writeback");
    if full() {
        contend(Kind::PureFtpd, "writeback,attr_timeout=0,dir_timeout=0");
        contend(Kind::PyftpdlibImplicit, "writeback,max_sessions=1");
        contend(Kind::ProftpdImplicit, "writeback,hard");
    }
}

/// Nobody writes it any more, and the server never had it: it is the reader that keeps it.
#[test]
fn a_reader_keeps_a_file_that_lost_its_name_before_it_was_sent() {
    for options in ["", "writeback"] {
        let server = RealServer::of(Kind::PureFtpd);
        let mount = Mount::new(&server, options);
        let path = mount.path("f");
        soon(move || {
            own_files();
            let mut writer = File::create(&path).expect("create");
            writer.write_all(b"content").expect("write");
            let mut reader = File::open(&path).expect("open");
            fs::remove_file(&path).expect("remove");
            drop(writer);
            let mut read = String::new();
            reader.read_to_string(&mut read).expect("read");
            assert_eq!(read, "content");
        });
        drop(mount.unmount());
        assert_eq!(fs::read_dir(&server.root).expect("list").count(), 0);
    }
}

/// What is set aside for who has it open has no name to be seen, whatever is made of it.
#[test]
fn a_time_given_to_an_open_file_that_lost_its_name_brings_up_no_other() {
    let server = RealServer::of(Kind::Pyftpdlib);
    let mount = Mount::new(&server, "");
    let (dir, path) = (mount.dir.clone(), mount.path("f"));
    soon(move || {
        own_files();
        fs::write(&path, "content").expect("write");
        let shown = || fs::read_dir(&dir).expect("list").count();
        assert_eq!(shown(), 1);
        let held = File::open(&path).expect("open");
        fs::remove_file(&path).expect("remove");
        age(&held).expect("a time");
        let mode = PermissionsExt::from_mode(0o600);
        held.set_permissions(mode).expect("a mode");
        assert_eq!(shown(), 0);
    });
}

#[test]
fn who_works_in_a_folder_does_not_feel_that_it_is_renamed() {
    work_while_it_moves(Kind::Pyftpdlib, "attr_timeout=0");
    work_while_it_moves(Kind::VsftpdImplicit, "writeback");
    if full() {
        work_while_it_moves(Kind::ProftpdExplicit, "attr_timeout=0,dir_timeout=0");
        work_while_it_moves(Kind::PureFtpd, "writeback,max_sessions=1");
    }
}

/// Several programs have a folder open and work in it, each at a file of its own, while it gets one name after the
/// other.
fn work_while_it_moves(kind: Kind, options: &str) {
    let server = RealServer::of(kind);
    let (mount, log) = Mount::logged(&server, options);
    let names = [mount.path("a"), mount.path("b")];
    fs::create_dir(&names[0]).expect("a folder");
    let workers: Vec<_> = (0..4)
        .map(|number| {
            let name = names[0].clone();
            let ready = Arc::new(Barrier::new(2));
            let opened = ready.clone();
            let worker = thread::spawn(move || {
                own_files();
                let folder = File::open(name).expect("open the folder");
                opened.wait();
                // Whatever its name is by now.
                let here = PathBuf::from(format!("/proc/thread-self/fd/{}", folder.as_raw_fd()));
                at_work(&here.join(format!("f{number}")))
            });
            ready.wait();
            worker
        })
        .collect();
    let end = Instant::now() + TIME / 2;
    let mut moves = 0;
    while Instant::now() < end {
        let (from, to) = (&names[moves % 2], &names[(moves + 1) % 2]);
        fs::rename(from, to).expect("rename the folder");
        moves += 1;
        thread::sleep(Duration::from_millis(5));
    }
    for worker in workers {
        let done = worker.join().expect("a worker");
        done.unwrap_or_else(|error| {
            let log = fs::read_to_string(&log).expect("the daemon's log");
            panic!("{kind:?} {options}, {moves} moves: {error}\n{log}")
        });
    }
    assert!(moves > 2, "only {moves} moves");
    let _place = mount.unmount();
    let log = fs::read_to_string(log).expect("the daemon's log");
    assert!(
        !log.contains(": error: ") && !log.contains(": warn: "),
        "{log}"
    );
    assert_eq!(fs::read_dir(&server.root).expect("list").count(), 1);
    let left = server.root.join(["a", "b"][moves % 2]);
    // What a broken upload left elsewhere than it thinks is removed by who lists it next.
    let names = fs::read_dir(left).expect("list");
    let names = names.map(|entry| entry.expect("an entry").file_name());
    let is_file = |name: &OsString| !name.as_bytes().starts_with(b".ftpsfs-");
    assert_eq!(names.filter(is_file).count(), 4);
}

/// Writes, appends and reads a file that is nobody else's.
fn at_work(path: &Path) -> io::Result<()> {
    let during = |what: &str| {
        let what = what.to_owned();
        move |error| io::Error::other(format!("{what}: {error}"))
    };
    let end = Instant::now() + TIME / 2;
    let mut round = 0;
    while Instant::now() < end {
        round += 1;
        let mut content = vec![b'a' + (round % 26) as u8; 1000 * (round % 20 + 1)];
        fs::write(path, &content).map_err(during("write"))?;
        append(path, b"end").map_err(during("append"))?;
        content.extend(b"end");
        let size = fs::metadata(path).map_err(during("stat"))?.len();
        let read = fs::read(path).map_err(during("read"))?;
        if size != content.len() as u64 || read != content {
            let (written, begins) = (content.len(), read.first() == content.first());
            let read = read.len();
            let why = format!(
                "round {round}: of {written} bytes {size} are shown and {read} read; begins so: {begins}"
            );
            return Err(io::Error::other(why));
        }
    }
    Ok(())
}

/// Works in a mount, and compares what is shown there in the end with what the server has.
fn contend(kind: Kind, options: &str) {
    let server = RealServer::of(kind);
    let (mount, log) = Mount::logged(&server, options);
    let programs: Vec<_> = (0..PROGRAMS)
        .map(|number| {
            let dir = mount.dir.clone();
            thread::spawn(move || Program::new(number, dir).run())
        })
        .collect();
    let mut calls = 0;
    let mut failures = BTreeMap::<String, usize>::new();
    for program in programs {
        let program = program.join().expect("a program");
        calls += program.calls;
        for failure in program.failures {
            *failures.entry(failure).or_default() += 1;
        }
    }
    let shown = contents(&mount.dir);
    let _place = mount.unmount();
    let log = fs::read_to_string(log).expect("the daemon's log");
    let said = log
        .lines()
        .filter(|line| line.contains(": warn: ") || line.contains(": error: "));
    let said: Vec<_> = said.collect();
    assert!(
        failures.is_empty(),
        "of {calls} calls: {failures:#?}\n{said:#?}"
    );
    assert!(said.is_empty(), "{said:#?}");
    let there = contents(&server.root);
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&there), names(&shown));
    for (name, content) in &there {
        assert!(
            *content == shown[name],
            "{} is not what was shown",
            name.display()
        );
    }
    assert!(calls > 100, "only {calls} calls");
}

/// What a folder holds, hidden files and all.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir)
        .expect("list")
        .map(|entry| entry.expect("an entry"));
    let read = |path: &Path| fs::read(path).expect("read");
    entries
        .map(|entry| (entry.file_name().into(), read(&entry.path())))
        .collect()
}

struct Program {
    number: u64,
    dir: PathBuf,
    dice: u64,
    calls: usize,
    failures: Vec<String>,
}

impl Program {
    fn new(number: u64, dir: PathBuf) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seed = now.expect("a clock").as_nanos() as u64;
        Self {
            number,
            dir,
            dice: (seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1,
            calls: 0,
            failures: Vec::new(),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) % bound
    }

    fn name(&mut self) -> PathBuf {
        let number = self.below(NAMES);
        self.dir.join(format!("f{number}"))
    }

    fn run(mut self) -> Self {
        own_files();
        let end = Instant::now() + TIME;
        while Instant::now() < end {
            let path = self.name();
            let size = 1 + self.below(60_000) as usize;
            let bytes = vec![b'a' + self.below(26) as u8; size];
            match self.below(11) {
                0 | 1 => self.call("read", read(&path)),
                2 => self.call("write", fs::write(&path, &bytes)),
                3 => self.call("append", append(&path, &bytes[..size.min(500)])),
                4 => self.call("change", change(&path, &bytes[..size.min(500)])),
                5 => {
                    let beside = self.dir.join(format!("new{}", self.number));
                    self.call("replace", replace(&path, &beside, &bytes));
                }
                6 => {
                    let to = self.name();
                    self.call("rename", fs::rename(&path, to));
                }
                7 => self.call("unlink", fs::remove_file(&path)),
                8 => self.call("time", set_time(&path)),
                9 => self.call("cut", cut(&path, size as u64)),
                _ => self.call("list", list(&self.dir)),
            }
        }
        self
    }

    /// That a name is gone is no failure, where it is by name that the file is asked for.
    fn call(&mut self, what: &str, outcome: io::Result<()>) {
        self.calls += 1;
        if let Err(error) = outcome
            && error.kind() != ErrorKind::NotFound
        {
            self.failures.push(format!("{what}: {error}"));
        }
    }
}

fn read(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 16 << 10];
    while held(file.read(&mut buffer))? > 0 {}
    Ok(())
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    held(file.write_all(bytes))
}

fn change(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let size = held(file.metadata())?.len();
    held(file.write_all_at(bytes, size / 2))?;
    held(file.read_at(&mut [0; 100], size / 4))?;
    Ok(())
}

fn replace(path: &Path, beside: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = held(File::create(beside))?;
    held(file.write_all(bytes))?;
    held(file.sync_all())?;
    drop(file);
    held(fs::rename(beside, path))
}

fn set_time(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    held(age(&file))
}

fn age(file: &File) -> io::Result<()> {
    file.set_modified(SystemTime::now() - Duration::from_secs(1000))
}

fn cut(path: &Path, size: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    held(file.set_len(size / 2))
}

fn list(dir: &Path) -> io::Result<()> {
    for entry in held(fs::read_dir(dir))? {
        match held(entry)?.metadata() {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What does not depend on a name that another may take away.
fn held<T>(outcome: io::Result<T>) -> io::Result<T> {
    outcome.map_err(|error| io::Error::other(format!("with the file in hand: {error}")))
}
