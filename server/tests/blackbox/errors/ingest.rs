//! The way in: every way to send, every mistake, limits, and that what was accepted stays.

use std::{io::Write as _, time::Duration};

use flate2::Compression;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{client, dsn, envelope, event, found, send};
use crate::harness::Berth;

#[tokio::test]
async fn what_was_accepted_survives_a_kill() {
    let mut berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let sends = (1..=40_u32).map(|n| {
        let more = json!({ "exception": {"values": [{ "type": format!("E{n}"), "value": "x" }]} });
        let (url, body) = (format!("{}?sentry_key={}", dsn.url, dsn.key), envelope(&event(n, more)));
        async move { client().post(url).body(body).send().await.unwrap().status() }
    });
    for status in futures_util::future::join_all(sends).await {
        assert_eq!(status, StatusCode::OK);
    }
    berth.kill().await;
    berth.start_again().await;
    let mut all = 0;
    for _ in 0..100 {
        let page = berth.rest().get("/v1/errors?limit=100").await.ok();
        all = page["issues"].as_array().unwrap().len();
        if all == 40 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(all, 40);
    found(&berth, "type:E17", 1).await;
    // The index can be thrown away.
    berth.kill().await;
    std::fs::remove_dir_all(berth.data_dir().join("index")).unwrap();
    berth.start_again().await;
    found(&berth, "type:E17", 1).await;
}

#[tokio::test]
async fn every_way_to_send_is_understood_and_every_mistake_is_answered() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let http = client();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let deflate = |bytes: &[u8]| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let br = |bytes: &[u8]| {
        let mut out = Vec::new();
        let params = brotli::enc::BrotliEncoderParams { quality: 1, ..Default::default() };
        brotli::BrotliCompress(&mut &*bytes, &mut out, &params).unwrap();
        out
    };
    let mut n = 100;
    let mut next = || {
        n += 1;
        event(n, json!({ "exception": {"values": [{ "type": format!("E{n}"), "value": "x" }]} }))
    };
    let auth = format!("Sentry sentry_version=7, sentry_key={}, sentry_client=x/1", dsn.key);
    let base = dsn.url.trim_end_matches("envelope/").to_owned();
    let keyed = |path: &str| format!("{base}{path}?sentry_key={}", dsn.key);
    let mut sent = 0;
    let requests: Vec<reqwest::RequestBuilder> = vec![
        http.post(&dsn.url).header("x-sentry-auth", &auth).body(envelope(&next())),
        http.post(dsn.url.trim_end_matches('/')).header("authorization", &auth).body(envelope(&next())),
        http.post(&dsn.url).body({
            let event = next();
            format!("{}\n{{\"type\":\"event\"}}\n{event}", json!({ "dsn": dsn.dsn }))
        }),
        http.post(keyed("envelope/")).header("content-encoding", "gzip").body(gzip(&envelope(&next()))),
        http.post(keyed("envelope/")).header("content-encoding", "deflate").body(deflate(&envelope(&next()))),
        http.post(keyed("envelope/")).header("content-encoding", "br").body(br(&envelope(&next()))),
        http.post(keyed("store/")).header("content-encoding", "br").body(br(next().to_string().as_bytes())),
        http.post(keyed("envelope/")).header("content-encoding", "zstd").body(zstd::encode_all(envelope(&next()).as_slice(), 1).unwrap()),
        http.post(keyed("store/")).header("content-type", "text/plain").body(next().to_string()),
        http.post(keyed("security/")).header("content-type", "application/csp-report").body(
            json!({"csp-report": {"effective-directive": "img-src", "blocked-uri": "https://e.example/a.png"}}).to_string(),
        ),
        http.post(keyed("minidump/")).multipart(
            reqwest::multipart::Form::new()
                .part("upload_file_minidump", reqwest::multipart::Part::bytes(b"MDMP".to_vec()).file_name("a.dmp"))
                .text("sentry", "{\"release\":\"9\"}"),
        ),
    ];
    for request in requests {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "request {sent}");
        assert_eq!(answer.headers()["access-control-allow-origin"], "*");
        sent += 1;
    }
    found(&berth, "is:open", sent).await;
    let allowed = http.request(Method::OPTIONS, &dsn.url).send().await.unwrap();
    assert_eq!(allowed.status(), StatusCode::OK);
    assert!(allowed.headers()["access-control-allow-headers"].to_str().unwrap().contains("x-sentry-auth"));
    // Each is small as it comes, and more than may be when inflated.
    let much = vec![b'x'; 60 << 20];
    let (bomb, deflate_bomb, br_bomb) = (gzip(&much), deflate(&much), br(&much));
    let zstd_bomb = zstd::encode_all(much.as_slice(), 1).unwrap();
    assert!([&bomb, &deflate_bomb, &br_bomb, &zstd_bomb].iter().all(|b| b.len() < 1 << 20));
    drop(much);
    let wrong_key = "0".repeat(32);
    for (status, request) in [
        (401, http.post(&dsn.url).body("{}\n")),
        (403, http.post(format!("{}?sentry_key={wrong_key}", dsn.url)).body("{}\n")),
        (403, http.post(format!("{base}../999/envelope/?sentry_key={}", dsn.key)).body("{}\n")),
        (404, http.post(format!("{base}../x/envelope/?sentry_key={}", dsn.key)).body("{}\n")),
        (400, http.post(keyed("envelope/")).body("no json\n")),
        (400, http.post(keyed("envelope/")).header("content-encoding", "gzip").body("no gzip")),
        (400, http.post(keyed("store/")).body("[]")),
        (400, http.post(keyed("envelope/")).header("content-encoding", "deflate").body("no deflate")),
        (400, http.post(keyed("envelope/")).header("content-encoding", "br").body("no br")),
        (413, http.post(keyed("envelope/")).header("content-encoding", "gzip").body(bomb)),
        (413, http.post(keyed("envelope/")).header("content-encoding", "deflate").body(deflate_bomb)),
        (413, http.post(keyed("envelope/")).header("content-encoding", "br").body(br_bomb)),
        (413, http.post(keyed("envelope/")).header("content-encoding", "zstd").body(zstd_bomb)),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{:?}", answer.headers());
        assert!(answer.headers().contains_key("x-sentry-error"), "{status}");
    }
    let hostile = format!("{{}}\n{{\"type\":\"event\"}}\n{}\n", "[".repeat(100_000));
    assert_eq!(send(&dsn, hostile.into_bytes()).await.0, StatusCode::OK, "dropped and counted");
    let told = berth.rest().get("/v1/apps/web/dsn").await.ok();
    assert!(told["dropped_24h"].to_string().contains("invalid"), "{told:#}");
    assert_eq!(told["accepted_24h"], json!(sent));
}

#[tokio::test]
async fn more_than_may_come_is_counted_and_told() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    berth
        .rest()
        .send(Method::PATCH, "/v1/apps/web/errors/rules", Some(json!({ "events_per_minute": 2 })))
        .await
        .ok();
    let mut statuses = Vec::new();
    for n in 1..=4 {
        let url = format!("{}?sentry_key={}", dsn.url, dsn.key);
        let answer = client().post(url).body(envelope(&event(n, json!({})))).send().await.unwrap();
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            let limits = answer.headers()["x-sentry-rate-limits"].to_str().unwrap();
            assert!(limits.contains(":error;transaction:"), "{limits}");
            assert!(answer.headers().contains_key("retry-after"));
        }
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
    // What else an envelope brings is kept.
    let mut both = envelope(&event(5, json!({})));
    both.extend_from_slice(b"{\"type\":\"session\"}\n{\"sid\":\"s\"}\n");
    let url = format!("{}?sentry_key={}", dsn.url, dsn.key);
    assert_eq!(client().post(url).body(both).send().await.unwrap().status(), StatusCode::OK);
    for _ in 0..100 {
        let told = berth.rest().get("/v1/apps/web/dsn").await.ok();
        if told["dropped_24h"] == json!([{ "category": "error", "reason": "rate_limited", "count": 3 }]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("what was refused is counted nowhere");
}
