//! What a repository's address tells about its forge. Pure.

use berth_deploy::source::git::{GitUrl, Transport};
use berth_schemas::repository::ForgeKind;

/// A repository on a forge, as its address names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteName {
    /// Host, with the port of its web interface where that is not the usual one.
    pub authority: String,
    /// http only in tests, by the setting allow_local_sources.
    pub scheme: &'static str,
    /// Owner (or groups) and name, such as acme/site.
    pub full_name: String,
}

impl RemoteName {
    /// Takes an address apart.
    #[must_use]
    pub fn of(url: &GitUrl) -> Self {
        let text = url.as_str();
        let (rest, web) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (rest, Some("https")),
            (_, Some(rest)) => (rest, Some("http")),
            _ => (text.strip_prefix("ssh://").unwrap_or(text), None),
        };
        let (authority, path) = match url.transport() {
            Transport::Local if web.is_none() => (String::new(), text),
            _ if web.is_some() => {
                rest.split_once('/').map_or((String::new(), rest), |(a, p)| (a.to_owned(), p))
            }
            // The port of SSH says nothing about that of the web interface.
            _ => (url.host().to_owned(), ssh_path(rest, text.starts_with("ssh://"))),
        };
        let path = path.trim_matches('/');
        let full_name = path.strip_suffix(".git").unwrap_or(path).to_owned();
        Self { authority, scheme: web.unwrap_or("https"), full_name }
    }

    /// The kind of forge, where the host's name tells.
    #[must_use]
    pub fn guess(&self) -> Option<ForgeKind> {
        let host = self.authority.split(':').next().unwrap_or_default();
        Some(match host {
            "github.com" => ForgeKind::Github,
            "gitlab.com" => ForgeKind::Gitlab,
            "bitbucket.org" => ForgeKind::Bitbucket,
            "codeberg.org" => ForgeKind::Forgejo,
            "gitea.com" => ForgeKind::Gitea,
            host => match host.split('.').next()? {
                "github" => ForgeKind::Github,
                "gitlab" => ForgeKind::Gitlab,
                "gitea" => ForgeKind::Gitea,
                "forgejo" => ForgeKind::Forgejo,
                _ => return None,
            },
        })
    }

    /// Base of the forge's API, without a trailing slash; none where there is none that Berth knows.
    #[must_use]
    pub fn api(&self, kind: ForgeKind) -> Option<String> {
        if self.authority.is_empty() {
            return None;
        }
        let own = format!("{}://{}", self.scheme, self.authority);
        Some(match kind {
            ForgeKind::Github if self.authority == "github.com" => "https://api.github.com".into(),
            ForgeKind::Github => format!("{own}/api/v3"),
            ForgeKind::Gitlab => format!("{own}/api/v4"),
            ForgeKind::Gitea | ForgeKind::Forgejo => format!("{own}/api/v1"),
            ForgeKind::Bitbucket if self.authority == "bitbucket.org" => {
                "https://api.bitbucket.org/2.0".into()
            }
            ForgeKind::Bitbucket => format!("{own}/2.0"),
            ForgeKind::Generic => return None,
        })
    }

    /// A page of the repository in the forge's web interface.
    #[must_use]
    pub fn page(&self, path: &str) -> Option<String> {
        (!self.authority.is_empty())
            .then(|| format!("{}://{}/{}{path}", self.scheme, self.authority, self.full_name))
    }

    /// The page where webhooks are set up.
    #[must_use]
    pub fn webhooks_page(&self, kind: ForgeKind) -> Option<String> {
        self.page(match kind {
            ForgeKind::Github => "/settings/hooks/new",
            ForgeKind::Gitlab => "/-/hooks",
            ForgeKind::Gitea => "/settings/hooks/gitea/new",
            ForgeKind::Forgejo => "/settings/hooks/forgejo/new",
            ForgeKind::Bitbucket => "/admin/webhooks",
            ForgeKind::Generic => return None,
        })
    }

    /// The page where deploy keys are added.
    #[must_use]
    pub fn keys_page(&self, kind: ForgeKind) -> Option<String> {
        self.page(match kind {
            ForgeKind::Github => "/settings/keys/new",
            ForgeKind::Gitlab => "/-/settings/repository",
            ForgeKind::Gitea | ForgeKind::Forgejo => "/settings/keys",
            ForgeKind::Bitbucket => "/admin/access-keys/",
            ForgeKind::Generic => return None,
        })
    }
}

/// The path of an SSH address, with or without its scheme.
fn ssh_path(rest: &str, has_scheme: bool) -> &str {
    let (_, path) = rest.split_once(if has_scheme { '/' } else { ':' }).unwrap_or(("", rest));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(url: &str) -> RemoteName {
        RemoteName::of(&GitUrl::parse(url, true).unwrap().0)
    }

    #[test]
    fn every_form_of_an_address_names_the_same_repository() {
        for url in [
            "https://github.com/acme/site",
            "https://github.com/acme/site.git",
            "git@github.com:acme/site.git",
            "ssh://git@github.com/acme/site.git",
            "ssh://git@github.com:2222/acme/site",
        ] {
            let name = name(url);
            assert_eq!(
                (name.authority.as_str(), name.full_name.as_str()),
                ("github.com", "acme/site"),
                "{url}"
            );
            assert_eq!(name.guess(), Some(ForgeKind::Github));
            assert_eq!(name.api(ForgeKind::Github).unwrap(), "https://api.github.com");
        }
    }

    #[test]
    fn own_hosts_have_their_api_below_them() {
        let gitlab = name("https://gitlab.example.org:8443/group/sub/site.git");
        assert_eq!(gitlab.full_name, "group/sub/site");
        assert_eq!(gitlab.api(ForgeKind::Gitlab).unwrap(), "https://gitlab.example.org:8443/api/v4");
        assert_eq!(gitlab.guess(), Some(ForgeKind::Gitlab));
        let gitea = name("http://127.0.0.1:3000/ada/site.git");
        assert_eq!(gitea.api(ForgeKind::Gitea).unwrap(), "http://127.0.0.1:3000/api/v1");
        assert_eq!(gitea.guess(), None);
        assert_eq!(
            name("git@git.example.org:site").api(ForgeKind::Gitea).unwrap(),
            "https://git.example.org/api/v1"
        );
        assert_eq!(name("/srv/git/site.git").api(ForgeKind::Gitea), None);
        assert_eq!(name("file:///srv/git/site.git").full_name, "file:///srv/git/site");
    }
}
