//! TLS: certificates by name, hot swap, HTTP/2.

use std::sync::Arc;

use berth_proxy::{CertificateTable, Destination, Protocol, RouteTable};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{App, Proxy, release};

pub struct Made {
    pub chain: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

pub fn certificate(name: &str) -> Made {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("signed");
    Made { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
}

/// The certificate shown for a name, if the handshake succeeds; it is not verified.
pub async fn shown(proxy: &Proxy, name: &str, alpn: &[&[u8]]) -> Option<CertificateDer<'static>> {
    let tls = handshake(proxy, name, alpn).await?;
    Some(tls.get_ref().1.peer_certificates()?.first()?.clone().into_owned())
}

/// A connection whose server's certificate is not verified.
pub async fn handshake(
    proxy: &Proxy,
    name: &str,
    alpn: &[&[u8]],
) -> Option<tokio_rustls::client::TlsStream<TcpStream>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let tcp = TcpStream::connect(proxy.https).await.expect("connects");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()
}

#[derive(Debug)]
struct Anything;

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.verify_tls12_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn each_name_is_shown_its_certificate_and_a_swap_needs_no_restart() {
    let proxy = Proxy::start();
    let (exact, wild, fallback, renewed, challenge) = (
        certificate("web.test"),
        certificate("*.web.test"),
        certificate("fallback.test"),
        certificate("web.test"),
        certificate("web.test"),
    );
    assert_eq!(shown(&proxy, "web.test", &[]).await, None, "no certificate, no handshake");
    let table = |web: &Made, fallback: Option<&Made>| {
        let mut table = CertificateTable::builder()
            .pem("web.test", &web.chain, &web.key)
            .and_then(|table| table.pem("*.web.test", &wild.chain, &wild.key))
            .and_then(|table| table.challenge_pem("web.test", &challenge.chain, &challenge.key))
            .expect("good certificates");
        if let Some(made) = fallback {
            table = table.fallback_pem(&made.chain, &made.key).expect("a good certificate");
        }
        table.build()
    };
    proxy.handle.set_certificates(table(&exact, None));
    assert_eq!(shown(&proxy, "web.test", &[]).await, Some(exact.der.clone()));
    assert_eq!(shown(&proxy, "WEB.test", &[]).await, Some(exact.der.clone()));
    assert_eq!(shown(&proxy, "www.web.test", &[]).await, Some(wild.der.clone()));
    assert_eq!(shown(&proxy, "a.b.web.test", &[]).await, None);
    assert_eq!(shown(&proxy, "web.test", &[b"acme-tls/1"]).await, Some(challenge.der.clone()));

    proxy.handle.set_certificates(table(&renewed, Some(&fallback)));
    assert_eq!(shown(&proxy, "web.test", &[]).await, Some(renewed.der.clone()));
    assert_eq!(shown(&proxy, "other.test", &[]).await, Some(fallback.der.clone()));
}

#[tokio::test]
async fn a_key_of_another_certificate_is_refused() {
    let (one, two) = (certificate("web.test"), certificate("web.test"));
    let error =
        CertificateTable::builder().pem("web.test", &one.chain, &two.key).expect_err("they do not match");
    assert!(error.to_string().starts_with("the private key for web.test cannot be used"), "{error}");
    let error = CertificateTable::builder().pem("web.test", "", &two.key).expect_err("no chain");
    assert!(error.to_string().contains("no certificate"), "{error}");
}

#[tokio::test]
async fn http2_is_offered_and_its_streams_are_requests_like_others() {
    let app = App::start("web").await;
    let made = certificate("web.test");
    let mut proxy = Proxy::start();
    let certificates = CertificateTable::builder().pem("web.test", &made.chain, &made.key).expect("good");
    proxy.handle.set_certificates(certificates.build());
    let routes =
        RouteTable::builder().host("web.test").https_only().to(Destination::Release(release(1, &[app.addr])));
    proxy.handle.set_routes(routes.build().expect("one route"));
    let root = reqwest::Certificate::from_der(&made.der).expect("a certificate");
    let client = proxy
        .client_builder()
        .resolve("web.test", proxy.https)
        .tls_certs_only([root])
        .build()
        .expect("a client");
    let port = proxy.https.port();
    let url = |path: &str| format!("https://web.test:{port}{path}");
    let answers =
        futures_util::future::join_all((0..20).map(|_| client.get(url("/slow?ms=50")).send())).await;
    for answer in answers {
        let answer = answer.expect("an answer");
        assert_eq!((answer.version(), answer.status()), (reqwest::Version::HTTP_2, reqwest::StatusCode::OK));
    }
    let seen = client.get(url("/headers")).send().await.expect("an answer").text().await.expect("a body");
    assert!(seen.contains("x-forwarded-proto: https\n"), "{seen}");
    assert!(seen.contains(&format!("host: web.test:{}\n", proxy.https.port())), "{seen}");
    let answer = client.post(url("/upload")).body(vec![b'u'; 3 << 20]).send().await.expect("an answer");
    assert_eq!(answer.text().await.expect("a body"), "3145728 bytes, 0 wrong");
    let record = proxy.record().await;
    assert_eq!((record.protocol, record.tls, record.host.as_str()), (Protocol::Http2, true, "web.test"));

    // A stream is cut alone; its connection and the other streams live on.
    let target = proxy.handle.routes().targets().next().expect("one").clone();
    let events = client.get(url("/events")).send().await.expect("an answer");
    proxy.route(&release(2, &[app.addr]));
    let report = proxy.handle.drain(&target, std::time::Duration::from_millis(100)).await;
    assert_eq!(report.cut, 1);
    assert!(events.bytes().await.is_ok(), "an event stream is ended, not broken");
    assert_eq!(client.get(url("/")).send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn http1_works_through_tls() {
    let app = App::start("web").await;
    let made = certificate("web.test");
    let proxy = Proxy::start();
    let certificates = CertificateTable::builder().pem("web.test", &made.chain, &made.key).expect("good");
    proxy.handle.set_certificates(certificates.build());
    proxy.route(&release(1, &[app.addr]));
    let root = reqwest::Certificate::from_der(&made.der).expect("a certificate");
    let client = proxy.client_builder().resolve("web.test", proxy.https).tls_certs_only([root]).http1_only();
    let client = client.build().expect("a client");
    for _ in 0..3 {
        let answer =
            client.get(format!("https://web.test:{}/", proxy.https.port())).send().await.expect("an answer");
        assert_eq!(answer.version(), reqwest::Version::HTTP_11);
        assert_eq!(answer.text().await.expect("a body"), "web");
    }
}
