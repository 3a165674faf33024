//! Objects of a push: into a quarantine, checked there, then moved over; and the refs that lead to them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::{
    Repository,
    wanted::{Kind, Move, Wanted},
};
use crate::{
    command::{Command, CommandError},
    source::git::CommitSha,
};

/// Longest that storing and checking the objects of one push may take.
pub(crate) const UNPACK_LIMIT: Duration = Duration::from_secs(3600);
/// Longest silence while objects come.
const STALL: Duration = Duration::from_secs(60);
/// Most objects of one push.
const MAX_OBJECTS: u32 = 5_000_000;
/// The head of a pack: its mark, its version, how many objects it has.
const PACK_HEAD: usize = 12;
/// Bytes of git's output that are read.
const MAX_OUTPUT: usize = 1 << 20;
/// Name of quarantines below `objects/`.
const QUARANTINE: &str = "berth-incoming-";

/// Objects in quarantine; removed if they are not kept.
#[derive(Debug)]
pub(crate) struct Incoming {
    dir: PathBuf,
    /// With these the history that was sent is cut.
    shallow: Vec<CommitSha>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Blocking, but a few files; what is left after a kill is removed at the next start.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Whether all that the client sends was read although it is refused, so that it hears why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// It was.
    All,
    /// It would be too much.
    No,
}

impl Repository {
    /// Takes in the objects that follow. `most` bounds their bytes.
    pub(crate) async fn take(
        &self,
        body: &mut (impl AsyncRead + Unpin),
        most: u64,
        cancel: &CancellationToken,
    ) -> Result<Incoming, String> {
        let dir = self.objects().join(format!("{QUARANTINE}{}", uuid::Uuid::new_v4()));
        tokio::fs::create_dir(&dir).await.map_err(|e| format!("no place for the objects: {e}"))?;
        let incoming = Incoming { dir, shallow: Vec::new() };
        let mut head = [0_u8; PACK_HEAD];
        in_time(body.read_exact(&mut head)).await?;
        let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (version, objects) = (number(4), number(8));
        if &head[..4] != b"PACK" || !(2..=3).contains(&version) {
            return Err("what was sent is no pack of objects".into());
        }
        if objects > MAX_OBJECTS {
            return Err(format!("the push brings {objects} objects; at most {MAX_OBJECTS} are taken"));
        }
        if objects == 0 {
            // Nothing but a name for what is there; the rest is the pack's hash.
            in_time(tokio::io::copy(&mut body.take(64), &mut tokio::io::sink())).await?;
            return Ok(incoming);
        }
        let index = self.quarantined(&incoming).args(["index-pack", "--stdin", "--fix-thin", "--strict"]);
        let index = index.arg(format!("--max-input-size={most}")).timeout(UNPACK_LIMIT);
        let mut index = index.pipe().map_err(|e| e.to_string())?;
        let fed = feed(&head, body, &mut index.stdin, most).await;
        let (finished, said) = index.finish(cancel).await.map_err(|e| told(&e))?;
        fed?;
        match finished.success() {
            true => Ok(incoming),
            false => Err(reason(&said)),
        }
    }

    /// git that sees the objects in quarantine, too, and puts new ones there.
    fn quarantined(&self, incoming: &Incoming) -> Command {
        let mut git = self
            .git()
            .env("GIT_OBJECT_DIRECTORY", &incoming.dir)
            .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", self.objects())
            .env("GIT_QUARANTINE_PATH", &incoming.dir);
        if !incoming.shallow.is_empty() {
            git = git.env("GIT_SHALLOW_FILE", incoming.dir.join("shallow"));
        }
        git
    }

    /// Finds out where the history that was sent is cut, as clients with a part of the history send it: at commits
    /// that came now and whose parents are not there.
    pub(crate) async fn note_cuts(&self, incoming: &mut Incoming, wanted: &Wanted) -> Result<(), String> {
        for commit in &wanted.shallow {
            let show = self.quarantined(incoming).args(["cat-file", "commit"]).arg(commit.as_str());
            let Some(text) = quiet(show).await? else { continue };
            let parents: Vec<&str> = text
                .lines()
                .map_while(|l| (!l.starts_with("author ")).then_some(l))
                .filter_map(|l| l.strip_prefix("parent "))
                .collect();
            let asked = parents.iter().map(|p| format!("{p}\n")).collect::<String>();
            let look = self.quarantined(incoming).args(["cat-file", "--batch-check"]).input(asked);
            if quiet(look).await?.is_some_and(|found| found.contains(" missing")) {
                incoming.shallow.push(commit.clone());
            }
        }
        if !incoming.shallow.is_empty() {
            let text = self.shallow_with(&incoming.shallow).await?;
            let file = incoming.dir.join("shallow");
            tokio::fs::write(file, text).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// The places where the history is cut, with more of them.
    async fn shallow_with(&self, more: &[CommitSha]) -> Result<String, String> {
        let known = match tokio::fs::read_to_string(self.dir.join("shallow")).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error.to_string()),
        };
        let mut lines: Vec<&str> = known.lines().chain(more.iter().map(CommitSha::as_str)).collect();
        lines.sort_unstable();
        lines.dedup();
        Ok(lines.into_iter().map(|line| format!("{line}\n")).collect())
    }

    /// Checks each move: what it leads to is a commit, and all that belongs to that is there. Returns the commits
    /// that they lead to.
    pub(crate) async fn check(
        &self,
        incoming: &Incoming,
        moves: &[Move],
    ) -> Result<Vec<Result<Option<CommitSha>, String>>, String> {
        let asked: String = moves
            .iter()
            .filter_map(|m| m.new.as_ref())
            .map(|new| format!("{new}\n{new}^{{commit}}\n"))
            .collect();
        let look = self.quarantined(incoming).args(["cat-file", "--batch-check"]).input(asked);
        let found = quiet(look).await?.unwrap_or_default();
        let mut found = found.lines();
        let mut commits = Vec::with_capacity(moves.len());
        for wanted in moves {
            if wanted.new.is_none() {
                commits.push(Ok(None));
                continue;
            }
            let (Some(object), Some(peeled)) = (found.next(), found.next()) else {
                return Err("git did not say what the refs lead to".into());
            };
            commits.push(leads_to(wanted, object, peeled).map(Some));
        }
        let good: Vec<&CommitSha> = moves
            .iter()
            .zip(&commits)
            .filter(|(_, commit)| commit.is_ok())
            .filter_map(|(m, _)| m.new.as_ref())
            .collect();
        if good.is_empty() || self.is_whole(incoming, &good).await? {
            return Ok(commits);
        }
        for (wanted, commit) in moves.iter().zip(&mut commits) {
            if let (Some(new), Ok(_)) = (&wanted.new, &commit)
                && !self.is_whole(incoming, &[new]).await?
            {
                *commit = Err("objects that belong to it are missing".into());
            }
        }
        Ok(commits)
    }

    /// Whether all that these lead to is there.
    async fn is_whole(&self, incoming: &Incoming, from: &[&CommitSha]) -> Result<bool, String> {
        let asked: String = from.iter().map(|commit| format!("{commit}\n")).collect();
        let walk = self.quarantined(incoming).args(["rev-list", "--objects", "--stdin", "--not", "--all"]);
        let walk = walk.arg("--quiet").input(asked).timeout(UNPACK_LIMIT);
        Ok(quiet(walk).await?.is_some())
    }

    /// Moves the objects over. They are safe on disk when this returns.
    pub(crate) async fn keep(&self, incoming: Incoming) -> Result<(), String> {
        let to = self.objects().join("pack");
        if !incoming.shallow.is_empty() {
            let text = self.shallow_with(&incoming.shallow).await?;
            replace(&self.dir.join("shallow"), &text).map_err(|e| e.to_string())?;
        }
        let moved = tokio::task::spawn_blocking(move || {
            let from = incoming.dir.join("pack");
            let mut files = match std::fs::read_dir(&from) {
                Ok(entries) => entries.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>()?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
            std::fs::create_dir_all(&to)?;
            // The index makes a pack known, so it comes last.
            files.sort_by_key(|name| Path::new(name).extension().is_some_and(|e| e == "idx"));
            for name in files {
                std::fs::rename(from.join(&name), to.join(&name))?;
            }
            std::fs::File::open(&to)?.sync_all()
        });
        match moved.await {
            Ok(done) => done.map_err(|e| format!("the objects could not be kept: {e}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Moves refs, each only if it is where the client saw it; all or none if `atomic`.
    pub(crate) async fn update(&self, moves: &[&Move], atomic: bool) -> Vec<Result<(), String>> {
        let all = self.update_together(moves).await;
        if all.is_ok() || atomic || moves.len() < 2 {
            return moves.iter().map(|_| all.clone()).collect();
        }
        let mut done = Vec::with_capacity(moves.len());
        for one in moves {
            done.push(self.update_together(&[one]).await);
        }
        done
    }

    async fn update_together(&self, moves: &[&Move]) -> Result<(), String> {
        let mut orders = "start\n".to_owned();
        for one in moves {
            let name = &one.name;
            orders.push_str(&match (&one.old, &one.new) {
                (None, Some(new)) => format!("create {name} {new}\n"),
                (Some(old), Some(new)) => format!("update {name} {new} {old}\n"),
                (Some(old), None) => format!("delete {name} {old}\n"),
                (None, None) => return Err("it does not exist".into()),
            });
        }
        orders.push_str("prepare\ncommit\n");
        let update = self.git().args(["update-ref", "--stdin"]).input(orders);
        let out = update.capture(&CancellationToken::new(), MAX_OUTPUT).await.map_err(|e| told(&e))?;
        if out.finished.success() { Ok(()) } else { Err(reason(&out.stderr)) }
    }

    /// Removes what pushes left in quarantine that were cut off.
    pub(crate) async fn clear_quarantine(&self) -> std::io::Result<()> {
        self.clear_lfs().await?;
        let mut entries = tokio::fs::read_dir(self.objects()).await?;
        while let Some(entry) = entries.next_entry().await? {
            if entry.file_name().to_string_lossy().starts_with(QUARANTINE) {
                tokio::fs::remove_dir_all(entry.path()).await?;
            }
        }
        Ok(())
    }
}

/// The commit that a move leads to.
fn leads_to(wanted: &Move, object: &str, peeled: &str) -> Result<CommitSha, String> {
    let kind = object.split(' ').nth(1).unwrap_or_default();
    if kind == "missing" {
        return Err("the object that it points to is missing".into());
    }
    if matches!(wanted.kind(), Ok(Kind::Branch(_))) && kind != "commit" {
        return Err(format!("a branch cannot point to a {kind}"));
    }
    let commit = peeled.split(' ').next().unwrap_or_default();
    CommitSha::parse(commit).map_err(|_| "it leads to no commit".into())
}

/// Hands on what comes to git, and counts it.
async fn feed(
    head: &[u8],
    body: &mut (impl AsyncRead + Unpin),
    to: &mut Option<tokio::process::ChildStdin>,
    most: u64,
) -> Result<(), String> {
    let Some(mut to) = to.take() else { return Err("git takes no input".into()) };
    let mut bytes = head.len() as u64;
    let mut chunk = vec![0_u8; 64 << 10];
    // git says itself why it wants no more.
    if to.write_all(head).await.is_err() {
        return Ok(());
    }
    loop {
        let read = in_time(body.read(&mut chunk)).await?;
        if read == 0 {
            let _ = to.shutdown().await;
            return Ok(());
        }
        bytes += read as u64;
        if bytes > most {
            return Err(format!("the push is larger than {} MiB, the setting upload_max_mb", most >> 20));
        }
        if to.write_all(&chunk[..read]).await.is_err() {
            return Ok(());
        }
    }
}

/// Reads and drops what a refused client still sends, up to a bound.
pub(crate) async fn drain(body: &mut (impl AsyncRead + Unpin), most: u64) -> Drained {
    let mut chunk = vec![0_u8; 64 << 10];
    let mut bytes = 0_u64;
    loop {
        match in_time(body.read(&mut chunk)).await {
            Ok(0) => return Drained::All,
            Ok(read) => bytes += read as u64,
            Err(_) => return Drained::No,
        }
        if bytes > most {
            return Drained::No;
        }
    }
}

async fn in_time<T>(reading: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(STALL, reading).await {
        Ok(read) => read.map_err(|_| "the connection broke off".into()),
        Err(_) => Err(format!("nothing came for {} s", STALL.as_secs())),
    }
}

/// What git prints if it succeeds; none if it fails.
async fn quiet(git: Command) -> Result<Option<String>, String> {
    let out = git.capture(&CancellationToken::new(), MAX_OUTPUT).await.map_err(|e| told(&e))?;
    Ok(out.finished.success().then_some(out.stdout))
}

/// A failure to run git, as the pusher may see it.
fn told(error: &CommandError) -> String {
    tracing::warn!(%error, "git could not be run for a push");
    error.to_string()
}

/// Why git gave up, in its own words, without paths of this machine.
fn reason(stderr: &str) -> String {
    let mut lines = stderr.lines().filter_map(|line| {
        let line = line.trim();
        line.strip_prefix("fatal: ").or_else(|| line.strip_prefix("error: "))
    });
    let line = lines.next().or_else(|| stderr.lines().next()).unwrap_or("git failed");
    if line.contains("but expected") || line.contains("reference already exists") {
        return "it has moved meanwhile; fetch first".into();
    }
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Writes a file so that it is whole or as before.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let aside = path.with_extension("berth-new");
    std::fs::write(&aside, text)?;
    std::fs::File::open(&aside)?.sync_all()?;
    std::fs::rename(aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_says_why_in_its_first_complaint() {
        assert_eq!(
            reason("remote: x\nfatal: pack exceeds maximum allowed size (1 MiB)\n"),
            "pack exceeds maximum allowed size (1 MiB)"
        );
        assert_eq!(
            reason("error: object 1: missingEmail\nfatal: fsck error in packed object"),
            "object 1: missingEmail"
        );
        let raced = "fatal: prepare: cannot lock ref 'refs/heads/main': is at 1 but expected 2";
        assert_eq!(reason(raced), "it has moved meanwhile; fetch first");
        assert_eq!(reason(""), "git failed");
    }
}
