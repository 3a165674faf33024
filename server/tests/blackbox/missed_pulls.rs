//! Pull requests of which no webhook came, found by looking: a Gitea stand-in that lists what is open, in front of git's
//! own server.

#![allow(clippy::disallowed_methods, reason = "git serves its repository itself")]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::{
    forge_api::{TOKEN, berth, git},
    harness::Berth,
};

/// What is open at the forge.
type Open = Arc<Mutex<Vec<Value>>>;

async fn forge(root: PathBuf, open: Open) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let respond = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
        let (root, open) = (root.clone(), Arc::clone(&open));
        async move {
            match (method.as_str(), uri.path()) {
                ("GET", "/api/v1/repos/ada/site") => {
                    axum::Json(json!({ "id": 140, "full_name": "ada/site", "default_branch": "main" }))
                        .into_response()
                }
                ("POST", "/api/v1/repos/ada/site/hooks") => axum::Json(json!({ "id": 31 })).into_response(),
                ("GET", "/api/v1/repos/ada/site/pulls") => {
                    assert_eq!(headers["authorization"], format!("token {TOKEN}"));
                    assert!(uri.query().unwrap().contains("state=open"));
                    axum::Json(open.lock().unwrap().clone()).into_response()
                }
                ("POST", path) if path.starts_with("/api/v1/repos/ada/site/statuses/") => {
                    axum::Json(json!({ "id": 1 })).into_response()
                }
                (_, path) if path.starts_with("/ada/") => {
                    backend(&root, &method, &uri, &headers, &body).await
                }
                _ => StatusCode::NOT_FOUND.into_response(),
            }
        }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(respond)).await });
    url
}

/// Has git's own CGI program answer.
async fn backend(root: &Path, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Response {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let mut backend = tokio::process::Command::new("git");
    backend
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", method.as_str())
        .env("PATH_INFO", uri.path())
        .env("QUERY_STRING", uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = backend.spawn().unwrap();
    child.stdin.take().unwrap().write_all(body).await.unwrap();
    let output = child.wait_with_output().await.unwrap().stdout;
    let end = output.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let mut answer = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        answer = match name {
            "Status" => answer.status(value[..3].parse::<u16>().unwrap()),
            name => answer.header(name, value),
        };
    }
    answer.body(axum::body::Body::from(output[end + 4..].to_vec())).unwrap()
}

fn commit(dir: &Path, text: &str) -> String {
    std::fs::write(dir.join("index.html"), text).unwrap();
    git(dir, &["add", "."]);
    git(dir, &["commit", "--quiet", "--message", text]);
    git(dir, &["rev-parse", "HEAD"])
}

async fn shows(berth: &Berth, app: &str, wanted: (u16, &str)) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let page = berth.visit(app, "/").await;
        if page.status == wanted.0 && (wanted.0 != 200 || page.text == wanted.1) {
            return;
        }
        assert!(Instant::now() < until, "{app}: {} {}\n{}", page.status, page.text, berth.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_pull_request_that_no_webhook_told_of_has_its_preview() {
    let berth = berth().await;
    let dir = berth.scratch().join("ada/site.git");
    std::fs::create_dir_all(&dir).unwrap();
    git(&dir, &["init", "--quiet", "--initial-branch", "main"]);
    commit(&dir, "main");
    let open = Open::default();
    let forge = forge(berth.scratch().to_path_buf(), Arc::clone(&open)).await;
    let settings = json!({ "builder": "static", "previews": "pull_requests" });
    berth.rest().post("/v1/apps", json!({ "name": "web", "settings": settings })).await.ok();
    let connect = json!({ "git_url": format!("{forge}/ada/site.git"), "forge": "gitea", "access_token": TOKEN,
        "poll_minutes": 60 });
    // Connected again it is looked at again, at once.
    let look = async || {
        let before = berth.rest().get("/v1/apps/web/repository").await.json()["poll"]["last_at"].clone();
        let put = reqwest::Method::PUT;
        berth.rest().send(put, "/v1/apps/web/repository", Some(connect.clone())).await.ok();
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let now = berth.rest().get("/v1/apps/web/repository").await.ok();
            if now["poll"]["last_at"].is_string() && now["poll"]["last_at"] != before {
                assert!(now["poll"]["problem"].is_null(), "{now:#}");
                return;
            }
            assert!(Instant::now() < until, "it does not look: {now:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    look().await;
    git(&dir, &["checkout", "--quiet", "-b", "idea"]);
    let head = commit(&dir, "idea");
    let repository = json!({ "id": 140, "full_name": "ada/site" });
    let pull = |head: &str| {
        json!({ "number": 7, "title": "An idea", "user": { "login": "ada" }, "state": "open",
            "head": { "ref": "idea", "sha": head, "repo": repository },
            "base": { "ref": "main", "sha": "0", "repo": repository } })
    };
    *open.lock().unwrap() = vec![pull(&head)];
    look().await;
    shows(&berth, "pr-7--web", (200, "idea")).await;
    let head = commit(&dir, "better");
    *open.lock().unwrap() = vec![pull(&head)];
    look().await;
    shows(&berth, "pr-7--web", (200, "better")).await;
    // Looked at again, it is told once.
    look().await;
    let pushes = berth.rest().get("/v1/apps/web/pushes?limit=50").await.ok();
    let pulls = pushes["pushes"].as_array().unwrap().iter().filter(|p| p["change"]["kind"] == "pull").count();
    assert_eq!(pulls, 2, "{pushes:#}");
    open.lock().unwrap().clear();
    look().await;
    shows(&berth, "pr-7--web", (404, "")).await;
    // Opened again with the head that it had, also right after it was closed.
    for _ in 0..2 {
        *open.lock().unwrap() = vec![pull(&head)];
        look().await;
        shows(&berth, "pr-7--web", (200, "better")).await;
        open.lock().unwrap().clear();
        look().await;
    }
    shows(&berth, "pr-7--web", (404, "")).await;
    // A commit that asks not to be deployed is not, though the list of pull requests does not tell what it says.
    let head = commit(&dir, "words [skip ci]");
    *open.lock().unwrap() = vec![pull(&head)];
    look().await;
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let newest = berth.rest().get("/v1/apps/web/pushes?limit=1").await.ok()["pushes"][0].clone();
        if newest["change"]["commit"] == head && newest["state"] != "received" {
            assert_eq!(newest["state"], "ignored", "{newest:#}");
            assert_eq!(newest["outcome"], "the commit's message says [skip ci]");
            break;
        }
        assert!(Instant::now() < until, "{newest:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
