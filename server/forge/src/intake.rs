//! Taking in webhooks: who sent it is checked, what it tells becomes a durable push, and only then it is answered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use berth_deploy::Pipeline;
use berth_schemas::{
    Code, Problem, Timestamp,
    push::{GitChange, GitCommits, PushOrigin},
    repository::ForgeKind,
};
use berth_store::{Learnt, NewPush, PushSource, Received, RepositoryRow};
use http::HeaderMap;

use crate::{
    forges::Forges,
    webhook::{self, Delivery, Refused, RemoteIdentity, Told},
};

/// Refusals of one repository's webhooks are written to the event log this often at most, in seconds.
const AUDIT_EVERY_S: i64 = 60;

/// What became of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// In words.
    pub outcome: String,
    /// The pushes that it is, or was already.
    pub pushes: Vec<i64>,
}

/// The way in for webhooks.
#[derive(Debug)]
pub struct Intake {
    forges: Arc<Forges>,
    audited: Mutex<HashMap<String, Timestamp>>,
}

impl Intake {
    /// A way in for the repositories of these forges.
    #[must_use]
    pub fn new(forges: Arc<Forges>) -> Self {
        Self { forges, audited: Mutex::default() }
    }

    /// The repository that a webhook's URL names.
    ///
    /// # Errors
    /// `NotFound`, the same for an id that never was and one that is gone.
    pub async fn repository(&self, id: &str) -> Result<RepositoryRow, Problem> {
        let row = match uuid::Uuid::try_parse(id) {
            Ok(_) => self.forges.store().repositories().by_id(id).await?,
            Err(_) => None,
        };
        row.ok_or_else(|| {
            Problem::new(Code::NotFound, "No repository has this webhook.")
                .hint("Copy the payload URL anew: repository_get shows it.")
        })
    }

    /// Takes in a webhook. When this returns, what it tells is durable.
    ///
    /// # Errors
    /// `Unauthenticated` when it is not signed with the secret, `InvalidInput` when it cannot be read, `Forbidden` when
    /// it is about another repository; nothing has changed then.
    pub async fn take(
        &self,
        pipeline: &Pipeline,
        repository: &RepositoryRow,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Accepted, Problem> {
        match self.taken(pipeline, repository, headers, body).await {
            Err(Halt::Refused(refused)) => Err(self.refuse(repository, headers, &refused).await),
            Err(Halt::Problem(problem)) => Err(problem),
            Ok(accepted) => Ok(accepted),
        }
    }

    async fn taken(
        &self,
        pipeline: &Pipeline,
        row: &RepositoryRow,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Accepted, Halt> {
        let repositories = self.forges.store().repositories();
        let secret = repositories.secrets(row).map_err(Problem::from)?.webhook;
        let now = self.forges.store().clock().now();
        webhook::verify(row.forge, &secret.0, headers, body, now)?;
        let delivery = webhook::delivery(row.forge, headers, body)?;
        let digest = content(row.forge, headers, body);
        if repositories.delivered(&row.id, &delivery.id, digest.as_deref()).await.map_err(Problem::from)? {
            return Ok(Accepted { outcome: "known already: nothing was done".into(), pushes: Vec::new() });
        }
        let (learnt, accepted) = match webhook::read(row.forge, &delivery.event, body)? {
            Told::Ping => (Learnt::default(), said("hello")),
            Told::Unused => (Learnt::default(), said("this event leads to nothing")),
            Told::Moved { repository, changes } => {
                webhook::same_repository(&repository, row.remote_id.as_deref(), &row.full_name)?;
                let accepted = self.receive(pipeline, row, &delivery, &repository, changes).await?;
                let learnt = Learnt { remote_id: repository.id, branch: repository.default_branch };
                (learnt, accepted)
            }
        };
        // Should the daemon die before this, the forge sends it again, and the pushes are known by its id.
        let shown = (delivery.event.as_str(), accepted.outcome.as_str());
        repositories
            .accept(&row.id, &delivery.id, digest.as_deref(), learnt, shown)
            .await
            .map_err(Problem::from)?;
        Ok(accepted)
    }

    async fn receive(
        &self,
        pipeline: &Pipeline,
        row: &RepositoryRow,
        delivery: &Delivery,
        repository: &RemoteIdentity,
        changes: Vec<(GitChange, GitCommits)>,
    ) -> Result<Accepted, Problem> {
        if changes.is_empty() {
            return Ok(said("nothing in it moves a branch, a tag or a pull request"));
        }
        let mut pushes = Vec::with_capacity(changes.len());
        let mut new = 0;
        for (at, (change, commits)) in changes.into_iter().enumerate() {
            // One message may tell several changes; each is known by its place in it.
            let id = if at == 0 { delivery.id.clone() } else { format!("{}#{at}", delivery.id) };
            let push = NewPush {
                delivery: Some(id),
                commits,
                default_branch: row.branch.clone().or_else(|| repository.default_branch.clone()),
                ..new_push(row, PushOrigin::Webhook, change)
            };
            let received = pipeline.receive_push(push).await?;
            new += usize::from(matches!(received, Received::New(_)));
            pushes.push(received.id().0);
        }
        let outcome = match (new, pushes.len()) {
            (0, _) => "known already: nothing was done".to_owned(),
            (_, 1) => format!("push {} is stored", pushes[0]),
            (new, _) => format!("{new} pushes are stored"),
        };
        Ok(Accepted { outcome, pushes })
    }

    /// Notes a refusal, and says it to the sender without telling him more than he knows.
    async fn refuse(&self, row: &RepositoryRow, headers: &HeaderMap, refused: &Refused) -> Problem {
        let event = ["x-github-event", "x-gitlab-event", "x-forgejo-event", "x-gitea-event", "x-event-key"]
            .into_iter()
            .find_map(|name| headers.get(name)?.to_str().ok())
            .unwrap_or("unknown");
        let why = refused.to_string();
        let audit = self.audit(&row.id);
        if let Err(error) = self.forges.store().repositories().refuse(row, (event, &why), audit).await {
            tracing::warn!(%error, "a refused webhook was not noted");
        }
        let (code, hint) = match refused {
            Refused::Unsigned { .. } | Refused::WrongSignature { .. } => (
                Code::Unauthenticated,
                "Set the webhook's secret at the forge to the one that Berth gave; webhook_rotate makes a new one.",
            ),
            Refused::Stale { .. } => (Code::Unauthenticated, "Check the clocks of both machines."),
            Refused::OtherRepository { .. } => {
                (Code::Forbidden, "Give each repository the webhook of the app that is connected to it.")
            }
            Refused::Nameless { .. } | Refused::BadBody(_) => {
                (Code::InvalidInput, "Choose the content type application/json for the webhook.")
            }
        };
        Problem::new(code, format!("The webhook is refused: {why}.")).hint(hint)
    }

    /// Whether a refusal is written to the event log now.
    fn audit(&self, id: &str) -> bool {
        let now = self.forges.store().clock().now();
        let mut audited = self.audited.lock().unwrap_or_else(PoisonError::into_inner);
        audited.retain(|_, at| now.0.saturating_sub(at.0) < AUDIT_EVERY_S * 1_000_000);
        if audited.contains_key(id) {
            return false;
        }
        audited.insert(id.to_owned(), now);
        true
    }
}

/// A push of a connected repository.
pub(crate) fn new_push(row: &RepositoryRow, origin: PushOrigin, change: GitChange) -> NewPush {
    let url = match &change {
        GitChange::Pull { head_url: Some(url), .. } => url.clone(),
        _ => row.url.clone(),
    };
    NewPush {
        default_branch: row.branch.clone(),
        ..NewPush::new(row.app_id, origin, change, PushSource::Remote { url })
    }
}

/// By what a message is known besides its id: its content, where the signature covers that and not the id. GitLab's
/// messages say the same when a branch goes back and forth, and are known by their id alone.
fn content(kind: ForgeKind, headers: &HeaderMap, body: &[u8]) -> Option<String> {
    match kind {
        ForgeKind::Gitlab if headers.contains_key("webhook-signature") => None,
        ForgeKind::Gitlab | ForgeKind::Generic => None,
        _ => Some(webhook::digest(body)),
    }
}

fn said(words: &str) -> Accepted {
    Accepted { outcome: words.to_owned(), pushes: Vec::new() }
}

enum Halt {
    Refused(Refused),
    Problem(Problem),
}

impl From<Refused> for Halt {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Problem> for Halt {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}
