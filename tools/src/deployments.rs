//! Deployments: make, watch, list, cancel, and read what they logged.

use std::time::Duration;

use berth_schemas::{
    Code, DeploymentRef, EnvironmentName, Problem, Scope, Untrusted,
    app::AppSettings,
    deployment::{
        BuildLineKind, DeploymentCancel, DeploymentCreate, DeploymentDetail, DeploymentGet, DeploymentList,
        DeploymentLog, DeploymentLogPage, DeploymentPage, DeploymentState, DeploymentSummary, SourceShown,
    },
};
use berth_store::model::{AppRow, DeploymentRow, Enqueued};
use serde::Serialize;

use crate::{
    apps::{self, count},
    find, follow, once,
    ongoing::Ongoing,
    page::{self, Keep},
    progress::Update,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    source,
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "deployment_create",
                title: "Deploy an app",
                description: "Deploy an app from exactly one source: git_url, image, folder, upload or files; without one, from the source in its settings. Pass create_app=true for a new app, which also remembers git_url or image as its source. The build runs in the background and the old release serves until the new one is healthy; follow with deployment_get(wait_s=50).",
                hints: Hints::CREATE.open_world(),
                scope: Scope::Deploy,
                tier: Tier::Core,
                method: Method::Post,
                path: "/v1/apps/{app}/deployments",
            },
            create,
        ),
        Tool::new(
            Spec {
                name: "deployment_get",
                title: "Show or await a deployment",
                description: "Show a deployment: state, steps with durations, why it failed and what to do next. With wait_s it waits for the end; repeat until settled is true.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Core,
                method: Method::Get,
                path: "/v1/deployments/{deployment}",
            },
            get,
        ),
        Tool::new(
            Spec {
                name: "deployment_list",
                title: "List an app's deployments",
                description: "List the deployments of an app, newest first, with source, commit, who asked and the error if one failed.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Core,
                method: Method::Get,
                path: "/v1/apps/{app}/deployments",
            },
            list,
        ),
        Tool::new(
            Spec {
                name: "deployment_cancel",
                title: "Cancel a deployment",
                description: "Cancel a deployment that has not got traffic yet. The release that serves is not touched. To undo one that is live, use release_rollback.",
                hints: Hints::UPDATE,
                scope: Scope::Deploy,
                tier: Tier::Core,
                method: Method::Post,
                path: "/v1/deployments/{deployment}/cancel",
            },
            cancel,
        ),
        Tool::new(
            Spec {
                name: "deployment_log",
                title: "Read a deployment's build log",
                description: "Read the log of a deployment: fetching, build output, start and health checks. Returns the last lines; use contains to filter and after to read on. For what the app prints while it runs, use log_search.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Core,
                method: Method::Get,
                path: "/v1/deployments/{deployment}/log",
            },
            log,
        ),
    ]
}

async fn create(call: Call, input: DeploymentCreate) -> Result<DeploymentDetail, Problem> {
    let wait = follow::wait(input.wait_s, 0)?;
    source::check(&input, call.context.allow_local_sources)?;
    let made = once::deployment(
        &call,
        "deployment_create",
        input.idempotency_key.as_deref(),
        &what_is_wanted(&input),
        async {
            let app = app_for(&call, &input).await?;
            let source = source::of(&call, &app, &input).await?;
            let options = berth_deploy::EnqueueOptions {
                message: input.message.clone(),
                no_cache: input.no_cache,
                rollout: None,
            };
            call.context.pipeline.enqueue(&call.principal, &app, source, options).await
        },
    )
    .await?;
    let row = match made {
        Enqueued::New(row) => row,
        Enqueued::Same(row) => return same(&call, row, wait).await,
    };
    let row = follow::deployment(&call, row, wait).await?;
    detail(&call, &row).await
}

/// The answer to who asked for what is there, or on its way, already.
async fn same(call: &Call, row: DeploymentRow, wait: Duration) -> Result<DeploymentDetail, Problem> {
    let on_its_way = !row.state.is_settled();
    // Who follows hears of what goes on, not of what is long over.
    let row = if on_its_way { follow::deployment(call, row, wait).await? } else { row };
    let detail = detail(call, &row).await?;
    let next = if on_its_way {
        format!(
            "{} was asked for before and brings the same, so this request joined it. {}",
            row.reference(),
            detail.next
        )
    } else {
        already_live(&row, &row.reference(), &detail.url)
    };
    Ok(DeploymentDetail { nothing_new: true, next, ..detail })
}

/// What to say when there is nothing to deploy.
fn already_live(row: &DeploymentRow, live: &DeploymentRef, url: &str) -> String {
    let app = row.app.as_str();
    format!(
        "Nothing to deploy: {live} brings the same source, settings and variables and serves at {url}. To build it anew pass no_cache=true; to restart it use app_restart(app={app:?})."
    )
}

/// The part of the input that makes two calls the same intention: all but how long to wait.
fn what_is_wanted(input: &DeploymentCreate) -> impl Serialize {
    DeploymentCreate { wait_s: None, ..input.clone() }
}

/// The app to deploy; made now if it does not exist and the caller wants that.
async fn app_for(call: &Call, input: &DeploymentCreate) -> Result<AppRow, Problem> {
    let environment = input.environment.as_ref();
    let missing = match find::app_to_change(call, &input.app).await {
        Ok(_) => return find::app_in_to_change(call, &input.app, environment).await,
        Err(problem) if problem.code == Code::NotFound => problem,
        Err(problem) => return Err(problem),
    };
    let name = &input.app;
    if !input.create_app {
        let nearest = missing.hint.clone().unwrap_or_default();
        return Err(missing.hint(
            format!("{nearest} For a new app named {name}, pass create_app=true.").trim_start().to_owned(),
        ));
    }
    if environment.is_some_and(|e| *e != EnvironmentName::production()) {
        let detail = format!("The app {name} does not exist; a new one has production alone.");
        return Err(Problem::invalid("environment", detail)
            .hint("Create it with production first, then the environment with environment_create."));
    }
    find::demand_write(call, &format!("Creating the app {name}"))?;
    if input.git_url.is_none() && input.image.is_none() && input.upload.is_none() && input.files.is_none() {
        return Err(source::none_given(name.as_str()));
    }
    let settings = AppSettings {
        git_url: input.git_url.clone(),
        git_ref: input.git_url.as_ref().and(input.git_ref.clone()),
        image: input.image.clone(),
        ..AppSettings::default()
    };
    match apps::create_app(call, name.clone(), input.project.clone(), settings).await {
        // Somebody was faster: then it exists, which is what was wanted.
        Err(problem) if problem.code == Code::AlreadyExists => {
            find::app_to_change(call, name).await.map_err(|_| problem)
        }
        result => result,
    }
}

async fn get(call: Call, input: DeploymentGet) -> Result<DeploymentDetail, Problem> {
    let wait = follow::wait(input.wait_s, 0)?;
    let row = find::deployment(&call, &input.deployment).await?;
    let row = follow::deployment(&call, row, wait).await?;
    detail(&call, &row).await
}

async fn list(call: Call, input: DeploymentList) -> Result<DeploymentPage, Problem> {
    let limit = page::limit(input.limit, 10, 100)?;
    let before = page::number_cursor(input.cursor.as_deref())?;
    let environment = input.environment.as_ref();
    let app = find::app_in(&call, &input.app, environment).await?;
    let here = environment.map(|_| app.environment.id);
    let rows = call.context.store.deployments().list_in(app.id, here, input.state, before, limit).await?;
    let mut deployments: Vec<_> = rows.iter().map(summary).collect();
    let more = page::cut(&mut deployments, limit, call.budget, input.limit.is_some());
    let last = deployments.last().and_then(|d| d.deployment.number).filter(|n| more && *n > 1);
    Ok(DeploymentPage { deployments, next_cursor: last.map(|n| n.to_string()) })
}

async fn cancel(call: Call, input: DeploymentCancel) -> Result<DeploymentDetail, Problem> {
    let row = find::deployment(&call, &input.deployment).await?;
    if !row.state.is_cancellable() && row.state != DeploymentState::Cancelled {
        let hint = if row.state.is_settled() {
            "It is over. To go back to an earlier release, use release_rollback."
        } else {
            "It has the traffic already. Wait until it is live, then use release_rollback."
        };
        let detail = format!("{} is {} and cannot be cancelled.", row.reference(), row.state.as_str());
        return Err(Problem::new(Code::Conflict, detail).hint(hint));
    }
    let row = call.context.pipeline.cancel(&call.principal, &row).await?;
    detail(&call, &row).await
}

async fn log(call: Call, input: DeploymentLog) -> Result<DeploymentLogPage, Problem> {
    let limit = page::limit(input.limit, 100, 1000)?;
    let wait = follow::wait(input.wait_s, 0)?;
    if input.after.is_some_and(|a| a < 0) {
        return Err(Problem::invalid("after", "after is a line number and cannot be negative."));
    }
    let mut row = find::deployment(&call, &input.deployment).await?;
    let deployments = call.context.store.deployments();
    let contains = input.contains.as_deref().filter(|c| !c.is_empty());
    let (mut lines, mut total) = deployments.lines(row.id, input.after, contains, limit).await?;
    if lines.is_empty() && !wait.is_zero() && !row.state.is_settled() && !call.progress.follows() {
        let which = row.reference();
        call.progress.waits_for(format!("a line of {which}, which is {}", row.state.as_str())).await;
        row = wait_for_line(&call, row, wait).await?;
        (lines, total) = deployments.lines(row.id, input.after, contains, limit).await?;
    }
    if call.progress.follows() {
        let last = lines.last().map_or(input.after.unwrap_or(0), |l| l.line);
        for line in lines {
            call.progress.tell(Update::BuildLine(line)).await;
        }
        row = follow::log(&call, row, last, contains).await?;
        (lines, total) = deployments.lines(row.id, Some(i64::MAX), contains, 1).await?;
        let next_after = total.max(last);
        return Ok(DeploymentLogPage {
            deployment: row.reference(),
            state: row.state,
            lines,
            total,
            next_after,
            truncated: false,
        });
    }
    let keep = if input.after.is_some() { Keep::First } else { Keep::Last };
    let full = i64::try_from(lines.len()).unwrap_or(i64::MAX) == limit;
    let left_out = match keep {
        Keep::First => full && lines.last().is_some_and(|l| l.line < total),
        Keep::Last => full && lines.first().is_some_and(|l| l.line > 1),
    };
    let cut = page::fit(&mut lines, keep, call.budget, input.limit.is_some());
    let next_after = lines.last().map_or(input.after.unwrap_or(0), |l| l.line);
    Ok(DeploymentLogPage {
        deployment: row.reference(),
        state: row.state,
        lines,
        total,
        next_after,
        truncated: left_out || cut,
    })
}

/// Waits until the deployment logs something or settles, or the time is up.
async fn wait_for_line(
    call: &Call,
    row: DeploymentRow,
    at_most: std::time::Duration,
) -> Result<DeploymentRow, Problem> {
    let mut updates = call.context.pipeline.watch(row.id);
    // Whatever the broadcast says, even that it ended, is a reason to look again.
    call.context.pipeline.unless_stopping(tokio::time::timeout(at_most, updates.recv())).await;
    Ok(call.context.store.deployments().get(row.id).await?.unwrap_or(row))
}

fn summary(row: &DeploymentRow) -> DeploymentSummary {
    DeploymentSummary {
        deployment: row.reference(),
        environment: row.environment.clone(),
        state: row.state,
        source: row.source.shown(),
        commit: row.commit.clone(),
        message: row.message.clone().map(Untrusted),
        by: row.by.clone(),
        created_at: row.created_at,
        finished_at: row.finished_at,
        error: Untrusted::maybe(row.problem.as_ref().map(|p| p.detail.as_str())),
    }
}

/// A deployment in full, with what to do next.
pub(crate) async fn detail(call: &Call, row: &DeploymentRow) -> Result<DeploymentDetail, Problem> {
    let steps = call.context.store.deployments().transitions(row.id).await?;
    let url = call.context.addresses.url(&row.app, &row.environment);
    let same = live_one_with_the_same(call, row).await?;
    Ok(DeploymentDetail {
        deployment: row.reference(),
        environment: row.environment.clone(),
        state: row.state,
        settled: row.state.is_settled(),
        source: row.source.shown(),
        commit: row.commit.clone(),
        message: row.message.clone().map(Untrusted),
        by: row.by.clone(),
        plan: row.plan.clone().and_then(|p| serde_json::from_value(p).ok()),
        steps,
        waits_for: call.context.pipeline.waits_for(row),
        problem: row.problem.clone(),
        warnings: row.warnings.iter().map(|w| w.as_str().into()).collect(),
        nothing_new: same.is_some(),
        next: match &same {
            Some(live) => already_live(row, live, &url),
            None => next(row, &url),
        },
        url,
        created_at: row.created_at,
        finished_at: row.finished_at,
    })
}

/// The deployment that was live with the same source when this one found that it brings nothing new. Such a one has
/// the release of another, as otherwise only a rollback has.
async fn live_one_with_the_same(call: &Call, row: &DeploymentRow) -> Result<Option<DeploymentRef>, Problem> {
    let superseded = row.state == DeploymentState::Superseded;
    let (true, Some(release)) = (superseded && row.source.is_new(), row.release) else { return Ok(None) };
    let release = call.context.store.releases().get(release).await?;
    Ok(release.filter(|r| r.deployment_id != row.id).map(|r| DeploymentRef::new(row.app.clone(), r.number)))
}

/// The next step, in words that a model or a person can follow.
fn next(row: &DeploymentRow, url: &str) -> String {
    use DeploymentState as S;
    let app = row.app.as_str();
    let which = row.reference().to_string();
    match row.state {
        S::RollingOut if row.promote_requested => format!(
            "It is being promoted: call deployment_get(deployment={which:?}, wait_s=50) until settled is true."
        ),
        S::RollingOut => {
            let percent = row.rollout.as_ref().map_or(0, |r| r.percent);
            format!(
                "It is healthy and gets {percent} % of the visitors until somebody decides: rollout_promote(app={app:?}) gives it all traffic, rollout_abort takes it back, rollout_set changes its part. traffic_get(app={app:?}) shows how it does."
            )
        }
        S::Live => format!("It serves at {url}. What it prints: log_search(app={app:?})."),
        S::Failed => {
            let code = row.problem.as_ref().map(|p| p.code);
            let fix = match code {
                Some(Code::MissingVariable) => {
                    format!("set what is missing with variable_set(app={app:?}), ")
                }
                Some(Code::DockerUnavailable | Code::OutOfDisk) => "see platform_status, ".into(),
                Some(Code::PortNotOpen | Code::HealthCheckFailed) => {
                    format!("correct port or health_path with app_update(app={app:?}) or the app itself, ")
                }
                _ => "correct the cause, ".into(),
            };
            format!(
                "Read problem and deployment_log of {which}; {fix}then call deployment_create(app={app:?}) again. What served before still serves."
            )
        }
        S::Cancelled => format!(
            "It was cancelled; what served before still serves. deployment_create(app={app:?}) starts a new one."
        ),
        S::Superseded => format!("A newer deployment took its place: deployment_get(deployment={app:?})."),
        S::RolledBack => format!(
            "It died soon after the switch and the release before serves again. Why: log_search(app={app:?}, release={}).",
            row.number
        ),
        S::Retired => format!(
            "A newer release serves. To return to this one: release_rollback(app={app:?}, to={}).",
            row.number
        ),
        _ => format!(
            "It is under way: call deployment_get(deployment={which:?}, wait_s=50) until settled is true."
        ),
    }
}

/// " (staging)", or nothing for production.
fn in_words(environment: &EnvironmentName) -> String {
    match *environment == EnvironmentName::production() {
        true => String::new(),
        false => format!(" ({environment})"),
    }
}

fn source_line(source: &SourceShown) -> Text {
    match source {
        SourceShown::Upload { bytes } => format!("upload of {}", crate::jobs::size(*bytes)).into(),
        SourceShown::Files { files } => count(usize::try_from(*files).unwrap_or(0), "file").into(),
        SourceShown::Git { url, git_ref, commit } => {
            let at = git_ref.as_ref().or(commit.as_ref());
            Text::new().quote(&at.map_or_else(|| url.clone(), |at| format!("{url} at {at}")).into())
        }
        SourceShown::Pushed { git_ref, .. } => Text::from("push of ").quote(&git_ref.as_str().into()),
        SourceShown::Image { image } => format!("image {image}").into(),
        SourceShown::Rollback { to } => format!("rollback to {to}").into(),
        SourceShown::Promote { of } => format!("{of} without a build").into(),
        SourceShown::Redeploy { of } => format!("redeploy of {of}").into(),
    }
}

impl Brief for DeploymentPage {
    fn brief(&self) -> Text {
        if self.deployments.is_empty() {
            return "There are no such deployments.".into();
        }
        let mut text = Text::new();
        for (i, d) in self.deployments.iter().enumerate() {
            let line_break = if i == 0 { "" } else { "\n" };
            let at = d.created_at;
            text = text.say(format!(
                "{line_break}{}{} {} {at} ",
                d.deployment,
                in_words(&d.environment),
                d.state.as_str()
            ));
            text = text.join(source_line(&d.source)).say(format!(" by {}", d.by));
            if let Some(error) = &d.error {
                text = text.say(": ").quote(error);
            }
            if let Some(message) = &d.message {
                text = text.say(" – ").quote(message);
            }
        }
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for DeploymentDetail {
    fn brief(&self) -> Text {
        let mut text = Text::from(format!("{}: {}", self.deployment, self.state.as_str()));
        text = text.say(" (").join(source_line(&self.source)).say(").");
        if let Some(message) = &self.message {
            text = text.say(" Message: ").quote(message);
        }
        text = text.say_if(self.waits_for.as_ref().map(|w| format!("\nWaits for {w}.")));
        let steps: Vec<String> = self
            .steps
            .iter()
            .map(|s| match s.ms {
                Some(ms) => format!(
                    "{} {:.1}s",
                    s.state.as_str(),
                    std::time::Duration::from_millis(ms.unsigned_abs()).as_secs_f64()
                ),
                None => s.state.as_str().to_owned(),
            })
            .collect();
        if !steps.is_empty() {
            text = text.say(format!("\nSteps: {}.", steps.join(" → ")));
        }
        if let Some(plan) = &self.plan {
            text = text.say(format!("\nBuilder: {}.", plan.builder));
        }
        if let Some(problem) = &self.problem {
            let step = problem.step.as_ref().map(|s| format!(" in {s}")).unwrap_or_default();
            text = text.say(format!("\nFailed{step} ({}): ", problem.code.as_str())).tell(problem);
            if !problem.log_tail.is_empty() {
                text = text
                    .say("\nLast lines:\n")
                    .quote_lines(problem.log_tail.iter().map(|l| l.0.as_str().into()));
            }
        }
        for warning in &self.warnings {
            text = text.say("\nWarning: ").quote(warning);
        }
        text.say(format!("\nNext: {}", self.next))
    }

    fn ongoing(&self) -> Option<Ongoing> {
        // A rollout rests until somebody promotes or aborts it.
        let goes_on = !self.settled && self.state != DeploymentState::RollingOut;
        goes_on.then(|| Ongoing::Deployment(self.deployment.clone()))
    }
}

impl Brief for DeploymentLogPage {
    fn brief(&self) -> Text {
        let of = format!(
            "{} ({}), {} of {} lines",
            self.deployment,
            self.state.as_str(),
            self.lines.len(),
            self.total
        );
        let mut text = Text::from(of);
        text = text.say(match (self.truncated, self.lines.is_empty()) {
            (_, true) => ".",
            (true, _) => ", more can be had with after, limit or contains:\n",
            (false, _) => ":\n",
        });
        text = text.quote_lines(self.lines.iter().map(|l| match (l.kind, &l.step) {
            (BuildLineKind::Output, _) => format!("{} {}", l.line, l.text.0).into(),
            (kind, Some(step)) => format!("{} [{}] {}: {}", l.line, step.0, kind.as_str(), l.text.0).into(),
            (kind, None) => format!("{} {}: {}", l.line, kind.as_str(), l.text.0).into(),
        }));
        text.say(format!("\nRead on with after={}.", self.next_after))
    }
}
