//! `berth config`: the configuration as it is, with the origin of every value.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{Config, layers::Resolved, setting::SETTINGS};

/// As lines of TOML with the origin as a comment: what is printed can be saved as a file.
#[must_use]
pub fn text(config: &Config) -> String {
    let lines: Vec<(String, String)> = SETTINGS
        .iter()
        .filter_map(|s| Some((s, config.resolved.get(s.key)?)))
        .map(|(s, r)| {
            let value = shown(s.secret, r);
            let line = match s.kind {
                _ if value.is_empty() => format!("# {} is not set", s.key),
                super::setting::Kind::Number { .. } | super::setting::Kind::Switch => {
                    format!("{} = {value}", s.key)
                }
                super::setting::Kind::List => {
                    let items: Vec<&str> = value.split(',').map(str::trim).collect();
                    format!("{} = {}", s.key, json!(items))
                }
                _ => format!("{} = {}", s.key, json!(value)),
            };
            (line, r.origin.to_string())
        })
        .collect();
    let width = lines.iter().map(|(l, _)| l.chars().count()).max().unwrap_or_default();
    lines.iter().fold(String::new(), |mut out, (line, origin)| {
        let _ = writeln!(out, "{line:width$}  # {origin}");
        out
    })
}

/// As an object: key → value and origin.
#[must_use]
pub fn json(config: &Config) -> Value {
    let mut out = Map::new();
    for s in SETTINGS {
        if let Some(r) = config.resolved.get(s.key) {
            out.insert(s.key.into(), json!({ "value": shown(s.secret, r), "origin": r.origin.to_string() }));
        }
    }
    Value::Object(out)
}

/// The value, without its password if it is a secret.
fn shown(secret: bool, resolved: &Resolved) -> String {
    let value = &resolved.value;
    if !secret || value.is_empty() {
        return value.clone();
    }
    // A database URL says more than its password; the rest is worth seeing.
    match (value.split_once("://"), value.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        _ => "***".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Origin;

    #[test]
    fn passwords_are_masked() {
        let r = |v: &str| Resolved { value: v.into(), origin: Origin::Default };
        assert_eq!(shown(true, &r("postgres://berth:s3cret@db/berth")), "postgres://***@db/berth");
        assert_eq!(shown(true, &r("s3cret")), "***");
    }
}
