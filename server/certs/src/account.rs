//! One account at each authority, made at the first order and kept sealed.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::Deserialize;

use crate::{
    client::{ComeAgain, Http},
    config::{AcmeConfig, ExternalAccount},
    fault::{Stop, stop_of},
    service::Inner,
};

/// An account, ready to order with.
pub(crate) struct Ca {
    pub(crate) account: Account,
    pub(crate) come_again: ComeAgain,
}

/// What is asked of a directory besides what instant-acme reads.
#[derive(Deserialize)]
struct Directory {
    #[serde(default)]
    meta: Meta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    external_account_required: bool,
}

impl Inner {
    /// The account at an authority; makes one where there is none.
    pub(crate) async fn ca(&self, acme: &AcmeConfig, directory: &str) -> Result<Ca, Stop> {
        let come_again = ComeAgain::default();
        let http = || Http { client: self.client.clone(), come_again: come_again.clone() };
        let said = |error| stop_of(error, &come_again, self.now());
        // One at a time, so that two first orders do not make two accounts.
        let _one = self.registering.lock().await;
        let builder = Account::builder_with_http(Box::new(http()));
        if let Some(kept) = self.store.acme().account(directory).await? {
            let credentials: AccountCredentials = serde_json::from_str(&kept).map_err(|e| {
                Stop::unreachable("account", format!("The kept account cannot be read: {e}"), self.now())
            })?;
            let account = builder.from_credentials(credentials).await.map_err(said)?;
            return Ok(Ca { account, come_again });
        }
        let external = self.external(acme, directory).await?;
        let contact = acme.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) =
            builder.create(&new, directory.to_owned(), external.as_ref()).await.map_err(said)?;
        let kept = serde_json::to_string(&credentials).map_err(|e| {
            Stop::unreachable("account", format!("The account cannot be kept: {e}"), self.now())
        })?;
        self.store.acme().keep_account(directory, &kept).await?;
        tracing::info!(directory, "made an account at a certificate authority");
        Ok(Ca { account, come_again })
    }

    /// The binding to an account that somebody has at the authority already, where it wants one.
    async fn external(&self, acme: &AcmeConfig, directory: &str) -> Result<Option<ExternalAccountKey>, Stop> {
        let unreachable = |e: reqwest::Error| {
            Stop::unreachable("unreachable", crate::fault::causes(&e.without_url()), self.now())
        };
        let answer = self.client.get(directory).send().await.map_err(unreachable)?;
        let meta = answer
            .error_for_status()
            .map_err(unreachable)?
            .json::<Directory>()
            .await
            .map_err(unreachable)?
            .meta;
        match (&acme.external, meta.external_account_required) {
            (Some(ExternalAccount { kid, key }), true) => Ok(Some(ExternalAccountKey::new(kid.clone(), key))),
            (_, false) => Ok(None),
            (None, true) => Err(Stop::refused(
                "externalAccountRequired",
                "The authority wants an account that you made there; set acme_eab_kid and acme_eab_key.",
                self.now(),
            )),
        }
    }
}

/// The key of an external account as authorities give it: base64url, with or without padding.
///
/// # Errors
/// When it is none.
pub(crate) fn decode_key(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let text = text.trim().trim_end_matches('=').replace('+', "-").replace('/', "_");
    BASE64_URL_SAFE_NO_PAD.decode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_alphabets_of_base64_are_read() {
        assert_eq!(decode_key("-_8").unwrap(), [0xfb, 0xff]);
        assert_eq!(decode_key("+/8=").unwrap(), [0xfb, 0xff]);
        assert!(decode_key("not base64!").is_err());
    }
}
