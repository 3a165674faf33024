//! Clients: programs that want to act for somebody. They prove nothing but that they hold a code's verifier.

use std::{net::IpAddr, time::Instant};

use berth_tools::text::printable;

use super::{document::Documents, fault::Fault, of};
use crate::rest::Shared;

/// Addresses that a client may have at most.
pub(super) const MAX_REDIRECTS: usize = 20;
/// Longest name in characters.
const MAX_NAME: usize = 60;

/// A client.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) id: String,
    /// What it calls itself.
    pub(super) name: String,
    /// Where it may be sent back to.
    pub(super) redirects: Vec<String>,
    pub(super) known: Known,
}

/// How a client is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// By a document that this host serves.
    ByDocument { host: String },
    /// By nothing but its own words.
    ByItself,
}

/// The client of this id; `asking` is who wants to know.
pub(super) async fn find(control: &Shared, id: &str, asking: IpAddr) -> Result<Client, Fault> {
    let oauth = of(control);
    if !Documents::is_url(id) {
        let row = control.context.store.oauth_clients().by_id(id).await?;
        let row =
            row.ok_or_else(|| Fault::new("invalid_client", "There is no such client; register again."))?;
        return Ok(Client { id: row.id, name: row.name, redirects: row.redirects, known: Known::ByItself });
    }
    let found = match oauth.documents.remembered(id) {
        Some(found) => found,
        None => {
            oauth.fetches.admit(asking, "", Instant::now()).map_err(|wait| {
                Fault::too_often("Too many documents of clients were asked for from this address.", wait)
            })?;
            oauth.fetches.record(asking, "", false, Instant::now());
            oauth.documents.fetch(id).await
        }
    };
    found.map_err(|why| {
        Fault::new("invalid_client", format!("The client's metadata document is not usable: {why}."))
    })
}

/// A name that strangers chose, fit to be shown in a line.
pub(super) fn name(text: &str) -> String {
    let clean: String = printable(text).chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    let clean = clean.trim();
    if clean.is_empty() { "a client without a name".into() } else { clean.chars().take(MAX_NAME).collect() }
}
