//! [`KnownHosts`]: certificates that are trusted because they were there at first, as ssh does it.
//! A file of lines `NAME sha256:HEX`; others may write to it at the same time. Knows no TLS.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Fingerprint;

/// No list of hosts is longer.
const LIMIT: u64 = 4 << 20;
/// What a new file begins with.
const HEADER: &str =
    "# Certificates that ftpsfs trusts since it first saw them (the option tofu).\n";

/// The line of one server in such a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownHosts {
    file: PathBuf,
    name: String,
}

impl KnownHosts {
    /// The line of `host` and `port` in `file`, which need not exist.
    pub fn new(file: PathBuf, host: &str, port: u16) -> Self {
        let host: String = host.chars().filter(|c| !c.is_whitespace()).collect();
        let name = format!("[{}]:{port}", host.to_ascii_lowercase());
        Self { file, name }
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// How the server is named in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The certificate that was there at first. A file that cannot be understood is an error: to
    /// trust anew would be to trust anybody.
    pub fn find(&self) -> io::Result<Option<Fingerprint>> {
        match File::open(&self.file) {
            Ok(file) => self.find_in(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn find_in(&self, file: &File) -> io::Result<Option<Fingerprint>> {
        let mut text = String::new();
        if file.take(LIMIT + 1).read_to_string(&mut text)? as u64 > LIMIT {
            return Err(io::Error::other("the file is too long"));
        }
        for line in text.lines().map(str::trim) {
            let Some(rest) = line.strip_prefix(&self.name) else {
                continue;
            };
            if !rest.starts_with(char::is_whitespace) {
                continue;
            }
            let print = Fingerprint::parse(rest.trim());
            let broken = || io::Error::other(format!("the line of {} makes no sense", self.name));
            return print.map(Some).ok_or_else(broken);
        }
        Ok(None)
    }

    /// Remembers a certificate, unless one is known by now; which of them that is.
    pub fn remember(&self, print: Fingerprint) -> io::Result<Fingerprint> {
        if let Some(folder) = self.file.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        let mut open = File::options();
        open.read(true).append(true).create(true).mode(0o600);
        let mut file = open.open(&self.file)?;
        // Until it is closed: another mount may be at the same place.
        file.lock()?;
        if let Some(known) = self.find_in(&file)? {
            return Ok(known);
        }
        let header = if file.metadata()?.len() == 0 {
            HEADER
        } else {
            ""
        };
        let line = format!("{header}{} {print}\n", self.name);
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        Ok(print)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state/known_hosts");
        let [first, other] = [Fingerprint([1; 32]), Fingerprint([2; 32])];
        let known = KnownHosts::new(file.clone(), "Ftp.Example.org", 990);
        assert_eq!(known.find().unwrap(), None);
        assert_eq!(known.remember(first).unwrap(), first);
        assert_eq!(known.remember(other).unwrap(), first);
        assert_eq!(known.find().unwrap(), Some(first));
        let same = KnownHosts::new(file.clone(), "ftp.example.org", 990);
        assert_eq!(same.find().unwrap(), Some(first));
        for another in [
            ("ftp.example.org", 99),
            ("ftp.example.org", 9900),
            ("ftp", 990),
        ] {
            let another = KnownHosts::new(file.clone(), another.0, another.1);
            assert_eq!(another.find().unwrap(), None);
            assert_eq!(another.remember(other).unwrap(), other);
        }
        assert_eq!(known.find().unwrap(), Some(first));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("# "), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn a_broken_line_is_not_first_use() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_hosts");
        let known = KnownHosts::new(file.clone(), "h", 21);
        for broken in ["[h]:21 nonsense\n", "[h]:21 sha256:12\n", "[h]:21 \n"] {
            fs::write(&file, broken).unwrap();
            match broken.trim().len() > 6 {
                true => assert!(known.find().is_err(), "{broken}"),
                false => assert_eq!(known.find().unwrap(), None),
            }
        }
        fs::write(&file, vec![b'\n'; LIMIT as usize + 1]).unwrap();
        assert!(known.find().is_err());
    }
}
