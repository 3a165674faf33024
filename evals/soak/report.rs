//! The report: one column for each side, what failed and when, and the verdict.

use std::{collections::BTreeMap, fmt::Display};

use crate::{
    domains::Domains,
    guests::Outcome,
    switch::Run,
    tally::{Figures, Kept, Kind},
    upgrade::Upgrades,
};

/// Failures that are printed; the JSON file has more.
const MOST_PRINTED: usize = 25;

/// Prints rows with one column for each run.
struct Table<'a>(&'a [Run]);

impl Table<'_> {
    fn row<T: Display>(&self, name: &str, cell: impl Fn(&Run) -> T) {
        print!("{name:<46}");
        for run in self.0 {
            print!("{:>18}", cell(run).to_string());
        }
        println!();
    }
}

/// Prints everything; the runs stand side by side.
pub(crate) fn print(runs: &[Run], load_average: &str) {
    let table = Table(runs);
    println!();
    table.row("", |run| run.side);
    table.row("deployments", |run| run.deployments.len());
    table.row("seconds under load", |run| format!("{:.0}", run.load.seconds));
    table.row("requests sent", |run| run.load.sent);
    table.row("requests failed", |run| run.load.failed);
    for kind in Kind::ALL.map(Kind::name) {
        if runs.iter().any(|run| run.load.failed_by_kind.get(kind).is_some_and(|n| *n > 0)) {
            table.row(&format!("  {kind}"), |run| run.load.failed_by_kind.get(kind).copied().unwrap_or(0));
        }
    }
    table.row("sent again because not touched", |run| run.load.resent);
    table.row("p50, ms", |run| format!("{:.1}", run.load.p50_ms));
    table.row("p99, ms", |run| format!("{:.1}", run.load.p99_ms));
    table.row("p99.9, ms", |run| format!("{:.1}", run.load.p999_ms));
    table.row("slowest, ms", |run| format!("{:.1}", run.load.slowest_ms));
    table.row("longest gap without an answer, ms", |run| format!("{:.1}", run.load.longest_gap_ms));
    table.row("call to first answer of the new release, s", |run| {
        median(run.deployments.iter().map(|d| d.switched_ms / 1e3))
    });
    table.row("call to end of the old release, s", |run| {
        median(run.deployments.iter().map(|d| d.over_ms / 1e3))
    });
    for (kind, _) in kinds(runs.iter().flat_map(|run| &run.guests)) {
        table.row(&format!("{kind}, good of spanning"), |run| {
            let all = kinds(run.guests.iter()).remove(&kind).unwrap_or_default();
            format!("{} of {}", all.0, all.1)
        });
    }
    table.row("POSTs accounted for", |run| run.ledger.posts);
    table.row("POSTs that apps saw twice", |run| run.ledger.twice);
    table.row("versions seen", |run| run.load.versions.keys().cloned().collect::<Vec<_>>().join(" "));
    table.row("resident memory before, MB", |run| format!("{:.1}", run.resident_before as f64 / 1e6));
    table.row("resident memory after, MB", |run| format!("{:.1}", run.resident_after as f64 / 1e6));
    table.row("containers running + stopped", |run| format!("{} + {}", run.left.running, run.left.stopped));
    table.row("images, networks", |run| format!("{}, {}", run.left.images, run.left.networks));
    println!("load average of the machine: {load_average}");
    runs.iter().for_each(|run| print_ways(run.side, &run.load));
    runs.iter().for_each(|run| print_failures(run.side, &run.load.failures));
    for run in runs {
        print_verdict(run.side, &run.problems);
    }
}

/// Prints what upgrades did to visitors: within the hand-overs, and at rest.
pub(crate) fn print_upgrades(run: &Upgrades, load_average: &str) {
    let row = |name: &str, cell: String| println!("{name:<46}{cell:>18}");
    let (load, windows) = (&run.load, [("in a hand-over", run.within), ("at rest", run.steady)]);
    println!();
    row("upgrades", run.took_ms.len().to_string());
    row("an upgrade takes, s", median(run.took_ms.iter().map(|ms| ms / 1e3)));
    row("requests sent", load.sent.to_string());
    row("requests failed", load.failed.to_string());
    for (kind, failed) in load.failed_by_kind.iter().filter(|(_, failed)| **failed > 0) {
        row(&format!("  {kind}"), failed.to_string());
    }
    row("sent again because not touched", load.resent.to_string());
    for (when, latency) in windows {
        row(&format!("requests {when}"), latency.requests.to_string());
        row(&format!("p50 {when}, ms"), format!("{:.1}", latency.p50_ms));
        row(&format!("p99 {when}, ms"), format!("{:.1}", latency.p99_ms));
        row(&format!("slowest {when}, ms"), format!("{:.1}", latency.max_ms));
    }
    row("longest gap without an answer, ms", format!("{:.1}", load.longest_gap_ms));
    for (kind, (good, all)) in kinds(run.guests.iter()) {
        row(&format!("{kind}, good of spanning"), format!("{good} of {all}"));
    }
    row("POSTs accounted for", run.ledger.posts.to_string());
    row("POSTs that apps saw twice", run.ledger.twice.to_string());
    row("resident memory before, MB", format!("{:.1}", run.resident_before as f64 / 1e6));
    row("resident memory after, MB", format!("{:.1}", run.resident_after as f64 / 1e6));
    println!("load average of the machine: {load_average}");
    print_ways("berth", load);
    print_failures("berth", &load.failures);
    print_verdict("berth", &run.problems);
}

/// Prints what changes of domains and renewals did to visitors.
pub(crate) fn print_domains(run: &Domains, load_average: &str) {
    let row = |name: &str, cell: String| println!("{name:<46}{cell:>18}");
    let load = &run.load;
    println!();
    row("seconds under load", format!("{:.0}", load.seconds));
    for (what, count) in &run.changes {
        row(what, count.to_string());
    }
    row("certificates issued", run.issued.to_string());
    row("certificates renewed", run.renewed.to_string());
    row("orders that failed", run.orders_failed.to_string());
    row("certificates that visitors were shown", run.shown.to_string());
    row("requests sent", load.sent.to_string());
    row("requests failed", load.failed.to_string());
    for (kind, failed) in load.failed_by_kind.iter().filter(|(_, failed)| **failed > 0) {
        row(&format!("  {kind}"), failed.to_string());
    }
    row("sent again because not touched", load.resent.to_string());
    row("p50, ms", format!("{:.1}", load.p50_ms));
    row("p99, ms", format!("{:.1}", load.p99_ms));
    row("slowest, ms", format!("{:.1}", load.slowest_ms));
    row("longest gap without an answer, ms", format!("{:.1}", load.longest_gap_ms));
    row("POSTs that apps saw twice", run.ledger.twice.to_string());
    row("resident memory before, MB", format!("{:.1}", run.resident_before as f64 / 1e6));
    row("resident memory after, MB", format!("{:.1}", run.resident_after as f64 / 1e6));
    println!("load average of the machine: {load_average}");
    print_ways("berth", load);
    print_failures("berth", &load.failures);
    print_verdict("berth", &run.problems);
}

fn print_ways(side: &str, load: &Figures) {
    println!("\n{side}: requests by way (failed)");
    for (way, (sent, failed)) in &load.ways {
        println!("  {way:<40}{sent:>8}{:>8}", format!("({failed})"));
    }
}

/// Prints what failed and when.
pub(crate) fn print_failures(side: &str, failures: &[Kept]) {
    if failures.is_empty() {
        return;
    }
    println!("\n{side}: failures, the first of them");
    for failure in failures.iter().take(MOST_PRINTED) {
        println!("  {}: {} ({}), {}", failure.way, failure.kind.name(), failure.detail, failure.when);
    }
}

/// Prints the verdict with its reasons.
pub(crate) fn print_verdict(side: &str, problems: &[String]) {
    if problems.is_empty() {
        println!("\n{side}: nothing was lost");
        return;
    }
    println!("\n{side}: NOT without loss");
    for problem in problems.iter().take(MOST_PRINTED) {
        println!("  - {problem}");
    }
    if problems.len() > MOST_PRINTED {
        println!("  - and {} more", problems.len() - MOST_PRINTED);
    }
}

/// By sort of guest: how many were served well, of how many that spanned a switch.
fn kinds<'a>(guests: impl Iterator<Item = &'a Outcome>) -> BTreeMap<String, (usize, usize)> {
    let mut kinds = BTreeMap::<String, (usize, usize)>::new();
    for guest in guests.filter(|guest| guest.spanned || guest.failure.is_some()) {
        let count = kinds.entry(guest.guest.clone()).or_default();
        *count = (count.0 + usize::from(guest.failure.is_none()), count.1 + 1);
    }
    kinds
}

fn median(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).map_or("-".to_owned(), |value| format!("{value:.1}"))
}
