//! What a push leads to. Pure: facts in, decision out, with the reason in words.

use berth_schemas::{
    EnvironmentName,
    push::{GitChange, GitCommits, PushRules, PushWishes},
};

use berth_store::model::AppRow;

use super::patterns::Patterns;
use crate::previews::PreviewOf;
use crate::source::git::CommitSha;

/// Marks in a commit's message that ask not to deploy it, in lower case. Those of the large forges and CI services,
/// whose users write them by habit, and our own.
const SKIP_MARKS: [&str; 10] = [
    "[skip ci]",
    "[ci skip]",
    "[no ci]",
    "[skip deploy]",
    "[deploy skip]",
    "[no deploy]",
    "[skip actions]",
    "[actions skip]",
    "[skip berth]",
    "***no_ci***",
];
/// A trailer that asks for the same.
const SKIP_TRAILER: &str = "skip-checks: true";
/// The production branch of a repository of which nothing else is known.
const USUAL_BRANCHES: [&str; 2] = ["main", "master"];

/// What a decision is made of besides the app's settings.
pub(crate) struct Facts<'a> {
    /// What moved.
    pub(crate) change: &'a GitChange,
    /// Its commits.
    pub(crate) commits: &'a GitCommits,
    /// What the pusher asked for.
    pub(crate) wishes: &'a PushWishes,
    /// The repository's default branch, where it is known.
    pub(crate) default_branch: Option<&'a str>,
    /// The branch that production has, where somebody gave it one.
    pub(crate) production: Option<&'a str>,
    /// Which pushes to the app deploy.
    pub(crate) rules: &'a PushRules,
}

/// What a push leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Deploy this commit.
    Deploy {
        /// Where to.
        to: Target,
        /// The branch or tag.
        git_ref: String,
        /// The commit.
        commit: String,
        /// Which rule said so.
        because: String,
    },
    /// Remove the preview that it had.
    Remove(PreviewOf),
    /// Nothing, for this reason.
    Ignore(String),
}

/// Where a push is deployed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// The production environment.
    Production,
    /// The environment of this name.
    Named(EnvironmentName),
    /// Wherever this branch belongs: the environment that somebody gave it to, else its preview.
    Branch(String),
    /// The preview of this pull request.
    Pull {
        /// Its number.
        number: i64,
        /// It comes from another repository.
        fork: bool,
    },
}

/// Decides.
pub(crate) fn decide(facts: &Facts<'_>) -> Decision {
    let (git_ref, commit, to, because) = match facts.change {
        GitChange::Branch { branch, commit, .. } => {
            let production = production_branch(facts);
            let to = match production.as_deref() {
                Some(production) if production == branch => Target::Production,
                None if USUAL_BRANCHES.contains(&branch.as_str()) => Target::Production,
                _ => Target::Branch(branch.clone()),
            };
            (branch, commit, to, format!("the branch {branch} moved"))
        }
        GitChange::Tag { tag, commit } => match deploys_tag(facts.rules, tag) {
            Ok(true) => (tag, commit, Target::Production, format!("the tag {tag} fits deploy_tags")),
            Ok(false) if facts.wishes.force || facts.wishes.environment.is_some() => {
                (tag, commit, Target::Production, format!("the tag {tag} was asked for"))
            }
            Ok(false) => {
                return Decision::Ignore(format!(
                    "the tag {tag} fits none of the app's deploy_tags{}",
                    if facts.rules.deploy_tags.is_none() { ", of which it has none" } else { "" }
                ));
            }
            Err(why) => return Decision::Ignore(format!("the app's deploy_tags cannot be used: {why}")),
        },
        GitChange::TagDeleted { tag } => {
            return Decision::Ignore(format!("the tag {tag} was deleted; what it deployed stays"));
        }
        GitChange::BranchDeleted { branch } => {
            return Decision::Remove(PreviewOf::Branch(branch.clone()));
        }
        GitChange::Pull { number, branch, commit, fork, .. } => {
            let to = Target::Pull { number: *number, fork: *fork };
            (branch, commit, to, format!("pull request {number} has a new head"))
        }
        GitChange::PullClosed { number, .. } => return Decision::Remove(PreviewOf::Pull(*number)),
    };
    if let Some(why) = skip(facts) {
        return Decision::Ignore(why);
    }
    let (to, because) = match &facts.wishes.environment {
        Some(name) if *name == EnvironmentName::production() => {
            (Target::Production, "the pusher named it".into())
        }
        Some(name) => (Target::Named(name.clone()), "the pusher named it".into()),
        None => (to, because),
    };
    Decision::Deploy { to, git_ref: git_ref.clone(), commit: commit.clone(), because }
}

/// The branch that deploys to production, where it is known: configured, else the repository's default one.
fn production_branch(facts: &Facts<'_>) -> Option<String> {
    facts.production.or(facts.default_branch).map(str::to_owned)
}

/// The branch that somebody gave to production, by the environment or by the setting.
#[must_use]
pub fn configured_branch(app: &AppRow) -> Option<&str> {
    let set = app.settings.git_ref.as_deref().filter(|name| CommitSha::parse(name).is_err());
    let set = set.map(|name| name.strip_prefix("refs/heads/").unwrap_or(name));
    app.environment.branch.as_deref().or(set)
}

fn deploys_tag(rules: &PushRules, tag: &str) -> Result<bool, String> {
    match &rules.deploy_tags {
        Some(patterns) if !patterns.is_empty() => Ok(Patterns::of_names(patterns)?.take(tag)),
        _ => Ok(false),
    }
}

/// Why a commit is not to be deployed, if so.
fn skip(facts: &Facts<'_>) -> Option<String> {
    if facts.wishes.force {
        return None;
    }
    if facts.wishes.skip {
        return Some("the pusher asked to skip it".into());
    }
    if let Some(mark) = facts.commits.message.as_ref().and_then(|m| skip_mark(&m.0)) {
        return Some(format!("the commit's message says {mark}"));
    }
    let patterns = facts.rules.watch_paths.as_ref().filter(|p| !p.is_empty())?;
    // Where the paths are not known, a build too many harms less than a change that is lost.
    let paths = facts.commits.paths.as_ref()?;
    let watched = match Patterns::of_paths(patterns) {
        Ok(watched) => watched,
        Err(why) => {
            tracing::warn!(%why, "watch_paths cannot be used; deploying whatever the paths");
            return None;
        }
    };
    if paths.iter().any(|path| watched.take(path)) {
        return None;
    }
    Some(match paths.len() {
        0 => "it touches no file".into(),
        n => format!("none of the {n} paths that it touches is one of the app's watch_paths"),
    })
}

/// The mark in a commit's message by which it asks not to be deployed.
fn skip_mark(message: &str) -> Option<&'static str> {
    let message = message.to_ascii_lowercase();
    let trailer = || message.lines().rev().take(10).any(|line| line.trim() == SKIP_TRAILER);
    SKIP_MARKS.into_iter().find(|mark| message.contains(mark)).or_else(|| trailer().then_some(SKIP_TRAILER))
}

#[cfg(test)]
mod tests {
    use berth_schemas::Untrusted;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    struct Case {
        change: GitChange,
        commits: GitCommits,
        wishes: PushWishes,
        default_branch: Option<&'static str>,
        production: Option<&'static str>,
        rules: PushRules,
    }

    fn branch(name: &str) -> Case {
        Case {
            change: GitChange::Branch { branch: name.into(), before: None, commit: COMMIT.into() },
            commits: GitCommits::default(),
            wishes: PushWishes::default(),
            default_branch: None,
            production: None,
            rules: PushRules::default(),
        }
    }

    fn tag(name: &str, patterns: &[&str]) -> Case {
        let patterns = patterns.iter().map(|p| (*p).to_owned()).collect();
        Case {
            change: GitChange::Tag { tag: name.into(), commit: COMMIT.into() },
            rules: PushRules { deploy_tags: Some(patterns), ..PushRules::default() },
            ..branch("main")
        }
    }

    impl Case {
        fn message(self, message: &str) -> Self {
            let commits = GitCommits { message: Some(Untrusted(message.into())), ..self.commits };
            Self { commits, ..self }
        }

        fn paths(self, watch: &[&str], touched: &[&str]) -> Self {
            let own = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect();
            let commits = GitCommits { paths: Some(own(touched)), ..self.commits };
            let rules = PushRules { watch_paths: Some(own(watch)), ..self.rules };
            Self { commits, rules, ..self }
        }

        fn decide(&self) -> Decision {
            decide(&Facts {
                change: &self.change,
                commits: &self.commits,
                wishes: &self.wishes,
                default_branch: self.default_branch,
                production: self.production,
                rules: &self.rules,
            })
        }

        fn target(&self) -> Option<Target> {
            match self.decide() {
                Decision::Deploy { to, commit, .. } => {
                    assert_eq!(commit, COMMIT);
                    Some(to)
                }
                Decision::Ignore(_) | Decision::Remove(_) => None,
            }
        }
    }

    #[test]
    fn the_production_branch_is_configured_or_the_default_one_or_a_usual_one() {
        let production = Some(Target::Production);
        let other = |name: &str| Some(Target::Branch(name.into()));
        assert_eq!(branch("main").target(), production);
        assert_eq!(branch("master").target(), production);
        assert_eq!(branch("dev").target(), other("dev"));
        assert_eq!(Case { default_branch: Some("trunk"), ..branch("trunk") }.target(), production);
        assert_eq!(Case { default_branch: Some("trunk"), ..branch("main") }.target(), other("main"));
        let set = |name| {
            Case { production: Some("release"), default_branch: Some("trunk"), ..branch(name) }.target()
        };
        assert_eq!(set("release"), production);
        assert_eq!(set("trunk"), other("trunk"));
    }

    #[test]
    fn marks_in_the_message_skip_unless_it_is_forced() {
        for message in [
            "Fix [skip ci]",
            "[CI SKIP] fix",
            "fix\n\n[no deploy] because",
            "fix\n\nSkip-checks: true",
            "[Skip Berth]",
        ] {
            assert_eq!(branch("main").message(message).target(), None, "{message}");
            let wishes = PushWishes { force: true, ..PushWishes::default() };
            assert!(Case { wishes, ..branch("main").message(message) }.target().is_some());
        }
        for message in ["Explain skip ci", "skip-checks: true is a trailer", "", "[ skip ci ]"] {
            assert!(branch("main").message(message).target().is_some(), "{message}");
        }
        let wishes = PushWishes { skip: true, ..PushWishes::default() };
        assert_eq!(Case { wishes, ..branch("main") }.target(), None);
    }

    #[test]
    fn paths_filter_only_where_they_are_known() {
        assert!(branch("main").paths(&["/web/"], &["web/a.js", "docs/a"]).target().is_some());
        assert_eq!(branch("main").paths(&["/web/"], &["docs/a"]).target(), None);
        assert_eq!(branch("main").paths(&["!*.md"], &["read.md"]).target(), None);
        let unknown = branch("main").paths(&["/web/"], &[]);
        let unknown = Case { commits: GitCommits::default(), ..unknown };
        assert!(unknown.target().is_some());
    }

    #[test]
    fn tags_deploy_where_the_app_says_so() {
        assert_eq!(tag("v1", &["v*"]).target(), Some(Target::Production));
        assert_eq!(tag("v1-rc", &["v*", "!*-rc"]).target(), None);
        assert_eq!(tag("v1", &[]).target(), None);
    }

    #[test]
    fn the_pusher_may_name_the_environment() {
        let wishes = PushWishes { environment: "staging".parse().ok(), ..PushWishes::default() };
        let case = Case { wishes, ..branch("main") };
        assert_eq!(case.target(), Some(Target::Named("staging".parse().unwrap())));
    }

    #[test]
    fn a_pull_request_has_a_preview_until_it_is_closed() {
        let pull = GitChange::Pull {
            number: 7,
            branch: "idea".into(),
            base: "main".into(),
            commit: COMMIT.into(),
            fork: true,
            head_url: None,
            title: None,
        };
        let case = Case { change: pull, ..branch("main") };
        assert_eq!(case.target(), Some(Target::Pull { number: 7, fork: true }));
        assert_eq!(case.message("docs [skip ci]").target(), None);
        let closed = Case { change: GitChange::PullClosed { number: 7, merged: true }, ..branch("main") };
        assert_eq!(closed.decide(), Decision::Remove(PreviewOf::Pull(7)));
        let gone = Case { change: GitChange::BranchDeleted { branch: "idea".into() }, ..branch("main") };
        assert_eq!(gone.decide(), Decision::Remove(PreviewOf::Branch("idea".into())));
    }

    #[test]
    fn what_is_gone_or_cannot_be_deployed_is_told() {
        let gone = Case { change: GitChange::TagDeleted { tag: "v1".into() }, ..branch("main") };
        let Decision::Ignore(why) = gone.decide() else { panic!("it deploys") };
        assert!(why.contains("v1"), "{why}");
    }
}
