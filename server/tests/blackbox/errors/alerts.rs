//! Alerts on errors, by webhook and by mail.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{dsn, envelope, event, send};
use crate::harness::{Berth, external::python_or_skip};

/// What a webhook got: its headers and its body.
type Got = (http::HeaderMap, String);

async fn receiver() -> (String, tokio::sync::mpsc::UnboundedReceiver<Got>) {
    let (sender, received) = tokio::sync::mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = axum::Router::new().route(
        "/hook",
        axum::routing::post(move |headers: http::HeaderMap, body: String| {
            let sender = sender.clone();
            async move {
                let _ = sender.send((headers, body));
            }
        }),
    );
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, received)
}

/// What Slack's incoming webhooks take, by their documentation: JSON with a text, of at most 40,000 characters.
fn slack(headers: &http::HeaderMap, body: &str) -> Result<(StatusCode, &'static str), &'static str> {
    let body: Value = serde_json::from_str(body).map_err(|_| "invalid_payload")?;
    let json = headers["content-type"].to_str().is_ok_and(|t| t.starts_with("application/json"));
    let text = body["text"].as_str().filter(|t| !t.is_empty()).ok_or("no_text")?;
    let known = ["text", "blocks", "attachments", "thread_ts", "mrkdwn"];
    let known = body.as_object().is_some_and(|o| o.keys().all(|k| known.contains(&k.as_str())));
    // A mention, or a link that says otherwise than where it leads.
    let calls = text.contains("<!") || text.contains("<@") || text.contains("<http");
    match json && known && !calls && text.chars().count() <= 40_000 {
        true => Ok((StatusCode::OK, "ok")),
        false => Err("invalid_payload"),
    }
}

/// What Discord's webhooks take, by their documentation: JSON with content of at most 2,000 characters; 204 is the answer.
fn discord(headers: &http::HeaderMap, body: &str) -> Result<(StatusCode, &'static str), &'static str> {
    let body: Value = serde_json::from_str(body).map_err(|_| "no JSON")?;
    let json = headers["content-type"].to_str().is_ok_and(|t| t.starts_with("application/json"));
    let content = body["content"].as_str().filter(|t| !t.is_empty()).ok_or("an empty message")?;
    let known = ["content", "username", "avatar_url", "tts", "embeds", "allowed_mentions", "flags"];
    let known = body.as_object().is_some_and(|o| o.keys().all(|k| known.contains(&k.as_str())));
    let nobody = body["allowed_mentions"] == json!({ "parse": [] });
    match json && known && nobody && content.chars().count() <= 2_000 {
        true => Ok((StatusCode::NO_CONTENT, "")),
        false => Err("invalid form body"),
    }
}

type Takes = fn(&http::HeaderMap, &str) -> Result<(StatusCode, &'static str), &'static str>;

/// A stand-in that refuses what the real one would.
async fn chat(takes: Takes) -> (String, tokio::sync::mpsc::UnboundedReceiver<Value>) {
    let (sender, received) = tokio::sync::mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/services/T0/B0/secret", listener.local_addr().unwrap());
    let router = axum::Router::new().route(
        "/services/T0/B0/secret",
        axum::routing::post(move |headers: http::HeaderMap, body: String| {
            let sender = sender.clone();
            async move {
                match takes(&headers, &body) {
                    Ok(answer) => {
                        let _ = sender.send(serde_json::from_str(&body).unwrap());
                        answer
                    }
                    Err(why) => (StatusCode::BAD_REQUEST, why),
                }
            }
        }),
    );
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, received)
}

#[tokio::test]
async fn chats_get_what_they_take() {
    let berth = Berth::without_docker_with(&["--allow-private-sources", "true"]).await;
    let dsn = dsn(&berth, "web").await;
    let (slack_url, mut slack_told) = chat(slack).await;
    let (discord_url, mut discord_told) = chat(discord).await;
    let set = async |path: &str, body: Value| berth.rest().send(Method::PUT, path, Some(body)).await.ok();
    for (name, url) in [("slack", &slack_url), ("discord", &discord_url)] {
        let shown = set(
            &format!("/v1/channels/{name}"),
            json!({ "target": { "kind": name, "url": url }, "max_per_hour": 7 }),
        )
        .await;
        assert_eq!((&shown["to"], &shown["max_per_hour"]), (&json!("127.0.0.1"), &json!(7)));
        let tested = berth.rest().post(&format!("/v1/channels/{name}/test"), json!({})).await.ok();
        assert_eq!(tested["delivered"], true, "{tested:#}");
    }
    assert!(slack_told.recv().await.unwrap()["text"].as_str().unwrap().contains("This channel works"));
    assert!(discord_told.recv().await.unwrap()["content"].as_str().unwrap().contains("This channel works"));
    set("/v1/alerts/new", json!({ "when": "new_error", "channels": ["slack", "discord"] })).await;
    let said = format!("<!channel> @everyone <https://evil.example|click> {}", "long ".repeat(2_000));
    for n in 1..=30 {
        let more = json!({ "exception": {"values": [{ "type": format!("E{n}"), "value": said }]} });
        assert_eq!(send(&dsn, envelope(&event(n, more))).await.0, StatusCode::OK);
    }
    for (told, field) in [(&mut slack_told, "text"), (&mut discord_told, "content")] {
        let told = tokio::time::timeout(Duration::from_secs(30), told.recv()).await.unwrap().unwrap();
        let text = told[field].as_str().unwrap();
        assert!(text.contains("WEB-1 E1:") && !text.contains("@everyone"), "{text}");
    }
    let url = "http://127.0.0.1:9/services/T0/B0/secret";
    set("/v1/channels/slack", json!({ "target": { "kind": "slack", "url": url } })).await;
    let tested = berth.rest().post("/v1/channels/slack/test", json!({})).await.ok();
    assert_eq!(tested["delivered"], false);
    assert!(!tested.to_string().contains("secret"), "its URL is a secret: {tested:#}");
    for limit in [0, 501] {
        let body = json!({ "target": { "kind": "slack", "url": url }, "max_per_hour": limit });
        let answer = berth.rest().send(Method::PUT, "/v1/channels/slack", Some(body)).await;
        answer.problem(400, "invalid_input");
    }
}

#[tokio::test]
async fn alerts_reach_their_channels_once() {
    let berth = Berth::without_docker_with(&["--allow-private-sources", "true"]).await;
    let dsn = dsn(&berth, "web").await;
    let rest = berth.rest();
    let (url, mut received) = receiver().await;
    let set = async |path: &str, body: Value| berth.rest().send(Method::PUT, path, Some(body)).await;
    let channel = set("/v1/channels/hook", json!({ "target": { "kind": "webhook", "url": url } })).await.ok();
    let secret = channel["secret"].as_str().unwrap().to_owned();
    assert!(!rest.get("/v1/channels").await.ok().to_string().contains(&secret), "shown once");
    set("/v1/alerts/new", json!({ "when": "new_error", "channels": ["nowhere"] }))
        .await
        .problem(404, "not_found");
    set("/v1/alerts/new", json!({ "when": "new_error", "channels": ["hook"] })).await.ok();
    set(
        "/v1/alerts/often",
        json!({ "when": "frequency", "threshold": 3, "channels": ["hook"], "quiet_minutes": 60 }),
    )
    .await
    .ok();
    rest.delete("/v1/channels/hook?confirm=hook").await.problem(409, "conflict");
    let tested = rest.post("/v1/channels/hook/test", json!({})).await.ok();
    assert_eq!(tested["delivered"], true, "{tested:#}");
    let (headers, body) = received.recv().await.unwrap();
    assert!(body.contains("This channel works"));
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let signed = format!("{}.{}.{body}", header("webhook-id"), header("webhook-timestamp"));
    let key =
        base64::Engine::decode(&base64::prelude::BASE64_STANDARD, secret.strip_prefix("whsec_").unwrap())
            .unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let tag = header("webhook-signature");
    let tag =
        base64::Engine::decode(&base64::prelude::BASE64_STANDARD, tag.strip_prefix("v1,").unwrap()).unwrap();
    ring::hmac::verify(&key, signed.as_bytes(), &tag).unwrap();
    for n in 1..=5 {
        assert_eq!(send(&dsn, envelope(&event(n, json!({})))).await.0, StatusCode::OK);
    }
    let mut told = Vec::new();
    while let Ok(Some((_, body))) = tokio::time::timeout(Duration::from_secs(30), received.recv()).await {
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["data"]["issues"][0]["issue"], "WEB-1", "{body:#}");
        told.push(body["data"]["alert"].as_str().unwrap().to_owned());
        if told.len() == 2 {
            break;
        }
    }
    told.sort();
    assert_eq!(told, ["new", "often"]);
    assert_eq!(send(&dsn, envelope(&event(6, json!({})))).await.0, StatusCode::OK);
    let more = tokio::time::timeout(Duration::from_secs(4), received.recv()).await;
    assert!(more.is_err(), "the same is told once: {more:?}");
    for _ in 0..50 {
        let page = rest.get("/v1/alerts").await.ok();
        let states: Vec<&Value> =
            page["deliveries"].as_array().unwrap().iter().map(|d| &d["state"]).collect();
        if states == ["sent", "sent"] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("a message is not noted as sent");
}

#[tokio::test]
async fn an_alert_goes_by_mail() {
    let Some(venv) = python_or_skip(&["aiosmtpd==1.4.6"]) else { return };
    let berth = Berth::without_docker_with(&["--allow-private-sources", "true"]).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut relay = venv
        .command()
        .args([
            "-u",
            "-m",
            "aiosmtpd",
            "-n",
            "-l",
            &format!("127.0.0.1:{port}"),
            "-c",
            "aiosmtpd.handlers.Debugging",
            "stdout",
        ])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let target = json!({ "kind": "email", "smtp_host": "127.0.0.1", "smtp_port": port, "security": "none",
        "from": "Berth <berth@shop.example>", "to": ["ann@shop.example"] });
    berth.rest().send(Method::PUT, "/v1/channels/mail", Some(json!({ "target": target }))).await.ok();
    let mut tested = Value::Null;
    for _ in 0..50 {
        tested = berth.rest().post("/v1/channels/mail/test", json!({})).await.ok();
        if tested["delivered"] == true {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(tested["delivered"], true, "{tested:#}");
    let mut mail = String::new();
    let mut lines = tokio::io::BufReader::new(relay.stdout.take().unwrap());
    while !mail.contains("This channel works") {
        let read = tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut mail);
        assert!(tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap() > 0, "{mail}");
    }
    assert!(
        mail.contains("Subject: Berth: a test of this channel") && mail.contains("To: ann@shop.example"),
        "{mail}"
    );
    relay.kill().await.unwrap();
}
