//! [`Book`]: the kept blocks of one file's content, in two local files.
//!
//! `NAME.data` is the content itself, with holes where nothing is kept; `NAME.sums` says whose it is, and
//! has a checksum for each block: 0 where the block is not kept. Nothing is forced to the disk: what a
//! crash has torn does not agree with its checksum and is fetched again. Knows nothing of other books.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::Edition;
use crate::fs::spool::RangeSet;
use crate::fs::spool::folder::{absent_as_none, open_file, remove};
use crate::proto::RemotePath;
use crate::remote::Version;

/// What is kept is whole blocks of this many bytes, and the rest at the end of the file.
pub(super) const BLOCK: u64 = 4096;

pub(super) const DATA: &str = ".data";
pub(super) const SUMS: &str = ".sums";

const MAGIC: &[u8; 16] = b"ftpsfs content 1";
/// Magic, size, time, unique fact, length of the path.
const FIXED: usize = 16 + 8 + 8 + 8 + 8;
/// A file with a longer path is not kept.
pub(super) const LONGEST_PATH: usize = 4096;
/// Blocks that lie so scattered that they are more runs than this are not added to.
const MOST_RUNS: usize = 4096;
/// Bytes of the table of checksums that are read at a time.
const CHUNK: u64 = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Book {
    data: File,
    sums: File,
    /// Where in `sums` the table begins.
    table: u64,
    /// What the checksums depend on, so that one book's are not valid in another.
    seed: u64,
    size: u64,
    /// What is kept, in bytes of the content. A leaf lock.
    kept: Mutex<RangeSet>,
    /// What of that we have seen to be whole: we wrote it, or its checksums agreed. A leaf lock.
    proven: Mutex<RangeSet>,
}

/// The first page of a book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Title {
    pub path: RemotePath,
    pub edition: Edition,
}

/// What the two files of a path's book are called, without their endings.
pub(super) fn name(path: &RemotePath) -> String {
    let hash = Sha256::digest(path.as_bytes());
    hash[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A book's content; `None` where there is none, or not of that size.
pub(super) fn content(dir: &File, name: &str, size: u64) -> io::Result<Option<File>> {
    let opened = open_file(dir, &format!("{name}{DATA}"), OFlag::O_RDONLY);
    let Some(data) = absent_as_none(opened)? else {
        return Ok(None);
    };
    Ok((data.metadata()?.len() == size).then_some(data))
}

/// Removes a book's files.
pub(super) fn discard(dir: &File, name: &str) -> io::Result<()> {
    for ending in [SUMS, DATA] {
        absent_as_none(remove(dir, &format!("{name}{ending}")))?;
    }
    Ok(())
}

/// Whose book it is, what it takes of the disk, and when it was last used. `None`: it is of no use.
pub(super) fn look(dir: &File, name: &str) -> io::Result<Option<(Title, u64, SystemTime)>> {
    let Some((data, sums)) = open_files(dir, name, OFlag::O_RDONLY)? else {
        return Ok(None);
    };
    let used = sums.metadata()?.modified()?;
    let bytes = allocated(&data)? + allocated(&sums)?;
    let title = Title::read(&sums)?;
    let title = title.filter(|(title, ..)| self::name(&title.path) == name);
    Ok(title.map(|(title, ..)| (title, bytes, used)))
}

impl Book {
    /// An empty one, in the place of what was there.
    pub(super) fn create(dir: &File, title: &Title) -> io::Result<Self> {
        let name = name(&title.path);
        discard(dir, &name)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let data = open_file(dir, &format!("{name}{DATA}"), flags)?;
        data.set_len(title.edition.version.size)?;
        let sums = open_file(dir, &format!("{name}{SUMS}"), flags)?;
        let (head, seed) = title.written();
        sums.write_all_at(&head, 0)?;
        Ok(Self {
            data,
            sums,
            table: head.len() as u64,
            seed,
            size: title.edition.version.size,
            kept: Mutex::default(),
            proven: Mutex::default(),
        })
    }

    /// The one that was made before; `None` where it is another's by now, or torn.
    pub(super) fn open(dir: &File, wanted: &Title) -> io::Result<Option<Self>> {
        let name = name(&wanted.path);
        let Some((data, sums)) = open_files(dir, &name, OFlag::O_RDWR)? else {
            return Ok(None);
        };
        let Some((title, table, seed)) = Title::read(&sums)? else {
            return Ok(None);
        };
        if title != *wanted {
            return Ok(None);
        }
        let book = Self {
            data,
            sums,
            table,
            seed,
            size: wanted.edition.version.size,
            kept: Mutex::default(),
            proven: Mutex::default(),
        };
        *book.kept.lock() = book.read_table()?;
        Ok(Some(book))
    }

    /// Whether all of it is kept.
    pub(super) fn holds(&self, range: Range<u64>) -> bool {
        self.kept.lock().contains(range)
    }

    /// Whether all of the file is kept, and was seen to be whole.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.lock().contains(0..self.size)
    }

    /// The bytes of a range that lies within the file, if all of them are kept and whole.
    pub(super) fn read(&self, range: &Range<u64>) -> io::Result<Option<Vec<u8>>> {
        if range.is_empty() || !self.holds(range.clone()) {
            return Ok(None);
        }
        let from = range.start - range.start % BLOCK;
        let to = range.end.next_multiple_of(BLOCK).min(self.size);
        let first = from / BLOCK;
        let mut sums = vec![0; (to.div_ceil(BLOCK) - first) as usize * 8];
        let mut bytes = vec![0; (to - from) as usize];
        let sums_read = self.sums.read_exact_at(&mut sums, self.table + first * 8);
        let there = sums_read.and_then(|()| self.data.read_exact_at(&mut bytes, from));
        match there {
            Ok(()) => {}
            // Cut off by a crash, or by somebody.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.lose(from..to);
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let mut whole = true;
        let (sums, _) = sums.as_chunks::<8>();
        for (number, (block, sum)) in (first..).zip(bytes.chunks(BLOCK as usize).zip(sums)) {
            if self.sum(number, block) != u64::from_le_bytes(*sum) {
                whole = false;
                let at = number * BLOCK;
                self.lose(at..at + BLOCK);
            }
        }
        if !whole {
            return Ok(None);
        }
        self.proven.lock().insert(from..to);
        bytes.truncate((range.end - from) as usize);
        bytes.drain(..(range.start - from) as usize);
        Ok(Some(bytes))
    }

    /// Keeps whole blocks (see [`BLOCK`]), those that are not kept yet.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let all = offset..offset + bytes.len() as u64;
        let gaps: Vec<_> = {
            let kept = self.kept.lock();
            match kept.fragments() < MOST_RUNS {
                true => kept.gaps(all).collect(),
                false => return Ok(()),
            }
        };
        for gap in gaps {
            let part = &bytes[(gap.start - offset) as usize..(gap.end - offset) as usize];
            let first = gap.start / BLOCK;
            let numbered = (first..).zip(part.chunks(BLOCK as usize));
            let sums: Vec<u8> = numbered
                .flat_map(|(number, block)| self.sum(number, block).to_le_bytes())
                .collect();
            self.data.write_all_at(part, gap.start)?;
            self.sums.write_all_at(&sums, self.table + first * 8)?;
            self.kept.lock().insert(gap.clone());
            self.proven.lock().insert(gap);
        }
        Ok(())
    }

    /// What was kept there is damaged.
    fn lose(&self, range: Range<u64>) {
        self.proven.lock().remove(range.clone());
        self.kept.lock().remove(range);
    }

    /// What it takes of the disk, bytes.
    pub(super) fn allocated(&self) -> io::Result<u64> {
        Ok(allocated(&self.data)? + allocated(&self.sums)?)
    }

    /// Notes that it was used just now.
    pub(super) fn touch(&self) {
        if let Err(error) = self.sums.set_modified(SystemTime::now()) {
            log::debug!("content cache: {error}");
        }
    }

    /// What the table says is kept.
    fn read_table(&self) -> io::Result<RangeSet> {
        let mut kept = RangeSet::new();
        let end = self.sums.metadata()?.len();
        let most = self.table + self.size.div_ceil(BLOCK) * 8;
        let end = end.min(most);
        let mut at = self.table;
        let mut chunk = vec![0; CHUNK as usize];
        while at < end && kept.fragments() < MOST_RUNS {
            // Past holes, of which a large file's table is full.
            let data = next_data(&self.sums, at)?.unwrap_or(end);
            at += data.saturating_sub(at) / 8 * 8;
            if at >= end {
                break;
            }
            let part = &mut chunk[..(end - at).min(CHUNK) as usize / 8 * 8];
            if part.is_empty() {
                break;
            }
            self.sums.read_exact_at(part, at)?;
            let first = (at - self.table) / 8;
            let (sums, _) = part.as_chunks::<8>();
            for (number, sum) in (first..).zip(sums) {
                if u64::from_le_bytes(*sum) != 0 {
                    let from = number * BLOCK;
                    kept.insert(from..(from + BLOCK).min(self.size));
                }
            }
            at += part.len() as u64;
        }
        Ok(kept)
    }

    /// A block's checksum, never 0.
    fn sum(&self, number: u64, block: &[u8]) -> u64 {
        sum(self.seed.wrapping_add(number.wrapping_mul(ODD[0])), block)
    }
}

impl Title {
    /// The bytes that stand for it, and their checksum.
    fn written(&self) -> (Vec<u8>, u64) {
        let Edition { version, unique } = &self.edition;
        let path = self.path.as_bytes();
        let mut bytes = Vec::with_capacity(FIXED + path.len() + 16);
        bytes.extend(MAGIC);
        bytes.extend(version.size.to_le_bytes());
        bytes.extend(seconds(version.mtime).to_le_bytes());
        bytes.extend(unique.unwrap_or(0).to_le_bytes());
        bytes.extend((path.len() as u64).to_le_bytes());
        bytes.extend(path);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let sum = sum(0, &bytes);
        bytes.extend(sum.to_le_bytes());
        (bytes, sum)
    }

    /// With where it ends, and its checksum. `None`: torn, or something else.
    fn read(sums: &File) -> io::Result<Option<(Self, u64, u64)>> {
        let mut bytes = vec![0; FIXED + LONGEST_PATH + 16];
        let mut filled = 0;
        while filled < bytes.len() {
            match sums.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                more => filled += more,
            }
        }
        bytes.truncate(filled);
        Ok(Self::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> Option<(Self, u64, u64)> {
        let number = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let len = usize::try_from(number(40)?).ok()?;
        if len > LONGEST_PATH {
            return None;
        }
        let path = RemotePath::parse(bytes.get(FIXED..FIXED + len)?).ok()?;
        let at = number(24)? as i64;
        let by = Duration::from_secs(at.unsigned_abs());
        let mtime = match at < 0 {
            true => UNIX_EPOCH.checked_sub(by)?,
            false => UNIX_EPOCH.checked_add(by)?,
        };
        let edition = Edition {
            version: Version::new(number(16)?, mtime),
            unique: Some(number(32)?).filter(|unique| *unique != 0),
        };
        let title = Self { path, edition };
        let (written, seed) = title.written();
        bytes
            .starts_with(&written)
            .then_some((title, written.len() as u64, seed))
    }
}

/// Whole seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> i64 {
    let whole = |by: Duration| i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => whole(after),
        Err(before) => -whole(before.duration()),
    }
}

fn open_files(dir: &File, name: &str, flags: OFlag) -> io::Result<Option<(File, File)>> {
    let open = |ending| absent_as_none(open_file(dir, &format!("{name}{ending}"), flags));
    Ok(open(DATA)?.zip(open(SUMS)?))
}

fn allocated(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

/// Where the next bytes are that are no hole, from `at` on; `None`: nowhere.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    use nix::errno::Errno;
    use nix::unistd::{Whence, lseek};
    let offset = i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    match lseek(file, offset, Whence::SeekData) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        // A file system that does not tell.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Some(at)),
        Err(errno) => Err(errno.into()),
    }
}

/// Factors that spread bits: odd, without a pattern.
const ODD: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
];

/// A checksum against accidents, as fast as memory, never 0. Four words at a time, each into a lane of its
/// own; whatever changes in one word changes its lane.
fn sum(seed: u64, bytes: &[u8]) -> u64 {
    let mut lanes = ODD.map(|odd| seed ^ odd);
    let mut add = |block: &[u8; 32]| {
        let (words, _) = block.as_chunks::<8>();
        for ((lane, word), odd) in lanes.iter_mut().zip(words).zip(ODD) {
            *lane = (*lane ^ u64::from_le_bytes(*word))
                .wrapping_mul(odd)
                .rotate_left(29);
        }
    };
    let (blocks, rest) = bytes.as_chunks::<32>();
    blocks.iter().for_each(&mut add);
    let mut last = [0; 32];
    last[..rest.len()].copy_from_slice(rest);
    add(&last);
    let mut sum = bytes.len() as u64;
    for (lane, odd) in lanes.into_iter().zip(ODD) {
        sum = (sum ^ lane ^ (lane >> 31)).wrapping_mul(odd);
        sum ^= sum >> 29;
    }
    sum.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_shows_in_the_checksum() {
        let mut bytes: Vec<u8> = (0..101_u32).map(|i| (i * 37) as u8).collect();
        let before = sum(7, &bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(sum(7, &bytes), before, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_ne!(sum(8, &bytes), before);
        assert_ne!(sum(7, &[]), sum(7, &[0]));
        assert_ne!(sum(7, &[0; 32]), sum(7, &[0; 64]));
    }

    #[test]
    fn a_title_comes_back_unless_it_was_torn() {
        let title = Title {
            path: RemotePath::parse(b"/a/b \xff").unwrap(),
            edition: Edition {
                version: Version::new(12345, UNIX_EPOCH - Duration::from_secs(77)),
                unique: Some(9),
            },
        };
        let (mut bytes, seed) = title.written();
        let end = bytes.len() as u64;
        assert_eq!(Title::parse(&bytes), Some((title, end, seed)));
        for at in 0..bytes.len() {
            assert_eq!(Title::parse(&bytes[..at]), None, "cut at {at}");
            bytes[at] ^= 1;
            assert_eq!(Title::parse(&bytes), None, "changed at {at}");
            bytes[at] ^= 1;
        }
    }
}
