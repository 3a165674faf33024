//! The list of settings: each defined once, with its key, its kind, its default and its help.
//!
//! The key gives the other names: `http_addr` in the file is `BERTH_HTTP_ADDR` in the environment and
//! `--http-addr` on the command line. Nothing else knows the names.

use std::net::SocketAddr;

/// What a setting's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path; relative ones are taken from the current directory.
    Path,
    /// IP address and port; port 0 means any free one.
    Address,
    /// A whole number within bounds.
    Number {
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value.
        max: u64,
    },
    /// true or false.
    Switch,
    /// Several texts: an array in the file, comma-separated elsewhere.
    List,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// A setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in the file.
    pub key: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Its value if nothing sets it; empty means unset.
    pub default: &'static str,
    /// What it does, with its unit.
    pub help: &'static str,
    /// Never shown in full.
    pub secret: bool,
}

const fn number(min: u64, max: u64) -> Kind {
    Kind::Number { min, max }
}

const fn setting(key: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Setting {
    Setting { key, kind, default, help, secret: false }
}

/// Every setting, in the order in which `berth config` shows them.
pub const SETTINGS: &[Setting] = &[
    setting(
        "data_dir",
        Kind::Path,
        "",
        "Directory that holds everything Berth keeps. Default: /var/lib/berth as root, else the XDG data directory.",
    ),
    setting(
        "control_addr",
        Kind::Address,
        "127.0.0.1:7700",
        "Where the API, MCP and the status page listen.",
    ),
    setting("http_addr", Kind::Address, "127.0.0.1:8080", "Where apps answer over HTTP."),
    setting(
        "https_addr",
        Kind::Address,
        "",
        "Where apps answer over HTTPS, each name with its certificate: ordered (acme), attached, or tls_cert.",
    ),
    setting("tls_cert", Kind::Path, "", "PEM file with the certificate chain for names that have no other."),
    setting("tls_key", Kind::Path, "", "PEM file with the private key of tls_cert."),
    setting(
        "acme",
        Kind::Switch,
        "false",
        "Order certificates and renew them; true says that you agree to the terms of service of acme_directories.",
    ),
    setting(
        "acme_directories",
        Kind::List,
        "https://acme-v02.api.letsencrypt.org/directory",
        "Directories of certificate authorities; when one does not answer or refuses, the next is asked.",
    ),
    setting(
        "acme_email",
        Kind::Text,
        "",
        "Where certificate authorities may write to about your certificates.",
    ),
    setting(
        "acme_ca_root",
        Kind::Path,
        "",
        "PEM file with the roots of private certificate authorities, besides those that the system trusts.",
    ),
    setting(
        "acme_eab_kid",
        Kind::Text,
        "",
        "Key identifier of an account that you have at an authority which wants one (external account binding).",
    ),
    Setting {
        key: "acme_eab_key",
        kind: Kind::Text,
        default: "",
        help: "Key of acme_eab_kid, as the authority gave it (base64url).",
        secret: true,
    },
    setting(
        "base_domain",
        Kind::Text,
        "localhost",
        "Domain below which every app gets a name: <app>.<base_domain>.",
    ),
    setting(
        "public_url",
        Kind::Text,
        "",
        "URL under which people reach the API, when it is not control_addr itself; its host is allowed. An https:// one at the port of https_addr is answered there, with a certificate as apps have.",
    ),
    setting(
        "control_hosts",
        Kind::List,
        "",
        "More host names under which the API may be addressed; loopback names always may.",
    ),
    Setting {
        key: "database_url",
        kind: Kind::Text,
        default: "",
        help: "postgres://… to keep state in PostgreSQL. Default: SQLite in data_dir.",
        secret: true,
    },
    setting("docker_host", Kind::Text, "", "Docker Engine, as in DOCKER_HOST. Default: the local socket."),
    setting("concurrent_builds", number(1, 64), "2", "Deployments worked on at the same time."),
    setting("log_retention_days", number(1, 3650), "14", "Days for which what apps print is kept."),
    setting(
        "log_max_mb",
        number(1, 1_048_576),
        "1024",
        "MiB of what apps print that is kept in all; the oldest goes first.",
    ),
    setting(
        "error_retention_days",
        number(1, 3650),
        "90",
        "Days for which error events are kept; their issues and counts stay twice as long.",
    ),
    setting(
        "error_max_events",
        number(100, 100_000_000),
        "1000000",
        "Error events that are kept of each app, the newest ones.",
    ),
    setting(
        "error_map_retention_days",
        number(1, 3650),
        "90",
        "Days for which source maps are kept of releases that neither serve nor have events.",
    ),
    setting(
        "error_map_releases",
        number(1, 10_000),
        "100",
        "Releases of each app whose source maps are kept, the newest; more while they serve or have events.",
    ),
    setting("request_retention_days", number(1, 3650), "7", "Days for which access records are kept."),
    setting("audit_retention_days", number(1, 3650), "90", "Days for which calls stay in the audit log."),
    setting(
        "audit_max_calls",
        number(1000, 100_000_000),
        "500000",
        "Calls that stay in the audit log at most; the oldest go.",
    ),
    setting(
        "destructive_per_minute",
        number(1, 10_000),
        "10",
        "Calls per minute of tools that destroy something, for each token.",
    ),
    setting(
        "min_free_disk_mb",
        number(0, 16_777_216),
        "1024",
        "MiB that must stay free: below it, no build or upload begins; below twice of it, Berth cleans up.",
    ),
    setting(
        "build_cache_mb",
        number(0, 16_777_216),
        "10240",
        "MiB of build cache that Berth's own builds may keep; a tenth of it while the disk runs full.",
    ),
    setting(
        "upload_max_mb",
        number(1, 65_536),
        "512",
        "Largest source archive, push or object of Git LFS accepted, in MiB.",
    ),
    setting(
        "allow_private_sources",
        Kind::Switch,
        "false",
        "Let deployments fetch from private, loopback and link-local addresses.",
    ),
    setting(
        "allow_local_sources",
        Kind::Switch,
        "false",
        "Let deployments fetch git repositories from this machine's own file system and over plain HTTP.",
    ),
    setting("git_ssh_key", Kind::Path, "", "Private key for git over SSH, in OpenSSH's text form."),
    setting(
        "dns_resolvers",
        Kind::List,
        "system,1.1.1.1,8.8.8.8,9.9.9.9",
        "Name servers that are asked about domains: addresses, with a port if it is not 53, or system for the machine's own.",
    ),
    setting(
        "public_addresses",
        Kind::List,
        "",
        "Addresses at which the internet reaches this machine. Default: those of its interfaces that are public.",
    ),
    setting(
        "max_connections",
        number(16, 1_000_000),
        "10000",
        "Visitors' connections open at the same time; at the limit, the longest idle ones make room.",
    ),
    setting(
        "idle_timeout_s",
        number(1, 3600),
        "60",
        "Seconds that a visitor's connection is kept between requests.",
    ),
    setting(
        "body_timeout_s",
        number(1, 3600),
        "60",
        "Seconds that a visitor may pause within a request's body, or leave a response unread.",
    ),
    setting(
        "trusted_proxies",
        Kind::List,
        "",
        "Addresses or networks (10.0.0.0/8) of proxies before Berth whose X-Forwarded-For is believed.",
    ),
    setting(
        "shutdown_timeout_s",
        number(1, 3600),
        "30",
        "Seconds that requests under way may take to finish when the daemon is stopped.",
    ),
    setting(
        "log_format",
        Kind::Choice(&["text", "json"]),
        "text",
        "Form of the daemon's own log on standard error.",
    ),
    setting(
        "log_level",
        Kind::Text,
        "info",
        "What the daemon logs: error, warn, info, debug, or a filter such as berth_deploy=debug.",
    ),
];

impl Setting {
    /// Its name in the environment.
    #[must_use]
    pub fn env(&self) -> String {
        format!("BERTH_{}", self.key.to_ascii_uppercase())
    }

    /// Its name on the command line, without the dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// Checks a value given as text.
    ///
    /// # Errors
    /// Says what the value must be.
    pub fn check(&self, text: &str) -> Result<(), String> {
        if text.is_empty() {
            return match self.kind {
                Kind::Number { .. } | Kind::Switch | Kind::Choice(_) => Err("must not be empty".into()),
                _ => Ok(()),
            };
        }
        match self.kind {
            Kind::Text | Kind::Path | Kind::List => Ok(()),
            Kind::Address => text.parse::<SocketAddr>().map(drop).map_err(|_| {
                format!("{text:?} is no address; use IP:PORT such as 127.0.0.1:8080, or [::1]:8080")
            }),
            Kind::Number { min, max } => match text.parse::<u64>() {
                Ok(n) if (min..=max).contains(&n) => Ok(()),
                _ => Err(format!("{text:?} is not a whole number from {min} to {max}")),
            },
            Kind::Switch => match text {
                "true" | "false" => Ok(()),
                _ => Err(format!("{text:?} is neither true nor false")),
            },
            Kind::Choice(words) if words.contains(&text) => Ok(()),
            Kind::Choice(words) => Err(format!("{text:?} is none of {}", words.join(", "))),
        }
    }

    /// A value of the file as text, if it has the setting's type.
    ///
    /// # Errors
    /// Says what type it must have.
    pub fn from_toml(&self, value: &toml::Value) -> Result<String, String> {
        use toml::Value as V;
        let wrong = |wanted: &str| Err(format!("must be {wanted}, not {}", value.type_str()));
        match (self.kind, value) {
            (Kind::List, V::Array(items)) => {
                let texts: Option<Vec<&str>> = items.iter().map(V::as_str).collect();
                texts.map(|t| t.join(",")).ok_or_else(|| "must hold strings only".to_owned())
            }
            (Kind::Number { .. }, V::Integer(n)) => Ok(n.to_string()),
            (Kind::Number { .. }, _) => wrong("a whole number"),
            (Kind::Switch, V::Boolean(b)) => Ok(b.to_string()),
            (Kind::Switch, _) => wrong("true or false"),
            (Kind::List, V::String(text)) => Ok(text.clone()),
            (Kind::List, _) => wrong("an array of strings"),
            (_, V::String(text)) => Ok(text.clone()),
            _ => wrong("a string"),
        }
    }
}

#[cfg(test)]
mod tests {
    /// The README's table of settings, between its two markers.
    fn readme_table() -> String {
        let mut table = String::from("| setting | default | what it does |\n|---|---|---|\n");
        for setting in super::SETTINGS {
            let default =
                if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
            let help = setting.help.replace('<', "&lt;").replace('|', "\\|");
            table.push_str(&format!("| `{}` | {default} | {help} |\n", setting.key));
        }
        table
    }

    #[test]
    fn the_readme_lists_every_setting() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        let begin =
            readme.find("<!-- settings:").and_then(|at| Some(at + readme[at..].find('\n')? + 1)).unwrap();
        let end = readme.find("<!-- /settings -->").unwrap();
        if std::env::var_os("BERTH_BLESS").is_some() {
            std::fs::write(path, format!("{}{}{}", &readme[..begin], readme_table(), &readme[end..]))
                .unwrap();
        } else {
            assert_eq!(readme[begin..end], readme_table(), "run it once with BERTH_BLESS=1");
        }
    }

    use super::*;

    #[test]
    fn every_default_is_valid_and_every_key_is_plain() {
        for s in SETTINGS {
            if !s.default.is_empty() {
                assert_eq!(s.check(s.default), Ok(()), "{}", s.key);
            }
            assert!(s.key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", s.key);
        }
    }
}
