//! How git's ssh is set up: by a configuration file of our own, so that nothing a user typed is ever part of
//! the command that git splits into words.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::failure::GitError;

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
        let file = home.join("ssh_config");
        write_private(&file, &config(host, pinned, &known, key)).await?;
        let file = file.to_string_lossy().into_owned();
        Ok(vec![
            ("GIT_SSH_COMMAND".to_owned(), format!("ssh -F {}", single_quoted(&file))),
            ("GIT_SSH_VARIANT".to_owned(), "ssh".to_owned()),
        ])
    }
}

/// The configuration: no prompts, no agent, no forwarding, only our key, only the address that was checked.
fn config(host: &str, pinned: Option<IpAddr>, known_hosts: &Path, key: Option<&Path>) -> String {
    let mut lines = vec![
        "Host *".to_owned(),
        "  BatchMode yes".to_owned(),
        "  StrictHostKeyChecking accept-new".to_owned(),
        format!("  UserKnownHostsFile {}", double_quoted(known_hosts)),
        "  GlobalKnownHostsFile /dev/null".to_owned(),
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
        lines.push(format!("  HostKeyAlias {}", host.trim_matches(['[', ']'])));
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
        let text = config("git.example.org", Some([192, 0, 2, 1].into()), Path::new("/d/known"), None);
        for line in [
            "BatchMode yes",
            "HostName 192.0.2.1",
            "HostKeyAlias git.example.org",
            "IdentityFile none",
            "UserKnownHostsFile \"/d/known\"",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
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
