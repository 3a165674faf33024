//! Errors from the intake to the search, against a real store.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use berth_observe::errors::{Digester, Eraser, ErrorIndex, Ingest, Maps, maps::bundle::Pair};
use berth_schemas::{Problem, Timestamp, app::AppSettings};
use berth_store::{model::Visible, *};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A store with an app, and all that works on its errors.
struct World {
    store: Store,
    app: AppRow,
    index: ErrorIndex,
    maps: Maps,
    ingest: Ingest,
    digester: Digester,
    shutdown: CancellationToken,
    /// Microseconds that the store's clock is ahead.
    ahead: Arc<AtomicI64>,
    dir: tempfile::TempDir,
}

impl World {
    /// With these events, once they can be found.
    async fn with(events: &[Value]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = MasterKey::load_or_create(dir.path()).unwrap();
        let config = StoreConfig { data_dir: dir.path().to_owned(), database_url: None };
        let ahead = Arc::new(AtomicI64::new(0));
        let by = Arc::clone(&ahead);
        let clock = Clock::from_fn(move || Timestamp(Timestamp::now().0 + by.load(Ordering::SeqCst)));
        let store = Store::with_clock(config, key, clock).await.unwrap();
        let project = store.projects().list(&Visible::All).await.unwrap()[0].id;
        let (root, name) = (Principal::daemon(), "web".parse().unwrap());
        let app = store.apps().create(&root, project, name, AppSettings::default()).await.unwrap();
        store.errors().accept(&[intake(&store, &app, events)]).await.unwrap();
        let shutdown = CancellationToken::new();
        let index = ErrorIndex::start(store.clone(), None, shutdown.clone()).unwrap();
        let maps = Maps::start(store.clone(), dir.path().join("maps"), index.clone(), shutdown.clone());
        let ingest = Ingest::start(store.clone(), shutdown.clone());
        let digester =
            Digester::start(store.clone(), ingest.clone(), index.clone(), maps.clone(), shutdown.clone());
        let world = Self { store, app, index, maps, ingest, digester, shutdown, ahead, dir };
        world.found(i64::try_from(events.len()).unwrap()).await;
        world
    }

    async fn found(&self, events: i64) {
        for _ in 0..500 {
            if self.index.position() >= events {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("the events are not found");
    }

    async fn event(&self, issue: &str) -> ErrorEventRow {
        let issue = self.issue(issue).await;
        self.store.errors().event(issue.id, None).await.unwrap().unwrap()
    }

    async fn issue(&self, name: &str) -> IssueRow {
        self.store.errors().issue(&Visible::All, &name.parse().unwrap()).await.unwrap().unwrap()
    }

    /// What the issues that a query finds are called, in order of the alphabet.
    async fn sought(&self, query: &str) -> Vec<String> {
        let (app, now) = (Some(self.app.id), self.store.clock().now());
        let filter = self.index.seek(query, &Visible::All, app, now).await.unwrap().filter;
        let order = IssueOrder::LastSeen;
        let (rows, _) =
            self.store.errors().issues(&Visible::All, app, &filter, order, (0, 10)).await.unwrap();
        let mut kinds: Vec<_> = rows.into_iter().map(|row| row.kind).collect();
        kinds.sort();
        kinds
    }

    async fn facet(&self, query: &str, field: &str) -> Result<Vec<(String, u64)>, Problem> {
        counted(&self.index, query, field).await
    }

    fn advance(&self, days: i64) {
        self.ahead.fetch_add(days * DAY, Ordering::SeqCst);
    }

    /// Which of these releases have maps; "" stands for those without a release.
    async fn mapped(&self, pairs: &[(&'static str, &str)]) -> Vec<&'static str> {
        let mut found = Vec::new();
        for (release, name) in pairs {
            let errors = self.store.errors();
            let debug = (release.is_empty()).then(|| debug_id(name));
            let url = format!("~/{name}.js");
            let file =
                errors.find_map(self.app.id, debug.as_deref(), Some(release), &url, true).await.unwrap();
            found.extend(file.map(|_| *release));
        }
        found
    }

    /// Caches on disk.
    fn files(&self) -> usize {
        let entries = std::fs::read_dir(self.dir.path().join("maps")).unwrap();
        entries.flatten().filter(|e| e.file_type().unwrap().is_file()).count()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.digester.stopped().await;
        self.ingest.stopped().await;
        self.maps.stopped().await;
        self.index.stopped().await;
    }
}

/// How often values of a field occur among the events of a query.
async fn counted(index: &ErrorIndex, query: &str, field: &str) -> Result<Vec<(String, u64)>, Problem> {
    let mut facets =
        index.facets(query, &Visible::All, None, Timestamp::now(), vec![field.to_owned()]).await?;
    let facet = facets.remove(0);
    assert_eq!(facet.field, field);
    Ok(facet.values.into_iter().map(|v| (v.value.0, v.events)).collect())
}

fn intake(store: &Store, app: &AppRow, events: &[Value]) -> NewIntake {
    let item = |(n, event): (usize, &Value)| {
        let id = Some(format!("{:032x}", n + 1));
        let body = event.to_string().into_bytes();
        ErrorItem { kind: ItemKind::Event, event_id: id, name: None, body }.pack().unwrap()
    };
    NewIntake {
        app: app.id,
        environment: app.environment.id,
        received_at: store.clock().now(),
        items: events.iter().enumerate().map(item).collect(),
        dropped: Vec::new(),
    }
}

/// Microseconds of a day.
const DAY: i64 = 24 * 3_600_000_000;

/// The debug id of a pair.
fn debug_id(name: &str) -> String {
    format!("00000000-0000-0000-0000-{:0>12}", hex::encode(name))
}

/// A minified file of one function, and the map to what it was.
fn pair(name: &str) -> Pair {
    let map = json!({
        "version": 3, "sources": [format!("src/{name}.ts")], "sourcesContent": ["function whole() {}"],
        "names": [], "mappings": "AAAA",
    });
    Pair {
        debug_id: None,
        url: format!("~/{name}.js"),
        source: "function a(){}".to_owned(),
        map: map.to_string(),
    }
}

/// Files of the frames of an event.
fn files(event: &ErrorEventRow) -> Vec<String> {
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    let frames = body["exception"]["values"][0]["stacktrace"]["frames"].as_array().unwrap();
    frames.iter().map(|f| f["abs_path"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maps_that_come_one_by_one_all_count() {
    let frame =
        |name: &str| json!({ "abs_path": format!("https://a.example/{name}.js"), "lineno": 1, "colno": 1 });
    let event = json!({
        "platform": "javascript", "release": "1",
        "exception": { "values": [{ "type": "TypeError", "value": "no",
            "stacktrace": { "frames": [frame("one"), frame("two")] } }] },
    });
    let world = World::with(&[event]).await;
    let errors = world.store.errors();
    let until = async |wanted: [&str; 2]| {
        for _ in 0..300 {
            let event = world.event("web-1").await;
            if files(&event) == wanted {
                return errors.waits_for(event.id).await.unwrap();
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?}", files(&world.event("web-1").await));
    };
    world.maps.add(world.app.id, Some("1"), vec![pair("one")]).await.unwrap();
    let left = until(["src/one.ts", "https://a.example/two.js"]).await;
    assert_eq!(left.iter().map(|w| w.url.as_str()).collect::<Vec<_>>(), ["~/two.js"]);
    assert!(
        errors.mappable(10).await.unwrap().is_empty(),
        "what is missing is not looked at again and again"
    );
    world.maps.add(world.app.id, Some("1"), vec![pair("two")]).await.unwrap();
    assert_eq!(until(["src/one.ts", "src/two.ts"]).await, []);
    world.stop().await;
}

/// A chain of exceptions with breadcrumbs, and a message.
fn two_events() -> [Value; 2] {
    let raised = |kind: &str, value: &str, function: &str, file: &str| {
        json!({ "type": kind, "value": value, "stacktrace": { "frames": [
            { "function": function, "filename": file, "lineno": 1, "in_app": true }] } })
    };
    [
        json!({
            "platform": "python", "level": "error", "tags": { "shop": "north" },
            "exception": { "values": [
                raised("RootError", "connection refused", "open_socket", "net/pool.py"),
                raised("OuterError", "checkout failed", "checkout", "shop/cart.py"),
            ] },
            "breadcrumbs": { "values": [
                { "category": "http", "data": { "url": "https://pay.example/charges" } },
                { "category": "navigation", "data": { "from": "/home", "to": "/basket" } },
            ] },
        }),
        json!({ "platform": "python", "level": "warning", "message": "disk full", "tags": { "shop": "south" } }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_query_means_is_found() {
    let world = World::with(&two_events()).await;
    let (chain, message, both) = (&["OuterError"][..], &["disk full"][..], &["OuterError", "disk full"][..]);
    for (query, wanted) in [
        ("message:[refused, nothing]", chain),
        ("message:[\"disk full\", nothing]", message),
        ("message:[refu*, ful*]", both),
        ("message:[\"refu*\", nothing]", &[]),
        ("shop:[nor*, west]", chain),
        ("!shop:[nor*, west]", message),
        ("shop:[\"nor*\", south]", message),
        ("has:tags[shop]", both),
        ("has:tag.shop", both),
        ("has:message", both),
        ("has:users", &[]),
        ("tag.shop:south", message),
        ("pool", chain),
        ("open_socket", chain),
        ("function:open_socket", chain),
        ("https://pay.example/charges", chain),
        ("basket", chain),
    ] {
        assert_eq!(world.sought(query).await, wanted, "{query}");
    }
    let unknown = world.index.seek("has:levl", &Visible::All, None, Timestamp::now()).await.unwrap_err();
    assert!(unknown.hint.as_deref().unwrap().contains("\"has:level\""), "{unknown:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facets_count_events_of_matching_issues_only() {
    let world = World::with(&two_events()).await;
    let of = |values: &[&str]| values.iter().map(|v| ((*v).to_owned(), 1)).collect::<Vec<_>>();
    assert_eq!(world.facet("is:open", "shop").await.unwrap(), of(&["north", "south"]));
    let root = Principal::daemon();
    world.store.errors().resolve(&root, &world.issue("WEB-1").await, false).await.unwrap();
    let left = if world.sought("is:open").await == ["disk full"] { "south" } else { "north" };
    let gone = if left == "south" { "north" } else { "south" };
    for (query, wanted) in [
        ("", &["north", "south"][..]),
        ("platform:python", &["north", "south"]),
        ("is:open", &[left]),
        ("is:open platform:python", &[left]),
        ("is:resolved OR shop:nowhere", &[gone]),
        ("is:ignored", &[]),
    ] {
        assert_eq!(world.facet(query, "tags[shop]").await.unwrap(), of(wanted), "{query}");
    }
    for (field, hint) in [("levl", "\"level\""), ("first_seen", "error_fields")] {
        let refused = world.facet("", field).await.unwrap_err();
        assert!(refused.hint.as_deref().unwrap().contains(hint), "{refused:?}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_an_earlier_format_is_built_anew() {
    let world = World::with(&two_events()).await;
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let shutdown = CancellationToken::new();
        let index = ErrorIndex::start(world.store.clone(), Some(dir.path()), shutdown.clone()).unwrap();
        for _ in 0..500 {
            if index.position() == 2 {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        let python = [("python".to_owned(), 2)];
        assert_eq!(counted(&index, "", "platform").await.unwrap(), python, "each event is there once");
        shutdown.cancel();
        index.stopped().await;
        let meta = dir.path().join("meta.json");
        let mut read: Value = serde_json::from_slice(&std::fs::read(&meta).unwrap()).unwrap();
        read["payload"] = "1 2".into();
        std::fs::write(&meta, read.to_string()).unwrap();
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maps_go_with_releases_that_nobody_has_any_more() {
    let frame =
        |name: &str| json!({ "abs_path": format!("https://a.example/{name}.js"), "lineno": 1, "colno": 1 });
    let event = |release: &str, name: &str| {
        json!({ "platform": "javascript", "release": release, "exception": { "values": [
            { "type": "TypeError", "value": "no", "stacktrace": { "frames": [frame(name)] } }] } })
    };
    let world = World::with(&[event("seen", "a")]).await;
    let (maps, app) = (&world.maps, world.app.id);
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    let kept = |events| MapsKept { age: days(90), releases: 100, events: days(events) };
    let without = |name: &str| Pair { debug_id: Some(debug_id(name)), ..pair(name) };
    for (release, name) in [("seen", "a"), ("unseen", "b"), ("read", "c"), ("newest", "d")] {
        maps.add(app, Some(release), vec![pair(name)]).await.unwrap();
    }
    maps.add(app, None, vec![without("e")]).await.unwrap();
    world.store.errors().add_release(app, "newest", None, true).await.unwrap();
    // The newest that the environment saw serves, whatever its age.
    let mut request = intake(&world.store, &world.app, &[]);
    let (event_id, body) = (Some("f".repeat(32)), event("newest", "d").to_string().into_bytes());
    request.items = vec![ErrorItem { kind: ItemKind::Event, event_id, name: None, body }.pack().unwrap()];
    world.store.errors().accept(&[request]).await.unwrap();
    world.found(2).await;
    for _ in 0..300 {
        let seen = world.store.errors().events_after(0, 1).await.unwrap().remove(0);
        if files(&seen) == ["src/a.ts"] {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(maps.prune(kept(90)).await.unwrap(), 0, "and it is noted what was read today");
    let all = [("seen", "a"), ("unseen", "b"), ("read", "c"), ("newest", "d"), ("", "e")];
    let names = ["seen", "unseen", "read", "newest", ""];
    world.advance(89);
    assert_eq!(maps.prune(kept(90)).await.unwrap(), 0, "none is old");
    world.advance(11);
    // Somebody still has that release, though nothing of it was kept.
    let mut body = event("read", "c");
    assert!(maps.put_right(app, &mut body, &mut Vec::new()).await.unwrap());
    assert_eq!(world.mapped(&all).await, names);
    assert_eq!(maps.prune(kept(365)).await.unwrap(), 1);
    assert_eq!(
        world.mapped(&all).await,
        ["seen", "read", "newest", ""],
        "the newest build without a release stays"
    );
    assert_eq!(world.files(), 5, "a file may lie there before its row comes");
    let old = SystemTime::now() - Duration::from_secs(2 * 3600);
    let chunks = maps.chunks_dir();
    std::fs::create_dir_all(&chunks).unwrap();
    for name in ["old", "new"] {
        std::fs::write(chunks.join(name), "chunk").unwrap();
    }
    let aged = |path: &std::path::Path, at| {
        std::fs::File::options().write(true).open(path).unwrap().set_modified(at)
    };
    aged(&chunks.join("old"), SystemTime::now() - days(2)).unwrap();
    for entry in std::fs::read_dir(world.dir.path().join("maps")).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            aged(&entry.path(), old).unwrap();
        }
    }
    maps.add(app, None, vec![without("f")]).await.unwrap();
    assert_eq!(
        maps.prune(kept(90)).await.unwrap(),
        2,
        "its events are not kept any more; another build came"
    );
    let all = [all[0], all[2], all[3], all[4], ("", "f")];
    assert_eq!(world.mapped(&all).await, ["read", "newest", ""]);
    assert_eq!(world.files(), 3, "their files went, and those that are read stayed");
    let left: Vec<_> = std::fs::read_dir(&chunks).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["new"], "chunks that nobody put together went");
    // More releases than are kept, of any age.
    for release in ["1", "2", "3"] {
        maps.add(app, Some(release), vec![pair(release)]).await.unwrap();
    }
    let few = MapsKept { age: days(3650), releases: 2, events: days(90) };
    assert_eq!(maps.prune(few).await.unwrap(), 1);
    let all = [("1", "1"), ("2", "2"), ("3", "3"), ("newest", "d"), ("read", "c")];
    assert_eq!(
        world.mapped(&all).await,
        ["2", "3", "newest", "read"],
        "what was read or is the newest stays"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issue_is_not_called_after_a_person_who_was_erased() {
    let event = |who: &str, said: &str| {
        json!({ "platform": "python", "user": { "email": who }, "exception": { "values": [
            { "type": "KeyError", "value": said, "stacktrace": { "frames": [
                { "function": "total", "filename": "cart.py", "in_app": true },
            ] } }] } })
    };
    let only_hers = json!({ "message": "zinnober alone", "user": { "email": "ann@shop.example" } });
    let world = World::with(&[
        event("ann@shop.example", "no zinnober"),
        event("bob@shop.example", "no azur"),
        event("eve@shop.example", "no ocker"),
        event("ann@shop.example", "no more zinnober"),
        only_hers,
    ])
    .await;
    assert_eq!(
        (world.issue("WEB-1").await.value.as_str(), world.issue("WEB-1").await.events),
        ("no zinnober", 4)
    );
    let input = json!({ "user": "ann@shop.example" });
    let jobs = world.store.jobs();
    let kind = berth_schemas::job::JobKind::EraseUser;
    let job = jobs.enqueue(kind, Some(world.app.id), None, input, "root").await.unwrap();
    let eraser = Eraser::new(world.store.clone(), world.index.clone());
    eraser.erase(world.app.id, &job).await.unwrap();
    let left = world.issue("WEB-1").await;
    assert_eq!((left.value.as_str(), left.events), ("no ocker", 2), "the newest that is left");
    assert_eq!((left.kind.as_str(), left.culprit.as_deref()), ("KeyError", Some("total in cart.py")));
    assert!(
        !left.reasons.is_empty() && !format!("{:?}", left.reasons).contains("zinnober"),
        "{:?}",
        left.reasons
    );
    assert!(world.sought("zinnober").await.is_empty());
    assert_eq!(world.sought("ocker").await, ["KeyError"]);
    let alone = world.store.errors().issue(&Visible::All, &"WEB-2".parse().unwrap()).await.unwrap();
    assert!(alone.is_none(), "nothing of it was anybody else's");
    world.stop().await;
}
