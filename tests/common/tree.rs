//! Folders to read through a mount: names that trip parsers up, and contents that tell if a byte is amiss.

use super::server::Kind;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

/// Names for a file and for a folder each.
const ODD: &[&[u8]] = &[
    b"plain",
    b".hidden",
    b"..hidden twice",
    b"...",
    b" leading space",
    b"trailing space ",
    b"  two  spaces  everywhere  ",
    b"-la",
    b"-R",
    b"--help",
    b"a -> b",
    b" -> ",
    b"[brackets]",
    b"[a-z]*",
    b"star*",
    b"question?",
    b"*",
    b"?",
    b"#hash",
    b"percent%20",
    b"%2e%2e",
    b"double\"quote",
    b"\"quoted\"",
    b"single'quote",
    b"back\\slash",
    b"\\",
    b"~",
    b"~root",
    b"$HOME",
    b"`id`",
    b"semi;colon",
    b"size=5; name",
    b"type=file;size=5; name",
    b"a,b",
    b"a=b",
    b"a&b|c<d>e(f)g{h}",
    b"colon:colon",
    b"tab\there",
    b"bell\x07 escape\x1b[31m delete\x7f",
    b"total 0",
    b"213-Status follows:",
    b"226 Transfer complete.",
    b"-rw-r--r--    1 0        0               5 Nov 20 12:44 listed",
    b"drwxr-xr-x 2 root root 4096 Jan  1  2020 folder",
    b"+i8388621.29609,m824255902,r,\tdev",
    b"02-11-94  09:18PM       <DIR>          dos",
    b"Makefile~",
    b"CON",
    "Gr\u{fc}\u{df}e \u{65e5}\u{672c} \u{1f980}".as_bytes(),
    "de\u{301}compose\u{301}".as_bytes(),
    "\u{202e}right to left".as_bytes(),
    "\u{feff}mark".as_bytes(),
    "no\u{a0}break".as_bytes(),
];

/// Names that are not UTF-8: Latin-1, a lone continuation byte, Telnet's IAC, every high byte.
const NOT_UTF8: &[&[u8]] = &[
    b"caf\xe9",
    b"\x80",
    b"iac\xff",
    b"iac\xff\xff\xfe",
    b"\xc0\x80\xed\xa0\x80",
];

/// Fills `root` with every odd name as a file and as a folder, in the times and sizes that occur.
pub fn odd(root: &Path, kind: Kind) {
    let longest = vec![b'l'; 255];
    let mut names: Vec<&[u8]> = ODD.to_vec();
    names.push(&longest);
    // pyftpdlib shows each byte that is not UTF-8 as `?`, and there is no asking for such a file.
    if !kind.is_pyftpdlib() {
        names.extend(NOT_UTF8);
    }
    // Pure-FTPd lists no name that has a control character, and prohibits files with a backslash.
    if kind == Kind::PureFtpd {
        names.retain(|name| {
            !name
                .iter()
                .any(|byte| byte.is_ascii_control() || *byte == b'\\')
        });
    }
    // ProFTPD takes 0xff in commands for Telnet's IAC, so what follows it must be no Telnet command.
    if kind.is_proftpd() {
        names.retain(|name| !name.windows(2).any(|pair| pair == [0xff, 0xff]));
    }
    for (index, name) in names.iter().enumerate() {
        let name = Path::new(OsStr::from_bytes(name));
        let file = root.join("files").join(name);
        put(
            &file,
            format!("{index} {}", file.display()).as_bytes(),
            age(index),
        );
        put(
            &root.join("folders").join(name).join(name),
            &[index as u8],
            age(index + 1),
        );
        put(&root.join(name), b"", age(index + 2));
    }
    fs::create_dir(root.join("empty folder")).expect("make a folder");
    put(
        &root.join("one/2/three/4/five/6/seven/8/deep"),
        b"eight levels down",
        age(0),
    );
}

/// Whole seconds before now, from minutes to thirty years; listings show them in different forms.
fn age(index: usize) -> Duration {
    const DAY: u64 = 24 * 3600;
    let days = [0, 1, 30, 90, 179, 184, 200, 364, 366, 3 * 365, 11_000];
    Duration::from_secs(days[index % days.len()] * DAY + 61 * index as u64)
}

/// Writes a file, its folders with it, and sets its time to a whole second, so long ago.
pub fn put(path: &Path, bytes: &[u8], age: Duration) {
    fs::create_dir_all(path.parent().expect("a file has a folder")).expect("make folders");
    fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    set_age(path, age);
}

/// Sets the modification time to a whole second, so long ago.
pub fn set_age(path: &Path, age: Duration) {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a clock past 1970");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs((now - age).as_secs());
    File::open(path)
        .and_then(|file| file.set_modified(time))
        .expect("set a time");
}

/// Bytes that repeat nowhere, so a piece from the wrong place never passes: block `n` of `seed`, 64 bytes.
pub fn block(seed: u64, n: u64) -> [u8; 64] {
    let mut bytes = [0; 64];
    let mut state =
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n.wrapping_mul(0xd1b5_4a32_d192_ed03);
    for word in bytes.chunks_exact_mut(8) {
        // splitmix64's step: cheap, and no two blocks look alike.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes
}

/// `length` bytes of `seed`, from the start.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let blocks = (0..length.div_ceil(64) as u64).flat_map(|n| block(seed, n));
    blocks.take(length).collect()
}

/// Writes a file of `length` bytes of `seed`.
pub fn fill(path: &Path, seed: u64, length: u64) {
    fs::create_dir_all(path.parent().expect("a file has a folder")).expect("make folders");
    let mut file = io::BufWriter::with_capacity(1 << 20, File::create(path).expect("make a file"));
    for n in 0..length.div_ceil(64) {
        let take = (length - n * 64).min(64) as usize;
        file.write_all(&block(seed, n)[..take])
            .expect("write a file");
    }
    file.flush().expect("write a file");
}

/// A large file that tests which run at the same time share: 64 MiB, or 1 GiB in a full run.
pub struct Large {
    folder: tempfile::TempDir,
    pub length: u64,
    pub digest: String,
}

/// The one that some other test holds, or a new one.
pub fn large() -> Arc<Large> {
    static SHARED: Mutex<Weak<Large>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(large) = shared.upgrade() {
        return large;
    }
    let folder = tempfile::Builder::new()
        .prefix("ftpsfs-large-")
        .tempdir()
        .expect("make a folder");
    let length = if super::full() { 1 << 30 } else { 64 << 20 };
    let path = folder.path().join("large");
    fill(&path, 1, length);
    let digest = digest(&path).expect("read it");
    let large = Arc::new(Large {
        folder,
        length,
        digest,
    });
    *shared = Arc::downgrade(&large);
    large
}

impl Large {
    /// Links it into a server's folder; it is too large to copy for each test.
    pub fn link_into(&self, root: &Path) -> PathBuf {
        let path = root.join("large");
        fs::hard_link(self.folder.path().join("large"), &path).expect("link the large file");
        path
    }
}

/// A sparse file of more than 4 GiB, with something in its last mebibyte.
pub fn sparse(path: &Path, length: u64) {
    let file = File::create(path).expect("make a file");
    file.set_len(length).expect("lengthen it");
    file.write_all_at(&bytes(5, 1 << 20), length - (1 << 20))
        .expect("write its end");
}

/// A file's SHA-256, in hexadecimal.
pub fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            length => hash.update(&buffer[..length]),
        }
    }
}
