//! A limit for containers that print without end.
//!
//! The rate is counted in the container's own time, that is by the times of its lines: reading up on an hour
//! after a restart is no flood, a hundred thousand lines within a second are one.

/// Lines that a container may print: so many a second, and so many at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FloodLimit {
    pub(crate) per_second: i64,
    pub(crate) burst: i64,
}

/// Lets lines through as long as the limit allows.
#[derive(Debug)]
pub(crate) struct FloodGate {
    limit: FloodLimit,
    /// What is left, in billionths of a line.
    left: i128,
    last_nanos: i64,
    held_back: u64,
}

const NANO: i128 = 1_000_000_000;

impl FloodGate {
    pub(crate) fn new(limit: FloodLimit) -> Self {
        Self { limit, left: i128::from(limit.burst) * NANO, last_nanos: i64::MIN, held_back: 0 }
    }

    /// Whether a line of this time goes through.
    pub(crate) fn admit(&mut self, at_nanos: i64) -> bool {
        let passed = i128::from(at_nanos) - i128::from(self.last_nanos);
        self.last_nanos = self.last_nanos.max(at_nanos);
        let full = i128::from(self.limit.burst) * NANO;
        self.left = (self.left + passed.max(0) * i128::from(self.limit.per_second)).min(full);
        if self.left >= NANO {
            self.left -= NANO;
            return true;
        }
        self.held_back += 1;
        false
    }

    /// How many lines were held back since this was last asked.
    pub(crate) fn take_held_back(&mut self) -> u64 {
        std::mem::take(&mut self.held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_calm_lines_pass_again() {
        let mut gate = FloodGate::new(FloodLimit { per_second: 10, burst: 20 });
        let passed = (0..1000).filter(|n| gate.admit(n * 1_000_000)).count();
        assert_eq!(passed, 29, "the burst and a second's worth");
        assert_eq!(gate.take_held_back(), 971);
        assert!(gate.admit(3_000_000_000));
        assert_eq!(gate.take_held_back(), 0);
    }

    #[test]
    fn history_read_at_once_is_no_flood() {
        let mut gate = FloodGate::new(FloodLimit { per_second: 10, burst: 20 });
        assert!((0..10_000).all(|n| gate.admit(n * 100_000_000)));
    }
}
