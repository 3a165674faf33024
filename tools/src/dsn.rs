//! An app's way in for errors: its DSN, what came by it, and a new key for it.

use std::{collections::BTreeMap, time::Duration};

use berth_deploy::ToldKey;
use berth_observe::errors::accept::counted_as;
use berth_schemas::{
    Code, Problem, Scope, Timestamp,
    issue::{Dropped, Dsn, DsnGet, DsnRotate, DsnRotated, ErrorRules, Kept, OldKey, TelemetryKind},
};
use berth_store::{
    DsnKeys,
    model::{AppRow, EnvironmentId},
};

use crate::{
    confirm::confirmed,
    errors::time,
    find,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

/// Seconds of a day.
const DAY: i64 = 24 * 3600;
/// Seconds of an hour.
const HOUR: u32 = 3600;
/// Hours for which a key that was replaced is accepted, if nobody says otherwise: a week.
const GRACE_HOURS: u32 = 168;
/// The most of them: a year, as programs on people's own devices live long.
const MAX_GRACE_HOURS: u32 = 8760;
/// Keys that are accepted at the same time: each is compared with what comes.
const MAX_KEYS: usize = 10;

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "dsn_get",
                title: "Show an app's Sentry DSN",
                description: "Show the DSN by which any unmodified Sentry SDK sends an app's errors to Berth, the tunnel path for browsers, how many events and other items came and were dropped in the last 24 hours, and old keys with their last use. Deployments get it as SENTRY_DSN by themselves.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/dsn",
            },
            get,
        ),
        Tool::new(
            Spec {
                name: "dsn_rotate",
                title: "Give an app's DSN a new key",
                description: "Make a new key for the DSN by which an app sends its errors, e.g. because the old one leaked. The next deployment gets it as SENTRY_DSN. Older keys are accepted for grace_hours more (a week; 0: not at all, which loses errors of what still runs with one, and wants confirm=<the app's name>). dsn_get shows who still uses one.",
                hints: Hints { idempotent: false, ..Hints::DESTROY },
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/dsn/rotate",
            },
            rotate,
        ),
    ]
}

async fn get(call: Call, input: DsnGet) -> Result<Dsn, Problem> {
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    let store = &call.context.store;
    let rules: ErrorRules = store.errors().settings(app.id).await?.unwrap_or_default();
    let now = time(&call);
    let counts = store.errors().counts(app.environment.id, now.plus_seconds(-DAY)).await?;
    let accepted = counts.iter().filter(|(category, reason, _)| category == "error" && reason.is_empty());
    let accepted_24h = accepted.map(|(_, _, count)| count).sum();
    let others = counts.iter().filter(|(category, reason, _)| category != "error" && reason.is_empty());
    let kept_24h = others
        .map(|(kind, _, count)| Kept {
            kind: kind.clone(),
            count: *count,
            shown_by: shown_by(kind).map(str::to_owned),
        })
        .collect();
    let mut dropped = BTreeMap::new();
    for (category, reason, count) in counts.iter().filter(|(_, reason, _)| !reason.is_empty()) {
        *dropped.entry(counted_as(category, reason)).or_insert(0) += count;
    }
    let dropped_24h = dropped
        .into_iter()
        .map(|((category, reason), count)| Dropped { category: category.to_owned(), reason, count })
        .collect();
    let keys = store.errors().keys(app.environment.id).await?;
    let injected = call.context.pipeline.injects_dsn(&rules);
    let old_keys = old_keys(&call, app.environment.id, &keys, now);
    let old_key_in = told_another(&call, &app, &keys).await?;
    let next = match (&old_key_in, accepted_24h) {
        (Some(told), _) => with_old_key(told, &app, injected),
        (None, 0) if injected => "Give it to the SDK (Sentry.init({ dsn })), or deploy: containers get it as SENTRY_DSN when they start (a build does not). Then error_search shows what comes.".to_owned(),
        (None, 0) if rules.inject_dsn => "Give it to the SDK (Sentry.init({ dsn })); containers get it as SENTRY_DSN only when public_url is set, as they would not reach this address. Then error_search shows what comes.".to_owned(),
        (None, 0) => "Give it to the SDK (Sentry.init({ dsn })). Then error_search shows what comes.".to_owned(),
        (None, _) => format!("error_search(app={:?}) shows what came.", app.slug.as_str()),
    };
    let old_key_in = old_key_in.map(|told| told.deployment);
    let (dsn, tunnel) = (dsn(&call, &app, &keys), berth_deploy::TUNNEL_PATH.to_owned());
    Ok(Dsn { dsn, tunnel, injected, old_keys, old_key_in, accepted_24h, kept_24h, dropped_24h, next })
}

async fn rotate(call: Call, input: DsnRotate) -> Result<DsnRotated, Problem> {
    let hours = input.grace_hours.unwrap_or(GRACE_HOURS);
    if hours > MAX_GRACE_HOURS {
        let detail = format!("grace_hours must be from 0 to {MAX_GRACE_HOURS}.");
        return Err(Problem::invalid("grace_hours", detail));
    }
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let (errors, now) = (call.context.store.errors(), time(&call));
    let rules: ErrorRules = errors.settings(app.id).await?.unwrap_or_default();
    let injected = call.context.pipeline.injects_dsn(&rules);
    let keys = errors.keys(app.environment.id).await?;
    if hours > 0 && keys.all().filter(|key| key.is_accepted(now)).count() >= MAX_KEYS {
        let detail = format!("{} has {MAX_KEYS} keys that are accepted, which is the limit.", app.title());
        return Err(Problem::new(Code::Conflict, detail)
            .hint("dsn_get shows until when each is; grace_hours=0 ends all but the new one."));
    }
    let grace = hours * HOUR;
    if input.dry_run {
        let old_key_in = call.context.pipeline.key_told(&app).await?.map(|told| told.deployment);
        let then = match hours {
            0 => "what is sent with it would be refused at once".to_owned(),
            _ => format!("it would be accepted for {hours} hours more"),
        };
        let next = format!("Dry run. A new key would take the place of this one; {then}.");
        let old_keys_until = now.plus_seconds(grace.into());
        return Ok(DsnRotated {
            rotated: false,
            dsn: dsn(&call, &app, &keys),
            old_keys_until,
            old_key_in,
            next,
        });
    }
    if hours == 0 {
        let effect = format!(
            "refuse at once what is sent with the present key of {}: what runs with it, and pages that are open, lose their errors until they have the new one",
            app.title()
        );
        confirmed("dsn_rotate", app.slug.as_str(), input.confirm.as_deref(), &[effect])?;
    }
    let keys = errors.rotate_key(&call.principal, &app, Duration::from_secs(grace.into())).await?;
    call.context.ingest.forget();
    let old_key_in = told_another(&call, &app, &keys).await?;
    let next = match &old_key_in {
        Some(told) => with_old_key(told, &app, injected),
        None if injected => "The next deployment gets it as SENTRY_DSN. Put it wherever else the old one stands; dsn_get shows when that was last used.".to_owned(),
        None => "Put it wherever the old one stands; dsn_get shows when that was last used.".to_owned(),
    };
    let old_key_in = old_key_in.map(|told| told.deployment);
    let old_keys_until = keys.old.first().and_then(|key| key.ends_at).unwrap_or(now);
    Ok(DsnRotated { rotated: true, dsn: dsn(&call, &app, &keys), old_keys_until, old_key_in, next })
}

fn dsn(call: &Call, app: &AppRow, keys: &DsnKeys) -> String {
    berth_deploy::dsn(&call.context.control_url, &keys.current.key, app.environment.id)
}

fn old_keys(call: &Call, environment: EnvironmentId, keys: &DsnKeys, now: Timestamp) -> Vec<OldKey> {
    let shown = |key: &berth_store::DsnKey| OldKey {
        key: key.key.clone(),
        until: key.ends_at.unwrap_or(now),
        accepted: key.is_accepted(now),
        // What is not written yet is newer.
        last_used_at: call.context.ingest.shown_at(environment, key.number).or(key.shown_at),
    };
    keys.old.iter().map(shown).collect()
}

/// What the live deployment's containers were told, if it is another key of the environment than the one that counts.
async fn told_another(call: &Call, app: &AppRow, keys: &DsnKeys) -> Result<Option<ToldKey>, Problem> {
    let told = call.context.pipeline.key_told(app).await?;
    Ok(told.filter(|told| told.key.as_str() != keys.current.key))
}

/// What helps a deployment that sends with an old key.
fn with_old_key(told: &ToldKey, app: &AppRow, injected: bool) -> String {
    let (deployment, name) = (&told.deployment, app.slug.as_str());
    let what = match injected && !told.by_variable {
        true => format!("app_restart(app={name:?}) gives it the new one"),
        false => format!("set SENTRY_DSN to the new DSN with variable_set(app={name:?}), then app_restart"),
    };
    format!("{deployment} still sends with an old key: {what}.")
}

/// The tool that shows what clients send besides errors.
fn shown_by(kind: &str) -> Option<&'static str> {
    match kind {
        "attachment" => Some("error_event_get"),
        "feedback" => Some("error_get"),
        "session" => Some("error_release_compare"),
        kind => TelemetryKind::parse(kind).map(|_| "telemetry_list"),
    }
}

impl Brief for Dsn {
    fn brief(&self) -> Text {
        let dropped: i64 = self.dropped_24h.iter().map(|d| d.count).sum();
        let kept: Vec<String> = self.kept_24h.iter().map(|k| format!("{} {}", k.count, k.kind)).collect();
        let kept = if kept.is_empty() { String::new() } else { format!(" (and {})", kept.join(", ")) };
        let old: String = self.old_keys.iter().map(|key| format!("\n{}", story(key))).collect();
        format!(
            "DSN: {}\nTunnel for browsers: {}{old}\n{} events{kept} came in the last 24 hours, {dropped} things were dropped. {}",
            self.dsn, self.tunnel, self.accepted_24h, self.next
        )
        .into()
    }
}

/// An old key in a line.
fn story(key: &OldKey) -> String {
    let state = if key.accepted { "accepted until" } else { "refused since" };
    let used = key.last_used_at.map_or_else(|| "not used since".to_owned(), |at| format!("last used {at}"));
    format!("Old key {}: {state} {}, {used}.", key.key, key.until)
}

impl Brief for DsnRotated {
    fn brief(&self) -> Text {
        match self.rotated {
            true => format!(
                "DSN: {}\nOlder keys are accepted until {}. {}",
                self.dsn, self.old_keys_until, self.next
            )
            .into(),
            false => format!("DSN: {}\n{}", self.dsn, self.next).into(),
        }
    }
}
