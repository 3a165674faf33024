//! Sources of small apps, as `files` of a deployment: they build in a second from images that are there.

use serde_json::{Value, json};

/// An app that answers with its version; see `apps/probe/server.js` for what else it does.
pub(crate) fn probe(version: &str) -> Value {
    json!({ "files": {
        "Dockerfile": include_str!("../apps/probe/Dockerfile"),
        "server.js": include_str!("../apps/probe/server.js"),
        "version.txt": version,
    } })
}

/// A static site of one page.
pub(crate) fn site(text: &str) -> Value {
    json!({ "files": { "index.html": format!("<!doctype html><title>site</title><p>{text}</p>\n") } })
}

/// A Dockerfile alone.
pub(crate) fn dockerfile(text: &str) -> Value {
    json!({ "files": { "Dockerfile": text } })
}

/// A container that runs this Python program, unbuffered.
pub(crate) fn python(program: &str) -> Value {
    json!({ "files": {
        "Dockerfile": "FROM python:3.12-slim\nCOPY app.py /app.py\nCMD [\"python3\", \"-u\", \"/app.py\"]\n",
        "app.py": program,
    } })
}
