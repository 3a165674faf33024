//! Branches that wait for their deployments: they move when those are live, and else do not.

use std::{sync::Arc, time::Duration};

use berth_schemas::{
    Problem,
    deployment::DeploymentState,
    push::{GitChange, PushOrigin, PushState},
};
use berth_store::{
    NewPush, PushRow, PushSource,
    model::{AppRow, DeploymentRow, Visible},
};

use crate::{
    attempt::{io_problem, remove_dir},
    pipeline::Inner,
    repository::{Move, Repository},
    source::git::CommitSha,
    stall,
};

/// Between looks while branches wait.
const LOOK: Duration = Duration::from_secs(1);
/// Between looks while none does.
const IDLE_LOOK: Duration = Duration::from_secs(10);
/// Between tries when the store fails.
const PAUSE: Duration = Duration::from_secs(2);

impl Inner {
    /// Keeps refs and pushes in agreement: first what the last run left, then what waits.
    pub(crate) async fn work_refs(self: Arc<Self>) {
        let mut disagree = true;
        while !self.shutdown.is_cancelled() {
            let mut settled = self.settled.subscribe();
            if disagree {
                match self.agree().await {
                    Ok(()) => disagree = false,
                    Err(problem) => {
                        tracing::error!(%problem, "refs and pushes could not be compared; trying again");
                        tokio::select! {
                            () = self.shutdown.cancelled() => return,
                            () = tokio::time::sleep(PAUSE) => continue,
                        }
                    }
                }
            }
            let waiting = match self.let_go_what_is_decided().await {
                Ok(waiting) => waiting,
                Err(problem) => {
                    tracing::error!(%problem, "held branches could not be looked at; trying again");
                    true
                }
            };
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.refs_to_look_at.notified() => disagree = true,
                _ = settled.recv() => {}
                () = tokio::time::sleep(if waiting { LOOK } else { IDLE_LOOK }) => {}
            }
        }
    }

    /// Moves the branches whose deployments are live. Returns whether some still wait.
    async fn let_go_what_is_decided(&self) -> Result<bool, Problem> {
        let mut waiting = false;
        for push in self.store.pushes().held().await? {
            let deployments = self.store.pushes().deployments(push.id).await?;
            if push.state == PushState::Received || deployments.iter().any(|d| !d.rests()) {
                waiting = true;
                continue;
            }
            match deployments.iter().find(|d| !arrived(d)) {
                Some(failed) => self.refuse(&push, &why(failed)).await?,
                None => self.let_go(&push).await?,
            }
        }
        Ok(waiting)
    }

    async fn refuse(&self, push: &PushRow, why: &str) -> Result<(), Problem> {
        stall::before("push_refused").await;
        self.store.pushes().transition(push.id, push.state, PushState::Refused, why).await?;
        stall::after("push_refused").await;
        let _ = self.settled.send(());
        Ok(())
    }

    async fn let_go(&self, push: &PushRow) -> Result<(), Problem> {
        let (GitChange::Branch { commit, .. }, Some(before)) = (&push.change, &push.held_before) else {
            return Ok(());
        };
        let repository = Repository::open(&self.config.data_dir, push.app_id).await?;
        let _inside = self.repositories.enter(push.app_id).await;
        let old = CommitSha::parse(before).ok();
        let one = Move { name: push.moved(), old, new: CommitSha::parse(commit).ok() };
        stall::before("ref_let_go").await;
        let moved = repository.update(&[&one], false).await.pop().unwrap_or(Ok(()));
        stall::after("ref_let_go").await;
        let there = || async {
            let refs = repository.refs().await?;
            Ok::<_, Problem>(refs.iter().any(|r| r.name == one.name && r.commit == *commit))
        };
        match moved {
            // Moved before the daemon was killed, it is where it should be.
            Err(why) if !there().await? => self.refuse(push, &why).await,
            _ => {
                self.store.pushes().let_go(push.id).await?;
                let _ = self.settled.send(());
                Ok(())
            }
        }
    }

    /// Makes up pushes for refs that moved without one, because the daemon died between the two; removes what was
    /// left in quarantine, and repositories of apps that are gone.
    async fn agree(&self) -> Result<(), Problem> {
        let apps = self.store.apps().all(&Visible::All).await?;
        for app in &apps {
            if let Some(repository) = Repository::find(&self.config.data_dir, app.id).await {
                let _inside = self.repositories.enter(app.id).await;
                self.agree_on(app, &repository).await?;
            }
        }
        self.remove_orphans(&apps).await
    }

    async fn agree_on(&self, app: &AppRow, repository: &Repository) -> Result<(), Problem> {
        let known = self.store.pushes().newest_own(app.id).await?;
        let refs = repository.refs().await?;
        let head = Some(repository.head().await?);
        let mut missed = Vec::new();
        for r in &refs {
            let newest = known.iter().find(|k| k.moved == r.name);
            if newest.is_some_and(|n| n.held || n.towards == r.commit) {
                continue;
            }
            let before = newest.map(|n| n.towards.clone()).filter(|t| t != "-");
            let commit = r.commit.clone();
            missed.extend(match (r.name.strip_prefix("refs/heads/"), r.name.strip_prefix("refs/tags/")) {
                (Some(branch), _) => Some(GitChange::Branch { branch: branch.into(), before, commit }),
                (_, Some(tag)) => Some(GitChange::Tag { tag: tag.into(), commit }),
                _ => None,
            });
        }
        for gone in
            known.iter().filter(|k| !k.held && k.towards != "-" && !refs.iter().any(|r| r.name == k.moved))
        {
            missed.extend(
                match (gone.moved.strip_prefix("refs/heads/"), gone.moved.strip_prefix("refs/tags/")) {
                    (Some(branch), _) => Some(GitChange::BranchDeleted { branch: branch.into() }),
                    (_, Some(tag)) => Some(GitChange::TagDeleted { tag: tag.into() }),
                    _ => None,
                },
            );
        }
        for change in missed {
            tracing::warn!(app = %app.slug, ?change, "a ref had moved without a push; making one up");
            let commits = self.commits_of(repository, &change, "berth").await;
            let new = NewPush {
                commits,
                default_branch: head.clone(),
                ..NewPush::new(app.id, PushOrigin::Berth, change, PushSource::Own)
            };
            self.receive(new).await?;
        }
        Ok(())
    }

    async fn remove_orphans(&self, apps: &[AppRow]) -> Result<(), Problem> {
        let top = self.config.data_dir.join("repos");
        let io = |e: std::io::Error| io_problem("looking at the repositories", &e);
        let mut entries = tokio::fs::read_dir(&top).await.map_err(io)?;
        while let Some(entry) = entries.next_entry().await.map_err(io)? {
            let name = entry.file_name().to_string_lossy().into_owned();
            let of = name.strip_suffix(".git").and_then(|id| id.parse::<i64>().ok());
            // An app that was made since the list was read is not in it.
            let known = match of {
                Some(id) if apps.iter().any(|a| a.id.0 == id) => true,
                Some(id) => self.store.apps().by_id(berth_store::model::AppId(id)).await?.is_some(),
                // Being made at this moment.
                None => true,
            };
            if !known {
                remove_dir(&entry.path()).await.map_err(|e| io_problem("removing a repository", &e))?;
            }
        }
        Ok(())
    }

    /// Removes what the last run left in quarantine or half made. Before the first push of this one.
    pub(crate) async fn clear_quarantines(&self) -> Result<(), Problem> {
        Repository::clear_half_made(&self.config.data_dir)
            .await
            .map_err(|e| io_problem("clearing the repositories", &e))?;
        for app in self.store.apps().all(&Visible::All).await? {
            if let Some(repository) = Repository::find(&self.config.data_dir, app.id).await
                && let Err(error) = repository.clear_quarantine().await
            {
                tracing::warn!(app = %app.slug, %error, "what a push left in quarantine could not be removed");
            }
        }
        Ok(())
    }
}

/// Whether a deployment got the traffic, or what it brings had it already.
fn arrived(deployment: &DeploymentRow) -> bool {
    use DeploymentState as S;
    matches!(deployment.state, S::Live | S::Retired | S::RolledBack | S::RollingOut)
        || deployment.state == S::Superseded && deployment.release.is_some()
}

fn why(failed: &DeploymentRow) -> String {
    let name = failed.reference();
    match &failed.problem {
        Some(problem) => format!("{name} {}: {}", failed.state.as_str(), problem.detail),
        None => format!("{name} is {}", failed.state.as_str()),
    }
}
