//! What is kept of old files is read by the kernel itself (FUSE passthrough): `cache_dir=`, `nopassthrough`.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::bench::{said, wait_until};
use super::kept::{Kept, THEN, content};

/// Whether the kernel can, and would for us. Elsewhere there is nothing to see.
fn is_offered() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let offered = nix::unistd::geteuid().is_root() && version >= (6, 9);
    if !offered {
        eprintln!("not tried: needs root and Linux 6.9");
    }
    offered
}

impl Kept {
    fn status(&self) -> Value {
        let mut command = self.bench.program(&["status", "--json"]);
        serde_json::from_str(&said(command.arg(self.bench.mount_point()))).unwrap()
    }

    fn passed(&self) -> u64 {
        self.status()["content_cache"]["passed"].as_u64().unwrap()
    }

    /// Reads a file until that is done by the kernel itself; what is fetched is kept a moment later.
    fn warm(&self, name: &str) {
        wait_until("the kernel to read by itself", || {
            let before = self.passed();
            self.read(name);
            self.passed() > before
        });
    }

    /// Runs Python in the mounted folder, with the served one as `there`.
    fn python(&self, script: &str) -> String {
        let there = self.bench.path("served");
        let ftpsfs = env!("CARGO_BIN_EXE_ftpsfs");
        let head = format!(
            "import mmap, os, random, sys, time, json, subprocess\nthere = {there:?} + '/'\nftpsfs = {ftpsfs:?}\n{PYTHON}"
        );
        let mut python = Command::new("python3");
        python.args(["-c", &format!("{head}{script}")]);
        said(python.current_dir(self.bench.mount_point()))
    }
}

const PYTHON: &str = r#"
def read(fd): return os.pread(fd, 1 << 26, 0)
def whole(path): return open(path, 'rb').read()
def status(): return json.loads(subprocess.check_output([ftpsfs, 'status', '--json', '.']))
def requests(): return sum(status()['requests'][k] for k in ('from_memory', 'waited'))
def passed(): return status()['content_cache']['passed']
"#;

#[test]
fn an_old_file_that_is_kept_is_read_by_the_kernel_itself() {
    if !is_offered() {
        return;
    }
    let kept = Kept::new();
    let (old, young) = (content(1, (32 << 20) + 7), content(2, 500_000));
    kept.put("old", &old, THEN);
    let yesterday = SystemTime::now() - Duration::from_secs(23 * 3600);
    let since = yesterday.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    kept.put("young", &young, since.as_secs() | 1);
    kept.mount("");
    kept.warm("old");
    kept.unmount();
    kept.mount("");
    // What another mount has kept is read by us once: its checksums must agree.
    assert!(kept.read("old") == old);
    assert_eq!(kept.passed(), 0);
    let downloads = kept.downloads();
    let asked = kept.python(
        "
before = requests()
fd = os.open('old', os.O_RDONLY)
assert read(fd) == whole(there + 'old')
for i in range(500): os.pread(fd, 4096, i * 65536 % (32 << 20))
map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
assert map[:] == read(fd)
assert os.fstat(fd).st_size == len(map)
assert passed() == 1
print(requests() - before)",
    );
    // A look at the name, open and the like; to read it through us takes one for each MiB.
    assert!(asked.trim().parse::<u64>().unwrap() < 16, "{asked}");
    for _ in 0..3 {
        assert!(kept.read("young") == young);
    }
    assert_eq!(kept.passed(), 1, "it may still grow");
    assert_eq!(kept.downloads(), downloads + 1, "the young one");
    kept.unmount();
    kept.mount(",nopassthrough");
    for _ in 0..3 {
        assert!(kept.read("old") == old);
    }
    assert_eq!(kept.passed(), 0);
    kept.unmount();
}

#[test]
fn what_is_written_is_seen_by_those_whom_the_kernel_reads_for() {
    if !is_offered() {
        return;
    }
    let kept = Kept::new();
    kept.put("file", &content(1, 300_000), THEN);
    kept.mount("");
    kept.warm("file");
    let script = "
before = passed()
r = os.open('file', os.O_RDONLY)
assert passed() == before + 1
map = mmap.mmap(r, 0, prot=mmap.PROT_READ)
w = os.open('file', os.O_WRONLY)
os.pwrite(w, b'hello', 5000)
assert read(r)[5000:5005] == b'hello' and map[5000:5005] == b'hello'
late = os.open('file', os.O_RDONLY)
assert read(late) == read(r)
os.ftruncate(w, 100000)
assert len(read(r)) == 100000 == os.fstat(r).st_size
a = os.open('file', os.O_WRONLY | os.O_APPEND)
os.write(a, b'end')
os.posix_fallocate(a, 0, 150000)
assert len(read(r)) == 150000 == os.fstat(r).st_size and read(r)[100000:100004] == b'end\\0'
os.close(a)
os.close(w)
assert whole(there + 'file') == read(r) == whole('file')
os.truncate('file', 70000)
assert whole(there + 'file') == read(r) == read(late) == whole('file')
w = os.open('file', os.O_WRONLY | os.O_TRUNC)
assert read(r) == b''
os.write(w, b'new' * 5000)
# The kernel cannot have both a file for reads and pages that are written to.
try:
    os.open('file', os.O_RDWR)
    raise SystemExit('opened')
except OSError as error:
    assert error.strerror == 'Text file busy', error
os.close(w)
assert whole(there + 'file') == read(r) == whole('file') == b'new' * 5000
os.unlink('file')
assert read(r) == b'new' * 5000 and not os.path.exists(there + 'file')
assert os.fstat(r).st_size == 15000";
    kept.python(script);
    kept.unmount();
}

#[test]
fn who_reads_and_writes_does_so_by_another_number_and_is_seen_all_the_same() {
    if !is_offered() {
        return;
    }
    let kept = Kept::new();
    kept.put("file", &content(1, 300_000), THEN);
    kept.mount(",attr_timeout=1");
    kept.warm("file");
    let script = "
r = os.open('file', os.O_RDONLY)
old = read(r)
w = os.open('file', os.O_RDWR)
assert read(w) == old
os.pwrite(w, b'hello', 5000)
new = read(w)
assert new != old and read(r) == new
map = mmap.mmap(w, 0)
map[7:12] = b'pages'
map.flush()
assert read(r)[7:12] == b'pages' and whole('file')[7:12] == b'pages'
os.ftruncate(w, 400000)
assert len(read(r)) == 400000 == os.fstat(r).st_size
map.close()
os.close(w)
assert read(r) == whole(there + 'file') == whole('file')
time.sleep(1.2)
w = os.open('file', os.O_WRONLY)
os.pwrite(w, b'later', 9)
assert read(r)[9:14] == b'later'
os.close(w)
before = passed()
os.utime('file', (1500000000, 1500000077))
end = time.time() + 1
while time.time() < end: assert whole('file') == read(r)
assert passed() == before
# What others replace is not what was read.
old = read(r)
open(there + 'file', 'wb').write(b'others')
time.sleep(1.2)
assert whole('file') == b'others'
w = os.open('file', os.O_RDWR)
os.pwrite(w, b'mine', 0)
os.close(w)
assert whole('file') == whole(there + 'file') == b'miners' and read(r) == old
os.close(r)";
    kept.python(script);
    kept.unmount();
}

#[test]
fn who_has_pages_of_a_file_keeps_them_and_others_share_them() {
    if !is_offered() {
        return;
    }
    let kept = Kept::new();
    kept.put("file", &content(1, 300_000), THEN);
    kept.mount("");
    kept.warm("file");
    let script = "
before = passed()
w = os.open('file', os.O_RDWR)
r = os.open('file', os.O_RDONLY)
assert read(r) == whole(there + 'file')
assert passed() == before
map = mmap.mmap(w, 0)
map[7:12] = b'hello'
assert read(r)[7:12] == b'hello'
map.close()
os.close(w)
assert whole(there + 'file')[7:12] == b'hello'
os.close(r)";
    kept.python(script);
    // The same file, once everybody is done.
    kept.python(&format!("os.utime('file', ({THEN}, {THEN} + 99))"));
    kept.warm("file");
    kept.unmount();
}

#[test]
fn a_file_that_others_replaced_is_another_one_to_those_who_open_it_then() {
    if !is_offered() {
        return;
    }
    let kept = Kept::new();
    kept.put("file", &content(1, 300_000), THEN);
    kept.mount(",attr_timeout=1,dir_timeout=1");
    kept.warm("file");
    let script = "
r = os.open('file', os.O_RDONLY)
old = read(r)
new = old[::-1] + b'more'
open(there + 'file', 'wb').write(new)
os.utime(there + 'file', (1600000900, 1600000901))
time.sleep(1.2)
n = os.open('file', os.O_RDONLY)
map = mmap.mmap(n, 0, prot=mmap.PROT_READ)
assert read(n) == map[:] == whole('file') == new
assert os.fstat(n).st_size == os.stat('file').st_size == len(new)
# Who had it open keeps what it was.
assert read(r) == old and os.fstat(r).st_size == len(old)
w = os.open('file', os.O_RDWR)
os.pwrite(w, b'hello', 0)
os.close(w)
assert whole(there + 'file')[:5] == whole('file')[:5] == b'hello'
assert read(r) == old
os.close(r)
assert whole('file') == whole(there + 'file')";
    kept.python(script);
    kept.unmount();
}

#[test]
fn what_is_evicted_or_damaged_on_the_local_disk_is_still_read_whole() {
    if !is_offered() {
        return;
    }
    let kept = Kept::new();
    kept.put("file", &content(1, 600_000), THEN);
    kept.put("other", &content(2, 900_000), THEN);
    kept.mount(",cache_size=1M");
    kept.warm("file");
    let script = "
r = os.open('file', os.O_RDONLY)
before = passed()
while passed() == before: assert whole('other') == whole(there + 'other')
assert status()['content_cache']['files'] == 1
assert read(r) == whole(there + 'file')
s = os.open('file', os.O_RDONLY)
assert read(s) == whole(there + 'file')";
    kept.python(script);
    kept.unmount();
}

#[test]
fn many_who_read_and_write_at_random_get_no_error_and_see_what_was_written() {
    if !is_offered() {
        return;
    }
    let kept = Kept::new();
    let files = 30;
    for file in 0..files {
        kept.put(&format!("{file}"), &vec![0; 64 << 10], THEN);
    }
    kept.mount("");
    for file in 0..files {
        kept.warm(&format!("{file}"));
    }
    let before = kept.passed();
    // Each process has a block of each file to count in, and looks at the counts of all: none may go back. They
    // are at one file at a time, most of them.
    let script = "
PROCESSES, FILES = 8, 30
def number(fd, block): return int.from_bytes(os.pread(fd, 8, block * 8192), 'little')
def work(me, begun, until):
    chance, held = random.Random(me), []
    mine, seen = [0] * FILES, [[0] * PROCESSES for file in range(FILES)]
    while time.time() < until:
        file = int((time.time() - begun) / (until - begun) * FILES) % FILES
        fd = os.open(str(file), os.O_RDONLY)
        counts = [number(fd, block) for block in range(PROCESSES)]
        assert all(a >= b for a, b in zip(counts, seen[file])), (me, counts, seen[file])
        assert counts[me] == mine[file], (me, counts, mine[file])
        seen[file] = counts
        held.append((file, fd))
        for old, fd in held: assert number(fd, me) == mine[old], (me, old)
        while len(held) > chance.randrange(4): os.close(held.pop(chance.randrange(len(held)))[1])
        if chance.random() < 0.1:
            how = os.O_WRONLY if chance.random() < 0.8 else os.O_RDWR
            try: fd = os.open(str(file), how)
            except OSError as error:
                assert error.strerror == 'Text file busy', error
                continue
            mine[file] += 1
            os.pwrite(fd, mine[file].to_bytes(8, 'little'), me * 8192)
            assert how == os.O_WRONLY or number(fd, me) == mine[file]
            os.close(fd)
    for old, fd in held: os.close(fd)
    for file in range(FILES):
        for place in (str(file), there + str(file)):
            fd = os.open(place, os.O_RDONLY)
            assert number(fd, me) == mine[file], (me, place)
            os.close(fd)
begun, children = time.time(), []
for me in range(PROCESSES):
    pid = os.fork()
    if pid == 0:
        try: work(me, begun, begun + 5)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    children.append(pid)
ends = [os.waitpid(pid, 0)[1] for pid in children]
assert not any(ends), ends
print(passed())";
    let passed = kept.python(script).trim().parse::<u64>().unwrap() - before;
    assert!(passed >= 10, "{passed}");
    kept.unmount();
}
