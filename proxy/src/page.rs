//! What the platform says in its own name: small pages without any outside resource, or JSON for programs.
//!
//! Every answer made here carries `x-berth-error: CODE`, so that an app's own 502 and the platform's can be told
//! apart by people, monitors and clients.

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use http::{StatusCode, header};
use pingora::{http::ResponseHeader, protocols::http::ServerSession};

use crate::{access::AccessFault, request_id::RequestId, stamp::Stamp};

/// Why a route leads to no release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusPage {
    /// The first deployment is on its way.
    Starting {
        /// The app's name.
        app: String,
    },
    /// The app exists, but nothing was deployed yet.
    NotDeployed {
        /// The app's name.
        app: String,
    },
    /// The app was stopped by its owner.
    Stopped {
        /// The app's name.
        app: String,
    },
    /// The app's containers are not healthy.
    Unhealthy {
        /// The app's name.
        app: String,
    },
    /// The app's owner is working on it.
    Maintenance {
        /// The app's name.
        app: String,
        /// What the owner says to visitors.
        message: Option<String>,
        /// After how many seconds they should come again.
        retry_after_s: Option<u32>,
    },
}

/// When those come again who could not be held.
const PAUSED_RETRY_S: u32 = 5;

/// An answer in the platform's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) status: StatusCode,
    pub(crate) fault: AccessFault,
    title: &'static str,
    text: String,
    retry_after: Option<u32>,
}

impl Notice {
    pub(crate) fn of(page: &StatusPage) -> Self {
        match page {
            StatusPage::Starting { app } => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                fault: AccessFault::Starting,
                title: "Starting",
                text: format!("{app} is starting. This page tries again by itself."),
                retry_after: Some(3),
            },
            StatusPage::NotDeployed { app } => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                fault: AccessFault::NotDeployed,
                title: "Nothing here yet",
                text: format!("{app} exists, but nothing was deployed to it yet."),
                retry_after: Some(10),
            },
            StatusPage::Stopped { app } => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                fault: AccessFault::Stopped,
                title: "Stopped",
                text: format!("{app} was stopped by its owner."),
                retry_after: None,
            },
            StatusPage::Unhealthy { app } => Self::unhealthy(app),
            StatusPage::Maintenance { app, message, retry_after_s } => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                fault: AccessFault::Maintenance,
                title: "Maintenance",
                text: message
                    .clone()
                    .unwrap_or_else(|| format!("{app} is being worked on. Please come again later.")),
                retry_after: *retry_after_s,
            },
        }
    }

    /// For requests that were to wait, and waited too long or found no room.
    pub(crate) fn paused(app: &str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            fault: AccessFault::Paused,
            title: "One moment",
            text: format!("{app} is paused for a moment. This page tries again by itself."),
            retry_after: Some(PAUSED_RETRY_S),
        }
    }

    pub(crate) fn unhealthy(app: &str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            fault: AccessFault::Unhealthy,
            title: "Not available",
            text: format!("{app} cannot be reached at the moment. This page tries again by itself."),
            retry_after: Some(5),
        }
    }

    pub(crate) fn no_such_app(host: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            fault: AccessFault::NoSuchApp,
            title: "No such app",
            text: format!("Nothing is served at {host}, or not at this path. Check the address."),
            retry_after: None,
        }
    }

    pub(crate) fn forbidden() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            fault: AccessFault::Forbidden,
            title: "Forbidden",
            text: "This site does not answer your address.".to_owned(),
            retry_after: None,
        }
    }

    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            fault: AccessFault::RateLimited,
            title: "Too many requests",
            text: "Your address asks too often. Please come again a little later.".to_owned(),
            retry_after: Some(u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)),
        }
    }

    pub(crate) fn login_required() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            fault: AccessFault::LoginRequired,
            title: "Who are you?",
            text: "This site wants a name and a password.".to_owned(),
            retry_after: None,
        }
    }

    pub(crate) fn body_too_large(limit: u64) -> Self {
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            fault: AccessFault::BodyTooLarge,
            title: "Too large",
            text: format!("This site takes bodies of at most {limit} bytes."),
            retry_after: None,
        }
    }

    pub(crate) fn bad_request(why: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            fault: AccessFault::BadRequest,
            title: "Bad request",
            text: why.to_owned(),
            retry_after: None,
        }
    }

    pub(crate) fn no_answer(app: &str) -> Self {
        Self {
            status: StatusCode::BAD_GATEWAY,
            fault: AccessFault::NoAnswer,
            title: "No answer",
            text: format!("{app} closed the connection without a complete answer."),
            retry_after: None,
        }
    }

    pub(crate) fn timeout(app: &str) -> Self {
        Self {
            status: StatusCode::GATEWAY_TIMEOUT,
            fault: AccessFault::Timeout,
            title: "Timeout",
            text: format!("{app} did not answer in time."),
            retry_after: None,
        }
    }

    pub(crate) fn internal() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            fault: AccessFault::Internal,
            title: "Internal error",
            text: "The proxy could not handle the request.".to_owned(),
            retry_after: None,
        }
    }

    /// Writes the answer; the body in the form the client prefers.
    pub(crate) async fn send(&self, session: &mut ServerSession, stamp: &Stamp) -> pingora::Result<()> {
        let json = prefers_json(session);
        let body = Bytes::from(if json { self.json(stamp.id) } else { self.html(stamp.id) });
        let mut head = ResponseHeader::build(self.status, Some(10))?;
        head.insert_header(
            header::CONTENT_TYPE,
            if json { "application/json" } else { "text/html; charset=utf-8" },
        )?;
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
        head.insert_header(header::CACHE_CONTROL, "no-store")?;
        head.insert_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")?;
        head.insert_header("x-berth-error", self.fault.code())?;
        if self.fault == AccessFault::LoginRequired
            && let Some(guard) = stamp.rules.as_ref().and_then(|rules| rules.guard.as_ref())
        {
            head.insert_header(header::WWW_AUTHENTICATE, guard.challenge())?;
        }
        stamp.mark(&mut head)?;
        if let Some(seconds) = self.retry_after {
            head.insert_header(header::RETRY_AFTER, seconds)?;
        }
        if session.req_header().method == http::Method::HEAD {
            return session.write_response_header(Box::new(head)).await;
        }
        session.write_response_header(Box::new(head)).await?;
        session.write_response_body(body, true).await
    }

    fn json(&self, id: RequestId) -> String {
        serde_json::json!({
            "error": { "code": self.fault.code(), "message": self.text, "request_id": id.to_string() }
        })
        .to_string()
    }

    fn html(&self, id: RequestId) -> String {
        let mut text = String::with_capacity(self.text.len());
        escape(&self.text, &mut text);
        let mut refresh = String::new();
        if let Some(seconds) = self.retry_after {
            // Writing to a string does not fail.
            let _ = write!(refresh, "<meta http-equiv=\"refresh\" content=\"{seconds}\">");
        }
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">{refresh}\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title}</title>\
             <style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;margin:0;\
             min-height:100vh;display:grid;place-content:center;padding:1rem}}main{{max-width:32rem}}\
             h1{{font-size:1.5rem;margin:0 0 .5rem}}p{{margin:.25rem 0}}small{{opacity:.6}}</style></head>\
             <body><main><h1>{title}</h1><p>{text}</p><p><small>{status} · {code} · {id}</small></p></main></body>\
             </html>",
            title = self.title,
            status = self.status.as_u16(),
            code = self.fault.code(),
        )
    }
}

fn prefers_json(session: &ServerSession) -> bool {
    let accept =
        session.get_header(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let at = |kind: &str| accept.find(kind).unwrap_or(usize::MAX);
    at("application/json") < at("text/html")
}

fn escape(text: &str, into: &mut String) {
    for c in text.chars() {
        match c {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            c => into.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_self_contained_and_escapes_what_it_names() {
        let html = Notice::of(&StatusPage::Stopped { app: "<b>".into() }).html(RequestId::new(0));
        assert!(html.contains("&lt;b&gt; was stopped"));
        assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("<script"));
    }
}
