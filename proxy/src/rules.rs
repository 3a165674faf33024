//! What a host enforces, compiled once from what its domain says; a request meets nothing that is still to be parsed.

use std::{fmt::Write as _, net::IpAddr, sync::Arc, time::Duration};

use berth_schemas::{
    Problem,
    rules::{DomainRules, Hsts, RateLimit},
};
use http::{HeaderValue, StatusCode, header};

use crate::{
    basic_auth::Guard,
    header_rules::HeaderChanges,
    ip_list::IpList,
    path_rules::{Redirect, Rewrite},
    rate_limit::RateLimiter,
};

/// A year: what lists of names that are built into browsers want.
const YEAR_S: u32 = 31_536_000;
const MOST_REDIRECTS: usize = 200;
const MOST_REWRITES: usize = 50;
const MOST_NETWORKS: usize = 256;
/// 1 TiB.
const LARGEST_BODY: u64 = 1 << 40;

/// The rules of a host.
#[derive(Debug)]
pub struct HostRules {
    /// What it was made of.
    said: DomainRules,
    pub(crate) https: Option<bool>,
    pub(crate) hsts: Option<HeaderValue>,
    redirects: Vec<Redirect>,
    rewrites: Vec<Rewrite>,
    pub(crate) guard: Option<Guard>,
    allow: IpList,
    deny: IpList,
    limiter: Option<Arc<RateLimiter>>,
    pub(crate) request_headers: HeaderChanges,
    pub(crate) response_headers: HeaderChanges,
    pub(crate) max_body: Option<u64>,
}

impl HostRules {
    /// Checks rules and compiles them; the one place that says what is sound. Passwords must be hashes by now
    /// ([`crate::hash_passwords`]). What is unchanged since `before` is taken over, so that a change of one rule does
    /// not forgive what addresses have used of the rate limit.
    ///
    /// # Errors
    /// Names the first field that is not sound.
    pub fn compile(rules: &DomainRules, before: Option<&Arc<Self>>) -> Result<Arc<Self>, Problem> {
        if let Some(before) = before.filter(|before| before.said == *rules) {
            return Ok(Arc::clone(before));
        }
        let response_headers = HeaderChanges::compile(&rules.response_headers, "response_headers")?;
        if rules.hsts.is_some() && response_headers.has(&header::STRICT_TRANSPORT_SECURITY) {
            let text = "hsts sets Strict-Transport-Security; say it in one place.";
            return Err(Problem::invalid("response_headers", text));
        }
        let limiter = match (&rules.rate_limit, before) {
            (None, _) => None,
            (Some(limit), Some(before)) if before.said.rate_limit.as_ref() == Some(limit) => {
                before.limiter.clone()
            }
            (Some(limit), _) => Some(Arc::new(limiter(limit)?)),
        };
        if rules.max_body_bytes.is_some_and(|bytes| bytes > LARGEST_BODY) {
            return Err(Problem::invalid(
                "max_body_bytes",
                format!("At most {LARGEST_BODY} bytes can be said."),
            ));
        }
        at_most(rules.redirects.len(), MOST_REDIRECTS, "redirects")?;
        at_most(rules.rewrites.len(), MOST_REWRITES, "rewrites")?;
        let redirects = rules.redirects.iter().enumerate();
        let rewrites = rules.rewrites.iter().enumerate();
        Ok(Arc::new(Self {
            said: rules.clone(),
            https: rules.https,
            hsts: rules.hsts.as_ref().map(hsts).transpose()?,
            redirects: redirects
                .map(|(at, rule)| Redirect::compile(rule, &format!("redirects[{at}]")))
                .collect::<Result<_, _>>()?,
            rewrites: rewrites
                .map(|(at, rule)| Rewrite::compile(rule, &format!("rewrites[{at}]")))
                .collect::<Result<_, _>>()?,
            guard: rules.basic_auth.as_ref().map(Guard::compile).transpose()?,
            allow: networks(&rules.allow, "allow")?,
            deny: networks(&rules.deny, "deny")?,
            limiter,
            request_headers: HeaderChanges::compile(&rules.request_headers, "request_headers")?,
            response_headers,
            max_body: rules.max_body_bytes,
        }))
    }

    /// Whether an address may come.
    pub(crate) fn lets_in(&self, ip: IpAddr) -> bool {
        !self.deny.has(ip) && (self.allow.is_empty() || self.allow.has(ip))
    }

    /// Counts a request of an address; how long it is to wait if it is one too many.
    pub(crate) fn over_limit(&self, ip: IpAddr) -> Option<Duration> {
        self.limiter.as_ref()?.admit(ip).err()
    }

    /// Where a path leads instead.
    pub(crate) fn redirect(&self, path: &str, query: Option<&str>) -> Option<(StatusCode, String)> {
        self.redirects.iter().find_map(|rule| Some((rule.status, rule.location(path, query)?)))
    }

    /// The path that the app sees, where it is another.
    pub(crate) fn rewrite(&self, path: &str) -> Option<String> {
        self.rewrites.iter().find_map(|rule| rule.path(path))
    }
}

fn at_most(n: usize, most: usize, field: &str) -> Result<(), Problem> {
    if n <= most {
        return Ok(());
    }
    Err(Problem::invalid(field, format!("{n} are too many; at most {most} are taken.")))
}

fn networks(texts: &[String], field: &str) -> Result<IpList, Problem> {
    at_most(texts.len(), MOST_NETWORKS, field)?;
    IpList::parse(texts.iter().map(String::as_str)).map_err(|text| {
        let shown: String = text.chars().take(60).collect();
        let text =
            format!("{shown:?} is no address or network: write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32.");
        Problem::invalid(field, text)
    })
}

fn hsts(rule: &Hsts) -> Result<HeaderValue, Problem> {
    let age = rule.max_age_s.unwrap_or(YEAR_S);
    if age > 2 * YEAR_S {
        return Err(Problem::invalid("hsts.max_age_s", "At most two years (63072000) can be said."));
    }
    if rule.preload && !(rule.include_subdomains && age >= YEAR_S) {
        let text =
            "preload wants include_subdomains and at least a year (31536000), or lists refuse the name.";
        return Err(Problem::invalid("hsts.preload", text));
    }
    let mut text = format!("max-age={age}");
    for (said, word) in [(rule.include_subdomains, "includeSubDomains"), (rule.preload, "preload")] {
        if said {
            // Writing to a string does not fail.
            let _ = write!(text, "; {word}");
        }
    }
    HeaderValue::try_from(text).map_err(|error| Problem::invalid("hsts", error.to_string()))
}

fn limiter(rule: &RateLimit) -> Result<RateLimiter, Problem> {
    let within = |n: u32, most: u32, field: &str| {
        let field = format!("rate_limit.{field}");
        if (1..=most).contains(&n) {
            Ok(n)
        } else {
            Err(Problem::invalid(&field, format!("Say 1 to {most}.")))
        }
    };
    let requests = within(rule.requests, 1_000_000, "requests")?;
    let period = within(rule.per_s.unwrap_or(1), 86_400, "per_s")?;
    let burst = within(rule.burst.unwrap_or(requests), 1_000_000, "burst")?;
    Ok(RateLimiter::new(requests, Duration::from_secs(period.into()), burst))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: serde_json::Value) -> DomainRules {
        serde_json::from_value(json).expect("rules")
    }

    #[test]
    fn each_unsound_rule_is_named() {
        for (json, field) in [
            (serde_json::json!({"hsts": {"max_age_s": 99_999_999}}), "hsts.max_age_s"),
            (serde_json::json!({"hsts": {"preload": true}}), "hsts.preload"),
            (serde_json::json!({"allow": ["10.0.0.0/33"]}), "allow"),
            (serde_json::json!({"deny": ["example.com"]}), "deny"),
            (serde_json::json!({"rate_limit": {"requests": 0}}), "rate_limit.requests"),
            (serde_json::json!({"rate_limit": {"requests": 1, "per_s": 0}}), "rate_limit.per_s"),
            (serde_json::json!({"rate_limit": {"requests": 1, "burst": 0}}), "rate_limit.burst"),
            (
                serde_json::json!({"redirects": [{"from": "/a", "to": "/b"}, {"from": "x", "to": "/"}]}),
                "redirects[1].from",
            ),
            (
                serde_json::json!({"redirects": [{"from": "/a", "to": "/b", "status": 200}]}),
                "redirects[0].status",
            ),
            (serde_json::json!({"rewrites": [{"from": "/a", "to": "b"}]}), "rewrites[0].to"),
            (serde_json::json!({"basic_auth": {"users": []}}), "basic_auth.users"),
            (
                serde_json::json!({"basic_auth": {"users": [{"name": "a", "password": "plain text"}]}}),
                "basic_auth.users[0].password",
            ),
            (serde_json::json!({"request_headers": {"set": {"host": "x"}}}), "request_headers.set"),
            (serde_json::json!({"response_headers": {"add": {"x": "a\nb"}}}), "response_headers.add"),
            (
                serde_json::json!({"hsts": {}, "response_headers": {"set": {"strict-transport-security": "max-age=1"}}}),
                "response_headers",
            ),
            (serde_json::json!({"max_body_bytes": 1_u64 << 41}), "max_body_bytes"),
        ] {
            let problem = HostRules::compile(&rules(json.clone()), None).expect_err(&json.to_string());
            assert_eq!(problem.field.as_deref(), Some(field), "{json}");
        }
    }

    #[test]
    fn deny_wins_over_allow_and_nothing_said_lets_all_in() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let open = HostRules::compile(&DomainRules::default(), None).expect("sound");
        assert!(open.lets_in(ip("192.0.2.1")) && open.lets_in(ip("2001:db8::1")));
        let said =
            rules(serde_json::json!({"allow": ["192.0.2.0/24", "2001:db8::/32"], "deny": ["192.0.2.7"]}));
        let some = HostRules::compile(&said, None).expect("sound");
        assert!(
            some.lets_in(ip("192.0.2.1"))
                && some.lets_in(ip("2001:db8::1"))
                && some.lets_in(ip("::ffff:192.0.2.1"))
        );
        assert!(
            !some.lets_in(ip("192.0.2.7"))
                && !some.lets_in(ip("198.51.100.1"))
                && !some.lets_in(ip("::ffff:192.0.2.7"))
        );
    }

    #[test]
    fn a_changed_rule_does_not_forgive_what_was_used_of_the_limit() {
        let ip = IpAddr::from([192, 0, 2, 1]);
        let first = rules(serde_json::json!({"rate_limit": {"requests": 1, "per_s": 3600}}));
        let one = HostRules::compile(&first, None).expect("sound");
        assert_eq!(one.over_limit(ip), None);
        let same = HostRules::compile(&first, Some(&one)).expect("sound");
        assert!(Arc::ptr_eq(&one, &same));
        let mut second = first.clone();
        second.max_body_bytes = Some(1);
        let two = HostRules::compile(&second, Some(&one)).expect("sound");
        assert!(two.over_limit(ip).is_some());
        second.rate_limit = Some(RateLimit { requests: 2, per_s: Some(3600), burst: None });
        let three = HostRules::compile(&second, Some(&two)).expect("sound");
        assert_eq!(three.over_limit(ip), None, "another limit begins anew");
    }

    #[test]
    fn hsts_says_what_was_asked_for() {
        let value = |json| {
            let rules = HostRules::compile(&rules(json), None).expect("sound");
            rules.hsts.clone().expect("a value").to_str().expect("text").to_owned()
        };
        assert_eq!(value(serde_json::json!({"hsts": {}})), "max-age=31536000");
        assert_eq!(value(serde_json::json!({"hsts": {"max_age_s": 0}})), "max-age=0");
        let all = serde_json::json!({"hsts": {"include_subdomains": true, "preload": true}});
        assert_eq!(value(all), "max-age=31536000; includeSubDomains; preload");
    }
}
