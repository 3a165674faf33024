//! `git push` to Berth with an unmodified git: what its user types, what it prints, how it exits.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::{Value, json};

use crate::harness::Berth;

/// A working copy, and the way to one app's repository.
pub(crate) struct Copy {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) url: String,
}

/// What git said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "{text:?} is not in:\n{}", self.err);
        self
    }

    #[track_caller]
    pub(crate) fn fails(self) -> Self {
        assert_ne!(self.code, 0, "{}\n{}", self.out, self.err);
        self
    }
}

#[expect(clippy::disallowed_methods, reason = "the client of these tests is git itself")]
pub(crate) async fn git_in(dir: &Path, arguments: &[&str]) -> Said {
    let output = tokio::process::Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"])
        .args(["-c", "protocol.version=2", "-c", "credential.helper="])
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output =
        tokio::time::timeout(Duration::from_secs(120), output).await.expect("git ends").expect("git");
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The address of an app's repository with a token in it.
pub(crate) fn url(berth: &Berth, app: &str, token: &str) -> String {
    let rest = berth.control_url.strip_prefix("http://").expect("http");
    format!("http://git:{token}@{rest}/git/{app}.git")
}

impl Copy {
    pub(crate) async fn new(berth: &Berth, app: &str, token: &str) -> Self {
        let copy = Self { dir: tempfile::tempdir().expect("a directory"), url: url(berth, app, token) };
        copy.git(&["init", "--quiet", "."]).await.ok();
        copy.git(&["remote", "add", "berth", &copy.url]).await.ok();
        copy
    }

    pub(crate) async fn git(&self, arguments: &[&str]) -> Said {
        git_in(self.dir.path(), arguments).await
    }

    pub(crate) async fn commit(&self, file: &str, text: &str) -> String {
        let path = self.dir.path().join(file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
        self.git(&["add", "."]).await.ok();
        self.git(&["commit", "--quiet", "-m", &format!("{text} in {file}")]).await.ok();
        self.head().await
    }

    async fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"]).await.ok().out.trim().to_owned()
    }

    /// Where the branches and tags of the repository are.
    pub(crate) async fn remote(&self) -> String {
        self.git(&["ls-remote", "berth"]).await.ok().out
    }
}

pub(crate) async fn with_site(name: &str) -> (Berth, Copy) {
    let berth = Berth::without_docker().await;
    site(&berth, name, "default").await;
    let copy = Copy::new(&berth, name, &berth.token).await;
    (berth, copy)
}

pub(crate) async fn site(berth: &Berth, name: &str, project: &str) {
    let settings = json!({ "builder": "static" });
    let body = json!({ "name": name, "project": project, "settings": settings });
    berth.rest().post("/v1/apps", body).await.ok();
}

pub(crate) async fn rules_of(berth: &Berth, app: &str, rules: Value) {
    let path = format!("/v1/apps/{app}/push-rules");
    berth.rest().send(reqwest::Method::PATCH, &path, Some(json!({ "rules": rules }))).await.ok();
}

pub(crate) async fn pushes(berth: &Berth, app: &str) -> Vec<Value> {
    let page = berth.rest().get(&format!("/v1/apps/{app}/pushes?limit=100")).await.ok();
    page["pushes"].as_array().expect("pushes").clone()
}

async fn serves(berth: &Berth, app: &str, text: &str) {
    for _ in 0..200 {
        if berth.visit(app, "/").await.text == text {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{text:?} is never served, but {:?}", berth.visit(app, "/").await.text);
}

#[tokio::test]
async fn a_push_deploys_and_its_user_sees_how() {
    let (berth, copy) = with_site("web").await;
    copy.commit("index.html", "one").await;
    let said = copy.git(&["push", "berth", "main"]).await.ok();
    said.says("remote: main: web#1 deploys it to production")
        .says("remote: web#1 is live at http://web.localhost");
    assert_eq!(berth.visit("web", "/").await.text, "one");
    // Another branch is kept and not deployed; its user hears why.
    copy.git(&["checkout", "--quiet", "-b", "idea"]).await.ok();
    let idea = copy.commit("index.html", "idea").await;
    copy.git(&["push", "berth", "idea"]).await.ok().says("remote: idea is not deployed");
    // Who clones gets all of it.
    let other = tempfile::tempdir().unwrap();
    git_in(other.path(), &["clone", "--quiet", &copy.url, "web"]).await.ok();
    let cloned = other.path().join("web");
    assert_eq!(std::fs::read_to_string(cloned.join("index.html")).unwrap(), "one", "HEAD is main");
    git_in(&cloned, &["checkout", "--quiet", "idea"]).await.ok();
    // Forced back, deleted, tagged.
    copy.git(&["checkout", "--quiet", "main"]).await.ok();
    copy.git(&["commit", "--quiet", "--amend", "-m", "anew"]).await.ok();
    copy.git(&["push", "berth", "main"]).await.fails().says("non-fast-forward");
    copy.git(&["push", "--force", "berth", "main"]).await.ok().says("web#");
    git_in(&cloned, &["fetch", "--quiet"]).await.ok();
    let fetched = git_in(&cloned, &["rev-parse", "origin/main"]).await.ok().out;
    assert_eq!(fetched.trim(), copy.head().await);
    copy.git(&["push", "berth", "--delete", "main"]).await.fails().says("production");
    copy.git(&["push", "berth", "--delete", "idea"]).await.ok();
    assert!(!copy.remote().await.contains(&idea));
    copy.git(&["tag", "-a", "v1", "-m", "first"]).await.ok();
    copy.git(&["push", "berth", "v1"]).await.ok().says("is not deployed");
    rules_of(&berth, "web", json!({ "deploy_tags": ["v*"] })).await;
    copy.commit("index.html", "two").await;
    copy.git(&["tag", "v2"]).await.ok();
    copy.git(&["push", "-o", "skip", "berth", "main"]).await.ok().says("the pusher asked to skip it");
    assert_eq!(berth.visit("web", "/").await.text, "one");
    copy.git(&["push", "berth", "v2"]).await.ok().says("is live at");
    assert_eq!(berth.visit("web", "/").await.text, "two");
    copy.git(&["push", "-o", "nonsense", "berth", "main:other"]).await.fails().says("no push option");
    let all = pushes(&berth, "web").await;
    let states: Vec<&str> = all.iter().rev().map(|p| p["state"].as_str().unwrap()).collect();
    assert_eq!(
        states,
        ["handled", "ignored", "handled", "ignored", "ignored", "ignored", "handled"],
        "{all:#?}"
    );
    assert!(!all.iter().any(|p| p.to_string().contains(&berth.token)));
}

#[tokio::test]
async fn a_token_decides_who_may_fetch_and_push() {
    let (berth, copy) = with_site("web").await;
    copy.commit("index.html", "one").await;
    copy.git(&["push", "--quiet", "berth", "main"]).await.ok();
    berth.rest().post("/v1/projects", json!({ "name": "other" })).await.ok();
    site(&berth, "theirs", "other").await;
    let reader = berth.token("reader", &["read"], &[]).await;
    let stranger = berth.token("stranger", &["read", "deploy"], &["other"]).await;
    let as_whom = async |token: &str, app: &str, arguments: &[&str]| {
        let mut all: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        all.push(url(&berth, app, token));
        all.extend((arguments[0] == "push").then(|| "main:more".to_owned()));
        copy.git(&all.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    as_whom("wrong", "web", &["ls-remote"]).await.fails().says("Authentication failed");
    as_whom(&reader, "web", &["ls-remote"]).await.ok();
    as_whom(&reader, "web", &["push"]).await.fails().says("needs the scope deploy");
    // What one may not see is not there, whether it exists or not.
    let foreign = as_whom(&stranger, "web", &["push"]).await.fails().says("not found").err;
    let nowhere = as_whom(&stranger, "wub", &["push"]).await.fails().err;
    assert_eq!(foreign.replace("web", "wub"), nowhere);
    as_whom(&stranger, "theirs", &["push"]).await.ok();
    // Without a token git asks for one, and a Bearer token is as good.
    let anonymous = format!("{}/git/web.git", berth.control_url);
    copy.git(&["ls-remote", &anonymous]).await.fails().says("could not read Username");
    let header = format!("http.extraHeader=Authorization: Bearer {reader}");
    copy.git(&["-c", &header, "ls-remote", &anonymous]).await.ok();
}

#[tokio::test]
async fn strict_refuses_a_push_whose_deployment_fails() {
    let (mut berth, copy) = with_site("web").await;
    rules_of(&berth, "web", json!({ "result": "strict" })).await;
    let good = copy.commit("index.html", "one").await;
    copy.git(&["push", "berth", "main"]).await.ok().says("web#1 is live");
    assert!(copy.remote().await.contains(&good));
    let settings = json!({ "settings": { "root_directory": "site" } });
    berth.rest().send(reqwest::Method::PATCH, "/v1/apps/web", Some(settings)).await.ok();
    let bad = copy.commit("index.html", "two").await;
    let said = copy.git(&["push", "berth", "main"]).await.fails();
    said.says("remote: web#2 FAILED").says("[remote rejected] main -> main (web#2 failed");
    assert!(!copy.remote().await.contains(&bad), "the branch has not moved");
    assert_eq!(berth.visit("web", "/").await.text, "one");
    // The same commit again is a push anew.
    let settings = json!({ "settings": {}, "unset": ["root_directory"] });
    berth.rest().send(reqwest::Method::PATCH, "/v1/apps/web", Some(settings)).await.ok();
    copy.git(&["push", "berth", "main"]).await.ok().says("web#3 is live");
    assert!(copy.remote().await.contains(&bad));
    // What does not deploy moves at once.
    copy.git(&["push", "berth", "main:idea"]).await.ok().says("idea is not deployed");
    // Without strict a failure is told, and the branch has moved.
    rules_of(&berth, "web", json!({ "result": "follow" })).await;
    let settings = json!({ "settings": { "root_directory": "site" } });
    berth.rest().send(reqwest::Method::PATCH, "/v1/apps/web", Some(settings)).await.ok();
    let bad = copy.commit("index.html", "three").await;
    copy.git(&["push", "berth", "main"]).await.ok().says("remote: web#4 FAILED");
    assert!(copy.remote().await.contains(&bad));
    let states: Vec<String> =
        pushes(&berth, "web").await.iter().rev().map(|p| p["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["handled", "refused", "handled", "ignored", "handled"]);
    // The cause corrected, the same push is decided once more; one that is live is not.
    let settings = json!({ "settings": {}, "unset": ["root_directory"] });
    berth.rest().send(reqwest::Method::PATCH, "/v1/apps/web", Some(settings)).await.ok();
    let failed = pushes(&berth, "web").await[0]["push"].as_i64().unwrap();
    let retry = format!("/v1/apps/web/pushes/{failed}/retry");
    let again = berth.rest().post(&retry, json!({})).await.ok();
    assert_eq!(again["push"]["deployments"], json!(["web#4", "web#5"]), "{again:#}");
    serves(&berth, "web", "three").await;
    let refused = berth.rest().post(&retry, json!({})).await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    assert!(refused.text.contains("no_cache=true"), "{}", refused.text);
    // Who names no source gets what was pushed last.
    let same = berth.rest().post("/v1/apps/web/deployments", json!({ "wait_s": 20 })).await.ok();
    assert_eq!((&same["nothing_new"], &same["deployment"]), (&json!(true), &json!("web#5")), "{same:#}");
    let anew = json!({ "wait_s": 20, "no_cache": true });
    let anew = berth.rest().post("/v1/apps/web/deployments", anew).await.ok();
    assert_eq!((&anew["state"], &anew["source"]["commit"]), (&json!("live"), &json!(bad)), "{anew:#}");
    berth.terminate().await;
}

#[tokio::test]
async fn of_a_hundred_pushes_the_newest_is_live_and_none_is_lost_across_a_kill() {
    let (mut berth, copy) = with_site("web").await;
    rules_of(&berth, "web", json!({ "result": "accept" })).await;
    let mut commits = Vec::new();
    for n in 0..100 {
        commits.push(copy.commit("index.html", &format!("page {n}")).await);
        if n % 33 == 20 {
            // Killed in the middle of a push: whatever that came to, the next one goes through.
            let spec = format!("{}:main", commits[n]);
            let arguments = ["push", "--quiet", "berth", &spec];
            let push = copy.git(&arguments);
            let kill = async {
                tokio::time::sleep(Duration::from_millis(n as u64)).await;
                berth.kill().await;
            };
            tokio::join!(push, kill);
            berth.start_again().await;
            copy.git(&["remote", "set-url", "berth", &url(&berth, "web", &berth.token)]).await.ok();
            continue;
        }
        copy.git(&["push", "--quiet", "berth", "main"]).await.ok();
    }
    serves(&berth, "web", "page 99").await;
    assert!(copy.remote().await.contains(&format!("{}\trefs/heads/main", commits[99])));
    let told = pushes(&berth, "web").await;
    for (n, commit) in commits.iter().enumerate() {
        let of: Vec<&Value> = told.iter().filter(|p| p["change"]["commit"] == *commit).collect();
        assert!(of.len() == 1 || n % 33 == 20 && of.is_empty(), "{commit}: {of:#?}");
        if let Some(push) = of.first() {
            assert!(["handled", "superseded"].contains(&push["state"].as_str().unwrap()), "{push:#}");
        }
    }
    let deployments = berth.rest().get("/v1/apps/web/deployments?limit=100").await.ok();
    let deployments = deployments["deployments"].as_array().unwrap();
    assert_eq!((&deployments[0]["commit"], &deployments[0]["state"]), (&json!(commits[99]), &json!("live")));
    let live = deployments.iter().filter(|d| d["state"] == "live").count();
    assert_eq!(live, 1, "{deployments:#?}");
    let by_commit: std::collections::HashSet<&str> =
        deployments.iter().filter_map(|d| d["commit"].as_str()).collect();
    assert_eq!(by_commit.len(), deployments.len(), "a commit was deployed twice");
}

#[tokio::test]
async fn what_git_should_not_send_is_refused_and_changes_nothing() {
    let berth = Berth::without_docker_with(&["--upload-max-mb", "1"]).await;
    site(&berth, "web", "default").await;
    let copy = Copy::new(&berth, "web", &berth.token).await;
    let good = copy.commit("index.html", "one").await;
    copy.git(&["push", "--quiet", "berth", "main"]).await.ok();
    let before = copy.remote().await;
    // Too large: incompressible.
    noise(&copy, 3 << 20);
    copy.commit("about.html", "with noise").await;
    copy.git(&["push", "berth", "main"]).await.fails().says("upload_max_mb");
    copy.git(&["reset", "--quiet", "--hard", &good]).await.ok();
    // Refs that are none of a user's business.
    copy.git(&["push", "berth", "main:refs/notes/x"]).await.fails().says("only branches and tags");
    copy.git(&["push", "berth", "main:refs/heads/HEAD"]).await.fails().says("another one");
    copy.git(&["push", "berth", "main^{tree}:refs/heads/tree"]).await.fails().says("cannot point to a tree");
    // Objects that would do harm where they are checked out.
    copy.git(&["update-index", "--add", "--cacheinfo", "100644", &blob(&copy).await, "good"]).await.ok();
    let tree = tree_with(&copy, b"100644 .git\0").await;
    let commit = copy.git(&["commit-tree", "-m", "x", "-p", &good, &tree]).await.ok().out;
    copy.git(&["push", "berth", &format!("{}:refs/heads/evil", commit.trim())]).await.fails().says(".git");
    // Bytes that are no push, or a pack that was changed on its way.
    let post = async |body: Vec<u8>| {
        let request = berth.rest().request(reqwest::Method::POST, "/git/web.git/git-receive-pack");
        let answer = request.body(body).send().await.unwrap();
        (answer.status().as_u16(), String::from_utf8_lossy(&answer.bytes().await.unwrap()).into_owned())
    };
    assert_eq!(post(b"zzzz".to_vec()).await.0, 400);
    assert_eq!(post(b"0000".to_vec()).await.0, 200, "so git asks whether it may push at all");
    let line = format!("{} {good} refs/heads/x\0report-status", "0".repeat(40));
    let mut body = format!("{:04x}{line}0000", line.len() + 4).into_bytes();
    body.extend_from_slice(b"PACK\0\0\0\x02\0\0\0\x01garbage that is no object at all");
    let (status, text) = post(body).await;
    assert!(status == 200 && text.contains("ng refs/heads/x"), "{status} {text}");
    assert_eq!(copy.remote().await, before);
    let left = std::fs::read_dir(berth.data_dir().join("repos/1.git/objects")).unwrap();
    let left: Vec<_> =
        left.map(|e| e.unwrap().file_name()).filter(|n| n.to_string_lossy().contains("incoming")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Writes a file that no compression makes smaller.
pub(crate) fn noise(copy: &Copy, bytes: usize) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(copy.dir.path().join("noise")).unwrap());
    let mut state = 88_172_645_463_325_252_u64;
    for _ in 0..bytes / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        std::io::Write::write_all(&mut file, &state.to_le_bytes()).unwrap();
    }
}

async fn blob(copy: &Copy) -> String {
    copy.git(&["hash-object", "-w", "index.html"]).await.ok().out.trim().to_owned()
}

/// Writes a tree with one entry that git itself would not write.
async fn tree_with(copy: &Copy, entry: &[u8]) -> String {
    let blob = blob(copy).await;
    let mut tree = entry.to_vec();
    tree.extend((0..20).map(|n| u8::from_str_radix(&blob[2 * n..2 * n + 2], 16).unwrap()));
    let file = copy.dir.path().join(".git/evil-tree");
    std::fs::write(&file, tree).unwrap();
    let file = file.display().to_string();
    copy.git(&["hash-object", "-t", "tree", "--literally", "-w", &file]).await.ok().out.trim().to_owned()
}

#[tokio::test]
async fn two_pushers_a_part_of_the_history_and_many_refs_at_once() {
    let (berth, copy) = with_site("web").await;
    rules_of(&berth, "web", json!({ "result": "accept" })).await;
    copy.commit("index.html", "one").await;
    copy.git(&["push", "--quiet", "berth", "main"]).await.ok();
    // A clone of the newest commit alone pushes back.
    let top = tempfile::tempdir().unwrap();
    git_in(top.path(), &["clone", "--quiet", "--depth=1", &copy.url, "cut"]).await.ok();
    let cut = Copy { dir: top, url: copy.url.clone() };
    let cut_dir = cut.dir.path().join("cut");
    std::fs::write(cut_dir.join("index.html"), "cut").unwrap();
    git_in(&cut_dir, &["commit", "--quiet", "-am", "cut"]).await.ok();
    git_in(&cut_dir, &["push", "--quiet", "origin", "main"]).await.ok();
    serves(&berth, "web", "cut").await;
    // The other has not seen that.
    copy.commit("index.html", "mine").await;
    copy.git(&["push", "berth", "main"]).await.fails().says("fetch first");
    // Both at the same moment: one of them wins, and the repository is whole.
    copy.git(&["pull", "--quiet", "--rebase", "-X", "theirs", "berth", "main"]).await.ok();
    std::fs::write(cut_dir.join("index.html"), "other").unwrap();
    git_in(&cut_dir, &["commit", "--quiet", "-am", "other"]).await.ok();
    let (a, b) = tokio::join!(
        copy.git(&["push", "--quiet", "berth", "main"]),
        git_in(&cut_dir, &["push", "--quiet", "origin", "main"])
    );
    assert_eq!([a.code, b.code].iter().filter(|c| **c == 0).count(), 1, "{}\n{}", a.err, b.err);
    let won = if a.code == 0 { "mine" } else { "other" };
    serves(&berth, "web", won).await;
    // Of a history that is cut elsewhere, an app's repository takes what there is.
    site(&berth, "api", "default").await;
    let api = url(&berth, "api", &berth.token);
    git_in(&cut_dir, &["push", "--quiet", &api, "HEAD:main"]).await.ok();
    serves(&berth, "api", "other").await;
    git_in(&cut_dir, &["clone", "--quiet", &api, "again"]).await.ok();
    // Many refs at once, and all or none where that is asked for.
    let names: Vec<String> = (0..200).map(|n| format!("main:refs/heads/many/{n}")).collect();
    let mut all = vec!["push", "--quiet", "berth"];
    all.extend(names.iter().map(String::as_str));
    copy.git(&["fetch", "--quiet", "berth"]).await.ok();
    copy.git(&["reset", "--quiet", "--hard", "berth/main"]).await.ok();
    copy.git(&all).await.ok();
    assert_eq!(copy.remote().await.matches("refs/heads/many/").count(), 200);
    let refused = copy.git(&["push", "--atomic", "berth", "main:good", "main:refs/notes/bad"]).await.fails();
    refused.says("atomic");
    assert!(!copy.remote().await.contains("refs/heads/good"));
}

#[tokio::test]
async fn a_large_file_is_streamed() {
    let (berth, copy) = with_site("web").await;
    rules_of(&berth, "web", json!({ "result": "accept" })).await;
    copy.commit("index.html", "small").await;
    copy.git(&["push", "--quiet", "berth", "main"]).await.ok();
    let rss = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", berth.pid())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
    };
    let before = rss();
    noise(&copy, 200 << 20);
    copy.commit("about.html", "large").await;
    let push = copy.git(&[
        "-c",
        "core.bigFileThreshold=1m",
        "-c",
        "core.compression=0",
        "push",
        "berth",
        "main:large",
    ]);
    let most = async {
        let mut most = 0;
        loop {
            most = most.max(rss());
            tokio::time::sleep(Duration::from_millis(50)).await;
            if most > before + 100 {
                return most;
            }
        }
    };
    let said = tokio::select! {
        said = push => said,
        most = most => panic!("the daemon took {most} MiB, and {before} MiB before"),
    };
    said.ok().says("large is not deployed");
    let grown = rss().saturating_sub(before);
    println!("{before} MiB before, {grown} MiB more after");
    assert!(grown < 60, "the daemon kept {grown} MiB");
}

#[tokio::test]
async fn a_branch_has_its_preview_while_it_is_there() {
    let (berth, copy) = with_site("web").await;
    let settings = json!({ "settings": { "previews": "branches" } });
    berth.rest().send(reqwest::Method::PATCH, "/v1/apps/web", Some(settings)).await.ok();
    copy.commit("index.html", "one").await;
    copy.git(&["push", "--quiet", "berth", "main"]).await.ok();
    copy.git(&["checkout", "--quiet", "-b", "idea"]).await.ok();
    copy.commit("index.html", "idea").await;
    copy.git(&["push", "berth", "idea"]).await.ok().says("is live at http://idea--web.localhost");
    assert_eq!(berth.visit("idea--web", "/").await.text, "idea");
    assert_eq!(berth.visit("web", "/").await.text, "one");
    copy.git(&["push", "berth", "--delete", "idea"]).await.ok().says("its preview is removed");
}

#[tokio::test]
async fn a_pushed_commit_brings_its_submodules() {
    let berth = Berth::without_docker_with(&["--allow-local-sources", "true"]).await;
    site(&berth, "web", "default").await;
    let lib = tempfile::tempdir().unwrap();
    git_in(lib.path(), &["init", "--quiet", "."]).await.ok();
    std::fs::write(lib.path().join("lib.txt"), "of a submodule").unwrap();
    git_in(lib.path(), &["add", "."]).await.ok();
    git_in(lib.path(), &["commit", "--quiet", "-m", "lib"]).await.ok();
    let copy = Copy::new(&berth, "web", &berth.token).await;
    let home = format!("file://{}", lib.path().display());
    let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", &home, "lib"];
    copy.git(&add).await.ok();
    copy.commit("index.html", "one").await;
    copy.git(&["push", "berth", "main"]).await.ok().says("submodule lib at").says("is live at");
    assert_eq!(berth.visit("web", "/lib/lib.txt").await.text, "of a submodule");
    // Beside a repository on Berth there is no other.
    copy.git(&["config", "-f", ".gitmodules", "submodule.lib.url", "../lib.git"]).await.ok();
    copy.commit("index.html", "two").await;
    copy.git(&["push", "berth", "main"]).await.ok().says("its address is relative").says("push_rules_set");
    // Where the app's repository is at home, there is.
    let beside = format!("file://{}/site.git", lib.path().display());
    let settings = json!({ "settings": { "git_url": beside } });
    berth.rest().send(reqwest::Method::PATCH, "/v1/apps/web", Some(settings)).await.ok();
    copy.git(&["config", "-f", ".gitmodules", "submodule.lib.url", "../"]).await.ok();
    copy.commit("index.html", "three").await;
    copy.git(&["push", "berth", "main"]).await.ok().says("its relative address leads nowhere");
    copy.git(&["config", "-f", ".gitmodules", "submodule.lib.url", "../.git"]).await.ok();
    copy.commit("index.html", "four").await;
    copy.git(&["push", "berth", "main"]).await.ok().says("is live at");
    assert_eq!(berth.visit("web", "/lib/lib.txt").await.text, "of a submodule");
    // Without, where that is wished.
    rules_of(&berth, "web", json!({ "submodules": false })).await;
    copy.commit("index.html", "five").await;
    copy.git(&["push", "berth", "main"]).await.ok().says("is live at");
    assert_eq!(berth.visit("web", "/lib/lib.txt").await.status, 404);
}

#[tokio::test]
async fn the_first_push_makes_the_app_if_its_pusher_may() {
    let flags = ["--control-hosts", "panel.localhost"];
    let berth = Berth::without_docker_with(&flags).await;
    for project in ["one", "two"] {
        berth.rest().post("/v1/projects", json!({ "name": project })).await.ok();
    }
    let deployer = berth.token("deployer", &["read", "deploy"], &[]).await;
    let writer = berth.token("writer", &["read", "deploy", "write"], &["one"]).await;
    let both = berth.token("both", &["read", "deploy", "write"], &["one", "two"]).await;
    let copy = Copy::new(&berth, "fresh", &berth.token).await;
    copy.commit("index.html", "one").await;
    let push = async |app: &str, token: &str, more: &[&str]| {
        let url = url(&berth, app, token);
        copy.git(&[&["push"], more, &[&url, "main"]].concat()).await
    };
    // Looking, or asking what would be pushed, makes nothing.
    copy.git(&["ls-remote", "berth"]).await.fails().says("not found");
    push("fresh", &berth.token, &["--dry-run"]).await.ok();
    assert_eq!(berth.rest().get("/v1/apps/fresh").await.status, 404);
    let said = copy.git(&["push", "berth", "main"]).await.ok();
    said.says("remote: The app fresh is new: made in the project default.")
        .says("remote: fresh#1 is live at http://fresh.localhost");
    assert_eq!(berth.visit("fresh", "/").await.text, "one");
    // Where to push is told.
    let shown = berth.rest().get("/v1/apps/fresh").await.ok();
    assert_eq!(shown["git_remote"], format!("{}/git/fresh.git", berth.control_url));
    let said = copy.git(&["push", "berth", "main:idea"]).await.ok();
    assert!(!said.err.contains("is new"), "{}", said.err);
    // The project of a token that has one; not clear with two; not without the scope, which says nothing of others'.
    push("ones", &writer, &[]).await.ok().says("made in the project one");
    push("either", &both, &[]).await.fails().says("is for several");
    push("late", &deployer, &[]).await.fails().says("not found");
    push("fresh", &writer, &[]).await.fails().says("The app name fresh is taken");
    // Names that are none, and that of Berth itself.
    for (name, why) in [
        ("Fresh", "lower-case"),
        ("a--b", "single hyphens"),
        ("1st", "starting with a letter"),
        (&"x".repeat(41), "1 to 40"),
        ("panel", "Berth's own address"),
    ] {
        push(name, &berth.token, &[]).await.fails().says("remote: ").says(why);
    }
    let made = berth.rest().post("/v1/apps", json!({ "name": "panel" })).await;
    assert!(made.status == 400 && made.text.contains("Berth's own address"), "{}", made.text);
    let apps = berth.rest().get("/v1/apps").await.ok();
    let names: Vec<&str> =
        apps["apps"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["fresh", "ones"]);
    let events = berth.rest().get("/v1/events?limit=50").await.ok().to_string();
    assert!(events.contains("App ones was created."), "{events}");
}

#[tokio::test]
async fn a_kill_in_a_strict_push_leaves_the_branch_where_its_release_is() {
    let (mut berth, copy) = with_site("web").await;
    rules_of(&berth, "web", json!({ "result": "strict" })).await;
    copy.commit("index.html", "page 0").await;
    copy.git(&["push", "berth", "main"]).await.ok();
    for n in 1..12_u64 {
        copy.commit("index.html", &format!("page {n}")).await;
        let arguments = ["push", "--quiet", "berth", "main"];
        let push = copy.git(&arguments);
        let kill = async {
            tokio::time::sleep(Duration::from_millis(25 * n)).await;
            berth.kill().await;
        };
        let (said, ()) = tokio::join!(push, kill);
        berth.start_again().await;
        copy.git(&["remote", "set-url", "berth", &url(&berth, "web", &berth.token)]).await.ok();
        // What was begun ends one way or the other, and then branch and release agree.
        let mut left = Vec::new();
        for _ in 0..200 {
            left = pushes(&berth, "web").await;
            left.retain(|push| push["state"] == "received");
            let deployments = berth.rest().get("/v1/apps/web/deployments?limit=20").await.ok();
            let settled = |d: &Value| {
                ["live", "failed", "retired", "superseded", "cancelled", "rolled_back"]
                    .contains(&d["state"].as_str().unwrap())
            };
            if left.is_empty() && deployments["deployments"].as_array().unwrap().iter().all(settled) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(left.is_empty(), "{n}: {left:#?}");
        let mut agreed = (String::new(), String::new());
        for _ in 0..100 {
            let head = copy.remote().await;
            let head = head.lines().find(|l| l.ends_with("refs/heads/main")).unwrap()[..40].to_owned();
            let at = copy.git(&["show", &format!("{head}:index.html")]).await.ok().out;
            agreed = (at, berth.visit("web", "/").await.text);
            if agreed.0 == agreed.1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(agreed.0, agreed.1, "{n}: the branch and what is served; the pusher heard {}", said.err);
        if said.code == 0 {
            assert_eq!(agreed.1, format!("page {n}"), "a push that went through is lost");
        }
    }
    copy.git(&["push", "berth", "main"]).await.ok();
    serves(&berth, "web", "page 11").await;
    berth.terminate().await;
}
