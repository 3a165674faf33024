//! What containers print, for whoever collects it.

use std::sync::Arc;

use berth_observe::{ContainerLogs, RawLine, SourceError};
use futures_util::{StreamExt, stream, stream::BoxStream};

use crate::docker::{ContainerId, Engine, LogOptions, OutputStream};

/// The output of an engine's containers.
pub struct EngineOutput(pub Arc<dyn Engine>);

impl ContainerLogs for EngineOutput {
    fn follow(&self, container: &str, since_nanos: i64) -> BoxStream<'static, Result<RawLine, SourceError>> {
        let id = match ContainerId::parse(container) {
            Ok(id) => id,
            Err(error) => return stream::iter([Err(SourceError(error.to_string()))]).boxed(),
        };
        // The engine gives what is later than the moment; the line of that very moment is wanted too.
        let since = (since_nanos > 0).then(|| since_nanos.saturating_sub(1));
        let options = LogOptions { since_nanos: since, follow: true, tail: None };
        self.0
            .logs(&id, options)
            .map(|line| match line {
                Ok(line) => Ok(RawLine {
                    at_nanos: line.at_nanos,
                    stream: match line.stream {
                        OutputStream::Stdout => berth_store::OutputStream::Stdout,
                        OutputStream::Stderr => berth_store::OutputStream::Stderr,
                    },
                    text: line.text,
                }),
                Err(error) => Err(SourceError(error.to_string())),
            })
            .boxed()
    }
}
