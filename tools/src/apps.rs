//! Apps: see, create, configure, stop, start, scale, delete.

use berth_schemas::{
    AppSlug, Code, DeploymentRef, EnvironmentName, Problem, ProjectSlug, Scope,
    app::{
        AppChanged, AppCreate, AppDelete, AppDeleted, AppDetail, AppList, AppPage, AppRef, AppRestart,
        AppScale, AppSettings, AppState, AppStop, AppSummary, AppUpdate, AppUpdated, LatestDeployment,
    },
    deployment::DeploymentDetail,
    job::JobHandle,
    variable::VariableScope,
};
use berth_store::model::{AppRow, DeploymentSource, ReleaseRow, Visible};

use crate::{
    confirm::confirmed,
    context::Context,
    deployments, find, follow, jobs, once,
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
                name: "app_list",
                title: "List apps",
                description: "List the apps with their state, URL and newest deployment. Start here when you do not know an app's name.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Core,
                method: Method::Get,
                path: "/v1/apps",
            },
            list,
        ),
        Tool::new(
            Spec {
                name: "app_get",
                title: "Show an app",
                description: "Show one app: whether it runs, its URLs, replicas with restarts and exit codes, settings, names of its variables, live and newest deployment.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Core,
                method: Method::Get,
                path: "/v1/apps/{app}",
            },
            get,
        ),
        Tool::new(
            Spec {
                name: "app_create",
                title: "Create an app",
                description: "Create an app without deploying it yet. To create and deploy in one step, use deployment_create with create_app=true.",
                hints: Hints::CREATE,
                scope: Scope::Write,
                tier: Tier::Core,
                method: Method::Post,
                path: "/v1/apps",
            },
            create,
        ),
        Tool::new(
            Spec {
                name: "app_update",
                title: "Change an app's settings",
                description: "Change settings of an app (source, build, port, health check, limits, routes); those not named stay. They apply with the next deployment or app_restart. For environment variables use variable_set.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Core,
                method: Method::Patch,
                path: "/v1/apps/{app}",
            },
            update,
        ),
        Tool::new(
            Spec {
                name: "app_delete",
                title: "Delete an app",
                description: "Delete an app with its containers, releases, variables, logs and history, for good. Call with dry_run=true first, then with confirm=<the app's name>.",
                hints: Hints::DESTROY,
                scope: Scope::Write,
                tier: Tier::Core,
                method: Method::Delete,
                path: "/v1/apps/{app}",
            },
            delete,
        ),
        Tool::new(
            Spec {
                name: "app_stop",
                title: "Stop an app",
                description: "Stop an app's containers: visitors get an error page until app_start. Nothing is removed. Wants confirm=<the app's name>.",
                hints: Hints::DESTROY,
                scope: Scope::Write,
                tier: Tier::Core,
                method: Method::Post,
                path: "/v1/apps/{app}/stop",
            },
            stop,
        ),
        Tool::new(
            Spec {
                name: "app_start",
                title: "Start a stopped app",
                description: "Start an app that app_stop stopped, with the release it had. Watch it with job_get.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Core,
                method: Method::Post,
                path: "/v1/apps/{app}/start",
            },
            start,
        ),
        Tool::new(
            Spec {
                name: "app_restart",
                title: "Restart an app without downtime",
                description: "Deploy the live release again with today's settings and variables, without a build: new replicas take over when healthy. Use after variable_set or app_update, or when an app hangs.",
                hints: Hints::CREATE,
                scope: Scope::Deploy,
                tier: Tier::Core,
                method: Method::Post,
                path: "/v1/apps/{app}/restart",
            },
            restart,
        ),
        Tool::new(
            Spec {
                name: "app_scale",
                title: "Set the number of replicas",
                description: "Set how many replicas (containers) an app's live release has. Watch it with job_get.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Core,
                method: Method::Post,
                path: "/v1/apps/{app}/scale",
            },
            scale,
        ),
    ]
}

async fn list(call: Call, input: AppList) -> Result<AppPage, Problem> {
    let limit = page::limit(input.limit, 20, 100)?;
    let after: Option<AppSlug> = page::name_cursor(input.cursor.as_deref())?;
    let project = match &input.project {
        Some(slug) => Some(find::project(&call, slug).await?.id),
        None => None,
    };
    let store = &call.context.store;
    let (rows, total) = store
        .apps()
        .list(&call.principal.visible, project, after.as_ref().map(AppSlug::as_str), limit)
        .await?;
    let mut apps = Vec::with_capacity(rows.len());
    for row in &rows {
        apps.push(summary(&call, row).await?);
    }
    let more = page::cut(&mut apps, limit, call.budget, input.limit.is_some());
    let next_cursor = apps.last().filter(|_| more).map(|a| a.name.to_string());
    Ok(AppPage { apps, total, next_cursor })
}

async fn summary(call: &Call, app: &AppRow) -> Result<AppSummary, Problem> {
    Ok(AppSummary {
        name: app.slug.clone(),
        project: app.project.clone(),
        state: call.context.pipeline.app_state(app).await,
        url: call.context.addresses.url_of(app),
        live: live(call, app).await?.map(|r| DeploymentRef::new(app.slug.clone(), r.number)),
        latest: latest(call, app).await?,
    })
}

/// The release that has the traffic.
pub(crate) async fn live(call: &Call, app: &AppRow) -> Result<Option<ReleaseRow>, Problem> {
    match app.environment.live {
        Some(id) => Ok(call.context.store.releases().get(id).await?),
        None => Ok(None),
    }
}

async fn latest(call: &Call, app: &AppRow) -> Result<Option<LatestDeployment>, Problem> {
    let here = Some(app.environment.id);
    let newest = call.context.store.deployments().list_in(app.id, here, None, None, 1).await?;
    Ok(newest.first().map(|d| LatestDeployment {
        deployment: d.reference(),
        state: d.state,
        created_at: d.created_at,
    }))
}

async fn get(call: Call, input: AppRef) -> Result<AppDetail, Problem> {
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    detail(&call, &app).await
}

async fn detail(call: &Call, app: &AppRow) -> Result<AppDetail, Problem> {
    let context = &call.context;
    let live = live(call, app).await?;
    let environments = context.store.environments().of(app.id).await?;
    let variables = context.store.variables().effective(app).await?;
    let mut urls = vec![context.addresses.url_of(app)];
    let routes = app.settings.routes.iter().flatten().filter(|_| app.is_production());
    urls.extend(routes.map(|r| format!("{}://{r}", context.addresses.scheme)));
    Ok(AppDetail {
        name: app.slug.clone(),
        project: app.project.clone(),
        id: app.id.0,
        uuid: app.uuid.clone(),
        environment: app.environment.name.clone(),
        environments: environments.into_iter().map(|a| a.environment.name).collect(),
        state: context.pipeline.app_state(app).await,
        urls,
        git_remote: git_remote(context, &app.slug),
        settings: app.settings.clone(),
        replicas_wanted: app.environment.replicas,
        replicas: context.pipeline.replicas(app).await,
        trouble: context
            .pipeline
            .trouble(app)
            .or_else(|| context.pipeline.crash_loop(app))
            .map(|problem| problem.to_string().into()),
        changes_pending: changes_pending(app, live.as_ref()),
        live: live.map(|r| DeploymentRef::new(app.slug.clone(), r.number)),
        latest: latest(call, app).await?,
        variables: variables.into_iter().map(|v| v.name.to_string()).collect(),
        created_at: app.created_at,
    })
}

/// The address of an app's repository on Berth.
fn git_remote(context: &Context, app: &AppSlug) -> String {
    format!("{}/git/{app}.git", context.control_url)
}

/// Whether settings or variables changed after the live release was made.
pub(crate) fn changes_pending(app: &AppRow, live: Option<&ReleaseRow>) -> bool {
    live.is_some_and(|release| app.configured_at > release.created_at)
}

async fn create(call: Call, input: AppCreate) -> Result<AppDetail, Problem> {
    let app = create_app(&call, input.name, input.project, input.settings).await?;
    detail(&call, &app).await
}

/// Creates an app with settings that hold.
pub(crate) async fn create_app(
    call: &Call,
    name: AppSlug,
    project: Option<ProjectSlug>,
    settings: AppSettings,
) -> Result<AppRow, Problem> {
    settings::check(&settings, call.context.allow_local_sources)?;
    check_name(&call.context, &name)?;
    let project = find::project(call, &project.unwrap_or_else(ProjectSlug::default_project)).await?;
    check_routes(call, &name, &settings).await?;
    Ok(call.context.store.apps().create(&call.principal, project.id, name, settings).await?)
}

/// Refuses a name whose host is the control plane's own: its visitors would never reach the app.
pub(crate) fn check_name(context: &Context, name: &AppSlug) -> Result<(), Problem> {
    let host = context.addresses.host(name, &EnvironmentName::production());
    if !context.control_hosts.contains(&host) {
        return Ok(());
    }
    Err(Problem::invalid("name", format!("No app can be named {name}: {host} is Berth's own address."))
        .hint("Choose another name."))
}

/// Refuses routes that belong to another app, by its settings or by its own host name.
async fn check_routes(call: &Call, app: &AppSlug, settings: &AppSettings) -> Result<(), Problem> {
    let Some(wanted) = settings.routes.as_ref().filter(|r| !r.is_empty()) else { return Ok(()) };
    let taken = |route: &str| {
        Problem {
            field: Some("settings.routes".into()),
            ..Problem::new(Code::Conflict, format!("The route {route} belongs to another app."))
        }
        .hint("Choose another host, or take the route from the other app first.")
    };
    let base = format!(".{}", call.context.addresses.base_domain);
    let others = call.context.store.apps().all(&Visible::All).await?;
    let domains = call.context.store.domains().all().await?;
    for route in wanted {
        let Ok(mine) = settings::route(route) else { continue };
        // Every name directly below the base domain is some app's own host, now or later.
        if mine.0.strip_suffix(&base).is_some_and(|label| label != app.as_str()) || mine.0 == base[1..] {
            return Err(taken(route).hint(format!(
                "Names below {} are given out by app name; use a domain of your own.",
                call.context.addresses.base_domain
            )));
        }
        let mut theirs =
            others.iter().filter(|o| o.slug != *app).flat_map(|o| o.settings.routes.iter().flatten());
        let mut named = domains.iter().filter(|d| d.app != *app);
        if theirs.any(|r| settings::route(r).is_ok_and(|r| r == mine))
            || named.any(|d| d.name.covers(&mine.0))
        {
            return Err(taken(route));
        }
    }
    Ok(())
}

async fn update(call: Call, input: AppUpdate) -> Result<AppUpdated, Problem> {
    let app = find::app_to_change(&call, &input.app).await?;
    settings::check(&input.settings, call.context.allow_local_sources)?;
    let changed = settings::merge(&app.settings, &input.settings, &input.unset)?;
    if input.unset.is_empty() && input.settings == AppSettings::default() {
        return Err(Problem::invalid("settings", "Neither settings nor unset name anything to change.")
            .hint("Pass settings={…} with what should change; app_get shows what is set."));
    }
    if changed.names.is_empty() {
        return Ok(AppUpdated {
            settings: app.settings,
            changed: Vec::new(),
            applies: "Nothing changed.".into(),
        });
    }
    check_routes(&call, &app.slug, &changed.settings).await?;
    let row = call.context.store.apps().update_settings(&call.principal, app.id, changed.settings).await?;
    call.context.pipeline.app_changed(row.id).await?;
    let applies = if changed.names == ["routes"] {
        "At once: routes need no deployment.".to_owned()
    } else if row.environment.live.is_some() {
        format!(
            "With the next deployment. app_restart(app={:?}) applies it now without a build; settings of the source and the build need deployment_create.",
            row.slug.as_str()
        )
    } else {
        "With the first deployment.".into()
    };
    Ok(AppUpdated { settings: row.settings, changed: changed.names, applies })
}

async fn delete(call: Call, input: AppDelete) -> Result<AppDeleted, Problem> {
    let app = find::app_to_change(&call, &input.app).await?;
    let removes = what_goes(&call, &app).await?;
    if input.dry_run {
        return Ok(AppDeleted { app: app.slug, removes, deleting: false, job: None });
    }
    confirmed("app_delete", app.slug.as_str(), input.confirm.as_deref(), &removes)?;
    let job = call.context.pipeline.delete_app(&call.principal, &app).await?;
    Ok(AppDeleted { app: app.slug, removes, deleting: true, job: Some(jobs::handle(&job)) })
}

/// What the deletion of an app takes with it, in words.
async fn what_goes(call: &Call, app: &AppRow) -> Result<Vec<String>, Problem> {
    let store = &call.context.store;
    let (mut releases, mut variables, mut replicas) = (Vec::new(), 0, Vec::new());
    let environments = store.environments().of(app.id).await?;
    for place in &environments {
        releases.extend(store.releases().list(place.environment.id, false).await?);
        variables += store.variables().of(place, VariableScope::Environment).await?.len();
        replicas.extend(call.context.pipeline.replicas(place).await);
    }
    let bytes: i64 = releases.iter().map(|r| r.bytes).sum();
    let mut goes = vec![format!("take {} off the air", call.context.addresses.url_of(app))];
    let others: Vec<&str> =
        environments.iter().filter(|e| !e.is_production()).map(|e| e.environment.name.as_str()).collect();
    if !others.is_empty() {
        goes.push(format!("remove its other environments: {}", others.join(", ")));
    }
    if !replicas.is_empty() {
        goes.push(format!("stop and remove {}", count(replicas.len(), "container")));
    }
    if !releases.is_empty() {
        goes.push(format!("remove {} ({})", count(releases.len(), "release"), jobs::size(bytes)));
    }
    if variables > 0 {
        goes.push(format!("remove {} with their values", count(variables, "variable")));
    }
    goes.push("remove its deployments, logs and request records".into());
    Ok(goes)
}

/// "1 release", "2 releases".
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

async fn stop(call: Call, input: AppStop) -> Result<AppChanged, Problem> {
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    if app.environment.stopped {
        let effect = format!("{} is stopped already.", app.title());
        return Ok(changed(app, effect, None));
    }
    let url = call.context.addresses.url_of(&app);
    let effects = [format!(
        "stop all containers of {}; visitors of {url} get an error page until app_start",
        app.title()
    )];
    if input.dry_run {
        return Ok(changed(app, format!("Would {}.", effects[0]), None));
    }
    confirmed("app_stop", app.slug.as_str(), input.confirm.as_deref(), &effects)?;
    let job = call.context.pipeline.stop(&call.principal, &app).await?;
    let effect = format!("Stops {}; visitors of {url} get an error page until app_start.", app.title());
    Ok(changed(app, effect, Some(jobs::handle(&job))))
}

fn changed(app: AppRow, effect: String, job: Option<JobHandle>) -> AppChanged {
    AppChanged { app: app.slug, environment: app.environment.name, effect, job }
}

async fn start(call: Call, input: AppRef) -> Result<AppChanged, Problem> {
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    if !app.environment.stopped {
        let hint = match app.environment.live {
            Some(_) => format!("{} was not stopped. If it hangs, use app_restart.", app.title()),
            None => format!("{} has nothing to start yet; use deployment_create.", app.title()),
        };
        return Ok(changed(app, hint, None));
    }
    let job = call.context.pipeline.start(&call.principal, &app).await?;
    let effect = format!("Starts {} with the release it had.", app.title());
    Ok(changed(app, effect, Some(jobs::handle(&job))))
}

async fn scale(call: Call, input: AppScale) -> Result<AppChanged, Problem> {
    if !(1..=50).contains(&input.replicas) {
        return Err(Problem::invalid(
            "replicas",
            format!("replicas is {}; it must be from 1 to 50.", input.replicas),
        )
        .hint("To run none, use app_stop."));
    }
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let wanted = i64::from(input.replicas);
    if wanted == app.environment.replicas {
        let effect = format!("{} has {wanted} wanted replicas already.", app.title());
        return Ok(changed(app, effect, None));
    }
    let job = call.context.pipeline.scale(&call.principal, &app, wanted).await?;
    let effect = format!("Scales {} from {} to {wanted} replicas.", app.title(), app.environment.replicas);
    Ok(changed(app, effect, Some(jobs::handle(&job))))
}

async fn restart(call: Call, input: AppRestart) -> Result<DeploymentDetail, Problem> {
    let wait = follow::wait(input.wait_s, 0)?;
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let wanted = (&input.app, &input.environment);
    let row = once::deployment(&call, "app_restart", input.idempotency_key.as_deref(), &wanted, async {
        redeploy(&call, &app, "restart").await
    })
    .await?;
    let row = follow::deployment(&call, row.into_row(), wait).await?;
    deployments::detail(&call, &row).await
}

/// Enqueues the live release once more, with the settings and variables of today.
pub(crate) async fn redeploy(
    call: &Call,
    app: &AppRow,
    message: &str,
) -> Result<berth_store::model::Enqueued, Problem> {
    let name = app.slug.as_str();
    if app.environment.stopped {
        return Err(Problem::new(Code::Conflict, format!("{} is stopped.", app.title()))
            .hint(format!("Start it with app_start(app={name:?}).")));
    }
    let Some(release) = live(call, app).await? else {
        return Err(Problem::new(
            Code::Conflict,
            format!("{} has no live release that could be deployed again.", app.title()),
        )
        .hint(format!("Deploy it with deployment_create(app={name:?}, …).")));
    };
    let of = DeploymentRef::new(app.slug.clone(), release.number);
    let source = DeploymentSource::Redeploy { release: release.id, of };
    let options = berth_deploy::EnqueueOptions { message: Some(message.to_owned()), ..Default::default() };
    call.context.pipeline.enqueue(&call.principal, app, source, options).await
}

/// The state's name.
pub(crate) fn state_name(state: AppState) -> &'static str {
    match state {
        AppState::Empty => "empty",
        AppState::Running => "running",
        AppState::Degraded => "degraded",
        AppState::Down => "down",
        AppState::Sleeping => "asleep",
        AppState::Stopped => "stopped",
        AppState::Paused => "paused",
        AppState::Maintenance => "in maintenance",
    }
}

impl Brief for AppPage {
    fn brief(&self) -> Text {
        if self.apps.is_empty() {
            return "There are no apps. Make one with deployment_create(create_app=true) or app_create."
                .into();
        }
        let mut text = Text::from(format!("{} of {}:", count(self.apps.len(), "app"), self.total));
        for app in &self.apps {
            text = text.say(format!("\n{} {} {}", app.name, state_name(app.state), app.url));
            if let Some(latest) = &app.latest {
                text = text.say(format!(", newest {} {}", latest.deployment, latest.state.as_str()));
            }
        }
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for AppDetail {
    fn brief(&self) -> Text {
        let mut text = Text::from(format!("{} is {}", self.name, state_name(self.state)));
        if self.environment != EnvironmentName::production() {
            text = Text::from(format!("{} ({}) is {}", self.name, self.environment, state_name(self.state)));
        }
        text = text.say(format!(" at {}.", self.urls.join(", ")));
        match &self.live {
            Some(live) => {
                let running = self.replicas.iter().filter(|r| r.state == "running").count();
                text =
                    text.say(format!(" {live} serves with {running} of {} replicas.", self.replicas_wanted));
            }
            None => text = text.say(format!(" Nothing is live; git push {} deploys it.", self.git_remote)),
        }
        if let Some(trouble) = &self.trouble {
            text = text.say("\n").quote(trouble);
        }
        for replica in self.replicas.iter().filter(|r| r.state != "running" || r.restarts > 0) {
            let exit = replica.exit_code.map(|c| format!(", exit code {c}")).unwrap_or_default();
            text = text.say(format!(
                "\nReplica {}: {}, {} restarts{exit}.",
                replica.replica, replica.state, replica.restarts
            ));
        }
        if let Some(latest) = &self.latest
            && self.live.as_ref() != Some(&latest.deployment)
        {
            text = text.say(format!("\nNewest deployment: {} {}.", latest.deployment, latest.state.as_str()));
        }
        if self.changes_pending {
            text = text.say("\nSettings or variables changed since; app_restart applies them.");
        }
        if self.environments.len() > 1 {
            let names: Vec<&str> = self.environments.iter().map(EnvironmentName::as_str).collect();
            text = text.say(format!("\nEnvironments: {}", names.join(", ")));
        }
        let set = serde_json::to_string(&self.settings).unwrap_or_default();
        if set.len() > 2 {
            text = text.say(format!("\nSettings: {set}"));
        }
        if !self.variables.is_empty() {
            text = text.say(format!("\nVariables: {}", self.variables.join(", ")));
        }
        text
    }
}

impl Brief for AppUpdated {
    fn brief(&self) -> Text {
        if self.changed.is_empty() {
            return self.applies.clone().into();
        }
        format!("Changed {}. {}", self.changed.join(", "), self.applies).into()
    }
}

impl Brief for AppDeleted {
    fn brief(&self) -> Text {
        let goes = self.removes.join("; ");
        match &self.job {
            Some(job) => format!("Deleting {} (job {}): {goes}.", self.app, job.job).into(),
            None => format!(
                "Dry run. Deleting {} would: {goes}. To do it, call again with confirm={:?}.",
                self.app,
                self.app.as_str()
            )
            .into(),
        }
    }

    fn ongoing(&self) -> Option<Ongoing> {
        Ongoing::job(self.job.as_ref())
    }
}

impl Brief for AppChanged {
    fn brief(&self) -> Text {
        let job =
            self.job.as_ref().map(|j| format!(" Job {}: job_get(wait_s=50) tells when it is done.", j.job));
        Text::from(self.effect.clone()).say_if(job)
    }

    fn ongoing(&self) -> Option<Ongoing> {
        Ongoing::job(self.job.as_ref())
    }
}
