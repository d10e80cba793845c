//! Names of files on the server: [`RemotePath`] is the only way to name one, [`Name`] one
//! component of it. Both are bytes, not text.

use std::fmt;
use std::sync::Arc;

/// An absolute, normalized path on the server: it starts with `/`, has no empty, `.` or `..`
/// component, no trailing `/` but for the root, and no NUL, CR or LF. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RemotePath(Arc<[u8]>);

/// One path component: not empty, not `.` or `..`, free of `/`, NUL, CR and LF.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

/// Why bytes are no [`RemotePath`] or [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path is not absolute")]
    NotAbsolute,
    #[error("FTP cannot carry a name with NUL, CR or LF")]
    Unrepresentable,
    #[error("not a single path component")]
    NotAComponent,
}

impl RemotePath {
    /// `/`.
    pub fn root() -> Self {
        Self(Arc::from(&b"/"[..]))
    }

    /// Parses an absolute path. Empty and `.` components vanish, `..` is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.first() != Some(&b'/') {
            return Err(PathError::NotAbsolute);
        }
        let mut path = Vec::with_capacity(bytes.len());
        for component in bytes.split(|&b| b == b'/') {
            if component.is_empty() || component == b"." {
                continue;
            }
            let name = Name::parse(component)?;
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
        }
        if path.is_empty() {
            return Ok(Self::root());
        }
        Ok(Self(path.into()))
    }

    /// This directory's child of that name.
    pub fn join(&self, name: &Name) -> Self {
        let base = if self.is_root() { &b""[..] } else { &self.0 };
        let mut path = Vec::with_capacity(base.len() + 1 + name.0.len());
        path.extend_from_slice(base);
        path.push(b'/');
        path.extend_from_slice(&name.0);
        Self(path.into())
    }

    /// The directory that holds it; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.last_slash() {
            0 => Some(Self::root()),
            slash => Some(Self(Arc::from(&self.0[..slash]))),
        }
    }

    /// The last component; `None` for the root.
    pub fn name(&self) -> Option<Name> {
        if self.is_root() {
            return None;
        }
        Some(Name(self.0[self.last_slash() + 1..].into()))
    }

    pub fn is_root(&self) -> bool {
        &*self.0 == b"/"
    }

    /// Whether this path is `ancestor` or lies below it.
    pub fn starts_with(&self, ancestor: &RemotePath) -> bool {
        ancestor.is_root()
            || (self.0.starts_with(&ancestor.0)
                && matches!(self.0.get(ancestor.0.len()), None | Some(b'/')))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn last_slash(&self) -> usize {
        self.0.iter().rposition(|&b| b == b'/').unwrap_or(0)
    }
}

impl Name {
    /// Takes bytes as one component.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')) {
            return Err(PathError::Unrepresentable);
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(PathError::NotAComponent);
        }
        Ok(Self(bytes.into()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}
