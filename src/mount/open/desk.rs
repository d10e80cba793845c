//! [`Desk`]: how the user is asked and told something where there may be no terminal: by zenity or
//! kdialog, whichever is there. Knows not what about.
//!
//! People take their time: nothing here has a deadline.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use crate::mount::failure::Failure;
use crate::mount::{daemon, mountpoint};
use crate::proto::Secret;

/// No answer is longer.
const LIMIT: u64 = 64 << 10;

const TITLE: &str = "ftpsfs";

/// Who speaks with the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Desk {
    Zenity,
    Kdialog,
    /// The one that this process was started from.
    Terminal,
    /// A terminal's window has to be opened first: the program, and what goes before a command.
    Emulator(Vec<OsString>),
    Nobody,
}

impl Desk {
    /// The desktop's own dialogs come first: even there a process may have a terminal, which nobody
    /// looks at.
    pub fn find() -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let has_screen = is_set("DISPLAY") || is_set("WAYLAND_DISPLAY");
        let desktop = std::env::var("XDG_CURRENT_DESKTOP").unwrap_or_default();
        let is_there = |name: &str| mountpoint::find_program(name).is_some();
        Self::choose(has_screen, &desktop, io::stdin().is_terminal(), &is_there)
    }

    fn choose(
        has_screen: bool,
        desktop: &str,
        has_terminal: bool,
        is_there: &dyn Fn(&str) -> bool,
    ) -> Self {
        let dialogs = match desktop.split(':').any(|part| part == "KDE") {
            true => [("kdialog", Desk::Kdialog), ("zenity", Desk::Zenity)],
            false => [("zenity", Desk::Zenity), ("kdialog", Desk::Kdialog)],
        };
        let mut dialogs = dialogs.into_iter().filter(|(name, _)| is_there(name));
        match dialogs.next() {
            Some((_, dialog)) if has_screen => return dialog,
            _ if has_terminal => return Desk::Terminal,
            _ if !has_screen => return Desk::Nobody,
            _ => {}
        }
        let emulators: [&[&str]; 3] = [
            &["xdg-terminal-exec"],
            &["x-terminal-emulator", "-e"],
            &["xterm", "-e"],
        ];
        let found = emulators.iter().find(|line| is_there(line[0]));
        found.map_or(Desk::Nobody, |line| {
            Desk::Emulator(line.iter().map(OsString::from).collect())
        })
    }

    /// A line of text; `None` where the user would rather not.
    pub fn ask(&self, question: &str) -> Result<Option<Vec<u8>>, Failure> {
        let text = match self {
            Desk::Zenity => answer_of(zenity("--entry").arg(zenity_text(question))),
            Desk::Kdialog => answer_of(kdialog("--inputbox").arg(kdialog_text(question)).arg("")),
            Desk::Terminal => answer_at_terminal(question).map(Some),
            Desk::Emulator(_) | Desk::Nobody => return Err(nobody(question)),
        };
        let text = text.map_err(|error| self.broken(&error))?;
        Ok(text
            .map(|text| text.expose().to_vec())
            .filter(|text| !text.is_empty()))
    }

    /// The same, unseen.
    pub fn ask_secret(&self, question: &str) -> Result<Option<Secret>, Failure> {
        let secret = match self {
            Desk::Zenity => {
                let mut dialog = zenity("--entry");
                answer_of(dialog.arg("--hide-text").arg(zenity_text(question)))
            }
            Desk::Kdialog => answer_of(kdialog("--password").arg(kdialog_text(question))),
            Desk::Terminal => rpassword::prompt_password(format!("{question} "))
                .map(|text| Some(Secret::new(text.into_bytes()))),
            Desk::Emulator(_) | Desk::Nobody => return Err(nobody(question)),
        };
        secret.map_err(|error| self.broken(&error))
    }

    /// Whether the user agrees. Enter, or closing the window, does not.
    pub fn confirm(&self, question: &str, yes: &str, no: &str) -> Result<bool, Failure> {
        let agreed = match self {
            Desk::Zenity => {
                let mut dialog = zenity("--question");
                dialog.args(["--no-markup", "--default-cancel", "--width=520"]);
                dialog
                    .arg(format!("--ok-label={yes}"))
                    .arg(format!("--cancel-label={no}"));
                answer_of(dialog.arg(zenity_text(question))).map(|answer| answer.is_some())
            }
            Desk::Kdialog => {
                let mut dialog = kdialog("--warningcontinuecancel");
                dialog.arg(kdialog_text(question));
                dialog.args(["--continue-label", yes, "--cancel-label", no]);
                answer_of(&mut dialog).map(|answer| answer.is_some())
            }
            Desk::Terminal => answer_at_terminal(&format!("{question}\n{yes}? (yes/no)"))
                .map(|answer| answer.expose().eq_ignore_ascii_case(b"yes")),
            Desk::Emulator(_) | Desk::Nobody => return Err(nobody(question)),
        };
        agreed.map_err(|error| self.broken(&error))
    }

    /// Shows what went wrong; on a terminal it stands there anyway.
    pub fn tell(&self, line: &str) {
        let shown = match self {
            Desk::Zenity => {
                let mut dialog = zenity("--error");
                answer_of(
                    dialog
                        .args(["--no-markup", "--width=520"])
                        .arg(zenity_text(line)),
                )
            }
            Desk::Kdialog => answer_of(kdialog("--error").arg(kdialog_text(line))),
            Desk::Terminal | Desk::Emulator(_) | Desk::Nobody => return,
        };
        if let Err(error) = shown {
            log::debug!("{}", self.broken(&error));
        }
    }

    fn broken(&self, error: &io::Error) -> Failure {
        let name = match self {
            Desk::Zenity => "zenity",
            Desk::Kdialog => "kdialog",
            _ => "the terminal",
        };
        Failure::System(format!("{name} does not work: {error}"))
    }
}

fn nobody(question: &str) -> Failure {
    let question = question.lines().last().unwrap_or_default();
    Failure::System(format!(
        "nobody can be asked: `{question}`; install zenity or kdialog"
    ))
}

fn zenity(kind: &str) -> Command {
    let mut command = Command::new("zenity");
    command.arg(kind).arg(format!("--title={TITLE}"));
    command
}

/// zenity takes backslashes for the beginning of something else.
fn zenity_text(text: &str) -> String {
    format!("--text={}", text.replace('\\', "\\\\"))
}

fn kdialog(kind: &str) -> Command {
    let mut command = Command::new("kdialog");
    command.args(["--title", TITLE, kind]);
    command
}

/// kdialog takes for HTML what looks like it, so it is given HTML.
fn kdialog_text(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('&', "&amp;");
    let text = text.replace('<', "&lt;").replace('\n', "<br>");
    format!("<qt>{text}</qt>")
}

/// What a dialog writes, up to the end of the line; `None` where it was cancelled.
pub fn answer_of(command: &mut Command) -> io::Result<Option<Secret>> {
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    // Reserved at once: a growing vector would leave copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(LIMIT as usize + 1));
    if let Some(output) = child.stdout.take() {
        output.take(LIMIT).read_to_end(&mut text)?;
    }
    let status = child.wait()?;
    match status.code() {
        Some(0) => Ok(Some(Secret::new(first_line(&text)))),
        Some(1) => Ok(None),
        _ => Err(io::Error::other(status.to_string())),
    }
}

fn first_line(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

fn answer_at_terminal(question: &str) -> io::Result<Secret> {
    let mut error = io::stderr();
    write!(error, "{question} ")?;
    error.flush()?;
    let mut line = String::new();
    io::stdin()
        .lines()
        .next()
        .transpose()?
        .inspect(|text| line.push_str(text));
    Ok(Secret::new(line.trim().as_bytes()))
}

/// Puts a terminal's window in the place of this process, where the same is run. Comes back only
/// where that fails.
pub fn replace_by(terminal: &[OsString], line: &[OsString]) -> Failure {
    let (program, before) = (&terminal[0], &terminal[1..]);
    // The window closes with the program: whoever is to read an error has to have it stay.
    let script = r#""$@" || { printf 'Press Enter. '; read -r _; }"#;
    let mut command = Command::new(program);
    command.args(before).args(["sh", "-c", script, "sh"]);
    command.arg(daemon::own_path()).args(line);
    let error = command.exec();
    Failure::System(format!(
        "cannot run {}: {error}",
        PathBuf::from(program).display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks() {
        let choose = |screen: bool, desktop: &str, terminal: bool, programs: &[&str]| {
            let is_there = |name: &str| programs.contains(&name);
            Desk::choose(screen, desktop, terminal, &is_there)
        };
        let both = ["kdialog", "zenity", "xterm"];
        assert_eq!(choose(true, "ubuntu:GNOME", false, &both), Desk::Zenity);
        assert_eq!(choose(true, "KDE", true, &both), Desk::Kdialog);
        assert_eq!(choose(true, "KDE", false, &["zenity"]), Desk::Zenity);
        assert_eq!(choose(true, "XFCE", false, &["kdialog"]), Desk::Kdialog);
        assert_eq!(choose(true, "", true, &["xterm"]), Desk::Terminal);
        assert_eq!(choose(false, "", true, &both), Desk::Terminal);
        assert_eq!(choose(false, "", false, &both), Desk::Nobody);
        assert_eq!(choose(true, "", false, &[]), Desk::Nobody);
        let window = Desk::Emulator(vec!["xterm".into(), "-e".into()]);
        assert_eq!(choose(true, "", false, &["xterm"]), window);
    }

    #[test]
    fn what_a_server_says_is_no_markup() {
        assert_eq!(zenity_text(r"CORP\me"), r"--text=CORP\\me");
        let text = kdialog_text("530 <img src=x>\na & b");
        assert_eq!(text, "<qt>530 &lt;img src=x><br>a &amp; b</qt>");
    }

    #[test]
    fn answers_end_with_their_line() {
        let says = |script: &str| {
            let mut command = Command::new("sh");
            answer_of(command.args(["-c", script]))
        };
        let said = |text: &str| Some(Secret::new(text));
        assert_eq!(says("printf ' a b \\nrest'").unwrap(), said(" a b "));
        assert_eq!(says("true").unwrap(), said(""));
        assert_eq!(says("echo x; exit 1").unwrap(), None);
        assert!(says("exit 5").is_err());
        assert!(says("kill -9 $$").is_err());
    }
}
