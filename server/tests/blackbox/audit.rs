//! What is in the audit log besides calls of tools.

use serde_json::{Value, json};

use crate::{
    git_push::{Copy, site},
    harness::Berth,
};

async fn rows(berth: &Berth, query: &str) -> Vec<(String, String, String)> {
    let page = berth.rest().get(&format!("/v1/audit?{query}")).await.ok();
    let calls = page["calls"].as_array().unwrap().iter();
    let text = |call: &Value, field: &str| call[field].as_str().unwrap_or_default().to_owned();
    calls.map(|c| (text(c, "principal"), text(c, "outcome"), text(c, "target"))).collect()
}

fn row(principal: &str, outcome: &str, target: &str) -> (String, String, String) {
    (principal.into(), outcome.into(), target.into())
}

#[tokio::test]
async fn what_comes_in_by_other_doors_is_in_the_audit_log() {
    let berth = Berth::without_docker().await;
    let reader = berth.token("reader", &["read"], &[]).await;

    let archive = b"\x1f\x8b no archive, which nobody has looked at yet".to_vec();
    berth.rest().upload("application/gzip", archive.clone()).await.ok();
    berth.rest().upload("text/html", archive.clone()).await.problem(400, "invalid_input");
    berth.rest_as(&reader).upload("application/gzip", archive).await.problem(403, "forbidden");
    assert_eq!(
        rows(&berth, "tool=upload_create").await,
        [row("reader", "forbidden", ""), row("admin", "invalid_input", ""), row("admin", "ok", "")]
    );

    site(&berth, "web", "default").await;
    let copy = Copy::new(&berth, "web", &berth.token).await;
    copy.commit("index.html", "one").await;
    copy.git(&["push", "--quiet", "berth", "main"]).await.ok();
    let as_reader = crate::git_push::url(&berth, "web", &reader);
    copy.git(&["push", "--quiet", &as_reader, "main:other"]).await.fails();
    assert_eq!(
        rows(&berth, "tool=git_push").await,
        [row("reader", "forbidden", "app=web"), row("admin", "ok", "app=web")]
    );
    let pushed = &berth.rest().get("/v1/audit?tool=git_push&outcome=ok").await.ok()["calls"][0];
    assert_eq!(pushed["surface"], "git", "{pushed}");
    assert!(pushed["client"].as_str().unwrap().starts_with("git/"), "{pushed}");
    assert!(pushed["request_id"].is_string() && pushed["duration_ms"].is_i64(), "{pushed}");

    let release = json!({ "version": "1.0", "projects": ["web"] });
    berth.rest().post("/api/0/organizations/any/releases/", release.clone()).await.ok();
    let refused = berth.rest_as(&reader).post("/api/0/organizations/any/releases/", release).await;
    assert_eq!(refused.status, 403);
    assert_eq!(
        rows(&berth, "tool=error_release_set").await,
        [row("reader", "forbidden", "app=web"), row("admin", "ok", "app=web")]
    );
    let bundle = json!({ "checksum": "0".repeat(40), "chunks": ["1".repeat(40)], "projects": ["web"] });
    let asked = berth.rest().post("/api/0/organizations/any/artifactbundle/assemble/", bundle).await.ok();
    assert_eq!(asked["missingChunks"], json!(["1".repeat(40)]));
    assert_eq!(rows(&berth, "tool=error_map_upload").await, [row("admin", "ok", "app=web")]);

    let call = json!({ "name": "tool_search", "arguments": { "query": "open sesame" } });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call });
    let mcp = berth.rest_as(&reader).header("accept", "application/json, text/event-stream");
    mcp.header("mcp-protocol-version", "2025-11-25").post("/mcp", body).await.ok();
    assert_eq!(rows(&berth, "tool=tool_search").await, [row("reader", "ok", "")]);
    let all = berth.rest().get("/v1/audit?limit=200").await.ok().to_string();
    assert!(!all.contains("sesame"), "what was searched for is nobody's business: {all}");
}
