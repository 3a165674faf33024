//! Which POSTs this container has seen, told line by line to whoever connects.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::App;

/// Ids in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    ids: Mutex<Vec<String>>,
    changes: watch::Sender<Change>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Change {
    ids: usize,
    closed: bool,
}

impl Ledger {
    pub(crate) fn seen(&self, id: &str) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.push(id.to_owned());
        self.changes.send_modify(|change| change.ids = ids.len());
    }

    /// Nothing more will be seen.
    pub(crate) fn close(&self) {
        self.changes.send_modify(|change| change.closed = true);
    }

    fn lines(&self, from: usize) -> String {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.get(from..).unwrap_or_default().iter().flat_map(|id| [id.as_str(), "\n"]).collect()
    }
}

/// Tells everyone who connects, until the ledger is closed and all have heard it.
pub(crate) async fn serve(listener: TcpListener, app: Arc<App>) {
    let mut changes = app.ledger.changes.subscribe();
    let mut listeners = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                listeners.spawn(tell(stream, Arc::clone(&app)));
            },
            _ = changes.wait_for(|change| change.closed) => break,
        }
    }
    listeners.join_all().await;
}

async fn tell(mut stream: TcpStream, app: Arc<App>) {
    let mut changes = app.ledger.changes.subscribe();
    let mut told = 0;
    loop {
        let now = *changes.borrow_and_update();
        if now.ids > told {
            let lines = app.ledger.lines(told);
            told += lines.lines().count();
            if stream.write_all(lines.as_bytes()).await.is_err() {
                return;
            }
        } else if now.closed || changes.changed().await.is_err() {
            break;
        }
    }
    // The other side closes once it has everything; before that, ending could take the last lines along.
    let _ = stream.shutdown().await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}
