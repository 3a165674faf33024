//! Git LFS with an unmodified git-lfs: pushed to Berth, fetched from it, deployed from there and from elsewhere.

use std::process::Stdio;

use serde_json::json;

use crate::{
    git_push::{Copy, git_in, rules_of, site},
    harness::Berth,
};

#[expect(clippy::disallowed_methods, reason = "the client of these tests is git-lfs itself")]
fn has_lfs() -> bool {
    let asked = std::process::Command::new("git-lfs").arg("version").stdout(Stdio::null()).status();
    let there = asked.is_ok_and(|status| status.success());
    if !there {
        println!("skipped: git-lfs is not installed (Debian: apt-get install git-lfs)");
    }
    there
}

/// A working copy that keeps `*.bin` in Git LFS.
async fn with_lfs(berth: &Berth, app: &str, token: &str) -> Copy {
    let copy = Copy::new(berth, app, token).await;
    copy.git(&["lfs", "install", "--local"]).await.ok();
    copy.git(&["lfs", "track", "*.bin"]).await.ok();
    copy.commit("index.html", "one").await;
    copy
}

fn content(kib: usize, seed: u8) -> Vec<u8> {
    (0..kib * 1024).map(|n| b'a' + ((n % 23 + n / 1000 + usize::from(seed)) % 26) as u8).collect()
}

async fn write(copy: &Copy, file: &str, content: &[u8]) {
    std::fs::write(copy.dir.path().join(file), content).unwrap();
    copy.git(&["add", "."]).await.ok();
    copy.git(&["commit", "--quiet", "-m", file]).await.ok();
}

async fn bytes(berth: &Berth, app: &str, path: &str) -> Vec<u8> {
    berth.visit(app, path).await.text.into_bytes()
}

#[tokio::test]
async fn what_git_lfs_pushes_is_deployed_and_comes_back_as_it_was() {
    if !has_lfs() {
        return;
    }
    let berth = Berth::without_docker().await;
    // The app is made by the push, whose objects come first.
    let copy = with_lfs(&berth, "web", &berth.token).await;
    let (large, small) = (content(3000, 1), content(5, 2));
    write(&copy, "large.bin", &large).await;
    write(&copy, "small.bin", &small).await;
    let said = copy.git(&["push", "berth", "main"]).await.ok();
    assert!(!said.err.contains("locking"), "{}", said.err);
    let said = said.says("Git LFS: 2 files").says("is live at");
    assert!(!said.err.contains(berth.data_dir().to_str().unwrap()), "{}", said.err);
    assert!(bytes(&berth, "web", "/large.bin").await == large);
    assert!(bytes(&berth, "web", "/small.bin").await == small);
    // Who clones gets the files, too.
    let other = tempfile::tempdir().unwrap();
    git_in(other.path(), &["lfs", "install", "--skip-repo"]).await.ok();
    git_in(other.path(), &["clone", "--quiet", &copy.url, "web"]).await.ok();
    assert!(std::fs::read(other.path().join("web/large.bin")).unwrap() == large);
    // What is there is not sent again; what was not sent is told, and rules leave it out.
    copy.git(&["lfs", "push", "--all", "berth"]).await.ok();
    write(&copy, "third.bin", &content(4, 3)).await;
    let failed = copy.git(&["-c", "core.hooksPath=/dev/null", "push", "berth", "main"]).await.ok();
    failed.says("FAILED").says("third.bin was not pushed with the commit").says("git lfs push --all");
    copy.git(&["lfs", "push", "--all", "berth"]).await.ok();
    copy.git(&["commit", "--quiet", "--allow-empty", "-m", "again"]).await.ok();
    copy.git(&["push", "berth", "main"]).await.ok().says("Git LFS: 3 files").says("is live at");
    rules_of(&berth, "web", json!({ "lfs": false })).await;
    copy.commit("index.html", "two").await;
    copy.git(&["push", "berth", "main"]).await.ok().says("is live at");
    assert!(berth.visit("web", "/large.bin").await.text.starts_with("version https://git-lfs"));
}

#[tokio::test]
async fn another_servers_objects_come_through_its_batch_api() {
    if !has_lfs() {
        return;
    }
    let forge = Berth::without_docker().await;
    site(&forge, "lib", "default").await;
    let reader = forge.token("reader", &["read"], &[]).await;
    let copy = with_lfs(&forge, "lib", &forge.token).await;
    let many: Vec<Vec<u8>> = (0..120).map(|n| content(1, n)).collect();
    for (n, content) in many.iter().enumerate() {
        std::fs::write(copy.dir.path().join(format!("{n}.bin")), content).unwrap();
    }
    copy.git(&["add", "."]).await.ok();
    copy.git(&["commit", "--quiet", "-m", "many"]).await.ok();
    copy.git(&["push", "--quiet", "berth", "main"]).await.ok();
    let flags = ["--allow-local-sources", "true", "--allow-private-sources", "true"];
    let berth = Berth::without_docker_with(&flags).await;
    site(&berth, "web", "default").await;
    let deploy = async |address: &str| {
        let body = json!({ "git_url": address });
        let begun = berth.rest().post("/v1/apps/web/deployments", body).await.ok();
        let name = begun["deployment"].as_str().unwrap().replace('#', "%23");
        berth.rest().get(&format!("/v1/deployments/{name}?wait_s=50")).await.ok()
    };
    let home = format!("{}/git/lib.git", forge.control_url);
    let body = json!({
        "git_url": home, "forge": "generic", "auth": "token", "access_token": reader, "poll_minutes": 0,
    });
    berth.rest().send(reqwest::Method::PUT, "/v1/apps/web/repository", Some(body)).await.ok();
    let live = deploy(&home).await;
    assert_eq!(live["state"], "live", "{live:#}");
    for n in [0, 77, 119] {
        assert!(bytes(&berth, "web", &format!("/{n}.bin")).await == many[n]);
    }
    // The objects of a repository that is open, at a server that is not.
    let open = tempfile::tempdir().unwrap();
    let with = ["-c", "filter.lfs.smudge=", "-c", "filter.lfs.required=false"];
    git_in(open.path(), &[&with[..], &["clone", "--quiet", &copy.url, "."]].concat()).await.ok();
    let at = format!("{}/git/lib.git/info/lfs", forge.control_url);
    std::fs::write(open.path().join(".lfsconfig"), format!("[lfs]\n\turl = {at}\n")).unwrap();
    git_in(open.path(), &["add", ".lfsconfig"]).await.ok();
    git_in(open.path(), &["commit", "--quiet", "-m", "elsewhere"]).await.ok();
    let failed = deploy(&format!("file://{}", open.path().display())).await;
    assert_eq!(failed["state"], "failed", "{failed:#}");
    let detail = failed["problem"]["detail"].as_str().unwrap();
    assert!(detail.contains("wants credentials"), "{detail}");
    assert!(!failed.to_string().contains(&reader));
}

#[tokio::test]
async fn objects_are_minded_like_the_repository() {
    let flags = ["--upload-max-mb", "1"];
    let mut berth = Berth::without_docker_with(&flags).await;
    site(&berth, "web", "default").await;
    berth.rest().post("/v1/projects", json!({ "name": "other" })).await.ok();
    let reader = berth.token("reader", &["read"], &[]).await;
    let stranger = berth.token("stranger", &["read", "deploy"], &["other"]).await;
    let content = b"an object".to_vec();
    let oid = "ff6d96c5a4d5b2f9a6e1b58c3b1b1f9d5b2f1f2a3d4c5b6a7980716253443526";
    let objects = "/git/web.git/info/lfs/objects";
    let batch = |operation: &str, oid: &str, size: u64| json!({ "operation": operation, "objects": [{ "oid": oid, "size": size }] });
    let ask = async |token: &str, method: reqwest::Method, path: &str, body: Vec<u8>| {
        let answer = berth.rest_as(token).request(method, path).body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let post = async |token: &str, path: &str, body: serde_json::Value| {
        ask(token, reqwest::Method::POST, path, body.to_string().into_bytes()).await
    };
    let put = reqwest::Method::PUT;
    // Not what its name says; no name; too large, announced or not; not allowed; not there.
    let all = format!("{objects}/batch");
    assert_eq!(ask(&berth.token, put.clone(), &format!("{objects}/{oid}"), content.clone()).await.0, 400);
    let upper = oid.to_uppercase();
    for odd in ["x", &upper, "..%2F..%2Fconfig"] {
        let path = format!("{objects}/{odd}");
        assert_eq!(ask(&berth.token, put.clone(), &path, content.clone()).await.0, 400, "{odd}");
        assert_eq!(ask(&berth.token, reqwest::Method::GET, &path, Vec::new()).await.0, 400, "{odd}");
    }
    let large = vec![7; 2 << 20];
    assert_eq!(ask(&berth.token, put.clone(), &format!("{objects}/{oid}"), large).await.0, 413);
    let told = post(&berth.token, &all, batch("upload", oid, 2 << 20)).await;
    assert!(told.0 == 200 && told.1.contains("upload_max_mb") | told.1.contains("1 MiB"), "{told:?}");
    assert_eq!(ask(&reader, put.clone(), &format!("{objects}/{oid}"), content.clone()).await.0, 403);
    assert_eq!(post(&reader, &all, batch("upload", oid, 9)).await.0, 403);
    assert_eq!(post(&reader, &all, batch("download", oid, 9)).await.0, 200);
    assert_eq!(post(&stranger, &all, batch("download", oid, 9)).await.0, 404);
    assert_eq!(post("wrong", &all, batch("download", oid, 9)).await.0, 401);
    assert_eq!(ask(&berth.token, reqwest::Method::GET, &format!("{objects}/{oid}"), Vec::new()).await.0, 404);
    assert_eq!(post(&berth.token, &all, json!({ "operation": "erase", "objects": [] })).await.0, 400);
    let odd = json!({ "operation": "upload", "transfers": ["tus"], "objects": [] });
    assert_eq!(post(&berth.token, &all, odd).await.0, 400);
    assert_eq!(
        post(&berth.token, &format!("{objects}/{oid}/verify"), json!({ "oid": oid, "size": 9 })).await.0,
        404
    );
    // An object, checked and fetched; across a kill.
    let oid = sha256(&content);
    let at = format!("{objects}/{oid}");
    let told = post(&berth.token, &all, batch("upload", &oid, 9)).await;
    assert!(told.1.contains(&format!("{}{at}", berth.control_url)), "{told:?}");
    assert_eq!(ask(&berth.token, put.clone(), &at, content.clone()).await.0, 200);
    assert_eq!(post(&berth.token, &format!("{at}/verify"), json!({ "oid": oid, "size": 9 })).await.0, 200);
    assert_eq!(post(&berth.token, &format!("{at}/verify"), json!({ "oid": oid, "size": 8 })).await.0, 404);
    let incoming = berth.data_dir().join("repos/1.git/lfs/incoming");
    assert_eq!(std::fs::read_dir(&incoming).unwrap().count(), 0, "nothing half is left");
    std::fs::write(incoming.join("left"), "by a kill").unwrap();
    berth.kill().await;
    berth.start_again().await;
    assert!(!incoming.exists());
    let answer = berth.rest_as(&reader).request(reqwest::Method::GET, &at).send().await.unwrap();
    assert_eq!(answer.headers()["content-length"], "9");
    assert_eq!(answer.bytes().await.unwrap(), content);
}

fn sha256(content: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(content)
        .iter()
        .fold(String::new(), |text, byte| text + format!("{byte:02x}").as_str())
}
