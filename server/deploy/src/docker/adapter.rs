//! [`Docker`] as an [`Engine`]: each call is one line to the module that knows how.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::build::{BuildEvent, BuildRequest, BuiltImage};
use super::client::Docker;
use super::engine::*;
use super::error::EngineError;
use super::image::{ImageInfo, ImageRef, ImageSummary, PullEvent, RegistryAuth};
use super::labels::Labels;
use crate::probe::Listening;

#[async_trait]
impl Engine for Docker {
    async fn ping(&self) -> Result<(), EngineError> {
        self.ping_engine().await
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        self.engine_info().await
    }

    async fn build(
        &self,
        request: BuildRequest,
        sink: mpsc::Sender<BuildEvent>,
        cancel: CancellationToken,
    ) -> Result<BuiltImage, EngineError> {
        self.run_build(request, sink, cancel).await
    }

    async fn pull(
        &self,
        image: &ImageRef,
        auth: Option<RegistryAuth>,
        sink: mpsc::Sender<PullEvent>,
        cancel: CancellationToken,
    ) -> Result<ImageInfo, EngineError> {
        self.pull_image(image, auth, sink, cancel).await
    }

    async fn inspect_image(&self, image: &str) -> Result<Option<ImageInfo>, EngineError> {
        self.find_image(image).await
    }

    async fn tag_image(&self, image: &str, tag: &str) -> Result<(), EngineError> {
        self.name_image(image, tag).await
    }

    async fn remove_image(&self, image: &str) -> Result<bool, EngineError> {
        self.delete_image(image).await
    }

    async fn list_images(&self) -> Result<Vec<ImageSummary>, EngineError> {
        self.own_images().await
    }

    async fn ensure_network(&self, name: &str, labels: Labels) -> Result<(), EngineError> {
        self.provide_network(name, labels).await
    }

    async fn remove_network(&self, name: &str) -> Result<bool, EngineError> {
        self.delete_network(name).await
    }

    async fn list_networks(&self) -> Result<Vec<NetworkSummary>, EngineError> {
        self.own_networks().await
    }

    async fn create_container(&self, spec: ContainerSpec) -> Result<ContainerId, EngineError> {
        self.new_container(spec).await
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.start(id).await
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        self.stop(id, grace).await
    }

    async fn kill_container(&self, id: &ContainerId, signal: &str) -> Result<(), EngineError> {
        self.kill(id, signal).await
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<bool, EngineError> {
        self.delete_container(id).await
    }

    async fn unpause_container(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.unpause(id).await
    }

    async fn connect_network(
        &self,
        id: &ContainerId,
        network: &str,
        aliases: Vec<String>,
    ) -> Result<(), EngineError> {
        self.connect_container(id, network, aliases).await
    }

    async fn rename_container(&self, id: &ContainerId, name: &str) -> Result<(), EngineError> {
        self.rename(id, name).await
    }

    async fn inspect_container(&self, id: &ContainerId) -> Result<ContainerState, EngineError> {
        self.inspect(id).await
    }

    async fn wait_exit(&self, id: &ContainerId) -> Result<ContainerExit, EngineError> {
        self.wait(id).await
    }

    async fn set_restart_policy(&self, id: &ContainerId, policy: RestartPolicy) -> Result<(), EngineError> {
        self.update_restart_policy(id, policy).await
    }

    async fn copy_out(&self, id: &ContainerId, path: &str) -> Result<Option<ContextStream>, EngineError> {
        self.archive_of(id, path).await
    }

    async fn list_containers(&self) -> Result<Vec<ContainerSummary>, EngineError> {
        self.own_containers().await
    }

    async fn address(&self, id: &ContainerId, port: u16) -> Result<SocketAddr, EngineError> {
        self.address_of(id, port).await
    }

    async fn listening(&self, id: &ContainerId) -> Result<Vec<Listening>, EngineError> {
        self.listening_in(id).await
    }

    fn logs(&self, id: &ContainerId, options: LogOptions) -> LogStream {
        self.log_lines(id, options)
    }

    fn events(&self, since_nanos: Option<i64>) -> EventStream {
        self.container_events(since_nanos)
    }

    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats, EngineError> {
        self.container_stats(id).await
    }

    async fn disk_usage(&self) -> Result<DiskUsage, EngineError> {
        self.own_disk_usage().await
    }

    async fn build_cache(&self) -> Result<Vec<CacheRecord>, EngineError> {
        self.cache_records().await
    }

    async fn prune_build_cache(&self, ids: &[String]) -> Result<u64, EngineError> {
        self.drop_cache(ids).await
    }
}
