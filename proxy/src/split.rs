//! Two releases behind one host: who is sent to the one on trial.
//!
//! A visitor is known by client address and `User-Agent`, hashed to a place between 0 and 100 that never
//! changes. A percentage lets in all places below it: without any cookie a visitor stays on one side, and who
//! was in at 10 % is in at 20 %. The hash is written out here, so that it is the same in every process and
//! version: a restart or an upgrade in the middle of a trial moves nobody.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, header};

use crate::target::{InFlight, ReleaseTarget};

/// Two releases that share a host: `trial` gets what the rule says, `main` the rest.
#[derive(Debug)]
pub struct Split {
    /// The release that was there before.
    pub main: Arc<ReleaseTarget>,
    /// The release on trial.
    pub trial: Arc<ReleaseTarget>,
    /// Who is sent to the trial.
    pub rule: SplitRule,
}

/// Who is sent to a trial: whoever shows the header or the cookie, and a share of all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SplitRule {
    /// How many of a hundred visitors; 100 and more are all.
    pub percent: u8,
    /// Requests with this header are sent to the trial.
    pub header: Option<Match>,
    /// Requests with this cookie are sent to the trial.
    pub cookie: Option<Match>,
}

/// A header or cookie that is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Its name; a header's without regard to case.
    pub name: String,
    /// Its exact value; `None` takes any.
    pub value: Option<String>,
}

/// Places that visitors are spread over: hundredths of a percent.
const PLACES: u128 = 10_000;

impl Split {
    /// Counts a request in on its side. When that side was removed the other takes it; when both were, the
    /// caller must ask the newest table again.
    pub(crate) fn admit(&self, visitor: IpAddr, headers: &HeaderMap) -> Option<InFlight> {
        let (chosen, other) = if self.rule.picks_trial(visitor, headers) {
            (&self.trial, &self.main)
        } else {
            (&self.main, &self.trial)
        };
        chosen.admit().or_else(|| other.admit())
    }
}

impl SplitRule {
    /// Whether a request is for the trial: always the same answer for the same request and rule.
    #[must_use]
    pub fn picks_trial(&self, visitor: IpAddr, headers: &HeaderMap) -> bool {
        self.header.as_ref().is_some_and(|wanted| wanted.is_header(headers))
            || self.cookie.as_ref().is_some_and(|wanted| wanted.is_cookie(headers))
            || place_of(visitor, headers) < u128::from(self.percent) * (PLACES / 100)
    }
}

impl Match {
    fn is_header(&self, headers: &HeaderMap) -> bool {
        headers.get_all(self.name.as_str()).iter().any(|value| self.takes(value.as_bytes()))
    }

    fn is_cookie(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(header::COOKIE)
            .iter()
            .flat_map(|line| line.as_bytes().split(|b| *b == b';'))
            .filter_map(|pair| {
                let pair = pair.trim_ascii();
                let at = pair.iter().position(|b| *b == b'=')?;
                Some((&pair[..at], &pair[at + 1..]))
            })
            .any(|(name, value)| name == self.name.as_bytes() && self.takes(value))
    }

    fn takes(&self, value: &[u8]) -> bool {
        self.value.as_ref().is_none_or(|wanted| wanted.as_bytes() == value)
    }
}

fn place_of(visitor: IpAddr, headers: &HeaderMap) -> u128 {
    let agent = headers.get(header::USER_AGENT).map(|value| value.as_bytes()).unwrap_or_default();
    let hash = match visitor.to_canonical() {
        IpAddr::V4(ip) => hash(&[&ip.octets(), agent]),
        IpAddr::V6(ip) => hash(&[&ip.octets(), agent]),
    };
    (u128::from(hash) * PLACES) >> 64
}

/// FNV-1a, with the finalizer of MurmurHash3: FNV alone leaves neighbouring addresses close together in the
/// upper bits, and those decide.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        // The end of a part counts too.
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn agent(name: &str) -> HeaderMap {
        let value = HeaderValue::from_str(name).expect("a header value");
        HeaderMap::from_iter([(header::USER_AGENT, value)])
    }

    fn share(percent: u8) -> SplitRule {
        SplitRule { percent, ..SplitRule::default() }
    }

    #[test]
    fn the_place_of_a_visitor_is_written_in_stone() {
        // Whoever changes these numbers moves every visitor of every trial that is under way.
        let places = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
            .map(|ip| place_of(ip.parse().expect("an address"), &agent("curl/8")));
        assert_eq!(places, [4469, 9547, 9262]);
        let mapped = place_of("::ffff:192.0.2.1".parse().expect("an address"), &agent("curl/8"));
        assert_eq!(mapped, places[0]);
    }

    #[test]
    fn a_header_or_a_cookie_overrides_the_share() {
        let rule = SplitRule {
            percent: 0,
            header: Some(Match { name: "X-Trial".into(), value: Some("yes".into()) }),
            cookie: Some(Match { name: "trial".into(), value: None }),
        };
        let ip = "192.0.2.1".parse().expect("an address");
        let picks = |name: &'static str, value: &'static str| {
            rule.picks_trial(
                ip,
                &HeaderMap::from_iter([(
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )]),
            )
        };
        assert!(picks("x-trial", "yes") && !picks("x-trial", "no") && !picks("x-other", "yes"));
        assert!(picks("cookie", "a=b; trial=1") && picks("cookie", "trial="));
        assert!(
            !picks("cookie", "trial")
                && !picks("cookie", "atrial=1; b=trial=1")
                && !picks("cookie", "Trial=1")
        );
    }

    #[test]
    fn a_visitor_whose_side_is_gone_is_taken_by_the_other() {
        let target = || {
            let label = crate::ReleaseLabel {
                project: "default".into(),
                app: "web".into(),
                environment: "production".into(),
                release: 1,
            };
            ReleaseTarget::containers(label, vec![], crate::TargetOptions::default())
        };
        let split = Split { main: target(), trial: target(), rule: share(100) };
        let (ip, headers) = ("192.0.2.1".parse().expect("an address"), agent("curl/8"));
        let place = split.admit(ip, &headers).expect("both are there");
        assert!(Arc::ptr_eq(place.target(), &split.trial));
        split.trial.mark_removed();
        let place = split.admit(ip, &headers).expect("one is there");
        assert!(Arc::ptr_eq(place.target(), &split.main));
        split.main.mark_removed();
        assert!(split.admit(ip, &headers).is_none());
    }

    proptest! {
        #[test]
        fn the_share_is_what_was_asked_for(first in any::<u32>(), name in "[ -~]{0,40}", percent in 0..=100_u8) {
            // Neighbours, as the visitors of one network are.
            const VISITORS: u32 = 4_000;
            let headers = agent(&name);
            let rule = share(percent);
            let picked = (0..VISITORS)
                .filter(|n| rule.picks_trial(IpAddr::V4(first.wrapping_add(*n).into()), &headers))
                .count();
            let off = picked as f64 / f64::from(VISITORS) - f64::from(percent) / 100.0;
            // Five standard deviations of a fair coin.
            prop_assert!(off.abs() < 0.04, "{picked} of {VISITORS} at {percent} %");
        }

        #[test]
        fn who_is_in_stays_in_when_the_share_grows(ip in any::<u32>(), name in "[ -~]{0,40}", percent in 0..100_u8) {
            let (ip, headers) = (IpAddr::V4(ip.into()), agent(&name));
            let before = share(percent).picks_trial(ip, &headers);
            prop_assert!(!before || share(percent + 1).picks_trial(ip, &headers));
            prop_assert_eq!(before, share(percent).picks_trial(ip, &headers));
            prop_assert!(!share(0).picks_trial(ip, &headers) && share(100).picks_trial(ip, &headers));
        }
    }
}
