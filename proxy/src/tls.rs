//! Certificates by server name: exact, then `*.parent`, then an optional default.
//!
//! The table is immutable and swapped whole, so a renewal is seen by the next handshake and disturbs no open
//! connection. TLS-ALPN-01 challenge certificates live beside the others and are only shown to a client that
//! offers `acme-tls/1`.

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

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
    names: HashMap<String, Arc<CertifiedKey>>,
    challenges: HashMap<String, Arc<CertifiedKey>>,
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
        self.names.len()
    }

    /// Whether there is no certificate at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.fallback.is_none()
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.trim_end_matches('.');
        self.names
            .get(name)
            .or_else(|| self.names.get(&format!("*.{}", name.split_once('.')?.1)))
            .or(self.fallback.as_ref())
    }
}

impl fmt::Debug for CertificateTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateTable")
            .field("names", &self.names.keys())
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
        self.0.names.insert(name.to_ascii_lowercase(), certified(name, chain, key)?);
        Ok(self)
    }

    /// Adds the certificate to show when no other fits, or a client names no server.
    ///
    /// # Errors
    /// As [`Self::pem`].
    pub fn fallback_pem(mut self, chain: &str, key: &str) -> Result<Self, CertificateError> {
        self.0.fallback = Some(certified("the default", chain, key)?);
        Ok(self)
    }

    /// Adds a TLS-ALPN-01 challenge certificate for a server name.
    ///
    /// # Errors
    /// As [`Self::pem`].
    pub fn challenge_pem(mut self, name: &str, chain: &str, key: &str) -> Result<Self, CertificateError> {
        self.0.challenges.insert(name.to_ascii_lowercase(), certified(name, chain, key)?);
        Ok(self)
    }

    /// Adds a ready key, for callers that hold one.
    pub fn key(mut self, name: &str, key: Arc<CertifiedKey>) -> Self {
        self.0.names.insert(name.to_ascii_lowercase(), key);
        self
    }

    /// Ends the table.
    #[must_use]
    pub fn build(self) -> CertificateTable {
        self.0
    }
}

fn certified(name: &str, chain: &str, key: &str) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain_error = |reason: String| CertificateError::Chain { name: name.to_owned(), reason };
    let key_error = |reason: String| CertificateError::Key { name: name.to_owned(), reason };
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| chain_error(error.to_string()))?;
    if chain.is_empty() {
        return Err(chain_error("no certificate in the PEM text".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| key_error(error.to_string()))?;
    CertifiedKey::from_der(chain, key, &crypto()).map(Arc::new).map_err(|error| key_error(error.to_string()))
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

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default();
        let table = self.table.load();
        if hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ACME_TLS_ALPN)) {
            return table.challenges.get(name).cloned();
        }
        table.find(name).cloned()
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
