//! HTTP towards servers of Git LFS: each host is resolved once and checked, nothing but its addresses is talked to, and
//! what is secret stays with the origin that it is meant for.

use std::{collections::HashMap, path::Path, sync::Mutex, time::Duration};

use base64::Engine as _;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::Url;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::{GitCredential, one_line, token_user};
use crate::{
    lock::lock,
    source::{
        guard::{GuardError, HostPolicy, bound_client, resolve_guarded},
        lfs::{
            Oid,
            wire::{self, Action, Batch, BatchAnswer},
        },
    },
};

/// Longest silence.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest that a connection may take.
const CONNECT: Duration = Duration::from_secs(20);
/// Most redirects of one request.
const MAX_REDIRECTS: usize = 3;
/// Bytes of an answer that is no object.
const MAX_ANSWER: usize = 1 << 20;
/// Headers that a server may have sent along.
const MAX_HEADERS: usize = 30;
/// Waits between tries.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Why a server did not give what was asked for.
#[derive(Debug)]
pub(super) enum Fault {
    /// It may not be talked to.
    Guard(GuardError),
    /// It wants credentials, or others.
    Unauthorized { with_credential: bool },
    /// Something that another try may mend.
    Passing(String),
    /// Something else.
    Other(String),
    /// The disk.
    Disk(std::io::Error),
}

/// What is sent along to one origin, and to no other.
#[derive(Clone, Default)]
pub(super) struct Secrets(HeaderMap);

impl Secrets {
    /// A user and a token or password.
    pub(super) fn of(credential: Option<&GitCredential>, host: &str) -> Self {
        let mut headers = HeaderMap::new();
        if let Some(credential) = credential {
            let user = credential.user.as_deref().unwrap_or_else(|| token_user(host));
            let pair = format!("{user}:{}", credential.secret);
            let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
            if let Ok(mut value) = HeaderValue::from_str(&basic) {
                value.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, value);
            }
        }
        Self(headers)
    }

    /// The headers that a server told to send, but for those that make a request what it is.
    pub(super) fn told<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<Self, Fault> {
        const OURS: [HeaderName; 6] = [
            header::HOST,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
            header::UPGRADE,
            header::ACCEPT_ENCODING,
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let pair = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
            let Some((name, mut value)) = pair else {
                return Err(Fault::Other("it tells headers that are none".into()));
            };
            if headers.len() == MAX_HEADERS {
                return Err(Fault::Other("it tells too many headers".into()));
            }
            if !OURS.contains(&name) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        Ok(Self(headers))
    }

    fn authorizes(&self) -> bool {
        self.0.contains_key(header::AUTHORIZATION)
    }
}

/// Where objects are asked for.
pub(super) struct Endpoint {
    /// Its address, to which `/objects/batch` is added.
    pub(super) url: Url,
    pub(super) secrets: Secrets,
}

/// The connections of one fetch.
pub(super) struct Web {
    policy: HostPolicy,
    allow_http: bool,
    clients: Mutex<HashMap<(String, u16), reqwest::Client>>,
}

struct Asked<'a> {
    method: Method,
    url: Url,
    secrets: Secrets,
    body: Option<&'a [u8]>,
}

impl Web {
    pub(super) fn new(policy: HostPolicy, allow_http: bool) -> Self {
        Self { policy, allow_http, clients: Mutex::default() }
    }

    /// An address that may be used at all.
    pub(super) fn address(&self, text: &str) -> Result<Url, Fault> {
        let url = Url::parse(text).map_err(|_| Fault::Other("an address that it tells is none".into()))?;
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.allow_http => Ok(url),
            _ => Err(Fault::Other("an address that it tells is not https".into())),
        }
    }

    /// Asks what there is for objects.
    pub(super) async fn batch(&self, endpoint: &Endpoint, batch: &Batch) -> Result<BatchAnswer, Fault> {
        let mut url = endpoint.url.clone();
        let path = format!("{}/objects/batch", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let body = serde_json::to_vec(batch).map_err(|e| Fault::Other(e.to_string()))?;
        let mut tries = WAITS.into_iter();
        loop {
            let secrets = endpoint.secrets.clone();
            let asked = Asked { method: Method::POST, url: url.clone(), secrets, body: Some(&body) };
            match self.ask(asked).await {
                Ok(answer) => {
                    let bytes = read(answer).await?;
                    return serde_json::from_slice(&bytes)
                        .map_err(|_| Fault::Other("its answer is none of Git LFS".into()));
                }
                Err(fault) => again(fault, &mut tries).await?,
            }
        }
    }

    /// Writes an object to a file that does not exist yet.
    pub(super) async fn download(
        &self,
        endpoint: &Endpoint,
        action: &Action,
        authenticated: bool,
        (oid, size): (&Oid, u64),
        to: &Path,
    ) -> Result<(), Fault> {
        let url = self.address(&action.href)?;
        let mut secrets = Secrets::told(action.header.iter().flatten())?;
        // As git-lfs does: who answered the question gets the same credentials with the request that it told.
        if !authenticated && !secrets.authorizes() && url.origin() == endpoint.url.origin() {
            secrets.0.extend(endpoint.secrets.0.clone());
        }
        let mut tries = WAITS.into_iter();
        loop {
            let asked = Asked { method: Method::GET, url: url.clone(), secrets: secrets.clone(), body: None };
            let written = match self.ask(asked).await {
                Ok(answer) => write(answer, oid, size, to).await,
                Err(fault) => Err(fault),
            };
            match written {
                Ok(()) => return Ok(()),
                Err(fault) => match tokio::fs::remove_file(to).await {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Fault::Disk(error));
                    }
                    _ => again(fault, &mut tries).await?,
                },
            }
        }
    }

    /// Sends a request and follows redirects. The answer is a good one.
    async fn ask(&self, mut asked: Asked<'_>) -> Result<reqwest::Response, Fault> {
        for _ in 0..=MAX_REDIRECTS {
            let client = self.client(&asked.url).await?;
            let mut request = client.request(asked.method.clone(), asked.url.clone());
            if let Some(body) = asked.body {
                request = request
                    .header(header::ACCEPT, wire::MEDIA_TYPE)
                    .header(header::CONTENT_TYPE, wire::MEDIA_TYPE)
                    .body(body.to_vec());
            }
            let answer = request.headers(asked.secrets.0.clone()).send().await;
            let answer = answer.map_err(|e| Fault::Passing(cause(&e)))?;
            let status = answer.status();
            // A request with a body goes on only where that is to be sent again.
            let onward = match asked.body {
                None => status.is_redirection() && status != StatusCode::NOT_MODIFIED,
                Some(_) => {
                    status == StatusCode::TEMPORARY_REDIRECT || status == StatusCode::PERMANENT_REDIRECT
                }
            };
            if !onward {
                return judge(answer, asked.secrets.authorizes()).await;
            }
            let to = answer.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
            let next = to.and_then(|to| asked.url.join(to).ok());
            let next = next.ok_or_else(|| Fault::Other("it redirects to nowhere".into()))?;
            let next = self.address(next.as_str())?;
            if next.origin() != asked.url.origin() {
                asked.secrets = Secrets::default();
            }
            asked.url = next;
        }
        Err(Fault::Other("it redirects too often".into()))
    }

    /// A client that talks to the addresses of this host that were checked.
    async fn client(&self, url: &Url) -> Result<reqwest::Client, Fault> {
        let host = url.host_str().ok_or_else(|| Fault::Other("an address has no host".into()))?;
        let port = url.port_or_known_default().unwrap_or(443);
        let key = (host.to_owned(), port);
        if let Some(known) = lock(&self.clients).get(&key) {
            return Ok(known.clone());
        }
        let addresses = resolve_guarded(host, port, &self.policy).await.map_err(Fault::Guard)?;
        // Building a client wants one; that it is set already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = bound_client(host, &addresses)
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .user_agent(concat!("git-lfs/3 (Berth ", env!("CARGO_PKG_VERSION"), ")"))
            .build()
            .map_err(|e| Fault::Other(e.to_string()))?;
        lock(&self.clients).insert(key, client.clone());
        Ok(client)
    }
}

/// Waits before another try, or hands on why there is none.
async fn again(fault: Fault, tries: &mut impl Iterator<Item = Duration>) -> Result<(), Fault> {
    match (fault, tries.next()) {
        (Fault::Passing(_), Some(wait)) => {
            tokio::time::sleep(wait).await;
            Ok(())
        }
        (fault, _) => Err(fault),
    }
}

/// Makes a fault of an answer that is not good.
async fn judge(answer: reqwest::Response, with_credential: bool) -> Result<reqwest::Response, Fault> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    if status == StatusCode::UNAUTHORIZED || (status == StatusCode::FORBIDDEN && !with_credential) {
        return Err(Fault::Unauthorized { with_credential });
    }
    // Its words are a stranger's.
    let said = read(answer).await.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let said = said.as_ref().and_then(|value: &serde_json::Value| value["message"].as_str()).map(one_line);
    let said = said.map(|said| format!(" ({said:?})")).unwrap_or_default();
    let text = format!("it answered {}{said}", status.as_u16());
    let passing = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
    Err(if passing || status == StatusCode::TOO_MANY_REQUESTS {
        Fault::Passing(text)
    } else {
        Fault::Other(text)
    })
}

async fn read(answer: reqwest::Response) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let mut chunks = answer.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        bytes.extend_from_slice(&chunk.map_err(|e| Fault::Passing(cause(&e)))?);
        if bytes.len() > MAX_ANSWER {
            return Err(Fault::Other("its answer is too large".into()));
        }
    }
    Ok(bytes)
}

/// Writes what comes, and no more than was announced, and checks that it is that.
async fn write(answer: reqwest::Response, oid: &Oid, size: u64, to: &Path) -> Result<(), Fault> {
    let file = tokio::fs::File::create_new(to).await.map_err(Fault::Disk)?;
    let mut file = tokio::io::BufWriter::with_capacity(256 << 10, file);
    let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
    let mut chunks = answer.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| Fault::Passing(cause(&e)))?;
        bytes += chunk.len() as u64;
        if bytes > size {
            return Err(Fault::Other(format!("more came of {} than its {size} bytes", oid.short())));
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(Fault::Disk)?;
    }
    file.flush().await.map_err(Fault::Disk)?;
    if bytes < size {
        return Err(Fault::Passing(format!("{bytes} bytes came of {}, which has {size}", oid.short())));
    }
    if Oid::of(&hash.finalize().into()) != *oid {
        return Err(Fault::Other(format!("what came for {} has another SHA-256", oid.short())));
    }
    Ok(())
}

/// The innermost reason: the outer words name the address, which may hold a signature.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    one_line(&cause.to_string())
}
