//! Starts and stops TLS on a TCP stream, losing no byte. Knows nothing of FTP.

mod stream;
mod trust;

pub use stream::Stream;
pub use trust::{Fingerprint, ServerIdentity, Trust, TrustOptions};
