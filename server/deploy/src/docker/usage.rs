//! What things use: of CPU and memory, and of the engine's disk.

use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::{ListContainersOptions, StatsOptions};
use futures_util::StreamExt;

use super::client::{Docker, SLOW};
use super::engine::{ContainerId, ContainerStats, DiskUsage};
use super::error::EngineError;

impl Docker {
    pub(super) async fn container_stats(&self, id: &ContainerId) -> Result<ContainerStats, EngineError> {
        self.must_own_container(id).await?;
        let what = format!("stats of container {}", id.short());
        let id = id.to_string();
        // Not `one_shot`: the engine then measures twice, a second apart, and the difference is the load.
        let options = StatsOptions { stream: false, one_shot: false };
        let stats =
            self.call(&what, SLOW, |c| async move {
                c.stats(&id, Some(options)).boxed().next().await.transpose()
            })
            .await?;
        stats.map(|stats| stats_of(&stats)).ok_or(EngineError::NotFound { what })
    }

    pub(super) async fn own_disk_usage(&self) -> Result<DiskUsage, EngineError> {
        let images = self.own_images().await?;
        let options = ListContainersOptions {
            all: true,
            size: true,
            filters: Some(self.own_filter()),
            ..Default::default()
        };
        let containers = self
            .call("measuring containers", SLOW, |c| async move { c.list_containers(Some(options)).await })
            .await?;
        let cache = self.cache_records().await?;
        Ok(DiskUsage {
            images_bytes: images.iter().map(|image| image.size_bytes).sum(),
            images: images.len() as u64,
            containers_bytes: containers.iter().filter_map(|c| u64::try_from(c.size_rw?).ok()).sum(),
            containers: containers.len() as u64,
            // Shared records are layers of images, and counted there.
            build_cache_bytes: cache.iter().filter(|r| !r.shared).map(|r| r.bytes).sum(),
        })
    }
}

fn stats_of(stats: &ContainerStatsResponse) -> ContainerStats {
    let cpu = stats.cpu_stats.clone().unwrap_or_default();
    let before = stats.precpu_stats.clone().unwrap_or_default();
    let total = |cpu: &bollard::models::ContainerCpuStats| {
        cpu.cpu_usage.as_ref().and_then(|usage| usage.total_usage).unwrap_or_default()
    };
    let used = total(&cpu).saturating_sub(total(&before));
    let passed =
        cpu.system_cpu_usage.unwrap_or_default().saturating_sub(before.system_cpu_usage.unwrap_or_default());
    let cpus = f64::from(cpu.online_cpus.unwrap_or(1).max(1));
    // The precision of a float is far finer than the measurement.
    #[allow(clippy::cast_precision_loss)]
    let cpu_percent = if passed == 0 { 0.0 } else { used as f64 / passed as f64 * cpus * 100.0 };
    let memory = stats.memory_stats.clone().unwrap_or_default();
    let detail = memory.stats.unwrap_or_default();
    // Page cache that the kernel drops when asked: cgroup v1 and v2 name it differently.
    let cache = detail
        .get("total_inactive_file")
        .or_else(|| detail.get("inactive_file"))
        .copied()
        .unwrap_or_default();
    let networks = stats.networks.iter().flatten().map(|(_, network)| network);
    ContainerStats {
        cpu_percent,
        cpu_total_nanos: total(&cpu),
        memory_bytes: memory.usage.unwrap_or_default().saturating_sub(cache),
        memory_limit_bytes: memory.limit.unwrap_or_default(),
        pids: stats.pids_stats.as_ref().and_then(|pids| pids.current).unwrap_or_default(),
        network_rx_bytes: networks.clone().filter_map(|n| n.rx_bytes).sum(),
        network_tx_bytes: networks.filter_map(|n| n.tx_bytes).sum(),
    }
}
