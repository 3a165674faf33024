//! From a query to conditions: those on issues for the store, those on events for the index.
//!
//! Terms on events that stand together must hold for the same event: `release:2 browser:firefox` finds issues with an
//! event in release 2 and Firefox, not issues that were seen in both.

use std::collections::HashMap;

use berth_schemas::{Timestamp, issue::IssueState};
use berth_store::{IssueFilter, model::AppId};
use tantivy::query::{AllQuery, BooleanQuery, Occur, Query};

use super::{
    grammar::{self, Comparison, Expr, QueryError, Value},
    index::{Hit, SearchIndex},
};

/// Issues that a condition on events may lead to; of more, those with the best match.
const MAX_ISSUES: usize = 20_000;

/// How queries are written.
pub const GRAMMAR: &str = "Words are looked for in messages, types, functions, files and breadcrumbs; \"…\" is a phrase; field:value is exact, * stands for anything, field:[a, b] is one of them; ! or NOT excludes, has:field wants any value; OR and ( ) combine, spaces mean AND; events, users, first_seen, last_seen, at and age take > >= < <=, times are RFC 3339 or ages such as 24h.";

/// Fields that every installation has, with an example.
pub const FIELDS: &[(&str, &str)] = &[
    (
        "is",
        "state of the issue: is:open, is:resolved, is:ignored, is:regressed, is:new (first seen in the last 24 hours), is:assigned, is:unassigned, is:unhandled",
    ),
    ("assigned", "who looks after it: assigned:ann"),
    ("events", "how often the issue was seen: events:>100"),
    ("users", "how many users had it: users:>=10"),
    ("first_seen", "when the issue was first seen: first_seen:>24h is within the last day"),
    ("last_seen", "when it was last seen: last_seen:<7d is not within the last week"),
    ("at", "when an event happened: at:>=2026-01-31T00:00:00Z"),
    ("age", "how old an event is: age:<1h"),
    ("level", "debug, info, warning, error or fatal"),
    ("environment", "environment of the app: environment:staging"),
    ("release", "release as the client names it: release:1.2.*"),
    ("type", "type of an exception: type:TypeError"),
    ("message", "words of the event's texts: message:\"connection refused\""),
    ("handled", "whether something caught it: handled:false"),
    ("function", "a function of the app's own frames"),
    ("file", "a file of the app's own frames: file:*cart.ts"),
    ("module", "a module of the app's own frames"),
    ("culprit", "where it happened, as shown"),
    ("transaction", "what was being done: transaction:\"GET /cart\""),
    ("url", "what was asked for: url:*checkout*"),
    ("method", "method of the request"),
    ("user.id", "id of the user"),
    ("user.email", "e-mail address of the user"),
    ("user.username", "name of the user"),
    ("user.ip", "address of the user, as it is kept"),
    ("browser", "browser, with or without its version: browser:firefox"),
    ("os", "operating system"),
    ("device", "device"),
    ("runtime", "runtime: runtime:\"node v22.1.0\""),
    ("platform", "language of the client: javascript, node, python, native"),
    ("sdk", "client and its version"),
    ("logger", "who logged it"),
    ("mechanism", "how the client got hold of it"),
    ("server_name", "name of the machine"),
    ("dist", "distribution of the release"),
    ("trace", "id of the trace"),
    ("id", "id of an event"),
];

/// Fields that are no words of the index: those of issues, times and texts.
const NOT_COUNTED: &[&str] =
    &["is", "assigned", "events", "users", "first_seen", "last_seen", "at", "age", "message"];

/// Other names that people know.
const ALIASES: &[(&str, &str)] = &[
    ("error.type", "type"),
    ("error.value", "message"),
    ("error.message", "message"),
    ("error.handled", "handled"),
    ("stack.function", "function"),
    ("stack.filename", "file"),
    ("stack.module", "module"),
    ("http.method", "method"),
    ("http.url", "url"),
    ("times_seen", "events"),
    ("timesseen", "events"),
    ("usercount", "users"),
    ("user_count", "users"),
    ("firstseen", "first_seen"),
    ("lastseen", "last_seen"),
    ("timestamp", "at"),
    ("env", "environment"),
    ("browser.name", "browser"),
    ("os.name", "os"),
    ("sdk.name", "sdk"),
    ("title", "message"),
    ("assignee", "assigned"),
    ("event.id", "id"),
];

/// What a query asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Sought {
    /// Condition on issues.
    pub filter: IssueFilter,
    /// Issues by how well their events match, if the query speaks of events.
    pub scores: Option<HashMap<i64, Hit>>,
}

/// Whose events are looked at.
#[derive(Debug, Clone)]
pub(super) struct Within {
    /// Only those of this app.
    pub(super) app: Option<AppId>,
    /// The apps that the caller may see, or all. Of others it is not even known which tags they have.
    pub(super) visible: Option<Vec<AppId>>,
}

impl Within {
    /// The apps among whose events is searched, or all.
    pub(super) fn searched(&self) -> Option<&[AppId]> {
        match &self.app {
            Some(app) => Some(std::slice::from_ref(app)),
            None => self.visible.as_deref(),
        }
    }
}

/// Reads and looks up.
pub(super) struct Planner<'p> {
    pub(super) index: &'p SearchIndex,
    pub(super) within: &'p Within,
    pub(super) now: Timestamp,
}

/// A part of a query, by whom it is answered.
enum Part {
    Issues(IssueFilter),
    Events(Box<dyn Query>),
}

impl Planner<'_> {
    pub(super) fn seek(&self, expr: &Expr) -> Result<Sought, Wrong> {
        let mut scores = None;
        let filter = match self.part(expr, &mut scores)? {
            Part::Issues(filter) => filter,
            Part::Events(query) => self.look_up(query, &mut scores)?,
        };
        Ok(Sought { filter, scores })
    }

    /// What to count among for a query: events by themselves, and of which issues if the query says something of those.
    pub(super) fn count(&self, expr: &Expr) -> Result<(Box<dyn Query>, Option<IssueFilter>), Wrong> {
        Ok(match self.part(expr, &mut None)? {
            Part::Events(query) => (query, None),
            Part::Issues(IssueFilter::All(parts)) if parts.is_empty() => (Box::new(AllQuery), None),
            Part::Issues(filter) => (self.events(expr)?, Some(filter)),
        })
    }

    /// The part of a query that is about events, for counting among them; everything if there is none.
    fn events(&self, expr: &Expr) -> Result<Box<dyn Query>, Wrong> {
        let everything = || Box::new(AllQuery) as Box<dyn Query>;
        Ok(match expr {
            Expr::And(parts) => {
                let mut clauses = vec![(Occur::Must, everything())];
                for part in parts {
                    clauses.push((Occur::Must, self.events(part)?));
                }
                Box::new(BooleanQuery::new(clauses))
            }
            other => match self.part(other, &mut None)? {
                Part::Events(query) => query,
                Part::Issues(_) => everything(),
            },
        })
    }

    fn look_up(
        &self,
        query: Box<dyn Query>,
        scores: &mut Option<HashMap<i64, Hit>>,
    ) -> Result<IssueFilter, Wrong> {
        let hits = self.index.issues(query, self.within.searched())?;
        let mut ids: Vec<(i64, Hit)> = hits.iter().map(|(id, hit)| (*id, *hit)).collect();
        ids.sort_by(|a, b| b.1.score.total_cmp(&a.1.score).then(b.0.cmp(&a.0)));
        ids.truncate(MAX_ISSUES);
        scores.get_or_insert_default().extend(hits);
        Ok(IssueFilter::Ids(ids.into_iter().map(|(id, _)| id).collect()))
    }

    fn part(&self, expr: &Expr, scores: &mut Option<HashMap<i64, Hit>>) -> Result<Part, Wrong> {
        Ok(match expr {
            Expr::Everything => Part::Issues(IssueFilter::All(Vec::new())),
            Expr::Text(value) => Part::Events(self.index.text_query(value)),
            Expr::Has { name, at } => self.has(name, *at)?,
            Expr::Field { name, value, at } => self.field(name, value, *at)?,
            Expr::Not(inner) => match self.part(inner, scores)? {
                Part::Issues(filter) => Part::Issues(IssueFilter::Not(Box::new(filter))),
                Part::Events(query) => Part::Events(Box::new(BooleanQuery::new(vec![
                    (Occur::Must, Box::new(AllQuery)),
                    (Occur::MustNot, query),
                ]))),
            },
            Expr::And(parts) => self.combined(parts, true, scores)?,
            Expr::Or(parts) => self.combined(parts, false, scores)?,
        })
    }

    fn combined(
        &self,
        parts: &[Expr],
        all: bool,
        scores: &mut Option<HashMap<i64, Hit>>,
    ) -> Result<Part, Wrong> {
        let (mut filters, mut queries) = (Vec::new(), Vec::new());
        for part in parts {
            match self.part(part, scores)? {
                Part::Issues(filter) => filters.push(filter),
                Part::Events(query) => queries.push((if all { Occur::Must } else { Occur::Should }, query)),
            }
        }
        let events = (!queries.is_empty()).then(|| Box::new(BooleanQuery::new(queries)) as Box<dyn Query>);
        Ok(match (events, filters.is_empty()) {
            (Some(events), true) => Part::Events(events),
            (Some(events), false) => {
                filters.push(self.look_up(events, scores)?);
                Part::Issues(if all { IssueFilter::All(filters) } else { IssueFilter::Any(filters) })
            }
            (None, _) => {
                Part::Issues(if all { IssueFilter::All(filters) } else { IssueFilter::Any(filters) })
            }
        })
    }

    /// What has a field with any value. What every issue or event has excludes none.
    fn has(&self, name: &str, at: usize) -> Result<Part, Wrong> {
        let canonical = canonical(name);
        Ok(match canonical {
            "assigned" => Part::Issues(IssueFilter::Assigned(None)),
            "users" => Part::Issues(IssueFilter::Number("users", ">", 0)),
            name if NOT_COUNTED.contains(&name) => Part::Issues(IssueFilter::All(Vec::new())),
            canonical if self.is_known(canonical) => Part::Events(self.index.has_query(canonical)),
            _ => return Err(self.unknown(name, at, |near| format!("has:{near}")).into()),
        })
    }

    fn is_known(&self, canonical: &str) -> bool {
        FIELDS.iter().any(|(name, _)| *name == canonical)
            || self.index.has_name(canonical, self.within.visible.as_deref())
    }

    /// The name by which the values of a field or tag are counted.
    pub(super) fn counted(&self, name: &str) -> Result<String, QueryError> {
        let name = grammar::plain(name);
        let canonical = canonical(name);
        if !self.is_known(canonical) {
            return Err(self.unknown(name, 0, str::to_owned));
        }
        if NOT_COUNTED.contains(&canonical) {
            return Err(QueryError::new(0, format!("the values of {name} are not counted")));
        }
        Ok(canonical.to_owned())
    }

    fn field(&self, name: &str, value: &Value, at: usize) -> Result<Part, Wrong> {
        let canonical = canonical(name);
        Ok(match canonical {
            "is" => self.is(value, at)?,
            "assigned" => Part::Issues(IssueFilter::Assigned(Some(word(value, at)?.to_owned()))),
            "events" => Part::Issues(number("events", value, at)?),
            "users" => Part::Issues(number("users", value, at)?),
            "first_seen" => Part::Issues(self.seen("first_seen", value, at)?),
            "last_seen" => Part::Issues(self.seen("last_seen", value, at)?),
            "at" => Part::Events(self.time(value, false, at)?),
            "age" => Part::Events(self.time(value, true, at)?),
            "message" => Part::Events(self.index.text_query(value)),
            _ => {
                if let Value::Compare(comparison, _) = value {
                    let text = format!("{name} cannot be compared with {}", comparison.sign());
                    return Err(QueryError::new(at, text).instead(format!("{name}:<value>")).into());
                }
                if !self.is_known(canonical) {
                    return Err(self.unknown(name, at, |near| format!("{near}:…")).into());
                }
                Part::Events(self.index.field_query(canonical, value))
            }
        })
    }

    /// That there is no such field, with the nearest that there is, written as `form` says.
    fn unknown(&self, name: &str, at: usize, form: impl Fn(&str) -> String) -> QueryError {
        let mut names: Vec<String> = FIELDS.iter().map(|(n, _)| (*n).to_owned()).collect();
        names.extend(self.index.names(self.within.searched()).unwrap_or_default());
        let near = berth_schemas::error::nearest(name, &names);
        let error =
            QueryError::new(at, format!("there is no field or tag {name:?}; error_fields lists them"));
        match near.first() {
            Some(near) => {
                let names_a_tag = FIELDS.iter().all(|(name, _)| name != near);
                QueryError { names_a_tag, ..error.instead(form(near)) }
            }
            None => error,
        }
    }

    fn is(&self, value: &Value, at: usize) -> Result<Part, Wrong> {
        let word = word(value, at)?;
        Ok(Part::Issues(match word.to_lowercase().as_str() {
            "open" | "unresolved" => IssueFilter::State(IssueState::Open),
            "resolved" => IssueFilter::State(IssueState::Resolved),
            "ignored" | "archived" => IssueFilter::State(IssueState::Ignored),
            "regressed" => IssueFilter::Regressed,
            "new" => IssueFilter::New(self.now.plus_seconds(-24 * 3600)),
            "assigned" => IssueFilter::Assigned(None),
            "unassigned" => IssueFilter::Not(Box::new(IssueFilter::Assigned(None))),
            "unhandled" => {
                return Ok(Part::Events(self.index.field_query("handled", &Value::Word("false".into()))));
            }
            other => {
                let states = [
                    "open",
                    "resolved",
                    "ignored",
                    "regressed",
                    "new",
                    "assigned",
                    "unassigned",
                    "unhandled",
                ];
                let states: Vec<String> = states.iter().map(|s| (*s).to_owned()).collect();
                let near = berth_schemas::error::nearest(other, &states);
                let error = QueryError::new(at, format!("is: takes {}, not {other:?}", states.join(", ")));
                return Err(match near.first() {
                    Some(near) => error.instead(format!("is:{near}")),
                    None => error,
                }
                .into());
            }
        }))
    }

    /// A time: RFC 3339, or an age counted back from now.
    fn moment(&self, text: &str, at: usize) -> Result<Timestamp, QueryError> {
        let text = text.strip_prefix('-').unwrap_or(text);
        let dated = if text.len() == 10 && text.as_bytes()[4] == b'-' {
            format!("{text}T00:00:00Z")
        } else {
            text.to_owned()
        };
        Timestamp::parse_or_ago(&dated, self.now).map_err(|why| QueryError::new(at, why))
    }

    fn seen(&self, column: &'static str, value: &Value, at: usize) -> Result<IssueFilter, QueryError> {
        let (sign, text) = match value {
            Value::Compare(comparison, text) => (comparison.sign(), text.as_str()),
            // `lastSeen:-24h`, as Sentry has it, is within the last day; `+24h` is before.
            Value::Word(word) if word.starts_with('-') => (">=", word.as_str()),
            Value::Word(word) if word.starts_with('+') => ("<=", &word[1..]),
            _ => {
                let error = QueryError::new(at, format!("{column} wants > or < and a time"));
                return Err(error.instead(format!("{column}:>24h")));
            }
        };
        Ok(IssueFilter::Number(column, sign, self.moment(text, at)?.0))
    }

    /// Events by their time. By age it is the other way round: `age:<1h` is since an hour ago.
    fn time(&self, value: &Value, by_age: bool, at: usize) -> Result<Box<dyn Query>, QueryError> {
        let (sign, text) = match value {
            Value::Compare(comparison, text) => (*comparison, text.as_str()),
            Value::Word(word) if word.starts_with('-') => (Comparison::AtLeast, word.as_str()),
            Value::Word(word) if word.starts_with('+') => (Comparison::AtMost, &word[1..]),
            _ => return Err(QueryError::new(at, "a time wants > or <").instead("age:<24h")),
        };
        let moment = self.moment(text, at)?.0;
        let later = matches!(sign, Comparison::Greater | Comparison::AtLeast);
        let since = later != (by_age && matches!(value, Value::Compare(..)));
        Ok(if since {
            self.index.time_query(Some(moment), None)
        } else {
            self.index.time_query(None, Some(moment))
        })
    }
}

/// Why a query was not answered.
#[derive(Debug)]
pub(super) enum Wrong {
    /// It is wrong.
    Query(QueryError),
    /// The index does not answer.
    Index(super::IndexError),
}

impl From<QueryError> for Wrong {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<super::IndexError> for Wrong {
    fn from(error: super::IndexError) -> Self {
        Self::Index(error)
    }
}

/// The name that a field has here.
fn canonical(name: &str) -> &str {
    let lower = name.to_ascii_lowercase();
    match ALIASES.iter().find(|(alias, _)| *alias == lower) {
        Some((_, name)) => name,
        None => FIELDS.iter().map(|(n, _)| *n).find(|n| *n == lower).unwrap_or(name),
    }
}

fn word(value: &Value, at: usize) -> Result<&str, QueryError> {
    match value {
        Value::Word(word) | Value::Phrase(word) => Ok(word),
        _ => Err(QueryError::new(at, "one word is wanted here")),
    }
}

fn number(column: &'static str, value: &Value, at: usize) -> Result<IssueFilter, QueryError> {
    let (sign, text) = match value {
        Value::Compare(comparison, text) => (comparison.sign(), text),
        Value::Word(word) => ("=", word),
        _ => {
            return Err(
                QueryError::new(at, format!("{column} wants a number")).instead(format!("{column}:>100"))
            );
        }
    };
    let number = text.parse().map_err(|_| {
        QueryError::new(at, format!("{column} wants a number, not {text:?}"))
            .instead(format!("{column}:>100"))
    })?;
    Ok(IssueFilter::Number(column, sign, number))
}
