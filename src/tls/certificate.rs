//! What a certificate says of itself, and how it is told to users. Knows nobody to trust.

use std::fmt;
use std::net::Ipv6Addr;

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, OtherError};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// SHA-256 of a certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// A server certificate that was refused, with what a user needs to decide about it.
#[derive(Clone, Debug)]
pub struct RefusedCertificate {
    pub reason: String,
    /// What to do where it is the right one all the same.
    pub cure: String,
    pub certificate: CertificateFacts,
}

/// What a certificate says of itself.
#[derive(Clone, Debug)]
pub struct CertificateFacts {
    /// The subject, and the names that it is for.
    pub subject: String,
    pub issuer: String,
    pub self_signed: bool,
    pub not_before: String,
    pub not_after: String,
    /// Seconds since 1970.
    pub expires: i64,
    pub fingerprint: Fingerprint,
}

impl Fingerprint {
    /// Of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// 64 hexadecimal digits, with or without colons between the bytes; `sha256:` may precede.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text
            .strip_prefix("sha256:")
            .unwrap_or(text)
            .replace(':', "");
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// `sha256:` and 64 lower-case digits: the form that `fingerprint=` takes.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl CertificateFacts {
    /// Of a certificate in DER, readable or not.
    pub fn of(leaf: &[u8]) -> Self {
        let fingerprint = Fingerprint::of(leaf);
        let unknown = || "(unreadable)".to_owned();
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
            return Self {
                subject: unknown(),
                issuer: unknown(),
                self_signed: false,
                not_before: unknown(),
                not_after: unknown(),
                expires: i64::MAX,
                fingerprint,
            };
        };
        let mut subject = certificate.subject().to_string();
        let names = subject_names(&certificate);
        if !names.is_empty() {
            subject = format!("{subject} ({})", names.join(", "));
        }
        Self {
            subject: printable(&subject),
            issuer: printable(&certificate.issuer().to_string()),
            self_signed: certificate.subject() == certificate.issuer(),
            not_before: printable(&certificate.validity().not_before.to_string()),
            not_after: printable(&certificate.validity().not_after.to_string()),
            expires: certificate.validity().not_after.timestamp(),
            fingerprint,
        }
    }
}

impl RefusedCertificate {
    pub(super) fn of(leaf: &CertificateDer<'_>, reason: String, cure: String) -> Self {
        let certificate = CertificateFacts::of(leaf);
        let reason = match certificate.self_signed {
            true => format!("{reason} (it is self-signed)"),
            false => reason,
        };
        Self {
            reason,
            cure,
            certificate,
        }
    }

    /// The refusal inside a TLS error, where it is one.
    pub fn from_error(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(e))) => {
                e.downcast_ref()
            }
            _ => None,
        }
    }
}

impl fmt::Display for RefusedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificate = &self.certificate;
        write!(
            f,
            "the server's certificate is refused: {}; subject {}, issuer {}, valid {} to {}, {}; \
             if it is the right one, {}",
            self.reason,
            certificate.subject,
            certificate.issuer,
            certificate.not_before,
            certificate.not_after,
            certificate.fingerprint,
            self.cure
        )
    }
}

impl std::error::Error for RefusedCertificate {}

fn subject_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let shown = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress([a, b, c, d]) => Some(format!("{a}.{b}.{c}.{d}")),
            GeneralName::IPAddress(bytes) => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|octets| Ipv6Addr::from(octets).to_string()),
            _ => None,
        });
    shown.take(8).collect()
}

/// What comes from a certificate is a stranger's text: one bounded line of it.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
