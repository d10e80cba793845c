use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::mount::source;

/// A folder with files of the mode given, and the places that point into it.
struct Case {
    directory: tempfile::TempDir,
    places: Places,
}

impl Case {
    fn new(files: &[(&str, u32, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, mode, text) in files {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        let places = Places {
            systemd: Some(directory.path().join("none")),
            netrc: Some(directory.path().join(".netrc")),
            terminal: false,
        };
        Self { directory, places }
    }

    /// `user/password`, or the refusal, with the folder's name as `DIR`.
    fn find(&self, source: &str, options: &str) -> String {
        let directory = self.directory.path().to_str().unwrap();
        let options = OsString::from(options.replace("DIR", directory));
        let options = Options::parse(&[options], false).unwrap();
        match find(
            &source::parse(source.as_bytes()).unwrap(),
            &options,
            &self.places,
        ) {
            Ok(found) => format!(
                "{}/{}",
                String::from_utf8_lossy(&found.user),
                String::from_utf8_lossy(found.password.expose())
            ),
            Err(error) => error.to_string().replace(directory, "DIR"),
        }
    }
}

#[test]
fn the_command_line_comes_first() {
    let case = Case::new(&[("cred", 0o600, "username=x\npassword=y\n")]);
    let table = [
        ("h:/", "username=me,password=pw", "me/pw"),
        ("me@h:/", "password=pw", "me/pw"),
        ("me@h:/", "username=me,password=", "me/"),
        ("ftps://me:url@h/", "", "me/url"),
        ("ftps://me:url@h/", "password=option", "me/option"),
        ("h:/", "password=pw,credentials=DIR/cred", "anonymous/pw"),
        (
            "a@h:/",
            "username=b",
            "the source is for user a, but username= says b",
        ),
    ];
    for (source, options, expected) in table {
        assert_eq!(case.find(source, options), expected, "{source} {options}");
    }
}

#[test]
fn a_credentials_file() {
    let case = Case::new(&[
        (
            "full",
            0o600,
            "# for the partner\n\n username=me\r\npassword= p=w #\r\ndomain=CORP\n",
        ),
        ("short", 0o400, "user=me\npass=pw"),
        ("only", 0o600, "password=pw\n"),
        ("nopass", 0o600, "username=me\n"),
        ("broken", 0o600, "username=me\nhunter2\n"),
        ("unknown", 0o600, "usernam=me\n"),
        ("group", 0o640, "password=pw\n"),
        ("world", 0o604, "password=pw\n"),
    ]);
    let table = [
        ("h:/", "full", "me/ p=w #"),
        ("me@h:/", "full", "me/ p=w #"),
        (
            "you@h:/",
            "full",
            "DIR/full: the password is for user me, not you",
        ),
        ("h:/", "short", "me/pw"),
        ("you@h:/", "only", "you/pw"),
        ("h:/", "nopass", "DIR/nopass: it has no password"),
        (
            "h:/",
            "broken",
            "DIR/broken: line 2: expected username=, password= or domain=",
        ),
        (
            "h:/",
            "unknown",
            "DIR/unknown: line 1: expected username=, password= or domain=",
        ),
        (
            "h:/",
            "group",
            "DIR/group: others may read it; chmod 600 it first",
        ),
        (
            "h:/",
            "world",
            "DIR/world: others may read it; chmod 600 it first",
        ),
        ("h:/", "", "DIR/: others may read it; chmod 600 it first"),
        (
            "h:/",
            "gone",
            "cannot read DIR/gone: No such file or directory (os error 2)",
        ),
    ];
    let directory = case.directory.path();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    for (source, file, expected) in table {
        let found = case.find(source, &format!("credentials=DIR/{file}"));
        assert_eq!(found, expected, "{source} {file}");
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(
        case.find("h:/", "credentials=DIR/"),
        "DIR/: no regular file, or larger than 64 KiB"
    );
}

#[test]
fn large_files_are_refused() {
    let text = "#".repeat(FILE_LIMIT as usize + 1);
    let case = Case::new(&[("large", 0o600, &text)]);
    let found = case.find("h:/", "credentials=DIR/large");
    assert_eq!(found, "DIR/large: no regular file, or larger than 64 KiB");
}

#[test]
fn the_credentials_directory_of_systemd() {
    let mut case = Case::new(&[
        ("ftpsfs.one", 0o440, "username=one\npassword=1\n"),
        ("ftpsfs", 0o440, "username=all\npassword=2\n"),
        (".netrc", 0o600, "default login netrc password 3\n"),
    ]);
    assert_eq!(case.find("one:/", ""), "netrc/3");
    case.places.systemd = Some(case.directory.path().to_path_buf());
    assert_eq!(case.find("one:/", ""), "one/1");
    assert_eq!(case.find("other:/", ""), "all/2");
}

#[test]
fn netrc_serves_where_it_is_private() {
    let text = "machine h login me password pw\nmachine a login anonymous password mail\n\
                machine n login me\ndefault password all\n";
    let private = Case::new(&[(".netrc", 0o600, text)]);
    assert_eq!(private.find("h:/", ""), "me/pw");
    assert_eq!(private.find("me@h:/", ""), "me/pw");
    assert_eq!(private.find("you@h:/", ""), "you/all");
    assert_eq!(private.find("other:/", ""), "anonymous/anonymous@");
    assert_eq!(
        private.find("me@n:/", ""),
        "no password for me@n: use credentials=FILE, ~/.netrc, or mount from a terminal"
    );
    let shared = Case::new(&[(".netrc", 0o644, text)]);
    assert_eq!(
        shared.find("h:/", ""),
        "DIR/.netrc: others may read it; chmod 600 it first"
    );
    assert_eq!(shared.find("a:/", ""), "anonymous/mail");
}

#[test]
fn nobody_told_is_anonymous() {
    let case = Case::new(&[]);
    assert_eq!(case.find("h:/", ""), "anonymous/anonymous@");
    assert_eq!(case.find("ftp@h:/", ""), "ftp/anonymous@");
    assert_eq!(
        case.find("me@h:/", ""),
        "no password for me@h: use credentials=FILE, ~/.netrc, or mount from a terminal"
    );
}

#[test]
fn lines_from_standard_input() {
    let lines = |text: &[u8]| {
        let found = from_lines(b"me".to_vec(), text).ok()?;
        let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
        Some((text(&found.password), found.account.as_ref().map(text)))
    };
    let password = |text: &str| Some((text.to_string(), None));
    assert_eq!(lines(b"p w\n"), password("p w"));
    assert_eq!(lines(b"p w\r\n"), password("p w"));
    assert_eq!(lines(b"pw"), password("pw"));
    assert_eq!(lines(b""), password(""));
    assert_eq!(
        lines(b"pw\naccount\n"),
        Some(("pw".to_string(), Some("account".to_string())))
    );
    assert_eq!(lines(b"p\0w\n"), None);
    let longest = [b'x'; PASSWORD_LIMIT];
    assert_eq!(
        lines(&longest),
        password(std::str::from_utf8(&longest).unwrap())
    );
    assert_eq!(lines(&[b'x'; PASSWORD_LIMIT + 1]), None);
    assert_eq!(lines(&[b'x'; 4 * PASSWORD_LIMIT]), None);
}

#[test]
fn accounts_come_along() {
    let case = Case::new(&[
        ("cred", 0o600, "username=me\npassword=pw\naccount=one\n"),
        (
            ".netrc",
            0o600,
            "machine h login me password pw account two",
        ),
    ]);
    let account = |options: &str| {
        let directory = case.directory.path().to_str().unwrap();
        let options = OsString::from(options.replace("DIR", directory));
        let options = Options::parse(&[options], false).unwrap();
        let found = find(&source::parse(b"h:/").unwrap(), &options, &case.places).unwrap();
        found.account.map(|account| account.expose().to_vec())
    };
    assert_eq!(account("credentials=DIR/cred"), Some(b"one".to_vec()));
    assert_eq!(account(""), Some(b"two".to_vec()));
}

#[test]
fn a_proxys_login_stands_in_the_credentials_file() {
    let login = |user: &str, password: &str| ProxyLogin {
        user: user.into(),
        password: Secret::new(password),
    };
    let path = Path::new("f");
    let found = |text: &str| {
        let text = format!("password=pw\n{text}");
        let content = parse_file(path, text.as_bytes()).unwrap();
        content.for_user(path, None).map(|found| found.proxy)
    };
    let both = "proxy_username=you\nproxy_password=p:w =\n";
    assert_eq!(found(both).unwrap(), Some(login("you", "p:w =")));
    assert_eq!(found("").unwrap(), None);
    let half = found("proxy_username=you\n").unwrap_err().to_string();
    assert_eq!(
        half,
        "f: a proxy's login is both proxy_username= and proxy_password="
    );
    // To the mounting process it goes by its standard input.
    let lines = from_lines(b"me".to_vec(), &b"pw\n\nyou\ntoo\n"[..]).unwrap();
    assert_eq!(lines.proxy, Some(login("you", "too")));
    assert_eq!(lines.account, None);
}
