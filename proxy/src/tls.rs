//! Certificates by server name: exact, then `*.parent`, then an optional default.
//!
//! The table is immutable and swapped whole, so a renewal is seen by the next handshake and disturbs no open
//! connection. A changed table is a copy that shares names and parsed keys with the one before. TLS-ALPN-01 challenge certificates live beside the others and are only shown to a client that
//! offers `acme-tls/1`.

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::router::is_host_name;

/// The protocol a certificate authority speaks for TLS-ALPN-01.
pub(crate) const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

/// A certificate that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The PEM text holds no certificate or is damaged.
    #[error("the certificate for {name} cannot be read: {reason}")]
    Chain {
        /// The server name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The private key is missing, damaged or of another certificate.
    #[error("the private key for {name} cannot be used: {reason}")]
    Key {
        /// The server name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// All certificates of the data plane.
#[derive(Default, Clone)]
pub struct CertificateTable {
    exact: HashMap<Arc<str>, Arc<CertifiedKey>>,
    /// Keyed by what follows `*.`.
    wildcard: HashMap<Arc<str>, Arc<CertifiedKey>>,
    challenges: HashMap<Arc<str>, Arc<CertifiedKey>>,
    fallback: Option<Arc<CertifiedKey>>,
}

impl CertificateTable {
    /// Starts a table.
    pub fn builder() -> CertificateTableBuilder {
        CertificateTableBuilder(Self::default())
    }

    /// How many names have a certificate.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len()
    }

    /// Whether there is no certificate at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.fallback.is_none()
    }

    /// Shows a certificate for a server name or a wildcard, in place of the one before.
    pub fn set(&mut self, name: &str, key: Arc<CertifiedKey>) {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix("*.") {
            Some(parent) => self.wildcard.insert(parent.into(), key),
            None => self.exact.insert(name.into(), key),
        };
    }

    /// Shows none any more.
    pub fn remove(&mut self, name: &str) {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix("*.") {
            Some(parent) => self.wildcard.remove(parent),
            None => self.exact.remove(name.as_str()),
        };
    }

    /// The certificate of a name in lower case: its own, or that of its wildcard.
    pub(crate) fn of(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }

    /// What a client is shown.
    fn shown(&self, hello: &ClientHello<'_>) -> Option<&Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default();
        if is_challenge(hello) {
            return self.challenges.get(name);
        }
        self.of(name).or(self.fallback.as_ref())
    }
}

/// Whether it is a certificate authority that asks (RFC 8737).
fn is_challenge(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ACME_TLS_ALPN))
}

impl fmt::Debug for CertificateTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateTable")
            .field("exact", &self.exact.keys())
            .field("wildcard", &self.wildcard.keys())
            .field("challenges", &self.challenges.keys())
            .field("fallback", &self.fallback.is_some())
            .finish()
    }
}

/// A certificate table in the making.
#[derive(Debug)]
#[must_use]
pub struct CertificateTableBuilder(CertificateTable);

impl CertificateTableBuilder {
    /// Adds a certificate for a server name or a wildcard (`*.example.com`), as PEM: chain with the leaf first,
    /// and the private key (PKCS #8, PKCS #1 or SEC 1).
    ///
    /// # Errors
    /// When either cannot be read, or the key does not belong to the certificate.
    pub fn pem(mut self, name: &str, chain: &str, key: &str) -> Result<Self, CertificateError> {
        self.0.set(name, certified_key(name, chain, key)?);
        Ok(self)
    }

    /// Adds the certificate to show when no other fits, or a client names no server.
    ///
    /// # Errors
    /// As [`Self::pem`].
    pub fn fallback_pem(mut self, chain: &str, key: &str) -> Result<Self, CertificateError> {
        self.0.fallback = Some(certified_key("the default", chain, key)?);
        Ok(self)
    }

    /// Adds a TLS-ALPN-01 challenge certificate for a server name.
    ///
    /// # Errors
    /// As [`Self::pem`].
    pub fn challenge_pem(mut self, name: &str, chain: &str, key: &str) -> Result<Self, CertificateError> {
        let (chain, key) = read(name, chain, key)?;
        // Not by `from_der`: it refuses the critical extension that makes a challenge of a certificate.
        let key = crypto()
            .key_provider
            .load_private_key(key)
            .map_err(|error| CertificateError::Key { name: name.to_owned(), reason: error.to_string() })?;
        self.0.challenges.insert(name.to_ascii_lowercase().into(), Arc::new(CertifiedKey::new(chain, key)));
        Ok(self)
    }

    /// Adds a ready key, for callers that hold one.
    pub fn key(mut self, name: &str, key: Arc<CertifiedKey>) -> Self {
        self.0.set(name, key);
        self
    }

    /// Ends the table.
    #[must_use]
    pub fn build(self) -> CertificateTable {
        self.0
    }
}

/// A certificate with its key, ready to be shown for a server name, from PEM: chain with the leaf first, and the
/// private key (PKCS #8, PKCS #1 or SEC 1).
///
/// # Errors
/// When either cannot be read, or the key does not belong to the certificate.
pub fn certified_key(name: &str, chain: &str, key: &str) -> Result<Arc<CertifiedKey>, CertificateError> {
    let (chain, key) = read(name, chain, key)?;
    CertifiedKey::from_der(chain, key, &crypto())
        .map(Arc::new)
        .map_err(|error| CertificateError::Key { name: name.to_owned(), reason: error.to_string() })
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read(name: &str, chain: &str, key: &str) -> Result<Pair, CertificateError> {
    let chain_error = |reason: String| CertificateError::Chain { name: name.to_owned(), reason };
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| chain_error(error.to_string()))?;
    if chain.is_empty() {
        return Err(chain_error("no certificate in the PEM text".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| CertificateError::Key { name: name.to_owned(), reason: error.to_string() })?;
    Ok((chain, key))
}

/// The one cryptography provider of the process.
pub(crate) fn crypto() -> Arc<CryptoProvider> {
    match CryptoProvider::get_default() {
        Some(provider) => Arc::clone(provider),
        None => Arc::new(rustls::crypto::ring::default_provider()),
    }
}

/// Finds the certificate during a handshake.
#[derive(Debug, Default)]
pub(crate) struct CertificateResolver {
    pub(crate) table: ArcSwap<CertificateTable>,
}

/// What is to be done with a client that says hello.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// There is a certificate to show, if not one of its own name.
    Known,
    /// There is none of its name; one may be had on demand.
    Name(String),
    /// There is none, and none to be had.
    Nothing,
}

impl CertificateResolver {
    /// What a client wants, and whether something is shown if nothing can be had.
    pub(crate) fn wanted(&self, hello: &ClientHello<'_>) -> (Wanted, bool) {
        let table = self.table.load();
        let shown = table.shown(hello).is_some();
        let own = hello.server_name().filter(|_| !is_challenge(hello));
        match own.filter(|name| is_public_name(name)) {
            Some(name) if table.of(name).is_none() => (Wanted::Name(name.to_owned()), shown),
            _ if shown => (Wanted::Known, true),
            _ => (Wanted::Nothing, false),
        }
    }
}

/// A host name that a certificate authority could issue for.
fn is_public_name(name: &str) -> bool {
    is_host_name(name)
        && !name.contains(['_', '['])
        && name.rsplit_once('.').is_some_and(|(_, last)| !last.bytes().all(|b| b.is_ascii_digit()))
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.table.load().shown(&hello).cloned()
    }
}

/// TLS 1.2 and 1.3 with session tickets, `h2` and `http/1.1`.
pub(crate) fn server_config(
    resolver: Arc<CertificateResolver>,
) -> Result<rustls::ServerConfig, rustls::Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME_TLS_ALPN.to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(config)
}
