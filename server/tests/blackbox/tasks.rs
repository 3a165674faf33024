//! The tasks extension and questions to the person, as a client of the newest revision meets them at a running daemon.

use serde_json::{Value, json};

use crate::harness::{Berth, Rest};

/// A client of the newest revision that can do all of it.
struct Client(Rest);

impl Client {
    fn of(berth: &Berth, token: &str) -> Self {
        let rest = berth.rest_as(token).header("accept", "application/json, text/event-stream");
        Self(rest.header("mcp-protocol-version", "2026-07-28"))
    }

    async fn ask(&self, method: &str, mut params: Value) -> Value {
        let name = params["name"].as_str().or(params["taskId"].as_str()).unwrap_or_default().to_owned();
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "black box", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities":
                { "elicitation": {}, "extensions": { "io.modelcontextprotocol/tasks": {} } },
        });
        let rest = self.0.clone().header("mcp-method", method);
        let rest = if name.is_empty() { rest } else { rest.header("mcp-name", &name) };
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = rest.post("/mcp", body).await;
        // An unknown task may come with a status of its own; what counts is the message.
        answer.json()
    }
}

#[tokio::test]
async fn a_task_outlives_the_daemon_and_is_its_owners_alone() {
    // It accepts connections and says nothing, so that the deployment stays where it is.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/shop.git", silent.local_addr().unwrap());
    let flags = ["--allow-private-sources", "true"];
    let mut berth = Berth::without_docker_with(&flags).await;
    let colleague = berth.token("colleague", &["admin"], &[]).await;

    let client = Client::of(&berth, &berth.token);
    let found = client.ask("server/discover", json!({})).await;
    let said = &found["result"]["capabilities"]["extensions"]["io.modelcontextprotocol/tasks"];
    assert!(said.is_object(), "{found:#}");
    let arguments = json!({ "app": "shop", "git_url": url, "create_app": true });
    let begun =
        client.ask("tools/call", json!({ "name": "deployment_create", "arguments": arguments })).await;
    let begun = &begun["result"];
    assert_eq!((&begun["resultType"], &begun["taskId"]), (&json!("task"), &json!("shop#1")), "{begun:#}");

    berth.kill().await;
    berth.start_again().await;
    let client = Client::of(&berth, &berth.token);
    let task = json!({ "taskId": "shop#1" });
    let after = client.ask("tasks/get", task.clone()).await;
    assert_eq!(after["result"]["status"], "working", "{after:#}");
    assert_eq!(after["result"]["createdAt"], begun["createdAt"]);

    let other = Client::of(&berth, &colleague);
    for method in ["tasks/get", "tasks/cancel"] {
        let hidden = other.ask(method, task.clone()).await["error"].take();
        let none = other.ask(method, json!({ "taskId": "shop#7" })).await["error"].take();
        assert_eq!(hidden["code"], -32602, "{method}: {hidden:#}");
        assert_eq!(hidden.to_string().replace("shop#1", "shop#7"), none.to_string(), "{method}");
    }

    let cancelled = client.ask("tasks/cancel", task.clone()).await;
    assert!(cancelled["error"].is_null(), "{cancelled:#}");
    let end = client.ask("tasks/get", task).await;
    assert_eq!(end["result"]["status"], "cancelled", "{end:#}");
    let detail = berth.rest().get("/v1/deployments/shop%231").await.ok();
    assert_eq!(detail["state"], "cancelled");
}

/// Work on the platform itself is no less durable than that on an app.
#[tokio::test]
async fn a_cleanup_is_a_task_and_goes_on_after_the_daemon_died() {
    let mut berth = Berth::without_docker().await;
    berth.pause_at("before:job_running");
    let client = Client::of(&berth, &berth.token);
    let cleanup =
        json!({ "name": "platform_cleanup", "arguments": { "dry_run": false, "confirm": "cleanup" } });
    let call = json!({ "name": "tool_write", "arguments": cleanup });
    let begun = client.ask("tools/call", call).await["result"].take();
    assert_eq!((&begun["resultType"], &begun["status"]), (&json!("task"), &json!("working")), "{begun:#}");
    let task = json!({ "taskId": begun["taskId"] });
    berth.paused().await;
    let seen = client.ask("tasks/get", task.clone()).await["result"].take();
    assert_eq!(seen["status"], "working", "{seen:#}");

    berth.kill().await;
    berth.start_again().await;
    let client = Client::of(&berth, &berth.token);
    for _ in 0..100 {
        let seen = client.ask("tasks/get", task.clone()).await["result"].take();
        if seen["status"] == "completed" {
            let end = &seen["result"]["structuredContent"];
            assert_eq!(end["job"]["state"], "succeeded", "{seen:#}");
            assert!(end["effect"].as_str().unwrap().starts_with("Removed "), "{seen:#}");
            assert_eq!(end["items"], json!([]), "what the call itself answers: {seen:#}");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the cleanup does not end:\n{}", berth.log());
}

#[tokio::test]
async fn a_person_is_asked_and_their_word_counts_once_the_daemon_knows_it() {
    let mut berth = Berth::without_docker().await;
    berth.rest().post("/v1/apps", json!({ "name": "shop" })).await.ok();
    let asked = json!({ "name": "app_delete", "arguments": { "app": "shop" } });
    let question = Client::of(&berth, &berth.token).ask("tools/call", asked.clone()).await["result"].take();
    assert_eq!(question["resultType"], "input_required", "{question:#}");
    let answered = |question: &Value, action: &str| {
        let mut again = asked.clone();
        again["requestState"] = question["requestState"].clone();
        again["inputResponses"] = json!({ "confirm": { "action": action, "content": { "confirm": true } } });
        again
    };

    // A seal of the process before counts no more: the person is asked anew.
    berth.kill().await;
    berth.start_again().await;
    let client = Client::of(&berth, &berth.token);
    let stale = client.ask("tools/call", answered(&question, "accept")).await["result"].take();
    assert_eq!(stale["resultType"], "input_required", "{stale:#}");
    let refused = client.ask("tools/call", answered(&stale, "decline")).await["result"].take();
    assert_eq!(refused["isError"], true, "{refused:#}");
    berth.rest().get("/v1/apps/shop").await.ok();

    let done = client.ask("tools/call", answered(&stale, "accept")).await["result"].take();
    assert!(done["resultType"] == "task" || done["structuredContent"]["deleting"] == true, "{done:#}");
    for _ in 0..100 {
        if berth.rest().get("/v1/apps/shop").await.status == 404 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the app is still there:\n{}", berth.log());
}
