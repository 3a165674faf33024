//! What is ordered next, where and when. Pure: from what happened to what is to be done.
//!
//! A failure moves on to what has not been tried: another challenge where the authority could not see that the name
//! is ours, another authority where this one does not answer or does not want to. Only what failed already waits,
//! twice as long each time. Two limits hold whatever else is wanted: no authority sees more failed validations of a
//! name than the strictest published limit allows (Let's Encrypt: 5 in an hour), and none is asked again before it said.
//! What one authority said binds nobody else: another that is offered is asked meanwhile.

use std::time::Duration;

use berth_schemas::{Timestamp, domain::ChallengeKind};
use berth_store::Fault;

/// Failed validations of a name at one authority within [`VALIDATION_WINDOW`]: one fewer than Let's Encrypt allows.
pub(crate) const VALIDATIONS: usize = 4;
/// See [`VALIDATIONS`].
pub(crate) const VALIDATION_WINDOW: Duration = Duration::from_secs(3600);
/// Certificates for the same name within [`DUPLICATE_WINDOW`] at Let's Encrypt.
const DUPLICATES: usize = 5;
/// See [`DUPLICATES`].
const DUPLICATE_WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);
/// Before something else is tried.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Before the same is tried for the second time.
const FIRST_WAIT: Duration = Duration::from_secs(60);
/// Longest wait between tries.
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 3600);

/// An order that ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Past {
    pub(crate) directory: String,
    pub(crate) challenge: ChallengeKind,
    /// None: the certificate came.
    pub(crate) fault: Option<Fault>,
    pub(crate) at: Timestamp,
    /// The authority said not to come before.
    pub(crate) not_before: Option<Timestamp>,
}

/// What can be ordered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offer<'a> {
    /// Authorities, the preferred one first; at least one.
    pub(crate) directories: &'a [String],
    /// Challenges, the preferred one first.
    pub(crate) challenges: &'a [ChallengeKind],
}

/// What is to be ordered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Next {
    pub(crate) directory: String,
    pub(crate) challenge: ChallengeKind,
    /// Not before.
    pub(crate) at: Timestamp,
}

/// The next order for a name after `past`, oldest first; none where nothing can be ordered. `spread`, from 0 to 1, keeps
/// names that failed together from being tried together.
pub(crate) fn next(past: &[Past], offer: &Offer<'_>, now: Timestamp, spread: f64) -> Option<Next> {
    let failures = failures(past);
    let directory = directory(past, offer.directories, now)?;
    let challenge = challenge(failures.last(), offer.challenges)?;
    let floor = floor(past, directory);
    let tried = failures.iter().filter(|p| p.directory == directory && p.challenge == challenge).count();
    let since = failures.last().map_or(now, |p| p.at);
    let wait = if failures.is_empty() { Duration::ZERO } else { wait(tried, spread) };
    let at = later(since, wait).max(floor.unwrap_or(now));
    Some(Next { directory: directory.to_owned(), challenge, at })
}

/// Until when the limits of authorities keep the next order for a name back, whoever wants it; none if they do not.
pub(crate) fn held(past: &[Past], directories: &[String], now: Timestamp) -> Option<Timestamp> {
    floor(past, directory(past, directories, now)?).filter(|at| *at > now)
}

/// The earliest time at which an authority may be asked for a name, whoever wants it.
pub(crate) fn floor(past: &[Past], directory: &str) -> Option<Timestamp> {
    let failed = past.iter().filter(|p| p.directory == directory && p.fault == Some(Fault::Validation));
    let validation = nth_last(failed, VALIDATIONS).map(|at| later(at, VALIDATION_WINDOW));
    validation.max(shut(past, directory))
}

/// Until when an authority gives nothing for a name, however well the name is proven.
fn shut(past: &[Past], directory: &str) -> Option<Timestamp> {
    let at_it = || past.iter().filter(|p| p.directory == directory);
    let said = at_it().filter_map(|p| p.not_before).max();
    let issued = at_it().filter(|p| p.fault.is_none() && has_published_limits(directory));
    let duplicate = nth_last(issued, DUPLICATES).map(|at| later(at, DUPLICATE_WINDOW));
    said.max(duplicate)
}

/// The failures since the last success.
fn failures(past: &[Past]) -> &[Past] {
    let settled = past.iter().rposition(|p| p.fault.is_none()).map_or(0, |at| at + 1);
    past.get(settled..).unwrap_or_default()
}

/// When the n-th last of these happened.
fn nth_last<'a>(past: impl Iterator<Item = &'a Past>, n: usize) -> Option<Timestamp> {
    let mut times: Vec<Timestamp> = past.map(|p| p.at).collect();
    times.sort();
    times.len().checked_sub(n).and_then(|at| times.get(at).copied())
}

/// Whether an authority is known to count certificates: others issue short-lived ones as often as one likes.
fn has_published_limits(directory: &str) -> bool {
    let host = directory.strip_prefix("https://").and_then(|rest| rest.split(['/', ':']).next());
    host.is_some_and(|host| host == "letsencrypt.org" || host.ends_with(".letsencrypt.org"))
}

/// The authority to ask next: the same while the proof is what failed, else the one after it; of those that give nothing
/// now, whichever does first.
fn directory<'a>(past: &[Past], directories: &'a [String], now: Timestamp) -> Option<&'a str> {
    let from = match failures(past).last() {
        None => 0,
        Some(last) => {
            let at = directories.iter().position(|d| *d == last.directory);
            let moves = !is_of_proof(last.fault?);
            at.map_or(0, |at| at + usize::from(moves))
        }
    };
    let turn = (0..directories.len()).filter_map(|n| directories.get((from + n) % directories.len()));
    // The first of those that are equally good.
    turn.min_by_key(|d| shut(past, d).map_or(now, |at| at.max(now))).map(String::as_str)
}

/// The challenge to meet next: the one after that which did not convince, else the same.
fn challenge(last: Option<&Past>, challenges: &[ChallengeKind]) -> Option<ChallengeKind> {
    let Some(last) = last else { return challenges.first().copied() };
    let at = challenges.iter().position(|c| *c == last.challenge);
    let moves = is_of_proof(last.fault?);
    let at = at.map_or(0, |at| at + usize::from(moves));
    challenges.get(at % challenges.len().max(1)).copied()
}

/// Whether another proof may help, and not another authority.
fn is_of_proof(fault: Fault) -> bool {
    match fault {
        Fault::Validation | Fault::Unprepared => true,
        Fault::Refused | Fault::Limited | Fault::Unreachable => false,
    }
}

/// How long to wait for something that failed `tried` times.
fn wait(tried: usize, spread: f64) -> Duration {
    let Some(doublings) = tried.checked_sub(1) else { return AT_ONCE };
    let doubled = FIRST_WAIT.saturating_mul(1 << u32::try_from(doublings).unwrap_or(u32::MAX).min(20));
    let wait = doubled.min(LONGEST_WAIT);
    wait.mul_f64(0.9 + 0.2 * spread.clamp(0.0, 1.0))
}

/// When a certificate is to be renewed if the authority does not say: at two thirds of its life, and a little later
/// for some than for others.
pub(crate) fn renewal(not_before: Timestamp, not_after: Timestamp, spread: f64) -> Timestamp {
    let life = Duration::from_micros(u64::try_from(not_after.0.saturating_sub(not_before.0)).unwrap_or(0));
    let share = 2.0 / 3.0 + spread.clamp(0.0, 1.0) / 12.0;
    later(not_before, life.mul_f64(share))
}

/// A point of the window that an authority suggests (RFC 9773, 4.2): uniformly within it, or now if it has passed.
pub(crate) fn within(start: Timestamp, end: Timestamp, now: Timestamp, spread: f64) -> Timestamp {
    let width = Duration::from_micros(u64::try_from(end.0.saturating_sub(start.0)).unwrap_or(0));
    later(start, width.mul_f64(spread.clamp(0.0, 1.0))).max(now)
}

/// A time after another.
pub(crate) fn later(at: Timestamp, by: Duration) -> Timestamp {
    Timestamp(at.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;

    const A: &str = "https://acme-v02.api.letsencrypt.org/directory";
    const B: &str = "https://b.example/dir";

    fn directories() -> Vec<String> {
        vec![A.into(), B.into()]
    }

    const BOTH: [ChallengeKind; 2] = [ChallengeKind::Http01, ChallengeKind::TlsAlpn01];

    fn past(directory: &str, challenge: ChallengeKind, fault: Option<Fault>, second: i64) -> Past {
        let at = Timestamp(second * 1_000_000);
        Past { directory: directory.into(), challenge, fault, at, not_before: None }
    }

    /// A refusal for too many requests, with a day to wait.
    fn limited(directory: &str, second: i64) -> Past {
        let not_before = Some(Timestamp((second + DAY) * 1_000_000));
        Past { not_before, ..past(directory, BOTH[0], Some(Fault::Limited), second) }
    }

    const DAY: i64 = 24 * 3600;

    #[test]
    fn the_first_order_goes_to_the_first_authority_at_once() {
        let directories = directories();
        let offer = Offer { directories: &directories, challenges: &BOTH };
        let next = next(&[], &offer, Timestamp(5), 0.5).unwrap();
        assert_eq!(next, Next { directory: A.into(), challenge: ChallengeKind::Http01, at: Timestamp(5) });
        assert_eq!(super::next(&[], &Offer { challenges: &[], ..offer }, Timestamp(5), 0.5), None);
    }

    #[test]
    fn a_failure_moves_on_to_what_was_not_tried() {
        let directories = directories();
        let offer = Offer { directories: &directories, challenges: &BOTH };
        let down = [past(A, BOTH[0], Some(Fault::Unreachable), 100)];
        let next = super::next(&down, &offer, Timestamp(0), 0.5).unwrap();
        assert_eq!((next.directory.as_str(), next.challenge, next.at.0), (B, BOTH[0], 102_000_000));
        let unseen = [past(A, BOTH[0], Some(Fault::Validation), 100)];
        let next = super::next(&unseen, &offer, Timestamp(0), 0.5).unwrap();
        assert_eq!((next.directory.as_str(), next.challenge, next.at.0), (A, BOTH[1], 102_000_000));
        let all = [down[0].clone(), past(B, BOTH[0], Some(Fault::Unreachable), 110)];
        let next = super::next(&all, &offer, Timestamp(0), 0.5).unwrap();
        assert_eq!((next.directory.as_str(), next.at.0), (A, 170_000_000), "then it waits a minute");
    }

    #[test]
    fn what_one_authority_said_holds_no_other_back() {
        let directories = directories();
        let offer = Offer { directories: &directories, challenges: &BOTH };
        let now = Timestamp(100_000_000);
        let mut history = vec![limited(A, 100)];
        let next = super::next(&history, &offer, now, 0.5).unwrap();
        assert_eq!((next.directory.as_str(), next.at.0), (B, 102_000_000));
        assert_eq!(held(&history, &directories, now), None);
        // The other one fails, too: it is its turn again, as the first does not want to be asked.
        history.push(past(B, BOTH[0], Some(Fault::Unreachable), 110));
        let next = super::next(&history, &offer, now, 0.5).unwrap();
        assert_eq!((next.directory.as_str(), next.at.0), (B, 170_000_000));
        // Once both have said so, whichever may be asked first is, and not before.
        history.push(limited(B, 170));
        let next = super::next(&history, &offer, now, 0.5).unwrap();
        assert_eq!((next.directory.as_str(), next.at.0), (A, (100 + DAY) * 1_000_000));
    }

    #[test]
    fn the_only_authority_is_not_asked_before_it_said() {
        let only = [A.to_owned()];
        let said = Timestamp((100 + DAY) * 1_000_000);
        let history = [limited(A, 100)];
        let offer = Offer { directories: &only, challenges: &BOTH };
        let next = super::next(&history, &offer, Timestamp(100_000_000), 0.5).unwrap();
        assert_eq!((next.directory.as_str(), next.at), (A, said));
        assert_eq!((floor(&history, A), floor(&history, B)), (Some(said), None));
        assert_eq!(held(&history, &only, Timestamp(100_000_000)), Some(said));
        assert_eq!(held(&history, &only, said), None);
    }

    #[test]
    fn an_authority_that_counts_certificates_is_not_asked_for_a_sixth() {
        let issued: Vec<Past> = (0..5).map(|n| past(A, BOTH[0], None, n * 60)).collect();
        assert_eq!(floor(&issued, A), Some(Timestamp(7 * 24 * 3600 * 1_000_000)));
        assert_eq!(floor(&issued, B), None);
        let elsewhere: Vec<Past> = (0..9).map(|n| past(B, BOTH[0], None, n)).collect();
        assert_eq!(floor(&elsewhere, B), None);
    }

    #[test]
    fn a_renewal_is_due_at_two_thirds_and_spread() {
        let (from, to) = (Timestamp(0), Timestamp(90 * 24 * 3600 * 1_000_000));
        let days = |at: Timestamp| at.0 / (24 * 3600 * 1_000_000);
        assert_eq!((days(renewal(from, to, 0.0)), days(renewal(from, to, 1.0))), (60, 67));
        assert_eq!(within(Timestamp(10), Timestamp(20), Timestamp(0), 0.5), Timestamp(15));
        assert_eq!(within(Timestamp(10), Timestamp(20), Timestamp(99), 0.5), Timestamp(99));
    }

    fn fault() -> impl Strategy<Value = Option<Fault>> {
        prop_oneof![1 => Just(None), 9 => select(Fault::ALL.to_vec()).prop_map(Some)]
    }

    proptest! {
        /// However orders end, no hour sees more failed validations at an authority than it allows, none is asked
        /// before it said, something is always tried again within a day, and only what is offered.
        #[test]
        fn limits_hold_whatever_happens(
            ends in proptest::collection::vec((fault(), 0.0..1.0f64, 0i64..120, 0i64..40_000), 1..60),
            few in 1..3usize, kinds in 1..3usize,
        ) {
            let directories = directories();
            let offer = Offer { directories: &directories[..few], challenges: &BOTH[..kinds] };
            let mut now = Timestamp(1_000_000_000_000);
            let mut history: Vec<Past> = Vec::new();
            for (fault, spread, took, away) in ends {
                let next = next(&history, &offer, now, spread).unwrap();
                prop_assert!(offer.directories.contains(&next.directory));
                prop_assert!(offer.challenges.contains(&next.challenge));
                let issued = history.iter().filter(|p| p.fault.is_none()).count();
                if issued < 5 {
                    prop_assert!(next.at <= later(now, Duration::from_secs(24 * 3600)));
                }
                now = Timestamp(now.max(next.at).0 + took * 1_000_000);
                let said = history.iter().filter(|p| p.directory == next.directory).filter_map(|p| p.not_before);
                prop_assert!(said.max() <= Some(now));
                let not_before = (fault == Some(Fault::Limited)).then(|| later(now, Duration::from_secs(away as u64)));
                let Next { directory, challenge, .. } = next;
                history.push(Past { directory, challenge, fault, at: now, not_before });
            }
            for one in &history {
                let within = history.iter().filter(|p| {
                    p.directory == one.directory && p.fault == Some(Fault::Validation)
                        && p.at >= one.at && p.at < later(one.at, VALIDATION_WINDOW)
                });
                prop_assert!(within.count() <= 5);
            }
        }

        #[test]
        fn a_renewal_comes_before_the_end(life in 1i64..1_000_000_000_000, spread in 0.0..1.0f64) {
            let at = renewal(Timestamp(0), Timestamp(life), spread);
            prop_assert!(at.0 * 4 <= life * 3 + 4 && at.0 >= life / 2);
        }
    }
}
