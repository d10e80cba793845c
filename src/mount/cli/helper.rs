//! mount(8)'s protocol for its helpers: `mount.TYPE SOURCE DIR [-sfnvrw] [-N NS] [-o OPTIONS]
//! [-t TYPE]` and `umount.TYPE DIR [-flnrv] [-N NS] [-t TYPE]`, in any order.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::{CliError, MountArguments, UmountArguments};

/// Arguments of `mount.TYPE`. Here `-f` means "fake", as everywhere in mount(8).
pub fn mount(program: &str, arguments: &[OsString]) -> Result<MountArguments, CliError> {
    let usage = format!("{program} SOURCE DIR [-sfnvrw] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]");
    let parts = take_apart(arguments, b"sfnvrw", b"Not", &usage)?;
    let mut mount = MountArguments::default();
    for (letter, value) in parts.letters {
        match (letter, value) {
            (b'o', Some(options)) => mount.options.push(options),
            (b'N', Some(namespace)) => mount.namespace = Some(namespace.into()),
            (b's', _) => mount.sloppy = true,
            (b'f', _) => mount.fake = true,
            (b'v', _) => mount.verbose = true,
            (b'r', _) => mount.read_only = true,
            (b'w', _) => mount.read_write = true,
            // -n: there is no /etc/mtab to keep. -t: the type is known.
            _ => {}
        }
    }
    let [source, directory] = <[OsString; 2]>::try_from(parts.others)
        .map_err(|_| CliError::Usage(format!("usage: {usage}")))?;
    (mount.source, mount.directory) = (source, directory.into());
    Ok(mount)
}

/// Arguments of `umount.TYPE`.
pub fn umount(program: &str, arguments: &[OsString]) -> Result<UmountArguments, CliError> {
    let usage = format!("{program} DIR [-flnrv] [-N NAMESPACE] [-t TYPE]");
    let parts = take_apart(arguments, b"flnrv", b"Nt", &usage)?;
    let mut umount = UmountArguments::default();
    for (letter, value) in parts.letters {
        match (letter, value) {
            (b'N', Some(namespace)) => umount.namespace = Some(namespace.into()),
            (b'f', _) => umount.force = true,
            (b'l', _) => umount.lazy = true,
            _ => {}
        }
    }
    let [directory] = <[OsString; 1]>::try_from(parts.others)
        .map_err(|_| CliError::Usage(format!("usage: {usage}")))?;
    umount.directory = directory.into();
    Ok(umount)
}

struct Parts {
    /// Each letter, with its value where it takes one.
    letters: Vec<(u8, Option<OsString>)>,
    others: Vec<OsString>,
}

/// Letters may stand together (`-fnv`), the last of them with its value behind it or next;
/// everything behind `--` is no option.
fn take_apart(
    arguments: &[OsString],
    plain: &[u8],
    with_value: &[u8],
    usage: &str,
) -> Result<Parts, CliError> {
    let mut parts = Parts {
        letters: Vec::new(),
        others: Vec::new(),
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let bytes = argument.as_bytes();
        match bytes {
            b"--" => parts.others.extend(rest.by_ref().cloned()),
            b"--help" | b"-h" => {
                let more = "The options are in mount.ftps(8) and `ftpsfs mount --help`.";
                return Err(CliError::Answer(format!("usage: {usage}\n{more}")));
            }
            b"--version" | b"-V" => {
                let version = concat!("ftpsfs ", env!("CARGO_PKG_VERSION"));
                return Err(CliError::Answer(version.to_string()));
            }
            [b'-', cluster @ ..] if !cluster.is_empty() => {
                for (at, &letter) in cluster.iter().enumerate() {
                    if plain.contains(&letter) {
                        parts.letters.push((letter, None));
                        continue;
                    }
                    if !with_value.contains(&letter) {
                        let wrong = bytes.escape_ascii();
                        return Err(CliError::Usage(format!(
                            "unknown option {wrong}; usage: {usage}"
                        )));
                    }
                    let behind = &cluster[at + 1..];
                    let value = match behind {
                        [] => rest.next().cloned(),
                        _ => Some(OsString::from_vec(behind.to_vec())),
                    };
                    let missing = || format!("-{} needs a value; usage: {usage}", letter as char);
                    parts.letters.push((
                        letter,
                        Some(value.ok_or_else(|| CliError::Usage(missing()))?),
                    ));
                    break;
                }
            }
            _ => parts.others.push(argument.clone()),
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T, CliError>) -> String {
        match result {
            Err(CliError::Usage(line)) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_stand_in_any_order() {
        for line in [
            "h:/x /mnt -rv -s -n -N /proc/7/ns/mnt -o rw,a=b -o c -t ftps",
            "-o rw,a=b h:/x -srnv /mnt -oc -N/proc/7/ns/mnt -tftps",
            "-v -r -t ftps -vso rw,a=b -N /proc/7/ns/mnt -o c -- h:/x /mnt",
        ] {
            let mount = mount("mount.ftps", &words(line)).unwrap();
            assert_eq!(mount.source, "h:/x", "{line}");
            assert_eq!(mount.directory.as_os_str(), "/mnt", "{line}");
            assert_eq!(mount.options, ["rw,a=b", "c"], "{line}");
            assert_eq!(mount.namespace, Some("/proc/7/ns/mnt".into()), "{line}");
            assert!(
                mount.read_only && mount.sloppy && mount.verbose && !mount.fake,
                "{line}"
            );
            assert!(!mount.foreground && !mount.read_write, "{line}");
        }
    }

    #[test]
    fn f_is_fake_here() {
        let mount = mount("mount.ftps", &words("h:/ /mnt -fnw")).unwrap();
        assert!(mount.fake && mount.read_write && !mount.foreground);
    }

    #[test]
    fn wrong_use_is_refused() {
        let mount = |line: &str| refusal(mount("mount.ftps", &words(line)));
        let usage = "usage: mount.ftps SOURCE DIR [-sfnvrw] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]";
        assert_eq!(mount(""), usage);
        assert_eq!(mount("h:/"), usage);
        assert_eq!(mount("h:/ /mnt /more"), usage);
        assert_eq!(mount("h:/ /mnt -x"), format!("unknown option -x; {usage}"));
        assert_eq!(
            mount("h:/ /mnt -rX"),
            format!("unknown option -rX; {usage}")
        );
        assert_eq!(
            mount("h:/ /mnt --bind"),
            format!("unknown option --bind; {usage}")
        );
        assert_eq!(mount("h:/ /mnt -o"), format!("-o needs a value; {usage}"));
    }

    #[test]
    fn a_lone_dash_is_no_option() {
        assert_eq!(mount("mount.ftps", &words("- /mnt")).unwrap().source, "-");
    }

    #[test]
    fn umount_likewise() {
        for line in ["/mnt -lf -n -N 7 -t fuse.ftps", "-t fuse.ftps -fvlN 7 /mnt"] {
            let umount = umount("umount.ftps", &words(line)).unwrap();
            assert_eq!(umount.directory.as_os_str(), "/mnt", "{line}");
            assert!(umount.lazy && umount.force, "{line}");
            assert_eq!(umount.namespace, Some("7".into()), "{line}");
        }
        assert!(refusal(umount("umount.ftps", &words(""))).starts_with("usage: umount.ftps DIR"));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(arguments in prop::collection::vec("-?[-sfnvrwNoth /]{0,4}", 0..6)) {
            let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
            let _ = mount("mount.ftps", &arguments);
            let _ = umount("umount.ftps", &arguments);
        }
    }
}
