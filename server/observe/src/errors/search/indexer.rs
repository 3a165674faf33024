//! Keeps the index up to date: a task that follows the store's events by their row.
//!
//! The last row is part of each commit of the index, so a crash loses nothing: what is missing is read from the store.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use berth_schemas::{
    Code, Problem, Timestamp,
    issue::{Facet, FacetValue},
};
use berth_store::{
    ErrorEventRow, IssueFilter, IssueOrder, Store,
    model::{AppId, EnvironmentId, Visible},
};
use tantivy::query::{BooleanQuery, Query};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    document::Entry,
    grammar::{self, QueryError},
    index::{IndexError, SearchIndex, Writer},
    plan::{Planner, Sought, Within, Wrong},
};
use crate::errors::event::Event;

/// Events that are read at a time.
const BATCH: i64 = 500;
/// Shortest time between two commits: what comes after a quiet time is visible at once, and a flood makes few segments.
const COMMIT: Duration = Duration::from_millis(700);
/// How often to look without being told.
const LOOK: Duration = Duration::from_secs(30);
/// Values of a facet.
const FACET_VALUES: usize = 10;
/// Issues among whose events facets are counted, if the query says something of issues.
const FACET_ISSUES: i64 = 1_000;
/// Orders that may wait.
const ORDERS: usize = 64;

/// The index of errors with its task; cheap to clone.
#[derive(Clone)]
pub struct ErrorIndex {
    shared: Arc<Shared>,
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
}

struct Shared {
    index: SearchIndex,
    store: Store,
    wake: Notify,
    position: AtomicI64,
    tasks: TaskTracker,
}

impl std::fmt::Debug for ErrorIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ErrorIndex").finish_non_exhaustive()
    }
}

/// What is asked of the task.
enum Order {
    /// Take an issue's events out.
    RemoveIssue(i64),
    /// Take events out.
    RemoveEvents(Vec<i64>),
    /// Take events of apps out that happened before a time.
    RemoveBefore(Vec<(AppId, Timestamp)>),
    /// Take an issue's events out and read them again.
    Again(i64),
    /// Build it anew.
    Rebuild,
}

impl ErrorIndex {
    /// Opens the index below `dir`, or in memory without one, and starts its task.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn start(store: Store, dir: Option<&Path>, shutdown: CancellationToken) -> Result<Self, IndexError> {
        let index = match dir {
            Some(dir) => SearchIndex::open(dir)?,
            None => SearchIndex::in_memory()?,
        };
        let writer = index.writer()?;
        let (orders, received) = mpsc::channel(ORDERS);
        let position = AtomicI64::new(index.position());
        let shared =
            Arc::new(Shared { index, store, wake: Notify::new(), position, tasks: TaskTracker::new() });
        shared.tasks.spawn(follow(Arc::clone(&shared), writer, received, shutdown));
        shared.tasks.close();
        Ok(Self { shared, orders })
    }

    /// Says that there may be new events.
    pub fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Waits until the task has ended, after the shutdown.
    pub async fn stopped(&self) {
        self.shared.tasks.wait().await;
    }

    /// The row of the newest event that can be found.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.shared.position.load(Ordering::Relaxed)
    }

    /// Takes an issue's events out.
    pub async fn remove_issue(&self, issue: i64) {
        self.order(Order::RemoveIssue(issue)).await;
    }

    /// Takes events out, by their rows.
    pub async fn remove_events(&self, rows: Vec<i64>) {
        self.order(Order::RemoveEvents(rows)).await;
    }

    /// Takes events of apps out that happened before a time.
    pub async fn remove_before(&self, times: Vec<(AppId, Timestamp)>) {
        self.order(Order::RemoveBefore(times)).await;
    }

    /// Reads an issue's events again, because they belong to another issue now.
    pub async fn read_again(&self, issue: i64) {
        self.order(Order::Again(issue)).await;
    }

    /// Begins to build the index anew from the store; searches find what they found before until it is done.
    pub async fn rebuild(&self) {
        self.order(Order::Rebuild).await;
    }

    async fn order(&self, order: Order) {
        let (done, heard) = oneshot::channel();
        // At shutdown nobody takes orders; what was meant is found at the next start or by rebuilding.
        if self.orders.send((order, done)).await.is_ok() {
            let _ = heard.await;
        }
    }

    /// What a query asks for, of an app or of all that may be seen.
    ///
    /// # Errors
    /// `InvalidInput` with the place of the mistake and what would be right, or `Internal`.
    pub async fn seek(
        &self,
        query: &str,
        view: &Visible,
        app: Option<AppId>,
        now: Timestamp,
    ) -> Result<Sought, Problem> {
        let within = self.within(view, app).await?;
        let (shared, query) = (Arc::clone(&self.shared), query.to_owned());
        aside(move || {
            let expr = grammar::parse(&query).map_err(|e| mistake(&query, &e))?;
            let planner = Planner { index: &shared.index, within: &within, now };
            planner.seek(&expr).map_err(|e| wrong(&query, e))
        })
        .await
    }

    async fn within(&self, view: &Visible, app: Option<AppId>) -> Result<Within, Problem> {
        let visible = match view {
            Visible::All => None,
            some => Some(self.shared.store.apps().all(some).await?.into_iter().map(|app| app.id).collect()),
        };
        Ok(Within { app, visible })
    }

    /// How often values of `fields` occur among the events that a query is about; if it says something of issues, among
    /// those of the 1,000 matching issues with most events.
    ///
    /// # Errors
    /// As [`ErrorIndex::seek`], or `InvalidInput` for a field that there is not.
    pub async fn facets(
        &self,
        query: &str,
        view: &Visible,
        app: Option<AppId>,
        now: Timestamp,
        fields: Vec<String>,
    ) -> Result<Vec<Facet>, Problem> {
        let within = self.within(view, app).await?;
        let (shared, query, there) = (Arc::clone(&self.shared), query.to_owned(), within.clone());
        let (events, issues, names) = aside(move || {
            let expr = grammar::parse(&query).map_err(|e| mistake(&query, &e))?;
            let planner = Planner { index: &shared.index, within: &there, now };
            let (events, issues) = planner.count(&expr).map_err(|e| wrong(&query, e))?;
            let name = |field: &String| planner.counted(field).map_err(|e| no_facet(&e));
            let names = fields.iter().map(name).collect::<Result<Vec<_>, _>>()?;
            Ok((events, issues, fields.into_iter().zip(names).collect::<Vec<_>>()))
        })
        .await?;
        let issues = match issues {
            Some(filter) => Some(self.most_seen(&filter, view, app).await?),
            None => None,
        };
        let shared = Arc::clone(&self.shared);
        aside(move || shared.facets(events, issues.as_deref(), &within, names)).await
    }

    /// Rows of the issues that match, those with most events.
    async fn most_seen(
        &self,
        filter: &IssueFilter,
        view: &Visible,
        app: Option<AppId>,
    ) -> Result<Vec<i64>, Problem> {
        let errors = self.shared.store.errors();
        let (rows, _) = errors.issues(view, app, filter, IssueOrder::Events, (0, FACET_ISSUES)).await?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    /// Names of fields and tags that an app's events have, the most frequent first.
    ///
    /// # Errors
    /// `Internal` when the index does not answer.
    pub async fn names(&self, app: AppId) -> Result<Vec<String>, Problem> {
        let shared = Arc::clone(&self.shared);
        aside(move || shared.index.names(Some(&[app])).map_err(|e| failed(&e))).await
    }
}

impl Shared {
    /// Counts; each of `names` is the field as it was asked for, and as the index knows it.
    fn facets(
        &self,
        events: Box<dyn Query>,
        issues: Option<&[i64]>,
        within: &Within,
        names: Vec<(String, String)>,
    ) -> Result<Vec<Facet>, Problem> {
        let events = match issues {
            Some(issues) => {
                Box::new(BooleanQuery::intersection(vec![events, self.index.issues_query(issues)]))
            }
            None => events,
        };
        let (asked, known): (Vec<_>, Vec<_>) = names.into_iter().unzip();
        let counts =
            self.index.facets(events, within.searched(), &known, FACET_VALUES).map_err(|e| failed(&e))?;
        let value = |(value, events): (String, u64)| FacetValue { value: value.into(), events };
        let facet = |(field, values): (String, Vec<_>)| Facet {
            field,
            values: values.into_iter().map(value).collect(),
        };
        Ok(asked.into_iter().zip(counts).map(facet).collect())
    }
}

async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let lost = |_| Problem::new(Code::Internal, "The search ended badly; the daemon's log says more.");
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}

fn mistake(query: &str, error: &QueryError) -> Problem {
    let problem = Problem::invalid("query", format!("{error}: {query:?}."));
    meant(problem, error, "error_fields shows the grammar and the fields.")
}

fn no_facet(error: &QueryError) -> Problem {
    let problem = Problem::invalid("facets", format!("{}.", error.what));
    meant(problem, error, "error_fields lists the fields.")
}

/// Adds what was perhaps meant: a tag as a quote, because whoever has a DSN names tags.
fn meant(problem: Problem, error: &QueryError, more: &str) -> Problem {
    match &error.instead {
        Some(instead) if error.names_a_tag => problem
            .hint(format!("See candidates for what was perhaps meant; {more}"))
            .candidates(vec![instead.clone()])
            .quoting(),
        Some(instead) => problem.hint(format!("Perhaps {instead:?} was meant; {more}")),
        None => problem.hint(more),
    }
}

fn wrong(query: &str, wrong: Wrong) -> Problem {
    match wrong {
        Wrong::Query(error) => mistake(query, &error),
        Wrong::Index(error) => failed(&error),
    }
}

fn failed(error: &IndexError) -> Problem {
    tracing::error!(%error, "a search failed");
    Problem::new(Code::Internal, "The index of errors does not answer.")
        .hint("error_index_rebuild builds it anew from the store; nothing is lost.")
}

struct Follower {
    shared: Arc<Shared>,
    /// Taken out while a batch is added beside the runtime.
    writer: Option<Writer>,
    position: i64,
    dirty: bool,
    committed: Instant,
    /// Until this row is there, what is built anew is not shown: searches find what they found before.
    hidden_until: Option<i64>,
    names: HashMap<EnvironmentId, String>,
}

async fn follow(
    shared: Arc<Shared>,
    writer: Writer,
    mut orders: mpsc::Receiver<(Order, oneshot::Sender<()>)>,
    shutdown: CancellationToken,
) {
    let position = shared.index.position();
    let mut follower = Follower {
        shared: Arc::clone(&shared),
        writer: Some(writer),
        position,
        dirty: false,
        committed: Instant::now(),
        hidden_until: None,
        names: HashMap::new(),
    };
    // What an earlier version wrote looks otherwise, and would be found beside what is written now.
    if shared.index.is_outdated() {
        follower.rebuild().await;
    }
    // A store that is older than the index was put back from a copy: the index knows rows that came to be otherwise.
    if shared.store.errors().highest_event().await.is_ok_and(|newest| newest < position) {
        follower.rebuild().await;
    }
    while !shutdown.is_cancelled() {
        let added = match follower.add_next().await {
            Ok(added) => added,
            Err(error) => {
                tracing::warn!(%error, "the index of errors could not be brought up to date; trying again");
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(5)) => {}
                    () = shutdown.cancelled() => break,
                }
                false
            }
        };
        if !added {
            // There is no more, even if the newest ones went meanwhile.
            follower.hidden_until = None;
        }
        follower.commit_if_due(false).await;
        if added && orders.is_empty() {
            continue;
        }
        let idle = match (added, follower.dirty) {
            (true, _) => Duration::ZERO,
            (false, true) => COMMIT.saturating_sub(follower.committed.elapsed()),
            (false, false) => LOOK,
        };
        tokio::select! {
            biased;
            Some((order, done)) = orders.recv() => {
                follower.obey(order).await;
                let _ = done.send(());
            }
            () = shared.wake.notified() => {}
            () = tokio::time::sleep(idle) => {}
            () = shutdown.cancelled() => {}
        }
    }
    // What is not done goes on from here at the next start.
    follower.hidden_until = None;
    follower.commit_if_due(true).await;
}

impl Follower {
    /// Adds the next events; false if there are none.
    async fn add_next(&mut self) -> Result<bool, Problem> {
        let rows = self.shared.store.errors().events_after(self.position, BATCH).await?;
        let Some(last) = rows.last().map(|r| r.id) else { return Ok(false) };
        self.add(rows).await?;
        self.position = last;
        Ok(true)
    }

    async fn add(&mut self, rows: Vec<ErrorEventRow>) -> Result<(), Problem> {
        for row in &rows {
            if !self.names.contains_key(&row.environment_id) {
                let app = self.shared.store.apps().by_environment(row.environment_id).await?;
                let name = app.map_or_else(String::new, |a| a.environment.name.to_string());
                self.names.insert(row.environment_id, name);
            }
        }
        let Some(mut writer) = self.writer.take() else {
            return Err(Problem::new(Code::Internal, "the index's writer is gone"));
        };
        let names = self.names.clone();
        let done = tokio::task::spawn_blocking(move || {
            let outcome = rows.iter().try_for_each(|row| {
                let body = serde_json::from_slice(&row.body).unwrap_or_default();
                let Some(event) = Event::read(&body) else { return Ok(()) };
                let environment = names.get(&row.environment_id).map_or("", String::as_str);
                writer.add(&Entry {
                    row: row.id,
                    issue: row.issue_id,
                    app: row.app_id,
                    environment,
                    event_id: &row.event_id,
                    at: row.at.0,
                    event: &event,
                })
            });
            (writer, outcome)
        })
        .await;
        let (writer, outcome) = done.map_err(|_| Problem::new(Code::Internal, "indexing ended badly"))?;
        self.writer = Some(writer);
        outcome.map_err(|e| Problem::new(Code::Internal, e.to_string()))?;
        self.dirty = true;
        Ok(())
    }

    async fn commit_if_due(&mut self, now: bool) {
        let hidden = self.hidden_until.is_some_and(|row| self.position < row);
        if !self.dirty || hidden || (!now && self.committed.elapsed() < COMMIT) {
            return;
        }
        self.hidden_until = None;
        let Some(mut writer) = self.writer.take() else { return };
        let (shared, position) = (Arc::clone(&self.shared), self.position);
        let done = tokio::task::spawn_blocking(move || {
            let outcome = writer.commit(position).and_then(|()| shared.index.reload());
            (writer, outcome)
        })
        .await;
        match done {
            Ok((writer, outcome)) => {
                self.writer = Some(writer);
                // Counted from its end, and after a failure, too: then it is tried again, but not at once.
                self.committed = Instant::now();
                match outcome {
                    Ok(()) => {
                        self.dirty = false;
                        self.shared.position.store(position, Ordering::Relaxed);
                    }
                    Err(error) => tracing::warn!(%error, "the index of errors was not written"),
                }
            }
            Err(error) => tracing::error!(%error, "writing the index of errors ended badly"),
        }
    }

    async fn obey(&mut self, order: Order) {
        if let Some(writer) = &mut self.writer {
            match &order {
                Order::RemoveIssue(issue) | Order::Again(issue) => writer.remove_issue(*issue),
                Order::RemoveEvents(rows) => rows.iter().for_each(|row| writer.remove_event(*row)),
                Order::RemoveBefore(times) => {
                    for (app, before) in times {
                        if let Err(error) = writer.remove_before(*app, before.0) {
                            tracing::warn!(%error, "old events are still in the index; they go the next time");
                        }
                    }
                }
                Order::Rebuild => {}
            }
        }
        self.dirty = true;
        match order {
            Order::Again(issue) => {
                if let Err(error) = self.read_again(issue).await {
                    tracing::warn!(%error, "an issue's events were not indexed again; error_index_rebuild helps");
                }
            }
            Order::Rebuild => {
                self.hidden_until = self.shared.store.errors().highest_event().await.ok();
                self.rebuild().await;
            }
            Order::RemoveIssue(_) | Order::RemoveEvents(_) | Order::RemoveBefore(_) => {}
        }
        self.commit_if_due(true).await;
    }

    async fn read_again(&mut self, issue: i64) -> Result<(), Problem> {
        let mut before = None;
        loop {
            let rows = self.shared.store.errors().events_of(issue, None, before, BATCH).await?;
            let Some(last) = rows.last().map(|r| r.id) else { return Ok(()) };
            before = Some(last);
            // What is not indexed yet comes by itself. The deletion counts for what was added before, so an event that
            // came from another issue is taken out first.
            let known: Vec<_> = rows.into_iter().filter(|r| r.id <= self.position).collect();
            if let Some(writer) = &mut self.writer {
                known.iter().for_each(|row| writer.remove_event(row.id));
            }
            self.add(known).await?;
        }
    }

    async fn rebuild(&mut self) {
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.remove_all()
        {
            // Adding all again to what is there would double it.
            tracing::warn!(%error, "the index of errors was not emptied, and stays as it is");
            self.hidden_until = None;
            return;
        }
        self.position = 0;
        self.dirty = true;
    }
}
