//! Berth's REST interface by the names of its tools, as its own OpenAPI document describes it.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value};

/// Longer than any tool may wait.
const TIMEOUT: Duration = Duration::from_secs(90);

/// How one tool is called.
#[derive(Debug, Clone)]
struct Operation {
    method: String,
    path: String,
    in_path: Vec<String>,
    /// Whether the rest of its input travels in the query instead of a body.
    query: bool,
}

/// A tool as the document describes it.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Hints {
    /// Changes nothing.
    pub read_only: bool,
    /// May destroy something for good.
    pub destructive: bool,
    /// A second call changes nothing more.
    pub idempotent: bool,
    /// Reaches out of the platform.
    pub open_world: bool,
}

/// A client of one daemon with one token.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    token: String,
    operations: BTreeMap<String, Operation>,
    hints: BTreeMap<String, Hints>,
}

impl Api {
    /// Reads what the daemon at `control` can do.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn open(control: SocketAddr, token: &str) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        let base = format!("http://{control}");
        let document: Value =
            http.get(format!("{base}/v1/openapi.json")).bearer_auth(token).send().await?.json().await?;
        let (mut operations, mut hints) = (BTreeMap::new(), BTreeMap::new());
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                let Some(name) = operation["operationId"].as_str() else { continue };
                let in_path = path.split('{').skip(1).filter_map(|part| part.split('}').next());
                let found = Operation {
                    method: method.to_ascii_uppercase(),
                    path: path.clone(),
                    in_path: in_path.map(str::to_owned).collect(),
                    query: matches!(method.as_str(), "get" | "delete"),
                };
                operations.insert(name.to_owned(), found);
                if let Ok(said) = serde_json::from_value(operation["x-berth-hints"].clone()) {
                    hints.insert(name.to_owned(), said);
                }
            }
        }
        ensure!(!hints.is_empty(), "the daemon's OpenAPI document has no tools");
        Ok(Self { http, base, token: token.to_owned(), operations, hints })
    }

    /// The same with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// All tools and what each says of itself.
    #[must_use]
    pub fn tools(&self) -> &BTreeMap<String, Hints> {
        &self.hints
    }

    /// Whether what does not stand in a tool's path travels as text in its query.
    #[must_use]
    pub fn is_query(&self, tool: &str) -> bool {
        self.operations.get(tool).is_some_and(|operation| operation.query)
    }

    /// Calls a tool: status and answer.
    ///
    /// # Errors
    /// When there is no such tool, an input of its path is missing, or the daemon does not answer.
    pub async fn raw(&self, tool: &str, arguments: &Value) -> Result<(u16, Value)> {
        let operation = self.operations.get(tool).with_context(|| format!("there is no tool {tool}"))?;
        let mut input: Map<String, Value> = arguments.as_object().cloned().unwrap_or_default();
        let mut path = operation.path.clone();
        for field in &operation.in_path {
            let value = input.remove(field).with_context(|| format!("{tool} needs {field}"))?;
            path = path.replace(&format!("{{{field}}}"), &encode(&super::path::text(&value)));
        }
        let request = self.http.request(operation.method.parse()?, format!("{}{path}", self.base));
        let request = request.bearer_auth(&self.token);
        let request = if operation.query {
            let pairs = input.iter().flat_map(|(name, value)| match value {
                Value::Array(items) => {
                    items.iter().map(|v| (name.clone(), super::path::text(v))).collect::<Vec<_>>()
                }
                one => vec![(name.clone(), super::path::text(one))],
            });
            request.query(&pairs.collect::<Vec<_>>())
        } else {
            request.json(&input)
        };
        let answer = request.send().await.with_context(|| format!("calling {tool}"))?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.unwrap_or(Value::Null)))
    }

    /// Calls a tool that must succeed.
    ///
    /// # Errors
    /// When it is refused; the error has what the tool said.
    pub async fn call(&self, tool: &str, arguments: Value) -> Result<Value> {
        let (status, answer) = self.raw(tool, &arguments).await?;
        if status >= 300 {
            bail!("{tool}({arguments}) answered {status}: {} {}", answer["detail"], answer["hint"]);
        }
        Ok(answer)
    }

    /// The same, but a problem with one of these codes is no error: then there is nothing.
    ///
    /// # Errors
    /// When it is refused otherwise.
    pub async fn call_or(&self, tool: &str, arguments: Value, codes: &[&str]) -> Result<Option<Value>> {
        let (status, answer) = self.raw(tool, &arguments).await?;
        match answer["code"].as_str() {
            Some(code) if status >= 300 && codes.contains(&code) => Ok(None),
            _ if status >= 300 => bail!("{tool}({arguments}) answered {status}: {}", answer["detail"]),
            _ => Ok(Some(answer)),
        }
    }

    /// Waits until a deployment is over; it must end in this state.
    ///
    /// # Errors
    /// When it ends otherwise, or not within two minutes.
    pub async fn settled(&self, deployment: &str, state: &str) -> Result<()> {
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(120) {
            let input = serde_json::json!({ "deployment": deployment, "wait_s": 20 });
            let detail = self.call("deployment_get", input).await?;
            if detail["settled"] == true {
                let problem = &detail["problem"]["detail"];
                ensure!(
                    detail["state"] == state,
                    "{deployment} is {}, not {state}: {problem}",
                    detail["state"]
                );
                return Ok(());
            }
        }
        bail!("{deployment} does not settle")
    }
}

fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
