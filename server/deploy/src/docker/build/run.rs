//! One build from request to image, or to a typed failure.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard::models::{BuildInfo, BuildInfoAux};
use bytes::BytesMut;
use futures_util::{StreamExt, TryStreamExt};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::client::{Docker, QUICK, from_status};
use super::super::error::EngineError;
use super::super::wire::{Connection, error_message, request, streamed};
use super::failure::classify;
use super::progress::Progress;
use super::redact::Redactor;
use super::session::Session;
use super::{BuildEvent, BuildRequest, BuildSecret, BuiltImage};

/// Largest single message of the engine.
const MAX_MESSAGE: usize = 32 << 20;
/// Largest secret that BuildKit takes.
const MAX_SECRET: usize = 500 << 10;
/// Time that a cancelled build gets to end, before its connections are simply closed.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// Why the exchange with the engine ended without an image.
enum Ended {
    /// BuildKit's final sentence.
    Failed(String),
    /// The engine refused the request.
    Refused(EngineError),
    /// The connection broke.
    Lost(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl Docker {
    pub(in crate::docker) async fn run_build(
        &self,
        mut request: BuildRequest,
        sink: mpsc::Sender<BuildEvent>,
        cancel: CancellationToken,
    ) -> Result<BuiltImage, EngineError> {
        validate(&request, |tag| self.instance().owns_tag(tag))?;
        let build_id = Uuid::new_v4().to_string();
        let (tag, limit) = (request.tag.clone(), request.limits.time);
        let mut progress = Progress::new(Redactor::new(&request.secrets));
        let stop_context = CancellationToken::new();
        let context_error = watch_context(&mut request, stop_context.clone());
        let deadline = Instant::now() + limit;
        let mut stopped_with = None;
        let outcome = 'exchange: {
            let exchange = self.exchange(&build_id, request, &sink, &mut progress);
            tokio::pin!(exchange);
            let stopped = tokio::select! {
                biased;
                () = cancel.cancelled() => EngineError::Cancelled { what: "the build".into() },
                () = tokio::time::sleep_until(deadline) => {
                    EngineError::TimedOut { what: "the build".into(), after: limit }
                }
                outcome = &mut exchange => break 'exchange outcome,
            };
            // The connections stay open until the engine has been told, so that it ends the build in order; what
            // they still bring must be read meanwhile. Then they are closed, which also ends it.
            let told = async {
                self.stop_build(&build_id).await;
                stop_context.cancel();
                tokio::time::sleep(CANCEL_GRACE).await;
            };
            tokio::select! {
                _ = &mut exchange => {}
                () = told => {}
            }
            stopped_with = Some(stopped);
            Err(Ended::Failed(String::new()))
        };
        if let Some(stopped) = stopped_with {
            self.forget_tag(&tag).await;
            return Err(stopped);
        }
        for event in progress.finish() {
            let _ = sink.send(event).await;
        }
        match outcome {
            Ok(image_id) => self.built(image_id).await,
            Err(Ended::Failed(message)) => Err(classify(&progress.redact(&message), progress.failed_step())),
            Err(Ended::Refused(error)) => Err(error),
            // The connection breaks too when the context does: that is then the reason.
            Err(Ended::Lost(_)) if context_error.get().is_some() => Err(EngineError::other(
                "reading the build context",
                context_error.get().map_or("", String::as_str),
            )),
            Err(Ended::Lost(error)) => {
                tracing::debug!(%error, "connection lost during build");
                Err(self.unreachable().await)
            }
        }
    }

    /// Sends the request and reads the answer to its end.
    async fn exchange(
        &self,
        build_id: &str,
        build: BuildRequest,
        sink: &mpsc::Sender<BuildEvent>,
        progress: &mut Progress,
    ) -> Result<String, Ended> {
        let version = self.client().await.map_err(Ended::Refused)?.client_version().to_string();
        let host = self.host().map_err(Ended::Refused)?;
        let query = self.query(build_id, &build);
        let _session = Session::open(host, &version, build_id, build.secrets, build.registries).await?;
        let request = request(Method::POST, &version, "/build", &query)
            .header(http::header::CONTENT_TYPE, "application/x-tar")
            .body(streamed(build.context))
            .map_err(io::Error::other)?;
        let mut connection = Connection::open(host).await?;
        let response = connection.send(request).await?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            let message = error_message(response).await;
            return Err(Ended::Refused(from_status("starting the build".into(), status, &message)));
        }
        let mut messages = Messages::new(response.into_body());
        let mut image_id = None;
        while let Some(message) = messages.next().await? {
            if let Some(error) = message.error_detail.and_then(|detail| detail.message) {
                return Err(Ended::Failed(error));
            }
            match message.aux {
                Some(BuildInfoAux::BuildKit(status)) => {
                    for event in progress.apply(status) {
                        // A receiver that went away has no interest in the log; the build goes on.
                        let _ = sink.send(event).await;
                    }
                }
                Some(BuildInfoAux::Default(image)) => image_id = image.id.or(image_id),
                None => {}
            }
        }
        image_id.ok_or_else(|| Ended::Lost(io::Error::other("the answer ended without an image")))
    }

    /// The parameters of `/build`.
    fn query(&self, build_id: &str, build: &BuildRequest) -> Vec<(&'static str, String)> {
        let mut labels = build.labels.clone();
        labels.extend(self.instance().labels());
        let json = |map: &std::collections::BTreeMap<String, String>| {
            serde_json::to_string(&map.iter().collect::<HashMap<_, _>>()).unwrap_or_default()
        };
        let mut query = vec![
            ("version", "2".to_owned()),
            ("session", build_id.to_owned()),
            ("buildid", build_id.to_owned()),
            ("t", build.tag.clone()),
            ("dockerfile", build.dockerfile.clone()),
            ("labels", json(&labels)),
            ("buildargs", json(&build.args)),
            ("networkmode", "default".to_owned()),
            ("rm", "1".to_owned()),
            ("forcerm", "1".to_owned()),
        ];
        if let Some(target) = &build.target {
            query.push(("target", target.clone()));
        }
        if build.no_cache {
            query.push(("nocache", "1".to_owned()));
        }
        if build.pull {
            query.push(("pull", "1".to_owned()));
        }
        query
    }

    async fn stop_build(&self, build_id: &str) {
        let id = [("id", build_id.to_owned())];
        if let Err(error) =
            self.raw_call("cancelling the build", Method::POST, "/build/cancel", &id, QUICK).await
        {
            tracing::warn!(%error, build_id, "the engine did not take the cancellation; closing its connection");
        }
    }

    /// Removes what a build tagged in the moment in which it was stopped.
    async fn forget_tag(&self, tag: &str) {
        if let Err(error) = self.delete_image(tag).await {
            tracing::warn!(%error, tag, "could not remove the image of a cancelled build");
        }
    }

    async fn built(&self, image_id: String) -> Result<BuiltImage, EngineError> {
        let image = self
            .find_image(&image_id)
            .await?
            .ok_or_else(|| EngineError::NotFound { what: format!("the image {image_id} just built") })?;
        Ok(BuiltImage {
            image_id: image.id,
            size_bytes: image.size_bytes,
            exposed_ports: image.exposed_ports,
            created_at: image.created_at,
        })
    }
}

/// Ends the context when `stop` fires, so that a build that waits for it ends; and notes why it could not be read to
/// its end, if it could not.
fn watch_context(request: &mut BuildRequest, stop: CancellationToken) -> Arc<OnceLock<String>> {
    let failed = Arc::new(OnceLock::new());
    let note = Arc::clone(&failed);
    let context = std::mem::replace(&mut request.context, futures_util::stream::empty().boxed());
    request.context = context
        .inspect_err(move |error| {
            let _ = note.set(error.to_string());
        })
        .take_until(stop.cancelled_owned())
        .boxed();
    failed
}

fn validate(build: &BuildRequest, is_ours: impl Fn(&str) -> bool) -> Result<(), EngineError> {
    if !is_ours(&build.tag) {
        return Err(EngineError::invalid(
            format!("image tag {:?}", build.tag),
            "it must be one of this instance",
        ));
    }
    let path = std::path::Path::new(&build.dockerfile);
    let inside = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if build.dockerfile.is_empty() || !inside {
        return Err(EngineError::invalid(
            format!("Dockerfile path {:?}", build.dockerfile),
            "it must be a path within the source",
        ));
    }
    for BuildSecret { id, value } in &build.secrets {
        if value.len() > MAX_SECRET {
            return Err(EngineError::invalid(format!("build secret {id}"), "it is larger than 500 KiB"));
        }
    }
    Ok(())
}

/// The JSON messages of the answer, one by one.
struct Messages {
    body: Incoming,
    buffer: BytesMut,
    /// Up to where the buffer is known to hold no line end.
    searched: usize,
    ended: bool,
}

impl Messages {
    fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0, ended: false }
    }

    async fn next(&mut self) -> io::Result<Option<BuildInfo>> {
        loop {
            if let Some(line) = self.line() {
                let line = line.trim_ascii();
                if line.is_empty() {
                    continue;
                }
                return serde_json::from_slice(line).map(Some).map_err(io::Error::other);
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(error)) => return Err(io::Error::other(error)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                    if self.buffer.len() > MAX_MESSAGE {
                        return Err(io::Error::other("a message of the engine is too large"));
                    }
                }
            }
        }
    }

    /// The next whole line; at the end of the answer also one without a line end.
    fn line(&mut self) -> Option<BytesMut> {
        match self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let line = self.buffer.split_to(self.searched + at + 1);
                self.searched = 0;
                Some(line)
            }
            None if self.ended && !self.buffer.is_empty() => {
                self.searched = 0;
                Some(self.buffer.split())
            }
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }
}
