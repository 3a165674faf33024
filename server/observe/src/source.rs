//! Where lines come from: a container's output, behind one trait, so that this crate knows no Docker.

use berth_store::OutputStream;
use futures_util::stream::BoxStream;

/// A line as a container printed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawLine {
    /// When, in nanoseconds since 1970, as the engine recorded it.
    pub at_nanos: i64,
    /// Where it was printed.
    pub stream: OutputStream,
    /// The text without its line end.
    pub text: String,
}

/// Why a container's output could not be read on.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the output of the container: {0}")]
pub struct SourceError(pub String);

/// Something that can read what containers print.
pub trait ContainerLogs: Send + Sync + 'static {
    /// Lines of a container in the order in which the engine kept them, beginning with those of
    /// `since_nanos` (0 for all that are kept) or somewhat earlier, and then new ones as they come. Ends
    /// when the container does.
    fn follow(&self, container: &str, since_nanos: i64) -> BoxStream<'static, Result<RawLine, SourceError>>;
}
