//! Objects of Git LFS of an app's repository: files below `lfs/` of it, named by their SHA-256. What stands under its
//! name is whole and safe on disk.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs,
    io::{AsyncWriteExt as _, BufWriter},
};

use super::{Repository, lfs_objects};
use crate::source::lfs::Oid;

/// Longest silence while an object comes.
const STALL: Duration = Duration::from_secs(60);

/// Why an object was not kept.
#[derive(Debug)]
pub(crate) enum NotKept {
    /// It is larger than allowed.
    TooLarge,
    /// It is not what its name says.
    Other,
    /// It broke off, or nothing came any more.
    BrokeOff(io::Error),
    /// The disk.
    Disk(io::Error),
}

/// A file that is removed unless it is kept.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Once it is kept there is nothing under this name.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Repository {
    fn lfs_object(&self, oid: &Oid) -> PathBuf {
        lfs_objects(&self.dir).join(oid.place().iter().collect::<PathBuf>())
    }

    fn lfs_incoming(&self) -> PathBuf {
        self.dir.join("lfs").join("incoming")
    }

    /// The size of an object, if it is there.
    pub(crate) async fn lfs_size(&self, oid: &Oid) -> io::Result<Option<u64>> {
        match fs::metadata(self.lfs_object(oid)).await {
            Ok(about) => Ok(Some(about.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An object, if it is there, with its size.
    pub(crate) async fn lfs_open(&self, oid: &Oid) -> io::Result<Option<(fs::File, u64)>> {
        match fs::File::open(self.lfs_object(oid)).await {
            Ok(file) => {
                let size = file.metadata().await?.len();
                Ok(Some((file, size)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes in an object of at most `most` bytes. It is safe on disk when this returns.
    pub(crate) async fn lfs_keep(
        &self,
        oid: &Oid,
        mut body: impl Stream<Item = io::Result<Bytes>> + Unpin,
        most: u64,
    ) -> Result<(), NotKept> {
        let aside = self.lfs_incoming();
        fs::create_dir_all(&aside).await.map_err(NotKept::Disk)?;
        let partial = Partial(aside.join(uuid::Uuid::new_v4().to_string()));
        let file = fs::File::create_new(&partial.0).await.map_err(NotKept::Disk)?;
        let mut file = BufWriter::with_capacity(256 << 10, file);
        let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
        loop {
            let next = tokio::time::timeout(STALL, body.next()).await;
            let next = next.map_err(|_| NotKept::BrokeOff(io::ErrorKind::TimedOut.into()))?;
            let Some(chunk) = next else { break };
            let chunk = chunk.map_err(NotKept::BrokeOff)?;
            bytes = bytes.saturating_add(chunk.len() as u64);
            if bytes > most {
                return Err(NotKept::TooLarge);
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(NotKept::Disk)?;
        }
        if Oid::of(&hash.finalize().into()) != *oid {
            return Err(NotKept::Other);
        }
        file.flush().await.map_err(NotKept::Disk)?;
        file.get_ref().sync_all().await.map_err(NotKept::Disk)?;
        let place = self.lfs_object(oid);
        let store = || async {
            let folder = place.parent().ok_or(io::ErrorKind::InvalidInput)?;
            fs::create_dir_all(folder).await?;
            fs::rename(&partial.0, &place).await?;
            // A name is only safe when its folder is, and that of its folder.
            for folder in folder.ancestors().take(4) {
                fs::File::open(folder).await?.sync_all().await?;
            }
            Ok(())
        };
        store().await.map_err(NotKept::Disk)
    }

    /// Removes what the last run left half written. Nobody may be writing.
    pub(crate) async fn clear_lfs(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.lfs_incoming()).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pieces: Vec<io::Result<Bytes>>) -> impl Stream<Item = io::Result<Bytes>> + Unpin {
        futures_util::stream::iter(pieces)
    }

    #[tokio::test]
    async fn an_object_is_kept_only_if_it_is_what_its_name_says() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository { dir: dir.path().to_owned() };
        let oid = Oid::of(&Sha256::digest(b"content").into());
        let piece = |text: &'static str| Ok(Bytes::from_static(text.as_bytes()));
        let other = repository.lfs_keep(&oid, stream(vec![piece("other")]), 100).await;
        assert!(matches!(other, Err(NotKept::Other)));
        let large = repository.lfs_keep(&oid, stream(vec![piece("cont"), piece("ent")]), 6).await;
        assert!(matches!(large, Err(NotKept::TooLarge)));
        let cut = vec![piece("cont"), Err(io::ErrorKind::UnexpectedEof.into())];
        assert!(matches!(repository.lfs_keep(&oid, stream(cut), 100).await, Err(NotKept::BrokeOff(_))));
        assert_eq!(repository.lfs_size(&oid).await.unwrap(), None);
        assert!(repository.lfs_open(&oid).await.unwrap().is_none());
        assert_eq!(std::fs::read_dir(repository.lfs_incoming()).unwrap().count(), 0, "nothing is left");
        // Twice is as good as once.
        for _ in 0..2 {
            repository.lfs_keep(&oid, stream(vec![piece("cont"), piece("ent")]), 7).await.unwrap();
        }
        assert_eq!(repository.lfs_size(&oid).await.unwrap(), Some(7));
        let (_, size) = repository.lfs_open(&oid).await.unwrap().unwrap();
        assert_eq!(size, 7);
        std::fs::write(repository.lfs_incoming().join("left"), "x").unwrap();
        repository.clear_lfs().await.unwrap();
        assert!(!repository.lfs_incoming().exists());
        repository.clear_lfs().await.unwrap();
    }
}
