//! Projects: groups of apps.

use berth_schemas::{
    Code, Problem, ProjectSlug, Scope,
    project::{Project, ProjectCreate, ProjectDelete, ProjectDeleted, ProjectList, ProjectPage},
};
use berth_store::model::ProjectRow;

use crate::{
    apps::count,
    confirm::confirmed,
    find, page,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "project_list",
                title: "List projects",
                description: "List the projects: groups of apps that share a private network and access tokens.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/projects",
            },
            list,
        ),
        Tool::new(
            Spec {
                name: "project_create",
                title: "Create a project",
                description: "Create a project, so that apps can be kept apart from those of other projects.",
                hints: Hints::CREATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/projects",
            },
            create,
        ),
        Tool::new(
            Spec {
                name: "project_delete",
                title: "Delete an empty project",
                description: "Delete a project that has no apps. Wants confirm=<the project's name>.",
                hints: Hints::DESTROY,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Delete,
                path: "/v1/projects/{project}",
            },
            delete,
        ),
    ]
}

async fn list(call: Call, input: ProjectList) -> Result<ProjectPage, Problem> {
    let limit = page::limit_of_whole(input.limit)?;
    let after: Option<ProjectSlug> = page::name_cursor(input.cursor.as_deref())?;
    let rows = call.context.store.projects().list(&call.principal.visible).await?;
    let follows = |row: &ProjectRow| after.as_ref().is_none_or(|a| row.slug > *a);
    let mut projects: Vec<_> = rows.into_iter().filter(follows).map(shown).collect();
    let more = page::cut_whole(&mut projects, limit, call.budget, input.limit.is_some());
    let next_cursor = projects.last().filter(|_| more).map(|p| p.name.to_string());
    Ok(ProjectPage { projects, next_cursor })
}

fn shown(row: ProjectRow) -> Project {
    Project { name: row.slug, apps: row.apps, created_at: row.created_at }
}

async fn create(call: Call, input: ProjectCreate) -> Result<Project, Problem> {
    find::demand_all_projects(&call, "project_create")?;
    Ok(shown(call.context.store.projects().create(&call.principal, input.name).await?))
}

async fn delete(call: Call, input: ProjectDelete) -> Result<ProjectDeleted, Problem> {
    let project = find::project(&call, &input.project).await?;
    let name = project.slug.as_str();
    if project.slug == ProjectSlug::default_project() {
        return Err(Problem::new(Code::Conflict, "The default project cannot be deleted."));
    }
    if project.apps > 0 {
        let apps = count(usize::try_from(project.apps).unwrap_or(usize::MAX), "app");
        return Err(Problem::new(Code::Conflict, format!("The project {name} still has {apps}."))
            .hint(format!("See app_list(project={name:?}); delete its apps first.")));
    }
    if input.dry_run {
        return Ok(ProjectDeleted { project: project.slug, deleted: false });
    }
    confirmed(
        "project_delete",
        name,
        input.confirm.as_deref(),
        &[format!("remove the empty project {name}")],
    )?;
    call.context.store.projects().delete(&call.principal, project.id).await?;
    Ok(ProjectDeleted { project: project.slug, deleted: true })
}

impl Brief for ProjectPage {
    fn brief(&self) -> Text {
        let names: Vec<String> =
            self.projects.iter().map(|p| format!("{} ({} apps)", p.name, p.apps)).collect();
        if names.is_empty() {
            "There are no projects that you may see.".into()
        } else {
            Text::from(names.join("\n")).say_if(page::more(self.next_cursor.as_ref()))
        }
    }
}

impl Brief for Project {
    fn brief(&self) -> Text {
        format!("The project {} is there, with {} apps.", self.name, self.apps).into()
    }
}

impl Brief for ProjectDeleted {
    fn brief(&self) -> Text {
        let what = if self.deleted { "is deleted" } else { "would be deleted (dry run)" };
        format!("The project {} {what}.", self.project).into()
    }
}
