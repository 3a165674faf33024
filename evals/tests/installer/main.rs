//! `deploy.sh` from outside: installs, upgrades, refusals, rollback, removal, and the first-run trial.
//!
//! Everything happens below a temporary prefix, without root, Docker or systemd; a stand-in takes the daemon's
//! place, so that good and bad versions can be published at will. `real.rs` does the trial with the real program.

#![allow(clippy::expect_used, reason = "helpers of tests, too, may fail the test they help")]

mod real;
mod release;
mod try_mode;
mod world;

use std::{fs, io::Write as _, net::TcpListener, process::Stdio};

use berth_evals::program::program;
use world::{World, needs, script};

#[test]
fn a_first_install_runs_and_says_how_to_connect() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    world.publish("1.0.0", "good");

    let first = world.install(&["--start", "--domain", "apps.example.org"]);
    assert!(first.ok, "{first:#?}");
    let line = first.line();
    assert_eq!(line["status"], "installed");
    assert_eq!(line["version"], "1.0.0");
    assert_eq!(line["service"], "background");
    assert_eq!(line["control_url"], format!("http://127.0.0.1:{}", world.control_port));
    assert_eq!(line["mcp_url"], format!("http://127.0.0.1:{}/mcp", world.control_port));
    assert!(world.answers(world.control_port, "/healthz"));
    let add = format!(
        "claude mcp add --transport http berth http://127.0.0.1:{}/mcp --header \"Authorization: Bearer berth_test_token\"",
        world.control_port
    );
    assert!(first.stdout.contains(&add), "{}", first.stdout);
    let desktop =
        first.stdout.lines().find(|l| l.starts_with("{\"mcpServers\"")).expect("Claude Desktop's JSON");
    let desktop: serde_json::Value = serde_json::from_str(desktop).expect("valid JSON");
    assert_eq!(desktop["mcpServers"]["berth"]["args"][0], "mcp");
    assert!(!world.data().join("first-token").exists(), "the token is kept nowhere in the clear");

    let settings = fs::read_to_string(world.prefix().join("etc/berth/berth.toml")).expect("settings");
    assert!(settings.contains("base_domain = \"apps.example.org\""), "{settings}");
    for line in ["https_addr = ", "acme = true", "public_url = \"https://berth.apps.example.org"] {
        assert!(settings.contains(line), "{line} in {settings}");
    }
    let unit = fs::read_to_string(world.prefix().join("etc/systemd/system/berth.service")).expect("unit");
    for wanted in
        ["Type=notify", "NoNewPrivileges=yes", "ProtectSystem=strict", "Restart=always", "LimitNOFILE="]
    {
        assert!(unit.contains(wanted), "{wanted} in {unit}");
    }

    let pid = world.pid();
    let second = world.install(&["--start"]);
    assert_eq!(second.status(), "unchanged", "{second:#?}");
    assert_eq!(world.pid(), pid, "a run without a change restarts nothing");
    assert!(!second.stdout.contains("berth_test_token"));
}

#[test]
fn an_install_without_systemd_says_how_to_start() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    world.publish("1.0.0", "good");
    let installed = world.install(&[]);
    assert_eq!(installed.status(), "installed", "{installed:#?}");
    assert_eq!(installed.line()["service"], "none");
    assert!(installed.stdout.contains("usr/local/bin/berth serve --config"), "{}", installed.stdout);
    assert_eq!(world.pid(), "");
    assert_eq!(world.installed(), "berth 1.0.0");
}

#[test]
fn a_newer_version_upgrades_and_keeps_settings_data_and_the_previous_program() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    world.publish("1.0.0", "good");
    assert!(world.install(&["--start"]).ok);
    let settings = world.prefix().join("etc/berth/berth.toml");
    let edited = fs::read_to_string(&settings).expect("settings") + "# edited by hand\n";
    fs::write(&settings, &edited).expect("edit");
    fs::write(world.data().join("releases"), "kept").expect("data");

    world.publish("1.1.0", "good");
    // Without --start: what runs goes on running.
    let upgraded = world.install(&[]);
    assert_eq!(upgraded.status(), "upgraded", "{upgraded:#?}");
    assert_eq!(
        (upgraded.line()["previous"].as_str(), world.installed().as_str()),
        (Some("1.0.0"), "berth 1.1.0")
    );
    assert!(world.answers(world.control_port, "/healthz"));
    assert_eq!(fs::read_to_string(&settings).expect("settings"), edited);
    assert_eq!(fs::read_to_string(world.data().join("releases")).expect("data"), "kept");
    assert!(!world.data().join("before-upgrade").exists());
    let previous = program(world.prefix().join("usr/local/bin/berth.previous")).arg("--version").output();
    assert_eq!(String::from_utf8_lossy(&previous.expect("previous").stdout).trim(), "berth 1.0.0");
}

#[test]
fn an_older_version_can_be_asked_for_by_name() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    world.publish("1.0.0", "good");
    world.publish("1.1.0", "good");
    let outcome = world.install(&["--version", "v1.0.0"]);
    assert_eq!((outcome.status().as_str(), world.installed().as_str()), ("installed", "berth 1.0.0"));
}

#[test]
fn a_version_that_does_not_answer_is_rolled_back_with_its_database() {
    if !needs("curl") {
        return;
    }
    for mode in ["mute", "crash"] {
        let world = World::new();
        world.publish("1.0.0", "good");
        assert!(world.install(&["--start"]).ok);
        world.publish("1.1.0", mode);
        let mut command = world.script(&["--no-docker"]);
        command.args([
            "--control-port",
            &world.control_port.to_string(),
            "--http-port",
            &world.http_port.to_string(),
        ]);
        let outcome = world::Outcome::new(command.env("BERTH_INSTALL_WAIT_S", "3").output().expect("sh"));
        assert!(!outcome.ok);
        assert_eq!(outcome.status(), "failed", "{mode}: {outcome:#?}");
        assert!(
            outcome.stderr.contains("version 1.1.0 did not answer; version 1.0.0 is back and answers"),
            "{outcome:#?}"
        );
        assert!(
            outcome.stderr.contains("stand-in 1.1.0 starts"),
            "the log of the failure is shown: {}",
            outcome.stderr
        );
        assert_eq!(world.installed(), "berth 1.0.0");
        assert!(world.answers(world.control_port, "/healthz"));
        assert_eq!(fs::read_to_string(world.data().join("berth.db")).expect("database"), "1.0.0");
    }
}

#[test]
fn a_program_that_cannot_run_here_is_refused_before_anything_stops() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    world.publish("1.0.0", "good");
    assert!(world.install(&["--start"]).ok);
    let (pid, before) = (world.pid(), world.tree());
    world.publish("1.1.0", "cannot-run");
    let outcome = world.install(&["--start"]);
    assert_eq!(outcome.status(), "failed");
    assert!(outcome.stderr.contains("does not run here"), "{outcome:#?}");
    assert_eq!((world.pid(), world.tree()), (pid, before));
}

#[test]
fn a_tampered_archive_is_refused_and_nothing_changes() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    let archive = world.publish("1.0.0", "good");
    let mut bytes = fs::read(&archive).expect("archive");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, bytes).expect("archive");
    let before = world.tree();
    let outcome = world.install(&["--start"]);
    assert!(!outcome.ok);
    assert!(outcome.line()["error"].as_str().unwrap_or_default().contains("SHA-256"), "{outcome:#?}");
    assert_eq!(world.tree(), before);
}

#[test]
fn a_server_without_a_release_is_reported() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    let outcome = world.install(&[]);
    assert!(outcome.stderr.contains("latest.json"), "{outcome:#?}");
    fs::write(world.releases().join("latest.json"), "{\"version\": \"../../etc\"}").expect("latest.json");
    assert!(world.install(&[]).stderr.contains("names no version"));
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    world.publish("1.0.0", "good");
    let before = world.tree();
    let outcome = world.install(&["--dry-run", "--start"]);
    assert_eq!(outcome.status(), "dry-run", "{outcome:#?}");
    assert!(outcome.stdout.contains("usr/local/bin/berth 1.0.0"), "{}", outcome.stdout);
    assert_eq!(world.tree(), before);
}

#[test]
fn everything_in_the_way_is_said_at_once() {
    let world = World::new();
    world.fact("etc/os-release", "ID=\"gentoo\"\nPRETTY_NAME=\"Gentoo Linux\"\n");
    world.fact("proc/meminfo", "MemTotal:         262144 kB\n");
    let uname = world.path().join("bin/uname");
    fs::create_dir(world.path().join("bin")).expect("bin");
    fs::write(&uname, "#!/bin/sh\necho riscv64\n").expect("uname");
    fs::set_permissions(&uname, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let before = world.tree();

    let path = format!("{}:{}", world.path().join("bin").display(), std::env::var("PATH").expect("PATH"));
    let mut command =
        world.script(&["--http-port", &port.to_string(), "--control-port", &world.control_port.to_string()]);
    let outcome = world::Outcome::new(command.env("PATH", path).output().expect("sh"));

    assert!(!outcome.ok);
    let taken_by = format!("port {port} is taken by");
    for wanted in
        ["Gentoo Linux is not supported", "processor riscv64", "256 MB of memory", taken_by.as_str(), "(pid "]
    {
        assert!(outcome.stderr.contains(wanted), "{wanted} in {}", outcome.stderr);
        assert!(
            wanted == "(pid " || outcome.line()["error"].as_str().unwrap_or_default().contains(wanted),
            "{outcome:#?}"
        );
    }
    assert_eq!(world.tree(), before);
    assert_eq!(world.requests(), 0, "nothing is fetched before the machine is fit");
}

#[test]
fn a_small_machine_gets_a_warning_and_an_install() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    world.publish("1.0.0", "good");
    world.fact("proc/meminfo", "MemTotal:         768000 kB\n");
    let outcome = world.install(&[]);
    assert_eq!(outcome.status(), "installed");
    assert!(outcome.stderr.contains("750 MB of memory"), "{}", outcome.stderr);
}

#[test]
fn archives_come_over_https_or_from_this_machine() {
    let world = World::new();
    for url in [
        "http://example.org",
        "http://127.0.0.1:80@example.org",
        "http://127.0.0.1.example.org",
        "file:///etc",
        "ftp://localhost",
    ] {
        let outcome = world.install(&["--base-url", url]);
        assert_eq!(outcome.status(), "failed");
        assert!(outcome.stderr.contains("refusing"), "{url}: {}", outcome.stderr);
    }
}

#[test]
fn arguments_that_would_need_quoting_are_refused() {
    let world = World::new();
    let wrong: [&[&str]; 12] = [
        &["--domain", "a;b"],
        &["--domain", "a\nb"],
        &["--domain", "apps.example.org", "--email", "nobody"],
        &["--domain", "apps.example.org", "--email", "a\"b@example.org"],
        &["--version", "1/../2"],
        &["--http-port", "0"],
        &["--http-port", "70000"],
        &["--http-port", "8o"],
        &["--data-dir", "/tmp/a b"],
        &["--data-dir", "/tmp/../etc"],
        &["--bind", "host"],
        &["--version"],
    ];
    for arguments in wrong {
        let outcome = world.install(arguments);
        assert!(!outcome.ok && outcome.status() == "failed", "{arguments:?}: {outcome:#?}");
    }
}

#[test]
fn uninstalling_keeps_the_data_until_it_is_purged() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    world.publish("1.0.0", "good");
    assert!(world.install(&["--start"]).ok);

    let removed = world.uninstall(&[]);
    assert_eq!(removed.status(), "uninstalled", "{removed:#?}");
    assert!(!world.answers(world.control_port, "/healthz"), "the daemon is stopped");
    assert!(!world.prefix().join("usr/local/bin/berth").exists());
    assert!(!world.prefix().join("etc/systemd/system/berth.service").exists());
    assert!(world.data().join("secret.key").exists() && world.prefix().join("etc/berth/berth.toml").exists());

    let back = world.install(&["--start"]);
    assert_eq!(back.status(), "installed", "{back:#?}");
    assert_eq!(world.uninstall(&["--purge"]).status(), "purged");
    assert!(!world.data().exists() && !world.prefix().join("etc/berth").exists());
    assert!(world.uninstall(&["--purge"]).ok, "twice is no error");
}

#[test]
fn a_purge_leaves_a_directory_alone_that_is_not_berths() {
    let world = World::new();
    let mine = world.path().join("mine");
    fs::create_dir(&mine).expect("folder");
    fs::write(mine.join("thesis.txt"), "years").expect("file");
    let outcome = world.uninstall(&["--purge", "--data-dir", mine.to_str().expect("path")]);
    assert_eq!(outcome.status(), "failed", "{outcome:#?}");
    assert!(mine.join("thesis.txt").exists());
}

#[test]
fn a_download_that_breaks_off_runs_nothing() {
    let world = World::new();
    world.publish("1.0.0", "good");
    let whole = fs::read(script()).expect("script");
    let before = world.tree();
    // Spread over the script, and every byte of its end, where the call is. The last byte is a line's end.
    let spread = (0..whole.len() - 200).step_by(whole.len() / 80);
    for cut in spread.chain(whole.len() - 200..whole.len() - 1) {
        let mut command = program("sh");
        command.args(["-s", "--", "--no-docker", "--start", "--prefix"]).arg(world.prefix());
        world.environment(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("sh");
        // A shell that found a syntax error may have closed its end already.
        let _ = child.stdin.take().expect("a pipe").write_all(&whole[..cut]);
        let output = child.wait_with_output().expect("sh");
        assert!(output.stdout.is_empty(), "cut at {cut}: {}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(world.tree(), before);
    assert_eq!(world.requests(), 0);
}

#[test]
fn shellcheck_has_nothing_to_say() {
    if !needs("shellcheck") {
        return;
    }
    let output = program("shellcheck").arg(script()).output().expect("shellcheck");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
