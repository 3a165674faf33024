use berth_schemas::{ProjectSlug, Scope, Timestamp, token::TokenMode};
use berth_store::*;

use crate::support::World;

/// Verifier and challenge of RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const RESOURCE: &str = "https://berth.example.com/mcp";

fn approval(client: &str, scopes: &[Scope]) -> Approval {
    Approval {
        client_id: client.into(),
        client_name: "Client".into(),
        redirect_uri: "https://client.example/callback".into(),
        challenge: CHALLENGE.into(),
        resource: RESOURCE.into(),
        scopes: scopes.to_vec(),
        projects: Vec::new(),
        mode: TokenMode::Full,
    }
}

fn shown(client: &str) -> Presented<'_> {
    let redirect_uri = Some("https://client.example/callback");
    Presented { client_id: client, redirect_uri, verifier: VERIFIER, resource: Some(RESOURCE) }
}

async fn owner(world: &World, name: &str, scopes: &[Scope], projects: &[&str]) -> Principal {
    let projects = projects.iter().map(|p| p.parse().unwrap()).collect();
    let new =
        NewToken { name: name.parse().unwrap(), scopes: scopes.to_vec(), projects, ..super::new_token(name) };
    let (_, secret) = world.store.tokens().create(&Principal::daemon(), new).await.unwrap();
    world.store.tokens().find(&secret).unwrap()
}

async fn granted(world: &World, owner: &Principal, approval: Approval) -> Issued {
    let client = approval.client_id.clone();
    let code = world.store.grants().approve(owner, approval).await.unwrap();
    world.store.grants().redeem(&code, shown(&client)).await.unwrap().expect("tokens")
}

pub async fn a_code_is_good_once_and_for_its_client_only(mut world: World) {
    let owner = owner(&world, "owner", &[Scope::Write], &[]).await;
    let grants = world.store.grants();
    let code = grants.approve(&owner, approval("a", &[Scope::Read])).await.unwrap();
    let good = shown("a");
    for bad in [
        shown("b"),
        Presented { redirect_uri: Some("https://client.example/callback/"), ..good },
        Presented { verifier: CHALLENGE, ..good },
        Presented { resource: Some("https://other.example/mcp"), ..good },
    ] {
        assert!(grants.redeem(&code, bad).await.unwrap().is_none(), "{bad:?}");
    }
    // The code is durable, as the grant is.
    world.reopen().await;
    let grants = world.store.grants();
    let issued = grants.redeem(&code, good).await.unwrap().unwrap();
    let found = world.store.tokens().find(&issued.access).unwrap();
    assert_eq!(found.scopes, [Scope::Read]);
    assert_eq!(found.grant.as_ref().unwrap().resource, RESOURCE);
    assert!(world.store.tokens().find(&issued.refresh).is_none(), "a refresh token opens nothing");
    world.reopen().await;
    assert_eq!(world.store.tokens().find(&issued.access), Some(found));

    // Used again, its grant ends; a stranger's attempt ends nothing.
    let grants = world.store.grants();
    assert!(grants.redeem(&code, shown("b")).await.unwrap().is_none());
    assert!(world.store.tokens().find(&issued.access).is_some());
    assert!(grants.redeem(&code, good).await.unwrap().is_none());
    assert!(world.store.tokens().find(&issued.access).is_none());
    assert!(grants.refresh(&issued.refresh, "a", None).await.unwrap().is_none());
    assert!(grants.list().await.unwrap().is_empty());

    let late = grants.approve(&owner, approval("a", &[Scope::Read])).await.unwrap();
    world.advance(121);
    assert!(world.store.grants().redeem(&late, good).await.unwrap().is_none(), "two minutes are over");
}

pub async fn a_refresh_token_is_good_once(world: World) {
    let owner = owner(&world, "owner", &[Scope::Write], &[]).await;
    let grants = world.store.grants();
    let first = granted(&world, &owner, approval("a", &[Scope::Deploy])).await;
    assert!(grants.refresh(&first.refresh, "b", None).await.unwrap().is_none());
    assert!(grants.refresh(&first.refresh, "a", Some("https://other.example/mcp")).await.unwrap().is_none());
    assert!(grants.refresh(&first.access, "a", None).await.unwrap().is_none());
    let second = grants.refresh(&first.refresh, "a", Some(RESOURCE)).await.unwrap().unwrap();
    assert_eq!(second.scopes, [Scope::Deploy]);
    world.advance(3601);
    assert!(world.store.tokens().find(&first.access).is_none(), "an hour is over");
    let third = grants.refresh(&second.refresh, "a", None).await.unwrap().unwrap();
    assert!(world.store.tokens().find(&third.access).is_some());
    // Somebody else has the first one, too.
    assert!(grants.refresh(&first.refresh, "a", None).await.unwrap().is_none());
    assert!(world.store.tokens().find(&third.access).is_none());
    assert!(grants.refresh(&third.refresh, "a", None).await.unwrap().is_none());
    let told = world.store.events().list(&Visible::All, None, None, None, None, 50).await;
    assert!(format!("{told:?}").contains("used twice"), "{told:?}");
}

pub async fn a_grant_is_never_more_than_its_token(mut world: World) {
    world.app_in("shop", "web").await;
    world.app_in("bank", "vault").await;
    let owner = owner(&world, "owner", &[Scope::Deploy], &["shop"]).await;
    let grants = world.store.grants();
    let more = grants.approve(&owner, approval("a", &[Scope::Write])).await;
    assert!(matches!(more, Err(StoreError::Forbidden(_))), "{more:?}");
    let bank: ProjectSlug = "bank".parse().unwrap();
    let foreign = Approval { projects: vec![bank], ..approval("a", &[Scope::Read]) };
    let foreign = grants.approve(&owner, foreign).await;
    assert!(matches!(foreign, Err(StoreError::NotFound { kind: "project", .. })), "{foreign:?}");

    let issued = granted(&world, &owner, approval("a", &[Scope::Read])).await;
    let client = world.store.tokens().find(&issued.access).unwrap();
    assert_eq!(client.visible, owner.visible);
    let passed_on = grants.approve(&client, approval("b", &[Scope::Read])).await;
    assert!(matches!(passed_on, Err(StoreError::Forbidden(_))), "{passed_on:?}");

    // It goes with its token, and ends when the token does.
    world.tamper("UPDATE grants SET scopes = '[\"admin\",\"read\"]'").await;
    world.reopen().await;
    assert_eq!(world.store.tokens().find(&issued.access).unwrap().scopes, [Scope::Read]);
    let list = world.store.grants().list().await.unwrap();
    assert_eq!(list[0].approved_by.as_str(), "owner");
    world.store.tokens().revoke(&Principal::daemon(), &"owner".parse().unwrap()).await.unwrap();
    assert!(world.store.tokens().find(&issued.access).is_none());
    assert!(world.store.grants().refresh(&issued.refresh, "a", None).await.unwrap().is_none());

    let until = Some(Timestamp(world.store.clock().now().0 + 600_000_000));
    let brief = NewToken {
        name: "brief".parse().unwrap(),
        scopes: vec![Scope::Read],
        expires_at: until,
        ..super::new_token("brief")
    };
    let (_, secret) = world.store.tokens().create(&Principal::daemon(), brief).await.unwrap();
    let brief = world.store.tokens().find(&secret).unwrap();
    let issued = granted(&world, &brief, approval("a", &[Scope::Read])).await;
    world.advance(601);
    assert!(world.store.tokens().find(&issued.access).is_none());
    assert!(world.store.grants().refresh(&issued.refresh, "a", None).await.unwrap().is_none());
}

pub async fn what_is_given_back_ends(world: World) {
    let owner = owner(&world, "owner", &[Scope::Read], &[]).await;
    let grants = world.store.grants();
    let issued = granted(&world, &owner, approval("a", &[Scope::Read])).await;
    assert!(!grants.give_back(&issued.refresh, "b").await.unwrap());
    assert!(!grants.give_back("berth_rt_unknown", "a").await.unwrap());
    assert!(grants.give_back(&issued.access, "a").await.unwrap());
    assert!(world.store.tokens().find(&issued.access).is_none());
    let next = grants.refresh(&issued.refresh, "a", None).await.unwrap().unwrap();
    assert!(grants.give_back(&next.refresh, "a").await.unwrap());
    assert!(world.store.tokens().find(&next.access).is_none());

    let kept = granted(&world, &owner, approval("a", &[Scope::Read])).await;
    let id = grants.list().await.unwrap()[0].grant.clone();
    grants.revoke(&Principal::daemon(), &id).await.unwrap();
    assert!(world.store.tokens().find(&kept.access).is_none());
    assert!(matches!(grants.revoke(&Principal::daemon(), &id).await, Err(StoreError::NotFound { .. })));

    // Unused for two months, it is forgotten.
    granted(&world, &owner, approval("a", &[Scope::Read])).await;
    world.advance(61 * 24 * 3600);
    world.store.grants().remove_expired().await.unwrap();
    assert!(world.store.grants().list().await.unwrap().is_empty());
}

pub async fn clients_that_nobody_approves_are_forgotten(world: World) {
    let owner = owner(&world, "owner", &[Scope::Read], &[]).await;
    let clients = world.store.oauth_clients();
    let new = |name: &str| NewOauthClient {
        name: name.into(),
        redirects: vec!["http://127.0.0.1/callback".into()],
    };
    let approved = clients.register(new("approved")).await.unwrap();
    let unused = clients.register(new("unused")).await.unwrap();
    assert_eq!(clients.by_id(&unused.id).await.unwrap(), Some(unused.clone()));
    granted(&world, &owner, approval(&approved.id, &[Scope::Read])).await;
    world.advance(25 * 3600);
    let later = world.store.oauth_clients().register(new("later")).await.unwrap();
    let clients = world.store.oauth_clients();
    assert_eq!(clients.by_id(&unused.id).await.unwrap(), None);
    assert!(clients.by_id(&approved.id).await.unwrap().is_some());
    // Whoever registers a lot pushes out nobody who was approved.
    world
        .tamper(
            "INSERT INTO oauth_clients (id, name, redirects, created_at)
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
             SELECT 'client_' || i, 'x', '[]', 2000000000000000 FROM n",
        )
        .await;
    clients.register(new("one more")).await.unwrap();
    assert_eq!(clients.by_id(&later.id).await.unwrap(), None);
    assert!(clients.by_id(&approved.id).await.unwrap().is_some());
}
