//! `git push` to the public address: over TLS, through the data plane.

use crate::{
    git_push::{Copy, git_in},
    harness::Berth,
};

const HOST: &str = "berth.example.com";

#[tokio::test]
async fn a_push_goes_through_the_public_address_over_tls() {
    let keys = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    let (cert, key) = (keys.path().join("cert.pem"), keys.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let https = format!("127.0.0.1:{port}");
    let public = format!("https://{HOST}:{port}");
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let flags = ["--https-addr", &https, "--public-url", &public, "--tls-cert", &cert, "--tls-key", &key];
    let berth = Berth::without_docker_with(&flags).await;
    let copy = Copy::new(&berth, "web", &berth.token).await;
    // More than what is read ahead or fits into one piece.
    crate::git_push::noise(&copy, 8 << 20);
    copy.commit("index.html", "one").await;
    let url = format!("https://git:{}@{HOST}:{port}/git/web.git", berth.token);
    let found = format!("http.curloptResolve={HOST}:{port}:127.0.0.1");
    let trusted = format!("http.sslCAInfo={cert}");
    let over_tls = ["-c", found.as_str(), "-c", trusted.as_str()];
    let said = copy.git(&[&over_tls[..], &["push", &url, "main"]].concat()).await.ok();
    said.says("remote: web#1 is live at");
    assert_eq!(berth.visit("web", "/").await.text, "one");
    let other = tempfile::tempdir().unwrap();
    git_in(other.path(), &[&over_tls[..], &["clone", "--quiet", &url, "web"]].concat()).await.ok();
    assert_eq!(std::fs::read_to_string(other.path().join("web/index.html")).unwrap(), "one");
    let shown = berth.rest().get("/v1/apps/web").await.ok();
    assert_eq!(shown["git_remote"], format!("{public}/git/web.git"));
}
