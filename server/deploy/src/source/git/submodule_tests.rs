use std::sync::Arc;

use super::*;

/// Has one credential, for the addresses that begin so.
#[derive(Debug)]
struct Known(&'static str, String);

#[async_trait::async_trait]
impl Identities for Known {
    async fn towards(&self, url: &GitUrl) -> Result<Identity, berth_schemas::Problem> {
        let credential = GitCredential { user: None, secret: self.0.to_owned() };
        let credential = url.as_str().starts_with(&self.1).then_some(credential);
        Ok(Identity { credential, ssh: SshIdentity::default() })
    }
}

fn with(who: Known) -> Option<Submodules> {
    Some(Submodules { allow_local: true, base: None, who: Arc::new(who) })
}

fn nobody() -> Option<Submodules> {
    with(Known("", "nowhere".into()))
}

impl World {
    /// Another repository beside the first, with one file of its name.
    async fn other(&self, name: &str) -> PathBuf {
        let dir = self.top.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        git(&dir, &["init", "-q", "-b", "main"]).await;
        std::fs::write(dir.join(format!("{name}.txt")), name).unwrap();
        git(&dir, &["add", "-A"]).await;
        git(&dir, &["commit", "-q", "-m", name]).await;
        dir
    }
}

/// Adds a submodule and commits it.
async fn add(to: &Path, url: &str, path: &str) {
    let home = ["remote", "add", "origin", to.to_str().unwrap()];
    if git(to, &["remote"]).await.is_empty() {
        git(to, &home).await;
    }
    let file = "protocol.file.allow=always";
    git(to, &["-c", file, "submodule", "--quiet", "add", "--name", path, "--", url, path]).await;
    git(to, &["commit", "-q", "-m", "with a submodule"]).await;
}

#[tokio::test]
async fn submodules_come_at_their_recorded_commits_with_their_own() {
    let world = World::new().await;
    let (lib, deep) = (world.other("lib").await, world.other("deep").await);
    add(&lib, &format!("file://{}", deep.display()), "inner/deep").await;
    add(&world.repo, "../lib", "libs/lib").await;
    // What comes later is not what was recorded.
    std::fs::write(lib.join("lib.txt"), "newer").unwrap();
    git(&lib, &["commit", "-q", "-a", "-m", "newer"]).await;

    let mut request = world.request(None);
    world.fetch(&request).await.unwrap();
    assert!(!world.dest().join("libs/lib/lib.txt").exists(), "only where it is asked for");
    request.submodules = nobody();
    let checkout = world.fetch(&request).await.unwrap();
    assert_eq!(world.read("libs/lib/lib.txt"), "lib");
    assert_eq!(world.read("libs/lib/inner/deep/deep.txt"), "deep");
    for git in [".git", "libs/lib/.git", "libs/lib/inner/deep/.git"] {
        assert!(!world.dest().join(git).exists(), "{git}");
    }
    // A size that holds the repository alone is too small for all together.
    let size = settle::size_on_disk(&world.dest());
    let mut small = FetchRequest { submodules: nobody(), ..world.request(None) };
    small.limits.bytes = size - 1;
    assert!(matches!(world.fetch(&small).await.unwrap_err(), GitError::TooLarge { .. }));
    assert_ne!(checkout.sha256, [0; 32]);
}

#[tokio::test]
async fn a_submodule_without_an_entry_or_with_update_none_stays_empty() {
    let world = World::new().await;
    let lib = world.other("lib").await;
    add(&world.repo, "../lib", "lib").await;
    git(&world.repo, &["config", "-f", ".gitmodules", "submodule.lib.update", "none"]).await;
    world.commit("x", "x", "none").await;
    let request = FetchRequest { submodules: nobody(), ..world.request(None) };
    world.fetch(&request).await.unwrap();
    assert!(!world.dest().join("lib/lib.txt").exists());
    git(&world.repo, &["rm", "-q", ".gitmodules"]).await;
    world.commit("x", "y", "no entry").await;
    world.fetch(&request).await.unwrap();
    assert!(world.dest().join("lib").is_dir() && lib.exists());
}

#[tokio::test]
async fn hostile_gitmodules_are_refused() {
    let world = World::new().await;
    world.other("lib").await;
    add(&world.repo, "../lib", "lib").await;
    let request = FetchRequest { submodules: nobody(), ..world.request(None) };
    let good = std::fs::read_to_string(world.repo.join(".gitmodules")).unwrap();
    for evil in [
        "ext::sh -c true",
        "-oProxyCommand=x",
        "--upload-pack=touch /tmp/x",
        "ssh://-oProxyCommand=x/y",
        "git@-oProxyCommand=x:y",
        "git://git.example.org/lib",
        "fd::17/foo",
        "../../../../../../../../../../../../../lib",
    ] {
        world.commit(".gitmodules", &good.replace("../lib", evil), "evil").await;
        let error = world.fetch(&request).await.unwrap_err();
        assert!(matches!(error, GitError::Submodule { .. }), "{evil}: {error:?}");
    }
    for (from, to) in [
        ("\"lib\"", "\"../../lib\""),
        ("path = lib", "path = lib\n\tupdate = !touch /tmp/x"),
        ("path = lib", "path = lib\n[include]\n\tpath = /etc/passwd\n[submodule \"a/../b\"]\n\turl = x"),
    ] {
        world.commit(".gitmodules", &good.replace(from, to), "evil").await;
        // Some of it git refuses by itself.
        let error = world.fetch(&request).await.unwrap_err();
        assert!(error.to_string().contains("submodule"), "{to}: {error:?}");
    }
    // A file of this machine, where that is not allowed; a host inside, where that is not.
    let strict = |submodules: Option<Submodules>| Submodules { allow_local: false, ..submodules.unwrap() };
    let request = FetchRequest { submodules: Some(strict(nobody())), ..world.request(None) };
    world.commit(".gitmodules", &good.replace("../lib", "file:///etc"), "evil").await;
    let error = world.fetch(&request).await.unwrap_err();
    assert!(matches!(error, GitError::Submodule { .. }), "{error:?}");
    for inside in ["https://127.0.0.1/a/b.git", "git@169.254.169.254:a/b", "https://localhost/x"] {
        world.commit(".gitmodules", &good.replace("../lib", inside), "evil").await;
        let error = world.fetch(&request).await.unwrap_err();
        assert!(
            matches!(&error, GitError::InSubmodule { source, .. } if matches!(**source, GitError::Guard(_))),
            "{inside}: {error:?}"
        );
    }
    std::fs::remove_file(world.repo.join(".gitmodules")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", world.repo.join(".gitmodules")).unwrap();
    world.commit("x", "link", "a link").await;
    // Some releases of git refuse it by themselves, before we see it.
    let error = world.fetch(&request).await.unwrap_err();
    assert!(error.to_string().contains(".gitmodules"), "{error:?}");
}

#[tokio::test]
async fn submodules_are_not_nested_without_end_nor_without_number() {
    let world = World::new().await;
    let mut below = world.other("r0").await;
    for n in 1..7 {
        let this = world.other(&format!("r{n}")).await;
        add(&this, &format!("file://{}", below.display()), "next").await;
        below = this;
    }
    add(&world.repo, &format!("file://{}", below.display()), "next").await;
    let request = FetchRequest { submodules: nobody(), ..world.request(None) };
    let error = world.fetch(&request).await.unwrap_err();
    assert!(error.to_string().contains("nested"), "{error}");
    let head = git(&world.repo, &["rev-parse", "HEAD"]).await;
    for n in 0..101 {
        let entry = format!("160000,{head},many/{n}");
        git(&world.repo, &["update-index", "--add", "--cacheinfo", &entry]).await;
    }
    git(&world.repo, &["commit", "-q", "-m", "many"]).await;
    let error = world.fetch(&request).await.unwrap_err();
    assert!(error.to_string().contains("more than 100"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repositorys_token_goes_to_a_submodule_only_if_it_is_meant_for_it() {
    let world = World::new().await;
    world.other("lib").await;
    let basic = base64::engine::general_purpose::STANDARD.encode("oauth2:s3cret-token");
    let header = format!("Basic {basic}");
    let port = forge(world.top.path().to_owned(), header.clone()).await;
    let elsewhere = forge(world.top.path().to_owned(), header).await;
    add(&world.repo, "../lib", "lib").await;
    let lib = |port: u16| format!("http://127.0.0.1:{port}/lib");
    git(&world.repo, &["config", "-f", ".gitmodules", "submodule.lib.url", &lib(elsewhere)]).await;
    world.commit("x", "x", "elsewhere").await;
    let credential = Some(GitCredential { user: None, secret: "s3cret-token".into() });
    let mut request = FetchRequest { credential, ..world.request(None) };
    request.policy.allow_private = true;
    request.url = GitUrl::parse(&format!("http://127.0.0.1:{port}/repo"), true).unwrap().0;
    request.submodules = with(Known("s3cret-token", format!("http://127.0.0.1:{port}/")));
    match world.fetch(&request).await.unwrap_err() {
        GitError::InSubmodule { source, path } => {
            assert!(matches!(*source, GitError::Authentication { with_credential: false, .. }), "{source:?}");
            assert_eq!(path, "lib");
        }
        other => panic!("{other:?}"),
    }
    git(&world.repo, &["config", "-f", ".gitmodules", "submodule.lib.url", &lib(port)]).await;
    world.commit("x", "y", "here").await;
    world.fetch(&request).await.unwrap();
    assert_eq!(world.read("lib/lib.txt"), "lib");
}
