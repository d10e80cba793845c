//! What source and options mean together: the settings of every layer below. Knows no files and
//! no network.

use std::path::PathBuf;
use std::time::Duration;

use fuser::{MountOption, SessionACL};
use nix::unistd::{getegid, geteuid};

use crate::client;
use crate::fs;
use crate::fs::spool::{self, Durability, default_state_dir};
use crate::proto::Security;
use crate::tls::KnownHosts;

use super::credentials::Credentials;
use super::failure::Failure;
use super::options::{KernelFlags, Options};
use super::source::Source;

/// Longest wait for one TCP connection; a dead address must leave time for the next.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The file in the state folder that has the certificates of `tofu`.
const KNOWN_HOSTS: &str = "known_hosts";

/// FUSE threads. They never wait for the network, and more of them gain nothing.
const FUSE_THREADS: usize = 2;

/// Port and kind of TLS: an explicit word decides, then the scheme, then the port.
pub fn endpoint(source: &Source, options: &Options) -> Result<(u16, Security), Failure> {
    let told_port = match (source.port, options.port) {
        (Some(a), Some(b)) if a != b => {
            return Err(Failure::Usage(format!(
                "the source has port {a}, but port= says {b}"
            )));
        }
        (a, b) => a.or(b),
    };
    let security = match (source.security, options.security) {
        (Some(Security::Implicit), Some(Security::Explicit)) => {
            return Err(Failure::Usage(
                "ftps:// is implicit TLS; ftpes:// is explicit".into(),
            ));
        }
        (Some(Security::Explicit), Some(Security::Implicit)) => {
            return Err(Failure::Usage(
                "ftpes:// is explicit TLS; ftps:// is implicit".into(),
            ));
        }
        (Some(security), _) | (None, Some(security)) => security,
        (None, None) if told_port == Some(IMPLICIT_PORT) => Security::Implicit,
        (None, None) => Security::Explicit,
    };
    let usual_port = match security {
        Security::Implicit => IMPLICIT_PORT,
        Security::Explicit => EXPLICIT_PORT,
    };
    Ok((told_port.unwrap_or(usual_port), security))
}

const EXPLICIT_PORT: u16 = 21;
const IMPLICIT_PORT: u16 = 990;

/// The client's settings.
pub fn client(
    source: &Source,
    options: &Options,
    credentials: Credentials,
) -> Result<client::Config, Failure> {
    let (port, security) = endpoint(source, options)?;
    if options.active && options.special.proxy.is_some() {
        let line = "active and proxy= do not go together: the server could not reach us";
        return Err(Failure::Usage(line.to_string()));
    }
    let mut trust = options.trust.clone();
    if options.tofu {
        if !trust.fingerprints.is_empty() || trust.cafile.is_some() {
            let line =
                "tofu trusts what is there at first: it goes with neither fingerprint= nor cafile=";
            return Err(Failure::Usage(line.to_string()));
        }
        trust.known_hosts = Some(known_hosts(source, options)?);
    }
    let mut special = options.special.clone();
    if let Some(proxy) = &mut special.proxy {
        proxy.login = credentials.proxy;
    }
    Ok(client::Config {
        host: source.host.clone(),
        port,
        security,
        user: credentials.user,
        password: credentials.password,
        account: credentials.account,
        trust,
        max_sessions: options.max_sessions,
        active: options.active,
        trust_pasv_address: options.trust_pasv_address,
        retries: options.retries,
        connect_timeout: options.timeout.min(CONNECT_LIMIT),
        keepalive: options.keepalive,
        idle_close: options.idle,
        min_rate: options.min_rate,
        kept: lessons(&source.host, port, options),
        addresses: Vec::new(),
        special,
    })
}

/// Where the certificate is kept that the server had at first (`tofu`).
pub fn known_hosts(source: &Source, options: &Options) -> Result<KnownHosts, Failure> {
    let (port, _) = endpoint(source, options)?;
    let file = state_dir(options)?.join(KNOWN_HOSTS);
    Ok(KnownHosts::new(file, &source.host, port))
}

/// Where what was learned about a server is kept; `None` where there is no home for it.
fn lessons(host: &str, port: u16, options: &Options) -> Option<PathBuf> {
    let state_dir = options.state_dir.clone().or_else(default_state_dir)?;
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c
        } else {
            '_'
        }
    };
    let host: String = host.chars().map(plain).collect();
    Some(state_dir.join("servers").join(format!("{host}-{port}")))
}

/// The file system's settings. Files belong to who mounts, unless options say otherwise.
pub fn file_system(source: &Source, options: &Options) -> fs::Config {
    let umask = options.umask.unwrap_or(0);
    fs::Config {
        root: source.path.clone(),
        uid: options.uid.unwrap_or_else(|| geteuid().as_raw()),
        gid: options.gid.unwrap_or_else(|| getegid().as_raw()),
        fmask: options.fmask.unwrap_or(umask),
        dmask: options.dmask.unwrap_or(umask),
        timeout: options.timeout,
        retries: options.retries,
        attr_timeout: options.attr_timeout,
        dir_timeout: options.dir_timeout,
        negative_timeout: options.negative_timeout,
        cache_entries: options.cache_entries,
        window_bytes: options.window as usize,
        prefetch: options.prefetch,
        spool: None,
        shelf: None,
        // The kernel lets root alone name it files to read.
        passthrough: options.passthrough && geteuid().is_root(),
        strict: options.strict_attrs,
        direct: options.direct_upload,
        write_back: options.write_back,
        hard: options.hard,
        temp_dir: options.temp_dir.clone(),
        temp_name: options.temp_name.clone(),
        uploads: options.max_sessions.saturating_sub(1).max(1),
        min_rate: options.min_rate,
    }
}

/// Where files lie that are being written; `None` where nothing is.
pub fn spool(
    source: &Source,
    options: &Options,
    credentials: &Credentials,
) -> Result<Option<Spooling>, Failure> {
    if options.kernel.read_only {
        return Ok(None);
    }
    let state_dir = state_dir(options)?;
    let (port, _) = endpoint(source, options)?;
    let folder = spool::Source {
        user: &String::from_utf8_lossy(&credentials.user),
        host: &source.host,
        port,
        root: &source.path,
    }
    .folder_name();
    Ok(Some(Spooling {
        folder: state_dir.join(folder),
        options: spool::Options {
            limit: options.spool_size,
            durability: match options.write_back {
                true => Durability::Power,
                false => Durability::Process,
            },
            patience: LOCK_PATIENCE,
        },
    }))
}

/// Where content that was read is kept; `None` where it is not.
pub fn cache(
    source: &Source,
    options: &Options,
    credentials: &Credentials,
) -> Result<Option<Caching>, Failure> {
    let Some(dir) = &options.cache_dir else {
        return Ok(None);
    };
    let (port, _) = endpoint(source, options)?;
    let special = &options.special;
    // All that decides which file a path means. The proxy may know another host by that name.
    let mut host = source.host.clone();
    host.extend(
        special
            .virtual_host
            .iter()
            .map(|name| format!("+host={name}")),
    );
    host.extend(
        special
            .charset
            .iter()
            .map(|set| format!("+charset={set:?}")),
    );
    host.extend(
        special
            .proxy
            .iter()
            .map(|proxy| format!("+proxy={}:{}", proxy.host, proxy.port)),
    );
    let name = spool::Source {
        user: &credentials.user.escape_ascii().to_string(),
        host: &host,
        port,
        root: &source.path,
    }
    .folder_name();
    Ok(Some(Caching {
        folder: dir.join(format!("{name}.content")),
        limit: options.cache_size,
        patience: LOCK_PATIENCE,
    }))
}

/// A content cache to be opened.
pub struct Caching {
    pub folder: PathBuf,
    /// Bytes.
    pub limit: u64,
    pub patience: Duration,
}

fn state_dir(options: &Options) -> Result<PathBuf, Failure> {
    let state_dir = options.state_dir.clone().or_else(default_state_dir);
    state_dir.ok_or_else(|| {
        let line = "no home to keep files in: state_dir= says where";
        Failure::Usage(line.to_string())
    })
}

/// How a spool is opened to be seen to: nothing in it grows, and what is done is done for good.
pub fn spool_for_recovery() -> spool::Options {
    spool::Options {
        limit: u64::MAX,
        durability: Durability::Power,
        patience: LOCK_PATIENCE,
    }
}

/// A spool to be opened.
pub struct Spooling {
    pub folder: PathBuf,
    pub options: spool::Options,
}

impl Spooling {
    /// The folders of one source's spools: where a mount of it has the first, another one takes the
    /// next.
    pub fn folders(&self) -> impl Iterator<Item = PathBuf> + '_ {
        (1..=SPOOLS).map(|number| match number {
            1 => self.folder.clone(),
            _ => {
                let mut folder = self.folder.clone().into_os_string();
                folder.push(format!("+{number}"));
                folder.into()
            }
        })
    }
}

/// How many mounts of one source may be writable at a time.
const SPOOLS: usize = 16;

/// Longest wait for a spool that another process has locked: one that only looks at it is done by
/// then, and a mount is not.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);

/// The kernel's settings, and what /proc/mounts shows.
pub fn session(source: &Source, options: &Options) -> fuser::Config {
    let mut config = fuser::Config::default();
    let is_root = geteuid().is_root();
    config.mount_options = kernel_options(options.kernel, is_root);
    config.mount_options.extend([
        MountOption::FSName(mount_name(&source.label, is_root)),
        // As an option of its own this makes the type `fuse.ftps`; fuser's own Subtype would
        // reach only fusermount3.
        MountOption::CUSTOM("subtype=ftps".to_string()),
    ]);
    // Others are let in only where the kernel checks what each may do.
    if options.default_permissions || options.allow_other {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.acl = match (options.allow_other, options.allow_root) {
        (true, _) => SessionACL::All,
        (false, true) => SessionACL::RootAndOwner,
        (false, false) => SessionACL::Owner,
    };
    config.n_threads = Some(FUSE_THREADS);
    config
}

fn kernel_options(flags: KernelFlags, is_root: bool) -> Vec<MountOption> {
    let choices = [
        (flags.read_only, MountOption::RO),
        // A foreign server's set-user-ID programs and devices only where root asks for them.
        (flags.suid && is_root, MountOption::Suid),
        (flags.dev && is_root, MountOption::Dev),
        (!flags.exec, MountOption::NoExec),
        (!flags.atime, MountOption::NoAtime),
        (flags.sync, MountOption::Sync),
        (flags.dirsync, MountOption::DirSync),
    ];
    choices
        .into_iter()
        .filter(|(chosen, _)| *chosen)
        .map(|(_, option)| option)
        .collect()
}

/// Root mounts by mount(2), which takes any name; fusermount3 takes an option string.
fn mount_name(label: &[u8], is_root: bool) -> String {
    let label = String::from_utf8_lossy(label);
    match is_root {
        true => label.into_owned(),
        false => label.replace('\\', r"\\").replace(',', r"\,"),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::mount::source;
    use crate::proto::Secret;

    fn given(source: &str, options: &str) -> (Source, Options) {
        let source = source::parse(source.as_bytes()).unwrap();
        (
            source,
            Options::parse(&[OsString::from(options)], false).unwrap(),
        )
    }

    #[test]
    fn ports_and_kinds_of_tls() {
        let table = [
            ("h:/", "", "Explicit 21"),
            ("h:/", "implicit", "Implicit 990"),
            ("h:/", "port=990", "Implicit 990"),
            ("h:/", "port=990,explicit", "Explicit 990"),
            ("h:/", "port=21,implicit", "Implicit 21"),
            ("h:/", "port=2121", "Explicit 2121"),
            ("ftps://h", "", "Implicit 990"),
            ("ftps://h:21", "implicit", "Implicit 21"),
            ("ftpes://h", "", "Explicit 21"),
            ("ftpes://h:990", "", "Explicit 990"),
            ("ftpes://h", "port=2121", "Explicit 2121"),
            ("ftps://h:5", "port=5", "Implicit 5"),
            (
                "ftps://h:5",
                "port=6",
                "the source has port 5, but port= says 6",
            ),
            (
                "ftps://h",
                "explicit",
                "ftps:// is implicit TLS; ftpes:// is explicit",
            ),
            (
                "ftpes://h",
                "implicit",
                "ftpes:// is explicit TLS; ftps:// is implicit",
            ),
        ];
        for (source, options, expected) in table {
            let (source_parsed, options_parsed) = given(source, options);
            let found = match endpoint(&source_parsed, &options_parsed) {
                Ok((port, security)) => format!("{security:?} {port}"),
                Err(failure) => failure.to_string(),
            };
            assert_eq!(found, expected, "{source} {options}");
        }
    }

    #[test]
    fn flags_reach_the_kernel() {
        let flags = |options: &str, is_root: bool| {
            let (_, options) = given("h:/", options);
            kernel_options(options.kernel, is_root)
        };
        assert_eq!(flags("rw", true), []);
        assert_eq!(
            flags("ro,noexec,noatime,sync,dirsync", false),
            [
                MountOption::RO,
                MountOption::NoExec,
                MountOption::NoAtime,
                MountOption::Sync,
                MountOption::DirSync,
            ]
        );
        assert_eq!(
            flags("suid,dev", true),
            [MountOption::Suid, MountOption::Dev]
        );
        assert_eq!(flags("suid,dev", false), []);
    }

    #[test]
    fn who_may_enter() {
        let session = |options: &str| {
            let (source, options) = given("h:/", options);
            session(&source, &options)
        };
        let checks = |config: &fuser::Config| {
            config
                .mount_options
                .contains(&MountOption::DefaultPermissions)
        };
        assert_eq!(session("").acl, SessionACL::Owner);
        assert!(!checks(&session("")));
        assert_eq!(session("allow_root").acl, SessionACL::RootAndOwner);
        assert_eq!(session("allow_other").acl, SessionACL::All);
        assert!(checks(&session("allow_other")));
        assert!(checks(&session("default_permissions")));
        assert!(!session("rw").mount_options.contains(&MountOption::RO));
        assert!(session("ro").mount_options.contains(&MountOption::RO));
    }

    #[test]
    fn names_survive_fusermount() {
        assert_eq!(mount_name(br"CORP\me@h:/a,b", true), r"CORP\me@h:/a,b");
        assert_eq!(mount_name(br"CORP\me@h:/a,b", false), r"CORP\\me@h:/a\,b");
    }

    #[test]
    fn every_source_has_a_cache_of_its_own() {
        let folder = |source: &str, options: &str, user: &[u8]| {
            let (source, options) = given(source, options);
            let credentials = Credentials {
                user: user.to_vec(),
                password: Secret::new("secret"),
                account: None,
                proxy: None,
            };
            let caching = cache(&source, &options, &credentials).unwrap();
            caching.map(|caching| caching.folder)
        };
        assert_eq!(folder("h:/", "cache_size=1M", b"me"), None);
        let folders = [
            folder("h:/", "cache_dir=/c", b"me"),
            folder("h:/", "cache_dir=/c", b"me\xff"),
            folder("h:/", "cache_dir=/c", b"me\xfe"),
            folder("h:/a", "cache_dir=/c", b"me"),
            folder("h2:/", "cache_dir=/c", b"me"),
            folder("h:/", "cache_dir=/c,port=2121", b"me"),
            folder("h:/", "cache_dir=/c,host=v", b"me"),
            folder("h:/", "cache_dir=/c,charset=latin1", b"me"),
            folder("h:/", "cache_dir=/c,proxy=socks5://p:1", b"me"),
        ];
        for (i, one) in folders.iter().enumerate() {
            assert!(one.as_ref().is_some_and(|one| one.starts_with("/c")));
            assert!(!folders[..i].contains(one), "{one:?}");
        }
    }

    #[test]
    fn masks_and_owners() {
        let config = |options: &str| {
            let (source, options) = given("h:/x", options);
            file_system(&source, &options)
        };
        assert_eq!(config("").uid, geteuid().as_raw());
        assert_eq!((config("").fmask, config("").dmask), (0, 0));
        assert_eq!(
            (config("umask=027").fmask, config("umask=027").dmask),
            (0o27, 0o27)
        );
        let masks = config("umask=027,fmask=133,uid=7,gid=8");
        assert_eq!(
            (masks.fmask, masks.dmask, masks.uid, masks.gid),
            (0o133, 0o27, 7, 8)
        );
        assert_eq!(masks.root.as_bytes(), b"/x");
    }
}
