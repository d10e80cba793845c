//! Random operations on a spool file and on a plain vector, with a server that is another one.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SPACE: u64 = 600;

#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    Truncate(u64),
    Read(u64, usize),
    /// Asks the server for what is missing; its answer comes with the next `Arrive`.
    Ask(u64, u64),
    Arrive,
    /// Commits, and begins to upload in place: what is dirty is what the server is to be told.
    Begin,
    /// The upload reads the file as it is by now, and ends.
    Finish,
    Release,
    /// Copies the folder at this moment, and goes on in the copy: a crash.
    Crash,
    /// A crash of the machine that lost nothing but what the server has as well.
    Reboot,
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..SPACE;
    prop_oneof![
        8 => (at(), vec(any::<u8>(), 0..200)).prop_map(|(at, bytes)| Op::Write(at, bytes)),
        2 => at().prop_map(Op::Truncate),
        5 => (at(), 0..300usize).prop_map(|(at, len)| Op::Read(at, len)),
        2 => (at(), at()).prop_map(|(start, end)| Op::Ask(start, end)),
        2 => Just(Op::Arrive),
        3 => Just(Op::Begin),
        3 => Just(Op::Finish),
        1 => Just(Op::Release),
        1 => Just(Op::Crash),
        1 => Just(Op::Reboot),
    ]
}

/// An answer of the server that is under way: for which version, where, and what.
type Answer = (Version, u64, Vec<u8>);

struct World {
    home: tempfile::TempDir,
    crashes: usize,
    spool: Spool,
    file: SpoolFile,
    /// What the file must hold.
    model: Vec<u8>,
    server: Option<Vec<u8>>,
    answers: Vec<Answer>,
    upload: Option<(Version, u64, RangeSet)>,
    /// What a stream that sends it while it is written has sent.
    sequence: Option<Vec<u8>>,
}

impl World {
    fn new(server: Option<Vec<u8>>) -> Self {
        let home = tempfile::tempdir().expect("make a folder");
        let (spool, found) = open(&home.path().join("0"));
        assert!(found.leftovers.is_empty() && found.damage.is_none());
        let base = server.as_ref().map(|bytes| base(bytes.len()));
        let file = spool.create(&path("/f"), base, now()).expect("create");
        let model = server.clone().unwrap_or_default();
        Self {
            home,
            crashes: 0,
            spool,
            file,
            model,
            server,
            answers: vec![],
            upload: None,
            sequence: None,
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Write(at, bytes) => self.write(*at as usize, bytes),
            Op::Truncate(len) => {
                self.file.truncate(*len).expect("truncate");
                self.model.resize(*len as usize, 0);
            }
            Op::Read(at, len) => self.read(*at as usize, *len),
            Op::Ask(start, end) => self.ask(*start..*end),
            Op::Arrive => {
                if let Some((as_of, at, bytes)) = self.answers.pop() {
                    self.file.store_fetched(as_of, at, &bytes).expect("store");
                }
            }
            Op::Begin => {
                let version = self.file.commit().expect("commit");
                let record = self.file.record().expect("its record");
                assert_eq!(record.is_owed(), record.uploaded != version);
                self.upload = Some((version, record.size, record.dirty()));
            }
            Op::Finish => self.finish(),
            Op::Release => {
                if self.server.is_some() {
                    self.file.release_clean().expect("release");
                }
            }
            Op::Crash => self.crash(boot_id()),
            Op::Reboot => self.crash(format!("boot {}", self.crashes)),
        }
        let record = self.file.record().expect("its record");
        assert_eq!(record.size, self.model.len() as u64);
        self.check_sequence(&record);
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let written = self.file.write_at(bytes, at as u64).expect("write");
        assert_eq!(written, bytes.len());
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len();
        self.model.resize(self.model.len().max(end), 0);
        self.model[at..end].copy_from_slice(bytes);
    }

    /// Reads; what is missing is fetched, as often as it takes.
    fn read(&mut self, at: usize, len: usize) {
        let mut buf = vec![0x55; len];
        let read = loop {
            match self.file.read_at(&mut buf, at as u64) {
                Err(SpoolError::Missing(gap)) => {
                    self.ask(gap);
                    self.apply(&Op::Arrive);
                }
                read => break read.expect("read"),
            }
        };
        let end = self.model.len().min(at + len);
        assert_eq!(&buf[..read], &self.model[at.min(end)..end]);
    }

    fn ask(&mut self, range: Range<u64>) {
        let missing = self.file.missing(range).expect("what is missing");
        for gap in missing.ranges {
            let server = self
                .server
                .as_ref()
                .expect("only a server's bytes can be missing");
            // A server's answer comes in blocks: more than was asked for.
            let start = gap.start / 64 * 64;
            let end = (gap.end.next_multiple_of(64) as usize).min(server.len());
            let bytes = server[start as usize..end].to_vec();
            self.answers.push((missing.as_of, start, bytes));
        }
    }

    /// The server is told what was dirty when the upload began, as the file reads now; nothing
    /// else of its content changes. What it gains in length and is not told stays garbage.
    fn finish(&mut self) {
        let Some((version, size, dirty)) = self.upload.take() else {
            return;
        };
        let mut server = self.server.take().unwrap_or_default();
        server.resize(size as usize, 0xEE);
        for range in dirty.iter() {
            let range = range.start as usize..range.end as usize;
            let mut now = vec![0; range.len()];
            let read = self
                .file
                .read_at(&mut now, range.start as u64)
                .expect("read what is dirty");
            server[range.start..range.start + read].copy_from_slice(&now[..read]);
        }
        self.server = Some(server);
        self.file
            .mark_uploaded(version, base(size as usize))
            .expect("mark");
    }

    /// What is left when the process ends now: never any less than what was done so far.
    fn crash(&mut self, boot: String) {
        let before = self.file.record().expect("its record");
        self.crashes += 1;
        let from = self.home.path().join((self.crashes - 1).to_string());
        let to = self.home.path().join(self.crashes.to_string());
        copy(&from, &to);
        let reboots = boot != boot_id() || self.spool.0.table.lock().table.boot != boot;
        let (spool, found) = Spool::open_on(boot, &to, OPTIONS, now()).expect("open the copy");
        assert!(found.damage.is_none(), "{:?}", found.damage);
        let mut expected = before;
        if reboots {
            expected.reboot();
        }
        assert_eq!(found.leftovers, [expected.clone()]);
        self.file = spool.adopt(expected.id).expect("adopt");
        self.spool = spool;
        std::fs::remove_dir_all(from).expect("remove the folder");
    }

    /// While it counts as written in order, what was there once stays.
    fn check_sequence(&mut self, record: &Record) {
        let before = self.sequence.take();
        if record.sequential {
            let before = before.unwrap_or_default();
            assert!(self.model.starts_with(&before), "{before:?}");
            self.sequence = Some(self.model.clone());
        }
    }

    /// Sends everything, with nothing going on meanwhile: then both have the same.
    fn settle(&mut self) {
        self.finish();
        self.apply(&Op::Begin);
        self.finish();
        assert_eq!(self.server.as_ref(), Some(&self.model));
        let record = self.file.record().expect("its record");
        assert!(!record.is_owed() && !record.changed && record.dirty().is_empty());
        self.apply(&Op::Release);
        self.read(0, self.model.len() + 1);
        self.file.clone().discard().expect("discard");
        assert!(matches!(self.file.size(), Err(SpoolError::Gone)));
        assert_eq!(self.spool.used(), 0);
        assert!(self.spool.records().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_spool_file_is_a_file(
        server in prop::option::of(vec(any::<u8>(), 0..SPACE as usize)),
        ops in vec(op(), 1..60),
    ) {
        let mut world = World::new(server);
        for op in &ops {
            world.apply(op);
        }
        world.settle();
    }
}

/// Truncating down and up again never brings old bytes back, neither ours nor the server's.
#[test]
fn what_was_cut_off_is_zeros_afterwards() {
    let mut world = World::new(Some(b"0123456789".to_vec()));
    world.write(4, b"ab");
    world.file.truncate(5).expect("truncate");
    world.file.truncate(12).expect("truncate");
    let missing = world.file.missing(0..12).expect("missing").ranges;
    assert_eq!(RangeSet::from_iter(missing), RangeSet::from(0..4));
    world
        .file
        .store_fetched(Version(0), 0, b"0123456789")
        .expect("store");
    assert_eq!(content(&world.file), b"0123a\0\0\0\0\0\0\0");
    let dirty = world.file.record().expect("its record").dirty();
    assert_eq!(dirty, RangeSet::from(4..12));
}

/// `{ echo a; echo b; } > f`: the second close owes the second line only.
#[test]
fn a_second_commit_owes_the_tail_only() {
    let mut world = World::new(None);
    world.write(0, b"a\n");
    assert!(world.file.record().expect("its record").sequential);
    let first = world.file.commit().expect("commit");
    world.file.mark_uploaded(first, base(2)).expect("mark");
    assert_eq!(world.file.commit().expect("commit"), first);
    assert!(!world.file.record().expect("its record").is_owed());
    world.write(2, b"b\n");
    assert!(world.file.commit().expect("commit") > first);
    let record = world.file.record().expect("its record");
    assert_eq!(record.dirty(), RangeSet::from(2..4));
    assert!(record.is_owed() && record.sequential);
}

/// A stream that sent the beginning must learn that it changed.
#[test]
fn a_rewritten_byte_ends_the_sequence() {
    let mut world = World::new(Some(b"old".to_vec()));
    assert!(!world.file.record().expect("its record").sequential);
    world.file.truncate(0).expect("truncate");
    world.write(0, b"abc");
    world.write(3, b"def");
    assert!(world.file.record().expect("its record").sequential);
    world.write(1, b"B");
    assert!(!world.file.record().expect("its record").sequential);
    world.file.truncate(0).expect("truncate");
    world.write(0, b"new");
    assert!(!world.file.record().expect("its record").sequential);
}

#[test]
fn an_empty_new_file_is_owed() {
    let world = World::new(None);
    let version = world.file.commit().expect("commit");
    assert!(world.file.record().expect("its record").is_owed());
    world.file.mark_uploaded(version, base(0)).expect("mark");
    assert!(!world.file.record().expect("its record").is_owed());
}

#[test]
fn bytes_of_an_older_file_are_ignored() {
    let mut world = World::new(Some(b"old old old".to_vec()));
    let asked = world.file.missing(0..11).expect("missing");
    world.write(0, b"new");
    let version = world.file.commit().expect("commit");
    world.file.mark_uploaded(version, base(11)).expect("mark");
    world.file.release_clean().expect("release");
    world
        .file
        .store_fetched(asked.as_of, 0, b"old old old")
        .expect("store");
    let missing = world.file.missing(0..11).expect("missing").ranges;
    assert_eq!(RangeSet::from_iter(missing), RangeSet::from(0..11));
}

#[test]
fn attributes_are_wanted_until_given() {
    let world = World::new(None);
    let later = Some(now() + Duration::from_secs(5));
    let given = Wanted {
        mode: Some(0o640),
        mtime: Some(now()),
    };
    world.file.want(given).expect("want");
    world
        .file
        .want(Wanted {
            mtime: later,
            ..given
        })
        .expect("want");
    world.file.mark_applied(given).expect("applied");
    let wanted = world.file.record().expect("its record").wanted;
    assert_eq!(
        wanted,
        Wanted {
            mode: None,
            mtime: later
        }
    );
}
