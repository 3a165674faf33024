//! Source maps that a deployment brings: Berth reads errors by them, and nobody else reads them.

use berth_observe::errors::maps::bundle;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{dsn, envelope, found, send};
use crate::harness::Berth;

/// What a page sends that knows nothing of Berth: neither a release nor a debug id.
fn minified() -> Value {
    let frame = json!({ "abs_path": "https://shop.example/main.js?v=1", "filename": "/main.js", "function": "e",
        "lineno": 3, "colno": 36, "in_app": true });
    json!({ "event_id": format!("{:032x}", 1), "platform": "javascript",
        "exception": { "values": [{ "type": "TypeError", "value": "r.price is undefined",
            "stacktrace": { "frames": [frame] } }] } })
}

#[tokio::test]
async fn maps_of_a_deployment_are_kept_private_and_used() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "shop").await;
    let pair = bundle::pairs(include_bytes!("../../../observe/tests/fixtures/artifact-bundle.zip"))
        .unwrap()
        .remove(0);
    let files = json!({ "index.html": "shop", "main.js": pair.source, "main.js.map": pair.map, "bad.js": "bad()",
        "bad.js.map": "no map" });
    let deploy = async || {
        let body = json!({ "files": files, "wait_s": 30, "no_cache": true });
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

    assert_eq!(send(&dsn, envelope(&minified())).await.0, StatusCode::OK);
    let issues = found(&berth, "TypeError", 1).await;
    let issue = issues[0]["issue"].as_str().unwrap();
    let detail = berth.rest().get(&format!("/v1/errors/{issue}")).await.ok().to_string();
    for wanted in ["src/main.ts", "priceOf", "item.price as number"] {
        assert!(detail.contains(wanted), "{wanted} is not in {detail}");
    }

    let public = json!({ "public_maps": true });
    berth.rest().send(Method::PATCH, "/v1/apps/shop/errors/rules", Some(public)).await.ok();
    deploy().await;
    assert_eq!(status("/main.js.map").await, 200);
}
