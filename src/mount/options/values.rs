//! The forms that option values take: durations, sizes, masks, owners, fingerprints. Each parser
//! takes the bytes behind `=` and says in words what it expected. Knows no option by name.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::client::{Charset, Proxy};
use crate::fs::TempName;
use crate::mount::failure::shown;
use crate::proto::RemotePath;
use crate::tls::Fingerprint;

/// UTF-8 text that is not empty.
pub fn text(value: &[u8]) -> Result<&str, String> {
    match std::str::from_utf8(value) {
        Ok(text) if !text.is_empty() => Ok(text),
        _ => Err("expected some text".to_string()),
    }
}

/// A user's name or password: FTP carries anything but CR, LF and NUL. The message keeps silent
/// about the bytes.
pub fn login(value: &[u8]) -> Result<Vec<u8>, String> {
    match value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
        true => Err("FTP cannot carry a line end or NUL".to_string()),
        false => Ok(value.to_vec()),
    }
}

/// `socks5://HOST:PORT` or `http://HOST:PORT`. The message keeps silent about a login.
pub fn proxy(value: &[u8]) -> Result<Proxy, String> {
    if value.contains(&b'@') {
        let line = "others may see options: the proxy's login is proxy_username= and proxy_password= in the credentials file";
        return Err(line.to_string());
    }
    let proxy = text(value).ok().and_then(Proxy::parse);
    proxy.ok_or_else(|| {
        format!(
            "{} is no socks5://HOST:PORT or http://HOST:PORT",
            quoted(value)
        )
    })
}

/// An address of this machine.
pub fn address(value: &[u8]) -> Result<IpAddr, String> {
    let address = text(value).ok().and_then(|text| text.parse().ok());
    address.ok_or_else(|| format!("{} is no IP address", quoted(value)))
}

/// A host's name.
pub fn host(value: &[u8]) -> Result<String, String> {
    let is_odd = |c: char| c.is_control() || c.is_whitespace();
    match text(value) {
        Ok(text) if !text.contains(is_odd) => Ok(text.to_string()),
        _ => Err(format!("{} is no host name", quoted(value))),
    }
}

/// A character set by its name on the web.
pub fn charset(value: &[u8]) -> Result<Charset, String> {
    let charset = text(value).ok().and_then(Charset::parse);
    charset.ok_or_else(|| {
        let quoted = quoted(value);
        format!("{quoted} is no character set such as latin1, windows-1252 or shift_jis")
    })
}

/// `auto`, seconds, `+HH:MM` or `-HH:MM`: less than a day, in seconds.
pub fn time_offset(value: &[u8]) -> Result<Option<i64>, String> {
    let parse = || {
        let text = text(value).ok()?;
        if text == "auto" {
            return Some(None);
        }
        let (sign, digits) = match text.split_at_checked(1)? {
            ("-", digits) => (-1, digits),
            ("+", digits) => (1, digits),
            _ => (1, text),
        };
        let number = |digits: &str| digits.parse::<u32>().ok().map(i64::from);
        let is_plain = |c: char| c.is_ascii_digit() || c == ':';
        let seconds = match digits.split_once(':') {
            _ if !digits.chars().all(is_plain) => return None,
            None => number(digits)?,
            Some((hours, minutes)) if hours.len() <= 2 && minutes.len() == 2 => {
                let minutes = number(minutes).filter(|minutes| *minutes < 60)?;
                number(hours)? * 3600 + minutes * 60
            }
            Some(_) => return None,
        };
        (seconds < DAY).then_some(Some(sign * seconds))
    };
    parse().ok_or_else(|| {
        format!(
            "{} is not auto, a number of seconds, or hours and minutes such as +02:00",
            quoted(value)
        )
    })
}

/// Seconds.
const DAY: i64 = 24 * 3600;

/// One of a few words.
pub fn choice<T: Copy>(value: &[u8], choices: &[(&str, T)]) -> Result<T, String> {
    let chosen = choices.iter().find(|(word, _)| word.as_bytes() == value);
    chosen.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        format!("{} is not {}", quoted(value), words.join(" or "))
    })
}

/// `off`, `error`, `warn`, `info`, `debug` or `trace`.
pub fn log_level(value: &[u8]) -> Result<log::LevelFilter, String> {
    let level = text(value).ok().and_then(|text| text.parse().ok());
    level.ok_or_else(|| format!("{} is no log level", quoted(value)))
}

/// A path, made absolute at once: the daemon leaves the current directory.
pub fn path(value: &[u8]) -> Result<PathBuf, String> {
    std::path::absolute(OsStr::from_bytes(value)).map_err(|_| "expected a path".to_string())
}

/// An absolute path on the server.
pub fn remote_path(value: &[u8]) -> Result<RemotePath, String> {
    RemotePath::parse(value).map_err(|error| format!("{}: {error}", quoted(value)))
}

/// A name with one `%` in it, and something beside that.
pub fn temp_name(value: &[u8]) -> Result<TempName, String> {
    let pattern = TempName::parse(value);
    pattern.ok_or_else(|| format!("{} is no name with one % such as .%.part", quoted(value)))
}

/// A whole number within bounds.
pub fn number(value: &[u8], least: u64, most: u64) -> Result<u64, String> {
    text(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("{} is no number from {least} to {most}", quoted(value)))
}

/// `30`, `30s`, `500ms`, `2m`, `1h`, within bounds.
pub fn duration(value: &[u8], least: Duration, most: Duration) -> Result<Duration, String> {
    let parse = || {
        let text = text(value).ok()?;
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let count: u64 = digits.parse().ok()?;
        let milliseconds = match &text[digits.len()..] {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60 * 1000,
            "h" => 3600 * 1000,
            _ => return None,
        };
        Some(Duration::from_millis(count.checked_mul(milliseconds)?))
    };
    parse()
        .filter(|duration| (least..=most).contains(duration))
        .ok_or_else(|| {
            format!(
                "{} is no time (such as 30s, 500ms, 2m) from {least:?} to {most:?}",
                quoted(value)
            )
        })
}

/// Bytes: a number with an optional K, M or G (powers of 1024), within bounds.
pub fn size(value: &[u8], least: u64, most: u64) -> Result<u64, String> {
    let parse = || {
        let text = text(value).ok()?;
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let count: u64 = digits.parse().ok()?;
        let unit: u64 = match &text[digits.len()..] {
            "" => 1,
            "k" | "K" => 1 << 10,
            "m" | "M" => 1 << 20,
            "g" | "G" => 1 << 30,
            _ => return None,
        };
        count.checked_mul(unit)
    };
    parse()
        .filter(|size| (least..=most).contains(size))
        .ok_or_else(|| {
            format!(
                "{} is no size (such as 65536, 512K, 64M) from {least} to {most} bytes",
                quoted(value)
            )
        })
}

/// Permission bits in octal.
pub fn mask(value: &[u8]) -> Result<u16, String> {
    text(value)
        .ok()
        .and_then(|text| u16::from_str_radix(text, 8).ok())
        .filter(|mask| *mask <= 0o777)
        .ok_or_else(|| format!("{} is no octal mask such as 022", quoted(value)))
}

/// A user's number, or the name of one on this machine.
pub fn user_id(value: &[u8]) -> Result<u32, String> {
    let text = text(value)?;
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    match nix::unistd::User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err(format!("there is no user {}", quoted(value))),
    }
}

/// A group's number, or the name of one on this machine.
pub fn group_id(value: &[u8]) -> Result<u32, String> {
    let text = text(value)?;
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    match nix::unistd::Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(format!("there is no group {}", quoted(value))),
    }
}

/// One or more pins: `sha256:` and 64 hexadecimal digits each, joined by colons; the digits may
/// also come in pairs with colons between them, as openssl prints them.
pub fn fingerprints(value: &[u8]) -> Result<Vec<Fingerprint>, String> {
    let parse = || {
        let mut digits = String::new();
        for part in text(value).ok()?.split(':') {
            match part.len() {
                2 | 64 => digits.push_str(part),
                _ if part.eq_ignore_ascii_case("sha256") && digits.len().is_multiple_of(64) => {}
                _ => return None,
            }
        }
        let pins: Option<Vec<_>> = digits
            .as_bytes()
            .chunks(64)
            .map(|pin| Fingerprint::parse(std::str::from_utf8(pin).ok()?))
            .collect();
        pins.filter(|pins| !pins.is_empty())
    };
    parse().ok_or_else(|| {
        format!(
            "{} is no fingerprint: expected sha256: and 64 hexadecimal digits",
            quoted(value)
        )
    })
}

/// A value as it stands in a message.
fn quoted(value: &[u8]) -> String {
    format!("`{}`", shown(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn durations() {
        let parse = |text: &str| duration(text.as_bytes(), Duration::ZERO, HOUR).ok();
        assert_eq!(parse("30"), Some(30 * SECOND));
        assert_eq!(parse("30s"), Some(30 * SECOND));
        assert_eq!(parse("2m"), Some(120 * SECOND));
        assert_eq!(parse("1h"), Some(HOUR));
        assert_eq!(parse("250ms"), Some(SECOND / 4));
        assert_eq!(parse("0"), Some(Duration::ZERO));
        for bad in [
            "",
            "s",
            "2d",
            "-1",
            "1.5",
            "61m",
            "99999999999999999999",
            "3 s",
            "1é",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn offsets_from_utc() {
        let parse = |text: &str| time_offset(text.as_bytes()).ok();
        assert_eq!(parse("auto"), Some(None));
        assert_eq!(parse("0"), Some(Some(0)));
        assert_eq!(parse("+05:30"), Some(Some(19_800)));
        assert_eq!(parse("5:30"), Some(Some(19_800)));
        assert_eq!(parse("-03:00"), Some(Some(-10_800)));
        assert_eq!(parse("-3600"), Some(Some(-3600)));
        for bad in [
            "", "+", "-", "+-1", "1h", "1:5", "01:60", "24:00", "86400", "1:00:00", "CET", "é",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        let parse = |text: &str| size(text.as_bytes(), 1, 1 << 32).ok();
        assert_eq!(parse("1"), Some(1));
        assert_eq!(parse("512K"), Some(512 << 10));
        assert_eq!(parse("64m"), Some(64 << 20));
        assert_eq!(parse("4G"), Some(4 << 30));
        for bad in ["", "0", "5G", "K", "1T", "18446744073709551615G", "1.5M"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn masks_are_octal() {
        assert_eq!(mask(b"022"), Ok(0o22));
        assert_eq!(mask(b"0"), Ok(0));
        assert_eq!(mask(b"777"), Ok(0o777));
        for bad in ["", "1000", "8", "-1", "0o22"] {
            assert!(mask(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn owners_by_number_and_name() {
        assert_eq!(user_id(b"1000"), Ok(1000));
        assert_eq!(user_id(b"root"), Ok(0));
        assert_eq!(group_id(b"root"), Ok(0));
        assert!(user_id(b"no-such-user-here").is_err());
        assert!(group_id(b"").is_err());
    }

    #[test]
    fn fingerprints_in_both_spellings() {
        let plain = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
        let pairs = plain
            .as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).unwrap());
        let pairs: Vec<_> = pairs.collect();
        let pairs = pairs.join(":");
        let pin = fingerprints(format!("sha256:{plain}").as_bytes()).unwrap();
        assert_eq!(pin.len(), 1);
        assert_eq!(pin[0].0[..4], [0x00, 0x11, 0x22, 0x33]);
        assert_eq!(pin[0].0[31], 0xff);
        assert_eq!(
            fingerprints(format!("SHA256:{pairs}").as_bytes()).unwrap(),
            pin
        );
        assert_eq!(fingerprints(pairs.as_bytes()).unwrap(), pin);
        for two in [
            format!("sha256:{plain}:{plain}"),
            format!("sha256:{plain}:sha256:{plain}"),
            format!("sha256:{pairs}:{plain}"),
        ] {
            assert_eq!(fingerprints(two.as_bytes()).unwrap().len(), 2, "{two}");
        }
        for bad in [
            "",
            "sha256:",
            "sha256:00",
            "sha1:00112233445566778899aabbccddeeff00112233",
            &plain[..63],
            &format!("{}g", &plain[..63]),
            &format!("{plain}:00"),
            &format!("sha256:{plain}:"),
            &format!("{}é", &plain[..62]),
        ] {
            assert!(fingerprints(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
