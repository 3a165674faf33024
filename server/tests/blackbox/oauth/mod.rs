//! The authorization server from outside: by hand, by the conformance suite and by a client that others wrote.

mod browser;
mod document;
mod foreign;

use serde_json::{Value, json};

use crate::harness::{Answer, Berth};
use browser::{Browser, Flow};

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const CALLBACK: &str = "http://127.0.0.1/callback";

/// Calls a tool by MCP with this token.
async fn call(berth: &Berth, token: &str, tool: &str, arguments: Value) -> Answer {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": tool, "arguments": arguments } });
    let mcp = berth.rest_as(token).header("accept", "application/json, text/event-stream");
    mcp.header("mcp-protocol-version", "2025-11-25").post("/mcp", body).await
}

fn metadata_of(berth: &Berth) -> String {
    format!("resource_metadata=\"{}/.well-known/oauth-protected-resource/mcp\"", berth.control_url)
}

#[tokio::test]
async fn a_client_finds_its_way_from_a_401() {
    let berth = Berth::without_docker().await;
    let refused = berth.anonymous().post("/mcp", json!({})).await;
    refused.problem(401, "unauthenticated");
    let challenge = refused.header("www-authenticate");
    let origin = &berth.control_url;
    assert!(challenge.contains(&metadata_of(&berth)), "{challenge}");
    assert!(challenge.contains("scope=\"read deploy write\""), "{challenge}");
    for path in ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"] {
        let resource = berth.anonymous().get(path).await.ok();
        assert_eq!(resource["resource"], format!("{origin}/mcp"));
        assert_eq!(resource["authorization_servers"], json!([origin]));
    }
    let server = berth.anonymous().get("/.well-known/oauth-authorization-server").await.ok();
    assert_eq!(server["issuer"], **origin);
    assert_eq!(server["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(server["client_id_metadata_document_supported"], true);
    // Under another name that it answers to, everything has that name.
    let port = origin.rsplit(':').next().unwrap();
    let local = berth.anonymous().host(&format!("localhost:{port}"));
    let server = local.get("/.well-known/oauth-authorization-server").await.ok();
    assert_eq!(server["issuer"], format!("http://localhost:{port}"));
}

#[tokio::test]
async fn an_approved_client_does_what_was_approved_and_no_more() {
    let berth = Berth::without_docker().await;
    let owner = berth.token("owner", &["write"], &[]).await;
    let flow = Flow::new(&berth).await;
    let mut browser = Browser::new(&berth);
    let page = browser.open(&flow.url(&[("scope", "read admin offline_access")])).await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(page.text.contains("Test &lt;client&gt;") && !page.text.contains("<client>"), "{}", page.text);
    assert!(page.text.contains("<b>127.0.0.1 (a program on your own machine)</b>"), "{}", page.text);
    assert!(page.text.contains("scope_read\" checked") && page.text.contains("scope_admin\">"));
    assert!(!page.text.contains("<script"));
    let policy = page.header("content-security-policy");
    for part in ["default-src 'none'", "frame-ancestors 'none'", "form-action 'self' http://127.0.0.1:40001;"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert_eq!(page.header("x-frame-options"), "DENY");
    assert_eq!(page.header("cache-control"), "no-store");

    // The owner has no admin, so that ticking it gives none.
    let sent = browser
        .answer(&[("decision", "approve"), ("token", &owner), ("scope_read", "on"), ("scope_admin", "on")])
        .await;
    assert_eq!(sent.status, 303, "{}", sent.text);
    let back = browser::query(sent.header("location"));
    assert_eq!(back["state"], "s&1");
    assert_eq!(back["iss"], berth.control_url);
    let given = flow.token(&[("code", &back["code"])]).await;
    assert_eq!(given.header("cache-control"), "no-store");
    let given = given.ok();
    assert_eq!(
        (&given["scope"], &given["token_type"], &given["expires_in"]),
        (&json!("read"), &json!("Bearer"), &json!(3600))
    );
    let access = given["access_token"].as_str().unwrap();

    let listed = call(&berth, access, "app_list", json!({})).await.ok();
    assert_ne!(listed["result"]["isError"], true, "{listed}");
    let refused = call(&berth, access, "app_create", json!({ "name": "shop" })).await;
    refused.problem(403, "forbidden");
    let wanted = refused.header("www-authenticate");
    assert!(wanted.starts_with("Bearer ") && wanted.contains("error=\"insufficient_scope\""), "{wanted}");
    assert!(wanted.contains("scope=\"read write\"") && wanted.contains(&metadata_of(&berth)), "{wanted}");
    let audit = berth.rest().get("/v1/audit?principal=owner").await.ok();
    let row = &audit["calls"][0];
    assert_eq!((&row["tool"], &row["outcome"]), (&json!("app_create"), &json!("forbidden")), "{audit}");
    assert_eq!((&row["surface"], &row["client"]), (&json!("mcp"), &json!("Test <client>")), "{audit}");
    assert!(row["grant"].is_string() && row["request_id"].is_string(), "{audit}");
    // Good for /mcp at this origin and nowhere else.
    berth.rest_as(access).get("/v1/apps").await.problem(401, "unauthenticated");
    let port = berth.control_url.rsplit(':').next().unwrap();
    let elsewhere = berth.rest_as(access).host(&format!("localhost:{port}")).post("/mcp", json!({})).await;
    elsewhere.problem(401, "unauthenticated");
    berth.anonymous().get(&format!("/mcp?access_token={access}")).await.problem(401, "unauthenticated");

    // The code was used: again, it ends the grant.
    let again = flow.token(&[("code", &back["code"])]).await;
    assert_eq!((again.status, again.json()["error"].as_str()), (400, Some("invalid_grant")));
    let challenge = call(&berth, access, "app_list", json!({})).await;
    challenge.problem(401, "unauthenticated");
    assert!(challenge.header("www-authenticate").contains("error=\"invalid_token\""));
}

/// Each tool beyond the grant, wherever it is in the list, is answered in the way that makes a client ask for more.
#[tokio::test]
async fn whatever_was_not_granted_leads_to_asking_for_it() {
    let berth = Berth::without_docker().await;
    let flow = Flow::new(&berth).await;
    let given = flow.approved(&berth, &berth.token, &["read"]).await;
    let access = given["access_token"].as_str().unwrap();
    let mut asked = 0;
    for tool in berth_tools::registry().tools() {
        let direct = tool.spec.tier == berth_tools::Tier::Core;
        let gateway = if tool.is_harmless() { "tool_read" } else { "tool_write" };
        let answer = match direct {
            true => call(&berth, access, tool.spec.name, json!({})).await,
            false => call(&berth, access, gateway, json!({ "name": tool.spec.name, "arguments": {} })).await,
        };
        let header = answer.header("www-authenticate");
        if tool.spec.scope == berth_schemas::Scope::Read {
            assert_eq!((answer.status, header), (200, ""), "{}", tool.spec.name);
            continue;
        }
        asked += 1;
        answer.problem(403, "forbidden");
        let wanted = format!("scope=\"read {}\"", tool.spec.scope.as_str());
        assert!(header.contains("error=\"insufficient_scope\"") && header.contains(&wanted), "{header}");
    }
    println!("{asked} tools answered 403 insufficient_scope");
    // A token's owner cannot ask for more there: the model reads what is missing.
    let plain = berth.token("plain", &["read"], &[]).await;
    let told = call(&berth, &plain, "app_create", json!({ "name": "shop" })).await.ok();
    assert!(told.to_string().contains("needs the scope write"), "{told}");
    // With more granted, it goes.
    let more = flow.approved(&berth, &berth.token, &["read", "write"]).await;
    let made = call(&berth, more["access_token"].as_str().unwrap(), "app_create", json!({ "name": "shop" }));
    assert_ne!(made.await.ok()["result"]["isError"], true);
}

#[tokio::test]
async fn refresh_tokens_rotate_and_a_stolen_one_ends_the_grant() {
    let mut berth = Berth::without_docker().await;
    let flow = Flow::new(&berth).await;
    let first = flow.approved(&berth, &berth.token, &["read", "write"]).await;
    let text = |given: &Value, name: &str| given[name].as_str().unwrap().to_owned();
    let second = flow.refresh(&text(&first, "refresh_token")).await.ok();
    // Grants outlive the daemon.
    let url = berth.control_url.clone();
    berth.terminate().await;
    berth.start_again().await;
    if berth.control_url == url {
        call(&berth, &text(&second, "access_token"), "app_list", json!({})).await.ok();
    }
    let listed = berth.rest().get("/v1/grants").await.ok();
    let grant = &listed["grants"][0];
    assert_eq!(
        (&grant["client"], &grant["approved_by"]),
        (&json!("Test <client>"), &json!("admin")),
        "{listed}"
    );
    assert!(!listed.to_string().contains(&text(&second, "access_token")));
    let flow = flow.at(&berth);
    let stolen = flow.refresh(&text(&first, "refresh_token")).await;
    assert_eq!((stolen.status, stolen.json()["error"].as_str()), (400, Some("invalid_grant")));
    call(&berth, &text(&second, "access_token"), "app_list", json!({})).await.problem(401, "unauthenticated");
    assert_eq!(berth.rest().get("/v1/grants").await.ok()["grants"], json!([]));
    let events = berth.rest().get("/v1/events?kind=grant").await.ok();
    assert!(events.to_string().contains("used twice"), "{events}");
}

#[tokio::test]
async fn what_is_revoked_stops_at_once() {
    let berth = Berth::without_docker().await;
    let flow = Flow::new(&berth).await;
    let works = async |given: &Value| {
        call(&berth, given["access_token"].as_str().unwrap(), "app_list", json!({})).await.status == 200
    };
    // By the client.
    let given = flow.approved(&berth, &berth.token, &["read"]).await;
    assert!(works(&given).await);
    let token = given["refresh_token"].as_str().unwrap();
    for _ in 0..2 {
        assert_eq!(
            flow.post("/oauth/revoke", &[("token", token), ("client_id", &flow.client)]).await.status,
            200
        );
    }
    assert!(!works(&given).await);
    // By a person.
    let given = flow.approved(&berth, &berth.token, &["read"]).await;
    let id = berth.rest().get("/v1/grants").await.ok()["grants"][0]["grant"].as_str().unwrap().to_owned();
    let asked = berth.cli(["grant", "revoke", &id]).await;
    assert!(asked.code != 0 && works(&given).await, "{}", asked.stdout);
    berth.cli(["grant", "revoke", &id, "--confirm", &id]).await.ok();
    assert!(!works(&given).await);
    // By revoking the token that approved it.
    let owner = berth.token("owner", &["read"], &[]).await;
    let given = flow.approved(&berth, &owner, &["read"]).await;
    assert!(works(&given).await);
    berth.cli(["token", "revoke", "owner", "--confirm", "owner"]).await.ok();
    assert!(!works(&given).await);
}

#[tokio::test]
async fn a_client_that_may_only_propose_waits_for_its_person() {
    let berth = Berth::without_docker().await;
    let flow = Flow::new(&berth).await;
    let mut browser = Browser::new(&berth);
    browser.open(&flow.url(&[("scope", "read write")])).await;
    let token = berth.token.as_str();
    let fields = [("decision", "approve"), ("token", token), ("scope_write", "on"), ("propose", "on")];
    let sent = browser.answer(&fields).await;
    let code = browser::query(sent.header("location"))["code"].clone();
    let given = flow.token(&[("code", &code)]).await.ok();
    let access = given["access_token"].as_str().unwrap();
    let proposed = call(&berth, access, "app_create", json!({ "name": "shop" })).await.ok();
    assert!(proposed.to_string().contains("approval_required"), "{proposed}");
    assert_eq!(berth.rest().get("/v1/apps").await.ok()["total"], 0);
    let listed = berth.cli(["proposal", "list", "--json"]).await.ok().json();
    let number = listed["proposals"][0]["proposal"].to_string();
    // The client cannot approve for its person, even where it may call the tool.
    let own = json!({ "name": "proposal_approve", "arguments": { "proposal": 1, "confirm": "1" } });
    let own = call(&berth, access, "tool_write", own).await.ok();
    assert!(own.to_string().contains("forbidden"), "{own}");
    berth.cli(["proposal", "approve", &number, "--confirm", &number]).await.ok();
    assert_eq!(berth.rest().get("/v1/apps").await.ok()["total"], 1);
}

#[tokio::test]
async fn requests_that_are_not_right_go_nowhere() {
    let berth = Berth::without_docker().await;
    let flow = Flow::new(&berth).await;
    let mut browser = Browser::new(&berth);
    // Shown to the person: the address is not to be trusted.
    for change in [
        [("redirect_uri", "https://evil.example/callback")],
        [("redirect_uri", "http://127.0.0.1:40001/callback/")],
        [("client_id", "client_unknown")],
        [("client_id", "https://127.0.0.1/document")],
        [("client_id", "http://169.254.169.254/latest/meta-data")],
    ] {
        let page = browser.open(&flow.url(&change)).await;
        assert_eq!((page.status, page.header("location")), (400, ""), "{change:?}: {}", page.text);
        assert!(page.text.contains("This does not work"), "{}", page.text);
    }
    // Told to the client.
    for (change, error) in [
        (("code_challenge_method", "plain"), "invalid_request"),
        (("code_challenge", ""), "invalid_request"),
        (("code_challenge", "short"), "invalid_request"),
        (("response_type", "token"), "unsupported_response_type"),
        (("resource", "https://other.example/mcp"), "invalid_target"),
    ] {
        let sent = browser.open(&flow.url(&[change])).await;
        let back = browser::query(sent.header("location"));
        assert_eq!(
            (sent.status, back["error"].as_str(), back["state"].as_str()),
            (303, error, "s&1"),
            "{change:?}"
        );
        assert_eq!(back["iss"], berth.control_url);
    }
    // An answer that comes from elsewhere, from another browser, or with a wrong token.
    browser.open(&flow.url(&[])).await;
    let good = [("decision", "approve"), ("token", berth.token.as_str()), ("scope_read", "on")];
    let foreign = browser.with_header("origin", "https://evil.example").answer(&good).await;
    assert_eq!(foreign.status, 403);
    let foreign = browser.with_header("sec-fetch-site", "cross-site").answer(&good).await;
    assert_eq!(foreign.status, 403);
    let other = browser.without_cookie().answer(&good).await;
    assert_eq!((other.status, other.header("location")), (403, ""));
    let wrong =
        browser.answer(&[("decision", "approve"), ("token", "berth_wrong"), ("scope_read", "on")]).await;
    assert!(wrong.status == 403 && wrong.text.contains("The token is not valid"), "{}", wrong.text);
    let project = browser.answer(&[good[0], good[1], good[2], ("projects", "nowhere")]).await;
    assert!(project.status == 403 && project.text.contains("nowhere"), "{}", project.text);
    let denied = browser.answer(&[("decision", "deny")]).await;
    assert_eq!(browser::query(denied.header("location"))["error"], "access_denied");
    // A client cannot approve another one.
    let given = flow.approved(&berth, &berth.token, &["read"]).await;
    let access = given["access_token"].as_str().unwrap();
    let passed_on = browser.answer(&[("decision", "approve"), ("token", access), ("scope_read", "on")]).await;
    assert!(passed_on.status == 403 && passed_on.text.contains("not valid"), "{}", passed_on.text);

    // The token endpoint.
    let sent = browser.answer(&good).await;
    let code = browser::query(sent.header("location"))["code"].clone();
    for (change, error) in [
        (("code_verifier", CHALLENGE), "invalid_grant"),
        (("redirect_uri", "http://127.0.0.1:40002/callback"), "invalid_grant"),
        (("client_id", "client_unknown"), "invalid_client"),
        (("resource", "https://other.example/mcp"), "invalid_target"),
        (("grant_type", "password"), "unsupported_grant_type"),
    ] {
        let refused = flow.token(&[("code", &code), change]).await;
        assert_eq!(refused.json()["error"], error, "{change:?}: {}", refused.text);
    }
    flow.token(&[("code", &code)]).await.ok();
}

#[tokio::test]
async fn registering_is_bounded() {
    let berth = Berth::without_docker().await;
    for (body, error) in [
        (json!({ "redirect_uris": ["http://evil.example/"] }), "invalid_redirect_uri"),
        (json!({ "redirect_uris": [] }), "invalid_redirect_uri"),
        (json!({ "redirect_uris": [CALLBACK], "grant_types": ["implicit"] }), "invalid_client_metadata"),
        (json!({}), "invalid_client_metadata"),
        (json!({ "redirect_uris": [CALLBACK], "client_name": "x".repeat(40_000) }), "invalid_request"),
    ] {
        let refused = berth.anonymous().post("/oauth/register", body).await;
        assert_eq!(
            (refused.status, refused.json()["error"].as_str()),
            (400, Some(error)),
            "{}",
            refused.text
        );
    }
    let body = json!({ "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post" });
    let registered = berth.anonymous().post("/oauth/register", body.clone()).await;
    assert_eq!(
        (registered.status, registered.json()["token_endpoint_auth_method"].as_str()),
        (201, Some("none"))
    );
    let mut last = registered;
    for _ in 0..20 {
        last = berth.anonymous().post("/oauth/register", body.clone()).await;
    }
    assert_eq!(last.status, 429);
    assert!(last.header("retry-after").parse::<u32>().is_ok_and(|s| s >= 1));
}
