//! The life of a mount: connect, mount, serve, and unmount on a signal. Runs in the foreground,
//! or in the process that [`super::daemon`] started. Knows no option by name.
//!
//! fuser must never unmount by itself: after `umount DIR` from outside it would unmount whatever
//! lies beneath. So its handle is never dropped, and only [`heed_signals`] unmounts.

use std::fs::File;
use std::io;
use std::mem::{self, ManuallyDrop};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use nix::sched::{CloneFlags, setns};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::client;
use crate::fs::shelf::Shelf;
use crate::fs::spool::{Found, Inspection, Options, Spool, SpoolError};
use crate::fs::{self, Config, Fs, Ino, Patience};
use crate::fuse::Door;
use crate::remote::{self, FileKind, Remote};

use super::channel;
use super::daemon::Report;
use super::failure::{Failure, shown};
use super::mountpoint::{self, Manner};
use super::notify;
use super::plan::{Caching, Spooling};
use super::status::Mounting;
use super::utab;

/// Everything that a mount needs.
pub struct Settings {
    pub label: Vec<u8>,
    pub directory: PathBuf,
    pub namespace: Option<PathBuf>,
    pub client: client::Config,
    pub file_system: Config,
    /// `None`: read-only.
    pub spool: Option<Spooling>,
    /// `None`: content that was read is not kept.
    pub cache: Option<Caching>,
    pub session: fuser::Config,
    /// The status is shown in extended attributes.
    pub xattr: bool,
}

/// How long files may stay open after a signal, before their readers are cut off.
const GRACE: Duration = Duration::from_secs(3);

/// How long a process that is told to end may take for that.
const HANDOVER: Duration = Duration::from_secs(10);

/// How long the server may take to be told goodbye, once the mount is gone.
const GOODBYE: Duration = Duration::from_secs(1);

/// The kernel's read-ahead where we may set it: it then asks for 8 MiB ahead, not for 256 KiB.
const READ_AHEAD_KIB: &str = "4096";

/// Mounts, and comes back when it is unmounted.
pub fn run(settings: Settings, report: Option<Report>) -> Result<(), Failure> {
    // Before any thread exists: threads share their namespace, and it could not be left.
    if let Some(namespace) = &settings.namespace {
        enter(namespace)?;
    }
    let point = mountpoint::prepare(&settings.directory, &settings.label)?;
    utab::clear(&point);
    check_device()?;
    let mut file_system = settings.file_system;
    let found = match &settings.spool {
        Some(spooling) => {
            let (spool, found) = open_spool(spooling)?;
            spool.note_source(&settings.label);
            file_system.spool = Some(spool);
            Some(found)
        }
        None => None,
    };
    if let Some(caching) = &settings.cache {
        file_system.shelf = open_cache(caching)?;
    }
    let deadline = Instant::now() + file_system.timeout;
    let label = shown(&settings.label);
    let remote = Remote::connect(settings.client, deadline)
        .map_err(|error| cannot_connect(&label, &error))?;
    let remote = Arc::new(remote);
    let is_whole = file_system.root.is_root();
    let fs = Fs::new(Arc::clone(&remote), file_system);
    let found = found.map(|found| Found {
        leftovers: fs.adopt(found.leftovers),
        ..found
    });
    let outcome = check_root(&fs, is_whole, deadline)
        .map_err(|reason| Failure::Mount(format!("{label}: {reason}")))
        .and_then(|()| {
            serve(
                fs,
                &label,
                &point,
                &settings.session,
                report,
                found,
                settings.xattr,
            )
        });
    shut_down(remote);
    outcome
}

/// Opens the source's spool. Where another mount of it has that, it is one of its own.
fn open_spool(spooling: &Spooling) -> Result<(Spool, Found), Failure> {
    let mut refusal = None;
    for folder in spooling.folders() {
        match open_or_take_over(&folder, spooling.options) {
            Err(error @ SpoolError::AlreadyLocked { .. }) => refusal = Some(error),
            Ok(opened) => {
                tell_of_others(spooling, &folder);
                return Ok(opened);
            }
            Err(error) => {
                let folder = folder.display();
                let line =
                    format!("cannot write: {folder}: {error} (state_dir= says where, or ro)");
                return Err(Failure::System(line));
            }
        }
    }
    let why = refusal.map_or(String::new(), |error| error.to_string());
    Err(Failure::System(format!(
        "too many mounts of one source: {why}"
    )))
}

/// Opens the source's content cache. Where another mount of it has that, this one goes without.
fn open_cache(caching: &Caching) -> Result<Option<Shelf>, Failure> {
    let folder = caching.folder.display();
    match Shelf::open(&caching.folder, caching.limit, caching.patience) {
        Ok(shelf) => Ok(Some(shelf)),
        Err(SpoolError::AlreadyLocked { .. }) => {
            log::warn!("another mount uses {folder}: this one goes without a content cache");
            Ok(None)
        }
        Err(error) => Err(Failure::System(format!(
            "cannot keep what is read: {folder}: {error} (cache_dir= says where)"
        ))),
    }
}

/// A process that is no longer mounted, and only goes on uploading, leaves that to us.
fn open_or_take_over(folder: &Path, options: Options) -> Result<(Spool, Found), SpoolError> {
    match Spool::open(folder, options, SystemTime::now()) {
        Err(SpoolError::AlreadyLocked { pid: Some(pid) })
            if channel::Process::numbered(pid).is_some_and(channel::Process::take_over) =>
        {
            let patience = HANDOVER;
            Spool::open(
                folder,
                Options {
                    patience,
                    ..options
                },
                SystemTime::now(),
            )
        }
        opened => opened,
    }
}

/// What is kept in another spool of the same source, where no mount has that now, is nobody's work.
fn tell_of_others(spooling: &Spooling, ours: &Path) {
    for folder in spooling.folders().filter(|folder| folder != ours) {
        if folder.symlink_metadata().is_ok()
            && let Ok(looked) = Inspection::open(&folder)
            && looked.holder.is_none()
            && !looked.kept.is_empty()
        {
            let (count, folder) = (looked.kept.len(), folder.display());
            log::warn!("{folder} keeps {count} files of an earlier mount: see `ftpsfs recover`");
        }
    }
}

/// What an earlier mount could not upload is told of, and sent in the background.
fn take_over(fs: &Arc<Fs>, found: Found) {
    if let Some(damage) = &found.damage {
        log::warn!(
            "the spool was damaged; what was found is in {:?}: see `ftpsfs recover`",
            damage.rescued
        );
    }
    let fs = fs.clone();
    thread::spawn(move || fs.take_over(found.leftovers));
}

/// Mounts a file system, and comes back when it is unmounted.
fn serve(
    fs: Arc<Fs>,
    label: &str,
    point: &Path,
    config: &fuser::Config,
    report: Option<Report>,
    found: Option<Found>,
    xattr: bool,
) -> Result<(), Failure> {
    // From here on a signal must find its way: to die between mounting and serving would leave a
    // dead mount.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])
        .map_err(|error| Failure::System(format!("cannot take signals: {error}")))?;
    let mode = match fs.check_writable() {
        Ok(()) => "writable",
        Err(_) => "read-only",
    };
    let mut door = Door::new(Arc::clone(&fs));
    let notifier = door.notifier();
    let mounting = Arc::new(Mounting {
        fs: Arc::clone(&fs),
        record: door.record(),
        source: label.to_string(),
        directory: point.to_path_buf(),
        since: SystemTime::now(),
    });
    if xattr {
        let mounting = Arc::clone(&mounting);
        door.show(move || mounting.attributes());
    }
    let session = fuser::Session::new(door, point, config)
        .and_then(fuser::Session::spawn)
        .map_err(|error| cannot_mount(point, &error))?;
    let _ = notifier.set(session.notifier());
    let session_end = keep_mounted(session);
    let device = device_at(point);
    speed_up(device.as_deref());
    let _announced = channel::announce(&mounting, device.as_deref());
    heed_signals(signals, device.clone(), mounting);
    let _line = utab::Line::write(label, point);
    let name = point.display();
    log::info!("mounted {label} on {name} ({mode})");
    notify::tell(&format!("READY=1\nSTATUS={label} on {name} ({mode})"));
    if let Err(error) = report.map_or(Ok(()), Report::mounted) {
        log::error!("unmounting {name}: nobody waits for it any more: {error}");
        mountpoint::unmount(point, Manner::Lazy)?;
    }
    if let Some(found) = found {
        take_over(&fs, found);
    }
    let failed = match session_end.join() {
        Ok(Ok(())) => {
            log::info!("unmounted {name}");
            return Ok(());
        }
        Ok(Err(error)) => format!("{name}: FUSE failed: {error}"),
        Err(_) => format!("{name}: a FUSE thread panicked"),
    };
    log::error!("{failed}");
    // Nobody serves it any more: better no mount than a dead one.
    if device_at(point) == device {
        mountpoint::unmount(point, Manner::Lazy)?;
    }
    Err(Failure::System(failed))
}

/// Goes into a mount namespace: that of a process, or one in a file.
pub fn enter(namespace: &Path) -> Result<(), Failure> {
    let name = namespace.to_string_lossy();
    let path = match name.bytes().all(|byte| byte.is_ascii_digit()) {
        true => PathBuf::from(format!("/proc/{name}/ns/mnt")),
        false => namespace.to_path_buf(),
    };
    let entered = File::open(&path).and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNS)?));
    entered.map_err(|error| Failure::Usage(format!("cannot enter {}: {error}", path.display())))
}

/// Whether FUSE can be used here at all; better known before a password goes out.
fn check_device() -> Result<(), Failure> {
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => {}
        Err(error) => return Err(no_device(&error)),
    }
    let is_root = nix::unistd::geteuid().is_root();
    match is_root || mountpoint::find_fusermount().is_some() {
        true => Ok(()),
        false => Err(mountpoint::no_fusermount()),
    }
}

fn no_device(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            let line = "no permission to open /dev/fuse: mount as root, or let root chmod 666 it";
            Failure::Usage(line.to_string())
        }
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            let line = "/dev/fuse is missing: try `modprobe fuse`; a container must be given it";
            Failure::System(line.to_string())
        }
        _ => Failure::System(format!("/dev/fuse cannot be opened: {error}")),
    }
}

/// Whether there is a directory to mount. From now on its attributes are known: whoever only looks
/// at the mount point, as umount(8) does, waits for no server.
fn check_root(fs: &Fs, is_whole: bool, deadline: Instant) -> Result<(), String> {
    let found = fs.getattr(Ino::ROOT, Patience::Until(deadline));
    match found.map(|(attr, _)| attr.kind) {
        Ok(FileKind::Directory) => Ok(()),
        Ok(_) => Err(remote::Error::NotDirectory.to_string()),
        // The login has shown that there is a server, and its `/` is there if it tells little.
        Err(error) if is_whole => {
            log::warn!("the server tells nothing of its root: {error}");
            Ok(())
        }
        Err(fs::Error::Remote { cause, .. }) => Err(cause.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Lets go of fuser's handle without dropping it, and gives the thread that ends with the mount.
fn keep_mounted(session: fuser::BackgroundSession) -> JoinHandle<io::Result<()>> {
    let mut session = ManuallyDrop::new(session);
    mem::replace(&mut session.guard, thread::spawn(|| Ok(())))
}

/// `major:minor` of what was just mounted.
fn device_at(point: &Path) -> Option<String> {
    Some(mountpoint::at(point).ok()??.device)
}

fn speed_up(device: Option<&str>) {
    let Some(device) = device else {
        return;
    };
    // Only root may; others keep the kernel's default.
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KIB) {
        log::debug!("{path}: {error}");
    }
}

/// On the first signal to end unmounts, out of sight at once; files that are open have a grace
/// period. A second one ends the process, and with it whoever still waits for us. SIGUSR1 has the
/// status logged.
fn heed_signals(mut signals: Signals, device: Option<String>, mounting: Arc<Mounting>) {
    thread::spawn(move || {
        let (fs, point) = (mounting.fs.clone(), mounting.directory.clone());
        let mut signals = signals.forever().filter(|signal| match *signal {
            SIGUSR1 => {
                mounting.log();
                false
            }
            _ => true,
        });
        let shown = point.display();
        if let Some(signal) = signals.next() {
            log::info!("signal {signal}: unmounting {shown}");
            notify::tell("STOPPING=1");
        }
        if fs.is_closed() {
            log::warn!("ending before everything is uploaded: the next mount goes on");
            std::process::exit(0);
        }
        // Somebody may have mounted something else over it: that is not ours to take away.
        let is_seen = device.is_some() && device_at(&point) == device;
        let unmounted = match is_seen {
            true => mountpoint::unmount(&point, Manner::Lazy).map_err(|error| error.to_string()),
            false => Err("something else is mounted there".to_string()),
        };
        if let Err(error) = unmounted {
            log::error!("cannot unmount {shown}: {error}");
            std::process::exit(1);
        }
        thread::spawn(move || {
            thread::sleep(GRACE);
            // What is being uploaded has a while longer.
            fs.settle();
            log::warn!("ending while files are still open");
            std::process::exit(0);
        });
        signals.next();
        log::warn!("second signal: ending while files are still open");
        std::process::exit(0);
    });
}

/// A server that does not listen must not keep the process.
pub fn shut_down(remote: Arc<Remote>) {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        remote.shutdown();
        // Whoever waited may have given up.
        let _ = done.send(());
    });
    let _ = is_done.recv_timeout(GOODBYE);
}

pub fn cannot_connect(label: &str, error: &client::Error) -> Failure {
    match error {
        // An option names a file that is no certificate, or none at all.
        client::Error::Trust(error) => Failure::Usage(error.to_string()),
        _ => Failure::Mount(format!("{label}: {error}")),
    }
}

fn cannot_mount(point: &Path, error: &io::Error) -> Failure {
    let reason = mountpoint::first_line(error.to_string().as_bytes());
    let line = format!("cannot mount on {}: {reason}", point.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::Usage(line),
        _ => Failure::Mount(line),
    }
}
