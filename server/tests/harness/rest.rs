//! REST in a word: `berth.rest().get("/v1/apps").await.ok()`.

use std::{sync::LazyLock, time::Duration};

use reqwest::{Method, header};
use serde_json::Value;

/// A client of one daemon with one token.
#[derive(Clone)]
pub struct Rest {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
    headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: header::HeaderMap,
    /// Body as text.
    pub text: String,
}

impl Rest {
    pub(super) fn new(url: &str, token: Option<&str>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(120))
            .build()
            .expect("an HTTP client");
        Self { http, url: url.to_owned(), token: token.map(str::to_owned), headers: Vec::new() }
    }

    /// With a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Under another host name.
    pub fn host(self, name: &str) -> Self {
        self.header("host", name)
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    /// Any method. What a tool answers has to be what its schema says.
    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.request(method.clone(), path);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = finish(request).await;
        conforms(&method, path, &answer);
        answer
    }

    /// POST of bytes.
    pub async fn upload(&self, content_type: &str, bytes: Vec<u8>) -> Answer {
        finish(
            self.request(Method::POST, "/v1/uploads").header(header::CONTENT_TYPE, content_type).body(bytes),
        )
        .await
    }

    /// A request with the token and the headers, for what has no word here.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request
    }
}

/// A tool's route and what it answers.
struct Route {
    name: &'static str,
    method: &'static str,
    path: Vec<&'static str>,
    output: jsonschema::Validator,
}

impl Route {
    /// How many parts of a path are literally this route's, if it is this route at all.
    fn fits(&self, method: &Method, path: &[&str]) -> Option<usize> {
        let fits = |(own, given): (&&str, &&str)| own.starts_with('{') || own == given;
        let same = self.method == method.as_str() && self.path.len() == path.len();
        let same = same && self.path.iter().zip(path).all(fits);
        same.then(|| self.path.iter().filter(|part| !part.starts_with('{')).count())
    }
}

/// Fails when a tool's route answered with what its schema does not allow.
fn conforms(method: &Method, path: &str, answer: &Answer) {
    static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
        let registry = berth_tools::registry();
        let routes = registry.tools().iter().map(|tool| Route {
            name: tool.spec.name,
            method: tool.spec.method.as_str(),
            path: tool.spec.path.split('/').collect(),
            output: jsonschema::validator_for(&tool.output).expect("a schema"),
        });
        routes.collect()
    });
    if !(200..300).contains(&answer.status) || answer.header("content-type") != "application/json" {
        return;
    }
    let path: Vec<&str> = path.split('?').next().unwrap_or_default().split('/').collect();
    let found = ROUTES.iter().filter_map(|r| Some((r.fits(method, &path)?, r)));
    let Some((_, route)) = found.max_by_key(|(literal, _)| *literal) else { return };
    let body = answer.json();
    let faults = route.output.iter_errors(&body).map(|e| format!("{}: {e}", e.instance_path()));
    let faults: Vec<String> = faults.collect();
    assert!(
        faults.is_empty(),
        "{} answers otherwise than its schema: {faults:#?}\n{}",
        route.name,
        answer.text
    );
}

async fn finish(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.expect("a body") }
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text))
    }

    /// The body of an answer that must be good.
    pub fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, self.text);
        self.json()
    }

    /// The body of an answer that must be this problem.
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!((self.status, body["code"].as_str()), (status, Some(code)), "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(body["status"], status);
        for field in ["type", "title", "detail"] {
            assert!(body[field].as_str().is_some_and(|t| !t.is_empty()), "{field}: {body}");
        }
        body
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The events of a stream: name and data.
    pub fn events(&self) -> Vec<(String, Value)> {
        assert!(self.header("content-type").starts_with("text/event-stream"), "{}", self.text);
        let mut parser = berth::cli::sse::Parser::default();
        let events = parser.feed(self.text.as_bytes()).expect("events of a sane size");
        events.into_iter().map(|e| (e.name, serde_json::from_str(&e.data).expect("JSON data"))).collect()
    }
}
