//! What somebody asks for: to look at a name again now, to renew its certificate, and to wait for the outcome.

use std::time::Duration;

use berth_schemas::{
    Code, DomainName, Problem,
    domain::{DomainStatus, OrderShown},
};

use crate::{
    decide::later,
    service::{Certs, MANY},
};

impl Certs {
    /// Goes on with what waits for a name, as far as the limits of authorities allow.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn look_now(&self, name: &DomainName) -> Result<(), Problem> {
        let inner = &self.0;
        let now = inner.now();
        let orders = inner.store.acme().of(name, MANY).await?;
        let held = match orders.first() {
            Some(row) if !row.state.is_settled() => row.not_before,
            _ => inner.held(&orders, now),
        };
        inner.store.acme().hurry(name, held.unwrap_or(now).max(now)).await?;
        inner.wake.notify_one();
        Ok(())
    }

    /// Orders a new certificate for a name now.
    ///
    /// # Errors
    /// `Unavailable` where none are ordered, `Conflict` for one that somebody attached, `RateLimited` when the
    /// limits of authorities do not allow it yet.
    pub async fn renew(&self, name: &DomainName) -> Result<(), Problem> {
        let inner = &self.0;
        if !self.orders() {
            return Err(self.off());
        }
        if let Some(certificate) = inner.store.certificates().by_name(name).await? {
            if certificate.own {
                let detail = format!("The certificate of {name} was attached; Berth does not renew it.");
                return Err(Problem::new(Code::Conflict, detail).hint(
                    "Attach a new one with domain_certificate_set, or let Berth get one: domain_update(unset=[\"certificate\"]).",
                ));
            }
            let now = inner.now();
            if let Some(until) = inner.held(&inner.store.acme().of(name, MANY).await?, now) {
                let detail = format!(
                    "The limits of certificate authorities allow no other certificate for {name} before {until}."
                );
                return Err(
                    Problem::new(Code::RateLimited, detail).hint("The present certificate stays until then.")
                );
            }
            inner.store.certificates().set_renewal(name, now, certificate.asked_at).await?;
        }
        self.look_now(name).await
    }

    /// Why nothing is ordered.
    fn off(&self) -> Problem {
        Problem::new(Code::Unavailable, "This installation does not get certificates.").hint(
            "Set https_addr and acme=true in the daemon's configuration, or attach a certificate with domain_certificate_set.",
        )
    }

    /// Waits until what is on order for a name has ended or has to wait, at most `limit`. `before` is the newest order
    /// as it was before somebody asked.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn settle(
        &self,
        name: &DomainName,
        before: Option<&OrderShown>,
        limit: Duration,
    ) -> Result<(), Problem> {
        let mut moved = self.0.moved.subscribe();
        // Not by all of it: to ask for the next try moves that alone.
        let times = |order: &OrderShown| (order.created_at, order.updated_at);
        let before = before.map(times);
        let until = later(self.0.now(), limit);
        let waiting = async {
            loop {
                let seen = self.see(name).await?;
                let settled =
                    seen.order.as_ref().is_none_or(|o| o.state.is_settled() || o.next_try_at.is_some());
                let good = matches!(seen.status, DomainStatus::Secure | DomainStatus::Plain);
                // Within the limits of authorities: nothing will move.
                let held = seen.order.as_ref().and_then(|o| o.next_try_at) > Some(until);
                let moved_on = seen.order.is_some() && seen.order.as_ref().map(times) != before;
                let over = settled && (good || held || moved_on);
                if over || moved.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(limit, waiting).await.unwrap_or(Ok(()))
    }
}
