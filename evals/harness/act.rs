//! The exam by hand: one command line a step, with the daemon kept running between them. So any agent that can run a
//! command can sit it.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    api::Api,
    run::{self, Outcome},
    session::{Done, Session},
    task::Task,
    world::Worlds,
};

/// A sitting that nobody went on with for so long is ended by the next one.
const FORGOTTEN: Duration = Duration::from_secs(6 * 3600);
/// Time in which a daemon must be gone after SIGTERM.
const GONE: Duration = Duration::from_secs(10);

/// What is kept between two steps.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    task: String,
    pid: u32,
    /// When that process began, as the kernel counts: another one may get its id.
    began: u64,
    folder: PathBuf,
    control: SocketAddr,
    http: SocketAddr,
    admin: String,
    agent: String,
    before: Value,
    done: Vec<Done>,
}

/// A task that somebody sits.
#[derive(Debug)]
pub struct Sitting {
    file: PathBuf,
    kept: Kept,
    task: Task,
    /// Whether this step began it.
    pub fresh: bool,
}

impl Sitting {
    /// Goes on with a task, or begins it.
    ///
    /// # Errors
    /// When its world cannot be made.
    pub async fn open(worlds: &Worlds, task: Task, state: &Path) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state)?;
        end_forgotten(state)?;
        let file = state.join(format!("{}.json", task.id));
        if let Some(kept) = read(&file)? {
            if kept.runs() {
                return Ok(Self { file, kept, task, fresh: false });
            }
            kept.end()?;
            fs::remove_file(&file)?;
        }
        let place = worlds.place_apart(&task.world).await?;
        let agent = run::token_for(&place, &task).await?;
        let (pid, control, http) = (place.daemon.pid(), place.daemon.control, place.daemon.http);
        let kept = Kept {
            task: task.id.clone(),
            pid,
            began: began(pid).context("the daemon is gone")?,
            control,
            http,
            admin: place.daemon.token.clone(),
            agent,
            before: (*place.before).clone(),
            done: Vec::new(),
            folder: place.daemon.leave(),
        };
        let sitting = Self { file, kept, task, fresh: true };
        sitting.write()?;
        Ok(sitting)
    }

    /// What the agent is told.
    #[must_use]
    pub fn brief(&self) -> String {
        self.task.brief()
    }

    async fn session(&self) -> Result<Session> {
        let calls = self.task.budget.calls;
        Ok(Session::open(self.kept.control, &self.kept.agent, "", calls)
            .await?
            .resume(self.kept.done.clone()))
    }

    /// What the server tells every agent, and its tools: name, description, schema.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn list(&self) -> Result<String> {
        let session = self.session().await?;
        let tools = session.tools().iter().map(|tool| {
            let schema = Value::Object((*tool.input_schema).clone());
            format!("{}: {}\n  input: {schema}", tool.name, tool.description.as_deref().unwrap_or_default())
        });
        Ok(format!("{}\n\n{}", session.instructions(), tools.collect::<Vec<_>>().join("\n")))
    }

    /// Calls a tool; what it said, and whether it refused.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Result<(String, bool)> {
        let mut session = self.session().await?;
        let done = session.call(tool, arguments).await?;
        let said = (done.text.clone(), done.error.is_some());
        self.kept.done = session.done;
        self.write()?;
        Ok(said)
    }

    /// Gives the answer: the verdict, and the end of the daemon.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn finish(self, answer: String) -> Result<Outcome> {
        let api = Api::open(self.kept.control, &self.kept.admin).await?;
        let wrong = self.task.verify.look(&api, self.kept.http, &self.kept.before, &self.kept.done).await?;
        let outcome = run::judge(&self.task, wrong, self.kept.done.clone(), answer, "manual");
        self.drop_it()?;
        Ok(outcome)
    }

    /// Ends it without a verdict.
    ///
    /// # Errors
    /// When the daemon does not end or its files cannot be removed.
    pub fn drop_it(self) -> Result<()> {
        self.kept.end()?;
        fs::remove_file(&self.file)?;
        Ok(())
    }

    fn write(&self) -> Result<()> {
        let new = self.file.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        serde_json::to_writer(file, &self.kept)?;
        fs::rename(new, &self.file)?;
        Ok(())
    }
}

impl Kept {
    fn runs(&self) -> bool {
        began(self.pid) == Some(self.began)
    }

    fn end(&self) -> Result<()> {
        if self.runs() {
            let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("no process id")?;
            let _ = kill_process(pid, Signal::TERM);
            let asked = Instant::now();
            while self.runs() {
                if asked.elapsed() > GONE {
                    let _ = kill_process(pid, Signal::KILL);
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        match fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("removing {}", self.folder.display()))
            }
            _ => Ok(()),
        }
    }
}

/// When a process began, in ticks since the start of the machine; none if it is gone or only waits to be collected.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    // Field 22 of stat(5); the state, taken above, is field 3.
    fields.nth(18)?.parse().ok()
}

fn read(file: &Path) -> Result<Option<Kept>> {
    match fs::read(file) {
        Ok(text) => {
            Ok(Some(serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()))?))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => bail!("reading {}: {e}", file.display()),
    }
}

fn end_forgotten(state: &Path) -> Result<()> {
    for entry in fs::read_dir(state)? {
        let path = entry?.path();
        let age =
            fs::metadata(&path).and_then(|m| m.modified()).map(|at| SystemTime::now().duration_since(at));
        let old = matches!(age, Ok(Ok(age)) if age > FORGOTTEN);
        if !old || path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        if let Ok(Some(kept)) = read(&path) {
            kept.end()?;
        }
        fs::remove_file(&path)?;
    }
    Ok(())
}
