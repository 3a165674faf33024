//! Errors from the intake to the search, against a real store.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use std::time::Duration;

use berth_observe::errors::{Digester, ErrorIndex, Ingest, Maps, maps::bundle::Pair};
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
    _dir: tempfile::TempDir,
}

impl World {
    /// With these events, once they can be found.
    async fn with(events: &[Value]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = MasterKey::load_or_create(dir.path()).unwrap();
        let config = StoreConfig { data_dir: dir.path().to_owned(), database_url: None };
        let store = Store::open(config, key).await.unwrap();
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
        let world = Self { store, app, index, maps, ingest, digester, shutdown, _dir: dir };
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
        let filter = self.index.seek(query, app, now).await.unwrap().filter;
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
    let mut facets = index.facets(query, None, Timestamp::now(), vec![field.to_owned()]).await?;
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
    let unknown = world.index.seek("has:levl", None, Timestamp::now()).await.unwrap_err();
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
