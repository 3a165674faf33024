//! What is asked for by hand: a renewal now, and what DNS says of a domain.

use serde_json::json;

use super::{
    Ports, World, berth,
    name_server::name_server,
    pebble::{Options, Pebble, pebble_or_skip},
};
use crate::harness::Berth;

#[tokio::test]
async fn a_certificate_is_renewed_when_somebody_asks() {
    if !pebble_or_skip() {
        return;
    }
    let world = World::start(|o| o).await;
    world.add(json!({ "domain": "shop.example.com", "app": "site" })).await;
    let first = world.secure("shop.example.com").await;
    let asked = world.berth.rest().post("/v1/domains/shop.example.com/renew", json!({})).await.ok();
    assert_eq!(asked["status"], "secure", "the present one stays: {asked:#}");
    let before = &first["certificate"]["fingerprint"];
    let renewed = world
        .until("shop.example.com", 40, |d| {
            d["certificate"]["fingerprint"] != *before && d["order"]["state"] == "valid"
        })
        .await;
    assert_eq!((&renewed["status"], &renewed["order"]["renewal"]), (&json!("secure"), &json!(true)));
    assert_eq!(world.events("certificate.renewed").await.len(), 1);
    let shown = world.openssl("shop.example.com", &[]).await;
    assert!(shown.contains("BEGIN CERTIFICATE"), "{shown}");
    assert_eq!(world.visit("shop.example.com").await, "site");
}

#[tokio::test]
async fn what_dns_says_is_compared_with_what_it_should_say() {
    if !pebble_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let records = "shop A 198.51.100.7\nwrong A 203.0.113.9\n";
    let Some((_knot, server)) = name_server(dir.path(), records).await else { return };
    let ports = Ports::free();
    let pebble = Pebble::start(&Options { dns: Some(&server), ..ports.options() }).await;
    let more =
        ["--dns-resolvers", &server, "--allow-private-sources", "true", "--public-addresses", "198.51.100.7"];
    let world = World { berth: berth(&ports, &pebble, &more).await, pebble, https: ports.https };
    world.site("site").await;
    for (domain, here, says) in [
        ("shop.example.com", true, ""),
        ("wrong.example.com", false, "Replace A 203.0.113.9 by 198.51.100.7."),
        ("gone.example.com", false, "Add A gone.example.com → 198.51.100.7."),
    ] {
        world.add(json!({ "domain": domain, "app": "site" })).await;
        let plain = world.get(domain).await;
        assert!(plain.get("dns").is_none(), "nobody is asked unless it is wanted: {plain:#}");
        let seen = world.get(&format!("{domain}?check_dns=true")).await;
        assert_eq!(seen["dns"]["points_here"], here, "{seen:#}");
        assert_eq!(seen["dns"]["expected"], json!(["198.51.100.7"]), "{seen:#}");
        assert!(seen["next"].as_str().unwrap().contains(says), "{seen:#}");
        assert!(seen["dns"]["views"].as_array().unwrap().iter().any(|v| v["own"] == true), "{seen:#}");
    }
}

#[tokio::test]
async fn nothing_is_said_of_dns_when_nobody_can_be_asked() {
    // Nobody listens there.
    let berth = Berth::without_docker_with(&["--dns-resolvers", "127.0.0.9:9"]).await;
    let body = json!({ "files": { "index.html": "site" }, "create_app": true, "wait_s": 30 });
    berth.rest().post("/v1/apps/site/deployments", body).await.ok();
    berth.rest().post("/v1/domains", json!({ "domain": "shop.example.com", "app": "site" })).await.ok();
    let seen = berth.rest().get("/v1/domains/shop.example.com?check_dns=true").await.ok();
    assert!(seen["dns"].get("points_here").is_none(), "{seen:#}");
    assert_eq!(seen["dns"]["problems"][0]["kind"], "unasked", "{seen:#}");
}
