//! What to make of a source: detection with its evidence, and the Dockerfile that follows from it.
//!
//! Pure: a [`SourceTree`] and [`PlanSettings`] go in, a [`BuildPlan`] or a [`PlanError`] comes out. Settings win
//! over what is found; then the table of [`presets`] is asked from top to bottom. A new framework is a new value
//! in that table. Whatever a person typed reaches a generated Dockerfile only inside a JSON array
//! ([`recipe`]), so that no text can become an instruction.
//!
//! Not here: building, and anything that looks at a disk but [`tree::DirectoryTree`].

pub mod dockerfile;
mod error;
mod node;
pub mod presets;
mod python;
mod python_entry;
pub mod recipe;
mod settings;
mod statics;
pub mod tree;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use berth_schemas::app::Builder;
pub use error::PlanError;
pub use settings::PlanSettings;
pub use tree::{DirectoryTree, MemoryTree, SourceTree};

use presets::{Finding, PRESETS, Preset};
use tree::View;

/// The port that apps of generated Dockerfiles listen on, unless a setting says otherwise.
pub const DEFAULT_PORT: u16 = 8080;

/// How a source becomes a release. Stored with the deployment and shown to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BuildPlan {
    /// Which kind of build; never `auto`.
    pub builder: Builder,
    /// The preset that recognised the source, as `node` or `django`.
    pub preset: String,
    /// Folder of the source that everything else is relative to; empty for its top.
    pub root: String,
    /// Why, one fact each.
    pub evidence: Vec<Evidence>,
    /// What to build an image from; absent for static files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<DockerfileSource>,
    /// Folder with the finished files, below `root`, of a static release; empty for `root` itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub static_dir: Option<String>,
    /// The port that the app is expected on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_hint: Option<u16>,
    /// How dependencies are installed, as shown to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install_command: Option<String>,
    /// How it is built, as shown to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_command: Option<String>,
    /// How it is started, as shown to people. Absent when the image says so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_command: Option<String>,
    /// Build caches that the generated Dockerfile mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache_mounts: Vec<CacheMount>,
    /// Names of the BuildKit secrets that the generated Dockerfile mounts. If there are any, the build argument
    /// [`recipe::SECRETS_DIGEST_ARG`] should carry a keyed digest of their values, so that a changed value
    /// builds anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub build_secrets: Vec<String>,
    /// Patterns in the manner of `.dockerignore` to leave out of the build context, beyond the source's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context_excludes: Vec<String>,
    /// What will work but deserves to be known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl BuildPlan {
    /// A plan that holds nothing but where it comes from.
    fn new(builder: Builder, preset: &str, view: &View<'_>, evidence: Vec<Evidence>) -> Self {
        Self {
            builder,
            preset: preset.to_owned(),
            root: view.root().to_owned(),
            evidence,
            dockerfile: None,
            static_dir: None,
            port_hint: None,
            install_command: None,
            build_command: None,
            start_command: None,
            cache_mounts: Vec::new(),
            build_secrets: Vec::new(),
            context_excludes: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// One fact that a plan rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// The file, or the setting as `settings.builder`.
    pub path: String,
    /// What it says.
    pub why: String,
}

impl Evidence {
    pub(crate) fn new(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { path: path.into(), why: why.into() }
    }
}

/// Where a Dockerfile comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DockerfileSource {
    /// The source's own, by its path below `root`.
    InTree {
        /// The path.
        path: String,
    },
    /// A generated one.
    Generated {
        /// The whole text.
        text: String,
    },
}

/// A cache that outlives builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheMount {
    /// Its name for BuildKit; holds the app's scope, so that apps cannot poison each other's.
    pub id: String,
    /// Where it appears during the build.
    pub target: String,
}

/// Decides how to build a source.
///
/// # Errors
/// [`PlanError`], which says what was looked for, what is there, and what comes nearest.
pub fn detect(tree: &dyn SourceTree, settings: &PlanSettings) -> Result<BuildPlan, PlanError> {
    let settings = settings.checked()?;
    let view = View::new(tree, settings.root.as_deref().unwrap_or(""));
    if view.is_empty() {
        return Err(PlanError::missing("root_directory", view.root(), &folders(tree)));
    }
    let mut nearly = Vec::new();
    for preset in PRESETS.iter().filter(|preset| wanted(preset, &settings)) {
        match (preset.evidence)(&view, &settings)? {
            Finding::Nothing => {}
            Finding::Nearly(why) => nearly.push(why),
            Finding::Evidence(evidence) => return (preset.plan)(preset, &view, &settings, evidence),
        }
    }
    Err(nothing(tree, &view, &settings, nearly))
}

/// Without a wish every preset may answer; with one, those of that builder. A Dockerfile's path is a wish too.
fn wanted(preset: &Preset, settings: &PlanSettings) -> bool {
    match settings.builder {
        Builder::Auto if settings.dockerfile.is_some() => preset.builder == Builder::Dockerfile,
        Builder::Auto if settings.output_directory.is_some() && settings.start_command.is_none() => {
            preset.builder == Builder::Static
        }
        Builder::Auto => true,
        wish => preset.builder == wish,
    }
}

fn nothing(
    tree: &dyn SourceTree,
    view: &View<'_>,
    settings: &PlanSettings,
    nearly: Vec<String>,
) -> PlanError {
    let mut nearest = nearly;
    for folder in view.folders().into_iter().take(20) {
        let below = if view.root().is_empty() { folder.clone() } else { format!("{}/{folder}", view.root()) };
        let inner = View::new(tree, &below);
        let hit = PRESETS
            .iter()
            .filter(|preset| wanted(preset, settings))
            .find(|preset| matches!((preset.evidence)(&inner, settings), Ok(Finding::Evidence(_))));
        if let Some(preset) = hit {
            let name = preset.name;
            nearest.push(format!("{below}/ looks like a {name} app: set root_directory to {below:?}"));
        }
    }
    nearest.dedup();
    PlanError::NothingRecognised {
        root: view.root().to_owned(),
        looked_for: PRESETS
            .iter()
            .filter(|preset| wanted(preset, settings))
            .map(|preset| preset.looks_for.to_owned())
            .collect(),
        found: view.top_names().into_iter().take(30).collect(),
        nearest,
    }
}

fn folders(tree: &dyn SourceTree) -> Vec<String> {
    View::new(tree, "").folders()
}

#[cfg(test)]
mod tests;
