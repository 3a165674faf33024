//! Whether a webhook was signed with the secret that Berth gave the forge.
//!
//! | forge | header | what |
//! |---|---|---|
//! | GitHub | X-Hub-Signature-256 | `sha256=` and the HMAC-SHA256 of the body in hex |
//! | Bitbucket | X-Hub-Signature | the same |
//! | Gitea | X-Gitea-Signature | that HMAC in bare hex |
//! | Forgejo | X-Forgejo-Signature, else X-Gitea-Signature | the same |
//! | GitLab with a signing token | webhook-signature | `v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64 |
//! | GitLab else | X-Gitlab-Token | the secret itself |
//! | others | X-Berth-Signature | as GitHub's |
//!
//! The SHA-1 signatures that GitHub sends beside are not looked at.

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use berth_schemas::{Timestamp, repository::ForgeKind};
use http::HeaderMap;
use ring::hmac;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Refused, fresh, generic, one};

/// Checks a webhook's signature.
///
/// # Errors
/// [`Refused::Unsigned`], [`Refused::WrongSignature`], [`Refused::Stale`].
pub fn verify(
    kind: ForgeKind,
    secret: &str,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Refused> {
    match kind {
        ForgeKind::Github => hex_hmac("x-hub-signature-256", "sha256=", secret, headers, body),
        ForgeKind::Bitbucket => hex_hmac("x-hub-signature", "sha256=", secret, headers, body),
        ForgeKind::Gitea => hex_hmac("x-gitea-signature", "", secret, headers, body),
        // If both are there the forge's own counts: a wrong one is not made good by the other.
        ForgeKind::Forgejo if headers.contains_key("x-forgejo-signature") => {
            hex_hmac("x-forgejo-signature", "", secret, headers, body)
        }
        ForgeKind::Forgejo => hex_hmac("x-gitea-signature", "", secret, headers, body),
        ForgeKind::Gitlab if headers.contains_key("webhook-signature") => {
            standard(secret, headers, body, now)
        }
        ForgeKind::Gitlab => token("x-gitlab-token", secret, headers),
        ForgeKind::Generic => {
            hex_hmac(generic::SIGNATURE, "sha256=", secret, headers, body)?;
            generic::fresh_enough(body, now)
        }
    }
}

/// What the signature header of a forge that signs the body holds: for tests, and to show how it is made.
#[must_use]
pub fn sign(secret: &str, body: &[u8]) -> String {
    hex::encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body))
}

fn hex_hmac(
    header: &'static str,
    prefix: &str,
    secret: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), Refused> {
    let given = one(headers, header).ok_or(Refused::Unsigned { header })?;
    let wrong = Refused::WrongSignature { header };
    let given =
        given.strip_prefix(prefix).and_then(|digits| hex::decode(digits).ok()).ok_or(wrong.clone())?;
    // An empty secret signs nothing.
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let fits = hmac::verify(&key, body, &given).is_ok() && !secret.is_empty();
    if fits { Ok(()) } else { Err(wrong) }
}

/// The secret itself, compared by hashes so that not even its length shows in the time.
fn token(header: &'static str, secret: &str, headers: &HeaderMap) -> Result<(), Refused> {
    let given = one(headers, header).ok_or(Refused::Unsigned { header })?;
    let same = Sha256::digest(given.as_bytes()).ct_eq(&Sha256::digest(secret.as_bytes()));
    if bool::from(same) && !secret.is_empty() { Ok(()) } else { Err(Refused::WrongSignature { header }) }
}

/// The Standard Webhooks specification, which GitLab follows: several signatures may stand in the header, and the
/// key is what follows `whsec_`, in base64.
fn standard(secret: &str, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), Refused> {
    const HEADER: &str = "webhook-signature";
    let header = |name: &'static str| one(headers, name).ok_or(Refused::Unsigned { header: name });
    let (id, at, given) = (header("webhook-id")?, header("webhook-timestamp")?, header(HEADER)?);
    let key = secret.strip_prefix("whsec_").and_then(|text| BASE64.decode(text).ok());
    let key = key.unwrap_or_else(|| secret.as_bytes().to_vec());
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    for part in [id.as_bytes(), b".", at.as_bytes(), b".", body] {
        context.update(part);
    }
    let expected = context.sign();
    let fits = given.split(' ').filter_map(|one| BASE64.decode(one.strip_prefix("v1,")?).ok());
    // All are compared, whichever fits.
    let fits = fits.fold(false, |any, one| bool::from(one.as_slice().ct_eq(expected.as_ref())) | any);
    if !fits || key.is_empty() {
        return Err(Refused::WrongSignature { header: HEADER });
    }
    fresh(at.parse().map_err(|_| Refused::WrongSignature { header: "webhook-timestamp" })?, now)
}
