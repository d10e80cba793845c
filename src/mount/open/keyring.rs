//! Passwords in the desktop's keyring, by means of secret-tool(1). The attributes are those that
//! other programs use for passwords of servers. Knows nobody to ask.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use crate::mount::failure::shown;
use crate::mount::mountpoint;
use crate::proto::{Secret, Security};

use super::desk;

/// One password of the keyring, there or not.
pub struct Keyring {
    label: String,
    attributes: Vec<OsString>,
}

/// How URLs name that kind of TLS.
pub fn scheme(security: Security) -> &'static str {
    match security {
        Security::Implicit => "ftps",
        Security::Explicit => "ftpes",
    }
}

impl Keyring {
    pub fn of(host: &str, port: u16, security: Security, user: &[u8]) -> Self {
        let port = port.to_string();
        let scheme = scheme(security);
        let pairs = [
            ("protocol", OsStr::new(scheme)),
            ("server", OsStr::new(host)),
            ("port", OsStr::new(&port)),
            ("user", OsStr::from_bytes(user)),
        ];
        let pairs = pairs.into_iter();
        Self {
            label: format!("{scheme}://{}@{host}", shown(user)),
            attributes: pairs
                .flat_map(|(name, value)| [OsString::from(name), value.to_owned()])
                .collect(),
        }
    }

    /// Whether this machine has a way to the keyring.
    pub fn is_there(&self) -> bool {
        mountpoint::find_program("secret-tool").is_some()
    }

    /// The password, if there is one. The desktop may ask the user to unlock the keyring.
    pub fn find(&self) -> Option<Secret> {
        let mut command = Command::new("secret-tool");
        command.arg("lookup").args(&self.attributes);
        let answer = desk::answer_of(&mut command).ok()?;
        answer.filter(|password| !password.expose().is_empty())
    }

    /// Keeps the password, or says in one line why not.
    pub fn store(&self, password: &Secret) -> Result<(), String> {
        let failed = |why: String| format!("the password is not in the keyring: {why}");
        let mut command = Command::new("secret-tool");
        command.args(["store", "--label", &self.label]);
        command.args(&self.attributes).stdin(Stdio::piped());
        let spawned = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| failed(error.to_string()))?;
        let written = child
            .stdin
            .take()
            .map(|mut input| input.write_all(password.expose()));
        let ended = child.wait_with_output();
        match (written, ended) {
            (Some(Ok(())), Ok(output)) if output.status.success() => Ok(()),
            (_, Ok(output)) => Err(failed(mountpoint::first_line(&output.stderr))),
            (_, Err(error)) => Err(failed(error.to_string())),
        }
    }
}
