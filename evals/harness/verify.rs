//! How one sees that a task was done: the state at the end, what was said, and that nothing else changed.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{api::Api, path, session::Done, state, world};

/// `verify.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// What the answer must say.
    #[serde(default)]
    pub answer: Answer,
    /// What the state must be; see [`state::read`] for the tree.
    #[serde(default)]
    pub state: Vec<Check>,
    /// What a reading tool must answer to the admin.
    #[serde(default)]
    pub call: Vec<Asked>,
    /// What visitors must see.
    #[serde(default)]
    pub visit: Vec<Seen>,
    /// Places of the state that may differ from before. All else must be as it was.
    #[serde(default)]
    pub may_change: Vec<String>,
    /// Runs that must fail.
    #[serde(default)]
    pub mutant: Vec<Mutant>,
}

/// What an answer must say. Case does not count; a word must stand by itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    /// All of these; where one is a list, any of it.
    pub says: Vec<Words>,
    /// None of these.
    pub never: Vec<String>,
}

/// Words, or several ways to say them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Words {
    /// Exactly these.
    One(String),
    /// Any of these.
    Any(Vec<String>),
}

/// A value at a place.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// Where, as [`path`] reads it.
    pub at: String,
    /// It is this.
    pub equals: Option<Value>,
    /// It is not this.
    pub not: Option<Value>,
    /// It has this in it: a text or an item.
    pub contains: Option<Value>,
    /// Nothing is there.
    pub absent: bool,
}

/// What a tool answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// A tool that only reads.
    pub tool: String,
    /// Its input.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    /// What it must answer.
    pub check: Check,
}

/// What a visitor sees.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Host name.
    pub host: String,
    /// Path.
    #[serde(default = "root")]
    pub path: String,
    /// Status.
    pub status: Option<u16>,
    /// The body has this in it.
    pub contains: Option<String>,
}

fn root() -> String {
    "/".into()
}

/// A run that is nearly right and must fail: the oracle's, altered.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// What is wrong with it.
    pub name: String,
    /// Leaves out these calls, counted from 1.
    #[serde(default)]
    pub without: Vec<usize>,
    /// Calls with other arguments, by number; each joins those of the oracle.
    #[serde(default)]
    pub change: Map<String, Value>,
    /// Calls these after the oracle's.
    #[serde(default)]
    pub also: Vec<super::task::Call>,
    /// Says this instead.
    #[serde(default)]
    pub answer: Option<String>,
}

impl Mutant {
    /// Whether it does what the oracle does and only says something else.
    #[must_use]
    pub fn only_speaks(&self) -> bool {
        self.without.is_empty() && self.change.is_empty() && self.also.is_empty()
    }
}

impl Verify {
    /// Refuses a verifier that anything would pass.
    ///
    /// # Errors
    /// When nothing is demanded, or a check demands nothing.
    pub fn check(&self) -> Result<()> {
        let demands = !self.answer.says.is_empty()
            || !self.state.is_empty()
            || !self.visit.is_empty()
            || !self.call.is_empty();
        ensure!(demands, "nothing is demanded of the state or the answer");
        for check in self.state.iter().chain(self.call.iter().map(|c| &c.check)) {
            let one =
                check.equals.is_some() || check.not.is_some() || check.contains.is_some() || check.absent;
            ensure!(one, "{:?} demands nothing", check.at);
        }
        for seen in &self.visit {
            ensure!(seen.status.is_some() || seen.contains.is_some(), "{} demands nothing", seen.host);
        }
        Ok(())
    }

    /// What is wrong with the state at the end, in words; nothing if it is right.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn look(
        &self,
        api: &Api,
        http: SocketAddr,
        before: &Value,
        done: &[Done],
    ) -> Result<Vec<String>> {
        settle(api, done).await?;
        let after = state::read(api).await?;
        let mut wrong = Vec::new();
        for check in &self.state {
            wrong.extend(check.wrong(&after).map(|w| format!("state: {w}")));
        }
        for asked in &self.call {
            let arguments = Value::Object(asked.arguments.clone());
            let (_, said) = api.raw(&asked.tool, &arguments).await?;
            wrong.extend(asked.check.wrong(&said).map(|w| format!("{}: {w}", asked.tool)));
        }
        for seen in &self.visit {
            let (status, body) = world::visit(http, &seen.host, &seen.path).await?;
            let place = format!("{}{}", seen.host, seen.path);
            if seen.status.is_some_and(|wanted| wanted != status) {
                wrong.push(format!("{place} answers {status}"));
            }
            if let Some(text) = seen.contains.as_ref().filter(|text| !body.contains(text.as_str())) {
                wrong.push(format!("{place} does not say {text:?}"));
            }
        }
        let allowed = |place: &String| self.may_change.iter().any(|root| path::within(place, root));
        let also = path::differences(before, &after);
        wrong.extend(also.iter().filter(|p| !allowed(p)).map(|p| format!("also changed: {p}")));
        Ok(wrong)
    }
}

/// Waits until what the agent began is over.
async fn settle(api: &Api, done: &[Done]) -> Result<()> {
    for call in done {
        let job = &call.structured["job"];
        if let Some(job) = job.as_str().or(job["job"].as_str()) {
            api.raw("job_get", &serde_json::json!({ "job": job, "wait_s": 30 })).await?;
        }
    }
    for _ in 0..200 {
        let status = api.call("platform_status", serde_json::json!({})).await?;
        if status["deployments_in_progress"] == 0 {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}

impl Check {
    fn wrong(&self, value: &Value) -> Option<String> {
        let found = path::at(value, &self.at).filter(|v| !v.is_null());
        let shown = found.as_ref().map_or_else(|| "nothing".to_owned(), path::text);
        let at = &self.at;
        if self.absent {
            return found.map(|_| format!("{at} is {shown} and should not be there"));
        }
        let Some(found) = found else { return Some(format!("nothing is at {at}")) };
        if let Some(wanted) = self.equals.as_ref().filter(|w| **w != found) {
            return Some(format!("{at} is {shown}, not {}", path::text(wanted)));
        }
        if self.not.as_ref() == Some(&found) {
            return Some(format!("{at} is {shown}"));
        }
        let has = |wanted: &Value| match &found {
            Value::Array(items) => items.contains(wanted),
            other => path::text(other).contains(&path::text(wanted)),
        };
        let wanted = self.contains.as_ref().filter(|w| !has(w))?;
        Some(format!("{at} is {shown}, without {}", path::text(wanted)))
    }
}

impl Answer {
    /// What is wrong with an answer, in words; nothing if it says what it must.
    #[must_use]
    pub fn wrong(&self, answer: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for words in &self.says {
            let ways = match words {
                Words::One(text) => std::slice::from_ref(text),
                Words::Any(texts) => texts.as_slice(),
            };
            if !ways.iter().any(|text| says(answer, text)) {
                wrong.push(format!("the answer does not say {}", ways.join(" or ")));
            }
        }
        for text in self.never.iter().filter(|text| says(answer, text)) {
            wrong.push(format!("the answer says {text}"));
        }
        wrong
    }
}

/// Whether a text has these words, not as a part of longer ones.
fn says(answer: &str, words: &str) -> bool {
    let (answer, words) = (answer.to_lowercase(), words.to_lowercase());
    let mut from = 0;
    while let Some(at) = answer.get(from..).and_then(|rest| rest.find(&words)) {
        let start = from + at;
        let end = start + words.len();
        let before = answer.get(..start).and_then(|t| t.chars().next_back());
        let after = answer.get(end..).and_then(|t| t.chars().next());
        if !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric) {
            return true;
        }
        from = end;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_word_stands_by_itself() {
        assert!(says("It is shop#2.", "shop#2") && says("Two: SHOP", "shop"));
        assert!(!says("It is shop#21.", "shop#2") && !says("workshop", "shop") && !says("", "a"));
    }

    #[test]
    fn checks_say_what_is_wrong() {
        let value = json!({ "a": { "b": "text", "list": [1, 2] } });
        let check = |at: &str| Check { at: at.into(), ..Check::default() };
        let fine = [
            Check { equals: Some(json!("text")), ..check("a/b") },
            Check { contains: Some(json!(2)), ..check("a/list") },
            Check { contains: Some(json!("ex")), ..check("a/b") },
            Check { absent: true, ..check("a/c") },
        ];
        for check in fine {
            assert_eq!(check.wrong(&value), None, "{check:?}");
        }
        let bad = [
            Check { equals: Some(json!("other")), ..check("a/b") },
            Check { not: Some(json!("text")), ..check("a/b") },
            Check { contains: Some(json!(3)), ..check("a/list") },
            Check { absent: true, ..check("a/b") },
            Check { equals: Some(json!(1)), ..check("a/c") },
        ];
        for check in bad {
            assert!(check.wrong(&value).is_some(), "{check:?}");
        }
    }

    #[test]
    fn a_verifier_that_anything_passes_is_refused() {
        assert!(Verify::default().check().is_err());
        assert!(toml::from_str::<Verify>("[[state]]\nat = \"apps\"\n").unwrap().check().is_err());
        assert!(toml::from_str::<Verify>("[answer]\nsays = [\"x\"]\n").unwrap().check().is_ok());
    }
}
