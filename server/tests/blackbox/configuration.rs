//! Settings from everywhere, and where they came from.

use crate::harness::Cli;

#[tokio::test]
async fn every_value_has_its_origin() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("my.toml");
    std::fs::write(&file, "base_domain = \"file.example\"\nupload_max_mb = 7\n").unwrap();
    let out = Cli::bare(home.path())
        .env("BERTH_UPLOAD_MAX_MB", "8")
        .env("BERTH_DATABASE_URL", "postgres://berth:s3cret@db/berth")
        .run(["config", "--json", "--config", &file.display().to_string(), "--concurrent-builds", "3"])
        .await
        .ok();
    let got = out.json();
    let is = |key: &str, value: &str, origin: &str| {
        assert_eq!(
            (got[key]["value"].as_str(), got[key]["origin"].as_str()),
            (Some(value), Some(origin)),
            "{key}"
        );
    };
    is("base_domain", "file.example", &file.display().to_string());
    is("upload_max_mb", "8", "$BERTH_UPLOAD_MAX_MB");
    is("concurrent_builds", "3", "--concurrent-builds");
    is("http_addr", "127.0.0.1:8080", "default");
    is("database_url", "postgres://***@db/berth", "$BERTH_DATABASE_URL");
    assert!(!out.stdout.contains("s3cret"));
}

#[tokio::test]
async fn what_is_printed_is_a_valid_file() {
    let home = tempfile::tempdir().unwrap();
    let printed =
        Cli::bare(home.path()).run(["config", "--control-hosts", "a.example,b.example"]).await.ok().stdout;
    let file = home.path().join("berth.toml");
    std::fs::write(&file, printed).unwrap();
    let again =
        Cli::bare(home.path()).run(["config", "--json", "--config", &file.display().to_string()]).await.ok();
    assert_eq!(again.json()["control_hosts"]["value"], "a.example,b.example");
}

#[tokio::test]
async fn a_mistake_is_named_with_its_place() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("berth.toml");
    let path = file.display().to_string();
    for (text, wants) in [
        ("base_domian = \"x\"", "Did you mean \"base_domain\"?"),
        ("upload_max_mb = \"many\"", "upload_max_mb"),
        ("http_addr = \"8080\"", "IP:PORT"),
        ("= 3", "not valid TOML"),
    ] {
        std::fs::write(&file, text).unwrap();
        let out = Cli::bare(home.path()).run(["config", "--config", &path]).await;
        assert_eq!(out.code, 1, "{text}");
        assert!(out.stderr.contains(wants), "{text}: {}", out.stderr);
    }
    let out = Cli::bare(home.path()).run(["config", "--config", "/nonexistent.toml"]).await;
    assert!(out.code == 1 && out.stderr.contains("/nonexistent.toml"), "{}", out.stderr);
}
