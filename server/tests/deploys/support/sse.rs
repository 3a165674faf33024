//! Server-sent events, read as they come.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use super::daemon::Berth;

/// One event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: Value,
}

/// A stream of events that has begun.
pub(crate) struct Events {
    bytes: std::pin::Pin<Box<dyn Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
}

impl Events {
    /// Sends a request that is answered with events.
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = request.header("accept", "text/event-stream").send().await.unwrap();
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { bytes: Box::pin(response.bytes_stream()), text: String::new() }
    }

    /// The next event; none at the end. Panics when none comes within `limit`.
    pub(crate) async fn next(&mut self, limit: Duration) -> Option<Event> {
        let read = async {
            loop {
                if let Some((head, rest)) = self.text.split_once("\n\n") {
                    let (head, rest) = (head.to_owned(), rest.to_owned());
                    self.text = rest;
                    match parse(&head) {
                        Some(event) => return Some(event),
                        None => continue,
                    }
                }
                let chunk = self.bytes.next().await?.unwrap();
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        };
        tokio::time::timeout(limit, read).await.unwrap_or_else(|_| panic!("no event within {limit:?}"))
    }

    /// All events until the end.
    pub(crate) async fn collect(mut self, limit: Duration) -> Vec<Event> {
        let mut all = Vec::new();
        while let Some(event) = self.next(limit).await {
            all.push(event);
        }
        all
    }
}

/// An event; none for a comment that keeps the connection open.
fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let data = field("data:")?;
    Some(Event {
        name: field("event:").unwrap_or("message").to_owned(),
        data: serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}")),
    })
}

impl Berth {
    /// Follows a GET route.
    pub(crate) async fn follow(&self, path: &str) -> Events {
        Events::of(self.request(Method::GET, path)).await
    }
}
