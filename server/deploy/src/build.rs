//! Making a release of a source: deciding how, then either putting its files in place or building an image.

use std::{path::PathBuf, sync::Arc};

use berth_schemas::{
    Code, Problem, Timestamp,
    deployment::{BuildLineKind, PlanShown},
};
use berth_store::model::{Artifact, DeploymentId, ReleaseRow};
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
    lock::lock,
    pipeline::Inner,
    plan::{
        self, BuildPlan, DirectoryTree, DockerfileSource, PlanError, PlanSettings, recipe::SECRETS_DIGEST_ARG,
    },
    source::ignore::{self, ContextDockerfile},
    variables::BuildVariable,
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
            .blocking(
                attempt,
                "looking at the source",
                limits::FILES,
                move |_| -> Result<BuildPlan, Problem> {
                    let tree = DirectoryTree::scan(&directory)
                        .map_err(|e| io_problem("looking at the source", &e))?;
                    plan::detect(&tree, &settings).map_err(|e| plan_problem(&e))
                },
            )
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

    /// Moves the finished files where the data plane serves them from.
    async fn place_files(
        &self,
        attempt: &mut Attempt,
        source: &Source,
        plan: &BuildPlan,
    ) -> Result<ReleaseRow, Halt> {
        let from =
            plan.static_dir.as_deref().map_or_else(|| source.directory.clone(), |d| source.directory.join(d));
        let path = crate::release::files_of(&attempt.row);
        let to = self.config.data_dir.join("releases").join(&path);
        let kept = to.clone();
        let bytes = self
            .blocking(
                attempt,
                "putting the files in place",
                limits::FILES,
                move |_| -> Result<i64, std::io::Error> {
                    // What an earlier attempt at this deployment may have left.
                    if to.exists() {
                        std::fs::remove_dir_all(&to)?;
                    }
                    if let Some(parent) = to.parent() {
                        std::fs::create_dir_all(parent)?;
                    }
                    std::fs::rename(&from, &to)?;
                    crate::cleanup::tree_bytes(&to)
                },
            )
            .await?
            .map_err(|e| io_problem("putting the files in place", &e))?;
        attempt.journal.note("the files are served as they are; no container is needed").await;
        self.take_maps(attempt, kept).await?;
        self.record_release(attempt, Artifact::Static { path }, bytes).await
    }

    async fn build_image(
        self: &Arc<Self>,
        attempt: &mut Attempt,
        source: &Source,
        plan: &BuildPlan,
        dockerfile: &DockerfileSource,
    ) -> Result<ReleaseRow, Halt> {
        self.refuse_without_space(attempt, source).await?;
        let permit = self.place_to_build(attempt).await?;
        let request = self.build_request(attempt, source, plan, dockerfile).await?;
        let tag = request.tag.clone();
        // An attempt that a restart cut off has put its part into the cache already.
        let begun = if attempt.row.attempt > 0 { attempt.row.created_at } else { Timestamp::now() };
        let (sink, events) = mpsc::channel(1024);
        let build = async {
            let (built, steps) = tokio::join!(
                self.engine.build(request, sink, attempt.cancel.clone()),
                write_events(attempt.journal.clone(), events)
            );
            lock(&self.steps).add(steps);
            Ok(built)
        };
        // The engine ends it in time and says where it was; this is for an engine that hangs.
        let built = limits::step("the build", limits::build(&attempt.app) + limits::BUILD_GRACE, build).await;
        drop(permit);
        let inner = Arc::clone(self);
        // Nobody waits for it.
        self.spawn(async move { inner.note_cache(begun).await });
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
        let private_maps = self.hides_maps(attempt.app.id).await?;
        let image_id = built.image_id;
        let artifact = Artifact::Image { image_id, reference: tag, port, built: true, command, private_maps };
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
    async fn refuse_without_space(&self, attempt: &Attempt, source: &Source) -> Result<(), Halt> {
        let Some(free) = self.engine.info().await?.disk_free_bytes else { return Ok(()) };
        let directory = source.directory.clone();
        let source = self
            .blocking(attempt, "measuring the source", limits::FILES, move |_| {
                crate::cleanup::tree_bytes(&directory)
            })
            .await?
            .map_err(|e| io_problem("measuring the source", &e))?;
        let releases = self.store.releases().list(attempt.app.environment.id, false).await?;
        let last = releases.iter().find(|r| matches!(r.artifact, Artifact::Image { built: true, .. }));
        let need = Need {
            source: u64::try_from(source).unwrap_or_default(),
            last: last.map(|r| (r.number, u64::try_from(r.bytes).unwrap_or_default())),
            floor: self.config.min_free_bytes,
        };
        match need.refusal(free) {
            Some(problem) => Err(problem.into()),
            None => Ok(()),
        }
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

/// What a build may take of the disk, in bytes.
struct Need {
    /// Its source: once in the build context, once in the image.
    source: u64,
    /// The number and size of the app's last image: as if nothing of it could be used again.
    last: Option<(i64, u64)>,
    /// What must stay free.
    floor: u64,
}

impl Need {
    fn bytes(&self) -> u64 {
        self.source.saturating_mul(2).saturating_add(self.last.map_or(0, |(_, bytes)| bytes))
    }

    /// Why it does not begin with so much free space, if so.
    fn refusal(&self, free: u64) -> Option<Problem> {
        let mb = |bytes: u64| bytes / 1_000_000;
        let detail = if free < self.floor {
            format!(
                "Only {} MB are free on Docker's disk; a build is not begun below {} MB.",
                mb(free),
                mb(self.floor)
            )
        } else if free - self.floor < self.bytes() {
            let last = self.last.map_or_else(String::new, |(number, bytes)| {
                format!(" and once more the image of release {number}, {} MB", mb(bytes))
            });
            format!(
                "The build may take {} MB (twice the source of {} MB{last}), but only {} MB are free on Docker's disk, of which {} MB must stay so.",
                mb(self.bytes()),
                mb(self.source),
                mb(free),
                mb(self.floor)
            )
        } else {
            return None;
        };
        let hint = "Free space: platform_cleanup lists what Berth can remove. What must stay free is the setting min_free_disk_mb.";
        Some(Problem::new(Code::OutOfDisk, detail).hint(hint))
    }
}

/// Writes a build's progress to the deployment's log. Returns the names of its steps.
async fn write_events(journal: Journal, mut events: mpsc::Receiver<BuildEvent>) -> Vec<String> {
    let mut steps = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            BuildEvent::Step { internal: true, .. } | BuildEvent::Transfer { .. } => {}
            BuildEvent::Step { step, name, state, duration, .. } => {
                let seconds = duration.map_or(0.0, |d| d.as_secs_f64());
                steps.push(name.clone());
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
    steps
}

/// What changes whenever one of these is set anew: BuildKit leaves the values of secrets out of its cache keys. Stamps,
/// not values, because build arguments stay readable in the image.
fn generation(variables: &[BuildVariable]) -> String {
    let mut hash = Sha256::new();
    for variable in variables {
        hash.update(format!("{}={};", variable.name, variable.stamp));
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
    .filter_map(std::future::ready);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_would_not_fit_is_refused_with_all_the_numbers() {
        const MB: u64 = 1_000_000;
        let need = Need { source: 100 * MB, last: Some((4, 300 * MB)), floor: 1000 * MB };
        assert!(need.refusal(1500 * MB).is_none());
        let problem = need.refusal(1499 * MB).unwrap();
        assert_eq!(problem.code, Code::OutOfDisk);
        for number in ["500 MB", "100 MB", "release 4, 300 MB", "1499 MB", "1000 MB"] {
            assert!(problem.detail.contains(number), "{problem}");
        }
        let below = need.refusal(900 * MB).unwrap();
        assert!(
            below.detail.contains("900 MB are free") && below.detail.contains("below 1000 MB"),
            "{below}"
        );
        let first = Need { last: None, ..need };
        assert!(first.refusal(1200 * MB).is_none());
    }
}
