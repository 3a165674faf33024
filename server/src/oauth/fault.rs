//! A refusal as OAuth programs read it (RFC 6749, section 5.2).

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use berth_schemas::{Code, Problem};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

/// A refusal.
#[derive(Debug)]
pub(super) struct Fault {
    /// OAuth's word for it.
    pub(super) error: &'static str,
    /// What is wrong, in a sentence.
    pub(super) description: String,
    status: StatusCode,
    wait: Option<u64>,
}

impl Fault {
    pub(super) fn new(error: &'static str, description: impl Into<String>) -> Self {
        let status =
            if error == "invalid_client" { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST };
        Self { error, description: description.into(), status, wait: None }
    }

    /// Too much in too short a time; not before so many seconds.
    pub(super) fn too_often(what: &str, wait: std::time::Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        Self {
            error: "temporarily_unavailable",
            description: format!("{what} Wait {seconds} seconds."),
            status: StatusCode::TOO_MANY_REQUESTS,
            wait: Some(seconds),
        }
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        let (error, status) = match problem.code {
            Code::Internal => ("server_error", StatusCode::INTERNAL_SERVER_ERROR),
            Code::Forbidden => ("access_denied", StatusCode::FORBIDDEN),
            Code::Unavailable | Code::OutOfDisk | Code::Conflict => {
                ("temporarily_unavailable", StatusCode::SERVICE_UNAVAILABLE)
            }
            _ => ("invalid_request", StatusCode::BAD_REQUEST),
        };
        Self { error, description: problem.to_string(), status, wait: None }
    }
}

impl From<berth_store::StoreError> for Fault {
    fn from(error: berth_store::StoreError) -> Self {
        Problem::from(error).into()
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.error, "error_description": self.description });
        let mut response = (self.status, Json(body)).into_response();
        if let Some(wait) = self.wait {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
        }
        response
    }
}
