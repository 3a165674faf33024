//! Private repositories over SSH, at a real sshd on this machine: the key that Berth makes, the host key that it keeps,
//! and where files in Git LFS are, as that host says.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    git_push::{Copy, git_in, site},
    harness::Berth,
};

const SSHD: &str = "/usr/sbin/sshd";

/// An sshd with a configuration, keys and a port of its own.
struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    user: String,
    child: Option<tokio::process::Child>,
}

#[expect(clippy::disallowed_methods, reason = "tests start programs that Berth does not")]
async fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let out = tokio::process::Command::new(program).args(arguments).stdin(Stdio::null()).output().await;
    let out = out.map_err(|error| format!("{program}: {error}"))?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&out.stderr))),
    }
}

impl Sshd {
    /// Starts one, or says why the test is skipped.
    async fn start() -> Option<Self> {
        match Self::try_start().await {
            Ok(sshd) => Some(sshd),
            Err(why) => {
                println!("skipped: no sshd can be had here (Debian: apt-get install openssh-server): {why}");
                None
            }
        }
    }

    async fn try_start() -> Result<Self, String> {
        let user = run("id", &["-un"]).await?;
        if user == "root" {
            // As its init script does; other users' sshd does not want it.
            std::fs::create_dir_all("/run/sshd").map_err(|error| error.to_string())?;
        }
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        for name in ["one", "two"] {
            let file = dir.path().join(name);
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", file.to_str().unwrap()]).await?;
        }
        std::fs::write(dir.path().join("authorized_keys"), "").map_err(|error| error.to_string())?;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut sshd = Self { dir, port, user, child: None };
        sshd.run_with("one").await?;
        Ok(sshd)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs with one of the two host keys.
    #[expect(clippy::disallowed_methods, reason = "tests start programs that Berth does not")]
    async fn run_with(&mut self, key: &str) -> Result<(), String> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.map_err(|error| error.to_string())?;
        }
        let dir = self.dir.path().display();
        let path = std::env::var("PATH").unwrap_or_default();
        let lines = [
            format!("Port {}", self.port),
            "ListenAddress 127.0.0.1".into(),
            format!("HostKey {dir}/{key}"),
            format!("PidFile {dir}/pid"),
            format!("AuthorizedKeysFile {dir}/authorized_keys"),
            "StrictModes no".into(),
            "UsePAM no".into(),
            "PasswordAuthentication no".into(),
            "KbdInteractiveAuthentication no".into(),
            "PermitRootLogin prohibit-password".into(),
            format!("AllowUsers {}", self.user),
            format!("SetEnv PATH={dir}/bin:{path}"),
        ];
        let config = self.path("sshd_config");
        std::fs::write(&config, lines.join("\n") + "\n").map_err(|error| error.to_string())?;
        let log = std::fs::File::create(self.path("log")).map_err(|error| error.to_string())?;
        let child = tokio::process::Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.map_err(|error| error.to_string())?);
        for _ in 0..100 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(std::fs::read_to_string(self.path("log")).unwrap_or_default())
    }

    fn lets_in(&self, keys: &str) {
        std::fs::write(self.path("authorized_keys"), keys).unwrap();
    }

    fn url(&self, repository: &Path) -> String {
        format!("ssh://{}@127.0.0.1:{}{}", self.user, self.port, repository.display())
    }
}

/// A repository with a page.
async fn repository(sshd: &Sshd) -> PathBuf {
    let dir = sshd.path("site");
    std::fs::create_dir(&dir).unwrap();
    git_in(&dir, &["init", "--quiet", "."]).await.ok();
    page(&dir, "over ssh").await;
    dir
}

async fn page(dir: &Path, text: &str) {
    std::fs::write(dir.join("index.html"), text).unwrap();
    git_in(dir, &["add", "."]).await.ok();
    git_in(dir, &["commit", "--quiet", "-m", text]).await.ok();
}

/// Connects an app by a key that Berth makes; returns its public part.
async fn connect(berth: &Berth, url: &str) -> Value {
    site(berth, "web", "default").await;
    let body = json!({ "git_url": url, "forge": "generic", "auth": "deploy_key", "branch": "main", "poll_minutes": 0 });
    berth.rest().send(reqwest::Method::PUT, "/v1/apps/web/repository", Some(body)).await.ok()
}

async fn deployed(berth: &Berth, source: Value) -> Value {
    let begun = berth.rest().post("/v1/apps/web/deployments", source).await.ok();
    let name = begun["deployment"].as_str().unwrap().replace('#', "%23");
    berth.rest().get(&format!("/v1/deployments/{name}?wait_s=50")).await.ok()
}

#[track_caller]
fn failed(deployment: &Value, why: &str) {
    assert_eq!(deployment["state"], "failed", "{deployment:#}");
    let problem = deployment["problem"].to_string();
    assert!(problem.contains(why), "{why:?} is not in {problem}");
}

async fn start() -> Berth {
    Berth::without_docker_with(&["--allow-private-sources", "true"]).await
}

#[tokio::test]
async fn a_key_that_berth_made_opens_a_private_repository_at_the_host_that_was_seen() {
    let Some(mut sshd) = Sshd::start().await else { return };
    let repository = repository(&sshd).await;
    let url = sshd.url(&repository);
    let berth = start().await;
    let connected = connect(&berth, &url).await;
    let key = connected["public_key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("ssh-ed25519 "), "{connected:#}");
    // Nobody has let it in yet.
    failed(&deployed(&berth, json!({ "git_url": url })).await, "refused the credentials");
    sshd.lets_in(&format!("restrict {key}\n"));
    let live = deployed(&berth, json!({ "git_url": url })).await;
    assert_eq!(live["state"], "live", "{live:#}\n{}", std::fs::read_to_string(sshd.path("log")).unwrap());
    assert_eq!(berth.visit("web", "/").await.text, "over ssh");
    // The host's key is kept, and told as its owner tells it.
    let file = sshd.path("one.pub").display().to_string();
    let told = run("ssh-keygen", &["-l", "-f", &file]).await.unwrap();
    let fingerprint = told.split(' ').nth(1).unwrap().to_owned();
    let shown = berth.rest().get("/v1/apps/web/repository").await.ok();
    assert!(shown.to_string().contains(&fingerprint), "{fingerprint} is not in {shown:#}");
    // Another key is another host, whoever it lets in.
    sshd.run_with("two").await.unwrap();
    page(&repository, "from somebody else").await;
    failed(&deployed(&berth, json!({ "git_url": url })).await, "has changed");
    assert_eq!(berth.visit("web", "/").await.text, "over ssh");
    sshd.run_with("one").await.unwrap();
    assert_eq!(deployed(&berth, json!({ "git_url": url })).await["state"], "live");
    assert_eq!(berth.visit("web", "/").await.text, "from somebody else");
    // The key is the app's, and for its repository: another app, and another repository there, get nothing of it.
    berth.rest().post("/v1/apps", json!({ "name": "other", "settings": { "builder": "static" } })).await.ok();
    let begun = berth.rest().post("/v1/apps/other/deployments", json!({ "git_url": url })).await.ok();
    let name = begun["deployment"].as_str().unwrap().replace('#', "%23");
    let other = berth.rest().get(&format!("/v1/deployments/{name}?wait_s=50")).await.ok();
    failed(&other, "wants credentials");
    let elsewhere = sshd.url(&sshd.path("elsewhere"));
    failed(&deployed(&berth, json!({ "git_url": elsewhere })).await, "wants credentials");
    // No part of the private key is anywhere that is shown.
    let log = berth.log();
    assert!(!log.contains("PRIVATE KEY") && !shown.to_string().contains("PRIVATE KEY"));
    sshd.lets_in("");
    failed(&deployed(&berth, json!({ "git_url": url })).await, "refused the credentials");
}

#[tokio::test]
async fn an_address_inside_is_refused_where_nobody_allowed_it() {
    let Some(sshd) = Sshd::start().await else { return };
    let url = sshd.url(&repository(&sshd).await);
    let berth = Berth::without_docker().await;
    site(&berth, "web", "default").await;
    failed(&deployed(&berth, json!({ "git_url": url })).await, "loopback address");
}

#[tokio::test]
async fn files_in_git_lfs_come_from_where_the_host_says() {
    let Some(sshd) = Sshd::start().await else { return };
    if run("git-lfs", &["version"]).await.is_err() {
        println!("skipped: git-lfs is not installed (Debian: apt-get install git-lfs)");
        return;
    }
    // Another Berth keeps the files; the host of the repository sends there, and says with what.
    let keeper = Berth::without_docker().await;
    let copy = Copy::new(&keeper, "files", &keeper.token).await;
    copy.git(&["lfs", "install", "--local"]).await.ok();
    copy.git(&["lfs", "track", "*.bin"]).await.ok();
    std::fs::write(copy.dir.path().join("a.bin"), "kept elsewhere").unwrap();
    copy.commit("index.html", "one").await;
    copy.git(&["push", "--quiet", "berth", "main"]).await.ok();
    let reader = keeper.token("reader", &["read"], &[]).await;
    let says = json!({
        "href": format!("{}/git/files.git/info/lfs", keeper.control_url),
        "header": { "Authorization": format!("Bearer {reader}") },
        "expires_in": 60,
    });
    std::fs::create_dir(sshd.path("bin")).unwrap();
    let program = sshd.path("bin/git-lfs-authenticate");
    let asked = sshd.path("asked");
    std::fs::write(&program, format!("#!/bin/sh\necho \"$@\" > {}\ncat <<'E'\n{says}\nE\n", asked.display()))
        .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();

    let flags = ["--allow-private-sources", "true", "--allow-local-sources", "true"];
    let berth = Berth::without_docker_with(&flags).await;
    let url = sshd.url(copy.dir.path());
    let connected = connect(&berth, &url).await;
    sshd.lets_in(connected["public_key"].as_str().unwrap());
    let live = deployed(&berth, json!({ "git_url": url })).await;
    assert_eq!(live["state"], "live", "{live:#}");
    assert_eq!(berth.visit("web", "/a.bin").await.text, "kept elsewhere");
    let asked = std::fs::read_to_string(asked).unwrap();
    assert_eq!(asked.trim(), format!("{} download", copy.dir.path().display()));
    assert!(!live.to_string().contains(&reader));
    let log = berth.rest().get("/v1/deployments/web%231/log?limit=1000").await.ok().to_string();
    assert!(log.contains("Git LFS: 1 files") && !log.contains(&reader), "{log}");
    // A host that knows nothing of Git LFS is told as one.
    std::fs::remove_file(program).unwrap();
    copy.commit("index.html", "two").await;
    failed(&deployed(&berth, json!({ "git_url": url })).await, "does not say where its server is");
}
