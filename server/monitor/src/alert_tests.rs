//! Floods of errors, by a clock that stands still and a receiver on this machine.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use berth_deploy::source::guard::HostPolicy;
use berth_schemas::{alert::ChannelTarget, app::AppSettings, issue::Level};
use berth_store::{
    AppRow, Body, Clock, DigestedEvent, ErrorItem, ItemKind, MasterKey, NewIntake, Principal, StoreConfig,
    Until,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};

use super::*;

const START: i64 = 1_767_225_600_000_000;

struct World {
    store: Store,
    app: AppRow,
    sender: Sender,
    now: Arc<AtomicI64>,
    received: mpsc::UnboundedReceiver<Value>,
    events: u32,
    dir: tempfile::TempDir,
}

async fn open(dir: &Path, now: &Arc<AtomicI64>) -> Store {
    let key = MasterKey::load_or_create(dir).unwrap();
    let config = StoreConfig { data_dir: dir.to_owned(), database_url: None };
    let now = Arc::clone(now);
    let clock = Clock::from_fn(move || Timestamp(now.load(Ordering::SeqCst)));
    Store::with_clock(config, key, clock).await.unwrap()
}

/// Takes whatever is posted, and hands on what it says.
async fn receiver() -> (String, mpsc::UnboundedReceiver<Value>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (told, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut got = Vec::new();
            let body = loop {
                let mut piece = [0; 4096];
                let n = stream.read(&mut piece).await.unwrap();
                assert!(n > 0, "the request ends early");
                got.extend_from_slice(&piece[..n]);
                let text = String::from_utf8_lossy(&got).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head
                    .lines()
                    .find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.unwrap_or(0_usize) {
                    break serde_json::from_str(body).unwrap();
                }
            };
            told.send(body).unwrap();
            let answer = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, received)
}

impl World {
    /// With a rule that tells a webhook, and the event log read to its end.
    async fn new(max_per_hour: u32, rule: AlertRule) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(START));
        let store = open(dir.path(), &now).await;
        let root = Principal::daemon();
        let project = store.projects().list(&Visible::All).await.unwrap()[0].id;
        let app = store
            .apps()
            .create(&root, project, "web".parse().unwrap(), AppSettings::default())
            .await
            .unwrap();
        let (url, received) = receiver().await;
        let secret = Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
        let target = ChannelTarget::Webhook { url, secret };
        let name = "hook".parse().unwrap();
        store.alerts().set_channel(&root, &name, &target, "127.0.0.1", max_per_hour).await.unwrap();
        store.alerts().set_rule(&root, &rule, None).await.unwrap();
        let policy = HostPolicy { allow_private: true, allow_hosts: Vec::new() };
        let world = Self { store, app, sender: Sender { policy }, now, received, events: 0, dir };
        world.round().await;
        world
    }

    async fn restart(&mut self) {
        self.store.close().await;
        self.store = open(self.dir.path(), &self.now).await;
    }

    fn advance(&self, seconds: i64) {
        self.now.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    /// What the task does in a round.
    async fn round(&self) {
        collect(&self.store, "http://berth.example").await.unwrap();
        count(&self.store, "http://berth.example").await.unwrap();
        send_due(&self.store, &self.sender, &CancellationToken::new()).await.unwrap();
    }

    /// Events of an issue each, of users in turn.
    async fn happen(&mut self, kinds: &[(&str, &str)]) {
        let errors = self.store.errors();
        let first = self.events;
        self.events += u32::try_from(kinds.len()).unwrap();
        let items = (first..self.events).map(|n| {
            let event_id = Some(format!("{n:032x}"));
            ErrorItem { kind: ItemKind::Event, event_id, name: None, body: b"{}".to_vec() }.pack().unwrap()
        });
        let request = NewIntake {
            app: self.app.id,
            environment: self.app.environment.id,
            received_at: self.store.clock().now(),
            items: items.collect(),
            dropped: Vec::new(),
        };
        errors.accept(&[request]).await.unwrap();
        let rows = errors.waiting(None, 1000).await.unwrap();
        let read = rows.iter().zip(kinds).map(|(row, (kind, user))| DigestedEvent {
            intake: row.id,
            app: row.app,
            environment: row.environment,
            event_id: row.event_id.clone().unwrap(),
            at: None,
            received_at: row.received_at,
            kind: (*kind).to_owned(),
            value: "v".into(),
            culprit: None,
            level: Level::Error,
            platform: "python".into(),
            handled: None,
            release: Some("1".into()),
            user_key: Some(format!("id:{user}")),
            strict: format!("strict-{kind}"),
            loose: None,
            reasons: Vec::new(),
            body: Body::Compressed(row.body.clone()),
            wanted: Vec::new(),
        });
        errors.digest(&read.collect::<Vec<_>>(), &[], &[]).await.unwrap();
    }

    /// The messages since the last time.
    fn told(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.received.try_recv().ok()).map(|mut body| body["data"].take()).collect()
    }

    async fn issue(&self, number: i64) -> IssueRow {
        let which = IssueRef { app: self.app.slug.clone(), number };
        self.store.errors().issue(&Visible::All, &which).await.unwrap().unwrap()
    }
}

fn rule(when: AlertTrigger) -> AlertRule {
    AlertRule {
        alert: "told".parse().unwrap(),
        app: None,
        when,
        threshold: None,
        minutes: None,
        level: None,
        channels: vec!["hook".parse().unwrap()],
        quiet_minutes: None,
        gather_minutes: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_of_500_new_errors_sends_a_few_messages() {
    let mut world = World::new(30, rule(AlertTrigger::NewError)).await;
    let names: Vec<String> = (0..500).map(|n| format!("E{n}")).collect();
    let mut told = Vec::new();
    for chunk in names.chunks(5) {
        world.happen(&chunk.iter().map(|n| (n.as_str(), "ann")).collect::<Vec<_>>()).await;
        world.round().await;
        told.extend(world.told());
        world.advance(5);
    }
    // Eight minutes of it: the first at once, then one each five minutes.
    assert_eq!(told.len(), 2, "{told:#?}");
    assert_eq!(told[0]["count"], 5);
    let text = told[1]["text"].as_str().unwrap();
    assert!(text.contains("more new errors in web: WEB-"), "{text}");
    // What waits, waits also for the daemon's next start.
    world.restart().await;
    world.round().await;
    assert_eq!(world.told(), Vec::<Value>::new());
    world.advance(300);
    world.round().await;
    told.extend(world.told());
    assert_eq!(told.len(), 3);
    let all: u64 = told.iter().map(|m| m["count"].as_u64().unwrap()).sum();
    assert_eq!(all, 500, "each is told once");
    world.advance(300);
    world.round().await;
    assert_eq!(world.told(), Vec::<Value>::new());
    let listed = world.store.alerts().deliveries(10).await.unwrap();
    assert_eq!(listed.iter().map(|d| d.count).sum::<u64>(), 500);
    assert!(listed.iter().all(|d| d.issues.len() <= 50));
    let AlertRule { alert, channels, .. } = rule(AlertTrigger::NewError);
    let last = world.store.alerts().last(&alert, &channels[0]).await.unwrap().unwrap();
    assert_eq!(
        last.message,
        serde_json::json!({ "count": told[2]["count"] }),
        "what was sent keeps no words"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_takes_no_more_than_its_limit_in_an_hour() {
    let each = AlertRule { gather_minutes: Some(0), ..rule(AlertTrigger::NewError) };
    let mut world = World::new(3, each).await;
    for n in 0..20 {
        world.happen(&[(&format!("E{n}"), "ann")]).await;
        world.round().await;
        world.advance(60);
    }
    assert_eq!(world.told().len(), 3, "the limit");
    let waiting = world.store.alerts().deliveries(1).await.unwrap().remove(0);
    assert_eq!((waiting.count, waiting.held_since.is_some()), (17, true));
    world.restart().await;
    world.advance(30 * 60);
    world.round().await;
    assert_eq!(world.told(), Vec::<Value>::new(), "the hour is not over");
    // The first of the three is an hour old.
    world.advance(10 * 60);
    world.round().await;
    let told = world.told();
    assert_eq!((told.len(), &told[0]["count"]), (1, &17.into()));
    let text = told[0]["text"].as_str().unwrap();
    assert!(
        text.starts_with("Held back since 2026-01-01T00:03:00.000Z: this channel takes 3 messages"),
        "{text}"
    );
    assert!(text.contains("and 7 more new errors in web: WEB-"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_came_back_is_told_and_one_that_somebody_opened_is_not() {
    let mut world = World::new(30, rule(AlertTrigger::Regression)).await;
    let root = Principal::daemon();
    world.happen(&[("A", "ann"), ("B", "ann"), ("C", "ann")]).await;
    world.round().await;
    assert_eq!(world.told(), Vec::<Value>::new(), "new is not back");
    world.store.errors().resolve(&root, &world.issue(1).await, false).await.unwrap();
    let limit = Until { events: Some(2), ..Until::default() };
    world.store.errors().ignore(&root, &world.issue(2).await, limit).await.unwrap();
    let somebody = Principal { name: "ann".into(), ..Principal::daemon() };
    world.store.errors().resolve(&somebody, &world.issue(3).await, false).await.unwrap();
    world.store.errors().reopen(&somebody, &world.issue(3).await).await.unwrap();
    world.advance(60);
    world.happen(&[("A", "ann"), ("B", "ann")]).await;
    world.round().await;
    let told = world.told();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0]["title"].as_str().unwrap().contains("WEB-1 is back"), "{told:#?}");
    world.advance(600);
    world.happen(&[("B", "ann")]).await;
    world.round().await;
    let told = world.told();
    assert!(told[0]["title"].as_str().unwrap().contains("WEB-2 is back"), "its limit is reached: {told:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_many_users_is_told_when_they_are_many_at_a_time() {
    let many = AlertRule { threshold: Some(3), minutes: Some(10), ..rule(AlertTrigger::Users) };
    let mut world = World::new(30, many).await;
    world.happen(&[("A", "ann"), ("A", "bob"), ("A", "ann"), ("A", "ann")]).await;
    world.round().await;
    assert_eq!(world.told(), Vec::<Value>::new(), "two users, however often");
    // A third one, but when the first two are long gone.
    world.advance(11 * 60);
    world.happen(&[("A", "eve")]).await;
    world.round().await;
    assert_eq!(world.told(), Vec::<Value>::new());
    world.happen(&[("A", "bob"), ("A", "ann")]).await;
    world.round().await;
    let told = world.told();
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0]["when"], &told[0]["issues"][0]["users"]), (&"users".into(), &3.into()), "{told:#?}");
    assert!(told[0]["text"].as_str().unwrap().contains("3 users in 10 min"), "{told:#?}");
    world.round().await;
    assert_eq!(world.told(), Vec::<Value>::new(), "told once");
}
