//! Clients that others wrote, unmodified: the Inspector with its lint, and the SDKs of Python and TypeScript in every
//! mode that they have. Each lists, reads, writes through the gateway, follows a deployment's progress, and takes a
//! resource and a prompt, against a daemon that has no Docker.

use serde_json::Value;

use crate::harness::{Berth, external};

const INSPECTOR: &str = "@modelcontextprotocol/inspector@2.12.0";
const TYPESCRIPT: &[&str] = &["@modelcontextprotocol/sdk@1.32.2", "@modelcontextprotocol/client@2.4.0"];
const PYTHON: &str = "mcp==2.3.0";

const V1: &str = concat!(include_str!("v1.mjs"), include_str!("steps.mjs"));
const V2: &str = concat!(include_str!("v2.mjs"), include_str!("steps.mjs"));

/// Checks what a client says that it met.
async fn check(mut client: tokio::process::Command, berth: &Berth, mode: &str, name: &str) {
    let url = format!("{}/mcp", berth.control_url);
    let ran = client.args([&url, &berth.token, mode, name]).output().await.expect("the client to run");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{name}: {out}\n{err}");
    let met: Value = serde_json::from_str(out.trim()).unwrap_or_else(|e| panic!("{name}: {e}: {out}\n{err}"));
    assert_eq!(met["tools"].as_array().map(Vec::len), Some(25), "{name}: {met:#}");
    assert!(met["read"]["apps"].is_array(), "{name}: {met:#}");
    assert_eq!(met["wrote"]["name"], name, "{met:#}");
    assert_eq!(met["deployed"]["state"], "live", "{name}: {met:#}");
    let told = met["progress"].as_array().expect("what was told");
    assert!(told.iter().any(|m| m.as_str().is_some_and(|m| m.contains("#1: "))), "{name}: {told:?}");
    assert_eq!(met["wrong"], true, "{name}: a problem is a result");
    assert!(met["resource"].as_str().is_some_and(|text| text.contains("deployment")), "{name}");
    assert!(met["prompt"].as_str().is_some_and(|text| text.contains(name)), "{name}");
    assert!(!err.contains("unknown format"), "{name}: a client's validator complained: {err}");
}

#[tokio::test]
async fn the_python_client_works_in_both_eras() {
    let Some(venv) = external::python_or_skip(&[PYTHON]) else { return };
    let berth = Berth::without_docker().await;
    for mode in ["auto", "legacy", "2026-07-28"] {
        let mut python = venv.command();
        python.args(["-c", include_str!("client.py")]);
        check(python, &berth, mode, &format!("python-{mode}")).await;
    }
}

#[tokio::test]
async fn both_typescript_clients_work() {
    let Some(npm) = external::npm_or_skip(TYPESCRIPT) else { return };
    let berth = Berth::without_docker().await;
    check(npm.module(V1), &berth, "legacy", "first").await;
    for mode in ["auto", "legacy"] {
        check(npm.module(V2), &berth, mode, &format!("second-{mode}")).await;
    }
}

/// The lint calls an error what some models' interfaces refuse, and warns of what some refuse now and then.
#[tokio::test]
async fn the_inspector_finds_nothing_wrong() {
    let Some(npm) = external::npm_or_skip(&[INSPECTOR]) else { return };
    let berth = Berth::without_docker().await;
    let home = tempfile::tempdir().expect("a directory");
    let inspect = async |query: &str, arguments: &[&str]| {
        let mut command = npm.command("mcp-inspector");
        command.args(["--cli", &format!("{}/mcp{query}", berth.control_url), "--transport", "http"]);
        command.args(["--header", &format!("Authorization: Bearer {}", berth.token)]).args(arguments);
        command.env("MCP_CATALOG_PATH", home.path().join("catalog.json")).env("HOME", home.path());
        let ran = command.output().await.expect("the inspector to run");
        let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success() && err.trim().is_empty(), "{query} {arguments:?}: {out}\n{err}");
        serde_json::from_str::<Value>(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
    };
    for (query, least) in [("", 25), ("?tools=all", 90), ("?tools=deploy,domains&read_only=1", 5)] {
        let listed = inspect(query, &["--method", "tools/list", "--strict"]).await;
        assert!(listed["tools"].as_array().is_some_and(|t| t.len() >= least), "{query}: {listed}");
    }
    for era in ["legacy", "modern"] {
        let call = ["--protocol-era", era, "--method", "tools/call", "--tool-name"];
        let status = inspect("", &[&call[..], &["platform_status"]].concat()).await;
        let version = status["structuredContent"]["version"].as_str();
        assert_eq!(version, Some(env!("CARGO_PKG_VERSION")), "{era}: {status:#}");
        let create = format!("{{\"name\":\"{era}\"}}");
        let made = inspect("", &[&call[..], &["app_create", "--tool-args-json", &create]].concat()).await;
        assert_eq!(made["structuredContent"]["name"], era, "{made:#}");
    }
}
