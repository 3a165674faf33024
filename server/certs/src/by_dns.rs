//! What an order needs before its authority is asked, and proofs by DNS.
//!
//! An authority that cannot be convinced yet is not asked: failed validations are counted there.

use std::time::Duration;

use berth_schemas::{DomainName, domain::ChallengeKind};
use berth_store::{Fault, OrderRow};

use crate::{
    decide::later,
    dns::challenge_name,
    fault::{Stop, trouble},
    service::{Inner, Wanted},
};

/// How long a record may take to be seen at all servers of its zone, before the order waits in the store instead.
const SEEN_LIMIT: Duration = Duration::from_secs(100);
/// How often it is looked whether a provider was added; adding one looks at once.
const LOOK_FOR_PROVIDER: Duration = Duration::from_secs(600);

impl Inner {
    /// The challenges that can convince an authority of a name, the preferred one first.
    pub(crate) async fn challenges(&self, wanted: &Wanted) -> Vec<ChallengeKind> {
        use ChallengeKind::{Dns01, Http01, TlsAlpn01};
        if wanted.name.is_wildcard() {
            return vec![Dns01];
        }
        let provider = self.dns.provider_of(&challenge_name(&wanted.name)).await;
        let mut challenges = vec![Http01, TlsAlpn01];
        if matches!(provider, Ok(Some(_))) || wanted.prefer == Some(Dns01) {
            challenges.push(Dns01);
        }
        if let Some(prefer) = wanted.prefer {
            challenges.sort_by_key(|kind| *kind != prefer);
        }
        challenges
    }

    /// Lets an order wait that its authority could not fulfil.
    pub(crate) async fn ready_to_ask(&self, row: &OrderRow) -> Result<(), Stop> {
        if row.challenge != ChallengeKind::Dns01 {
            return Ok(());
        }
        match self.dns.prover(&row.name).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                let detail = format!(
                    "{} is proven by a TXT record at {}, and no DNS provider serves that name. Add one with dns_provider_add: the zone's provider with its API token, or kind=manual to set the record yourself.",
                    row.name,
                    challenge_name(&row.name)
                );
                let now = self.now();
                let why = trouble("no_dns_provider", detail, now);
                self.store.acme().wait(row.id, why, later(now, LOOK_FOR_PROVIDER)).await?;
                Err(Stop::Waits)
            }
            Err(problem) => Err(Stop::unreachable("dns_provider", problem.to_string(), self.now())),
        }
    }

    /// Sets the record that proves a name, and waits until it is seen.
    pub(crate) async fn present(&self, name: &DomainName, value: &str) -> Result<(), Stop> {
        match self.dns.present(name, value, SEEN_LIMIT).await {
            Ok(presented) => match presented.waits_for() {
                None => Ok(()),
                Some(detail) => Err(Stop::unreachable("dns_record", detail, self.now())),
            },
            Err(problem) => {
                Err(Stop::failed(Fault::Unprepared, "dns_provider", problem.to_string(), self.now()))
            }
        }
    }

    /// Takes the record away again. What stays does no harm: it proves nothing any more.
    pub(crate) async fn withdraw(&self, name: &DomainName, value: &str) {
        if let Err(problem) = self.dns.withdraw(name, value).await {
            tracing::warn!(%name, %problem, "the record of a proof could not be removed");
        }
    }
}
