//! The OpenAPI 3.1 document, generated from the registry. Its schemas are the tools' own, so that the two
//! cannot drift.

use berth_schemas::{Problem, upload::Upload};
use berth_tools::{Registry, Tool, error_attachments};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::route;

/// The document.
#[must_use]
pub fn document(registry: &Registry) -> Value {
    let mut components = Map::new();
    let mut paths = Map::new();
    adopt(&mut components, "Problem", schema_of::<Problem>());
    let upload = adopt(&mut components, "Upload", schema_of::<Upload>());
    for tool in registry.tools() {
        let item = paths.entry(tool.spec.path).or_insert_with(|| json!({}));
        item[tool.spec.method.as_str().to_ascii_lowercase()] = operation(tool, &mut components);
    }
    paths.insert("/v1/uploads".into(), json!({ "post": upload_operation(&upload) }));
    paths.insert(error_attachments::DOWNLOAD.into(), json!({ "get": download_operation() }));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Berth",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every capability of a Berth daemon. Each operation is also an MCP tool and a command of `berth`, under the name in `operationId`.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "The daemon that serves this document." }],
        "security": [{ "token": [] }],
        "tags": tags(registry),
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "An access token; see `token_create`." },
            },
        },
    })
}

/// The first word of a tool's name: the thing it is about.
#[must_use]
pub fn noun(name: &str) -> &str {
    name.split('_').next().unwrap_or(name)
}

fn tags(registry: &Registry) -> Vec<Value> {
    let mut names: Vec<&str> = registry.tools().iter().map(|t| noun(t.spec.name)).chain(["upload"]).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| json!({ "name": name })).collect()
}

fn operation(tool: &Tool, components: &mut Map<String, Value>) -> Value {
    let spec = &tool.spec;
    let type_name = camel(spec.name);
    let input = lift(components, &tool.input);
    let output = adopt(components, &format!("{type_name}Output"), tool.output.clone());
    let mut operation = json!({
        "operationId": spec.name,
        "tags": [noun(spec.name)],
        "summary": spec.title,
        "description": format!("{}\n\nScope: `{}`.", spec.description, spec.scope.as_str()),
        "parameters": parameters(tool, &input),
        "responses": {
            "200": {
                "description": "Done. With `Accept: text/event-stream`, events named `state`, `build_line`, `log_line` or `message`, then one `result` with this schema, or one `problem`.",
                "content": { "application/json": { "schema": output }, "text/event-stream": { "schema": { "type": "string" } } },
            },
            "default": problem_response(),
        },
        "x-berth-scope": spec.scope.as_str(),
        "x-berth-hints": {
            "read_only": spec.hints.read_only, "destructive": spec.hints.destructive,
            "idempotent": spec.hints.idempotent, "open_world": spec.hints.open_world,
        },
    });
    if !route::uses_query(spec.method) {
        let body = without_path_fields(input, spec.path);
        let required = body.get("required").and_then(Value::as_array).is_some_and(|r| !r.is_empty());
        let schema = adopt(components, &format!("{type_name}Input"), body);
        operation["requestBody"] =
            json!({ "required": required, "content": { "application/json": { "schema": schema } } });
    }
    operation
}

fn parameters(tool: &Tool, input: &Value) -> Vec<Value> {
    let in_path: Vec<&str> = route::path_fields(tool.spec.path).collect();
    let Some(properties) = input.get("properties").and_then(Value::as_object) else { return Vec::new() };
    let required = input.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut out = Vec::new();
    for (name, schema) in properties {
        let path = in_path.contains(&name.as_str());
        if !path && !route::uses_query(tool.spec.method) {
            continue;
        }
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|s| s.remove("description")).unwrap_or_default();
        out.push(json!({
            "name": name,
            "in": if path { "path" } else { "query" },
            "required": path || required.iter().any(|r| r == name),
            "description": description,
            "schema": schema,
        }));
    }
    out
}

fn without_path_fields(mut input: Value, path: &str) -> Value {
    for field in route::path_fields(path) {
        if let Some(properties) = input.get_mut("properties").and_then(Value::as_object_mut) {
            properties.remove(field);
        }
        if let Some(required) = input.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|r| r != field);
        }
    }
    let none_required = input.get("required").and_then(Value::as_array).is_some_and(Vec::is_empty);
    if let Some(object) = input.as_object_mut().filter(|_| none_required) {
        object.remove("required");
    }
    input
}

fn upload_operation(output: &Value) -> Value {
    let archive = json!({ "schema": { "type": "string", "format": "binary" } });
    json!({
        "operationId": "upload_create",
        "tags": ["upload"],
        "summary": "Upload a source archive",
        "description": "Takes a .tar.gz, .tar or .zip as the body; pass the returned id to `deployment_create` as `upload`.\n\nScope: `deploy`.",
        "requestBody": {
            "required": true,
            "content": {
                "application/gzip": archive, "application/x-tar": archive,
                "application/zip": archive, "application/octet-stream": archive,
            },
        },
        "responses": {
            "201": { "description": "Received and kept.", "content": { "application/json": { "schema": output } } },
            "default": problem_response(),
        },
        "x-berth-scope": "deploy",
    })
}

fn download_operation() -> Value {
    let parameter = |name: &str, kind: &str, about: &str| json!({ "name": name, "in": "path", "required": true, "description": about, "schema": { "type": kind } });
    json!({
        "operationId": "error_attachment_download",
        "tags": ["error"],
        "summary": "Download a file that came with an error",
        "description": "The bytes of an attachment as they came, always as a file to be kept, whatever it is.\n\nScope: `read`.",
        "parameters": [
            parameter("app", "string", "The app."),
            parameter("attachment", "integer", "Its number, as error_event_get and feedback_list show it."),
        ],
        "responses": {
            "200": {
                "description": "The file.",
                "content": { "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } },
            },
            "default": problem_response(),
        },
        "x-berth-scope": "read",
    })
}

fn problem_response() -> Value {
    json!({
        "description": "What went wrong, as RFC 9457 has it.",
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    })
}

fn schema_of<T: JsonSchema>() -> Value {
    let mut schema: Value =
        SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>().into();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("$schema");
        schema.remove("title");
    }
    schema
}

/// Adds a schema to the components under `name` and returns a reference to it.
fn adopt(components: &mut Map<String, Value>, name: &str, schema: Value) -> Value {
    let schema = lift(components, &schema);
    components.insert(name.to_owned(), schema);
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Moves a schema's `$defs` into the components and points its references there. Types of the same name are
/// the same type: they come from one crate.
fn lift(components: &mut Map<String, Value>, schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(Value::Object(defs)) = schema.as_object_mut().and_then(|s| s.remove("$defs")) {
        for (name, mut def) in defs {
            repoint(&mut def);
            components.insert(name, def);
        }
    }
    repoint(&mut schema);
    schema
}

fn repoint(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get_mut("$ref")
                && let Some(name) = target.strip_prefix("#/$defs/")
            {
                *target = format!("#/components/schemas/{name}");
            }
            map.values_mut().for_each(repoint);
        }
        Value::Array(items) => items.iter_mut().for_each(repoint),
        _ => {}
    }
}

/// `app_list` → `AppList`.
fn camel(name: &str) -> String {
    name.split('_')
        .flat_map(|word| {
            let mut letters = word.chars();
            letters.next().into_iter().flat_map(char::to_uppercase).chain(letters)
        })
        .collect()
}
