//! Errors of apps in a world: sent by its DSN, as an app would.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::api::Api;

/// Events of one cause that happen in an app.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    /// The app.
    pub errors: String,
    /// Type of the exception.
    pub kind: String,
    /// What it says; `{n}` stands for the event's number.
    pub value: String,
    /// Function that throws.
    pub function: String,
    /// Its file.
    pub file: String,
    /// The line of code.
    #[serde(default)]
    pub code: Option<String>,
    /// Release, as the client names it.
    pub release: String,
    /// How bad.
    #[serde(default = "error")]
    pub level: String,
    /// How often.
    #[serde(default = "once")]
    pub times: u32,
    /// How many users have it, in turn.
    #[serde(default = "once")]
    pub users: u32,
    /// How long ago.
    #[serde(default)]
    pub hours_ago: u32,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What happened before.
    #[serde(default)]
    pub crumbs: Vec<String>,
}

fn error() -> String {
    "error".into()
}

fn once() -> u32 {
    1
}

impl Errors {
    /// Sends them, and waits until they can be found.
    ///
    /// # Errors
    /// When one is not accepted or cannot be found.
    pub async fn happen(&self, api: &Api) -> Result<()> {
        let dsn = api.call("dsn_get", json!({ "app": self.errors })).await?;
        let (_, rest) = dsn["dsn"].as_str().and_then(|d| d.split_once("://")).context("a DSN")?;
        let (key, place) = rest.split_once('@').context("a DSN's key")?;
        let (host, id) = place.rsplit_once('/').context("a DSN's project")?;
        let url = format!("http://{host}/api/{id}/envelope/?sentry_key={key}");
        let http = reqwest::Client::builder().no_proxy().build()?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
        for n in 1..=self.times {
            let event = self.event(n, now - f64::from(self.hours_ago) * 3600.0);
            let body = format!("{{}}\n{{\"type\":\"event\"}}\n{event}\n");
            let status = http.post(&url).body(body).send().await?.status();
            ensure!(status.is_success(), "an error of {} was answered by {status}", self.errors);
        }
        let last = json!({ "query": format!("id:{}", self.id(self.times)) });
        for _ in 0..200 {
            if api.call("error_search", last.clone()).await?["total"] == 1 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("an error of {} cannot be found", self.errors)
    }

    /// The same in every copy of the world.
    fn id(&self, n: u32) -> String {
        let of = format!("{}/{}/{}/{}/{n}", self.errors, self.kind, self.value, self.release);
        hex::encode(Sha256::digest(of)).chars().take(32).collect()
    }

    fn event(&self, n: u32, at: f64) -> Value {
        let user = (n - 1) % self.users.max(1) + 1;
        json!({
            "event_id": self.id(n), "timestamp": at, "platform": "node", "level": self.level, "release": self.release,
            "user": { "id": format!("u{user}"), "email": format!("u{user}@shop.example") },
            "tags": self.tags,
            "breadcrumbs": self.crumbs.iter().map(|c| json!({ "timestamp": at, "category": "app", "message": c })).collect::<Vec<_>>(),
            "exception": { "values": [{
                "type": self.kind, "value": self.value.replace("{n}", &n.to_string()),
                "mechanism": { "type": "generic", "handled": false },
                "stacktrace": { "frames": [
                    { "filename": "src/main.ts", "function": "main", "lineno": 3, "in_app": true },
                    { "filename": self.file, "function": self.function, "lineno": 21, "in_app": true, "context_line": self.code },
                ] },
            }] },
        })
    }
}
