//! What the providers with an HTTP interface share: one host, JSON both ways, limits, and what to do when they say no.

use std::time::Duration;

use reqwest::{
    Method, StatusCode,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::dns::fault::DnsFault;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Largest answer that is read, in bytes.
const MOST_BYTES: usize = 4 << 20;
/// Longest text of a provider that is told on, in characters.
const LONGEST_SAID: usize = 500;
/// How often a request is sent again when the provider is busy or broken.
const RETRIES: u32 = 2;
/// Longest wait for a busy provider within one call; with a longer one, the caller decides.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Pages of a list that are read at most.
pub(super) const MOST_PAGES: u32 = 100;

/// A provider's interface.
pub(super) struct Api {
    /// What the provider is called in errors.
    pub(super) title: &'static str,
    base: String,
    http: reqwest::Client,
}

/// What came back.
pub(super) struct Reply {
    title: &'static str,
    status: StatusCode,
    body: Vec<u8>,
}

impl Api {
    /// The interface at `base`, without a slash at the end; `token` goes into the Authorization header.
    pub(super) fn new(title: &'static str, base: &str, token: Option<&str>) -> Result<Self, DnsFault> {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| {
                DnsFault::Malformed("the token holds characters that no token has".to_owned())
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(LIMIT)
            .build()
            .map_err(|e| DnsFault::Unreachable { provider: title, reason: cause(&e) })?;
        Ok(Self { title, base: base.to_owned(), http })
    }

    /// Where the interface is.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Sends JSON, or nothing, and takes what comes.
    pub(super) async fn json(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Reply, DnsFault> {
        self.send(|| {
            let request = self.http.request(method.clone(), format!("{}{path}", self.base)).query(query);
            match body {
                Some(body) => request.json(body),
                None => request,
            }
        })
        .await
    }

    /// Sends a request that `make` makes, and again when the provider is busy or broken: all that is sent here may be
    /// sent twice.
    pub(super) async fn send(&self, make: impl Fn() -> reqwest::RequestBuilder) -> Result<Reply, DnsFault> {
        let mut tries = 0;
        loop {
            let unreachable =
                |e: reqwest::Error| DnsFault::Unreachable { provider: self.title, reason: cause(&e) };
            let response = make().send().await.map_err(unreachable)?;
            let status = response.status();
            let wait = response.headers().get(RETRY_AFTER).and_then(seconds);
            let body =
                read(response).await.map_err(|reason| DnsFault::Strange { provider: self.title, reason })?;
            let again = match (status.as_u16(), wait) {
                (429, wait) => wait.unwrap_or(Duration::from_secs(2)),
                (502..=504, _) => Duration::from_secs(1),
                _ => return Ok(Reply { title: self.title, status, body }),
            };
            tries += 1;
            if tries > RETRIES || again > LONGEST_WAIT {
                let said = shortened(&String::from_utf8_lossy(&body));
                return Err(match status.as_u16() {
                    429 => DnsFault::Busy { provider: self.title, retry_after: wait, said },
                    _ => {
                        DnsFault::Unreachable { provider: self.title, reason: format!("it answers {status}") }
                    }
                });
            }
            tokio::time::sleep(again).await;
        }
    }

    /// A request without a body, for those who sign it themselves.
    pub(super) fn request(&self, method: Method, url: &str) -> reqwest::RequestBuilder {
        self.http.request(method, url)
    }
}

impl Reply {
    /// Whether this is the status.
    pub(super) fn is(&self, status: u16) -> bool {
        self.status.as_u16() == status
    }

    /// The body as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, if the request was granted; else the fault, in the words that `said` finds in it.
    pub(super) fn granted<T: DeserializeOwned>(
        &self,
        said: impl Fn(&Value) -> Option<String>,
    ) -> Result<T, DnsFault> {
        self.check(said)?;
        serde_json::from_slice(&self.body)
            .map_err(|e| DnsFault::Strange { provider: self.title, reason: e.to_string() })
    }

    /// The fault, if the request was not granted.
    pub(super) fn check(&self, said: impl Fn(&Value) -> Option<String>) -> Result<(), DnsFault> {
        if self.status.is_success() {
            return Ok(());
        }
        let value: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let said = said(&value).unwrap_or_else(|| self.text());
        Err(self.fault(said))
    }

    /// The fault that this answer is, with what the provider said.
    pub(super) fn fault(&self, said: String) -> DnsFault {
        let said = shortened(&said);
        match self.status.as_u16() {
            401 | 403 => DnsFault::Refused { provider: self.title, said },
            _ => DnsFault::Rejected { provider: self.title, status: self.status.to_string(), said },
        }
    }
}

/// The text at one of these places of an error.
pub(super) fn text_at(value: &Value, places: &[&str]) -> Option<String> {
    places.iter().find_map(|place| value.pointer(place)?.as_str().map(str::to_owned))
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_SAID).collect()
}

/// Retry-After in seconds; as a date it is not used by any of these providers.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| cause(&e))? {
        if body.len() + chunk.len() > MOST_BYTES {
            return Err(format!("more than {MOST_BYTES} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The innermost reason of an error, without the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}
