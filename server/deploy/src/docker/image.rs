//! Images: their names, what is known about them, and the events of a pull.

use std::fmt;

use super::error::EngineError;
use super::labels::Labels;

/// Name of an image in a registry, with its tag or digest: `node:22-slim`, `ghcr.io/acme/web@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageRef {
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl ImageRef {
    /// Parses a name as people write it; without tag and digest, the tag is `latest`.
    pub fn parse(text: &str) -> Result<Self, EngineError> {
        let wrong = |why: &str| EngineError::invalid(format!("image name {text:?}"), why);
        if text.is_empty() || text.len() > 512 {
            return Err(wrong("it must have 1 to 512 characters"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (rest, None),
        };
        // Beginning with a letter or digit keeps out `..`, which would lead to another endpoint.
        let begins_well = |c: &str| c.starts_with(|first: char| first.is_ascii_alphanumeric());
        let component = |c: &str| {
            begins_well(c)
                && c.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        };
        let host = |c: &str| {
            begins_well(c.trim_start_matches('['))
                && c.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
        };
        let parts: Vec<&str> = repository.split('/').collect();
        let well_formed = parts
            .iter()
            .enumerate()
            .all(|(i, part)| component(part) || (i == 0 && parts.len() > 1 && host(part)));
        if !well_formed {
            return Err(wrong(
                "lower-case letters, digits, '.', '_' and '-' are allowed, parts separated by '/'",
            ));
        }
        if let Some(tag) = tag {
            let fits = (1..=128).contains(&tag.len())
                && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
                && !tag.starts_with(['.', '-']);
            if !fits {
                return Err(wrong("the tag after ':' may have 1 to 128 letters, digits, '.', '_' and '-'"));
            }
        }
        if let Some(digest) = digest {
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong("the digest after '@' must be sha256: and 64 hex digits"));
            }
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag,
        };
        Ok(Self {
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The name without tag and digest.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if there is one.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Host of the registry; `docker.io` where none is written.
    pub fn registry(&self) -> &str {
        match self.repository.split_once('/') {
            Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
            _ => "docker.io",
        }
    }

    /// What the engine wants as `tag` parameter of a pull.
    pub(super) fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Credentials for one registry.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryAuth {
    /// Host of the registry, as in `ghcr.io`.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or token; never in the `Debug` form.
    pub password: String,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth")
            .field("registry", &self.registry)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageInfo {
    /// Id (`sha256:…`), the digest of its configuration.
    pub id: String,
    /// Digests by which registries know it (`name@sha256:…`).
    pub digests: Vec<String>,
    /// Names that it has in the engine.
    pub tags: Vec<String>,
    /// TCP ports that it declares with `EXPOSE`, ascending.
    pub exposed_ports: Vec<u16>,
    /// Bytes of all its layers.
    pub size_bytes: u64,
    /// Labels.
    pub labels: Labels,
    /// User that its process runs as; empty means root.
    pub user: String,
    /// Directory that its process starts in; empty for the root.
    pub working_dir: String,
    /// Entry point and command.
    pub command: Vec<String>,
    /// Whether it declares a `HEALTHCHECK`.
    pub has_healthcheck: bool,
    /// When it was made (microseconds since the epoch).
    pub created_at: Option<i64>,
    /// Platform, as in `linux/amd64`.
    pub platform: String,
}

/// One row of the list of images.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSummary {
    /// Id (`sha256:…`).
    pub id: String,
    /// Names.
    pub tags: Vec<String>,
    /// Bytes of all its layers.
    pub size_bytes: u64,
    /// When it was made (microseconds since the epoch).
    pub created_at: i64,
    /// Labels.
    pub labels: Labels,
}

/// Progress of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullEvent {
    /// Layer, by short digest; `None` for a message about the image.
    pub layer: Option<String>,
    /// What happens, as in `Downloading`.
    pub status: String,
    /// Bytes so far and in all, where the engine says.
    pub progress: Option<(u64, u64)>,
}

/// Parses `80/tcp`, keeps TCP only.
pub(super) fn tcp_ports<'a>(exposed: impl IntoIterator<Item = &'a String>) -> Vec<u16> {
    let mut ports: Vec<u16> = exposed
        .into_iter()
        .filter_map(|port| match port.split_once('/') {
            Some((number, "tcp")) => number.parse().ok(),
            Some(_) => None,
            None => port.parse().ok(),
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, repository, tag, registry) in [
            ("node", "node", Some("latest"), "docker.io"),
            ("node:22-slim", "node", Some("22-slim"), "docker.io"),
            ("acme/web:1", "acme/web", Some("1"), "docker.io"),
            ("ghcr.io/acme/web:v1.2", "ghcr.io/acme/web", Some("v1.2"), "ghcr.io"),
            ("localhost:5000/web", "localhost:5000/web", Some("latest"), "localhost:5000"),
            (&format!("node@{digest}"), "node", None, "docker.io"),
            (&format!("node:22@{digest}"), "node", Some("22"), "docker.io"),
        ] {
            let image = ImageRef::parse(text).unwrap();
            assert_eq!(
                (image.repository(), image.tag(), image.registry()),
                (repository, tag, registry),
                "{text}"
            );
        }
    }

    #[test]
    fn names_that_could_reach_another_endpoint_are_refused() {
        for text in [
            "",
            "../x",
            "a/../b",
            "Node",
            "node:",
            "node:a b",
            "node?x=1",
            "a//b",
            "node@sha256:12",
            "node:-x",
        ] {
            assert!(ImageRef::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_tcp_ports_count() {
        let exposed = ["8080/tcp", "53/udp", "3000/tcp", "3000", "x/tcp", "70000/tcp"].map(str::to_owned);
        assert_eq!(tcp_ports(&exposed), vec![3000, 8080]);
    }
}
