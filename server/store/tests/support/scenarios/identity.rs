use berth_schemas::{Scope, Timestamp, token::TokenMode};
use berth_store::*;

use crate::support::{START, World, open};

pub async fn a_first_start_has_the_default_project(mut world: World) {
    let projects = world.store.projects().list(&Visible::All).await.unwrap();
    assert_eq!(projects.iter().map(|p| p.slug.as_str()).collect::<Vec<_>>(), ["default"]);
    let instance = world.store.instance().to_owned();
    world.reopen().await;
    assert_eq!(world.store.instance(), instance);
    let kind = if world.url.is_some() { "postgresql" } else { "sqlite" };
    assert_eq!(world.store.kind(), kind);
}

pub async fn a_second_daemon_is_kept_away(world: World) {
    let same_dir = open(world.dir.path(), world.url.clone(), &world.time).await;
    assert!(matches!(same_dir, Err(StoreError::Locked(_))), "{same_dir:?}");
    if world.url.is_some() {
        let elsewhere = tempfile::tempdir().unwrap();
        let same_database = open(elsewhere.path(), world.url.clone(), &world.time).await;
        assert!(matches!(same_database, Err(StoreError::Locked(_))), "{same_database:?}");
    }
}

pub async fn another_key_is_refused(world: World) {
    world.store.close().await;
    let url = world.url.clone();
    let config = StoreConfig { data_dir: world.dir.path().to_owned(), database_url: url };
    drop(world.store);
    // Closing the daemon releases its locks.
    let wrong = Store::open(config.clone(), MasterKey::generate().unwrap()).await;
    assert!(matches!(wrong, Err(StoreError::Key(KeyError::Wrong))), "{wrong:?}");
    let key = MasterKey::load_or_create(world.dir.path()).unwrap();
    Store::open(config, key).await.unwrap().close().await;
}

pub async fn a_newer_database_is_refused(mut world: World) {
    world
        .tamper("INSERT INTO migrations (version, name, checksum, applied_at) VALUES (999, 'future', 'x', 0)")
        .await;
    world.store.close().await;
    let store = std::mem::replace(&mut world.store, World::on(None).await.store);
    drop(store);
    let refused = open(world.dir.path(), world.url.clone(), &world.time).await;
    assert!(matches!(refused, Err(StoreError::Newer { found: 999, .. })), "{refused:?}");
}

pub async fn an_admin_token_is_made_once(mut world: World) {
    let secret = world.store.tokens().ensure_admin().await.unwrap().unwrap();
    assert_eq!(secret.len(), 46);
    assert!(secret.starts_with("berth_"));
    assert_eq!(world.store.tokens().ensure_admin().await.unwrap(), None);
    world.reopen().await;
    assert_eq!(world.store.tokens().ensure_admin().await.unwrap(), None);
    let principal = world.store.tokens().find(&secret).unwrap();
    assert_eq!((principal.name.as_str(), principal.visible), ("admin", Visible::All));
}

pub fn new_token(name: &str) -> NewToken {
    NewToken {
        name: name.parse().unwrap(),
        scopes: vec![Scope::Read],
        projects: vec![],
        mode: TokenMode::Full,
        tools: vec![],
        expires_at: None,
    }
}

pub async fn tokens_work_until_they_expire_or_are_revoked(mut world: World) {
    let root = Principal::daemon();
    let tokens = world.store.tokens();
    let soon = Some(Timestamp(START + 60_000_000));
    let (_, brief) = tokens.create(&root, NewToken { expires_at: soon, ..new_token("brief") }).await.unwrap();
    let (shown, lasting) = tokens.create(&root, new_token("lasting")).await.unwrap();
    assert!(lasting.starts_with(&shown.prefix) && shown.prefix.len() < 15);
    assert!(tokens.find(&brief).is_some() && tokens.find(&lasting).is_some());
    assert!(tokens.find("berth_0000000000000000000000000000000000000000").is_none());
    world.advance(61);
    assert!(world.store.tokens().find(&brief).is_none());
    assert!(world.store.tokens().find(&lasting).is_some());

    // The last use survives a restart, though it was only in memory.
    world.reopen().await;
    let list = world.store.tokens().list().await.unwrap();
    let used = list.iter().find(|t| t.name.as_str() == "lasting").unwrap().last_used_at;
    assert!(used.is_some_and(|t| t.0 > START + 60_000_000), "{used:?}");
    let again = world.store.tokens().create(&root, new_token("lasting")).await;
    assert!(matches!(again, Err(StoreError::Taken { kind: "token", .. })));

    world.store.tokens().revoke(&root, &"lasting".parse().unwrap()).await.unwrap();
    assert!(world.store.tokens().find(&lasting).is_none());
    let gone = world.store.tokens().revoke(&root, &"lastng".parse().unwrap()).await;
    assert!(matches!(gone, Err(StoreError::NotFound { known, .. }) if known == ["brief"]));
}

pub async fn a_limited_token_cannot_make_a_wider_one(world: World) {
    let root = Principal::daemon();
    world.app_in("shop", "web").await;
    world.app_in("bank", "vault").await;
    let tokens = world.store.tokens();
    let scopes = vec![Scope::Admin];
    let projects = vec!["shop".parse().unwrap()];
    let new = NewToken { scopes, projects, ..new_token("shop") };
    let (_, secret) = tokens.create(&root, new).await.unwrap();
    let limited = tokens.find(&secret).unwrap();
    let all = tokens.create(&limited, new_token("all")).await;
    assert!(matches!(all, Err(StoreError::Forbidden(_))), "{all:?}");
    let foreign = NewToken { projects: vec!["bank".parse().unwrap()], ..new_token("bank") };
    let foreign = tokens.create(&limited, foreign).await;
    assert!(matches!(foreign, Err(StoreError::NotFound { kind: "project", .. })), "{foreign:?}");
    let unknown = NewToken { projects: vec!["nowhere".parse().unwrap()], ..new_token("nowhere") };
    assert!(matches!(tokens.create(&root, unknown).await, Err(StoreError::NotFound { kind: "project", .. })));
    let reader = Principal::new("r", vec![Scope::Read], Visible::All);
    let stronger = NewToken { scopes: vec![Scope::Write], ..new_token("w") };
    assert!(matches!(tokens.create(&reader, stronger).await, Err(StoreError::Forbidden(_))));
    assert_eq!(tokens.list().await.unwrap().len(), 1, "refused tokens leave nothing behind");
}

pub async fn a_deleted_project_takes_its_tokens_along(world: World) {
    let root = Principal::daemon();
    let app = world.app_in("shop", "web").await;
    world.app_in("bank", "vault").await;
    let one = NewToken { projects: vec!["shop".parse().unwrap()], ..new_token("one") };
    let two =
        NewToken { projects: vec!["shop".parse().unwrap(), "bank".parse().unwrap()], ..new_token("two") };
    let (_, one) = world.store.tokens().create(&root, one).await.unwrap();
    let (_, two) = world.store.tokens().create(&root, two).await.unwrap();
    let refused = world.store.projects().delete(&root, app.project_id).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    world.store.apps().delete(app.id, "t").await.unwrap();
    world.store.projects().delete(&root, app.project_id).await.unwrap();
    assert!(world.store.tokens().find(&one).is_none(), "it would see nothing, or everything");
    assert!(matches!(world.store.tokens().find(&two).unwrap().visible, Visible::Projects(p) if p.len() == 1));
    let default = world.store.projects().by_slug(&Visible::All, &"default".parse().unwrap()).await.unwrap();
    let kept = world.store.projects().delete(&root, default.unwrap().id).await;
    assert!(matches!(kept, Err(StoreError::Conflict { .. })));
}
