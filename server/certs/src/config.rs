//! What the daemon's configuration says about certificates.

use std::{fmt, sync::Arc};

use berth_schemas::DomainName;
use berth_store::model::AppRow;

/// Settings of certificates.
#[derive(Clone)]
pub struct CertsConfig {
    /// Whether HTTPS is served at all.
    pub https: bool,
    /// How certificates are ordered; none: they are not.
    pub acme: Option<AcmeConfig>,
    /// What clients get that name no known server.
    pub fallback: Option<Fallback>,
    /// Names that Berth gives out itself, if the world knows them.
    pub own: Option<OwnNames>,
    /// Host of the control plane, if it is reached through the data plane.
    pub control_host: Option<DomainName>,
}

/// The names that Berth gives to apps itself.
#[derive(Clone)]
pub struct OwnNames {
    /// The domain below which they are.
    pub base: DomainName,
    /// The name of an app in an environment.
    pub host: Arc<dyn Fn(&AppRow) -> String + Send + Sync>,
}

/// How certificates are ordered.
#[derive(Clone)]
pub struct AcmeConfig {
    /// Directories of authorities, the preferred one first.
    pub directories: Vec<String>,
    /// PEM with the roots of private authorities, besides those that the system trusts.
    pub root: Option<Vec<u8>>,
    /// Where authorities may write to.
    pub email: Option<String>,
    /// An account that somebody has at an authority, for those that want one.
    pub external: Option<ExternalAccount>,
}

/// An account at an authority outside of ACME (RFC 8555, 7.3.4).
#[derive(Clone)]
pub struct ExternalAccount {
    /// Its key's identifier.
    pub kid: String,
    /// Its key.
    pub key: Vec<u8>,
}

/// A certificate from files.
#[derive(Clone)]
pub struct Fallback {
    /// PEM, its own certificate first.
    pub chain: String,
    /// PEM.
    pub key: String,
}

impl ExternalAccount {
    /// An account whose key is given as authorities give it.
    ///
    /// # Errors
    /// When the key is no base64url.
    pub fn new(kid: String, key: &str) -> Result<Self, String> {
        let key = crate::account::decode_key(key).map_err(|_| "the key is no base64url text".to_owned())?;
        Ok(Self { kid, key })
    }
}

/// Without keys.
impl fmt::Debug for CertsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertsConfig").field("https", &self.https).finish_non_exhaustive()
    }
}

/// Whether the world may know a name: authorities issue for no other.
#[must_use]
pub fn is_public(name: &str) -> bool {
    const PRIVATE: [&str; 7] = ["localhost", "local", "internal", "lan", "home.arpa", "invalid", "onion"];
    let below = |end: &str| name == end || name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
    name.parse::<DomainName>().is_ok() && !PRIVATE.iter().any(|end| below(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_else_knows_are_not_public() {
        for public in ["apps.example.com", "example.com", "mylocal.dev"] {
            assert!(is_public(public), "{public}");
        }
        for private in
            ["localhost", "apps.localhost", "berth.local", "x.internal", "box.lan", "10.0.0.1", "com"]
        {
            assert!(!is_public(private), "{private}");
        }
    }
}
