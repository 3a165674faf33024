//! Objects of Git LFS that are pushed to Berth's own repositories and fetched from them, as its batch API has it.

use std::io;

use berth_schemas::{Code, Problem};
use berth_store::model::AppRow;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::fs::File;
use tokio_util::io::ReaderStream;

use super::slots::Slot;
use crate::{
    attempt::io_problem,
    pipeline::{Inner, Pipeline},
    repository::{NotKept, Repository},
    room::Room,
    source::lfs::{
        Oid,
        wire::{self, Action, Actions, Answered, Batch, BatchAnswer, Fault, Object, Operation},
    },
};

/// Most objects of one request; git-lfs asks for a hundred.
const MAX_OBJECTS: usize = 1000;

/// An object that goes out.
#[derive(Debug)]
pub struct LfsObject {
    file: File,
    /// Its size in bytes.
    pub size: u64,
    slot: Slot,
}

impl LfsObject {
    /// Its content; its place among those that go at the same time is held until this is dropped.
    pub fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        let slot = self.slot;
        ReaderStream::with_capacity(self.file, 64 << 10).inspect(move |_| {
            let _held = &slot;
        })
    }
}

impl Pipeline {
    /// Answers what there is for objects. `base` is the address of the repository's `info/lfs` as the client has it,
    /// `most` the bytes that an object may have.
    ///
    /// # Errors
    /// `InvalidInput` when the request asks for what is not known here.
    pub async fn lfs_batch(
        &self,
        app: &AppRow,
        batch: Batch,
        base: &str,
        most: u64,
    ) -> Result<BatchAnswer, Problem> {
        if !batch.transfers.is_empty() && !batch.transfers.iter().any(|way| way == wire::BASIC) {
            return Err(Problem::invalid("transfers", "Only the basic way of transfer is known here."));
        }
        if batch.hash_algo.as_deref().is_some_and(|hash| hash != wire::SHA256) {
            return Err(Problem::invalid("hash_algo", "Objects are named by their SHA-256 here."));
        }
        if batch.objects.len() > MAX_OBJECTS {
            let text = format!("At most {MAX_OBJECTS} objects go into one request.");
            return Err(Problem::new(Code::TooLarge, text));
        }
        let repository = Repository::open(&self.0.config.data_dir, app.id).await?;
        let mut objects = Vec::with_capacity(batch.objects.len());
        for asked in batch.objects {
            let there = repository.lfs_size(&asked.oid).await.map_err(|e| cannot(&e))?;
            objects.push(answer(batch.operation, asked, there, base, most));
        }
        Ok(BatchAnswer { transfer: Some(wire::BASIC.into()), objects, hash_algo: Some(wire::SHA256.into()) })
    }

    /// Takes in an object of at most `most` bytes, of which `announced` are said to come. It is safe on disk when
    /// this returns.
    ///
    /// # Errors
    /// `TooLarge`, `OutOfDisk`, or `InvalidInput` when it is not what its name says.
    pub async fn lfs_keep(
        &self,
        app: &AppRow,
        oid: &Oid,
        body: impl Stream<Item = io::Result<Bytes>> + Unpin,
        announced: Option<u64>,
        most: u64,
    ) -> Result<(), Problem> {
        if announced.is_some_and(|bytes| bytes > most) {
            return Err(too_large(most));
        }
        let _slot = self.0.git_slots.object(app.id).await?;
        self.0.check_room(announced.unwrap_or_default()).await?;
        let repository = Repository::open(&self.0.config.data_dir, app.id).await?;
        repository.lfs_keep(oid, body, most).await.map_err(|why| match why {
            NotKept::TooLarge => too_large(most),
            NotKept::Other => {
                Problem::invalid("oid", format!("What came is not {oid}: its SHA-256 is another."))
                    .hint("Push again; if it stays, run: git lfs fsck")
            }
            NotKept::BrokeOff(error) if error.kind() == io::ErrorKind::TimedOut => {
                Problem::new(Code::TimedOut, "Nothing of the object came any more.")
            }
            NotKept::BrokeOff(_) => Problem::new(Code::InvalidInput, "The object broke off."),
            NotKept::Disk(error) => cannot(&error),
        })
    }

    /// An object, if it is there.
    ///
    /// # Errors
    /// When it cannot be read, or too many are being fetched already.
    pub async fn lfs_open(&self, app: &AppRow, oid: &Oid) -> Result<Option<LfsObject>, Problem> {
        let slot = self.0.git_slots.object(app.id).await?;
        let repository = Repository::open(&self.0.config.data_dir, app.id).await?;
        let found = repository.lfs_open(oid).await.map_err(|e| cannot(&e))?;
        Ok(found.map(|(file, size)| LfsObject { file, size, slot }))
    }

    /// Whether an object is there whole.
    ///
    /// # Errors
    /// When the disk does not say.
    pub async fn lfs_has(&self, app: &AppRow, object: &Object) -> Result<bool, Problem> {
        let repository = Repository::open(&self.0.config.data_dir, app.id).await?;
        Ok(repository.lfs_size(&object.oid).await.map_err(|e| cannot(&e))? == Some(object.size))
    }
}

impl Inner {
    /// Refuses what would not leave the configured space free.
    pub(super) async fn check_room(&self, bytes: u64) -> Result<(), Problem> {
        let data_dir = self.config.data_dir.clone();
        let room = tokio::task::spawn_blocking(move || Room::of(&data_dir)).await;
        match room {
            Ok(Ok(room)) if room.free < self.config.min_free_bytes.saturating_add(bytes) => {
                Err(Problem::new(Code::OutOfDisk, "The server's disk is almost full.")
                    .hint("Free space with platform_cleanup."))
            }
            _ => Ok(()),
        }
    }
}

/// What there is for one object.
fn answer(operation: Operation, asked: Object, there: Option<u64>, base: &str, most: u64) -> Answered {
    let Object { oid, size } = asked;
    let action = |end: &str| Some(Action { href: format!("{base}/objects/{oid}{end}"), header: None });
    let fault = |code, message: String| (None, Some(Fault { code, message }));
    let (actions, error) = match (operation, there) {
        (Operation::Download, Some(_)) => {
            (Some(Actions { download: action(""), ..Actions::default() }), None)
        }
        (Operation::Download, None) => {
            fault(404, "It was not pushed here: git lfs push --all <remote>".into())
        }
        (Operation::Upload, Some(known)) if known == size => (None, None),
        (Operation::Upload, Some(known)) => fault(422, format!("It is here already, with {known} bytes.")),
        (Operation::Upload, None) if size > most => fault(422, too_large(most).detail),
        (Operation::Upload, None) => {
            (Some(Actions { upload: action(""), verify: action("/verify"), download: None }), None)
        }
    };
    Answered { oid, size, authenticated: false, actions, error }
}

fn too_large(most: u64) -> Problem {
    Problem::new(Code::TooLarge, format!("An object in Git LFS may have {} MiB here.", most >> 20))
        .hint("Raise upload_max_mb in the daemon's configuration.")
}

fn cannot(error: &io::Error) -> Problem {
    io_problem("keeping an object of Git LFS", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_what_to_do_with_each_object() {
        let object = || Object { oid: Oid::of(&[7; 32]), size: 5 };
        let base = "https://berth.example/git/web.git/info/lfs";
        let ask = |operation, there| answer(operation, object(), there, base, 9);
        let href = |action: Option<Action>| action.unwrap().href;
        let to_get = ask(Operation::Download, Some(5)).actions.unwrap();
        assert_eq!(href(to_get.download), format!("{base}/objects/{}", "07".repeat(32)));
        assert_eq!(ask(Operation::Download, None).error.unwrap().code, 404);
        let to_put = ask(Operation::Upload, None).actions.unwrap();
        assert!(href(to_put.upload).ends_with("0707") && href(to_put.verify).ends_with("0707/verify"));
        let there = ask(Operation::Upload, Some(5));
        assert!(there.actions.is_none() && there.error.is_none(), "nothing to be done");
        assert_eq!(ask(Operation::Upload, Some(6)).error.unwrap().code, 422);
        let large = answer(Operation::Upload, object(), None, base, 4);
        assert!(large.error.unwrap().message.contains("MiB"));
    }
}
