//! REST, as any HTTP client uses it.

use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use super::daemon::Berth;

/// An answer of the daemon that is an error: its status and its `application/problem+json`.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) problem: Value,
}

impl Refused {
    pub(crate) fn code(&self) -> &str {
        self.problem["code"].as_str().unwrap_or_default()
    }
}

/// What a visitor got.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Page {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

impl Berth {
    /// A request to the control plane with the admin token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.control)).bearer_auth(&self.token)
    }

    /// GET, as JSON or as a refusal.
    pub(crate) async fn try_get(&self, path: &str) -> Result<Value, Refused> {
        read(self.request(Method::GET, path).send().await.unwrap()).await
    }

    /// Sends a JSON body.
    pub(crate) async fn try_send(&self, method: Method, path: &str, body: Value) -> Result<Value, Refused> {
        read(self.request(method, path).json(&body).send().await.unwrap()).await
    }

    /// What needs attention, but for how full the machine's disk is.
    pub(crate) async fn attention(&self) -> Vec<String> {
        let status = self.get("/v1/platform").await;
        super::texts(&status["attention"]).into_iter().filter(|a| !a.contains("disk space")).collect()
    }

    /// GET that must succeed.
    pub(crate) async fn get(&self, path: &str) -> Value {
        self.try_get(path).await.unwrap_or_else(|r| panic!("GET {path}: {r:#?}"))
    }

    /// POST that must succeed.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        self.send(Method::POST, path, body).await
    }

    /// A request that must succeed.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Value) -> Value {
        let shown = format!("{method} {path}");
        self.try_send(method, path, body).await.unwrap_or_else(|r| panic!("{shown}: {r:#?}"))
    }

    /// Uploads an archive; the id to deploy it by.
    pub(crate) async fn upload(&self, archive: Vec<u8>, kind: &str) -> String {
        let answer = self.try_upload(archive, kind).await.unwrap_or_else(|r| panic!("upload: {r:#?}"));
        answer["upload"].as_str().unwrap().to_owned()
    }

    /// Uploads an archive.
    pub(crate) async fn try_upload(&self, archive: Vec<u8>, kind: &str) -> Result<Value, Refused> {
        let request = self.request(Method::POST, "/v1/uploads").header("content-type", kind.to_owned());
        read(request.body(archive).send().await.unwrap()).await
    }

    /// Begins a deployment of a new or existing app. The deployment's name.
    pub(crate) async fn begin(&self, app: &str, source: Value) -> String {
        let mut body = json!({ "create_app": true });
        body.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        let path = format!("/v1/apps/{app}/deployments");
        self.post(&path, body).await["deployment"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of a deployment.
    pub(crate) async fn settled(&self, deployment: &str) -> Value {
        let begun = Instant::now();
        loop {
            let detail = self.get(&format!("{}?wait_s=50", path_of(deployment))).await;
            if detail["settled"] == true {
                return detail;
            }
            assert!(begun.elapsed() < Duration::from_secs(400), "it does not settle: {detail:#}");
        }
    }

    /// Waits until a deployment is in a state (or has settled) and returns it as it is then.
    pub(crate) async fn reached(&self, deployment: &str, state: &str) -> Value {
        let begun = Instant::now();
        loop {
            let detail = self.get(&path_of(deployment)).await;
            if detail["state"] == state || detail["settled"] == true {
                assert_eq!(detail["state"], state, "{detail:#}");
                return detail;
            }
            assert!(begun.elapsed() < Duration::from_secs(200), "{state} is not reached: {detail:#}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Deploys and waits for the end, whatever it is.
    pub(crate) async fn deploy(&self, app: &str, source: Value) -> Value {
        let deployment = self.begin(app, source).await;
        self.settled(&deployment).await
    }

    /// Deploys what must become live.
    pub(crate) async fn deploy_live(&self, app: &str, source: Value) -> Value {
        let detail = self.deploy(app, source).await;
        if detail["state"] != "live" {
            let log = self.build_log(detail["deployment"].as_str().unwrap()).await;
            panic!("{app} is not live: {detail:#}\n{}", log.join("\n"));
        }
        detail
    }

    /// Deploys what must fail; its problem.
    pub(crate) async fn deploy_failing(&self, app: &str, source: Value) -> Value {
        let detail = self.deploy(app, source).await;
        assert_eq!(detail["state"], "failed", "{detail:#}");
        detail["problem"].clone()
    }

    /// Texts of a deployment's log.
    pub(crate) async fn build_log(&self, deployment: &str) -> Vec<String> {
        let page = self.get(&format!("{}/log?limit=1000", path_of(deployment))).await;
        page["lines"].as_array().unwrap().iter().map(|l| l["text"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits for a job that a call started and wants it to succeed.
    pub(crate) async fn job_done(&self, answer: &Value) -> Value {
        let job = answer["job"]["job"].as_str().unwrap_or_else(|| panic!("no job: {answer:#}"));
        let begun = Instant::now();
        loop {
            let detail = self.get(&format!("/v1/jobs/{job}?wait_s=50")).await;
            match detail["state"].as_str().unwrap() {
                "queued" | "running" => assert!(begun.elapsed() < Duration::from_secs(120), "{detail:#}"),
                "succeeded" => return detail,
                _ => panic!("the job failed: {detail:#}"),
            }
        }
    }

    /// A visitor's GET of an app's page.
    pub(crate) async fn visit(&self, app: &str, path: &str) -> Page {
        self.try_visit(Method::GET, app, path, "").await.unwrap()
    }

    /// A visitor's request, on a connection of its own client.
    pub(crate) async fn try_visit(
        &self,
        method: Method,
        app: &str,
        path: &str,
        body: &str,
    ) -> Result<Page, reqwest::Error> {
        let request = self
            .client
            .request(method, format!("http://{}{path}", self.http))
            .header("host", format!("{app}.localhost"))
            .timeout(Duration::from_secs(30))
            .body(body.to_owned());
        let response = request.send().await?;
        Ok(Page {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await?,
        })
    }
}

/// The path of a deployment such as `web#42`.
pub(crate) fn path_of(deployment: &str) -> String {
    format!("/v1/deployments/{}", deployment.replace('#', "%23"))
}

async fn read(response: Response) -> Result<Value, Refused> {
    let status = response.status();
    let text = response.text().await.unwrap();
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{status}, {e}: {text}"));
    if status.is_success() {
        return Ok(value);
    }
    // Every refusal has the form of RFC 9457 with the same status.
    assert_eq!(StatusCode::from_u16(value["status"].as_u64().unwrap() as u16).unwrap(), status);
    Err(Refused { status: status.as_u16(), problem: value })
}
