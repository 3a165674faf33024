//! Webhooks of every forge from outside: what is taken, what is refused, and that what was answered is kept.

use std::time::Duration;

use berth_forge::webhook::sign;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::Berth;

const NEW: &str = "2222222222222222222222222222222222222222";

/// A forge as it sends a push.
struct Sender {
    forge: &'static str,
    /// Owner and name of the repository in the payload.
    name: &'static str,
    body: String,
    headers: Vec<(&'static str, &'static str)>,
    id: &'static str,
    signature: fn(&str, &[u8]) -> (&'static str, String),
}

fn senders() -> Vec<Sender> {
    fn sha256(secret: &str, body: &[u8]) -> String {
        format!("sha256={}", sign(secret, body))
    }
    macro_rules! fixture {
        ($name:literal) => {
            include_str!(concat!("../../forge/fixtures/", $name, ".json")).to_owned()
        };
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let generic = json!({
        "id": "build-1", "timestamp": now, "repository": "acme/site", "ref": "refs/heads/main", "after": NEW,
    });
    vec![
        Sender {
            forge: "github",
            name: "acme/site",
            body: fixture!("github_push"),
            headers: vec![("x-github-event", "push")],
            id: "x-github-delivery",
            signature: |secret, body| ("x-hub-signature-256", sha256(secret, body)),
        },
        Sender {
            forge: "gitlab",
            name: "acme/web/site",
            body: fixture!("gitlab_push"),
            headers: vec![("x-gitlab-event", "Push Hook")],
            id: "x-gitlab-event-uuid",
            signature: |secret, _| ("x-gitlab-token", secret.to_owned()),
        },
        Sender {
            forge: "gitea",
            name: "ada/site",
            body: fixture!("gitea_push"),
            headers: vec![("x-gitea-event", "push")],
            id: "x-gitea-delivery",
            signature: |secret, body| ("x-gitea-signature", sign(secret, body)),
        },
        Sender {
            forge: "forgejo",
            name: "ada/site",
            body: fixture!("gitea_push"),
            headers: vec![("x-forgejo-event", "push")],
            id: "x-forgejo-delivery",
            signature: |secret, body| ("x-forgejo-signature", sign(secret, body)),
        },
        Sender {
            forge: "bitbucket",
            name: "acme/site",
            body: fixture!("bitbucket_push"),
            headers: vec![("x-event-key", "repo:push")],
            id: "x-request-uuid",
            signature: |secret, body| ("x-hub-signature", sha256(secret, body)),
        },
        Sender {
            forge: "generic",
            name: "acme/site",
            body: generic.to_string(),
            headers: Vec::new(),
            id: "x-unused",
            signature: |secret, body| ("x-berth-signature", sha256(secret, body)),
        },
    ]
}

impl Sender {
    /// Connects an app of the forge's name; returns path and secret of the webhook.
    async fn connect(&self, berth: &Berth) -> (String, String) {
        let app = self.forge;
        berth.rest().post("/v1/apps", json!({ "name": app })).await.ok();
        let url = format!("https://git.example.org/{}.git", self.name);
        let body = json!({ "git_url": url, "forge": app, "poll_minutes": 0 });
        let answer =
            berth.rest().send(Method::PUT, &format!("/v1/apps/{app}/repository"), Some(body)).await.ok();
        let webhook = &answer["webhook"];
        assert_eq!(webhook["registered"], false, "{answer}");
        let path = webhook["payload_url"].as_str().unwrap().split_once("/hooks/").unwrap().1;
        (format!("/hooks/{path}"), webhook["secret"].as_str().unwrap().to_owned())
    }

    async fn send(&self, berth: &Berth, path: &str, id: &str, secret: &str, body: &str) -> (u16, Value) {
        let (header, value) = (self.signature)(secret, body.as_bytes());
        let mut request = berth
            .anonymous()
            .request(Method::POST, path)
            .header("content-type", "application/json")
            .header(self.id, id)
            .header(header, value)
            .body(body.to_owned());
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }
}

async fn pushes(berth: &Berth, app: &str) -> Vec<Value> {
    let page = berth.rest().get(&format!("/v1/apps/{app}/pushes")).await.ok();
    page["pushes"].as_array().unwrap().clone()
}

#[tokio::test]
async fn every_forge_is_heard_once_and_only_with_its_signature() {
    let berth = Berth::without_docker().await;
    for sender in senders() {
        let app = sender.forge;
        let (path, secret) = sender.connect(&berth).await;
        let (status, body) = sender.send(&berth, &path, "d-1", "whsec_wrong", &sender.body).await;
        assert_eq!((status, body["code"].as_str()), (401, Some("unauthenticated")), "{app}: {body}");
        assert!(pushes(&berth, app).await.is_empty(), "{app}: a refused webhook had an effect");

        let begun = std::time::Instant::now();
        let (status, body) = sender.send(&berth, &path, "d-1", &secret, &sender.body).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{app} waited {:?}", begun.elapsed());
        assert_eq!(status, 202, "{app}: {body}");
        let told = body["pushes"].as_array().unwrap().len();
        let kept = pushes(&berth, app).await;
        assert_eq!(kept.len(), told, "{app}: {kept:?}");
        let main = kept.iter().find(|p| p["change"]["branch"] == "main").unwrap();
        assert_eq!((&main["change"]["commit"], &main["origin"]), (&json!(NEW), &json!("webhook")), "{app}");

        // Sent again by the forge; and by somebody who changed what is not signed.
        for id in ["d-1", "d-2"] {
            let (status, body) = sender.send(&berth, &path, id, &secret, &sender.body).await;
            assert!((200..300).contains(&status), "{app}: {status} {body}");
            assert_eq!(pushes(&berth, app).await.len(), told, "{app}: {id} counted twice");
        }

        let other = sender.body.replace(&format!("\"{}\"", sender.name), "\"eve/other\"");
        let other = other.replace("35129377", "7").replace("build-1", "build-2");
        let other = if app == "gitlab" { other.replace("\"id\": 15", "\"id\": 16") } else { other };
        let other = other.replace("\"id\": 140", "\"id\": 141").replace("b7f9e1d2", "aaaaaaaa");
        let (status, body) = sender.send(&berth, &path, "d-3", &secret, &other).await;
        assert_eq!(status, 403, "{app}: another repository was taken: {body}");
        let (status, body) = sender.send(&berth, &path, "d-4", &secret, "{\"ref\":").await;
        assert_eq!(status, 400, "{app}: {body}");
        assert_eq!(pushes(&berth, app).await.len(), told);
        let seen = berth.rest().get(&format!("/v1/apps/{app}/repository")).await.ok();
        assert!(seen["last_delivery"]["outcome"].as_str().is_some(), "{seen}");
        assert!(seen["last_refusal"]["outcome"].as_str().is_some(), "{seen}");
        assert!(!seen.to_string().contains(&secret), "the secret is shown again");
    }
    let events = berth.rest().get("/v1/events?kind=webhook.refused&limit=100").await.ok();
    assert_eq!(
        events["events"].as_array().unwrap().len(),
        senders().len(),
        "one entry per repository: {events}"
    );
    let log = berth.log();
    assert!(!log.contains("whsec_"), "a secret is in the log:\n{log}");
}

#[tokio::test]
async fn a_webhook_is_bounded_and_needs_a_repository() {
    let berth = Berth::without_docker().await;
    let senders = senders();
    let github = &senders[0];
    let (path, secret) = github.connect(&berth).await;
    let (status, _) =
        github.send(&berth, "/hooks/4e1b4a0c-0000-4000-8000-000000000000", "d", &secret, "{}").await;
    assert_eq!(status, 404);
    assert_eq!(berth.anonymous().get(&path).await.status, 405);
    let form = berth.anonymous().request(Method::POST, &path);
    let form = form.header("content-type", "application/x-www-form-urlencoded").body("payload={}");
    let form = form.send().await.unwrap();
    assert_eq!(form.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);

    // Announced too large: refused before it is sent. Not announced: refused when it has become so.
    let address = berth.control_url.trim_start_matches("http://").to_owned();
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    let mut announced = tokio::net::TcpStream::connect(&address).await.unwrap();
    announced.write_all(format!("{head}content-length: 26214401\r\n\r\n").as_bytes()).await.unwrap();
    assert!(answer_of(&mut announced).await.starts_with("HTTP/1.1 413"));
    let mut chunked = tokio::net::TcpStream::connect(&address).await.unwrap();
    chunked.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
    let (mut reader, mut writer) = chunked.split();
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    let writing = async {
        for _ in 0..30 {
            if writer.write_all(chunk.as_bytes()).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut answer = vec![0; 64];
    tokio::select! {
        read = reader.read(&mut answer) => assert!(read.unwrap() > 0),
        () = writing => {}
    }
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 413"));

    // A body that does not come is not waited for.
    let mut slow = tokio::net::TcpStream::connect(&address).await.unwrap();
    slow.write_all(format!("{head}content-length: 100\r\n\r\n{{").as_bytes()).await.unwrap();
    let begun = std::time::Instant::now();
    assert!(answer_of(&mut slow).await.starts_with("HTTP/1.1 408"));
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert!(pushes(&berth, "github").await.is_empty());

    // Guessing is slowed, and told so.
    let mut last = 0;
    for at in 0..30 {
        (last, _) = github.send(&berth, &path, &format!("guess-{at}"), "whsec_guess", &github.body).await;
    }
    assert_eq!(last, 429);
}

async fn answer_of(stream: &mut tokio::net::TcpStream) -> String {
    let mut answer = vec![0; 64];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut answer)).await;
    let read = read.expect("an answer in time").unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let mut berth = Berth::without_docker().await;
    let senders = senders();
    let github = &senders[0];
    let (path, secret) = github.connect(&berth).await;
    for round in 0..3 {
        let commit = format!("{round}").repeat(40).replace('0', "a");
        let body = github.body.replace(NEW, &commit);
        let (status, _) = github.send(&berth, &path, &format!("d-{round}"), &secret, &body).await;
        berth.kill().await;
        assert_eq!(status, 202);
        berth.start_again().await;
        let kept = pushes(&berth, "github").await;
        assert_eq!(kept[0]["change"]["commit"], json!(commit), "{kept:?}");
        assert_eq!(kept.len(), round + 1);
        let (status, body) = github.send(&berth, &path, &format!("d-{round}"), &secret, &body).await;
        assert_eq!((status, body["pushes"].as_array().unwrap().len()), (200, 0), "the same again: {body}");
    }
}

#[tokio::test]
async fn another_projects_repository_is_not_there() {
    let berth = Berth::without_docker().await;
    senders()[0].connect(&berth).await;
    berth.rest().post("/v1/projects", json!({ "name": "other" })).await.ok();
    let stranger = berth.token("stranger", &["write", "secrets"], &["other"]).await;
    let rest = berth.rest_as(&stranger);
    rest.get("/v1/apps/github/repository").await.problem(404, "not_found");
    rest.get("/v1/apps/github/repository/key").await.problem(404, "not_found");
    rest.post("/v1/apps/github/repository/webhook", json!({})).await.problem(404, "not_found");
    rest.delete("/v1/apps/github/repository?confirm=github").await.problem(404, "not_found");
    // Without the scope secrets, the secret is not shown, and not made anew unseen.
    let writer = berth.token("writer", &["write"], &[]).await;
    let body = json!({ "git_url": "https://github.com/acme/site", "poll_minutes": 0 });
    berth.rest().post("/v1/apps", json!({ "name": "second" })).await.ok();
    let path = "/v1/apps/second/repository";
    let answer = berth.rest_as(&writer).send(Method::PUT, path, Some(body)).await.ok();
    assert!(answer["webhook"]["secret"].is_null(), "{answer}");
    let rotate = format!("{path}/webhook");
    berth.rest_as(&writer).post(&rotate, json!({})).await.problem(403, "forbidden");
    let shown = berth.rest().post(&rotate, json!({})).await.ok();
    assert!(shown["webhook"]["secret"].as_str().unwrap().starts_with("whsec_"));
    // Taking it away wants its name, and says before what it does.
    berth.rest().delete(path).await.problem(400, "confirmation_required");
    let would = berth.rest().delete(&format!("{path}?dry_run=true")).await.ok();
    assert_eq!(would["done"], false);
    let done = berth.rest().delete(&format!("{path}?confirm=second")).await.ok();
    assert_eq!(done["done"], true);
    berth.rest().get(path).await.problem(404, "not_found");
}

#[tokio::test]
async fn who_guesses_is_slowed_and_nobody_else() {
    let berth = Berth::without_docker().await;
    let sender = &senders()[0];
    let (path, secret) = sender.connect(&berth).await;
    // As the data plane says it, whose own address is the same for all.
    let from = async |client: &str, id: &str, secret: &str| {
        let (header, value) = (sender.signature)(secret, sender.body.as_bytes());
        let request = berth
            .anonymous()
            .request(Method::POST, &path)
            .header("content-type", "application/json")
            .header("x-forwarded-for", client)
            .header("x-github-event", "push")
            .header(sender.id, id)
            .header(header, value)
            .body(sender.body.clone());
        request.send().await.unwrap().status().as_u16()
    };
    let mut answers = Vec::new();
    for n in 0..25 {
        answers.push(from("192.0.2.1", &format!("g{n}"), "guess").await);
    }
    assert_eq!((answers[0], answers[24]), (401, 429), "{answers:?}");
    assert_eq!(from("192.0.2.2", "other", "guess").await, 401);
    assert_eq!(from("192.0.2.2", "good", &secret).await, 202);
}
