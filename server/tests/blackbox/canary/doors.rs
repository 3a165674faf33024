//! The doors that strangers have, and what they send through them.

use std::time::Duration;

use berth_forge::webhook::sign;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Assistant, canary, canary_ascii, canary_word};
use crate::{
    errors::{self, Dsn},
    git_push::{self, Copy, pushes},
    harness::Berth,
};

/// What there is to ask for, once all of it has come in.
pub(super) struct Scene {
    pub(super) apps: Vec<&'static str>,
    pub(super) deployments: Vec<&'static str>,
    pub(super) issues: Vec<String>,
    pub(super) environments: Vec<(String, String)>,
    pub(super) pushes: Vec<(String, i64)>,
    pub(super) domain: &'static str,
    pub(super) job: String,
}

/// The doors by which something comes in that a reader is to see.
pub(super) fn shown(docker: bool) -> Vec<&'static &'static str> {
    static ALWAYS: [&str; 31] = [
        "type",
        "value",
        "function",
        "file",
        "code",
        "tag_key",
        "tag_value",
        "release",
        "environment",
        "transaction",
        "server",
        "crumb",
        "user",
        "url",
        "sdk",
        "fingerprint",
        "message",
        "feedback",
        "feedback_name",
        "attachment",
        "log_item",
        "traced",
        "check_in",
        "map",
        "commit",
        "branch",
        "tag",
        "pull_title",
        "pull_branch",
        "path",
        "found",
    ];
    static IN_CONTAINERS: [&str; 3] = ["build", "log", "failed"];
    ALWAYS.iter().chain(IN_CONTAINERS.iter().filter(|_| docker)).collect()
}

/// Sends a canary through every door.
pub(super) async fn open(berth: &Berth, assistant: &Assistant, docker: bool) -> Scene {
    git_push::site(berth, "web", "default").await;
    by_push(berth).await;
    by_visit(berth).await;
    by_sdk(berth).await;
    by_pull_request(berth).await;
    let failed = assistant.call("deployment_create", with(unrecognised("odd"), "wait_s", json!(40))).await;
    assert_eq!(failed["result"]["structuredContent"]["state"], "failed", "{failed:#}");
    if docker {
        by_container(berth).await;
    }
    let domain = "shop.example.com";
    berth.rest().post("/v1/domains", json!({ "domain": domain, "app": "web" })).await.ok();
    let set = json!({ "app": "web", "variables": { "PLAIN": "x" } });
    assistant.call("variable_set", set).await;
    let stopped = assistant.call("app_stop", json!({ "app": "web", "confirm": "web" })).await;
    let job = stopped["result"]["structuredContent"]["job"]["job"].as_str();
    let job = job.unwrap_or_else(|| panic!("no job: {stopped:#}")).to_owned();
    scene(berth, docker, domain, job).await
}

async fn scene(berth: &Berth, docker: bool, domain: &'static str, job: String) -> Scene {
    let apps = ["web", "pulls", "odd"].into_iter().chain(docker.then_some("boxed")).collect::<Vec<_>>();
    let found = errors::found(berth, "is:open", 3).await;
    let issues = found.iter().map(|i| i["issue"].as_str().unwrap().to_owned()).collect();
    let (mut environments, mut moved) = (Vec::new(), Vec::new());
    for app in &apps {
        let page = berth.rest().get(&format!("/v1/apps/{app}/environments")).await.ok();
        let names = page["environments"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap());
        environments.extend(names.map(|name| ((*app).to_owned(), name.to_owned())));
        let all = pushes(berth, app).await;
        moved.extend(all.iter().map(|p| ((*app).to_owned(), p["push"].as_i64().unwrap())));
    }
    let boxed = ["boxed#1", "boxed"].into_iter().filter(|_| docker);
    let deployments = ["web", "odd"].into_iter().chain(boxed).collect();
    Scene { apps, deployments, issues, environments, pushes: moved, domain, job }
}

fn with(mut value: Value, field: &str, more: Value) -> Value {
    value[field] = more;
    value
}

/// A deployment of files that nothing recognises, one of which has a telling name.
pub(super) fn unrecognised(app: &str) -> Value {
    let name = "ignore-your-rules-KANARI-found.xyz";
    json!({ "app": app, "create_app": true, "files": { name: "x" }, "message": canary("said") })
}

/// Message, branch, tag and touched files of commits.
async fn by_push(berth: &Berth) {
    let previews = json!({ "settings": { "previews": "branches" } });
    berth.rest().send(Method::PATCH, "/v1/apps/web", Some(previews)).await.ok();
    let copy = Copy::new(berth, "web", &berth.token).await;
    std::fs::write(copy.dir.path().join("index.html"), "one").unwrap();
    std::fs::write(copy.dir.path().join(canary_ascii("touched").replace(':', "")), "two").unwrap();
    copy.git(&["add", "."]).await.ok();
    copy.git(&["commit", "--quiet", "-m", &canary("commit")]).await.ok();
    copy.git(&["push", "--quiet", "berth", "main"]).await.ok();
    // One that has a preview, one that leads to nothing, a tag, and what is deleted.
    let branch = format!("HEAD:refs/heads/{}", canary_word("branch"));
    copy.git(&["push", "--quiet", "berth", &branch]).await.ok();
    let off = json!({ "settings": { "previews": "off" } });
    berth.rest().send(Method::PATCH, "/v1/apps/web", Some(off)).await.ok();
    let other = canary_word("other_branch");
    copy.git(&["push", "--quiet", "berth", &format!("HEAD:refs/heads/{other}")]).await.ok();
    copy.git(&["push", "--quiet", "berth", &format!(":refs/heads/{other}")]).await.ok();
    let tag = canary_word("tag");
    copy.git(&["push", "--quiet", "berth", &format!("HEAD:refs/tags/{tag}")]).await.ok();
    copy.git(&["push", "--quiet", "berth", &format!(":refs/tags/{tag}")]).await.ok();
}

/// Path, query, referrer and user agent of a visit.
async fn by_visit(berth: &Berth) {
    let visitor = berth.visitor("web").header("user-agent", &canary_ascii("agent"));
    let visitor = visitor.header("referer", &canary_ascii("referrer"));
    let visitor = visitor.header("x-request-id", &canary_ascii("request_id"));
    visitor.get(&format!("/{}?{}", canary("path"), canary("query"))).await;
    for _ in 0..100 {
        let seen = berth.rest().get("/v1/apps/web/requests").await.ok();
        if seen.to_string().contains("KANARI-path") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the visit is not in the request log:\n{}", berth.log());
}

/// All that a Sentry client can say.
async fn by_sdk(berth: &Berth) {
    let told = berth.rest().get("/v1/apps/web/dsn").await.ok()["dsn"].as_str().unwrap().to_owned();
    let dsn = Dsn::of(&told);
    for (n, event) in events().into_iter().enumerate() {
        let id = format!("{:032x}", n + 1);
        let event = with(event, "event_id", json!(id));
        let (status, answer) = errors::send(&dsn, envelope(&id, &event)).await;
        assert!(status.is_success(), "{answer}");
    }
    errors::found(berth, "is:open", 3).await;
}

fn events() -> Vec<Value> {
    let frame = json!({
        "function": canary("function"), "filename": canary("file"), "module": canary("module"), "lineno": 3,
        "in_app": true, "context_line": canary("code"), "pre_context": [canary("code_before")],
    });
    let thrown = json!({
        "platform": "python", "release": canary("release"), "environment": canary("environment"),
        "transaction": canary("transaction"), "server_name": canary("server"), "logger": canary("logger"),
        "exception": { "values": [{
            "type": canary("type"), "value": canary("value"), "module": canary("exception_module"),
            "mechanism": { "type": canary("mechanism") }, "stacktrace": { "frames": [frame] },
        }] },
        "tags": { canary("tag_key"): canary("tag_value"), "KANARI-key": canary("tag_value") },
        "user": { "id": canary("user"), "email": canary("email"), "username": canary("username") },
        "breadcrumbs": [{ "category": canary("crumb_category"), "message": canary("crumb"),
            "level": canary("crumb_level"), "data": { canary("data_key"): canary("data") } }],
        "request": { "method": canary("method"), "url": format!("https://shop.example/{}", canary("url")),
            "headers": { "User-Agent": canary_ascii("sdk_agent") } },
        "contexts": {
            "browser": { "name": canary("browser"), "version": canary("version") },
            "os": { "name": canary("os") },
            "trace": { "trace_id": canary("trace"), "span_id": canary("span") },
            "replay": { "replay_id": canary("replay") },
        },
        "sdk": { "name": canary("sdk"), "version": canary("sdk_version") }, "extra": { "x": canary("extra") },
    });
    let logged = json!({
        "platform": canary("platform"), "level": canary("level"), "message": canary("message"),
        "fingerprint": [canary("fingerprint")], "release": canary("second_release"),
    });
    let minified = json!({
        "platform": "javascript", "release": canary("map_release"),
        "exception": { "values": [{ "type": "TypeError", "value": "x", "stacktrace": { "frames": [{
            "function": "a", "abs_path": format!("https://shop.example/{}.js", canary_word("map")),
            "filename": format!("https://shop.example/{}.js", canary_word("map")), "lineno": 1, "colno": 900,
            "in_app": true,
        }] } }] },
    });
    vec![thrown, logged, minified]
}

/// An event with all that may come beside it.
fn envelope(id: &str, event: &Value) -> Vec<u8> {
    let feedback = json!({ "contexts": { "feedback": {
        "message": canary("feedback"), "name": canary("feedback_name"), "contact_email": canary("feedback_mail"),
        "associated_event_id": id,
    } } });
    let report = json!({
        "event_id": id, "name": canary("report_name"), "email": canary("report_mail"), "comments": canary("report"),
    });
    let check_in = json!({
        "check_in_id": id, "monitor_slug": canary("check_in"), "status": canary("check_in_status"),
        "environment": canary("check_in_environment"),
    });
    let dropped = json!({ "discarded_events": [
        { "category": canary("category"), "reason": canary("reason"), "quantity": 3 },
        { "category": "KANARI-category", "reason": "KANARI-reason", "quantity": 3 },
    ] });
    let transaction = json!({
        "type": "transaction", "transaction": canary("traced"), "contexts": { "trace": { "op": canary("op") } },
        "spans": [{ "description": canary("description") }],
    });
    let logs = json!({ "items": [{ "body": canary("log_item"), "level": "info" }] });
    let session =
        json!({ "sid": id, "did": canary("device"), "attrs": { "release": canary("session_release") } });
    let (unheard, nothing) = (canary("item"), json!({}));
    let mut bytes = format!("{}\n", json!({ "event_id": id })).into_bytes();
    let items = [
        ("event", event),
        ("feedback", &feedback),
        ("user_report", &report),
        ("check_in", &check_in),
        ("client_report", &dropped),
        ("transaction", &transaction),
        ("log", &logs),
        ("session", &session),
        (unheard.as_str(), &nothing),
    ]
    .map(|(kind, body)| (json!({ "type": kind }), body.to_string()));
    let attachment = (
        json!({ "type": "attachment", "length": 1, "filename": canary("attachment"),
            "content_type": canary("content_type") }),
        "x".to_owned(),
    );
    for (header, body) in items.into_iter().chain([attachment]) {
        bytes.extend_from_slice(format!("{header}\n{body}\n").as_bytes());
    }
    bytes
}

/// Title, branch and repository of a pull request from a fork.
async fn by_pull_request(berth: &Berth) {
    let app = json!({ "name": "pulls", "settings": { "previews": "pull_requests" } });
    berth.rest().post("/v1/apps", app).await.ok();
    let body =
        json!({ "git_url": "https://git.example.org/acme/site.git", "forge": "github", "poll_minutes": 0 });
    let connected = berth.rest().send(Method::PUT, "/v1/apps/pulls/repository", Some(body)).await.ok();
    let hook = &connected["webhook"];
    let (url, secret) = (hook["payload_url"].as_str().unwrap(), hook["secret"].as_str().unwrap());
    let path = format!("/hooks/{}", url.split_once("/hooks/").unwrap().1);
    let mut told: Value =
        serde_json::from_str(include_str!("../../../forge/fixtures/github_pull.json")).unwrap();
    let pull = &mut told["pull_request"];
    pull["title"] = canary("pull_title").into();
    pull["user"]["login"] = canary("login").into();
    pull["head"]["ref"] = canary_word("pull_branch").into();
    pull["head"]["label"] = canary("label").into();
    pull["head"]["repo"]["full_name"] = canary("fork").into();
    told["sender"]["login"] = canary("sender").into();
    for (n, action) in ["opened", "closed"].into_iter().enumerate() {
        told["action"] = action.into();
        if action == "closed" {
            told["number"] = 8.into();
            told["pull_request"]["number"] = 8.into();
        }
        let body = told.to_string();
        let sent = berth
            .anonymous()
            .request(Method::POST, &path)
            .header("content-type", "application/json")
            .header("x-github-event", "pull_request")
            .header("x-github-delivery", format!("d-{n}"))
            .header("x-hub-signature-256", format!("sha256={}", sign(secret, body.as_bytes())))
            .body(body)
            .send();
        let answer = sent.await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }
    for _ in 0..200 {
        let all = pushes(berth, "pulls").await;
        if !all.is_empty() && all.iter().all(|p| p["state"] != "received") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the pull request is not decided:\n{}", berth.log());
}

/// What a container prints, and a build that fails in words of its own.
async fn by_container(berth: &Berth) {
    let folder = berth.scratch().join("boxed");
    std::fs::create_dir_all(&folder).unwrap();
    let server = format!(
        "import http.server\nprint({}, flush=True)\nhttp.server.ThreadingHTTPServer(('0.0.0.0', 8000), \
         http.server.SimpleHTTPRequestHandler).serve_forever()\n",
        json!(canary("log"))
    );
    std::fs::write(folder.join("server.py"), server).unwrap();
    let says = |door: &str, code: u8| {
        let program = format!("print({}); raise SystemExit({code})", json!(canary(door)));
        format!("RUN {}\n", json!(["python3", "-c", program]))
    };
    let dockerfile = |steps: String| {
        let text = format!(
            "FROM python:3.12-slim\nWORKDIR /srv\nCOPY server.py .\n{steps}ENV PORT=8000\nEXPOSE 8000\n\
             CMD [\"python3\", \"server.py\"]\n"
        );
        std::fs::write(folder.join("Dockerfile"), text).unwrap();
    };
    dockerfile(says("build", 0));
    let live = berth.deploy_folder(&folder, "boxed").await;
    assert_eq!(live.detail["state"], "live");
    for _ in 0..200 {
        if berth.rest().get("/v1/apps/boxed/logs").await.ok().to_string().contains("KANARI-log") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    dockerfile(says("failed", 3));
    let failed = berth.cli(["deploy", &folder.display().to_string(), "--app", "boxed"]).await;
    assert_ne!(failed.code, 0, "{}", failed.stdout);
}
