//! The protocol's side of the registry.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use berth_schemas::{Code, Problem, error::nearest};
use berth_store::model::Principal;
use berth_tools::{Answer, Budget, Call, Context, Progress, Registry, RequestId, Tool, Via};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams,
        CompleteResult, DiscoverResult, GetPromptRequestParams, GetPromptResponse, Implementation,
        InitializeRequestParams, InitializeResult, JsonObject, ListPromptsResult,
        ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
        ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, ResourceContents,
        ServerCapabilities, ServerConfig,
    },
    service::RequestContext,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    answer::{self, Marks},
    completion, cut,
    detail::{self, Format},
    frame::Frame,
    progress::Notifier,
    prompts, resources, search,
    surface::{self, READ, SEARCH, WRITE},
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
    ErrorData::invalid_params(problem.to_string(), serde_json::to_value(problem).ok())
}

impl Handler {
    pub(crate) fn new(registry: Arc<Registry>, context: Arc<Context>) -> Self {
        let index = search::Index::new(&registry);
        let marks = registry.tools().iter().map(|t| (t.spec.name, Marks::of(&t.output))).collect();
        let descriptions = surface::Descriptions::of(&registry);
        Self(Arc::new(Inner { registry, context, index, descriptions, marks }))
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
    ) -> Result<CallToolResult, ErrorData> {
        let caller = self.caller(context)?;
        let arguments = request.arguments.unwrap_or_default();
        let frame = Frame::new();
        if request.name == SEARCH && caller.view.shows_gateway(SEARCH) {
            return Ok(self.search(&caller, arguments).unwrap_or_else(|p| answer::failure(&p, &frame)));
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
            Err(problem) => return Ok(answer::failure(&problem, &frame)),
        };
        let name = tool.spec.name;
        let by = caller.principal.name.clone();
        let began = std::time::Instant::now();
        let result = self.run(tool, input, caller.principal, context, &frame).await?;
        let outcome = result.as_ref().map_or_else(|p| p.code.as_str(), |_| "ok");
        tracing::info!(tool = name, by, outcome, ms = began.elapsed().as_millis(), "tool called");
        Ok(match result {
            Ok(answer) => answer::success(answer, self.marks(name), format, &frame),
            Err(problem) => answer::failure(&problem, &frame),
        })
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
                    Err(problem) => return Err(none(problem.to_string())),
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
        Ok(self.call(request, &context).await?.into())
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
        let found = completion::complete(&self.0.context, &caller.principal, &request).await;
        found.map(CompleteResult::new).map_err(|p| ErrorData::internal_error(p.to_string(), None))
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
