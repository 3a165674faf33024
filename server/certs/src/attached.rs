//! Certificates that somebody brings along.

use berth_schemas::{DomainName, Problem, Timestamp};
use berth_store::NewCertificate;

use crate::x509::Leaf;

/// Longest PEM text that is looked at, in bytes.
const MAX_PEM: usize = 64 * 1024;

/// A certificate that can be shown for a name from now on.
///
/// # Errors
/// `InvalidInput`, naming what is wrong: the text, the key, the names, the time.
pub(crate) fn checked(
    name: &DomainName,
    chain: String,
    key: String,
    now: Timestamp,
) -> Result<NewCertificate, Problem> {
    for (field, text) in [("chain", &chain), ("key", &key)] {
        if text.len() > MAX_PEM {
            let detail = format!("{field} has {} bytes; at most {MAX_PEM} are possible.", text.len());
            return Err(Problem::invalid(field, detail));
        }
    }
    let leaf = Leaf::read(&chain).map_err(|e| {
        Problem::invalid("chain", format!("The chain cannot be used: {e}."))
            .hint("Pass PEM: the certificate first, then those that lead to its authority.")
    })?;
    berth_proxy::certified_key(name.as_str(), &chain, &key).map_err(|e| {
        Problem::invalid("key", format!("Key and certificate cannot be used together: {e}."))
            .hint("Pass the private key that the certificate was made for, as PEM without a passphrase.")
    })?;
    if !leaf.covers(name) {
        let names = leaf.names.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
        return Err(Problem::invalid(
            "chain",
            format!("The certificate is not for {name} but for: {names}."),
        ));
    }
    if leaf.not_after <= now {
        return Err(Problem::invalid(
            "chain",
            format!("The certificate has expired, at {}.", leaf.not_after),
        ));
    }
    if leaf.not_before > now {
        return Err(Problem::invalid(
            "chain",
            format!("The certificate is valid only from {}.", leaf.not_before),
        ));
    }
    Ok(leaf.kept(chain, key, None))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn made(name: &str, until: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_must_fit_its_key_its_name_and_the_time() {
        let now = Timestamp::now();
        let name: DomainName = "shop.example.com".parse().unwrap();
        let (chain, key) = made("shop.example.com", 2100);
        let kept = checked(&name, chain.clone(), key.clone(), now).unwrap();
        assert_eq!(kept.names, ["shop.example.com"]);
        let (other, other_key) = made("shop.example.com", 2100);
        let (foreign, foreign_key) = made("blog.example.com", 2100);
        let (old, old_key) = made("shop.example.com", 2021);
        let wrong = [
            ("key", chain.clone(), other_key.clone(), now),
            ("key", chain.clone(), "no key".into(), now),
            ("chain", key.clone(), key.clone(), now),
            ("chain", String::new(), key.clone(), now),
            ("chain", "x".repeat(70_000), key.clone(), now),
            ("chain", foreign, foreign_key, now),
            ("chain", old, old_key, now),
            ("chain", other, other_key, Timestamp(0)),
        ];
        for (n, (field, chain, key, at)) in wrong.into_iter().enumerate() {
            let problem = checked(&name, chain, key.clone(), at).err().unwrap_or_else(|| panic!("case {n}"));
            assert_eq!(problem.field.as_deref(), Some(field), "case {n}: {problem}");
            assert!(!problem.to_string().contains("PRIVATE KEY"));
        }
    }
}
