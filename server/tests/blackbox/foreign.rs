//! Programs that Berth did not write are installed once and then used.

use crate::harness::external;

#[tokio::test]
async fn npm_packages_run_on_a_node_that_is_new_enough() {
    let Some(npm) = external::npm_or_skip(&["@modelcontextprotocol/conformance@0.2.0-alpha.12"]) else {
        return;
    };
    let listed = npm.command("conformance").args(["list", "--authorization"]).output().await.unwrap();
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.status.success() && text.contains("authorization"), "{listed:?}");
    let asked = npm.module("console.log(process.versions.node)").output().await.unwrap();
    let version = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    assert!(version.split('.').next().unwrap().parse::<u32>().unwrap() >= 22, "{asked:?}");
}

#[tokio::test]
async fn python_packages_have_an_environment_of_their_own() {
    let Some(venv) = external::python_or_skip(&["mcp==2.3.0"]) else { return };
    let script = "import importlib.metadata, mcp; print(importlib.metadata.version('mcp'))";
    let asked = venv.command().args(["-c", script]).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), "2.3.0", "{asked:?}");
}
