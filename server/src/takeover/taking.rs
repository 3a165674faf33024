//! The new process's side: take the sockets, look, take over.

use std::{
    io,
    net::TcpListener,
    os::{fd::AsFd as _, unix::net::UnixStream as StdStream},
    time::Duration,
};

use berth_schemas::{Code, Problem};
use berth_store::StoreConfig;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Described, PROTOCOL, VARIABLE,
    wire::{Ear, FromNew, FromOld, Mouth, converse, receive_sockets},
};
use crate::{cli::failure::Failure, visits::Visit};

/// Time for the old process to end its work, beyond what it said that open calls may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// An old process that is still there so long after its drain's limit is no longer waited for.
const LONGEST_END: Duration = Duration::from_secs(60);

/// The process before this one, which is ready to hand over.
#[derive(Debug)]
pub struct Predecessor {
    ear: Ear,
    mouth: Mouth,
    /// Its version.
    pub version: String,
    drain: Duration,
    /// To be cancelled when it is gone.
    pub alone: Option<CancellationToken>,
    /// Cancelled when this process serves.
    pub serving: CancellationToken,
}

/// The listening sockets that it handed over.
#[derive(Debug, Default)]
pub struct Taken(pub Vec<(Described, TcpListener)>);

impl Predecessor {
    /// Greets the process before this one, if this one was started to take over.
    ///
    /// # Errors
    /// When it was, and the connection does not work.
    pub async fn greet() -> Result<Option<(Self, Taken)>, Failure> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let failed = |e: io::Error| Failure::local(format!("cannot take over from the process before: {e}"));
        let stream = tokio::task::spawn_blocking(connect).await.map_err(|e| failed(io::Error::other(e)))?;
        let (stream, sockets) = stream.map_err(failed)?;
        let (mut ear, mut mouth) = converse(stream).map_err(failed)?;
        let hello = ear.hear_within(PATIENCE).await.map_err(failed)?;
        let Some(FromOld::Hello { protocol, version, sockets: described, drain_s }) = hello else {
            return Err(Failure::local("the process before said something unexpected"));
        };
        if protocol != PROTOCOL || described.len() != sockets.len() {
            let problem = Problem::new(
                Code::Unavailable,
                format!("Version {version} cannot hand over to this one: it speaks another protocol."),
            )
            .hint("Restart Berth with its service manager instead.");
            let _ = mouth.say(&FromNew::Refused { problem: problem.clone() }).await;
            return Err(problem.into());
        }
        let taken = described.into_iter().zip(sockets.into_iter().map(TcpListener::from)).collect();
        let drain = Duration::from_secs(drain_s);
        let serving = CancellationToken::new();
        Ok(Some((Self { ear, mouth, version, drain, alone: None, serving }, Taken(taken))))
    }

    /// Looks whether this version can work with the data, says so, and waits until the store is given.
    ///
    /// # Errors
    /// When it cannot; or when the process before goes away, which then needs no successor.
    pub async fn prepare(&mut self, store: &StoreConfig) -> Result<(), Failure> {
        let migrations = match berth_store::preview(store).await {
            Ok(migrations) => migrations,
            Err(error) => return Err(self.refuse(error.into()).await),
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let migrations = migrations.into_iter().map(str::to_owned).collect();
        let failed = |e: io::Error| Failure::local(format!("cannot take over from the process before: {e}"));
        self.mouth.say(&FromNew::Prepared { version, migrations }).await.map_err(failed)?;
        match self.ear.hear_within(PATIENCE).await.map_err(failed)? {
            Some(FromOld::Yours) => Ok(()),
            Some(_) => Err(Failure::local("the process before said something unexpected")),
            None => Err(Failure::local("the process before ended without handing over")),
        }
    }

    /// Tells the process before why this one does not take over.
    pub async fn refuse(&mut self, problem: Problem) -> Failure {
        let _ = self.mouth.say(&FromNew::Refused { problem: problem.clone() }).await;
        problem.into()
    }

    /// Says that this process serves now. The requests that end in the one before go to `visits`; `alone` is
    /// cancelled when it is gone.
    pub async fn serving(mut self, visits: mpsc::Sender<Visit>) {
        if let Err(error) = self.mouth.say(&FromNew::Serving).await {
            // It was killed; had it given up waiting, it would have ended this one first. There is nobody else now.
            tracing::warn!(%error, "the process before ended during the hand-over");
        }
        self.serving.cancel();
        tokio::spawn(async move {
            let _alone = self.alone.take().map(CancellationToken::drop_guard);
            let listening = async {
                while let Ok(Some(FromOld::Visit(visit))) = self.ear.hear().await {
                    // A full queue drops a record, as everywhere.
                    let _ = visits.try_send(*visit);
                }
            };
            if tokio::time::timeout(self.drain + LONGEST_END, listening).await.is_err() {
                tracing::warn!("the process before has not ended; going on as if it had");
            }
            tracing::info!("the process before has ended");
        });
    }
}

/// The socket that is this process's standard input, and what comes along with its first byte.
fn connect() -> io::Result<(StdStream, Vec<std::os::fd::OwnedFd>)> {
    let stream = StdStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // What this process starts must not hold the connection open.
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    stream.set_nonblocking(false)?;
    let sockets = receive_sockets(&stream)?;
    Ok((stream, sockets))
}
