//! BuildKit through the adapter: images, progress, failures, secrets, and builds that are really stopped.

use std::time::{Duration, Instant};

use berth_deploy::docker::*;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::support::{World, context, logged};

fn dockerfile(text: &str) -> ContextStream {
    context(&[("Dockerfile", text.as_bytes())])
}

#[tokio::test]
async fn a_build_gives_an_image_with_our_labels_and_tells_its_steps() {
    let Some(world) = World::start().await else { return };
    let tag = world.instance.image_tag("web", 1);
    let text = "FROM node:22-slim\nARG GREETING\nEXPOSE 8080/tcp 53/udp 3000\n\
                RUN echo \"$GREETING out\" && echo err >&2\nUSER node\n";
    let mut request = BuildRequest::new(&tag, dockerfile(text));
    request.args.insert("GREETING".into(), "hello".into());
    request.labels.insert("berth.app".into(), "web".into());
    request.no_cache = true;
    let (built, events) = world.build(request).await;
    let built = built.unwrap();
    assert_eq!(built.exposed_ports, [3000, 8080]);
    assert!(built.size_bytes > 10 << 20, "{}", built.size_bytes);

    let image = world.docker.inspect_image(&tag).await.unwrap().unwrap();
    assert_eq!(image.id, built.image_id);
    assert!(world.instance.owns(&image.labels));
    assert_eq!(image.labels["berth.app"], "web");
    assert_eq!(image.user, "node");
    assert_eq!(world.docker.list_images().await.unwrap().len(), 1);

    assert!(logged(&events).contains(&"hello out"), "{events:#?}");
    let run: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            BuildEvent::Step { name, state, duration, .. } if name.contains("RUN echo") => {
                Some((state, duration))
            }
            _ => None,
        })
        .collect();
    assert!(matches!(run[..], [(StepState::Started, None), (StepState::Done, Some(_))]), "{run:?}");
    world.clean().await;
}

#[tokio::test]
async fn the_same_build_again_comes_from_the_cache() {
    let Some(world) = World::start().await else { return };
    let text = format!("FROM node:22-slim\nRUN echo {}\n", world.instance);
    for number in 1..=2 {
        let tag = world.instance.image_tag("web", number);
        let (built, events) = world.build(BuildRequest::new(&tag, dockerfile(&text))).await;
        built.unwrap();
        let cached = events
            .iter()
            .any(|e| matches!(e, BuildEvent::Step { name, state: StepState::Cached, .. } if name.contains("RUN echo")));
        assert_eq!(cached, number == 2);
    }
    world.clean().await;
}

#[tokio::test]
async fn a_failing_step_is_named_with_its_code_and_last_lines() {
    let Some(world) = World::start().await else { return };
    let text = "FROM node:22-slim\nRUN echo before; echo the reason >&2; exit 3\n";
    let tag = world.instance.image_tag("web", 1);
    let (built, events) = world.build(BuildRequest::new(&tag, dockerfile(text))).await;
    let EngineError::BuildFailed { step, exit_code, tail, .. } = built.unwrap_err() else {
        panic!("{events:#?}")
    };
    assert_eq!(exit_code, Some(3));
    assert!(step.unwrap().starts_with("[2/2] RUN echo before"));
    // Two streams, two pipes: which line comes first is not fixed.
    assert!(tail.contains(&"the reason".to_owned()) && tail.contains(&"before".to_owned()), "{tail:?}");
    world.clean().await;
}

#[tokio::test]
async fn a_wrong_dockerfile_and_a_missing_base_image_are_told_apart() {
    let Some(world) = World::start().await else { return };
    let tag = world.instance.image_tag("web", 1);
    let wrong = "FROM node:22-slim\nWORKDIR /x\nRUNN echo\n";
    let (built, _) = world.build(BuildRequest::new(&tag, dockerfile(wrong))).await;
    let error = built.unwrap_err();
    assert!(matches!(error, EngineError::DockerfileInvalid { line: Some(3), .. }), "{error:?}");

    let (built, _) = world.build(BuildRequest::new(&tag, context(&[("README", b"x")]))).await;
    let error = built.unwrap_err();
    assert!(matches!(error, EngineError::DockerfileInvalid { .. }), "{error:?}");

    let missing = "FROM berth-test/no-such-image:9\nRUN echo\n";
    let (built, events) = world.build(BuildRequest::new(&tag, dockerfile(missing))).await;
    let error = built.unwrap_err();
    match &error {
        EngineError::RegistryUnreachable { image, .. }
        | EngineError::ImageNotFound { image }
        | EngineError::PullDenied { image, .. } => assert!(image.contains("no-such-image:9"), "{error:?}"),
        other => panic!("{other:?}\n{events:#?}"),
    }
    world.clean().await;
}

#[tokio::test]
async fn a_secret_reaches_the_step_and_nothing_else() {
    let Some(world) = World::start().await else { return };
    let tag = world.instance.image_tag("web", 1);
    let text = "FROM node:22-slim\n\
                RUN --mount=type=secret,id=npm_token wc -c < /run/secrets/npm_token && \
                echo \"leak: $(cat /run/secrets/npm_token)\"\n";
    let value = format!("tok-{}", world.instance);
    let mut request = BuildRequest::new(&tag, dockerfile(text));
    // A secret is no part of a step's cache key: another value alone would not run it again.
    request.no_cache = true;
    request.secrets = vec![BuildSecret { id: "npm_token".into(), value: value.clone().into_bytes() }];
    let (built, events) = world.build(request).await;
    built.unwrap_or_else(|error| panic!("{error}\n{events:#?}"));
    let lines = logged(&events);
    assert!(lines.contains(&value.len().to_string().as_str()), "the step did not see it: {lines:?}");
    assert!(lines.contains(&"leak: ***"), "{lines:?}");

    let raw = bollard::Docker::connect_with_socket_defaults().unwrap().negotiate_version().await.unwrap();
    let history = serde_json::to_string(&raw.image_history(&tag).await.unwrap()).unwrap();
    let image = serde_json::to_string(&raw.inspect_image(&tag).await.unwrap()).unwrap();
    assert!(history.contains("wc -c") && !history.contains(&value), "{history}");
    assert!(!image.contains(&value), "{image}");
    world.clean().await;
}

#[tokio::test]
async fn a_required_secret_that_is_missing_fails_the_build() {
    let Some(world) = World::start().await else { return };
    let tag = world.instance.image_tag("web", 1);
    let text = "FROM node:22-slim\nRUN --mount=type=secret,id=absent,required cat /run/secrets/absent\n";
    let (built, _) = world.build(BuildRequest::new(&tag, dockerfile(text))).await;
    let error = built.unwrap_err();
    assert!(matches!(error, EngineError::BuildFailed { .. }), "{error:?}");
    assert!(error.to_string().contains("absent"), "{error}");
    world.clean().await;
}

/// Pids of processes whose command line contains `marker`.
fn processes(marker: &str) -> Vec<u32> {
    let Ok(dir) = std::fs::read_dir("/proc") else { return Vec::new() };
    dir.filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(marker).then_some(pid)
    })
    .collect()
}

/// Starts a build that sleeps, waits until the sleep runs, and gives its marker and handles.
pub(crate) async fn sleeping_build(
    world: &World,
    limit: Duration,
) -> (String, CancellationToken, tokio::task::JoinHandle<Result<BuiltImage, EngineError>>) {
    let marker = format!(
        "300.{}",
        world.instance.short().bytes().map(u32::from).sum::<u32>() * 7919 + std::process::id()
    );
    let text = format!("FROM node:22-slim\nRUN sleep {marker}\n");
    let mut request = BuildRequest::new(world.instance.image_tag("web", 1), dockerfile(&text));
    request.limits.time = limit;
    let cancel = CancellationToken::new();
    let (sink, mut events) = mpsc::channel(64);
    let (docker, token) = (world.docker.clone(), cancel.clone());
    let running = tokio::spawn(async move { docker.build(request, sink, token).await });
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let marker = format!("sleep\0{marker}");
    let begun = Instant::now();
    while processes(&marker).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the build did not begin");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (marker, cancel, running)
}

pub(crate) async fn assert_gone(marker: &str, within: Duration) -> Duration {
    let begun = Instant::now();
    while !processes(marker).is_empty() {
        assert!(begun.elapsed() < within, "still running: {:?}", processes(marker));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

#[tokio::test]
async fn a_cancelled_build_stops_for_real() {
    let Some(world) = World::start().await else { return };
    let (marker, cancel, running) = sleeping_build(&world, Duration::from_secs(600)).await;
    let begun = Instant::now();
    cancel.cancel();
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, EngineError::Cancelled { .. }), "{error:?}");
    let returned = begun.elapsed();
    assert_gone(&marker, Duration::from_secs(5)).await;
    println!("measured: cancel returned after {returned:?}, process gone after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(8));
    world.clean().await;
}

#[tokio::test]
async fn a_build_over_its_time_limit_stops_for_real() {
    let Some(world) = World::start().await else { return };
    let (marker, _cancel, running) = sleeping_build(&world, Duration::from_secs(8)).await;
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, EngineError::TimedOut { .. }), "{error:?}");
    assert_gone(&marker, Duration::from_secs(5)).await;
    world.clean().await;
}

#[tokio::test]
async fn a_dropped_build_stops_too() {
    let Some(world) = World::start().await else { return };
    let (marker, _cancel, running) = sleeping_build(&world, Duration::from_secs(600)).await;
    running.abort();
    assert_gone(&marker, Duration::from_secs(8)).await;
    world.clean().await;
}

#[tokio::test]
async fn nothing_is_built_for_a_name_that_is_not_ours() {
    let Some(world) = World::start().await else { return };
    let (built, _) = world.build(BuildRequest::new("node:22-slim", dockerfile("FROM scratch\n"))).await;
    assert!(matches!(built, Err(EngineError::Invalid { .. })), "{built:?}");
    let mut request = BuildRequest::new(world.instance.image_tag("web", 1), dockerfile("FROM scratch\n"));
    request.dockerfile = "../Dockerfile".into();
    assert!(matches!(world.build(request).await.0, Err(EngineError::Invalid { .. })));
    world.clean().await;
}

#[tokio::test]
async fn a_context_of_many_megabytes_is_streamed() {
    let Some(world) = World::start().await else { return };
    let big: Vec<u8> = (0..48_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let text = b"FROM scratch\nCOPY big /big\n";
    let tag = world.instance.image_tag("web", 1);
    let (built, _) =
        world.build(BuildRequest::new(&tag, context(&[("Dockerfile", text), ("big", &big)]))).await;
    assert_eq!(built.unwrap().size_bytes, 48 << 20);
    // A mistake is told as such, although the engine has no use for the rest of the context.
    let wrong = BuildRequest::new(&tag, context(&[("Dockerfile", b"FRO scratch\n"), ("big", &big)]));
    let error = world.build(wrong).await.0.unwrap_err();
    assert!(matches!(error, EngineError::DockerfileInvalid { line: Some(1), .. }), "{error:?}");
    world.clean().await;
}

#[tokio::test]
async fn a_context_that_cannot_be_read_is_the_reason() {
    let Some(world) = World::start().await else { return };
    let broken = futures_util::stream::iter([
        Ok(bytes::Bytes::from_static(&[0; 512])),
        Err(std::io::Error::other("the source went away")),
    ]);
    let tag = world.instance.image_tag("web", 1);
    let error = world.build(BuildRequest::new(&tag, Box::pin(broken))).await.0.unwrap_err();
    assert!(error.to_string().contains("the source went away"), "{error:?}");
    world.clean().await;
}

#[tokio::test]
async fn a_build_that_waits_for_its_context_can_be_cancelled() {
    let Some(world) = World::start().await else { return };
    let request =
        BuildRequest::new(world.instance.image_tag("web", 1), Box::pin(futures_util::stream::pending()));
    let cancel = CancellationToken::new();
    let (sink, _events) = mpsc::channel(64);
    let (docker, token) = (world.docker.clone(), cancel.clone());
    let running = tokio::spawn(async move { docker.build(request, sink, token).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    cancel.cancel();
    assert!(matches!(running.await.unwrap(), Err(EngineError::Cancelled { .. })));
    println!("measured: cancel while the context hangs took {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(4));
    world.clean().await;
}

#[tokio::test]
async fn what_a_dockerfile_asks_for_in_vain_is_named() {
    let Some(world) = World::start().await else { return };
    let tag = world.instance.image_tag("web", 1);
    let build =
        async |text: &str| world.build(BuildRequest::new(&tag, dockerfile(text))).await.0.unwrap_err();

    let error = build("FROM node:22-slim\nCOPY package.json /app/\n").await;
    assert!(
        matches!(&error, EngineError::BuildFailed { step: Some(step), .. } if step.contains("COPY package.json"))
    );
    assert!(error.hint().unwrap().contains("not in the source"), "{error:?}");

    let error = build("FROM node:22-slim\nCOPY --from=berth-test/none:1 /x /y\n").await;
    assert!(
        !matches!(error, EngineError::BuildFailed { .. }) && error.to_string().contains("none:1"),
        "{error:?}"
    );

    let mut request = BuildRequest::new(&tag, dockerfile("FROM node:22-slim\n"));
    request.target = Some("release".into());
    let error = world.build(request).await.0.unwrap_err();
    assert!(matches!(error, EngineError::DockerfileInvalid { .. }), "{error:?}");
    world.clean().await;
}
