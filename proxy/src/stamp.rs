//! What every answer carries, whoever gives it: the request's id, and what its host's rules say of answers.

use std::sync::Arc;

use pingora::{http::ResponseHeader, protocols::http::ServerSession};

use crate::{
    forwarded::{X_REQUEST_ID, id_value},
    request_id::RequestId,
    rules::HostRules,
};

/// Marks the answers to one request.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    pub(crate) id: RequestId,
    pub(crate) tls: bool,
    pub(crate) rules: Option<Arc<HostRules>>,
}

impl Stamp {
    /// Marks an answer of the platform.
    pub(crate) fn mark(&self, head: &mut ResponseHeader) -> pingora::Result<()> {
        if let Some(hsts) = self.rules.as_ref().and_then(|rules| rules.hsts.as_ref()).filter(|_| self.tls) {
            head.insert_header(http::header::STRICT_TRANSPORT_SECURITY, hsts)?;
        }
        head.insert_header(X_REQUEST_ID, id_value(self.id))
    }

    /// Marks an answer of an app or a static release.
    pub(crate) fn mark_apps(&self, head: &mut ResponseHeader) -> pingora::Result<()> {
        if let Some(rules) = &self.rules
            && !head.status.is_informational()
        {
            rules.response_headers.apply_to_response(head)?;
        }
        self.mark(head)
    }

    /// Marks an answer of a static release, and sends its head.
    pub(crate) async fn send(
        &self,
        session: &mut ServerSession,
        mut head: ResponseHeader,
    ) -> pingora::Result<()> {
        self.mark_apps(&mut head)?;
        session.write_response_header(Box::new(head)).await
    }
}
