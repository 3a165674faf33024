//! Things that happen to a machine while Berth serves on it: hands on its containers, reboots, a restarted Docker, a
//! store that somebody locks, a full disk. Berth notices, repairs what is its own, says what it cannot repair; and the
//! visitors of apps that are well notice nothing.

use std::time::{Duration, Instant};

use reqwest::Method;

use crate::support::{
    disk::SmallDisk,
    docker::{self, docker},
    own_engine::OwnEngine,
    relay::Relay,
    traffic::Visitors,
    *,
};

/// Longest time until an app that was broken by hand serves again.
const REPAIR: Duration = Duration::from_secs(15);

/// The id of the one container of an app that runs.
fn container(berth: &Berth, app: &str) -> String {
    let mut all = docker::running(&berth.instance, app);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn network_of(id: &str) -> String {
    docker(&["inspect", "--format", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}", id])
        .trim()
        .to_owned()
}

fn address(id: &str) -> String {
    docker(&["inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", id])
        .trim()
        .to_owned()
}

/// Waits until an app answers and all its replicas run; how long that took.
async fn serves(berth: &Berth, app: &str, what: &str) -> Duration {
    let begun = Instant::now();
    eventually(what, REPAIR + Duration::from_secs(15), async || {
        let visit = tokio::time::timeout(Duration::from_secs(2), berth.visit(app, "/")).await;
        let well = visit.is_ok_and(|page| page.status == 200)
            && berth.get(&format!("/v1/apps/{app}")).await["state"] == "running";
        well.then_some(())
    })
    .await;
    let took = begun.elapsed();
    measured(what, took);
    assert!(took < REPAIR, "{what} took {took:?}");
    took
}

/// Kinds of the events that there were, newest first.
async fn events(berth: &Berth) -> Vec<String> {
    let page = berth.get("/v1/events?limit=200").await;
    page["events"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hands_do_to_a_container_is_put_right_and_others_notice_nothing() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    berth.deploy_live("other", apps::probe("1")).await;
    berth.deploy_live("site", apps::site("unmoved")).await;
    let others = Visitors::of(&berth, "other", 4);

    let tag = docker(&["inspect", "--format", "{{.Image}}", &container(&berth, "web")]);
    let tag = docker(&["inspect", "--format", "{{join .RepoTags \" \"}}", tag.trim()]).trim().to_owned();
    docker(&["rmi", "--force", "--no-prune", &tag]);
    let untagged = Instant::now();
    assert_eq!(berth.visit("web", "/").await.status, 200, "without the image's name");

    for (what, arguments) in [
        ("removed", ["rm", "--force"].as_slice()),
        ("stopped", &["stop"]),
        ("killed", &["kill"]),
        ("paused", &["pause"]),
    ] {
        let id = container(&berth, "web");
        docker(&[arguments, &[id.as_str()]].concat());
        serves(&berth, "web", &format!("a container that was {what} serves again")).await;
        assert_eq!(docker::all_of(&berth.instance, "web").len(), 1, "after it was {what}");
    }
    let id = container(&berth, "web");
    docker(&["network", "disconnect", "--force", &network_of(&id), &id]);
    serves(&berth, "web", "a container that was taken off its network serves again").await;
    assert_eq!(container(&berth, "web"), id, "it is the same one");

    // A name is nothing that traffic depends on.
    let visitors = Visitors::of(&berth, "web", 2);
    docker(&["rename", &id, &format!("somebody-else-{}", uuid::Uuid::new_v4().simple())]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    visitors.stop().await.assert_flawless(20);
    assert_eq!(container(&berth, "web"), id);

    eventually("the image's name again", Duration::from_secs(45), async || {
        (!docker(&["images", "--quiet", &tag]).is_empty()).then_some(())
    })
    .await;
    measured("an image that lost its name has it again", untagged.elapsed());
    others.stop().await.assert_flawless(200);
    assert!(berth.visit("site", "/").await.body.contains("unmoved"));

    let seen = events(&berth).await;
    for kind in ["container.died", "container.paused", "container.disconnected", "container.repaired"] {
        assert!(seen.iter().any(|k| k == kind), "no {kind} in {seen:?}");
    }
    // All is repaired; that it died three times in a minute is said all the same, until something new is live.
    let attention = berth.attention().await;
    assert!(attention.iter().all(|a| a.starts_with("web keeps dying")), "{attention:?}");
    assert!(seen.iter().any(|k| k == "app.crash_looping"), "{seen:?}");
    berth.deploy_live("web", apps::probe("2")).await;
    assert_eq!(berth.visit("web", "/").await.json()["version"], "2");
    assert_eq!(berth.attention().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_was_removed_is_made_again() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    berth.deploy_live("site", apps::site("unmoved")).await;
    let id = container(&berth, "web");
    let network = network_of(&id);
    // As fast as hands and Docker are: Berth connects it again meanwhile.
    let begun = Instant::now();
    let removed = (0..20).any(|_| {
        let quiet = |arguments: &[&str]| {
            std::process::Command::new("docker").args(arguments).output().is_ok_and(|o| o.status.success())
        };
        for id in docker::running(&berth.instance, "web") {
            quiet(&["network", "disconnect", "--force", &network, &id]);
        }
        quiet(&["network", "rm", &network])
    });
    println!("removed the network: {removed}, after {:?}", begun.elapsed());
    serves(&berth, "web", "an app whose network was removed serves again").await;
    assert_eq!(docker::networks(&berth.instance), [network]);
    assert_eq!(docker::all_of(&berth.instance, "web").len(), 1);
    assert!(berth.visit("site", "/").await.body.contains("unmoved"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_address_changed_is_found_at_the_new_one() {
    needs_docker!();
    let socket = tempfile::tempdir().unwrap();
    let relay = Relay::open(&socket.path().join("docker.sock"));
    let berth = Berth::start_with(Options::default().with("docker-host", &relay.url())).await;
    berth.deploy_live("web", apps::probe("1")).await;
    let id = container(&berth, "web");
    let (before, network) = (address(&id), network_of(&id));
    relay.cut();
    docker(&["stop", "--time", "1", &id]);
    // Another one takes the address; it listens on the same port, which would be the worst mix-up.
    let label = format!("berth.instance={}", berth.instance);
    let squatter = docker(&[
        "run",
        "--detach",
        "--network",
        &network,
        "--label",
        &label,
        "node:22-slim",
        "node",
        "-e",
        "require('http').createServer((q, r) => r.end('{\"version\":\"squatter\"}')).listen(8080)",
    ]);
    let squatter = squatter.trim();
    assert_eq!(address(squatter), before, "the address was taken");
    docker(&["start", &id]);
    assert_ne!(address(&id), before);
    relay.mend();
    let begun = Instant::now();
    eventually("the app at its new address", REPAIR, async || {
        let page = tokio::time::timeout(Duration::from_secs(2), berth.visit("web", "/")).await.ok()?;
        (page.status == 200 && page.json()["version"] == "1").then_some(())
    })
    .await;
    measured("an app whose container has a new address is routed there", begun.elapsed());
    assert_eq!(container_but(&berth, "web", squatter), [id]);
    for _ in 0..20 {
        assert_eq!(berth.visit("web", "/").await.json()["version"], "1");
    }
}

/// Containers of an app that run, but for one.
fn container_but(berth: &Berth, app: &str, not: &str) -> Vec<String> {
    docker::running(&berth.instance, app).into_iter().filter(|id| id != not).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_everything_serves_again_whoever_starts_first() {
    needs_docker!();
    let socket = tempfile::tempdir().unwrap();
    let relay = Relay::open(&socket.path().join("docker.sock"));
    let mut berth = Berth::start_with(Options::default().with("docker-host", &relay.url())).await;
    berth.deploy_live("web", apps::probe("1")).await;
    let scaled = berth.post("/v1/apps/web/scale", json!({ "replicas": 2 })).await;
    berth.job_done(&scaled).await;
    berth.deploy_live("other", apps::probe("1")).await;
    berth.deploy_live("site", apps::site("unmoved")).await;
    berth.deploy_live("idle", apps::probe("1")).await;
    let stopped = berth.post("/v1/apps/idle/stop", json!({ "confirm": "idle" })).await;
    berth.job_done(&stopped).await;
    for docker_first in [true, false] {
        let what = if docker_first { "Docker first" } else { "Berth first" };
        berth.kill();
        for app in ["web", "other"] {
            for id in docker::running(&berth.instance, app) {
                docker(&["kill", &id]);
            }
        }
        if !docker_first {
            relay.cut();
        }
        berth.run().await;
        assert!(berth.visit("site", "/").await.body.contains("unmoved"), "{what}: files need no Docker");
        if !docker_first {
            let page = berth.visit("web", "/").await;
            assert_eq!(page.status, 503, "{page:#?}");
            assert!(page.headers.contains_key("retry-after"), "{page:#?}");
            relay.mend();
        }
        for app in ["web", "other"] {
            serves(&berth, app, &format!("after a reboot, {what}, {app} serves")).await;
        }
        let count = |app: &str| docker::running(&berth.instance, app).len();
        assert_eq!((count("web"), count("other"), count("idle")), (2, 1, 0), "{what}");
        assert_eq!(docker::all_of(&berth.instance, "web").len(), 2, "{what}");
        assert_eq!(berth.get("/v1/apps/idle").await["state"], "stopped", "{what}: what was stopped stays so");
    }
}

/// An app that needs nothing but Debian's perl: an engine of the test's own has few images.
fn perl_app(version: &str) -> Value {
    let program = format!(
        "use IO::Socket::INET;\n$SIG{{TERM}} = sub {{ exit 0 }};\n\
         my $s = IO::Socket::INET->new(LocalAddr => '0.0.0.0', LocalPort => 8080, Listen => 64, ReuseAddr => 1) or die;\n\
         my $b = '{{\"version\":\"{version}\"}}';\n\
         while (my $c = $s->accept) {{ while (<$c>) {{ last if /^\\r?\\n$/ }}\n\
         print $c \"HTTP/1.1 200 OK\\r\\ncontent-length: \" . length($b) . \"\\r\\nconnection: close\\r\\n\\r\\n$b\"; close $c }}\n"
    );
    json!({ "files": {
        "Dockerfile": "FROM debian:bookworm-slim\nCOPY app.pl /app.pl\nEXPOSE 8080\nCMD [\"perl\", \"/app.pl\"]\n",
        "app.pl": program,
    } })
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_itself_is_restarted() {
    needs_docker!();
    for live_restore in [false, true] {
        let Some(mut engine) = OwnEngine::start(live_restore).await else { return };
        engine.load("debian:bookworm-slim");
        let mut berth = Berth::start_with(Options::default().with("docker-host", &engine.url())).await;
        berth.deploy_live("web", perl_app("1")).await;
        berth.deploy_live("site", apps::site("unmoved")).await;
        let before = engine.docker(&["ps", "--quiet"]);
        let (http, client) = (berth.http, berth.client.clone());
        let ask = async move |app: &str| {
            let request = client.get(format!("http://{http}/")).header("host", format!("{app}.localhost"));
            let answer = request.timeout(Duration::from_secs(5)).send().await;
            answer.map_or(0, |a| a.status().as_u16())
        };
        engine.stop();
        for _ in 0..20 {
            assert_eq!(ask("site").await, 200, "a static site, while Docker is stopped");
            let web = ask("web").await;
            if live_restore {
                assert_eq!(web, 200, "containers that outlive their Docker serve on");
            } else {
                assert!([502, 503].contains(&web), "{web}");
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        engine.run().await;
        let what = format!("Docker was restarted (live restore: {live_restore}), the app serves");
        serves(&berth, "web", &what).await;
        // One through which its image was read for source maps when Docker went away is removed as well.
        let after = eventually("one container and no more", Duration::from_secs(15), async || {
            let after = engine.docker(&["ps", "--all", "--quiet"]);
            (after.lines().count() == 1).then_some(after)
        })
        .await;
        if live_restore {
            assert_eq!(after, before, "it is the same container");
        }
        eventually("Docker's return in the status", Duration::from_secs(10), async || {
            berth.attention().await.is_empty().then_some(())
        })
        .await;
        berth.deploy_live("web", perl_app("2")).await;
        assert_eq!(berth.visit("web", "/").await.json()["version"], "2");
        berth.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_somebody_locks_delays_deployments_and_nobody_else() {
    use sqlx::{ConnectOptions as _, Connection as _};
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let visitors = Visitors::of(&berth, "web", 4);
    for (version, seconds) in [("2", 4), ("3", 15)] {
        let deployment = berth.begin("web", apps::probe(version)).await;
        let file = berth.data().join("berth.db");
        let mut other = sqlx::sqlite::SqliteConnectOptions::new().filename(file).connect().await.unwrap();
        sqlx::raw_sql("PRAGMA busy_timeout = 5000; BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
        let begun = Instant::now();
        // Reading goes on, and so does serving.
        assert_eq!(berth.get("/v1/apps/web").await["state"], "running");
        let new = json!({ "name": format!("new-{version}") });
        let written = tokio::spawn(berth.request(Method::POST, "/v1/apps").json(&new).send());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
        other.close().await.unwrap();
        let freed = Instant::now();
        let written = written.await.unwrap().unwrap();
        assert!(written.status().is_success(), "a change waits for the store: {written:?}");
        let detail = berth.settled(&deployment).await;
        assert_eq!(detail["state"], "live", "{detail:#}");
        println!("locked for {:?}", freed - begun);
        measured(&format!("a deployment is live after a lock of {seconds} s ended"), freed.elapsed());
        assert_eq!(berth.visit("web", "/").await.json()["version"], version);
    }
    visitors.stop().await.assert_flawless(500);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_disk_apps_serve_on_and_logs_come_back_with_the_space() {
    needs_docker!();
    let disk = tempfile::tempdir().unwrap();
    let Some(mounted) = SmallDisk::mount(disk.path(), 48) else { return };
    let options = Options::default()
        .with("data-dir", disk.path().join("data").to_str().unwrap())
        .with("min-free-disk-mb", "4");
    let berth = Berth::start_with(options).await;
    berth.deploy_live("web", apps::probe("1")).await;
    let visitors = Visitors::of(&berth, "web", 4);
    let ballast = mounted.fill();
    let full = Instant::now();
    while full.elapsed() < Duration::from_secs(5) {
        berth.visit("web", "/say?text=into-the-void").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let problem = match berth.try_send(Method::POST, "/v1/apps/web/deployments", apps::probe("2")).await {
        Err(refused) => refused.problem,
        Ok(accepted) => {
            let detail = berth.settled(accepted["deployment"].as_str().unwrap()).await;
            assert_eq!(detail["state"], "failed", "{detail:#}");
            detail["problem"].clone()
        }
    };
    assert_eq!(problem["code"], "out_of_disk", "{problem:#}");
    assert!(problem["hint"].as_str().unwrap().contains("platform_cleanup"), "{problem:#}");
    let status = berth.get("/v1/platform").await;
    assert!(texts(&status["attention"]).iter().any(|a| a.contains("disk")), "{status:#}");
    // A restart of the app's container needs no room on this disk.
    docker(&["kill", &container(&berth, "web")]);
    eventually("the app again, with a full disk", REPAIR, async || {
        (berth.visit("web", "/").await.status == 200).then_some(())
    })
    .await;

    std::fs::remove_file(ballast).unwrap();
    let freed = Instant::now();
    eventually("the log's return", Duration::from_secs(20), async || {
        berth.visit("web", "/say?text=back-again").await;
        let found = berth.get("/v1/apps/web/logs?contains=back-again").await;
        (!found["lines"].as_array().unwrap().is_empty()).then_some(())
    })
    .await;
    measured("logs are kept again after the disk had room", freed.elapsed());
    berth.deploy_live("web", apps::probe("3")).await;
    let report = visitors.stop().await;
    // The container was killed once: what was open then failed.
    println!("measured: {} requests, {} failed, all at the kill", report.requests, report.failed);
    let other = |f: &&String| !f.contains("502") && !f.contains("503");
    assert_eq!(report.failures.iter().find(other), None, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_repaired_is_said_with_what_to_do() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    berth.deploy_live("site", apps::site("unmoved")).await;
    berth.kill();
    let id = container(&berth, "web");
    let image = docker(&["inspect", "--format", "{{.Image}}", &id]).trim().to_owned();
    docker(&["rm", "--force", &id]);
    docker(&["rmi", "--force", &image]);
    berth.run().await;
    let begun = Instant::now();
    let attention = eventually("the report", REPAIR, async || {
        let status = berth.get("/v1/platform").await;
        texts(&status["attention"]).into_iter().find(|a| a.contains("gone from Docker"))
    })
    .await;
    measured("what cannot be repaired is in the status", begun.elapsed());
    assert!(attention.contains("deployment_create"), "{attention}");
    assert_eq!(berth.visit("web", "/").await.status, 503);
    assert!(berth.visit("site", "/").await.body.contains("unmoved"));
    let page = berth.get("/v1/events?kind=app.trouble").await;
    assert_eq!(page["events"].as_array().unwrap().len(), 1, "once, however often it is tried: {page:#}");
    let refused = berth.try_send(Method::POST, "/v1/apps/web/restart", json!({ "wait_s": 30 })).await;
    let told = refused.map_or_else(|r| r.problem, |detail| detail["problem"].clone());
    assert_eq!(told["code"], "release_gone", "{told:#}");

    berth.deploy_live("web", apps::probe("2")).await;
    assert_eq!(berth.visit("web", "/").await.json()["version"], "2");
    eventually("the end of the trouble", REPAIR, async || berth.attention().await.is_empty().then_some(()))
        .await;
    assert!(events(&berth).await.iter().any(|k| k == "app.recovered"));
    // What is gone cannot be gone back to, and that is said too.
    let refused = berth.try_send(Method::POST, "/v1/apps/web/rollback", json!({ "wait_s": 30 })).await;
    let told = refused.map_or_else(|r| r.problem, |detail| detail["problem"].clone());
    assert_eq!(told["code"], "release_gone", "{told:#}");
    assert_eq!(berth.visit("web", "/").await.json()["version"], "2");
}
