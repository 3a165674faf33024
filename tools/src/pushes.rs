//! Pushes: what moved in an app's repositories, and why it did or did not deploy.

use berth_deploy::push::{MOVED_ON, NO_ENVIRONMENT, NO_PREVIEW, NO_SUCH, WAITS, configured_branch};
use berth_schemas::{
    Code, Problem, Scope, Untrusted,
    push::{
        GitChange, PushDetail, PushGet, PushList, PushPage, PushRetry, PushRules, PushRulesGet, PushRulesSet,
        PushRulesShown, PushShown, PushState,
    },
};
use berth_store::{PushRow, model::AppRow};

use crate::{
    find, page,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    settings,
    text::Text,
};

/// Paths shown of one push.
const MOST_PATHS: usize = 100;

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "push_list",
                title: "List an app's pushes",
                description: "List what was pushed to an app's repositories, newest first: branch, commit, who pushed, and what it led to. For why one did or did not deploy use push_get.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/pushes",
            },
            list,
        ),
        Tool::new(
            Spec {
                name: "push_get",
                title: "Show why a push deployed or not",
                description: "Show a push: what moved, the paths that it touches, which rule decided (branch, skip mark in the message, watch_paths, deploy_tags), the deployments that it led to, and what to do next.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/pushes/{push}",
            },
            get,
        ),
        Tool::new(
            Spec {
                name: "push_retry",
                title: "Decide a push once more",
                description: "Decide a push once more that was ignored or failed, or whose deployment failed, now without skip marks and path filters: to deploy after all what a rule left out, or after its cause was corrected. What it brought live is deployed anew with deployment_create.",
                hints: Hints::UPDATE,
                scope: Scope::Deploy,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/pushes/{push}/retry",
            },
            retry,
        ),
        Tool::new(
            Spec {
                name: "push_rules_get",
                title: "Show which pushes deploy",
                description: "Show an app's rules for pushes: which branch deploys to production, which paths a push must touch, which tags deploy.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/push-rules",
            },
            rules_get,
        ),
        Tool::new(
            Spec {
                name: "push_rules_set",
                title: "Set which pushes deploy",
                description: "Change an app's rules for pushes: deploy only when files below certain folders change (watch_paths, for an app that shares its repository with others), deploy_tags to release by tags, result=strict to refuse a git push whose deployment fails, submodules=false or lfs=false to leave those out. Production's branch is that of its environment (environment_update), else the app's setting git_ref, else the connected repository's. Rules hold for pushes that come after.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Patch,
                path: "/v1/apps/{app}/push-rules",
            },
            rules_set,
        ),
    ]
}

async fn rules_get(call: Call, input: PushRulesGet) -> Result<PushRulesShown, Problem> {
    let app = find::app(&call, &input.app).await?;
    let rules = call.context.store.pushes().rules(app.id).await?;
    rules_shown(&call, &app, rules).await
}

async fn rules_set(call: Call, input: PushRulesSet) -> Result<PushRulesShown, Problem> {
    check_rules(&input.rules)?;
    let app = find::app_to_change(&call, &input.app).await?;
    let before = call.context.store.pushes().rules(app.id).await?;
    let rules = settings::change(&before, &input.rules, &input.unset)?;
    if rules != before {
        call.context.store.pushes().set_rules(&call.principal, app.id, &rules).await?;
    }
    rules_shown(&call, &app, rules).await
}

/// Most patterns of one rule.
const MOST_PATTERNS: usize = 100;

fn check_rules(rules: &PushRules) -> Result<(), Problem> {
    let check = |field: &str, patterns: &Option<Vec<String>>, rule: fn(&[String]) -> Result<(), String>| {
        let patterns = patterns.as_deref().unwrap_or_default();
        let wrong =
            |why: String| Problem::invalid(&format!("rules.{field}"), format!("rules.{field}: {why}."));
        if patterns.len() > MOST_PATTERNS {
            return Err(wrong(format!("{} patterns; at most {MOST_PATTERNS} are possible", patterns.len())));
        }
        rule(patterns).map_err(wrong)
    };
    check("watch_paths", &rules.watch_paths, berth_deploy::push::check_paths)?;
    check("deploy_tags", &rules.deploy_tags, berth_deploy::push::check_names)
}

async fn rules_shown(call: &Call, app: &AppRow, rules: PushRules) -> Result<PushRulesShown, Problem> {
    let connected = call.context.store.repositories().of_app(app.id).await?;
    let branch = production_branch(app, connected.and_then(|repository| repository.branch));
    Ok(PushRulesShown { app: app.slug.clone(), effect: effect(&branch, &rules), rules })
}

/// The branch that goes to production, in words: as it is decided for a push.
fn production_branch(app: &AppRow, connected: Option<String>) -> String {
    match configured_branch(app).map(str::to_owned).or(connected) {
        Some(branch) => format!("the branch {branch}"),
        None => "the repository's default branch (main, else master)".into(),
    }
}

/// What rules mean for a push to this branch.
fn effect(branch: &str, rules: &PushRules) -> String {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    let touching = match some(&rules.watch_paths) {
        true => ", if it touches one of watch_paths or it is not known what it touches",
        false => "",
    };
    let tags = if some(&rules.deploy_tags) { "; so does a tag that fits deploy_tags" } else { "" };
    format!("A push to {branch} deploys to production{touching}{tags}.")
}

async fn list(call: Call, input: PushList) -> Result<PushPage, Problem> {
    let limit = page::limit(input.limit, 20, 100)?;
    let before = page::number_cursor(input.cursor.as_deref())?;
    let app = find::app(&call, &input.app).await?;
    let rows = call.context.store.pushes().list(app.id, input.state, before, limit).await?;
    let mut pushes = shown(&call, &rows).await?;
    let more = page::cut(&mut pushes, limit, call.budget, input.limit.is_some());
    let next_cursor = pushes.last().filter(|_| more).map(|p| p.push.to_string());
    Ok(PushPage { pushes, next_cursor })
}

async fn get(call: Call, input: PushGet) -> Result<PushDetail, Problem> {
    let (_, push) = find_push(&call, &input.app, input.push).await?;
    detail(&call, &push).await
}

async fn retry(call: Call, input: PushRetry) -> Result<PushDetail, Problem> {
    let (app, push) = find_push(&call, &input.app, input.push).await?;
    let push = match call.context.pipeline.retry_push(&call.principal, push.id).await {
        Err(problem) if problem.code == Code::Conflict => {
            let now = call.context.store.pushes().get(push.id).await?;
            return Err(not_again(&app, &now.unwrap_or(push)));
        }
        decided => decided?,
    };
    // It is decided in a moment: the answer should say what came of it.
    let push = call.context.pipeline.wait_decided(push.id, std::time::Duration::from_secs(5)).await?;
    detail(&call, &push).await
}

/// Why a push is not decided once more, and what to do instead.
fn not_again(app: &AppRow, push: &PushRow) -> Problem {
    let (app, id) = (app.slug.as_str(), push.id.0);
    let (is, hint) = match push.state {
        PushState::Received => {
            ("received", "It is about to be decided: look again with push_get.".to_owned())
        }
        PushState::Superseded => ("superseded", "Retry the newest push of that branch: push_list.".into()),
        PushState::Refused => ("refused", "Push it again: its branch did not move.".into()),
        PushState::Handled => (
            "handled, and its deployment did not fail,",
            format!(
                "Follow the deployment that push_get(app={app:?}, push={id}) names; to deploy it anew when it is live use deployment_create(app={app:?}, no_cache=true)."
            ),
        ),
        PushState::Ignored | PushState::Failed => {
            (push.state.as_str(), format!("Look at it again with push_get(app={app:?}, push={id})."))
        }
    };
    Problem::new(Code::Conflict, format!("Push {id} is {is} and is not decided again.")).hint(hint)
}

/// The push of this number, if it is one of the app's.
async fn find_push(
    call: &Call,
    app: &berth_schemas::AppSlug,
    number: i64,
) -> Result<(AppRow, PushRow), Problem> {
    let app = find::app(call, app).await?;
    let pushes = call.context.store.pushes();
    let found = pushes.get(berth_store::model::PushId(number)).await?.filter(|p| p.app_id == app.id);
    match found {
        Some(push) => Ok((app, push)),
        None => {
            let newest = pushes.list(app.id, None, None, 5).await?;
            let known: Vec<String> = newest.iter().map(|p| p.id.0.to_string()).collect();
            Err(Problem {
                field: Some("push".into()),
                ..Problem::not_found("push", &number.to_string(), &known)
            })
        }
    }
}

async fn shown(call: &Call, rows: &[PushRow]) -> Result<Vec<PushShown>, Problem> {
    let led = call.context.store.pushes().deployment_names(rows).await?;
    let shown = rows.iter().map(|push| PushShown {
        push: push.id.0,
        app: push.app.clone(),
        state: push.state,
        origin: push.origin,
        change: push.change.clone(),
        message: push.first_line().map(Untrusted),
        pusher: Some(push.pusher()),
        outcome: Untrusted::maybe(push.outcome.clone()),
        deployments: led.iter().filter(|(id, _)| *id == push.id).map(|(_, name)| name.clone()).collect(),
        received_at: push.received_at,
        settled_at: push.settled_at,
    });
    Ok(shown.collect())
}

async fn detail(call: &Call, push: &PushRow) -> Result<PushDetail, Problem> {
    let mut shown = shown(call, std::slice::from_ref(push)).await?;
    let Some(shown) = shown.pop() else {
        return Err(Problem::new(Code::NotFound, "That push is gone, with its app."));
    };
    let paths = push.commits.paths.as_ref();
    Ok(PushDetail {
        author: push.commits.author.clone(),
        paths: paths.map(|p| p.iter().take(MOST_PATHS).cloned().map(Untrusted).collect()),
        wishes: push.wishes.clone(),
        attempts: push.attempts,
        next: next(&shown),
        push: shown,
    })
}

/// The next step, in words that a model or a person can follow.
fn next(push: &PushShown) -> String {
    let (app, number) = (push.app.as_str(), push.push);
    match push.state {
        PushState::Received => {
            format!("It is kept and will be decided: look again with push_get(app={app:?}, push={number}).")
        }
        PushState::Handled => match push.deployments.last() {
            Some(deployment) => {
                format!(
                    "Follow it with deployment_get(deployment={:?}, wait_s=50). If it failed, correct the cause, then push_retry(app={app:?}, push={number}).",
                    deployment.to_string()
                )
            }
            None if outcome(push).contains(WAITS) => {
                "Look at the commit and what it changes, then allow exactly that with preview_approve; environment_get shows it.".into()
            }
            None => "There is nothing to do.".into(),
        },
        PushState::Ignored => after_ignored(push),
        PushState::Superseded => format!("See the newest push of that branch with push_list(app={app:?})."),
        PushState::Failed => {
            format!("Correct the cause, then push_retry(app={app:?}, push={number}).")
        }
        PushState::Refused => "Correct the cause and push again: the branch did not move.".into(),
    }
}

fn outcome(push: &PushShown) -> &str {
    push.outcome.as_ref().map_or("", |outcome| outcome.0.as_str())
}

/// What to do about a push that led to nothing: what would give it a place, or let it pass the rule that left it out.
fn after_ignored(push: &PushShown) -> String {
    let (app, outcome) = (push.app.as_str(), outcome(push));
    let retry = format!("push_retry(app={app:?}, push={})", push.push);
    let previews = |of: &str| format!("app_update(app={app:?}, settings={{\"previews\": {of:?}}})");
    match &push.change {
        GitChange::BranchDeleted { .. } | GitChange::TagDeleted { .. } | GitChange::PullClosed { .. } => {
            "There is nothing to do.".into()
        }
        // Its name is in `change`, as a quote: whoever pushes chooses it.
        GitChange::Branch { .. } if outcome.contains(NO_ENVIRONMENT) => format!(
            "To deploy this branch, give it to an environment with environment_update(app={app:?}, environment=…, branch=<its name>), or give each branch a preview with {}; then {retry}.",
            previews("branches")
        ),
        GitChange::Pull { .. } if outcome.contains(NO_PREVIEW) => {
            format!("To deploy pull requests, use {}; then {retry}.", previews("pull_requests"))
        }
        _ if outcome.contains(NO_SUCH) => {
            format!(
                "Make the environment with environment_create(app={app:?}, environment=…), then {retry}; or push again and name another."
            )
        }
        _ if outcome.contains(MOVED_ON) => {
            format!("There is nothing to do: see the newest push with push_list(app={app:?}).")
        }
        _ => format!(
            "{retry} deploys it all the same. Where a rule left it out (watch_paths, deploy_tags), push_rules_set(app={app:?}) changes that for pushes to come."
        ),
    }
}

/// What moved, in a few words.
fn moved(change: &GitChange) -> Text {
    let short = |commit: &str| commit.chars().take(10).collect::<String>();
    let named = |before: &str, name: &str, after: String| {
        Text::new().say(before).quote(&name.into()).say(format!(" {after}"))
    };
    match change {
        GitChange::Branch { branch, commit, .. } => named("", branch, format!("to {}", short(commit))),
        GitChange::BranchDeleted { branch } => named("", branch, "deleted".into()),
        GitChange::Tag { tag, commit } => named("tag ", tag, format!("at {}", short(commit))),
        GitChange::TagDeleted { tag } => named("tag ", tag, "deleted".into()),
        GitChange::Pull { number, commit, .. } => {
            format!("pull request {number} at {}", short(commit)).into()
        }
        GitChange::PullClosed { number, merged } => {
            format!("pull request {number} {}", if *merged { "merged" } else { "closed" }).into()
        }
    }
}

fn line(push: &PushShown) -> Text {
    let mut text = Text::from(format!("{} {} ", push.push, push.state.as_str()))
        .join(moved(&push.change))
        .say(format!(" {}", push.received_at));
    if let Some(pusher) = &push.pusher {
        text = text.say(" by ").quote(pusher);
    }
    if let Some(message) = &push.message {
        text = text.say(" ").quote(message);
    }
    match &push.outcome {
        Some(outcome) => text.say(" – ").quote(outcome),
        None => text,
    }
}

impl Brief for PushPage {
    fn brief(&self) -> Text {
        if self.pushes.is_empty() {
            return "There are no such pushes.".into();
        }
        let mut text = Text::new();
        for (i, push) in self.pushes.iter().enumerate() {
            text = text.say(if i == 0 { "" } else { "\n" }).join(line(push));
        }
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for PushRulesShown {
    fn brief(&self) -> Text {
        Text::new().say(&self.effect)
    }
}

impl Brief for PushDetail {
    fn brief(&self) -> Text {
        Text::new().say("Push ").join(line(&self.push)).say(format!("\n{}", self.next))
    }
}

#[cfg(test)]
mod tests {
    use berth_schemas::{Timestamp, push::PushOrigin};

    use super::*;

    fn ignored(change: GitChange, outcome: &str) -> String {
        next(&PushShown {
            push: 7,
            app: "web".parse().unwrap(),
            state: PushState::Ignored,
            origin: PushOrigin::Berth,
            change,
            message: None,
            pusher: None,
            outcome: Some(outcome.into()),
            deployments: Vec::new(),
            received_at: Timestamp(0),
            settled_at: None,
        })
    }

    #[test]
    fn what_to_do_next_depends_on_why_a_push_led_to_nothing() {
        let branch = || GitChange::Branch { branch: "idea".into(), before: None, commit: "1".repeat(40) };
        let said = ignored(branch(), &format!("the branch idea {NO_ENVIRONMENT}; and so on"));
        assert!(
            said.contains("environment_update(") && said.contains("\"previews\": \"branches\""),
            "{said}"
        );
        assert!(!said.contains("all the same") && !said.contains("push_rules_set"), "{said}");
        let gone = GitChange::BranchDeleted { branch: "idea".into() };
        assert_eq!(ignored(gone, "it is gone and had no preview"), "There is nothing to do.");
        let closed = GitChange::PullClosed { number: 1, merged: true };
        assert_eq!(ignored(closed, "it is gone and had no preview"), "There is nothing to do.");
        let said = ignored(branch(), "the commit's message says [skip ci]");
        assert!(said.starts_with("push_retry(app=\"web\", push=7) deploys it all the same."), "{said}");
        let tag = GitChange::Tag { tag: "v1".into(), commit: "1".repeat(40) };
        let said = ignored(tag, "the tag v1 fits none of the app's deploy_tags, of which it has none");
        assert!(said.contains("push_rules_set("), "{said}");
    }
}
