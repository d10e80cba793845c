//! Mount options as values. The table of them is in [`table`], the syntax of `-o` in [`syntax`].
//! A value is checked here as far as its form goes; what the options mean together is settled in
//! `plan`. Knows no source, no file and no network.

pub mod syntax;
pub mod table;
mod values;

use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use crate::client::Special;
use crate::fs::TempName;
use crate::proto::{RemotePath, Secret, Security};
use crate::tls::TrustOptions;

use syntax::{Item, UnbalancedQuotes};
use table::{Group, Kind, TABLE};

/// What the user said with `-o`; the table's help lines say what each means.
#[derive(Clone, Debug)]
pub struct Options {
    pub username: Option<Vec<u8>>,
    pub password: Option<Secret>,
    pub password_stdin: bool,
    pub credentials: Option<PathBuf>,
    pub port: Option<u16>,
    pub security: Option<Security>,
    pub active: bool,
    pub trust_pasv_address: bool,
    pub max_sessions: usize,
    pub timeout: Duration,
    pub keepalive: Duration,
    pub idle: Duration,
    /// Bytes per second.
    pub min_rate: u64,
    pub trust: TrustOptions,
    pub tofu: bool,
    pub special: Special,
    pub attr_timeout: Duration,
    pub dir_timeout: Duration,
    pub negative_timeout: Duration,
    pub cache_entries: usize,
    /// Bytes.
    pub window: u64,
    /// `None`: content that was read is not kept.
    pub cache_dir: Option<PathBuf>,
    /// Bytes.
    pub cache_size: u64,
    /// `None`: the usual place.
    pub state_dir: Option<PathBuf>,
    /// Bytes.
    pub spool_size: u64,
    pub direct_upload: bool,
    pub write_back: bool,
    /// Not `noprefetch`.
    pub prefetch: bool,
    pub hard: bool,
    pub retries: u32,
    pub temp_dir: Option<RemotePath>,
    pub temp_name: Option<TempName>,
    pub strict_attrs: bool,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub umask: Option<u16>,
    pub fmask: Option<u16>,
    pub dmask: Option<u16>,
    pub allow_other: bool,
    pub allow_root: bool,
    pub default_permissions: bool,
    pub kernel: KernelFlags,
    /// mount(8) wants what is mounted already to be changed.
    pub remount: bool,
    pub log_level: log::LevelFilter,
    pub xattr: bool,
    /// Unknown options that were passed over because of `-s`.
    pub tolerated: Vec<String>,
}

/// The mount flags of mount(2) that are handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelFlags {
    pub read_only: bool,
    pub suid: bool,
    pub dev: bool,
    pub exec: bool,
    pub atime: bool,
    pub sync: bool,
    pub dirsync: bool,
}

/// Why options are refused. Never shows a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("{0}")]
    Quotes(#[from] UnbalancedQuotes),
    #[error("unknown mount option `{0}`")]
    Unknown(String),
    #[error("unknown mount option `{0}`; is `{1}` meant?")]
    Misspelt(String, &'static str),
    #[error("mount option `{0}` needs a value: {0}={1}")]
    NeedsValue(&'static str, &'static str),
    #[error("mount option `{0}` takes no value")]
    TakesNoValue(&'static str),
    #[error("mount option `{0}`: {1}")]
    Value(&'static str, String),
}

impl Options {
    /// Takes the arguments of all `-o` together, in order: the last one wins. `sloppy` passes over
    /// unknown options.
    pub fn parse(arguments: &[OsString], sloppy: bool) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for item in items(arguments)? {
            match options.apply(&item) {
                Err(OptionError::Unknown(name) | OptionError::Misspelt(name, _)) if sloppy => {
                    options.tolerated.push(name);
                }
                result => result?,
            }
        }
        Ok(options)
    }

    fn apply(&mut self, item: &Item) -> Result<(), OptionError> {
        let name = item.name.escape_ascii().to_string();
        // Without a value, `user` is mount(8)'s: "any user may mount this".
        if table::is_ignored(&name) || (name == "user" && item.value.is_none()) {
            return Ok(());
        }
        if name == "remount" {
            self.remount = true;
            return Ok(());
        }
        let Some(spec) = table::find(&name) else {
            return Err(match table::nearest(&name) {
                Some(nearest) => OptionError::Misspelt(name, nearest),
                None => OptionError::Unknown(name),
            });
        };
        match (&spec.kind, &item.value) {
            (Kind::Flag(set), None) => {
                set(self);
                Ok(())
            }
            (Kind::Flag(_), Some(_)) => Err(OptionError::TakesNoValue(spec.name)),
            (Kind::Value { set, .. }, Some(value)) => {
                set(self, value).map_err(|reason| OptionError::Value(spec.name, reason))
            }
            (Kind::Value { form, .. }, None) => Err(OptionError::NeedsValue(spec.name, form)),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            username: None,
            password: None,
            password_stdin: false,
            credentials: None,
            port: None,
            security: None,
            active: false,
            trust_pasv_address: false,
            max_sessions: 4,
            timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            min_rate: 1024,
            trust: TrustOptions::default(),
            tofu: false,
            special: Special::default(),
            attr_timeout: Duration::from_secs(10),
            dir_timeout: Duration::from_secs(10),
            negative_timeout: Duration::from_secs(2),
            cache_entries: 100_000,
            window: 32 << 20,
            cache_dir: None,
            cache_size: 1 << 30,
            state_dir: None,
            spool_size: 32 << 30,
            direct_upload: false,
            write_back: false,
            prefetch: true,
            hard: false,
            retries: 2,
            temp_dir: None,
            temp_name: None,
            strict_attrs: false,
            uid: None,
            gid: None,
            umask: None,
            fmask: None,
            dmask: None,
            allow_other: false,
            allow_root: false,
            default_permissions: false,
            kernel: KernelFlags::default(),
            remount: false,
            log_level: log::LevelFilter::Info,
            xattr: false,
            tolerated: Vec::new(),
        }
    }
}

impl Default for KernelFlags {
    fn default() -> Self {
        Self {
            read_only: false,
            suid: false,
            dev: false,
            exec: true,
            atime: true,
            sync: false,
            dirsync: false,
        }
    }
}

/// The same options, free of `password=` and with the password's new place told: what a process
/// may carry in its command line for all to see. Where `username` is given, it replaces others.
pub fn without_password(
    arguments: &[OsString],
    username: Option<&[u8]>,
) -> Result<OsString, UnbalancedQuotes> {
    let flag = |name: &[u8]| Item {
        name: name.to_vec(),
        value: None,
    };
    let mut kept = items(arguments)?;
    kept.retain(|item| !matches!(&*item.name, b"password" | b"password_stdin"));
    if let Some(username) = username {
        kept.retain(|item| !matches!(&*item.name, b"username" | b"user"));
        kept.push(Item {
            value: Some(username.to_vec()),
            ..flag(b"username")
        });
    }
    kept.push(flag(b"password_stdin"));
    Ok(OsString::from_vec(syntax::join(&kept)))
}

/// The options as `ftpsfs mount --help` shows them.
pub fn help() -> String {
    let mut text = String::from("Mount options (-o NAME,NAME=VALUE,...):\n");
    for group in Group::ALL {
        let _ = writeln!(text, "\n{}:", group.title());
        for spec in TABLE.iter().filter(|spec| spec.group == group) {
            let (form, default) = match spec.kind {
                Kind::Flag(_) => (spec.name.to_string(), None),
                Kind::Value { form, default, .. } => (format!("{}={form}", spec.name), default),
            };
            let default = default
                .map(|default| format!(" [{default}]"))
                .unwrap_or_default();
            let _ = writeln!(text, "  {form:<26} {}{default}", spec.help);
        }
    }
    text
}

fn items(arguments: &[OsString]) -> Result<Vec<Item>, UnbalancedQuotes> {
    let lists = arguments
        .iter()
        .map(|argument| syntax::split(argument.as_bytes()));
    Ok(lists.collect::<Result<Vec<_>, _>>()?.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Options, OptionError> {
        Options::parse(&[OsString::from(text)], false)
    }

    fn refusal(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_last_of_several_wins() {
        let arguments = ["ro,port=2121", "", "port=990,rw,umask=027"].map(OsString::from);
        let options = Options::parse(&arguments, false).unwrap();
        assert_eq!(options.port, Some(990));
        assert!(!options.kernel.read_only);
        assert_eq!(options.umask, Some(0o27));
    }

    #[test]
    fn what_mount_hands_to_helpers_is_taken() {
        let options = parse("rw,noexec,nosuid,nodev,credentials=/x,user,_netdev,nofail").unwrap();
        assert!(!options.kernel.exec);
        assert_eq!(options.username, None);
        assert_eq!(options.credentials, Some("/x".into()));
        let all_ignored = table::IGNORED.join(",");
        parse(&format!(
            "{all_ignored},comment=a b,x-systemd.automount,X-mount.mkdir=0755"
        ))
        .unwrap();
    }

    #[test]
    fn user_with_a_value_is_the_login() {
        assert_eq!(
            parse(r"user=CORP\me").unwrap().username,
            Some(br"CORP\me".to_vec())
        );
        assert_eq!(
            parse(r#"user="a,b@c""#).unwrap().username,
            Some(b"a,b@c".to_vec())
        );
    }

    #[test]
    fn refusals_name_the_option() {
        let table = [
            ("nonsense", "unknown mount option `nonsense`"),
            (
                "usrname=me",
                "unknown mount option `usrname`; is `username` meant?",
            ),
            ("prot=990", "unknown mount option `prot`; is `port` meant?"),
            ("port", "mount option `port` needs a value: port=PORT"),
            ("implicit=yes", "mount option `implicit` takes no value"),
            (
                "port=0",
                "mount option `port`: `0` is no number from 1 to 65535",
            ),
            (
                "port=ftps",
                "mount option `port`: `ftps` is no number from 1 to 65535",
            ),
            ("tls=1.1", "mount option `tls`: `1.1` is not 1.2 or 1.3"),
            ("password=\"x", "unbalanced quotes in the mount options"),
            ("=x", "unknown mount option ``"),
        ];
        for (text, expected) in table {
            assert_eq!(refusal(text), expected, "{text}");
        }
    }

    #[test]
    fn passwords_are_never_shown() {
        for text in ["pasword=hunter2", "password=hun\nter2", "paßword=hunter2"] {
            assert!(!refusal(text).contains("ter2"), "{text}");
        }
        assert!(!format!("{:?}", parse("password=hunter2").unwrap()).contains("hunter2"));
    }

    #[test]
    fn sloppy_passes_over_unknown_names_only() {
        let sloppy = |text: &str| Options::parse(&[OsString::from(text)], true);
        let options = sloppy("nonsense=1,ro,prot=2").unwrap();
        assert_eq!(options.tolerated, ["nonsense", "prot"]);
        assert!(options.kernel.read_only);
        assert!(sloppy("port=x").is_err());
    }

    #[test]
    fn names_are_told_once() {
        for (i, spec) in TABLE.iter().enumerate() {
            assert!(
                TABLE[i + 1..].iter().all(|other| other.name != spec.name),
                "{}",
                spec.name
            );
            assert!(!table::is_ignored(spec.name), "{}", spec.name);
        }
    }

    #[test]
    fn the_table_tells_the_real_defaults() {
        for spec in TABLE {
            if let Kind::Value {
                default: Some(default),
                set,
                ..
            } = spec.kind
            {
                let mut options = Options::default();
                set(&mut options, default.as_bytes()).unwrap();
                let (told, real) = (format!("{options:?}"), format!("{:?}", Options::default()));
                assert_eq!(told, real, "{}", spec.name);
            }
        }
    }

    #[test]
    fn the_table_changes_what_it_names() {
        let changed = |text: &str| format!("{:?}", parse(text).unwrap());
        let plain = changed("");
        for text in [
            "username=u",
            "password_stdin",
            "port=990",
            "explicit",
            "implicit",
            "active",
            "pasv_address=trust",
            "proxy=socks5://p",
            "bind=127.0.0.1",
            "host=h",
            "charset=latin1",
            "max_sessions=1",
            "timeout=2m",
            "keepalive=5",
            "idle=5",
            "min_rate=2K",
            "cafile=/a",
            "tofu",
            "tls_name=a",
            "cert=/a",
            "key=/a",
            "tls=1.2",
            "tls=1.3",
            "attr_timeout=0",
            "dir_timeout=0",
            "negative_timeout=0",
            "cache_entries=1",
            "window=1M",
            "cache_dir=/x",
            "cache_size=1M",
            "state_dir=/x",
            "spool_size=1M",
            "upload=direct",
            "temp_dir=/tmp",
            "temp_name=%.part",
            "attrs=strict",
            "uid=1",
            "gid=1",
            "umask=0",
            "fmask=0",
            "dmask=0",
            "allow_other",
            "allow_root",
            "default_permissions",
            "ro",
            "suid",
            "dev",
            "noexec",
            "noatime",
            "sync",
            "dirsync",
            "log_level=warn",
            "debug",
        ] {
            assert_ne!(changed(text), plain, "{text}");
        }
        for undone in [
            "active,passive",
            "ro,rw",
            "suid,nosuid",
            "dev,nodev",
            "noexec,exec",
        ] {
            assert_eq!(changed(undone), plain, "{undone}");
        }
        assert_eq!(changed("noatime,atime,sync,dirsync,async"), plain);
    }

    #[test]
    fn a_command_line_without_the_password() {
        let given = [r#"password="a,b",ro"#, r"user=x,password_stdin"].map(OsString::from);
        assert_eq!(
            without_password(&given, Some(b"c,d")).unwrap(),
            r"ro,username=c\,d,password_stdin"
        );
        assert_eq!(
            without_password(&given, None).unwrap(),
            "ro,user=x,password_stdin"
        );
    }

    #[test]
    fn help_lists_every_option() {
        let help = help();
        for spec in TABLE {
            assert!(
                help.contains(&format!("\n  {}", spec.name)),
                "{}",
                spec.name
            );
        }
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }

    /// Headings of `.TP` paragraphs between two section titles, without markup.
    fn manual_items<'a>(manual: &'a str, from: &str, to: &str) -> Vec<&'a str> {
        let section = manual.split(from).nth(1).unwrap().split(to).next().unwrap();
        let items = section.split(".TP\n").skip(1);
        items.map(|item| item.lines().next().unwrap()).collect()
    }

    #[test]
    fn the_manual_has_every_option_of_the_table_and_no_other() {
        let manual = include_str!("../../man/mount.ftps.8");
        let items = manual_items(manual, ".SH OPTIONS\n", ".SH CREDENTIALS\n");
        let expected: Vec<_> = TABLE
            .iter()
            .map(|spec| match spec.kind {
                Kind::Flag(_) => format!(".B {}", spec.name),
                Kind::Value { form, .. } => format!(".BI {}= {form}", spec.name),
            })
            .collect();
        assert_eq!(items, expected);
        for spec in TABLE {
            if let Kind::Value {
                default: Some(default),
                form,
                ..
            } = spec.kind
            {
                let heading = format!(".BI {}= {form}\n", spec.name);
                let text = manual.split(&heading).nth(1).unwrap();
                let text = text.split(".TP\n").next().unwrap();
                let told = [
                    format!("Default: {default}."),
                    format!(".B {default}\n(the default)"),
                ];
                assert!(
                    told.iter().any(|told| text.contains(told)),
                    "{}: {text}",
                    spec.name
                );
            }
        }
        let ignored = manual.split("mean nothing here:\n").nth(1).unwrap();
        let ignored = ignored.split(".SH ").next().unwrap();
        let names: Vec<_> = ignored
            .lines()
            .filter_map(|line| line.strip_prefix(".BR "))
            .filter_map(|line| line.strip_suffix(" ,").or(line.strip_suffix(" .")))
            .collect();
        assert_eq!(names, table::IGNORED);
    }

    proptest! {
        #[test]
        fn no_option_string_makes_it_panic(
            text in prop::collection::vec(prop::sample::select(
                b"port=990,\"\\usernamedebugtls.sha256:0Fxo-\xff\n".to_vec()), 0..60)) {
            let _ = Options::parse(&[OsString::from_vec(text)], true);
        }

        #[test]
        fn a_removed_password_stays_removed(
            password in "[a-z\",\\\\]{8}", name in prop::collection::vec(1u8..=255, 1..6)) {
            let mut given = b"ro,password=".to_vec();
            syntax::escape_into(&mut given, password.as_bytes());
            let clean = without_password(&[OsString::from_vec(given)], Some(&name)).unwrap();
            let items = syntax::split(clean.as_bytes()).unwrap();
            prop_assert_eq!(items.len(), 3);
            prop_assert_eq!(items[1].value.as_deref(), Some(&name[..]));
        }
    }
}
