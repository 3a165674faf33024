//! DNS providers: who sets the records that prove a name to be ours.

use berth_certs::dns::{DnsFault, trial};
use berth_schemas::{
    Problem, Scope,
    dns::{
        DnsCredentials, DnsProvider, DnsProviderAdd, DnsProviderDetail, DnsProviderGet, DnsProviderKind,
        DnsProviderList, DnsProviderPage, DnsProviderRemove, DnsProviderRemoved, DnsProviderTest,
    },
    domain::ChallengeKind,
    ids::DnsProviderName,
};
use berth_store::{DnsProviderRow, NewDnsProvider};

use crate::{
    apps::count,
    confirm::confirmed,
    find, page,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

/// Longest credentials in bytes, as JSON.
const LONGEST_CREDENTIALS: usize = 8 * 1024;
/// Most zones that a provider can be told.
const MOST_ZONES: usize = 200;

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "dns_provider_add",
                title: "Add a DNS provider",
                description: "Let Berth set TXT records in your DNS zones, which wildcard certificates need. The credentials are tried first (a test record is set and removed), then kept sealed and never shown. kind=manual keeps none: Berth says which record to set and waits for it.",
                hints: Hints::CREATE.open_world(),
                scope: Scope::Admin,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/dns-providers",
            },
            add,
        ),
        Tool::new(
            Spec {
                name: "dns_provider_list",
                title: "List DNS providers",
                description: "List the DNS providers with the zones in which each sets records; never their credentials.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/dns-providers",
            },
            list,
        ),
        Tool::new(
            Spec {
                name: "dns_provider_get",
                title: "Show a DNS provider",
                description: "Show a DNS provider with its zones; test=true also asks it whether its credentials still work and which zones they reach now. Changes nothing.",
                hints: Hints::READ.open_world(),
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/dns-providers/{provider}",
            },
            get,
        ),
        Tool::new(
            Spec {
                name: "dns_provider_remove",
                title: "Remove a DNS provider",
                description: "Forget a DNS provider and its credentials; wildcard certificates in its zones are not renewed any more. Wants confirm=<the provider's name>; dry_run says which domains that concerns.",
                hints: Hints::DESTROY,
                scope: Scope::Admin,
                tier: Tier::Extended,
                method: Method::Delete,
                path: "/v1/dns-providers/{provider}",
            },
            remove,
        ),
    ]
}

async fn add(call: Call, input: DnsProviderAdd) -> Result<DnsProvider, Problem> {
    find::demand_all_projects(&call, "dns_provider_add")?;
    check(&input)?;
    let providers = call.context.store.dns_providers();
    if !input.replace && providers.by_name(&input.provider).await?.is_some() {
        let name = input.provider.to_string();
        let taken = berth_store::StoreError::Taken { kind: "dns_provider", name };
        return Err(Problem::from(taken)
            .hint("Pass replace=true to give it other credentials, or choose another name."));
    }
    let reach = trial::try_out(&input.credentials, &input.zones).await.map_err(tried)?;
    let found = input.zones.is_empty();
    let zones = if found { reach.domains() } else { input.zones };
    if zones.is_empty() {
        return Err(Problem::invalid("credentials", "The credentials are accepted, but reach no zone.")
            .hint("Add the domain's zone at the provider first, or allow the token to see it."));
    }
    let new = NewDnsProvider {
        name: input.provider,
        credentials: input.credentials,
        zones,
        found,
        replace: input.replace,
    };
    Ok(shown(providers.put(&call.principal, new).await?))
}

/// Checks what can be checked without asking anybody. What is wrong is never repeated: it may be a secret.
fn check(input: &DnsProviderAdd) -> Result<(), Problem> {
    let bytes = serde_json::to_vec(&input.credentials).map_or(usize::MAX, |json| json.len());
    if bytes > LONGEST_CREDENTIALS {
        let detail = format!("The credentials are longer than {LONGEST_CREDENTIALS} bytes.");
        return Err(Problem::invalid("credentials", detail));
    }
    if input.zones.len() > MOST_ZONES {
        let detail = format!("{} zones; at most {MOST_ZONES} are possible.", input.zones.len());
        return Err(Problem::invalid("zones", detail));
    }
    if let Some(zone) = input.zones.iter().find(|z| z.is_wildcard()) {
        let detail = format!("{zone} is no zone; {} would be one.", zone.base());
        return Err(Problem::invalid("zones", detail));
    }
    let untold = matches!(input.credentials, DnsCredentials::Rfc2136 { .. } | DnsCredentials::Manual {});
    if untold && input.zones.is_empty() {
        let kind = input.credentials.kind().as_str();
        return Err(Problem::invalid("zones", format!("With kind={kind}, Berth must be told the zones."))
            .hint("Pass zones=[\"example.com\"]."));
    }
    Ok(())
}

/// A fault of a trial: about the input, but for what passes by itself.
fn tried(fault: DnsFault) -> Problem {
    let field = match &fault {
        DnsFault::NoZone { .. } => "zones",
        _ => "credentials",
    };
    let passing = fault.is_passing();
    let problem = Problem::from(fault);
    if passing {
        return problem;
    }
    Problem { code: berth_schemas::Code::InvalidInput, field: Some(field.into()), ..problem }
        .hint("Nothing was kept. Check with the provider what the token or key may do, and in which zones.")
}

async fn list(call: Call, input: DnsProviderList) -> Result<DnsProviderPage, Problem> {
    find::demand_all_projects(&call, "dns_provider_list")?;
    let limit = page::limit(input.limit, 20, 100)?;
    let after: Option<DnsProviderName> = page::name_cursor(input.cursor.as_deref())?;
    let all = call.context.store.dns_providers().list().await?;
    let mut providers: Vec<DnsProvider> =
        all.into_iter().filter(|row| after.as_ref().is_none_or(|a| row.name > *a)).map(shown).collect();
    let more = page::cut_whole(&mut providers, limit, call.budget, input.limit.is_some());
    let next_cursor = providers.last().filter(|_| more).map(|p| p.provider.to_string());
    Ok(DnsProviderPage { providers, next_cursor })
}

async fn get(call: Call, input: DnsProviderGet) -> Result<DnsProviderDetail, Problem> {
    find::demand_all_projects(&call, "dns_provider_get")?;
    let row = named(&call, &input.provider).await?;
    let test = match input.test {
        true => Some(test(&call, &row).await?),
        false => None,
    };
    Ok(DnsProviderDetail { provider: shown(row), test })
}

/// Whether the credentials of a provider still work.
async fn test(call: &Call, row: &DnsProviderRow) -> Result<DnsProviderTest, Problem> {
    let credentials = call.context.store.dns_providers().credentials(&row.name).await?;
    let told = if row.found { &[][..] } else { &row.zones };
    Ok(match trial::reach(&credentials, told).await {
        Ok(reach) => {
            let lacks = reach.lacks(&row.zones);
            DnsProviderTest {
                works: lacks.is_none(),
                trouble: lacks.map(|zone| format!("The zone {zone} is not reached any more.")),
                reaches: reach.zones.into_iter().map(Into::into).collect(),
                said: None,
            }
        }
        Err(fault) => {
            let said = fault.said().map(Into::into);
            let trouble = Some(Problem::from(fault).detail);
            DnsProviderTest { works: false, reaches: Vec::new(), trouble, said }
        }
    })
}

async fn remove(call: Call, input: DnsProviderRemove) -> Result<DnsProviderRemoved, Problem> {
    find::demand_all_projects(&call, "dns_provider_remove")?;
    let row = named(&call, &input.provider).await?;
    let effects = effects(&call, &row).await?;
    if input.dry_run {
        return Ok(DnsProviderRemoved { provider: row.name, effects, removed: false });
    }
    confirmed("dns_provider_remove", row.name.as_str(), input.confirm.as_deref(), &effects)?;
    call.context.store.dns_providers().remove(&call.principal, &row.name).await?;
    Ok(DnsProviderRemoved { provider: row.name, effects, removed: true })
}

/// What removing a provider means for the domains that there are.
async fn effects(call: &Call, row: &DnsProviderRow) -> Result<Vec<String>, Problem> {
    let mut effects = vec![match row.kind {
        DnsProviderKind::Manual => {
            format!("forget that records in its zones ({}) are set by hand", zones(row))
        }
        _ => format!("forget its credentials and set no more records in {}", zones(row)),
    }];
    let mut names = Vec::new();
    for domain in call.context.store.domains().all().await? {
        if !(domain.name.is_wildcard() || domain.challenge == Some(ChallengeKind::Dns01)) {
            continue;
        }
        let served = call.context.dns.provider_of(domain.name.base()).await?;
        if served.is_some_and(|by| by.name == row.name) {
            names.push(domain.name.to_string());
        }
    }
    if !names.is_empty() {
        effects.push(format!(
            "leave certificates without renewal, unless another provider serves them: {}",
            names.join(", ")
        ));
    }
    Ok(effects)
}

fn zones(row: &DnsProviderRow) -> String {
    row.zones.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

async fn named(call: &Call, name: &DnsProviderName) -> Result<DnsProviderRow, Problem> {
    let providers = call.context.store.dns_providers();
    if let Some(row) = providers.by_name(name).await? {
        return Ok(row);
    }
    let known: Vec<String> = providers.list().await?.into_iter().map(|row| row.name.to_string()).collect();
    Err(Problem {
        field: Some("provider".into()),
        ..Problem::not_found("dns_provider", name.as_str(), &known)
    })
}

fn shown(row: DnsProviderRow) -> DnsProvider {
    DnsProvider {
        provider: row.name,
        kind: row.kind,
        zones: row.zones,
        updated_at: row.updated_at,
        updated_by: row.updated_by,
    }
}

impl Brief for DnsProvider {
    fn brief(&self) -> Text {
        let zones: Vec<&str> = self.zones.iter().map(|z| z.as_str()).collect();
        format!("{} ({}) sets records in {}.", self.provider, self.kind.as_str(), zones.join(", ")).into()
    }
}

impl Brief for DnsProviderPage {
    fn brief(&self) -> Text {
        let mut text = Text::from(count(self.providers.len(), "DNS provider"));
        for p in &self.providers {
            let zones: Vec<&str> = p.zones.iter().map(|z| z.as_str()).collect();
            text = text.say(format!("\n{} ({}): {}", p.provider, p.kind.as_str(), zones.join(", ")));
        }
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for DnsProviderDetail {
    fn brief(&self) -> Text {
        let text = self.provider.brief();
        let Some(test) = &self.test else { return text };
        let text = match (test.works, &test.trouble) {
            (true, _) => {
                text.say(format!(" Its credentials work and reach {}.", count(test.reaches.len(), "zone")))
            }
            (false, trouble) => text.say(" It does not work. ").say_if(trouble.as_deref()),
        };
        match &test.said {
            Some(said) => text.say(" It says: ").quote(said),
            None => text,
        }
    }
}

impl Brief for DnsProviderRemoved {
    fn brief(&self) -> Text {
        let what =
            if self.removed { "is removed; this did" } else { "would be removed (dry run); this would" };
        format!("The DNS provider {} {what}: {}.", self.provider, self.effects.join("; ")).into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wrong_input_is_told_without_secrets() {
        let wrong = [
            json!({ "provider": "a", "credentials": { "kind": "manual" } }),
            json!({ "provider": "a", "credentials": { "kind": "cloudflare", "api_token": "sesame".repeat(2000) } }),
            json!({ "provider": "a", "credentials": { "kind": "cloudflare", "api_token": "sesame" }, "zones": ["*.a.com"] }),
        ];
        for input in wrong {
            let problem = check(&serde_json::from_value(input).unwrap()).unwrap_err();
            assert!(problem.field.is_some() && !problem.to_string().contains("sesame"), "{problem}");
        }
    }
}
