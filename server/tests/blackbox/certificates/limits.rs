//! Authorities that want fewer requests, and say when to come again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{
    Ports, World, berth,
    pebble::{Pebble, pebble_or_skip},
    stand_in::{Says, StandIn},
};

/// A Pebble that takes no order for two days.
struct Limiter {
    directory: String,
    asked: Arc<AtomicUsize>,
    _server: StandIn,
}

impl Limiter {
    async fn start(pebble: &Pebble) -> Self {
        let asked = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&asked);
        let server = StandIn::start(pebble, "newOrder", move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            let body = json!({
                "type": "urn:ietf:params:acme:error:rateLimited",
                "detail": "too many certificates already issued for \"example.com\"",
                "status": 429,
            });
            Says { status: "429 Too Many Requests", retry_after_s: 2 * 24 * 3600, body }
        });
        let server = server.await;
        Self { directory: server.directory.clone(), asked, _server: server }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn another_authority_is_asked_at_once_when_the_first_has_had_enough() {
    if !pebble_or_skip() {
        return;
    }
    let ports = Ports::free();
    let pebble = Pebble::start(&ports.options()).await;
    let limiter = Limiter::start(&pebble).await;
    let directories = format!("{},{}", limiter.directory, pebble.directory);
    let berth = berth(&ports, &pebble, &["--acme-directories", &directories]).await;
    let world = World { berth, pebble, https: ports.https };
    world.site("site").await;
    world.add(json!({ "domain": "shop.example.com", "app": "site" })).await;
    let secure = world.secure("shop.example.com").await;
    assert_eq!(secure["order"]["directory"], world.pebble.directory.as_str(), "{secure:#}");
    assert_eq!(world.visit("shop.example.com").await, "site");
    // A renewal keeps away from it, too.
    world.berth.rest().post("/v1/domains/shop.example.com/renew", json!({})).await.ok();
    let before = &secure["certificate"]["fingerprint"];
    world.until("shop.example.com", 40, |d| d["certificate"]["fingerprint"] != *before).await;
    assert_eq!(limiter.asked(), 1);
}

#[tokio::test]
async fn an_authority_that_has_had_enough_is_left_alone_whoever_asks() {
    if !pebble_or_skip() {
        return;
    }
    let ports = Ports::free();
    let pebble = Pebble::start(&ports.options()).await;
    let limiter = Limiter::start(&pebble).await;
    let berth = berth(&ports, &pebble, &["--acme-directories", &limiter.directory]).await;
    let mut world = World { berth, pebble, https: ports.https };
    world.site("site").await;
    world.add(json!({ "domain": "shop.example.com", "app": "site" })).await;
    let failing = world.until("shop.example.com", 40, |d| d["status"] == "failing").await;
    assert_eq!(failing["order"]["error"]["kind"], "rateLimited", "{failing:#}");
    let soonest = Timestamp::now() + SignedDuration::from_hours(47);
    for time in ["not_before", "next_try_at"] {
        let at: Timestamp = failing["order"][time].as_str().expect(time).parse().unwrap();
        assert!(at > soonest, "{time}: {failing:#}");
    }
    for restarted in [false, true] {
        if restarted {
            world.berth.kill().await;
            world.berth.start_again().await;
        }
        let began = Instant::now();
        let rest = world.berth.rest();
        let verified = rest.post("/v1/domains/shop.example.com/verify", json!({ "wait_s": 45 })).await.ok();
        assert!(began.elapsed() < Duration::from_secs(30), "there is nothing to wait for: {verified:#}");
        assert_eq!(verified["order"]["next_try_at"], failing["order"]["next_try_at"], "{verified:#}");
        // The order would have been placed by now.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(limiter.asked(), 1, "{verified:#}");
    }
}
