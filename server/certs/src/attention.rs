//! What concerns certificates and should be known without being asked for.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use berth_schemas::{DomainName, Problem, Timestamp, domain::OrderState};
use berth_store::{CertificateRow, OrderRow, model::Visible};

use crate::{
    advice::{is_below, share},
    decide::later,
    due::before,
    service::Inner,
    view::is_stuck,
};

/// A certificate that ends sooner wants attention: renewals have failed for a long time.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);
/// Orders that moved longer ago are not looked at, unless they are not over.
const LOOKED_BACK: Duration = Duration::from_secs(7 * 24 * 3600);

/// What concerns certificates and should be known to who may see these projects.
pub(crate) async fn attention(inner: &Inner, visible: &Visible) -> Result<Vec<String>, Problem> {
    let now = inner.now();
    if !inner.config.https {
        return Ok(Vec::new());
    }
    let (domains, _) = inner.store.domains().list(visible, None, None, 500).await?;
    let mine = |name: &DomainName| *visible == Visible::All || domains.iter().any(|d| d.name == *name);
    let mut certificates = inner.store.certificates().all().await?;
    let valid: HashSet<DomainName> =
        certificates.iter().filter(|c| c.not_after > now).map(|c| c.name.clone()).collect();
    certificates.retain(|c| mine(&c.name));
    let (mut list, told) = expiring(&certificates, now);
    if inner.config.acme.is_none() {
        return Ok(list);
    }
    // Not of names that are gone, or have another certificate by now.
    let wanted = inner.wanted(inner.store.domains().all().await?, |name| valid.contains(name)).await?;
    let mut newest: HashMap<DomainName, OrderRow> = HashMap::new();
    for row in inner.store.acme().recent(before(now, LOOKED_BACK)).await? {
        newest.insert(row.name.clone(), row);
    }
    let mut rows: Vec<OrderRow> = newest
        .into_values()
        .filter(|row| mine(&row.name) && wanted.contains_key(&row.name))
        .filter(|row| is_stuck(row) && !told.contains(&row.name))
        .collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    list.extend(stuck(&rows, &certificates));
    if let Some(base) = inner.shareable().await? {
        list.extend(crowded(&rows, &base));
    }
    Ok(list)
}

/// What is said of certificates that end soon, and of which.
fn expiring(certificates: &[CertificateRow], now: Timestamp) -> (Vec<String>, HashSet<DomainName>) {
    let (mut list, mut told) = (Vec::new(), HashSet::new());
    for c in certificates.iter().filter(|c| c.not_after <= later(now, EXPIRES_SOON)) {
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
        told.insert(c.name.clone());
    }
    (list, told)
}

/// What is said of orders that do not go on.
fn stuck(rows: &[OrderRow], certificates: &[CertificateRow]) -> Vec<String> {
    let one = |row: &OrderRow| {
        let name = &row.name;
        let kind = row.trouble.as_ref().map_or("", |t| t.kind.as_str());
        match certificates.iter().find(|c| c.name == *name) {
            // Nobody renews that one; what was on order before it was attached is past.
            Some(c) if c.own => None,
            Some(c) => {
                let verb = if row.state == OrderState::Failed { "failed" } else { "waits" };
                Some(format!(
                    "The renewal of the certificate of {name} {verb} ({kind}); it is valid until {}. See domain_get.",
                    c.not_after
                ))
            }
            None => Some(format!(
                "{name} has no certificate ({kind}). See domain_get, or event_list(kind=\"certificate\") for a name that is no domain."
            )),
        }
    };
    rows.iter().filter_map(one).collect()
}

/// What is said when so many names below the base domain want certificates that an authority gives no more.
fn crowded(rows: &[OrderRow], base: &DomainName) -> Option<String> {
    let limited = |row: &OrderRow| row.trouble.as_ref().is_some_and(|t| t.kind == "rateLimited");
    rows.iter().any(|row| limited(row) && is_below(&row.name, base)).then(|| share(base))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples::{certificate, row};

    #[test]
    fn renewals_that_do_not_go_on_are_told() {
        let failed = [row(OrderState::Failed)];
        let waits = [row(OrderState::Authorizing)].map(|mut row| {
            row.trouble.clone_from(&failed[0].trouble);
            row
        });
        let of = |rows: &[OrderRow], certificates: &[CertificateRow]| stuck(rows, certificates).join("\n");
        let theirs = [certificate(false, 60_000_000)];
        assert!(of(&failed, &[]).contains("shop.example.com has no certificate (dns)"));
        let said = of(&failed, &theirs);
        assert!(said.contains("failed (dns); it is valid until 1970-01-01T00:01:00"), "{said}");
        assert!(of(&waits, &theirs).contains("waits (dns)"));
        assert_eq!(of(&failed, &[certificate(true, 60_000_000)]), "");
    }

    #[test]
    fn what_expires_is_told_once() {
        let day = 24 * 3600 * 1_000_000;
        let ends = |own: bool, days: i64| expiring(&[certificate(own, days * day)], Timestamp(80 * day));
        assert_eq!(ends(false, 90), (Vec::new(), HashSet::new()));
        assert!(ends(false, 86).0[0].contains("expires"));
        assert!(ends(true, 86).0[0].contains("domain_certificate_set"));
        let (list, told) = ends(false, 79);
        assert!(list[0].contains("has expired") && told.contains(&"shop.example.com".parse().unwrap()));
    }

    #[test]
    fn many_names_are_told_to_share() {
        let limited = |name: &str| {
            let mut row = row(OrderState::Failed);
            row.name = name.parse().unwrap();
            row.trouble.as_mut().unwrap().kind = "rateLimited".into();
            row
        };
        let base: DomainName = "apps.example.com".parse().unwrap();
        let rows = [limited("a.apps.example.com"), limited("b.apps.example.com")];
        assert!(crowded(&rows, &base).unwrap().contains("dns_provider_add"));
        assert_eq!(crowded(&[limited("shop.example.com")], &base), None);
        assert_eq!(crowded(&[row(OrderState::Failed)], &"example.com".parse().unwrap()), None);
    }
}
