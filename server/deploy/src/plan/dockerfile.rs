//! A Dockerfile of the source's own.

use super::error::PlanError;
use super::presets::{Finding, Preset};
use super::settings::PlanSettings;
use super::tree::View;
use super::{BuildPlan, Builder, DockerfileSource, Evidence};

pub(super) fn evidence(view: &View<'_>, settings: &PlanSettings) -> Result<Finding, PlanError> {
    if let Some(path) = &settings.dockerfile {
        if view.has(path) {
            return Ok(Finding::Evidence(vec![Evidence::new(path, "named by settings.dockerfile")]));
        }
        return Err(PlanError::missing("dockerfile", path, &candidates(view)));
    }
    if view.has("Dockerfile") {
        return Ok(Finding::Evidence(vec![Evidence::new("Dockerfile", "says how to build the image")]));
    }
    match candidates(view).as_slice() {
        [] => Ok(Finding::Nothing),
        [one, ..] => Ok(Finding::Nearly(format!("{one} is there: set dockerfile to {one:?} to use it"))),
    }
}

/// Files that look like Dockerfiles, wherever they are.
fn candidates(view: &View<'_>) -> Vec<String> {
    let is_one = |path: &&str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let low = name.to_ascii_lowercase();
        (low == "dockerfile"
            || low.starts_with("dockerfile.")
            || low.ends_with(".dockerfile")
            || low == "containerfile")
            && !low.ends_with(".dockerignore")
    };
    view.paths().filter(is_one).map(str::to_owned).collect()
}

pub(super) fn plan(
    preset: &Preset,
    view: &View<'_>,
    settings: &PlanSettings,
    mut evidence: Vec<Evidence>,
) -> Result<BuildPlan, PlanError> {
    let path = settings.dockerfile.clone().unwrap_or_else(|| "Dockerfile".to_owned());
    let text = view.read(&path).ok_or_else(|| PlanError::bad_file(&path, "it is too large or not UTF-8"))?;
    let facts = read(&text);
    if !facts.has_from {
        return Err(PlanError::bad_file(&path, "it has no FROM"));
    }
    if let Some(port) = facts.exposed {
        evidence.push(Evidence::new(&path, format!("exposes port {port}")));
    }
    let mut plan = BuildPlan::new(Builder::Dockerfile, preset.name, view, evidence);
    plan.port_hint = settings.port.or(facts.exposed);
    plan.start_command = settings.start_command.clone();
    if settings.build_command.is_some() {
        plan.warnings.push("The build command is not used: the Dockerfile says how to build.".to_owned());
    }
    plan.dockerfile = Some(DockerfileSource::InTree { path });
    Ok(plan)
}

/// What a Dockerfile tells without building it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DockerfileFacts {
    /// It has a FROM.
    pub has_from: bool,
    /// The first TCP port that its last stage exposes, when it is written as a number.
    pub exposed: Option<u16>,
}

/// Reads what is wanted of a Dockerfile; all else is left to the builder.
pub fn read(text: &str) -> DockerfileFacts {
    let mut facts = DockerfileFacts::default();
    let joined = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .map(|line| line.trim_end().strip_suffix('\\').map_or_else(|| format!("{line}\n"), str::to_owned))
        .collect::<String>();
    for line in joined.lines() {
        let mut words = line.split_whitespace();
        match words.next().map(str::to_ascii_uppercase).as_deref() {
            Some("FROM") => facts = DockerfileFacts { has_from: true, exposed: None },
            Some("EXPOSE") => {
                let tcp = |word: &str| word.strip_suffix("/tcp").unwrap_or(word).parse::<u16>().ok();
                facts.exposed = facts.exposed.or_else(|| words.find_map(tcp));
            }
            _ => {}
        }
    }
    facts
}
