//! The event log: what happened.

use berth_schemas::{
    Problem, Scope, Timestamp,
    event::{Event, EventList, EventPage},
};

use crate::{
    find, logs, page,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![Tool::new(
        Spec {
            name: "event_list",
            title: "Show what happened",
            description: "Show the event log, newest first: deployments, settings and variables changed, containers that died, tokens made, secrets revealed, and who did it. Filter by app, kind or time.",
            hints: Hints::READ,
            scope: Scope::Read,
            tier: Tier::Extended,
            method: Method::Get,
            path: "/v1/events",
        },
        list,
    )]
}

async fn list(call: Call, input: EventList) -> Result<EventPage, Problem> {
    let limit = page::limit(input.limit, 30, 200)?;
    let before = page::number_cursor(input.cursor.as_deref())?;
    let since = logs::point("since", input.since.as_deref(), Timestamp::now())?;
    let kind = input.kind.as_deref().filter(|k| !k.is_empty());
    let store = &call.context.store;
    let mut events =
        store.events().list(&call.principal.visible, input.app.as_ref(), kind, since, before, limit).await?;
    if let (Some(app), true, None) = (&input.app, events.is_empty(), before) {
        // Nothing happened to it, or there is no such app: the second deserves candidates.
        find::app(&call, app).await?;
    }
    let more = page::cut(&mut events, limit, call.budget, input.limit.is_some());
    let next_cursor = events.last().filter(|_| more).map(|e| e.id.to_string());
    Ok(EventPage { events, next_cursor })
}

impl Brief for EventPage {
    fn brief(&self) -> Text {
        if self.events.is_empty() {
            return "Nothing of that kind happened.".into();
        }
        let line = |e: &Event| format!("{} {} by {}: {}", e.at, e.kind, e.by, e.summary.0).into();
        // One frame for all: which of them quote a branch or an app's words cannot be told from an entry.
        Text::new().quote_lines(self.events.iter().map(line)).say_if(page::more(self.next_cursor.as_ref()))
    }
}
