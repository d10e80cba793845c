//! Credentials: a file for `credentials=`, for systemd or ~/.netrc gives a login that the protocol
//! can carry, or a one-line error without the password. The first byte says which file it is.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ftpsfs::mount::credentials::{Credentials, CredentialsError, Places, find};
use ftpsfs::mount::options::Options;
use ftpsfs::mount::source::parse;

const PASSWORD: &str = "open-sesame-48151623";

pub fn check(data: &[u8]) {
    let Some((&first, text)) = data.split_first() else {
        return;
    };
    let login = match first % 4 {
        0 => login_by_option(text),
        1 => login_by_option(&[b"password=", PASSWORD.as_bytes(), b"\n", text].concat()),
        2 => login(&file("systemd/ftpsfs", text), ""),
        _ => login(&file(".netrc", text), ""),
    };
    let found = match login {
        Ok(found) => found,
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains(char::is_control), "{line}");
            assert!(!line.contains(PASSWORD), "{line}");
            return;
        }
    };
    let account = found.account.as_ref().map(|account| account.expose());
    let parts = [
        Some(&found.user[..]),
        Some(found.password.expose()),
        account,
    ];
    for part in parts.into_iter().flatten() {
        assert!(!part.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')));
    }
    assert!(!format!("{found:?}").contains(PASSWORD));
    let mut again = [b"username=", &found.user[..], b"\npassword="].concat();
    again.extend_from_slice(found.password.expose());
    if let Some(account) = account {
        again.extend_from_slice(&[b"\naccount=", account].concat());
    }
    assert_eq!(login_by_option(&again).expect("the same again"), found);
}

/// A folder of our own, for all inputs of this process.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = std::env::temp_dir().join(format!("ftpsfs-credentials-{}", std::process::id()));
        fs::create_dir_all(place.join("systemd")).expect("make a folder");
        place
    })
}

fn file(name: &str, text: &[u8]) -> PathBuf {
    let path = place().join(name);
    fs::write(&path, text).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("make it private");
    path
}

fn login_by_option(text: &[u8]) -> Result<Credentials, CredentialsError> {
    let path = file("credentials", text);
    login(&path, &format!("credentials={}", path.display()))
}

/// With that file, and no other.
fn login(path: &Path, options: &str) -> Result<Credentials, CredentialsError> {
    let options = Options::parse(&[OsString::from(options)], false).expect("options");
    let is_netrc = path.ends_with(".netrc");
    let places = Places {
        systemd: path.parent().filter(|_| !is_netrc).map(Path::to_owned),
        netrc: is_netrc.then(|| path.to_owned()),
        terminal: false,
    };
    find(&parse(b"host:/").expect("a source"), &options, &places)
}
