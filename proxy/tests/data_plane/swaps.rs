//! Certificates, routes and rules that change all the time, under visitors who must not notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use berth_proxy::{CertificateTable, Destination, HostRules, RouteTable, certified_key};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    support::{App, Proxy, raw_app, release},
    tls::{Made, certificate, handshake},
};

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    served: AtomicUsize,
    wrong: std::sync::Mutex<Vec<String>>,
}

impl Tally {
    async fn visit(
        self: Arc<Self>,
        client: impl Fn() -> reqwest::Client,
        url: String,
        anew: bool,
        posts: bool,
    ) {
        let mut kept = client();
        while !self.stop.load(Ordering::Relaxed) {
            if anew {
                kept = client();
            }
            let request = if posts { kept.post(&url).body("an order") } else { kept.get(&url) };
            match request.send().await {
                Ok(answer) if answer.status() == 200 => match answer.text().await {
                    Ok(text) if text == "app" => drop(self.served.fetch_add(1, Ordering::Relaxed)),
                    other => self.wrong.lock().expect("no panic").push(format!("{other:?}")),
                },
                other => self.wrong.lock().expect("no panic").push(format!("{other:?}")),
            }
        }
    }
}

/// Kept connections and new ones, plain, over TLS and over HTTP/2, while every 10 ms the certificate, the route table
/// and the rules change, and every tenth time the release.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_changes_under_load_lose_no_request() {
    let proxy = Proxy::start();
    let authority = Authority::new();
    let first = authority.issue();
    let table = CertificateTable::builder().pem("web.test", &first.chain, &first.key).expect("good");
    proxy.handle.set_certificates(table.build());
    let mut app = App::start("app").await;
    let mut live = release(0, &[app.addr]);
    let mut rules = rules(0, None);
    let publish = |live: &Arc<_>, rules: &Arc<HostRules>| {
        let to = Destination::Release(Arc::clone(live));
        let table =
            RouteTable::builder().host("web.test").rules(Arc::clone(rules)).to(to).host("www.web.test");
        let table = table.to(Destination::Redirect { host: "web.test".into() }).build();
        proxy.handle.set_routes(table.expect("two routes"));
    };
    publish(&live, &rules);

    let tally = Arc::new(Tally::default());
    let root = reqwest::Certificate::from_pem(authority.pem.as_bytes()).expect("a root");
    let mut visitors = Vec::new();
    for n in 0..16 {
        let (tls, http2, anew, posts) = (n % 4 != 0, n % 4 == 2, n % 8 >= 6, n >= 8);
        let builder = {
            let (http, https, root) = (proxy.http, proxy.https, root.clone());
            move || {
                let builder = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20));
                let builder = builder
                    .resolve("web.test", if tls { https } else { http })
                    .tls_certs_only([root.clone()]);
                let builder = if http2 { builder } else { builder.http1_only() };
                builder.build().expect("a client")
            }
        };
        let url = if tls { proxy.https_url("/slow?ms=2") } else { proxy.url("/slow?ms=2") };
        visitors.push(tokio::spawn(tally.clone().visit(builder, url, anew, posts)));
    }
    for change in 1..=200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let made = authority.issue();
        let key = certified_key("web.test", &made.chain, &made.key).expect("good");
        proxy.handle.update_certificates(|table| table.set("web.test", key.clone()));
        rules = self::rules(change, Some(&rules));
        if change % 10 == 0 {
            let next_app = App::start("app").await;
            let next = release(change, &[next_app.addr]);
            publish(&next, &rules);
            let report = proxy.handle.drain(&live, Duration::from_secs(5)).await;
            assert_eq!(report.cut, 0, "change {change}");
            std::mem::replace(&mut app, next_app).stop();
            live = next;
        } else {
            publish(&live, &rules);
        }
    }
    tally.stop.store(true, Ordering::Relaxed);
    for visitor in visitors {
        visitor.await.expect("no panic");
    }
    let wrong = tally.wrong.lock().expect("no panic");
    let served = tally.served.load(Ordering::Relaxed);
    assert!(wrong.is_empty(), "{} of {served}: {:?}", wrong.len(), &wrong[..wrong.len().min(3)]);
    println!("{served} requests over 200 changes");
    assert!(served > 1000, "{served}");
}

/// Rules that every visitor passes, each a little different.
fn rules(n: i64, before: Option<&Arc<HostRules>>) -> Arc<HostRules> {
    let said = serde_json::json!({
        "hsts": {"max_age_s": n},
        "deny": [format!("192.0.2.{}", n % 250)],
        "rate_limit": {"requests": 1_000_000},
        "response_headers": {"set": {"x-change": n.to_string()}},
        "max_body_bytes": 1000 + n,
    });
    HostRules::compile(&serde_json::from_value(said).expect("rules"), before).expect("sound")
}

struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let issuer = rcgen::CertifiedIssuer::self_signed(params, key).expect("signed");
        let pem = issuer.pem();
        Self { issuer, pem }
    }

    fn issue(&self) -> Made {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["web.test".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Made { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }
}

/// The app's side ends in every way there is while its release drains: no client finds its WebSocket reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_of_apps_that_drop_their_sockets_end_with_a_word_through_tls() {
    let (app, _) = raw_app(|socket| async move {
        let linger = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        linger.expect("a socket option");
        let Ok(mut ws) = tokio_tungstenite::accept_async(socket).await else { return };
        let mut left = 20;
        while let Some(Ok(message)) = ws.next().await {
            left -= 1;
            // Gone in the middle of the talk, by a reset.
            if left == 0 || ws.send(message).await.is_err() {
                return;
            }
        }
    })
    .await;
    let proxy = Proxy::start();
    let made = certificate("web.test");
    let table = CertificateTable::builder().pem("web.test", &made.chain, &made.key).expect("good");
    proxy.handle.set_certificates(table.build());
    proxy.route(&release(1, &[app]));
    let talks = (0..50).map(|_| async {
        let tls = handshake(&proxy, "web.test", &[b"http/1.1"]).await.expect("a handshake");
        let (mut ws, _) = tokio_tungstenite::client_async("wss://web.test/", tls).await.expect("an upgrade");
        loop {
            // A client that only listens sees the end, too; this one may be writing at that moment.
            let _ = ws.send(Message::text("ping")).await;
            match ws.next().await {
                Some(Ok(Message::Close(frame))) => return Ok(frame.map(|frame| u16::from(frame.code))),
                Some(Ok(_)) => {}
                other => return Err(format!("{other:?}")),
            }
        }
    });
    let ends = futures_util::future::join_all(talks).await;
    let bad: Vec<_> = ends.iter().filter(|end| **end != Ok(Some(1012))).collect();
    assert!(bad.is_empty(), "{} of 50: {:?}", bad.len(), &bad[..bad.len().min(3)]);
}
