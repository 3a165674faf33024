//! A JSON-RPC message of MCP, and what HTTP wants to know of it. Pure.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::cli::failure::Failure;

/// Key of the protocol version that each request carries since 2026-07-28.
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// A message from the assistant.
#[derive(Debug, Clone)]
pub struct Message(Value);

impl Message {
    /// Reads a line.
    ///
    /// # Errors
    /// The JSON-RPC error to answer with.
    pub fn parse(line: &str) -> Result<Self, Value> {
        match serde_json::from_str::<Value>(line) {
            Ok(value @ Value::Object(_)) => Ok(Self(value)),
            Ok(_) => Err(
                json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32600, "message": "a message must be one JSON object" } }),
            ),
            Err(e) => Err(
                json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32700, "message": format!("not JSON: {e}") } }),
            ),
        }
    }

    /// The message as it is sent.
    #[must_use]
    pub fn body(&self) -> &Value {
        &self.0
    }

    /// Its method, unless it is an answer.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.0["method"].as_str()
    }

    /// Its id, if it is a request.
    #[must_use]
    pub fn id(&self) -> Option<&Value> {
        self.0.get("id").filter(|id| !id.is_null() && self.0.get("method").is_some())
    }

    /// The id, as JSON, of the request that it cancels.
    #[must_use]
    pub fn cancels(&self) -> Option<String> {
        (self.method() == Some("notifications/cancelled")).then(|| self.0["params"]["requestId"].to_string())
    }

    /// The arguments of a call of `tool`, given directly or passed on by `tool_write`.
    pub fn arguments_of(&mut self, tool: &str) -> Option<&mut serde_json::Map<String, Value>> {
        if self.method() != Some("tools/call") {
            return None;
        }
        let params = self.0.get_mut("params")?;
        if params["name"] == tool {
            return params.get_mut("arguments")?.as_object_mut();
        }
        if params["name"] == "tool_write" && params["arguments"]["name"] == tool {
            return params.get_mut("arguments")?.get_mut("arguments")?.as_object_mut();
        }
        None
    }

    /// The headers that both eras of the protocol want. `agreed` is the version that `initialize` settled.
    #[must_use]
    pub fn headers(&self, agreed: Option<&str>) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        let own = self.0["params"]["_meta"][META_VERSION].as_str();
        if self.method() != Some("initialize")
            && let Some(version) = own.or(agreed)
        {
            out.push(("MCP-Protocol-Version", version.to_owned()));
        }
        let Some(method) = self.method() else { return out };
        out.push(("Mcp-Method", method.to_owned()));
        let field = match method {
            "tools/call" | "prompts/get" => "name",
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => "uri",
            "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
            _ => return out,
        };
        if let Some(name) = self.0["params"][field].as_str() {
            out.push(("Mcp-Name", header_value(name)));
        }
        out
    }
}

/// A text as a header value: as it is, or wrapped in Base64 where it could not travel so.
fn header_value(text: &str) -> String {
    let plain = text.bytes().all(|b| (0x20..=0x7e).contains(&b)) && text.trim() == text;
    if plain && !(text.starts_with("=?base64?") && text.ends_with("?=")) {
        return text.to_owned();
    }
    format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(text))
}

/// A failure on the way as a JSON-RPC error.
#[must_use]
pub fn error(id: &Value, failure: &Failure) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32000, "message": failure.to_string() } })
}

/// A failure that the model can correct, as a tool's answer.
#[must_use]
pub fn tool_error(id: &Value, failure: &Failure) -> Value {
    let content = json!([{ "type": "text", "text": failure.to_string() }]);
    json!({ "jsonrpc": "2.0", "id": id, "result": { "content": content, "isError": true, "resultType": "complete" } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(value: Value) -> Message {
        Message::parse(&value.to_string()).unwrap()
    }

    #[test]
    fn a_request_names_itself_in_headers() {
        let call = message(json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": "app_list", "_meta": { META_VERSION: "2026-07-28" } } }));
        let expected =
            [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "app_list")];
        assert_eq!(call.headers(Some("2025-11-25")), expected.map(|(n, v)| (n, v.to_owned())));
    }

    #[test]
    fn the_era_with_initialize_uses_the_agreed_version() {
        let list = message(json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }));
        assert_eq!(list.headers(Some("2025-11-25"))[0], ("MCP-Protocol-Version", "2025-11-25".to_owned()));
        let first = message(json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {} }));
        assert_eq!(first.headers(None), [("Mcp-Method", "initialize".to_owned())]);
    }

    #[test]
    fn names_that_headers_cannot_carry_are_wrapped() {
        assert_eq!(header_value("web"), "web");
        assert_eq!(header_value("ä"), "=?base64?w6Q=?=");
        assert_eq!(header_value(" x"), "=?base64?IHg=?=");
    }

    #[test]
    fn arguments_are_found_directly_and_through_the_gateway() {
        let direct =
            json!({ "method": "tools/call", "params": { "name": "t", "arguments": { "folder": "." } } });
        assert!(message(direct).arguments_of("t").is_some());
        let passed = json!({ "method": "tools/call", "params": { "name": "tool_write", "arguments": { "name": "t", "arguments": {} } } });
        assert!(message(passed.clone()).arguments_of("t").is_some());
        assert!(message(passed).arguments_of("u").is_none());
    }

    #[test]
    fn answers_and_notifications_are_no_requests() {
        assert!(message(json!({ "id": 1, "result": {} })).id().is_none());
        assert!(message(json!({ "method": "notifications/initialized" })).id().is_none());
        let cancel = message(json!({ "method": "notifications/cancelled", "params": { "requestId": "a" } }));
        assert_eq!(cancel.cancels().as_deref(), Some("\"a\""));
    }
}
