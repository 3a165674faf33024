//! Whether a release answers worse than the one before it. Pure.

use berth_proxy::Answers;

/// What is bad enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thresholds {
    /// Percent of answers that may be server errors; from here on it is too many. 0 turns the rule off.
    pub(crate) percent: u8,
    /// Answers without which nothing is decided.
    pub(crate) at_least: u64,
}

/// Errors of so many answers are no accident.
const AT_LEAST: u64 = 20;
/// Percent where none was set.
const USUAL_PERCENT: u8 = 50;

impl Thresholds {
    /// The usual ones, with the percent that was set, if one was.
    pub(crate) fn of(percent: Option<u8>) -> Self {
        Self { percent: percent.unwrap_or(USUAL_PERCENT).min(100), at_least: AT_LEAST }
    }

    fn exceeded(self, answers: Answers) -> bool {
        self.percent > 0
            && answers.total >= self.at_least
            && answers.server_errors.saturating_mul(100) >= answers.total.saturating_mul(self.percent.into())
    }
}

/// Why `new` is too bad to keep, in words with the numbers; none if it is not, or if `old`, where known, was as bad:
/// then the cause lies elsewhere, and going back would help nobody.
pub(crate) fn reason(new: Answers, old: Option<Answers>, thresholds: Thresholds) -> Option<String> {
    if !thresholds.exceeded(new) || old.is_some_and(|old| thresholds.exceeded(old)) {
        return None;
    }
    let mut reason =
        format!("{} of {} answers were server errors ({} %)", new.server_errors, new.total, percent(new));
    if let Some(old) = old.filter(|old| old.total > 0) {
        reason.push_str(&format!(
            ", while the release before had {} of {} ({} %)",
            old.server_errors,
            old.total,
            percent(old)
        ));
    }
    Some(reason)
}

fn percent(answers: Answers) -> u64 {
    answers.server_errors.saturating_mul(100) / answers.total.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(server_errors: u64, total: u64) -> Answers {
        Answers { total, server_errors }
    }

    #[test]
    fn most_answers_of_enough_must_be_errors() {
        let usual = Thresholds::of(None);
        for (errors, total, bad) in [
            (19, 19, false),
            (10, 20, true),
            (9, 20, false),
            (20, 20, true),
            (499, 1000, false),
            (0, 0, false),
        ] {
            assert_eq!(reason(answers(errors, total), None, usual).is_some(), bad, "{errors} of {total}");
        }
        let said = reason(answers(41, 52), Some(answers(1, 100)), usual).unwrap();
        assert_eq!(
            said,
            "41 of 52 answers were server errors (78 %), while the release before had 1 of 100 (1 %)"
        );
    }

    #[test]
    fn what_was_as_bad_before_is_not_the_release() {
        let usual = Thresholds::of(None);
        assert_eq!(reason(answers(30, 30), Some(answers(25, 30)), usual), None);
        assert!(reason(answers(30, 30), Some(answers(5, 5)), usual).is_some(), "too few to tell");
    }

    #[test]
    fn the_rule_can_be_set_and_turned_off() {
        assert_eq!(reason(answers(100, 100), None, Thresholds::of(Some(0))), None);
        assert!(reason(answers(5, 100), None, Thresholds::of(Some(5))).is_some());
        assert_eq!(reason(answers(99, 100), None, Thresholds::of(Some(100))), None);
        assert!(reason(answers(u64::MAX, u64::MAX), None, Thresholds::of(Some(255))).is_some());
    }
}
