//! What goes wrong with DNS providers, and how it is told.

use std::time::Duration;

use berth_schemas::{Code, Problem};

/// An error of a DNS provider.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DnsFault {
    /// It does not accept the credentials, or they do not allow this.
    #[error("{provider} does not accept the credentials for this")]
    Refused {
        /// Which provider.
        provider: &'static str,
        /// In its words.
        said: String,
    },
    /// Too many requests.
    #[error("{provider} wants fewer requests")]
    Busy {
        /// Which provider.
        provider: &'static str,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
        /// In its words.
        said: String,
    },
    /// No connection, or no answer in time.
    #[error("{provider} cannot be reached: {reason}")]
    Unreachable {
        /// Which provider.
        provider: &'static str,
        /// Why not.
        reason: String,
    },
    /// It understood and said no.
    #[error("{provider} did not do it ({status})")]
    Rejected {
        /// Which provider.
        provider: &'static str,
        /// Status or response code.
        status: String,
        /// In its words.
        said: String,
    },
    /// Its answer makes no sense.
    #[error("{provider} answered something unexpected: {reason}")]
    Strange {
        /// Which provider.
        provider: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// None of its zones holds the name.
    #[error("none of the zones that {provider} shows to these credentials holds {name}")]
    NoZone {
        /// Which provider.
        provider: &'static str,
        /// The name.
        name: String,
    },
    /// The credentials cannot be right, whoever looks at them.
    #[error("{0}")]
    Malformed(String),
}

impl DnsFault {
    /// What the provider itself said.
    #[must_use]
    pub fn said(&self) -> Option<&str> {
        match self {
            Self::Refused { said, .. } | Self::Busy { said, .. } | Self::Rejected { said, .. } => {
                Some(said.as_str()).filter(|s| !s.is_empty())
            }
            _ => None,
        }
    }

    /// Whether trying the same again later may work.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unreachable { .. })
    }
}

impl From<DnsFault> for Problem {
    fn from(fault: DnsFault) -> Self {
        let text = fault.to_string();
        let mut chars = text.chars();
        let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
        let detail = format!("{first}{}.", chars.as_str());
        let problem = match &fault {
            DnsFault::Refused { .. } => Problem::new(Code::Conflict, detail).hint(
                "Check with the provider that the token or key is valid and may change records of the zone; then give it again with dns_provider_add(replace=true, …).",
            ),
            DnsFault::Busy { retry_after, .. } => {
                let problem = Problem::new(Code::RateLimited, detail);
                match retry_after {
                    Some(wait) => problem.hint(format!("It may be asked again in {} s.", wait.as_secs())),
                    None => problem.hint("Try again in a minute."),
                }
            }
            DnsFault::Unreachable { .. } => {
                Problem::new(Code::Unavailable, detail).hint("Check that this machine reaches it, and try again.")
            }
            DnsFault::Rejected { .. } | DnsFault::Strange { .. } => Problem::new(Code::Unavailable, detail),
            DnsFault::NoZone { .. } => Problem::new(Code::NotFound, detail)
                .hint("Add the zone at the provider, or allow the credentials to see it."),
            DnsFault::Malformed(_) => Problem::invalid("credentials", detail),
        };
        match fault.said() {
            Some(said) => problem.log_tail([said]),
            None => problem,
        }
    }
}
