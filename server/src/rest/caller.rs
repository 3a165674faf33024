//! What a request says of the program that makes it, for the audit log.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use berth_tools::{RequestId, Via};
use http::{header, request::Parts};

/// The program that calls, by its own word.
#[derive(Debug)]
pub struct Caller {
    agent: Option<String>,
    request_id: Option<String>,
}

impl Caller {
    /// Of a request's head.
    #[must_use]
    pub fn of(parts: &Parts) -> Self {
        let agent = parts.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
        let id = parts.extensions.get::<RequestId>();
        Self { agent: agent.map(str::to_owned), request_id: id.map(|id| id.0.clone()) }
    }

    /// Calls by REST.
    #[must_use]
    pub fn by_rest(self) -> Via {
        Via::rest(self.agent.as_deref(), self.request_id)
    }

    /// Speaks git's protocol.
    #[must_use]
    pub fn by_git(self) -> Via {
        Via::git(self.agent.as_deref(), self.request_id)
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}
