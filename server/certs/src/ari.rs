//! Asking authorities when a certificate should be renewed (RFC 9773): they know of revocations and of crowds.

use std::{sync::Arc, time::Duration};

use berth_schemas::Timestamp;
use berth_store::CertificateRow;

use crate::{
    config::AcmeConfig,
    decide::{self, later},
    order::identifier,
    service::{Inner, spread},
};

/// Shortest and longest time between questions, whatever an authority says (RFC 9773, 4.3).
const BETWEEN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
/// After an authority did not answer, or has no such information.
const AGAIN: Duration = Duration::from_secs(6 * 3600);

impl Inner {
    /// Asks about a certificate in a task of its own, if that is due; returns when it is due next.
    pub(crate) fn ask_about(
        self: &Arc<Self>,
        acme: &AcmeConfig,
        certificate: &CertificateRow,
        now: Timestamp,
    ) -> Timestamp {
        let ours = certificate.directory.as_ref().is_some_and(|d| acme.directories.contains(d));
        match certificate.asked_at {
            _ if !ours => return later(now, BETWEEN.1),
            Some(at) if at > now => return at,
            _ => {}
        }
        let asking = Arc::clone(self);
        let (acme, certificate) = (acme.clone(), certificate.clone());
        self.spawn_asking(certificate.name.clone(), async move { asking.ask(&acme, &certificate).await });
        later(now, BETWEEN.0)
    }

    async fn ask(&self, acme: &AcmeConfig, certificate: &CertificateRow) {
        let suggested = self.suggested(acme, certificate).await;
        let now = self.now();
        let usual = certificate
            .renew_at
            .unwrap_or_else(|| decide::renewal(certificate.not_before, certificate.not_after, spread()));
        let (renew_at, again) = match suggested {
            Some((start, end, after)) if start < certificate.not_after => {
                let kept = certificate.renew_at.filter(|at| (start..=end).contains(at));
                let at = kept.unwrap_or_else(|| decide::within(start, end, now, spread()));
                (at, after.clamp(BETWEEN.0, BETWEEN.1))
            }
            _ => (usual, AGAIN),
        };
        let noted =
            self.store.certificates().set_renewal(&certificate.name, renew_at, Some(later(now, again)));
        if let Err(error) = noted.await {
            tracing::warn!(%error, name = %certificate.name, "the time of a renewal could not be noted");
        }
    }

    /// The window that the authority suggests, and after which time to ask again.
    async fn suggested(
        &self,
        acme: &AcmeConfig,
        certificate: &CertificateRow,
    ) -> Option<(Timestamp, Timestamp, Duration)> {
        let ca = self.ca(acme, certificate.directory.as_ref()?).await.ok()?;
        let (info, after) = ca.account.renewal_info(&identifier(&certificate.chain)?).await.ok()?;
        let micros = |at: time::OffsetDateTime| {
            i64::try_from(at.unix_timestamp_nanos() / 1000).map(Timestamp).unwrap_or_default()
        };
        Some((micros(info.suggested_window.start), micros(info.suggested_window.end), after))
    }
}
