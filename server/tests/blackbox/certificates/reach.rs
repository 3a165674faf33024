//! Whether ports 80 and 443 reach the daemon, as it finds out by itself at addresses that DNS gives.

use std::net::TcpListener as Bound;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use super::{
    Ports, World, berth,
    name_server::{name_server, own_address},
    pebble::{Options, Pebble, pebble_or_skip},
};

/// Something else than Berth, on port 80 and 443: it says `answer` to whoever says something, or nothing at all.
async fn stranger(address: &str, answer: &'static [u8]) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    for port in [80, 443] {
        let listener = TcpListener::bind((address, port)).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut said = [0; 2048];
                if answer.is_empty() {
                    kept.push(socket);
                } else if socket.read(&mut said).await.is_ok() {
                    let _ = socket.write_all(answer).await;
                }
            }
        }));
    }
    tasks
}

async fn seen(world: &World, domain: &str) -> Value {
    world.berth.rest().get(&format!("/v1/domains/{domain}?check_ports=true")).await.ok()
}

fn outcomes(seen: &Value) -> Vec<(u64, &str)> {
    let checks = seen["ports"]["checks"].as_array().unwrap();
    checks.iter().map(|c| (c["port"].as_u64().unwrap(), c["outcome"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn what_does_not_reach_the_daemon_is_said_exactly() {
    if !pebble_or_skip() {
        return;
    }
    let [here, nobody, other, silent] = [78, 79, 80, 81].map(own_address);
    if let Err(error) = Bound::bind((here.as_str(), 80)) {
        println!("skipped: nothing may listen at {here}:80 here ({error})");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let records = format!(
        "shop A {here}\n*.wild A {here}\nnobody A {nobody}\nother A {other}\nsilent A {silent}\ntwo A {here}\ntwo A {nobody}\n"
    );
    let Some((_knot, server)) = name_server(dir.path(), &records).await else { return };
    let pebble =
        Pebble::start(&Options { http_port: 80, tls_port: 443, dns: Some(&server), ..Options::default() })
            .await;
    let more = ["--dns-resolvers", &server, "--allow-private-sources", "true"];
    let at = Ports { address: here.clone(), http: 80, https: 443 };
    let world = World { berth: berth(&at, &pebble, &more).await, pebble, https: 443 };
    world.site("site").await;
    let _strangers = [
        stranger(&other, b"HTTP/1.1 404 Not Found\r\nserver: nginx/1.22\r\ncontent-length: 0\r\n\r\n").await,
        stranger(&silent, b"").await,
    ];

    world.add(json!({ "domain": "shop.example.com", "app": "site" })).await;
    let verified =
        world.berth.rest().post("/v1/domains/shop.example.com/verify", json!({ "wait_s": 40 })).await.ok();
    assert_eq!(
        (&verified["ports"]["http"], &verified["ports"]["https"]),
        (&json!(true), &json!(true)),
        "{verified:#}"
    );
    assert_eq!(verified["status"], "secure", "the look does not disturb the order: {verified:#}");
    let again = seen(&world, "shop.example.com").await;
    assert_eq!(
        outcomes(&again),
        [(80, "reached"), (443, "reached")],
        "also beside its certificate: {again:#}"
    );
    assert!(again["ports"]["note"].as_str().unwrap().contains("firewall in front"), "{again:#}");

    for (domain, outcome, says) in [
        ("nobody.example.com", "refused", "Nothing listens at"),
        ("other.example.com", "other_server", "stop that web server"),
        ("silent.example.com", "timeout", "firewall"),
    ] {
        world.add(json!({ "domain": domain, "app": "site" })).await;
        let seen = seen(&world, domain).await;
        assert_eq!(outcomes(&seen), [(80, outcome), (443, outcome)], "{seen:#}");
        assert_eq!((&seen["ports"]["http"], &seen["ports"]["https"]), (&json!(false), &json!(false)));
        assert!(seen["next"].as_str().unwrap().contains(says), "{seen:#}");
        assert!(seen["ports"]["note"].as_str().unwrap().contains("hairpin"), "{seen:#}");
    }
    let other = seen(&world, "other.example.com").await;
    let detail = other["ports"]["checks"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("404") && detail.contains("nginx/1.22"), "{detail}");

    world.add(json!({ "domain": "two.example.com", "app": "site" })).await;
    let two = seen(&world, "two.example.com").await;
    assert_eq!(
        (two["ports"]["checks"].as_array().unwrap().len(), &two["ports"]["http"]),
        (4, &json!(false)),
        "{two:#}"
    );
    world.add(json!({ "domain": "*.wild.example.com", "app": "site" })).await;
    let wild = seen(&world, "*.wild.example.com").await;
    assert_eq!(wild["ports"]["https"], true, "{wild:#}");
    world.add(json!({ "domain": "gone.example.com", "app": "site" })).await;
    let gone = seen(&world, "gone.example.com").await;
    assert!(gone["ports"]["trouble"].as_str().unwrap().contains("no address"), "{gone:#}");
}
