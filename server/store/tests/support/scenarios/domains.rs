use berth_schemas::{
    DomainName, Scope, Timestamp,
    domain::{ChallengeKind, DomainOrigin, OrderState, OrderTrouble},
};
use berth_store::*;

use crate::support::World;

fn name(text: &str) -> DomainName {
    text.parse().unwrap()
}

fn plan(app: &AppRow) -> DomainPlan {
    DomainPlan { app: app.clone(), redirect_to: None, challenge: None, rules: Default::default() }
}

fn order(text: &str) -> NewOrder {
    NewOrder {
        name: name(text),
        directory: "https://ca.example/dir".into(),
        challenge: ChallengeKind::Http01,
        renewal: false,
    }
}

fn certificate(key: &str) -> NewCertificate {
    NewCertificate {
        names: vec!["shop.example.com".into()],
        chain: "chain".into(),
        key: key.into(),
        issuer: "CN=Test".into(),
        fingerprint: "ab".into(),
        not_before: Timestamp(0),
        not_after: Timestamp(1_000_000),
        renew_at: Some(Timestamp(600_000)),
    }
}

fn trouble() -> OrderTrouble {
    OrderTrouble { kind: "dns".into(), detail: "NXDOMAIN\0".into(), at: Timestamp(7) }
}

pub async fn a_domain_has_one_owner(world: World) {
    let root = Principal::daemon();
    let (web, api) = (world.app("web").await, world.app_in("other", "api").await);
    let domains = world.store.domains();
    domains.create(&root, &name("*.example.com"), plan(&web)).await.unwrap();
    domains.create(&root, &name("shop.example.com"), plan(&web)).await.unwrap();
    domains.create(&root, &name("shop.example.org"), plan(&api)).await.unwrap();
    let taken = domains.create(&root, &name("shop.example.com"), plan(&web)).await;
    assert!(matches!(taken, Err(StoreError::Taken { kind: "domain", .. })), "{taken:?}");
    for (foreign, app) in [("blog.example.com", &api), ("shop.example.com", &api), ("*.example.org", &web)] {
        let refused = domains.create(&root, &name(foreign), plan(app)).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{foreign}: {refused:?}");
    }
    domains.create(&root, &name("a.blog.example.com"), plan(&api)).await.unwrap();

    let theirs = Principal::new("t", vec![Scope::Write], Visible::Projects(vec![api.project_id]));
    let (seen, total) = domains.list(&theirs.visible, None, None, 10).await.unwrap();
    let seen: Vec<_> = seen.iter().map(|d| d.name.as_str()).collect();
    assert_eq!((seen.as_slice(), total), (["a.blog.example.com", "shop.example.org"].as_slice(), 2));
    assert_eq!(domains.by_name(&theirs.visible, &name("shop.example.com")).await.unwrap(), None);
    let hidden = domains.remove(&theirs, &name("shop.example.com")).await;
    assert!(matches!(hidden, Err(StoreError::NotFound { .. })), "{hidden:?}");

    let to = DomainPlan { redirect_to: Some(name("example.net")), ..plan(&web) };
    let changed = domains.update(&root, &name("shop.example.com"), to.clone()).await.unwrap();
    assert_eq!(changed.redirect_to, Some(name("example.net")));
    domains.update(&root, &name("shop.example.com"), to).await.unwrap();
    let told = world.store.events().list(&Visible::All, None, Some("domain.updated"), None, None, 9).await;
    assert_eq!(told.unwrap().len(), 1, "the same again changes nothing");
    world.store.apps().delete(web.id, "t").await.unwrap();
    assert_eq!(domains.all().await.unwrap().len(), 2, "the domains go with their app");
}

pub async fn what_an_app_approves_is_its_own_until_it_is_dropped(world: World) {
    let root = Principal::daemon();
    let (web, api) = (world.app("web").await, world.app_in("other", "api").await);
    let domains = world.store.domains();
    domains.create(&root, &name("*.example.org"), plan(&api)).await.unwrap();
    let below = domains.approve(&web, &name("a.example.org"), 9).await;
    assert!(matches!(below, Err(StoreError::Conflict { .. })), "{below:?}");
    let Approved::Taken(row) = domains.approve(&web, &name("a.example.com"), 2).await.unwrap() else {
        panic!()
    };
    assert_eq!(
        (row.origin, row.asked_at, row.refused_at),
        (DomainOrigin::OnDemand, Some(row.created_at), None)
    );
    let again = domains.approve(&api, &name("a.example.com"), 2).await;
    assert!(matches!(again, Err(StoreError::Taken { .. })), "{again:?}");
    // One that is dropped has had its part of the day all the same, and its certificate goes with it.
    domains.approve(&web, &name("b.example.com"), 2).await.unwrap();
    world.store.certificates().attach(&root, web.id, &name("b.example.com"), certificate("k")).await.unwrap();
    assert!(domains.drop_approved(&name("b.example.com"), "it was enough").await.unwrap());
    assert!(!domains.drop_approved(&name("b.example.com"), "it was enough").await.unwrap());
    assert!(world.store.certificates().all().await.unwrap().is_empty());
    assert_eq!(domains.approve(&web, &name("c.example.com"), 2).await.unwrap(), Approved::Exhausted);
    world.advance(25 * 3600 * 1_000_000);
    assert!(matches!(domains.approve(&web, &name("c.example.com"), 2).await, Ok(Approved::Taken(_))));
    domains.asked(&name("c.example.com"), Some(Timestamp(7))).await.unwrap();
    let asked = domains.by_name(&Visible::All, &name("c.example.com")).await.unwrap().unwrap();
    assert_eq!((asked.asked_at >= Some(asked.created_at), asked.refused_at), (true, Some(Timestamp(7))));
    // Who adds it keeps it; nobody of another project can.
    let theirs = domains.create(&root, &name("c.example.com"), plan(&api)).await;
    assert!(matches!(theirs, Err(StoreError::Taken { .. })), "{theirs:?}");
    let kept = domains.create(&root, &name("c.example.com"), plan(&web)).await.unwrap();
    assert_eq!(kept.origin, DomainOrigin::Added);
    assert!(!domains.drop_approved(&name("c.example.com"), "it was enough").await.unwrap());
}

pub async fn an_order_goes_its_way_once(mut world: World) {
    let root = Principal::daemon();
    let web = world.app("web").await;
    let shop = name("shop.example.com");
    world.store.domains().create(&root, &shop, plan(&web)).await.unwrap();
    let acme = world.store.acme();
    let first = acme.begin(order("shop.example.com")).await.unwrap();
    assert_eq!(acme.begin(order("shop.example.com")).await.unwrap().id, first.id, "one at a time");
    let waits = acme.wait(first.id, trouble(), Timestamp(9)).await.unwrap();
    assert_eq!(waits.trouble.unwrap().detail.0, "NXDOMAIN\u{fffd}");
    assert!(acme.ready(first.id).await.is_err(), "not before it was placed");
    acme.placed(first.id, "https://ca.example/order/1").await.unwrap();
    acme.ready(first.id).await.unwrap();
    acme.finalizing(first.id, "the key of shop").await.unwrap();

    world.reopen().await;
    let acme = world.store.acme();
    let open = acme.recent(Timestamp(i64::MAX)).await.unwrap();
    assert_eq!((open.len(), open[0].state), (1, OrderState::Finalizing), "it is taken up where it was");
    assert_eq!(open[0].url.as_deref(), Some("https://ca.example/order/1"));
    assert_eq!(acme.key(first.id).await.unwrap(), "the key of shop");
    let done = acme.issued(first.id, Some(web.id), certificate("the key of shop")).await.unwrap();
    assert_eq!(done.state, OrderState::Valid);
    assert!(acme.key(first.id).await.is_err(), "the key is with the certificate now");
    assert!(acme.issued(first.id, None, certificate("another")).await.is_err());
    let loaded = world.store.certificates().with_keys().await.unwrap();
    assert_eq!((loaded.len(), loaded[0].1.as_str()), (1, "the key of shop"));

    let second = acme.begin(NewOrder { renewal: true, ..order("shop.example.com") }).await.unwrap();
    let failed = acme
        .failed(second.id, Some(web.id), Fault::Validation, trouble(), Timestamp(i64::MAX))
        .await
        .unwrap();
    assert_eq!((failed.state, failed.fault), (OrderState::Failed, Some(Fault::Validation)));
    assert_eq!(world.store.certificates().all().await.unwrap().len(), 1, "the old one stays");
    acme.hurry(&shop, Timestamp(5)).await.unwrap();
    assert_eq!(acme.of(&shop, 1).await.unwrap()[0].next_try_at, Some(Timestamp(5)));
    let third = acme.begin(order("shop.example.com")).await.unwrap();
    world.store.domains().remove(&root, &shop).await.unwrap();
    assert_eq!(acme.get(third.id).await.unwrap().unwrap().state, OrderState::Cancelled);
    assert!(world.store.certificates().all().await.unwrap().is_empty());
    world.advance(100);
    assert_eq!(acme.prune(Timestamp(i64::MAX)).await.unwrap(), 2, "the newest of a name stays");

    let kinds: Vec<String> = world
        .store
        .events()
        .list(&Visible::All, Some(&web.slug), None, None, None, 20)
        .await
        .unwrap()
        .into_iter()
        .rev()
        .map(|e| e.kind)
        .collect();
    let wanted =
        ["app.created", "domain.added", "certificate.issued", "certificate.failed", "domain.removed"];
    assert_eq!(kinds, wanted);
}

pub async fn keys_of_certificates_and_accounts_are_sealed(world: World) {
    let root = Principal::daemon();
    let web = world.app("web").await;
    let shop = name("shop.example.com");
    world.store.domains().create(&root, &shop, plan(&web)).await.unwrap();
    world.store.certificates().attach(&root, web.id, &shop, certificate("hunter2-hunter2")).await.unwrap();
    world.store.acme().keep_account("https://ca.example/dir", "hunter2-account").await.unwrap();
    let kept = world.store.acme().account("https://ca.example/dir").await.unwrap();
    assert_eq!(kept.as_deref(), Some("hunter2-account"));
    let events = world.store.events().list(&Visible::All, None, None, None, None, 20).await.unwrap();
    assert!(!format!("{events:?}").contains("hunter2"));
    world.tamper("UPDATE certificates SET name = 'other.example.com'").await;
    assert!(world.store.certificates().with_keys().await.unwrap().is_empty(), "it opens at its place only");
    world.tamper("UPDATE acme_accounts SET directory = 'https://evil.example'").await;
    assert!(world.store.acme().account("https://evil.example").await.is_err());
}
