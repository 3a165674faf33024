//! Health checks against real containers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_deploy::docker::*;
use berth_deploy::probe::*;
use tokio_util::sync::CancellationToken;

use crate::support::World;

fn policy(port: u16, total: Duration) -> HealthPolicy {
    HealthPolicy { total, ..HealthPolicy::of_port(port) }
}

async fn check(world: &World, id: &ContainerId, policy: &HealthPolicy) -> Result<Healthy, HealthFailure> {
    let engine: Arc<dyn Engine> = world.docker.clone();
    // A container that ended already has no address; then the check is about its end.
    let addr = engine.address(id, policy.port).await.unwrap_or_else(|_| ([127, 0, 0, 1], 9).into());
    let replica = EngineReplica { engine, id: id.clone() };
    wait_healthy(policy, addr, &replica, &CancellationToken::new()).await
}

#[tokio::test]
async fn from_create_to_healthy_is_quick() {
    let Some(world) = World::start().await else { return };
    let image = world.app_image().await;
    world.docker.ensure_network(&world.network, Labels::new()).await.unwrap();
    let mut times = Vec::new();
    for i in 0..5 {
        let begun = Instant::now();
        let id = world.docker.create_container(world.spec(&format!("web-{i}"), &image, &[])).await.unwrap();
        let created = begun.elapsed();
        world.docker.start_container(&id).await.unwrap();
        let started = begun.elapsed();
        let healthy = check(&world, &id, &policy(3000, Duration::from_secs(20))).await.unwrap();
        let ready = begun.elapsed();
        let stopping = Instant::now();
        world.docker.stop_container(&id, Duration::from_secs(10)).await.unwrap();
        let stopped = stopping.elapsed();
        let again = Instant::now();
        world.docker.start_container(&id).await.unwrap();
        check(&world, &id, &policy(3000, Duration::from_secs(20))).await.unwrap();
        println!(
            "measured: created {created:?}, started {started:?}, healthy {ready:?} ({} attempts), stop {stopped:?}, \
             rollback (start + healthy) {:?}",
            healthy.attempts,
            again.elapsed()
        );
        times.push(ready);
        world.docker.remove_container(&id).await.unwrap();
    }
    times.sort();
    // Generous: other tests share the machine.
    assert!(times[0] < Duration::from_secs(2), "{times:?}");
    world.clean().await;
}

#[tokio::test]
async fn a_container_that_exits_fails_the_check_at_once() {
    let Some(world) = World::start().await else { return };
    let id = world.run("web", &[("EXIT_CODE", "3"), ("DELAY_MS", "300")]).await;
    let failure = check(&world, &id, &policy(3000, Duration::from_secs(60))).await.unwrap_err();
    assert!(matches!(failure.kind, HealthFailureKind::Exited { code: 3, oom: false, .. }), "{failure:?}");
    assert!(failure.waited < Duration::from_secs(5));
    world.clean().await;
}

#[tokio::test]
async fn a_container_out_of_memory_is_called_that() {
    let Some(world) = World::start().await else { return };
    let id = world.run("web", &[("EAT_MIB", "200"), ("DELAY_MS", "100")]).await;
    let failure = check(&world, &id, &policy(3000, Duration::from_secs(60))).await.unwrap_err();
    assert!(matches!(failure.kind, HealthFailureKind::Exited { oom: true, .. }), "{failure:?}");
    world.clean().await;
}

#[tokio::test]
async fn an_app_on_loopback_or_on_another_port_is_told_so() {
    let Some(world) = World::start().await else { return };
    let image = world.app_image().await;
    let inward = world.run_spec(world.spec("inward", &image, &[("BIND", "127.0.0.1")])).await;
    let failure = check(&world, &inward, &policy(3000, Duration::from_secs(1))).await.unwrap_err();
    let hint = failure.kind.hint().unwrap();
    assert_eq!(failure.kind.code(), "port_never_opened");
    assert!(hint.contains("127.0.0.1:3000 only") && hint.contains("0.0.0.0:3000"), "{hint}");

    let elsewhere = world.run_spec(world.spec("elsewhere", &image, &[("PORT", "8000")])).await;
    let failure = check(&world, &elsewhere, &policy(3000, Duration::from_secs(1))).await.unwrap_err();
    let hint = failure.kind.hint().unwrap();
    assert!(hint.contains("set the app's port to 8000"), "{hint}");
    assert_eq!(
        world.docker.listening(&elsewhere).await.unwrap().len(),
        1,
        "Docker's own listener is not shown"
    );
    world.clean().await;
}

#[tokio::test]
async fn a_bad_answer_is_kept() {
    let Some(world) = World::start().await else { return };
    let id = world.run("web", &[]).await;
    let mut strict = policy(3000, Duration::from_secs(1));
    strict.path = Some("/boom".into());
    let failure = check(&world, &id, &strict).await.unwrap_err();
    let body_head = "the database is down".to_owned();
    assert_eq!(failure.kind, HealthFailureKind::BadStatus { code: 500, body_head });
    world.clean().await;
}

#[tokio::test]
async fn a_node_app_becomes_healthy_on_its_port() {
    let Some(world) = World::start().await else { return };
    let script = "require('http').createServer((q, s) => s.end('hi')).listen(process.env.PORT, () => console.log('up'))";
    let mut spec = world.spec("node", "node:22-slim", &[("PORT", "8080")]);
    spec.command = Some(vec!["node".into(), "-e".into(), script.into()]);
    spec.limits.memory_bytes = 256 << 20;
    let id = world.run_spec(spec).await;
    let healthy = check(&world, &id, &policy(8080, Duration::from_secs(30))).await.unwrap();
    println!("measured: node healthy after {:?}, {} attempts", healthy.waited, healthy.attempts);
    let begun = Instant::now();
    world.docker.stop_container(&id, Duration::from_secs(10)).await.unwrap();
    println!("measured: node stopped after {:?}", begun.elapsed());
    world.clean().await;
}
