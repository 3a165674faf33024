//! What the protocol asks for, method by method.

use berth_schemas::{Code, Problem};
use berth_tools::Answer;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams,
        CompleteResult, DetailedTask, DiscoverResult, ErrorCode, GetPromptRequestParams, GetPromptResponse,
        GetTaskParams, GetTaskResult, Implementation, InitializeRequestParams, InitializeResult,
        ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
        PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities,
        ServerConfig, TaskPayload, TaskStatus, UpdateTaskParams,
    },
    service::RequestContext,
};

use super::{Handler, refused};
use crate::{answer, completion, detail::Format, frame::Frame, prompts, resources, surface, tasks::End};

/// What an assistant reads before anything else; clients cut it at 2,048 characters.
const INSTRUCTIONS: &str = include_str!("../instructions.md");
/// How long clients may keep the lists, in milliseconds. They change with the daemon's version only.
const LIST_TTL_MS: u64 = 300_000;

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
