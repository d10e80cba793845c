//! Whom to trust: roots, pinned fingerprints, host names, client certificates; and the TLS
//! sessions that one control connection and its data connections share.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, NamedGroup,
    OtherError, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};

use super::{Fingerprint, KnownHosts, RefusedCertificate};

/// What the user said about trust; see the options of the same names.
#[derive(Clone, Debug, Default)]
pub struct TrustOptions {
    /// `cafile=`: PEM roots used instead of the system's.
    pub cafile: Option<PathBuf>,
    /// `fingerprint=sha256:HEX[:HEX]`: exact pins of the leaf; any of them will do.
    pub fingerprints: Vec<Fingerprint>,
    /// `tofu`: the certificate that was there at first is the right one.
    pub known_hosts: Option<KnownHosts>,
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
pub struct Trust {
    provider: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
    client_auth: Option<ClientAuth>,
    name: ServerName<'static>,
    versions: &'static [&'static SupportedProtocolVersion],
    /// The key exchange group the server chose; saves a HelloRetryRequest on each fresh
    /// connection to vsftpd and Pure-FTPd.
    group: Arc<Mutex<Option<NamedGroup>>>,
}

static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
static TLS13_OR_TLS12: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The TLS side of one control connection: its data connections resume its sessions, and no
/// other's (vsftpd and ProFTPD refuse those of another).
pub struct SessionTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    store: Arc<SessionStore>,
    verifier: Arc<Verifier>,
}

/// Why the user's TLS options cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TrustError {
    #[error("{option}={path}: {why}")]
    File {
        option: &'static str,
        path: String,
        why: String,
    },
    #[error(
        "no trusted root certificates on this system ({0}); name some with cafile=, or pin the server's with fingerprint="
    )]
    NoRoots(String),
    #[error("'{0}' is neither a host name nor an address")]
    Name(String),
    #[error("cert= and key= go together")]
    HalfAClientCertificate,
    #[error("{file}: {why}")]
    KnownHosts { file: String, why: String },
    #[error("{0}")]
    Tls(String),
}

impl Trust {
    /// Loads roots, pins and the client certificate. `host` is what the user mounts.
    pub fn new(options: &TrustOptions, host: &str) -> Result<Self, TrustError> {
        let provider = Arc::new(provider());
        let name = server_name(options.name.as_deref().unwrap_or(host))?;
        let whom = match &options.known_hosts {
            _ if !options.fingerprints.is_empty() => Whom::Pinned(options.fingerprints.clone()),
            Some(hosts) => Whom::FirstSeen {
                known: Mutex::new(hosts.find().map_err(|e| hosts_error(hosts, &e))?),
                hosts: hosts.clone(),
            },
            None => Whom::Issued(load_roots(options.cafile.as_deref())?),
        };
        let client_auth = match (&options.cert, &options.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(ClientAuth::load(cert, key)?),
            // One file may hold both.
            (Some(both), None) => Some(ClientAuth::load(both, both)?),
            (None, Some(_)) => return Err(TrustError::HalfAClientCertificate),
        };
        let versions = match (options.only_tls12, options.only_tls13) {
            (true, false) => TLS12,
            (false, true) => TLS13,
            _ => TLS13_OR_TLS12,
        };
        Ok(Self {
            verifier: Arc::new(Verifier {
                provider: provider.clone(),
                whom,
            }),
            provider,
            client_auth,
            name,
            versions,
            group: Arc::default(),
        })
    }

    /// For a new control connection. `prefer_tls12` for servers that give no TLS 1.3 tickets on
    /// uploads but demand resumption (ProFTPD), unless the user insists on 1.3.
    pub fn session(&self, prefer_tls12: bool) -> Result<SessionTls, TrustError> {
        let narrowed = prefer_tls12 && self.versions.len() > 1;
        let versions = if narrowed { TLS12 } else { self.versions };
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(versions)
            .map_err(|e| TrustError::Tls(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier.clone());
        let mut config = match &self.client_auth {
            None => builder.with_no_client_auth(),
            Some(auth) => builder
                .with_client_auth_cert(auth.chain.clone(), auth.key.clone_key())
                .map_err(|e| TrustError::Tls(e.to_string()))?,
        };
        let store = Arc::new(SessionStore {
            group: self.group.clone(),
            sessions: Mutex::default(),
        });
        config.resumption = Resumption::store(store.clone());
        Ok(SessionTls {
            config: Arc::new(config),
            name: self.name.clone(),
            store,
            verifier: self.verifier.clone(),
        })
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl SessionTls {
    /// A new connection's client side. It takes a TLS 1.3 ticket out of the store: call it late.
    pub fn connection(&self) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(self.config.clone(), self.name.clone())
    }

    /// The handshake has shown that the server has its certificate's key: where it is trusted
    /// because it is the first, it is remembered now.
    pub fn settle(&self, leaf: &[u8]) -> Result<(), TrustError> {
        let Whom::FirstSeen { known, hosts } = &self.verifier.whom else {
            return Ok(());
        };
        let mut known = known.lock();
        if known.is_some() {
            return Ok(()); // Only that one comes so far.
        }
        let print = Fingerprint::of(leaf);
        let remembered = hosts.remember(print).map_err(|e| hosts_error(hosts, &e))?;
        *known = Some(remembered);
        if remembered != print {
            let why = format!(
                "{} became known at the same moment with another certificate",
                hosts.name()
            );
            return Err(hosts_error(hosts, &io::Error::other(why)));
        }
        log::warn!(
            "{} is trusted from now on, as it is the first time: {print}",
            hosts.name()
        );
        Ok(())
    }

    /// Whether the next connection will offer a session to resume.
    pub fn can_resume(&self) -> bool {
        let sessions = self.store.sessions.lock();
        sessions.tls12.is_some() || !sessions.tls13.is_empty()
    }

    /// Forgets every session, as a REIN or a new handshake on the control connection demands.
    pub fn forget(&self) {
        *self.store.sessions.lock() = Sessions::default();
    }
}

/// What a certificate must be for. The zone of a link-local address (`fe80::1%eth0`) is our own
/// interface's name: no certificate has it.
fn server_name(name: &str) -> Result<ServerName<'static>, TrustError> {
    let address = name
        .split_once('%')
        .map(|(address, _)| address)
        .filter(|address| address.parse::<Ipv6Addr>().is_ok());
    ServerName::try_from(address.unwrap_or(name).to_owned())
        .map_err(|_| TrustError::Name(name.to_owned()))
}

/// A client certificate and its key.
struct ClientAuth {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ClientAuth {
    fn load(cert: &Path, key: &Path) -> Result<Self, TrustError> {
        let chain = read_certificates("cert", cert)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|e| file_error("key", key, e))?;
        Ok(Self { chain, key })
    }
}

fn load_roots(cafile: Option<&Path>) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = cafile {
        for certificate in read_certificates("cafile", path)? {
            roots
                .add(certificate)
                .map_err(|e| file_error("cafile", path, e))?;
        }
        return Ok(roots);
    }
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        let why = system
            .errors
            .first()
            .map_or("none found".to_owned(), ToString::to_string);
        return Err(TrustError::NoRoots(why));
    }
    Ok(roots)
}

fn read_certificates(
    option: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| file_error(option, path, e))?;
    if certificates.is_empty() {
        return Err(file_error(option, path, "no PEM certificate in it"));
    }
    Ok(certificates)
}

fn file_error(option: &'static str, path: &Path, why: impl ToString) -> TrustError {
    TrustError::File {
        option,
        path: path.display().to_string(),
        why: why.to_string(),
    }
}

#[cfg(feature = "ring")]
pub(crate) fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

#[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
pub(crate) fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// Verifies the certificate as the user wants it. The handshake's signature is verified in every
/// case.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    whom: Whom,
}

/// Whom to trust.
#[derive(Debug)]
enum Whom {
    /// Who has a certificate for its name by one of these authorities.
    Issued(RootCertStore),
    /// Who has one of these certificates.
    Pinned(Vec<Fingerprint>),
    /// Who has the certificate that was seen first; whoever comes, before that.
    FirstSeen {
        /// A leaf lock, held while the file is written.
        known: Mutex<Option<Fingerprint>>,
        hosts: KnownHosts,
    },
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let print = Fingerprint::of(leaf);
        let pin = || format!("mount with -o fingerprint={print}");
        let verdict = match &self.whom {
            Whom::Issued(roots) => self
                .verify_chain(leaf, intermediates, name, roots, now)
                .map_err(|e| (describe(&e, name), pin())),
            Whom::Pinned(pins) if pins.contains(&print) => Ok(()),
            Whom::Pinned(_) => Err(("its fingerprint is not the pinned one".to_owned(), pin())),
            Whom::FirstSeen { known, hosts } => match *known.lock() {
                Some(first) if first != print => Err(has_changed(first, hosts)),
                Some(_) | None => Ok(()),
            },
        };
        match verdict {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err((reason, cure)) => {
                let refused = Arc::new(RefusedCertificate::of(leaf, reason, cure));
                Err(CertificateError::Other(OtherError(refused)).into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl Verifier {
    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        roots: &RootCertStore,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)?;
        verify_server_name(&leaf, name)
    }
}

/// Why another certificate than the first is refused, and what to do if it is right.
fn has_changed(first: Fingerprint, hosts: &KnownHosts) -> (String, String) {
    let (name, file) = (hosts.name(), hosts.file().display());
    let reason = format!(
        "IT HAS CHANGED since it was first seen (it was {first}): somebody may stand between you \
         and the server, or it was renewed"
    );
    (reason, format!("delete the line of {name} from {file}"))
}

fn hosts_error(hosts: &KnownHosts, why: &io::Error) -> TrustError {
    TrustError::KnownHosts {
        file: hosts.file().display().to_string(),
        why: why.to_string(),
    }
}

/// A verification failure in an administrator's words.
fn describe(error: &rustls::Error, name: &ServerName<'_>) -> String {
    let rustls::Error::InvalidCertificate(error) = error else {
        return error.to_string();
    };
    match error {
        CertificateError::UnknownIssuer => "its issuer is not trusted here".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("it is not for the name {}", name.to_str())
        }
        CertificateError::Revoked => "it has been revoked".to_owned(),
        other => other.to_string(),
    }
}

/// TLS sessions of one control connection.
struct SessionStore {
    group: Arc<Mutex<Option<NamedGroup>>>,
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

/// More than a server gives before they are used.
const MAX_TICKETS: usize = 16;

impl fmt::Debug for SessionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionStore")
    }
}

impl ClientSessionStore for SessionStore {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        *self.group.lock() = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        *self.group.lock()
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.sessions.lock().tls12 = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.sessions.lock().tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.sessions.lock().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut sessions = self.sessions.lock();
        if sessions.tls13.len() == MAX_TICKETS {
            sessions.tls13.pop_front();
        }
        sessions.tls13.push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.sessions.lock().tls13.pop_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_is_verified_without_its_zone() {
        for (name, verified) in [
            ("fe80::1%eth0", Some("fe80::1")),
            ("fe80::1", Some("fe80::1")),
            ("ftp.example.com", Some("ftp.example.com")),
            ("ftp%eth0", None),
        ] {
            let found = server_name(name).ok();
            assert_eq!(
                found.as_ref().map(|n| n.to_str()).as_deref(),
                verified,
                "{name}"
            );
        }
    }
}
