//! `berth mcp install`: into the files of clients, in a home of its own.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Berth, Cli};

/// Each client with its file below the home.
const CLIENTS: [(&str, &str); 5] = [
    ("claude-code", ".claude.json"),
    ("claude-desktop", "config/Claude/claude_desktop_config.json"),
    ("cursor", ".cursor/mcp.json"),
    ("vscode", "config/Code/User/mcp.json"),
    ("codex", ".codex/config.toml"),
];

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test]
#[cfg_attr(not(target_os = "linux"), ignore = "the places are those of Linux")]
async fn each_client_gets_an_entry_that_works() {
    let berth = Berth::without_docker().await;
    let home = tempfile::tempdir().unwrap();
    let cli = || Cli::bare(home.path());
    let login = ["login", &berth.control_url, "--name", "here", "--token-stdin"];
    cli().input(&berth.token).run(login).await.ok();
    for (client, file) in CLIENTS {
        let path = home.path().join(file);
        let printed = cli().run(["mcp", "install", client, "--print"]).await.ok();
        assert!(printed.stdout.contains("here") && !path.exists(), "{client}: {}", printed.stdout);
        cli().run(["mcp", "install", client]).await.ok();
        let text = read(&path);
        assert!(text.contains("\"mcp\"") && !text.contains(&berth.token), "{client}: {text}");
        assert_eq!(text.trim(), printed.stdout.trim(), "{client}");
        let again = cli().run(["mcp", "install", client, "--json"]).await.ok().json();
        assert_eq!((&again["changed"], &again["backup"]), (&json!(false), &Value::Null), "{again}");
        assert_eq!(read(&path), text, "{client}");
    }
    // The entry is a program that serves MCP.
    let entry: Value = serde_json::from_str(&read(&home.path().join(".cursor/mcp.json"))).unwrap();
    let entry = &entry["mcpServers"]["berth"];
    assert_eq!(entry["command"], crate::harness::BINARY);
    let arguments: Vec<&str> = entry["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let ask = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } } });
    let answered = cli().input(&format!("{ask}\n")).run(arguments).await.ok();
    let answer: Value = serde_json::from_str(answered.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(answer["result"]["serverInfo"]["name"], "berth", "{answer}");
}

#[tokio::test]
async fn other_entries_stay_and_a_broken_file_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let cli = || Cli::bare(home.path());
    let path = home.path().join(".claude.json");
    let before = json!({ "projects": { "/x": { "k": [1] } }, "mcpServers": { "other": { "command": "x" } } })
        .to_string();
    std::fs::write(&path, &before).unwrap();
    let done = cli()
        .run(["--url", "https://b.example", "mcp", "install", "claude-code", "--http", "--json"])
        .await
        .ok()
        .json();
    let after: Value = serde_json::from_str(&read(&path)).unwrap();
    assert_eq!(after["mcpServers"]["berth"], json!({ "type": "http", "url": "https://b.example/mcp" }));
    assert_eq!(
        (&after["mcpServers"]["other"]["command"], &after["projects"]["/x"]["k"]),
        (&json!("x"), &json!([1]))
    );
    assert_eq!(read(Path::new(done["backup"].as_str().unwrap())), before);

    let project = home.path().join("project");
    std::fs::create_dir(&project).unwrap();
    let told = cli()
        .dir(&project)
        .run(["--url", "https://b.example", "mcp", "install", "vscode", "--project"])
        .await
        .ok();
    assert!(told.stderr.contains("berth login"), "{}", told.stderr);
    assert!(read(&project.join(".vscode/mcp.json")).contains("https://b.example"));

    std::fs::write(&path, "{ broken").unwrap();
    let refused = cli().run(["mcp", "install", "claude-code"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("--print"), "{}", refused.stderr);
    assert_eq!(read(&path), "{ broken");
    let refused = cli().run(["mcp", "install", "claude-desktop", "--http"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("Connectors"), "{}", refused.stderr);
}
