//! Previews in containers: a branch is pushed and has its own place, sleeps, wakes, goes to production, and goes away.

use std::time::{Duration, Instant};

use reqwest::Method;

use crate::{
    git::Repository,
    support::{docker, *},
};

/// Previews are looked at every five seconds; one of them is put to sleep after two.
const ASLEEP: Duration = Duration::from_secs(30);

fn image(berth: &Berth, app: &str) -> Vec<String> {
    let running = docker::running(&berth.instance, app);
    running.iter().map(|id| docker::docker(&["inspect", "--format", "{{.Image}}", id])).collect()
}

/// Where to push; another address after each start.
fn url(berth: &Berth) -> String {
    berth.control.replace("http://", &format!("http://git:{}@", berth.token)) + "/git/web.git"
}

async fn env(berth: &Berth, host: &str) -> Value {
    berth.visit(host, "/env").await.json()
}

fn states(environments: &Value) -> Vec<(String, bool)> {
    let all = environments["environments"].as_array().unwrap();
    all.iter().map(|e| (e["name"].as_str().unwrap().to_owned(), e["preview"]["sleeping"] == true)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_has_a_container_that_sleeps_wakes_is_promoted_and_goes_with_it() {
    needs_docker!();
    let mut berth = Berth::start().await;
    let settings = json!({ "previews": "branches", "preview_sleep_s": 2, "preview_ttl_hours": 1 });
    berth.post("/v1/apps", json!({ "name": "web", "settings": settings })).await;
    let set = json!({ "variables": { "WHERE": "production", "SHARED": "own" } });
    berth.send(Method::PUT, "/v1/apps/web/variables", set).await;
    let set = json!({ "variables": { "WHERE": "a preview" }, "scope": "previews" });
    berth.send(Method::PUT, "/v1/apps/web/variables", set).await;
    let repository = Repository::new(&berth);
    for (name, text) in apps::probe("main")["files"].as_object().unwrap() {
        std::fs::write(repository.dir.join(name), text.as_str().unwrap()).unwrap();
    }
    std::fs::remove_file(repository.dir.join("index.html")).unwrap();
    let commit = |version: &str| {
        std::fs::write(repository.dir.join("version.txt"), version).unwrap();
        repository.git(&["add", "--all"]);
        repository.git(&["commit", "--quiet", "--message", version]);
    };
    commit("one");
    repository.git(&["push", "--quiet", &url(&berth), "main"]);
    repository.git(&["checkout", "--quiet", "-b", "idea"]);
    commit("two");
    repository.git(&["push", "--quiet", &url(&berth), "idea"]);
    assert_eq!(berth.visit("web", "/").await.json()["version"], "one");
    assert_eq!(berth.visit("idea--web", "/").await.json()["version"], "two");
    assert_eq!(env(&berth, "web").await["WHERE"], "production");
    assert_eq!(env(&berth, "idea--web").await["WHERE"], "a preview");

    // It falls asleep, alone, and a crowd at its door wakes it once and is all answered.
    let asleep = async |berth: &Berth| {
        eventually("the preview's sleep", ASLEEP, async || {
            let now = states(&berth.get("/v1/apps/web/environments").await);
            let running = docker::running(&berth.instance, "web").len();
            (now.contains(&("idea".into(), true)) && running == 1).then_some(())
        })
        .await;
    };
    asleep(&berth).await;
    let begun = Instant::now();
    let crowd = (0..20).map(|_| berth.visit("idea--web", "/"));
    for page in futures_util::future::join_all(crowd).await {
        assert_eq!((page.status, &page.json()["version"]), (200, &json!("two")));
    }
    measured("a preview woke and answered a crowd", begun.elapsed());
    // Also after a crash while it slept.
    asleep(&berth).await;
    berth.kill();
    berth.run().await;
    assert_eq!(berth.visit("idea--web", "/").await.json()["version"], "two");

    // Promoted: the same image, production's variables, nothing built.
    let built = image(&berth, "web");
    let promote = json!({ "from": "idea", "wait_s": 40 });
    let promoted = berth.post("/v1/apps/web/promote", promote).await;
    assert_eq!(promoted["state"], "live", "{promoted:#}");
    assert!(!promoted["steps"].to_string().contains("building"), "{promoted:#}");
    let page = env(&berth, "web").await;
    assert_eq!((&page["WHERE"], &page["SHARED"]), (&json!("production"), &json!("own")));
    assert_eq!(berth.visit("web", "/").await.json()["version"], "two");
    assert_eq!(promoted["source"], json!({ "kind": "promote", "of": "web#2" }));
    eventually("the old release's end", Duration::from_secs(20), async || {
        image(&berth, "web").iter().all(|now| built.contains(now)).then_some(())
    })
    .await;

    // Gone with the branch.
    repository.git(&["push", "--quiet", &url(&berth), "--delete", "idea"]);
    eventually("the preview's end", Duration::from_secs(30), async || {
        (states(&berth.get("/v1/apps/web/environments").await).len() == 1).then_some(())
    })
    .await;
    assert_eq!(berth.visit("idea--web", "/").await.status, 404);
    assert_eq!(berth.visit("web", "/").await.json()["version"], "two");

    // And when its time is over, of which an hour passes while nobody looks.
    repository.git(&["push", "--quiet", &url(&berth), "idea:later"]);
    assert_eq!(berth.visit("later--web", "/").await.json()["version"], "two");
    berth.kill();
    berth.execute("UPDATE previews SET expires_at = expires_at - 3600000000").await;
    berth.run().await;
    eventually("the end of a preview's time", Duration::from_secs(30), async || {
        (states(&berth.get("/v1/apps/web/environments").await).len() == 1).then_some(())
    })
    .await;
    eventually("one container", Duration::from_secs(20), async || {
        (docker::running(&berth.instance, "web").len() == 1).then_some(())
    })
    .await;
}
