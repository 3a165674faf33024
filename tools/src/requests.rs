//! Requests that visitors made.

use berth_schemas::{
    Problem, Scope, Timestamp,
    request::{RequestList, RequestPage},
};
use berth_store::RequestQuery;

use crate::{
    find, logs,
    page::{self, Keep},
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![Tool::new(
        Spec {
            name: "request_list",
            title: "List an app's HTTP requests",
            description: "List requests that visitors made to an app, newest first, with status and duration, plus error count and percentiles over the last hour (or since). Filter by status (5xx), path or slowness.",
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
    let app = find::app(&call, &input.app).await?;
    let query = query(&input, Timestamp::now())?;
    let mut page = call.context.store.requests().list(app.id, &query).await?;
    page::fit(&mut page.requests, Keep::First, call.budget, input.limit.is_some());
    Ok(page)
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
    Ok(RequestQuery {
        status: input.status.as_deref().map(status).transpose()?,
        path_prefix: input.path_prefix.clone(),
        since: logs::point("since", input.since.as_deref().or(Some("1h")), now)?,
        slower_than_ms: input.slower_than_ms.map(i64::from),
        limit: page::limit(input.limit, 50, 500)?,
    })
}

/// `404` or `5xx` as the first and last status meant.
fn status(text: &str) -> Result<(i64, i64), Problem> {
    let class = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX"));
    let range = match class {
        Some(digit) => {
            digit.parse().ok().filter(|d| (1..=5).contains(d)).map(|d: i64| (d * 100, d * 100 + 99))
        }
        None => text.parse().ok().filter(|s| *s == 0 || (100..=599).contains(s)).map(|s: i64| (s, s)),
    };
    range.ok_or_else(|| {
        let shown: String = text.chars().take(20).collect();
        Problem::invalid(
            "status",
            format!("{shown:?} is no status; use a number such as 404 or a class such as 5xx."),
        )
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
        text
    }
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn a_status_is_a_number_or_a_class() {
        assert_eq!(status("404"), Ok((404, 404)));
        assert_eq!(status("5xx"), Ok((500, 599)));
        for bad in ["", "xx", "9xx", "40x", "600", "-1", "4 xx"] {
            assert!(status(bad).is_err(), "{bad}");
        }
    }
}
