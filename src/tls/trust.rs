//! Whom to trust: roots, pinned fingerprints, host names, client certificates.

use std::path::PathBuf;

/// SHA-256 of a certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint(pub [u8; 32]);

/// What the user said about trust; see the options of the same names.
#[derive(Clone, Debug, Default)]
pub struct TrustOptions {
    /// `cafile=`: PEM roots used instead of the system's.
    pub cafile: Option<PathBuf>,
    /// `fingerprint=sha256:HEX[:HEX]`: exact pins of the leaf; any of them will do.
    pub fingerprints: Vec<Fingerprint>,
    /// `tls_name=`: the name to verify instead of the host's.
    pub name: Option<String>,
    /// `cert=`, `key=`: the client certificate chain and key, PEM.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// `tls=1.2` or `tls=1.3`: that version only.
    pub only_tls12: bool,
    pub only_tls13: bool,
}

/// The trust decision, ready for use by every connection of a mount.
#[derive(Debug)]
pub struct Trust {}

/// What is known of a refused server certificate.
#[derive(Clone, Debug)]
pub struct ServerIdentity {}

impl Fingerprint {
    /// `sha256:` and 64 hexadecimal digits, colons between bytes allowed.
    pub fn parse(_text: &str) -> Option<Self> {
        todo!()
    }
}
