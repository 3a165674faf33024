//! The old process's side: start the new one, hand over, or go on when it fails.

use std::{
    ffi::OsString,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    path::PathBuf,
    time::Duration,
};

use berth_deploy::command::Command;
use berth_schemas::{Code, Problem};
use tokio::process::Child;

use super::{
    PROTOCOL, VARIABLE,
    wire::{Ear, FromNew, FromOld, Mouth, converse, send_sockets},
};
use crate::{sockets::Sockets, visits::Visit};

/// Time for the new process to say whether it could take over.
const PREPARE: Duration = Duration::from_secs(30);
/// Time for it to open the store, bring the schema forward and find its routes.
const TAKE: Duration = Duration::from_secs(300);

/// The program that is installed, and how it is started.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// This process's own program and arguments. To be asked at the start: when the file is replaced, the path is
    /// that of the new one, which is what is wanted.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn of_this_process() -> std::io::Result<Self> {
        Ok(Self { path: std::env::current_exe()?, args: std::env::args_os().skip(1).collect() })
    }
}

/// A new process that could take over, and has not yet.
#[derive(Debug)]
pub struct Offer {
    child: Child,
    ear: Ear,
    mouth: Mouth,
    /// Version of the new process.
    pub version: String,
}

/// A new process that has taken over.
#[derive(Debug)]
pub struct Given {
    mouth: Mouth,
    /// Its process id.
    pub pid: Option<u32>,
}

impl Offer {
    /// Starts the new process, hands it the sockets, and waits until it says that it could take over.
    ///
    /// # Errors
    /// When it does not start, refuses or does not answer; it is gone then.
    pub async fn make(program: &Program, sockets: &Sockets, drain: Duration) -> Result<Self, Problem> {
        let (ours, theirs) = StdStream::pair().map_err(|e| trouble("make a connection for", &e))?;
        let (described, handles) = sockets.handles();
        let handles: Vec<_> = handles.iter().map(|h| h.as_fd()).collect();
        send_sockets(&ours, &handles).map_err(|e| trouble("hand the sockets to", &e))?;
        let child = Command::new(&program.path)
            .args(&program.args)
            .env(VARIABLE, "1")
            .release(OwnedFd::from(theirs))
            .map_err(|e| {
                Problem::new(Code::Unavailable, format!("The new version could not be started: {e}."))
            })?;
        let (ear, mouth) = converse(ours).map_err(|e| trouble("talk to", &e))?;
        let mut offer = Self { child, ear, mouth, version: String::new() };
        let hello = FromOld::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            sockets: described,
            drain_s: drain.as_secs(),
        };
        match offer.prepared(hello).await {
            Ok(version) => Ok(Self { version, ..offer }),
            Err(problem) => {
                offer.end().await;
                Err(problem)
            }
        }
    }

    async fn prepared(&mut self, hello: FromOld) -> Result<String, Problem> {
        match self.answer(&hello, PREPARE, "before it was prepared").await? {
            FromNew::Prepared { version, migrations } => {
                tracing::info!(version, ?migrations, "the new version is prepared to take over");
                Ok(version)
            }
            _ => Err(unexpected()),
        }
    }

    /// Gives everything to it and waits until it serves.
    ///
    /// # Errors
    /// When it ends or does not answer; it is gone then.
    pub async fn give(mut self) -> Result<Given, Problem> {
        let problem = match self.answer(&FromOld::Yours, TAKE, "before it served").await {
            Ok(FromNew::Serving) => return Ok(Given { pid: self.child.id(), mouth: self.mouth }),
            Ok(_) => unexpected(),
            Err(problem) => problem,
        };
        self.end().await;
        Err(problem)
    }

    /// Says something and hears the answer; a refusal and every kind of silence are problems.
    async fn answer(&mut self, said: &FromOld, limit: Duration, when: &str) -> Result<FromNew, Problem> {
        if let Err(error) = self.mouth.say(said).await {
            return Err(self.broken(&error, when).await);
        }
        match self.ear.hear_within(limit).await {
            Ok(Some(FromNew::Refused { problem })) => Err(problem),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.ended(when).await),
            Err(error) => Err(self.broken(&error, when).await),
        }
    }

    /// What a failed connection means: mostly that the other end is gone.
    async fn broken(&mut self, error: &std::io::Error, when: &str) -> Problem {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => self.ended(when).await,
            _ => trouble("talk to", error),
        }
    }

    async fn ended(&mut self, when: &str) -> Problem {
        // Its end of the connection closes a moment before it can be waited for.
        let status = tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await;
        let how = match status {
            Ok(Ok(status)) => format!(" ({status})"),
            _ => String::new(),
        };
        Problem::new(Code::Unavailable, format!("The new version ended{how} {when}.")).hint(
            "Its messages are in the daemon's log. Install a version that starts, then upgrade again; the one before goes on meanwhile.",
        )
    }

    async fn end(&mut self) {
        // Gone already is fine. It is waited for, so that it neither holds the lock nor stays a zombie.
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
    }
}

impl Given {
    /// Tells it of a request that ended here.
    pub async fn tell(&mut self, visit: Visit) -> std::io::Result<()> {
        self.mouth.say(&FromOld::Visit(Box::new(visit))).await
    }
}

fn trouble(what: &str, error: &std::io::Error) -> Problem {
    Problem::new(Code::Unavailable, format!("The old version could not {what} the new one: {error}."))
        .hint("The one before goes on. The daemon's log may say more.")
}

fn unexpected() -> Problem {
    Problem::new(Code::Internal, "The new version said something out of turn.")
}
