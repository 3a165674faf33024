//! Whether `tool_search` finds the tool that a person means.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::json;

use super::session::Session;

/// What somebody says, and the tools that it may mean.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// The words.
    pub utterance: String,
    /// Any of these is right.
    pub tools: Vec<String>,
}

/// How well they were found.
#[derive(Debug, Clone, Default)]
pub struct Score {
    /// How many were asked.
    pub asked: usize,
    /// How many had a right tool in the first place.
    pub first: usize,
    /// How many had one in the first three.
    pub third: usize,
    /// The others: what was said, what was meant, what was found.
    pub missed: Vec<String>,
}

impl Score {
    /// Share with a right tool in the first place.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn hit_at_1(&self) -> f64 {
        self.first as f64 / self.asked.max(1) as f64
    }

    /// Share with a right tool in the first three.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn hit_at_3(&self) -> f64 {
        self.third as f64 / self.asked.max(1) as f64
    }
}

/// Reads `retrieval/queries.jsonl`.
///
/// # Errors
/// When it is not valid.
pub fn queries(root: &Path) -> Result<Vec<Query>> {
    let file = root.join("retrieval/queries.jsonl");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    lines.map(|(n, l)| serde_json::from_str(l).with_context(|| format!("line {}: {l}", n + 1))).collect()
}

/// Asks for each.
///
/// # Errors
/// When the daemon does not answer.
pub async fn score(session: &mut Session, queries: &[Query]) -> Result<Score> {
    let mut score = Score { asked: queries.len(), ..Score::default() };
    for query in queries {
        let found = session.call("tool_search", json!({ "query": query.utterance, "limit": 3 })).await?;
        let names: Vec<String> = found.structured["tools"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|t| t["name"].as_str().map(str::to_owned))
            .collect();
        let right = |name: &String| query.tools.contains(name);
        score.first += usize::from(names.first().is_some_and(right));
        match names.iter().any(right) {
            true => score.third += 1,
            false => {
                score.missed.push(format!(
                    "{:?} means {}: {}",
                    query.utterance,
                    query.tools.join(" or "),
                    names.join(", ")
                ));
            }
        }
        if names.iter().any(right) && !names.first().is_some_and(right) {
            score.missed.push(format!(
                "(second) {:?} means {}: {}",
                query.utterance,
                query.tools.join(" or "),
                names.join(", ")
            ));
        }
    }
    Ok(score)
}
