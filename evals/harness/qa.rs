//! Questions and answers about a world, in the form that mcp-builder's evaluations have: `<qa_pair>` with `<question>` and
//! `<answer>`. Beside each stands how its answer follows from the world, so that a test can derive it anew.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{
    api::Api,
    path,
    task::{Budget, Call, Kind, Task, fill},
    verify::{Answer, Verify, Words},
};

/// A file of pairs.
#[derive(Debug, Clone, Deserialize)]
pub struct Evaluation {
    /// What they are about.
    #[serde(rename = "@world")]
    pub world: String,
    /// The pairs.
    #[serde(rename = "qa_pair")]
    pub pairs: Vec<Pair>,
}

/// A question and its answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Pair {
    /// What is asked.
    pub question: String,
    /// The one right answer, to be compared as text.
    pub answer: String,
    /// Calls that find it out.
    #[serde(rename = "call")]
    pub calls: Vec<Asked>,
    /// The answer made of what they answered: `{{1/live}}`.
    pub derived: String,
}

/// A call.
#[derive(Debug, Clone, Deserialize)]
pub struct Asked {
    /// The tool.
    #[serde(rename = "@tool")]
    pub tool: String,
    /// Its input as JSON.
    #[serde(rename = "$text", default)]
    pub arguments: String,
}

impl Evaluation {
    /// Reads all files below `root`, with their names.
    ///
    /// # Errors
    /// When one is not valid.
    pub fn all(root: &Path) -> Result<Vec<(String, Self)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(root.join("qa")).context("reading the questions")? {
            let file = entry?.path();
            if file.extension().is_none_or(|e| e != "xml") {
                continue;
            }
            let read = || -> Result<Self> { Ok(quick_xml::de::from_str(&fs::read_to_string(&file)?)?) };
            let name = file.file_stem().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            found.push((name, read().with_context(|| format!("in {}", file.display()))?));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// The pairs as tasks, so that agents can do them.
    ///
    /// # Errors
    /// When a call's input is no JSON.
    pub fn tasks(&self, name: &str) -> Result<Vec<Task>> {
        let pairs = self.pairs.iter().enumerate();
        pairs.map(|(index, pair)| pair.task(&self.world, &format!("qa-{name}-{}", index + 1))).collect()
    }
}

impl Pair {
    fn oracle(&self) -> Result<Vec<Call>> {
        self.calls
            .iter()
            .map(|call| {
                let arguments = match call.arguments.trim() {
                    "" => Value::Object(serde_json::Map::new()),
                    text => serde_json::from_str(text).with_context(|| format!("{text} is no JSON"))?,
                };
                Ok(Call { tool: call.tool.clone(), arguments, refused: None })
            })
            .collect()
    }

    fn task(&self, world: &str, id: &str) -> Result<Task> {
        let oracle = self.oracle()?;
        let says = vec![Words::One(self.answer.trim().to_owned())];
        Ok(Task {
            id: id.to_owned(),
            title: "A question".into(),
            kind: Kind::Read,
            world: world.to_owned(),
            prompt: format!(
                "{}\n\nGive the answer exactly, without other words around it.",
                self.question.trim()
            ),
            policy: None,
            scopes: vec!["read".into()],
            projects: Vec::new(),
            budget: Budget { calls: 6 + 4 * oracle.len(), tokens: 12_000 + 6_000 * oracle.len() as u64 },
            unsafe_calls: Vec::new(),
            oracle,
            answer: self.derived.trim().to_owned(),
            verify: Verify { answer: Answer { says, never: Vec::new() }, ..Verify::default() },
        })
    }

    /// Works the answer out.
    ///
    /// # Errors
    /// When a call is refused, or the answer does not follow.
    pub async fn derive(&self, api: &Api) -> Result<String> {
        let mut answers = Vec::new();
        for call in self.oracle()? {
            let reads = api.tools().get(&call.tool).is_some_and(|hints| hints.read_only);
            ensure!(reads, "{} does more than read", call.tool);
            answers.push(api.call(&call.tool, fill(&call.arguments, &answers)?).await?);
        }
        let derived = fill(&Value::String(self.derived.trim().to_owned()), &answers)?;
        Ok(path::text(&derived))
    }
}
