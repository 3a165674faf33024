//! Who git is towards a repository: asked of whoever keeps credentials, for each fetch anew.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use berth_schemas::Problem;
use berth_store::model::AppId;

use crate::{
    fault::Halt,
    pipeline::{Inner, Pipeline},
    source::git::{FetchRequest, GitCredential, GitUrl, Identities, Identity, Lfs, SshIdentity, Submodules},
};

/// Who to be. Never shown.
#[derive(Debug, Clone, Default)]
pub struct GitAs {
    /// Over HTTPS.
    pub credential: Option<GitCredential>,
    /// Over SSH: a private key in OpenSSH's text form.
    pub private_key: Option<PrivateKey>,
}

/// A private key. Never shown.
#[derive(Clone)]
pub struct PrivateKey(pub String);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// Who keeps the credentials of apps' repositories.
#[async_trait]
pub trait GitAccess: Send + Sync + std::fmt::Debug {
    /// Who to be when an app's source is fetched from this address; nobody, if it is not the app's own repository.
    async fn git_as(&self, app: AppId, url: &GitUrl) -> Result<GitAs, Problem>;

    /// Who to be when a submodule of the app's own repository is fetched from this address. The repository says the
    /// address, so whoever writes there may name any that these credentials open.
    async fn git_as_submodule(&self, app: AppId, url: &GitUrl) -> Result<GitAs, Problem>;
}

/// Who an app is towards submodules.
#[derive(Debug)]
struct OfApp {
    /// None for a source that is not the app's own: it gets none of the app's credentials.
    access: Option<Arc<dyn GitAccess>>,
    app: AppId,
    /// The key of the daemon's configuration.
    key: Option<PrivateKey>,
    known_hosts: PathBuf,
}

#[async_trait]
impl Identities for OfApp {
    async fn towards(&self, url: &GitUrl) -> Result<Identity, Problem> {
        let who = match &self.access {
            Some(access) => access.git_as_submodule(self.app, url).await?,
            None => GitAs::default(),
        };
        let private_key = who.private_key.or_else(|| self.key.clone()).map(|key| key.0);
        let ssh = SshIdentity { private_key, known_hosts: Some(self.known_hosts.clone()) };
        Ok(Identity { credential: who.credential, ssh })
    }
}

impl Pipeline {
    /// Gives a fetch what the configuration says, and who to be.
    ///
    /// # Errors
    /// `Unavailable` when the configured SSH key cannot be read.
    pub async fn prepare_fetch(&self, request: &mut FetchRequest, who: GitAs) -> Result<(), Problem> {
        self.0.prepare_fetch(request, who).await
    }
}

impl Inner {
    /// Who to be when this app's source is fetched from this address.
    pub(crate) async fn git_as(&self, app: AppId, url: &GitUrl) -> Result<GitAs, Halt> {
        match &self.config.git_access {
            Some(access) => Ok(access.git_as(app, url).await?),
            None => Ok(GitAs::default()),
        }
    }

    /// Has a fetch bring what a commit only names, as the app's rules say: submodules, and files in Git LFS. With the
    /// credentials of the app if the source is its own, not a fork of it or one that only this deployment names; with
    /// the configured key if the source itself may be.
    pub(crate) async fn with_the_rest(
        &self,
        request: &mut FetchRequest,
        app: AppId,
        (own, keyed): (bool, bool),
        base: Option<GitUrl>,
    ) -> Result<(), Problem> {
        let rules = self.store.pushes().rules(app).await?;
        let access = self.config.git_access.clone().filter(|_| own);
        let key = if keyed { self.git_ssh_key().await?.map(PrivateKey) } else { None };
        let known_hosts = self.config.data_dir.join("known_hosts");
        let who: Arc<dyn Identities> = Arc::new(OfApp { access, app, key, known_hosts });
        let allow_local = self.config.allow_local_sources;
        let submodules = Submodules { allow_local, base, who: Arc::clone(&who) };
        request.submodules = rules.submodules.unwrap_or(true).then_some(submodules);
        request.lfs = rules.lfs.unwrap_or(true).then_some(Lfs { allow_local, who });
        Ok(())
    }

    pub(crate) async fn prepare_fetch(&self, request: &mut FetchRequest, who: GitAs) -> Result<(), Problem> {
        let private_key = match who.private_key {
            Some(key) => Some(key.0),
            None => self.git_ssh_key().await?,
        };
        // What the caller of a deployment wrote into the address comes first.
        request.credential = request.credential.take().or(who.credential);
        request.policy.allow_private = self.config.allow_private_sources;
        request.ssh =
            SshIdentity { private_key, known_hosts: Some(self.config.data_dir.join("known_hosts")) };
        Ok(())
    }
}
