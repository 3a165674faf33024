//! What Berth says to forges, by stand-ins that accept only what the forges document: method, path, authentication and
//! body. And what is found by looking, in a repository of this machine.
//!
//! The shapes follow Gitea's Swagger file (repoGet, repoCreateHook, repoDeleteHook, repoCreateStatus), GitHub's REST
//! documentation (repositories, webhooks, statuses, deployments, apps) and GitLab's (projects, hooks, commit status).

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::IntoResponse,
};
use base64::Engine as _;
use serde_json::{Value, json};

use crate::harness::Berth;

pub(crate) const TOKEN: &str = "a-token-of-the-forge";

/// A request that a stand-in accepted.
#[derive(Debug, Clone)]
struct Asked {
    what: String,
    body: Value,
}

type Log = Arc<Mutex<Vec<Asked>>>;

pub(crate) struct Forge {
    pub(crate) url: String,
    log: Log,
}

/// What a stand-in answers, or why it refuses.
pub(crate) type Answer = fn(&str, &HeaderMap, &Value) -> Result<Value, String>;

impl Forge {
    pub(crate) async fn start(answer: Answer) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Log::default();
        let kept = Arc::clone(&log);
        let respond = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let kept = Arc::clone(&kept);
            async move {
                let what = format!("{method} {}", uri.path());
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                // git's own requests are none of the API.
                if !uri.path().starts_with("/api/") {
                    let who = json!(header(&headers, "authorization"));
                    kept.lock().unwrap().push(Asked { what: format!("GIT {}", uri.path()), body: who });
                    return StatusCode::NOT_FOUND.into_response();
                }
                match answer(&what, &headers, &body) {
                    Ok(answer) => {
                        kept.lock().unwrap().push(Asked { what, body });
                        axum::Json(answer).into_response()
                    }
                    Err(why) => {
                        kept.lock().unwrap().push(Asked { what: format!("REFUSED {what}: {why}"), body });
                        (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(json!({ "message": why })))
                            .into_response()
                    }
                }
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(respond)).await });
        Self { url, log }
    }

    /// Waits until something was asked that fits.
    async fn asked(&self, fits: impl Fn(&Asked) -> bool) -> Asked {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let log = self.log.lock().unwrap().clone();
            if let Some(found) = log.iter().find(|a| fits(a)) {
                return found.clone();
            }
            assert!(Instant::now() < until, "not asked; asked was {log:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn refused(&self) -> Vec<Asked> {
        self.log.lock().unwrap().iter().filter(|a| a.what.starts_with("REFUSED")).cloned().collect()
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Each of these must be a text in the body.
fn texts(body: &Value, fields: &[&str]) -> Result<(), String> {
    match fields.iter().find(|f| body.pointer(f).and_then(Value::as_str).is_none_or(str::is_empty)) {
        Some(field) => Err(format!("{field} is missing in {body}")),
        None => Ok(()),
    }
}

fn one_of(body: &Value, field: &str, words: &[&str]) -> Result<(), String> {
    let word = body[field].as_str().unwrap_or_default();
    if words.contains(&word) { Ok(()) } else { Err(format!("{field} is {word:?}")) }
}

/// Somebody deleted the comment on the pull request.
static DELETED: AtomicBool = AtomicBool::new(false);

fn gitea(what: &str, headers: &HeaderMap, body: &Value) -> Result<Value, String> {
    if header(headers, "authorization") != format!("token {TOKEN}") {
        return Err("no token".into());
    }
    let repository = "/api/v1/repos/ada/site";
    match what.replacen(repository, "", 1).as_str() {
        "GET " => Ok(json!({ "id": 140, "full_name": "ada/site", "default_branch": "trunk" })),
        "POST /hooks" => {
            texts(body, &["/type", "/config/url", "/config/content_type", "/config/secret"])?;
            one_of(body, "type", &["gitea"])?;
            body["events"].as_array().filter(|e| !e.is_empty()).ok_or("no events")?;
            Ok(json!({ "id": 31, "type": "gitea", "active": true }))
        }
        "DELETE /hooks/31" => Ok(Value::Null),
        "POST /issues/7/comments" => {
            texts(body, &["/body"])?;
            Ok(json!({ "id": if DELETED.load(Ordering::Relaxed) { 52 } else { 51 } }))
        }
        "PATCH /issues/comments/51" if !DELETED.load(Ordering::Relaxed) => Ok(json!({ "id": 51 })),
        "PATCH /issues/comments/51" => Err("it is deleted".into()),
        "PATCH /issues/comments/52" => Ok(json!({ "id": 52 })),
        path if path.starts_with("POST /statuses/") => {
            texts(body, &["/state", "/context", "/target_url", "/description"])?;
            one_of(body, "state", &["pending", "success", "error", "failure", "warning"])?;
            Ok(json!({ "id": 1 }))
        }
        other => Err(format!("there is no {other}")),
    }
}

/// GitHub Enterprise Server, where an app may speak for itself with its JWT and for an installation with a token.
fn github(what: &str, headers: &HeaderMap, body: &Value) -> Result<Value, String> {
    let who = header(headers, "authorization");
    let jwt = who.strip_prefix("Bearer ").is_some_and(|t| t.split('.').count() == 3);
    let installed = who == "Bearer ghs_installation";
    if !header(headers, "accept").contains("application/vnd.github")
        || header(headers, "user-agent").is_empty()
    {
        return Err("GitHub wants its media type and a user agent".into());
    }
    let path = what.replacen("/api/v3", "", 1);
    match path.as_str() {
        "GET /repos/acme/site/installation" if jwt => Ok(json!({ "id": 77 })),
        "POST /app/installations/77/access_tokens" if jwt => {
            Ok(json!({ "token": "ghs_installation", "expires_at": "2100-01-01T00:00:00Z" }))
        }
        "GET /repos/acme/site" if installed => Ok(json!({ "id": 35129377, "default_branch": "main" })),
        "POST /repos/acme/site/hooks" if installed => {
            texts(
                body,
                &["/name", "/config/url", "/config/content_type", "/config/secret", "/config/insecure_ssl"],
            )?;
            one_of(body, "name", &["web"])?;
            Ok(json!({ "id": 12345 }))
        }
        "POST /repos/acme/site/deployments" if installed => {
            texts(body, &["/ref", "/environment"])?;
            body["required_contexts"].as_array().ok_or("no required_contexts")?;
            Ok(json!({ "id": 42 }))
        }
        "POST /repos/acme/site/deployments/42/statuses" if installed => {
            let states = ["error", "failure", "inactive", "in_progress", "queued", "pending", "success"];
            one_of(body, "state", &states)?;
            Ok(json!({ "id": 1 }))
        }
        path if installed && path.starts_with("POST /repos/acme/site/statuses/") => {
            one_of(body, "state", &["error", "failure", "pending", "success"])?;
            if body["description"].as_str().unwrap_or_default().chars().count() > 140 {
                return Err("a description has at most 140 characters".into());
            }
            Ok(json!({ "id": 1 }))
        }
        other => Err(format!("there is no {other} for this caller")),
    }
}

pub(crate) async fn berth() -> Berth {
    let flags = ["--allow-local-sources", "true", "--allow-private-sources", "true"];
    Berth::without_docker_with(&flags).await
}

async fn connect(berth: &Berth, app: &str, body: Value) -> Value {
    berth.rest().post("/v1/apps", json!({ "name": app })).await.ok();
    let path = format!("/v1/apps/{app}/repository");
    berth.rest().send(reqwest::Method::PUT, &path, Some(body)).await.ok()
}

#[tokio::test]
async fn gitea_gets_its_webhook_and_hears_how_deployments_go() {
    let forge = Forge::start(gitea).await;
    let berth = berth().await;
    let url = format!("{}/ada/site.git", forge.url);
    let answer = connect(
        &berth,
        "web",
        json!({ "git_url": url, "forge": "gitea", "access_token": TOKEN, "poll_minutes": 0 }),
    )
    .await;
    assert_eq!(answer["webhook"]["registered"], true, "{answer}");
    assert_eq!(answer["repository"]["branch"], "trunk");
    assert_eq!(answer["steps"], json!([]));
    assert!(answer["webhook"]["secret"].is_null() && !answer.to_string().contains(TOKEN), "{answer}");
    let hook = forge.asked(|a| a.what.ends_with("/hooks")).await;
    let secret = hook.body["config"]["secret"].as_str().unwrap().to_owned();
    let payload_url = hook.body["config"]["url"].as_str().unwrap();
    assert_eq!(payload_url, answer["webhook"]["payload_url"]);

    // The forge sends a push with that secret; the deployment fails (nothing can be fetched), and the commit says so.
    let commit = "3".repeat(40);
    let body = json!({
        "ref": "refs/heads/trunk", "before": "1".repeat(40), "after": commit, "commits": [],
        "repository": { "id": 140, "full_name": "ada/site", "default_branch": "trunk" },
    })
    .to_string();
    let path = payload_url.split_once("/hooks/").unwrap().1;
    deliver(&berth, path, &secret, ("push", 1), body).await;
    let status = format!("/statuses/{commit}");
    let failed = forge.asked(|a| a.what.ends_with(&status) && a.body["state"] == "failure").await;
    assert_eq!(failed.body["context"], "berth/web/production");
    assert!(failed.body["description"].as_str().unwrap().starts_with("web#1 failed"), "{failed:?}");

    // git was the bearer of the token, and nobody can read it anywhere.
    let fetched = forge.asked(|a| a.what == "GIT /ada/site.git/info/refs").await;
    let expected = base64::prelude::BASE64_STANDARD.encode(format!("oauth2:{TOKEN}"));
    assert_eq!(fetched.body, json!(format!("Basic {expected}")));
    let told = berth.rest().get("/v1/deployments/web%231/log").await;
    let shown = berth.rest().get("/v1/deployments/web%231").await.ok();
    for text in [&told.text, &shown.to_string()] {
        assert!(!text.contains(TOKEN) && !text.contains(&expected), "{text}");
    }

    let done = berth.rest().delete("/v1/apps/web/repository?confirm=web").await.ok();
    assert_eq!(done["done"], true, "{done}");
    forge.asked(|a| a.what.starts_with("DELETE")).await;
    assert_eq!(forge.refused().len(), 0, "{:#?}", forge.refused());
    assert!(!berth.log().contains(TOKEN) && !berth.log().contains(&secret), "a secret is in the log");
}

/// Sends what Gitea would to a repository's webhook, signed, and has it taken.
async fn deliver(berth: &Berth, path: &str, secret: &str, (event, delivery): (&str, u32), body: String) {
    let sent = berth
        .anonymous()
        .request(reqwest::Method::POST, &format!("/hooks/{path}"))
        .header("content-type", "application/json")
        .header("x-gitea-event", event)
        .header("x-gitea-delivery", delivery.to_string())
        .header("x-gitea-signature", berth_forge::webhook::sign(secret, body.as_bytes()))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status().as_u16(), 202);
}

#[tokio::test]
async fn a_pull_request_has_one_comment_which_is_written_again_if_somebody_deletes_it() {
    let forge = Forge::start(gitea).await;
    let berth = berth().await;
    let url = format!("{}/ada/site.git", forge.url);
    let settings = json!({ "settings": { "previews": "pull_requests" } });
    let body = json!({ "git_url": url, "forge": "gitea", "access_token": TOKEN, "poll_minutes": 0 });
    connect(&berth, "web", body).await;
    berth.rest().send(reqwest::Method::PATCH, "/v1/apps/web", Some(settings)).await.ok();
    let hook = forge.asked(|a| a.what.ends_with("/hooks")).await;
    let secret = hook.body["config"]["secret"].as_str().unwrap().to_owned();
    let path = hook.body["config"]["url"].as_str().unwrap().split_once("/hooks/").unwrap().1.to_owned();
    let repository = json!({ "id": 140, "full_name": "ada/site", "default_branch": "trunk" });
    let send = async |n: u32, action: &str| {
        let side = |name: &str| json!({ "ref": name, "sha": n.to_string().repeat(40), "repo": repository });
        let body = json!({
            "action": action, "number": 7, "repository": repository, "sender": { "login": "ada" },
            "pull_request": { "number": 7, "title": "An idea", "user": { "login": "ada" },
                "head": side("idea"), "base": side("trunk") },
        })
        .to_string();
        deliver(&berth, &path, &secret, ("pull_request", n), body).await;
    };
    // Nothing can be fetched: each deployment fails, and the comment says so.
    let says = |a: &Asked, what: &str, n: u32| {
        a.what.ends_with(what) && a.body["body"].as_str().unwrap().contains(&format!("web#{n} failed"))
    };
    send(1, "opened").await;
    forge.asked(|a| a.what.ends_with("POST /api/v1/repos/ada/site/issues/7/comments")).await;
    forge.asked(|a| says(a, "s/51", 1) || says(a, "/issues/7/comments", 1)).await;
    send(2, "synchronized").await;
    forge.asked(|a| a.what.starts_with("PATCH") && says(a, "/issues/comments/51", 2)).await;
    DELETED.store(true, Ordering::Relaxed);
    send(3, "synchronized").await;
    forge.asked(|a| says(a, "/issues/comments/52", 3) || says(a, "/issues/7/comments", 3)).await;
    send(4, "synchronized").await;
    forge.asked(|a| a.what.starts_with("PATCH") && says(a, "/issues/comments/52", 4)).await;
    let log = forge.log.lock().unwrap().clone();
    let written = log.iter().filter(|a| a.what.starts_with("POST") && a.what.ends_with("/comments")).count();
    let refused = log.iter().filter(|a| a.what.starts_with("REFUSED")).count();
    assert_eq!((written, refused), (2, 1), "{log:#?}");
}

#[tokio::test]
async fn a_github_app_gets_tokens_and_shows_deployments() {
    let forge = Forge::start(github).await;
    let berth = berth().await;
    let key = include_str!("../../forge/fixtures/app_key.pem");
    let url = format!("{}/acme/site.git", forge.url);
    let app = json!({ "app_id": "9", "private_key": key });
    let body = json!({ "git_url": url, "forge": "github", "auth": "github_app", "github_app": app, "poll_minutes": 0 });
    let answer = connect(&berth, "web", body).await;
    assert_eq!(answer["webhook"]["registered"], true, "{answer}");
    assert!(!answer.to_string().contains("PRIVATE KEY"));
    let hook = forge.asked(|a| a.what.ends_with("/hooks")).await;
    let secret = hook.body["config"]["secret"].as_str().unwrap();
    let body = include_str!("../../forge/fixtures/github_push.json");
    let path = hook.body["config"]["url"].as_str().unwrap().split_once("/hooks/").unwrap().1;
    let sent = berth
        .anonymous()
        .request(reqwest::Method::POST, &format!("/hooks/{path}"))
        .header("content-type", "application/json")
        .header("x-github-event", "push")
        .header("x-github-delivery", "1")
        .header(
            "x-hub-signature-256",
            format!("sha256={}", berth_forge::webhook::sign(secret, body.as_bytes())),
        )
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status().as_u16(), 202);
    forge.asked(|a| a.what.ends_with("/deployments/42/statuses") && a.body["state"] == "failure").await;
    forge.asked(|a| a.what.contains("/statuses/2222") && a.body["state"] == "failure").await;
    let log = forge.log.lock().unwrap().clone();
    let made = log.iter().filter(|a| a.what.ends_with("/deployments")).count();
    let tokens = log.iter().filter(|a| a.what.ends_with("/access_tokens")).count();
    assert_eq!((made, tokens), (1, 1), "{log:#?}");
    assert_eq!(forge.refused().len(), 0, "{:#?}", forge.refused());
}

#[tokio::test]
async fn a_forge_that_does_not_allow_it_leaves_steps_to_do() {
    let forge = Forge::start(|_, _, _| Err("not allowed".into())).await;
    let berth = berth().await;
    let url = format!("{}/acme/web/site.git", forge.url);
    let body = json!({ "git_url": url, "forge": "gitlab", "access_token": TOKEN, "poll_minutes": 0 });
    let answer = connect(&berth, "web", body).await;
    let (steps, problems) = (answer["steps"].to_string(), &answer["problems"]);
    assert!(steps.contains("payload URL") && !steps.contains("not allowed"), "{steps}");
    let said = problems.as_array().unwrap().iter().map(|p| (&p["quotes"], p["detail"].as_str().unwrap()));
    let said: Vec<_> = said.collect();
    assert_eq!(said.len(), 2, "the repository is not shown, and the webhook not registered: {problems}");
    for (quotes, detail) in said {
        assert!(*quotes == true && detail.contains("422") && detail.contains("not allowed"), "{detail}");
    }
    assert!(!answer["webhook"]["secret"].as_str().unwrap().is_empty());
    let log = forge.log.lock().unwrap().clone();
    assert!(log.iter().any(|a| a.what.contains("/projects/acme%2Fweb%2Fsite")), "{log:#?}");
    assert!(!answer.to_string().contains(TOKEN));
}

#[expect(clippy::disallowed_methods, reason = "a test makes its repository with git")]
pub(crate) fn git(dir: &std::path::Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
        .args(arguments)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_missed_webhook_is_found_by_looking_and_told_once() {
    let mut berth = berth().await;
    let dir = berth.scratch().join("site");
    std::fs::create_dir(&dir).unwrap();
    git(&dir, &["init", "--quiet", "--initial-branch", "main"]);
    git(&dir, &["commit", "--quiet", "--allow-empty", "--message", "One"]);
    let body =
        json!({ "git_url": format!("file://{}", dir.display()), "forge": "generic", "poll_minutes": 60 });
    connect(&berth, "web", body.clone()).await;
    let looked = async |berth: &Berth, after: &str| {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let seen = berth.rest().get("/v1/apps/web/repository").await.ok();
            let at = seen["poll"]["last_at"].as_str().unwrap_or_default().to_owned();
            if at.as_str() > after {
                assert!(seen["poll"]["problem"].is_null(), "{seen}");
                return (at, seen);
            }
            assert!(Instant::now() < until, "it does not look: {seen}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let pushes = async |berth: &Berth| berth.rest().get("/v1/apps/web/pushes").await.ok()["pushes"].clone();
    let (at, seen) = looked(&berth, "").await;
    assert_eq!(seen["branch"], "main");
    assert_eq!(pushes(&berth).await, json!([]), "the first look tells nothing");

    // While Berth is down, the branch moves and another comes.
    berth.terminate().await;
    git(&dir, &["commit", "--quiet", "--allow-empty", "--message", "Two"]);
    git(&dir, &["branch", "feature"]);
    let head = git(&dir, &["rev-parse", "HEAD"]);
    berth.start_again().await;
    let (at, _) = looked(&berth, &at).await;
    let found = pushes(&berth).await;
    let told: Vec<_> =
        found.as_array().unwrap().iter().map(|p| (&p["origin"], &p["change"]["commit"])).collect();
    assert_eq!(told, [(&json!("poll"), &json!(head)), (&json!("poll"), &json!(head))], "{found}");

    // Looking again, at once because it is connected again, finds nothing new.
    let path = "/v1/apps/web/repository";
    berth.rest().send(reqwest::Method::PUT, path, Some(body)).await.ok();
    looked(&berth, &at).await;
    assert_eq!(pushes(&berth).await.as_array().unwrap().len(), 2);
}
