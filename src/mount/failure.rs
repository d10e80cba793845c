//! Why a command fails, as one line and as the exit code that mount(8) documents.

use std::process::ExitCode;

/// A failure, with the line that goes to standard error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// 1: wrong arguments, options or permissions.
    #[error("{0}")]
    Usage(String),
    /// 2: this machine lacks something: /dev/fuse, fusermount3, memory, processes.
    #[error("{0}")]
    System(String),
    /// 32: the mount itself failed: server, login, certificate, mount point.
    #[error("{0}")]
    Mount(String),
}

impl Failure {
    pub fn code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 1,
            Failure::System(_) => 2,
            Failure::Mount(_) => 32,
        }
    }

    /// The failure that another process reported by its exit code and line.
    pub fn of_code(code: u8, line: String) -> Self {
        match code {
            1 => Failure::Usage(line),
            2 => Failure::System(line),
            _ => Failure::Mount(line),
        }
    }
}

impl From<&Failure> for ExitCode {
    fn from(failure: &Failure) -> Self {
        ExitCode::from(failure.code())
    }
}

/// Bytes that stand for a name, as they may stand in a line: control characters escaped, so that
/// it stays one line.
pub fn shown(bytes: &[u8]) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    String::from_utf8_lossy(bytes).chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_go_there_and_back() {
        for code in [1, 2, 32] {
            let failure = Failure::of_code(code, "why".to_string());
            assert_eq!(failure.code(), code);
            assert_eq!(failure.to_string(), "why");
        }
    }

    #[test]
    fn names_stay_in_one_line() {
        assert_eq!(shown("CORP\\grün@h:/a".as_bytes()), "CORP\\grün@h:/a");
        assert_eq!(shown(b"a\nb\x1b\xff"), "a\\nb\\u{1b}\u{fffd}");
    }
}
