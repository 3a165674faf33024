//! Source maps that a deployment brings: Berth reads errors by them, and nobody else reads them.

use std::time::Duration;

use berth_observe::errors::maps::bundle;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::Berth;

async fn tell(dsn: &str, n: u32) {
    let (place, id) = dsn.rsplit_once('/').unwrap();
    let (scheme, rest) = place.split_once("://").unwrap();
    let (key, host) = rest.split_once('@').unwrap();
    // Neither a release nor a debug id: what a page sends that knows nothing of Berth.
    let frame = json!({ "abs_path": "https://shop.example/main.js?v=1", "filename": "/main.js", "function": "e",
        "lineno": 3, "colno": 36, "in_app": true });
    let event = json!({ "event_id": format!("{n:032x}"), "platform": "javascript",
        "exception": { "values": [{ "type": "TypeError", "value": "r.price is undefined",
            "stacktrace": { "frames": [frame] } }] } });
    let url = format!("{scheme}://{host}/api/{id}/store/?sentry_key={key}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(client.post(url).body(event.to_string()).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn maps_of_a_deployment_are_kept_private_and_used() {
    let berth = Berth::without_docker().await;
    let pair =
        bundle::pairs(include_bytes!("../../observe/tests/fixtures/artifact-bundle.zip")).unwrap().remove(0);
    let files = json!({ "index.html": "shop", "main.js": pair.source, "main.js.map": pair.map, "bad.js": "bad()",
        "bad.js.map": "no map" });
    let deploy = async || {
        let body = json!({ "files": files, "create_app": true, "wait_s": 30, "no_cache": true });
        let done = berth.rest().post("/v1/apps/shop/deployments", body).await.ok();
        assert_eq!(done["state"], "live", "{done:#}");
        done
    };
    let done = deploy().await;
    let status = async |path: &str| berth.visit("shop", path).await.status;
    assert_eq!((status("/main.js").await, status("/main.js.map").await), (200, 404));
    let name = done["deployment"].as_str().unwrap().replace('#', "%23");
    let log = berth.rest().get(&format!("/v1/deployments/{name}/log")).await.ok().to_string();
    assert!(log.contains("1 source maps are kept for reading errors and not served"), "{log}");
    assert!(log.contains("the source map of ~/bad.js cannot be used"), "{log}");

    let dsn = berth.rest().get("/v1/apps/shop/dsn").await.ok()["dsn"].as_str().unwrap().to_owned();
    tell(&dsn, 1).await;
    let mut issues = Value::Null;
    for _ in 0..100 {
        issues = berth.rest().get("/v1/errors?query=TypeError").await.ok();
        if issues["issues"].as_array().is_some_and(|all| !all.is_empty()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let issue = issues["issues"][0]["issue"].as_str().unwrap_or_else(|| panic!("no issue: {issues:#}"));
    let detail = berth.rest().get(&format!("/v1/errors/{issue}")).await.ok().to_string();
    for wanted in ["src/main.ts", "priceOf", "item.price as number"] {
        assert!(detail.contains(wanted), "{wanted} is not in {detail}");
    }

    let public = json!({ "public_maps": true });
    berth.rest().send(Method::PATCH, "/v1/apps/shop/errors/rules", Some(public)).await.ok();
    deploy().await;
    assert_eq!(status("/main.js.map").await, 200);
}
