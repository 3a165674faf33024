//! A release that is a directory.

use std::{fs, os::unix::fs::symlink, sync::Arc};

use berth_proxy::{ReleaseTarget, StaticSite};
use tempfile::TempDir;

use crate::support::{Proxy, label, resident_kib};

struct Site {
    proxy: Proxy,
    directory: TempDir,
}

impl Site {
    fn start(spa_fallback: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("release");
        fs::create_dir_all(root.join("docs")).expect("made");
        fs::create_dir_all(root.join(".well-known")).expect("made");
        for (name, contents) in [
            ("index.html", "<h1>home</h1>"),
            ("about.html", "<h1>about</h1>"),
            ("404.html", "<h1>lost</h1>"),
            ("docs/index.html", "<h1>docs</h1>"),
            ("app.js", "let plain = 1"),
            ("app.js.br", "brotli bytes"),
            ("app.js.gz", "gzip bytes"),
            ("assets.3f2a9c1b.css", "body{}"),
            ("digits.txt", "0123456789"),
            (".env", "SECRET=1"),
            (".well-known/security.txt", "mail us"),
        ] {
            fs::write(root.join(name), contents).expect("written");
        }
        fs::write(directory.path().join("outside.txt"), "outside").expect("written");
        symlink("../outside.txt", root.join("leak.txt")).expect("linked");
        symlink("/etc", root.join("etc")).expect("linked");
        symlink("digits.txt", root.join("inside.txt")).expect("linked");
        let site = StaticSite { spa_fallback, ..StaticSite::new(root) };
        let target = ReleaseTarget::static_files(label(1), site).expect("the root is there");
        let proxy = Proxy::start();
        proxy.route(&target);
        Self { proxy, directory }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let request = self.proxy.client().get(self.proxy.url(path));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.expect("an answer")
    }

    async fn text(&self, path: &str) -> (u16, String) {
        let answer = self.get(path, &[]).await;
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }
}

#[tokio::test]
async fn files_pages_and_directories() {
    let site = Site::start(false);
    assert_eq!(site.text("/").await, (200, "<h1>home</h1>".into()));
    assert_eq!(site.text("/about").await, (200, "<h1>about</h1>".into()));
    assert_eq!(site.text("/docs/").await, (200, "<h1>docs</h1>".into()));
    assert_eq!(site.text("/nothing").await, (404, "<h1>lost</h1>".into()));
    assert_eq!(site.text("/inside.txt").await, (200, "0123456789".into()));
    assert_eq!(site.text("/.well-known/security.txt").await, (200, "mail us".into()));
    let moved = site.get("/docs?a=b", &[]).await;
    assert_eq!(
        (moved.status().as_u16(), &moved.headers()["location"]),
        (308, &"/docs/?a=b".parse().expect("text"))
    );
    let page = site.get("/", &[]).await;
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    assert_eq!(page.headers()["cache-control"], "public, max-age=0, must-revalidate");
    let hashed = site.get("/assets.3f2a9c1b.css", &[]).await;
    assert_eq!(hashed.headers()["cache-control"], "public, max-age=31536000, immutable");
    let post = site.proxy.client().post(site.proxy.url("/")).send().await.expect("an answer");
    assert_eq!(
        (post.status().as_u16(), &post.headers()["allow"]),
        (405, &"GET, HEAD".parse().expect("text"))
    );
    let head = site.proxy.client().head(site.proxy.url("/digits.txt")).send().await.expect("an answer");
    assert_eq!(head.headers()["content-length"], "10");
}

#[tokio::test]
async fn nothing_outside_or_hidden_is_served() {
    let site = Site::start(false);
    for path in [
        "/leak.txt",
        "/etc/passwd",
        "/.env",
        "/%2eenv",
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/..%2foutside.txt",
        "/docs/../../outside.txt",
        "/digits.txt/x",
        "/digits.txt%00.html",
    ] {
        let answer = site
            .proxy
            .raw(&format!("GET {path} HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n"))
            .await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        assert!(
            !answer.contains("outside") && !answer.contains("SECRET") && !answer.contains("root:"),
            "{path}"
        );
    }
    let double =
        site.proxy.raw("GET //evil.test/docs HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n").await;
    assert!(!double.to_ascii_lowercase().contains("location: //"), "{double}");
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let site = Site::start(false);
    let first = site.get("/digits.txt", &[]).await;
    let etag = first.headers()["etag"].to_str().expect("text").to_owned();
    let date = first.headers()["last-modified"].to_str().expect("text").to_owned();
    let again = site.get("/digits.txt", &[("if-none-match", &etag)]).await;
    assert_eq!(again.status(), 304);
    assert_eq!(again.headers()["etag"], etag.as_str());
    assert_eq!(site.get("/digits.txt", &[("if-modified-since", &date)]).await.status(), 304);
    assert_eq!(site.get("/digits.txt", &[("if-none-match", "\"other\"")]).await.status(), 200);
}

#[tokio::test]
async fn parts_are_served() {
    let site = Site::start(false);
    for (range, status, content_range, body) in [
        ("bytes=2-4", 206, Some("bytes 2-4/10"), "234"),
        ("bytes=-3", 206, Some("bytes 7-9/10"), "789"),
        ("bytes=8-", 206, Some("bytes 8-9/10"), "89"),
        ("bytes=20-", 416, Some("bytes */10"), ""),
        ("bytes=0-1,4-5", 200, None, "0123456789"),
    ] {
        let part = site.get("/digits.txt", &[("range", range)]).await;
        assert_eq!(part.status(), status, "{range}");
        assert_eq!(
            part.headers().get("content-range").map(|v| v.to_str().expect("text")),
            content_range,
            "{range}"
        );
        assert_eq!(part.text().await.expect("a body"), body, "{range}");
    }
    let stale = site.get("/digits.txt", &[("range", "bytes=2-4"), ("if-range", "\"old\"")]).await;
    assert_eq!(stale.status(), 200);
}

#[tokio::test]
async fn smaller_files_beside_the_plain_ones_are_used() {
    let site = Site::start(false);
    for (accept, encoding, body) in [
        ("gzip, br", Some("br"), "brotli bytes"),
        ("gzip", Some("gzip"), "gzip bytes"),
        ("br;q=0", None, "let plain = 1"),
    ] {
        let answer = site.get("/app.js", &[("accept-encoding", accept)]).await;
        assert_eq!(answer.headers().get("content-encoding").map(|v| v.to_str().expect("text")), encoding);
        assert_eq!(answer.headers()["content-type"], "text/javascript; charset=utf-8");
        assert_eq!(answer.headers()["vary"], "accept-encoding");
        assert_eq!(answer.text().await.expect("a body"), body);
    }
}

#[tokio::test]
async fn a_single_page_app_answers_its_own_routes() {
    let site = Site::start(true);
    assert_eq!(site.text("/orders/17").await, (200, "<h1>home</h1>".into()));
    assert_eq!(site.text("/missing.js").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_streams_with_flat_memory_and_survives_a_rename() {
    let site = Site::start(false);
    let root = site.directory.path().join("release");
    fs::write(root.join("large.bin"), vec![b'x'; 64 << 20]).expect("written");
    fs::rename(&root, site.directory.path().join("moved")).expect("renamed");
    site.text("/").await;
    let before = resident_kib();
    let mut most = before;
    let mut answer = site.get("/large.bin", &[]).await;
    let mut bytes = 0;
    while let Some(piece) = answer.chunk().await.expect("no error") {
        bytes += piece.len();
        most = most.max(resident_kib());
    }
    assert_eq!(bytes, 64 << 20);
    assert!(most < before + (16 << 10), "grew from {before} to {most} KiB");
    let tail = site.get("/large.bin", &[("range", "bytes=67108860-")]).await;
    assert_eq!(tail.text().await.expect("a body"), "xxxx");
}

#[test]
fn a_root_that_is_not_there_is_named() {
    let error = ReleaseTarget::static_files(label(1), StaticSite::new("/no/such/release"));
    let error = error.map(|_: Arc<_>| ()).expect_err("not there");
    assert!(error.to_string().contains("/no/such/release"), "{error}");
}
