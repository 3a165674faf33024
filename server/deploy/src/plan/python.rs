//! Python: dependencies into a virtual environment, then the entry that [`super::python_entry`] found.

use super::error::PlanError;
use super::presets::Preset;
use super::python_entry::{Entry, entry};
use super::recipe::{Recipe, Step, plain_words, shell};
use super::settings::PlanSettings;
use super::tree::View;
use super::{BuildPlan, Builder, DEFAULT_PORT, DockerfileSource, Evidence};
use crate::source::TreePath;

/// The lines of Python that there are base images for, as minor numbers, and the one taken when nothing is said.
const VERSIONS: &[u32] = &[11, 12, 13];
const DEFAULT_VERSION: u32 = 12;
/// Where pip keeps what it downloaded.
const PIP_CACHE: (&str, &str) = ("pip", "/root/.cache/pip");
const UV_CACHE: (&str, &str) = ("uv", "/root/.cache/uv");

/// How dependencies are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    Uv,
    Poetry,
    Pip,
    Pipenv,
    /// A pyproject.toml without a lock file.
    Project,
    None,
}

impl Manager {
    fn detect(view: &View<'_>) -> Self {
        let project = view.has("pyproject.toml");
        if project && view.has("uv.lock") {
            Self::Uv
        } else if project && view.has("poetry.lock") {
            Self::Poetry
        } else if view.has("requirements.txt") {
            Self::Pip
        } else if view.has("Pipfile.lock") {
            Self::Pipenv
        } else if project {
            Self::Project
        } else {
            Self::None
        }
    }

    /// What it reads.
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Uv => &["pyproject.toml", "uv.lock"],
            Self::Poetry => &["pyproject.toml", "poetry.lock"],
            Self::Pip => &["requirements.txt"],
            Self::Pipenv => &["Pipfile", "Pipfile.lock"],
            Self::Project => &["pyproject.toml"],
            Self::None => &[],
        }
    }

    /// What it does, for the image's shell; `/opt/venv` is the active environment.
    fn install(self) -> Option<&'static str> {
        Some(match self {
            Self::Uv => "uv sync --frozen --no-dev --no-install-project",
            Self::Poetry => "/opt/tool/bin/poetry install --only main --no-root --no-interaction",
            Self::Pip => "pip install -r requirements.txt",
            Self::Pipenv => {
                "/opt/tool/bin/pipenv requirements > /tmp/requirements.txt && pip install -r /tmp/requirements.txt"
            }
            Self::Project => "pip install .",
            Self::None => return None,
        })
    }

    /// A tool that the base image lacks, kept apart from the app's environment.
    fn tool(self) -> Option<&'static str> {
        match self {
            Self::Uv => Some("uv"),
            Self::Poetry => Some("poetry"),
            Self::Pipenv => Some("pipenv"),
            Self::Pip | Self::Project | Self::None => None,
        }
    }
}

/// Names of the app's direct dependencies, lower case with `-`.
pub(super) fn dependencies(view: &View<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for file in ["requirements.txt", "requirements.in"] {
        let text = view.read(file).unwrap_or_default();
        names.extend(text.lines().filter_map(requirement_name));
    }
    let project = table(view, "pyproject.toml");
    let listed = project.get("project").and_then(|project| project.get("dependencies"));
    let listed = listed.and_then(toml::Value::as_array).into_iter().flatten();
    names.extend(listed.filter_map(toml::Value::as_str).filter_map(requirement_name));
    let poetry = project.get("tool").and_then(|tool| tool.get("poetry")).and_then(|p| p.get("dependencies"));
    let pipfile = table(view, "Pipfile");
    for keys in [poetry, pipfile.get("packages")].into_iter().flatten() {
        names.extend(
            keys.as_table().into_iter().flat_map(|keys| keys.keys()).filter_map(|k| requirement_name(k)),
        );
    }
    names.sort();
    names.dedup();
    names
}

/// Empty where the file is missing or broken: the tool that reads it will say more about that.
fn table(view: &View<'_>, path: &str) -> toml::Table {
    view.read(path).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn requirement_name(line: &str) -> Option<String> {
    let letter = |c: &char| c.is_ascii_alphanumeric() || "._-".contains(*c);
    let name: String = line.trim().chars().take_while(letter).collect();
    let name = name.to_ascii_lowercase().replace(['_', '.'], "-");
    (!name.is_empty() && !name.starts_with('-')).then_some(name)
}

/// Whether this is Python at all: dependencies or a program.
pub(super) fn is_python(view: &View<'_>) -> bool {
    let files = ["requirements.txt", "pyproject.toml", "Pipfile", "Pipfile.lock", "setup.py", "manage.py"];
    view.first_of(&files).is_some() || view.paths().any(|path| path.ends_with(".py") && !path.contains('/'))
}

pub(super) fn plan(
    preset: &Preset,
    view: &View<'_>,
    settings: &PlanSettings,
    mut evidence: Vec<Evidence>,
) -> Result<BuildPlan, PlanError> {
    let manager = Manager::detect(view);
    let mut entry = entry(preset.name, view, settings)?;
    let version = version(view, &mut evidence, &mut entry.warnings);
    if let Some(file) = manager.files().last() {
        evidence.push(Evidence::new(*file, "lists the dependencies"));
    }
    if manager == Manager::None && view.has("Pipfile") {
        return Err(PlanError::bad_file("Pipfile", "there is no Pipfile.lock beside it: run pipenv lock"));
    }
    let port = settings.port.unwrap_or(DEFAULT_PORT);
    let argv = plain_words(&entry.command).unwrap_or_else(|| shell(&entry.command));

    let mut recipe = Recipe::new(settings);
    let image = format!("python:3.{version}-slim");
    build_stage(&mut recipe, &image, manager, view, &entry);
    recipe.line(&format!("FROM {image}"));
    recipe.line(&format!(
        "ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0 PORT={port}"
    ));
    recipe.line("WORKDIR /app");
    recipe.run("useradd --uid 10001 --create-home app && chown app:app /app", Step::default());
    recipe.copy("--from=build", &["/opt/venv".to_owned()], "/opt/venv");
    recipe.copy("--chown=app:app", &[".".to_owned()], "./");
    recipe.line("USER app");
    if let Some(build) = &settings.build_command {
        recipe.run(build, Step { cache: None, secrets: true });
    }
    recipe.line(&format!("EXPOSE {port}")).cmd(&argv);

    let build_secrets = recipe.secrets_used();
    let (text, cache_mounts) = recipe.finish();
    let mut plan = BuildPlan::new(Builder::Python, preset.name, view, evidence);
    plan.install_command = manager.install().map(|script| script.replace("/opt/tool/bin/", ""));
    plan.build_command = settings.build_command.clone();
    plan.start_command = Some(entry.command);
    plan.port_hint = Some(port);
    plan.build_secrets = build_secrets;
    plan.cache_mounts = cache_mounts;
    plan.context_excludes = [".git", "**/__pycache__", ".venv", "venv", ".pytest_cache", ".berth.Dockerfile"]
        .map(str::to_owned)
        .to_vec();
    plan.warnings = entry.warnings;
    plan.dockerfile = Some(DockerfileSource::Generated { text });
    Ok(plan)
}

fn build_stage(recipe: &mut Recipe<'_>, image: &str, manager: Manager, view: &View<'_>, entry: &Entry) {
    recipe.line(&format!("FROM {image} AS build"));
    recipe.line("WORKDIR /app");
    // An environment of its own: it is copied whole into the image that runs, and it works also where the
    // image's Python is managed by its distribution.
    recipe.run("python3 -m venv /opt/venv", Step::default());
    recipe.line("ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH");
    let pip = Step { cache: Some(PIP_CACHE), secrets: false };
    if let Some(tool) = manager.tool() {
        recipe.run(&format!("python3 -m venv /opt/tool && /opt/tool/bin/pip install {tool}"), pip);
    }
    let whole = needs_sources(manager, view);
    let files: Vec<String> =
        manager.files().iter().filter(|file| view.has(file)).map(|file| (*file).to_owned()).collect();
    if whole {
        recipe.copy("", &[".".to_owned()], "./");
    } else if !files.is_empty() {
        recipe.copy("", &files, "./");
    }
    if let Some(script) = manager.install() {
        let uv =
            "UV_PROJECT_ENVIRONMENT=/opt/venv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never /opt/tool/bin/";
        let script = if manager == Manager::Uv { format!("{uv}{script}") } else { script.to_owned() };
        let cache = if manager == Manager::Uv { UV_CACHE } else { PIP_CACHE };
        // An index's token, or a setup that looks at its environment.
        let tokens = files.iter().any(|file| view.read(file).is_some_and(|text| text.contains("${")));
        recipe.run(&script, Step { cache: Some(cache), secrets: tokens });
        if matches!(manager, Manager::Uv | Manager::Poetry) && installs_itself(view) {
            recipe.copy("", &[".".to_owned()], "./");
            recipe.run(
                "/opt/venv/bin/python -m ensurepip && /opt/venv/bin/python -m pip install --no-deps .",
                pip,
            );
        }
    }
    for package in &entry.extra_packages {
        let python = "/opt/venv/bin/python";
        recipe.run(&format!("{python} -m ensurepip && {python} -m pip install {package}"), pip);
    }
    recipe.gap();
}

/// A project with a build system in the `src` layout is imported as a package and not from the current folder.
fn installs_itself(view: &View<'_>) -> bool {
    table(view, "pyproject.toml").contains_key("build-system") && view.has_folder("src")
}

/// The list of dependencies refers to other files of the source.
fn needs_sources(manager: Manager, view: &View<'_>) -> bool {
    let refers = |line: &str| {
        let line = line.trim();
        ["-r", "-c", "-e", "--requirement", "--constraint", "--editable", ".", "file:"]
            .iter()
            .any(|start| line.starts_with(start))
            || line.contains("@ file:")
    };
    match manager {
        Manager::Pip => view.read("requirements.txt").is_some_and(|text| text.lines().any(refers)),
        Manager::Project => true,
        // Path dependencies and workspaces.
        Manager::Uv | Manager::Poetry => view.read("pyproject.toml").is_some_and(|text| {
            text.contains("workspace = true")
                || text.contains("path = ")
                || text.contains("tool.uv.workspace")
        }),
        Manager::Pipenv | Manager::None => false,
    }
}

fn version(view: &View<'_>, evidence: &mut Vec<Evidence>, warnings: &mut Vec<String>) -> u32 {
    for file in [".python-version", "runtime.txt"] {
        let Some(text) = view.read(file) else { continue };
        let wish = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        let Some(wish) = wish else { continue };
        let number = wish.trim_start_matches("python").trim_start_matches('-');
        let chosen = minor(number).filter(|minor| VERSIONS.contains(minor));
        return settle_version(chosen, file, wish, evidence, warnings);
    }
    let project = table(view, "pyproject.toml");
    let modern = project.get("project").and_then(|p| p.get("requires-python"));
    let poetry = project.get("tool").and_then(|t| t.get("poetry")).and_then(|p| p.get("dependencies"));
    let range = modern.or_else(|| poetry.and_then(|deps| deps.get("python"))).and_then(toml::Value::as_str);
    let Some(range) = range else { return DEFAULT_VERSION };
    let chosen = [DEFAULT_VERSION, 13, 11].into_iter().find(|minor| range_allows(range, *minor));
    settle_version(chosen, "pyproject.toml", range, evidence, warnings)
}

fn settle_version(
    chosen: Option<u32>,
    file: &str,
    wish: &str,
    evidence: &mut Vec<Evidence>,
    warnings: &mut Vec<String>,
) -> u32 {
    let wish: String = wish.chars().filter(|c| !c.is_control()).take(40).collect();
    match chosen {
        Some(minor) => {
            evidence.push(Evidence::new(file, format!("asks for Python {wish}: 3.{minor} is used")));
            minor
        }
        None => {
            warnings.push(format!(
                "{file} asks for Python {wish}, which has no base image here: 3.{DEFAULT_VERSION} is used. \
                 A Dockerfile can choose another."
            ));
            DEFAULT_VERSION
        }
    }
}

/// The minor number of a `3.x` version.
fn minor(version: &str) -> Option<u32> {
    let rest = version.trim().strip_prefix("3.")?;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// Whether some `3.minor` is in the range, looking at minor numbers only.
fn range_allows(range: &str, candidate: u32) -> bool {
    range.split(',').map(str::trim).all(|condition| {
        let Some(at) = condition.find(|c: char| c.is_ascii_digit()) else { return condition == "*" };
        let (operator, version) = condition.split_at(at);
        let Some(wanted) = minor(version.trim_end_matches(".*")) else {
            // `>=3`, `<4`, `^3`: the major number alone.
            return matches!(
                (operator.trim(), version.trim()),
                (">=" | "^" | "~=" | "", "3") | ("<", "4" | "4.0")
            );
        };
        let patch = version.trim().split('.').nth(2).is_some_and(|part| part != "0" && part != "*");
        match operator.trim() {
            ">=" => candidate >= wanted,
            ">" => candidate > wanted || (candidate == wanted && patch),
            "<=" => candidate <= wanted,
            "<" => candidate < wanted || (candidate == wanted && patch),
            "!=" => candidate != wanted || patch,
            // Compatible within the major version, unless a third number is given.
            "^" => candidate >= wanted,
            "~=" if version.split('.').count() < 3 => candidate >= wanted,
            _ => candidate == wanted,
        }
    })
}

/// A dotted module name out of a path as `pkg/wsgi.py`; `None` when it could not be imported.
pub(super) fn module_of(path: &str) -> Option<String> {
    let path = TreePath::parse(path.as_bytes()).ok()?;
    let module = path.as_str().strip_suffix(".py")?.replace('/', ".");
    module.split('.').all(is_identifier).then_some(module)
}

pub(super) fn is_identifier(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_judged_by_their_minor_numbers() {
        for (range, allowed) in [
            (">=3.11", &[11, 12, 13][..]),
            (">=3.9,<3.13", &[11, 12]),
            ("^3.12", &[12, 13]),
            ("~=3.11", &[11, 12, 13]),
            ("~=3.11.4", &[11]),
            ("3.13.*", &[13]),
            ("==3.11.4", &[11]),
            (">=3", &[11, 12, 13]),
            ("*", &[11, 12, 13]),
            ("<3.11", &[]),
            (">=3.14", &[]),
            (">=3.10, <4.0", &[11, 12, 13]),
            ("!=3.12", &[11, 13]),
            ("odd", &[]),
        ] {
            let found: Vec<u32> =
                VERSIONS.iter().copied().filter(|minor| range_allows(range, *minor)).collect();
            assert_eq!(found, allowed, "{range}");
        }
    }

    #[test]
    fn names_of_requirements_are_normalised() {
        for (line, name) in [
            ("Flask==3.0", Some("flask")),
            ("uvicorn[standard]>=0.2 ; x", Some("uvicorn")),
            ("ruamel.yaml", Some("ruamel-yaml")),
            ("# comment", None),
            ("-r other.txt", None),
            ("", None),
        ] {
            assert_eq!(requirement_name(line).as_deref(), name, "{line}");
        }
    }
}
