//! Stories about what one person left behind, and about what belongs to events.

use berth_schemas::{
    Timestamp,
    issue::{GroupingReason, TelemetryKind},
};
use berth_store::{
    ErrorEventRow, FeedbackRow, IssueTitle, LookedTo, PersonNames, TelemetryQuery, TelemetryRow,
};

use super::errors::{issue, item, sent};
use crate::support::*;

/// Accepts items and files them.
async fn kept(world: &World, app: &AppRow, items: Vec<PackedItem>) {
    let errors = world.store.errors();
    let request = NewIntake {
        app: app.id,
        environment: app.environment.id,
        received_at: world.store.clock().now(),
        items,
        dropped: Vec::new(),
    };
    errors.accept(&[request]).await.unwrap();
    let rows = errors.waiting(None, 100).await.unwrap();
    errors.digest(&[], &rows, &[]).await.unwrap();
    assert_eq!(errors.digested_to(), errors.newest_accepted().await.unwrap().max(errors.digested_to()));
}

fn file(n: u32, name: &str, body: &[u8]) -> PackedItem {
    let (event_id, name) = (Some(format!("{n:032x}")), Some(name.to_owned()));
    ErrorItem { kind: ItemKind::Attachment, event_id, name, body: body.to_vec() }.pack().unwrap()
}

async fn row(world: &World, issue: i64, n: u32) -> i64 {
    let event = world.store.errors().event(issue, Some(&format!("{n:032x}"))).await.unwrap();
    event.unwrap().id
}

async fn all_feedback(world: &World, app: &AppRow) -> Vec<FeedbackRow> {
    world.store.errors().all_feedback(&Visible::All, Some(app.id), None, None, 100).await.unwrap()
}

pub async fn what_is_erased_leaves_no_count(world: World) {
    let (app, other) = (world.app("web").await, world.app("api").await);
    let errors = world.store.errors();
    let events = [(1, "A", "1", "ann"), (2, "A", "1", "ann"), (3, "A", "1", "bob"), (4, "B", "1", "ann")];
    sent(&world, &app, &events).await;
    let about = |n: u32| format!("{{\"event_id\":\"{n:032x}\",\"comments\":\"oh\"}}");
    let report = item(1, ItemKind::UserReport, &about(1));
    kept(&world, &app, vec![file(1, "a.txt", b"x"), file(3, "b.txt", b"x"), report]).await;
    let (one, two) = (issue(&world, 1).await, issue(&world, 2).await);
    assert_eq!((one.events, one.users, errors.feedback_count(&one).await.unwrap()), (3, 2, 1));
    let (first, second) = (row(&world, one.id, 1).await, row(&world, one.id, 2).await);
    // Another app's call does not reach it, and what is gone is gone once.
    assert_eq!(errors.erase_events(other.id, &[first]).await.unwrap(), 0);
    assert_eq!(errors.erase_events(app.id, &[first, first]).await.unwrap(), 1);
    let left = issue(&world, 1).await;
    assert_eq!((left.events, left.users), (2, 2), "another event of the same user is there");
    let files = async |n: u32| errors.attachments(app.id, &format!("{n:032x}")).await.unwrap().len();
    assert_eq!((files(1).await, files(3).await, all_feedback(&world, &app).await.len()), (0, 1, 0));
    let gone = [second, row(&world, two.id, 4).await];
    assert_eq!(errors.erase_events(app.id, &gone).await.unwrap(), 2);
    let left = issue(&world, 1).await;
    assert_eq!((left.events, left.users), (1, 1));
    let hours: i64 = errors.hours(one.id, Timestamp(0)).await.unwrap().iter().map(|h| h.events).sum();
    assert_eq!((hours, errors.releases_of(one.id).await.unwrap()), (1, vec![("1".to_owned(), 1)]));
    let release = errors.releases(app.id, 1).await.unwrap()[0].id;
    assert_eq!(errors.release_stats(release).await.unwrap().users, 1);
    let which = "WEB-2".parse().unwrap();
    assert!(errors.issue(&Visible::All, &which).await.unwrap().is_none(), "nothing of it was anybody else's");
}

pub async fn a_name_goes_from_counts_and_feedback(world: World) {
    let app = world.app("web").await;
    let errors = world.store.errors();
    sent(&world, &app, &[(1, "A", "1", "ann"), (2, "A", "1", "bob")]).await;
    let one = issue(&world, 1).await;
    // Only counts are left of what is old.
    world.tamper("DELETE FROM error_events").await;
    let said = |n: u32, email: &str| {
        let feedback = serde_json::json!({ "event_id": format!("{n:032x}"),
            "contexts": { "feedback": { "message": "broken", "contact_email": email, "url": "https://shop.example/" } } });
        item(n, ItemKind::Feedback, &feedback.to_string())
    };
    let items = vec![
        said(5, "Ann@Shop.example"),
        said(6, "bob@shop.example"),
        file(5, "shot.png", b"\x89PNG\r\n\x1a\n"),
    ];
    kept(&world, &app, items).await;
    let all = all_feedback(&world, &app).await;
    assert_eq!(
        all.iter().map(|f| f.email.as_deref().unwrap()).collect::<Vec<_>>(),
        ["bob@shop.example", "Ann@Shop.example"]
    );
    assert_eq!((all[1].event_id.clone(), all[1].url.as_deref()), (None, Some("https://shop.example/")));
    let shot = errors.attachments(app.id, all[1].own_id.as_ref().unwrap()).await.unwrap();
    assert_eq!(shot[0].media_type, "image/png");
    let environment = app.environment.id;
    let listed = async |environment| {
        errors.all_feedback(&Visible::All, Some(app.id), Some(environment), None, 9).await.unwrap().len()
    };
    assert_eq!((listed(environment).await, listed(EnvironmentId(999)).await), (2, 0));
    let stranger = Visible::Projects(vec![ProjectId(999)]);
    assert!(errors.all_feedback(&stranger, None, None, None, 9).await.unwrap().is_empty());
    let person = |said: &str| PersonNames { said: said.into() };
    assert_eq!(errors.feedback_of(app.id, &person("ann@shop.example")).await.unwrap(), 1);
    assert_eq!(errors.erase_names("root", app.id, &person("ann@shop.example"), 0).await.unwrap(), 1);
    assert!(errors.attachment(app.id, shot[0].id).await.unwrap().is_none());
    errors.erase_names("root", app.id, &person("ann"), 0).await.unwrap();
    let release = errors.releases(app.id, 1).await.unwrap()[0].id;
    let users = errors.release_stats(release).await.unwrap().users;
    assert_eq!(
        (
            users,
            errors
                .issues(&Visible::All, Some(app.id), &IssueFilter::All(Vec::new()), IssueOrder::Users, (0, 9))
                .await
                .unwrap()
                .0[0]
                .users
        ),
        (1, 1)
    );
    assert_eq!(one.users, 2);
    let bob = all_feedback(&world, &app).await.remove(0);
    errors.delete_feedback(&Principal::daemon(), &bob).await.unwrap();
    assert!(errors.delete_feedback(&Principal::daemon(), &bob).await.is_err());
    assert!(errors.feedback_by_id(app.id, bob.id).await.unwrap().is_none());
}

pub async fn rows_are_looked_through_once_each(world: World) {
    let app = world.app("web").await;
    let errors = world.store.errors();
    let users = ["ann"; 5];
    let events: Vec<_> = users.iter().enumerate().map(|(n, user)| (n as u32 + 1, "A", "1", *user)).collect();
    sent(&world, &app, &events).await;
    let items = (10..15).map(|n| item(n, ItemKind::Session, "{\"did\":\"ann\"}"));
    let raw = item(20, ItemKind::ReplayRecording, "not json");
    let lead = item(20, ItemKind::ReplayEvent, "{\"user\":{\"id\":\"ann\"}}");
    kept(&world, &app, items.chain([raw, lead]).collect()).await;
    let (mut to, mut seen) = (LookedTo::NOTHING, Vec::new());
    loop {
        let rows = errors.look_through(app.id, to, 2).await.unwrap();
        let Some(last) = rows.last() else { break };
        to = LookedTo(last.at, last.id);
        seen.extend(rows.iter().map(|row| row.id));
    }
    let mut once = seen.clone();
    once.dedup();
    assert_eq!((seen.len(), once), (5, seen));
    let (mut to, mut beside): (_, Vec<TelemetryRow>) = (LookedTo::NOTHING, Vec::new());
    loop {
        let rows = errors.look_beside(app.id, to, 3).await.unwrap();
        let Some(last) = rows.last() else { break };
        to = LookedTo(last.at, last.id);
        beside.extend(rows);
    }
    assert_eq!(beside.len(), 7);
    assert_eq!(beside.iter().filter(|row| row.body.is_none()).count(), 1, "what is no JSON is not read");
    // The recording goes with the event that leads its envelope; of another a part stays.
    let lead = beside.iter().find(|row| row.kind == ItemKind::ReplayEvent).unwrap().clone();
    let part = (beside[0].id, b"{}".to_vec());
    errors.erase_beside(app.id, &[lead], &[part]).await.unwrap();
    let left = errors.look_beside(app.id, LookedTo::NOTHING, 99).await.unwrap();
    assert!(left.iter().all(|row| row.kind == ItemKind::Session));
    assert_eq!((left.len(), left[0].body.as_deref()), (5, Some(&b"{}"[..])));
    let named = errors.events_named(app.id, &[format!("{:032x}", 2), format!("{:032x}", 99)]).await.unwrap();
    assert_eq!(named.len(), 1);
}

pub async fn what_came_beside_events_is_listed(world: World) {
    let (app, other) = (world.app("web").await, world.app("api").await);
    let errors = world.store.errors();
    let logs = |n: u32| item(n, ItemKind::Logs, &format!("{{\"body\":{n}}}"));
    kept(&world, &app, vec![logs(1), item(2, ItemKind::Session, "{}"), logs(3)]).await;
    kept(&world, &other, vec![logs(4)]).await;
    world.advance(60);
    let later = world.store.clock().now();
    kept(&world, &app, vec![logs(5), item(6, ItemKind::ReplayRecording, "not json")]).await;
    let all = TelemetryQuery {
        app: app.id,
        environment: None,
        kind: TelemetryKind::Logs,
        since: None,
        until: None,
        before: None,
        limit: 9,
    };
    let listed = async |query: TelemetryQuery| -> Vec<String> {
        let found = errors.list_telemetry(&query).await.unwrap();
        assert!(found.iter().all(|found| found.bytes > 0 && found.environment.as_str() == "production"));
        found
            .into_iter()
            .map(|found| String::from_utf8(found.row.body.unwrap_or_default()).unwrap())
            .collect()
    };
    assert_eq!(
        listed(all).await,
        ["{\"body\":5}", "{\"body\":3}", "{\"body\":1}"],
        "the newest first, and no other app's"
    );
    assert_eq!(listed(TelemetryQuery { since: Some(later), ..all }).await.len(), 1);
    assert_eq!(listed(TelemetryQuery { until: Some(later), ..all }).await.len(), 2);
    let first = errors.list_telemetry(&TelemetryQuery { limit: 1, ..all }).await.unwrap();
    let rest = TelemetryQuery { before: Some(first[0].row.id), ..all };
    assert_eq!(listed(rest).await, ["{\"body\":3}", "{\"body\":1}"]);
    assert_eq!(listed(TelemetryQuery { environment: Some(app.environment.id), ..all }).await.len(), 3);
    assert!(listed(TelemetryQuery { environment: Some(other.environment.id), ..all }).await.is_empty());
    let raw =
        errors.list_telemetry(&TelemetryQuery { kind: TelemetryKind::ReplayRecording, ..all }).await.unwrap();
    assert_eq!((raw.len(), &raw[0].row.body), (1, &None), "of what is no JSON only the size is told");
}

pub async fn a_release_tells_its_commits(world: World) {
    let app = world.app("web").await;
    let errors = world.store.errors();
    assert!(errors.release_commits(app.id, "1.0").await.unwrap().is_empty());
    let commits = "[{\"id\":\"abc\",\"author\":null,\"message\":\"Mend the cart\\n\\nmore\",\"at\":null},{\"id\":null}]";
    errors.add_release(app.id, "1.0", Some(commits), false).await.unwrap();
    errors.add_release(app.id, "1.0", None, true).await.unwrap();
    let told = errors.release_commits(app.id, "1.0").await.unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].id.0.as_str(), told[0].message.as_ref().unwrap().0.as_str()),
        ("abc", "Mend the cart")
    );
}

pub async fn a_job_forgets_whom_it_forgot(world: World) {
    use berth_schemas::job::{JobKind, JobState};
    let (app, jobs) = (world.app("web").await, world.store.jobs());
    let input = serde_json::json!({ "user": "ann@shop.example" });
    let job = jobs.enqueue(JobKind::EraseUser, Some(app.id), None, input.clone(), "root").await.unwrap();
    let begun = jobs.transition(&job.id, JobState::Queued, JobState::Running, None, None).await.unwrap();
    assert_eq!(begun.input, input);
    let done = jobs.transition(&job.id, JobState::Running, JobState::Succeeded, None, None).await.unwrap();
    assert!(done.input.is_null(), "{:?}", done.input);
}

/// What an issue is called.
async fn called(world: &World, number: i64) -> (String, String, Option<String>, usize) {
    let issue = issue(world, number).await;
    (issue.kind, issue.value, issue.culprit, issue.reasons.len())
}

pub async fn a_title_goes_with_the_event_that_it_may_be_of(world: World) {
    let app = world.app("web").await;
    let (errors, root) = (world.store.errors(), Principal::daemon());
    let deleted = || ("(deleted)".to_owned(), String::new(), None, 0);
    let reasons = [GroupingReason { by: "message".into(), value: "kept".into() }];
    let kept = IssueTitle { kind: "Kept", value: "by another", culprit: Some("in a.py"), reasons: &reasons };
    let named = || ("Kept".to_owned(), "by another".to_owned(), Some("in a.py".to_owned()), 1);
    sent(&world, &app, &[(1, "A", "1", "ann"), (2, "A", "1", "bob"), (3, "B", "1", "bob")]).await;
    let (one, other) = (issue(&world, 1).await, issue(&world, 2).await);
    assert!(errors.untitled(app.id).await.unwrap().is_empty());
    errors.erase_events(app.id, &[row(&world, one.id, 1).await]).await.unwrap();
    assert_eq!(called(&world, 1).await, deleted());
    assert_eq!(called(&world, 2).await.0, "B", "nothing of it went");

    // The newest event that is left names it again; none of another issue, and none that went meanwhile.
    let left = errors.untitled(app.id).await.unwrap();
    assert_eq!(
        left.iter().map(|e| (e.issue_id, &e.event_id)).collect::<Vec<_>>(),
        [(one.id, &format!("{:032x}", 2))]
    );
    let stranger = ErrorEventRow { id: row(&world, other.id, 3).await, ..left[0].clone() };
    errors.entitle(&stranger, &kept).await.unwrap();
    assert_eq!(called(&world, 1).await, deleted());
    errors.entitle(&left[0], &kept).await.unwrap();
    assert_eq!(called(&world, 1).await, named());
    let late = IssueTitle { kind: "Late", ..kept };
    errors.entitle(&left[0], &late).await.unwrap();
    assert_eq!(called(&world, 1).await, named(), "it has a title by now");
    assert!(errors.untitled(app.id).await.unwrap().is_empty());

    // Where only counts are left, nothing names it until it happens again.
    world.tamper("DELETE FROM error_events").await;
    errors.erase_names("root", app.id, &PersonNames { said: "bob".into() }, 0).await.unwrap();
    assert_eq!((called(&world, 1).await, called(&world, 2).await), (deleted(), deleted()));
    assert!(errors.untitled(app.id).await.unwrap().is_empty());
    sent(&world, &app, &[(4, "A", "1", "eve"), (5, "A", "1", "eve")]).await;
    assert_eq!(called(&world, 1).await.0, "A");

    // An issue that was split off has the same title, and that may be of an event that the first one kept.
    sent(&world, &app, &[(6, "C", "1", "eve")]).await;
    errors.merge(&root, &issue(&world, 3).await, &issue(&world, 1).await).await.unwrap();
    let number = errors.split(&root, &issue(&world, 1).await, "strict-C").await.unwrap();
    assert_eq!(called(&world, number).await, called(&world, 1).await);
    errors.erase_events(app.id, &[row(&world, one.id, 4).await]).await.unwrap();
    assert_eq!((called(&world, 1).await, called(&world, number).await), (deleted(), deleted()));
    assert_eq!(errors.untitled(app.id).await.unwrap().len(), 2);
}
