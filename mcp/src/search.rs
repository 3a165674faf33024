//! Finding tools by what one wants to do: BM25 over names, titles and descriptions, with a few synonyms.
//!
//! The registry is small and its texts are ours, so that an index is made once at the start and words are
//! compared as they are, without their endings. What is in a name counts by how rare it is among names.

use std::collections::{HashMap, HashSet};

use berth_tools::{Registry, Tool};

/// Saturation of repeated words and weight of a text's length, as commonly chosen.
const K1: f64 = 1.2;
const B: f64 = 0.5;
/// How much more a word counts in a title than in a description, and in a name.
const TITLE: usize = 2;
const NAME: f64 = 0.6;
/// How much more a tool counts whose name is said in full.
const WHOLE_NAME: f64 = 0.3;
/// How much a word counts that only means what was said.
const MEANT: f64 = 0.7;

/// How much more a tool counts that reads where something is asked, or changes something where something is ordered.
const KIND: f64 = 1.2;

/// Words with which questions begin.
const ASKING: &[&str] = &[
    "are", "can", "did", "do", "does", "explain", "find", "how", "is", "list", "look", "read", "search",
    "see", "show", "was", "were", "what", "when", "where", "which", "who", "why",
];

/// Inputs that many tools take and few are about; those have them in their names.
const COMMON: &[&str] =
    &["environment", "limit", "cursor", "wait_s", "idempotency_key", "dry_run", "confirm"];

/// Words that people use, and those that the tools use.
const SYNONYMS: &[(&str, &[&str])] = &[
    ("404", &["status", "request"]),
    ("500", &["status", "request"]),
    ("5xx", &["status", "request"]),
    ("abort", &["cancel"]),
    ("access", &["token", "scope"]),
    ("activity", &["event", "happened"]),
    ("add", &["create", "set"]),
    ("all", &["list"]),
    ("allowed", &["grant"]),
    ("apikey", &["token"]),
    ("approval", &["proposal"]),
    ("approve", &["proposal"]),
    ("assistant", &["audit", "grant"]),
    ("audit", &["event", "happened", "who"]),
    ("call", &["audit"]),
    ("canary", &["rollout", "trial"]),
    ("change", &["set", "update"]),
    ("clean", &["cleanup", "disk", "free"]),
    ("commit", &["push"]),
    ("container", &["replica", "scale"]),
    ("crash", &["log", "fail", "wrong"]),
    ("credential", &["token", "secret", "provider"]),
    ("discord", &["channel"]),
    ("dotenv", &["env", "import", "export"]),
    ("env", &["variable", "environment"]),
    ("every", &["list"]),
    ("exception", &["error"]),
    ("exist", &["list"]),
    ("finish", &["promote", "end"]),
    ("fix", &["resolve"]),
    ("fixed", &["resolve"]),
    ("full", &["cleanup", "disk"]),
    ("github", &["repository"]),
    ("gitlab", &["repository"]),
    ("gradual", &["rollout", "part"]),
    ("group", &["project"]),
    ("health", &["status", "well"]),
    ("healthy", &["status", "well"]),
    ("history", &["event", "list"]),
    ("hold", &["pause", "wait"]),
    ("hook", &["webhook"]),
    ("host", &["domain"]),
    ("instance", &["replica", "scale"]),
    ("key", &["token"]),
    ("leak", &["revoke", "rotate"]),
    ("leaked", &["revoke", "rotate"]),
    ("live", &["deployment", "state"]),
    ("machine", &["platform"]),
    ("mail", &["channel"]),
    ("make", &["create"]),
    ("mute", &["ignore"]),
    ("namespace", &["project"]),
    ("new", &["create"]),
    ("notification", &["channel", "alert"]),
    ("notify", &["alert", "channel"]),
    ("oauth", &["grant"]),
    ("offline", &["stop"]),
    ("password", &["secret", "reveal"]),
    ("previous", &["earlier", "rollback"]),
    ("print", &["log"]),
    ("proposed", &["proposal"]),
    ("prune", &["cleanup", "remove"]),
    ("publish", &["deploy"]),
    ("reboot", &["restart"]),
    ("register", &["create"]),
    ("remove", &["delete"]),
    ("revert", &["rollback"]),
    ("running", &["state", "get"]),
    ("server", &["platform"]),
    ("settings", &["update"]),
    ("share", &["percent", "part"]),
    ("ship", &["deploy"]),
    ("show", &["get", "list"]),
    ("shut", &["stop"]),
    ("slack", &["channel"]),
    ("smtp", &["channel"]),
    ("space", &["disk", "cleanup"]),
    ("stack", &["event"]),
    ("staging", &["environment"]),
    ("stranger", &["fork"]),
    ("throw", &["delete"]),
    ("traffic", &["request"]),
    ("typeerror", &["error"]),
    ("undo", &["rollback", "earlier", "restore"]),
    ("unset", &["delete", "variable"]),
    ("update", &["upgrade"]),
    ("value", &["variable", "reveal"]),
    ("version", &["release"]),
    ("visitor", &["request"]),
    ("warn", &["alert"]),
    ("warned", &["alert"]),
    ("warning", &["alert"]),
    ("which", &["list"]),
    ("who", &["event"]),
    ("why", &["get", "problem"]),
];

/// An index over the registry.
#[derive(Debug)]
pub(crate) struct Index {
    documents: Vec<Document>,
    /// In how many documents a word stands.
    frequency: HashMap<String, usize>,
    /// In how many names: a word that all texts have, such as app, tells tools apart where it is the name.
    in_names: HashMap<String, usize>,
    mean_length: f64,
}

#[derive(Debug)]
struct Document {
    name: &'static str,
    name_words: HashSet<String>,
    words: HashMap<String, usize>,
    length: usize,
    reads: bool,
}

impl Index {
    pub(crate) fn new(registry: &Registry) -> Self {
        let documents: Vec<Document> = registry.tools().iter().map(document).collect();
        let mut frequency = HashMap::new();
        let mut in_names = HashMap::new();
        for document in &documents {
            document.words.keys().for_each(|w| *frequency.entry(w.clone()).or_insert(0) += 1);
            document.name_words.iter().for_each(|w| *in_names.entry(w.clone()).or_insert(0) += 1);
        }
        let lengths: usize = documents.iter().map(|d| d.length).sum();
        let mean_length = float(lengths) / float(documents.len().max(1));
        Self { documents, frequency, in_names, mean_length }
    }

    /// Names of the tools that match, the best first, of those that `wanted` lets through.
    pub(crate) fn find(&self, query: &str, limit: usize, wanted: impl Fn(&str) -> bool) -> Vec<&'static str> {
        let asks = split(query).next().is_some_and(|first| ASKING.contains(&first.as_str()));
        let query = expand(query);
        let kind = |d: &Document| if d.reads == asks { KIND } else { 1.0 };
        let mut found: Vec<(f64, &Document)> = self
            .documents
            .iter()
            .filter(|d| wanted(d.name))
            .map(|d| (self.score(d, &query) * kind(d), d))
            .filter(|(score, _)| *score > 0.0)
            .collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.name.cmp(b.1.name)));
        found.into_iter().take(limit).map(|(_, d)| d.name).collect()
    }

    fn score(&self, document: &Document, query: &[(String, f64)]) -> f64 {
        let (mut score, mut named) = (0.0, 0.0);
        for (word, weight) in query {
            score += weight * self.in_text(document, word);
            if document.name_words.contains(word) {
                score += weight * NAME * self.rarity(&self.in_names, word);
                named += weight;
            }
        }
        let said = named / float(document.name_words.len().max(1));
        score * (1.0 + WHOLE_NAME * said * said)
    }

    fn in_text(&self, document: &Document, word: &str) -> f64 {
        let Some(count) = document.words.get(word) else { return 0.0 };
        let count = float(*count);
        let length = float(document.length) / self.mean_length;
        self.rarity(&self.frequency, word) * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length))
    }

    fn rarity(&self, among: &HashMap<String, usize>, word: &str) -> f64 {
        let n = float(self.documents.len());
        let df = float(among.get(word).copied().unwrap_or(0));
        ((n - df + 0.5) / (df + 0.5)).ln_1p()
    }
}

#[allow(clippy::cast_precision_loss)]
fn float(n: usize) -> f64 {
    n as f64
}

fn document(tool: &Tool) -> Document {
    let spec = tool.spec;
    let fields = tool.input["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let fields: Vec<&str> = fields.filter(|name| !COMMON.contains(name)).collect();
    let mut counts = HashMap::new();
    let mut length = 0;
    for (text, weight) in [(spec.title, TITLE), (spec.description, 1), (fields.join(" ").as_str(), 1)] {
        for word in words(text) {
            *counts.entry(word).or_insert(0) += weight;
            length += weight;
        }
    }
    Document {
        name: spec.name,
        name_words: words(spec.name).collect(),
        words: counts,
        length,
        reads: spec.hints.read_only,
    }
}

/// The words of a query with their weights; those that are only meant count a little less.
fn expand(query: &str) -> Vec<(String, f64)> {
    let asked: HashSet<String> = words(query).collect();
    let said: HashSet<String> = split(query).map(|w| stem(&w)).collect();
    let mut all: HashMap<String, f64> = asked.iter().map(|w| (w.clone(), 1.0)).collect();
    for (_, means) in SYNONYMS.iter().filter(|(word, _)| said.contains(&stem(word))) {
        for word in means.iter().map(|m| stem(m)) {
            all.entry(word).or_insert(MEANT);
        }
    }
    let mut all: Vec<(String, f64)> = all.into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Words that say nothing about what is wanted.
const EMPTY: &[&str] = &[
    "a", "again", "all", "am", "an", "and", "anything", "are", "as", "at", "be", "been", "but", "by", "can",
    "could", "did", "do", "does", "every", "exactly", "for", "from", "had", "has", "have", "here", "his",
    "how", "i", "if", "in", "into", "is", "it", "its", "last", "let", "many", "may", "me", "must", "my",
    "no", "not", "of", "on", "one", "only", "or", "other", "our", "out", "over", "people", "please", "show",
    "so", "some", "somebody", "than", "that", "the", "their", "them", "then", "there", "these", "they",
    "this", "those", "to", "too", "up", "us", "want", "was", "we", "were", "what", "when", "where", "will",
    "with", "without", "would", "yet", "you", "your",
];

fn split(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase)
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    split(text).filter(|w| !EMPTY.contains(&w.as_str())).map(|w| stem(&w))
}

/// A word without the ending that a tool's name would not have.
fn stem(word: &str) -> String {
    for (ending, least) in [("ment", 7), ("ing", 5), ("ed", 5), ("s", 3)] {
        let Some(stem) = word.strip_suffix(ending).filter(|_| word.len() > least) else { continue };
        if ending == "s" && stem.ends_with(['s', 'u', 'i']) {
            continue;
        }
        let stem = if matches!(ending, "ing" | "ed") { single(stem) } else { stem };
        return stem.strip_suffix('e').unwrap_or(stem).to_owned();
    }
    if word.len() > 4 { word.strip_suffix('e').unwrap_or(word).to_owned() } else { word.to_owned() }
}

/// Takes away the second of two equal consonants: stopped, running.
fn single(stem: &str) -> &str {
    let mut last = stem.chars().rev();
    match (last.next(), last.next()) {
        (Some(a), Some(b)) if a == b && stem.len() > 3 && !"aeiousl".contains(a) => {
            stem.strip_suffix(a).unwrap_or(stem)
        }
        _ => stem,
    }
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
