//! Areas of tools: how an assistant's list is narrowed to what a job needs.

/// An area. Each tool is in one, which is said where the registry is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Projects and access tokens.
    Access,
    /// Apps and their environments.
    Apps,
    /// Deployments, releases, rollouts and what runs in the background.
    Deploy,
    /// Domains, certificates and DNS providers.
    Domains,
    /// Errors of apps.
    Errors,
    /// Repositories and what is pushed to them.
    Git,
    /// Logs and requests.
    Logs,
    /// The machine and the event log.
    Platform,
    /// What visitors get.
    Traffic,
    /// Variables and secrets.
    Variables,
}

impl Group {
    /// All of them, by name.
    pub const ALL: [Self; 10] = [
        Self::Access,
        Self::Apps,
        Self::Deploy,
        Self::Domains,
        Self::Errors,
        Self::Git,
        Self::Logs,
        Self::Platform,
        Self::Traffic,
        Self::Variables,
    ];

    /// Its name in URLs and schema files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Apps => "apps",
            Self::Deploy => "deploy",
            Self::Domains => "domains",
            Self::Errors => "errors",
            Self::Git => "git",
            Self::Logs => "logs",
            Self::Platform => "platform",
            Self::Traffic => "traffic",
            Self::Variables => "variables",
        }
    }

    /// The group of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|g| g.as_str() == name)
    }
}
