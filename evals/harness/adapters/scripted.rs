//! Agents without a model: they show that tasks can be done and that verifiers have teeth.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::Ended;
use crate::harness::{
    arguments::{self, Dice},
    session::Session,
    task::{Task, fill},
    verify::Mutant,
};

/// Replays the oracle's calls, and a mutant's alterations of them.
pub(super) async fn oracle(task: &Task, mutant: Option<&Mutant>, session: &mut Session) -> Result<Ended> {
    let mut answers: Vec<Value> = Vec::new();
    let also = mutant.map_or(&[][..], |m| m.also.as_slice());
    for (index, call) in task.oracle.iter().chain(also).enumerate() {
        let number = index + 1;
        if mutant.is_some_and(|m| m.without.contains(&number)) {
            answers.push(Value::Null);
            continue;
        }
        let mut wanted = call.arguments.clone();
        if let Some(Value::Object(other)) = mutant.and_then(|m| m.change.get(&number.to_string()))
            && let Value::Object(map) = &mut wanted
        {
            map.extend(other.clone());
        }
        let arguments = match (fill(&wanted, &answers), mutant) {
            (Ok(arguments), _) => arguments,
            // What a left-out call would have answered is missing, so this one cannot be made either.
            (Err(_), Some(_)) => {
                answers.push(Value::Null);
                continue;
            }
            (Err(error), None) => return Err(error.context(format!("call {number} of {}", task.id))),
        };
        let done = session.reach(&call.tool, arguments).await?;
        answers.push(done.structured.clone());
        // A mutant may be refused: then it has not done what it was to do, and must fail for that.
        if mutant.is_none() && done.error != call.refused {
            let (wanted, id) = (call.refused.as_deref().unwrap_or("ok"), &task.id);
            bail!(
                "call {number} of {id}, {}({}): {:?} instead of {wanted}: {}",
                done.tool,
                done.arguments,
                done.error,
                done.text
            );
        }
    }
    let answer = mutant.and_then(|m| m.answer.clone()).unwrap_or_else(|| task.answer.clone());
    let answer = match (fill(&Value::String(answer), &answers), mutant) {
        (Ok(answer), _) => answer,
        (Err(_), Some(_)) => json!("Done."),
        (Err(error), None) => return Err(error.context(format!("the answer of {}", task.id))),
    };
    Ok(Ended { answer: crate::harness::path::text(&answer), ..Ended::default() })
}

/// Twelve calls of tools in the list, whichever, with arguments that fit their schemas.
pub(super) async fn random(seed: u64, task: &Task, session: &mut Session) -> Result<Ended> {
    let mut dice = Dice::new(seed ^ task.id.bytes().fold(0, |sum, b| sum * 31 + u64::from(b)));
    let tools: Vec<(String, Value)> = session
        .tools()
        .iter()
        .map(|t| (t.name.to_string(), Value::Object((*t.input_schema).clone())))
        .collect();
    for _ in 0..12.min(task.budget.calls) {
        let Some((name, schema)) = dice.pick(&tools) else { break };
        let mut input = arguments::random(schema, &mut dice);
        // Nobody needs to wait for what was begun by chance.
        if let Some(wait) = input.get_mut("wait_s") {
            *wait = json!(0);
        }
        session.call(name, input).await?;
    }
    Ok(Ended { answer: "I am done; everything is as you wished.".into(), ..Ended::default() })
}

/// Everything that the task says must not be called, as far as it is said how; then the right answer.
pub(super) async fn bad(task: &Task, session: &mut Session) -> Result<Ended> {
    let mut last = Map::new();
    for call in &task.unsafe_calls {
        let mut input = call.arguments.clone();
        // Whoever does harm confirms it, too, by the name of what the tool is about.
        let noun = call.tool.split('_').next().unwrap_or_default();
        if let Some(named) = input.get(noun).or(input.get("app")).cloned() {
            input.entry("confirm").or_insert(named);
        }
        last.clone_from(&input);
        let done = session.reach(&call.tool, Value::Object(input)).await?;
        // A tool that takes no confirmation says so: then without.
        if done.error.as_deref() == Some("invalid_input") && last.remove("confirm").is_some() {
            session.reach(&call.tool, Value::Object(last.clone())).await?;
        }
    }
    Ok(Ended { answer: task.answer.clone(), ..Ended::default() })
}
