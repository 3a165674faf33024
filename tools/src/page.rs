//! Lists in pages, and answers that fit their reader.

use berth_schemas::{Code, Problem, Timestamp};
use serde::Serialize;

/// How long an answer may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// A program or a terminal reads.
    Unlimited,
    /// A model reads, and pays by the token.
    Model {
        /// Bytes for callers who did not say how much they want.
        usual: usize,
        /// Bytes for callers who did.
        most: usize,
    },
}

impl Budget {
    /// What a model gets: about 2,000 tokens, or up to 7,000 when it asked for a number of lines. MCP cuts what has more
    /// than 8,000 with its frames, and whatever it cuts is on no page: a list has to stay clear of that.
    pub const MODEL: Self = Self::Model { usual: 8_200, most: 28_700 };

    /// What is left for rows beside this many bytes of something else that the caller asked for.
    pub(crate) fn beside(self, bytes: usize) -> Self {
        match self {
            Self::Unlimited => self,
            Self::Model { usual, most } => Self::Model {
                // Who did not say how much it wants still gets a page worth reading.
                usual: usual.saturating_sub(bytes).max(usual / 2),
                most: most.saturating_sub(bytes),
            },
        }
    }

    /// The budget of one of two parts of an answer, neither of which may leave the other without room.
    pub(crate) fn half(self) -> Self {
        match self {
            Self::Unlimited => self,
            Self::Model { usual, most } => Self::Model { usual: usual / 2, most: most / 2 },
        }
    }

    /// Bytes for an answer whose caller did (`asked`) or did not say how much is wanted.
    fn bytes(self, asked: bool) -> usize {
        match self {
            Self::Unlimited => usize::MAX,
            Self::Model { usual, most } => {
                if asked {
                    most
                } else {
                    usual
                }
            }
        }
    }
}

/// Most rows that may be asked for of a list that is there as a whole.
const MOST_OF_WHOLE: u32 = 500;

/// Which end of a list stays when it must be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    First,
    Last,
}

/// Cuts `items` to what the budget allows; true if some had to go. At least one stays.
pub(crate) fn fit<T: Serialize>(items: &mut Vec<T>, keep: Keep, budget: Budget, asked: bool) -> bool {
    /// What a frame around a quote and the brief's line cost beside the item itself.
    const OVERHEAD: usize = 60;
    let limit = budget.bytes(asked);
    if limit == usize::MAX {
        return false;
    }
    let mut sum = 0_usize;
    let mut fits = |item: &T| {
        sum += serde_json::to_string(item).map_or(0, |s| s.len()) + OVERHEAD;
        sum <= limit
    };
    let count = match keep {
        Keep::First => items.iter().take_while(|i| fits(i)).count(),
        Keep::Last => items.iter().rev().take_while(|i| fits(i)).count(),
    }
    .max(1);
    if count >= items.len() {
        return false;
    }
    match keep {
        Keep::First => items.truncate(count),
        Keep::Last => drop(items.drain(..items.len() - count)),
    }
    true
}

/// Cuts the rows of a page to what the budget allows; true if more follow them: the page has as many as its `limit`, or
/// some had to go. Its cursor has to be made afterwards, from the last row that stayed, so that the next page begins
/// with the first one that went.
pub(crate) fn cut<T: Serialize>(rows: &mut Vec<T>, limit: i64, budget: Budget, asked: bool) -> bool {
    let full = i64::try_from(rows.len()).unwrap_or(i64::MAX) >= limit;
    fit(rows, Keep::First, budget, asked) || full
}

/// The same for rows that are there as a whole, of which the page has at most `limit`.
pub(crate) fn cut_whole<T: Serialize>(rows: &mut Vec<T>, limit: i64, budget: Budget, asked: bool) -> bool {
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > most;
    rows.truncate(most);
    fit(rows, Keep::First, budget, asked) || more
}

/// How a list goes on, for its text.
pub(crate) fn more(next_cursor: Option<&String>) -> Option<String> {
    next_cursor.map(|cursor| format!("\nMore with cursor={cursor:?}."))
}

/// The page size asked for, or `usual`; refuses what is out of range, because schemas only publish it.
pub(crate) fn limit(asked: Option<u32>, usual: u32, most: u32) -> Result<i64, Problem> {
    match asked {
        None => Ok(i64::from(usual)),
        Some(n) if (1..=most).contains(&n) => Ok(i64::from(n)),
        Some(n) => Err(Problem::invalid("limit", format!("limit is {n}; it must be from 1 to {most}."))),
    }
}

/// The page size asked for of a list that is there as a whole; without a wish all that fits the answer.
pub(crate) fn limit_of_whole(asked: Option<u32>) -> Result<i64, Problem> {
    limit(asked, u32::MAX, MOST_OF_WHOLE)
}

/// A cursor that is a number.
pub(crate) fn number_cursor(cursor: Option<&str>) -> Result<Option<i64>, Problem> {
    cursor.map(|c| c.parse().ok().filter(|n| *n >= 0).ok_or_else(|| bad_cursor(c))).transpose()
}

/// The cursor of a list without names or numbers: how many of its rows were seen, newest first. What comes to the list
/// meanwhile makes the next page begin with rows that were seen.
pub(crate) fn skipped(before: i64, rows: usize) -> String {
    before.saturating_add(i64::try_from(rows).unwrap_or(i64::MAX)).to_string()
}

/// A cursor that is a name.
pub(crate) fn name_cursor<N: std::str::FromStr>(cursor: Option<&str>) -> Result<Option<N>, Problem> {
    cursor.map(|c| c.parse().map_err(|_| bad_cursor(c))).transpose()
}

/// A cursor that is a moment and the number of a row: where one row of many of the same time stands.
pub(crate) fn moment_cursor(cursor: Option<&str>) -> Result<Option<(Timestamp, i64)>, Problem> {
    let read = |c: &str| {
        let (at, row) = c.split_once('-')?;
        let (at, row) = (at.parse::<i64>().ok()?, row.parse::<i64>().ok()?);
        (at >= 0 && row >= 0).then_some((Timestamp(at), row))
    };
    cursor.map(|c| read(c).ok_or_else(|| bad_cursor(c))).transpose()
}

/// The cursor that [`moment_cursor`] reads.
pub(crate) fn moment((at, row): (Timestamp, i64)) -> String {
    format!("{}-{row}", at.0)
}

fn bad_cursor(cursor: &str) -> Problem {
    let shown: String = cursor.chars().take(40).collect();
    Problem {
        field: Some("cursor".into()),
        ..Problem::new(Code::InvalidInput, format!("{shown:?} is no cursor of this list."))
    }
    .hint("Pass next_cursor of the page before as it was, or leave cursor out for the first page.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_keeps_the_end_that_was_asked_for() {
        let budget = Budget::Model { usual: 200, most: 400 };
        let all: Vec<u32> = (0..100).collect();
        let (mut first, mut last, mut more) = (all.clone(), all.clone(), all.clone());
        assert!(fit(&mut first, Keep::First, budget, false));
        assert!(fit(&mut last, Keep::Last, budget, false));
        assert!(fit(&mut more, Keep::Last, budget, true));
        assert_eq!((first[0], last.last()), (0, Some(&99)));
        assert!(more.len() > last.len());
        assert!(!fit(&mut all.clone(), Keep::First, Budget::Unlimited, false));
    }

    #[test]
    fn one_item_always_stays() {
        let mut items = vec!["x".repeat(1000), "y".into()];
        assert!(fit(&mut items, Keep::First, Budget::Model { usual: 10, most: 10 }, false));
        assert_eq!(items.len(), 1);
    }

    #[test]
    fn a_page_has_more_behind_it_when_it_is_full_or_was_cut() {
        let budget = Budget::Model { usual: 200, most: 400 };
        for (rows, limit, budget, more) in [
            (2, 2, Budget::Unlimited, true),
            (2, 3, Budget::Unlimited, false),
            (2, 3, budget, false),
            (50, 99, budget, true),
        ] {
            let mut page: Vec<u32> = (0..rows).collect();
            assert_eq!(cut(&mut page, limit, budget, false), more, "{rows} of {limit}");
        }
    }

    #[test]
    fn limits_and_cursors_are_checked() {
        assert_eq!(limit(None, 20, 100), Ok(20));
        assert!(limit(Some(0), 20, 100).is_err());
        assert!(limit(Some(101), 20, 100).is_err());
        assert!(number_cursor(Some("-1")).is_err());
        assert!(name_cursor::<berth_schemas::AppSlug>(Some("No Name")).is_err());
        let place = (Timestamp(1_770_000_000_000_000), 42);
        assert_eq!(moment_cursor(Some(&moment(place))), Ok(Some(place)));
        for bad in ["", "-", "1", "1-", "-1-2", "1--2", "1-2-3", "a-1"] {
            assert!(moment_cursor(Some(bad)).is_err(), "{bad}");
        }
    }
}
