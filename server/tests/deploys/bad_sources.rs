//! Names and sources that cannot be: each refused with a code, the reason and the next step, leaving nothing
//! behind and what serves untouched.

use reqwest::Method;

use crate::support::{
    archive,
    before::{Before, assert_problem},
    *,
};

/// A daemon with a live site, and what there is then.
async fn with_live_site() -> (Berth, Before) {
    let berth = Berth::start().await;
    berth.deploy_live("site", apps::site("what serves")).await;
    let before = Before::something(&berth).await;
    (berth, before)
}

async fn assert_untouched(berth: &Berth, before: &Before) {
    before.assert_same(berth).await;
    let page = berth.visit("site", "/").await;
    assert!(page.status == 200 && page.body.contains("what serves"), "{page:#?}");
    assert_eq!(berth.get("/v1/apps/site").await["live"], "site#1");
}

/// Deploys an archive over what is live, and wants it refused while it is fetched.
async fn assert_archive_refused(bytes: Vec<u8>, kind: &str, code: &str, detail: &[&str]) {
    let (berth, before) = with_live_site().await;
    let upload = berth.upload(bytes, kind).await;
    let problem = berth.deploy_failing("site", json!({ "upload": upload })).await;
    assert_problem(&problem, code, Some("fetching"), detail, &["archive"]);
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_app_offers_those_with_similar_names() {
    let (berth, before) = with_live_site().await;
    let refused = berth.try_get("/v1/apps/siet").await.unwrap_err();
    assert_eq!(refused.status, 404);
    assert_problem(&refused.problem, "not_found", None, &["siet"], &["Did you mean site?"]);
    assert_eq!(texts(&refused.problem["candidates"]), ["site"]);
    // A deployment without create_app does not make one by a slip of the fingers.
    let refused =
        berth.try_send(Method::POST, "/v1/apps/siet/deployments", apps::site("x")).await.unwrap_err();
    assert_problem(&refused.problem, "not_found", None, &["siet"], &["site", "create_app=true"]);
    assert_untouched(&berth, &before).await;
    let ran = berth.cli(&["app", "get", "siet"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("Did you mean site?"), "{ran:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_is_refused() {
    let (berth, before) = with_live_site().await;
    let refused = berth.try_send(Method::POST, "/v1/apps", json!({ "name": "site" })).await.unwrap_err();
    assert_eq!(refused.status, 409);
    assert_problem(&refused.problem, "already_exists", None, &["site"], &[]);
    let refused = berth.try_send(Method::POST, "/v1/apps", json!({ "name": "My Site!" })).await.unwrap_err();
    assert_eq!(refused.code(), "invalid_input", "{refused:#?}");
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_nothing_recognises_says_what_was_looked_for() {
    let (berth, before) = with_live_site().await;
    let source = json!({ "files": { "notes.txt": "hello", "src/main.zig": "pub fn main() void {}" } });
    let problem = berth.deploy_failing("site", source).await;
    assert_problem(
        &problem,
        "nothing_recognised",
        Some("building"),
        &["notes.txt", "Dockerfile"],
        &["index.html"],
    );
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_that_is_set_but_not_there_is_named() {
    let (berth, before) = with_live_site().await;
    let settings = json!({ "settings": { "builder": "dockerfile", "dockerfile": "deploy/Dockerfile" } });
    berth.send(Method::PATCH, "/v1/apps/site", settings).await;
    let source = json!({ "files": { "Dockerfile": "FROM scratch\n", "index.html": "x" } });
    let problem = berth.deploy_failing("site", source).await;
    assert_problem(&problem, "bad_plan", Some("building"), &["deploy/Dockerfile"], &[]);
    assert_eq!(texts(&problem["candidates"]), ["Dockerfile"], "{problem:#}");
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_upload_is_refused() {
    let (berth, before) = with_live_site().await;
    let refused = berth.try_upload(Vec::new(), "application/gzip").await.unwrap_err();
    assert_problem(&refused.problem, "empty_source", None, &["empty"], &[".tar.gz"]);
    assert_eq!(berth.entries("uploads").len(), 1, "only that of what is live");
    let refused =
        berth.try_send(Method::POST, "/v1/apps/site/deployments", json!({ "files": {} })).await.unwrap_err();
    assert_eq!(refused.code(), "empty_source", "{refused:#?}");
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_without_files_is_refused() {
    assert_archive_refused(archive::tar_gz(&[]), "application/gzip", "empty_source", &["no files"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_climbs_out_is_refused() {
    for name in ["../escape.html", "a/../../escape.html", "/etc/berth-escape"] {
        let bytes = archive::tar_gz_with_name(name);
        assert_archive_refused(bytes, "application/gzip", "bad_archive", &[name]).await;
    }
    assert!(!std::path::Path::new("/etc/berth-escape").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_with_a_link_out_of_it_is_refused() {
    for target in ["/etc/passwd", "../../../berth.db"] {
        let bytes = archive::tar_gz_with_link(target);
        assert_archive_refused(bytes, "application/gzip", "bad_archive", &["secrets"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_explodes_is_refused_before_it_fills_the_disk() {
    let bytes = archive::bomb(400);
    assert!(bytes.len() < 1 << 20, "a bomb is small: {}", bytes.len());
    assert_archive_refused(bytes, "application/gzip", "bad_archive", &["200 times"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn something_that_is_no_archive_is_refused() {
    let page = b"<!doctype html><p>I am a page</p>".to_vec();
    assert_archive_refused(page, "application/gzip", "bad_archive", &[".tar.gz"]).await;
    assert_archive_refused(archive::noise(), "application/octet-stream", "bad_archive", &[".tar.gz"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_was_cut_off_is_refused() {
    let mut bytes = archive::tar_gz(&[("index.html", &"a page of some length ".repeat(5000))]);
    bytes.truncate(bytes.len() / 2);
    assert_archive_refused(bytes, "application/gzip", "bad_archive", &["cannot be read"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_another_kind_or_size_is_refused() {
    let berth = Berth::start_with(Options::default().with("upload-max-mb", "1")).await;
    let refused = berth.try_upload(b"{}".to_vec(), "application/json").await.unwrap_err();
    assert_problem(&refused.problem, "invalid_input", None, &["application/json"], &["application/gzip"]);
    let refused = berth.try_upload(vec![0; (1 << 20) + 1], "application/gzip").await.unwrap_err();
    assert_eq!(refused.status, 413);
    assert_problem(&refused.problem, "too_large", None, &["1 MiB"], &[".berthignore", "upload_max_mb"]);
    assert_eq!(berth.entries("uploads"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_files_that_climb_out_are_refused() {
    let (berth, before) = with_live_site().await;
    for path in ["../index.html", "a/../../b", "/etc/berth-escape", "nul\0"] {
        let source = json!({ "files": { path: "x", "index.html": "y" } });
        let refused = berth.try_send(Method::POST, "/v1/apps/site/deployments", source).await.unwrap_err();
        assert_eq!(
            (refused.code(), &refused.problem["field"]),
            ("invalid_input", &json!("files")),
            "{path:?}: {refused:#?}"
        );
    }
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_persons_upload_is_as_good_as_none() {
    let berth = Berth::start().await;
    let upload = berth.upload(archive::tar_gz(&[("index.html", "mine")]), "application/gzip").await;
    let other = json!({ "name": "other", "scopes": ["read", "deploy", "write"] });
    let token = berth.post("/v1/tokens", other).await["secret"].as_str().unwrap().to_owned();
    let response = berth
        .client
        .post(format!("{}/v1/apps/theirs/deployments", berth.control))
        .bearer_auth(token)
        .json(&json!({ "upload": upload, "create_app": true }))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 404, "{}", response.text().await.unwrap());
}
