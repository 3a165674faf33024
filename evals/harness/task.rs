//! A task: what is asked, in which world, what it may cost, how it is done, and how one sees that it was done.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::verify::Verify;

/// What a task tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Find something out.
    Read,
    /// Change something, and nothing else.
    Change,
    /// Find out what is wrong and put it right.
    Recover,
    /// Something that must not or cannot be done: say so.
    Refuse,
    /// Many steps.
    Long,
    /// What strangers wrote tries to give orders.
    Injection,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Change, Self::Recover, Self::Refuse, Self::Long, Self::Injection];
}

/// What a task may cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Calls.
    pub calls: usize,
    /// Tokens of calls and answers, without the list of tools.
    pub tokens: u64,
}

/// A call that nobody may make here.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unsafe {
    /// The tool.
    pub tool: String,
    /// With these arguments among others.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    /// Why not.
    pub why: String,
}

impl Unsafe {
    /// Whether a call is this one. What only asks what would happen, or was asked to confirm, is not; what the
    /// token did not allow is: it was tried.
    #[must_use]
    pub fn is(&self, done: &super::session::Done) -> bool {
        let matches = |(name, value): (&String, &Value)| done.arguments.get(name) == Some(value);
        let asked = done.is_dry() || done.error.as_deref() == Some("confirmation_required");
        done.tool == self.tool && !asked && self.arguments.iter().all(matches)
    }
}

/// `task.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    kind: Kind,
    world: String,
    prompt: String,
    #[serde(default)]
    policy: Option<String>,
    #[serde(default = "most_scopes")]
    scopes: Vec<String>,
    #[serde(default)]
    projects: Vec<String>,
    budget: Budget,
    #[serde(default, rename = "unsafe")]
    unsafe_: Vec<Unsafe>,
}

/// What an assistant's token has as a rule: everything but secrets in clear and administration.
fn most_scopes() -> Vec<String> {
    ["read", "deploy", "write"].map(String::from).into()
}

/// One line of `oracle.jsonl`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Line {
    /// A call.
    Call(Call),
    /// The last line.
    Answer {
        /// What is said in the end.
        answer: String,
    },
}

/// A call of the oracle.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The tool.
    pub tool: String,
    /// Its input; `{{2/deployment}}` stands for what the second call answered there.
    #[serde(default)]
    pub arguments: Value,
    /// The code with which it must be refused; otherwise it must succeed.
    #[serde(default)]
    pub refused: Option<String>,
}

/// A task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Name of its folder.
    pub id: String,
    /// In a few words.
    pub title: String,
    /// What it tries.
    pub kind: Kind,
    /// Where it happens.
    pub world: String,
    /// What the agent is told.
    pub prompt: String,
    /// Rules of the house, told before it.
    pub policy: Option<String>,
    /// Scopes of the agent's token.
    pub scopes: Vec<String>,
    /// Projects of the agent's token; none means all.
    pub projects: Vec<String>,
    /// What it may cost.
    pub budget: Budget,
    /// What must not be called.
    pub unsafe_calls: Vec<Unsafe>,
    /// How it is done.
    pub oracle: Vec<Call>,
    /// What is said in the end.
    pub answer: String,
    /// How one sees that it was done.
    pub verify: Verify,
}

impl Task {
    /// Reads the task in a folder.
    ///
    /// # Errors
    /// When a file is missing or not valid.
    pub fn read(root: &Path, folder: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let file: File = toml::from_str(&text("task.toml")?)?;
        let verify: Verify = toml::from_str(&text("verify.toml")?).context("in verify.toml")?;
        let (oracle, answer) = oracle(&text("oracle.jsonl")?).context("in oracle.jsonl")?;
        let policy = file.policy.map(|name| {
            let path = root.join("policies").join(format!("{name}.md"));
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        });
        let id = folder.file_name().and_then(|n| n.to_str()).context("a folder's name")?.to_owned();
        verify.check().context("in verify.toml")?;
        Ok(Self {
            id,
            title: file.title,
            kind: file.kind,
            world: file.world,
            prompt: file.prompt.trim().to_owned(),
            policy: policy.transpose()?,
            scopes: file.scopes,
            projects: file.projects,
            budget: file.budget,
            unsafe_calls: file.unsafe_,
            oracle,
            answer,
            verify,
        })
    }

    /// Reads all tasks below `root`, by name.
    ///
    /// # Errors
    /// When one is not valid.
    pub fn all(root: &Path) -> Result<Vec<Self>> {
        let mut folders: Vec<PathBuf> = fs::read_dir(root.join("tasks"))
            .context("reading the tasks")?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .filter(|path| path.is_dir())
            .collect();
        folders.sort();
        let read =
            |folder: &PathBuf| Self::read(root, folder).with_context(|| format!("{}", folder.display()));
        folders.iter().map(read).collect()
    }

    /// The task of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(root: &Path, id: &str) -> Result<Self> {
        let tasks = Self::all(root)?;
        match tasks.iter().find(|t| t.id == id) {
            Some(task) => Ok(task.clone()),
            None => {
                let known: Vec<&str> = tasks.iter().map(|t| t.id.as_str()).collect();
                bail!("there is no task {id:?}; there are: {}", known.join(", "))
            }
        }
    }

    /// What an agent is told: the rules of the house, if there are, and the task.
    #[must_use]
    pub fn brief(&self) -> String {
        match &self.policy {
            Some(policy) => format!("{}\n\n{}", policy.trim(), self.prompt),
            None => self.prompt.clone(),
        }
    }
}

fn oracle(text: &str) -> Result<(Vec<Call>, String)> {
    let mut calls = Vec::new();
    let mut answer = None;
    for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        ensure!(answer.is_none(), "line {}: the answer must be the last", number + 1);
        match serde_json::from_str(line).with_context(|| format!("line {}: {line}", number + 1))? {
            Line::Call(call) => calls.push(call),
            Line::Answer { answer: said } => answer = Some(said),
        }
    }
    Ok((calls, answer.context("the last line must be the answer")?))
}

/// Puts what earlier calls answered in the places of `{{N/path}}`.
///
/// # Errors
/// When there is no such call or place.
pub fn fill(value: &Value, answers: &[Value]) -> Result<Value> {
    Ok(match value {
        Value::String(text) => filled(text, answers)?,
        Value::Array(items) => items.iter().map(|v| fill(v, answers)).collect::<Result<_>>()?,
        Value::Object(map) => {
            let pairs = map.iter().map(|(k, v)| Ok((k.clone(), fill(v, answers)?)));
            Value::Object(pairs.collect::<Result<_>>()?)
        }
        other => other.clone(),
    })
}

fn filled(text: &str, answers: &[Value]) -> Result<Value> {
    let look = |place: &str| -> Result<Value> {
        let (number, path) = place.split_once('/').unwrap_or((place, ""));
        let index = number.parse::<usize>().with_context(|| format!("{place:?} names no call"))?;
        let answer = index.checked_sub(1).and_then(|i| answers.get(i));
        let answer = answer.with_context(|| format!("there is no call {index} before"))?;
        super::path::at(answer, path).with_context(|| format!("nothing is at {place:?}: {answer}"))
    };
    // A place that is the whole text keeps its type.
    if let Some(place) = text.strip_prefix("{{").and_then(|t| t.strip_suffix("}}"))
        && !place.contains("{{")
    {
        return look(place);
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (place, tail) = after.split_once("}}").context("a {{ without }}")?;
        out.push_str(before);
        out.push_str(&super::path::text(&look(place)?));
        rest = tail;
    }
    out.push_str(rest);
    Ok(Value::String(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_are_filled_with_their_type_or_as_text() {
        let answers = [json!({ "n": 3, "list": ["a", "b"] })];
        let filled =
            fill(&json!({ "x": "{{1/n}}", "y": "n={{1/n}}, b={{1/list/1}}", "z": "${HOME}" }), &answers);
        assert_eq!(filled.unwrap(), json!({ "x": 3, "y": "n=3, b=b", "z": "${HOME}" }));
        assert!(fill(&json!("{{2/n}}"), &answers).is_err());
        assert!(fill(&json!("{{1/m}}"), &answers).is_err());
    }

    #[test]
    fn the_answer_is_the_last_line() {
        let (calls, answer) = oracle("{\"tool\":\"app_list\"}\n{\"answer\":\"two\"}\n").unwrap();
        assert_eq!((calls.len(), answer.as_str()), (1, "two"));
        assert!(oracle("{\"tool\":\"app_list\"}\n").is_err());
        assert!(oracle("{\"answer\":\"two\"}\n{\"tool\":\"app_list\"}\n").is_err());
        assert!(oracle("{\"tol\":\"app_list\"}\n").is_err());
    }
}
