//! Gradual rollouts: a new release gets a part of the traffic until it is promoted or aborted.

use berth_schemas::{
    Code, Problem, Scope,
    deployment::{DeploymentCreate, DeploymentDetail},
    traffic::{RolloutEnd, RolloutRule, RolloutSet, RolloutStart, TrafficMatch},
};
use serde::Serialize;

use crate::{
    apps, deployments, find, follow, once,
    registry::{Call, Hints, Method, Spec, Tier, Tool},
    source,
};

/// Share of the visitors where none was given.
const DEFAULT_PERCENT: u8 = 10;
/// Longest name or value of a header or cookie.
const MAX_MATCH: usize = 200;

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "rollout_start",
                title: "Roll a release out gradually",
                description: "Canary release: deploy an app's new release beside the live one and give it only a part of the traffic: percent of the visitors, or who sends a header or cookie. Sources as in deployment_create. It goes back by itself if it dies or answers mostly 5xx; end it with rollout_promote or rollout_abort. It keeps its replicas until it is promoted.",
                hints: Hints::CREATE.open_world(),
                scope: Scope::Deploy,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/rollout",
            },
            start,
        ),
        Tool::new(
            Spec {
                name: "rollout_set",
                title: "Change a rollout's part",
                description: "Change at once which requests the release on trial gets: percent, header, cookie. What is not named stays.",
                hints: Hints::UPDATE,
                scope: Scope::Deploy,
                tier: Tier::Extended,
                method: Method::Patch,
                path: "/v1/apps/{app}/rollout",
            },
            set,
        ),
        Tool::new(
            Spec {
                name: "rollout_promote",
                title: "Promote a rollout",
                description: "Give the release on trial all the traffic: it becomes live, open requests of the old one finish, and the old one is kept for rollback.",
                hints: Hints::UPDATE,
                scope: Scope::Deploy,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/rollout/promote",
            },
            promote,
        ),
        Tool::new(
            Spec {
                name: "rollout_abort",
                title: "Abort a rollout",
                description: "Abort a gradual rollout and give all traffic back to the old release, which is live: open requests of the release on trial finish, then it is removed.",
                hints: Hints::UPDATE,
                scope: Scope::Deploy,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/rollout/abort",
            },
            abort,
        ),
    ]
}

async fn start(call: Call, input: RolloutStart) -> Result<DeploymentDetail, Problem> {
    let wait = follow::wait(input.wait_s, 0)?;
    let rule = RolloutRule {
        percent: input.percent.unwrap_or(DEFAULT_PERCENT),
        header: input.header.clone(),
        cookie: input.cookie.clone(),
    };
    check_rule(&rule)?;
    let wanted = what_to_deploy(&input);
    source::check(&wanted, call.context.allow_local_sources)?;
    let key = input.idempotency_key.as_deref();
    let row = once::deployment(&call, "rollout_start", key, &what_is_wanted(&input), async {
        let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
        let name = app.slug.as_str();
        if apps::live(&call, &app).await?.is_none() {
            let none = format!("{name} has no live release that a new one could be compared with.");
            return Err(Problem::new(Code::Conflict, none)
                .hint(format!("Deploy it with deployment_create(app={name:?}, …).")));
        }
        if app.environment.stopped {
            return Err(Problem::new(Code::Conflict, format!("{name} is stopped, so it has no visitors."))
                .hint(format!("Start it with app_start(app={name:?}), or use deployment_create.")));
        }
        let source = source::of(&call, &app, &wanted).await?;
        let options = berth_deploy::EnqueueOptions {
            message: input.message.clone(),
            no_cache: input.no_cache,
            rollout: Some(rule),
        };
        call.context.pipeline.enqueue(&call.principal, &app, source, options).await
    })
    .await?;
    let row = follow::deployment(&call, row.into_row(), wait).await?;
    deployments::detail(&call, &row).await
}

/// The part of the input that makes two calls the same intention: all but how long to wait.
fn what_is_wanted(input: &RolloutStart) -> impl Serialize {
    RolloutStart { wait_s: None, ..input.clone() }
}

/// The same source as a deployment that takes all traffic would have.
fn what_to_deploy(input: &RolloutStart) -> DeploymentCreate {
    DeploymentCreate {
        app: input.app.clone(),
        environment: input.environment.clone(),
        git_url: input.git_url.clone(),
        git_ref: input.git_ref.clone(),
        image: input.image.clone(),
        upload: input.upload.clone(),
        folder: None,
        files: input.files.clone(),
        create_app: false,
        project: None,
        message: input.message.clone(),
        no_cache: input.no_cache,
        wait_s: None,
        idempotency_key: None,
    }
}

async fn set(call: Call, input: RolloutSet) -> Result<DeploymentDetail, Problem> {
    // What is wrong whatever goes on is said whether something goes on or not.
    changed(RolloutRule::default(), input.clone())?;
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let row = call.context.pipeline.rollout(&app).await?;
    let rule = changed(row.rollout.clone().unwrap_or_default(), input)?;
    let row = call.context.pipeline.set_rollout(&call.principal, &row, rule).await?;
    deployments::detail(&call, &row).await
}

/// The rule with what the input names, and what it drops.
fn changed(mut rule: RolloutRule, input: RolloutSet) -> Result<RolloutRule, Problem> {
    if input.percent.is_none() && input.header.is_none() && input.cookie.is_none() && input.unset.is_empty() {
        return Err(Problem::invalid("percent", "Nothing to change was named.")
            .hint("Pass percent, header, cookie or unset."));
    }
    for name in &input.unset {
        match name.as_str() {
            "header" => rule.header = None,
            "cookie" => rule.cookie = None,
            other => {
                let other: String = other.chars().take(60).collect();
                return Err(Problem::invalid("unset", format!("{other:?} is not header or cookie.")));
            }
        }
    }
    rule.percent = input.percent.unwrap_or(rule.percent);
    rule.header = input.header.or(rule.header);
    rule.cookie = input.cookie.or(rule.cookie);
    check_rule(&rule)?;
    Ok(rule)
}

fn check_rule(rule: &RolloutRule) -> Result<(), Problem> {
    if rule.percent > 100 {
        let detail = format!("percent is {}; it must be from 0 to 100.", rule.percent);
        return Err(Problem::invalid("percent", detail));
    }
    for (field, wanted) in [("header", &rule.header), ("cookie", &rule.cookie)] {
        let Some(wanted) = wanted else { continue };
        check_match(wanted).map_err(|why| Problem::invalid(field, format!("{field}: {why}.")))?;
    }
    Ok(())
}

fn check_match(wanted: &TrafficMatch) -> Result<(), String> {
    let name = wanted.name.as_str();
    if name.len() > MAX_MATCH || http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(format!("its name must be a token of at most {MAX_MATCH} characters"));
    }
    let fits = |v: &String| v.len() <= MAX_MATCH && v.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if !wanted.value.as_ref().is_none_or(fits) {
        return Err(format!("its value must be at most {MAX_MATCH} printable ASCII characters"));
    }
    Ok(())
}

async fn promote(call: Call, input: RolloutEnd) -> Result<DeploymentDetail, Problem> {
    let wait = follow::wait(input.wait_s, 10)?;
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let row = call.context.pipeline.rollout(&app).await?;
    let row = call.context.pipeline.promote(&call.principal, &row).await?;
    let row = follow::deployment(&call, row, wait).await?;
    deployments::detail(&call, &row).await
}

async fn abort(call: Call, input: RolloutEnd) -> Result<DeploymentDetail, Problem> {
    let wait = follow::wait(input.wait_s, 10)?;
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let row = call.context.pipeline.rollout(&app).await?;
    let row = call.context.pipeline.cancel(&call.principal, &row).await?;
    let row = follow::deployment(&call, row, wait).await?;
    deployments::detail(&call, &row).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set_input(input: serde_json::Value) -> RolloutSet {
        serde_json::from_value(input).unwrap()
    }

    #[test]
    fn what_is_not_named_stays() {
        let cookie = TrafficMatch { name: "beta".into(), value: None };
        let rule = RolloutRule { percent: 10, header: None, cookie: Some(cookie.clone()) };
        let more = changed(rule.clone(), set_input(json!({"app": "web", "percent": 50}))).unwrap();
        assert_eq!((more.percent, more.cookie), (50, Some(cookie)));
        let none = changed(rule.clone(), set_input(json!({"app": "web", "unset": ["cookie"]}))).unwrap();
        assert_eq!((none.percent, none.cookie), (10, None));
        assert!(changed(rule, set_input(json!({"app": "web"}))).is_err(), "nothing was named");
    }

    #[test]
    fn rules_that_could_never_match_are_refused() {
        for (input, field) in [
            (json!({"app": "web", "percent": 101}), "percent"),
            (json!({"app": "web", "header": {"name": "a b"}}), "header"),
            (json!({"app": "web", "cookie": {"name": "a", "value": "\n"}}), "cookie"),
            (json!({"app": "web", "unset": ["percent"]}), "unset"),
        ] {
            let refused = changed(RolloutRule::default(), set_input(input)).unwrap_err();
            assert_eq!(refused.field.as_deref(), Some(field));
        }
    }
}
