//! Reading on where the last run ended, without a line lost or stored twice.
//!
//! An engine can be asked for lines since a time, but only roughly, and several lines may have the same
//! time. So a position is the time of the last line and how many lines of exactly that time were seen, for
//! each output of its own: the two are recorded by different writers, whose times may cross.

use berth_store::{LogPosition, OutputStream};

/// How much earlier than the last line to begin, for times of the two outputs that cross.
const OVERLAP_NANOS: i64 = 2_000_000_000;

/// Time of the last line, and how many lines have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Mark {
    at: i64,
    repeats: i64,
}

/// How far one output was read, and which lines of a new reading are old.
#[derive(Debug, Default)]
struct Track {
    reached: Option<Mark>,
    /// What is still to be skipped of this reading.
    old: Option<Mark>,
}

impl Track {
    /// Whether a line is new, and if so, moves on to it.
    fn admit(&mut self, at: i64) -> bool {
        match &mut self.old {
            Some(old) if at < old.at => return false,
            Some(old) if at == old.at && old.repeats > 0 => {
                old.repeats -= 1;
                return false;
            }
            // From the first later line on, everything is new, even if its time goes back a little.
            Some(old) if at > old.at => self.old = None,
            _ => {}
        }
        match &mut self.reached {
            Some(mark) if at < mark.at => {}
            Some(mark) if at == mark.at => mark.repeats += 1,
            reached => *reached = Some(Mark { at, repeats: 1 }),
        }
        true
    }
}

/// How far a container was read.
#[derive(Debug, Default)]
pub(crate) struct Resume([Track; 2]);

impl Resume {
    /// Goes on from what the store knows.
    pub(crate) fn from_positions(positions: &[LogPosition]) -> Self {
        let mut resume = Self::default();
        for p in positions {
            resume.0[index(p.stream)].reached = Some(Mark { at: p.at_nanos, repeats: p.repeats });
        }
        resume
    }

    /// Begins a reading and says since when to ask.
    pub(crate) fn begin(&mut self) -> i64 {
        for track in &mut self.0 {
            track.old = track.reached;
        }
        let last = self.0.iter().filter_map(|t| t.reached).map(|m| m.at).max();
        last.map_or(0, |at| at.saturating_sub(OVERLAP_NANOS).max(0))
    }

    /// Whether a line has not been seen yet.
    pub(crate) fn admit(&mut self, stream: OutputStream, at_nanos: i64) -> bool {
        self.0[index(stream)].admit(at_nanos)
    }

    /// Time and count of the last line of an output.
    pub(crate) fn reached(&self, stream: OutputStream) -> Option<(i64, i64)> {
        self.0[index(stream)].reached.map(|m| (m.at, m.repeats))
    }
}

fn index(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_store::AppId;
    use proptest::prelude::*;

    fn positions(resume: &Resume) -> Vec<LogPosition> {
        [OutputStream::Stdout, OutputStream::Stderr]
            .into_iter()
            .filter_map(|stream| {
                let (at_nanos, repeats) = resume.reached(stream)?;
                let container = "c".into();
                Some(LogPosition { container, stream, app_id: AppId(1), at_nanos, repeats })
            })
            .collect()
    }

    #[test]
    fn lines_of_the_same_instant_are_told_apart_by_their_count() {
        let mut first = Resume::default();
        assert_eq!(first.begin(), 0);
        assert!(first.admit(OutputStream::Stdout, 5) && first.admit(OutputStream::Stdout, 5));
        let mut second = Resume::from_positions(&positions(&first));
        second.begin();
        let admitted: Vec<bool> =
            [4, 5, 5, 5, 6].map(|at| second.admit(OutputStream::Stdout, at)).into_iter().collect();
        assert_eq!(admitted, [false, false, false, true, true]);
    }

    #[test]
    fn reading_begins_a_little_before_the_last_line() {
        let mut resume = Resume::default();
        resume.admit(OutputStream::Stderr, 1_000_000_000);
        resume.admit(OutputStream::Stdout, 90_000_000_000);
        assert_eq!(resume.begin(), 88_000_000_000);
    }

    proptest! {
        /// However often reading is broken off and begun anew, each line is taken exactly once.
        #[test]
        fn every_line_is_taken_exactly_once(
            steps in prop::collection::vec((0i64..3, any::<bool>()), 1..60),
            breaks in prop::collection::vec(0usize..60, 0..6),
        ) {
            // Times never go back within an output and cross between the two by less than the overlap.
            let mut at = 1_000_000;
            let lines: Vec<(OutputStream, i64)> = steps
                .iter()
                .map(|(step, err)| {
                    at += step * 1_000_000;
                    if *err { (OutputStream::Stderr, at - 500_000) } else { (OutputStream::Stdout, at) }
                })
                .collect();
            let mut taken = vec![0; lines.len()];
            let mut stored: Vec<LogPosition> = Vec::new();
            let mut ends = breaks.clone();
            ends.push(lines.len());
            for end in ends {
                let mut resume = Resume::from_positions(&stored);
                let since = resume.begin();
                for (n, (stream, at)) in lines.iter().enumerate().take(end) {
                    if *at >= since && resume.admit(*stream, *at) {
                        taken[n] += 1;
                    }
                }
                stored = positions(&resume);
            }
            prop_assert!(taken.iter().all(|n| *n == 1), "{taken:?}");
        }
    }
}
