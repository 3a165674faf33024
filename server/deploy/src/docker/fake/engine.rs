//! The fake as an [`Engine`].

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::state::{Container, FakeEngine, away, now_nanos};
use super::{Behaviour, BuildScript, server};
use crate::docker::*;
use crate::probe::Listening;

fn no_container(id: &ContainerId) -> EngineError {
    EngineError::NotFound { what: format!("container {}", id.short()) }
}

impl FakeEngine {
    fn with<T>(&self, id: &ContainerId, look: impl FnOnce(&mut Container) -> T) -> Result<T, EngineError> {
        self.lock().containers.get_mut(id).map(look).ok_or_else(|| no_container(id))
    }

    fn stop_now(&self, id: &ContainerId, code: i64, event: EngineEventKind) -> Result<(), EngineError> {
        let mut state = self.lock();
        let container = state.containers.get_mut(id).ok_or_else(|| no_container(id))?;
        if !matches!(container.phase, ContainerPhase::Running | ContainerPhase::Restarting) {
            return Ok(());
        }
        container.halt(ContainerExit { code, oom_killed: false, error: None }, ContainerPhase::Exited);
        state.tell(id, EngineEventKind::Die { exit_code: code });
        state.tell(id, event);
        drop(state);
        self.touch();
        Ok(())
    }

    fn image_info(&self, name: &str) -> Option<ImageInfo> {
        let (id, image) = self.lock().find_image(name)?;
        Some(ImageInfo {
            id,
            digests: Vec::new(),
            tags: image.tags,
            exposed_ports: image.behaviour.ports,
            size_bytes: 1 << 20,
            labels: image.labels,
            user: String::new(),
            working_dir: "/app".to_owned(),
            command: vec!["/app".to_owned()],
            has_healthcheck: false,
            created_at: Some(image.created_at),
            platform: "linux/amd64".to_owned(),
        })
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn ping(&self) -> Result<(), EngineError> {
        self.enter("ping", "")
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        self.enter("info", "")?;
        let state = self.lock();
        Ok(EngineInfo {
            version: "fake".to_owned(),
            api_version: "1.41".to_owned(),
            containers: state.containers.len() as u64,
            images: state.images.len() as u64,
            root_dir: "/var/lib/docker".into(),
            disk_free_bytes: Some(100 << 30),
            disk_total_bytes: Some(200 << 30),
            storage_driver: "memory".to_owned(),
            cpus: 2,
            memory_bytes: 8 << 30,
            platform: "fake, x86_64".to_owned(),
        })
    }

    async fn build(
        &self,
        request: BuildRequest,
        sink: mpsc::Sender<BuildEvent>,
        cancel: CancellationToken,
    ) -> Result<BuiltImage, EngineError> {
        self.enter("build", &request.tag)?;
        let script: BuildScript = self.lock().builds.pop_front().unwrap_or_default();
        let limit = request.limits.time;
        let work = async {
            for event in script.events {
                let _ = sink.send(event).await;
            }
            // A real build reads its context, and fails if that cannot be read.
            let mut context = request.context;
            while let Some(chunk) = context.next().await {
                chunk.map_err(|error| EngineError::other("reading the build context", error))?;
            }
            tokio::time::sleep(script.takes).await;
            Ok(())
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(EngineError::Cancelled { what: "the build".into() }),
            () = tokio::time::sleep(limit) => {
                return Err(EngineError::TimedOut { what: "the build".into(), after: limit });
            }
            done = work => done?,
        }
        let behaviour = script.result?;
        let mut labels = request.labels;
        labels.extend(self.instance.labels());
        let exposed_ports = behaviour.ports.clone();
        let image_id = self.insert_image(vec![request.tag], labels, behaviour);
        Ok(BuiltImage { image_id, size_bytes: 1 << 20, exposed_ports, created_at: Some(now_nanos() / 1000) })
    }

    async fn pull(
        &self,
        image: &ImageRef,
        _auth: Option<RegistryAuth>,
        _sink: mpsc::Sender<PullEvent>,
        _cancel: CancellationToken,
    ) -> Result<ImageInfo, EngineError> {
        self.enter("pull", &image.to_string())?;
        self.image_info(&image.to_string())
            .ok_or_else(|| EngineError::ImageNotFound { image: image.to_string() })
    }

    async fn inspect_image(&self, image: &str) -> Result<Option<ImageInfo>, EngineError> {
        self.enter("inspect_image", image)?;
        Ok(self.image_info(image))
    }

    async fn tag_image(&self, image: &str, tag: &str) -> Result<(), EngineError> {
        self.enter("tag_image", image)?;
        if !self.instance.owns_tag(tag) {
            return Err(EngineError::invalid(
                format!("image tag {tag:?}"),
                "it must be one of this instance",
            ));
        }
        let mut state = self.lock();
        let (id, _) =
            state.find_image(image).ok_or_else(|| EngineError::NotFound { what: image.to_owned() })?;
        for image in state.images.values_mut() {
            image.tags.retain(|other| other != tag);
        }
        if let Some(image) = state.images.get_mut(&id) {
            image.tags.push(tag.to_owned());
        }
        Ok(())
    }

    async fn remove_image(&self, name: &str) -> Result<bool, EngineError> {
        self.enter("remove_image", name)?;
        let mut state = self.lock();
        let Some((id, image)) = state.find_image(name) else { return Ok(false) };
        let by_tag = self.instance.owns_tag(name);
        if !by_tag && !self.instance.owns(&image.labels) {
            return Err(EngineError::NotOurs { what: format!("image {name}") });
        }
        if by_tag && image.tags.len() > 1 {
            if let Some(image) = state.images.get_mut(&id) {
                image.tags.retain(|tag| tag != name);
            }
            return Ok(true);
        }
        if state.containers.values().any(|container| container.image_id == id) {
            return Err(EngineError::Conflict {
                what: format!("removing image {name}"),
                why: "it is in use".into(),
            });
        }
        state.images.remove(&id);
        Ok(true)
    }

    async fn list_images(&self) -> Result<Vec<ImageSummary>, EngineError> {
        self.enter("list_images", "")?;
        let state = self.lock();
        let ours = state.images.iter().filter(|(_, image)| self.instance.owns(&image.labels));
        Ok(ours
            .map(|(id, image)| ImageSummary {
                id: id.clone(),
                tags: image.tags.clone(),
                size_bytes: 1 << 20,
                created_at: image.created_at,
                labels: image.labels.clone(),
            })
            .collect())
    }

    async fn ensure_network(&self, name: &str, mut labels: Labels) -> Result<(), EngineError> {
        self.enter("ensure_network", name)?;
        labels.extend(self.instance.labels());
        self.lock().networks.entry(name.to_owned()).or_insert(labels);
        Ok(())
    }

    async fn remove_network(&self, name: &str) -> Result<bool, EngineError> {
        self.enter("remove_network", name)?;
        let mut state = self.lock();
        let in_use = |c: &Container| c.spec.network == name && c.phase == ContainerPhase::Running;
        if state.containers.values().any(in_use) {
            let what = format!("removing network {name}");
            return Err(EngineError::Conflict { what, why: "it has active endpoints".into() });
        }
        Ok(state.networks.remove(name).is_some())
    }

    async fn list_networks(&self) -> Result<Vec<NetworkSummary>, EngineError> {
        self.enter("list_networks", "")?;
        let state = self.lock();
        let summary = |(name, labels): (&String, &Labels)| NetworkSummary {
            id: name.clone(),
            name: name.clone(),
            labels: labels.clone(),
        };
        Ok(state.networks.iter().map(summary).collect())
    }

    async fn create_container(&self, spec: ContainerSpec) -> Result<ContainerId, EngineError> {
        self.enter("create_container", &spec.name)?;
        let mut state = self.lock();
        let Some((image_id, _)) = state.find_image(&spec.image) else {
            return Err(EngineError::NotFound { what: format!("image {}", spec.image) });
        };
        if state.containers.values().any(|container| container.spec.name == spec.name) {
            let what = format!("creating container {}", spec.name);
            return Err(EngineError::Conflict { what, why: "the name is in use".into() });
        }
        let id = ContainerId::parse(&format!("{:064x}", state.next_number()))?;
        let mut labels = spec.labels.clone();
        labels.extend(self.instance.labels());
        let container = Container {
            spec,
            image_id,
            labels,
            phase: ContainerPhase::Created,
            exit: None,
            ports: Default::default(),
            closed: Vec::new(),
            lines: Vec::new(),
            created_at: now_nanos() / 1000,
            started_at: None,
            finished_at: None,
            restart_count: 0,
            run: 0,
            task: None,
        };
        state.containers.insert(id.clone(), container);
        state.tell(&id, EngineEventKind::Create);
        drop(state);
        self.touch();
        Ok(id)
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.enter("start_container", id.short())?;
        let network = self.with(id, |container| container.spec.network.clone())?;
        if !self.lock().networks.contains_key(&network) {
            return Err(EngineError::NotFound { what: format!("network {network}") });
        }
        self.launch(id)
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        self.enter("stop_container", id.short())?;
        let image_id = self.with(id, |container| container.image_id.clone())?;
        let takes = self
            .lock()
            .find_image(&image_id)
            .map(|(_, image)| image.behaviour.stop_takes)
            .unwrap_or_default();
        tokio::time::sleep(takes.min(grace)).await;
        self.stop_now(id, if takes > grace { 137 } else { 143 }, EngineEventKind::Stop)
    }

    async fn kill_container(&self, id: &ContainerId, signal: &str) -> Result<(), EngineError> {
        self.enter("kill_container", &format!("{} {signal}", id.short()))?;
        let number = if signal == "SIGKILL" { 9 } else { 15 };
        self.stop_now(id, 128 + i64::from(number), EngineEventKind::Kill { signal: number })
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<bool, EngineError> {
        self.enter("remove_container", id.short())?;
        if !self.lock().containers.contains_key(id) {
            return Ok(false);
        }
        self.stop_now(id, 137, EngineEventKind::Kill { signal: 9 })?;
        let mut state = self.lock();
        state.tell(id, EngineEventKind::Destroy);
        let removed = state.containers.remove(id).is_some();
        drop(state);
        self.touch();
        Ok(removed)
    }

    async fn unpause_container(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.enter("unpause_container", id.short())?;
        self.with(id, |_| ())
    }

    async fn connect_network(
        &self,
        id: &ContainerId,
        network: &str,
        _aliases: Vec<String>,
    ) -> Result<(), EngineError> {
        self.enter("connect_network", network)?;
        self.with(id, |_| ())
    }

    async fn rename_container(&self, id: &ContainerId, name: &str) -> Result<(), EngineError> {
        self.enter("rename_container", name)?;
        self.with(id, |container| container.spec.name = name.to_owned())
    }

    async fn inspect_container(&self, id: &ContainerId) -> Result<ContainerState, EngineError> {
        self.enter("inspect_container", id.short())?;
        self.with(id, |container| {
            let running = container.phase == ContainerPhase::Running;
            let address = running.then(|| (container.spec.network.clone(), [127, 0, 0, 1].into()));
            ContainerState {
                id: id.clone(),
                name: container.spec.name.clone(),
                image_id: container.image_id.clone(),
                running,
                restarting: container.phase == ContainerPhase::Restarting,
                exit_code: container.exit.as_ref().map(|exit| exit.code),
                oom_killed: container.exit.as_ref().is_some_and(|exit| exit.oom_killed),
                error: container.exit.as_ref().and_then(|exit| exit.error.clone()),
                pid: None,
                addresses: address.into_iter().collect(),
                started_at: container.started_at,
                finished_at: container.finished_at,
                restart_count: container.restart_count,
                labels: container.labels.clone(),
            }
        })
    }

    async fn wait_exit(&self, id: &ContainerId) -> Result<ContainerExit, EngineError> {
        self.enter("wait_exit", id.short())?;
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if self.lock().away {
                return Err(away());
            }
            let ended = self.with(id, |container| match container.phase {
                ContainerPhase::Running => None,
                _ => Some(container.exit.clone()),
            })?;
            if let Some(exit) = ended {
                return Ok(exit.unwrap_or(ContainerExit { code: 0, oom_killed: false, error: None }));
            }
            if changed.changed().await.is_err() {
                return Err(away());
            }
        }
    }

    async fn set_restart_policy(&self, id: &ContainerId, policy: RestartPolicy) -> Result<(), EngineError> {
        self.enter("set_restart_policy", id.short())?;
        self.with(id, |container| container.spec.restart = policy)
    }

    async fn copy_out(&self, id: &ContainerId, path: &str) -> Result<Option<ContextStream>, EngineError> {
        self.enter("copy_out", path)?;
        self.with(id, |_| None)
    }

    async fn list_containers(&self) -> Result<Vec<ContainerSummary>, EngineError> {
        self.enter("list_containers", "")?;
        let state = self.lock();
        let summary = |(id, container): (&ContainerId, &Container)| ContainerSummary {
            id: id.clone(),
            name: container.spec.name.clone(),
            image_id: container.image_id.clone(),
            phase: container.phase,
            created_at: container.created_at,
            labels: container.labels.clone(),
        };
        Ok(state.containers.iter().map(summary).collect())
    }

    async fn address(&self, id: &ContainerId, port: u16) -> Result<SocketAddr, EngineError> {
        self.enter("address", id.short())?;
        self.with(id, |container| {
            if container.phase != ContainerPhase::Running {
                let what = format!("container {}", id.short());
                return Err(EngineError::Conflict { what, why: "it is not running".into() });
            }
            if let Some(addr) = container.ports.get(&port) {
                return Ok(*addr);
            }
            let closed = server::bind(port).map_err(|e| EngineError::other("binding a fake port", e))?;
            container.ports.insert(port, closed.addr);
            container.closed.push(closed.socket);
            Ok(closed.addr)
        })?
    }

    async fn listening(&self, id: &ContainerId) -> Result<Vec<Listening>, EngineError> {
        self.enter("listening", id.short())?;
        let image_id = self.with(id, |container| container.image_id.clone())?;
        let behaviour: Behaviour =
            self.lock().find_image(&image_id).map(|(_, image)| image.behaviour).unwrap_or_default();
        let addr = if behaviour.loopback_only { [127, 0, 0, 1].into() } else { [0, 0, 0, 0].into() };
        Ok(behaviour.ports.iter().map(|port| Listening { addr, port: *port }).collect())
    }

    fn logs(&self, id: &ContainerId, options: LogOptions) -> LogStream {
        let (engine, id) = (self.clone(), id.clone());
        let since = options.since_nanos.unwrap_or(i64::MIN);
        let start = match options.tail {
            Some(tail) => self.with(&id, |c| c.lines.len().saturating_sub(tail as usize)).unwrap_or_default(),
            None => 0,
        };
        let lines = stream::unfold((start, self.changed.subscribe()), move |(at, mut changed)| {
            let (engine, id) = (engine.clone(), id.clone());
            async move {
                loop {
                    changed.borrow_and_update();
                    let (line, running) = match engine.with(&id, |c| (c.lines.get(at).cloned(), c.phase)) {
                        Ok((line, phase)) => (line, phase == ContainerPhase::Running),
                        Err(error) if at == 0 => return Some((Err(error), (usize::MAX, changed))),
                        Err(_) => return None,
                    };
                    match line {
                        Some(line) => return Some((Ok(line), (at + 1, changed))),
                        None if !options.follow || !running => return None,
                        None => changed.changed().await.ok()?,
                    }
                }
            }
        });
        lines
            .filter(move |line| std::future::ready(line.as_ref().map_or(true, |l| l.at_nanos > since)))
            .boxed()
    }

    fn events(&self, since_nanos: Option<i64>) -> EventStream {
        let engine = self.clone();
        let since = since_nanos.unwrap_or_else(now_nanos);
        let events = stream::unfold((0, self.changed.subscribe(), false), move |(at, mut changed, lost)| {
            let engine = engine.clone();
            async move {
                if lost {
                    return None;
                }
                loop {
                    changed.borrow_and_update();
                    let (event, is_away) = {
                        let state = engine.lock();
                        (state.events.get(at).cloned(), state.away)
                    };
                    match event {
                        _ if is_away => return Some((Err(away()), (at, changed, true))),
                        Some(event) => return Some((Ok(event), (at + 1, changed, false))),
                        None => changed.changed().await.ok()?,
                    }
                }
            }
        });
        events
            .filter(move |event| std::future::ready(event.as_ref().map_or(true, |e| e.at_nanos >= since)))
            .boxed()
    }

    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats, EngineError> {
        self.enter("stats", id.short())?;
        self.with(id, |container| ContainerStats {
            cpu_percent: 1.0,
            cpu_total_nanos: 1_000_000,
            memory_bytes: 10 << 20,
            memory_limit_bytes: container.spec.limits.memory_bytes,
            pids: 1,
            network_rx_bytes: 0,
            network_tx_bytes: 0,
        })
    }

    async fn disk_usage(&self) -> Result<DiskUsage, EngineError> {
        self.enter("disk_usage", "")?;
        let state = self.lock();
        let images = state.images.values().filter(|image| self.instance.owns(&image.labels)).count() as u64;
        Ok(DiskUsage {
            images_bytes: images << 20,
            images,
            containers: state.containers.len() as u64,
            ..DiskUsage::default()
        })
    }

    async fn build_cache(&self) -> Result<Vec<CacheRecord>, EngineError> {
        self.enter("build_cache", "")?;
        Ok(Vec::new())
    }

    async fn prune_build_cache(&self, ids: &[String]) -> Result<u64, EngineError> {
        self.enter("prune_build_cache", &ids.join(" "))?;
        Ok(0)
    }
}
