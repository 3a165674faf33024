//! Where a `git push` goes besides production: environments that have a branch, those that the pusher names, previews.

use serde_json::{Value, json};

use crate::git_push::{pushes, with_site};

#[tokio::test]
async fn a_branch_goes_to_its_environment_and_the_pusher_may_name_another() {
    let (berth, copy) = with_site("web").await;
    copy.commit("index.html", "one").await;
    copy.git(&["push", "--quiet", "berth", "main"]).await.ok();
    copy.git(&["checkout", "--quiet", "-b", "develop"]).await.ok();
    copy.commit("index.html", "two").await;
    // Nobody has the branch: what to do is told, and then works.
    copy.git(&["push", "berth", "develop"]).await.ok().says("develop is not deployed");
    let ignored = pushes(&berth, "web").await[0]["push"].as_i64().unwrap();
    let path = format!("/v1/apps/web/pushes/{ignored}");
    let next = berth.rest().get(&path).await.ok()["next"].as_str().unwrap().to_owned();
    assert!(next.contains("environment_update(") && !next.contains("push_rules_set"), "{next}");
    let staging = json!({ "environment": "staging", "branch": "develop" });
    berth.rest().post("/v1/apps/web/environments", staging).await.ok();
    let again = berth.rest().post(&format!("{path}/retry"), json!({})).await.ok();
    assert_eq!(again["push"]["state"], "handled", "{again:#}");
    // From now on its pushes go there, and to production only those of main.
    copy.commit("index.html", "three").await;
    let said = copy.git(&["push", "berth", "develop"]).await.ok();
    said.says("deploys it to staging").says("is live at http://staging--web.localhost");
    assert_eq!(berth.visit("staging--web", "/").await.text, "three");
    assert_eq!(berth.visit("web", "/").await.text, "one");
    // The pusher names one, whichever branch it is.
    copy.git(&["checkout", "--quiet", "-b", "idea"]).await.ok();
    copy.commit("index.html", "four").await;
    let said = copy.git(&["push", "-o", "environment=staging", "berth", "idea"]).await.ok();
    said.says("deploys it to staging").says("the pusher named it");
    assert_eq!(berth.visit("staging--web", "/").await.text, "four");
    copy.commit("index.html", "five").await;
    copy.git(&["push", "-o", "environment=production", "berth", "idea"]).await.ok().says("is live at");
    assert_eq!(berth.visit("web", "/").await.text, "five");
    copy.commit("index.html", "six").await;
    let said = copy.git(&["push", "-o", "environment=nowhere", "berth", "idea"]).await.ok();
    said.says("idea is not deployed (ignored): the app has no environment nowhere");
    let states: Vec<Value> = pushes(&berth, "web").await.iter().rev().map(|p| p["state"].clone()).collect();
    assert_eq!(states, ["handled", "handled", "handled", "handled", "handled", "ignored"]);
}

#[tokio::test]
async fn the_rules_name_the_branch_that_production_has() {
    let (berth, copy) = with_site("web").await;
    let effect = async || berth.rest().get("/v1/apps/web/push-rules").await.ok()["effect"].clone();
    let update = async |path: &str, body: Value| {
        berth.rest().send(reqwest::Method::PATCH, path, Some(body)).await.ok();
    };
    assert!(effect().await.as_str().unwrap().contains("default branch"));
    update("/v1/apps/web", json!({ "settings": { "git_ref": "release" } })).await;
    assert_eq!(effect().await, "A push to the branch release deploys to production.");
    // The environment's own goes before the setting, as for a push.
    update("/v1/apps/web/environments/production", json!({ "branch": "live" })).await;
    assert_eq!(effect().await, "A push to the branch live deploys to production.");
    copy.commit("index.html", "one").await;
    copy.git(&["push", "berth", "main:live"]).await.ok().says("deploys it to production");
    copy.git(&["push", "berth", "main:release"]).await.ok().says("release is not deployed");
}

#[tokio::test]
async fn a_branch_that_comes_back_at_once_has_its_preview_again() {
    let (berth, copy) = with_site("web").await;
    let settings = json!({ "settings": { "previews": "branches" } });
    berth.rest().send(reqwest::Method::PATCH, "/v1/apps/web", Some(settings)).await.ok();
    copy.commit("index.html", "idea").await;
    copy.git(&["push", "--quiet", "berth", "main", "main:idea"]).await.ok();
    for _ in 0..3 {
        copy.git(&["push", "berth", "--delete", "idea"]).await.ok().says("its preview is removed");
        copy.git(&["push", "berth", "main:idea"]).await.ok().says("is live at http://idea--web.localhost");
        assert_eq!(berth.visit("idea--web", "/").await.text, "idea");
    }
}
