//! Mount options: any text is options or a one-line error, and neither shows a password. What the
//! daemon is given instead of a password means the same, and carries none.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use ftpsfs::mount::options::{Options, without_password};

const PASSWORD: &str = "open-sesame-48151623";

pub fn check(data: &[u8]) {
    let text = OsString::from_vec(data.to_vec());
    let with = OsString::from_vec([b"password=", PASSWORD.as_bytes(), b",", data].concat());
    for (text, sloppy) in [(&text, false), (&text, true), (&with, true)] {
        let options = match Options::parse(std::slice::from_ref(text), sloppy) {
            Ok(options) => options,
            Err(error) => {
                let line = error.to_string();
                assert!(!line.contains(char::is_control), "{line}");
                assert!(!line.contains(PASSWORD), "{line}");
                continue;
            }
        };
        assert!(!format!("{options:?}").contains(PASSWORD));
        let passed = without_password(std::slice::from_ref(text), None).expect("it was parsed");
        let found = passed.as_bytes().windows(PASSWORD.len());
        assert!(!found.into_iter().any(|part| part == PASSWORD.as_bytes()));
        let again = Options::parse(&[passed], sloppy).expect("our own options");
        let expected = Options {
            password: None,
            password_stdin: true,
            ..options
        };
        assert_eq!(format!("{again:?}"), format!("{expected:?}"));
    }
}
