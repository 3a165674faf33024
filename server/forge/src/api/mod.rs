//! Talking to a forge's API: through the guard, with the credentials of a repository, in bounded time and size.

pub mod request;

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use berth_deploy::source::guard::{GuardError, HostPolicy, bound_client, resolve_guarded};
use berth_schemas::{Code, Problem, repository::ForgeKind};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;

use request::ApiRequest;

/// The longest that one request may take.
const TIME: Duration = Duration::from_secs(20);
/// The most bytes of an answer.
const MAX_ANSWER: usize = 4 << 20;

/// Who Berth is towards an API.
#[derive(Clone)]
pub enum ApiAuth {
    /// Nobody.
    None,
    /// The bearer of a token; whose, where that matters.
    Token {
        /// The user.
        user: Option<String>,
        /// The token.
        token: String,
    },
}

impl std::fmt::Debug for ApiAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiAuth(…)")
    }
}

/// A forge's API.
#[derive(Debug, Clone)]
pub struct Api {
    /// What kind of forge it is.
    pub kind: ForgeKind,
    /// Its base, without a trailing slash.
    pub base: String,
    /// Who Berth is there.
    pub auth: ApiAuth,
    /// Which hosts may be talked to.
    pub policy: HostPolicy,
}

/// Why a request came to nothing.
#[derive(Debug, Clone)]
pub struct ApiFailure {
    /// What to tell.
    pub problem: Problem,
    /// Whether trying again may help.
    pub transient: bool,
    /// Not before this has passed, if the forge said so.
    pub after: Option<Duration>,
}

impl Api {
    /// Sends a request; the answer is JSON, or null.
    ///
    /// # Errors
    /// [`ApiFailure`].
    pub async fn call(&self, request: &ApiRequest) -> Result<Value, ApiFailure> {
        tokio::time::timeout(TIME, self.send(request))
            .await
            .unwrap_or_else(|_| Err(self.unreachable(&format!("no answer within {} s", TIME.as_secs()))))
    }

    async fn send(&self, request: &ApiRequest) -> Result<Value, ApiFailure> {
        let url = format!("{}{}", self.base, request.path);
        let uri: http::Uri = url.parse().map_err(|_| self.unreachable("its address is none"))?;
        let host = uri.host().unwrap_or_default().to_owned();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let addresses = resolve_guarded(&host, port, &self.policy).await.map_err(|e| self.forbidden(&e))?;
        let client = bound_client(&host, &addresses).build().map_err(|e| self.unreachable(&e.to_string()))?;
        let mut asked = client.request(request.method.clone(), &url).headers(self.headers()?);
        if let Some(body) = &request.body {
            asked = asked.json(body);
        }
        let mut answer = asked.send().await.map_err(|e| self.unreachable(&root_cause(&e)))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreachable(&root_cause(&e)))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_ANSWER {
                return Err(self.unreachable("its answer is too large"));
            }
        }
        let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() { Ok(value) } else { Err(self.refused(request, status, &headers, &value)) }
    }

    fn headers(&self) -> Result<HeaderMap, ApiFailure> {
        let mut headers = HeaderMap::new();
        let accept =
            if self.kind == ForgeKind::Github { "application/vnd.github+json" } else { "application/json" };
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if self.kind == ForgeKind::Github {
            headers.insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
        }
        if let ApiAuth::Token { user, token } = &self.auth {
            let (name, value) = match (self.kind, user) {
                (ForgeKind::Gitlab, _) => ("private-token", token.clone()),
                (ForgeKind::Gitea | ForgeKind::Forgejo, _) => ("authorization", format!("token {token}")),
                (ForgeKind::Bitbucket, Some(user)) => {
                    ("authorization", format!("Basic {}", BASE64.encode(format!("{user}:{token}"))))
                }
                _ => ("authorization", format!("Bearer {token}")),
            };
            let mut value = HeaderValue::from_str(&value).map_err(|_| ApiFailure {
                problem: Problem::invalid("access_token", "The token has characters that no token has."),
                transient: false,
                after: None,
            })?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    fn unreachable(&self, why: &str) -> ApiFailure {
        let problem = Problem::new(
            Code::Unavailable,
            format!("The API of {} at {} cannot be used: {why}.", self.kind.title(), self.base),
        )
        .hint("Check the host's name and this server's network; Berth tries again by itself.");
        ApiFailure { problem, transient: true, after: None }
    }

    fn forbidden(&self, error: &GuardError) -> ApiFailure {
        let mut failure = self.unreachable(&error.to_string());
        if let GuardError::Forbidden { .. } = error {
            failure.transient = false;
            failure.problem.hint = Some(
                "An administrator can allow private addresses with the setting allow_private_sources.".into(),
            );
        }
        failure
    }

    fn refused(
        &self,
        request: &ApiRequest,
        status: StatusCode,
        headers: &HeaderMap,
        body: &Value,
    ) -> ApiFailure {
        let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
        let spent = number("x-ratelimit-remaining") == Some(0);
        let limited = status == StatusCode::TOO_MANY_REQUESTS || (status == StatusCode::FORBIDDEN && spent);
        let until = number("x-ratelimit-reset").or_else(|| number("ratelimit-reset")).filter(|_| limited);
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let after = number("retry-after").or_else(|| until.map(|at| at.saturating_sub(now)));
        let after = after.map(|s| Duration::from_secs(s.clamp(1, 3600)));
        // The forge's words are somebody else's text, and may hold anything: a short piece, in quotes.
        let said = body["message"].as_str().or(body["error"]["message"].as_str()).or(body["error"].as_str());
        let said: String = said.unwrap_or_default().chars().filter(|c| !c.is_control()).take(160).collect();
        let said = if said.is_empty() { String::new() } else { format!(" ({said:?})") };
        let title = self.kind.title();
        let (code, hint) = match status.as_u16() {
            _ if limited => (Code::RateLimited, "Berth waits as long as the forge asks, and tries again."),
            401 => (
                Code::Forbidden,
                "The token is not valid any more: connect the repository again with a new one.",
            ),
            403 | 404 => (
                Code::Forbidden,
                "The credentials lack a permission: webhooks want administration, statuses want write access; without \
                 it, set up the webhook by hand.",
            ),
            500.. => (Code::Unavailable, "Berth tries again by itself."),
            _ => (Code::Unavailable, "The forge did not accept this; its words say why."),
        };
        let detail =
            format!("{title} answered {} to {} {}{said}.", status.as_u16(), request.method, request.path);
        let transient = limited || status.is_server_error();
        ApiFailure { problem: Problem::new(code, detail).hint(hint).quoting(), transient, after }
    }
}

/// The innermost reason: reqwest's outer words name the URL only.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
