//! Cleanup: what it takes, what it never takes, and when it runs by itself.

use std::time::{Duration, Instant};

use crate::support::{archive, docker, docker::docker as run, *};

/// A build of two stages: the first one's megabytes end in the build cache, not in the image.
fn two_stages(megabytes: u32) -> Value {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let mut source = apps::probe("1");
    source["files"]["Dockerfile"] = json!(format!(
        "FROM node:22-slim AS first\nRUN echo {unique} && head -c {} /dev/urandom > /large && echo {unique} > /small\n\
         FROM node:22-slim\nWORKDIR /app\nCOPY --from=first /small ./small\nCOPY . .\nEXPOSE 8080\nCMD [\"node\", \"server.js\"]\n",
        megabytes << 20
    ));
    source
}

/// What the engine's build cache holds, besides layers of images: ids, bytes and descriptions.
async fn cache() -> Vec<(String, u64, String)> {
    loop {
        let said = std::process::Command::new("docker")
            .args(["system", "df", "--verbose", "--format", "{{json .BuildCache}}"])
            .output()
            .unwrap();
        // Docker measures for one at a time, and others measure too.
        let Ok(records) = serde_json::from_slice::<Vec<Value>>(&said.stdout) else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let text = |r: &Value, name: &str| r[name].as_str().unwrap_or_default().to_owned();
        return records
            .iter()
            .filter(|r| text(r, "Shared") != "true" && r["Shared"] != true)
            .map(|r| (text(r, "ID"), bytes(&r["Size"]), text(r, "Description")))
            .collect();
    }
}

/// `3.146MB`, or a number.
fn bytes(size: &Value) -> u64 {
    let Some(text) = size.as_str() else { return size.as_u64().unwrap_or_default() };
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: f64 = text[..split].parse().unwrap_or_default();
    let unit = match &text[split..] {
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => 1.0,
    };
    (number * unit) as u64
}

async fn clean(berth: &Berth) -> Value {
    let job = berth.post("/v1/platform/cleanup", json!({ "dry_run": false, "confirm": "cleanup" })).await;
    berth.job_done(&job).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_berths_own_things_go_and_the_build_cache_stays_within_its_bound() {
    needs_docker!();
    let berth = Berth::start_with(Options::default().with("build-cache-mb", "5")).await;
    // Somebody else on the same engine: another Berth with a build, and things of nobody's.
    let neighbour = Berth::start().await;
    neighbour.deploy_live("web", two_stages(3)).await;
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let (volume, container, image) =
        (format!("v{unique}"), format!("c{unique}"), format!("foreign-{unique}:1"));
    run(&["volume", "create", &volume]);
    run(&[
        "create",
        "--name",
        &container,
        "--volume",
        &format!("{volume}:/data"),
        "debian:bookworm-slim",
        "true",
    ]);
    run(&["tag", "debian:bookworm-slim", &image]);
    let network = format!("n{unique}");
    run(&["network", "create", &network]);

    berth.deploy_live("web", two_stages(4)).await;
    let foreign: Vec<String> = cache().await.into_iter().map(|(id, ..)| id).collect();
    let own = noted(&berth, 1).await;
    let foreign: Vec<String> = foreign.into_iter().filter(|id| !own.contains(id)).collect();
    for _ in 0..2 {
        berth.deploy_live("web", two_stages(4)).await;
    }
    let own = noted(&berth, own.len() + 1).await;
    // What a killed daemon would have left.
    for (path, content) in [
        ("work/4711/source/index.html", "x"),
        ("releases/4711/1/index.html", "x"),
        ("releases/4711/2/a", "x"),
    ] {
        let path = berth.data().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let partial = berth.data().join("uploads").join(format!("{}.part", uuid::Uuid::now_v7()));
    std::fs::write(&partial, "half").unwrap();
    let old = std::fs::File::options().write(true).open(&partial).unwrap();
    old.set_modified(std::time::SystemTime::now() - Duration::from_secs(2 * 3600)).unwrap();

    let plan = berth.post("/v1/platform/cleanup", json!({})).await;
    let items = plan["items"].as_array().unwrap();
    let kinds: Vec<&str> = items.iter().map(|i| i["kind"].as_str().unwrap()).collect();
    for kind in ["work_files", "release_files", "upload", "build_cache"] {
        assert!(kinds.contains(&kind), "{plan:#}");
    }
    assert!(items.iter().all(|i| i["why"].as_str().is_some_and(|w| w.len() > 8)), "{plan:#}");
    let kept = plan["kept"].to_string();
    for part in ["web#3", "live", "kept for rollback", "not from Berth's builds"] {
        assert!(kept.contains(part), "{part} is not in {plan:#}");
    }
    let shown = plan.to_string();
    assert!(!shown.contains(&unique), "nothing of others is listed: {plan:#}");
    assert!(plan["bytes"].as_i64().unwrap() > 2_000_000, "{plan:#}");
    assert!(partial.exists(), "a dry run removes nothing");

    let done = clean(&berth).await;
    println!("measured: {}", done["message"]);
    assert_eq!((berth.entries("work"), berth.entries("releases")), (vec![], vec![]));
    assert!(!partial.exists());
    let left = cache().await;
    let ours: u64 = left.iter().filter(|(id, ..)| own.contains(id)).map(|(_, bytes, _)| bytes).sum();
    println!(
        "measured: {} of our records are left with {ours} bytes",
        left.iter().filter(|r| own.contains(&r.0)).count()
    );
    assert!(ours <= 5 << 20, "{ours} bytes of our cache are left");
    assert!(ours > 1 << 20, "what fits is kept: {ours}");
    let gone: Vec<&String> = foreign.iter().filter(|id| !left.iter().any(|(l, ..)| l == *id)).collect();
    // Others build and drop on this engine while this test runs; the neighbour does not.
    let neighbours = noted(&neighbour, 1).await;
    assert!(!neighbours.is_empty());
    let lost: Vec<_> = gone.into_iter().filter(|id| neighbours.contains(id)).collect();
    assert!(lost.is_empty(), "records of others went: {lost:?}");

    for (kind, name) in
        [("volume", &volume), ("container", &container), ("image", &image), ("network", &network)]
    {
        run(&[kind, "inspect", name]);
    }
    assert_eq!(docker::running(&neighbour.instance, "web").len(), 1);
    assert_eq!(docker::images(&neighbour.instance).len(), 1);
    assert_eq!(berth.visit("web", "/").await.status, 200);
    assert_eq!(berth.get("/v1/apps/web/releases").await["releases"].as_array().unwrap().len(), 3);
    let event = berth.get("/v1/events?kind=platform.cleaned").await;
    assert_eq!(event["events"][0]["data"]["disk_was_scarce"], false, "{event:#}");
    assert!(event["events"][0]["data"]["bytes"].as_i64().unwrap() > 2_000_000, "{event:#}");
    run(&["rm", &container]);
    run(&["volume", "rm", &volume]);
    run(&["rmi", &image]);
    run(&["network", "rm", &network]);
}

/// Records that a daemon has noted as its own; at least so many.
async fn noted(berth: &Berth, at_least: usize) -> Vec<String> {
    eventually("the notes of the build cache", Duration::from_secs(20), async || {
        let all = berth.rows("SELECT record FROM build_cache").await;
        (all.len() >= at_least).then_some(all)
    })
    .await
}

/// MiB that are free where Docker and the daemons of tests keep their data.
fn free_mb() -> u64 {
    let said =
        std::process::Command::new("df").args(["--output=avail", "-m", "/var/lib/docker"]).output().unwrap();
    String::from_utf8_lossy(&said.stdout).lines().nth(1).unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_runs_full_is_cleaned_once_by_itself() {
    needs_docker!();
    let mut berth = Berth::start_with(Options::default().with("build-cache-mb", "100")).await;
    berth.deploy_live("web", two_stages(12)).await;
    noted(&berth, 1).await;
    berth.kill();
    // Twice of this is not free, so space is scarce; this much is, so that builds go on.
    berth.set("min-free-disk-mb", &(free_mb() * 3 / 4).to_string());
    berth.run().await;
    let begun = Instant::now();
    let event = eventually("the cleanup", Duration::from_secs(30), async || {
        let page = berth.get("/v1/events?kind=platform.cleaned").await;
        page["events"].as_array().unwrap().first().cloned()
    })
    .await;
    measured("a scarce disk is cleaned after the start", begun.elapsed());
    println!("{}", event["summary"]);
    assert_eq!(event["data"]["disk_was_scarce"], true, "{event:#}");
    assert!(event["data"]["removed"]["build_cache"] == 1, "a tenth of the cache stays: {event:#}");
    assert!(event["summary"].as_str().unwrap().starts_with("Only "), "{event:#}");
    berth.deploy_live("web", apps::probe("2")).await;
    // Nothing more can be freed, and so it is not tried again at the next looks.
    tokio::time::sleep(Duration::from_secs(65)).await;
    let page = berth.get("/v1/events?kind=platform.cleaned").await;
    assert_eq!(page["events"].as_array().unwrap().len(), 1, "{page:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_would_not_fit_is_refused_by_its_estimate() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    // Text that packs badly, so that the archive is no bomb.
    let mut state = 1_u64;
    let large: String = (0..24 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + ((state >> 60) as u8))
        })
        .collect();
    let source = archive::tar_gz(&[
        ("Dockerfile", "FROM node:22-slim\nCOPY . .\nCMD [\"node\", \"server.js\"]\n"),
        ("large.txt", &large),
    ]);
    // Others use the same disk: the floor lies so that only the estimate decides, with room for what they do.
    berth.kill();
    berth.set("min-free-disk-mb", &(free_mb() - 250).to_string());
    berth.run().await;
    let upload = berth.upload(source, "application/gzip").await;
    let problem = berth.deploy_failing("web", json!({ "upload": upload })).await;
    assert_eq!(
        (&problem["code"], &problem["step"]),
        (&json!("out_of_disk"), &json!("building")),
        "{problem:#}"
    );
    let detail = problem["detail"].as_str().unwrap();
    println!("{detail}");
    for part in ["may take", "twice the source of 25 MB", "image of release 1", "are free on Docker's disk"] {
        assert!(detail.contains(part), "{part}: {problem:#}");
    }
    assert!(problem["hint"].as_str().unwrap().contains("platform_cleanup"), "{problem:#}");
    assert_eq!(docker::images(&berth.instance).len(), 1, "it was refused before it began");
    assert_eq!(berth.visit("web", "/").await.json()["version"], "1");
}
