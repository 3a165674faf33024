//! One run: a fresh world, an agent, a verdict.

use std::time::Instant;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    adapters::Agent,
    session::{Done, Session},
    state::AGENT,
    task::{Kind, Task},
    world::{Place, Worlds},
};

/// What came of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// The task.
    pub task: String,
    /// Its kind.
    pub kind: Kind,
    /// Who did it.
    pub agent: String,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Whether all was well.
    pub passed: bool,
    /// What was not.
    pub wrong: Vec<String>,
    /// How many calls.
    pub calls: usize,
    /// Tokens of calls and answers.
    pub tokens: u64,
    /// Tokens that the model's interface billed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billed: Option<u64>,
    /// Calls that were refused.
    pub errors: usize,
    /// Those after which the same tool worked.
    pub recovered: usize,
    /// What must not be called and was.
    pub unsafe_actions: Vec<String>,
    /// From the first call to the answer, in milliseconds.
    pub ms: u64,
    /// What was said.
    pub answer: String,
    /// What was done.
    pub transcript: Vec<Done>,
}

/// Does a task once.
///
/// # Errors
/// When the world cannot be made, or daemon or model do not answer.
pub async fn once(worlds: &Worlds, task: &Task, agent: &Agent, name: &str, attempt: u32) -> Result<Outcome> {
    let place = worlds.place(&task.world).await?;
    let token = token_for(&place, task).await?;
    let mut session = Session::open(place.daemon.control, &token, "", task.budget.calls).await?;
    let began = Instant::now();
    let ended = agent.run(task, &mut session).await?;
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let wrong = task.verify.look(&place.api, place.daemon.http, &place.before, &session.done).await?;
    worlds.give_back(&task.world, place, &session.done).await?;
    let mut outcome = judge(task, wrong, session.done, ended.answer, name);
    outcome.attempt = attempt;
    outcome.ms = ms;
    outcome.billed = ended.billed;
    if let Some(trouble) = ended.trouble {
        outcome.wrong.push(trouble);
        outcome.passed = false;
    }
    Ok(outcome)
}

/// A token with what the task allows.
///
/// # Errors
/// When the daemon does not make one.
pub async fn token_for(place: &Place, task: &Task) -> Result<String> {
    let wanted = json!({ "name": AGENT, "scopes": task.scopes, "projects": task.projects });
    let made = place.api.call("token_create", wanted).await?;
    Ok(made["secret"].as_str().unwrap_or_default().to_owned())
}

/// The verdict over what was done, with what is wrong with the state.
#[must_use]
pub fn judge(task: &Task, state: Vec<String>, done: Vec<Done>, answer: String, agent: &str) -> Outcome {
    let mut wrong = task.verify.answer.wrong(&answer);
    wrong.extend(state);
    let unsafe_actions: Vec<String> = done
        .iter()
        .filter_map(|d| task.unsafe_calls.iter().find(|u| u.is(d)).map(|u| (d, u)))
        .map(|(d, u)| format!("{}({}): {}", d.tool, d.arguments, u.why))
        .collect();
    wrong.extend(unsafe_actions.iter().map(|u| format!("unsafe: {u}")));
    let tokens = done.iter().map(Done::tokens).sum();
    if done.len() > task.budget.calls {
        wrong.push(format!("{} calls, and {} are allowed", done.len(), task.budget.calls));
    }
    if tokens > task.budget.tokens {
        wrong.push(format!("{tokens} tokens, and {} are allowed", task.budget.tokens));
    }
    let (errors, recovered) = errors(&done);
    Outcome {
        task: task.id.clone(),
        kind: task.kind,
        agent: agent.to_owned(),
        attempt: 1,
        passed: wrong.is_empty(),
        wrong,
        calls: done.len(),
        tokens,
        billed: None,
        errors,
        recovered,
        unsafe_actions,
        ms: 0,
        answer,
        transcript: done,
    }
}

/// Refused calls, and those of them after which the same tool worked.
fn errors(done: &[Done]) -> (usize, usize) {
    let refused = done.iter().enumerate().filter(|(_, d)| d.error.is_some());
    let mended = |(at, d): &(usize, &Done)| {
        done.iter().skip(at + 1).any(|later| later.tool == d.tool && later.error.is_none())
    };
    let all: Vec<(usize, &Done)> = refused.collect();
    (all.len(), all.iter().filter(|r| mended(r)).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn an_error_is_recovered_when_the_tool_works_later() {
        let done = |tool: &str, error: Option<&str>| Done {
            tool: tool.into(),
            arguments: Value::Null,
            error: error.map(str::to_owned),
            text: String::new(),
            structured: Value::Null,
        };
        let all = [
            done("a", Some("not_found")),
            done("b", Some("conflict")),
            done("a", None),
            done("a", Some("x")),
        ];
        assert_eq!(errors(&all), (3, 1));
    }
}
