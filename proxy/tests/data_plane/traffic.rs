//! Traffic that waits, is shared between two releases, or is sent to a page; and what an app's answers count as.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use berth_proxy::{
    AccessFault, Answers, Destination, Hold, Match, Split, SplitRule, StatusPage, TargetOptions,
};
use futures_util::{SinkExt, StreamExt};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    App, Proxy, dead_address, deaf_address, raw_app, read_all, read_head, release, release_with, until,
};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn held_requests_of_every_kind_go_to_the_release_that_comes() {
    let app = App::start("new").await;
    let (sockets, _) = raw_app(|socket| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(socket).await else { return };
        let _ = socket.send(Message::text("welcome")).await;
        while socket.next().await.is_some() {}
    })
    .await;
    let mut proxy = Proxy::start();
    let (old, new) = (release(1, &[app.addr]), release(2, &[app.addr]));
    let hold = Hold::new("web".into(), LONG, 100);
    proxy.lead_to(Destination::Hold(hold.clone()));
    let (client, http2) = (proxy.client(), proxy.http2_client());
    let get = tokio::spawn(client.get(proxy.url("/")).send());
    let post = tokio::spawn(client.post(proxy.url("/upload")).body(vec![b'u'; 3 << 20]).send());
    let get2 = tokio::spawn(http2.get(proxy.https_url("/")).send());
    let post2 = tokio::spawn(http2.post(proxy.https_url("/upload")).body(vec![b'u'; 3 << 20]).send());
    until(|| hold.waiting() == 4).await;
    assert_eq!((old.in_flight(), new.in_flight(), app.hits()), (0, 0, 0));
    proxy.route(&new);
    hold.release();
    assert_eq!(get.await.expect("no panic").expect("an answer").text().await.expect("a body"), "new");
    let answer = post.await.expect("no panic").expect("an answer");
    assert_eq!(answer.text().await.expect("a body"), "3145728 bytes, 0 wrong");
    assert_eq!(get2.await.expect("no panic").expect("an answer").text().await.expect("a body"), "new");
    let answer = post2.await.expect("no panic").expect("an answer");
    assert_eq!(answer.text().await.expect("a body"), "3145728 bytes, 0 wrong");
    assert_eq!(hold.waiting(), 0);
    for _ in 0..4 {
        let record = proxy.record().await;
        assert_eq!((record.fault, record.label.map(|label| label.release)), (None, Some(2)));
    }

    let hold = Hold::new("web".into(), LONG, 100);
    proxy.lead_to(Destination::Hold(hold.clone()));
    let tcp = TcpStream::connect(proxy.http).await.expect("connects");
    let upgrade = tokio::spawn(tokio_tungstenite::client_async("ws://web.test/", tcp));
    until(|| hold.waiting() == 1).await;
    proxy.route(&release(3, &[sockets]));
    hold.release();
    let (mut socket, _) = upgrade.await.expect("no panic").expect("an upgrade");
    assert_eq!(socket.next().await.expect("a message").expect("no error"), Message::text("welcome"));
}

#[tokio::test]
async fn who_waited_too_long_or_found_no_room_is_told_to_come_again() {
    let mut proxy = Proxy::start();
    let hold = Hold::new("web".into(), Duration::from_millis(400), 1);
    proxy.lead_to(Destination::Hold(hold.clone()));
    let begun = Instant::now();
    let waits = tokio::spawn(proxy.client().get(proxy.url("/")).send());
    until(|| hold.waiting() == 1).await;
    let refused = proxy.client().post(proxy.url("/")).body("x").send().await.expect("an answer");
    assert!(begun.elapsed() < Duration::from_millis(350), "{:?}", begun.elapsed());
    let waited = waits.await.expect("no panic").expect("an answer");
    assert!((400..1500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    for answer in [refused, waited] {
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["x-berth-error"], "paused");
        assert!(answer.headers().contains_key("retry-after"));
        assert_eq!(proxy.record().await.fault, Some(AccessFault::Paused));
    }
    // The table still leads to a hold that was released: it is asked again until the limit, not in a spin.
    hold.release();
    assert_eq!(proxy.get("/").await.status(), 503);
}

#[tokio::test]
async fn a_held_client_that_leaves_is_noticed() {
    let app = App::start("web").await;
    let mut proxy = Proxy::start();
    let hold = Hold::new("web".into(), LONG, 100);
    proxy.lead_to(Destination::Hold(hold.clone()));
    let mut get = TcpStream::connect(proxy.http).await.expect("connects");
    get.write_all(b"GET /get HTTP/1.1\r\nHost: web.test\r\n\r\n").await.expect("writes");
    let mut post = TcpStream::connect(proxy.http).await.expect("connects");
    let head = b"POST /post HTTP/1.1\r\nHost: web.test\r\nContent-Length: 1000\r\n\r\nthe beginning";
    post.write_all(head).await.expect("writes");
    let http2 = proxy.http2_client();
    let stream = tokio::spawn(http2.post(proxy.https_url("/stream")).body(vec![b'u'; 3 << 20]).send());
    until(|| hold.waiting() == 3).await;
    drop(get);
    drop(post);
    stream.abort();
    until(|| hold.waiting() == 0).await;
    for _ in 0..3 {
        let record = proxy.record().await;
        assert_eq!((record.fault, record.status), (Some(AccessFault::ClientGone), 0), "{}", record.path);
    }
    proxy.route(&release(1, &[app.addr]));
    hold.release();
    assert_eq!(http2.get(proxy.https_url("/")).send().await.expect("an answer").status(), 200);
    assert_eq!(app.hits(), 1, "nothing of the three reached the app");
}

#[tokio::test]
async fn a_stopping_server_does_not_wait_for_held_requests() {
    let mut proxy = Proxy::start();
    let hold = Hold::new("web".into(), LONG, 100);
    proxy.lead_to(Destination::Hold(hold.clone()));
    let get = tokio::spawn(proxy.client().get(proxy.url("/")).send());
    let post = tokio::spawn(proxy.client().post(proxy.url("/")).body(vec![b'u'; 1 << 20]).send());
    until(|| hold.waiting() == 2).await;
    let begun = Instant::now();
    proxy.ask_to_stop();
    for answer in [get, post] {
        let answer = answer.await.expect("no panic").expect("an answer");
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"));
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    proxy.stopped().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn two_releases_share_visitors_who_stay_where_they_are() {
    let (main, trial) = (App::start("main").await, App::start("trial").await);
    let proxy = Proxy::start();
    let (main, trial) = (release(1, &[main.addr]), release(2, &[trial.addr]));
    let share = |percent| {
        let split = Split {
            main: main.clone(),
            trial: trial.clone(),
            rule: SplitRule {
                percent,
                header: Some(Match { name: "X-Trial".into(), value: None }),
                cookie: Some(Match { name: "side".into(), value: Some("trial".into()) }),
            },
        };
        proxy.lead_to(Destination::Split(Arc::new(split)));
    };
    share(0);
    assert_eq!(proxy.handle.routes().targets().count(), 2);
    let client = proxy.client();
    let ask = async |visitor: usize, name: &str, value: &str| {
        let request = client.get(proxy.url("/")).header("user-agent", format!("visitor {visitor}"));
        let answer = request.header(name, value).send().await.expect("an answer");
        answer.text().await.expect("a body")
    };
    assert_eq!(ask(0, "x-trial", "1").await, "trial");
    assert_eq!(ask(0, "cookie", "a=b; side=trial").await, "trial");
    assert_eq!(ask(0, "cookie", "side=main").await, "main");

    let mut before: HashMap<usize, String> = HashMap::new();
    for percent in [0, 30, 60, 100] {
        share(percent);
        let mut on_trial = 0_u8;
        for visitor in 0..100 {
            let side = ask(visitor, "x-other", "1").await;
            on_trial += u8::from(side == "trial");
            let was = before.insert(visitor, side.clone());
            assert!(was.as_deref() != Some("trial") || side == "trial", "{visitor} was moved back");
        }
        assert!(on_trial.abs_diff(percent) <= 15, "{on_trial} at {percent} %");
    }
    assert!(trial.answers().total > 180 && main.answers().total > 180);
    assert_eq!(trial.answers().total, trial.finished());
}

#[tokio::test]
async fn a_maintenance_page_says_what_the_owner_says() {
    let mut proxy = Proxy::start();
    let page = |message: Option<&str>, retry_after_s| {
        Destination::Page(StatusPage::Maintenance {
            app: "web".into(),
            message: message.map(str::to_owned),
            retry_after_s,
        })
    };
    proxy.lead_to(page(Some("Back at <noon>."), Some(120)));
    let answer = proxy.get("/").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["x-berth-error"], "maintenance");
    assert_eq!(answer.headers()["retry-after"], "120");
    assert!(answer.text().await.expect("a body").contains("Back at &lt;noon&gt;."));
    assert_eq!(proxy.record().await.fault, Some(AccessFault::Maintenance));
    proxy.lead_to(page(None, None));
    let answer = proxy.get("/").await;
    assert!(!answer.headers().contains_key("retry-after"));
    assert!(answer.text().await.expect("a body").contains("web is being worked on"));
}

#[tokio::test]
async fn answers_are_counted_by_what_the_app_did() {
    let app = App::start("web").await;
    let mut proxy = Proxy::start();
    let target = release(1, &[app.addr]);
    proxy.route(&target);
    let counts = |total, server_errors| Answers { total, server_errors };
    proxy.get("/").await;
    proxy.client().post(proxy.url("/upload")).body("uu").send().await.expect("an answer");
    proxy.get("/broken").await;
    proxy.client().put(proxy.url("/")).body("x").send().await.expect("an answer");
    assert_eq!(target.answers(), counts(4, 1));

    // Who leaves says nothing about the app.
    let mut leaves = TcpStream::connect(proxy.http).await.expect("connects");
    leaves.write_all(b"GET /slow?ms=20000 HTTP/1.1\r\nHost: web.test\r\n\r\n").await.expect("writes");
    until(|| target.in_flight() == 1).await;
    drop(leaves);
    until(|| target.in_flight() == 0).await;
    assert_eq!(target.answers(), counts(4, 1));
    for _ in 0..5 {
        proxy.record().await;
    }

    // Half an answer, by both ways through the proxy; then none, none in time, and nobody there.
    let (half, _) = raw_app(|mut socket| async move {
        read_head(&mut socket).await;
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    })
    .await;
    let target = release(2, &[half]);
    proxy.route(&target);
    assert!(proxy.get("/").await.bytes().await.is_err());
    let post = proxy.client().post(proxy.url("/")).body("x").send().await.expect("a head");
    assert!(post.bytes().await.is_err());
    until(|| target.answers() == counts(2, 2)).await;

    let hasty = TargetOptions { response_timeout: Duration::from_millis(100), ..TargetOptions::default() };
    let target = release_with(3, &[app.addr], hasty);
    proxy.route(&target);
    assert_eq!(proxy.get("/slow?ms=3000").await.status(), 504);
    let post = proxy.client().post(proxy.url("/slow?ms=3000")).body("x").send().await.expect("an answer");
    assert_eq!(post.status(), 504);
    assert_eq!(target.answers(), counts(2, 2));

    let target = release(4, &[dead_address().await]);
    proxy.route(&target);
    assert_eq!(proxy.get("/").await.status(), 503);
    assert_eq!(target.answers(), counts(1, 1));
}

#[tokio::test]
async fn source_maps_are_as_if_not_there_where_they_are_private() {
    let app = App::start("app").await;
    let proxy = Proxy::start();
    let private = TargetOptions { private_maps: true, ..TargetOptions::default() };
    proxy.route(&release_with(1, &[app.addr], private));
    for (path, status) in
        [("/main.js.map", 404), ("/main.js%2Emap?x", 404), ("/main.js", 200), ("/level.map", 200)]
    {
        assert_eq!(proxy.get(path).await.status(), status, "{path}");
    }
    let post = proxy.client().post(proxy.url("/main.js.map")).body("x").send().await.expect("an answer");
    assert_eq!(post.status(), 404);
    assert_eq!(app.hits(), 2, "the app is not asked for them");
    proxy.route(&release(2, &[app.addr]));
    assert_eq!(proxy.get("/main.js.map").await.status(), 200);
}

#[tokio::test]
async fn an_upgrade_is_an_answer_however_it_ends() {
    let (addr, _) = raw_app(|socket| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(socket).await else { return };
        let _ = socket.next().await;
    })
    .await;
    let mut proxy = Proxy::start();
    let target = release(1, &[addr]);
    proxy.route(&target);
    let mut tcp = TcpStream::connect(proxy.http).await.expect("connects");
    let head = b"GET / HTTP/1.1\r\nHost: web.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    tcp.write_all(head).await.expect("writes");
    until(|| target.answers() == Answers { total: 1, server_errors: 0 }).await;
    // Nonsense, at which the app hangs up.
    tcp.write_all(&[0xff; 64]).await.expect("writes");
    read_all(&mut tcp).await;
    proxy.record().await;
    assert_eq!(target.answers(), Answers { total: 1, server_errors: 0 });
}

/// What was on its way to a release that is gone before it could connect goes where the newest table leads.
#[tokio::test]
async fn a_request_that_could_not_connect_in_time_follows_the_newest_table() {
    let app = App::start("new").await;
    let site = tempfile::tempdir().expect("a directory");
    std::fs::write(site.path().join("index.html"), "a file").expect("written");
    let (deaf, _open) = deaf_address();
    let options = TargetOptions { connect_timeout: Duration::from_millis(400), ..TargetOptions::default() };
    let hold = Hold::new("web".into(), LONG, 10);
    let page = StatusPage::Maintenance { app: "web".into(), message: None, retry_after_s: None };
    let files = berth_proxy::ReleaseTarget::static_files(
        crate::support::label(9),
        berth_proxy::StaticSite::new(site.path()),
    );
    for (next, status, text) in [
        (Destination::Release(release(2, &[app.addr])), 200, Some("new")),
        (Destination::Page(page), 503, None),
        (Destination::Release(files.expect("a directory")), 405, None),
        (Destination::Redirect { host: "other.test".into() }, 308, None),
        (Destination::Hold(hold.clone()), 200, Some("new")),
    ] {
        // A large body and none: both ways through the proxy.
        for size in [0, 200 << 10] {
            let proxy = Proxy::start();
            let old = release_with(1, &[deaf], options);
            proxy.route(&old);
            let request = proxy.client().post(proxy.url("/")).body(vec![b'x'; size]);
            let asked = tokio::spawn(request.send());
            until(|| old.in_flight() == 1).await;
            proxy.lead_to(next.clone());
            let report = proxy.handle.drain(&old, Duration::from_secs(3)).await;
            assert_eq!(report.cut, 0, "{next:?}");
            if let Destination::Hold(hold) = &next {
                until(|| hold.waiting() == 1).await;
                let resumed = Hold::new("web".into(), LONG, 10);
                proxy.lead_to(Destination::Hold(resumed.clone()));
                hold.release();
                until(|| resumed.waiting() == 1).await;
                proxy.route(&release(3, &[app.addr]));
                resumed.release();
            }
            let answer = asked.await.expect("no panic").expect("an answer");
            assert_eq!(answer.status(), status, "{next:?}, {size} bytes");
            if let Some(text) = text {
                assert_eq!(answer.text().await.expect("a body"), text);
            }
        }
    }
}
