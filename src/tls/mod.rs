//! Starts and stops TLS on a TCP stream, losing no byte. Knows nothing of FTP.

mod stream;
mod trust;

pub use stream::{Handshake, Stream, Tap};
pub(crate) use stream::{in_time, wait, wait_any};
pub(crate) use trust::provider;
pub use trust::{
    CertificateFacts, Fingerprint, RefusedCertificate, SessionTls, Trust, TrustError, TrustOptions,
};
