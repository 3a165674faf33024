//! The switching soak: one deployment after the other under load, with guests at some of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    docker::Holdings,
    guests::{self, Outcome, Sizes, Switch},
    ledger::{Account, Ledgers},
    load::{Visit, Visitors},
    side::{APP, PATIENT, Side},
    tally::{Figures, Tally},
};

/// Load before the first and after the last deployment.
pub(crate) const STEADY: Duration = Duration::from_secs(3);
/// Guests have begun their visit by then.
pub(crate) const SEATED: Duration = Duration::from_millis(500);
/// Time between looks at whether the new release answers.
const LOOK: Duration = Duration::from_millis(5);

/// What a run is to do.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Plan {
    pub(crate) deployments: usize,
    /// Requests a second.
    pub(crate) rate: u32,
    /// Every so many deployments have guests.
    pub(crate) guests_every: usize,
    pub(crate) sizes: Sizes,
}

/// One deployment as it was seen.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Deployment {
    /// From the call to the first answer of the new release.
    pub(crate) switched_ms: f64,
    /// From the call to its end: the old release is drained and stopped.
    pub(crate) over_ms: f64,
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    pub(crate) side: &'static str,
    pub(crate) plan: Plan,
    pub(crate) deployments: Vec<Deployment>,
    pub(crate) load: Figures,
    pub(crate) guests: Vec<Outcome>,
    pub(crate) ledger: Account,
    pub(crate) resident_before: u64,
    pub(crate) resident_after: u64,
    pub(crate) left: Holdings,
    /// Everything that was not as it must be; empty if all was well.
    pub(crate) problems: Vec<String>,
}

/// Runs the soak against one side.
pub(crate) async fn run(side: &mut Side, plan: Plan) -> Result<Run> {
    plan.sizes.upload_answer();
    side.deploy(APP, "b").await?;
    side.deploy(PATIENT, "patient").await?;
    let visit = Visit {
        door: side.door().clone(),
        tally: Arc::new(Tally::new()),
        ledgers: Arc::new(Ledgers::default()),
    };
    let patient = Visit { door: visit.door.of("patient.localhost"), ..visit.clone() };
    let visitors = Visitors::start(&visit, &patient, plan.rate);
    tokio::time::sleep(STEADY).await;
    let resident_before = side.resident()?;
    let mut run =
        Progress { visit: &visit, plan, deployments: Vec::new(), guests: Vec::new(), problems: Vec::new() };
    for n in 1..=plan.deployments {
        run.deployment(side, n).await;
    }
    let Progress { deployments, guests, mut problems, .. } = run;
    tokio::time::sleep(STEADY).await;
    visitors.stop().await;
    let resident_after = side.resident()?;
    let (left, leftovers) = side.leftovers().await?;
    problems.extend(leftovers);
    let (load, ledger) = (visit.tally.figures(), visit.ledgers.account());
    problems.extend(judge(&load, &guests, &ledger, &["a", "b"]));
    Ok(Run {
        side: side.name(),
        plan,
        deployments,
        load,
        guests,
        ledger,
        resident_before,
        resident_after,
        left,
        problems,
    })
}

struct Progress<'a> {
    visit: &'a Visit,
    plan: Plan,
    deployments: Vec<Deployment>,
    guests: Vec<Outcome>,
    problems: Vec<String>,
}

impl Progress<'_> {
    /// One deployment from the call to its end, and its guests until they have left.
    async fn deployment(&mut self, side: &mut Side, n: usize) {
        let tally = &self.visit.tally;
        let version = if n % 2 == 1 { "a" } else { "b" };
        let (tell, switched) = watch::channel(None);
        let mut guests = None;
        if (n - 1).is_multiple_of(self.plan.guests_every) {
            guests = Some(tokio::spawn(guests::receive(self.visit.clone(), self.plan.sizes, n, switched)));
            tokio::time::sleep(SEATED).await;
        }
        let (asked, failed_before) = (Instant::now(), tally.failures());
        tally.step(format!("the call for deployment {n}"));
        let deploy = async {
            let ended = side.deploy(APP, version).await;
            tally.step(format!("the end of deployment {n}"));
            ended.map(|()| asked.elapsed())
        };
        let (ended, seen) = tokio::join!(deploy, notice(tally, asked, n, &tell));
        match (ended, seen) {
            (Ok(over), Some(at)) => {
                let ms = |time: Duration| time.as_secs_f64() * 1e3;
                self.deployments.push(Deployment { switched_ms: ms(at - asked), over_ms: ms(over) });
                eprintln!(
                    "deployment {n} of {}: switched after {:.1} s, over after {:.1} s, {} failed requests",
                    self.plan.deployments,
                    (at - asked).as_secs_f64(),
                    over.as_secs_f64(),
                    tally.failures() - failed_before
                );
            }
            (Ok(_), None) => self.problems.push(format!("no visitor saw the release of deployment {n}")),
            (Err(error), _) => self.problems.push(format!("deployment {n} failed: {error:#}")),
        }
        // Without a switch they have nothing to wait for.
        let seen = tell.borrow().is_some();
        match guests {
            Some(guests) if seen => match guests.await {
                Ok(outcomes) => self.guests.extend(outcomes),
                Err(error) => {
                    self.problems.push(format!("the guests of deployment {n} ended badly: {error}"))
                }
            },
            Some(guests) => guests.abort(),
            None => {}
        }
    }
}

/// Waits for the first answer of a new release and tells it; none if there is none for long.
async fn notice(
    tally: &Tally,
    asked: Instant,
    n: usize,
    tell: &watch::Sender<Option<Switch>>,
) -> Option<Instant> {
    const LONG: Duration = Duration::from_secs(120);
    while asked.elapsed() < LONG {
        if let Some(at) = tally.switched_after(asked) {
            tally.step(format!("the switch of deployment {n}"));
            tell.send_replace(Some(Switch { at }));
            return Some(at);
        }
        tokio::time::sleep(LOOK).await;
    }
    None
}

/// What of this is not as it must be; each of these versions must have answered somebody.
pub(crate) fn judge(load: &Figures, guests: &[Outcome], ledger: &Account, versions: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    if load.failed > 0 {
        problems.push(format!("{} of {} requests failed", load.failed, load.sent));
    }
    for guest in guests {
        if let Some(why) = &guest.failure {
            problems.push(format!("{} at deployment {}: {why}", guest.guest, guest.deployment));
        }
    }
    // A guest that left before the switch shows nothing; of each sort one must have been there.
    let mut kinds: Vec<&str> = guests.iter().map(|guest| guest.guest.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        if !guests.iter().any(|guest| guest.guest == kind && guest.spanned) {
            problems.push(format!("no {kind} spanned a switch"));
        }
    }
    if ledger.twice > 0 {
        problems.push(format!("apps saw {} POSTs more than once", ledger.twice));
    }
    if ledger.unheard > 0 || ledger.unaccounted > 0 {
        problems.push(format!(
            "the account of POSTs is not complete: {} containers unheard, {} answered POSTs unaccounted for",
            ledger.unheard, ledger.unaccounted
        ));
    }
    for version in versions {
        if !load.versions.contains_key(*version) {
            problems.push(format!("version {version} answered nobody"));
        }
    }
    problems
}
