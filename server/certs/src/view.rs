//! How a name is, in types and in words that lead to the next step. Pure, but for what it is given.

use berth_schemas::{
    DomainName, Problem, Timestamp,
    domain::{CertificateShown, DomainStatus, OrderShown, OrderState},
};
use berth_store::{CertificateRow, OrderRow};

use crate::{
    advice::{Advice, advice},
    service::Certs,
};

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
pub(crate) struct Does<'a> {
    pub(crate) https: bool,
    pub(crate) orders: bool,
    /// The domain below which all names could share a certificate, but for a DNS provider.
    pub(crate) shareable: Option<&'a DomainName>,
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
        let shareable = inner.shareable().await?;
        let does = Does {
            https: inner.config.https,
            orders: inner.config.acme.is_some(),
            shareable: shareable.as_ref(),
        };
        Ok(seen(name, certificate.as_ref(), &orders, does, inner.now()))
    }
}

/// How a name is; `orders` are its newest, newest first.
pub(crate) fn seen(
    name: &DomainName,
    certificate: Option<&CertificateRow>,
    orders: &[OrderRow],
    does: Does<'_>,
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
    does: Does<'_>,
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
    does: Does<'_>,
) -> String {
    let verify = format!("domain_verify(domain={:?}, wait_s=50)", name.as_str());
    let name = name.as_str();
    let stuck = newest.filter(|row| is_stuck(row));
    let remedy = stuck.map(|row| remedy(row, does, &verify)).unwrap_or_default();
    match (status, certificate) {
        (DomainStatus::Plain, _) if !does.https => {
            "It is served over plain HTTP: this installation has no HTTPS. For certificates set https_addr and acme=true in the daemon's configuration.".into()
        }
        (DomainStatus::Secure | DomainStatus::Expired, Some(c)) if c.own => format!(
            "It was attached by hand: attach a new one with domain_certificate_set before {}, or let Berth get one with domain_update(domain={name:?}, unset=[\"certificate\"]).",
            c.not_after
        ),
        (DomainStatus::Secure, _) if does.orders => match stuck.map(|row| row.state) {
            Some(OrderState::Failed) => {
                format!("It works, but the renewal failed for the reason in order.error. {remedy}")
            }
            Some(_) => format!("It works, but the renewal waits: see order.error. {remedy}"),
            None => "Nothing: it works, and is renewed by itself.".into(),
        },
        (DomainStatus::Plain | DomainStatus::Secure | DomainStatus::Expired, _) if !does.orders => format!(
            "This installation orders no certificates: attach one with domain_certificate_set(domain={name:?}, …), or set acme=true in the daemon's configuration."
        ),
        (DomainStatus::Failing | DomainStatus::Expired, _) if stuck.is_some() => {
            format!("Why it failed is said in order.error. {remedy}")
        }
        (DomainStatus::Waiting, _) => format!("It waits for what order.error says. {remedy}"),
        _ => format!("The certificate is on its way; {verify} waits for it."),
    }
}

/// What to do about an order that does not go on, and when it is tried again.
fn remedy(row: &OrderRow, does: Does<'_>, verify: &str) -> String {
    let Advice { mut words, look } = advice(row, does.shareable);
    if let Some(at) = row.next_try_at {
        words.push_str(&format!(" The next try is at {at}."));
    }
    if look {
        words.push_str(&format!(" After a change, {verify}."));
    }
    words
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

/// Whether an order has failed or waits for something.
pub(crate) fn is_stuck(row: &OrderRow) -> bool {
    row.state == OrderState::Failed || !row.state.is_settled() && row.trouble.is_some()
}

#[cfg(test)]
pub(crate) mod samples {
    //! Orders and certificates of one name.

    use berth_schemas::domain::{ChallengeKind, OrderTrouble};
    use berth_store::OrderId;

    use super::*;

    pub(crate) fn row(state: OrderState) -> OrderRow {
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

    pub(crate) fn certificate(own: bool, until: i64) -> CertificateRow {
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
}

#[cfg(test)]
mod tests {
    use berth_schemas::domain::{ChallengeKind, OrderTrouble};

    use super::{
        samples::{certificate, row},
        *,
    };

    const ON: Does<'static> = Does { https: true, orders: true, shareable: None };

    #[test]
    fn the_next_step_is_said_in_every_case() {
        let name: DomainName = "shop.example.com".parse().unwrap();
        let see = |c: Option<&CertificateRow>, orders: &[OrderRow], does| {
            seen(&name, c, orders, does, Timestamp(5))
        };
        let none: [OrderRow; 0] = [];
        let off = Does { https: false, orders: false, shareable: None };
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
            (see(Some(&certificate(false, 5)), &none, ON), DomainStatus::Expired, "on its way"),
            (
                see(Some(&certificate(false, 9)), &none, Does { orders: false, ..ON }),
                DomainStatus::Secure,
                "orders no certificates",
            ),
        ];
        for (seen, status, says) in cases {
            assert_eq!(seen.status, status, "{seen:?}");
            assert!(seen.next.contains(says), "{seen:?}");
        }
    }

    /// An order that is not over and waits for something.
    fn waits(state: OrderState, kind: &str, challenge: ChallengeKind) -> OrderRow {
        let failed = row(OrderState::Failed);
        let trouble = failed.trouble.map(|t| OrderTrouble { kind: kind.into(), ..t });
        OrderRow { trouble, next_try_at: failed.next_try_at, challenge, renewal: true, ..row(state) }
    }

    #[test]
    fn a_renewal_that_waits_is_not_called_fine() {
        let name: DomainName = "shop.example.com".parse().unwrap();
        for (state, kind) in
            [(OrderState::Authorizing, "dns_record"), (OrderState::Pending, "no_dns_provider")]
        {
            let order = waits(state, kind, ChallengeKind::Dns01);
            let seen = seen(&name, Some(&certificate(false, 9)), &[order], ON, Timestamp(5));
            assert_eq!(seen.status, DomainStatus::Secure);
            assert!(seen.next.contains("the renewal waits") && seen.next.contains("1970"), "{seen:?}");
        }
        let goes_on = seen(&name, Some(&certificate(false, 9)), &[row(OrderState::Ready)], ON, Timestamp(5));
        assert!(goes_on.next.contains("Nothing"), "{goes_on:?}");
    }

    #[test]
    fn advice_is_about_what_was_said() {
        let name: DomainName = "shop.example.com".parse().unwrap();
        let failed = |kind: &str, challenge| {
            let order = OrderRow { state: OrderState::Failed, ..waits(OrderState::Failed, kind, challenge) };
            seen(&name, None, &[order], ON, Timestamp(5)).next
        };
        let limited = failed("rateLimited", ChallengeKind::Http01);
        assert!(!limited.contains("port 80") && !limited.contains("domain_verify"), "{limited}");
        let caa = failed("caa", ChallengeKind::Http01);
        assert!(caa.contains("CAA") && !caa.contains("port 80") && caa.contains("domain_verify"), "{caa}");
        let token = failed("dns_provider", ChallengeKind::Dns01);
        assert!(token.contains("dns_provider_add") && !token.contains("port 80"), "{token}");
        assert!(failed("connection", ChallengeKind::Http01).contains("port 80"));
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
