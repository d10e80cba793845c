//! What was learned about a server, kept in a file from one mount to the next: `name=value` lines.
//!
//! A file that is gone, torn, foreign or old costs the lessons in it and nothing else. Whether it is
//! still the same server is decided by [`Profile::recognize`] when the first connection is ready.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{KeptReport, Profile, Resumption};

/// What may have been right once is tried again after so long.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// A file longer than this is none of ours, bytes.
const MOST: u64 = 16 << 10;

/// Where the lessons are kept.
pub(super) struct Kept {
    path: PathBuf,
    /// What the file holds, and since when these lessons are gathered.
    saved: String,
    since: SystemTime,
}

impl Kept {
    /// The file, and what it tells.
    pub fn open(path: &Path, now: SystemTime) -> (Self, Profile) {
        let text = read(path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                log::debug!("{}: {error}", path.display());
            }
            String::new()
        });
        let since = number(&text, "since").map(|since| UNIX_EPOCH + Duration::from_secs(since));
        let is_young = |since: &SystemTime| {
            let age = now.duration_since(*since);
            age.is_ok_and(|age| age < LIFETIME)
        };
        let (since, profile) = match since.filter(is_young) {
            Some(since) => (since, parse(&text)),
            None => (now, Profile::default()),
        };
        let is_believed = profile.identity.is_some();
        let kept = Self {
            path: path.to_owned(),
            saved: if is_believed { text } else { String::new() },
            since,
        };
        (kept, profile)
    }

    /// What the file holds.
    pub fn report(&self) -> KeptReport {
        let since = self.since.duration_since(UNIX_EPOCH);
        let is_lesson = |line: &&str| !line.starts_with("since=") && !line.starts_with("identity=");
        KeptReport {
            file: self.path.to_string_lossy().into_owned(),
            since: since.unwrap_or_default().as_secs(),
            lessons: self
                .saved
                .lines()
                .filter(is_lesson)
                .map(str::to_owned)
                .collect(),
        }
    }

    /// Writes the lessons down where they are others than before.
    pub fn save(&mut self, profile: &Profile) {
        let since = self.since.duration_since(UNIX_EPOCH);
        let text = format!(
            "since={}\n{}",
            since.unwrap_or_default().as_secs(),
            lines(profile)
        );
        if text == self.saved {
            return;
        }
        if let Err(error) = write(&self.path, &text) {
            // The lessons are learned again then.
            log::debug!("{}: {error}", self.path.display());
        }
        self.saved = text;
    }
}

fn read(path: &Path) -> io::Result<String> {
    let file = fs::File::open(path)?;
    io::read_to_string(io::Read::take(file, MOST))
}

/// The new file stands under its name when it is whole.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&fresh, path)
}

/// Calls a macro with every lesson that is kept: flags, what is yes, no or unknown. Not kept is what
/// each connection tells anyway, and what passes: pauses, and the server's clocks, which change twice
/// a year.
macro_rules! lessons {
    ($flags:ident, $answers:ident) => {
        $flags!(
            one_by_one,
            implicit_needs_prot,
            uploads_bring_no_ticket,
            epsv_refused,
            eprt_refused,
            rein_refused,
            mlsd_refused,
            mlsd_shows_itself,
            list_all_refused
        );
        $answers!(
            speaks_after_reset,
            early_close,
            stat_faithful,
            mlsd_hides_links,
            mlst_hides_links,
            keeps_last_space,
            keeps_rest,
            patches_in_place,
            renames_over,
            ignores_case
        );
    };
}

fn lines(profile: &Profile) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        text.extend([name, "=", value, "\n"]);
    };
    if let Some(identity) = &profile.identity {
        line("identity", identity);
    }
    macro_rules! flags {
        ($($name:ident),*) => { $(if profile.$name { line(stringify!($name), "yes"); })* };
    }
    macro_rules! answers {
        ($($name:ident),*) => {
            $(if let Some(answer) = profile.$name {
                line(stringify!($name), if answer { "yes" } else { "no" });
            })*
        };
    }
    lessons!(flags, answers);
    match profile.resumption {
        Resumption::Unknown => {}
        Resumption::Optional => line("resumption", "optional"),
        Resumption::Demanded => line("resumption", "demanded"),
    }
    if let Some(lifetime) = profile.ahead_lifetime {
        line("ahead_lifetime", &lifetime.as_secs().to_string());
    }
    text
}

fn parse(text: &str) -> Profile {
    let mut profile = Profile {
        identity: value(text, "identity").map(str::to_owned),
        ..Profile::default()
    };
    let answer = |name| match value(text, name) {
        Some("yes") => Some(true),
        Some("no") => Some(false),
        _ => None,
    };
    macro_rules! flags {
        ($($name:ident),*) => { $(profile.$name = answer(stringify!($name)) == Some(true);)* };
    }
    macro_rules! answers {
        ($($name:ident),*) => { $(profile.$name = answer(stringify!($name));)* };
    }
    lessons!(flags, answers);
    profile.resumption = match value(text, "resumption") {
        Some("optional") => Resumption::Optional,
        Some("demanded") => Resumption::Demanded,
        _ => Resumption::Unknown,
    };
    profile.ahead_lifetime = number(text, "ahead_lifetime")
        .filter(|seconds| *seconds <= 3600)
        .map(Duration::from_secs);
    // Without knowing whose they are, they are nobody's.
    match profile.identity {
        Some(_) => profile,
        None => Profile::default(),
    }
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

fn number(text: &str, name: &str) -> Option<u64> {
    value(text, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Features, Reply};

    fn known() -> Profile {
        let mut profile = Profile {
            patches_in_place: Some(true),
            stat_faithful: Some(false),
            resumption: Resumption::Demanded,
            ahead_lifetime: Some(Duration::from_secs(60)),
            one_by_one: true,
            ..Profile::default()
        };
        profile.recognize(&Reply::new(220, "hello 12:30"), &Features::default());
        profile
    }

    #[test]
    fn lessons_come_back_until_they_are_old() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("servers/host-21");
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let (mut kept, profile) = Kept::open(&path, now);
        assert_eq!(lines(&profile), "");
        kept.save(&known());
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&path).expect("saved").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let later = now + LIFETIME / 2;
        let (mut kept, profile) = Kept::open(&path, later);
        let report = kept.report();
        assert_eq!(report.since, 1_700_000_000);
        let kept_lines = lines(&known());
        let kept_lines: Vec<_> = kept_lines
            .lines()
            .filter(|l| !l.starts_with("identity"))
            .collect();
        assert_eq!(report.lessons, kept_lines);
        assert!(report.lessons.contains(&"patches_in_place=yes".to_owned()));
        assert_eq!(lines(&profile), lines(&known()));
        assert_eq!(profile.patches_in_place, Some(true));
        assert_eq!(profile.stat_faithful, Some(false));
        // What is saved again is no younger.
        kept.save(&Profile {
            renames_over: Some(true),
            ..profile
        });
        let (kept, old) = Kept::open(&path, now + LIFETIME);
        assert_eq!(kept.report().lessons, Vec::<String>::new());
        assert_eq!(lines(&old), "");
        let (_, before) = Kept::open(&path, now - Duration::from_secs(1));
        assert_eq!(lines(&before), "");
    }

    #[test]
    fn what_is_no_lesson_is_left_out() {
        for text in [
            "",
            "patches_in_place=yes\n",
            "identity\nidentity=\0\nsince=x\nahead_lifetime=-1\nahead_lifetime=99999999999999\n",
            "identity=x\npatches_in_place=maybe\nresumption=\n=\n==\nahead_lifetime=4000",
        ] {
            let profile = parse(text);
            assert_eq!(profile.patches_in_place, None, "{text}");
            assert_eq!(profile.ahead_lifetime, None, "{text}");
        }
    }

    #[test]
    fn another_server_teaches_anew() {
        let features = |lines: &[&str]| {
            let mut reply = Reply::new(211, "Features:");
            reply
                .lines
                .extend(lines.iter().map(|l| l.as_bytes().to_vec()));
            reply.lines.push(b"End".to_vec());
            Features::parse(&reply)
        };
        let same = |greeting: &str, lines: &[&str]| {
            let mut profile = known();
            profile.recognize(&Reply::new(220, greeting), &features(lines));
            profile.patches_in_place == Some(true) && profile.resumption == Resumption::Demanded
        };
        // Greetings tell the time and how many are there.
        assert!(same("hello 14:05", &[]));
        assert!(!same("hello again", &[]));
        assert!(!same("hello 12:30", &["MDTM"]));
    }
}
