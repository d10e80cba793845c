//! Directory listings: MLSx lines (RFC 3659 7.2) and LIST's dialects (Unix `ls -l`, DOS/IIS,
//! EPLF).

use std::time::SystemTime;

use super::Entry;

/// Why a line is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// A line that listings carry beside entries: `total 12`, an empty line.
    #[error("not an entry")]
    NotAnEntry,
    #[error("a listing line in no known dialect")]
    Unknown,
}

/// Splits a listing at CRLF only (a name may hold a lone LF or CR); where the listing has no
/// CRLF at all, at LF. No trailing empty line.
pub fn split_lines(_listing: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::empty()
}

/// `fact=value;fact=value; name`. A leading space (MLST) is tolerated.
pub fn parse_mlsx_line(_line: &[u8]) -> Result<Entry, ListError> {
    todo!()
}

/// A LIST or STAT line in any dialect. `now` completes dates without a year: the date is the
/// latest that is not more than a day after `now`.
pub fn parse_list_line(_line: &[u8], _now: SystemTime) -> Result<Entry, ListError> {
    todo!()
}
