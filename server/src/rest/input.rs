//! From a request's path, query and body to a tool's input: plain JSON that the tool itself then parses.

use std::time::Duration;

use axum::body::Body;
use berth_schemas::{Code, Problem};
use berth_tools::Tool;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value};

use crate::{
    route,
    schema::{self, Field, Shape},
};

/// Largest JSON body in bytes.
const BODY_MAX: usize = 1 << 20;
/// The same where the input carries files.
const BODY_MAX_WITH_FILES: usize = 8 << 20;
/// Time in which a body must have come.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// What a tool's requests look like; worked out once per tool.
#[derive(Debug)]
pub struct Reader {
    fields: Vec<Field>,
    path: Vec<String>,
    query: bool,
    body_max: usize,
    idempotent_by_key: bool,
}

impl Reader {
    /// The reader for a tool's requests.
    #[must_use]
    pub fn new(tool: &Tool) -> Self {
        let fields = schema::fields(&tool.input);
        let has = |name: &str, map: bool| {
            fields.iter().any(|f| f.name == name && (!map || matches!(f.shape, Shape::Map(_))))
        };
        Self {
            path: route::path_fields(tool.spec.path).map(str::to_owned).collect(),
            query: route::uses_query(tool.spec.method),
            body_max: if has("files", true) { BODY_MAX_WITH_FILES } else { BODY_MAX },
            idempotent_by_key: has("idempotency_key", false),
            fields,
        }
    }

    /// Reads a request.
    ///
    /// # Errors
    /// `InvalidInput`, `TooLarge` or `TimedOut`, naming the field where there is one.
    pub async fn read(
        &self,
        path: &[(String, String)],
        query: Option<&str>,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Value, Problem> {
        let mut input = if self.query {
            self.read_query(query.unwrap_or_default())?
        } else {
            if query.is_some_and(|q| !q.is_empty()) {
                return Err(Problem::new(Code::InvalidInput, "This route takes no query parameters.")
                    .hint("Send the fields as a JSON object in the body."));
            }
            object(headers, &collect(body, self.body_max).await?)?
        };
        for (name, text) in path {
            let value = self.parse(name, text)?;
            if input.insert(name.clone(), value).is_some() {
                return Err(Problem::invalid(
                    name,
                    format!("{name} is given by the path and must not be given again."),
                ));
            }
        }
        if let Some(key) = headers.get("idempotency-key").filter(|_| self.idempotent_by_key) {
            let key = key.to_str().map_err(|_| {
                Problem::invalid("idempotency_key", "The Idempotency-Key header is not plain text.")
            })?;
            match input.get("idempotency_key") {
                Some(given) if given != key => {
                    return Err(Problem::invalid(
                        "idempotency_key",
                        "The Idempotency-Key header and idempotency_key differ.",
                    ));
                }
                _ => input.insert("idempotency_key".into(), key.into()),
            };
        }
        Ok(Value::Object(input))
    }

    fn read_query(&self, query: &str) -> Result<Map<String, Value>, Problem> {
        let mut input = Map::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
            let broken = || {
                Problem::new(
                    Code::InvalidInput,
                    format!("The query parameter {name:?} is not valid percent-encoding."),
                )
            };
            let name = route::decode(name, true).ok_or_else(broken)?;
            let text = route::decode(text, true).ok_or_else(broken)?;
            if self.path.contains(&name) {
                return Err(Problem::invalid(
                    &name,
                    format!("{name} is given by the path and must not be given again."),
                ));
            }
            let value = self.parse(&name, &text)?;
            match (input.get_mut(&name), value) {
                (Some(Value::Array(have)), Value::Array(more)) => have.extend(more),
                (Some(_), _) => return Err(Problem::invalid(&name, format!("{name} is given twice."))),
                (None, value) => {
                    input.insert(name, value);
                }
            }
        }
        Ok(input)
    }

    /// A text as the field's type; an unknown field stays text, for the tool to name what it knows.
    fn parse(&self, name: &str, text: &str) -> Result<Value, Problem> {
        let Some(field) = self.fields.iter().find(|f| f.name == name) else { return Ok(text.into()) };
        field.shape.parse(text).map_err(|e| Problem::invalid(name, format!("{name}: {e}.")))
    }
}

async fn collect(body: Body, max: usize) -> Result<Bytes, Problem> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, max).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Problem::new(Code::TooLarge, format!("The body is larger than {} KiB.", max >> 10))
                .hint("Whole folders go through POST /v1/uploads, `berth deploy` or git_url."))
        }
        Ok(Err(_)) => Err(Problem::new(Code::InvalidInput, "The body broke off.")),
        Err(_) => Err(Problem::new(
            Code::TimedOut,
            format!("The body took longer than {} s.", BODY_TIMEOUT.as_secs()),
        )),
    }
}

fn object(headers: &HeaderMap, body: &Bytes) -> Result<Map<String, Value>, Problem> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    let wrong = |text: String| {
        Problem::new(Code::InvalidInput, text).hint("Send a JSON object with Content-Type: application/json.")
    };
    let essence =
        headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).and_then(|v| v.split(';').next());
    if !essence.is_some_and(|t| t.trim().eq_ignore_ascii_case("application/json")) {
        return Err(wrong("The body's Content-Type is not application/json.".into()));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(wrong("The body is JSON, but not an object.".into())),
        Err(e) => Err(wrong(format!("The body is not JSON: {e}."))),
    }
}
