//! The server's certificate, given or made on the spot, and the TLS configuration of each
//! session. Knows no FTP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache};

use super::CertificateFiles;
use crate::tls::{self, Fingerprint};

/// TLS sessions kept for each control connection: each handshake adds two, and clients hold
/// fewer than ten.
const KEPT_SESSIONS: usize = 64;

/// Certificate, key, and how to speak TLS with them.
pub(super) struct Identity {
    config: ServerConfig,
    leaf: CertificateDer<'static>,
}

impl Identity {
    /// Reads the files, or makes a certificate for localhost, this host's name and `address`.
    pub(super) fn new(files: Option<&CertificateFiles>, address: IpAddr) -> io::Result<Self> {
        let (chain, key) = match files {
            Some(files) => read(files)?,
            None => make(address).map_err(io::Error::other)?,
        };
        let leaf = chain.first().cloned().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the certificate file holds none",
            )
        })?;
        let config = ServerConfig::builder_with_provider(tls::provider().into())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(io::Error::other)?;
        Ok(Self { config, leaf })
    }

    /// The configuration of one control connection and its data connections. Its TLS sessions
    /// are its own, so what resumes one is a data connection of this control connection.
    pub(super) fn for_session(&self) -> Arc<ServerConfig> {
        let mut config = self.config.clone();
        config.session_storage = ServerSessionMemoryCache::new(KEPT_SESSIONS);
        Arc::new(config)
    }

    /// A configuration under which nothing resumes, and nothing is given out to be resumed.
    pub(super) fn without_sessions(&self) -> Arc<ServerConfig> {
        let mut config = self.config.clone();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    pub(super) fn leaf(&self) -> &[u8] {
        &self.leaf
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.leaf)
    }
}

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read(files: &CertificateFiles) -> io::Result<Chain> {
    let bad = |path: &std::path::Path, e: rustls::pki_types::pem::Error| {
        let text = format!("cannot use {}: {e}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let chain = CertificateDer::pem_file_iter(&files.chain)
        .and_then(Iterator::collect)
        .map_err(|e| bad(&files.chain, e))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| bad(&files.key, e))?;
    Ok((chain, key))
}

/// Not a CA: rustls refuses a CA certificate used as the server's own.
fn make(address: IpAddr) -> Result<Chain, rcgen::Error> {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    let mut names = vec!["localhost".to_owned()];
    names.extend(host.clone().filter(|name| name != "localhost"));
    let loopback = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ];
    names.extend(loopback.map(|address| address.to_string()));
    if !address.is_unspecified() && !loopback.contains(&address) {
        names.push(address.to_string());
    }

    let mut params = CertificateParams::new(names)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.distinguished_name = DistinguishedName::new();
    let common_name = host.unwrap_or_else(|| "localhost".to_owned());
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // From yesterday, for peers whose clock is behind.
    let day = Duration::from_secs(24 * 60 * 60);
    let now = SystemTime::now();
    params.not_before = (now - day).into();
    params.not_after = (now + 3650 * day).into();

    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok((vec![certificate.der().clone()], key.into()))
}
