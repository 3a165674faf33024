//! From the names that callers use to rows, with candidates when a name is wrong.

use berth_schemas::{AppSlug, Code, DeploymentRef, DomainName, EnvironmentName, Problem, ProjectSlug, Scope};
use berth_store::{
    DomainRow,
    model::{AppRow, DeploymentRow, ProjectRow, Visible},
};

use crate::registry::{Call, demand};

/// The app of this name in production, if the caller may see it.
pub(crate) async fn app(call: &Call, slug: &AppSlug) -> Result<AppRow, Problem> {
    let apps = call.context.store.apps();
    match apps.by_slug(&call.principal.visible, slug).await? {
        Some(app) => Ok(app),
        None => {
            let known = apps.slugs(&call.principal.visible).await?;
            Err(Problem { field: Some("app".into()), ..Problem::not_found("app", slug.as_str(), &known) })
        }
    }
}

/// The same, for work on it: an app that is being deleted takes none.
pub(crate) async fn app_to_change(call: &Call, slug: &AppSlug) -> Result<AppRow, Problem> {
    let app = app(call, slug).await?;
    if app.deleting {
        return Err(Problem::new(Code::Conflict, format!("The app {slug} is being deleted."))
            .hint("Wait until it is gone from app_list; then its name is free again."));
    }
    Ok(app)
}

/// The app of this name in an environment, in production where none is named, if the caller may see it.
pub(crate) async fn app_in(
    call: &Call,
    slug: &AppSlug,
    environment: Option<&EnvironmentName>,
) -> Result<AppRow, Problem> {
    let app = app(call, slug).await?;
    let Some(name) = environment.filter(|name| **name != app.environment.name) else { return Ok(app) };
    let environments = call.context.store.environments();
    if let Some(app) = environments.by_name(app.id, name).await? {
        return Ok(app);
    }
    let known = environments.of(app.id).await?;
    let known: Vec<String> = known.iter().map(|a| a.environment.name.to_string()).collect();
    Err(Problem {
        field: Some("environment".into()),
        ..Problem::not_found("environment", name.as_str(), &known)
    })
}

/// The same, for work on it: one that is being deleted takes none.
pub(crate) async fn app_in_to_change(
    call: &Call,
    slug: &AppSlug,
    environment: Option<&EnvironmentName>,
) -> Result<AppRow, Problem> {
    let app = app_in(call, slug, environment).await?;
    if app.deleting {
        return Err(Problem::new(Code::Conflict, format!("{} is being deleted.", app.title()))
            .hint("Wait until it is gone; then its name is free again."));
    }
    Ok(app)
}

/// The project of this name, if the caller may see it.
pub(crate) async fn project(call: &Call, slug: &ProjectSlug) -> Result<ProjectRow, Problem> {
    let projects = call.context.store.projects();
    match projects.by_slug(&call.principal.visible, slug).await? {
        Some(project) => Ok(project),
        None => {
            let known = projects.list(&call.principal.visible).await?;
            let known: Vec<String> = known.iter().map(|p| p.slug.to_string()).collect();
            Err(Problem {
                field: Some("project".into()),
                ..Problem::not_found("project", slug.as_str(), &known)
            })
        }
    }
}

/// The domain of this name, if the caller may see it.
pub(crate) async fn domain(call: &Call, name: &DomainName) -> Result<DomainRow, Problem> {
    let domains = call.context.store.domains();
    match domains.by_name(&call.principal.visible, name).await? {
        Some(row) => Ok(row),
        None => {
            let known = domains.names(&call.principal.visible).await?;
            Err(Problem {
                field: Some("domain".into()),
                ..Problem::not_found("domain", name.as_str(), &known)
            })
        }
    }
}

/// The deployment named so.
pub(crate) async fn deployment(call: &Call, which: &DeploymentRef) -> Result<DeploymentRow, Problem> {
    let deployments = call.context.store.deployments();
    if let Some(row) = deployments.by_ref(&call.principal.visible, which).await? {
        return Ok(row);
    }
    let app = app(call, &which.app).await.map_err(|p| Problem { field: Some("deployment".into()), ..p })?;
    let newest = deployments.list(app.id, None, None, 5).await?;
    if newest.is_empty() {
        let none = format!("The app {} has no deployment yet.", app.slug);
        return Err(Problem::new(Code::NotFound, none)
            .hint(format!("Make one with deployment_create(app={:?}, …).", app.slug.as_str())));
    }
    let candidates: Vec<String> = newest.iter().map(|d| d.reference().to_string()).collect();
    Err(Problem {
        field: Some("deployment".into()),
        ..Problem::new(Code::NotFound, format!("There is no deployment {which}."))
    }
    .hint(format!("The newest are {}.", candidates.join(", ")))
    .candidates(candidates))
}

/// Refuses a caller whose token is restricted to projects: `what` concerns the whole installation.
pub(crate) fn demand_all_projects(call: &Call, what: &str) -> Result<(), Problem> {
    match call.principal.visible {
        Visible::All => Ok(()),
        Visible::Projects(_) => Err(Problem::new(
            Code::Forbidden,
            format!(
                "{what} concerns all projects, and the token {:?} is restricted to some.",
                call.principal.name
            ),
        )
        .hint("Use a token that is not restricted to projects.")),
    }
}

/// Refuses a caller who may deploy but not create what the deployment would need.
pub(crate) fn demand_write(call: &Call, what: &str) -> Result<(), Problem> {
    demand(what, &call.principal, Scope::Write)
}
