//! How a name is, in types and in words that lead to the next step. Pure, but for what it is given.

use std::{collections::HashMap, time::Duration};

use berth_schemas::{
    DomainName, Problem, Timestamp,
    domain::{CertificateShown, DomainStatus, OrderShown, OrderState},
};
use berth_store::{CertificateRow, OrderRow, model::Visible};

use crate::{
    decide::later,
    service::{Certs, Inner},
};

/// A certificate that ends sooner wants attention: renewals have failed for a long time.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);
/// Orders of a name that are looked at to count failures.
const LOOKED_AT: i64 = 20;

/// How a name is.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// In a word.
    pub status: DomainStatus,
    /// The certificate that visitors get.
    pub certificate: Option<CertificateShown>,
    /// The newest order.
    pub order: Option<OrderShown>,
    /// What to do next.
    pub next: String,
}

/// What this installation does about certificates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Does {
    pub(crate) https: bool,
    pub(crate) orders: bool,
}

impl Certs {
    /// How a name is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn see(&self, name: &DomainName) -> Result<Seen, Problem> {
        let inner = &self.0;
        let certificate = inner.store.certificates().by_name(name).await?;
        let orders = inner.store.acme().of(name, LOOKED_AT).await?;
        let does = Does { https: inner.config.https, orders: inner.config.acme.is_some() };
        Ok(seen(name, certificate.as_ref(), &orders, does, inner.now()))
    }
}

/// How a name is; `orders` are its newest, newest first.
pub(crate) fn seen(
    name: &DomainName,
    certificate: Option<&CertificateRow>,
    orders: &[OrderRow],
    does: Does,
    now: Timestamp,
) -> Seen {
    let status = status(certificate, orders.first(), does, now);
    Seen {
        status,
        next: next(name, status, certificate, orders.first(), does),
        certificate: certificate.map(shown),
        order: orders.first().map(|newest| order(newest, orders)),
    }
}

fn status(
    certificate: Option<&CertificateRow>,
    newest: Option<&OrderRow>,
    does: Does,
    now: Timestamp,
) -> DomainStatus {
    match (certificate, newest) {
        _ if !does.https => DomainStatus::Plain,
        (Some(c), _) if c.not_after > now => DomainStatus::Secure,
        (Some(_), _) => DomainStatus::Expired,
        (None, _) if !does.orders => DomainStatus::Plain,
        (None, Some(row)) if row.state == OrderState::Failed => DomainStatus::Failing,
        (None, Some(row)) if !row.state.is_settled() && row.trouble.is_some() => DomainStatus::Waiting,
        (None, _) => DomainStatus::Issuing,
    }
}

fn next(
    name: &DomainName,
    status: DomainStatus,
    certificate: Option<&CertificateRow>,
    newest: Option<&OrderRow>,
    does: Does,
) -> String {
    let name = name.as_str();
    let verify = format!("domain_verify(domain={name:?}, wait_s=50)");
    let tried = newest.and_then(|row| row.next_try_at).map(|at| format!(" The next try is at {at}."));
    let tried = tried.unwrap_or_default();
    match (status, certificate) {
        (DomainStatus::Plain, _) if !does.https => {
            "It is served over plain HTTP: this installation has no HTTPS. For certificates set https_addr and acme=true in the daemon's configuration.".into()
        }
        (DomainStatus::Plain, _) => format!(
            "This installation orders no certificates: attach one with domain_certificate_set(domain={name:?}, …), or set acme=true in the daemon's configuration."
        ),
        (DomainStatus::Secure | DomainStatus::Expired, Some(c)) if c.own => format!(
            "It was attached by hand: attach a new one with domain_certificate_set before {}, or let Berth get one with domain_update(domain={name:?}, unset=[\"certificate\"]).",
            c.not_after
        ),
        (DomainStatus::Secure, _) => match newest.filter(|row| row.state == OrderState::Failed) {
            Some(_) => format!("It works, but the renewal failed for the reason in order.error.{tried} Put that right, then {verify}."),
            None => "Nothing: it works, and is renewed by itself.".into(),
        },
        (DomainStatus::Issuing, _) => format!("The certificate is on its way; {verify} waits for it."),
        (DomainStatus::Waiting, _) => {
            format!("Nothing is asked of the authority before this is right: see order.error.{tried} After a change, {verify}.")
        }
        (DomainStatus::Failing | DomainStatus::Expired, _) => format!(
            "The authority said why in order.error: mostly, {name} does not lead to this machine in DNS, or port 80 does not reach it.{tried} After a change, {verify}."
        ),
    }
}

fn shown(row: &CertificateRow) -> CertificateShown {
    CertificateShown {
        issuer: row.issuer.clone().into(),
        names: row.names.clone(),
        not_before: row.not_before,
        not_after: row.not_after,
        own: row.own,
        fingerprint: row.fingerprint.clone(),
        renew_at: row.renew_at,
    }
}

fn order(newest: &OrderRow, orders: &[OrderRow]) -> OrderShown {
    let failures = orders.iter().filter(|row| row.state != OrderState::Cancelled);
    let failures =
        failures.skip_while(|row| !row.state.is_settled()).take_while(|row| row.state == OrderState::Failed);
    // What is under way was begun because of what came before.
    let before = orders.get(1).filter(|row| !newest.state.is_settled() && row.state == OrderState::Failed);
    let said = Some(newest).filter(|row| row.trouble.is_some()).or(before);
    OrderShown {
        state: newest.state,
        directory: newest.directory.clone(),
        challenge: newest.challenge,
        renewal: newest.renewal,
        error: said.and_then(|row| row.trouble.clone()),
        not_before: said.and_then(|row| row.not_before),
        next_try_at: newest.next_try_at,
        failures: u32::try_from(failures.count()).unwrap_or(u32::MAX),
        created_at: newest.created_at,
        updated_at: newest.updated_at,
    }
}

/// What concerns certificates and should be known to who may see these projects.
pub(crate) async fn attention(inner: &Inner, visible: &Visible) -> Result<Vec<String>, Problem> {
    let now = inner.now();
    if !inner.config.https {
        return Ok(Vec::new());
    }
    let (domains, _) = inner.store.domains().list(visible, None, None, 500).await?;
    let mine = |name: &DomainName| *visible == Visible::All || domains.iter().any(|d| d.name == *name);
    let certificates = inner.store.certificates().all().await?;
    let mut list = Vec::new();
    for c in certificates.iter().filter(|c| mine(&c.name) && c.not_after <= later(now, EXPIRES_SOON)) {
        // One that lives shortly is always close to its end.
        let life = c.not_after.0.saturating_sub(c.not_before.0);
        if c.not_after > now && !c.own && c.not_after.0.saturating_sub(now.0) > life / 4 {
            continue;
        }
        let verb = if c.not_after > now { "expires" } else { "has expired" };
        let how = match c.own {
            true => "attach a new one with domain_certificate_set",
            false => "its renewal fails; see domain_get and event_list(kind=\"certificate\")",
        };
        list.push(format!("The certificate of {} {verb} at {}: {how}.", c.name, c.not_after));
    }
    if inner.config.acme.is_none() {
        return Ok(list);
    }
    let mut newest: HashMap<DomainName, OrderRow> = HashMap::new();
    for row in inner.store.acme().recent(Timestamp(now.0.saturating_sub(7 * 24 * 3600 * 1_000_000))).await? {
        newest.insert(row.name.clone(), row);
    }
    let mut failing: Vec<OrderRow> =
        newest.into_values().filter(|row| mine(&row.name) && is_stuck(row)).collect();
    failing.retain(|row| !certificates.iter().any(|c| c.name == row.name));
    failing.sort_by(|a, b| a.name.cmp(&b.name));
    for row in failing {
        let kind = row.trouble.map(|t| t.kind).unwrap_or_default();
        list.push(format!(
            "{} has no certificate ({kind}). See domain_get, or event_list(kind=\"certificate\") for a name that is no domain.",
            row.name
        ));
    }
    Ok(list)
}

fn is_stuck(row: &OrderRow) -> bool {
    row.state == OrderState::Failed || !row.state.is_settled() && row.trouble.is_some()
}

#[cfg(test)]
mod tests {
    use berth_schemas::domain::{ChallengeKind, OrderTrouble};
    use berth_store::OrderId;

    use super::*;

    const ON: Does = Does { https: true, orders: true };

    fn row(state: OrderState) -> OrderRow {
        OrderRow {
            id: OrderId(1),
            name: "shop.example.com".parse().unwrap(),
            directory: "https://ca.example/dir".into(),
            challenge: ChallengeKind::Http01,
            renewal: false,
            state,
            url: None,
            trouble: (state == OrderState::Failed).then(|| OrderTrouble {
                kind: "dns".into(),
                detail: "NXDOMAIN".into(),
                at: Timestamp(0),
            }),
            not_before: None,
            fault: None,
            next_try_at: (state == OrderState::Failed).then_some(Timestamp(60_000_000)),
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
        }
    }

    fn certificate(own: bool, until: i64) -> CertificateRow {
        CertificateRow {
            name: "shop.example.com".parse().unwrap(),
            names: vec!["shop.example.com".into()],
            chain: String::new(),
            issuer: "CN=Test".into(),
            fingerprint: "ab".into(),
            own,
            directory: None,
            not_before: Timestamp(0),
            not_after: Timestamp(until),
            renew_at: None,
            asked_at: None,
            created_at: Timestamp(0),
        }
    }

    #[test]
    fn the_next_step_is_said_in_every_case() {
        let name: DomainName = "shop.example.com".parse().unwrap();
        let see = |c: Option<&CertificateRow>, orders: &[OrderRow], does| {
            seen(&name, c, orders, does, Timestamp(5))
        };
        let none: [OrderRow; 0] = [];
        let off = Does { https: false, orders: false };
        let cases = [
            (see(None, &none, off), DomainStatus::Plain, "https_addr"),
            (see(None, &none, Does { orders: false, ..ON }), DomainStatus::Plain, "domain_certificate_set"),
            (see(None, &none, ON), DomainStatus::Issuing, "domain_verify"),
            (see(None, &[row(OrderState::Authorizing)], ON), DomainStatus::Issuing, "domain_verify"),
            (see(None, &[row(OrderState::Failed)], ON), DomainStatus::Failing, "1970-01-01T00:01:00"),
            (see(Some(&certificate(false, 9)), &none, ON), DomainStatus::Secure, "Nothing"),
            (
                see(Some(&certificate(false, 9)), &[row(OrderState::Failed)], ON),
                DomainStatus::Secure,
                "renewal failed",
            ),
            (see(Some(&certificate(true, 9)), &none, ON), DomainStatus::Secure, "by hand"),
            (
                see(Some(&certificate(false, 5)), &[row(OrderState::Failed)], ON),
                DomainStatus::Expired,
                "order.error",
            ),
        ];
        for (seen, status, says) in cases {
            assert_eq!(seen.status, status, "{seen:?}");
            assert!(seen.next.contains(says), "{seen:?}");
        }
    }

    #[test]
    fn an_order_tells_of_the_failures_before_it() {
        let orders = [
            row(OrderState::Authorizing),
            row(OrderState::Failed),
            row(OrderState::Failed),
            row(OrderState::Valid),
        ];
        let shown = order(&orders[0], &orders);
        assert_eq!((shown.failures, shown.error.unwrap().kind.as_str()), (2, "dns"));
    }
}
