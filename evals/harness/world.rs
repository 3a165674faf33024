//! Worlds: an installation in a known state, loaded into a fresh daemon through its API.
//!
//! A world is loaded once per process, its daemon ended, and its data copied for each run: what a daemon keeps can be
//! copied while it does not run.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

use super::{api::Api, errors::Errors, path, session::Done, state};
use crate::{daemon::Daemon, program::program};

/// No world reaches out: no Docker unless it needs it, no name server, no full disk of this machine.
const FLAGS: &[&str] =
    &["--min-free-disk-mb", "0", "--dns-resolvers", "127.0.0.1:9", "--shutdown-timeout-s", "2"];
const WITHOUT_DOCKER: &[&str] = &["--docker-host", "unix:///nonexistent/docker.sock"];

/// When worlds are made, and when whoever is examined comes: every time the same, as far as the daemon can be told. A
/// world with Docker keeps the wall's time, because containers write their logs by it.
const MADE: &str = "2026-01-05T09:00:00Z";
const MET: &str = "2026-01-05T10:00:00Z";

/// What a world's file says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// What it is, in a line.
    pub title: String,
    /// What the machine must have: `git` or `docker`.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// A world that is made first, to which this one adds.
    #[serde(default)]
    pub extends: Option<String>,
    /// How it is made, in order.
    #[serde(default, rename = "step")]
    pub steps: Vec<Step>,
}

/// What a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// The program `git`.
    Git,
    /// A Docker engine that answers.
    Docker,
}

impl Need {
    /// Whether the machine has it.
    #[must_use]
    pub fn is_met(self) -> bool {
        let (name, argument) = match self {
            Self::Git => ("git", "--version"),
            Self::Docker => ("docker", "version"),
        };
        program(name).arg(argument).output().is_ok_and(|o| o.status.success())
    }
}

/// One step of making a world.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Step {
    /// Call a tool.
    Tool {
        /// Which.
        tool: String,
        /// With what.
        #[serde(default)]
        arguments: Value,
        /// Wait for the deployment that it starts, which must end so.
        settle: Option<String>,
        /// Call it with a token whose writes are proposals.
        #[serde(default)]
        propose: bool,
    },
    /// Be a visitor.
    Visit(Visit),
    /// Push a commit to an app's own repository.
    Push(Push),
    /// Errors that happen in an app.
    Errors(Errors),
}

/// A visitor's request.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Visit {
    /// Host name.
    pub visit: String,
    /// Path.
    pub path: String,
    /// What must be answered.
    pub status: u16,
    /// How often.
    #[serde(default = "once")]
    pub times: u32,
}

fn once() -> u32 {
    1
}

/// A commit that is pushed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// The app.
    pub push: String,
    /// Branch.
    pub branch: String,
    /// The commit's message.
    pub message: String,
    /// Who made it.
    #[serde(default = "ada")]
    pub author: String,
    /// Files that it adds or changes.
    pub files: BTreeMap<String, String>,
    /// What must become of the push.
    pub state: String,
    /// What must become of its deployment, if there is one.
    pub settle: Option<String>,
}

fn ada() -> String {
    "Ada".into()
}

impl World {
    /// Reads a world's file, and that of the world to which it adds.
    ///
    /// # Errors
    /// When there is none, it is not valid, or it adds to a world that adds to another.
    pub fn read(root: &Path, name: &str) -> Result<Self> {
        let mut world = Self::read_file(root, name)?;
        let Some(base) = &world.extends else { return Ok(world) };
        let mut base = Self::read_file(root, base)?;
        ensure!(base.extends.is_none(), "the world {name} adds to one that adds to another");
        base.steps.append(&mut world.steps);
        base.needs.extend(world.needs);
        Ok(Self { title: world.title, extends: world.extends, ..base })
    }

    fn read_file(root: &Path, name: &str) -> Result<Self> {
        let file = root.join("worlds").join(format!("{name}.toml"));
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        toml::from_str(&text).with_context(|| format!("in {}", file.display()))
    }

    /// What this machine lacks for it.
    #[must_use]
    pub fn lacks(&self) -> Vec<Need> {
        self.needs.iter().copied().filter(|n| !n.is_met()).collect()
    }

    fn flags(&self) -> Vec<&'static str> {
        let docker = if self.needs.contains(&Need::Docker) { &[] } else { WITHOUT_DOCKER };
        [FLAGS, docker].concat()
    }

    fn clock(&self, at: &'static str) -> Option<&'static str> {
        (!self.needs.contains(&Need::Docker)).then_some(at)
    }
}

/// A running daemon in the state of a world.
#[derive(Debug)]
pub struct Place {
    /// The daemon.
    pub daemon: Daemon,
    /// REST as the admin.
    pub api: Api,
    /// The state as the world's file makes it.
    pub before: Arc<Value>,
}

impl Place {
    async fn open(
        berth: &Path,
        directory: tempfile::TempDir,
        (flags, clock): (&[&str], Option<&'static str>),
        before: Arc<Value>,
    ) -> Result<Self> {
        let daemon = Daemon::start_at(berth, directory, flags, clock).await?;
        let api = Api::open(daemon.control, &daemon.token).await?;
        Ok(Self { daemon, api, before })
    }

    /// A visitor's request to the data plane: status and body.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn visit(&self, host: &str, path: &str) -> Result<(u16, String)> {
        visit(self.daemon.http, host, path).await
    }
}

/// A visitor's request: status and body. Redirects are not followed.
///
/// # Errors
/// When there is no answer.
pub async fn visit(http: std::net::SocketAddr, host: &str, path: &str) -> Result<(u16, String)> {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let request = client.get(format!("http://{http}{path}")).header("host", host);
    let answer = request.send().await.with_context(|| format!("visiting {host}{path}"))?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// Makes places of worlds.
#[derive(Debug)]
pub struct Worlds {
    berth: PathBuf,
    root: PathBuf,
    /// What every daemon gets besides.
    flags: Vec<&'static str>,
    loaded: Mutex<BTreeMap<String, Arc<OnceCell<Loaded>>>>,
    /// Places in which nothing was changed.
    idle: Mutex<BTreeMap<String, Vec<Place>>>,
}

#[derive(Debug)]
struct Loaded {
    world: World,
    directory: tempfile::TempDir,
    state: Arc<Value>,
}

impl Worlds {
    /// Worlds from the files below `root`, in daemons of the program `berth`.
    #[must_use]
    pub fn new(berth: PathBuf, root: PathBuf) -> Self {
        super::choose_cryptography();
        Self { berth, root, flags: Vec::new(), loaded: Mutex::default(), idle: Mutex::default() }
    }

    /// The same, with daemons that let one caller destroy as fast as it can: for tests that try out every tool.
    #[must_use]
    pub fn unhurried(self) -> Self {
        Self { flags: vec!["--destructive-per-minute", "10000"], ..self }
    }

    fn flags(&self, world: &World) -> Vec<&'static str> {
        [world.flags(), self.flags.clone()].concat()
    }

    /// A fresh daemon in the state of this world.
    ///
    /// # Errors
    /// When the world cannot be made, as when the machine lacks what it needs.
    pub async fn place(&self, name: &str) -> Result<Place> {
        if let Some(place) = self.idle.lock().await.get_mut(name).and_then(Vec::pop) {
            return Ok(place);
        }
        let cell = Arc::clone(self.loaded.lock().await.entry(name.to_owned()).or_default());
        let loaded = cell.get_or_try_init(|| self.load(name)).await?;
        let copy = tempfile::tempdir()?;
        copy_folder(loaded.directory.path(), copy.path())?;
        let start = (&*self.flags(&loaded.world), loaded.world.clock(MET));
        Place::open(&self.berth, copy, start, Arc::clone(&loaded.state)).await
    }

    /// Takes a place back for the next who wants one, if all that was done in it was to read.
    ///
    /// # Errors
    /// When the agent's token cannot be taken from it.
    pub async fn give_back(&self, name: &str, place: Place, done: &[Done]) -> Result<()> {
        let reads = |d: &Done| {
            d.tool == "tool_search" || place.api.tools().get(&d.tool).is_some_and(|hints| hints.read_only)
        };
        if !done.iter().all(reads) {
            return Ok(());
        }
        let token = json!({ "token": state::AGENT, "confirm": state::AGENT });
        place.api.call("token_revoke", token).await?;
        self.idle.lock().await.entry(name.to_owned()).or_default().push(place);
        Ok(())
    }

    /// The same in a process group of its own, to be left running with [`Daemon::leave`].
    ///
    /// # Errors
    /// When the world cannot be made.
    pub async fn place_apart(&self, name: &str) -> Result<Place> {
        let loaded = self.load(name).await?;
        let (flags, clock) = (self.flags(&loaded.world), loaded.world.clock(MET));
        let daemon = Daemon::start_apart(&self.berth, loaded.directory, &flags, clock).await?;
        let api = Api::open(daemon.control, &daemon.token).await?;
        Ok(Place { daemon, api, before: loaded.state })
    }

    async fn load(&self, name: &str) -> Result<Loaded> {
        let world = World::read(&self.root, name)?;
        let lacks = world.lacks();
        ensure!(lacks.is_empty(), "the world {name} needs {lacks:?}, which this machine lacks");
        // The daemon removes its folder with itself, and the template must stay.
        let start = (&*self.flags(&world), world.clock(MADE));
        let place = Place::open(&self.berth, tempfile::tempdir()?, start, Arc::default()).await?;
        for (number, step) in world.steps.iter().enumerate() {
            make(&place, step).await.with_context(|| format!("step {} of the world {name}", number + 1))?;
        }
        let state = Arc::new(state::read(&place.api).await?);
        let directory = place.daemon.stop()?;
        let _ = fs::remove_file(directory.path().join("data/daemon.json"));
        Ok(Loaded { world, directory, state })
    }
}

async fn make(place: &Place, step: &Step) -> Result<()> {
    match step {
        Step::Tool { tool, arguments, propose: true, .. } => propose(place, tool, arguments).await?,
        Step::Tool { tool, arguments, settle, .. } => {
            let answer = place.api.call(tool, arguments.clone()).await?;
            if let Some(job) = answer["job"]["job"].as_str() {
                place.api.call("job_get", json!({ "job": job, "wait_s": 30 })).await?;
            }
            let Some(wanted) = settle else { return Ok(()) };
            let deployment = answer["deployment"].as_str().context("the tool starts no deployment")?;
            place.api.settled(deployment, wanted).await?;
        }
        Step::Visit(visit) => {
            for _ in 0..visit.times {
                let (status, _) = place.visit(&visit.visit, &visit.path).await?;
                ensure!(status == visit.status, "{}{} answered {status}", visit.visit, visit.path);
            }
        }
        Step::Push(push) => pushed(place, push).await?,
        Step::Errors(errors) => errors.happen(&place.api).await?,
    }
    Ok(())
}

/// Calls a tool as somebody whose writes wait for approval.
async fn propose(place: &Place, tool: &str, arguments: &Value) -> Result<()> {
    let token = json!({ "name": "proposer", "scopes": ["write"], "mode": "propose" });
    let made = place.api.call("token_create", token).await?;
    let token = made["secret"].as_str().context("the token has no secret")?;
    let (status, answer) = place.api.with_token(token).raw(tool, arguments).await?;
    ensure!(
        answer["code"] == "approval_required",
        "{tool} was to be proposed, and answered {status}: {answer}"
    );
    Ok(())
}

/// Commits and pushes with git itself, and waits for what comes of it.
async fn pushed(place: &Place, push: &Push) -> Result<()> {
    let app = &push.push;
    let copy = tempfile::tempdir()?;
    let token = &place.daemon.token;
    let url = format!("http://git:{token}@{}/git/{app}.git", place.daemon.control);
    let folder = copy.path();
    git(folder, &["init", "--quiet", "--initial-branch", &push.branch, "."], &push.author)?;
    git(folder, &["remote", "add", "berth", &url], &push.author)?;
    if git(folder, &["fetch", "--quiet", "berth", &push.branch], &push.author).is_ok() {
        git(folder, &["reset", "--quiet", "--hard", "FETCH_HEAD"], &push.author)?;
    }
    for (name, content) in &push.files {
        let file = folder.join(name);
        fs::create_dir_all(file.parent().context("a file needs a folder")?)?;
        fs::write(file, content)?;
    }
    git(folder, &["add", "--all"], &push.author)?;
    git(folder, &["commit", "--quiet", "--cleanup=verbatim", "-m", &push.message], &push.author)?;
    // A deployment that fails makes git fail, too; what counts is what Berth says of it.
    let told = git(folder, &["push", "--quiet", "berth", &format!("HEAD:{}", push.branch)], &push.author);
    let mut newest = Value::Null;
    for _ in 0..100 {
        let pushes = place.api.call("push_list", json!({ "app": app, "limit": 1 })).await?;
        newest = pushes["pushes"][0].clone();
        if newest["state"] == push.state.as_str() {
            let Some(wanted) = &push.settle else { return Ok(()) };
            let deployment = newest["deployments"][0].clone();
            let name = deployment.as_str().or(deployment["deployment"].as_str()).context("no deployment")?;
            return place.api.settled(name, wanted).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    bail!("the push is {newest}, not {}; git: {told:?}", push.state)
}

/// The same commits in every copy: author, committer and time are given.
fn git(folder: &Path, arguments: &[&str], author: &str) -> Result<()> {
    const TIME: &str = "2026-01-05T09:00:00Z";
    let mail = format!("{}@example.com", author.to_lowercase().replace(' ', "."));
    let output = program("git")
        .args(["-c", "protocol.version=2", "-c", "credential.helper=", "-c", "commit.gpgsign=false"])
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_AUTHOR_NAME", author), ("GIT_COMMITTER_NAME", author)])
        .envs([("GIT_AUTHOR_EMAIL", mail.as_str()), ("GIT_COMMITTER_EMAIL", mail.as_str())])
        .envs([("GIT_AUTHOR_DATE", TIME), ("GIT_COMMITTER_DATE", TIME)])
        .output()
        .context("starting git")?;
    ensure!(
        output.status.success(),
        "git {}: {}",
        path::text(&json!(arguments)),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir_all(&target)?;
            fs::set_permissions(&target, entry.metadata()?.permissions())?;
            copy_folder(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
