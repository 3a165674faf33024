//! Worlds for the tests: a fresh instance per test, its cleanup, contexts, and the static test app.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;

use berth_deploy::docker::*;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// One Berth instance on the machine's Docker.
pub(crate) struct World {
    pub(crate) docker: Arc<Docker>,
    pub(crate) instance: InstanceId,
    pub(crate) network: String,
    cleaned: bool,
}

impl World {
    /// `None`, with a word about it, where there is no Docker and none is required.
    pub(crate) async fn start() -> Option<Self> {
        let instance = InstanceId::new(Uuid::new_v4());
        let docker = Arc::new(Docker::connect(DockerConfig { host: None, instance }));
        if let Err(error) = docker.ping().await {
            assert!(std::env::var_os("BERTH_TEST_REQUIRE_DOCKER").is_none(), "Docker is required: {error}");
            println!("skipped: {error}");
            return None;
        }
        Some(Self { docker, instance, network: instance.network_name("default"), cleaned: false })
    }

    /// Builds and returns the events beside the result.
    pub(crate) async fn build(
        &self,
        request: BuildRequest,
    ) -> (Result<BuiltImage, EngineError>, Vec<BuildEvent>) {
        let (sink, mut events) = mpsc::channel(64);
        let docker = self.docker.clone();
        let running =
            tokio::spawn(async move { docker.build(request, sink, CancellationToken::new()).await });
        let mut seen = Vec::new();
        while let Some(event) = events.recv().await {
            seen.push(event);
        }
        (running.await.unwrap(), seen)
    }

    /// The static test app as an image of this instance.
    pub(crate) async fn app_image(&self) -> String {
        let tag = self.instance.image_tag("app", 1);
        let dockerfile = "FROM scratch\nCOPY app /app\nEXPOSE 3000\nCMD [\"/app\"]\n";
        let app = std::fs::read(static_app()).unwrap();
        let context = context(&[("Dockerfile", dockerfile.as_bytes()), ("app", &app)]);
        let (built, events) = self.build(BuildRequest::new(&tag, context)).await;
        built.unwrap_or_else(|error| panic!("{error}\n{events:#?}")).image_id
    }

    /// A container of the test app, with these variables, running.
    pub(crate) async fn run(&self, name: &str, env: &[(&str, &str)]) -> ContainerId {
        let image = self.app_image().await;
        self.run_spec(self.spec(name, &image, env)).await
    }

    pub(crate) fn spec(&self, name: &str, image: &str, env: &[(&str, &str)]) -> ContainerSpec {
        let mut spec =
            ContainerSpec::new(format!("berth-{}-{name}", self.instance.short()), image, &self.network);
        spec.env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
        spec.limits.memory_bytes = 64 << 20;
        spec
    }

    pub(crate) async fn run_spec(&self, spec: ContainerSpec) -> ContainerId {
        self.docker.ensure_network(&self.network, Labels::new()).await.unwrap();
        let id = self.docker.create_container(spec).await.unwrap();
        self.docker.start_container(&id).await.unwrap();
        id
    }

    /// Removes all that this instance made, and checks that nothing is left.
    pub(crate) async fn clean(mut self) {
        self.cleaned = true;
        wipe(&self.docker).await.unwrap();
        assert!(self.docker.list_containers().await.unwrap().is_empty());
        assert!(self.docker.list_networks().await.unwrap().is_empty());
        assert!(self.docker.list_images().await.unwrap().is_empty());
    }
}

impl Drop for World {
    /// A failed test cleans up too.
    fn drop(&mut self) {
        if self.cleaned {
            return;
        }
        let docker = self.docker.clone();
        let wiping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(wipe(&docker))
        });
        if let Ok(Err(error)) = wiping.join() {
            println!("cleanup failed: {error}");
        }
    }
}

async fn wipe(docker: &Docker) -> Result<(), EngineError> {
    for container in docker.list_containers().await? {
        docker.remove_container(&container.id).await?;
    }
    for network in docker.list_networks().await? {
        docker.remove_network(&network.name).await?;
    }
    for image in docker.list_images().await? {
        let names = if image.tags.is_empty() { vec![image.id] } else { image.tags };
        for name in names {
            docker.remove_image(&name).await?;
        }
    }
    Ok(())
}

/// A build context of these files.
pub(crate) fn context(files: &[(&str, &[u8])]) -> ContextStream {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, *bytes).unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    futures_util::stream::iter(
        bytes.chunks(64 << 10).map(|chunk| Ok(bytes::Bytes::copy_from_slice(chunk))).collect::<Vec<_>>(),
    )
    .boxed()
}

/// The test app, compiled once per target directory: static, so that it runs in an empty image.
#[allow(clippy::disallowed_methods, reason = "a test compiles its own fixture")]
pub(crate) fn static_app() -> PathBuf {
    static APP: OnceLock<PathBuf> = OnceLock::new();
    APP.get_or_init(|| {
        let source = include_str!("app.rs.txt");
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let hash = source
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let app = dir.join(format!("static-app-{hash:016x}"));
        if !app.exists() {
            // Tests run in several processes: each compiles to its own file, and the rename is atomic.
            let unique = dir.join(format!("static-app-{}", Uuid::new_v4().simple()));
            let code = unique.with_extension("rs");
            std::fs::write(&code, source).unwrap();
            let done = std::process::Command::new("rustc")
                .args([
                    "--edition",
                    "2021",
                    "-C",
                    "target-feature=+crt-static",
                    "-C",
                    "opt-level=1",
                    "-C",
                    "strip=symbols",
                ])
                .arg("-o")
                .arg(&unique)
                .arg(&code)
                .status()
                .unwrap();
            assert!(done.success());
            std::fs::remove_file(&code).unwrap();
            std::fs::rename(&unique, &app).unwrap();
        }
        app
    })
    .clone()
}

/// The lines that steps printed.
pub(crate) fn logged(events: &[BuildEvent]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| match event {
            BuildEvent::Log { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}
