//! Time values of RFC 3659 section 2.3: `YYYYMMDDHHMMSS[.fraction]`, UTC.

use std::time::SystemTime;

/// Parses a time-val. Years 1601..=9999; the Y2K slip `19100...` is read as 2000. `None` when malformed.
pub fn parse_time(_bytes: &[u8]) -> Option<SystemTime> {
    todo!()
}

/// Formats a time-val in whole seconds (rounded down).
pub fn format_time(_time: SystemTime) -> String {
    todo!()
}
