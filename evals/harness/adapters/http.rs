//! Asking a model's interface: keys in headers, patience with an interface that is busy.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::{StatusCode, header};
use serde_json::Value;

/// A long answer takes a while.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How often an interface that is busy is asked.
const TRIES: u32 = 5;
/// The longest wait that it may ask for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client of one interface.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
}

impl Client {
    pub(super) fn new(url: String, headers: header::HeaderMap) -> Result<Self> {
        crate::harness::choose_cryptography();
        let http = reqwest::Client::builder().timeout(TIMEOUT).default_headers(headers).build()?;
        Ok(Self { http, url })
    }

    /// Posts a body until it is answered; what is busy or broken for a moment is asked again.
    pub(super) async fn post(&self, body: &Value) -> Result<Value> {
        let mut pause = Duration::from_millis(500);
        for attempt in 1.. {
            let answer = self.http.post(&self.url).json(body).send().await;
            let again = attempt < TRIES;
            match answer {
                Ok(answer) if answer.status().is_success() => {
                    return answer.json().await.context("the model's answer is not JSON");
                }
                Ok(answer) if again && is_passing(answer.status()) => {
                    let asked = answer.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
                    let asked = asked.and_then(|v| v.parse().ok()).map(Duration::from_secs);
                    tokio::time::sleep(asked.unwrap_or(pause).min(PATIENCE)).await;
                }
                Ok(answer) => {
                    let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
                    let text: String = text.chars().take(400).collect();
                    bail!("{} answered {status}: {text}", self.url);
                }
                Err(error) if again && (error.is_connect() || error.is_timeout()) => {
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error).with_context(|| format!("asking {}", self.url)),
            }
            pause *= 2;
        }
        bail!("{} does not answer", self.url)
    }
}

/// 529 is what Anthropic's interface says when it is overloaded.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 409 | 429 | 500 | 502 | 503 | 504 | 529)
}

/// A header that is not shown in debug output.
pub(super) fn secret(value: &str) -> Result<header::HeaderValue> {
    let mut value =
        header::HeaderValue::from_str(value).context("the key has characters that no header may have")?;
    value.set_sensitive(true);
    Ok(value)
}
