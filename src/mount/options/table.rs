//! The one table of mount options: it feeds the parser, `--help`, and (checked by a test) the
//! manual. Knows neither the syntax of `-o` nor what becomes of a value.

use std::time::Duration;

use super::Options;
use super::values;
use crate::proto::{Secret, Security};

/// One option of the table.
pub struct Spec {
    pub name: &'static str,
    pub group: Group,
    /// One line, without a full stop.
    pub help: &'static str,
    pub kind: Kind,
}

/// What an option takes.
pub enum Kind {
    Flag(fn(&mut Options)),
    Value {
        /// What stands behind `=` in the manual.
        form: &'static str,
        /// What holds where the option is absent, as it would be written.
        default: Option<&'static str>,
        /// Takes the bytes behind `=`, or says what was expected.
        set: Setter,
    },
}

type Setter = fn(&mut Options, &[u8]) -> Result<(), String>;

/// The headings of `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Login,
    Server,
    Tls,
    Memory,
    Writing,
    Owners,
    Generic,
    Log,
}

impl Group {
    /// In the order of `--help`.
    pub const ALL: [Group; 8] = [
        Group::Login,
        Group::Server,
        Group::Tls,
        Group::Memory,
        Group::Writing,
        Group::Owners,
        Group::Generic,
        Group::Log,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Group::Login => "Login",
            Group::Server => "Server",
            Group::Tls => "TLS",
            Group::Memory => "Caching and read-ahead",
            Group::Writing => "Writing",
            Group::Owners => "Owners and permissions",
            Group::Generic => "Generic",
            Group::Log => "Log",
        }
    }
}

/// What fstab and mount(8) may hand to any helper, and what means nothing here; names that begin
/// with `x-` or `X-` are ignored as well.
pub const IGNORED: &[&str] = &[
    "_netdev",
    "_rnetdev",
    "auto",
    "comment",
    "defaults",
    "diratime",
    "group",
    "helper",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noauto",
    "nodiratime",
    "nofail",
    "nogroup",
    "noiversion",
    "nolazytime",
    "nomand",
    "nonempty",
    "noowner",
    "norelatime",
    "nostrictatime",
    "nouser",
    "nousers",
    "owner",
    "relatime",
    "silent",
    "strictatime",
    "symfollow",
    "uhelper",
    "users",
];

const ZERO: Duration = Duration::ZERO;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Every option that means something here.
pub static TABLE: &[Spec] = &[
    with_value(
        "username",
        "NAME",
        None,
        Group::Login,
        "User to log in as",
        |o, v| values::login(v).map(|name| o.username = Some(name)),
    ),
    with_value(
        "user",
        "NAME",
        None,
        Group::Login,
        "The same as username=",
        |o, v| values::login(v).map(|name| o.username = Some(name)),
    ),
    with_value(
        "password",
        "TEXT",
        None,
        Group::Login,
        "Password; others may see it",
        |o, v| values::login(v).map(|text| o.password = Some(Secret::new(text))),
    ),
    flag(
        "password_stdin",
        Group::Login,
        "Read the password from standard input",
        |o| {
            o.password_stdin = true;
        },
    ),
    with_value(
        "credentials",
        "FILE",
        None,
        Group::Login,
        "Read username= and password= from this private file",
        |o, v| values::path(v).map(|value| o.credentials = Some(value)),
    ),
    with_value(
        "port",
        "PORT",
        None,
        Group::Server,
        "TCP port (explicit 21, implicit 990)",
        |o, v| values::number(v, 1, 65535).map(|value| o.port = Some(value as u16)),
    ),
    flag("explicit", Group::Server, "TLS begins with AUTH TLS", |o| {
        o.security = Some(Security::Explicit);
    }),
    flag(
        "implicit",
        Group::Server,
        "TLS begins with the connection",
        |o| {
            o.security = Some(Security::Implicit);
        },
    ),
    flag(
        "passive",
        Group::Server,
        "The client opens data connections (the default)",
        |o| {
            o.active = false;
        },
    ),
    flag(
        "active",
        Group::Server,
        "The server opens data connections",
        |o| o.active = true,
    ),
    with_value(
        "pasv_address",
        "peer|trust",
        Some("peer"),
        Group::Server,
        "Where PASV data connections go: to the server, or as it replies",
        |o, v| {
            values::choice(v, &[("peer", false), ("trust", true)])
                .map(|value| o.trust_pasv_address = value)
        },
    ),
    with_value(
        "proxy",
        "URL",
        None,
        Group::Server,
        "Connect through socks5://HOST:PORT or http://HOST:PORT",
        |o, v| values::proxy(v).map(|value| o.special.proxy = Some(value)),
    ),
    with_value(
        "bind",
        "ADDRESS",
        None,
        Group::Server,
        "Connect from this address of our own",
        |o, v| values::address(v).map(|value| o.special.bind = Some(value)),
    ),
    with_value(
        "host",
        "NAME",
        None,
        Group::Server,
        "Which of the server's virtual hosts is meant (HOST)",
        |o, v| values::host(v).map(|value| o.special.virtual_host = Some(value)),
    ),
    with_value(
        "charset",
        "NAME",
        None,
        Group::Server,
        "What file names are written in there, if not UTF-8",
        |o, v| values::charset(v).map(|value| o.special.charset = Some(value)),
    ),
    with_value(
        "case",
        "auto|sensitive|insensitive",
        Some("auto"),
        Group::Server,
        "Whether Name and NAME are two files there, or one (Windows)",
        |o, v| {
            let choices = [
                ("auto", None),
                ("sensitive", Some(false)),
                ("insensitive", Some(true)),
            ];
            values::choice(v, &choices).map(|value| o.special.ignores_case = value)
        },
    ),
    with_value(
        "time_offset",
        "auto|+HH:MM",
        Some("auto"),
        Group::Server,
        "How far the server's own time is ahead of UTC (or seconds)",
        |o, v| values::time_offset(v).map(|value| o.special.time_offset = value),
    ),
    with_value(
        "max_sessions",
        "N",
        Some("4"),
        Group::Server,
        "Most connections at a time",
        |o, v| values::number(v, 1, 64).map(|value| o.max_sessions = value as usize),
    ),
    with_value(
        "timeout",
        "TIME",
        Some("30s"),
        Group::Server,
        "How long a program may wait for the server, retries included",
        |o, v| values::duration(v, SECOND, HOUR).map(|value| o.timeout = value),
    ),
    with_value(
        "retries",
        "N",
        Some("2"),
        Group::Server,
        "How often a request is sent again after a lost connection",
        |o, v| values::number(v, 0, 100).map(|value| o.retries = value as u32),
    ),
    flag(
        "hard",
        Group::Server,
        "A program waits until a server that is down comes back",
        |o| o.hard = true,
    ),
    flag(
        "soft",
        Group::Server,
        "A program gets an error after timeout= and retries= (the default)",
        |o| o.hard = false,
    ),
    with_value(
        "keepalive",
        "TIME",
        Some("60s"),
        Group::Server,
        "Send NOOP when idle so long",
        |o, v| values::duration(v, SECOND, HOUR).map(|value| o.keepalive = value),
    ),
    with_value(
        "idle",
        "TIME",
        Some("60s"),
        Group::Server,
        "Close a surplus connection when idle so long",
        |o, v| values::duration(v, SECOND, DAY).map(|value| o.idle = value),
    ),
    with_value(
        "min_rate",
        "SIZE",
        Some("1K"),
        Group::Server,
        "Bytes per second that a transfer must keep on average",
        |o, v| values::size(v, 0, 1 << 40).map(|value| o.min_rate = value),
    ),
    with_value(
        "fingerprint",
        "sha256:HEX",
        None,
        Group::Tls,
        "Accept exactly this server certificate (several: joined by colons)",
        |o, v| values::fingerprints(v).map(|pins| o.trust.fingerprints.extend(pins)),
    ),
    flag(
        "tofu",
        Group::Tls,
        "Trust the certificate that is there at first use, and no other later",
        |o| o.tofu = true,
    ),
    with_value(
        "cafile",
        "FILE",
        None,
        Group::Tls,
        "Authorities to trust instead of the system's (PEM)",
        |o, v| values::path(v).map(|value| o.trust.cafile = Some(value)),
    ),
    with_value(
        "tls_name",
        "NAME",
        None,
        Group::Tls,
        "Name to expect in the certificate",
        |o, v| values::text(v).map(|value| o.trust.name = Some(value.to_string())),
    ),
    with_value(
        "cert",
        "FILE",
        None,
        Group::Tls,
        "Client certificate chain (PEM)",
        |o, v| values::path(v).map(|value| o.trust.cert = Some(value)),
    ),
    with_value(
        "key",
        "FILE",
        None,
        Group::Tls,
        "Client certificate's key (PEM)",
        |o, v| values::path(v).map(|value| o.trust.key = Some(value)),
    ),
    with_value(
        "tls",
        "1.2|1.3",
        None,
        Group::Tls,
        "Only this version of TLS",
        |o, v| {
            values::choice(v, &[("1.2", (true, false)), ("1.3", (false, true))])
                .map(|only| (o.trust.only_tls12, o.trust.only_tls13) = only)
        },
    ),
    with_value(
        "attr_timeout",
        "TIME",
        Some("10s"),
        Group::Memory,
        "How long a file's size and time are remembered",
        |o, v| values::duration(v, ZERO, DAY).map(|value| o.attr_timeout = value),
    ),
    with_value(
        "dir_timeout",
        "TIME",
        Some("10s"),
        Group::Memory,
        "How long a directory's listing is remembered",
        |o, v| values::duration(v, ZERO, DAY).map(|value| o.dir_timeout = value),
    ),
    with_value(
        "negative_timeout",
        "TIME",
        Some("2s"),
        Group::Memory,
        "How long it is remembered that a name is missing",
        |o, v| values::duration(v, ZERO, DAY).map(|value| o.negative_timeout = value),
    ),
    with_value(
        "cache_entries",
        "N",
        Some("100000"),
        Group::Memory,
        "Most files remembered at a time",
        |o, v| values::number(v, 1, 100_000_000).map(|value| o.cache_entries = value as usize),
    ),
    with_value(
        "window",
        "SIZE",
        Some("32M"),
        Group::Memory,
        "Memory for read-ahead",
        |o, v| values::size(v, 1 << 20, 1 << 40).map(|value| o.window = value),
    ),
    with_value(
        "cache_dir",
        "DIR",
        None,
        Group::Memory,
        "Keep here what was read, also for the next mount",
        |o, v| values::path(v).map(|value| o.cache_dir = Some(value)),
    ),
    with_value(
        "cache_size",
        "SIZE",
        Some("1G"),
        Group::Memory,
        "How much of the local disk that may take",
        |o, v| values::size(v, 1 << 20, 1 << 50).map(|value| o.cache_size = value),
    ),
    flag(
        "noprefetch",
        Group::Memory,
        "Fetch nothing before it is asked for",
        |o| o.prefetch = false,
    ),
    with_value(
        "state_dir",
        "DIR",
        None,
        Group::Writing,
        "Where files lie here while they are written",
        |o, v| values::path(v).map(|value| o.state_dir = Some(value)),
    ),
    with_value(
        "spool_size",
        "SIZE",
        Some("32G"),
        Group::Writing,
        "How much of the local disk they may take",
        |o, v| values::size(v, 1 << 20, 1 << 50).map(|value| o.spool_size = value),
    ),
    with_value(
        "upload",
        "renamed|direct",
        Some("renamed"),
        Group::Writing,
        "Under a temporary name first, or under the file's own",
        |o, v| {
            values::choice(v, &[("renamed", false), ("direct", true)])
                .map(|value| o.direct_upload = value)
        },
    ),
    flag(
        "writeback",
        Group::Writing,
        "close waits for the local disk alone; the server gets it later",
        |o| o.write_back = true,
    ),
    with_value(
        "temp_dir",
        "PATH",
        None,
        Group::Writing,
        "Where temporary names are on the server (default: beside)",
        |o, v| values::remote_path(v).map(|value| o.temp_dir = Some(value)),
    ),
    with_value(
        "temp_name",
        "PATTERN",
        None,
        Group::Writing,
        "Temporary names; % stands for the file's own",
        |o, v| values::temp_name(v).map(|value| o.temp_name = Some(value)),
    ),
    with_value(
        "attrs",
        "lenient|strict",
        Some("lenient"),
        Group::Writing,
        "Show, or refuse, attributes that the server cannot store",
        |o, v| {
            values::choice(v, &[("lenient", false), ("strict", true)])
                .map(|value| o.strict_attrs = value)
        },
    ),
    with_value(
        "uid",
        "USER",
        None,
        Group::Owners,
        "Owner of all files (default: who mounts)",
        |o, v| values::user_id(v).map(|value| o.uid = Some(value)),
    ),
    with_value(
        "gid",
        "GROUP",
        None,
        Group::Owners,
        "Group of all files (default: who mounts)",
        |o, v| values::group_id(v).map(|value| o.gid = Some(value)),
    ),
    with_value(
        "umask",
        "OCTAL",
        None,
        Group::Owners,
        "Permissions to take from all files",
        |o, v| values::mask(v).map(|value| o.umask = Some(value)),
    ),
    with_value(
        "fmask",
        "OCTAL",
        None,
        Group::Owners,
        "The same, but not for directories",
        |o, v| values::mask(v).map(|value| o.fmask = Some(value)),
    ),
    with_value(
        "dmask",
        "OCTAL",
        None,
        Group::Owners,
        "The same, only for directories",
        |o, v| values::mask(v).map(|value| o.dmask = Some(value)),
    ),
    flag(
        "allow_other",
        Group::Owners,
        "Let other users in, as permissions allow",
        |o| {
            o.allow_other = true;
        },
    ),
    flag(
        "allow_root",
        Group::Owners,
        "Let root in beside who mounts",
        |o| o.allow_root = true,
    ),
    flag(
        "default_permissions",
        Group::Owners,
        "The kernel checks permissions",
        |o| {
            o.default_permissions = true;
        },
    ),
    flag("ro", Group::Generic, "Read-only", |o| {
        o.kernel.read_only = true
    }),
    flag("rw", Group::Generic, "Writable", |o| {
        o.kernel.read_only = false
    }),
    flag(
        "suid",
        Group::Generic,
        "Obey set-user-ID bits (root only)",
        |o| o.kernel.suid = true,
    ),
    flag(
        "nosuid",
        Group::Generic,
        "Ignore set-user-ID bits (the default)",
        |o| {
            o.kernel.suid = false;
        },
    ),
    flag(
        "dev",
        Group::Generic,
        "Obey device files (root only)",
        |o| o.kernel.dev = true,
    ),
    flag(
        "nodev",
        Group::Generic,
        "Ignore device files (the default)",
        |o| o.kernel.dev = false,
    ),
    flag(
        "exec",
        Group::Generic,
        "Let programs be run (the default)",
        |o| o.kernel.exec = true,
    ),
    flag("noexec", Group::Generic, "Let no program be run", |o| {
        o.kernel.exec = false
    }),
    flag(
        "atime",
        Group::Generic,
        "Keep access times as the kernel does",
        |o| o.kernel.atime = true,
    ),
    flag("noatime", Group::Generic, "Keep no access times", |o| {
        o.kernel.atime = false
    }),
    flag(
        "async",
        Group::Generic,
        "Neither of sync and dirsync (the default)",
        |o| {
            (o.kernel.sync, o.kernel.dirsync) = (false, false);
        },
    ),
    flag(
        "sync",
        Group::Generic,
        "Every write waits for the server",
        |o| o.kernel.sync = true,
    ),
    flag(
        "dirsync",
        Group::Generic,
        "Every change to a directory waits for the server",
        |o| {
            o.kernel.dirsync = true;
        },
    ),
    with_value(
        "log_level",
        "LEVEL",
        Some("info"),
        Group::Log,
        "off, error, warn, info, debug or trace",
        |o, v| values::log_level(v).map(|level| o.log_level = level),
    ),
    flag(
        "debug",
        Group::Log,
        "Log what goes over the wire: log_level=trace",
        |o| o.log_level = log::LevelFilter::Trace,
    ),
    flag(
        "xattr",
        Group::Log,
        "Show the status as extended attributes of the mount point",
        |o| o.xattr = true,
    ),
];

/// The row of that name.
pub fn find(name: &str) -> Option<&'static Spec> {
    TABLE.iter().find(|spec| spec.name == name)
}

/// Whether a helper passes over the option without a word.
pub fn is_ignored(name: &str) -> bool {
    IGNORED.contains(&name) || name.starts_with("x-") || name.starts_with("X-")
}

/// Which name of the table was probably meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let most = if name.len() < 4 { 1 } else { 2 };
    TABLE
        .iter()
        .map(|spec| (distance(name, spec.name), spec.name))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name)
}

/// How many insertions, deletions, replacements and swaps of neighbours lie between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let edited = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if swapped {
                    edited.min(rows[i - 2][j - 2] + 1)
                } else {
                    edited
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

const fn flag(name: &'static str, group: Group, help: &'static str, set: fn(&mut Options)) -> Spec {
    Spec {
        name,
        group,
        help,
        kind: Kind::Flag(set),
    }
}

const fn with_value(
    name: &'static str,
    form: &'static str,
    default: Option<&'static str>,
    group: Group,
    help: &'static str,
    set: Setter,
) -> Spec {
    Spec {
        name,
        group,
        help,
        kind: Kind::Value { form, default, set },
    }
}
