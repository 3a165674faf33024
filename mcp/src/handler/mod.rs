//! The protocol's side of the registry: who calls, and how a tool is run for them.

mod calls;
mod protocol;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use berth_schemas::{Code, Problem};
use berth_store::model::Principal;
use berth_tools::{Answer, Budget, Call, Context, Ongoing, Progress, Registry, RequestId, Tool, Via};
use rmcp::{
    ErrorData, RoleServer,
    model::{CacheScope, ErrorCode, ReadResourceResult, ResourceContents},
    service::RequestContext,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    Lacking,
    answer::{self, Marks},
    ask::Asker,
    cut,
    frame::Frame,
    progress::Notifier,
    resources, search, surface, tasks,
    view::View,
};

/// Updates that wait for a slow client before the tool waits with them.
const UPDATES: usize = 64;

/// Serves the registry to one request; cheap to clone.
#[derive(Clone)]
pub struct Handler(Arc<Inner>);

struct Inner {
    registry: Arc<Registry>,
    context: Arc<Context>,
    index: search::Index,
    descriptions: surface::Descriptions,
    asker: Option<Asker>,
    /// What each tool's output holds where.
    marks: HashMap<&'static str, Marks>,
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler").finish_non_exhaustive()
    }
}

/// Who calls, and what their URL asks for.
struct Caller {
    principal: Principal,
    view: View,
}

/// A problem as an error of the protocol, for what is no call of a tool.
fn refused(problem: &Problem) -> ErrorData {
    answer::refused(problem, ErrorCode::INVALID_PARAMS)
}

impl Handler {
    pub(crate) fn new(registry: Arc<Registry>, context: Arc<Context>) -> Self {
        let index = search::Index::new(&registry);
        let marks = registry.tools().iter().map(|t| (t.spec.name, Marks::of(&t.output))).collect();
        let descriptions = surface::Descriptions::of(&registry);
        Self(Arc::new(Inner { registry, context, index, descriptions, asker: Asker::new(), marks }))
    }

    fn caller(&self, request: &RequestContext<RoleServer>) -> Result<Caller, ErrorData> {
        let parts = request.extensions.get::<http::request::Parts>();
        let principal = parts.and_then(|p| p.extensions.get::<Principal>()).cloned();
        // The server lets nobody through without one: that would be a fault of the wiring.
        let Some((parts, principal)) = parts.zip(principal) else {
            return Err(ErrorData::internal_error("The request carries no caller.", None));
        };
        let view = View::of(parts.uri.query(), &self.0.registry).map_err(|p| refused(&p))?;
        Ok(Caller { principal, view })
    }

    fn marks(&self, tool: &str) -> &Marks {
        static NONE: LazyLock<Marks> = LazyLock::new(Marks::default);
        self.0.marks.get(tool).unwrap_or(&NONE)
    }

    /// Runs a tool, telling progress to a client that asked for it, until it answers or the client gives up.
    async fn run(
        &self,
        tool: &Tool,
        input: Value,
        principal: Principal,
        request: &RequestContext<RoleServer>,
        frame: &Frame,
    ) -> Result<Result<Answer, Problem>, ErrorData> {
        if !principal.may(tool.spec.scope)
            && let Some(parts) = request.extensions.get::<http::request::Parts>()
            && let Some(lacking) = parts.extensions.get::<Lacking>()
        {
            lacking.note(tool.spec.scope);
        }
        let call = Call::new(Arc::clone(&self.0.context), principal);
        let via = via(request, &call.principal);
        let call = call.via(via).budget(Budget::MODEL);
        let token = request.meta.get_progress_token();
        let (sender, mut updates) = mpsc::channel(UPDATES);
        let call = if token.is_some() { call.progress(Progress::to(sender)) } else { call };
        let mut notifier = token.map(|t| Notifier::new(&request.peer, t, frame));
        let running = tool.call(call, input);
        tokio::pin!(running);
        loop {
            tokio::select! {
                biased;
                () = request.ct.cancelled() => return Err(ErrorData::internal_error("The call was cancelled.", None)),
                Some(update) = updates.recv(), if notifier.is_some() => {
                    if let Some(notifier) = &mut notifier {
                        notifier.tell(&update).await;
                    }
                }
                answer = &mut running => return Ok(answer),
            }
        }
    }

    /// How something stands that goes on.
    async fn look(
        &self,
        ongoing: &Ongoing,
        caller: &Caller,
        context: &RequestContext<RoleServer>,
    ) -> Result<tasks::Seen, Problem> {
        let internal = |why: String| Problem::new(Code::Internal, why);
        let (reader, input) = ongoing.reader();
        let tool = self.0.registry.get(reader).ok_or_else(|| internal(format!("{reader} is gone.")))?;
        let via = via(context, &caller.principal);
        let call = Call::new(Arc::clone(&self.0.context), caller.principal.clone());
        let call = call.via(via).budget(Budget::MODEL);
        let answer = tokio::select! {
            () = context.ct.cancelled() => return Err(internal("The call was cancelled.".into())),
            answer = tool.call(call, input) => answer?,
        };
        tasks::seen(ongoing, answer).map_err(|e| internal(format!("The task cannot be read: {e}.")))
    }

    /// The task of this name, if the caller began it.
    async fn task(
        &self,
        id: &str,
        context: &RequestContext<RoleServer>,
    ) -> Result<(Ongoing, Caller, tasks::Seen), ErrorData> {
        let caller = self.caller(context)?;
        let ongoing: Ongoing = id.parse().map_err(|_| refused(&tasks::unknown(id)))?;
        match self.look(&ongoing, &caller, context).await {
            Ok(seen) if seen.by == caller.principal.name => Ok((ongoing, caller, seen)),
            Ok(_) => Err(refused(&tasks::unknown(id))),
            Err(problem) if problem.code == Code::NotFound => Err(refused(&tasks::unknown(id))),
            Err(problem) => Err(refused(&problem)),
        }
    }

    async fn read(
        &self,
        uri: &str,
        context: &RequestContext<RoleServer>,
    ) -> Result<ReadResourceResult, ErrorData> {
        let none = |why: String| ErrorData::resource_not_found(why, Some(json!({ "uri": uri })));
        let (text, mime) = match resources::parse(uri) {
            None => return Err(none(format!("There is no resource {uri:?}."))),
            Some(resources::Named::Overview) => (resources::OVERVIEW.to_owned(), "text/markdown"),
            Some(resources::Named::Tool(name, input)) => {
                let caller = self.caller(context)?;
                let tool =
                    self.0.registry.get(name).ok_or_else(|| none(format!("There is no tool {name}.")))?;
                let frame = Frame::new();
                let mut output = match self.run(tool, input, caller.principal, context, &frame).await? {
                    Ok(answer) => answer.output,
                    Err(problem) => {
                        let mut error = answer::refused(&problem, ErrorCode::RESOURCE_NOT_FOUND);
                        if let Some(Value::Object(data)) = &mut error.data {
                            data.insert("uri".into(), uri.into());
                        }
                        return Err(error);
                    }
                };
                cut::output(&mut output);
                frame.value(&mut output, &self.marks(name).untrusted);
                (format!("{output:#}"), "application/json")
            }
        };
        Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri).with_mime_type(mime)])
            .with_ttl_ms(0)
            .with_cache_scope(CacheScope::Private))
    }
}

/// How a request came in: what its client says of itself, or what was said when it was approved.
fn via(request: &RequestContext<RoleServer>, principal: &Principal) -> Via {
    let parts = request.extensions.get::<http::request::Parts>();
    let said = request.meta.client_info().map(|info| format!("{} {}", info.name, info.version));
    let approved = || principal.grant.as_ref().map(|grant| grant.client.clone());
    let agent = || Some(parts?.headers.get(http::header::USER_AGENT)?.to_str().ok()?.to_owned());
    let client = said.or_else(approved).or_else(agent);
    let id = parts.and_then(|p| p.extensions.get::<RequestId>()).map(|id| id.0.clone());
    Via::mcp(client.as_deref(), id)
}
