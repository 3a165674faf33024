//! Why an order does not go on: what an authority said, sorted by what it means for the next try.

use std::time::SystemTime;

use berth_schemas::{Timestamp, domain::OrderTrouble};
use berth_store::{Fault, StoreError};
use instant_acme::{Error, Problem};

use crate::client::ComeAgain;

/// What every ACME error type begins with.
const PREFIX: &str = "urn:ietf:params:acme:error:";

/// The authority works, but wants another nonce (RFC 8555, 6.5): a try again is what it asks for.
pub(crate) const BAD_NONCE: &str = "badNonce";

/// Why work on an order stops.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The order comes to nothing.
    Failed {
        fault: Fault,
        trouble: OrderTrouble,
        /// The authority said not to come before.
        not_before: Option<Timestamp>,
    },
    /// Something passes; the order may go on later.
    Later { trouble: OrderTrouble, not_before: Option<Timestamp> },
    /// It has to wait, and that is noted already.
    Waits,
    /// The store does not work, or the order is not wanted any more.
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Stop {
    pub(crate) fn failed(fault: Fault, kind: &str, detail: impl Into<String>, at: Timestamp) -> Self {
        Self::Failed { fault, trouble: trouble(kind, detail, at), not_before: None }
    }

    pub(crate) fn unreachable(kind: &str, detail: impl Into<String>, at: Timestamp) -> Self {
        Self::Later { trouble: trouble(kind, detail, at), not_before: None }
    }

    pub(crate) fn refused(kind: &str, detail: impl Into<String>, at: Timestamp) -> Self {
        Self::failed(Fault::Refused, kind, detail, at)
    }
}

pub(crate) fn trouble(kind: &str, detail: impl Into<String>, at: Timestamp) -> OrderTrouble {
    OrderTrouble { kind: kind.to_owned(), detail: detail.into().into(), at }
}

/// What an error of the library means.
pub(crate) fn stop_of(error: Error, come_again: &ComeAgain, at: Timestamp) -> Stop {
    let not_before = come_again.take().and_then(timestamp);
    match error {
        Error::Api(problem) => of_problem(&problem, not_before, at),
        Error::Timeout(_) => {
            Stop::Later { trouble: trouble("timeout", "The authority has not decided yet.", at), not_before }
        }
        Error::Other(error) => {
            Stop::Later { trouble: trouble("unreachable", causes(error.as_ref()), at), not_before }
        }
        other => Stop::Later { trouble: trouble("unreachable", other.to_string(), at), not_before },
    }
}

/// What an authority's own words mean.
pub(crate) fn of_problem(problem: &Problem, not_before: Option<Timestamp>, at: Timestamp) -> Stop {
    let kind = kind(problem);
    let trouble = trouble(kind, words(problem), at);
    let fault = match kind {
        BAD_NONCE | "serverInternal" | "orderNotReady" => return Stop::Later { trouble, not_before },
        "rateLimited" => Fault::Limited,
        // Some say so by the status alone.
        _ if problem.status == Some(429) => Fault::Limited,
        "dns" | "connection" | "unauthorized" | "incorrectResponse" | "tls" => Fault::Validation,
        _ if problem.status.is_some_and(|s| s >= 500) => return Stop::Later { trouble, not_before },
        _ => Fault::Refused,
    };
    // What was refused for good stays refused after any wait.
    let not_before = not_before.filter(|_| fault == Fault::Limited);
    Stop::Failed { fault, trouble, not_before }
}

/// Whether an order that names the certificate it replaces (RFC 9773, 5) was refused for that name, so that the same
/// order without it may be taken. A refusal for anything else is not to be answered by asking again at once.
pub(crate) fn is_about_replaces(error: &Error) -> bool {
    match error {
        Error::Api(problem) => {
            let kinds = ["alreadyReplaced", "malformed", "unauthorized", "conflict"];
            kinds.contains(&kind(problem)) || matches!(problem.status, Some(404 | 409))
        }
        // It knows no renewal information.
        Error::Unsupported(_) => true,
        // The library says so of an answer without the name.
        Error::Other(error) => error.to_string().starts_with("replaces field mismatch"),
        _ => false,
    }
}

/// The error's type without what all have in common.
pub(crate) fn kind(problem: &Problem) -> &str {
    match problem.r#type.as_deref() {
        Some(kind) => kind.strip_prefix(PREFIX).unwrap_or(kind),
        None => "unknown",
    }
}

/// What an authority said, with what it said of each name.
fn words(problem: &Problem) -> String {
    let mut words = problem.detail.clone().unwrap_or_else(|| "The authority gave no reason.".to_owned());
    for sub in &problem.subproblems {
        words.push_str(&format!(" [{sub}]"));
    }
    words
}

/// An error with what caused it: libraries say only the outermost by themselves.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

fn timestamp(at: SystemTime) -> Option<Timestamp> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_micros()).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: &str, status: u16) -> Stop {
        let json = serde_json::json!({ "type": format!("{PREFIX}{kind}"), "detail": "no", "status": status });
        of_problem(&serde_json::from_value(json).unwrap(), None, Timestamp(1))
    }

    #[test]
    fn only_what_is_about_the_replaced_certificate_is_asked_for_without_it() {
        let said = |kind: &str, status: u16| {
            let json =
                serde_json::json!({ "type": format!("{PREFIX}{kind}"), "detail": "no", "status": status });
            Error::Api(serde_json::from_value(json).unwrap())
        };
        for about in [said("alreadyReplaced", 409), said("malformed", 400), said("unauthorized", 403)] {
            assert!(is_about_replaces(&about), "{about:?}");
        }
        assert!(is_about_replaces(&Error::Unsupported("ARI")));
        assert!(is_about_replaces(&Error::Other("replaces field mismatch: expected a, found b".into())));
        for other in [said("rateLimited", 429), said("serverInternal", 500), said("caa", 403)] {
            assert!(!is_about_replaces(&other), "{other:?}");
        }
        assert!(!is_about_replaces(&Error::Other("connection refused".into())));
    }

    #[test]
    fn who_has_had_enough_says_when_to_come_again() {
        let of = |kind: &str, status: u16| {
            let json = serde_json::json!({ "type": format!("{PREFIX}{kind}"), "status": status });
            of_problem(&serde_json::from_value(json).unwrap(), Some(Timestamp(9)), Timestamp(1))
        };
        for (kind, status) in [("rateLimited", 429), ("odd", 429)] {
            let Stop::Failed { fault, not_before, .. } = of(kind, status) else { panic!("{kind}") };
            assert_eq!((fault, not_before), (Fault::Limited, Some(Timestamp(9))), "{kind}");
        }
        let Stop::Failed { not_before, .. } = of("caa", 403) else { panic!() };
        assert_eq!(not_before, None);
        assert!(matches!(of("odd", 503), Stop::Later { not_before: Some(Timestamp(9)), .. }));
    }

    #[test]
    fn an_authoritys_words_are_sorted() {
        for (kind, wanted) in [
            ("rateLimited", Fault::Limited),
            ("dns", Fault::Validation),
            ("unauthorized", Fault::Validation),
            ("connection", Fault::Validation),
            ("caa", Fault::Refused),
            ("rejectedIdentifier", Fault::Refused),
            ("externalAccountRequired", Fault::Refused),
        ] {
            let Stop::Failed { fault, trouble, .. } = said(kind, 403) else { panic!("{kind}") };
            assert_eq!((fault, trouble.kind.as_str(), trouble.detail.0.as_str()), (wanted, kind, "no"));
        }
        for passes in [said("badNonce", 400), said("serverInternal", 500), said("odd", 503)] {
            assert!(matches!(passes, Stop::Later { .. }), "{passes:?}");
        }
    }
}
