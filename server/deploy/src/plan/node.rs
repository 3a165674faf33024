//! Node.js: a package.json with something to start.

use serde::Deserialize;
use std::collections::BTreeMap;

use super::error::PlanError;
use super::presets::{Finding, Preset};
use super::recipe::{Recipe, Step, plain_words, shell};
use super::settings::PlanSettings;
use super::tree::View;
use super::{BuildPlan, Builder, DEFAULT_PORT, DockerfileSource, Evidence};

/// The lines of Node.js that there are base images for, and the one taken when nothing is said.
const VERSIONS: &[u32] = &[20, 22, 24];
const DEFAULT_VERSION: u32 = 22;
/// Files that are started when no script is.
const ENTRIES: &[&str] = &["server.js", "server.mjs", "index.js", "index.mjs", "app.js"];

/// What is wanted of a package.json. Values of an unexpected kind are left out, not refused: npm is lenient.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Package {
    main: serde_json::Value,
    scripts: BTreeMap<String, serde_json::Value>,
    dependencies: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "devDependencies")]
    dev_dependencies: BTreeMap<String, serde_json::Value>,
    engines: serde_json::Value,
    #[serde(rename = "packageManager")]
    package_manager: serde_json::Value,
    workspaces: serde_json::Value,
}

impl Package {
    fn read(view: &View<'_>) -> Result<Option<Self>, PlanError> {
        if !view.has("package.json") {
            return Ok(None);
        }
        let text = view.read("package.json");
        let text = text.ok_or_else(|| PlanError::bad_file("package.json", "it is too large or not UTF-8"))?;
        serde_json::from_str(&text).map(Some).map_err(|error| PlanError::bad_file("package.json", error))
    }

    fn script(&self, name: &str) -> Option<&str> {
        self.scripts.get(name)?.as_str().map(str::trim).filter(|script| !script.is_empty())
    }

    fn depends_on(&self, name: &str) -> bool {
        self.dependencies.contains_key(name) || self.dev_dependencies.contains_key(name)
    }
}

/// How dependencies are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Npm,
    Pnpm,
    YarnClassic,
    YarnBerry,
    Bun,
}

impl Manager {
    fn detect(view: &View<'_>, package: &Package) -> (Self, Option<&'static str>) {
        let lock = view.first_of(&[
            "package-lock.json",
            "npm-shrinkwrap.json",
            "pnpm-lock.yaml",
            "yarn.lock",
            "bun.lock",
            "bun.lockb",
        ]);
        let named = package.package_manager.as_str().and_then(|name| name.split('@').next());
        let berry = view.has(".yarnrc.yml")
            || package.package_manager.as_str().is_some_and(|name| {
                name.strip_prefix("yarn@").is_some_and(|version| !version.starts_with("1."))
            });
        let yarn = if berry { Self::YarnBerry } else { Self::YarnClassic };
        let (manager, files): (_, &[&'static str]) = match (named, lock) {
            (Some("pnpm"), _) => (Self::Pnpm, &["pnpm-lock.yaml"]),
            (Some("yarn"), _) => (yarn, &["yarn.lock"]),
            (Some("bun"), _) => (Self::Bun, &["bun.lock", "bun.lockb"]),
            (Some("npm"), _) => (Self::Npm, &["package-lock.json", "npm-shrinkwrap.json"]),
            (_, Some("pnpm-lock.yaml")) => (Self::Pnpm, &["pnpm-lock.yaml"]),
            (_, Some("yarn.lock")) => (yarn, &["yarn.lock"]),
            (_, Some("bun.lock" | "bun.lockb")) => (Self::Bun, &["bun.lock", "bun.lockb"]),
            _ => (Self::Npm, &["package-lock.json", "npm-shrinkwrap.json"]),
        };
        (manager, view.first_of(files))
    }

    /// The program as one types it.
    fn name(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pnpm => "pnpm",
            Self::YarnClassic | Self::YarnBerry => "yarn",
            Self::Bun => "bun",
        }
    }

    /// What makes the program available in the base image, which brings npm and corepack.
    fn setup(self) -> Option<&'static str> {
        match self {
            // Node's images bring npm and the classic yarn.
            Self::Npm | Self::YarnClassic => None,
            Self::Pnpm | Self::YarnBerry => Some("corepack enable"),
            Self::Bun => Some("npm install --global bun"),
        }
    }

    fn install(self, locked: bool, production: bool) -> String {
        let (base, only) = match (self, locked) {
            (Self::Npm, true) => ("npm ci", " --omit=dev"),
            (Self::Npm, false) => ("npm install --no-audit --no-fund", " --omit=dev"),
            (Self::Pnpm, true) => ("pnpm install --frozen-lockfile", " --prod"),
            (Self::Pnpm, false) => ("pnpm install", " --prod"),
            (Self::YarnClassic, true) => ("yarn install --frozen-lockfile", " --production"),
            (Self::YarnClassic, false) => ("yarn install", " --production"),
            // Berry's own way to leave out development dependencies needs a plugin in old versions.
            (Self::YarnBerry, true) => ("yarn install --immutable", ""),
            (Self::YarnBerry, false) => ("yarn install", ""),
            (Self::Bun, true) => ("bun install --frozen-lockfile", " --production"),
            (Self::Bun, false) => ("bun install", " --production"),
        };
        format!("{base}{}", if production { only } else { "" })
    }

    /// Takes development dependencies away after a build; `None` where the program has no dependable way.
    fn prune(self) -> Option<&'static str> {
        match self {
            Self::Npm => Some("npm prune --omit=dev"),
            Self::Pnpm => Some("CI=true pnpm prune --prod --store-dir /root/.local/share/pnpm/store"),
            Self::YarnClassic => {
                Some("yarn install --production --frozen-lockfile --ignore-scripts --prefer-offline")
            }
            Self::YarnBerry | Self::Bun => None,
        }
    }

    fn cache(self) -> (&'static str, &'static str) {
        match self {
            Self::Npm => ("npm", "/root/.npm"),
            Self::Pnpm => ("pnpm", "/root/.local/share/pnpm/store"),
            Self::YarnClassic => ("yarn", "/usr/local/share/.cache/yarn"),
            Self::YarnBerry => ("yarn-berry", "/root/.yarn/berry/cache"),
            Self::Bun => ("bun", "/root/.bun/install/cache"),
        }
    }
}

/// Whether there is a package.json that builds something but starts nothing: its index.html is raw material.
pub(super) fn builds_only(view: &View<'_>) -> Result<bool, PlanError> {
    let Some(package) = Package::read(view)? else { return Ok(false) };
    Ok(package.script("build").is_some() && package.script("start").is_none())
}

pub(super) fn evidence(view: &View<'_>, settings: &PlanSettings) -> Result<Finding, PlanError> {
    let wish = settings.builder == Builder::Node;
    let Some(package) = Package::read(view)? else {
        return Ok(match view.first_of(&["server.js", "server.mjs"]) {
            Some(file) => Finding::Evidence(vec![Evidence::new(file, "is started by node")]),
            None if wish => Finding::Nearly("builder is node, but there is no package.json".to_owned()),
            None => Finding::Nothing,
        });
    };
    let mut facts = Vec::new();
    if settings.start_command.is_some() {
        facts.push(Evidence::new("settings.start_command", "says how to start"));
    } else if let Some(script) = package.script("start") {
        let shown: String = script.chars().take(120).collect();
        facts.push(Evidence::new("package.json", format!("has a start script: {shown}")));
    } else if let Some((file, why)) = entry_file(view, &package) {
        facts.push(Evidence::new(file, why));
    } else if package.script("build").is_some() {
        return Ok(Finding::Nearly(
            "package.json has a build script but no start script: build it yourself and deploy the finished \
             folder, or add a start script that serves it"
                .to_owned(),
        ));
    } else {
        return Ok(Finding::Nearly("package.json is there, but it has no start script".to_owned()));
    }
    if package.script("build").is_some() && settings.build_command.is_none() {
        facts.push(Evidence::new("package.json", "has a build script"));
    }
    let (manager, lock) = Manager::detect(view, &package);
    if let Some(lock) = lock {
        facts.push(Evidence::new(lock, format!("dependencies are installed with {}", manager.name())));
    }
    Ok(Finding::Evidence(facts))
}

/// What to start when no script says so.
fn entry_file(view: &View<'_>, package: &Package) -> Option<(String, String)> {
    let main = package.main.as_str().map(|main| main.strip_prefix("./").unwrap_or(main));
    let made = |main: &&str| package.script("build").is_some() && main.contains('/') && main.ends_with("js");
    if let Some(main) = main.filter(|main| view.has(main) || made(main)) {
        let safe = crate::source::TreePath::parse(main.as_bytes()).ok()?;
        return Some((safe.to_string(), "is the main file in package.json".to_owned()));
    }
    let file = view.first_of(ENTRIES)?;
    Some((file.to_owned(), "is started by node".to_owned()))
}

pub(super) fn plan(
    preset: &Preset,
    view: &View<'_>,
    settings: &PlanSettings,
    mut evidence: Vec<Evidence>,
) -> Result<BuildPlan, PlanError> {
    let read = Package::read(view)?;
    let has_package = read.is_some();
    let package = read.unwrap_or_default();
    let (manager, lock) = Manager::detect(view, &package);
    let mut warnings = Vec::new();
    let version = version(view, &package, &mut evidence, &mut warnings);
    let port = settings.port.unwrap_or(DEFAULT_PORT);
    let start = start(view, &package, settings)?;
    let build = settings
        .build_command
        .clone()
        .or_else(|| package.script("build").map(|_| format!("{} run build", manager.name())));
    if has_package && lock.is_none() {
        warnings.push(
            "There is no lock file: dependencies are resolved anew at each build. Commit one.".to_owned(),
        );
    }

    let mut recipe = Recipe::new(settings);
    let shape = Shape { image: format!("node:{version}-slim"), manager, lock, build, has_package };
    if shape.build.is_some() {
        shape.build_stage(&mut recipe, view, &package);
    }
    shape.run_stage(&mut recipe, view, &package, port);
    recipe.cmd(&start.argv);

    let build_secrets = recipe.secrets_used();
    let (text, cache_mounts) = recipe.finish();
    let mut plan = BuildPlan::new(Builder::Node, preset.name, view, evidence);
    plan.install_command = has_package.then(|| manager.install(lock.is_some(), shape.build.is_none()));
    plan.build_secrets = build_secrets;
    plan.build_command = shape.build;
    plan.start_command = Some(start.shown);
    plan.port_hint = Some(port);
    plan.cache_mounts = cache_mounts;
    plan.context_excludes = [".git", "**/node_modules", "npm-debug.log", ".next", ".berth.Dockerfile"]
        .map(str::to_owned)
        .to_vec();
    plan.warnings = warnings;
    plan.dockerfile = Some(DockerfileSource::Generated { text });
    Ok(plan)
}

struct Start {
    argv: Vec<String>,
    shown: String,
}

/// `npm start` works with every package manager's `node_modules`, and needs nothing else in the image. A script
/// that is just `node file` is started without npm in between: signals arrive, and it saves a process.
fn start(view: &View<'_>, package: &Package, settings: &PlanSettings) -> Result<Start, PlanError> {
    if let Some(command) = &settings.start_command {
        let argv = plain_words(command).unwrap_or_else(|| shell(command));
        return Ok(Start { argv, shown: command.clone() });
    }
    if let Some(script) = package.script("start") {
        let direct = plain_words(script)
            .filter(|words| words[0] == "node" && package.script("prestart").is_none() && words.len() > 1);
        let argv = direct.unwrap_or_else(|| vec!["npm".to_owned(), "start".to_owned()]);
        return Ok(Start { shown: argv.join(" "), argv });
    }
    let file = entry_file(view, package).map(|(file, _)| file);
    let file = file.or_else(|| view.first_of(&["server.js", "server.mjs"]).map(str::to_owned));
    let file = file.ok_or_else(|| PlanError::bad_file("package.json", "it has nothing to start"))?;
    let argv = vec!["node".to_owned(), file];
    Ok(Start { shown: argv.join(" "), argv })
}

/// All that the stages of the Dockerfile have in common.
struct Shape {
    image: String,
    manager: Manager,
    lock: Option<&'static str>,
    build: Option<String>,
    has_package: bool,
}

impl Shape {
    /// Installs everything, builds, and takes away what only the build needed.
    fn build_stage(&self, recipe: &mut Recipe<'_>, view: &View<'_>, package: &Package) {
        recipe.line(&format!("FROM {} AS build", self.image)).line("WORKDIR /app");
        if self.has_package {
            self.install(recipe, view, package, false);
        }
        if !needs_sources(view, package) || !self.has_package {
            recipe.copy("", &[".".to_owned()], "./");
        }
        let next = package.depends_on("next").then_some(("next", "/app/.next/cache"));
        if let Some(build) = &self.build {
            recipe.run(build, Step { cache: next, secrets: true });
        }
        if let (Some(prune), Some(_)) = (self.manager.prune(), self.lock) {
            recipe.run(prune, Step { cache: Some(self.manager.cache()), secrets: false });
        }
        recipe.gap();
    }

    fn run_stage(&self, recipe: &mut Recipe<'_>, view: &View<'_>, package: &Package, port: u16) {
        recipe.line(&format!("FROM {}", self.image));
        recipe.line(&format!("ENV NODE_ENV=production HOST=0.0.0.0 PORT={port}"));
        recipe.line("WORKDIR /app").line("RUN [\"chown\", \"node:node\", \"/app\"]");
        // Scripts may call bun by its name; the others are started by npm, which is there.
        if self.manager == Manager::Bun && self.build.is_some() {
            recipe.run("npm install --global bun", Step::default());
        }
        if self.build.is_some() {
            recipe.copy("--from=build --chown=node:node", &["/app".to_owned()], "/app");
        } else {
            if self.has_package {
                self.install(recipe, view, package, true);
            }
            recipe.copy("--chown=node:node", &[".".to_owned()], "./");
        }
        recipe.line("USER node").line(&format!("EXPOSE {port}"));
    }

    /// Copies what the package manager reads, then installs: as long as those files stay the same, so does the
    /// layer.
    fn install(&self, recipe: &mut Recipe<'_>, view: &View<'_>, package: &Package, production: bool) {
        if let Some(setup) = self.manager.setup() {
            recipe.run(setup, Step::default());
        }
        if needs_sources(view, package) {
            recipe.copy("", &[".".to_owned()], "./");
        } else {
            let optional =
                ["package.json", ".npmrc", ".yarnrc", ".yarnrc.yml", "bunfig.toml", ".pnpmfile.cjs"];
            let mut files: Vec<String> =
                optional.iter().filter(|file| view.has(file)).map(|file| (*file).to_owned()).collect();
            files.extend(self.lock.map(str::to_owned));
            recipe.copy("", &files, "./");
            if self.manager == Manager::YarnBerry && view.has_folder(".yarn") {
                recipe.copy("", &[".yarn".to_owned()], "./.yarn/");
            }
        }
        let install = self.manager.install(self.lock.is_some(), production);
        let install = match self.manager {
            // The store is a cache mount: linking out of it would leave the image without its files.
            Manager::Pnpm => {
                format!("{install} --store-dir {} --package-import-method copy", self.manager.cache().1)
            }
            _ => install,
        };
        // A registry's token in .npmrc, or an install script that looks at its environment.
        let tokens = view.read(".npmrc").is_some_and(|text| text.contains("${"));
        let secrets = tokens || needs_sources(view, package);
        recipe.run(&install, Step { cache: Some(self.manager.cache()), secrets });
    }
}

/// Installing wants more than the manifest: packages of a workspace, or scripts that read sources.
fn needs_sources(view: &View<'_>, package: &Package) -> bool {
    let scripts = ["preinstall", "install", "postinstall", "prepare"];
    !package.workspaces.is_null()
        || view.has("pnpm-workspace.yaml")
        || scripts.iter().any(|script| package.script(script).is_some())
        || package
            .dependencies
            .values()
            .chain(package.dev_dependencies.values())
            .any(|version| version.as_str().is_some_and(|v| v.starts_with("file:") || v.starts_with("link:")))
}

/// The line of Node.js: .nvmrc and .node-version before engines, because they name one and not a range.
fn version(
    view: &View<'_>,
    package: &Package,
    evidence: &mut Vec<Evidence>,
    warnings: &mut Vec<String>,
) -> u32 {
    for file in [".nvmrc", ".node-version"] {
        let Some(text) = view.read(file) else { continue };
        let wish = text.trim().trim_start_matches('v').to_owned();
        let chosen = match wish.as_str() {
            "lts/*" | "lts" | "node" | "latest" => Some(DEFAULT_VERSION),
            "lts/iron" => Some(20),
            "lts/jod" => Some(22),
            "lts/krypton" => Some(24),
            wish => leading_number(wish).filter(|major| VERSIONS.contains(major)),
        };
        return settle_version(chosen, file, &wish, evidence, warnings);
    }
    let Some(range) = package.engines.get("node").and_then(serde_json::Value::as_str) else {
        return DEFAULT_VERSION;
    };
    let preferred = [DEFAULT_VERSION, 24, 20];
    let chosen = preferred.into_iter().find(|major| range_allows(range, *major));
    settle_version(chosen, "package.json", range, evidence, warnings)
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
        Some(major) => {
            evidence.push(Evidence::new(file, format!("asks for Node.js {wish}: {major} is used")));
            major
        }
        None => {
            warnings.push(format!(
                "{file} asks for Node.js {wish}, which has no base image here: {DEFAULT_VERSION} is used. \
                 A Dockerfile can choose another."
            ));
            DEFAULT_VERSION
        }
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Whether some version of the line `major` is in the range, looking at major numbers only.
fn range_allows(range: &str, major: u32) -> bool {
    range.split("||").any(|choice| {
        // `>= 18` is one condition, though written as two words.
        let mut text = choice.trim().to_owned();
        for operator in [">=", "<=", ">", "<", "^", "~", "="] {
            text = text.replace(&format!("{operator} "), operator);
        }
        if let Some((low, high)) = text.split_once(" - ") {
            let bound = |text: &str| leading_number(text.trim().trim_start_matches('v'));
            return bound(low).is_none_or(|low| major >= low) && bound(high).is_none_or(|high| major <= high);
        }
        text.split_whitespace().all(|condition| condition_allows(condition, major))
    })
}

fn condition_allows(condition: &str, major: u32) -> bool {
    let number_at = condition.find(|c: char| c.is_ascii_digit());
    let Some(at) = number_at else { return matches!(condition, "*" | "x" | "X" | "latest") };
    let (operator, version) = condition.split_at(at);
    let Some(wanted) = leading_number(version) else { return false };
    // `<23.5` still allows some of 23; `<23` and `<23.0.0` do not.
    let rest: Vec<&str> = version.split('.').skip(1).collect();
    let begins = rest.iter().all(|part| matches!(*part, "0" | "x" | "*"));
    match operator.trim_end_matches('v') {
        ">=" => major >= wanted,
        ">" => major > wanted || (major == wanted && !rest.is_empty()),
        "<=" => major <= wanted,
        "<" => major < wanted || (major == wanted && !begins),
        _ => major == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_judged_by_their_major_numbers() {
        for (range, allowed) in [
            (">=18", &[20, 22, 24][..]),
            (">= 18.0.0 <23", &[20, 22]),
            ("^20.1.0", &[20]),
            ("22.x", &[22]),
            ("18 || 20", &[20]),
            ("*", &[20, 22, 24]),
            ("18 - 22", &[20, 22]),
            ("~24.1", &[24]),
            ("v22", &[22]),
            ("<22.5", &[20, 22]),
            (">22", &[24]),
            ("18", &[]),
            ("", &[20, 22, 24]),
            ("nonsense", &[]),
        ] {
            let found: Vec<u32> =
                VERSIONS.iter().copied().filter(|major| range_allows(range, *major)).collect();
            assert_eq!(found, allowed, "{range}");
        }
    }
}
