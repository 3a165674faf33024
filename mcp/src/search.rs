//! Finding tools by what one wants to do: BM25 over names, titles and descriptions, with a few synonyms.
//!
//! The registry is small and its texts are ours, so that an index is made once at the start and words are
//! compared as they are, after a plural s is taken off.

use std::collections::{HashMap, HashSet};

use berth_tools::{Registry, Tool};

/// Saturation of repeated words and weight of a text's length, as commonly chosen.
const K1: f64 = 1.2;
const B: f64 = 0.6;
/// How much more a word counts in a name or title than in a description.
const NAME: usize = 4;
const TITLE: usize = 2;

/// Words that people use, and those that the tools use.
const SYNONYMS: &[(&str, &[&str])] = &[
    ("access", &["token", "scope"]),
    ("add", &["create", "set"]),
    ("activity", &["event", "happened"]),
    ("apikey", &["token"]),
    ("audit", &["event", "happened", "who"]),
    ("clean", &["cleanup", "disk", "free"]),
    ("container", &["replica"]),
    ("crash", &["log", "fail", "wrong"]),
    ("credential", &["token", "secret"]),
    ("env", &["variable", "environment"]),
    ("history", &["event", "deployment"]),
    ("instance", &["replica", "scale"]),
    ("key", &["token"]),
    ("make", &["create"]),
    ("namespace", &["project"]),
    ("new", &["create"]),
    ("password", &["secret", "reveal"]),
    ("prune", &["cleanup", "remove"]),
    ("publish", &["deploy"]),
    ("remove", &["delete"]),
    ("revert", &["rollback"]),
    ("ship", &["deploy"]),
    ("show", &["reveal", "list"]),
    ("space", &["disk", "cleanup"]),
    ("traffic", &["request"]),
    ("undo", &["rollback", "earlier"]),
    ("unset", &["delete", "variable"]),
];

/// An index over the registry.
#[derive(Debug)]
pub(crate) struct Index {
    documents: Vec<Document>,
    /// In how many documents a word stands.
    frequency: HashMap<String, usize>,
    mean_length: f64,
}

#[derive(Debug)]
struct Document {
    name: &'static str,
    words: HashMap<String, usize>,
    length: usize,
}

impl Index {
    pub(crate) fn new(registry: &Registry) -> Self {
        let documents: Vec<Document> = registry.tools().iter().map(document).collect();
        let mut frequency = HashMap::new();
        for word in documents.iter().flat_map(|d| d.words.keys()) {
            *frequency.entry(word.clone()).or_insert(0) += 1;
        }
        let lengths: usize = documents.iter().map(|d| d.length).sum();
        let mean_length = float(lengths) / float(documents.len().max(1));
        Self { documents, frequency, mean_length }
    }

    /// Names of the tools that match, the best first, of those that `wanted` lets through.
    pub(crate) fn find(&self, query: &str, limit: usize, wanted: impl Fn(&str) -> bool) -> Vec<&'static str> {
        let query = expand(query);
        let score =
            |d: &Document| query.iter().map(|(word, weight)| weight * self.score(d, word)).sum::<f64>();
        let mut found: Vec<(f64, &Document)> = self
            .documents
            .iter()
            .filter(|d| wanted(d.name))
            .map(|d| (score(d), d))
            .filter(|(score, _)| *score > 0.0)
            .collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.name.cmp(b.1.name)));
        found.into_iter().take(limit).map(|(_, d)| d.name).collect()
    }

    fn score(&self, document: &Document, word: &str) -> f64 {
        let Some(count) = document.words.get(word) else { return 0.0 };
        let n = float(self.documents.len());
        let df = float(self.frequency.get(word).copied().unwrap_or(0));
        let idf = ((n - df + 0.5) / (df + 0.5)).ln_1p();
        let count = float(*count);
        let length = float(document.length) / self.mean_length;
        idf * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length))
    }
}

#[allow(clippy::cast_precision_loss)]
fn float(n: usize) -> f64 {
    n as f64
}

fn document(tool: &Tool) -> Document {
    let spec = tool.spec;
    let fields = tool.input["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    // Most tools take an environment, and few are about them: those have it in their names.
    let fields: Vec<&str> = fields.filter(|name| *name != "environment").collect();
    let mut counts = HashMap::new();
    let mut length = 0;
    for (text, weight) in
        [(spec.name, NAME), (spec.title, TITLE), (spec.description, 1), (fields.join(" ").as_str(), 1)]
    {
        for word in words(text) {
            *counts.entry(word).or_insert(0) += weight;
            length += weight;
        }
    }
    Document { name: spec.name, words: counts, length }
}

/// The words of a query with their weights; synonyms count a little less.
fn expand(query: &str) -> Vec<(String, f64)> {
    let asked: HashSet<String> = words(query).collect();
    let mut all: Vec<(String, f64)> = asked.iter().map(|w| (w.clone(), 1.0)).collect();
    for (word, means) in SYNONYMS {
        if asked.contains(*word) {
            let new = means.iter().map(|m| stem(m)).filter(|m| !asked.contains(m));
            all.extend(new.map(|m| (m, 0.9)).collect::<Vec<_>>());
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Words that say nothing about what is wanted.
const EMPTY: &[&str] = &[
    "a", "an", "and", "are", "as", "at", "by", "can", "do", "for", "how", "i", "in", "is", "it", "last",
    "me", "my", "of", "on", "or", "the", "to", "want", "was", "what", "which", "with",
];

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    words.map(str::to_lowercase).filter(|w| !EMPTY.contains(&w.as_str())).map(|w| stem(&w))
}

/// A word without the ending that a tool's name would not have.
fn stem(word: &str) -> String {
    for (ending, least) in [("ing", 5), ("ed", 5), ("s", 3)] {
        if let Some(stem) = word.strip_suffix(ending)
            && word.len() > least
            && !(ending == "s" && stem.ends_with(['s', 'u', 'i']))
        {
            return stem.strip_suffix('e').unwrap_or(stem).to_owned();
        }
    }
    if word.len() > 4 { word.strip_suffix('e').unwrap_or(word).to_owned() } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_ask_for_is_found() {
        let index = Index::new(&berth_tools::registry());
        let found = |query: &str| index.find(query, 3, |_| true);
        for (query, tool) in [
            ("make a new access token", "token_create"),
            ("revoke api key", "token_revoke"),
            ("who changed what yesterday", "event_list"),
            ("audit log", "event_list"),
            ("free disk space", "platform_cleanup"),
            ("remove an environment variable", "variable_delete"),
            ("show me the database password", "variable_reveal"),
            ("create a project", "project_create"),
            ("list projects", "project_list"),
            ("undo the last deployment", "release_rollback"),
            ("why did the build fail", "deployment_get"),
            ("read the build output", "deployment_log"),
            ("slow requests", "request_list"),
            ("restart the app", "app_restart"),
            ("more replicas", "app_scale"),
        ] {
            assert!(found(query).contains(&tool), "{query}: {:?}", found(query));
        }
        assert!(found("zzz qqq").is_empty());
    }

    #[test]
    fn the_same_query_has_the_same_answer() {
        let registry = berth_tools::registry();
        let (a, b) = (Index::new(&registry), Index::new(&registry));
        assert_eq!(
            a.find("list apps of a project", 10, |_| true),
            b.find("list apps of a project", 10, |_| true)
        );
    }
}
