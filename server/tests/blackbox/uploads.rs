//! Uploads: kept whole or not at all.

use std::time::Duration;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::Berth;

fn files(berth: &Berth) -> Vec<String> {
    let dir = std::fs::read_dir(berth.data_dir().join("uploads")).expect("uploads/");
    dir.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn an_upload_is_kept_as_it_came() {
    let berth = Berth::without_docker().await;
    let bytes = vec![7u8; 3_000_000];
    let answer = berth.rest().upload("application/gzip", bytes.clone()).await;
    assert_eq!(answer.status, 201);
    let upload = answer.ok();
    let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!((&upload["bytes"], &upload["sha256"]), (&json!(3_000_000), &json!(digest)));
    let id = upload["upload"].as_str().unwrap();
    assert_eq!(std::fs::read(berth.data_dir().join("uploads").join(id)).unwrap(), bytes);
}

#[tokio::test]
async fn what_is_empty_of_another_kind_or_too_large_is_refused() {
    let berth = Berth::without_docker_with(&["--upload-max-mb", "1"]).await;
    berth.rest().upload("application/gzip", Vec::new()).await.problem(422, "empty_source");
    berth.rest().upload("text/html", b"x".to_vec()).await.problem(400, "invalid_input");
    berth.rest().upload("application/zip", vec![0; 2 << 20]).await.problem(413, "too_large");
    // Without a length that says so beforehand.
    let chunks = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0u8; 64 << 10]));
    let body = reqwest::Body::wrap_stream(futures_util::StreamExt::take(chunks, 64));
    let request = berth.rest().request(reqwest::Method::POST, "/v1/uploads");
    // The daemon may answer and hang up before it was sent everything.
    if let Ok(answer) = request.header("content-type", "application/zip").body(body).send().await {
        assert_eq!(answer.status(), 413);
    }
    assert_eq!(files(&berth), Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let berth = Berth::without_docker().await;
    let address = berth.control_url.trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /v1/uploads HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
         content-type: application/gzip\r\ncontent-length: 1000000\r\n\r\n",
        berth.token
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&[0; 100_000]).await.unwrap();
    let begun = async {
        while files(&berth).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), begun).await.expect("the upload to begin");
    drop(socket);
    let gone = async {
        while !files(&berth).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the half file to go");
}

#[tokio::test]
async fn a_killed_daemon_sweeps_half_uploads_when_it_is_back() {
    let mut berth = Berth::without_docker().await;
    berth.kill().await;
    std::fs::write(berth.data_dir().join("uploads/left.part"), b"half").unwrap();
    berth.start_again().await;
    assert_eq!(files(&berth), Vec::<String>::new());
}

#[tokio::test]
async fn a_client_that_sends_no_headers_is_let_go() {
    let berth = Berth::without_docker().await;
    let mut socket = TcpStream::connect(berth.control_url.trim_start_matches("http://")).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: loc").await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the connection is still open");
}
