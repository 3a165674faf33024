//! The engine going away and coming back, by way of a relay that can be cut.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_deploy::docker::*;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::build::{assert_gone, sleeping_build};
use crate::support::World;

const ENGINE: &str = "/var/run/docker.sock";

/// Relays connections to the engine until dropped, which cuts them all.
fn relay(socket: PathBuf) -> AbortOnDropHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut engine = UnixStream::connect(ENGINE).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
            });
        }
    }))
}

#[tokio::test]
async fn a_build_whose_engine_goes_away_says_so_and_the_next_call_finds_it_again() {
    let Some(mut world) = World::start().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let host = Some(format!("unix://{}", socket.display()));
    world.docker = Arc::new(Docker::connect(DockerConfig { host, instance: world.instance }));
    let error = world.docker.ping().await.unwrap_err();
    assert!(
        matches!(error, EngineError::Unavailable { why: Unavailability::SocketMissing, .. }),
        "{error:?}"
    );

    let running_relay = relay(socket.clone());
    world.docker.ping().await.unwrap();
    let mut events = world.docker.events(None);
    let (marker, _cancel, running) = sleeping_build(&world, Duration::from_secs(600)).await;
    drop(running_relay);
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("systemctl start docker"), "{error:?}");
    let ended = futures_util::StreamExt::next(&mut events).await.unwrap();
    assert!(matches!(ended, Err(EngineError::Unavailable { .. })), "{ended:?}");
    // A build whose client is gone is no use to anybody.
    assert_gone(&marker, Duration::from_secs(8)).await;

    std::fs::remove_file(&socket).unwrap();
    let _relay = relay(socket);
    world.docker.list_containers().await.unwrap();
    world.clean().await;
}

#[tokio::test]
async fn an_engine_behind_tcp_works_but_its_processes_are_not_looked_at() {
    let Some(mut world) = World::start().await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = Some(format!("tcp://{}", listener.local_addr().unwrap()));
    let _relay = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut engine = UnixStream::connect(ENGINE).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
            });
        }
    }));
    world.docker = Arc::new(Docker::connect(DockerConfig { host, instance: world.instance }));
    let id = world.run("web", &[]).await;
    assert!(world.docker.inspect_container(&id).await.unwrap().running);
    assert!(world.docker.listening(&id).await.unwrap().is_empty());
    assert_eq!(world.docker.info().await.unwrap().disk_free_bytes, None);
    world.clean().await;
}
