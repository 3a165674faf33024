//! The settings that detection obeys, and the check that makes them safe to use.

use berth_schemas::app::{AppSettings, Builder};

use super::error::PlanError;
use crate::source::TreePath;

/// The longest command a person may give, in bytes.
const MAX_COMMAND: usize = 4096;

/// What a person decided about a build, and what the daemon adds to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanSettings {
    /// Which kind of build; `auto` looks at the source.
    pub builder: Builder,
    /// Folder of the source that holds the app.
    pub root: Option<String>,
    /// The Dockerfile, relative to the root.
    pub dockerfile: Option<String>,
    /// Runs after dependencies are installed, in the image of a generated Dockerfile.
    pub build_command: Option<String>,
    /// Starts the app, in the image of a generated Dockerfile.
    pub start_command: Option<String>,
    /// Folder with finished files, relative to the root.
    pub output_directory: Option<String>,
    /// The port that the app listens on.
    pub port: Option<u16>,
    /// Names of variables that the build may read, given as BuildKit secrets.
    pub build_secrets: Vec<String>,
    /// Keeps the caches of apps apart: lower-case letters, digits and `-`, as in an app's UUID.
    pub cache_scope: String,
}

impl PlanSettings {
    /// The part of an app's settings that is about building.
    pub fn from_app(app: &AppSettings, cache_scope: &str, build_secrets: Vec<String>) -> Self {
        Self {
            builder: app.builder.unwrap_or_default(),
            root: app.root_directory.clone(),
            dockerfile: app.dockerfile.clone(),
            build_command: app.build_command.clone(),
            start_command: app.start_command.clone(),
            output_directory: app.output_directory.clone(),
            port: app.port,
            build_secrets,
            cache_scope: cache_scope.to_owned(),
        }
    }

    /// The same with clean paths and without empty values.
    pub(super) fn checked(&self) -> Result<Self, PlanError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.cache_scope.len() > 64 || !self.cache_scope.chars().all(plain) {
            return Err(bad("cache_scope", &self.cache_scope, "use lower-case letters, digits and \"-\""));
        }
        if self.port == Some(0) {
            return Err(bad("port", "0", "use a number from 1 to 65535"));
        }
        if let Some(name) = self.build_secrets.iter().find(|name| !is_variable(name)) {
            return Err(bad("build_secrets", name, "use the name of a variable"));
        }
        Ok(Self {
            builder: self.builder,
            root: path("root_directory", self.root.as_deref())?.filter(|root| !root.is_empty()),
            dockerfile: path("dockerfile", self.dockerfile.as_deref())?.filter(|path| !path.is_empty()),
            build_command: command("build_command", self.build_command.as_deref())?,
            start_command: command("start_command", self.start_command.as_deref())?,
            output_directory: path("output_directory", self.output_directory.as_deref())?,
            port: self.port,
            build_secrets: self.build_secrets.clone(),
            cache_scope: self.cache_scope.clone(),
        })
    }
}

fn bad(setting: &'static str, given: &str, why: &'static str) -> PlanError {
    PlanError::BadSetting { setting, given: given.chars().take(80).collect(), why }
}

/// A name that a shell and BuildKit both take for a variable.
fn is_variable(name: &str) -> bool {
    let mut letters = name.chars();
    let first = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && name.len() <= 128 && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `.`, `./` and `/` are the root itself: an empty path.
fn path(setting: &'static str, given: Option<&str>) -> Result<Option<String>, PlanError> {
    let Some(given) = given.map(str::trim).filter(|given| !given.is_empty()) else { return Ok(None) };
    if matches!(given, "." | "./" | "/") {
        return Ok(Some(String::new()));
    }
    match TreePath::parse(given.as_bytes()) {
        Ok(path) => Ok(Some(path.to_string())),
        Err(_) => Err(bad(setting, given, "use a path inside the source, as web or apps/web")),
    }
}

fn command(setting: &'static str, given: Option<&str>) -> Result<Option<String>, PlanError> {
    let Some(given) = given.map(str::trim).filter(|given| !given.is_empty()) else { return Ok(None) };
    if given.len() > MAX_COMMAND || given.chars().any(char::is_control) {
        return Err(bad(setting, given, "use one line of at most 4096 bytes"));
    }
    Ok(Some(given.to_owned()))
}
