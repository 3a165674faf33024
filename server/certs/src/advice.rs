//! What to do about an order that does not go on, by what was said of it. Pure.

use berth_schemas::{DomainName, domain::ChallengeKind};
use berth_store::OrderRow;

use crate::dns::challenge_name;

/// What to do about an order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Advice {
    /// In whole sentences.
    pub(crate) words: String,
    /// Whether it is a change after which a look at once helps. Limits pass by waiting alone.
    pub(crate) look: bool,
}

/// What to do about the trouble of an order. `shareable` is the domain below which one wildcard certificate could do for
/// all names, but for a DNS provider.
pub(crate) fn advice(row: &OrderRow, shareable: Option<&DomainName>) -> Advice {
    let kind = row.trouble.as_ref().map_or("", |t| t.kind.as_str());
    let name = row.name.as_str();
    let words = match kind {
        "dns" | "connection" | "unauthorized" | "incorrectResponse" | "tls" => unproven(row, kind),
        "caa" => format!(
            "A CAA record does not allow the authority to issue: domain_get(domain={name:?}, check_dns=true) says which one to add."
        ),
        "rateLimited" => return Advice { words: limited(row, shareable), look: false },
        "rejectedIdentifier" | "unsupportedIdentifier" => format!(
            "The authority does not issue for this name: attach a certificate with domain_certificate_set(domain={name:?}, …), or set another authority in acme_directories of the daemon's configuration."
        ),
        "externalAccountRequired" => {
            "Set acme_eab_kid and acme_eab_key in the daemon's configuration, from your account at the authority.".into()
        }
        "invalidContact" | "unsupportedContact" => {
            "Set acme_email in the daemon's configuration to an address that the authority takes.".into()
        }
        "userActionRequired" => {
            "The authority wants something done by a person first, such as to agree to new terms.".into()
        }
        "no_dns_provider" => {
            "Add the zone's DNS provider with dns_provider_add; kind=manual has you set the record yourself.".into()
        }
        "dns_provider" => {
            "The DNS provider did not set the record: look at it with dns_provider_get(test=true), and give it a token that works with dns_provider_add(replace=true, …).".into()
        }
        "dns_record" => format!(
            "The record at {} is waited for; Berth goes on when all name servers of its zone show it.",
            challenge_name(&row.name)
        ),
        "no_challenge" => format!(
            "Choose a proof that the authority offers: domain_update(domain={name:?}, challenge=…)."
        ),
        "timeout" | "unreachable" | "serverInternal" | "badNonce" | "orderNotReady" => format!(
            "The authority did not answer, or not as it should. If that lasts, see that this machine reaches {}.",
            row.directory
        ),
        _ => "That is what is to be put right.".into(),
    };
    Advice { words, look: true }
}

/// The authority was not shown that the name is ours.
fn unproven(row: &OrderRow, kind: &str) -> String {
    let name = row.name.as_str();
    let port = match row.challenge {
        ChallengeKind::Dns01 => {
            return format!(
                "The authority did not find the TXT record at {}: all name servers of its zone must show it.",
                challenge_name(&row.name)
            );
        }
        ChallengeKind::Http01 => 80,
        ChallengeKind::TlsAlpn01 => 443,
    };
    if kind == "dns" {
        return format!(
            "The authority could not look {name} up: domain_get(domain={name:?}, check_dns=true) says what DNS must say."
        );
    }
    format!(
        "Mostly, {name} does not lead to this machine in DNS, or port {port} does not reach it: domain_get(domain={name:?}, check_dns=true, check_ports=true) looks at both."
    )
}

/// The authority has given as much as it does for now.
fn limited(row: &OrderRow, shareable: Option<&DomainName>) -> String {
    let mut words =
        "A limit of the authority is reached: it passes by itself, and Berth asks again then.".to_owned();
    if let Some(at) = row.not_before {
        words.push_str(&format!(" This authority takes no order before {at}."));
    }
    if let Some(base) = shareable.filter(|base| is_below(&row.name, base)) {
        words.push(' ');
        words.push_str(&share(base));
    }
    words
}

/// How names below the base domain need fewer certificates.
pub(crate) fn share(base: &DomainName) -> String {
    format!(
        "Names of apps below {base} can share one wildcard certificate: add the DNS provider of {base} with dns_provider_add."
    )
}

/// Whether a name is one of those below the base domain.
pub(crate) fn is_below(name: &DomainName, base: &DomainName) -> bool {
    let rest = name.as_str().strip_suffix(base.as_str());
    !name.is_wildcard() && rest.is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use berth_schemas::{
        Timestamp,
        domain::{OrderState, OrderTrouble},
    };
    use berth_store::OrderId;

    use super::*;

    fn of(name: &str, kind: &str, challenge: ChallengeKind) -> Advice {
        advice(&row(name, kind, challenge), Some(&"apps.example.com".parse().unwrap()))
    }

    fn row(name: &str, kind: &str, challenge: ChallengeKind) -> OrderRow {
        OrderRow {
            id: OrderId(1),
            name: name.parse().unwrap(),
            directory: "https://ca.example/dir".into(),
            challenge,
            renewal: false,
            state: OrderState::Failed,
            url: None,
            trouble: Some(OrderTrouble { kind: kind.into(), detail: "no".into(), at: Timestamp(0) }),
            not_before: None,
            fault: None,
            next_try_at: None,
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
        }
    }

    #[test]
    fn each_trouble_has_its_own_remedy() {
        use ChallengeKind::{Dns01, Http01, TlsAlpn01};
        for (kind, challenge, says) in [
            ("unauthorized", Http01, "port 80"),
            ("connection", TlsAlpn01, "port 443"),
            ("unauthorized", Dns01, "_acme-challenge.shop.example.com"),
            ("dns", Http01, "check_dns=true"),
            ("caa", Http01, "CAA"),
            ("externalAccountRequired", Http01, "acme_eab_kid"),
            ("dns_provider", Dns01, "dns_provider_add(replace=true"),
            ("no_dns_provider", Dns01, "dns_provider_add"),
            ("rejectedIdentifier", Http01, "domain_certificate_set"),
            ("unreachable", Http01, "https://ca.example/dir"),
            ("something", Http01, "put right"),
        ] {
            let advice = of("shop.example.com", kind, challenge);
            assert!(advice.look && advice.words.contains(says), "{kind}: {advice:?}");
            let of_ports = matches!(kind, "unauthorized" | "connection") && challenge != Dns01;
            assert_eq!(advice.words.contains("port"), of_ports, "{kind}: {advice:?}");
        }
    }

    #[test]
    fn a_limit_passes_and_a_wildcard_needs_fewer_certificates() {
        let below = of("web.apps.example.com", "rateLimited", ChallengeKind::Http01);
        assert!(!below.look && below.words.contains("dns_provider_add"), "{below:?}");
        for other in ["shop.example.com", "*.apps.example.com", "apps.example.com", "myapps.example.com"] {
            let advice = of(other, "rateLimited", ChallengeKind::Http01);
            assert!(!advice.look && !advice.words.contains("dns_provider_add"), "{other}: {advice:?}");
        }
        let said = OrderRow {
            not_before: Some(Timestamp(60_000_000)),
            ..row("shop.example.com", "rateLimited", ChallengeKind::Http01)
        };
        assert!(advice(&said, None).words.contains("before 1970-01-01T00:01:00"));
    }
}
