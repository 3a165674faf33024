//! Getting the source of a deployment: unpacking an upload, fetching a repository at a commit, pulling an image.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use berth_schemas::{Code, Problem, deployment::BuildLineKind, ids::UploadId};
use berth_store::model::{Artifact, DeploymentSource, Principal, ReleaseRow, UploadRow};
use tokio::sync::mpsc;

use crate::{
    attempt::{Attempt, io_problem},
    docker::{EngineError, ImageInfo, ImageRef, PullEvent},
    fault::Halt,
    pipeline::Inner,
};

/// Port of an app that says none and whose image declares none.
pub(crate) const DEFAULT_PORT: u16 = 8080;

/// A source on disk.
pub(crate) struct Source {
    /// The folder that holds the app.
    pub(crate) directory: PathBuf,
}

impl Inner {
    /// Brings the deployment's source into its work directory.
    pub(crate) async fn fetch_source(&self, attempt: &mut Attempt) -> Result<Source, Halt> {
        let work = self.work_dir(attempt.row.id);
        tokio::fs::create_dir_all(&work).await.map_err(|e| io_problem("making the work directory", &e))?;
        let tree = work.join("source");
        match attempt.row.source.clone() {
            DeploymentSource::Upload { upload, .. } | DeploymentSource::Files { upload, .. } => {
                self.unpack(attempt, &upload, &tree).await?;
            }
            DeploymentSource::Git { url, git_ref } => {
                self.fetch_git(attempt, &url, git_ref.as_deref(), &tree).await?
            }
            DeploymentSource::Image { .. }
            | DeploymentSource::Rollback { .. }
            | DeploymentSource::Redeploy { .. } => {
                return Err(Problem::new(Code::Internal, "This source is not fetched.").into());
            }
        }
        let directory = root_directory(&tree, attempt.app.settings.root_directory.as_deref())?;
        Ok(Source { directory })
    }

    /// Finds an image in the engine or pulls it, and makes it a release.
    pub(crate) async fn fetch_image(&self, attempt: &mut Attempt, image: &str) -> Result<ReleaseRow, Halt> {
        let reference = ImageRef::parse(image).map_err(|e| crate::fault::engine_problem(&e))?;
        let info = match self.pull(attempt, &reference).await {
            Ok(info) => info,
            // An image that only the local engine has cannot be pulled; that it is there is enough.
            Err(Halt::Failed(problem)) if problem.code == Code::ImageUnavailable => {
                match self.engine.inspect_image(&reference.to_string()).await? {
                    Some(info) => {
                        attempt
                            .journal
                            .note("the registry does not have it; using the engine's own copy")
                            .await;
                        info
                    }
                    None => return Err(Halt::Failed(problem)),
                }
            }
            Err(halt) => return Err(halt),
        };
        let port = self.port_of(attempt, None, &info.exposed_ports).await;
        let command = start_command(attempt)?;
        let artifact = Artifact::Image {
            image_id: info.id.clone(),
            reference: reference.to_string(),
            port,
            built: false,
            command,
        };
        self.record_release(attempt, artifact, i64::try_from(info.size_bytes).unwrap_or(i64::MAX)).await
    }

    async fn pull(&self, attempt: &Attempt, image: &ImageRef) -> Result<ImageInfo, Halt> {
        attempt.journal.line(BuildLineKind::Step, None, format!("pull {image}")).await;
        let (sink, mut events) = mpsc::channel::<PullEvent>(256);
        let journal = attempt.journal.clone();
        let listen = async move {
            while let Some(event) = events.recv().await {
                if event.layer.is_none() {
                    journal.line(BuildLineKind::Output, None, event.status).await;
                }
            }
        };
        let (pulled, ()) = tokio::join!(self.engine.pull(image, None, sink, attempt.cancel.clone()), listen);
        match pulled {
            Err(EngineError::Cancelled { .. }) => Err(self.why_cancelled(&attempt.row)),
            other => Ok(other?),
        }
    }

    /// The port that the app is expected on: configured, planned, declared by the image, or the usual one.
    pub(crate) async fn port_of(&self, attempt: &Attempt, planned: Option<u16>, exposed: &[u16]) -> u16 {
        if let Some(port) = attempt.app.settings.port.or(planned) {
            return port;
        }
        match exposed {
            [] => DEFAULT_PORT,
            [only] => *only,
            [first, ..] => {
                let all = exposed.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
                let text = format!(
                    "the image declares the ports {all}; {first} is used (settings.port chooses another)"
                );
                attempt.journal.line(BuildLineKind::Warning, None, text).await;
                *first
            }
        }
    }

    /// Runs blocking work that looks at a flag, setting the flag when the attempt is cancelled.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        attempt: &Attempt,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<T, Halt> {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&flag);
        let mut task = tokio::task::spawn_blocking(move || work(&seen));
        let done = tokio::select! {
            done = &mut task => done,
            () = attempt.cancel.cancelled() => {
                flag.store(true, Ordering::Relaxed);
                // It stops at its next look at the flag; what it made is removed with the work directory.
                let _ = task.await;
                return Err(self.why_cancelled(&attempt.row));
            }
        };
        done.map_err(|e| {
            tracing::error!(error = %e, "a blocking step ended badly");
            Problem::new(
                Code::Internal,
                "A step of the deployment ended unexpectedly; the daemon's log says more.",
            )
            .into()
        })
    }
}

/// The command that starts the app, as arguments; none for the image's own.
pub(crate) fn start_command(attempt: &Attempt) -> Result<Option<Vec<String>>, Halt> {
    let Some(command) = &attempt.app.settings.start_command else { return Ok(None) };
    match shell_words::split(command) {
        Ok(words) if !words.is_empty() => Ok(Some(words)),
        _ => Err(Problem::new(
            Code::BadPlan,
            format!("The start command {command:?} has no words or an open quote."),
        )
        .hint("Correct settings.start_command with app_update.")
        .into()),
    }
}

/// The folder of a source that holds the app.
fn root_directory(tree: &Path, configured: Option<&str>) -> Result<PathBuf, Halt> {
    let Some(configured) = configured.map(|c| c.trim_matches('/')).filter(|c| !c.is_empty() && *c != ".")
    else {
        return Ok(tree.to_path_buf());
    };
    let directory = tree.join(configured);
    // The edge refused `..`; a link that leads out of the source is refused here.
    let inside = match (directory.canonicalize(), tree.canonicalize()) {
        (Ok(directory), Ok(tree)) => directory.starts_with(&tree) && directory.is_dir(),
        _ => false,
    };
    if inside {
        return Ok(directory);
    }
    let mut folders: Vec<String> = std::fs::read_dir(tree)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    folders.truncate(20);
    Err(Problem::new(Code::BadPlan, format!("The source has no folder {configured:?}."))
        .hint("Correct settings.root_directory with app_update.")
        .candidates(folders)
        .into())
}

impl Inner {
    async fn unpack(&self, _a: &Attempt, _u: &UploadId, _t: &Path) -> Result<(), Halt> {
        Ok(())
    }
    async fn fetch_git(&self, _a: &Attempt, _u: &str, _r: Option<&str>, _t: &Path) -> Result<(), Halt> {
        Ok(())
    }
    pub(crate) async fn keep_files(
        &self,
        _w: &Principal,
        _f: std::collections::BTreeMap<String, String>,
    ) -> Result<UploadRow, Problem> {
        Err(Problem::new(Code::Internal, ""))
    }
}
