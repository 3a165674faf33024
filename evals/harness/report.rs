//! What came of many runs: a table for people, JSON for programs.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::run::Outcome;

/// The figures of a run of the exam.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Who sat it.
    pub agent: String,
    /// Version of the daemon's source that the harness belongs to.
    pub version: &'static str,
    /// Attempts at each task.
    pub k: u32,
    /// How many tasks.
    pub tasks: usize,
    /// Share of attempts that passed.
    pub pass_at_1: f64,
    /// Between which values it lies with 95 % probability (Wilson).
    pub interval: (f64, f64),
    /// Share of tasks of which every attempt passed.
    pub pass_hat_k: f64,
    /// Mean calls of an attempt.
    pub calls: f64,
    /// Mean tokens of an attempt.
    pub tokens: f64,
    /// Calls in all that must not be made.
    pub unsafe_actions: usize,
    /// Refused calls in all.
    pub errors: usize,
    /// Those after which the same tool worked.
    pub recovered: usize,
    /// Every run.
    pub runs: Vec<Outcome>,
}

#[allow(clippy::cast_precision_loss)]
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl Report {
    /// The figures of these runs.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn of(agent: &str, k: u32, runs: Vec<Outcome>) -> Self {
        let mut tasks: BTreeMap<&str, bool> = BTreeMap::new();
        for run in &runs {
            *tasks.entry(&run.task).or_insert(true) &= run.passed;
        }
        let passed = runs.iter().filter(|r| r.passed).count();
        let mean = |of: fn(&Outcome) -> f64| runs.iter().map(of).sum::<f64>() / runs.len().max(1) as f64;
        Self {
            agent: agent.to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            k,
            tasks: tasks.len(),
            pass_at_1: share(passed, runs.len()),
            interval: wilson(passed, runs.len()),
            pass_hat_k: share(tasks.values().filter(|all| **all).count(), tasks.len()),
            calls: mean(|r| r.calls as f64),
            tokens: mean(|r| r.tokens as f64),
            unsafe_actions: runs.iter().map(|r| r.unsafe_actions.len()).sum(),
            errors: runs.iter().map(|r| r.errors).sum(),
            recovered: runs.iter().map(|r| r.recovered).sum(),
            runs,
        }
    }

    /// As a table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        let width = self.runs.iter().map(|r| r.task.len()).max().unwrap_or(4).max(4);
        let _ = writeln!(
            out,
            "{:width$}  {:9}  {:>7}  {:>5}  {:>6}  {:>6}  {:>9}  {:>6}",
            "task", "kind", "passed", "calls", "tokens", "errors", "recovered", "unsafe"
        );
        let mut by_task: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
        for run in &self.runs {
            by_task.entry(&run.task).or_default().push(run);
        }
        for (task, runs) in &by_task {
            let sum = |of: fn(&Outcome) -> usize| runs.iter().map(|r| of(r)).sum::<usize>();
            let tokens = runs.iter().map(|r| r.tokens).sum::<u64>() / runs.len().max(1) as u64;
            let kind = runs.first().map_or_else(String::new, |r| format!("{:?}", r.kind).to_lowercase());
            let passed = format!("{}/{}", runs.iter().filter(|r| r.passed).count(), runs.len());
            let _ = writeln!(
                out,
                "{task:width$}  {kind:9}  {passed:>7}  {:>5}  {tokens:>6}  {:>6}  {:>9}  {:>6}",
                sum(|r| r.calls) / runs.len().max(1),
                sum(|r| r.errors),
                sum(|r| r.recovered),
                sum(|r| r.unsafe_actions.len()),
            );
            for run in runs.iter().filter(|r| !r.passed) {
                for wrong in run.wrong.iter().take(4) {
                    let _ = writeln!(out, "{:width$}  ✗ {wrong}", "");
                }
            }
        }
        let (low, high) = self.interval;
        let _ = writeln!(
            out,
            "\n{}: {} tasks × {}  pass@1 {:.3} ({low:.3}–{high:.3})  pass^{} {:.3}  calls {:.1}  tokens {:.0}  unsafe {}  errors {} ({} recovered)",
            self.agent,
            self.tasks,
            self.k,
            self.pass_at_1,
            self.k,
            self.pass_hat_k,
            self.calls,
            self.tokens,
            self.unsafe_actions,
            self.errors,
            self.recovered,
        );
        out
    }
}

/// Wilson's interval for a share, at 95 %.
#[allow(clippy::cast_precision_loss)]
fn wilson(part: usize, whole: usize) -> (f64, f64) {
    const Z: f64 = 1.96;
    if whole == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (whole as f64, share(part, whole));
    let middle = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((middle - spread) / scale).max(0.0), ((middle + spread) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::task::Kind;

    fn run(task: &str, attempt: u32, passed: bool) -> Outcome {
        Outcome {
            task: task.into(),
            kind: Kind::Read,
            agent: "a".into(),
            attempt,
            passed,
            wrong: Vec::new(),
            calls: 2,
            tokens: 100,
            billed: None,
            errors: 0,
            recovered: 0,
            unsafe_actions: Vec::new(),
            ms: 1,
            answer: String::new(),
            transcript: Vec::new(),
        }
    }

    #[test]
    fn one_failure_of_many_attempts_costs_the_task_and_not_all() {
        let runs = vec![run("a", 1, true), run("a", 2, true), run("b", 1, true), run("b", 2, false)];
        let report = Report::of("x", 2, runs);
        assert_eq!((report.tasks, report.pass_at_1, report.pass_hat_k), (2, 0.75, 0.5));
        assert!(report.interval.0 < 0.75 && 0.75 < report.interval.1);
        assert!(report.table().contains("pass^2 0.500"), "{}", report.table());
    }
}
