//! The manual's table of what becomes of permission bits, owners, times and of what FTP has nothing for, a row each,
//! under `attrs=lenient` and `attrs=strict`.

use super::script;
use crate::common::mount::Mount;
use crate::common::server::{Kind, Options, RealServer};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Tries everything, a line each: what was done, and `ok` or the errno. What is accepted has to be shown.
const TRIALS: &str = r#"
python3 - <<'PYTHON'
import ctypes, errno, fcntl, os, socket, stat

def trial(name, work, shown=None):
    try:
        work()
        outcome = 'ok'
    except OSError as error:
        outcome = errno.errorcode[error.errno]
    if outcome == 'ok' and shown and not shown():
        outcome = 'ok, but not shown'
    print(f'{name}: {outcome}')

def of(path, what):
    about = os.stat(path, follow_symlinks=False)
    return stat.S_IMODE(about.st_mode) if what == 'mode' else int(getattr(about, 'st_' + what))

def libc(name, *arguments):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        raise OSError(ctypes.get_errno(), name)

os.umask(0o022)
for path in ['f', 'written', 'target']:
    with open(path, 'w') as file:
        file.write(path)
os.mkdir('d')

trial('chmod file', lambda: os.chmod('f', 0o640), lambda: of('f', 'mode') == 0o640)
trial('chmod directory', lambda: os.chmod('d', 0o750), lambda: of('d', 'mode') == 0o750)
trial('chown', lambda: os.chown('f', 1234, 4321), lambda: (of('f', 'uid'), of('f', 'gid')) == (1234, 4321))
trial('chown to the same', lambda: os.chown('d', of('d', 'uid'), of('d', 'gid')))
trial('utimens file', lambda: os.utime('f', (1e9, 1111111111)), lambda: of('f', 'mtime') == 1111111111)
trial('utimens directory', lambda: os.utime('d', (1e9, 1222222222)), lambda: of('d', 'mtime') == 1222222222)
OMIT = (1 << 30) - 2
trial('access time alone', lambda: libc('utimensat', -100, b'target', (ctypes.c_long * 4)(10**9, 0, 0, OMIT), 0))

def while_written():
    with open('written', 'a') as file:
        file.write('more')
        file.flush()
        os.fchmod(file.fileno(), 0o604)
        os.utime(file.fileno(), (1e9, 1333333333))
trial('chmod and utimens while written', while_written,
      lambda: (of('written', 'mode'), of('written', 'mtime')) == (0o604, 1333333333))

def made():
    os.close(os.open('made', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.mkdir('made.d', 0o700)
trial('mode of what is made', made)

# ProFTPD makes an absolute path of any target.
target = '/' + os.path.basename(os.getcwd()) + '/target'
trial('symlink', lambda: os.symlink(target, 'symlink'), lambda: os.readlink('symlink') == target)
trial('symlink, relative', lambda: os.symlink('target', 'relative'))
trial('link', lambda: os.link('target', 'link'))
trial('mknod file', lambda: os.mknod('node', 0o644 | stat.S_IFREG), lambda: of('node', 'size') == 0)
trial('mknod pipe', lambda: os.mkfifo('pipe'))
trial('mknod device', lambda: os.mknod('device', 0o644 | stat.S_IFCHR, os.makedev(1, 3)))
trial('mknod socket', lambda: socket.socket(socket.AF_UNIX).bind('socket'))
trial('setxattr', lambda: os.setxattr('f', 'user.x', b'x'))
trial('getxattr', lambda: os.getxattr('f', 'user.x'))
trial('listxattr', lambda: os.listxattr('f'))
trial('rename exchange', lambda: libc('renameat2', -100, b'f', -100, b'target', 2))

def punch():
    with open('target', 'r+b') as file:
        libc('fallocate', file.fileno(), 3, ctypes.c_long(0), ctypes.c_long(4))
trial('fallocate punch', punch)

def excludes(lock):
    with open('target', 'r+') as ours:
        lock(ours, fcntl.LOCK_EX)
        child = os.fork()
        if child == 0:
            with open('target', 'r+') as theirs:
                try:
                    lock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os._exit(7)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
trial('flock', lambda: None, lambda: excludes(fcntl.flock))
trial('fcntl lock', lambda: None, lambda: excludes(fcntl.lockf))
PYTHON
"#;

/// What the server can keep.
#[derive(Clone, Copy)]
struct Able {
    modes: bool,
    file_times: bool,
    directory_times: bool,
    links: bool,
}

fn able(kind: Kind, options: Options) -> Able {
    Able {
        modes: options.attributes,
        file_times: options.attributes,
        directory_times: kind.is_proftpd() || kind == Kind::PureFtpd,
        links: kind.is_proftpd(),
    }
}

fn expected(able: Able, strict: bool) -> String {
    let kept = |able: bool| if able || !strict { "ok" } else { "EPERM" };
    let rows = [
        ("chmod file", kept(able.modes)),
        ("chmod directory", kept(able.modes)),
        ("chown", kept(false)),
        ("chown to the same", "ok"),
        ("utimens file", kept(able.file_times)),
        ("utimens directory", kept(able.directory_times)),
        ("access time alone", "ok"),
        (
            "chmod and utimens while written",
            kept(able.modes && able.file_times),
        ),
        ("mode of what is made", "ok"),
        ("symlink", if able.links { "ok" } else { "EPERM" }),
        ("symlink, relative", "EPERM"),
        ("link", "EPERM"),
        ("mknod file", "ok"),
        ("mknod pipe", "EPERM"),
        ("mknod device", "EPERM"),
        ("mknod socket", "EPERM"),
        ("setxattr", "ENOTSUP"),
        ("getxattr", "ENOTSUP"),
        ("listxattr", "ENOTSUP"),
        ("rename exchange", "EINVAL"),
        ("fallocate punch", "ENOTSUP"),
        ("flock", "ok"),
        ("fcntl lock", "ok"),
    ];
    let lines = rows.map(|(what, outcome)| format!("{what}: {outcome}\n"));
    lines.concat()
}

/// Does all of it twice on one mount of either kind, and counts what is logged.
fn check(kind: Kind, options: Options) {
    let able = able(kind, options);
    for strict in [false, true] {
        let server = RealServer::start(kind, options);
        let attrs = if strict {
            "attrs=strict"
        } else {
            "attrs=lenient"
        };
        let (mount, log) = Mount::logged(&server, attrs);
        for round in ["one", "two"] {
            let text = format!("mkdir {round}; cd {round}\n{TRIALS}");
            let outcomes = script(&mount, &text);
            for (found, expected) in outcomes.lines().zip(expected(able, strict).lines()) {
                assert_eq!(found, expected, "{attrs}, {round}");
            }
            assert_eq!(outcomes, expected(able, strict));
        }
        if able.modes && able.file_times {
            for (name, mode, time) in [
                ("f", 0o640, 1_111_111_111),
                ("written", 0o604, 1_333_333_333),
            ] {
                let there = fs::metadata(server.root.join("one").join(name)).expect("stat there");
                assert_eq!(
                    (there.mode() & 0o777, there.mtime()),
                    (mode, time),
                    "{attrs}, {name}"
                );
            }
        }
        if !strict {
            stays_shown(&mount, able);
        }
        check_log(&log, able, strict);
    }
}

/// What only the mount knows is shown as long as it lives: after a rename, and after the kernel has forgotten the file.
fn stays_shown(mount: &Mount, able: Able) {
    let text = "
        mv one/f moved; mv one/d moved.d; mv two second
        sync; echo 2 > /proc/sys/vm/drop_caches; sleep 0.2
        stat -c '%u:%g %a %Y' moved second/f; stat -c '%a' moved.d second/made second/made.d";
    let shown = "1234:4321 640 1111111111\n";
    assert_eq!(
        script(mount, text),
        format!("{shown}{shown}750\n600\n700\n")
    );
    if !able.modes {
        let text = "echo new > moved; test \"$(stat -c '%u:%g %a' moved)\" = '1234:4321 640'";
        script(mount, text);
    }
}

fn check_log(log: &Path, able: Able, strict: bool) {
    let text = fs::read_to_string(log).expect("read the log");
    let times = able.file_times && able.directory_times;
    for (what, kept) in [
        ("owners", false),
        ("permission bits", able.modes),
        ("times", times),
    ] {
        let line = format!("the server cannot keep some {what}");
        let expected = usize::from(!strict && !kept);
        assert_eq!(text.matches(&line).count(), expected, "{what}:\n{text}");
    }
}

pub fn attributes(kind: Kind) {
    check(kind, Options::default());
}

/// A server that can keep neither modes nor times.
#[test]
fn attributes_that_the_server_refuses() {
    let options = Options {
        attributes: false,
        ..Options::default()
    };
    check(Kind::VsftpdExplicit, options);
}
