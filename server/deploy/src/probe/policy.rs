//! What counts as healthy. Pure.

use std::time::Duration;

use super::attempt::{HealthProbe, ProbeOutcome};

/// Longest time a release may take to become healthy.
const MAX_TOTAL: Duration = Duration::from_secs(300);
/// Closed connections in a row that tell a service of another protocol from one that is still starting.
const STEADY_RESETS: u32 = 3;

/// How a release is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Path that must answer with 2xx or 3xx. Without one, `/` may answer anything below 500, and a service that
    /// accepts connections but does not speak HTTP passes too.
    pub path: Option<String>,
    /// Port of the app.
    pub port: u16,
    /// `Host` header of the request; the address, if `None`.
    pub host: Option<String>,
    /// Time between attempts. The first ones follow each other faster.
    pub interval: Duration,
    /// Time for one attempt.
    pub timeout_per_try: Duration,
    /// Time in all; at most 300 s are taken.
    pub total: Duration,
}

impl HealthPolicy {
    /// The usual check of `port`: every second, 5 s for one attempt, two minutes in all: some apps take a minute to start.
    pub fn of_port(port: u16) -> Self {
        Self {
            path: None,
            port,
            host: None,
            interval: Duration::from_secs(1),
            timeout_per_try: Duration::from_secs(5),
            total: Duration::from_secs(120),
        }
    }

    /// The time in all, bounded.
    pub fn total(&self) -> Duration {
        self.total.min(MAX_TOTAL)
    }

    /// The attempt that this policy wants.
    pub fn probe(&self) -> HealthProbe {
        HealthProbe {
            path: self.path.clone().unwrap_or_else(|| "/".to_owned()),
            host: self.host.clone(),
            timeout: self.timeout_per_try,
        }
    }

    /// Whether an outcome passes; `resets` counts the closed connections in a row, this one included.
    pub fn judge(&self, outcome: &ProbeOutcome, resets: u32) -> Verdict {
        let passes = match outcome {
            ProbeOutcome::Healthy { .. } => true,
            ProbeOutcome::Status { code, .. } => self.path.is_none() && *code < 500,
            ProbeOutcome::NotHttp => self.path.is_none(),
            // Some services, such as PostgreSQL, close the connection when they hear HTTP.
            ProbeOutcome::Reset => self.path.is_none() && resets >= STEADY_RESETS,
            ProbeOutcome::Refused | ProbeOutcome::Timeout { .. } => false,
        };
        if passes { Verdict::Healthy } else { Verdict::NotYet }
    }

    /// Time before attempt `number` (from 1 for the second one): short at first, because many apps start within
    /// milliseconds, and every one of them is a part of the deployment's time.
    pub fn pause(&self, number: u32) -> Duration {
        let quick = Duration::from_millis(20).saturating_mul(1 << number.min(10));
        quick.min(self.interval.max(Duration::from_millis(20)))
    }
}

/// What an outcome means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Healthy,
    /// Another attempt is needed.
    NotYet,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> ProbeOutcome {
        ProbeOutcome::Status { code, body_head: String::new() }
    }

    #[test]
    fn a_path_must_answer_well_and_no_path_must_only_answer() {
        let strict = HealthPolicy { path: Some("/up".into()), ..HealthPolicy::of_port(3000) };
        let lenient = HealthPolicy::of_port(3000);
        for (outcome, resets, with_path, without) in [
            (ProbeOutcome::Healthy { status: 301 }, 0, true, true),
            (status(404), 0, false, true),
            (status(401), 0, false, true),
            (status(500), 0, false, false),
            (ProbeOutcome::NotHttp, 0, false, true),
            (ProbeOutcome::Reset, 1, false, false),
            (ProbeOutcome::Reset, 3, false, true),
            (ProbeOutcome::Refused, 0, false, false),
            (ProbeOutcome::Timeout { connected: true }, 0, false, false),
        ] {
            assert_eq!(
                strict.judge(&outcome, resets) == Verdict::Healthy,
                with_path,
                "{outcome:?} with a path"
            );
            assert_eq!(lenient.judge(&outcome, resets) == Verdict::Healthy, without, "{outcome:?} without");
        }
    }

    #[test]
    fn attempts_begin_fast_and_settle_at_the_interval() {
        let policy = HealthPolicy::of_port(1);
        assert_eq!(policy.pause(1), Duration::from_millis(40));
        assert_eq!(policy.pause(99), policy.interval);
        assert_eq!(HealthPolicy { total: Duration::from_secs(9999), ..policy }.total(), MAX_TOTAL);
    }
}
