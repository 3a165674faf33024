//! Logs: what apps print while they run.

use std::{collections::HashMap, time::Duration};

use berth_schemas::{
    Problem, Scope, Timestamp,
    log::{LogLine, LogPage, LogSearch},
};
use berth_store::{LogQuery, model::AppId};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{
    apps::count,
    find, follow,
    page::{self, Keep},
    progress::Update,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![Tool::new(
        Spec {
            name: "log_search",
            title: "Search an app's runtime logs",
            description: "Read or search what an app's containers print, newest lines by default: filter by text, level, release or time. Use it when a running app misbehaves. For build output use deployment_log.",
            hints: Hints::READ,
            scope: Scope::Read,
            tier: Tier::Core,
            method: Method::Get,
            path: "/v1/apps/{app}/logs",
        },
        search,
    )]
}

async fn search(call: Call, input: LogSearch) -> Result<LogPage, Problem> {
    let wait = follow::wait(input.wait_s, 0)?;
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    let mut query = query(&input, Timestamp::now())?;
    // Releases of an app are numbered together: whoever names one names its environment.
    if input.environment.is_some() || input.release.is_none() {
        query.environment = Some(app.environment.id);
    }
    let mut filter = Filter { call: &call, app: app.id, query: &query, known: HashMap::new() };
    // Subscribe before reading, so that no line falls between.
    let mut arriving = call.context.pipeline.subscribe_logs(app.id);
    let (mut lines, mut more) = call.context.store.logs().search(app.id, &query).await?;
    if call.progress.follows() {
        return follow_lines(filter, lines, arriving).await;
    }
    if lines.is_empty() && !wait.is_zero() {
        call.progress.waits_for(format!("a line of {} that matches", app.slug)).await;
        call.context.pipeline.unless_stopping(wait_for_match(&mut filter, &mut arriving, wait)).await;
        (lines, more) = call.context.store.logs().search(app.id, &query).await?;
    }
    let keep = if input.after.is_some() { Keep::First } else { Keep::Last };
    let cut = page::fit(&mut lines, keep, call.budget, input.limit.is_some());
    let next_after = lines.last().map_or(input.after.unwrap_or(0), |l| l.id);
    Ok(LogPage { lines, next_after, truncated: more || cut })
}

fn query(input: &LogSearch, now: Timestamp) -> Result<LogQuery, Problem> {
    if input.contains.as_ref().is_some_and(|c| c.len() > 500) {
        return Err(Problem::invalid("contains", "contains may have at most 500 characters."));
    }
    Ok(LogQuery {
        contains: input.contains.clone().filter(|c| !c.is_empty()),
        level: input.level,
        release: input.release,
        environment: None,
        since: point("since", input.since.as_deref(), now)?,
        until: point("until", input.until.as_deref(), now)?,
        after: input.after,
        limit: page::limit(input.limit, 100, 1000)?,
    })
}

/// A point in time that a caller named.
pub(crate) fn point(field: &str, text: Option<&str>, now: Timestamp) -> Result<Option<Timestamp>, Problem> {
    text.map(|t| {
        Timestamp::parse_or_ago(t, now).map_err(|why| Problem::invalid(field, format!("{field}: {why}.")))
    })
    .transpose()
}

/// Tells of lines that just arrived whether the query would find them.
struct Filter<'a> {
    call: &'a Call,
    app: AppId,
    query: &'a LogQuery,
    /// Which releases are of the environment that is asked for.
    known: HashMap<i64, bool>,
}

impl Filter<'_> {
    async fn takes(&mut self, line: &LogLine) -> bool {
        matches(self.query, line) && self.is_here(line.release).await
    }

    async fn is_here(&mut self, release: i64) -> bool {
        let Some(environment) = self.query.environment else { return true };
        if let Some(known) = self.known.get(&release) {
            return *known;
        }
        let made = self.call.context.store.releases().by_number(environment, release).await;
        // What is not known now may be at the next line.
        let Ok(made) = made else { return false };
        *self.known.entry(release).or_insert(made.is_some())
    }
}

/// Whether a line is one that the query would find, wherever it comes from.
fn matches(query: &LogQuery, line: &LogLine) -> bool {
    query.release.is_none_or(|r| r == line.release)
        && query.level.is_none_or(|l| line.level >= l)
        && query.until.is_none_or(|u| line.at <= u)
        && query.contains.as_ref().is_none_or(|c| line.text.0.to_lowercase().contains(&c.to_lowercase()))
}

/// Returns when a line arrived that matches, or the time is up.
async fn wait_for_match(filter: &mut Filter<'_>, arriving: &mut Receiver<LogLine>, at_most: Duration) {
    let arrived = async {
        loop {
            match arriving.recv().await {
                Ok(line) if filter.takes(&line).await => return,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(at_most, arrived).await;
}

/// Tells the lines found and then those that arrive, until the caller hangs up.
async fn follow_lines(
    mut filter: Filter<'_>,
    found: Vec<LogLine>,
    mut arriving: Receiver<LogLine>,
) -> Result<LogPage, Problem> {
    let (call, query, app) = (filter.call, filter.query, filter.app);
    let mut last = query.after.unwrap_or(0);
    for line in found {
        last = last.max(line.id);
        call.progress.tell(Update::LogLine(line)).await;
    }
    while call.progress.wanted() {
        // The timeout is there to notice a caller who left while the app was silent.
        let next = tokio::time::timeout(Duration::from_secs(5), arriving.recv());
        let Some(next) = call.context.pipeline.unless_stopping(next).await else { break };
        match next {
            Err(_) => {}
            Ok(Ok(line)) => {
                // A line may arrive before it has an id; what has one was perhaps told already.
                if (line.id == 0 || line.id > last) && filter.takes(&line).await {
                    last = last.max(line.id);
                    call.progress.tell(Update::LogLine(line)).await;
                }
            }
            Ok(Err(RecvError::Lagged(_))) => {
                let query = LogQuery { after: Some(last), ..query.clone() };
                let (missed, _) = call.context.store.logs().search(app, &query).await?;
                for line in missed {
                    last = last.max(line.id);
                    call.progress.tell(Update::LogLine(line)).await;
                }
            }
            Ok(Err(RecvError::Closed)) => break,
        }
    }
    Ok(LogPage { lines: Vec::new(), next_after: last, truncated: false })
}

impl Brief for LogPage {
    fn brief(&self) -> Text {
        if self.lines.is_empty() {
            return "No matching lines.".into();
        }
        let more = if self.truncated { ", more can be had with after, limit or a filter" } else { "" };
        let mut text = Text::from(format!("{}{more}:\n", count(self.lines.len(), "line")));
        text = text.quote_lines(self.lines.iter().map(|l| {
            format!("{} r{}/{} {} {}", l.at, l.release, l.replica, l.level.as_str(), l.text.0).into()
        }));
        text.say(format!("\nRead on with after={}.", self.next_after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wrong_time_or_limit_is_named() {
        for (value, field) in [
            (json!({"app": "web", "since": "yesterday"}), "since"),
            (json!({"app": "web", "until": ""}), "until"),
            (json!({"app": "web", "limit": 1001}), "limit"),
        ] {
            let input = serde_json::from_value(value).unwrap();
            assert_eq!(query(&input, Timestamp(0)).unwrap_err().field.as_deref(), Some(field));
        }
    }
}
