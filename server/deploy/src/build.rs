//! Making a release of a source: deciding how, then either putting its files in place or building an image.

use std::{sync::Arc, time::Duration};

use berth_schemas::{
    Code, Problem,
    deployment::{BuildLineKind, PlanShown},
};
use berth_store::model::{Artifact, ReleaseRow};
use tokio::sync::mpsc;

use crate::{
    attempt::{Attempt, io_problem},
    docker::{
        BuildEvent, BuildLimits, BuildRequest, BuildSecret, EngineError, StepState, context_from_reader,
    },
    fault::Halt,
    fetch::{Source, start_command},
    journal::Journal,
    pipeline::Inner,
    plan::{self, BuildPlan},
};

/// Time that a build may take where none was set.
const DEFAULT_BUILD_TIME: u64 = 1800;

impl Inner {
    /// Decides how to build the source and builds it.
    pub(crate) async fn build_release(
        self: &Arc<Self>,
        attempt: &mut Attempt,
        source: Source,
    ) -> Result<ReleaseRow, Halt> {
        let plan = self.plan(attempt, &source).await?;
        match &plan.static_dir {
            Some(_) => self.place_files(attempt, &source, &plan).await,
            None => self.build_image(attempt, &source, &plan).await,
        }
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
            .blocking(attempt, move |_| -> Result<i64, std::io::Error> {
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
    ) -> Result<ReleaseRow, Halt> {
        self.refuse_without_space(attempt).await?;
        if self.builds.available_permits() == 0 {
            attempt.journal.note("waiting for a free place to build").await;
        }
        let permit = attempt
            .unless_cancelled(self, async { self.builds.acquire().await.map_err(|_| Halt::Shutdown) })
            .await?;
        let request = self.build_request(attempt, source, plan).await?;
        let tag = request.tag.clone();
        let (sink, events) = mpsc::channel(1024);
        let (built, ()) = tokio::join!(
            self.engine.build(request, sink, attempt.cancel.clone()),
            write_events(attempt.journal.clone(), events)
        );
        drop(permit);
        let built = match built {
            Ok(built) => built,
            Err(EngineError::Cancelled { .. }) => return Err(self.why_cancelled(&attempt.row)),
            Err(error) => return Err(error.into()),
        };
        let port = self.port_of(attempt, plan.port_hint, &built.exposed_ports).await;
        // A generated Dockerfile has the start command in it; one that came with the source does not.
        let command = if plan.is_generated() { None } else { start_command(attempt)? };
        let bytes = i64::try_from(built.size_bytes).unwrap_or(i64::MAX);
        let artifact =
            Artifact::Image { image_id: built.image_id, reference: tag, port, built: true, command };
        match self.record_release(attempt, artifact, bytes).await {
            Ok(release) => Ok(release),
            Err(halt) => Err(halt),
        }
    }

    async fn build_request(
        &self,
        attempt: &Attempt,
        source: &Source,
        plan: &BuildPlan,
    ) -> Result<BuildRequest, Halt> {
        let (context, dockerfile) = self.context(attempt, source, plan).await?;
        let mut request = BuildRequest::new(
            self.instance.image_tag(attempt.app.slug.as_str(), attempt.row.number),
            context,
        );
        request.dockerfile = dockerfile;
        request.no_cache = attempt.row.no_cache;
        request.labels = [(crate::docker::label::APP.to_owned(), attempt.app.slug.to_string())].into();
        request.secrets = self
            .store
            .variables()
            .list(attempt.app.environment.id)
            .await?
            .into_iter()
            .filter(|v| v.build)
            .map(|v| BuildSecret { id: v.name.to_string(), value: v.value.into_bytes() })
            .collect();
        let time = attempt.app.settings.build_timeout_s.map_or(DEFAULT_BUILD_TIME, u64::from);
        request.limits = BuildLimits { time: Duration::from_secs(time), ..BuildLimits::default() };
        Ok(request)
    }

    /// A build that would fill the disk is refused before it starts.
    async fn refuse_without_space(&self, attempt: &Attempt) -> Result<(), Halt> {
        let free = self.engine.info().await?.disk_free_bytes;
        let Some(free) = free.filter(|free| *free < self.config.min_free_bytes) else { return Ok(()) };
        let _ = attempt;
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

/// Writes a build's progress to the deployment's log.
async fn write_events(journal: Journal, mut events: mpsc::Receiver<BuildEvent>) {
    while let Some(event) = events.recv().await {
        match event {
            BuildEvent::Step { internal: true, .. } | BuildEvent::Transfer { .. } => {}
            BuildEvent::Step { step, name, state, duration, .. } => {
                let took = duration.map_or_else(String::new, |d| format!(" ({:.1} s)", d.as_secs_f64()));
                let kind = match state {
                    StepState::Started => BuildLineKind::Step,
                    StepState::Cached => BuildLineKind::Cached,
                    StepState::Done => BuildLineKind::Done,
                    StepState::Failed { .. } => BuildLineKind::Failed,
                    _ => BuildLineKind::Note,
                };
                journal.line(kind, Some(step.0.to_string()), format!("{name}{took}")).await;
            }
            BuildEvent::Log { step, text, .. } => {
                journal.line(BuildLineKind::Output, Some(step.0.to_string()), text).await;
            }
            BuildEvent::Warning { text } => journal.line(BuildLineKind::Warning, None, text).await,
        }
    }
}

/// A plan as it is shown.
fn shown(plan: &BuildPlan, port: Option<u16>) -> PlanShown {
    PlanShown {
        builder: plan.builder.as_str().to_owned(),
        evidence: plan.evidence.iter().map(|e| e.to_string().into()).collect(),
        dockerfile: plan.generated_dockerfile().map(Into::into),
        port,
    }
}

impl Inner {
    async fn plan(&self, _a: &Attempt, _s: &Source) -> Result<BuildPlan, Halt> {
        Err(Halt::Cancelled)
    }
    async fn context(
        &self,
        _a: &Attempt,
        _s: &Source,
        _p: &BuildPlan,
    ) -> Result<(crate::docker::ContextStream, String), Halt> {
        Err(Halt::Cancelled)
    }
}
