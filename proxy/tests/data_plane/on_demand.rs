//! Certificates that are got while a client waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use berth_proxy::{
    CertificateSource, CertificateTable, CertifiedKey, Destination, ProxyConfig, RouteTable, certified_key,
};

use crate::{
    support::{App, Proxy, release},
    tls::{certificate, shown},
};

/// Approves names below `on.test`, after a while.
struct Source {
    takes: Duration,
    asked: AtomicUsize,
}

#[async_trait]
impl CertificateSource for Source {
    async fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        let made = name.ends_with(".on.test").then(|| certificate(name))?;
        certified_key(name, &made.chain, &made.key).ok()
    }
}

#[tokio::test]
async fn a_handshake_waits_for_its_certificate_longer_than_a_handshake_may_take() {
    let app = App::start("web").await;
    let proxy =
        Proxy::with(ProxyConfig { handshake_timeout: Duration::from_secs(1), ..ProxyConfig::default() });
    let source = Arc::new(Source { takes: Duration::from_millis(2500), asked: AtomicUsize::new(0) });
    proxy.handle.set_certificate_source(Some(source.clone()));
    let routes = RouteTable::builder().host("*.on.test").to(Destination::Release(release(1, &[app.addr])));
    proxy.handle.set_routes(routes.build().expect("one route"));

    // Ten visitors of one new name, and one of each other kind, at once.
    let visitors = (0..10).map(|_| shown(&proxy, "shop.on.test", &[]));
    let (visitors, other, dotless, challenge) = tokio::join!(
        futures_util::future::join_all(visitors),
        shown(&proxy, "shop.off.test", &[]),
        shown(&proxy, "localhost", &[]),
        shown(&proxy, "new.on.test", &[b"acme-tls/1"]),
    );
    assert!(
        visitors.iter().all(|der| der.is_some() && *der == visitors[0]),
        "all are shown the one that was got"
    );
    assert_eq!((other, dotless, challenge), (None, None, None));
    assert_eq!(source.asked.load(Ordering::SeqCst), 2, "each name once, and no other");

    // What was refused is not asked for again, and what the table has never is.
    assert_eq!(shown(&proxy, "shop.off.test", &[]).await, None);
    let own = certificate("shop.on.test");
    let key = certified_key("shop.on.test", &own.chain, &own.key).expect("a good certificate");
    proxy.handle.update_certificates(|table| table.set("shop.on.test", key.clone()));
    assert_eq!(shown(&proxy, "SHOP.on.test", &[]).await, Some(own.der));
    assert_eq!(source.asked.load(Ordering::SeqCst), 2);

    // Through it a request goes as through any other.
    let client =
        proxy.client_builder().resolve("blog.on.test", proxy.https).tls_danger_accept_invalid_certs(true);
    let url = format!("https://blog.on.test:{}/", proxy.https.port());
    let answer = client.build().expect("a client").get(url).send().await.expect("an answer");
    assert_eq!(
        (answer.version(), answer.text().await.expect("a body")),
        (reqwest::Version::HTTP_2, "web".to_owned())
    );
}

#[tokio::test]
async fn a_source_that_is_too_slow_is_not_waited_for_and_a_fallback_takes_its_place() {
    let proxy =
        Proxy::with(ProxyConfig { on_demand_timeout: Duration::from_millis(300), ..ProxyConfig::default() });
    let source = Arc::new(Source { takes: Duration::from_secs(60), asked: AtomicUsize::new(0) });
    proxy.handle.set_certificate_source(Some(source.clone()));
    let begun = std::time::Instant::now();
    assert_eq!(shown(&proxy, "a.on.test", &[]).await, None);
    assert!((300..3000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let fallback = certificate("fallback.test");
    let table = CertificateTable::builder().fallback_pem(&fallback.chain, &fallback.key).expect("good");
    proxy.handle.set_certificates(table.build());
    assert_eq!(shown(&proxy, "b.on.test", &[]).await, Some(fallback.der));
    assert_eq!(source.asked.load(Ordering::SeqCst), 2);
}

/// One name of many is changed without a copy of the others' certificates.
#[tokio::test]
async fn one_name_of_ten_thousand_is_changed_at_once() {
    let proxy = Proxy::start();
    let made = certificate("n.test");
    let key = certified_key("n.test", &made.chain, &made.key).expect("good");
    for names in [1_000, 10_000] {
        let mut table = CertificateTable::default();
        for n in 0..names {
            table.set(&format!("n{n}.example.test"), key.clone());
        }
        proxy.handle.set_certificates(table);
        let begun = std::time::Instant::now();
        for n in 0..20 {
            let new = certificate("n.test");
            let new = certified_key("n.test", &new.chain, &new.key).expect("good");
            let at = std::time::Instant::now();
            proxy.handle.update_certificates(|table| table.set(&format!("n{n}.example.test"), new.clone()));
            assert!(at.elapsed() < Duration::from_millis(200), "{:?} for one of {names}", at.elapsed());
        }
        println!("{names} names: {:?} per change, with the making of a key", begun.elapsed() / 20);
    }
    assert!(shown(&proxy, "n9999.example.test", &[]).await.is_some());
    proxy.handle.update_certificates(|table| table.remove("n9999.example.test"));
    assert!(shown(&proxy, "n9999.example.test", &[]).await.is_none());
}
