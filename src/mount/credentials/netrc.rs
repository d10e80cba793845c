//! ~/.netrc, as ftp(1) and its heirs write it. Pure parsing; knows no files.

use zeroize::Zeroizing;

/// What one `machine` or `default` entry says.
#[derive(Default, PartialEq, Eq)]
pub struct Entry {
    pub login: Option<Vec<u8>>,
    pub password: Option<Zeroizing<Vec<u8>>>,
    pub account: Option<Zeroizing<Vec<u8>>>,
}

/// The first entry for the host and, where one is given, the user: a `machine` entry of that
/// name, or `default`. Unknown words and macros are passed over.
pub fn find(text: &[u8], host: &str, user: Option<&[u8]>) -> Option<Entry> {
    let mut words = Words { rest: text };
    let mut current: Option<Entry> = None;
    let fits = |entry: &Entry| match (user, &entry.login) {
        (Some(user), Some(login)) => user == login,
        _ => true,
    };
    loop {
        let word = words.next();
        let ends_entry = match word.as_deref().map(Vec::as_slice) {
            None | Some(b"machine" | b"default") => true,
            Some(_) => false,
        };
        if ends_entry && let Some(entry) = current.take().filter(fits) {
            return Some(entry);
        }
        match word?.as_slice() {
            b"machine" => {
                let name = words.next()?;
                current = name
                    .eq_ignore_ascii_case(host.as_bytes())
                    .then(Entry::default);
            }
            b"default" => current = Some(Entry::default()),
            b"login" => {
                let login = words.next()?.to_vec();
                if let Some(entry) = &mut current {
                    entry.login = Some(login);
                }
            }
            b"password" => {
                let password = words.next()?;
                if let Some(entry) = &mut current {
                    entry.password = Some(password);
                }
            }
            b"account" => {
                let account = words.next()?;
                if let Some(entry) = &mut current {
                    entry.account = Some(account);
                }
            }
            b"macdef" => words.skip_macro(),
            _ => {}
        }
    }
}

/// Words between blanks; one in double quotes may hold blanks, and in it a backslash takes the
/// meaning from what follows. `#` at the beginning of a word begins a comment, except where a
/// value is expected; ftp(1) knows no comments at all, so only a lone `#` counts.
struct Words<'a> {
    rest: &'a [u8],
}

impl Words<'_> {
    fn next(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        loop {
            self.rest = self.rest.trim_ascii_start();
            let (&first, after) = self.rest.split_first()?;
            match first {
                b'"' => {
                    self.rest = after;
                    return Some(self.take_quoted());
                }
                b'#' if after.first().is_none_or(u8::is_ascii_whitespace) => self.skip_line(),
                _ => return Some(self.take_plain()),
            }
        }
    }

    fn take_plain(&mut self) -> Zeroizing<Vec<u8>> {
        let end = self
            .rest
            .iter()
            .position(u8::is_ascii_whitespace)
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Zeroizing::new(word.to_vec())
    }

    /// Up to the closing quote, or the end of the file.
    fn take_quoted(&mut self) -> Zeroizing<Vec<u8>> {
        let mut word = Zeroizing::new(Vec::with_capacity(self.rest.len().min(256)));
        let mut bytes = self.rest.iter();
        while let Some(&byte) = bytes.next() {
            match byte {
                b'"' => break,
                b'\\' => word.extend(bytes.next()),
                _ => word.push(byte),
            }
        }
        self.rest = bytes.as_slice();
        word
    }

    fn skip_line(&mut self) {
        let end = self
            .rest
            .iter()
            .position(|b| *b == b'\n')
            .map_or(self.rest.len(), |at| at + 1);
        self.rest = &self.rest[end..];
    }

    /// A macro ends with an empty line.
    fn skip_macro(&mut self) {
        self.skip_line();
        while !self.rest.is_empty() && !self.rest.starts_with(b"\n") {
            self.skip_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = r#"
# a comment
machine first.example login anna password "pass word \"x\"\\"
machine second.example
    login bert
    account whatever
    password p#1
machine second.example login cilla password #2
macdef init
machine macro.example login no password no

machine FTP.Upper.Example password only
default login anonymous password me@here
machine late.example login l password l
"#;

    fn found(host: &str, user: Option<&str>) -> Option<String> {
        let entry = find(FILE.as_bytes(), host, user.map(str::as_bytes))?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Some(format!(
            "{}/{}",
            entry.login.map_or("-".to_string(), |login| text(&login)),
            entry
                .password
                .map_or("-".to_string(), |password| text(&password)),
        ))
    }

    #[test]
    fn entries_are_found_by_machine_and_login() {
        let table = [
            ("first.example", None, r#"anna/pass word "x"\"#),
            ("second.example", None, "bert/p#1"),
            ("second.example", Some("cilla"), "cilla/#2"),
            ("ftp.upper.example", Some("anybody"), "-/only"),
            ("macro.example", None, "anonymous/me@here"),
            ("late.example", None, "anonymous/me@here"),
            ("late.example", Some("l"), "l/l"),
        ];
        for (host, user, expected) in table {
            assert_eq!(
                found(host, user).as_deref(),
                Some(expected),
                "{host} {user:?}"
            );
        }
        assert_eq!(found("first.example", Some("nobody")), None);
    }

    #[test]
    fn broken_files_are_read_as_far_as_they_go() {
        assert!(find(b"", "h", None).is_none());
        assert!(find(b"machine", "h", None).is_none());
        assert!(find(b"machine h login", "h", None).is_none());
        assert!(find(b"machine h login \"open", "h", None).is_some());
        assert!(find(b"macdef x", "h", None).is_none());
    }

    proptest! {
        #[test]
        fn a_quoted_password_comes_back(password in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut text = b"machine h login u password \"".to_vec();
            for &byte in &password {
                if matches!(byte, b'"' | b'\\') {
                    text.push(b'\\');
                }
                text.push(byte);
            }
            text.extend(b"\" machine other");
            let entry = find(&text, "h", None).unwrap();
            prop_assert_eq!(entry.password.unwrap().to_vec(), password);
        }

        #[test]
        fn nothing_makes_it_panic(text in prop::collection::vec(prop::sample::select(
            b"machine default login password account macdef h u \n\n\"\\#".to_vec()), 0..80)) {
            let _ = find(&text, "h", Some(b"u"));
        }
    }
}
