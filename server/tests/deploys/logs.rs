//! What apps print, what visitors asked for, and what a deployment did, read and followed.

use std::time::Duration;

use reqwest::Method;

use crate::support::{docker, mcp, mcp::Way, *};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_prints_is_found_by_text_level_and_release() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    for (text, to) in [
        ("order%2042%20was%20paid", "stdout"),
        ("WARN%20the%20stock%20is%20low", "stdout"),
        ("ERROR%20the%20printer%20is%20on%20fire", "stderr"),
    ] {
        assert_eq!(berth.visit("web", &format!("/say?text={text}&to={to}")).await.status, 200);
    }
    let found = |query: &'static str| {
        let berth = &berth;
        async move {
            let page = berth.get(&format!("/v1/apps/web/logs?{query}")).await;
            page["lines"]
                .as_array()
                .unwrap()
                .iter()
                .map(|l| l["text"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        }
    };
    eventually("the lines", PATIENCE, async || {
        found("contains=on+fire").await.first().map(|l| assert_eq!(l, "ERROR the printer is on fire"))
    })
    .await;
    assert_eq!(found("contains=ORDER%2042").await, ["order 42 was paid"]);
    assert_eq!(found("level=warn").await, ["WARN the stock is low", "ERROR the printer is on fire"]);
    assert_eq!(found("level=error").await, ["ERROR the printer is on fire"]);
    assert_eq!(found("release=2").await, [""; 0]);
    assert_eq!(found("contains=nothing+like+it").await, [""; 0]);
    let all = found("since=10m").await;
    assert!(all.contains(&"listening on 8080".to_owned()), "{all:#?}");
    let newest = berth.get("/v1/apps/web/logs?limit=1&level=error").await;
    assert_eq!(newest["lines"][0]["stream"], "stderr", "{newest:#}");

    let ran = berth.cli(&["logs", "web", "--level", "error"]).await.ok();
    assert!(ran.out.contains("the printer is on fire") && !ran.out.contains("order 42"), "{ran:#?}");
    if let Some(python) = mcp::python().await {
        let steps = json!([{ "tool": "log_search", "arguments": { "app": "web", "contains": "fire" } }]);
        let result = mcp::run(&berth, &python, Way::Http, &steps).await.remove(0);
        let text = result["structured"]["lines"][0]["text"].as_str().unwrap();
        assert!(text.contains("ERROR the printer is on fire") && text.contains("untrusted"), "{result:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_live_across_a_redeploy() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let mut events = berth.follow("/v1/apps/web/logs?contains=ping").await;
    let mut heard = async |what: &str| loop {
        let event = events.next(PATIENCE).await.expect("the stream ended");
        if event.name == "log_line" {
            assert_eq!(event.data["text"], what);
            return event.data["release"].as_i64().unwrap();
        }
    };
    berth.visit("web", "/say?text=ping%20one").await;
    assert_eq!(heard("ping one").await, 1);
    berth.deploy_live("web", apps::probe("2")).await;
    berth.visit("web", "/say?text=ping%20two").await;
    assert_eq!(heard("ping two").await, 2, "the new release's output comes by the same stream");
    berth.visit("web", "/say?text=not%20this").await;
    berth.visit("web", "/say?text=ping%20three").await;
    assert_eq!(heard("ping three").await, 2, "the filter holds while following");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_is_bounded_and_does_not_stop_the_app() {
    needs_docker!();
    let berth = Berth::start().await;
    let program = "import http.server, threading\n\
        def flood():\n    [print('flood', n, 'x' * 100) for n in range(60000)]\n    print('the flood is over')\n\
        threading.Thread(target=flood).start()\n\
        http.server.ThreadingHTTPServer(('0.0.0.0', 8080), http.server.SimpleHTTPRequestHandler).serve_forever()\n";
    berth.deploy_live("web", apps::python(program)).await;
    let container = docker::running(&berth.instance, "web").remove(0);
    eventually("the end of the flood", Duration::from_secs(60), async || {
        docker::docker(&["logs", "--tail", "3", &container]).contains("the flood is over").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The next thing that it prints, a line about this request, is kept again, and what was cut is said.
    assert_eq!(berth.visit("web", "/after-the-flood").await.status, 404);
    for wanted in ["after-the-flood", "were+dropped"] {
        eventually(wanted, Duration::from_secs(30), async || {
            let page = berth.get(&format!("/v1/apps/web/logs?contains={wanted}")).await;
            (!page["lines"].as_array().unwrap().is_empty()).then_some(())
        })
        .await;
    }
    assert_eq!(berth.attention().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_recorded_with_its_status_and_time() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let page = berth.visit("web", "/slow?ms=300&token=never-recorded").await;
    let id = page.headers["x-request-id"].to_str().unwrap().to_owned();
    berth.visit("web", "/status?code=404").await;
    berth.visit("web", "/status?code=500").await;
    berth.try_visit(Method::POST, "web", "/echo", "twelve bytes").await.unwrap();
    let all = eventually("the records", PATIENCE, async || {
        let page = berth.get("/v1/apps/web/requests").await;
        (page["total"].as_i64() >= Some(4)).then_some(page)
    })
    .await;
    assert_eq!(all["errors"], 1, "{all:#}");
    let find = |path: &str| {
        let all = all["requests"].as_array().unwrap();
        all.iter().find(|r| r["path"] == path).unwrap_or_else(|| panic!("{path}: {all:#?}")).clone()
    };
    let slow = find("/slow");
    assert_eq!(
        (&slow["request_id"], &slow["status"], &slow["release"]),
        (&json!(id), &json!(200), &json!(1))
    );
    assert!(slow["ms"].as_f64() >= Some(300.0) && slow["app_ms"].as_f64() >= Some(300.0), "{slow:#}");
    assert!(!all.to_string().contains("never-recorded"), "queries may hold secrets and are not recorded");
    let post = find("/echo");
    assert_eq!((&post["method"], &post["bytes_in"]), (&json!("POST"), &json!(12)), "{post:#}");
    let failed = berth.get("/v1/apps/web/requests?status=5xx").await;
    assert_eq!(failed["total"], 1, "{failed:#}");
    let slow = berth.get("/v1/apps/web/requests?slower_than_ms=250").await;
    assert_eq!(slow["requests"][0]["path"], "/slow", "{slow:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_followed_line_by_line_while_it_builds() {
    needs_docker!();
    let berth = Berth::start().await;
    let source = apps::dockerfile(&format!(
        "FROM python:3.12-slim\nRUN for i in 1 2 3; do echo tick-$i-{}; sleep 1; done\n\
        CMD [\"python3\", \"-m\", \"http.server\", \"8080\"]\n",
        uuid::Uuid::new_v4()
    ));
    let deployment = berth.begin("web", source).await;
    let path = format!("{}/log", api::path_of(&deployment));
    let mut events = berth.follow(&path).await;
    let mut ticks = Vec::new();
    let mut last = None;
    while let Some(event) = events.next(Duration::from_secs(120)).await {
        let text = event.data["text"].as_str().unwrap_or_default();
        if event.name == "build_line" && event.data["kind"] == "output" && text.contains("tick-") {
            ticks.push(std::time::Instant::now());
        }
        last = Some(event);
    }
    assert_eq!(ticks.len(), 3);
    assert!(
        ticks[2] - ticks[0] > Duration::from_millis(1200),
        "they come as they are printed, not at the end"
    );
    let last = last.unwrap();
    assert_eq!((last.name.as_str(), &last.data["state"]), ("result", &json!("live")));
    // What was followed can be read later, filtered.
    let page = berth.get(&format!("{path}?contains=TICK-2")).await;
    assert!(page["lines"].as_array().unwrap().iter().any(|l| l["kind"] == "output"), "{page:#}");
    let page = berth.get(&format!("{path}?after=0&limit=2")).await;
    assert_eq!((page["lines"].as_array().unwrap().len(), &page["truncated"]), (2, &json!(true)));
}
