//! Which POSTs the app's containers have seen, as they tell it themselves: each at most once, over all of them.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
};

/// How many ids are named of each sort.
const MOST_NAMED: usize = 10;

/// Listens to the ledger of each container that answers.
#[derive(Debug, Default)]
pub(crate) struct Ledgers {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Containers that are listened to, and whether their ledger could be reached.
    known: HashMap<String, bool>,
    /// How often an id was seen, over all containers.
    seen: HashMap<String, u32>,
    /// Ids of POSTs that were answered.
    answered: HashSet<String>,
}

/// What the ledgers say.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Account {
    pub(crate) containers: usize,
    /// Containers whose ledger could not be reached: what they saw is not known.
    pub(crate) unheard: usize,
    pub(crate) posts: usize,
    /// POSTs that apps saw more than once.
    pub(crate) twice: usize,
    /// POSTs that were answered and that no app says it saw: the account itself is wrong then.
    pub(crate) unaccounted: usize,
    pub(crate) examples: Vec<String>,
}

impl Ledgers {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container answered; its ledger is listened to from now on, and from its beginning.
    pub(crate) fn met(self: &Arc<Self>, release: &str, ledger: &str) {
        let mut inner = self.inner();
        if inner.known.contains_key(release) {
            return;
        }
        let Ok(addr) = ledger.parse::<SocketAddr>() else { return };
        inner.known.insert(release.to_owned(), false);
        drop(inner);
        let (ledgers, release) = (Arc::clone(self), release.to_owned());
        tokio::spawn(async move { ledgers.listen(addr, release).await });
    }

    async fn listen(&self, addr: SocketAddr, release: String) {
        let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(addr)).await
        else {
            return;
        };
        self.inner().known.insert(release, true);
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(id)) = lines.next_line().await {
            *self.inner().seen.entry(id).or_default() += 1;
        }
    }

    /// A POST was answered well.
    pub(crate) fn answered(&self, id: &str) {
        self.inner().answered.insert(id.to_owned());
    }

    pub(crate) fn account(&self) -> Account {
        let inner = self.inner();
        let twice: Vec<&String> = inner.seen.iter().filter(|(_, n)| **n > 1).map(|(id, _)| id).collect();
        let lost: Vec<&String> = inner.answered.iter().filter(|id| !inner.seen.contains_key(*id)).collect();
        let named = |ids: &[&String], what: &str| -> Vec<String> {
            ids.iter().take(MOST_NAMED).map(|id| format!("{id} {what}")).collect()
        };
        Account {
            containers: inner.known.len(),
            unheard: inner.known.values().filter(|heard| !**heard).count(),
            posts: inner.seen.len(),
            twice: twice.len(),
            unaccounted: lost.len(),
            examples: [named(&twice, "seen more than once"), named(&lost, "answered, seen by none")].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_post_that_two_containers_saw_is_told() {
        let ledgers = Arc::new(Ledgers::default());
        for (release, ids) in [("a/1", "x\ny\n"), ("b/2", "y\nz\n")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            ledgers.met(release, &listener.local_addr().unwrap().to_string());
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(ids.as_bytes()).await.unwrap();
        }
        for id in ["x", "y", "lost"] {
            ledgers.answered(id);
        }
        for _ in 0..200 {
            if ledgers.account().posts == 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let account = ledgers.account();
        assert_eq!((account.containers, account.posts, account.twice, account.unaccounted), (2, 3, 1, 1));
        assert_eq!(account.examples, ["y seen more than once", "lost answered, seen by none"]);
    }
}
