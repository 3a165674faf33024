//! How pushes come in and what becomes of them. Each step is one transaction, with the deployments that it brings:
//! a push that is not decided leads to none, and one that is cannot lead to a second.

use berth_schemas::{
    Timestamp, Untrusted,
    deployment::DeploymentState,
    push::{GitChange, GitCommits, PushState},
};
use serde_json::json;
use sqlx::Row;

use crate::{
    database::{assembled, storable},
    error::{Result, StoreError},
    model::{AppId, DeploymentId, Enqueued, NewDeployment, NewEvent, Principal, PushId},
    pushes::{NewPush, PushRow, Pushes, Received, SELECT, from_row},
    row, sameness,
    write::Write,
};

/// Pushes kept per app, besides the newest of each ref; the oldest that are decided go first.
const KEPT: i64 = 1000;
/// Longest message of a commit in bytes.
const MAX_MESSAGE: usize = 16 << 10;
/// Longest name of an author, a pusher, a message of a sender, an outcome, in bytes.
const MAX_TEXT: usize = 1024;
/// Paths kept; of a push that touches more it is not known which.
const MAX_PATHS: usize = 2000;
/// Bytes of paths kept.
const MAX_PATH_BYTES: usize = 256 << 10;

impl Pushes<'_> {
    /// Keeps a push. It is known already when the sender's message is, or when the newest push of the same branch
    /// leads to the same commit. One whose branch was not moved because of its deployment does not count.
    ///
    /// # Errors
    /// When the app does not exist or is being deleted.
    pub async fn receive(self, new: NewPush) -> Result<Received> {
        let mut write = Write::begin(self.0).await?;
        if let Some(known) = known(&mut write, &new).await? {
            return Ok(Received::Known(known));
        }
        let app = sqlx::query("SELECT id FROM apps WHERE id = $1 AND deleting = 0")
            .bind(new.app.0)
            .fetch_optional(write.conn())
            .await?;
        if app.is_none() {
            return Err(StoreError::not_found("app", new.app.0));
        }
        let commits = within_limits(new.commits);
        let id: i64 = sqlx::query(
            "INSERT INTO pushes (app_id, origin, delivery, moved, towards, git_change, commits, source, wishes,
                 default_branch, held_before, requested_by, state, try_at, received_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14) RETURNING id",
        )
        .bind(new.app.0)
        .bind(new.origin.as_str())
        .bind(new.delivery.as_deref().map(|d| storable(d, MAX_TEXT)))
        .bind(new.change.moved())
        .bind(new.change.towards())
        .bind(row::to_json("pushes", "git_change", &new.change)?)
        .bind(row::to_json("pushes", "commits", &commits)?)
        .bind(row::to_json("pushes", "source", &new.source)?)
        .bind(row::to_json("pushes", "wishes", &new.wishes)?)
        .bind(new.default_branch)
        .bind(new.held_before)
        .bind(storable(&new.by, MAX_TEXT))
        .bind(PushState::Received.as_str())
        .bind(write.now.0)
        .fetch_one(write.conn())
        .await?
        .try_get("id")?;
        sqlx::query(
            "DELETE FROM pushes WHERE app_id = $1 AND state <> 'received'
                 AND id NOT IN (SELECT MAX(id) FROM pushes WHERE app_id = $1 GROUP BY moved) AND id <
                 (SELECT MIN(id) FROM (SELECT id FROM pushes WHERE app_id = $1 ORDER BY id DESC LIMIT $2) AS kept)",
        )
        .bind(new.app.0)
        .bind(KEPT)
        .execute(write.conn())
        .await?;
        let push = get(&mut write, PushId(id)).await?;
        record(&mut write, &push, &push.by.clone()).await?;
        write.commit().await?;
        Ok(Received::New(push.id))
    }

    /// Decides a push: enqueues what it leads to, each as `Deployments::enqueue_once` would, and says so.
    ///
    /// # Errors
    /// `Stale` when it is decided already; whatever enqueuing says.
    pub async fn handle(
        self,
        id: PushId,
        deployments: &[(NewDeployment, bool)],
        outcome: impl Fn(&[Enqueued]) -> String + Send,
    ) -> Result<Vec<Enqueued>> {
        let mut write = Write::begin(self.0).await?;
        expect(&mut write, id, PushState::Received).await?;
        let mut made = Vec::with_capacity(deployments.len());
        for (new, live_counts) in deployments {
            let enqueued = sameness::enqueue_in(&mut write, new, *live_counts).await?;
            sqlx::query(
                "INSERT INTO push_deployments (push_id, deployment_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(id.0)
            .bind(enqueued.row().id.0)
            .execute(write.conn())
            .await?;
            made.push(enqueued);
        }
        let outcome = outcome(&made);
        change(&mut write, id, PushState::Received, PushState::Handled, &outcome).await?;
        write.commit().await?;
        Ok(made)
    }

    /// Notes that the push which brought this commit to a pull request led to a deployment: one that was allowed later.
    /// Nothing happens if no push is known to have brought it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn link_pull(
        self,
        app: AppId,
        pull: i64,
        commit: &str,
        deployment: DeploymentId,
    ) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let sql = format!("{SELECT} WHERE p.app_id = $1 AND p.moved = $2 ORDER BY p.id DESC LIMIT 100");
        let rows = sqlx::query(assembled(sql))
            .bind(app.0)
            .bind(format!("refs/pull/{pull}"))
            .fetch_all(write.conn())
            .await?;
        for row in &rows {
            let push = from_row(row)?;
            // Some forges tell only how the commit's id begins.
            let brings = matches!(&push.change, GitChange::Pull { commit: c, .. } if commit.starts_with(c));
            if !brings {
                continue;
            }
            sqlx::query(
                "INSERT INTO push_deployments (push_id, deployment_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(push.id.0)
            .bind(deployment.0)
            .execute(write.conn())
            .await?;
            break;
        }
        write.commit().await
    }

    /// Takes a push from one state to another, with the reason.
    ///
    /// # Errors
    /// `IllegalPushTransition` when no push may take this step, `Stale` when it is no longer in `from`.
    pub async fn transition(
        self,
        id: PushId,
        from: PushState,
        to: PushState,
        outcome: &str,
    ) -> Result<PushRow> {
        let mut write = Write::begin(self.0).await?;
        let push = change(&mut write, id, from, to, outcome).await?;
        write.commit().await?;
        Ok(push)
    }

    /// Notes that deciding a push did not work, and when to try again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn postpone(self, id: PushId, try_at: Timestamp, why: &str) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "UPDATE pushes SET attempts = attempts + 1, try_at = $1, outcome = $2
             WHERE id = $3 AND state = 'received'",
        )
        .bind(try_at.0)
        .bind(storable(why, MAX_TEXT))
        .bind(id.0)
        .execute(write.conn())
        .await?;
        write.commit().await
    }

    /// Keeps what was learnt of the commits of a push that is not decided yet.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub async fn learn(self, id: PushId, commits: GitCommits) -> Result<PushRow> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE pushes SET commits = $1 WHERE id = $2 AND state = 'received'")
            .bind(row::to_json("pushes", "commits", &within_limits(commits))?)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        let push = get(&mut write, id).await?;
        write.commit().await?;
        Ok(push)
    }

    /// The branch of a held push has moved.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn let_go(self, id: PushId) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE pushes SET held_before = NULL WHERE id = $1")
            .bind(id.0)
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// Takes back a push that was ignored or failed, or whose deployments all failed, to be deployed whatever marks and
    /// path filters say.
    ///
    /// # Errors
    /// `IllegalPushTransition` when its state, or that of a deployment of it, does not allow it.
    pub async fn retry(self, id: PushId, by: &Principal) -> Result<PushRow> {
        let mut write = Write::begin(self.0).await?;
        let push = get(&mut write, id).await?;
        let to = PushState::Received;
        // A branch that waits for its deployment is refused with it.
        let open = push.state == PushState::Handled
            && (push.held_before.is_some() || !all_in_vain(&mut write, id).await?);
        if open || !push.state.can_become(to) {
            return Err(StoreError::IllegalPushTransition { from: push.state, to });
        }
        let wishes = berth_schemas::push::PushWishes { skip: false, force: true, ..push.wishes };
        sqlx::query("UPDATE pushes SET attempts = 0, try_at = $1, wishes = $2 WHERE id = $3")
            .bind(write.now.0)
            .bind(row::to_json("pushes", "wishes", &wishes)?)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        let push = change(&mut write, id, push.state, to, &format!("{} asked for it again", by.name)).await?;
        write.commit().await?;
        Ok(push)
    }
}

/// Whether a push led to deployments of which none came, or will come, to be live.
async fn all_in_vain(write: &mut Write<'_>, id: PushId) -> Result<bool> {
    let rows = sqlx::query(
        "SELECT d.state FROM push_deployments l JOIN deployments d ON d.id = l.deployment_id WHERE l.push_id = $1",
    )
    .bind(id.0)
    .fetch_all(write.conn())
    .await?;
    let states: Result<Vec<DeploymentState>> =
        rows.iter().map(|r| row::word(r, "deployments", "state", DeploymentState::parse)).collect();
    let states = states?;
    let in_vain = |s: &DeploymentState| {
        matches!(s, DeploymentState::Failed | DeploymentState::Cancelled | DeploymentState::RolledBack)
    };
    Ok(!states.is_empty() && states.iter().all(in_vain))
}

/// The push that is the same as this one, if there is one.
async fn known(write: &mut Write<'_>, new: &NewPush) -> Result<Option<PushId>> {
    if let Some(delivery) = &new.delivery {
        let row = sqlx::query("SELECT id FROM pushes WHERE app_id = $1 AND delivery = $2")
            .bind(new.app.0)
            .bind(storable(delivery, MAX_TEXT))
            .fetch_optional(write.conn())
            .await?;
        if let Some(row) = row {
            return Ok(Some(PushId(row.try_get("id")?)));
        }
    }
    let newest = sqlx::query(
        "SELECT id, towards FROM pushes WHERE app_id = $1 AND moved = $2 AND state <> 'refused'
         ORDER BY id DESC LIMIT 1",
    )
    .bind(new.app.0)
    .bind(new.change.moved())
    .fetch_optional(write.conn())
    .await?;
    match newest {
        Some(row) if row.try_get::<String, _>("towards")? == new.change.towards() => {
            Ok(Some(PushId(row.try_get("id")?)))
        }
        _ => Ok(None),
    }
}

/// What strangers wrote, cut to what is kept. Of paths it is all or none: a part would filter wrongly.
fn within_limits(commits: GitCommits) -> GitCommits {
    let cut = |text: Option<Untrusted>, max| text.map(|t| Untrusted(storable(&t.0, max)));
    let few = |paths: &Vec<String>| {
        paths.len() <= MAX_PATHS && paths.iter().map(String::len).sum::<usize>() <= MAX_PATH_BYTES
    };
    GitCommits {
        message: cut(commits.message, MAX_MESSAGE),
        author: cut(commits.author, MAX_TEXT),
        pusher: cut(commits.pusher, MAX_TEXT),
        paths: commits.paths.filter(few).map(|p| p.iter().map(|p| storable(p, usize::MAX)).collect()),
    }
}

async fn get(write: &mut Write<'_>, id: PushId) -> Result<PushRow> {
    let sql = format!("{SELECT} WHERE p.id = $1");
    let row = sqlx::query(assembled(sql)).bind(id.0).fetch_optional(write.conn()).await?;
    row.as_ref().map(from_row).transpose()?.ok_or_else(|| StoreError::not_found("push", id.0))
}

async fn expect(write: &mut Write<'_>, id: PushId, state: PushState) -> Result<PushRow> {
    let push = get(write, id).await?;
    if push.state == state {
        return Ok(push);
    }
    Err(StoreError::Stale {
        what: format!("push {id}", id = id.0),
        expected: state.as_str().into(),
        found: push.state.as_str().into(),
    })
}

/// Changes a push's state within a write: the one place that does.
async fn change(
    write: &mut Write<'_>,
    id: PushId,
    from: PushState,
    to: PushState,
    outcome: &str,
) -> Result<PushRow> {
    if !from.can_become(to) {
        return Err(StoreError::IllegalPushTransition { from, to });
    }
    expect(write, id, from).await?;
    sqlx::query("UPDATE pushes SET state = $1, outcome = $2, settled_at = $3 WHERE id = $4")
        .bind(to.as_str())
        .bind(storable(outcome, MAX_TEXT))
        .bind((to != PushState::Received).then_some(write.now.0))
        .bind(id.0)
        .execute(write.conn())
        .await?;
    let push = get(write, id).await?;
    record(write, &push, &Principal::daemon().name).await?;
    Ok(push)
}

async fn record(write: &mut Write<'_>, push: &PushRow, by: &str) -> Result<()> {
    let kind = match push.state {
        PushState::Received => "push.received",
        PushState::Handled => "push.handled",
        PushState::Ignored => "push.ignored",
        PushState::Superseded => "push.superseded",
        PushState::Failed => "push.failed",
        PushState::Refused => "push.refused",
    };
    let why = push.outcome.as_ref().map(|o| format!(": {o}")).unwrap_or_default();
    let end = if why.ends_with('.') { "" } else { "." };
    let event = NewEvent {
        kind,
        by: by.to_owned(),
        app: Some(push.app_id),
        summary: format!(
            "Push {} of {} to {} is {}{why}{end}",
            push.id.0,
            push.moved(),
            push.app,
            push.state.as_str()
        ),
        data: json!({ "push": push.id.0, "origin": push.origin, "change": push.change }),
    };
    write.event(event).await?;
    Ok(())
}
