//! FEAT (RFC 2389 section 3).

use super::Reply;

/// What FEAT listed. Lines are kept as sent; matching ignores case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    lines: Vec<Vec<u8>>,
}

impl Features {
    /// From a 211 reply; tolerates lines prefixed by `211-` or without the leading space.
    /// Any other code gives the empty set.
    pub fn parse(_reply: &Reply) -> Self {
        todo!()
    }
    /// The arguments of a feature label, `None` where it is not listed:
    /// `feature("REST")` is `Some(b"STREAM")`.
    pub fn feature(&self, _label: &str) -> Option<&[u8]> {
        todo!()
    }
    /// Whether the label is listed.
    pub fn has(&self, label: &str) -> bool {
        self.feature(label).is_some()
    }
    /// MLST's facts in the server's order and spelling, with whether each is on (`*`).
    pub fn mlst_facts(&self) -> Vec<(String, bool)> {
        todo!()
    }
    /// Server side: the lines in order, after `211-Extended features supported:` and before
    /// `211 END`.
    pub fn reply<S: AsRef<str>>(_lines: &[S]) -> Reply {
        todo!()
    }
}
