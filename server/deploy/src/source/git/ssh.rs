//! How git's ssh is set up: by a configuration file of our own, so that nothing a user typed is ever part of
//! the command that git splits into words.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::failure::GitError;

/// Keys of large forges, as they publish them; one that is here is trusted at the first sight already, and no other is.
///
/// From GitHub's "GitHub's SSH key fingerprints", GitLab's "GitLab.com settings", Bitbucket's and Codeberg's pages of
/// the same purpose; a test compares each with the fingerprint that stands there.
const PUBLISHED: &[(&str, &str)] = &[
    ("github.com", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"),
    (
        "github.com",
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=",
    ),
    ("gitlab.com", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAfuCHKVTjquxvt6CM6tdG4SLp1Btn/nOeHHE5UOzRdf"),
    ("bitbucket.org", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIazEu89wgQZ4bqs3d63QSMzYVa0MuJ2e2gKTKqu+UUO"),
    ("codeberg.org", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIVIC02vnjFyL+I4RHfvIGNtOgJMe769VTF1VR4EB3ZB"),
];

/// The keys that are trusted for a host: those that its owner published, and those seen and remembered in the data
/// directory, each as `type base64`.
#[must_use]
pub fn known_host_keys(data_dir: &Path, host: &str) -> Vec<String> {
    let host = host.trim_matches(['[', ']']);
    let mut keys: Vec<String> = published(host).map(str::to_owned).collect();
    let seen = std::fs::read_to_string(data_dir.join("known_hosts")).unwrap_or_default();
    for line in seen.lines() {
        if let Some((names, key)) = line.split_once(' ')
            && names.split(',').any(|name| name == host)
            && !keys.iter().any(|known| known == key)
        {
            keys.push(key.to_owned());
        }
    }
    keys
}

fn published(host: &str) -> impl Iterator<Item = &'static str> {
    PUBLISHED.iter().filter(move |(name, _)| *name == host).map(|(_, key)| *key)
}

/// Who to be and whom to trust over SSH.
#[derive(Clone, Default)]
pub struct SshIdentity {
    /// The private key, in OpenSSH's text form.
    pub private_key: Option<String>,
    /// Where keys of hosts are remembered: the first one seen is trusted from then on. Without it every host is
    /// trusted once, which is for tests.
    pub known_hosts: Option<PathBuf>,
}

impl std::fmt::Debug for SshIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SshIdentity")
            .field("private_key", &self.private_key.as_ref().map(|_| "…"))
            .field("known_hosts", &self.known_hosts)
            .finish()
    }
}

impl SshIdentity {
    pub(super) fn has_key(&self) -> bool {
        self.private_key.is_some()
    }

    /// Writes key and configuration to `home` and returns the variables that make git use them.
    pub(super) async fn prepare(
        &self,
        home: &Path,
        host: &str,
        pinned: Option<IpAddr>,
    ) -> Result<Vec<(String, String)>, GitError> {
        let key_file = home.join("id");
        if let Some(key) = &self.private_key {
            write_private(&key_file, &format!("{}\n", key.trim_end())).await?;
        }
        let known = self.known_hosts.clone().unwrap_or_else(|| home.join("known_hosts"));
        let key = self.private_key.as_ref().map(|_| key_file.as_path());
        let host = host.trim_matches(['[', ']']);
        let pinned_keys = home.join("published_hosts");
        let lines: String = published(host).map(|key| format!("{host} {key}\n")).collect();
        write_private(&pinned_keys, &lines).await?;
        let file = home.join("ssh_config");
        write_private(&file, &config(host, pinned, (&known, &pinned_keys), key)).await?;
        let file = file.to_string_lossy().into_owned();
        Ok(vec![
            ("GIT_SSH_COMMAND".to_owned(), format!("ssh -F {}", single_quoted(&file))),
            ("GIT_SSH_VARIANT".to_owned(), "ssh".to_owned()),
        ])
    }
}

/// The configuration: no prompts, no agent, no forwarding, only our key, only the address that was checked.
fn config(host: &str, pinned: Option<IpAddr>, known: (&Path, &Path), key: Option<&Path>) -> String {
    let (seen, pinned_keys) = known;
    // A host whose keys are published never gets another one trusted.
    let checking = if published(host).next().is_some() { "yes" } else { "accept-new" };
    let mut lines = vec![
        "Host *".to_owned(),
        "  BatchMode yes".to_owned(),
        format!("  StrictHostKeyChecking {checking}"),
        format!("  UserKnownHostsFile {}", double_quoted(seen)),
        format!("  GlobalKnownHostsFile {}", double_quoted(pinned_keys)),
        "  UpdateHostKeys no".to_owned(),
        "  IdentityAgent none".to_owned(),
        "  IdentitiesOnly yes".to_owned(),
        "  PermitLocalCommand no".to_owned(),
        "  ForwardAgent no".to_owned(),
        "  ForwardX11 no".to_owned(),
        "  ClearAllForwardings yes".to_owned(),
        "  ConnectTimeout 20".to_owned(),
        "  ServerAliveInterval 15".to_owned(),
        "  ServerAliveCountMax 4".to_owned(),
    ];
    // Without a key, ssh would look for the daemon user's own.
    let key = key.map_or_else(|| "none".to_owned(), double_quoted);
    lines.push(format!("  IdentityFile {key}"));
    if let Some(address) = pinned {
        lines.push(format!("  HostName {address}"));
        lines.push(format!("  HostKeyAlias {host}"));
    }
    lines.join("\n") + "\n"
}

async fn write_private(path: &Path, text: &str) -> Result<(), GitError> {
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).await.map_err(GitError::Disk)?;
    tokio::io::AsyncWriteExt::write_all(&mut file, text.as_bytes()).await.map_err(GitError::Disk)?;
    tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(GitError::Disk)
}

/// One word for the shell that git hands the command to. The path is ours, but a temporary directory may have
/// any name.
fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// One value for ssh's configuration, where `%` begins a token.
fn double_quoted(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_pins_and_trusts_nothing_else() {
        let files = (Path::new("/d/known"), Path::new("/h/published"));
        let text = config("git.example.org", Some([192, 0, 2, 1].into()), files, None);
        for line in [
            "BatchMode yes",
            "HostName 192.0.2.1",
            "HostKeyAlias git.example.org",
            "IdentityFile none",
            "UserKnownHostsFile \"/d/known\"",
            "GlobalKnownHostsFile \"/h/published\"",
            "StrictHostKeyChecking accept-new",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(config("github.com", None, files, None).contains("StrictHostKeyChecking yes"));
    }

    #[test]
    fn published_keys_have_the_fingerprints_that_their_owners_tell() {
        use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_STANDARD_NO_PAD};
        use sha2::Digest;
        let told = [
            "+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU",
            "p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM",
            "eUXGGm1YGsMAS7vkcx6JOJdOGHPem5gQp4taiCfCLB8",
            "ybgmFkzwOSotHTHLJgHO0QN8L0xErw6vd0VhFA9m3SM",
            "mIlxA9k46MmM6qdJOdMnAQpzGxF4WIVVL+fj+wZbw0g",
        ];
        assert_eq!(PUBLISHED.len(), told.len());
        for ((host, key), told) in PUBLISHED.iter().zip(told) {
            let blob = BASE64_STANDARD.decode(key.split(' ').nth(1).unwrap()).unwrap();
            assert_eq!(BASE64_STANDARD_NO_PAD.encode(sha2::Sha256::digest(blob)), told, "{host}");
        }
    }

    #[test]
    fn keys_that_were_seen_are_told_beside_the_published_ones() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("known_hosts"),
            "git.example.org ssh-ed25519 AAAA\nother ssh-rsa BBBB\n",
        )
        .unwrap();
        assert_eq!(known_host_keys(dir.path(), "git.example.org"), ["ssh-ed25519 AAAA"]);
        assert_eq!(known_host_keys(dir.path(), "github.com").len(), 2);
        assert!(known_host_keys(dir.path(), "nowhere.example").is_empty());
    }

    #[tokio::test]
    async fn the_key_is_private_and_in_no_variable() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let identity = SshIdentity { private_key: Some("KEY".into()), known_hosts: None };
        let env = identity.prepare(home.path(), "h", None).await.unwrap();
        let mode = std::fs::metadata(home.path().join("id")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(env.iter().all(|(_, value)| !value.contains("KEY")));
        assert!(!format!("{identity:?}").contains("KEY"));
        assert_eq!(single_quoted("a'b"), r"'a'\''b'");
    }
}
