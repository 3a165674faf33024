use berth_schemas::dns::{DnsCredentials, DnsProviderKind};
use berth_store::*;

use crate::support::World;

fn provider(name: &str, token: &str) -> NewDnsProvider {
    NewDnsProvider {
        name: name.parse().unwrap(),
        credentials: DnsCredentials::Cloudflare { api_token: token.into() },
        zones: vec!["example.com".parse().unwrap()],
        found: true,
        replace: false,
    }
}

pub async fn credentials_of_dns_providers_are_sealed(world: World) {
    let root = Principal::daemon();
    let providers = world.store.dns_providers();
    let added = providers.put(&root, provider("cf", "sesame")).await.unwrap();
    assert_eq!((added.kind, added.zones.len()), (DnsProviderKind::Cloudflare, 1));
    let again = providers.put(&root, provider("cf", "other")).await;
    assert!(matches!(again, Err(StoreError::Taken { kind: "dns_provider", .. })), "{again:?}");
    let name = "cf".parse().unwrap();
    assert_eq!(providers.credentials(&name).await.unwrap(), provider("cf", "sesame").credentials);
    providers.put(&root, NewDnsProvider { replace: true, ..provider("cf", "open") }).await.unwrap();
    assert_eq!(providers.credentials(&name).await.unwrap(), provider("cf", "open").credentials);

    providers.found(&name, &["example.org".parse().unwrap()]).await.unwrap();
    providers.put(&root, NewDnsProvider { found: false, ..provider("told", "x") }).await.unwrap();
    providers.found(&"told".parse().unwrap(), &[]).await.unwrap();
    let zones: Vec<String> = providers.list().await.unwrap().iter().map(|p| p.zones[0].to_string()).collect();
    assert_eq!(zones, ["example.org", "example.com"], "zones that were told stay");

    let events = world.store.events().list(&Visible::All, None, Some("dns_provider"), None, None, 10).await;
    assert!(!format!("{events:?}").contains("sesame"));
    world.tamper("UPDATE dns_providers SET name = 'moved' WHERE name = 'cf'").await;
    let moved = world.store.dns_providers().credentials(&"moved".parse().unwrap()).await;
    assert!(matches!(moved, Err(StoreError::Unsealable(_))), "{moved:?}");
    world.store.dns_providers().remove(&root, &"moved".parse().unwrap()).await.unwrap();
    let gone = world.store.dns_providers().remove(&root, &"moved".parse().unwrap()).await;
    assert!(matches!(gone, Err(StoreError::NotFound { kind: "dns_provider", .. })), "{gone:?}");
}
