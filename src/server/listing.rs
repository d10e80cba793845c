//! Listings: which entries, and their text as MLSx facts (RFC 3659 section 7), `ls -l` lines or
//! names. Knows no sockets.

use std::time::SystemTime;

use nix::Result;
use nix::errno::Errno;
use nix::sys::stat::SFlag;

use super::tree::{Item, Rights, Tree, is};
use crate::proto::{RemotePath, format_time};

/// The facts of MLSx that this server has, in its order; a bit in [`Selected`] each.
const FACTS: [&str; 8] = [
    "type",
    "size",
    "modify",
    "perm",
    "unique",
    "UNIX.mode",
    "UNIX.uid",
    "UNIX.gid",
];
/// LIST shows the year instead of the time of day for what is older than that (RFC 959 has no
/// word on it; `ls` does so), or in the future.
const HALF_A_YEAR: i64 = 365 * 24 * 60 * 60 / 2;

/// The facts that OPTS MLST chose; all at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Selected(u8);

impl Selected {
    pub(super) const ALL: Self = Self(0xff);

    /// From OPTS MLST's argument; unknown facts are ignored (RFC 3659 7.9).
    pub(super) fn parse(list: &str) -> Self {
        let wanted = |fact: &str| {
            list.split(';')
                .any(|word| word.trim().eq_ignore_ascii_case(fact))
        };
        let bits = FACTS.iter().enumerate();
        Self(bits.fold(0, |set, (i, fact)| set | u8::from(wanted(fact)) << i))
    }

    /// `type*;size*;modify;...`, as FEAT has it.
    pub(super) fn marked(self) -> String {
        let mark = |i| if self.has(i) { "*" } else { "" };
        let facts = FACTS.iter().enumerate();
        facts
            .map(|(i, fact)| format!("{fact}{};", mark(i)))
            .collect()
    }

    /// `type;size;`, as the reply to OPTS MLST has it.
    pub(super) fn names(self) -> String {
        self.facts().map(|fact| format!("{fact};")).collect()
    }

    fn facts(self) -> impl Iterator<Item = &'static str> {
        let facts = FACTS.into_iter().enumerate();
        facts
            .filter(move |&(i, _)| self.has(i))
            .map(|(_, fact)| fact)
    }

    fn has(self, fact: usize) -> bool {
        self.0 & (1 << fact) != 0
    }
}

/// What a listing shows of each entry.
#[derive(Clone, Copy)]
pub(super) enum Style {
    Names,
    /// `ls -l`, with times so many seconds ahead of UTC.
    List {
        zone: i64,
    },
    /// `dir`, likewise.
    Dir {
        zone: i64,
    },
    /// MLSD.
    Facts(Selected),
}

impl Style {
    /// The line of a file that there is not.
    pub(super) fn invented(self, n: u64) -> String {
        match self {
            Self::Names => format!("file-{n}"),
            Self::List { .. } => format!("-rw-r--r-- 1 0 0 1 Jan  1  2020 file-{n}"),
            Self::Dir { .. } => format!("01-01-20  12:00AM                    1 file-{n}"),
            Self::Facts(_) => format!("type=file;size=1;modify=20200101000000; file-{n}"),
        }
    }
}

/// A listing about to be made. It names a path that exists: what can fail early has not failed.
pub(super) struct Listing<'a> {
    tree: &'a Tree,
    target: RemotePath,
    /// The path is no folder: this is all there is.
    file: Option<Item>,
    style: Style,
    /// With `.` and `..`. Names that begin with a dot are always shown.
    all: bool,
    access: Access<'a>,
}

/// What the server may do to the entries of a folder.
struct Access<'a> {
    rights: &'a Rights,
    read_only: bool,
    /// Entries may be renamed and removed.
    changeable: bool,
}

impl<'a> Listing<'a> {
    /// Of a folder's entries, or of one file under the name `shown`.
    pub(super) fn new(
        tree: &'a Tree,
        target: RemotePath,
        shown: &[u8],
        style: Style,
        all: bool,
    ) -> Result<Self> {
        let folder = tree
            .stat(&target)
            .is_ok_and(|stat| is(&stat, SFlag::S_IFDIR));
        let file = if folder {
            tree.readable(&target)?;
            None
        } else {
            Some(tree.item(&target, shown)?)
        };
        let within = if folder {
            Some(target.clone())
        } else {
            target.parent()
        };
        Ok(Self {
            tree,
            access: Access::of(tree, within.as_ref())?,
            target,
            file,
            style,
            all,
        })
    }

    pub(super) fn is_folder(&self) -> bool {
        self.file.is_none()
    }

    /// Gives `each` the lines, without line ends.
    pub(super) fn lines<E: From<Errno>>(
        &self,
        now: SystemTime,
        each: &mut dyn FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        if let Some(file) = &self.file {
            return each(&self.line(file, false, now));
        }
        if self.all {
            let itself = self.tree.stat(&self.target)?;
            each(&self.line(&Item::plain(b".", itself), true, now))?;
            if let Style::List { .. } = self.style {
                let above = self.target.parent().unwrap_or_else(RemotePath::root);
                let above = self.tree.stat(&above)?;
                each(&self.line(&Item::plain(b"..", above), true, now))?;
            }
        }
        self.tree
            .list(&self.target, |item| each(&self.line(item, false, now)))
    }

    /// The one line of MLST, which begins with a space. A symbolic link shows as itself, as it
    /// does in MLSD.
    pub(super) fn mlst_line(tree: &Tree, target: &RemotePath, facts: Selected) -> Result<Vec<u8>> {
        let item = tree.item(target, target.as_bytes())?;
        let access = Access::of(tree, target.parent().as_ref())?;
        let mut line = vec![b' '];
        line.extend(mlsx_line(&item, facts, false, &access));
        Ok(line)
    }

    fn line(&self, item: &Item, itself: bool, now: SystemTime) -> Vec<u8> {
        match self.style {
            Style::Names => item.name.clone(),
            Style::List { zone } => list_line(item, zone, now),
            Style::Dir { zone } => dir_line(item, zone),
            Style::Facts(selected) => mlsx_line(item, selected, itself, &self.access),
        }
    }
}

impl<'a> Access<'a> {
    /// For the entries of `folder`; the root is in none.
    fn of(tree: &'a Tree, folder: Option<&RemotePath>) -> Result<Self> {
        let rights = tree.rights();
        let changeable = match folder {
            Some(folder) => rights.permit(&tree.stat(folder)?, 0o3),
            None => false,
        };
        Ok(Self {
            rights,
            read_only: tree.is_read_only(),
            changeable,
        })
    }
}

/// One line of MLSD or MLST without line end: `facts name`. `itself` is for the folder that is
/// being listed (`type=cdir`).
fn mlsx_line(item: &Item, selected: Selected, itself: bool, access: &Access<'_>) -> Vec<u8> {
    let stat = &item.stat;
    let mut line = Vec::with_capacity(128 + item.name.len());
    for fact in selected.facts() {
        let value = match fact {
            "type" => kind(item, itself),
            "size" if item.is(SFlag::S_IFDIR) => continue,
            "size" => stat.st_size.to_string().into(),
            "modify" => format_time(item.modified()).into(),
            "perm" => perm(item, itself, access).into(),
            "unique" => format!("{:x}U{:x}", stat.st_dev, stat.st_ino).into(),
            "UNIX.mode" => format!("{:04o}", stat.st_mode & 0o7777).into(),
            "UNIX.uid" => stat.st_uid.to_string().into(),
            "UNIX.gid" => stat.st_gid.to_string().into(),
            _ => continue,
        };
        line.extend_from_slice(fact.as_bytes());
        line.push(b'=');
        line.extend_from_slice(&value);
        line.push(b';');
    }
    line.push(b' ');
    line.extend_from_slice(&item.name);
    line
}

/// One `ls -l` line without line end.
fn list_line(item: &Item, zone: i64, now: SystemTime) -> Vec<u8> {
    let stat = &item.stat;
    let mut line = format!(
        "{} {:>3} {:<8} {:<8} {:>12} {} ",
        letters(stat.st_mode),
        stat.st_nlink,
        stat.st_uid,
        stat.st_gid,
        stat.st_size,
        list_date(stat.st_mtime, zone, now),
    )
    .into_bytes();
    line.extend_from_slice(&item.name);
    if let Some(target) = item.target.as_ref().filter(|target| fits_a_line(target)) {
        line.extend_from_slice(b" -> ");
        line.extend_from_slice(target);
    }
    line
}

/// One line of `dir`, as IIS sends it, without line end.
fn dir_line(item: &Item, zone: i64) -> Vec<u8> {
    let time = jiff::Timestamp::from_second(item.stat.st_mtime.saturating_add(zone));
    let time = jiff::tz::Offset::UTC.to_datetime(time.unwrap_or_default());
    let time = time.strftime("%m-%d-%y  %I:%M%p");
    let column = match item.is(SFlag::S_IFDIR) {
        true => "<DIR>         ".to_owned(),
        false => item.stat.st_size.to_string(),
    };
    let mut line = format!("{time} {column:>20} ").into_bytes();
    line.extend_from_slice(&item.name);
    line
}

fn kind(item: &Item, itself: bool) -> Vec<u8> {
    let kind = match SFlag::from_bits_truncate(item.stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => "file",
        SFlag::S_IFDIR if itself => "cdir",
        SFlag::S_IFDIR => "dir",
        SFlag::S_IFLNK => "OS.unix=slink:",
        SFlag::S_IFCHR => "OS.unix=chr",
        SFlag::S_IFBLK => "OS.unix=blk",
        SFlag::S_IFIFO => "OS.unix=fifo",
        _ => "OS.unix=socket",
    };
    let mut kind = kind.as_bytes().to_vec();
    // A fact's value cannot carry these (RFC 3659 7.2); the target is left out then.
    if let Some(target) = item.target.as_ref().filter(|target| fits_a_fact(target)) {
        kind.extend_from_slice(target);
    }
    kind
}

fn fits_a_line(target: &[u8]) -> bool {
    !target.iter().any(|b| matches!(b, b'\r' | b'\n'))
}

fn fits_a_fact(target: &[u8]) -> bool {
    fits_a_line(target) && !target.iter().any(|b| matches!(b, b' ' | b';'))
}

/// RFC 3659 7.5.5.
fn perm(item: &Item, itself: bool, access: &Access<'_>) -> String {
    let may = |right| access.rights.permit(&item.stat, right);
    let may_write = !access.read_only && may(0o2);
    let changeable = access.changeable && !access.read_only && !itself;
    let folder = item.is(SFlag::S_IFDIR);
    let letters = [
        ('a', item.is(SFlag::S_IFREG) && may_write),
        ('c', folder && may_write),
        ('d', changeable),
        ('e', folder && may(0o1)),
        ('f', changeable),
        ('l', folder && may(0o4)),
        ('m', folder && may_write),
        ('p', folder && may_write),
        ('r', item.is(SFlag::S_IFREG) && may(0o4)),
        ('w', item.is(SFlag::S_IFREG) && may_write),
    ];
    let granted = letters.iter().filter(|(_, granted)| *granted);
    granted.map(|(letter, _)| letter).collect()
}

fn letters(mode: u32) -> String {
    let kind = match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => 'd',
        SFlag::S_IFLNK => 'l',
        SFlag::S_IFCHR => 'c',
        SFlag::S_IFBLK => 'b',
        SFlag::S_IFIFO => 'p',
        SFlag::S_IFSOCK => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    // Set-user-ID, set-group-ID and the sticky bit show in the place of the x they sit above.
    for (shift, special, marks) in [(6, 0o4000, "sS"), (3, 0o2000, "sS"), (0, 0o1000, "tT")] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push_str(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => &marks[..1],
            (true, false) => &marks[1..],
            (false, true) => "x",
            (false, false) => "-",
        });
    }
    text
}

fn list_date(seconds: i64, zone: i64, now: SystemTime) -> String {
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs().cast_signed());
    let Ok(time) = jiff::Timestamp::from_second(seconds.saturating_add(zone)) else {
        return "Jan  1  1970".into();
    };
    let recent = (now - HALF_A_YEAR..=now).contains(&seconds);
    let format = if recent { "%b %e %H:%M" } else { "%b %e  %Y" };
    jiff::tz::Offset::UTC
        .to_datetime(time)
        .strftime(format)
        .to_string()
}
