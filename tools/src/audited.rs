//! Writes down each call of a tool (see [`crate::registry::Tool::call`]), and what comes in by a door of its own.

use std::{future::Future, time::Instant};

use berth_schemas::{Problem, audit::Surface};
use berth_store::{Ended, NewCall, Store, model::Principal};
use serde_json::Value;

use crate::{
    context::Context,
    registry::{Call, Spec},
    text::printable,
};

/// Fields that name what a call is about, besides those of its path. None of them can hold a secret.
const NAMES: [&str; 8] = ["project", "app", "environment", "name", "domain", "release", "replicas", "branch"];
/// Longest name that is kept, in characters.
const MAX_NAME: usize = 60;
/// Characters that are kept of what looks like a token's secret.
const SHOWN: usize = 12;

/// How a call came in.
#[derive(Debug, Clone, Default)]
pub struct Via {
    /// By which surface.
    pub surface: Surface,
    /// What the calling program says that it is.
    pub client: Option<String>,
    /// The request's id.
    pub request_id: Option<String>,
}

/// The id of a request over HTTP, as surfaces pass it on in the request's extensions.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

impl Via {
    /// The command line and other programs come the same way, and are told apart by what they say of themselves.
    #[must_use]
    pub fn rest(client: Option<&str>, request_id: Option<String>) -> Self {
        let own = client.is_some_and(|c| c.starts_with("berth/"));
        let surface = if own { Surface::Cli } else { Surface::Rest };
        Self { surface, client: client.map(shown), request_id }
    }

    /// A request of git.
    #[must_use]
    pub fn git(client: Option<&str>, request_id: Option<String>) -> Self {
        Self { surface: Surface::Git, client: client.map(shown), request_id }
    }

    /// A call by MCP.
    #[must_use]
    pub fn mcp(client: Option<&str>, request_id: Option<String>) -> Self {
        Self { surface: Surface::Mcp, client: client.map(shown), request_id }
    }
}

fn shown(text: &str) -> String {
    printable(text).chars().filter(|c| !c.is_control()).take(80).collect()
}

/// What comes in by a door of its own and not as a call of a tool.
#[derive(Debug)]
pub struct Outside<'a> {
    /// Who comes.
    pub who: &'a Principal,
    /// How.
    pub via: Via,
    /// What is done, in the form of a tool's name.
    pub what: &'static str,
    /// Names of what it is about, such as app=shop.
    pub target: Option<String>,
}

impl Outside<'_> {
    fn known(self, context: &Context) -> NewCall {
        NewCall {
            at: context.store.clock().now(),
            principal: self.who.name.clone(),
            grant: self.who.grant.as_ref().map(|g| g.id.clone()),
            client: self.via.client,
            surface: self.via.surface,
            tool: self.what,
            target: self.target,
            request_id: self.via.request_id,
        }
    }

    /// Notes that something was read, and how that ended.
    pub fn noted(self, context: &Context, outcome: &'static str) {
        Reading::new(context.store.clone(), self.known(context)).ended(outcome);
    }

    /// Does something that changes something: it is written down before it begins, and how it ended.
    ///
    /// # Errors
    /// Those of what is done, and when it could not be written down.
    pub async fn watched<T>(
        self,
        context: &Context,
        doing: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let writing = Writing::begin(context.store.clone(), self.known(context)).await?;
        let hung_up = HungUp(Some(writing));
        let result = doing.await;
        if let Some(writing) = hung_up.not() {
            writing.ended(outcome(&result)).await;
        }
        result
    }
}

/// Says of something that it was cut off, when it is dropped.
struct HungUp(Option<Writing>);

impl HungUp {
    fn not(mut self) -> Option<Writing> {
        self.0.take()
    }
}

impl Drop for HungUp {
    fn drop(&mut self) {
        if let (Some(writing), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            drop(runtime.spawn(async move { writing.ended("cancelled").await }));
        }
    }
}

/// What is known of a call before it begins.
pub(crate) fn of(spec: &Spec, call: &Call, input: &Value) -> NewCall {
    NewCall {
        at: call.context.store.clock().now(),
        principal: call.principal.name.clone(),
        grant: call.principal.grant.as_ref().map(|g| g.id.clone()),
        client: call.via.client.clone(),
        surface: call.via.surface,
        tool: spec.name,
        target: target(spec, input),
        request_id: call.via.request_id.clone(),
    }
}

/// The names in an input, such as `app=shop environment=staging`; nothing else of it.
pub(crate) fn target(spec: &Spec, input: &Value) -> Option<String> {
    let path = spec.path.split('{').skip(1).filter_map(|s| s.split('}').next());
    let mut fields: Vec<&str> = Vec::new();
    for field in path.chain(NAMES) {
        if !fields.contains(&field) {
            fields.push(field);
        }
    }
    let named = fields.into_iter().filter_map(|field| {
        let text = match input.get(field)? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        // Whoever takes a token's secret for its name must not find it here.
        let most = if text.starts_with("berth_") { SHOWN } else { MAX_NAME };
        let text: String = text.chars().filter(|c| !c.is_control()).take(most).collect();
        (!text.is_empty()).then(|| format!("{field}={text}"))
    });
    let target = named.collect::<Vec<_>>().join(" ");
    (!target.is_empty()).then_some(target)
}

/// A call that only reads. It is noted when it has ended, or when its caller has hung up and this is dropped.
pub(crate) struct Reading {
    store: Store,
    call: Option<NewCall>,
    began: Instant,
}

impl Reading {
    pub(crate) fn new(store: Store, call: NewCall) -> Self {
        Self { store, call: Some(call), began: Instant::now() }
    }

    pub(crate) fn ended(mut self, outcome: &'static str) {
        self.note(outcome);
    }

    fn note(&mut self, outcome: &'static str) {
        if let Some(call) = self.call.take() {
            self.store.calls().note(call, Ended { outcome, took: self.began.elapsed() });
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.note("cancelled");
    }
}

/// A call that changes something: written down before it begins.
pub(crate) struct Writing {
    store: Store,
    id: i64,
    began: Instant,
}

impl Writing {
    pub(crate) async fn begin(store: Store, call: NewCall) -> Result<Self, Problem> {
        let began = Instant::now();
        let id = store.calls().begin(call).await?;
        Ok(Self { store, id, began })
    }

    pub(crate) async fn ended(&self, outcome: &'static str) {
        let ended = Ended { outcome, took: self.began.elapsed() };
        if let Err(error) = self.store.calls().end(self.id, ended).await {
            // What was done is done; the row stays unfinished, which is what it looks like from outside.
            tracing::warn!(%error, call = self.id, outcome, "the end of a call was not written to the audit log");
        }
    }
}

/// How a call ended, in a word.
pub(crate) fn outcome<T>(result: &Result<T, Problem>) -> &'static str {
    result.as_ref().map_or_else(|problem| problem.code.as_str(), |_| "ok")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_target_is_names_and_nothing_else() {
        let registry = crate::registry();
        let of = |tool: &str, input: Value| target(&registry.get(tool).unwrap().spec, &input);
        let input = json!({ "app": "shop", "environment": "staging", "variables": { "KEY": "s3cret" } });
        assert_eq!(of("variable_set", input).as_deref(), Some("app=shop environment=staging"));
        assert_eq!(
            of("token_revoke", json!({ "token": "ci", "confirm": "ci" })).as_deref(),
            Some("token=ci")
        );
        assert_eq!(of("app_list", json!({})), None);
        assert_eq!(of("app_get", json!({ "app": ["x"] })), None);
        let long = of("app_get", json!({ "app": "x".repeat(1000) })).unwrap();
        assert_eq!(long.len(), "app=".len() + MAX_NAME);
        let mistaken = of("token_revoke", json!({ "token": "berth_0123456789abcdefghij" }));
        assert_eq!(mistaken.as_deref(), Some("token=berth_012345"));
    }
}
