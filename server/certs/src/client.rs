//! HTTP to certificate authorities: with time limits, with the roots of private ones, and remembering when an
//! authority said to come again.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, header::RETRY_AFTER};
use http_body_util::BodyExt as _;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::lock::lock;

/// For one request, with its answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// For a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Largest answer that is read; chains are a few KiB.
const MAX_ANSWER: usize = 1 << 20;
/// Longest wait that an authority may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The client that all authorities are asked with.
///
/// # Errors
/// When the roots cannot be used.
pub(crate) fn build(root: Option<&[u8]>) -> Result<reqwest::Client, reqwest::Error> {
    // The one provider of the process; whoever was first has set the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
        .timeout(REQUEST_LIMIT)
        .connect_timeout(CONNECT_LIMIT)
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(root) = root {
        builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(root)?);
    }
    builder.build()
}

/// When an authority said to come again, if it did since the last look.
#[derive(Debug, Clone, Default)]
pub(crate) struct ComeAgain(Arc<Mutex<Option<SystemTime>>>);

impl ComeAgain {
    pub(crate) fn take(&self) -> Option<SystemTime> {
        lock(&self.0).take()
    }

    fn note(&self, at: SystemTime) {
        *lock(&self.0) = Some(at);
    }
}

/// What instant-acme talks through.
pub(crate) struct Http {
    pub(crate) client: reqwest::Client,
    pub(crate) come_again: ComeAgain,
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (client, come_again) = (self.client.clone(), self.come_again.clone());
        Box::pin(async move {
            let other = |e: reqwest::Error| Error::Other(Box::new(e.without_url()));
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let request = Request::from_parts(parts, body.to_bytes());
            let mut answer =
                client.execute(reqwest::Request::try_from(request).map_err(other)?).await.map_err(other)?;
            let mut bytes = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(other)? {
                if bytes.len() + chunk.len() > MAX_ANSWER {
                    return Err(Error::Str("the answer is too large"));
                }
                bytes.extend_from_slice(&chunk);
            }
            let mut parts = http::Response::new(()).into_parts().0;
            parts.status = answer.status();
            parts.headers = answer.headers().clone();
            if !parts.status.is_success()
                && let Some(at) =
                    parts.headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(come_again_at)
            {
                come_again.note(at);
            }
            Ok(BytesResponse { parts, body: Box::new(Bytes::from(bytes)) })
        })
    }
}

/// The time that a `Retry-After` names, in either of its forms (RFC 9110, 10.2.3).
fn come_again_at(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    let at = match text.parse::<u64>() {
        Ok(seconds) => SystemTime::now().checked_add(Duration::from_secs(seconds))?,
        Err(_) => httpdate::parse_http_date(text).ok()?,
    };
    Some(at.min(SystemTime::now() + LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_retry_after_are_understood() {
        let soon = come_again_at("120").unwrap().duration_since(SystemTime::now()).unwrap();
        assert!((118..=120).contains(&soon.as_secs()), "{soon:?}");
        assert!(come_again_at("Sun, 06 Nov 1994 08:49:37 GMT").unwrap() < SystemTime::now());
        let far = come_again_at("99999999").unwrap().duration_since(SystemTime::now()).unwrap();
        assert!(far <= LONGEST_WAIT);
        for bad in ["", "soon", "-1", "99999999999999999999"] {
            assert_eq!(come_again_at(bad), None, "{bad}");
        }
    }
}
