//! Stories about source maps that come late.

use berth_schemas::issue::IssueState;

use super::errors::{issue, item, read};
use crate::support::*;

/// Files events of minified frames: number, key and release. Each waits for the map of its release.
async fn minified(world: &World, app: &AppRow, events: &[(u32, &str, &str)]) {
    let errors = world.store.errors();
    let request = NewIntake {
        app: app.id,
        environment: app.environment.id,
        received_at: world.store.clock().now(),
        items: events.iter().map(|(n, ..)| item(*n, ItemKind::Event, "{}")).collect(),
        dropped: Vec::new(),
    };
    errors.accept(&[request]).await.unwrap();
    let rows = errors.waiting(None, 100).await.unwrap();
    let read: Vec<_> = rows
        .iter()
        .zip(events)
        .map(|(row, (n, key, release))| DigestedEvent {
            wanted: vec![wanted(release, "~/a.js")],
            ..read(row, key, release, &n.to_string())
        })
        .collect();
    errors.digest(&read, &[], &[]).await.unwrap();
}

fn wanted(release: &str, url: &str) -> WantedMap {
    WantedMap { debug_id: String::new(), release: release.into(), url: url.into() }
}

fn map(app: &AppRow, release: &str, url: &str, file: &str) -> NewMap {
    NewMap {
        app: app.id,
        debug_id: None,
        release: Some(release.into()),
        url: url.into(),
        file: file.into(),
        bytes: 1,
        deployed: url.starts_with('/'),
    }
}

fn became(key: &str) -> Remapped {
    Remapped {
        body: b"{\"mapped\":true}".to_vec(),
        kind: "TypeError".into(),
        value: "no price".into(),
        culprit: Some("priceOf in src/cart.ts".into()),
        strict: key.into(),
        loose: None,
        reasons: Vec::new(),
    }
}

/// Maps of a release come, and events become what `key` says of their numbers.
async fn mapped(world: &World, app: &AppRow, release: &str, key: impl Fn(&str) -> String) -> Vec<Joined> {
    let errors = world.store.errors();
    errors.add_maps(&[map(app, release, "~/a.js", "f")]).await.unwrap();
    let mut joined = Vec::new();
    for row in errors.mappable(100).await.unwrap() {
        let done = became(&key(row.event_id.trim_start_matches('0')));
        joined.extend(errors.remapped(&row, Some(done), &[]).await.unwrap());
    }
    assert_eq!(errors.mappable(100).await.unwrap(), []);
    joined
}

async fn there(world: &World, number: i64) -> bool {
    let which = format!("WEB-{number}").parse().unwrap();
    world.store.errors().issue(&Visible::All, &which).await.unwrap().is_some()
}

pub async fn late_maps_join_what_is_one_error(world: World) {
    let app = world.app("web").await;
    minified(&world, &app, &[(1, "a", "1"), (2, "a", "1"), (3, "b", "2"), (4, "b", "2")]).await;
    let (one, two) = (issue(&world, 1).await, issue(&world, 2).await);
    assert_eq!((one.events, two.events), (2, 2));
    // The newer release's maps come first: the order does not matter, the older issue goes on.
    assert_eq!(mapped(&world, &app, "2", |_| "priceOf".into()).await, []);
    let joined = mapped(&world, &app, "1", |_| "priceOf".into()).await;
    assert_eq!(joined, [Joined { gone: two.id, into: one.id }]);
    assert!(!there(&world, 2).await);
    let one = issue(&world, 1).await;
    assert_eq!((one.events, one.users, one.kind.as_str()), (4, 4, "TypeError"));
    let errors = world.store.errors();
    assert_eq!(errors.releases_of(one.id).await.unwrap(), [("2".to_owned(), 2), ("1".to_owned(), 2)]);
    assert_eq!(errors.events_of(one.id, None, None, 10).await.unwrap().len(), 4);
    // What comes now goes there, put right or not.
    minified(&world, &app, &[(5, "b", "2")]).await;
    assert_eq!(issue(&world, 1).await.events, 5);
    let told =
        world.store.events().list(&Visible::All, Some(&app.slug), Some("error."), None, None, 50).await;
    let merged: Vec<_> = told.unwrap().into_iter().filter(|e| e.kind == "error.merged").collect();
    assert_eq!(merged.len(), 1, "{merged:?}");
    assert_eq!(merged[0].summary.0, "WEB-2 was merged into WEB-1 by source maps");
    assert_eq!(merged[0].data["reason"], "by source maps");
}

pub async fn maps_do_not_join_what_people_or_frames_keep_apart(world: World) {
    let app = world.app("web").await;
    let (errors, root) = (world.store.errors(), Principal::daemon());
    // Set apart by a person.
    minified(&world, &app, &[(1, "a", "1"), (2, "b", "2")]).await;
    errors.merge(&root, &issue(&world, 2).await, &issue(&world, 1).await).await.unwrap();
    let number = errors.split(&root, &issue(&world, 1).await, "strict-b").await.unwrap();
    mapped(&world, &app, "1", |_| "priceOf".into()).await;
    assert_eq!(mapped(&world, &app, "2", |_| "priceOf".into()).await, []);
    assert!(there(&world, number).await);
    // Minified frames that threw two errors together say nothing of a third.
    minified(&world, &app, &[(3, "c", "3"), (4, "d", "4"), (5, "d", "4")]).await;
    mapped(&world, &app, "3", |_| "sum".into()).await;
    let mixed = |n: &str| if n == "4" { "sum".into() } else { "total".to_owned() };
    assert_eq!(mapped(&world, &app, "4", mixed).await, []);
    // What others were merged into by hand goes on, though it is the newer one.
    minified(&world, &app, &[(6, "e", "5"), (7, "f", "6"), (8, "g", "6")]).await;
    let named = async |n| issue(&world, n).await;
    let (e, f, g) = (named(number + 3).await, named(number + 4).await, named(number + 5).await);
    errors.merge(&root, &g, &f).await.unwrap();
    errors.ignore(&root, &f, Until::default()).await.unwrap();
    mapped(&world, &app, "5", |_| "tax".into()).await;
    let joined = mapped(&world, &app, "6", |_| "tax".into()).await;
    assert_eq!(joined, [Joined { gone: e.id, into: f.id }]);
    assert_eq!(named(f.number).await.state, IssueState::Ignored);
    // A resolved issue comes back by what was open and is newer.
    minified(&world, &app, &[(9, "h", "7")]).await;
    let h = named(g.number + 1).await;
    errors.resolve(&root, &h, false).await.unwrap();
    world.advance(60);
    minified(&world, &app, &[(10, "i", "8")]).await;
    mapped(&world, &app, "7", |_| "vat".into()).await;
    assert_eq!(mapped(&world, &app, "8", |_| "vat".into()).await.len(), 1);
    let h = named(h.number).await;
    assert_eq!((h.state, h.regressed, h.events), (IssueState::Open, true, 2));
}

pub async fn what_waits_for_maps_of_an_image_waits_until_they_are_taken(world: World) {
    let app = world.app("web").await;
    let (errors, releases) = (world.store.errors(), world.store.releases());
    let d = world.enqueue(&app).await;
    let new = NewRelease { maps_of: Some("web@1".into()), ..new_release(d.id) };
    let release = releases.create(new).await.unwrap();
    assert_eq!(errors.deployed_maps(app.id).await.unwrap().due, ["web@1"]);
    assert_eq!(releases.maps_due().await.unwrap(), [], "it has no traffic yet");
    assert_eq!(releases.begin_maps(release.id).await.unwrap(), 1);
    assert_eq!(releases.begin_maps(release.id).await.unwrap(), 2);
    minified(&world, &app, &[(1, "a", "web@1")]).await;
    let id = issue(&world, 1).await.id;
    let row = errors.event(id, None).await.unwrap().unwrap();
    let waits = [wanted("web@1", "/app/a.js"), wanted("web@1", "/app/b.js"), wanted("web@1", "~/c.js")];
    errors.remapped(&row, None, &waits).await.unwrap();
    let maps = [map(&app, "web@1", "/app/a.js", "one")];
    errors.add_maps(&maps).await.unwrap();
    errors.maps_taken(app.id, release.id).await.unwrap();
    let mut left: Vec<_> = errors.waits_for(row.id).await.unwrap().into_iter().map(|w| w.url).collect();
    left.sort();
    assert_eq!(left, ["/app/a.js", "~/c.js"], "others may still be uploaded");
    assert_eq!(errors.mappable(10).await.unwrap().len(), 1);
    let deployed = errors.deployed_maps(app.id).await.unwrap();
    assert_eq!((deployed.any, deployed.due), (true, Vec::<String>::new()));
    // Brought again, it takes the other's place; another release does not find it by place unless it may.
    errors.add_maps(&[map(&app, "web@1", "/app/a.js", "two")]).await.unwrap();
    let find = async |release, by_place| {
        errors.find_map(app.id, None, Some(release), "/app/a.js", by_place).await.unwrap()
    };
    assert_eq!(find("web@1", false).await.as_deref(), Some("two"));
    assert_eq!((find("web@2", false).await, find("web@2", true).await.as_deref()), (None, Some("two")));
    assert!(!errors.map_files().await.unwrap().contains("one"));
}
