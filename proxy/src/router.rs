//! The route table: host and path prefix to a destination. Immutable: a change is a new table.
//!
//! A host is looked up exactly, then as `*.parent` (one label, as certificates have it). Within the host the
//! longest prefix wins, matched on whole segments: `/api` takes `/api` and `/api/v1`, not `/apis`. An exact host
//! none of whose prefixes match is *not* looked up under its wildcard: who names a host, owns it.

use std::{collections::HashMap, fmt, sync::Arc};

use crate::{hold::Hold, page::StatusPage, rules::HostRules, split::Split, target::ReleaseTarget};

/// Where a route leads.
#[derive(Debug, Clone)]
pub enum Destination {
    /// To a release.
    Release(Arc<ReleaseTarget>),
    /// To one of two releases.
    Split(Arc<Split>),
    /// To none for now: requests wait until the hold is released, and are routed anew.
    Hold(Arc<Hold>),
    /// To a page that says why there is none.
    Page(StatusPage),
    /// To the same path and query on another host (308), such as from `www.` to the bare domain.
    Redirect {
        /// The host to go to.
        host: String,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Route {
    prefix: Box<str>,
    pub(crate) destination: Destination,
    pub(crate) https_only: bool,
    pub(crate) rules: Option<Arc<HostRules>>,
}

/// Two routes that claim the same place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteConflict {
    /// The same host and prefix twice.
    #[error("{host}{prefix} is routed twice")]
    Twice {
        /// The host.
        host: String,
        /// The path prefix.
        prefix: String,
    },
    /// Not a host name or wildcard.
    #[error("`{0}` is no host name: use letters, digits, `-` and `.`, or `*.` before a name")]
    Host(String),
    /// Not a path prefix.
    #[error("`{0}` is no path prefix: it starts with `/` and has no `?`, `#`, space or empty segment")]
    Prefix(String),
}

/// All routes of the data plane.
#[derive(Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Vec<Route>>,
    /// Keyed by what follows `*.`.
    wildcard: HashMap<Box<str>, Vec<Route>>,
}

impl RouteTable {
    /// Starts a table.
    pub fn builder() -> RouteTableBuilder {
        RouteTableBuilder { routes: Vec::new() }
    }

    /// How many routes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.values().chain(self.wildcard.values()).map(Vec::len).sum()
    }

    /// Whether there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty()
    }

    /// The destination of a request, if any: `host` in lower case without port, `path` without query.
    #[must_use]
    pub fn lookup(&self, host: &str, path: &str) -> Option<&Destination> {
        self.find(host, path).map(|route| &route.destination)
    }

    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&Route> {
        let routes = match self.exact.get(host) {
            Some(routes) => routes,
            None => self.wildcard.get(host.split_once('.')?.1)?,
        };
        routes.iter().find(|route| covers(&route.prefix, path))
    }

    /// Every release the table leads to; one that several routes share comes once per route.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<ReleaseTarget>> {
        self.exact.values().chain(self.wildcard.values()).flatten().flat_map(|route| {
            let (one, other) = match &route.destination {
                Destination::Release(target) => (Some(target), None),
                Destination::Split(split) => (Some(&split.main), Some(&split.trial)),
                Destination::Hold(_) | Destination::Page(_) | Destination::Redirect { .. } => (None, None),
            };
            one.into_iter().chain(other)
        })
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable").field("routes", &self.len()).finish()
    }
}

/// `prefix` has no trailing slash, but for the root, which is empty.
fn covers(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || prefix.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// A table in the making.
#[derive(Debug)]
#[must_use]
pub struct RouteTableBuilder {
    routes: Vec<(String, Route)>,
}

impl RouteTableBuilder {
    /// Begins a route for a host (`web.localhost`) or a wildcard (`*.example.com`); its prefix is `/` until
    /// said otherwise.
    pub fn host(self, host: impl Into<String>) -> HostRoute {
        HostRoute { table: self, host: host.into(), prefix: "/".into(), https_only: false, rules: None }
    }

    /// Ends the table.
    ///
    /// # Errors
    /// Names every route that is malformed or claims a place that another has.
    pub fn build(self) -> Result<RouteTable, Vec<RouteConflict>> {
        let mut table = RouteTable::default();
        let mut conflicts = Vec::new();
        for (host, mut route) in self.routes {
            let Some(host) = normal_pattern(&host) else {
                conflicts.push(RouteConflict::Host(host));
                continue;
            };
            let Some(prefix) = normal_prefix(&route.prefix) else {
                conflicts.push(RouteConflict::Prefix(route.prefix.into()));
                continue;
            };
            route.prefix = prefix.into();
            let routes = match host.strip_prefix("*.") {
                Some(parent) => table.wildcard.entry(parent.into()).or_default(),
                None => table.exact.entry(host.as_str().into()).or_default(),
            };
            if routes.iter().any(|other| other.prefix == route.prefix) {
                conflicts.push(RouteConflict::Twice { host, prefix: format!("{}/", route.prefix) });
            } else {
                routes.push(route);
            }
        }
        for routes in table.exact.values_mut().chain(table.wildcard.values_mut()) {
            routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        }
        if conflicts.is_empty() { Ok(table) } else { Err(conflicts) }
    }
}

/// One route in the making.
#[derive(Debug)]
#[must_use]
pub struct HostRoute {
    table: RouteTableBuilder,
    host: String,
    prefix: String,
    https_only: bool,
    rules: Option<Arc<HostRules>>,
}

impl HostRoute {
    /// Only paths below this prefix, by whole segments.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Requests that come over plain HTTP are sent to HTTPS (308), unless the host's rules say otherwise.
    pub fn https_only(mut self) -> Self {
        self.https_only = true;
        self
    }

    /// What requests meet before they get where it leads.
    pub fn rules(mut self, rules: Arc<HostRules>) -> Self {
        self.rules = Some(rules);
        self
    }

    /// Where it leads; goes back to the table.
    pub fn to(mut self, destination: Destination) -> RouteTableBuilder {
        let https_only = self.rules.as_ref().and_then(|rules| rules.https).unwrap_or(self.https_only);
        let route = Route { prefix: self.prefix.into(), destination, https_only, rules: self.rules };
        self.table.routes.push((self.host, route));
        self.table
    }
}

fn normal_pattern(host: &str) -> Option<String> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let name = host.strip_prefix("*.").unwrap_or(&host);
    is_host_name(name).then_some(host)
}

/// Letters (lower case), digits, `-`, `_` and dots between non-empty labels, or an IPv6 address in brackets.
pub(crate) fn is_host_name(host: &str) -> bool {
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return v6.parse::<std::net::Ipv6Addr>().is_ok();
    }
    (1..=253).contains(&host.len())
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        })
}

fn normal_prefix(prefix: &str) -> Option<&str> {
    let inner = prefix.strip_prefix('/')?;
    let trimmed = inner.strip_suffix('/').unwrap_or(inner);
    let sound = trimmed.is_empty()
        || trimmed.split('/').all(|segment| {
            !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#')
        });
    sound.then_some(if trimmed.is_empty() { "" } else { prefix.strip_suffix('/').unwrap_or(prefix) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(app: &str) -> Destination {
        Destination::Page(StatusPage::Stopped { app: app.into() })
    }

    fn app<'t>(table: &'t RouteTable, host: &str, path: &str) -> Option<&'t str> {
        match table.lookup(host, path)? {
            Destination::Page(StatusPage::Stopped { app }) => Some(app),
            _ => None,
        }
    }

    #[test]
    fn the_longest_prefix_wins_on_whole_segments() {
        let table = RouteTable::builder()
            .host("web.test")
            .to(page("web"))
            .host("web.test")
            .prefix("/api")
            .to(page("api"))
            .host("web.test")
            .prefix("/api/v2/")
            .to(page("v2"))
            .build()
            .expect("no conflicts");
        assert_eq!(app(&table, "web.test", "/"), Some("web"));
        assert_eq!(app(&table, "web.test", "/api"), Some("api"));
        assert_eq!(app(&table, "web.test", "/apis"), Some("web"));
        assert_eq!(app(&table, "web.test", "/api/v2"), Some("v2"));
        assert_eq!(app(&table, "web.test", "/api/v23"), Some("api"));
        assert_eq!(app(&table, "other.test", "/"), None);
    }

    #[test]
    fn an_exact_host_hides_the_wildcard_and_a_wildcard_covers_one_label() {
        let table = RouteTable::builder()
            .host("*.example.com")
            .to(page("any"))
            .host("www.example.com")
            .prefix("/docs")
            .to(page("docs"))
            .build()
            .expect("no conflicts");
        assert_eq!(app(&table, "a.example.com", "/"), Some("any"));
        assert_eq!(app(&table, "www.example.com", "/docs/x"), Some("docs"));
        assert_eq!(app(&table, "www.example.com", "/"), None);
        assert_eq!(app(&table, "a.b.example.com", "/"), None);
        assert_eq!(app(&table, "example.com", "/"), None);
    }

    #[test]
    fn every_conflict_is_named() {
        let conflicts = RouteTable::builder()
            .host("web.test")
            .prefix("/a")
            .to(page("one"))
            .host("WEB.test.")
            .prefix("/a/")
            .to(page("two"))
            .host("no spaces")
            .to(page("three"))
            .host("web.test")
            .prefix("a//b")
            .to(page("four"))
            .build()
            .expect_err("three conflicts");
        assert_eq!(
            conflicts.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "web.test/a/ is routed twice",
                "`no spaces` is no host name: use letters, digits, `-` and `.`, or `*.` before a name",
                "`a//b` is no path prefix: it starts with `/` and has no `?`, `#`, space or empty segment",
            ]
        );
    }
}
