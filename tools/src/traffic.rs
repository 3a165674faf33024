//! Traffic controls: what an app's visitors meet while it is worked on.

use berth_deploy::TrafficWish;
use berth_schemas::{
    Problem, Scope,
    traffic::{TrafficDetail, TrafficGet, TrafficMaintenance, TrafficMode, TrafficPause, TrafficResume},
};
use berth_store::model::AppRow;

use crate::{
    confirm::confirmed,
    find,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

/// Longest message of a maintenance page, in characters.
const MAX_MESSAGE: usize = 500;

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "traffic_get",
                title: "Show an app's traffic",
                description: "Show what an app's visitors meet (open, paused, maintenance; since when, by whom), how many requests wait, and a rollout that goes on with the answers counted on both sides.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/traffic",
            },
            get,
        ),
        Tool::new(
            Spec {
                name: "traffic_pause",
                title: "Hold an app's requests",
                description: "Let new requests of an app wait, as during a short migration: each waits up to hold_s seconds, then gets 503 with Retry-After. Open requests finish; deployments go on behind. End it with traffic_resume.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/traffic/pause",
            },
            pause,
        ),
        Tool::new(
            Spec {
                name: "traffic_resume",
                title: "Open an app's traffic again",
                description: "End a pause or maintenance: requests that wait go on, and visitors reach the live release again.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/traffic/resume",
            },
            resume,
        ),
        Tool::new(
            Spec {
                name: "traffic_maintenance",
                title: "Show a maintenance page",
                description: "Tell visitors of an app that it is back soon: a maintenance page (status 503) with your plain-text message, until traffic_resume. The app and deployments go on behind it. Wants confirm=<the app's name>.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/traffic/maintenance",
            },
            maintenance,
        ),
    ]
}

async fn get(call: Call, input: TrafficGet) -> Result<TrafficDetail, Problem> {
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    detail(&call, &app).await
}

async fn pause(call: Call, input: TrafficPause) -> Result<TrafficDetail, Problem> {
    let hold_s = input.hold_s.unwrap_or(30);
    if !(1..=300).contains(&hold_s) {
        let detail = format!("hold_s is {hold_s}; it must be from 1 to 300.");
        return Err(
            Problem::invalid("hold_s", detail).hint("For longer, show a page with traffic_maintenance.")
        );
    }
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    set(&call, &app, TrafficWish::Pause { hold_s }).await
}

async fn resume(call: Call, input: TrafficResume) -> Result<TrafficDetail, Problem> {
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    set(&call, &app, TrafficWish::Open).await
}

async fn maintenance(call: Call, input: TrafficMaintenance) -> Result<TrafficDetail, Problem> {
    let message = input.message.as_deref().map(str::trim).filter(|m| !m.is_empty());
    check_message(message)?;
    if input.retry_after_s.is_some_and(|s| !(1..=86_400).contains(&s)) {
        return Err(Problem::invalid("retry_after_s", "retry_after_s must be from 1 to 86400."));
    }
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let url = call.context.addresses.url_of(&app);
    let effect = format!("show all visitors of {url} a maintenance page until traffic_resume");
    confirmed("traffic_maintenance", app.slug.as_str(), input.confirm.as_deref(), &[effect])?;
    let wish =
        TrafficWish::Maintenance { message: message.map(str::to_owned), retry_after_s: input.retry_after_s };
    set(&call, &app, wish).await
}

fn check_message(message: Option<&str>) -> Result<(), Problem> {
    let Some(message) = message else { return Ok(()) };
    if message.chars().count() > MAX_MESSAGE {
        let detail = format!("message has more than {MAX_MESSAGE} characters.");
        return Err(Problem::invalid("message", detail));
    }
    if message.chars().any(|c| c.is_control() && c != '\n') {
        return Err(Problem::invalid("message", "message must be plain text without control characters."));
    }
    Ok(())
}

async fn set(call: &Call, app: &AppRow, wish: TrafficWish) -> Result<TrafficDetail, Problem> {
    let app = call.context.pipeline.set_traffic(&call.principal, app, wish).await?;
    detail(call, &app).await
}

async fn detail(call: &Call, app: &AppRow) -> Result<TrafficDetail, Problem> {
    let pipeline = &call.context.pipeline;
    let rollout = pipeline.rollout_shown(app).await?;
    let name = app.slug.as_str();
    let next = match (&app.environment.traffic, &rollout) {
        (TrafficMode::Open, _) if app.environment.stopped => {
            format!("It is stopped; app_start(app={name:?}) starts it.")
        }
        (TrafficMode::Open, Some(_)) => format!(
            "rollout_set(app={name:?}) changes the part of the release on trial; rollout_promote or rollout_abort ends it."
        ),
        (TrafficMode::Open, None) => "Nothing stands in the way.".into(),
        (TrafficMode::Paused { .. } | TrafficMode::Maintenance { .. }, _) => {
            format!("traffic_resume(app={name:?}) lets visitors in again.")
        }
    };
    Ok(TrafficDetail {
        app: app.slug.clone(),
        environment: app.environment.name.clone(),
        traffic: app.environment.traffic.clone(),
        stopped: app.environment.stopped,
        waiting: u64::try_from(pipeline.waiting(app)).unwrap_or(u64::MAX),
        rollout,
        next,
    })
}

impl Brief for TrafficDetail {
    fn brief(&self) -> Text {
        let mut text = Text::from(match &self.traffic {
            TrafficMode::Open => format!("{} is open to its visitors.", self.app),
            TrafficMode::Paused { hold_s, by, since } => format!(
                "{} is paused since {since} by {by}: requests wait up to {hold_s} s, {} wait now.",
                self.app, self.waiting
            ),
            TrafficMode::Maintenance { by, since, .. } => {
                format!("{} shows a maintenance page since {since}, by {by}.", self.app)
            }
        });
        if let TrafficMode::Maintenance { message: Some(message), .. } = &self.traffic {
            text = text.say(format!(" It says: {message}"));
        }
        text = text.say_if(self.stopped.then_some(" It is stopped."));
        if let Some(r) = &self.rollout {
            text = text.say(format!(
                "\n{} is rolled out to {} % of the visitors{}: {} answers, {} of them server errors; the live release {} and {}.",
                r.deployment,
                r.rule.percent,
                if r.promoting { " and being promoted" } else { "" },
                r.candidate.total,
                r.candidate.server_errors,
                r.live.total,
                r.live.server_errors
            ));
        }
        text.say(format!("\nNext: {}", self.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_plain_and_short() {
        assert!(check_message(None).is_ok());
        assert!(check_message(Some("Back at noon.\nSorry <b>")).is_ok());
        assert!(check_message(Some(&"ä".repeat(500))).is_ok());
        assert_eq!(check_message(Some(&"ä".repeat(501))).unwrap_err().field.as_deref(), Some("message"));
        assert!(check_message(Some("a\u{1b}[2J")).is_err());
    }
}
