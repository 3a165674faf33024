//! From start to end, and back after the worst.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{BINARY, Berth};

#[tokio::test]
async fn it_tells_where_it_is_and_that_it_left() {
    let mut berth = Berth::without_docker().await;
    let told = std::fs::read_to_string(berth.data_dir().join("daemon.json")).unwrap();
    assert!(told.contains(&berth.control_url) && told.contains(&berth.pid().to_string()), "{told}");
    assert!(!told.contains(&berth.token));
    let status = berth.terminate().await;
    assert!(status.success(), "{status}");
    assert!(!berth.data_dir().join("daemon.json").exists());
    let lines = berth.log().lines().count();
    assert!(lines <= 10, "{lines} lines for a start and an end:\n{}", berth.log());
}

#[tokio::test]
async fn without_docker_it_serves_and_says_so() {
    let berth = Berth::without_docker().await;
    let status = berth.rest().get("/v1/platform").await.ok();
    assert_eq!(status["docker"]["available"], false);
    assert!(status["attention"].to_string().to_lowercase().contains("docker"), "{status}");
}

#[tokio::test]
async fn the_token_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let berth = Berth::without_docker().await;
    let meta = std::fs::metadata(berth.scratch().join("token")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert!(!berth.log().contains(&berth.token));
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_answered() {
    let mut berth = Berth::without_docker().await;
    berth.rest().post("/v1/apps", json!({ "name": "web" })).await.ok();
    berth.cli(["env", "set", "web", "COLOUR=blue", "--secrets", "KEY=hidden"]).await.ok();
    berth
        .rest()
        .post(
            "/v1/apps/site/deployments",
            json!({ "files": { "index.html": "still here" }, "create_app": true, "wait_s": 30 }),
        )
        .await
        .ok();
    berth.kill().await;
    berth.start_again().await;
    assert_eq!(berth.rest().get("/v1/apps/web").await.ok()["variables"], json!(["COLOUR", "KEY"]));
    let shown = berth.cli(["env", "list", "web", "--json"]).await.ok();
    assert!(shown.stdout.contains("blue") && !shown.stdout.contains("hidden"), "{}", shown.stdout);
    assert_eq!(berth.visit("site", "/").await.text, "still here");
}

#[tokio::test]
async fn two_daemons_do_not_share_a_directory() {
    let berth = Berth::without_docker().await;
    let data = berth.data_dir().display().to_string();
    let second = berth
        .command()
        .run(["serve", "--data-dir", &data, "--control-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"])
        .await;
    assert_ne!(second.code, 0);
    assert!(
        second.stderr.contains("error: ") && second.stderr.contains("Another daemon"),
        "{}",
        second.stderr
    );
    berth.rest().get("/v1/apps").await.ok();
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let berth = Berth::without_docker().await;
    let taken = berth.control_url.trim_start_matches("http://").to_owned();
    let other = berth.scratch().join("other").display().to_string();
    let second = berth
        .command()
        .run(["serve", "--data-dir", &other, "--control-addr", &taken, "--http-addr", "127.0.0.1:0"])
        .await;
    assert_ne!(second.code, 0);
    assert!(second.stderr.contains(&taken) && second.stderr.contains("--control-addr"), "{}", second.stderr);
}

#[tokio::test]
async fn an_open_stream_is_told_of_the_end_and_does_not_delay_it() {
    let mut berth = Berth::without_docker().await;
    berth.rest().post("/v1/apps", json!({ "name": "web" })).await.ok();
    let stream = berth.rest().header("accept", "text/event-stream");
    let following = tokio::spawn(async move { stream.get("/v1/apps/web/logs").await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    assert!(berth.terminate().await.success());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let events = following.await.unwrap().events();
    let (name, data) = events.last().expect("an event");
    assert!(name == "result" || data["code"] == "interrupted", "{name}: {data}");
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut berth = Berth::without_docker().await;
    // A request that hangs would hold the end for as long as it may take.
    let address = berth.control_url.trim_start_matches("http://").to_owned();
    let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /v1/uploads HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
         content-type: application/gzip\r\ncontent-length: 10\r\n\r\n",
        berth.token
    );
    tokio::io::AsyncWriteExt::write_all(&mut socket, head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    berth.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    berth.signal(Signal::INT);
    berth.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn https_answers_with_the_default_certificate() {
    let home = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["*.localhost".to_owned()]).unwrap();
    let (chain, key) = (home.path().join("cert.pem"), home.path().join("key.pem"));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let berth = Berth::start_with(&[
        "--docker-host",
        "unix:///nonexistent/docker.sock",
        "--https-addr",
        &free.to_string(),
        "--tls-cert",
        &chain.display().to_string(),
        "--tls-key",
        &key.display().to_string(),
    ])
    .await;
    let body = json!({ "files": { "index.html": "sealed" }, "create_app": true, "wait_s": 30 });
    let made = berth.rest().post("/v1/apps/site/deployments", body).await.ok();
    let url = format!("https://site.localhost:{}", free.port());
    assert_eq!(made["url"], url.as_str());
    let visitor = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .resolve("site.localhost", free)
        .no_proxy()
        .build()
        .unwrap();
    assert_eq!(visitor.get(&url).send().await.unwrap().text().await.unwrap(), "sealed");
}

#[tokio::test]
async fn the_service_manager_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    #[allow(clippy::disallowed_methods, reason = "the program under test")]
    let mut daemon = tokio::process::Command::new(BINARY)
        .args(["serve", "--control-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .args(["--docker-host", "unix:///nonexistent/docker.sock"])
        .env("NOTIFY_SOCKET", &path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut heard = [0; 64];
    let length =
        tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut heard)).await.unwrap().unwrap();
    assert_eq!(&heard[..length], b"READY=1");
    let length =
        tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut heard)).await.unwrap().unwrap();
    assert!(heard[..length].starts_with(b"FDSTORE=1\n"), "it is asked to keep the sockets open");
    daemon.kill().await.unwrap();
}
