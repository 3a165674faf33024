//! Previews: environments that come with a branch or a pull request, sleep when nobody uses them, and go with the
//! branch or after a time.
//!
//! A preview that sleeps is marked so in the store before its containers are stopped, and is no longer marked once
//! they answer again: a daemon that dies between finds out at its next start which of the two it was to be. Visitors
//! who come meanwhile wait at the data plane; the first of them wakes it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use berth_proxy::ReleaseTarget;
use berth_schemas::{
    Code, EnvironmentName, Problem,
    app::{AppSettings, Previews},
};
use berth_store::model::{
    AppId, AppRow, Artifact, Enqueued, EnvironmentId, JobRow, NewPreview, Offer, Principal, ReleaseRow,
};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::{
    fault::engine_problem,
    limits,
    lock::lock,
    pipeline::{EnqueueOptions, Inner, Pipeline},
    stall,
};

/// Previews are looked at this often.
const LOOK: Duration = Duration::from_secs(5);
/// Between two tries to wake a preview.
const AGAIN: Duration = Duration::from_secs(2);
/// Most previews of an app where no number was set.
const DEFAULT_LIMIT: u32 = 10;
/// Hours that a preview stays after it last got something new, where no number was set.
const DEFAULT_TTL_HOURS: u32 = 7 * 24;
/// Seconds without a request after which a preview sleeps, where no number was set.
const DEFAULT_SLEEP_S: u32 = 30 * 60;
/// Longest name of an environment, in bytes.
const LONGEST_NAME: usize = 40;

/// A preview that a branch or a pull request wants.
#[derive(Debug, Clone)]
pub struct PreviewFor {
    /// The branch, as its repository names it.
    pub branch: String,
    /// The pull request; none for a branch of the app's own repository.
    pub pull: Option<i64>,
    /// The pull request comes from another repository: it gets no secrets, and each of its commits waits for
    /// [`Pipeline::approve_preview`].
    pub fork: bool,
    /// What is to be deployed there. Kept, so that an approval can deploy it.
    pub offer: Option<Offer>,
}

/// Whose preview it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreviewOf {
    /// A branch's.
    Branch(String),
    /// A pull request's.
    Pull(i64),
}

/// What is known of previews besides the store.
#[derive(Default)]
pub(crate) struct Sleepers {
    /// Those whose visitors wait.
    wanted: Mutex<HashSet<EnvironmentId>>,
    pub(crate) called: Notify,
    /// How much each had answered at the last look.
    answered: Mutex<HashMap<EnvironmentId, u64>>,
}

impl Sleepers {
    /// Visitors of a preview that sleeps begin to wait.
    pub(crate) fn call(&self, environment: EnvironmentId) {
        lock(&self.wanted).insert(environment);
        self.called.notify_one();
    }

    fn take(&self) -> HashSet<EnvironmentId> {
        std::mem::take(&mut *lock(&self.wanted))
    }

    /// Whether a preview has answered since the last look.
    fn moved(&self, environment: EnvironmentId, answered: u64) -> bool {
        lock(&self.answered).insert(environment, answered).is_some_and(|before| before != answered)
    }
}

impl Pipeline {
    /// Makes the preview of a branch or a pull request, or notes in the one that is there what is offered now.
    /// Whether the commit may be deployed says [`berth_store::model::PreviewRow::may_deploy`] of the answer: a fork's
    /// waits for approval, which then deploys it.
    ///
    /// # Errors
    /// `Conflict` when the app has no such previews, has as many as it may have, or this one is being removed.
    pub async fn ensure_preview(&self, app: &AppRow, wanted: PreviewFor) -> Result<AppRow, Problem> {
        let inner = &self.0;
        let asked = match wanted.pull {
            Some(_) => Previews::PullRequests,
            None => Previews::Branches,
        };
        if app.settings.previews.unwrap_or_default() != asked {
            let detail = format!("{} has no previews of {}.", app.slug, asked.as_str());
            return Err(Problem::new(Code::Conflict, detail).hint(format!(
                "Turn them on with app_update(app={:?}, settings={{previews: {:?}}}).",
                app.slug.as_str(),
                asked.as_str()
            )));
        }
        let (name, otherwise) = names(&wanted)?;
        let ttl = i64::from(app.settings.preview_ttl_hours.unwrap_or(DEFAULT_TTL_HOURS));
        let new = NewPreview {
            name,
            otherwise,
            head: wanted.branch,
            pull: wanted.pull,
            fork: wanted.fork,
            offer: wanted.offer,
            expires_at: (ttl > 0).then(|| inner.store.clock().now().plus_seconds(ttl * 3600)),
            limit: i64::from(app.settings.preview_limit.unwrap_or(DEFAULT_LIMIT)),
        };
        stall::before("preview_made").await;
        let ensured =
            inner.store.environments().ensure_preview(&Principal::daemon().name, app.id, new).await?;
        stall::after("preview_made").await;
        if ensured.made {
            inner.routes.nothing(&ensured.app);
        }
        if let Some(goes) = ensured.makes_room {
            inner.delete_marked(&Principal::daemon(), &goes).await?;
        }
        Ok(ensured.app)
    }

    /// Removes the preview of a branch or a pull request. None if there is none.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn remove_preview(&self, app: AppId, of: &PreviewOf) -> Result<Option<JobRow>, Problem> {
        let environments = self.0.store.environments();
        let found = match of {
            PreviewOf::Branch(branch) => environments.by_branch(app, branch).await?,
            PreviewOf::Pull(pull) => environments.by_pull(app, *pull).await?,
        };
        match found.filter(|app| app.environment.preview.is_some()) {
            Some(app) => Ok(Some(self.delete_environment(&Principal::daemon(), &app).await?)),
            None => Ok(None),
        }
    }

    /// Allows exactly this commit of a fork to run, and deploys it.
    ///
    /// # Errors
    /// `Conflict` when another commit is offered by now, or nothing waits.
    pub async fn approve_preview(
        &self,
        who: &Principal,
        app: &AppRow,
        commit: &str,
    ) -> Result<Enqueued, Problem> {
        let app = self.0.store.environments().approve(who, app.environment.id, commit).await?;
        let offer = app.environment.preview.as_ref().and_then(|p| p.offer.clone());
        let offer = offer.ok_or_else(|| Problem::new(Code::Conflict, "Nothing is offered."))?;
        let options = EnqueueOptions { message: offer.message, ..EnqueueOptions::default() };
        let enqueued = self.enqueue(who, &app, offer.source, options).await?;
        // Enqueued first: a push that is not linked harms less than an approval that came to nothing, and approving
        // again makes up for it.
        if let Some(pull) = app.environment.preview.as_ref().and_then(|preview| preview.pull) {
            self.0.store.pushes().link_pull(app.id, pull, &offer.commit, enqueued.row().id).await?;
        }
        Ok(enqueued)
    }
}

impl Inner {
    /// Wakes previews whose visitors wait, until the daemon goes down.
    pub(crate) async fn wake_sleepers(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.sleepers.called.notified() => {}
            }
            for environment in self.sleepers.take() {
                self.spawn(Arc::clone(&self).wake(environment));
            }
        }
    }

    /// Wakes a preview, trying again while somebody waits.
    async fn wake(self: Arc<Self>, environment: EnvironmentId) {
        loop {
            match self.try_wake(environment).await {
                Ok(()) => return,
                Err(problem) => {
                    tracing::warn!(environment = environment.0, %problem, "a preview could not be woken");
                }
            }
            if self.routes.waiting(environment) == 0 {
                return;
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn try_wake(self: &Arc<Self>, environment: EnvironmentId) -> Result<(), Problem> {
        let _inside = self.traffic.enter(environment).await;
        let _held = self.holds(environment, "its preview, which is being woken".to_owned());
        let app = self.app_in(environment).await?;
        let (true, Some(live)) = (app.environment.sleeping(), app.environment.live) else { return Ok(()) };
        let Some(release) = self.store.releases().get(live).await? else { return Ok(()) };
        let up = {
            let _inside = self.containers.enter(live).await;
            let up = self.run_replicas(&app, &release, 1..=app.environment.replicas.max(1)).await?;
            self.wait_open(&app, &release, &up, None).await?;
            up
        };
        let target = self.target(&app, &release, Some(&up))?;
        stall::before("awake").await;
        let app = self.store.environments().set_sleeping(environment, false).await?;
        stall::after("awake").await;
        self.routes.serve(&app, &release, target);
        self.collect_logs(&app, &release, &up);
        self.let_engine_restart(live).await;
        Ok(())
    }

    /// Puts previews to sleep that nobody uses, and removes those whose time is over.
    pub(crate) async fn look_after_previews(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Err(problem) = self.look_at_previews().await {
                tracing::warn!(%problem, "previews could not be looked at; trying again");
            }
        }
    }

    async fn look_at_previews(self: &Arc<Self>) -> Result<(), Problem> {
        let now = self.store.clock().now();
        let previews = self.store.environments().previews().await?;
        let mut used = Vec::new();
        for app in previews.into_iter().filter(|app| !app.deleting) {
            let Some(preview) = &app.environment.preview else { continue };
            if preview.expires_at.is_some_and(|at| at <= now) {
                tracing::info!(app = %app.title(), "a preview's time is over");
                let who = Principal::daemon();
                self.store.environments().mark_deleting(&who, app.environment.id).await?;
                self.delete_marked(&who, &app).await?;
                continue;
            }
            if preview.sleeping || app.environment.live.is_none() || app.environment.stopped {
                continue;
            }
            if self.is_in_use(app.environment.id) {
                used.push((app.environment.id, now));
                continue;
            }
            let idle_s = now.millis_since(preview.last_request_at) / 1000;
            if sleeps_after(&app.settings).is_some_and(|limit| idle_s >= limit) {
                self.put_to_sleep(app.environment.id).await?;
            }
        }
        Ok(self.store.environments().used(&used).await?)
    }

    /// Whether somebody used an environment since the last look, or does now.
    fn is_in_use(&self, environment: EnvironmentId) -> bool {
        let Some(target) = self.routes.serving_target(environment) else { return false };
        self.sleepers.moved(environment, target.answers().total) || target.in_flight() > 0
    }

    async fn put_to_sleep(self: &Arc<Self>, environment: EnvironmentId) -> Result<(), Problem> {
        let busy = self.store.deployments().unsettled().await?;
        if busy.iter().any(|d| d.environment_id == environment) {
            return Ok(());
        }
        let _inside = self.traffic.enter(environment).await;
        let _held = self.holds(environment, "its preview, which falls asleep".to_owned());
        let app = self.app_in(environment).await?;
        let (false, Some(live)) = (app.deleting || app.environment.stopped, app.environment.live) else {
            return Ok(());
        };
        let Some(release) = self.store.releases().get(live).await? else { return Ok(()) };
        if self.is_in_use(environment) || !can_sleep(&release) {
            return Ok(());
        }
        stall::before("asleep").await;
        let app = self.store.environments().set_sleeping(environment, true).await?;
        stall::after("asleep").await;
        self.fall_asleep(&app, &release).await
    }

    /// Has visitors of a preview that sleeps wait, and stops its containers once nobody is answered there. The caller
    /// is inside the gate of its traffic.
    pub(crate) async fn fall_asleep(
        self: &Arc<Self>,
        app: &AppRow,
        release: &ReleaseRow,
    ) -> Result<(), Problem> {
        if let Some(old) = self.show_asleep(app, release) {
            // Nobody was being answered a moment ago; who came since is let finish.
            self.routes.drain(&old, limits::drain(app)).await;
        }
        let _inside = self.containers.enter(release.id).await;
        let containers = self.containers_of(release.id).await.map_err(|e| engine_problem(&e))?;
        if containers.iter().any(|c| crate::switch::may_run(c.phase)) {
            self.stop_release(release.id).await;
        }
        Ok(())
    }

    /// Routes visitors of a preview that sleeps to where they wait for it. Returns what they were sent to before.
    pub(crate) fn show_asleep(
        self: &Arc<Self>,
        app: &AppRow,
        release: &ReleaseRow,
    ) -> Option<Arc<ReleaseTarget>> {
        let (inner, environment) = (Arc::downgrade(self), app.environment.id);
        self.routes.asleep(app, release.id, move || {
            if let Some(inner) = inner.upgrade() {
                inner.sleepers.call(environment);
            }
        })
    }
}

/// Only what runs in containers has something to stop.
fn can_sleep(release: &ReleaseRow) -> bool {
    matches!(release.artifact, Artifact::Image { .. })
}

/// Seconds without a request after which an app's previews sleep, if they do.
fn sleeps_after(settings: &AppSettings) -> Option<i64> {
    Some(i64::from(settings.preview_sleep_s.unwrap_or(DEFAULT_SLEEP_S))).filter(|s| *s > 0)
}

/// The name of a preview's environment, and another one where that is taken. Two branches never get the same: one
/// whose name had to be changed gets the hash of the whole.
fn names(wanted: &PreviewFor) -> Result<(EnvironmentName, EnvironmentName), Problem> {
    let whole = match wanted.pull {
        Some(pull) => format!("pr-{pull}"),
        None => wanted.branch.clone(),
    };
    let slug = slug(&whole);
    let digest = Sha256::digest(whole.as_bytes());
    let hash = hex::encode(&digest[..4]);
    let room = LONGEST_NAME - hash.len() - 1;
    let cut = slug.get(..slug.len().min(room)).unwrap_or_default().trim_end_matches('-');
    let hashed = format!("{cut}-{hash}");
    let name = |text: &str| {
        text.parse::<EnvironmentName>().map_err(|e| Problem::new(Code::Internal, format!("{e}.")))
    };
    match slug == whole {
        true => Ok((name(&slug)?, name(&hashed)?)),
        // Somebody may have that as a true name.
        false => Ok((name(&hashed)?, name(&format!("b-{}", hex::encode(&digest[..8])))?)),
    }
}

/// What of a branch's name can be the name of an environment: lower-case letters, digits and single hyphens, beginning
/// with a letter.
fn slug(branch: &str) -> String {
    let mut slug = String::new();
    for c in branch.chars().map(|c| c.to_ascii_lowercase()) {
        match c.is_ascii_lowercase() || c.is_ascii_digit() {
            true => slug.push(c),
            false if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            false => {}
        }
        if slug.len() >= LONGEST_NAME {
            break;
        }
    }
    let slug = slug.trim_matches('-');
    match slug.bytes().next() {
        Some(first) if first.is_ascii_lowercase() => slug.to_owned(),
        Some(_) => {
            format!("b-{}", &slug[..slug.len().min(LONGEST_NAME - 2)]).trim_end_matches('-').to_owned()
        }
        None => "b".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(branch: &str) -> (String, String) {
        let wanted = PreviewFor { branch: branch.into(), pull: None, fork: false, offer: None };
        let (name, otherwise) = names(&wanted).unwrap();
        (name.to_string(), otherwise.to_string())
    }

    #[test]
    fn a_name_that_is_none_is_changed_and_told_apart() {
        assert_eq!(named("fix-login").0, "fix-login");
        let (one, two) = (named("fix/login").0, named("Fix-Login").0);
        assert!(one.starts_with("fix-login-") && two.starts_with("fix-login-") && one != two, "{one} {two}");
        assert!(named("123").0.starts_with("b-123-"));
        assert!(named("…").0.starts_with("b-"));
        let pull = PreviewFor { branch: "main".into(), pull: Some(7), fork: true, offer: None };
        assert_eq!(names(&pull).unwrap().0.as_str(), "pr-7");
    }

    proptest! {
        #[test]
        fn every_branch_has_two_names(branch in "\\PC{1,60}") {
            let (name, otherwise) = named(&branch);
            prop_assert!(name != otherwise);
        }

        #[test]
        fn two_branches_do_not_share(one in "[a-zA-Z0-9/_.-]{1,50}", two in "[a-zA-Z0-9/_.-]{1,50}") {
            prop_assume!(one != two);
            prop_assert!(named(&one).0 != named(&two).0);
        }
    }
}
