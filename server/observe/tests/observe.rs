//! Collecting, recording and forgetting, against a real store and a scripted source.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use berth_observe::{
    errors::{Digester, ErrorIndex, Ingest, Maps},
    *,
};
use berth_schemas::{Timestamp, app::AppSettings, log::Level};
use berth_store::*;
use futures_util::{StreamExt, stream::BoxStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const SECOND: i64 = 1_000_000_000;

/// An engine that has kept certain lines of every container and follows with none.
struct Script {
    lines: Vec<RawLine>,
    /// How long it takes over each.
    pace: Duration,
    /// Ends instead of waiting for more.
    ends: bool,
    readings: AtomicUsize,
}

impl Script {
    fn new(lines: Vec<RawLine>) -> Self {
        Self { lines, pace: Duration::ZERO, ends: false, readings: AtomicUsize::new(0) }
    }
}

impl ContainerLogs for Script {
    fn follow(&self, _: &str, since: i64) -> BoxStream<'static, Result<RawLine, SourceError>> {
        self.readings.fetch_add(1, Ordering::SeqCst);
        // An engine knows whole seconds only.
        let since = since / SECOND * SECOND;
        let lines: Vec<_> = self.lines.iter().filter(|l| l.at_nanos >= since).cloned().map(Ok).collect();
        let (pace, ends) = (self.pace, self.ends);
        let kept = futures_util::stream::iter(lines).then(move |line| async move {
            if !pace.is_zero() {
                sleep(pace).await;
            }
            line
        });
        if ends { kept.boxed() } else { kept.chain(futures_util::stream::pending()).boxed() }
    }
}

fn line(n: i64, at_nanos: i64, stream: OutputStream) -> RawLine {
    RawLine { at_nanos, stream, text: format!("line {n}") }
}

struct World {
    store: Store,
    app: AppRow,
    _dir: tempfile::TempDir,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let key = MasterKey::load_or_create(dir.path()).unwrap();
    let config = StoreConfig { data_dir: dir.path().to_owned(), database_url: None };
    let store = Store::open(config, key).await.unwrap();
    let project = store.projects().list(&Visible::All).await.unwrap()[0].id;
    let app = store
        .apps()
        .create(&Principal::daemon(), project, "web".parse().unwrap(), AppSettings::default())
        .await
        .unwrap();
    World { store, app, _dir: dir }
}

impl World {
    fn collect(&self, source: Arc<Script>, config: CollectorConfig) -> (LogCollector, CancellationToken) {
        let shutdown = CancellationToken::new();
        let collector = LogCollector::start(self.store.clone(), source, config, shutdown.clone());
        collector.watch(self.replica());
        (collector, shutdown)
    }

    fn replica(&self) -> Replica {
        Replica { container: "c1".into(), app_id: self.app.id, release: 1, replica: 1 }
    }

    async fn texts(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let query = LogQuery { after: Some(after), limit: 5000, ..LogQuery::default() };
            let (lines, more) = self.store.logs().search(self.app.id, &query).await.unwrap();
            after = lines.last().map_or(after, |l| l.id);
            all.extend(lines.into_iter().map(|l| l.text.0));
            if !more {
                return all;
            }
        }
    }

    async fn wait_for(&self, lines: i64) {
        for _ in 0..200 {
            if self.store.logs().volume().await.unwrap().rows >= lines {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("{lines} lines did not come: {:?}", self.store.logs().volume().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_container_prints_is_stored_and_told_with_its_id() {
    let world = world().await;
    let lines = vec![
        RawLine { at_nanos: SECOND, stream: OutputStream::Stdout, text: "Listening".into() },
        RawLine { at_nanos: 2 * SECOND, stream: OutputStream::Stderr, text: "ERROR it broke".into() },
    ];
    let shutdown = CancellationToken::new();
    let source = Arc::new(Script::new(lines));
    let config = CollectorConfig::default();
    let collector = LogCollector::start(world.store.clone(), source.clone(), config, shutdown.clone());
    let mut live = collector.subscribe(world.app.id);
    collector.watch(world.replica());
    collector.watch(world.replica());
    let told = [live.recv().await.unwrap(), live.recv().await.unwrap()];
    assert_eq!(source.readings.load(Ordering::SeqCst), 1, "watching twice is once");
    let query = LogQuery { limit: 10, ..LogQuery::default() };
    let (stored, _) = world.store.logs().search(world.app.id, &query).await.unwrap();
    assert_eq!(stored, told);
    assert_eq!((told[1].level, told[1].stream.as_str()), (Level::Error, "stderr"));
    assert_eq!(told[1].at, Timestamp(2_000_000));
    shutdown.cancel();
    collector.stopped().await;
    collector.watch(world.replica());
    assert!(live.try_recv().is_err(), "after the end nothing is watched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_loses_and_repeats_nothing() {
    let world = world().await;
    // Several lines share an instant, and the two outputs alternate.
    let lines: Vec<_> = (0..3000)
        .map(|n| {
            let stream = if n % 3 == 0 { OutputStream::Stderr } else { OutputStream::Stdout };
            line(n, 1000 * SECOND + n / 4 * 10_000_000, stream)
        })
        .collect();
    let mut source = Script::new(lines);
    source.pace = Duration::from_micros(100);
    let source = Arc::new(source);
    for stop_after in [150, 350, 700] {
        let (collector, shutdown) = world.collect(source.clone(), CollectorConfig::default());
        sleep(Duration::from_millis(stop_after)).await;
        shutdown.cancel();
        collector.stopped().await;
    }
    let before = world.store.logs().volume().await.unwrap().rows;
    assert!(before > 0 && before < 3000, "stopped in the middle: {before}");
    let (collector, shutdown) = world.collect(source.clone(), CollectorConfig::default());
    world.wait_for(3000).await;
    sleep(Duration::from_millis(400)).await;
    shutdown.cancel();
    collector.stopped().await;
    let expected: Vec<String> = (0..3000).map(|n| format!("line {n}")).collect();
    assert_eq!(world.texts().await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_ends_is_read_again_without_repeats() {
    let world = world().await;
    let mut source = Script::new((0..10).map(|n| line(n, SECOND + n, OutputStream::Stdout)).collect());
    source.ends = true;
    let source = Arc::new(source);
    let (collector, shutdown) = world.collect(source.clone(), CollectorConfig::default());
    sleep(Duration::from_millis(2200)).await;
    assert!(source.readings.load(Ordering::SeqCst) >= 2);
    collector.unwatch("c1");
    sleep(Duration::from_millis(100)).await;
    let readings = source.readings.load(Ordering::SeqCst);
    shutdown.cancel();
    collector.stopped().await;
    assert_eq!(source.readings.load(Ordering::SeqCst), readings);
    assert_eq!(world.texts().await.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_cut_counted_and_said_so() {
    let world = world().await;
    let mut lines: Vec<_> =
        (0..60_000).map(|n| line(n, 1000 * SECOND + n * 1000, OutputStream::Stdout)).collect();
    lines.push(line(-1, 1010 * SECOND, OutputStream::Stdout));
    let config = CollectorConfig { lines_per_second: 1000, burst: 2000 };
    let (collector, shutdown) = world.collect(Arc::new(Script::new(lines)), config);
    for _ in 0..200 {
        if world.texts().await.last().is_some_and(|t| t == "line -1") {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    shutdown.cancel();
    collector.stopped().await;
    let texts = world.texts().await;
    let notes = texts.iter().filter(|t| t.starts_with("[berth]")).count();
    let kept = texts.len() - notes;
    assert_eq!(texts.last().unwrap(), "line -1");
    assert!((2000..2100).contains(&kept), "{kept}");
    assert_eq!(collector.dropped(), 60_001 - u64::try_from(kept).unwrap());
    assert!(notes >= 1);
}

fn request(app: &AppRow, n: i64) -> NewRequest {
    NewRequest {
        app_id: app.id,
        at: Timestamp(n),
        request_id: n.to_string(),
        method: "GET".into(),
        host: "h".into(),
        path: "/".into(),
        status: 200,
        bytes_in: 0,
        bytes_out: 0,
        micros: 1,
        app_micros: None,
        release: None,
        error: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_written_before_the_recorder_ends() {
    let world = world().await;
    let shutdown = CancellationToken::new();
    let recorder = RequestRecorder::start(world.store.clone(), RecorderConfig::default(), shutdown.clone());
    for n in 0..5000 {
        recorder.record(request(&world.app, n));
    }
    shutdown.cancel();
    recorder.stopped().await;
    assert_eq!(recorder.dropped(), 0);
    let query = RequestQuery { limit: 1, ..RequestQuery::default() };
    assert_eq!(world.store.requests().list(world.app.id, &query).await.unwrap().total, 5000);
    recorder.record(request(&world.app, 1));
    assert_eq!(recorder.dropped(), 1, "after the end there is no room");
}

#[tokio::test]
async fn a_full_recorder_drops_and_counts() {
    let world = world().await;
    let shutdown = CancellationToken::new();
    let recorder =
        RequestRecorder::start(world.store.clone(), RecorderConfig { queue: 10 }, shutdown.clone());
    // One thread: the recorder's task cannot run in between.
    (0..25).for_each(|n| recorder.record(request(&world.app, n)));
    assert_eq!(recorder.dropped(), 15);
    shutdown.cancel();
    recorder.stopped().await;
    assert_eq!(world.store.requests().volume().await.unwrap().rows, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_keeps_to_its_limits() {
    let world = world().await;
    let now = Timestamp::now();
    let old = Timestamp(now.0 - 8 * 24 * 3600 * 1_000_000);
    let lines: Vec<_> = [old, now]
        .map(|at| NewLogLine {
            app_id: world.app.id,
            release: 1,
            replica: 1,
            stream: OutputStream::Stdout,
            level: Level::Info,
            at,
            text: "x".into(),
        })
        .into();
    world.store.logs().append(&lines, &[]).await.unwrap();
    let requests: Vec<_> = (0..100).map(|n| request(&world.app, now.0 - n)).collect();
    world.store.requests().append(&requests).await.unwrap();
    let shutdown = CancellationToken::new();
    let half = u64::try_from(world.store.requests().volume().await.unwrap().bytes / 2).unwrap();
    let config = RetentionConfig {
        every: Duration::from_millis(50),
        request_bytes: half,
        ..RetentionConfig::default()
    };
    let index = ErrorIndex::start(world.store.clone(), None, shutdown.clone()).unwrap();
    let maps =
        Maps::start(world.store.clone(), world._dir.path().join("maps"), index.clone(), shutdown.clone());
    let retention = Retention::start(world.store.clone(), index, maps, config, shutdown.clone());
    for _ in 0..100 {
        if world.store.requests().volume().await.unwrap().rows == 50 {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    shutdown.cancel();
    retention.stopped().await;
    assert_eq!(world.store.requests().volume().await.unwrap().rows, 50);
    assert_eq!(world.store.logs().volume().await.unwrap().rows, 1);
}

#[tokio::test]
async fn old_events_leave_the_store_and_the_search() {
    let world = world().await;
    let now = world.store.clock().now();
    let event = |n: i64, days: i64| {
        let body = format!(
            "{{\"message\":\"it broke\",\"level\":\"error\",\"timestamp\":{}}}",
            now.0 / 1_000_000 - days * 24 * 3600
        );
        let id = Some(format!("{n:032x}"));
        ErrorItem { kind: ItemKind::Event, event_id: id, name: None, body: body.into_bytes() }.pack().unwrap()
    };
    let request = NewIntake {
        app: world.app.id,
        environment: world.app.environment.id,
        received_at: now,
        items: vec![event(1, 20), event(2, 15), event(3, 1)],
        dropped: Vec::new(),
    };
    world.store.errors().accept(&[request]).await.unwrap();
    let shutdown = CancellationToken::new();
    let index = ErrorIndex::start(world.store.clone(), None, shutdown.clone()).unwrap();
    let maps =
        Maps::start(world.store.clone(), world._dir.path().join("maps"), index.clone(), shutdown.clone());
    let ingest = Ingest::start(world.store.clone(), shutdown.clone());
    let digester =
        Digester::start(world.store.clone(), ingest.clone(), index.clone(), maps.clone(), shutdown.clone());
    let found = async || {
        let level = vec!["level".to_owned()];
        let view = berth_store::model::Visible::All;
        let facets = index.facets("level:error", &view, Some(world.app.id), now, level).await.unwrap();
        facets[0].values.first().map_or(0, |value| value.events)
    };
    let until = async |wanted: u64| {
        for _ in 0..200 {
            if found().await == wanted {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{} events are found, not {wanted}", found().await);
    };
    until(3).await;
    let config = RetentionConfig {
        every: Duration::from_millis(50),
        error_age: Duration::from_secs(10 * 24 * 3600),
        ..RetentionConfig::default()
    };
    let retention =
        Retention::start(world.store.clone(), index.clone(), maps.clone(), config, shutdown.clone());
    until(1).await;
    shutdown.cancel();
    retention.stopped().await;
    digester.stopped().await;
    ingest.stopped().await;
    maps.stopped().await;
    index.stopped().await;
    let left = world.store.errors().events_after(0, 10).await.unwrap();
    assert_eq!(left.iter().map(|e| e.event_id.clone()).collect::<Vec<_>>(), [format!("{:032x}", 3)]);
}
