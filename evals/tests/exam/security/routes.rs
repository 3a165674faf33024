//! The routes that belong to no tool, and a test that none is missing.

use std::{collections::BTreeSet, path::Path};

use crate::root;

/// How a route that belongs to no tool is guarded.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Guard {
    /// By a token, in the way of the API.
    Api,
    /// By a token, in git's way.
    Git,
    /// By a token, in MCP's way.
    Mcp,
    /// Not at all: it tells nothing of what runs here.
    Open,
    /// By a key, a signature or a ticket of its own.
    Own,
}

/// Every route that belongs to no tool: as the code has it, a request for it, and who guards it.
pub(super) const ROUTES: &[(&str, &str, &str, Guard)] = &[
    ("/", "GET", "/", Guard::Open),
    ("/panel.js", "GET", "/panel.js", Guard::Open),
    ("/panel.css", "GET", "/panel.css", Guard::Open),
    ("/v1", "GET", "/v1", Guard::Open),
    ("/docs", "GET", "/docs", Guard::Open),
    ("/v1/openapi.json", "GET", "/v1/openapi.json", Guard::Open),
    ("/healthz", "GET", "/healthz", Guard::Open),
    ("/readyz", "GET", "/readyz", Guard::Open),
    ("/.well-known/oauth-protected-resource", "GET", "/.well-known/oauth-protected-resource", Guard::Open),
    (
        "/.well-known/oauth-protected-resource/mcp",
        "GET",
        "/.well-known/oauth-protected-resource/mcp",
        Guard::Open,
    ),
    (
        "/.well-known/oauth-authorization-server",
        "GET",
        "/.well-known/oauth-authorization-server",
        Guard::Open,
    ),
    ("/oauth/register", "POST", "/oauth/register", Guard::Own),
    ("/oauth/authorize", "GET", "/oauth/authorize", Guard::Own),
    ("/oauth/authorize", "POST", "/oauth/authorize", Guard::Own),
    ("/oauth/token", "POST", "/oauth/token", Guard::Own),
    ("/oauth/revoke", "POST", "/oauth/revoke", Guard::Own),
    ("/hooks/{id}", "POST", "/hooks/nothing", Guard::Own),
    ("/api/{id}/envelope", "POST", "/api/1/envelope/", Guard::Own),
    ("/api/{id}/store", "POST", "/api/1/store/", Guard::Own),
    ("/api/{id}/security", "POST", "/api/1/security/", Guard::Own),
    ("/api/{id}/csp-report", "POST", "/api/1/csp-report/", Guard::Own),
    ("/api/{id}/minidump", "POST", "/api/1/minidump/", Guard::Own),
    ("/_berth/errors", "POST", "/_berth/errors", Guard::Own),
    ("/v1/uploads", "POST", "/v1/uploads", Guard::Api),
    (
        "/v1/apps/{app}/errors/attachments/{attachment}/content",
        "GET",
        "/v1/apps/shop/errors/attachments/1/content",
        Guard::Api,
    ),
    ("/mcp", "POST", "/mcp", Guard::Mcp),
    ("/mcp", "GET", "/mcp", Guard::Mcp),
    ("/git/{repository}/info/refs", "GET", "/git/shop.git/info/refs?service=git-upload-pack", Guard::Git),
    ("/git/{repository}/info/refs", "GET", "/git/shop.git/info/refs?service=git-receive-pack", Guard::Git),
    ("/git/{repository}/git-upload-pack", "POST", "/git/shop.git/git-upload-pack", Guard::Git),
    ("/git/{repository}/git-receive-pack", "POST", "/git/shop.git/git-receive-pack", Guard::Git),
    ("/git/{repository}/info/lfs/objects/batch", "POST", "/git/shop.git/info/lfs/objects/batch", Guard::Git),
    ("/git/{repository}/info/lfs/objects/{oid}", "GET", "/git/shop.git/info/lfs/objects/OID", Guard::Git),
    ("/git/{repository}/info/lfs/objects/{oid}", "PUT", "/git/shop.git/info/lfs/objects/OID", Guard::Git),
    (
        "/git/{repository}/info/lfs/objects/{oid}/verify",
        "POST",
        "/git/shop.git/info/lfs/objects/OID/verify",
        Guard::Git,
    ),
    ("/git/{repository}/info/lfs/locks", "GET", "/git/shop.git/info/lfs/locks", Guard::Git),
    ("/git/{repository}/info/lfs/locks/verify", "POST", "/git/shop.git/info/lfs/locks/verify", Guard::Git),
    ("/api/0/", "GET", "/api/0/", Guard::Api),
    ("/api/0/auth/", "GET", "/api/0/auth/", Guard::Api),
    ("/api/0/organizations/", "GET", "/api/0/organizations/", Guard::Api),
    ("/api/0/organizations/{org}/", "GET", "/api/0/organizations/berth/", Guard::Api),
    ("/api/0/organizations/{org}/projects/", "GET", "/api/0/organizations/berth/projects/", Guard::Api),
    ("/api/0/organizations/{org}/repos/", "GET", "/api/0/organizations/berth/repos/", Guard::Api),
    (
        "/api/0/organizations/{org}/chunk-upload/",
        "GET",
        "/api/0/organizations/berth/chunk-upload/",
        Guard::Api,
    ),
    (
        "/api/0/organizations/{org}/chunk-upload/",
        "POST",
        "/api/0/organizations/berth/chunk-upload/",
        Guard::Api,
    ),
    (
        "/api/0/organizations/{org}/artifactbundle/assemble/",
        "POST",
        "/api/0/organizations/berth/artifactbundle/assemble/",
        Guard::Api,
    ),
    ("/api/0/organizations/{org}/releases/", "POST", "/api/0/organizations/berth/releases/", Guard::Api),
    (
        "/api/0/organizations/{org}/releases/{release}/",
        "GET",
        "/api/0/organizations/berth/releases/r1/",
        Guard::Api,
    ),
    (
        "/api/0/organizations/{org}/releases/{release}/",
        "PUT",
        "/api/0/organizations/berth/releases/r1/",
        Guard::Api,
    ),
    (
        "/api/0/organizations/{org}/releases/{release}/deploys/",
        "POST",
        "/api/0/organizations/berth/releases/r1/deploys/",
        Guard::Api,
    ),
    (
        "/api/0/organizations/{org}/releases/{release}/previous-with-commits/",
        "GET",
        "/api/0/organizations/berth/releases/r1/previous-with-commits/",
        Guard::Api,
    ),
    ("/api/0/projects/{org}/{project}/releases/", "GET", "/api/0/projects/berth/shop/releases/", Guard::Api),
    ("/api/0/projects/{org}/{project}/releases/", "POST", "/api/0/projects/berth/shop/releases/", Guard::Api),
    ("/api/0/projects/{org}/{project}/issues/", "GET", "/api/0/projects/berth/shop/issues/", Guard::Api),
    (
        "/api/0/projects/{org}/{project}/files/difs/assemble/",
        "POST",
        "/api/0/projects/berth/shop/files/difs/assemble/",
        Guard::Api,
    ),
];

/// A route that is not in the walk is one whose guard nobody has looked at.
#[test]
fn the_walk_knows_every_route() {
    fn read(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            for ingest in text.split("(\"/api/{id}/").skip(1) {
                found.extend(ingest.split('"').next().map(|name| format!("/api/{{id}}/{name}")));
            }
            for call in text.split(".route(").skip(1).chain(text.split(".nest_service(").skip(1)) {
                if let Some(route) = call.trim_start().strip_prefix("\"/") {
                    found.extend(route.split('"').next().map(|rest| format!("/{rest}")));
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    read(&root().join("../server/src/rest"), &mut found);
    read(&root().join("../server/src/oauth"), &mut found);
    // The one that has a constant for a name.
    found.insert("/_berth/errors".into());
    let known: BTreeSet<String> = ROUTES.iter().map(|(route, ..)| (*route).to_owned()).collect();
    assert_eq!(found, known);
}
