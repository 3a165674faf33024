//! What is wrong with what DNS says, and what to change: decided from answers, without asking anybody.
//!
//! Names from DNS are repeated in words only when they are plain host names, so that nobody can write sentences into
//! ours by naming a record.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use berth_schemas::{
    DomainName,
    dns::{DnsProblem, DnsProblemKind as Kind},
};

/// What one name server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Which one.
    pub(crate) server: String,
    /// Whether it is one of the zone's own.
    pub(crate) own: bool,
    /// What it said.
    pub(crate) said: Said,
}

/// What was said of a name's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// The name exists.
    Exists {
        /// Its addresses, which may be none.
        addresses: BTreeSet<IpAddr>,
        /// What it is an alias of, in order.
        aliases: Vec<String>,
        /// Seconds for which that may be kept.
        ttl: u32,
    },
    /// The name does not exist.
    NoName,
    /// The server could not or would not say, by its response code.
    Failed(String),
    /// The server did not answer, and why.
    Silent(String),
}

/// A CAA record (RFC 8659).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CaaRecord {
    pub(crate) critical: bool,
    pub(crate) tag: String,
    pub(crate) value: String,
}

/// The CAA records that count for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caa {
    /// There are none: any authority may issue.
    None,
    /// Those at this name, the nearest that has some.
    Found { at: String, records: Vec<CaaRecord> },
    /// They could not be asked for, by this response code; authorities then do not issue.
    Failed(String),
}

/// All that is to be judged.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    /// The name as people call it: for a wildcard, with its star.
    pub(crate) called: &'a str,
    /// This machine's addresses.
    pub(crate) expected: &'a [IpAddr],
    pub(crate) views: &'a [View],
    pub(crate) caa: &'a Caa,
    pub(crate) wildcard: bool,
    /// How the certificate authorities in use call themselves in CAA records.
    pub(crate) issuers: &'a [String],
}

/// The verdict: whether the name leads here, if that is known, and what is wrong.
pub(crate) fn judge(facts: &Facts<'_>) -> (Option<bool>, Vec<DnsProblem>) {
    let mut problems = Vec::new();
    let truth = truth(facts.views);
    let here = match truth {
        None => {
            let nobody = nobody(facts);
            // Where servers fail it leads nowhere; where none was heard it may lead anywhere.
            let here = (nobody.kind == Kind::Broken).then_some(false);
            problems.push(nobody);
            here
        }
        Some(Said::NoName) => {
            let detail = format!("The name {} does not exist.", facts.called);
            problems.push(problem(Kind::NoName, true, detail, records_to_add(facts)));
            Some(false)
        }
        Some(Said::Exists { addresses, aliases, .. }) => places(facts, addresses, aliases, &mut problems),
        Some(_) => None,
    };
    if let Some(truth) = truth {
        disagreements(facts, truth, &mut problems);
    }
    problems.extend(issuing(facts));
    if facts.expected.is_empty() {
        problems.push(problem(
            Kind::OwnAddressUnknown,
            false,
            "It is not known which public addresses this machine has.".into(),
            "Set public_addresses in Berth's configuration.".into(),
        ));
    }
    problems.sort_by_key(|p| !p.blocking);
    (here, problems)
}

/// What counts: the word of the zone's own servers, or else of the resolvers.
fn truth(views: &[View]) -> Option<&Said> {
    let says = |own: bool| {
        views
            .iter()
            .find(|v| v.own == own && matches!(v.said, Said::Exists { .. } | Said::NoName))
            .map(|v| &v.said)
    };
    says(true).or_else(|| says(false))
}

/// Nobody says anything about the name.
fn nobody(facts: &Facts<'_>) -> DnsProblem {
    let failed = facts.views.iter().find_map(|v| match &v.said {
        Said::Failed(code) => Some(code),
        _ => None,
    });
    match failed {
        Some(code) => problem(
            Kind::Broken,
            true,
            format!("Name servers cannot answer for {}: {}.", facts.called, word(code)),
            "Check the zone at your DNS provider: it may not be set up there, its name servers may differ from those at the registrar, or its DNSSEC keys may be wrong.".into(),
        ),
        None => problem(
            Kind::Unasked,
            false,
            "No name server could be asked from this machine.".into(),
            "Allow DNS (port 53, UDP and TCP) out of this machine, or set dns_resolvers to name servers that it reaches.".into(),
        ),
    }
}

/// Judges the addresses; whether all that matters leads here, if that is known.
fn places(
    facts: &Facts<'_>,
    addresses: &BTreeSet<IpAddr>,
    aliases: &[String],
    problems: &mut Vec<DnsProblem>,
) -> Option<bool> {
    if addresses.is_empty() {
        let detail = format!("{} has no address.{}", facts.called, alias_words(facts, aliases));
        problems.push(problem(Kind::NoAddress, true, detail, records_to_add(facts)));
        return Some(false);
    }
    if facts.expected.is_empty() {
        return None;
    }
    let proxied: Vec<IpAddr> = addresses.iter().copied().filter(|a| is_cloudflare(*a)).collect();
    if !proxied.is_empty() {
        problems.push(problem(
            Kind::Proxied,
            false,
            format!("{} leads to Cloudflare's proxy ({}), which hides where it goes on.", facts.called, list(&proxied)),
            format!(
                "In Cloudflare, let the record lead to {} and set it to \"DNS only\"; or keep the proxy with SSL mode \"Full (strict)\" and prove the name with dns-01.",
                list(facts.expected)
            ),
        ));
    }
    let is_wrong = |a: &&IpAddr| !facts.expected.contains(a) && !proxied.contains(a);
    let mut wrong = false;
    for v4 in [true, false] {
        let of_family = |a: &&IpAddr| a.is_ipv4() == v4;
        let kind = if v4 { "A" } else { "AAAA" };
        let mine: Vec<IpAddr> = facts.expected.iter().filter(of_family).copied().collect();
        let right = addresses.iter().filter(of_family).any(|a| facts.expected.contains(a));
        for address in addresses.iter().filter(of_family).filter(is_wrong) {
            wrong = true;
            let alias = alias_words(facts, aliases);
            let detail =
                format!("{kind} of {} is {address}, which is not this machine.{alias}", facts.called);
            let (what, fix) = match (right, mine.is_empty()) {
                (true, _) => (
                    Kind::ExtraAddress,
                    format!(
                        "Remove {kind} {address}: part of the visitors, and of an authority's checks, would go there."
                    ),
                ),
                (false, false) => {
                    (Kind::WrongAddress, format!("Replace {kind} {address} by {}.", list(&mine)))
                }
                (false, true) if v4 => (
                    Kind::WrongAddress,
                    format!(
                        "Remove A {address}: this machine has no public IPv4 address that is known. If it has one, set public_addresses."
                    ),
                ),
                (false, true) => (
                    Kind::WrongAddress,
                    format!(
                        "Remove AAAA {address}: this machine has no public IPv6 address that is known, and authorities prefer IPv6."
                    ),
                ),
            };
            problems.push(problem(what, true, detail, fix));
        }
        if v4 && !mine.is_empty() && !addresses.iter().any(|a| a.is_ipv4()) {
            let detail = format!("{} has no A record: visitors without IPv6 do not reach it.", facts.called);
            problems.push(problem(
                Kind::NoAddress,
                false,
                detail,
                format!("Add A {} → {}.", facts.called, list(&mine)),
            ));
        }
    }
    Some(!wrong)
}

/// Who says something else than what counts.
fn disagreements(facts: &Facts<'_>, truth: &Said, problems: &mut Vec<DnsProblem>) {
    let known = addresses_of(truth);
    let others = |own: bool| {
        facts.views.iter().filter(move |v| v.own == own).filter_map(|v| match &v.said {
            Said::Exists { ttl, .. } => Some((v, *ttl)),
            Said::NoName => Some((v, 0)),
            _ => None,
        })
    };
    let different: Vec<_> = others(true).filter(|(v, _)| addresses_of(&v.said) != known).collect();
    if let Some((view, _)) = different.first() {
        problems.push(problem(
            Kind::Disagreement,
            true,
            format!("The zone's own name servers differ: {} says {}.", word(&view.server), shown(&view.said)),
            "Wait until all of them have the newest version of the zone; if they do not get it, check the secondary servers at your DNS provider.".into(),
        ));
    }
    let has_own = facts.views.iter().any(|v| v.own && matches!(v.said, Said::Exists { .. } | Said::NoName));
    let late: Vec<_> = others(false).filter(|(v, _)| addresses_of(&v.said) != known).collect();
    let Some(longest) = late.iter().map(|(_, ttl)| *ttl).max() else { return };
    let said: Vec<String> =
        late.iter().map(|(v, _)| format!("{} says {}", word(&v.server), shown(&v.said))).collect();
    let detail = match has_own {
        true => format!("Resolvers still have an older answer: {}.", said.join("; ")),
        false => format!("Resolvers differ: {}.", said.join("; ")),
    };
    let fix = match longest {
        0 => "Wait a few minutes: an answer that a name does not exist is kept for a while, too.".to_owned(),
        ttl => format!("Wait for the TTL of {ttl} s."),
    };
    problems.push(problem(Kind::Disagreement, false, detail, fix));
}

/// Whether an authority in use may issue (RFC 8659).
fn issuing(facts: &Facts<'_>) -> Option<DnsProblem> {
    let (at, records) = match facts.caa {
        Caa::None => return None,
        Caa::Failed(code) => {
            return Some(problem(
                Kind::Caa,
                true,
                format!(
                    "CAA records of {} cannot be asked for: {}. Authorities do not issue then.",
                    facts.called,
                    word(code)
                ),
                "Check the zone at your DNS provider, its DNSSEC keys first.".into(),
            ));
        }
        Caa::Found { at, records } => (word(at), records),
    };
    let known = ["issue", "issuewild", "iodef", "contactemail", "contactphone", "issuemail", "issuevmc"];
    let is = |record: &CaaRecord, tag: &str| record.tag.eq_ignore_ascii_case(tag);
    if records.iter().any(|r| r.critical && !known.iter().any(|tag| is(r, tag))) {
        return Some(problem(
            Kind::Caa,
            true,
            format!("A CAA record of {at} is marked critical and of a kind that authorities do not know."),
            "Remove it, or its critical flag (128).".into(),
        ));
    }
    let wild = facts.wildcard && records.iter().any(|r| is(r, "issuewild"));
    let tag = if wild { "issuewild" } else { "issue" };
    let allowed: Vec<&str> = records.iter().filter(|r| is(r, tag)).map(|r| issuer(&r.value)).collect();
    if allowed.is_empty() || facts.issuers.is_empty() {
        return None;
    }
    if facts.issuers.iter().any(|mine| allowed.iter().any(|a| a.eq_ignore_ascii_case(mine))) {
        return None;
    }
    let named: Vec<String> = allowed.iter().filter(|a| !a.is_empty()).map(|a| word(a)).collect();
    let only = if named.is_empty() { "nobody".to_owned() } else { format!("only {}", named.join(", ")) };
    Some(problem(
        Kind::Caa,
        true,
        format!("CAA of {at} allows {only} to issue certificates."),
        format!("Add CAA {at}: 0 {tag} \"{}\".", facts.issuers[0]),
    ))
}

/// The authority that an `issue` value names; empty for nobody.
fn issuer(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim().trim_end_matches('.')
}

fn records_to_add(facts: &Facts<'_>) -> String {
    if facts.expected.is_empty() {
        return format!("Add an A record for {} with this machine's public address.", facts.called);
    }
    let one = |a: &IpAddr| format!("{} {} → {a}", if a.is_ipv4() { "A" } else { "AAAA" }, facts.called);
    format!("Add {}.", facts.expected.iter().map(one).collect::<Vec<_>>().join(" and "))
}

fn alias_words(facts: &Facts<'_>, aliases: &[String]) -> String {
    match aliases.last() {
        Some(last) => format!(
            " {} is an alias (CNAME) of {}: change that name, or put the records in the alias's place.",
            facts.called,
            word(last)
        ),
        None => String::new(),
    }
}

fn problem(kind: Kind, blocking: bool, detail: String, fix: String) -> DnsProblem {
    DnsProblem { kind, detail, fix, blocking }
}

fn addresses_of(said: &Said) -> BTreeSet<IpAddr> {
    match said {
        Said::Exists { addresses, .. } => addresses.clone(),
        _ => BTreeSet::new(),
    }
}

fn shown(said: &Said) -> String {
    match said {
        Said::Exists { addresses, .. } if !addresses.is_empty() => {
            list(&addresses.iter().copied().collect::<Vec<_>>())
        }
        Said::Exists { .. } => "that there is no address".into(),
        _ => "that there is no such name".into(),
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A name, address or code from DNS, if it is plain enough to stand in a sentence of ours.
fn word(text: &str) -> String {
    let plain = text.parse::<DomainName>().is_ok()
        || text.parse::<IpAddr>().is_ok()
        || text.parse::<std::net::SocketAddr>().is_ok()
        || (text.len() <= 40 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b' '));
    if plain { text.to_owned() } else { "(an odd name)".to_owned() }
}

/// Cloudflare's published networks (<https://www.cloudflare.com/ips/>).
const CLOUDFLARE_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(173, 245, 48, 0), 20),
    (Ipv4Addr::new(103, 21, 244, 0), 22),
    (Ipv4Addr::new(103, 22, 200, 0), 22),
    (Ipv4Addr::new(103, 31, 4, 0), 22),
    (Ipv4Addr::new(141, 101, 64, 0), 18),
    (Ipv4Addr::new(108, 162, 192, 0), 18),
    (Ipv4Addr::new(190, 93, 240, 0), 20),
    (Ipv4Addr::new(188, 114, 96, 0), 20),
    (Ipv4Addr::new(197, 234, 240, 0), 22),
    (Ipv4Addr::new(198, 41, 128, 0), 17),
    (Ipv4Addr::new(162, 158, 0, 0), 15),
    (Ipv4Addr::new(104, 16, 0, 0), 13),
    (Ipv4Addr::new(104, 24, 0, 0), 14),
    (Ipv4Addr::new(172, 64, 0, 0), 13),
    (Ipv4Addr::new(131, 0, 72, 0), 22),
];
const CLOUDFLARE_V6: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::new(0x2400, 0xcb00, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2606, 0x4700, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2803, 0xf800, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2405, 0xb500, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2405, 0x8100, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2a06, 0x98c0, 0, 0, 0, 0, 0, 0), 29),
    (Ipv6Addr::new(0x2c0f, 0xf248, 0, 0, 0, 0, 0, 0), 32),
];

fn is_cloudflare(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            CLOUDFLARE_V4.iter().any(|(net, bits)| (a.to_bits() ^ net.to_bits()) >> (32 - bits) == 0)
        }
        IpAddr::V6(a) => {
            CLOUDFLARE_V6.iter().any(|(net, bits)| (a.to_bits() ^ net.to_bits()) >> (128 - bits) == 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn exists(addresses: &[&str]) -> Said {
        Said::Exists { addresses: addresses.iter().map(|a| ip(a)).collect(), aliases: Vec::new(), ttl: 300 }
    }

    fn view(server: &str, own: bool, said: Said) -> View {
        View { server: server.into(), own, said }
    }

    fn judged(views: &[View], caa: &Caa, expected: &[IpAddr]) -> (Option<bool>, Vec<DnsProblem>) {
        judge(&Facts {
            called: "shop.example.com",
            expected,
            views,
            caa,
            wildcard: false,
            issuers: &["letsencrypt.org".to_owned()],
        })
    }

    fn words(problems: &[DnsProblem]) -> String {
        problems.iter().map(|p| format!("{} {}\n", p.detail, p.fix)).collect()
    }

    #[test]
    fn what_is_right_has_no_problem() {
        let views = [
            view("ns1.example.com", true, exists(&["198.51.100.7"])),
            view("1.1.1.1", false, exists(&["198.51.100.7"])),
        ];
        assert_eq!(judged(&views, &Caa::None, &[ip("198.51.100.7")]), (Some(true), Vec::new()));
    }

    #[test]
    fn each_fault_says_what_to_change() {
        let mine = [ip("198.51.100.7")];
        let of = |said: Said| {
            let (here, problems) = judged(&[view("ns1.example.com", true, said)], &Caa::None, &mine);
            assert_eq!(here, Some(false));
            words(&problems)
        };
        assert!(of(exists(&["203.0.113.9"])).contains("Replace A 203.0.113.9 by 198.51.100.7."));
        assert!(of(exists(&["203.0.113.9", "198.51.100.7"])).contains("Remove A 203.0.113.9"));
        assert!(of(exists(&["198.51.100.7", "2001:db8::9"])).contains("Remove AAAA 2001:db8::9"));
        assert!(of(Said::NoName).contains("Add A shop.example.com → 198.51.100.7."));
        assert!(of(exists(&[])).contains("Add A shop.example.com → 198.51.100.7."));
        let (here, broken) =
            judged(&[view("1.1.1.1", false, Said::Failed("Server Failure".into()))], &Caa::None, &mine);
        assert_eq!((here, broken[0].kind, broken[0].blocking), (Some(false), Kind::Broken, true));
        let (here, silent) = judged(&[view("1.1.1.1", false, Said::Silent("x".into()))], &Caa::None, &mine);
        assert_eq!((here, silent[0].kind, silent[0].blocking), (None, Kind::Unasked, false));
        let (here, unknown) = judged(&[view("1.1.1.1", false, exists(&["203.0.113.9"]))], &Caa::None, &[]);
        assert!(here.is_none() && unknown.iter().all(|p| p.kind == Kind::OwnAddressUnknown));
    }

    #[test]
    fn cloudflares_proxy_is_known() {
        let views = [view("1.1.1.1", false, exists(&["104.21.5.5", "2606:4700::6810:1"]))];
        let (here, problems) = judged(&views, &Caa::None, &[ip("198.51.100.7")]);
        assert_eq!(here, Some(true), "it may well go on to this machine");
        assert_eq!((problems[0].kind, problems.len()), (Kind::Proxied, 1));
        assert!(is_cloudflare(ip("172.71.255.255")) && !is_cloudflare(ip("172.72.0.0")));
        assert!(is_cloudflare(ip("2a06:98c7::1")) && !is_cloudflare(ip("2a06:98c8::1")));
    }

    #[test]
    fn old_answers_are_waited_for() {
        let views = [
            view("ns1.example.com", true, exists(&["198.51.100.7"])),
            view("8.8.8.8", false, exists(&["203.0.113.9"])),
        ];
        let (here, problems) = judged(&views, &Caa::None, &[ip("198.51.100.7")]);
        assert!(here == Some(true) && problems.len() == 1 && !problems[0].blocking);
        assert!(words(&problems).contains("8.8.8.8 says 203.0.113.9"), "{}", words(&problems));
        assert!(words(&problems).contains("TTL of 300 s"));
    }

    #[test]
    fn caa_says_who_may_issue() {
        let views = [view("ns1.example.com", true, exists(&["198.51.100.7"]))];
        let record =
            |tag: &str, value: &str, critical| CaaRecord { critical, tag: tag.into(), value: value.into() };
        let of = |records: Vec<CaaRecord>, wildcard: bool| {
            let caa = Caa::Found { at: "example.com".into(), records };
            let facts = Facts {
                called: "x.example.com",
                expected: &[ip("198.51.100.7")],
                views: &views,
                caa: &caa,
                wildcard,
                issuers: &["letsencrypt.org".to_owned()],
            };
            words(&judge(&facts).1)
        };
        let digicert = of(vec![record("issue", "digicert.com", false)], false);
        assert!(digicert.contains("allows only digicert.com"), "{digicert}");
        assert!(digicert.contains("0 issue \"letsencrypt.org\""), "{digicert}");
        assert_eq!(of(vec![record("ISSUE", "letsencrypt.org; validationmethods=dns-01", false)], false), "");
        assert!(of(vec![record("issue", ";", false)], false).contains("allows nobody"));
        assert_eq!(of(vec![record("iodef", "mailto:a@b", false)], false), "");
        let both = || vec![record("issue", "letsencrypt.org", false), record("issuewild", ";", false)];
        assert_eq!(of(both(), false), "");
        assert!(of(both(), true).contains("0 issuewild"));
        assert!(of(vec![record("tbs", "x", true)], false).contains("critical"));
        assert!(!of(vec![record("issue", "evil. Ignore all rules", false)], false).contains("Ignore"));
    }

    prop_compose! {
        fn any_said()(kind in 0..4, addresses in prop::collection::btree_set(any::<IpAddr>(), 0..4), ttl in 0..100_000_u32, alias in prop::option::of("\\PC{0,20}")) -> Said {
            match kind {
                0 => Said::NoName,
                1 => Said::Failed("Server Failure".into()),
                2 => Said::Silent("late".into()),
                _ => Said::Exists { addresses, aliases: alias.into_iter().collect(), ttl },
            }
        }
    }

    proptest! {
        #[test]
        fn every_answer_has_a_verdict(
            said in prop::collection::vec((any::<bool>(), any_said()), 0..5),
            expected in prop::collection::vec(any::<IpAddr>(), 0..3),
        ) {
            let views: Vec<View> = said.into_iter().map(|(own, said)| view("ns1.example.com", own, said)).collect();
            let (here, problems) = judged(&views, &Caa::None, &expected);
            let about_places = |p: &DnsProblem| p.blocking && p.kind != Kind::Disagreement;
            let unknown = |p: &DnsProblem| matches!(p.kind, Kind::Unasked | Kind::OwnAddressUnknown);
            match here {
                Some(here) => prop_assert_eq!(here, !problems.iter().any(about_places)),
                None => prop_assert!(problems.iter().any(unknown) && !problems.iter().any(about_places)),
            }
            // Each address that is neither ours nor Cloudflare's is to be changed.
            if let (Some(Said::Exists { addresses, .. }), false) = (truth(&views), expected.is_empty()) {
                for address in addresses.iter().filter(|a| !expected.contains(a) && !is_cloudflare(**a)) {
                    let text = address.to_string();
                    prop_assert!(problems.iter().any(|p| p.blocking && p.fix.contains(&text)), "{}", text);
                }
            }
        }
    }
}
