//! An agent's connection to the daemon by MCP, and the record of what it did.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use rmcp::{
    ServiceError,
    model::{
        CallToolRequestParams, ClientCapabilities, ClientConfig, Implementation, JsonObject, ProtocolVersion,
        Tool,
    },
    service::{ClientLifecycleMode, ClientServiceExt as _, RoleClient, RunningService},
    transport::{StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Bytes of JSON that make a token: what two public tokenizers make of these texts.
const BYTES_PER_TOKEN: f64 = 4.1;

/// The tools that reach others.
const GATEWAYS: [&str; 2] = ["tool_read", "tool_write"];

/// Roughly how many tokens a text is.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub fn tokens(text: &str) -> u64 {
    (text.len() as f64 / BYTES_PER_TOKEN).ceil() as u64
}

/// One call that an agent made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The tool, also where it was reached through another.
    pub tool: String,
    /// Its input.
    pub arguments: Value,
    /// The problem's code, if it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the agent read.
    pub text: String,
    /// The same as data.
    #[serde(default)]
    pub structured: Value,
}

impl Done {
    /// Tokens that the call and its answer cost.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        tokens(&self.arguments.to_string()) + tokens(&self.text)
    }

    /// Whether nothing was to happen.
    #[must_use]
    pub fn is_dry(&self) -> bool {
        self.arguments["dry_run"] == true
    }
}

/// A connection with one token.
#[derive(Debug)]
pub struct Session {
    client: RunningService<RoleClient, ClientConfig>,
    tools: Vec<Tool>,
    /// What was done so far.
    pub done: Vec<Done>,
    /// Calls that are still allowed.
    left: usize,
}

impl Session {
    /// Opens one. `query` is that of the endpoint's URL, such as `tools=all`; `calls` is how many may be made.
    ///
    /// # Errors
    /// When the daemon does not answer as the protocol wants.
    pub async fn open(control: SocketAddr, token: &str, query: &str, calls: usize) -> Result<Self> {
        let uri = format!("http://{control}/mcp?{query}");
        let config = StreamableHttpClientTransportConfig::with_uri(uri).auth_header(token);
        let http = reqwest::Client::builder().no_proxy().build()?;
        let transport = StreamableHttpClientTransport::with_client(http, config);
        let about = Implementation::new("berth-evals", env!("CARGO_PKG_VERSION"));
        let client = ClientConfig::new(ClientCapabilities::default(), about)
            .serve_with_lifecycle(
                transport,
                ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::LATEST] },
            )
            .await
            .context("opening MCP")?;
        let tools = client.list_all_tools().await.context("listing the tools")?;
        Ok(Self { client, tools, done: Vec::new(), left: calls })
    }

    /// The same with what was done before, by an earlier process.
    #[must_use]
    pub fn resume(mut self, done: Vec<Done>) -> Self {
        self.left = self.left.saturating_sub(done.len());
        self.done = done;
        self
    }

    /// The tools in the list.
    #[must_use]
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// What the server tells every agent first.
    #[must_use]
    pub fn instructions(&self) -> String {
        self.client.peer_info().and_then(|info| info.instructions.clone()).unwrap_or_default()
    }

    /// Calls a tool by the name that the list has. A refusal is an answer, too.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn call(&mut self, name: &str, arguments: Value) -> Result<&Done> {
        let (tool, inner) = match GATEWAYS.contains(&name) {
            true => (
                arguments["name"].as_str().unwrap_or(name).to_owned(),
                arguments.get("arguments").cloned().unwrap_or_else(|| json!({})),
            ),
            false => (name.to_owned(), arguments.clone()),
        };
        let said = if self.left == 0 {
            let text = "The budget of calls is spent. Give your answer.".to_owned();
            (Some("budget".to_owned()), text, Value::Null)
        } else {
            self.left -= 1;
            self.ask(name, arguments).await?
        };
        let (error, text, structured) = said;
        self.done.push(Done { tool, arguments: inner, error, text, structured });
        self.done.last().context("it was just added")
    }

    async fn ask(&self, name: &str, arguments: Value) -> Result<(Option<String>, String, Value)> {
        let arguments: JsonObject = match arguments {
            Value::Object(map) => map,
            Value::Null => JsonObject::new(),
            other => {
                let text = format!("The arguments must be a JSON object, not {other}.");
                return Ok((Some("invalid_input".into()), text, Value::Null));
            }
        };
        let request = CallToolRequestParams::new(name.to_owned()).with_arguments(arguments);
        let result = match self.client.call_tool(request).await {
            Ok(result) => result,
            Err(ServiceError::McpError(e)) => {
                return Ok((Some("protocol".into()), e.message.into_owned(), Value::Null));
            }
            Err(error) => return Err(error).with_context(|| format!("calling {name}")),
        };
        let parts: Vec<&str> =
            result.content.iter().filter_map(|b| b.as_text()).map(|t| t.text.as_str()).collect();
        let text = parts.join("\n");
        let structured = result.structured_content.unwrap_or_default();
        let error = (result.is_error == Some(true))
            .then(|| structured["problem"]["code"].as_str().unwrap_or("error").to_owned());
        Ok((error, text, structured))
    }

    /// Calls a tool wherever it is: itself if the list has it, else as `tool_search` says.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn reach(&mut self, tool: &str, arguments: Value) -> Result<&Done> {
        if self.tools.iter().any(|t| t.name == tool) {
            return self.call(tool, arguments).await;
        }
        let found = self.call("tool_search", json!({ "query": tool.replace('_', " "), "limit": 10 })).await?;
        let entry = found.structured["tools"].as_array().into_iter().flatten().find(|t| t["name"] == tool);
        let way = entry.and_then(|t| t["call_with"].as_str()).unwrap_or(tool).to_owned();
        self.call(&way, json!({ "name": tool, "arguments": arguments })).await
    }
}
