//! Every example app of the repository, and a ready image, by every way in: the command line, REST, MCP over HTTP
//! and MCP through `berth mcp`. Each is then fetched through the proxy by its host name.

use std::{collections::BTreeMap, path::Path, time::Duration};

use reqwest::Method;

use crate::support::{
    archive, docker,
    mcp::{self, Way},
    sse::Events,
    *,
};

/// What an example shows on its page, and how it is built.
struct Example {
    name: &'static str,
    page: &'static str,
    builder: &'static str,
}

const STATIC: Example = Example { name: "static", page: "Your app has a berth.", builder: "static" };
const EXPRESS: Example = Example { name: "express", page: "Hello from Express", builder: "node" };
const FLASK: Example = Example { name: "flask", page: "Hello from Flask", builder: "flask" };
const FASTAPI: Example = Example { name: "fastapi", page: "Hello from FastAPI", builder: "fastapi" };
const DOCKERFILE: Example =
    Example { name: "dockerfile", page: "Hello from a Dockerfile", builder: "dockerfile" };

impl Example {
    /// Wants the page through the proxy, and the deployment to say how it was made.
    async fn assert_serves(&self, berth: &Berth, app: &str) {
        let page = berth.visit(app, "/").await;
        assert_eq!(page.status, 200, "{page:#?}");
        assert!(page.body.contains(self.page), "{page:#?}");
        assert!(page.headers.contains_key("x-request-id"), "{page:#?}");
        let detail = berth.get(&format!("/v1/deployments/{app}")).await;
        assert_eq!(detail["state"], "live");
        assert_eq!(detail["plan"]["builder"], self.builder, "{detail:#}");
        assert!(!detail["plan"]["evidence"].as_array().unwrap().is_empty(), "{detail:#}");
        assert_eq!(detail["url"], format!("http://{app}.localhost:{}", berth.http.port()));
    }

    async fn by_command_line(&self, berth: &Berth) {
        let app = format!("{}-cli", self.name);
        let folder = example(self.name);
        let ran = berth.cli(&["deploy", folder.to_str().unwrap(), "--app", &app, "--json"]).await.ok();
        assert_eq!(ran.json()["state"], "live", "{ran:#?}");
        self.assert_serves(berth, &app).await;
    }

    async fn by_rest(&self, berth: &Berth) {
        let app = format!("{}-rest", self.name);
        let upload = berth.upload(archive::tar_gz_of(&example(self.name)), "application/gzip").await;
        let request = berth
            .request(Method::POST, &format!("/v1/apps/{app}/deployments"))
            .json(&json!({ "upload": upload, "create_app": true }));
        let events = Events::of(request).await.collect(Duration::from_secs(180)).await;
        let states: Vec<&str> =
            events.iter().filter(|e| e.name == "state").filter_map(|e| e.data["state"].as_str()).collect();
        assert_eq!(states.last(), Some(&"live"), "{events:#?}");
        let steps: &[&str] = if self.builder == "static" {
            &["queued", "fetching", "building", "switching"]
        } else {
            &["queued", "fetching", "building", "starting", "checking", "switching"]
        };
        let told: Vec<&str> = steps.iter().copied().filter(|s| states.contains(s)).collect();
        assert_eq!(told, steps, "each step is told: {states:?}");
        assert!(events.iter().any(|e| e.name == "build_line"));
        let last = events.last().unwrap();
        assert_eq!((last.name.as_str(), &last.data["state"]), ("result", &json!("live")), "{last:#?}");
        self.assert_serves(berth, &app).await;
    }

    async fn by_mcp(&self, berth: &Berth, python: &Path) {
        let app = format!("{}-mcp", self.name);
        let steps = json!([
            { "tool": "deployment_create", "arguments": {
                "app": app, "create_app": true, "files": files(&example(self.name)) } },
            { "await": app },
        ]);
        let results = mcp::run(berth, python, Way::Http, &steps).await;
        assert_eq!(results[0]["error"], false, "{results:#?}");
        assert_eq!(results[1]["structured"]["state"], "live", "{results:#?}");
        assert!(results[1]["text"].as_str().unwrap().contains("live"), "{results:#?}");
        self.assert_serves(berth, &app).await;
    }

    async fn by_bridge(&self, berth: &Berth, python: &Path) {
        let app = format!("{}-bridge", self.name);
        let steps = json!([
            { "tool": "deployment_create", "arguments": {
                "app": app, "create_app": true, "folder": example(self.name), "wait_s": 50 } },
            { "await": app },
        ]);
        let results = mcp::run(berth, python, Way::Bridge, &steps).await;
        assert_eq!(results[1]["structured"]["state"], "live", "{results:#?}");
        let told = &results[0]["progress"];
        assert!(
            told.as_array().is_some_and(|t| !t.is_empty()),
            "progress is told while it waits: {results:#?}"
        );
        self.assert_serves(berth, &app).await;
    }

    async fn by_every_way(&self) {
        let berth = Berth::start().await;
        self.by_command_line(&berth).await;
        self.by_rest(&berth).await;
        if let Some(python) = mcp::python().await {
            self.by_mcp(&berth, &python).await;
            self.by_bridge(&berth, &python).await;
        }
    }
}

/// The text files of a folder.
fn files(folder: &Path) -> BTreeMap<String, String> {
    fn walk(top: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(top, &path, files);
            } else {
                let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
                files.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_files_is_served_without_a_container() {
    needs_docker!();
    STATIC.by_every_way().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_site_has_its_folders_types_and_conditions() {
    let berth = Berth::start().await;
    let folder = example("static");
    berth.cli(&["deploy", folder.to_str().unwrap(), "--app", "site"]).await.ok();
    let style = berth.visit("site", "/style.css").await;
    assert_eq!(
        (style.status, &style.headers["content-type"]),
        (200, &"text/css; charset=utf-8".parse().unwrap())
    );
    assert_eq!(berth.visit("site", "/about/").await.status, 200);
    assert_eq!(berth.visit("site", "/none.html").await.status, 404);
    assert_eq!(berth.visit("site", "/../../berth.db").await.status, 404);
    assert_eq!(berth.visit("site", "/%2e%2e/%2e%2e/berth.db").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_express_app_is_built_with_npm_ci() {
    needs_docker!();
    EXPRESS.by_every_way().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flask_app_is_built_with_pip() {
    needs_docker!();
    FLASK.by_every_way().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fastapi_app_is_built_with_pip() {
    needs_docker!();
    FASTAPI.by_every_way().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_is_built_as_it_is() {
    needs_docker!();
    DOCKERFILE.by_every_way().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_image_is_run_as_it_is() {
    needs_docker!();
    let berth = Berth::start().await;
    let image = docker::Image::build(&example("dockerfile"));
    let ran = berth.cli(&["deploy", "--image", image.name(), "--app", "cli", "--json"]).await.ok();
    assert_eq!(ran.json()["source"], json!({ "kind": "image", "image": image.name() }));
    let detail = berth.deploy_live("rest", json!({ "image": image.name() })).await;
    assert_eq!(detail["steps"][1]["state"], "fetching", "nothing is built: {detail:#}");
    let mut apps = vec!["cli", "rest"];
    if let Some(python) = mcp::python().await {
        for (app, way) in [("mcp", Way::Http), ("legacy", Way::LegacyHttp), ("bridge", Way::Bridge)] {
            let steps = json!([
                { "tool": "deployment_create", "arguments": {
                    "app": app, "create_app": true, "image": image.name() } },
                { "await": app },
            ]);
            let results = mcp::run(&berth, &python, way, &steps).await;
            assert_eq!(results[1]["structured"]["state"], "live", "{results:#?}");
            apps.push(app);
        }
    }
    for app in &apps {
        let page = berth.visit(app, "/").await;
        assert_eq!((page.status, page.body.as_str()), (200, "Hello from a Dockerfile\n"), "{app}");
    }
    // An image that Berth did not build is not Berth's to remove.
    for app in apps {
        let gone = berth.send(Method::DELETE, &format!("/v1/apps/{app}?confirm={app}"), json!({})).await;
        berth.job_done(&gone).await;
    }
    assert_eq!(docker::containers(&berth.instance), [""; 0]);
    assert!(image.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_curl_is_enough() {
    let berth = Berth::start().await;
    let archive = berth.scratch("curl").join("site.tar.gz");
    std::fs::write(&archive, archive::tar_gz_of(&example("static"))).unwrap();
    let bearer = format!("Authorization: Bearer {}", berth.token);
    let curl = async |arguments: &[&str]| {
        let output = tokio::process::Command::new("curl")
            .args(["--silent", "--show-error", "--fail-with-body", "--noproxy", "*", "--header", &bearer])
            .args(arguments)
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let body = format!("@{}", archive.display());
    let uploads = format!("{}/v1/uploads", berth.control);
    let answer =
        curl(&["--header", "Content-Type: application/gzip", "--data-binary", &body, &uploads]).await;
    let upload: Value = serde_json::from_str(&answer).unwrap();
    let wanted = json!({ "upload": upload["upload"], "create_app": true, "wait_s": 30 }).to_string();
    let deployments = format!("{}/v1/apps/curl/deployments", berth.control);
    let answer = curl(&["--header", "Content-Type: application/json", "--data", &wanted, &deployments]).await;
    let detail: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(detail["state"], "live", "{detail:#}");
    let page = curl(&["--header", "Host: curl.localhost", &format!("http://{}/", berth.http)]).await;
    assert!(page.contains("Your app has a berth."), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zip_is_a_source_too() {
    let berth = Berth::start().await;
    let folder = berth.scratch("zip");
    std::fs::write(folder.join("index.html"), "<p>zipped</p>").unwrap();
    let zip = archive::zip_of(&folder);
    let upload = berth.upload(zip, "application/zip").await;
    berth.deploy_live("zipped", json!({ "upload": upload })).await;
    assert_eq!(berth.visit("zipped", "/").await.body, "<p>zipped</p>");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_leaves_out_what_is_ignored() {
    let berth = Berth::start().await;
    let folder = berth.scratch("ignoring");
    std::fs::write(folder.join("index.html"), "<p>page</p>").unwrap();
    std::fs::write(folder.join(".gitignore"), "secret.txt\n").unwrap();
    std::fs::write(folder.join(".berthignore"), "draft.html\n").unwrap();
    std::fs::write(folder.join("secret.txt"), "sesame").unwrap();
    std::fs::write(folder.join("draft.html"), "not yet").unwrap();
    let ran = berth.cli(&["deploy", folder.to_str().unwrap(), "--app", "site"]).await.ok();
    assert_eq!(
        ran.out.trim(),
        format!("http://site.localhost:{}", berth.http.port()),
        "only the URL: {ran:#?}"
    );
    assert_eq!(berth.visit("site", "/").await.status, 200);
    assert_eq!(berth.visit("site", "/secret.txt").await.status, 404);
    assert_eq!(berth.visit("site", "/draft.html").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_deployment_ends_the_command_with_the_reason() {
    let berth = Berth::start().await;
    let folder = berth.scratch("nothing");
    std::fs::write(folder.join("notes.xyz"), "nothing to build").unwrap();
    let ran = berth.cli(&["deploy", folder.to_str().unwrap(), "--app", "web"]).await;
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert!(ran.out.is_empty(), "no URL where nothing serves: {ran:#?}");
    assert!(ran.err.contains("web#1 is failed") && ran.err.contains("hint:"), "{}", ran.err);
}
