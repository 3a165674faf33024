//! The tool registry served as MCP.
//!
//! Nothing here knows a tool by name: the list, the calls and the search iterate over the registry. What lives
//! here is what only assistants need: which tools are shown to whom ([`surface`]), how an answer becomes what a
//! model reads ([`answer`]), how text that strangers wrote is framed ([`frame`]), prompts, resources and
//! completions. What does not: authentication (the server puts a
//! [`Principal`](berth_store::model::Principal) into the request's extensions) and the tools themselves.
//!
//! The transport is stateless streamable HTTP: no sessions, so that any request may be the first after a
//! restart of the daemon. Both protocol eras are served, 2026-07-28 and the one with `initialize` before it.

mod answer;
mod ask;
mod completion;
mod cut;
mod detail;
mod frame;
mod handler;
mod progress;
mod prompts;
mod resources;
mod search;
mod surface;
mod tasks;
mod view;

use std::sync::{Arc, OnceLock};

use berth_schemas::Scope;
use berth_tools::{Context, Registry};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};
use tokio_util::sync::CancellationToken;

pub use handler::Handler;

/// Largest request body in bytes: inline files of a deployment are the largest inputs.
const LARGEST_BODY: usize = 4 * 1024 * 1024;

/// In place of host names: any, because whoever serves the endpoint has looked at the host already.
pub const ANY_HOST: &str = "*";

/// How the endpoint is reached.
#[derive(Debug, Clone)]
pub struct McpConfig {
    /// Host names, with or without port, under which the endpoint may be called; loopback names always may.
    /// Other hosts get 403, so that no web page can reach a local daemon by a name of its own. [`ANY_HOST`] among them
    /// leaves that to whoever serves it.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may call it, as scheme://host:port; those of loopback always may.
    pub allowed_origins: Vec<String>,
    /// Ends open answers when it is cancelled.
    pub ct: CancellationToken,
}

/// Where the endpoint leaves the scope that a call lacked, for whoever answers the HTTP request: a client that acts by
/// a grant is to be told there what to ask for. Belongs into the request's extensions.
#[derive(Debug, Clone, Default)]
pub struct Lacking(Arc<OnceLock<Scope>>);

impl Lacking {
    /// The scope, if a call lacked one.
    #[must_use]
    pub fn scope(&self) -> Option<Scope> {
        self.0.get().copied()
    }

    pub(crate) fn note(&self, scope: Scope) {
        // The first is as good as any.
        let _ = self.0.set(scope);
    }
}

/// The endpoint, to be nested at `/mcp` behind the server's authentication.
pub type Service = StreamableHttpService<Handler, NeverSessionManager>;

impl McpConfig {
    /// The transport that the endpoint has: no sessions, JSON answers unless something is told before the answer.
    #[must_use]
    pub fn transport(self) -> StreamableHttpServerConfig {
        let own = ["localhost", "127.0.0.1", "::1"].into_iter().map(String::from);
        let any = self.allowed_hosts.iter().any(|host| host == ANY_HOST);
        // The transport takes an empty list for every host.
        let hosts = if any { Vec::new() } else { own.chain(self.allowed_hosts).collect() };
        let loopback =
            ["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"].into_iter().map(String::from);
        StreamableHttpServerConfig::default()
            .with_legacy_session_mode(false)
            .with_json_response(true)
            .with_max_request_body_bytes(LARGEST_BODY)
            .with_allowed_hosts(hosts)
            .with_allowed_origins(loopback.chain(self.allowed_origins))
            .with_cancellation_token(self.ct)
    }
}

/// Makes the endpoint.
#[must_use]
pub fn service(registry: Arc<Registry>, context: Arc<Context>, config: McpConfig) -> Service {
    let handler = Handler::new(registry, context);
    StreamableHttpService::new(move || Ok(handler.clone()), Arc::default(), config.transport())
}
