//! Forgets a person: finds what an app's clients sent about one, whatever the name that is given, and removes it.
//!
//! An event is counted under one name of its user, but may carry four: so all of an app's events are read. That takes
//! its time and is never needed twice, so nothing is kept for it while events come in. It is done in pieces, each one
//! transaction, and can begin again from its start at any time.

use std::time::{Duration, Instant};

use berth_schemas::{Code, Problem};
use berth_store::{
    IssueTitle, LookedTo, PersonNames, Store, TelemetryRow,
    model::{AppId, JobRow},
    stall,
};

use super::{
    event::Event,
    grouping,
    person::{Person, Rest},
    search::ErrorIndex,
};

/// Events that are read at a time.
const EVENTS: i64 = 200;
/// Other items that are read at a time, which may be larger.
const OTHERS: i64 = 64;
/// How often the job says how far it is.
const TELL: Duration = Duration::from_secs(2);
/// How long to wait for what was accepted before and is not filed yet.
const SETTLE: Duration = Duration::from_secs(10 * 60);
/// How often to look whether it is.
const LOOK: Duration = Duration::from_millis(100);

/// Forgets persons; cheap to clone.
#[derive(Debug, Clone)]
pub struct Eraser {
    store: Store,
    index: ErrorIndex,
}

/// What an app has of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traces {
    /// Events.
    pub events: i64,
    /// Messages of feedback under the person's name; those on its events go with them.
    pub feedback: i64,
    /// Sessions, transactions, logs and the like, or parts of them.
    pub others: i64,
    /// There was no time to look through all.
    pub unfinished: bool,
}

impl Traces {
    /// In words, such as "3 events, 1 message of feedback".
    #[must_use]
    pub fn in_words(&self) -> String {
        let count = |n: i64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let least = if self.unfinished { "at least " } else { "" };
        format!(
            "{least}{}, {}, {}",
            count(self.events, "event", "events"),
            count(self.feedback, "message of feedback", "messages of feedback"),
            count(self.others, "session or the like", "sessions and the like")
        )
    }
}

/// What is done with what is found.
#[derive(Clone, Copy)]
enum Doing<'a> {
    /// It is counted, until then.
    Counting(Instant),
    /// It is removed; the job is told of.
    Removing(&'a JobRow),
}

impl Eraser {
    /// Forgets persons of this store, and in this index.
    #[must_use]
    pub fn new(store: Store, index: ErrorIndex) -> Self {
        Self { store, index }
    }

    /// Counts what an app has of a person, for at most so long.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn look(&self, app: AppId, said: &str, at_most: Duration) -> Result<Traces, Problem> {
        let (person, until) = (Person::new(said), Instant::now() + at_most);
        self.go_through(app, &person, Doing::Counting(until)).await
    }

    /// Removes it, for a job that names the person in its input.
    ///
    /// # Errors
    /// When the store fails; what was removed by then stays so.
    pub async fn erase(&self, app: AppId, job: &JobRow) -> Result<String, Problem> {
        let said = job.input.get("user").and_then(serde_json::Value::as_str);
        let said = said.ok_or_else(|| Problem::new(Code::Internal, "The job names nobody."))?;
        self.settle().await?;
        let traces = self.go_through(app, &Person::new(said), Doing::Removing(job)).await?;
        Ok(format!("{} were deleted; counts of users are right again.", traces.in_words()))
    }

    /// Waits until what was accepted by now is filed, so that it is found.
    async fn settle(&self) -> Result<(), Problem> {
        let errors = self.store.errors();
        let (newest, begun) = (errors.newest_accepted().await?, Instant::now());
        while errors.digested_to() < newest && begun.elapsed() < SETTLE {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn go_through(&self, app: AppId, person: &Person, doing: Doing<'_>) -> Result<Traces, Problem> {
        let mut walk = Walk {
            eraser: self,
            app,
            person,
            names: PersonNames { said: person.said().to_owned() },
            doing,
            traces: Traces::default(),
            seen: 0,
            told: Instant::now(),
        };
        match doing {
            Doing::Counting(_) => {
                walk.events().await?;
                walk.beside().await?;
            }
            // What came with an event goes by the event, so it goes first.
            Doing::Removing(_) => {
                walk.beside().await?;
                walk.events().await?;
            }
        }
        walk.names().await?;
        Ok(walk.traces)
    }
}

struct Walk<'a> {
    eraser: &'a Eraser,
    app: AppId,
    person: &'a Person,
    names: PersonNames,
    doing: Doing<'a>,
    traces: Traces,
    seen: i64,
    told: Instant,
}

impl Walk<'_> {
    async fn events(&mut self) -> Result<(), Problem> {
        let errors = self.eraser.store.errors();
        let mut to = LookedTo::NOTHING;
        while self.goes_on().await? {
            let rows = errors.look_through(self.app, to, EVENTS).await?;
            let Some(last) = rows.last() else { break };
            to = LookedTo(last.at, last.id);
            self.seen += i64::try_from(rows.len()).unwrap_or(0);
            let person = self.person.clone();
            let found: Vec<i64> =
                aside(move || rows.iter().filter(|r| person.has(&r.body)).map(|r| r.id).collect()).await?;
            if found.is_empty() {
                continue;
            }
            self.traces.events += i64::try_from(found.len()).unwrap_or(0);
            if let Doing::Removing(_) = self.doing {
                // Before, so that a crash leaves none in the index; and after, for what was indexed in between.
                self.eraser.index.remove_events(found.clone()).await;
                stall::before("erased_events").await;
                errors.erase_events(self.app, &found).await?;
                stall::after("erased_events").await;
                self.eraser.index.remove_events(found).await;
                self.entitle().await?;
            }
        }
        Ok(())
    }

    async fn beside(&mut self) -> Result<(), Problem> {
        let errors = self.eraser.store.errors();
        let mut to = LookedTo::NOTHING;
        while self.goes_on().await? {
            let rows = errors.look_beside(self.app, to, OTHERS).await?;
            let Some(last) = rows.last() else { break };
            to = LookedTo(last.at, last.id);
            self.seen += i64::try_from(rows.len()).unwrap_or(0);
            let mut ids: Vec<String> = rows.iter().filter_map(|row| row.event_id.clone()).collect();
            ids.sort();
            ids.dedup();
            let events = errors.events_named(self.app, &ids).await?;
            let person = self.person.clone();
            let (gone, changed) = aside(move || {
                let theirs: Vec<String> =
                    events.into_iter().filter(|e| person.has(&e.body)).map(|e| e.event_id).collect();
                sort(&person, rows, &theirs)
            })
            .await?;
            if gone.is_empty() && changed.is_empty() {
                continue;
            }
            self.traces.others += i64::try_from(gone.len() + changed.len()).unwrap_or(0);
            if let Doing::Removing(_) = self.doing {
                errors.erase_beside(self.app, &gone, &changed).await?;
                stall::after("erased_beside").await;
            }
        }
        Ok(())
    }

    async fn names(&mut self) -> Result<(), Problem> {
        let errors = self.eraser.store.errors();
        self.traces.feedback = match self.doing {
            Doing::Counting(_) => errors.feedback_of(self.app, &self.names).await?,
            Doing::Removing(job) => {
                let feedback = errors.erase_names(&job.by, self.app, &self.names, self.traces.events).await?;
                stall::after("erased_names").await;
                self.entitle().await?;
                feedback
            }
        };
        Ok(())
    }

    /// Calls issues anew that lost their title with what was removed.
    async fn entitle(&mut self) -> Result<(), Problem> {
        let errors = self.eraser.store.errors();
        for row in errors.untitled(self.app).await? {
            let read = aside(move || {
                let body = serde_json::from_slice(&row.body).unwrap_or_default();
                let event = Event::read(&body)?;
                let reasons = grouping::group(row.app_id.0, &event).reasons;
                Some((row, event, reasons))
            });
            let Some((row, event, reasons)) = read.await? else { continue };
            let (kind, value, culprit) = (event.kind(), event.value(), event.culprit());
            let title =
                IssueTitle { kind: &kind, value: &value, culprit: culprit.as_deref(), reasons: &reasons };
            errors.entitle(&row, &title).await?;
        }
        Ok(())
    }

    /// Whether there is time for more; tells how far it is.
    async fn goes_on(&mut self) -> Result<bool, Problem> {
        match self.doing {
            Doing::Counting(until) => {
                self.traces.unfinished |= Instant::now() >= until;
                Ok(!self.traces.unfinished)
            }
            Doing::Removing(job) => {
                if self.told.elapsed() >= TELL {
                    self.told = Instant::now();
                    let said = format!(
                        "{} events and other items looked through; removed so far: {}",
                        self.seen,
                        self.traces.in_words()
                    );
                    self.eraser.store.jobs().set_message(&job.id, &said).await?;
                }
                Ok(true)
            }
        }
    }
}

/// What of items that came beside events goes whole, and what remains of those that go in part.
fn sort(
    person: &Person,
    rows: Vec<TelemetryRow>,
    theirs: &[String],
) -> (Vec<TelemetryRow>, Vec<(i64, Vec<u8>)>) {
    let (mut gone, mut changed) = (Vec::new(), Vec::new());
    for row in rows {
        let with_event = row.event_id.as_ref().is_some_and(|id| theirs.contains(id));
        let rest = match &row.body {
            _ if with_event => Rest::Nothing,
            Some(body) => person.taken_out(body),
            None => Rest::Whole,
        };
        match rest {
            Rest::Whole => {}
            Rest::Part(body) => changed.push((row.id, body.to_string().into_bytes())),
            Rest::Nothing => gone.push(row),
        }
    }
    (gone, changed)
}

async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let lost = |_| Problem::new(Code::Internal, "Reading events ended badly; the daemon's log says more.");
    tokio::task::spawn_blocking(work).await.map_err(lost)
}
