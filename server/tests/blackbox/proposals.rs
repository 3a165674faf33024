//! Proposals across the end of the daemon.

use serde_json::json;

use crate::harness::Berth;

#[tokio::test]
async fn a_proposal_that_a_crash_cuts_says_what_to_look_at() {
    // It accepts connections and says nothing, so that the approved call waits for its deployment.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/shop.git", silent.local_addr().unwrap());
    let flags = ["--allow-private-sources", "true"];
    let mut berth = Berth::without_docker_with(&flags).await;
    let token = json!({ "name": "model", "scopes": ["write"], "mode": "propose" });
    let token = berth.rest().post("/v1/tokens", token).await.ok()["secret"].as_str().unwrap().to_owned();
    berth.rest().post("/v1/apps", json!({ "name": "shop" })).await.ok();
    let wanted = json!({ "git_url": url, "wait_s": 50 });
    let proposed = berth.rest_as(&token).post("/v1/apps/shop/deployments", wanted).await;
    proposed.problem(403, "approval_required");

    let rest = berth.rest();
    let approving = tokio::spawn(async move {
        let body = json!({ "confirm": "1" });
        let _ = rest.request(reqwest::Method::POST, "/v1/proposals/1/approve").json(&body).send().await;
    });
    let mut state = String::new();
    for _ in 0..200 {
        let begun = berth.rest().get("/v1/deployments/shop%231").await;
        state = berth.rest().get("/v1/proposals/1").await.ok()["state"].to_string();
        if begun.status == 200 && state == "\"running\"" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(state, "\"running\"");
    berth.kill().await;
    approving.await.unwrap();
    berth.start_again().await;

    let found = berth.rest().get("/v1/proposals/1").await.ok();
    assert_eq!((&found["state"], &found["problem"]["code"]), (&json!("interrupted"), &json!("interrupted")));
    let hint = found["problem"]["hint"].as_str().unwrap();
    assert!(hint.contains("audit_search(tool=\"deployment_create\", outcome=\"unfinished\")"), "{hint}");
    // What the hint names says so.
    let audit = berth.rest().get("/v1/audit?tool=deployment_create&outcome=unfinished").await.ok();
    assert_eq!(audit["calls"].as_array().unwrap().len(), 1, "{audit}");
    let events = berth.rest().get("/v1/events?kind=proposal.interrupted").await.ok();
    assert_eq!(events["events"].as_array().unwrap().len(), 1, "{events}");
    // It does not run twice.
    let again = berth.rest().post("/v1/proposals/1/approve", json!({ "confirm": "1" })).await;
    assert_eq!(again.status, 409, "{}", again.text);
    berth.rest().get("/v1/deployments/shop%232").await.problem(404, "not_found");
}
