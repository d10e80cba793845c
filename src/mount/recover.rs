//! `ftpsfs recover`: lists what could not be uploaded, saves it to local files, sends it after all,
//! or discards it. Works beside mounts: what one of them has in hand is only looked at.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::fs::Fs;
use crate::fs::spool::{
    Found, Inspection, Kept, Record, Spool, SpoolError, What, default_state_dir,
};
use crate::remote::Remote;

use super::cli::{RecoverAction, RecoverArguments};
use super::credentials::{self, Places};
use super::failure::{Failure, shown};
use super::options::Options;
use super::plan::{self, Spooling};
use super::source::{self, Source};
use super::{logging, say};

/// Something that is kept, and the spool that has it.
type Choice<'a> = (&'a Inspection, &'a Kept);

pub fn run(arguments: &RecoverArguments, program: &str) -> Result<(), Failure> {
    let told = arguments.state_dir.clone();
    match &arguments.action {
        None | Some(RecoverAction::List) => list(&look(told, program)?),
        Some(RecoverAction::Save {
            source,
            options,
            file,
            target,
        }) => {
            let (server, state_dir) = match source {
                Some(source) => {
                    let (server, dir) = Server::parse(source, options, told, program)?;
                    (Some(server), dir)
                }
                None => (None, told.or(parse(options)?.state_dir)),
            };
            save(&look(state_dir, program)?, file, target, server)
        }
        Some(RecoverAction::Send {
            force,
            options,
            files,
            source,
        }) => {
            let (server, _) = Server::parse(source, options, told, program)?;
            send(server, files, *force, program)
        }
        Some(RecoverAction::Discard { yes, files }) => discard(&look(told, program)?, files, *yes),
    }
}

/// Looks at all spools. One that cannot be looked at does not hide the others.
fn look(state_dir: Option<PathBuf>, program: &str) -> Result<Vec<Inspection>, Failure> {
    let dir = state_dir.or_else(default_state_dir).ok_or_else(|| {
        Failure::Usage("no home to look for files in: --state-dir says where".to_string())
    })?;
    let all = Inspection::all(&dir)
        .map_err(|error| Failure::System(format!("{}: {error}", dir.display())))?;
    let mut looked = Vec::new();
    for (path, inspection) in all {
        match inspection {
            Ok(inspection) => looked.push(inspection),
            Err(error) => say(program, format_args!("{}: {error}", path.display())),
        }
    }
    Ok(looked)
}

fn list(spools: &[Inspection]) -> Result<(), Failure> {
    let mut text = String::new();
    for spool in spools.iter().filter(|spool| !spool.kept.is_empty()) {
        text += &name_of(spool);
        if let Some(holder) = spool.holder {
            text += &format!(", in use by {}", process(holder.pid));
        }
        text += "\n";
        let width = |width: fn(&Kept) -> usize| spool.kept.iter().map(width).max().unwrap_or(0);
        let ids = width(|kept| kept.id.to_string().len());
        let sizes = width(|kept| kept.size.to_string().len());
        for kept in &spool.kept {
            let (id, size, when) = (&kept.id, kept.size, time(kept.since));
            let (what, why) = (place(kept), why(spool, kept));
            text += &format!("  {id:ids$}  {size:>sizes$}  {when}  {what}: {why}\n");
        }
    }
    if text.is_empty() {
        text = "nothing is kept: everything was uploaded\n".to_string();
    }
    print(&text)
}

fn save(
    spools: &[Inspection],
    file: &OsStr,
    target: &Path,
    server: Option<Server>,
) -> Result<(), Failure> {
    let (spool, kept) = find(spools, file)?;
    let target = match target.is_dir() {
        true => target.join(file_name(kept)),
        false => target.to_owned(),
    };
    let shown = target.display();
    let failed = |error: &dyn std::fmt::Display| Failure::System(format!("{shown}: {error}"));
    let mut new = File::options();
    let out = new.write(true).create_new(true).mode(0o600).open(&target);
    let out = out.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::Usage(format!("{shown} exists already")),
        _ => failed(&error),
    })?;
    let copied = spool.copy(kept, &out).map_err(|error| failed(&error));
    let lacking = copied.inspect_err(|_| {
        // Half a copy is worth less than a name that is free for the next attempt.
        let _ = std::fs::remove_file(&target);
    })?;
    let mut troubles = Vec::new();
    if !lacking.damaged.is_empty() {
        let ranges = ranges(&lacking.damaged);
        troubles.push(format!("{ranges} are lost on the local disk"));
    }
    if let What::File(record) = &kept.what {
        if !lacking.missing.is_empty() {
            let fetched = match server {
                Some(server) => server.fetch(record, &lacking.missing, &out),
                None => Err("--source and -o say where to get them".to_string()),
            };
            if let Err(why) = fetched {
                let ranges = ranges(&lacking.missing);
                troubles.push(format!("only the server has {ranges} ({why})"));
            }
        }
        if record.doubtful {
            troubles.push("the machine went down before all was safe on the disk".to_string());
        }
        if let Some(mtime) = record.wanted.mtime {
            out.set_modified(mtime).map_err(|error| failed(&error))?;
        }
    }
    out.sync_all().map_err(|error| failed(&error))?;
    let (place, size) = (place(kept), kept.size);
    if !troubles.is_empty() {
        let troubles = troubles.join("; ");
        return Err(Failure::Mount(format!(
            "{place} is saved as {shown}, but not all of it is right: {troubles}"
        )));
    }
    if spool.holder.is_some() {
        return print(&format!(
            "{place} ({size} bytes) saved as {shown}, as it is now: a mount has it in hand\n"
        ));
    }
    print(&format!("{place} ({size} bytes) saved as {shown}\n"))
}

fn send(server: Server, files: &[OsString], force: bool, program: &str) -> Result<(), Failure> {
    let mut spools = Vec::new();
    for folder in server.spooling.folders() {
        if folder.symlink_metadata().is_ok() {
            let looked = Inspection::open(&folder);
            spools.push(looked.map_err(|error| system(&folder, &error))?);
        }
    }
    let chosen: Vec<Choice> = match files.is_empty() {
        true => spools
            .iter()
            .flat_map(|spool| spool.kept.iter().map(move |kept| (spool, kept)))
            .collect(),
        false => files
            .iter()
            .map(|file| find(&spools, file))
            .collect::<Result<_, _>>()?,
    };
    if chosen.is_empty() {
        return print("nothing is kept: everything was uploaded\n");
    }
    let mut stayed = 0;
    for spool in &spools {
        let mine = |found: &&Choice| std::ptr::eq(found.0, spool);
        let mine: Vec<&Kept> = chosen.iter().filter(mine).map(|found| found.1).collect();
        if mine.is_empty() {
            continue;
        }
        let fs = server.open(&spool.path)?;
        for kept in mine {
            let outcome = match &kept.what {
                What::File(record) => fs.resend(record.id, force),
                What::Lost(_) => Err("where it belongs is not known: save it".to_string()),
            };
            let place = place(kept);
            match outcome {
                Ok(()) => print(&format!("{place}: sent\n"))?,
                Err(why) => {
                    stayed += 1;
                    let id = &kept.id;
                    say(program, format_args!("{place} stays, as {id}: {why}"));
                }
            }
        }
    }
    match stayed {
        0 => Ok(()),
        1 => Err(Failure::Mount("one file is not sent".to_string())),
        stayed => Err(Failure::Mount(format!("{stayed} files are not sent"))),
    }
}

fn discard(spools: &[Inspection], files: &[OsString], yes: bool) -> Result<(), Failure> {
    let chosen = files.iter().map(|file| find(spools, file));
    let chosen = chosen.collect::<Result<Vec<Choice>, _>>()?;
    for (spool, kept) in chosen {
        if !yes && !is_agreed(kept)? {
            continue;
        }
        match &kept.what {
            What::File(record) => {
                let (opened, _) = open(&spool.path)?;
                opened.discard(record.id)
            }
            What::Lost(name) => spool.remove_lost(name),
        }
        .map_err(|error| system(&spool.path, &error))?;
        print(&format!("{}: discarded\n", place(kept)))?;
    }
    Ok(())
}

/// Asks at the terminal.
fn is_agreed(kept: &Kept) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let line = "nothing is discarded without --yes where nobody can be asked";
        return Err(Failure::Usage(line.to_string()));
    }
    let (place, size) = (place(kept), kept.size);
    print(&format!("Discard {size} bytes of {place} for good? [y/N] "))?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::System(error.to_string()))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The one that is called so, by ID or by path.
fn find<'a>(spools: &'a [Inspection], called: &OsStr) -> Result<Choice<'a>, Failure> {
    let all = || {
        let each = |spool: &'a Inspection| spool.kept.iter().map(move |kept| (spool, kept));
        spools.iter().flat_map(each)
    };
    let by_id = |(_, kept): &Choice| called == OsStr::new(&kept.id.to_string());
    let by_path = |(_, kept): &Choice| match &kept.what {
        What::File(record) => record.path.as_bytes() == called.as_bytes(),
        What::Lost(_) => false,
    };
    let name = shown(called.as_bytes());
    if let Some(found) = all().find(by_id) {
        return Ok(found);
    }
    let found: Vec<Choice> = all().filter(by_path).collect();
    match &found[..] {
        [] => Err(Failure::Usage(format!(
            "{name}: nothing of that name is kept (`ftpsfs recover` lists what is)"
        ))),
        [found] => Ok(*found),
        several => {
            let ids: Vec<_> = several
                .iter()
                .map(|(_, kept)| kept.id.to_string())
                .collect();
            let ids = ids.join(", ");
            Err(Failure::Usage(format!(
                "{name} is kept several times: {ids}"
            )))
        }
    }
}

/// A server, and what is needed to reach it and its spools.
struct Server {
    source: Source,
    options: Options,
    credentials: credentials::Credentials,
    spooling: Spooling,
}

impl Server {
    /// From a mount's source and options; and the state folder that these tell of.
    fn parse(
        source: &OsStr,
        options: &[OsString],
        state_dir: Option<PathBuf>,
        program: &str,
    ) -> Result<(Self, Option<PathBuf>), Failure> {
        let usage = |error: &dyn std::error::Error| Failure::Usage(error.to_string());
        let mut options = parse(options)?;
        let source = source::parse(source.as_bytes()).map_err(|error| usage(&error))?;
        options.kernel.read_only = false;
        options.state_dir = state_dir.or(options.state_dir);
        if options.password.is_some() || source.password.is_some() {
            say(
                program,
                "warning: others may have seen the password; use credentials=FILE",
            );
        }
        let places = Places::of_process();
        let credentials =
            credentials::find(&source, &options, &places).map_err(|error| usage(&error))?;
        let Some(spooling) = plan::spool(&source, &options, &credentials)? else {
            return Err(Failure::Usage(
                "nothing is kept of a read-only mount".into(),
            ));
        };
        if options.log_level >= log::LevelFilter::Debug {
            logging::to_stderr(options.log_level);
        }
        let state_dir = options.state_dir.clone();
        let server = Self {
            source,
            options,
            credentials,
            spooling,
        };
        Ok((server, state_dir))
    }

    /// Opens a spool, and the server as a mount would.
    fn open(&self, folder: &Path) -> Result<Arc<Fs>, Failure> {
        let (spool, _) = open(folder)?;
        self.connect(Some(spool))
    }

    fn connect(&self, spool: Option<Spool>) -> Result<Arc<Fs>, Failure> {
        let client = plan::client(&self.source, &self.options, self.credentials.clone())?;
        let mut config = plan::file_system(&self.source, &self.options);
        config.spool = spool;
        // Whoever asks for it waits for the server.
        config.write_back = false;
        let deadline = Instant::now() + config.timeout;
        let label = shown(&self.source.label);
        let remote = Remote::connect(client, deadline)
            .map_err(|error| super::live::cannot_connect(&label, &error))?;
        Ok(Fs::new(Arc::new(remote), config))
    }

    /// Gets parts of a file that are only on the server.
    fn fetch(&self, record: &Record, parts: &[Range<u64>], out: &File) -> Result<(), String> {
        let fs = self.connect(None).map_err(|failure| failure.to_string())?;
        let write = |bytes: &[u8], at| out.write_all_at(bytes, at);
        fs.fetch_parts(record, parts, write)
    }
}

fn parse(options: &[OsString]) -> Result<Options, Failure> {
    Options::parse(options, false).map_err(|error| Failure::Usage(error.to_string()))
}

fn open(folder: &Path) -> Result<(Spool, Found), Failure> {
    let options = plan::spool_for_recovery();
    Spool::open(folder, options, SystemTime::now()).map_err(|error| match error {
        SpoolError::AlreadyLocked { pid } => {
            let process = process(pid);
            let line = format!("in use by {process}: unmount first; it can be saved meanwhile");
            Failure::Mount(line)
        }
        error => system(folder, &error),
    })
}

fn system(folder: &Path, error: &SpoolError) -> Failure {
    Failure::System(format!("{}: {error}", folder.display()))
}

fn process(pid: Option<u32>) -> String {
    pid.map_or("another process".to_string(), |pid| {
        format!("process {pid}")
    })
}

fn name_of(spool: &Inspection) -> String {
    match &spool.source {
        Some(source) => shown(source),
        None => spool.path.display().to_string(),
    }
}

/// What it is, for people.
fn place(kept: &Kept) -> String {
    match &kept.what {
        What::File(record) => shown(record.path.as_bytes()),
        What::Lost(name) => format!("lost+found/{name}"),
    }
}

fn file_name(kept: &Kept) -> OsString {
    match &kept.what {
        What::File(record) => record.path.name().map_or("file".into(), |name| {
            OsStr::from_bytes(name.as_bytes()).to_owned()
        }),
        What::Lost(name) => name.into(),
    }
}

fn why(spool: &Inspection, kept: &Kept) -> String {
    let What::File(record) = &kept.what else {
        return "found when the journal was damaged".to_string();
    };
    let why = match &record.failure {
        Some(failure) => return shown(failure.reason.as_bytes()),
        None if spool.holder.is_some() => "being written",
        None if record.doubtful => "the machine went down before it was safe on the disk",
        None if !record.is_owed() => "never closed",
        None => "not sent yet",
    };
    why.to_string()
}

fn time(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => "-".to_string(),
    }
}

/// A few of them, for people.
fn ranges(ranges: &[Range<u64>]) -> String {
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let first = &ranges[0];
    let (start, end) = (first.start, first.end);
    match ranges.len() {
        1 => format!("bytes {start} to {end}"),
        more => format!("{total} bytes in {more} places, the first from {start} to {end}"),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes());
    written
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::System(format!("standard output: {error}")))
}
