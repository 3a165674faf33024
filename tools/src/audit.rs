//! The audit log: which tool was called by whom, and how it ended.

use berth_schemas::{
    Problem, Scope, Timestamp,
    audit::{AuditPage, AuditSearch, AuditedCall},
};
use berth_store::CallQuery;

use crate::{
    find, logs, page,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![Tool::new(
        Spec {
            name: "audit_search",
            title: "Search the audit log",
            description: "Search all calls of tools, newest first: who called what on what, with which client, how it ended and how long it took. Filter by tool, token, outcome, target or time. For what changed in consequence, see event_list.",
            hints: Hints::READ,
            scope: Scope::Admin,
            tier: Tier::Extended,
            method: Method::Get,
            path: "/v1/audit",
        },
        search,
    )]
}

async fn search(call: Call, input: AuditSearch) -> Result<AuditPage, Problem> {
    find::demand_all_projects(&call, "audit_search")?;
    let limit = page::limit(input.limit, 30, 200)?;
    for (field, text) in [
        ("tool", &input.tool),
        ("principal", &input.principal),
        ("outcome", &input.outcome),
        ("target", &input.target),
    ] {
        if text.as_ref().is_some_and(|t| t.len() > 200) {
            return Err(Problem::invalid(field, format!("{field} has at most 200 characters.")));
        }
    }
    let now = Timestamp::now();
    let some = |text: &'_ Option<String>| text.clone().filter(|t| !t.is_empty());
    let (tool, principal, outcome, target) =
        (some(&input.tool), some(&input.principal), some(&input.outcome), some(&input.target));
    let query = CallQuery {
        tool: tool.as_deref(),
        principal: principal.as_deref(),
        outcome: outcome.as_deref(),
        target: target.as_deref(),
        since: logs::point("since", input.since.as_deref(), now)?,
        until: logs::point("until", input.until.as_deref(), now)?,
        before: page::number_cursor(input.cursor.as_deref())?,
        limit,
    };
    let mut calls = call.context.store.calls().search(query).await?;
    let more = page::cut(&mut calls, limit, call.budget, input.limit.is_some());
    let next_cursor = calls.last().filter(|_| more).map(|c| c.id.to_string());
    Ok(AuditPage { calls, next_cursor })
}

fn line(call: &AuditedCall) -> Text {
    let mut text = Text::from(format!("{} {} by {}", call.at, call.tool, call.principal));
    if let Some(target) = &call.target {
        text = text.say(" on ").quote(target);
    }
    if let Some(client) = &call.client {
        text = text.say(" with ").quote(client);
    }
    let took = call.duration_ms.map(|ms| format!(" in {ms} ms")).unwrap_or_default();
    text.say(format!(": {}{took}\n", call.outcome))
}

impl Brief for AuditPage {
    fn brief(&self) -> Text {
        if self.calls.is_empty() {
            return "No such call.".into();
        }
        let text = self.calls.iter().fold(Text::new(), |text, call| text.join(line(call)));
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}
