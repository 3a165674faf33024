use super::*;

/// Runs git for the set-up of a test's world.
async fn git(dir: &Path, args: &[&str]) -> String {
    let id = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"];
    let out = Command::new("git")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_COMMITTER_DATE", "2024-05-01T12:00:00Z")
        .args(id)
        .args(args)
        .dir(dir)
        .capture(&CancellationToken::new(), 10_000)
        .await
        .unwrap();
    assert!(out.finished.success(), "git {args:?}: {}", out.stderr);
    out.stdout
}

pub(super) struct World {
    pub(super) top: tempfile::TempDir,
    pub(super) repo: PathBuf,
}

impl World {
    pub(super) async fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        let repo = top.path().join("repo");
        std::fs::create_dir(&repo).unwrap();
        git(&repo, &["init", "-q", "-b", "main"]).await;
        let world = Self { top, repo };
        world.commit("index.html", "one", "First\n\nwith a body").await;
        world
    }

    pub(super) async fn commit(&self, file: &str, text: &str, message: &str) -> String {
        std::fs::write(self.repo.join(file), text).unwrap();
        git(&self.repo, &["add", "-A"]).await;
        git(&self.repo, &["commit", "-q", "-m", message]).await;
        git(&self.repo, &["rev-parse", "HEAD"]).await
    }

    pub(super) fn request(&self, wanted: Option<&str>) -> FetchRequest {
        let url = format!("file://{}", self.repo.display());
        FetchRequest::new(GitUrl::parse(&url, true).unwrap().0, Wanted::parse(wanted).unwrap())
    }

    pub(super) async fn fetch(&self, request: &FetchRequest) -> Result<Checkout, GitError> {
        let dest = self.dest();
        let _ = std::fs::remove_dir_all(&dest);
        let result = fetch(request, &dest, &CancellationToken::new(), &mut |_| {}).await;
        assert_eq!(result.is_ok(), dest.exists(), "a failed fetch leaves nothing");
        result
    }

    pub(super) fn dest(&self) -> PathBuf {
        self.top.path().join("dest")
    }

    pub(super) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.dest().join(file)).unwrap()
    }
}

#[tokio::test]
async fn branches_tags_and_commits_are_fetched() {
    let world = World::new().await;
    let first = git(&world.repo, &["rev-parse", "HEAD"]).await;
    git(&world.repo, &["tag", "-a", "v1", "-m", "one"]).await;
    let second = world.commit("index.html", "two", "Second").await;
    git(&world.repo, &["branch", "next"]).await;

    let checkout = world.fetch(&world.request(None)).await.unwrap();
    assert_eq!(checkout.commit.as_str(), second);
    assert_eq!((checkout.message.as_str(), checkout.author.as_str()), ("Second", "Ada"));
    assert_eq!(checkout.committed_at_us, 1_714_564_800_000_000);
    assert_eq!(world.read("index.html"), "two");
    assert!(!world.dest().join(".git").exists());

    assert_eq!(world.fetch(&world.request(Some("next"))).await.unwrap().commit.as_str(), second);
    for wanted in ["v1", &first, "refs/tags/v1"] {
        let checkout = world.fetch(&world.request(Some(wanted))).await.unwrap();
        assert_eq!((checkout.commit.as_str(), checkout.message.as_str()), (first.as_str(), "First"));
        assert_eq!(world.read("index.html"), "one");
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_with_candidates() {
    let world = World::new().await;
    git(&world.repo, &["branch", "release"]).await;
    match world.fetch(&world.request(Some("relaese"))).await.unwrap_err() {
        GitError::RefNotFound { name, candidates, .. } => {
            assert_eq!((name.as_str(), candidates[0].as_str()), ("relaese", "release"));
        }
        other => panic!("{other:?}"),
    }
    let nowhere = "0123456789".repeat(4);
    let error = world.fetch(&world.request(Some(&nowhere))).await.unwrap_err();
    assert!(matches!(error, GitError::CommitNotFound { .. }), "{error:?}");
    let mut elsewhere = world.request(None);
    elsewhere.url = GitUrl::parse("/nowhere/at/all", true).unwrap().0;
    let error = world.fetch(&elsewhere).await.unwrap_err();
    assert!(matches!(error, GitError::RepositoryNotFound { .. }), "{error:?}");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn refs_are_listed_without_fetching() {
    let world = World::new().await;
    let refs = remote_refs(&world.request(None), &CancellationToken::new()).await.unwrap();
    let names: Vec<_> = refs.iter().map(|known| known.name.as_str()).collect();
    assert_eq!(names, ["HEAD", "refs/heads/main"]);
}

#[tokio::test]
async fn links_out_of_the_tree_are_removed_and_listed() {
    let world = World::new().await;
    std::os::unix::fs::symlink("/etc/passwd", world.repo.join("out")).unwrap();
    std::os::unix::fs::symlink("index.html", world.repo.join("in")).unwrap();
    world.commit("x", "x", "links").await;
    let checkout = world.fetch(&world.request(None)).await.unwrap();
    assert_eq!(checkout.removed_links, ["out"]);
    assert!(std::fs::symlink_metadata(world.dest().join("out")).is_err());
    assert_eq!(world.read("in"), "one");
}

#[tokio::test]
async fn a_private_host_is_refused_before_git_is_started() {
    let world = World::new().await;
    for url in ["https://127.0.0.1/a/b", "ssh://git@169.254.169.254/a", "git@localhost:a/b"] {
        let mut request = world.request(None);
        request.url = GitUrl::parse(url, false).unwrap().0;
        let error = world.fetch(&request).await.unwrap_err();
        assert!(matches!(error, GitError::Guard(_)), "{url}: {error:?}");
    }
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_unreachable() {
    let world = World::new().await;
    let mut request = world.request(None);
    // Port 1 of loopback: nobody listens there.
    request.url = GitUrl::parse("https://127.0.0.1:1/a/b", false).unwrap().0;
    request.policy.allow_private = true;
    let error = world.fetch(&request).await.unwrap_err();
    assert!(matches!(error, GitError::HostUnreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn time_size_and_cancel_end_a_fetch() {
    let world = World::new().await;
    let mut slow = world.request(None);
    slow.time_limit = Duration::ZERO;
    assert!(matches!(world.fetch(&slow).await.unwrap_err(), GitError::TimedOut { .. }));
    let mut small = world.request(None);
    small.limits.bytes = 2;
    assert!(matches!(world.fetch(&small).await.unwrap_err(), GitError::TooLarge { .. }));
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let error = fetch(&world.request(None), &world.dest(), &cancelled, &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, GitError::Cancelled));
    assert!(!world.dest().exists());
}

#[path = "git/submodule_tests.rs"]
mod submodules;

#[allow(clippy::disallowed_methods, reason = "the forge of this test is git's own CGI program")]
/// A forge that wants a token: answers 401 without it, and hands the rest to `git http-backend`.
async fn forge(root: PathBuf, header: String) -> u16 {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (root, header) = (root.clone(), header.clone());
            tokio::spawn(async move {
                let mut stream = tokio::io::BufReader::new(stream);
                let mut lines = Vec::new();
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                    if line.trim().is_empty() {
                        break;
                    }
                    lines.push(line.trim().to_owned());
                }
                let Some(first) = lines.first() else { return };
                let mut words = first.split(' ');
                let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
                let value = |name: &str| {
                    let found = lines.iter().filter_map(|line| line.split_once(": "));
                    found.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned()).next()
                };
                let mut body = vec![0; value("content-length").map_or(0, |text| text.parse().unwrap())];
                stream.read_exact(&mut body).await.unwrap();
                if value("authorization").as_deref() != Some(header.as_str()) {
                    let refuse = "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    stream.write_all(refuse.as_bytes()).await.unwrap();
                    return;
                }
                let (path, query) = target.split_once('?').unwrap_or((&target, ""));
                let mut backend = std::process::Command::new("git")
                    .arg("http-backend")
                    .env("GIT_PROJECT_ROOT", &root)
                    .env("GIT_HTTP_EXPORT_ALL", "1")
                    .env("REQUEST_METHOD", method)
                    .env("PATH_INFO", path)
                    .env("QUERY_STRING", query)
                    .env("GIT_PROTOCOL", value("git-protocol").unwrap_or_default())
                    .env("CONTENT_TYPE", value("content-type").unwrap_or_default())
                    .env("CONTENT_LENGTH", body.len().to_string())
                    .env("HTTP_CONTENT_ENCODING", value("content-encoding").unwrap_or_default())
                    .stdin(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap();
                std::io::Write::write_all(&mut backend.stdin.take().unwrap(), &body).unwrap();
                let out = backend.wait_with_output().unwrap().stdout;
                let text = String::from_utf8_lossy(&out[..out.len().min(200)]).into_owned();
                let status =
                    text.lines().find_map(|l| l.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
                let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(&out).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    port
}

mod http {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_token_opens_a_private_repository_and_is_shown_nowhere() {
        let world = World::new().await;
        let basic = base64::engine::general_purpose::STANDARD.encode("oauth2:s3cret-token");
        let port = forge(world.top.path().to_owned(), format!("Basic {basic}")).await;
        let mut request = world.request(None);
        request.url = GitUrl::parse(&format!("http://127.0.0.1:{port}/repo"), true).unwrap().0;
        let error = world.fetch(&request).await.unwrap_err();
        assert!(matches!(error, GitError::Authentication { with_credential: false, .. }), "{error:?}");

        request.credential = Some(GitCredential { user: None, secret: "wrong".into() });
        let error = world.fetch(&request).await.unwrap_err();
        assert!(matches!(error, GitError::Authentication { with_credential: true, .. }), "{error:?}");

        request.credential = Some(GitCredential { user: None, secret: "s3cret-token".into() });
        let checkout = world.fetch(&request).await.unwrap();
        assert_eq!(checkout.message, "First");
        assert!(!format!("{request:?}").contains("s3cret"));

        request.url = GitUrl::parse(&format!("http://127.0.0.1:{port}/other"), true).unwrap().0;
        let error = world.fetch(&request).await.unwrap_err();
        assert!(matches!(error, GitError::RepositoryNotFound { .. }), "{error:?}");
        assert!(!error.to_string().contains("s3cret"));
    }
}
