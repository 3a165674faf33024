//! `.berth.toml`: which app a folder is; written by `berth init`, read by `berth deploy`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use berth_schemas::AppSlug;
use clap::{Arg, ArgMatches, Command};
use serde::{Deserialize, Serialize};

use super::failure::Failure;

const FILE: &str = ".berth.toml";

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The app.
    pub app: AppSlug,
}

/// The command.
#[must_use]
pub fn command() -> Command {
    Command::new("init")
        .about("Write .berth.toml, which names the app of this folder")
        .arg(Arg::new("dir").value_name("DIR").default_value(".").help("The folder"))
        .arg(
            Arg::new("app")
                .long("app")
                .value_name("NAME")
                .help("Name of the app. Default: made from the folder's name"),
        )
}

/// Runs the command.
///
/// # Errors
/// When the name is not valid or the file cannot be written.
pub fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let dir = PathBuf::from(matches.get_one::<String>("dir").map_or(".", String::as_str));
    let file = dir.join(FILE);
    if let Some(there) = read(&dir)? {
        return Err(Failure::local(format!(
            "{} is there already and names the app {}",
            file.display(),
            there.app
        ))
        .hint("Edit or remove it to choose another name."));
    }
    let app = name(matches.get_one::<String>("app").map(String::as_str), &dir)?;
    let text = format!("# Which app of Berth this folder is; `berth deploy` reads it.\napp = \"{app}\"\n");
    std::fs::write(&file, text)
        .map_err(|e| Failure::local(format!("cannot write {}: {e}", file.display())))?;
    println!("Wrote {}: this folder is the app {app}. Next: berth deploy", file.display());
    Ok(ExitCode::SUCCESS)
}

fn read(dir: &Path) -> Result<Option<Manifest>, Failure> {
    let file = dir.join(FILE);
    match std::fs::read_to_string(&file) {
        Ok(text) => toml::from_str(&text)
            .map(Some)
            .map_err(|e| Failure::local(format!("{} is not valid: {}", file.display(), e.message()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::local(format!("cannot read {}: {e}", file.display()))),
    }
}

/// The app of a folder: as given, as its `.berth.toml` says, or made from the folder's name.
///
/// # Errors
/// When the given name is not valid, or none can be made.
pub fn app_of(given: Option<&str>, dir: &Path) -> Result<AppSlug, Failure> {
    match (given, read(dir)?) {
        (None, Some(manifest)) => Ok(manifest.app),
        (given, _) => name(given, dir),
    }
}

fn name(given: Option<&str>, dir: &Path) -> Result<AppSlug, Failure> {
    if let Some(given) = given {
        return given.parse().map_err(|e: berth_schemas::ids::InvalidName| Failure::usage(e.to_string()));
    }
    let folder =
        std::fs::canonicalize(dir).ok().and_then(|d| d.file_name().map(|n| n.to_string_lossy().into_owned()));
    folder
        .and_then(|f| sanitised(&f))
        .ok_or_else(|| Failure::usage("no app name can be made from the folder's name; give one with --app"))
}

/// The nearest valid app name to a folder's name.
fn sanitised(folder: &str) -> Option<AppSlug> {
    let mut name = String::new();
    for c in folder.to_lowercase().chars() {
        match c {
            'a'..='z' => name.push(c),
            '0'..='9' if !name.is_empty() => name.push(c),
            _ if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            _ => {}
        }
    }
    name.truncate(40);
    name.trim_end_matches('-').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_become_app_names() {
        for (folder, app) in [
            ("My App", Some("my-app")),
            ("2024_site.com", Some("site-com")),
            ("web", Some("web")),
            ("123", None),
            ("-", None),
        ] {
            assert_eq!(sanitised(folder).map(|a| a.to_string()).as_deref(), app, "{folder}");
        }
        assert!(sanitised(&"a".repeat(80)).is_some());
    }

    #[test]
    fn the_manifest_beats_the_folder_and_the_flag_beats_both() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "app = \"shop\"\n").unwrap();
        assert_eq!(app_of(None, dir.path()).unwrap().as_str(), "shop");
        assert_eq!(app_of(Some("other"), dir.path()).unwrap().as_str(), "other");
    }
}
