//! What clients send besides errors, as it was kept: logs, transactions, check-ins and the like.

use berth_observe::errors::telemetry::summary;
use berth_schemas::{
    Problem, Untrusted,
    issue::{TelemetryItem, TelemetryKind, TelemetryList, TelemetryPage},
};
use berth_store::{TelemetryFound, TelemetryQuery};
use serde_json::Value;

use crate::{
    errors::time,
    find, logs, page,
    registry::{Brief, Call, Spec, Tool},
    text::Text,
};

/// Characters of an item as it is kept, in an answer.
const MAX_RAW: usize = 20_000;

pub(crate) fn tools() -> Vec<Tool> {
    vec![Tool::new(
        Spec::extended_read(
            "telemetry_list",
            "List what SDKs sent besides errors",
            "List what an app's Sentry SDKs sent besides errors, newest first, as it was kept: log records, transactions, spans, metrics, check-ins of scheduled tasks, sessions, replays. Each in a line; raw=true adds all of it, secrets filtered. What the app prints is in log_search.",
            "/v1/apps/{app}/telemetry",
        ),
        list,
    )]
}

async fn list(call: Call, input: TelemetryList) -> Result<TelemetryPage, Problem> {
    let limit = page::limit(input.limit, 20, 100)?;
    let before = page::number_cursor(input.cursor.as_deref())?;
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    let now = time(&call);
    let query = TelemetryQuery {
        app: app.id,
        environment: input.environment.is_some().then_some(app.environment.id),
        kind: input.kind,
        since: logs::point("since", input.since.as_deref(), now)?,
        until: logs::point("until", input.until.as_deref(), now)?,
        before,
        limit,
    };
    let found = call.context.store.errors().list_telemetry(&query).await?;
    let mut items: Vec<TelemetryItem> = found.iter().map(|row| shown(row, input.kind, input.raw)).collect();
    let more = page::cut(&mut items, limit, call.budget, input.limit.is_some());
    let next_cursor = items.last().map(|item| item.item.to_string()).filter(|_| more);
    Ok(TelemetryPage { items, next_cursor })
}

fn shown(found: &TelemetryFound, kind: TelemetryKind, raw: bool) -> TelemetryItem {
    let row = &found.row;
    let body: Option<Value> = row.body.as_deref().and_then(|body| serde_json::from_slice(body).ok());
    let text = |body: &Value| Untrusted(body.to_string().chars().take(MAX_RAW).collect());
    TelemetryItem {
        item: row.id,
        at: row.at,
        environment: found.environment.clone(),
        summary: Untrusted::maybe(body.as_ref().and_then(|body| summary(kind, body))),
        event: row.event_id.clone(),
        bytes: found.bytes,
        raw: body.as_ref().filter(|_| raw).map(text),
    }
}

/// An item for a reader who sees nothing else.
fn line(item: &TelemetryItem) -> String {
    let of = |text: &Option<Untrusted>| text.as_ref().map(|text| text.0.clone());
    let said = of(&item.summary).unwrap_or_else(|| format!("{} bytes", item.bytes));
    let raw = of(&item.raw).map(|raw| format!("\n{raw}")).unwrap_or_default();
    format!("{} {} {}: {said}{raw}", item.item, item.at, item.environment)
}

impl Brief for TelemetryPage {
    fn brief(&self) -> Text {
        if self.items.is_empty() {
            return "Nothing of this kind. dsn_get counts what came, and what was dropped and why.".into();
        }
        let text = Text::new().quote_lines(self.items.iter().map(|item| line(item).into()));
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}
