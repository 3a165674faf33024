//! The protocol's side of the registry.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use berth_schemas::{Code, Problem, error::nearest};
use berth_store::model::Principal;
use berth_tools::{
    Answer, Budget, Call, Context, Ongoing, Outside, Progress, Registry, RequestId, Tool, Via,
};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams,
        ClientCapabilities, CompleteRequestParams, CompleteResult, CreateTaskResult, DetailedTask,
        DiscoverResult, ErrorCode, GetPromptRequestParams, GetPromptResponse, GetTaskParams, GetTaskResult,
        Implementation, InitializeRequestParams, InitializeResult, InputRequiredResult, JsonObject,
        ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
        PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse,
        ReadResourceResult, ResourceContents, ServerCapabilities, ServerConfig, TaskPayload, TaskStatus,
        UpdateTaskParams,
    },
    service::RequestContext,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    Lacking,
    answer::{self, Marks},
    ask::{self, About, Asker, Said},
    completion, cut,
    detail::{self, Format},
    frame::Frame,
    progress::Notifier,
    prompts, resources, search,
    surface::{self, READ, SEARCH, WRITE},
    tasks::{self, End},
    view::View,
};

/// What an assistant reads before anything else; clients cut it at 2,048 characters.
const INSTRUCTIONS: &str = include_str!("instructions.md");
/// How long clients may keep the lists, in milliseconds. They change with the daemon's version only.
const LIST_TTL_MS: u64 = 300_000;
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

/// What became of a call.
enum Outcome {
    Answer(Answer),
    Problem(Problem),
    /// The person is asked first.
    Question(InputRequiredResult),
}

impl From<Result<Answer, Problem>> for Outcome {
    fn from(result: Result<Answer, Problem>) -> Self {
        result.map_or_else(Self::Problem, Self::Answer)
    }
}

/// What the client of this request can do. Only the era that says it with every request can be asked something
/// without a session.
fn client(context: &RequestContext<RoleServer>) -> Option<ClientCapabilities> {
    let version = context.meta.protocol_version()?;
    let modern = version.as_str() >= ProtocolVersion::V_2026_07_28.as_str();
    context.meta.client_capabilities().filter(|_| modern)
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

    /// The tool of this name and its input: itself, or what `tool_read` and `tool_write` pass on.
    fn resolve(&self, view: &View, name: &str, arguments: JsonObject) -> Result<(&Tool, Value), Problem> {
        if !matches!(name, READ | WRITE) {
            let tool = self.known(view, name)?;
            if !view.shows(tool) {
                let gateway = surface::gateway_to(tool);
                return Err(Problem::new(Code::NotFound, format!("{name} is not in this list of tools."))
                    .hint(format!("Call it with {gateway}(name={name:?}, arguments={{…}}).")));
            }
            return Ok((tool, Value::Object(arguments)));
        }
        if !view.shows_gateway(name) {
            return Err(Problem::new(Code::NotFound, format!("{name} is not part of this endpoint.")));
        }
        let passed: Passed = serde_json::from_value(Value::Object(arguments))
            .map_err(|e| Problem::new(Code::InvalidInput, format!("The input is not valid: {e}.")))?;
        let tool = self.known(view, &passed.name)?;
        let gateway = surface::gateway_to(tool);
        if gateway != name {
            let why = if gateway == READ { "only reads" } else { "does more than read harmless things" };
            let problem = Problem::invalid("name", format!("{} {why}.", passed.name));
            return Err(problem.hint(format!("Call it with {gateway}.")));
        }
        Ok((tool, Value::Object(passed.arguments)))
    }

    fn known(&self, view: &View, name: &str) -> Result<&Tool, Problem> {
        match self.0.registry.get(name) {
            Some(tool) if view.reaches(tool) => Ok(tool),
            _ => {
                let tools = self.0.registry.tools().iter().filter(|t| view.reaches(t));
                let known: Vec<String> = tools.map(|t| t.spec.name.to_owned()).collect();
                let shown: String = name.chars().take(80).collect();
                let candidates = nearest(name, &known);
                let hint = if candidates.is_empty() {
                    "Find one with tool_search.".into()
                } else {
                    format!("Did you mean {}?", candidates.join(", "))
                };
                Err(Problem::new(Code::NotFound, format!("There is no tool named {shown:?} here."))
                    .hint(hint)
                    .candidates(candidates))
            }
        }
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

    fn search(&self, caller: &Caller, arguments: JsonObject) -> Result<CallToolResult, Problem> {
        let asked: Asked = serde_json::from_value(Value::Object(arguments))
            .map_err(|e| Problem::new(Code::InvalidInput, format!("The input is not valid: {e}.")))?;
        let limit = asked.limit.unwrap_or(4);
        if !(1..=10).contains(&limit) || asked.query.len() > 500 {
            return Err(Problem::invalid(
                "limit",
                "limit must be from 1 to 10, and query at most 500 characters long.",
            ));
        }
        let reachable = |name: &str| {
            self.0
                .registry
                .get(name)
                .is_some_and(|t| caller.view.reaches(t) && t.permits(&caller.principal).is_ok())
        };
        let found = self.0.index.find(&asked.query, limit, reachable);
        let tools: Vec<&Tool> = found.iter().filter_map(|name| self.0.registry.get(name)).collect();
        let how = |tool: &Tool| match caller.view.shows(tool) {
            true => tool.spec.name,
            false => surface::gateway_to(tool),
        };
        let shown = tools.iter().map(|t| {
            json!({
                "name": t.spec.name, "call_with": how(t), "description": t.spec.description,
                "read_only": t.spec.hints.read_only, "destructive": t.spec.hints.destructive, "input": detail::input(t),
            })
        });
        let output = json!({ "tools": shown.collect::<Vec<_>>() });
        let lines = tools.iter().map(|t| {
            format!(
                "{} (call with {}): {}\nInput: {}",
                t.spec.name,
                how(t),
                t.spec.description,
                detail::input(t)
            )
        });
        let brief = match tools.is_empty() {
            true => "No tool matches. Say in other words what you want to do.".to_owned(),
            false => lines.collect::<Vec<_>>().join("\n\n"),
        };
        Ok(answer::own(output, brief))
    }

    async fn call(
        &self,
        request: CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let caller = self.caller(context)?;
        let arguments = request.arguments.clone().unwrap_or_default();
        let frame = Frame::new();
        if request.name == SEARCH && caller.view.shows_gateway(SEARCH) {
            let found = self.search(&caller, arguments);
            let (who, via) = (&caller.principal, via(context, &caller.principal));
            let outcome = found.as_ref().map_or_else(|p| p.code.as_str(), |_| "ok");
            Outside { who, via, what: SEARCH, target: None }.noted(&self.0.context, outcome);
            return Ok(found.unwrap_or_else(|p| answer::failure(&p, &frame)).into());
        }
        if !matches!(&*request.name, SEARCH | READ | WRITE) && self.0.registry.get(&request.name).is_none() {
            // The protocol wants its own error for a name that no list ever had.
            let problem = self.known(&caller.view, &request.name).err();
            let text = problem.map_or_else(|| "There is no such tool.".to_owned(), |p| p.to_string());
            return Err(ErrorData::invalid_params(text, None));
        }
        let resolved = self.resolve(&caller.view, &request.name, arguments).and_then(|(tool, mut input)| {
            let format = Format::take(&mut input)?;
            Ok((tool, input, format))
        });
        let (tool, input, format) = match resolved {
            Ok(found) => found,
            Err(problem) => return Ok(answer::failure(&problem, &frame).into()),
        };
        let name = tool.spec.name;
        let began = std::time::Instant::now();
        let outcome = self.ask_and_run(&request, tool, input, &caller.principal, context, &frame).await?;
        let ended = match &outcome {
            Outcome::Answer(_) => "ok",
            Outcome::Problem(problem) => problem.code.as_str(),
            Outcome::Question(_) => "asked",
        };
        let by = &caller.principal.name;
        tracing::info!(tool = name, by, outcome = ended, ms = began.elapsed().as_millis(), "tool called");
        let answer = match outcome {
            Outcome::Problem(problem) => return Ok(answer::failure(&problem, &frame).into()),
            Outcome::Question(question) => return Ok(question.into()),
            Outcome::Answer(answer) => answer,
        };
        let knows_tasks = client(context).is_some_and(|c| c.supports_tasks());
        if let Some(ongoing) = answer.ongoing.as_ref().filter(|_| knows_tasks && !tool.spec.hints.read_only) {
            // What has ended meanwhile is answered at once.
            if let Ok(seen) = self.look(ongoing, &caller, context).await
                && !seen.task.status.is_terminal()
                && seen.by == caller.principal.name
            {
                return Ok(CreateTaskResult::new(seen.task).into());
            }
        }
        Ok(answer::success(answer, self.marks(name), format, &frame).into())
    }

    /// Runs a tool, with the person's word where it wants one and the client can ask.
    async fn ask_and_run(
        &self,
        request: &CallToolRequestParams,
        tool: &Tool,
        input: Value,
        principal: &Principal,
        context: &RequestContext<RoleServer>,
        frame: &Frame,
    ) -> Result<Outcome, ErrorData> {
        let asker = self.0.asker.as_ref().filter(|_| ask::possible(tool, &input, client(context).as_ref()));
        let Some(asker) = asker else {
            return Ok(self.run(tool, input, principal.clone(), context, frame).await?.into());
        };
        // Without a confirmation it does nothing, and says what it would do: now, not when it was asked first.
        let problem = match self.run(tool, input.clone(), principal.clone(), context, frame).await? {
            // Without a candidate there is nothing that a person's yes could be turned into: a token that may only
            // propose has to give the confirmation itself.
            Err(problem) if problem.code == Code::ConfirmationRequired && !problem.candidates.is_empty() => {
                problem
            }
            other => return Ok(other.into()),
        };
        let about =
            About { principal: &principal.name, tool: tool.spec.name, input: &input, problem: &problem };
        match asker.said(request, &about) {
            Some(Said::No) => Ok(Outcome::Problem(ask::declined(tool.spec.name))),
            Some(Said::Yes) => match about.confirmed() {
                Some(confirmed) => {
                    Ok(self.run(tool, confirmed, principal.clone(), context, frame).await?.into())
                }
                None => Ok(Outcome::Problem(problem)),
            },
            None => Ok(asker.question(&about).map_or(Outcome::Problem(problem), Outcome::Question)),
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

/// Input of `tool_search`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    query: String,
    limit: Option<usize>,
}

/// Input of `tool_read` and `tool_write`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Passed {
    name: String,
    #[serde(default)]
    arguments: JsonObject,
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_prompts()
            .enable_resources()
            .enable_completions()
            .enable_tasks()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("berth", self.0.context.version).with_title("Berth"))
            .with_instructions(INSTRUCTIONS)
    }

    /// The first thing that a client of the older era asks: an address that means nothing is told here.
    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        self.caller(&context)?;
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    async fn discover(&self, context: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        self.caller(&context)?;
        let versions = self.supported_protocol_versions().into_owned();
        Ok(DiscoverResult::from_server_info(versions, self.get_info()))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let caller = self.caller(&context)?;
        let tools = surface::list(&self.0.registry, &self.0.descriptions, &caller.view, &caller.principal);
        Ok(ListToolsResult::with_all_items(tools)
            .with_ttl_ms(LIST_TTL_MS)
            .with_cache_scope(CacheScope::Private))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.call(request, &context).await
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        let (ongoing, _, seen) = self.task(&request.task_id, &context).await?;
        let (marks, frame) = (self.marks(ongoing.reader().0), Frame::new());
        let ended = |answer: Answer, fails: bool| {
            let mut result = answer::success(answer, marks, Format::Concise, &frame);
            result.is_error = Some(fails);
            result
        };
        let result = match seen.end {
            Some(End::Done(answer)) => Some(ended(answer, false)),
            Some(End::Failed(answer)) => Some(ended(answer, true)),
            Some(End::Problem(problem)) => Some(answer::failure(&problem, &frame)),
            None => None,
        };
        let payload = match result {
            Some(result) => {
                let result = serde_json::to_value(result).ok().and_then(|v| v.as_object().cloned());
                TaskPayload::Completed { result: result.unwrap_or_default() }
            }
            None if seen.task.status == TaskStatus::Cancelled => TaskPayload::Cancelled,
            None => TaskPayload::Working,
        };
        Ok(GetTaskResult::new(DetailedTask::new(seen.task, payload)))
    }

    /// Nothing that goes on asks for anything: what comes is for nobody.
    async fn update_task(
        &self,
        request: UpdateTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.task(&request.task_id, &context).await.map(drop)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let (ongoing, caller, seen) = self.task(&request.task_id, &context).await?;
        if seen.task.status.is_terminal() {
            return Ok(());
        }
        if caller.view.is_read_only() {
            let detail = "This endpoint only reads, and cancels nothing.";
            return Err(refused(&Problem::new(Code::Forbidden, detail)));
        }
        let (canceller, input) = ongoing.canceller();
        let tool = self.0.registry.get(canceller);
        let tool = tool.ok_or_else(|| ErrorData::internal_error(format!("{canceller} is gone."), None))?;
        match self.run(tool, input, caller.principal, &context, &Frame::new()).await? {
            // The protocol's word is "cooperative": what can no longer be stopped goes on.
            Ok(_) => Ok(()),
            Err(problem) if problem.code == Code::Conflict => Ok(()),
            Err(problem) => Err(refused(&problem)),
        }
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let list = ListPromptsResult::with_all_items(prompts::list());
        Ok(list.with_ttl_ms(LIST_TTL_MS).with_cache_scope(CacheScope::Private))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        Ok(prompts::get(&request)?.into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let list = ListResourcesResult::with_all_items(resources::list());
        Ok(list.with_ttl_ms(LIST_TTL_MS).with_cache_scope(CacheScope::Private))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let list = ListResourceTemplatesResult::with_all_items(resources::templates());
        Ok(list.with_ttl_ms(LIST_TTL_MS).with_cache_scope(CacheScope::Private))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        Ok(self.read(&request.uri, &context).await?.into())
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let caller = self.caller(&context)?;
        let found =
            completion::complete(&self.0.context, &self.0.registry, &caller.principal, &request).await;
        found.map(CompleteResult::new).map_err(|p| answer::refused(&p, ErrorCode::INTERNAL_ERROR))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instructions_fit_what_clients_keep() {
        assert!(INSTRUCTIONS.chars().count() <= 2_048, "{}", INSTRUCTIONS.chars().count());
    }

    #[test]
    fn the_instructions_carry_the_map_of_groups() {
        let map = INSTRUCTIONS.lines().find(|l| l.starts_with("More tools, by group")).unwrap();
        for group in berth_tools::Group::ALL {
            let name = group.as_str();
            assert!(map.split([' ', ',', '.', ':']).any(|word| word == name), "{name} is not in the map");
        }
    }

    #[test]
    fn the_instructions_name_only_tools_that_exist() {
        let registry = berth_tools::registry();
        let words = INSTRUCTIONS.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
        let nouns: Vec<String> = registry
            .tools()
            .iter()
            .filter_map(|t| t.spec.name.split('_').next().map(|n| format!("{n}_")))
            .collect();
        for word in words.filter(|w| nouns.iter().any(|n| w.starts_with(n.as_str()) && w.len() > n.len())) {
            assert!(registry.get(word).is_some(), "{word}");
        }
    }
}
