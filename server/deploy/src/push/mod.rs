//! Pushes: taken in, decided, and led to deployments.
//!
//! A push is a row before its sender hears of it. One task decides what is not decided, per app in the order in
//! which it came: `decide` says what a push leads to, and the store enqueues that and notes it in one transaction.
//! A restart at any moment finds the push either undecided or with its deployments.

mod decide;
mod held;
mod learn;
mod lfs;
mod own;
mod patterns;
mod slots;
mod tell;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use berth_schemas::{
    Code, EnvironmentName, Problem,
    app::Previews,
    push::{GitChange, PushRules, PushState},
};
use berth_store::{NewPush, PushRow, Received};
use berth_store::{
    PushSource, StoreError,
    model::{AppId, AppRow, DeploymentSource, Enqueued, Offer, Principal, PushId},
};

pub(crate) use self::slots::GitSlots;
pub use self::{
    decide::configured_branch,
    lfs::LfsObject,
    own::GitPush,
    patterns::{check_names, check_paths},
};
use self::{
    decide::{Decision, Facts, Target},
    learn::tells_too_little,
};
use crate::{
    fault::sentence,
    pipeline::{EnqueueOptions, Inner, Pipeline},
    previews::{PreviewFor, PreviewOf},
    source::git::{CommitSha, GitRef},
    stall,
};

/// Undecided pushes are also looked at this often, in case a wake-up was missed.
const IDLE_LOOK: Duration = Duration::from_secs(5);
/// Longest time between two tries to decide a push.
const MOST_PAUSE_S: i64 = 60;
/// Tries to decide a push before it counts as failed: about half an hour.
const MAX_ATTEMPTS: i64 = 35;
/// Longest name that a sender may give to a message.
const MAX_DELIVERY: usize = 200;

impl Pipeline {
    /// Takes in what was pushed. When this returns it is kept and will be decided, whatever happens to the daemon;
    /// told twice it is one push.
    ///
    /// # Errors
    /// `InvalidInput` when a name or commit is none, `NotFound` when the app is gone.
    pub async fn receive_push(&self, push: NewPush) -> Result<Received, Problem> {
        self.0.receive(push).await
    }

    /// Decides a push anew that was ignored or failed, without marks and path filters.
    ///
    /// # Errors
    /// `Conflict` when it led to something.
    pub async fn retry_push(&self, who: &Principal, id: PushId) -> Result<PushRow, Problem> {
        let push = self.0.store.pushes().retry(id, who).await?;
        self.0.pushed.notify_one();
        Ok(push)
    }

    /// Waits until a push is decided, at most this long.
    ///
    /// # Errors
    /// `NotFound` when it is gone, with its app.
    pub async fn wait_decided(&self, id: PushId, at_most: Duration) -> Result<PushRow, Problem> {
        let until = tokio::time::Instant::now() + at_most;
        let mut settled = self.0.settled.subscribe();
        loop {
            let push = self.0.push(id).await?;
            if push.state != PushState::Received || tokio::time::Instant::now() >= until {
                return Ok(push);
            }
            // Whatever the broadcast says, even that it ended, is a reason to look again.
            let look = until.min(tokio::time::Instant::now() + Duration::from_millis(500));
            let _ = tokio::time::timeout_at(look, settled.recv()).await;
        }
    }
}

/// What is said of a branch that leads nowhere.
pub const NO_ENVIRONMENT: &str = "belongs to no environment";
/// What is said of a pull request that leads nowhere.
pub const NO_PREVIEW: &str = "gets no preview";
/// What is said where the pusher named an environment that is not there.
pub const NO_SUCH: &str = "the app has no environment";
/// What is said of a head that is none any more.
pub const MOVED_ON: &str = "has moved on";
/// What is said of a commit that somebody must allow first.
pub const WAITS: &str = "waits for preview_approve";

/// Where a push goes.
enum Place {
    /// To this environment.
    There(Box<AppRow>),
    /// To one where somebody must allow it first.
    Waits(String),
    /// To none, for this reason.
    Nowhere(String),
}

/// What a push that deploys leads to, before its environment is found or made.
struct Leads {
    to: Target,
    git_ref: String,
    commit: String,
    source: DeploymentSource,
    /// Which rule said so.
    because: String,
}

/// Refuses what git itself would not have.
fn check(push: &NewPush) -> Result<(), Problem> {
    let name = |name: &str| {
        GitRef::parse(name).map(|_| ()).map_err(|e| Problem::invalid("change", sentence(&e.to_string())))
    };
    let commit = |commit: &str| {
        CommitSha::parse(commit).map(|_| ()).map_err(|e| Problem::invalid("change", sentence(&e.to_string())))
    };
    if push.delivery.as_ref().is_some_and(|d| d.is_empty() || d.len() > MAX_DELIVERY) {
        return Err(Problem::invalid("delivery", format!("A delivery id has 1 to {MAX_DELIVERY} bytes.")));
    }
    if let Some(branch) = &push.default_branch {
        name(branch)?;
    }
    match &push.change {
        GitChange::Branch { branch, commit: sha, .. } => name(branch).and_then(|()| commit(sha)),
        GitChange::Tag { tag, commit: sha } => name(tag).and_then(|()| commit(sha)),
        GitChange::BranchDeleted { branch } => name(branch),
        GitChange::TagDeleted { tag } => name(tag),
        GitChange::Pull { branch, base, commit: sha, .. } => {
            let sha = if is_short(sha) { Ok(()) } else { commit(sha) };
            name(branch).and_then(|()| name(base)).and(sha)
        }
        GitChange::PullClosed { .. } => Ok(()),
    }
}

/// Whether this is the beginning of a commit's id, as Bitbucket tells the heads of pull requests.
fn is_short(commit: &str) -> bool {
    (12..40).contains(&commit.len()) && commit.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Inner {
    pub(super) async fn receive(&self, push: NewPush) -> Result<Received, Problem> {
        check(&push)?;
        stall::before("push_received").await;
        let received = self.store.pushes().receive(push).await?;
        stall::after("push_received").await;
        self.pushed.notify_one();
        Ok(received)
    }

    /// Decides pushes until the daemon goes down.
    pub(crate) async fn work_pushes(self: Arc<Self>) {
        while !self.shutdown.is_cancelled() {
            match self.decide_pushes().await {
                // More may have come in, or more than fits into one look.
                Ok(0) => {}
                Ok(_) => continue,
                Err(problem) => tracing::error!(%problem, "pushes could not be read; trying again"),
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.pushed.notified() => {}
                () = tokio::time::sleep(IDLE_LOOK) => {}
            }
        }
    }

    /// Decides what waits and is due. Returns how many pushes were decided.
    async fn decide_pushes(self: &Arc<Self>) -> Result<usize, Problem> {
        let mut waiting: BTreeMap<AppId, Vec<PushRow>> = BTreeMap::new();
        for push in self.store.pushes().undecided().await? {
            waiting.entry(push.app_id).or_default().push(push);
        }
        let mut decided = 0;
        for pushes in waiting.into_values() {
            for (at, push) in pushes.iter().enumerate() {
                if self.shutdown.is_cancelled() {
                    return Ok(0);
                }
                // Those behind one that is to be tried later keep their order.
                if push.try_at > self.store.clock().now() {
                    break;
                }
                let done = match self.overtaking(push, &pushes[at + 1..]).await {
                    Ok(Some(newer)) => self.pass_over(push, newer).await,
                    Ok(None) => self.decide_push(push).await,
                    Err(problem) => Err(problem),
                };
                match done {
                    Ok(()) => decided += 1,
                    Err(problem) => {
                        if !self.put_off(push, problem).await? {
                            break;
                        }
                        decided += 1;
                    }
                }
            }
        }
        if decided > 0 {
            let _ = self.settled.send(());
        }
        Ok(decided)
    }

    /// A newer push that makes this one pointless: of the same branch, with something that is to be deployed, or its end.
    async fn overtaking<'a>(
        &self,
        push: &PushRow,
        newer: &'a [PushRow],
    ) -> Result<Option<&'a PushRow>, Problem> {
        let candidates: Vec<&PushRow> = newer.iter().filter(|newer| may_overtake(newer, push)).collect();
        if candidates.is_empty() {
            return Ok(None);
        }
        let app = self.app(push.app_id).await?;
        let rules = self.store.pushes().rules(app.id).await?;
        // One that is skipped does not take the place of one that is to be deployed.
        for newer in candidates {
            if self.leads_on(newer, &app, &rules).await? {
                return Ok(Some(newer));
            }
        }
        Ok(None)
    }

    /// Whether a push deploys or removes something, as far as its commit can be asked.
    async fn leads_on(&self, push: &PushRow, app: &AppRow, rules: &PushRules) -> Result<bool, Problem> {
        let (git_ref, commit) = match decide_by(push, app, rules) {
            Decision::Ignore(_) => return Ok(false),
            Decision::Remove(_) => return Ok(true),
            Decision::Deploy { git_ref, commit, .. } => (git_ref, commit),
        };
        if !tells_too_little(push, rules) {
            return Ok(true);
        }
        // Why a forge does not answer is told when it is this push's turn.
        let Ok(Some(commit)) = self.whole_commit(push, &git_ref, commit).await else { return Ok(true) };
        let push = self.learn(push, rules, &commit).await?;
        Ok(!matches!(decide_by(&push, app, rules), Decision::Ignore(_)))
    }

    /// A newer push of the same branch waits already: nothing is deployed for this one.
    async fn pass_over(&self, push: &PushRow, newer: &PushRow) -> Result<(), Problem> {
        let why = format!("push {} moved it on before this one's turn", newer.id.0);
        let to = if push.held_before.is_some() { PushState::Refused } else { PushState::Superseded };
        self.end_push(push, to, &why).await
    }

    async fn end_push(&self, push: &PushRow, to: PushState, outcome: &str) -> Result<(), Problem> {
        stall::before("push_ended").await;
        self.store.pushes().transition(push.id, PushState::Received, to, outcome).await?;
        stall::after("push_ended").await;
        Ok(())
    }

    /// Notes why a push could not be decided, and whether it is tried again. Returns whether it is decided now.
    async fn put_off(&self, push: &PushRow, problem: Problem) -> Result<bool, Problem> {
        let transient =
            matches!(problem.code, Code::Unavailable | Code::Internal | Code::OutOfDisk | Code::TimedOut);
        if transient && push.attempts + 1 < MAX_ATTEMPTS {
            let pause = (1_i64 << push.attempts.clamp(0, 6)).min(MOST_PAUSE_S);
            let at = self.store.clock().now().plus_seconds(pause);
            tracing::warn!(push = push.id.0, app = %push.app, %problem, "a push could not be decided; trying again");
            self.store.pushes().postpone(push.id, at, &problem.to_string()).await?;
            return Ok(false);
        }
        match self
            .store
            .pushes()
            .transition(push.id, PushState::Received, PushState::Failed, &problem.detail)
            .await
        {
            // Somebody else has decided it, or it is gone with its app.
            Ok(_) | Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    async fn decide_push(self: &Arc<Self>, push: &PushRow) -> Result<(), Problem> {
        let app = self.app(push.app_id).await?;
        let rules = self.store.pushes().rules(app.id).await?;
        let (to, git_ref, commit, because) = match decide_by(push, &app, &rules) {
            Decision::Ignore(why) => return self.end_push(push, PushState::Ignored, &why).await,
            Decision::Remove(of) => return self.remove_preview_of(push, &app, &of).await,
            Decision::Deploy { to, git_ref, commit, because } => (to, git_ref, commit, because),
        };
        let commit = match self.whole_commit(push, &git_ref, commit).await? {
            Some(commit) => commit,
            None => {
                let why = format!("{git_ref} {MOVED_ON} from it; its new head comes as a push of its own");
                return self.end_push(push, PushState::Ignored, &why).await;
            }
        };
        let source = match (&push.source, &push.change) {
            (PushSource::Own, _) => {
                DeploymentSource::Pushed { git_ref: git_ref.clone(), commit: commit.clone() }
            }
            (PushSource::Remote { url }, change) => {
                let head_url = match change {
                    GitChange::Pull { head_url, .. } => head_url.clone(),
                    _ => None,
                };
                DeploymentSource::Git {
                    url: head_url.unwrap_or_else(|| url.clone()),
                    git_ref: Some(git_ref.clone()),
                    commit: Some(commit.clone()),
                }
            }
        };
        let leads = Leads { to, git_ref, commit, source, because };
        let there = self.place_there(&app, &leads, push).await?;
        let mut push = push.clone();
        if tells_too_little(&push, &rules) && (there.is_some() || makes_place(&app, &leads.to)) {
            push = self.learn(&push, &rules, &leads.commit).await?;
            if let Decision::Ignore(why) = decide_by(&push, &app, &rules) {
                return self.end_push(&push, PushState::Ignored, &why).await;
            }
        }
        match self.deploy_push(&push, &app, &leads).await {
            Err(problem) if self.is_leaving(there.as_ref(), &problem).await? => {
                Err(Problem { code: Code::Unavailable, ..problem })
            }
            done => done,
        }
    }

    /// Deploys what a push leads to, or ends it with why it leads nowhere.
    async fn deploy_push(
        self: &Arc<Self>,
        push: &PushRow,
        app: &AppRow,
        leads: &Leads,
    ) -> Result<(), Problem> {
        let app = match self.target_of(app, leads, push).await? {
            Place::There(app) => *app,
            Place::Waits(why) => return self.end_push(push, PushState::Handled, &why).await,
            Place::Nowhere(why) => return self.end_push(push, PushState::Ignored, &why).await,
        };
        let options = EnqueueOptions {
            message: push.first_line(),
            no_cache: push.wishes.no_cache,
            ..EnqueueOptions::default()
        };
        let new = self.wanted(&push.by, &app, leads.source.clone(), options).await?;
        let live_counts = self.answers(&app);
        let environment = app.environment.name.clone();
        stall::before("push_handled").await;
        let made = self
            .store
            .pushes()
            .handle(push.id, &[(new, live_counts)], |made| outcome(made, &environment, &leads.because))
            .await?;
        stall::after("push_handled").await;
        for enqueued in &made {
            self.enqueued(enqueued).await;
        }
        Ok(())
    }

    /// The environment that a push goes to, if it is there already, even if it goes away.
    async fn place_there(
        &self,
        app: &AppRow,
        leads: &Leads,
        push: &PushRow,
    ) -> Result<Option<AppRow>, Problem> {
        let environments = self.store.environments();
        Ok(match (&leads.to, &push.change) {
            (Target::Named(name), _) => environments.by_name(app.id, name).await?,
            (Target::Pull { number, .. }, _) => environments.by_pull(app.id, *number).await?,
            (_, GitChange::Branch { .. }) => environments.by_branch(app.id, &leads.git_ref).await?,
            _ => None,
        })
    }

    /// Whether a refusal passes by itself, because the environment goes away, or went since it was `seen`: then the push
    /// is to make another, or has no place.
    async fn is_leaving(&self, seen: Option<&AppRow>, problem: &Problem) -> Result<bool, Problem> {
        let (Some(seen), Code::Conflict | Code::NotFound) = (seen, problem.code) else { return Ok(false) };
        let now = self.store.apps().by_environment(seen.environment.id).await?;
        Ok(now.is_none_or(|now| now.deleting))
    }

    /// The environment that a push goes to, or why there is none. A branch that somebody gave to an environment goes
    /// there, whatever else it is; a preview is made if the app has some.
    async fn target_of(
        self: &Arc<Self>,
        app: &AppRow,
        leads: &Leads,
        push: &PushRow,
    ) -> Result<Place, Problem> {
        let Leads { to, git_ref, commit, source, .. } = leads;
        let environments = self.store.environments();
        if let Target::Named(name) = to {
            let named = environments.by_name(app.id, name).await?;
            return Ok(match named {
                Some(named) => Place::There(Box::new(named)),
                None => Place::Nowhere(format!("{NO_SUCH} {name}")),
            });
        }
        if let (GitChange::Branch { .. }, Some(given)) =
            (&push.change, environments.by_branch(app.id, git_ref).await?)
            && given.environment.preview.is_none()
        {
            return Ok(Place::There(Box::new(given)));
        }
        let previews = app.settings.previews.unwrap_or_default();
        let (pull, fork) = match to {
            Target::Branch(branch) if previews != Previews::Branches => {
                return Ok(Place::Nowhere(format!(
                    "the branch {branch} {NO_ENVIRONMENT}; environment_update gives it one, production's is the setting git_ref, else the repository's default branch, and with the setting previews=branches each other one gets its own"
                )));
            }
            Target::Pull { number, .. } if previews != Previews::PullRequests => {
                return Ok(Place::Nowhere(format!(
                    "pull request {number} {NO_PREVIEW}; the setting previews=pull_requests makes one for each"
                )));
            }
            Target::Branch(_) => (None, false),
            Target::Pull { number, fork } => (Some(*number), *fork),
            Target::Production | Target::Named(_) => return Ok(Place::There(Box::new(app.clone()))),
        };
        let offer = Offer { source: source.clone(), commit: commit.clone(), message: push.first_line() };
        let wanted = PreviewFor { branch: git_ref.clone(), pull, fork, offer: Some(offer) };
        let made = Pipeline(Arc::clone(self)).ensure_preview(app, wanted).await?;
        if made.environment.preview.as_ref().is_some_and(|preview| preview.may_deploy(commit)) {
            return Ok(Place::There(Box::new(made)));
        }
        Ok(Place::Waits(format!("it comes from a fork and {WAITS} in {}", made.environment.name)))
    }

    /// Removes the preview of what is gone.
    async fn remove_preview_of(
        self: &Arc<Self>,
        push: &PushRow,
        app: &AppRow,
        of: &PreviewOf,
    ) -> Result<(), Problem> {
        match Pipeline(Arc::clone(self)).remove_preview(app.id, of).await? {
            Some(_) => self.end_push(push, PushState::Handled, "its preview is removed").await,
            None => self.end_push(push, PushState::Ignored, "it is gone and had no preview").await,
        }
    }

    pub(crate) async fn push(&self, id: PushId) -> Result<PushRow, Problem> {
        let push = self.store.pushes().get(id).await?;
        push.ok_or_else(|| Problem::new(Code::NotFound, "That push is gone, with its app."))
    }
}

/// Whether a push can make an older one pointless, by what moved: it brings another commit to the same place, or its end.
fn may_overtake(newer: &PushRow, older: &PushRow) -> bool {
    let brings = matches!(older.change, GitChange::Branch { .. } | GitChange::Pull { .. });
    brings && newer.moved() == older.moved() && newer.wishes.environment == older.wishes.environment
}

/// Whether there is a place for what has no environment yet.
fn makes_place(app: &AppRow, to: &Target) -> bool {
    let previews = app.settings.previews.unwrap_or_default();
    match to {
        Target::Production => true,
        Target::Named(_) => false,
        Target::Branch(_) => previews == Previews::Branches,
        Target::Pull { .. } => previews == Previews::PullRequests,
    }
}

fn decide_by(push: &PushRow, app: &AppRow, rules: &PushRules) -> Decision {
    decide::decide(&Facts {
        change: &push.change,
        commits: &push.commits,
        wishes: &push.wishes,
        default_branch: push.default_branch.as_deref(),
        production: decide::configured_branch(app),
        rules,
    })
}

/// What a push led to, in words.
fn outcome(made: &[Enqueued], environment: &EnvironmentName, because: &str) -> String {
    let said: Vec<String> = made
        .iter()
        .map(|enqueued| match enqueued {
            Enqueued::New(row) => format!("{} deploys it to {environment}", row.reference()),
            Enqueued::Same(row) => {
                format!("{} brings the same to {environment} and is {}", row.reference(), row.state.as_str())
            }
        })
        .collect();
    format!("{}: {because}", said.join(", "))
}

#[cfg(test)]
mod tests {
    use berth_schemas::push::PushOrigin;

    use super::*;

    fn push(change: GitChange) -> NewPush {
        NewPush::new(AppId(1), PushOrigin::Webhook, change, PushSource::Own)
    }

    #[test]
    fn names_that_git_would_not_have_are_refused() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let branch = |branch: &str, commit: &str| {
            push(GitChange::Branch { branch: branch.into(), before: None, commit: commit.into() })
        };
        assert!(check(&branch("feature/x", commit)).is_ok());
        for (name, sha) in [
            ("a..b", commit),
            ("-x", commit),
            ("", commit),
            ("a b", commit),
            ("main", "main"),
            ("main", "0123"),
        ] {
            assert!(check(&branch(name, sha)).is_err(), "{name} {sha}");
        }
        let pull = |commit: &str| {
            let change = GitChange::Pull {
                number: 1,
                branch: "x".into(),
                base: "main".into(),
                commit: commit.into(),
                fork: false,
                head_url: None,
                title: None,
            };
            check(&push(change)).is_ok()
        };
        assert!(pull(commit) && pull(&commit[..12]));
        assert!(!pull(&commit[..11]) && !pull("0123456789ag") && !pull(""));
        let delivery = Some("d".repeat(201));
        assert!(check(&NewPush { delivery, ..branch("main", commit) }).is_err());
    }
}
