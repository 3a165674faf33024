//! Plain files: served as they are, with no container.

use super::error::PlanError;
use super::presets::{Finding, Preset};
use super::settings::PlanSettings;
use super::tree::View;
use super::{BuildPlan, Builder, Evidence, node};

/// Where finished files are looked for when there is no index.html at the top.
const OUTPUTS: &[&str] = &["public", "dist", "build", "out", "_site"];

pub(super) fn evidence(view: &View<'_>, settings: &PlanSettings) -> Result<Finding, PlanError> {
    if let Some(dir) = &settings.output_directory {
        if !view.has_folder(dir) {
            return Err(PlanError::missing("output_directory", dir, &view.folders()));
        }
        return Ok(Finding::Evidence(vec![Evidence::new(
            "settings.output_directory",
            format!("the finished files are in {dir:?}"),
        )]));
    }
    // An index.html that a build tool reads is no finished page: what it builds is.
    let built = node::builds_only(view)?;
    if !built && view.has("index.html") {
        return Ok(Finding::Evidence(vec![Evidence::new("index.html", "files to serve as they are")]));
    }
    let usable = |dir: &&&str| view.has(&format!("{dir}/index.html")) && !(built && **dir == "public");
    if let Some(dir) = OUTPUTS.iter().find(usable) {
        let path = format!("{dir}/index.html");
        return Ok(Finding::Evidence(vec![Evidence::new(path, format!("files to serve, in {dir}/"))]));
    }
    if settings.builder == Builder::Static {
        let why = "builder is static: any files are served";
        return Ok(Finding::Evidence(vec![Evidence::new("settings.builder", why)]));
    }
    let page = view.paths().find(|path| path.ends_with(".html") && !path.contains('/'));
    Ok(page.map_or(Finding::Nothing, |page| {
        Finding::Nearly(format!("{page} is there, but no index.html: rename it, or set builder to static"))
    }))
}

pub(super) fn plan(
    preset: &Preset,
    view: &View<'_>,
    settings: &PlanSettings,
    evidence: Vec<Evidence>,
) -> Result<BuildPlan, PlanError> {
    let found = evidence.iter().find_map(|fact| fact.path.strip_suffix("/index.html"));
    let dir = settings.output_directory.clone().unwrap_or_else(|| found.unwrap_or("").to_owned());
    let mut plan = BuildPlan::new(Builder::Static, preset.name, view, evidence);
    let inside = if dir.is_empty() { String::new() } else { format!("{dir}/") };
    if !view.has(&format!("{inside}index.html")) {
        plan.warnings.push("There is no index.html: / will answer 404.".to_owned());
    }
    if view.paths().any(|path| path.strip_prefix(&inside).is_some_and(is_env)) {
        plan.warnings.push("There is a .env file among the files to serve: remove it.".to_owned());
    }
    if settings.build_command.is_some() || settings.start_command.is_some() {
        plan.warnings.push("Static files are not built or started: the command is not used.".to_owned());
    }
    plan.static_dir = Some(dir);
    Ok(plan)
}

fn is_env(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name == ".env" || name.starts_with(".env.")
}
