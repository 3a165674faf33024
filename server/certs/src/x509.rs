//! What a certificate says of itself.

use berth_schemas::{DomainName, Timestamp};
use berth_store::NewCertificate;
use sha2::{Digest, Sha256};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer as _, X509Certificate},
};

/// What is read from the first certificate of a chain.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Leaf {
    pub(crate) names: Vec<String>,
    pub(crate) issuer: String,
    pub(crate) fingerprint: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// Key identifier of the authority and serial number, by which an authority knows it (RFC 9773, 4.1).
    pub(crate) ari: Option<(Vec<u8>, Vec<u8>)>,
}

/// Most names of a certificate that are looked at; Let's Encrypt allows 100.
const MAX_NAMES: usize = 1000;

impl Leaf {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn read(chain: &str) -> Result<Self, String> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(chain.as_bytes())
            .map_err(|e| format!("no certificate in the PEM text ({e})"))?;
        Self::of(&pem.contents)
    }

    /// Reads a certificate.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn of(der: &[u8]) -> Result<Self, String> {
        let (_, leaf) =
            X509Certificate::from_der(der).map_err(|e| format!("the certificate cannot be read ({e})"))?;
        let time = |t: x509_parser::time::ASN1Time| Timestamp(t.timestamp().saturating_mul(1_000_000));
        Ok(Self {
            names: names(&leaf),
            issuer: leaf.issuer().to_string(),
            fingerprint: hex::encode(Sha256::digest(der)),
            not_before: time(leaf.validity().not_before),
            not_after: time(leaf.validity().not_after),
            ari: authority_key(&leaf).map(|key| (key, leaf.raw_serial().to_vec())),
        })
    }

    /// Whether it is for this host or wildcard.
    pub(crate) fn covers(&self, name: &DomainName) -> bool {
        self.names.iter().filter_map(|n| n.parse::<DomainName>().ok()).any(|n| n.covers(name.as_str()))
    }

    /// The certificate as the store keeps it.
    pub(crate) fn kept(self, chain: String, key: String, renew_at: Option<Timestamp>) -> NewCertificate {
        NewCertificate {
            names: self.names,
            chain,
            key,
            issuer: self.issuer,
            fingerprint: self.fingerprint,
            not_before: self.not_before,
            not_after: self.not_after,
            renew_at,
        }
    }
}

fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = leaf.subject_alternative_name() else { return Vec::new() };
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(dns).take(MAX_NAMES).collect()
}

fn authority_key(leaf: &X509Certificate<'_>) -> Option<Vec<u8>> {
    leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|key| key.0.to_vec()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_read() {
        let made =
            rcgen::generate_simple_self_signed(vec!["Shop.example.com".into(), "*.example.org".into()])
                .unwrap();
        let leaf = Leaf::read(&made.cert.pem()).unwrap();
        assert_eq!(leaf.names, ["shop.example.com", "*.example.org"]);
        assert_eq!(leaf.fingerprint.len(), 64);
        assert!(leaf.not_before < leaf.not_after);
        for (name, covered) in [
            ("shop.example.com", true),
            ("a.example.org", true),
            ("example.org", false),
            ("*.example.org", true),
        ] {
            assert_eq!(leaf.covers(&name.parse().unwrap()), covered, "{name}");
        }
        for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "x"] {
            assert!(Leaf::read(bad).is_err());
        }
    }
}
