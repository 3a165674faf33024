//! The daemon is killed in every state of everything it does, before and after that state is committed, and started
//! again; what is found then is written in a table.
//!
//! "Reachable" means two things here, because a dead daemon answers nobody: the container that had the traffic
//! answers on its own address from before the kill until the end (Docker kept it running and neither the kill nor
//! the new start touched it, unless something newer took the traffic), and from the moment the new daemon is
//! ready each request through it is answered by the app.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;

use crate::support::{docker, *};

/// Longest time until everything is true again.
const PATIENCE: Duration = Duration::from_secs(40);

/// The live release and those that are kept for rollback.
const MOST_RELEASES: usize = 4;

/// The places before and after each of these is committed.
macro_rules! around {
    ($($what:literal),*) => { [$(concat!("before:", $what), concat!("after:", $what)),*] };
}

/// What a deployment commits on its way to its containers. Between that and the rest they are made.
const TO_CONTAINERS: [&str; 10] = around!("queued", "fetching", "building", "release", "starting");
/// And from there.
const FROM_CONTAINERS: [&str; 8] = around!("checking", "switching", "draining", "live");
/// The part of them that a rollback commits.
const ROLLBACK: [&str; 12] = around!("queued", "starting", "checking", "switching", "draining", "live");
/// The part of them that a redeploy commits and a rollback does not, and those where they differ.
const REDEPLOY: [&str; 8] = [
    "after:queued",
    "before:release",
    "after:release",
    "after:container",
    "after:checking",
    "after:switching",
    "after:draining",
    "after:live",
];

/// What a gradual rollout commits between the check and its end.
const ROLLOUT: [&str; 8] = around!("rolling_out", "switching", "draining", "live");

/// What every job commits, around its own.
fn job_places(own: &[&'static str]) -> Vec<&'static str> {
    let (begin, end) = (around!("job_queued", "job_running"), around!("job_ended"));
    begin.into_iter().chain(own.iter().copied()).chain(end).collect()
}

/// One line of the table.
struct Line {
    what: &'static str,
    place: &'static str,
    found: String,
    took: Duration,
    ready: Duration,
    through: usize,
    direct: usize,
}

#[derive(Default)]
struct Table(Vec<Line>);

impl Drop for Table {
    /// Printed whatever happens: the lines before a failure say where it was.
    fn drop(&mut self) {
        println!(
            "{:<10} {:<22} {:>6} {:>7} {:>8} {:>7}  found",
            "action", "killed", "ready", "true", "through", "direct"
        );
        for l in &self.0 {
            let ms = |d: Duration| format!("{} ms", d.as_millis());
            println!(
                "{:<10} {:<22} {:>7} {:>8} {:>7} {:>7}  {}",
                l.what,
                l.place,
                ms(l.ready),
                ms(l.took),
                l.through,
                l.direct,
                l.found
            );
        }
    }
}

/// Asks one address again and again, counting what fails.
struct Prober {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    /// When the first one failed, in microseconds since the epoch.
    first: Arc<AtomicI64>,
    task: tokio::task::JoinHandle<()>,
}

fn now_micros() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

impl Prober {
    fn of(address: SocketAddr, host: &str) -> Self {
        let (stop, asked, failed) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let first = Arc::new(AtomicI64::new(i64::MAX));
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        let host = host.to_owned();
        let task = tokio::spawn({
            let (stop, asked, failed) = (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&failed));
            let first = Arc::clone(&first);
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get(format!("http://{address}/")).header("host", &host).send().await;
                    let well = match answer {
                        Ok(answer) => answer.status() == 200 && answer.bytes().await.is_ok(),
                        Err(_) => false,
                    };
                    asked.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(usize::from(!well), Ordering::Relaxed);
                    if !well {
                        first.fetch_min(now_micros(), Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(25)).await;
                }
            }
        });
        Self { stop, asked, failed, first, task }
    }

    /// How often it was answered; panics where one was not before the moment `until`.
    async fn end(self, what: &str, until: i64) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        let (asked, failed) = (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        let first = self.first.load(Ordering::Relaxed);
        assert!(first >= until, "{what}: {failed} of {asked} requests were not answered");
        let asked = asked - failed;
        assert!(asked > 0, "{what}: nobody asked");
        asked
    }
}

/// What the store says that there is of an app.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    unfinished: usize,
    live: usize,
    releases: BTreeSet<String>,
    pointer: Option<String>,
    stopped: bool,
    replicas: usize,
}

impl Told {
    async fn by(berth: &Berth) -> Self {
        let unfinished = berth
            .rows("SELECT state FROM deployments WHERE state NOT IN ('live','failed','cancelled','superseded','rolled_back','retired') UNION ALL SELECT state FROM jobs WHERE state IN ('queued','running')")
            .await;
        let live = berth.rows("SELECT state FROM deployments WHERE state = 'live'").await;
        let releases = berth.rows("SELECT CAST(id AS TEXT) FROM releases WHERE removed = 0").await;
        let environment = berth
            .rows("SELECT COALESCE(CAST(live_id AS TEXT), '') || '/' || stopped || '/' || replicas FROM environments")
            .await;
        let (pointer, stopped, replicas) = match environment.first() {
            None => (None, false, 0),
            Some(text) => {
                let mut parts = text.split('/');
                let pointer = parts.next().filter(|p| !p.is_empty()).map(str::to_owned);
                (pointer, parts.next() == Some("1"), parts.next().unwrap().parse().unwrap())
            }
        };
        Self {
            unfinished: unfinished.len(),
            live: live.len(),
            releases: releases.into_iter().collect(),
            pointer,
            stopped,
            replicas,
        }
    }
}

/// What is not as it should be; nothing when all is true.
async fn untrue(berth: &Berth, top: &[String]) -> Vec<String> {
    let told = Told::by(berth).await;
    let mut wrong = Vec::new();
    let mut want = |right: bool, what: String| {
        if !right {
            wrong.push(what);
        }
    };
    let gone = told.releases.is_empty() && told.pointer.is_none();
    want(told.unfinished == 0, format!("{} deployments or jobs are not over", told.unfinished));
    want(told.releases.len() <= MOST_RELEASES, format!("{} releases are kept", told.releases.len()));
    want(told.live == usize::from(!gone), format!("{} deployments are live", told.live));
    want(
        gone || told.pointer.as_ref().is_some_and(|p| told.releases.contains(p)),
        "the live release is none that is kept".into(),
    );
    let containers = docker::labelled(&berth.instance);
    for (release, state) in &containers {
        want(
            told.releases.contains(release),
            format!("a container ({state}) of release id {release}, which is not kept"),
        );
        want(["running", "exited"].contains(&state.as_str()), format!("a container that is {state}"));
        let serves = told.pointer.as_ref() == Some(release) && !told.stopped;
        want(serves == (state == "running"), format!("a container of release id {release} is {state}"));
    }
    let running = containers.iter().filter(|(_, state)| state == "running").count();
    let wanted = if told.stopped || gone { 0 } else { told.replicas };
    want(running == wanted, format!("{running} containers run, not {wanted}"));
    // Each release has an image of its own here, but for those that a redeploy made of another's.
    let images = docker::images(&berth.instance);
    let kept: BTreeSet<String> = berth
        .rows("SELECT DISTINCT json_extract(artifact, '$.reference') FROM releases WHERE removed = 0")
        .await
        .into_iter()
        .collect();
    let tags: BTreeSet<String> =
        images.iter().filter_map(|i| i.split(' ').next().map(str::to_owned)).collect();
    want(tags == kept, format!("the images are {tags:?}, those of the releases {kept:?}"));
    let networks = docker::networks(&berth.instance).len();
    want(networks == usize::from(!gone), format!("{networks} networks"));
    want(berth.entries("work").is_empty(), format!("work directories {:?}", berth.entries("work")));
    let uploads: BTreeSet<String> = berth.rows("SELECT id FROM uploads").await.into_iter().collect();
    let files: BTreeSet<String> = berth.entries("uploads").into_iter().collect();
    want(uploads == files, format!("uploads {files:?}, and in the store {uploads:?}"));
    want(berth.entries("releases").is_empty(), format!("files of releases {:?}", berth.entries("releases")));
    want(berth.entries("") == top, format!("the data directory holds {:?}", berth.entries("")));
    wrong
}

/// When the traffic went to another release the last time.
async fn switched_at(berth: &Berth) -> i64 {
    let sql = "SELECT CAST(MAX(at) AS TEXT) FROM transitions WHERE state = 'draining'";
    berth.rows(sql).await.remove(0).parse().unwrap()
}

/// The daemon and what is known of it from cell to cell.
struct Matrix {
    berth: Berth,
    top: Vec<String>,
    table: Table,
    version: u32,
}

impl Matrix {
    async fn start() -> Self {
        let berth = Berth::start().await;
        let mut matrix = Self { berth, top: Vec::new(), table: Table::default(), version: 0 };
        matrix.deploy().await;
        matrix.top = matrix.berth.entries("");
        matrix
    }

    fn next(&mut self) -> Value {
        self.version += 1;
        apps::probe(&self.version.to_string())
    }

    /// A new version, without a kill.
    async fn deploy(&mut self) {
        let source = self.next();
        self.berth.deploy_live("web", source).await;
    }

    /// Sends a request, kills the daemon at a place that comes of it, starts it again and waits until all is true.
    async fn cell(
        &mut self,
        what: &'static str,
        place: &'static str,
        method: Method,
        path: &str,
        body: Value,
    ) {
        let berth = &mut self.berth;
        let here = format!("{what}, killed {place}");
        berth.pause_at(place);
        let before = Told::by(berth).await;
        let request = tokio::spawn(berth.request(method, path).json(&body).send());
        eventually(&here, Duration::from_secs(60), async || {
            if request.is_finished() && !berth.is_paused() && place.contains("queued") {
                panic!("{here}: the request ended early");
            }
            if what == "rollout" && !place.contains("rolling_out") {
                promote(berth).await;
            }
            berth.is_paused().then_some(())
        })
        .await;
        // What has the traffic now, by the store's pointer.
        let at_kill = Told::by(berth).await;
        let serves = !at_kill.stopped && at_kill.pointer.is_some();
        let address =
            at_kill.pointer.as_ref().filter(|_| serves).and_then(|p| docker::address_of(&berth.instance, p));
        let direct = address.map(|a| Prober::of(SocketAddr::new(a, 8080), "web.localhost"));
        tokio::time::sleep(Duration::from_millis(60)).await;
        berth.kill();
        drop(request.await);
        berth.pause_nowhere();
        let begun = Instant::now();
        let ready = berth.run().await;
        let through = serves.then(|| Prober::of(berth.http, "web.localhost"));
        let mut wrong;
        loop {
            if what == "rollout" {
                promote(berth).await;
            }
            wrong = untrue(berth, &self.top).await;
            // What the action itself takes away is not asked for any more.
            if wrong.is_empty() || begun.elapsed() > PATIENCE {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let took = begun.elapsed();
        let told = Told::by(berth).await;
        assert!(wrong.is_empty(), "{here}: {wrong:#?}\n{told:#?}\nat the kill {at_kill:#?}");
        let ends = told.stopped || told.pointer.is_none();
        let mut line = Line { what, place, found: String::new(), took, ready, through: 0, direct: 0 };
        if let Some(prober) = through {
            // An app that was to be stopped or deleted and now is: visitors are right to miss it.
            match ends {
                true => prober.task.abort(),
                false => {
                    line.through = prober.end(&format!("{here}, through the new daemon"), i64::MAX).await
                }
            }
        }
        if let Some(prober) = direct {
            // A container that was to go may be gone; one that something newer has replaced, from then on.
            let same = ends || told.pointer == at_kill.pointer;
            let until = if same { i64::MAX } else { switched_at(berth).await };
            match ends {
                true => prober.task.abort(),
                false => line.direct = prober.end(&format!("{here}, the container itself"), until).await,
            }
        }
        line.found = Self::found(&before, &told, berth).await;
        self.table.0.push(line);
    }

    async fn found(before: &Told, told: &Told, berth: &Berth) -> String {
        let newest = berth
            .rows("SELECT d.number || ' ' || d.state || ' (attempt ' || d.attempt || ')' FROM deployments d ORDER BY d.id DESC LIMIT 1")
            .await;
        let job = berth
            .rows("SELECT kind || ' ' || state FROM jobs ORDER BY created_at DESC, id DESC LIMIT 1")
            .await;
        let moved = if before.pointer == told.pointer { "same release" } else { "new release" };
        format!(
            "{moved}, newest #{}{}{}, {} kept",
            newest.first().map_or("none", String::as_str),
            job.first().map(|j| format!(", job {j}")).unwrap_or_default(),
            if told.stopped { ", stopped" } else { "" },
            told.releases.len()
        )
    }

    /// The number of the newest deployment and its state.
    async fn newest(&self) -> String {
        let sql = "SELECT number || ' ' || state FROM deployments ORDER BY id DESC LIMIT 1";
        self.berth.rows(sql).await.pop().unwrap_or_default()
    }
}

/// Gives a rollout all traffic, if one goes on that does not have it.
async fn promote(berth: &Berth) {
    let _ = berth.try_send(Method::POST, "/v1/apps/web/rollout/promote", json!({ "wait_s": 0 })).await;
}

/// Whether the program has the places where it can be stood still; a release build has none.
fn has_places() -> bool {
    let has = std::env::var_os("BERTH_TEST_PROGRAM").is_none() && cfg!(debug_assertions);
    if !has {
        println!("skipped: a release build has no places to stand still at");
    }
    has
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_every_state_of_a_deployment() {
    needs_docker!();
    if !has_places() {
        return;
    }
    let mut matrix = Matrix::start().await;
    for place in TO_CONTAINERS.into_iter().chain(["after:container"]).chain(FROM_CONTAINERS) {
        let source = matrix.next();
        matrix.cell("deploy", place, Method::POST, "/v1/apps/web/deployments", source).await;
        let page = matrix.berth.visit("web", "/").await.json();
        let version: u32 = page["version"].as_str().unwrap().parse().unwrap();
        // What was accepted is carried through; what was not, never was.
        let accepted = place != "before:queued";
        assert_eq!(version == matrix.version, accepted, "{place}: version {version} serves");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_every_state_of_a_rollback_and_a_redeploy() {
    needs_docker!();
    if !has_places() {
        return;
    }
    let mut matrix = Matrix::start().await;
    matrix.deploy().await;
    for place in ROLLBACK {
        matrix.cell("rollback", place, Method::POST, "/v1/apps/web/rollback", json!({})).await;
        let newest = matrix.newest().await;
        assert!(newest.ends_with(" live"), "{place}: the newest deployment is {newest}");
    }
    for place in REDEPLOY {
        matrix.cell("redeploy", place, Method::POST, "/v1/apps/web/restart", json!({})).await;
        let newest = matrix.newest().await;
        assert!(newest.ends_with(" live"), "{place}: the newest deployment is {newest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_every_state_of_a_gradual_rollout() {
    needs_docker!();
    if !has_places() {
        return;
    }
    let mut matrix = Matrix::start().await;
    for place in ROLLOUT {
        let mut source = matrix.next();
        source["percent"] = json!(30);
        matrix.cell("rollout", place, Method::POST, "/v1/apps/web/rollout", source).await;
        let page = matrix.berth.visit("web", "/").await.json();
        assert_eq!(page["version"], matrix.version.to_string(), "{place}: what was promoted serves");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_every_state_of_stopping_starting_and_scaling() {
    needs_docker!();
    if !has_places() {
        return;
    }
    let mut matrix = Matrix::start().await;
    let stops = job_places(&around!("stopped"));
    let starts = job_places(&around!("started"));
    for (stop, start) in stops.into_iter().zip(starts) {
        let confirm = json!({ "confirm": "web" });
        matrix.cell("stop", stop, Method::POST, "/v1/apps/web/stop", confirm.clone()).await;
        let accepted = stop != "before:job_queued";
        let state = matrix.berth.get("/v1/apps/web").await["state"].clone();
        assert_eq!(state, if accepted { "stopped" } else { "running" }, "{stop}");
        if !accepted {
            let job = matrix.berth.post("/v1/apps/web/stop", confirm).await;
            matrix.berth.job_done(&job).await;
        }
        matrix.cell("start", start, Method::POST, "/v1/apps/web/start", json!({})).await;
        let accepted = start != "before:job_queued";
        let state = matrix.berth.get("/v1/apps/web").await["state"].clone();
        assert_eq!(state, if accepted { "running" } else { "stopped" }, "{start}");
        if !accepted {
            let job = matrix.berth.post("/v1/apps/web/start", json!({})).await;
            matrix.berth.job_done(&job).await;
        }
    }
    let mut wanted = 1;
    for place in job_places(&around!("scaled", "scaled")) {
        let to = 3 - wanted;
        matrix.cell("scale", place, Method::POST, "/v1/apps/web/scale", json!({ "replicas": to })).await;
        wanted = if place == "before:job_queued" { wanted } else { to };
        assert_eq!(matrix.berth.get("/v1/apps/web").await["replicas_wanted"], wanted, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_every_state_of_cleaning_up_and_deleting() {
    needs_docker!();
    if !has_places() {
        return;
    }
    let mut matrix = Matrix::start().await;
    for place in job_places(&["before:cleaned"]) {
        // Files of an app that is no more.
        let lost = matrix.berth.data().join("releases/99999/1");
        std::fs::create_dir_all(&lost).unwrap();
        std::fs::write(lost.join("index.html"), "lost").unwrap();
        let body = json!({ "dry_run": false, "confirm": "cleanup" });
        if place == "before:job_queued" {
            std::fs::remove_dir_all(matrix.berth.data().join("releases/99999")).unwrap();
        }
        matrix.cell("cleanup", place, Method::POST, "/v1/platform/cleanup", body).await;
    }
    for place in job_places(&around!("deleting", "deleted")) {
        matrix.cell("delete", place, Method::DELETE, "/v1/apps/web?confirm=web", json!({})).await;
        let gone = matrix.berth.try_get("/v1/apps/web").await.is_err();
        println!("{place}: {}", if gone { "deleted" } else { "the app is there" });
        // Once it is marked, it goes; before that, it stays as it was.
        assert_eq!(gone, place != "before:deleting", "{place}");
        if gone {
            matrix.deploy().await;
        }
    }
}
