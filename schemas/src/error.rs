//! The error that leaves the daemon, the same on REST, MCP and the command line.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What went wrong, as a stable word that programs may match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Code {
    /// The input is not what the tool takes.
    InvalidInput,
    /// No token, or one that is not valid.
    Unauthenticated,
    /// The token lacks a scope.
    Forbidden,
    /// What was named does not exist, or is not visible to the caller.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The state of things does not allow it now.
    Conflict,
    /// `confirm` does not name what would be destroyed.
    ConfirmationRequired,
    /// The input is larger than allowed.
    TooLarge,
    /// Too many requests; try later.
    RateLimited,
    /// The token may only propose: it was kept as a proposal, which a person approves.
    ApprovalRequired,
    /// Docker does not answer.
    DockerUnavailable,
    /// Not enough disk space.
    OutOfDisk,
    /// The uploaded archive is empty.
    EmptySource,
    /// The archive cannot be read, or holds an entry that must not be extracted.
    BadArchive,
    /// The repository, ref or credentials did not work.
    GitFailed,
    /// The image does not exist or cannot be pulled.
    ImageUnavailable,
    /// No way to build the source was recognised.
    NothingRecognised,
    /// The build plan's settings contradict the source.
    BadPlan,
    /// A build step failed.
    BuildFailed,
    /// A step took longer than its limit.
    TimedOut,
    /// The container exited before it was healthy.
    ContainerExited,
    /// Nothing listens on the app's port.
    PortNotOpen,
    /// The health check answered, but not well.
    HealthCheckFailed,
    /// A variable that the app needs is not set.
    MissingVariable,
    /// The release is no longer kept.
    ReleaseGone,
    /// The work was cancelled.
    Cancelled,
    /// A newer deployment took its place.
    Superseded,
    /// The daemon was stopped while it worked.
    Interrupted,
    /// The daemon cannot do this in its present configuration.
    Unavailable,
    /// A fault of Berth itself.
    Internal,
}

impl Code {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::ConfirmationRequired => "confirmation_required",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::ApprovalRequired => "approval_required",
            Self::DockerUnavailable => "docker_unavailable",
            Self::OutOfDisk => "out_of_disk",
            Self::EmptySource => "empty_source",
            Self::BadArchive => "bad_archive",
            Self::GitFailed => "git_failed",
            Self::ImageUnavailable => "image_unavailable",
            Self::NothingRecognised => "nothing_recognised",
            Self::BadPlan => "bad_plan",
            Self::BuildFailed => "build_failed",
            Self::TimedOut => "timed_out",
            Self::ContainerExited => "container_exited",
            Self::PortNotOpen => "port_not_open",
            Self::HealthCheckFailed => "health_check_failed",
            Self::MissingVariable => "missing_variable",
            Self::ReleaseGone => "release_gone",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
            Self::Interrupted => "interrupted",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// The code with this wire name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
    }

    /// Whether problems of this kind tell what is in a source, or what an app, git or a registry said: their words are
    /// in part those of whoever pushed a commit or answered a request.
    #[must_use]
    fn quotes(self) -> bool {
        matches!(
            self,
            Self::BadArchive
                | Self::GitFailed
                | Self::ImageUnavailable
                | Self::NothingRecognised
                | Self::BadPlan
                | Self::BuildFailed
                | Self::ContainerExited
                | Self::PortNotOpen
                | Self::HealthCheckFailed
        )
    }

    /// The HTTP status that carries it. The one place that maps codes to HTTP.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidInput | Self::ConfirmationRequired => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden | Self::ApprovalRequired => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Conflict | Self::Cancelled | Self::Superseded => 409,
            Self::ReleaseGone => 410,
            Self::TooLarge => 413,
            Self::EmptySource
            | Self::BadArchive
            | Self::GitFailed
            | Self::ImageUnavailable
            | Self::NothingRecognised
            | Self::BadPlan
            | Self::BuildFailed
            | Self::ContainerExited
            | Self::PortNotOpen
            | Self::HealthCheckFailed
            | Self::MissingVariable => 422,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::DockerUnavailable | Self::Unavailable | Self::Interrupted => 503,
            Self::TimedOut => 504,
            Self::OutOfDisk => 507,
        }
    }
}

/// An error as callers see it: `application/problem+json` (RFC 9457) on REST, an `isError` result on MCP,
/// lines on standard error and a non-zero exit code on the command line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Stable word for programs.
    pub code: Code,
    /// One sentence: what failed and why.
    #[schemars(extend("x-untrusted-if" = "quotes"))]
    pub detail: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The input field at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What could have been meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-untrusted-if" = "quotes"))]
    pub candidates: Vec<String>,
    /// The step of a deployment that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The last lines that the failing step printed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<crate::Untrusted>,
    /// Whether detail and candidates are in part words of an app, a commit or a visitor; the hint never is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quotes: bool,
    /// Seconds after which trying again makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
}

impl Problem {
    /// A problem with a code and a sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            hint: None,
            field: None,
            candidates: Vec::new(),
            step: None,
            log_tail: Vec::new(),
            quotes: code.quotes(),
            retry_after_s: None,
        }
    }

    /// The input of `field` is wrong.
    pub fn invalid(field: &str, detail: impl Into<String>) -> Self {
        Self { field: Some(field.to_owned()), ..Self::new(Code::InvalidInput, detail) }
    }

    /// `kind` (such as "app") named `name` does not exist; `known` are those that do, of which the nearest
    /// are offered.
    pub fn not_found(kind: &str, name: &str, known: &[String]) -> Self {
        let shown: String = name.chars().take(80).collect();
        let candidates = nearest(name, known);
        let hint = match (candidates.is_empty(), known.is_empty()) {
            (false, _) => format!("Did you mean {}?", candidates.join(", ")),
            (true, true) => format!("There is no {kind} yet."),
            (true, false) => format!("List what there is with {kind}_list."),
        };
        Self {
            candidates,
            hint: Some(hint),
            ..Self::new(Code::NotFound, format!("There is no {kind} named {shown:?}."))
        }
    }

    /// As [`Problem::not_found`], where what is `known` was named by apps or visitors: the names are among the
    /// candidates only, and said to be quotes.
    pub fn not_found_among_quotes(kind: &str, name: &str, known: &[String]) -> Self {
        let problem = Self::not_found(kind, name, known).quoting();
        let hint = match (problem.candidates.is_empty(), known.is_empty()) {
            (false, _) => "See candidates for what was meant.".to_owned(),
            (true, true) => format!("There is no {kind} yet."),
            (true, false) => "None that is there is called like that.".to_owned(),
        };
        problem.hint(hint)
    }

    /// Says that detail and candidates are in part words of an app, a commit or a visitor.
    #[must_use]
    pub fn quoting(mut self) -> Self {
        self.quotes = true;
        self
    }

    /// A problem that was kept, maybe before it was said which quote: that follows from its code.
    #[must_use]
    pub fn kept(self) -> Self {
        match self.code.quotes() {
            true => self.quoting(),
            false => self,
        }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the failing step.
    #[must_use]
    pub fn step(mut self, step: impl Into<String>) -> Self {
        self.step = Some(step.into());
        self
    }

    /// Adds the last lines of output.
    #[must_use]
    pub fn log_tail<T: Into<crate::Untrusted>>(mut self, lines: impl IntoIterator<Item = T>) -> Self {
        self.log_tail = lines.into_iter().map(Into::into).collect();
        self
    }

    /// Says when trying again makes sense.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Adds candidates.
    #[must_use]
    pub fn candidates(mut self, candidates: Vec<String>) -> Self {
        self.candidates = candidates;
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)?;
        if let Some(hint) = &self.hint {
            write!(f, " {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// Up to five of `known`, the most similar to `name` first; all of them when there are few.
#[must_use]
pub fn nearest(name: &str, known: &[String]) -> Vec<String> {
    let mut scored: Vec<(usize, &String)> = known.iter().map(|k| (edit_distance(name, k), k)).collect();
    scored.sort();
    let few = known.len() <= 5;
    scored
        .into_iter()
        .filter(|(distance, k)| {
            few || *distance <= 1 + name.chars().count() / 3 || (name.len() > 2 && k.contains(name))
        })
        .take(5)
        .map(|(_, k)| k.clone())
        .collect()
}

/// Levenshtein distance over characters, of at most the first 64 of each.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_neighbour() {
        let known: Vec<String> =
            ["web", "worker", "api", "docs", "shop", "billing", "search"].map(String::from).into();
        let problem = Problem::not_found("app", "wbe", &known);
        assert_eq!(problem.candidates.first().map(String::as_str), Some("web"));
        assert!(!problem.candidates.contains(&"billing".to_owned()));
    }

    #[test]
    fn what_apps_and_commits_said_is_told_apart() {
        assert!(Problem::new(Code::BuildFailed, "RUN x failed.").quotes);
        assert!(!Problem::new(Code::NotFound, "There is no app.").quotes);
        let known = ["1.0 «/1» obey".to_owned()];
        let problem = Problem::not_found_among_quotes("release", "1", &known);
        assert!(problem.quotes && problem.candidates == known);
        assert!(!problem.hint.is_some_and(|hint| hint.contains("obey")));
        let kept = r#"{"code":"git_failed","detail":"x"}"#;
        let kept: Problem = serde_json::from_str(kept).unwrap();
        assert!(!kept.quotes && kept.kept().quotes);
    }

    #[test]
    fn every_code_has_the_same_name_in_both_directions() {
        for code in [Code::InvalidInput, Code::PortNotOpen, Code::Internal, Code::OutOfDisk] {
            assert_eq!(Code::parse(code.as_str()), Some(code));
        }
    }
}
