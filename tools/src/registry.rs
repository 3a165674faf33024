//! What a tool is, and the list of all of them.
//!
//! A tool is a value: its names and texts, its hints, its two schemas and one boxed async function. MCP,
//! REST, the command line, OpenAPI and the schema files iterate over [`Registry::tools`]; none of them knows a
//! tool by name. There is no macro: [`Tool::new`] makes the value from a typed body.

use std::{collections::HashMap, future::Future, panic::AssertUnwindSafe, sync::Arc};

use berth_schemas::{Code, Problem, Scope, token::TokenMode};
use berth_store::model::Principal;
use futures_util::{FutureExt as _, future::BoxFuture};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tracing::Instrument;

use crate::{
    audited::{self, Reading, Via, Writing},
    brake,
    context::Context,
    group::Group,
    input,
    ongoing::Ongoing,
    page::Budget,
    progress::Progress,
    proposals,
    text::Text,
    tidy,
};

/// Whether MCP shows a tool by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// In the list.
    Core,
    /// Reached by `tool_search`, `tool_read` and `tool_write`.
    Extended,
}

/// What a tool does to the world, in MCP's terms. All four are always said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hints {
    /// Changes nothing.
    pub read_only: bool,
    /// May destroy something that cannot be had back.
    pub destructive: bool,
    /// A second call with the same input changes nothing more.
    pub idempotent: bool,
    /// Reaches out of the platform (git hosts, registries).
    pub open_world: bool,
}

impl Hints {
    /// Only reads.
    pub const READ: Self = Self { read_only: true, destructive: false, idempotent: true, open_world: false };
    /// Adds or starts something.
    pub const CREATE: Self =
        Self { read_only: false, destructive: false, idempotent: false, open_world: false };
    /// Sets something to a value.
    pub const UPDATE: Self =
        Self { read_only: false, destructive: false, idempotent: true, open_world: false };
    /// Destroys something.
    pub const DESTROY: Self =
        Self { read_only: false, destructive: true, idempotent: true, open_world: false };

    /// The same, reaching out of the platform.
    #[must_use]
    pub const fn open_world(self) -> Self {
        Self { open_world: true, ..self }
    }
}

/// HTTP method of a tool's REST route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Creates or starts.
    Post,
    /// Replaces.
    Put,
    /// Changes parts.
    Patch,
    /// Removes.
    Delete,
}

impl Method {
    /// Its name in HTTP.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// Everything about a tool that is data.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// `noun_verb`, snake case, at most 40 characters.
    pub name: &'static str,
    /// A few words.
    pub title: &'static str,
    /// For a new colleague: what it does, when to use it, what comes next.
    pub description: &'static str,
    /// What it does to the world.
    pub hints: Hints,
    /// What the caller's token must hold.
    pub scope: Scope,
    /// Whether MCP lists it.
    pub tier: Tier,
    /// REST method.
    pub method: Method,
    /// REST path; `{field}` names an input field.
    pub path: &'static str,
}

impl Spec {
    /// Of a tool that only looks, and that MCP does not list.
    pub(crate) fn extended_read(
        name: &'static str,
        title: &'static str,
        description: &'static str,
        path: &'static str,
    ) -> Self {
        Self {
            name,
            title,
            description,
            hints: Hints::READ,
            scope: Scope::Read,
            tier: Tier::Extended,
            method: Method::Get,
            path,
        }
    }
}

/// One call of a tool.
#[derive(Clone)]
pub struct Call {
    /// The platform.
    pub context: Arc<Context>,
    /// Who calls.
    pub principal: Principal,
    /// Where progress goes; does nothing if the caller did not ask for it.
    pub progress: Progress,
    /// How much the caller can take in; unlimited where no model reads.
    pub budget: Budget,
    /// How it came in, for the audit log.
    pub via: Via,
    /// Who proposed it, if it is an approved proposal: its caller is the approver.
    pub(crate) proposed_by: Option<String>,
}

impl Call {
    /// A call without progress and with an unlimited answer.
    #[must_use]
    pub fn new(context: Arc<Context>, principal: Principal) -> Self {
        Self {
            context,
            principal,
            progress: Progress::none(),
            budget: Budget::Unlimited,
            via: Via::default(),
            proposed_by: None,
        }
    }

    /// The same, as the approved proposal of somebody.
    #[must_use]
    pub(crate) fn proposed_by(self, who: &str) -> Self {
        Self { proposed_by: Some(who.to_owned()), ..self }
    }

    /// The same, telling progress.
    #[must_use]
    pub fn progress(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    /// The same, with how it came in.
    #[must_use]
    pub fn via(self, via: Via) -> Self {
        Self { via, ..self }
    }

    /// The same, with a bounded answer.
    #[must_use]
    pub fn budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }
}

type Run = Box<dyn Fn(Call, Value) -> BoxFuture<'static, Result<Answer, Problem>> + Send + Sync>;

type Check = Box<dyn Fn(&Value) -> Result<(), Problem> + Send + Sync>;

/// What a tool answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The output, as its schema says.
    pub output: Value,
    /// The same for people in a line or a few; what a model reads first.
    pub brief: Text,
    /// What the tool started and what goes on.
    pub ongoing: Option<Ongoing>,
    /// A picture that belongs to the answer and is no part of its output.
    pub image: Option<Image>,
}

/// A picture, for surfaces that show some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What it is, such as image/png.
    pub media_type: String,
    /// Its bytes in base 64.
    pub base64: String,
}

/// An output that can be said in a line or a few.
pub trait Brief {
    /// The text: complete enough for a reader who sees nothing else, and without secrets.
    fn brief(&self) -> Text;

    /// Durable work that goes on after the answer, if it tells of some.
    fn ongoing(&self) -> Option<Ongoing> {
        None
    }

    /// A picture to be shown beside the text, if the answer is about one.
    fn image(&self) -> Option<Image> {
        None
    }
}

/// A capability of Berth.
pub struct Tool {
    /// Its description.
    pub spec: Spec,
    /// The area that the registry put it in.
    pub group: Group,
    /// JSON Schema of its input.
    pub input: Value,
    /// JSON Schema of its output.
    pub output: Value,
    check: Check,
    run: Run,
}

impl std::fmt::Debug for Tool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tool").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Tool {
    /// Makes a tool from its description and its typed body.
    pub fn new<I, O, F, Fut>(spec: Spec, body: F) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema + Brief + 'static,
        F: Fn(Call, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, Problem>> + Send + 'static,
    {
        let body = Arc::new(body);
        let run: Run = Box::new(move |call, input| {
            let body = Arc::clone(&body);
            Box::pin(async move {
                let input: I = input::parse(&input)?;
                let output = body(call, input).await?;
                let (brief, ongoing, image) = (output.brief(), output.ongoing(), output.image());
                let output = serde_json::to_value(&output).map_err(|e| {
                    Problem::new(Code::Internal, format!("The answer could not be written: {e}."))
                })?;
                Ok(Answer { output, brief, ongoing, image })
            })
        });
        let check: Check = Box::new(|input| input::parse::<I>(input).map(drop));
        let output =
            SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<O>();
        Self {
            spec,
            group: Group::Platform,
            input: input::schema::<I>(),
            output: tidy::tidy(output.into()),
            check,
            run,
        }
    }

    /// Checks the caller's scope, then runs the body. The one way to call a tool, whatever the surface, so that the
    /// audit log misses none.
    ///
    /// A caller that hangs up drops this future. Reading ends there, but a change that was begun is carried to
    /// its end, in a task of its own: it must not stop between marking an app and making the job for it. Such
    /// a task ends within the longest wait that tools allow, 50 seconds, and mostly within milliseconds.
    ///
    /// # Errors
    /// Whatever the tool answers; `Forbidden` if the principal lacks the scope.
    pub async fn call(&self, call: Call, input: Value) -> Result<Answer, Problem> {
        let store = call.context.store.clone();
        let known = audited::of(&self.spec, &call, &input);
        if let Err(problem) = self.admit(&call, &input).await {
            Reading::new(store, known).ended(problem.code.as_str());
            return Err(problem);
        }
        let (progress, title) = (call.progress.clone(), self.spec.title);
        let running = (self.run)(call, input);
        if self.spec.hints.read_only {
            let reading = Reading::new(store, known);
            let result = progress.beside(title, running).await;
            reading.ended(audited::outcome(&result));
            return result;
        }
        let running = async move {
            let writing = Writing::begin(store, known).await?;
            match AssertUnwindSafe(running).catch_unwind().await {
                Ok(result) => {
                    writing.ended(audited::outcome(&result)).await;
                    result
                }
                Err(panic) => {
                    writing.ended(Code::Internal.as_str()).await;
                    std::panic::resume_unwind(panic)
                }
            }
        };
        match progress.beside(title, tokio::spawn(running.in_current_span())).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(tool = self.spec.name, %error, "a tool did not finish");
                Err(Problem::new(Code::Internal, "Berth made a mistake while working on this.")
                    .hint("The daemon's log says more. Look at the state of things before trying again."))
            }
        }
    }
}

impl Tool {
    /// Whether it may be called without asking a person. Reading a secret changes nothing, but what was read cannot be
    /// taken back out of a conversation.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        self.spec.hints.read_only && self.spec.scope != Scope::Secrets
    }

    /// Whether it has this name or is in the group of this name: `app_get` is in `apps`.
    #[must_use]
    pub fn is_in(&self, name: &str) -> bool {
        self.spec.name == name || self.group.as_str() == name
    }

    /// Whether a principal may ever call it; one that may only propose may call it to propose.
    ///
    /// # Errors
    /// `Forbidden`, with what the token lacks.
    pub fn permits(&self, principal: &Principal) -> Result<(), Problem> {
        let name = self.spec.name;
        demand(name, principal, self.spec.scope)?;
        if !principal.tools.is_empty() && !principal.tools.iter().any(|t| self.is_in(t)) {
            let only = principal.tools.join(", ");
            let detail =
                format!("The token {:?} may not use {name}: it is limited to {only}.", principal.token());
            return Err(
                Problem::new(Code::Forbidden, detail).hint("Use a token that is not limited to these tools.")
            );
        }
        if principal.mode == TokenMode::ReadOnly && !self.is_harmless() {
            let detail =
                format!("The token {:?} may not use {name}: its mode is read_only.", principal.token());
            return Err(Problem::new(Code::Forbidden, detail).hint("Use a token of another mode."));
        }
        Ok(())
    }

    /// The input's own wish to change nothing.
    fn is_dry(&self, input: &Value) -> bool {
        let dry = input.get("dry_run") == Some(&Value::Bool(true));
        dry && self.input["properties"].get("dry_run").is_some()
    }

    /// Checks an input without doing anything.
    pub(crate) fn check(&self, input: &Value) -> Result<(), Problem> {
        (self.check)(input)
    }

    /// Whether the caller may call it, now.
    async fn admit(&self, call: &Call, input: &Value) -> Result<(), Problem> {
        self.permits(&call.principal)?;
        if call.principal.mode == TokenMode::Propose && !self.is_harmless() && !self.is_dry(input) {
            return Err(proposals::propose(self, call, input.clone()).await);
        }
        // What the tool refuses because it cannot read it destroys nothing, and is told what is wrong. An approved
        // proposal was counted when it was approved.
        let counts = self.spec.hints.destructive && call.proposed_by.is_none();
        if counts && brake::means_it(&self.input, input) && self.check(input).is_ok() {
            call.context.brake.admit(self.spec.name, &call.principal, call.context.store.clock().now())?;
        }
        Ok(())
    }
}

/// Refuses a caller whose token lacks `scope`, which `what` needs.
///
/// # Errors
/// `Forbidden`, naming the scope.
pub fn demand(what: &str, principal: &Principal, scope: Scope) -> Result<(), Problem> {
    if principal.may(scope) {
        return Ok(());
    }
    let scope = scope.as_str();
    let lacks = format!("{what} needs the scope {scope}, which the token {:?} lacks.", principal.name);
    let hint = format!("Use a token with the scope {scope}; an admin makes one with token_create.");
    Err(Problem::new(Code::Forbidden, lacks).hint(hint))
}

/// All tools, by name.
#[derive(Debug)]
pub struct Registry {
    tools: Vec<Tool>,
    by_name: HashMap<&'static str, usize>,
}

impl Registry {
    /// A registry of these tools, each list in its area, sorted by name.
    #[must_use]
    pub fn new(areas: impl IntoIterator<Item = (Group, Vec<Tool>)>) -> Self {
        let into =
            |(group, tools): (Group, Vec<Tool>)| tools.into_iter().map(move |tool| Tool { group, ..tool });
        let mut tools: Vec<Tool> = areas.into_iter().flat_map(into).collect();
        tools.sort_by_key(|t| t.spec.name);
        let by_name = tools.iter().enumerate().map(|(i, t)| (t.spec.name, i)).collect();
        Self { tools, by_name }
    }

    /// The tools, sorted by name.
    #[must_use]
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// The tool of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tool> {
        self.by_name.get(name).and_then(|i| self.tools.get(*i))
    }
}
