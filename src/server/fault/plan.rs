//! What the rules want of the command in hand, as the session asks for it. Knows no sockets.

use std::time::Duration;

use super::What;
use crate::proto::Reply;

/// Empty without rules. What concerns replies is used up by the last reply of the command.
#[derive(Clone, Default, Debug)]
pub(in crate::server) struct Plan(Vec<What>);

/// How a reply leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Manner {
    AtOnce,
    /// With the next one.
    Held,
    /// Byte by byte, that long apart.
    Pieces(Duration),
}

impl Plan {
    pub(super) fn new(hit: Vec<What>) -> Self {
        Self(hit)
    }

    pub(in crate::server) fn has(&self, what: &What) -> bool {
        self.0.contains(what)
    }

    /// The first for which `choose` has something.
    pub(in crate::server) fn find<T>(&self, choose: impl Fn(&What) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(choose)
    }

    pub(in crate::server) fn all(&self) -> &[What] {
        &self.0
    }

    /// What the client gets for a reply: its bytes, and how.
    pub(in crate::server) fn reply(&mut self, reply: &Reply) -> (Vec<u8>, Manner) {
        let manner = self.find(|what| match what {
            What::Join => Some(Manner::Held),
            What::Split => Some(Manner::Pieces(Duration::ZERO)),
            What::Drip(pace) => Some(Manner::Pieces(*pace)),
            _ => None,
        });
        let mut bytes = Vec::new();
        let mut after = Vec::new();
        let mut own = Some(reply.encode());
        let last = !reply.code.is_preliminary();
        self.0.retain(|what| match what {
            What::Before(text) => {
                bytes.extend(line(text));
                false
            }
            What::After(text) if last => {
                after.extend(line(text));
                false
            }
            What::Lie(text) if last => {
                own = Some(line(text));
                false
            }
            What::Mute if last => {
                own = None;
                false
            }
            What::Join | What::Split | What::Drip(_) => !last,
            _ => true,
        });
        bytes.extend(own.into_iter().flatten());
        bytes.extend(after);
        (bytes, manner.unwrap_or(Manner::AtOnce))
    }
}

/// A rule's text as it is sent.
pub(in crate::server) fn line(text: &[u8]) -> Vec<u8> {
    [text, b"\r\n"].concat()
}
