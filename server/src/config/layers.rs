//! Defaults < file < environment < flags: which value of a setting wins, and where it came from.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use berth_schemas::error::nearest;

use super::setting::{SETTINGS, Setting};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nothing set it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// A value with its origin. An empty text means unset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The value as text.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named by --config or BERTH_CONFIG cannot be read.
    #[error("cannot read the configuration file {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not valid TOML: {text}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        text: String,
    },
    /// The file has a key that is no setting.
    #[error("{path}: there is no setting {key:?}.{hint}", path = path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The nearest key, as a sentence, or nothing.
        hint: String,
    },
    /// A value is not what the setting takes.
    #[error("{key} (from {origin}) {text}")]
    BadValue {
        /// The setting.
        key: &'static str,
        /// Where the value came from.
        origin: Origin,
        /// What is wrong.
        text: String,
    },
    /// Two settings contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

/// What the layers are read from, so that tests need no process environment.
pub struct Sources<'a> {
    /// Values of flags, by key.
    pub flags: &'a BTreeMap<&'static str, String>,
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The file to read: given by the caller (and then it must exist), or found at its usual places.
    pub file: Option<PathBuf>,
}

/// Resolves every setting.
///
/// # Errors
/// When the file cannot be read, has an unknown key, or a value is not valid.
pub fn resolve(sources: &Sources<'_>) -> Result<BTreeMap<&'static str, Resolved>, ConfigError> {
    let file = match &sources.file {
        Some(path) => read_file(path)?,
        None => BTreeMap::new(),
    };
    let mut out = BTreeMap::new();
    for setting in SETTINGS {
        let resolved = if let Some(value) = sources.flags.get(setting.key) {
            Resolved { value: value.clone(), origin: Origin::Flag(setting.flag()) }
        } else if let Some(value) = (sources.env)(&setting.env()) {
            Resolved { value, origin: Origin::Environment(setting.env()) }
        } else if let Some(resolved) = file.get(setting.key) {
            resolved.clone()
        } else {
            Resolved { value: setting.default.to_owned(), origin: Origin::Default }
        };
        setting.check(&resolved.value).map_err(|text| ConfigError::BadValue {
            key: setting.key,
            origin: resolved.origin.clone(),
            text,
        })?;
        out.insert(setting.key, resolved);
    }
    Ok(out)
}

fn read_file(path: &Path) -> Result<BTreeMap<&'static str, Resolved>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| ConfigError::Syntax { path: path.to_owned(), text: e.to_string() })?;
    let mut out = BTreeMap::new();
    for (key, value) in &table {
        let setting = find(key).ok_or_else(|| unknown(path, key))?;
        let origin = Origin::File(path.to_owned());
        let value = setting.from_toml(value).map_err(|text| ConfigError::BadValue {
            key: setting.key,
            origin: origin.clone(),
            text,
        })?;
        out.insert(setting.key, Resolved { value, origin });
    }
    Ok(out)
}

fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.key == key)
}

fn unknown(path: &Path, key: &str) -> ConfigError {
    let known: Vec<String> = SETTINGS.iter().map(|s| s.key.to_owned()).collect();
    let hint = match nearest(key, &known).first() {
        Some(near) => format!(" Did you mean {near:?}?"),
        None => " `berth config` lists all settings.".into(),
    };
    ConfigError::UnknownKey { path: path.to_owned(), key: key.to_owned(), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("berth.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file_which_beats_the_default() {
        let (_dir, path) = written("base_domain = \"file\"\nconcurrent_builds = 5\nupload_max_mb = 9\n");
        let flags = BTreeMap::from([("base_domain", "flag".to_owned())]);
        let env = |name: &str| match name {
            "BERTH_BASE_DOMAIN" => Some("env".to_owned()),
            "BERTH_CONCURRENT_BUILDS" => Some("7".to_owned()),
            _ => None,
        };
        let got = resolve(&Sources { flags: &flags, env: &env, file: Some(path.clone()) }).unwrap();
        let show = |key: &str| format!("{} {}", got[key].value, got[key].origin);
        assert_eq!(show("base_domain"), "flag --base-domain");
        assert_eq!(show("concurrent_builds"), "7 $BERTH_CONCURRENT_BUILDS");
        assert_eq!(show("upload_max_mb"), format!("9 {}", path.display()));
        assert_eq!(show("http_addr"), "127.0.0.1:8080 default");
    }

    #[test]
    fn a_misspelt_key_names_its_neighbour() {
        let (_dir, path) = written("base_domian = \"x\"\n");
        let error =
            resolve(&Sources { flags: &BTreeMap::new(), env: &|_| None, file: Some(path) }).unwrap_err();
        assert!(error.to_string().contains("Did you mean \"base_domain\"?"), "{error}");
    }

    #[test]
    fn a_wrong_value_names_the_setting_and_its_origin() {
        let env = |name: &str| (name == "BERTH_HTTP_ADDR").then(|| "8080".to_owned());
        let error =
            resolve(&Sources { flags: &BTreeMap::new(), env: &env, file: None }).unwrap_err().to_string();
        assert!(error.contains("http_addr (from $BERTH_HTTP_ADDR)") && error.contains("IP:PORT"), "{error}");
    }
}
