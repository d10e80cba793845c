//! Where nothing can be written, what is kept of old files is read by the kernel itself (FUSE passthrough):
//! `cache_dir=`, `ro`, `nopassthrough`.

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

    fn mount_to_read(&self, more: &str) {
        self.mount(&format!(",ro{more}"));
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
            "import errno, mmap, os, random, sys, time, json, subprocess\nthere = {there:?} + '/'\nftpsfs = {ftpsfs:?}\n{PYTHON}"
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
    kept.mount_to_read("");
    kept.warm("old");
    kept.unmount();
    kept.mount_to_read("");
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
    // Who writes must be able to trust what others read.
    for more in [",ro,nopassthrough", ""] {
        kept.mount(more);
        for _ in 0..3 {
            assert!(kept.read("old") == old);
        }
        assert_eq!(kept.passed(), 0, "{more}");
        kept.unmount();
    }
}

#[test]
fn a_file_that_others_replaced_is_another_one_to_those_who_open_it_then() {
    if !is_offered() {
        return;
    }
    let kept = Kept::new();
    kept.put("file", &content(1, 300_000), THEN);
    kept.mount_to_read(",attr_timeout=1,dir_timeout=1");
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
for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
    try: os.open('file', flags)
    except OSError as error: assert error.errno == errno.EROFS, error
    else: raise SystemExit('opened')
# Also by its handle; once that is closed it is no more.
again = os.open(f'/proc/self/fd/{r}', os.O_RDONLY)
os.close(r)
assert read(again) == old and whole('file') == new
before = passed()
map.close()
for fd in again, n: os.close(fd)
end = time.time() + 5
while passed() == before and time.time() < end: assert whole('file') == new
assert passed() > before";
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
    kept.mount_to_read(",cache_size=1M");
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
fn many_who_read_what_others_replace_get_no_error_and_nothing_mixed() {
    if !is_offered() {
        return;
    }
    let kept = Kept::new();
    let script = "
READERS, FILES, SECONDS = 6, 12, 5
def content(file, edition):
    page = bytes([edition, file]) + random.Random(file * 1000 + edition).randbytes(4094)
    return page * 15
def put(file, edition):
    with open(there + '.new', 'wb') as new: new.write(content(file, edition))
    os.utime(there + '.new', (1600000000 + edition, 1600000000 + edition))
    os.rename(there + '.new', there + str(file))
# Who shares the kernel's pages with one who came later may find newer ones, but each is whole.
def edition(read, file):
    assert len(read) % 4096 == 0 < len(read), (file, len(read))
    for page in range(0, len(read), 4096):
        assert read[page:page + 4096] == content(file, read[page])[:4096], (file, page, read[page])
    return min(read[::4096])
# What is read through us is not to be had any more where others have replaced it; but it can be opened.
def look_at(fd, file):
    try: return edition(read(fd), file)
    except OSError as error: assert error.errno in (errno.ESTALE, errno.EIO), error
def look(me, until):
    chance, held, seen = random.Random(me), [], [0] * FILES
    while time.time() < until:
        # Most are at one file at a time.
        file = chance.choice([int(time.time() * 4), chance.randrange(FILES)]) % FILES
        fd = os.open(str(file), os.O_RDONLY)
        held.append((file, fd, seen[file]))
        at = chance.randrange(len(held))
        file, fd, least = held[at]
        now = look_at(fd, file)
        if now is not None:
            assert now >= least, (file, now, least)
            seen[file] = max(now, seen[file])
            held[at] = file, fd, now
        while len(held) > chance.randrange(4): os.close(held.pop(chance.randrange(len(held)))[1])
for file in range(FILES): put(file, 0)
while len(os.listdir()) < FILES: time.sleep(0.1)
children, until = [], time.time() + SECONDS
for me in range(READERS):
    pid = os.fork()
    if pid == 0:
        try: look(me, until)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    children.append(pid)
chance, newest = random.Random(7), [0] * FILES
while time.time() < until:
    file = chance.randrange(FILES)
    newest[file] += 1
    put(file, newest[file])
    time.sleep(0.1)
ends = [os.waitpid(pid, 0)[1] for pid in children]
assert not any(ends), ends
time.sleep(0.5)
for file in range(FILES): assert edition(whole(str(file)), file) == newest[file]
print(passed())";
    kept.mount_to_read(",attr_timeout=300ms,dir_timeout=300ms");
    let passed = kept.python(script).trim().parse::<u64>().unwrap();
    assert!(passed >= 100, "{passed}");
    kept.unmount();
}
