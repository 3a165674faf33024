//! The upgrade soak: Berth itself is replaced again and again while visitors come.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    guests::{self, Outcome, Sizes, Switch},
    ledger::{Account, Ledgers},
    load::{Visit, Visitors},
    side::{APP, PATIENT, Side},
    switch::{SEATED, STEADY, judge},
    tally::{Figures, Latency, Tally},
};

/// For so long after a hand-over what happens still counts as part of it: the old process asks its clients to leave.
const LINGER: Duration = Duration::from_secs(2);

/// What a run is to do.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Plan {
    pub(crate) upgrades: usize,
    /// Requests a second.
    pub(crate) rate: u32,
    /// Every so many upgrades have guests.
    pub(crate) guests_every: usize,
    pub(crate) sizes: Sizes,
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Upgrades {
    pub(crate) plan: Plan,
    /// From the call to the new process being the one that serves.
    pub(crate) took_ms: Vec<f64>,
    pub(crate) load: Figures,
    /// Latencies of requests that touched a hand-over, and of all others.
    pub(crate) within: Latency,
    pub(crate) steady: Latency,
    pub(crate) guests: Vec<Outcome>,
    pub(crate) ledger: Account,
    pub(crate) resident_before: u64,
    pub(crate) resident_after: u64,
    pub(crate) problems: Vec<String>,
}

/// Runs the soak.
pub(crate) async fn run(side: &mut Side, plan: Plan) -> Result<Upgrades> {
    plan.sizes.upload_answer();
    side.deploy(APP, "a").await?;
    side.deploy(PATIENT, "patient").await?;
    let Side::Berth(berth) = side else { bail!("only Berth is upgraded") };
    let visit = Visit {
        door: berth.door.clone(),
        tally: Arc::new(Tally::new()),
        ledgers: Arc::new(Ledgers::default()),
    };
    let patient = Visit { door: visit.door.of("patient.localhost"), ..visit.clone() };
    let visitors = Visitors::start(&visit, &patient, plan.rate);
    tokio::time::sleep(STEADY).await;
    let resident_before = berth.daemon.resident()?;
    let (mut guests, mut problems, mut windows, mut took_ms) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 1..=plan.upgrades {
        let (tell, switched) = watch::channel(None);
        let visiting = (n - 1).is_multiple_of(plan.guests_every);
        let staying = visiting.then(|| tokio::spawn(guests::receive(visit.clone(), plan.sizes, n, switched)));
        tokio::time::sleep(SEATED).await;
        let failed_before = visit.tally.failures();
        let asked = Instant::now();
        visit.tally.step(format!("the call for upgrade {n}"));
        let ended = berth.upgrade().await;
        let took = asked.elapsed();
        visit.tally.step(format!("the hand-over of upgrade {n}"));
        match ended {
            Ok(()) => took_ms.push(took.as_secs_f64() * 1e3),
            Err(error) => problems.push(format!("upgrade {n} failed: {error:#}")),
        }
        tell.send_replace(Some(Switch { at: Instant::now() }));
        tokio::time::sleep(LINGER).await;
        windows.push((asked, Instant::now()));
        if let Some(staying) = staying {
            guests.extend(staying.await?);
        }
        tokio::time::sleep(STEADY).await;
        let failed = visit.tally.failures() - failed_before;
        eprintln!(
            "upgrade {n} of {}: took {:.2} s, {failed} failed requests",
            plan.upgrades,
            took.as_secs_f64()
        );
    }
    visitors.stop().await;
    let (load, ledger) = (visit.tally.figures(), visit.ledgers.account());
    problems.extend(judge(&load, &guests, &ledger, &["a"]));
    let (within, steady) = (visit.tally.latency(&windows, true), visit.tally.latency(&windows, false));
    let resident_after = berth.daemon.resident()?;
    Ok(Upgrades {
        plan,
        took_ms,
        load,
        within,
        steady,
        guests,
        ledger,
        resident_before,
        resident_after,
        problems,
    })
}
