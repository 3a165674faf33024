//! Deploying from a repository. What git URLs, refs and servers can do wrong in detail is tested where fetching
//! lives; here a push becomes a page.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use reqwest::Method;

use crate::support::{
    before::{Before, assert_problem},
    *,
};

/// A repository with two commits on `main`, of which the first is also tagged `v1`.
pub(crate) struct Repository {
    pub(crate) dir: PathBuf,
}

impl Repository {
    pub(crate) fn new(berth: &Berth) -> Self {
        let repository = Self { dir: berth.scratch("repositories/site.git") };
        repository.git(&["init", "--quiet", "--initial-branch", "main"]);
        repository.commit("first page", "Open the harbour");
        repository.git(&["tag", "v1"]);
        repository.commit("second page", "Build a second quay\n\nWith a crane.");
        repository
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
            .args(arguments)
            .current_dir(&self.dir)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self, page: &str, message: &str) {
        std::fs::write(self.dir.join("index.html"), page).unwrap();
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
    }

    fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }
}

fn local() -> Options {
    Options::default().with("allow-local-sources", "true").with("allow-private-sources", "true")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_a_repository_becomes_a_page() {
    let berth = Berth::start_with(local()).await;
    let repository = Repository::new(&berth);
    let detail = berth.deploy_live("site", json!({ "git_url": repository.url() })).await;
    assert_eq!(detail["commit"], repository.head());
    assert_eq!(detail["message"], "Build a second quay");
    assert_eq!(berth.visit("site", "/").await.body, "second page");
    assert_eq!(berth.visit("site", "/.git/config").await.status, 404);

    // A tag, and the command line.
    let ran = berth
        .cli(&["deploy", "--app", "site", "--git", &repository.url(), "--ref", "v1", "--json"])
        .await
        .ok();
    assert_eq!(ran.json()["commit"], repository.git(&["rev-parse", "v1"]));
    assert_eq!(berth.visit("site", "/").await.body, "first page");

    // The app remembers its source: a deployment without one takes the newest commit.
    repository.commit("third page", "Light the beacon");
    let detail = berth.deploy_live("site", json!({})).await;
    assert_eq!(detail["commit"], repository.head());
    assert_eq!(berth.visit("site", "/").await.body, "third page");
}

/// What git printed, with when it did.
struct Pushed {
    ok: bool,
    lines: Vec<(Instant, String)>,
}

impl Pushed {
    fn when(&self, text: &str) -> Instant {
        let line = self.lines.iter().find(|(_, line)| line.contains(text));
        line.unwrap_or_else(|| panic!("{text:?} is not in {:#?}", self.lines)).0
    }
}

fn push(repository: &Repository, url: &str) -> Pushed {
    use std::io::{BufRead as _, BufReader};
    let mut git = Command::new("git")
        .args(["push", url, "main"])
        .current_dir(&repository.dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(git.stderr.take().unwrap()).lines();
    let lines = lines.map(|line| (Instant::now(), line.unwrap().trim_end().to_owned())).collect();
    Pushed { ok: git.wait().unwrap().success(), lines }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_pushes_reads_the_docker_build_while_it_runs() {
    needs_docker!();
    let berth = Berth::start().await;
    let repository = Repository::new(&berth);
    let dockerfile = |steps: &str| {
        // A step that an earlier run left in the cache prints nothing.
        let fresh = uuid::Uuid::new_v4();
        let text = format!(
            "FROM python:3.12-slim\nENV FRESH={fresh}\n{steps}\nCOPY index.html /srv/\nWORKDIR /srv\n\
            CMD [\"python3\", \"-m\", \"http.server\", \"8080\"]\n"
        );
        std::fs::write(repository.dir.join("Dockerfile"), text).unwrap();
        repository.commit("built", "Build with Docker");
    };
    // What is printed is not what stands in the step, which is shown, too.
    dockerfile("RUN echo laying brick $((2-1)); sleep 3; echo laying brick $((1+1)) >&2");
    let url = berth.control.replace("http://", &format!("http://git:{}@", berth.token));
    let url = format!("{url}/git/quay.git");
    let in_background = async |url: String| {
        let repository = Repository { dir: repository.dir.clone() };
        tokio::task::spawn_blocking(move || push(&repository, &url)).await.unwrap()
    };
    let said = in_background(url.clone()).await;
    assert!(said.ok, "{:#?}", said.lines);
    let (one, two) = (said.when("laying brick 1"), said.when("laying brick 2"));
    let between = two.duration_since(one);
    assert!(between.as_secs() >= 2, "the lines came {between:?} apart, and not as they were printed");
    assert!(said.when("is live at") > two);
    assert!(said.lines.iter().any(|(_, line)| line.starts_with("remote: ") && line.contains("RUN echo")));
    assert_eq!(berth.visit("quay", "/").await.body, "built");
    // A build that fails says with what, where its author looks.
    dockerfile("RUN echo crane $((3+4)) is broken >&2; exit 3");
    let said = in_background(url).await;
    assert!(said.ok, "the branch has moved: {:#?}", said.lines);
    assert!(said.when("crane 7 is broken") < said.when("FAILED"));
    assert!(said.when("exit code 3") >= said.when("crane 7 is broken"));
    assert!(!said.lines.iter().any(|(_, line)| line.contains(&berth.token)));
    assert_eq!(berth.visit("quay", "/").await.body, "built");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_fetched_over_http() {
    let berth = Berth::start_with(local()).await;
    let repository = Repository::new(&berth);
    let server = SmartHttp::serve(&berth, repository.dir.parent().unwrap());
    let url = format!("{}/site.git", server.url);
    let first = repository.git(&["rev-parse", "v1"]);
    let detail = berth.deploy_live("site", json!({ "git_url": url, "git_ref": first })).await;
    assert_eq!(detail["commit"], first, "a commit can be named by its hash");
    assert_eq!(berth.visit("site", "/").await.body, "first page");
    berth.deploy_live("site", json!({ "git_url": url, "git_ref": "main" })).await;
    assert_eq!(berth.visit("site", "/").await.body, "second page");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ref_that_is_not_there_names_those_that_are() {
    let berth = Berth::start_with(local()).await;
    let repository = Repository::new(&berth);
    berth.deploy_live("site", json!({ "git_url": repository.url() })).await;
    let before = Before::something(&berth).await;
    let wanted = json!({ "git_url": repository.url(), "git_ref": "mian" });
    let problem = berth.deploy_failing("site", wanted).await;
    assert_problem(&problem, "git_failed", Some("fetching"), &["mian"], &[]);
    assert!(texts(&problem["candidates"]).contains(&"main".to_owned()), "{problem:#}");
    before.assert_same(&berth).await;
    assert_eq!(berth.visit("site", "/").await.body, "second page");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_could_reach_inwards_is_refused() {
    let berth = Berth::start().await;
    berth.post("/v1/apps", json!({ "name": "site" })).await;
    for url in [
        "file:///etc",
        "/srv/repository",
        "http://example.org/plain.git",
        "ext::sh -c id",
        "--upload-pack=touch /tmp/x",
        "https://user:password@example.org/a.git",
        "ssh://-oProxyCommand=id/x",
    ] {
        let wanted = json!({ "git_url": url });
        let refused = berth.try_send(Method::POST, "/v1/apps/site/deployments", wanted).await.unwrap_err();
        assert_eq!(
            (refused.code(), &refused.problem["field"]),
            ("invalid_input", &json!("git_url")),
            "{url}: {refused:#?}"
        );
        assert!(!refused.problem.to_string().contains("user:password"), "{refused:#?}");
    }
    let all = berth.get("/v1/apps/site/deployments").await;
    assert_eq!(all["deployments"], json!([]), "nothing was begun");
    // An address of this machine is only known when it is looked up.
    for url in ["https://127.0.0.1/a.git", "https://localhost/a.git", "https://169.254.169.254/a.git"] {
        let problem = berth.deploy_failing("site", json!({ "git_url": url })).await;
        assert_problem(&problem, "git_failed", Some("fetching"), &[], &["allow_private_sources"]);
    }
    eventually("the removal of work directories", std::time::Duration::from_secs(5), async || {
        berth.entries("work").is_empty().then_some(())
    })
    .await;
}

/// git's own server behind Python's CGI server, on a free port of the loopback interface.
struct SmartHttp {
    process: Child,
    url: String,
}

const SERVER: &str = r#"
import http.server, os, sys
class Handler(http.server.CGIHTTPRequestHandler):
    cgi_directories = ["/cgi"]
    have_fork = False
    def log_message(self, *args): pass
os.chdir(sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"#;

impl SmartHttp {
    fn serve(berth: &Berth, repositories: &Path) -> Self {
        use std::io::{BufRead as _, BufReader};
        let root = berth.scratch("www");
        let backend = Command::new("git").arg("--exec-path").output().unwrap();
        let backend =
            PathBuf::from(String::from_utf8(backend.stdout).unwrap().trim()).join("git-http-backend");
        std::fs::create_dir(root.join("cgi")).unwrap();
        std::os::unix::fs::symlink(backend, root.join("cgi/git")).unwrap();
        let mut process = Command::new("python3")
            .args(["-c", SERVER])
            .arg(&root)
            .env("GIT_PROJECT_ROOT", repositories)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { process, url: format!("http://127.0.0.1:{}/cgi/git", port.trim()) }
    }
}

impl Drop for SmartHttp {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
