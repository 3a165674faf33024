//! Images: looking at them, pulling, naming and removing them.

use bollard::auth::DockerCredentials;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::{CreateImageOptions, ListImagesOptions, RemoveImageOptions, TagImageOptions};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::build::registry_error;
use super::client::{Docker, QUICK, SLOW};
use super::error::EngineError;
use super::image::{ImageInfo, ImageRef, ImageSummary, PullEvent, RegistryAuth, tcp_ports};
use super::labels::Labels;

/// Limit of a whole pull.
const PULL_LIMIT: std::time::Duration = std::time::Duration::from_secs(30 * 60);

impl Docker {
    pub(super) async fn find_image(&self, image: &str) -> Result<Option<ImageInfo>, EngineError> {
        let image = checked_name(image)?;
        let what = format!("image {image}");
        let name = image.clone();
        let found = self.call(&what, QUICK, |c| async move { c.inspect_image(&name).await }).await;
        let image = match found {
            Ok(image) => image,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let config = image.config.unwrap_or_default();
        let command = [config.entrypoint, config.cmd].into_iter().flatten().flatten().collect();
        Ok(Some(ImageInfo {
            id: image.id.unwrap_or_default(),
            digests: image.repo_digests.unwrap_or_default(),
            tags: image.repo_tags.unwrap_or_default(),
            exposed_ports: tcp_ports(config.exposed_ports.iter().flatten()),
            size_bytes: image.size.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            user: config.user.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            command,
            has_healthcheck: config
                .healthcheck
                .and_then(|check| check.test)
                .is_some_and(|test| !test.is_empty() && test.first().is_none_or(|kind| kind != "NONE")),
            created_at: image.created.and_then(|at| i64::try_from(at.unix_timestamp_nanos() / 1000).ok()),
            platform: format!("{}/{}", image.os.unwrap_or_default(), image.architecture.unwrap_or_default()),
        }))
    }

    pub(super) async fn pull_image(
        &self,
        image: &ImageRef,
        auth: Option<RegistryAuth>,
        sink: mpsc::Sender<PullEvent>,
        cancel: CancellationToken,
    ) -> Result<ImageInfo, EngineError> {
        let client = self.client().await?;
        let options = CreateImageOptions {
            from_image: Some(image.repository().to_owned()),
            tag: Some(image.version().to_owned()),
            ..Default::default()
        };
        let credentials = auth.map(|auth| DockerCredentials {
            username: Some(auth.username),
            password: Some(auth.password),
            serveraddress: Some(auth.registry),
            ..Default::default()
        });
        let what = format!("pulling {image}");
        // Dropping the stream closes the connection, and with it the engine stops the pull.
        let transfer = async {
            let mut stream = client.create_image(Some(options), None, credentials).boxed();
            while let Some(message) = stream.next().await {
                match message {
                    Ok(message) => drop(sink.send(pull_event(message)).await),
                    Err(error) => return Err(self.pull_failure(&what, image, error).await),
                }
            }
            Ok(())
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(EngineError::Cancelled { what }),
            () = tokio::time::sleep(PULL_LIMIT) => {
                return Err(EngineError::TimedOut { what, after: PULL_LIMIT });
            }
            outcome = transfer => outcome?,
        }
        self.find_image(&image.to_string())
            .await?
            .ok_or_else(|| EngineError::ImageNotFound { image: image.to_string() })
    }

    async fn pull_failure(&self, what: &str, image: &ImageRef, error: bollard::errors::Error) -> EngineError {
        let message = match &error {
            bollard::errors::Error::DockerResponseServerError { message, .. } => Some(message.clone()),
            bollard::errors::Error::DockerStreamError { error } => Some(error.clone()),
            _ => None,
        };
        if let Some(known) = message.and_then(|text| registry_error(&text, &image.to_string())) {
            return known;
        }
        match self.translate(what, error).await {
            EngineError::NotFound { .. } => EngineError::ImageNotFound { image: image.to_string() },
            other => other,
        }
    }

    pub(super) async fn name_image(&self, image: &str, tag: &str) -> Result<(), EngineError> {
        if !self.instance().owns_tag(tag) {
            return Err(EngineError::invalid(
                format!("image tag {tag:?}"),
                "it must be one of this instance",
            ));
        }
        let image = checked_name(image)?;
        let (repo, version) = tag.rsplit_once(':').unwrap_or((tag, "latest"));
        let options = TagImageOptions { repo: Some(repo.to_owned()), tag: Some(version.to_owned()) };
        let what = format!("image {image}");
        self.call(&what, QUICK, |c| async move { c.tag_image(&image, Some(options)).await }).await
    }

    pub(super) async fn delete_image(&self, image: &str) -> Result<bool, EngineError> {
        let image = checked_name(image)?;
        if !self.instance().owns_tag(&image) {
            let Some(found) = self.find_image(&image).await? else { return Ok(false) };
            if !self.instance().owns(&found.labels) {
                return Err(EngineError::NotOurs { what: format!("image {image}") });
            }
        }
        let what = format!("removing image {image}");
        let removed =
            self.call(&what, SLOW, |c| async move {
                c.remove_image(&image, None::<RemoveImageOptions>, None).await
            })
            .await;
        match removed {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn own_images(&self) -> Result<Vec<ImageSummary>, EngineError> {
        let options = ListImagesOptions { filters: Some(self.own_filter()), ..Default::default() };
        let images =
            self.call("listing images", SLOW, |c| async move { c.list_images(Some(options)).await }).await?;
        Ok(images
            .into_iter()
            .map(|image| ImageSummary {
                id: image.id,
                tags: image.repo_tags.into_iter().filter(|tag| tag != "<none>:<none>").collect(),
                size_bytes: u64::try_from(image.size).unwrap_or_default(),
                created_at: image.created.saturating_mul(1_000_000),
                labels: image.labels.into_iter().collect::<Labels>(),
            })
            .collect())
    }
}

fn pull_event(message: CreateImageInfo) -> PullEvent {
    let bytes = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
    let progress = message
        .progress_detail
        .and_then(|detail| Some((bytes(detail.current)?, bytes(detail.total).unwrap_or_default())));
    PullEvent { layer: message.id, status: message.status.unwrap_or_default(), progress }
}

/// A name or id that cannot reach another endpoint of the API.
fn checked_name(image: &str) -> Result<String, EngineError> {
    let hex = image.strip_prefix("sha256:").unwrap_or(image);
    if image.len() != hex.len() && hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(image.to_owned());
    }
    ImageRef::parse(image).map(|image| image.to_string())
}
