//! Hosts and prefixes, pages, redirects, challenges, and swaps under load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use berth_proxy::{AccessFault, ChallengeTable, Destination, Protocol, RouteTable, StatusPage};

use crate::support::{App, Proxy, release};

#[tokio::test]
async fn hosts_and_prefixes_lead_to_their_apps() {
    let (web, api) = (App::start("web").await, App::start("api").await);
    let mut proxy = Proxy::start();
    let routes = RouteTable::builder()
        .host("web.test")
        .to(Destination::Release(release(1, &[web.addr])))
        .host("web.test")
        .prefix("/api")
        .to(Destination::Release(release(7, &[api.addr])))
        .host("*.preview.test")
        .to(Destination::Release(release(2, &[api.addr])))
        .build()
        .expect("no conflicts");
    proxy.handle.set_routes(routes);

    assert_eq!(proxy.get("/").await.text().await.expect("a body"), "web");
    assert_eq!(proxy.get("/api/v1?x=1").await.text().await.expect("a body"), "api");
    assert!(proxy.raw("GET / HTTP/1.1\r\nHost: PR-7.preview.test:80\r\n\r\n").await.ends_with("api"));

    let record = proxy.record().await;
    assert_eq!((record.host.as_str(), record.path.as_str(), record.status), ("web.test", "/", 200));
    assert_eq!(record.label.expect("was routed").release, 1);
    assert_eq!(record.replica.as_deref(), Some("replica-0"));
    assert_eq!((record.protocol, record.tls, record.fault), (Protocol::Http1, false, None));
    assert_eq!(record.bytes_out, 3);
    assert!(record.upstream_us.expect("the app answered") <= record.duration_us);
    let second = proxy.record().await;
    assert_eq!(second.path, "/api/v1?x=1");
    assert_ne!(second.request_id, record.request_id);
}

#[tokio::test]
async fn an_unknown_host_gets_a_page_that_says_so_and_programs_get_json() {
    let mut proxy = Proxy::start();
    let page = proxy.get("/").await;
    assert_eq!(page.status(), 404);
    assert_eq!(page.headers()["x-berth-error"], "no_such_app");
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert!(page.text().await.expect("a body").contains("No such app"));
    assert_eq!(proxy.record().await.fault, Some(AccessFault::NoSuchApp));

    let json = proxy
        .client()
        .get(proxy.url("/"))
        .header("accept", "application/json")
        .send()
        .await
        .expect("an answer");
    let id = json.headers()["x-request-id"].to_str().expect("text").to_owned();
    let body: serde_json::Value = json.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "no_such_app");
    assert_eq!(body["error"]["request_id"], id);
    assert_eq!(proxy.record().await.request_id.to_string(), id);
}

#[tokio::test]
async fn pages_say_why_there_is_no_release() {
    let proxy = Proxy::start();
    let app = || "web".to_owned();
    for (page, code, retry) in [
        (StatusPage::Starting { app: app() }, "app_starting", true),
        (StatusPage::Stopped { app: app() }, "app_stopped", false),
        (StatusPage::Unhealthy { app: app() }, "app_unhealthy", true),
    ] {
        let routes = RouteTable::builder().host("web.test").to(Destination::Page(page)).build();
        proxy.handle.set_routes(routes.expect("one route"));
        let answer = proxy.client().post(proxy.url("/")).body("ignored").send().await.expect("an answer");
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["x-berth-error"], code);
        assert_eq!(answer.headers().contains_key("retry-after"), retry);
    }
}

#[tokio::test]
async fn an_https_only_host_redirects_but_answers_challenges() {
    let proxy = Proxy::start();
    let page = Destination::Page(StatusPage::Stopped { app: "web".into() });
    let www = Destination::Redirect { host: "web.test".into() };
    let routes =
        RouteTable::builder().host("web.test").https_only().to(page).host("www.web.test").to(www).build();
    proxy.handle.set_routes(routes.expect("two routes"));
    proxy.handle.set_challenges(ChallengeTable::new().with("token-1", "token-1.thumbprint"));

    let moved = proxy.get("/a?b=c").await;
    assert_eq!(moved.status(), 308);
    assert_eq!(moved.headers()["location"], "https://web.test/a?b=c");
    let answer = proxy.get("/.well-known/acme-challenge/token-1").await;
    assert_eq!(answer.text().await.expect("a body"), "token-1.thumbprint");
    let moved = proxy.raw("GET /x HTTP/1.1\r\nHost: www.web.test\r\n\r\n").await;
    assert!(moved.contains("http://web.test/x"), "{moved}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_swaps_under_load_lose_nothing() {
    let proxy = Arc::new(Proxy::start());
    let first = App::start("app").await;
    let mut live = release(0, &[first.addr]);
    let mut live_app = first;
    proxy.route(&live);

    let (stop, ok, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for i in 0..16 {
        let (proxy, stop, ok, failed) = (proxy.clone(), stop.clone(), ok.clone(), failed.clone());
        clients.push(tokio::spawn(async move {
            let client = proxy.client();
            while !stop.load(Ordering::Relaxed) {
                let url = proxy.url("/slow?ms=3");
                let request = if i % 2 == 0 { client.get(url) } else { client.post(url).body("order") };
                match request.send().await {
                    Ok(answer) if answer.status() == 200 => ok.fetch_add(1, Ordering::Relaxed),
                    _ => failed.fetch_add(1, Ordering::Relaxed),
                };
            }
        }));
    }
    for number in 1..=50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let app = App::start("app").await;
        let next = release(number, &[app.addr]);
        proxy.route(&next);
        let report = proxy.handle.drain(&live, Duration::from_secs(5)).await;
        assert_eq!(report.cut, 0, "swap {number}");
        std::mem::replace(&mut live_app, app).stop();
        live = next;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no panic");
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", ok.load(Ordering::Relaxed));
    assert!(ok.load(Ordering::Relaxed) > 100);
}
