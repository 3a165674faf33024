//! A name server of a test: Knot, on loopback.

#![allow(unreachable_pub, reason = "a part of a test")]
#![allow(clippy::disallowed_methods, reason = "tests start the name server that they ask")]

use std::time::{Duration, Instant};

/// An address on loopback, below 127.`net`, of this process alone.
pub fn own_address(net: u8) -> String {
    let id = std::process::id();
    format!("127.{net}.{}.{}", (id >> 8) & 255, (id & 255).max(1))
}

/// Knot with the zone example.com and more records than its own, which lead here; none where it cannot listen on the port of DNS.
pub async fn name_server(dir: &std::path::Path, more: &str) -> Option<(tokio::process::Child, String)> {
    // Name servers of zones are asked at port 53.
    let address = own_address(77);
    if let Err(error) = std::net::UdpSocket::bind((address.as_str(), 53)) {
        println!("skipped: nothing may listen at {address}:53 here ({error})");
        return None;
    }
    let zone = format!(
        "$TTL 1\n@ SOA ns admin 1 60 60 60 1\n@ NS ns\nns A {address}\n@ A 127.0.0.1\n{more}\
         *.shop A 127.0.0.1\n*.apps A 127.0.0.1\n"
    );
    std::fs::write(dir.join("zone"), zone).unwrap();
    let home = dir.display();
    let config = format!(
        "server:\n  listen: {address}@53\n  rundir: \"{home}\"\n  udp-workers: 1\n  tcp-workers: 1\n\
         database:\n  storage: \"{home}\"\nlog:\n- target: stderr\n  any: info\n\
         key:\n- id: berth\n  algorithm: hmac-sha256\n  secret: {TSIG}\n\
         acl:\n- id: change\n  key: berth\n  action: update\n\
         zone:\n- domain: example.com\n  storage: \"{home}\"\n  file: zone\n  acl: change\n"
    );
    let file = dir.join("knot.conf");
    std::fs::write(&file, config).unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let child = tokio::process::Command::new("/usr/sbin/knotd")
        .arg("-c")
        .arg(&file)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn();
    let Ok(child) = child else {
        println!("skipped: knotd is not installed (Debian package knot)");
        return None;
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let read = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    while !read().contains("server started") {
        assert!(Instant::now() < deadline, "knotd does not start: {}", read());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Some((child, format!("{address}:53")))
}

pub const TSIG: &str = "c2VjcmV0LW9mLXRoZS10ZXN0LW9ubHktMzItYnl0ZXM=";
