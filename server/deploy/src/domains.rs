//! Domains in the route table: which hosts lead to an environment besides its own name, and which have a
//! certificate. All of it follows from the store, and is read again whenever the event log says that it changed.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use berth_proxy::HostRules;
use berth_schemas::Problem;
use tokio::sync::broadcast::error::RecvError;

use crate::{
    pipeline::{Inner, Pipeline},
    routes::{DomainRoute, Domains},
};

/// Until the domains are read again after that failed.
const AGAIN: Duration = Duration::from_secs(2);

impl Pipeline {
    /// Reads the domains again, so that a change is seen by the next request.
    ///
    /// # Errors
    /// When the store cannot be read; then it is done a little later.
    pub async fn domains_changed(&self) -> Result<(), Problem> {
        self.0.load_domains().await
    }
}

impl Inner {
    /// Puts the domains of the store into the routes.
    pub(crate) async fn load_domains(&self) -> Result<(), Problem> {
        let mut certified = HashSet::new();
        if self.config.addresses.https.is_some() {
            let now = self.store.clock().now();
            let rows = self.store.certificates().all().await?;
            certified.extend(rows.into_iter().filter(|c| c.not_after > now).map(|c| c.name.to_string()));
        }
        let mut domains = Domains { of: BTreeMap::new(), certified };
        // What is unchanged is taken over with what addresses have used of its limits.
        let before = self.routes.rules();
        for row in self.store.domains().all().await? {
            let redirect_to = row.redirect_to.map(|to| self.with_port(&domains, to.as_str()));
            let host = row.name.to_string();
            let rules = match row.rules.is_empty() {
                true => None,
                // Checked when they were set. Without its rules a domain might let in whom it must not: it is left out.
                false => match HostRules::compile(&row.rules, before.get(&host)) {
                    Ok(rules) => Some(rules),
                    Err(problem) => {
                        tracing::error!(%problem, host, "the rules of a domain cannot be used; it is not served");
                        continue;
                    }
                },
            };
            let route = DomainRoute { host, redirect_to, rules };
            domains.of.entry(row.environment_id).or_default().push(route);
        }
        self.routes.set_domains(domains);
        Ok(())
    }

    /// A host with the port of the scheme that it is reached by, where that is not the scheme's own.
    fn with_port(&self, domains: &Domains, host: &str) -> String {
        let url = self.config.addresses.domain_url(host, domains.is_certified(host));
        url.split_once("://").map_or_else(|| host.to_owned(), |(_, rest)| rest.to_owned())
    }

    /// Follows the event log: others change domains and certificates, too.
    pub(crate) async fn follow_domains(self: Arc<Self>) {
        let mut events = self.store.events().subscribe();
        loop {
            let next = tokio::select! {
                next = events.recv() => next,
                () = self.shutdown.cancelled() => return,
            };
            match next {
                Ok(row) if !concerns_domains(&row.event.kind) => continue,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
            while let Err(problem) = self.load_domains().await {
                tracing::warn!(%problem, "the domains could not be read; trying again");
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    () = self.shutdown.cancelled() => return,
                }
            }
        }
    }
}

fn concerns_domains(kind: &str) -> bool {
    ["domain.", "certificate.", "environment."].iter().any(|prefix| kind.starts_with(prefix))
}
