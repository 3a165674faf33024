//! What a name is due, from its orders and its certificate. Pure.

use std::{collections::HashMap, time::Duration};

use berth_schemas::{Timestamp, domain::OrderState};
use berth_store::{CertificateRow, OrderRow};

use crate::decide::{self, Past};

/// Orders at one authority are counted over so long.
pub(crate) const PLACED_WINDOW: Duration = Duration::from_secs(3 * 3600);

/// What a name is due.
pub(crate) enum Due {
    /// This order is not over.
    Open(OrderRow),
    /// An order is to be begun.
    New,
    /// Nothing before this time.
    Nothing(Timestamp),
}

pub(crate) fn due(certificate: Option<&CertificateRow>, orders: &[OrderRow], now: Timestamp) -> Due {
    if let Some(open) = orders.iter().find(|row| !row.state.is_settled()) {
        return Due::Open(open.clone());
    }
    let renew_at =
        certificate.map(|c| c.renew_at.unwrap_or_else(|| decide::renewal(c.not_before, c.not_after, 0.0)));
    match renew_at.max(next_try(orders)) {
        Some(at) if at > now => Due::Nothing(at),
        _ => Due::New,
    }
}

/// When an open order goes on: at the time that was noted, and not before the authority said.
pub(crate) fn goes_on(row: &OrderRow) -> Option<Timestamp> {
    row.next_try_at.max(row.not_before)
}

/// When the next order after a failed one is due, as it was decided then or hurried since.
pub(crate) fn next_try(orders: &[OrderRow]) -> Option<Timestamp> {
    orders.last().filter(|row| row.state == OrderState::Failed)?.next_try_at
}

pub(crate) fn past(orders: &[OrderRow]) -> Vec<Past> {
    let ended = orders.iter().filter(|row| matches!(row.state, OrderState::Valid | OrderState::Failed));
    ended
        .map(|row| Past {
            directory: row.directory.clone(),
            challenge: row.challenge,
            fault: row.fault.filter(|_| row.state == OrderState::Failed),
            at: row.updated_at,
            not_before: row.not_before,
        })
        .collect()
}

/// Orders that each authority has had lately.
pub(crate) fn placed_lately(orders: &[OrderRow], now: Timestamp) -> HashMap<String, usize> {
    let since = before(now, PLACED_WINDOW);
    let mut placed = HashMap::new();
    for row in orders.iter().filter(|row| row.url.is_some() && row.created_at >= since) {
        *placed.entry(row.directory.clone()).or_default() += 1;
    }
    placed
}

pub(crate) fn before(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
}
