//! Getting the source of a deployment: unpacking an upload, fetching a repository at a commit, pulling an image.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use berth_schemas::{Code, Problem, deployment::BuildLineKind, ids::UploadId};
use berth_store::model::{Artifact, DeploymentSource, Principal, ReleaseRow, SourceKey, UploadRow};
use tokio::sync::mpsc;

use crate::{
    attempt::{Attempt, io_problem},
    docker::{EngineError, ImageInfo, ImageRef, PullEvent},
    fault::Halt,
    limits,
    pipeline::Inner,
    source::{
        ArchiveError, Limits, TreePath,
        archive::{self, ExtractOptions},
        git::{self, CommitSha, FetchRequest, GitError, GitRef, GitUrl, Transport, Wanted},
    },
};

/// Files that may come inline in one call.
const MAX_INLINE_FILES: usize = 500;
/// Bytes that they may have together.
const MAX_INLINE_BYTES: usize = 4 << 20;
/// Time for blocking work to notice that it is to stop.
const FLAG_GRACE: Duration = Duration::from_secs(10);
/// Port of an app that says none and whose image declares none.
pub(crate) const DEFAULT_PORT: u16 = 8080;

/// A source on disk.
pub(crate) struct Source {
    /// Its top.
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
                let exact = self.source_key(attempt.app.id, &attempt.row.source).await?;
                self.end_if_same(attempt, exact).await?;
                self.unpack(attempt, &upload, &tree).await?;
            }
            DeploymentSource::Git { url, git_ref, commit } => {
                let wanted = commit.or(git_ref);
                let fetching = self.fetch_git(attempt, &url, wanted.as_deref(), &tree);
                limits::step("fetching the repository", limits::GIT, fetching).await?;
            }
            DeploymentSource::Pushed { commit, .. } => {
                let fetching = self.fetch_pushed(attempt, &commit, &tree);
                limits::step("fetching the commit", limits::GIT, fetching).await?;
            }
            DeploymentSource::Image { .. }
            | DeploymentSource::Rollback { .. }
            | DeploymentSource::Promote { .. }
            | DeploymentSource::Redeploy { .. } => {
                return Err(Problem::new(Code::Internal, "This source is not fetched.").into());
            }
        }
        Ok(Source { directory: tree })
    }

    /// Unpacks an upload into `tree`.
    async fn unpack(&self, attempt: &Attempt, upload: &UploadId, tree: &Path) -> Result<(), Halt> {
        let archive = self.upload_path(upload);
        if !tokio::fs::try_exists(&archive).await.unwrap_or(false) {
            return Err(Problem::new(Code::NotFound, "The upload is gone: uploads are kept for a day.")
                .hint("Upload the source again.")
                .into());
        }
        // Forges pack a repository into one folder. Files that came one by one are where their names say.
        let options = ExtractOptions {
            limits: Limits { bytes: self.config.max_source_bytes, ..Limits::default() },
            strip_top_folder: matches!(attempt.row.source, DeploymentSource::Upload { .. }),
        };
        let to = tree.to_path_buf();
        let report = self
            .blocking(attempt, "unpacking the source", limits::UNPACK, move |cancel| {
                archive::extract(&archive, &to, &options, cancel)
            })
            .await?
            .map_err(|e| archive_problem(&e))?;
        attempt
            .journal
            .note(format!("{} files, {:.1} MB, unpacked", report.files, report.bytes as f64 / 1e6))
            .await;
        Ok(())
    }

    /// Fetches a repository at a commit into `tree`.
    async fn fetch_git(
        &self,
        attempt: &mut Attempt,
        url: &str,
        git_ref: Option<&str>,
        tree: &Path,
    ) -> Result<(), Halt> {
        let bad =
            |e: git::AddressError| Problem::new(Code::GitFailed, crate::fault::sentence(&e.to_string()));
        let asked = url;
        let (url, credential) = GitUrl::parse(url, self.config.allow_local_sources).map_err(bad)?;
        let wanted = match git_ref {
            None => Wanted::DefaultBranch,
            Some(text) => match CommitSha::parse(text) {
                Ok(commit) => Wanted::Commit(commit),
                Err(_) => Wanted::Ref(GitRef::parse(text).map_err(bad)?),
            },
        };
        let mut request = FetchRequest::new(url, wanted);
        request.credential = credential;
        let who = self.git_as(attempt.app.id, &request.url).await?;
        let known = who.credential.is_some() || who.private_key.is_some();
        let from_fork = attempt.app.environment.preview.as_ref().is_some_and(|preview| preview.fork);
        self.prepare_fetch(&mut request, who).await?;
        let keyed = request.url.transport() == Transport::Ssh;
        let with = (known && !from_fork, keyed && !from_fork);
        self.with_the_rest(&mut request, attempt.app.id, with, None).await?;
        attempt.journal.line(BuildLineKind::Step, None, format!("git fetch {}", request.url.as_str())).await;
        let checkout = self.check_out(attempt, request, tree).await?;
        self.end_if_same(attempt, self.commit_key(asked, checkout.commit.as_str())).await
    }

    /// Takes a commit out of Berth's own repository of the app into `tree`.
    async fn fetch_pushed(&self, attempt: &mut Attempt, commit: &str, tree: &Path) -> Result<(), Halt> {
        let bad =
            |e: git::AddressError| Problem::new(Code::GitFailed, crate::fault::sentence(&e.to_string()));
        let commit = CommitSha::parse(commit).map_err(bad)?;
        let repository = crate::repository::path(&self.config.data_dir, attempt.app.id);
        let url = GitUrl::local(&repository).map_err(bad)?;
        attempt.journal.line(BuildLineKind::Step, None, format!("git fetch {}", commit.short())).await;
        let key = self.source_key(attempt.app.id, &attempt.row.source).await?;
        let mut request = FetchRequest { own: true, ..FetchRequest::new(url, Wanted::Commit(commit)) };
        request.policy.allow_private = self.config.allow_private_sources;
        // Relative addresses are relative to where the repository is at home.
        let home = attempt.app.settings.git_url.as_deref();
        let home = home.and_then(|url| GitUrl::parse(url, self.config.allow_local_sources).ok());
        let base = home.map(|(url, _)| url);
        self.with_the_rest(&mut request, attempt.app.id, (true, true), base).await?;
        self.check_out(attempt, request, tree).await?;
        self.end_if_same(attempt, key).await
    }

    /// Fetches, tells the deployment's log, and notes the commit.
    async fn check_out(
        &self,
        attempt: &Attempt,
        mut request: FetchRequest,
        tree: &Path,
    ) -> Result<git::Checkout, Halt> {
        request.limits.bytes = self.config.max_source_bytes;
        let (lines, mut printed) = mpsc::channel::<String>(256);
        let journal = attempt.journal.clone();
        let listen = async move {
            while let Some(line) = printed.recv().await {
                journal.line(BuildLineKind::Output, None, line).await;
            }
        };
        let fetch = async {
            // Moved in, so that the channel ends with the fetch. A full channel drops a line of progress.
            let lines = lines;
            let mut progress = |line: &str| {
                let _ = lines.try_send(line.to_owned());
            };
            git::fetch(&request, tree, &attempt.cancel, &mut progress).await
        };
        let (checkout, ()) = tokio::join!(fetch, listen);
        let checkout = match checkout {
            Ok(checkout) => checkout,
            Err(_) if attempt.cancel.is_cancelled() => return Err(self.why_cancelled(&attempt.row)),
            Err(error) => return Err(git_problem(&error).into()),
        };
        self.store
            .deployments()
            .set_commit(attempt.row.id, checkout.commit.as_str(), Some(&checkout.message))
            .await?;
        attempt.journal.note(format!("at commit {} {}", checkout.commit.short(), checkout.message)).await;
        for link in &checkout.removed_links {
            let text = format!("the link {link} leads out of the repository and was left out");
            attempt.journal.line(BuildLineKind::Warning, None, text).await;
        }
        Ok(checkout)
    }

    /// The key for git over SSH, if one is configured.
    pub(crate) async fn git_ssh_key(&self) -> Result<Option<String>, Problem> {
        let Some(path) = &self.config.git_ssh_key else { return Ok(None) };
        match tokio::fs::read_to_string(path).await {
            Ok(key) => Ok(Some(key)),
            Err(error) => Err(Problem::new(
                Code::Unavailable,
                format!("The SSH key {} cannot be read: {}.", path.display(), error.kind()),
            )
            .hint("Correct the setting git_ssh_key, or the file's owner and mode.")),
        }
    }

    /// Checks files that came in a call and keeps them as an upload.
    pub(crate) async fn keep_files(
        &self,
        who: &Principal,
        files: BTreeMap<String, String>,
    ) -> Result<UploadRow, Problem> {
        let total: usize = files.values().map(String::len).sum();
        if files.is_empty() || total == 0 {
            return Err(Problem {
                field: Some("files".into()),
                ..Problem::new(Code::EmptySource, "The files are empty.")
            });
        }
        if files.len() > MAX_INLINE_FILES || total > MAX_INLINE_BYTES {
            return Err(Problem {
                field: Some("files".into()),
                ..Problem::new(
                    Code::TooLarge,
                    format!("At most {MAX_INLINE_FILES} files and {} MiB go inline.", MAX_INLINE_BYTES >> 20),
                )
            }
            .hint("Upload an archive with POST /v1/uploads, or deploy from git_url."));
        }
        for path in files.keys() {
            TreePath::parse(path.as_bytes()).map_err(|why| {
                Problem::invalid("files", format!("The path {path:?} cannot be used: {why}."))
                    .hint("Use relative paths with forward slashes, without `..`.")
            })?;
        }
        let id: UploadId = uuid::Uuid::new_v4()
            .to_string()
            .parse()
            .map_err(|_| Problem::new(Code::Internal, "An upload id could not be made."))?;
        let path = self.upload_path(&id);
        let written = tokio::task::spawn_blocking(move || pack_files(&path, &files)).await;
        let (bytes, sha256) = match written {
            Ok(Ok(written)) => written,
            Ok(Err(error)) => return Err(io_problem("keeping the files", &error)),
            Err(_) => return Err(Problem::new(Code::Internal, "Keeping the files ended unexpectedly.")),
        };
        Ok(self.store.uploads().create(id, bytes, &sha256, &who.name).await?)
    }

    /// Finds an image in the engine or pulls it, and makes it a release.
    pub(crate) async fn fetch_image(&self, attempt: &mut Attempt, image: &str) -> Result<ReleaseRow, Halt> {
        let reference = ImageRef::parse(image).map_err(|e| crate::fault::engine_problem(&e))?;
        let pulling = self.pull(attempt, &reference);
        let info = match limits::step("pulling the image", limits::PULL, pulling).await {
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
        self.end_if_same(attempt, Some(SourceKey::Exact(format!("image:{reference}@{}", info.id)))).await?;
        let port = self.port_of(attempt, None, &info.exposed_ports).await;
        let command = start_command(attempt)?;
        let artifact = Artifact::Image {
            image_id: info.id.clone(),
            reference: reference.to_string(),
            port,
            built: false,
            command,
            // Not of Berth's building.
            private_maps: false,
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

    /// Runs blocking work that looks at a flag, setting the flag when the attempt is cancelled or the time is over.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        attempt: &Attempt,
        name: &str,
        limit: Duration,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<T, Halt> {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&flag);
        let mut task = tokio::task::spawn_blocking(move || work(&seen));
        let halt = tokio::select! {
            done = &mut task => return done.map_err(|e| {
                tracing::error!(error = %e, "a blocking step ended badly");
                Problem::new(
                    Code::Internal,
                    "A step of the deployment ended unexpectedly; the daemon's log says more.",
                )
                .into()
            }),
            () = attempt.cancel.cancelled() => self.why_cancelled(&attempt.row),
            () = tokio::time::sleep(limit) => limits::timed_out(name, limit).into(),
        };
        flag.store(true, Ordering::Relaxed);
        // It stops at its next look at the flag; what it made is removed with the work directory. A disk that hangs
        // does not hold up the rest.
        if tokio::time::timeout(FLAG_GRACE, task).await.is_err() {
            tracing::warn!(step = name, "a blocking step does not stop; going on without it");
        }
        Err(halt)
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

/// Writes files as an archive like an upload, synced to disk. Returns its size and SHA-256.
fn pack_files(path: &Path, files: &BTreeMap<String, String>) -> Result<(i64, String), std::io::Error> {
    use sha2::{Digest, Sha256};
    let mut packed = Vec::new();
    {
        let gz = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, text.as_bytes())?;
        }
        tar.into_inner()?.finish()?;
    }
    let sha256 = hex::encode(Sha256::digest(&packed));
    let mut file = std::fs::File::create_new(path)?;
    std::io::Write::write_all(&mut file, &packed)?;
    file.sync_all()?;
    Ok((i64::try_from(packed.len()).unwrap_or(i64::MAX), sha256))
}

fn archive_problem(error: &ArchiveError) -> Problem {
    let code = match error {
        ArchiveError::Empty => Code::EmptySource,
        ArchiveError::Cancelled => Code::Cancelled,
        ArchiveError::Disk { source, .. } => return io_problem("unpacking the source", source),
        _ => Code::BadArchive,
    };
    let hint = match code {
        Code::EmptySource => "Put the app's files into the archive; `berth deploy` does it for a folder.",
        _ => "Make the archive of the source alone, as .tar.gz or .zip; `berth deploy` does it for a folder.",
    };
    Problem::new(code, crate::fault::sentence(&error.to_string())).hint(hint)
}

/// An error of git as callers see it.
#[must_use]
pub fn git_problem(error: &GitError) -> Problem {
    let code = if let GitError::TimedOut { .. } = error { Code::TimedOut } else { Code::GitFailed };
    let mut problem = Problem::new(code, crate::fault::sentence(&error.to_string())).quoting();
    if let Some(hint) = error.hint() {
        problem = problem.hint(hint);
    }
    if let GitError::RefNotFound { candidates, .. } = error {
        problem = problem.candidates(candidates.clone());
    }
    problem
}
