//! The session of a build: a connection over which BuildKit calls *us*, for secrets and registry credentials.
//!
//! It is an HTTP/1.1 request to the engine's `/session` that both sides upgrade to HTTP/2, on which we are the
//! gRPC server. It lives as long as its handle.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bollard::health::health_check_response::ServingStatus;
use bollard::health::health_server::{Health, HealthServer};
use bollard::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use bollard::moby::buildkit::secrets::v1::secrets_server::{Secrets, SecretsServer};
use bollard::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard::moby::filesync::v1 as filesync;
use bollard::moby::filesync::v1::auth_server::{Auth, AuthServer};
use futures_util::stream::{self, BoxStream};
use http::{Method, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use super::super::host::EngineHost;
use super::super::image::RegistryAuth;
use super::super::wire::{Connection, empty, error_message, request};
use super::BuildSecret;

const METHOD_HEADER: &str = "X-Docker-Expose-Session-Grpc-Method";

/// An open session; dropping it closes the connection.
pub(super) struct Session {
    _task: AbortOnDropHandle<()>,
}

impl Session {
    /// Opens a session named `id` that serves these secrets and credentials.
    pub(super) async fn open(
        host: &EngineHost,
        version: &str,
        id: &str,
        secrets: Vec<BuildSecret>,
        registries: Vec<RegistryAuth>,
    ) -> io::Result<Self> {
        let request = request(Method::POST, version, "/session", &[])
            .header("Connection", "Upgrade")
            .header("Upgrade", "h2c")
            .header("X-Docker-Expose-Session-Uuid", id)
            .header("X-Docker-Expose-Session-Name", "berth")
            .header(METHOD_HEADER, "/grpc.health.v1.Health/Check")
            .header(METHOD_HEADER, "/moby.buildkit.secrets.v1.Secrets/GetSecret")
            .header(METHOD_HEADER, "/moby.filesync.v1.Auth/Credentials")
            .body(empty())
            .map_err(io::Error::other)?;
        let mut connection = Connection::open(host).await?;
        let response = connection.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            return Err(io::Error::other(format!("{status}: {}", error_message(response).await)));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
        let transport = Transport(TokioIo::new(upgraded));
        let secrets = secrets.into_iter().map(|secret| (secret.id, secret.value)).collect();
        let router = tonic::transport::Server::builder()
            .add_service(HealthServer::new(AlwaysServing))
            .add_service(SecretsServer::new(SecretStore { secrets }))
            .add_service(AuthServer::new(Credentials { registries }));
        let task = tokio::spawn(async move {
            // The one connection, and then none: the server would end when there is no next, before it is served.
            let incoming = stream::iter([Ok::<_, io::Error>(transport)]);
            if let Err(error) = router.serve_with_incoming(incoming).await {
                tracing::debug!(%error, "build session ended");
            }
        });
        Ok(Self { _task: AbortOnDropHandle::new(task) })
    }
}

struct SecretStore {
    secrets: HashMap<String, Vec<u8>>,
}

#[tonic::async_trait]
impl Secrets for SecretStore {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = &request.get_ref().id;
        match self.secrets.get(id) {
            Some(value) => Ok(Response::new(GetSecretResponse { data: value.clone() })),
            None => Err(Status::not_found(format!("this app has no build secret named {id}"))),
        }
    }
}

struct Credentials {
    registries: Vec<RegistryAuth>,
}

#[tonic::async_trait]
impl Auth for Credentials {
    async fn credentials(
        &self,
        request: Request<filesync::CredentialsRequest>,
    ) -> Result<Response<filesync::CredentialsResponse>, Status> {
        // BuildKit asks for Docker Hub by the host that serves it.
        let host = match request.get_ref().host.as_str() {
            "registry-1.docker.io" | "index.docker.io" => "docker.io",
            other => other,
        };
        // No entry means anonymous, which is an answer and not an error.
        let found = self.registries.iter().find(|auth| auth.registry == host);
        let (username, secret) =
            found.map(|auth| (auth.username.clone(), auth.password.clone())).unwrap_or_default();
        Ok(Response::new(filesync::CredentialsResponse { username, secret }))
    }

    // Only `Credentials` is offered when the session opens: BuildKit then fetches tokens itself.
    async fn fetch_token(
        &self,
        _: Request<filesync::FetchTokenRequest>,
    ) -> Result<Response<filesync::FetchTokenResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by BuildKit"))
    }

    async fn get_token_authority(
        &self,
        _: Request<filesync::GetTokenAuthorityRequest>,
    ) -> Result<Response<filesync::GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by BuildKit"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<filesync::VerifyTokenAuthorityRequest>,
    ) -> Result<Response<filesync::VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by BuildKit"))
    }
}

/// BuildKit checks every few seconds that the session is alive.
struct AlwaysServing;

#[tonic::async_trait]
impl Health for AlwaysServing {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("only check is served"))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("only check is served"))
    }
}

/// The upgraded connection, as the gRPC server wants it.
struct Transport(TokioIo<Upgraded>);

impl Connected for Transport {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
