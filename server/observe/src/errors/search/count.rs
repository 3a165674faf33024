//! Counting among the events that a query finds: by issue, and by the values of a field.

use std::collections::HashMap;

use tantivy::{
    DocId, DocSet as _, Score, Searcher, SegmentOrdinal, SegmentReader, TERMINATED,
    collector::{Collector, SegmentCollector},
    columnar::Column,
    schema::{Field, IndexRecordOption},
};

use super::index::Hit;

/// Issues of a segment whose hits are counted in a list; if their rows are further apart, in a map.
const SPAN: u64 = 1 << 16;

/// Collects matching events by issue.
pub(super) struct ByIssue;

/// Hits by issue, within a segment.
pub(super) struct IssueCounts {
    issue: Column<u64>,
    first: u64,
    near: Vec<Hit>,
    far: HashMap<u64, Hit>,
}

impl Collector for ByIssue {
    type Fruit = HashMap<i64, Hit>;
    type Child = IssueCounts;

    fn for_segment(&self, _: SegmentOrdinal, segment: &SegmentReader) -> tantivy::Result<IssueCounts> {
        let issue = segment.fast_fields().u64("issue")?;
        let first = issue.min_value();
        let span = issue.max_value().saturating_sub(first).saturating_add(1).min(SPAN);
        let near = vec![Hit::default(); usize::try_from(span).unwrap_or(0)];
        Ok(IssueCounts { issue, first, near, far: HashMap::new() })
    }

    fn requires_scoring(&self) -> bool {
        true
    }

    fn merge_fruits(&self, segments: Vec<HashMap<i64, Hit>>) -> tantivy::Result<HashMap<i64, Hit>> {
        let mut all: HashMap<i64, Hit> = HashMap::new();
        for (issue, hit) in segments.into_iter().flatten() {
            let sum = all.entry(issue).or_default();
            sum.events += hit.events;
            sum.score = sum.score.max(hit.score);
        }
        Ok(all)
    }
}

impl SegmentCollector for IssueCounts {
    type Fruit = HashMap<i64, Hit>;

    fn collect(&mut self, doc: DocId, score: Score) {
        let Some(issue) = self.issue.first(doc) else { return };
        let near = issue.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let hit = match near.and_then(|at| self.near.get_mut(at)) {
            Some(hit) => hit,
            None => self.far.entry(issue).or_default(),
        };
        hit.events += 1;
        hit.score = hit.score.max(score);
    }

    fn harvest(self) -> HashMap<i64, Hit> {
        let near = (self.first..).zip(self.near).filter(|(_, hit)| hit.events > 0);
        near.chain(self.far).map(|(issue, hit)| (i64::try_from(issue).unwrap_or(0), hit)).collect()
    }
}

/// Collects which events match.
pub(super) struct Matching;

/// The matching events of a segment, one bit each.
pub(super) struct Marks {
    segment: SegmentOrdinal,
    bits: Vec<u64>,
}

impl Marks {
    fn has(&self, doc: DocId) -> bool {
        self.bits.get(doc as usize / 64).is_some_and(|bits| bits & (1 << (doc % 64)) != 0)
    }
}

impl Collector for Matching {
    type Fruit = Vec<Marks>;
    type Child = Marks;

    fn for_segment(&self, segment: SegmentOrdinal, reader: &SegmentReader) -> tantivy::Result<Marks> {
        Ok(Marks { segment, bits: vec![0; reader.max_doc() as usize / 64 + 1] })
    }

    fn requires_scoring(&self) -> bool {
        false
    }

    fn merge_fruits(&self, segments: Vec<Marks>) -> tantivy::Result<Vec<Marks>> {
        Ok(segments)
    }
}

impl SegmentCollector for Marks {
    type Fruit = Self;

    fn collect(&mut self, doc: DocId, _: Score) {
        if let Some(bits) = self.bits.get_mut(doc as usize / 64) {
            *bits |= 1 << (doc % 64);
        }
    }

    fn harvest(self) -> Self {
        self
    }
}

/// How many matching events have each of the words of a field that begin with `prefix`; the words without it.
///
/// Goes over the lists of these words, and so costs what the field has, not what the events have.
pub(super) fn values(
    searcher: &Searcher,
    matching: &[Marks],
    field: Field,
    prefix: &str,
) -> tantivy::Result<HashMap<String, u64>> {
    let mut counts = HashMap::new();
    for marks in matching.iter().filter(|m| m.bits.iter().any(|bits| *bits != 0)) {
        let index = searcher.segment_reader(marks.segment).inverted_index(field)?;
        let mut words = index.terms().range().ge(prefix.as_bytes()).into_stream()?;
        while let Some((word, info)) = words.next() {
            let Some(value) = word.strip_prefix(prefix.as_bytes()) else { break };
            let mut events = index.read_postings_from_terminfo(info, IndexRecordOption::Basic)?;
            let mut count = 0;
            while events.doc() != TERMINATED {
                count += u64::from(marks.has(events.doc()));
                events.advance();
            }
            if count > 0 {
                *counts.entry(String::from_utf8_lossy(value).into_owned()).or_default() += count;
            }
        }
    }
    Ok(counts)
}
