//! A client whose id is the URL of a document that says who it is: the whole way, from the document to a call.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use super::{
    CALLBACK,
    browser::{Browser, Flow},
    call,
};
use crate::harness::Berth;

/// A host of documents, with a certificate of its own.
struct Host {
    url: String,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Host {
    /// Serves at `/NAME` what `document` makes of the host's URL and the name; its certificate goes to `roots`.
    async fn start(roots: &Path, document: fn(&str, &str) -> Value) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(roots, made.cert.pem()).expect("the roots to be written");
        let chain = vec![CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).expect("a key");
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(chain, key).expect("a certificate that fits its key");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://localhost:{}", listener.local_addr().expect("its address").port());
        let asked = Arc::new(AtomicUsize::new(0));
        let (own, count) = (url.clone(), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    head.push(byte);
                }
                count.fetch_add(1, Ordering::SeqCst);
                let head = String::from_utf8_lossy(&head);
                let name = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
                let body = document(&own, name).to_string();
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { url, asked, task }
    }
}

/// `client` is about itself, everything else about that.
fn document(host: &str, _: &str) -> Value {
    json!({
        "client_id": format!("{host}/client"), "client_name": "Documented <client>", "redirect_uris": [CALLBACK],
        "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"],
    })
}

#[tokio::test]
async fn a_client_that_is_known_by_its_document_gets_its_access() {
    let keys = tempfile::tempdir().expect("a directory");
    let roots = keys.path().join("roots.pem");
    let host = Host::start(&roots, document).await;
    let berth = Berth::trusting(&roots, &["--allow-private-sources", "true"]).await;
    let id = format!("{}/client", host.url);
    let flow = Flow::new(&berth).await.of(&id);
    let mut browser = Browser::new(&berth);
    let page = browser.open(&flow.url(&[("scope", "read")])).await;
    assert_eq!(page.status, 200, "{}", page.text);
    // The person sees who vouches for the client, and that it is only that host.
    assert!(page.text.contains("Documented &lt;client&gt;"), "{}", page.text);
    assert!(page.text.contains("localhost"), "{}", page.text);
    let given = flow.approved(&berth, &berth.token, &["read"]).await;
    let access = given["access_token"].as_str().expect("an access token");
    let listed = call(&berth, access, "app_list", json!({})).await.ok();
    assert_ne!(listed["result"]["isError"], true, "{listed}");
    let again = flow.refresh(given["refresh_token"].as_str().expect("a refresh token")).await.ok();
    assert!(again["access_token"].is_string(), "{again}");
    let grants = berth.rest().get("/v1/grants").await.ok();
    assert_eq!(grants["grants"][0]["client"], "Documented <client>", "{grants}");
    assert_eq!(host.asked.load(Ordering::SeqCst), 1, "a document is remembered");

    // Its addresses are those of the document, and a document speaks for its own URL only.
    let elsewhere = browser.open(&flow.url(&[("redirect_uri", "https://evil.example/callback")])).await;
    assert_eq!((elsewhere.status, elsewhere.header("location")), (400, ""), "{}", elsewhere.text);
    let flow = flow.of(&format!("{}/other", host.url));
    let refused = browser.open(&flow.url(&[])).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(refused.text.contains("about another client_id"), "{}", refused.text);
    assert_eq!(host.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_document_of_an_unknown_certificate_or_a_private_host_is_not_believed() {
    let keys = tempfile::tempdir().expect("a directory");
    let roots = keys.path().join("roots.pem");
    let host = Host::start(&roots, document).await;
    let id = format!("{}/client", host.url);
    let within = Berth::trusting(&roots, &[]).await;
    let stranger = Berth::without_docker_with(&["--allow-private-sources", "true"]).await;
    for (berth, why) in [(&within, "refused"), (&stranger, "it cannot be fetched")] {
        let flow = Flow::new(berth).await.of(&id);
        let page = Browser::new(berth).open(&flow.url(&[])).await;
        assert_eq!(page.status, 400, "{}", page.text);
        assert!(page.text.contains(why), "{why}: {}", page.text);
    }
    assert_eq!(host.asked.load(Ordering::SeqCst), 0, "nothing was asked for");
}
