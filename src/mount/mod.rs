//! The program: options, sources, credentials, the process that serves a mount, and the
//! subcommands. Composes the layers below; knows nothing of the protocol.
//!
//! How a mount comes about: [`cli`] takes the arguments apart, [`options`] and [`source`] give
//! them meaning, [`credentials`] finds the login, [`daemon`] starts this program again in the
//! background, and there [`live`] connects, mounts and serves.

mod channel;
pub mod cli;
mod completions;
pub mod credentials;
mod daemon;
mod demo;
mod doctor;
mod failure;
mod human;
mod live;
mod logging;
mod mountpoint;
mod notify;
mod open;
pub mod options;
mod plan;
mod recover;
pub mod source;
mod status;
mod utab;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use channel::Process;
use cli::{Invocation, MountArguments, UmountArguments};
use credentials::Places;
use failure::{Failure, shown};
use options::Options;
use source::Source;

/// The program. Exit codes are those of mount(8): 0, 1 wrong use or permissions, 2 something is
/// wrong with this machine, 32 the mount failed.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let program = cli::program_name(arguments.first());
    let outcome = match cli::parse(arguments) {
        Err(error) => {
            let was_wrong = error.print(&program);
            return ExitCode::from(u8::from(was_wrong));
        }
        Ok(Invocation::Serve(arguments)) => {
            logging::to_stderr(log::LevelFilter::Info);
            return crate::server::serve(arguments);
        }
        Ok(Invocation::Mount(arguments)) if arguments.report => {
            let outcome = mount(&arguments, &program);
            if let Err(failure) = &outcome {
                daemon::report_failure(failure);
            }
            return exit_code(&outcome);
        }
        Ok(Invocation::Mount(arguments)) => mount(&arguments, &program),
        Ok(Invocation::Umount(arguments)) => umount(&arguments),
        Ok(Invocation::Open(arguments)) => open::run(&arguments),
        Ok(Invocation::Status(arguments)) => status::run(&arguments, &program),
        Ok(Invocation::Doctor(arguments)) => doctor::run(&arguments),
        Ok(Invocation::Completions(arguments)) => {
            let script = completions::script(arguments.shell);
            // Whoever closes the pipe has read enough.
            let _ = io::stdout().write_all(script.as_bytes());
            Ok(())
        }
        Ok(Invocation::Demo(arguments)) => demo::run(&arguments),
        Ok(Invocation::Recover(arguments)) => recover::run(&arguments, &program),
    };
    if let Err(failure) = &outcome {
        say(&program, failure);
    }
    exit_code(&outcome)
}

fn exit_code(outcome: &Result<(), Failure>) -> ExitCode {
    outcome
        .as_ref()
        .map_or_else(ExitCode::from, |()| ExitCode::SUCCESS)
}

/// One line on standard error. If that is gone, nobody can be told.
fn say(program: &str, line: impl std::fmt::Display) {
    let line = shown(line.to_string().as_bytes());
    let _ = io::stderr().write_all(format!("{program}: {line}\n").as_bytes());
}

fn mount(arguments: &MountArguments, program: &str) -> Result<(), Failure> {
    let report = arguments.report.then(daemon::Report::begin);
    let usage = |error: &dyn std::error::Error| Failure::Usage(error.to_string());
    let options =
        Options::parse(&arguments.all_options(), arguments.sloppy).map_err(|e| usage(&e))?;
    let source = source::parse(arguments.source.as_bytes()).map_err(|e| usage(&e))?;
    plan::endpoint(&source, &options)?;
    if options.remount {
        return remount(&arguments.directory, &options);
    }
    if let Some(password) = options.password.as_ref().or(source.password.as_ref()) {
        say(
            program,
            "warning: others may have seen the password; use credentials=FILE",
        );
        return Err(daemon::replace_without_password(
            &arguments.all_options(),
            password,
            |options| arguments.command_line(OsStr::from_bytes(&source.label), options),
        ));
    }
    if arguments.verbose && !options.tolerated.is_empty() {
        say(
            program,
            format_args!("passing over: {}", options.tolerated.join(", ")),
        );
    }
    if arguments.namespace.is_none() {
        mountpoint::resolve(&arguments.directory)?;
    }
    if arguments.fake {
        return Ok(());
    }
    let places = Places::of_process();
    let credentials = credentials::find(&source, &options, &places).map_err(|e| usage(&e))?;
    if arguments.report {
        logging::to_syslog(options.log_level);
        log_panics();
    } else if arguments.foreground || arguments.debug {
        logging::to_stderr(options.log_level);
    } else {
        let patience = options.timeout * 2 + Duration::from_secs(30);
        daemon::start(arguments, &source.label, &credentials, patience)?;
        if arguments.verbose {
            let (source, directory) = (shown(&source.label), arguments.directory.display());
            let _ = writeln!(io::stdout(), "{program}: {source} mounted on {directory}.");
        }
        return Ok(());
    }
    live::run(settings(arguments, source, &options, credentials)?, report)
}

fn settings(
    arguments: &MountArguments,
    source: Source,
    options: &Options,
    credentials: credentials::Credentials,
) -> Result<live::Settings, Failure> {
    Ok(live::Settings {
        spool: plan::spool(&source, options, &credentials)?,
        cache: plan::cache(&source, options, &credentials)?,
        client: plan::client(&source, options, credentials)?,
        file_system: plan::file_system(&source, options),
        session: plan::session(&source, options),
        directory: arguments.directory.clone(),
        namespace: arguments.namespace.clone(),
        xattr: options.xattr,
        label: source.label,
    })
}

/// Changes what the kernel sees to: read-only, set-user-ID bits and the like. All else stays as it
/// was mounted.
fn remount(directory: &Path, options: &Options) -> Result<(), Failure> {
    let point = mountpoint::resolve(directory)?;
    let mounted = mountpoint::ours_at(&point, directory)?;
    if !options.kernel.read_only {
        let process = Process::serving(&mounted.device, mounted.owner);
        let status = process.and_then(Process::status);
        if status.is_ok_and(|status| !status.files.writable) {
            let name = directory.display();
            return Err(Failure::Mount(format!(
                "{name} was mounted with ro, and cannot be made writable: unmount, and mount it anew"
            )));
        }
    }
    mountpoint::remount(&point, options.kernel)
}

/// A panic of a background process must not go unseen.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
}

fn umount(arguments: &UmountArguments) -> Result<(), Failure> {
    if let Some(namespace) = &arguments.namespace {
        live::enter(namespace)?;
    }
    let point = mountpoint::resolve(&arguments.directory)?;
    let mounted = mountpoint::ours_at(&point, &arguments.directory)?;
    let process = match arguments.lazy || arguments.force {
        true => None,
        false => Process::serving(&mounted.device, mounted.owner).ok(),
    };
    let process = process.and_then(Process::listen);
    if arguments.force {
        mountpoint::abort(&mounted.device);
    }
    mountpoint::unmount(
        &point,
        mountpoint::Manner::of(arguments.lazy, arguments.force),
    )?;
    // Only then is everything on the server.
    if let Some(process) = process {
        process.wait();
    }
    Ok(())
}
