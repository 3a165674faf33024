//! Proposals: a token that may only propose has its writes kept here, until a person approves them.

use std::sync::LazyLock;

use berth_schemas::{
    Code, Problem, Scope,
    ids::UploadId,
    proposal::{
        Proposal, ProposalApprove, ProposalDecided, ProposalDetail, ProposalGet, ProposalList, ProposalPage,
        ProposalReject, ProposalState,
    },
};
use berth_store::{NewProposal, ProposalRow, model::Visible};
use serde_json::{Map, Value};

use crate::{
    apps::count,
    audited::{self, Via},
    confirm::confirmed,
    page,
    registry::{Brief, Call, Hints, Method, Registry, Spec, Tier, Tool},
    source,
    text::Text,
};

/// What an approved proposal is looked up in.
static TOOLS: LazyLock<Registry> = LazyLock::new(crate::registry);
/// All tools.
pub(crate) fn all() -> &'static Registry {
    &TOOLS
}

/// Longest answer of a tool that the approver is shown, in characters.
const MAX_ANSWER: usize = 8000;

pub(crate) fn tools() -> Vec<Tool> {
    let spec = |name, title, description, hints, scope, method, path| Spec {
        name,
        title,
        description,
        hints,
        scope,
        tier: Tier::Extended,
        method,
        path,
    };
    vec![
        Tool::new(
            spec(
                "proposal_list",
                "List proposed calls",
                "List the calls that tokens limited to proposing want to make, newest first: those that wait for a person, or by state those that were decided.",
                Hints::READ,
                Scope::Read,
                Method::Get,
                "/v1/proposals",
            ),
            list,
        ),
        Tool::new(
            spec(
                "proposal_get",
                "Show a proposed call",
                "Show a proposed call with its exact arguments (secrets masked), who proposed it, and what became of it.",
                Hints::READ,
                Scope::Read,
                Method::Get,
                "/v1/proposals/{proposal}",
            ),
            get,
        ),
        Tool::new(
            spec(
                "proposal_approve",
                "Approve a proposed call",
                "Run a proposed call, exactly as it was proposed and once, with the approver's own rights; one that is refused for what passes (a conflict, a limit, Docker away) waits on. Only by a token itself, never by a client that acts for it. Read it with proposal_get first; wants confirm=<its number>.",
                Hints { idempotent: false, ..Hints::DESTROY },
                Scope::Deploy,
                Method::Post,
                "/v1/proposals/{proposal}/approve",
            ),
            approve,
        ),
        Tool::new(
            spec(
                "proposal_reject",
                "Reject a proposed call",
                "Say no to a proposed call, with a reason that its proposer can read. It cannot be approved afterwards.",
                Hints::UPDATE,
                Scope::Deploy,
                Method::Post,
                "/v1/proposals/{proposal}/reject",
            ),
            reject,
        ),
    ]
}

/// Keeps a call of a token that may only propose, and says so: the answer is always a problem, because nothing was done.
pub(crate) async fn propose(tool: &Tool, call: &Call, input: Value) -> Problem {
    if tool.spec.name.starts_with("proposal_") {
        let detail = format!("The token {:?} may only propose, not decide.", call.principal.token());
        return Problem::new(Code::Forbidden, detail).hint("A person decides, with a token of his own.");
    }
    if let Err(problem) = tool.check(&input) {
        return problem;
    }
    let wants = tool.input["properties"].get("confirm").is_some();
    if wants && input.get("confirm").and_then(Value::as_str).is_none() {
        let detail = format!("{} wants a confirmation, and a proposal must be complete.", tool.spec.name);
        return Problem { field: Some("confirm".into()), ..Problem::new(Code::ConfirmationRequired, detail) }
            .hint("Call it with dry_run=true to learn what it would do, then again with confirm.");
    }
    let upload = match named_upload(tool, call, &input).await {
        Ok(upload) => upload,
        Err(problem) => return problem,
    };
    let new = NewProposal {
        tool: tool.spec.name,
        target: audited::target(&tool.spec, &input),
        client: call.via.client.clone(),
        arguments: input,
        upload,
    };
    match call.context.store.proposals().propose(&call.principal, new).await {
        Ok(id) => Problem::new(
            Code::ApprovalRequired,
            format!("Nothing was done: this token may only propose, so that {} is proposal {id} now.", tool.spec.name),
        )
        .hint(format!(
            "A person approves it with `berth proposal approve {id}`; proposal_get(proposal={id}) says what became of it. Go on with what does not depend on it."
        )),
        Err(error) => error.into(),
    }
}

/// The upload that a call names, which must be there for it and is kept as long as the proposal can be approved.
async fn named_upload(tool: &Tool, call: &Call, input: &Value) -> Result<Option<UploadId>, Problem> {
    if tool.input["properties"].get("upload").is_none() {
        return Ok(None);
    }
    let id = input.get("upload").and_then(Value::as_str).and_then(|id| id.parse::<UploadId>().ok());
    match id {
        Some(id) => Ok(Some(source::upload(call, &id).await?.id)),
        None => Ok(None),
    }
}

async fn list(call: Call, input: ProposalList) -> Result<ProposalPage, Problem> {
    let limit = page::limit(input.limit, 20, 100)?;
    let before = page::number_cursor(input.cursor.as_deref())?;
    let state = input.state.unwrap_or(ProposalState::Pending);
    // Proposals may be about any project.
    let of = (call.principal.visible != Visible::All).then(|| call.principal.token().to_owned());
    let mut proposals = call.context.store.proposals().list(state, of.as_deref(), before, limit).await?;
    let more = page::cut(&mut proposals, limit, call.budget, input.limit.is_some());
    let next_cursor = proposals.last().filter(|_| more).map(|p| p.proposal.to_string());
    Ok(ProposalPage { proposals, next_cursor })
}

async fn get(call: Call, input: ProposalGet) -> Result<ProposalDetail, Problem> {
    let row = find(&call, input.proposal).await?;
    Ok(ProposalDetail { arguments: shown(&row), proposal: row.proposal })
}

async fn find(call: &Call, id: i64) -> Result<ProposalRow, Problem> {
    let row = call.context.store.proposals().get(id).await?;
    let own = |row: &ProposalRow| row.proposal.proposed_by.split('/').next() == Some(call.principal.token());
    row.filter(|row| call.principal.visible == Visible::All || own(row)).ok_or_else(|| {
        Problem {
            field: Some("proposal".into()),
            ..Problem::new(Code::NotFound, format!("There is no proposal {id}."))
        }
        .hint("List what waits with proposal_list.")
    })
}

/// Refuses clients: a model must not approve what a model proposed.
fn demand_person(call: &Call) -> Result<(), Problem> {
    match &call.principal.grant {
        None => Ok(()),
        Some(_) => {
            Err(Problem::new(Code::Forbidden, "A client that acts for somebody cannot decide on proposals.")
                .hint("Decide with a token of your own: `berth proposal approve`."))
        }
    }
}

async fn approve(call: Call, input: ProposalApprove) -> Result<ProposalDecided, Problem> {
    demand_person(&call)?;
    let id = input.proposal;
    let row = find(&call, id).await?;
    let name = row.proposal.tool.clone();
    let tool = TOOLS.get(&name).ok_or_else(|| {
        Problem::new(Code::Conflict, format!("This version of Berth has no tool {name}."))
            .hint("Reject the proposal.")
    })?;
    tool.permits(&call.principal)?;
    let arguments = shown(&row);
    if input.dry_run {
        return Ok(ProposalDecided { proposal: row.proposal, arguments, answer: None });
    }
    let effects = [format!("call {name} with your rights, as {} proposed", row.proposal.proposed_by)];
    confirmed("proposal_approve", &id.to_string(), input.confirm.as_deref(), &effects)?;
    let proposals = call.context.store.proposals();
    proposals.approve(&call.principal, id).await?;
    let via =
        Via { client: Some(format!("proposal {id} of {}", row.proposal.proposed_by)), ..call.via.clone() };
    let run = Call::new(call.context.clone(), call.principal.clone()).via(via);
    let run = run.progress(call.progress.clone()).proposed_by(&row.proposal.proposed_by);
    let output = match tool.call(run, row.arguments).await {
        Ok(answer) => answer.output,
        Err(problem) => return Err(not_done(&call, id, problem).await?),
    };
    proposals.ended(id, None).await?;
    let answer = output.to_string().chars().take(MAX_ANSWER).collect::<String>();
    let decided = find(&call, id).await?;
    Ok(ProposalDecided { proposal: decided.proposal, arguments, answer: Some(answer.into()) })
}

/// Whether an approved call was refused for what passes by itself or can be put right without the proposer, before
/// anything was done. The same call may work later, so that its proposal is not used up.
fn may_work_later(problem: &Problem) -> bool {
    matches!(
        problem.code,
        Code::Forbidden
            | Code::Conflict
            | Code::RateLimited
            | Code::DockerUnavailable
            | Code::OutOfDisk
            | Code::Unavailable
    )
}

/// Writes down that an approved call did not work; the problem with what became of its proposal and what to do.
async fn not_done(call: &Call, id: i64, problem: Problem) -> Result<Problem, Problem> {
    let proposals = call.context.store.proposals();
    let next = if may_work_later(&problem) {
        proposals.reopen(id, &problem).await?;
        format!(
            "Proposal {id} waits on: approve it again once the cause is gone, or say no with proposal_reject(proposal={id})."
        )
    } else {
        proposals.ended(id, Some(&problem)).await?;
        format!(
            "Proposal {id} has failed and is not run again: see whether anything was done, and have it proposed anew, put right."
        )
    };
    let hint = problem.hint.iter().map(String::as_str).chain([next.as_str()]).collect::<Vec<_>>().join(" ");
    Ok(problem.hint(hint))
}

async fn reject(call: Call, input: ProposalReject) -> Result<ProposalDecided, Problem> {
    demand_person(&call)?;
    if input.reason.as_ref().is_some_and(|r| r.len() > 500) {
        return Err(Problem::invalid("reason", "reason has at most 500 characters."));
    }
    find(&call, input.proposal).await?;
    let proposals = call.context.store.proposals();
    proposals.reject(&call.principal, input.proposal, input.reason.as_deref()).await?;
    let row = find(&call, input.proposal).await?;
    Ok(ProposalDecided { arguments: shown(&row), proposal: row.proposal, answer: None })
}

/// The arguments with secrets masked.
fn shown(row: &ProposalRow) -> berth_schemas::Untrusted {
    let tool = row.proposal.tool.as_str();
    let mut arguments = row.arguments.clone();
    if let Value::Object(fields) = &mut arguments {
        mask(fields, tool, tool.starts_with("variable_"));
    }
    format!("{arguments:#}").into()
}

/// Whether a field of a tool's input may hold a secret. What sounds like one is one, unless it is known to be none; the
/// secrets that do not sound so are named here.
fn is_secret(tool: &str, field: &str) -> bool {
    const WORDS: [&str; 7] = ["secret", "password", "token", "credential", "key", "private", "passphrase"];
    match field {
        // It says which intention this was.
        "idempotency_key" => false,
        // Its name: whoever approves has to see which token goes.
        "token" if tool == "token_revoke" => false,
        // Who knows the URL of an incoming webhook may write there.
        "url" if tool.starts_with("channel_") => true,
        _ => WORDS.iter().any(|word| field.contains(word)),
    }
}

/// Masks what may be secret: by the name of its field; values of variables whatever they are called.
fn mask(fields: &mut Map<String, Value>, tool: &str, variables: bool) {
    for (name, value) in fields {
        let lower = name.to_ascii_lowercase();
        let secret = is_secret(tool, &lower)
            || (variables && matches!(lower.as_str(), "variables" | "value" | "text"));
        match value {
            _ if secret => hide(value),
            // Whoever takes a token's secret for its name must not show it to everybody.
            Value::String(text) if text.starts_with("berth_") => hide(value),
            Value::Object(inner) => mask(inner, tool, variables || lower == "variables"),
            Value::Array(items) => items.iter_mut().for_each(|item| {
                if let Value::Object(inner) = item {
                    mask(inner, tool, variables);
                }
            }),
            _ => {}
        }
    }
}

/// Hides all texts and numbers in a value, and leaves its shape.
fn hide(value: &mut Value) {
    match value {
        Value::String(_) | Value::Number(_) => *value = "••••".into(),
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(fields) => fields.values_mut().for_each(hide),
        Value::Null | Value::Bool(_) => {}
    }
}

fn line(proposal: &Proposal) -> Text {
    let text = Text::from(format!(
        "Proposal {} ({}): {}",
        proposal.proposal,
        proposal.state.as_str(),
        proposal.tool
    ));
    let text = match &proposal.target {
        Some(target) => text.say(" on ").quote(target),
        None => text,
    };
    let text = text.say(format!(", by {} at {}", proposal.proposed_by, proposal.proposed_at));
    let text = text.say_if(proposal.decided_by.as_ref().map(|by| format!("; decided by {by}")));
    let text = text.say_if(proposal.reason.as_ref().map(|reason| format!(": {reason}")));
    let how = match proposal.state {
        ProposalState::Interrupted => "Whether it worked is not known",
        ProposalState::Pending => "It was approved, did not work and waits on",
        _ => "It did not work",
    };
    match &proposal.problem {
        Some(problem) => text.say(format!(". {how}: ")).tell(problem),
        None => text,
    }
}

impl Brief for ProposalPage {
    fn brief(&self) -> Text {
        let text = Text::from(count(self.proposals.len(), "proposal"));
        let text = self.proposals.iter().fold(text, |text, proposal| text.say("\n").join(line(proposal)));
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for ProposalDetail {
    fn brief(&self) -> Text {
        line(&self.proposal).say("\n").quote(&self.arguments)
    }
}

impl Brief for ProposalDecided {
    fn brief(&self) -> Text {
        let text = line(&self.proposal).say("\n").quote(&self.arguments);
        match &self.answer {
            Some(answer) => text.say("\nIt answered: ").quote(answer),
            None => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_masked_and_their_names_stay() {
        let mut fields = json!({
            "app": "shop", "variables": { "A": "first", "B": ["second"] }, "credentials": { "api_token": "third", "zone": 4 },
            "settings": { "health": "/x", "basic_auth": { "user": "u", "password": "fifth" } }, "idempotency_key": "k",
        });
        mask(fields.as_object_mut().unwrap(), "variable_set", true);
        let text = fields.to_string();
        for secret in ["first", "second", "third", "fifth"] {
            assert!(!text.contains(secret), "{text}");
        }
        for kept in ["shop", "\"A\"", "api_token", "/x", "\"u\"", "\"k\""] {
            assert!(text.contains(kept), "{text}");
        }
    }
    #[test]
    fn a_name_of_a_token_is_shown_but_its_secret_is_not() {
        for (text, shown) in [("ci", true), ("berth_0123456789abcdef", false)] {
            let mut fields = json!({ "token": text, "confirm": text });
            mask(fields.as_object_mut().unwrap(), "token_revoke", false);
            assert_eq!(fields["token"] == text, shown, "{fields}");
        }
    }
}
