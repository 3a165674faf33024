//! What app settings may say. The ranges in the published schemas are promises to callers; this is where they
//! are kept. Pure: text in, verdict out.

use berth_deploy::source::git::{GitUrl, Wanted};
use berth_schemas::{Problem, VariableName, app::AppSettings, error::nearest};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// Longest list of routes or required variables.
const MOST_ENTRIES: usize = 100;

/// Checks every setting that is there; the error names the field. With `allow_local`, git sources may be local.
pub(crate) fn check(settings: &AppSettings, allow_local: bool) -> Result<(), Problem> {
    let s = settings;
    text("git_url", s.git_url.as_deref(), |url| git_url(url, allow_local))?;
    text("git_ref", s.git_ref.as_deref(), git_ref)?;
    text("image", s.image.as_deref(), image)?;
    text("root_directory", s.root_directory.as_deref(), inner_path)?;
    text("dockerfile", s.dockerfile.as_deref(), inner_path)?;
    text("output_directory", s.output_directory.as_deref(), inner_path)?;
    text("build_command", s.build_command.as_deref(), command)?;
    text("start_command", s.start_command.as_deref(), command)?;
    text("health_path", s.health_path.as_deref(), url_path)?;
    text("on_demand_ask", s.on_demand_ask.as_deref(), url_path)?;
    range("on_demand_limit", s.on_demand_limit, 1, 10_000)?;
    range("port", s.port.map(u32::from), 1, 65_535)?;
    range("health_timeout_s", s.health_timeout_s, 1, 300)?;
    range("health_interval_s", s.health_interval_s, 1, 60)?;
    range("drain_timeout_s", s.drain_timeout_s, 0, 3600)?;
    range("watch_window_s", s.watch_window_s, 0, 3600)?;
    range("preview_limit", s.preview_limit, 1, 200)?;
    range("preview_ttl_hours", s.preview_ttl_hours, 0, 8760)?;
    range("preview_sleep_s", s.preview_sleep_s, 0, 604_800)?;
    range("error_rollback_percent", s.error_rollback_percent.map(u32::from), 0, 100)?;
    range("build_timeout_s", s.build_timeout_s, 10, 14_400)?;
    range("memory_mb", s.memory_mb, 16, 1_048_576)?;
    range("keep_releases", s.keep_releases, 0, 50)?;
    if let Some(cpus) = s.cpus
        && !(0.05..=256.0).contains(&cpus)
    {
        return Err(wrong("cpus", &format!("{cpus} is out of range; use 0.05 to 256")));
    }
    list("routes", s.routes.as_deref(), |r| route(r).map(|_| ()))?;
    list("required_variables", s.required_variables.as_deref(), |v| {
        v.parse::<VariableName>().map(|_| ()).map_err(|e| e.to_string())
    })
}

fn wrong(field: &str, why: &str) -> Problem {
    Problem::invalid(&format!("settings.{field}"), format!("settings.{field}: {why}."))
}

fn range(field: &str, value: Option<u32>, least: u32, most: u32) -> Result<(), Problem> {
    match value {
        Some(n) if !(least..=most).contains(&n) => {
            Err(wrong(field, &format!("{n} is out of range; use {least} to {most}")))
        }
        _ => Ok(()),
    }
}

fn text(field: &str, value: Option<&str>, rule: impl Fn(&str) -> Result<(), String>) -> Result<(), Problem> {
    value.map_or(Ok(()), rule).map_err(|why| wrong(field, &why))
}

fn list(field: &str, values: Option<&[String]>, rule: fn(&str) -> Result<(), String>) -> Result<(), Problem> {
    let values = values.unwrap_or_default();
    if values.len() > MOST_ENTRIES {
        return Err(wrong(field, &format!("{} entries; at most {MOST_ENTRIES} are possible", values.len())));
    }
    for (i, value) in values.iter().enumerate() {
        rule(value).map_err(|why| wrong(field, &why))?;
        if values[..i].contains(value) {
            return Err(wrong(field, &format!("{value:?} is there twice")));
        }
    }
    Ok(())
}

/// Cuts what is shown of a wrong value.
fn shown(value: &str) -> String {
    format!("{:?}", value.chars().take(80).collect::<String>())
}

/// A git URL: https, ssh, or the scp-like form, and without a password.
pub(crate) fn git_url(url: &str, allow_local: bool) -> Result<(), String> {
    match GitUrl::parse(url, allow_local) {
        Err(why) => Err(why.to_string()),
        Ok((_, None)) => Ok(()),
        // Everybody who may read the app would read it there.
        Ok((_, Some(_))) => Err("it holds a password, which does not belong into a URL that is shown".into()),
    }
}

/// A branch, tag or commit.
pub(crate) fn git_ref(name: &str) -> Result<(), String> {
    Wanted::parse(Some(name)).map(|_| ()).map_err(|why| why.to_string())
}

/// An image reference.
pub(crate) fn image(reference: &str) -> Result<(), String> {
    let good = !reference.is_empty()
        && reference.len() <= 512
        && reference.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && reference.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/:@-".contains(&b));
    if good {
        Ok(())
    } else {
        Err(format!(
            "{} is no image reference; use name:tag, registry/name:tag or name@sha256:…",
            shown(reference)
        ))
    }
}

/// A relative path that stays inside the source.
pub(crate) fn inner_path(path: &str) -> Result<(), String> {
    let bad = path.is_empty()
        || path.len() > 512
        || path.starts_with('/')
        || path.contains('\\')
        || path.chars().any(char::is_control)
        || path.split('/').any(|part| part == "..");
    if bad {
        Err(format!("{} must be a relative path inside the source, without ..", shown(path)))
    } else {
        Ok(())
    }
}

fn command(line: &str) -> Result<(), String> {
    if line.trim().is_empty() || line.len() > 4096 || line.chars().any(char::is_control) {
        return Err("it must be one line of at most 4096 characters".into());
    }
    Ok(())
}

fn url_path(path: &str) -> Result<(), String> {
    let good = path.starts_with('/')
        && path.len() <= 1024
        && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if good { Ok(()) } else { Err(format!("{} must begin with / and hold no spaces", shown(path))) }
}

/// A route, split into its host in lower case and its path prefix.
pub(crate) fn route(route: &str) -> Result<(String, Option<&str>), String> {
    let help = || {
        format!(
            "{} is no route; use host or host/path-prefix, such as www.example.com or example.com/api",
            shown(route)
        )
    };
    let (host, path) = match route.find('/') {
        Some(at) => (&route[..at], Some(&route[at..])),
        None => (route, None),
    };
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.is_empty() || host.len() > 253 || !host.split('.').all(label) {
        return Err(help());
    }
    if let Some(path) = path
        && (url_path(path).is_err()
            || path.contains("//")
            || path.split('/').any(|p| p == ".." || p == ".")
            || path.contains(['?', '%']))
    {
        return Err(help());
    }
    Ok((host.to_ascii_lowercase(), path.filter(|p| *p != "/")))
}

/// What a change of settings comes to.
pub(crate) struct Changed {
    /// The settings afterwards.
    pub(crate) settings: AppSettings,
    /// The names of those that differ from before.
    pub(crate) names: Vec<String>,
}

/// `before` with the settings of `change` taken over and those in `unset` back at their default.
pub(crate) fn merge(
    before: &AppSettings,
    change: &AppSettings,
    unset: &[String],
) -> Result<Changed, Problem> {
    let settings = self::change(before, change, unset)?;
    let (old, new) = (as_map(before)?, as_map(&settings)?);
    let names = names::<AppSettings>().into_iter().filter(|n| old.get(n) != new.get(n)).collect();
    Ok(Changed { settings, names })
}

/// The same for any set of optional fields.
pub(crate) fn change<T: Serialize + DeserializeOwned + JsonSchema>(
    before: &T,
    change: &T,
    unset: &[String],
) -> Result<T, Problem> {
    let mut new = as_map(before)?;
    let change = as_map(change)?;
    let known = names::<T>();
    for name in unset {
        if !known.contains(name) {
            let shown: String = name.chars().take(60).collect();
            let candidates = nearest(&shown, &known);
            let problem = Problem::invalid("unset", format!("{shown:?} is no setting."));
            return Err(problem
                .hint(format!("The settings are {}.", known.join(", ")))
                .candidates(candidates));
        }
        if change.contains_key(name) {
            return Err(Problem::invalid("unset", format!("{name} is both to be set and in unset.")));
        }
        new.remove(name);
    }
    new.extend(change);
    serde_json::from_value(Value::Object(new)).map_err(|e| Problem::invalid("settings", e.to_string()))
}

fn as_map<T: Serialize>(settings: &T) -> Result<Map<String, Value>, Problem> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Ok(Map::new()),
        Err(e) => Err(Problem::invalid("settings", e.to_string())),
    }
}

/// The names of all fields, from their schema.
fn names<T: JsonSchema>() -> Vec<String> {
    let schema = schemars::schema_for!(T);
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.map(|p| p.keys().cloned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(settings: AppSettings) -> String {
        check(&settings, false).unwrap_err().field.unwrap()
    }

    #[test]
    fn each_range_is_kept_and_named() {
        let d = AppSettings::default;
        assert!(check(&d(), false).is_ok());
        assert_eq!(error(AppSettings { port: Some(0), ..d() }), "settings.port");
        assert_eq!(error(AppSettings { health_timeout_s: Some(301), ..d() }), "settings.health_timeout_s");
        assert_eq!(error(AppSettings { cpus: Some(f64::NAN), ..d() }), "settings.cpus");
        assert_eq!(error(AppSettings { memory_mb: Some(1), ..d() }), "settings.memory_mb");
        assert_eq!(
            error(AppSettings { root_directory: Some("a/../../b".into()), ..d() }),
            "settings.root_directory"
        );
        assert_eq!(
            error(AppSettings { dockerfile: Some("/etc/passwd".into()), ..d() }),
            "settings.dockerfile"
        );
        assert_eq!(error(AppSettings { health_path: Some("health".into()), ..d() }), "settings.health_path");
        assert_eq!(
            error(AppSettings { start_command: Some("a\nb".into()), ..d() }),
            "settings.start_command"
        );
        assert_eq!(
            error(AppSettings { required_variables: Some(vec!["1X".into()]), ..d() }),
            "settings.required_variables"
        );
    }

    #[test]
    fn routes_are_hosts_with_an_optional_path() {
        assert_eq!(route("Example.com"), Ok(("example.com".into(), None)));
        assert_eq!(route("example.com/api/v1"), Ok(("example.com".into(), Some("/api/v1"))));
        assert_eq!(route("example.com/"), Ok(("example.com".into(), None)));
        for bad in [
            "",
            "https://example.com",
            "example.com:80",
            "*.example.com",
            "a b",
            "-a.com",
            "a..b",
            "a.com/../x",
            "a.com/%2e%2e",
            "a.com//x",
            "a.com/x?y",
        ] {
            assert!(route(bad).is_err(), "{bad}");
        }
        let twice =
            AppSettings { routes: Some(vec!["a.com".into(), "a.com".into()]), ..AppSettings::default() };
        assert_eq!(error(twice), "settings.routes");
    }

    #[test]
    fn git_sources_cannot_be_options_files_or_carry_passwords() {
        for good in ["https://github.com/a/b.git", "ssh://git@host/a", "git@github.com:a/b.git"] {
            assert!(git_url(good, false).is_ok(), "{good}");
        }
        for bad in [
            "",
            "--upload-pack=x",
            "file:///etc",
            "ext::sh -c x",
            "https://",
            "https://u:p@h/x",
            "/srv/repo",
            "ssh://-oProxyCommand=x/y",
        ] {
            assert!(git_url(bad, false).is_err(), "{bad}");
        }
        assert!(git_ref("feature/x-1").is_ok());
        for bad in ["-x", "a..b", "a b", "HEAD@{1}", "a^"] {
            assert!(git_ref(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_change_touches_only_what_it_names() {
        let before = AppSettings { port: Some(80), memory_mb: Some(64), ..AppSettings::default() };
        let change = AppSettings { memory_mb: Some(128), ..AppSettings::default() };
        let changed = merge(&before, &change, &["port".into()]).unwrap_or_else(|p| panic!("{p}"));
        assert_eq!(changed.settings, AppSettings { memory_mb: Some(128), ..AppSettings::default() });
        assert_eq!(changed.names, ["memory_mb", "port"]);
        let problem = merge(&before, &change, &["prot".into()]).err().unwrap();
        assert_eq!(problem.candidates.first().map(String::as_str), Some("port"));
    }

    proptest! {
        #[test]
        fn rules_never_panic(text in "\\PC{0,60}") {
            let _ = (git_url(&text, false), git_ref(&text), image(&text), route(&text), inner_path(&text));
        }

        #[test]
        fn no_accepted_path_leaves_the_source(path in "[a./]{1,12}") {
            if inner_path(&path).is_ok() {
                prop_assert!(!std::path::Path::new(&path).is_absolute());
                prop_assert!(std::path::Path::new(&path).components().all(|c| c != std::path::Component::ParentDir));
            }
        }
    }
}
