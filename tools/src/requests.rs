//! Requests that visitors made.

use berth_schemas::{
    Problem, Scope, Timestamp,
    request::{RequestList, RequestPage},
};
use berth_store::RequestQuery;

use crate::{
    find, logs, page,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![Tool::new(
        Spec {
            name: "request_list",
            title: "List an app's HTTP requests",
            description: "List visitors' requests to an app, newest first, by status (5xx), path or slowness, with error count and percentiles.",
            hints: Hints::READ,
            scope: Scope::Read,
            tier: Tier::Core,
            method: Method::Get,
            path: "/v1/apps/{app}/requests",
        },
        list,
    )]
}

async fn list(call: Call, input: RequestList) -> Result<RequestPage, Problem> {
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    let query = RequestQuery { environment: Some(app.environment.id), ..query(&input, Timestamp::now())? };
    let found = call.context.store.requests().list(app.id, &query).await?;
    let mut requests = found.requests;
    let more = page::cut(&mut requests, query.limit, call.budget, input.limit.is_some());
    let last = requests.len().checked_sub(1).and_then(|last| found.places.get(last)).filter(|_| more);
    Ok(RequestPage {
        requests,
        total: found.total,
        errors: found.errors,
        p50_ms: found.p50_ms,
        p95_ms: found.p95_ms,
        next_cursor: last.map(|place| page::moment(*place)),
    })
}

fn query(input: &RequestList, now: Timestamp) -> Result<RequestQuery, Problem> {
    if let Some(prefix) = &input.path_prefix
        && (!prefix.starts_with('/') || prefix.len() > 1024)
    {
        return Err(Problem::invalid(
            "path_prefix",
            "path_prefix must begin with / and have at most 1024 characters.",
        ));
    }
    let status = input.status.as_deref().map(str::parse).transpose();
    let status = status.map_err(|why: String| Problem::invalid("status", format!("{why}.")))?;
    Ok(RequestQuery {
        status,
        path_prefix: input.path_prefix.clone(),
        environment: None,
        since: logs::point("since", input.since.as_deref().or(Some("1h")), now)?,
        slower_than_ms: input.slower_than_ms.map(i64::from),
        before: page::moment_cursor(input.cursor.as_deref())?,
        limit: page::limit(input.limit, 50, 500)?,
    })
}

impl Brief for RequestPage {
    fn brief(&self) -> Text {
        if self.requests.is_empty() {
            return "No matching requests.".into();
        }
        let mut text = Text::from(format!(
            "{} of {} requests, {} errors, p50 {:.0} ms, p95 {:.0} ms:\n",
            self.requests.len(),
            self.total,
            self.errors,
            self.p50_ms,
            self.p95_ms
        ));
        text = text.quote_lines(self.requests.iter().map(|r| {
            let error = r.error.as_ref().map(|e| format!(" ({e})")).unwrap_or_default();
            format!("{} {} {} {}{} {:.0}ms{error}", r.at, r.status, r.method.0, r.host.0, r.path.0, r.ms)
                .into()
        }));
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}
