//! What is asked of each forge's API, as data: method, path and body. Pure.
//!
//! | forge | after |
//! |---|---|
//! | GitHub | GitHub Docs, REST API: webhooks, statuses, deployments, issue comments, apps |
//! | GitLab | GitLab Docs, REST API: project webhooks, commits (status), notes |
//! | Gitea, Forgejo | the Swagger file of their API v1: repoCreateHook, repoCreateStatus, issueCreateComment |
//! | Bitbucket | Atlassian's REST API 2.0: repository hooks, commit statuses, pull request comments |

use berth_schemas::repository::ForgeKind;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Pull requests in one answer: as many as every forge gives.
pub const OPEN_LISTED: usize = 50;

/// A request to a forge's API.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiRequest {
    /// Method.
    pub method: Method,
    /// Path below the base.
    pub path: String,
    /// JSON to send.
    pub body: Option<Value>,
}

/// How a deployment stands, as forges can show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It waits.
    Waiting,
    /// It is being worked on.
    Working,
    /// It serves.
    Live,
    /// It failed.
    Failed,
    /// It was given up: cancelled, or a newer one took its place.
    GivenUp,
    /// It served, and another took its place.
    Retired,
}

/// The status of a commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommitStatus {
    /// The commit.
    pub commit: String,
    /// How it stands.
    pub standing: Standing,
    /// Which status this is among others of the commit.
    pub context: String,
    /// In a few words.
    pub description: String,
    /// Where it is served or will be.
    pub url: String,
}

fn request(method: Method, path: String, body: Value) -> ApiRequest {
    ApiRequest { method, path, body: (!body.is_null()).then_some(body) }
}

/// The path of a repository.
fn repository_path(kind: ForgeKind, name: &str) -> String {
    match kind {
        ForgeKind::Gitlab => format!("/projects/{}", encoded(name)),
        ForgeKind::Bitbucket => format!("/repositories/{name}"),
        _ => format!("/repos/{name}"),
    }
}

/// One segment of a path: GitLab takes the name of a project with its slashes encoded.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

/// Reads the repository.
#[must_use]
pub fn repository(kind: ForgeKind, name: &str) -> ApiRequest {
    request(Method::GET, repository_path(kind, name), Value::Null)
}

/// Lists the pull requests that are open, those that moved last first: [`OPEN_LISTED`] at most.
#[must_use]
pub fn open_pulls(kind: ForgeKind, name: &str) -> ApiRequest {
    let path = repository_path(kind, name);
    let path = match kind {
        ForgeKind::Gitlab => {
            format!("{path}/merge_requests?state=opened&order_by=updated_at&per_page={OPEN_LISTED}")
        }
        ForgeKind::Bitbucket => {
            format!("{path}/pullrequests?state=OPEN&sort=-updated_on&pagelen={OPEN_LISTED}")
        }
        ForgeKind::Gitea | ForgeKind::Forgejo => {
            format!("{path}/pulls?state=open&sort=recentupdate&limit={OPEN_LISTED}")
        }
        ForgeKind::Github | ForgeKind::Generic => {
            format!("{path}/pulls?state=open&sort=updated&direction=desc&per_page={OPEN_LISTED}")
        }
    };
    request(Method::GET, path, Value::Null)
}

/// The events that a webhook is registered for, as the forge's API names them.
#[must_use]
pub fn events(kind: ForgeKind) -> &'static [&'static str] {
    match kind {
        ForgeKind::Github => &["push", "pull_request"],
        ForgeKind::Gitlab => &["push_events", "tag_push_events", "merge_requests_events"],
        ForgeKind::Gitea | ForgeKind::Forgejo => &["push", "delete", "pull_request", "pull_request_sync"],
        ForgeKind::Bitbucket => &[
            "repo:push",
            "pullrequest:created",
            "pullrequest:updated",
            "pullrequest:fulfilled",
            "pullrequest:rejected",
        ],
        ForgeKind::Generic => &["push"],
    }
}

/// Registers a webhook.
#[must_use]
pub fn add_hook(kind: ForgeKind, name: &str, url: &str, secret: &str) -> ApiRequest {
    let config = || json!({ "url": url, "content_type": "json", "secret": secret });
    let body = match kind {
        ForgeKind::Github => {
            let mut config = config();
            config["insecure_ssl"] = json!("0");
            json!({ "name": "web", "active": true, "events": events(kind), "config": config })
        }
        ForgeKind::Gitlab => {
            let mut body = json!({ "url": url, "token": secret, "enable_ssl_verification": true });
            for event in events(kind) {
                body[*event] = json!(true);
            }
            body
        }
        ForgeKind::Gitea | ForgeKind::Forgejo => {
            json!({ "type": kind.as_str(), "active": true, "events": events(kind), "config": config() })
        }
        ForgeKind::Bitbucket | ForgeKind::Generic => {
            json!({ "description": "Berth", "url": url, "active": true, "secret": secret, "events": events(kind) })
        }
    };
    request(Method::POST, format!("{}/hooks", repository_path(kind, name)), body)
}

/// Removes a webhook.
#[must_use]
pub fn remove_hook(kind: ForgeKind, name: &str, id: &str) -> ApiRequest {
    request(Method::DELETE, format!("{}/hooks/{}", repository_path(kind, name), encoded(id)), Value::Null)
}

/// Sets the status of a commit.
#[must_use]
pub fn status(kind: ForgeKind, name: &str, status: &CommitStatus) -> ApiRequest {
    let path = repository_path(kind, name);
    let CommitStatus { commit, standing, context, description, url } = status;
    use Standing as S;
    match kind {
        ForgeKind::Gitlab => {
            let state = match standing {
                S::Waiting => "pending",
                S::Working => "running",
                S::Live | S::Retired => "success",
                S::Failed => "failed",
                S::GivenUp => "canceled",
            };
            let body = json!({ "state": state, "name": context, "target_url": url, "description": cut(description, 255) });
            request(Method::POST, format!("{path}/statuses/{commit}"), body)
        }
        ForgeKind::Bitbucket => {
            let state = match standing {
                S::Waiting | S::Working => "INPROGRESS",
                S::Live | S::Retired => "SUCCESSFUL",
                S::Failed => "FAILED",
                S::GivenUp => "STOPPED",
            };
            // A key has at most 40 characters.
            let body = json!({
                "key": cut(context, 40), "state": state, "name": context, "url": url, "description": cut(description, 255),
            });
            request(Method::POST, format!("{path}/commit/{commit}/statuses/build"), body)
        }
        _ => {
            let state = match standing {
                S::Waiting | S::Working => "pending",
                S::Live | S::Retired => "success",
                S::Failed => "failure",
                S::GivenUp => "error",
            };
            let body = json!({ "state": state, "context": context, "target_url": url, "description": cut(description, 140) });
            request(Method::POST, format!("{path}/statuses/{commit}"), body)
        }
    }
}

/// Makes a deployment on GitHub, which shows environments by them.
#[must_use]
pub fn github_deployment(name: &str, commit: &str, environment: &str, production: bool) -> ApiRequest {
    let body = json!({
        "ref": commit, "environment": environment, "auto_merge": false, "required_contexts": [],
        "production_environment": production, "transient_environment": !production, "description": "Berth",
    });
    request(Method::POST, format!("/repos/{name}/deployments"), body)
}

/// Says how a deployment on GitHub stands.
#[must_use]
pub fn github_deployment_status(name: &str, deployment: &str, status: &CommitStatus) -> ApiRequest {
    let state = match status.standing {
        Standing::Waiting => "queued",
        Standing::Working => "in_progress",
        Standing::Live => "success",
        Standing::Failed => "failure",
        Standing::GivenUp => "error",
        Standing::Retired => "inactive",
    };
    let body = json!({
        "state": state, "environment_url": status.url, "description": cut(&status.description, 140), "auto_inactive": true,
    });
    request(Method::POST, format!("/repos/{name}/deployments/{}/statuses", encoded(deployment)), body)
}

/// Writes a comment on a pull request, or changes the one that was written.
#[must_use]
pub fn comment(kind: ForgeKind, name: &str, pull: i64, written: Option<&str>, text: &str) -> ApiRequest {
    let path = repository_path(kind, name);
    let (all, one, update, body) = match kind {
        ForgeKind::Gitlab => {
            let all = format!("{path}/merge_requests/{pull}/notes");
            (all.clone(), all, Method::PUT, json!({ "body": text }))
        }
        ForgeKind::Bitbucket => {
            let all = format!("{path}/pullrequests/{pull}/comments");
            (all.clone(), all, Method::PUT, json!({ "content": { "raw": text } }))
        }
        _ => {
            let all = format!("{path}/issues/{pull}/comments");
            (all, format!("{path}/issues/comments"), Method::PATCH, json!({ "body": text }))
        }
    };
    match written {
        Some(id) => request(update, format!("{one}/{}", encoded(id)), body),
        None => request(Method::POST, all, body),
    }
}

/// Finds the installation of a GitHub App that has the repository.
#[must_use]
pub fn github_installation(name: &str) -> ApiRequest {
    request(Method::GET, format!("/repos/{name}/installation"), Value::Null)
}

/// Asks for a token of an installation, for one repository and what Berth does there.
#[must_use]
pub fn github_installation_token(installation: i64, name: &str) -> ApiRequest {
    let short = name.rsplit('/').next().unwrap_or(name);
    request(
        Method::POST,
        format!("/app/installations/{installation}/access_tokens"),
        json!({ "repositories": [short] }),
    )
}

/// The id in an answer, which is a number or, at Bitbucket, a text.
#[must_use]
pub fn id_of(answer: &Value) -> Option<String> {
    match (&answer["id"], &answer["uuid"]) {
        (_, Value::String(id)) | (Value::String(id), _) => Some(id.clone()),
        (Value::Number(id), _) => Some(id.to_string()),
        _ => None,
    }
}

/// The default branch in what a forge tells of a repository.
#[must_use]
pub fn default_branch_of(answer: &Value) -> Option<String> {
    let branch = answer["default_branch"].as_str().or(answer["mainbranch"]["name"].as_str());
    branch.filter(|b| !b.is_empty()).map(str::to_owned)
}

fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(kind: ForgeKind, standing: Standing) -> ApiRequest {
        let told = CommitStatus {
            commit: "c".into(),
            standing,
            context: "berth/production".into(),
            description: "x".repeat(300),
            url: "https://web.example.org".into(),
        };
        status(kind, "acme/web/site", &told)
    }

    #[test]
    fn each_forge_is_asked_in_its_own_words() {
        let gitlab = status_of(ForgeKind::Gitlab, Standing::Working);
        assert_eq!(gitlab.path, "/projects/acme%2Fweb%2Fsite/statuses/c");
        assert_eq!(gitlab.body.unwrap()["state"], "running");
        let bitbucket = status_of(ForgeKind::Bitbucket, Standing::GivenUp);
        assert_eq!(bitbucket.path, "/repositories/acme/web/site/commit/c/statuses/build");
        assert_eq!(bitbucket.body.unwrap()["state"], "STOPPED");
        let github = status_of(ForgeKind::Github, Standing::Failed).body.unwrap();
        assert_eq!(github["state"], "failure");
        assert_eq!(github["description"].as_str().unwrap().chars().count(), 140);
        let hook = add_hook(ForgeKind::Gitlab, "a/b", "https://h", "s").body.unwrap();
        assert_eq!((&hook["token"], &hook["merge_requests_events"]), (&json!("s"), &json!(true)));
        let removed = remove_hook(ForgeKind::Bitbucket, "a/b", "{1}");
        assert_eq!(
            (removed.method, removed.path.as_str()),
            (Method::DELETE, "/repositories/a/b/hooks/%7B1%7D")
        );
        let pulls = open_pulls(ForgeKind::Gitlab, "a/b");
        assert!(pulls.path.starts_with("/projects/a%2Fb/merge_requests?state=opened&"), "{}", pulls.path);
        let comment = comment(ForgeKind::Github, "a/b", 7, Some("99"), "t");
        assert_eq!((comment.method, comment.path.as_str()), (Method::PATCH, "/repos/a/b/issues/comments/99"));
    }

    #[test]
    fn answers_are_read() {
        assert_eq!(id_of(&json!({ "id": 12 })).as_deref(), Some("12"));
        assert_eq!(id_of(&json!({ "uuid": "{1}" })).as_deref(), Some("{1}"));
        assert_eq!(default_branch_of(&json!({ "mainbranch": { "name": "dev" } })).as_deref(), Some("dev"));
    }
}
