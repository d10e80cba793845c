//! `ftpsfs doctor`: connects step by step, says what was found, and where something is wrong what
//! it means and what cures it. [`cure`] knows the cures.
//!
//! It goes the way that a mount goes, with the same options; nothing is mounted, and only with
//! `--write` is anything changed on the server.

mod cure;

use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::client::{self, Config};
use crate::proto::{Name, RemotePath, Security};
use crate::remote::{self, Remote};

use super::cli::DoctorArguments;
use super::credentials::{self, Places};
use super::failure::{Failure, shown};
use super::options::Options;
use super::source::{self, Source};
use super::{human, plan};

use cure::{Trouble, of_client, of_remote};

/// A certificate that ends sooner deserves a word.
const SOON: i64 = 14 * 24 * 3600;
/// A clock that is off by more, likewise.
const CLOCK: Duration = Duration::from_secs(60);
/// What `--write` writes.
const PROBE: &[u8] = b"written by ftpsfs doctor; it may be deleted\n";

/// The steps, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    Name,
    Tcp,
    Tls,
    Certificate,
    Login,
    Features,
    Data,
    Resumption,
    Listing,
    Write,
}

const STEPS: [Step; 10] = [
    Step::Name,
    Step::Tcp,
    Step::Tls,
    Step::Certificate,
    Step::Login,
    Step::Features,
    Step::Data,
    Step::Resumption,
    Step::Listing,
    Step::Write,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// It works, but somebody should look.
    Warning,
    Failed,
    /// Not tried.
    Skipped,
}

/// What was found at a step.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    step: Step,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    meaning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

/// Everything found, as JSON.
#[derive(Serialize)]
struct Diagnosis<'a> {
    source: &'a str,
    healthy: bool,
    steps: &'a [Finding],
}

/// The findings so far, shown as they come.
struct Report {
    findings: Vec<Finding>,
    shows: bool,
    colours: bool,
}

pub fn run(arguments: &DoctorArguments) -> Result<(), Failure> {
    let usage = |error: &dyn std::error::Error| Failure::Usage(error.to_string());
    let options = Options::parse(&arguments.options, false).map_err(|e| usage(&e))?;
    let source = source::parse(arguments.source.as_bytes()).map_err(|e| usage(&e))?;
    let places = Places::of_process();
    let credentials = credentials::find(&source, &options, &places).map_err(|e| usage(&e))?;
    // It finds out by itself what the server can do.
    let config = client::Config {
        kept: None,
        ..plan::client(&source, &options, credentials)?
    };
    let label = shown(&source.label);

    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut report = Report {
        findings: Vec::new(),
        shows: !arguments.json,
        colours,
    };
    let examined = Examination {
        source: &source,
        options: &options,
        config,
        writes: arguments.write,
    };
    examined.run(&mut report)?;
    report.skip_rest(arguments.write);
    let failed = report.findings.iter().find(|f| f.state == State::Failed);
    if arguments.json {
        let diagnosis = Diagnosis {
            source: &label,
            healthy: failed.is_none(),
            steps: &report.findings,
        };
        let text = serde_json::to_string_pretty(&diagnosis).unwrap_or_default();
        let _ = writeln!(io::stdout(), "{text}");
    }
    match failed {
        None => Ok(()),
        Some(finding) => Err(Failure::Mount(format!("{label}: {}", finding.found))),
    }
}

struct Examination<'a> {
    source: &'a Source,
    options: &'a Options,
    config: Config,
    writes: bool,
}

impl Examination<'_> {
    /// Stops at the first step without which there is no going on.
    fn run(&self, report: &mut Report) -> Result<(), Failure> {
        if !self.reach(report) {
            return Ok(());
        }
        let Some(remote) = self.connect(report)? else {
            return Ok(());
        };
        self.introduce(&remote, report);
        if self.data(&remote, report) && self.list(&remote, report) {
            self.write(&remote, report);
        }
        remote.shutdown();
        Ok(())
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.options.timeout
    }

    fn reach(&self, report: &mut Report) -> bool {
        let Config { host, port, .. } = &self.config;
        // The proxy finds the server.
        let proxy = self.config.special.proxy.as_ref();
        let (host, port) = proxy.map_or((host, port), |proxy| (&proxy.host, &proxy.port));
        let reached = match client::reach(&self.config, self.deadline()) {
            Ok(reached) if !reached.is_empty() => reached,
            Ok(_) => {
                report.fail(Step::Name, cure::no_name(host, "it has no address"));
                return false;
            }
            Err(error) => {
                report.fail(Step::Name, cure::no_name(host, &error.to_string()));
                return false;
            }
        };
        let addresses: Vec<_> = reached.iter().map(|(at, _)| at.ip().to_string()).collect();
        report.ok(Step::Name, format!("{host} is {}", addresses.join(", ")));
        let tell = |(address, tried): &client::Reached| match tried {
            Ok(time) => format!("{address} in {:.1} ms", time.as_secs_f64() * 1e3),
            Err(error) => format!("{address}: {error}"),
        };
        let all = reached.iter().map(tell).collect::<Vec<_>>().join("; ");
        let good = reached.iter().filter(|(_, tried)| tried.is_ok()).count();
        if good == reached.len() {
            report.ok(Step::Tcp, all);
        } else if good > 0 {
            report.warn(Step::Tcp, cure::some_addresses_dead(all));
        } else {
            let other = self.other_port();
            let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            let refused = reached
                .iter()
                .any(|(_, tried)| tried.as_ref().is_err_and(refused));
            report.fail(Step::Tcp, cure::no_connection(all, *port, refused, other));
            return false;
        }
        true
    }

    /// The usual port of the other kind of TLS, where that is open.
    fn other_port(&self) -> Option<u16> {
        if self.config.special.proxy.is_some() {
            return None;
        }
        let (mine, other) = match self.config.security {
            Security::Implicit => (990, 21),
            Security::Explicit => (21, 990),
        };
        let mut config = self.config.clone();
        config.port = other;
        config.connect_timeout = config.connect_timeout.min(Duration::from_secs(2));
        let reached = client::reach(&config, self.deadline()).ok()?;
        let is_open = reached.iter().any(|(_, tried)| tried.is_ok());
        (self.config.port == mine && is_open).then_some(other)
    }

    fn connect(&self, report: &mut Report) -> Result<Option<Remote>, Failure> {
        let error = match Remote::connect(self.config.clone(), self.deadline()) {
            Ok(remote) => return Ok(Some(remote)),
            // An option names a file that is no certificate: nothing to do with the server.
            Err(client::Error::Trust(error)) => return Err(Failure::Usage(error.to_string())),
            Err(error) => error,
        };
        let (step, mut trouble) = of_client(&error, &self.config);
        // What must have worked to come so far.
        if step > Step::Tls {
            report.ok(Step::Tls, how(self.config.security).to_owned());
        }
        if step > Step::Certificate {
            report.ok(Step::Certificate, "accepted".to_owned());
        }
        if step == Step::Tls && self.speaks_otherwise() {
            trouble.cure = cure::other_tls(self.config.security).to_owned();
        }
        report.fail(step, trouble);
        Ok(None)
    }

    /// Whether the other kind of TLS is spoken at this port.
    fn speaks_otherwise(&self) -> bool {
        let mut config = self.config.clone();
        config.security = match config.security {
            Security::Implicit => Security::Explicit,
            Security::Explicit => Security::Implicit,
        };
        // Nobody logs in: the name and the password stay here.
        (config.user, config.password) = (b"anonymous".to_vec(), crate::proto::Secret::new("x"));
        let deadline = Instant::now() + self.options.timeout.min(Duration::from_secs(5));
        match Remote::connect(config, deadline) {
            Ok(remote) => {
                remote.shutdown();
                true
            }
            // It has come to the certificate, or to the login.
            Err(error) => matches!(
                error,
                client::Error::Certificate(_)
                    | client::Error::Negotiation(crate::proto::NegotiationError::Login(_))
            ),
        }
    }

    fn introduce(&self, remote: &Remote, report: &mut Report) {
        let introduction = match remote.introduction(self.deadline()) {
            Ok(introduction) => introduction,
            Err(error) => {
                let (step, trouble) = of_client(&error, &self.config);
                return report.fail(step, trouble);
            }
        };
        let client::Introduction {
            greeting,
            version,
            suite,
            features,
            ..
        } = &introduction;
        let kind = how(self.config.security);
        report.ok(Step::Tls, format!("{kind}, {version}, {suite}"));
        if let Some(certificate) = &introduction.certificate {
            let found = format!(
                "{}, issued by {}, valid until {}, {}",
                certificate.subject,
                certificate.issuer,
                certificate.not_after,
                certificate.fingerprint
            );
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
            match certificate.expires.saturating_sub(now) < SOON {
                true => report.warn(Step::Certificate, cure::ends_soon(found)),
                false => report.ok(Step::Certificate, found),
            }
        }
        let user = shown(&self.config.user);
        report.ok(
            Step::Login,
            format!("as {user}; the server says: {greeting}"),
        );
        match features.is_empty() {
            true => report.warn(Step::Features, cure::no_features()),
            false => report.ok(Step::Features, features.join(", ")),
        }
    }

    /// Two listings: the first one's data connection may have nothing to resume.
    fn data(&self, remote: &Remote, report: &mut Report) -> bool {
        let tried = (0..2).try_for_each(|_| remote.try_data(self.deadline()));
        let way = |active| match active {
            true => "active: the server connects to us",
            false => "passive: we connect to the server",
        };
        if let Err(error) = tried {
            // A server may refuse to list where the user begins, and list the source's folder.
            if let client::Error::Refused { command, reply } = &error
                && command.starts_with("LIST")
                && !reply.code.is_of_data()
                && reply.code.as_u16() != 522
            {
                let found = format!("not known: {error}");
                report.note(Step::Data, State::Skipped, found);
                return true;
            }
            let mut trouble = cure::of_data(&error, self.config.active);
            if trouble.is_of_the_network && self.works_the_other_way() {
                trouble.cure = cure::other_way(self.config.active).to_owned();
            }
            report.fail(Step::Data, trouble);
            return false;
        }
        report.ok(Step::Data, way(self.config.active).to_owned());
        let told = remote.report();
        let demanded = told.profile.resumption.as_deref() == Some("demanded");
        let resumed = told.traffic.data_resumed > 0;
        let found = match (resumed, demanded) {
            (true, true) => "data connections resume TLS sessions, as the server demands",
            (true, false) => "data connections resume TLS sessions",
            (false, _) => "the server resumes no TLS session; each transfer takes a full handshake",
        };
        report.ok(Step::Resumption, found.to_owned());
        true
    }

    fn works_the_other_way(&self) -> bool {
        let mut config = self.config.clone();
        config.active = !config.active;
        let deadline = Instant::now() + self.options.timeout.min(Duration::from_secs(10));
        let Ok(remote) = Remote::connect(config, deadline) else {
            return false;
        };
        let works = remote.try_data(deadline).is_ok();
        remote.shutdown();
        works
    }

    fn list(&self, remote: &Remote, report: &mut Report) -> bool {
        let path = &self.source.path;
        let began = Instant::now();
        let listing = match remote.list(path, self.deadline()) {
            Ok(listing) => listing,
            Err(error) => {
                report.fail(Step::Listing, of_remote(&error, path, cure::Doing::Listing));
                return false;
            }
        };
        let (entries, time) = (listing.entries.len(), began.elapsed().as_secs_f64() * 1e3);
        let entries = match entries {
            1 => "1 entry".to_owned(),
            _ => format!("{entries} entries"),
        };
        let way = remote.report().profile.listing;
        let found = format!("{path}: {entries} by {way} in {time:.1} ms");
        match listing.complete {
            true => report.ok(Step::Listing, found),
            false => report.warn(Step::Listing, cure::cut_short(found)),
        }
        true
    }

    fn write(&self, remote: &Remote, report: &mut Report) {
        if !self.writes {
            return;
        }
        let Ok(name) = Name::parse(b"ftpsfs doctor") else {
            return;
        };
        let place = self.source.path.join(&name);
        let temporary = remote.temporaries().beside(&place);
        let path = temporary.path();
        let written = self.try_write(remote, path);
        // Whatever came of it, nothing is left there.
        let gone = remote.unlink(path, self.deadline());
        match (written, gone) {
            (Ok(off), Ok(())) if off > CLOCK => {
                let off = human::span(off);
                report.warn(Step::Write, cure::clock_off(&off));
            }
            (Ok(_), Ok(())) => {
                let found = format!(
                    "wrote {}, read it back, deleted it",
                    human::size(PROBE.len() as u64)
                );
                report.ok(Step::Write, found);
            }
            (Ok(_), Err(error)) => {
                report.fail(Step::Write, of_remote(&error, path, cure::Doing::Deleting));
            }
            (Err(error), _) => {
                report.fail(Step::Write, of_remote(&error, path, cure::Doing::Writing));
            }
        }
    }

    /// How far the server's clock is off.
    fn try_write(&self, remote: &Remote, path: &RemotePath) -> Result<Duration, remote::Error> {
        let deadline = self.deadline();
        let mut upload = remote.store(path, deadline)?;
        upload.write(PROBE, deadline)?;
        upload.finish(deadline)?;
        let size = PROBE.len() as u64;
        let mut download = remote.download_range(path, 0..size, deadline)?;
        let (mut back, mut chunk) = (Vec::new(), [0; 256]);
        loop {
            match download.read(&mut chunk, deadline)? {
                0 => break,
                n => back.extend_from_slice(&chunk[..n]),
            }
        }
        if back != PROBE {
            let line = "what came back is not what was written".to_owned();
            return Err(remote::Error::Failed(line));
        }
        let told = remote.stat(path, None, deadline)?;
        let now = SystemTime::now();
        let off = now
            .duration_since(told.mtime)
            .or(told.mtime.duration_since(now));
        Ok(off.unwrap_or_default())
    }
}

fn how(security: Security) -> &'static str {
    match security {
        Security::Implicit => "implicit",
        Security::Explicit => "explicit (AUTH TLS)",
    }
}

impl Report {
    fn ok(&mut self, step: Step, found: String) {
        self.note(step, State::Ok, found);
    }

    fn warn(&mut self, step: Step, trouble: Trouble) {
        self.trouble(step, State::Warning, trouble);
    }

    fn fail(&mut self, step: Step, trouble: Trouble) {
        self.trouble(step, State::Failed, trouble);
    }

    fn note(&mut self, step: Step, state: State, found: String) {
        self.add(Finding {
            step,
            state,
            found,
            meaning: None,
            cure: None,
        });
    }

    fn trouble(&mut self, step: Step, state: State, trouble: Trouble) {
        self.add(Finding {
            step,
            state,
            found: trouble.found,
            meaning: Some(trouble.meaning),
            cure: Some(trouble.cure),
        });
    }

    /// What was not come to.
    fn skip_rest(&mut self, writes: bool) {
        let failed = self.findings.iter().any(|f| f.state == State::Failed);
        for step in STEPS {
            if self.findings.iter().any(|finding| finding.step == step) {
                continue;
            }
            let found = match step {
                Step::Write if !writes && !failed => "not tried: --write does",
                _ => "not tried",
            };
            self.note(step, State::Skipped, found.to_owned());
        }
    }

    fn add(&mut self, finding: Finding) {
        if self.shows {
            // If nobody reads it, nobody needs it.
            let _ = io::stdout().write_all(finding.text(self.colours).as_bytes());
        }
        self.findings.push(finding);
    }
}

impl Finding {
    fn text(&self, colours: bool) -> String {
        let (word, colour) = match self.state {
            State::Ok => ("ok", "\x1b[32m"),
            State::Warning => ("warning", "\x1b[33m"),
            State::Failed => ("FAILED", "\x1b[31m"),
            State::Skipped => ("-", "\x1b[2m"),
        };
        let (begin, end) = if colours {
            (colour, "\x1b[0m")
        } else {
            ("", "")
        };
        let step = format!("{:?}", self.step).to_lowercase();
        let found = shown(self.found.as_bytes());
        let mut text = format!("{begin}{word:<8}{end} {step:<12} {found}\n");
        let more = [("it means", &self.meaning), ("to do", &self.cure)];
        for (title, words) in more {
            if let Some(words) = words {
                let words = shown(words.as_bytes());
                text += &format!("{:21} {title}: {words}\n", "");
            }
        }
        text
    }
}
