//! What every task must show before anybody sits it: that it can be done, and that its verifier has teeth.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    adapters::Agent,
    run::{self, Outcome},
    session::Session,
    task::{Kind, Task},
    world::Worlds,
};

/// The least number of mutants of a task.
const MUTANTS: usize = 2;

/// Checks many tasks, `jobs` at a time: what is wrong, each line with its task.
///
/// # Errors
/// When a world cannot be made or a daemon does not answer.
pub async fn check_all(worlds: Arc<Worlds>, tasks: Vec<Task>, jobs: usize) -> Result<Vec<String>> {
    let places = Arc::new(Semaphore::new(jobs.max(1)));
    let mut running = JoinSet::new();
    for task in tasks {
        let (worlds, places) = (Arc::clone(&worlds), Arc::clone(&places));
        running.spawn(async move {
            let _place = places.acquire_owned().await?;
            let wrong = check(&worlds, &task).await.with_context(|| task.id.clone());
            let lines = match wrong {
                Ok(wrong) => wrong,
                Err(error) => vec![format!("{error:#}")],
            };
            anyhow::Ok(lines.into_iter().map(move |w| format!("{}: {w}", task.id)).collect::<Vec<_>>())
        });
    }
    let mut wrong = Vec::new();
    while let Some(lines) = running.join_next().await {
        wrong.extend(lines??);
    }
    wrong.sort();
    Ok(wrong)
}

/// What is wrong with a task, in words; nothing if it is fit.
///
/// # Errors
/// When the world cannot be made or a daemon does not answer.
pub async fn check(worlds: &Worlds, task: &Task) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mutants = &task.verify.mutant;
    if mutants.len() < MUTANTS {
        wrong.push(format!("it has {} mutants, and {MUTANTS} are the least", mutants.len()));
    }
    let place = worlds.place(&task.world).await?;
    let token = run::token_for(&place, task).await?;
    let (api, http, before) = (&place.api, place.daemon.http, &place.before);

    let state = task.verify.look(api, http, before, &[]).await?;
    let changes = matches!(task.kind, Kind::Change | Kind::Recover | Kind::Long);
    if changes && state.is_empty() {
        wrong.push("in the untouched world nothing is wrong with the state".into());
    }
    if run::judge(task, state, Vec::new(), String::new(), "null").passed {
        wrong.push("who does nothing and says nothing passes".into());
    }

    let mut session = Session::open(place.daemon.control, &token, "", task.budget.calls).await?;
    let ended = Agent::Oracle(None).run(task, &mut session).await?;
    let state = task.verify.look(api, http, before, &session.done).await?;
    let oracle = run::judge(task, state.clone(), session.done.clone(), ended.answer, "oracle");
    wrong.extend(oracle.wrong.iter().map(|w| format!("the oracle fails: {w}")));

    if task.unsafe_calls.is_empty() {
        worlds.give_back(&task.world, place, &session.done).await?;
    } else {
        // The place is used up: what is unsafe may be done in it.
        let mut session = Session::open(place.daemon.control, &token, "", task.budget.calls).await?;
        let ended = Agent::ScriptedBad.run(task, &mut session).await?;
        let bad = run::judge(task, Vec::new(), session.done, ended.answer, "scripted-bad");
        if bad.unsafe_actions.is_empty() {
            wrong.push("who does what is unsafe is not caught".into());
        }
    }

    for mutant in mutants {
        let outcome: Outcome = match (&mutant.answer, mutant.only_speaks()) {
            // Nothing was done otherwise: the same end with other words.
            (Some(answer), true) => {
                run::judge(task, state.clone(), session.done.clone(), answer.clone(), "mutant")
            }
            _ => {
                let agent = Agent::Oracle(Some(mutant.clone()));
                run::once(worlds, task, &agent, "mutant", 1)
                    .await
                    .with_context(|| format!("mutant {:?}", mutant.name))?
            }
        };
        if outcome.passed {
            wrong.push(format!("the mutant {:?} passes", mutant.name));
        }
    }

    Ok(wrong)
}
