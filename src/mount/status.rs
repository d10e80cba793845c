//! `ftpsfs status`: how mounts are. [`Mounting`] tells it within the mount's process, [`run`] asks
//! for it and shows it.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::{KeptReport, SessionReport};
use crate::fs::{self, Fs, PendingState};
use crate::fuse;

use super::channel::Process;
use super::cli::StatusArguments;
use super::failure::{Failure, shown};
use super::mountpoint::{self, Mounted};
use super::{human, say};

/// How far the two looks lie apart that tell a transfer's rate.
const LOOK: Duration = Duration::from_millis(250);
/// How often `--watch` asks.
const PERIOD: Duration = Duration::from_secs(1);

/// A mount as its own process sees it.
pub struct Mounting {
    pub fs: Arc<Fs>,
    pub record: Arc<fuse::Record>,
    pub source: String,
    pub directory: PathBuf,
    pub since: SystemTime,
}

/// How a mount is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub source: String,
    pub directory: String,
    /// Seconds since 1970.
    pub since: u64,
    pub requests: fuse::Report,
    #[serde(flatten)]
    pub files: fs::Report,
}

impl Mounting {
    /// Takes a quarter of a second while something is being transferred.
    pub fn status(&self) -> Status {
        let mut status = self.glance();
        let first = std::mem::take(&mut status.files.server.sessions);
        let began = Instant::now();
        if first.iter().any(|session| session.transfer.is_some()) {
            thread::sleep(LOOK);
        }
        status.files.server = self.fs.report().server;
        for session in &mut status.files.server.sessions {
            let before = first.iter().find(|before| before.number == session.number);
            measure(session, before, began.elapsed());
        }
        status
    }

    /// The same without rates, at once.
    fn glance(&self) -> Status {
        let seconds = self.since.duration_since(UNIX_EPOCH);
        Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            source: self.source.clone(),
            directory: self.directory.to_string_lossy().into_owned(),
            since: seconds.map_or(0, |since| since.as_secs()),
            requests: self.record.report(),
            files: self.fs.report(),
        }
    }

    /// The same as extended attributes: what the JSON has under `a.b` is `user.ftps.a.b`, of a list
    /// its length, and nothing of what is not known.
    pub fn attributes(&self) -> fuse::Attributes {
        let mut attributes = fuse::Attributes::new();
        if let Ok(status) = serde_json::to_value(self.glance()) {
            flatten("user.ftps", &status, &mut attributes);
        }
        attributes
    }

    /// Puts it into the log.
    pub fn log(&self) {
        for line in self.status().to_string().lines() {
            log::info!("{line}");
        }
    }
}

fn flatten(name: &str, value: &Value, into: &mut fuse::Attributes) {
    let text = match value {
        Value::Null => return,
        Value::Object(members) => {
            for (member, value) in members {
                flatten(&format!("{name}.{member}"), value, into);
            }
            return;
        }
        Value::Array(items) => items.len().to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    into.insert(name.as_bytes().into(), text.into_bytes());
}

/// What a transfer moved between two looks.
fn measure(session: &mut SessionReport, before: Option<&SessionReport>, time: Duration) {
    let same = before.filter(|before| before.doing == session.doing);
    let before = same.and_then(|before| before.transfer.as_ref());
    if let (Some(now), Some(before)) = (&mut session.transfer, before) {
        now.rate = now.bytes.saturating_sub(before.bytes) as f64 / time.as_secs_f64();
    }
}

pub fn run(arguments: &StatusArguments, program: &str) -> Result<(), Failure> {
    let mut last = None;
    loop {
        let statuses = match &arguments.directory {
            Some(_) => ask_one(arguments),
            None => ask_all(program),
        };
        let statuses = match (statuses, &last) {
            (Ok(statuses), _) => statuses,
            // It was there a moment ago: now it is unmounted.
            (Err(_), Some(())) => return Ok(()),
            (Err(failure), None) => return Err(failure),
        };
        let clears = arguments.watch && !arguments.json && io::stdout().is_terminal();
        let text = match arguments.json {
            true => json(&statuses, arguments),
            false => text(&statuses),
        };
        let clear = if clears { "\x1b[H\x1b[2J" } else { "" };
        let mut out = io::stdout().lock();
        let written = out.write_all(format!("{clear}{text}").as_bytes());
        if written.and_then(|()| out.flush()).is_err() || !arguments.watch {
            return Ok(());
        }
        last = Some(());
        thread::sleep(PERIOD);
    }
}

fn ask_one(arguments: &StatusArguments) -> Result<Vec<Status>, Failure> {
    let directory = arguments.directory.clone().unwrap_or_default();
    let point = mountpoint::resolve(&directory)?;
    let mounted = mountpoint::ours_at(&point, &directory)?;
    Ok(vec![ask(&mounted)?])
}

/// All mounts that may be asked. One that does not answer does not hide the others.
fn ask_all(program: &str) -> Result<Vec<Status>, Failure> {
    let all = mountpoint::all().map_err(|error| Failure::System(error.to_string()))?;
    let mut statuses = Vec::new();
    for mounted in all.iter().filter(|mounted| mounted.is_ours()) {
        match ask(mounted) {
            Ok(status) => statuses.push(status),
            Err(failure) => say(program, failure),
        }
    }
    Ok(statuses)
}

fn ask(mounted: &Mounted) -> Result<Status, Failure> {
    let status = Process::serving(&mounted.device, mounted.owner).and_then(Process::status);
    status.map_err(|error| {
        let point = mounted.point.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::Usage(format!(
                "{point}: only who has mounted it, and root, may ask"
            )),
            _ => Failure::Mount(format!("{point}: nobody answers there: {error}")),
        }
    })
}

/// One mount is an object, all are an array; whoever watches gets a line each time.
fn json(statuses: &[Status], arguments: &StatusArguments) -> String {
    let text = match (arguments.directory.is_some(), statuses, arguments.watch) {
        (true, [status], true) => serde_json::to_string(status),
        (true, [status], false) => serde_json::to_string_pretty(status),
        (_, all, true) => serde_json::to_string(all),
        (_, all, false) => serde_json::to_string_pretty(all),
    };
    // Nothing in it can fail: maps have strings as keys.
    text.unwrap_or_default() + "\n"
}

fn text(statuses: &[Status]) -> String {
    let all: Vec<_> = statuses.iter().map(Status::to_string).collect();
    match all.is_empty() {
        true => "no FTPS server is mounted\n".to_string(),
        false => all.join("\n"),
    }
}

impl std::fmt::Display for Status {
    /// For people; every line ends.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        self.describe(&mut text)?;
        for line in text.lines() {
            writeln!(f, "{}", shown(line.as_bytes()))?;
        }
        Ok(())
    }
}

impl Status {
    fn describe(&self, out: &mut String) -> std::fmt::Result {
        let fs::Report {
            writable,
            leaving,
            metadata_cache: cache,
            content_cache,
            pending,
            server,
        } = &self.files;
        let how = match (leaving, writable) {
            (true, _) => "unmounted, still uploading",
            (false, true) => "writable",
            (false, false) => "read-only",
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        let age = human::span(Duration::from_secs(now.saturating_sub(self.since)));
        let Self {
            source,
            directory,
            pid,
            version,
            requests,
            ..
        } = self;
        writeln!(
            out,
            "{source} on {directory}: {how}, for {age} (ftpsfs {version}, process {pid})"
        )?;

        let (open, limit) = (server.sessions.len(), server.limit);
        let waiting = match server.waiting {
            0 => String::new(),
            waiting => format!(", {} waiting for one", human::count(waiting, "request")),
        };
        writeln!(out, "sessions: {open} of {limit}{waiting}")?;
        for session in &server.sessions {
            writeln!(out, "  {}", describe_session(session))?;
        }
        if let Some(outage) = &server.outage {
            writeln!(out, "the server cannot be reached: {outage}")?;
        }

        let asked = requests.from_memory + requests.waited;
        let share = human::share(requests.from_memory, asked);
        writeln!(out, "requests: {asked}, {share} answered from memory")?;
        let share = human::share(cache.hits, cache.hits + cache.misses);
        let entries = cache.entries;
        writeln!(out, "metadata cache: {entries} entries, {share} hits")?;
        if let Some(kept) = content_cache {
            let share = human::share(kept.hits, kept.hits + kept.misses);
            let state = if kept.enabled {
                ""
            } else {
                ", off: see the log"
            };
            let passed = match kept.passed {
                0 => String::new(),
                times => format!(
                    ", read by the kernel itself {}",
                    human::count(times as usize, "time")
                ),
            };
            writeln!(
                out,
                "content cache: {} of {} in {}, {share} hits ({}){passed}{state}",
                human::size(kept.bytes),
                human::size(kept.limit),
                human::count(kept.files, "file"),
                human::size(kept.hit_bytes),
            )?;
        }
        let traffic = &server.traffic;
        writeln!(
            out,
            "traffic: {} received, {} sent; {} commands in {} round trips; {} sessions opened",
            human::size(traffic.bytes_received),
            human::size(traffic.bytes_sent),
            traffic.commands,
            traffic.round_trips,
            traffic.sessions_opened,
        )?;

        let owed = human::size(pending.iter().map(|file| file.owed).sum());
        match pending.len() {
            0 => writeln!(out, "pending uploads: none")?,
            files => writeln!(
                out,
                "pending uploads: {}, {owed}",
                human::count(files, "file")
            )?,
        }
        for file in pending {
            let state = match (file.state, &file.failure) {
                (PendingState::Open, _) => "open".to_string(),
                (PendingState::Uploading, _) => "uploading".to_string(),
                (PendingState::Waiting, _) => "waiting".to_string(),
                (PendingState::Failed, why) => {
                    format!("failed: {}", why.as_deref().unwrap_or("unknown"))
                }
            };
            let (path, owed) = (&file.path, human::size(file.owed));
            writeln!(out, "  {path}: {owed}, {state}")?;
        }

        writeln!(out, "server: {}", self.describe_server())?;
        if let Some(kept) = &server.kept {
            let age = human::span(Duration::from_secs(now.saturating_sub(kept.since)));
            let KeptReport { file, lessons, .. } = kept;
            match lessons.is_empty() {
                true => writeln!(out, "kept for the next mount: nothing yet, in {file}")?,
                false => writeln!(
                    out,
                    "kept for the next mount: {}, learned {age} ago, in {file}",
                    lessons.join(", ")
                )?,
            }
        }
        match requests.failures.is_empty() {
            true => writeln!(out, "last errors: none")?,
            false => writeln!(out, "last errors:")?,
        }
        for failure in &requests.failures {
            let (when, what) = (human::time(failure.last), &failure.what);
            let times = match failure.count {
                1 => String::new(),
                count => format!(" ({count} times)"),
            };
            writeln!(out, "  {when}  {what}{times}")?;
        }
        Ok(())
    }

    /// What was learned about it that is worth a word.
    fn describe_server(&self) -> String {
        let profile = &self.files.server.profile;
        let mut words = vec![format!("lists by {}", profile.listing)];
        if let Some(resumption) = &profile.resumption {
            words.push(format!("TLS resumption {resumption}"));
        }
        let lessons = [
            (profile.one_by_one, "takes commands one by one"),
            (!profile.epsv, "knows no EPSV"),
            (profile.renames_over == Some(false), "renames over nothing"),
            (profile.patches_in_place == Some(true), "writes in place"),
            (profile.shows_links == Some(false), "hides symbolic links"),
            (profile.copies_files, "copies files itself"),
            (profile.tells_space, "tells free space"),
            (profile.ignores_case == Some(true), "ignores case"),
        ];
        let true_ones = lessons.iter().filter(|(learned, _)| *learned);
        words.extend(true_ones.map(|(_, words)| words.to_string()));
        if let Some(offset) = profile.listing_offset.filter(|offset| *offset != 0) {
            words.push(format!("listings are {offset} s off UTC"));
        }
        if let Some(offset) = profile.mdtm_offset.filter(|offset| *offset != 0) {
            words.push(format!("MDTM is {offset} s off UTC"));
        }
        words.join(", ")
    }
}

fn describe_session(session: &SessionReport) -> String {
    let SessionReport {
        number,
        peer,
        doing,
        ..
    } = session;
    let time = human::span(Duration::from_secs_f64(session.seconds.clamp(0.0, 1e9)));
    if doing.is_empty() {
        return format!("{number}  {peer}  idle for {time}");
    }
    let parked = if session.parked {
        ", waiting for a reader"
    } else {
        ""
    };
    let Some(transfer) = &session.transfer else {
        return format!("{number}  {peer}  {doing}, for {time}{parked}");
    };
    let at = transfer.offset + transfer.bytes;
    let progress = match transfer.size {
        Some(size) => {
            let (share, size) = (human::share(at, size), human::size(size));
            format!("{share} of {size}")
        }
        None => human::size(at),
    };
    let rate = human::size(transfer.rate as u64);
    format!("{number}  {peer}  {doing}  {progress}, {rate}/s{parked}")
}
