//! Deploy keys, and what proves a GitHub App.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use berth_schemas::{Code, Problem, Timestamp};
use ring::{rand::SystemRandom, signature};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use ssh_key::{
    HashAlg, LineEnding, PrivateKey, PublicKey,
    private::{Ed25519Keypair, KeypairData},
};

/// A new SSH key: the private part in OpenSSH's text form, and the public line to give to the forge.
#[derive(Clone)]
pub struct DeployKey {
    /// The private part.
    pub private_key: String,
    /// The public line.
    pub public_key: String,
}

impl DeployKey {
    /// Makes an ed25519 key, whose comment names the app.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate(app: &str) -> Result<Self, Problem> {
        let failed = |e: &dyn std::fmt::Display| {
            Problem::new(Code::Internal, format!("A key could not be made: {e}."))
        };
        let mut seed = zeroize::Zeroizing::new([0_u8; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|e| failed(&e))?;
        let pair = KeypairData::from(Ed25519Keypair::from_seed(&seed));
        let key = PrivateKey::new(pair, format!("berth-{app}")).map_err(|e| failed(&e))?;
        let private_key = key.to_openssh(LineEnding::LF).map_err(|e| failed(&e))?.to_string();
        let public_key = key.public_key().to_openssh().map_err(|e| failed(&e))?;
        Ok(Self { private_key, public_key })
    }
}

/// The fingerprint of a public key or of a line of known_hosts without its host, as `ssh-keygen -l` shows it.
#[must_use]
pub fn fingerprint(public_key: &str) -> Option<String> {
    Some(PublicKey::from_openssh(public_key).ok()?.fingerprint(HashAlg::Sha256).to_string())
}

/// A secret for a webhook: 32 random bytes, in the form of the Standard Webhooks specification, which every forge takes
/// as a text.
///
/// # Errors
/// When the system has no randomness.
pub fn webhook_secret() -> Result<String, Problem> {
    let mut random = [0_u8; 32];
    getrandom::fill(&mut random)
        .map_err(|e| Problem::new(Code::Internal, format!("A secret could not be made: {e}.")))?;
    Ok(format!("whsec_{}", base64::prelude::BASE64_STANDARD.encode(random)))
}

/// The token by which a GitHub App speaks for itself (RFC 7519, RS256), good for nine minutes: GitHub allows ten.
///
/// # Errors
/// `InvalidInput` when the key is none.
pub(crate) fn app_token(app_id: &str, pem: &str, now: Timestamp) -> Result<String, Problem> {
    let bad = |what: &str| {
        Problem::invalid("github_app", format!("The GitHub App's private key {what}."))
            .hint("Give the whole .pem file that GitHub offered when the key was made, with its first and last line.")
    };
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| bad("is no PEM file with a private key"))?;
    let pair = match &der {
        PrivateKeyDer::Pkcs1(key) => signature::RsaKeyPair::from_der(key.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(key) => signature::RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        _ => return Err(bad("is not an RSA key")),
    };
    let pair = pair.map_err(|_| bad("is not an RSA key of 2048 bits or more"))?;
    let seconds = now.0 / 1_000_000;
    // A minute back, for a clock that is ahead of GitHub's.
    let claims = serde_json::json!({ "iat": seconds - 60, "exp": seconds + 480, "iss": app_id });
    let signed =
        format!("{}.{}", BASE64.encode(r#"{"alg":"RS256","typ":"JWT"}"#), BASE64.encode(claims.to_string()));
    let mut tag = vec![0; pair.public().modulus_len()];
    pair.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut tag)
        .map_err(|_| bad("could not sign"))?;
    Ok(format!("{signed}.{}", BASE64.encode(tag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deploy_key_is_what_openssh_reads() {
        let key = DeployKey::generate("web").unwrap();
        assert!(key.private_key.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
        assert!(key.public_key.starts_with("ssh-ed25519 AAAA") && key.public_key.ends_with(" berth-web"));
        let read = PrivateKey::from_openssh(&key.private_key).unwrap();
        assert_eq!(read.public_key().to_openssh().unwrap(), key.public_key);
        assert!(fingerprint(&key.public_key).unwrap().starts_with("SHA256:"));
        assert_ne!(DeployKey::generate("web").unwrap().public_key, key.public_key);
    }

    #[test]
    fn an_app_is_known_by_its_key() {
        let now = Timestamp(1_767_225_600_000_000);
        let token = app_token("12345", include_str!("../fixtures/app_key.pem"), now).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let claims: serde_json::Value = serde_json::from_slice(&BASE64.decode(parts[1]).unwrap()).unwrap();
        assert_eq!((claims["iss"].as_str(), claims["exp"].as_i64()), (Some("12345"), Some(1_767_226_080)));
        let tag = BASE64.decode(parts[2]).unwrap();
        let der = PrivateKeyDer::from_pem_slice(include_bytes!("../fixtures/app_key.pem")).unwrap();
        let PrivateKeyDer::Pkcs1(der) = &der else { panic!("GitHub's keys are PKCS#1") };
        let pair = signature::RsaKeyPair::from_der(der.secret_pkcs1_der()).unwrap();
        let public = signature::UnparsedPublicKey::new(
            &signature::RSA_PKCS1_2048_8192_SHA256,
            pair.public().as_ref().to_vec(),
        );
        public.verify(format!("{}.{}", parts[0], parts[1]).as_bytes(), &tag).unwrap();
        let problem = app_token("1", "-----BEGIN NOTHING-----", now).unwrap_err();
        assert_eq!(problem.code, Code::InvalidInput);
        assert!(!problem.to_string().contains("NOTHING"));
    }

    #[test]
    fn a_webhook_secret_is_long_and_new() {
        let secret = webhook_secret().unwrap();
        assert!(secret.len() > 45 && secret != webhook_secret().unwrap());
    }
}
