//! The command line: what people and scripts see.

use serde_json::json;

use crate::harness::{Berth, Cli, example_dir};

#[tokio::test]
async fn a_first_session_reads_well() {
    let berth = Berth::without_docker().await;
    let made = berth
        .cli(["app", "create", "web", "--settings", "port=3000", "--settings", "health_path=/ok"])
        .await
        .ok();
    assert!(made.stdout.contains("port 3000") || made.stdout.contains("3000"), "{}", made.stdout);
    berth.cli(["app", "update", "web", "port=4000", "previews=branches"]).await.ok();
    let settings = berth.cli(["app", "get", "web", "--json"]).await.ok().json()["settings"].clone();
    assert_eq!((&settings["port"], &settings["health_path"]), (&json!(4000), &json!("/ok")));
    let found = berth.cli(["error", "search", "is:open", "--json"]).await.ok().json();
    assert_eq!(found["total"], 0);
    let typo = berth.cli(["error", "search", "is:opne"]).await;
    assert!(typo.code == 1 && typo.stderr.contains("is:open"), "{}", typo.stderr);
    berth.cli(["env", "set", "web", "A=1", "B=x=y"]).await.ok();
    let apps = berth.cli(["apps", "list"]).await.ok().stdout;
    assert!(apps.starts_with("NAME") && apps.contains("web") && !apps.contains('\u{1b}'), "{apps}");
    let json = berth.cli(["app", "get", "web", "--json"]).await.ok().json();
    assert_eq!(json["variables"], json!(["A", "B"]));
    let gone = berth.cli(["app", "delete", "web", "--dry-run", "--json"]).await.ok().json();
    assert_eq!(gone["deleting"], false);
}

#[tokio::test]
async fn errors_have_a_hint_and_an_exit_code() {
    let berth = Berth::without_docker().await;
    berth.cli(["app", "create", "web"]).await.ok();
    let typo = berth.cli(["app", "get", "wbe"]).await;
    assert_eq!(typo.code, 1);
    assert!(
        typo.stderr.contains("error: ") && typo.stderr.contains("hint: Did you mean web?"),
        "{}",
        typo.stderr
    );
    let json = berth.cli(["app", "get", "wbe", "--json"]).await;
    let problem: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!(problem["code"], "not_found");
    assert_eq!(berth.cli(["app", "gte"]).await.code, 2);
    assert_eq!(berth.cli(["app", "scale", "web", "many"]).await.code, 2);
    assert_eq!(berth.cli(["app", "create", "x1", "--settings", "prot=1"]).await.code, 2);
    let wrong = berth.command().env("BERTH_TOKEN", "berth_wrong").run(["app", "list"]).await;
    assert_eq!(wrong.code, 4, "{}", wrong.stderr);
    let none = berth.command().without("BERTH_TOKEN").run(["app", "list"]).await;
    assert!(none.code == 4 && none.stderr.contains("berth login"), "{}", none.stderr);
}

#[tokio::test]
async fn a_dead_daemon_is_said_with_how_to_start_it() {
    let home = tempfile::tempdir().unwrap();
    let out = Cli::bare(home.path()).env("BERTH_URL", "http://127.0.0.1:1").run(["app", "list"]).await;
    assert_eq!(out.code, 3);
    assert!(out.stderr.contains("127.0.0.1:1") && out.stderr.contains("berth serve"), "{}", out.stderr);
}

#[tokio::test]
async fn a_login_is_checked_stored_and_used() {
    let berth = Berth::without_docker().await;
    let home = tempfile::tempdir().unwrap();
    let bad =
        Cli::bare(home.path()).input("berth_bad\n").run(["login", &berth.control_url, "--token-stdin"]).await;
    assert_eq!(bad.code, 4, "{}", bad.stderr);
    let token = format!("{}\n", berth.token);
    Cli::bare(home.path())
        .input(&token)
        .run(["login", &berth.control_url, "--token-stdin", "--name", "home"])
        .await
        .ok();
    Cli::bare(home.path()).run(["project", "list"]).await.ok();
    let listed = Cli::bare(home.path()).run(["contexts"]).await.ok().stdout;
    assert!(listed.contains("home") && !listed.contains(&berth.token), "{listed}");
    // A stored token goes to no other address.
    let other = Cli::bare(home.path()).env("BERTH_URL", &berth.control_url.replace("127.0.0.1", "localhost"));
    assert_eq!(other.run(["project", "list"]).await.code, 4);
    Cli::bare(home.path()).run(["logout"]).await.ok();
    assert_ne!(Cli::bare(home.path()).run(["project", "list"]).await.code, 0);
}

#[tokio::test]
async fn the_local_daemon_is_found_by_its_directory() {
    let berth = Berth::without_docker().await;
    let data = berth.data_dir().display().to_string();
    let cli = berth.command().without("BERTH_URL").env("BERTH_DATA_DIR", &data);
    cli.run(["project", "list"]).await.ok();
}

#[tokio::test]
async fn a_folder_is_deployed_followed_and_rolled_back() {
    let berth = Berth::without_docker().await;
    let folder = berth.scratch().join("My Site");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("index.html"), "one").unwrap();
    let first = berth.command().dir(&folder).run(["deploy"]).await.ok();
    assert!(first.stdout.contains("http://my-site.localhost"), "{}", first.stdout);
    assert!(first.stderr.contains("my-site#1 is live"), "{}", first.stderr);
    assert_eq!(berth.visit("my-site", "/").await.text, "one");

    berth.command().dir(&folder).run(["init"]).await.ok();
    std::fs::write(folder.join("index.html"), "two").unwrap();
    let second = berth.command().dir(&folder).run(["deploy", "--json"]).await.ok();
    assert_eq!(second.json()["state"], "live");
    assert_eq!(berth.visit("my-site", "/").await.text, "two");

    berth.cli(["rollback", "my-site"]).await.ok();
    assert_eq!(berth.visit("my-site", "/").await.text, "one");
    let url = berth.cli(["open", "my-site", "--print"]).await.ok().stdout;
    assert!(url.starts_with("http://my-site.localhost"), "{url}");

    // The same in another environment, which the first one does not notice.
    let none = berth.command().dir(&folder).run(["deploy", "--environment", "staging"]).await;
    assert!(none.code != 0 && none.stderr.contains("staging"), "{none:?}");
    berth.cli(["environment", "create", "my-site", "staging"]).await.ok();
    std::fs::write(folder.join("index.html"), "three").unwrap();
    berth.command().dir(&folder).run(["deploy", "-e", "staging"]).await.ok();
    std::fs::write(folder.join("index.html"), "four").unwrap();
    berth.command().dir(&folder).run(["deploy", "-e", "staging"]).await.ok();
    assert_eq!(berth.visit("staging--my-site", "/").await.text, "four");
    berth.cli(["rollback", "my-site", "-e", "staging"]).await.ok();
    assert_eq!(berth.visit("staging--my-site", "/").await.text, "three");
    assert_eq!(berth.visit("my-site", "/").await.text, "one");
    let url = berth.cli(["open", "my-site", "-e", "staging", "--print"]).await.ok().stdout;
    assert!(url.starts_with("http://staging--my-site.localhost"), "{url}");
    berth.cli(["release", "promote", "my-site", "staging"]).await.ok();
    assert_eq!(berth.visit("my-site", "/").await.text, "three");
}

#[tokio::test]
async fn a_failed_deploy_says_which_step_and_what_to_do() {
    let berth = Berth::without_docker().await;
    let folder = berth.scratch().join("nothing");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("notes.txt"), "no app here").unwrap();
    let out = berth.command().run(["deploy", &folder.display().to_string()]).await;
    assert_eq!(out.code, 1);
    for wants in ["nothing#1 is failed", "error: ", "hint: "] {
        assert!(out.stderr.contains(wants), "{wants}: {}", out.stderr);
    }
    let empty = berth.scratch().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_ne!(berth.command().run(["deploy", &empty.display().to_string()]).await.code, 0);
    assert_eq!(berth.command().run(["deploy", "/nonexistent-folder"]).await.code, 2);
}

#[tokio::test]
async fn any_tool_is_reached_raw() {
    let berth = Berth::without_docker().await;
    let tools = berth.cli(["tool", "list", "--json"]).await.ok().json();
    assert_eq!(tools["tools"].as_array().unwrap().len(), berth_tools::registry().tools().len());
    berth.cli(["tool", "app_create", "--json-input", "{\"name\":\"raw\"}"]).await.ok();
    let out =
        berth.command().input("{\"app\":\"raw\"}").run(["tool", "app_get", "--json-input", "-"]).await.ok();
    assert_eq!(out.json()["name"], "raw");
    assert_eq!(berth.cli(["tool", "app_gte"]).await.code, 2);
}

#[tokio::test]
async fn help_and_completions_work_without_a_daemon() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [
        &["--help"][..],
        &["app", "create", "--help"],
        &["completions", "bash"],
        &["version"],
        &["deploy", "--help"],
    ] {
        let out = Cli::bare(home.path()).env("BERTH_URL", "http://127.0.0.1:1").run(arguments).await;
        assert_eq!(out.code, 0, "{arguments:?}: {}", out.stderr);
        assert!(!out.stdout.is_empty(), "{arguments:?}");
    }
    assert!(example_dir("static").is_dir());
}
