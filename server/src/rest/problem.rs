//! An error as HTTP carries it: `application/problem+json` (RFC 9457) with our own fields beside the
//! standard ones. Which status a code has is said by [`berth_schemas::Code::http_status`].

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use berth_schemas::{Code, Problem};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// A problem on its way to an HTTP client.
#[derive(Debug)]
pub struct Refusal {
    problem: Problem,
    headers: Vec<(header::HeaderName, HeaderValue)>,
    status: Option<StatusCode>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let wait = problem.retry_after_s.map(|s| (header::RETRY_AFTER, HeaderValue::from(s)));
        Self { problem, headers: wait.into_iter().collect(), status: None }
    }
}

impl Refusal {
    /// A problem with a code and a sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.problem.code
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem.hint = Some(hint.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Answers with a status of HTTP's own (405, 415) instead of the code's.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status.unwrap_or_else(|| status(self.problem.code));
        let mut response = Response::new(Body::from(body(&self.problem, status).to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.headers.into_iter().map(|(name, value)| (Some(name), value)));
        response
    }
}

fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The body for a problem, also sent as the last event of a stream.
#[must_use]
pub fn document(problem: &Problem) -> Value {
    body(problem, status(problem.code))
}

fn body(problem: &Problem, status: StatusCode) -> Value {
    let mut body = json!({
        "type": format!("/docs#problem-{}", problem.code.as_str()),
        "title": title(problem.code),
        "status": status.as_u16(),
    });
    if let (Value::Object(body), Ok(Value::Object(fields))) = (&mut body, serde_json::to_value(problem)) {
        body.extend(fields);
    }
    body
}

/// The code as words for people.
#[must_use]
pub fn title(code: Code) -> String {
    let words = code.as_str().replace('_', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_standard_fields_and_ours() {
        let problem = Problem::not_found("app", "wbe", &["web".to_owned()]);
        let body = document(&problem);
        assert_eq!(body["title"], "Not found");
        assert_eq!(body["status"], 404);
        assert_eq!(body["code"], "not_found");
        assert_eq!(body["candidates"], json!(["web"]));
        assert_eq!(body["type"], "/docs#problem-not_found");
    }
}
