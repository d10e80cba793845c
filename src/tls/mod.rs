//! Starts and stops TLS on a TCP stream, losing no byte. Knows nothing of FTP.

mod certificate;
mod known_hosts;
mod stream;
mod trust;

pub use certificate::{CertificateFacts, Fingerprint, RefusedCertificate};
pub use known_hosts::KnownHosts;
pub use stream::{Handshake, Stream, Tap};
pub(crate) use stream::{in_time, wait, wait_any};
pub(crate) use trust::provider;
pub use trust::{SessionTls, Trust, TrustError, TrustOptions};
