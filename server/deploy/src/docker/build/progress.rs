//! From BuildKit's status messages to build events. Pure: one value per build, fed with messages in order.
//!
//! BuildKit speaks of *vertexes* (steps) by digest, repeats a vertex each time something about it changes, and
//! sends output as byte chunks that end anywhere.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bollard::moby::buildkit::v1::{StatusResponse, Vertex};

use super::failure::FailedStep;
use super::redact::Redactor;
use super::{BuildEvent, StepId, StepState};
use crate::docker::engine::OutputStream;

/// Longest line; the rest of a longer one follows as further lines.
const MAX_LINE: usize = 16 << 10;
/// Lines of a step that are kept for its error.
const TAIL_LINES: usize = 40;
/// Steps of one build; a Dockerfile cannot have that many.
const MAX_STEPS: usize = 10_000;

pub(super) struct Progress {
    redactor: Redactor,
    steps: HashMap<String, Step>,
    failed: Option<String>,
}

struct Step {
    id: StepId,
    name: String,
    announced: Announced,
    error: Option<String>,
    /// Output after the last line end, for stdout and stderr.
    pending: [Vec<u8>; 2],
    tail: VecDeque<String>,
    /// Tenths already told, by what is transferred.
    transfers: HashMap<String, u64>,
}

#[derive(PartialEq, PartialOrd)]
enum Announced {
    Nothing,
    Start,
    End,
}

impl Progress {
    pub(super) fn new(redactor: Redactor) -> Self {
        Self { redactor, steps: HashMap::new(), failed: None }
    }

    /// The events that one message means.
    pub(super) fn apply(&mut self, status: StatusResponse) -> Vec<BuildEvent> {
        let mut events = Vec::new();
        // Output first: a vertex that completes in this message printed its last lines before that.
        let (open, ended): (Vec<_>, Vec<_>) =
            status.vertexes.into_iter().partition(|v| v.completed.is_none());
        for vertex in open {
            self.vertex(vertex, &mut events);
        }
        for log in status.logs {
            let stream = if log.stream == 2 { OutputStream::Stderr } else { OutputStream::Stdout };
            self.output(&log.vertex, stream, &log.msg, &mut events);
        }
        for moved in status.statuses {
            self.transfer(&moved.vertex, &moved.id, moved.current, moved.total, &mut events);
        }
        for vertex in ended {
            self.vertex(vertex, &mut events);
        }
        for warning in status.warnings {
            let text = String::from_utf8_lossy(&warning.short);
            events.push(BuildEvent::Warning { text: self.redactor.apply(&text).into_owned() });
        }
        events
    }

    /// The output that no line end followed.
    pub(super) fn finish(&mut self) -> Vec<BuildEvent> {
        let mut events = Vec::new();
        let digests: Vec<String> = self.steps.keys().cloned().collect();
        for digest in digests {
            self.flush(&digest, &mut events);
        }
        events
    }

    /// The step that failed first, with its last lines.
    pub(super) fn failed_step(&self) -> Option<FailedStep> {
        let step = self.steps.get(self.failed.as_ref()?)?;
        Some(FailedStep {
            name: step.name.clone(),
            error: step.error.clone().unwrap_or_default(),
            tail: step.tail.iter().cloned().collect(),
        })
    }

    /// Masks the values of secrets in a message.
    pub(super) fn redact(&self, text: &str) -> String {
        self.redactor.apply(text).into_owned()
    }

    fn vertex(&mut self, vertex: Vertex, events: &mut Vec<BuildEvent>) {
        if !self.steps.contains_key(&vertex.digest) {
            if self.steps.len() >= MAX_STEPS {
                return;
            }
            let id = StepId(u32::try_from(self.steps.len() + 1).unwrap_or(u32::MAX));
            let name = self.redactor.apply(&vertex.name).into_owned();
            self.steps.insert(vertex.digest.clone(), Step::new(id, name));
        }
        let ended = vertex.completed.is_some();
        if ended {
            self.flush(&vertex.digest, events);
        }
        let error = (!vertex.error.is_empty()).then(|| self.redactor.apply(&vertex.error).into_owned());
        let Some(step) = self.steps.get_mut(&vertex.digest) else { return };
        let has_started = vertex.started.is_some() && !vertex.cached;
        if has_started && step.announced < Announced::Start {
            step.announced = Announced::Start;
            events.push(step.event(StepState::Started, None));
        }
        if ended && step.announced < Announced::End {
            step.announced = Announced::End;
            let duration = match (&vertex.started, &vertex.completed) {
                (Some(from), Some(to)) => between((from.seconds, from.nanos), (to.seconds, to.nanos)),
                _ => None,
            };
            let state = match (error, vertex.cached) {
                (Some(error), _) => {
                    step.error = Some(error.clone());
                    // Steps that ran beside the failing one end as cancelled, in the same message or later.
                    if self.failed.is_none() && !error.contains("context canceled") {
                        self.failed = Some(vertex.digest);
                    }
                    StepState::Failed { error }
                }
                (None, true) => StepState::Cached,
                (None, false) => StepState::Done,
            };
            events.push(step.event(state, duration));
        }
    }

    fn output(&mut self, digest: &str, stream: OutputStream, bytes: &[u8], events: &mut Vec<BuildEvent>) {
        let Some(step) = self.steps.get_mut(digest) else { return };
        for &byte in bytes {
            let pending = &mut step.pending[slot(stream)];
            if byte == b'\n' || pending.len() >= MAX_LINE {
                emit_line(step, stream, &self.redactor, events);
            }
            if byte != b'\n' {
                step.pending[slot(stream)].push(byte);
            }
        }
    }

    fn flush(&mut self, digest: &str, events: &mut Vec<BuildEvent>) {
        let Some(step) = self.steps.get_mut(digest) else { return };
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            if !step.pending[slot(stream)].is_empty() {
                emit_line(step, stream, &self.redactor, events);
            }
        }
    }

    fn transfer(&mut self, digest: &str, what: &str, current: i64, total: i64, events: &mut Vec<BuildEvent>) {
        let Some(step) = self.steps.get_mut(digest) else { return };
        let (current, total) = (u64::try_from(current).unwrap_or(0), u64::try_from(total).unwrap_or(0));
        // Without a total, tell at every ten megabytes.
        let tenth = current.saturating_mul(10).checked_div(total).unwrap_or(current / 10_000_000);
        if step.transfers.get(what).is_some_and(|told| *told >= tenth) || (total == 0 && tenth == 0) {
            return;
        }
        if step.transfers.len() < MAX_STEPS {
            step.transfers.insert(what.to_owned(), tenth);
        }
        events.push(BuildEvent::Transfer { step: step.id, what: what.to_owned(), current, total });
    }
}

impl Step {
    fn new(id: StepId, name: String) -> Self {
        Self {
            id,
            name,
            announced: Announced::Nothing,
            error: None,
            pending: [Vec::new(), Vec::new()],
            tail: VecDeque::new(),
            transfers: HashMap::new(),
        }
    }

    fn event(&self, state: StepState, duration: Option<Duration>) -> BuildEvent {
        let internal = self.name.starts_with("[internal]") || !self.name.starts_with('[');
        BuildEvent::Step { step: self.id, name: self.name.clone(), internal, state, duration }
    }
}

fn slot(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

fn emit_line(step: &mut Step, stream: OutputStream, redactor: &Redactor, events: &mut Vec<BuildEvent>) {
    let bytes = std::mem::take(&mut step.pending[slot(stream)]);
    let line = String::from_utf8_lossy(&bytes);
    // A progress bar rewrites its line with carriage returns: what it shows last is the line.
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or(line);
    let text = redactor.apply(line).into_owned();
    if step.tail.len() == TAIL_LINES {
        step.tail.pop_front();
    }
    step.tail.push_back(text.clone());
    events.push(BuildEvent::Log { step: step.id, stream, text });
}

/// Time between two moments of seconds and nanoseconds.
fn between(from: (i64, i32), to: (i64, i32)) -> Option<Duration> {
    let nanos =
        (i128::from(to.0) - i128::from(from.0)) * 1_000_000_000 + i128::from(to.1) - i128::from(from.1);
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::super::BuildSecret;
    use super::*;
    use bollard::moby::buildkit::v1::VertexLog;

    fn progress() -> Progress {
        let secret = BuildSecret { id: "t".into(), value: b"s3cr3t-token".to_vec() };
        Progress::new(Redactor::new(&[secret]))
    }

    fn vertex(digest: &str, name: &str) -> Vertex {
        Vertex { digest: digest.into(), name: name.into(), ..Default::default() }
    }

    fn started(digest: &str, name: &str) -> Vertex {
        Vertex { started: Some(Default::default()), ..vertex(digest, name) }
    }

    fn ended(digest: &str, name: &str, seconds: i64, error: &str) -> Vertex {
        let mut vertex =
            Vertex { completed: Some(Default::default()), error: error.into(), ..started(digest, name) };
        if let Some(at) = &mut vertex.completed {
            at.seconds = seconds;
        }
        vertex
    }

    fn log(digest: &str, stream: i64, text: &str) -> VertexLog {
        VertexLog { vertex: digest.into(), stream, msg: text.as_bytes().to_vec(), ..Default::default() }
    }

    fn lines(events: &[BuildEvent]) -> Vec<&str> {
        events
            .iter()
            .filter_map(|e| match e {
                BuildEvent::Log { text, .. } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    fn status(vertexes: Vec<Vertex>, logs: Vec<VertexLog>) -> StatusResponse {
        StatusResponse { vertexes, logs, ..Default::default() }
    }

    #[test]
    fn a_step_is_announced_once_per_state_with_its_duration() {
        let mut progress = progress();
        let name = "[2/2] RUN npm ci";
        assert!(progress.apply(status(vec![vertex("a", name)], vec![])).is_empty());
        assert_eq!(progress.apply(status(vec![started("a", name)], vec![])).len(), 1);
        assert!(progress.apply(status(vec![started("a", name)], vec![])).is_empty());
        let events = progress.apply(status(vec![ended("a", name, 4, "")], vec![]));
        let [BuildEvent::Step { state: StepState::Done, duration, internal: false, .. }] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(*duration, Some(Duration::from_secs(4)));
    }

    #[test]
    fn output_is_cut_into_lines_wherever_the_chunks_end() {
        let mut progress = progress();
        progress.apply(status(vec![started("a", "[1/1] RUN x")], vec![]));
        let events = progress.apply(status(
            vec![],
            vec![
                log("a", 1, "one\ntw"),
                log("a", 2, "err"),
                log("a", 1, "o\r\nbar 1%\rbar 2%\n"),
                log("a", 1, "end"),
            ],
        ));
        assert_eq!(lines(&events), ["one", "two", "bar 2%"]);
        let events = progress.apply(status(vec![ended("a", "[1/1] RUN x", 1, "")], vec![]));
        assert_eq!(lines(&events), ["end", "err"]);
        assert!(matches!(events.last(), Some(BuildEvent::Step { .. })), "the end comes after the last line");
    }

    #[test]
    fn a_long_line_is_bounded() {
        let mut progress = progress();
        progress.apply(status(vec![started("a", "[1/1] RUN x")], vec![]));
        let events = progress.apply(status(vec![], vec![log("a", 1, &"x".repeat(MAX_LINE * 2 + 5))]));
        assert_eq!(lines(&events).iter().map(|l| l.len()).collect::<Vec<_>>(), [MAX_LINE, MAX_LINE]);
        assert_eq!(lines(&progress.finish()), ["xxxxx"]);
    }

    #[test]
    fn the_first_failure_is_the_failure_and_secrets_stay_hidden() {
        let mut progress = progress();
        progress.apply(status(vec![started("a", "[a 1/1] RUN x"), started("b", "[b 1/1] RUN y")], vec![]));
        progress.apply(status(vec![], vec![log("b", 2, "token s3cr3t-token refused\n")]));
        progress.apply(status(
            vec![
                ended("a", "[a 1/1] RUN x", 1, "context canceled"),
                ended("b", "[b 1/1] RUN y", 1, "exit code: 3"),
            ],
            vec![],
        ));
        let failed = progress.failed_step().unwrap();
        assert_eq!(failed.name, "[b 1/1] RUN y");
        assert_eq!(failed.tail, ["token *** refused"]);
    }
}
