//! The command line: `ftpsfs SUBCOMMAND ...`, or mount(8)'s helper protocol where the program is
//! called as `mount.*` or `umount.*`. Takes arguments apart; knows nothing of what they mean.

mod helper;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use super::options;

/// What the program is to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Invocation {
    /// Mount a server: ftpsfs mount host:/path DIR
    Mount(MountArguments),
    /// Unmount a directory
    Umount(UmountArguments),
    /// Mount what a link names, once, and show the folder: what a desktop does with ftps://host/
    Open(OpenArguments),
    /// Tell what mounts do: sessions, transfers, pending uploads, last errors
    Status(StatusArguments),
    /// Connect step by step, and say what is wrong and what cures it
    Doctor(DoctorArguments),
    /// See to files that could not be uploaded: list, save, send or discard them
    Recover(RecoverArguments),
    /// Print the completions for a shell
    Completions(CompletionsArguments),
    /// Serve a folder over FTPS
    Serve(crate::server::ServeArgs),
    /// Try it out: serve a sample folder on this machine, and mount it
    Demo(DemoArguments),
}

/// Arguments of a mount, however they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct MountArguments {
    /// host:/path, ftps://host/path (implicit TLS) or ftpes://host/path (explicit TLS)
    pub source: OsString,
    /// Where to mount it
    pub directory: PathBuf,
    /// Mount options, see below
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<OsString>,
    /// Stay in the foreground, and log to standard error
    #[arg(short, long)]
    pub foreground: bool,
    /// Stay in the foreground, and show what goes over the wire, passwords masked
    #[arg(short, long)]
    pub debug: bool,
    /// Mount read-only
    #[arg(short, long)]
    pub read_only: bool,
    /// Mount writable
    #[arg(short = 'w', long)]
    pub read_write: bool,
    /// Pass over unknown mount options
    #[arg(short, long)]
    pub sloppy: bool,
    /// Say more
    #[arg(short, long)]
    pub verbose: bool,
    /// Check everything, but mount nothing
    #[arg(long)]
    pub fake: bool,
    /// Mount in this mount namespace (a process number, or a file)
    #[arg(short = 'N', long, value_name = "NS")]
    pub namespace: Option<PathBuf>,
    /// Report to standard output once mounted, then go into the background
    #[arg(long, hide = true)]
    pub report: bool,
}

impl MountArguments {
    /// All `-o`, with what `-r` and `-w` stand for.
    pub fn all_options(&self) -> Vec<OsString> {
        let mut all = self.options.clone();
        all.extend(self.read_only.then(|| OsString::from("ro")));
        all.extend(self.read_write.then(|| OsString::from("rw")));
        all.extend(self.debug.then(|| OsString::from("debug")));
        all
    }

    /// Arguments of `ftpsfs` that say the same, with another source and other options.
    pub fn command_line(&self, source: &OsStr, options: &OsStr) -> Vec<OsString> {
        let mut line = vec![OsString::from("mount")];
        let flags = [
            (self.foreground, "--foreground"),
            (self.debug, "--debug"),
            (self.sloppy, "--sloppy"),
            (self.verbose, "--verbose"),
            (self.fake, "--fake"),
            (self.report, "--report"),
        ];
        line.extend(
            flags
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, name)| OsString::from(name)),
        );
        if let Some(namespace) = &self.namespace {
            line.extend([OsStr::new("-N"), namespace.as_os_str()].map(OsString::from));
        }
        line.extend([OsStr::new("-o"), options, OsStr::new("--"), source].map(OsString::from));
        line.push(self.directory.clone().into_os_string());
        line
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct UmountArguments {
    /// Where it is mounted
    pub directory: PathBuf,
    /// Out of sight now, gone when nobody uses it any more
    #[arg(short, long)]
    pub lazy: bool,
    /// Let requests fail that wait for the server
    #[arg(short, long)]
    pub force: bool,
    /// Unmount in this mount namespace (a process number, or a file)
    #[arg(short = 'N', long, value_name = "NS")]
    pub namespace: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct OpenArguments {
    /// ftps://host/path (implicit TLS), ftpes://host/path (explicit TLS) or host:/path
    #[arg(value_name = "URL")]
    pub source: OsString,
    /// Mount options
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<OsString>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct StatusArguments {
    /// Where it is mounted [all mounts]
    pub directory: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Again every second, until it is unmounted
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct DoctorArguments {
    /// host:/path, ftps://host/path (implicit TLS) or ftpes://host/path (explicit TLS)
    pub source: OsString,
    /// Mount options
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<OsString>,
    /// Try to write as well: a small file, which is deleted again
    #[arg(long)]
    pub write: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct RecoverArguments {
    /// Where files lie that are being written [/var/lib/ftpsfs for root, else
    /// ~/.local/state/ftpsfs]
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub action: Option<RecoverAction>,
}

/// What to do with files that could not be uploaded. Each is named by its ID in the list, or by its
/// path on the server.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum RecoverAction {
    /// List them (the default)
    List,
    /// Write a file's content to TARGET on this machine
    Save {
        /// The server, to get from there what is nowhere else
        #[arg(long, value_name = "SOURCE")]
        source: Option<OsString>,
        /// Mount options of that server
        #[arg(short = 'o', value_name = "OPTIONS")]
        options: Vec<OsString>,
        #[arg(value_name = "ID|PATH")]
        file: OsString,
        target: PathBuf,
    },
    /// Upload files to where they belong on the server: all of SOURCE, or those named
    Send {
        /// Also where others have changed the file since, or where it was never closed
        #[arg(long)]
        force: bool,
        /// Mount options of the server
        #[arg(short = 'o', value_name = "OPTIONS")]
        options: Vec<OsString>,
        /// What was mounted: host:/path, ftps://host/path or ftpes://host/path
        source: OsString,
        #[arg(value_name = "ID|PATH")]
        files: Vec<OsString>,
    },
    /// Throw files away for good
    Discard {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[arg(value_name = "ID|PATH", required = true)]
        files: Vec<OsString>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct CompletionsArguments {
    /// Which shell
    pub shell: clap_complete::Shell,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct DemoArguments {
    /// The folder to serve (default: a small sample)
    pub directory: Option<PathBuf>,
    /// Mount, list, read, unmount, and end
    #[arg(long)]
    pub once: bool,
}

/// Arguments that do not make sense, or that ask for help.
#[derive(Debug)]
pub enum CliError {
    /// Wrong use, in one line.
    Usage(String),
    /// Wrong use of a subcommand, or its help, as clap puts it.
    Clap(Box<clap::Error>),
    /// Help or version of a helper: goes to standard output.
    Answer(String),
}

impl CliError {
    /// Prints it where it belongs, and says whether it was wrong use.
    pub fn print(&self, program: &str) -> bool {
        use io::Write;
        match self {
            CliError::Usage(line) => {
                let _ = writeln!(io::stderr(), "{program}: {line}");
                true
            }
            CliError::Clap(error) => {
                let _ = error.print();
                error.use_stderr()
            }
            CliError::Answer(text) => {
                let _ = writeln!(io::stdout(), "{text}");
                false
            }
        }
    }
}

/// The name to begin messages with: what the program was called as.
pub fn program_name(argv0: Option<&OsString>) -> String {
    let name = argv0.and_then(|argv0| Path::new(argv0).file_name());
    name.map_or("ftpsfs".to_string(), |name| {
        name.to_string_lossy().into_owned()
    })
}

/// Takes the arguments apart, the program's name first.
pub fn parse(arguments: Vec<OsString>) -> Result<Invocation, CliError> {
    let program = program_name(arguments.first());
    if program.starts_with("mount.") {
        return helper::mount(&program, &arguments[1..]).map(Invocation::Mount);
    }
    if program.starts_with("umount.") {
        return helper::umount(&program, &arguments[1..]).map(Invocation::Umount);
    }
    let matches = command().try_get_matches_from(arguments);
    let parsed = matches.and_then(|matches| Arguments::from_arg_matches(&matches));
    parsed
        .map(|parsed| parsed.invocation)
        .map_err(|error| CliError::Clap(Box::new(error)))
}

/// The whole command line interface, for help and for completions.
pub fn command() -> clap::Command {
    Arguments::command().mut_subcommand("mount", |mount| mount.after_help(options::help()))
}

/// Mounts FTPS servers (explicit or implicit TLS) as local file systems.
#[derive(Debug, Parser)]
#[command(name = "ftpsfs", version)]
struct Arguments {
    #[command(subcommand)]
    invocation: Invocation,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, CliError> {
        parse(line.split(' ').map(OsString::from).collect())
    }

    fn mount(line: &str) -> MountArguments {
        match parsed(line) {
            Ok(Invocation::Mount(arguments)) => arguments,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn clap_accepts_its_own_definition() {
        command().debug_assert();
    }

    #[test]
    fn mount_as_a_subcommand() {
        let arguments = mount("ftpsfs mount -f -o ro h:/ /mnt -o port=990 -v -s -N 1");
        assert_eq!(arguments.source, "h:/");
        assert_eq!(arguments.directory, Path::new("/mnt"));
        assert_eq!(arguments.options, ["ro", "port=990"]);
        assert!(arguments.foreground && arguments.verbose && arguments.sloppy && !arguments.fake);
        assert_eq!(arguments.namespace, Some("1".into()));
        assert_eq!(
            mount("ftpsfs mount -r h:/ /m -o port=1").all_options(),
            ["port=1", "ro"]
        );
    }

    #[test]
    fn recover_lists_unless_told_otherwise() {
        let recover = |line: &str| match parsed(line) {
            Ok(Invocation::Recover(arguments)) => arguments,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(recover("ftpsfs recover").action, None);
        let arguments = recover("ftpsfs recover send -o ro h:/ 1-2 /x --force --state-dir /s");
        assert_eq!(arguments.state_dir, Some("/s".into()));
        let send = RecoverAction::Send {
            force: true,
            options: vec!["ro".into()],
            source: "h:/".into(),
            files: vec!["1-2".into(), "/x".into()],
        };
        assert_eq!(arguments.action, Some(send));
        assert!(parsed("ftpsfs recover discard").is_err());
    }

    #[test]
    fn a_command_line_says_the_same() {
        let mut given = mount("mount.ftps -o port=1 -svfN 7 -- h:/ /mnt");
        let line = given.command_line(OsStr::new("-h:/"), OsStr::new("port=1"));
        let mut whole = vec![OsString::from("ftpsfs")];
        whole.extend(line);
        let Ok(Invocation::Mount(again)) = parse(whole) else {
            panic!("not parsed")
        };
        given.source = "-h:/".into();
        assert_eq!(again, given);
    }

    #[test]
    fn wrong_use_is_told_from_help() {
        for wrong in [
            "ftpsfs",
            "ftpsfs mount",
            "ftpsfs nonsense",
            "ftpsfs mount -x a b",
        ] {
            let Err(CliError::Clap(error)) = parsed(wrong) else {
                panic!("{wrong}")
            };
            assert!(error.use_stderr() || wrong == "ftpsfs", "{wrong}");
        }
        for help in ["ftpsfs help", "ftpsfs mount --help", "ftpsfs --version"] {
            let Err(CliError::Clap(error)) = parsed(help) else {
                panic!("{help}")
            };
            assert!(!error.use_stderr(), "{help}");
        }
    }

    #[test]
    fn help_of_mount_shows_the_options() {
        let Err(CliError::Clap(help)) = parsed("ftpsfs mount --help") else {
            panic!()
        };
        assert!(help.to_string().contains("fingerprint=sha256:HEX"));
    }

    #[test]
    fn the_manual_has_every_flag_of_every_subcommand() {
        let manual = include_str!("../../man/ftpsfs.1");
        for subcommand in command().get_subcommands() {
            let heading = format!(".SS {}\n", subcommand.get_name());
            let section = manual.split(&heading).nth(1).expect(&heading);
            let section = section.split(".SS ").next().unwrap();
            let nested = subcommand.get_subcommands();
            let all = nested.flat_map(|nested| nested.get_arguments());
            let all = all.chain(subcommand.get_arguments());
            for flag in all.filter(|flag| !flag.is_hide_set()) {
                if let Some(long) = flag.get_long() {
                    let written = format!("\\-\\-{}", long.replace('-', "\\-"));
                    assert!(section.contains(&written), "{heading}{written}");
                }
            }
        }
    }
}
