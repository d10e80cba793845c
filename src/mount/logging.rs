//! Where log lines go: standard error in the foreground, the system log in the background. Knows
//! nothing of what is logged; who logs keeps secrets out.
//!
//! Never waits: a system log that does not take a line loses it.

use std::io::Write;
use std::os::unix::net::UnixDatagram;

use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

/// Logs to standard error.
pub fn to_stderr(level: LevelFilter) {
    install(Box::new(Stderr), level);
}

/// Logs to the system log, as facility "daemon". Without one, lines vanish.
pub fn to_syslog(level: LevelFilter) {
    let socket = Mutex::new(connect());
    install(Box::new(Syslog { socket }), level);
}

fn install(logger: Box<dyn Log>, level: LevelFilter) {
    // Only a second logger is refused: then the first one stays.
    if log::set_boxed_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}

/// Whether the line is ours, or of a dependency that has a warning. Their debugging is not our
/// user's: TLS would write a dozen lines for each data connection.
fn concerns(metadata: &Metadata) -> bool {
    metadata.target().starts_with("ftpsfs") || metadata.level() <= Level::Warn
}

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata) -> bool {
        concerns(metadata)
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_ascii_lowercase();
            let line = format!("ftpsfs: {level}: {}\n", one_line(record));
            // Nobody can be told that standard error is gone.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Speaks RFC 3164 to /dev/log. The socket is made anew when the system log restarts.
struct Syslog {
    socket: Mutex<Option<UnixDatagram>>,
}

impl Log for Syslog {
    fn enabled(&self, metadata: &Metadata) -> bool {
        concerns(metadata)
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = syslog_line(record.level(), std::process::id(), &one_line(record));
        let mut socket = self.socket.lock();
        let send = |socket: &UnixDatagram| socket.send(line.as_bytes());
        match socket.as_ref().map(send) {
            Some(Ok(_)) => {}
            Some(Err(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => {
                *socket = connect();
                let _ = socket.as_ref().map(send);
            }
        }
    }

    fn flush(&self) {}
}

/// Longest line that a system log takes with certainty (RFC 3164 4.1: 1024 bytes).
const LINE_LIMIT: usize = 1024;

fn syslog_line(level: Level, pid: u32, message: &str) -> String {
    const DAEMON: u8 = 3 << 3;
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let mut line = format!("<{}>ftpsfs[{pid}]: {message}", DAEMON | severity);
    line.truncate(line.floor_char_boundary(LINE_LIMIT));
    line
}

/// A message in one line, whatever a server put into it.
fn one_line(record: &Record) -> String {
    let message = record.args().to_string();
    message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect("/dev/log").ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_and_length() {
        assert_eq!(syslog_line(Level::Error, 7, "x"), "<27>ftpsfs[7]: x");
        assert_eq!(syslog_line(Level::Warn, 7, "x"), "<28>ftpsfs[7]: x");
        assert_eq!(syslog_line(Level::Info, 7, "x"), "<30>ftpsfs[7]: x");
        assert_eq!(syslog_line(Level::Trace, 7, "x"), "<31>ftpsfs[7]: x");
        let long = syslog_line(Level::Info, 7, &"é".repeat(2000));
        assert!(long.len() <= LINE_LIMIT && long.len() > LINE_LIMIT - 4);
    }

    #[test]
    fn a_message_stays_one_line() {
        let message = format_args!("550 no\r\nMay  1 root: lie\u{1b}[31m").to_string();
        let arguments = format_args!("{message}");
        let record = Record::builder().args(arguments).build();
        assert_eq!(one_line(&record), "550 no  May  1 root: lie [31m");
    }

    #[test]
    fn dependencies_only_warn() {
        let concerns =
            |target, level| concerns(&Metadata::builder().target(target).level(level).build());
        assert!(concerns("ftpsfs::client", Level::Trace));
        assert!(concerns("rustls", Level::Warn));
        assert!(!concerns("rustls::client", Level::Debug));
    }
}
