//! The daemon is replaced while visitors come, and goes on when its successor fails.

use std::{path::Path, time::Duration};

use crate::support::{traffic::Visitors, *};

/// Wants a job that ended well.
fn assert_succeeded(job: &Value) {
    assert_eq!(job["state"], "succeeded", "{job:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_upgrades_under_load_lose_no_request() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let first = berth.pid();
    let visitors = Visitors::of(&berth, "web", 8);
    for _ in 0..5 {
        let before = berth.pid();
        assert_succeeded(&berth.upgrade().await);
        assert_ne!(berth.pid(), before, "another process serves");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let report = visitors.stop().await;
    println!("measured: {} requests during 5 upgrades, {} failed", report.requests, report.failed);
    report.assert_flawless(500);
    eventually("the end of the first process", Duration::from_secs(40), async || {
        std::fs::read_to_string(format!("/proc/{first}/stat"))
            .map_or(true, |s| s.contains(") Z "))
            .then_some(())
    })
    .await;
    // The new process is a whole one.
    berth.deploy_live("web", apps::probe("2")).await;
    assert_eq!(berth.visit("web", "/").await.json()["version"], "2");
    let requests = berth.get("/v1/apps/web/requests?limit=200").await;
    assert!(requests["requests"].as_array().unwrap().len() > 100, "records go on across upgrades");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_spans_an_upgrade_and_a_deployment_ends_well() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let (http, client) = (berth.http, berth.client.clone());
    let slow = tokio::spawn(async move {
        let url = format!("http://{http}/slow?ms=9000");
        let answer = client.get(url).header("host", "web.localhost").send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_succeeded(&berth.upgrade().await);
    // The new process replaces the release in which the old process still has a request.
    berth.deploy_live("web", apps::probe("2")).await;
    let (status, said) = slow.await.unwrap();
    assert_eq!((status, &said["version"]), (200, &json!("1")));
    let path = "/v1/apps/web/requests?limit=200&path_prefix=/slow";
    eventually("the record of the request", Duration::from_secs(10), async || {
        let requests = berth.get(path).await;
        requests["requests"].as_array().unwrap().iter().any(|r| r["path"] == "/slow").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_under_way_is_taken_up_by_the_new_process() {
    needs_docker!();
    let mut berth = Berth::start().await;
    let mut source = apps::probe("1");
    let text = source["files"]["Dockerfile"].as_str().unwrap().replace("EXPOSE", "RUN sleep 4\nEXPOSE");
    source["files"]["Dockerfile"] = json!(text);
    let deployment = berth.begin("web", source).await;
    berth.reached(&deployment, "building").await;
    for _ in 0..4 {
        assert_succeeded(&berth.upgrade().await);
    }
    assert_eq!(berth.settled(&deployment).await["state"], "live", "orderly ends are not held against it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_fails_leaves_the_old_process_serving() {
    let mut berth = Berth::start().await;
    berth.deploy_live("site", apps::site("still here")).await;
    let kept = berth.scratch("kept").join("berth");
    std::fs::copy(berth.program(), &kept).unwrap();
    let before = berth.pid();
    // Not even Berth.
    berth.install(Path::new("/bin/false"));
    let job = berth.upgrade().await;
    assert_eq!(
        (&job["state"], &job["problem"]["code"]),
        (&json!("failed"), &json!("unavailable")),
        "{job:#}"
    );
    assert!(job["problem"]["detail"].as_str().unwrap().contains("before it was prepared"), "{job:#}");
    assert_eq!(berth.pid(), before);
    berth.install(&kept);
    // One that cannot read the data any more.
    let key = berth.data().join("secret.key");
    let held = std::fs::read(&key).unwrap();
    let other: Vec<u8> = held.iter().rev().copied().collect();
    assert_ne!(other, held);
    std::fs::write(&key, other).unwrap();
    let job = berth.upgrade().await;
    assert_eq!(job["state"], "failed", "{job:#}");
    std::fs::write(&key, held).unwrap();
    // It was found out late: the control plane was given away already, and has come back.
    assert_eq!(berth.pid(), before);
    assert_eq!(berth.get("/v1/apps/site").await["state"], "running");
    assert!(berth.visit("site", "/").await.body.contains("still here"));
    berth.deploy_live("site", apps::site("and well")).await;
    assert!(berth.visit("site", "/").await.body.contains("and well"));
    assert_succeeded(&berth.upgrade().await);
    assert!(berth.visit("site", "/").await.body.contains("and well"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_that_does_not_serve_is_taken_back() {
    let mut berth = Berth::start().await;
    berth.deploy_live("site", apps::site("still here")).await;
    let kept = berth.scratch("kept").join("berth");
    std::fs::copy(berth.program(), &kept).unwrap();
    let newer = berth.scratch("newer").join("berth");
    std::fs::write(&newer, include_str!("apps/newer_berth.py")).unwrap();
    std::fs::set_permissions(&newer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let before = berth.pid();
    berth.install(&newer);
    let job = berth.upgrade().await;
    assert_eq!(job["state"], "failed", "{job:#}");
    assert!(job["problem"]["detail"].as_str().unwrap().contains("before it served"), "{job:#}");
    assert_eq!(berth.pid(), before);
    // The copy from before the change is in place again; what the newer version made of it is kept for a person.
    assert!(berth.visit("site", "/").await.body.contains("still here"));
    berth.deploy_live("site", apps::site("and well")).await;
    assert!(berth.visit("site", "/").await.body.contains("and well"));
    assert!(berth.data().join("berth.db.refused").exists());
    berth.install(&kept);
    assert_succeeded(&berth.upgrade().await);
    assert!(berth.visit("site", "/").await.body.contains("and well"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_cannot_come_back_at_once_tries_until_it_can() {
    let berth = Berth::start().await;
    berth.deploy_live("site", apps::site("still here")).await;
    let newer = berth.scratch("newer").join("berth");
    std::fs::write(&newer, include_str!("apps/newer_berth.py")).unwrap();
    std::fs::set_permissions(&newer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // The newer version leaves a file where a directory has to be.
    std::fs::write(berth.data().join("break-work"), "").unwrap();
    berth.install(&newer);
    berth.post("/v1/platform/upgrade", json!({})).await;
    let work = berth.data().join("work");
    eventually("the newer version to fail", Duration::from_secs(20), async || work.is_file().then_some(()))
        .await;
    // Long enough for a try that fails; visitors notice nothing.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(berth.visit("site", "/").await.body.contains("still here"));
    std::fs::remove_file(&work).unwrap();
    std::fs::remove_file(berth.data().join("break-work")).unwrap();
    // A call waits until somebody accepts it.
    berth.deploy_live("site", apps::site("and well")).await;
    assert!(berth.visit("site", "/").await.body.contains("and well"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_and_the_command_line_do_the_same() {
    let berth = Berth::start().await;
    berth.deploy_live("site", apps::site("here")).await;
    let before = berth.pid();
    let pid = rustix::process::Pid::from_raw(i32::try_from(before).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::USR2).unwrap();
    eventually("another process", Duration::from_secs(20), async || (berth.pid() != before).then_some(()))
        .await;
    assert!(berth.visit("site", "/").await.body.contains("here"));
    let job = berth.cli(&["upgrade", "--json"]).await.ok().json();
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert!(berth.visit("site", "/").await.body.contains("here"));
}
