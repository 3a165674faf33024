//! A call of a tool: which tool is meant, what its caller is asked first, and what becomes of it.

use berth_schemas::{Code, Problem, error::nearest};
use berth_store::model::Principal;
use berth_tools::{Answer, Outside, Tool};
use rmcp::{
    ErrorData, RoleServer,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, CreateTaskResult,
        InputRequiredResult, JsonObject, ProtocolVersion,
    },
    service::RequestContext,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Caller, Handler, via};
use crate::{
    answer,
    ask::{self, About, Said},
    detail::{self, Format},
    frame::Frame,
    surface::{self, READ, SEARCH, WRITE},
    view::View,
};

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

impl Handler {
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

    pub(super) async fn call(
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
}
