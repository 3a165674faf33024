use berth_schemas::{Timestamp, log::Level};
use berth_store::*;

use crate::support::World;

/// Line `n`, printed `n` seconds after 1970.
pub fn log_line(app: &AppRow, n: i64, text: &str) -> NewLogLine {
    NewLogLine {
        app_id: app.id,
        release: 1,
        replica: 1,
        stream: OutputStream::Stdout,
        level: Level::Info,
        at: Timestamp(n * 1_000_000),
        text: text.into(),
    }
}

/// A request at second `n` that took `ms`.
pub fn request(app: &AppRow, n: i64, status: i64, ms: i64) -> NewRequest {
    NewRequest {
        app_id: app.id,
        at: Timestamp(n * 1_000_000),
        request_id: format!("r{n}"),
        method: "GET".into(),
        host: "web.localhost".into(),
        path: format!("/items/{n}"),
        status,
        bytes_in: 0,
        bytes_out: 100,
        micros: ms * 1000,
        app_micros: (status < 500).then_some(ms * 900),
        release: Some(1),
        error: (status >= 500).then(|| "no_replica".to_owned()),
    }
}

pub async fn logs_are_searched(world: World) {
    let (app, other) = (world.app("web").await, world.app("api").await);
    let lines: Vec<_> = (1..=300)
        .map(|n| NewLogLine {
            level: if n % 100 == 0 { Level::Error } else { Level::Info },
            stream: if n % 2 == 0 { OutputStream::Stderr } else { OutputStream::Stdout },
            release: 1 + n / 200,
            ..log_line(&app, n, &format!("Request {n} done"))
        })
        .collect();
    let ids = world.store.logs().append(&lines, &[]).await.unwrap();
    assert_eq!(ids.len(), 300);
    assert!(ids.windows(2).all(|w| w[0] < w[1]));
    world.store.logs().append(&[log_line(&other, 1, "Request 1 done")], &[]).await.unwrap();

    let search = async |query: LogQuery| {
        let (lines, truncated) = world.store.logs().search(app.id, &query).await.unwrap();
        let numbers: Vec<i64> = lines.iter().map(|l| l.at.0 / 1_000_000).collect();
        (numbers, truncated)
    };
    let any = || LogQuery { limit: 3, ..LogQuery::default() };
    assert_eq!(search(any()).await, (vec![298, 299, 300], true));
    assert_eq!(search(LogQuery { after: Some(0), ..any() }).await, (vec![1, 2, 3], true));
    assert_eq!(search(LogQuery { after: Some(ids[297]), ..any() }).await, (vec![299, 300], false));
    let contains = Some("REQUEST 29".into());
    assert_eq!(search(LogQuery { contains, limit: 50, ..any() }).await.0.len(), 11);
    assert_eq!(search(LogQuery { level: Some(Level::Warn), ..any() }).await, (vec![100, 200, 300], false));
    assert_eq!(search(LogQuery { release: Some(1), ..any() }).await, (vec![197, 198, 199], true));
    let (since, until) = (Some(Timestamp(10_000_000)), Some(Timestamp(11_000_000)));
    assert_eq!(search(LogQuery { since, until, ..any() }).await, (vec![10, 11], false));
    let (line, _) = world.store.logs().search(app.id, &any()).await.unwrap();
    assert_eq!((line[2].stream.as_str(), line[2].level, line[2].release), ("stderr", Level::Error, 2));
}

pub async fn log_positions_go_with_their_lines(mut world: World) {
    let app = world.app("web").await;
    assert_eq!(world.store.logs().last_at("c1").await.unwrap(), None);
    let position = |stream, at_nanos, repeats| LogPosition {
        container: "c1".into(),
        stream,
        app_id: app.id,
        at_nanos,
        repeats,
    };
    let out = position(OutputStream::Stdout, 5_000_001_234, 1);
    world.store.logs().append(&[log_line(&app, 5, "a")], std::slice::from_ref(&out)).await.unwrap();
    let out = position(OutputStream::Stdout, 5_000_001_234, 2);
    let err = position(OutputStream::Stderr, 4_000_000_000, 1);
    world.store.logs().append(&[log_line(&app, 5, "b")], &[out.clone(), err.clone()]).await.unwrap();
    world.reopen().await;
    let mut found = world.store.logs().positions("c1").await.unwrap();
    found.sort_by_key(|p| p.stream == OutputStream::Stderr);
    assert_eq!(found, [out, err]);
    assert_eq!(world.store.logs().last_at("c1").await.unwrap(), Some(Timestamp(5_000_001)));
    assert!(world.store.logs().positions("c2").await.unwrap().is_empty());
}

pub async fn logs_are_pruned_by_age_and_size(world: World) {
    let app = world.app("web").await;
    let logs = world.store.logs();
    for batch in 0..12 {
        let lines: Vec<_> = (0..1000).map(|n| log_line(&app, batch * 1000 + n, "0123456789")).collect();
        logs.append(&lines, &[]).await.unwrap();
    }
    let all = logs.volume().await.unwrap();
    assert_eq!(all.rows, 12_000);
    assert_eq!(logs.prune(Timestamp(0), i64::MAX).await.unwrap(), Pruned::default());
    let by_age = logs.prune(Timestamp(7_500 * 1_000_000), i64::MAX).await.unwrap();
    assert_eq!(by_age.rows, 7_500);
    let left = logs.volume().await.unwrap();
    assert_eq!((left.rows, left.bytes), (4_500, all.bytes - by_age.bytes));
    let by_size = logs.prune(Timestamp(0), left.bytes / 3).await.unwrap();
    assert_eq!(by_size.rows, 3_000);
    let (oldest, _) =
        logs.search(app.id, &LogQuery { after: Some(0), limit: 1, ..LogQuery::default() }).await.unwrap();
    assert_eq!(oldest[0].at, Timestamp(10_500 * 1_000_000));
    world.store.shrink(1000).await.unwrap();
    let rest = logs.prune(Timestamp(i64::MAX), 0).await.unwrap();
    assert_eq!(rest.rows, 1_500);
    assert_eq!(logs.volume().await.unwrap(), Volume::default());
}

pub async fn requests_have_their_percentiles(world: World) {
    let (app, other) = (world.app("web").await, world.app("api").await);
    let many: Vec<_> = (1..=100).map(|n| request(&app, n, if n > 98 { 503 } else { 200 }, n)).collect();
    world.store.requests().append(&many).await.unwrap();
    world.store.requests().append(&[request(&other, 1, 200, 9999)]).await.unwrap();
    let requests = world.store.requests();
    let any = || RequestQuery { limit: 5, ..RequestQuery::default() };
    let page = requests.list(app.id, &any()).await.unwrap();
    assert_eq!((page.total, page.errors, page.requests.len()), (100, 2, 5));
    assert_eq!((page.p50_ms, page.p95_ms), (50.0, 95.0));
    assert_eq!(page.requests[0].path.0, "/items/100");
    assert_eq!((page.requests[0].app_ms, page.requests[0].error.as_deref()), (None, Some("no_replica")));
    assert_eq!(page.requests[4].app_ms, Some(86.4));
    let failed = requests.list(app.id, &RequestQuery { status: "5xx".parse().ok(), ..any() }).await.unwrap();
    assert_eq!((failed.total, failed.p50_ms, failed.p95_ms), (2, 99.0, 100.0));
    let slow = RequestQuery { slower_than_ms: Some(91), path_prefix: Some("/items/9".into()), ..any() };
    assert_eq!(requests.list(app.id, &slow).await.unwrap().total, 9);
    let since = Some(Timestamp(100_000_000));
    let one = requests.list(app.id, &RequestQuery { since, ..any() }).await.unwrap();
    assert_eq!((one.total, one.p50_ms, one.p95_ms), (1, 100.0, 100.0));
    let none = RequestQuery { path_prefix: Some("/%".into()), ..any() };
    assert_eq!(requests.list(app.id, &none).await.unwrap().total, 0);
    // Page by page each is met once, also those that began in the same moment.
    let at_once: Vec<_> = (1..=7).map(|n| request(&app, 200, 200, n)).collect();
    requests.append(&at_once).await.unwrap();
    let (mut seen, mut before) = (std::collections::BTreeSet::new(), None);
    for _ in 0..107_usize.div_ceil(5) {
        let page = requests.list(app.id, &RequestQuery { before, ..any() }).await.unwrap();
        assert_eq!((page.total, page.places.len()), (107, page.requests.len()));
        for place in &page.places {
            assert!(seen.insert(*place), "{place:?} came twice");
        }
        before = page.places.last().copied();
    }
    assert_eq!(seen.len(), 107);
    let behind = requests.list(app.id, &RequestQuery { before, ..any() }).await.unwrap();
    assert!(behind.requests.is_empty() && behind.total == 107, "{behind:?}");
    let pruned = requests.prune(Timestamp(50 * 1_000_000), i64::MAX).await.unwrap();
    assert_eq!(pruned.rows, 49);
}
