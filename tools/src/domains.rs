//! Domains: host names of one's own, their certificates, and what is to be done until both work.

use berth_certs::Seen;
use berth_schemas::{
    Code, DomainName, Problem, Scope, Untrusted,
    domain::{
        ChallengeKind, DomainAdd, DomainCertificateSet, DomainDetail, DomainGet, DomainList, DomainOrigin,
        DomainPage, DomainRemove, DomainRemoved, DomainRenew, DomainStatus, DomainSummary, DomainUpdate,
        DomainVerify,
    },
    reach::PortReport,
    rules::DomainRules,
};
use berth_store::{
    DomainPlan, DomainRow,
    model::{AppRow, Visible},
};

use crate::{
    apps,
    confirm::confirmed,
    find, follow, page,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    settings,
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "domain_add",
                title: "Add a domain to an app",
                description: "Serve an app under a host name of your own (a custom domain), or send that host's visitors to another host (redirect_to, as from www to the bare name). It is routed at once; a certificate is ordered and renewed by itself. Then see domain_get for what DNS must say.",
                hints: Hints::CREATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/domains",
            },
            add,
        ),
        Tool::new(
            Spec {
                name: "domain_get",
                title: "Show a domain",
                description: "Show where a domain leads, the certificate that its visitors get, the order for one with the authority's last error in its own words and the time of the next try, and what to do next until all works. With check_dns=true also what DNS says now against what it should say, with check_ports=true also whether ports 80 and 443 of its addresses reach this machine, each with what to change.",
                hints: Hints::READ.open_world(),
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/domains/{domain}",
            },
            get,
        ),
        Tool::new(
            Spec {
                name: "domain_list",
                title: "List domains",
                description: "List the domains of all apps or of one, with how each is and when its certificate expires.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/domains",
            },
            list,
        ),
        Tool::new(
            Spec {
                name: "domain_update",
                title: "Change a domain",
                description: "Point a domain at another app or environment, or change what it enforces (rules: HSTS, redirects, rewrites, basic auth, IP lists, rate limit, headers, body size) and how certificate authorities are shown that it is yours. Applies to the next request.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Patch,
                path: "/v1/domains/{domain}",
            },
            update,
        ),
        Tool::new(
            Spec {
                name: "domain_verify",
                title: "Look at a domain again now",
                description: "Go on now with what waits for a domain's certificate, as after a change in DNS, instead of at the next try; wait_s waits for the outcome, and without a certificate it is said whether ports 80 and 443 reach this machine. Limits of the authority still hold. For a domain that came on demand its app is asked again, too: if it says no, the domain is dropped.",
                hints: Hints::UPDATE.open_world(),
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/domains/{domain}/verify",
            },
            verify,
        ),
        Tool::new(
            Spec {
                name: "domain_renew",
                title: "Renew a domain's certificate now",
                description: "Order a new certificate for a domain now, though the present one is not due: as after its key may have leaked. The present one stays until the new one is here. Renewals need no call: they come by themselves.",
                hints: Hints::CREATE.open_world(),
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/domains/{domain}/renew",
            },
            renew,
        ),
        Tool::new(
            Spec {
                name: "domain_certificate_set",
                title: "Attach a certificate of your own",
                description: "Show visitors of a domain a certificate that you bring along (PEM chain and private key), checked for key, names and time. It is not renewed: attach the next one in time, or drop it with domain_update(unset=[\"certificate\"]).",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Put,
                path: "/v1/domains/{domain}/certificate",
            },
            certificate_set,
        ),
        Tool::new(
            Spec {
                name: "domain_remove",
                title: "Remove a domain",
                description: "Remove a domain with its certificate: the app does not answer under it any more. Wants confirm=<the domain>; dry_run says what would go.",
                hints: Hints::DESTROY,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Delete,
                path: "/v1/domains/{domain}",
            },
            remove,
        ),
    ]
}

async fn add(call: Call, input: DomainAdd) -> Result<DomainDetail, Problem> {
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    check_name(&call, &app, &input.domain).await?;
    check_redirect(&input.domain, input.redirect_to.as_ref())?;
    let rules = checked(input.rules, None).await?;
    let plan = DomainPlan { app, redirect_to: input.redirect_to, challenge: input.challenge, rules };
    let row = call.context.store.domains().create(&call.principal, &input.domain, plan).await?;
    call.context.pipeline.domains_changed().await?;
    detail(&call, row).await
}

/// Rules that hold, with passwords as hashes. `before` are those that they replace.
async fn checked(rules: DomainRules, before: Option<DomainRules>) -> Result<DomainRules, Problem> {
    // A hash takes its time on purpose.
    let hashing = tokio::task::spawn_blocking(move || {
        let rules = berth_proxy::hash_passwords(rules, before.as_ref())?;
        berth_proxy::HostRules::compile(&rules, None).map(|_| rules)
    });
    let within = |p: Problem| Problem { field: p.field.map(|f| format!("rules.{f}")), ..p };
    hashing
        .await
        .map_err(|_| Problem::new(Code::Internal, "The rules could not be checked."))?
        .map_err(within)
}

/// Refuses names that are not for apps to have: those that Berth gives out itself, and places of other apps.
async fn check_name(call: &Call, app: &AppRow, name: &DomainName) -> Result<(), Problem> {
    let refused = |detail: String, hint: String| {
        Problem { field: Some("domain".into()), ..Problem::new(Code::Conflict, detail) }.hint(hint)
    };
    let base = &call.context.addresses.base_domain;
    if name.as_str().strip_suffix(base.as_str()).is_some_and(is_given_out) {
        return Err(refused(
            format!("{name} is one of the names that Berth gives to apps itself, below {base}."),
            "Use a domain of your own; an app's own name needs no domain.".into(),
        ));
    }
    if call.context.certs.is_control_host(name) {
        return Err(refused(
            format!("{name} is the name of Berth's own control plane."),
            "Use another name.".into(),
        ));
    }
    for other in call.context.store.apps().all(&Visible::All).await? {
        let mut routes = other.settings.routes.iter().flatten().filter_map(|r| settings::route(r).ok());
        if other.id != app.id && routes.any(|(host, _)| name.covers(&host)) {
            return Err(refused(
                format!("{name} is a route of another app."),
                "Take the route from that app first (app_update, settings.routes).".into(),
            ));
        }
    }
    Ok(())
}

/// Whether what stands before the base domain makes a name of an app: one label, or a wildcard for all.
fn is_given_out(rest: &str) -> bool {
    rest.strip_suffix('.').is_some_and(|label| !label.is_empty() && !label.contains('.'))
}

fn check_redirect(name: &DomainName, to: Option<&DomainName>) -> Result<(), Problem> {
    let wrong = |detail: String| Err(Problem::invalid("redirect_to", detail));
    match to {
        Some(to) if to.is_wildcard() => wrong("redirect_to must be one host, not a wildcard.".into()),
        Some(to) if name.covers(to.as_str()) => {
            wrong(format!("{name} would lead to {to}, and so around in a circle."))
        }
        _ => Ok(()),
    }
}

async fn get(call: Call, input: DomainGet) -> Result<DomainDetail, Problem> {
    let row = find::domain(&call, &input.domain).await?;
    let row_name = row.name.clone();
    let mut detail = detail(&call, row).await?;
    if input.check_dns {
        let report = call.context.dns.inspect(&detail.domain, &call.context.certs.issuers()).await;
        if let Some(first) = report.problems.iter().find(|p| p.blocking) {
            detail.next = format!("{} Then domain_verify(domain={:?}).", first.fix, detail.domain.as_str());
        }
        detail.dns = Some(report);
    }
    if input.check_ports {
        with_ports(&mut detail, call.context.certs.reach(&row_name).await);
    }
    Ok(detail)
}

/// Adds what a look at the ports found; it is the next thing to do where there is no certificate, and neither DNS nor
/// what was said of the order speaks of other trouble.
fn with_ports(detail: &mut DomainDetail, report: PortReport) {
    let served = matches!(detail.status, DomainStatus::Secure | DomainStatus::Plain);
    let dns_is_right = detail.dns.as_ref().is_none_or(|dns| dns.problems.iter().all(|p| !p.blocking));
    let first = !served && dns_is_right && wants_ports(detail);
    if let Some(fix) = report.fix.as_ref().filter(|_| first) {
        detail.next = format!("{fix} Then domain_verify(domain={:?}).", detail.domain.as_str());
    }
    detail.ports = Some(report);
}

/// Whether a certificate may be missing because ports are not reached. A proof by DNS needs none of them, and an
/// authority that says something else does not mean them.
fn wants_ports(detail: &DomainDetail) -> bool {
    const OF_PORTS: [&str; 5] = ["connection", "unauthorized", "incorrectResponse", "tls", "dns"];
    let by_dns = match &detail.order {
        Some(order) => order.challenge == ChallengeKind::Dns01,
        None => detail.domain.is_wildcard() || detail.challenge == Some(ChallengeKind::Dns01),
    };
    let error = detail.order.as_ref().and_then(|order| order.error.as_ref());
    !by_dns && error.is_none_or(|error| OF_PORTS.contains(&error.kind.as_str()))
}

/// What is said of where DNS leads.
fn pointing(points_here: Option<bool>) -> &'static str {
    match points_here {
        Some(true) => "DNS points here.",
        Some(false) => "DNS does not point here.",
        None => "It is not known whether DNS points here.",
    }
}

async fn detail(call: &Call, row: DomainRow) -> Result<DomainDetail, Problem> {
    let Seen { status, certificate, order, next } = call.context.certs.see(&row.name).await?;
    let certified = matches!(status, DomainStatus::Secure | DomainStatus::Expired);
    Ok(DomainDetail {
        unicode: row.name.unicode(),
        url: call.context.addresses.domain_url(row.name.as_str(), certified),
        domain: row.name,
        app: row.app,
        environment: row.environment,
        origin: row.origin,
        redirect_to: row.redirect_to,
        challenge: row.challenge,
        rules: row.rules.shown(),
        status,
        certificate,
        order,
        dns: None,
        ports: None,
        created_at: row.created_at,
        created_by: row.created_by,
        asked_at: row.asked_at,
        next,
    })
}

async fn verify(call: Call, input: DomainVerify) -> Result<DomainDetail, Problem> {
    let wait = follow::wait(input.wait_s, 10)?;
    let row = find::domain(&call, &input.domain).await?;
    let certs = &call.context.certs;
    certs.ask_again(&row).await?;
    let before = certs.see(&row.name).await?;
    certs.look_now(&row.name).await?;
    if !wait.is_zero() {
        call.progress.waits_for(format!("the certificate of {}", row.name)).await;
    }
    // What is seen of the ports does not hold the order back: this machine may see less than the world.
    let settled = certs.settle(&row.name, before.order.as_ref(), wait);
    if before.status == DomainStatus::Secure {
        settled.await?;
        return detail(&call, row).await;
    }
    let name = row.name.clone();
    let (settled, ports) = tokio::join!(settled, certs.reach(&name));
    settled?;
    let mut detail = detail(&call, row).await?;
    with_ports(&mut detail, ports);
    Ok(detail)
}

async fn renew(call: Call, input: DomainRenew) -> Result<DomainDetail, Problem> {
    let row = find::domain(&call, &input.domain).await?;
    call.context.certs.renew(&row.name).await?;
    detail(&call, row).await
}

async fn certificate_set(call: Call, input: DomainCertificateSet) -> Result<DomainDetail, Problem> {
    let row = find::domain(&call, &input.domain).await?;
    let DomainCertificateSet { chain, key, .. } = input;
    call.context.certs.attach(&call.principal, row.app_id, &row.name, chain, key).await?;
    call.context.pipeline.domains_changed().await?;
    detail(&call, row).await
}

async fn list(call: Call, input: DomainList) -> Result<DomainPage, Problem> {
    let limit = page::limit(input.limit, 20, 100)?;
    let after: Option<DomainName> = page::name_cursor(input.cursor.as_deref())?;
    let app = match &input.app {
        Some(slug) => Some(find::app(&call, slug).await?.id),
        None => None,
    };
    let store = &call.context.store;
    let (rows, total) = store.domains().list(&call.principal.visible, app, after.as_ref(), limit).await?;
    let mut domains = Vec::with_capacity(rows.len());
    for row in rows {
        let seen = call.context.certs.see(&row.name).await?;
        domains.push(DomainSummary {
            status: seen.status,
            expires_at: seen.certificate.map(|c| c.not_after),
            domain: row.name,
            app: row.app,
            environment: row.environment,
            origin: row.origin,
            redirect_to: row.redirect_to,
        });
    }
    let more = page::cut(&mut domains, limit, call.budget, input.limit.is_some());
    let next_cursor = domains.last().filter(|_| more).map(|d| d.domain.to_string());
    Ok(DomainPage { domains, total, next_cursor })
}

async fn update(call: Call, input: DomainUpdate) -> Result<DomainDetail, Problem> {
    let row = find::domain(&call, &input.domain).await?;
    // Where nothing else is said, it stays where it is.
    let same = input.app.is_none().then_some(&row.environment);
    let environment = input.environment.as_ref().or(same);
    let app = find::app_in_to_change(&call, input.app.as_ref().unwrap_or(&row.app), environment).await?;
    if app.project_id != row.project_id {
        return Err(Problem::invalid(
            "app",
            format!("{} belongs to another project than {}.", app.slug, row.app),
        )
        .hint("Remove the domain there and add it here."));
    }
    if app.id != row.app_id {
        check_name(&call, &app, &row.name).await?;
    }
    check_redirect(&row.name, input.redirect_to.as_ref())?;
    let mut plan = DomainPlan {
        app,
        redirect_to: input.redirect_to.or_else(|| row.redirect_to.clone()),
        challenge: input.challenge.or(row.challenge),
        rules: match input.rules {
            Some(rules) => checked(rules, Some(row.rules.clone())).await?,
            None => row.rules.clone(),
        },
    };
    let mut detach = false;
    for field in &input.unset {
        match field.as_str() {
            "certificate" => detach = true,
            "redirect_to" => plan.redirect_to = None,
            "challenge" => plan.challenge = None,
            "rules" => plan.rules = DomainRules::default(),
            other => {
                let other: String = other.chars().take(40).collect();
                return Err(Problem::invalid("unset", format!("{other:?} cannot be dropped.")).candidates(
                    ["redirect_to", "challenge", "rules", "certificate"].map(String::from).into(),
                ));
            }
        }
    }
    let row = call.context.store.domains().update(&call.principal, &row.name, plan).await?;
    if detach {
        call.context.certs.detach(&call.principal, row.app_id, &row.name).await?;
    }
    call.context.pipeline.domains_changed().await?;
    detail(&call, row).await
}

async fn remove(call: Call, input: DomainRemove) -> Result<DomainRemoved, Problem> {
    let row = find::domain(&call, &input.domain).await?;
    let mut removes = vec![format!("take {} off the air under {}", row.app, row.name)];
    if let Some(certificate) = call.context.store.certificates().by_name(&row.name).await? {
        removes.push(match certificate.own {
            true => "remove the certificate that was attached, with its key".to_owned(),
            false => "remove its certificate".to_owned(),
        });
    }
    if row.origin == DomainOrigin::OnDemand {
        removes.push(format!("it comes again with the next visitor whom {} approves", row.app));
    }
    if input.dry_run {
        return Ok(DomainRemoved { domain: row.name, removes, removed: false });
    }
    confirmed("domain_remove", row.name.as_str(), input.confirm.as_deref(), &removes)?;
    let row = call.context.store.domains().remove(&call.principal, &row.name).await?;
    call.context.pipeline.domains_changed().await?;
    Ok(DomainRemoved { domain: row.name, removes, removed: true })
}

fn says(status: DomainStatus) -> &'static str {
    match status {
        DomainStatus::Secure => "served over HTTPS",
        DomainStatus::Issuing => "getting its certificate",
        DomainStatus::Waiting => "waiting for something outside",
        DomainStatus::Failing => "without a certificate: the last order failed",
        DomainStatus::Expired => "served with a certificate that has expired",
        DomainStatus::Plain => "served over plain HTTP",
    }
}

impl Brief for DomainDetail {
    fn brief(&self) -> Text {
        let leads = match &self.redirect_to {
            Some(to) => format!("sends visitors to {to}"),
            None => format!("leads to {} ({})", self.app, self.environment),
        };
        let mut text = Text::from(format!("{} {leads}. It is {}.", self.domain, says(self.status)));
        if self.origin == DomainOrigin::OnDemand {
            text = text.say(" Its app approved it on demand.");
        }
        if let Some(c) = &self.certificate {
            text = text.say(format!("\nCertificate: valid until {}", c.not_after));
            text = text.say_if(c.renew_at.map(|at| format!(", renewed at {at}")));
            text = text.say("; issued by ").quote(&c.issuer);
        }
        if let Some(o) = &self.order {
            text = text.say(format!(
                "\nOrder at {} by {}: {}",
                o.directory,
                o.challenge.as_str(),
                o.state.as_str()
            ));
            if let Some(error) = &o.error {
                text = text.say(format!(" ({}). It was said: ", error.kind)).quote(&error.detail);
            }
            text = text.say_if(o.next_try_at.map(|at| format!("\nNext try: {at}")));
        }
        if let Some(dns) = &self.dns {
            text = text.say(format!("\n{}", pointing(dns.points_here)));
            for problem in &dns.problems {
                text = text.say("\n- ").quote(&Untrusted(format!("{} {}", problem.detail, problem.fix)));
            }
        }
        if let Some(ports) = &self.ports {
            text = text.say("\nPorts, as asked from this machine:");
            for check in &ports.checks {
                text = text.say(format!("\n- {} port {}: ", check.address, check.port)).quote(&check.detail);
            }
            if let Some(trouble) = &ports.trouble {
                text = text.say("\n- ").quote(trouble);
            }
            text = text.say_if(ports.fix.as_ref().map(|fix| format!("\n{fix}")));
            text = text.say(format!("\n{}", ports.note));
        }
        text.say(format!("\nNext: {}", self.next))
    }
}

impl Brief for DomainPage {
    fn brief(&self) -> Text {
        if self.domains.is_empty() {
            return "There is no domain yet. domain_add adds one.".into();
        }
        let mut text = Text::from(apps::count(self.domains.len(), "domain")).say(":");
        for d in &self.domains {
            let to = d.redirect_to.as_ref().map_or_else(|| d.app.to_string(), ToString::to_string);
            text = text.say(format!("\n{} → {to}, {}", d.domain, says(d.status)));
            text = text.say_if(d.expires_at.map(|at| format!(", until {at}")));
            text = text.say_if((d.origin == DomainOrigin::OnDemand).then_some(", on demand"));
        }
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for DomainRemoved {
    fn brief(&self) -> Text {
        let verb = if self.removed { "It did" } else { "It would" };
        format!("{}: {verb}: {}.", self.domain, self.removes.join("; ")).into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_directly_below_the_base_are_given_out_by_berth() {
        for (rest, given) in
            [("web.", true), ("*.", true), (".", false), ("a.b.", false), ("", false), ("my", false)]
        {
            assert_eq!(is_given_out(rest), given, "{rest}");
        }
    }

    /// A domain without a certificate whose order failed by `challenge` for a reason of this kind.
    fn failing(challenge: &str, kind: &str) -> DomainDetail {
        let at = "2026-01-01T00:00:00Z";
        let error = json!({ "kind": kind, "detail": "no", "at": at });
        let order = json!({
            "state": "failed", "directory": "https://ca.example/dir", "challenge": challenge, "renewal": false,
            "error": error, "failures": 1, "created_at": at, "updated_at": at,
        });
        serde_json::from_value(json!({
            "domain": "shop.example.com", "app": "web", "environment": "production", "origin": "added",
            "url": "http://shop.example.com", "status": "failing", "order": order, "created_at": at,
            "created_by": "root", "next": "as the order says",
        }))
        .unwrap()
    }

    #[test]
    fn ports_are_blamed_only_where_they_matter() {
        for (challenge, kind, blamed) in [
            ("http-01", "connection", true),
            ("tls-alpn-01", "unauthorized", true),
            ("dns-01", "unauthorized", false),
            ("dns-01", "dns_provider", false),
            ("http-01", "rateLimited", false),
            ("http-01", "caa", false),
        ] {
            let report = json!({
                "host": "shop.example.com", "http": false, "checks": [], "fix": "Open port 80.", "note": "",
                "at": "2026-01-01T00:00:00Z",
            });
            let mut detail = failing(challenge, kind);
            with_ports(&mut detail, serde_json::from_value(report).unwrap());
            assert_eq!(detail.next.contains("Open port 80."), blamed, "{challenge} {kind}: {}", detail.next);
            assert!(detail.ports.is_some());
        }
    }

    #[test]
    fn what_dns_does_not_say_is_not_said() {
        for (points_here, says) in
            [(Some(true), "DNS points here."), (Some(false), "does not point"), (None, "not known")]
        {
            let mut detail = failing("http-01", "dns");
            let report = json!({
                "name": "shop.example.com", "points_here": points_here, "expected": [], "problems": [],
                "views": [], "at": "2026-01-01T00:00:00Z",
            });
            detail.dns = Some(serde_json::from_value(report).unwrap());
            let text = detail.brief().to_string();
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn a_redirect_leads_elsewhere() {
        let name = |text: &str| text.parse::<DomainName>().unwrap();
        let (www, bare, star) = (name("www.example.com"), name("example.com"), name("*.example.com"));
        assert!(check_redirect(&www, Some(&bare)).is_ok());
        assert!(check_redirect(&star, Some(&bare)).is_ok());
        assert!(check_redirect(&bare, None).is_ok());
        for (from, to) in [(&www, &www), (&star, &www), (&www, &star)] {
            assert_eq!(check_redirect(from, Some(to)).unwrap_err().field.as_deref(), Some("redirect_to"));
        }
    }
}
