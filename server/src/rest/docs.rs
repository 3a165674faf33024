//! `/docs`: the API page, rendered from the registry; and `/v1/openapi.json`.
//!
//! Self-contained: no asset comes from elsewhere, no script runs.

use std::{collections::BTreeMap, fmt::Write as _};

use axum::{
    Json,
    extract::State,
    response::{Html, IntoResponse, Response},
};
use berth_schemas::Code;
use berth_tools::{Method, Registry, Tool};
use http::{HeaderValue, header};
use serde_json::Value;

use super::{Shared, openapi, problem};
use crate::{
    cli::tree,
    route,
    schema::{self, Shape},
};

const POLICY: &str =
    "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The OpenAPI document.
pub async fn openapi(State(control): State<Shared>) -> Json<Value> {
    Json(openapi::document(&control.registry))
}

/// The API page.
pub async fn page(State(control): State<Shared>) -> Response {
    let mut response = Html(render(&control.registry)).into_response();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// The page as HTML.
#[must_use]
pub fn render(registry: &Registry) -> String {
    let mut nouns: BTreeMap<&str, Vec<&Tool>> = BTreeMap::new();
    for tool in registry.tools() {
        nouns.entry(openapi::noun(tool.spec.name)).or_default().push(tool);
    }
    let mut out = String::from(HEAD);
    for noun in nouns.keys() {
        let _ = write!(out, "<a href=\"#{0}\">{0}</a> ", escape(noun));
    }
    out.push_str("<a href=\"#uploads\">uploads</a> <a href=\"#downloads\">downloads</a> <a href=\"#webhooks\">webhooks</a> <a href=\"#problems\">problems</a></nav>\n");
    for (noun, tools) in &nouns {
        let _ = writeln!(out, "<h2 id=\"{0}\">{0}</h2>", escape(noun));
        tools.iter().for_each(|tool| section(&mut out, tool));
    }
    out.push_str(UPLOADS);
    out.push_str(DOWNLOADS);
    out.push_str(WEBHOOKS);
    problems(&mut out);
    out.push_str("</main></body></html>\n");
    out
}

fn section(out: &mut String, tool: &Tool) {
    let spec = &tool.spec;
    let _ = writeln!(
        out,
        "<section id=\"{name}\"><h3>{title}</h3><p class=\"route\"><b>{method}</b> <code>{path}</code> \
         <span class=\"tag\">scope {scope}</span>{destructive}</p><p>{description}</p>",
        name = escape(spec.name),
        title = escape(spec.title),
        method = spec.method.as_str(),
        path = escape(spec.path),
        scope = spec.scope.as_str(),
        destructive =
            if spec.hints.destructive { " <span class=\"tag warn\">destructive</span>" } else { "" },
        description = escape(spec.description).replace('\n', "<br>"),
    );
    let fields = schema::fields(&tool.input);
    if !fields.is_empty() {
        out.push_str("<table><tr><th>Field</th><th>Type</th><th>Meaning</th></tr>\n");
        for field in &fields {
            let _ = writeln!(
                out,
                "<tr><td><code>{}</code>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&field.name),
                if field.required { " *" } else { "" },
                escape(&type_name(&field.shape)),
                escape(&field.description),
            );
        }
        out.push_str("</table>\n");
    }
    let _ = writeln!(
        out,
        "<dl><dt>curl</dt><dd><pre>{}</pre></dd><dt>Command line</dt><dd><pre>{}</pre></dd>\
         <dt>MCP tool</dt><dd><code>{}</code></dd></dl></section>",
        escape(&curl(tool)),
        escape(&tree::usage(tool)),
        escape(spec.name),
    );
}

fn type_name(shape: &Shape) -> String {
    match shape {
        Shape::Text(words) if words.is_empty() => "string".into(),
        Shape::Text(words) => words.join(" | "),
        Shape::Integer => "integer".into(),
        Shape::Number => "number".into(),
        Shape::Boolean => "boolean".into(),
        Shape::List(items) => format!("list of {}", type_name(items)),
        Shape::Map(values) => format!("name → {}", type_name(values)),
        Shape::Json => "object".into(),
    }
}

/// A call with example values for what must be given.
fn curl(tool: &Tool) -> String {
    let in_path: Vec<&str> = route::path_fields(tool.spec.path).collect();
    let path = in_path.iter().fold(tool.spec.path.to_owned(), |path, field| {
        path.replace(&format!("{{{field}}}"), &field.to_ascii_uppercase())
    });
    let method = match tool.spec.method {
        Method::Get => String::new(),
        other => format!(" -X {}", other.as_str()),
    };
    let mut text = format!("curl{method} -H \"Authorization: Bearer $BERTH_TOKEN\" \"$BERTH_URL{path}\"");
    if !route::uses_query(tool.spec.method) {
        let body: serde_json::Map<String, Value> = schema::fields(&tool.input)
            .into_iter()
            .filter(|f| f.required && !in_path.contains(&f.name.as_str()))
            .map(|f| (f.name, example(&f.shape)))
            .collect();
        let _ = write!(text, " \\\n  -H \"Content-Type: application/json\" -d '{}'", Value::Object(body));
    }
    text
}

fn example(shape: &Shape) -> Value {
    match shape {
        Shape::Text(words) => words.first().map_or("…", String::as_str).into(),
        Shape::Integer | Shape::Number => 1.into(),
        Shape::Boolean => true.into(),
        Shape::List(items) => Value::Array(vec![example(items)]),
        Shape::Map(_) | Shape::Json => Value::Object(serde_json::Map::new()),
    }
}

fn problems(out: &mut String) {
    out.push_str(
        "<h2 id=\"problems\">Problems</h2><p>Every error is <code>application/problem+json</code> (RFC 9457) with \
         <code>code</code>, <code>detail</code>, and where they help <code>hint</code>, <code>field</code>, \
         <code>candidates</code>, <code>step</code>, <code>log_tail</code>.</p>\
         <table><tr><th>Code</th><th>Status</th></tr>\n",
    );
    for code in codes() {
        let _ = writeln!(
            out,
            "<tr id=\"problem-{0}\"><td><code>{0}</code></td><td>{1} {2}</td></tr>",
            code.as_str(),
            code.http_status(),
            escape(&problem::title(code)),
        );
    }
    out.push_str("</table>\n");
}

/// Every code, read from its schema so that none is forgotten.
fn codes() -> Vec<Code> {
    let root: Value = schemars::schema_for!(Code).into();
    match schema::shape(&root, &root) {
        Shape::Text(words) => words.iter().filter_map(|w| Code::parse(w)).collect(),
        _ => Vec::new(),
    }
}

/// Escapes text for HTML, in element content and quoted attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Berth API</title>\
<link rel=\"stylesheet\" href=\"/panel.css\"></head><body><main><h1>Berth API</h1>\
<p>Every capability once: as a REST route, as a command, as an MCP tool at <code>/mcp</code>. \
Machine-readable: <a href=\"/v1/openapi.json\">openapi.json</a>. Send the token as \
<code>Authorization: Bearer …</code>. With <code>Accept: text/event-stream</code> any call streams what happens \
as events and ends with <code>result</code> or <code>problem</code>; while nothing happens, a comment every 15 s keeps it \
open.</p><nav>";

const UPLOADS: &str = "<h2 id=\"uploads\">uploads</h2><section><h3>Upload a source archive</h3>\
<p class=\"route\"><b>POST</b> <code>/v1/uploads</code> <span class=\"tag\">scope deploy</span></p>\
<p>Takes a .tar.gz, .tar or .zip as the body; pass the returned id to <code>deployment_create</code> as \
<code>upload</code>. <code>berth deploy</code> does all of it.</p><dl><dt>curl</dt><dd><pre>\
curl -H &quot;Authorization: Bearer $BERTH_TOKEN&quot; -H &quot;Content-Type: application/gzip&quot; \
--data-binary @source.tar.gz &quot;$BERTH_URL/v1/uploads&quot;</pre></dd></dl></section>\n";

const DOWNLOADS: &str = "<h2 id=\"downloads\">downloads</h2><section><h3>Download a file that came with an error</h3>\
<p class=\"route\"><b>GET</b> <code>/v1/apps/{app}/errors/attachments/{attachment}/content</code> \
<span class=\"tag\">scope read</span></p><p>The bytes as they came, as a file to be kept. <code>error_event_get</code> and \
<code>feedback_list</code> show the numbers; <code>berth error attachment-get APP ATTACHMENT --output FILE</code> \
does the same.</p></section>\n";

/// The message of hosts that are none of the forges: `berth_forge::webhook` reads it.
const WEBHOOKS: &str = "<h2 id=\"webhooks\">webhooks</h2><section><h3>Tell of a push</h3>\
<p class=\"route\"><b>POST</b> <code>/hooks/&lt;repository&gt;</code> <span class=\"tag\">signature</span></p>\
<p>Forges send their own webhooks here; <code>repository_connect</code> tells the URL and the secret. For a repository that \
was connected with <code>forge=generic</code>, send JSON with <code>id</code> (new for each push), <code>timestamp</code> \
(seconds, now), <code>repository</code> (owner/name), <code>ref</code> (refs/heads/…) and <code>after</code> (the commit; \
only zeros when it is gone); <code>before</code>, <code>message</code>, <code>author</code> and <code>paths</code> may be \
added. <code>X-Berth-Signature</code> is <code>sha256=</code> and the HMAC-SHA256 of the body with the secret, in hex.</p>\
<dl><dt>curl</dt><dd><pre>\
sign=$(openssl dgst -sha256 -hmac &quot;$SECRET&quot; -r &lt; push.json | cut -d' ' -f1)\n\
curl -H &quot;Content-Type: application/json&quot; -H &quot;X-Berth-Signature: sha256=$sign&quot; \
--data-binary @push.json &quot;$BERTH_URL/hooks/$REPOSITORY&quot;</pre></dd></dl></section>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_code_is_listed() {
        let codes = codes();
        assert!(codes.len() >= 29, "{codes:?}");
        assert!(codes.contains(&Code::OutOfDisk));
    }
}
