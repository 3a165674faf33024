//! What went wrong with git, told from what it printed. Pure.
//!
//! git has one exit code for nearly everything; its words, in the C locale, are what tells a missing repository
//! from a wrong token. What no rule knows stays [`GitError::Failed`], with git's own last lines.

use std::time::Duration;

use super::address::Wanted;
use crate::source::guard::GuardError;
use crate::source::path::PathFault;

/// Why a repository could not be fetched. Nothing is left on the disk.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The host says that there is no such repository (or does not want to say that there is).
    #[error("there is no repository at {url}, or it is private")]
    RepositoryNotFound {
        /// The address, without credentials.
        url: String,
    },
    /// The host wants credentials, or refused the ones it got.
    #[error("{url} {}", if *with_credential { "refused the credentials" } else { "wants credentials" })]
    Authentication {
        /// The address, without credentials.
        url: String,
        /// True when credentials were sent.
        with_credential: bool,
    },
    /// No such branch or tag.
    #[error("{url} has no branch or tag {name:?}{}", listed(candidates))]
    RefNotFound {
        /// The address, without credentials.
        url: String,
        /// What was asked for.
        name: String,
        /// Branches and tags that are there, the most similar first.
        candidates: Vec<String>,
    },
    /// No such commit, or the host does not hand out a commit by its id.
    #[error("{url} does not have the commit {commit}")]
    CommitNotFound {
        /// The address, without credentials.
        url: String,
        /// What was asked for.
        commit: String,
    },
    /// The repository has no commit at all.
    #[error("the repository at {url} is empty")]
    EmptyRepository {
        /// The address, without credentials.
        url: String,
    },
    /// The host cannot be reached.
    #[error("the host of {url} cannot be reached: {reason}")]
    HostUnreachable {
        /// The address, without credentials.
        url: String,
        /// git's own words.
        reason: String,
    },
    /// The host is none that may be talked to, or has no address.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The SSH host key is not the one it was.
    #[error("the SSH key of {url}'s host has changed since it was first seen")]
    HostKeyChanged {
        /// The address, without credentials.
        url: String,
    },
    /// The TLS certificate is not trusted.
    #[error("the certificate of {url}'s host is not trusted: {reason}")]
    Certificate {
        /// The address, without credentials.
        url: String,
        /// git's own words.
        reason: String,
    },
    /// The host sends us elsewhere, and redirects are not followed.
    #[error("{url} has moved: its host redirects to another address")]
    Redirected {
        /// The address, without credentials.
        url: String,
    },
    /// What `.gitmodules` says of a submodule is dangerous or cannot be followed.
    #[error("the submodule {given:?} is refused: {why}")]
    Submodule {
        /// Its path or name as the repository has it, shortened.
        given: String,
        /// What is wrong with it.
        why: String,
    },
    /// A submodule could not be fetched.
    #[error("the submodule {path:?} could not be fetched: {source}")]
    InSubmodule {
        /// Where in the repository it is.
        path: String,
        /// Why not.
        #[source]
        source: Box<GitError>,
    },
    /// Files that Git LFS keeps could not be fetched.
    #[error("the files of {url} that are in Git LFS could not be fetched: {why}")]
    Lfs {
        /// The address of the repository, without credentials.
        url: String,
        /// Why not.
        why: String,
    },
    /// It took longer than it may.
    #[error("fetching {url} took longer than {} s", limit.as_secs())]
    TimedOut {
        /// The address, without credentials.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// It takes more room than it may.
    #[error("the repository at {url} takes more than {limit} bytes on disk")]
    TooLarge {
        /// The address, without credentials.
        url: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file in it has a name that is not accepted.
    #[error("the file {entry:?} in the repository is refused: {why}")]
    UnsafePath {
        /// Its name, shortened.
        entry: String,
        /// What is wrong with it.
        why: PathFault,
    },
    /// The caller cancelled.
    #[error("fetching was cancelled")]
    Cancelled,
    /// git (or ssh) is not on this machine.
    #[error("{program} is not installed on this server")]
    NotInstalled {
        /// `git` or `ssh`.
        program: String,
    },
    /// The disk refused.
    #[error("could not write the source: {0}")]
    Disk(#[source] std::io::Error),
    /// Something else; git's last lines, without secrets.
    #[error("git could not fetch {url}: {output}")]
    Failed {
        /// The address, without credentials.
        url: String,
        /// What git printed last.
        output: String,
    },
}

impl GitError {
    /// What to do about it, in one sentence.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::RepositoryNotFound { .. } => {
                "Check the address; for a private repository add a token (https) or a deploy key (ssh)."
            }
            Self::Authentication { with_credential: false, .. } => {
                "Add a token with read access (https), or a deploy key (ssh)."
            }
            Self::Authentication { .. } => {
                "Check that the token or key is valid, has read access and belongs to this repository."
            }
            Self::RefNotFound { .. } => "Use one of the branches or tags that are there.",
            Self::CommitNotFound { .. } => {
                "Push the commit, or deploy a branch; some hosts do not hand out commits by their id."
            }
            Self::EmptyRepository { .. } => "Push a first commit.",
            Self::HostUnreachable { .. } => "Check the host name and this server's network, then try again.",
            Self::Guard(GuardError::Forbidden { .. }) => {
                "An administrator can let deployments fetch from private addresses with the setting allow_private_sources."
            }
            Self::Guard(GuardError::Unresolved { .. }) => "Check the host name and this server's DNS.",
            Self::HostKeyChanged { .. } => {
                "If the host's key was really changed, an administrator removes its line from known_hosts."
            }
            Self::Certificate { .. } => {
                "Install the host's authority on this server, or repair its certificate."
            }
            Self::Redirected { .. } => "Open the repository in a browser and use the address it shows now.",
            Self::Submodule { .. } => {
                "Correct .gitmodules, or deploy without submodules: push_rules_set(rules={submodules: false})."
            }
            Self::Lfs { .. } => {
                "Push the files with `git lfs push --all <remote>` and let the app's credentials read them; push_rules_set(rules={lfs: false}) deploys what points to them as it is."
            }
            Self::InSubmodule { source, .. } => match source.as_ref() {
                Self::RepositoryNotFound { .. } | Self::Authentication { .. } => {
                    "A private submodule is fetched with the app's own credentials: a token if it has the same owner on the same host, a deploy key if that host knows it. Else make it public, or deploy without submodules: push_rules_set(rules={submodules: false})."
                }
                Self::CommitNotFound { .. } => "Push that commit of the submodule, too.",
                other => return other.hint(),
            },
            Self::TimedOut { .. } => "Try again; if it is always slow, make the repository smaller.",
            Self::TooLarge { .. } => {
                "Remove large files from the branch, or upload an archive of what is needed."
            }
            Self::UnsafePath { .. } => "Rename the file.",
            Self::NotInstalled { .. } => "Install it (Debian: apt-get install git openssh-client).",
            Self::Disk(_) | Self::Failed { .. } | Self::Cancelled => return None,
        })
    }
}

fn listed(candidates: &[String]) -> String {
    match candidates {
        [] => String::new(),
        names => format!("; there are {}", names.join(", ")),
    }
}

/// What git's words mean, for the address and state that were asked for.
pub(super) fn classify(stderr: &str, url: &str, wanted: &Wanted, with_credential: bool) -> GitError {
    let url = url.to_owned();
    let low = stderr.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| low.contains(word));
    let line = |words: &[&str]| {
        let hit = stderr.lines().find(|line| {
            let line = line.to_ascii_lowercase();
            words.iter().any(|word| line.contains(word))
        });
        hit.unwrap_or("").chars().take(300).collect::<String>()
    };
    const UNREACHABLE: &[&str] = &[
        "could not resolve host",
        "failed to connect",
        "connection refused",
        "connection timed out",
        "connection reset",
        "operation timed out",
        "no route to host",
        "network is unreachable",
        "name or service not known",
        "temporary failure in name resolution",
        "couldn't connect to server",
        "empty reply from server",
        "operation too slow",
    ];
    const CERTIFICATE: &[&str] =
        &["ssl certificate problem", "server certificate verification failed", "certificate verify failed"];
    if says(&["couldn't find remote ref"]) {
        return match wanted {
            Wanted::Ref(name) => {
                GitError::RefNotFound { url, name: name.to_string(), candidates: Vec::new() }
            }
            Wanted::Commit(commit) => GitError::CommitNotFound { url, commit: commit.to_string() },
            Wanted::DefaultBranch => GitError::EmptyRepository { url },
        };
    }
    if let Wanted::Commit(commit) = wanted
        && says(&[
            "not our ref",
            "unadvertised object",
            "no such remote ref",
            "bad object",
            "not a tree",
            "invalid reference",
            "unable to read tree",
        ])
    {
        return GitError::CommitNotFound { url, commit: commit.to_string() };
    }
    if says(&["host key verification failed", "remote host identification has changed"]) {
        return GitError::HostKeyChanged { url };
    }
    if says(&["cannot run ssh", "ssh: not found", "ssh: command not found"]) {
        return GitError::NotInstalled { program: "ssh".to_owned() };
    }
    if says(CERTIFICATE) {
        return GitError::Certificate { url, reason: line(CERTIFICATE) };
    }
    if says(UNREACHABLE) {
        return GitError::HostUnreachable { url, reason: line(UNREACHABLE) };
    }
    if says(&["returned error: 30", "unable to update url base from redirection"]) {
        return GitError::Redirected { url };
    }
    let auth = [
        "authentication failed",
        "could not read username",
        "could not read password",
        "permission denied",
        "access denied",
        "returned error: 401",
        "returned error: 403",
        "invalid credentials",
    ];
    if says(&auth) {
        return GitError::Authentication { url, with_credential };
    }
    let missing = [
        "repository not found",
        "' not found",
        "does not appear to be a git repository",
        "does not exist",
        "returned error: 404",
        "could not be found",
        "no such repository",
    ];
    if says(&missing) {
        return GitError::RepositoryNotFound { url };
    }
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(5)..].join("\n");
    GitError::Failed { url, output: tail.chars().take(1000).collect() }
}

/// The names most like `wanted`, at most ten.
pub(super) fn nearest(wanted: &str, mut names: Vec<String>) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    names.sort_by_cached_key(|name| {
        let low = name.to_lowercase();
        let usual = matches!(low.as_str(), "main" | "master");
        // A name that contains the other is nearer than any misspelling; the usual ones come early anyway.
        let near = low.contains(&wanted) || wanted.contains(&low);
        let distance = edit_distance(&wanted, &low);
        (
            if near {
                0
            } else if usual {
                distance.min(3)
            } else {
                distance
            },
            low,
        )
    });
    names.truncate(10);
    names
}

/// Levenshtein's distance, over at most 100 characters each.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().take(100).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, right) in b.iter().enumerate() {
            let kept = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = kept.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::address::{CommitSha, GitRef};
    use super::*;

    #[test]
    fn git_s_words_become_types() {
        let main = Wanted::Ref(GitRef::parse("main").unwrap());
        let sha = Wanted::Commit(CommitSha::parse(&"a".repeat(40)).unwrap());
        let kind = |text: &str, wanted: &Wanted| format!("{:?}", classify(text, "u", wanted, true));
        for (text, wanted, expected) in [
            (
                "remote: Repository not found.\nfatal: repository 'https://h/a/' not found",
                &main,
                "RepositoryNotFound",
            ),
            (
                "ERROR: Repository not found.\nfatal: Could not read from remote repository.",
                &main,
                "RepositoryNotFound",
            ),
            (
                "fatal: could not read Username for 'https://h': terminal prompts disabled",
                &main,
                "Authentication",
            ),
            ("git@h: Permission denied (publickey).", &main, "Authentication"),
            ("fatal: couldn't find remote ref refs/heads/main", &main, "RefNotFound"),
            ("fatal: couldn't find remote ref HEAD", &Wanted::DefaultBranch, "EmptyRepository"),
            ("fatal: remote error: upload-pack: not our ref aaaa", &sha, "CommitNotFound"),
            ("error: Server does not allow request for unadvertised object aaaa", &sha, "CommitNotFound"),
            ("fatal: unable to access 'https://h/': Could not resolve host: h", &main, "HostUnreachable"),
            ("ssh: connect to host h port 22: Connection refused", &main, "HostUnreachable"),
            ("Host key verification failed.", &main, "HostKeyChanged"),
            ("fatal: unable to access 'https://h/': SSL certificate problem: expired", &main, "Certificate"),
            (
                "fatal: unable to access 'https://h/': The requested URL returned error: 301",
                &main,
                "Redirected",
            ),
            ("fatal: something new", &main, "Failed"),
        ] {
            assert!(kind(text, wanted).starts_with(expected), "{text}: {}", kind(text, wanted));
        }
    }

    #[test]
    fn candidates_are_sorted_by_likeness() {
        let names = ["zeta", "master", "develop", "mian-2"].map(str::to_owned).to_vec();
        assert_eq!(nearest("develpo", names.clone())[0], "develop");
        assert_eq!(nearest("main", names)[0], "master");
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }
}
