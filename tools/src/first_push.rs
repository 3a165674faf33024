//! What a `git push` to a name that no app has yet may make of it. The way in is git's own, so this is no tool; what it
//! does is `app_create`.

use std::sync::Arc;

use berth_schemas::{AppSlug, Code, Problem, ProjectSlug, Scope, app::AppSettings};
use berth_store::model::{AppRow, Principal, Visible};

use crate::{
    apps,
    context::Context,
    registry::{Call, demand},
};

/// An app that a push would make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    name: AppSlug,
    project: ProjectSlug,
}

/// Whether this caller could make an app of this name by a push, which it is that way. Makes nothing.
///
/// # Errors
/// Why not: the name is none or taken, a scope is missing, the project is not clear.
pub async fn check(context: &Arc<Context>, principal: &Principal, name: &str) -> Result<Wanted, Problem> {
    let slug = match name.parse::<AppSlug>() {
        Ok(slug) => slug,
        Err(error) => {
            return Err(Problem::invalid("app", format!("A push to this name cannot make an app: {error}."))
                .hint("Correct the remote's address with: git remote set-url <remote> <address>"));
        }
    };
    demand(&format!("Creating the app {slug} by a push"), principal, Scope::Write)?;
    apps::check_name(context, &slug)?;
    if context.store.apps().by_slug(&Visible::All, &slug).await?.is_some() {
        return Err(Problem::new(Code::AlreadyExists, format!("The app name {slug} is taken."))
            .hint("Push to another name."));
    }
    let project = project(context, principal).await?;
    Ok(Wanted { name: slug, project })
}

/// Makes the app. If somebody was faster it is there all the same.
///
/// # Errors
/// As `app_create`.
pub async fn create(
    context: &Arc<Context>,
    principal: &Principal,
    wanted: Wanted,
) -> Result<AppRow, Problem> {
    let call = Call::new(Arc::clone(context), principal.clone());
    let Wanted { name, project } = wanted;
    match apps::create_app(&call, name.clone(), Some(project), AppSettings::default()).await {
        Err(problem) if problem.code == Code::AlreadyExists => {
            context.store.apps().by_slug(&principal.visible, &name).await?.ok_or(problem)
        }
        result => result,
    }
}

/// The project that a caller means who names none: the only one that the token is for, else the default one.
async fn project(context: &Arc<Context>, principal: &Principal) -> Result<ProjectSlug, Problem> {
    let default = ProjectSlug::default_project();
    if matches!(principal.visible, Visible::All) {
        return Ok(default);
    }
    let seen = context.store.projects().list(&principal.visible).await?;
    match seen.as_slice() {
        [only] => Ok(only.slug.clone()),
        several if several.iter().any(|project| project.slug == default) => Ok(default),
        several => {
            let names: Vec<String> = several.iter().map(|project| project.slug.to_string()).collect();
            let text = format!(
                "In which project the app is to be is not clear: the token {:?} is for several.",
                principal.name
            );
            let hint = "Make it first, with: berth app create <name> --project <project>";
            Err(Problem::new(Code::InvalidInput, text).hint(hint).candidates(names))
        }
    }
}
