//! `deploy.sh --try`, with the stand-in in place of a build.

use std::{fs, net::TcpListener, path::PathBuf};

use crate::world::{World, free_port, needs, stand_in};

fn built(world: &World, version: &str) -> PathBuf {
    let path = world.path().join("built");
    fs::write(&path, stand_in(version, "good")).expect("program");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    path
}

#[test]
fn a_trial_starts_deploys_is_found_again_stops_and_goes() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    let binary = built(&world, "1.0.0");
    let data = world.path().join("trial");
    let (control, http) = (free_port().to_string(), free_port().to_string());
    let run = |extra: &[&str]| {
        let mut arguments =
            vec!["--binary", binary.to_str().expect("path"), "--data-dir", data.to_str().expect("path")];
        arguments.extend(["--control-port", &control, "--http-port", &http]);
        arguments.extend(extra);
        world.try_run(&arguments)
    };

    let first = run(&[]);
    assert!(first.ok, "{first:#?}");
    assert!(first.stdout.contains("deployed hello"), "{}", first.stdout);
    assert!(first.stdout.contains(&format!("http://hello.localhost:{http}/")), "{}", first.stdout);
    assert!(first.stdout.contains("token    berth_test_token"), "{}", first.stdout);
    assert!(
        first
            .stdout
            .contains(&format!("claude mcp add --transport http berth http://127.0.0.1:{control}/mcp"))
    );
    assert!(!world.path().join(".config").exists(), "the user's own login is left alone");

    let pid = fs::read_to_string(data.join("berth.pid")).expect("pid");
    let second = run(&[]);
    assert!(second.ok && second.stdout.contains("running already"), "{second:#?}");
    assert!(!second.stdout.contains("berth_test_token"), "the token is shown once");
    assert_eq!(fs::read_to_string(data.join("berth.pid")).expect("pid"), pid);

    // A new build takes over.
    built(&world, "1.0.1");
    assert!(run(&[]).ok);
    assert_ne!(fs::read_to_string(data.join("berth.pid")).expect("pid"), pid);

    assert!(run(&["--stop"]).ok);
    assert!(!world.answers(control.parse().expect("port"), "/healthz"));
    assert!(data.join("token").exists(), "stopping keeps the data");
    assert!(run(&["--stop"]).stdout.contains("nothing runs"));
    assert!(run(&[]).ok);
    let cleaned = run(&["--clean"]);
    assert!(cleaned.ok && cleaned.stdout.contains("deleted the app hello"), "{cleaned:#?}");
    assert!(!data.exists());
    assert!(run(&["--clean"]).ok, "twice is no error");
}

#[test]
fn a_trial_moves_to_free_ports() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    let binary = built(&world, "1.0.0");
    let data = world.path().join("trial");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let (port_text, http) = (port.to_string(), free_port().to_string());
    let arguments = ["--binary", binary.to_str().expect("path"), "--data-dir", data.to_str().expect("path")];
    let ports = ["--control-port", port_text.as_str(), "--http-port", http.as_str()];
    let outcome = world.try_run(&[&arguments[..], &ports].concat());
    assert!(outcome.ok, "{outcome:#?}");
    assert!(outcome.stdout.contains(&format!("port {port} is taken by")), "{}", outcome.stdout);
    assert!(world.try_run(&[&arguments[..], &["--clean"]].concat()).ok);
}

#[test]
fn a_trial_touches_no_directory_that_it_did_not_make() {
    let world = World::new();
    let binary = built(&world, "1.0.0");
    let mine = world.path().join("mine");
    fs::create_dir(&mine).expect("folder");
    fs::write(mine.join("thesis.txt"), "years").expect("file");
    let arguments = ["--binary", binary.to_str().expect("path"), "--data-dir", mine.to_str().expect("path")];
    for extra in [&[][..], &["--clean"]] {
        let outcome = world.try_run(&[&arguments[..], extra].concat());
        assert!(!outcome.ok && outcome.stderr.contains("was not made by --try"), "{outcome:#?}");
    }
    assert_eq!(fs::read_dir(&mine).expect("folder").count(), 1);
}
