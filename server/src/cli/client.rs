//! The daemon's REST API, as the command line uses it.

use std::{path::PathBuf, time::Duration};

use berth_schemas::{Code, Problem, upload::Upload};
use berth_tools::{Method, Tool};
use bytes::Bytes;
use clap::ArgMatches;
use futures_util::{Stream, StreamExt as _};
use reqwest::{RequestBuilder, Response, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    contexts::{self, Contexts},
    failure::Failure,
    patience::{self, patiently},
    sse::{Event, Parser},
};
use crate::{config, presence::Presence, route};

/// Where to connect, and as whom.
#[derive(Clone)]
pub struct Target {
    /// URL of the daemon, without a trailing slash.
    pub url: String,
    /// Access token, if one is known.
    pub token: Option<String>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Target {
    /// From flags, the environment, the stored logins and the local daemon, in this order. A stored token goes
    /// only to the URL that it was stored with.
    ///
    /// # Errors
    /// When a named login does not exist.
    pub fn find(matches: &ArgMatches) -> Result<Self, Failure> {
        let given = |name: &str| matches.get_one::<String>(name).filter(|t| !t.is_empty()).cloned();
        let stored = Contexts::load(&contexts::path())?;
        let token = given("token");
        if let Some(url) = given("url") {
            let url = checked(&url)?;
            let known = stored.contexts.values().find(|l| l.url == url).map(|l| l.token.clone());
            return Ok(Self { token: token.or(known), url });
        }
        let name = given("context").or(stored.current.clone());
        if let Some(name) = name {
            let login = stored.contexts.get(&name).ok_or_else(|| {
                let known: Vec<&str> = stored.contexts.keys().map(String::as_str).collect();
                Failure::usage(format!("there is no stored login {name:?}; known: {}", known.join(", ")))
            })?;
            return Ok(Self { url: login.url.clone(), token: token.or_else(|| Some(login.token.clone())) });
        }
        Ok(Self { url: local_daemon(), token })
    }
}

/// URL of the daemon on this machine, as its data directory tells; else the default one.
#[must_use]
pub fn local_daemon() -> String {
    let given = std::env::var_os("BERTH_DATA_DIR").map(PathBuf::from);
    let places = given.into_iter().chain([config::default_data_dir(), "/var/lib/berth".into()]);
    let found = places.filter_map(|dir| Presence::read(&dir)).map(|p| p.control_url).next();
    found.unwrap_or_else(|| "http://127.0.0.1:7700".into())
}

/// A URL as given by a person, made canonical.
///
/// # Errors
/// When it is no http(s) URL.
pub fn checked(url: &str) -> Result<String, Failure> {
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let parsed: reqwest::Url = full.parse().map_err(|_| Failure::usage(format!("{url:?} is no URL")))?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
        return Err(Failure::usage(format!("{url:?} is no http:// or https:// URL")));
    }
    Ok(full.trim_end_matches('/').to_owned())
}

/// A connection to the daemon.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Where it goes.
    pub target: Target,
    /// Whether a person sees standard error, who is told what takes its time.
    told: bool,
}

impl Client {
    /// A client for `target`.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(target: Target) -> Result<Self, Failure> {
        // Redirects could carry the token elsewhere; loopback must not go through a proxy.
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true);
        if is_local(&target.url) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| Failure::local(format!("cannot set up HTTP: {e}")))?;
        Ok(Self { http, target, told: false })
    }

    /// The same, saying on standard error what takes its time.
    #[must_use]
    pub fn told(self) -> Self {
        Self { told: true, ..self }
    }

    /// Calls a tool and returns its output.
    ///
    /// # Errors
    /// Whatever the daemon answers, or that it does not.
    pub async fn call(&self, tool: &Tool, input: Map<String, Value>) -> Result<Value, Failure> {
        let request = self.tool(tool, input)?.timeout(Duration::from_secs(120));
        let answer = async { json(self.send(request).await?).await };
        if self.told { patiently(tool.spec.title, answer, patience::aloud).await } else { answer.await }
    }

    /// Calls a tool and returns what it tells, as it tells it.
    ///
    /// # Errors
    /// Whatever the daemon answers, or that it does not.
    pub async fn follow(
        &self,
        tool: &Tool,
        input: Map<String, Value>,
    ) -> Result<impl Stream<Item = Result<Event, Failure>> + Unpin + use<>, Failure> {
        let request = self.tool(tool, input)?.header(header::ACCEPT, "text/event-stream");
        let response = self.send(request).await?;
        Ok(Box::pin(events(response)))
    }

    /// Uploads a source archive of `bytes` bytes.
    ///
    /// # Errors
    /// Whatever the daemon answers, or that it does not.
    pub async fn upload<S>(&self, bytes: u64, archive: S) -> Result<Upload, Failure>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let request = self
            .http
            .post(format!("{}/v1/uploads", self.target.url))
            .header(header::CONTENT_TYPE, "application/gzip")
            .header(header::CONTENT_LENGTH, bytes)
            .body(reqwest::Body::wrap_stream(archive));
        let answer = json(self.send(request).await?).await?;
        understood(answer)
    }

    /// A request to any path of the daemon, with the token.
    #[must_use = "a request does nothing until it is sent"]
    pub fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.target.url))
    }

    fn tool(&self, tool: &Tool, input: Map<String, Value>) -> Result<RequestBuilder, Failure> {
        let request = route::request(&tool.spec, input)
            .map_err(|field| Failure::usage(format!("{field} is missing")))?;
        let builder = self.request(method(tool.spec.method), &request.target);
        Ok(match request.body {
            Some(body) => builder.json(&body),
            None => builder,
        })
    }

    /// Sends a request; an answer that is an error becomes a failure.
    ///
    /// # Errors
    /// Whatever the daemon answers, or that it does not.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let request = match &self.target.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refused(response).await)
    }

    async fn refused(&self, response: Response) -> Failure {
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if problem.code == Code::Unauthenticated && self.target.token.is_none() => {
                problem.hint(format!("Log in first: berth login {}", self.target.url)).into()
            }
            Ok(problem) => problem.into(),
            Err(_) => Failure::local(format!(
                "{} answered {status}, and not as a Berth daemon does",
                self.target.url
            ))
            .hint("Check the URL; `berth login URL` stores another one."),
        }
    }

    /// What to say when there is no answer.
    #[must_use]
    pub fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let text = if error.is_timeout() && !error.is_connect() {
            format!("the daemon at {} did not answer in time", self.target.url)
        } else {
            format!("cannot reach the daemon at {}: {}", self.target.url, root_cause(error))
        };
        let hint = if is_local(&self.target.url) {
            "Start it with `berth serve`, or `systemctl start berth` where it is installed as a service; --url names another one."
        } else {
            "Check the URL and the network; `berth login URL` stores another one."
        };
        Failure::Unreachable { text, hint: hint.into() }
    }
}

fn events(response: Response) -> impl Stream<Item = Result<Event, Failure>> {
    let chunks = response.bytes_stream();
    let state = (chunks, Parser::default(), std::collections::VecDeque::new());
    futures_util::stream::unfold(state, |(mut chunks, mut parser, mut ready)| async move {
        loop {
            if let Some(event) = ready.pop_front() {
                return Some((Ok(event), (chunks, parser, ready)));
            }
            let broken = |text: String| Failure::Unreachable {
                text,
                hint: "The daemon may be restarting; what was begun goes on.".into(),
            };
            match chunks.next().await? {
                Ok(bytes) => match parser.feed(&bytes) {
                    Some(events) => ready.extend(events),
                    None => {
                        return Some((
                            Err(broken("the daemon's event is too large".into())),
                            (chunks, parser, ready),
                        ));
                    }
                },
                Err(e) => {
                    let text = format!("the connection to the daemon broke: {}", root_cause(&e));
                    return Some((Err(broken(text)), (chunks, parser, ready)));
                }
            }
        }
    })
}

/// An answer as the type that the tool promises.
pub(super) fn understood<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|e| {
        Failure::local(format!("the daemon's answer is not understood: {e}"))
            .hint("Are both of the same version? `berth version` tells.")
    })
}

async fn json(response: Response) -> Result<Value, Failure> {
    response
        .json()
        .await
        .map_err(|e| Failure::local(format!("the daemon's answer is not JSON: {}", root_cause(&e))))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn is_local(url: &str) -> bool {
    let host =
        url.parse::<reqwest::Url>().ok().and_then(|u| u.host_str().map(str::to_owned)).unwrap_or_default();
    host == "localhost" || host.starts_with("127.") || host == "[::1]"
}

fn method(method: Method) -> reqwest::Method {
    match method {
        Method::Get => reqwest::Method::GET,
        Method::Post => reqwest::Method::POST,
        Method::Put => reqwest::Method::PUT,
        Method::Patch => reqwest::Method::PATCH,
        Method::Delete => reqwest::Method::DELETE,
    }
}
