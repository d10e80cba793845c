//! Names of files on the server: [`RemotePath`] is the only way to name one, [`Name`] one
//! component of it. Both are bytes, not text.

use std::fmt;
use std::sync::Arc;

/// An absolute, normalized path on the server: it starts with `/`, has no empty, `.` or `..`
/// component, no trailing `/` but for the root, and no NUL, CR or LF. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RemotePath(Arc<[u8]>);

/// One path component: not empty, not `.` or `..`, free of `/`, NUL, CR and LF. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

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

    /// The same for all spellings that differ in case only, as Windows compares names: letter by letter.
    pub fn folded(&self) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(&self.0) else {
            return self.0.to_ascii_uppercase();
        };
        let fold = |letter: char| {
            let mut upper = letter.to_uppercase();
            match (upper.next(), upper.next()) {
                (Some(upper), None) => upper,
                _ => letter,
            }
        };
        text.chars().map(fold).collect::<String>().into_bytes()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> RemotePath {
        RemotePath::parse(text.as_bytes()).expect("a path")
    }

    #[test]
    fn paths_are_normalized_or_refused() {
        for (text, expected) in [
            ("/", Ok("/")),
            ("//", Ok("/")),
            ("/./.", Ok("/")),
            ("/a", Ok("/a")),
            ("//a/./b//", Ok("/a/b")),
            ("/ a /...", Ok("/ a /...")),
            ("", Err(PathError::NotAbsolute)),
            ("a", Err(PathError::NotAbsolute)),
            ("/a/..", Err(PathError::NotAComponent)),
            ("/..", Err(PathError::NotAComponent)),
            ("/a\0", Err(PathError::Unrepresentable)),
            ("/a\n", Err(PathError::Unrepresentable)),
            ("/a\r/b", Err(PathError::Unrepresentable)),
        ] {
            let parsed = RemotePath::parse(text.as_bytes());
            assert_eq!(parsed, expected.map(path), "{text:?}");
            let bytes = parsed.map(|parsed| parsed.as_bytes().to_vec());
            assert_eq!(bytes, expected.map(|expected| expected.as_bytes().to_vec()));
        }
    }

    #[test]
    fn names_are_single_components() {
        for good in ["a", " ", "...", "-", "a b", "\u{e4}"] {
            assert_eq!(
                Name::parse(good.as_bytes()).map(|n| n.as_bytes().to_vec()),
                Ok(good.into())
            );
        }
        for bad in ["", ".", "..", "/", "a/b", "a/"] {
            assert_eq!(
                Name::parse(bad.as_bytes()),
                Err(PathError::NotAComponent),
                "{bad}"
            );
        }
        for bad in ["a\0", "\n", "a\r"] {
            assert_eq!(Name::parse(bad.as_bytes()), Err(PathError::Unrepresentable));
        }
    }

    #[test]
    fn ancestors_by_component() {
        for (below, above, expected) in [
            ("/", "/", true),
            ("/a", "/", true),
            ("/a", "/a", true),
            ("/a/b", "/a", true),
            ("/ab", "/a", false),
            ("/a", "/a/b", false),
            ("/", "/a", false),
        ] {
            assert_eq!(
                path(below).starts_with(&path(above)),
                expected,
                "{below} {above}"
            );
        }
    }

    proptest! {
        #[test]
        fn parents_and_names_make_paths(bytes: Vec<u8>, text in "(/[a.b]{0,3}){1,5}") {
            for bytes in [[b"/", &bytes[..]].concat(), text.into_bytes()] {
                let Ok(path) = RemotePath::parse(&bytes) else { continue };
                prop_assert_eq!(RemotePath::parse(path.as_bytes()), Ok(path.clone()));
                match (path.parent(), path.name()) {
                    (Some(parent), Some(name)) => {
                        prop_assert!(path.starts_with(&parent) && !parent.starts_with(&path));
                        prop_assert_eq!(parent.join(&name), path);
                    }
                    (parent, name) => {
                        prop_assert!(path.is_root() && parent.is_none() && name.is_none());
                    }
                }
            }
        }
    }
}
