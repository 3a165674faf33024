//! One call of a tool over HTTP: answered as JSON, or as a stream of events where the client asks for one.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::RawPathParams,
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use berth_schemas::{Code, Problem};
use berth_store::model::Principal;
use berth_tools::{Answer, Call, Progress, Tool, Update};
use futures_util::{Stream, stream};
use http::{HeaderMap, header, request::Parts};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Shared,
    caller::Caller,
    input::Reader,
    problem::{self, Refusal},
};

/// Time in which a tool must answer when nobody follows; waits of up to 50 s are part of it.
const CALL_TIMEOUT: Duration = Duration::from_secs(90);

/// A tool with what its requests look like.
#[derive(Clone)]
pub struct Endpoint {
    control: Shared,
    index: usize,
    reader: Arc<Reader>,
}

impl Endpoint {
    /// The endpoint of the tool at `index` of the registry.
    #[must_use]
    pub fn new(control: Shared, index: usize, tool: &Tool) -> Self {
        Self { control, index, reader: Arc::new(Reader::new(tool)) }
    }

    /// Answers a request.
    pub async fn answer(self, path: RawPathParams, parts: Parts, body: Body) -> Response {
        match self.run(path, parts, body).await {
            Ok(response) => response,
            Err(problem) => Refusal::from(problem).into_response(),
        }
    }

    async fn run(self, path: RawPathParams, parts: Parts, body: Body) -> Result<Response, Problem> {
        let path: Vec<(String, String)> = path.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        let input = self.reader.read(&path, parts.uri.query(), &parts.headers, body).await?;
        let principal = parts.extensions.get::<Principal>().cloned().ok_or_else(|| {
            Problem::new(Code::Unauthenticated, "This needs a token, and the request carries none.")
        })?;
        let call = Call::new(Arc::clone(&self.control.context), principal).via(Caller::of(&parts).by_rest());
        if wants_events(&parts.headers) {
            return Ok(self.events(call, input));
        }
        let answer = tokio::time::timeout(CALL_TIMEOUT, self.call(call, input));
        let answer = answer.await.map_err(|_| {
            Problem::new(
                Code::TimedOut,
                format!("The daemon did not finish this within {} s.", CALL_TIMEOUT.as_secs()),
            )
            .hint("What was begun goes on; look at it with the matching get or list.")
        })??;
        Ok(Json(answer.output).into_response())
    }

    async fn call(&self, call: Call, input: Value) -> Result<Answer, Problem> {
        match self.control.registry.tools().get(self.index) {
            Some(tool) => tool.call(call, input).await,
            None => Err(Problem::new(Code::Internal, "The route has no tool.")),
        }
    }

    /// Runs the call beside the stream; it ends when the client hangs up or the daemon stops.
    fn events(self, call: Call, input: Value) -> Response {
        let (updates, told) = mpsc::channel::<Update>(64);
        let (finished, last) = mpsc::channel::<Event>(1);
        let shutdown = self.control.shutdown.clone();
        let task = tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = self.call(call.progress(Progress::following(updates)), input) => outcome,
                () = shutdown.cancelled() => Err(Problem::new(Code::Interrupted, "The daemon is stopping.")
                    .hint("What was begun goes on when it is back; ask again then.")),
            };
            let event = match outcome {
                Ok(answer) => event("result", &answer.output),
                Err(problem) => event("problem", &problem::document(&problem)),
            };
            let _ = finished.send(event).await;
        });
        let stream = follow(told, last, AbortOnDropHandle::new(task));
        let mut response =
            Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response();
        // Proxies in between must not collect events.
        response.headers_mut().insert("x-accel-buffering", header::HeaderValue::from_static("no"));
        response
    }
}

/// First everything told, then the outcome, then the end.
fn follow(
    told: mpsc::Receiver<Update>,
    last: mpsc::Receiver<Event>,
    task: AbortOnDropHandle<()>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(Some((told, last, task)), |state| async move {
        let (mut told, mut last, task) = state?;
        tokio::select! {
            // What was told before the outcome is in the channel before the outcome is.
            biased;
            Some(update) = told.recv() => Some((Ok(update_event(&update)), Some((told, last, task)))),
            outcome = last.recv() => {
                // A task that ended without an outcome panicked; its panic is in the log.
                let lost = || event("problem", &problem::document(&Problem::new(Code::Internal, "Berth made a mistake while working on this.")));
                Some((Ok(outcome.unwrap_or_else(lost)), None))
            }
        }
    })
}

/// An update's tag is the event's name, the rest its data.
fn update_event(update: &Update) -> Event {
    let mut data = serde_json::to_value(update).unwrap_or_default();
    let tag = data.as_object_mut().and_then(|d| d.remove("event"));
    event(tag.as_ref().and_then(Value::as_str).unwrap_or("message"), &data)
}

fn event(name: &str, data: &Value) -> Event {
    Event::default().event(name).data(data.to_string())
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    accept
        .split(',')
        .any(|t| t.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case("text/event-stream")))
}
