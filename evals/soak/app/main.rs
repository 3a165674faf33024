//! The app that the soak deploys: every kind of answer that a switch can break.
//!
//! It closes a connection that has been idle for one second, ends at once on SIGTERM as if it were killed, and tells
//! the load which POSTs it has seen.

mod answers;
mod ledger;
#[path = "../wire.rs"]
mod wire;

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use self::ledger::Ledger;

/// For how long an idle connection stays open.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// What every answer needs to know.
#[derive(Debug)]
struct App {
    /// Version and container.
    release: String,
    /// Port of the ledger.
    ledger_port: u16,
    ledger: Ledger,
}

/// Since when a connection has had nothing to do; none while it has.
#[derive(Debug)]
struct Idle(Mutex<Option<Instant>>);

impl Idle {
    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// When the connection has been idle for long enough, as things are now.
    fn ends(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since + KEEP_ALIVE)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let port = std::env::var("PORT").map_or(Ok(8080), |port| port.parse()).context("PORT")?;
    let version = std::env::var("SOAK_VERSION").context("SOAK_VERSION is not set")?;
    let container = std::env::var("HOSTNAME").unwrap_or_else(|_| std::process::id().to_string());
    let ledger_listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let app = Arc::new(App {
        release: format!("{version}/{container}"),
        ledger_port: ledger_listener.local_addr()?.port(),
        ledger: Ledger::default(),
    });
    let telling = tokio::spawn(ledger::serve(ledger_listener, Arc::clone(&app)));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    let mut stop = signal(SignalKind::terminate())?;
    let mut visitors = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                visitors.spawn(connection(stream, Arc::clone(&app)));
            }
            _ = visitors.join_next(), if !visitors.is_empty() => {}
            _ = stop.recv() => break,
        }
    }
    // To its visitors this is the end. The ledger alone gets a moment, so that nothing seen goes untold.
    drop(listener);
    drop(visitors);
    app.ledger.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), telling).await;
    Ok(())
}

async fn connection(stream: TcpStream, app: Arc<App>) {
    let Ok(own) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
    let idle = Arc::new(Idle(Mutex::new(Some(Instant::now()))));
    let ledger = SocketAddr::new(own.ip(), app.ledger_port);
    let service = service_fn(|request: Request<Incoming>| {
        idle.set(None);
        let (app, idle) = (Arc::clone(&app), Arc::clone(&idle));
        async move { Ok::<_, Infallible>(answers::answer(request, &app, ledger, idle)) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(serving);
    loop {
        let ends = idle.ends();
        let wait = ends.map_or(KEEP_ALIVE / 20, |ends| ends.saturating_duration_since(Instant::now()));
        tokio::select! {
            _ = serving.as_mut() => return,
            () = tokio::time::sleep(wait) => {
                if ends.is_some() && ends == idle.ends() {
                    serving.as_mut().graceful_shutdown();
                    let _ = serving.as_mut().await;
                    return;
                }
            }
        }
    }
}
