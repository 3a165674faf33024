//! What a person may type to name a repository and a state of it, parsed into types that git can be given
//! without fear. Pure.
//!
//! The rules are an allow-list: two transports, plain host names, a small set of letters for paths. `ext::`,
//! `file:`, a leading `-`, control characters and the like do not need to be looked for: they are not in it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest address, in bytes.
const MAX_URL: usize = 2048;
/// The longest ref name, in bytes.
const MAX_REF: usize = 255;

/// Why an address or a name of a state is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an address that is accepted here.
    #[error("this is no git address: {why}; use https://host/path, ssh://git@host/path or git@host:path")]
    Url {
        /// What is wrong with it. Never quotes the address, which may hold a password.
        why: &'static str,
    },
    /// Not a branch or tag name.
    #[error("{given:?} cannot be a branch or tag: {why}")]
    Ref {
        /// What was given, shortened.
        given: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// Not a full commit id.
    #[error("{given:?} is no commit id: give all 40 (or 64) hexadecimal digits")]
    Commit {
        /// What was given, shortened.
        given: String,
    },
}

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTP over TLS.
    Https,
    /// SSH.
    Ssh,
    /// A plain path, or HTTP without TLS: only in tests.
    Local,
}

/// The address of a repository, without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitUrl {
    transport: Transport,
    host: String,
    port: Option<u16>,
    text: String,
}

/// Who to be towards an HTTPS host. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct GitCredential {
    /// The user; forges ignore it beside a token.
    pub user: Option<String>,
    /// Token or password.
    pub secret: String,
}

impl fmt::Debug for GitCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GitCredential(…)")
    }
}

impl GitUrl {
    /// Parses an address. Credentials in it are taken out and returned beside it. With `allow_local`, absolute
    /// paths, `file://` and `http://` are accepted too: for tests, never for what a user typed.
    ///
    /// # Errors
    /// [`AddressError::Url`].
    pub fn parse(text: &str, allow_local: bool) -> Result<(Self, Option<GitCredential>), AddressError> {
        let refuse = |why| Err(AddressError::Url { why });
        if text.is_empty() || text.len() > MAX_URL {
            return refuse("it is empty or too long");
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refuse("it has white space or control characters");
        }
        if let Some(rest) = text.strip_prefix("https://") {
            return Self::web(Transport::Https, "https://", rest);
        }
        if let Some(rest) = text.strip_prefix("ssh://") {
            return Self::ssh(rest).map(|url| (url, None));
        }
        if allow_local && let Some(rest) = text.strip_prefix("http://") {
            return Self::web(Transport::Local, "http://", rest);
        }
        if allow_local && (text.starts_with('/') || text.starts_with("file:///")) {
            let (host, text) = (String::new(), text.to_owned());
            return Ok((Self { transport: Transport::Local, host, port: None, text }, None));
        }
        if text.contains("://") || text.contains("::") {
            return refuse("only https and ssh are accepted");
        }
        Self::scp(text).map(|url| (url, None))
    }

    /// A repository of our own on this machine.
    ///
    /// # Errors
    /// [`AddressError::Url`] when the path is not absolute or no text.
    pub fn local(path: &std::path::Path) -> Result<Self, AddressError> {
        let why = "the path of the repository cannot be used";
        let text = path.to_str().filter(|p| p.starts_with('/')).ok_or(AddressError::Url { why })?;
        Ok(Self { transport: Transport::Local, host: String::new(), port: None, text: text.to_owned() })
    }

    fn web(
        transport: Transport,
        scheme: &str,
        rest: &str,
    ) -> Result<(Self, Option<GitCredential>), AddressError> {
        let (authority, path) = split_path(rest)?;
        let (login, authority) = match authority.rsplit_once('@') {
            Some((login, authority)) => (Some(login), authority),
            None => (None, authority),
        };
        let (host, port) = host_and_port(authority)?;
        let credential = login.map(credential).transpose()?;
        let text = format!("{scheme}{}{path}", shown_authority(&host, port));
        Ok((Self { transport, host, port, text }, credential))
    }

    fn ssh(rest: &str) -> Result<Self, AddressError> {
        let (authority, path) = split_path(rest)?;
        let (user, authority) = authority.split_once('@').unwrap_or(("git", authority));
        let user = ssh_user(user)?;
        let (host, port) = host_and_port(authority)?;
        let text = format!("ssh://{user}@{}{path}", shown_authority(&host, port));
        Ok(Self { transport: Transport::Ssh, host, port, text })
    }

    /// `user@host:path`, whose path is relative to the user's home: that is why it is kept as it is.
    fn scp(text: &str) -> Result<Self, AddressError> {
        let (user, rest) = text.split_once('@').ok_or(AddressError::Url { why: "it has no host" })?;
        let user = ssh_user(user)?;
        let (host, path) = rest.split_once(':').ok_or(AddressError::Url { why: "it has no path" })?;
        let (host, port) = host_and_port(host)?;
        check_path(path)?;
        if path.starts_with('-') || host.starts_with('[') {
            return Err(AddressError::Url { why: "its path or host has a form that is not accepted" });
        }
        let text = format!("{user}@{host}:{path}");
        Ok(Self { transport: Transport::Ssh, host, port, text })
    }

    /// How the repository is reached.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The host, lower case; empty for a local path. An IPv6 address is in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, as given or the transport's own.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.transport {
            Transport::Https => 443,
            Transport::Ssh => 22,
            Transport::Local => 80,
        })
    }

    /// The address as git gets it: without credentials.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same address ending in `.git`; `None` when it does already.
    pub fn with_git_suffix(&self) -> Option<Self> {
        let bare = self.text.trim_end_matches('/');
        (!bare.ends_with(".git")).then(|| Self { text: format!("{bare}.git"), ..self.clone() })
    }

    /// Over SSH: `user@host`, and the path as the host gets it.
    pub(super) fn ssh_login_and_path(&self) -> Option<(String, &str)> {
        if self.transport != Transport::Ssh {
            return None;
        }
        let (user, path) = match self.text.strip_prefix("ssh://") {
            Some(rest) => (rest.split_once('@')?.0, &rest[rest.find('/')?..]),
            None => (self.text.split_once('@')?.0, self.text.split_once(':')?.1),
        };
        Some((format!("{user}@{}", self.host.trim_matches(['[', ']'])), path))
    }

    /// The scheme, host and port that a credential may be sent to, as git's configuration names them.
    pub(super) fn http_origin(&self) -> Option<String> {
        let scheme = ["https", "http"].into_iter().find(|s| self.text.starts_with(&format!("{s}://")))?;
        Some(format!("{scheme}://{}/", shown_authority(&self.host, self.port)))
    }
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn shown_authority(host: &str, port: Option<u16>) -> String {
    port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn split_path(rest: &str) -> Result<(&str, &str), AddressError> {
    let slash = rest.find('/').ok_or(AddressError::Url { why: "it has no path" })?;
    let (authority, path) = rest.split_at(slash);
    check_path(path)?;
    Ok((authority, path))
}

fn check_path(path: &str) -> Result<(), AddressError> {
    if path.trim_matches('/').is_empty() {
        return Err(AddressError::Url { why: "it has no path" });
    }
    if path.contains(['?', '#']) {
        return Err(AddressError::Url { why: "it has a query or a fragment" });
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "._~/+@%-".contains(c);
    if !path.chars().all(plain) {
        return Err(AddressError::Url { why: "its path has characters that are not accepted" });
    }
    Ok(())
}

fn host_and_port(authority: &str) -> Result<(String, Option<u16>), AddressError> {
    let refuse = |why| Err(AddressError::Url { why });
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inner, after)) => {
            let Ok(address) = inner.parse::<std::net::Ipv6Addr>() else {
                return refuse("its IPv6 address is none");
            };
            match after.strip_prefix(':') {
                Some(port) => (format!("[{address}]"), Some(port)),
                None if after.is_empty() => (format!("[{address}]"), None),
                None => return refuse("its host is none"),
            }
        }
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
            let fine = !host.is_empty() && host.len() <= 253 && host.chars().all(plain);
            if !fine || host.starts_with(['-', '.']) || host.ends_with('-') {
                return refuse("its host is no host name");
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    let port = match port {
        None => None,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => Some(number),
            _ => return refuse("its port is no number from 1 to 65535"),
        },
    };
    Ok((host, port))
}

fn ssh_user(user: &str) -> Result<&str, AddressError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
    if user.contains(':') {
        return Err(AddressError::Url { why: "a password has no place in an ssh address; use a deploy key" });
    }
    if user.is_empty() || user.len() > 64 || user.starts_with('-') || !user.chars().all(plain) {
        return Err(AddressError::Url { why: "its user name is none" });
    }
    Ok(user)
}

/// `user:password` or a bare token before the `@`, percent-encoded as in every URL.
fn credential(login: &str) -> Result<GitCredential, AddressError> {
    let bad = AddressError::Url { why: "its credentials are not valid; give them apart from the address" };
    let decode = |part: &str| percent_decode(part).filter(|text| !text.chars().any(char::is_control));
    let (user, secret) = match login.split_once(':') {
        Some((user, secret)) => (decode(user), decode(secret)),
        None => (Some(String::new()), decode(login)),
    };
    let (Some(user), Some(secret)) = (user, secret) else { return Err(bad) };
    // `https://TOKEN:@host` and `https://TOKEN@host` are both in use for a token alone.
    match (user.is_empty(), secret.is_empty()) {
        (true, true) => Err(bad),
        (false, true) => Ok(GitCredential { user: None, secret: user }),
        (true, false) => Ok(GitCredential { user: None, secret }),
        (false, false) => Ok(GitCredential { user: Some(user), secret }),
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(hex::decode(digits).ok()?.first().copied()?);
            rest = after.get(2..)?;
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// The name of a branch or tag, by the rules of `git check-ref-format --allow-onelevel`, and never an option.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GitRef(String);

impl GitRef {
    /// Parses a name as `main`, `feature/x`, `v1.2` or `refs/heads/main`.
    ///
    /// # Errors
    /// [`AddressError::Ref`] with the rule it breaks.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        match ref_fault(text) {
            None => Ok(Self(text.to_owned())),
            Some(why) => Err(AddressError::Ref { given: text.chars().take(80).collect(), why }),
        }
    }

    /// The name as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn ref_fault(text: &str) -> Option<&'static str> {
    let bad = |c: char| c.is_ascii_control() || c.is_control() || " ~^:?*[\\".contains(c);
    if text.is_empty() || text.len() > MAX_REF {
        Some("it is empty or too long")
    } else if text.starts_with('-') {
        Some("it begins with \"-\"")
    } else if text.chars().any(bad) {
        Some("it has a space, a control character or one of ~^:?*[\\")
    } else if text.contains("..") || text.contains("@{") || text == "@" {
        Some("it has \"..\" or \"@{\", or is \"@\"")
    } else if text.ends_with('.') {
        Some("it ends with a dot")
    } else if text.split('/').any(|part| part.is_empty()) {
        Some("it has an empty part between slashes")
    } else if text.split('/').any(|part| part.starts_with('.') || part.ends_with(".lock")) {
        Some("a part of it begins with a dot or ends with .lock")
    } else {
        None
    }
}

impl TryFrom<String> for GitRef {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

impl From<GitRef> for String {
    fn from(name: GitRef) -> Self {
        name.0
    }
}

impl fmt::Display for GitRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The full id of a commit: 40 or 64 hexadecimal digits, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitSha(String);

impl CommitSha {
    /// Parses a full id, of any case.
    ///
    /// # Errors
    /// [`AddressError::Commit`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hexadecimal && matches!(text.len(), 40 | 64) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(AddressError::Commit { given: text.chars().take(80).collect() })
        }
    }

    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 8 digits, as people write it.
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

impl TryFrom<String> for CommitSha {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

impl From<CommitSha> for String {
    fn from(sha: CommitSha) -> Self {
        sha.0
    }
}

impl fmt::Display for CommitSha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which state of a repository is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// What the host calls its HEAD.
    DefaultBranch,
    /// The newest commit of a branch, or what a tag points at.
    Ref(GitRef),
    /// That very commit.
    Commit(CommitSha),
}

impl Wanted {
    /// A full commit id is a commit, everything else a branch or tag, nothing the default branch.
    ///
    /// # Errors
    /// [`AddressError::Ref`].
    pub fn parse(text: Option<&str>) -> Result<Self, AddressError> {
        match text {
            None | Some("" | "HEAD") => Ok(Self::DefaultBranch),
            Some(text) => CommitSha::parse(text)
                .map(Self::Commit)
                .or_else(|_| GitRef::parse(text.trim()).map(Self::Ref)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> GitUrl {
        GitUrl::parse(text, false).unwrap().0
    }

    #[test]
    fn the_usual_addresses_are_understood() {
        let https = url("https://GitHub.com/a/b.git");
        assert_eq!((https.host(), https.port(), https.transport()), ("github.com", 443, Transport::Https));
        assert_eq!(https.as_str(), "https://github.com/a/b.git");
        assert_eq!(https.with_git_suffix(), None);
        assert_eq!(url("https://h/a/b/").with_git_suffix().unwrap().as_str(), "https://h/a/b.git");
        let scp = url("git@git.example.org:team/app.git");
        assert_eq!((scp.host(), scp.port()), ("git.example.org", 22));
        assert_eq!(scp.as_str(), "git@git.example.org:team/app.git");
        assert_eq!(url("ssh://git@h:2222/a").port(), 2222);
        assert_eq!(url("https://[::1]:8443/a").host(), "[::1]");
    }

    #[test]
    fn credentials_are_taken_out_and_never_shown() {
        for (text, user, secret) in [
            ("https://u:p%40ss@h/a", Some("u"), "p@ss"),
            ("https://ghp_x@h/a", None, "ghp_x"),
            ("https://ghp_x:@h/a", None, "ghp_x"),
            ("https://:tok@h/a", None, "tok"),
        ] {
            let (url, credential) = GitUrl::parse(text, false).unwrap();
            let credential = credential.unwrap();
            assert_eq!((credential.user.as_deref(), credential.secret.as_str()), (user, secret));
            assert_eq!(url.as_str(), "https://h/a");
            assert_eq!(format!("{credential:?}"), "GitCredential(…)");
        }
        let error = GitUrl::parse("ftp://u:hunter2@h/a", false).unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "ext::sh -c touch% /tmp/x",
            "ext::x",
            "file:///etc",
            "/etc/passwd",
            "../x",
            "http://h/a",
            "git://h/a",
            "ftp://h/a",
            "-oProxyCommand=x",
            "--upload-pack=x",
            "git@-oProxyCommand=x:a",
            "-u@h:a",
            "git@h:-x",
            "ssh://-oProxyCommand=x/a",
            "ssh://u:p@h/a",
            "https://h",
            "https://h/",
            "https://h/a?x=1",
            "https://h/a b",
            "https://h/a\nb",
            "https://-h/a",
            "https://h:0/a",
            "https://h:99999/a",
            "https://h:+1/a",
            "https://h/$(x)",
            "https://h/`x`",
            "https://h/a;b",
            "git@h:a'b",
            "https://[zz]/a",
            "https:///a",
            "C:\\a",
            "host:path",
        ] {
            assert!(GitUrl::parse(text, false).is_err(), "{text} passed");
        }
        assert!(GitUrl::parse("/tmp/repo", true).is_ok());
        assert!(GitUrl::parse("ext::x", true).is_err());
    }

    #[test]
    fn refs_and_commits() {
        for good in ["main", "feature/x-1", "v1.2.3", "refs/heads/main", "a@b", "ünï"] {
            assert!(GitRef::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "", "-x", "a..b", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", "/a", "a/", "a//b", ".a",
            "a/.b", "a.lock", "a.lock/b", "a.", "@", "a@{b", "a\x7fb",
        ] {
            assert!(GitRef::parse(bad).is_err(), "{bad}");
        }
        let sha = "A".repeat(40);
        assert_eq!(CommitSha::parse(&sha).unwrap().short(), "aaaaaaaa");
        assert!(CommitSha::parse("abc123").is_err());
        assert!(matches!(Wanted::parse(Some(&sha)), Ok(Wanted::Commit(_))));
        assert!(matches!(Wanted::parse(Some("abc123")), Ok(Wanted::Ref(_))));
        assert!(matches!(Wanted::parse(None), Ok(Wanted::DefaultBranch)));
    }

    proptest! {
        #[test]
        fn no_address_can_be_an_option_or_another_transport(text in "\\PC{0,40}|[a-z:/@.-]{0,30}") {
            if let Ok((url, _)) = GitUrl::parse(&text, false) {
                let shown = url.as_str();
                prop_assert!(!shown.starts_with('-') && !shown.contains("::") || shown.contains('['));
                prop_assert!(!url.host().starts_with('-'));
                prop_assert!(shown.chars().all(|c| c.is_ascii_graphic()));
                prop_assert_eq!(GitUrl::parse(shown, false).unwrap().0, url);
            }
        }

        #[test]
        fn no_ref_can_be_an_option_or_a_range(text in "\\PC{0,20}|[a./@{-]{0,12}") {
            if let Ok(name) = GitRef::parse(&text) {
                prop_assert!(!name.as_str().starts_with('-') && !name.as_str().contains(".."));
                prop_assert!(!name.as_str().contains([':', '^', '~', ' ', '*']));
            }
        }
    }
}
