//! Slows down whoever destroys too much at once: a model that has gone astray, or somebody with a stolen token.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use berth_schemas::{Code, Problem, Timestamp};
use berth_store::model::Principal;
use serde_json::Value;

/// Time within which calls count, in microseconds.
const WINDOW: i64 = 60_000_000;
/// Tokens remembered at most before those that rest are forgotten.
const REMEMBERED: usize = 1000;

/// Counts calls that destroy, per token: a grant counts for the token that approved it.
#[derive(Debug)]
pub struct Brake {
    most: u32,
    calls: Mutex<HashMap<String, VecDeque<Timestamp>>>,
}

impl Brake {
    /// Lets through this many calls a minute.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self { most, calls: Mutex::default() }
    }

    /// Counts a call, or refuses it.
    pub(crate) fn admit(&self, tool: &str, who: &Principal, now: Timestamp) -> Result<(), Problem> {
        let name = who.name.split('/').next().unwrap_or_default();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |at: &Timestamp| at.0 > now.0 - WINDOW && at.0 <= now.0;
        if calls.len() >= REMEMBERED {
            calls.retain(|_, times| times.iter().any(fresh));
        }
        let times = calls.entry(name.to_owned()).or_default();
        times.retain(fresh);
        if times.len() < self.most as usize {
            times.push_back(now);
            return Ok(());
        }
        let oldest = times.front().map_or(now.0, |at| at.0);
        let seconds = u32::try_from((oldest + WINDOW - now.0) / 1_000_000 + 1).unwrap_or(60);
        let detail = format!(
            "{tool} destroys something, and the token {name:?} did so {} times within the last minute, which is the limit.",
            self.most
        );
        let hint = format!(
            "Wait {seconds} seconds. An admin raises the limit with the setting destructive_per_minute."
        );
        Err(Problem::new(Code::RateLimited, detail).hint(hint).retry_after(seconds))
    }
}

/// Whether a call of a destructive tool means it: it is no dry run, and is confirmed if it has to be.
pub(crate) fn means_it(schema: &Value, input: &Value) -> bool {
    let dry = input.get("dry_run") == Some(&Value::Bool(true))
        || (input.get("dry_run").is_none()
            && schema["properties"]["dry_run"]["default"] == Value::Bool(true));
    let wants = schema["properties"].get("confirm").is_some();
    !dry && (!wants || input.get("confirm").is_some())
}

#[cfg(test)]
mod tests {
    use berth_schemas::Scope;
    use berth_store::model::Visible;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_limit_is_per_token_and_ends_with_the_minute() {
        let brake = Brake::new(3);
        let who = |name: &str| Principal::new(name, vec![Scope::Write], Visible::All);
        let at = |s: i64| Timestamp(s * 1_000_000);
        for s in [100, 110, 120] {
            brake.admit("app_delete", &who("ci"), at(s)).unwrap();
        }
        let refused = brake.admit("app_delete", &who("ci/0123456789ab"), at(130)).unwrap_err();
        assert_eq!((refused.code, refused.retry_after_s), (Code::RateLimited, Some(31)));
        brake.admit("app_delete", &who("other"), at(130)).unwrap();
        assert!(brake.admit("app_delete", &who("ci"), at(159)).is_err());
        brake.admit("app_delete", &who("ci"), at(161)).unwrap();
        assert!(brake.admit("app_delete", &who("ci"), at(162)).is_err());
    }

    #[test]
    fn asking_what_would_happen_is_free() {
        let schema = json!({ "properties": { "confirm": {}, "dry_run": {} } });
        assert!(means_it(&schema, &json!({ "confirm": "x" })));
        assert!(!means_it(&schema, &json!({})));
        assert!(!means_it(&schema, &json!({ "confirm": "x", "dry_run": true })));
        assert!(means_it(&json!({ "properties": { "name": {} } }), &json!({})));
        let dry = json!({ "properties": { "confirm": {}, "dry_run": { "default": true } } });
        assert!(!means_it(&dry, &json!({ "confirm": "x" })));
    }
}
