//! Environments of an app: make, see, change, delete.

use berth_schemas::{
    Code, DeploymentRef, Problem, Scope, Untrusted,
    deployment::DeploymentDetail,
    environment::{
        EnvironmentCreate, EnvironmentDelete, EnvironmentDeleted, EnvironmentDetail, EnvironmentGet,
        EnvironmentList, EnvironmentPage, EnvironmentSummary, EnvironmentUpdate, PreviewApprove,
        PreviewShown,
    },
    variable::VariableScope,
};
use berth_store::model::{AppRow, NewEnvironment, PreviewRow};

use crate::{
    apps::{self, count, state_name},
    confirm::confirmed,
    deployments, find, jobs, once,
    ongoing::Ongoing,
    page,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    settings,
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "environment_list",
                title: "List an app's environments",
                description: "List the environments of an app (production, named ones such as staging, previews of branches and pull requests) with state, URL, branch and what serves. Previews tell whether they sleep or wait for preview_approve.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/environments",
            },
            list,
        ),
        Tool::new(
            Spec {
                name: "environment_get",
                title: "Show an environment",
                description: "Show one environment of an app, such as staging: whether it runs, its URL, the branch that it follows, what serves; of a preview also its pull request, when it was last used and when it goes.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/environments/{environment}",
            },
            get,
        ),
        Tool::new(
            Spec {
                name: "environment_create",
                title: "Create an environment",
                description: "Create another environment of an app, such as staging: with a URL, values and releases of its own. Give it a branch to have pushes deployed there; or deploy with deployment_create(environment=…).",
                hints: Hints::CREATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/environments",
            },
            create,
        ),
        Tool::new(
            Spec {
                name: "environment_update",
                title: "Change an environment",
                description: "Set which branch's pushes are deployed to an environment of an app, production among them. An empty branch means none.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Patch,
                path: "/v1/apps/{app}/environments/{environment}",
            },
            update,
        ),
        Tool::new(
            Spec {
                name: "environment_delete",
                title: "Delete an environment",
                description: "Delete an environment of an app with its containers, releases and logs, for good; not production. Call with dry_run=true first, then with confirm=<the environment's name>.",
                hints: Hints::DESTROY,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Delete,
                path: "/v1/apps/{app}/environments/{environment}",
            },
            delete,
        ),
        Tool::new(
            Spec {
                name: "preview_approve",
                title: "Approve a fork's commit",
                description: "Let one commit of a pull request from a fork run in its preview, and deploy it: somebody else's code on your server. It gets no secrets. Look at the commit first; a later one asks again.",
                hints: Hints::CREATE,
                scope: Scope::Deploy,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/environments/{environment}/approve",
            },
            approve,
        ),
    ]
}

async fn approve(call: Call, input: PreviewApprove) -> Result<DeploymentDetail, Problem> {
    let app = find::app_in_to_change(&call, &input.app, Some(&input.environment)).await?;
    let wanted = (&input.app, &input.environment, &input.commit);
    let key = input.idempotency_key.as_deref();
    let row = once::deployment(&call, "preview_approve", key, &wanted, async {
        call.context.pipeline.approve_preview(&call.principal, &app, &input.commit).await
    })
    .await?;
    deployments::detail(&call, row.row()).await
}

async fn list(call: Call, input: EnvironmentList) -> Result<EnvironmentPage, Problem> {
    let limit = page::limit(input.limit, 20, 100)?;
    // By its number, which no other ever gets: it has a place in the order, also once it is deleted.
    let after = page::number_cursor(input.cursor.as_deref())?;
    let app = find::app(&call, &input.app).await?;
    let mut rows = call.context.store.environments().of(app.id).await?;
    rows.retain(|a| input.kind.is_none_or(|kind| a.environment.kind == kind));
    let total = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    rows.retain(|a| after.is_none_or(|after| a.environment.id.0 > after));
    // One more than the page tells that it is not the last, and what is behind that is not looked at.
    let looked_at = usize::try_from(limit + 1).unwrap_or(usize::MAX);
    let mut environments = Vec::with_capacity(rows.len().min(looked_at));
    for row in rows.iter().take(looked_at) {
        environments.push(summary(&call, row).await?);
    }
    let more = page::cut_whole(&mut environments, limit, call.budget, input.limit.is_some());
    let last = environments.len().checked_sub(1).and_then(|last| rows.get(last)).filter(|_| more);
    let next_cursor = last.map(|a| a.environment.id.0.to_string());
    Ok(EnvironmentPage { environments, total, next_cursor })
}

async fn summary(call: &Call, app: &AppRow) -> Result<EnvironmentSummary, Problem> {
    let live = apps::live(call, app).await?;
    Ok(EnvironmentSummary {
        name: app.environment.name.clone(),
        kind: app.environment.kind,
        state: call.context.pipeline.app_state(app).await,
        url: call.context.addresses.url_of(app),
        branch: app.environment.branch.clone().map(Untrusted),
        live: live.map(|r| DeploymentRef::new(app.slug.clone(), r.number)),
        preview: app.environment.preview.as_ref().map(preview),
    })
}

fn preview(row: &PreviewRow) -> PreviewShown {
    let waits = row.offer.as_ref().filter(|offer| !row.may_deploy(&offer.commit));
    PreviewShown {
        head: Untrusted(row.head.clone()),
        pull: row.pull,
        fork: row.fork,
        waits_for_approval: waits.map(|offer| offer.commit.clone()),
        sleeping: row.sleeping,
        last_request_at: row.last_request_at,
        expires_at: row.expires_at,
    }
}

async fn get(call: Call, input: EnvironmentGet) -> Result<EnvironmentDetail, Problem> {
    let app = find::app_in(&call, &input.app, Some(&input.environment)).await?;
    detail(&call, &app).await
}

async fn detail(call: &Call, app: &AppRow) -> Result<EnvironmentDetail, Problem> {
    let live = apps::live(call, app).await?;
    let variables = call.context.store.variables().effective(app).await?;
    Ok(EnvironmentDetail {
        app: app.slug.clone(),
        environment: summary(call, app).await?,
        replicas_wanted: app.environment.replicas,
        variables: variables.into_iter().map(|v| v.name.to_string()).collect(),
        changes_pending: apps::changes_pending(app, live.as_ref()),
        created_at: app.environment.created_at,
    })
}

async fn create(call: Call, input: EnvironmentCreate) -> Result<EnvironmentDetail, Problem> {
    let app = find::app_to_change(&call, &input.app).await?;
    let replicas = input.replicas.unwrap_or(1);
    if !(1..=50).contains(&replicas) {
        let detail = format!("replicas is {replicas}; it must be from 1 to 50.");
        return Err(Problem::invalid("replicas", detail));
    }
    let branch = branch(input.branch.as_deref())?;
    let new = NewEnvironment { name: input.environment, branch, replicas: i64::from(replicas) };
    let row = call.context.store.environments().create(&call.principal, app.id, new).await?;
    call.context.pipeline.environment_made(&row);
    detail(&call, &row).await
}

/// A branch as git allows it; none for an empty text.
fn branch(text: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(branch) = text.map(str::trim).filter(|b| !b.is_empty()) else { return Ok(None) };
    settings::git_ref(branch).map_err(|why| Problem::invalid("branch", format!("branch: {why}.")))?;
    Ok(Some(branch.to_owned()))
}

async fn update(call: Call, input: EnvironmentUpdate) -> Result<EnvironmentDetail, Problem> {
    let app = find::app_in_to_change(&call, &input.app, Some(&input.environment)).await?;
    let Some(wanted) = input.branch.as_deref() else {
        return Err(Problem::invalid("branch", "Nothing to change was named.")
            .hint("Pass branch=<name>, or an empty text for none."));
    };
    let branch = branch(Some(wanted))?;
    let environments = call.context.store.environments();
    let row = environments.set_branch(&call.principal, app.environment.id, branch.as_deref()).await?;
    detail(&call, &row).await
}

async fn delete(call: Call, input: EnvironmentDelete) -> Result<EnvironmentDeleted, Problem> {
    let app = find::app_in_to_change(&call, &input.app, Some(&input.environment)).await?;
    if app.is_production() {
        return Err(Problem {
            field: Some("environment".into()),
            ..Problem::new(Code::Conflict, format!("{} cannot be without production.", app.slug))
        }
        .hint("app_delete deletes the app with all of its environments."));
    }
    let removes = what_goes(&call, &app).await?;
    let (slug, name) = (app.slug.clone(), app.environment.name.clone());
    if input.dry_run {
        return Ok(EnvironmentDeleted { app: slug, environment: name, removes, deleting: false, job: None });
    }
    confirmed("environment_delete", name.as_str(), input.confirm.as_deref(), &removes)?;
    let job = call.context.pipeline.delete_environment(&call.principal, &app).await?;
    let job = Some(jobs::handle(&job));
    Ok(EnvironmentDeleted { app: slug, environment: name, removes, deleting: true, job })
}

/// What the deletion of an environment takes with it, in words.
async fn what_goes(call: &Call, app: &AppRow) -> Result<Vec<String>, Problem> {
    let store = &call.context.store;
    let releases = store.releases().list(app.environment.id, false).await?;
    let variables = store.variables().of(app, VariableScope::Environment).await?;
    let replicas = call.context.pipeline.replicas(app).await;
    let bytes: i64 = releases.iter().map(|r| r.bytes).sum();
    let mut goes = vec![format!("take {} off the air", call.context.addresses.url_of(app))];
    if !replicas.is_empty() {
        goes.push(format!("stop and remove {}", count(replicas.len(), "container")));
    }
    if !releases.is_empty() {
        goes.push(format!("remove {} ({})", count(releases.len(), "release"), jobs::size(bytes)));
    }
    if !variables.is_empty() {
        goes.push(format!("remove {} with their values", count(variables.len(), "variable")));
    }
    goes.push("remove its deployments, logs and request records".into());
    Ok(goes)
}

fn line(e: &EnvironmentSummary) -> Text {
    let mut text = Text::from(format!("{} is {} at {}", e.name, state_name(e.state), e.url));
    text = text.say_if(e.live.as_ref().map(|live| format!(", {live} serves")));
    if let Some(branch) = &e.branch {
        text = text.say(", gets the branch ").quote(branch);
    }
    let Some(preview) = &e.preview else { return text };
    text = text.say_if(preview.pull.map(|pull| format!(", preview of pull request {pull}")));
    text = text.say_if(preview.sleeping.then_some(", asleep until a visitor comes"));
    text.say_if(
        preview
            .waits_for_approval
            .as_ref()
            .map(|commit| format!(", commit {commit} waits for preview_approve")),
    )
}

impl Brief for EnvironmentPage {
    fn brief(&self) -> Text {
        let mut text =
            Text::from(format!("{} of {}:", count(self.environments.len(), "environment"), self.total));
        for environment in &self.environments {
            text = text.say("\n").join(line(environment));
        }
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for EnvironmentDetail {
    fn brief(&self) -> Text {
        let mut text = Text::from(format!("{}: ", self.app)).join(line(&self.environment)).say(".");
        if self.changes_pending {
            text = text.say("\nSettings or variables changed since; app_restart applies them.");
        }
        if !self.variables.is_empty() {
            text = text.say(format!("\nVariables: {}", self.variables.join(", ")));
        }
        text
    }
}

impl Brief for EnvironmentDeleted {
    fn brief(&self) -> Text {
        let goes = self.removes.join("; ");
        let (app, name) = (&self.app, self.environment.as_str());
        match &self.job {
            Some(job) => format!("Deleting {name} of {app} (job {}): {goes}.", job.job).into(),
            None => format!(
                "Dry run. Deleting {name} of {app} would: {goes}. To do it, call again with confirm={name:?}."
            )
            .into(),
        }
    }

    fn ongoing(&self) -> Option<Ongoing> {
        Ongoing::job(self.job.as_ref())
    }
}
