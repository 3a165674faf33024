//! `git push` to Berth's own repositories: what is sent becomes refs and pushes, and its user hears what comes of it.
//!
//! The objects are taken in while the client waits. From then on nothing depends on the client: refs move, pushes are
//! kept, deployments go on. A ref moves first and its push is kept next; a daemon that dies in between finds, at its
//! start, a ref without a push and makes one up (`agree`). With `strict` it is the other way round: the push is kept
//! with where the branch was, and the branch moves when the deployment is live (`held`).

use std::{sync::Arc, time::Duration};

use berth_schemas::{
    Code, Problem, ProjectSlug, Untrusted,
    push::{GitChange, GitCommits, PushOrigin, PushResult, PushWishes},
};
use berth_store::{
    NewPush, PushSource,
    model::{AppRow, Principal, PushId},
};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc,
};

use super::{slots::Slot, tell::Out};
use crate::{
    fault::sentence,
    pipeline::{Inner, Pipeline},
    repository::{self, Drained, GitService, Incoming, Kind, Move, PktError, Repository, Wanted},
    source::git::{CommitSha, GitRef},
    stall,
};

/// Longest that a fetch may take.
const FETCH_LIMIT: Duration = Duration::from_secs(3600);
/// Bytes of a list of refs.
const MAX_ADVERTISED: u64 = 64 << 20;
/// Chunks of an answer that wait for a slow client.
const QUEUE: usize = 16;
/// How much of a refused push is read, in times of what is taken, so that its sender hears why.
const DRAIN_FACTOR: u64 = 4;

/// A push that comes in.
#[derive(Debug, Clone)]
pub struct GitPush {
    /// The app.
    pub app: AppRow,
    /// Who pushes.
    pub who: Principal,
    /// Most bytes of its objects.
    pub most: u64,
    /// It made the app, in the project of this name.
    pub made: Option<ProjectSlug>,
}

impl Pipeline {
    /// What a client that wants to fetch or push is told first, as the smart HTTP protocol has it.
    ///
    /// # Errors
    /// `Unavailable` when git is missing.
    pub async fn git_advertise(
        &self,
        app: &AppRow,
        service: GitService,
        protocol: Option<&str>,
    ) -> Result<Vec<u8>, Problem> {
        let repository = Repository::open(&self.0.config.data_dir, app.id).await?;
        if service == GitService::ReceivePack {
            return repository.advertise_receive().await;
        }
        let mut out = Vec::new();
        // Only the newest version of the protocol begins without this line.
        if protocol != Some("version=2") {
            out.extend(repository::packet(b"# service=git-upload-pack\n"));
            out.extend_from_slice(repository::FLUSH);
        }
        let mut git = repository.upload_pack(protocol, true).pipe().map_err(|e| no_git(&e))?;
        drop(git.stdin.take());
        if let Some(stdout) = git.stdout.take() {
            let read = stdout.take(MAX_ADVERTISED).read_to_end(&mut out).await;
            read.map_err(|e| Problem::new(Code::Internal, format!("git could not be read: {e}.")))?;
        }
        let (finished, said) = git.finish(&self.0.shutdown).await.map_err(|e| no_git(&e))?;
        match finished.success() {
            true => Ok(out),
            false => Err(Problem::new(Code::Internal, sentence(&said))),
        }
    }

    /// What a client is told first that wants to push where nothing is yet.
    #[must_use]
    pub fn git_advertise_nothing(&self) -> Vec<u8> {
        repository::advertised(&[])
    }

    /// Answers a fetch. The answer comes in pieces and ends with the channel.
    ///
    /// # Errors
    /// `Unavailable` when git is missing or too many fetch already.
    pub async fn git_fetch(
        &self,
        app: &AppRow,
        protocol: Option<&str>,
        mut body: impl AsyncRead + Unpin + Send + 'static,
    ) -> Result<mpsc::Receiver<Bytes>, Problem> {
        let inner = Arc::clone(&self.0);
        let slot = inner.git_slots.fetch(app.id).await?;
        let repository = Repository::open(&inner.config.data_dir, app.id).await?;
        let git = repository.upload_pack(protocol, false).timeout(FETCH_LIMIT);
        let mut git = git.pipe().map_err(|e| no_git(&e))?;
        let (sender, answer) = mpsc::channel(QUEUE);
        let (stdin, stdout) = (git.stdin.take(), git.stdout.take());
        self.0.spawn(async move {
            let _slot = slot;
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // git that wants no more has its answer ready.
                    let _ = tokio::io::copy(&mut body, &mut stdin).await;
                }
            };
            let talk = async {
                let Some(mut stdout) = stdout else { return };
                loop {
                    let mut chunk = bytes::BytesMut::with_capacity(64 << 10);
                    match stdout.read_buf(&mut chunk).await {
                        Ok(0) | Err(_) => return,
                        // Nobody listens any more: git is ended with its pipes.
                        Ok(_) if sender.send(chunk.freeze()).await.is_err() => return,
                        Ok(_) => {}
                    }
                }
            };
            tokio::select! {
                ((), ()) = async { tokio::join!(feed, talk) } => {}
                () = sender.closed() => return,
                () = inner.shutdown.cancelled() => return,
            }
            match git.finish(&inner.shutdown).await {
                Ok((finished, said)) if !finished.success() => tracing::debug!(%said, "a fetch failed"),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a fetch was ended"),
            }
        });
        Ok(answer)
    }

    /// Takes in a push. When this returns all that the client sends was read; the answer comes in pieces and ends
    /// with the channel. Dropping that does not stop what was begun.
    ///
    /// # Errors
    /// `InvalidInput` when what was sent is no push, `Unavailable` when too many push already.
    pub async fn git_push(
        &self,
        push: GitPush,
        body: &mut (impl AsyncRead + Unpin),
    ) -> Result<mpsc::Receiver<Bytes>, Problem> {
        let inner = Arc::clone(&self.0);
        let slot = inner.git_slots.push(push.app.id).await?;
        let repository = Repository::open(&inner.config.data_dir, push.app.id).await?;
        let (sender, answer) = mpsc::channel(QUEUE);
        let Some(wanted) = Wanted::read(body).await.map_err(|e| no_push(&e))? else { return Ok(answer) };
        let taken = inner.take(&repository, &push, &wanted, body).await;
        if taken.is_err()
            && repository::drain(body, push.most.saturating_mul(DRAIN_FACTOR)).await == Drained::No
        {
            return Err(Problem::new(Code::TooLarge, "The push is too large.")
                .hint("Push less at once, or raise upload_max_mb in the daemon's configuration."));
        }
        let out = Out::new(sender, wanted.side_band);
        self.0.spawn(async move { inner.finish_push(push, repository, wanted, taken, out, slot).await });
        Ok(answer)
    }
}

/// What a push is found to be before anything changes.
struct Taken {
    incoming: Option<Incoming>,
    wishes: PushWishes,
}

/// A ref that moves, and the commit that it leads to.
struct Moving {
    change: GitChange,
    at: usize,
}

impl Inner {
    async fn take(
        &self,
        repository: &Repository,
        push: &GitPush,
        wanted: &Wanted,
        body: &mut (impl AsyncRead + Unpin),
    ) -> Result<Taken, String> {
        let wishes = repository::wishes(&wanted.options)?;
        if !wanted.brings_objects() {
            return Ok(Taken { incoming: None, wishes });
        }
        if self.check_room(0).await.is_err() {
            return Err("the server's disk is almost full; platform_cleanup frees space".into());
        }
        let mut incoming = repository.take(body, push.most, &self.shutdown).await?;
        repository.note_cuts(&mut incoming, wanted).await?;
        Ok(Taken { incoming: Some(incoming), wishes })
    }

    /// Moves the refs, keeps the pushes and tells the client what comes of them.
    async fn finish_push(
        self: Arc<Self>,
        push: GitPush,
        repository: Repository,
        wanted: Wanted,
        taken: Result<Taken, String>,
        out: Out,
        slot: Slot,
    ) {
        if let Some(project) = &push.made {
            out.say(&format!("The app {} is new: made in the project {project}.", push.app.slug)).await;
        }
        let (incoming, wishes) = match taken {
            Ok(taken) => (taken.incoming, taken.wishes),
            Err(why) => {
                let refused =
                    wanted.moves.iter().map(|_| Err("nothing was taken".into())).collect::<Vec<_>>();
                out.report(&wanted, Err(&why), &refused).await;
                return out.end().await;
            }
        };
        let result = match self.store.pushes().rules(push.app.id).await {
            Ok(rules) => rules.result.unwrap_or_default(),
            Err(error) => {
                let why = Problem::from(error).detail;
                let refused = wanted.moves.iter().map(|_| Err(why.clone())).collect::<Vec<_>>();
                out.report(&wanted, Ok(()), &refused).await;
                return out.end().await;
            }
        };
        let strict = result == PushResult::Strict && !wishes.skip;
        let (mut verdicts, pushes) =
            self.move_refs(&push, &repository, &wanted, incoming, &wishes, strict).await;
        // What follows only tells; others may push meanwhile.
        drop(slot);
        let held = pushes.iter().any(|(_, held)| held.is_some());
        if !held {
            // The result is told before the deployment ends: it does not depend on it.
            out.report(&wanted, Ok(()), &verdicts).await;
        }
        let follows = result != PushResult::Accept;
        for (id, held) in pushes {
            let told = tokio::select! {
                told = self.tell_push(&out, id, follows, held.is_some()) => told,
                () = self.shutdown.cancelled() => {
                    out.say("Berth is being restarted; the deployment goes on by itself.").await;
                    Err("Berth is being restarted; see push_get for what came of it".into())
                }
            };
            if let Some(at) = held {
                verdicts[at] = told;
            }
        }
        if held {
            out.report(&wanted, Ok(()), &verdicts).await;
        }
        out.end().await;
        self.tidy(&push.app, &repository).await;
    }

    /// Checks what is to move and moves it. Returns a verdict for each move, and the pushes that were kept, each with
    /// its place among the moves if that waits for the deployment.
    async fn move_refs(
        &self,
        push: &GitPush,
        repository: &Repository,
        wanted: &Wanted,
        incoming: Option<Incoming>,
        wishes: &PushWishes,
        strict: bool,
    ) -> (Vec<Result<(), String>>, Vec<(PushId, Option<usize>)>) {
        let _inside = self.repositories.enter(push.app.id).await;
        let failed = |why: String| (wanted.moves.iter().map(|_| Err(why.clone())).collect(), Vec::new());
        let head = match self.head_after(push, repository, wanted).await {
            Ok(head) => head,
            Err(problem) => return failed(problem.detail),
        };
        let checked = match &incoming {
            Some(incoming) => repository.check(incoming, &wanted.moves).await,
            None => Ok(wanted.moves.iter().map(|_| Ok(None)).collect()),
        };
        let checked = match checked {
            Ok(checked) => checked,
            Err(why) => return failed(why),
        };
        let mut verdicts = Vec::with_capacity(checked.len());
        let mut moving = Vec::new();
        for (at, (one, commit)) in wanted.moves.iter().zip(checked).enumerate() {
            let change = commit.and_then(|commit| change_of(one, commit, &head));
            verdicts.push(change.map(|change| moving.push(Moving { change, at })));
        }
        if wanted.atomic && verdicts.iter().any(Result::is_err) {
            let others = |v: Result<(), String>| {
                Err(v.err().unwrap_or_else(|| "others of this atomic push are refused".into()))
            };
            return (verdicts.into_iter().map(others).collect(), Vec::new());
        }
        if let Some(incoming) = incoming
            && !moving.is_empty()
            && let Err(why) = repository.keep(incoming).await
        {
            return failed(why);
        }
        let (held, direct): (Vec<_>, Vec<_>) =
            moving.into_iter().partition(|m| strict && matches!(m.change, GitChange::Branch { .. }));
        let moves: Vec<&Move> = direct.iter().map(|m| &wanted.moves[m.at]).collect();
        stall::before("ref_moved").await;
        for (m, verdict) in direct.iter().zip(repository.update(&moves, wanted.atomic).await) {
            verdicts[m.at] = verdict;
        }
        stall::after("ref_moved").await;
        if let Some(head) = head.as_deref().and_then(|h| GitRef::parse(h).ok())
            && let Err(problem) = repository.set_head(&head).await
        {
            tracing::warn!(%problem, "HEAD could not be set");
        }
        let mut pushes = Vec::new();
        for m in direct.into_iter().chain(held) {
            if verdicts[m.at].is_err() {
                continue;
            }
            let holds = strict && matches!(m.change, GitChange::Branch { .. });
            let old = wanted.moves[m.at].old.as_ref().map(|old| old.as_str().to_owned());
            let held_before = holds.then(|| old.unwrap_or_default());
            match self.keep_push(push, repository, m.change, wishes, head.clone(), held_before).await {
                Ok(id) => pushes.push((id, holds.then_some(m.at))),
                Err(problem) if holds => verdicts[m.at] = Err(problem.detail),
                // The ref has moved: the push is made up for as soon as the store answers.
                Err(problem) => {
                    tracing::error!(%problem, app = %push.app.slug, "a push was not kept yet");
                    self.refs_to_look_at.notify_one();
                }
            }
        }
        (verdicts, pushes)
    }

    /// The branch that HEAD is to name when this push is through.
    async fn head_after(
        &self,
        push: &GitPush,
        repository: &Repository,
        wanted: &Wanted,
    ) -> Result<Option<String>, Problem> {
        let mut branches: Vec<String> = repository
            .refs()
            .await?
            .into_iter()
            .filter_map(|r| Some(r.name.strip_prefix("refs/heads/")?.to_owned()))
            .collect();
        let pushed = wanted.moves.iter().filter(|m| m.new.is_some()).filter_map(|m| match m.kind() {
            Ok(Kind::Branch(branch)) => Some(branch.to_owned()),
            _ => None,
        });
        branches.extend(pushed);
        let configured = super::decide::configured_branch(&push.app);
        Ok(repository::head_of(&branches, configured, &repository.head().await?))
    }

    async fn keep_push(
        &self,
        push: &GitPush,
        repository: &Repository,
        change: GitChange,
        wishes: &PushWishes,
        default_branch: Option<String>,
        held_before: Option<String>,
    ) -> Result<PushId, Problem> {
        let commits = self.commits_of(repository, &change, &push.who.name).await;
        let new = NewPush {
            commits,
            wishes: wishes.clone(),
            default_branch,
            held_before,
            by: push.who.name.clone(),
            ..NewPush::new(push.app.id, PushOrigin::Berth, change, PushSource::Own)
        };
        Ok(self.receive(new).await?.id())
    }

    /// What is known of the commits that a change brings.
    pub(super) async fn commits_of(
        &self,
        repository: &Repository,
        change: &GitChange,
        pusher: &str,
    ) -> GitCommits {
        let pusher = Some(Untrusted(pusher.to_owned()));
        let (before, commit) = match change {
            GitChange::Branch { before, commit, .. } => (before.as_deref(), commit),
            GitChange::Tag { commit, .. } => (None, commit),
            _ => return GitCommits { pusher, ..GitCommits::default() },
        };
        let described = repository.describe(commit).await.ok();
        let (author, message) =
            described.map_or((None, None), |(a, m)| (Some(Untrusted(a)), Some(Untrusted(m))));
        let paths = match before {
            Some(before) => repository.paths_between(before, commit).await,
            None => None,
        };
        GitCommits { message, author, pusher, paths }
    }

    /// Packs a repository's objects anew if there are many packs.
    async fn tidy(&self, app: &AppRow, repository: &Repository) {
        if let Err(problem) = repository.tidy(&self.shutdown).await
            && !self.shutdown.is_cancelled()
        {
            tracing::warn!(app = %app.slug, %problem, "a repository could not be packed anew");
        }
    }
}

/// What a move means, or why it is refused.
fn change_of(one: &Move, commit: Option<CommitSha>, head: &Option<String>) -> Result<GitChange, String> {
    let kind = one.kind()?;
    let gone = || one.old.as_ref().map(|_| ()).ok_or_else(|| "it does not exist".to_owned());
    Ok(match (kind, commit) {
        (Kind::Branch(branch), Some(commit)) => GitChange::Branch {
            branch: branch.into(),
            before: one.old.as_ref().map(|old| old.as_str().to_owned()),
            commit: commit.as_str().into(),
        },
        (Kind::Branch(branch), None) if head.as_deref() == Some(branch) => {
            return Err(
                "it is the branch that production deploys; choose another with the setting git_ref first"
                    .into(),
            );
        }
        (Kind::Branch(branch), None) => {
            gone().map(|()| GitChange::BranchDeleted { branch: branch.into() })?
        }
        (Kind::Tag(tag), Some(commit)) => GitChange::Tag { tag: tag.into(), commit: commit.as_str().into() },
        (Kind::Tag(tag), None) => gone().map(|()| GitChange::TagDeleted { tag: tag.into() })?,
    })
}

fn no_push(error: &PktError) -> Problem {
    Problem::new(Code::InvalidInput, sentence(&format!("this is no push: {error}")))
}

fn no_git(error: &crate::command::CommandError) -> Problem {
    Problem::new(Code::Unavailable, sentence(&error.to_string()))
        .hint("Install git on the server, 2.37 or newer.")
}
