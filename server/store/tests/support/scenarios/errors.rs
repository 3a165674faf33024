//! Stories about errors of apps.

use std::time::Duration;

use berth_schemas::{
    Timestamp,
    issue::{ErrorRules, IssueState, Level},
};
use berth_store::{ErrorsKept, MapsKept};

use crate::support::*;

pub fn item(n: u32, kind: ItemKind, body: &str) -> PackedItem {
    let body = body.as_bytes().to_vec();
    ErrorItem { kind, event_id: Some(format!("{n:032x}")), name: None, body }.pack().unwrap()
}

pub fn read(row: &IntakeRow, kind: &str, release: &str, user: &str) -> DigestedEvent {
    DigestedEvent {
        intake: row.id,
        app: row.app,
        environment: row.environment,
        event_id: row.event_id.clone().unwrap(),
        at: None,
        received_at: row.received_at,
        kind: kind.into(),
        value: "nul \0 and 'quotes'".into(),
        culprit: None,
        level: Level::Error,
        platform: "python".into(),
        handled: Some(false),
        release: Some(release.into()),
        user_key: Some(format!("id:{user}")),
        strict: format!("strict-{kind}"),
        loose: None,
        reasons: Vec::new(),
        body: Body::Compressed(row.body.clone()),
        wanted: Vec::new(),
    }
}

pub(super) async fn sent(world: &World, app: &AppRow, events: &[(u32, &str, &str, &str)]) {
    let items = events.iter().map(|(n, ..)| item(*n, ItemKind::Event, "{\"a\":1}")).collect();
    let errors = world.store.errors();
    let request = NewIntake {
        app: app.id,
        environment: app.environment.id,
        received_at: world.store.clock().now(),
        items,
        dropped: vec![("session".into(), "invalid".into(), 2)],
    };
    errors.accept(&[request]).await.unwrap();
    let rows = errors.waiting(None, 100).await.unwrap();
    let (rows, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|r| r.kind == ItemKind::Event);
    let read: Vec<_> =
        rows.iter().zip(events).map(|(r, (_, kind, release, user))| read(r, kind, release, user)).collect();
    errors.digest(&read, &others, &[]).await.unwrap();
    assert_eq!(errors.backlog().await.unwrap(), 0);
}

pub async fn issue(world: &World, number: i64) -> IssueRow {
    let which = format!("WEB-{number}").parse().unwrap();
    world.store.errors().issue(&Visible::All, &which).await.unwrap().unwrap()
}

pub async fn events_become_issues_and_are_counted_once(world: World) {
    let app = world.app("web").await;
    sent(
        &world,
        &app,
        &[(1, "A", "1", "ann"), (2, "A", "1", "bob"), (3, "B", "1", "ann"), (3, "B", "1", "ann")],
    )
    .await;
    sent(&world, &app, &[(1, "A", "1", "ann"), (4, "A", "2", "ann")]).await;
    let (a, b) = (issue(&world, 1).await, issue(&world, 2).await);
    assert_eq!((a.events, a.users, b.events, b.users), (3, 2, 1, 1));
    assert_eq!(a.first_release.as_deref(), Some("1"));
    let errors = world.store.errors();
    let event = errors.event(a.id, Some(&format!("{:032x}", 4))).await.unwrap().unwrap();
    assert_eq!(event.body, b"{\"a\":1}");
    assert_eq!(errors.releases_of(a.id).await.unwrap(), [("2".to_owned(), 1), ("1".to_owned(), 2)]);
    let releases = errors.releases(app.id, 10).await.unwrap();
    let stats = errors.release_stats(releases[1].id).await.unwrap();
    assert_eq!((releases[1].name.as_str(), stats.events, stats.issues, stats.users), ("1", 3, 2, 2));
    let counts = errors.counts(app.environment.id, berth_schemas::Timestamp(0)).await.unwrap();
    assert_eq!(
        counts,
        [("error".to_owned(), String::new(), 4), ("session".to_owned(), "invalid".to_owned(), 4)]
    );
    let stranger = Visible::Projects(vec![ProjectId(999)]);
    assert!(errors.issue(&stranger, &a.reference()).await.unwrap().is_none());
    let (found, total) = errors
        .issues(&Visible::All, Some(app.id), &IssueFilter::All(Vec::new()), IssueOrder::Events, (0, 1))
        .await
        .unwrap();
    assert_eq!((found[0].id, total), (a.id, 2));
}

pub async fn a_resolved_issue_comes_back_in_a_newer_release_only(world: World) {
    let app = world.app("web").await;
    let (errors, root) = (world.store.errors(), Principal::daemon());
    sent(&world, &app, &[(1, "A", "1", "ann")]).await;
    errors.resolve(&root, &issue(&world, 1).await, true).await.unwrap();
    sent(&world, &app, &[(2, "A", "1", "ann")]).await;
    assert_eq!(issue(&world, 1).await.state, IssueState::Resolved);
    sent(&world, &app, &[(3, "A", "2", "ann")]).await;
    let back = issue(&world, 1).await;
    assert_eq!((back.state, back.regressed), (IssueState::Open, true));
    errors.resolve(&root, &back, false).await.unwrap();
    sent(&world, &app, &[(4, "A", "1", "ann")]).await;
    assert_eq!(issue(&world, 1).await.state, IssueState::Resolved, "an older release proves nothing");
    sent(&world, &app, &[(5, "A", "2", "ann")]).await;
    assert_eq!(issue(&world, 1).await.state, IssueState::Open, "the same one does");
    errors
        .ignore(&root, &issue(&world, 1).await, Until { users: Some(1), ..Until::default() })
        .await
        .unwrap();
    sent(&world, &app, &[(6, "A", "2", "ann")]).await;
    assert_eq!(issue(&world, 1).await.state, IssueState::Ignored);
    sent(&world, &app, &[(7, "A", "2", "bob")]).await;
    assert_eq!(issue(&world, 1).await.state, IssueState::Open);
    let kinds = world
        .store
        .events()
        .list(&Visible::All, Some(&app.slug), Some("error."), None, None, 50)
        .await
        .unwrap();
    let regressed = kinds.iter().filter(|e| e.kind == "error.regressed").count();
    assert_eq!(regressed, 2, "{kinds:?}");
}

pub async fn merged_and_split_issues_stay_so(world: World) {
    let app = world.app("web").await;
    let (errors, root) = (world.store.errors(), Principal::daemon());
    sent(&world, &app, &[(1, "A", "1", "ann"), (2, "B", "1", "bob")]).await;
    errors.merge(&root, &issue(&world, 2).await, &issue(&world, 1).await).await.unwrap();
    sent(&world, &app, &[(3, "B", "1", "eve")]).await;
    let one = issue(&world, 1).await;
    assert_eq!((one.events, one.users), (3, 3));
    let hours: i64 =
        errors.hours(one.id, berth_schemas::Timestamp(0)).await.unwrap().iter().map(|h| h.events).sum();
    assert_eq!(hours, 3);
    assert_eq!(errors.releases_of(one.id).await.unwrap(), [("1".to_owned(), 3)]);
    let number = errors.split(&root, &one, "strict-B").await.unwrap();
    assert_eq!(number, 3, "a number is given once");
    sent(&world, &app, &[(4, "B", "1", "eve")]).await;
    let (one, three) = (issue(&world, 1).await, issue(&world, 3).await);
    assert_eq!((one.events, three.events, three.users), (1, 3, 2));
    assert_eq!(errors.releases_of(one.id).await.unwrap(), [("1".to_owned(), 1)]);
    assert_eq!(errors.releases_of(three.id).await.unwrap(), [("1".to_owned(), 3)]);
    errors.delete_issue(&root, &three).await.unwrap();
    sent(&world, &app, &[(5, "B", "1", "eve")]).await;
    assert_eq!(issue(&world, 4).await.events, 1);
}

pub async fn what_is_old_goes_and_its_counts_stay(world: World) {
    let app = world.app("web").await;
    let (errors, root) = (world.store.errors(), Principal::daemon());
    sent(&world, &app, &[(1, "A", "1", "ann"), (2, "A", "1", "ann"), (3, "A", "1", "bob")]).await;
    let age = Duration::from_secs(30 * 24 * 3600);
    errors.prune(ErrorsKept { age, events: 2 }).await.unwrap();
    let one = issue(&world, 1).await;
    assert_eq!(one.events, 3);
    assert_eq!(errors.events_of(one.id, None, None, 10).await.unwrap().len(), 2);
    let release = errors.releases(app.id, 1).await.unwrap()[0].id;
    assert_eq!(errors.release_stats(release).await.unwrap().users, 2);
    let bob = errors.event(one.id, Some(&format!("{:032x}", 3))).await.unwrap().unwrap();
    assert_eq!(errors.erase_events(app.id, &[bob.id]).await.unwrap(), 1);
    assert_eq!(errors.release_stats(release).await.unwrap().users, 1);
    // By rules of its own it keeps less, or more, than others.
    let rules = |days| ErrorRules { retention_days: Some(days), ..ErrorRules::default() };
    let left = async || errors.events_of(one.id, None, None, 10).await.unwrap().len();
    world.advance(3 * 24 * 3600);
    let configured = async || world.refresh(&app).await.configured_at;
    let before = configured().await;
    errors.set_settings(&root, app.id, &rules(4)).await.unwrap();
    assert_eq!(configured().await, before, "containers are not told of it");
    let untold = ErrorRules { inject_dsn: false, ..rules(4) };
    errors.set_settings(&root, app.id, &untold).await.unwrap();
    assert!(configured().await > before, "the same source is deployed again for it");
    errors.prune(ErrorsKept { age: Duration::ZERO, events: 1000 }).await.unwrap();
    assert_eq!(left().await, 1);
    errors.set_settings(&root, app.id, &rules(2)).await.unwrap();
    errors.prune(ErrorsKept { age, events: 1000 }).await.unwrap();
    assert_eq!(left().await, 0);
    errors.set_settings(&root, app.id, &ErrorRules::default()).await.unwrap();
    errors.prune(ErrorsKept { age: Duration::ZERO, events: 1000 }).await.unwrap();
    let now = world.store.clock().now();
    let which = "WEB-1".parse().unwrap();
    assert!(errors.issue(&Visible::All, &which).await.unwrap().is_none());
    // Files and the rest go by the app's own age, too, and with their issue.
    let more = |n, at| NewIntake {
        app: app.id,
        environment: app.environment.id,
        received_at: at,
        items: vec![item(n, ItemKind::Attachment, "x"), item(n, ItemKind::Transaction, "{}")],
        dropped: Vec::new(),
    };
    let old = berth_schemas::Timestamp(now.0 - 3 * 24 * 3600 * 1_000_000);
    errors.accept(&[more(50, old), more(51, now)]).await.unwrap();
    let rows = errors.waiting(None, 10).await.unwrap();
    errors.digest(&[], &rows, &[]).await.unwrap();
    errors.set_settings(&root, app.id, &rules(2)).await.unwrap();
    let (pruned, _) = errors.prune(ErrorsKept { age, events: 1000 }).await.unwrap();
    assert_eq!(pruned.rows, 2);
    let files = async |n: u32| errors.attachments(app.id, &format!("{n:032x}")).await.unwrap().len();
    assert_eq!((files(50).await, files(51).await), (0, 1));
    sent(&world, &app, &[(51, "C", "1", "ann")]).await;
    errors.delete_issue(&root, &issue(&world, 2).await).await.unwrap();
    assert_eq!(files(51).await, 0);
    // What an app sent before it went is not in the way.
    let request = NewIntake {
        app: app.id,
        environment: EnvironmentId(999),
        received_at: now,
        items: vec![item(9, ItemKind::Session, "{}")],
        dropped: Vec::new(),
    };
    errors.accept(&[request]).await.unwrap();
    let rows = errors.waiting(None, 10).await.unwrap();
    errors.digest(&[], &rows, &[]).await.unwrap();
    assert_eq!(errors.backlog().await.unwrap(), 0);
}

pub async fn the_intake_goes_on_where_it_was_read_to(mut world: World) {
    let app = world.app("web").await;
    let of = |n: u32, items| NewIntake {
        app: app.id,
        environment: app.environment.id,
        received_at: berth_schemas::Timestamp(START + i64::from(n)),
        items,
        dropped: Vec::new(),
    };
    let note = |n| vec![item(n, ItemKind::Attachment, "kept once")];
    let notes = async |store: &Store, n: u32| {
        store.errors().attachments(app.id, &format!("{n:032x}")).await.unwrap().len()
    };
    world.store.errors().accept(&[of(1, note(1)), of(2, note(2)), of(3, note(3))]).await.unwrap();
    let rows = world.store.errors().waiting(None, 2).await.unwrap();
    for _ in 0..2 {
        // The second time as after a commit whose answer was lost.
        world.store.errors().digest(&[], &rows, &[]).await.unwrap();
    }
    assert_eq!((notes(&world.store, 1).await, notes(&world.store, 2).await), (1, 1));
    world.reopen().await;
    let left = world.store.errors().waiting(None, 10).await.unwrap();
    assert_eq!(left.iter().map(|r| r.received_at.0 - START).collect::<Vec<_>>(), [3]);
    assert_eq!(world.store.errors().backlog().await.unwrap(), 1);
    world.store.errors().digest(&[], &left, &[]).await.unwrap();

    // The file is lost: what comes next has numbers that were not read yet.
    world.store.close().await;
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(world.dir.path().join(format!("intake.db{suffix}")));
    }
    world.reopen().await;
    world.store.errors().accept(&[of(4, note(4))]).await.unwrap();
    let rows = world.store.errors().waiting(None, 10).await.unwrap();
    world.store.errors().digest(&[], &rows, &[]).await.unwrap();
    assert_eq!(notes(&world.store, 4).await, 1);
}

pub async fn what_an_earlier_version_accepted_is_read(mut world: World) {
    let sql = match world.url {
        Some(_) => {
            "INSERT INTO error_intake (environment_id, app_id, received_at, kind, body)
             VALUES (1, 2, 3, 'session', CAST('abc' AS BYTEA))"
        }
        None => {
            "INSERT INTO error_intake (environment_id, app_id, received_at, kind, body)
             VALUES (1, 2, 3, 'session', CAST('abc' AS BLOB))"
        }
    };
    for _ in 0..30 {
        assert_eq!(world.tamper(sql).await, 1);
    }
    world.reopen().await;
    let rows = world.store.errors().waiting(None, 100).await.unwrap();
    assert_eq!(rows.len(), 30);
    let row = &rows[29];
    assert_eq!((row.environment.0, row.app.0, row.received_at.0, row.kind), (1, 2, 3, ItemKind::Session));
    assert_eq!((row.event_id.as_deref(), row.body.as_slice()), (None, b"abc".as_slice()));
    assert_eq!(world.tamper("DELETE FROM error_intake").await, 0, "they moved");
}

pub async fn what_is_ignored_opens_when_its_time_or_number_has_come(world: World) {
    let app = world.app("web").await;
    let (errors, root) = (world.store.errors(), Principal::daemon());
    let state = async || issue(&world, 1).await.state;
    let ignore = async |until| errors.ignore(&root, &issue(&world, 1).await, until).await.unwrap();
    sent(&world, &app, &[(1, "A", "1", "ann"), (2, "A", "1", "bob")]).await;
    // For two hours, counted from now.
    let now = world.store.clock().now();
    ignore(Until { time: Some(now.plus_seconds(7200)), ..Until::default() }).await;
    assert_eq!(issue(&world, 1).await.ends.until, Some(now.plus_seconds(7200)));
    world.advance(7100);
    sent(&world, &app, &[(3, "A", "1", "eve")]).await;
    assert_eq!(state().await, IssueState::Ignored, "however many come");
    world.advance(200);
    assert_eq!(state().await, IssueState::Ignored, "nobody has it any more");
    sent(&world, &app, &[(4, "A", "1", "ann")]).await;
    let open = issue(&world, 1).await;
    assert_eq!((open.state, open.regressed, open.ends.until), (IssueState::Open, false, None));
    // Until three more events, whatever time passes and whoever has them.
    ignore(Until { events: Some(3), ..Until::default() }).await;
    world.advance(30 * 24 * 3600);
    sent(&world, &app, &[(5, "A", "1", "fay"), (6, "A", "1", "gus")]).await;
    assert_eq!(state().await, IssueState::Ignored);
    sent(&world, &app, &[(7, "A", "1", "ann")]).await;
    assert_eq!(state().await, IssueState::Open);
    // Until two more users: those who had it before are none.
    ignore(Until { users: Some(2), ..Until::default() }).await;
    sent(&world, &app, &[(8, "A", "1", "ann"), (9, "A", "1", "bob"), (10, "A", "1", "hal")]).await;
    assert_eq!(state().await, IssueState::Ignored);
    sent(&world, &app, &[(11, "A", "1", "ida")]).await;
    assert_eq!(state().await, IssueState::Open);
    // Whichever comes first.
    let now = world.store.clock().now();
    let either = Until { time: Some(now.plus_seconds(3600)), events: Some(100), users: Some(100) };
    ignore(either).await;
    world.advance(3601);
    sent(&world, &app, &[(12, "A", "1", "ann")]).await;
    assert_eq!(state().await, IssueState::Open);
    // For ever.
    ignore(Until::default()).await;
    world.advance(365 * 24 * 3600);
    sent(&world, &app, &[(13, "A", "2", "joe")]).await;
    assert_eq!(state().await, IssueState::Ignored);
    let told = world
        .store
        .events()
        .list(&Visible::All, Some(&app.slug), Some("error."), None, None, 50)
        .await
        .unwrap();
    let by = |e: &&berth_schemas::event::Event| e.kind == "error.reopened" && e.by == "berth";
    assert_eq!(told.iter().filter(by).count(), 4, "{told:?}");
}

pub async fn a_release_is_known_by_the_environments_that_saw_it(world: World) {
    let app = world.app("web").await;
    let errors = world.store.errors();
    let begun = world.store.clock().now();
    sent(&world, &app, &[(1, "A", "1", "ann"), (2, "B", "1", "bob")]).await;
    world.advance(3600);
    let later = world.store.clock().now();
    sent(&world, &app, &[(3, "A", "2", "ann"), (4, "A", "1", "ann"), (5, "C", "2", "ann")]).await;
    errors.add_release(app.id, "3", None, false).await.unwrap();
    let known = errors.releases_placed(app.id, app.environment.id, 10).await.unwrap();
    let names: Vec<_> =
        known.iter().map(|k| (k.release.name.as_str(), k.here.is_some(), k.elsewhere)).collect();
    assert_eq!(names, [("3", false, false), ("2", true, false), ("1", true, false)]);
    let elsewhere = errors.releases_placed(app.id, EnvironmentId(999), 10).await.unwrap();
    assert_eq!(
        elsewhere.iter().map(|k| (k.here, k.elsewhere)).collect::<Vec<_>>(),
        [(None, false), (None, true), (None, true)]
    );
    let (two, one) = (&known[1], &known[2]);
    assert!(one.here.unwrap() >= begun && one.here.unwrap() < later && two.here.unwrap() >= later);
    let stretch =
        |release, from, to| Stretch { app: app.id, environment: app.environment.id, release, from, to };
    let end = world.store.clock().now();
    let shares = async |of: Stretch| {
        let shares = errors.shares(&of).await.unwrap();
        shares.into_iter().map(|s| (s.number, s.events, s.users)).collect::<Vec<_>>()
    };
    assert_eq!(shares(stretch(one.release.id, begun, later)).await, [(1, 1, 1), (2, 1, 1)]);
    assert_eq!(shares(stretch(one.release.id, later, end)).await, [(1, 1, 1)]);
    let two = stretch(two.release.id, begun, end);
    assert_eq!((shares(two).await.len(), errors.users_in(&two).await.unwrap()), (2, 1));
    assert_eq!(shares(Stretch { environment: EnvironmentId(999), ..two }).await, []);
    assert_eq!(errors.complete_since(app.id).await.unwrap(), None);
    let age = Duration::from_secs(24 * 3600);
    errors.prune(ErrorsKept { age, events: 2 }).await.unwrap();
    assert!(
        errors.complete_since(app.id).await.unwrap().unwrap() >= later,
        "what was before is not all there"
    );
    let requests = world.store.requests();
    assert_eq!(requests.oldest().await.unwrap(), None);
    let counts = requests.answers_between(app.id, app.environment.id, None, (begun, end)).await.unwrap();
    assert_eq!(counts.total, 0);
}

pub async fn maps_of_what_serves_stay(world: World) {
    let app = world.app("web").await;
    let errors = world.store.errors();
    let map = |release: &str| NewMap {
        app: app.id,
        debug_id: None,
        release: Some(release.into()),
        url: "~/a.js".into(),
        file: format!("file of {release}"),
        bytes: 1,
        deployed: true,
    };
    for n in 1..=3 {
        world.deploy(&app).await;
        errors.add_maps(&[map(&format!("web@{n}"))]).await.unwrap();
    }
    errors.add_maps(&[map("gone")]).await.unwrap();
    world.advance(100 * 24 * 3600);
    let age = Duration::from_secs(90 * 24 * 3600);
    let kept = MapsKept { age, releases: 100, events: age };
    assert_eq!(errors.prune_maps(kept).await.unwrap(), 1, "what may be rolled back to may be seen again");
    assert_eq!(world.tamper("UPDATE releases SET removed = 1").await, 3);
    assert_eq!(errors.prune_maps(kept).await.unwrap(), 2);
    assert_eq!(errors.map_files().await.unwrap().into_iter().collect::<Vec<_>>(), ["file of web@3"]);
    // Noted once a day, not at each look.
    errors.maps_used(&["file of web@3".into(), "another".into()]).await.unwrap();
    assert_eq!(world.tamper("UPDATE error_maps SET release_name = NULL WHERE used_at IS NOT NULL").await, 1);
}

pub async fn a_replaced_key_is_accepted_until_its_time_is_over(mut world: World) {
    let (app, other) = (world.app("web").await, world.app("api").await);
    let (environment, root) = (app.environment.id, Principal::daemon());
    let hour = Duration::from_secs(3600);
    let first = world.store.errors().keys(environment).await.unwrap();
    assert_eq!((first.current.number, first.current.ends_at, first.old.len()), (0, None, 0));
    assert!(first.current.key.len() == 32 && first.current.key.bytes().all(|b| b.is_ascii_hexdigit()));
    assert_ne!(first.current.key, world.store.errors().keys(other.environment.id).await.unwrap().current.key);

    let second = world.store.errors().rotate_key(&root, &app, hour * 2).await.unwrap();
    let old = &second.old[0];
    assert_eq!((&old.key, second.old.len()), (&first.current.key, 1));
    assert_ne!(second.current.key, first.current.key);
    let end = old.ends_at.unwrap();
    assert!(old.is_accepted(Timestamp(end.0 - 1)) && !old.is_accepted(end), "to the microsecond");
    assert!(second.current.is_accepted(end.plus_seconds(1_000_000)));
    assert!(
        world.refresh(&app).await.configured_at > app.configured_at,
        "the same source is to be deployed again"
    );
    let untouched = world.store.errors().keys(other.environment.id).await.unwrap();
    assert_eq!((untouched.current.number, untouched.old.len()), (0, 0));

    // Use is noted forwards only, and of what there is.
    let at = |seconds: i64| Timestamp(START).plus_seconds(seconds);
    let shown = [(environment, 0, at(60)), (environment, 0, at(30)), (environment, 99, at(30))];
    world.store.errors().keys_shown(&shown).await.unwrap();
    world.reopen().await;
    let errors = world.store.errors();
    let again = errors.keys(environment).await.unwrap();
    assert_eq!((&again.current, again.old[0].shown_at), (&second.current, Some(at(60))));

    // No key is accepted for longer than the one that is replaced last, and none gets a longer time back.
    let third = errors.rotate_key(&root, &app, hour * 9).await.unwrap();
    assert_eq!(third.old[1].ends_at, Some(end));
    let fourth = errors.rotate_key(&root, &app, Duration::ZERO).await.unwrap();
    let now = world.store.clock().now();
    assert_eq!(fourth.old.iter().filter(|key| key.is_accepted(now)).count(), 0);
    assert_eq!(fourth.old.iter().map(|key| key.number).collect::<Vec<_>>(), [2, 1, 0]);
    let mut all: Vec<_> = fourth.all().map(|key| key.key.clone()).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4, "none comes again");

    // What ended long ago is forgotten; its number is not given again.
    world.advance(31 * 24 * 3600);
    let fifth = errors.rotate_key(&root, &app, hour).await.unwrap();
    assert_eq!((fifth.current.number, fifth.old.len(), fifth.old[0].number), (4, 1, 3));
    let told = world
        .store
        .events()
        .list(&Visible::All, Some(&app.slug), Some("error.key"), None, None, 9)
        .await
        .unwrap();
    assert_eq!(told.len(), 4);
    assert!(told.iter().all(|event| all.iter().all(|key| !event.summary.0.contains(key.as_str()))));

    // An environment takes its keys along.
    world.store.apps().mark_deleting(&root, app.id).await.unwrap();
    world.store.apps().delete(app.id, "root").await.unwrap();
    assert!(errors.rotate_key(&root, &app, hour).await.is_err());
}
