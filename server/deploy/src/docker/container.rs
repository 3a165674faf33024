//! Containers: how they are created (the security settings are here), and their life.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummaryStateEnum, ContainerUpdateBody,
    EndpointSettings, HostConfig, HostConfigLogConfig, NetworkingConfig, RestartPolicy as ApiRestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptions, InspectContainerOptions, KillContainerOptions,
    ListContainersOptions, RemoveContainerOptions, RenameContainerOptions, StartContainerOptions,
    StopContainerOptions, WaitContainerOptions,
};
use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use super::client::{Docker, QUICK, SLOW};
use super::engine::{
    ContainerExit, ContainerId, ContainerPhase, ContainerSpec, ContainerState, ContainerSummary,
    ContextStream, RestartPolicy,
};
use super::error::EngineError;
use super::network::checked;
use crate::probe::{self, Listening};

/// The capabilities that ordinary images need: to take over files of their data directory, to give up root, to
/// bind ports below 1024, to signal their children. All others are dropped.
const CAPABILITIES: [&str; 7] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];
/// Longest time between stop signal and SIGKILL.
const MAX_GRACE: Duration = Duration::from_secs(300);

impl Docker {
    pub(super) async fn new_container(&self, spec: ContainerSpec) -> Result<ContainerId, EngineError> {
        let name = checked(&spec.name)?;
        let network = checked(&spec.network)?;
        let what = format!("creating container {name}");
        let image = spec.image.clone();
        let mut labels = spec.labels.clone();
        labels.extend(self.instance().labels());
        let endpoint = EndpointSettings {
            aliases: (!spec.aliases.is_empty()).then(|| spec.aliases.clone()),
            ..Default::default()
        };
        let body = ContainerCreateBody {
            image: Some(spec.image.clone()),
            env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            cmd: spec.command.clone(),
            labels: Some(labels.into_iter().collect()),
            stop_signal: spec.stop_signal.clone(),
            stop_timeout: Some(whole_seconds(spec.stop_timeout)),
            host_config: Some(host_config(&spec, &network)),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(network, endpoint)])),
            }),
            ..Default::default()
        };
        let options = CreateContainerOptions { name: Some(name), ..Default::default() };
        let created =
            self.call(&what, SLOW, |c| async move { c.create_container(Some(options), body).await }).await;
        match created {
            Ok(created) => ContainerId::parse(&created.id),
            // The engine says "No such image"; a missing network shows at start only.
            Err(error) if error.is_not_found() => {
                Err(EngineError::NotFound { what: format!("image {image}") })
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.must_own_container(id).await?;
        let what = format!("container {}", id.short());
        let id = id.to_string();
        self.call(&what, SLOW, |c| async move { c.start_container(&id, None::<StartContainerOptions>).await })
            .await
    }

    pub(super) async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        self.must_own_container(id).await?;
        let grace = grace.min(MAX_GRACE);
        let what = format!("container {}", id.short());
        let id = id.to_string();
        let t = i32::try_from(whole_seconds(grace)).ok();
        let options = StopContainerOptions { t, ..Default::default() };
        self.call(&what, grace + SLOW, |c| async move { c.stop_container(&id, Some(options)).await }).await
    }

    pub(super) async fn kill(&self, id: &ContainerId, signal: &str) -> Result<(), EngineError> {
        self.must_own_container(id).await?;
        let what = format!("container {}", id.short());
        let (id, options) = (id.to_string(), KillContainerOptions { signal: checked(signal)? });
        self.call(&what, QUICK, |c| async move { c.kill_container(&id, Some(options)).await }).await
    }

    pub(super) async fn delete_container(&self, id: &ContainerId) -> Result<bool, EngineError> {
        match self.inspect(id).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error),
        }
        let what = format!("removing container {}", id.short());
        let id = id.to_string();
        // Anonymous volumes belong to the container alone; named ones are never touched.
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        let removed =
            self.call(&what, SLOW, |c| async move { c.remove_container(&id, Some(options)).await }).await;
        match removed {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            // Another call removes it already.
            Err(EngineError::Conflict { why, .. }) if why.contains("already in progress") => Ok(true),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.must_own_container(id).await?;
        let what = format!("unpausing container {}", id.short());
        let name = id.to_string();
        let done = self.call(&what, QUICK, |c| async move { c.unpause_container(&name).await }).await;
        match done {
            // The engine answers 500 for one that is not paused.
            Err(EngineError::Other { why, .. }) if why.contains("is not paused") => Ok(()),
            other => other,
        }
    }

    pub(super) async fn rename(&self, id: &ContainerId, name: &str) -> Result<(), EngineError> {
        self.must_own_container(id).await?;
        let what = format!("renaming container {}", id.short());
        let (id, options) = (id.to_string(), RenameContainerOptions { name: checked(name)? });
        self.call(&what, QUICK, |c| async move { c.rename_container(&id, options).await }).await
    }

    pub(super) async fn inspect(&self, id: &ContainerId) -> Result<ContainerState, EngineError> {
        let what = format!("container {}", id.short());
        let name = id.to_string();
        let found = self
            .call(&what, QUICK, |c| async move {
                c.inspect_container(&name, None::<InspectContainerOptions>).await
            })
            .await?;
        let state = state_of(found)?;
        match self.instance().owns(&state.labels) {
            true => Ok(state),
            // To this instance, other people's containers do not exist.
            false => Err(EngineError::NotFound { what }),
        }
    }

    /// [`EngineError::NotFound`] for other people's containers. Before every call that takes an id: it costs about a
    /// millisecond, and an id may come from a store that was copied to another machine.
    pub(super) async fn must_own_container(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.inspect(id).await.map(drop)
    }

    pub(super) async fn wait(&self, id: &ContainerId) -> Result<ContainerExit, EngineError> {
        self.must_own_container(id).await?;
        let client = self.client().await?;
        let options = WaitContainerOptions { condition: "not-running".to_owned() };
        let first = client.wait_container(id.as_str(), Some(options)).boxed().next().await;
        let code = match first {
            Some(Ok(answer)) => answer.status_code,
            // The library reports a code other than zero as an error.
            Some(Err(BollardError::DockerContainerWaitError { code, .. })) => code,
            Some(Err(error)) => {
                return Err(self.translate(&format!("container {}", id.short()), error).await);
            }
            None => return Err(self.unreachable().await),
        };
        // Why it ended is in its state, unless it was removed since.
        let state = self.inspect(id).await.ok();
        let oom_killed = state.as_ref().is_some_and(|s| s.oom_killed);
        Ok(ContainerExit { code, oom_killed, error: state.and_then(|s| s.error) })
    }

    pub(super) async fn update_restart_policy(
        &self,
        id: &ContainerId,
        policy: RestartPolicy,
    ) -> Result<(), EngineError> {
        self.must_own_container(id).await?;
        let what = format!("updating container {}", id.short());
        let id = id.to_string();
        let body = ContainerUpdateBody { restart_policy: Some(restart_policy(policy)), ..Default::default() };
        self.call(&what, QUICK, |c| async move { c.update_container(&id, body).await }).await
    }

    pub(super) async fn archive_of(
        &self,
        id: &ContainerId,
        path: &str,
    ) -> Result<Option<ContextStream>, EngineError> {
        self.must_own_container(id).await?;
        let client = self.client().await?;
        let what = format!("reading {path} in container {}", id.short());
        let options = DownloadFromContainerOptions { path: path.to_owned() };
        let mut chunks = client.download_from_container(id.as_str(), Some(options)).boxed();
        // Whether there is anything shows in the first answer.
        let first = match timeout(SLOW, chunks.next()).await {
            Ok(Some(Ok(first))) => first,
            Ok(Some(Err(error))) => {
                return match self.translate(&what, error).await {
                    EngineError::NotFound { .. } => Ok(None),
                    other => Err(other),
                };
            }
            Ok(None) => return Ok(None),
            Err(_) => return Err(EngineError::TimedOut { what, after: SLOW }),
        };
        let rest = chunks.map(|chunk| chunk.map_err(std::io::Error::other));
        Ok(Some(stream::iter([Ok(first)]).chain(rest).boxed()))
    }

    pub(super) async fn own_containers(&self) -> Result<Vec<ContainerSummary>, EngineError> {
        let options =
            ListContainersOptions { all: true, filters: Some(self.own_filter()), ..Default::default() };
        let listed = self
            .call("listing containers", QUICK, |c| async move { c.list_containers(Some(options)).await })
            .await?;
        listed
            .into_iter()
            .map(|container| {
                let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
                Ok(ContainerSummary {
                    id: ContainerId::parse(&container.id.unwrap_or_default())?,
                    name: name.trim_start_matches('/').to_owned(),
                    image_id: container.image_id.unwrap_or_default(),
                    phase: phase_of(container.state),
                    created_at: container.created.unwrap_or_default().saturating_mul(1_000_000),
                    labels: container.labels.unwrap_or_default().into_iter().collect(),
                })
            })
            .collect()
    }

    pub(super) async fn address_of(&self, id: &ContainerId, port: u16) -> Result<SocketAddr, EngineError> {
        let state = self.inspect(id).await?;
        let what = format!("container {}", id.short());
        if !state.running {
            return Err(EngineError::Conflict { what, why: "it is not running".to_owned() });
        }
        match state.addresses.values().next() {
            Some(ip) => Ok(SocketAddr::new(*ip, port)),
            None => Err(EngineError::Conflict { what, why: "it has no address in its network".to_owned() }),
        }
    }

    pub(super) async fn listening_in(&self, id: &ContainerId) -> Result<Vec<Listening>, EngineError> {
        if !self.host()?.is_local() {
            return Ok(Vec::new());
        }
        match self.inspect(id).await?.pid {
            Some(pid) => Ok(probe::listening_ports(pid).await.unwrap_or_default()),
            None => Ok(Vec::new()),
        }
    }
}

fn host_config(spec: &ContainerSpec, network: &str) -> HostConfig {
    let limits = spec.limits;
    let memory = i64::try_from(limits.memory_bytes).unwrap_or(i64::MAX);
    HostConfig {
        network_mode: Some(network.to_owned()),
        memory: Some(memory),
        // The same as memory: no swap on top of it.
        memory_swap: Some(memory),
        cpu_shares: limits.cpu_shares.map(i64::from),
        nano_cpus: limits.cpu_millis.map(|millis| i64::from(millis) * 1_000_000),
        pids_limit: Some(i64::from(limits.pids)),
        init: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        publish_all_ports: Some(false),
        ipc_mode: Some("private".to_owned()),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "10m".to_owned()),
                ("max-file".to_owned(), "3".to_owned()),
            ])),
        }),
        restart_policy: Some(restart_policy(spec.restart)),
        ..Default::default()
    }
}

fn restart_policy(policy: RestartPolicy) -> ApiRestartPolicy {
    let name = match policy {
        RestartPolicy::No => RestartPolicyNameEnum::NO,
        RestartPolicy::UnlessStopped => RestartPolicyNameEnum::UNLESS_STOPPED,
    };
    ApiRestartPolicy { name: Some(name), maximum_retry_count: None }
}

fn state_of(found: ContainerInspectResponse) -> Result<ContainerState, EngineError> {
    let state = found.state.unwrap_or_default();
    let restarting = state.restarting.unwrap_or_default();
    // Docker calls a container running that waits for its restart.
    let running = state.running.unwrap_or_default() && !restarting;
    let started_at = state.started_at.as_deref().and_then(micros);
    let addresses = found
        .network_settings
        .and_then(|settings| settings.networks)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(name, endpoint)| {
            let address: IpAddr = endpoint.ip_address?.parse().ok()?;
            Some((name, address))
        })
        .collect();
    Ok(ContainerState {
        id: ContainerId::parse(&found.id.unwrap_or_default())?,
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image_id: found.image.unwrap_or_default(),
        running,
        restarting,
        // A failed start leaves a code too, without ever having run.
        exit_code: state.exit_code.filter(|code| !running && (started_at.is_some() || *code != 0)),
        oom_killed: state.oom_killed.unwrap_or_default(),
        error: state.error.filter(|text| !text.is_empty()),
        pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0),
        addresses,
        started_at,
        finished_at: state.finished_at.as_deref().and_then(micros),
        restart_count: found.restart_count.and_then(|n| u32::try_from(n).ok()).unwrap_or_default(),
        labels: found.config.and_then(|c| c.labels).unwrap_or_default().into_iter().collect(),
    })
}

fn phase_of(state: Option<ContainerSummaryStateEnum>) -> ContainerPhase {
    use ContainerSummaryStateEnum as S;
    match state {
        Some(S::CREATED) => ContainerPhase::Created,
        Some(S::RUNNING | S::STOPPING) => ContainerPhase::Running,
        Some(S::RESTARTING) => ContainerPhase::Restarting,
        Some(S::PAUSED) => ContainerPhase::Paused,
        Some(S::EXITED) => ContainerPhase::Exited,
        Some(S::REMOVING | S::DEAD | S::EMPTY) | None => ContainerPhase::Dead,
    }
}

/// Microseconds of a time as Docker writes it; its zero time, the year 1, means "never".
fn micros(text: &str) -> Option<i64> {
    let at: jiff::Timestamp = text.parse().ok()?;
    Some(at.as_microsecond()).filter(|micros| *micros > 0)
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_no_more_than_it_needs() {
        let mut spec = ContainerSpec::new("web-1", "berth/web:1", "berth-net");
        spec.limits.memory_bytes = 256 << 20;
        spec.limits.cpu_millis = Some(1500);
        let host = host_config(&spec, "berth-net");
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert!(!host.cap_add.unwrap().iter().any(|cap| cap.contains("SYS") || cap.contains("RAW")));
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
        assert_eq!((host.memory, host.memory_swap), (Some(256 << 20), Some(256 << 20)));
        assert_eq!(host.nano_cpus, Some(1_500_000_000));
        assert_eq!((host.pids_limit, host.init), (Some(512), Some(true)));
        assert_eq!(
            (host.privileged, host.port_bindings, host.binds, host.mounts),
            (Some(false), None, None, None)
        );
        assert_eq!(host.network_mode.as_deref(), Some("berth-net"));
        assert!(host.pid_mode.is_none() && host.uts_mode.is_none() && host.userns_mode.is_none());
    }

    #[test]
    fn dockers_times_are_read_and_its_zero_is_never() {
        assert_eq!(micros("2026-01-02T03:04:05.123456789Z"), Some(1_767_323_045_123_456));
        assert_eq!(micros("0001-01-01T00:00:00Z"), None);
        assert_eq!(micros("soon"), None);
    }

    #[test]
    fn part_of_a_second_of_grace_is_a_second() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::ZERO), 0);
    }
}
