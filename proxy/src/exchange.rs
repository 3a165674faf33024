//! One request from its head to its record: what it holds, and what will be told about it.
//!
//! Everything is given back and told in [`Drop`] at the latest, because a request can end at any await: its
//! client leaves, its drain is over, the server stops.

use std::{sync::Arc, time::Instant};

use http::{StatusCode, header};
use pingora::{http::RequestHeader, proxy::Session};

use crate::{
    access::{self, AccessFault, AccessRecord, Protocol},
    connections::ConnectionState,
    forwarded::{Origin, TrustedPeers},
    gateway::Own,
    handle::{Shared, count},
    replica::ReplicaLease,
    request_id::RequestId,
    rules::HostRules,
    stamp::Stamp,
    target::{Backend, InFlight, ReleaseTarget},
    upstream::Upstream,
};

pub(crate) struct Exchange {
    shared: Arc<Shared>,
    connection: Arc<ConnectionState>,
    begun: Instant,
    pub(crate) origin: Origin,
    /// Of the host, once the request has met them.
    pub(crate) rules: Option<Arc<HostRules>>,
    /// Bytes of the body that went to the app in this try.
    body_sent: u64,
    /// Filled bit by bit; sent when the exchange ends.
    pub(crate) record: AccessRecord,
    recorded: bool,
    place: Option<InFlight>,
    replica: Option<ReplicaLease>,
    tries: usize,
    /// What is answered in the app's place, found on a retry.
    pub(crate) instead: Option<Own>,
    /// Whether the answer is counted on its target, and then whether as an error.
    counted: Option<bool>,
    /// Replicas that could not be reached.
    unreachable: Vec<Arc<str>>,
}

impl Exchange {
    pub(crate) fn begin(
        shared: Arc<Shared>,
        connection: Arc<ConnectionState>,
        request: &RequestHeader,
        trusted: &TrustedPeers,
    ) -> Self {
        let at_micros = berth_schemas::Timestamp::now().micros();
        let origin = Origin::of(connection.peer.ip(), connection.tls, &request.headers, trusted);
        let text = |name| {
            request
                .headers
                .get(name)
                .map_or_else(String::new, |value| access::cut(value.as_bytes(), access::HEADER_MAX))
        };
        let record = AccessRecord {
            at_micros,
            request_id: origin.request_id.unwrap_or_else(|| RequestId::new(at_micros)),
            method: request.method.clone(),
            path: access::cut(request.raw_path(), access::PATH_MAX),
            client_ip: origin.ip,
            protocol: if connection.http2 { Protocol::Http2 } else { Protocol::Http1 },
            tls: origin.tls,
            user_agent: text(header::USER_AGENT),
            referer: text(header::REFERER),
            ..AccessRecord::blank()
        };
        Self {
            shared,
            connection,
            begun: Instant::now(),
            origin,
            rules: None,
            body_sent: 0,
            record,
            recorded: false,
            place: None,
            replica: None,
            tries: 0,
            instead: None,
            counted: None,
            unreachable: Vec::new(),
        }
    }

    /// What its answer carries.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { id: self.record.request_id, tls: self.origin.tls, rules: self.rules.clone() }
    }

    /// Counts a piece of the body on its way to the app.
    ///
    /// # Errors
    /// The most that the host's rules allow, when it is more by now.
    pub(crate) fn count_body(&mut self, bytes: usize) -> Result<(), u64> {
        self.body_sent += bytes as u64;
        match self.rules.as_ref().and_then(|rules| rules.max_body) {
            Some(most) if self.body_sent > most && self.record.protocol != Protocol::WebSocket => Err(most),
            _ => Ok(()),
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.record.host
    }

    /// Counted in on a target.
    pub(crate) fn enter(&mut self, place: InFlight) {
        self.connection.set_target(place.target().generation());
        self.record.label = Some(Arc::clone(place.target().label()));
        self.place = Some(place);
    }

    /// Leaves its target, to be routed anew.
    pub(crate) fn leave(&mut self) {
        self.replica = None;
        self.place = None;
        self.unreachable.clear();
        self.connection.set_target(0);
    }

    pub(crate) fn target(&self) -> Option<&Arc<ReleaseTarget>> {
        self.place.as_ref().map(InFlight::target)
    }

    pub(crate) fn tries(&self) -> usize {
        self.tries
    }

    pub(crate) fn count_retry(&self) {
        count(&self.shared.counts.retries);
    }

    /// The connection to the replica can be used again.
    pub(crate) fn keep(&self, upstream: Box<Upstream>) {
        if let Some(replica) = &self.replica
            && !replica.is_removed()
            && self.target().is_some_and(|target| !target.is_removed())
        {
            replica.keep(upstream);
        }
    }

    pub(crate) fn connection(&self) -> &Arc<ConnectionState> {
        &self.connection
    }

    pub(crate) fn is_retry(&self) -> bool {
        self.tries > 0
    }

    /// The replica for the next try.
    pub(crate) fn next_replica(&mut self) -> Option<&ReplicaLease> {
        self.tries += 1;
        self.body_sent = 0;
        self.replica = None;
        let Backend::Containers(replicas) = self.place.as_ref()?.target().backend() else {
            return None;
        };
        self.replica = replicas.pick(&self.unreachable);
        if let Some(replica) = &self.replica {
            self.record.replica = Some(Arc::clone(replica.id()));
        }
        self.replica.as_ref()
    }

    pub(crate) fn connect_failed(&mut self) {
        if let Some(replica) = &self.replica {
            replica.unreachable();
            self.unreachable.push(Arc::clone(replica.id()));
        }
    }

    pub(crate) fn connected(&self) {
        if let Some(replica) = &self.replica {
            replica.reached();
        }
    }

    /// The app's response head is there.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.record.upstream_us.get_or_insert(self.begun.elapsed().as_micros() as u64);
        self.count_answer(status.is_server_error());
    }

    /// The app gave no answer, or not all of it. A WebSocket that broke was answered: with its upgrade.
    pub(crate) fn app_failed(&mut self) {
        if self.record.protocol != Protocol::WebSocket {
            self.count_answer(true);
        }
    }

    /// Counts the answer once, and at most once as an error.
    pub(crate) fn count_answer(&mut self, error: bool) {
        let Some(place) = &self.place else { return };
        let (counted, as_error) = self.counted.map_or((false, false), |error| (true, error));
        if !counted {
            place.target().count_answer();
        }
        if error && !as_error {
            place.target().count_server_error();
        }
        self.counted = Some(error || as_error);
    }

    pub(crate) fn upgraded(&mut self) {
        self.record.protocol = Protocol::WebSocket;
        self.connection.set_websocket();
    }

    /// The orderly end.
    pub(crate) fn end(mut self: Box<Self>, session: &Session) {
        self.record.status = session.response_written().map_or(0, |head| head.status.as_u16());
        self.record.bytes_in = session.body_bytes_read() as u64;
        self.record.bytes_out = session.body_bytes_sent() as u64;
        self.finish();
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.recorded, true) {
            return;
        }
        count(&self.shared.counts.requests);
        if self.connection.was_cut() {
            self.record.fault = Some(AccessFault::Cut);
        }
        if self.record.fault.is_some() {
            count(&self.shared.counts.faults);
        }
        self.record.duration_us = self.begun.elapsed().as_micros() as u64;
        self.shared.access.send(std::mem::replace(&mut self.record, AccessRecord::blank()));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.recorded {
            // Dropped in mid-flight, and not by a cut: the connection is gone.
            self.record.fault.get_or_insert(AccessFault::ClientGone);
        }
        self.finish();
        self.connection.request_over();
    }
}
