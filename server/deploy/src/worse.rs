//! Whether a release answers clearly worse than the one beside it, or the one before it. Pure: numbers in, reason out.

use berth_proxy::Answers;

/// From when on a release counts as clearly worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thresholds {
    /// Fewer answers than this say nothing.
    pub(crate) min_answers: u64,
    /// Share of server errors, in percent, from which a release is bad.
    pub(crate) bad_percent: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { min_answers: 20, bad_percent: 50 }
    }
}

/// Why a release is clearly worse than the main one, in a sentence; None when it is not, or nobody can tell yet.
///
/// Where the main release fails as often, the cause lies elsewhere (a database that is away), and taking the traffic
/// back would help nobody. A main release of which nothing is known, or too little, is taken for well.
pub(crate) fn clearly_worse(
    candidate: Answers,
    main: Option<Answers>,
    thresholds: Thresholds,
) -> Option<String> {
    if !is_bad(candidate, thresholds) || main.is_some_and(|main| is_bad(main, thresholds)) {
        return None;
    }
    let beside = match main {
        Some(main) if main.total > 0 => {
            format!("; of the live release {} of {} were", main.server_errors, main.total)
        }
        _ => String::new(),
    };
    Some(format!("{} of its {} answers were server errors{beside}", candidate.server_errors, candidate.total))
}

fn is_bad(answers: Answers, thresholds: Thresholds) -> bool {
    answers.total >= thresholds.min_answers.max(1)
        && answers.server_errors.saturating_mul(100) >= answers.total.saturating_mul(thresholds.bad_percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(total: u64, server_errors: u64) -> Answers {
        Answers { total, server_errors }
    }

    #[test]
    fn half_of_twenty_is_clearly_worse_and_less_is_not() {
        let judge = |candidate| clearly_worse(candidate, None, Thresholds::default());
        assert!(judge(answers(20, 10)).is_some_and(|why| why.contains("10 of its 20 answers")));
        assert_eq!(judge(answers(20, 9)), None);
        assert_eq!(judge(answers(19, 19)), None, "too few to tell");
        assert_eq!(judge(answers(0, 0)), None);
    }

    #[test]
    fn a_trouble_that_both_have_is_not_the_candidates() {
        let judge = |main| clearly_worse(answers(40, 40), Some(main), Thresholds::default());
        assert_eq!(judge(answers(100, 60)), None);
        assert!(judge(answers(100, 3)).is_some_and(|why| why.contains("3 of 100")));
        assert!(judge(answers(0, 0)).is_some(), "a main release that nobody asked says nothing");
    }
}
