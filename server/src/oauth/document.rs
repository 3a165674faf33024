//! Metadata documents of clients: a client whose id is a URL says at that URL who it is. The URL comes from anybody, so
//! that it is fetched through the guard, without redirects, in bounded time, size and number, and remembered for a while.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use berth_deploy::source::guard::{HostPolicy, bound_client, resolve_guarded};
use serde::Deserialize;
use tokio::sync::Semaphore;
use url::Url;

use super::{
    client::{self, Client, Known},
    redirect,
};

/// The longest that fetching may take.
const TIME: Duration = Duration::from_secs(8);
/// Most bytes of a document.
const MAX_BYTES: usize = 16 * 1024;
/// Documents fetched at the same time.
const AT_ONCE: usize = 4;
/// How long a document is remembered, and how long that there is none.
const GOOD: Duration = Duration::from_secs(600);
const BAD: Duration = Duration::from_secs(30);
/// Documents remembered at most; when full, all are forgotten.
const REMEMBERED: usize = 200;

/// When a document was asked for, and what came.
type Remembered = (Instant, Result<Client, String>);

/// Fetches and remembers documents.
pub(super) struct Documents {
    policy: HostPolicy,
    allow_local: bool,
    known: Mutex<HashMap<String, Remembered>>,
    fetching: Semaphore,
}

/// The document, as far as it matters here.
#[derive(Deserialize)]
struct Document {
    client_id: String,
    #[serde(default)]
    client_name: Option<String>,
    redirect_uris: Vec<String>,
}

impl Documents {
    pub(super) fn new(policy: HostPolicy, allow_local: bool) -> Self {
        Self { policy, allow_local, known: Mutex::default(), fetching: Semaphore::new(AT_ONCE) }
    }

    /// Whether an id is the URL of a document.
    pub(super) fn is_url(id: &str) -> bool {
        id.contains("://")
    }

    /// What is remembered of a document.
    pub(super) fn remembered(&self, id: &str) -> Option<Result<Client, String>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, found) = known.get(id)?;
        let lasts = if found.is_ok() { GOOD } else { BAD };
        (at.elapsed() < lasts).then(|| found.clone())
    }

    /// Fetches a document.
    pub(super) async fn fetch(&self, id: &str) -> Result<Client, String> {
        let found = match self.address(id) {
            Ok(url) => {
                let _turn = self.fetching.acquire().await;
                tokio::time::timeout(TIME, self.get(&url, id))
                    .await
                    .unwrap_or_else(|_| Err(format!("it did not come within {} s", TIME.as_secs())))
            }
            Err(why) => return Err(why),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(id.to_owned(), (Instant::now(), found.clone()));
        found
    }

    /// The URL, if it is one that a client may have as its id.
    fn address(&self, id: &str) -> Result<Url, String> {
        let url = Url::parse(id).map_err(|_| "it is no URL".to_owned())?;
        let local = self.allow_local && url.scheme() == "http";
        if url.scheme() != "https" && !local {
            return Err("it is not an https:// URL".into());
        }
        if id.len() > 1000 || url.as_str() != id || url.fragment().is_some() || !url.username().is_empty() {
            return Err("it is not a plain URL".into());
        }
        if url.path().len() < 2 {
            return Err("it names no document, only a host".into());
        }
        Ok(url)
    }

    async fn get(&self, url: &Url, id: &str) -> Result<Client, String> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let addresses = resolve_guarded(&host, port, &self.policy).await.map_err(|e| e.to_string())?;
        let http = bound_client(&host, &addresses).build().map_err(|e| e.to_string())?;
        let failed = |e: reqwest::Error| format!("it cannot be fetched: {}", e.without_url());
        let asked = http.get(url.as_str()).header(http::header::ACCEPT, "application/json");
        let mut answer = asked.send().await.map_err(failed)?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("its host answered {}", answer.status().as_u16()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_BYTES {
                return Err(format!("it is larger than {} KiB", MAX_BYTES >> 10));
            }
        }
        read(&bytes, id, &host)
    }
}

fn read(bytes: &[u8], id: &str, host: &str) -> Result<Client, String> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|_| "it is no client's metadata in JSON".to_owned())?;
    if document.client_id != id {
        return Err("it is about another client_id".into());
    }
    if document.redirect_uris.is_empty() || document.redirect_uris.len() > client::MAX_REDIRECTS {
        return Err(format!("it must have 1 to {} redirect_uris", client::MAX_REDIRECTS));
    }
    for uri in &document.redirect_uris {
        redirect::check(uri)?;
    }
    Ok(Client {
        id: id.to_owned(),
        name: client::name(document.client_name.as_deref().unwrap_or(host)),
        redirects: document.redirect_uris,
        known: Known::ByDocument { host: host.to_owned() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_speaks_for_its_own_url_only() {
        let id = "https://client.example/oauth.json";
        let document = |id: &str, uris: &str| format!(r#"{{"client_id":"{id}","redirect_uris":{uris}}}"#);
        let read = |text: String| read(text.as_bytes(), id, "client.example");
        let good = read(document(id, r#"["https://client.example/cb"]"#)).unwrap();
        assert_eq!((good.name.as_str(), good.id.as_str()), ("client.example", id));
        assert!(read(document("https://other.example/x", r#"["https://client.example/cb"]"#)).is_err());
        assert!(read(document(id, "[]")).is_err());
        assert!(read(document(id, r#"["javascript://x"]"#)).is_err());
        assert!(read("{}".into()).is_err());
    }

    #[test]
    fn only_plain_encrypted_urls_are_asked() {
        let documents = Documents::new(HostPolicy::default(), false);
        assert!(documents.address("https://client.example/oauth.json").is_ok());
        for bad in [
            "http://client.example/oauth.json",
            "https://client.example/",
            "https://client.example",
            "https://u@client.example/x",
            "https://client.example/x#y",
            "https://client.example/a/../x",
            "file:///etc/passwd",
        ] {
            assert!(documents.address(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_lies_within_is_not_asked() {
        let documents = Documents::new(HostPolicy::default(), true);
        for id in ["http://127.0.0.1:1/x", "https://localhost/x", "https://169.254.169.254/x"] {
            let why = documents.fetch(id).await.unwrap_err();
            assert!(why.contains("refused"), "{id}: {why}");
            assert!(documents.remembered(id).is_some());
        }
    }
}
