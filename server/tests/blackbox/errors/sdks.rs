//! Sentry's clients for servers, as they come.

use serde_json::{Value, json};

use super::{dsn, found};
use crate::harness::{
    Berth,
    external::{npm_or_skip, python_or_skip},
};

#[tokio::test]
async fn the_python_sdk_does_not_notice() {
    let Some(venv) = python_or_skip(&["sentry-sdk==2.75.0", "flask==3.1.2"]) else { return };
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "shop").await;
    let script = r#"
import sys, sentry_sdk
from sentry_sdk.crons import monitor
sentry_sdk.init(dsn=sys.argv[1], release="shop@2", environment="production", traces_sample_rate=1.0)
import flask
app = flask.Flask("shop")
def price(item):
    return {}[item]
@app.route("/cart/<item>")
def cart(item):
    sentry_sdk.add_breadcrumb(category="cart", message="opened")
    sentry_sdk.set_user({"id": "7", "email": "ann@shop.example"})
    sentry_sdk.set_tag("shop", "north")
    return price(item)
client = app.test_client()
for item in ("apple", "pear"):
    assert client.get("/cart/" + item).status_code == 500
try:
    try:
        int("x")
    except ValueError as e:
        raise RuntimeError("no number") from e
except RuntimeError:
    sentry_sdk.capture_exception()
sentry_sdk.capture_message("disk is almost full", level="warning")
with monitor(monitor_slug="nightly"):
    pass
with sentry_sdk.push_scope() as scope:
    scope.add_attachment(bytes=b"a\nb", filename="notes.txt")
    sentry_sdk.capture_message("with notes")
sentry_sdk.flush()
"#;
    let ran = venv.command().args(["-c", script, &dsn.dsn]).output().await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let issues = found(&berth, "is:open", 4).await;
    let key = issues.iter().find(|i| i["kind"] == "KeyError").unwrap();
    assert_eq!(
        (&key["events"], &key["users"], &key["handled"]),
        (&json!(2), &json!(1), &json!(false)),
        "{key:#}"
    );
    assert!(key["culprit"].as_str().unwrap().starts_with("price in"), "{key:#}");
    let chained = issues.iter().find(|i| i["kind"] == "RuntimeError").unwrap();
    let got = berth.rest().get(&format!("/v1/errors/{}", chained["issue"].as_str().unwrap())).await.ok();
    let kinds: Vec<&Value> =
        got["latest"]["exceptions"].as_array().unwrap().iter().map(|e| &e["kind"]).collect();
    assert_eq!(kinds, ["RuntimeError", "ValueError"]);
    assert_eq!(found(&berth, "\"almost full\" level:warning", 1).await[0]["level"], "warning");
    let notes = found(&berth, "\"with notes\"", 1).await.remove(0);
    let got = berth.rest().get(&format!("/v1/errors/{}", notes["issue"].as_str().unwrap())).await.ok();
    let files = got["latest"]["attachments"].as_array().unwrap();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!((&files[0]["name"], &files[0]["bytes"]), (&json!("notes.txt"), &json!(3)));
    found(&berth, "transaction:cart shop:north release:shop@2", 1).await;
}

#[tokio::test]
async fn the_node_sdk_does_not_notice() {
    let Some(npm) = npm_or_skip(&["@sentry/node@11.12.0"]) else { return };
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let script = format!(
        r#"
import * as Sentry from "@sentry/node";
Sentry.init({{ dsn: {dsn:?}, release: "web@3", environment: "production", sendDefaultPii: true, tracesSampleRate: 1,
  enableLogs: true }});
Sentry.setUser({{ id: "7", email: "ann@shop.example" }});
function readOrder(order) {{ return order.lines[0]; }}
for (let i = 0; i < 3; i++) {{
  try {{ readOrder(undefined); }} catch (e) {{ e.message += " at try " + i; Sentry.captureException(e, {{ tags: {{ shop: "north" }} }}); }}
}}
Sentry.addBreadcrumb({{ category: "auth", message: "signed in" }});
Sentry.captureMessage("order 17 is late");
Sentry.captureMessage("order 18 is late");
Sentry.captureException(new Error("outer", {{ cause: new TypeError("inner") }}), {{ fingerprint: ["{{{{ default }}}}", "x"] }});
Sentry.captureException(new RangeError("with notes"), {{ attachments: [{{ filename: "notes.txt", data: "a\nb" }}] }});
Sentry.startSpan({{ name: "GET /cart", op: "http.server" }}, () => Sentry.logger.info("a cart was read"));
Sentry.withMonitor("nightly", () => 1, {{ schedule: {{ type: "crontab", value: "0 3 * * *" }} }});
await Sentry.flush(5000);
"#,
        dsn = dsn.dsn
    );
    let ran = npm.module(&script).output().await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let issues = found(&berth, "is:open", 4).await;
    let read =
        issues.iter().find(|i| i["culprit"].as_str().is_some_and(|c| c.starts_with("readOrder"))).unwrap();
    assert_eq!((&read["kind"], &read["events"]), (&json!("TypeError"), &json!(3)), "{read:#}");
    let late = issues.iter().find(|i| i["kind"].as_str().unwrap().contains("is late")).unwrap();
    assert_eq!(late["events"], 2, "a message's parameters do not count");
    found(&berth, "shop:north release:web@3 runtime:node* user.id:7", 1).await;
    let notes = found(&berth, "type:RangeError", 1).await.remove(0);
    let got = berth.rest().get(&format!("/v1/errors/{}", notes["issue"].as_str().unwrap())).await.ok();
    let files = got["latest"]["attachments"].as_array().unwrap();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!((&files[0]["name"], &files[0]["bytes"]), (&json!("notes.txt"), &json!(3)));
    // What nobody catches ends the program, and is sent before.
    let script = format!(
        r#"
import * as Sentry from "@sentry/node";
Sentry.init({{ dsn: {dsn:?}, release: "web@3", environment: "production" }});
setTimeout(() => {{ throw new SyntaxError("nobody catches this"); }});
"#,
        dsn = dsn.dsn
    );
    let ran = npm.module(&script).output().await.unwrap();
    assert_eq!(ran.status.code(), Some(1), "{}", String::from_utf8_lossy(&ran.stderr));
    let issue = found(&berth, "type:SyntaxError", 1).await.remove(0);
    assert_eq!(issue["handled"], false, "{issue:#}");
    let told = berth.rest().get("/v1/apps/web/dsn").await.ok();
    assert_eq!(told["dropped_24h"], json!([]), "{told:#}");
}
