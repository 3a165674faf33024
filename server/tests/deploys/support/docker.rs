//! What Docker knows of a daemon's containers, images and networks, by way of Docker's own command line.

use std::process::{Command, Stdio};

/// Whether Docker answers; says so where it does not, and fails where it must.
pub(crate) fn available() -> bool {
    let answers = Command::new("docker")
        .arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !answers {
        assert!(std::env::var_os("BERTH_TEST_REQUIRE_DOCKER").is_none(), "Docker does not answer");
        println!("skipped: Docker does not answer");
    }
    answers
}

/// Standard output of `docker …`; panics where it fails.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?} failed: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn lines(arguments: &[&str]) -> Vec<String> {
    docker(arguments).lines().map(str::to_owned).filter(|l| !l.is_empty()).collect()
}

fn label(instance: &str) -> String {
    format!("label=berth.instance={instance}")
}

/// Ids of a daemon's containers, stopped ones too, without one through which an image is read for source maps: such a
/// one is never started, and goes by itself soon after a switch.
pub(crate) fn containers(instance: &str) -> Vec<String> {
    let all =
        lines(&["ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}", "--filter", &label(instance)]);
    let ids =
        all.iter().filter_map(|line| line.split_once(' ')).filter(|(_, n)| !n.starts_with("berth-maps-"));
    ids.map(|(id, _)| id.to_owned()).collect()
}

/// Ids of a daemon's containers of an app that run.
pub(crate) fn running(instance: &str, app: &str) -> Vec<String> {
    lines(&[
        "ps",
        "--quiet",
        "--no-trunc",
        "--filter",
        &label(instance),
        "--filter",
        &format!("label=berth.app={app}"),
    ])
}

/// Ids of a daemon's containers of an app, stopped ones too.
pub(crate) fn all_of(instance: &str, app: &str) -> Vec<String> {
    lines(&[
        "ps",
        "--all",
        "--quiet",
        "--no-trunc",
        "--filter",
        &label(instance),
        "--filter",
        &format!("label=berth.app={app}"),
    ])
}

/// Of each of a daemon's containers: the id of its release, and its state.
pub(crate) fn labelled(instance: &str) -> Vec<(String, String)> {
    let format = r#"{{.Label "berth.release"}} {{.State}}"#;
    let all = lines(&["ps", "--all", "--filter", &label(instance), "--format", format]);
    all.iter().filter_map(|l| l.split_once(' ')).map(|(r, s)| (r.to_owned(), s.to_owned())).collect()
}

/// The address of the first replica of a release, by the release's id, if it runs.
pub(crate) fn address_of(instance: &str, release: &str) -> Option<std::net::IpAddr> {
    let release = format!("label=berth.release={release}");
    let first = "label=berth.replica=1";
    let own = label(instance);
    let found = lines(&["ps", "--quiet", "--filter", &own, "--filter", &release, "--filter", first]);
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    docker(&["inspect", "--format", format, found.first()?]).trim().parse().ok()
}

/// Names of the images that a daemon built.
pub(crate) fn images(instance: &str) -> Vec<String> {
    let all =
        lines(&["images", "--filter", &label(instance), "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
    let mut all: Vec<String> = all;
    all.sort();
    all.dedup();
    all
}

/// Names of a daemon's networks.
pub(crate) fn networks(instance: &str) -> Vec<String> {
    lines(&["network", "ls", "--filter", &label(instance), "--format", "{{.Name}}"])
}

/// Removes everything that carries a daemon's label.
pub(crate) fn sweep(instance: &str) {
    let quiet = |arguments: &[&str]| {
        let output = Command::new("docker").args(arguments).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
    };
    let filter = label(instance);
    for (list, remove) in [
        (["ps", "--all", "--quiet", "--filter"].as_slice(), ["rm", "--force", "--volumes"].as_slice()),
        (&["images", "--quiet", "--filter"], &["rmi", "--force"]),
        (&["network", "ls", "--quiet", "--filter"], &["network", "rm"]),
    ] {
        let found = quiet(&[list, &[filter.as_str()]].concat());
        for id in found.lines().filter(|l| !l.is_empty()) {
            quiet(&[remove, &[id]].concat());
        }
    }
}

/// Processes of the machine whose command line contains `text`; containers' processes are among them.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let ids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| *id != std::process::id())
        .filter(|id| {
            let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}

/// An image of a test's own, which Berth did not make.
pub(crate) struct Image(String);

impl Image {
    /// Builds a folder's Dockerfile.
    pub(crate) fn build(folder: &std::path::Path) -> Self {
        let name = format!("berth-test-ready:{}", uuid::Uuid::new_v4().simple());
        docker(&["build", "--quiet", "--tag", &name, folder.to_str().unwrap()]);
        Self(name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    pub(crate) fn exists(&self) -> bool {
        !docker(&["images", "--quiet", &self.0]).is_empty()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "--force", &self.0]).output();
    }
}
