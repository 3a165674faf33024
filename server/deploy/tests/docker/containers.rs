//! Containers, networks, logs and events through the adapter.

use std::time::{Duration, Instant};

use berth_deploy::docker::*;
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::support::World;

const SOON: Duration = Duration::from_secs(20);

fn not_found(error: &EngineError) -> bool {
    matches!(error, EngineError::NotFound { .. })
}

#[tokio::test]
async fn the_engine_tells_its_version_and_space() {
    let Some(world) = World::start().await else { return };
    let info = world.docker.info().await.unwrap();
    assert!(!info.version.is_empty() && info.api_version.starts_with("1."), "{info:?}");
    assert!(info.cpus >= 1 && info.memory_bytes > 0);
    assert!(info.disk_free_bytes.unwrap() < info.disk_total_bytes.unwrap());
    // Keeping all of the cache is the one prune that may run beside other people's builds.
    assert_eq!(world.docker.prune_build_cache(&[]).await.unwrap(), 0);
    world.clean().await;
}

#[tokio::test]
async fn a_container_lives_and_ends_as_told() {
    let Some(world) = World::start().await else { return };
    let docker = &world.docker;
    let workload = Workload {
        project: "default".into(),
        app: "web".into(),
        environment: "production".into(),
        release: "r1".into(),
        deployment: 7,
        replica: 0,
    };
    let image = world.app_image().await;
    let mut spec = world.spec("web", &image, &[("PORT", "3000")]);
    spec.labels = workload.labels();
    let id = world.run_spec(spec).await;

    let state = docker.inspect_container(&id).await.unwrap();
    assert!(state.running && state.pid.is_some() && state.exit_code.is_none(), "{state:?}");
    assert_eq!(Workload::from_labels(&state.labels), Some(workload));
    assert!(state.addresses.contains_key(&world.network));
    let listed = docker.list_containers().await.unwrap();
    assert_eq!((listed.len(), listed[0].phase), (1, ContainerPhase::Running));

    docker.set_restart_policy(&id, RestartPolicy::UnlessStopped).await.unwrap();
    let begun = Instant::now();
    docker.stop_container(&id, Duration::from_secs(10)).await.unwrap();
    println!("measured: stop took {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5), "the init passes the signal on");
    let exit = timeout(SOON, docker.wait_exit(&id)).await.unwrap().unwrap();
    assert_eq!((exit.code, exit.oom_killed), (143, false));
    docker.stop_container(&id, Duration::from_secs(1)).await.unwrap();

    // A stopped release starts again: that is the rollback.
    let begun = Instant::now();
    docker.start_container(&id).await.unwrap();
    println!("measured: restart of a stopped container took {:?}", begun.elapsed());
    assert!(docker.inspect_container(&id).await.unwrap().running);
    docker.start_container(&id).await.unwrap();
    docker.rename_container(&id, &format!("berth-{}-renamed", world.instance.short())).await.unwrap();
    assert!(docker.inspect_container(&id).await.unwrap().name.ends_with("-renamed"));
    assert!(docker.remove_container(&id).await.unwrap());
    assert!(!docker.remove_container(&id).await.unwrap());
    assert!(not_found(&docker.inspect_container(&id).await.unwrap_err()));
    world.clean().await;
}

#[tokio::test]
async fn the_process_has_only_the_rights_it_needs() {
    let Some(world) = World::start().await else { return };
    let id = world.run("web", &[]).await;
    let pid = world.docker.inspect_container(&id).await.unwrap().pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("NoNewPrivs:"), "1");
    // CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, NET_BIND_SERVICE by their bits.
    let expected = [0, 1, 3, 5, 6, 7, 10].iter().fold(0_u64, |mask, bit| mask | 1 << bit);
    assert_eq!(u64::from_str_radix(&field("CapBnd:"), 16).unwrap(), expected);

    let raw = bollard::Docker::connect_with_socket_defaults().unwrap().negotiate_version().await.unwrap();
    let found = raw
        .inspect_container(id.as_str(), None::<bollard::query_parameters::InspectContainerOptions>)
        .await
        .unwrap();
    let host = found.host_config.unwrap();
    assert_eq!((host.memory, host.pids_limit, host.init), (Some(64 << 20), Some(512), Some(true)));
    assert_eq!(host.port_bindings.unwrap_or_default().len(), 0);
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.log_config.unwrap().config.unwrap()["max-size"], "10m");
    world.clean().await;
}

#[tokio::test]
async fn instances_do_not_see_each_other() {
    let (Some(mine), Some(other)) = (World::start().await, World::start().await) else { return };
    let id = mine.run("web", &[]).await;
    let image = mine.app_image().await;

    assert!(other.docker.list_containers().await.unwrap().is_empty());
    assert!(not_found(&other.docker.inspect_container(&id).await.unwrap_err()));
    assert!(!other.docker.remove_container(&id).await.unwrap());
    let refused = other.docker.remove_network(&mine.network).await.unwrap_err();
    assert!(matches!(refused, EngineError::NotOurs { .. }), "{refused:?}");
    let refused = other.docker.ensure_network(&mine.network, Labels::new()).await.unwrap_err();
    assert!(matches!(refused, EngineError::NotOurs { .. }), "{refused:?}");
    for name in [image.as_str(), &mine.instance.image_tag("app", 1), "node:22-slim"] {
        let refused = other.docker.remove_image(name).await.unwrap_err();
        assert!(matches!(refused, EngineError::NotOurs { .. }), "{name}: {refused:?}");
    }
    assert!(mine.docker.inspect_container(&id).await.unwrap().running);
    other.clean().await;
    mine.clean().await;
}

#[tokio::test]
async fn nobody_touches_a_container_of_another_instance() {
    let (Some(mine), Some(other)) = (World::start().await, World::start().await) else { return };
    let id = mine.run("web", &[]).await;
    let docker = &other.docker;
    assert!(not_found(&docker.stop_container(&id, Duration::ZERO).await.unwrap_err()));
    assert!(not_found(&docker.kill_container(&id, "SIGKILL").await.unwrap_err()));
    assert!(not_found(&docker.start_container(&id).await.unwrap_err()));
    assert!(not_found(&docker.rename_container(&id, "berth-stolen").await.unwrap_err()));
    assert!(not_found(&docker.set_restart_policy(&id, RestartPolicy::UnlessStopped).await.unwrap_err()));
    assert!(not_found(&docker.logs(&id, LogOptions::default()).next().await.unwrap().unwrap_err()));
    assert!(not_found(&docker.stats(&id).await.unwrap_err()));
    assert!(not_found(&docker.wait_exit(&id).await.unwrap_err()));
    other.clean().await;
    mine.clean().await;
}

#[tokio::test]
async fn output_comes_line_by_line_and_goes_on_where_it_stopped() {
    let Some(world) = World::start().await else { return };
    let id = world.run("web", &[("LONG_LINE", "1")]).await;
    let mut follow = world.docker.logs(&id, LogOptions { follow: true, ..Default::default() });
    let mut lines = Vec::new();
    // Two pipes: their lines come in no fixed order.
    let seen = |lines: &[LogLine], start: &str| lines.iter().any(|line| line.text.starts_with(start));
    while !seen(&lines, "listening on") || !seen(&lines, "this goes to stderr") {
        lines.push(timeout(SOON, follow.next()).await.unwrap().unwrap().unwrap());
    }
    assert!(lines.iter().any(|l| l.stream == OutputStream::Stderr && l.text == "this goes to stderr"));
    let long: Vec<_> = lines.iter().filter(|l| l.text.starts_with('x')).collect();
    assert_eq!(long.iter().map(|l| l.text.len()).sum::<usize>(), 40_000);
    assert!(
        long[0].partial && !long.last().unwrap().partial && long.iter().all(|l| l.text.len() <= 16 << 10)
    );
    assert!(lines.iter().all(|l| l.at_nanos > 0));

    let last = lines.iter().map(|line| line.at_nanos).max();
    let rest = world.docker.logs(&id, LogOptions { since_nanos: last, ..Default::default() });
    assert_eq!(rest.count().await, 0);
    let tail = world.docker.logs(&id, LogOptions { tail: Some(1), ..Default::default() });
    assert_eq!(tail.collect::<Vec<_>>().await.len(), 1);
    world.clean().await;
}

#[tokio::test]
async fn the_end_of_a_container_is_an_event_with_its_code() {
    let Some(world) = World::start().await else { return };
    let mut events = world.docker.events(Some(0));
    let id = world.run("web", &[("EXIT_CODE", "7"), ("DELAY_MS", "100")]).await;
    let mut kinds = Vec::new();
    while !matches!(kinds.last(), Some(EngineEventKind::Die { .. })) {
        let event = timeout(SOON, events.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(event.container, id);
        assert!(world.instance.owns(&event.labels));
        kinds.push(event.kind);
    }
    assert_eq!(
        kinds,
        [EngineEventKind::Create, EngineEventKind::Start, EngineEventKind::Die { exit_code: 7 }]
    );
    let state = world.docker.inspect_container(&id).await.unwrap();
    assert_eq!((state.running, state.exit_code), (false, Some(7)));
    assert!(state.finished_at >= state.started_at);
    world.clean().await;
}

#[tokio::test]
async fn use_is_measured() {
    let Some(world) = World::start().await else { return };
    let id = world.run("web", &[("EAT_MIB", "20")]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stats = world.docker.stats(&id).await.unwrap();
    assert!(stats.memory_bytes > 20 << 20 && stats.memory_limit_bytes == 64 << 20, "{stats:?}");
    assert!(stats.pids >= 1);
    let usage = world.docker.disk_usage().await.unwrap();
    assert_eq!((usage.images, usage.containers), (1, 1));
    assert!(usage.images_bytes > 100_000, "{usage:?}");
    world.clean().await;
}

#[tokio::test]
async fn what_cannot_be_created_says_why() {
    let Some(world) = World::start().await else { return };
    let docker = &world.docker;
    let missing = world.spec("web", "berth/none:0", &[]);
    let error = docker.create_container(missing).await.unwrap_err();
    assert!(matches!(&error, EngineError::NotFound { what } if what.contains("berth/none:0")), "{error:?}");

    let image = world.app_image().await;
    let id = world.run_spec(world.spec("twice", &image, &[])).await;
    let error = docker.create_container(world.spec("twice", &image, &[])).await.unwrap_err();
    assert!(matches!(error, EngineError::Conflict { .. }), "{error:?}");
    let error = docker.remove_image(&image).await.unwrap_err();
    assert!(matches!(error, EngineError::Conflict { .. }), "an image in use stays: {error:?}");
    let error = docker.remove_network(&world.network).await.unwrap_err();
    assert!(matches!(error, EngineError::Conflict { .. }), "a network in use stays: {error:?}");

    let mut wrong = world.spec("wrong", &image, &[]);
    wrong.command = Some(vec!["/no/such/program".into()]);
    let wrong = docker.create_container(wrong).await.unwrap();
    let started = docker.start_container(&wrong).await;
    let exit = docker.wait_exit(&wrong).await.unwrap();
    assert!(started.is_err() || exit.code != 0, "{started:?} {exit:?}");
    docker.remove_container(&id).await.unwrap();
    world.clean().await;
}

#[tokio::test]
async fn a_pull_that_cannot_be_is_typed() {
    let Some(world) = World::start().await else { return };
    let (sink, _events) = tokio::sync::mpsc::channel(8);
    let image = ImageRef::parse("127.0.0.1:9/nobody/nothing:1").unwrap();
    let error = world.docker.pull(&image, None, sink, Default::default()).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::RegistryUnreachable { image, .. } if image.contains("nothing:1")),
        "{error:?}"
    );
    world.clean().await;
}

#[tokio::test]
async fn a_container_that_crashes_again_and_again_is_seen_doing_so() {
    let Some(world) = World::start().await else { return };
    let image = world.app_image().await;
    let mut spec = world.spec("web", &image, &[("EXIT_CODE", "1")]);
    spec.restart = RestartPolicy::UnlessStopped;
    let mut events = world.docker.events(Some(0));
    let id = world.run_spec(spec).await;
    let mut deaths = 0;
    while deaths < 3 {
        let event = timeout(SOON, events.next()).await.unwrap().unwrap().unwrap();
        deaths += u32::from(event.kind == EngineEventKind::Die { exit_code: 1 });
    }
    let state = world.docker.inspect_container(&id).await.unwrap();
    assert!(state.restart_count >= 2 && (state.running || state.restarting), "{state:?}");
    world.docker.stop_container(&id, Duration::from_secs(5)).await.unwrap();
    let state = world.docker.inspect_container(&id).await.unwrap();
    assert!(!state.running && !state.restarting, "{state:?}");
    world.clean().await;
}
