//! Making a release of a source: deciding how, then either putting its files in place or building an image.

use std::{path::PathBuf, sync::Arc};

use berth_schemas::{
    Code, Problem,
    deployment::{BuildLineKind, PlanShown},
};
use berth_store::model::{Artifact, DeploymentId, ReleaseRow, VariableRow};
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::{
    attempt::{Attempt, io_problem},
    docker::{
        BuildEvent, BuildLimits, BuildRequest, BuildSecret, BuiltImage, ContextStream, EngineError,
        StepState, context_from_reader, label,
    },
    fault::Halt,
    fetch::{Source, start_command},
    journal::Journal,
    limits,
    pipeline::Inner,
    plan::{
        self, BuildPlan, DirectoryTree, DockerfileSource, PlanError, PlanSettings, recipe::SECRETS_DIGEST_ARG,
    },
    source::ignore::{self, ContextDockerfile},
    waits::Wait,
};

impl Inner {
    /// Decides how to build the source and builds it.
    pub(crate) async fn build_release(
        self: &Arc<Self>,
        attempt: &mut Attempt,
        source: Source,
    ) -> Result<ReleaseRow, Halt> {
        let plan = self.plan(attempt, &source).await?;
        match &plan.dockerfile {
            None => self.place_files(attempt, &source, &plan).await,
            Some(dockerfile) => self.build_image(attempt, &source, &plan, dockerfile).await,
        }
    }

    /// Decides how to build a source, and keeps the decision with its evidence.
    async fn plan(&self, attempt: &mut Attempt, source: &Source) -> Result<BuildPlan, Halt> {
        let secrets = self.build_variables(attempt).await?.into_iter().map(|v| v.name.to_string()).collect();
        let settings = PlanSettings::from_app(&attempt.app.settings, &attempt.app.uuid, secrets);
        let directory = source.directory.clone();
        let plan = self
            .blocking(attempt, "looking at the source", limits::FILES, move |_| -> Result<BuildPlan, Problem> {
                let tree =
                    DirectoryTree::scan(&directory).map_err(|e| io_problem("looking at the source", &e))?;
                plan::detect(&tree, &settings).map_err(|e| plan_problem(&e))
            })
            .await??;
        let shown = serde_json::to_value(shown(&plan)).map_err(|e| {
            Problem::new(Code::Internal, format!("The build plan could not be written: {e}."))
        })?;
        self.store.deployments().set_plan(attempt.row.id, &shown).await?;
        attempt.journal.note(format!("building with {}", plan.preset)).await;
        for fact in &plan.evidence {
            attempt.journal.note(format!("{}: {}", fact.path, fact.why)).await;
        }
        for warning in &plan.warnings {
            attempt.journal.line(BuildLineKind::Warning, None, warning.clone()).await;
            self.store.deployments().add_warning(attempt.row.id, warning).await?;
        }
        Ok(plan)
    }

    /// The variables that builds get, as secrets.
    async fn build_variables(&self, attempt: &Attempt) -> Result<Vec<VariableRow>, Halt> {
        let mut variables = self.store.variables().list(attempt.app.environment.id).await?;
        variables.retain(|v| v.build);
        Ok(variables)
    }

    /// Moves the finished files where the data plane serves them from.
    async fn place_files(
        &self,
        attempt: &mut Attempt,
        source: &Source,
        plan: &BuildPlan,
    ) -> Result<ReleaseRow, Halt> {
        let from =
            plan.static_dir.as_deref().map_or_else(|| source.directory.clone(), |d| source.directory.join(d));
        let path = format!("{}/{}", attempt.app.id.0, attempt.row.number);
        let to = self.config.data_dir.join("releases").join(&path);
        let bytes = self
            .blocking(attempt, "putting the files in place", limits::FILES, move |_| -> Result<i64, std::io::Error> {
                // What an earlier attempt at this deployment may have left.
                if to.exists() {
                    std::fs::remove_dir_all(&to)?;
                }
                if let Some(parent) = to.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                std::fs::rename(&from, &to)?;
                crate::cleanup::tree_bytes(&to)
            })
            .await?
            .map_err(|e| io_problem("putting the files in place", &e))?;
        attempt.journal.note("the files are served as they are; no container is needed").await;
        self.record_release(attempt, Artifact::Static { path }, bytes).await
    }

    async fn build_image(
        self: &Arc<Self>,
        attempt: &mut Attempt,
        source: &Source,
        plan: &BuildPlan,
        dockerfile: &DockerfileSource,
    ) -> Result<ReleaseRow, Halt> {
        self.refuse_without_space().await?;
        let permit = self.place_to_build(attempt).await?;
        let request = self.build_request(attempt, source, plan, dockerfile).await?;
        let tag = request.tag.clone();
        let (sink, events) = mpsc::channel(1024);
        let build = async {
            let (built, ()) = tokio::join!(
                self.engine.build(request, sink, attempt.cancel.clone()),
                write_events(attempt.journal.clone(), events)
            );
            Ok(built)
        };
        // The engine ends it in time and says where it was; this is for an engine that hangs.
        let built = limits::step("the build", limits::build(&attempt.app) + limits::BUILD_GRACE, build).await;
        drop(permit);
        let built = built?;
        let built = match built {
            Ok(built) => built,
            Err(EngineError::Cancelled { .. }) => return Err(self.why_cancelled(&attempt.row)),
            Err(error) => return Err(error.into()),
        };
        let recorded = self.record_image(attempt, plan, dockerfile, built, tag.clone()).await;
        if recorded.is_err() {
            // No release speaks of it, so nobody else would remove it.
            if let Err(error) = self.engine.remove_image(&tag).await {
                tracing::warn!(%error, "an image that no release uses could not be removed");
            }
        }
        recorded
    }

    /// Waits for one of the places to build that this machine has.
    async fn place_to_build(self: &Arc<Self>, attempt: &Attempt) -> Result<BuildPlace, Halt> {
        if self.builds.available_permits() == 0 {
            attempt.journal.note("waiting for a free place to build").await;
        }
        let _wait = self.waits(attempt.row.id, Wait::BuildPlace);
        let permit = attempt
            .unless_cancelled(self, async {
                Arc::clone(&self.builds).acquire_owned().await.map_err(|_| Halt::Shutdown)
            })
            .await?;
        self.note_use(attempt.row.id, |active| active.builds = true);
        Ok(BuildPlace { inner: Arc::clone(self), id: attempt.row.id, _permit: permit })
    }

    async fn record_image(
        &self,
        attempt: &mut Attempt,
        plan: &BuildPlan,
        dockerfile: &DockerfileSource,
        built: BuiltImage,
        tag: String,
    ) -> Result<ReleaseRow, Halt> {
        let port = self.port_of(attempt, plan.port_hint, &built.exposed_ports).await;
        // A generated Dockerfile has the start command in it; one that came with the source does not.
        let command = match dockerfile {
            DockerfileSource::Generated { .. } => None,
            DockerfileSource::InTree { .. } => start_command(attempt)?,
        };
        let bytes = i64::try_from(built.size_bytes).unwrap_or(i64::MAX);
        let artifact =
            Artifact::Image { image_id: built.image_id, reference: tag, port, built: true, command };
        self.record_release(attempt, artifact, bytes).await
    }

    async fn build_request(
        &self,
        attempt: &Attempt,
        source: &Source,
        plan: &BuildPlan,
        dockerfile: &DockerfileSource,
    ) -> Result<BuildRequest, Halt> {
        let tag = self.instance.image_tag(attempt.app.slug.as_str(), attempt.row.number);
        let (context, name) =
            context(source.directory.join(&plan.root), dockerfile, plan.context_excludes.clone());
        let mut request = BuildRequest::new(tag, context);
        request.dockerfile = name;
        request.no_cache = attempt.row.no_cache;
        request.labels = [(label::APP.to_owned(), attempt.app.slug.to_string())].into();
        let variables = self.build_variables(attempt).await?;
        if !plan.build_secrets.is_empty() {
            request.args.insert(SECRETS_DIGEST_ARG.to_owned(), generation(&variables));
        }
        request.secrets = variables
            .into_iter()
            .map(|v| BuildSecret { id: v.name.to_string(), value: v.value.into_bytes() })
            .collect();
        request.limits = BuildLimits { time: limits::build(&attempt.app) };
        Ok(request)
    }

    /// A build that would fill the disk is refused before it starts.
    async fn refuse_without_space(&self) -> Result<(), Halt> {
        let free = self.engine.info().await?.disk_free_bytes;
        let Some(free) = free.filter(|free| *free < self.config.min_free_bytes) else { return Ok(()) };
        Err(Problem::new(
            Code::OutOfDisk,
            format!(
                "Only {} MB are free on Docker's disk; a build is not begun below {} MB.",
                free / 1_000_000,
                self.config.min_free_bytes / 1_000_000
            ),
        )
        .hint("Free space: platform_cleanup lists what Berth can remove.")
        .into())
    }
}

/// A place to build; free again when dropped.
struct BuildPlace {
    inner: Arc<Inner>,
    id: DeploymentId,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Drop for BuildPlace {
    fn drop(&mut self) {
        self.inner.note_use(self.id, |active| active.builds = false);
    }
}

/// Writes a build's progress to the deployment's log.
async fn write_events(journal: Journal, mut events: mpsc::Receiver<BuildEvent>) {
    while let Some(event) = events.recv().await {
        match event {
            BuildEvent::Step { internal: true, .. } | BuildEvent::Transfer { .. } => {}
            BuildEvent::Step { step, name, state, duration, .. } => {
                let seconds = duration.map_or(0.0, |d| d.as_secs_f64());
                let (kind, text) = match state {
                    StepState::Started => (BuildLineKind::Step, name),
                    StepState::Cached => (BuildLineKind::Cached, format!("{name} (cached)")),
                    StepState::Done => (BuildLineKind::Done, format!("done in {seconds:.1} s")),
                    StepState::Failed { .. } => {
                        (BuildLineKind::Failed, format!("failed after {seconds:.1} s"))
                    }
                };
                journal.line(kind, Some(step.0.to_string()), text).await;
            }
            BuildEvent::Log { step, text, .. } => {
                journal.line(BuildLineKind::Output, Some(step.0.to_string()), text).await;
            }
            BuildEvent::Warning { text } => journal.line(BuildLineKind::Warning, None, text).await,
        }
    }
}

/// What changes whenever one of these is set anew: BuildKit leaves the values of secrets out of its cache keys. Times,
/// not values, because build arguments stay readable in the image.
fn generation(variables: &[VariableRow]) -> String {
    let mut hash = Sha256::new();
    for variable in variables {
        hash.update(format!("{}={};", variable.name, variable.updated_at.micros()));
    }
    hex::encode(&hash.finalize()[..8])
}

/// The build context of a folder as a stream, and the Dockerfile's name in it. An error while packing ends the
/// stream with it.
fn context(
    directory: PathBuf,
    dockerfile: &DockerfileSource,
    excludes: Vec<String>,
) -> (ContextStream, String) {
    let name = match dockerfile {
        DockerfileSource::InTree { path } => path.clone(),
        DockerfileSource::Generated { .. } => ignore::GENERATED_DOCKERFILE.to_owned(),
    };
    let dockerfile = dockerfile.clone();
    let (writer, reader) = tokio::io::duplex(256 << 10);
    let packing = tokio::task::spawn_blocking(move || {
        let writer = tokio_util::io::SyncIoBridge::new(writer);
        let dockerfile = match &dockerfile {
            DockerfileSource::InTree { path } => ContextDockerfile::InTree(path),
            DockerfileSource::Generated { text } => ContextDockerfile::Generated(text),
        };
        ignore::docker_context(&directory, &dockerfile, &excludes, writer)
    });
    let ending = stream::once(async move {
        match packing.await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(Err(std::io::Error::other(error.to_string()))),
            Err(error) => Some(Err(std::io::Error::other(error))),
        }
    })
    .filter_map(async |end| end);
    (context_from_reader(reader).chain(ending).boxed(), name)
}

fn plan_problem(error: &PlanError) -> Problem {
    let (code, candidates) = match error {
        PlanError::NothingRecognised { nearest, .. } => (Code::NothingRecognised, nearest.clone()),
        PlanError::Missing { candidates, .. } => (Code::BadPlan, candidates.clone()),
        PlanError::BadSetting { .. } | PlanError::BadFile { .. } => (Code::BadPlan, Vec::new()),
    };
    Problem::new(code, crate::fault::sentence(&error.to_string())).hint(error.hint()).candidates(candidates)
}

/// A plan as it is shown.
fn shown(plan: &BuildPlan) -> PlanShown {
    PlanShown {
        builder: plan.preset.clone(),
        evidence: plan.evidence.iter().map(|e| format!("{}: {}", e.path, e.why).into()).collect(),
        dockerfile: match &plan.dockerfile {
            Some(DockerfileSource::Generated { text }) => Some(text.as_str().into()),
            _ => None,
        },
        port: plan.port_hint,
    }
}
