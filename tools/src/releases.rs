//! Releases: what can be gone back to, and going back.

use berth_schemas::{
    Code, DeploymentRef, Problem, Scope, Untrusted,
    deployment::DeploymentDetail,
    release::{Release, ReleaseList, ReleasePage, ReleasePromote, ReleaseRollback, RollbackVariables},
};
use berth_store::model::{AppRow, Artifact, DeploymentSource, Enqueued, ReleaseRow};

use crate::{
    apps, deployments, find, follow, jobs, once, page,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "release_list",
                title: "List releases to go back to",
                description: "List the kept releases of an app, newest first, and which one serves. release_rollback brings one back.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Core,
                method: Method::Get,
                path: "/v1/apps/{app}/releases",
            },
            list,
        ),
        Tool::new(
            Spec {
                name: "release_rollback",
                title: "Roll back to an earlier release",
                description: "Bring an earlier release back, with the image and the variables it had, without a build; by default the one that served before. Use when a deployment turned out bad.",
                hints: Hints::CREATE,
                scope: Scope::Deploy,
                tier: Tier::Core,
                method: Method::Post,
                path: "/v1/apps/{app}/rollback",
            },
            rollback,
        ),
        Tool::new(
            Spec {
                name: "release_promote",
                title: "Promote a release to another environment",
                description: "Bring the release of one environment, such as staging or a preview, to another, production by default: the same image or files without a build, with the variables of where it goes.",
                hints: Hints::CREATE,
                scope: Scope::Deploy,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/promote",
            },
            promote,
        ),
    ]
}

async fn promote(call: Call, input: ReleasePromote) -> Result<DeploymentDetail, Problem> {
    let wait = follow::wait(input.wait_s, 10)?;
    let from = find::app_in(&call, &input.app, Some(&input.from)).await?;
    let to = find::app_in_to_change(&call, &input.app, input.to.as_ref()).await?;
    if from.environment.id == to.environment.id {
        let detail = format!("{} has it already.", to.title());
        return Err(Problem::invalid("to", detail)
            .hint("To bring an earlier release of the same environment back, use release_rollback."));
    }
    let wanted = (&input.app, &input.from, &input.to, input.release);
    let row = once::deployment(&call, "release_promote", input.idempotency_key.as_deref(), &wanted, async {
        let release = match input.release {
            Some(_) => promotable(&call, &from, input.release).await?,
            None => apps::live(&call, &from).await?.ok_or_else(|| {
                Problem::new(Code::Conflict, format!("Nothing is live in {}.", from.title()))
            })?,
        };
        let of = DeploymentRef::new(from.slug.clone(), release.number);
        let message = Some(format!("{of} from {}", from.environment.name));
        let options = berth_deploy::EnqueueOptions { message, ..Default::default() };
        let source = DeploymentSource::Promote { release: release.id, of };
        call.context.pipeline.enqueue(&call.principal, &to, source, options).await
    })
    .await?;
    let row = follow::deployment(&call, row.into_row(), wait).await?;
    deployments::detail(&call, &row).await
}

/// A kept release of an environment, the live one among them.
async fn promotable(call: &Call, app: &AppRow, number: Option<i64>) -> Result<ReleaseRow, Problem> {
    let live = apps::live(call, app).await?;
    match live.filter(|live| Some(live.number) == number) {
        Some(live) => Ok(live),
        None => target(call, app, number).await,
    }
}

async fn list(call: Call, input: ReleaseList) -> Result<ReleasePage, Problem> {
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    let limit = page::limit_of_whole(input.limit)?;
    let before = page::number_cursor(input.cursor.as_deref())?;
    let rows = call.context.store.releases().list(app.environment.id, false).await?;
    let follows = |row: &ReleaseRow| before.is_none_or(|b| row.number < b);
    let mut releases: Vec<_> = rows.into_iter().filter(follows).map(|r| shown(&app, r)).collect();
    let more = page::cut_whole(&mut releases, limit, call.budget, input.limit.is_some());
    let last = releases.last().and_then(|r| r.release.number).filter(|_| more);
    Ok(ReleasePage { releases, next_cursor: last.map(|n| n.to_string()) })
}

fn shown(app: &AppRow, row: ReleaseRow) -> Release {
    let (kind, image) = match row.artifact {
        Artifact::Image { image_id, .. } => ("container", Some(image_id)),
        Artifact::Static { .. } => ("static", None),
    };
    Release {
        release: DeploymentRef::new(app.slug.clone(), row.number),
        live: app.environment.live == Some(row.id),
        kind: kind.into(),
        commit: row.commit,
        message: row.message.map(Untrusted),
        image,
        bytes: row.bytes,
        created_at: row.created_at,
    }
}

async fn rollback(call: Call, input: ReleaseRollback) -> Result<DeploymentDetail, Problem> {
    let wait = follow::wait(input.wait_s, 10)?;
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let wanted = (&input.app, &input.environment, input.to, input.variables);
    let row = once::deployment(&call, "release_rollback", input.idempotency_key.as_deref(), &wanted, async {
        go_back(&call, &app, input.to, input.variables).await
    })
    .await?;
    let row = follow::deployment(&call, row.into_row(), wait).await?;
    deployments::detail(&call, &row).await
}

async fn go_back(
    call: &Call,
    app: &AppRow,
    to: Option<i64>,
    variables: RollbackVariables,
) -> Result<Enqueued, Problem> {
    let release = target(call, app, to).await?;
    let to = DeploymentRef::new(app.slug.clone(), release.number);
    let options =
        berth_deploy::EnqueueOptions { message: Some(format!("rollback to {to}")), ..Default::default() };
    let source = match variables {
        RollbackVariables::AsThen => DeploymentSource::Rollback { release: release.id, to },
        RollbackVariables::Today => DeploymentSource::Promote { release: release.id, of: to },
    };
    call.context.pipeline.enqueue(&call.principal, app, source, options).await
}

/// The release to go back to.
async fn target(call: &Call, app: &AppRow, to: Option<i64>) -> Result<ReleaseRow, Problem> {
    let releases = call.context.store.releases();
    let environment = &app.environment;
    let found = match (to, environment.live) {
        (Some(number), _) => releases.by_number(environment.id, number).await?,
        (None, Some(live)) => releases.previous_live(environment.id, live).await?,
        (None, None) => None,
    };
    let kept = releases.list(environment.id, false).await?;
    let candidates: Vec<String> =
        kept.iter().filter(|r| environment.live != Some(r.id)).map(|r| r.number.to_string()).collect();
    let choose = if candidates.is_empty() {
        format!("No other release of {} is kept; deploy with deployment_create.", app.title())
    } else {
        format!("Kept releases: {}. Pass one as to.", candidates.join(", "))
    };
    let refuse = |code, detail: String| {
        Err(Problem { field: Some("to".into()), ..Problem::new(code, detail) }
            .hint(choose)
            .candidates(candidates))
    };
    match found {
        Some(release) if release.removed => refuse(
            Code::ReleaseGone,
            format!("Release {} of {} was removed by cleanup.", release.number, app.title()),
        ),
        Some(release) if environment.live == Some(release.id) => {
            refuse(Code::Conflict, format!("Release {} of {} serves already.", release.number, app.title()))
        }
        Some(release) => Ok(release),
        None => match to {
            Some(number) => refuse(Code::NotFound, format!("{} has no release {number}.", app.title())),
            None => {
                refuse(Code::Conflict, format!("There is no release of {} that served before.", app.title()))
            }
        },
    }
}

impl Brief for ReleasePage {
    fn brief(&self) -> Text {
        if self.releases.is_empty() {
            return "There are no releases yet.".into();
        }
        let mut text = Text::from(apps::count(self.releases.len(), "release")).say(":");
        for r in &self.releases {
            let live = if r.live { " LIVE" } else { "" };
            text = text.say(format!(
                "\n{}{live} {} {} {}",
                r.release,
                r.kind,
                jobs::size(r.bytes),
                r.created_at
            ));
            if let Some(message) = &r.message {
                text = text.say(" – ").quote(message);
            }
        }
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}
