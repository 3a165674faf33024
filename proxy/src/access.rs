//! Access records: one per request, handed over without ever making a request wait.
//!
//! The sink is a bounded channel. When the reader falls behind, records are dropped and counted: losing a line
//! of statistics is better than slowing an app down, and the count says how much was lost.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;

use crate::{request_id::RequestId, target::ReleaseLabel};

/// Longest path (with query) that a record keeps, in bytes.
pub(crate) const PATH_MAX: usize = 2048;
/// Longest user agent and referer that a record keeps, in bytes.
pub(crate) const HEADER_MAX: usize = 512;

/// What was asked, what was answered, by whom and how fast.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// When the request's head had been read: microseconds of Unix time.
    pub at_micros: i64,
    /// The id that the app and the client got as `x-request-id`.
    pub request_id: RequestId,
    /// The method.
    pub method: http::Method,
    /// The host asked for: lower case, no port. Empty when it was refused as invalid.
    pub host: String,
    /// Path and query, cut to 2 KiB.
    pub path: String,
    /// The status the client got; 0 when the connection ended before any.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// From the request's head to the end of the response, in microseconds.
    pub duration_us: u64,
    /// From the request's head to the app's response head, in microseconds, if there was one.
    pub upstream_us: Option<u64>,
    /// Who asked: the peer, or whom a trusted peer named.
    pub client_ip: IpAddr,
    /// Protocol of the client's connection.
    pub protocol: Protocol,
    /// Whether the client came over TLS (here, or at a trusted peer).
    pub tls: bool,
    /// The release that answered, if the request was routed to one.
    pub label: Option<Arc<ReleaseLabel>>,
    /// The replica that answered last.
    pub replica: Option<Arc<str>>,
    /// What went wrong on the platform's side; `None` also for the app's own errors.
    pub fault: Option<AccessFault>,
    /// The client's user agent, cut to 512 bytes.
    pub user_agent: String,
    /// The referer, cut to 512 bytes.
    pub referer: String,
}

impl AccessRecord {
    /// Nothing is known yet. Allocates nothing.
    pub(crate) fn blank() -> Self {
        Self {
            at_micros: 0,
            request_id: RequestId::NIL,
            method: http::Method::GET,
            host: String::new(),
            path: String::new(),
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration_us: 0,
            upstream_us: None,
            client_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            protocol: Protocol::Http1,
            tls: false,
            label: None,
            replica: None,
            fault: None,
            user_agent: String::new(),
            referer: String::new(),
        }
    }
}

/// Protocol of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/1.1 upgraded to WebSocket.
    WebSocket,
}

/// Why the platform, not the app, answered or ended a request. The code is what `x-berth-error` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessFault {
    /// The request was ambiguous or malformed.
    BadRequest,
    /// No route for this host and path.
    NoSuchApp,
    /// The domain's rules do not let this address in.
    Forbidden,
    /// The address made more requests than the domain's rules allow.
    RateLimited,
    /// The domain's rules want a name and a password.
    LoginRequired,
    /// The body is longer than the domain's rules allow.
    BodyTooLarge,
    /// The app has no running release yet.
    Starting,
    /// Nothing was deployed to the app yet.
    NotDeployed,
    /// The app was stopped.
    Stopped,
    /// The app takes no requests for a moment, and this one could not wait for it.
    Paused,
    /// The app's owner has put up a maintenance page.
    Maintenance,
    /// No replica could be reached.
    Unhealthy,
    /// The app closed the connection or answered something that is no HTTP.
    NoAnswer,
    /// The app did not answer in time.
    Timeout,
    /// The client went away first.
    ClientGone,
    /// Ended at the deadline of a drain or a shutdown.
    Cut,
    /// A fault of the proxy itself.
    Internal,
}

impl AccessFault {
    /// The stable code, as `x-berth-error` and the JSON error body have it.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::NoSuchApp => "no_such_app",
            Self::Forbidden => "forbidden",
            Self::RateLimited => "rate_limited",
            Self::LoginRequired => "login_required",
            Self::BodyTooLarge => "body_too_large",
            Self::Starting => "app_starting",
            Self::NotDeployed => "app_not_deployed",
            Self::Stopped => "app_stopped",
            Self::Paused => "paused",
            Self::Maintenance => "maintenance",
            Self::Unhealthy => "app_unhealthy",
            Self::NoAnswer => "app_no_answer",
            Self::Timeout => "app_timeout",
            Self::ClientGone => "client_gone",
            Self::Cut => "cut",
            Self::Internal => "internal",
        }
    }
}

/// Where access records go.
#[derive(Debug, Clone)]
pub struct AccessSink {
    records: Option<mpsc::Sender<AccessRecord>>,
    dropped: Arc<AtomicU64>,
}

impl AccessSink {
    /// A sink that holds up to `capacity` records, and the end to read them from (`recv_many` reads in batches).
    #[must_use]
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<AccessRecord>) {
        let (records, reader) = mpsc::channel(capacity.max(1));
        (Self { records: Some(records), dropped: Arc::default() }, reader)
    }

    /// A sink for those who want no records.
    #[must_use]
    pub fn discard() -> Self {
        Self { records: None, dropped: Arc::default() }
    }

    /// Records lost because the reader was behind or gone.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn send(&self, record: AccessRecord) {
        if let Some(records) = &self.records
            && records.try_send(record).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Header bytes as text of at most `max` bytes; what is no UTF-8 is replaced.
pub(crate) fn cut(bytes: &[u8], max: usize) -> String {
    let bytes = &bytes[..bytes.len().min(max)];
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        // Cut inside a character: leave that character out.
        Err(error) if error.error_len().is_none() => {
            String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned()
        }
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_a_character() {
        assert_eq!(cut("aé".as_bytes(), 2), "a");
        assert_eq!(cut(b"a\xffb", 10), "a\u{fffd}b");
        assert_eq!(cut(b"abc", 2), "ab");
    }
}
